"""What goes out: bodies and headers of every answer.

Sources: documentation page "HTTP API" of IDSync; Web SDK src/identityApiClient.ts and its tests, Android SDK
IdentityHttpResponse (error bodies); recorded answers in the Apple SDK's IntegrationTests (headers).
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from typing import Any

from identity_session import wire
from identity_session.exchange import Call, HTTPAnswer

from . import refusals
from .choices import Choice
from .faults import Fault
from .identity_types import USER_TYPES
from .lookup import is_known
from .modification import Modification
from .profiles import Profile
from .strategies import IdentityStrategy
from .trail import Step, Trail

# Status and code of each refusal; without a code the body is empty.
_REFUSALS: Mapping[type[refusals.RefusedError], tuple[int, str | None]] = {
    refusals.InvalidDataError: (400, "INVALID_DATA"),
    refusals.LookupRefusedError: (400, "LOOKUP_ERROR"),
    refusals.KeyRefusedError: (401, None),
    refusals.KeyDisabledError: (403, None),
    refusals.AliasRefusedError: (403, None),
    refusals.NotFoundError: (404, "NOT_FOUND_ERROR"),
    refusals.UnknownMPIDError: (404, None),
    refusals.UnknownPathError: (404, None),
    refusals.UnknownMethodError: (405, None),
    refusals.BodyTooLargeError: (413, "INVALID_DATA"),
    refusals.TooManyRequestsError: (429, "TOO_MANY_REQUESTS"),
}

_WITHOUT_BODY = frozenset({401, 403, 404})

PERCENT_USED_HEADER = "x-mp-rate-limit-percentage-used"

_CACHEABLE = frozenset({Call.IDENTIFY, Call.LOGIN, Call.SEARCH})
"""Calls whose answers a client may keep; modify and logout empty its cache."""

# A page calls from another origin: without these on every answer, errors included, it sees a network error only.
CORS = {"access-control-allow-origin": "*", "access-control-expose-headers": "X-MP-Max-Age"}


def preflight() -> HTTPAnswer:
    """The answer to the OPTIONS request that a browser sends first."""
    allowed = {
        "access-control-allow-methods": "POST, OPTIONS",
        "access-control-allow-headers": "content-type, x-mp-key, accept, x-mp-signature, authorization",
        "access-control-max-age": "86400",
    }
    return HTTPAnswer(204, {**CORS, **allowed}, b"")


def identity(
    strategy: IdentityStrategy, profile: Profile, matched_identities: Mapping[str, str] | None
) -> dict[str, Any]:
    """The body that names a profile; None leaves the matched identities out."""
    body: dict[str, Any] = {
        "context": None,
        "mpid": str(profile.mpid),
        "is_ephemeral": is_ephemeral(strategy, profile),
        "is_logged_in": is_known(strategy, profile),
    }
    if matched_identities is not None:
        body["matched_identities"] = dict(matched_identities)
    if strategy.context == "echo":
        body["context"] = base64.b64encode(_dump(body)).decode()
    return body


def is_ephemeral(strategy: IdentityStrategy, profile: Profile) -> bool:
    """Whether the identity record names devices only, or nothing. Public recordings fit this rule; none states it."""
    return not any(profile.values(type_) for type_ in strategy.priority if type_ in USER_TYPES)


def modified(strategy: IdentityStrategy, modification: Modification) -> dict[str, Any]:
    """The body of a modify: an identity body, since the Web SDK reads its flags, and the changes made."""
    results = [{"identity_type": type_, "modified_mpid": str(mpid)} for type_, mpid in modification.changed]
    return {**identity(strategy, modification.profile, {}), "change_results": results}


def success(
    call: Call, body: Mapping[str, Any] | None, max_age_s: int, percent_used: float | None = None
) -> HTTPAnswer:
    """An answer that went well: 200 with a body, else 202. `percent_used` is the largest share of any limit."""
    headers = {} if percent_used is None else {PERCENT_USED_HEADER: f"{percent_used:g}"}
    if body is None:
        return _answer(202, None, headers)
    return _answer(200, body, {**headers, wire.MAX_AGE_HEADER: str(max_age_s)} if call in _CACHEABLE else headers)


def refused(
    refusal: refusals.RefusedError,
    *,
    call: Call | None,
    request_id: str | None,
    shape: str,
    trail: Trail,
) -> HTTPAnswer:
    """An answer for a refusal. That of alias is flat, as the Web SDK expects it."""
    status, code = _REFUSALS[type(refusal)]
    trail.append((Step.REFUSED, status, str(refusal)))
    trail.extend((choice,) for choice in refusal.choices)
    if code is None:
        return _answer(status, None, {"allow": "POST, OPTIONS"} if status == 405 else {})
    headers = {}
    if isinstance(refusal, refusals.TooManyRequestsError):
        headers = _throttled(refusal.retry_after_seconds, refusal.limit)
    if call is Call.ALIAS:
        return _answer(status, {"code": code, "message": str(refusal)}, headers)
    trail.append((Choice.ERROR_SHAPE,))
    return _answer(status, _errors(status, code, str(refusal), request_id or str(uuid.uuid4()), shape), headers)


def internal_error(shape: str) -> HTTPAnswer:
    """The answer when the service itself failed."""
    return _answer(500, _errors(500, "INTERNAL_ERROR", "An unknown error was encountered.", None, shape))


def faulty(fault: Fault, call: Call, shape: str) -> HTTPAnswer | None:
    """What a fault puts in the place of the answer: None for none at all. A body is what the status has elsewhere."""
    if fault.drop:
        return None
    if fault.status is None:
        kind = "text/html; charset=utf-8" if fault.html else "application/json; charset=utf-8"
        body = b"<!doctype html><title>Error</title><p>A fault.</p>" if fault.html else b'{"mpid": garbage'
        return HTTPAnswer(200, {**_answer(200, None).headers, "content-type": kind}, body)
    status, headers = fault.status, {}
    if status == 429:
        headers = _throttled(None, "system")
    if fault.retry_after is not None:
        headers["retry-after"] = str(fault.retry_after)
    if status < 400 or status in _WITHOUT_BODY:
        return _answer(status, None, headers)
    code = "TOO_MANY_REQUESTS" if status == 429 else "INVALID_DATA" if status < 500 else "INTERNAL_ERROR"
    if call is Call.ALIAS:
        return _answer(status, {"code": code, "message": "A fault."}, headers)
    return _answer(status, _errors(status, code, "A fault.", None, shape), headers)


def _throttled(retry_after_seconds: int | None, limit: str) -> dict[str, str]:
    """The headers of a 429. `limit` is a word of the page "Default Service Limits"."""
    headers = {} if retry_after_seconds is None else {"retry-after": str(retry_after_seconds)}
    return {**headers, "x-mp-rate-limit-exceeded": limit}


def _errors(status: int, code: str, message: str, request_id: str | None, shape: str) -> dict[str, Any]:
    """The two public shapes of an error differ in every key, so that one object can hold both."""
    entries = [{"code": code, "message": message}]
    http: dict[str, Any] = {"errors": entries}
    sdk: dict[str, Any] = {"Errors": entries, "ErrorCode": code, "StatusCode": status, "RequestId": request_id}
    return {"http": http, "sdk": sdk, "both": {**http, **sdk}}[shape]


def _answer(status: int, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None = None) -> HTTPAnswer:
    every = {**CORS, "x-mp-trace-id": uuid.uuid4().hex, **(headers or {})}
    if body is None:
        return HTTPAnswer(status, every, b"")
    return HTTPAnswer(status, {**every, "content-type": "application/json; charset=utf-8"}, _dump(body))


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
