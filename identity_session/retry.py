"""When a call is made again, and after how long.

Sources: documentation page "HTTP API" of IDSync, "Errors" (exponential backoff on 429, retry on 5xx); RFC 9110 for
Retry-After. Full jitter: each wait is drawn evenly from zero to the backoff, so that clients refused together do not
come back together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .exchange import Call, NoReply, Reply

_MAX_DOUBLINGS = 64  # of any backoff that makes sense; far more would be more than a float holds
_THROTTLED = frozenset({429, 503})
_REPEATABLE = frozenset({Call.IDENTIFY, Call.LOGIN, Call.MODIFY, Call.SEARCH})
"""Calls that may be made again although the first one may have taken effect: doing them twice does no harm."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast a call is repeated within its deadline.

    `attempts` counts the first one; the backoff before attempt n+1 is `initial_seconds` * 2**(n-1), at most
    `max_seconds`. Every call is repeated after an answer 429 or 503 and when no connection was made: it cannot have
    taken effect. identify, login, modify and search are also repeated after a lost answer and other 5xx. Never
    repeated: any other 4xx, and a logout or alias that may have arrived. Raises ValueError for numbers that make no
    sense.
    """

    attempts: int = 4
    initial_seconds: float = 0.25
    max_seconds: float = 4.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise ValueError("attempts must be a whole number of at least 1, the first attempt included")
        if not (0 <= self.initial_seconds < math.inf and 0 <= self.max_seconds < math.inf):
            raise ValueError("initial_seconds and max_seconds must be finite and not negative")

    def wait_seconds(self, call: Call, attempt: int, outcome: Reply | NoReply, chance: float) -> float | None:
        """How long to wait after this attempt (1 is the first) before the next one; None when there is none.

        `chance` is a random number from 0 to 1. A Retry-After of the answer is honoured; the jitter comes on top.
        """
        if attempt >= self.attempts or not may_repeat(call, outcome):
            return None
        jitter = chance * min(self.initial_seconds * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS), self.max_seconds)
        asked = outcome.retry_after_seconds if isinstance(outcome, Reply) else None
        return jitter if asked is None else asked + min(jitter, self.initial_seconds)


def may_repeat(call: Call, outcome: Reply | NoReply) -> bool:
    """Whether doing this call once more is safe and may help."""
    if isinstance(outcome, NoReply):
        return not outcome.sent or call in _REPEATABLE
    return outcome.status in _THROTTLED or (outcome.status >= 500 and call in _REPEATABLE)
