"""Where identity_session departs from the shipped Web SDK: one test, at least, for each row of the README's table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from scripted import KEY, Clock, Scripted, identities, ids, lost, session, unreachable, user

from identity_session import IdentityRequest, JsonStorage, MemoryStorage, RetryPolicy, __version__
from identity_session.conversation import Ask
from identity_session.exchange import HTTPRequest

STATUSES = [301, 400, 401, 403, 404, 429, 500, 502, 503]


def started(*answers: Any, **settings: Any) -> Any:
    """A started session whose current user is 1, then the given answers."""
    own = session(Scripted(user("1"), *answers), **settings)
    own.start()
    return own


def service(own: Any) -> Scripted:
    return own._transport


class TestD1Context:
    def test_the_last_context_returned_is_stored_and_sent(self) -> None:
        storage = MemoryStorage()
        own = started(user("1", context="second"), user("1"), storage=storage)
        own.login(ids(email="a"))
        own.login(ids(email="b"))
        assert service(own).last["context"] == "second"
        assert session(storage=storage).context == "second"

    @pytest.mark.parametrize("context", [None, "", 5, {}])
    def test_the_old_one_stays_when_none_came(self, context: Any) -> None:
        own = started(user("1", context="first"), user("1", context=context))
        own.login()
        own.login()
        assert own.context == "first"

    @pytest.mark.parametrize(
        "answer", [(400, user(context="no")), (202, user(context="no")), (500, user(context="no"))]
    )
    def test_only_a_200_brings_one(self, answer: Any) -> None:
        own = started(answer)
        own.login()
        assert own.context is None

    def test_modify_brings_none(self) -> None:
        own = started({"context": "no"})
        own.modify(ids(email="a"))
        assert own.context is None


class TestD2Statuses:
    @pytest.mark.parametrize("status", STATUSES)
    @pytest.mark.parametrize("call", ["identify", "login", "logout", "modify"])
    def test_the_status_of_the_answer_is_the_code(self, call: str, status: int) -> None:
        own = started((status, {"code": "X"}))
        result = getattr(own, call)(ids(email="a"))
        assert (result.http_code, result.body, result.ok) == (status, {"code": "X"}, False)

    @pytest.mark.parametrize("status", STATUSES)
    def test_of_an_alias_too(self, status: int) -> None:
        own = started(user("2"), status)
        own.login()
        request = own.create_alias_request(own.get_user("1"), own.get_user("2"))
        assert own.alias_users(request).http_code == status

    @pytest.mark.parametrize("trouble", [lost(), unreachable()])
    def test_without_an_answer_it_is_minus_one(self, trouble: Exception) -> None:
        result = started(trouble).login()
        assert result.http_code == -1
        assert "scripted" in result.body


class TestD3UnreadableAnswers:
    @pytest.mark.parametrize("text", ["", "<html>", "null", "[]", "5", '"text"', '{"mpid":', "[" * 100_000])
    @pytest.mark.parametrize("status", [200, 202])
    def test_a_success_without_an_object_is_minus_one_and_changes_nothing(self, text: str, status: int) -> None:
        own = started((status, text))
        result = own.login(ids(email="a"))
        assert result.http_code == -1
        assert "not a JSON object" in result.body
        assert own.mpid == "1"
        assert own.current_user.identities == {}

    @pytest.mark.parametrize("text", ["", "<html>", "null", "[]"])
    @pytest.mark.parametrize("status", STATUSES)
    def test_an_error_keeps_its_status(self, text: str, status: int) -> None:
        result = started((status, text)).login()
        assert (result.http_code, result.body) == (status, None)

    @pytest.mark.parametrize("mpid", [None, "", 0, "0", True, 1.5, [], {}])
    @pytest.mark.parametrize("call", ["identify", "login", "logout"])
    def test_a_success_that_names_no_user_is_minus_one(self, call: str, mpid: Any) -> None:
        own = started({"mpid": mpid, "is_logged_in": True})
        result = getattr(own, call)()
        assert result.http_code == -1
        assert "names no user" in result.body
        assert (own.mpid, own.current_user.is_logged_in) == ("1", False)

    def test_an_mpid_sent_as_a_number_is_kept_exactly_as_text(self) -> None:
        own = started((200, '{"mpid": -9223372036854775807, "is_logged_in": true}'))
        own.login()
        assert own.mpid == "-9223372036854775807"


class TestD4LoggedIn:
    @pytest.mark.parametrize("answer", [400, (400, user("1")), (202, user("1")), 500, lost()])
    def test_only_a_200_changes_the_flag(self, answer: Any) -> None:
        own = started(user("1", is_logged_in=True), answer)
        own.login()
        result = own.login()
        assert result.get_user().is_logged_in is True

    def test_modify_changes_it_only_if_the_answer_says_so(self) -> None:
        own = started(user("1", is_logged_in=True), {}, {"is_logged_in": None}, {"is_logged_in": False})
        own.login()
        flags = [own.modify(ids(email="a")).get_user().is_logged_in for _ in range(3)]
        assert flags == [True, True, False]

    def test_a_login_answer_without_the_flag_means_not_logged_in(self) -> None:
        own = started(user("1", is_logged_in=True), {"mpid": "1"})
        own.login()
        assert own.login().get_user().is_logged_in is False


@pytest.mark.parametrize("status", [202, 400])
def test_d5_a_202_or_400_with_an_mpid_changes_nothing(status: int) -> None:
    own = started((status, user("2", is_logged_in=True)))
    result = own.login(ids(email="a"))
    assert (result.http_code, result.body["mpid"]) == (status, "2")
    assert (own.mpid, result.get_user().mpid, own.get_user("2")) == ("1", "1", None)


class TestD6ModifyNeverSwitches:
    def test_a_foreign_mpid_is_ignored_with_its_flag(self) -> None:
        own = started({"mpid": "2", "is_logged_in": True})
        result = own.modify(ids(email="a"))
        assert result.http_code == 200
        assert own.mpid == result.get_user().mpid == "1"
        assert own.current_user.identities == {"email": "a"}
        assert own.current_user.is_logged_in is False

    def test_the_identities_are_those_of_the_user_the_call_was_about(self) -> None:
        """Another process switches the user while the modify is under way."""
        storage = MemoryStorage()
        other = session(Scripted(user("2")), storage=storage)

        def switch_user(request: HTTPRequest) -> dict[str, Any]:
            other.login()
            return {}

        own = started(switch_user, storage=storage)
        own.modify(ids(email="a"))
        assert own.mpid == "2"
        assert own.get_user("1").identities == {"email": "a"}
        assert own.get_user("2").identities == {}


class TestD7ModifyWithoutAUser:
    @pytest.mark.parametrize("opted_out", [False, True])
    def test_is_refused_locally_before_anything_else(self, opted_out: bool) -> None:
        own = session()
        own.set_opt_out(opted_out)
        assert own.modify(ids(email="a")).http_code == -4
        assert service(own).requests == []

    def test_also_while_another_call_is_in_flight(self) -> None:
        codes = []

        def during(request: HTTPRequest) -> dict[str, Any]:
            codes.append(own.modify(ids(email="a")).http_code)
            return user("1")

        own = session(Scripted(during))
        own.start()
        assert codes == [-4]


class TestD8ValuesNotSent:
    def test_what_is_stored_is_what_was_sent(self) -> None:
        own = started()
        own.login(ids(email="a", customerid=""))
        assert identities(service(own).last) == {"email": "a"}
        assert own.current_user.identities == {"email": "a"}

    @pytest.mark.parametrize("call", ["identify", "login", "modify"])
    def test_none_removes_the_identity(self, call: str) -> None:
        own = started()
        own.login(ids(email="a", other="o"))
        getattr(own, call)(ids(email=None))
        assert own.current_user.identities == {"other": "o"}

    def test_none_is_sent_as_null(self) -> None:
        own = started()
        own.login(ids(email=None))
        assert identities(service(own).last) == {"email": None}

    def test_nothing_left_after_cleaning_is_a_request_without_identities(self) -> None:
        own = started()
        own.login(ids(email="a"))
        own.login(ids(customerid=""))
        assert own.current_user.identities == {}

    def test_a_configured_request_with_nothing_left_counts_as_absent(self) -> None:
        storage = MemoryStorage()
        own = started(storage=storage)
        own.login(ids(email="a"))
        own.end_session()
        again = session(Scripted(user("1")), storage=storage, identify_request=ids(customerid=""))
        again.start()
        assert identities(service(again).last) == {"email": "a"}
        assert again.current_user.identities == {"email": "a"}


class TestD9InputChecks:
    WRONG: list[Any] = [
        {"userIdentities": {"email": "a"}, "foo": 1},
        {"foo": 1},
        {"onUserAlias": "no function"},
        {"onUserAlias": print},
        {"copyUserAttributes": True},
        [],
        5,
        True,
        "text",
        {"userIdentities": True},
        {"userIdentities": []},
        {"userIdentities": "abc"},
        ids(email=0),
        ids(email=False),
        ids(email=["a"]),
        ids(unknown=""),
        ids(device_application_stamp="x"),
        ids(ios_idfa="x"),
        ids(Email="a"),
        ids(email="\ud800"),
        IdentityRequest({"email": 5}),
    ]

    @pytest.mark.parametrize("request_", WRONG, ids=lambda value: repr(value)[:40])
    @pytest.mark.parametrize("call", ["identify", "login", "logout", "modify"])
    def test_a_wrong_request_is_refused_and_nothing_is_sent(self, call: str, request_: Any) -> None:
        own = started()
        heard: list[Any] = []
        result = getattr(own, call)(request_, heard.append)
        assert result.http_code == -4
        assert isinstance(result.body, str)
        assert heard == [result]
        assert service(own).paths == ["/v1/identify"]

    @pytest.mark.parametrize("request_", [None, {}, {"userIdentities": None}, ids(), ids(email="")])
    def test_modify_needs_an_identity(self, request_: Any) -> None:
        assert started().modify(request_).http_code == -4
        assert started().modify().http_code == -4

    @pytest.mark.parametrize("request_", [None, {}, {"userIdentities": None}, ids(), ids(email=""), IdentityRequest()])
    def test_the_others_do_not(self, request_: Any) -> None:
        own = started()
        assert own.login(request_).http_code == 200
        assert identities(service(own).last) == {}

    @pytest.mark.parametrize("call", ["identify", "login", "logout", "modify", "search", "alias_users"])
    def test_a_callback_that_cannot_be_called_is_a_type_error(self, call: str) -> None:
        own = started()
        with pytest.raises(TypeError, match="callback must be callable"):
            getattr(own, call)(ids(email="a"), "no function")
        assert service(own).paths == ["/v1/identify"]

    def test_the_text_never_shows_a_value(self) -> None:
        result = started().login(ids(email="a@example.com", customerid=5))
        assert "a@example.com" not in result.body

    def test_the_callers_request_is_not_changed(self) -> None:
        request = ids(email="", email_sha256="h")
        started().login(request)
        assert request == ids(email="", email_sha256="h")


@pytest.mark.parametrize("configured", [{}, {"userIdentities": None}, ids(), None, IdentityRequest()])
def test_d10_an_empty_configured_request_means_the_stored_identities(configured: Any) -> None:
    storage = MemoryStorage()
    own = started(storage=storage)
    own.login(ids(email="a"))
    own.end_session()
    again = session(Scripted(user("1")), storage=storage, identify_request=configured)
    again.start()
    assert identities(service(again).last) == {"email": "a"}
    assert again.current_user.identities == {"email": "a"}
    assert session(storage=storage, identify_request=configured).start().http_code == -3


class TestD11DiffersOnStart:
    @pytest.mark.parametrize(
        ("configured", "code"),
        [
            (ids(email="a", other="o"), -3),
            (ids(email="a"), -3),
            (ids(email_sha256="o"), -3),
            (ids(email="a", customerid=""), -3),
            (ids(email="a", customerid=None), -3),
            (ids(email="b"), 200),
            (ids(customerid="c"), 200),
            (ids(email=None), 200),
        ],
    )
    def test_a_live_session_asks_only_if_something_is_new(self, configured: Any, code: int) -> None:
        storage = MemoryStorage()
        own = started(storage=storage)
        own.login(ids(email="a", other="o"))
        again = session(storage=storage, identify_request=configured)
        assert again.start().http_code == code
        assert again.session_id == own.session_id


class TestD12LiveSessionWithoutAUser:
    def test_identifies_in_that_session(self) -> None:
        storage = MemoryStorage()
        first = session(Scripted(unreachable()), storage=storage)
        assert first.start().http_code == -1
        second = session(Scripted(user("1")), storage=storage)
        assert second.start().http_code == 200
        assert second.session_id == first.session_id

    def test_a_session_is_stored_as_soon_as_it_begins(self) -> None:
        storage = MemoryStorage()

        def look(request: HTTPRequest) -> dict[str, Any]:
            seen.append(session(storage=storage).session_id)
            return user("1")

        seen: list[str | None] = []
        own = session(Scripted(look), storage=storage)
        own.start()
        assert seen == [own.session_id]


class TestD13Starts:
    def stored(self, clock: Clock) -> MemoryStorage:
        storage = MemoryStorage()
        own = session(Scripted(user("1")), storage=storage, now_ms=clock)
        own.start()
        own.login(ids(email="a"))
        own.set_opt_out(True)
        return storage

    @pytest.mark.parametrize(
        ("minutes", "configured", "code"),
        [
            (0, None, -3),
            (0, ids(email="a"), -3),
            (0, ids(email="b"), -6),
            (0, ids(bogus="b"), -4),
            (31, None, -6),
            (31, ids(email="a"), -6),
        ],
    )
    def test_opted_out_it_always_answers_once(self, minutes: int, configured: Any, code: int) -> None:
        clock = Clock()
        storage = self.stored(clock)
        clock.advance(minutes=minutes)
        heard: list[Any] = []
        own = session(storage=storage, now_ms=clock, identify_request=configured, identity_callback=heard.append)
        result = own.start()
        assert (result.http_code, heard) == (code, [result])
        assert result.get_user().mpid == "1"
        assert service(own).requests == []

    def test_an_expired_session_is_dropped_and_opting_in_does_not_revive_it(self) -> None:
        clock = Clock()
        storage = self.stored(clock)
        clock.advance(minutes=31)
        own = session(storage=storage, now_ms=clock)
        own.start()
        own.set_opt_out(False)
        assert own.session_id is None

    def test_such_a_start_is_no_activity_and_leaves_the_automatic_identify_open(self) -> None:
        clock = Clock()
        storage = self.stored(clock)
        clock.advance(minutes=20)
        heard: list[Any] = []
        own = session(
            Scripted(user("1")),
            storage=storage,
            now_ms=clock,
            identify_request=ids(email="b"),
            identity_callback=heard.append,
        )
        assert own.start().http_code == -6
        clock.advance(minutes=11)
        assert own.session_id is None
        own.set_opt_out(False)
        own.start_new_session()
        assert [result.http_code for result in heard] == [-6, 200]
        assert identities(service(own).last) == {"email": "b"}

    def test_an_invalid_request_opens_the_session_and_uses_up_the_automatic_identify(self) -> None:
        heard: list[Any] = []
        own = session(identify_request=ids(bogus="x"), identity_callback=heard.append)
        result = own.start()
        assert result.http_code == -4
        assert heard == [result]
        assert own.session_id
        assert own.start_new_session() is None
        assert service(own).requests == []

    def test_opting_out_acts_at_once_even_before_a_first_answer(self) -> None:
        own = session(Scripted(unreachable()))
        own.start()
        own.set_opt_out(True)
        assert own.login().http_code == -6
        own.set_opt_out(False)
        assert own.login().http_code == -1


class TestD14PreviousUser:
    def test_is_the_one_this_call_left_behind(self) -> None:
        own = started(user("2"), user("2"), user("1"))
        previous = [own.login().get_previous_user() for _ in range(3)]
        assert [p and p.mpid for p in previous] == ["1", None, "2"]

    @pytest.mark.parametrize("answer", [400, lost(), (202, user("2"))])
    def test_is_none_when_nothing_changed(self, answer: Any) -> None:
        own = started(user("2"), answer)
        own.login()
        assert own.login().get_previous_user() is None


def test_d15_is_logged_in_is_kept_for_every_user() -> None:
    storage = MemoryStorage()
    own = started(user("2", is_logged_in=True), user("3"), storage=storage)
    own.login()
    own.logout()
    again = session(storage=storage)
    assert {u.mpid: u.is_logged_in for u in again.get_users()} == {"1": False, "2": True, "3": False}
    assert again.start().get_user().is_logged_in is False


class TestD16SessionsThatBeginInMidProcess:
    def test_setters_open_a_session_but_never_touch_the_network(self) -> None:
        storage = MemoryStorage()
        clock = Clock()
        started(storage=storage, now_ms=clock)
        own = session(storage=storage, now_ms=clock)
        assert own.start().http_code == -3
        clock.advance(minutes=31)
        own.current_user.set_attribute("a", 1)
        assert own.session_id
        assert service(own).requests == []

    def test_another_start_does_not_make_it_due_again(self) -> None:
        own = started(user("1"))
        assert own.start().http_code == -3
        assert own.start_new_session() is None

    def test_start_new_session_identifies_once_per_process_and_calls_back_again(self) -> None:
        storage = MemoryStorage()
        started(storage=storage)
        heard: list[Any] = []
        own = session(storage=storage, identify_request=None, identity_callback=heard.append)
        own.start()
        result = own.start_new_session()
        assert [r.http_code for r in heard] == [-3, 200]
        assert result is heard[1]
        assert own.start_new_session() is None
        assert service(own).paths == ["/v1/identify"]

    def test_after_a_start_that_identified_it_sends_nothing(self) -> None:
        own = started()
        before = own.session_id
        assert own.start_new_session() is None
        assert own.session_id not in (None, before)
        assert len(service(own).requests) == 1


class TestD17Activity:
    CALLS: list[Any] = [
        ("identify", lambda s: s.identify()),
        ("login", lambda s: s.login(ids(email="a"))),
        ("logout", lambda s: s.logout()),
        ("modify", lambda s: s.modify(ids(email="a"))),
        ("attribute", lambda s: s.current_user.set_attribute("a", 1)),
        ("attribute that changes nothing", lambda s: s.current_user.remove_attribute("none")),
        ("opting in", lambda s: s.set_opt_out(False)),
        ("opting out", lambda s: s.set_opt_out(True)),
        ("touch", lambda s: s.touch()),
        ("start", lambda s: s.start()),
    ]

    @pytest.mark.parametrize(("name", "act"), CALLS, ids=[name for name, _ in CALLS])
    @pytest.mark.parametrize("answer", [user("1"), 500, lost()])
    def test_counts(self, name: str, act: Any, answer: Any) -> None:
        clock = Clock()
        own = started(answer, now_ms=clock)
        before = own.session_id
        clock.advance(minutes=29)
        act(own)
        clock.advance(minutes=29)
        assert own.session_id == before

    @pytest.mark.parametrize(
        "act",
        [
            lambda s: s.search({"email": "a"}),
            lambda s: s.alias_users(s.create_alias_request(s.get_user("1"), s.get_user("2"))),
            lambda s: s.login(ids(bogus="a")),
            lambda s: s.current_user.set_consent_state({}),
            lambda s: (s.get_users(), s.current_user.attributes, s.context),
        ],
    )
    def test_does_not_count(self, act: Any) -> None:
        clock = Clock()
        own = started(user("2"), user("2"), now_ms=clock)
        own.login()
        clock.advance(minutes=29)
        act(own)
        clock.advance(minutes=1)
        assert own.session_id is None

    def test_opting_in_or_out_opens_no_session(self) -> None:
        own = started()
        own.end_session()
        own.set_opt_out(True)
        own.set_opt_out(False)
        assert own.session_id is None

    def test_a_timeout_of_zero_never_expires(self) -> None:
        clock = Clock()
        own = started(session_timeout=timedelta(0), now_ms=clock)
        before = own.session_id
        clock.advance(days=4000)
        assert own.session_id == before


class TestD18SessionEnd:
    @pytest.mark.parametrize(("milliseconds", "alive"), [(1_799_999, True), (1_800_000, False)])
    def test_is_judged_when_looked_at(self, milliseconds: int, alive: bool) -> None:
        clock = Clock()
        own = started(now_ms=clock)
        clock.now_ms += milliseconds
        assert (own.session_id is not None) is alive

    def test_identity_calls_do_not_open_another(self) -> None:
        clock = Clock()
        own = started(now_ms=clock)
        clock.advance(minutes=31)
        own.login()
        assert own.session_id is None

    def test_an_expired_session_is_not_revived_by_a_longer_timeout(self) -> None:
        clock, storage = Clock(), MemoryStorage()
        own = started(now_ms=clock, storage=storage, session_timeout=timedelta(minutes=1))
        clock.advance(minutes=2)
        own.close()
        again = session(storage=storage, now_ms=clock)
        assert again.session_id is None


@pytest.mark.parametrize(
    "act",
    [
        lambda u: u.set_attribute("", 1),
        lambda u: u.set_attribute(5, 1),
        lambda u: u.set_attribute("a", {}),
        lambda u: u.set_attribute("a", []),
        lambda u: u.set_attribute("a", object()),
        lambda u: u.set_attribute("a", float("nan")),
        lambda u: u.set_attribute_list("a", "text"),
        lambda u: u.set_attribute_list("a", [{}]),
        lambda u: u.set_attributes([("a", 1)]),
        lambda u: u.set_attributes({"a": 1, "b": {}}),
        lambda u: u.set_tag(""),
        lambda u: u.remove_attribute(None),
    ],
)
def test_d19_a_wrong_attribute_raises_and_changes_nothing(act: Any) -> None:
    own = started()
    own.current_user.set_attribute("kept", 1)
    with pytest.raises((TypeError, ValueError)):
        act(own.current_user)
    assert own.current_user.attributes == {"kept": 1}


@pytest.mark.parametrize(
    "act",
    [
        lambda u: u.set_attribute("a", 1),
        lambda u: u.set_attributes({"a": 1}),
        lambda u: u.set_attribute_list("a", [1]),
        lambda u: u.set_tag("a"),
        lambda u: u.remove_attribute("kept"),
        lambda u: u.remove_tag("kept"),
        lambda u: u.remove_all_attributes(),
    ],
)
def test_d20_while_opted_out_every_attribute_change_is_ignored(act: Any) -> None:
    own = started()
    own.current_user.set_attribute("kept", 1)
    own.set_opt_out(True)
    act(own.current_user)
    assert own.current_user.attributes == {"kept": 1}


class TestD21AliasChecks:
    SPAN: dict[str, Any] = {"startTime": 1, "endTime": 2}

    @pytest.mark.parametrize(
        ("request_", "text"),
        [
            (None, "pass an AliasRequest"),
            (5, "pass an AliasRequest"),
            ({}, "MPID is missing"),
            ({"sourceMpid": "1", **SPAN}, "MPID is missing"),
            ({"sourceMpid": 1, "destinationMpid": 2, **SPAN}, "MPID is missing"),
            ({"sourceMpid": "1", "destinationMpid": "1"}, "same user"),
            ({"sourceMpid": "1", "destinationMpid": "2"}, "time is missing"),
            ({"sourceMpid": "1", "destinationMpid": "2", "startTime": 0, "endTime": 2}, "time is missing"),
            ({"sourceMpid": "1", "destinationMpid": "2", "startTime": 3, "endTime": 2}, "after end_time"),
            ({"sourceMpid": "1", "destinationMpid": "2", **SPAN, "scope": "all"}, "scope"),
        ],
    )
    def test_the_first_failing_check_wins(self, request_: Any, text: str) -> None:
        own = started()
        own.set_opt_out(True)  # -4 comes before -6
        result = own.alias_users(request_)
        assert result.http_code == -4
        assert text in result.message


class TestD22Search:
    def test_uses_the_sessions_own_key_and_no_query(self) -> None:
        own = started()
        own.search({"email_sha256": "h", "email": "a", "customerid": ""})
        path, body = service(own).requests[-1]
        assert path == "/v1/search"
        assert body["known_identities"] == {"other": "h", "email": "a"}
        assert not {"context", "previous_mpid"} & body.keys()

    @pytest.mark.parametrize(
        "wrong", [{}, None, {"email": ""}, {"email": None}, {"bogus": "x"}, {"email": 5}, [], "a", 5]
    )
    def test_nothing_usable_is_refused(self, wrong: Any) -> None:
        own = started()
        assert own.search(wrong).http_code == -4
        assert len(service(own).requests) == 1

    @pytest.mark.parametrize("form", [{"email": "a"}, ids(email="a"), IdentityRequest({"email": "a"})])
    def test_takes_every_form_of_identities(self, form: Any) -> None:
        own = started()
        assert own.search(form).http_code == 200
        assert service(own).last["known_identities"] == {"email": "a"}

    def test_an_unreadable_200_is_minus_one_and_404_is_an_answer(self) -> None:
        own = started((200, "<html>"), (404, {"ErrorCode": "NOT_FOUND_ERROR"}))
        assert own.search({"email": "a"}).http_code == -1
        result = own.search({"email": "a"})
        assert (result.http_code, result.body) == (404, {"ErrorCode": "NOT_FOUND_ERROR"})

    def test_opted_out_it_is_minus_six(self) -> None:
        own = started()
        own.set_opt_out(True)
        assert own.search({"email": "a"}).http_code == -6


class TestD23AnswerCache:
    def cached(self, **settings: Any) -> Any:
        answer = (200, user("1", is_logged_in=True), {"x-mp-max-age": "3600"})
        own = session(Scripted(answer), cache_identity=True, **settings)
        own.start()
        own.login(ids(email="a"))
        return own

    def test_the_same_question_as_the_same_user_is_asked_once(self) -> None:
        own = self.cached()
        asked = len(service(own).requests)
        result = own.login(ids(email="a"))
        assert (result.http_code, result.body["mpid"], result.get_user().is_logged_in) == (200, "1", True)
        assert len(service(own).requests) == asked

    @pytest.mark.parametrize("differently", [ids(email="A"), ids(email="a", other="o"), ids(other="a"), None])
    def test_any_other_question_is_asked(self, differently: Any) -> None:
        own = self.cached()
        asked = len(service(own).requests)
        own.login(differently)
        own.identify(ids(email="a"))
        assert service(own).paths[asked:] == ["/v1/login", "/v1/identify"]

    def test_it_is_opt_in(self) -> None:
        own = session(Scripted((200, user("1"), {"x-mp-max-age": "3600"})))
        own.start()
        own.login()
        own.login()
        assert len(service(own).requests) == 3

    def test_an_answer_expires(self) -> None:
        clock = Clock()
        own = self.cached(now_ms=clock)
        clock.advance(minutes=61)
        own.login(ids(email="a"))
        assert service(own).paths.count("/v1/login") == 2

    def test_opting_out_and_a_call_in_flight_are_checked_first(self) -> None:
        own = self.cached()
        codes = []

        def during(request: HTTPRequest) -> dict[str, Any]:
            codes.append(own.login(ids(email="a")).http_code)
            return {}

        service(own).answers = [during]
        own.identify(ids(email="other"))
        own.set_opt_out(True)
        codes.append(own.login(ids(email="a")).http_code)
        assert codes == [-2, -6]

    @pytest.mark.parametrize("answer", [user("2"), user("1")])
    def test_any_change_of_user_forgets_all(self, answer: Any) -> None:
        own = self.cached()
        service(own).answers = [answer, user("1"), user("1")]
        own.logout()
        own.login(ids(other="x"))
        own.login(ids(email="a"))
        assert service(own).paths[-3:] == ["/v1/logout", "/v1/login", "/v1/login"]

    def test_modify_forgets_all(self) -> None:
        own = self.cached()
        own.modify(ids(other="o"))
        own.login(ids(email="a"))
        assert service(own).paths[-1] == "/v1/login"

    def test_it_survives_a_restart(self) -> None:
        storage = MemoryStorage()
        self.cached(storage=storage).end_session()
        again = session(storage=storage, cache_identity=True)
        assert again.login(ids(email="a")).http_code == 200
        assert service(again).requests == []

    def test_another_key_asks_for_itself(self) -> None:
        storage = MemoryStorage()
        self.cached(storage=storage, workspace_token="shared")
        other = session(storage=storage, cache_identity=True, api_key="us1-other", workspace_token="shared")
        other.login(ids(email="a"))
        assert service(other).paths == ["/v1/login"]


class TestD24EachExactlyOnce:
    def test_a_failing_callback_or_listener_stops_no_other(self, caplog: pytest.LogCaptureFixture) -> None:
        heard: list[Any] = []

        def failing(*arguments: Any) -> None:
            heard.append("failing")
            raise ValueError("a@example.com")

        own = started(user("2"))
        own.on_user_identified(failing)
        own.on_user_identified(lambda user, previous: heard.append((user.mpid, previous.mpid)))
        with caplog.at_level(logging.DEBUG):
            result = own.login(None, failing)
        assert result.http_code == 200
        assert heard == ["failing", ("2", "1"), "failing"]
        assert "ValueError" in caplog.text
        assert "a@example.com" not in caplog.text

    @pytest.mark.parametrize("answer", [user("1"), 400, lost(), (200, "<html>")])
    def test_the_callback_is_called_once_whatever_came(self, answer: Any) -> None:
        heard: list[Any] = []
        result = started(answer).login(None, heard.append)
        assert heard == [result]


class TestD25StoredKey:
    def test_the_key_is_never_stored(self, tmp_path: Path) -> None:
        own = session(storage=JsonStorage(tmp_path), api_secret="us1-very-secret")
        own.start()
        written = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert written
        assert not any(KEY in str(f) or KEY.encode() in f.read_bytes() for f in written)
        assert not any(b"us1-very-secret" in file.read_bytes() for file in written)

    @pytest.mark.parametrize("no_key", ["", None])
    def test_without_one_nothing_is_sent(self, no_key: Any) -> None:
        storage = MemoryStorage()
        session(storage=storage, workspace_token="shared").start()
        heard: list[Any] = []
        own = session(storage=storage, api_key=no_key, workspace_token="shared", identity_callback=heard.append)
        assert own.start().http_code == -3
        own.end_session()
        assert own.start().http_code == -6
        assert [own.login().http_code, own.search({"email": "a"}).http_code] == [-6, -6]
        assert [result.http_code for result in heard] == [-3, -6]
        assert service(own).requests == []


def test_d26_damage_loses_neither_the_device_nor_the_users(tmp_path: Path) -> None:
    own = session(Scripted(user("1"), user("2")), storage=JsonStorage(tmp_path))
    own.start()
    own.login(ids(email="a"))
    device = own.device_id
    (state,) = tmp_path.rglob("state.json")
    state.write_text("{")
    again = session(storage=JsonStorage(tmp_path))
    assert again.recovered_from is not None
    assert again.recovered_from.name.startswith("state.json.corrupt-")
    assert again.recovered_from.read_text() == "{"
    assert again.device_id == device
    assert again.mpid == "1"  # the generation before


def test_d27_reset_removes_only_its_own_files(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.json"
    foreign.write_text("{}")
    own = session(Scripted(user("1"), user("2")), storage=JsonStorage(tmp_path))
    own.start()
    own.login()
    other = session(storage=JsonStorage(tmp_path), workspace_token="other")
    other.start()
    own.reset()
    assert (own.mpid, own.get_users(), own.session_id) == (None, [], None)
    assert own.device_id is None
    assert foreign.exists()
    assert other.mpid == "1"


def test_d28_ids_are_real_version_4_uuids() -> None:
    own = started()
    for value in (own.device_id, own.session_id, service(own).last["request_id"]):
        assert UUID(value).version == 4
        assert UUID(value).variant == "specified in RFC 4122"
    assert own.session_id == own.session_id.upper()


@pytest.mark.parametrize(("minutes", "alive"), [(-29, True), (-30, False), (-5_000_000, False)])
def test_d29_a_clock_set_back_does_not_make_a_session_eternal(minutes: int, alive: bool) -> None:
    clock = Clock()
    own = started(now_ms=clock)
    clock.advance(minutes=minutes)
    assert (own.session_id is not None) is alive


@pytest.mark.parametrize(
    ("settings", "target"),
    [
        ({}, "https://jssdks.mparticle.com/v1/identity/us1-test-key/Alias"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "http://127.0.0.1:9/v1/identity/us1-test-key/Alias"),
        (
            {"base_url": "http://127.0.0.1:9/v1", "alias_url": "https://a.example/x"},
            "https://a.example/x/us1-test-key/Alias",
        ),
    ],
)
def test_d30_alias_requests_stay_with_the_service_that_was_named(settings: dict[str, str], target: str) -> None:
    sent: list[str] = []

    def note(request: HTTPRequest) -> int:
        sent.append(request.url)
        return 202

    own = session(Scripted(note), **settings)
    own.alias_users({"sourceMpid": "1", "destinationMpid": "2", "startTime": 1, "endTime": 2})
    assert sent == [target]


def test_d31_a_request_says_what_it_reads_who_asks_and_which_scope_is_meant() -> None:
    headers: list[Mapping[str, str]] = []

    def note(request: HTTPRequest) -> int:
        headers.append(request.headers)
        return 202

    own = session(Scripted(note))
    own.login()
    own.alias_users({"sourceMpid": "1", "destinationMpid": "2", "startTime": 1, "endTime": 2})
    assert {each["accept"] for each in headers} == {"application/json"}
    assert {each["user-agent"] for each in headers} == {f"identity_session/{__version__}"}
    assert service(own).last["data"]["scope"] == "device"


class TestD32OtherSessionsOfTheSameState:
    def _with_a_login_meanwhile(self, *answers: Any) -> Any:
        """A session whose last answer, for user 1, comes after that user has logged in with another session."""
        storage = MemoryStorage()
        other = session(Scripted(user("1"), user("1", is_logged_in=True)), storage=storage)

        def meanwhile(_: HTTPRequest) -> dict[str, Any]:
            other.start()
            other.login(ids(customerid="h.jekyll"))
            return user("1")

        return session(Scripted(*answers, meanwhile), storage=storage)

    def test_a_late_answer_to_a_request_that_said_nothing_takes_nothing_from_who_logged_in_meanwhile(self) -> None:
        """The start of one program and the login of another are answered with the same user, in the other order."""
        own = self._with_a_login_meanwhile()
        assert own.start().http_code == 200
        assert own.current_user.identities == {"customerid": "h.jekyll"}
        assert own.current_user.is_logged_in

    def test_a_late_answer_to_a_request_that_said_something_is_as_good_as_any(self) -> None:
        own = self._with_a_login_meanwhile(user("2"))
        own.start()
        own.login(ids(email="a"))
        assert own.current_user.identities == {"customerid": "h.jekyll", "email": "a"}
        assert not own.current_user.is_logged_in

    def _leave(self, other: Any, leaves: str) -> None:
        """The current user is forgotten by another session, or another one logs in there."""
        match leaves:
            case "forget":
                other.logout(offline="forget")
            case "reset":
                other.reset()
            case "login":
                service(other).answers = [user("2")]
                other.login(ids(other="b"))

    @pytest.mark.parametrize("leaves", ["forget", "reset", "login"])
    def test_a_new_session_says_nothing_of_a_user_whom_another_program_has_changed(self, leaves: str) -> None:
        storage = MemoryStorage()
        other = session(Scripted(user("1"), 503), storage=storage, identify_request=ids(email="a"), retry=None)
        other.start()
        own = session(Scripted(user("3")), storage=storage)
        assert own.start().http_code == -3
        self._leave(other, leaves)
        own.start_new_session()
        assert identities(service(own).last) == ({"other": "b"} if leaves == "login" else {})

    @pytest.mark.parametrize("own_call", ["login", "modify"])
    def test_nor_does_one_after_a_call_of_its_own_that_came_later(self, own_call: str) -> None:
        """What was stored of one person is not said for another, and so does not become theirs."""
        storage = MemoryStorage()
        other = session(Scripted(user("1"), user("2")), storage=storage, identify_request=ids(email="a"))
        other.start()

        def meanwhile(_: HTTPRequest) -> dict[str, Any]:
            other.login(ids(other="b"))
            return user("3") if own_call == "login" else {}

        own = session(Scripted(meanwhile, user("4")), storage=storage)
        assert own.start().http_code == -3
        getattr(own, own_call)(ids(customerid="c"))
        own.start_new_session()
        assert identities(service(own).last) == ({"customerid": "c"} if own_call == "login" else {"other": "b"})

    def _start_while_the_user_leaves(self, leaves: str, *answers: Any, **settings: Any) -> Any:
        """A session that has made a start with the identities stored of user 1, who leaves when it is under way."""
        storage = MemoryStorage()
        other = session(Scripted(user("1"), 503), storage=storage, identify_request=ids(email="a"))
        other.start()
        other.end_session()

        def meanwhile(_: HTTPRequest) -> Any:
            self._leave(other, leaves)
            return answers[0]

        settings |= {"storage": storage, "retry": RetryPolicy(initial_seconds=0)}
        own = session(Scripted(meanwhile, *answers[1:]), **settings)
        result = own.start()
        assert identities(service(own).requests[0][1]) == {"email": "a"}
        return own, result

    @pytest.mark.parametrize("leaves", ["forget", "reset", "login"])
    def test_a_start_is_not_tried_again_for_a_user_whom_another_program_has_changed(self, leaves: str) -> None:
        own, result = self._start_while_the_user_leaves(leaves, 503, user("1"))
        assert len(service(own).requests) == 1
        left_current = "2" if leaves == "login" else None
        assert (result.http_code, own.mpid) == (503, left_current)
        assert (result.get_user() and result.get_user().mpid) == left_current

    @pytest.mark.parametrize("leaves", ["forget", "reset", "login"])
    def test_a_late_answer_to_what_was_stored_brings_nobody_back(self, leaves: str) -> None:
        """Nor the device, nor anything that is remembered of the answer."""
        answer = (200, user("1", is_logged_in=True, context="c"), {"x-mp-max-age": "3600"})
        own, result = self._start_while_the_user_leaves(leaves, answer, cache_identity=True)
        left_current = "2" if leaves == "login" else None
        assert (result.http_code, own.mpid, own.context) == (200, left_current, None)
        assert result.get_previous_user() is None
        assert own.get_user("1") is None or not own.get_user("1").is_logged_in
        assert not own._archive.seen().answers
        sent = service(own).last["known_identities"]["device_application_stamp"]
        assert (own.device_id == sent) is (leaves != "reset")

    def test_a_hook_is_not_told_that_nobody_came(self) -> None:
        heard: list[Any] = []
        request = {"userIdentities": {}, "onUserAlias": lambda *users: heard.append(users)}
        own, result = self._start_while_the_user_leaves("forget", user("1"), identify_request=request)
        assert (result.http_code, own.mpid, heard) == (200, None, [])

    def test_a_first_start_which_says_nothing_is_tried_again_whoever_has_come(self) -> None:
        """Two programs begin at once, and the service is busy."""
        storage = MemoryStorage()
        other = session(Scripted(user("9")), storage=storage)

        def meanwhile(_: HTTPRequest) -> int:
            other.start()
            return 503

        own = session(Scripted(meanwhile, user("9")), storage=storage, retry=RetryPolicy(initial_seconds=0))
        assert own.start().http_code == 200
        assert len(service(own).requests) == 2

    def test_a_late_answer_to_a_first_start_takes_nobodys_place(self) -> None:
        storage = MemoryStorage()
        other = session(Scripted(user("9")), storage=storage)

        def meanwhile(_: HTTPRequest) -> dict[str, Any]:
            other.login(ids(email="a"))
            return user("5")

        own = session(Scripted(meanwhile), storage=storage)
        assert own.start().get_user().mpid == "9"
        assert own.get_user("5") is None

    def test_two_starts_at_once_end_with_the_same_user(self) -> None:
        """Though the service has merged what both have said into another one."""
        storage = MemoryStorage()
        session(Scripted(user("1")), storage=storage, identify_request=ids(email="a")).start()
        other = session(Scripted(user("5")), storage=storage)

        def meanwhile(_: HTTPRequest) -> dict[str, Any]:
            other.start_new_session()
            return user("5", is_logged_in=True)

        own = session(Scripted(meanwhile), storage=storage)
        assert own.start_new_session().get_user().mpid == "5"
        assert own.current_user.is_logged_in

    def test_a_user_who_is_forgotten_before_the_start_has_asked_is_not_named(self) -> None:
        """After it has opened its session, before it looks for what it is to say."""
        storage = MemoryStorage()
        other = session(Scripted(user("1"), 503), storage=storage, identify_request=ids(email="a"))
        other.start()
        other.end_session()
        own = session(Scripted(user("3")), storage=storage)
        conversation = own._core.start()
        opened = own._perform(next(conversation))
        other.logout(offline="forget", keep_user=False)
        effect = conversation.send(opened)
        while not isinstance(effect, Ask):
            effect = conversation.send(own._perform(effect))
        assert effect.question.known_identities == {}

    def test_after_a_change_of_its_own_a_new_session_says_what_was_stored_at_the_start(self) -> None:
        """As the Web SDK does."""
        storage = MemoryStorage()
        session(Scripted(user("1")), storage=storage, identify_request=ids(email="a")).start()
        own = session(Scripted(user("2")), storage=storage)
        own.start()
        own.logout()
        own.start_new_session()
        assert identities(service(own).last) == {"email": "a"}


class TestKeptOnPurpose:
    @pytest.mark.parametrize("call", ["identify", "login", "logout"])
    def test_a_call_without_identities_empties_those_of_the_user_it_answers_with(self, call: str) -> None:
        own = started()
        own.login(ids(email="a"))
        getattr(own, call)()
        assert own.current_user.identities == {}

    def test_a_call_with_one_merges(self) -> None:
        own = started()
        own.login(ids(email="a"))
        own.login(ids(other="o"))
        assert own.current_user.identities == {"email": "a", "other": "o"}

    @pytest.mark.parametrize(("keep", "remembered"), [(True, True), (False, False)])
    def test_ephemeral_users_are_kept_unless_told_otherwise(self, keep: bool, remembered: bool) -> None:
        own = session(Scripted(user("1", is_ephemeral=True), user("2")), keep_ephemeral_users=keep)
        own.start()
        result = own.login()
        assert (own.get_user("1") is not None) is remembered
        assert (result.get_previous_user() is not None) is remembered

    def test_a_user_who_is_no_longer_ephemeral_is_kept(self) -> None:
        own = session(Scripted(user("1", is_ephemeral=True), user("1"), user("2")), keep_ephemeral_users=False)
        own.start()
        own.login()
        own.logout()
        assert own.get_user("1") is not None
