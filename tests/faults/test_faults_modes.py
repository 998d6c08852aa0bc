"""Only its owner can read a store, whatever the umask and whatever was there before; and a store that is sealed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from required import absent
from storage_helpers import (
    API_KEY,
    QuickService,
    login,
    make_session,
    read_document,
    started,
    temporary_files,
    tree,
    umask,
    user_file,
    workspace_of,
    write_document,
)
from transitions import FRONTS, Service, Traveller

from identity_session import StorageError, cli, doctor
from identity_session.findings import Kind

MASKS = [0o000, 0o022, 0o077, 0o277, 0o777]
CLOSED = [0o000, 0o600, 0o300]
"""Modes of a folder that not even its owner can list, or reach anything in."""
NOBODY = 65534


def live(store: Path, front: str = "sync") -> None:
    """Write every kind of file there is, twice, and find one of them damaged."""
    session = FRONTS[front](API_KEY, storage=store, transport=Service())
    done = Traveller.done
    done(session.start())
    for mpid in ("1", "2", "1", "2", "3"):
        assert done(login(session, mpid)).http_code == 200
    done(session.current_user.set_attribute("plan", "gold"))
    again = FRONTS[front](API_KEY, storage=store, transport=Service(), device_id="another")
    done(again.start())
    (workspace_of(store) / "state.json").write_text("damaged")
    assert done(login(again, "1")).http_code == 200
    assert again.recovered_from is not None


def modes(store: Path) -> dict[str, int]:
    found = {str(f.relative_to(store)): stat.S_IMODE(f.lstat().st_mode) for f in [store, *store.rglob("*")]}
    assert len(found) > 12
    return found


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("mask", MASKS, ids=oct)
def test_a_new_store_is_private_whatever_the_umask(tmp_path: Path, mask: int, front: str) -> None:
    store = tmp_path / "missing" / "store"
    with umask(mask):
        live(store, front)
    for name, mode in modes(store).items():
        assert mode == (0o700 if (store / name).is_dir() else 0o600), name
    assert stat.S_IMODE(store.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mask", MASKS, ids=oct)
@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o755, 0o644), (0o777, 0o666), (0o2775, 0o664)], ids=oct)
def test_a_store_that_was_open_becomes_private_when_it_is_used(
    tmp_path: Path, mask: int, folder_mode: int, file_mode: int
) -> None:
    """The folder of the state at once, so that nobody else reaches anything in it; each file as it is written."""
    store = tmp_path / "store"
    live(store)
    for file in [store, *store.rglob("*")]:
        file.chmod(folder_mode if file.is_dir() else file_mode)
    workspace = workspace_of(store)
    files_before = {f: f.lstat().st_ino for f in workspace.rglob("*") if f.is_file()}
    with umask(mask):
        session = make_session(store, transport=QuickService())
        session.touch()
        assert stat.S_IMODE(workspace.stat().st_mode) == 0o700
        live(store)
    assert stat.S_IMODE((workspace / "users").stat().st_mode) == 0o700
    written = [f for f in workspace.rglob("*") if f.is_file() and f.lstat().st_ino != files_before.get(f)]
    assert len(written) > 4
    assert {stat.S_IMODE(f.lstat().st_mode) for f in [*written, workspace / "lock"]} == {0o600}


def test_at_no_moment_can_others_open_what_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name that appears is private from its first moment, not only in the end."""
    opened, seen = os.open, []

    def watched(path: object, flags: int, mode: int = 0o777, **options: object) -> int:
        handle = opened(path, flags, mode, **options)  # type: ignore[arg-type]
        if flags & os.O_CREAT and str(path).startswith(str(tmp_path)):
            seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    monkeypatch.setattr(os, "open", watched)
    with umask(0):
        live(tmp_path / "store")
    assert len(seen) > 10
    assert set(seen) == {0o600}


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Path]:
    """A folder of the user whom this test runs as: never root, who is kept out by no mode."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    for front in FRONTS:  # imports what may be root's alone
        live(tmp_path / front, front)
    with tempfile.TemporaryDirectory(prefix="identity-session-") as folder:  # pytest keeps others out of its own
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("closed", CLOSED, ids=oct)
@pytest.mark.parametrize("name", [".", "users"])
def test_a_folder_that_its_owner_closed_is_private_again_when_it_is_used(
    owned: Path, front: str, closed: int, name: str
) -> None:
    """And whoever is to be forgotten is."""
    store, done = owned / "store", Traveller.done
    live(store, front)
    folder = workspace_of(store) / name
    folder.chmod(closed)
    session = FRONTS[front](API_KEY, storage=store, transport=Service())
    done(session.touch())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert done(login(session, "2")).http_code == 200
    assert done(session.logout(offline="forget", keep_user=False)).http_code == 200
    assert {user.mpid for user in done(session.get_users())} == {"100", "1", "3"}


@pytest.mark.parametrize("closed", CLOSED, ids=oct)
def test_who_only_looks_into_a_closed_store_sees_everybody(
    owned: Path, closed: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = owned / "store"
    live(store)
    caplog.clear()
    workspace = workspace_of(store)
    for folder in (workspace / "users", workspace):
        folder.chmod(closed)
    session = make_session(store, transport=QuickService())
    assert {user.mpid for user in session.get_users()} == {"100", "1", "2", "3"}
    assert caplog.text == ""


@pytest.mark.parametrize("closed", CLOSED, ids=oct)
@pytest.mark.parametrize("names", [["."], ["users"], ["users", "."]], ids=" and ".join)
def test_the_doctor_opens_what_its_owner_closed_and_goes_on_with_what_is_in_it(
    owned: Path, closed: int, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = owned / "store"
    live(store)
    workspace = workspace_of(store)
    user_file(workspace, "2").write_text("damaged")
    for name in names:
        (workspace / name).chmod(closed)
    (finding,) = [finding for finding in doctor.examine(store).findings if finding.is_problem]
    outermost, mode = workspace / names[-1], f"the folder has mode {closed:04o}"
    assert (finding.kind, finding.path, finding.found) == (Kind.MODE, outermost, mode)
    assert stat.S_IMODE(outermost.stat().st_mode) == closed  # to look changes nothing
    repaired = doctor.repair(store)
    assert repaired.is_healthy
    assert [finding.kind for finding in repaired.repaired] == [*(Kind.MODE for _ in names), Kind.DAMAGED]
    assert {stat.S_IMODE((workspace / name).stat().st_mode) for name in (".", "users")} == {0o700}


def test_of_a_newer_version_the_doctor_touches_nothing_that_was_not_closed_to_it(owned: Path) -> None:
    store = owned / "store"
    live(store)
    workspace = workspace_of(store)
    state = workspace / "state.json"
    write_document(state, {}, schema_version=2)
    state.chmod(0o644)
    for folder in (workspace / "users", workspace):
        folder.chmod(0o600)
    repaired = doctor.repair(store)
    assert Kind.NEWER in {finding.kind for finding in repaired.findings}
    assert [stat.S_IMODE(file.stat().st_mode) for file in (workspace, workspace / "users", state)] == [
        0o700,
        0o600,
        0o644,
    ]


def test_who_only_looks_changes_no_mode_that_does_not_keep_them_out(tmp_path: Path) -> None:
    store = tmp_path / "store"
    live(store)
    for file in store.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    before = modes(store)
    assert len(make_session(store, transport=QuickService()).get_users()) == 4
    assert modes(store) == before


@contextlib.contextmanager
def sealed(store: Path) -> Iterator[None]:
    """Inside the block not even root may change anything in the folders of this store."""
    if os.geteuid() != 0 or not shutil.which("chattr"):
        absent("chattr", "only root may seal a folder, with that command")
    folders = [str(f) for f in (store, *store.rglob("*")) if f.is_dir()]
    try:
        done = subprocess.run(["chattr", "+i", *folders], capture_output=True, text=True, timeout=30)
        if done.returncode:
            absent("chattr", f"this file system cannot seal folders: {done.stderr.strip()}")
        yield
    finally:
        subprocess.run(["chattr", "-i", *folders], capture_output=True, timeout=30)


@pytest.mark.parametrize("front", FRONTS)
def test_a_sealed_store_can_be_read_and_start_says_why_it_cannot_be_used(tmp_path: Path, front: str) -> None:
    store = tmp_path / "store"
    live(store)
    running = FRONTS[front](API_KEY, storage=store, transport=Service())
    Traveller.done(running.start())
    before = tree(store)
    with sealed(store):
        session = FRONTS[front](API_KEY, storage=store, transport=Service())
        assert session.mpid == "1"
        with pytest.raises(StorageError, match="Operation not permitted"):
            Traveller.done(session.start())
        result = Traveller.done(login(running, "9"))
        assert result.http_code == -1
        assert "Operation not permitted" in result.body
        assert running.mpid == "1"
        assert tree(store) == before
    assert Traveller.done(session.start()).http_code in (200, -3)
    assert Traveller.done(login(running, "9")).http_code == 200
    assert make_session(store).mpid == "9"


def test_damage_in_a_sealed_store_is_told_and_the_generation_before_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be set aside stays where it is."""
    store = tmp_path / "store"
    login(started(store, transport=QuickService()), "7")
    state = workspace_of(store) / "state.json"
    expected = read_document(state.with_name("state.json.previous"))["user"]["mpid"]
    state.unlink()
    state.write_text("damaged")
    with sealed(store):
        session = make_session(store, transport=QuickService())
        assert session.mpid == expected
        assert "cannot be moved (Operation not permitted)" in caplog.text
        with pytest.raises(StorageError):
            session.start()
        assert state.read_text() == "damaged"
    assert session.start().http_code in (200, -3)
    assert session.recovered_from is not None
    assert session.recovered_from.read_text() == "damaged"
    assert temporary_files(store) == []


def test_the_command_line_says_in_one_line_why_a_store_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    login(started(store, transport=QuickService()), "7")
    monkeypatch.setenv("IDENTITY_SESSION_API_KEY", API_KEY)
    options = ["--storage", str(store), "--base-url", "http://127.0.0.1:9/v1"]
    with sealed(store):
        assert cli.main(["status", *options]) == 0
        assert capsys.readouterr().err == ""
        for command in ("start", "login", "logout"):
            assert cli.main([command, *options]) == 3
            printed = capsys.readouterr()
            (line,) = printed.err.splitlines()
            assert line.startswith("identity-session: ")
            assert "Operation not permitted" in line
            assert printed.out == ""
