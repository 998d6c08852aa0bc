"""What the tests of the stores share: opening one, and reading all that is in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from identity_session.idsync.choices import Choice
from identity_session.idsync.profiles import AliasRecord, CallRecord, Profile, ProfileStore
from identity_session.idsync.stores import open_store
from identity_session.idsync.trail import Step

ALIAS = AliasRecord("request", 1, 2, 0, 10, "device", 20)
CALL = CallRecord(
    0, 20, "identify", 200, -5, True, ((Step.FOUND, "email", (-5, 7)), (Choice.TIE,), (Step.ADDED, -5, ()))
)


def counter(first: int = 1) -> Callable[[], int]:
    return itertools.count(first).__next__


@contextmanager
def opened(database: str, draw_mpid: Callable[[], int] | None = None) -> Iterator[ProfileStore]:
    store = open_store(database, draw_mpid or counter())
    try:
        yield store
    finally:
        store.close()


def contents(store: ProfileStore) -> tuple[list[Profile], list[AliasRecord], list[CallRecord]]:
    """All that a store holds. Its counters may skip numbers, so rows are numbered anew, in their order."""
    with store.transaction() as profiles:
        read, aliases, calls = profiles.all(), profiles.aliases(), profiles.calls()
    for numbers in ([p.sequence for p in read], [a.number for a in aliases], [c.number for c in calls]):
        assert numbers == sorted(numbers)
    return (
        [replace(profile, sequence=place) for place, profile in enumerate(read)],
        [replace(alias, number=place) for place, alias in enumerate(aliases)],
        [replace(call, number=place) for place, call in enumerate(calls)],
    )
