"""The folder of JSON files: locks, modes, damage, and disks that fail."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import pytest
from steady import assert_within, steady
from storage_helpers import (
    FaultyDisk,
    child,
    content_of,
    login,
    next_line,
    started,
    tree,
    workspace_of,
)

from identity_session import (
    IdentitySession,
    JsonStorage,
    StorageBusyError,
    StorageError,
    doctor,
    files,
)
from identity_session.clock import monotonic

USER, OTHER = "users/3f2a", "users/00ff"


def test_two_storages_on_one_folder_exclude_each_other_even_in_one_thread(tmp_path: Path) -> None:
    one, two = JsonStorage(tmp_path), JsonStorage(tmp_path)
    with one.lock(0):
        with pytest.raises(StorageBusyError), two.lock(0):
            pytest.fail("the lock was given twice")
        with pytest.raises(StorageBusyError, match="for too long"), two.lock(0.05):
            pytest.fail("the lock was given twice")
    with two.lock(0):
        pass


def test_a_lock_that_becomes_free_is_had_before_the_deadline(tmp_path: Path) -> None:
    with child("hold", tmp_path) as holder:
        assert next_line(holder) == "held"
        with pytest.raises(StorageBusyError), JsonStorage(tmp_path).lock(0):
            pytest.fail("another process holds it")
        told = threading.Event()
        threading.Timer(0.1, lambda: (told.set(), holder.kill())).start()
        with JsonStorage(tmp_path).lock(30):
            assert told.is_set()


def test_a_lock_that_the_system_does_not_unlock_is_free_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system: what was saved is saved, and everybody goes on."""
    fcntl = pytest.importorskip("fcntl", reason="files are not locked by flock here")
    session, flock, refused = started(tmp_path), fcntl.flock, []

    def no_unlocking(handle: int, operation: int) -> None:
        if operation == fcntl.LOCK_UN:
            refused.append(handle)
            raise OSError(errno.EIO, "Input/output error")
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", no_unlocking)
    for mpid in ("7", "8"):
        assert login(session, mpid).http_code == 200
        assert login(started(tmp_path), "9").http_code == 200
        gc.collect()
    assert {user.mpid for user in session.get_users()} == {"100", "7", "8", "9"}
    assert refused
    workspace = workspace_of(tmp_path)
    assert doctor.examine(tmp_path).is_healthy
    monkeypatch.setattr(fcntl, "flock", flock)
    with child("hold", workspace) as holder:
        assert next_line(holder) == "held"
    with JsonStorage(workspace).lock(0):
        pass


def test_a_lock_whose_file_is_closed_when_the_system_complains_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = filelock.FileLock.release

    def complaining(lock: filelock.BaseFileLock, force: bool = False) -> None:
        release(lock, force)
        raise OSError(errno.EIO, "Input/output error")

    storage = JsonStorage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(filelock.FileLock, "release", complaining)
        for _ in range(2):
            with storage.lock(0):
                pass
    with JsonStorage(tmp_path).lock(0):
        pass


def test_a_lock_that_filelock_does_not_want_to_take_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise RuntimeError("this lock is in a strange state")

    storage = JsonStorage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(filelock.FileLock, "acquire", refusing)
        with pytest.raises(StorageError, match=r"cannot be taken \(this lock is in a strange state\)"), storage.lock(0):
            pytest.fail("the lock was given")
    with storage.lock(0):
        pass


def test_the_lock_file_is_never_deleted(tmp_path: Path) -> None:
    storage = JsonStorage(tmp_path / "store")
    with storage.lock(0):
        first = (tmp_path / "store" / "lock").stat().st_ino
    with storage.lock(0):
        storage.write("state", {"n": 1})
        storage.clear()
    with JsonStorage(tmp_path / "store").lock(0):
        pass
    assert (tmp_path / "store" / "lock").stat().st_ino == first


def test_folders_and_files_are_private(tmp_path: Path) -> None:
    store = tmp_path / "missing" / "store"
    store.mkdir(parents=True)
    (store / "lock").touch()
    for f in (store, store / "lock"):
        f.chmod(0o777)
    storage = JsonStorage(store)
    with storage.lock(0):
        for name in ("state", "device", USER):
            storage.write(name, {"n": 1})
            storage.write(name, {"n": 2})
    modes = {str(f.relative_to(store)): stat.S_IMODE(f.stat().st_mode) for f in store.rglob("*")}
    assert modes.pop("users") == stat.S_IMODE(store.stat().st_mode) == 0o700
    assert len(modes) == 7
    assert set(modes.values()) == {0o600}


