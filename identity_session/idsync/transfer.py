"""The whole state as JSON, out and in again: profiles, alias requests and calls.

MPIDs are texts, as everywhere in JSON: a number of 64 bits does not survive every reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from identity_session.exchange import Call
from identity_session.wire import Discreet

from .identity_types import KNOWN_TYPES
from .profiles import AliasRecord, CallRecord, Profile, Transaction
from .requests import checked, is_storable, parse_mpid
from .trail import Step, reasons

FORMAT = "identity_session.idsync"
VERSION = 1


def _version(number: int) -> int:
    if number != VERSION:
        raise ValueError(f"only version {VERSION} can be read")
    return number


def _storable(text: str) -> str:
    if not is_storable(text):
        raise ValueError("it holds a character that cannot be stored")
    return text


def _mpid(text: str) -> str:
    if str(parse_mpid(text)) != text:
        raise ValueError("it is no MPID")
    return text


def _known_type(text: str) -> str:
    if text not in KNOWN_TYPES:
        raise ValueError("it is no identity type")
    return text


def _distinct(values: list[str]) -> list[str]:
    if len(set(values)) != len(values):
        raise ValueError("a value is there twice")
    return values


# Counters must leave room to count on in 64 bits.
_Number = Annotated[int, Field(ge=1, lt=2**62)]
_Moment = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Text = Annotated[str, AfterValidator(_storable)]
_Value = Annotated[str, Field(min_length=1), AfterValidator(_storable)]
_MPID = Annotated[str, AfterValidator(_mpid)]
_Values = Annotated[list[_Value], Field(min_length=1), AfterValidator(_distinct)]


class _Model(Discreet):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class _Profile(_Model):
    mpid: _MPID
    sequence: _Number
    identities: dict[Annotated[str, AfterValidator(_known_type)], _Values]
    source_mpid: _MPID | None
    created_ms: _Moment
    last_seen_ms: _Moment


class _Alias(_Model):
    number: _Number
    request_id: _Text | None
    source_mpid: _MPID
    destination_mpid: _MPID
    start_ms: _Moment
    end_ms: _Moment
    scope: Literal["device", "mpid"]
    received_ms: _Moment
    state: Literal["pending", "done", "failed"]
    reason: _Text | None
    processed_ms: _Moment | None


class _Call(_Model):
    number: _Number
    received_ms: _Moment
    endpoint: str
    status: Annotated[int, Field(ge=0, le=599)]
    mpid: _MPID | None
    created: bool
    reasons: list[_Text]


class _State(_Model):
    format: Literal["identity_session.idsync"]
    version: Annotated[int, AfterValidator(_version)]
    profiles: list[_Profile]
    aliases: list[_Alias]
    calls: list[_Call]


def export_state(profiles: Transaction) -> dict[str, Any]:
    """Everything that the store holds, ready for JSON."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "profiles": [
            {
                "mpid": str(profile.mpid),
                "sequence": profile.sequence,
                "identities": {type_: list(values) for type_, values in profile.identities.items()},
                "source_mpid": _optional_text(profile.source_mpid),
                "created_ms": profile.created_ms,
                "last_seen_ms": profile.last_seen_ms,
            }
            for profile in profiles.all()
        ],
        "aliases": [described_alias(alias) for alias in profiles.aliases()],
        "calls": [described_call(call) for call in profiles.calls()],
    }


def described_alias(alias: AliasRecord) -> dict[str, Any]:
    """An alias request as people see it."""
    return {
        "number": alias.number,
        "request_id": alias.request_id,
        "source_mpid": str(alias.source_mpid),
        "destination_mpid": str(alias.destination_mpid),
        "start_ms": alias.start_ms,
        "end_ms": alias.end_ms,
        "scope": alias.scope,
        "received_ms": alias.received_ms,
        "state": alias.state,
        "reason": alias.reason,
        "processed_ms": alias.processed_ms,
    }


def described_call(call: CallRecord) -> dict[str, Any]:
    """A recorded call as people see it."""
    return {
        "number": call.number,
        "received_ms": call.received_ms,
        "endpoint": call.endpoint,
        "status": call.status,
        "mpid": _optional_text(call.mpid),
        "created": call.created,
        "reasons": reasons(call.trail),
    }


def read_state(given: object) -> _State:
    """Check an exported state. Raises ValueError that names the first thing wrong with it."""
    try:
        state = checked(_State, given)
    except ValueError as error:
        raise ValueError(f"the state cannot be read: {error}") from None
    mpids = {profile.mpid for profile in state.profiles}
    if len(mpids) < len(state.profiles):
        raise ValueError("the state cannot be read: two profiles have the same MPID")
    _check_order("profiles", [profile.sequence for profile in state.profiles])
    _check_order("aliases", [alias.number for alias in state.aliases])
    _check_order("calls", [call.number for call in state.calls])
    if any(call.endpoint not in tuple(Call) for call in state.calls):
        raise ValueError("the state cannot be read: a call has an unknown endpoint")
    return state


def import_state(state: _State, profiles: Transaction) -> None:
    """Put this state in the place of all that the store holds."""
    profiles.clear()
    for each in state.profiles:
        identities = {type_: tuple(values) for type_, values in each.identities.items()}
        source_mpid = _optional_number(each.source_mpid)
        profiles.put(
            Profile(int(each.mpid), each.sequence, identities, source_mpid, each.created_ms, each.last_seen_ms)
        )
    for alias in state.aliases:
        mpids = {"source_mpid": int(alias.source_mpid), "destination_mpid": int(alias.destination_mpid)}
        profiles.record_alias(AliasRecord(**{**alias.model_dump(), **mpids}))
    for call in state.calls:
        members = call.model_dump(exclude={"mpid", "reasons"})
        trail = tuple((Step.TOLD, reason) for reason in call.reasons)
        profiles.record_call(CallRecord(**members, mpid=_optional_number(call.mpid), trail=trail))


def _check_order(what: str, numbers: Sequence[int]) -> None:
    if any(later <= number for number, later in pairwise(numbers)):
        raise ValueError(f"the state cannot be read: {what} are not in their order")


def _optional_text(mpid: int | None) -> str | None:
    return None if mpid is None else str(mpid)


def _optional_number(mpid: str | None) -> int | None:
    return None if mpid is None else int(mpid)
