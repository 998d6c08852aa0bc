"""Who is answered at all: names in `Host`, pages of other origins, and the token of `/emulator`."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from http_serving import Client, serving
from idsync_driver import KEY

from identity_session.idsync import LocalIDSync
from identity_session.idsync.guard import Guard
from identity_session.idsync.serve import is_loopback, listener

IDENTIFY = b'{"environment":"development","known_identities":{"customerid":"1"}}'
ROUTES = [("POST", "/v1/identify"), ("OPTIONS", "/v1/identify"), ("POST", "/emulator/profiles")]
ROUTES += [("GET", "/emulator/health"), ("GET", "/openapi.json"), ("GET", "/nothing")]
OWN = ["localhost", "LocalHost", "127.0.0.1", "127.0.0.1:1", "localhost:65535", "[::1]", "[::1]:8787", "LOCALHOST:80"]
FOREIGN = ["evil.example", "evil.example:8787", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.2"]
FOREIGN += ["localhost.", "0.0.0.0", "[::]", "[::1", "::1", "user@localhost", "localhost@evil.example", "127.1"]
FOREIGN += ["2130706433", "localhost:80:80", "localhost:x", "localhost, evil.example", "[::1]evil.example", ""]


def status_of(client: Client, method: str, target: str, *lines: str) -> int:
    """The status of a request with exactly these header lines."""
    head = [
        f"{method} {target} HTTP/1.1",
        *lines,
        "x-mp-key: k",
        "Connection: close",
        f"Content-Length: {len(IDENTIFY)}",
    ]
    answer = client.raw("\r\n".join([*head, "", ""]).encode() + IDENTIFY)
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("host", OWN)
def test_its_own_names_are_served(client: Client, host: str) -> None:
    """On any port and in any case."""
    assert status_of(client, "GET", "/emulator/health", f"Host: {host}") == 200
    assert status_of(client, "POST", "/v1/identify", f"host: {host}") == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize(("method", "target"), ROUTES)
def test_other_names_are_refused_everywhere(client: Client, host: str, method: str, target: str) -> None:
    """A name that resolves to this machine is not enough: a page on the web may have made it so."""
    assert status_of(client, method, target, f"Host: {host}") == 403


def test_a_refused_request_writes_nothing(client: Client, idsync: LocalIDSync) -> None:
    """Neither a profile nor a recorded call."""
    idsync.reset()
    assert status_of(client, "POST", "/v1/identify", "Host: evil.example") == 403
    assert status_of(client, "DELETE", "/emulator/profiles", "Host: evil.example") == 403
    assert (idsync.profiles(), idsync.calls()) == ([], [])


def test_a_missing_or_doubled_host_is_refused(client: Client) -> None:
    """Whichever of the two is right."""
    assert status_of(client, "GET", "/emulator/health") == 400
    assert status_of(client, "GET", "/emulator/health", "Host: localhost", "Host: localhost") == 400
    assert client.raw(b"GET /emulator/health HTTP/1.0\r\n\r\n").split(b" ", 2)[1] == b"403"


def test_a_name_in_the_target_does_not_count(client: Client) -> None:
    """A target may name a host as well; the header decides, and such a target is no path of ours."""
    assert status_of(client, "GET", "http://localhost/emulator/health", "Host: evil.example") == 403
    assert status_of(client, "GET", "http://evil.example/emulator/health", "Host: localhost") == 404


def test_the_name_given_with_host_is_served() -> None:
    """Beside the names of the loopback, not instead of them."""
    with serving(LocalIDSync(), Guard("idsync.test")) as client:
        for host in ("idsync.test", "IDSync.test:8787", "localhost"):
            assert status_of(client, "GET", "/emulator/health", f"Host: {host}") == 200
        assert status_of(client, "GET", "/emulator/health", "Host: other.test") == 403
    assert Guard("fe80::1").host_refusal([(b"host", b"[FE80::1]:80")]) is None


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://evil.example"])
def test_pages_of_other_origins_cannot_use_the_emulator(client: Client, idsync: LocalIDSync, origin: str) -> None:
    """A page may send a plain POST without asking first; it is refused, and nothing tells it that it may ask."""
    idsync.reset()
    lines = (f"Host: 127.0.0.1:{client.port}", f"Origin: {origin}")
    assert status_of(client, "POST", "/emulator/profiles", *lines) == 403
    assert idsync.profiles() == []
    for method in ("GET", "OPTIONS", "POST"):
        answer = client.emulator(method, "profiles", b"{}", {"origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_nor_can_they_load_anything_of_it(client: Client, idsync: LocalIDSync, site: str) -> None:
    """A script or an image is asked for without an origin; whether it is there tells a page which MPIDs exist."""
    for mpid in (idsync.seed_profile({"email": "a@example.com"}), "5"):
        assert client.emulator("GET", f"profiles/{mpid}", headers={"sec-fetch-site": site}).status == 403


def test_a_page_of_its_own_origin_may(client: Client) -> None:
    """And so may people who type an address."""
    assert client.emulator("GET", "profiles", headers={"origin": client.root}).status == 200
    for site in ("same-origin", "none"):
        assert client.emulator("GET", "profiles", headers={"sec-fetch-site": site}).status == 200


def test_the_token_opens_the_emulator() -> None:
    """Once there is a token it is demanded, for health too; the Identity API and the description need none."""
    with serving(LocalIDSync(), Guard(token="t0ken", token_needed=True)) as client:
        assert client.emulator("GET", "health").status == 401
        assert client.emulator("GET", "health").headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer", "Bearer t0ke", "bearer t0ken", "Basic t0ken", "t0ken", "Bearer t0ken "):
            status = client.emulator("GET", "profiles", headers={"authorization": wrong}).status
            assert status == (200 if wrong.strip() == "Bearer t0ken" else 401)
        assert client.emulator("GET", "profiles", headers={"authorization": "Bearer t\xf6ken"}).status == 401
        right = {"authorization": "Bearer t0ken"}
        assert client.emulator("POST", "profiles", {"identities": {"email": "a@example.com"}}, right).status == 201
        assert client.call("identify", {"customerid": "1"}).status == 200
        assert client.request("GET", "/openapi.json").status == 200


def test_without_a_token_the_emulator_is_closed_to_others() -> None:
    """On an address that others reach; the answer says what to do."""
    with serving(LocalIDSync(), Guard(token_needed=True)) as client:
        answer = client.emulator("GET", "profiles", headers={"authorization": "Bearer "})
        assert answer.status == 403
        assert "IDENTITY_SESSION_TOKEN" in answer.body["error"]
        assert client.call("identify", {"customerid": "1"}).status == 200


@pytest.mark.parametrize(
    ("addresses", "closed"),
    [
        ([], False),
        (["testserver", "testclient"], False),
        (["localhost", "/run/idsync.sock", ""], False),
        (["127.0.0.1", "127.0.0.2"], False),
        (["::1", "::1"], False),
        (["127.0.0.1", "192.0.2.7"], True),
        (["192.0.2.7", "127.0.0.1"], True),
        (["::1", "2001:db8::7"], True),
        (["fe80::1%eth0", "::1"], True),
        (["0.0.0.0"], True),
    ],
)
def test_other_machines_need_the_token(addresses: list[str], closed: bool) -> None:
    """Whatever served the application: an address of another machine at either end closes the emulator."""
    headers = [(b"host", b"localhost")]
    refusal = Guard().emulator_refusal(headers, addresses)
    assert (refusal.status if refusal else None) == (403 if closed else None)
    right = [*headers, (b"authorization", b"Bearer t0ken")]
    assert Guard(token="t0ken").emulator_refusal(right, addresses) is None


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 200), ("192.0.2.7", 403)])
def test_the_application_tells_who_calls(address: str, status: int) -> None:
    """Under any server; the Identity API is open to all."""
    transport = httpx.ASGITransport(LocalIDSync().app, client=(address, 1))

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            health = await client.get("/emulator/health")
            return [health.status_code, (await client.post("/v1/identify", content=IDENTIFY, headers=KEY)).status_code]

    assert asyncio.run(statuses()) == [status, 200]


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("127.0.0.2", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    """All of 127.0.0.0/8, as only this machine reaches it; an address of all interfaces does not."""
    with listener(host, 0) as sock:
        assert is_loopback(sock) is loopback
