"""What is remembered, as plain data: the session's life, and what printing it shows."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict

import pytest

from identity_session.users import Answer, Change, Committed, Session, Snapshot, User

MINUTE = 60_000


@pytest.mark.parametrize(
    ("passed_ms", "timeout_ms", "live"),
    [
        (0, 30 * MINUTE, True),
        (30 * MINUTE - 1, 30 * MINUTE, True),
        (30 * MINUTE, 30 * MINUTE, False),
        (10**12, 30 * MINUTE, False),
        (-30 * MINUTE + 1, 30 * MINUTE, True),
        (-30 * MINUTE, 30 * MINUTE, False),
        (10**12, 0, True),
        (-(10**12), 0, True),
    ],
    ids=[
        "at once",
        "just before the timeout",
        "at the timeout",
        "decades later",
        "the clock was set back a little",
        "the clock was set back by the timeout",
        "a timeout of 0 never passes",
        "nor does it when the clock is set back",
    ],
)
def test_a_session_lives_until_the_timeout_has_passed_in_either_direction(
    passed_ms: int, timeout_ms: int, live: bool
) -> None:
    session = Session("A", started_ms=0, last_activity_ms=10**12)
    assert session.is_live(10**12 + passed_ms, timeout_ms) is live


def test_a_snapshot_knows_the_mpid_of_its_user() -> None:
    assert Snapshot().mpid is None
    assert Snapshot(user=User("7")).mpid == "7"


def test_nothing_remembered_can_be_changed_in_place() -> None:
    for thing in (User("7"), Snapshot(), Session("A", 1, 1), Answer(1, 1, True, False)):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            thing.mpid = "8"  # type: ignore[misc,union-attr]


def test_a_new_user_is_empty_and_was_never_seen() -> None:
    assert asdict(User("7")) == {
        "mpid": "7",
        "identities": {},
        "attributes": {},
        "consent_state": None,
        "first_seen_ms": None,
        "last_seen_ms": None,
        "is_logged_in": False,
        "is_ephemeral": False,
    }


def test_no_repr_shows_identities_or_attributes() -> None:
    user = User("7", {"email": "canary@example.com"}, {"plan": "canary"}, {"gdpr": "canary"})
    snapshot = Snapshot(user=user, context="canary")
    for thing in (user, snapshot, Change(snapshot, (user,)), Committed(snapshot, snapshot, ("canary",))):
        assert "canary" not in repr(thing)
