"""Alias requests: which are accepted, and what becomes of them a day later.

A real account copies the history of events; a service that holds none keeps the request, what it came to, and the
date at which the destination was first seen. Identity records never change.

Sources: page "Aliasing" of the IDSync guide; Web SDK src/identity.js (aliasUsers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from identity_session.wire import AliasData

from .choices import Choice
from .profiles import AliasRecord, Transaction
from .refusals import InvalidDataError, LookupRefusedError
from .requests import is_64_bit, is_storable, parse_mpid

_HOUR_MS = 60 * 60 * 1000

WINDOW_MS = 90 * 24 * _HOUR_MS
"""How far back history can be copied; an earlier start is moved up to it."""

DELAY_MS = 24 * _HOUR_MS
"""How long a request waits for late events before it is processed."""


def check(data: AliasData, request_id: str | None, now_ms: int, profiles: Transaction) -> AliasRecord:
    """The request as it is to be recorded. Without a start it reaches back as far as it may, without an end to now.

    Raises LookupRefusedError for equal or unknown MPIDs and for an invalid time range, and InvalidDataError for a
    request ID that cannot be stored.
    """
    source, destination = parse_mpid(data.source_mpid), parse_mpid(data.destination_mpid)
    if source is None or destination is None or not profiles.get(source) or not profiles.get(destination):
        raise LookupRefusedError("The source or the destination does not exist.", Choice.ALIAS_CHECKS)
    if source == destination:
        raise LookupRefusedError("The source and the destination are the same.", Choice.ALIAS_CHECKS)
    earliest_ms = now_ms - WINDOW_MS
    start_ms = max(earliest_ms, earliest_ms if data.start_unixtime_ms is None else data.start_unixtime_ms)
    end_ms = now_ms if data.end_unixtime_ms is None else data.end_unixtime_ms
    if start_ms > end_ms or not is_64_bit(end_ms):
        raise LookupRefusedError("The time range is invalid.", Choice.ALIAS_CHECKS)
    if request_id is not None and not is_storable(request_id):
        raise InvalidDataError("The request ID holds a character that cannot be stored.")
    return AliasRecord(request_id, source, destination, start_ms, end_ms, data.scope, now_ms)


def due_ms(alias: AliasRecord) -> int:
    """When the request is to be processed."""
    return alias.received_ms + DELAY_MS


def process(profiles: Transaction, now_ms: int, *, due_only: bool) -> list[AliasRecord]:
    """Process pending requests in their order: those that are due, or all. Returns them as they are then.

    The result is that of processing each the moment it is due, so that doing it late, when somebody looks, will do.
    """
    settled: list[AliasRecord] = []
    earlier: list[AliasRecord] = []
    for alias in profiles.aliases():
        if alias.state == "pending" and not (due_only and due_ms(alias) > now_ms):
            alias = _processed(alias, earlier, min(now_ms, due_ms(alias)), profiles)
            profiles.update_alias(alias)
            settled.append(alias)
        if alias.state == "done":
            earlier.append(alias)
    return settled


def notes(records: Iterable[AliasRecord]) -> dict[int, list[str]]:
    """What the requests that were carried out say of profiles, by MPID."""
    texts: dict[int, list[str]] = {}
    for alias in records:
        if alias.state == "done":
            texts.setdefault(alias.source_mpid, []).append(f"aliased to {alias.destination_mpid}")
            texts.setdefault(alias.destination_mpid, []).append(f"has the history of {alias.source_mpid}")
    return texts


def _processed(alias: AliasRecord, earlier: Sequence[AliasRecord], now_ms: int, profiles: Transaction) -> AliasRecord:
    source, destination = profiles.get(alias.source_mpid), profiles.get(alias.destination_mpid)
    reason = _obstacle(alias, earlier)
    if reason or not source or not destination:
        reason = reason or "the source or the destination does not exist any more"
        return replace(alias, state="failed", reason=reason, processed_ms=now_ms)
    profiles.put(replace(destination, created_ms=source.created_ms))
    return replace(alias, state="done", processed_ms=now_ms)


def _obstacle(alias: AliasRecord, earlier: Sequence[AliasRecord]) -> str | None:
    """Why a request fails, silently: `earlier` are those carried out before it. Aliases form no chains."""
    for other in earlier:
        if other.destination_mpid == alias.source_mpid:
            return "the source was the destination of an earlier alias"
        if other.source_mpid == alias.destination_mpid:
            return "the destination was the source of an earlier alias"
        is_overlapping = other.start_ms <= alias.end_ms and alias.start_ms <= other.end_ms
        if other.source_mpid == alias.source_mpid and is_overlapping:
            return "the source was the source of an earlier alias with an overlapping time range"
    return None
