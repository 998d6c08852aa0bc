"""Bodies of `/emulator` in both directions, as models: what comes in is read by them, and both are described."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from identity_session.exchange import Call
from identity_session.wire import Discreet

from .faults import LATENCY_LIMIT_MS
from .identity_types import KNOWN_TYPES
from .requests import VALUE_LIMIT_CHARACTERS


def _known(type_: str) -> str:
    if type_ not in KNOWN_TYPES:
        raise ValueError("unknown identity type")
    return type_


TypeName = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": sorted(KNOWN_TYPES)})]
Value = Annotated[str, Field(min_length=1, max_length=VALUE_LIMIT_CHARACTERS)]
MPID = Annotated[str, Field(pattern=r"^-?[0-9]{1,19}$")]


class _Given(Discreet):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class Seed(_Given):
    """A profile to create, stored as given. Without `mpid` the service draws one."""

    identities: dict[TypeName, Value | list[Value]]
    mpid: MPID | int | None = None


class Lookup(_Given):
    """An identity whose holders are wanted; in a body, since URLs end up in logs."""

    identity_type: TypeName
    value: Value


class FaultGiven(_Given):
    """A fault: the calls it happens to, and exactly one kind of trouble."""

    endpoint: Literal["identify", "login", "logout", "modify", "search", "alias", "*"]
    times: Annotated[int, Field(ge=1, le=2**31)] | None = None
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    retry_after: Annotated[int, Field(ge=0, le=2**31)] | None = None
    latency_ms: Annotated[int, Field(ge=0, le=LATENCY_LIMIT_MS)] | None = None
    drop: Literal["before", "after"] | None = None
    garbage: Literal[True] | None = None
    html: Literal[True] | None = None


class FaultList(_Given):
    """Every fault in force; an empty list ends them all."""

    faults: list[FaultGiven]


class Clock(_Given):
    """One moment, or a shift of the real clock; `{}` is the real clock again."""

    fixed_ms: int | None = None
    shift_ms: int | None = None


class Explain(_Given):
    """A call as it might be made, with the body it would have; modify names its profile as `mpid` in it."""

    call: Call = Field(strict=False)
    body: dict[str, Any]


class _Told(Discreet):
    model_config = ConfigDict(extra="allow")


class Trouble(_Told):
    """What is wrong and what to do."""

    error: str


class Health(_Told):
    status: Literal["ok"]


class Profile(_Told):
    mpid: MPID
    identities: dict[str, list[str]]
    other_identities: dict[str, list[str]]


class Profiles(_Told):
    """In order of creation, orphans included."""

    profiles: list[Profile]


class Seeded(_Told):
    mpid: MPID


class CallTold(_Told):
    endpoint: str
    status: int
    mpid: MPID | None
    created: bool
    reasons: list[str]


class Calls(_Told):
    """Newest last."""

    calls: list[CallTold]


class Faults(_Told):
    faults: list[dict[str, Any]]


class Time(_Told):
    now_ms: int


class Aliases(_Told):
    aliases: list[dict[str, Any]]
