"""Settings of a session: checked once, at construction, so that a mistake raises where it was made.

Sources: Web SDK src/store.ts and src/constants.ts (names, defaults, base URLs), src/mp-instance.ts and src/store.ts
(processBaseUrls: own domain, data-centre routing).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args
from urllib.parse import urlsplit

from .identities import IdentityRequest, RequestLike, is_text
from .retry import RetryPolicy
from .signing import Credentials, Scheme

Environment = Literal["production", "development"]
Platform = Literal["ios", "android", "web", "tvos", "roku", "alexa", "smart_tv", "fire", "xbox", "other"]

DEFAULT_BASE_URL = "https://identity.mparticle.com/v1"
DEFAULT_ALIAS_URL = "https://jssdks.mparticle.com/v1/identity"
DEFAULT_DATA_CENTRE = "us1"
MAX_TIMEOUT_SECONDS = 86_400
"""Sockets, locks and timers refuse numbers that are much larger, each at another one."""


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What a session was configured with. Times are milliseconds or seconds, as the names say."""

    credentials: Credentials
    base_url: str
    alias_url: str
    environment: Environment
    platform: Platform
    workspace: str
    """The name of this workspace's place in the storage; tells nothing about token or key."""
    identify_request: object
    """As the caller gave it; an invalid one is answered with -4 on start."""
    device_id: str | None
    session_timeout_ms: int
    alias_max_window: timedelta
    timeout_seconds: float
    retry: RetryPolicy
    keep_ephemeral_users: bool
    max_users: int | None
    cache_identity: bool
    now_ms: Callable[[], int]
    new_id: Callable[[], str]

    @property
    def has_api_key(self) -> bool:
        """Without one nothing is sent."""
        return bool(self.credentials.api_key)


def settings(
    api_key: str | None,
    api_secret: str | None,
    *,
    auth: Scheme | None,
    base_url: str,
    alias_url: str | None,
    domain: str | None,
    direct_url_routing: bool,
    environment: Environment,
    platform: Platform,
    workspace_token: str | None,
    identify_request: RequestLike,
    device_id: str | None,
    session_timeout: timedelta,
    alias_max_window: timedelta,
    timeout: float,
    retry: RetryPolicy | None,
    keep_ephemeral_users: bool,
    max_users: int | None,
    cache_identity: bool,
    now_ms: Callable[[], int],
    new_id: Callable[[], str],
) -> Settings:
    """Check what `IdentitySession` was given. Raises TypeError and ValueError; no message shows a key or secret."""
    key = checked_key(api_key)
    if workspace_token is not None:
        check_text("workspace_token", workspace_token)
    if device_id is not None:
        check_text("device_id", device_id)
    for name, value, allowed in (("environment", environment, Environment), ("platform", platform, Platform)):
        if value not in get_args(allowed):
            raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}")
    for name, span in (("session_timeout", session_timeout), ("alias_max_window", alias_max_window)):
        if not isinstance(span, timedelta):
            raise TypeError(f"{name} must be a timedelta, not {type(span).__name__}")
        if span < timedelta(0):
            raise ValueError(f"{name} must not be negative")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if not 0 < timeout <= MAX_TIMEOUT_SECONDS:
        raise ValueError(f"timeout must be a positive number of seconds, at most {MAX_TIMEOUT_SECONDS} (a day)")
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise TypeError(f"retry must be a RetryPolicy or None, not {type(retry).__name__}")
    if max_users is not None and (not isinstance(max_users, int) or isinstance(max_users, bool) or max_users < 1):
        raise ValueError("max_users must be None or a whole number of at least 1")
    for name, flag in (
        ("direct_url_routing", direct_url_routing),
        ("keep_ephemeral_users", keep_ephemeral_users),
        ("cache_identity", cache_identity),
    ):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be a bool, not {type(flag).__name__}")
    for name, function in (("now_ms", now_ms), ("new_id", new_id)):
        if not callable(function):
            raise TypeError(f"{name} must be callable, not {type(function).__name__}")
    identity_base, alias_base = _base_urls(key, base_url, alias_url, domain, direct_url_routing)
    return Settings(
        credentials=Credentials(key, api_secret, _scheme(auth, api_secret), now_ms),
        base_url=identity_base,
        alias_url=alias_base,
        environment=environment,
        platform=platform,
        workspace=workspace_name(key, workspace_token),
        identify_request=_own(identify_request),
        device_id=device_id,
        session_timeout_ms=session_timeout // timedelta(milliseconds=1),
        alias_max_window=alias_max_window,
        timeout_seconds=float(timeout),
        retry=RetryPolicy(attempts=1) if retry is None else retry,
        keep_ephemeral_users=keep_ephemeral_users,
        max_users=max_users,
        cache_identity=cache_identity,
        now_ms=now_ms,
        new_id=new_id,
    )


