"""The decorator for bounds on time, which must neither hide a slow program nor blame a machine that stood still."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from steady import steady

from identity_session.clock import monotonic, pause


def test_a_bound_that_is_missed_while_the_process_runs_fails_at_the_end() -> None:
    tries = []

    @steady
    def slow() -> None:
        began = monotonic()
        tries.append(began)
        pause(0.05)
        assert monotonic() - began < 0.04

    with pytest.raises(AssertionError):
        slow()
    assert len(tries) in range(1, 6)


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
