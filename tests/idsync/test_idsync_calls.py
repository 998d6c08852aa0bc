"""The record of calls: what is in it, and that it is written together with what the call did."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from inspect import signature

import pytest
from hypothesis import given
from hypothesis import strategies as st
from idsync_driver import KEY, Caller

from identity_session import IdentitySession
from identity_session.idsync import IdentityStrategy, LocalIDSync, service
from identity_session.idsync.clocks import LATEST_MS
from identity_session.idsync.profiles import WAIT_SECONDS

NOW_MS = 1_700_000_000_000
ED = {"environment": "production", "known_identities": {"email": "ed"}}


def test_each_call_is_recorded_newest_last(database: str) -> None:
    """Refused ones too, with the MPID where there is one; what is no call of the API is not."""
    caller = Caller("profile_link", now_ms=lambda: NOW_MS, database=database)
    mpid = caller.call("identify", {"email": "ed"}).mpid
    caller.call("login", {"email": "ed"})
    caller.modify(mpid, ("other", None, "o"))
    caller.call("search", {"other": "nobody"})
    caller.call("logout", {})
    caller.post("/v1/identity/k/Alias", {})
    caller.post("/v1/login", ED, {})
    caller.post("/v1/login", b"x" * 300_000)
    caller.post("/v1/signup", ED)
    calls = caller.idsync.calls()
    assert [list(call) for call in calls] == [
        ["number", "received_ms", "endpoint", "status", "mpid", "created", "reasons"]
    ] * 8
    assert [(c["number"], c["endpoint"], c["status"], c["mpid"], c["created"]) for c in calls] == [
        (1, "identify", 200, mpid, True),
        (2, "login", 200, mpid, False),
        (3, "modify", 200, mpid, False),
        (4, "search", 404, None, False),
        (5, "logout", 400, None, False),
        (6, "alias", 400, None, False),
        (7, "login", 401, None, False),
        (8, "login", 413, None, False),
    ]
    assert {call["received_ms"] for call in calls} == {NOW_MS}
    assert all(call["reasons"] and all(isinstance(each, str) for each in call["reasons"]) for call in calls)
    json.dumps(calls)
    caller.idsync.reset()
    assert caller.idsync.calls() == []
    caller.idsync.close()


def test_a_call_whose_record_cannot_be_written_has_no_effect(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is all one transaction."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    caller = Caller(database=database)
    caller.seed(email="henry")
    monkeypatch.setattr("identity_session.idsync.service.CallRecord", fail)
    assert caller.call("identify", {"email": "ed"}).status == 500
    monkeypatch.undo()
    assert list(caller.store().values()) == [{"email": ["henry"]}]
    assert caller.idsync.calls() == []
    caller.idsync.close()


def test_preflights_and_other_methods_are_no_calls() -> None:
    """Pages ask before every call."""
    idsync = LocalIDSync()
    for method in ("OPTIONS", "GET"):
        served = idsync.handle(method, "/v1/identify", KEY, b"")
        assert served.answer is not None
        assert (served.answer.status, served.delay_seconds) == (204 if method == "OPTIONS" else 405, 0)
    assert idsync.calls() == []


def test_search_and_refused_calls_leave_the_last_seen_time_alone() -> None:
    """Calls that are answered with a profile set it, a modify without changes too."""
    caller = Caller("profile_link", now_ms=lambda: NOW_MS)
    mpid = caller.seed(email="ed")
    for step, (name, seen) in enumerate(
        [("search", 0), ("/v1/identify?read_only=true", 0), ("identify", 3), ("login", 4), ("logout", 4)], 1
    ):
        caller.idsync.set_clock(shift_ms=step)
        caller.call(name, {"email": "ed"})
        assert caller.idsync.profiles()[0]["last_seen_ms"] == NOW_MS + seen
        assert caller.idsync.profiles()[0]["first_seen_ms"] == NOW_MS
    caller.idsync.set_clock(shift_ms=9)
    caller.modify(mpid)
    assert caller.idsync.profiles()[0]["last_seen_ms"] == NOW_MS + 9
    assert mpid == caller.idsync.profiles()[0]["mpid"]


def test_calls_of_many_threads_are_numbered_without_a_gap(database: str) -> None:
    """Each is recorded once, under a number of its own."""
    caller = Caller(database=database)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: caller.call("identify", {"customerid": str(n % 10)}), range(120)))
    calls = caller.idsync.calls()
    assert sorted(call["number"] for call in calls) == [call["number"] for call in calls]
    assert len(calls) == 120
    assert len(caller.store()) == sum(call["created"] for call in calls) == 10
    caller.idsync.close()


def test_a_database_that_is_not_free_is_waited_for_once(shared_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that failed is not recorded, which would be a second wait; the next one is."""
    caller, other = Caller(database=shared_database), Caller(database=shared_database)
    store, begun = caller.idsync._store, []
    begin = store.transaction
    monkeypatch.setattr(store, "transaction", lambda *named, **by: begun.append(named) or begin(*named, **by))
    with other.idsync._store.transaction() as profiles, monkeypatch.context() as patch:
        profiles.all()
        patch.setattr(service, "WAIT_SECONDS", 0.2)
        assert caller.call("identify", {"customerid": "A"}).status == 500
        assert len(begun) == 1
    assert caller.call("identify", {"customerid": "A"}).status == 200
    assert [call["status"] for call in caller.idsync.calls()] == [200]
    caller.idsync.close()
    other.idsync.close()


