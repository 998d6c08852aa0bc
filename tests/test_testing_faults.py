"""The fault tools that the package ships: each fault happens, when it should, and nothing else does."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import itertools
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import Scripted
from servers import FRONTS, opened, user_answer
from steady import LateError, assert_within, steady
from storage_helpers import login, make_session, started

from identity_session import IdentitySession, MemoryStorage, RetryPolicy
from identity_session.idsync import LocalIDSync
from identity_session.testing import faults
from identity_session.testing.faults import (
    AsyncFaultyTransport,
    FaultyDisk,
    FaultyTransport,
    PowerCut,
    RawServer,
    behaviours,
    http,
    killed_again_and_again,
)

LOGIN = {"userIdentities": {"customerid": "1"}}
USER = http(200, user_answer())


def test_every_name_is_there_and_documented() -> None:
    assert faults.__all__ == sorted(faults.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in faults.__all__:
        thing = getattr(faults, name)
        assert thing.__doc__, name


# A disk that fails


def write(path: Path, text: str) -> None:
    """A save as a careful program makes it."""
    handle = os.open(path.with_suffix(".tmp"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, text.encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(path.with_suffix(".tmp"), path)


SAVE = ["open", "write", "fsync", "close", "replace"]


def test_every_operation_below_the_folder_is_counted_and_no_other(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "inside-not"
    inside.mkdir()
    outside.mkdir()
    with FaultyDisk(inside) as disk:
        with disk.watching():
            write(inside / "a", "text")
            write(outside / "a", "text")
        assert disk.calls == SAVE
        assert not disk.failed()
        write(inside / "a", "uncounted")
        assert disk.calls == SAVE


@pytest.mark.parametrize("step", range(1, len(SAVE) + 1))
def test_the_nth_operation_fails_and_the_others_work(tmp_path: Path, step: int) -> None:
    write(tmp_path / "a", "old")
    with FaultyDisk(tmp_path) as disk:
        with disk.failing(step, errno.ENOSPC), pytest.raises(OSError, match="No space left") as caught:
            write(tmp_path / "a", "new text")
        assert caught.value.errno == errno.ENOSPC
        assert disk.failed()
        assert disk.calls[step - 1] == f"! {SAVE[step - 1]}"
        assert (tmp_path / "a").read_text() == "old"
        write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_write_that_fails_has_written_its_first_half(tmp_path: Path) -> None:
    with FaultyDisk(tmp_path) as disk:
        with disk.failing(2, errno.ENOSPC), pytest.raises(OSError, match="No space"):
            write(tmp_path / "a", "12345678")
        assert (tmp_path / "a.tmp").read_bytes() == b"1234"
        with disk.failing(2, errno.ENOSPC), pytest.raises(OSError, match="No space"), open(tmp_path / "b", "w") as file:
            file.write("12345678")
    assert (tmp_path / "b").read_bytes() == b"1234"


def test_every_way_to_open_a_file_is_seen(tmp_path: Path) -> None:
    ways: list[tuple[Any, list[str]]] = [
        (lambda: (tmp_path / "a").write_text("one\ntwo\n"), ["open", "write", "close"]),
        (lambda: (tmp_path / "a").read_text(), ["open", "read", "close"]),
        (lambda: io.open(tmp_path / "a", "rb").close(), ["open", "close"]),  # noqa: UP020
        (lambda: os.close(os.open(tmp_path / "a", os.O_RDONLY)), ["open", "close"]),
        (lambda: (tmp_path / "a").touch(), ["utime"]),
        (lambda: os.link(src=tmp_path / "a", dst=tmp_path / "b"), ["link"]),
        (lambda: os.rename(tmp_path / "b", tmp_path.parent / "outside"), ["rename"]),
        (lambda: os.rename(tmp_path.parent / "outside", tmp_path / "b"), ["rename"]),
        (lambda: os.listdir(os.fsencode(tmp_path)), ["listdir"]),
    ]
    with FaultyDisk(tmp_path) as disk:
        for way, calls in ways:
            with disk.watching():
                way()
            assert [call for call in disk.calls if call not in ("stat", "fstat", "flush")] == calls


def test_a_file_is_read_line_by_line_as_ever(tmp_path: Path) -> None:
    with FaultyDisk(tmp_path) as disk, disk.watching():
        with open(tmp_path / "a", "w") as file:
            file.writelines(["one\n", "two\n"])
            assert (tmp_path / "a").stat().st_size == 8  # nothing waits for a flush that may never come
            file.flush()
            os.fsync(file)
        with open(tmp_path / "a") as file:
            assert (list(file), file.name, file.closed) == (["one\n", "two\n"], str(tmp_path / "a"), False)
        file.close()
    assert disk.calls == [
        "open",
        "write",
        "write",
        "stat",
        "flush",
        "fsync",
        "close",
        "open",
        "read",
        "read",
        "read",
        "close",
    ]


def test_a_handle_that_is_closed_may_be_somebody_elses_next(tmp_path: Path) -> None:
    with FaultyDisk(tmp_path / "in") as disk:
        (tmp_path / "in").mkdir()
        with os.fdopen(os.open(tmp_path / "in" / "a", os.O_WRONLY | os.O_CREAT), "wb"):
            pass
        handle = os.open(tmp_path / "outside", os.O_WRONLY | os.O_CREAT)
        with disk.failing(1, errno.EIO):
            os.write(handle, b"x")
            os.close(handle)
        assert disk.calls == []


def test_after_a_power_cut_nothing_happens_any_more(tmp_path: Path) -> None:
    dealt_with = []

    def careless() -> None:
        try:
            write(tmp_path / "a", "12345678")
        except Exception as error:  # a power cut is none, or programs would deal with it
            dealt_with.append(error)
        finally:
            (tmp_path / "a").unlink()

    def move(*names: str) -> None:
        for one, other in itertools.pairwise(names):
            os.replace(tmp_path / one, tmp_path / other)

    write(tmp_path / "a", "old")
    with FaultyDisk(tmp_path) as disk:
        with disk.stopping(2):
            careless()
            pytest.fail("the program goes on without power")
        assert (disk.calls, dealt_with) == (["open", "! write"], [])
        assert (tmp_path / "a").read_text() == "old"
        assert (tmp_path / "a.tmp").read_text() == "1234"
        with disk.stopping(3), pytest.raises(PowerCut):
            move("a", "b", "c", "d")
    assert (tmp_path / "c").read_text() == "old"


def test_what_is_not_written_when_the_power_goes_is_not_written_when_the_file_is_closed(tmp_path: Path) -> None:
    with FaultyDisk(tmp_path) as disk, disk.stopping(2), open(tmp_path / "a", "w") as file:
        file.write("12345678")
    assert disk.failed()
    assert (tmp_path / "a").read_text() == "1234"


def test_every_step_fails_in_turn_until_a_run_completes(tmp_path: Path) -> None:
    steps, failed = [], []
    with FaultyDisk(tmp_path) as disk:
        for step in disk.every_failure(errno.EIO):
            with step as n, contextlib.suppress(OSError):
                write(tmp_path / "a", "text")
            steps.append(n)
            failed.append(disk.failed())
    assert steps == [1, 2, 3, 4, 5, 6]
    assert failed == [True] * 5 + [False]


def test_the_power_goes_at_every_step_in_turn_until_a_run_completes(tmp_path: Path) -> None:
    contents = []
    with FaultyDisk(tmp_path) as disk:
        for step in disk.every_stop():
            write(tmp_path / "a", "old")
            with step:
                write(tmp_path / "a", "new")
            contents.append((tmp_path / "a").read_text())
    assert contents == ["old"] * 5 + ["new"]


def test_all_is_as_before_when_the_block_ends(tmp_path: Path) -> None:
    before = {name: getattr(os, name) for name in dir(os)}, open, io.open
    disk = FaultyDisk(tmp_path)
    with contextlib.suppress(ZeroDivisionError), disk, disk.failing(1, errno.EIO):
        assert os.open is not before[0]["open"]
        raise ZeroDivisionError
    assert ({name: getattr(os, name) for name in dir(os)}, open, io.open) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, None], ids=["ENOSPC", "EIO", "power cut"])
def test_a_login_at_every_step_leaves_the_old_user_or_the_new(tmp_path: Path, code: int | None) -> None:
    """As a user of the package would use it."""
    outcomes = set()
    with FaultyDisk(tmp_path) as disk:
        started(tmp_path)
        for step in disk.every_stop() if code is None else disk.every_failure(code):
            session = make_session(tmp_path)
            login(session, "old")
            with step as n:
                login(session, f"new-{n}")
            fresh = make_session(tmp_path)
            assert fresh.mpid in ("old", f"new-{n}"), disk.calls
            outcomes.add(fresh.mpid)
            assert login(fresh, f"next-{n}").http_code == 200
    assert {"old", f"new-{n}"} < outcomes
    assert n > 20


# A network in trouble


@pytest.fixture
def idsync() -> LocalIDSync:
    return LocalIDSync(seed=1)


def faulty(front: str, idsync: LocalIDSync, *given: dict[str, Any]) -> Any:
    if front == "sync":
        return FaultyTransport(idsync.transport, given)
    return AsyncFaultyTransport(idsync.async_transport, given)


FAULTS: list[tuple[dict[str, Any], int, int]] = [
    ({"unreachable": True}, -1, 0),
    ({"drop": "before"}, -1, 0),
    ({"drop": "after"}, -1, 1),
    ({"latency_ms": 60_000}, -1, 1),
    ({"status": 200}, -1, 0),
    ({"status": 400}, 400, 0),
    ({"status": 429, "retry_after": 7}, 429, 0),
    ({"status": 503, "retry_after": 7}, 503, 0),
    ({"garbage": True}, -1, 0),
    ({"html": True}, -1, 0),
]


@FRONTS
@pytest.mark.parametrize(("fault", "code", "arrived"), FAULTS, ids=[json.dumps(fault) for fault, *_ in FAULTS])
def test_a_fault_happens_to_its_calls_so_many_times_and_to_no_others(
    front: str, idsync: LocalIDSync, fault: dict[str, Any], code: int, arrived: int
) -> None:
    transport = faulty(front, idsync, {"endpoint": "login", "times": 2, **fault})
    timeout = 1.0 if "latency_ms" in fault else 30.0
    with opened(front, transport=transport, retry=None, timeout=timeout) as driven:
        assert driven.start().http_code == 200
        assert driven.login(LOGIN).http_code == code
        assert [call["endpoint"] for call in idsync.calls()] == ["identify", *["login"] * arrived]
        assert transport.faults() == [{"endpoint": "login", "times": 1, **fault}]
        assert driven.modify({"userIdentities": {"email": "a@example.com"}}).http_code == 200
        assert driven.login(LOGIN).http_code == code
        assert transport.faults() == []
        assert driven.login(LOGIN).http_code == 200


@FRONTS
def test_what_cannot_have_arrived_is_tried_again_and_a_lost_logout_is_not(front: str, idsync: LocalIDSync) -> None:
    """The session can tell the two apart."""
    transport = faulty(front, idsync, {"endpoint": "logout", "times": 2, "unreachable": True})
    with opened(front, transport=transport, retry=RetryPolicy(initial_seconds=0.001)) as driven:
        driven.start()
        assert driven.logout().http_code == 200
        transport.set_faults([{"endpoint": "*", "drop": "before"}])
        assert driven.logout().http_code == -1
    assert [call["endpoint"] for call in idsync.calls()] == ["identify", "logout"]


@FRONTS
def test_latency_holds_an_answer_back(front: str, idsync: LocalIDSync) -> None:
    transport = faulty(front, idsync, {"endpoint": "*", "times": 1, "latency_ms": 150})
    with opened(front, transport=transport) as driven:
        began = time.monotonic()
        assert driven.start().http_code == 200
        assert time.monotonic() - began >= 0.15


@FRONTS
@steady
def test_latency_beyond_the_deadline_ends_with_the_deadline(front: str, idsync: LocalIDSync) -> None:
    transport = faulty(front, idsync, {"endpoint": "*", "latency_ms": 60_000})
    with opened(front, transport=transport, timeout=0.2) as driven:
        began = time.monotonic()
        assert driven.start().http_code == -1
        assert_within(time.monotonic() - began, 10)


@FRONTS
@steady
def test_a_retry_after_reaches_the_session(front: str, idsync: LocalIDSync) -> None:
    transport = faulty(front, idsync, {"endpoint": "*", "times": 1, "status": 503, "retry_after": 60})
    with opened(front, transport=transport, timeout=5) as driven:
        began = time.monotonic()
        assert driven.start().http_code == 503  # a minute is past the deadline, so it is not tried again
        assert_within(time.monotonic() - began, 4)


def test_one_fault_after_another(idsync: LocalIDSync) -> None:
    """The first that fits happens until it is used up; latency goes with the others."""
    script = [
        {"endpoint": "login", "times": 1, "status": 500},
        {"endpoint": "*", "times": 1, "status": 503},
        {"endpoint": "*", "times": 2, "latency_ms": 1},
    ]
    transport = FaultyTransport(idsync.transport, script)
    session = IdentitySession("key", transport=transport, storage=MemoryStorage(), retry=None)
    assert [session.login(LOGIN).http_code for _ in range(3)] == [500, 503, 200]
    assert transport.faults() == []


def test_an_alias_is_known_by_its_path(idsync: LocalIDSync) -> None:
    transport = FaultyTransport(idsync.transport, [{"endpoint": "alias", "status": 403}])
    session = IdentitySession("key", transport=transport, storage=MemoryStorage())
    session.login(LOGIN)
    session.logout()
    destination, source = session.get_users()
    assert session.alias_users(session.create_alias_request(source, destination)).http_code == 403


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"endpoint": "nowhere", "status": 500}, "endpoint must be one of"),
        ({"endpoint": "*", "unreachable": False}, "unreachable must be true"),
        ({"endpoint": "*", "unreachable": True, "html": True}, "exactly one of"),
        ({"endpoint": "*", "offline": True}, "unknown member 'offline'"),
        ({"endpoint": "*", "unreachable": True, "retry_after": 1}, "retry_after goes with status"),
    ],
)
def test_a_fault_that_is_none_is_refused(idsync: LocalIDSync, fault: dict[str, Any], words: str) -> None:
    transport = FaultyTransport(idsync.transport)
    with pytest.raises(ValueError, match=words):
        transport.set_faults([fault])
    assert transport.faults() == []


def test_a_service_does_not_promise_to_be_unreachable(idsync: LocalIDSync) -> None:
    with pytest.raises(ValueError, match="unknown member 'unreachable'"):
        idsync.set_faults([{"endpoint": "*", "unreachable": True}])


def test_any_sender_and_any_httpx_transport_can_be_in_trouble() -> None:
    """Also one that is used for the network."""
    for inner in (Scripted(user_answer()), httpx.MockTransport(lambda _: httpx.Response(200, json=user_answer()))):
        transport = FaultyTransport(inner, [{"endpoint": "identify", "times": 1, "status": 500}])
        session = IdentitySession("key", transport=transport, storage=MemoryStorage(), retry=None)
        assert [session.identify().http_code, session.identify().http_code] == [500, 200]
        session.close()


def test_an_asynchronous_httpx_transport_as_well() -> None:
    inner = httpx.MockTransport(lambda _: httpx.Response(200, json=user_answer()))
    transport = AsyncFaultyTransport(inner, [{"endpoint": "identify", "times": 1, "drop": "before"}])
    with opened("async", transport=transport, retry=None) as driven:
        assert [driven.identify().http_code, driven.identify().http_code] == [-1, 200]


# Servers that misbehave


BEHAVIOURS: list[tuple[str, Any, int]] = [
    ("black_hole", behaviours.black_hole(), -1),
    ("early_close", behaviours.early_close(), -1),
    ("reset", behaviours.reset(), -1),
    ("reset in the body", behaviours.reset(USER[:-5]), -1),
    ("truncated", behaviours.truncated(USER), -1),
    ("stalled", behaviours.stalled(USER), -1),
    ("drip", behaviours.drip(USER), -1),
    ("endless_headers", behaviours.endless_headers(), -1),
    ("endless_body", behaviours.endless_body(), -1),
    ("html_page", behaviours.html_page(), -1),
    ("html_page with 503", behaviours.html_page(503), 503),
    ("empty_body", behaviours.empty_body(), -1),
    ("empty_body with 401", behaviours.empty_body(401), 401),
    ("redirect", behaviours.redirect("http://127.0.0.1:9/"), 302),
    ("throttled", behaviours.throttled(60), 429),
    ("throttled with nonsense", behaviours.throttled("soon", 503), 503),
]


@FRONTS
@pytest.mark.parametrize(("handler", "code"), [row[1:] for row in BEHAVIOURS], ids=[row[0] for row in BEHAVIOURS])
@steady
def test_a_misbehaving_server_is_met_with_the_right_code_in_time(front: str, handler: Any, code: int) -> None:
    timeout = 0.5 if code == -1 else 10.0
    with RawServer(handler) as server, opened(front, base_url=server.url, timeout=timeout, retry=None) as driven:
        began = time.monotonic()
        assert driven.login(LOGIN).http_code == code
        assert_within(time.monotonic() - began, 5)
        try:
            server.wait_for_requests(0 if handler == behaviours.black_hole() else 1)
        except TimeoutError as unsent:
            raise LateError("the time was over before the request was sent") from unsent


def received(server: RawServer, size: int = 1 << 30, seconds: float = 5) -> bytes:
    """What a client that sends a request gets until the server ends the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(b"POST /v1/login HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
        data = b""
        while len(data) < size and (chunk := connection.recv(1 << 20)):
            data += chunk
        return data


def test_a_black_hole_says_nothing() -> None:
    with RawServer(behaviours.black_hole()) as server, pytest.raises(TimeoutError):
        received(server, seconds=0.2)


def test_a_drip_comes_a_byte_at_a_time() -> None:
    with RawServer(behaviours.drip(USER[:20], every=0.01)) as server:
        began = time.monotonic()
        assert received(server) == USER[:20]
        assert time.monotonic() - began >= 0.19


def test_a_reset_is_none_of_an_orderly_end() -> None:
    with RawServer(behaviours.reset()) as server, pytest.raises(ConnectionResetError):
        received(server)


def test_a_huge_body_is_as_huge_as_it_says() -> None:
    with RawServer(behaviours.huge_body(3)) as server:
        head, _, body = received(server).partition(b"\r\n\r\n")
    assert f"content-length: {3 << 20}".encode() in head
    assert body == b" " * (3 << 20)


def test_a_bomb_is_small_until_it_is_unpacked() -> None:
    with (
        RawServer(behaviours.gzip_bomb(20)) as server,
        httpx.Client(trust_env=False) as client,
        client.stream("POST", f"{server.url}/login") as response,
    ):
        sizes = [len(chunk) for chunk in response.iter_bytes()]
        assert response.num_bytes_downloaded < 30_000
    assert sum(sizes) == 20 << 20


def test_a_handler_that_fails_fails_the_test() -> None:
    def broken(peer: Any) -> None:
        peer.request()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), RawServer(broken) as server:
        received(server)


