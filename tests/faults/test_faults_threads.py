"""Many threads and tasks on few sessions: no deadlock, every callback once, and a state that adds up."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from required import SLOW
from servers import FRONTS
from storage_helpers import answer_to

from identity_session import AsyncIdentitySession, IdentitySession, JsonStorage
from identity_session.clock import monotonic
from identity_session.testing.faults import Peer, RawServer, http

THREADS = 32
SECONDS = 20.0 if SLOW else 3.0
PATIENCE_SECONDS = 30.0
IDENTITY_CALLS = ("identify", "login", "logout", "modify")


def service(peer: Peer) -> None:
    while request := peer.request():
        peer.send(http(200, answer_to(request.body)))


async def done(outcome: Any) -> Any:
    """What came of a call of either front."""
    return await outcome if inspect.isawaitable(outcome) else outcome


class Worker:
    """Makes one call after the other, at random, and keeps book of what it was told."""

    def __init__(self, number: int, sessions: list[Any]) -> None:
        self.name = f"w{number}"
        self.heard: Counter[int] = Counter()
        self.codes: Counter[int] = Counter()
        self.logins: set[str] = set()
        self.attributes: dict[str, int] = {}
        self.failure: BaseException | None = None
        self._chance = random.Random(number)
        self._sessions = sessions
        self._number = 0

    async def work(self, until: float) -> None:
        try:
            while monotonic() < until:
                await self._one_call(self._chance.choice(self._sessions))
        except BaseException as failure:
            self.failure = failure
            raise

    async def _one_call(self, session: Any) -> None:
        self._number += 1
        what = self._chance.randrange(10)
        if what < 5:
            await self._identity_call(session, self._chance.choice(IDENTITY_CALLS))
        elif what == 5:
            assert (await done(session.search({"customerid": "1"}))).http_code == 200
        elif what == 6:
            await self._set_attribute(session)
        elif what == 7:
            assert await done(session.get_users())
        elif what == 8:
            await done(session.touch())
            assert session.device_id
        else:
            await done(session.start_new_session())

    async def _identity_call(self, session: Any, call: str) -> None:
        customer = f"{self.name}-{self._chance.randrange(3)}"
        number, heard = self._number, []

        def callback(result: Any) -> None:
            self.heard[number] += 1
            heard.append(result)

        request = {"userIdentities": {"customerid": customer}} if call != "logout" else None
        result = await done(getattr(session, call)(request, callback))
        assert heard == [result]
        self.codes[result.http_code] += 1
        if result.http_code == 200 and call in ("identify", "login"):
            assert result.get_user().mpid == customer
            self.logins.add(customer)

    async def _set_attribute(self, session: Any) -> None:
        """On a user of its own, so that nobody else writes it; it may be current or not."""
        for customer in self.logins:
            user = await done(session.get_user(customer))
            assert user is not None
            await done(user.set_attribute("last", self._number))
            self.attributes[customer] = self._number
            break


def at_once(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits, as on the synchronous front."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


@pytest.mark.slow
@FRONTS
def test_32_threads_of_mixed_calls_neither_hang_nor_lose_anything(front: str, tmp_path: Path) -> None:
    """On three sessions of one store, two of which share a storage object."""
    session_type: Any = IdentitySession if front == "sync" else AsyncIdentitySession
    shared = JsonStorage(tmp_path)
    with RawServer(service) as server:
        sessions = [
            session_type("key", base_url=server.url, storage=storage, timeout=PATIENCE_SECONDS)
            for storage in (shared, shared, tmp_path)
        ]
        workers = [Worker(number, sessions) for number in range(THREADS)]
        if front == "sync":
            sessions[0].start()
            until = monotonic() + SECONDS
            threads = [threading.Thread(target=at_once, args=(worker.work(until),), daemon=True) for worker in workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_SECONDS + SECONDS)
            assert not [thread for thread in threads if thread.is_alive()]
        else:

            async def tasks() -> None:
                await sessions[0].start()
                until = monotonic() + SECONDS
                async with asyncio.timeout(PATIENCE_SECONDS + SECONDS):
                    await asyncio.gather(*(worker.work(until) for worker in workers))
                for session in sessions:
                    await session.close()

            asyncio.run(tasks())
        assert [worker.failure for worker in workers] == [None] * THREADS
        codes: Counter[int] = sum((worker.codes for worker in workers), Counter())
        assert set(codes) == {200, -2}, codes
        for worker in workers:
            assert set(worker.heard.values()) <= {1}
            assert worker.heard.total() == worker.codes.total()

        with IdentitySession("key", base_url=server.url, storage=tmp_path) as fresh:
            known = {user.mpid: user for user in fresh.get_users()}
            assert known.keys() == {"100"}.union(*(worker.logins for worker in workers))
            for worker in workers:
                for customer, value in worker.attributes.items():
                    assert known[customer].attributes == {"last": value}
            assert fresh.recovered_from is None
            assert fresh.login({"userIdentities": {"customerid": "last"}}).http_code == 200
        if front == "sync":
            for session in sessions:
                assert session.login({"userIdentities": {"customerid": "after"}}).http_code == 200
                session.close()
    assert not list(tmp_path.rglob("*.tmp"))
