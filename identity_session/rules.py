"""What an answer, or the passing of time, does to what is remembered: rules on snapshots, pure and total.

Sources: Web SDK src/identity.js (parseIdentityResponse), src/user-utils.ts, src/sessionManager.ts, src/persistence.js;
documentation page "HTTP API" of IDSync (`is_ephemeral`, `context`). Departures from the SDK are in the README's table.
"""

from __future__ import annotations

from dataclasses import replace

from .exchange import Call, Question, Reply
from .identities import overlay
from .users import Change, FindUser, Session, Snapshot, User


def live_session(snapshot: Snapshot, now_ms: int, timeout_ms: int) -> Session | None:
    """The session, if it has not expired."""
    session = snapshot.session
    return session if session and session.is_live(now_ms, timeout_ms) else None


def active(snapshot: Snapshot, now_ms: int, timeout_ms: int) -> Snapshot:
    """After activity: a live session lasts longer from now, an expired one is dropped."""
    session = live_session(snapshot, now_ms, timeout_ms)
    return replace(snapshot, session=session and replace(session, last_activity_ms=now_ms))


def begun(snapshot: Snapshot, now_ms: int, new_id: str) -> Snapshot:
    """With another session in place of whatever was there; user, context and identities stay."""
    return replace(snapshot, session=Session(new_id.upper(), started_ms=now_ms, last_activity_ms=now_ms))


def identified(
    snapshot: Snapshot,
    find: FindUser,
    question: Question,
    reply: Reply,
    now_ms: int,
    *,
    user_when_asked: User | None,
    keep_ephemeral: bool,
) -> Change:
    """After a 200 to identify, login or logout: the answer says who the user is.

    1. The user of the answer becomes current, with what is remembered of it under that MPID.
    2. Its identities are overlaid with those sent; a request without any empties them, for it says who the user is.
    3. It was first seen now, unless that is known; its flags are those of the answer.
       But a request without any identities changes neither for a user whom another session has made current, or given
       other identities, since `user_when_asked` was current: that one knew more.
    4. The context is that of the answer. When it brought none, the stored one stays, or that of the question if it
       was forgotten meanwhile.
    5. The user who leaves was last seen now; one the service called ephemeral is forgotten if so configured.
    6. Remembered answers belong to one user; they go with the user, and on logout.

    But an answer to a question that no caller asked, the automatic identify with what is stored, takes nobody's place
    whom another session has made current meanwhile, and brings nobody back whom it has forgotten.
    """
    mpid = reply.mpid or ""
    if question.is_recalled and snapshot.mpid not in (question.mpid, mpid):
        return Change(snapshot)
    leaving = snapshot.user if snapshot.mpid != mpid else None
    known = find(mpid) if leaving or not snapshot.user else snapshot.user
    user = known or User(mpid)
    sent = question.known_identities or {}
    if sent or not _changed_meanwhile(user, snapshot, user_when_asked):
        user = replace(
            user,
            identities=overlay(user.identities, sent) if sent else {},
            first_seen_ms=now_ms if user.first_seen_ms is None else user.first_seen_ms,
            is_logged_in=bool(reply.is_logged_in),
            is_ephemeral=reply.is_ephemeral,
        )
    stays = snapshot.mpid == mpid and question.call is not Call.LOGOUT
    after = replace(
        snapshot,
        user=user,
        context=reply.context or snapshot.context or question.context,
        answers=snapshot.answers if stays else {},
    )
    if leaving is None:
        return Change(after)
    return _left(after, leaving, now_ms, keep=keep_ephemeral or not leaving.is_ephemeral)


def _changed_meanwhile(user: User, snapshot: Snapshot, when_asked: User | None) -> bool:
    is_current = snapshot.mpid == user.mpid
    return is_current and (
        when_asked is None or when_asked.mpid != user.mpid or when_asked.identities != user.identities
    )


def forgotten(snapshot: Snapshot, now_ms: int, *, keep_user: bool, keep_ephemeral: bool) -> Change:
    """After the current user left a device that is to forget them: nobody is current.

    1. Context and remembered answers go with the user; session, device and opt-out stay.
    2. The user is remembered like any who leaves, or, without `keep_user`, not at all.
    """
    leaving = snapshot.user
    if leaving is None:
        return Change(snapshot)
    after = replace(snapshot, user=None, context=None, answers={})
    return _left(after, leaving, now_ms, keep=keep_user and (keep_ephemeral or not leaving.is_ephemeral))


def _left(after: Snapshot, leaving: User, now_ms: int, *, keep: bool) -> Change:
    if keep:
        return Change(after, users=(replace(leaving, last_seen_ms=now_ms),))
    return Change(after, forget=(leaving.mpid,))


def modified(snapshot: Snapshot, find: FindUser, question: Question, reply: Reply) -> Change:
    """After a 200 to modify: the identities of the user the call was about are overlaid with those sent.

    It never changes who is current, nor the context. The logged-in flag changes only if the answer has one and
    speaks of this very user. Remembered answers are forgotten.
    """
    about = question.mpid or ""
    is_current = snapshot.user is not None and snapshot.user.mpid == about
    user = snapshot.user if is_current else find(about)
    if user is None:
        return Change(snapshot)
    changes = {change.identity_type: change.new_value for change in question.identity_changes}
    user = replace(user, identities=overlay(user.identities, changes))
    if reply.is_logged_in is not None and reply.mpid in (None, about):
        user = replace(user, is_logged_in=reply.is_logged_in)
    if is_current:
        return Change(replace(snapshot, user=user, answers={}))
    return Change(replace(snapshot, answers={}), users=(user,))