def test_a_symbolic_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    storage = JsonStorage(tmp_path / "store")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "lock").symlink_to(victim)
    with pytest.raises(StorageError, match="cannot be taken"), storage.lock(0):
        pytest.fail("the lock of something else was taken")
    assert victim.read_text() == "precious"


def test_reading_makes_nothing_and_needs_no_lock(tmp_path: Path) -> None:
    storage = JsonStorage(tmp_path / "store")
    assert storage.read("state") is None
    assert not storage.path.exists()
    with storage.lock(0):
        storage.write("state", {"n": 1})
        assert content_of(JsonStorage(storage.path), "state") == {"n": 1}


def test_state_may_be_copied_while_nobody_writes(tmp_path: Path) -> None:
    session = started(tmp_path / "one")
    login(session, "7")
    login(session, "8")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    login(session, "9")
    copied = IdentitySession("us1-test-key", storage=tmp_path / "two")
    assert (copied.mpid, copied.device_id) == ("8", session.device_id)
    assert [user.mpid for user in copied.get_users()] == ["8", "7", "100"]


def test_all_state_lies_below_the_path(tmp_path: Path) -> None:
    session = started(tmp_path / "store")
    login(session, "7")
    assert os.listdir(tmp_path) == ["store"]
    assert sorted(f for f in tree(workspace_of(tmp_path / "store")) if "/" not in f) == [
        "device.json",
        "state.json",
        "state.json.previous",
    ]


def test_a_relative_path_means_the_same_place_after_the_program_changed_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    session = started("store")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert session.mpid == "100"
    assert login(session, "7").http_code == 200
    assert os.listdir(tmp_path / "elsewhere") == []


def test_clear_leaves_files_of_others_alone(tmp_path: Path) -> None:
    session = started(tmp_path / "store")
    login(session, "7")
    workspace = workspace_of(tmp_path / "store")
    foreign = ["notes.txt", "notes.json", "state.json.bak", "state.jsonl", "users/notes.txt", "users/notes.json"]
    for name in foreign:
        (workspace / name).write_text("somebody's")
    (workspace / "state.json").write_text("damaged")
    assert session.mpid is not None
    (workspace / "save.tmp").touch()
    assert [user.mpid for user in session.get_users()] == ["100"]
    session.reset()
    assert sorted(tree(tmp_path / "store")) == sorted(f"{workspace.name}/{name}" for name in foreign)
    assert set(tree(workspace).values()) == {b"somebody's"}
    assert started(tmp_path / "store").mpid == "100"


def test_clear_removes_links_but_not_what_they_lead_to(tmp_path: Path) -> None:
    storage, victim = JsonStorage(tmp_path / "store"), tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    with storage.lock(0):
        storage.write("state", {"n": 1})
        (storage.path / "state.json.corrupt-20240101T000000Z-1").symlink_to(victim)
        (storage.path / "state.json.corrupt-20240101T000000Z-2").mkdir()
        (storage.path / "device.json").symlink_to(victim / "precious")
        storage.clear()
    assert sorted(os.listdir(storage.path)) == ["lock", "state.json.corrupt-20240101T000000Z-2"]
    assert (victim / "precious").exists()


def test_what_cannot_be_cleared_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = JsonStorage(tmp_path)
    with storage.lock(0):
        storage.write("state", {"n": 1})
        storage.write("state", {"n": 2})

        def stuck(*_: Any, **__: Any) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(os, "unlink", stuck)
        with pytest.raises(StorageError, match="could not be removed"):
            storage.clear()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EPERM])
def test_when_a_reset_returns_nothing_is_left_whatever_the_disk_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    session = started(tmp_path)
    told, disk = 0, FaultyDisk(monkeypatch, tmp_path)
    for step in disk.every_failure(code):
        login(session, "7")
        login(session, "8")
        with step:
            try:
                session.reset()
            except StorageError:
                told += 1
                continue
        assert tree(tmp_path) == {}, disk.calls
    assert told > 20


def test_where_nobody_can_say_whether_there_is_a_generation_before_nothing_counts_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = JsonStorage(tmp_path)
    with storage.lock(0):
        storage.write("state", {"n": 1})
        storage.write("state", {"n": 2})
    storage.file_of("state").unlink()
    before = tree(tmp_path)
    disk = FaultyDisk(monkeypatch, tmp_path)
    with disk.failing(2, errno.EIO), pytest.raises(StorageError, match="cannot be looked at"):
        storage.read("state")
    assert tree(tmp_path) == before
    assert content_of(storage, "state") == {"n": 1}


