"""The core: one conversation per call, without I/O.

A conversation yields what it wants done (read the snapshot, apply a change, ask the service, wait) and is sent what
came of it; what it returns is the outcome of the call. Both fronts drive the same conversations, and a test can drive
them by hand.

Sources: Web SDK src/identity.js, src/identityApiClient.ts, src/mp-instance.ts, src/sessionManager.ts,
src/identity/search.ts; documentation page "IDSync" of the web client SDK. Departures are in the README's table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Any

from . import cache
from .aliasing import AliasRequest
from .config import Settings
from .conversation import Apply, Ask, Conversation, Outcome, Pause, Read, failed, refused, resumed
from .errors import HTTPCodes, StorageBusyError, StorageError
from .exchange import Call, IdentityChange, NoReply, Question, Reply
from .identities import CleanRequest, Identities, IdentityRequest, InvalidRequestError, clean_request, covers
from .policy import Policy
from .states import REFUSAL_TEXTS, CallSlot, Condition, Holder, refusal
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
        self._policy = Policy(settings)
        self._slot = CallSlot()
        self.was_reset()

    def was_reset(self) -> None:
        """As newly made: nothing of what was stored is sent any more."""
        self._started = self._automatic_identify_made = False
        self._configured: object = self._settings.identify_request
        self._resolved: CleanRequest | None = None  # what the automatic identify says
        self._seen_current: str | None = None  # as this was resolved, or by a call of this session since

    def in_forked_child(self) -> None:
        """A call that another thread of the parent had in flight is not in flight here."""
        self._slot = CallSlot()

    def live_session(self, snapshot: Snapshot, now_ms: int) -> Session | None:
        """The session, if it has not expired by now."""
        return self._policy.live_session(snapshot, now_ms)

    # Start

    def start(self) -> Conversation[Outcome]:
        """Open or resume the session. Raises StorageError when the state cannot be written, or is newer."""
        now_ms, deadline = self._settings.now_ms(), self._deadline()
        self._started = True
        self._configured, self._resolved = self._settings.identify_request, None
        try:
            configured = clean_request(self._configured).identities
        except InvalidRequestError as invalid:
            self._automatic_identify_made = True
            committed = yield self._apply(self._policy.opened(now_ms), deadline)
            return _start_unsaved(committed) or refused(committed.after, HTTPCodes.VALIDATION_ISSUE, str(invalid))

        decision = Opening.REFUSE

        def rule(snapshot: Snapshot, find: FindUser) -> Change:
            nonlocal decision
            live = self.live_session(snapshot, now_ms) is not None
            decision = opening(snapshot, configured, live=live, may_ask=not self._policy.is_shut(snapshot))
            if decision is Opening.RESUME:
                return self._policy.touched(now_ms)(snapshot, find)
            return self._policy.opened(now_ms)(snapshot, find)

        committed = yield self._apply(rule, deadline)
        unsaved = _start_unsaved(committed)
        if unsaved:
            return unsaved
        self._resolved_request(committed.after)
        if decision is Opening.RESUME:
            return resumed(committed.after)
        if decision is Opening.REFUSE:
            return refused(committed.after, HTTPCodes.LOGGING_DISABLED_OR_MISSING_API_KEY)
        return (yield from self._automatic_identify(deadline))

    def start_new_session(self) -> Conversation[Outcome | None]:
        """Begin another session; identify if no start of this process has done so. None when nothing was due."""
        deadline = self._deadline()
        committed = yield self._apply(self._policy.begun(self._settings.now_ms()), deadline)
        if isinstance(committed, StorageError):
            return failed(None, str(committed))
        if self._automatic_identify_made or self._policy.is_shut(committed.after):
            return None
        try:
            self._resolved_request(committed.after)
        except InvalidRequestError as invalid:
            self._automatic_identify_made = True
            return refused(committed.after, HTTPCodes.VALIDATION_ISSUE, str(invalid))
        return (yield from self._automatic_identify(deadline))

    def _resolved_request(self, snapshot: Snapshot) -> CleanRequest:
        """What the automatic identify says: what is configured, or else what is stored when this is first looked at, or
        looked at once another session has changed the user, maybe forgotten them."""
        request = self._resolved
        if request is None or snapshot.mpid != self._seen_current:
            request = clean_request(self._configured)
            if not request.identities:
                stored: dict[str, str | None] = {**snapshot.user.identities} if snapshot.user else {}
                request = replace(request, identities=stored, is_recalled=True)
            self._resolved, self._seen_current = request, snapshot.mpid
        return request

    def _automatic_identify(self, deadline: float) -> Conversation[Outcome]:
        self._automatic_identify_made = True
        snapshot = yield Read()
        if isinstance(snapshot, StorageError):
            return failed(None, str(snapshot))
        return (yield from self._unless_refused(Call.IDENTIFY, self._resolved_request(snapshot), snapshot, deadline))

    # Identity calls

    def identity_call(
        self, call: Call, request: object, *, forget: bool = False, keep_user: bool = True
    ) -> Conversation[Outcome]:
        """identify, login, logout or modify, as the caller asked. `forget` is for logout: nobody stays current, and
        nothing of the user is kept without `keep_user`."""
        deadline = self._deadline()
        try:
            clean = clean_request(request)
            if call is Call.MODIFY and not clean.identities:
                raise InvalidRequestError("modify needs at least one identity to change")
        except InvalidRequestError as invalid:
            return refused((yield Read()), HTTPCodes.VALIDATION_ISSUE, str(invalid))
        snapshot = yield Read()
        if isinstance(snapshot, StorageError):
            return failed(None, _not_forgotten(snapshot) if forget else str(snapshot))
        if forget and snapshot.user:
            return (yield from self._forgetting_logout(clean, snapshot, deadline, keep_user))
        return (yield from self._unless_refused(call, clean, snapshot, deadline))

    def _unless_refused(
        self, call: Call, request: CleanRequest, snapshot: Snapshot, deadline: float
    ) -> Conversation[Outcome]:
        conditions = self._conditions(snapshot)
        code = refusal(call, conditions)
        slot, holder = self._slot, Holder()
        try:
            if code is None and not slot.take(holder):
                code = refusal(call, conditions | {Condition.BUSY})
            if code is not None:
                return refused(snapshot, code)
            return (yield from self._in_flight(call, request, snapshot, deadline))
        finally:
            slot.free(holder)

    def _in_flight(
        self, call: Call, request: CleanRequest, snapshot: Snapshot, deadline: float
    ) -> Conversation[Outcome]:
        question = self._question(call, snapshot, request)
        remembered = self._recall(snapshot, question)
        reply = remembered or _usable(call, (yield from self._ask(question, deadline)))
        sent = remembered is None
        first = question if snapshot.device_application_stamp is None else None
        if isinstance(reply, NoReply) or reply.status != 200:
            active = yield self._apply(self._policy.was_active(question), deadline, first)
            now = active.after if isinstance(active, Committed) else snapshot
            if isinstance(reply, NoReply):
                return failed(now, reply.text)
            return Outcome(reply.status, reply.body, now.mpid)
        answered = self._policy.answered(question, reply, user_when_asked=snapshot.user, sent=sent)
        committed = yield self._apply(answered, deadline, first)
        if isinstance(committed, StorageError):
            return failed(snapshot, f"the answer came but could not be saved: {committed}")
        if committed.before.mpid != self._seen_current:
            self._resolved = None  # by another session, before this call ended
        self._seen_current = committed.after.mpid
        return Outcome(200, reply.body, committed.after.mpid, _previous(committed), request.on_user_alias)

    def _forgetting_logout(
        self, request: CleanRequest, snapshot: Snapshot, deadline: float, keep_user: bool
    ) -> Conversation[Outcome]:
        slot, holder = self._slot, Holder()
        try:
            if not slot.take(holder):
                return refused(snapshot, HTTPCodes.ACTIVE_IDENTITY_REQUEST)
            return (yield from self._forgotten_in_flight(request, snapshot, deadline, keep_user))
        finally:
            slot.free(holder)

    def _forgotten_in_flight(
        self, request: CleanRequest, snapshot: Snapshot, deadline: float, keep_user: bool
    ) -> Conversation[Outcome]:
        """Forget first and ask then: wherever this is cut short, the user is still current or nobody is."""
        said = self._configured, self._resolved
        self._configured = self._resolved = None  # they may name the user
        forgotten = yield self._apply(self._policy.forgotten(keep_user=keep_user), deadline)
        if isinstance(forgotten, StorageError):
            self._configured, self._resolved = said
            return failed(snapshot, _not_forgotten(forgotten))
        before, after = forgotten.before, forgotten.after
        if self._policy.is_shut(before):
            outcome = refused(after, HTTPCodes.LOGGING_DISABLED_OR_MISSING_API_KEY)
        else:
            asked = replace(before, device_application_stamp=after.device_application_stamp)
            outcome = yield from self._in_flight(Call.LOGOUT, request, asked, deadline)
            if outcome.http_code != 200:
                left = yield self._apply(self._policy.left_alone(), deadline)
                outcome = replace(outcome, mpid=left.after.mpid if isinstance(left, Committed) else None)
        left_mpid = _previous(forgotten)
        return replace(outcome, previous_mpid=left_mpid if left_mpid != outcome.mpid else None)

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
        question = replace(self._question(call, snapshot, CleanRequest({})), **fields)
        reply = _usable(call, (yield from self._ask(question, deadline)))
        return Outcome(HTTPCodes.NO_HTTP_COVERAGE, reply.text) if isinstance(reply, NoReply) else reply

    # Changes without a question

    def touch(self) -> Conversation[None]:
        """The app's own activity."""
        return self._change(self._policy.touched(self._settings.now_ms()))

    def end_session(self) -> Conversation[None]:
        """End the session; user, context and identities stay."""
        return self._change(self._policy.ended())

    def close(self) -> Conversation[None]:
        """Drop a session that has expired while this process had it, so that no later one with a longer timeout
        revives it. One that is still live goes on with the next process. Trouble with the storage is of no moment."""
        now_ms = self._settings.now_ms()
        snapshot = yield Read()
        if self._started and isinstance(snapshot, Snapshot) and self.live_session(snapshot, now_ms) != snapshot.session:
            yield self._apply(self._policy.closed(now_ms), self._deadline())

    def set_opt_out(self, opted_out: bool) -> Conversation[None]:
        """Stop or resume. Counts as activity, opens no session."""
        return self._change(self._policy.opted_out(self._settings.now_ms(), opted_out))

    def edit_attributes(self, mpid: str, edit: Callable[[User], User]) -> Conversation[None]:
        """Change the attributes of a remembered user: activity, unless no calls may be sent; then nothing happens."""
        return self._change(self._policy.attributes_edited(self._settings.now_ms(), mpid, edit))

    def edit_consent(self, mpid: str, edit: Callable[[User], User]) -> Conversation[None]:
        """Change the consent state of a remembered user: no activity, and possible while opted out."""
        return self._change(self._policy.edited(mpid, edit))

    def _change(self, rule: Rule) -> Conversation[None]:
        committed = yield self._apply(rule, self._deadline())
        if isinstance(committed, StorageError):
            raise committed

    def _apply(self, rule: Rule, deadline: float, first: Question | None = None) -> Apply:
        return Apply(self._policy.with_device(rule, first), deadline)

    # Asking

    def _ask(self, question: Question, deadline: float) -> Conversation[Reply | NoReply]:
        """Ask, and ask again where that is safe, still allowed, and ends before the deadline; not if it repeats what is
        stored of a user who is current no more. What counts is the last attempt that can have reached the service."""
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
            snapshot = yield Read()
            if isinstance(snapshot, Snapshot) and (
                self._policy.is_shut(snapshot) or (question.is_recalled and question.mpid not in (None, snapshot.mpid))
            ):
                return counts
            attempt += 1

    def _question(self, call: Call, snapshot: Snapshot, request: CleanRequest) -> Question:
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
            known_identities=request.identities,
            is_recalled=request.is_recalled,
            identity_changes=tuple(
                IdentityChange(stored.get(name), new, name) for name, new in request.identities.items()
            ),
        )

    def _recall(self, snapshot: Snapshot, question: Question) -> Reply | None:
        if not self._settings.cache_identity:
            return None
        return cache.recall(snapshot, question, self._settings.credentials.api_key, self._settings.now_ms())

    def _conditions(self, snapshot: Snapshot) -> frozenset[Condition]:
        holds = {Condition.NOBODY: snapshot.user is None, Condition.SHUT: self._policy.is_shut(snapshot)}
        return frozenset(condition for condition, held in holds.items() if held)

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
    if isinstance(known_identities, Mapping) and "userIdentities" in known_identities:
        return known_identities
    return IdentityRequest(known_identities)  # type: ignore[arg-type]  # what it is gets checked with the rest


def _previous(committed: Committed) -> str | None:
    before = committed.before.mpid
    return before if before not in (committed.after.mpid, *committed.forgotten) else None


def _not_forgotten(error: StorageError) -> str:
    return f"the user could not be forgotten: {error}"


def _start_unsaved(committed: Committed | StorageError) -> Outcome | None:
    if isinstance(committed, StorageBusyError):
        return failed(None, str(committed))
    if isinstance(committed, StorageError):
        raise committed
    return None
