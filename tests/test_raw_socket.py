"""Whole sessions against a scripted server on a raw socket: the bytes on the wire, and every way an answer can fail."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from servers import (
    FRONTS,
    HOLD,
    MPID,
    RESET,
    Driven,
    Handler,
    Peer,
    RawServer,
    answers,
    http,
    opened,
    user_answer,
)
from steady import SLACK_SECONDS, steady

from identity_session import (
    AsyncIdentitySession,
    HTTPCodes,
    IdentityRequest,
    IdentitySession,
    JsonStorage,
    MemoryStorage,
    RetryPolicy,
    network,
)
from identity_session.clock import monotonic, pause
from identity_session.signing import basic_authorization, signature
from identity_session.testing.faults import behaviours
from identity_session.version import __version__

KEY, SECRET = "us1-k3y", "s3cret"
EMAIL = "higgs@example.com"
USER = http(200, user_answer())
LOGIN = {"userIdentities": {"email": EMAIL}}


def play_journey(driven: Driven) -> list[int]:
    """Start, login, modify, logout, search and alias; the code of each."""
    alias = {"sourceMpid": "1", "destinationMpid": "2", "startTime": 1000, "endTime": 2000, "scope": "mpid"}
    return [
        driven.start().http_code,
        driven.login({"userIdentities": {"email": EMAIL, "customerid": "1"}}).http_code,
        driven.modify({"userIdentities": {"email": "new@example.com", "customerid": None}}).http_code,
        driven.logout().http_code,
        driven.search({"email": EMAIL}).http_code,
        driven.alias_users(alias).http_code,
    ]


JOURNEY = answers(
    http(200, user_answer("1", context="c1")),
    http(200, user_answer("22", context="c2", is_logged_in=True)),
    http(200, {}),
    http(200, user_answer("333", context="c3")),
    http(404, {"errors": [{"code": "NOT_FOUND_ERROR", "message": ""}]}),
    http(202),
)


# The bytes of a journey


@FRONTS
def test_the_bytes_of_a_whole_journey(front: str) -> None:
    ids = iter(f"id-{n}" for n in range(100))
    with (
        RawServer(JOURNEY) as server,
        opened(
            front,
            KEY,
            base_url=server.url,
            environment="development",
            platform="web",
            device_id="stamp",
            now_ms=lambda: 1_700_000_000_000,
            new_id=lambda: next(ids),
        ) as driven,
    ):
        assert play_journey(driven) == [200, 200, 200, 200, 404, 202]
        assert driven.mpid == "333"

    client_sdk = {"platform": "web", "sdk_vendor": "mparticle", "sdk_version": __version__}
    common = {"client_sdk": client_sdk, "environment": "development", "request_timestamp_ms": 1_700_000_000_000}
    stamp = {"device_application_stamp": "stamp"}
    known = {"email": EMAIL, "customerid": "1"}
    changes = [
        {"old_value": EMAIL, "new_value": "new@example.com", "identity_type": "email"},
        {"old_value": "1", "new_value": None, "identity_type": "customerid"},
    ]
    data = {
        "destination_mpid": "2",
        "source_mpid": "1",
        "start_unixtime_ms": 1000,
        "end_unixtime_ms": 2000,
        "scope": "mpid",
        **stamp,
    }
    expected = [
        ("/v1/identify", {**common, "context": None, "previous_mpid": None, "known_identities": stamp}),
        ("/v1/login", {**common, "context": "c1", "previous_mpid": "1", "known_identities": {**known, **stamp}}),
        ("/v1/22/modify", {**common, "context": "c2", "identity_changes": changes}),
        ("/v1/logout", {**common, "context": "c2", "previous_mpid": "22", "known_identities": stamp}),
        ("/v1/search", {**common, "known_identities": {"email": EMAIL}}),
        (
            f"/v1/identity/{KEY}/Alias",
            {"request_type": "alias", "environment": "development", "api_key": KEY, "data": data},
        ),
    ]
    sent = [(request.target, request.json) for request in server.requests]
    request_ids = [body.pop("request_id") for _, body in sent]
    assert sent == expected
    assert len(set(request_ids)) == 6
    assert server.connections == 1, "one connection serves all calls"
    for request in server.requests:
        headers = request.headers
        assert request.method == "POST"
        assert headers.pop("content-length") == str(len(request.body))
        assert headers.pop("x-mp-key", None) == (None if request.target.endswith("Alias") else KEY)
        assert headers == {
            "host": f"127.0.0.1:{server.port}",
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": f"identity_session/{__version__}",
        }


@FRONTS
def test_with_a_secret_every_request_of_a_journey_carries_a_signature_that_verifies(front: str) -> None:
    with RawServer(JOURNEY) as server, opened(front, KEY, SECRET, base_url=server.url) as driven:
        assert play_journey(driven) == [200, 200, 200, 200, 404, 202]
    assert len(server.requests) == 6
    for request in server.requests:
        headers = request.headers
        assert headers["x-mp-key"] == KEY
        assert headers["x-mp-signature"] == signature(SECRET, "POST", headers["date"], request.target, request.body)
        assert abs(datetime.strptime(headers["date"], "%Y%m%dT%H%M%S%z") - datetime.now(UTC)).total_seconds() < 60
        assert SECRET.encode() not in request.raw


@FRONTS
def test_with_basic_every_request_of_a_journey_carries_key_and_secret_in_one_header(front: str) -> None:
    with RawServer(JOURNEY) as server, opened(front, KEY, SECRET, base_url=server.url, auth="basic") as driven:
        assert play_journey(driven) == [200, 200, 200, 200, 404, 202]
    assert len(server.requests) == 6
    for request in server.requests:
        assert request.headers["authorization"] == basic_authorization(KEY, SECRET)
        assert "x-mp-key" not in request.headers
        assert "x-mp-signature" not in request.headers


@FRONTS
@pytest.mark.parametrize("mpid", [".", "..", "../../x", "a/b", "a?b#c", "%2e%2e", "ü", "//evil.example/x"])
def test_an_mpid_that_would_be_a_way_elsewhere_stays_in_its_place(front: str, mpid: str) -> None:
    with (
        RawServer(answers(http(200, user_answer(mpid)))) as server,
        opened(front, KEY, SECRET, base_url=server.url) as driven,
    ):
        driven.start()
        assert driven.mpid == mpid
        driven.modify(LOGIN)
        request = server.requests[1]
        assert request.target.startswith("/v1/")
        assert request.target.endswith("/modify")
        segment = request.target.removeprefix("/v1/").removesuffix("/modify")
        assert segment not in (".", "..")
        assert not set("/?#") & set(segment)
        headers = request.headers
        assert headers["x-mp-signature"] == signature(SECRET, "POST", headers["date"], request.target, request.body)


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
        assert monotonic() - began < 0.4 + SLACK_SECONDS + 0.5  # spelling 20 MB as JSON takes its time too


@FRONTS
@steady
def test_a_body_without_end_is_given_up_at_its_bound(front: str) -> None:
    with RawServer(never_ending) as server, opened(front, base_url=server.url, timeout=20) as driven:
        began = monotonic()
        result = driven.login(LOGIN)
        assert monotonic() - began < 5
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
        assert monotonic() - began < 0.3 + SLACK_SECONDS
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


BROKEN: dict[str, Handler] = {
    "reset before the answer": [RESET],
    "reset in the status line": [b"HTTP/1.1 2", RESET],
    "reset in mid-body": [USER[:-10], RESET],
    "closed before the answer": [],
    "closed in the status line": [b"HTTP/1.1 2"],
    "closed in the headers": [b"HTTP/1.1 200 OK\r\nx-a: b\r\n"],
    "closed in mid-body": [USER[:-10]],
    "closed in mid-chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n50\r\n{"],
    "closed at once": lambda peer: None,
    "not HTTP": [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
    "nonsense": [bytes(range(256)) * 10],
    "TLS alert": [b"\x15\x03\x01\x00\x02\x02\x46"],
    "a status that is no number": [b"HTTP/1.1 abc OK\r\n\r\n"],
    "a length that is no number": [b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}"],
    "a negative length": [b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{}"],
    "two lengths": [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"],
    "a length that is too long": [http(200, {}, content_length=500)],
    "a length beyond all bounds": [b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n{}"],
    "an encoding nobody knows": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n{}"],
    "a chunk that is none": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
    "a negative chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n"],
    "a chunk beyond all bounds": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 25 + b"\r\n{}"],
    "NUL in a header": [b"HTTP/1.1 200 OK\r\nx-a: \0\r\ncontent-length: 2\r\n\r\n{}"],
    "a header without a name": [b"HTTP/1.1 200 OK\r\n: b\r\ncontent-length: 2\r\n\r\n{}"],
    "HTTP/0.9": [b'{"mpid": "1"}'],
    "HTTP/2": [b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64\0\4\0\0\xff\xff\0\5\0\0\x40\0"],
    "the preface of HTTP/2": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    "an upgrade nobody asked for": [http(101, b"", content_length=None, connection="upgrade", upgrade="h2c")],
    "headers of a megabyte": [b"HTTP/1.1 200 OK\r\nx-a: " + b"b" * (1 << 20)],
}


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
        assert monotonic() - began < 2 + SLACK_SECONDS
        assert result.http_code == -1


# Answers of every kind


PACKED = {"gzip": gzip.compress, "x-gzip": gzip.compress, "GZIP": gzip.compress, "deflate": zlib.compress}


@FRONTS
@pytest.mark.parametrize("encoding", PACKED)
def test_a_compressed_answer_is_read_although_none_was_asked_for(front: str, encoding: str) -> None:
    body = PACKED[encoding](json.dumps(user_answer()).encode())
    with (
        RawServer(answers(http(200, body, content_encoding=encoding))) as server,
        opened(front, base_url=server.url) as driven,
    ):
        assert driven.login(LOGIN).http_code == 200
        assert driven.mpid == MPID


@pytest.fixture(scope="module")
def bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    piece = bytes(1 << 20)
    return b"".join([packer.compress(piece) for _ in range(128)]) + packer.flush()


@FRONTS
def test_a_gzip_bomb_does_not_go_off(front: str, bomb: bytes) -> None:
    script = answers(USER, http(200, bomb, content_encoding="gzip"))
    with RawServer(script) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        tracemalloc.start()
        try:
            result = driven.login(LOGIN)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (result.http_code, result.body) == (-1, "the answer (status 200) is not a JSON object of at most 1 MiB")
    assert peak < 6 << 20, "of 128 MiB"


UNREADABLE: dict[str, bytes] = {
    "declared gzip that is none": http(200, b'{"mpid": "1"}', content_encoding="gzip"),
    "gzip cut short": http(200, gzip.compress(json.dumps(user_answer()).encode())[:40], content_encoding="gzip"),
    "another compression": http(200, b"\x8b\x02\x80{}", content_encoding="br"),
    "HTML": http(200, b"<html>Sign in to this network</html>", content_type="text/html"),
    "empty": http(200),
    "null": http(200, None),
    "a list": http(200, [user_answer()]),
    "a text": http(200, "mpid"),
    "a number": http(200, 2),
    "cut short": http(200, b'{"mpid": "2"'),
    "two objects": http(200, b'{"mpid": "2"}{"mpid": "3"}'),
    "NaN": http(200, b'{"mpid": "2", "a": NaN}'),
    "Infinity": http(200, b'{"mpid": "2", "a": -Infinity}'),
    "a number of 5,000 digits": http(200, b'{"mpid": "2", "a": ' + b"9" * 5000 + b"}"),
    "nested too deep": http(200, b'{"a":' * 100_000),
    "nested too deep, and complete": http(200, b'{"mpid": "2", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "not UTF-8": http(200, b'{"mpid": "\xff"}'),
}


@FRONTS
@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_200_that_is_no_json_object_is_no_answer_for_any_call(front: str, answer: bytes) -> None:
    first = [http(200, user_answer(), connection="close")]
    with RawServer(first, answers(answer)) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        results = [getattr(driven, call)(LOGIN) for call in ("identify", "login", "logout", "modify", "search")]
        for result in results:
            assert (result.http_code, result.body) == (
                -1,
                "the answer (status 200) is not a JSON object of at most 1 MiB",
            )
        assert driven.mpid == MPID
        assert driven.current_user.identities == {}
        assert len(server.requests) == 6, "an answer came; it is not asked for again"


@FRONTS
@pytest.mark.parametrize("mpid", [None, 0, "0", "", True, 1.5, [], "absent"])
def test_a_200_that_names_no_user_is_no_answer_to_who_the_user_is(front: str, mpid: object) -> None:
    body = user_answer(mpid)
    if mpid == "absent":
        del body["mpid"]
    with RawServer(answers(USER, http(200, body))) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        for result in (driven.identify(LOGIN), driven.login(LOGIN), driven.logout(LOGIN)):
            assert (result.http_code, result.body) == (-1, "the answer (status 200) names no user")
        assert driven.mpid == MPID
        assert driven.current_user.identities == {}


@FRONTS
def test_a_modify_or_search_may_be_answered_without_naming_a_user(front: str) -> None:
    with RawServer(answers(USER, http(200, {}))) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        assert driven.modify(LOGIN).http_code == 200
        assert driven.search({"email": EMAIL}).http_code == 200


@FRONTS
@pytest.mark.parametrize("sent", [9007199254740993, 9223372036854775807, -9223372036854775808])
def test_an_mpid_sent_as_a_number_is_kept_to_the_last_digit_and_sent_back_as_text(front: str, sent: int) -> None:
    with RawServer(answers(http(200, user_answer(sent)))) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        assert driven.mpid == str(sent)
        driven.login()
        assert server.requests[1].json["previous_mpid"] == str(sent)


STATUSES = [201, 204, 206, 300, 304, 400, 401, 403, 404, 410, 418, 429, 500, 502, 503, 599]


@FRONTS
@pytest.mark.parametrize("status", STATUSES)
def test_every_other_status_is_the_code_of_the_result_and_changes_no_user(front: str, status: int) -> None:
    body = {"mpid": "666", "is_logged_in": True, "context": "evil", "message": "why"}
    bodies = [b""] if status in (204, 304) else [body, b"<html>"]  # these two never have one
    script = answers(USER, *(http(status, each) for each in bodies for _ in range(4)))
    with RawServer(script) as server, opened(front, base_url=server.url, retry=None) as driven:
        driven.start()
        for each in bodies:
            for call in ("login", "logout", "modify", "search"):
                result = getattr(driven, call)(LOGIN)
                assert (result.http_code, result.body) == (status, each if isinstance(each, dict) else None)
        assert (driven.mpid, driven.context) == (MPID, None)
        assert not driven.current_user.is_logged_in
        assert driven.current_user.identities == {}


@FRONTS
def test_a_202_is_reported_and_switches_no_user(front: str) -> None:
    script = answers(USER, http(202, user_answer("666", is_logged_in=True)), http(202, b"<html>"))
    with RawServer(script) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        assert driven.login(LOGIN).http_code == 202
        assert driven.mpid == MPID
        assert driven.login(LOGIN).http_code == -1


@FRONTS
@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (http(200), 200, None),
        (http(202), 202, None),
        (http(202, b"<html>"), 202, None),
        (http(400, {"message": "why", "code": "INVALID_DATA"}), 400, "why"),
        (http(400, b"<html>"), 400, None),
        (http(403), 403, "the service answered with status 403"),
        (http(404, {"message": "why"}), 404, "the service answered with status 404"),
        (http(302, location="/x"), 302, "the service answered with status 302"),
        (http(500), 500, "the service answered with status 500"),
    ],
)
def test_an_alias_result_has_the_status_and_says_why_not(
    front: str, answer: bytes, code: int, message: str | None
) -> None:
    alias = {"sourceMpid": "1", "destinationMpid": "2", "startTime": 1000, "endTime": 2000}
    with RawServer(answers(answer)) as server, opened(front, base_url=server.url, retry=None) as driven:
        result = driven.alias_users(alias)
        assert (result.http_code, result.message) == (code, message)


def test_an_answer_of_http_1_0_is_as_good_as_any() -> None:
    answer = USER.replace(b"HTTP/1.1", b"HTTP/1.0")
    with RawServer([answer]) as server, opened("sync", base_url=server.url) as driven:
        assert driven.start().http_code == 200
        assert driven.login(LOGIN).http_code == 200
        assert server.connections == 2


@FRONTS
def test_interim_answers_before_the_answer_are_passed_over(front: str) -> None:
    script = answers(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + USER)
    with RawServer(script) as server, opened(front, base_url=server.url) as driven:
        assert driven.login(LOGIN).http_code == 200


# Redirects and cookies


@FRONTS
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed_and_keeps_its_status(front: str, status: int) -> None:
    with RawServer(answers(USER)) as elsewhere:
        script = answers(USER, http(status, location=elsewhere.url + "/login"))
        with RawServer(script) as server, opened(front, KEY, SECRET, base_url=server.url) as driven:
            driven.start()
            assert driven.login(LOGIN).http_code == status
            assert driven.search({"email": EMAIL}).http_code == status
            assert len(server.requests) == 3
        assert elsewhere.connections == 0


@FRONTS
def test_cookies_are_never_sent_back(front: str) -> None:
    script = answers(http(200, user_answer(), set_cookie="tracker=abc; Path=/"))
    with RawServer(script) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        driven.login(LOGIN)
        driven.search({"email": EMAIL})
        assert [request.headers.get("cookie") for request in server.requests] == [None] * 3


# Connections


@FRONTS
def test_a_connection_that_the_server_closed_between_two_calls_does_no_harm_to_a_logout(front: str) -> None:
    with RawServer([USER], answers(USER)) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        server.wait_for_quiet()
        assert driven.logout().http_code == 200
        assert (server.connections, len(server.requests)) == (2, 2)


@FRONTS
def test_a_connection_that_was_unused_for_long_is_not_used_again(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router may have dropped it without a word."""
    monkeypatch.setattr(network, "KEEP_SECONDS", 0.05)
    with RawServer(answers(USER)) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        assert driven.login(LOGIN).http_code == 200
        before = server.connections
        pause(0.1)
        assert driven.login(LOGIN).http_code == 200
        assert server.connections == before + 1


