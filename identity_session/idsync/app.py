"""The service as an ASGI application: the Identity API, `/emulator` for people and tests, and `/openapi.json`.

What is done here is what only a server must do: whom to answer at all, how much to read and for how long, and
keeping a loop free while stores block. Needs the extra `server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from identity_session.clock import monotonic

from . import answers, emulator
from .guard import Guard, Refusal
from .openapi import description
from .profiles import WAIT_SECONDS
from .requests import BODY_LIMIT_BYTES
from .service import Served

try:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response
    from starlette.routing import Router
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError as error:
    raise ImportError("the application needs starlette: pip install 'identity_session[server]'") from error

if TYPE_CHECKING:
    from .embedded import LocalIDSync

logger = logging.getLogger("identity_session.idsync")

BODY_SECONDS = 10.0
"""A body that is not there by then is refused: on one machine it takes milliseconds, and each one waiting is held."""

IMPORT_SECONDS = 300.0
"""The same for an import, which may be a few hundred megabytes."""

LINGER_SECONDS = 2.0
"""For how long at most what is left of a refused body is read and thrown away. A connection closed with unread bytes is
reset, and the reset would overtake the answer."""

_UNQUOTED = "/:@!$&'()*+,;="
"""What stands in a path as it is, beside letters and digits (RFC 3986)."""

ABORT = "identity_session.abort"
"""The ASGI extension by which a server lets this application close a connection without an answer."""


def create_app(idsync: LocalIDSync, guard: Guard | None = None, *, shared: bool = False) -> ASGIApp:
    """The application in front of a service. `shared`: other processes serve the same profiles, so that what lives in
    one process only, faults and the clock, cannot be set."""
    return Router(default=_App(idsync, guard or Guard(), shared=shared), redirect_slashes=False)


class _App:
    def __init__(self, idsync: LocalIDSync, guard: Guard, *, shared: bool) -> None:
        self._idsync = idsync
        self._guard = guard
        self._shared = shared
        self._openapi = Response(json.dumps(description()), media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        body = _Body(receive)
        try:
            response = await self._response(scope, body)
            if response is None:
                await _drop(scope, body, send)
            else:
                await _send(response, body, send)
        except _GoneError:
            pass

    async def _response(self, scope: Scope, body: _Body) -> Response | None:
        """The answer; None closes the connection without one."""
        headers, method, path = scope["headers"], scope["method"], _path(scope)
        refusal = self._guard.host_refusal(headers)
        if refusal:
            return _refused(refusal)
        is_emulator = path == emulator.ROOT or path.startswith(f"{emulator.ROOT}/")
        # Pages of other origins may read what goes wrong with a call, and nothing of the emulator.
        readable = {} if is_emulator else answers.CORS
        try:
            if path == "/openapi.json":
                return self._openapi if method == "GET" else _trouble(405, "Use GET.", {"allow": "GET"})
            if is_emulator:
                refusal = self._guard.emulator_refusal(headers, _addresses(scope))
                return _refused(refusal) if refusal else await self._emulate(method, path, body)
            return await self._identify(scope, body)
        except TimeoutError:
            return _trouble(408, "The body took too long; send it at once.", readable)
        except Exception as error:
            if isinstance(error, _GoneError):
                raise
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("a request failed: %s at %s:%s", type(error).__name__, place.filename, place.lineno)
            return _trouble(500, "The service failed; its log names the place.", readable)

    async def _identify(self, scope: Scope, body: _Body) -> Response | None:
        # One byte too many is enough for the service to say that there are too many.
        content = await body.read(BODY_LIMIT_BYTES + 1, BODY_SECONDS)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method, target, root = scope["method"], _target(scope), _root(scope)
        until = monotonic() + WAIT_SECONDS  # from now, as many that wait leave no thread free

        def serve() -> Served:
            return self._idsync.handle(method, target, headers, content, until - monotonic(), root)

        served = await run_in_threadpool(serve)
        if served.delay_seconds:
            await asyncio.sleep(served.delay_seconds)
        answer = served.answer
        return None if answer is None else Response(answer.body, answer.status, dict(answer.headers))

    async def _emulate(self, method: str, path: str, body: _Body) -> Response:
        found = emulator.find(method, path)
        if isinstance(found, emulator.Reply):
            return _reply(found)
        limit_bytes = found.route.limit_bytes
        content = await body.read(limit_bytes + 1, BODY_SECONDS if limit_bytes == BODY_LIMIT_BYTES else IMPORT_SECONDS)

        def reply() -> Response:
            return _reply(emulator.answer(found, self._idsync, content, shared=self._shared))

        return reply() if found.route.at_once else await run_in_threadpool(reply)


class _GoneError(Exception):
    """The client closed the connection."""


class _Body:
    """What a client sends after the head, read no further than wanted."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    @property
    def is_read(self) -> bool:
        return not self._more

    async def read(self, most_bytes: int, seconds: float) -> bytes:
        """The body, cut off at this many bytes. Raises TimeoutError when it takes too long."""
        content = bytearray()
        async with asyncio.timeout(seconds):
            while self._more and len(content) < most_bytes:
                content += await self._chunk()
        del content[most_bytes:]
        return bytes(content)

    async def run_out(self) -> None:
        """Throw away what is left, for a moment."""
        with contextlib.suppress(TimeoutError, _GoneError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self._more:
                    await self._chunk()

    async def until_gone(self) -> None:
        """Wait until the connection is closed."""
        with contextlib.suppress(_GoneError):
            while True:
                await self._chunk()

    async def _chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        self._more = message.get("more_body", False)
        content: bytes = message.get("body", b"")
        return content


async def _send(response: Response, body: _Body, send: Send) -> None:
    """Send an answer, and let what the client still sends run out before the connection ends."""
    headers = response.raw_headers + ([] if body.is_read else [(b"connection", b"close")])
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    await body.run_out()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop(scope: Scope, body: _Body, send: Send) -> None:
    """Close the connection without an answer; under a server that cannot, begin one and leave it unfinished."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is None:
        # Servers close the connection then, and the client misses the byte that it was promised.
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"1")]})
        return
    abort()
    await body.until_gone()


def _addresses(scope: Scope) -> list[str]:
    """Those of both ends of the connection, where the server tells them."""
    return [end[0] for end in (scope.get("server"), scope.get("client")) if end]


def _path(scope: Scope) -> str:
    """The path below that under which the application is mounted. Some servers leave out the latter themselves."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _raw_path(scope: Scope) -> str:
    """The path exactly as sent; from a server that does not tell it, as it is usually sent."""
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"], safe=_UNQUOTED) if raw is None else raw.decode("latin-1")


def _target(scope: Scope) -> str:
    """Path and query exactly as sent, as a signature covers them."""
    query: bytes = scope["query_string"]
    return _raw_path(scope) + (f"?{query.decode('latin-1')}" if query else "")


def _root(scope: Scope) -> str:
    """The beginning of the path as sent that leads to the application: as many names as the server has decoded."""
    names = scope["path"].removesuffix(_path(scope)).count("/")
    return "".join(f"/{name}" for name in _raw_path(scope).split("/")[1 : names + 1])


def _refused(refusal: Refusal) -> Response:
    return _trouble(refusal.status, refusal.text, {"www-authenticate": "Bearer"} if refusal.status == 401 else {})


def _trouble(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return _reply(emulator.Reply(status, {"error": text}, headers or {}))


def _reply(reply: emulator.Reply) -> Response:
    if reply.body is None:
        return Response(status_code=reply.status, headers=reply.headers)
    return Response(json.dumps(reply.body), reply.status, reply.headers, "application/json")