def test_damage_is_reported_once_and_the_generation_before_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = JsonStorage(tmp_path)
    with storage.lock(0):
        storage.write("state", {"n": 1})
        storage.write("state", {"n": 2})
    (tmp_path / "state.json").write_text("damaged")
    assert content_of(storage, "state") == {"n": 1}
    assert content_of(storage, "state") == {"n": 1}
    assert storage.recovered_from is not None
    assert storage.recovered_from.read_text() == "damaged"
    assert len(caplog.records) == 1
    other = JsonStorage(tmp_path)
    assert content_of(other, "state") == {"n": 1}
    assert other.recovered_from is None


def test_damage_found_when_writing_is_set_aside_too(tmp_path: Path) -> None:
    storage = JsonStorage(tmp_path)
    (tmp_path / "state.json").write_text("damaged")
    with storage.lock(0):
        storage.write("state", {"n": 1})
    assert content_of(storage, "state") == {"n": 1}
    assert storage.recovered_from is not None


def test_a_damaged_file_that_cannot_be_set_aside_cannot_be_written_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = JsonStorage(tmp_path)
    (tmp_path / "state.json").write_text("damaged")

    def stuck(*_: Any) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "replace", stuck)
    with storage.lock(0), pytest.raises(StorageError, match="cannot be set aside"):
        storage.write("state", {"n": 1})
    assert (tmp_path / "state.json").read_text() == "damaged"
    assert storage.recovered_from is None


def test_a_file_that_vanished_comes_back_from_the_generation_before(tmp_path: Path) -> None:
    storage = JsonStorage(tmp_path)
    with storage.lock(0):
        for name in ("state", USER):
            storage.write(name, {"n": 1})
            storage.write(name, {"n": 2})
            (tmp_path / f"{name}.json").unlink()
    assert storage.names("users") == [USER]
    assert content_of(storage, USER) == content_of(storage, "state") == {"n": 1}


def test_damaged_state_can_be_read_while_a_hung_process_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("identity_session.store._RECOVERY_LOCK_SECONDS", 0.05)
    storage = JsonStorage(tmp_path)
    with storage.lock(0):
        storage.write("state", {"n": 1})
        storage.write("state", {"n": 2})
        (tmp_path / "state.json").write_text("damaged")
        assert content_of(JsonStorage(tmp_path), "state") == {"n": 1}
        assert (tmp_path / "state.json").read_text() == "damaged"
        assert not caplog.records
    assert content_of(storage, "state") == {"n": 1}
    assert storage.recovered_from is not None


def test_all_files_of_one_store_share_one_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = JsonStorage(tmp_path)
    used: set[object] = set()
    save = files.save

    def watched(path: Path, content: Mapping[str, Any], temporary: Path) -> None:
        used.add(temporary)
        save(path, content, temporary)

    monkeypatch.setattr(files, "save", watched)
    with storage.lock(0):
        for name in ("state", "device", USER, OTHER):
            storage.write(name, {"n": 1})
    assert used == {tmp_path / "save.tmp"}


def test_a_folder_that_cannot_be_listed_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = JsonStorage(tmp_path)
    (tmp_path / "users").mkdir()

    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "listdir", broken)
    with pytest.raises(StorageError, match="cannot be read"):
        storage.names("users")


def test_a_class_of_ones_own_may_be_made_of_more_than_a_path(tmp_path: Path) -> None:
    class Sealed(JsonStorage):
        def __init__(self, path: Path, key: bytes) -> None:
            super().__init__(path)
            self.key = key

    storage = Sealed(tmp_path, b"key")
    there = storage.in_workspace("w")
    assert (type(there), there.key, there.path) == (Sealed, b"key", tmp_path / "w")
    assert storage.path == tmp_path
    with storage.lock(0), there.lock(0):
        there.write("state", {"n": 1})


