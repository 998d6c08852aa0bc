"""Conversations driven by hand: in which order things happen, and what the core never does by itself."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import DEFAULT_SETTINGS

from identity_session import HTTPCodes, RetryPolicy, StorageBusyError, StorageError
from identity_session.config import Settings, settings
from identity_session.conversation import Apply, Ask, Conversation, Outcome, Pause, Read
from identity_session.core import Core, Opening, opening
from identity_session.exchange import Call, NoReply, Reply
from identity_session.users import Committed, Session, Snapshot, User

NOW = 1_767_607_200_000
LIVE = Session("S", NOW, NOW)
ALICE = User("1", identities={"email": "a"}, first_seen_ms=NOW)


def configured(**changes: Any) -> Settings:
    numbers = iter(range(1000))
    own = {"now_ms": lambda: NOW, "new_id": lambda: f"id-{next(numbers)}"}
    return settings("key", None, **{**DEFAULT_SETTINGS, **own, **changes})


class Hand:
    """Performs effects on a snapshot of its own and notes them."""

    def __init__(self, snapshot: Snapshot | None = None, *replies: Reply | NoReply, **changes: Any) -> None:
        self.snapshot = snapshot or Snapshot()
        self.replies = list(replies)
        self.ticks = 0.0
        self.core = Core(configured(**changes), lambda: self.ticks, lambda: 1.0)
        self.log: list[Any] = []
        self.storage_error: StorageError | None = None

    def run(self, conversation: Conversation[Any]) -> Any:
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(self.perform(effect))
        except StopIteration as end:
            return end.value

    def perform(self, effect: Any) -> Any:
        self.log.append(type(effect).__name__)
        if isinstance(effect, Read):
            return self.snapshot
        if isinstance(effect, Ask):
            self.question = effect.question
            return self.replies.pop(0)
        if isinstance(effect, Pause):
            self.ticks += effect.seconds
            return None
        assert isinstance(effect, Apply)
        if self.storage_error:
            return self.storage_error
        before = self.snapshot
        self.snapshot = effect.rule(before, lambda mpid: None).snapshot
        return Committed(before, self.snapshot)


def answer(mpid: str | None = "1", **fields: Any) -> Reply:
    return Reply(200, {"mpid": mpid}, mpid=mpid, **fields)


class TestOrder:
    def test_a_first_start_saves_the_session_then_asks_then_saves_the_answer(self) -> None:
        hand = Hand(None, answer())
        outcome = hand.run(hand.core.start())
        assert hand.log == ["Apply", "Read", "Ask", "Apply"]
        assert (outcome.http_code, outcome.mpid) == (200, "1")

    def test_a_start_that_cannot_read_what_it_is_to_say_asks_nothing(self) -> None:
        hand = Hand(None, answer())
        conversation = hand.core.start()
        assert isinstance(conversation.send(hand.perform(next(conversation))), Read)
        with pytest.raises(StopIteration) as end:
            conversation.send(StorageError("the disk is gone"))
        assert (end.value.value.http_code, end.value.value.body) == (-1, "the disk is gone")

    def test_the_device_stamp_is_saved_before_it_is_sent(self) -> None:
        hand = Hand(None, answer())
        conversation = hand.core.start()
        hand.perform(next(conversation))
        saved = hand.snapshot.device_application_stamp
        hand.run(hand.core.identity_call(Call.LOGIN, None))
        assert saved == hand.question.device_application_stamp
        conversation.close()

    def test_a_resumed_start_saves_the_activity_and_asks_nothing(self) -> None:
        hand = Hand(Snapshot(session=LIVE, user=ALICE))
        outcome = hand.run(hand.core.start())
        assert hand.log == ["Apply"]
        assert outcome.http_code == HTTPCodes.ACTIVE_SESSION
        assert outcome.body == {
            "mpid": "1",
            "is_logged_in": False,
            "matched_identities": {"email": "a"},
            "context": None,
            "is_ephemeral": False,
        }

    def test_an_invalid_request_reads_who_the_user_is_and_no_more(self) -> None:
        hand = Hand(Snapshot(user=ALICE))
        outcome = hand.run(hand.core.identity_call(Call.LOGIN, 5))
        assert (hand.log, outcome.http_code, outcome.mpid) == (["Read"], -4, "1")

    def test_a_failed_call_saves_the_activity_alone(self) -> None:
        hand = Hand(Snapshot(session=Session("S", NOW - 5, NOW - 5), user=ALICE, context="c"), Reply(400))
        before = hand.snapshot
        hand.run(hand.core.identity_call(Call.LOGIN, None))
        assert hand.snapshot.session == Session("S", NOW - 5, NOW)
        assert (hand.snapshot.user, hand.snapshot.context) == (before.user, before.context)

    def test_a_logout_that_forgets_saves_that_first_then_asks_then_saves_the_answer(self) -> None:
        hand = Hand(Snapshot(session=LIVE, user=ALICE, context="c"), answer("2"))
        outcome = hand.run(hand.core.identity_call(Call.LOGOUT, None, forget=True))
        assert hand.log == ["Read", "Apply", "Ask", "Apply"]
        assert (outcome.http_code, outcome.mpid, outcome.previous_mpid) == (200, "2", "1")
        assert hand.snapshot.session == LIVE

    def test_a_logout_that_forgets_and_is_not_confirmed_begins_a_session_in_the_end(self) -> None:
        hand = Hand(Snapshot(session=LIVE, user=ALICE), Reply(503), retry=None)
        outcome = hand.run(hand.core.identity_call(Call.LOGOUT, None, forget=True))
        assert hand.log == ["Read", "Apply", "Ask", "Apply", "Apply"]
        assert (outcome.http_code, outcome.mpid, outcome.previous_mpid) == (503, None, "1")
        assert hand.snapshot.session
        assert hand.snapshot.session.id != LIVE.id

    def test_a_device_without_a_stamp_gets_the_one_that_the_logout_is_sent_with(self) -> None:
        hand = Hand(Snapshot(user=ALICE), answer("2"))
        hand.run(hand.core.identity_call(Call.LOGOUT, None, forget=True))
        assert hand.snapshot.device_application_stamp == hand.question.device_application_stamp

    def test_search_and_alias_change_nothing(self) -> None:
        hand = Hand(Snapshot(session=LIVE, user=ALICE), Reply(404), Reply(202))
        hand.run(hand.core.search({"email": "a"}))
        span = {"sourceMpid": "1", "destinationMpid": "2", "startTime": 1, "endTime": 2}
        hand.run(hand.core.alias(span))
        assert hand.log == ["Read", "Ask", "Read", "Ask"]


class TestOpening:
    @pytest.mark.parametrize(
        ("user", "configured_", "live", "may_ask", "expected"),
        [
            (ALICE, {}, True, True, Opening.RESUME),
            (ALICE, {"email": "a"}, True, True, Opening.RESUME),
            (ALICE, {"email": "a"}, True, False, Opening.RESUME),
            (ALICE, {"email": "b"}, True, True, Opening.IDENTIFY),
            (ALICE, {"email": "b"}, True, False, Opening.REFUSE),
            (ALICE, {}, False, True, Opening.IDENTIFY),
            (ALICE, {}, False, False, Opening.REFUSE),
            (None, {}, True, True, Opening.IDENTIFY),
            (None, {}, True, False, Opening.REFUSE),
            (None, {}, False, True, Opening.IDENTIFY),
        ],
    )
    def test_is_decided_by_session_user_and_what_is_new(
        self, user: User | None, configured_: Any, live: bool, may_ask: bool, expected: Opening
    ) -> None:
        assert opening(Snapshot(user=user), configured_, live=live, may_ask=may_ask) is expected

    def test_the_identities_of_the_most_recent_user_are_sent_when_none_are_configured(self) -> None:
        hand = Hand(Snapshot(user=ALICE), answer())
        hand.run(hand.core.start())
        assert hand.question.known_identities == {"email": "a"}
        assert hand.question.mpid == "1"

    def test_an_expired_session_is_replaced(self) -> None:
        hand = Hand(Snapshot(session=Session("S", 0, NOW - 1_800_000), user=ALICE), answer())
        hand.run(hand.core.start())
        assert hand.snapshot.session is not None
        assert hand.snapshot.session.id != "S"

    def test_a_configured_device_id_replaces_the_stored_one(self) -> None:
        hand = Hand(Snapshot(device_application_stamp="old", session=LIVE, user=ALICE), device_id="new")
        hand.run(hand.core.start())
        assert hand.snapshot.device_application_stamp == "new"


class TestSlot:
    def test_a_second_call_is_refused_while_the_first_is_in_flight(self) -> None:
        hand = Hand(Snapshot(user=ALICE), answer("2"))
        first = hand.core.identity_call(Call.LOGIN, None)
        hand.perform(next(first))
        first.send(hand.snapshot)  # now it asks
        assert hand.run(hand.core.identity_call(Call.LOGOUT, None)).http_code == -2
        with pytest.raises(StopIteration):
            first.send(hand.perform(first.send(answer("2"))))
        hand.replies = [answer("1")]
        assert hand.run(hand.core.identity_call(Call.LOGOUT, None)).http_code == 200

    def test_a_logout_that_forgets_takes_the_slot_and_gives_it_back(self) -> None:
        hand = Hand(Snapshot(user=ALICE), answer("2"))
        first = hand.core.identity_call(Call.LOGOUT, None, forget=True)
        first.send(hand.perform(next(first)))
        assert hand.run(hand.core.identity_call(Call.LOGIN, None)).http_code == -2
        first.close()
        assert hand.run(hand.core.identity_call(Call.LOGIN, None)).http_code == 200

    def test_what_is_in_flight_in_the_parent_is_not_in_flight_in_a_forked_child(self) -> None:
        hand = Hand(Snapshot(user=ALICE, session=LIVE), answer())
        call = hand.core.identity_call(Call.LOGIN, None)
        call.send(hand.perform(next(call)))
        hand.core.in_forked_child()
        assert hand.run(hand.core.identity_call(Call.LOGOUT, None)).http_code == 200
        call.close()

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, GeneratorExit, RuntimeError])
    def test_an_interrupted_call_frees_the_slot(self, interruption: type[BaseException]) -> None:
        hand = Hand(Snapshot(user=ALICE), answer("2"))
        first = hand.core.identity_call(Call.LOGIN, None)
        hand.perform(next(first))
        first.send(hand.snapshot)
        with pytest.raises(interruption):
            first.throw(interruption)
        assert hand.run(hand.core.identity_call(Call.LOGIN, None)).http_code == 200

    def test_a_call_that_never_began_took_no_slot(self) -> None:
        hand = Hand(Snapshot(user=ALICE), answer("2"))
        hand.core.identity_call(Call.LOGIN, None).close()
        assert hand.run(hand.core.identity_call(Call.LOGIN, None)).http_code == 200


class TestRetries:
    def test_ask_pause_ask_until_it_works(self) -> None:
        hand = Hand(Snapshot(user=ALICE), Reply(503), NoReply("", sent=True), answer())
        assert hand.run(hand.core.identity_call(Call.LOGIN, None)).http_code == 200
        assert hand.log == ["Read", "Ask", "Pause", "Read", "Ask", "Pause", "Read", "Ask", "Apply"]

    def test_the_same_request_is_repeated(self) -> None:
        hand = Hand(Snapshot(user=ALICE), Reply(503), answer())
        conversation = hand.core.identity_call(Call.LOGIN, None)
        next(conversation)
        first = conversation.send(hand.snapshot)
        conversation.send(Reply(503))
        conversation.send(None)
        second = conversation.send(hand.snapshot)
        assert isinstance(first, Ask)
        assert first == second
        conversation.close()

    def test_the_answer_in_hand_is_returned_when_the_wait_would_pass_the_deadline(self) -> None:
        hand = Hand(Snapshot(user=ALICE), Reply(429, {"code": "X"}, retry_after_seconds=60.0))
        outcome = hand.run(hand.core.identity_call(Call.LOGIN, None))
        assert (outcome.http_code, outcome.body) == (429, {"code": "X"})
        assert "Pause" not in hand.log

    @pytest.mark.parametrize(
        ("outcomes", "code"),
        [
            ([Reply(503), NoReply("refused", sent=False)], 503),
            ([NoReply("lost", sent=True), NoReply("refused", sent=False)], -1),
            ([Reply(503), NoReply("lost", sent=True)], -1),
            ([NoReply("refused", sent=False), Reply(503)], 503),
        ],
    )
    def test_the_last_attempt_that_can_have_arrived_counts(self, outcomes: list[Any], code: int) -> None:
        hand = Hand(Snapshot(user=ALICE), *outcomes, retry=RetryPolicy(attempts=2))
        assert hand.run(hand.core.identity_call(Call.LOGIN, None)).http_code == code

    def test_none_is_made_when_there_is_no_policy(self) -> None:
        hand = Hand(Snapshot(user=ALICE), Reply(503), retry=None)
        assert hand.run(hand.core.identity_call(Call.LOGIN, None)).http_code == 503


class TestStorageTrouble:
    def test_start_raises_when_nothing_can_be_written(self) -> None:
        hand = Hand()
        hand.storage_error = StorageError("read-only")
        with pytest.raises(StorageError, match="read-only"):
            hand.run(hand.core.start())

    def test_an_invalid_start_raises_likewise(self) -> None:
        hand = Hand(identify_request=5)
        hand.storage_error = StorageError("read-only")
        with pytest.raises(StorageError, match="read-only"):
            hand.run(hand.core.start())

    def test_start_answers_minus_one_when_the_lock_is_not_free(self) -> None:
        hand = Hand()
        hand.storage_error = StorageBusyError("held by another process")
        outcome = hand.run(hand.core.start())
        assert (outcome.http_code, outcome.body) == (-1, "held by another process")

    def test_an_answer_that_cannot_be_saved_is_minus_one(self) -> None:
        hand = Hand(Snapshot(user=ALICE), answer("2"))
        hand.storage_error = StorageError("disk full")
        outcome = hand.run(hand.core.identity_call(Call.LOGIN, None))
        assert outcome.http_code == -1
        assert "disk full" in outcome.body
        assert outcome.mpid == "1"

    @pytest.mark.parametrize(
        "ask",
        [
            lambda core: core.identity_call(Call.LOGIN, None),
            lambda core: core.identity_call(Call.LOGIN, 5),
            lambda core: core.search({"email": "a"}),
            lambda core: core.alias({"sourceMpid": "1", "destinationMpid": "2", "startTime": 1, "endTime": 2}),
        ],
    )
    def test_state_that_cannot_be_read_raises_nothing(self, ask: Any) -> None:
        conversation = ask(Hand().core)
        next(conversation)
        with pytest.raises(StopIteration) as end:
            conversation.send(StorageError("newer"))
        assert isinstance(end.value.value, Outcome)
        assert end.value.value.http_code in (-1, -4)

    def test_a_new_session_that_cannot_be_saved_is_minus_one(self) -> None:
        hand = Hand()
        hand.storage_error = StorageError("disk full")
        assert hand.run(hand.core.start_new_session()).http_code == -1

    @pytest.mark.parametrize(
        "change",
        [
            lambda core: core.touch(),
            lambda core: core.end_session(),
            lambda core: core.set_opt_out(True),
            lambda core: core.edit_attributes("1", lambda user: user),
            lambda core: core.edit_consent("1", lambda user: user),
        ],
    )
    def test_a_change_that_cannot_be_saved_raises(self, change: Any) -> None:
        hand = Hand(Snapshot(user=ALICE))
        hand.storage_error = StorageError("disk full")
        with pytest.raises(StorageError, match="disk full"):
            hand.run(change(hand.core))

    def test_closing_never_raises(self) -> None:
        hand = Hand(Snapshot(session=LIVE, user=ALICE))
        hand.run(hand.core.start())
        hand.snapshot = Snapshot(session=Session("S", 0, 0), user=ALICE)
        hand.storage_error = StorageError("disk full")
        hand.run(hand.core.close())
        assert hand.log[-1] == "Apply"


class TestStartNewSession:
    @pytest.mark.parametrize(
        ("request_on_start", "sent"), [(None, {"email": "a"}), ({"userIdentities": {"other": "b"}}, {"other": "b"})]
    )
    def test_before_any_start_it_identifies_with_what_is_configured_or_else_stored(
        self, request_on_start: Any, sent: dict[str, str]
    ) -> None:
        hand = Hand(Snapshot(user=ALICE), answer(), identify_request=request_on_start)
        assert hand.run(hand.core.start_new_session()).http_code == 200
        assert hand.question.known_identities == sent

    def test_before_any_start_an_invalid_request_is_refused_once(self) -> None:
        hand = Hand(Snapshot(user=ALICE), identify_request={"userIdentities": {"email": 1}})
        assert hand.run(hand.core.start_new_session()).http_code == -4
        assert hand.run(hand.core.start_new_session()) is None

    def test_after_a_logout_that_was_to_forget_and_was_interrupted_it_says_nothing_of_who_left(self) -> None:
        """Whoever interrupts the save does not learn whether it was made."""
        hand = Hand(Snapshot(session=LIVE, user=ALICE), answer("2"))
        hand.run(hand.core.start())
        logout = hand.core.identity_call(Call.LOGOUT, None, forget=True)
        hand.perform(logout.send(hand.perform(next(logout))))
        logout.close()
        assert hand.snapshot.user is None
        hand.run(hand.core.start_new_session())
        assert hand.question.known_identities == {}

    def test_while_opted_out_it_does_nothing(self) -> None:
        hand = Hand(Snapshot(user=ALICE, opted_out=True, session=LIVE))
        assert hand.run(hand.core.start_new_session()) is None
        assert hand.snapshot.session == LIVE


def test_a_user_unknown_to_the_storage_cannot_be_edited() -> None:
    hand = Hand(Snapshot(user=ALICE))
    hand.run(hand.core.edit_attributes("2", lambda user: pytest.fail("nobody to edit")))
    assert hand.snapshot.user == ALICE
