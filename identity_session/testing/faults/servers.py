"""A server on a raw socket: it plays a script byte by byte, well-behaved or not, and notes what arrives."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

PATIENCE_SECONDS = 30.0
"""How long a server waits for what happens at once; reached only when a program or a handler hangs."""


def http(status: int = 200, body: object = b"", /, **headers: object) -> bytes:
    """An HTTP answer in bytes; a body that is not bytes is sent as JSON. `retry_after=1` is a header."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content-type": "application/json", "content-length": len(data)}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode("latin-1") + data


@dataclass(frozen=True, repr=False)
class RawRequest:
    """One request as it arrived."""

    raw: bytes
    connection: int
    """The number of its connection, from 0."""

    @property
    def method(self) -> str:
        """GET, POST or another."""
        return self.raw.split(b" ", 2)[0].decode()

    @property
    def target(self) -> str:
        """The path with its query, as sent."""
        return self.raw.split(b" ", 2)[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        """The headers by lower-case name."""
        lines = self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def body(self) -> bytes:
        """What follows the headers."""
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def json(self) -> dict[str, Any]:
        """The body, read as JSON."""
        content: dict[str, Any] = json.loads(self.body)
        return content


class Peer:
    """One connection, from the server's side. Its methods raise OSError once the client has left, as it may."""

    def __init__(self, server: RawServer, connection: socket.socket, number: int) -> None:
        self._server = server
        self._socket = connection
        self._number = number
        self._unread = b""

    def request(self) -> RawRequest | None:
        """Read one request and note it; None when the client is gone."""
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
        """Send these bytes as they are."""
        self._socket.sendall(data)

    def drip(self, data: Iterable[int], every: float = 0.02) -> None:
        """Send a byte every so many seconds for as long as somebody is there."""
        for byte in data:
            self.send(bytes([byte]))
            if self.wait(every):
                break

    def wait(self, seconds: float) -> bool:
        """Wait so many seconds; True when the server ends meanwhile."""
        return self._server.ending.wait(seconds)

    def hold(self) -> None:
        """Say nothing until the client leaves."""
        while self._socket.recv(65536):
            pass

    def sip(self, every: float = 0.005) -> None:
        """Take what the client sends in small sips, one every so many seconds."""
        while not self.wait(every) and self._socket.recv(32768):
            pass

    def reset(self) -> None:
        """Break the connection off with a reset instead of an orderly end."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Close the connection in the orderly way."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


HOLD = Peer.hold
"""A step: say nothing more until the client leaves."""
RESET = Peer.reset
"""A step: break the connection off."""
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
    """Plays one handler per connection on a free port of this machine, the last one again for every further connection.

    A handler is a function of a `Peer`, or a list of steps that follow one request: bytes to send, seconds to wait, or
    a function such as HOLD and RESET; then the connection is closed. `url` is what a session takes as `base_url`.
    `receive_buffer` (bytes) bounds what is taken in unread. It serves while its block lasts; leaving the block raises
    what a handler has raised, and RuntimeError if one does not end.
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
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
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
        if any(thread.is_alive() for thread in (self._acceptor, *self._threads)):
            raise RuntimeError("a handler does not end")
        if self._faults:
            raise self._faults[0]

    @property
    def targets(self) -> list[str]:
        """The paths asked for, in order."""
        return [request.target for request in self.requests]

    def record(self, request: RawRequest) -> None:
        """Note a request that arrived."""
        with self._news:
            self.requests.append(request)
            self._news.notify_all()

    def wait_for_requests(self, number: int) -> None:
        """Return once this many requests have arrived. Raises TimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.requests) >= number, PATIENCE_SECONDS):
                raise TimeoutError(f"{len(self.requests)} of {number} requests have arrived")

    def wait_for_quiet(self) -> None:
        """Return once every connection so far has been served to its end. Raises TimeoutError."""
        with self._news:
            threads = list(self._threads)
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
            if thread.is_alive():
                raise TimeoutError("a connection is still served")

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
            thread = threading.Thread(target=self._serve, args=(handler, peer), daemon=True)
            with self._news:  # who waits for the threads finds none that has not begun
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