def test_a_database_is_waited_for_less_long_than_a_session_waits() -> None:
    """Else the session would give up before it hears why."""
    assert signature(IdentitySession).parameters["timeout"].default > WAIT_SECONDS


class TestRetention:
    DAY_MS = 24 * 60 * 60 * 1000

    def test_a_profile_that_answered_no_call_for_so_long_is_forgotten(self, database: str) -> None:
        """Those that did stay; a forgotten one is not found, not modified, and its values are free."""
        caller = Caller(IdentityStrategy("profile_link", retention_days=30), database=database, now_ms=lambda: NOW_MS)
        idle, busy = caller.seed(email="ed", ios_idfv="1"), caller.seed(email="henry")
        caller.idsync.set_clock(shift_ms=29 * self.DAY_MS)
        assert caller.call("identify", {"email": "henry"}).mpid == busy
        assert caller.call("search", {"email": "ed"}).mpid == idle
        caller.idsync.set_clock(shift_ms=31 * self.DAY_MS)
        assert caller.call("search", {"email": "ed"}).status == 404
        assert list(caller.store()) == [busy]
        assert caller.modify(idle).status == 404
        assert caller.call("identify", {"email": "ed", "ios_idfv": "1"}).mpid not in (idle, busy)
        caller.idsync.close()

    def test_forever_unless_it_is_asked_for(self) -> None:
        caller = Caller("profile_link", now_ms=lambda: NOW_MS)
        mpid = caller.seed(email="ed")
        caller.idsync.set_clock(shift_ms=10_000 * self.DAY_MS)
        assert caller.call("identify", {"email": "ed"}).mpid == mpid

    def test_counts_again_when_the_clock_was_set_back(self) -> None:
        """Tests move it to and fro."""
        caller = Caller(IdentityStrategy(retention_days=0.5), now_ms=lambda: NOW_MS)
        for _ in range(2):
            caller.seed(customerid="A")
            caller.idsync.set_clock(shift_ms=self.DAY_MS)
            assert caller.call("search", {"customerid": "A"}).status == 404
            caller.idsync.set_clock()
            caller.call("search", {"customerid": "B"})

    def test_needs_no_sweep(self, database: str) -> None:
        """A profile is not found from the moment its time is over; its values are free, and nothing explains it."""
        caller = Caller(IdentityStrategy("profile_link", retention_days=1), database=database, now_ms=lambda: NOW_MS)
        idle, other = caller.seed(email="ed"), caller.seed(email="henry")
        caller.idsync.set_clock(shift_ms=self.DAY_MS)
        assert caller.call("search", {"email": "ed"}).mpid == idle
        caller.idsync.set_clock(shift_ms=self.DAY_MS + 1)
        body = {"environment": "development", "known_identities": {"email": "ed"}}
        assert caller.idsync.explain("search", body)["status"] == 404
        assert caller.call("search", {"email": "ed"}).status == 404
        assert caller.modify(other, ("other", None, "o")).status == 404
        assert caller.call("identify", {"email": "ed"}).mpid != idle
        caller.idsync.close()

    def test_shows_without_a_call(self) -> None:
        """Whoever looks sees only those that a call would find."""
        caller = Caller(IdentityStrategy(retention_days=1), now_ms=lambda: NOW_MS)
        caller.seed(customerid="A")
        caller.idsync.set_clock(shift_ms=self.DAY_MS)
        assert len(caller.store()) == 1
        caller.idsync.set_clock(shift_ms=self.DAY_MS + 1)
        assert caller.store() == {}

    @pytest.mark.parametrize("days", [1e15, 1e305])
    def test_may_be_longer_than_time_itself(self, database: str, days: float) -> None:
        """Nobody is forgotten then."""
        caller = Caller(IdentityStrategy(retention_days=days), database=database, now_ms=lambda: NOW_MS)
        mpid = caller.seed(customerid="A")
        assert caller.call("identify", {"customerid": "A"}).mpid == mpid
        caller.idsync.close()