def test_requests_that_do_not_come_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer([USER]) as server, monkeypatch.context() as patch:
        patch.setattr("identity_session.testing.faults.servers.PATIENCE_SECONDS", 0.01)
        with pytest.raises(TimeoutError, match="0 of 1 requests have arrived"):
            server.wait_for_requests(1)


# Programs that are killed


COUNTING = """
import itertools, sys
for n in itertools.count():
    print("step", n, flush=True)
"""


def test_a_program_is_killed_again_and_again_at_different_moments() -> None:
    command = [sys.executable, "-c", COUNTING]
    runs = list(killed_again_and_again(command, 6, lines=50, seconds=0.002, seed=3))
    assert [run.number for run in runs] == list(range(6))
    assert {run.returncode for run in runs} == {-signal.SIGKILL}
    assert all(run.was_killed and run.errors == "" and run.seconds > 0 for run in runs)
    for run in runs:
        assert run.lines == tuple(f"step {n}" for n in range(len(run.lines)))
        assert run.lines
    assert len({len(run.lines) for run in runs}) > 1


def test_each_run_may_have_arguments_of_its_own() -> None:
    code = "import sys, time\nprint(*sys.argv[1:], flush=True)\ntime.sleep(60)"
    runs = killed_again_and_again(lambda n: [sys.executable, "-c", code, f"run-{n}"], 3, lines=1)
    assert [run.lines for run in runs] == [("run-0",), ("run-1",), ("run-2",)]


