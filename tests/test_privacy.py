"""Nothing leaks: words that can be searched for go through journeys and trouble of every kind, and are looked for.

Keys and secrets must be nowhere but in the requests. Identities, attributes, consent, device, context and MPID must be
nowhere but in the store, the requests, and what the program asked for. One exception, for people who debug: the repr
of a user shows the MPID, and nothing else does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import inspect
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from canaries import CANARIES, PERSONAL, SECRETS, Objects, Records, captured, leaks, printed, spellings
from http_serving import ServeProcess, serving
from servers import FRONTS, RESET, Driven, RawServer, ServiceServer, http, opened
from storage_helpers import FaultyDisk, tree

import identity_session
from identity_session import (
    AliasRequest,
    AsyncIdentitySession,
    ConsentState,
    IdentityRequest,
    IdentitySession,
    MemoryStorage,
    RetryPolicy,
    StorageError,
    cli,
)
from identity_session.idsync import IdentityStrategy, LocalIDSync
from identity_session.testing.faults import Peer

KEY, SECRET = SECRETS["API key"], SECRETS["API secret"]
MPID = PERSONAL["MPID"]
IDENTITIES = {"email": PERSONAL["email"], "customerid": PERSONAL["customer id"]}
CONSENT = ConsentState().add_gdpr_consent(
    "ads",
    consented=True,
    document=PERSONAL["consent document"],
    location=PERSONAL["consent location"],
    hardware_id=PERSONAL["consent hardware"],
)
ONCE = {"retry": None, "timeout": 1.0}


def answer(mpid: str = MPID, **members: Any) -> dict[str, Any]:
    return {
        "mpid": mpid,
        "context": PERSONAL["context"],
        "is_logged_in": True,
        "matched_identities": IDENTITIES,
        **members,
    }


class Service:
    """Answers every call, and repeats in its answer whatever it was asked."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.trouble:
            raise self.trouble
        mpid = PERSONAL["anonymous MPID"] if request.url.path.endswith("logout") else MPID
        return httpx.Response(200, json=answer(mpid, echo=f"{request.url} {request.headers} {request.content!r}"))


def transport(front: str, handler: Callable[[httpx.Request], httpx.Response]) -> Any:
    async def handle(request: httpx.Request) -> httpx.Response:
        return handler(request)

    return httpx.MockTransport(handler if front == "sync" else handle)


@contextlib.contextmanager
def canary_session(front: str, **settings: Any) -> Iterator[Driven]:
    """A session of which every word is a canary."""
    options = {"device_id": PERSONAL["device"], "workspace_token": PERSONAL["workspace token"], **ONCE, **settings}
    with opened(front, KEY, SECRET, identify_request={"userIdentities": IDENTITIES}, **options) as driven:
        yield driven


def every_call(driven: Driven) -> list[Any]:
    """Each method of a session and of its user once, with canaries. Returns the results."""

    def raising(*heard: Any) -> None:
        raise ValueError(f"{heard} {CANARIES}")

    driven.on_user_identified(raising)
    results = [driven.start(), driven.identify(IDENTITIES and {"userIdentities": IDENTITIES}, raising)]
    results.append(driven.login(IdentityRequest(IDENTITIES), raising))
    hooked = {"userIdentities": {"email": PERSONAL["other email"]}, "onUserAlias": raising}
    results.append(driven.modify(hooked, raising))
    user = driven.current_user
    if user is not None:
        awaited(driven, user.set_attributes({"plan": PERSONAL["attribute"]}))
        awaited(driven, user.set_attribute_list("list", [PERSONAL["attribute in a list"]]))
        awaited(driven, user.set_consent_state(CONSENT))
        assert user.consent_state == CONSENT or driven.opted_out
    results += [driven.search(IDENTITIES, raising), driven.logout(None, raising)]
    users = driven.get_users()
    request = driven.create_alias_request(users[0], users[-1]) if users else None
    results.append(driven.alias_users(request or {"sourceMpid": MPID}, raising))
    driven.touch()
    driven.start_new_session()
    results += [driven.get_user(MPID), driven.current_user, driven.context, driven.session_id]
    driven.set_opt_out(True)
    results.append(driven.login({"userIdentities": IDENTITIES}))
    driven.set_opt_out(False)
    driven.end_session()
    return results


