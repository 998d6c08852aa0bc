"""Whole sessions against a scripted server on a raw socket: the bytes on the wire, and answers of every kind."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from datetime import UTC, datetime

import pytest
from broken_answers import UNREADABLE
from raw_journeys import EMAIL, JOURNEY, KEY, LOGIN, SECRET, USER, play_journey
from servers import FRONTS, MPID, RawServer, answers, http, opened, user_answer

from identity_session.signing import basic_authorization, signature
from identity_session.version import __version__

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
