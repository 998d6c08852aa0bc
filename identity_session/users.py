"""What is remembered: a user, the session, and the snapshot of all that every call may need.

All of it is plain data on frozen dataclasses; times are Unix milliseconds. Nothing here shows an identity or an
attribute when printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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


def live_session(snapshot: Snapshot, now_ms: int, timeout_ms: int) -> Session | None:
    """The session if it is still live."""
    session = snapshot.session
    return session if session and session.is_live(now_ms, timeout_ms) else None


def active(snapshot: Snapshot, now_ms: int, timeout_ms: int) -> Snapshot:
    """The snapshot after activity now: a live session lasts longer, an expired one is dropped."""
    session = live_session(snapshot, now_ms, timeout_ms)
    return replace(snapshot, session=session and replace(session, last_activity_ms=now_ms))