def awaited(driven: Driven, answer: Any) -> Any:
    return driven._run(answer) if inspect.isawaitable(answer) else answer


@contextlib.contextmanager
def nothing_said() -> Iterator[Records]:
    """Nothing inside the block may put a canary into a log record of any logger, or a warning."""
    with Records() as records, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield records
    assert leaks(records.text) == []
    assert leaks("".join(str(warning.message) for warning in caught)) == []


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


# Exceptions


def assert_tells_nothing(error: BaseException, *, given: tuple[str, ...] = ()) -> None:
    """Neither the printed traceback nor, apart from what the program itself gave, the variables of its frames."""
    assert leaks(printed(error)) == []
    assert [name for name in leaks(captured(error)) if name not in given] == []


def test_a_disk_that_fails_at_any_step_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exceptions of setters, with all that led to them and the variables of every frame; results and logs."""
    with canary_session("sync", storage=tmp_path, transport=transport("sync", Service().handle)) as driven:
        driven.start()
        driven.current_user.set_consent_state(CONSENT)
        driven.logout()
        disk, failures = FaultyDisk(monkeypatch, tmp_path), 0
        for change in (
            lambda: driven.current_user.set_attribute("list", "harmless"),
            lambda: driven.get_user(MPID).set_attribute("plan", "harmless"),
            lambda: driven.login(IdentityRequest(IDENTITIES)).body,
        ):
            for step in range(1, 40):
                with nothing_said(), disk.failing(step, errno.ENOSPC):
                    try:
                        text = change()
                        assert not isinstance(text, str) or leaks(text) == []
                    except StorageError as error:
                        failures += 1
                        assert_tells_nothing(error, given=("MPID", "anonymous MPID"))  # of the user who was changed
    assert failures > 10


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a changed letter": lambda content: content.replace(b"canary", b"Canary", 1),
    "cut": lambda content: content[: len(content) // 2],
    "no UTF-8": lambda content: content + b"\xff",
    "a newer schema": lambda content: content.replace(b'"schema_version": 1', b'"schema_version": 99'),
    "a list": lambda content: b"[" + content + b"]",
    "deep": lambda content: content + b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_state_tells_nothing_of_itself(tmp_path: Path, damage: str) -> None:
    def session() -> IdentitySession:
        return IdentitySession(KEY, SECRET, storage=tmp_path, transport=transport("sync", Service().handle), **ONCE)

    with session() as own:
        own.login({"userIdentities": IDENTITIES})
        own.current_user.set_attribute("plan", PERSONAL["attribute"])
    state = next(tmp_path.rglob("state.json"))
    state.write_bytes(DAMAGE[damage](state.read_bytes()))
    with nothing_said() as records:
        try:
            with session() as own:
                assert own.mpid == MPID
        except StorageError as error:
            assert damage == "a newer schema"
            assert_tells_nothing(error, given=("API key", "API secret"))
    assert ("was set aside" in records.text) == (damage != "a newer schema")


ODD: tuple[Callable[[str], Any], ...] = (
    lambda word: word,
    lambda word: f"{word}\ud800\0\n",
    lambda word: word.encode(),
    lambda word: [word],
    lambda word: (word, word),
    lambda word: {word},
    lambda word: {"userIdentities": {"email": [word]}},
    lambda word: {"userIdentities": word},
    lambda word: {"userIdentities": {"email": f"{word}\udcff"}},
    lambda word: {"onUserAlias": word},
    lambda word: {"sourceMpid": word, "destinationMpid": word, "startTime": word, "scope": word},
    lambda word: IdentityRequest({"email": word.encode()}),  # type: ignore[dict-item]
    lambda word: Path(word),
)


def odd_values() -> Iterator[tuple[str, Any]]:
    """Each shape of nonsense, around a personal word and around a secret."""
    for name in ("email", "API secret"):
        for shape in ODD:
            yield name, shape(CANARIES[name])


@FRONTS
@pytest.mark.parametrize("name", [n for n in inspect.signature(IdentitySession).parameters if n != "storage"])
def test_a_wrong_setting_is_refused_without_repeating_it(front: str, name: str) -> None:
    """Except for paths, which are no secrets."""
    kind = IdentitySession if front == "sync" else AsyncIdentitySession
    for canary, value in odd_values():
        settings: dict[str, Any] = {"api_key": KEY, "api_secret": SECRET, "storage": MemoryStorage(), name: value}
        with nothing_said():
            try:
                session = kind(settings.pop("api_key"), settings.pop("api_secret"), **settings)
            except (TypeError, ValueError) as error:
                assert_tells_nothing(error, given=("API key", "API secret", canary))
            else:
                assert leaks(f"{session!r} {session}") == []


METHODS = ("identify", "login", "logout", "modify", "search", "alias_users", "get_user", "set_opt_out")
SETTERS = (
    "set_attribute",
    "set_attributes",
    "set_attribute_list",
    "remove_attribute",
    "set_tag",
    "remove_tag",
    "set_consent_state",
)


@FRONTS
def test_wrong_arguments_are_refused_without_repeating_them(front: str) -> None:
    """By every method of a session and of a user, as argument and as callback."""
    with canary_session(front, transport=transport(front, Service().handle)) as driven:
        driven.start()
        user = driven.current_user
        calls: list[tuple[Any, tuple[Any, ...]]] = [(getattr(driven, name), ()) for name in METHODS]
        calls += [(getattr(driven, name), ({},)) for name in METHODS[:6]]
        calls += [(lambda *a, name=name: awaited(driven, getattr(user, name)(*a)), ()) for name in SETTERS]
        calls += [(lambda *a: awaited(driven, user.set_attribute(*a)), ("key",))]
        calls += [(lambda *a: awaited(driven, user.set_attribute_list(*a)), ("key",))]
        calls += [(driven.on_user_identified, ())]
        calls += [(lambda value: driven.create_alias_request(user, user, value), ())]
        for call, before in calls:
            for canary, value in odd_values():
                with nothing_said():
                    try:
                        result = call(*before, value)
                    except (TypeError, ValueError) as error:
                        assert_tells_nothing(error, given=(canary, *PERSONAL))
                    else:
                        text = getattr(result, "body", None) or getattr(result, "message", None)
                        assert not isinstance(text, str) or leaks(text) == []
                        assert [name for name in leaks(repr(result)) if "MPID" not in name] == []


BUILDERS: dict[str, Callable[[Any], Any]] = {
    "IdentityRequest": IdentityRequest,
    "IdentityRequest of": lambda value: IdentityRequest({"email": value}),
    "AliasRequest": lambda value: AliasRequest(
        source_mpid=value, destination_mpid=value, start_time=value, end_time=value, scope=value
    ),
    "AliasRequest at a time": lambda value: AliasRequest(
        source_mpid=value, destination_mpid=value, start_time=datetime(2026, 1, 1), end_time=None
    ),
    "a good AliasRequest": lambda value: AliasRequest(
        source_mpid=value,
        destination_mpid=value,
        start_time=datetime(2026, 1, 1, tzinfo=UTC),
        end_time=datetime(2026, 1, 1, tzinfo=UTC),
    ),
    "RetryPolicy attempts": lambda value: RetryPolicy(attempts=value),
    "RetryPolicy seconds": lambda value: RetryPolicy(initial_seconds=value, max_seconds=value),
    "consent": lambda value: ConsentState().add_gdpr_consent("ads", consented=value),
    "consent's details": lambda value: ConsentState().add_gdpr_consent(
        "ads", consented=True, document=value, location=value, hardware_id=value
    ),
    "consent's time": lambda value: ConsentState().set_ccpa_consent(consented=True, timestamp=value),
    "a consent state": lambda value: ConsentState(gdpr=value),
    "strategy": lambda value: IdentityStrategy(api_keys=value, disabled_keys=value),
    "strategy's keys": lambda value: IdentityStrategy(api_keys={"key": value}),
    "strategy's disabled keys": lambda value: IdentityStrategy(disabled_keys=[value]),
    "a seeded profile": lambda value: LocalIDSync().seed_profile({"email": value}),
    "a seeded MPID": lambda value: LocalIDSync().seed_profile({}, mpid=value),
    "an import": lambda value: LocalIDSync().import_state(value),
    "faults": lambda value: LocalIDSync().set_faults([{"endpoint": value}]),
    "explained body": lambda value: LocalIDSync().explain("login", value),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_no_other_constructor_or_function_repeats_what_it_refuses_or_shows_what_it_holds(name: str) -> None:
    for canary, value in odd_values():
        with nothing_said():
            try:
                built = BUILDERS[name](value)
            except (TypeError, ValueError) as error:
                assert_tells_nothing(error, given=(canary,))
            else:
                assert type(built) in (str, dict) or leaks(f"{built!r} {built}") == []


def test_every_public_name_was_tried() -> None:
    """A new one has to be added above."""
    tried = {IdentitySession, AsyncIdentitySession, IdentityRequest, AliasRequest, RetryPolicy, ConsentState}
    made_by_calls = {"IdentityResult", "SearchResult", "AliasResult", "IdentityUser", "AsyncIdentityUser"}
    without_values = {"IdentityType", "HTTPCodes", "JsonStorage", "MemoryStorage", "Storage", "__version__"}
    errors = {name for name in identity_session.__all__ if name.endswith("Error")}
    assert {kind.__name__ for kind in tried} | made_by_calls | without_values | errors == {*identity_session.__all__}


# Files


def test_names_of_files_and_folders_tell_nothing_and_no_key_is_on_disk(tmp_path: Path) -> None:
    store, service = tmp_path / "store", tmp_path / "service"
    idsync = LocalIDSync(str(service / "profiles.db"), IdentityStrategy(context="echo"), {KEY: SECRET})
    idsync.seed_profile(IDENTITIES, mpid=MPID)
    with canary_session("sync", storage=store, transport=idsync.transport, cache_identity=True) as driven:
        every_call(driven)
        driven.login({"userIdentities": IDENTITIES})
    state = next(store.rglob("state.json"))
    state.write_bytes(state.read_bytes()[:-9])
    with canary_session("sync", storage=store, transport=idsync.transport) as driven:
        every_call(driven)
        content = b"".join(tree(tmp_path).values()).decode("latin-1")
    idsync.close()
    names = [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")]
    assert any("corrupt" in name for name in names)
    assert any("profiles.db" in name for name in names)
    assert leaks("\n".join(names)) == []
    assert leaks(content, SECRETS) == []
    assert "email" in leaks(content.encode("latin-1").decode(errors="replace"))  # it was the right place to look


# The command line

COMMANDS: dict[str, list[str]] = {
    "start": [],
    "login": ["--identity", f"email={PERSONAL['email']}", "--identity", f"customerid={PERSONAL['customer id']}"],
    "modify": ["--identity", f"email={PERSONAL['other email']}"],
    "search": ["--identity", f"email={PERSONAL['email']}"],
    "status": [],
    "users": [],
    "logout": [],
    "alias": ["--source", MPID, "--destination", MPID],
    "reset": ["--yes"],
}


def as_user(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "IDENTITY_SESSION_API_KEY": KEY,
        "IDENTITY_SESSION_API_SECRET": SECRET,
        "IDENTITY_SESSION_STORAGE": str(tmp_path / "store"),
        "IDENTITY_SESSION_DEVICE_ID": PERSONAL["device"],
        "IDENTITY_SESSION_RETRY": "1",
        "HOME": str(tmp_path),
        **more,
    }


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; returns its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, **settings: str) -> tuple[int, str, str]:
        for name, value in as_user(tmp_path, **settings).items():
            monkeypatch.setenv(name, value)
        with nothing_said():
            code = cli.main(argv)
        return code, *capfd.readouterr()

    return run


def test_commands_print_no_secret_and_personal_words_only_where_asked(run: Any) -> None:
    """In words and as JSON, going well and going wrong; standard error says nothing personal."""
    idsync = LocalIDSync(api_keys={KEY: SECRET})
    idsync.seed_profile(IDENTITIES, mpid=MPID)
    with ServiceServer(idsync) as server:
        for command, options in COMMANDS.items():
            for json_option in ([], ["--json"]):
                _, out, err = run(command, *options, *json_option, IDENTITY_SESSION_BASE_URL=server.url)
                assert leaks(out + err, SECRETS) == [], command
                given = ["MPID"] if command == "alias" else []  # as it was given on the command line
                assert [name for name in leaks(err) if name not in given] == [], command
    for command in ("login", "logout", "modify", "search"):
        code, out, err = run(command, *COMMANDS[command], IDENTITY_SESSION_BASE_URL="http://127.0.0.1:1/v1")
        assert (code, leaks(out + err)) == (1, []), command


def test_a_process_that_crashes_dumps_no_value(tmp_path: Path) -> None:
    """By faulthandler, in the middle of a call, in Python's development mode."""
    with RawServer([Peer.hold]) as server:
        program = [sys.executable, "-X", "dev", "-m", "identity_session", "start", "--timeout", "60"]
        environment = {**os.environ, **as_user(tmp_path, IDENTITY_SESSION_BASE_URL=server.url)}
        with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            while not server.requests and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGABRT)
            dump = process.stdout.read().decode()  # type: ignore[union-attr]
    assert "core.py" in dump or "session.py" in dump
    assert leaks(dump) == []


