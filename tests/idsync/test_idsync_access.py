"""Who may call: signatures, Basic, and the key alone."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest
from idsync_driver import Caller

from identity_session.idsync import IdentityStrategy, LocalIDSync
from identity_session.signing import Credentials, signature

KEYS = {"example-api-key": "example-api-secret"}
NAME = {"x-mp-key": "example-api-key"}
BODY_AB = (
    b'{"client_sdk":{"platform":"android","sdk_vendor":"mparticle","sdk_version":"5.0.0"},"environment":"development",'
    b'"request_timestamp_ms":1499875715564,"request_id":"ad58a7c1-cf35-4be5-8c42-a09989f85cc1",'
    b'"known_identities":{"android_uuid":"f924f1e5707b34b7"}}'
)
BODY_C = (
    '{"environment":"development","identity_changes":'
    '[{"old_value":null,"new_value":"zoë@example.com","identity_type":"email"}]}'
).encode()
BODY_D = b'{"environment":"development","known_identities":{"email":"ed.hyde@example.com"}}'
ISO, HTTP = "20170712T224127Z", "Wed, 12 Jul 2017 22:41:27 GMT"

# Date, path, body, signature, and the status that says the signature was accepted (C and D name nobody).
VECTORS = {
    "A": (ISO, "/v1/identify", BODY_AB, "b795bc485a38e1aff3c4897be8120a7c87d27b359005e59b815db817268c9655", 200),
    "B": (HTTP, "/v1/identify", BODY_AB, "0c041378e90f5b1261798355dfe0cbb3998612453b172713cfcbf4038b8ba661", 200),
    "C": (
        ISO,
        "/v1/-5270928349802385746/modify",
        BODY_C,
        "6e6a943f1644615dfe2d869b575d198c4d7536e017b1e5a8ff1a488ec51b8d7f",
        404,
    ),
    "D": (ISO, "/v1/search?cb=1", BODY_D, "202960ae7b97983f256bea7c001002157b63deb93452f9e9ce6f5a1ef971d74c", 404),
}


def strict() -> Caller:
    return Caller(api_keys=KEYS)


def signed(date: str, digest: str) -> dict[str, str]:
    return {**NAME, "Date": date, "X-MP-Signature": digest}


@pytest.mark.parametrize("name", VECTORS)
def test_the_documented_samples_are_accepted(name: str) -> None:
    """Both forms of the date, text beyond ASCII, and a path with a query; upper-case hex too."""
    date, path, body, digest, status = VECTORS[name]
    assert strict().post(path, body, signed(date, digest)).status == status
    assert strict().post(path, body, signed(date, digest.upper())).status == status


@pytest.mark.parametrize("name", VECTORS)
def test_a_signature_covers_every_byte(name: str) -> None:
    """Another date, path, body or secret and it is refused, with an empty body."""
    date, path, body, digest, _status = VECTORS[name]
    attempts = [
        (path, body, signed(date + " ", digest)),
        (path + "?x=1", body, signed(date, digest)),
        (path, body + b" ", signed(date, digest)),
        (path, body, signed(date, "0" * 64)),
        (path, body, signed(date, "")),
        (path, body, signed(date, "é")),
        (path, body, {**NAME, "x-mp-signature": digest}),
        (path, body, {**signed(date, digest), "x-mp-key": "another"}),
    ]
    for target, data, headers in attempts:
        answer = strict().post(target, data, headers)
        assert (answer.status, answer.raw) == (401, b"")


def test_a_signature_without_a_date_is_refused() -> None:
    """Even one that was made over an empty date."""
    digest = signature("example-api-secret", "POST", "", "/v1/identify", BODY_AB)
    assert strict().post("/v1/identify", BODY_AB, {**NAME, "x-mp-signature": digest}).status == 401


def test_a_signature_covers_the_plain_body() -> None:
    """A compressed body is unpacked first."""
    date, path, body, digest, _status = VECTORS["A"]
    headers = {**signed(date, digest), "content-encoding": "gzip"}
    assert strict().post(path, gzip.compress(body), headers).status == 200


def test_behind_a_customer_domain_either_path_may_be_signed() -> None:
    """SDKs sign the default path; a path signed as called is accepted too, another one is not."""
    date, path, body, digest, _status = VECTORS["A"]
    assert strict().post("/identity" + path, body, signed(date, digest)).status == 200
    as_called = signature("example-api-secret", "POST", date, "/identity/v1/identify", body)
    assert as_called != digest
    assert strict().post("/identity" + path, body, signed(date, as_called)).status == 200
    assert strict().post(path, body, signed(date, as_called)).status == 401


@pytest.mark.parametrize("scheme", ["hmac", "basic"])
def test_the_client_half_is_accepted(scheme: Any) -> None:
    """What the client's credentials produce, the service takes."""
    credentials = Credentials("example-api-key", "example-api-secret", scheme, lambda: 1_499_899_287_000)
    headers = credentials.headers("POST", "/v1/identify", BODY_AB)
    assert strict().post("/v1/identify", BODY_AB, headers).status == 200


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Basic ZXhhbXBsZS1hcGkta2V5OmV4YW1wbGUtYXBpLXNlY3JldA=="}, 200),
        ({"Authorization": basic("example-api-key:example-api-secret").replace("Basic", "basic"), **NAME}, 200),
        ({"Authorization": basic("example-api-key:wrong")}, 401),
        ({"Authorization": basic("example-api-key:")}, 401),
        ({"Authorization": basic("example-api-key")}, 401),
        ({"Authorization": basic("other:example-api-secret")}, 401),
        ({"Authorization": basic("other:example-api-secret"), **NAME}, 401),
        ({"Authorization": "Basic !!!", **NAME}, 401),
        ({"Authorization": "Basic /w=="}, 401),
        ({"Authorization": "Bearer token"}, 401),
        ({}, 401),
        ({"x-mp-key": ""}, 401),
        ({"x-mp-key": "unknown"}, 401),
    ],
)
def test_basic_needs_key_and_secret(headers: dict[str, str], status: int) -> None:
    """The documented sample is accepted; a wrong, cut or unreadable one is not."""
    assert strict().post("/v1/identify", BODY_D, headers).status == status


