"""Consent: what a user agreed to, in a form that `set_consent_state` takes and `consent_state` gives back.

Source: Web SDK src/consent.ts (createGDPRConsent, createCCPAConsent, createConsentState).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from .clock import now_ms, to_ms

CCPA_PURPOSE = "data_sale_opt_out"


class ConsentState(dict[str, Any]):
    """A mapping `{"gdpr": {purpose: consent}, "ccpa": {"data_sale_opt_out": consent}}`, with methods to fill it.

    A consent is `{"consented": bool, "timestamp_ms": int}` and, where given, "document", "location" and
    "hardware_id" (texts). The methods return the state, so that they can be chained.
    """

    def __repr__(self) -> str:
        return f"<ConsentState {', '.join(map(str, self))}>"

    def add_gdpr_consent(self, purpose: str, *, consented: bool, **details: Any) -> Self:
        """Note a GDPR consent; the purpose is trimmed and lower-cased. `details` as in `consent`."""
        self.setdefault("gdpr", {})[_purpose(purpose)] = consent(consented=consented, **details)
        return self

    def remove_gdpr_consent(self, purpose: str) -> Self:
        """Forget the GDPR consent for this purpose, if there is one."""
        self.get("gdpr", {}).pop(_purpose(purpose), None)
        return self

    def set_ccpa_consent(self, *, consented: bool, **details: Any) -> Self:
        """Note whether the user opted out of the sale of data under the CCPA. `details` as in `consent`."""
        self["ccpa"] = {CCPA_PURPOSE: consent(consented=consented, **details)}
        return self

    def remove_ccpa_consent(self) -> Self:
        """Forget the CCPA consent, if there is one."""
        self.pop("ccpa", None)
        return self


def consent(
    *,
    consented: bool,
    timestamp: datetime | None = None,
    document: str | None = None,
    location: str | None = None,
    hardware_id: str | None = None,
) -> dict[str, Any]:
    """One consent as a mapping. `timestamp` is an aware datetime, None for now. Raises TypeError and ValueError."""
    if not isinstance(consented, bool):
        raise TypeError(f"consented must be a bool, not {type(consented).__name__}")
    if timestamp is not None and not isinstance(timestamp, datetime):
        raise TypeError(f"timestamp must be a datetime, not {type(timestamp).__name__}")
    if timestamp is not None and timestamp.utcoffset() is None:
        raise ValueError("timestamp has no time zone; pass an aware datetime")
    given = {"document": document, "location": location, "hardware_id": hardware_id}
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    moment_ms = now_ms() if timestamp is None else to_ms(timestamp)
    return {"consented": consented, "timestamp_ms": moment_ms, **{k: v for k, v in given.items() if v is not None}}


def _purpose(purpose: object) -> str:
    if not isinstance(purpose, str):
        raise TypeError(f"purpose must be a str, not {type(purpose).__name__}")
    if not purpose.strip():
        raise ValueError("purpose must not be empty")
    return purpose.strip().lower()
