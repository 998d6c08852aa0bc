"""Serves an IDSync service over loopback sockets, in a thread or by `identity-session serve`, and calls it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from idsync_driver import KEY, Answer, Driver

from identity_session.idsync import LocalIDSync
from identity_session.idsync.app import create_app
from identity_session.idsync.connections import Server
from identity_session.idsync.guard import Guard
from identity_session.idsync.serve import listener

PATIENCE_SECONDS = 30.0
"""How long a test waits for what happens soon; reached only when the test fails."""


class Client(Driver):
    """Calls a served service. One connection for each call."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"

    def request(
        self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own; a body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            return request_on(connection, method, target, body, headers)

    def post(self, target: str, body: object, headers: Mapping[str, str] = KEY) -> Answer:
        return self.request("POST", target, body, headers)

    def seed(self, **identities: str | Sequence[str]) -> str:
        return self.emulator("POST", "profiles", {"identities": identities}).mpid

    def profiles(self) -> list[dict[str, Any]]:
        return self.emulator("GET", "profiles").body["profiles"]

    def emulator(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request(method, f"/emulator/{path}", body, headers)

    def raw(self, data: bytes) -> bytes:
        """Send these bytes, or as many as it takes, and read until the service closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            return read_to_end(connection)


def request_on(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, target, data, dict(headers or {}))
    return answer_on(connection)


def answer_on(connection: http.client.HTTPConnection) -> Answer:
    answer = connection.getresponse()
    return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            data += chunk
    return data


@contextlib.contextmanager
def serving(idsync: LocalIDSync, guard: Guard | None = None, *, shared: bool = False) -> Iterator[Client]:
    """The application behind a real socket, in a thread of this process."""
    up = threading.Event()

    class ThreadServer(Server):
        drain_seconds = settle_seconds = 0.0

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    with listener("127.0.0.1", 0) as sock:
        server = ThreadServer(create_app(idsync, guard, shared=shared), up.set, lambda: None)
        port = sock.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            assert up.wait(PATIENCE_SECONDS)
            yield Client(port)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()


class ServeProcess(Client):
    """`identity-session serve` in a process of its own; leaving the context kills it, unless it has ended."""

    def __init__(
        self, *options: str, env: Mapping[str, str] | None = None, program: Sequence[str] = ("-m", "identity_session")
    ) -> None:
        self.process = start_serve("--port", "0", *options, env=env, program=program)
        self.first_line = first_line(self.process)
        super().__init__(int(self.first_line.rpartition(":")[2]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Ask it to end. Returns its exit code and all it printed after the first line."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, out, err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)


def start_serve(
    *options: str, env: Mapping[str, str] | None = None, program: Sequence[str] = ("-m", "identity_session")
) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", *program, "serve", *options]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


def first_line(process: subprocess.Popen[str]) -> str:
    """The first line that a process prints; whatever it complains of when there is none."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], PATIENCE_SECONDS)
    line = process.stdout.readline() if readable else ""
    if not line:
        ended = process.poll()
        process.kill()
        raise AssertionError(ended, *process.communicate(timeout=PATIENCE_SECONDS))
    return line.rstrip("\n")
