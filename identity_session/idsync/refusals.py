"""Why a call is not answered with success. Which status each reason has is said in `answers`.

Nothing was written when one of these is raised. Their texts are the messages of the answers, and never hold an
identity value, a key or a secret.
"""

from __future__ import annotations


class RefusedError(Exception):
    """Base of all refusals."""


class InvalidDataError(RefusedError):
    """The body cannot be read as this call."""


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


class AliasRefusedError(RefusedError):
    """The strategy knows no aliasing."""


class UnknownPathError(RefusedError):
    """No call of the Identity API lives at this path."""


class UnknownMethodError(RefusedError):
    """Calls of the Identity API are made with POST."""
