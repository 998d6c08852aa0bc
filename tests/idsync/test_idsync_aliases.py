"""Alias requests: which are accepted, and what is recorded of them."""

from __future__ import annotations

from typing import Any

import pytest
from idsync_driver import Answer, Caller

from identity_session.idsync import IdentityStrategy, aliases
from identity_session.idsync.aliases import WINDOW_MS
from identity_session.idsync.profiles import AliasRecord
from identity_session.signing import signature

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
HOUR_MS = DAY_MS // 24


class AliasCaller(Caller):
    """A service at a fixed time, with an anonymous and a known profile."""

    def __init__(self, strategy: str | IdentityStrategy = "default", **settings: Any) -> None:
        super().__init__(strategy, now_ms=lambda: NOW_MS, **settings)
        self.idsync.set_clock(shift_ms=-30 * DAY_MS)
        self.source = self.seed(email="ed")
        self.idsync.set_clock()
        self.destination = self.seed(customerid="A")

    def alias(self, path: str = "/v1/identity/us1-key/Alias", drop: str = "", **data: Any) -> Answer:
        body = {
            "request_id": "request-1",
            "request_type": "alias",
            "environment": "production",
            "api_key": "us1-key",
            "data": {
                "source_mpid": self.source,
                "destination_mpid": self.destination,
                "start_unixtime_ms": NOW_MS - DAY_MS,
                "end_unixtime_ms": NOW_MS,
                "scope": "mpid",
                **data,
            },
        }
        for holder in (body, body["data"]):
            holder.pop(drop, None)
        return self.post(path, body, {})

    def states(self) -> list[tuple[str, str | None]]:
        return [(alias["state"], alias["reason"]) for alias in self.idsync.aliases()]

    def profile(self, mpid: str) -> dict[str, Any]:
        return next(profile for profile in self.idsync.profiles() if profile["mpid"] == mpid)

    def recorded(self) -> list[AliasRecord]:
        with self.idsync._store.transaction() as profiles:
            return list(profiles.aliases())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/identity/us1-key/Alias",
        "/v1/identity/us1-key/alias",
        "/v1/identity/us1%2Dkey/ALIAS?cb=1",
        "/webevents/v1/identity/us1-key/Alias",
        "/nativeevents/v1/identity/us1-key/alias",
    ],
)
def test_an_alias_request_is_accepted_and_recorded(path: str) -> None:
    """On every path that SDKs use, with the key in it; the answer has no body."""
    caller = AliasCaller(api_keys={"us1-key": "secret"})
    answer = caller.alias(path)
    assert (answer.status, answer.raw) == (202, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    source, destination = int(caller.source), int(caller.destination)
    assert caller.recorded() == [
        AliasRecord("request-1", source, destination, NOW_MS - DAY_MS, NOW_MS, "mpid", NOW_MS, number=1)
    ]


def test_an_alias_request_changes_no_profile() -> None:
    """Identity records stay as they are; a reset forgets the request."""
    caller = AliasCaller()
    before = caller.idsync.profiles()
    caller.alias()
    assert caller.idsync.profiles() == before
    caller.idsync.reset()
    assert caller.recorded() == []


def test_native_sdks_send_numbers_and_no_scope() -> None:
    """The scope is then that of the device."""
    caller = AliasCaller()
    answer = caller.alias(drop="scope", source_mpid=int(caller.source), destination_mpid=int(caller.destination))
    assert answer.status == 202
    assert caller.recorded()[0].scope == "device"


def test_times_may_be_missing_and_reach_back_90_days_at_most() -> None:
    """No start is as far back as allowed, no end is now; an older start is moved up, not refused."""
    caller = AliasCaller()
    caller.alias(start_unixtime_ms=None, end_unixtime_ms=None)
    caller.alias(start_unixtime_ms=0)
    assert WINDOW_MS == 90 * DAY_MS
    assert [(alias.start_ms, alias.end_ms) for alias in caller.recorded()] == [(NOW_MS - WINDOW_MS, NOW_MS)] * 2


def test_a_span_of_no_length_is_accepted() -> None:
    """Start and end may be the same moment."""
    assert AliasCaller().alias(start_unixtime_ms=NOW_MS, end_unixtime_ms=NOW_MS).status == 202


@pytest.mark.parametrize(
    ("code", "data"),
    [
        ("LOOKUP_ERROR", {"start_unixtime_ms": NOW_MS, "end_unixtime_ms": NOW_MS - 1}),
        ("LOOKUP_ERROR", {"start_unixtime_ms": NOW_MS + 1, "end_unixtime_ms": None}),
        ("LOOKUP_ERROR", {"start_unixtime_ms": 0, "end_unixtime_ms": NOW_MS - WINDOW_MS - 1}),
        ("LOOKUP_ERROR", {"end_unixtime_ms": 2**63}),
        ("LOOKUP_ERROR", {"source_mpid": "5"}),
        ("LOOKUP_ERROR", {"destination_mpid": "5"}),
        ("LOOKUP_ERROR", {"destination_mpid": 0}),
        ("LOOKUP_ERROR", {"source_mpid": "me"}),
        ("INVALID_DATA", {"start_unixtime_ms": "yesterday"}),
        ("INVALID_DATA", {"scope": "account"}),
        ("INVALID_DATA", {"source_mpid": None}),
    ],
)
def test_an_alias_request_that_makes_no_sense_is_refused(code: str, data: dict[str, Any]) -> None:
    """A flat 400, as the Web SDK reads it; nothing is recorded."""
    caller = AliasCaller()
    answer = caller.alias(**data)
    assert answer.status == 400
    assert answer.body.keys() == {"code", "message"}
    assert answer.body["code"] == code
    assert caller.recorded() == []


def test_a_user_is_not_aliased_to_itself() -> None:
    """Source and destination must differ."""
    caller = AliasCaller()
    assert caller.alias(destination_mpid=caller.source).status == 400


@pytest.mark.parametrize("drop", ["request_type", "environment", "api_key", "data", "source_mpid", "destination_mpid"])
def test_an_alias_request_with_a_member_missing_is_refused(drop: str) -> None:
    """The message is the one known from the real service."""
    answer = AliasCaller().alias(drop=drop)
    assert answer.status == 400
    assert answer.body["message"].startswith("The payload was malformed JSON or had missing fields.")


def test_a_request_id_that_no_store_can_hold_is_refused() -> None:
    """As it would be recorded."""
    caller = AliasCaller()
    data = {"source_mpid": caller.source, "destination_mpid": caller.destination}
    body = {"request_id": "\0", "request_type": "alias", "environment": "production", "api_key": "k", "data": data}
    assert caller.post("/v1/identity/k/alias", body).status == 400
    assert caller.post("/v1/identity/k/alias", {**body, "request_id": None}).status == 202


@pytest.mark.parametrize("strategy", ["profile_isolation", "best_match"])
def test_isolation_and_best_match_know_no_aliasing(strategy: str) -> None:
    """A 403 without a body."""
    answer = AliasCaller(strategy).alias()
    assert (answer.status, answer.raw) == (403, b"")


def test_the_key_in_the_path_must_be_known_and_a_signature_must_fit() -> None:
    """The path's key decides; without keys any will do."""
    strict = AliasCaller(api_keys={"us1-key": "secret"})
    path = "/nativeevents/v1/identity/us1-key/alias"
    assert strict.alias("/v1/identity/other-key/alias").status == 401
    assert strict.post(path, b"{}", {"date": "d", "x-mp-signature": "0"}).status == 401
    digest = signature("secret", "POST", "d", path, b"{}")
    assert strict.post(path, b"{}", {"date": "d", "x-mp-signature": digest}).status == 400
    assert AliasCaller().alias("/v1/identity/other-key/alias").status == 202


def test_a_request_waits_24_hours_and_is_then_processed_by_itself() -> None:
    """Whoever looks finds it done at the moment it was due, however late they look."""
    caller = AliasCaller()
    caller.alias()
    caller.idsync.set_clock(shift_ms=DAY_MS - 1)
    assert caller.states() == [("pending", None)]
    assert caller.idsync.process_aliases(due_only=True) == []
    caller.idsync.set_clock(shift_ms=3 * DAY_MS)
    assert caller.idsync.aliases() == [
        {
            "number": 1,
            "request_id": "request-1",
            "source_mpid": caller.source,
            "destination_mpid": caller.destination,
            "start_ms": NOW_MS - DAY_MS,
            "end_ms": NOW_MS,
            "scope": "mpid",
            "received_ms": NOW_MS,
            "state": "done",
            "reason": None,
            "processed_ms": NOW_MS + DAY_MS,
        }
    ]


def test_the_first_seen_date_of_the_source_is_copied_and_both_get_a_note() -> None:
    """Identity records stay as they are."""
    caller = AliasCaller()
    records = caller.store()
    caller.alias()
    assert caller.profile(caller.destination)["first_seen_ms"] == NOW_MS
    (processed,) = caller.idsync.process_aliases()
    assert (processed["state"], processed["processed_ms"]) == ("done", NOW_MS)
    source, destination = caller.profile(caller.source), caller.profile(caller.destination)
    assert source["first_seen_ms"] == destination["first_seen_ms"] == NOW_MS - 30 * DAY_MS
    assert source["notes"] == [f"aliased to {caller.destination}"]
    assert destination["notes"] == [f"has the history of {caller.source}"]
    assert caller.store() == records
    assert caller.idsync.process_aliases() == []


def test_a_look_reads_the_notes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each profile, while the store is locked."""
    caller, read = AliasCaller(), []
    notes = aliases.notes
    monkeypatch.setattr(aliases, "notes", lambda *given: read.append(given) or notes(*given))
    assert len(caller.idsync.profiles()) >= 2
    assert len(read) == 1


def test_looking_at_profiles_shows_what_is_due() -> None:
    """As if it had been processed in time."""
    caller = AliasCaller()
    caller.alias()
    caller.idsync.set_clock(shift_ms=DAY_MS)
    assert caller.profile(caller.destination)["first_seen_ms"] == NOW_MS - 30 * DAY_MS


def test_what_is_due_comes_before_a_deletion() -> None:
    """A source that is deleted later than that has left its date."""
    caller = AliasCaller()
    caller.alias()
    caller.idsync.set_clock(shift_ms=2 * DAY_MS)
    assert caller.idsync.delete_profile(caller.source)
    assert caller.states() == [("done", None)]
    assert caller.profile(caller.destination)["first_seen_ms"] == NOW_MS - 30 * DAY_MS


def test_what_is_due_comes_before_the_end_of_a_profile() -> None:
    """Also when it is a call by which its time is found to be over."""
    caller = AliasCaller(IdentityStrategy(retention_days=31.5))
    caller.alias()
    caller.idsync.set_clock(shift_ms=2 * DAY_MS)
    assert caller.call("search", {"customerid": "A"}).status == 200
    assert caller.states() == [("done", None)]
    assert caller.profile(caller.destination)["first_seen_ms"] == NOW_MS - 30 * DAY_MS
    assert caller.idsync.profile(caller.source) is None


@pytest.mark.parametrize(
    ("hours", "fails"),
    [((10, 8), True), ((4, 2), True), ((9, 5), True), ((12, 1), True), ((12, 11), False), ((3, 2), False)],
)
def test_a_second_alias_of_a_source_fails_if_the_ranges_overlap(hours: tuple[int, int], fails: bool) -> None:
    """Against one from ten to four hours ago; it was accepted, and fails silently."""
    caller = AliasCaller()
    caller.alias(start_unixtime_ms=NOW_MS - 10 * HOUR_MS, end_unixtime_ms=NOW_MS - 4 * HOUR_MS)
    start, end = (NOW_MS - each * HOUR_MS for each in hours)
    other = caller.seed(customerid="B")
    assert caller.alias(start_unixtime_ms=start, end_unixtime_ms=end, destination_mpid=other).status == 202
    caller.idsync.process_aliases()
    overlap = "the source was the source of an earlier alias with an overlapping time range"
    assert caller.states() == [("done", None), ("failed", overlap) if fails else ("done", None)]
    assert caller.profile(other)["notes"] == ([] if fails else [f"has the history of {caller.source}"])
    assert (caller.profile(other)["first_seen_ms"] == NOW_MS) is fails


def test_aliases_form_no_chains() -> None:
    """A destination is no later source, and a source no later destination."""
    caller = AliasCaller()
    third = caller.seed(customerid="C")
    caller.alias()
    caller.alias(source_mpid=caller.destination, destination_mpid=third)
    caller.alias(source_mpid=third, destination_mpid=caller.source)
    caller.idsync.process_aliases()
    assert caller.states() == [
        ("done", None),
        ("failed", "the source was the destination of an earlier alias"),
        ("failed", "the destination was the source of an earlier alias"),
    ]


def test_an_alias_that_failed_stands_in_nobodys_way() -> None:
    """Nothing was copied by it."""
    caller = AliasCaller()
    third, fourth = caller.seed(customerid="C"), caller.seed(customerid="D")
    caller.alias()
    caller.alias(source_mpid=caller.destination, destination_mpid=third)
    caller.alias(source_mpid=third, destination_mpid=fourth)
    caller.idsync.process_aliases()
    assert [state for state, _ in caller.states()] == ["done", "failed", "done"]


def test_several_sources_may_have_one_destination() -> None:
    """The first-seen date is that of the last; known users are no obstacle as a source."""
    caller = AliasCaller()
    known = caller.seed(customerid="B")
    caller.alias()
    caller.alias(source_mpid=known)
    caller.idsync.process_aliases()
    assert [state for state, _ in caller.states()] == ["done", "done"]
    assert caller.profile(caller.destination)["first_seen_ms"] == NOW_MS
    assert len(caller.profile(caller.destination)["notes"]) == 2


def test_only_what_is_due_is_processed_in_order() -> None:
    """A later request is judged by the earlier ones that were processed before it."""
    caller = AliasCaller()
    caller.alias()
    caller.idsync.set_clock(shift_ms=HOUR_MS)
    caller.alias(source_mpid=caller.destination, destination_mpid=caller.source)
    caller.idsync.set_clock(shift_ms=DAY_MS)
    assert [state for state, _ in caller.states()] == ["done", "pending"]
    caller.idsync.set_clock(shift_ms=DAY_MS + HOUR_MS)
    assert caller.states()[1] == ("failed", "the source was the destination of an earlier alias")


def test_an_alias_lives_on_every_store(database: str) -> None:
    """State, reason and date are kept, and written once."""
    caller = AliasCaller(database=database)
    third = caller.seed(customerid="C")
    caller.alias()
    caller.alias(source_mpid=caller.destination, destination_mpid=third)
    assert len(caller.idsync.process_aliases()) == 2
    assert [state for state, _ in caller.states()] == ["done", "failed"]
    assert caller.profile(caller.destination)["first_seen_ms"] == NOW_MS - 30 * DAY_MS
    caller.idsync.close()


def test_a_profile_that_is_gone_lets_its_alias_fail() -> None:
    """Where an administrator removed it in between, say."""
    caller = AliasCaller()
    caller.alias()
    with caller.idsync._store.transaction() as profiles:
        (alias,) = profiles.aliases()
        profiles.clear()
        profiles.record_alias(alias)
    caller.idsync.process_aliases()
    assert caller.states() == [("failed", "the source or the destination does not exist any more")]
