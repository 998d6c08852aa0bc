"""The storages: one contract for all of them, and names that mean harm."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_helpers import (
    HOSTILE_TEXTS,
    content_of,
    login,
    read_document,
    started,
    workspace_of,
)

from identity_session import (
    IdentitySession,
    JsonStorage,
    MemoryStorage,
    Storage,
    StorageBusyError,
    StorageError,
)
from identity_session.clock import monotonic
from identity_session.fallback import FallbackStorage

USER, OTHER = "users/3f2a", "users/00ff"


class DictStorage:
    """A storage as a user of this package might write one, over a plain dictionary."""

    recovered_from = None

    def __init__(self, objects: dict[str, Any] | None = None, prefix: str = "") -> None:
        self._objects = {} if objects is None else objects
        self._prefix = prefix
        self._mutex = threading.RLock()

    def in_workspace(self, name: str) -> DictStorage:
        return DictStorage(self._objects, f"{self._prefix}{name}|")

    @contextlib.contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        if not self._mutex.acquire(timeout=seconds):
            raise StorageBusyError("busy")
        try:
            yield
        finally:
            self._mutex.release()

    def read(self, name: str) -> Mapping[str, Any] | None:
        return copy.deepcopy(self._objects.get(self._prefix + name))

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        self._objects[self._prefix + name] = copy.deepcopy(dict(content))

    def delete(self, name: str) -> None:
        self._objects.pop(self._prefix + name, None)

    def names(self, folder: str) -> list[str]:
        whole = f"{self._prefix}{folder}/"
        return [name.removeprefix(self._prefix) for name in self._objects if name.startswith(whole)]

    def clear(self) -> None:
        for name in [name for name in self._objects if name.startswith(self._prefix)]:
            del self._objects[name]


def nowhere() -> Storage:
    """What there is when no place for a storage is known."""
    raise StorageError("nowhere")


KINDS: dict[str, Callable[[Path], Storage]] = {
    "json": lambda folder: JsonStorage(folder / "store"),
    "memory": lambda folder: MemoryStorage(),
    "custom": lambda folder: DictStorage(),
    "not strict": lambda folder: FallbackStorage(lambda: JsonStorage(folder / "store")),
    "not strict, unusable": lambda folder: FallbackStorage(nowhere),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return request.param(tmp_path)


# The contract


def test_every_storage_is_a_storage(storage: Storage) -> None:
    assert isinstance(storage, Storage)
    assert storage.recovered_from is None


def test_nothing_is_there_at_first(storage: Storage) -> None:
    assert storage.read("state") is None
    assert storage.read(USER) is None
    assert storage.names("users") == []
    with storage.lock(1):
        storage.delete(USER)
        storage.clear()


def test_what_is_written_is_read_and_replaced_as_a_whole(storage: Storage) -> None:
    with storage.lock(1):
        storage.write(
            "state", {"text": "zoë \U0001f600", "nothing": None, "list": [1, 2.5, True, []], "deep": {"a": {}}}
        )
        assert content_of(storage, "state") == {
            "text": "zoë \U0001f600",
            "nothing": None,
            "list": [1, 2.5, True, []],
            "deep": {"a": {}},
        }
        storage.write("state", {"other": 1})
    assert content_of(storage, "state") == {"other": 1}


def test_what_is_read_may_be_changed_without_changing_what_is_stored(storage: Storage) -> None:
    given = {"list": [1]}
    with storage.lock(1):
        storage.write("state", given)
    given["list"].append(2)
    read = storage.read("state")
    assert read is not None
    read["list"].append(3)
    assert content_of(storage, "state") == {"list": [1]}


def test_names_are_those_that_were_written_and_not_deleted(storage: Storage) -> None:
    with storage.lock(1):
        for name in ("state", "device", USER, OTHER):
            storage.write(name, {"n": 1})
            storage.write(name, {"n": 2})
        assert sorted(storage.names("users")) == sorted([USER, OTHER])
        storage.delete(USER)
    assert storage.names("users") == [OTHER]
    assert storage.read(USER) is None


def test_clear_removes_everything(storage: Storage) -> None:
    with storage.lock(1):
        for name in ("state", "device", USER):
            storage.write(name, {"n": 1})
            storage.write(name, {"n": 2})
        storage.clear()
    assert [storage.read(name) for name in ("state", "device", USER)] == [None, None, None]
    assert storage.names("users") == []


def test_workspaces_do_not_see_each_other_and_the_same_name_is_the_same_workspace(storage: Storage) -> None:
    one, two = storage.in_workspace("workspace-1"), storage.in_workspace("workspace-2")
    with one.lock(1):
        one.write("state", {"n": 1})
    with two.lock(1):
        assert two.read("state") is None
        two.write("state", {"n": 2})
        two.clear()
    assert content_of(storage.in_workspace("workspace-1"), "state") == {"n": 1}
    assert storage.read("state") is None


def test_the_lock_nests_in_the_thread_that_holds_it(storage: Storage) -> None:
    with storage.lock(1), storage.lock(0):
        storage.write("state", {"n": 1})
    with storage.lock(0):
        pass


def held_elsewhere(storage: Storage) -> Any:
    """A context in which another thread holds the lock."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        taken, release = threading.Event(), threading.Event()

        def hold() -> None:
            with storage.lock(10):
                taken.set()
                release.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        taken.wait(10)
        try:
            yield
        finally:
            release.set()
            holder.join()

    return context()


def test_another_thread_cannot_have_the_lock_and_is_told_so_at_its_deadline(storage: Storage) -> None:
    with held_elsewhere(storage):
        for seconds in (0, 0.05):
            began = monotonic()
            with pytest.raises(StorageBusyError), storage.lock(seconds):
                pytest.fail("the lock was given twice")
            assert monotonic() - began >= seconds
    with storage.lock(0):
        pass