@pytest.mark.parametrize(
    ("sdk", "status"),
    [
        ({"platform": "web"}, 200),
        ({"platform": "ios"}, 401),
        ({"platform": ["web"]}, 401),
        ({}, 401),
        (None, 401),
        ("web", 401),
    ],
)
def test_the_key_alone_is_enough_for_the_web_only(sdk: object, status: int) -> None:
    """A page cannot keep a secret; everything else can."""
    body = {"client_sdk": sdk, "environment": "development", "known_identities": {"email": "ed"}}
    assert strict().post("/v1/identify", body, NAME).status == status


def test_a_wrong_signature_is_not_saved_by_the_platform() -> None:
    """A signature or Basic header that is there must fit, on the web too."""
    body = {"client_sdk": {"platform": "web"}, "environment": "development", "known_identities": {"email": "ed"}}
    assert strict().post("/v1/identify", body, signed(ISO, "0" * 64)).status == 401
    assert strict().post("/v1/identify", body, {**NAME, "Authorization": basic("example-api-key:no")}).status == 401


def test_a_web_call_with_a_faulty_body_is_told_so() -> None:
    """The platform is read from a body that is not valid otherwise; what is no JSON has no platform."""
    assert strict().post("/v1/identify", {"client_sdk": {"platform": "web"}}, NAME).status == 400
    assert strict().post("/v1/identify", b"{", NAME).status == 401


def test_the_key_is_checked_before_anything_is_read_or_written() -> None:
    """A refused call creates nothing."""
    caller = strict()
    caller.post("/v1/identify", BODY_D, NAME)
    assert caller.store() == {}


def test_without_keys_any_key_will_do_but_one_there_must_be() -> None:
    """Signatures and secrets are not looked at."""
    accepted = [{"x-mp-key": "k"}, {"x-mp-key": "k", "x-mp-signature": "0"}, {"Authorization": basic("k:anything")}]
    assert {Caller().post("/v1/identify", BODY_D, headers).status for headers in accepted} == {200}
    for headers in ({}, {"x-mp-key": ""}, {"Authorization": "Basic !!!"}, {"Authorization": basic(":secret")}):
        assert Caller().post("/v1/identify", BODY_D, headers).status == 401


def test_no_key_or_secret_is_printed() -> None:
    """Neither reaches a log by way of a repr."""
    idsync = LocalIDSync(api_keys=KEYS)
    printed = json.dumps([repr(idsync), repr(idsync.transport), repr(idsync.async_transport)])
    assert "example-api" not in printed


