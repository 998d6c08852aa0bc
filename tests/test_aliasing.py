"""Alias requests: whom and which span of time they cover, and how they are sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from scripted import KEY, Clock, Scripted, lost, session, unreachable, user

from identity_session import AliasRequest, MemoryStorage
from identity_session.clock import from_ms

DAY = timedelta(days=1)


def two_users(clock: Clock, *answers: Any, **settings: Any) -> Any:
    """User 1 was current for an hour, then user 2 became current; an hour has passed since."""
    own = session(Scripted(user("1"), user("2"), *(answers or (202,))), now_ms=clock, **settings)
    own.start()
    clock.advance(minutes=60)
    own.login()
    clock.advance(minutes=60)
    return own


def test_the_span_goes_from_first_to_last_seen() -> None:
    clock = Clock()
    start = from_ms(clock())
    own = two_users(clock)
    request = own.create_alias_request(own.get_user("1"), own.current_user)
    assert request == AliasRequest(
        source_mpid="1", destination_mpid="2", start_time=start, end_time=start + timedelta(hours=1), scope="device"
    )


def test_an_mpid_in_place_of_a_user_is_refused_with_a_hint() -> None:
    own = two_users(Clock())
    for users in (("1", own.current_user), (own.current_user, "1")):
        with pytest.raises(TypeError, match="get_user"):
            own.create_alias_request(*users)


def test_the_current_user_was_last_seen_now() -> None:
    clock = Clock()
    own = two_users(clock)
    request = own.create_alias_request(own.current_user, own.get_user("1"), scope="mpid")
    assert (request.end_time, request.scope) == (from_ms(clock()), "mpid")


def test_the_start_is_moved_up_to_the_window() -> None:
    clock = Clock()
    own = two_users(clock, alias_max_window=timedelta(minutes=90))
    request = own.create_alias_request(own.get_user("1"), own.current_user)
    assert request.start_time == from_ms(clock()) - timedelta(minutes=90)


def test_a_source_outside_the_window_is_built_with_a_warning_and_refused_when_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    own = two_users(clock)
    clock.advance(days=100)
    request = own.create_alias_request(own.get_user("1"), own.current_user)
    assert request.end_time < request.start_time
    assert "alias window of 90 days" in caplog.text
    assert own.alias_users(request).http_code == -4


def test_a_source_never_seen_begins_with_the_earliest_user() -> None:
    clock = Clock()
    start = from_ms(clock())
    own = two_users(clock)
    stranger = own.get_user("1")
    stranger._mpid = "99"
    request = own.create_alias_request(stranger, own.current_user)
    assert (request.start_time, request.end_time) == (start, from_ms(clock()))


@pytest.mark.parametrize(("source", "destination"), [(None, "2"), ("1", None), (None, None)])
def test_a_missing_user_gives_none(source: str | None, destination: str | None) -> None:
    own = two_users(Clock())
    users = [mpid and own.get_user(mpid) for mpid in (source, destination)]
    assert own.create_alias_request(*users) is None


def test_the_request_as_it_is_sent() -> None:
    clock = Clock()
    start_ms = clock()
    own = two_users(clock, environment="development")
    result = own.alias_users(own.create_alias_request(own.get_user("1"), own.current_user))
    path, body = own._transport.requests[-1]
    body.pop("request_id")
    assert path == f"/v1/identity/{KEY}/Alias"
    assert body == {
        "request_type": "alias",
        "environment": "development",
        "api_key": KEY,
        "data": {
            "destination_mpid": "2",
            "source_mpid": "1",
            "start_unixtime_ms": start_ms,
            "end_unixtime_ms": start_ms + 3_600_000,
            "scope": "device",
            "device_application_stamp": own.device_id,
        },
    }
    assert (result.http_code, result.message, result.ok) == (202, None, True)


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (200, 200, None),
        (202, 202, None),
        ((202, {"message": "accepted"}), 202, None),
        ((400, {"code": "INVALID_DATA", "message": "why"}), 400, "why"),
        ((400, {"message": 5}), 400, None),
        ((400, "<html>"), 400, None),
        (403, 403, "the service answered with status 403"),
        (500, 500, "the service answered with status 500"),
        (lost(), -1, "scripted: answer lost"),
        (unreachable(), -1, "scripted: no connection"),
    ],
)
def test_the_result_tells_what_came(answer: Any, code: int, message: str | None) -> None:
    own = two_users(Clock(), answer)
    heard: list[Any] = []
    result = own.alias_users(own.create_alias_request(own.get_user("1"), own.current_user), heard.append)
    assert (result.http_code, result.httpCode, result.message) == (code, code, message)
    assert heard == [result]
    assert own.get_user("1") is not None


def test_start_and_end_may_be_equal() -> None:
    own = two_users(Clock())
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    request = AliasRequest(source_mpid="1", destination_mpid="2", start_time=moment, end_time=moment)
    assert own.alias_users(request).http_code == 202


def test_the_sdks_form_is_taken_with_times_in_milliseconds() -> None:
    own = two_users(Clock())
    form = {"sourceMpid": "1", "destinationMpid": "2", "startTime": 1000, "endTime": 2000.0, "scope": "mpid"}
    assert own.alias_users(form).http_code == 202
    data = own._transport.last["data"]
    assert (data["start_unixtime_ms"], data["end_unixtime_ms"], data["scope"]) == (1000, 2000, "mpid")


@pytest.mark.parametrize("time", [True, "2026-01-01", 1e300, float("nan"), float("inf"), -1e300])
def test_a_time_that_is_none_is_refused(time: Any) -> None:
    form = {"sourceMpid": "1", "destinationMpid": "2", "startTime": time, "endTime": 2000}
    assert two_users(Clock()).alias_users(form).http_code == -4


def test_a_naive_datetime_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="start_time has no time zone"):
        AliasRequest(
            source_mpid="1",
            destination_mpid="2",
            start_time=datetime(2026, 1, 1),
            end_time=datetime(2026, 1, 2, tzinfo=UTC),
        )


def test_other_time_zones_are_the_same_moment() -> None:
    own = two_users(Clock())
    zone = timezone(timedelta(hours=9))
    moment = datetime(2026, 1, 1, 9, tzinfo=zone)
    own.alias_users(AliasRequest(source_mpid="1", destination_mpid="2", start_time=moment, end_time=moment + DAY))
    assert own._transport.last["data"]["start_unixtime_ms"] == 1_767_225_600_000


def test_while_opted_out_nothing_is_sent() -> None:
    own = two_users(Clock())
    request = own.create_alias_request(own.get_user("1"), own.current_user)
    own.set_opt_out(True)
    assert own.alias_users(request).http_code == -6


def test_it_runs_beside_an_identity_call() -> None:
    codes = []

    def during(_: Any) -> dict[str, Any]:
        codes.append(own.alias_users(own.create_alias_request(own.get_user("1"), own.get_user("2"))).http_code)
        codes.append(own.search({"email": "a"}).http_code)
        return user("1")

    own = two_users(Clock(), during, 202, user("1"))
    own.logout()
    assert codes == [202, 200]


def test_users_of_another_run_can_be_aliased() -> None:
    clock, storage = Clock(), MemoryStorage()
    two_users(clock, storage=storage)
    again = session(Scripted(202), storage=storage, now_ms=clock)
    request = again.create_alias_request(again.get_user("1"), again.get_user("2"))
    assert again.alias_users(request).http_code == 202
