"""A service that answers as told, for tests in which the service is not the subject, and sessions that talk to it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from identity_session import IdentitySession, MemoryStorage, RetryPolicy, Storage
from identity_session.config import DEFAULT_BASE_URL
from identity_session.exchange import HTTPAnswer, HTTPRequest, SendError

KEY = "us1-test-key"
DEFAULT_SETTINGS: dict[str, Any] = {
    "auth": None,
    "base_url": DEFAULT_BASE_URL,
    "alias_url": None,
    "domain": None,
    "direct_url_routing": False,
    "environment": "production",
    "platform": "other",
    "workspace_token": None,
    "identify_request": None,
    "device_id": None,
    "session_timeout": timedelta(minutes=30),
    "alias_max_window": timedelta(days=90),
    "timeout": 10.0,
    "retry": RetryPolicy(),
    "keep_ephemeral_users": True,
    "max_users": None,
    "cache_identity": False,
    "now_ms": lambda: 0,
    "new_id": lambda: "id",
}
"""What a session that was given no settings passes to `config.settings`."""


def user(mpid: str = "1", **fields: Any) -> dict[str, Any]:
    """The body of an answer that names this user."""
    return {"mpid": mpid, "context": None, "is_logged_in": False, "matched_identities": {}, **fields}


class Scripted:
    """Hands out its answers in order, then the last one again; notes every request.

    An answer is a body (status 200), a status, a pair of status and body (text, object or headers in a third place),
    or a SendError, which is raised. A function is called with the request and gives one of these.
    """

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers) or [user()]
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        self.requests.append((request.target, json.loads(request.body)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, SendError):
            raise answer
        if isinstance(answer, int):
            answer = (answer, "")
        status, body, headers = (200, answer, {}) if isinstance(answer, dict) else (*answer, {})[:3]
        text = body if isinstance(body, str) else json.dumps(body)
        return HTTPAnswer(status, headers, text.encode())

    def close(self) -> None: ...

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    @property
    def last(self) -> dict[str, Any]:
        """The body of the latest request."""
        return self.requests[-1][1]


class Clock:
    """A wall clock that stands still until it is moved."""

    def __init__(self, now_ms: int = 1_767_607_200_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, *, minutes: float = 0, seconds: float = 0, days: float = 0) -> None:
        self.now_ms += round(((days * 24 * 60 + minutes) * 60 + seconds) * 1000)


def lost() -> SendError:
    """The request may have arrived, but no answer came."""
    return SendError("scripted: answer lost", sent=True)


def unreachable() -> SendError:
    """The request cannot have arrived."""
    return SendError("scripted: no connection", sent=False)


def identities(request: dict[str, Any]) -> dict[str, Any]:
    """What a request says about the user, without the device."""
    known = dict(request["known_identities"])
    known.pop("device_application_stamp", None)
    return known


def session(service: Any = None, storage: Storage | None = None, **settings: Any) -> IdentitySession:
    """A session that talks to a scripted service, makes one attempt, and keeps its state in memory."""
    settings.setdefault("retry", None)
    return IdentitySession(
        settings.pop("api_key", KEY),
        storage=MemoryStorage() if storage is None else storage,
        transport=service or Scripted(),
        **settings,
    )


def ids(**user_identities: Any) -> dict[str, Any]:
    """A request in the SDK's form."""
    return {"userIdentities": user_identities}
