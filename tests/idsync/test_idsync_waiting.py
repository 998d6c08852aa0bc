"""How long anybody waits for a store that is not free: as long as its caller has, and eight seconds at most."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_serving import PATIENCE_SECONDS, serving
from idsync_driver import KEY
from steady import SLACK_SECONDS, assert_within, steady
from store_helpers import opened

from identity_session.exchange import HTTPAnswer, HTTPRequest, SendError
from identity_session.idsync import IdentityStrategy, LocalIDSync, app, service

BODY = b'{"environment":"production","known_identities":{"email":"ed"}}'
REFUSED = b'{"environment":"production","known_identities":{"nonsense":"ed"}}'
URL = "https://identity.mparticle.com/v1/identify"
SECONDS = 0.5
SEVERAL = 12
"""More than a pool has connections, or an event loop of a small machine has threads."""


def request(body: bytes = BODY) -> HTTPRequest:
    return HTTPRequest(URL, "/v1/identify", KEY, body, None)


def by_session(idsync: LocalIDSync, seconds: float = SECONDS) -> HTTPAnswer:
    return idsync.transport.send(request(), seconds)


def by_async_session(idsync: LocalIDSync, seconds: float = SECONDS) -> HTTPAnswer:
    return asyncio.run(idsync.async_transport.asend(request(), seconds))


def by_httpx(idsync: LocalIDSync, seconds: float = SECONDS) -> httpx.Response:
    with httpx.Client(transport=idsync.transport, timeout=seconds) as client:
        return client.post(URL, content=BODY, headers=KEY)


def by_async_httpx(idsync: LocalIDSync, seconds: float = SECONDS) -> httpx.Response:
    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=idsync.async_transport, timeout=seconds) as client:
            return await client.post(URL, content=BODY, headers=KEY)

    return asyncio.run(post())


@contextmanager
def held(database: str) -> Iterator[None]:
    """Somebody else has the whole store to himself."""
    with opened(database) as other, other.transaction() as profiles:
        assert not profiles.all()
        yield


@pytest.fixture
def idsync(shared_database: str) -> Iterator[LocalIDSync]:
    idsync = LocalIDSync(shared_database)
    yield idsync
    idsync.close()


def assert_in_time(began: float) -> None:
    seconds = time.monotonic() - began
    assert seconds >= SECONDS
    assert_within(seconds, SECONDS + SLACK_SECONDS)


@pytest.mark.parametrize(
    ("ask", "failure"),
    [
        (by_session, SendError),
        (by_async_session, SendError),
        (by_httpx, httpx.ReadTimeout),
        (by_async_httpx, httpx.ReadTimeout),
    ],
)
@steady
def test_a_call_is_back_by_its_deadline(
    idsync: LocalIDSync, shared_database: str, ask: Callable[..., Any], failure: type[Exception]
) -> None:
    """With what a lost answer gives; nothing was done, and the next call finds the store free."""
    with held(shared_database):
        began = time.monotonic()
        with pytest.raises(failure) as caught:
            ask(idsync)
        assert_in_time(began)
        assert getattr(caught.value, "sent", True) is True
    assert idsync.profiles() == []
    ask(idsync, PATIENCE_SECONDS)
    idsync.reset()


@steady
def test_a_refused_call_is_as_well(idsync: LocalIDSync, shared_database: str) -> None:
    """It is only to be recorded."""
    with held(shared_database):
        began = time.monotonic()
        with pytest.raises(SendError):
            idsync.transport.send(request(REFUSED), SECONDS)
        assert_in_time(began)


@steady
def test_what_needs_no_store_is_answered_without_its_record(shared_database: str) -> None:
    """A refusal and a fault that was ordered are what they are; nobody waits for long, however much time he has."""
    with closing(LocalIDSync(shared_database, IdentityStrategy(key_rate_per_s=1e-3))) as idsync:
        assert by_session(idsync, PATIENCE_SECONDS).status == 200
        idsync.reset()

        def status(headers: dict[str, str], seconds: float) -> int | None:
            answer = idsync.handle("POST", "/v1/identify", headers, BODY, seconds).answer
            return answer and answer.status

        with held(shared_database):
            began = time.monotonic()
            assert [status({}, 0.2), status(KEY, 0.2)] == [401, 429]
            idsync.set_faults([{"endpoint": "identify", "status": 503}])
            assert status(KEY, PATIENCE_SECONDS) == 503
            assert_within(time.monotonic() - began, 2.0)
        assert idsync.calls() == []


@steady
def test_so_is_a_call_that_looks_for_unseen_profiles(shared_database: str) -> None:
    """Before it does what it was asked for."""
    with closing(LocalIDSync(shared_database, IdentityStrategy(retention_days=1))) as idsync, held(shared_database):
        began = time.monotonic()
        with pytest.raises(SendError):
            by_session(idsync)
        assert_in_time(began)


@steady
def test_several_do_not_wait_one_after_the_other(shared_database: str) -> None:
    """For a lock of the process or a free connection first, and then for the database."""
    failed: list[float] = []
    with opened(shared_database) as store, held(shared_database):

        def wait() -> None:
            with pytest.raises(store.errors), store.transaction([("email", "a")], seconds=SECONDS) as profiles:
                profiles.all()
            failed.append(time.monotonic() - began)

        began = time.monotonic()
        threads = [threading.Thread(target=wait) for _ in range(SEVERAL)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(failed) == SEVERAL
    assert_within(max(failed), 1.5 * SECONDS)


@steady
def test_the_process_itself_may_be_in_the_way(database: str) -> None:
    """With as many transactions as it can have at once, however long they take."""
    at_once = 10 if database.startswith("postgresql:") else 1
    with opened(database) as store, ExitStack() as stack:
        for number in range(at_once):
            stack.enter_context(store.transaction([("email", str(number))]))
        began = time.monotonic()
        with pytest.raises(store.errors), store.transaction([("email", "a")], seconds=SECONDS) as profiles:
            profiles.all()
        assert_in_time(began)


@steady
def test_profiles_in_memory_are_waited_for_no_longer() -> None:
    """While somebody reads all of many; the call is not recorded, which would be a second wait."""
    idsync = LocalIDSync()
    with idsync._store.transaction():
        began = time.monotonic()
        with pytest.raises(SendError):
            by_session(idsync)
        assert_in_time(began)
    by_session(idsync)
    assert [call["status"] for call in idsync.calls()] == [200]


@steady
def test_several_in_an_event_loop_do_not_either(idsync: LocalIDSync, shared_database: str) -> None:
    """Even while others, who have more time, wait already."""

    async def ask() -> None:
        patient = [asyncio.create_task(idsync.async_transport.asend(request(), 5 * SECONDS)) for _ in range(SEVERAL)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        hurried = [idsync.async_transport.asend(request(), SECONDS) for _ in range(SEVERAL)]
        told = await asyncio.gather(*hurried, return_exceptions=True)
        seconds = time.monotonic() - began
        await asyncio.gather(*patient, return_exceptions=True)  # whoever still waits when the store is free writes
        assert [type(each) for each in told] == [SendError] * SEVERAL
        assert_within(seconds, 1.5 * SECONDS)

    with held(shared_database):
        asyncio.run(ask())


def test_nobody_waits_longer_than_the_limit(
    idsync: LocalIDSync, shared_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has more time hears of it: a 500."""
    monkeypatch.setattr(service, "WAIT_SECONDS", 0.2)
    with held(shared_database):
        assert idsync.transport.send(request(), 60.0).status == 500
        with httpx.Client(transport=idsync.transport, timeout=None) as client:
            assert client.post(URL, content=BODY, headers=KEY).status_code == 500


@steady
def test_many_requests_to_a_server_wait_no_longer_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those included for whom there was no thread at first; what needs no store is answered meanwhile."""
    monkeypatch.setattr(app, "WAIT_SECONDS", 2.0)
    database = str(tmp_path / "profiles.db")
    with closing(LocalIDSync(database)) as idsync, serving(idsync) as served, held(database):
        statuses: list[int] = []
        began = time.monotonic()
        threads = [
            threading.Thread(target=lambda: statuses.append(served.post("/v1/identify", BODY).status))
            for _ in range(45)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert [served.emulator("GET", each).status for each in ("health", "config", "faults", "clock")] == [200] * 4
        seconds = time.monotonic() - began
        for thread in threads:  # whoever still waits when the store is free writes
            thread.join()
        seconds_of_all = time.monotonic() - began
    assert statuses == [500] * 45
    assert_within(seconds, 1.5)
    assert_within(seconds_of_all, 3.5)
