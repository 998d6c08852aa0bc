"""Bounds on time that hold on a machine that does not: virtual processors are taken away for seconds now and then.

`@steady` repeats a test that missed a bound, or lost a connection, if the whole process stood still meanwhile. A test
that does so while the process was running, or every time, fails.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Self

from identity_session.clock import monotonic

SLACK_SECONDS = 0.1
"""What a call may take beyond its deadline."""

_BEAT_SECONDS = 0.005
_STALL_SECONDS = 0.03
_ATTEMPTS = 5


class Heartbeat:
    """Wakes up at short intervals; `longest_stall` is by how many seconds it overslept."""

    longest_stall = 0.0

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        last, over = monotonic(), False
        while not over:
            over = self._over.wait(_BEAT_SECONDS)
            now = monotonic()
            self.longest_stall = max(self.longest_stall, now - last - _BEAT_SECONDS)
            last = now


def steady(test: Callable[..., None]) -> Callable[..., None]:
    """A test with a bound on time: a failure counts if the process was running all the while, or at the last try."""

    @functools.wraps(test)
    def repeated(*arguments: Any, **options: Any) -> None:
        for tries_left in reversed(range(_ATTEMPTS)):
            with Heartbeat() as heart:
                try:
                    return test(*arguments, **options)
                except (AssertionError, OSError) as failure:
                    missed = failure
            if not tries_left or heart.longest_stall < _STALL_SECONDS:
                raise missed
        return None

    return repeated
