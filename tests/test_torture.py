"""The torture of `doctor --torture`: it counts what a store survived, and notices whatever did not survive."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from broken_stores import DoctorCommand, doctor_command
from storage_helpers import read_document, user_file, workspace_of, write_document

from identity_session import doctor
from identity_session.config import workspace_name
from identity_session.testing import torture as torture_room
from identity_session.testing.faults import Run, killed_again_and_again
from identity_session.testing.torture import torture

pytestmark = pytest.mark.usefixtures("home")


def test_torture_counts_what_a_store_survived(tmp_path: Path) -> None:
    outcome = torture(tmp_path / "store", 4, seed=1)
    assert outcome.losses == ()
    assert outcome.kills == 4
    assert outcome.transitions >= 4
    assert 1 <= outcome.users <= outcome.transitions
    assert 0 < outcome.worst_recovery_seconds < outcome.seconds
    examined = doctor.examine(tmp_path / "store")
    assert [folder.name for folder in examined.workspaces] == [workspace_name("torture", None)]
    assert examined.users == outcome.users


def lose_a_user(store: Path) -> None:
    workspace = workspace_of(store)
    current = read_document(workspace / "state.json")["user"]["mpid"]
    file = next(file for file in (workspace / "users").glob("*.json") if file != user_file(workspace, current))
    for companion in file.parent.glob(f"{file.name}*"):
        companion.unlink()


def go_back(store: Path) -> None:
    state = workspace_of(store) / "state.json"
    document = read_document(state)
    del document["checksum"]
    write_document(state, {**document, "user": None})
    state.chmod(0o600)


def become_another_device(store: Path) -> None:
    for name in ("state", "device"):
        file = workspace_of(store) / f"{name}.json"
        document = read_document(file)
        del document["checksum"]
        write_document(file, {**document, "device_application_stamp": "another"})
        file.chmod(0o600)


def leave_two_temporary_files(store: Path) -> None:
    for name in ("one.tmp", "two.tmp"):
        (workspace_of(store) / name).touch()


def become_unusable(store: Path) -> None:
    write_document(workspace_of(store) / "state.json", {}, schema_version=2)


def damage_a_file(store: Path) -> None:
    (workspace_of(store) / "device.json").write_text("{")


LOSSES = [
    (lose_a_user, "users missing: 1"),
    (go_back, "the state is neither the one before nor the one after the step in progress"),
    (become_another_device, "the device application stamp has changed"),
    (leave_two_temporary_files, "temporary files left: "),
    (become_unusable, "the store cannot be used"),
    (damage_a_file, "device.json: it is not JSON"),
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A store whose program was killed once, and the run that ended so."""
    store = tmp_path_factory.mktemp("killed") / "store"
    command = [sys.executable, "-m", torture_room.__name__, str(store)]
    for run in killed_again_and_again(command, 1, lines=40, seed=0):
        assert len(run.lines) > 20
    return store, run


@pytest.mark.parametrize(("happens", "text"), [(lambda _: None, None), *LOSSES])
def test_torture_notices_what_is_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed: tuple[Path, Run],
    happens: Callable[[Path], None],
    text: str | None,
) -> None:
    """A store that loses something between a second kill and the look at it."""
    original, first = killed
    store = tmp_path / "store"

    def treacherous(*_: Any, **__: Any) -> Iterator[Run]:
        shutil.copytree(original, store)
        yield first
        happens(store)
        yield replace(first, number=1, lines=())

    monkeypatch.setattr(torture_room, "killed_again_and_again", treacherous)
    losses = torture(store, 2).losses
    assert any(loss.startswith(f"kill 2: {text}") for loss in losses) if text else losses == (), losses


def test_torture_notices_a_program_that_finds_another_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: tuple[Path, Run]
) -> None:
    original, first = killed
    runs = [first, replace(first, number=1, lines=("found nobody",))]
    monkeypatch.setattr(torture_room, "killed_again_and_again", lambda *_, **__: runs)
    text = "kill 2: the program has found another state than was stored"
    assert torture(shutil.copytree(original, tmp_path / "store"), 2).losses[0] == text


def test_torture_notices_a_program_that_ends_by_itself(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    outcome = torture(tmp_path / "store", 1)
    assert outcome.losses[0].startswith("kill 1: the program ended by itself with 1: ")


# On the command line


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> DoctorCommand:
    return doctor_command(capsys)


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
