"""The archive: what is stored where and in which order, what it costs, and what of a document is believed."""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import scripted
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_helpers import (
    FaultyDisk,
    login,
    make_session,
    read_document,
    started,
    tree,
    user_file,
    workspace_of,
    write_document,
)

from identity_session import JsonStorage, MemoryStorage, StorageError
from identity_session.archive import Archive
from identity_session.users import Answer, Change, Session, Snapshot, User


def ticking() -> Callable[[], int]:
    """A clock on which no two users leave in the same millisecond."""
    moments = itertools.count(1_767_607_200_000)
    return lambda: next(moments)


def snapshot_of(user: User | None = None, **fields: Any) -> Snapshot:
    return Snapshot(device_application_stamp="device-1", user=user, **fields)


def put(archive: Archive, snapshot: Snapshot, *users: User, forget: tuple[str, ...] = ()) -> None:
    archive.update(lambda before, find: Change(snapshot, users, forget), 1)


# Round trip

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = texts.filter(bool)
times = st.none() | st.integers(0, 4_000_000_000_000)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = scalars | texts
objects = st.recursive(values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
users = st.builds(
    User,
    mpid=names,
    identities=st.dictionaries(names, texts, max_size=4),
    attributes=st.dictionaries(names, values | st.lists(values, max_size=4), max_size=4),
    consent_state=st.none() | st.dictionaries(names, objects, min_size=1, max_size=3),
    first_seen_ms=times,
    last_seen_ms=times,
    is_logged_in=st.booleans(),
    is_ephemeral=st.booleans(),
)
moments = st.integers(0, 4_000_000_000_000)
snapshots = st.builds(
    Snapshot,
    device_application_stamp=names,
    context=st.none() | names,
    opted_out=st.booleans(),
    session=st.none() | st.builds(Session, id=names, started_ms=moments, last_activity_ms=moments),
    user=st.none() | users,
    answers=st.dictionaries(
        names, st.builds(Answer, moments, st.integers(0, 10**9), st.booleans(), st.booleans()), max_size=3
    ),
)


@settings(max_examples=60)
@given(snapshot=snapshots, others=st.lists(users, max_size=3, unique_by=lambda user: user.mpid))
def test_every_snapshot_and_every_user_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot, others: list[User]
) -> None:
    for storage in (JsonStorage(tmp_path_factory.mktemp("store")), MemoryStorage()):
        put(Archive(storage), snapshot, *others)
        archive = Archive(storage)
        assert repr(_plain(archive.open())) == repr(_plain(snapshot))
        for user in others:
            expected = snapshot.user if user.mpid == snapshot.mpid else user
            assert repr(_plain(archive.user(user.mpid))) == repr(_plain(expected))
        known = {user.mpid for user in others} | ({snapshot.mpid} if snapshot.mpid else set())
        assert {user.mpid for user in archive.users()} == known