@FRONTS
def test_a_connection_that_dies_under_a_logout_gives_a_clear_code_and_no_second_logout(front: str) -> None:
    def answer_once(peer: Peer) -> None:
        peer.request()
        peer.send(USER)
        peer.request()

    with RawServer(answer_once, answers(USER)) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        result = driven.logout()
        assert result.http_code == -1
        assert result.body.startswith("no answer from the service")
        assert server.targets == ["/v1/identify", "/v1/logout"]
        assert driven.logout().http_code == 200


@FRONTS
def test_an_answer_that_was_not_read_to_its_end_does_not_leak_into_the_next_one(front: str) -> None:
    big = http(400, {"x": "y" * (2 << 20)})
    with RawServer(answers(big, USER)) as server, opened(front, base_url=server.url) as driven:
        assert driven.login(LOGIN).http_code == 400
        assert driven.login(LOGIN).http_code == 400  # a connection of its own, so the first answer again
        assert server.connections == 2


@FRONTS
def test_closing_a_session_closes_its_connections(front: str) -> None:
    gone = threading.Event()

    def handler(peer: Peer) -> None:
        answers(USER)(peer)
        gone.set()

    with RawServer(handler) as server:
        with opened(front, base_url=server.url) as driven:
            driven.start()
            assert not gone.is_set()
        assert gone.wait(5)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_one_asynchronous_session_may_be_used_in_one_event_loop_after_the_other() -> None:
    with RawServer(answers(USER)) as server:
        session = AsyncIdentitySession(KEY, storage=MemoryStorage(), base_url=server.url)
        assert asyncio.run(session.start()).http_code == 200
        assert asyncio.run(session.login(LOGIN)).http_code == 200
        assert asyncio.run(session.logout()).http_code == 200
        asyncio.run(session.close())
        assert len(server.requests) == 3
    # A connection cannot be closed any more once its loop is; the garbage collector does it, and says so: here.
    del session
    gc.collect()


