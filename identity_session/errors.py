"""Result codes and exceptions.

An identity call never raises because of what the network or the service did: its answer is a value with a code
(`HTTPCodes`, or an HTTP status). Exceptions are for what the caller can mend:

    IdentitySessionError
    +-- IdentityCallError       raised by `raise_for_error()`, when the caller asks for it
    +-- StorageError            the local state cannot be used
        +-- NewerStorageError   it was written by a newer version of this package
        +-- StorageBusyError    another process held the lock for too long

Wrong arguments raise the built-in TypeError and ValueError.
"""

from __future__ import annotations

from enum import IntEnum


class HTTPCodes(IntEnum):
    """Codes of a result that mean more than their HTTP status, or have none.

    Source: the Web SDK's `HTTPCodes` (src/constants.ts) and its IDSync page, "Error handling".
    """

    NO_HTTP_COVERAGE = -1
    """No usable answer: no connection, no time left, an unreadable answer, or the state could not be saved."""
    ACTIVE_IDENTITY_REQUEST = -2
    """Another identity call of this session is under way; nothing was sent or queued."""
    ACTIVE_SESSION = -3
    """A live session was resumed on start and nothing had to be sent."""
    VALIDATION_ISSUE = -4
    """The request was refused before it was sent; the body says why."""
    NATIVE_IDENTITY_REQUEST = -5
    """Handed to a native SDK. Never produced here; kept so that carried-over code finds the name."""
    LOGGING_DISABLED_OR_MISSING_API_KEY = -6
    """The user opted out, or the session has no API key."""
    TOO_MANY_REQUESTS = 429
    """The service throttles; wait before calling again."""


class IdentitySessionError(Exception):
    """Base of every exception of this package."""


class IdentityCallError(IdentitySessionError):
    """A result was not a success, and `raise_for_error()` was called on it. Nothing was changed by raising.

    `http_code` is the result's code. The answer's body is left out: it may name identities.
    """

    def __init__(self, http_code: int) -> None:
        self.http_code = http_code
        super().__init__(f"identity call ended with code {http_code}{_meaning(http_code)}")


class StorageError(IdentitySessionError):
    """The local state could not be read or written. What the call was to keep is kept: it is as before, or, where a
    call changes several files, as after a part of it; a `reset()` that failed has removed a part. Make the call again
    once the cause is gone."""


class NewerStorageError(StorageError):
    """The local state was written by a newer version of this package and was left alone. Upgrade the package."""


class StorageBusyError(StorageError):
    """Another process held the lock of the local state until the deadline. Try again."""


def _meaning(http_code: int) -> str:
    try:
        return f" ({HTTPCodes(http_code).name})"
    except ValueError:
        return ""
