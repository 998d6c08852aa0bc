"""uvicorn with what it lacks: a deadline for the head of a request, connections closed without an answer, and an end
that answers what was accepted. Needs the extra `server`.

Sources of the last: socket(7), `SO_ATTACH_FILTER`; "Linux Socket Filtering" of the kernel's documentation.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import ABORT

HEAD_SECONDS = 10.0
"""A request whose head is not complete by then is cut off: each one that drips would hold a connection for good."""

HEAD_LIMIT_BYTES = 32 * 1024
"""Browsers send a few KB at most."""

GRACE_SECONDS = 7
"""How long requests under way may take once connections had their time to close. Both together outlast WAIT_SECONDS: a
call that is cut off while it waits for the store is answered 500, and may be carried out all the same. END_SECONDS
outlasts both."""


class Connection(H11Protocol):
    """One connection of a client."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline: asyncio.TimerHandle | None = None
        serve = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await serve({**scope, "extensions": {ABORT: self.transport.abort}}, receive, send)

        self.app = app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Head and body are written one after the other; the second would wait until the client has acknowledged the
        # first, which takes it 40 ms. asyncio sees to this for sockets of its own making only.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """Give a head that has begun, or a connection that has not, its deadline; a complete head ends it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """Serves an application on listening sockets until SIGTERM or SIGINT. `ready` is called once it does, `ending`
    when it was asked to end."""

    drain_seconds = 1.5
    """How long connections may stay after that: their next answer tells them to close. One that says nothing for so
    long is closed, which a request that its client sends at that moment does not survive."""

    settle_seconds = 0.1
    """How long connections that are being made may take; over a loopback they are there at once."""

    def __init__(self, app: Any, ready: Callable[[], None], ending: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # it would show keys and MPIDs
            log_level="critical",
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=HEAD_LIMIT_BYTES,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        super().__init__(config)
        self._ready = ready
        self._ending = ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        headers = [*self.server_state.default_headers, (b"connection", b"close")]
        self.server_state.default_headers = headers
        for connection in self.server_state.connections:  # requests under way have the headers of their beginning
            cycle = getattr(connection, "cycle", None)
            if cycle is not None:
                cycle.default_headers = headers
        await self._stop_listening(sockets or [])
        await self._drain()
        await super().shutdown(sockets)

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Take no more connections, but those that clients were already told they have."""
        for sock in sockets:
            ignore_newcomers(sock)
        # Meanwhile the loop accepts all that wait: up to uvicorn's backlog each time it looks.
        await asyncio.sleep(self.settle_seconds)
        for server in self.servers:
            server.close()

    async def _drain(self) -> None:
        """Wait until there are no connections any more, or no more time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.drain_seconds
        while self.server_state.connections and loop.time() < until:
            await asyncio.sleep(0.01)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises a signal again once it has ended, which would not look like an orderly end."""
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


_SO_ATTACH_FILTER = 26

# Instructions of the filter, as <linux/bpf_common.h> numbers them.
_LOAD_BYTE = 0x30
_SKIP_UNLESS_BITS = 0x45
_RETURN = 0x06

# The filter sees a segment from its TCP header on, under IPv4 and IPv6 alike.
_FLAGS_OFFSET = 13
_SYN = 0x02
_NOTHING, _EVERYTHING = 0, 0xFFFFFFFF

# Code, instructions to skip if the bits are there and if they are not, operand.
_FILTER = (
    (_LOAD_BYTE, 0, 0, _FLAGS_OFFSET),
    (_SKIP_UNLESS_BITS, 0, 1, _SYN),
    (_RETURN, 0, 0, _NOTHING),
    (_RETURN, 0, 0, _EVERYTHING),
)


def ignore_newcomers(sock: socket.socket) -> None:
    """Let nobody begin a connection to a listening TCP socket any more, in any process that shares it.

    A socket that is closed resets the connections in its queue, and their clients have sent requests by then. Linux can
    drop the first segment of every further connection instead, which needs no privilege: the queue runs empty, and may
    be closed without loss.

    A client that tries is told nothing: it tries again a second later, and is refused if the socket is closed by then.
    Nothing happens on other systems than Linux, and where the kernel knows no filters.
    """
    if sys.platform == "linux":
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _FILTER))
        program = struct.pack("HP", len(_FILTER), ctypes.addressof(code))
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
