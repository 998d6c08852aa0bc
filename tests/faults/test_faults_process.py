"""How a process ends and forks while a call is under way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import client
from servers import FRONTS
from steady import assert_within, steady
from storage_helpers import answer_to
from unreachable import full_backlog

from identity_session.clock import monotonic, pause
from identity_session.testing.faults import Handler, Peer, RawServer, answers, behaviours, http

EXIT_SECONDS = 1.0
PATIENCE_SECONDS = 20.0
REMAINS = ("ResourceWarning", "never retrieved", "Exception ignored", "was destroyed", "Fatal Python error")
"""What Python writes to standard error when something was left lying about."""

LEFT_OPEN = {("sync", "TLS"): "ssl.SSLSocket", ("sync", "connect"): "socket.socket"}
"""What Python's own `ssl` and `socket` let go of when they are interrupted in a handshake or while they connect."""


def eventually(condition: Callable[[], object]) -> None:
    """Wait until this is so."""
    deadline = monotonic() + PATIENCE_SECONDS
    while not condition():
        assert monotonic() < deadline
        pause(0.005)


# The end of a process

HANGS_AT: dict[str, Handler] = {
    "answer": behaviours.black_hole(),
    "body": behaviours.endless_body(),
    "TLS": Peer.hold,
    "retry": answers(http(503)),
    "name": [],
    "connect": [],
    "lock": [],
    "disk": [],
}
WITHOUT_SERVER = ("name", "connect", "lock", "disk")
ENDS = [
    *[("sync", hangs_at, "interrupt") for hangs_at in HANGS_AT],
    *[("async", hangs_at, "interrupt") for hangs_at in HANGS_AT if hangs_at != "disk"],  # a save is not abandoned
    *[("async", hangs_at, "task") for hangs_at in ("answer", "name", "connect", "lock")],
    *[(front, hangs_at, "main thread ends") for front in ("sync", "async") for hangs_at in ("answer", *WITHOUT_SERVER)],
    *[("sync", "answer", end) for end in ("sys.exit", "exception")],
]
EXIT_CODES = {"main thread ends": 0, "sys.exit": 3, "exception": 1, "task": 1, "interrupt": -signal.SIGINT}


def ended(front: str, hangs_at: str, end: str, folder: Path) -> tuple[float, int, str]:
    """How long a process takes to end while a login is under way, its exit code, and what it said."""
    with (
        RawServer(HANGS_AT[hangs_at]) as server,
        full_backlog() if hangs_at == "connect" else contextlib.nullcontext(server.url) as url,
    ):
        url = {"name": "https://h.example/v1", "TLS": url.replace("http", "https", 1)}.get(hangs_at, url)
        with client("hang", front, hangs_at, end, url, folder) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if hangs_at in WITHOUT_SERVER:
                assert process.stdout.readline() == "in flight\n"
            else:
                eventually(lambda: server.connections)
            pause(0.05)  # an interrupt in the instant before an event loop begins to wait is heard only when it wakes
            assert process.poll() is None
            began = monotonic()
            if end == "interrupt":
                process.send_signal(signal.SIGINT)
            else:
                process.stdin.write("go\n")
                process.stdin.flush()
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
            return monotonic() - began, process.returncode, errors


@pytest.mark.parametrize(("front", "hangs_at", "end"), ENDS)
@steady
def test_a_process_ends_within_a_second_whatever_its_call_waits_for(
    front: str, hangs_at: str, end: str, tmp_path: Path
) -> None:
    seconds, code, errors = ended(front, hangs_at, end, Path(tempfile.mkdtemp(dir=tmp_path)))
    assert code == EXIT_CODES[end], errors
    if (front, hangs_at) in LEFT_OPEN:
        errors = errors.replace(f"ResourceWarning: unclosed <{LEFT_OPEN[front, hangs_at]}", "")
    assert not [remains for remains in REMAINS if remains in errors], errors
    assert_within(seconds, EXIT_SECONDS, errors)


# Two processes

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def service(peer: Peer) -> None:
    """Answers with the customer as user; never, if the customer is called hang."""
    while request := peer.request():
        answer = answer_to(request.body)
        if answer["mpid"] == "hang":
            peer.hold()
        peer.send(http(200, answer))


def finished(process: subprocess.Popen[str], front: str = "sync") -> list[str]:
    """What it said in its remaining time."""
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors
    if front == "sync":
        assert errors == ""
    # else it may warn of what belongs to the event loop of the parent: in the child only garbage collection closes it
    return output.splitlines()


@FORKS
@FRONTS
@pytest.mark.parametrize("way", ["fork", "multiprocessing"])
def test_a_forked_child_goes_on_from_the_same_state_on_a_connection_of_its_own(
    front: str, way: str, tmp_path: Path
) -> None:
    with RawServer(service) as server:
        with client("fork", front, way, server.url, tmp_path) as process:
            assert finished(process, front) == ["child 200 child", "exit code of the child 0", "parent 200 parent"]
        start, child, parent = server.requests
    assert json.loads(child.body)["previous_mpid"] == "100"
    assert json.loads(parent.body)["previous_mpid"] == "child", "what the child did, the parent knows"
    assert (start.connection, child.connection, parent.connection) == (0, 1, 0)


@FORKS
def test_a_child_that_is_forked_amid_calls_and_locks_of_other_threads_works(tmp_path: Path) -> None:
    with RawServer(service) as server, client("fork_amid", "sync", server.url, tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server.wait_for_requests(2)
        process.stdin.write("in flight\n")
        process.stdin.flush()
        assert process.stdout.readline() == "in the child\n"
        process.stdin.write("release\n")
        process.stdin.flush()
        assert finished(process) == ["child 200 child", "exit code of the child 0", "parent -2"]
        start, hanging, child = server.requests
    assert {start.connection, hanging.connection} == {0}
    assert child.connection == 1
