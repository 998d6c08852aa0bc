"""Nothing leaks: words that can be searched for go through journeys and trouble of every kind, and are looked for.

Keys and secrets must be nowhere but in the requests. Identities, attributes, consent, device, context and MPID must be
nowhere but in the store, the requests, and what the program asked for. One exception, for people who debug: the repr
of a user shows the MPID, and nothing else does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from canaries import CANARIES, PERSONAL, SECRETS, Objects, leaks, spellings
from canary_sessions import (
    CONSENT,
    IDENTITIES,
    KEY,
    MPID,
    ONCE,
    SECRET,
    Service,
    answer,
    canary_session,
    every_call,
    nothing_said,
    transport,
)
from http_serving import serving
from raw_journeys import EMAIL, JOURNEY, LOGIN, USER, play_journey
from servers import FRONTS, HOLD, RESET, Handler, RawServer, answers, http, opened, user_answer
from servers import MPID as SERVED_MPID

from identity_session import AsyncIdentitySession, IdentityRequest, JsonStorage, MemoryStorage
from identity_session.idsync import IdentityStrategy, LocalIDSync
from identity_session.testing.faults import Peer

# What tests of this file rest on


@pytest.mark.parametrize("name", CANARIES)
def test_a_canary_is_found_however_it_is_spelled(name: str) -> None:
    word = CANARIES[name]
    for text in (f"..{word}..", json.dumps({"a": word}), repr([word]), repr(word.encode()), httpx.QueryParams(a=word)):
        assert name in leaks(str(text))
    for before in range(4):
        for after in range(4):
            assert name in leaks(base64.b64encode(b"x" * before + word.encode() + b"y" * after).decode())
    assert name in leaks(word.encode().hex())
    assert name in leaks(word.upper())
    assert min(map(len, spellings(word))) > 8


# The client


@FRONTS
def test_a_journey_logs_nothing_of_it(front: str, tmp_path: Path) -> None:
    """Through httpx, whose own lines would name the user of a modify."""
    with nothing_said() as records, canary_session(front, transport=transport(front, Service().handle)) as driven:
        results = every_call(driven)
    assert [getattr(each, "http_code", None) for each in results[:6]] == [200] * 6
    assert "a callback raised ValueError" in records.text


def reflect(peer: Peer) -> None:
    """Repeat the request where an answer should begin."""
    request = peer.request()
    if request:
        peer.send(request.raw + b"\r\n\r\n")


def redirect(peer: Peer) -> None:
    request = peer.request()
    if request:
        peer.send(http(307, answer(), location=f"http://127.0.0.1:9{request.target}?key={KEY}", x_echo=MPID))


def reflect_in_a_header(peer: Peer) -> None:
    request = peer.request()
    if request:
        peer.send(b"HTTP/1.1 200 OK\r\nbad header " + request.raw.replace(b"\r\n", b" ") + b"\r\n\r\n")


def too_short(peer: Peer) -> None:
    if peer.request():
        peer.send(http(200, answer())[:-20])


NETWORK_TROUBLE: dict[str, Any] = {
    "an echo in place of an answer": reflect,
    "an echo in a broken header": reflect_in_a_header,
    "a redirect": redirect,
    "a reset": [RESET],
    "a body cut short": too_short,
    "no answer": [Peer.hold],
    "a web page": [http(200, f"<html>{CANARIES}".encode())],
    "a refusal that repeats the request": [http(400, answer(errors=[{"message": MPID}]))],
    "a failure": [http(500, answer())],
}


@FRONTS
@pytest.mark.parametrize("trouble", NETWORK_TROUBLE)
def test_trouble_on_the_network_is_told_without_the_request(front: str, trouble: str) -> None:
    """Neither logs nor the texts of results repeat it; the bodies of answers are handed on as they are."""
    storage = MemoryStorage()
    with canary_session(front, transport=transport(front, Service().handle), storage=storage) as driven:
        driven.start()
    with (
        RawServer(NETWORK_TROUBLE[trouble]) as server,
        nothing_said() as records,
        canary_session(front, base_url=server.url, storage=storage, timeout=0.3) as driven,
    ):
        results = [*every_call(driven)[:6], driven.modify({"userIdentities": IDENTITIES})]
    assert "httpcore" in str(records.names)
    assert server.requests
    texts = [result.body for result in results if isinstance(result.body, str)]
    assert leaks(" ".join(texts)) == []


@FRONTS
@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:1/v1", "https://127.0.0.1:1/v1", "https://no-such-host.invalid/v1"]
)
def test_no_connection_is_told_without_the_request(front: str, base_url: str) -> None:
    with nothing_said(), canary_session(front, base_url=base_url) as driven:
        results = every_call(driven)
    assert results[0].http_code == -1
    assert leaks(" ".join(str(each.body) for each in results[:5])) == []


@FRONTS
def test_a_service_that_cannot_speak_tls_is_told_without_the_request(front: str) -> None:
    with (
        RawServer(lambda peer: peer.send(b"not TLS")) as server,
        nothing_said(),
        canary_session(front, base_url=server.url.replace("http:", "https:")) as driven,
    ):
        results = every_call(driven)
    assert results[0].http_code == -1
    assert leaks(" ".join(str(each.body) for each in results[:5])) == []


@FRONTS
def test_the_password_of_a_proxy_is_never_told(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when it refuses us either."""

    def refuse(peer: Peer) -> None:
        request = peer.request()
        if request:
            peer.send(b"HTTP/1.1 407 " + request.headers["proxy-authorization"].encode() + b"\r\n\r\n")

    with RawServer(refuse) as proxy, Objects() as objects, nothing_said():
        monkeypatch.setenv("HTTPS_PROXY", f"http://canaryuser:{SECRETS['password']}@127.0.0.1:{proxy.port}")
        with canary_session(front) as driven:
            results = every_call(driven)
    encoded = base64.b64encode(f"canaryuser:{SECRETS['password']}".encode()).decode()
    assert proxy.requests[0].headers["proxy-authorization"] == f"Basic {encoded}"
    assert results[0].http_code == -1
    assert leaks(" ".join(str(each.body) for each in results[:5])) == []
    assert only_mpids(objects) == {}


