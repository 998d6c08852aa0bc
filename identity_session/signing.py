"""Authentication of the Identity API: made for the client and checked for the service, side by side.

Three schemes: HMAC (a signature over the request, sent beside the key), Basic (key and secret), and key only.
Source: documentation page "HTTP API" of IDSync, "Authentication"; the path that is signed behind a customer's own
domain follows the Android SDK (MParticleBaseClientImpl).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .clock import from_ms

Scheme = Literal["hmac", "basic", "key"]

KEY_HEADER = "x-mp-key"
SIGNATURE_HEADER = "x-mp-signature"
_DOMAIN_PREFIXES = ("/identity", "/webevents", "/nativeevents")


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A key, its secret (None for key only), the scheme, and the clock that dates signatures (Unix milliseconds)."""

    api_key: str
    api_secret: str | None
    scheme: Scheme
    now_ms: Callable[[], int]

    def headers(self, method: str, target: str, body: bytes) -> dict[str, str]:
        """The headers that authenticate this request now. `target` is the path and query, `body` the plain bytes."""
        if self.scheme == "key" or self.api_secret is None:
            return {KEY_HEADER: self.api_key}
        if self.scheme == "basic":
            return {"authorization": basic_authorization(self.api_key, self.api_secret)}
        date = f"{from_ms(self.now_ms()):%Y%m%dT%H%M%SZ}"
        return {
            KEY_HEADER: self.api_key,
            "date": date,
            SIGNATURE_HEADER: signature(self.api_secret, method, date, target, body),
        }


def signature(api_secret: str, method: str, date: str, target: str, body: bytes) -> str:
    """HMAC-SHA256, as lower-case hex, over method, date, path and body.

    `date` is the text of the Date header as sent; `body` the plain JSON as sent, before any compression. Behind a
    customer's domain the path is signed as the default host would see it: `/v1/...` without the domain's prefix.
    """
    message = f"{method}\n{date}\n{signed_target(target)}".encode() + body
    return hmac.new(api_secret.encode(), message, hashlib.sha256).hexdigest()


def signed_target(target: str) -> str:
    """The path and query that a signature covers: a customer domain's prefix is left out."""
    for prefix in _DOMAIN_PREFIXES:
        if target.startswith(prefix + "/v1/"):
            return target.removeprefix(prefix)
    return target


def basic_authorization(api_key: str, api_secret: str) -> str:
    """The Authorization header of the Basic scheme."""
    return "Basic " + base64.b64encode(f"{api_key}:{api_secret}".encode()).decode()


def signature_matches(given: str, expected: str) -> bool:
    """Whether a signature is the expected one, in constant time; upper-case hex is accepted."""
    return hmac.compare_digest(given.lower().encode(errors="replace"), expected.encode())
