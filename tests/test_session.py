"""The synchronous front as programs use it: journeys, time, threads, callbacks, mistakes."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from freezegun import freeze_time
from scripted import Clock, Scripted, identities, ids, lost, session, user

from identity_session import (
    HTTPCodes,
    IdentityCallError,
    IdentityRequest,
    IdentitySession,
    JsonStorage,
    MemoryStorage,
    RetryPolicy,
    StorageError,
)
from identity_session.idsync import LocalIDSync


def test_one_whole_journey(tmp_path: Path) -> None:
    """A program starts, is identified, logs in, modifies, logs out, restarts, and finds itself where it was."""
    idsync = LocalIDSync()
    path = tmp_path / "state"

    def greet(result: Any) -> None:
        result.getUser().setUserAttribute("visits", 1)

    with IdentitySession("any", storage=path, transport=idsync.transport, identity_callback=greet) as first:
        anonymous = first.mpid
        assert first.current_user.attributes == {"visits": 1}
        login = first.login(IdentityRequest({"customerid": "c-1", "email": "a@example.com"}))
        assert (login.http_code, login.get_user().is_logged_in) == (200, True)
        known = first.mpid
        first.modify(ids(email="b@example.com"))
        assert first.current_user.identities == {
            "customerid": "c-1",
            "email": "b@example.com",
        }
        logout = first.logout()
        assert logout.get_previous_user().mpid == known
        device, session_id = first.device_id, first.session_id
    assert known == anonymous  # the default strategy converts the profile

    with IdentitySession("any", storage=path, transport=idsync.transport) as second:
        assert (second.device_id, second.session_id, second.mpid) == (device, session_id, logout.get_user().mpid)
        assert second.current_user.is_logged_in is False
        again = second.login(ids(customerid="c-1"))
        assert again.get_user().mpid == known
        assert again.get_user().attributes == {"visits": 1}
        assert {u.mpid for u in second.get_users()} == {known, logout.get_user().mpid}


class TestTime:
    def test_freezegun_stops_the_default_clock(self) -> None:
        with freeze_time("2026-01-05T10:00:00Z") as frozen:
            own = session(Scripted(user("1"), user("2")))
            own.start()
            before = own.session_id
            frozen.tick(timedelta(minutes=29))
            own.login()
            assert own.get_user("1").last_seen == datetime(2026, 1, 5, 10, 29, tzinfo=UTC)
            assert own.current_user.first_seen == datetime(2026, 1, 5, 10, 29, tzinfo=UTC)
            frozen.tick(timedelta(minutes=29))
            assert own.session_id == before
            assert own.current_user.last_seen == datetime(2026, 1, 5, 10, 58, tzinfo=UTC)
            frozen.tick(timedelta(minutes=1))
            assert own.session_id is None
            assert own._transport.last["request_timestamp_ms"] == 1_767_608_940_000

    def test_an_injected_clock_does_the_same(self) -> None:
        clock = Clock(1_767_607_200_000)
        own = session(Scripted(user("1"), user("2")), now_ms=clock)
        own.start()
        clock.advance(minutes=29)
        own.login()
        assert own.get_user("1").last_seen == datetime(2026, 1, 5, 10, 29, tzinfo=UTC)
        clock.advance(minutes=30)
        assert own.session_id is None

    def test_a_deadline_ends_although_time_is_frozen(self, tmp_path: Path) -> None:
        """Another holder keeps the lock; the call gives up when its time is over."""
        with freeze_time("2026-01-05T10:00:00Z"):
            own = session(storage=JsonStorage(tmp_path))
            own.start()
            hasty = session(storage=JsonStorage(tmp_path), timeout=0.2)
            holder = JsonStorage(tmp_path).in_workspace(own._settings.workspace)
            with holder.lock(1):
                result = hasty.login(ids(email="a"))
            assert result.http_code == HTTPCodes.NO_HTTP_COVERAGE
            assert "lock" in result.body
            assert own.current_user.identities == {}
            assert own.login(ids(email="a")).http_code == 200

    def test_attributes_and_identities_survive_the_end_of_a_session(self) -> None:
        clock = Clock()
        own = session(now_ms=clock)
        own.start()
        own.login(ids(email="a"))
        own.current_user.set_attribute("a", 1)
        clock.advance(days=1)
        assert own.session_id is None
        assert own.current_user.attributes == {"a": 1}
        assert own.current_user.identities == {"email": "a"}

    def test_touch_keeps_a_session_alive_or_begins_another(self) -> None:
        clock = Clock()
        own = session(now_ms=clock)
        own.start()
        first = own.session_id
        clock.advance(minutes=29)
        own.touch()
        clock.advance(minutes=29)
        assert own.session_id == first
        clock.advance(minutes=30)
        own.touch()
        assert own.session_id not in (None, first)


class TestCallbacks:
    def test_hear_after_the_state_is_on_disk_and_may_call_again(self, tmp_path: Path) -> None:
        own = session(Scripted(user("1"), user("2"), user("3")), storage=JsonStorage(tmp_path))
        own.start()
        seen: list[Any] = []

        def during(result: Any) -> None:
            seen.append(session(storage=JsonStorage(tmp_path)).mpid)
            if len(seen) == 1:
                seen.append(own.login(None, during).http_code)

        own.login(None, during)
        assert seen == ["2", "3", 200]

    def test_alias_hook_then_listeners_then_callback(self) -> None:
        order: list[Any] = []
        own = session(Scripted(user("1"), user("2"), user("3")))
        own.start()
        own.on_user_identified(lambda user, previous: order.append(("listener", user.mpid, previous.mpid)))
        remove = own.on_user_identified(lambda user, previous: order.append("second listener"))
        request = {**ids(), "onUserAlias": lambda previous, user: order.append(("hook", previous.mpid, user.mpid))}
        own.login(request, lambda result: order.append("callback"))
        assert order == [("hook", "1", "2"), ("listener", "2", "1"), "second listener", "callback"]
        order.clear()
        remove()
        remove()
        own.login()
        assert order == [("listener", "3", "2")]

    @pytest.mark.parametrize("answer", [400, lost(), (202, user("2"))])
    def test_listeners_hear_only_of_users_the_service_named(self, answer: Any) -> None:
        own = session(Scripted(user("1"), answer))
        own.start()
        own.on_user_identified(lambda *_: pytest.fail("nobody was identified"))
        own.login({**ids(), "onUserAlias": lambda *_: pytest.fail("nobody was identified")})

    def test_the_alias_hook_of_the_configured_request_is_called_too(self) -> None:
        order: list[Any] = []
        request = {**ids(), "onUserAlias": lambda previous, user: order.append((previous, user.mpid))}
        session(identify_request=request, identity_callback=lambda _: order.append("callback")).start()
        assert order == [(None, "1"), "callback"]

    def test_a_resumed_start_tells_the_callback_but_no_listener(self) -> None:
        storage = MemoryStorage()
        session(storage=storage).start()
        heard: list[Any] = []
        own = session(storage=storage, identity_callback=heard.append)
        own.on_user_identified(lambda *_: pytest.fail("nobody was identified"))
        result = own.start()
        assert heard == [result]

    def test_a_listener_that_cannot_be_called_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="listener must be callable"):
            session().on_user_identified("no function")

    def test_keyboard_interrupt_gets_through_and_frees_the_session(self) -> None:
        def interrupted(_: Any) -> None:
            raise KeyboardInterrupt

        own = session(Scripted(user("1")))
        own.start()
        own._transport.answers = [interrupted]
        with pytest.raises(KeyboardInterrupt):
            own.login()
        own._transport.answers = [user("2")]
        assert own.login().http_code == 200


class TestResults:
    def test_both_spellings_say_the_same(self) -> None:
        own = session(Scripted(user("1"), user("2")))
        own.start()
        result = own.login()
        assert result.httpCode == result.http_code == 200
        assert result.getUser() == result.get_user() == own.current_user
        assert result.getPreviousUser() == result.get_previous_user() == own.get_user("1")

    @pytest.mark.parametrize(
        ("answer", "ok"), [(user("1"), True), ((202, user("1")), False), (400, False), (500, False), (lost(), False)]
    )
    def test_ok_and_raise_for_error(self, answer: Any, ok: bool) -> None:
        own = session(Scripted(user("1"), answer))
        own.start()
        result = own.login(ids(email="a@example.com"))
        assert result.ok is ok
        if ok:
            result.raise_for_error()
        else:
            with pytest.raises(IdentityCallError, match=str(result.http_code)) as raised:
                result.raise_for_error()
            assert raised.value.http_code == result.http_code
            assert "a@example.com" not in str(raised.value)

    def test_a_resumed_session_is_ok(self) -> None:
        storage = MemoryStorage()
        session(storage=storage).start()
        result = session(storage=storage).start()
        assert (result.http_code, result.ok) == (-3, True)
        result.raise_for_error()

    def test_a_code_of_our_own_is_named(self) -> None:
        with pytest.raises(IdentityCallError, match="VALIDATION_ISSUE"):
            session().login(5).raise_for_error()

    def test_nothing_personal_is_shown(self) -> None:
        own = session()
        own.start()
        result = own.login(ids(email="a@example.com"))
        shown = " ".join(map(repr, [own, result, result.get_user(), own.search({"email": "a@example.com"})]))
        assert "a@example.com" not in shown
        assert "us1-test-key" not in shown
        assert repr(result) == "<IdentityResult 200>"


class TestThreads:
    def test_of_many_calls_at_once_one_is_sent(self) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def slow(_: Any) -> dict[str, Any]:
            inside.set()
            go_on.wait(5)
            return user("2")

        own = session(Scripted(user("1"), slow, user("3")))
        own.start()
        codes: list[int] = []
        first = threading.Thread(target=lambda: codes.append(own.login().http_code))
        first.start()
        assert inside.wait(5)
        refused = [getattr(own, call)().http_code for call in ("identify", "login", "logout")]
        assert refused == [-2, -2, -2]
        assert own.modify(ids(email="a")).http_code == -2
        assert own.login(5).http_code == -4  # a wrong request outranks the call in flight
        go_on.set()
        first.join(5)
        assert codes == [200]
        assert own.login().http_code == 200

    def test_a_session_may_be_used_from_many_threads(self, tmp_path: Path) -> None:
        idsync = LocalIDSync()
        own = IdentitySession("any", storage=tmp_path, transport=idsync.transport)
        own.start()
        heard: list[Any] = []
        results: list[Any] = []

        def work(number: int) -> None:
            for turn in range(5):
                results.append(own.login(ids(customerid=f"{number}-{turn}"), heard.append))
                if own.current_user:
                    own.current_user.set_attribute(f"a{number}", turn)
                own.search({"customerid": f"{number}-{turn}"})
                own.get_users()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(heard) == len(results) == 40
        assert {result.http_code for result in results} <= {200, -2}
        assert own.login(ids(customerid="last")).http_code == 200


class TestMistakes:
    def test_a_closed_session_says_so(self) -> None:
        own = session()
        own.start()
        own.close()
        own.close()
        for call in (own.login, own.reset):
            with pytest.raises(RuntimeError, match="closed"):
                call()

    def test_wrong_argument_for_opting_out(self) -> None:
        with pytest.raises(TypeError, match="opted_out must be a bool"):
            session().set_opt_out("yes")

    @pytest.mark.parametrize("mpid", ["unknown", "", None, 5, "gs", "../state", "\ud800"])
    def test_an_unknown_user_is_none(self, mpid: Any) -> None:
        own = session()
        own.start()
        assert own.get_user(mpid) is None

    def test_a_storage_that_is_none_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="storage must be a Storage or a path"):
            IdentitySession("key", storage=5)

    @pytest.mark.parametrize("wrong", [httpx.Client(), httpx.HTTPTransport, httpx.AsyncHTTPTransport(), 5, "network"])
    def test_a_transport_that_is_none_is_a_type_error(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="transport must be"):
            IdentitySession("key", storage=MemoryStorage(), transport=wrong)

    def test_a_path_below_a_file_is_a_storage_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="file"):
            IdentitySession("key", storage=tmp_path / "file" / "state").start()

    def test_without_a_storage_the_users_data_folder_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        with IdentitySession("key", transport=Scripted()) as own:
            assert own.mpid == "1"
        assert [p for p in tmp_path.rglob("state.json") if "identity_session" in str(p)]

    def test_a_caller_may_call_before_start(self) -> None:
        own = session(Scripted(user("1")))
        assert own.login(ids(email="a")).http_code == 200
        assert (own.mpid, own.session_id) == ("1", None)

    def test_what_the_caller_does_to_the_configured_request_later_changes_nothing(self) -> None:
        request = ids(email="a")
        own = session(identify_request=request)
        request["userIdentities"]["email"] = "b"
        own.start()
        assert identities(own._transport.last) == {"email": "a"}


class TestSeveralInstances:
    def test_the_same_workspace_shares_one_state(self, tmp_path: Path) -> None:
        first = session(Scripted(user("1")), storage=JsonStorage(tmp_path))
        first.start()
        second = session(Scripted(user("2")), storage=JsonStorage(tmp_path))
        assert second.mpid == "1"
        second.login(ids(email="a"))
        assert first.mpid == "2"
        assert first.current_user.identities == {"email": "a"}

    def test_different_tokens_share_nothing(self, tmp_path: Path) -> None:
        first = session(storage=JsonStorage(tmp_path), workspace_token="one")
        first.start()
        second = session(storage=JsonStorage(tmp_path), workspace_token="two")
        assert second.mpid is None
        assert second.device_id != first.device_id

    def test_by_default_the_key_decides(self, tmp_path: Path) -> None:
        session(storage=JsonStorage(tmp_path), api_key="us1-a").start()
        assert session(storage=JsonStorage(tmp_path), api_key="us1-a").mpid == "1"
        assert session(storage=JsonStorage(tmp_path), api_key="us1-b").mpid is None


def test_nothing_is_logged_on_the_way(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        own = session()
        own.start()
        own.login(ids(email="a@example.com"))
        own.current_user.set_attribute("name", "Alice")
    assert not [record for record in caplog.records if record.name.startswith("identity_session")]


def test_a_result_is_made_without_another_look_at_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which could fail, and would take its time in an event loop."""
    own = session(Scripted(user("1"), user("2")))
    own.start()

    def failing(mpid: str) -> None:
        raise StorageError("input/output error")

    monkeypatch.setattr(own._archive, "user", failing)
    result = own.login()
    assert (result.http_code, result.get_previous_user().mpid) == (200, "1")


