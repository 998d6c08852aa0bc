"""One call, bytes in and bytes out: route, authenticate, parse, resolve, answer. No server, no framework.

Source: documentation page "HTTP API" of IDSync.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from identity_session import clock
from identity_session.exchange import Call, HTTPAnswer

from . import aliases, answers
from .access import Credential, authenticate
from .calls import Outcome, Prepared, prepare
from .faults import Faults
from .profiles import WAIT_SECONDS, CallRecord, ProfileStore, Transaction
from .refusals import InvalidDataError, RefusedError
from .requests import MALFORMED, NamedCall, json_object, plain_body, route
from .strategies import IdentityStrategy
from .throttle import Throttle
from .trail import Step, Trail, reasons

logger = logging.getLogger("identity_session.idsync")

NO_ANSWER = 0
"""The status in the record of a call to which no answer was sent, and nothing done."""

SWEEP_MS = 60 * 60 * 1000
"""How often profiles that were not seen for long are looked for. Whom a call names is looked at in that call."""

RECORD_SECONDS = 1.0
"""How long an answer that needs nothing of the store is held back for its record at most."""

NOBODY = 0
"""No profile has this MPID. A transaction that names it does not wait for all others, as one without a name would."""


@dataclass(frozen=True, slots=True, repr=False)
class Served:
    """What the caller is to get: the answer after this many seconds, or (None) a connection closed without one."""

    answer: HTTPAnswer | None
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class _Request:
    """A request that names a call, when it came, and the steps that lead to its answer."""

    where: NamedCall
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    received_ms: int
    until: float
    """When its caller's time is over, by `clock.monotonic`."""
    trail: Trail

    @property
    def seconds(self) -> float:
        """How long it may wait, from now."""
        return max(self.until - clock.monotonic(), 0)

    def credential(self, plain: bytes, content: Mapping[str, Any]) -> Credential:
        path_key = self.where.argument if self.where.call is Call.ALIAS else None
        platform = _text(content.get("client_sdk"), "platform")
        return Credential(self.method, self.target, self.headers, plain, path_key, platform)


