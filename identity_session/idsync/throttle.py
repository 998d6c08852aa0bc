"""Limits on how often one may call, off by default: a bucket of tokens for each key, identity and MPID.

Sources: the documentation names limits of speed and a hot single user as causes of a 429 (pages "Default Service
Limits" and "IDSync" of the Web SDK) and publishes no numbers.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable

from .choices import Choice
from .refusals import TooManyRequestsError

BUCKETS_KEPT = 10_000
"""The longest unused are forgotten: they are full again long since, at any rate worth limiting."""


_ROUNDING = 1e-9
"""Whoever waits exactly as long as told must find a token, whatever the fractions came to."""


class Throttle:
    """Buckets that hold `burst` tokens and get `rate_per_s` new ones every second. May be used from several threads.

    `limit` names the kind of limit in answers. Without a rate nothing is limited.
    """

    def __init__(self, rate_per_s: float | None, burst: int | None, limit: str) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst or max(1, math.ceil(rate_per_s or 1))
        self._limit = limit
        self._lock = threading.Lock()
        self._buckets: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def take(self, names: Iterable[Hashable], now_ms: int) -> float | None:
        """Take a token from the bucket of each of these, and return the largest share used up, in percent.

        None without limits. Raises TooManyRequestsError if one is empty; then nothing is taken from any.
        """
        if self._rate_per_s is None:
            return None
        with self._lock:
            levels = {name: self._level(name, now_ms, self._rate_per_s) for name in names}
            lowest = min(levels.values(), default=self._burst)
            if lowest < 1 - _ROUNDING:
                wait = math.ceil((1 - lowest) / self._rate_per_s)
                raise TooManyRequestsError(
                    "There are too many requests.",
                    Choice.THROTTLING,
                    retry_after_seconds=max(wait, 1),
                    limit=self._limit,
                )
            for name, level in levels.items():
                self._buckets[name] = level - 1, now_ms
            while len(self._buckets) > BUCKETS_KEPT:
                self._buckets.popitem(last=False)
        return 100 * (1 - (lowest - 1) / self._burst)

    def _level(self, name: Hashable, now_ms: int, rate_per_s: float) -> float:
        if name not in self._buckets:
            return float(self._burst)
        # Also for a call that is refused: whoever calls all the time would be forgotten first, and have a full bucket.
        self._buckets.move_to_end(name)
        level, since_ms = self._buckets[name]
        if now_ms < since_ms:
            # A clock that was set back adds nothing, takes nothing away, and counts on from where it is.
            self._buckets[name] = level, now_ms
            return level
        return min(level + (now_ms - since_ms) / 1000 * rate_per_s, self._burst)
