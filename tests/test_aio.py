"""The asynchronous front: the same calls awaited, cancellation, and what must not block the loop."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from scripted import KEY, Scripted, ids, user

from identity_session import AsyncIdentitySession, AsyncIdentityUser, JsonStorage, MemoryStorage, RetryPolicy
from identity_session.exchange import HTTPAnswer, HTTPRequest, SendError
from identity_session.idsync import LocalIDSync


class AsyncScripted(Scripted):
    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return self.send(request, seconds)

    async def aclose(self) -> None: ...


class Hanging:
    """Never answers; says when it was asked."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def aclose(self) -> None: ...


def session(service: Any = None, storage: Any = None, **settings: Any) -> AsyncIdentitySession:
    settings.setdefault("retry", None)
    return AsyncIdentitySession(
        KEY,
        storage=MemoryStorage() if storage is None else storage,
        transport=service or AsyncScripted(),
        **settings,
    )


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_one_whole_journey(tmp_path: Path) -> None:
    async def work() -> None:
        idsync = LocalIDSync()
        async with AsyncIdentitySession("any", storage=tmp_path, transport=idsync.async_transport) as own:
            result = await own.login(ids(customerid="c-1", email="a"))
            assert result.get_user().is_logged_in
            await own.current_user.set_attribute("a", 1)
            await own.modify(ids(email="b"))
            known = own.mpid
            await own.logout()
            assert (await own.search({"customerid": "c-1"})).body["mpid"] == known
            source, destination = await own.get_user(own.mpid), await own.get_user(known)
            request = await own.create_alias_request(source, destination)
            assert (await own.alias_users(request)).http_code == 202
        async with AsyncIdentitySession("any", storage=tmp_path, transport=idsync.async_transport) as own:
            assert (await own.login(ids(customerid="c-1"))).get_user().attributes == {"a": 1}
            assert (await own.get_users())[0].mpid == known
            await own.end_session()
            assert own.session_id is None
            assert await own.start_new_session() is not None
            assert own.session_id
            assert await own.start_new_session() is None
            await own.touch()
            await own.set_opt_out(True)
            assert (await own.login()).http_code == -6
            await own.reset()
            assert own.mpid is None

    run(work)


def test_callbacks_and_listeners_may_be_coroutine_functions() -> None:
    async def work() -> None:
        heard: list[Any] = []

        async def listener(user: AsyncIdentityUser, previous: Any) -> None:
            await asyncio.sleep(0)
            heard.append(("listener", user.mpid))

        async def failing(result: Any) -> None:
            heard.append("failing")
            raise ValueError("a@example.com")

        own = session(AsyncScripted(user("1")))
        own.on_user_identified(listener)
        own.on_user_identified(lambda user, previous: heard.append("plain"))
        await own.start()
        assert (await own.login(None, failing)).http_code == 200
        assert heard == [("listener", "1"), "plain", ("listener", "1"), "plain", "failing"]

    run(work)


def test_a_second_task_is_refused_while_the_first_call_is_in_flight() -> None:
    async def work() -> None:
        hanging = Hanging()
        own = session(hanging)
        first = asyncio.create_task(own.login())
        await hanging.asked.wait()
        assert (await own.logout()).http_code == -2
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    run(work)


def test_a_cancelled_call_frees_the_slot_and_leaves_the_old_state() -> None:
    async def work() -> None:
        storage = MemoryStorage()
        hanging = Hanging()
        own = session(hanging, storage)
        task = asyncio.create_task(own.login(ids(email="a")))
        await hanging.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert own.mpid is None
        own._sender = AsyncScripted(user("1"))
        assert (await own.login()).http_code == 200

    run(work)


def test_syncs_to_disk_never_run_in_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    fsync = os.fsync

    def noted(handle: int) -> None:
        threads.add(threading.get_ident())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)

    async def work() -> None:
        own = session(storage=JsonStorage(tmp_path))
        await own.start()
        await own.login(ids(email="a"))
        await own.current_user.set_attribute("a", 1)
        await own.set_opt_out(True)

    run(work)
    assert threads
    assert threading.get_ident() not in threads


def test_retries_are_waited_for_although_time_is_frozen() -> None:
    async def work() -> None:
        own = session(
            AsyncScripted(503, SendError("lost", sent=True), user("1")), retry=RetryPolicy(initial_seconds=0.01)
        )
        assert (await own.login()).http_code == 200

    with freeze_time("2026-01-05T10:00:00Z"):
        run(work)


def test_mistakes_are_the_same_as_on_the_other_front(tmp_path: Path) -> None:
    async def work() -> None:
        own = session()
        with pytest.raises(TypeError, match="callback must be callable"):
            await own.login(None, "no function")
        with pytest.raises(TypeError, match="opted_out must be a bool"):
            await own.set_opt_out(1)
        await own.close()
        await own.close()
        for call in (own.login, own.reset):
            with pytest.raises(RuntimeError, match="closed"):
                await call()
        with pytest.raises(TypeError, match="AsyncBaseTransport"):
            session(Scripted())
        (tmp_path / "file").write_text(json.dumps({}))

    run(work)


def test_a_state_that_cannot_be_read_is_minus_one(tmp_path: Path) -> None:
    async def work() -> None:
        own = session(storage=JsonStorage(tmp_path))
        await own.start()
        (state,) = tmp_path.rglob("state.json")
        state.write_text('{"schema_version": 99}')
        result = await own.login()
        assert result.http_code == -1
        assert "newer version" in result.body

    run(work)
