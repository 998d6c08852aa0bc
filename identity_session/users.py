"""What is remembered: a user, the session, and the snapshot of all that every call may need.

All of it is plain data on frozen dataclasses; times are Unix milliseconds. Nothing here shows an identity or an
attribute when printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Scalar = str | int | float | bool | None
AttributeValue = Scalar | Sequence[Scalar]
"""What a user attribute may hold. A tag is an attribute whose value is None."""


@dataclass(frozen=True, slots=True, repr=False)
class User:
    """One user as remembered under its MPID (a text: 64 bits do not survive every JSON reader)."""

    mpid: str
    identities: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    consent_state: Mapping[str, object] | None = None
    first_seen_ms: int | None = None
    last_seen_ms: int | None = None
    """When the user stopped being current; None for one who never has."""
    is_logged_in: bool = False
    """The flag of the last answer that made or kept this user current."""
    is_ephemeral: bool = False
    """Whether the answer that made this user current said that it need not be remembered."""


@dataclass(frozen=True, slots=True)
class Session:
    """A period of activity. It ends by inactivity or by `end_session()`, never by a login or logout."""

    id: str
    """A version 4 UUID in upper case."""
    started_ms: int
    last_activity_ms: int

    def is_live(self, now_ms: int, timeout_ms: int) -> bool:
        """Whether less than the timeout has passed since the last activity; a timeout of 0 never passes.

        A clock that was set back by more than the timeout ends the session too: otherwise one that once ran years
        ahead would keep it for as long.
        """
        return timeout_ms <= 0 or abs(now_ms - self.last_activity_ms) < timeout_ms


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that may be given again without asking, until `expires_ms`; what it was to is in its key."""

    expires_ms: int
    max_age_ms: int
    is_logged_in: bool
    is_ephemeral: bool


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """All that a call may need and most calls change. The users who are not current are kept apart from it, so that
    a call costs the same however many there are."""

    device_application_stamp: str | None = None
    context: str | None = None
    opted_out: bool = False
    session: Session | None = None
    user: User | None = None
    """The current user."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """Remembered answers by key, when `cache_identity` is on; all of them belong to the current user."""

    @property
    def mpid(self) -> str | None:
        """MPID of the current user."""
        return self.user.mpid if self.user else None


@dataclass(frozen=True, slots=True, repr=False)
class Change:
    """What a call does to the memory: the next snapshot, other users to write down, users to forget."""

    snapshot: Snapshot
    users: tuple[User, ...] = ()
    forget: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Committed:
    """A change that is on the disk: the snapshot it found, the one it left, and whom it forgot by MPID."""

    before: Snapshot
    after: Snapshot
    forgotten: tuple[str, ...] = ()


FindUser = Callable[[str], User | None]
"""Looks up a user by MPID; None for one who is not remembered."""

Rule = Callable[[Snapshot, FindUser], Change]
"""What a change makes of the snapshot in force."""
