"""Limits on how often one may call: off unless set, per key and per identity or MPID."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from idsync_driver import Answer, Caller

from identity_session.idsync import IdentityStrategy
from identity_session.idsync.refusals import TooManyRequestsError
from identity_session.idsync.throttle import BUCKETS_KEPT, Throttle


def limited(**settings: Any) -> Caller:
    caller = Caller(IdentityStrategy(**settings))
    caller.idsync.set_clock(fixed_ms=1_000_000)
    return caller


def identify(caller: Caller, email: str = "ed", key: str = "k") -> Answer:
    body = {"environment": "production", "known_identities": {"email": email}}
    return caller.post("/v1/identify", body, {"x-mp-key": key})


def test_without_limits_nobody_is_held_up_and_nothing_is_said_of_any() -> None:
    """That is how it is unless set."""
    caller = limited()
    answers = [identify(caller) for _ in range(50)]
    assert {answer.status for answer in answers} == {200}
    assert "x-mp-rate-limit-percentage-used" not in answers[-1].headers


def test_a_key_that_calls_too_often_is_answered_429() -> None:
    """With both headers and a code; other keys go on, and so does this one a little later."""
    caller = limited(key_rate_per_s=2)
    assert [identify(caller).status for _ in range(3)] == [200, 200, 429]
    refused = identify(caller)
    assert (refused.headers["retry-after"], refused.headers["x-mp-rate-limit-exceeded"]) == ("1", "app")
    assert refused.error == ("TOO_MANY_REQUESTS", "There are too many requests.")
    assert identify(caller, key="another").status == 200
    caller.idsync.set_clock(fixed_ms=1_000_500)
    assert [identify(caller).status for _ in range(2)] == [200, 429]
    assert [call["status"] for call in caller.idsync.calls()].count(429) == 3


def test_an_identity_that_is_called_for_too_often_is_answered_429() -> None:
    """One hot user does not hold up the others; nothing is written of a call that is held up."""
    caller = limited(hot_rate_per_s=0.1, hot_burst=2)
    assert [identify(caller, key=key).status for key in "abc"] == [200, 200, 429]
    assert identify(caller).headers["x-mp-rate-limit-exceeded"] == "workspace"
    assert identify(caller).headers["retry-after"] == "10"
    assert identify(caller, "henry").status == 200
    body = {"environment": "production", "known_identities": {"email": "ed", "other": "o"}}
    assert caller.post("/v1/identify", body).status == 429
    assert not any("other" in record for record in caller.store().values())


def test_an_mpid_that_is_modified_too_often_is_answered_429() -> None:
    """Whatever its identities are; alias requests count for their destination, and their answer is flat."""
    caller = limited(hot_rate_per_s=1)
    mpid, source = caller.seed(email="ed"), caller.seed(other="o")
    assert [caller.modify(mpid, ("other", None, value)).status for value in "ab"] == [200, 429]
    data = {"source_mpid": source, "destination_mpid": mpid}
    alias = {"request_type": "alias", "environment": "production", "api_key": "k", "data": data}
    answer = caller.post("/v1/identity/k/Alias", alias)
    assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (429, "TOO_MANY_REQUESTS", "1")
    caller.idsync.set_clock(fixed_ms=1_001_000)
    answer = caller.post("/v1/identity/k/Alias", alias)
    assert (answer.status, answer.headers["x-mp-rate-limit-percentage-used"]) == (202, "100")


def test_answers_say_how_much_of_the_fullest_limit_is_used() -> None:
    """In percent."""
    caller = limited(key_rate_per_s=1, key_burst=10, hot_rate_per_s=1, hot_burst=4)
    used = [identify(caller, email).headers["x-mp-rate-limit-percentage-used"] for email in ("a", "a", "b", "b", "c")]
    assert used == ["25", "50", "30", "50", "50"]


def waited(throttle: Throttle, name: str, now_ms: int) -> int | None:
    """The seconds that a call is told to wait; None if it is let through."""
    try:
        throttle.take([name], now_ms)
    except TooManyRequestsError as refusal:
        return refusal.retry_after_seconds
    return None


@given(
    rate=st.floats(0.01, 100),
    burst=st.integers(1, 5) | st.none(),
    steps=st.lists(st.tuples(st.integers(0, 3_000), st.sampled_from("ab")), max_size=30),
)
def test_no_more_calls_pass_than_the_limit_allows(rate: float, burst: int | None, steps: list[tuple[int, str]]) -> None:
    """In any span at most the burst and what the rate adds; and whoever waits as told is let through."""
    throttle, now_ms, passed = Throttle(rate, burst, "app"), 0, []
    held = burst or max(1, -int(-rate // 1))
    for step_ms, name in steps:
        now_ms += step_ms
        wait_seconds = waited(throttle, name, now_ms)
        if wait_seconds:
            now_ms += wait_seconds * 1000
            throttle.take([name], now_ms)
        assert wait_seconds is None or wait_seconds >= 1
        passed.append((now_ms, name))
    for number, (start_ms, name) in enumerate(passed):
        span = [at for at, other in passed[number:] if other == name]
        assert len(span) <= held + (span[-1] - start_ms) / 1000 * rate + 1e-6


def test_nothing_is_taken_where_one_bucket_is_empty() -> None:
    """A refused call costs the others nothing."""
    throttle = Throttle(1, 1, "app")
    throttle.take(["a"], 0)
    for _ in range(3):
        with pytest.raises(TooManyRequestsError):
            throttle.take(["b", "a"], 0)
    assert throttle.take(["b"], 0) == 100
    assert throttle.take([], 0) is not None


def test_a_clock_that_is_set_back_changes_nothing() -> None:
    """Neither adds tokens nor takes them."""
    throttle = Throttle(1, 2, "app")
    throttle.take(["a"], 100_000)
    throttle.take(["a"], 0)
    with pytest.raises(TooManyRequestsError):
        throttle.take(["a"], 0)


def test_whoever_waits_as_told_is_let_through_after_the_clock_was_set_back() -> None:
    """However far: the bucket fills from where the clock is."""
    throttle = Throttle(1, 1, "app")
    throttle.take(["a"], 100_000_000)
    assert waited(throttle, "a", 0) == 1
    assert waited(throttle, "a", 1_000) is None


def test_whoever_calls_all_the_time_is_not_forgotten() -> None:
    """However many others come meanwhile."""
    throttle = Throttle(0.001, 1, "app")
    throttle.take(["hot"], 0)
    for number in range(BUCKETS_KEPT + 10):
        throttle.take([number], 0)
        assert waited(throttle, "hot", 0) is not None


def test_no_more_buckets_are_kept_than_are_worth_it() -> None:
    """Memory does not grow with every identity ever seen."""
    throttle = Throttle(1, 1, "app")
    for number in range(BUCKETS_KEPT + 10):
        throttle.take([number], 0)
    assert len(throttle._buckets) == BUCKETS_KEPT
    throttle.take([0], 0)
