"""The network below a session, in which nothing lasts longer than the call it is for, on both fronts.

httpx and httpcore know no deadline for a whole call: each byte read restarts their clocks. So the synchronous network
runs on a backend for httpcore that clamps every wait to the time left; the asynchronous one is cancelled. The system's
resolver knows no deadline either, and is left behind in a thread when it takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import ssl
import threading
import typing
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import httpcore

from .clock import monotonic
from .config import is_loopback
from .threads import after_fork, in_daemon_thread

NO_CONNECTION = (httpcore.ConnectError, httpcore.ConnectTimeout)

_WRITE_BYTES = 16 * 1024
KEEP_SECONDS = 5.0
"""How long a connection is kept unused. One that a router dropped without a word looks like any other, and would use
up the whole time of the next call."""

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline")

Pool = typing.TypeVar("Pool", httpcore.ConnectionPool, httpcore.AsyncConnectionPool)


@contextlib.contextmanager
def deadline_in(seconds: float) -> Iterator[None]:
    """What is sent inside the block is given up after so many seconds."""
    token = _deadline.set(monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left(error: type[Exception]) -> float:
    """How much of the time for this call is left; raises this error when it is over."""
    left = _deadline.get() - monotonic()
    if left <= 0:
        raise error("the time for this call is over")
    return left


class Connections:
    """Connections of the synchronous front, one pool for each way there is (directly, or through a proxy)."""

    def __init__(self, new_context: Callable[[], ssl.SSLContext]) -> None:
        self._new_context = new_context
        self._pools: dict[_Way, httpcore.ConnectionPool] = {}
        self._lock = threading.Lock()
        after_fork(self, Connections._leave_to_the_parent)

    def exchange(self, request: httpcore.Request) -> httpcore.Response:
        """Send the request within the deadline; the body is still to be read, and the response to be closed."""
        response = self._pool(_way_to(request.url)).handle_request(request)
        if _came_unasked(response):
            response.close()
            raise httpcore.RemoteProtocolError("an answer came before it was asked for")
        return response

    def close(self) -> None:
        """Let go of them."""
        for pool in self._pools.values():
            pool.close()

    def _pool(self, way: _Way) -> httpcore.ConnectionPool:
        with self._lock:
            if way not in self._pools:
                self._pools[way] = _new_pool(
                    httpcore.ConnectionPool, httpcore.HTTPProxy, way, _DeadlineBackend(), self._new_context
                )
            return self._pools[way]

    def _leave_to_the_parent(self) -> None:
        # Two processes on one connection would read each other's answers. Not closed as a pool, whose lock may be held.
        pools, self._pools, self._lock = self._pools, {}, threading.Lock()
        for pool in pools.values():
            for connection in pool.connections:
                connection.close()


class AsyncConnections:
    """The same for the asynchronous front, in one event loop at a time."""

    def __init__(self, new_context: Callable[[], ssl.SSLContext]) -> None:
        self._new_context = new_context
        self._pools: dict[_Way, httpcore.AsyncConnectionPool] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def exchange(self, request: httpcore.Request) -> httpcore.Response:
        """See `Connections.exchange`."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # connections made in another event loop end with that one
            self._loop, self._pools = loop, {}
        way = _way_to(request.url)
        if way not in self._pools:
            self._pools[way] = _new_pool(
                httpcore.AsyncConnectionPool, httpcore.AsyncHTTPProxy, way, _AsyncBackend(), self._new_context
            )
        response = await self._pools[way].handle_async_request(request)
        if _came_unasked(response):
            await response.aclose()
            raise httpcore.RemoteProtocolError("an answer came before it was asked for")
        return response

    async def aclose(self) -> None:
        """See `Connections.close`."""
        if self._loop is asyncio.get_running_loop():
            for pool in self._pools.values():
                await pool.aclose()


@dataclass(frozen=True, repr=False)
class _Way:
    """How a service is reached: a scheme, and the URL of a proxy (which may hold its password) or None."""

    scheme: str
    proxy: str | None


