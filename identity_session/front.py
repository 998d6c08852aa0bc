"""What both fronts share: construction, everything that is read rather than done, and the making of results."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args
from uuid import uuid4

from . import clock
from .aliasing import AliasRequest, alias_window
from .archive import Archive
from .config import DEFAULT_BASE_URL, Environment, Platform, Settings, settings
from .conversation import Outcome
from .core import Core
from .errors import StorageError
from .identities import RequestLike
from .listeners import Listeners, Message, check_callable
from .retry import RetryPolicy
from .signing import Scheme
from .store import JsonStorage, Storage
from .threads import after_fork
from .users import User
from .views import IdentityResult, UserView

logger = logging.getLogger("identity_session")

View = TypeVar("View")
Offline = Literal["keep", "forget"]


class Front(ABC, Generic[View]):
    """The state of a session and how it is read. `IdentitySession` and `AsyncIdentitySession` add the calls."""

    _closed = False

    def __init__(
        self,
        api_key: str | None,
        api_secret: str | None = None,
        *,
        auth: Scheme | None = None,
        base_url: str = DEFAULT_BASE_URL,
        alias_url: str | None = None,
        domain: str | None = None,
        direct_url_routing: bool = False,
        environment: Environment = "production",
        identify_request: RequestLike = None,
        identity_callback: Callable[[IdentityResult[View]], object] | None = None,
        storage: Storage | str | PathLike[str] | None = None,
        strict_storage: bool = True,
        workspace_token: str | None = None,
        device_id: str | None = None,
        platform: Platform = "other",
        session_timeout: timedelta = timedelta(minutes=30),
        alias_max_window: timedelta = timedelta(days=90),
        timeout: float = 10.0,
        retry: RetryPolicy | None = RetryPolicy(),  # noqa: B008 - immutable
        keep_ephemeral_users: bool = True,
        max_users: int | None = None,
        cache_identity: bool = False,
        transport: Any = None,
        now_ms: Callable[[], int] = clock.now_ms,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        """Read the stored state; nothing is sent before `start()`, and nothing written but damage set aside.

        Args:
            api_key: the platform API key. Empty or None: identity calls are answered with -6.
            api_secret: given, requests are signed with HMAC; None sends the key alone.
            auth: "hmac", "basic" or "key", to choose the scheme; None chooses by `api_secret`.
            base_url: the Identity API; https, or http on a loopback host.
            alias_url: where alias requests go, by default the vendor's, or below another `base_url`.
            domain: your own domain (CNAME) in front of the service; replaces both URLs.
            direct_url_routing: put the data centre that the API key begins with into the vendor's host names.
            environment: "production" or "development".
            identify_request: who the user is as far as the program knows, for the identify made on start.
            identity_callback: called with the result of that identify, or with -3, -4, -6 when none was made.
            storage: a `Storage`, or a path for `JsonStorage`; None is a folder below the user's data folder.
            strict_storage: False goes on in memory, with one warning in the log, when the state cannot be read or its
                first change cannot be saved. What could be read is there; what changes lasts as long as this object.
            workspace_token: sessions with the same token share one state; by default derived from the API key.
            device_id: replaces the stored device application stamp.
            platform: what `client_sdk.platform` says.
            session_timeout: inactivity that ends a session; 0 never does.
            alias_max_window: how far back an alias request may reach.
            timeout: seconds for one call in all, retries included.
            retry: when a call is made again; None makes exactly one attempt.
            keep_ephemeral_users: False forgets a user the service called ephemeral once another becomes current.
            max_users: how many users to remember, the current one included; None is no limit. Once there are as many,
                each change of user reads all of them.
            cache_identity: answer an identify or login that was answered before for the same user from what is stored,
                for as long as the service allows.
            transport: an httpx transport of this front's kind, or a `Sender`; not closed by the session. A transport is
                held to the time left; a `Sender` is told it, and has to keep to it by itself.
            now_ms: the wall clock, in Unix milliseconds.
            new_id: makes a version 4 UUID for devices, sessions and requests.

        Raises:
            TypeError, ValueError: an argument is wrong; the message says which and what to pass.
            StorageError: with `strict_storage`, when the state cannot be read, a newer version of this package wrote
                it, or there is no home folder and no `storage`.
        """
        check_callable("identity_callback", identity_callback)
        self._check_transport(transport)
        self._settings: Settings = settings(
            api_key,
            api_secret,
            auth=auth,
            base_url=base_url,
            alias_url=alias_url,
            domain=domain,
            direct_url_routing=direct_url_routing,
            environment=environment,
            platform=platform,
            workspace_token=workspace_token,
            identify_request=identify_request,
            device_id=device_id,
            session_timeout=session_timeout,
            alias_max_window=alias_max_window,
            timeout=timeout,
            retry=retry,
            keep_ephemeral_users=keep_ephemeral_users,
            max_users=max_users,
            cache_identity=cache_identity,
            now_ms=now_ms,
            new_id=new_id,
        )
        self._identity_callback = identity_callback
        self._transport = transport
        self._storage = _storage(storage, self._settings.workspace, strict=strict_storage)
        self._archive = Archive(self._storage, max_users=max_users)
        self._core = Core(self._settings, clock.monotonic, _chance)
        self._listeners = Listeners()
        self._sender_lock = threading.Lock()
        after_fork(self, Front._in_forked_child)
        self._archive.open()

    @property
    def current_user(self) -> View | None:
        """The user all activity belongs to now, or None. Another process may change it at any time."""
        mpid = self.mpid
        return None if mpid is None else self._view(mpid)

    @property
    def mpid(self) -> str | None:
        """The current user's MPID, or None."""
        return self._archive.seen().mpid

    @property
    def context(self) -> str | None:
        """The opaque text that the service returned last and gets back with the next call, or None."""
        return self._archive.seen().context

    @property
    def device_id(self) -> str | None:
        """The device application stamp, sent with every identity call; None until the first start has made one."""
        return self._settings.device_id or self._archive.seen().device_application_stamp

    @property
    def session_id(self) -> str | None:
        """The id of the live session, a UUID in upper case; None between sessions."""
        session = self._core.live_session(self._archive.seen(), self._settings.now_ms())
        return session.id if session else None

    @property
    def opted_out(self) -> bool:
        """Whether the user opted out, which stops every call and every attribute change."""
        return self._archive.seen().opted_out

    @property
    def storage(self) -> Storage:
        """Where this session's workspace is kept."""
        return self._storage

    @property
    def recovered_from(self) -> Path | None:
        """Where a damaged state file was set aside by this session, or None."""
        return self._storage.recovered_from

    def on_user_identified(self, listener: Callable[[View, View | None], object]) -> Callable[[], None]:
        """Call `listener(user, previous_user)` after every call that was answered with 200, once the state is on disk
        and before the call's own callback. `previous_user` is that of the result: None unless the user changed.

        Returns a function that removes the listener. Raises TypeError for what cannot be called.
        """
        return self._listeners.add(listener)

    @abstractmethod
    def _check_transport(self, transport: object) -> None:
        """Raise TypeError unless this front can send through it."""

    @abstractmethod
    def _view(self, mpid: str) -> View:
        """A user as this front's callers hold it."""

    def _in_forked_child(self) -> None:
        self._sender_lock = threading.Lock()
        self._core.in_forked_child()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this session was closed; make another one")

    def _known_view(self, mpid: object) -> View | None:
        return self._view(mpid) if isinstance(mpid, str) and self._archive.user(mpid) else None

    def _all_views(self) -> list[View]:
        return [self._view(user.mpid) for user in self._archive.users()]

    def _result(self, outcome: Outcome) -> IdentityResult[View]:
        user = self._view(outcome.mpid) if outcome.mpid else None
        previous = self._view(outcome.previous_mpid) if outcome.previous_mpid else None
        return IdentityResult(int(outcome.http_code), outcome.body, user, previous)

    def _messages(
        self, outcome: Outcome, result: IdentityResult[View], callback: Callable[[Any], object] | None
    ) -> list[Message]:
        """Who is told of a result, in this order: the alias hook, the listeners, the callback."""
        user, previous = result.get_user(), result.get_previous_user()
        messages: list[Message] = []
        if outcome.http_code == 200 and user is not None:
            if outcome.on_user_alias:
                messages.append((outcome.on_user_alias, (previous, user)))
            messages += [(listener, (user, previous)) for listener in self._listeners]
        if callback is not None:
            messages.append((callback, (result,)))
        return messages

    def _alias_request(self, source_user: Any, destination_user: Any, scope: str, now_ms: int) -> AliasRequest | None:
        if source_user is None or destination_user is None:
            logger.warning("no alias request was made: the source or the destination user is missing")
            return None
        if not isinstance(source_user, UserView) or not isinstance(destination_user, UserView):
            raise TypeError("an alias request is made from two users; get_user(mpid) gives the user of an MPID")
        source_mpid = source_user.mpid
        start, end = alias_window(
            self._archive.user(source_mpid) or User(source_mpid),
            source_is_current=source_mpid == self.mpid,
            users=self._archive.users,
            now_ms=now_ms,
            max_window=self._settings.alias_max_window,
        )
        return AliasRequest(
            source_mpid=source_mpid,
            destination_mpid=destination_user.mpid,
            start_time=start,
            end_time=end,
            scope=scope,
        )


