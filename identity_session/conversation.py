"""What a conversation may ask to have done, and what it comes to in the end.

A conversation is a generator: it yields one effect after the other and is sent what came of each. Trouble comes in as
a value, not as an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import HTTPCodes, StorageError
from .exchange import Question
from .states import REFUSAL_TEXTS
from .users import Rule, Snapshot


@dataclass(frozen=True, slots=True)
class Read:
    """Read the snapshot. Brings a Snapshot or a StorageError."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply a rule to what is stored, by this deadline. Brings a Committed or a StorageError."""

    rule: Rule
    deadline: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Put a question to the service once, by this deadline. Brings a Reply or a NoReply."""

    question: Question
    deadline: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this long. Brings None."""

    seconds: float


Effect = Read | Apply | Ask | Pause
T = TypeVar("T")
Conversation = Generator[Effect, Any, T]


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What came of a call, before it is dressed up for the caller."""

    http_code: int
    body: Any = None
    """The answer's object, a text for a code of our own, or None."""
    mpid: str | None = None
    """The current user when the call ended."""
    previous_mpid: str | None = None
    """The user who was current before this call, if it changed the user."""
    on_user_alias: Callable[[Any, Any], object] | None = None


def resumed(snapshot: Snapshot) -> Outcome:
    """A live session goes on; the body describes its user as an answer would."""
    user = snapshot.user
    assert user is not None
    body = {
        "mpid": user.mpid,
        "is_logged_in": user.is_logged_in,
        "matched_identities": dict(user.identities),
        "context": None,
        "is_ephemeral": False,
    }
    return Outcome(HTTPCodes.ACTIVE_SESSION, body, user.mpid)


def refused(snapshot: Snapshot | StorageError, code: HTTPCodes, text: str | None = None) -> Outcome:
    """The call was not sent; `text` says why, by default what the table of refusals says of the code."""
    mpid = snapshot.mpid if isinstance(snapshot, Snapshot) else None
    return Outcome(code, text or REFUSAL_TEXTS[code], mpid)


def failed(snapshot: Snapshot | None, text: str) -> Outcome:
    """There is no usable answer, or nothing could be saved."""
    return Outcome(HTTPCodes.NO_HTTP_COVERAGE, text, snapshot.mpid if snapshot else None)
