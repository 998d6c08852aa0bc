"""Who may call: the checking half of the three authentication schemes.

Sources: documentation page "HTTP API" of IDSync, "Authentication"; the Web SDK sends the key alone, and its alias
requests carry it in the path.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping

from identity_session.signing import KEY_HEADER, SIGNATURE_HEADER, signature, signature_matches

from .refusals import KeyRefusedError


def authenticate(
    api_keys: Mapping[str, str] | None,
    *,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    path_key: str | None,
    platform: str | None,
) -> None:
    """Check a request against the keys and their secrets. Without keys (None) any key will do, but there must be one.

    A signature, when there is one, decides; else Basic; else the key alone, which is enough for alias requests and
    for the platform "web": a browser can sign nothing. `headers` have lower-case names, `body` is the plain body,
    `path_key` the key in an alias path. Raises KeyRefusedError.
    """
    basic = _basic_pair(headers.get("authorization", ""))
    key = path_key or headers.get(KEY_HEADER) or (basic and basic[0])
    if not key:
        raise KeyRefusedError("The key is missing.")
    if api_keys is None:
        return
    secret = api_keys.get(key)
    if secret is None:
        raise KeyRefusedError("The key is unknown.")
    if SIGNATURE_HEADER in headers:
        accepted = _is_signed(secret, method, target, headers, body)
    elif basic:
        accepted = hmac.compare_digest(":".join(basic).encode(), f"{key}:{secret}".encode())
    else:
        accepted = path_key is not None or platform == "web"
    if not accepted:
        raise KeyRefusedError("The signature or the secret does not fit, or the key alone is not enough.")


def _is_signed(secret: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bool:
    date = headers.get("date")
    if date is None:
        return False
    # Behind a customer's domain SDKs sign the path without the domain's prefix. Others may sign it as sent: as path
    # and body are joined without a separator, giving it as the body's beginning keeps the prefix.
    expected = (
        signature(secret, method, date, target, body),
        signature(secret, method, date, "", target.encode() + body),
    )
    return any(signature_matches(headers[SIGNATURE_HEADER], each) for each in expected)


def _basic_pair(authorization: str) -> tuple[str, str] | None:
    """Key and secret of a Basic header; None for another scheme or none, empty texts if it cannot be read."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        key, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return key, secret
