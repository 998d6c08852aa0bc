"""Who may call: the checking half of the three authentication schemes.

Sources: documentation page "HTTP API" of IDSync, "Authentication"; the Web SDK sends the key alone, and its alias
requests carry it in the path; Android SDK MParticleBaseClientImpl and Apple SDK MPURLRequestBuilder.m for the date.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from identity_session.clock import to_ms
from identity_session.signing import KEY_HEADER, SIGNATURE_HEADER, signature, signature_matches, signed_target

from .choices import Choice
from .refusals import KeyDisabledError, KeyRefusedError
from .strategies import IdentityStrategy


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """What a request says about who sends it, and the bytes that a signature covers."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    """The plain body."""
    path_key: str | None
    """The key in the path of an alias request."""
    platform: str | None

    @property
    def basic(self) -> tuple[str, str] | None:
        """Key and secret of a Basic header; None for another scheme or none, empty texts if it cannot be read."""
        scheme, _, encoded = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            key, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            return "", ""
        return key, secret


def authenticate(
    credential: Credential, api_keys: Mapping[str, str] | None, strategy: IdentityStrategy, now_ms: int
) -> str:
    """The key of a request, checked against the keys and their secrets. Without keys (None) any key will do, but
    there must be one. Raises KeyRefusedError or KeyDisabledError."""
    basic = credential.basic
    key = credential.path_key or credential.headers.get(KEY_HEADER) or (basic and basic[0])
    if not key:
        raise KeyRefusedError("The key is missing.")
    if api_keys is not None:
        secret = api_keys.get(key)
        if secret is None:
            raise KeyRefusedError("The key is unknown.", Choice.KEY_STATUS)
        _check(credential, basic, key, secret, strategy, now_ms)
    if key in strategy.disabled_keys:
        raise KeyDisabledError("The key is disabled.", Choice.KEY_STATUS)
    return key


def _check(
    credential: Credential,
    basic: tuple[str, str] | None,
    key: str,
    secret: str,
    strategy: IdentityStrategy,
    now_ms: int,
) -> None:
    """A signature, when there is one, decides; else Basic; else the key alone, if it is enough."""
    if SIGNATURE_HEADER in credential.headers:
        if not _is_signed(credential, secret):
            raise KeyRefusedError("The signature does not fit.", Choice.KEY_PRECEDENCE)
        if not _is_timely(credential.headers["date"], strategy.max_clock_skew_s, now_ms):
            raise KeyRefusedError("The date of the signature is too far from the clock.", Choice.CLOCK_SKEW)
    elif basic:
        if not hmac.compare_digest(":".join(basic).encode(), f"{key}:{secret}".encode()):
            raise KeyRefusedError("The secret does not fit.", Choice.KEY_PRECEDENCE)
    elif not _is_key_enough(credential, strategy.key_only):
        raise KeyRefusedError("The key alone is not enough.", Choice.KEY_PRECEDENCE)


def _is_key_enough(credential: Credential, key_only: str) -> bool:
    """A browser can sign nothing, and its alias requests carry the key in the path."""
    if key_only == "web":
        return credential.path_key is not None or credential.platform == "web"
    return key_only == "always"


def _is_signed(credential: Credential, secret: str) -> bool:
    """Behind a customer's domain SDKs sign the path without the domain's prefix; others may sign it as sent."""
    date, given = credential.headers.get("date"), credential.headers[SIGNATURE_HEADER]
    if date is None:
        return False
    return any(
        signature_matches(given, signature(secret, credential.method, date, target, credential.body))
        for target in (signed_target(credential.target), credential.target)
    )


def _is_timely(date: str, max_skew_s: float | None, now_ms: int) -> bool:
    if max_skew_s is None:
        return True
    sent_ms = _date_ms(date)
    return sent_ms is not None and abs(now_ms - sent_ms) <= max_skew_s * 1000


def _date_ms(date: str) -> int | None:
    """A date in the basic form of ISO 8601, as documented, or in that of HTTP, as the native SDKs send it."""
    try:
        if re.fullmatch(r"\d{8}T\d{6}Z", date):
            moment = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        else:
            moment = parsedate_to_datetime(date)
        return to_ms(moment) if moment.utcoffset() is not None else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