def test_after_a_reset_the_device_is_another_one(tmp_path: Path) -> None:
    """In the session that reset, and in one that was open meanwhile."""
    first = session(storage=JsonStorage(tmp_path))
    second = session(storage=JsonStorage(tmp_path))
    first.start()
    second.start()
    before = first.device_id
    second.reset()
    assert first.device_id is None
    first.start()
    assert first.device_id == second.device_id
    assert first.device_id not in (None, before)


@pytest.mark.parametrize("known", [{"email": "a@example.com"}, ids(email="a@example.com")])
def test_a_search_takes_any_mapping(known: dict[str, Any]) -> None:
    own = session()
    assert own.search(MappingProxyType(known)).http_code == 200
    assert identities(own._transport.last) == {"email": "a@example.com"}


@pytest.mark.parametrize("configured", [{}, {"other": "kiosk-7"}])
def test_after_a_reset_nothing_of_what_was_stored_is_sent(configured: dict[str, str]) -> None:
    """The session is as newly made: its next one identifies, with what is configured."""
    storage = MemoryStorage()
    session(storage=storage, identify_request=ids(email="a@example.com", **configured)).start()
    service = Scripted()
    own = session(service, storage, identify_request=ids(**configured))
    assert own.start().http_code == -3
    own.reset()
    assert own.start_new_session().http_code == 200
    assert identities(service.last) == configured
    assert service.last["previous_mpid"] is None


def test_opting_out_ends_a_call_that_would_be_made_again() -> None:
    """The answer in hand is its result."""

    def opt_out(_: Any) -> int:
        own.set_opt_out(True)
        return 503

    own = session(Scripted(user("1"), opt_out, user("2")), retry=RetryPolicy(initial_seconds=0))
    own.start()
    assert own.login().http_code == 503
    assert own.mpid == "1"
    assert len(own._transport.requests) == 2


def test_activity_while_a_call_was_under_way_is_not_forgotten_with_its_answer() -> None:
    clock = Clock()

    def busy(_: Any) -> dict[str, Any]:
        clock.advance(minutes=4)
        own.touch()
        clock.advance(minutes=1)
        return user("2")

    own = session(Scripted(user("1"), busy), now_ms=clock, session_timeout=timedelta(minutes=5))
    own.start()
    before = own.session_id
    own.login()
    clock.advance(minutes=3.9)
    assert own.session_id == before
    clock.advance(minutes=0.1)
    assert own.session_id is None