def _way_to(url: httpcore.URL) -> _Way:
    scheme, host = url.scheme.decode("ascii"), url.host.decode("ascii")
    return _Way(scheme, _proxy_for(scheme, host))


def _proxy_for(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for this service; never one for loopback."""
    if is_loopback(host):
        return None
    proxy = urllib.request.getproxies().get(scheme)
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _new_pool(
    direct: Callable[..., Pool],
    proxied: Callable[..., Pool],
    way: _Way,
    backend: object,
    new_context: Callable[[], ssl.SSLContext],
) -> Pool:
    # Reading the certificates takes longer than a call; plain http, which is for loopback alone, needs none.
    context = new_context() if way.scheme == "https" else None
    if way.proxy is None:
        return direct(ssl_context=context, network_backend=backend, keepalive_expiry=KEEP_SECONDS)
    parts = urlsplit(way.proxy)
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return proxied(
        address, proxy_auth=auth, ssl_context=context, network_backend=backend, keepalive_expiry=KEEP_SECONDS
    )


def _came_unasked(response: httpcore.Response) -> bool:
    """Whether this is what an earlier answer on the same connection had in tow: it may be about another user."""
    stream = response.extensions.get("network_stream")
    return isinstance(stream, _DeadlineStream | _AsyncNetworkStream) and not stream.heard


class _DeadlineBackend(httpcore.NetworkBackend):
    """httpcore's network, in which nothing lasts longer than the call it is for."""

    def __init__(self) -> None:
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: typing.Iterable[typing.Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("the host has no address")
        for address, share in _shares(_resolve(host, port)):
            try:
                stream = self._network.connect_tcp(address, port, share, local_address, socket_options)
            except NO_CONNECTION as error:
                failure = error
            else:
                return _DeadlineStream(stream)
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    heard = False
    """Whether anything has been read since something was last written."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.heard = True
        return self._stream.read(max_bytes, seconds_left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.heard = False
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._stream.write(buffer[start : start + _WRITE_BYTES], seconds_left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = seconds_left(httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> typing.Any:
        return self._stream.get_extra_info(info)


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    """httpcore's network, in which no executor's thread is left waiting for a name, and no socket open."""

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: typing.Iterable[typing.Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("the host has no address")
        for address, share in _shares(await _resolve_async(host, port)):
            try:
                stream = await self._network.connect_tcp(address, port, share, local_address, socket_options)
            except NO_CONNECTION as error:
                failure = error
            else:
                return _AsyncNetworkStream(stream)
        raise failure


class _AsyncNetworkStream(httpcore.AsyncNetworkStream):
    heard = False
    """See `_DeadlineStream`."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.heard = True
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.heard = False
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _AsyncNetworkStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:  # httpcore closes it too, but not when cancelled
            await self.aclose()
            raise

    def get_extra_info(self, info: str) -> typing.Any:
        return self._stream.get_extra_info(info)


def _shares(addresses: list[str]) -> Iterator[tuple[str, float]]:
    """Each address, and how much of the time left may be spent on it."""
    for number, address in enumerate(addresses):
        yield address, seconds_left(httpcore.ConnectTimeout) / (len(addresses) - number)


def _resolve(host: str, port: int) -> list[str]:
    try:
        return in_daemon_thread(_addresses, host, port).result(seconds_left(httpcore.ConnectTimeout))
    except TimeoutError as error:
        raise httpcore.ConnectTimeout("the host name could not be looked up in time") from error


async def _resolve_async(host: str, port: int) -> list[str]:
    return await asyncio.wrap_future(in_daemon_thread(_addresses, host, port))


def _addresses(host: str, port: int) -> list[str]:
    try:
        return list(dict.fromkeys(str(a[4][0]) for a in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    except (OSError, UnicodeError) as error:  # the latter for what can be no host name
        why = getattr(error, "strerror", None) or type(error).__name__
        raise httpcore.ConnectError(f"the host name could not be looked up: {why}") from None
