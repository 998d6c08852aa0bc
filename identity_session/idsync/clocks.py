"""The service's clock, which people and tests may stop or shift."""

from __future__ import annotations

from collections.abc import Callable

LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: later ones are no dates."""


class AdjustableClock:
    """Unix milliseconds of the `real` clock, of that clock shifted, or one fixed moment."""

    def __init__(self, real: Callable[[], int]) -> None:
        self._real = real
        self._setting: tuple[int | None, int | None] = None, None

    def __call__(self) -> int:
        return self._at(*self._setting)

    def set(self, fixed_ms: int | None = None, shift_ms: int | None = None) -> None:
        """Stop the clock at a moment, or run it this much later than the real one (negative: earlier); without
        either it is the real one again. Raises ValueError, and nothing is changed."""
        if fixed_ms is not None and shift_ms is not None:
            raise ValueError("a clock is either fixed or shifted; pass fixed_ms or shift_ms")
        for name, given in (("fixed_ms", fixed_ms), ("shift_ms", shift_ms)):
            if given is not None and (not isinstance(given, int) or isinstance(given, bool)):
                raise ValueError(f"{name} must be a whole number of milliseconds")
        if not 0 <= self._at(fixed_ms, shift_ms) <= LATEST_MS:
            raise ValueError("the clock would leave the years 1970 to 9999")
        self._setting = fixed_ms, shift_ms

    def described(self) -> dict[str, int | None]:
        """What it shows, and how it is set."""
        fixed_ms, shift_ms = self._setting
        return {"now_ms": self(), "fixed_ms": fixed_ms, "shift_ms": shift_ms}

    def _at(self, fixed_ms: int | None, shift_ms: int | None) -> int:
        return fixed_ms if fixed_ms is not None else self._real() + (shift_ms or 0)
