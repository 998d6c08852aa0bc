"""`AsyncIdentitySession`, the asynchronous front: the same calls, awaited, over the same conversations.

Disk work that waits (locks, syncs) is done in a thread. Runs on asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, assert_never

from .aioclock import pause_async, to_its_end
from .aliasing import AliasRequest
from .attributes import Edit
from .clock import monotonic
from .conversation import Apply, Ask, Conversation, Effect, Outcome, Pause, Read
from .errors import StorageBusyError, StorageError
from .exchange import AsyncSender, Call
from .front import Front, Offline, forgets, is_carrier
from .identities import RequestLike
from .listeners import check_callable, tell_async
from .threads import in_daemon_thread
from .views import AliasResult, AsyncIdentityUser, IdentityResult, SearchResult

T = TypeVar("T")
Result = IdentityResult[AsyncIdentityUser]
Callback = Callable[[Result], object] | None

_LOCK_TURN_SECONDS = 0.1


class AsyncIdentitySession(Front[AsyncIdentityUser]):
    """`IdentitySession` for asyncio: the same methods, awaited; the same properties, read as they are.

    Callbacks and listeners may be plain functions or coroutine functions. Setters of users are awaited too. A
    cancelled call leaves the old state or the new one, and the next call may be made at once.
    """

    _sender: AsyncSender | None = None

    async def start(self) -> Result:
        """See `IdentitySession.start`."""
        outcome = await self._run(self._core.start())
        return await self._told(outcome, self._identity_callback)

    async def close(self) -> None:
        """See `IdentitySession.close`."""
        if self._closed:
            return
        await self._run(self._core.close())
        self._closed = True
        if self._sender is not None and self._sender is not self._transport:
            await self._sender.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def identify(self, request: RequestLike = None, callback: Callback = None) -> Result:
        """See `IdentitySession.identify`."""
        return await self._identity_call(Call.IDENTIFY, request, callback)

    async def login(self, request: RequestLike = None, callback: Callback = None) -> Result:
        """See `IdentitySession.login`."""
        return await self._identity_call(Call.LOGIN, request, callback)

    async def logout(
        self,
        request: RequestLike = None,
        callback: Callback = None,
        *,
        offline: Offline = "keep",
        keep_user: bool = True,
    ) -> Result:
        """See `IdentitySession.logout`. One that is cancelled under way has forgotten the user, in the same session."""
        return await self._identity_call(
            Call.LOGOUT, request, callback, forget=forgets(offline, keep_user), keep_user=keep_user
        )

    async def modify(self, request: RequestLike = None, callback: Callback = None) -> Result:
        """See `IdentitySession.modify`."""
        return await self._identity_call(Call.MODIFY, request, callback)

    async def search(
        self,
        known_identities: RequestLike,
        callback: Callable[[SearchResult], object] | None = None,
    ) -> SearchResult:
        """See `IdentitySession.search`."""
        check_callable("callback", callback)
        outcome = await self._run(self._core.search(known_identities))
        result = SearchResult(int(outcome.http_code), outcome.body)
        await tell_async([(callback, (result,))] if callback else [])
        return result

    async def create_alias_request(
        self, source_user: AsyncIdentityUser | None, destination_user: AsyncIdentityUser | None, scope: str = "device"
    ) -> AliasRequest | None:
        """See `IdentitySession.create_alias_request`."""
        now_ms = self._settings.now_ms()
        return await _in_thread(self._alias_request, source_user, destination_user, scope, now_ms)

    async def alias_users(
        self,
        alias_request: AliasRequest | Mapping[str, object] | None,
        callback: Callable[[AliasResult], object] | None = None,
    ) -> AliasResult:
        """See `IdentitySession.alias_users`."""
        check_callable("callback", callback)
        outcome = await self._run(self._core.alias(alias_request))
        result = AliasResult(int(outcome.http_code), outcome.body)
        await tell_async([(callback, (result,))] if callback else [])
        return result

    async def get_user(self, mpid: str) -> AsyncIdentityUser | None:
        """See `IdentitySession.get_user`."""
        return await _in_thread(self._known_view, mpid)

    async def get_users(self) -> list[AsyncIdentityUser]:
        """See `IdentitySession.get_users`."""
        return await _in_thread(self._all_views)

    async def touch(self) -> None:
        """See `IdentitySession.touch`."""
        await self._run(self._core.touch())

    async def set_opt_out(self, opted_out: bool) -> None:
        """See `IdentitySession.set_opt_out`."""
        if not isinstance(opted_out, bool):
            raise TypeError(f"opted_out must be a bool, not {type(opted_out).__name__}")
        await self._run(self._core.set_opt_out(opted_out))

    async def end_session(self) -> None:
        """See `IdentitySession.end_session`."""
        await self._run(self._core.end_session())

    async def start_new_session(self) -> Result | None:
        """See `IdentitySession.start_new_session`."""
        outcome = await self._run(self._core.start_new_session())
        return await self._told(outcome, self._identity_callback) if outcome else None

    async def reset(self) -> None:
        """See `IdentitySession.reset`."""
        self._check_open()
        await _locked(self._archive.clear, monotonic() + self._settings.timeout_seconds)
        self._core.was_reset()

    async def _identity_call(self, call: Call, request: RequestLike, callback: Callback, **leaving: bool) -> Result:
        check_callable("callback", callback)
        return await self._told(await self._run(self._core.identity_call(call, request, **leaving)), callback)

    async def _told(self, outcome: Outcome, callback: Callback) -> Result:
        result = self._result(outcome)
        await tell_async(self._messages(outcome, result, callback))
        return result

    async def _run(self, conversation: Conversation[T]) -> T:
        self._check_open()
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(await self._perform(effect))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            conversation.close()

    async def _perform(self, effect: Effect) -> object:
        if isinstance(effect, Ask):
            from . import endpoint  # pydantic, which reading who the user is must not cost

            sender = self._connected()  # imports httpx once, which takes its part of the time
            return await endpoint.ask_async(self._settings, sender, effect.question, effect.deadline - monotonic())
        if isinstance(effect, Pause):
            await pause_async(effect.seconds)
            return None
        try:
            if isinstance(effect, Read):
                return await _in_thread(self._archive.snapshot)
            if isinstance(effect, Apply):
                return await _locked(partial(self._archive.update, effect.rule), effect.deadline)
        except StorageError as error:
            return error
        assert_never(effect)

    def _connected(self) -> AsyncSender:
        if self._sender is None:
            if isinstance(self._transport, AsyncSender):
                self._sender = self._transport
            else:
                from .transport import AsyncHttpxSender, AsyncNetwork  # httpx, likewise

                self._sender = AsyncHttpxSender(
                    AsyncNetwork() if self._transport is None else self._transport, owned=self._transport is None
                )
        return self._sender

    def _check_transport(self, transport: object) -> None:
        if transport is not None and not is_carrier(transport, AsyncSender, "handle_async_request"):
            raise TypeError(
                f"transport must be an httpx.AsyncBaseTransport or an AsyncSender, not {type(transport).__name__}"
            )

    def _view(self, mpid: str) -> AsyncIdentityUser:
        return AsyncIdentityUser(mpid, self._archive, self._settings.now_ms, self._edit)

    def _edit(self, mpid: str, edit: Edit, is_attribute: bool) -> Awaitable[None]:
        return self._run(
            self._core.edit_attributes(mpid, edit) if is_attribute else self._core.edit_consent(mpid, edit)
        )


async def _locked(function: Callable[[float], T], deadline: float) -> T:
    """Run in a thread what waits for the lock as long as it is told. It is told to in short turns, since a call that is
    cancelled waits for the thread."""
    while True:
        left = deadline - monotonic()
        try:
            return await _in_thread(function, min(max(left, 0), _LOCK_TURN_SECONDS))
        except StorageBusyError:
            if left <= _LOCK_TURN_SECONDS:
                raise


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run in a thread; when cancelled, wait until the thread is done before giving way: a save is not abandoned."""
    return await to_its_end(asyncio.wrap_future(in_daemon_thread(function, *arguments)))
