"""The rules as one session applies them: with its settings, its ids and its idea of when a session ends.

Sources: Web SDK src/sessionManager.ts, src/identity.js, src/mp-instance.ts. Departures are in the README's table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import cache, rules
from .config import Settings
from .exchange import Call, Question, Reply
from .users import Change, FindUser, Rule, Session, Snapshot, User


class Policy:
    """Makes the rules that a conversation asks to have applied. Times are Unix milliseconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def is_shut(self, snapshot: Snapshot) -> bool:
        """Whether no call may be sent: the user opted out, or there is no API key."""
        return snapshot.opted_out or not self._settings.has_api_key

    def live_session(self, snapshot: Snapshot, now_ms: int) -> Session | None:
        """The session, if it has not expired by now."""
        return rules.live_session(snapshot, now_ms, self._settings.session_timeout_ms)

    def with_device(self, rule: Rule, first: Question | None = None) -> Rule:
        """A rule after which the device has a stamp, if need be a new one: that of the first question, if it had none
        before."""
        new_stamp = first.device_application_stamp if first else self._settings.new_id()

        def stamped(snapshot: Snapshot, find: FindUser) -> Change:
            change = rule(snapshot, find)
            stamp = self._settings.device_id or snapshot.device_application_stamp or new_stamp
            return replace(change, snapshot=replace(change.snapshot, device_application_stamp=stamp))

        return stamped

    # Sessions

    def opened(self, now_ms: int) -> Rule:
        """An expired session is dropped; where calls may be sent, a session is live and active afterwards."""

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            return (self.closed if self.is_shut(snapshot) else self.touched)(now_ms)(snapshot, find)

        return rule

    def touched(self, now_ms: int) -> Rule:
        """A live session lasts longer; otherwise another one begins, if calls may be sent."""

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            if self.live_session(snapshot, now_ms) or self.is_shut(snapshot):
                return Change(self._active(snapshot, now_ms))
            return self.begun(now_ms)(snapshot, find)

        return rule

    def begun(self, now_ms: int) -> Rule:
        """Another session begins, if calls may be sent."""
        session_id = self._settings.new_id()
        return lambda s, find: Change(s if self.is_shut(s) else rules.begun(s, now_ms, session_id))

    def was_active(self, sent: Question) -> Rule:
        """A call was sent: activity, which opens no session."""
        return lambda snapshot, find: Change(self._active_since(snapshot, sent))

    def ended(self) -> Rule:
        """The session ends; user, context and identities stay."""
        return lambda snapshot, find: Change(replace(snapshot, session=None))

    def closed(self, now_ms: int) -> Rule:
        """An expired session is dropped, a live one goes on."""
        return lambda snapshot, find: Change(replace(snapshot, session=self.live_session(snapshot, now_ms)))

    def _active(self, snapshot: Snapshot, now_ms: int) -> Snapshot:
        return rules.active(snapshot, now_ms, self._settings.session_timeout_ms)

    def _active_since(self, snapshot: Snapshot, sent: Question) -> Snapshot:
        """Active when this was sent, or later: the app, or another process, may have been so meanwhile."""
        last_ms = snapshot.session.last_activity_ms if snapshot.session else 0
        was_later = sent.request_timestamp_ms < last_ms <= self._settings.now_ms()
        return self._active(snapshot, last_ms if was_later else sent.request_timestamp_ms)

    # Users

    def answered(self, question: Question, reply: Reply, *, user_when_asked: User | None, sent: bool) -> Rule:
        """After a 200. `user_when_asked` was current before the call; an answer that was remembered was not `sent`."""
        settings, now_ms = self._settings, self._settings.now_ms()

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            if sent:
                snapshot = self._active_since(snapshot, question)
            if question.call is Call.MODIFY:
                return rules.modified(snapshot, find, question, reply)
            keep = settings.keep_ephemeral_users
            change = rules.identified(
                snapshot, find, question, reply, now_ms, user_when_asked=user_when_asked, keep_ephemeral=keep
            )
            is_heeded = change.snapshot.mpid == reply.mpid
            if not settings.cache_identity or not sent or not is_heeded:
                return change
            key = settings.credentials.api_key
            return replace(change, snapshot=cache.remember(change.snapshot, question, reply, key, now_ms))

        return rule

    def forgotten(self, *, keep_user: bool) -> Rule:
        """Nobody is current; the session ends where no other may begin, and otherwise waits for the answer."""
        settings, now_ms = self._settings, self._settings.now_ms()

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            change = rules.forgotten(
                snapshot, now_ms, keep_user=keep_user, keep_ephemeral=settings.keep_ephemeral_users
            )
            if self.is_shut(snapshot):
                return replace(change, snapshot=replace(change.snapshot, session=None))
            return change

        return rule

    def left_alone(self) -> Rule:
        """Another session begins, unless another process has made somebody current meanwhile."""
        begun = self.begun(self._settings.now_ms())
        return lambda snapshot, find: Change(snapshot) if snapshot.user else begun(snapshot, find)

    def opted_out(self, now_ms: int, opted_out: bool) -> Rule:
        """Calls stop or resume: activity, which opens no session."""
        return lambda snapshot, find: Change(replace(self._active(snapshot, now_ms), opted_out=opted_out))

    def attributes_edited(self, now_ms: int, mpid: str, edit: Callable[[User], User]) -> Rule:
        """A remembered user changes: activity, unless no calls may be sent; then nothing happens."""
        touched = self.touched(now_ms)

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            if self.is_shut(snapshot):
                return Change(snapshot)
            return self.edited(mpid, edit)(touched(snapshot, find).snapshot, find)

        return rule

    def edited(self, mpid: str, edit: Callable[[User], User]) -> Rule:
        """A remembered user changes: no activity, and possible while opted out."""

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            if snapshot.user and snapshot.user.mpid == mpid:
                return Change(replace(snapshot, user=edit(snapshot.user)))
            user = find(mpid)
            return Change(snapshot, users=(edit(user),)) if user else Change(snapshot)

        return rule