def checked_key(api_key: object) -> str:
    """An API key that a header can hold, "" for None. Raises TypeError and ValueError, which do not show it."""
    if api_key is None:
        return ""
    if not isinstance(api_key, str):
        raise TypeError(f"api_key must be a str, not {type(api_key).__name__}")
    if not re.fullmatch(r"[!-~]*", api_key):
        raise ValueError("api_key must be printable ASCII without spaces; check how it was copied")
    return api_key


def check_text(name: str, value: object) -> None:
    """Raise TypeError or ValueError, which do not show it, for what is no text that can be stored and sent."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value or not is_text(value):
        raise ValueError(f"{name} must be a non-empty text that UTF-8 can hold")


def _scheme(auth: Scheme | None, api_secret: object) -> Scheme:
    if api_secret is not None and not isinstance(api_secret, str):
        raise TypeError(f"api_secret must be a str or None, not {type(api_secret).__name__}")
    if api_secret and not is_text(api_secret):
        raise ValueError("api_secret must be a text that UTF-8 can hold; check how it was read")
    if auth is None:
        return "hmac" if api_secret else "key"
    if auth not in get_args(Scheme):
        raise ValueError("auth must be 'hmac', 'basic', 'key' or None")
    if auth != "key" and not api_secret:
        raise ValueError(f"auth={auth!r} needs an api_secret")
    return auth


def _base_urls(key: str, base_url: str, alias_url: str | None, domain: str | None, routing: bool) -> tuple[str, str]:
    # The Web SDK's order: an own domain beats everything, a given URL beats routing, routing beats the defaults.
    if domain is not None:
        if not isinstance(domain, str):
            raise TypeError(f"domain must be a str, not {type(domain).__name__}")
        if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", domain):
            raise ValueError("domain must be a host name without scheme and path, such as 'mp.example.com'")
        return f"https://{domain}/identity/v1", f"https://{domain}/webevents/v1/identity"
    custom = _checked_url("base_url", base_url)
    if alias_url is not None:
        alias_url = _checked_url("alias_url", alias_url)
    if custom != DEFAULT_BASE_URL:
        return custom, alias_url or f"{custom}/identity"
    if routing and key:
        centre = key.partition("-")[0] if "-" in key else DEFAULT_DATA_CENTRE
        if not centre.isalnum():
            raise ValueError("direct_url_routing needs an api_key that begins with a data centre, such as 'us1-...'")
        return (
            f"https://identity.{centre}.mparticle.com/v1",
            alias_url or f"https://jssdks.{centre}.mparticle.com/v1/identity",
        )
    return custom, alias_url or DEFAULT_ALIAS_URL


def _checked_url(name: str, url: object) -> str:
    if not isinstance(url, str):
        raise TypeError(f"{name} must be a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not re.fullmatch(r"[!-~]+", url) or re.search(r"[?#\\]", url) or "@" in parts.netloc:
        raise ValueError(f"{name} must be an absolute URL in ASCII without user, query or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError(f"{name} must begin with https://; plain http is for loopback hosts alone")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether this host is the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def workspace_name(key: str, token: str | None) -> str:
    """The name of the folder with the state of a workspace, which the key decides unless a token is given."""
    name = f"key {key}" if token is None else f"token {token}"
    return "workspace-" + hashlib.sha256(name.encode()).hexdigest()[:16]


def is_workspace_name(name: str) -> bool:
    """Whether a folder of this name is one of a workspace."""
    return re.fullmatch(r"workspace-[0-9a-f]{16}", name) is not None


def _own(request: object) -> object:
    """A copy, so that what the caller does to the request later changes nothing."""
    if isinstance(request, IdentityRequest) and isinstance(request.user_identities, Mapping):
        return IdentityRequest(dict(request.user_identities))
    if not isinstance(request, Mapping):
        return request
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in request.items()}
