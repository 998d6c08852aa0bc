"""The service in this process: `LocalIDSync`, and transports that hand it requests without a socket."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from identity_session import clock
from identity_session.exchange import HTTPAnswer, HTTPRequest

from .identity_types import KNOWN_TYPES
from .profiles import MemoryStore, Profile
from .requests import is_storable
from .service import Service
from .strategies import IdentityStrategy

if TYPE_CHECKING:
    import httpx


class LocalIDSync:
    """An IDSync service of one's own.

    `database` is ":memory:"; `strategy` the name of a preset or an IdentityStrategy; `api_keys` maps key to secret,
    None takes any key and checks no signature. `seed` makes the MPIDs the same in every run; `now_ms` is the clock
    in Unix milliseconds. Raises ValueError for a database or strategy that is not supported. May be used from
    several threads at once.
    """

    def __init__(
        self,
        database: str = ":memory:",
        strategy: str | IdentityStrategy = "default",
        api_keys: Mapping[str, str] | None = None,
        *,
        seed: int | None = None,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        if database != ":memory:":
            raise ValueError('this database is not supported; pass ":memory:", the only one so far')
        self._strategy = strategy if isinstance(strategy, IdentityStrategy) else IdentityStrategy(strategy)
        self._store = MemoryStore(mpid_drawer(seed))
        service = Service(self._store, self._strategy, api_keys, now_ms=now_ms)
        self._transport = LocalTransport(service)
        self._async_transport = AsyncLocalTransport(service)

    @property
    def transport(self) -> LocalTransport:
        """For `IdentitySession(transport=...)` and `httpx.Client(transport=...)`."""
        return self._transport

    @property
    def async_transport(self) -> AsyncLocalTransport:
        """For `AsyncIdentitySession(transport=...)` and `httpx.AsyncClient(transport=...)`."""
        return self._async_transport

    def seed_profile(self, identities: Mapping[str, str | Sequence[str]]) -> str:
        """Create a profile with these identities, exactly as given: no merging, no guard of unique values.

        Each type has one value or a list of values. Returns the MPID; raises ValueError for an unknown type, or a
        value that is not text or cannot be stored.
        """
        pairs = [
            (type_, value)
            for type_, given in identities.items()
            for value in ([given] if isinstance(given, str) else given)
        ]
        for type_, value in pairs:
            if type_ not in KNOWN_TYPES:
                raise ValueError(f"unknown identity type {type_!r}")
            if not isinstance(value, str) or not value or not is_storable(value):
                raise ValueError(f"a value of {type_!r} is no text that can be stored")
        with self._store.transaction(pairs) as profiles:
            mpid = profiles.create().mpid
            for type_, value in pairs:
                profiles.add(mpid, type_, value)
        return str(mpid)

    def profiles(self) -> list[dict[str, Any]]:
        """Every profile in order of creation, orphans included.

        `identities` is the identity record; `other_identities` holds the types outside the priority, by which nobody
        is found. `source_mpid` is the anonymous profile a known one comes from under profile link, else None.
        """
        with self._store.transaction() as profiles:
            return [self._described(profile) for profile in profiles.all()]

    def reset(self) -> None:
        """Forget all profiles and alias requests."""
        with self._store.transaction() as profiles:
            profiles.clear()

    def __repr__(self) -> str:
        return f"<LocalIDSync in memory, strategy {self._strategy.strategy!r}>"

    def _described(self, profile: Profile) -> dict[str, Any]:
        priority = self._strategy.priority
        return {
            "mpid": str(profile.mpid),
            "identities": {type_: list(profile.values(type_)) for type_ in priority if profile.values(type_)},
            "other_identities": {
                type_: list(values) for type_, values in profile.identities.items() if type_ not in priority
            },
            "source_mpid": None if profile.source_mpid is None else str(profile.source_mpid),
        }


class _Transport:
    def __init__(self, service: Service) -> None:
        self._service = service

    def _post(self, request: HTTPRequest) -> HTTPAnswer:
        headers = dict(request.headers)
        if request.credentials is not None:
            headers |= request.credentials.headers("POST", request.target, request.body)
        return self._service.handle("POST", request.target, headers, request.body)

    def _respond(self, request: httpx.Request, body: bytes) -> httpx.Response:
        # Whoever calls this has imported httpx already; a session does without it.
        from httpx import Response

        answer = self._service.handle(request.method, request.url.raw_path.decode(), request.headers, body)
        return Response(answer.status, headers=dict(answer.headers), content=answer.body)


class LocalTransport(_Transport):
    """Hands requests to the service: a `Sender` for sessions, and a transport for `httpx.Client`."""

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Answer a request of a session. It never takes as long as any `seconds`."""
        return self._post(request)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of an `httpx.Client`."""
        return self._respond(request, request.read())

    def close(self) -> None:
        """Nothing is open; the service goes on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Nothing is open; the service goes on."""


class AsyncLocalTransport(_Transport):
    """Hands requests to the service: an `AsyncSender` for sessions, and a transport for `httpx.AsyncClient`."""

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        """Answer a request of a session. It never takes as long as any `seconds`."""
        return self._post(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of an `httpx.AsyncClient`."""
        return self._respond(request, await request.aread())

    async def aclose(self) -> None:
        """Nothing is open; the service goes on."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Nothing is open; the service goes on."""


def mpid_drawer(seed: int | None) -> Callable[[], int]:
    """Draws MPIDs uniformly from the signed 64-bit numbers but 0, which means "no user yet" in the SDKs."""
    # Not a secret: an MPID is a name, and tests want the same ones again.
    source = random.Random(seed)  # noqa: S311

    def draw() -> int:
        return source.randrange(-(2**63), 2**63 - 1) or 2**63 - 1

    return draw
