"""`IdentitySession`, the synchronous front: drives the core's conversations in the calling thread.

Safe to use from several threads. No lock is held while a request is under way or a callback runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar, assert_never

from .aliasing import AliasRequest
from .attributes import Edit
from .clock import monotonic, pause
from .conversation import Apply, Ask, Conversation, Effect, Outcome, Pause, Read
from .errors import StorageError
from .exchange import Call, Sender
from .front import Front, Offline, forgets, is_carrier
from .identities import RequestLike
from .listeners import check_callable, tell
from .views import AliasResult, IdentityResult, IdentityUser, SearchResult

T = TypeVar("T")
Callback = Callable[[IdentityResult], object] | None


class IdentitySession(Front[IdentityUser]):
    """Who is the current user, kept straight for one program or device.

    An identity call returns its result, and hands the same result to the callback, if there is one. It never raises
    because of what the network or the service did: the result's code tells. As a context manager it calls `start()` on
    entry and `close()` on exit; only to look at who is current, neither is needed.
    """

    _sender: Sender | None = None

    def start(self) -> IdentityResult:
        """Resume the stored session or begin one, and identify the user if that is due.

        Returns what came of the identify, or -3 when a live session was resumed and nothing had to be sent, -4 when
        `identify_request` is not valid, -6 when something would have to be sent and must not. The configured
        `identity_callback` gets the same. -1 as well when another process holds the state until the deadline. Raises
        StorageError when the state cannot be written, or is newer. This and every other call raise RuntimeError once
        the session is closed.
        """
        outcome = self._run(self._core.start())
        return self._told(outcome, self._identity_callback)

    def close(self) -> None:
        """Let go of connections. A live session goes on in storage; this object is of no more use for calls.

        A call that another thread has in flight goes on to its end."""
        if self._closed:
            return
        self._run(self._core.close())
        self._closed = True
        if self._sender is not None and self._sender is not self._transport:
            self._sender.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def identify(self, request: RequestLike = None, callback: Callback = None) -> IdentityResult:
        """Say who the user is, as far as is known. See `login` for arguments and result."""
        return self._identity_call(Call.IDENTIFY, request, callback)

    def login(self, request: RequestLike = None, callback: Callback = None) -> IdentityResult:
        """The user signed in.

        `request` is an IdentityRequest, the SDK's mapping `{"userIdentities": {...}}`, or None for no identities;
        `callback` gets the result before this returns. The result's code is the HTTP status, or one of `HTTPCodes`.
        Raises TypeError for a callback that cannot be called.
        """
        return self._identity_call(Call.LOGIN, request, callback)

    def logout(
        self,
        request: RequestLike = None,
        callback: Callback = None,
        *,
        offline: Offline = "keep",
        keep_user: bool = True,
    ) -> IdentityResult:
        """The user signed out; `request` says who the user is then, if anything is known.

        `offline` says what becomes of the user when the service does not confirm it. "keep", as in the Web SDK: the
        user stays current. "forget", where the next person must not be taken for this one: nobody is current as soon as
        the call begins, and if it does not end with 200, that stays so and a new session begins. The result keeps its
        code then, `get_user()` is None, `get_previous_user()` the one who left, if remembered. -6 forgets as well, and
        ends the session. -2, -4, and a -1 whose body says that the user could not be forgotten, sent and changed
        nothing: call again. `keep_user=False` keeps no record of the user here either, whatever the service says.

        Raises TypeError and ValueError for arguments that make no sense.
        """
        return self._identity_call(
            Call.LOGOUT, request, callback, forget=forgets(offline, keep_user), keep_user=keep_user
        )

    def modify(self, request: RequestLike = None, callback: Callback = None) -> IdentityResult:
        """Change identities of the current user, who stays current: a value adds or replaces, None removes."""
        return self._identity_call(Call.MODIFY, request, callback)

    def search(
        self,
        known_identities: RequestLike,
        callback: Callable[[SearchResult], object] | None = None,
    ) -> SearchResult:
        """Ask whether a user with these identities (type to value) exists; changes nothing, and may run beside an
        identity call. 200 found, 404 not found, or one of `HTTPCodes`."""
        check_callable("callback", callback)
        outcome = self._run(self._core.search(known_identities))
        result = SearchResult(int(outcome.http_code), outcome.body)
        tell([(callback, (result,))] if callback else [])
        return result

    def create_alias_request(
        self, source_user: IdentityUser | None, destination_user: IdentityUser | None, scope: str = "device"
    ) -> AliasRequest | None:
        """A request to copy the source's history, from when it was first seen to when it was last seen, to the
        destination; None if a user is missing. Send it with `alias_users`. Raises TypeError for what is no user."""
        return self._alias_request(source_user, destination_user, scope, self._settings.now_ms())

    def alias_users(
        self,
        alias_request: AliasRequest | Mapping[str, object] | None,
        callback: Callable[[AliasResult], object] | None = None,
    ) -> AliasResult:
        """Send an AliasRequest, or a mapping in the SDK's form. 202 accepted, -4 with a message when it contradicts
        itself, another status, or one of `HTTPCodes`. Nothing changes locally."""
        check_callable("callback", callback)
        outcome = self._run(self._core.alias(alias_request))
        result = AliasResult(int(outcome.http_code), outcome.body)
        tell([(callback, (result,))] if callback else [])
        return result

    def get_user(self, mpid: str) -> IdentityUser | None:
        """The remembered user of this MPID, or None."""
        return self._known_view(mpid)

    def get_users(self) -> list[IdentityUser]:
        """Every remembered user: the current one first, then by when they were last seen, latest first."""
        return self._all_views()

    def touch(self) -> None:
        """The app's own activity: the session lasts longer, or, if it has ended and calls may be sent, another begins.

        Like every change that is no identity call, raises StorageError when it could not be saved.
        """
        self._run(self._core.touch())

    def set_opt_out(self, opted_out: bool) -> None:
        """Stop every call and attribute change (True), or resume (False). Takes effect at once, and lasts; a call that
        is on its way still brings its answer. Raises TypeError, StorageError."""
        if not isinstance(opted_out, bool):
            raise TypeError(f"opted_out must be a bool, not {type(opted_out).__name__}")
        self._run(self._core.set_opt_out(opted_out))

    def end_session(self) -> None:
        """End the session. The user stays current; identity calls do not begin another one. Raises StorageError."""
        self._run(self._core.end_session())

    def start_new_session(self) -> IdentityResult | None:
        """Begin another session. If no start of this object has identified yet, that happens now, and its result is
        returned and handed to `identity_callback`; otherwise None. -1, handed over likewise, if that could not be saved
        or had no answer. Does nothing while opted out."""
        outcome = self._run(self._core.start_new_session())
        return self._told(outcome, self._identity_callback) if outcome else None

    def reset(self) -> None:
        """Forget everything stored for this workspace, the device application stamp included. Other files stay; this
        session is as newly made. Raises StorageError for what could not be removed."""
        self._check_open()
        self._archive.clear(self._settings.timeout_seconds)
        self._core.was_reset()

    def _identity_call(self, call: Call, request: RequestLike, callback: Callback, **leaving: bool) -> IdentityResult:
        check_callable("callback", callback)
        return self._told(self._run(self._core.identity_call(call, request, **leaving)), callback)

    def _told(self, outcome: Outcome, callback: Callback) -> IdentityResult:
        result = self._result(outcome)
        tell(self._messages(outcome, result, callback))
        return result

    def _run(self, conversation: Conversation[T]) -> T:
        self._check_open()
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(self._perform(effect))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            conversation.close()

    def _perform(self, effect: Effect) -> object:
        if isinstance(effect, Ask):
            from . import endpoint  # pydantic, which reading who the user is must not cost

            sender = self._connected()  # imports httpx once, which takes its part of the time
            return endpoint.ask(self._settings, sender, effect.question, effect.deadline - monotonic())
        if isinstance(effect, Pause):
            pause(effect.seconds)
            return None
        try:
            if isinstance(effect, Read):
                return self._archive.snapshot()
            if isinstance(effect, Apply):
                return self._archive.update(effect.rule, max(effect.deadline - monotonic(), 0))
        except StorageError as error:
            return error
        assert_never(effect)

    def _connected(self) -> Sender:
        with self._sender_lock:
            if self._sender is None:
                if isinstance(self._transport, Sender):
                    self._sender = self._transport
                else:
                    from .transport import HttpxSender, Network  # httpx, likewise

                    self._sender = HttpxSender(
                        Network() if self._transport is None else self._transport, owned=self._transport is None
                    )
            return self._sender

    def _check_transport(self, transport: object) -> None:
        if transport is not None and not is_carrier(transport, Sender, "handle_request"):
            raise TypeError(f"transport must be an httpx.BaseTransport or a Sender, not {type(transport).__name__}")

    def _view(self, mpid: str) -> IdentityUser:
        return IdentityUser(mpid, self._archive, self._settings.now_ms, self._edit)

    def _edit(self, mpid: str, edit: Edit, is_attribute: bool) -> None:
        self._run(self._core.edit_attributes(mpid, edit) if is_attribute else self._core.edit_consent(mpid, edit))
