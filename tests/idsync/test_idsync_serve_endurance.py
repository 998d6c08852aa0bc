"""`serve` when much happens at once, and when it ends in the middle of it: nothing that was answered is lost."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from http_serving import PATIENCE_SECONDS, Client, ServeProcess, answer_on, first_line
from idsync_driver import KEY
from required import only_slow
from steady import assert_within, steady
from store_helpers import opened

from identity_session.idsync.connections import Server
from identity_session.idsync.profiles import WAIT_SECONDS
from identity_session.idsync.serve import END_SECONDS


class Load:
    """Threads that log customers in, each one a new customer every time, until the service is gone."""

    def __init__(self, client: Client, name: str, threads: int, *, keep_alive: bool = True) -> None:
        self.answered: dict[str, str] = {}
        """The MPID of each customer for whom there was a 200."""
        self.lost: list[str] = []
        """What became of requests that were sent in time on an open connection and got no answer."""
        self._client, self._name, self._keep_alive = client, name, keep_alive
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    def _run(self, thread: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._client.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            for number in range(1_000_000):
                try:
                    if connection.sock is None:
                        idle_since = time.monotonic()
                        connection.connect()
                except OSError:
                    return
                customer = f"{self._name}-{thread}-{number}"
                body = {"environment": "production", "known_identities": {"customerid": customer}}
                headers = KEY if self._keep_alive else {**KEY, "connection": "close"}
                began = time.monotonic()
                try:
                    try:
                        connection.request("POST", "/v1/login", json.dumps(body), headers)
                    finally:
                        sent = time.monotonic()
                    answer = answer_on(connection)
                except (OSError, http.client.HTTPException) as error:
                    # A thread that was kept waiting for its processor speaks on a connection that may be closed. The
                    # service has found it idle for this long at most: it answered the request before after that had
                    # begun, and had this one by the time it was written.
                    if sent - idle_since < Server.drain_seconds:
                        self.lost.append(f"{type(error).__name__} {error}")
                    return
                idle_since = began
                assert answer.status == 200, answer
                self.answered[customer] = answer.mpid


def stored(client: Client) -> dict[str, str]:
    """Each customer's MPID; nobody is there twice."""
    pairs = [(value, p["mpid"]) for p in client.profiles() for value in p["identities"].get("customerid", ())]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.fixture
def pair(postgres_url: str) -> Iterator[list[ServeProcess]]:
    """Two services on one PostgreSQL."""
    with ServeProcess("--database", postgres_url) as one, ServeProcess("--database", postgres_url) as two:
        yield [one, two]


def test_200_first_identifies_at_once_make_one_profile(pair: list[ServeProcess]) -> None:
    """Split over two processes on one PostgreSQL."""
    together = threading.Barrier(200, timeout=PATIENCE_SECONDS)

    def identify(number: int) -> str:
        together.wait()
        answer = pair[number % 2].call("identify", {"customerid": "1", "email": "a@example.com", "ios_idfv": "v"})
        assert answer.status == 200
        return answer.mpid

    with ThreadPoolExecutor(200) as pool:
        mpids = set(pool.map(identify, range(200)))
    assert len(mpids) == 1
    for served in pair:
        assert list(served.store()) == list(mpids)
    assert len(pair[0].emulator("GET", "calls").body["calls"]) == 200
    assert [served.end() for served in pair] == [(0, "", "")] * 2


def killed_again_and_again(database: Path, times: int) -> None:
    """Kill a service in the middle of load; all that it has answered is there when the next one starts."""
    source = random.Random(times)
    answered: dict[str, str] = {}
    for number in range(times):
        with ServeProcess("--database", str(database)) as served:
            found = stored(served)
            assert {customer: found.get(customer) for customer in answered} == answered
            load = Load(served, f"kill-{number}", 4)
            load.start()
            time.sleep(source.uniform(0.02, 0.25))
            served.kill()
            load.join()
            answered |= load.answered
    assert len(answered) > times
    with ServeProcess("--database", str(database)) as served:
        found = stored(served)
        assert {customer: found.get(customer) for customer in answered} == answered


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=only_slow)])
def test_a_kill_loses_nothing_that_was_answered(tmp_path: Path, kills: int) -> None:
    killed_again_and_again(tmp_path / "profiles.db", kills)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept connections", "new connections"])
