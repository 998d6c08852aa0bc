"""The wire over real sockets: every row of the documented tables of statuses, bodies and headers.

Sources: documentation page "HTTP API" of IDSync; the recorded answers and clients of the three SDKs.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from http_serving import PATIENCE_SECONDS, Client, request_on, serving
from idsync_driver import KEY

from identity_session.idsync import IdentityStrategy, LocalIDSync
from identity_session.signing import signature

API_KEY, SECRET = "example-api-key", "example-api-secret"
IDENTIFY = {"environment": "development", "known_identities": {"customerid": "1"}}
ALIAS = "/v1/identity/example-api-key/Alias"


@pytest.fixture(scope="module")
def strict() -> Iterator[Client]:
    """A service that checks keys and signatures."""
    with serving(LocalIDSync(api_keys={API_KEY: SECRET})) as served:
        yield served


@pytest.fixture(autouse=True)
def _afresh(idsync: LocalIDSync) -> None:
    idsync.reset()
    idsync.set_faults([])


def alias_body(source: str, destination: str) -> dict[str, Any]:
    data = {"source_mpid": source, "destination_mpid": destination, "scope": "device"}
    return {"request_type": "alias", "environment": "development", "api_key": API_KEY, "data": data}


class TestStatuses:
    def test_200_names_the_profile(self, client: Client) -> None:
        """The MPID is text, and the context null."""
        answer = client.call("login", {"customerid": "1"})
        assert answer.status == 200
        assert re.fullmatch(r"-?[1-9][0-9]*", answer.mpid)
        assert answer.body == {
            "context": None,
            "mpid": answer.mpid,
            "is_ephemeral": False,
            "is_logged_in": True,
            "matched_identities": {},
        }

    def test_202_accepts_an_alias_without_a_body(self, client: Client) -> None:
        source, known = client.seed(device_application_stamp="d"), client.seed(customerid="1")
        answer = client.post(ALIAS, alias_body(source, known), {})
        assert (answer.status, answer.raw) == (202, b"")
        assert client.emulator("GET", "aliases").body["aliases"][0]["state"] == "pending"

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"environment":"x","known_identities":{}}', b"\xff"])
    def test_400_in_both_shapes(self, client: Client, body: bytes) -> None:
        """One object that the HTTP page's readers and the Web SDK understand."""
        answer = client.post("/v1/identify", body)
        assert (answer.status, answer.error[0]) == (400, "INVALID_DATA")
        assert answer.body["Errors"] == answer.body["errors"]
        assert (answer.body["ErrorCode"], answer.body["StatusCode"]) == ("INVALID_DATA", 400)
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.body["RequestId"])

    def test_400_when_there_is_nothing_to_look_up(self, client: Client) -> None:
        assert client.call("identify", {}).error == ("LOOKUP_ERROR", "knownIdentities is empty.")

    def test_400_of_an_alias_is_flat(self, client: Client) -> None:
        answer = client.post(ALIAS, alias_body("1", "1"), {})
        assert answer.status == 400
        assert set(answer.body) == {"code", "message"}

    @pytest.mark.parametrize("headers", [{}, {"x-mp-key": "other"}, {"x-mp-key": API_KEY, "x-mp-signature": "0"}])
    def test_401_has_no_body(self, strict: Client, headers: dict[str, str]) -> None:
        answer = strict.post("/v1/identify", IDENTIFY, headers)
        assert (answer.status, answer.raw) == (401, b"")

    @pytest.mark.parametrize("strategy", ["best_match", "profile_isolation", IdentityStrategy(alias_enabled=False)])
    def test_403_where_aliasing_is_not_provisioned(self, strategy: str | IdentityStrategy) -> None:
        """By the strategy, or for want of it."""
        with serving(LocalIDSync(strategy=strategy)) as client:
            source, known = client.seed(device_application_stamp="d"), client.seed(customerid="1")
            answer = client.post(ALIAS, alias_body(source, known), {})
        assert (answer.status, answer.raw) == (403, b"")

    def test_403_for_a_key_that_may_not_be_used(self) -> None:
        """A page can read it; other keys are served."""
        with serving(LocalIDSync(strategy=IdentityStrategy(disabled_keys=[API_KEY]))) as client:
            for target, headers in (("/v1/identify", {"x-mp-key": API_KEY}), (ALIAS, {})):
                answer = client.post(target, IDENTIFY, headers)
                assert (answer.status, answer.raw) == (403, b"")
                assert answer.headers["access-control-allow-origin"] == "*"
            assert client.post("/v1/identify", IDENTIFY).status == 200

    def test_400_of_a_bare_login(self) -> None:
        """The message that the native SDKs' users know."""
        with serving(LocalIDSync(strategy="profile_isolation")) as client:
            error = client.call("login", {"device_application_stamp": "d"}).error
        assert error == ("LOOKUP_ERROR", "CleanCutStrategy login action is missing the login identity type.")

    def test_404_of_a_search_says_so_and_of_a_modify_nothing(self, client: Client) -> None:
        search = client.call("search", {"customerid": "nobody"})
        assert (search.status, search.error[0]) == (404, "NOT_FOUND_ERROR")
        modify = client.modify("17", ("email", None, "a@example.com"))
        assert (modify.status, modify.raw) == (404, b"")

    @pytest.mark.parametrize(
        "target", ["/", "/v1", "/v1/", "/v2/identify", "/v1/identify/", "/v1/Identify", "//v1/identify"]
    )
    def test_404_for_other_paths(self, client: Client, target: str) -> None:
        assert client.post(target, IDENTIFY).status == 404

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE"])
    def test_405_names_the_methods(self, client: Client, method: str) -> None:
        answer = client.request(method, "/v1/identify")
        assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS")

    def test_429_says_when_to_come_again(self, client: Client, idsync: LocalIDSync) -> None:
        idsync.set_faults([{"endpoint": "*", "times": 1, "status": 429, "retry_after": 2}])
        answer = client.call("identify", {"customerid": "1"})
        assert (answer.status, answer.headers["retry-after"], answer.error[0]) == (429, "2", "TOO_MANY_REQUESTS")
        assert client.call("identify", {"customerid": "1"}).status == 200

    @pytest.mark.parametrize("limit", ["key", "hot"])
    def test_429_of_a_limit_names_it(self, limit: str) -> None:
        """And what is used of it while there is room."""
        strategy = IdentityStrategy(**{f"{limit}_rate_per_s": 0.5, f"{limit}_burst": 2})
        with serving(LocalIDSync(strategy=strategy, now_ms=lambda: 1_700_000_000_000)) as client:
            shares = [
                client.call("identify", {"customerid": "1"}).headers["x-mp-rate-limit-percentage-used"]
                for _ in range(2)
            ]
            answer = client.call("identify", {"customerid": "1"})
        assert (shares, answer.status, answer.error[0]) == (["50", "100"], 429, "TOO_MANY_REQUESTS")
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["x-mp-rate-limit-exceeded"] == {"key": "app", "hot": "workspace"}[limit]

    def test_500_when_the_service_itself_fails(
        self, client: Client, idsync: LocalIDSync, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As the Web SDK's tests have it, and open to a page."""

        def fail(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr("identity_session.idsync.calls.decide", fail)
        answer = client.call("identify", {"customerid": "1"})
        assert (answer.status, answer.error) == (500, ("INTERNAL_ERROR", "An unknown error was encountered."))
        assert (answer.body["ErrorCode"], answer.body["RequestId"]) == ("INTERNAL_ERROR", None)
        assert answer.headers["access-control-allow-origin"] == "*"

    @pytest.mark.parametrize("status", [204, 304, 302, 500, 502, 503, 504])
    def test_any_status_on_demand(self, client: Client, idsync: LocalIDSync, status: int) -> None:
        """Those without a body among them; the connection goes on."""
        idsync.set_faults([{"endpoint": "login", "times": 1, "status": status}])
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=PATIENCE_SECONDS)
        statuses = [request_on(connection, "POST", "/v1/login", IDENTIFY, KEY).status for _ in range(2)]
        connection.close()
        assert statuses == [status, 200]
        assert len(idsync.profiles()) == 1

    @pytest.mark.parametrize("kind", ["garbage", "html"])
    def test_a_200_that_is_no_json(self, client: Client, idsync: LocalIDSync, kind: str) -> None:
        idsync.set_faults([{"endpoint": "login", "times": 1, kind: True}])
        answer = client.call("login", {"customerid": "1"})
        assert answer.status == 200
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(answer.raw)
        assert idsync.profiles() == []


class TestHeaders:
    def test_those_of_every_answer(self, client: Client) -> None:
        """Success and error alike."""
        for answer in (
            client.call("identify", {"customerid": "1"}),
            client.call("identify", {}),
            client.post("/x", b""),
        ):
            assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-mp-trace-id"])
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["access-control-expose-headers"].lower() == "x-mp-max-age"
            assert "server" not in answer.headers
            if answer.raw:
                assert answer.headers["content-type"] == "application/json; charset=utf-8"

    def test_how_long_an_answer_keeps(self, client: Client) -> None:
        """Identify, login and search say it; modify and logout do not."""
        mpid = client.call("login", {"customerid": "1"}).mpid
        for name in ("identify", "login", "search"):
            assert client.call(name, {"customerid": "1"}).headers["x-mp-max-age"] == "86400"
        assert "x-mp-max-age" not in client.call("logout", {"device_application_stamp": "d"}).headers
        assert "x-mp-max-age" not in client.modify(mpid, ("email", None, "a@example.com")).headers

    def test_gzip_is_unpacked_before_the_signature_is_checked(self, strict: Client) -> None:
        """The signature covers the plain JSON, in both forms of the date."""
        body = json.dumps(IDENTIFY).encode()
        for date in ("20170712T224127Z", "Wed, 12 Jul 2017 22:41:27 GMT"):
            signed = signature(SECRET, "POST", date, "/v1/identify", body)
            headers = {"x-mp-key": API_KEY, "date": date, "x-mp-signature": signed, "content-encoding": "gzip"}
            assert strict.post("/v1/identify", gzip.compress(body), headers).status == 200
            assert strict.post("/identity/v1/identify", gzip.compress(body), headers).status == 200

    def test_a_signature_covers_the_query_as_sent(self, strict: Client) -> None:
        body = json.dumps(IDENTIFY).encode()
        target = "/v1/search?cb=1&x=%7e"
        signed = signature(SECRET, "POST", "20170712T224127Z", target, body)
        headers = {"x-mp-key": API_KEY, "date": "20170712T224127Z", "x-mp-signature": signed}
        assert strict.post(target, body, headers).status in (200, 404)
        assert strict.post("/v1/search?cb=1&x=~", body, headers).status == 401

    def test_basic_and_the_key_of_the_web(self, strict: Client) -> None:
        pair = base64.b64encode(f"{API_KEY}:{SECRET}".encode()).decode()
        assert strict.post("/v1/identify", IDENTIFY, {"authorization": f"Basic {pair}"}).status == 200
        assert strict.post("/v1/identify", IDENTIFY, {"x-mp-key": API_KEY}).status == 401
        web = {**IDENTIFY, "client_sdk": {"platform": "web"}}
        assert strict.post("/v1/identify", web, {"x-mp-key": API_KEY}).status == 200

    def test_what_is_accepted_or_sent_as_type_does_not_matter(self, client: Client) -> None:
        """The Web SDK asks for plain text and reads JSON."""
        headers = {**KEY, "accept": "text/plain;charset=UTF-8", "content-type": "text/plain"}
        answer = client.post("/v1/identify", IDENTIFY, headers)
        assert answer.headers["content-type"].startswith("application/json")


class TestCORS:
    @pytest.mark.parametrize("target", ["/v1/identify", "/v1/1/modify", ALIAS, "/identity/v1/login", "/elsewhere"])
    def test_a_preflight_is_answered_on_every_path(self, strict: Client, target: str) -> None:
        """Without a key, since browsers send none."""
        asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
        answer = strict.request("OPTIONS", target, headers=asked)
        assert (answer.status, answer.raw) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "POST, OPTIONS"
        allowed = set(answer.headers["access-control-allow-headers"].split(", "))
        assert allowed == {"content-type", "x-mp-key", "accept", "x-mp-signature", "authorization"}
        assert int(answer.headers["access-control-max-age"]) > 0

    def test_a_page_can_read_errors(self, strict: Client, client: Client, idsync: LocalIDSync) -> None:
        """401, 404, 405, 413 and 429 as well, or the page would see a network error."""
        idsync.set_faults([{"endpoint": "login", "status": 429}])
        answers = [
            strict.post("/v1/identify", IDENTIFY, {}),
            client.post("/elsewhere", IDENTIFY),
            client.request("GET", "/v1/identify"),
            client.post("/v1/identify", b"x" * 300_000),
            client.post("/v1/login", IDENTIFY),
        ]
        assert [answer.status for answer in answers] == [401, 404, 405, 413, 429]
        assert {answer.headers["access-control-allow-origin"] for answer in answers} == {"*"}

    @pytest.mark.parametrize(
        "target", ["/emulator", "/emulator/", "/emulator/profiles", "/emulator/x", "/openapi.json"]
    )
    def test_there_is_none_beside_the_identity_api(self, client: Client, target: str) -> None:
        for method in ("OPTIONS", "GET", "POST"):
            answer = client.request(method, target, b"{}")
            assert not [name for name in answer.headers if name.startswith("access-control")]


class TestPaths:
    @pytest.mark.parametrize("prefix", ["/v1", "/identity/v1"])
    @pytest.mark.parametrize("name", ["identify", "login", "logout"])
    def test_identity_calls_with_and_without_a_prefix(self, client: Client, prefix: str, name: str) -> None:
        assert client.call(f"{prefix}/{name}", {"customerid": "1"}).status in (200, 400)
        assert client.call(f"{prefix}/identify?cb=1", {"customerid": "1"}).status == 200

    @pytest.mark.parametrize("prefix", ["", "/webevents", "/nativeevents"])
    @pytest.mark.parametrize("word", ["Alias", "alias", "ALIAS"])
    def test_alias_in_any_case_and_behind_every_prefix(self, client: Client, prefix: str, word: str) -> None:
        source, known = client.seed(device_application_stamp="d"), client.seed(customerid="1")
        assert client.post(f"{prefix}/v1/identity/k/{word}", alias_body(source, known), {}).status == 202

    def test_read_only_and_return_matches(self, client: Client) -> None:
        assert client.call("/v1/identify?read_only=true", {"customerid": "1"}).status == 404
        assert client.profiles() == []
        assert "matched_identities" not in client.call("/v1/identify?return_matches=false", {"customerid": "1"}).body

    def test_one_connection_serves_many_calls(self, client: Client) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=PATIENCE_SECONDS)
        connection.connect()
        sock = connection.sock
        for name in ("identify", "login", "search", "identify"):
            assert request_on(connection, "POST", f"/v1/{name}", IDENTIFY, KEY).status == 200
        assert connection.sock is sock
        connection.close()

    def test_a_context_on_demand(self) -> None:
        """Null unless the answer itself is to be echoed, in Base64."""
        with serving(LocalIDSync(strategy=IdentityStrategy(context="echo"))) as client:
            body = client.call("identify", {"customerid": "1"}).body
        assert json.loads(base64.b64decode(body["context"])) == {**body, "context": None}


def test_settings_reach_the_wire() -> None:
    """Error shape and age of answers are the strategy's."""
    with serving(LocalIDSync(strategy=IdentityStrategy(error_shape="http", max_age_s=5))) as client:
        assert set(client.call("identify", {}).body) == {"errors"}
        assert client.call("identify", {"customerid": "1"}).headers["x-mp-max-age"] == "5"
