"""`strict_storage=False`: where the state cannot be used a session goes on in memory, says so once, and raises nothing.

The places are real: read-only and full file systems, folders of somebody else, a user without a home.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from required import absent
from scripted import KEY, Clock, Scripted, ids, session, user
from servers import FRONTS, opened
from steady import assert_within, steady
from storage_helpers import child, login, make_session, next_line, started, tree, workspace_of, write_document

from identity_session import (
    IdentitySession,
    JsonStorage,
    MemoryStorage,
    NewerStorageError,
    StorageBusyError,
    StorageError,
)
from identity_session.clock import monotonic
from identity_session.fallback import FallbackStorage

PROGRAM = Path(__file__).with_name("poor_places.py")
STRANGER = 54321
"""A user id that no system knows."""
WARNING = "; the state is kept in memory only, and lost when this program ends"
JOURNEY = ("look", "start", "live")


@pytest.fixture(scope="module")
def mounts() -> None:
    """This process may mount file systems of its own."""
    if not sys.platform.startswith("linux") or not shutil.which("unshare"):
        absent("mounts", "only Linux has the file systems that this mounts")
    if os.geteuid() != 0:
        absent("mounts", "only root may mount file systems")
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True, timeout=30
        )
    if tried.returncode:
        absent("mounts", f"no file system can be mounted here: {tried.stderr.strip()}")


mounting = pytest.mark.usefixtures("mounts")
becoming_another = pytest.mark.usefixtures("root")


def on_mounted(path: Path, script: str) -> list[dict[str, Any]]:
    """Run this in a shell with a tiny file system of its own at `path`. `play` plays a journey there; what the journeys
    told is returned."""
    path.mkdir()
    play = f'play() {{ "{sys.executable}" "{PROGRAM}" "{path}" "$@"; }}'
    script = f'set -eu; mount -t tmpfs -o size=64k,mode=0755 tmpfs "{path}"; {play}; {script}'
    ran = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def played(*arguments: object) -> dict[str, Any]:
    """A journey without a file system of its own."""
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


def assert_lived_in_memory(told: dict[str, Any], why: str, before: dict[str, Any] | None = None) -> None:
    """Everything went well, and one warning said why nothing lasts."""
    assert "error" not in told
    (warning,) = told["logged"]
    assert warning.startswith("WARNING ")
    assert warning.endswith(WARNING)
    assert why in warning
    assert (told["login"], told["forgotten"]) == (200, 200)
    assert told["storage"] == "<FallbackStorage in memory>"
    if before is None:
        assert (told["seen"], told["start"], told["plans"]) == (None, 200, [None, "silver"])
        assert told["users"] == ["100", "after", "before"]
    else:  # who was there, on which device, in which session
        assert (told["seen"], told["start"], told["plans"]) == ("before", -3, ["gold", "silver"])
        assert told["device"] == before["device before"]
        assert told["users"] == ["100", "after", "before"]


# Places


@mounting
def test_on_a_read_only_file_system_with_a_state(tmp_path: Path) -> None:
    """The user, the device and the session are those that are stored; what changes is not."""
    script = f"""
        play 1 0 prepare; mount -o remount,ro "{tmp_path / "store"}"
        play 0 0 {" ".join(JOURNEY)}; play 1 0 look; play 1 0 look start
    """
    before, told, left, strict = on_mounted(tmp_path / "store", script)
    assert_lived_in_memory(told, "Read-only file system", before)
    assert (left["seen"], left["logged"]) == ("before", [])
    assert (strict["seen"], "start" in strict, strict["logged"]) == ("before", False, [])
    assert "Read-only file system" in strict["error"]


@mounting
def test_on_a_read_only_file_system_without_one(tmp_path: Path) -> None:
    script = f'mount -o remount,ro "{tmp_path / "store"}"; play 0 0 {" ".join(JOURNEY)}; play 1 0 start'
    told, strict = on_mounted(tmp_path / "store", script)
    assert_lived_in_memory(told, "Read-only file system")
    assert "Read-only file system" in strict["error"]


@mounting
@pytest.mark.parametrize("state", [True, False], ids=["with a state", "without one"])
def test_on_a_full_disk(tmp_path: Path, state: bool) -> None:
    script = f"{'play 1 0 prepare; ' if state else ''} play 0 0 fill {' '.join(JOURNEY)}; play 1 0 start"
    *before, told, strict = on_mounted(tmp_path / "store", script)
    assert_lived_in_memory(told, "No space left on device", before[0] if state else None)
    assert "No space left on device" in strict["error"]


@mounting
@pytest.mark.parametrize("strict", [1, 0])
def test_a_disk_that_fills_up_later_is_told_call_by_call(tmp_path: Path, strict: int) -> None:
    """Once a change was saved, the session relies on the disk, strict or not: nothing moves to memory silently."""
    (told,) = on_mounted(tmp_path / "store", f"play {strict} 0 start fill late")
    assert (told["start"], told["logged"]) == (200, [])
    assert told["late login"] == [-1, "100", True]
    assert "No space left on device" in told["late attribute"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are closed to other users."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@becoming_another
@pytest.mark.parametrize("state", [True, False], ids=["with a state", "without one"])
def test_in_a_folder_of_somebody_else(open_folder: Path, state: bool) -> None:
    store = open_folder / "store"
    before = None
    if state:
        before = played(store, 1, 0, "prepare")
        for path in (store, *store.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    stored = tree(open_folder)
    told = played(store, 0, STRANGER, *JOURNEY)
    assert_lived_in_memory(told, "", before)
    strict = played(store, 1, STRANGER, "start")
    assert re.search("Permission denied|Operation not permitted", strict["error"])
    assert tree(open_folder) == stored


@becoming_another
def test_in_a_folder_that_may_not_even_be_read(open_folder: Path) -> None:
    store = open_folder / "store"
    played(store, 1, 0, "prepare")
    told = played(store, 0, STRANGER, *JOURNEY)
    assert_lived_in_memory(told, "Permission denied")
    assert "Permission denied" in played(store, 1, STRANGER)["error"]


@becoming_another
def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, with no HOME; nothing is put into the working directory."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.chdir("/")
    names = set(os.listdir("/"))
    strict = played("", 1, STRANGER)
    assert strict == {
        "error": "there is no home folder to keep the state in; pass a path as storage, or set HOME",
        "logged": [],
    }
    assert_lived_in_memory(played("", 0, STRANGER, *JOURNEY, "reset"), "there is no home folder")
    assert set(os.listdir("/")) == names


def test_with_platformdirs_of_every_age_a_missing_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions leave the ~ where it is, newer ones raise."""
    import platformdirs

    def raises(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    for answer in (lambda *_, **__: Path("~/.local/share/identity_session"), raises):
        monkeypatch.setattr(platformdirs, "user_data_path", answer)
        with pytest.raises(StorageError, match="pass a path as storage"):
            IdentitySession("key")


@FRONTS
def test_with_a_state_of_a_newer_version(front: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The device stamp is read where it can be; the state is left alone."""
    own = started(tmp_path)
    login(own, "7")
    write_document(workspace_of(tmp_path) / "state.json", {}, schema_version=99)
    before = tree(tmp_path)
    with opened(front, KEY, storage=tmp_path, strict_storage=False, transport=_both(user("8"))) as again:
        assert (again.mpid, again.device_id) == (None, own.device_id)
        assert again.start().http_code == 200
        assert again.mpid == "8"
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("identity_session", logging.WARNING)
        assert "newer version" in record.getMessage()
        assert record.getMessage().endswith(WARNING)
    assert tree(tmp_path) == before
    with pytest.raises(NewerStorageError):
        make_session(tmp_path)


def _both(*answers: Any) -> Any:
    """A scripted service for both fronts."""

    class Service(Scripted):
        async def asend(self, request: Any, seconds: float) -> Any:
            return self.send(request, seconds)

        async def aclose(self) -> None: ...

    return Service(*answers)


# What is not a reason


def test_where_the_state_can_be_used_nothing_is_different(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = session(Scripted(user("1"), user("2")), JsonStorage(tmp_path), strict_storage=False)
    assert own.start().http_code == 200
    assert own.login(ids(email="a")).http_code == 200
    again = session(storage=JsonStorage(tmp_path))
    assert (again.mpid, again.session_id, again.device_id) == ("2", own.session_id, own.device_id)
    assert repr(own.storage) == f"<FallbackStorage {again.storage!r}>"
    own.reset()
    assert (again.mpid, again.get_users(), caplog.records) == (None, [], [])


@steady
def test_a_busy_lock_is_no_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A start while another process holds the lock is -1, as ever, and the next one is saved."""
    folder = tempfile.mkdtemp(dir=tmp_path)
    own = session(Scripted(user("1")), JsonStorage(folder), strict_storage=False, timeout=0.3)
    workspace = own.storage.in_use.path  # type: ignore[attr-defined]
    with child("hold", workspace) as process:
        assert next_line(process) == "held"
        assert own.start().http_code == -1
        with pytest.raises(StorageBusyError):
            own.touch()
    began = monotonic()
    code = own.start().http_code
    assert_within(monotonic() - began, 0.3, "which is all the time that it had")
    assert code == 200
    assert session(storage=JsonStorage(folder)).mpid == "1"
    assert caplog.records == []


def test_a_damaged_file_is_no_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is set aside and told, as ever."""
    started(tmp_path)
    (workspace_of(tmp_path) / "state.json").write_bytes(b"junk")
    own = make_session(tmp_path, strict_storage=False)
    assert own.recovered_from is not None
    assert own.recovered_from.exists()
    assert len(caplog.records) == 1
    own.start()
    login(own, "7")
    assert make_session(tmp_path).mpid == "7"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("strict", ["no", 0, None])
def test_a_mistake_raises(strict: Any) -> None:
    with pytest.raises(TypeError, match="strict_storage must be a bool"):
        IdentitySession("key", storage=MemoryStorage(), strict_storage=strict)


# What it can and cannot do


class Failing(MemoryStorage):
    """A storage whose writes fail when it is told so; it is its own workspace."""

    broken = False
    recovered_from = None

    def in_workspace(self, name: str) -> Failing:
        return self

    def write(self, name: str, content: Any) -> None:
        if self.broken and (self.broken is True or name == self.broken):
            raise StorageError("the keychain is locked")
        super().write(name, content)


def test_a_change_that_fails_half_way_goes_on_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    """The device stamp was saved, the state that belongs to it was not."""
    below = Failing()
    below.broken = "state"  # type: ignore[assignment]
    own = session(Scripted(user("1")), below, strict_storage=False)
    assert own.start().http_code == 200
    assert (own.mpid, below.read("state")) == ("1", None)
    assert below.read("device") == {"device_application_stamp": own.device_id}
    assert len(caplog.records) == 1


def test_a_change_that_saved_nothing_proves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A start that resumes the session in the same millisecond has nothing to save."""
    below, clock = Failing(), Clock()
    session(Scripted(user("1")), below, now_ms=clock).start()
    own = session(Scripted(user("2")), below, strict_storage=False, now_ms=clock)
    below.broken = True
    assert own.start().http_code == -3
    assert caplog.records == []
    assert own.login().http_code == 200
    assert (own.mpid, len(caplog.records)) == ("2", 1)


def test_what_is_interrupted_decides_nothing() -> None:
    """The next change may find the storage well or not."""

    below = Failing()
    storage = FallbackStorage(lambda: below)

    def interrupted() -> None:
        with storage.lock(1):
            storage.write("device", {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    below.broken = True
    with storage.lock(1):
        storage.write("state", {"n": 1})
    assert (storage.read("state"), below.read("state")) == ({"n": 1}, None)


def test_users_below_are_seen_until_they_are_changed_or_forgotten() -> None:
    below = Failing()
    for mpid in ("1", "2", "3"):
        below.write(f"users/{mpid}", {"n": mpid})
    below.broken = True
    storage = FallbackStorage(lambda: below)
    with storage.lock(1):
        storage.write("users/1", {"n": "changed"})
        storage.delete("users/2")
        storage.write("users/4", {"n": "new"})
    assert [storage.read(f"users/{n}") for n in range(1, 5)] == [{"n": "changed"}, None, {"n": "3"}, {"n": "new"}]
    assert sorted(storage.names("users")) == ["users/1", "users/3", "users/4"]
    assert below.read("users/2") == {"n": "2"}


def test_what_another_process_writes_later_does_not_reach_a_session_in_memory() -> None:
    below = Failing()
    below.write("state", {"n": 1})
    storage = FallbackStorage(lambda: below)
    below.broken = True
    with storage.lock(1):
        storage.write("device", {})
    below.broken = False
    below.write("state", {"n": 2})
    assert storage.read("state") == {"n": 1}


def test_a_reset_that_cannot_remove_what_is_stored_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """It has forgotten everything in memory all the same."""
    below = Failing()
    before = session(Scripted(user("1"), user("2")), below)
    before.start()
    before.login()
    below.broken = True
    own = session(storage=below, strict_storage=False)
    assert len(own.get_users()) == 2
    own.set_opt_out(True)
    with pytest.raises(StorageError, match="what is stored could not be removed: the keychain is locked"):
        own.reset()
    assert (own.mpid, own.device_id, own.get_users()) == (None, None, [])
    assert before.mpid == "2"
    assert len(caplog.records) == 1


def test_a_reset_with_nothing_stored_is_a_reset() -> None:
    below = Failing()
    below.broken = True
    own = session(Scripted(user("2")), below, strict_storage=False)
    own.start()
    own.reset()
    assert (own.mpid, own.get_users()) == (None, [])


def test_a_reset_of_a_place_that_works_removes_it(tmp_path: Path) -> None:
    started(tmp_path)
    make_session(tmp_path, strict_storage=False).reset()
    assert make_session(tmp_path).device_id is None


def test_readers_that_meet_the_failure_together_are_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    together, met = threading.Barrier(4, timeout=30), threading.local()

    class Unreadable(Failing):
        def read(self, name: str) -> Any:
            if not hasattr(met, "others"):
                met.others = together.wait()
            raise StorageError("gone")

    storage = FallbackStorage(Unreadable)
    threads = [threading.Thread(target=storage.read, args=("state",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.getMessage() for record in caplog.records] == [f"gone{WARNING}"]


def test_threads_that_meet_the_failure_together_are_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    """And never hold the lock at the same time, although it changes hands from the storage to memory."""
    below = Failing()
    below.broken = True
    storage = FallbackStorage(lambda: below)
    ready, inside, most = threading.Barrier(8, timeout=30), [0], [0]

    def change(number: int) -> None:
        ready.wait()
        for _ in range(20):
            with storage.lock(10):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                count = (storage.read("state") or {"n": 0})["n"]
                storage.write("state", {"n": count + 1})
                inside[0] -= 1

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (storage.read("state"), most, len(caplog.records)) == ({"n": 160}, [1], 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    below = Failing()
    storage = FallbackStorage(lambda: below)
    below.broken = True
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with storage.lock(1):
            storage.write("state", {"n": 1})
            taken.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(10)
    forked = os.fork()
    if forked == 0:
        try:
            with storage.lock(1):
                storage.write("state", {"n": 2})
            os._exit(storage.read("state") != {"n": 2})
        finally:
            os._exit(3)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0


def test_nothing_personal_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    own = make_session(tmp_path / "file" / "store", strict_storage=False)
    login(own, "canary")
    assert "canary" not in repr(own.storage) + caplog.text
    assert own.recovered_from is None
