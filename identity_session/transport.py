"""The one place that touches httpx, and the wall between a call and a transport: authentication, a deadline for all of
it, a bound on the size of an answer, and trouble of every kind as one exception.

httpx's client is left out on purpose: it logs URLs (the URL of a modify names the user), keeps cookies and may follow
redirects.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import AsyncIterator, Callable, Iterator

import httpcore
import httpx

from .aioclock import async_deadline
from .exchange import HTTPAnswer, HTTPRequest, SendError
from .network import NO_CONNECTION, AsyncConnections, Connections, deadline_in, seconds_left
from .threads import in_daemon_thread

MAX_ANSWER_BYTES = 1024 * 1024
MAX_ANSWER_CHUNKS = 16 * 1024
"""A megabyte of single bytes would keep an event loop busy for long."""

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


class HttpxSender:
    """Sends through an httpx transport, and closes it if it is this sender's own."""

    def __init__(self, transport: httpx.BaseTransport, *, owned: bool) -> None:
        self._transport = transport
        self._owned = owned

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        with deadline_in(seconds), _as_send_error():
            if isinstance(self._transport, Network) and self._transport.keeps_deadlines(request.url):
                return self._exchange(request, seconds)
            # Any other is left behind when it is too late.
            return in_daemon_thread(self._exchange, request, seconds).result(seconds)

    def _exchange(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        response = self._transport.handle_request(_signed(request, seconds, _hush))
        try:
            body = _Body(response)
            if not response.is_stream_consumed:
                for chunk in response.iter_raw():
                    seconds_left(TimeoutError)
                    if not body.take(chunk):
                        break
            return body.answer()
        finally:
            response.close()

    def close(self) -> None:
        if self._owned:
            self._transport.close()


class AsyncHttpxSender:
    """Sends through an asynchronous httpx transport, and closes it if it is this sender's own."""

    def __init__(self, transport: httpx.AsyncBaseTransport, *, owned: bool) -> None:
        self._transport = transport
        self._owned = owned

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        with deadline_in(seconds), _as_send_error():
            async with async_deadline(seconds):
                response = await self._transport.handle_async_request(_signed(request, seconds, _hush_async))
                try:
                    body = _Body(response)
                    if not response.is_stream_consumed:
                        async for chunk in response.aiter_raw():
                            seconds_left(TimeoutError)  # as many chunks as were read at once come without a wait
                            if not body.take(chunk):
                                break
                    return body.answer()
                finally:
                    await response.aclose()

    async def aclose(self) -> None:
        if self._owned:
            await self._transport.aclose()


class Network(httpx.BaseTransport):
    """The synchronous front's own transport: httpx's shape over connections that end with the call."""

    def __init__(self) -> None:
        self._connections = Connections(httpx.create_ssl_context)

    def keeps_deadlines(self, url: str) -> bool:
        """Whether a request to this URL ends in time by itself."""
        return self._connections.keep_deadlines(_core_url(httpx.URL(url)))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        stack = contextlib.ExitStack()
        response = stack.enter_context(self._connections.exchange(_core_request(request)))
        return httpx.Response(response.status, headers=response.headers, stream=_Stream(response, stack))

    def close(self) -> None:
        self._connections.close()


class _Stream(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, stack: contextlib.ExitStack) -> None:
        self._response = response
        self._stack = stack

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        self._stack.close()


class AsyncNetwork(httpx.AsyncBaseTransport):
    """The same for the asynchronous front."""

    def __init__(self) -> None:
        self._connections = AsyncConnections(httpx.create_ssl_context)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        stack = contextlib.AsyncExitStack()
        response = await stack.enter_async_context(self._connections.exchange(_core_request(request)))
        return httpx.Response(response.status, headers=response.headers, stream=_AsyncStream(response, stack))

    async def aclose(self) -> None:
        await self._connections.aclose()


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response, stack: contextlib.AsyncExitStack) -> None:
        self._response = response
        self._stack = stack

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.aiter_stream()

    async def aclose(self) -> None:
        await self._stack.aclose()


def _core_request(request: httpx.Request) -> httpcore.Request:
    return httpcore.Request(
        "POST",
        _core_url(request.url),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


class _Body:
    """The body of an answer while it arrives: decompressed, and never larger than it may be.

    What cannot be decompressed, or is too large, counts as an unreadable body; the answer keeps its status.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._data = bytearray(response.content if response.is_stream_consumed else b"")
        self._readable = len(self._data) <= MAX_ANSWER_BYTES
        # What is sent is bounded too: whatever follows the end of a compressed body would pile up unseen.
        self._allowance = MAX_ANSWER_BYTES
        self._chunks_left = MAX_ANSWER_CHUNKS
        compressed = response.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip", "deflate")
        self._decoder = zlib.decompressobj(wbits=47) if compressed else None

    def take(self, chunk: bytes) -> bool:
        """Take the next bytes; False when no more are wanted."""
        self._allowance -= len(chunk)
        self._chunks_left -= 1
        try:
            room = MAX_ANSWER_BYTES + 1 - len(self._data)
            self._data += self._decoder.decompress(chunk, room) if self._decoder else chunk
        except zlib.error:
            self._readable = False
        if len(self._data) > MAX_ANSWER_BYTES or self._allowance < 0 or self._chunks_left < 0:
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
        target = signed.url.raw_path.decode("ascii")
        signed.headers.update(request.credentials.headers(signed.method, target, request.body))
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
    """Its kind; its text as well, if it is from before anything was sent. An HTTP parser quotes what it cannot read,
    and other transports may say anything: the text of what they raise may repeat the request."""
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, NO_CONNECTION) and str(error) else kind
