"""Faults on demand: every kind in process, on both transports, for sessions and for httpx."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from idsync_driver import KEY, Caller

from identity_session.exchange import Call, HTTPAnswer, HTTPRequest, SendError
from identity_session.idsync import LocalIDSync
from identity_session.idsync.faults import KINDS, Faults

BODY = b'{"environment":"production","known_identities":{"email":"ed"}}'
URL = "https://identity.mparticle.com/v1/"


def request(call: str = "identify") -> HTTPRequest:
    return HTTPRequest(URL + call, f"/v1/{call}", KEY, BODY, None)


def by_session(idsync: LocalIDSync, seconds: float) -> HTTPAnswer:
    return idsync.transport.send(request(), seconds)


def by_async_session(idsync: LocalIDSync, seconds: float) -> HTTPAnswer:
    return asyncio.run(idsync.async_transport.asend(request(), seconds))


def by_httpx(idsync: LocalIDSync, seconds: float) -> httpx.Response:
    with httpx.Client(transport=idsync.transport, timeout=seconds) as client:
        return client.post(URL + "identify", content=BODY, headers=KEY)


def by_async_httpx(idsync: LocalIDSync, seconds: float) -> httpx.Response:
    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=idsync.async_transport, timeout=seconds) as client:
            return await client.post(URL + "identify", content=BODY, headers=KEY)

    return asyncio.run(post())


WAYS = {"session": by_session, "async session": by_async_session, "httpx": by_httpx, "async httpx": by_async_httpx}
FAILURE: dict[Any, type[Exception]] = {by_session: SendError, by_async_session: SendError}


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def ask(request: pytest.FixtureRequest) -> Callable[[LocalIDSync, float], Any]:
    return request.param


def status(answer: Any) -> int:
    return answer.status if isinstance(answer, HTTPAnswer) else answer.status_code


def content(answer: Any) -> bytes:
    return answer.body if isinstance(answer, HTTPAnswer) else answer.content


def test_a_status_is_answered_and_nothing_written(ask: Any) -> None:
    """As often as asked for; then all is well again."""
    idsync = LocalIDSync()
    idsync.set_faults([{"endpoint": "identify", "times": 2, "status": 503, "retry_after": 7}])
    for _ in range(2):
        answer = ask(idsync, 30.0)
        assert (status(answer), answer.headers["retry-after"]) == (503, "7")
        assert json.loads(content(answer))["errors"][0]["code"] == "INTERNAL_ERROR"
    assert idsync.profiles() == []
    assert status(ask(idsync, 30.0)) == 200
    assert [(call["status"], call["created"]) for call in idsync.calls()] == [(503, False), (503, False), (200, True)]
    assert idsync.calls()[0]["reasons"] == ["A fault answers with status 503; nothing was done."]


@pytest.mark.parametrize(("when", "written"), [("before", 0), ("after", 1)])
def test_a_connection_is_dropped_before_or_after_the_write(ask: Any, when: str, written: int) -> None:
    """The caller cannot know which; a session is told that the request may have arrived."""
    idsync = LocalIDSync()
    idsync.set_faults([{"endpoint": "*", "times": 1, "drop": when}])
    with pytest.raises(FAILURE.get(ask, httpx.RemoteProtocolError)) as caught:
        ask(idsync, 30.0)
    assert getattr(caught.value, "sent", True) is True
    assert len(idsync.profiles()) == written
    (call,) = idsync.calls()
    assert (call["status"], call["created"]) == ((200, True) if written else (0, False))
    assert f"without an answer, {when} the call is done." in call["reasons"][0]


@pytest.mark.parametrize(("kind", "media"), [("garbage", "application/json"), ("html", "text/html")])
def test_a_body_that_is_no_json(ask: Any, kind: str, media: str) -> None:
    """A 200 all the same, as a broken proxy gives it."""
    idsync = LocalIDSync()
    idsync.set_faults([{"endpoint": "identify", kind: True}])
    answer = ask(idsync, 30.0)
    assert (status(answer), answer.headers["content-type"]) == (200, f"{media}; charset=utf-8")
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(content(answer))
    assert idsync.profiles() == []
    assert idsync.calls()[0]["reasons"] == [f"A fault answers with a body of {kind}; nothing was done."]


def test_an_answer_is_held_back(ask: Any) -> None:
    """The call is carried out."""
    idsync = LocalIDSync()
    idsync.set_faults([{"endpoint": "identify", "latency_ms": 120}])
    started = time.monotonic()
    assert status(ask(idsync, 5.0)) == 200
    assert time.monotonic() - started >= 0.12
    assert idsync.calls()[0]["reasons"][0] == "A fault holds the answer back for 120 ms."


def test_an_answer_that_comes_too_late_is_not_waited_for(ask: Any) -> None:
    """The wait ends with the caller's patience; what was asked is done."""
    idsync = LocalIDSync()
    idsync.set_faults([{"endpoint": "identify", "latency_ms": 3_600_000}])
    started = time.monotonic()
    with pytest.raises(FAILURE.get(ask, httpx.ReadTimeout)) as caught:
        ask(idsync, 0.1)
    assert 0.1 <= time.monotonic() - started < 60
    assert getattr(caught.value, "sent", True) is True
    assert len(idsync.profiles()) == 1


