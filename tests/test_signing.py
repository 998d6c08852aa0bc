"""Authentication: every signature that the service must accept, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_session.exchange import HTTPRequest
from identity_session.signing import (
    Credentials,
    basic_authorization,
    signature,
    signature_matches,
    signed_target,
)
from identity_session.transport import HttpxSender

KEY, SECRET = "example-api-key", "example-api-secret"
BASIC_DATE = "20170712T224127Z"
BASIC_DATE_MS = 1_499_899_287_000
HTTP_DATE = "Wed, 12 Jul 2017 22:41:27 GMT"
SAMPLE = (
    b'{"client_sdk":{"platform":"android","sdk_vendor":"mparticle","sdk_version":"5.0.0"},"environment":"development",'
    b'"request_timestamp_ms":1499875715564,"request_id":"ad58a7c1-cf35-4be5-8c42-a09989f85cc1",'
    b'"known_identities":{"android_uuid":"f924f1e5707b34b7"}}'
)
NON_ASCII = (
    '{"environment":"development","identity_changes":[{"old_value":null,"new_value":"zoë@example.com",'
    '"identity_type":"email"}]}'
).encode()
SEARCHED = b'{"environment":"development","known_identities":{"email":"ed.hyde@example.com"}}'

# Date, path and body as sent by POST, and the digest they must have with the secret above.
VECTORS = {
    "the sample of the HTTP API page": (
        BASIC_DATE,
        "/v1/identify",
        SAMPLE,
        "b795bc485a38e1aff3c4897be8120a7c87d27b359005e59b815db817268c9655",
    ),
    "the date in the form of HTTP, as the native SDKs send it": (
        HTTP_DATE,
        "/v1/identify",
        SAMPLE,
        "0c041378e90f5b1261798355dfe0cbb3998612453b172713cfcbf4038b8ba661",
    ),
    "a negative MPID in the path and text beyond ASCII": (
        BASIC_DATE,
        "/v1/-5270928349802385746/modify",
        NON_ASCII,
        "6e6a943f1644615dfe2d869b575d198c4d7536e017b1e5a8ff1a488ec51b8d7f",
    ),
    "a path with a query": (
        BASIC_DATE,
        "/v1/search?cb=1",
        SEARCHED,
        "202960ae7b97983f256bea7c001002157b63deb93452f9e9ce6f5a1ef971d74c",
    ),
}


def credentials(scheme: str, secret: str | None = SECRET, now_ms: int = BASIC_DATE_MS) -> Credentials:
    return Credentials(KEY, secret, scheme, lambda: now_ms)


@pytest.mark.parametrize(("date", "target", "body", "digest"), VECTORS.values(), ids=VECTORS.keys())
def test_signatures_are_those_of_the_test_vectors(date: str, target: str, body: bytes, digest: str) -> None:
    assert signature(SECRET, "POST", date, target, body) == digest


def test_hmac_sends_the_key_the_date_it_signed_and_the_signature() -> None:
    assert credentials("hmac").headers("POST", "/v1/identify", SAMPLE) == {
        "x-mp-key": KEY,
        "date": BASIC_DATE,
        "x-mp-signature": "b795bc485a38e1aff3c4897be8120a7c87d27b359005e59b815db817268c9655",
    }


def test_basic_sends_key_and_secret_in_base64_and_no_key_header() -> None:
    expected = "Basic ZXhhbXBsZS1hcGkta2V5OmV4YW1wbGUtYXBpLXNlY3JldA=="
    assert basic_authorization(KEY, SECRET) == expected
    assert credentials("basic").headers("POST", "/v1/identify", b"{}") == {"authorization": expected}


def test_basic_encodes_a_secret_beyond_ascii_as_utf_8() -> None:
    assert basic_authorization("key", "schlüssel") == "Basic a2V5OnNjaGzDvHNzZWw="


@pytest.mark.parametrize("held", [credentials("key"), credentials("key", None), credentials("hmac", None)])
def test_key_only_sends_the_key_and_nothing_of_the_secret(held: Credentials) -> None:
    assert held.headers("POST", "/v1/identify", b"{}") == {"x-mp-key": KEY}


def test_a_signature_in_upper_case_is_accepted() -> None:
    expected = signature(SECRET, "POST", BASIC_DATE, "/v1/identify", SAMPLE)
    assert signature_matches(expected, expected)
    assert signature_matches(expected.upper(), expected)


@pytest.mark.parametrize("given_text", ["", "b795", "é" * 64, "\udc80", "0" * 64, " "])
def test_anything_else_is_no_signature_whatever_it_is_made_of(given_text: str) -> None:
    expected = signature(SECRET, "POST", BASIC_DATE, "/v1/identify", SAMPLE)
    assert not signature_matches(given_text, expected)


@pytest.mark.parametrize(
    ("sent", "signed"),
    [
        ("/identity/v1/identify", "/v1/identify"),
        ("/identity/v1/123/modify?x=1", "/v1/123/modify?x=1"),
        ("/webevents/v1/identity/key/Alias", "/v1/identity/key/Alias"),
        ("/nativeevents/v1/identity/key/alias", "/v1/identity/key/alias"),
        ("/v1/identity/key/Alias", "/v1/identity/key/Alias"),
        ("/other/v1/identify", "/other/v1/identify"),
        ("/identity/v2/identify", "/identity/v2/identify"),
        ("/identity/identity/v1/login", "/identity/identity/v1/login"),
    ],
)
def test_the_prefix_of_a_customers_own_domain_is_not_signed(sent: str, signed: str) -> None:
    assert signed_target(sent) == signed
    expected = signature(SECRET, "POST", BASIC_DATE, signed, b"")
    assert credentials("hmac").headers("POST", sent, b"")["x-mp-signature"] == expected


def test_a_signature_covers_exactly_the_path_it_is_given() -> None:
    whole = signature(SECRET, "POST", BASIC_DATE, "/identity/v1/identify", SAMPLE)
    assert whole != signature(SECRET, "POST", BASIC_DATE, "/v1/identify", SAMPLE)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
paths = st.text("abcdefghijklmnopqrstuvwxyz0123456789-%", min_size=1).map("/v1/".__add__)
PARTS = {
    "secret": texts,
    "method": st.sampled_from(["GET", "POST", "PUT"]),
    "date": st.text("0123456789TZ", min_size=1),
    "target": paths,
    "body": st.binary(),
}


@given(st.fixed_dictionaries(PARTS), st.sampled_from(sorted(PARTS)), st.data())
def test_a_signature_differs_when_any_part_of_the_request_differs(
    parts: dict, changed: str, data: st.DataObject
) -> None:
    other = data.draw(PARTS[changed].filter(lambda value: value != parts[changed]))
    if changed == "secret" and len(parts["secret"].encode()) <= 64 and len(other.encode()) <= 64:
        # HMAC fills a short key up with zeros, so that keys which differ in trailing zeros alone are one key.
        other, parts["secret"] = other.rstrip("\0") + "x", parts["secret"].rstrip("\0") + "y"
    if changed in ("target", "body"):  # these two are joined without a separator: their sum is what is signed
        changed_parts = {**parts, changed: other}
        if parts["target"].encode() + parts["body"] == changed_parts["target"].encode() + changed_parts["body"]:
            return

    def signed(p: dict) -> str:
        return signature(p["secret"], p["method"], p["date"], p["target"], p["body"])

    assert signed(parts) != signed({**parts, changed: other})


class Recorder:
    """Keeps requests and answers them with 200."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(200)


