"""The connections of a session: no call waits for another, and what a call leaves half-done is not used again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import Any

import pytest
from servers import FRONTS, HOLD, Peer, RawServer, answers, http, opened, user_answer

from identity_session import AsyncIdentitySession, MemoryStorage
from identity_session.aioclock import to_its_end
from identity_session.clock import monotonic

LOGIN = {"userIdentities": {"email": "higgs@example.com"}}
USER = http(200, user_answer())
CANCELLATIONS = 600


def slow_answers(peer: Peer) -> None:
    """Answers each request after a moment."""
    while peer.request():
        peer.wait(0.003)
        peer.send(USER)


def test_calls_that_are_cancelled_anywhere_leave_a_session_whose_calls_work() -> None:
    """Also while an answer is being closed. No connection is left open that no call uses any more."""
    chance = random.Random(0)

    async def journey(url: str) -> list[int]:
        session = AsyncIdentitySession("us1-key", base_url=url, storage=MemoryStorage(), timeout=5, retry=None)
        codes = [(await session.start()).http_code]
        began = monotonic()
        codes.append((await session.login(LOGIN)).http_code)
        usual_seconds = monotonic() - began
        for _ in range(CANCELLATIONS):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(session.login(LOGIN), chance.uniform(0.5, 1.5) * usual_seconds)
        codes.append((await session.login(LOGIN)).http_code)
        await session.close()
        return codes

    with RawServer(slow_answers) as server:
        assert asyncio.run(journey(server.url)) == [200] * 3
        server.wait_for_quiet()


@FRONTS
def test_no_call_waits_for_another(front: str) -> None:
    """Whatever number of searches hangs: a login is sent at once."""
    number = 30

    def handler(peer: Peer) -> None:
        request = peer.request()
        while request:
            if request.target.endswith("/search"):
                peer.hold()
                return
            peer.send(USER)
            request = peer.request()

    with RawServer(handler) as server:
        codes: list[int] = []
        if front == "sync":
            with opened(front, base_url=server.url, timeout=3, retry=None) as driven:
                searches = [threading.Thread(target=driven.search, args=({"email": "a"},)) for _ in range(number)]
                for search in searches:
                    search.start()
                server.wait_for_requests(number)
                codes.append(driven.login(LOGIN).http_code)
                assert all(search.is_alive() for search in searches)
                for search in searches:
                    search.join(30)
        else:

            async def journey() -> None:
                options: dict[str, Any] = {"timeout": 3, "retry": None, "storage": MemoryStorage()}
                session = AsyncIdentitySession("us1-key", base_url=server.url, **options)
                searches = [asyncio.create_task(session.search({"email": "a"})) for _ in range(number)]
                await asyncio.to_thread(server.wait_for_requests, number)
                codes.append((await session.login(LOGIN)).http_code)
                assert not any(search.done() for search in searches)
                await asyncio.gather(*searches)
                await session.close()

            asyncio.run(journey())
        assert codes == [200]


@FRONTS
def test_calls_one_after_the_other_share_a_connection(front: str) -> None:
    with RawServer(answers(USER)) as server, opened(front, base_url=server.url) as driven:
        for _ in range(3):
            assert driven.login(LOGIN).http_code == 200
        assert server.connections == 1


@FRONTS
def test_a_connection_whose_call_was_given_up_is_not_used_again(front: str) -> None:
    with (
        RawServer([HOLD], answers(USER)) as server,
        opened(front, base_url=server.url, retry=None, timeout=1.5) as driven,
    ):
        codes = [driven.login(LOGIN).http_code for _ in range(2)]
        assert codes == [-1, 200]
        assert server.connections == 2


def test_who_is_cancelled_again_and_again_still_waits_for_the_end() -> None:
    async def journey() -> list[str]:
        ended: list[str] = []

        async def work() -> None:
            await asyncio.sleep(0.05)
            ended.append("work")

        async def wait() -> None:
            try:
                await to_its_end(asyncio.ensure_future(work()))
            finally:
                ended.append("wait")

        waiting = asyncio.create_task(wait())
        for _ in range(3):
            await asyncio.sleep(0.005)
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return ended

    assert asyncio.run(journey()) == ["work", "wait"]
