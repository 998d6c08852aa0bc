"""Several processes on one store."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from storage_helpers import (
    child,
    login,
    make_session,
    next_line,
    read_document,
    started,
    temporary_files,
    workspace_of,
)

from identity_session import files

PROCESSES, LOGINS = 8, 25


def rest_of(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.read().split("\n")


def test_eight_processes_of_25_logins_lose_none_of_200_users(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(child("logins", tmp_path, f"p{number}-", LOGINS)) for number in range(PROCESSES)
        ]
        outputs = [rest_of(process) for process in children]
        assert [process.wait() for process in children] == [0] * PROCESSES
    devices = {line.split()[1] for lines in outputs for line in lines if line.startswith("started")}
    logins = [line.split() for lines in outputs for line in lines if line.startswith("p")]
    assert len(logins) == PROCESSES * LOGINS
    assert {code for *_, code in logins} == {"200"}

    session = make_session(tmp_path)
    expected = {f"p{process}-{number}" for process in range(PROCESSES) for number in range(LOGINS)}
    assert {user.mpid for user in session.get_users()} == {*expected, "100"}
    assert session.recovered_from is None
    assert session.mpid in expected
    assert devices == {session.device_id}
    for file in workspace_of(tmp_path).rglob("*.json"):
        assert files.load(file) is not None
    assert temporary_files(tmp_path) == []


def test_processes_that_race_on_the_very_first_start_agree_on_one_device_stamp(tmp_path: Path) -> None:
    for round_ in range(3):
        store = tmp_path / str(round_)
        with contextlib.ExitStack() as stack:
            children = [stack.enter_context(child("start", store)) for _ in range(2)]
            for process in children:  # constructed, with a stamp of its own in mind
                assert next_line(process) == "ready"
            for process in children:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in children:
                code, device_id = next_line(process).split()
                assert code in ("200", "-3")
                assert device_id == make_session(store).device_id
        workspace = workspace_of(store)
        stamps = {read_document(workspace / f"{name}.json")["device_application_stamp"] for name in ("state", "device")}
        assert stamps == {make_session(store).device_id}


def test_what_another_process_changes_is_seen_at_once(tmp_path: Path) -> None:
    session = started(tmp_path)
    with child("logins", tmp_path, "p-", 5) as process:
        assert next_line(process) == f"started {session.device_id}"
        for number in range(5):
            assert next_line(process) == f"p- {number} 200"
        assert process.wait() == 0
    assert session.mpid == "p-4"
    assert session.context == "context of p-4"
    assert session.current_user.identities == {"customerid": "p-4"}  # type: ignore[union-attr]
    result = login(session, "5")
    assert result.get_previous_user().mpid == "p-4"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_session_opened_before_or_after_another_process_started_has_its_device_stamp(
    tmp_path: Path, moment: str
) -> None:
    session = make_session(tmp_path) if moment == "before" else None
    with child("logins", tmp_path, "p-", 1) as process:
        device_id = next_line(process).split()[1]
        process.wait()
    session = session or make_session(tmp_path)
    assert session.device_id == device_id
    session.start()
    assert session.device_id == device_id
