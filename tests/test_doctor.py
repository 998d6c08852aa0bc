"""The doctor: it says what is wrong with a store, changes nothing when it looks, and loses nothing when it repairs."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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

from identity_session import IdentitySession, JsonStorage, StorageError, cli, doctor
from identity_session.config import workspace_name
from identity_session.findings import Examination, Finding, Kind
from identity_session.testing import torture as torture_room

pytestmark = pytest.mark.usefixtures("home")
STRIDE = 1 if SLOW else 7
NOTES = {Kind.NO_PREVIOUS, Kind.LINK, Kind.SET_ASIDE, Kind.FOREIGN}
SECRETS = ("jekyll", "hyde", "@example.com", "visits-of")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the users 100 (anonymous), jekyll and hyde, who is current, each file with a generation before."""
    store = tmp_path_factory.mktemp("original") / "store"
    session = started(store)
    for _ in range(2):
        for mpid in ("jekyll", "hyde"):
            login(session, mpid)
            session.current_user.set_attribute("visits-of", mpid)  # type: ignore[union-attr]
        session.get_user("100").set_attribute("seen", True)  # type: ignore[union-attr]
    started(store, device_id="a-stamp").close()
    session = started(store)
    login(session, "jekyll")
    login(session, "hyde")
    return store


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original, tmp_path / "store"))


@pytest.fixture
def workspace(store: Path) -> Path:
    return workspace_of(store)


def kinds(examined: Examination) -> list[Kind]:
    return [finding.kind for finding in examined.findings]


def found(path: Path, kind: Kind) -> Finding:
    """The one finding of this kind, in a look that found nothing else but notes."""
    findings = doctor.examine(path).findings
    assert {finding.kind for finding in findings} - NOTES <= {kind}
    (finding,) = [finding for finding in findings if finding.kind is kind]
    return finding