def test_what_was_open_to_others_becomes_private_with_the_first_change(tmp_path: Path) -> None:
    storage = JsonStorage(tmp_path / "store")
    for n in (1, 2):
        with storage.lock(0):
            for name in ("state", "device", USER):
                storage.write(name, {"n": n})
    (storage.path / "state.json").write_text("damaged")
    storage.read("state")
    files_there = [path for path in storage.path.rglob("*") if path.is_file()]
    assert len(files_there) == 8  # three with the generation before, one set aside, the lock
    for path in (*files_there, storage.path / "users", storage.path):
        path.chmod(0o755 if path.is_dir() else 0o644)
    with JsonStorage(storage.path).lock(0):
        pass
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_there} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (storage.path, storage.path / "users")} == {0o700}


@pytest.mark.parametrize("name", ["device.json", "users"])
def test_what_cannot_be_made_private_stops_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It belongs to somebody else, say. Nor does it keep anything else from becoming private."""
    storage = JsonStorage(tmp_path)
    with storage.lock(0):
        for written in ("device", USER):
            storage.write(written, {"n": 1})
    others = [storage.file_of(USER), storage.file_of("device"), tmp_path / "users"]
    for path in others:
        path.chmod(0o755 if path.is_dir() else 0o644)
    others = [path for path in others if path.name != name]
    chmod = Path.chmod

    def not_ours(path: Path, mode: int, **options: Any) -> None:
        if path.name == name:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        chmod(path, mode, **options)

    monkeypatch.setattr(Path, "chmod", not_ours)
    other = JsonStorage(tmp_path)
    with other.lock(0):
        other.write("state", {"n": 1})
    assert storage.read("device") is not None
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in others} == {0}


@pytest.mark.parametrize("removed", ["delete", "clear"])
def test_what_was_removed_does_not_come_back_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    """The folder that the name was in is synced after it is gone."""
    storage = JsonStorage(tmp_path)
    with storage.lock(0):
        storage.write(USER, {"n": 1})
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(files, "sync_folder", lambda folder: synced.append((folder, storage.file_of(USER).exists())))
    with storage.lock(0):
        storage.delete(USER) if removed == "delete" else storage.clear()
    assert (tmp_path / "users", False) in synced


def test_damage_on_a_read_only_disk_costs_no_more_than_the_last_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be locked or moved, the generation before is shown all the same."""
    storage = JsonStorage(tmp_path)
    for n in (1, 2):
        with storage.lock(0):
            storage.write("state", {"n": n})
    storage.file_of("state").write_text("damaged")
    opened = os.open

    def read_only(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", read_only)
    found = JsonStorage(tmp_path).read("state")
    assert found is not None
    assert found["n"] == 1


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.ENOBUFS, errno.EDQUOT, errno.EAGAIN, errno.EBUSY, errno.ENOLCK, errno.EMFILE]
)
def test_trouble_around_a_file_that_lasts_is_no_damage_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    storage = JsonStorage(tmp_path)
    for n in (1, 2):
        with storage.lock(0):
            storage.write("state", {"n": n})
    before, opened = tree(tmp_path), os.open

    def failing(path: Any, *more: Any, **options: Any) -> int:
        if ".json" in str(path):
            raise OSError(number, os.strerror(number))
        return opened(path, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        with pytest.raises(StorageError):
            JsonStorage(tmp_path).read("state")
    assert tree(tmp_path) == before


def test_a_disk_of_which_nothing_can_be_read_costs_nothing_once_it_can_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is current, and the device, are as before."""
    session = started(tmp_path)
    login(session, "1")
    mpid, device_id = session.mpid, session.device_id

    opened = os.open

    def failing(path: Any, *more: Any, **options: Any) -> int:
        if ".json" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        with pytest.raises(StorageError, match="nor the generation before can be used"):
            started(tmp_path)
    later = started(tmp_path)
    assert (later.mpid, later.device_id) == (mpid, device_id)


@steady
def test_who_only_reads_does_not_wait_for_a_lock_that_another_holds(tmp_path: Path) -> None:
    """Not even to set damage aside: what is good is shown, and the next one sets it aside."""
    storage = JsonStorage(tmp_path)
    for n in (1, 2):
        with storage.lock(0):
            storage.write("state", {"n": n})
    storage.file_of("state").write_text("damaged")
    waited: list[float] = []
    with JsonStorage(tmp_path).lock(0):
        began = monotonic()
        found = JsonStorage(tmp_path).read("state")
        waited.append(monotonic() - began)
        assert found is not None
        assert found["n"] == 1
    began = monotonic()
    with JsonStorage(tmp_path).lock(0), pytest.raises(StorageBusyError), JsonStorage(tmp_path).lock(1):
        pass
    assert_within(waited[0], (monotonic() - began) / 2, "than who waits for a second")
