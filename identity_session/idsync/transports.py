"""Transports that hand requests to the service in this process, without a socket.

Each is a sender for sessions and a transport for httpx at once. Both enact what is to be served: they wait as long as
the answer is held back, within the time they are given, and fail where the connection is to be closed. The time they
are given is that of the service as well, which waits for its store no longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self

from identity_session.aioclock import pause_async
from identity_session.clock import monotonic, pause
from identity_session.exchange import HTTPAnswer, HTTPRequest, SendError
from identity_session.threads import in_daemon_thread

from .service import Served, Service

if TYPE_CHECKING:
    import httpx

P = ParamSpec("P")


class _Transport:
    def __init__(self, service: Service) -> None:
        self._service = service

    def _served(self, request: HTTPRequest, until: float) -> Served:
        headers = dict(request.headers)
        if request.credentials is not None:
            headers |= request.credentials.headers("POST", request.target, request.body)
        return self._service.handle("POST", request.target, headers, request.body, until - monotonic())

    def _served_httpx(self, request: httpx.Request, body: bytes, until: float) -> Served:
        target = request.url.raw_path.decode()
        return self._service.handle(request.method, target, request.headers, body, until - monotonic())


class LocalTransport(_Transport):
    """Hands requests to the service: a `Sender` for sessions, and a transport for `httpx.Client`."""

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Answer a request of a session within this many seconds. Raises SendError if a fault drops it or holds it
        back for too long, or the store is not free in time."""
        until = monotonic() + seconds
        served = self._served(request, until)
        left = until - monotonic()
        if served.delay_seconds:
            pause(min(served.delay_seconds, left))
        return _answer(served, left)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of an `httpx.Client`. Raises what httpx raises for a network that does the same."""
        body, until = request.read(), monotonic() + _read_timeout(request)
        served = self._served_httpx(request, body, until)
        left = until - monotonic()
        if served.delay_seconds:
            pause(min(served.delay_seconds, left))
        return _response(served, left, request)

    def close(self) -> None:
        """Nothing is open; the service goes on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Nothing is open; the service goes on."""


class AsyncLocalTransport(_Transport):
    """Hands requests to the service: an `AsyncSender` for sessions, and a transport for `httpx.AsyncClient`.

    With `in_thread` the service works in a thread, since its store blocks: one for each call, as a pool of them would
    have calls wait behind those that wait.
    """

    def __init__(self, service: Service, *, in_thread: bool) -> None:
        super().__init__(service)
        self._in_thread = in_thread

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Answer a request of a session within this many seconds. Raises SendError if a fault drops it or holds it
        back for too long, or the store is not free in time."""
        until = monotonic() + seconds
        served = await self._run(self._served, request, until)
        left = until - monotonic()
        if served.delay_seconds:
            await pause_async(min(served.delay_seconds, left))
        return _answer(served, left)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of an `httpx.AsyncClient`. Raises what httpx raises for a network that does the same."""
        body, until = await request.aread(), monotonic() + _read_timeout(request)
        served = await self._run(self._served_httpx, request, body, until)
        left = until - monotonic()
        if served.delay_seconds:
            await pause_async(min(served.delay_seconds, left))
        return _response(served, left, request)

    async def _run(self, serve: Callable[P, Served], *arguments: P.args, **options: P.kwargs) -> Served:
        if self._in_thread:
            return await asyncio.wrap_future(in_daemon_thread(serve, *arguments, **options))
        return serve(*arguments, **options)

    async def aclose(self) -> None:
        """Nothing is open; the service goes on."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Nothing is open; the service goes on."""


def _answer(served: Served, seconds: float) -> HTTPAnswer:
    if served.delay_seconds > seconds:
        raise SendError("no answer from the service within the time allowed", sent=True)
    if served.answer is None:
        raise SendError("the service closed the connection without an answer", sent=True)
    return served.answer


def _response(served: Served, seconds: float, request: httpx.Request) -> httpx.Response:
    # Whoever calls this has imported httpx already; a session does without it.
    from httpx import ReadTimeout, RemoteProtocolError, Response

    if served.delay_seconds > seconds:
        raise ReadTimeout("The read operation timed out", request=request)
    if served.answer is None:
        raise RemoteProtocolError("Server disconnected without sending a response.", request=request)
    answer = served.answer
    return Response(answer.status, headers=dict(answer.headers), content=answer.body)


def _read_timeout(request: httpx.Request) -> float:
    seconds = request.extensions.get("timeout", {}).get("read")
    return float("inf") if seconds is None else float(seconds)
