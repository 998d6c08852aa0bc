"""`LocalIDSync`: the service in this process, and all that people and tests may do with it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from identity_session import clock
from identity_session.exchange import Call

from . import aliases, transfer
from .clocks import AdjustableClock
from .identity_types import KNOWN_TYPES
from .profiles import WAIT_SECONDS, Profile, Transaction
from .requests import NamedCall, is_storable, parse_mpid
from .service import Served, Service
from .stores import open_store
from .strategies import IdentityStrategy
from .transports import AsyncLocalTransport, LocalTransport

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class LocalIDSync:
    """An IDSync service of one's own.

    `database` is ":memory:", the path of an SQLite file (text, or an object such as `pathlib.Path`), or the URL of a
    PostgreSQL database; `strategy` the name of a preset or an IdentityStrategy; `api_keys` maps key to secret: None
    takes those of the strategy, and if there are none any key, without checking signatures. `seed` makes the MPIDs the
    same in every run; `now_ms` is the clock in Unix milliseconds. Raises ValueError for a database or strategy that is
    not supported. May be used from several threads at once.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] = ":memory:",
        strategy: str | IdentityStrategy = "default",
        api_keys: Mapping[str, str] | None = None,
        *,
        seed: int | None = None,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        self._strategy = strategy if isinstance(strategy, IdentityStrategy) else IdentityStrategy(strategy)
        self._clock = AdjustableClock(now_ms)
        self._store = open_store(database, mpid_drawer(seed))
        api_keys = self._strategy.api_keys if api_keys is None else api_keys
        self._service = Service(self._store, self._strategy, api_keys, now_ms=self._clock)
        self._transport = LocalTransport(self._service)
        self._async_transport = AsyncLocalTransport(self._service, in_thread=os.fspath(database) != ":memory:")

    @property
    def transport(self) -> LocalTransport:
        """For `IdentitySession(transport=...)` and `httpx.Client(transport=...)`."""
        return self._transport

    @property
    def async_transport(self) -> AsyncLocalTransport:
        """For `AsyncIdentitySession(transport=...)` and `httpx.AsyncClient(transport=...)`."""
        return self._async_transport

    @cached_property
    def app(self) -> ASGIApp:
        """The service as an ASGI application, for any server; `/emulator` is closed to other machines.

        Raises ImportError without the extra `server`.
        """
        from .app import create_app

        return create_app(self)

    @property
    def strategy(self) -> IdentityStrategy:
        """The strategy and settings in force."""
        return self._strategy

    def config(self) -> dict[str, Any]:
        """The strategy and the settings in force, by name, without keys and secrets."""
        shown = [each.name for each in fields(self._strategy) if each.repr]
        return {name: getattr(self._strategy, name) for name in shown}

    def handle(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float = WAIT_SECONDS,
        root: str = "",
    ) -> Served:
        """Answer one request, for servers: `target` is the path with its query, as sent. It never raises.

        `seconds` is how long it may wait for a database that is not free, 8 at most; then the answer is a 500. `root`
        is the beginning of the path that leads to this service. Do then what it says: wait, and send the answer or
        close the connection.
        """
        return self._service.handle(method, target, headers, body, seconds, root)

    def explain(self, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What this call with this body would come to, and why; nothing is written or recorded.

        The body of a modify names the profile as `mpid`. Keys, faults and limits have no part in it. Raises
        ValueError for a call that does not exist.
        """
        if call not in tuple(Call):
            raise ValueError(f"unknown call; known: {', '.join(Call)}")
        if not isinstance(body, Mapping):
            raise ValueError("the body of a call is an object")
        argument = str(body.get("mpid")) if call == Call.MODIFY else None
        return self._service.explain(NamedCall(Call(call), argument, {}), body)

    def calls(self) -> list[dict[str, Any]]:
        """The latest calls, newest last, each with the reasons for its answer. Status 0: it got no answer."""
        with self._store.transaction() as profiles:
            return [transfer.described_call(call) for call in profiles.calls()]

    def set_faults(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """Put these faults in the place of all there were; none at all ends the trouble.

        Each has an `endpoint` (the name of a call, or "*"), for so many `times` or for good, and one of `status`
        (with `retry_after` in seconds), `latency_ms`, `drop` ("before" or "after"), `garbage` or `html`. Raises
        ValueError that says what is wrong; then nothing is changed.
        """
        self._service.faults.replace(faults)

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force, each with the `times` that are left."""
        return self._service.faults.described()

    def set_clock(self, fixed_ms: int | None = None, shift_ms: int | None = None) -> None:
        """Stop the service's clock at a moment, or shift it; without either it is the real one again.

        Raises ValueError for both at once, and for a clock that would leave the years 1970 to 9999.
        """
        self._clock.set(fixed_ms, shift_ms)

    def clock(self) -> dict[str, int | None]:
        """What the clock shows as `now_ms`, and its `fixed_ms` or `shift_ms`."""
        return self._clock.described()

    def now_ms(self) -> int:
        """The service's clock in Unix milliseconds."""
        return self._clock()

    def seed_profile(self, identities: Mapping[str, str | Sequence[str]], mpid: str | int | None = None) -> str:
        """Create a profile with these identities, exactly as given: no merging, no guard of unique values.

        Each type has one value or a list of values; `mpid` chooses the MPID. Returns the MPID; raises ValueError for
        an unknown type, a value that is not text or cannot be stored, and an MPID that is none or is taken.
        """
        pairs = _pairs(identities)
        chosen = parse_mpid(mpid)
        if chosen is None and mpid is not None:
            raise ValueError("an MPID is a whole number of 64 bits with a sign, and not 0")
        with self._store.transaction(pairs, chosen) as profiles:
            created = profiles.create(now_ms=self._clock(), mpid=chosen).mpid
            for type_, value in pairs:
                profiles.add(created, type_, value)
        return str(created)

    def profiles(self) -> list[dict[str, Any]]:
        """Every profile in order of creation, orphans included.

        `identities` is the identity record; `other_identities` holds the types outside the priority, by which nobody
        is found. `source_mpid` is the anonymous profile a known one comes from under profile link, else None.
        `notes` tells of aliases that were carried out.
        """
        return self._look(lambda profiles: profiles.all())

    def profile(self, mpid: str | int) -> dict[str, Any] | None:
        """One profile, described as in `profiles`; None if there is none of this MPID."""
        number = parse_mpid(mpid)
        if number is None:
            return None
        return next(iter(self._look(lambda profiles: [profiles.get(number)])), None)

    def holders(self, identity_type: str, value: str) -> list[dict[str, Any]]:
        """The profiles that hold an identity, in order of creation, each described as in `profiles`."""
        if not is_storable(value):
            return []
        return self._look(lambda profiles: profiles.holders(identity_type, value))

    def delete_profile(self, mpid: str | int) -> bool:
        """Forget one profile: its MPID is unknown then, and its values are free. Says whether there was one."""
        number = parse_mpid(mpid)
        if number is None:
            return False
        with self._store.transaction() as profiles:
            aliases.process(profiles, self._clock(), due_only=True)
            return profiles.delete(number)

    def aliases(self) -> list[dict[str, Any]]:
        """Every accepted alias request in order of arrival, with its `state` and the `reason` if it failed."""
        with self._store.transaction() as profiles:
            aliases.process(profiles, self._clock(), due_only=True)
            return [transfer.described_alias(alias) for alias in profiles.aliases()]

    def process_aliases(self, *, due_only: bool = False) -> list[dict[str, Any]]:
        """Process alias requests now: all that are pending, or only those that have waited for their 24 hours.

        Returns the requests that were processed. Those due are processed by themselves before anybody looks.
        """
        with self._store.transaction() as profiles:
            settled = aliases.process(profiles, self._clock(), due_only=due_only)
        return [transfer.described_alias(alias) for alias in settled]

    def export_state(self) -> dict[str, Any]:
        """Everything as JSON: profiles, alias requests and calls. Faults, settings and the clock are left out."""
        with self._store.transaction() as profiles:
            return transfer.export_state(profiles)

    def import_state(self, state: Mapping[str, Any]) -> None:
        """Put an exported state in the place of everything. Raises ValueError for one that cannot be read; then
        nothing is changed."""
        checked = transfer.read_state(state)
        with self._store.transaction() as profiles:
            transfer.import_state(checked, profiles)

    def reset(self) -> None:
        """Forget all profiles, alias requests and calls. Faults and the clock stay as they are."""
        with self._store.transaction() as profiles:
            profiles.clear()

    def close(self) -> None:
        """Let go of the database. Calls that come later fail."""
        self._store.close()

    def __repr__(self) -> str:
        return f"<LocalIDSync, strategy {self._strategy.strategy!r}>"

    def _look(self, at: Callable[[Transaction], Iterable[Profile | None]]) -> list[dict[str, Any]]:
        """Describe profiles, as they are once what is due was done: alias requests processed, unseen ones deleted."""
        now_ms = self._clock()
        before_ms = self._strategy.unseen_before_ms(now_ms)
        with self._store.transaction() as profiles:
            aliases.process(profiles, now_ms, due_only=True)
            if before_ms is not None:
                profiles.delete_unseen(before_ms)
            notes = aliases.notes(profiles.aliases())
            return [self._described(profile, notes.get(profile.mpid, [])) for profile in at(profiles) if profile]

    def _described(self, profile: Profile, notes: list[str]) -> dict[str, Any]:
        priority = self._strategy.priority
        return {
            "mpid": str(profile.mpid),
            "identities": {type_: list(profile.values(type_)) for type_ in priority if profile.values(type_)},
            "other_identities": {
                type_: list(values) for type_, values in profile.identities.items() if type_ not in priority
            },
            "source_mpid": None if profile.source_mpid is None else str(profile.source_mpid),
            "first_seen_ms": profile.created_ms,
            "last_seen_ms": profile.last_seen_ms,
            "notes": notes,
        }


def _pairs(identities: Mapping[str, str | Sequence[str]]) -> list[tuple[str, str]]:
    """Each type with each of its values. Raises ValueError."""
    if not isinstance(identities, Mapping):
        raise ValueError("identities map each type to its value or values")
    pairs = []
    for type_, given in identities.items():
        if type_ not in KNOWN_TYPES:
            # Not named: who takes type for value has given a value here.
            raise ValueError(f"there is an unknown identity type; known: {', '.join(sorted(KNOWN_TYPES))}")
        values = [given] if isinstance(given, str) else given
        if not isinstance(values, (list, tuple)):
            raise ValueError(f"a value of {type_!r} is no text that can be stored")
        pairs += [(type_, value) for value in values]
    for type_, value in pairs:
        if not isinstance(value, str) or not value or not is_storable(value):
            raise ValueError(f"a value of {type_!r} is no text that can be stored")
    return pairs


def mpid_drawer(seed: int | None) -> Callable[[], int]:
    """Draws MPIDs uniformly from the signed 64-bit numbers but 0, which means "no user yet" in the SDKs."""
    # Not a secret: an MPID is a name, and tests want the same ones again.
    source = random.Random(seed)  # noqa: S311

    def draw() -> int:
        return source.randrange(-(2**63), 2**63 - 1) or 2**63 - 1

    return draw
