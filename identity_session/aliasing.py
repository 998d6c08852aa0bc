"""Alias requests: which span of time of which user is copied to which other user.

Sources: Web SDK src/identity.js (createAliasRequest, aliasUsers), documentation page "Aliasing" of the IDSync guide.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from .clock import from_ms, to_ms
from .identities import InvalidRequestError, is_text
from .users import User

logger = logging.getLogger("identity_session")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AliasRequest:
    """A wish to copy the history of one user to another.

    `start_time` and `end_time` are aware datetimes (the span of the source's history); `scope` is "device" or
    "mpid". Raises ValueError for a time without a time zone. What is missing or contradictory is refused with
    code -4 by `alias_users`, not here.
    """

    source_mpid: str | None
    destination_mpid: str | None
    start_time: datetime | None
    end_time: datetime | None
    scope: str = "device"

    def __repr__(self) -> str:
        return "<AliasRequest>"

    def __post_init__(self) -> None:
        for name in ("start_time", "end_time"):
            value = getattr(self, name)
            if isinstance(value, datetime) and value.utcoffset() is None:
                raise ValueError(f"{name} has no time zone; pass an aware datetime, such as datetime.now(timezone.utc)")

    @classmethod
    def of(cls, value: object) -> Self:
        """Take an AliasRequest, or a mapping in the SDK's form (sourceMpid, destinationMpid, startTime and endTime in
        ms, scope). Raises InvalidRequestError for anything else."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InvalidRequestError(f"the alias request is a {type(value).__name__}; pass an AliasRequest")
        return cls(
            source_mpid=value.get("sourceMpid"),
            destination_mpid=value.get("destinationMpid"),
            start_time=_time(value.get("startTime")),
            end_time=_time(value.get("endTime")),
            scope=value.get("scope", "device"),
        )

    def checked(self) -> AliasSpan:
        """The request as it is sent. Raises InvalidRequestError with the first thing that is wrong: an MPID missing,
        both the same, a time missing, the end before the start (equal is fine), or an unknown scope."""
        source, destination, start, end = self.source_mpid, self.destination_mpid, self.start_time, self.end_time
        if not is_text(source) or not is_text(destination) or not source or not destination:
            raise InvalidRequestError("an MPID is missing; an alias request names a source and a destination")
        if source == destination:
            raise InvalidRequestError("source and destination are the same user; nothing can be copied")
        if not isinstance(start, datetime) or not isinstance(end, datetime):
            raise InvalidRequestError("a time is missing; an alias request covers the span from start_time to end_time")
        if start > end:
            raise InvalidRequestError("start_time is after end_time; nothing can be copied")
        if self.scope not in ("device", "mpid"):
            raise InvalidRequestError("scope must be 'device' or 'mpid'")
        return AliasSpan(source, destination, to_ms(start), to_ms(end), self.scope)


@dataclass(frozen=True, slots=True, repr=False)
class AliasSpan:
    """A checked alias request; times are Unix milliseconds."""

    source_mpid: str
    destination_mpid: str
    start_ms: int
    end_ms: int
    scope: str


def alias_window(
    source: User, *, source_is_current: bool, users: Callable[[], Iterable[User]], now_ms: int, max_window: timedelta
) -> tuple[datetime, datetime]:
    """The span of the source's history: from when it was first seen until it was last seen.

    A source never seen first begins with the earliest of all users; the current user was last seen now. The start is
    moved up to `max_window` before now. Returns aware UTC datetimes.
    """
    start_ms = source.first_seen_ms
    if start_ms is None:
        start_ms = min((u.first_seen_ms for u in users() if u.first_seen_ms is not None), default=now_ms)
    end_ms = now_ms if source_is_current or source.last_seen_ms is None else source.last_seen_ms
    start_ms = max(start_ms, now_ms - max_window // timedelta(milliseconds=1))
    if end_ms < start_ms:
        logger.warning("alias: the source was last seen before the alias window of %s days", max_window.days)
    return from_ms(start_ms), from_ms(end_ms)


def _time(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return None
    try:
        return from_ms(round(value))
    except (OverflowError, ValueError):
        return None