def test_many_searches_at_once_are_all_answered() -> None:
    found: list[int] = []
    with RawServer(answers(http(404))) as server, opened("sync", base_url=server.url) as driven:
        threads = [
            threading.Thread(target=lambda: found.append(driven.search({"email": EMAIL}).http_code)) for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [404] * 30
        assert len(server.requests) == 30


def test_a_second_call_while_one_is_on_the_network_is_refused_and_sends_nothing() -> None:
    release = threading.Event()

    def handler(peer: Peer) -> None:
        peer.request()
        release.wait(5)
        peer.send(USER)

    with RawServer(handler) as server, opened("sync", base_url=server.url) as driven:
        codes: list[int] = []
        first = threading.Thread(target=lambda: codes.append(driven.login(LOGIN).http_code))
        first.start()
        server.wait_for_requests(1)
        assert driven.logout().http_code == HTTPCodes.ACTIVE_IDENTITY_REQUEST
        release.set()
        first.join()
        assert codes == [200]
        assert len(server.requests) == 1


def test_a_cancelled_call_ends_at_once_and_the_next_one_works() -> None:
    async def cancel_one() -> None:
        session = AsyncIdentitySession(KEY, storage=MemoryStorage(), base_url=server.url)
        call = asyncio.ensure_future(session.login(LOGIN))
        await asyncio.to_thread(server.wait_for_requests, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await session.login(LOGIN)).http_code == 200
        await session.close()

    with RawServer([HOLD], answers(USER)) as server:
        asyncio.run(cancel_one())
        assert server.connections == 2


# Who hears of it


@FRONTS
def test_callbacks_and_listeners_hear_of_failures_as_they_should(front: str) -> None:
    heard: list[Any] = []
    with RawServer([]) as server, opened(front, base_url=server.url, retry=None) as driven:
        driven.on_user_identified(lambda user, previous: heard.append("listener"))
        driven.login(LOGIN, lambda result: heard.append(result.http_code))
    assert heard == [-1], "the callback hears of it, once; no user was identified"


# What is shown

PRIVATE = (KEY, SECRET, EMAIL, "new@example.com", "/22/")


def echoing(peer: Peer) -> None:
    """Repeats what it was asked in every place where an answer can show it."""
    while request := peer.request():
        url = f"http://h.example{request.target}?{EMAIL}&{KEY}"
        peer.send(http(307, request.body, location=url, set_cookie=f"k={KEY}", x_echo=request.body.decode()))


def garbling(peer: Peer) -> None:
    request = peer.request()
    assert request
    peer.send(b"HTTP/1.1 200 OK\r\n" + request.target.encode() + EMAIL.encode() + KEY.encode() + b"\r\n\r\n")


def journeys(server: RawServer, storage: JsonStorage) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("sync", {"base_url": server.url}),
        ("async", {"base_url": server.url, "storage": storage}),
        ("sync", {"base_url": server.url, "environment": "development", "auth": "basic"}),
    ]


