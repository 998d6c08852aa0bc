"""Profiles, the interface of every profile store, and the store in memory.

Sources: the pages "Store and Organize User Data" and "Aliasing" of the IDSync guide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

Identity = tuple[str, str]
"""Identity type and value. Values are compared exactly: no trimming, no case folding."""

CALLS_KEPT = 1_000
"""How many calls a store remembers: enough for a test run to look back on, and no burden to a service that runs on."""


@dataclass(frozen=True, slots=True, repr=False)
class Profile:
    """All that is known about one user, as it was when it was read.

    `identities` holds every value by type, those of types outside the priority included: which types make up the
    identity record is the strategy's business. A store gives the types in the order of their names, and the values
    of each in the order in which they came.
    """

    mpid: int
    sequence: int
    """Counts up with every profile created."""
    identities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source_mpid: int | None = None
    """Profile link: the anonymous profile that this user was before. For inspection only."""
    created_ms: int = 0
    last_seen_ms: int = 0
    """Unix milliseconds of the creation, and of the last call that wrote to this profile or returned it."""

    def values(self, type_: str) -> tuple[str, ...]:
        return self.identities.get(type_, ())

    def holds(self, type_: str, value: str) -> bool:
        return value in self.values(type_)

    def __repr__(self) -> str:
        return f"<Profile with {', '.join(self.identities) or 'no identities'}>"


@dataclass(frozen=True, slots=True, repr=False)
class AliasRecord:
    """An accepted alias request; times are Unix milliseconds.

    `number` counts up from 1 in order of arrival (0: not recorded yet), `state` is "pending", "done" or "failed",
    `reason` says why it failed.
    """

    request_id: str | None
    source_mpid: int
    destination_mpid: int
    start_ms: int
    end_ms: int
    scope: str
    received_ms: int
    number: int = 0
    state: str = "pending"
    reason: str | None = None
    processed_ms: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class CallRecord:
    """A call, for people who ask what was answered and why. Holds no identity values.

    `number` counts up from 1 (0: not recorded yet), `received_ms` is in Unix milliseconds, `created` says whether the
    call created the profile `mpid`, and `reasons` are the texts of the trail that led to the answer.
    """

    number: int
    received_ms: int
    endpoint: str
    status: int
    mpid: int | None
    created: bool
    reasons: tuple[str, ...]


class Transaction(Protocol):
    """What may be read and written within one transaction. Later reads see earlier writes."""

    def holders(self, type_: str, value: str) -> Sequence[Profile]:
        """The profiles that hold this identity, in order of creation."""
        ...

    def get(self, mpid: int) -> Profile | None:
        """The profile of this MPID."""
        ...

    def create(self, source_mpid: int | None = None, *, now_ms: int = 0, mpid: int | None = None) -> Profile:
        """A new profile without identities, created and last seen at `now_ms`, under an MPID that no other has.

        `mpid` chooses the MPID; raises ValueError if it is taken.
        """
        ...

    def put(self, profile: Profile) -> None:
        """Write a profile as it is, in place of the one of its MPID if there is one. Profiles created later follow it
        in the order of creation."""
        ...

    def seen(self, mpid: int, now_ms: int) -> None:
        """Note when a profile was last seen; nothing happens if there is none of this MPID."""
        ...

    def add(self, mpid: int, type_: str, value: str) -> Profile:
        """Put an identity on a profile, unless it is there. Returns the profile as it is then.

        Raises KeyError if there is no profile of this MPID.
        """
        ...

    def remove(self, mpid: int, type_: str, value: str) -> None:
        """Take an identity off a profile; nothing happens if it is not there."""
        ...

    def record_alias(self, alias: AliasRecord) -> AliasRecord:
        """Note an accepted alias request under the next number, and return it with that.

        A number of its own, above those noted before, is kept; a transaction that writes one names nothing.
        """
        ...

    def update_alias(self, alias: AliasRecord) -> None:
        """Replace the alias request of this number."""
        ...

    def record_call(self, call: CallRecord) -> CallRecord:
        """Note a call as `record_alias` notes an alias request. Only the latest 1,000 are kept."""
        ...

    def all(self) -> Sequence[Profile]:
        """Every profile in order of creation."""
        ...

    def aliases(self) -> Sequence[AliasRecord]:
        """Every accepted alias request in order of arrival."""
        ...

    def calls(self, last: int | None = None) -> Sequence[CallRecord]:
        """The calls that are kept, oldest first: all of them, or the last so many."""
        ...

    def clear(self) -> None:
        """Forget all profiles, alias requests and calls, and count from the beginning again. Only in a transaction
        that names nothing."""
        ...


class ProfileStore(Protocol):
    """Where profiles live. Transactions that share an identity or a profile run one after the other."""

    def transaction(
        self, identities: Iterable[Identity] = (), mpid: int | None = None
    ) -> AbstractContextManager[Transaction]:
        """Begin a transaction; an exception that leaves it undoes all it wrote.

        `identities` are all that the request names and `mpid` the profile that it names, known before anything is
        read, so that a store which locks them one by one can do so in one order. A transaction may change the
        profiles it names or creates and those that hold an identity it names; one that names nothing has the whole
        store to itself, and may change all.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections. What was written stays; the store can not be used any more."""
        ...


class MemoryStore:
    """Profiles in memory, one transaction at a time. `draw_mpid` proposes MPIDs; those in use are drawn again."""

    def __init__(self, draw_mpid: Callable[[], int]) -> None:
        self._draw_mpid = draw_mpid
        self._lock = threading.Lock()
        self._profiles: dict[int, Profile] = {}
        self._holders: dict[Identity, dict[int, None]] = {}
        self._aliases: tuple[AliasRecord, ...] = ()
        self._calls: list[CallRecord] = []
        self._last_sequence = 0
        self._undo: list[tuple[int, Profile | None]] = []

    @contextmanager
    def transaction(self, identities: Iterable[Identity] = (), mpid: int | None = None) -> Iterator[Transaction]:
        with self._lock:
            before = self._aliases, self._last_sequence, self._calls, len(self._calls)
            self._undo = []
            try:
                yield self
            except BaseException:
                for written, profile in reversed(self._undo):
                    self._put(written, profile)
                self._aliases, self._last_sequence, self._calls, count = before
                del self._calls[count:]
                raise
            # Not with every call: it is a copy.
            if len(self._calls) > 2 * CALLS_KEPT:
                self._calls = self._calls[-CALLS_KEPT:]

    def close(self) -> None:
        """Nothing is open."""

    def holders(self, type_: str, value: str) -> Sequence[Profile]:
        return _in_order(self._profiles[mpid] for mpid in self._holders.get((type_, value), ()))

    def get(self, mpid: int) -> Profile | None:
        return self._profiles.get(mpid)

    def create(self, source_mpid: int | None = None, *, now_ms: int = 0, mpid: int | None = None) -> Profile:
        if mpid in self._profiles:
            raise ValueError("a profile has this MPID already")
        while mpid is None or mpid in self._profiles:
            mpid = self._draw_mpid()
        profile = Profile(mpid, self._last_sequence + 1, {}, source_mpid, now_ms, now_ms)
        self.put(profile)
        return profile

    def put(self, profile: Profile) -> None:
        self._last_sequence = max(self._last_sequence, profile.sequence)
        self._write(profile.mpid, replace(profile, identities=_in_form(profile.identities)))

    def seen(self, mpid: int, now_ms: int) -> None:
        if mpid in self._profiles:
            self._write(mpid, replace(self._profiles[mpid], last_seen_ms=now_ms))

    def add(self, mpid: int, type_: str, value: str) -> Profile:
        profile = self._profiles[mpid]
        if not profile.holds(type_, value):
            self._write_values(profile, type_, (*profile.values(type_), value))
        return self._profiles[mpid]

    def remove(self, mpid: int, type_: str, value: str) -> None:
        profile = self._profiles.get(mpid)
        if profile and profile.holds(type_, value):
            self._write_values(profile, type_, tuple(held for held in profile.values(type_) if held != value))

    def record_alias(self, alias: AliasRecord) -> AliasRecord:
        alias = replace(alias, number=alias.number or _next_number(self._aliases))
        self._aliases = (*self._aliases, alias)
        return alias

    def update_alias(self, alias: AliasRecord) -> None:
        self._aliases = tuple(alias if each.number == alias.number else each for each in self._aliases)

    def record_call(self, call: CallRecord) -> CallRecord:
        call = replace(call, number=call.number or _next_number(self._calls))
        self._calls.append(call)
        return call

    def all(self) -> Sequence[Profile]:
        return _in_order(self._profiles.values())

    def aliases(self) -> Sequence[AliasRecord]:
        return self._aliases

    def calls(self, last: int | None = None) -> Sequence[CallRecord]:
        wanted = CALLS_KEPT if last is None else min(max(last, 0), CALLS_KEPT)
        return tuple(self._calls[max(len(self._calls) - wanted, 0) :])

    def clear(self) -> None:
        for mpid in list(self._profiles):
            self._write(mpid, None)
        self._aliases, self._calls, self._last_sequence = (), [], 0

    def _write_values(self, profile: Profile, type_: str, values: tuple[str, ...]) -> None:
        self._write(profile.mpid, replace(profile, identities=_in_form({**profile.identities, type_: values})))

    def _write(self, mpid: int, profile: Profile | None) -> None:
        self._undo.append((mpid, self._profiles.get(mpid)))
        self._put(mpid, profile)

    def _put(self, mpid: int, profile: Profile | None) -> None:
        """Every change goes through here, so that the index of holders always fits the profiles."""
        before, after = _pairs(self._profiles.pop(mpid, None)), _pairs(profile)
        for pair in before - after:
            del self._holders[pair][mpid]
            if not self._holders[pair]:
                del self._holders[pair]
        for pair in after - before:
            self._holders.setdefault(pair, {})[mpid] = None
        if profile is not None:
            self._profiles[mpid] = profile


def _next_number(records: Sequence[AliasRecord] | Sequence[CallRecord]) -> int:
    return records[-1].number + 1 if records else 1


def _in_order(profiles: Iterable[Profile]) -> list[Profile]:
    return sorted(profiles, key=lambda profile: (profile.sequence, profile.mpid))


def _in_form(identities: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {type_: tuple(identities[type_]) for type_ in sorted(identities) if identities[type_]}


def _pairs(profile: Profile | None) -> set[Identity]:
    return {(type_, value) for type_, values in profile.identities.items() for value in values} if profile else set()
