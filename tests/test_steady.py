"""The decorator for bounds on time, which must neither hide a program that is slow or wrong nor blame a machine that
stood still."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from steady import Heartbeat, LateError, assert_within, steady

from identity_session.clock import monotonic, pause


@pytest.fixture(autouse=True)
def repeated(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What these tests try again on purpose is not told at the end of the run."""
    counter: Counter[str] = Counter()
    monkeypatch.setattr("steady.repeated", counter)
    return counter


@pytest.mark.parametrize(("longest_stall", "expected"), [(math.inf, 1), (0, 5)], ids=["runs", "stands still"])
def test_a_bound_that_is_missed_fails_at_once_while_the_process_runs_and_else_at_the_last_try(
    monkeypatch: pytest.MonkeyPatch, repeated: Counter[str], longest_stall: float, expected: int
) -> None:
    """What counts as standing still is set so that this machine never does, or always."""
    monkeypatch.setattr("steady._STALL_SECONDS", longest_stall)
    tries = []

    @steady
    def slow() -> None:
        began = monotonic()
        tries.append(began)
        pause(0.05)
        assert_within(monotonic() - began, 0.04)

    with pytest.raises(LateError):
        slow()
    assert len(tries) == expected
    assert repeated.total() == expected - 1


@pytest.mark.parametrize("wrong", [AssertionError("a user is lost"), ConnectionResetError(), TimeoutError()], ids=repr)
def test_what_is_wrong_and_not_late_fails_at_once_even_where_the_process_stands_still(
    monkeypatch: pytest.MonkeyPatch, wrong: Exception
) -> None:
    monkeypatch.setattr("steady._STALL_SECONDS", 0)
    tries = []

    @steady
    def broken() -> None:
        tries.append("")
        raise wrong

    with pytest.raises(type(wrong)):
        broken()
    assert len(tries) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no signals that stop a process here")
def test_a_bound_that_is_missed_because_the_process_stood_still_is_tried_again(repeated: Counter[str]) -> None:
    tries, pid = [], os.getpid()

    @steady
    def disturbed() -> None:
        tries.append("")
        began = monotonic()
        if len(tries) == 1:
            with subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; kill -CONT {pid}; sleep 2; kill -CONT {pid}"]):
                os.kill(pid, signal.SIGSTOP)
        assert_within(monotonic() - began, 0.25)

    disturbed()
    assert len(tries) == 2
    [(name, times)] = repeated.items()
    assert name.endswith("test_a_bound_that_is_missed_because_the_process_stood_still_is_tried_again")
    assert times == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no threads that are bound to a processor here")
@pytest.mark.parametrize("processors", [8, 1], ids=["some", "one"])
def test_each_processor_that_a_test_may_use_is_watched_and_the_test_itself_is_bound_to_none(
    processors: int,
) -> None:
    def watch() -> None:
        given = set(sorted(os.sched_getaffinity(0))[:processors])
        os.sched_setaffinity(0, given)
        with Heartbeat() as heart:
            until = monotonic() + 30
            watched: list[set[int]] = []
            while watched != [{each} for each in sorted(given)] and monotonic() < until:
                pause(0.001)
                watched = sorted((os.sched_getaffinity(each.native_id) for each in heart._threads), key=min)
            assert watched == [{each} for each in sorted(given)]
            assert os.sched_getaffinity(0) == given

    with ThreadPoolExecutor(1) as pool:
        pool.submit(watch).result()


@pytest.mark.parametrize("bound", [0.3, 0.2])
def test_a_bound_is_missed_by_what_takes_as_long_or_longer(bound: float) -> None:
    assert_within(0.2, 0.2001)
    with pytest.raises(LateError, match=r"0\.300 s are not less than 0\.[23]00 s of login"):
        assert_within(0.3, bound, "of login")
