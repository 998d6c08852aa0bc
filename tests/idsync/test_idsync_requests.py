"""What the service reads: paths, bodies, limits. Whatever the bytes are, the answer is never a 500."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from idsync_driver import KEY, Caller

from identity_session.idsync import IdentityStrategy
from identity_session.idsync.requests import BODY_LIMIT_BYTES, parse_mpid

GZIP = {**KEY, "Content-Encoding": "GZIP"}
BODY = {"environment": "production", "known_identities": {"email": "ed"}}


def padded(length: int) -> bytes:
    """A valid body of this many bytes."""
    head = json.dumps({**BODY, "padding": ""}).encode()[:-2]
    return head + b"x" * (length - len(head) - 2) + b'"}'


@pytest.mark.parametrize(
    "path",
    [
        "/v1/identify",
        "/identity/v1/identify",
        "/v1/identify?cb=1",
        "/identity/v1/login?",
        "/v1/logout",
        "/v1/login?a=b",
    ],
)
def test_identity_calls_live_below_v1_and_below_the_prefix_of_a_customer_domain(path: str) -> None:
    """A query string is tolerated."""
    assert Caller().post(path, BODY).status == 200


def test_modify_below_the_prefix_of_a_customer_domain() -> None:
    """The MPID may be negative."""
    caller = Caller(seed=1)
    mpid = next(mpid for mpid in (caller.seed(email=str(n)) for n in range(50)) if mpid.startswith("-"))
    answer = caller.post(f"/identity/v1/{mpid}/modify", {"environment": "production", "identity_changes": []})
    assert (answer.status, answer.mpid) == (200, mpid)


@pytest.mark.parametrize(
    "path", ["/", "", "/v1", "/v1/identify/", "/v2/identify", "/v1/Identify", "/v1/identity//alias"]
)
def test_an_unknown_path_is_a_404(path: str) -> None:
    """With an empty body, and the headers that let a page read the status."""
    answer = Caller().post(path, BODY)
    assert (answer.status, answer.raw) == (404, b"")
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"environment":"production"}',
        b'{"environment":"production","known_identities":null}',
        b'{"environment":"production","known_identities":[]}',
        b'{"known_identities":{"email":"ed"}}',
        b'{"environment":"staging","known_identities":{"email":"ed"}}',
        b'{"environment":"production","known_identities":{"email":5}}',
        b'{"environment":"production","known_identities":{"e-mail":"ed"}}',
        b'{"environment":"production","known_identities":{"e-mail":null,"email":"ed"}}',
        b'{"environment":"production","known_identities":{"email":"ed"},"previous_mpid":true}',
        b'{"environment":"production","known_identities":{"email":"ed"},"client_sdk":"web"}',
        b'{"environment":"production","known_identities":{"email":"\\u0000"}}',
        b'{"environment":"production","known_identities":{"email":"\\ud800"}}',
        b'{"environment":"production","known_identities":{"email":"\xff"}}',
        b'{"environment":"production","known_identities":{"email":"ed"},"x":NaN}',
        b'{"environment":"production","known_identities":{"email":"ed"},"x":-Infinity}',
        b'{"environment":"production","known_identities":{"email":"ed"},"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"environment":"production","known_identities":{"email":"ed"},"previous_mpid":' + b"1" * 5_000 + b"}",
    ],
    ids=lambda body: repr(body[:60]),
)
def test_a_body_that_cannot_be_read_is_invalid(body: bytes) -> None:
    """Bytes that are no JSON object, a missing or wrong member, an unknown type, a value no store can hold."""
    caller = Caller()
    answer = caller.post("/v1/identify", body)
    assert answer.status == 400
    assert answer.error[0] == "INVALID_DATA"
    assert caller.store() == {}


def test_the_message_names_the_member_at_fault() -> None:
    """A developer sees what to mend; the value is not repeated."""
    answer = Caller().post("/v1/identify", {"environment": "secret-value", "known_identities": {}})
    assert answer.error[1].startswith("The payload was malformed JSON or had missing fields. environment: ")
    assert b"secret-value" not in answer.raw


@pytest.mark.parametrize(
    ("value", "mpid"),
    [
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        (-(2**63) - 1, None),
        (5, 5),
        ("007", 7),
        ("-0", None),
        ("1e3", None),
        ("5\n", None),
        (None, None),
    ],
)
def test_an_mpid_is_a_signed_64_bit_number_other_than_zero(value: str | int | None, mpid: int | None) -> None:
    """As text or as a number; no database column holds a larger one."""
    assert parse_mpid(value) == mpid


def test_unknown_members_are_ignored() -> None:
    """A newer SDK may send more."""
    assert Caller().post("/v1/identify", {**BODY, "consent": {"gdpr": 1}}).status == 200


def test_null_and_empty_values_are_dropped() -> None:
    """They are no identities; what is left counts."""
    caller = Caller()
    mpid = caller.call("identify", {"email": "ed", "other": None, "facebook": ""}).mpid
    assert caller.store() == {mpid: {"email": ["ed"]}}
    assert caller.idsync.profiles()[0]["other_identities"] == {}


def test_lenient_identities_ignore_unknown_types() -> None:
    """By choice; nothing but unknown types is still empty."""
    caller = Caller(IdentityStrategy(lenient_identities=True))
    mpid = caller.call("identify", {"email": "ed", "e-mail": "x" * 5000}).mpid
    assert caller.store() == {mpid: {"email": ["ed"]}}
    assert caller.call("identify", {"e-mail": "ed"}).error == ("LOOKUP_ERROR", "knownIdentities is empty.")
    assert caller.call("identify", {str(n): "ed" for n in range(101)}).error[0] == "INVALID_DATA"
    assert caller.call("identify", {"email": "ed", **{str(n): "x" for n in range(99)}}).status == 200


def test_a_value_may_have_4096_characters() -> None:
    """Characters, not bytes."""
    assert Caller().call("identify", {"email": "ë" * 4096}).status == 200
    assert Caller().call("identify", {"email": "ë" * 4097}).error[0] == "INVALID_DATA"


def test_a_body_may_have_256_kb() -> None:
    """One byte more is a 413, as sent and as unpacked."""
    assert BODY_LIMIT_BYTES == 262_144
    for headers, pack in ((KEY, bytes), (GZIP, gzip.compress)):
        assert Caller().post("/v1/identify", pack(padded(BODY_LIMIT_BYTES)), headers).status == 200
        refused = Caller().post("/v1/identify", pack(padded(BODY_LIMIT_BYTES + 1)), headers)
        assert (refused.status, refused.error[0]) == (413, "INVALID_DATA")


def test_a_gzip_bomb_is_not_unpacked_whole() -> None:
    """A small body that unpacks to 100 MB is refused after the first 256 KB."""
    assert Caller().post("/v1/identify", gzip.compress(b"x" * 100_000_000), GZIP).status == 413


def test_a_compressed_body_is_read_like_a_plain_one() -> None:
    """Android compresses identity bodies."""
    caller = Caller()
    plain = caller.post("/v1/identify", json.dumps(BODY).encode())
    assert caller.post("/v1/identify", gzip.compress(json.dumps(BODY).encode()), GZIP).mpid == plain.mpid


@pytest.mark.parametrize(
    "body",
    [b"not gzip", gzip.compress(b"{}")[:-3], gzip.compress(b"{}") + b"more", b"\x1f\x8b\x08\x00" + b"\xff" * 40],
)
def test_a_broken_gzip_body_is_invalid(body: bytes) -> None:
    """Damaged, cut off or followed by something else."""
    answer = Caller().post("/v1/identify", body, GZIP)
    assert (answer.status, answer.error) == (400, ("INVALID_DATA", "The body is not valid gzip."))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from(
    ["environment", "known_identities", "identity_changes", "previous_mpid", "request_id", "client_sdk", "data"]
)


@given(
    path=st.sampled_from(
        ["/v1/identify", "/v1/login?read_only=x", "/v1/search", "/v1/5/modify", "/v1/identity/k/alias"]
    ),
    body=st.binary() | st.dictionaries(MEMBERS, JSON).map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(st.sampled_from(["content-encoding", "authorization", "date"]), st.text()),
)
def test_no_request_makes_the_service_fail(path: str, body: bytes, headers: dict[str, Any]) -> None:
    """Any bytes, any JSON, any header."""
    assert Caller().post(path, body, {**headers, **KEY}).status in (400, 401, 404)
