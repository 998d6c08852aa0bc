"""The one place that touches httpx, and the wall between a call and the network: authentication, a hard deadline for
all of a call, a bound on the size of an answer, and trouble of every kind as one exception.

httpx knows no deadline for a whole call: each byte read restarts its clock. So the synchronous network runs on a
backend for httpcore that clamps every wait to the time left; the asynchronous one is cancelled. httpx's client is
left out on purpose: it logs URLs (the URL of a modify names the user), keeps cookies and may follow redirects.
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
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from urllib.parse import unquote, urlsplit

import httpcore
import httpx

from .aioclock import async_deadline
from .clock import monotonic
from .config import is_loopback
from .exchange import HTTPAnswer, HTTPRequest, SendError
from .signing import Credentials

MAX_ANSWER_BYTES = 1024 * 1024

_WRITE_BYTES = 16 * 1024
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
    httpcore.PoolTimeout,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
"""What goes wrong before a request can have reached the service."""

_TOO_LATE = (TimeoutError, httpx.TimeoutException, httpcore.TimeoutException)

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline")


class IdentityAuth(httpx.Auth):
    """Authentication of the Identity API for httpx: HMAC, Basic or key only, as these credentials say.

    Source: documentation page "HTTP API" of IDSync, "Authentication".
    """

    requires_request_body = True

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        target = request.url.raw_path.decode("ascii")
        request.headers.update(self._credentials.headers(request.method, target, request.content))
        yield request


class HttpxSender:
    """Sends through an httpx transport, and closes it if it is this sender's own."""

    def __init__(self, transport: httpx.BaseTransport, *, owned: bool) -> None:
        self._transport = transport
        self._owned = owned

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        deadline = monotonic() + seconds
        token = _deadline.set(deadline)
        try:
            with _as_send_error():
                response = self._transport.handle_request(_signed(request, seconds, _hush))
                try:
                    body = _Body(response)
                    if not response.is_stream_consumed:
                        for chunk in response.iter_raw():
                            if monotonic() > deadline:
                                raise TimeoutError
                            if not body.take(chunk):
                                break
                    return body.answer()
                finally:
                    response.close()
        finally:
            _deadline.reset(token)

    def close(self) -> None:
        if self._owned:
            self._transport.close()


class AsyncHttpxSender:
    """Sends through an asynchronous httpx transport, and closes it if it is this sender's own."""

    def __init__(self, transport: httpx.AsyncBaseTransport, *, owned: bool) -> None:
        self._transport = transport
        self._owned = owned

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        with _as_send_error():
            async with async_deadline(seconds):
                response = await self._transport.handle_async_request(_signed(request, seconds, _hush_async))
                try:
                    body = _Body(response)
                    if not response.is_stream_consumed:
                        async for chunk in response.aiter_raw():
                            if not body.take(chunk):
                                break
                    return body.answer()
                finally:
                    await response.aclose()

    async def aclose(self) -> None:
        if self._owned:
            await self._transport.aclose()


class _Body:
    """The body of an answer while it arrives: decompressed, and never larger than it may be.

    What cannot be decompressed, or is too large, counts as an unreadable body; the answer keeps its status.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._data = bytearray(response.content if response.is_stream_consumed else b"")
        self._readable = len(self._data) <= MAX_ANSWER_BYTES
        compressed = response.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip", "deflate")
        self._decoder = zlib.decompressobj(wbits=47) if compressed else None

    def take(self, chunk: bytes) -> bool:
        """Take the next bytes; False when no more are wanted."""
        try:
            room = MAX_ANSWER_BYTES + 1 - len(self._data)
            self._data += self._decoder.decompress(chunk, room) if self._decoder else chunk
        except zlib.error:
            self._readable = False
        if len(self._data) > MAX_ANSWER_BYTES:
            self._readable = False
        return self._readable

    def answer(self) -> HTTPAnswer:
        headers = {name.lower(): value for name, value in self._response.headers.items()}
        return HTTPAnswer(self._response.status_code, headers, bytes(self._data) if self._readable else b"")


def _signed(request: HTTPRequest, seconds: float, trace: Callable[[str, dict[str, object]], object]) -> httpx.Request:
    extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), seconds), "trace": trace}
    signed = httpx.Request(
        "POST", request.url, headers=dict(request.headers), content=request.body, extensions=extensions
    )
    if request.credentials:
        signed = next(IdentityAuth(request.credentials).auth_flow(signed))
    return signed


def _hush(name: str, info: dict[str, object]) -> None:
    """Take from httpcore's debug records what the service said: a redirect, say, may repeat the URL of the request."""
    if "return_value" in info:
        info["return_value"] = None
    if "exception" in info:
        info["exception"] = type(info["exception"])


