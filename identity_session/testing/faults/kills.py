"""A program that is killed again and again, at any moment of what it does."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

PATIENCE_SECONDS = 60.0
"""How long a program may take to come to the line it is killed after; reached only when it hangs."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program, from its start to its end."""

    number: int
    """Which run it was, from 0."""
    lines: tuple[str, ...]
    """What it printed, line by line, up to its last moment; a line that was cut short is left out."""
    errors: str
    """What it wrote to standard error."""
    returncode: int
    """As in `subprocess`: negative for the signal that ended it, otherwise its own exit code."""
    seconds: float
    """How long it lived."""

    @property
    def was_killed(self) -> bool:
        """Whether the kill ended it; False for a program that had ended by itself before."""
        return self.returncode == -signal.SIGKILL


def killed_again_and_again(
    command: Sequence[str] | Callable[[int], Sequence[str]],
    times: int,
    *,
    lines: int = 5,
    seconds: float = 0.01,
    seed: int | None = None,
) -> Iterator[Run]:
    """Run a program so many times, kill it with SIGKILL each time, and tell after each what it had printed.

    The program prints a line, flushed, for each step it has taken. It is killed at a random moment: up to `seconds`
    after a random line of the first `lines`. `command` is the program with its arguments, or a function that gives
    them for each run, counted from 0; it runs in a process group of its own, which dies with it. `seed` draws the same
    moments again, as far as the machine allows. Raises TimeoutError for a program that does not print its lines within
    a minute, and OSError for one that cannot be started. Needs POSIX signals.
    """
    chance = random.Random(seed)  # noqa: S311 - a moment, not a secret
    for number in range(times):
        one = command(number) if callable(command) else command
        yield _run_and_kill(number, one, chance.randint(1, lines), chance.uniform(0, seconds))


def _run_and_kill(number: int, command: Sequence[str], lines: int, seconds: float) -> Run:
    began = time.monotonic()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603 - the caller's own program
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            with _killed_if_silent(process):
                printed = [process.stdout.readline() for _ in range(lines)]
            time.sleep(seconds)
        finally:
            _kill(process)
        printed += process.stdout.readlines()
        returncode = process.wait()
        errors.seek(0)
        whole = (line.decode(errors="replace")[:-1] for line in printed if line.endswith(b"\n"))
        return Run(number, tuple(whole), errors.read().decode(errors="replace"), returncode, time.monotonic() - began)


@contextlib.contextmanager
def _killed_if_silent(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whoever waits for a line inside the block waits no longer than this. Raises TimeoutError."""
    silent = threading.Event()

    def give_up() -> None:
        silent.set()
        _kill(process)

    timer = threading.Timer(PATIENCE_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if silent.is_set():
        raise TimeoutError(f"the program has not come so far in {PATIENCE_SECONDS:.0f} s")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
