"""Servers that tests talk to over real loopback sockets, and one way to drive both fronts.

`RawServer` plays a script on a socket, byte by byte, well-behaved or not; `ServiceServer` serves the embedded
service over HTTP. Both record what arrived and leave no thread behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest

from identity_session import AsyncIdentitySession, IdentitySession, MemoryStorage
from identity_session.exchange import HTTPRequest
from identity_session.idsync import LocalIDSync

FRONTS = pytest.mark.parametrize("front", ["sync", "async"])
MPID = "-5270928349802385746"
PATIENCE_SECONDS = 5.0
"""How long a test waits for something that happens at once; reached only when the test fails."""


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


def http(status: int = 200, body: object = b"", /, **headers: object) -> bytes:
    """An HTTP answer in bytes; a body that is not bytes is sent as JSON. `retry_after=1` is a header."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content-type": "application/json", "content-length": len(data)}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode("latin-1") + data


@dataclass(frozen=True)
class RawRequest:
    """One request as it arrived."""

    raw: bytes
    connection: int

    @property
    def method(self) -> str:
        return self.raw.split(b" ", 2)[0].decode()

    @property
    def target(self) -> str:
        return self.raw.split(b" ", 2)[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Peer:
    """One connection, from the server's side."""

    def __init__(self, server: RawServer, connection: socket.socket, number: int) -> None:
        self._server = server
        self._socket = connection
        self._number = number
        self._unread = b""

    def request(self) -> RawRequest | None:
        """Read one request; None when the client is gone."""
        while b"\r\n\r\n" not in self._unread:
            if not self._receive():
                return None
        head, _, rest = self._unread.partition(b"\r\n\r\n")
        request = RawRequest(head + b"\r\n\r\n", self._number)
        length = int(request.headers.get("content-length", 0))
        while len(rest) < length:
            if not self._receive():
                return None
            rest = self._unread.partition(b"\r\n\r\n")[2]
        self._unread = rest[length:]
        request = RawRequest(request.raw + rest[:length], self._number)
        self._server.record(request)
        return request

    def _receive(self) -> bool:
        chunk = self._socket.recv(65536)
        self._unread += chunk
        return bool(chunk)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def drip(self, data: bytes, every: float = 0.02) -> None:
        """Send a byte at a time for as long as somebody is there."""
        for byte in data:
            self.send(bytes([byte]))
            if self.wait(every):
                break

    def wait(self, seconds: float) -> bool:
        """Wait; True when the server ends meanwhile."""
        return self._server.ending.wait(seconds)

    def hold(self) -> None:
        """Say nothing until the client leaves."""
        while self._socket.recv(65536):
            pass

    def sip(self, every: float = 0.005) -> None:
        """Take what the client sends in small sips."""
        while not self.wait(every) and self._socket.recv(32768):
            pass

    def reset(self) -> None:
        """Break the connection off with a reset instead of an orderly end."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


HOLD = Peer.hold
RESET = Peer.reset
Step = bytes | float | Callable[[Peer], object]
Handler = Callable[[Peer], object] | Sequence[Step]


def answers(*responses: bytes) -> Callable[[Peer], None]:
    """Answer the requests of a connection in turn and keep it open; the last answer is repeated."""

    def handler(peer: Peer) -> None:
        number = 0
        while peer.request():
            peer.send(responses[min(number, len(responses) - 1)])
            number += 1

    return handler


class RawServer:
    """Plays one handler per connection, the last one again for every further connection.

    A handler is a function of a `Peer`, or a list of steps that follow one request: bytes to send, seconds to wait, or
    a function such as HOLD and RESET; then the connection is closed.
    """

    def __init__(self, *handlers: Handler, receive_buffer: int | None = None) -> None:
        self.requests: list[RawRequest] = []
        self.connections = 0
        self.ending = threading.Event()
        self._handlers = handlers
        self._news = threading.Condition()
        self._peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self._faults: list[BaseException] = []
        self._listener = socket.socket()
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(50)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE_SECONDS)
        self._listener.close()
        for peer in self._peers:
            peer.close()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        assert not any(thread.is_alive() for thread in (self._acceptor, *self._threads))
        assert self._faults == []

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    def record(self, request: RawRequest) -> None:
        with self._news:
            self.requests.append(request)
            self._news.notify_all()

    def wait_for_requests(self, number: int) -> None:
        """Return once this many requests have arrived."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.requests) >= number, PATIENCE_SECONDS)

    def wait_for_quiet(self) -> None:
        """Return once every connection so far has been served to its end."""
        for thread in list(self._threads):
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while not self.ending.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = Peer(self, connection, self.connections)
            handler = self._handlers[min(self.connections, len(self._handlers) - 1)]
            self.connections += 1
            self._peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(handler, peer))
            self._threads.append(thread)
            thread.start()

    def _serve(self, handler: Handler, peer: Peer) -> None:
        try:
            if callable(handler):
                handler(peer)
            elif peer.request():
                for step in handler:
                    if isinstance(step, bytes):
                        peer.send(step)
                    elif callable(step):
                        step(peer)
                    else:
                        peer.wait(step)
        except OSError:
            pass  # the client left, as it may
        except BaseException as fault:
            self._faults.append(fault)
        finally:
            peer.close()


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