TRANSPORT_TROUBLE = [
    httpx.ConnectError,
    httpx.ReadError,
    httpx.RemoteProtocolError,
    httpx.ReadTimeout,
    OSError,
    ValueError,
    RuntimeError,
    AssertionError,
]


@FRONTS
@pytest.mark.parametrize("kind", TRANSPORT_TROUBLE)
def test_a_transport_whose_exceptions_repeat_the_request_is_not_quoted(front: str, kind: type[Exception]) -> None:
    def failing(request: httpx.Request) -> httpx.Response:
        raise kind(f"{request!r} {request.url} {request.headers} {request.content!r} {CANARIES}")

    storage = MemoryStorage()
    with canary_session(front, transport=transport(front, Service().handle), storage=storage) as driven:
        driven.start()
    with nothing_said(), canary_session(front, transport=transport(front, failing), storage=storage) as driven:
        results = [*every_call(driven)[:6], driven.modify({"userIdentities": IDENTITIES})]
    assert {result.http_code for result in results} <= {-1, -3, -4}
    texts = [result.body for result in results if isinstance(result.body, str)]
    assert any(kind.__name__ in text or "time allowed" in text for text in texts)
    assert leaks(" ".join(texts)) == []


def only_mpids(objects: Objects) -> dict[tuple[str, str], str]:
    """What objects showed, without the MPIDs of users."""
    users = {f"identity_session.views.{name}" for name in ("IdentityUser", "AsyncIdentityUser")}
    return {key: text for key, text in objects.shown.items() if key[0] not in users or "MPID" not in key[1]}


@FRONTS
def test_no_object_of_ours_shows_anything_when_printed(front: str, tmp_path: Path) -> None:
    """Not one that any function, of the client or of the service, ever has as a local variable."""
    strategy = IdentityStrategy(context="echo", api_keys={KEY: SECRET}, disabled_keys=[SECRETS["password"]])
    with Objects() as objects:
        idsync = LocalIDSync(str(tmp_path / "profiles.db"), strategy)
        idsync.seed_profile(IDENTITIES, mpid=MPID)
        carrier = idsync.transport if front == "sync" else idsync.async_transport
        with canary_session(front, transport=carrier, storage=tmp_path / "store") as driven:
            every_call(driven)
        with contextlib.closing(idsync), serving(idsync) as client:
            for path in ("profiles", "calls", "aliases", "export", f"profiles/{MPID}"):
                assert client.emulator("GET", path).status == 200
            body = {"environment": "production", "known_identities": IDENTITIES}
            assert client.emulator("POST", "explain", {"call": "login", "body": body}).status == 200
            assert client.emulator("POST", "lookup", {"identity_type": "email", "value": IDENTITIES["email"]}).body
            assert client.emulator("POST", "import", client.emulator("GET", "export").body).status == 204
        idsync_calls = repr([idsync, idsync.strategy, idsync.transport, idsync.async_transport, idsync.app])
    assert only_mpids(objects) == {}
    assert leaks(idsync_calls) == []


def test_a_debugging_event_loop_logs_nothing() -> None:
    """Asyncio's debug mode logs what each callback and task holds once it is slow; here every one counts as slow."""
    with nothing_said() as records, RawServer(reflect_an_answer) as server, asyncio.Runner(debug=True) as runner:
        runner.get_loop().slow_callback_duration = 0

        async def journey() -> None:
            options = {"base_url": server.url, "storage": MemoryStorage(), "device_id": PERSONAL["device"], **ONCE}
            session = AsyncIdentitySession(KEY, SECRET, **options)
            request = {"userIdentities": IDENTITIES}
            for call in (session.start(), session.login(request), session.modify(request), session.search(IDENTITIES)):
                assert (await asyncio.create_task(call)).http_code == 200
            user = session.current_user
            assert user is not None
            await user.set_attribute("plan", PERSONAL["attribute"])
            await user.set_consent_state(CONSENT)
            await session.get_users()
            await session.close()

        runner.run(journey())
    assert "asyncio" in records.names
    assert "Executing" in records.text


def reflect_an_answer(peer: Peer) -> None:
    while peer.request():
        peer.send(http(200, answer()))


# Journeys on a raw socket

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
        assert not [private for private in (*PRIVATE, SERVED_MPID) if private in text]
    for text in shown:
        assert not [private for private in PRIVATE if private in text]


@FRONTS
def test_a_result_is_raised_without_showing_who_it_was_about(front: str) -> None:
    with RawServer(answers(http(400, {"message": EMAIL}))) as server, opened(front, base_url=server.url) as driven:
        result = driven.login(LOGIN)
        with pytest.raises(Exception, match="400") as raised:
            result.raise_for_error()
        assert EMAIL not in f"{raised.value!r} {raised.value.__cause__} {raised.value.__context__}"
