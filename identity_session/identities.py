"""Identity types and requests: what a caller may say about a user, checked and cleaned before it is sent.

Sources: Web SDK src/types.ts (IdentityType), src/validators.ts, src/identity-utils.ts; documentation page
"IDSync" of the web client SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Identities = Mapping[str, str | None]
"""Identity type name to value. None asks for the removal of that identity."""


class IdentityType(StrEnum):
    """The identity types that a client may send, by their name on the wire."""

    OTHER = "other"
    CUSTOMERID = "customerid"
    FACEBOOK = "facebook"
    TWITTER = "twitter"
    GOOGLE = "google"
    MICROSOFT = "microsoft"
    YAHOO = "yahoo"
    EMAIL = "email"
    FACEBOOKCUSTOMAUDIENCEID = "facebookcustomaudienceid"
    OTHER2 = "other2"
    OTHER3 = "other3"
    OTHER4 = "other4"
    OTHER5 = "other5"
    OTHER6 = "other6"
    OTHER7 = "other7"
    OTHER8 = "other8"
    OTHER9 = "other9"
    OTHER10 = "other10"
    MOBILE_NUMBER = "mobile_number"
    PHONE_NUMBER_2 = "phone_number_2"
    PHONE_NUMBER_3 = "phone_number_3"


SPELLING_VARIANTS: Mapping[str, IdentityType] = {
    "email_sha256": IdentityType.OTHER,
    "mobile_sha256": IdentityType.OTHER2,
}
"""Names taken in requests for another type's slot; a variant wins over the slot's own name (src/identity-utils.ts)."""

_NAMES = frozenset(IdentityType)
_MEMBERS = frozenset({"userIdentities", "onUserAlias", "copyUserAttributes"})


@dataclass(frozen=True, repr=False)
class IdentityRequest:
    """What an identity call says about the user: `user_identities` maps identity type names to values.

    A value of None removes that identity; an empty text is left out. Nothing is checked here: the call that takes
    the request answers with code -4 when it is not valid.
    """

    user_identities: Identities = field(default_factory=dict)

    def __repr__(self) -> str:
        names = self.user_identities if isinstance(self.user_identities, Mapping) else ["?"]
        return f"<IdentityRequest {', '.join(str(name) if _is_known(name) else '?' for name in names)}>"


RequestLike = IdentityRequest | Mapping[str, object] | None
"""What every identity call takes: also the SDK's mapping `{"userIdentities": {...}}`, or None for no identities."""


class InvalidRequestError(Exception):
    """A request that is refused with code -4; its text says what to change. It never names an identity value."""


@dataclass(frozen=True, slots=True, repr=False)
class CleanRequest:
    """A checked request: the identities to send, by canonical name, and the deprecated alias hook, if any."""

    identities: dict[str, str | None]
    on_user_alias: Callable[[Any, Any], object] | None = None
    is_recalled: bool = False
    """Whether no caller said this: it was stored when the automatic identify was looked at."""


def clean_request(request: object) -> CleanRequest:
    """Check an `IdentityRequest`, the SDK's mapping `{"userIdentities": {...}}`, or None, and clean it.

    Checked first and cleaned second, so that a mistake never slips through; the SDK cleans first. Returns a
    CleanRequest; raises InvalidRequestError. The caller's object is not changed.
    """
    if request is None:
        return CleanRequest({})
    if isinstance(request, IdentityRequest):
        return CleanRequest(clean_identities(request.user_identities))
    if not isinstance(request, Mapping):
        raise InvalidRequestError(
            f"the request is a {type(request).__name__}; pass an IdentityRequest or {{'userIdentities': {{...}}}}"
        )
    unknown = [str(name) for name in request if name not in _MEMBERS]
    if unknown:
        raise InvalidRequestError(f"unknown member {unknown[0]!r}; identities belong under 'userIdentities'")
    hook = request.get("onUserAlias")
    if "onUserAlias" in request and not callable(hook):
        raise InvalidRequestError(f"'onUserAlias' is a {type(hook).__name__}; pass a callable or leave it out")
    if request and "userIdentities" not in request:
        raise InvalidRequestError("'userIdentities' is missing; pass {'userIdentities': {...}}")
    return CleanRequest(clean_identities(request.get("userIdentities")), hook)


def clean_identities(identities: object) -> dict[str, str | None]:
    """Check a mapping of identity types to values and return what is to be sent, in the caller's order.

    Empty texts are dropped, None is kept (it asks for removal), spelling variants move to their slot. Names and
    values are compared exactly: no trimming, no case folding. None counts as no identities. Raises
    InvalidRequestError for an unknown type, a value that is neither text nor None, or text that UTF-8 cannot hold.
    """
    if identities is None:
        return {}
    if not isinstance(identities, Mapping):
        raise InvalidRequestError(f"the identities are a {type(identities).__name__}; pass a mapping of type to value")
    cleaned: dict[str, str | None] = {}
    for name, value in identities.items():
        if not _is_known(name):
            raise InvalidRequestError(
                f"unknown identity type {str(name)!r}; known types: {', '.join(sorted({*_NAMES, *SPELLING_VARIANTS}))}"
            )
        if value is not None and not isinstance(value, str):
            raise InvalidRequestError(f"the value of {str(name)!r} is a {type(value).__name__}; pass a str or None")
        if value is not None and not is_text(value):
            raise InvalidRequestError(f"the value of {str(name)!r} holds characters that UTF-8 cannot encode")
        if value != "":
            cleaned[str(name)] = value
    for variant, slot in SPELLING_VARIANTS.items():
        if variant in cleaned:
            cleaned[slot.value] = cleaned.pop(variant)
    return cleaned


def _is_known(name: object) -> bool:
    return name in _NAMES or name in SPELLING_VARIANTS


def is_text(value: object) -> bool:
    """Whether this is a str that UTF-8 can hold (a lone surrogate cannot be sent or stored)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def overlay(stored: Mapping[str, str], sent: Identities) -> dict[str, str]:
    """The stored identities after a call that sent these: values replace, None removes, the rest stays."""
    return {name: value for name, value in {**stored, **sent}.items() if value is not None}


def covers(stored: Mapping[str, str], sent: Identities) -> bool:
    """Whether sending these would tell nothing new: every value is stored, every None is absent."""
    return all(stored.get(name) == value for name, value in sent.items())