def test_an_end_under_load_loses_no_request(shared_database: str, workers: int, keep_alive: bool) -> None:
    """SIGTERM: every request that was sent is answered, every answer is true, the code is 0, and it takes seconds."""
    with ServeProcess("--database", shared_database, "--workers", str(workers)) as served:
        load = Load(served, "load", 8, keep_alive=keep_alive)
        load.start()
        time.sleep(0.5)
        started = time.monotonic()
        assert served.end() == (0, "", "")
        assert time.monotonic() - started < 10
        load.join()
    assert load.lost == []
    with ServeProcess("--database", shared_database) as served:
        assert stored(served) == load.answered


SLOW_TO_CLOSE = """
import asyncio, sys, time
from identity_session.cli import main

close = asyncio.Server.close

def slow(server):
    asyncio.Server.close = close
    print("closing", flush=True)
    time.sleep(3)
    close(server)

asyncio.Server.close = slow
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps newcomers out before the port is closed")
def test_nobody_is_let_in_while_the_port_is_being_closed() -> None:
    """A connection made at that moment would be reset, and the request on it lost."""
    with ServeProcess(program=("-c", SLOW_TO_CLOSE)) as served:
        assert served.call("login", {"customerid": "1"}).status == 200
        served.process.send_signal(signal.SIGTERM)
        assert first_line(served.process) == "closing"
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", served.port), 0.3)
        assert served.process.wait(PATIENCE_SECONDS) == 0


def test_a_request_under_way_is_answered_before_the_end() -> None:
    """One that takes seconds as well."""
    with ServeProcess() as served:
        served.emulator("PUT", "faults", {"faults": [{"endpoint": "login", "latency_ms": 2000}]})
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(served.call, "login", {"customerid": "1"})
            wait_for_call(served, lambda: len(served.emulator("GET", "calls").body["calls"]) == 1)
            assert served.end() == (0, "", "")
            assert answer.result(PATIENCE_SECONDS).status == 200


@steady
def test_the_end_does_not_wait_for_ever() -> None:
    """A request that takes a minute, and connections that say nothing, are cut off before ten seconds are over."""
    with ServeProcess() as served:
        served.emulator("PUT", "faults", {"faults": [{"endpoint": "login", "latency_ms": 60_000}]})
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(served.call, "login", {"customerid": "1"})
            wait_for_call(served, lambda: len(served.emulator("GET", "calls").body["calls"]) == 1)
            started = time.monotonic()
            code, _, _ = served.end(signal.SIGTERM)
            assert_within(time.monotonic() - started, END_SECONDS)  # from then on it ends by force, with code 1
            assert code == 0
            with contextlib.suppress(OSError, http.client.HTTPException):
                assert answer.result(PATIENCE_SECONDS).status == 500


@steady
def test_a_call_that_waits_for_the_store_at_the_end_is_told_what_came_of_it(tmp_path: Path) -> None:
    """However long it may wait: it is not cut off, and carried out once nobody hears of it."""
    database = str(tmp_path / "profiles.db")
    with ServeProcess("--database", database) as served, opened(database) as other, ThreadPoolExecutor(1) as pool:
        served.emulator("DELETE", "profiles")
        served.emulator("PUT", "faults", {"faults": [{"endpoint": "login", "latency_ms": 1, "times": 1}]})
        with other.transaction() as profiles:
            profiles.all()
            began = time.monotonic()
            answer = pool.submit(served.call, "login", {"customerid": "1"})
            wait_for_call(served, lambda: not served.emulator("GET", "faults").body["faults"])
            served.process.send_signal(signal.SIGTERM)
            told = answer.result(PATIENCE_SECONDS)
            assert_within(time.monotonic() - began, WAIT_SECONDS + 0.5)  # from then on it may be cut off
        assert (told.status, told.error[0]) == (500, "INTERNAL_ERROR")
        code = served.process.wait(PATIENCE_SECONDS)
        assert_within(time.monotonic() - began, END_SECONDS)  # as above
        assert code == 0
        with other.transaction() as profiles:
            assert not profiles.all()


def wait_for_call(served: ServeProcess, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
