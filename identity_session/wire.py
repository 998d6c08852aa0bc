"""The wire: bodies of every call in both directions, paths and header names, for the client and for the service.

Sources: documentation page "HTTP API" of IDSync; Web SDK src/identityApiClient.ts, src/identity.js (request bodies),
src/identity/search.ts; `Retry-After` as in RFC 9110. The models hold what may be sent; what the service accepts
beyond that is said at each field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, ConfigDict

from .aliasing import AliasSpan
from .clock import to_ms
from .exchange import Call, HTTPAnswer, Question, Reply
from .identities import is_text
from .version import __version__

MAX_AGE_HEADER = "x-mp-max-age"
SDK_VENDOR = "mparticle"


class Discreet(BaseModel):
    """A model that shows none of its content when printed."""

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return []


class _Body(Discreet):
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


class ClientSDK(_Body):
    platform: str | None = None
    sdk_vendor: str | None = None
    sdk_version: str | None = None


class _RequestBody(_Body):
    client_sdk: ClientSDK | None = None
    environment: Literal["production", "development"]
    request_id: str | None = None
    request_timestamp_ms: int | None = None


class IdentityBody(_RequestBody):
    """identify, login and logout. An integer as `previous_mpid` comes from Android."""

    context: str | None = None
    previous_mpid: str | int | None = None
    known_identities: dict[str, str | None]


class ChangeBody(_Body):
    old_value: str | None
    new_value: str | None
    identity_type: str


class ModifyBody(_RequestBody):
    context: str | None = None
    identity_changes: list[ChangeBody]


class SearchBody(_RequestBody):
    known_identities: dict[str, str | None]


class AliasData(_Body):
    """An integer as MPID comes from the native SDKs, which send no scope either."""

    destination_mpid: str | int
    source_mpid: str | int
    start_unixtime_ms: int | None = None
    end_unixtime_ms: int | None = None
    scope: Literal["device", "mpid"] = "device"
    device_application_stamp: str | None = None


class AliasBody(_Body):
    request_id: str | None = None
    request_type: Literal["alias"]
    environment: Literal["production", "development"]
    api_key: str
    data: AliasData


def _text_or_absent(value: object) -> str | None:
    return value if isinstance(value, str) and value and is_text(value) else None


def _flag_or_absent(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _mpid_or_absent(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and value != "0" and value.isprintable() and value.strip() else None


class IdentityAnswer(Discreet):
    """What a client reads of an answer: a member of the wrong type counts as absent, and so does the MPID 0."""

    mpid: Annotated[str | None, BeforeValidator(_mpid_or_absent)] = None
    context: Annotated[str | None, BeforeValidator(_text_or_absent)] = None
    is_logged_in: Annotated[bool | None, BeforeValidator(_flag_or_absent)] = None
    is_ephemeral: Annotated[bool | None, BeforeValidator(_flag_or_absent)] = None


def encode(question: Question, *, environment: str, platform: str, api_key: str) -> tuple[str, bytes]:
    """Spell a question: its path below the base URL (alias: below the alias URL) and its JSON body."""
    call = question.call
    if question.alias:
        alias = AliasBody.model_validate(_alias_body(question, question.alias, environment, api_key))
        return f"/{_segment(api_key)}/Alias", _dump(alias)
    base: dict[str, Any] = {
        "client_sdk": ClientSDK(platform=platform, sdk_vendor=SDK_VENDOR, sdk_version=__version__),
        "environment": environment,
        "request_id": question.request_id,
        "request_timestamp_ms": question.request_timestamp_ms,
    }
    if call is Call.MODIFY:
        changes = [
            ChangeBody(old_value=c.old_value, new_value=c.new_value, identity_type=c.identity_type)
            for c in question.identity_changes
        ]
        path = f"/{_segment(question.mpid or '')}/modify"
        return path, _dump(ModifyBody(**base, context=question.context, identity_changes=changes))
    known = dict(question.known_identities or {})
    if call is Call.SEARCH:
        return "/search", _dump(SearchBody(**base, known_identities=known))
    known["device_application_stamp"] = question.device_application_stamp
    body = IdentityBody(**base, context=question.context, previous_mpid=question.mpid, known_identities=known)
    return f"/{call}", _dump(body)


def decode(answer: HTTPAnswer, *, now_ms: int) -> Reply:
    """Read an answer. Whatever its bytes are, there is a Reply: what could not be used is absent from it."""
    body = _json_object(answer.body)
    read = IdentityAnswer.model_validate(body or {})
    return Reply(
        status=answer.status,
        body=body,
        mpid=read.mpid,
        context=read.context,
        is_logged_in=read.is_logged_in,
        is_ephemeral=bool(read.is_ephemeral),
        retry_after_seconds=retry_after_seconds(answer.headers, now_ms),
        max_age_seconds=_max_age_seconds(answer.headers),
    )


def retry_after_seconds(headers: Mapping[str, str], now_ms: int) -> float | None:
    """How long a Retry-After header asks to wait, at least 0; None without one, or with one that says nothing.

    A date counts from the answer's own Date header where there is one, since the local clock may be wrong.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", text, re.ASCII):
        return max(float(text), 0.0)
    until_ms = _http_date_ms(text)
    if until_ms is None:
        return None
    sent_ms = _http_date_ms(headers.get("date", ""))
    return max(until_ms - (now_ms if sent_ms is None else sent_ms), 0) / 1000


def _alias_body(question: Question, span: AliasSpan, environment: str, api_key: str) -> dict[str, object]:
    return {
        "request_id": question.request_id,
        "request_type": "alias",
        "environment": environment,
        "api_key": api_key,
        "data": {
            "destination_mpid": span.destination_mpid,
            "source_mpid": span.source_mpid,
            "start_unixtime_ms": span.start_ms,
            "end_unixtime_ms": span.end_ms,
            "scope": span.scope,
            "device_application_stamp": question.device_application_stamp,
        },
    }


def _dump(body: BaseModel) -> bytes:
    return body.model_dump_json().encode()


def _segment(text: str) -> str:
    # A segment of dots alone would be a step in the path.
    return quote(text, safe="") if text.strip(".") else "%2E" * len(text)


def _json_object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _http_date_ms(text: str) -> int | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # The oldest of the three forms of a date in HTTP names no time zone; all of them are in UTC.
    return to_ms(moment if moment.utcoffset() is not None else moment.replace(tzinfo=UTC))


def _max_age_seconds(headers: Mapping[str, str]) -> int:
    text = headers.get(MAX_AGE_HEADER, "").strip()
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 0
