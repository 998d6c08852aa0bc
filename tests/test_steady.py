"""The decorator for bounds on time, which must neither hide a slow program nor blame a machine that stood still."""

from __future__ import annotations

import math
import os
import signal
import subprocess

import pytest
from steady import steady

from identity_session.clock import monotonic, pause


@pytest.mark.parametrize(("longest_stall", "expected"), [(math.inf, 1), (0, 5)], ids=["runs", "stands still"])
def test_a_bound_that_is_missed_fails_at_once_while_the_process_runs_and_else_at_the_last_try(
    monkeypatch: pytest.MonkeyPatch, longest_stall: float, expected: int
) -> None:
    """What counts as standing still is set so that this machine never does, or always."""
    monkeypatch.setattr("steady._STALL_SECONDS", longest_stall)
    tries = []

    @steady
    def slow() -> None:
        began = monotonic()
        tries.append(began)
        pause(0.05)
        assert monotonic() - began < 0.04

    with pytest.raises(AssertionError):
        slow()
    assert len(tries) == expected


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no signals that stop a process here")
def test_a_bound_that_is_missed_because_the_process_stood_still_is_tried_again() -> None:
    tries = []

    @steady
    def disturbed() -> None:
        tries.append("")
        if len(tries) == 1:
            with subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; kill -CONT {os.getpid()}"]):
                os.kill(os.getpid(), signal.SIGSTOP)
        assert len(tries) > 1

    disturbed()
    assert len(tries) == 2