def test_the_lock_is_free_again_when_its_holder_fails(storage: Storage) -> None:
    with pytest.raises(KeyError), storage.lock(0):
        raise KeyError
    with held_elsewhere(storage):
        pass


def test_a_wait_for_the_lock_ends_while_the_clock_is_frozen(storage: Storage) -> None:
    with freeze_time("2024-01-01"), held_elsewhere(storage), pytest.raises(StorageBusyError), storage.lock(0.05):
        pytest.fail("the lock was given twice")


@pytest.mark.parametrize("seconds", [-1.0, 1e6, 1e12, 1e300])
@pytest.mark.parametrize("kind", [JsonStorage, MemoryStorage])
def test_any_number_of_seconds_will_do(tmp_path: Path, kind: type[Any], seconds: float) -> None:
    storage = kind(tmp_path) if kind is JsonStorage else kind()
    with storage.lock(seconds):
        pass


def test_threads_that_count_together_lose_no_count(storage: Storage) -> None:
    def count() -> None:
        for _ in range(20):
            with storage.lock(30):
                n = (content_of(storage, "state") or {"n": 0})["n"]
                storage.write("state", {"n": n + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content_of(storage, "state") == {"n": 80}


def test_a_whole_journey_can_be_kept_in_it(storage: Storage) -> None:
    session = started(storage)
    login(session, "7").get_user().set_attribute("plan", "gold")
    session.logout()
    again = started(storage)
    assert (again.mpid, again.device_id) == (session.mpid, session.device_id)
    remembered = again.get_user("7")
    assert remembered is not None
    assert remembered.attributes == {"plan": "gold"}
    again.reset()
    assert again.mpid is None
    assert again.get_users() == []


def test_no_repr_shows_content(tmp_path: Path) -> None:
    for storage in (JsonStorage(tmp_path), MemoryStorage()):
        with storage.lock(0):
            storage.write("state", {"email": "canary@example.com"})
        assert "canary" not in repr(storage)
    assert repr(JsonStorage("/some/where")) == "JsonStorage('/some/where')"


@pytest.mark.parametrize("storage", [3, b"bytes", object(), [], Path], ids=repr)
def test_a_storage_that_is_none_is_a_type_error(storage: Any) -> None:
    with pytest.raises(TypeError, match=r"storage must be a Storage or a path|bytes"):
        IdentitySession("us1-test-key", storage=storage)


def test_without_a_storage_the_users_data_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    started(None)
    assert list(tmp_path.rglob("state.json"))


# Hostile names


def assert_confined(root: Path) -> None:
    """Nothing outside `root/store`, and below it only names of our own making."""
    assert os.listdir(root) == ["store"]
    for f in (root / "store").rglob("*"):
        assert f.name.isascii()
        assert len(f.name) < 120
        assert f.name.startswith(("workspace-", "state", "device", "users", "lock")) or f.parent.name == "users"


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_neither_workspace_tokens_nor_mpids_name_files(tmp_path: Path, text: str) -> None:
    session = started(tmp_path / "store", workspace_token=text)
    assert login(session, text).http_code in (200, -1)  # an MPID that cannot be shown is no MPID
    assert login(session, "7").http_code == 200
    user = session.get_user(text)
    if user is not None:
        user.set_attribute("plan", "gold")
        assert (user.mpid, user.attributes) == (text, {"plan": "gold"})
    assert_confined(tmp_path)
    assert (user is not None) == (text.isprintable())


tokens = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
mpids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300).filter(
    lambda text: text.isprintable() and text.strip() and text != "0"
)


@settings(max_examples=25)
@given(token=tokens, mpids=st.lists(mpids, min_size=1, max_size=3, unique=True))
def test_whatever_the_tokens_and_mpids_nothing_leaves_the_folder_and_every_user_is_found(
    token: str, mpids: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        session = started(Path(folder) / "store", workspace_token=token)
        for mpid in mpids:
            assert login(session, mpid).http_code == 200
        assert {user.mpid for user in session.get_users()} == {*mpids, "100"}
        assert_confined(Path(folder))


def test_different_workspace_tokens_have_different_users_and_device_stamps(tmp_path: Path) -> None:
    one, two = started(tmp_path, workspace_token="a"), started(tmp_path, workspace_token="b")
    login(one, "7")
    assert two.mpid == "100"
    assert two.get_user("7") is None
    assert one.device_id != two.device_id
    one.reset()
    assert two.mpid == "100"


def test_two_keys_with_the_same_token_share_their_state(tmp_path: Path) -> None:
    login(started(tmp_path, workspace_token="a"), "7")
    assert IdentitySession("us1-another-key", workspace_token="a", storage=tmp_path).mpid == "7"
    assert IdentitySession("us1-another-key", storage=tmp_path).mpid is None


def test_a_read_costs_nothing_like_a_write(tmp_path: Path) -> None:
    storage = JsonStorage(tmp_path)

    def fastest(action: Any) -> float:
        spans = []
        for _ in range(7):
            began = time.perf_counter()
            action()
            spans.append(time.perf_counter() - began)
        return min(spans)

    with storage.lock(0):
        write = fastest(lambda: storage.write("state", {"n": 1}))
    assert fastest(lambda: storage.read("state")) < write


def test_logging_is_left_as_it_was(tmp_path: Path) -> None:
    handlers = list(logging.getLogger("identity_session").handlers)
    started(tmp_path)
    assert logging.getLogger("identity_session").handlers == handlers
    assert read_document(workspace_of(tmp_path) / "state.json")["schema_version"] == 1
