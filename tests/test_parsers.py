"""Whatever bytes and objects come in, what reads them answers, or raises what it says it raises."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from required import SLOW
from scripted import KEY, Clock
from servers import FRONTS, opened
from storage_helpers import QuickService, read_document, user_file, workspace_of, write_document

from identity_session import (
    AliasRequest,
    IdentityRequest,
    IdentitySession,
    JsonStorage,
    MemoryStorage,
    StorageError,
    cli,
)
from identity_session.cli.arguments import parse
from identity_session.cli.settings import SETTINGS, UsageError
from identity_session.exchange import HTTPAnswer, HTTPRequest
from identity_session.idsync import IdentityStrategy, LocalIDSync, emulator

pytestmark = pytest.mark.slow

QUICK = settings(max_examples=200 if SLOW else 60)

TEXT = st.text(max_size=20) | st.sampled_from(["", "0", "-0", "\ud800", "\0", "a" * 5000, "true", "1e999", "\u202e"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 2**53 + 1, 10**400, -1, 0])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = JSON | st.binary(max_size=20) | st.tuples(TEXT) | st.sets(TEXT, max_size=2) | st.just(object()) | st.just(int)


def members(names: list[str]) -> st.SearchStrategy[Any]:
    """Objects with members of these names, each of which may be anything or be missing."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, JSON)) | st.dictionaries(
        st.sampled_from(names), JSON
    )


def bent(document: Any) -> st.SearchStrategy[Any]:
    """This document with something else in one place of it."""
    return st.tuples(st.sampled_from(list(places(document))), NUMBERS | TEXT | JSON).map(
        lambda bend: replaced(document, *bend)
    )


def places(document: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, value in items:
        yield from ((name, *rest) for rest in places(value))


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copied = document.copy()
    copied[place[0]] = replaced(document[place[0]], place[1:], value)
    return copied


ANSWERS = members(["mpid", "context", "is_logged_in", "is_ephemeral", "matched_identities", "message", "errors"])
BODIES = st.binary(max_size=300) | (ANSWERS | JSON).map(lambda value: json.dumps(value).encode("utf-8", "replace"))
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "date", "x-mp-max-age", "content-type", "content-encoding"]),
    TEXT | st.integers(-(10**12), 10**12).map(str) | st.just("Wed, 21 Oct 2015 07:28:00 GMT"),
)


# What the client reads


class Answering:
    """Gives the same answer to everything."""

    def __init__(self, answer: HTTPAnswer) -> None:
        self.answer = answer

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return self.answer

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return self.answer

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


