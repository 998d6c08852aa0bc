"""The connections of a session: when one is made, used again, and closed, and what many calls at once do."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from raw_journeys import EMAIL, KEY, LOGIN, USER
from servers import FRONTS, HOLD, Peer, RawServer, answers, http, opened

from identity_session import AsyncIdentitySession, HTTPCodes, IdentitySession, MemoryStorage, network
from identity_session.clock import pause


@FRONTS
def test_a_connection_that_the_server_closed_between_two_calls_does_no_harm_to_a_logout(front: str) -> None:
    with RawServer([USER], answers(USER)) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        server.wait_for_quiet()
        assert driven.logout().http_code == 200
        assert (server.connections, len(server.requests)) == (2, 2)


@FRONTS
def test_a_connection_that_was_unused_for_long_is_not_used_again(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router may have dropped it without a word."""
    monkeypatch.setattr(network, "KEEP_SECONDS", 0.05)
    with RawServer(answers(USER)) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        assert driven.login(LOGIN).http_code == 200
        before = server.connections
        pause(0.1)
        assert driven.login(LOGIN).http_code == 200
        assert server.connections == before + 1


@FRONTS
def test_a_connection_that_dies_under_a_logout_gives_a_clear_code_and_no_second_logout(front: str) -> None:
    def answer_once(peer: Peer) -> None:
        peer.request()
        peer.send(USER)
        peer.request()

    with RawServer(answer_once, answers(USER)) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        result = driven.logout()
        assert result.http_code == -1
        assert result.body.startswith("no answer from the service")
        assert server.targets == ["/v1/identify", "/v1/logout"]
        assert driven.logout().http_code == 200


@FRONTS
def test_an_answer_that_was_not_read_to_its_end_does_not_leak_into_the_next_one(front: str) -> None:
    big = http(400, {"x": "y" * (2 << 20)})
    with RawServer(answers(big, USER)) as server, opened(front, base_url=server.url) as driven:
        assert driven.login(LOGIN).http_code == 400
        assert driven.login(LOGIN).http_code == 400  # a connection of its own, so the first answer again
        assert server.connections == 2


@FRONTS
def test_closing_a_session_closes_its_connections(front: str) -> None:
    gone = threading.Event()

    def handler(peer: Peer) -> None:
        answers(USER)(peer)
        gone.set()

    with RawServer(handler) as server:
        with opened(front, base_url=server.url) as driven:
            driven.start()
            assert not gone.is_set()
        assert gone.wait(5)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_one_asynchronous_session_may_be_used_in_one_event_loop_after_the_other() -> None:
    with RawServer(answers(USER)) as server:
        session = AsyncIdentitySession(KEY, storage=MemoryStorage(), base_url=server.url)
        assert asyncio.run(session.start()).http_code == 200
        assert asyncio.run(session.login(LOGIN)).http_code == 200
        assert asyncio.run(session.logout()).http_code == 200
        asyncio.run(session.close())
        assert len(server.requests) == 3
    # A connection cannot be closed any more once its loop is; the garbage collector does it, and says so: here.
    del session
    gc.collect()


def test_many_searches_at_once_are_all_answered() -> None:
    found: list[int] = []
    with RawServer(answers(http(404))) as server, opened("sync", base_url=server.url) as driven:
        threads = [
            threading.Thread(target=lambda: found.append(driven.search({"email": EMAIL}).http_code)) for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [404] * 30
        assert len(server.requests) == 30


def test_a_second_call_while_one_is_on_the_network_is_refused_and_sends_nothing() -> None:
    release = threading.Event()

    def handler(peer: Peer) -> None:
        peer.request()
        release.wait(5)
        peer.send(USER)

    with RawServer(handler) as server, opened("sync", base_url=server.url) as driven:
        codes: list[int] = []
        first = threading.Thread(target=lambda: codes.append(driven.login(LOGIN).http_code))
        first.start()
        server.wait_for_requests(1)
        assert driven.logout().http_code == HTTPCodes.ACTIVE_IDENTITY_REQUEST
        release.set()
        first.join()
        assert codes == [200]
        assert len(server.requests) == 1


def test_a_cancelled_call_ends_at_once_and_the_next_one_works() -> None:
    async def cancel_one() -> None:
        session = AsyncIdentitySession(KEY, storage=MemoryStorage(), base_url=server.url)
        call = asyncio.ensure_future(session.login(LOGIN))
        await asyncio.to_thread(server.wait_for_requests, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await session.login(LOGIN)).http_code == 200
        await session.close()

    with RawServer([HOLD], answers(USER)) as server:
        asyncio.run(cancel_one())
        assert server.connections == 2


@pytest.mark.parametrize("session_type", [IdentitySession, AsyncIdentitySession])
def test_making_a_session_opens_no_connection(session_type: Callable[..., Any]) -> None:
    with RawServer(answers(USER)) as server:
        session = session_type(KEY, storage=MemoryStorage(), base_url=server.url)
        assert session.mpid is None
        assert server.connections == 0
