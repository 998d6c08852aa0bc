"""What is asked of the service and what comes back, and the seam between this package and a network.

A call becomes a `Question`; `wire` spells it as an `HTTPRequest`; a `Sender` or `AsyncSender` carries that to the
service and brings an `HTTPAnswer`, which `wire` reads as a `Reply`. Nothing here knows httpx: it is one sender among
others. None of these objects shows its content when printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from .aliasing import AliasSpan
from .identities import Identities
from .signing import Credentials


class Call(StrEnum):
    """The calls of the Identity API, by the name they have in its paths."""

    IDENTIFY = "identify"
    LOGIN = "login"
    LOGOUT = "logout"
    MODIFY = "modify"
    SEARCH = "search"
    ALIAS = "alias"


@dataclass(frozen=True, slots=True, repr=False)
class IdentityChange:
    """One identity of a modify call: None as old value adds, None as new value removes."""

    old_value: str | None
    new_value: str | None
    identity_type: str


@dataclass(frozen=True, slots=True, repr=False)
class Question:
    """One call as the core asks it. Which fields are used depends on `call`; times are Unix milliseconds."""

    call: Call
    request_id: str
    request_timestamp_ms: int
    device_application_stamp: str
    context: str | None = None
    mpid: str | None = None
    """The current MPID: sent as `previous_mpid`, and the path of modify."""
    known_identities: Identities | None = None
    is_recalled: bool = False
    """Whether no caller said the known identities: they were stored when the automatic identify was looked at."""
    identity_changes: tuple[IdentityChange, ...] = ()
    alias: AliasSpan | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Reply:
    """An answer that was read: its status, and what of its body could be used."""

    status: int
    body: dict[str, Any] | None = None
    """The answer's JSON object; None when the body was empty, not JSON, or no object."""
    mpid: str | None = None
    context: str | None = None
    is_logged_in: bool | None = None
    is_ephemeral: bool = False
    retry_after_seconds: float | None = None
    """How long the service asks to wait, never negative; None when it did not say, or not legibly."""
    max_age_seconds: int = 0
    """How long the answer may be remembered; 0 when the service did not say."""

    @property
    def message(self) -> str | None:
        """The body's `message`, if it has one."""
        message = self.body.get("message") if self.body else None
        return message if isinstance(message, str) else None


@dataclass(frozen=True, slots=True)
class NoReply:
    """There was no usable answer. `sent` is False only when the request cannot have reached the service."""

    text: str
    sent: bool


@dataclass(frozen=True, slots=True, repr=False)
class HTTPRequest:
    """Bytes to post. `url` is absolute; `target` is the path and query, as a signature covers it."""

    url: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    credentials: Credentials | None
    """Signs every attempt anew, since a signature covers the time; None sends the request as it is."""


@dataclass(frozen=True, slots=True, repr=False)
class HTTPAnswer:
    """A status, headers by lower-case name, and the decoded body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class SendError(Exception):
    """The request brought no answer. `sent` is False only when it cannot have reached the service."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


@runtime_checkable
class Sender(Protocol):
    """Carries requests for the synchronous front."""

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Post the request and return the answer within this many seconds. Raises SendError."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


@runtime_checkable
class AsyncSender(Protocol):
    """Carries requests for the asynchronous front."""

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Post the request and return the answer within this many seconds. Raises SendError."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
