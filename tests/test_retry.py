"""When a call is made again, and after how long: as a table, and counted by a server."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import FRONTS, HOLD, RESET, Driven, RawServer, answers, http, opened, user_answer
from steady import SLACK_SECONDS, LateError, assert_within, steady

from identity_session import RetryPolicy
from identity_session.clock import monotonic
from identity_session.exchange import Call, NoReply, Reply
from identity_session.retry import may_repeat

AT_ONCE = RetryPolicy(initial_seconds=0.001, max_seconds=0.002)
SAFE_TWICE = [Call.IDENTIFY, Call.LOGIN, Call.MODIFY, Call.SEARCH]
ONCE_ONLY = [Call.LOGOUT, Call.ALIAS]
LOST = NoReply("lost", sent=True)
UNSENT = NoReply("no connection", sent=False)


# The table


@pytest.mark.parametrize("call", list(Call))
@pytest.mark.parametrize("outcome", [UNSENT, Reply(429), Reply(503)], ids=["no connection", "429", "503"])
def test_what_cannot_have_taken_effect_is_repeated_for_every_call(call: Call, outcome: Any) -> None:
    assert may_repeat(call, outcome)


@pytest.mark.parametrize("outcome", [LOST, Reply(500), Reply(502), Reply(504)], ids=["lost", "500", "502", "504"])
def test_what_may_have_taken_effect_is_repeated_where_twice_does_no_harm(outcome: Any) -> None:
    assert [call for call in Call if may_repeat(call, outcome)] == SAFE_TWICE


@pytest.mark.parametrize("call", list(Call))
@pytest.mark.parametrize(
    "status", [100, 200, 202, 204, 301, 307, 399, 400, 401, 403, 404, 408, 409, 413, 425, 428, 499]
)
def test_no_other_answer_is_repeated_for_any_call(call: Call, status: int) -> None:
    assert not may_repeat(call, Reply(status))
    assert RetryPolicy().wait_seconds(call, 1, Reply(status, retry_after_seconds=1.0), 0.5) is None


# The waits


def waits(policy: RetryPolicy, outcome: Any, chance: float, call: Call = Call.LOGIN) -> list[float | None]:
    return [policy.wait_seconds(call, attempt, outcome, chance) for attempt in range(1, policy.attempts + 1)]


def test_there_are_at_least_three_attempts_by_default() -> None:
    assert RetryPolicy().attempts >= 3
    assert [wait is None for wait in waits(RetryPolicy(attempts=3), Reply(503), 1.0)] == [False, False, True]


def test_the_backoff_doubles_up_to_its_bound() -> None:
    policy = RetryPolicy(attempts=6, initial_seconds=0.5, max_seconds=3.0)
    assert waits(policy, LOST, 1.0) == [0.5, 1.0, 2.0, 3.0, 3.0, None]


def test_a_wait_is_drawn_from_zero_to_the_whole_backoff() -> None:
    policy = RetryPolicy(attempts=3, initial_seconds=0.5, max_seconds=3.0)
    assert waits(policy, LOST, 0.0) == [0.0, 0.0, None]
    assert waits(policy, LOST, 0.5) == [0.25, 0.5, None]


def test_a_policy_of_one_attempt_never_waits() -> None:
    assert waits(RetryPolicy(attempts=1), UNSENT, 0.5) == [None]


def test_retry_after_is_honoured_with_a_little_jitter_on_top() -> None:
    policy = RetryPolicy(attempts=5, initial_seconds=0.5, max_seconds=8.0)
    assert waits(policy, Reply(429, retry_after_seconds=7.0), 0.0) == [7.0, 7.0, 7.0, 7.0, None]
    assert waits(policy, Reply(429, retry_after_seconds=7.0), 1.0) == [7.5, 7.5, 7.5, 7.5, None]


@given(
    st.integers(1, 5000),
    st.floats(0, 1e300),
    st.floats(0, 1e300),
    st.floats(0, 1),
    st.none() | st.floats(0, allow_infinity=True, allow_nan=False),
)
def test_a_wait_is_never_shorter_than_asked_nor_longer_than_the_bound_on_top(
    attempt: int, initial: float, longest: float, chance: float, asked: float | None
) -> None:
    policy = RetryPolicy(attempts=5001, initial_seconds=initial, max_seconds=longest)
    wait = policy.wait_seconds(Call.LOGOUT, attempt, Reply(503, retry_after_seconds=asked), chance)
    assert wait is not None
    assert (asked or 0) <= wait <= (asked or 0) + min(longest, initial * 2.0 ** min(attempt - 1, 1000))


def test_a_policy_of_thousands_of_attempts_does_not_overflow() -> None:
    policy = RetryPolicy(attempts=10_000, initial_seconds=0, max_seconds=0)
    assert policy.wait_seconds(Call.LOGIN, 5_000, LOST, 1.0) == 0.0


@pytest.mark.parametrize("attempts", [0, -1, 1.5, "3", None, True])
def test_a_number_of_attempts_that_makes_no_sense_is_refused(attempts: Any) -> None:
    with pytest.raises(ValueError, match="attempts must be a whole number of at least 1"):
        RetryPolicy(attempts=attempts)


@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan])
@pytest.mark.parametrize("name", ["initial_seconds", "max_seconds"])
def test_a_backoff_that_makes_no_sense_is_refused(name: str, seconds: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        RetryPolicy(**{name: seconds})


# The whole session, counted by a server

USER = http(200, user_answer())


def started(driven: Driven) -> Driven:
    assert driven.start().http_code == 200
    return driven


def make(driven: Driven, call: str) -> int:
    identities = {"email": "a@example.com"}
    if call == "search":
        return driven.search(identities).http_code
    if call == "alias":
        request = {"sourceMpid": "1", "destinationMpid": "2", "startTime": 1000, "endTime": 2000}
        return driven.alias_users(request).http_code
    return getattr(driven, call)({"userIdentities": identities}).http_code


EVERY_CALL = [str(call) for call in Call]


@FRONTS
@pytest.mark.parametrize("call", EVERY_CALL)
@pytest.mark.parametrize("status", [429, 503])
def test_a_throttled_call_is_made_again_until_it_is_answered(front: str, call: str, status: int) -> None:
    script = answers(USER, http(status), http(status), http(200, user_answer()))
    with RawServer(script) as server, opened(front, base_url=server.url, retry=AT_ONCE) as driven:
        assert make(started(driven), call) == 200
        assert len(server.requests) == 4
        assert len({request.body for request in server.requests[1:]}) == 1, "the same request, not a new one"


@FRONTS
@pytest.mark.parametrize("call", EVERY_CALL)
@pytest.mark.parametrize("fault", ["reset", "silent end", "500"])
def test_a_lost_answer_is_asked_for_again_but_never_with_logout_or_alias(front: str, call: str, fault: str) -> None:
    steps = {"reset": [RESET], "silent end": [], "500": [http(500, connection="close")]}[fault]
    first = [http(200, user_answer(), connection="close")]
    with RawServer(first, steps, answers(USER)) as server, opened(front, base_url=server.url, retry=AT_ONCE) as driven:
        code = make(started(driven), call)
        if call in ONCE_ONLY:
            assert code == (500 if fault == "500" else -1)
            assert len(server.requests) == 2
        else:
            assert code == 200
            assert len(server.requests) == 3


@FRONTS
@pytest.mark.parametrize("call", EVERY_CALL)
def test_a_refusal_is_taken_for_an_answer_at_once(front: str, call: str) -> None:
    refusals = [302, 400, 401, 403, 404, 413]
    script = answers(USER, *(http(status, retry_after=0) for status in refusals))
    with RawServer(script) as server, opened(front, base_url=server.url, retry=AT_ONCE) as driven:
        started(driven)
        assert [make(driven, call) for _ in refusals] == refusals
        assert len(server.requests) == 1 + len(refusals)


@FRONTS
def test_by_default_at_least_three_attempts_are_made_and_then_the_last_answer_counts(front: str) -> None:
    script = answers(http(503, {"message": "busy"}, retry_after=0))
    with RawServer(script) as server, opened(front, base_url=server.url, timeout=20) as driven:
        result = driven.login()
        assert (result.http_code, result.body) == (503, {"message": "busy"})
        assert len(server.requests) >= 3


@FRONTS
@pytest.mark.parametrize("call", EVERY_CALL)
def test_without_a_policy_there_is_exactly_one_attempt(front: str, call: str) -> None:
    with RawServer(answers(USER, http(503))) as server, opened(front, base_url=server.url, retry=None) as driven:
        assert make(started(driven), call) == 503
        assert len(server.requests) == 2


@FRONTS
@pytest.mark.parametrize("retry_after", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT", "9" * 400])
@steady
def test_when_retry_after_ends_past_the_deadline_the_answer_in_hand_is_returned_at_once(
    front: str, retry_after: str
) -> None:
    script = answers(http(429, {"message": "slow down"}, retry_after=retry_after))
    with RawServer(script) as server, opened(front, base_url=server.url, timeout=20) as driven:
        began = monotonic()
        result = driven.login()
        assert (result.http_code, result.body) == (429, {"message": "slow down"})
        assert_within(monotonic() - began, 5)
        assert len(server.requests) == 1


@pytest.mark.parametrize(("front", "retry_after"), [("sync", "Wed, 21 Oct 2015 07:28:01 GMT"), ("async", "1")])
def test_the_wait_that_retry_after_asks_for_is_waited(front: str, retry_after: str) -> None:
    refusal = http(429, retry_after=retry_after, date="Wed, 21 Oct 2015 07:28:00 GMT")
    with RawServer(answers(refusal, USER)) as server, opened(front, base_url=server.url) as driven:
        began = monotonic()
        assert driven.login().http_code == 200
        assert monotonic() - began >= 1.0


@FRONTS
@steady
def test_the_deadline_covers_all_attempts(front: str) -> None:
    policy = RetryPolicy(attempts=1000, initial_seconds=0.05, max_seconds=0.05)
    with (
        RawServer(answers(http(503))) as server,
        opened(front, base_url=server.url, retry=policy, timeout=0.6) as driven,
    ):
        began = monotonic()
        assert driven.login().http_code in (503, -1)
        assert_within(monotonic() - began, 0.6 + SLACK_SECONDS)
        if len(server.requests) <= 3:
            raise LateError(f"{len(server.requests)} attempts in 0.6 s")


@FRONTS
@steady
def test_an_attempt_that_hangs_uses_up_the_time_of_those_after_it(front: str) -> None:
    with RawServer([HOLD]) as server, opened(front, base_url=server.url, timeout=0.5) as driven:
        began = monotonic()
        assert driven.identify().http_code == -1
        assert_within(monotonic() - began, 0.5 + SLACK_SECONDS)
        if not server.requests:
            raise LateError("the time was over before the request was sent")
        assert len(server.requests) == 1


@FRONTS
def test_every_attempt_is_signed_anew(front: str) -> None:
    clock = iter(range(1_700_000_000_000, 1_800_000_000_000, 1000))
    with (
        RawServer(answers(http(503), USER)) as server,
        opened(front, "key", "secret", base_url=server.url, retry=AT_ONCE, now_ms=lambda: next(clock)) as driven,
    ):
        assert driven.login().http_code == 200
        first, second = (request.headers for request in server.requests)
        assert first["date"] != second["date"]
        assert first["x-mp-signature"] != second["x-mp-signature"]


@FRONTS
def test_a_call_that_took_two_attempts_is_told_once(front: str) -> None:
    seen: list[int] = []
    with (
        RawServer(answers(http(503, retry_after=0), USER)) as server,
        opened(front, base_url=server.url, retry=AT_ONCE) as driven,
    ):
        driven.on_user_identified(lambda user, previous: seen.append(1))
        assert driven.login().http_code == 200
        assert seen == [1], "two attempts are one call, and its news is told once"
