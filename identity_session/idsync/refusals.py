"""Why a call is not answered with success. Which status each reason has is said in `answers`.

Nothing was written when one of these is raised, but the record of the call. Their texts are the messages of the
answers and stand in the trail, and never hold an identity value, a key or a secret.
"""

from __future__ import annotations

from .choices import Choice


class RefusedError(Exception):
    """Base of all refusals. `choices` are those of this service that the refusal rests on."""

    def __init__(self, text: str, *choices: str) -> None:
        super().__init__(text)
        self.choices = choices


class InvalidDataError(RefusedError):
    """The body cannot be read as this call."""

    def __init__(self, text: str, *choices: str) -> None:
        super().__init__(text, *choices, Choice.INVALID_DATA)


class BodyTooLargeError(RefusedError):
    """The body is larger than the service takes, as sent or unpacked."""


class LookupRefusedError(RefusedError):
    """The body is well formed, but what it asks is not allowed."""


class NotFoundError(RefusedError):
    """Nobody is found, and nobody may be created."""


class UnknownMPIDError(RefusedError):
    """The profile that modify names does not exist."""


class KeyRefusedError(RefusedError):
    """There is no key, or it is unknown, or the signature or secret does not fit it."""


class KeyDisabledError(RefusedError):
    """The key is known, but may not be used."""


class AliasRefusedError(RefusedError):
    """The strategy knows no aliasing, or it is switched off."""


class TooManyRequestsError(RefusedError):
    """A limit is exceeded. There is room again after `retry_after_seconds`; `limit` is the kind of limit."""

    def __init__(self, text: str, *choices: str, retry_after_seconds: int, limit: str) -> None:
        super().__init__(text, *choices)
        self.retry_after_seconds = retry_after_seconds
        self.limit = limit


class UnknownPathError(RefusedError):
    """No call of the Identity API lives at this path."""


class UnknownMethodError(RefusedError):
    """Calls of the Identity API are made with POST."""