def _plain(value: Any) -> Any:
    """Fields by name, so that 1 is told from True and -0.0 from 0.0 when printed."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@settings(max_examples=60)
@given(state=objects, device=objects, user=objects)
def test_documents_of_any_shape_are_read_without_an_exception(state: Any, device: Any, user: Any) -> None:
    storage = MemoryStorage()
    for name, content in (("state", state), ("device", device), ("users/00", user)):
        storage.write(name, content if isinstance(content, dict) else {"user": content, "session": content})
    archive = Archive(storage)
    assert isinstance(archive.open(), Snapshot)
    archive.users()


WRONG: list[tuple[str, Any]] = [
    (member, value)
    for member in ("device_application_stamp", "context", "opted_out", "session", "user", "answers")
    for value in (None, 0, 1.5, [], {}, [{}], {"": None}, "" if member != "opted_out" else "true", {"mpid": 7})
    if not (member in ("device_application_stamp", "context") and isinstance(value, str))
]


@pytest.mark.parametrize(("member", "value"), WRONG, ids=repr)
def test_one_member_of_a_wrong_type_costs_only_itself(tmp_path: Path, member: str, value: Any) -> None:
    session = started(tmp_path)
    login(session, "7")
    state = workspace_of(tmp_path) / "state.json"
    document = read_document(state)
    write_document(state, {**document, member: value})
    archive = Archive(JsonStorage(state.parent))
    snapshot = archive.open()
    expected = {
        "device_application_stamp": session.device_id,  # from its second copy
        "context": None if member == "context" else "context of 7",
        "mpid": None if member == "user" else "7",
        "opted_out": False,
    }
    assert {name: getattr(snapshot, name) for name in expected} == expected
    assert (snapshot.session is None) == (member == "session")
    if member == "user":
        assert [user.mpid for user in archive.users()] == ["100"]


@pytest.mark.parametrize(
    ("member", "value", "believed"),
    [
        ("identities", {"email": 3, "customerid": "7", "other": None}, {"customerid": "7"}),
        ("identities", ["email"], {}),
        (
            "attributes",
            {"a": {"b": 1}, "c": [[1]], "d": [{}], "e": [1, None], "f": None},
            {"e": [1, None], "f": None},
        ),
        ("attributes", "text", {}),
        ("consent_state", [], None),
        ("consent_state", {}, None),
        ("first_seen_ms", "1", None),
        ("first_seen_ms", True, None),
        ("first_seen_ms", 1.5, None),
        ("first_seen_ms", 10**30, None),
        ("last_seen_ms", -(10**30), None),
        ("is_logged_in", 1, False),
        ("is_ephemeral", "yes", False),
    ],
)
def test_wrong_members_of_a_stored_user_are_ignored_one_by_one(
    tmp_path: Path, member: str, value: Any, believed: Any
) -> None:
    content = {"mpid": "7", "identities": {"customerid": "7"}, "first_seen_ms": 5, member: value}
    write_document(user_file(tmp_path, "7"), content)
    user = Archive(JsonStorage(tmp_path)).user("7")
    assert user is not None
    assert user.mpid == "7"
    assert getattr(user, member) == believed


@pytest.mark.parametrize(
    "session", [{"id": "A", "last_activity_ms": "1"}, {"id": 1, "last_activity_ms": 1}, {"last_activity_ms": 1}]
)
def test_half_a_session_is_no_session(session: object) -> None:
    storage = MemoryStorage()
    storage.write("state", {"session": session})
    assert Archive(storage).open().session is None


def test_a_session_that_does_not_say_when_it_began_began_with_its_last_activity() -> None:
    storage = MemoryStorage()
    storage.write("state", {"session": {"id": "A", "last_activity_ms": 5, "started_ms": None}})
    assert Archive(storage).open().session == Session("A", 5, 5)


def test_a_users_file_under_another_name_is_nobody(tmp_path: Path) -> None:
    session = started(tmp_path)
    login(session, "7")
    workspace = workspace_of(tmp_path)
    write_document(user_file(workspace, "8"), {"mpid": "100"})
    assert session.get_user("8") is None
    assert [user.mpid for user in session.get_users()] == ["7", "100"]
    assert login(session, "8").get_user().mpid == "8"


def test_a_mpid_that_is_no_text_is_nobody() -> None:
    archive = Archive(MemoryStorage())
    for mpid in (None, 7, "", "\ud800", b"7"):
        assert archive.user(mpid) is None  # type: ignore[arg-type]


# What is written, in which order


class Recording:
    """A storage that notes what is written and deleted, and stops like a killed process at the n-th of it."""

    def __init__(self, storage: Any, stop_at: int = 0) -> None:
        self._storage = storage
        self.stop_at = stop_at
        self.steps: list[str] = []

    recovered_from = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def in_workspace(self, name: str) -> Recording:
        self._storage = self._storage.in_workspace(name)
        return self

    @contextlib.contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        with self._storage.lock(seconds):
            yield

    def read(self, name: str) -> Any:
        return self._storage.read(name)

    def names(self, folder: str) -> Any:
        return self._storage.names(folder)

    def clear(self) -> None:
        self._storage.clear()

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        self._step(f"write {name.partition('/')[0]}")
        self._storage.write(name, content)

    def delete(self, name: str) -> None:
        self._step(f"delete {name.partition('/')[0]}")
        self._storage.delete(name)

    def _step(self, step: str) -> None:
        self.steps.append(step)
        if len(self.steps) == self.stop_at:
            raise KeyboardInterrupt


def test_a_change_of_user_writes_the_user_who_leaves_first_and_the_state_last() -> None:
    storage = Recording(MemoryStorage())
    session = started(storage)
    storage.steps.clear()
    login(session, "7")
    assert storage.steps == ["write users", "write state"]


def test_the_first_start_writes_the_device_stamp_before_the_state_that_depends_on_it() -> None:
    storage = Recording(MemoryStorage())
    started(storage)
    assert storage.steps == ["write device", "write state", "write state"]


def test_a_start_that_is_interrupted_at_any_write_keeps_its_device_stamp() -> None:
    for stop_at in range(1, 4):
        memory = MemoryStorage()
        session = make_session(Recording(memory, stop_at))
        with pytest.raises(KeyboardInterrupt):
            session.start()
        first, second = started(memory), started(memory)
        assert first.device_id == second.device_id
        assert stop_at == 1 or first.device_id == session.device_id
        assert first.mpid == "100"


@pytest.mark.parametrize("keep", [True, False], ids=["keeping ephemeral users", "forgetting ephemeral users"])
@pytest.mark.parametrize("max_users", [None, 2])
def test_a_login_that_is_interrupted_at_any_write_is_not_made_or_made_and_loses_nobody(
    keep: bool, max_users: int | None
) -> None:
    for stop_at in range(1, 20):
        memory, now_ms = MemoryStorage(), ticking()
        session = started(memory, now_ms=now_ms)
        for mpid in ("1", "2", "3"):
            login(session, mpid)
        storage = Recording(memory, stop_at)
        again = make_session(storage, keep_ephemeral_users=keep, max_users=max_users, now_ms=now_ms)
        with contextlib.suppress(KeyboardInterrupt):
            login(again, "4")
        made = session.mpid == "4"
        known = {user.mpid for user in session.get_users()}
        assert session.device_id == again.device_id
        if len(storage.steps) < stop_at:
            break
        assert session.mpid in ("3", "4")
        assert known >= {"3"}
        assert known >= {"100", "1", "2", "3"} or (max_users and made)
    assert made
    assert stop_at > 2


def test_a_change_that_changes_nothing_writes_nothing() -> None:
    with freeze_time("2024-01-01"):
        storage = Recording(MemoryStorage())
        session = started(storage)
        storage.steps.clear()
        session.touch()
        session.current_user.set_consent_state(None)  # type: ignore[union-attr]
        login(session, "100")
        assert storage.steps == ["write state"]
        login(session, "100")
        assert storage.steps == ["write state"]


@pytest.mark.parametrize(("old", "new"), [(1, True), (0, False), (1, 1.0), (True, 1), (0.0, 0), ([1], [True])])
def test_values_that_python_calls_equal_are_told_apart(tmp_path: Path, old: Any, new: Any) -> None:
    """`1 == True` in Python, but not in JSON, and not to whoever reads the attribute."""
    with freeze_time("2024-01-01"):
        user = started(tmp_path).current_user
        assert user is not None
        for value in (old, new):
            set_value = user.set_attribute_list if isinstance(value, list) else user.set_attribute
            set_value("n", value)
            user.set_consent_state({"n": value})
        assert repr(user.attributes["n"]) == repr(new)
        assert repr(user.consent_state["n"]) == repr(new)  # type: ignore[index]


def test_what_is_stored_can_be_read_by_a_person(tmp_path: Path) -> None:
    session = started(tmp_path)
    login(session, "7").get_user().set_attribute("plan", "gold")
    state = read_document(workspace_of(tmp_path) / "state.json")
    assert state["user"]["mpid"] == "7"
    assert state["user"]["identities"] == {"customerid": "7"}
    assert state["user"]["attributes"] == {"plan": "gold"}
    assert state["context"] == "context of 7"
    assert state["device_application_stamp"] == session.device_id
    assert read_document(user_file(workspace_of(tmp_path), "100"))["mpid"] == "100"
    assert read_document(workspace_of(tmp_path) / "device.json")["device_application_stamp"] == session.device_id


def test_a_user_who_returns_has_everything_that_was_remembered(tmp_path: Path) -> None:
    session = started(tmp_path)
    login(session, "7").get_user().set_attribute("plan", "gold")
    login(session, "8")
    user = login(session, "7").get_user()
    assert user.attributes == {"plan": "gold"}
    assert len(session.get_users()) == 3


# Cost


def populated(path: Path, count: int) -> Path:
    """A store of one current user and this many others."""
    session = started(path)
    login(session, "7")
    template = user_file(workspace_of(path), "100")
    content = read_document(template)
    for n in range(count):
        write_document(user_file(workspace_of(path), f"user-{n}"), {**content, "mpid": f"user-{n}"})
    return path


def test_a_login_costs_the_same_with_10_and_with_3000_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = populated(tmp_path / "few", 10), populated(tmp_path / "many", 3000)
    sessions = {10: started(few), 3000: started(many)}
    assert len(sessions[3000].get_users()) == 3002
    spans: dict[int, list[float]] = {10: [], 3000: []}
    for turn in range(30):
        for count, session in sessions.items():
            began = time.perf_counter()
            login(session, ("7", "8")[turn % 2])
            spans[count].append(time.perf_counter() - began)
    assert statistics.median(spans[3000]) < 5 * statistics.median(spans[10])

    disk = FaultyDisk(monkeypatch, tmp_path)
    calls = []
    for session in sessions.values():
        login(session, "7")
        with disk.failing(1_000_000, 0):
            login(session, "8")
        calls.append(disk.calls)
    assert calls[0] == calls[1]
    assert "scandir" not in calls[0]
    assert calls[0].count("fsync") == 4


def test_a_start_and_the_question_who_is_the_user_cost_the_same_with_10_and_with_3000_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = populated(tmp_path / "few", 10), populated(tmp_path / "many", 3000)
    disk = FaultyDisk(monkeypatch, tmp_path)
    calls = []
    for path in (few, many):
        with disk.failing(1_000_000, 0):
            assert started(path).mpid == "7"
        calls.append(disk.calls)
    assert calls[0] == calls[1]


# How many users are kept


def test_no_more_than_max_users_are_kept_and_those_last_seen_longest_ago_go(tmp_path: Path) -> None:
    session = make_session(tmp_path, max_users=3)
    with freeze_time("2024-01-01") as frozen:
        session.start()
        for mpid in ("1", "2", "3", "1", "4"):
            frozen.tick(60)
            login(session, mpid)
            assert len(session.get_users()) <= 3
        assert [user.mpid for user in session.get_users()] == ["4", "1", "3"]
        assert session.get_user("2") is None
    assert len(list((workspace_of(tmp_path) / "users").glob("*.json"))) <= 3


def test_who_has_just_left_is_kept_before_others_whatever_the_clock_says(tmp_path: Path) -> None:
    """Also one who left before the clock was set back by years."""
    session = make_session(tmp_path, max_users=3)
    with freeze_time("2030-01-01") as frozen:
        session.start()
        for mpid in ("1", "2", "3"):
            frozen.tick(60)
            login(session, mpid)
        frozen.move_to("1970-01-02")
        assert login(session, "4").get_previous_user().mpid == "3"
        assert [user.mpid for user in session.get_users()] == ["4", "2", "3"]


def test_a_user_who_is_edited_has_not_just_left(tmp_path: Path) -> None:
    """And is not kept in the place of one who was seen later."""
    with freeze_time("2024-01-01") as frozen:
        session = started(tmp_path)
        for mpid in ("1", "2", "3", "4"):
            frozen.tick(60)
            login(session, mpid)
        again = make_session(tmp_path, max_users=3)
        again.get_user("1").set_attribute("plan", "gold")
        assert [user.mpid for user in again.get_users()] == ["4", "3", "2"]


def test_the_users_are_looked_through_only_once_there_are_as_many_as_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(tmp_path, max_users=4)
    session.start()
    looks: list[str] = []
    look = session._archive._look
    monkeypatch.setattr(session._archive, "_look", lambda name: looks.append(name) or look(name))
    for mpid in ("1", "2", "3"):
        login(session, mpid)
    assert looks == []
    login(session, "4")
    assert len(looks) == 4


def test_with_max_users_of_one_only_the_current_user_is_kept(tmp_path: Path) -> None:
    session = make_session(tmp_path, max_users=1)
    session.start()
    for mpid in ("1", "2"):
        result = login(session, mpid)
        assert [user.mpid for user in session.get_users()] == [mpid]
        assert result.get_previous_user() is None


def test_a_user_who_could_not_be_forgotten_is_forgotten_next_time_and_the_login_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(tmp_path, max_users=2)
    session.start()
    login(session, "1")
    with monkeypatch.context() as patch:
        delete = JsonStorage.delete
        patch.setattr(JsonStorage, "delete", lambda self, name: (_ for _ in ()).throw(StorageError("stuck")))
        assert login(session, "2").http_code == 200
    assert delete is JsonStorage.delete
    assert session.mpid == "2"
    assert len(session.get_users()) == 3
    login(session, "3")
    assert [user.mpid for user in session.get_users()] == ["3", "2"]


def ephemeral(request: httpx.Request) -> httpx.Response:
    customer = json.loads(request.content)["known_identities"].get("customerid")
    return httpx.Response(200, json={"mpid": customer or "100", "is_ephemeral": customer is None})


@pytest.mark.parametrize("keep", [True, False])
def test_an_ephemeral_user_is_forgotten_when_it_leaves_only_if_so_configured(tmp_path: Path, keep: bool) -> None:
    session = started(tmp_path, transport=httpx.MockTransport(ephemeral), keep_ephemeral_users=keep)
    session.current_user.set_attribute("plan", "gold")  # type: ignore[union-attr]
    assert session.mpid == "100"
    result = login(session, "7")
    assert [user.mpid for user in session.get_users()] == (["7", "100"] if keep else ["7"])
    assert (result.get_previous_user() is not None) == keep
    login(session, "8")
    assert session.get_user("7") is not None
    if not keep:
        assert not any(b"gold" in content for name, content in tree(tmp_path).items() if "users" in name)


# The device stamp


@pytest.mark.parametrize("file", ["device.json", "state.json"])
@pytest.mark.parametrize("damage", [None, b"", b"{}", b"junk", b"\0" * 100])
def test_the_device_stamp_survives_damage_to_any_one_file_or_its_loss(
    tmp_path: Path, file: str, damage: bytes | None
) -> None:
    device_id = started(tmp_path).device_id  # a session would tell what is stored now
    for f in workspace_of(tmp_path).glob(f"{file}*"):
        f.unlink()
    if damage is not None:
        (workspace_of(tmp_path) / file).write_bytes(damage)
    assert make_session(tmp_path).device_id == device_id
    assert started(tmp_path).device_id == device_id
    for name in ("device.json", "state.json"):
        assert read_document(workspace_of(tmp_path) / name)["device_application_stamp"] == device_id


def test_a_device_stamp_of_ones_own_is_stored_in_both_places(tmp_path: Path) -> None:
    started(tmp_path)
    session = started(tmp_path, device_id="my-device")
    assert session.device_id == make_session(tmp_path).device_id == "my-device"
    assert read_document(workspace_of(tmp_path) / "device.json")["device_application_stamp"] == "my-device"


def test_a_device_stamp_that_another_process_reset_is_not_brought_back() -> None:
    memory = MemoryStorage()
    before = started(memory).device_id
    one, two = started(memory), started(memory)
    two.reset()
    login(one, "7")
    assert one.device_id != before
    assert one.device_id == make_session(memory).device_id == started(memory).device_id


def test_clear_forgets_the_device_stamp_too() -> None:
    archive = Archive(MemoryStorage())
    archive.open()
    put(archive, snapshot_of(User("1")), User("2"))
    archive.clear(1)
    assert archive.snapshot() == Snapshot()
    assert archive.users() == []
    put(archive, snapshot_of())
    assert archive.open().device_application_stamp == "device-1"


# Faults of the disk in the middle of a call


def test_a_failed_change_leaves_the_archive_usable() -> None:
    storage = Recording(MemoryStorage())
    archive = Archive(storage)  # type: ignore[arg-type]
    put(archive, snapshot_of(User("1")))

    def fails(*_: Any) -> Change:
        raise StorageError("no")

    with pytest.raises(StorageError):
        archive.update(fails, 1)
    put(archive, replace(archive.snapshot(), context="c"))
    assert archive.snapshot().context == "c"


@pytest.mark.parametrize("step", [1, 2])
def test_a_change_to_another_user_that_raises_has_changed_nothing(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Whichever of its saves fails; at most the time of activity is another one."""
    clock, storage = scripted.Clock(), MemoryStorage()
    own = scripted.session(scripted.Scripted(scripted.user("1"), scripted.user("2")), storage, now_ms=clock)
    own.start()
    own.login()
    clock.advance(seconds=1)
    write, saves = MemoryStorage.write, 0

    def full(self: MemoryStorage, name: str, content: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == step:
            raise StorageError("no space left")
        write(self, name, content)

    monkeypatch.setattr(MemoryStorage, "write", full)
    other = own.get_user("1")
    assert other is not None
    with pytest.raises(StorageError):
        other.set_attribute("plan", "gold")
    assert (other.attributes, own.mpid) == ({}, "2")