def test_a_program_that_ends_by_itself_is_told_from_one_that_was_killed() -> None:
    (run,) = killed_again_and_again([sys.executable, "-c", "print('bye', flush=True); import nowhere"], 1, seed=1)
    assert not run.was_killed
    assert (run.lines, run.returncode) == (("bye",), 1)
    assert run.errors.endswith("ModuleNotFoundError: No module named 'nowhere'\n")


def test_a_line_that_was_cut_short_is_left_out() -> None:
    code = "import time\nprint('whole', flush=True)\nprint('ha', end='', flush=True)\ntime.sleep(60)"
    (run,) = killed_again_and_again([sys.executable, "-c", code], 1, lines=1, seconds=0.2, seed=1)
    assert run.lines == ("whole",)


def test_what_the_program_has_started_dies_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys, time\np = subprocess.Popen(['sleep', '60'])\nprint(p.pid, flush=True)\np.wait()"
    (run,) = killed_again_and_again([sys.executable, "-c", code], 1, lines=1)
    assert run.seconds < 30  # it holds the pipe that the lines come through
    deadline = time.monotonic() + 5
    while alive(int(run.lines[0])) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(int(run.lines[0]))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_program_that_hangs_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("identity_session.testing.faults.kills.PATIENCE_SECONDS", 0.3)
    runs = killed_again_and_again([sys.executable, "-c", "import time; time.sleep(60)"], 1)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="not come so far"):
        next(runs)
    assert time.monotonic() - began < 10


def test_a_caller_that_stops_leaves_no_process_behind() -> None:
    runs = killed_again_and_again([sys.executable, "-c", COUNTING], 100)
    next(runs)
    runs.close()
    gc.collect()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
