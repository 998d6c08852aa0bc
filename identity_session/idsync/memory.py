"""Profiles in memory, for as long as the process lives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from .profiles import CALLS_KEPT, WAIT_SECONDS, AliasRecord, CallRecord, Identity, Profile, Transaction


class BusyError(Exception):
    """Others have the store for longer than a transaction may wait."""


class MemoryStore:
    """Profiles in memory, one transaction at a time. `draw_mpid` proposes MPIDs; those in use are drawn again."""

    errors: tuple[type[Exception], ...] = (BusyError,)

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
    def transaction(
        self, identities: Iterable[Identity] = (), mpid: int | None = None, seconds: float = WAIT_SECONDS
    ) -> Iterator[Transaction]:
        # To read or write all of a large store takes longer than some may wait.
        if not self._lock.acquire(timeout=max(seconds, 0)):
            raise BusyError("the store is busy")
        try:
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
        finally:
            self._lock.release()

    def close(self) -> None:
        """Nothing is open."""

    def holders(self, type_: str, value: str, without: Collection[str] = ()) -> Sequence[Profile]:
        left_out = frozenset(without)
        return _in_order(each for each in self._held(type_, value) if left_out.isdisjoint(each.identities))

    def holder_mpids(self, type_: str, value: str, *, before_ms: int | None = None) -> Sequence[int]:
        held = self._held(type_, value)
        return [each.mpid for each in _in_order(held) if before_ms is None or each.last_seen_ms < before_ms]

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

    def delete(self, mpid: int) -> bool:
        if mpid not in self._profiles:
            return False
        self._write(mpid, None)
        return True

    def delete_unseen(self, before_ms: int) -> None:
        for profile in [each for each in self._profiles.values() if each.last_seen_ms < before_ms]:
            self.delete(profile.mpid)

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

    def calls(self) -> Sequence[CallRecord]:
        return tuple(self._calls[-CALLS_KEPT:])

    def clear(self) -> None:
        for mpid in list(self._profiles):
            self._write(mpid, None)
        self._aliases, self._calls, self._last_sequence = (), [], 0

    def _held(self, type_: str, value: str) -> Iterator[Profile]:
        return (self._profiles[mpid] for mpid in self._holders.get((type_, value), ()))

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
