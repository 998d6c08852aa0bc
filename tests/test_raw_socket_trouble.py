"""Whole sessions against a scripted server on a raw socket: answers that do not come, come without end, or break."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from broken_answers import BROKEN
from freezegun import freeze_time
from raw_journeys import EMAIL, KEY, LOGIN, SECRET, USER
from servers import FRONTS, HOLD, Handler, Peer, RawServer, answers, http, opened, user_answer
from steady import SLACK_SECONDS, LateError, assert_within, steady

from identity_session import HTTPCodes, RetryPolicy
from identity_session.clock import monotonic
from identity_session.testing.faults import behaviours

# Answers that do not come


def never_ending(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[")
    while True:
        peer.send(b" " * 65536)


@FRONTS
@pytest.mark.parametrize("handler", [lambda peer: peer.wait(30), Peer.sip], ids=["not at all", "in sips"])
@steady
def test_the_deadline_holds_while_a_large_request_is_hardly_taken_in(front: str, handler: Handler) -> None:
    with (
        RawServer(handler, receive_buffer=65536) as server,
        opened(front, base_url=server.url, timeout=0.4) as driven,
    ):
        began = monotonic()
        assert driven.login({"userIdentities": {"email": "x" * 20_000_000}}).http_code == -1
        assert_within(monotonic() - began, 0.4 + SLACK_SECONDS + 0.5)  # spelling 20 MB as JSON takes its time too


@FRONTS
@steady
def test_a_body_without_end_is_given_up_at_its_bound(front: str) -> None:
    with RawServer(never_ending) as server, opened(front, base_url=server.url, timeout=20) as driven:
        began = monotonic()
        result = driven.login(LOGIN)
        assert_within(monotonic() - began, 5)
        assert (result.http_code, result.body) == (-1, "the answer (status 200) is not a JSON object of at most 1 MiB")


@FRONTS
def test_an_error_with_a_body_that_is_too_large_keeps_its_status(front: str) -> None:
    big = http(400, {"x": "y" * (5 << 20)})
    with RawServer(answers(big)) as server, opened(front, base_url=server.url) as driven:
        result = driven.login(LOGIN)
        assert (result.http_code, result.body) == (400, None)


@FRONTS
def test_an_answer_of_just_under_a_mebibyte_is_read(front: str) -> None:
    answer = http(200, user_answer(filler="y" * (1024 * 1024 - 200)))
    with RawServer(answers(answer)) as server, opened(front, base_url=server.url) as driven:
        assert driven.login(LOGIN).http_code == 200


FROZEN = pytest.mark.parametrize(
    ("front", "how"),
    [("sync", {}), ("async", {}), ("async", {"real_asyncio": True})],
    ids=["sync", "async", "async, but not asyncio itself"],
)


@FROZEN
@pytest.mark.parametrize("fault", ["silence", "drip"])
@steady
def test_the_deadline_holds_under_freezegun(front: str, how: dict[str, bool], fault: str) -> None:
    handler = {"silence": [HOLD], "drip": behaviours.endless_body()}[fault]
    with (
        freeze_time("2024-02-29 12:00:00", **how),
        RawServer(handler) as server,
        opened(front, base_url=server.url, timeout=0.3) as driven,
    ):
        began = monotonic()
        assert driven.login(LOGIN).http_code == -1
        assert_within(monotonic() - began, 0.3 + SLACK_SECONDS)
        if not server.requests:
            raise LateError("the time was over before the request was sent")
        assert server.requests[0].json["request_timestamp_ms"] == 1_709_208_000_000


@FROZEN
def test_calls_and_the_waits_between_attempts_work_under_freezegun(front: str, how: dict[str, bool]) -> None:
    script = answers(http(503), http(429), USER)
    policy = RetryPolicy(initial_seconds=0.05)
    with (
        freeze_time("2024-02-29 12:00:00", **how),
        RawServer(script) as server,
        opened(front, KEY, SECRET, base_url=server.url, retry=policy) as driven,
    ):
        assert driven.start().http_code == 200
        assert driven.login(LOGIN).http_code == 200
    assert {request.headers["date"] for request in server.requests} == {"20240229T120000Z"}
    assert len(server.requests) == 4


# Answers that break


@FRONTS
@pytest.mark.parametrize("handler", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_is_no_answer_and_the_next_call_works(front: str, handler: Handler) -> None:
    with (
        RawServer(handler, answers(USER)) as server,
        opened(front, KEY, base_url=server.url, retry=None) as driven,
    ):
        result = driven.login(LOGIN)
        assert result.http_code == HTTPCodes.NO_HTTP_COVERAGE
        assert isinstance(result.body, str)
        assert KEY not in result.body
        assert EMAIL not in result.body
        assert result.get_user() is None
        assert driven.login(LOGIN).http_code == 200
        assert server.connections == 2


@FRONTS
def test_nobody_listening_is_no_coverage(front: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with opened(front, base_url=url, retry=RetryPolicy(initial_seconds=0)) as driven:
            result = driven.login(LOGIN)
    assert result.http_code == -1
    assert result.body.startswith("no connection to the service")


@FRONTS
@pytest.mark.parametrize("host", ["something.invalid", "a" * 64 + ".invalid", "a..b.invalid", "-"])
@steady
def test_a_host_name_that_nobody_knows_is_no_coverage(front: str, host: str) -> None:
    with opened(front, base_url=f"https://{host}/v1", retry=None, timeout=2) as driven:
        began = monotonic()
        result = driven.login(LOGIN)
        assert_within(monotonic() - began, 2 + SLACK_SECONDS)
        assert result.http_code == -1


# Who hears of it


@FRONTS
def test_callbacks_and_listeners_hear_of_failures_as_they_should(front: str) -> None:
    heard: list[Any] = []
    with RawServer([]) as server, opened(front, base_url=server.url, retry=None) as driven:
        driven.on_user_identified(lambda user, previous: heard.append("listener"))
        driven.login(LOGIN, lambda result: heard.append(result.http_code))
    assert heard == [-1], "the callback hears of it, once; no user was identified"
