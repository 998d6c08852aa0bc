"""The core: one conversation per call, without I/O.

A conversation yields what it wants done (read the snapshot, apply a change, ask the service, wait) and is sent what
came of it; what it returns is the outcome of the call. Both fronts drive the same conversations, and a test can drive
them by hand.

Sources: Web SDK src/identity.js, src/identityApiClient.ts, src/mp-instance.ts, src/sessionManager.ts,
src/identity/search.ts; documentation page "IDSync" of the web client SDK. Departures are in the README's table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Any

from . import cache, rules
from .aliasing import AliasRequest
from .config import Settings
from .conversation import Apply, Ask, Conversation, Outcome, Pause, Read, failed, refused, resumed
from .errors import HTTPCodes, StorageBusyError, StorageError
from .exchange import Call, IdentityChange, NoReply, Question, Reply
from .identities import Identities, IdentityRequest, InvalidRequestError, clean_request, covers
from .states import REFUSAL_TEXTS, CallSlot, Condition, refusal
from .users import Change, Committed, FindUser, Rule, Session, Snapshot, User


class Opening(Enum):
    """What a start does."""

    RESUME = auto()
    IDENTIFY = auto()
    REFUSE = auto()


def opening(snapshot: Snapshot, configured: Identities, *, live: bool, may_ask: bool) -> Opening:
    """Decide a start.

    1. A live session whose user already has every configured identity goes on without a request.
    2. Otherwise an identify is due, if one may be sent.
    """
    if live and snapshot.user and covers(snapshot.user.identities, configured):
        return Opening.RESUME
    return Opening.IDENTIFY if may_ask else Opening.REFUSE


class Core:
    """The calls of one session as conversations, and the little that outlives a call without being stored."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float], chance: Callable[[], float]) -> None:
        """`monotonic` gives seconds for deadlines, `chance` a random number from 0 to 1 for the jitter of retries."""
        self._settings = settings
        self._monotonic = monotonic
        self._chance = chance
        self._slot = CallSlot()
        self._started = False
        self._automatic_identify_made = False
        self._identities_on_start: Identities | None = None

    def live_session(self, snapshot: Snapshot, now_ms: int) -> Session | None:
        """The session, if it has not expired by now."""
        return rules.live_session(snapshot, now_ms, self._settings.session_timeout_ms)

    # Start

    def start(self) -> Conversation[Outcome]:
        """Open or resume the session. Raises StorageError when the state cannot be written, or is newer."""
        now_ms, deadline = self._settings.now_ms(), self._deadline()
        self._started = True
        try:
            configured = clean_request(self._settings.identify_request).identities
        except InvalidRequestError as invalid:
            self._automatic_identify_made = True
            committed = yield self._apply(self._opened(now_ms), deadline)
            return _start_unsaved(committed) or refused(committed.after, HTTPCodes.VALIDATION_ISSUE, str(invalid))

        decision = Opening.REFUSE

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            nonlocal decision
            live = self.live_session(snapshot, now_ms) is not None
            decision = opening(snapshot, configured, live=live, may_ask=not self._is_shut(snapshot))
            if decision is Opening.RESUME:
                return Change(self._active(snapshot, now_ms))
            return self._opened(now_ms)(snapshot, find)

        committed = yield self._apply(rule, deadline)
        unsaved = _start_unsaved(committed)
        if unsaved:
            return unsaved
        self._automatic_identify_made = False
        self._identities_on_start = configured or _stored_identities(committed.after)
        if decision is Opening.RESUME:
            return resumed(committed.after)
        if decision is Opening.REFUSE:
            return refused(committed.after, HTTPCodes.LOGGING_DISABLED_OR_MISSING_API_KEY)
        return (yield from self._automatic_identify(deadline))

    def start_new_session(self) -> Conversation[Outcome | None]:
        """Begin another session; identify if no start of this process has done so. None when nothing was due."""
        deadline = self._deadline()
        committed = yield self._apply(self._begun(self._settings.now_ms()), deadline)
        if isinstance(committed, StorageError):
            return failed(None, str(committed))
        if self._automatic_identify_made or self._is_shut(committed.after):
            return None
        if self._identities_on_start is None:
            self._identities_on_start = _stored_identities(committed.after)
        return (yield from self._automatic_identify(deadline))

    def _automatic_identify(self, deadline: float) -> Conversation[Outcome]:
        self._automatic_identify_made = True
        return (yield from self._identity_call(Call.IDENTIFY, self._identities_on_start or {}, deadline))

    # Identity calls

    def identity_call(self, call: Call, request: object) -> Conversation[Outcome]:
        """identify, login, logout or modify, as the caller asked."""
        deadline = self._deadline()
        try:
            clean = clean_request(request)
            if call is Call.MODIFY and not clean.identities:
                raise InvalidRequestError("modify needs at least one identity to change")
        except InvalidRequestError as invalid:
            return refused((yield Read()), HTTPCodes.VALIDATION_ISSUE, str(invalid))
        outcome = yield from self._identity_call(call, clean.identities, deadline)
        return replace(outcome, on_user_alias=clean.on_user_alias)

    def _identity_call(self, call: Call, identities: Identities, deadline: float) -> Conversation[Outcome]:
        snapshot = yield Read()
        if isinstance(snapshot, StorageError):
            return failed(None, str(snapshot))
        conditions = self._conditions(snapshot)
        code = refusal(call, conditions)
        if code is None and not self._slot.take():
            code = refusal(call, conditions | {Condition.BUSY})
        if code is not None:
            return refused(snapshot, code)
        try:
            return (yield from self._in_flight(call, identities, snapshot, deadline))
        finally:
            self._slot.free()

    def _in_flight(
        self, call: Call, identities: Identities, snapshot: Snapshot, deadline: float
    ) -> Conversation[Outcome]:
        question = self._question(call, snapshot, identities)
        remembered = self._recall(snapshot, question)
        reply = remembered or _usable(call, (yield from self._ask(question, deadline)))
        sent = remembered is None
        if isinstance(reply, NoReply) or reply.status != 200:
            yield self._apply(self._was_active(question), deadline, question)
            if isinstance(reply, NoReply):
                return failed(snapshot, reply.text)
            return Outcome(reply.status, reply.body, snapshot.mpid)
        committed = yield self._apply(self._answered(question, reply, sent=sent), deadline, question)
        if isinstance(committed, StorageError):
            return failed(snapshot, f"the answer came but could not be saved: {committed}")
        return Outcome(200, reply.body, committed.after.mpid, _previous(committed))

    # Calls that leave the user alone

    def search(self, known_identities: object) -> Conversation[Outcome]:
        """Ask whether a user with these identities exists."""
        deadline = self._deadline()
        try:
            identities = clean_request(_as_request(known_identities)).identities
            if not any(identities.values()):
                raise InvalidRequestError("search needs at least one identity with a value")
        except InvalidRequestError as invalid:
            return Outcome(HTTPCodes.VALIDATION_ISSUE, str(invalid))
        reply = yield from self._ask_aside(Call.SEARCH, deadline, known_identities=identities)
        return reply if isinstance(reply, Outcome) else Outcome(reply.status, reply.body)

    def alias(self, request: object) -> Conversation[Outcome]:
        """Ask that the history of one user be copied to another. The outcome's body is the message, or None."""
        deadline = self._deadline()
        try:
            span = AliasRequest.of(request).checked()
        except InvalidRequestError as invalid:
            return Outcome(HTTPCodes.VALIDATION_ISSUE, str(invalid))
        reply = yield from self._ask_aside(Call.ALIAS, deadline, alias=span)
        if isinstance(reply, Outcome):
            return reply
        if reply.status in (200, 202):
            return Outcome(reply.status)
        said = f"the service answered with status {reply.status}"
        return Outcome(reply.status, reply.message if reply.status == 400 else said)

    def _ask_aside(self, call: Call, deadline: float, **fields: Any) -> Conversation[Reply | Outcome]:
        snapshot = yield Read()
        if isinstance(snapshot, StorageError):
            return Outcome(HTTPCodes.NO_HTTP_COVERAGE, str(snapshot))
        code = refusal(call, self._conditions(snapshot))
        if code is not None:
            return Outcome(code, REFUSAL_TEXTS[code])
        question = replace(self._question(call, snapshot, {}), **fields)
        reply = _usable(call, (yield from self._ask(question, deadline)))
        return Outcome(HTTPCodes.NO_HTTP_COVERAGE, reply.text) if isinstance(reply, NoReply) else reply

    # Changes without a question

    def touch(self) -> Conversation[None]:
        """The app's own activity."""
        return self._change(self._touched(self._settings.now_ms()))

    def end_session(self) -> Conversation[None]:
        """End the session; user, context and identities stay."""
        return self._change(lambda snapshot, find: Change(replace(snapshot, session=None)))

    def close(self) -> Conversation[None]:
        """Drop a session that has expired while this process had it, so that no later one with a longer timeout
        revives it. One that is still live goes on with the next process. Trouble with the storage is of no moment."""
        now_ms = self._settings.now_ms()
        snapshot = yield Read()
        if self._started and isinstance(snapshot, Snapshot) and self.live_session(snapshot, now_ms) != snapshot.session:
            yield self._apply(
                lambda s, find: Change(replace(s, session=self.live_session(s, now_ms))), self._deadline()
            )

    def set_opt_out(self, opted_out: bool) -> Conversation[None]:
        """Stop or resume. Counts as activity, opens no session."""
        now_ms = self._settings.now_ms()
        return self._change(lambda s, find: Change(replace(self._active(s, now_ms), opted_out=opted_out)))

    def edit_attributes(self, mpid: str, edit: Callable[[User], User]) -> Conversation[None]:
        """Change the attributes of a remembered user: activity, unless opted out; then nothing happens."""
        touched = self._touched(self._settings.now_ms())

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            if self._is_shut(snapshot):
                return Change(snapshot)
            return _edited(touched(snapshot, find).snapshot, find, mpid, edit)

        return self._change(rule)

    def edit_consent(self, mpid: str, edit: Callable[[User], User]) -> Conversation[None]:
        """Change the consent state of a remembered user: no activity, and possible while opted out."""
        return self._change(lambda snapshot, find: _edited(snapshot, find, mpid, edit))

    def _change(self, rule: Rule) -> Conversation[None]:
        committed = yield self._apply(rule, self._deadline())
        if isinstance(committed, StorageError):
            raise committed

    # Rules, with the settings of this session

    def _apply(self, rule: Rule, deadline: float, question: Question | None = None) -> Apply:
        """Every change sees to it that the device has a stamp: the one it was sent with, if it is the first."""
        new_stamp = question.device_application_stamp if question else self._settings.new_id()

        def with_device(snapshot: Snapshot, find: FindUser) -> Change:
            change = rule(snapshot, find)
            stamp = self._settings.device_id or snapshot.device_application_stamp or new_stamp
            return replace(change, snapshot=replace(change.snapshot, device_application_stamp=stamp))

        return Apply(with_device, deadline)

    def _opened(self, now_ms: int) -> Rule:
        """An expired session is dropped; where calls may be sent, a session is live and active afterwards."""

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            if self._is_shut(snapshot):
                return Change(replace(snapshot, session=self.live_session(snapshot, now_ms)))
            return self._touched(now_ms)(snapshot, find)

        return rule

    def _touched(self, now_ms: int) -> Rule:
        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            if self.live_session(snapshot, now_ms) or self._is_shut(snapshot):
                return Change(self._active(snapshot, now_ms))
            return self._begun(now_ms)(snapshot, find)

        return rule

    def _begun(self, now_ms: int) -> Rule:
        session_id = self._settings.new_id()
        return lambda s, find: Change(s if self._is_shut(s) else rules.begun(s, now_ms, session_id))

    def _was_active(self, question: Question) -> Rule:
        return lambda snapshot, find: Change(self._active(snapshot, question.request_timestamp_ms))

    def _active(self, snapshot: Snapshot, now_ms: int) -> Snapshot:
        return rules.active(snapshot, now_ms, self._settings.session_timeout_ms)

    def _answered(self, question: Question, reply: Reply, *, sent: bool) -> Rule:
        settings, now_ms = self._settings, self._settings.now_ms()

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            if sent:
                snapshot = self._active(snapshot, question.request_timestamp_ms)
            if question.call is Call.MODIFY:
                return rules.modified(snapshot, find, question, reply)
            change = rules.identified(
                snapshot, find, question, reply, now_ms, keep_ephemeral=settings.keep_ephemeral_users
            )
            if not settings.cache_identity or not sent:
                return change
            key = settings.credentials.api_key
            return replace(change, snapshot=cache.remember(change.snapshot, question, reply, key, now_ms))

        return rule

    # Asking

    def _ask(self, question: Question, deadline: float) -> Conversation[Reply | NoReply]:
        """Ask, and ask again where that is safe and ends before the deadline. What counts is the last attempt that can
        have reached the service."""
        attempt = 1
        counts: Reply | NoReply | None = None
        while True:
            reply: Reply | NoReply = yield Ask(question, deadline)
            reached = isinstance(reply, Reply) or reply.sent
            counts = reply if reached or counts is None else counts
            wait = self._settings.retry.wait_seconds(question.call, attempt, reply, self._chance())
            if wait is None or self._monotonic() + wait >= deadline:
                return counts
            yield Pause(wait)
            attempt += 1

    def _question(self, call: Call, snapshot: Snapshot, identities: Identities) -> Question:
        stored = snapshot.user.identities if snapshot.user else {}
        return Question(
            call=call,
            request_id=self._settings.new_id(),
            request_timestamp_ms=self._settings.now_ms(),
            device_application_stamp=(
                self._settings.device_id or snapshot.device_application_stamp or self._settings.new_id()
            ),
            context=snapshot.context,
            mpid=snapshot.mpid,
            known_identities=identities,
            identity_changes=tuple(IdentityChange(stored.get(name), new, name) for name, new in identities.items()),
        )

    def _recall(self, snapshot: Snapshot, question: Question) -> Reply | None:
        if not self._settings.cache_identity:
            return None
        return cache.recall(snapshot, question, self._settings.credentials.api_key, self._settings.now_ms())

    def _conditions(self, snapshot: Snapshot) -> frozenset[Condition]:
        holds = {Condition.NOBODY: snapshot.user is None, Condition.SHUT: self._is_shut(snapshot)}
        return frozenset(condition for condition, held in holds.items() if held)

    def _is_shut(self, snapshot: Snapshot) -> bool:
        return snapshot.opted_out or not self._settings.has_api_key

    def _deadline(self) -> float:
        return self._monotonic() + self._settings.timeout_seconds


