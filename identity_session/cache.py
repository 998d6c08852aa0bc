"""Remembered answers, opt-in: asking the same thing again as the same user needs no request while the answer lasts.

Source: Web SDK src/identity-utils.ts (cacheIdentity), header `X-MP-Max-Age`. Stricter than the SDK: the key is a
strong hash of method, exact identities, API key, device and current MPID, and any change of user forgets all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

from .exchange import Call, Question, Reply
from .users import Answer, Snapshot

CACHED_CALLS = frozenset({Call.IDENTIFY, Call.LOGIN})
MAX_ANSWERS = 16


def recall(snapshot: Snapshot, question: Question, api_key: str, now_ms: int) -> Reply | None:
    """The answer remembered for this question, as a reply without a context; None when there is none, or it expired."""
    if question.call not in CACHED_CALLS or question.mpid is None:
        return None
    answer = snapshot.answers.get(_key(question, api_key))
    if answer is None or not 0 <= answer.expires_ms - now_ms <= answer.max_age_ms:
        return None
    return Reply(
        status=200,
        body={"mpid": question.mpid, "is_logged_in": answer.is_logged_in, "is_ephemeral": answer.is_ephemeral},
        mpid=question.mpid,
        is_logged_in=answer.is_logged_in,
        is_ephemeral=answer.is_ephemeral,
    )


def remember(snapshot: Snapshot, question: Question, reply: Reply, api_key: str, now_ms: int) -> Snapshot:
    """The snapshot with this answer remembered, if it may be: it belongs to whom it named, for as long as it said."""
    if question.call not in CACHED_CALLS or reply.max_age_seconds <= 0:
        return snapshot
    max_age_ms = reply.max_age_seconds * 1000
    key = _key(replace(question, mpid=reply.mpid), api_key)
    live = {k: a for k, a in snapshot.answers.items() if a.expires_ms >= now_ms and k != key}
    live[key] = Answer(now_ms + max_age_ms, max_age_ms, bool(reply.is_logged_in), reply.is_ephemeral)
    return replace(snapshot, answers=dict(list(live.items())[-MAX_ANSWERS:]))


def _key(question: Question, api_key: str) -> str:
    identities: Mapping[str, str | None] = question.known_identities or {}
    parts = [question.call, sorted(identities.items()), api_key, question.device_application_stamp, question.mpid]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
