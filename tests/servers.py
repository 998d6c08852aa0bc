"""Servers that tests talk to over real loopback sockets, and one way to drive both fronts.

`RawServer`, which the package ships, plays a script on a socket, byte by byte; `ServiceServer` serves the embedded
service over HTTP. Both record what arrived and leave no thread behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest

from identity_session import AsyncIdentitySession, IdentitySession, MemoryStorage
from identity_session.exchange import HTTPRequest
from identity_session.idsync import LocalIDSync
from identity_session.testing.faults import HOLD, RESET, Handler, Peer, RawRequest, RawServer, Step, answers, http

__all__ = [
    "FRONTS",
    "HOLD",
    "MPID",
    "PATIENCE_SECONDS",
    "RESET",
    "Driven",
    "Handler",
    "Peer",
    "RawRequest",
    "RawServer",
    "ServiceServer",
    "Step",
    "answers",
    "http",
    "opened",
    "user_answer",
]

FRONTS = pytest.mark.parametrize("front", ["sync", "async"])
MPID = "-5270928349802385746"
PATIENCE_SECONDS = 5.0
"""What a call may take where a test does not say; reached only when one hangs."""


def user_answer(mpid: object = MPID, **members: object) -> dict[str, object]:
    """The body of a success."""
    return {
        "context": None,
        "mpid": mpid,
        "matched_identities": {},
        "is_ephemeral": False,
        "is_logged_in": False,
        **members,
    }


class ServiceServer:
    """An HTTP/1.1 server with keep-alive in front of an embedded service."""

    def __init__(self, idsync: LocalIDSync) -> None:
        self.targets: list[str] = []
        self.requests: list[HTTPRequest] = []
        outer = self

        class RequestHandler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one piece: two would wait for each other's acknowledgement

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = HTTPRequest(f"http://127.0.0.1{self.path}", self.path, headers, body, None)
                outer.targets.append(self.path)
                outer.requests.append(request)
                answer = idsync.transport.send(request, PATIENCE_SECONDS)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() != "content-length":
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False

            def process_request(self, request: Any, client_address: Any) -> None:
                outer._connections.append(request)
                super().process_request(request, client_address)

        self._connections: list[socket.socket] = []
        self._server = Server(("127.0.0.1", 0), RequestHandler)
        self.port: int = self._server.server_address[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE_SECONDS)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()  # waits for the threads of the connections

    @property
    def connections(self) -> int:
        return len(self._connections)


class Driven:
    """A session of either front with its calls made in the same way: what has to be awaited is."""

    def __init__(self, session: Any, run: Callable[[Any], Any]) -> None:
        self.session = session
        self._run = run

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.session, name)
        if not inspect.ismethod(member):
            return member

        def call(*arguments: Any, **options: Any) -> Any:
            answer = member(*arguments, **options)
            return self._run(answer) if inspect.isawaitable(answer) else answer

        return call


@contextlib.contextmanager
def opened(front: str, api_key: str = "us1-key", api_secret: str | None = None, **settings: Any) -> Iterator[Driven]:
    """A session of this front, not started, in memory unless told otherwise, and closed at the end."""
    settings.setdefault("storage", MemoryStorage())
    settings.setdefault("timeout", PATIENCE_SECONDS)
    if front == "sync":
        session = IdentitySession(api_key, api_secret, **settings)
        try:
            yield Driven(session, lambda answer: answer)
        finally:
            session.close()
        return
    with asyncio.Runner() as runner:

        async def wait_for(answer: Any) -> Any:
            return await answer

        async_session = AsyncIdentitySession(api_key, api_secret, **settings)
        try:
            yield Driven(async_session, lambda answer: runner.run(wait_for(answer)))
        finally:
            runner.run(async_session.close())
