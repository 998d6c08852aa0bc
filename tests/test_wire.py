"""The wire: what every call looks like in bytes, and what is made of whatever comes back."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_session.aliasing import AliasSpan
from identity_session.exchange import Call, HTTPAnswer, IdentityChange, Question, Reply
from identity_session.identities import IdentityType
from identity_session.version import __version__
from identity_session.wire import AliasBody, IdentityBody, ModifyBody, SearchBody, decode, encode, retry_after_seconds

STAMP = "0b3a5c5a-7d61-4d1e-9b6e-3a3f6f6f6f01"
SPAN = AliasSpan("11", "22", 1_000, 2_000, "mpid")
CLIENT_SDK = {"platform": "other", "sdk_vendor": "mparticle", "sdk_version": __version__}
NOW_MS = 1_700_000_000_000
MPID_KEPT = "9223372036854775807"


def question(call: Call, **fields: Any) -> Question:
    return Question(call, "request-id", NOW_MS, STAMP, **fields)


def encoded(asked: Question, api_key: str = "key") -> tuple[str, dict[str, Any]]:
    path, body = encode(asked, environment="production", platform="other", api_key=api_key)
    return path, json.loads(body)


# What is sent


@pytest.mark.parametrize("call", [Call.IDENTIFY, Call.LOGIN, Call.LOGOUT])
def test_identify_login_and_logout_always_have_all_seven_members(call: Call) -> None:
    path, body = encoded(question(call))
    assert path == f"/{call}"
    assert list(body.items()) == [
        ("client_sdk", CLIENT_SDK),
        ("environment", "production"),
        ("request_id", "request-id"),
        ("request_timestamp_ms", NOW_MS),
        ("context", None),
        ("previous_mpid", None),
        ("known_identities", {"device_application_stamp": STAMP}),
    ]


@pytest.mark.parametrize("call", [Call.IDENTIFY, Call.LOGIN, Call.LOGOUT])
def test_known_identities_keep_the_callers_order_and_their_nulls_and_end_with_the_device_stamp(call: Call) -> None:
    asked = question(call, context="c", mpid="42", known_identities={"other": "x", "email": None, "customerid": "1"})
    _, body = encoded(asked)
    assert (body["context"], body["previous_mpid"]) == ("c", "42")
    assert list(body["known_identities"].items()) == [
        ("other", "x"),
        ("email", None),
        ("customerid", "1"),
        ("device_application_stamp", STAMP),
    ]


def test_modify_names_the_user_in_its_path_and_sends_changes_alone() -> None:
    changes = (IdentityChange(None, "a@example.com", "email"), IdentityChange("1", None, "customerid"))
    path, body = encoded(question(Call.MODIFY, context="c", mpid="-42", identity_changes=changes))
    assert path == "/-42/modify"
    assert list(body.items()) == [
        ("client_sdk", CLIENT_SDK),
        ("environment", "production"),
        ("request_id", "request-id"),
        ("request_timestamp_ms", NOW_MS),
        ("context", "c"),
        (
            "identity_changes",
            [
                {"old_value": None, "new_value": "a@example.com", "identity_type": "email"},
                {"old_value": "1", "new_value": None, "identity_type": "customerid"},
            ],
        ),
    ]


def test_search_tells_neither_who_the_user_is_nor_which_device_asks() -> None:
    asked = question(Call.SEARCH, context="c", mpid="42", known_identities={"email": "a@example.com"})
    path, body = encoded(asked)
    assert path == "/search"
    assert list(body.items()) == [
        ("client_sdk", CLIENT_SDK),
        ("environment", "production"),
        ("request_id", "request-id"),
        ("request_timestamp_ms", NOW_MS),
        ("known_identities", {"email": "a@example.com"}),
    ]


def test_alias_has_a_body_of_its_own_and_the_key_in_path_and_body() -> None:
    path, body = encoded(question(Call.ALIAS, context="c", mpid="42", alias=SPAN), api_key="us1-key")
    assert path == "/us1-key/Alias"
    assert list(body.items()) == [
        ("request_id", "request-id"),
        ("request_type", "alias"),
        ("environment", "production"),
        ("api_key", "us1-key"),
        (
            "data",
            {
                "destination_mpid": "22",
                "source_mpid": "11",
                "start_unixtime_ms": 1_000,
                "end_unixtime_ms": 2_000,
                "scope": "mpid",
                "device_application_stamp": STAMP,
            },
        ),
    ]


def test_text_beyond_ascii_is_sent_as_utf_8() -> None:
    asked = question(Call.LOGIN, known_identities={"email": "zoë@例え.jp\U0001f600"})
    _, body = encode(asked, environment="development", platform="ios", api_key="key")
    assert "zoë@例え.jp\U0001f600".encode() in body
    assert json.loads(body)["environment"] == "development"
    assert json.loads(body)["client_sdk"]["platform"] == "ios"


hostile = st.one_of(
    st.sampled_from([".", "..", "...", "../../x", "/", "//evil.example", "a?b", "a#b", "%2e%2e", "%2F", " ", "\\..\\"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30),
)


@given(hostile)
def test_whatever_an_mpid_is_it_stays_within_its_segment_of_the_path(mpid: str) -> None:
    path, _ = encoded(question(Call.MODIFY, mpid=mpid))
    for url in ("https://h.example/v1" + path, str(httpx.URL("https://h.example/v1" + path))):
        parts = urlsplit(url)
        assert parts.netloc == "h.example"
        assert (parts.query, parts.fragment) == ("", "")
        assert [unquote(segment) for segment in parts.path.split("/")] == ["", "v1", mpid, "modify"]


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_whatever_an_api_key_is_it_stays_within_its_segment_of_the_alias_path(key: str) -> None:
    path, _ = encoded(question(Call.ALIAS, alias=SPAN), api_key=key)
    sent = httpx.URL("https://h.example/v1/identity" + path).raw_path.decode()
    assert [unquote(segment) for segment in sent.split("/")] == ["", "v1", "identity", key, "Alias"]


texts = st.text(st.characters(exclude_categories=["Cs"]))
identities = st.dictionaries(st.sampled_from([t.value for t in IdentityType]), st.none() | texts)
changes = st.builds(
    IdentityChange, st.none() | texts, st.none() | texts, st.sampled_from([t.value for t in IdentityType])
)
times = st.integers(0, 2**53)
questions = st.builds(
    Question,
    call=st.sampled_from([Call.IDENTIFY, Call.LOGIN, Call.LOGOUT, Call.SEARCH, Call.MODIFY]),
    request_id=texts,
    request_timestamp_ms=times,
    device_application_stamp=texts,
    context=st.none() | texts,
    mpid=st.none() | texts,
    known_identities=st.none() | identities,
    identity_changes=st.lists(changes, max_size=4).map(tuple),
)
MODELS = {Call.MODIFY: ModifyBody, Call.SEARCH: SearchBody}


@given(questions, st.sampled_from(["production", "development"]))
def test_the_service_reads_back_exactly_what_the_client_wrote(asked: Question, environment: str) -> None:
    _, body = encode(asked, environment=environment, platform="web", api_key="key")
    read = MODELS.get(asked.call, IdentityBody).model_validate(json.loads(body))
    assert (read.environment, read.request_id, read.request_timestamp_ms) == (
        environment,
        asked.request_id,
        asked.request_timestamp_ms,
    )
    known = asked.known_identities or {}
    if isinstance(read, ModifyBody):
        assert read.context == asked.context
        assert [(c.old_value, c.new_value, c.identity_type) for c in read.identity_changes] == [
            (c.old_value, c.new_value, c.identity_type) for c in asked.identity_changes
        ]
    elif isinstance(read, IdentityBody):
        assert (read.context, read.previous_mpid) == (asked.context, asked.mpid)
        assert read.known_identities == {**known, "device_application_stamp": asked.device_application_stamp}
    else:
        assert read.known_identities == known


@given(texts, texts, times, times, st.sampled_from(["device", "mpid"]), texts)
def test_the_service_reads_back_an_alias_request(
    source: str, destination: str, start_ms: int, end_ms: int, scope: str, key: str
) -> None:
    span = AliasSpan(source, destination, start_ms, end_ms, scope)
    _, body = encode(question(Call.ALIAS, alias=span), environment="production", platform="web", api_key=key)
    read = AliasBody.model_validate(json.loads(body))
    assert read.api_key == key
    assert (read.data.source_mpid, read.data.destination_mpid) == (source, destination)
    assert (read.data.start_unixtime_ms, read.data.end_unixtime_ms, read.data.scope) == (start_ms, end_ms, scope)


# What comes back


def decoded(body: object, status: int = 200, **headers: str) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return decode(HTTPAnswer(status, named, data), now_ms=NOW_MS)


def test_an_answer_is_read() -> None:
    body = {"mpid": "1", "context": "c", "is_logged_in": True, "is_ephemeral": True, "matched_identities": {}, "x": 1}
    reply = decoded(body, x_mp_max_age="60", retry_after="2")
    assert (reply.status, reply.body, reply.mpid, reply.context) == (200, body, "1", "c")
    assert (reply.is_logged_in, reply.is_ephemeral) == (True, True)
    assert (reply.max_age_seconds, reply.retry_after_seconds) == (60, 2.0)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("9223372036854775807", MPID_KEPT),
        ('"9223372036854775807"', MPID_KEPT),
        ("-9223372036854775808", "-9223372036854775808"),
        ("18446744073709551616", "18446744073709551616"),
        ("9007199254740993", "9007199254740993"),
        ("1", "1"),
        ('"../../x"', "../../x"),
    ],
)
def test_an_mpid_is_kept_exactly_as_text_also_where_it_came_as_a_number(sent: str, kept: str) -> None:
    assert decoded(f'{{"mpid": {sent}}}'.encode()).mpid == kept


@pytest.mark.parametrize(
    "sent", ["0", "-0", '"0"', "true", "false", "1.0", "1e3", '""', '" "', "null", "[]", '{"a": 1}', '"a\\nb"', "NaN"]
)
def test_what_is_no_mpid_counts_as_absent(sent: str) -> None:
    assert decoded(f'{{"mpid": {sent}}}'.encode()).mpid is None


@pytest.mark.parametrize("value", [5, 1.5, True, [], {}, None, ""])
def test_a_context_that_is_no_text_counts_as_absent(value: object) -> None:
    assert decoded({"mpid": "1", "context": value}).context is None


def test_a_text_that_utf_8_cannot_hold_counts_as_absent() -> None:
    reply = decoded(b'{"mpid": "\\ud800", "context": "\\udfff"}')
    assert (reply.mpid, reply.context) == (None, None)


@pytest.mark.parametrize("value", [1, 0, "true", "", None, [], {}])
def test_a_flag_that_is_no_boolean_counts_as_absent(value: object) -> None:
    reply = decoded({"mpid": "1", "is_logged_in": value, "is_ephemeral": value})
    assert (reply.mpid, reply.is_logged_in, reply.is_ephemeral) == ("1", None, False)


@pytest.mark.parametrize("value", [None, 5, "x", [1], True])
def test_matched_identities_of_a_wrong_type_do_not_spoil_the_answer(value: object) -> None:
    assert decoded({"mpid": "1", "matched_identities": value}).mpid == "1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"5",
        b"NaN",
        b"<html><body>Sign in to this network</body></html>",
        b"{",
        b'{"mpid": "1"} trailing',
        b'\xff\xfe{"mpid"',
        b'{"mpid": "\xff"}',
        b'{"mpid": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"\x00" * 10,
        b"\x1f\x8b\x08\x00",
    ],
    ids=range(17),
)
@pytest.mark.parametrize("status", [200, 400, 503])
def test_a_body_that_is_no_json_object_is_no_body_and_the_status_stays(body: bytes, status: int) -> None:
    reply = decoded(body, status)
    assert reply == Reply(status)
    assert reply.message is None


def test_a_byte_order_mark_does_no_harm() -> None:
    assert decoded(b'\xef\xbb\xbf{"mpid": "1"}').mpid == "1"


@pytest.mark.parametrize(
    ("body", "message"), [({"message": "why"}, "why"), ({"message": 5}, None), ({}, None), ([], None)]
)
def test_the_message_of_an_answer_is_a_text_or_nothing(body: object, message: str | None) -> None:
    assert decoded(body).message == message


header_values = st.text(max_size=40) | st.from_regex(r"[+-]?\d*(\.\d*)?", fullmatch=True)
dates = st.builds(
    "{}, {} {} {} {}:00:00{}".format,
    st.sampled_from(["Mon", "Tue", "day"]),
    st.integers(-1, 100),
    st.sampled_from(["Jan", "Dec", "Foo"]),
    st.integers(0, 100_000),
    st.integers(0, 99),
    st.sampled_from([" GMT", "", " +0100", " -0000", " -9999", " +999999999", " EST"]),
)


json_texts = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | texts, st.lists).map(json.dumps)
odd_headers = dict.fromkeys(("retry-after", "date", "x-mp-max-age"), header_values | dates)


@given(
    st.binary() | json_texts.map(str.encode),
    st.integers(100, 999),
    st.fixed_dictionaries({}, optional=odd_headers),
)
def test_there_is_a_reply_to_whatever_bytes_and_headers(body: bytes, status: int, headers: dict[str, str]) -> None:
    reply = decode(HTTPAnswer(status, headers, body), now_ms=NOW_MS)
    assert reply.status == status
    assert reply.retry_after_seconds is None or reply.retry_after_seconds >= 0
    assert 0 <= reply.max_age_seconds < 10**9


members = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.lists(st.integers()), st.just({}))


@given(st.dictionaries(st.sampled_from(["mpid", "context", "is_logged_in", "is_ephemeral", "message", "x"]), members))
def test_members_of_any_type_never_spoil_an_answer(body: dict[str, object]) -> None:
    reply = decoded(body)
    assert reply.mpid is None or (isinstance(reply.mpid, str) and reply.mpid not in ("", "0"))
    assert reply.context is None or (isinstance(reply.context, str) and reply.context)
    assert reply.is_logged_in in (None, True, False)


# Headers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        ("99999999999", 99999999999.0),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after_in_seconds_is_never_negative(text: str, seconds: float) -> None:
    assert retry_after_seconds({"retry-after": text}, NOW_MS) == seconds


# RFC 9110, section 5.6.7: a recipient accepts all three forms of a date. Each of these is half a minute after NOW_MS.
@pytest.mark.parametrize(
    "date", ["Tue, 14 Nov 2023 22:13:50 GMT", "Tuesday, 14-Nov-23 22:13:50 GMT", "Tue Nov 14 22:13:50 2023"]
)
def test_retry_after_as_a_date_counts_from_now(date: str) -> None:
    assert retry_after_seconds({"retry-after": date}, NOW_MS) == 30.0


def test_retry_after_as_a_date_counts_from_the_answers_own_date_where_there_is_one() -> None:
    headers = {"retry-after": "Wed, 21 Oct 2015 07:28:10 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after_seconds(headers, NOW_MS) == 10.0
    assert retry_after_seconds({**headers, "date": "yesterday"}, NOW_MS) == 0.0


def test_retry_after_in_the_past_asks_for_no_wait() -> None:
    assert retry_after_seconds({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, NOW_MS) == 0.0


@pytest.mark.parametrize(
    "text", ["", "soon", "1e9", "inf", "nan", "5 seconds", "0x10", "--5", "Mon, 99 Foo 2020", "1,2", ".", "٣"]
)
def test_a_retry_after_that_says_nothing_counts_as_absent(text: str) -> None:
    assert retry_after_seconds({"retry-after": text}, NOW_MS) is None


def test_no_retry_after_is_absent() -> None:
    assert retry_after_seconds({}, NOW_MS) is None
    assert decoded({}).retry_after_seconds is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("86400", 86400), (" 5 ", 5), ("0", 0), ("-1", 0), ("1.5", 0), ("soon", 0), ("", 0), ("9" * 30, 0), ("1e3", 0)],
)
def test_a_max_age_that_is_no_whole_number_counts_as_none(text: str, seconds: int) -> None:
    assert decoded({}, x_mp_max_age=text).max_age_seconds == seconds
