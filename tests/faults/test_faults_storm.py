"""A service that refuses fifty clients at once, and gets well again."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from servers import FRONTS, user_answer
from steady import assert_within, steady

from identity_session import AsyncIdentitySession, IdentitySession, MemoryStorage, RetryPolicy
from identity_session.clock import monotonic
from identity_session.testing.faults import Peer, RawServer, http

CLIENTS = 50
PATIENCE_SECONDS = 30.0
CLOSE = 0
"""In place of a status: the connection is closed without an answer."""


@dataclass(frozen=True)
class Attempt:
    """One request and its answer; seconds on the clock of deadlines."""

    call: str
    arrived: float
    answered: float
    status: int


class Storm:
    """A service that answers each client with these statuses in turn, from another place in the row for each; then,
    if it gets well, with 200. It knows clients by their customerid.

    With `lasts_seconds` it gets well this long after the first request, but nobody's first attempt succeeds.
    """

    def __init__(self, *statuses: int, lasts_seconds: float = 0, retry_after: str | None = None) -> None:
        self.attempts: dict[str, list[Attempt]] = defaultdict(list)
        self._statuses = statuses
        self._lasts_seconds = lasts_seconds
        self._retry_after = retry_after
        self._began: float | None = None

    def __call__(self, peer: Peer) -> None:
        while request := peer.request():
            arrived = monotonic()
            self._began = self._began or arrived
            client = request.json["known_identities"]["customerid"]
            status = self._status(int(client) + len(self.attempts[client]), len(self.attempts[client]))
            attempt = Attempt(request.target.removeprefix("/v1/"), arrived, monotonic(), status)
            self.attempts[client].append(attempt)
            if status == CLOSE:
                return
            retry_after = self._retry_after if status in (429, 503) else None
            peer.send(http(status, user_answer(f"1{client}"), retry_after=retry_after))

    def _status(self, number: int, attempt: int) -> int:
        is_over = attempt > 0 and self._is_calm() if self._lasts_seconds else attempt >= len(self._statuses)
        return 200 if is_over else self._statuses[number % len(self._statuses)]

    def _is_calm(self) -> bool:
        return self._began is not None and monotonic() > self._began + self._lasts_seconds

    def gaps(self, after: Sequence[int]) -> list[float]:
        """How long clients waited after an answer with one of these statuses, at least."""
        pairs = [pair for attempts in self.attempts.values() for pair in itertools.pairwise(attempts)]
        return [second.arrived - first.answered for first, second in pairs if first.status in after]


def weather(front: str, storm: Storm, call: str = "login", **settings: Any) -> list[int]:
    """The code of each client's call; all call at the same moment."""
    settings |= {"storage": None, "timeout": PATIENCE_SECONDS}

    def made(session_type: Any, server: RawServer) -> Any:
        return session_type("key", base_url=server.url, **{**settings, "storage": MemoryStorage()})

    def identities(client: int) -> dict[str, Any]:
        return {"userIdentities": {"customerid": str(client)}}

    with RawServer(storm) as server:
        if front == "sync":
            codes: list[int] = []
            together = threading.Barrier(CLIENTS, timeout=PATIENCE_SECONDS)

            def work(client: int) -> None:
                session = made(IdentitySession, server)
                together.wait()
                codes.append(getattr(session, call)(identities(client)).http_code)
                session.close()

            threads = [threading.Thread(target=work, args=(client,), daemon=True) for client in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_SECONDS)
                assert not thread.is_alive()
            return codes

        async def task(client: int) -> int:
            session = made(AsyncIdentitySession, server)
            code = (await getattr(session, call)(identities(client))).http_code
            await session.close()
            return code

        async def tasks() -> list[int]:
            return await asyncio.gather(*map(task, range(CLIENTS)))

        return asyncio.run(tasks())


@FRONTS
def test_when_the_storm_is_over_everyone_has_an_answer(front: str) -> None:
    policy = RetryPolicy(attempts=40, initial_seconds=0.05, max_seconds=0.2)
    storm = Storm(503, 429, 500, lasts_seconds=1.0, retry_after="0.1")
    assert weather(front, storm, retry=policy) == [200] * CLIENTS
    numbers = [len(attempts) for attempts in storm.attempts.values()]
    assert len(numbers) == CLIENTS
    assert 2 <= min(numbers) <= max(numbers) < policy.attempts
    assert min(storm.gaps(after=[429, 503])) >= 0.1, "what the service asked for was waited for"


@FRONTS
@pytest.mark.parametrize("policy", [RetryPolicy(), RetryPolicy(attempts=3, initial_seconds=0.02), None])
def test_in_a_storm_that_does_not_end_attempts_stay_within_the_policy(front: str, policy: RetryPolicy | None) -> None:
    storm = Storm(503, 429, 500, CLOSE, lasts_seconds=1000)
    attempts = policy.attempts if policy else 1
    codes = weather(front, storm, retry=policy)
    assert {len(made) for made in storm.attempts.values()} == {attempts}
    last = sorted(made[-1].status or -1 for made in storm.attempts.values())
    assert sorted(codes) == last, "the last answer counts"


@FRONTS
@steady
def test_those_who_were_refused_together_do_not_come_back_together(front: str) -> None:
    """Of 50 waits, each drawn from 1.5 seconds, at least 15 differ by 10 ms and 5 are shorter than half of that, but
    for once in many millions of runs; without jitter each would be the whole."""
    storm = Storm(503)
    assert weather(front, storm, retry=RetryPolicy(initial_seconds=1.5)) == [200] * CLIENTS
    gaps = storm.gaps(after=[503])
    assert len(gaps) == CLIENTS
    assert_within(sorted(gaps)[4], 0.75)
    assert len({int(gap * 100) for gap in gaps}) >= 15


@FRONTS
def test_in_a_storm_no_logout_that_may_have_arrived_is_sent_again(front: str) -> None:
    """A 429 and a 503 say that nothing was done; everything else ends the matter."""
    storm = Storm(503, 500, 429, CLOSE, 502)
    codes = weather(front, storm, "logout", retry=RetryPolicy(attempts=6, initial_seconds=0.01))
    for made in storm.attempts.values():
        assert {attempt.call for attempt in made} == {"logout"}
        assert [attempt.status in (429, 503) for attempt in made] == [True] * (len(made) - 1) + [False]
    assert sorted(codes) == sorted(made[-1].status or -1 for made in storm.attempts.values())