def at(now_ms: int, skew_s: float | None) -> Caller:
    return Caller(IdentityStrategy(max_clock_skew_s=skew_s), api_keys=KEYS, now_ms=lambda: now_ms)


SIGNED_MS = 1_499_899_287_000


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize(
    ("off_ms", "skew_s", "status"),
    [
        (0, 0, 200),
        (300_000, 300, 200),
        (-300_000, 300, 200),
        (300_001, 300, 401),
        (-300_001, 300, 401),
        (500, 0.5, 200),
        (501, 0.5, 401),
        (10**12, None, 200),
    ],
)
def test_a_signature_may_be_off_the_clock_as_far_as_is_set(
    name: str, off_ms: int, skew_s: float | None, status: int
) -> None:
    """In either direction and either form of the date; by default at any distance."""
    date, path, body, digest, _status = VECTORS[name]
    assert at(SIGNED_MS + off_ms, skew_s).post(path, body, signed(date, digest)).status == status


@pytest.mark.parametrize(
    "date", ["", "now", "20170712T224127", "20171312T224127Z", "Wed, 12 Jul 2017 22:41:27", "1e99"]
)
def test_a_date_that_cannot_be_read_is_off_the_clock(date: str) -> None:
    """It is opaque to the signature, though: without a limit it will do."""
    digest = signature("example-api-secret", "POST", date, "/v1/identify", BODY_AB)
    assert at(SIGNED_MS, 10**9).post("/v1/identify", BODY_AB, signed(date, digest)).status == 401
    assert at(SIGNED_MS, None).post("/v1/identify", BODY_AB, signed(date, digest)).status == 200


def test_a_date_with_another_zone_is_read_as_it_is_meant() -> None:
    """HTTP dates name theirs."""
    date = "Thu, 13 Jul 2017 00:41:27 +0200"
    digest = signature("example-api-secret", "POST", date, "/v1/identify", BODY_AB)
    assert at(SIGNED_MS, 0).post("/v1/identify", BODY_AB, signed(date, digest)).status == 200


def test_only_signatures_have_a_date() -> None:
    """Basic and the key alone are not held against the clock."""
    headers = {"Authorization": basic("example-api-key:example-api-secret")}
    assert at(0, 0).post("/v1/identify", BODY_AB, headers).status == 200


@pytest.mark.parametrize("keys", [KEYS, None])
def test_a_disabled_key_is_answered_403(keys: Any) -> None:
    """Without a body, once it is known to be who it says; an unknown one stays a 401."""
    caller = Caller(IdentityStrategy(disabled_keys=["example-api-key"]), api_keys=keys)
    good = caller.post("/v1/identify", BODY_AB, {"Authorization": basic("example-api-key:example-api-secret")})
    assert (good.status, good.raw) == (403, b"")
    bad = caller.post("/v1/identify", BODY_AB, {"Authorization": basic("example-api-key:wrong")})
    assert bad.status == (401 if keys else 403)
    assert caller.post("/v1/identify", BODY_AB, {"x-mp-key": "other"}).status == (401 if keys else 200)


@pytest.mark.parametrize(("key_only", "web", "other"), [("web", 200, 401), ("always", 200, 200), ("never", 401, 401)])
def test_who_may_call_with_the_key_alone_is_a_setting(key_only: Any, web: int, other: int) -> None:
    """Alias requests carry their key in the path and count as the web."""
    caller = Caller(IdentityStrategy(key_only=key_only), api_keys=KEYS)
    body = {"environment": "production", "known_identities": {"email": "ed"}}
    assert caller.post("/v1/identify", {**body, "client_sdk": {"platform": "web"}}, NAME).status == web
    assert caller.post("/v1/identify", body, NAME).status == other
    assert caller.post("/v1/identity/example-api-key/Alias", {}, {}).status == (400 if web == 200 else 401)


def test_keys_may_stand_in_the_strategy() -> None:
    """Those given beside it win."""
    strategy = IdentityStrategy(api_keys=KEYS)
    assert Caller(strategy).post("/v1/identify", BODY_D, {"x-mp-key": "k"}).status == 401
    assert (
        Caller(strategy, api_keys={"k": "s"}).post("/v1/identify", BODY_D, {"Authorization": basic("k:s")}).status
        == 200
    )
    assert "example" not in repr(strategy)