class TestClock:
    def test_may_be_stopped_shifted_and_set_free(self) -> None:
        idsync = LocalIDSync(now_ms=lambda: NOW_MS)
        assert idsync.clock() == {"now_ms": NOW_MS, "fixed_ms": None, "shift_ms": None}
        idsync.set_clock(shift_ms=-1)
        assert idsync.clock() == {"now_ms": NOW_MS - 1, "fixed_ms": None, "shift_ms": -1}
        idsync.set_clock(fixed_ms=0)
        assert idsync.clock() == {"now_ms": 0, "fixed_ms": 0, "shift_ms": None}
        idsync.set_clock()
        assert idsync.now_ms() == NOW_MS

    @pytest.mark.parametrize(
        ("setting", "reason"),
        [
            ({"fixed_ms": 1, "shift_ms": 1}, "either fixed or shifted"),
            ({"fixed_ms": 1.5}, "fixed_ms must be a whole number"),
            ({"shift_ms": True}, "shift_ms must be a whole number"),
            ({"shift_ms": "1"}, "shift_ms must be a whole number"),
            ({"fixed_ms": -1}, "1970 to 9999"),
            ({"fixed_ms": LATEST_MS + 1}, "1970 to 9999"),
            ({"shift_ms": -NOW_MS - 1}, "1970 to 9999"),
        ],
    )
    def test_keeps_its_setting_when_it_is_set_to_nonsense(self, setting: dict[str, int], reason: str) -> None:
        idsync = LocalIDSync(now_ms=lambda: NOW_MS)
        idsync.set_clock(shift_ms=5)
        with pytest.raises(ValueError, match=reason):
            idsync.set_clock(**setting)
        assert idsync.now_ms() == NOW_MS + 5

    @given(st.integers(0, LATEST_MS))
    def test_every_moment_of_its_years_may_be_recorded(self, moment_ms: int) -> None:
        caller = Caller()
        caller.idsync.set_clock(fixed_ms=moment_ms)
        assert caller.call("identify", {"email": "ed"}).status == 200
        assert caller.idsync.calls()[0]["received_ms"] == moment_ms


class TestSeed:
    def test_takes_an_mpid_as_text_or_number(self, database: str) -> None:
        idsync = LocalIDSync(database)
        assert idsync.seed_profile({"email": "ed"}, mpid="-5") == "-5"
        assert idsync.seed_profile({"email": "ed"}, mpid=2**63 - 1) == str(2**63 - 1)
        assert [profile["mpid"] for profile in idsync.profiles()] == ["-5", str(2**63 - 1)]
        idsync.close()

    @pytest.mark.parametrize("mpid", ["", "0", 0, "me", 2**63, "5.0", " 5"])
    def test_refuses_what_is_no_mpid(self, mpid: str | int) -> None:
        idsync = LocalIDSync()
        with pytest.raises(ValueError, match="64 bits"):
            idsync.seed_profile({}, mpid=mpid)
        assert idsync.profiles() == []

    def test_refuses_an_mpid_that_is_taken(self, database: str) -> None:
        idsync = LocalIDSync(database)
        idsync.seed_profile({"email": "ed"}, mpid="5")
        with pytest.raises(ValueError, match="MPID already"):
            idsync.seed_profile({"email": "henry"}, mpid=5)
        assert [profile["identities"] for profile in idsync.profiles()] == [{"email": ["ed"]}]
        idsync.close()

    @pytest.mark.parametrize("identities", [None, ["email"], {"email": None}, {"email": {"a": "b"}}])
    def test_refuses_what_is_no_mapping_of_values(self, identities: object) -> None:
        with pytest.raises(ValueError, match=r"identities map|'email'"):
            LocalIDSync().seed_profile(identities)  # type: ignore[arg-type]
