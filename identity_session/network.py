"""The network below a session, in which nothing lasts longer than the call it is for, on both fronts.

httpx and httpcore know no deadline for a whole call: each byte read restarts their clocks. So the synchronous network
runs on a backend for httpcore that clamps every wait to the time left; the asynchronous one is cancelled. The system's
resolver knows no deadline either, and is left behind in a thread when it takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import socket
import ssl
import threading
import typing
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import httpcore

from .aioclock import to_its_end
from .clock import monotonic
from .config import is_loopback
from .threads import after_fork, in_daemon_thread

NO_CONNECTION = (httpcore.ConnectError, httpcore.ConnectTimeout)

_WRITE_BYTES = 16 * 1024
_READ_BYTES = 8 * 1024
"""Few enough that what is made of them, however many answers or chunks, takes no time that matters to a deadline."""
KEEP_SECONDS = 5.0
"""How long a connection is kept unused. One that a router dropped without a word looks like any other, and would use
up the whole time of the next call."""
KEPT_CONNECTIONS = 10
"""How many are kept unused, for each way there is to a service."""

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline")

Pool = typing.TypeVar("Pool", bound=httpcore.ConnectionPool | httpcore.AsyncConnectionPool)


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


class _Pools(typing.Generic[Pool]):
    """Pools of one connection each. A call takes one for itself, so that no call waits for another; and a connection
    that a call leaves in the middle of something is not used again."""

    def __init__(self, new: Callable[[_Way], Pool]) -> None:
        self._new = new
        self._unused: dict[_Way, list[Pool]] = {}
        self._used: set[Pool] = set()
        self._lock = threading.Lock()

    def take(self, way: _Way) -> Pool:
        """One for a call."""
        with self._lock:
            unused = self._unused.get(way)
            pool = unused.pop() if unused else self._new(way)
            self._used.add(pool)
            return pool

    def give_back(self, way: _Way, pool: Pool) -> bool:
        """Keep it for another call, and say so; otherwise it is to be closed."""
        with self._lock:
            unused = self._unused.setdefault(way, [])
            in_order = pool in self._used and all(connection.is_idle() for connection in pool.connections)
            self._used.discard(pool)
            if not in_order or len(unused) >= KEPT_CONNECTIONS:
                return False
            unused.append(pool)
            return True

    def retire(self) -> list[Pool]:
        """Those that no call uses, which are to be closed; the others are not taken back any more."""
        with self._lock:
            unused = [pool for pools in self._unused.values() for pool in pools]
            self._unused.clear()
            self._used.clear()
            return unused

    def all(self) -> list[Pool]:
        """All there are. Asks for no lock, which a thread may hold that a forked child does not have."""
        return [*self._used, *(pool for pools in self._unused.values() for pool in pools)]


class Connections:
    """Connections of the synchronous front."""

    def __init__(self, new_context: Callable[[], ssl.SSLContext]) -> None:
        self._new_context = functools.cache(new_context)
        self._pools = self._no_pools()
        after_fork(self, Connections._leave_to_the_parent)

    def keep_deadlines(self, url: httpcore.URL) -> bool:
        """Not behind a proxy spoken to over TLS: in TLS within TLS, httpcore restarts its clock with each byte."""
        proxy = _way_to(url).proxy
        return proxy is None or not proxy.lower().startswith("https:")

    @contextlib.contextmanager
    def exchange(self, request: httpcore.Request) -> Iterator[httpcore.Response]:
        """Send the request within the deadline; the body is to be read within the block."""
        pools, way = self._pools, _way_to(request.url)
        pool = pools.take(way)
        try:
            response = pool.handle_request(request)
            try:
                _check_was_asked_for(response)
                yield response
            finally:
                response.close()
        finally:
            if not pools.give_back(way, pool):
                pool.close()

    def close(self) -> None:
        """Let go of them; of one that a call uses, when the call ends."""
        for pool in self._pools.retire():
            pool.close()

    def _no_pools(self) -> _Pools[httpcore.ConnectionPool]:
        backend = _DeadlineBackend()
        return _Pools(
            lambda way: _new_pool(httpcore.ConnectionPool, httpcore.HTTPProxy, way, backend, self._new_context)
        )

    def _leave_to_the_parent(self) -> None:
        # Two processes on one connection would read each other's answers. Not closed as a pool, whose lock may be held.
        pools, self._pools = self._pools.all(), self._no_pools()
        for pool in pools:
            for connection in pool.connections:
                connection.close()


class AsyncConnections:
    """The same for the asynchronous front, in one event loop at a time."""

    def __init__(self, new_context: Callable[[], ssl.SSLContext]) -> None:
        self._new_context = functools.cache(new_context)
        self._pools = self._no_pools()
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.asynccontextmanager
    async def exchange(self, request: httpcore.Request) -> AsyncIterator[httpcore.Response]:
        """See `Connections.exchange`. What is closed is closed to its end, whoever is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # connections made in another event loop end with that one
            self._loop, self._pools = loop, self._no_pools()
        pools, way = self._pools, _way_to(request.url)
        pool = pools.take(way)
        try:
            response = await pool.handle_async_request(request)
            try:
                _check_was_asked_for(response)
                yield response
            finally:
                await to_its_end(asyncio.ensure_future(response.aclose()))
        finally:
            if not pools.give_back(way, pool):
                await to_its_end(asyncio.ensure_future(pool.aclose()))

    async def aclose(self) -> None:
        """See `Connections.close`."""
        if self._loop is asyncio.get_running_loop():
            for pool in self._pools.retire():
                await pool.aclose()

    def _no_pools(self) -> _Pools[httpcore.AsyncConnectionPool]:
        backend = _AsyncBackend()
        return _Pools(
            lambda way: _new_pool(
                httpcore.AsyncConnectionPool, httpcore.AsyncHTTPProxy, way, backend, self._new_context
            )
        )


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
    options = {
        # Reading the certificates takes longer than a call; plain http, which is for loopback alone, needs none.
        "ssl_context": new_context() if way.scheme == "https" else None,
        "network_backend": backend,
        "max_connections": 1,
        "keepalive_expiry": KEEP_SECONDS,
    }
    if way.proxy is None:
        return direct(**options)
    try:
        parts = urlsplit(way.proxy)
        auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
        if parts.scheme == "https":
            options["proxy_ssl_context"] = new_context()
        return proxied(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", proxy_auth=auth, **options)
    except ValueError:
        raise httpcore.ProxyError("the proxy that the environment names is not one for http") from None


def _check_was_asked_for(response: httpcore.Response) -> None:
    """Refuse what an earlier answer on the same connection had in tow: it may be about another user."""
    stream = response.extensions.get("network_stream")
    if isinstance(stream, _DeadlineStream | _AsyncNetworkStream) and not stream.heard:
        raise httpcore.RemoteProtocolError("an answer came before it was asked for")


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
        return self._stream.read(min(max_bytes, _READ_BYTES), seconds_left(httpcore.ReadTimeout))

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
        return await self._stream.read(min(max_bytes, _READ_BYTES), timeout)

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
