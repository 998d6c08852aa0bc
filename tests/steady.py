"""Bounds on time that hold on a machine that does not: virtual processors are taken away for seconds now and then.

`@steady` repeats a test that was too late, and nothing else, if a processor that it may use stood still meanwhile. A
test that is so while they were running, or every time, fails; what is wrong and not late is never tried again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

from identity_session.clock import monotonic

SLACK_SECONDS = 0.1
"""What a call may take beyond its deadline."""

_BEAT_SECONDS = 0.005
_MOST_PROCESSORS = 8  # whose heartbeats disturb nothing
_STALL_SECONDS = 0.03
_ATTEMPTS = 5

repeated: Counter[str] = Counter()
"""Which tests of this run were tried again, and how often."""


class LateError(AssertionError):
    """A bound on time was missed; the only failure that a machine that stood still excuses."""


def assert_within(seconds: float, bound: float, about: object = "") -> None:
    """What took so many seconds took less than this. Raises LateError."""
    if not seconds < bound:
        raise LateError(f"{seconds:.3f} s are not less than {bound:.3f} s {about}")


class Heartbeat:
    """Wakes up at short intervals on each processor, as one may be taken away while others go on. `longest_stall` is by
    how many seconds it overslept, once it has ended."""

    longest_stall = 0.0

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._stalls: list[float] = []
        processors = sorted(os.sched_getaffinity(0))[:_MOST_PROCESSORS] if hasattr(os, "sched_getaffinity") else [None]
        self._threads = [threading.Thread(target=self._beat, args=(each,), name="heartbeat") for each in processors]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.longest_stall = max(self._stalls)

    def _beat(self, processor: int | None) -> None:
        longest, last, over = 0.0, monotonic(), False
        if processor is not None:
            with contextlib.suppress(OSError):  # it may have been taken away for good
                os.sched_setaffinity(0, {processor})  # of this thread alone
        while not over:
            over = self._over.wait(_BEAT_SECONDS)
            now = monotonic()
            longest = max(longest, now - last - _BEAT_SECONDS)
            last = now
        self._stalls.append(longest)


def steady(test: Callable[..., None]) -> Callable[..., None]:
    """A test with a bound on time: to be late counts if the process was running all the while, or at the last try."""

    @functools.wraps(test)
    def tried(*arguments: Any, **options: Any) -> None:
        for tries_left in reversed(range(_ATTEMPTS)):
            with Heartbeat() as heart:
                try:
                    return test(*arguments, **options)
                except LateError as failure:
                    late = failure
            if not tries_left or heart.longest_stall < _STALL_SECONDS:
                raise late
            repeated[os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)")] += 1
        return None

    return tried