WRONG_USAGE = {
    "a secret in place of the command": [SECRET],
    "a secret as an option": ["login", "--api-secret", SECRET],
    "a secret glued to an unknown option": ["login", f"-k{SECRET}"],
    "a secret glued to a misspelt option": ["login", f"--api-secrt={SECRET}"],
    "a secret without an option": ["login", SECRET],
    "an identity without a type": ["login", "--identity", PERSONAL["email"]],
    "an identity that cannot be sent": ["login", "--identity", f"email={PERSONAL['email']}\udcff"],
    "a password in a URL": ["explain", "--base-url", f"http://user:{SECRET}@127.0.0.1:1/v1"],
    "a password in the URL of the service": ["login", "--base-url", f"https://user:{SECRET}@127.0.0.1:1/v1"],
}


@pytest.mark.parametrize("usage", WRONG_USAGE)
def test_wrong_usage_is_not_repeated_when_it_may_be_a_secret(run: Any, usage: str) -> None:
    code, out, err = run(*WRONG_USAGE[usage])
    assert (code, out, leaks(err)) == (2, "", [])
    assert err.startswith("identity-session: ")


# The service


def test_a_service_process_shows_no_secret_and_no_value(tmp_path: Path) -> None:
    """Not in what it prints, nor in the command lines and environments of the processes that it starts."""
    config, token = tmp_path / "idsync.toml", tmp_path / "token"
    config.write_text(
        f'context = "echo"\ndisabled_keys = ["{SECRETS["password"]}"]\n[api_keys]\n"{KEY}" = "{SECRET}"\n'
    )
    token.write_text(SECRETS["token"])
    options = (
        "--config",
        str(config),
        "--token-file",
        str(token),
        "--database",
        str(tmp_path / "db"),
        "--workers",
        "2",
    )
    with ServeProcess(*options) as service:
        with IdentitySession(KEY, SECRET, base_url=service.url, storage=MemoryStorage(), **ONCE) as session:
            assert session.login({"userIdentities": IDENTITIES}).http_code == 200
        headers = {"x-mp-key": KEY, "authorization": f"Bearer {SECRETS['token']}"}
        broken = json.dumps({"environment": PERSONAL["attribute"], "known_identities": IDENTITIES})
        assert service.post("/v1/login", broken.encode()[:-2], headers).status >= 400
        assert service.post(f"/v1/{MPID}/modify", broken.encode(), headers).status >= 400
        assert service.post(f"/v1/identity/{KEY}/Alias", {"data": IDENTITIES}, headers).status >= 400
        assert service.emulator("POST", "import", {"profiles": [IDENTITIES]}, headers).status == 400
        calls = service.emulator("GET", "calls", headers=headers)
        workers = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
        children = workers.read_text().split() if workers.exists() else []
        seen = [
            "".join(map(str, Path(f"/proc/{pid}/{what}").read_bytes().split(b"\0")))
            for pid in children
            for what in ("cmdline", "environ")
        ]
        code, out, err = service.end()
    assert (code, leaks(out + err)) == (0, [])
    assert leaks(json.dumps(calls.body), {**SECRETS, **{k: v for k, v in PERSONAL.items() if "MPID" not in k}}) == []
    assert leaks("".join(seen)) == []
    assert len(children) >= 2 or not workers.exists()


