"""What an answer does to what is remembered, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from identity_session.exchange import Call, IdentityChange, Question, Reply
from identity_session.rules import active, begun, forgotten, identified, live_session, modified
from identity_session.users import Answer, Change, Session, Snapshot, User

NOW = 1_767_607_200_000
MINUTE = 60_000
ALICE = User("1", identities={"email": "a"}, attributes={"x": 1}, first_seen_ms=5, last_seen_ms=7)
BOB = User("2", identities={"other": "b"}, attributes={"y": 2}, first_seen_ms=1, last_seen_ms=2, is_logged_in=True)


def question(call: Call = Call.LOGIN, **identities: str | None) -> Question:
    changes = tuple(IdentityChange(None, value, name) for name, value in identities.items())
    return Question(call, "id", NOW, "device", mpid="1", known_identities=identities, identity_changes=changes)


def reply(mpid: str | None, **fields: Any) -> Reply:
    return Reply(200, {}, mpid=mpid, **fields)


def find(mpid: str) -> User | None:
    return {"2": BOB}.get(mpid)


def after(snapshot: Snapshot, asked: Question, answered: Reply, **options: Any) -> Any:
    return identified(
        snapshot, find, asked, answered, NOW, **{"user_when_asked": snapshot.user, "keep_ephemeral": True, **options}
    )


class TestIdentified:
    def test_a_new_user_is_first_seen_now_and_the_old_one_last_seen_now(self) -> None:
        change = after(Snapshot(user=ALICE), question(email="n"), reply("9", is_logged_in=True))
        assert change.snapshot.user == User("9", {"email": "n"}, first_seen_ms=NOW, is_logged_in=True)
        assert change.users == (replace(ALICE, last_seen_ms=NOW),)

    def test_a_known_user_comes_back_with_all_that_is_remembered(self) -> None:
        change = after(Snapshot(user=ALICE), question(email="n"), reply("2"))
        assert change.snapshot.user == replace(BOB, identities={"other": "b", "email": "n"}, is_logged_in=False)

    def test_nothing_is_taken_from_the_user_before(self) -> None:
        user = after(Snapshot(user=ALICE), question(email="n"), reply("9")).snapshot.user
        assert (user.identities, user.attributes) == ({"email": "n"}, {})

    def test_the_same_user_stays_and_nobody_is_left_behind(self) -> None:
        change = after(Snapshot(user=ALICE), question(other="o"), reply("1"))
        assert change.snapshot.user == replace(ALICE, identities={"email": "a", "other": "o"})
        assert (change.users, change.forget) == ((), ())

    def test_without_a_user_before_the_remembered_one_is_found(self) -> None:
        assert after(Snapshot(), question(other="b"), reply("2")).snapshot.user.attributes == {"y": 2}

    @pytest.mark.parametrize("keep", [True, False])
    def test_an_ephemeral_user_who_leaves_is_forgotten_if_so_configured(self, keep: bool) -> None:
        change = after(Snapshot(user=replace(ALICE, is_ephemeral=True)), question(), reply("2"), keep_ephemeral=keep)
        assert change.forget == (() if keep else ("1",))
        assert len(change.users) == keep

    @pytest.mark.parametrize(
        ("call", "mpid", "stays"),
        [(Call.LOGIN, "1", True), (Call.IDENTIFY, "1", True), (Call.LOGIN, "2", False), (Call.LOGOUT, "1", False)],
    )
    def test_remembered_answers_stay_with_the_user(self, call: Call, mpid: str, stays: bool) -> None:
        answers = {"key": Answer(NOW, 1, True, False)}
        change = after(Snapshot(user=ALICE, answers=answers), question(call), reply(mpid))
        assert change.snapshot.answers == (answers if stays else {})

    @pytest.mark.parametrize(
        ("answered", "stored", "asked", "kept"), [("a", "s", "q", "a"), (None, "s", "q", "s"), (None, None, "q", "q")]
    )
    def test_the_context_is_the_latest_there_is(
        self, answered: str | None, stored: str | None, asked: str, kept: str
    ) -> None:
        asked_with = replace(question(), context=asked)
        assert after(Snapshot(context=stored), asked_with, reply("9", context=answered)).snapshot.context == kept


class TestForgotten:
    SNAPSHOT = Snapshot("device", "c", True, Session("S", 1, 2), ALICE, {"key": Answer(NOW, 1, True, False)})

    def left(self, snapshot: Snapshot = SNAPSHOT, **options: bool) -> Any:
        return forgotten(snapshot, NOW, **{"keep_user": True, "keep_ephemeral": True, **options})

    def test_nobody_is_current_and_nothing_of_the_user_is_in_the_snapshot(self) -> None:
        assert self.left().snapshot == Snapshot("device", None, True, Session("S", 1, 2), None, {})

    def test_who_leaves_was_last_seen_now(self) -> None:
        assert (self.left().users, self.left().forget) == ((replace(ALICE, last_seen_ms=NOW),), ())

    def test_or_is_not_kept_at_all(self) -> None:
        change = self.left(keep_user=False)
        assert (change.users, change.forget) == ((), ("1",))

    @pytest.mark.parametrize("keep", [True, False])
    def test_an_ephemeral_user_is_forgotten_if_so_configured(self, keep: bool) -> None:
        change = self.left(replace(self.SNAPSHOT, user=replace(ALICE, is_ephemeral=True)), keep_ephemeral=keep)
        assert (len(change.users), change.forget) == (keep, () if keep else ("1",))

    def test_with_nobody_current_nothing_changes(self) -> None:
        nobody = replace(self.SNAPSHOT, user=None)
        assert self.left(nobody) == Change(nobody)


class TestModified:
    def test_changes_the_current_user_in_place(self) -> None:
        change = modified(Snapshot(user=ALICE), find, question(email=None, other="o"), reply(None))
        assert change.snapshot.user == replace(ALICE, identities={"other": "o"})

    def test_a_user_who_is_not_current_any_more_is_written_down(self) -> None:
        asked = replace(question(email="n"), mpid="2")
        change = modified(Snapshot(user=ALICE), find, asked, reply(None, is_logged_in=False))
        assert change.snapshot.user == ALICE
        assert change.users == (replace(BOB, identities={"other": "b", "email": "n"}, is_logged_in=False),)

    def test_a_user_who_was_forgotten_meanwhile_stays_forgotten(self) -> None:
        asked = replace(question(email="n"), mpid="3")
        assert modified(Snapshot(user=ALICE), find, asked, reply(None)).users == ()


class TestSession:
    @pytest.mark.parametrize(
        ("passed_ms", "timeout_ms", "live"),
        [
            (0, MINUTE, True),
            (MINUTE - 1, MINUTE, True),
            (MINUTE, MINUTE, False),
            (-MINUTE + 1, MINUTE, True),
            (-MINUTE, MINUTE, False),
            (10**12, 0, True),
        ],
    )
    def test_lives_until_the_timeout_has_passed_either_way(self, passed_ms: int, timeout_ms: int, live: bool) -> None:
        snapshot = Snapshot(session=Session("S", 0, NOW))
        assert (live_session(snapshot, NOW + passed_ms, timeout_ms) is not None) is live

    def test_activity_extends_a_live_session_and_drops_an_expired_one(self) -> None:
        snapshot = Snapshot(session=Session("S", 1, NOW))
        assert active(snapshot, NOW + 1, MINUTE).session == Session("S", 1, NOW + 1)
        assert active(snapshot, NOW + MINUTE, MINUTE).session is None
        assert active(Snapshot(), NOW, MINUTE).session is None

    def test_another_session_leaves_the_user_alone(self) -> None:
        snapshot = Snapshot(user=ALICE, context="c", session=Session("S", 0, 0))
        assert begun(snapshot, NOW, "abc") == replace(snapshot, session=Session("ABC", NOW, NOW))
