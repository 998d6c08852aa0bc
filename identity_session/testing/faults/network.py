"""A network in trouble: a transport round another one, for sessions of either front.

The faults are those of the embedded service (`LocalIDSync.set_faults`) in the same words, and one that no service can
promise: `unreachable`. Each has an `endpoint` (the name of a call, or "*"), lasts or happens so many `times`, and is
one of

    unreachable: True         no connection is made
    drop: "before", "after"   the answer is lost, before or after the service has acted
    latency_ms: n             the answer comes this much later
    status: n                 this answer instead, without a body below 400; with `retry_after` in seconds if wanted
    garbage: True             a 200 whose body is not JSON instead
    html: True                a 200 with a web page instead
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from identity_session.clock import monotonic, pause
from identity_session.exchange import AsyncSender, Call, HTTPAnswer, HTTPRequest, Sender, SendError

if TYPE_CHECKING:
    import httpx

    from identity_session.idsync.faults import Plan


class _Trouble:
    def __init__(self, faults: Iterable[Mapping[str, Any]]) -> None:
        from identity_session.idsync.faults import NETWORK_KINDS, Faults  # with it comes the service, and pydantic

        self._faults = Faults(NETWORK_KINDS)
        self._faults.replace(faults)

    def set_faults(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """Put these faults in the place of all there were; none at all ends the trouble. Raises ValueError that says
        what is wrong; then nothing is changed."""
        self._faults.replace(faults)

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force, each with the `times` that are left."""
        return self._faults.described()

    def _planned(self, request: HTTPRequest) -> tuple[Plan, HTTPAnswer | SendError | None]:
        """What is to happen to this request, and what comes of it if the service is not to be asked."""
        from identity_session.idsync.answers import faulty

        # Below any base URL, the path ends with the name of the call.
        call = Call(request.target.partition("?")[0].rpartition("/")[2].lower())
        plan = self._faults.take(call)
        fault = plan.failing
        if fault is None or fault.drop == "after":
            return plan, None
        if fault.unreachable:
            return plan, SendError("no connection to the service", sent=False)
        return plan, faulty(fault, call, "both") or _lost()


class FaultyTransport(_Trouble):
    """For `IdentitySession(transport=...)`: hands requests to another transport, unless a fault is due.

    `transport` is a Sender, such as `LocalIDSync().transport`, or an httpx transport. It is not closed. May be used
    from several threads at once. Raises ValueError for a fault that is none.
    """

    def __init__(self, transport: Sender | httpx.BaseTransport, faults: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__(faults)
        if isinstance(transport, Sender):
            self._sender: Sender = transport
        else:
            from identity_session.transport import HttpxSender

            self._sender = HttpxSender(transport, owned=False)

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Answer a request of a session, or fail as planned. Raises SendError."""
        deadline = monotonic() + seconds
        plan, instead = self._planned(request)
        answer = instead or self._sender.send(request, seconds)
        left = deadline - monotonic()
        if plan.latency_ms:
            pause(min(plan.latency_ms / 1000, left))
        return _arrived(plan, answer, left)

    def close(self) -> None:
        """Nothing of its own is open."""


class AsyncFaultyTransport(_Trouble):
    """The same for `AsyncIdentitySession(transport=...)`, round an AsyncSender or an asynchronous httpx transport."""

    def __init__(
        self, transport: AsyncSender | httpx.AsyncBaseTransport, faults: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(faults)
        if isinstance(transport, AsyncSender):
            self._sender: AsyncSender = transport
        else:
            from identity_session.transport import AsyncHttpxSender

            self._sender = AsyncHttpxSender(transport, owned=False)

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Answer a request of a session, or fail as planned. Raises SendError."""
        from identity_session.aioclock import pause_async  # asyncio, which the synchronous front does without

        deadline = monotonic() + seconds
        plan, instead = self._planned(request)
        answer = instead or await self._sender.asend(request, seconds)
        left = deadline - monotonic()
        if plan.latency_ms:
            await pause_async(min(plan.latency_ms / 1000, left))
        return _arrived(plan, answer, left)

    async def aclose(self) -> None:
        """Nothing of its own is open."""


def _arrived(plan: Plan, answer: HTTPAnswer | SendError, left: float) -> HTTPAnswer:
    """What the session gets of an answer, with this many seconds left before it was held back."""
    if isinstance(answer, SendError):
        raise answer
    if plan.latency_ms / 1000 > left:
        raise SendError("no answer from the service within the time allowed", sent=True)
    if plan.failing and plan.failing.drop:
        raise _lost()
    return answer


def _lost() -> SendError:
    return SendError("the connection was closed without an answer", sent=True)