def test_what_fails_inside_the_service_is_logged_without_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idsync = LocalIDSync(api_keys={KEY: SECRET})

    def failing(*arguments: Any) -> None:
        raise RuntimeError(f"{arguments} {CANARIES}")

    monkeypatch.setattr("identity_session.idsync.service.prepare", failing)
    monkeypatch.setattr(idsync, "import_state", failing)
    with nothing_said() as records, serving(idsync) as client:
        records.open()
        with IdentitySession(KEY, SECRET, base_url=client.url, storage=MemoryStorage(), **ONCE) as session:
            result = session.login({"userIdentities": IDENTITIES})
        for target in (f"/v1/{MPID}/modify", f"/v1/identity/{KEY}/Alias", f"/emulator/profiles/{MPID}"):
            client.post(target, {"data": IDENTITIES}, {"x-mp-key": KEY})
        imported = client.emulator("POST", "import", {"profiles": [IDENTITIES]})
    assert (result.http_code, imported.status) == (500, 500)
    assert leaks(f"{result.body} {imported.body}") == []
    assert "RuntimeError at" in records.text


CONFIGURATIONS = {
    "keys without their heading": f'"{KEY}" = "{SECRET}"',
    "a key twice": f'[api_keys]\n"{KEY}" = "{SECRET}"\n"{KEY}" = "{SECRET}"',
    "a key as a table, twice": f'[api_keys."{KEY}"]\n[api_keys."{KEY}"]',
    "a key and a table": f'[api_keys]\n"{KEY}" = "{SECRET}"\n[api_keys."{KEY}"."a"]\nb = 1',
    "a secret without quotes": f"[api_keys]\n{KEY} = {SECRET}",
    "a secret that does not end": f'[api_keys]\n"{KEY}" = "{SECRET}',
    "a secret with an odd escape": f'[api_keys]\n"{KEY}" = "{SECRET}\\q"',
    "a secret as a list": f'[api_keys]\n"{KEY}" = ["{SECRET}"]',
    "a disabled key that is none": f'disabled_keys = "{KEY}"',
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_wrong_configuration_is_refused_without_its_keys(
    tmp_path: Path, configuration: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "idsync.toml").write_text(CONFIGURATIONS[configuration])
    with pytest.raises(ValueError, match=r"configuration|setting|api_keys|disabled_keys") as caught:
        IdentityStrategy.from_toml(tmp_path / "idsync.toml")
    assert leaks(printed(caught.value)) == []
    assert cli.main(["serve", "--config", str(tmp_path / "idsync.toml")]) == 2
    assert leaks("".join(capfd.readouterr())) == []


@pytest.mark.parametrize(
    "database",
    [
        f"postgresql://user:{SECRETS['password']}@127.0.0.1:1/db",
        f"postgresql://user:{SECRETS['password']}@127.0.0.1:port/db",
        f"postgresql://user:{SECRETS['password']}@127.0.0.1/db?no_such_option={SECRETS['password']}",
        f"postgresql:///db?password={SECRETS['password']}&host=/no/such/folder",
        f"mysql://user:{SECRETS['password']}@127.0.0.1/db",
    ],
)
def test_a_database_that_cannot_be_used_is_refused_without_its_password(
    database: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg")
    with nothing_said(), pytest.raises((ValueError, StorageError)) as caught:
        LocalIDSync(database)
    assert leaks(printed(caught.value)) == []
    assert cli.main(["serve", "--database", database]) == 2
    assert leaks("".join(capfd.readouterr())) == []