@pytest.mark.parametrize(
    "handler",
    [JOURNEY, echoing, garbling, [RESET], [], [HOLD], answers(USER, http(500, {"message": EMAIL}))],
    ids=["journey", "echo", "garble", "reset", "close", "silence", "500"],
)
def test_no_log_record_shows_a_key_a_secret_an_identity_or_a_url_with_an_mpid(
    handler: Handler, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpcore", "httpx", "asyncio", "identity_session", "filelock", "hpack", "anyio"):
        caplog.set_level(logging.DEBUG, name)
    shown: list[str] = []
    storage = MemoryStorage()
    good_answers = answers(http(200, user_answer("22")))
    with RawServer(good_answers) as good, opened("sync", KEY, storage=storage, base_url=good.url) as driven:
        driven.start()  # so that there is a user to modify

    def failing(*_: object) -> None:
        raise ValueError(f"{EMAIL} {KEY}")

    with RawServer(handler) as server:
        for front, options in journeys(server, JsonStorage(tmp_path)):
            options = {"storage": storage, "retry": None, "timeout": 0.05 if handler == [HOLD] else 5, **options}
            with opened(front, KEY, SECRET, **options) as driven:
                driven.on_user_identified(failing)
                play_journey(driven)
                result = driven.login(LOGIN, failing)
                things = [driven.session, result, result.get_user(), driven.session._settings, options["storage"]]
                things += [driven.session._sender, driven.session._settings.credentials, IdentityRequest(LOGIN)]
                things += [driven.search({"email": EMAIL}), driven.session._core, driven.session._archive]
                shown += [repr(thing) for thing in things if thing is not None]
    records = [record for record in caplog.records if not record.name.startswith("test")]
    assert {record.name.split(".")[0] for record in records} >= {"httpcore"}, "the records were there to be read"
    written = [f"{record.getMessage()} {record.args} {record.exc_text} {record.exc_info}" for record in records]
    for text in written:
        assert not [private for private in (*PRIVATE, MPID) if private in text]
    for text in shown:
        assert not [private for private in PRIVATE if private in text]


@FRONTS
def test_a_result_is_raised_without_showing_who_it_was_about(front: str) -> None:
    with RawServer(answers(http(400, {"message": EMAIL}))) as server, opened(front, base_url=server.url) as driven:
        result = driven.login(LOGIN)
        with pytest.raises(Exception, match="400") as raised:
            result.raise_for_error()
        assert EMAIL not in f"{raised.value!r} {raised.value.__cause__} {raised.value.__context__}"


@pytest.mark.parametrize("session_type", [IdentitySession, AsyncIdentitySession])
def test_making_a_session_opens_no_connection(session_type: Callable[..., Any]) -> None:
    with RawServer(answers(USER)) as server:
        session = session_type(KEY, storage=MemoryStorage(), base_url=server.url)
        assert session.mpid is None
        assert server.connections == 0
