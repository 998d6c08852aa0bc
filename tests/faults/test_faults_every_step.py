"""Calls during which the disk fails, or everything stops, at the first operation, the second, and so on."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from storage_helpers import login, temporary_files, workspace_of
from transitions import CUSTOMERS, FRONTS, Model, Traveller, cut_short, documents, people

from identity_session import JsonStorage, StorageError
from identity_session.testing.faults import FaultyDisk

STEP = 20
"""Of the journey that the calls here interrupt."""
CUSTOMER = str(1 + random.Random(STEP).randrange(CUSTOMERS))
"""Whom they are about: remembered, and not current."""
STOP = 0
FAULTS = {"stop": STOP, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
OTHER_FAULTS = {name: getattr(errno, name) for name in ("EDQUOT", "EROFS", "EACCES", "EMFILE", "EINTR")}
LEAST_OPERATIONS = {"first start": 50, "login": 90, "attribute of another user": 40}


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync is an operation that may fail like the others, but nobody has to wait for it."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after a journey."""
    path = tmp_path_factory.mktemp("journey") / "store"
    traveller = Traveller(path)
    while traveller.step < STEP:
        traveller.take()
    for mpid in (CUSTOMER, "of somebody else"):
        assert login(traveller.session, mpid).http_code == 200
    return path


def attempt(traveller: Traveller, call: str) -> str:
    """Make a call; how it ended, as the caller sees it."""
    name = "start" if call == "first start" else call
    try:
        result = traveller.call(name, random.Random(STEP))
    except StorageError:
        return "failed"
    if result is None or result.http_code in (200, -3):
        return "done"
    assert result.http_code == -1
    assert isinstance(result.body, str)
    assert result.body
    return "failed"


def assert_all_or_nothing_at_every_step(stored: Path, path: Path, call: str, code: int, front: str) -> None:
    # Another device stamp, so that the login writes every kind of document there is.
    settings = {"device_id": "of its own"} if call == "login" else {}
    model = Model()
    workspace = path / workspace_of(stored).name
    before = {} if call == "first start" else documents(JsonStorage(workspace_of(stored)))
    model.hold(before)
    assert attempt(Traveller(model, STEP, **settings), call) == "done"
    possible = cut_short(before, model.written)
    outcomes = set()
    with FaultyDisk(path) as disk:
        for run in disk.every_stop() if code == STOP else disk.every_failure(code):
            shutil.rmtree(path, ignore_errors=True)
            if before:
                shutil.copytree(stored, path)
            traveller = Traveller(path, STEP, FRONTS[front], **settings)
            outcome = "stopped"
            with run:
                outcome = attempt(traveller, call)
            outcomes.add(outcome)
            where = f"{outcome} after {len(disk.calls)} operations: {disk.calls[-6:]}"

            found = documents(JsonStorage(workspace))
            assert found in {"done": possible[-1:], "failed": possible[:-1], "stopped": possible}[outcome], where
            assert people(before) <= people(found), where
            assert "device" in found or "state" not in found, where
            assert len(temporary_files(path)) <= (outcome == "stopped"), where
            if outcome == "stopped":
                traveller = Traveller(path, STEP, FRONTS[front], **settings)
            assert traveller.session.mpid == (found.get("state", {}).get("user") or {}).get("mpid"), where
            assert traveller.session.context == found.get("state", {}).get("context"), where
            assert attempt(traveller, call) == "done", where
            assert traveller.session.recovered_from is None, where
            assert documents(JsonStorage(workspace)) == possible[-1], where
            assert temporary_files(path) == [], where
    assert not disk.failed()
    assert len(disk.calls) >= LEAST_OPERATIONS[call]
    assert outcomes == {"done", "stopped" if code == STOP else "failed"}


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", LEAST_OPERATIONS)
def test_a_call_in_which_a_step_fails_or_is_the_last_has_happened_or_not(
    stored: Path, tmp_path: Path, call: str, fault: str, front: str
) -> None:
    """Its outcome says what is stored and what memory shows, document by document; made again, it is done."""
    assert_all_or_nothing_at_every_step(stored, tmp_path / "store", call, FAULTS[fault], front)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", OTHER_FAULTS)
def test_whatever_reason_a_disk_gives_a_login_has_happened_or_not(stored: Path, tmp_path: Path, fault: str) -> None:
    """Over quota, read-only, not allowed, too many open files, interrupted."""
    assert_all_or_nothing_at_every_step(stored, tmp_path / "store", "login", OTHER_FAULTS[fault], "sync")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that interrupt a process here")
def test_signals_that_interrupt_every_call_of_the_system_cost_nothing(tmp_path: Path) -> None:
    """A thousand a second, as a profiler sends them."""
    interruptions = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: interruptions.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        traveller = Traveller(tmp_path)
        while traveller.step < 3 * STEP:
            traveller.take()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(interruptions) > STEP
    expected = Traveller(Model())
    while expected.step < traveller.step:
        expected.take()
    assert documents(traveller.session.storage) == documents(expected.session.storage)
    assert traveller.session.recovered_from is None
