"""Which call is legal when, as a table; and the call slot, as the smallest of machines.

Sources: Web SDK src/identity.js (the order of checks in identify, login, logout and modify), src/identity/search.ts,
src/identityApiClient.ts (identityCallInFlight); documentation page "IDSync" of the web client SDK, error codes.

A call is refused by the first condition of its row that holds. A condition without an entry does not matter to the
call: search and alias run beside an identity call, and only modify needs a user.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from enum import Enum, auto
from weakref import ref

from .errors import HTTPCodes
from .exchange import Call


class Condition(Enum):
    """What may stand in the way of a valid call."""

    NOBODY = auto()
    """There is no current user."""
    SHUT = auto()
    """The user opted out, or the session has no API key."""
    BUSY = auto()
    """Another identity call of this session is in flight."""


_NOBODY = HTTPCodes.VALIDATION_ISSUE
_SHUT = HTTPCodes.LOGGING_DISABLED_OR_MISSING_API_KEY
_BUSY = HTTPCodes.ACTIVE_IDENTITY_REQUEST

REFUSALS: Mapping[Call, Mapping[Condition, HTTPCodes]] = {
    Call.IDENTIFY: {Condition.SHUT: _SHUT, Condition.BUSY: _BUSY},
    Call.LOGIN: {Condition.SHUT: _SHUT, Condition.BUSY: _BUSY},
    Call.LOGOUT: {Condition.SHUT: _SHUT, Condition.BUSY: _BUSY},
    Call.MODIFY: {Condition.NOBODY: _NOBODY, Condition.SHUT: _SHUT, Condition.BUSY: _BUSY},
    Call.SEARCH: {Condition.SHUT: _SHUT},
    Call.ALIAS: {Condition.SHUT: _SHUT},
}

REFUSAL_TEXTS: Mapping[HTTPCodes, str] = {
    _NOBODY: "there is no current user to modify; call identify or login first",
    _SHUT: "nothing was sent: the user opted out, or the session has no API key",
    _BUSY: "nothing was sent: another identity call of this session is in flight; call again when it has ended",
}


def refusal(call: Call, conditions: frozenset[Condition]) -> HTTPCodes | None:
    """The code that refuses this call under these conditions, or None when it may go ahead."""
    return next((code for condition, code in REFUSALS[call].items() if condition in conditions), None)


class Holder:
    """One call, as the holder of a slot. It lives as long as the call."""


class CallSlot:
    """Free or taken: at most one identity call of a session is in flight, whichever thread or task makes it.

    A slot whose holder is gone is free: an interrupt may come at any instruction, also before a call can give it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: Callable[[], Holder | None] = lambda: None

    def take(self, holder: Holder) -> bool:
        """Take the slot; False when another call has it."""
        with self._lock:
            if self._holder() is not None:
                return False
            self._holder = ref(holder)
            return True

    def free(self, holder: Holder) -> None:
        """Give the slot back, if this call has it. From any thread: an interrupted call may end in another one than it
        began in."""
        if self._holder() is holder:
            self._holder = lambda: None