def is_carrier(transport: object, sender: type, httpx_method: str) -> bool:
    """Whether requests can be sent through this: an object of the kind, and not a class or a client by mistake."""
    if isinstance(transport, type) or hasattr(transport, "build_request"):
        return False
    return isinstance(transport, sender) or hasattr(transport, httpx_method)


def forgets(offline: object, keep_user: object) -> bool:
    """Whether a logout forgets the user. Raises TypeError and ValueError for arguments that make no sense."""
    if not isinstance(keep_user, bool):
        raise TypeError(f"keep_user must be a bool, not {type(keep_user).__name__}")
    if offline not in get_args(Offline):
        raise ValueError("offline must be 'keep' or 'forget'")
    if offline == "keep" and not keep_user:
        raise ValueError("keep_user=False needs offline='forget': 'keep' remembers the user, as the Web SDK does")
    return offline == "forget"


def _storage(given: Storage | str | PathLike[str] | None, workspace: str, *, strict: bool) -> Storage:
    if not isinstance(strict, bool):
        raise TypeError(f"strict_storage must be a bool, not {type(strict).__name__}")

    def opened() -> Storage:
        return _named_storage(given).in_workspace(workspace)

    if strict:
        return opened()
    from .fallback import FallbackStorage  # opt-in

    return FallbackStorage(opened)


def _named_storage(given: Storage | str | PathLike[str] | None) -> Storage:
    if given is None:
        return JsonStorage(data_folder())
    if isinstance(given, Storage):
        return given
    try:
        path = fspath(given)
    except TypeError:
        raise TypeError(f"storage must be a Storage or a path, not {type(given).__name__}") from None
    if not isinstance(path, str):
        raise TypeError("storage must be a path of text, not of bytes; see os.fsdecode")
    if not path or "\0" in path:
        raise ValueError("storage must be the path of a folder, such as 'state'; it is empty or holds a NUL")
    return JsonStorage(path)


def data_folder() -> Path:
    """Where state is kept unless said otherwise. Raises StorageError where there is no home folder."""
    import platformdirs  # only this default needs it

    try:
        folder = platformdirs.user_data_path("identity_session", appauthor=False)
        if folder.parts[0] != "~":  # as older versions of platformdirs leave it
            return folder
    except RuntimeError:
        pass
    raise StorageError("there is no home folder to keep the state in; pass a path as storage, or set HOME")


def _chance() -> float:
    import random  # only a retry needs it

    return random.random()  # noqa: S311 - jitter, not a secret