@FRONTS
@QUICK
@given(status=st.integers(100, 599) | st.just(200), headers=HEADERS, body=BODIES)
def test_there_is_a_result_whatever_the_service_answers(
    front: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    """And the state can be read afterwards."""
    storage = MemoryStorage()
    service = Answering(HTTPAnswer(status, headers, body))
    with opened(front, transport=service, storage=storage, retry=None, cache_identity=True) as driven:
        for result in (
            driven.start(),
            driven.login({"userIdentities": {"email": "a"}}),
            driven.modify({"userIdentities": {"email": "b"}}),
            driven.search({"email": "a"}),
            driven.alias_users({"sourceMpid": "1", "destinationMpid": "2", "startTime": 1, "endTime": 2}),
            driven.logout(),
        ):
            assert result.http_code in (status, -1, -3, -4)
        assert len(driven.get_users()) <= 1
        assert driven.mpid is None or IdentitySession("us1-key", storage=storage).mpid == driven.mpid


# What the store reads


USER = members(
    [
        "mpid",
        "identities",
        "attributes",
        "consent_state",
        "first_seen_ms",
        "last_seen_ms",
        "is_logged_in",
        "is_ephemeral",
    ]
)
STATE = st.fixed_dictionaries(
    {},
    optional={
        "device_application_stamp": JSON,
        "context": JSON,
        "opted_out": JSON,
        "session": JSON | members(["id", "started_ms", "last_activity_ms"]),
        "user": JSON | USER,
        "answers": JSON | st.dictionaries(TEXT, members(["expires_ms", "max_age_ms", "is_logged_in"]), max_size=2),
    },
)
ENVELOPE_NAMES = ("schema_version", "generation", "checksum")
ENVELOPE = members(["schema_version", "generation", "checksum"]) | st.just({})


def live_through(path: Path) -> None:
    """Everything a program may do with what lies there."""
    try:
        session = IdentitySession(KEY, storage=JsonStorage(path), transport=QuickService(), cache_identity=True)
        with session:
            user = session.current_user
            assert user is not None
            user.set_attribute("plan", "gold")
            assert user.attributes["plan"] == "gold" or session.opted_out
            session.login({"userIdentities": {"customerid": "7"}})
            for each in session.get_users():
                assert isinstance(each.mpid, str)
                for name in ("identities", "attributes", "consent_state", "first_seen", "last_seen", "is_logged_in"):
                    getattr(each, name)
                assert all(isinstance(value, str) for value in each.identities.values())
            session.modify({"userIdentities": {"customerid": None}})
            session.set_opt_out(False)
            assert isinstance(session.context, str | None)
            assert session.device_id
    except StorageError:
        pass


@QUICK
@given(
    name=st.sampled_from(["state", "device", "user"]),
    content=STATE | USER | st.dictionaries(TEXT, JSON),
    envelope=ENVELOPE,
)
def test_any_document_with_a_right_checksum_is_read_or_is_a_storage_error(
    name: str, content: dict[str, Any], envelope: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with IdentitySession(KEY, storage=folder, transport=QuickService()) as session:
            session.login({"userIdentities": {"customerid": "7"}})
        workspace = workspace_of(Path(folder))
        file = user_file(workspace, "7") if name == "user" else workspace / f"{name}.json"
        try:
            write_document(file, content, **envelope)
        except (ValueError, OverflowError):
            assume(False)  # texts and numbers that no file can hold
        live_through(Path(folder))


@QUICK
@given(name=st.sampled_from(["state", "device", "user"]), data=st.data())
def test_one_member_of_a_document_that_is_anything_is_survived(name: str, data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with IdentitySession(KEY, storage=folder, transport=QuickService()) as session:
            session.login({"userIdentities": {"customerid": "7"}})
            session.current_user.set_attribute("list", "a")
            if name == "user":
                session.logout()
        workspace = workspace_of(Path(folder))
        file = user_file(workspace, "7") if name == "user" else workspace / f"{name}.json"
        content = {name: value for name, value in read_document(file).items() if name not in ENVELOPE_NAMES}
        other = data.draw(bent(content))
        assume(isinstance(other, dict))
        try:
            write_document(file, other)
        except (ValueError, OverflowError):
            assume(False)  # texts and numbers that no file can hold
        live_through(Path(folder))


@QUICK
@given(name=st.sampled_from(["state.json", "device.json", "state.json.previous"]), content=st.binary(max_size=200))
def test_any_bytes_in_place_of_a_document_are_survived(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with IdentitySession(KEY, storage=folder, transport=QuickService()):
            pass
        (workspace_of(Path(folder)) / name).write_bytes(content)
        live_through(Path(folder))


# What callers give


REQUESTS = (
    OBJECTS
    | members(["userIdentities", "onUserAlias", "copyUserAttributes"])
    | st.fixed_dictionaries({"userIdentities": st.dictionaries(TEXT | st.sampled_from(["email", "other"]), OBJECTS)})
    | st.dictionaries(st.sampled_from(["email", "customerid"]) | TEXT, OBJECTS).map(IdentityRequest)
    | OBJECTS.map(IdentityRequest)  # type: ignore[arg-type]
)
ALIASES = (
    OBJECTS
    | st.dictionaries(
        st.sampled_from(["sourceMpid", "destinationMpid", "startTime", "endTime", "scope"]), OBJECTS | NUMBERS
    )
    | st.builds(
        AliasRequest,
        source_mpid=TEXT,
        destination_mpid=TEXT,
        start_time=st.datetimes(timezones=st.timezones()) | OBJECTS,
        end_time=st.datetimes(timezones=st.timezones()) | OBJECTS,
        scope=OBJECTS,
    )
)


@FRONTS
@QUICK
@given(request_=REQUESTS, alias=ALIASES)
def test_any_request_is_made_or_refused_with_a_code(front: str, request_: Any, alias: Any) -> None:
    answer = HTTPAnswer(200, {}, b'{"mpid": "1"}')
    with opened(front, transport=Answering(answer), identify_request=request_) as driven:
        for result in (
            driven.start(),
            driven.identify(request_),
            driven.login(request_),
            driven.modify(request_),
            driven.logout(request_),
            driven.search(request_),
            driven.alias_users(alias),
        ):
            assert result.http_code in (200, -3, -4)


@QUICK
@given(key=OBJECTS, value=OBJECTS)
def test_any_attribute_or_consent_is_kept_or_is_a_type_or_value_error(key: Any, value: Any) -> None:
    with opened("sync", transport=Answering(HTTPAnswer(200, {}, b'{"mpid": "1"}')), now_ms=Clock()) as driven:
        driven.start()
        user = driven.current_user
        for change in (
            lambda: user.set_attribute(key, value),
            lambda: user.set_attributes(value),
            lambda: user.set_attribute_list(key, value),
            lambda: user.remove_attribute(key),
            lambda: user.set_consent_state(value),
        ):
            before = (user.attributes, user.consent_state)
            try:
                change()
            except (TypeError, ValueError):
                assert (user.attributes, user.consent_state) == before


# What the service reads

TARGETS = st.sampled_from(
    [
        "/v1/identify",
        "/v1/login",
        "/v1/logout",
        "/v1/search",
        "/v1/1/modify",
        "/v1/-5/modify",
        "/v1/%ff/modify",
        "/v1/identity/key/Alias",
        "/identity/v1/login",
        "/",
        "//v1//login",
        "/v1/login?a=%zz&mpid=",
    ]
) | TEXT.map(lambda text: f"/v1/{text}")
CALL_HEADERS = st.dictionaries(
    st.sampled_from(["x-mp-key", "x-mp-signature", "date", "authorization", "content-encoding"]),
    TEXT | st.sampled_from(["gzip", "Basic !!!", "Basic a2V5OnNlY3JldA==", "key", "20260101T000000Z"]),
)
CALL_BODIES = members(
    [
        "client_sdk",
        "environment",
        "request_id",
        "context",
        "previous_mpid",
        "known_identities",
        "identity_changes",
        "data",
    ]
) | st.fixed_dictionaries(
    {
        "environment": st.just("production"),
        "known_identities": JSON | st.dictionaries(TEXT | st.just("email"), JSON),
        "identity_changes": JSON | st.lists(members(["old_value", "new_value", "identity_type"]), max_size=2),
    },
    optional={"previous_mpid": JSON, "client_sdk": JSON, "context": JSON, "request_id": JSON},
)
SENT = st.binary(max_size=200) | (CALL_BODIES | JSON).map(lambda value: json.dumps(value).encode("utf-8", "replace"))


@QUICK
@given(target=TARGETS, headers=CALL_HEADERS, body=SENT, checked=st.booleans())
def test_no_request_makes_the_service_fail(target: str, headers: dict[str, str], body: bytes, checked: bool) -> None:
    """Every one is carried out or refused; none is a fault of the service itself."""
    idsync = LocalIDSync(api_keys={"key": "secret"} if checked else None)
    served = idsync.handle("POST", target, {"x-mp-key": "key", **headers}, body)
    assert served.answer is not None
    assert served.answer.status < 500, served.answer.body
    if served.answer.body:
        json.loads(served.answer.body)
    json.dumps(idsync.export_state())


@QUICK
@given(route=st.sampled_from(emulator.ROUTES), mpid=TEXT.filter(bool), body=SENT, data=st.data())
def test_no_request_makes_the_emulator_fail(route: Any, mpid: str, body: bytes, data: Any) -> None:
    """An import included: 4xx or done."""
    idsync = LocalIDSync()
    idsync.seed_profile({"email": "a"}, mpid="5")
    if "import" in route.path and data.draw(st.booleans()):
        state = json.loads(json.dumps(idsync.export_state()))
        state["profiles"][0][data.draw(st.sampled_from(sorted(state["profiles"][0])))] = data.draw(JSON)
        body = json.dumps(state).encode("utf-8", "replace")
    reply = emulator.answer(emulator.Found(route, mpid), idsync, body)
    assert reply.status < 500
    json.dumps(reply.body)


@QUICK
@given(JSON | members(["format", "version", "profiles", "aliases", "calls"]))
def test_any_state_is_imported_or_is_a_value_error(state: Any) -> None:
    idsync = LocalIDSync()
    idsync.seed_profile({"email": "a"}, mpid="5")
    before = idsync.export_state()
    try:
        idsync.import_state(state)
    except ValueError:
        assert idsync.export_state() == before


@settings(QUICK, max_examples=5 * QUICK.max_examples)
@given(st.data())
def test_an_exported_state_with_anything_in_one_place_is_imported_or_is_a_value_error(data: Any) -> None:
    """And what was imported can be exported, looked at and called."""
    idsync = LocalIDSync()
    for mpid in ("5", "-6"):
        idsync.seed_profile({"email": f"{mpid}@example.com"}, mpid=mpid)
    alias = {"sourceMpid": "5", "destinationMpid": "-6", "startTime": 1, "endTime": 2}
    with IdentitySession(KEY, storage=MemoryStorage(), transport=idsync.transport) as session:
        session.alias_users(alias)
    state = json.loads(json.dumps(idsync.export_state()))
    try:
        idsync.import_state(data.draw(bent(state)))
    except ValueError:
        assert idsync.export_state() == state
    json.dumps([idsync.export_state(), idsync.profiles(), idsync.aliases(), idsync.calls()])
    with IdentitySession(KEY, storage=MemoryStorage(), transport=idsync.transport) as session:
        assert session.login({"userIdentities": {"email": "5@example.com"}}).http_code == 200


SETTING_NAMES = [each.name for each in fields(IdentityStrategy)]
TYPES = st.lists(st.sampled_from(["email", "customerid", "other", "shoe_size"]), max_size=3)
TABLES = st.dictionaries(st.sampled_from(SETTING_NAMES) | TEXT, OBJECTS | TYPES, max_size=5)


@QUICK
@given(TABLES)
def test_any_table_is_a_strategy_or_a_value_error(table: dict[str, Any]) -> None:
    try:
        strategy = IdentityStrategy.from_toml(table)
    except ValueError:
        return
    assert LocalIDSync(strategy=strategy).handle("POST", "/v1/identify", {"x-mp-key": "key"}, b"{}").answer


TOML = st.binary(max_size=100) | st.lists(
    st.tuples(
        st.sampled_from([*SETTING_NAMES, "[api_keys]", "'a b'", '"\\u0000"', "a.b"]),
        st.sampled_from(
            ["'default'", '["email"]', "1", "-1e400", "nan", "{}", "[[", "2026-01-01", "true", "'''", "{a=1}"]
        ),
    ),
    max_size=4,
).map(lambda lines: "\n".join(f"{name} = {value}" for name, value in lines).encode())


@QUICK
@given(content=TOML)
def test_any_configuration_file_is_a_strategy_or_a_value_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "idsync.toml"
        file.write_bytes(content)
        with contextlib.suppress(ValueError):
            IdentityStrategy.from_toml(file)


# What the command line reads

OPTIONS = [setting.option for setting in SETTINGS] + [
    "--identity",
    "--remove",
    "--source",
    "--json",
    "--api-key",
    "--yes",
]
WORDS = (
    st.sampled_from(["start", "login", "modify", "search", "alias", "status", "users", "serve", "explain", "-", "--"])
    | st.sampled_from(OPTIONS)
    | st.builds("{}={}".format, st.sampled_from(OPTIONS), TEXT)
    | st.builds("{}={}".format, st.sampled_from(["email", "customerid", "shoe_size", ""]), TEXT)
    | TEXT
)


@QUICK
@given(argv=st.lists(WORDS, max_size=6))
def test_any_arguments_are_read_or_are_wrong_usage(argv: list[str]) -> None:
    with contextlib.suppress(UsageError):
        parse([word for word in argv if word not in ("-h", "--help", "--version")])  # these end the program


VALUES = TEXT.filter(lambda text: "\0" not in text and "\ud800" not in text)  # what an environment can hold


@QUICK
@given(
    command=st.sampled_from(["status", "users"]),
    values=st.dictionaries(st.sampled_from([s for s in SETTINGS if s.name != "storage"]), VALUES, max_size=4),
)
def test_any_setting_of_the_environment_ends_with_an_exit_code(command: str, values: dict[Any, str]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDENTITY_SESSION_API_KEY", KEY)
        patch.setenv("IDENTITY_SESSION_STORAGE", folder)
        for setting, value in values.items():
            patch.setenv(setting.variable, value)
        assert cli.main([command]) in (0, 2)
