"""What the trail costs: the same calls with it and without it, in turns, as a ratio.

Run it with `python tests/benchmarks/trail_cost.py`. Absolute times say more about the machine than about the trail, so
only their ratio is of interest. Without the trail is `trail=False`: a reporter of empty methods.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable

from identity_session.exchange import Call
from identity_session.idsync import IdentityStrategy, LocalIDSync
from identity_session.idsync.profiles import MemoryStore
from identity_session.idsync.resolver import decide
from identity_session.idsync.trail import SILENT, Trail

ROUNDS, CALLS = 40, 250
IDENTITIES = {"customerid": "A", "email": "ed", "other": "o", "ios_idfv": "1", "device_application_stamp": "d"}
STRATEGY = "profile_conversion"


def service(trail: bool, database: str = ":memory:") -> Callable[[], None]:
    """Whole calls: bytes in, bytes out, the record of the call included."""
    idsync = LocalIDSync(database, IdentityStrategy(STRATEGY, trail=trail), seed=1)
    body = json.dumps({"environment": "production", "known_identities": IDENTITIES}).encode()
    return lambda: _discard(idsync.handle("POST", "/v1/identify", {"x-mp-key": "k"}, body))


def resolver(trail: bool) -> Callable[[], None]:
    """The decision alone."""
    strategy, store = IdentityStrategy(STRATEGY), MemoryStore(iter(range(1, 9)).__next__)
    with store.transaction() as profiles:
        mpid = profiles.create().mpid
        for type_, value in IDENTITIES.items():
            profiles.add(mpid, type_, value)
    reporter = (lambda: Trail()) if trail else (lambda: SILENT)
    return lambda: _discard(decide(strategy, Call.IDENTIFY, IDENTITIES, None, store, reporter()))


def ratio(make: Callable[[bool], Callable[[], None]]) -> float:
    """The median over the rounds; both ways take turns, so that a busy machine disturbs both alike."""
    ways = make(True), make(False)
    ratios = []
    for _ in range(ROUNDS):
        seconds = [_timed(way) for way in ways]
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return time.perf_counter() - started


def _discard(_: object) -> None:
    pass


if __name__ == "__main__":
    print("with the trail to without it:")
    print(f"  a call in memory   {ratio(service):.3f}")
    with tempfile.TemporaryDirectory() as folder:
        print(f"  a call on SQLite   {ratio(lambda trail: service(trail, f'{folder}/{trail}.db')):.3f}")
    print(f"  a decision alone   {ratio(resolver):.3f}")
