"""Transports that hand requests to the service in this process, without a socket.

Each is a sender for sessions and a transport for httpx at once. Both enact what is to be served: they wait as long as
the answer is held back, within the time they are given, and fail where the connection is to be closed.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Self

from identity_session.aioclock import pause_async
from identity_session.clock import pause
from identity_session.exchange import HTTPAnswer, HTTPRequest, SendError

from .service import Served, Service

if TYPE_CHECKING:
    import httpx


class _Transport:
    def __init__(self, service: Service) -> None:
        self._service = service

    def _served(self, request: HTTPRequest) -> Served:
        headers = dict(request.headers)
        if request.credentials is not None:
            headers |= request.credentials.headers("POST", request.target, request.body)
        return self._service.handle("POST", request.target, headers, request.body)

    def _served_httpx(self, request: httpx.Request, body: bytes) -> Served:
        target = request.url.raw_path.decode()
        return self._service.handle(request.method, target, request.headers, body)


class LocalTransport(_Transport):
    """Hands requests to the service: a `Sender` for sessions, and a transport for `httpx.Client`."""

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Answer a request of a session. Raises SendError if a fault drops it or holds it back for too long."""
        served = self._served(request)
        if served.delay_seconds:
            pause(min(served.delay_seconds, seconds))
        return _answer(served, seconds)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of an `httpx.Client`. Raises what httpx raises for a network that does the same."""
        served, seconds = self._served_httpx(request, request.read()), _read_timeout(request)
        if served.delay_seconds:
            pause(min(served.delay_seconds, seconds))
        return _response(served, seconds, request)

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

    With `in_thread` the service works in a thread, since its store blocks.
    """

    def __init__(self, service: Service, *, in_thread: bool) -> None:
        super().__init__(service)
        self._in_thread = in_thread

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Answer a request of a session. Raises SendError if a fault drops it or holds it back for too long."""
        served = await asyncio.to_thread(self._served, request) if self._in_thread else self._served(request)
        if served.delay_seconds:
            await pause_async(min(served.delay_seconds, seconds))
        return _answer(served, seconds)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of an `httpx.AsyncClient`. Raises what httpx raises for a network that does the same."""
        body, seconds = await request.aread(), _read_timeout(request)
        if self._in_thread:
            served = await asyncio.to_thread(self._served_httpx, request, body)
        else:
            served = self._served_httpx(request, body)
        if served.delay_seconds:
            await pause_async(min(served.delay_seconds, seconds))
        return _response(served, seconds, request)

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