def _usable(call: Call, reply: Reply | NoReply) -> Reply | NoReply:
    """A success that says nothing is as good as no answer; an error keeps its status, whatever its body is."""
    if isinstance(reply, NoReply) or call is Call.ALIAS:
        return reply
    if reply.status in (200, 202) and reply.body is None:
        return NoReply(f"the answer (status {reply.status}) is not a JSON object of at most 1 MiB", sent=True)
    if reply.status == 200 and reply.mpid is None and call not in (Call.MODIFY, Call.SEARCH):
        return NoReply("the answer (status 200) names no user", sent=True)
    return reply


def _as_request(known_identities: object) -> object:
    if isinstance(known_identities, IdentityRequest):
        return known_identities
    if isinstance(known_identities, dict) and "userIdentities" in known_identities:
        return known_identities
    return IdentityRequest(known_identities)  # type: ignore[arg-type]  # what it is gets checked with the rest


def _edited(snapshot: Snapshot, find: FindUser, mpid: str, edit: Callable[[User], User]) -> Change:
    if snapshot.user and snapshot.user.mpid == mpid:
        return Change(replace(snapshot, user=edit(snapshot.user)))
    user = find(mpid)
    return Change(snapshot, users=(edit(user),)) if user else Change(snapshot)


def _stored_identities(snapshot: Snapshot) -> Identities:
    return snapshot.user.identities if snapshot.user else {}


def _previous(committed: Committed) -> str | None:
    before = committed.before.mpid
    return before if before != committed.after.mpid else None


def _start_unsaved(committed: Committed | StorageError) -> Outcome | None:
    if isinstance(committed, StorageBusyError):
        return failed(None, str(committed))
    if isinstance(committed, StorageError):
        raise committed
    return None