async def _hush_async(name: str, info: dict[str, object]) -> None:
    _hush(name, info)


@contextlib.contextmanager
def _as_send_error() -> Iterator[None]:
    try:
        yield
    except _NOT_SENT as error:
        raise SendError(f"no connection to the service ({_what(error)})", sent=False) from error
    except _TOO_LATE as error:
        raise SendError("no answer from the service within the time allowed", sent=True) from error
    except Exception as error:  # whatever else a transport raises is the network's doing too, as far as a call goes
        raise SendError(f"no answer from the service ({_what(error)})", sent=True) from error


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# The network


class Network(httpx.BaseTransport):
    """Connections of the synchronous front, one pool for each way there is (directly, or through a proxy)."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, str | None], httpcore.ConnectionPool] = {}
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        response = self._pool(request.url).handle_request(
            httpcore.Request(
                "POST", url, headers=request.headers.raw, content=request.stream, extensions=request.extensions
            )
        )
        assert isinstance(response.stream, typing.Iterable)
        return httpx.Response(response.status, headers=response.headers, stream=_Stream(response.stream))

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def _pool(self, url: httpx.URL) -> httpcore.ConnectionPool:
        proxy = _proxy_for(url)
        with self._lock:
            key = (url.scheme, proxy)
            if key not in self._pools:
                self._pools[key] = _new_pool(url.scheme, proxy)
            return self._pools[key]


class _Stream(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        if hasattr(self._stream, "close"):
            self._stream.close()


class AsyncNetwork(httpx.AsyncBaseTransport):
    """Connections of the asynchronous front; httpx's own will do, since a call can be cancelled as a whole."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, str | None], httpx.AsyncHTTPTransport] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # connections made in another event loop end with that one
            self._loop, self._transports = loop, {}
        key = (request.url.scheme, _proxy_for(request.url))
        if key not in self._transports:
            verify = _ssl_context(key[0]) or False
            self._transports[key] = httpx.AsyncHTTPTransport(verify=verify, proxy=key[1])
        return await self._transports[key].handle_async_request(request)

    async def aclose(self) -> None:
        if self._loop is asyncio.get_running_loop():
            for transport in self._transports.values():
                await transport.aclose()


def _new_pool(scheme: str, proxy: str | None) -> httpcore.ConnectionPool:
    context, backend = _ssl_context(scheme), _DeadlineBackend()
    if proxy is None:
        return httpcore.ConnectionPool(ssl_context=context, network_backend=backend)
    parts = urlsplit(proxy)
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return httpcore.HTTPProxy(address, proxy_auth=auth, ssl_context=context, network_backend=backend)


def _ssl_context(scheme: str) -> ssl.SSLContext | None:
    # Reading the certificates takes longer than a call; plain http, which is for loopback alone, needs none.
    return httpx.create_ssl_context() if scheme == "https" else None


def _proxy_for(url: httpx.URL) -> str | None:
    """The proxy that the environment names for this URL; never one for loopback."""
    if is_loopback(url.host):
        return None
    proxy = urllib.request.getproxies().get(url.scheme)
    if not proxy or urllib.request.proxy_bypass(url.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


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
        addresses = _resolve(host, port)
        for number, address in enumerate(addresses):
            share = _left(httpcore.ConnectTimeout) / (len(addresses) - number)
            try:
                stream = self._network.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses) - 1:
                    raise
            else:
                return _DeadlineStream(stream)
        raise httpcore.ConnectError("the host has no address")


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._stream.write(buffer[start : start + _WRITE_BYTES], _left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> typing.Any:
        return self._stream.get_extra_info(info)


def _left(error: type[Exception]) -> float:
    left = _deadline.get() - monotonic()
    if left <= 0:
        raise error("the time for this call is over")
    return left


def _resolve(host: str, port: int) -> list[str]:
    # The system's resolver knows no deadline, so it is left behind in a thread when it takes too long.
    found: list[str] = []
    failure: list[OSError | UnicodeError] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            found.extend(dict.fromkeys(str(a[4][0]) for a in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:  # the latter for what can be no host name
            failure.append(error)
        finally:
            done.set()

    threading.Thread(target=look_up, daemon=True).start()
    if not done.wait(_left(httpcore.ConnectTimeout)):
        raise httpcore.ConnectTimeout("the host name could not be looked up in time")
    if failure:
        why = getattr(failure[0], "strerror", None) or type(failure[0]).__name__
        raise httpcore.ConnectError(f"the host name could not be looked up: {why}")
    return found
