"""Talks to a LocalIDSync as a client does: JSON over the transport, nothing of its inside."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from identity_session.exchange import HTTPAnswer, HTTPRequest
from identity_session.idsync import IdentityStrategy, LocalIDSync

KEY = {"x-mp-key": "any-key"}


@dataclass(frozen=True)
class Answer:
    """An answer with its JSON read."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)

    @property
    def mpid(self) -> str:
        return self.body["mpid"]

    @property
    def error(self) -> tuple[str, str]:
        entry = self.body["errors"][0]
        return entry["code"], entry["message"]


class Driver(ABC):
    """Calls a service by the names of the API; its kinds say how a request gets there, and how one looks inside."""

    @abstractmethod
    def post(self, target: str, body: object, headers: Mapping[str, str] = KEY) -> Answer:
        """Send one request, and read its answer."""

    @abstractmethod
    def profiles(self) -> list[dict[str, Any]]:
        """Every profile that the service has."""

    def call(self, name: str, identities: Mapping[str, str | None], previous: str | int | None = None) -> Answer:
        body = {"environment": "development", "known_identities": identities, "previous_mpid": previous}
        return self.post(name if name.startswith("/") else f"/v1/{name}", body)

    def modify(self, mpid: str, *changes: tuple[str, str | None, str | None]) -> Answer:
        """Changes are (identity type, old value, new value)."""
        listed = [{"identity_type": t, "old_value": old, "new_value": new} for t, old, new in changes]
        return self.post(f"/v1/{mpid}/modify", {"environment": "development", "identity_changes": listed})

    def store(self) -> dict[str, dict[str, list[str]]]:
        """The identity record of every profile, by MPID."""
        return {profile["mpid"]: profile["identities"] for profile in self.profiles()}


class Caller(Driver):
    """Calls a service in this process."""

    def __init__(self, strategy: str | IdentityStrategy = "default", **settings: Any) -> None:
        self.idsync = LocalIDSync(strategy=strategy, **settings)

    def post(self, target: str, body: object, headers: Mapping[str, str] = KEY) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = HTTPRequest("https://identity.mparticle.com" + target, target, headers, data, None)
        answer: HTTPAnswer = self.idsync.transport.send(request, 10.0)
        return Answer(answer.status, answer.headers, answer.body)

    def seed(self, **identities: str | Sequence[str]) -> str:
        return self.idsync.seed_profile(identities)

    def profiles(self) -> list[dict[str, Any]]:
        return self.idsync.profiles()
