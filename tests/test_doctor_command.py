"""`identity-session doctor`: what it prints, what it repairs, and how it ends; it names nobody."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken_stores import (
    SECRETS,
    DoctorCommand,
    add_notes,
    copy_user,
    damage_state,
    doctor_command,
    each_case,
    expose_folder,
    expose_users,
    found,
    leave_temporary,
    make_store,
)
from storage_helpers import API_KEY, started, workspace_of

from identity_session import IdentitySession, cli
from identity_session.findings import Kind

pytestmark = pytest.mark.usefixtures("home")


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


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> DoctorCommand:
    return doctor_command(capsys)


def test_the_command_needs_no_key_and_says_that_all_is_well(store: Path, run: Any) -> None:
    assert run("--storage", store) == (0, f"{store}: 1 workspace, 3 users: healthy\n", "")


def test_the_command_says_what_it_found_what_it_means_and_what_to_do(store: Path, workspace: Path, run: Any) -> None:
    expose_folder(workspace)
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
    expose_users(workspace)
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
    expose_folder(workspace)
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
    expose_folder(workspace)
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


@pytest.mark.parametrize(
    ("name", "says"),
    [("API_KEY", "api_key must be printable ASCII"), ("WORKSPACE_TOKEN", "workspace_token must be a non-empty text")],
)
def test_a_key_or_token_that_no_session_takes_is_wrong_usage_and_not_shown(
    run: Any, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    """In the words of the other commands."""
    monkeypatch.setenv("IDENTITY_SESSION_API_KEY", API_KEY)
    monkeypatch.setenv(f"IDENTITY_SESSION_{name}", "canary\udcff")  # a byte that is no UTF-8
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith(f"identity-session: {says}")
    assert "canary" not in err
    assert cli.main(["status"]) == 2


def test_it_works_as_a_module_of_its_own_process(store: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "identity_session", "doctor", "--storage", str(store)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{store}: 1 workspace, 3 users: healthy\n", "")


def test_a_name_cannot_move_the_cursor(tmp_path: Path, run: Any) -> None:
    _, out, _ = run("--storage", tmp_path / "a\x1b[2Jb")
    assert "\x1b" not in out


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
