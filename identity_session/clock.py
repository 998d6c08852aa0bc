"""Time: the wall clock that people and tests may set, and a clock for deadlines that nobody can stop.

Tests freeze time with freezegun, which also freezes `time.monotonic` and with it every event loop. Deadlines and
waits must end all the same, so they are measured with the operating system's own monotonic clock.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_ms() -> int:
    """The wall clock in Unix milliseconds; freezegun stops and moves it."""
    return round(time.time() * 1000)


def monotonic() -> float:
    """Seconds on a clock that only moves forward, whatever is done to the wall clock or to `time.monotonic`."""
    return time.clock_gettime(time.CLOCK_MONOTONIC) if hasattr(time, "clock_gettime") else time.monotonic()


def from_ms(ms: int) -> datetime:
    """Unix milliseconds as an aware UTC datetime, exactly."""
    return _EPOCH + timedelta(milliseconds=ms)


def to_ms(moment: datetime) -> int:
    """An aware datetime as Unix milliseconds."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def pause(seconds: float) -> None:
    """Wait this long in the calling thread."""
    threading.Event().wait(seconds)
