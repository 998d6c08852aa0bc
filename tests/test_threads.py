"""Threads that no process waits for, and what a forked child makes anew."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading

import pytest

from identity_session.threads import in_daemon_thread

PATIENCE_SECONDS = 10.0
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_a_function_runs_in_a_daemon_thread_of_its_own_in_the_callers_context() -> None:
    variable.set("the caller's")

    def look(argument: int, *, option: int) -> tuple[object, ...]:
        thread = threading.current_thread()
        return argument, option, variable.get(), thread.daemon, thread is not threading.main_thread()

    assert in_daemon_thread(look, 1, option=2).result(PATIENCE_SECONDS) == (1, 2, "the caller's", True, True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_the_function_raises_is_raised_where_it_is_asked_for(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        in_daemon_thread(fail).result(PATIENCE_SECONDS)


def test_what_runs_cannot_be_called_off() -> None:
    release = threading.Event()
    future = in_daemon_thread(release.wait, PATIENCE_SECONDS)
    assert not future.cancel()
    release.set()
    assert future.result(PATIENCE_SECONDS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_in_a_forked_child_the_owners_that_live_are_renewed_and_in_the_parent_nothing_happens() -> None:
    code = """
import gc, os
from identity_session.threads import after_fork
class Owner:
    value = "as it was"
    def __eq__(self, other): return True
    def renew(self): self.value = "renewed"
one, two, gone = Owner(), Owner(), Owner()
for owner in (one, two, gone):
    after_fork(owner, Owner.renew)
after_fork(gone, lambda owner: print("nobody is there", flush=True))
del gone, owner
gc.collect()
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
print(one.value, two.value, flush=True)
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.splitlines() == ["renewed renewed", "as it was as it was"]
