"""What the service answers: bodies, error shapes, headers, and the query parameters that change them."""

from __future__ import annotations

import base64
import json
import logging
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import ClassVar

import pytest
from idsync_driver import KEY, Caller

from identity_session.idsync import IdentityStrategy
from identity_session.idsync.memory import MemoryStore
from identity_session.idsync.profiles import WAIT_SECONDS, Identity, Transaction
from identity_session.idsync.service import Service

ED = {"environment": "production", "known_identities": {"customerid": "A", "email": "ed"}}


def test_an_answer_has_the_recorded_members() -> None:
    """The MPID is text, since it does not fit a JSON number of every reader."""
    answer = Caller(seed=1).call("identify", {"customerid": "A"})
    mpid = answer.body.pop("mpid")
    assert isinstance(mpid, str)
    assert str(int(mpid)) == mpid
    assert {**answer.body, "mpid": None} == {
        "context": None,
        "mpid": None,
        "matched_identities": {},
        "is_ephemeral": False,
        "is_logged_in": True,
    }


def test_text_beyond_ascii_comes_back_as_it_was() -> None:
    """In UTF-8."""
    caller = Caller()
    caller.seed(customerid="zoë-😀")
    assert caller.call("identify", {"customerid": "zoë-😀"}).body["matched_identities"] == {"customerid": "zoë-😀"}


def test_headers_of_a_success() -> None:
    """Content type, a trace ID of 32 hex digits that is new each time, and what a page may read."""
    caller = Caller()
    first, second = caller.call("identify", {"email": "ed"}), caller.call("identify", {"email": "ed"})
    trace = first.headers["x-mp-trace-id"]
    assert (len(trace), trace) == (32, f"{int(trace, 16):032x}")
    assert trace != second.headers["x-mp-trace-id"]
    assert first.headers["content-type"] == "application/json; charset=utf-8"
    assert first.headers["access-control-allow-origin"] == "*"
    assert first.headers["access-control-expose-headers"] == "X-MP-Max-Age"


@pytest.mark.parametrize("max_age_s", [86400, 0])
def test_only_answers_that_may_be_cached_carry_a_max_age(max_age_s: int) -> None:
    """identify, login and search; 0 is said too, since the Web SDK takes a missing header for a day."""
    caller = Caller(IdentityStrategy("profile_conversion", max_age_s=max_age_s))
    mpid = caller.seed(email="ed")
    for call in ("identify", "login", "search"):
        assert caller.call(call, {"email": "ed"}).headers["x-mp-max-age"] == str(max_age_s)
    assert "x-mp-max-age" not in caller.call("logout", {"other": "o"}).headers
    assert "x-mp-max-age" not in caller.modify(mpid).headers
    assert "x-mp-max-age" not in caller.call("search", {"email": "nobody"}).headers


def test_context_echo_is_the_answer_in_base64() -> None:
    """By choice; by default the context is null, as recorded."""
    body = Caller(IdentityStrategy(context="echo")).call("identify", {"email": "ed"}).body
    echoed = json.loads(base64.b64decode(body["context"]))
    assert echoed == {**body, "context": None}


@pytest.mark.parametrize("shape", ["both", "http", "sdk"])
def test_error_shapes(shape: str) -> None:
    """As the HTTP API page shows them, as the Web SDK reads them, or both in one object."""
    caller = Caller(IdentityStrategy(error_shape=shape))
    body = {"environment": "production", "known_identities": {}, "request_id": "request-1"}
    answer = caller.post("/v1/identify", body)
    entries = [{"code": "LOOKUP_ERROR", "message": "knownIdentities is empty."}]
    http = {"errors": entries}
    sdk = {"Errors": entries, "ErrorCode": "LOOKUP_ERROR", "StatusCode": 400, "RequestId": "request-1"}
    assert answer.status == 400
    assert answer.body == {"both": {**http, **sdk}, "http": http, "sdk": sdk}[shape]


def test_an_error_names_the_request_or_a_new_id() -> None:
    """Without a request ID, or with one that is no text, there is a new one; a faulty body's is still used."""
    caller = Caller()
    assert caller.post("/v1/identify", {"request_id": "mine"}).body["RequestId"] == "mine"
    for body in ({}, {"request_id": 5}, {"request_id": ""}):
        assert uuid.UUID(caller.post("/v1/identify", body).body["RequestId"])


def test_a_search_without_a_match() -> None:
    """A 404 that does not say which identity failed."""
    answer = Caller("best_match").call("search", {"email": "ed", "other": "o"})
    assert (answer.status, answer.error) == (404, ("NOT_FOUND_ERROR", "No profile matches."))


@pytest.mark.parametrize("target", ["/v1/identify", "/v1/5/modify", "/anything?cb=1"])
def test_a_preflight_is_answered_on_every_path(target: str) -> None:
    """Browsers ask before the Web SDK's calls, without a key."""
    answer = Service(BrokenStore(), IdentityStrategy()).handle("OPTIONS", target, {}, b"").answer
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "POST, OPTIONS"
    assert set(answer.headers["access-control-allow-headers"].split(", ")) == {
        "content-type",
        "x-mp-key",
        "accept",
        "x-mp-signature",
        "authorization",
    }
    assert int(answer.headers["access-control-max-age"]) > 0


