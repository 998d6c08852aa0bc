"""What the stores on a database share: the statements, each with its purpose, and a transaction made of them.

Written once in the SQL that SQLite and PostgreSQL both read. Values only ever travel as parameters, `:name`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any, Literal

from .profiles import CALLS_KEPT, AliasRecord, CallRecord, Profile
from .trail import Fact, Step, from_named, named, reasons

Table = Literal["idsync_profile", "idsync_alias", "idsync_call"]
"""A table whose rows are counted by `number`."""

# The identities of a profile lie beside it: one row each, `added` in the order in which they came.
_PROFILES = """
SELECT profile.mpid, profile.number, profile.source_mpid, profile.created_ms, profile.last_seen_ms,
       identity.type, identity.value
FROM idsync_profile AS profile LEFT JOIN idsync_identity AS identity ON identity.mpid = profile.mpid
"""
_IN_ORDER = " ORDER BY profile.number, profile.mpid, identity.type, identity.added"

# Every profile, with its identities.
ALL_PROFILES = _PROFILES + _IN_ORDER

# The profile of an MPID.
GET_PROFILE = _PROFILES + "WHERE profile.mpid = :mpid" + _IN_ORDER

# Profiles that hold an identity. The hash finds it: an index of PostgreSQL refuses values of more than 2.7 KB.
_HELD = "SELECT mpid FROM idsync_identity AS held WHERE hash = :hash AND type = :type AND value = :value"
_THAT_HOLD = "WHERE profile.mpid IN (" + _HELD + ")"
HOLDERS = _PROFILES + _THAT_HOLD + _IN_ORDER

# Those of them that hold nothing of some types, which are parameters that `holders` counts. Of those who share a device
# nearly all are left out, and that before they are joined with all that they hold.
_WITHOUT = """
AND NOT EXISTS (SELECT 1 FROM idsync_identity AS barring WHERE barring.mpid = held.mpid AND barring.type IN ({}))
"""
HOLDERS_WITHOUT = _PROFILES + "WHERE profile.mpid IN (" + _HELD + _WITHOUT + ")" + _IN_ORDER

# The MPIDs of profiles that hold an identity; of those that were last seen before a moment.
_MPIDS = "SELECT profile.mpid FROM idsync_profile AS profile "
HOLDER_MPIDS = _MPIDS + _THAT_HOLD + " ORDER BY number, mpid"
UNSEEN_HOLDER_MPIDS = _MPIDS + _THAT_HOLD + " AND last_seen_ms < :before_ms ORDER BY number, mpid"

# A new profile, unless its MPID is taken.
INSERT_PROFILE = """
INSERT INTO idsync_profile (mpid, number, source_mpid, created_ms, last_seen_ms)
VALUES (:mpid, :number, :source_mpid, :created_ms, :last_seen_ms)
ON CONFLICT (mpid) DO NOTHING
"""

# A profile in place of the one of its MPID, if there is one.
PUT_PROFILE = """
INSERT INTO idsync_profile (mpid, number, source_mpid, created_ms, last_seen_ms)
VALUES (:mpid, :number, :source_mpid, :created_ms, :last_seen_ms)
ON CONFLICT (mpid) DO UPDATE SET number = excluded.number, source_mpid = excluded.source_mpid,
    created_ms = excluded.created_ms, last_seen_ms = excluded.last_seen_ms
"""

# A call returned or changed this profile.
SEE_PROFILE = "UPDATE idsync_profile SET last_seen_ms = :now_ms WHERE mpid = :mpid"

# Put an identity on a profile, unless it is there.
ADD_IDENTITY = """
INSERT INTO idsync_identity (mpid, hash, type, value)
SELECT mpid, :hash, :type, :value FROM idsync_profile WHERE mpid = :mpid AND NOT EXISTS
    (SELECT 1 FROM idsync_identity WHERE hash = :hash AND mpid = :mpid AND type = :type AND value = :value)
"""

# Take an identity off a profile.
REMOVE_IDENTITY = """
DELETE FROM idsync_identity WHERE hash = :hash AND mpid = :mpid AND type = :type AND value = :value
"""

# Take all identities off a profile.
REMOVE_IDENTITIES = "DELETE FROM idsync_identity WHERE mpid = :mpid"

# Forget a profile, once its identities are gone.
DELETE_PROFILE = "DELETE FROM idsync_profile WHERE mpid = :mpid"

# Forget the profiles that were last seen before a moment; identities refer to profiles.
DELETE_UNSEEN = (
    """
    DELETE FROM idsync_identity WHERE mpid IN (SELECT mpid FROM idsync_profile WHERE last_seen_ms < :before_ms)
    """,
    "DELETE FROM idsync_profile WHERE last_seen_ms < :before_ms",
)

# Note an alias request.
INSERT_ALIAS = """
INSERT INTO idsync_alias (number, request_id, source_mpid, destination_mpid, start_ms, end_ms, scope, received_ms,
                          state, reason, processed_ms)
