"""Trouble on demand: answers that fail, come late, come garbled or do not come at all.

The names follow what people ask of emulators: by endpoint and count, before or after the effect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from identity_session.exchange import Call

from .trail import Fact, Step

LATENCY_LIMIT_MS = 24 * 60 * 60 * 1000
KINDS = ("status", "latency_ms", "drop", "garbage", "html")
NETWORK_KINDS = (*KINDS, "unreachable")
"""What can also happen between a client and the service."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to calls of one endpoint, or of all ("*"): exactly one of the kinds."""

    endpoint: str
    times: int | None = None
    """Calls it is still to happen to; None: it lasts."""
    status: int | None = None
    """The answer has this status, and nothing was done."""
    retry_after: int | None = None
    """With `status`: seconds of its Retry-After header."""
    latency_ms: int | None = None
    """The answer is held back this long; the call is carried out all the same."""
    drop: Literal["before", "after"] | None = None
    """The connection is closed without an answer: before anything is done, or after."""
    garbage: bool | None = None
    """The answer is a 200 whose body is not JSON, and nothing was done."""
    html: bool | None = None
    """The answer is a 200 with a web page, as a proxy would send it, and nothing was done."""
    unreachable: bool | None = None
    """No connection is made. Not for a service to promise: only a network does this."""

    def described(self) -> dict[str, Any]:
        """The fault as it is given: without what is absent."""
        return {name: value for name in _NAMES if (value := getattr(self, name)) is not None}


_NAMES = tuple(each.name for each in fields(Fault))
_COMMON = ("endpoint", "times", "retry_after")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen to one call."""

    latency_ms: int = 0
    failing: Fault | None = None
    """The fault that takes its answer's place."""

    def facts(self) -> list[Fact]:
        """What the trail of the call begins with."""
        facts: list[Fact] = [(Step.HELD_BACK, self.latency_ms)] if self.latency_ms else []
        if self.failing is None:
            return facts
        if self.failing.drop:
            return [*facts, (Step.DROPPED, self.failing.drop)]
        if self.failing.status:
            return [*facts, (Step.FAULTY_STATUS, self.failing.status)]
        return [*facts, (Step.FAULTY_BODY, "html" if self.failing.html else "garbage")]


class Faults:
    """The faults in force, each of one of these kinds. May be used from several threads at once."""

    def __init__(self, kinds: Sequence[str] = KINDS) -> None:
        self._kinds = kinds
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()

    def replace(self, given: Iterable[Mapping[str, Any]]) -> None:
        """Put these in the place of all there were. Raises ValueError, and nothing is changed."""
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
            raise ValueError("faults are given as a list of objects")
        faults = tuple(parse(each, f"fault {number}", self._kinds) for number, each in enumerate(given, 1))
        with self._lock:
            self._faults = faults

    def described(self) -> list[dict[str, Any]]:
        """The faults in force, each with the calls it is still to happen to."""
        return [fault.described() for fault in self._faults]

    def take(self, call: Call) -> Plan:
        """What is to happen to this call: the first fault that fails it and the first that delays it. Both count."""
        if not self._faults:
            return _NOTHING
        with self._lock:
            matching = [fault for fault in self._faults if fault.endpoint in (call, "*")]
            late = next((fault for fault in matching if fault.latency_ms is not None), None)
            failing = next((fault for fault in matching if fault.latency_ms is None), None)
            self._faults = tuple(
                replace(fault, times=fault.times - 1) if fault.times and (fault is late or fault is failing) else fault
                for fault in self._faults
                if not (fault.times == 1 and (fault is late or fault is failing))
            )
        return Plan((late and late.latency_ms) or 0, failing)


_NOTHING = Plan()


def parse(given: Mapping[str, Any], where: str, kinds: Sequence[str] = KINDS) -> Fault:
    """Read one fault of one of these kinds. Raises ValueError that says what is wrong with it; `where` names it."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is no object")
    names = [name for name in _NAMES if name in (*_COMMON, *kinds)]
    unknown = [str(name) for name in given if name not in names]
    if unknown:
        raise ValueError(f"{where} has an unknown member {unknown[0]!r}; known: {', '.join(names)}")
    if given.get("endpoint") not in (*Call, "*"):
        raise ValueError(f"{where}: endpoint must be one of {', '.join(Call)} or *")
    for name, (is_valid, wanted) in _CHECKS.items():
        if given.get(name) is not None and not is_valid(given[name]):
            raise ValueError(f"{where}: {name} must be {wanted}")
    there = [name for name in kinds if given.get(name) is not None]
    if len(there) != 1:
        raise ValueError(f"{where} needs exactly one of {', '.join(kinds)}; it has {', '.join(there) or 'none'}")
    if given.get("retry_after") is not None and there != ["status"]:
        raise ValueError(f"{where}: retry_after goes with status only")
    return Fault(**given)


def _is_whole(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_true(value: object) -> bool:
    return value is True


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "times": (_is_whole(1, 2**31), "a whole number of calls, 1 or more"),
    "status": (_is_whole(200, 599), "a status from 200 to 599"),
    "retry_after": (_is_whole(0, 2**31), "a whole number of seconds, 0 or more"),
    "latency_ms": (_is_whole(0, LATENCY_LIMIT_MS), "a whole number of milliseconds, a day at most"),
    "drop": (lambda value: value in ("before", "after"), '"before" or "after"'),
    "garbage": (_is_true, "true"),
    "html": (_is_true, "true"),
    "unreachable": (_is_true, "true"),
}
