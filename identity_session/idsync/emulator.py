"""`/emulator`: what people and tests may see and do, as a table of routes. Bytes in, JSON out; neither server nor
framework."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from . import bodies
from .refusals import InvalidDataError
from .requests import BODY_LIMIT_BYTES, json_object, read

if TYPE_CHECKING:
    from .embedded import LocalIDSync

ROOT = "/emulator"

IMPORT_LIMIT_BYTES = 256 * 1024 * 1024
"""An export of 10,000 profiles is a few megabytes; this leaves room for a few hundred thousand."""


@dataclass(frozen=True, slots=True, repr=False)
class Reply:
    """An answer of `/emulator`: JSON, or nothing when `body` is None."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """One thing to see or do. `handle` gets the service, the body as `given` reads it, and the MPID of the path."""

    method: str
    path: str
    text: str
    handle: Callable[[LocalIDSync, Any, str], object]
    given: type[BaseModel] | None = None
    """What the body must be; None where none is read."""
    told: type[BaseModel] | None = None
    """What the answer holds; None: any object."""
    status: int = 200
    refuses: bool = False
    """Its ValueErrors say what is wrong with the request; those of other routes are failures."""
    limit_bytes: int = BODY_LIMIT_BYTES
    one_process: bool = False
    """What it sets lives in one process."""
    at_once: bool = False
    """It has nothing to do with the store, and is answered while many others wait for that."""


@dataclass(frozen=True, slots=True, repr=False)
class Found:
    """A route, and the MPID that a path names."""

    route: Route
    mpid: str


class _MissingError(Exception):
    """There is no such thing; the text says where to look."""


def find(method: str, path: str) -> Found | Reply:
    """The route of a request, or the answer that says there is none."""
    fitting = [(route, found) for route, pattern in _PATTERNS if (found := pattern.fullmatch(path))]
    for route, found in fitting:
        if route.method == method:
            return Found(route, found.groupdict().get("mpid", ""))
    if fitting:
        allowed = ", ".join(route.method for route, _ in fitting)
        return Reply(405, {"error": f"Use {allowed}."}, {"allow": allowed})
    return Reply(404, {"error": f"There is nothing here; /openapi.json lists what is under {ROOT}."})


def answer(found: Found, idsync: LocalIDSync, body: bytes, *, shared: bool = False) -> Reply:
    """Carry out a request. `shared`: other processes serve the same profiles, so nothing is set that lives in one."""
    route = found.route
    if route.one_process and shared:
        return Reply(409, {"error": "Faults and the clock live in one process; serve with --workers 1 to set them."})
    if len(body) > route.limit_bytes:
        return Reply(413, {"error": f"The body is larger than {route.limit_bytes // 1024} KB."})
    try:
        told = route.handle(idsync, _given(route, body), found.mpid)
    except _MissingError as missing:
        return Reply(404, {"error": str(missing)})
    except InvalidDataError as refusal:
        return Reply(400, {"error": str(refusal)})
    except ValueError as refusal:
        if not route.refuses:
            raise
        return Reply(400, {"error": str(refusal)})
    return Reply(route.status, told)


def _given(route: Route, body: bytes) -> Any:
    if route.given is None and route.limit_bytes == BODY_LIMIT_BYTES:
        return None
    parsed = json_object(body)
    if parsed is None:
        raise InvalidDataError("The body is no JSON object; /openapi.json shows what is wanted.")
    return parsed if route.given is None else read(route.given, parsed)


_NO_PROFILE = f"No profile has this MPID; GET {ROOT}/profiles lists all."


def _profile(idsync: LocalIDSync, mpid: str) -> dict[str, Any]:
    profile = idsync.profile(mpid)
    if profile is None:
        raise _MissingError(_NO_PROFILE)
    return profile


def _delete(idsync: LocalIDSync, mpid: str) -> None:
    if not idsync.delete_profile(mpid):
        raise _MissingError(_NO_PROFILE)


def _set_faults(idsync: LocalIDSync, given: bodies.FaultList) -> dict[str, Any]:
    idsync.set_faults([fault.model_dump(exclude_none=True) for fault in given.faults])
    return {"faults": idsync.faults()}


def _set_clock(idsync: LocalIDSync, given: bodies.Clock) -> dict[str, Any]:
    idsync.set_clock(fixed_ms=given.fixed_ms, shift_ms=given.shift_ms)
    return idsync.clock()


# fmt: off
ROUTES = (
    Route("GET", f"{ROOT}/health", "Says that the service serves.",
          lambda idsync, given, mpid: {"status": "ok"}, told=bodies.Health, at_once=True),
    Route("GET", f"{ROOT}/config", "The strategy and the settings in force, without keys.",
          lambda idsync, given, mpid: idsync.config(), at_once=True),
    Route("GET", f"{ROOT}/profiles", "Every profile in order of creation.",
          lambda idsync, given, mpid: {"profiles": idsync.profiles()}, told=bodies.Profiles),
    Route("POST", f"{ROOT}/profiles", "Creates a profile as given, under a chosen MPID if one is named.",
          lambda idsync, given, mpid: {"mpid": idsync.seed_profile(given.identities, mpid=given.mpid)},
          given=bodies.Seed, told=bodies.Seeded, status=201, refuses=True),
    Route("DELETE", f"{ROOT}/profiles", "Forgets all profiles, alias requests and recorded calls.",
          lambda idsync, given, mpid: idsync.reset(), status=204),
    Route("GET", f"{ROOT}/profiles/{{mpid}}", "One profile.",
          lambda idsync, given, mpid: _profile(idsync, mpid), told=bodies.Profile),
    Route("DELETE", f"{ROOT}/profiles/{{mpid}}", "Forgets one profile; its values are free then.",
          lambda idsync, given, mpid: _delete(idsync, mpid), status=204),
    Route("POST", f"{ROOT}/lookup", "The profiles that hold an identity.",
          lambda idsync, given, mpid: {"profiles": idsync.holders(given.identity_type, given.value)},
          given=bodies.Lookup, told=bodies.Profiles),
    Route("GET", f"{ROOT}/calls", "The recorded calls with the reasons for their answers, newest last.",
          lambda idsync, given, mpid: {"calls": idsync.calls()}, told=bodies.Calls),
    Route("POST", f"{ROOT}/explain", "What a call would do, and why; nothing is written.",
          lambda idsync, given, mpid: idsync.explain(given.call, given.body), given=bodies.Explain,
          refuses=True),
    Route("GET", f"{ROOT}/faults", "The faults in force.",
          lambda idsync, given, mpid: {"faults": idsync.faults()}, told=bodies.Faults, at_once=True),
    Route("PUT", f"{ROOT}/faults", "Replaces the faults.",
          lambda idsync, given, mpid: _set_faults(idsync, given),
          given=bodies.FaultList, told=bodies.Faults, refuses=True, one_process=True, at_once=True),
    Route("GET", f"{ROOT}/clock", "The service's time.",
          lambda idsync, given, mpid: idsync.clock(), told=bodies.Time, at_once=True),
    Route("PUT", f"{ROOT}/clock", "Stops the clock, shifts it, or makes it the real one again.",
          lambda idsync, given, mpid: _set_clock(idsync, given), given=bodies.Clock, told=bodies.Time,
          refuses=True, one_process=True, at_once=True),
    Route("GET", f"{ROOT}/aliases", "Every alias request with its state.",
          lambda idsync, given, mpid: {"aliases": idsync.aliases()}, told=bodies.Aliases),
    Route("POST", f"{ROOT}/aliases/process", "Processes the alias requests that wait, due or not.",
          lambda idsync, given, mpid: {"aliases": idsync.process_aliases()}, told=bodies.Aliases),
    Route("GET", f"{ROOT}/export", "Everything stored, as JSON.",
          lambda idsync, given, mpid: idsync.export_state()),
    Route("POST", f"{ROOT}/import", "Replaces everything stored by an export.",
          lambda idsync, given, mpid: idsync.import_state(given), status=204, refuses=True,
          limit_bytes=IMPORT_LIMIT_BYTES),
)
# fmt: on

_PATTERNS = [(route, re.compile(route.path.replace("{mpid}", "(?P<mpid>[^/]+)"))) for route in ROUTES]