def image(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a path: mode, inode, content."""
    image = {}
    for each in [path, *path.rglob("*")]:
        status = each.lstat()
        content = each.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        image[str(each.relative_to(path))] = (status.st_mode, status.st_ino, content)
    return image


def flip(file: Path) -> None:
    """Damage one byte."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()  # the generation before may be the same file
    file.write_bytes(data)
    file.chmod(0o600)


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


def damage_state(workspace: Path) -> None:
    flip(workspace / "state.json")


def damage_both(workspace: Path) -> None:
    flip(workspace / "state.json")
    flip(workspace / "state.json.previous")


def damage_previous(workspace: Path) -> None:
    flip(workspace / "state.json.previous")


def lose_state(workspace: Path) -> None:
    (workspace / "state.json").unlink()


def lose_previous(workspace: Path) -> None:
    (workspace / "state.json.previous").unlink()


def lose_all_state(workspace: Path) -> None:
    lose_state(workspace)
    lose_previous(workspace)


def damage_user(workspace: Path) -> None:
    flip(user_file(workspace, "jekyll"))


def link_user(workspace: Path) -> None:
    file = user_file(workspace, "jekyll")
    file.rename(workspace.parent / "elsewhere")
    file.symlink_to(workspace.parent / "elsewhere")


def change_device(workspace: Path) -> None:
    write_document(workspace / "device.json", {"device_application_stamp": "another"})
    (workspace / "device.json").chmod(0o600)


def lose_device(workspace: Path) -> None:
    (workspace / "device.json").unlink()
    (workspace / "device.json.previous").unlink(missing_ok=True)


def lose_stamp_of_state(workspace: Path) -> None:
    document = read_document(workspace / "state.json")
    del document["device_application_stamp"], document["checksum"]
    write_document(workspace / "state.json", document)


def lose_stamps(workspace: Path) -> None:
    lose_device(workspace)
    lose_stamp_of_state(workspace)


def copy_user(workspace: Path) -> None:
    shutil.copy(user_file(workspace, "jekyll"), workspace / "users" / "abc123.json")


def empty_user(workspace: Path) -> None:
    write_document(workspace / "users" / "abc123.json", {"mpid": 7})
    (workspace / "users" / "abc123.json").chmod(0o600)


def open_file(workspace: Path) -> None:
    (workspace / "state.json").chmod(0o640)


def open_lock(workspace: Path) -> None:
    (workspace / "lock").chmod(0o666)


def close_file(workspace: Path) -> None:
    (workspace / "device.json").chmod(0o400)


def open_folder(workspace: Path) -> None:
    workspace.chmod(0o755)


def open_users(workspace: Path) -> None:
    for file in (workspace / "users").iterdir():
        file.chmod(0o644)


def leave_temporary(workspace: Path) -> None:
    (workspace / "save.tmp").touch(0o600)


def link_temporary(workspace: Path) -> None:
    (workspace / "save.tmp").symlink_to("/etc/passwd")


def set_aside(workspace: Path) -> None:
    (workspace / "state.json.corrupt-20240101T000000Z-1").touch(0o600)
    (workspace / "users" / f"{'ab' * 20}.json.previous.corrupt-x-1").touch(0o600)


def add_notes(workspace: Path) -> None:
    (workspace / "h.jekyll@example.com").touch()
    (workspace / "users" / "henry jekyll.json").touch()


def lock_is_a_link(workspace: Path) -> None:
    (workspace / "lock").unlink()
    (workspace / "lock").symlink_to("elsewhere")


def users_is_a_file(workspace: Path) -> None:
    shutil.rmtree(workspace / "users")
    (workspace / "users").touch()


def users_is_a_link(workspace: Path) -> None:
    (workspace / "users").rename(workspace.parent / "elsewhere")
    (workspace / "users").symlink_to(workspace.parent / "elsewhere")


def become_newer(workspace: Path) -> None:
    write_document(workspace / "state.json", {}, schema_version=2)


Case = tuple[Callable[[Path], None], Kind, str, str]
STATE, DEVICE = "state.json", "device.json"
REPAIRABLE: list[Case] = [
    (damage_state, Kind.DAMAGED, STATE, "its checksum does not match"),
    (damage_both, Kind.LOST, STATE, "its checksum does not match"),
    (damage_previous, Kind.DAMAGED_PREVIOUS, STATE, "of the generation before: its checksum does not match"),
    (lose_state, Kind.CUT_SHORT, STATE, "it is gone, and the generation before is there"),
    (damage_user, Kind.DAMAGED, "users/JEKYLL", "its checksum does not match"),
    (link_user, Kind.DAMAGED, "users/JEKYLL", "it is a symbolic link"),
    (change_device, Kind.DEVICE_STAMP, DEVICE, "the two copies of the device application stamp differ"),
    (lose_device, Kind.DEVICE_STAMP, DEVICE, "one of the two copies of the device application stamp is missing"),
    (
        lose_stamp_of_state,
        Kind.DEVICE_STAMP,
        DEVICE,
        "one of the two copies of the device application stamp is missing",
    ),
    (open_file, Kind.MODE, ".", "1 file has mode 0640"),
    (open_lock, Kind.MODE, ".", "1 file has mode 0666"),
    (close_file, Kind.MODE, ".", "1 file has mode 0400"),
    (open_folder, Kind.MODE, ".", "the folder has mode 0755"),
    (open_users, Kind.MODE, "users", "6 files have mode 0644"),
    (leave_temporary, Kind.LEFTOVER, "save.tmp", "it is the temporary file of a save"),
]
NOT_REPAIRABLE: list[Case] = [
    (lose_all_state, Kind.NO_STATE, STATE, "it is missing, though there are users"),
    (lose_stamps, Kind.NO_DEVICE_STAMP, STATE, "there is no device application stamp"),
    (copy_user, Kind.WRONG_NAME, "users/abc123.json", "the user in it belongs under another name"),
    (empty_user, Kind.WRONG_NAME, "users/abc123.json", "there is no user in it"),
    (lock_is_a_link, Kind.IN_THE_WAY, "lock", "it is no regular file"),
    (users_is_a_file, Kind.IN_THE_WAY, "users", "it is no folder"),
    (become_newer, Kind.NEWER, STATE, "a newer version of identity_session wrote it"),
]
WORTH_KNOWING: list[Case] = [
    (lose_previous, Kind.NO_PREVIOUS, STATE, "the generation before is missing"),
    (link_temporary, Kind.FOREIGN, "save.tmp", "it is no regular file; the next change makes way for its own"),
    (users_is_a_link, Kind.LINK, "users", "the folder is a symbolic link"),
]
each_case = pytest.mark.parametrize(
    ("happens", "kind", "name", "text"),
    [pytest.param(*case, id=case[0].__name__) for case in (*REPAIRABLE, *NOT_REPAIRABLE, *WORTH_KNOWING)],
)


def path_of(workspace: Path, name: str) -> Path:
    return user_file(workspace, "jekyll") if name == "users/JEKYLL" else workspace / name


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
    for happens in (damage_state, damage_user, change_device, open_users, open_folder, leave_temporary):
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


@pytest.mark.parametrize("happens", [set_aside, add_notes], ids=lambda f: f.__name__)
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
    open_users(workspace)
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
    for happens in (damage_state, change_device, open_folder, leave_temporary):
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


@each_case
def test_no_finding_names_a_user(
    store: Path,
    workspace: Path,
    happens: Callable[[Path], None],
    kind: Kind,
    name: str,
    text: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    happens(workspace)
    add_notes(workspace) if (workspace / "users").is_dir() else None
    cli.main(["doctor", "--storage", str(store)])
    cli.main(["doctor", "--storage", str(store), "--json", "--fix"])
    captured = capsys.readouterr()
    said = captured.out + captured.err + caplog.text
    assert text in said
    assert not [secret for secret in SECRETS if secret in said.replace(str(store), "")]


def test_every_kind_says_what_it_means_and_what_to_do() -> None:
    for kind in Kind:
        finding = Finding(kind, Path("x"), "x")
        assert finding.means
        assert ("--fix" in finding.advice) is finding.is_repairable
        assert finding.is_problem is (kind not in NOTES)
    assert {kind for kind in Kind if Finding(kind, Path("x"), "x").is_repairable} == set(doctor._REPAIRS)


# On the command line


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: exit code, output, errors."""

    def run(*options: object) -> tuple[int, str, str]:
        code = cli.main(["doctor", *map(str, options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_command_needs_no_key_and_says_that_all_is_well(store: Path, run: Any) -> None:
    assert run("--storage", store) == (0, f"{store}: 1 workspace, 3 users: healthy\n", "")


def test_the_command_says_what_it_found_what_it_means_and_what_to_do(store: Path, workspace: Path, run: Any) -> None:
    open_folder(workspace)
    finding = found(store, Kind.MODE)
    code, out, err = run("--storage", store)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        f"problem: {workspace.name}: the folder has mode 0755",
        f"    it means: {finding.means}",
        f"    to do:    {finding.advice}",
        f"{store}: 1 workspace, 3 users: 1 problem",
    ]


def test_the_command_repairs_when_told_to(store: Path, workspace: Path, run: Any) -> None:
    damage_state(workspace)
    open_users(workspace)
    assert run("--storage", store)[0] == 1
    code, out, err = run("--storage", store, "--fix")
    assert code == 0
    assert out.splitlines()[:3] == [
        f"repaired: {workspace.name}/users: 6 files have mode 0644",
        f"repaired: {workspace.name}/state.json: its checksum does not match",
        f"note: {workspace.name}: 1 file was set aside here",
    ]
    assert err.startswith("identity-session: warning: ")  # as whenever damage is set aside
    assert run("--storage", store)[0] == 0


def test_what_is_left_after_a_repair_is_still_a_failure(store: Path, workspace: Path, run: Any) -> None:
    copy_user(workspace)
    leave_temporary(workspace)
    code, out, _ = run("--storage", store, "--fix")
    assert code == 1
    assert out.splitlines()[0] == f"repaired: {workspace.name}/save.tmp: it is the temporary file of a save"
    assert f"problem: {workspace.name}/users/abc123.json: the user in it belongs under another name\n" in out


def test_the_command_prints_json(store: Path, workspace: Path, run: Any) -> None:
    open_folder(workspace)
    code, out, _ = run("--storage", store, "--json", "--fix")
    report = json.loads(out)
    (repaired,) = report.pop("repaired")
    assert repaired.pop("means")
    assert repaired.pop("advice")
    place = {"path": str(workspace), "found": "the folder has mode 0755"}
    assert repaired == {"kind": "mode", **place, "problem": True, "repairable": True}
    storage, healthy = {"storage": str(store), "workspaces": [workspace.name]}, {"healthy": True, "findings": []}
    assert (code, report) == (0, {**storage, "users": 3, **healthy, "torture": None})


def test_a_token_or_a_key_chooses_one_workspace(
    store: Path, workspace: Path, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_folder(workspace)
    IdentitySession(None, workspace_token="other", storage=store).set_opt_out(True)
    assert run("--storage", store)[0] == 1
    assert run("--storage", store, "--workspace-token", "other") == (0, f"{store}: 1 workspace, 0 users: healthy\n", "")
    (tmp_path / "key").write_text(API_KEY)
    assert run("--storage", store, "--api-key-file", tmp_path / "key")[0] == 1
    monkeypatch.setenv("IDENTITY_SESSION_API_KEY", "us1-another")
    assert run("--storage", store) == (0, f"nothing is stored in {store}\n", "")
    monkeypatch.setenv("IDENTITY_SESSION_API_KEY", API_KEY)
    assert run("--storage", store)[0] == 1


def test_without_a_path_the_users_data_folder_is_looked_at(tmp_path: Path, run: Any) -> None:
    folder = tmp_path / "data" / "identity_session"
    assert run() == (0, f"nothing is stored in {folder}\n", "")
    started(None)
    assert run() == (0, f"{folder}: 1 workspace, 1 user: healthy\n", "")


def test_what_cannot_be_examined_ends_with_3(tmp_path: Path, run: Any) -> None:
    (tmp_path / "file").touch()
    text = f"identity-session: {tmp_path / 'file'} cannot be looked into (Not a directory)\n"
    assert run("--storage", tmp_path / "file") == (3, "", text)


@pytest.mark.parametrize("options", [("--torture", "0"), ("--torture", "x"), ("--api-key", "k"), ("--base-url", "x")])
def test_wrong_usage_ends_with_2(run: Any, options: tuple[str, ...]) -> None:
    code, out, err = run(*options)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_it_works_as_a_module_of_its_own_process(store: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "identity_session", "doctor", "--storage", str(store)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{store}: 1 workspace, 3 users: healthy\n", "")


def test_a_name_cannot_move_the_cursor(tmp_path: Path, run: Any) -> None:
    _, out, _ = run("--storage", tmp_path / "a\x1b[2Jb")
    assert "\x1b" not in out


def test_torture_on_the_command_line_prints_its_figures(tmp_path: Path, run: Any) -> None:
    code, out, err = run("--storage", tmp_path, "--torture", "2")
    assert (code, err) == (0, "")
    figures = r"torture: 2 kills, \d+ transitions? answered, \d+ users?, worst recovery [\d.]+ ms, [\d.]+ s"
    assert re.fullmatch(f"nothing is stored in {tmp_path}\n{figures}: nothing was lost\n", out)


def test_torture_that_lost_something_ends_with_1(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = torture_room.Outcome(2, 1, 1, 0.0123, 1.5, ("kill 2: users missing: 1",))
    monkeypatch.setattr(torture_room, "torture", lambda folder, kills: lost)
    code, out, _ = run("--storage", tmp_path, "--torture", "2")
    assert code == 1
    assert out.splitlines()[1:] == [
        "lost: kill 2: users missing: 1",
        "torture: 2 kills, 1 transition answered, 1 user, worst recovery 12.3 ms, 1.5 s: something was lost",
    ]
    code, out, _ = run("--storage", tmp_path, "--torture", "2", "--json")
    assert (code, json.loads(out)["torture"]["losses"]) == (1, ["kill 2: users missing: 1"])