class Service:
    """The Identity API over a store, by one strategy.

    `api_keys` maps key to secret; None takes any key and checks no signature. `now_ms` is the clock in Unix
    milliseconds. May be used from several threads at once.
    """

    def __init__(
        self,
        store: ProfileStore,
        strategy: IdentityStrategy,
        api_keys: Mapping[str, str] | None = None,
        *,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        self.faults = Faults()
        self._store = store
        self._strategy = strategy
        self._api_keys = None if api_keys is None else dict(api_keys)
        self._now_ms = now_ms
        self._per_key = Throttle(strategy.key_rate_per_s, strategy.key_burst, "app")
        self._per_user = Throttle(strategy.hot_rate_per_s, strategy.hot_burst, "workspace")
        self._swept_ms: int | None = None

    def handle(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float = WAIT_SECONDS,
        root: str = "",
    ) -> Served:
        """Answer one request. `target` is the path with its query, as sent, and `root` the beginning of it that is none
        of the API's; `seconds` is how long the request may wait for others in all, and never longer than WAIT_SECONDS.
        Never raises: a fault of the service itself is a 500, a store that was not free in time among them, and its
        place, but nothing of the request, is logged. A refusal or a fault that was ordered is answered as such, whether
        or not the store takes its record."""
        until = clock.monotonic() + min(seconds, WAIT_SECONDS)
        if method == "OPTIONS":
            return Served(answers.preflight())
        try:
            where = route(method, target.removeprefix(root))
        except RefusedError as refusal:
            shape = self._strategy.error_shape
            return Served(answers.refused(refusal, call=None, request_id=None, shape=shape, trail=[]))
        headers = {name.lower(): value for name, value in headers.items()}
        plan = self.faults.take(where.call)
        request = _Request(where, method, target, headers, body, self._now_ms(), until, plan.facts())
        answer: HTTPAnswer | None
        try:
            if plan.failing and plan.failing.drop != "after":
                answer = answers.faulty(plan.failing, where.call, self._strategy.error_shape)
                self._record(request, answer.status if answer else NO_ANSWER)
            else:
                answer = self._answered(request)
        except Exception as error:
            answer = self._failed(request, error)
        return Served(None if plan.failing and plan.failing.drop else answer, plan.latency_ms / 1000)

    def explain(self, where: NamedCall, content: Mapping[str, Any]) -> dict[str, Any]:
        """What a call with this body would come to, in the words of its record; nothing is written."""
        trail: Trail = []
        outcome, status, now_ms = Outcome(), 202 if where.call is Call.ALIAS else 200, self._now_ms()
        try:
            prepared = prepare(self._strategy, where, content, now_ms, draws=False)
            with contextlib.suppress(_UndoneError), self._transaction(prepared) as profiles:
                self._forget_unseen_of(prepared, profiles, now_ms)
                outcome = prepared.carry_out(profiles, trail)
                raise _UndoneError
        except RefusedError as refusal:
            status = self._refused(refusal, where.call, content, trail).status
        return {
            "endpoint": str(where.call),
            "status": status,
            "mpid": None if outcome.mpid is None else str(outcome.mpid),
            "created": outcome.created,
            "reasons": reasons(trail),
        }

    def _answered(self, request: _Request) -> HTTPAnswer:
        """Answer a request, and record it: within the transaction of its effects, or of its own if it is refused."""
        call, content, now_ms = request.where.call, {}, request.received_ms
        try:
            plain = plain_body(request.headers, request.body)
            parsed = json_object(plain)
            content = parsed or {}
            credential = request.credential(plain, content)
            key = authenticate(credential, self._api_keys, self._strategy, now_ms)
            used = [self._per_key.take([key], now_ms)]
            if parsed is None:
                raise InvalidDataError(MALFORMED)
            prepared = prepare(self._strategy, request.where, parsed, now_ms)
            self._forget_unseen(request)
            used.append(self._per_user.take(prepared.names, now_ms))
            with self._transaction(prepared, request.seconds) as profiles:
                self._forget_unseen_of(prepared, profiles, now_ms)
                outcome = prepared.carry_out(profiles, request.trail)
                percent = max((share for share in used if share is not None), default=None)
                answer = answers.success(call, outcome.body, self._strategy.max_age_s, percent)
                profiles.record_call(self._recorded(request, answer.status, outcome))
        except RefusedError as refusal:
            answer = self._refused(refusal, call, content, request.trail)
            self._record(request, answer.status)
        return answer

    def _forget_unseen(self, request: _Request) -> None:
        """Delete profiles whose time is over, once the alias requests that were due before have been processed. A clock
        that was set, to either side, is no reason to wait."""
        now_ms = request.received_ms
        before_ms = self._strategy.unseen_before_ms(now_ms)
        if before_ms is None or (self._swept_ms is not None and abs(now_ms - self._swept_ms) < SWEEP_MS):
            return
        with self._store.transaction(seconds=request.seconds) as profiles:
            aliases.process(profiles, now_ms, due_only=True)
            profiles.delete_unseen(before_ms)
        self._swept_ms = now_ms

    def _forget_unseen_of(self, prepared: Prepared, profiles: Transaction, now_ms: int) -> None:
        """Delete those that a call names and whose time is over: they answer no call until the next sweep either."""
        before_ms = self._strategy.unseen_before_ms(now_ms)
        if before_ms is None:
            return
        for type_, value in prepared.identities:
            for mpid in profiles.holder_mpids(type_, value, before_ms=before_ms):
                profiles.delete(mpid)
        target = None if prepared.mpid is None else profiles.get(prepared.mpid)
        if target and target.last_seen_ms < before_ms:
            profiles.delete(target.mpid)

    def _refused(self, refusal: RefusedError, call: Call, content: Mapping[str, Any], trail: Trail) -> HTTPAnswer:
        request_id, shape = _text(content, "request_id"), self._strategy.error_shape
        return answers.refused(refusal, call=call, request_id=request_id, shape=shape, trail=trail)

    def _failed(self, request: _Request, error: Exception) -> HTTPAnswer:
        place, name = traceback.extract_tb(error.__traceback__)[-1], type(error).__name__
        logger.error("%s failed: %s at %s:%s", request.where.call, name, place.filename, place.lineno)
        request.trail.append((Step.FAILED, name))
        answer = answers.internal_error(self._strategy.error_shape)
        # A store that is busy or out of order takes no record either.
        if not isinstance(error, self._store.errors):
            with contextlib.suppress(Exception):
                self._record(request, answer.status)
        return answer

    def _transaction(self, prepared: Prepared, seconds: float = WAIT_SECONDS) -> AbstractContextManager[Transaction]:
        mpid = prepared.mpid if prepared.mpid is not None or prepared.identities else NOBODY
        return self._store.transaction(prepared.identities, mpid, seconds)

    def _record(self, request: _Request, status: int) -> None:
        """Record a call that had no effect, unless the store is out of order or not free soon."""
        seconds = min(request.seconds, RECORD_SECONDS)
        with (
            contextlib.suppress(*self._store.errors),
            self._store.transaction(mpid=NOBODY, seconds=seconds) as profiles,
        ):
            profiles.record_call(self._recorded(request, status, Outcome()))

    def _recorded(self, request: _Request, status: int, outcome: Outcome) -> CallRecord:
        return CallRecord(
            number=0,
            received_ms=request.received_ms,
            endpoint=str(request.where.call),
            status=status,
            mpid=outcome.mpid,
            created=outcome.created,
            trail=tuple(request.trail) if self._strategy.trail else (),
        )


class _UndoneError(Exception):
    """Leaves a transaction so that nothing it wrote stays."""


def _text(holder: object, name: str) -> str | None:
    """A member that is text, of a body that was not checked yet."""
    value = holder.get(name) if isinstance(holder, Mapping) else None
    return value if isinstance(value, str) else None
