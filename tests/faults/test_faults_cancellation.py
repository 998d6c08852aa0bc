"""Calls of the asynchronous front that are cancelled: at every place where they wait, and at any moment."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import statistics
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest
from secure import CERTIFICATE, secure_url, secured
from servers import user_answer

from identity_session import AsyncIdentitySession, JsonStorage, RetryPolicy
from identity_session.clock import monotonic
from identity_session.testing.faults import Peer, RawServer, http

KEY = "us1-test-key"
IDENTITIES = {"userIdentities": {"email": "higgs@example.com"}}
CANCELLATIONS = 200
MOST_LOGINS = 1000
QUICKLY = RetryPolicy(initial_seconds=0.002)


class Cancelled:
    """Awaits a coroutine and cancels the task the n-th time that it has to wait; counts the times."""

    def __init__(self, coroutine: Coroutine[Any, Any, object], at: int) -> None:
        self._coroutine = coroutine
        self._at = at
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, object]:
        inside = self._coroutine.__await__()
        step: Callable[[], Any] = lambda: next(inside)  # noqa: E731
        while True:
            try:
                waited_for = step()
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                sent = yield waited_for
                step = lambda sent=sent: inside.send(sent)  # noqa: E731
            except BaseException as error:
                step = lambda error=error: inside.throw(error)  # noqa: E731


def busy_then_users(peer: Peer) -> None:
    """Refuses each connection's first call, so that the client pauses; then names a new user each time."""
    number = 0
    while request := peer.request():
        email = request.json.get("known_identities", {}).get("email")
        number += 1
        if email and number % 2:
            peer.send(http(503, retry_after=0))
        else:
            peer.send(http(200, user_answer("new" if email else "old", is_logged_in=bool(email))))


async def consistent(session: AsyncIdentitySession, folder: Path) -> bool:
    """Check that the session is whole and usable; whether the login took place."""
    with session.storage.lock(0):
        pass
    mpid = session.mpid
    user = session.current_user
    assert user is not None
    assert (mpid, user.identities) in (("old", {}), ("new", {"email": "higgs@example.com"}))
    fresh = AsyncIdentitySession(KEY, storage=JsonStorage(folder))
    assert (fresh.mpid, fresh.device_id) == (mpid, session.device_id)
    assert {user.mpid for user in await session.get_users()} <= {"old", "new"}
    assert (await session.login(IDENTITIES)).http_code == 200
    assert not list(folder.rglob("*.tmp"))
    return mpid == "new"


def run_quietly(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it in a loop that must have nothing to complain about: no exception that nobody retrieved, no open socket."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        await work()
        gc.collect()
        await asyncio.sleep(0)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(watched())
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("way", ["http", "https"])
def test_a_login_cancelled_wherever_it_waits_leaves_the_old_state_or_the_new_one_and_nothing_else(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each place in turn, until a login goes through without having reached the next one.

    How the bytes arrive decides how often it waits: where none was cancelled in its last wait, the last places are
    tried again.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    outcomes: list[bool] = []

    async def work() -> None:
        at = 1
        for number in range(MOST_LOGINS):
            folder = tmp_path / f"{number}"
            storage = JsonStorage(folder)
            async with AsyncIdentitySession(KEY, base_url=url, storage=storage) as session:
                assert session.mpid == "old"
            # Another one, with everything still to be done: look up the name, connect, agree upon TLS, and so on.
            session = AsyncIdentitySession(KEY, base_url=url, storage=storage, retry=QUICKLY)
            login = Cancelled(session.login(IDENTITIES), at)
            try:
                await asyncio.ensure_future(awaited(login))
            except asyncio.CancelledError:
                assert login.waits >= at
            else:
                assert login.waits < at
                assert session.mpid == "new"
                await session.close()
                if True in outcomes:
                    return
                at -= 3
                continue
            outcomes.append(await consistent(session, folder))
            await session.close()
            at += 1
        pytest.fail("there are more places than expected")

    handler = secured(busy_then_users) if way == "https" else busy_then_users
    with RawServer(handler) as server:
        url = secure_url(server) if way == "https" else server.url
        run_quietly(work)
    assert set(outcomes) == {False, True}
    assert len(outcomes) > 10


async def awaited(thing: Any) -> object:
    return await thing


def test_a_login_cancelled_at_any_moment_leaves_the_old_state_or_the_new_one_and_nothing_else(tmp_path: Path) -> None:
    """Those that were over before they could be cancelled do not count."""
    chance, logins = random.Random(11), itertools.count()
    outcomes: list[bool] = []

    async def work() -> None:
        session = AsyncIdentitySession(KEY, base_url=server.url, storage=JsonStorage(tmp_path), retry=QUICKLY)
        await session.start()
        spans = []
        for _ in range(5):
            assert (await session.logout()).http_code == 200
            began = monotonic()
            await session.login(IDENTITIES)
            spans.append(monotonic() - began)
        span = statistics.median(spans)
        while len(outcomes) < CANCELLATIONS or len(set(outcomes)) < 2:
            assert next(logins) < MOST_LOGINS
            assert (await session.logout()).http_code == 200
            assert session.mpid == "old"
            task = asyncio.create_task(session.login(IDENTITIES))
            await asyncio.sleep(chance.random() * span)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                outcomes.append(await consistent(session, tmp_path))
        await session.close()

    with RawServer(busy_then_users) as server:
        run_quietly(work)
    print(f"{len(outcomes)} of {next(logins)} logins were cancelled, {sum(outcomes)} after they had taken place")
