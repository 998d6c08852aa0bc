"""No exception, and no name of a file, tells what the program gave: neither what is printed of it nor what it holds."""

from __future__ import annotations

import errno
import inspect
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from canaries import CANARIES, PERSONAL, SECRETS, captured, leaks, printed
from canary_sessions import (
    CONSENT,
    IDENTITIES,
    KEY,
    MPID,
    ONCE,
    SECRET,
    Service,
    awaited,
    canary_session,
    every_call,
    nothing_said,
    transport,
)
from servers import FRONTS
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
)
from identity_session.idsync import IdentityStrategy, LocalIDSync

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


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "a newer schema"])
def test_damage_that_nobody_can_set_aside_tells_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    def stuck(*_: Any) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    with IdentitySession(KEY, storage=tmp_path, transport=transport("sync", Service().handle), **ONCE) as own:
        own.login({"userIdentities": IDENTITIES})
        state = next(tmp_path.rglob("state.json"))
        state.write_bytes(DAMAGE[damage](state.read_bytes()))
        monkeypatch.setattr(os, "replace", stuck)
        with nothing_said(), pytest.raises(StorageError, match="cannot be set aside") as caught:
            own.set_opt_out(True)
        assert_tells_nothing(caught.value, given=("API key",))


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