def test_a_caller_without_a_deadline_waits() -> None:
    """httpx takes None for no timeout at all."""
    idsync = LocalIDSync()
    idsync.set_faults([{"endpoint": "*", "latency_ms": 20}])
    with httpx.Client(transport=idsync.transport, timeout=None) as client:
        assert client.post(URL + "identify", content=BODY, headers=KEY).status_code == 200


@pytest.mark.parametrize("call", Call)
def test_a_fault_meets_its_endpoint_only(call: Call) -> None:
    """And "*" all of them; what is no call of the API is let through."""
    paths = {Call.MODIFY: "/v1/5/modify", Call.ALIAS: "/v1/identity/k/Alias"}
    for each in Call:
        caller = Caller()
        caller.idsync.set_faults([{"endpoint": str(call), "status": 418}])
        hit = caller.post(paths.get(each, f"/v1/{each}"), {}).status
        assert (hit == 418) is (each is call)
    caller.idsync.set_faults([{"endpoint": "*", "status": 418}])
    assert caller.post(paths.get(call, f"/v1/{call}"), {}).status == 418
    assert caller.post("/v1/nothing", {}).status == 404


@pytest.mark.parametrize(
    ("given_status", "call", "code"),
    [
        (429, "identify", "TOO_MANY_REQUESTS"),
        (400, "identify", "INVALID_DATA"),
        (500, "alias", "INTERNAL_ERROR"),
        (401, "identify", None),
        (403, "alias", None),
        (404, "modify", None),
        (204, "identify", None),
        (304, "identify", None),
    ],
)
def test_the_body_of_a_fault_is_that_of_its_status(given_status: int, call: str, code: str | None) -> None:
    """Empty where the real one is; flat for alias."""
    caller = Caller()
    caller.idsync.set_faults([{"endpoint": call, "status": given_status}])
    path = {"alias": "/v1/identity/k/Alias", "modify": "/v1/5/modify"}.get(call, f"/v1/{call}")
    answer = caller.post(path, {})
    assert answer.status == given_status
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "retry-after" not in answer.headers
    assert ("x-mp-rate-limit-exceeded" in answer.headers) is (given_status == 429)
    if code is None:
        assert answer.raw == b""
    else:
        assert (answer.body["code"] if call == "alias" else answer.error[0]) == code


def test_a_delay_and_a_failure_come_together() -> None:
    """Of each sort the first that fits; both count down."""
    faults = Faults()
    faults.replace(
        [
            {"endpoint": "*", "latency_ms": 5, "times": 2},
            {"endpoint": "login", "status": 500, "times": 1},
            {"endpoint": "login", "drop": "before"},
        ]
    )
    first, second, third = (faults.take(Call.LOGIN) for _ in range(3))
    assert (first.latency_ms, first.failing and first.failing.status) == (5, 500)
    assert (second.latency_ms, second.failing and second.failing.drop) == (5, "before")
    assert (third.latency_ms, third.failing and third.failing.drop) == (0, "before")
    assert faults.described() == [{"endpoint": "login", "drop": "before"}]
    assert faults.take(Call.IDENTIFY).failing is None


