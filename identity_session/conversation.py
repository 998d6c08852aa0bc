"""What a conversation may ask to have done, and what it comes to in the end.

A conversation is a generator: it yields one effect after the other and is sent what came of each. Trouble comes in as
a value, not as an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from .exchange import Question
from .users import Rule


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
