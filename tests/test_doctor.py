"""The doctor: it says what is wrong with a store, changes nothing when it looks, and loses nothing when it repairs."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken_stores import (
    NOT_REPAIRABLE,
    NOTES,
    REPAIRABLE,
    add_notes,
    change_device,
    damage_state,
    damage_user,
    each_case,
    expose_folder,
    expose_users,
    flip,
    found,
    image,
    kinds,
    leave_set_aside,
    leave_temporary,
    make_store,
    path_of,
)
from required import SLOW
from storage_helpers import (
    API_KEY,
    FaultyDisk,
    child,
    login,
    make_session,
    next_line,
    read_document,
    started,
    user_file,
    workspace_of,
    write_document,
)

from identity_session import IdentitySession, JsonStorage, StorageError, doctor
from identity_session.config import workspace_name
from identity_session.findings import Finding, Kind

pytestmark = pytest.mark.usefixtures("home")
STRIDE = 1 if SLOW else 7


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("original") / "store")


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original, tmp_path / "store"))


@pytest.fixture
def workspace(store: Path) -> Path:
    return workspace_of(store)


# What it finds


def test_a_store_in_daily_use_is_healthy(store: Path) -> None:
    examined = doctor.examine(store)
    assert (examined.is_healthy, examined.findings, examined.repaired) == (True, (), ())
    assert (examined.users, [folder.name for folder in examined.workspaces]) == (3, [workspace_name(API_KEY, None)])


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_where_nothing_is_stored_nothing_is_wrong(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    examined = doctor.examine(tmp_path / place)
    assert (examined.is_healthy, examined.workspaces, examined.users) == (True, (), 0)
    assert not (tmp_path / "nowhere").exists()


@each_case
def test_it_says_what_it_found_where_and_changes_nothing(
    store: Path, workspace: Path, happens: Callable[[Path], None], kind: Kind, name: str, text: str
) -> None:
    happens(workspace)
    before = image(store)
    finding = found(store, kind)
    assert (finding.path, finding.found) == (path_of(workspace, name), text)
    assert finding.means
    assert finding.advice
    assert finding.is_problem is doctor.examine(store).findings[-1].is_problem is (kind not in NOTES)
    assert doctor.examine(store).is_healthy is (kind in NOTES)
    assert image(store) == before


@pytest.mark.parametrize(("happens", "kind", "name", "text"), REPAIRABLE, ids=[c[0].__name__ for c in REPAIRABLE])
def test_what_can_be_put_right_is_put_right(
    store: Path, workspace: Path, happens: Callable[[Path], None], kind: Kind, name: str, text: str
) -> None:
    """Afterwards it is healthy, or the state is one that the next session begins afresh, with its device and users."""
    happens(workspace)
    finding = found(store, kind)
    assert finding.is_repairable
    repaired = doctor.repair(store)
    assert repaired.repaired == (finding,)
    assert set(kinds(repaired)) <= ({Kind.NO_STATE} if kind is Kind.LOST else set()) | NOTES
    session = started(store)
    assert session.recovered_from is None
    assert session.device_id == "a-stamp"
    assert {user.mpid for user in session.get_users()} >= {"100", "jekyll"}
    assert session.get_user("jekyll").attributes == {"visits-of": "jekyll"}  # type: ignore[union-attr]
    assert doctor.examine(store).is_healthy


@pytest.mark.parametrize(
    ("happens", "kind", "name", "text"), NOT_REPAIRABLE, ids=[c[0].__name__ for c in NOT_REPAIRABLE]
)
def test_what_cannot_be_put_right_stays_as_it_is(
    store: Path, workspace: Path, happens: Callable[[Path], None], kind: Kind, name: str, text: str
) -> None:
    happens(workspace)
    before = image(store)
    repaired = doctor.repair(store)
    assert (repaired.is_healthy, repaired.repaired) == (False, ())
    assert kind in kinds(repaired)
    assert image(store) == before


def test_several_things_are_put_right_at_once(store: Path, workspace: Path) -> None:
    """Damage to one file does not keep the others from repair."""
    for happens in (damage_state, damage_user, change_device, expose_users, expose_folder, leave_temporary):
        happens(workspace)
    examined = doctor.examine(store)
    repaired = doctor.repair(store)
    assert repaired.repaired == tuple(finding for finding in examined.findings if finding.is_problem)
    assert len(repaired.repaired) == 6
    assert repaired.is_healthy
    assert sum(".corrupt-" in file.name for file in workspace.rglob("*")) == 2


def test_damage_to_both_device_files_is_repaired_from_the_state(store: Path, workspace: Path) -> None:
    for file in workspace.glob("device.json*"):
        flip(file)
    assert doctor.repair(store).is_healthy
    assert read_document(workspace / "device.json")["device_application_stamp"] == "a-stamp"


def test_a_damaged_file_is_kept_for_a_person_to_look_at(store: Path, workspace: Path) -> None:
    damage_state(workspace)
    damaged = (workspace / "state.json").read_bytes()
    repaired = doctor.repair(store)
    (aside,) = workspace.glob("state.json.corrupt-*")
    assert aside.read_bytes() == damaged
    assert [(f.kind, f.found) for f in repaired.findings] == [(Kind.SET_ASIDE, "1 file was set aside here")]


@pytest.mark.parametrize("happens", [leave_set_aside, add_notes], ids=lambda f: f.__name__)
def test_what_it_does_not_know_or_was_set_aside_is_counted_and_left_alone(
    store: Path, workspace: Path, happens: Callable[[Path], None]
) -> None:
    happens(workspace)
    leave_temporary(workspace)
    names = {str(file) for file in workspace.rglob("*")}
    repaired = doctor.repair(store)
    assert repaired.is_healthy
    assert len(repaired.findings) == 2
    assert {str(file) for file in workspace.rglob("*")} == names - {str(workspace / "save.tmp")}
    assert "jekyll" not in str(repaired.findings)


def test_a_link_is_not_followed_by_a_repair(store: Path, workspace: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    (workspace / "save.tmp").symlink_to(victim)
    (workspace / "state.json").unlink()
    (workspace / "state.json").symlink_to(victim)
    expose_users(workspace)
    assert doctor.repair(store).is_healthy
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode)) == ("precious", 0o644)


def test_a_workspace_of_a_newer_version_is_not_touched_and_others_are(store: Path, workspace: Path) -> None:
    IdentitySession(None, workspace_token="other", storage=store).set_opt_out(True)
    other = store / workspace_name("", "other")
    write_document(user_file(workspace, "jekyll"), {}, schema_version=7)
    for folder in (workspace, other):
        folder.chmod(0o755)
        leave_temporary(folder)
    before = image(workspace)
    repaired = doctor.repair(store)
    assert {(finding.kind, finding.path.parent) for finding in repaired.repaired} == {
        (Kind.MODE, store),
        (Kind.LEFTOVER, other),
    }
    assert Kind.NEWER in kinds(repaired)
    assert image(workspace) == before


def test_one_workspace_can_be_chosen(store: Path, workspace: Path) -> None:
    damage_state(workspace)
    assert doctor.examine(store, "workspace-0123456789abcdef").workspaces == ()
    assert kinds(doctor.examine(store, workspace.name)) == [Kind.DAMAGED]
    IdentitySession(None, workspace_token="other", storage=store).set_opt_out(True)
    assert doctor.examine(store, workspace_name("", "other")).findings == ()


def test_a_held_lock_is_told_with_how_long_it_was_tried(store: Path, workspace: Path) -> None:
    leave_temporary(workspace)  # of the save that is under way, as far as anybody can tell
    with child("hold", workspace) as holder:
        assert next_line(holder) == "held"
        examined = doctor.examine(store, lock_seconds=0.2)
        assert [(f.kind, f.path) for f in examined.findings] == [(Kind.BUSY, workspace / "lock")]
        assert examined.findings[0].found == "another process has held the lock while it was tried for 0.2 s"
        damage_state(workspace)
        repaired = doctor.repair(store, lock_seconds=0.1)
        assert (repaired.repaired, kinds(repaired)) == ((), [Kind.BUSY, Kind.DAMAGED])
    assert doctor.repair(store).is_healthy


def test_a_lock_is_free_again_after_a_look(store: Path, workspace: Path) -> None:
    doctor.examine(store)
    with JsonStorage(workspace).lock(0):
        pass


def test_a_folder_that_cannot_be_written_to_is_told(
    store: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != workspace and access(path, mode))
    assert found(store, Kind.NOT_WRITABLE).found == "this user cannot write here"


def test_a_full_disk_is_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(store)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    findings = doctor.examine(store).findings
    assert {(f.kind, f.found) for f in findings} == {(Kind.NOT_WRITABLE, "the disk is full")}


def test_what_cannot_be_read_is_told_at_every_step(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Access is denied to one operation after the other: a finding or the documented error, and nothing changes."""
    disk = FaultyDisk(monkeypatch, store)
    before = image(store)
    told = set()
    for step in disk.every_failure(errno.EACCES):
        with step, contextlib.suppress(StorageError):  # raised when the path itself cannot be looked into
            told |= set(kinds(doctor.examine(store)))
        assert image(store) == before
    assert Kind.UNREADABLE in told


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, None], ids=["EIO", "power cut"])
def test_a_repair_that_ends_at_any_step_loses_nothing_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    session = started(tmp_path / "store", device_id="a-stamp")
    login(session, "jekyll")
    session.current_user.set_attribute("visits-of", "jekyll")
    for happens in (damage_state, change_device, expose_folder, leave_temporary):
        happens(workspace_of(tmp_path / "store"))
    place = tmp_path / "copy"
    disk = FaultyDisk(monkeypatch, place)
    for n in range(1, 10_000, STRIDE):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tmp_path / "store", place)
        with (
            disk.stopping(n) if code is None else disk.failing(n, code),
            contextlib.suppress(StorageError),  # raised when the path itself cannot be looked into
        ):
            doctor.repair(place)
        assert doctor.repair(place).is_healthy, disk.calls
        session = make_session(place)
        assert (session.device_id, session.mpid) == ("a-stamp", "jekyll"), disk.calls
        assert {user.mpid for user in session.get_users()} == {"100", "jekyll"}
        if not disk.failed():
            break
    assert 100 < n < 10_000 - STRIDE


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_path_that_cannot_hold_a_store_is_an_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be looked into"):
        doctor.examine(tmp_path / place)


def test_a_folder_that_cannot_be_listed_is_told(store: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir

    def refusing(path: Any) -> Any:
        if path == workspace:
            raise PermissionError(errno.EACCES, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refusing)
    assert found(store, Kind.UNREADABLE).found == "it cannot be listed (Permission denied)"


def test_every_kind_says_what_it_means_and_what_to_do() -> None:
    for kind in Kind:
        finding = Finding(kind, Path("x"), "x")
        assert finding.means
        assert ("--fix" in finding.advice) is finding.is_repairable
        assert finding.is_problem is (kind not in NOTES)
    assert {kind for kind in Kind if Finding(kind, Path("x"), "x").is_repairable} == set(doctor._REPAIRS)
