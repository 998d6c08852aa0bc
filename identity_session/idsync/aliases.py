"""Alias requests: which are accepted. Copying history is for systems that hold events; here a request is recorded.

Sources: page "Aliasing" of the IDSync guide; Web SDK src/identity.js (aliasUsers).
"""

from __future__ import annotations

from identity_session.wire import AliasData

from .profiles import AliasRecord, Transaction
from .refusals import InvalidDataError, LookupRefusedError
from .requests import is_64_bit, is_storable, parse_mpid

WINDOW_MS = 90 * 24 * 60 * 60 * 1000
"""How far back history can be copied; an earlier start is moved up to it."""


def check(data: AliasData, request_id: str | None, now_ms: int, profiles: Transaction) -> AliasRecord:
    """The request as it is to be recorded. Without a start it reaches back as far as it may, without an end to now.

    Raises LookupRefusedError for equal or unknown MPIDs and for an invalid time range, and InvalidDataError for a
    request ID that cannot be stored.
    """
    source, destination = parse_mpid(data.source_mpid), parse_mpid(data.destination_mpid)
    if source is None or destination is None or not profiles.get(source) or not profiles.get(destination):
        raise LookupRefusedError("The source or the destination does not exist.")
    if source == destination:
        raise LookupRefusedError("The source and the destination are the same.")
    earliest_ms = now_ms - WINDOW_MS
    start_ms = max(earliest_ms, earliest_ms if data.start_unixtime_ms is None else data.start_unixtime_ms)
    end_ms = now_ms if data.end_unixtime_ms is None else data.end_unixtime_ms
    if start_ms > end_ms or not is_64_bit(end_ms):
        raise LookupRefusedError("The time range is invalid.")
    if request_id is not None and not is_storable(request_id):
        raise InvalidDataError("The request ID holds a character that cannot be stored.")
    return AliasRecord(request_id, source, destination, start_ms, end_ms, data.scope, now_ms)