VALUES (:number, :request_id, :source_mpid, :destination_mpid, :start_ms, :end_ms, :scope, :received_ms,
        :state, :reason, :processed_ms)
"""

# Replace an alias request.
UPDATE_ALIAS = """
UPDATE idsync_alias SET request_id = :request_id, source_mpid = :source_mpid, destination_mpid = :destination_mpid,
    start_ms = :start_ms, end_ms = :end_ms, scope = :scope, received_ms = :received_ms, state = :state,
    reason = :reason, processed_ms = :processed_ms
WHERE number = :number
"""

# Every alias request, the columns in the order of AliasRecord.
ALL_ALIASES = """
SELECT request_id, source_mpid, destination_mpid, start_ms, end_ms, scope, received_ms, number, state, reason,
       processed_ms
FROM idsync_alias ORDER BY number
"""

# Note a call.
INSERT_CALL = """
INSERT INTO idsync_call (number, received_ms, endpoint, status, mpid, created, trail)
VALUES (:number, :received_ms, :endpoint, :status, :mpid, :created, :trail)
"""

# The calls that are kept, the latest first, the columns in the order of CallRecord.
LATEST_CALLS = """
SELECT number, received_ms, endpoint, status, mpid, created, trail
FROM idsync_call ORDER BY number DESC LIMIT :kept
"""

# The number of the latest call that is not kept.
LAST_CALL_NOT_KEPT = "SELECT number FROM idsync_call ORDER BY number DESC LIMIT 1 OFFSET :kept"

# Forget calls up to a number.
DELETE_CALLS = "DELETE FROM idsync_call WHERE number <= :number"

# Forget everything, a table at a time; identities refer to profiles.
CLEAR = (
    "DELETE FROM idsync_identity",
    "DELETE FROM idsync_profile",
    "DELETE FROM idsync_alias",
    "DELETE FROM idsync_call",
)

_compact = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

# To look for calls that are not kept costs more than to note one, so that only every so many calls do it.
_SWEEP_EVERY = 100


def identity_hash(type_: str, value: str) -> int:
    """A signed 64-bit number for an identity, the same in every process."""
    digest = hashlib.blake2b(f"{type_}\0{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


class SQLTransaction(ABC):
    """The transaction of both databases. They differ in how a statement is run and how rows are numbered."""

    def __init__(self, draw_mpid: Callable[[], int]) -> None:
        self._draw_mpid = draw_mpid

    @abstractmethod
    def execute(self, statement: str, values: Mapping[str, Any]) -> None:
        """Run a statement with its parameters."""

    @abstractmethod
    def rows(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement and read what it gives."""

    @abstractmethod
    def changes(self, statement: str, values: Mapping[str, Any]) -> int:
        """Run a statement and say how many rows it changed."""

    @abstractmethod
    def next_number(self, table: Table) -> int:
        """A number above all others in a table."""

    @abstractmethod
    def reached(self, table: Table, number: int) -> None:
        """A row with a number of its own was written: later numbers must be above it."""

    def forget_calls(self, number: int) -> None:
        """Forget the calls up to a number."""
        self.execute(DELETE_CALLS, {"number": number})

    def holders(self, type_: str, value: str, without: Collection[str] = ()) -> Sequence[Profile]:
        barring = {f"type_{number}": each for number, each in enumerate(without)}
        statement = HOLDERS_WITHOUT.format(", ".join(f":{name}" for name in barring)) if barring else HOLDERS
        return _profiles(self.rows(statement, {**_identity(type_, value), **barring}))

    def holder_mpids(self, type_: str, value: str, *, before_ms: int | None = None) -> Sequence[int]:
        statement = HOLDER_MPIDS if before_ms is None else UNSEEN_HOLDER_MPIDS
        return [mpid for (mpid,) in self.rows(statement, {**_identity(type_, value), "before_ms": before_ms})]

    def get(self, mpid: int) -> Profile | None:
        return next(iter(_profiles(self.rows(GET_PROFILE, {"mpid": mpid}))), None)

    def create(self, source_mpid: int | None = None, *, now_ms: int = 0, mpid: int | None = None) -> Profile:
        sequence = self.next_number("idsync_profile")
        while True:
            drawn = self._draw_mpid() if mpid is None else mpid
            profile = Profile(drawn, sequence, {}, source_mpid, now_ms, now_ms)
            if self.changes(INSERT_PROFILE, _row(profile)):
                return profile
            if mpid is not None:
                raise ValueError("a profile has this MPID already")

    def put(self, profile: Profile) -> None:
        self.execute(PUT_PROFILE, _row(profile))
        self.execute(REMOVE_IDENTITIES, {"mpid": profile.mpid})
        for type_, values in profile.identities.items():
            for value in values:
                self.execute(ADD_IDENTITY, {"mpid": profile.mpid, **_identity(type_, value)})
        self.reached("idsync_profile", profile.sequence)

    def seen(self, mpid: int, now_ms: int) -> None:
        self.execute(SEE_PROFILE, {"mpid": mpid, "now_ms": now_ms})

    def delete(self, mpid: int) -> bool:
        self.execute(REMOVE_IDENTITIES, {"mpid": mpid})
        return self.changes(DELETE_PROFILE, {"mpid": mpid}) > 0

    def delete_unseen(self, before_ms: int) -> None:
        for statement in DELETE_UNSEEN:
            self.execute(statement, {"before_ms": before_ms})

    def add(self, mpid: int, type_: str, value: str) -> Profile:
        self.execute(ADD_IDENTITY, {"mpid": mpid, **_identity(type_, value)})
        profile = self.get(mpid)
        if profile is None:
            raise KeyError(mpid)
        return profile

    def remove(self, mpid: int, type_: str, value: str) -> None:
        self.execute(REMOVE_IDENTITY, {"mpid": mpid, **_identity(type_, value)})

    def record_alias(self, alias: AliasRecord) -> AliasRecord:
        alias = replace(alias, number=self._number("idsync_alias", alias.number))
        self.execute(INSERT_ALIAS, asdict(alias))
        return alias

    def update_alias(self, alias: AliasRecord) -> None:
        self.execute(UPDATE_ALIAS, asdict(alias))

    def record_call(self, call: CallRecord) -> CallRecord:
        call = replace(call, number=self._number("idsync_call", call.number))
        self.execute(INSERT_CALL, _call_row(call))
        if call.number % _SWEEP_EVERY == 0:
            for (number,) in self.rows(LAST_CALL_NOT_KEPT, {"kept": CALLS_KEPT}):
                self.forget_calls(number)
        return call

    def all(self) -> Sequence[Profile]:
        return _profiles(self.rows(ALL_PROFILES, {}))

    def aliases(self) -> Sequence[AliasRecord]:
        return tuple(AliasRecord(*row) for row in self.rows(ALL_ALIASES, {}))

    def calls(self) -> Sequence[CallRecord]:
        rows = self.rows(LATEST_CALLS, {"kept": CALLS_KEPT})
        return tuple(
            CallRecord(number, received_ms, endpoint, status, mpid, bool(created), _trail(trail))
            for number, received_ms, endpoint, status, mpid, created, trail in reversed(rows)
        )

    def clear(self) -> None:
        for statement in CLEAR:
            self.execute(statement, {})

    def _number(self, table: Table, given: int) -> int:
        if not given:
            return self.next_number(table)
        self.reached(table, given)
        return given