def verifies(request: httpx.Request) -> bool:
    target, headers = signed_target(request.url.raw_path.decode()), request.headers
    expected = signature(SECRET, request.method, headers["date"], target, request.content)
    return signature_matches(headers["x-mp-signature"], expected)


def sent(
    recorder: Recorder, scheme: Any, url: str = "https://h.example/v1/login", body: bytes = b"{}"
) -> httpx.Headers:
    """The headers of a request that went out with these credentials."""
    asked = HTTPRequest(url, httpx.URL(url).raw_path.decode(), {}, body, credentials(scheme))
    HttpxSender(httpx.MockTransport(recorder), owned=False).send(asked, 5)
    return recorder.requests[-1].headers


@pytest.mark.parametrize("url", ["https://h.example/v1/login", "https://h.example/identity/v1/login?a=%C3%BC&b=1"])
def test_what_is_sent_is_what_was_signed(url: str) -> None:
    recorder = Recorder()
    headers = sent(recorder, "hmac", url, json.dumps({"email": "zoë@example.com"}).encode())
    assert verifies(recorder.requests[0])
    assert (headers["x-mp-key"], headers["date"]) == (KEY, BASIC_DATE)


def test_basic_and_key_only_are_sent_too() -> None:
    recorder = Recorder()
    basic, key_only = sent(recorder, "basic"), sent(recorder, "key")
    assert basic["authorization"] == basic_authorization(KEY, SECRET)
    assert "x-mp-key" not in basic
    assert key_only["x-mp-key"] == KEY
    assert "x-mp-signature" not in key_only


def test_credentials_do_not_show_key_or_secret_when_printed() -> None:
    for shown in (repr(credentials("hmac")), str(credentials("basic"))):
        assert KEY not in shown
        assert SECRET not in shown
