"""The real Web SDK, in a page in a browser, against `identity-session serve`; and the same journey by our own client.

Needs Chromium, Node and the packages of `package.json` beside this file. Without them it is skipped, or fails if
`IDENTITY_SESSION_TEST_REQUIRE` names `browser`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_serving import ServeProcess
from required import absent

from identity_session import IdentityResult, IdentitySession, IdentityUser, MemoryStorage

HERE = Path(__file__).parent
SDK = HERE / "node_modules" / "@mparticle" / "web-sdk" / "dist" / "mparticle.js"
PATIENCE_SECONDS = 120.0

Calls = list[tuple[str, dict[str, str] | None]]
Told = dict[str, Any]

CUSTOMER = {"email": "h.jekyll@example.com", "customerid": "h.jekyll"}
NEW_EMAIL = {"email": "henry@example.com"}
JOURNEY: Calls = [
    ("init", None),
    ("login", CUSTOMER),
    ("modify", NEW_EMAIL),
    ("logout", None),
    ("login", CUSTOMER | NEW_EMAIL),
]
SECOND_DEVICE: Calls = [("init", None), ("login", {"customerid": "h.jekyll"})]


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser's executable, if all that is needed is there."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    missing = [
        text
        for present, text in (
            (found, "Chromium"),
            (shutil.which("node"), "Node"),
            (SDK.exists(), "@mparticle/web-sdk (npm install --no-package-lock, in tests/browser)"),
            ((HERE / "node_modules" / "playwright-core").exists(), "playwright-core (likewise)"),
        )
        if not present
    ]
    if missing:
        absent("browser", f"there is no {', no '.join(missing)}")
    assert found
    return found


@pytest.fixture(scope="module")
def page_url() -> Iterator[str]:
    """The page and the SDK, on a port of their own."""

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return str(SDK if path == "/mparticle.js" else HERE / "page.html")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.05))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/page.html"
    server.shutdown()
    thread.join(10)
    server.server_close()


class Device:
    """A browser profile that plays journeys with the Web SDK."""

    def __init__(self, chromium: str, page_url: str, service: ServeProcess, profile: Path) -> None:
        self._chromium, self._page_url, self._service, self._profile = chromium, page_url, service, profile

    def play(self, calls: Calls) -> tuple[list[Told], list[Told]]:
        """Results as the callbacks had them, and the requests that were sent."""
        task = {
            "executable": self._chromium,
            "profile": str(self._profile),
            "page": f"{self._page_url}?identityUrl=127.0.0.1:{self._service.port}/v1/",
            "identity": self._service.root,
            "calls": calls,
        }
        ran = subprocess.run(
            ["node", str(HERE / "journey.mjs"), json.dumps(task)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert ran.returncode == 0, ran.stderr
        played = json.loads(ran.stdout)
        return played["results"], played["requests"]


class OwnDevice:
    """Plays journeys with our own client, over the network, and keeps what it sent."""

    def __init__(self, service: ServeProcess) -> None:
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Recorder(httpx.HTTPTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                key = request.headers["x-mp-key"]
                outer.requests.append({"path": request.url.path, "key": key, "body": json.loads(request.read())})
                return super().handle_request(request)

        self._transport = Recorder()
        self._session = IdentitySession(
            "web-key",
            base_url=service.url,
            environment="development",
            platform="web",
            storage=MemoryStorage(),
            transport=self._transport,
        )

    def play(self, calls: Calls) -> tuple[list[Told], list[Told]]:
        with self._transport, contextlib.closing(self._session) as session:
            results = [_told(session.start())]  # a result shows its user as of now
            for name, identities in calls[1:]:
                results.append(_told(getattr(session, name)(identities and {"userIdentities": identities})))
            return results, self.requests


def _told(result: IdentityResult[IdentityUser]) -> Told:
    user, previous = result.get_user(), result.get_previous_user()
    return {
        "http_code": result.http_code,
        "mpid": user and user.mpid,
        "identities": user.identities if user else {},
        "is_logged_in": user and user.is_logged_in,
        "previous_mpid": previous and previous.mpid,
    }


@pytest.fixture
def service() -> Iterator[ServeProcess]:
    with ServeProcess() as served:
        yield served


@pytest.fixture
def device(chromium: str, page_url: str, service: ServeProcess, tmp_path: Path) -> Any:
    """Makes a device: each one is a browser profile of its own."""
    return lambda name: Device(chromium, page_url, service, tmp_path / name)


def test_the_web_sdk_plays_its_journey_here(device: Any, service: ServeProcess) -> None:
    """A visitor comes, logs in, changes the email, logs out, logs in; then the customer comes with another browser."""
    results, requests = device("first").play(JOURNEY)
    visitor = results[0]["mpid"]
    nobody = results[3]["mpid"]
    renewed = CUSTOMER | NEW_EMAIL
    assert visitor != nobody
    assert [tuple(result.values()) for result in results] == [
        (200, visitor, {}, False, None),
        (200, visitor, CUSTOMER, True, None),
        (200, visitor, renewed, True, None),
        (200, nobody, {}, False, visitor),
        (200, visitor, renewed, True, nobody),
    ]
    assert {request["key"] for request in requests} == {"web-key"}

    second, more = device("second").play(SECOND_DEVICE)
    assert [result["http_code"] for result in second] == [200, 200]
    assert second[0]["mpid"] not in (visitor, nobody)
    assert (second[1]["mpid"], second[1]["is_logged_in"]) == (visitor, True)

    stamps = [each[0]["body"]["known_identities"]["device_application_stamp"] for each in (requests, more)]
    profiles = {profile["mpid"]: profile["identities"] for profile in service.profiles()}
    assert profiles == {
        visitor: {"customerid": ["h.jekyll"], "email": ["henry@example.com"], "device_application_stamp": stamps},
        nobody: {"device_application_stamp": stamps[:1]},
        second[0]["mpid"]: {"device_application_stamp": stamps[1:]},
    }


def test_our_client_sends_what_the_web_sdk_sends(device: Any, service: ServeProcess) -> None:
    """The same journey by both: equal results, and equal bodies but for ids, times, context and client_sdk."""
    theirs, sent_by_them = device("first").play(JOURNEY)
    assert service.emulator("DELETE", "profiles").status == 204
    ours, sent_by_us = OwnDevice(service).play(JOURNEY)
    assert _alike(sent_by_us) == _alike(sent_by_them)
    told = ("http_code", "identities", "is_logged_in")
    assert [[result[name] for name in told] for result in ours] == [
        [result[name] for name in told] for result in theirs
    ]


def _alike(requests: list[Told]) -> list[Any]:
    """Requests with MPIDs numbered in order of appearance, and without what differs from run to run."""
    numbers: dict[str, str] = {}

    def numbered(mpid: str | None) -> str | None:
        return mpid and numbers.setdefault(mpid, f"user {len(numbers) + 1}")

    alike = []
    for request in requests:
        body = {name: value for name, value in request["body"].items() if name not in ("context", "client_sdk")}
        assert len(body.pop("request_id")) == 36
        assert body.pop("request_timestamp_ms") > 1_500_000_000_000
        assert request["body"]["client_sdk"]["platform"] == "web"
        if body.get("known_identities", {}).get("device_application_stamp"):
            body["known_identities"]["device_application_stamp"] = "the device"
        if "previous_mpid" in body:
            body["previous_mpid"] = numbered(body["previous_mpid"])
        first, _, last = request["path"].rpartition("/")
        path = f"{numbered(first.rpartition('/')[2])}/{last}" if last == "modify" else request["path"]
        alike.append((path, request["key"], body))
    return alike