def _row(profile: Profile) -> Mapping[str, Any]:
    return {
        "mpid": profile.mpid,
        "number": profile.sequence,
        "source_mpid": profile.source_mpid,
        "created_ms": profile.created_ms,
        "last_seen_ms": profile.last_seen_ms,
    }


def _call_row(call: CallRecord) -> Mapping[str, Any]:
    return {
        "number": call.number,
        "received_ms": call.received_ms,
        "endpoint": call.endpoint,
        "status": call.status,
        "mpid": call.mpid,
        "created": call.created,
        "trail": _compact(named(call.trail)),
    }


def _trail(stored: str) -> tuple[Fact, ...]:
    """The trail of a call. If it cannot be told, whatever is wrong with it, only that is."""
    try:
        trail = from_named(json.loads(stored))
        reasons(trail)
    except Exception:
        return ((Step.DAMAGED,),)
    return trail


def _identity(type_: str, value: str) -> Mapping[str, Any]:
    return {"hash": identity_hash(type_, value), "type": type_, "value": value}


def _profiles(rows: Iterable[tuple[Any, ...]]) -> list[Profile]:
    """Profiles from rows of one identity each, those of a profile together."""
    profiles = []
    for (mpid, sequence, *rest), group in groupby(rows, key=lambda row: row[:5]):
        identities: dict[str, tuple[str, ...]] = {}
        for *_, type_, value in group:
            if type_ is not None:
                identities[type_] = (*identities.get(type_, ()), value)
        profiles.append(Profile(mpid, sequence, identities, *rest))
    return profiles