def test_faults_are_listed_with_what_is_left_and_replaced_as_a_whole() -> None:
    """An empty list ends the trouble; a reset does not."""
    caller = Caller()
    given_faults = [{"endpoint": "login", "times": 3, "status": 503}, {"endpoint": "*", "latency_ms": 0}]
    caller.idsync.set_faults(given_faults)
    caller.call("login", {"email": "ed"})
    caller.idsync.reset()
    assert caller.idsync.faults() == [{"endpoint": "login", "times": 2, "status": 503}, given_faults[1]]
    caller.idsync.set_faults([])
    assert caller.idsync.faults() == []
    assert caller.call("login", {"email": "ed"}).status == 200


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("login", "fault 2 is no object"),
        ({}, "endpoint must be one of identify, login, logout, modify, search, alias or \\*"),
        ({"endpoint": "signup", "status": 500}, "endpoint must be one of"),
        ({"endpoint": ["login"], "status": 500}, "endpoint must be one of"),
        ({"endpoint": "login"}, "exactly one of .* it has none"),
        ({"endpoint": "login", "status": 500, "garbage": True}, "it has status, garbage"),
        ({"endpoint": "login", "status": 99}, "a status from 200 to 599"),
        ({"endpoint": "login", "status": "500"}, "a status from 200 to 599"),
        ({"endpoint": "login", "status": True}, "a status from 200 to 599"),
        ({"endpoint": "login", "status": 500, "times": 0}, "times must be a whole number"),
        ({"endpoint": "login", "status": 500, "retry_after": -1}, "retry_after must be a whole number"),
        ({"endpoint": "login", "latency_ms": 5, "retry_after": 1}, "retry_after goes with status only"),
        ({"endpoint": "login", "latency_ms": -5}, "latency_ms must be a whole number of milliseconds"),
        ({"endpoint": "login", "latency_ms": 10**9}, "a day at most"),
        ({"endpoint": "login", "drop": "during"}, 'drop must be "before" or "after"'),
        ({"endpoint": "login", "garbage": False}, "garbage must be true"),
        ({"endpoint": "login", "html": 1}, "html must be true"),
        ({"endpoint": "login", "state": 500}, "unknown member 'state'; known: endpoint, times, status"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_with_the_reason(fault: Any, reason: str) -> None:
    """And those before it stay."""
    idsync = LocalIDSync()
    kept = [{"endpoint": "*", "status": 500}]
    idsync.set_faults(kept)
    with pytest.raises(ValueError, match=reason):
        idsync.set_faults([{"endpoint": "login", "html": True}, fault])
    assert idsync.faults() == kept


@pytest.mark.parametrize("given_faults", [{"endpoint": "*"}, "faults", None, 5])
def test_faults_are_a_list(given_faults: Any) -> None:
    """One fault alone is none."""
    with pytest.raises(ValueError, match="a list"):
        LocalIDSync().set_faults(given_faults)


VALUES = {
    "status": st.integers(200, 599),
    "latency_ms": st.integers(0, 1000),
    "drop": st.sampled_from(["before", "after"]),
    "garbage": st.just(True),
    "html": st.just(True),
}
FAULTS = st.lists(
    st.sampled_from(KINDS).flatmap(
        lambda kind: st.fixed_dictionaries(
            {"endpoint": st.sampled_from([*map(str, Call), "*"]), kind: VALUES[kind]},
            optional={"times": st.integers(1, 3)},
        )
    ),
    max_size=4,
)


@given(FAULTS, st.lists(st.sampled_from(Call), max_size=12))
def test_the_times_of_all_faults_are_used_up_exactly(given_faults: list[dict[str, Any]], calls: list[Call]) -> None:
    """Against a model that counts in plain lists."""
    faults, model = Faults(), [dict(fault) for fault in given_faults]
    faults.replace(given_faults)
    for call in calls:
        plan = faults.take(call)
        fitting = [fault for fault in model if fault["endpoint"] in (call, "*")]
        late = [fault for fault in fitting if "latency_ms" in fault][:1]
        failing = [fault for fault in fitting if "latency_ms" not in fault][:1]
        assert plan.latency_ms == (late[0]["latency_ms"] if late else 0)
        assert (plan.failing is not None) is bool(failing)
        for fault in (*late, *failing):
            if "times" in fault:
                fault["times"] -= 1
        model = [fault for fault in model if fault.get("times") != 0]
        assert faults.described() == model


def test_many_threads_use_up_a_fault_exactly() -> None:
    """No call too many, none too few."""
    caller = Caller()
    caller.idsync.set_faults([{"endpoint": "*", "status": 503, "times": 100}])
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda n: caller.call("identify", {"email": str(n)}).status, range(300)))
    assert statuses.count(503) == 100
    assert len(caller.store()) == 200
