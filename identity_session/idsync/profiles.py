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


@dataclass(frozen=True, slots=True, repr=False)
class Profile:
    """All that is known about one user, as it was when it was read.

    `identities` holds every value by type, those of types outside the priority included: which types make up the
    identity record is the strategy's business.
    """

    mpid: int
    sequence: int
    """Counts up with every profile created."""
    identities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source_mpid: int | None = None
    """Profile link: the anonymous profile that this user was before. For inspection only."""

    def values(self, type_: str) -> tuple[str, ...]:
        return self.identities.get(type_, ())

    def holds(self, type_: str, value: str) -> bool:
        return value in self.values(type_)

    def __repr__(self) -> str:
        return f"<Profile with {', '.join(self.identities) or 'no identities'}>"


@dataclass(frozen=True, slots=True, repr=False)
class AliasRecord:
    """An accepted alias request; times are Unix milliseconds."""

    request_id: str | None
    source_mpid: int
    destination_mpid: int
    start_ms: int
    end_ms: int
    scope: str
    received_ms: int


class Transaction(Protocol):
    """What may be read and written within one transaction. Later reads see earlier writes."""

    def holders(self, type_: str, value: str) -> Sequence[Profile]:
        """The profiles that hold this identity."""
        ...

    def get(self, mpid: int) -> Profile | None:
        """The profile of this MPID."""
        ...

    def create(self, source_mpid: int | None = None) -> Profile:
        """A new profile without identities, under an MPID that no other has."""
        ...

    def add(self, mpid: int, type_: str, value: str) -> Profile:
        """Put an identity on a profile, unless it is there. Returns the profile as it is then."""
        ...

    def remove(self, mpid: int, type_: str, value: str) -> None:
        """Take an identity off a profile; nothing happens if it is not there."""
        ...

    def record_alias(self, alias: AliasRecord) -> None:
        """Note an accepted alias request."""
        ...

    def all(self) -> Sequence[Profile]:
        """Every profile in order of creation."""
        ...

    def aliases(self) -> Sequence[AliasRecord]:
        """Every accepted alias request in order of arrival."""
        ...

    def clear(self) -> None:
        """Forget all profiles and alias requests."""
        ...


class ProfileStore(Protocol):
    """Where profiles live. Transactions that share an identity run one after the other."""

    def transaction(self, identities: Iterable[Identity] = ()) -> AbstractContextManager[Transaction]:
        """Begin a transaction; an exception that leaves it undoes all it wrote.

        `identities` are those of the request, known before anything is read, so that a store which locks them one
        by one can do so in one order.
        """
        ...


class MemoryStore:
    """Profiles in memory, one transaction at a time. `draw_mpid` proposes MPIDs; those in use are drawn again."""

    def __init__(self, draw_mpid: Callable[[], int]) -> None:
        self._draw_mpid = draw_mpid
        self._lock = threading.Lock()
        self._profiles: dict[int, Profile] = {}
        self._holders: dict[Identity, dict[int, None]] = {}
        self._aliases: tuple[AliasRecord, ...] = ()
        self._created = 0
        self._undo: list[tuple[int, Profile | None]] = []

    @contextmanager
    def transaction(self, identities: Iterable[Identity] = ()) -> Iterator[Transaction]:
        with self._lock:
            aliases = self._aliases
            self._undo = []
            try:
                yield self
            except BaseException:
                for mpid, before in reversed(self._undo):
                    self._put(mpid, before)
                self._aliases = aliases
                raise

    def holders(self, type_: str, value: str) -> Sequence[Profile]:
        return [self._profiles[mpid] for mpid in self._holders.get((type_, value), ())]

    def get(self, mpid: int) -> Profile | None:
        return self._profiles.get(mpid)

    def create(self, source_mpid: int | None = None) -> Profile:
        mpid = self._draw_mpid()
        while mpid in self._profiles:
            mpid = self._draw_mpid()
        self._created += 1
        profile = Profile(mpid, self._created, source_mpid=source_mpid)
        self._write(mpid, profile)
        return profile

    def add(self, mpid: int, type_: str, value: str) -> Profile:
        profile = self._profiles[mpid]
        if not profile.holds(type_, value):
            self._write_values(profile, type_, (*profile.values(type_), value))
        return self._profiles[mpid]

    def remove(self, mpid: int, type_: str, value: str) -> None:
        profile = self._profiles[mpid]
        self._write_values(profile, type_, tuple(held for held in profile.values(type_) if held != value))

    def record_alias(self, alias: AliasRecord) -> None:
        self._aliases = (*self._aliases, alias)

    def all(self) -> Sequence[Profile]:
        return sorted(self._profiles.values(), key=lambda profile: profile.sequence)

    def aliases(self) -> Sequence[AliasRecord]:
        return self._aliases

    def clear(self) -> None:
        for mpid in list(self._profiles):
            self._write(mpid, None)
        self._aliases = ()

    def _write_values(self, profile: Profile, type_: str, values: tuple[str, ...]) -> None:
        identities = {**profile.identities, type_: values}
        kept = {name: held for name, held in identities.items() if held}
        self._write(profile.mpid, replace(profile, identities=kept))

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


def _pairs(profile: Profile | None) -> set[Identity]:
    return {(type_, value) for type_, values in profile.identities.items() for value in values} if profile else set()