def test_calls_are_made_with_post() -> None:
    """Another method on a path of the API is a 405."""
    answer = Service(BrokenStore(), IdentityStrategy()).handle("GET", "/v1/identify", KEY, b"").answer
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST, OPTIONS", b"")


def test_a_page_can_read_every_error() -> None:
    """Without these headers it would see a network error only."""
    caller = Caller("profile_isolation", api_keys={"k": "s"})
    answers = [
        caller.post("/v1/identify", b"{}", {}),
        caller.post("/v1/identity/k/Alias", {}),
        caller.post("/nowhere", {}),
        caller.post("/v1/identify", b"x" * 300_000),
    ]
    for answer in answers:
        assert answer.status >= 400
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-expose-headers"] == "X-MP-Max-Age"


@pytest.mark.parametrize("call", ["identify", "login", "logout"])
def test_read_only_resolves_without_writing(call: str) -> None:
    """Who would be returned is; where somebody would be created, nobody is found."""
    caller = Caller("profile_isolation")
    known, anonymous = caller.seed(email="ed"), caller.seed(ios_idfv="1")
    before = caller.idsync.profiles()
    target = f"/v1/{call}?read_only=true"
    expected = anonymous if call == "logout" else known
    answer = caller.call(target, {"email": "ed", "ios_idfv": "1", "other": "o"})
    assert (answer.status, answer.mpid) == (200, expected)
    missing = caller.call(target, {"email": "new", "ios_idfv": "9"})
    assert (missing.status, missing.error[0]) == (404, "NOT_FOUND_ERROR")
    assert caller.idsync.profiles() == before
    assert caller.call(f"/v1/{call}?read_only=false", {"email": "new", "ios_idfv": "9"}).status == 200


def test_matches_are_returned_unless_they_are_not_wanted() -> None:
    """SDKs never ask for them and get them."""
    caller = Caller()
    caller.seed(email="ed")
    for query, present in (("", True), ("?return_matches=true", True), ("?return_matches=False", False)):
        answer = caller.call("/v1/identify" + query, {"email": "ed"})
        assert ("matched_identities" in answer.body) is present


class LockingStore(MemoryStore):
    """Notes what each transaction names before it begins."""

    named: ClassVar[list[tuple[set[Identity], int | None]]] = []

    def transaction(
        self, identities: Iterable[Identity] = (), mpid: int | None = None, seconds: float = WAIT_SECONDS
    ) -> AbstractContextManager[Transaction]:
        self.named.append((set(identities), mpid))
        return super().transaction()


def test_a_store_is_told_whom_a_request_names_before_it_reads() -> None:
    """So that one which locks them can do so in one order; old and new values of a modify are among them. A call
    that is refused or names nobody names the profile that cannot be, as naming nothing would lock everything."""
    service = Service(LockingStore(iter([7]).__next__), IdentityStrategy())
    service.handle("POST", "/v1/identify", KEY, json.dumps(ED).encode())
    change = {"identity_type": "email", "old_value": "ed", "new_value": "henry"}
    added = {"identity_type": "other", "old_value": None, "new_value": "o"}
    body = {"environment": "production", "identity_changes": [change, added]}
    served = service.handle("POST", "/v1/7/modify", KEY, json.dumps(body).encode())
    assert served.answer is not None
    assert served.answer.status == 200
    service.handle("POST", "/v1/identify", KEY, b"{}")
    service.handle("POST", "/v1/0/modify", KEY, b'{"environment":"production","identity_changes":[]}')
    assert LockingStore.named == [
        ({("customerid", "A"), ("email", "ed")}, None),
        ({("email", "ed"), ("email", "henry"), ("other", "o")}, 7),
        (set(), 0),
        (set(), 0),
        (set(), 0),
    ]


class BrokenStore:
    """A store that fails, with an identity value in its message."""

    errors: tuple[type[Exception], ...] = ()

    def transaction(
        self, identities: Iterable[Identity] = (), mpid: int | None = None, seconds: float = WAIT_SECONDS
    ) -> AbstractContextManager[Transaction]:
        raise RuntimeError("disk full while writing ed@example.com")


def test_a_fault_of_the_service_is_a_500_and_logged_without_its_data(caplog: pytest.LogCaptureFixture) -> None:
    """The log says where it happened, and nothing of the request."""
    caplog.set_level(logging.DEBUG)
    body = {"environment": "production", "known_identities": {"email": "ed@example.com"}, "request_id": "mine"}
    service = Service(BrokenStore(), IdentityStrategy())
    answer = service.handle("POST", "/v1/identify", KEY, json.dumps(body).encode()).answer
    entries = [{"code": "INTERNAL_ERROR", "message": "An unknown error was encountered."}]
    sdk = {"Errors": entries, "ErrorCode": "INTERNAL_ERROR", "StatusCode": 500, "RequestId": None}
    assert answer.status == 500
    assert json.loads(answer.body) == {"errors": entries, **sdk}
    assert "RuntimeError at" in caplog.text
    assert "ed@example.com" not in caplog.text


def test_calls_that_go_well_or_are_refused_leave_no_identity_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Nor a key."""
    caplog.set_level(logging.DEBUG)
    caller = Caller(api_keys={"secret-key": "secret"})
    caller.post("/v1/identify", ED, {"x-mp-key": "secret-key"})
    caller.post("/v1/identify", {**ED, "client_sdk": {"platform": "web"}}, {"x-mp-key": "secret-key"})
    assert caplog.text == ""
