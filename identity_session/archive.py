"""The snapshot and the users in a storage: what is written where, and in which order.

    state        the snapshot, with the current user whole: the one object that decides who is current
    device       the device application stamp once more, so that damage to either file does not lose it
    users/<id>   one object for each user who is not current; <id> is a hash of the MPID, which the service chose

A change writes users first and the state last. Cut short before that, the user files are ahead of a state that
still holds its own copy of the current user, and nothing is lost; the state alone makes the change true. Where the
current user stays, a change to another one is made true by that user alone, who therefore comes last.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, ParamSpec, TypeVar

from .errors import StorageError
from .identities import is_text
from .store import Storage
from .users import Answer, Change, Committed, Rule, Session, Snapshot, User

logger = logging.getLogger("identity_session")

_LATEST_MS = 62_135_596_800_000
"""As far as a datetime reaches back from 1970; a time further off, either way, was not written by a clock."""


P = ParamSpec("P")
T = TypeVar("T")


def _discreet(method: Callable[P, T]) -> Callable[P, T]:
    """A StorageError leaves without the frames that it came through: their variables hold stored state, and error
    reporters record them."""

    @functools.wraps(method)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except StorageError as error:
            failure = error
        each: BaseException | None = failure
        while each is not None:
            each = each.with_traceback(None).__cause__ or each.__context__
        raise failure

    return called


class Archive:
    """Reads and changes what a storage holds. What changes something may raise StorageError; looking does not."""

    def __init__(self, storage: Storage, *, max_users: int | None = None) -> None:
        """`max_users` bounds the users kept, the current one included; None keeps all."""
        self._storage = storage
        self._max_users = max_users
        self._last = Snapshot()

    @_discreet
    def open(self) -> Snapshot:
        """Read the snapshot, and the second copy of the device application stamp, so that damage to it is noticed."""
        self._second_device_stamp()
        return self.snapshot()

    def seen(self) -> Snapshot:
        """The snapshot for those who only look: as it is stored now, or, when it cannot be read, as it last was."""
        with contextlib.suppress(StorageError):
            return self.snapshot()
        return self._last

    @_discreet
    def snapshot(self) -> Snapshot:
        """The snapshot as it is stored now, whichever process wrote it. Raises StorageError."""
        state = self._storage.read("state") or {}
        stamp = device_stamp_in(state) or self._second_device_stamp()
        self._last = Snapshot(
            device_application_stamp=stamp,
            context=_text(state.get("context")),
            opted_out=state.get("opted_out") is True,
            session=_session(state.get("session")),
            user=_user(_object(state.get("user"))),
            answers={key: a for key, a in ((k, _answer(v)) for k, v in _object(state.get("answers")).items()) if a},
        )
        return self._last

    def user(self, mpid: str) -> User | None:
        """The user of this MPID, current or not; None for one who is not remembered, or cannot be read."""
        current = self.seen().user
        if current and current.mpid == mpid:
            return current
        return self._look(_name(mpid)) if is_text(mpid) else None

    def users(self) -> list[User]:
        """Every user remembered: the current one, then the others by when they were last seen, latest first."""
        current = self.seen().user
        others = [u for u in self._others() if not current or u.mpid != current.mpid]
        others.sort(key=_order)
        return [current, *others] if current else others

    @_discreet
    def update(self, rule: Rule, seconds: float) -> Committed:
        """Apply a rule to what is stored, under the lock, waiting for it at most this long. On return the outcome is
        durable; when a StorageError is raised, the storage decides as before."""
        with self._storage.lock(seconds):
            before = self.snapshot()
            change = rule(before, self._find)
            after = change.snapshot
            stays = after.mpid == before.mpid
            if not stays:
                self._write_users(change)
            if after.device_application_stamp != self._second_device_stamp():
                self._storage.write("device", _device_object(after))
            state = _state_object(after)
            if not _same(state, _state_object(before)):
                self._storage.write("state", state)
                if before.user and not after.user:
                    # Twice, so that no generation before brings back who left; the first one has made the change.
                    with contextlib.suppress(StorageError):
                        self._storage.write("state", state)
            if stays:
                self._write_users(change)
            self._last = after
            forgotten = change.forget
            if change.users and self._max_users:
                with contextlib.suppress(StorageError):  # the change is made; the next one tries again
                    forgotten += self._forget_oldest(after, self._max_users, left=None if stays else before.mpid)
            return Committed(before, after, forgotten)

    @_discreet
    def mend_device_stamp(self, seconds: float) -> None:
        """Make both copies of the device application stamp the one in force."""
        with self._storage.lock(seconds):
            snapshot = self.snapshot()
            state, device = _state_object(snapshot), _device_object(snapshot)
            for name, content in (("state", state), ("device", device)):
                if device_stamp_in(self._storage.read(name)) != snapshot.device_application_stamp:
                    self._storage.write(name, content)

    @_discreet
    def clear(self, seconds: float) -> None:
        """Forget everything, the device application stamp included."""
        with self._storage.lock(seconds):
            for name in ("state", "device", *self._storage.names("users")):
                self._storage.read(name)  # raises for what a newer version wrote, which is not ours to remove
            self._storage.clear()

    def _write_users(self, change: Change) -> None:
        for user in change.users:
            self._storage.write(_name(user.mpid), _user_object(user))
        for mpid in change.forget:
            self._storage.delete(_name(mpid))

    def _second_device_stamp(self) -> str | None:
        return device_stamp_in(self._storage.read("device"))

    def _find(self, mpid: str) -> User | None:
        return self._read(_name(mpid))

    def _others(self) -> list[User]:
        try:
            names = self._storage.names("users")
        except StorageError as error:
            logger.warning("the users who are not current are left out: %s", error)
            return []
        return [user for user in map(self._look, names) if user]

    def _look(self, name: str) -> User | None:
        try:
            return self._read(name)
        except StorageError as error:
            logger.warning("a user is left out: %s", error)
            return None

    def _read(self, name: str) -> User | None:
        stored = self._storage.read(name)
        user = _user(stored) if stored else None
        return user if user and _name(user.mpid) == name else None  # a copy under another name is nobody

    def _forget_oldest(self, after: Snapshot, max_users: int, left: str | None) -> tuple[str, ...]:
        if len(self._storage.names("users")) < max_users:
            return ()
        others = [user for user in self._others() if user.mpid != after.mpid]
        # Who has just left is known to be the newest, whatever the clock says.
        others.sort(key=lambda user: (user.mpid != left, _order(user)))
        for user in others[max_users - 1 :]:
            self._storage.delete(_name(user.mpid))
        return tuple(user.mpid for user in others[max_users - 1 :])


def device_stamp_in(stored: Mapping[str, Any] | None) -> str | None:
    """The device application stamp in a stored object, the state or the second copy; None where there is none."""
    return _text((stored or {}).get("device_application_stamp"))


def name_of_user_in(stored: Mapping[str, Any]) -> str | None:
    """The name under which the user in a stored object belongs; None if there is no user in it."""
    user = _user(stored)
    return _name(user.mpid) if user else None


def _name(mpid: str) -> str:
    return "users/" + hashlib.sha256(mpid.encode()).hexdigest()[:40]


def _order(user: User) -> tuple[int, int, str]:
    return -(user.last_seen_ms or 0), user.first_seen_ms or 0, user.mpid


def _state_object(snapshot: Snapshot) -> dict[str, Any]:
    session = snapshot.session
    return {
        "device_application_stamp": snapshot.device_application_stamp,
        "context": snapshot.context,
        "opted_out": snapshot.opted_out,
        "session": session
        and {"id": session.id, "started_ms": session.started_ms, "last_activity_ms": session.last_activity_ms},
        "user": snapshot.user and _user_object(snapshot.user),
        "answers": {key: asdict(answer) for key, answer in snapshot.answers.items()},
    }


def _device_object(snapshot: Snapshot) -> dict[str, Any]:
    return {"device_application_stamp": snapshot.device_application_stamp}


def _user_object(user: User) -> dict[str, Any]:
    return {
        "mpid": user.mpid,
        "identities": dict(user.identities),
        "attributes": dict(user.attributes),
        "consent_state": user.consent_state,
        "first_seen_ms": user.first_seen_ms,
        "last_seen_ms": user.last_seen_ms,
        "is_logged_in": user.is_logged_in,
        "is_ephemeral": user.is_ephemeral,
    }


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two objects are spelled alike; == takes 1 for True and for 1.0."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time_ms(value: object) -> int | None:
    ms = _whole(value)
    return ms if ms is not None and abs(ms) <= _LATEST_MS else None


def _is_attribute_value(value: object) -> bool:
    if isinstance(value, list):
        return not any(isinstance(item, list | dict) for item in value)
    return not isinstance(value, dict)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _session(stored: object) -> Session | None:
    session = _object(stored)
    session_id, last_ms = _text(session.get("id")), _time_ms(session.get("last_activity_ms"))
    if session_id is None or last_ms is None:
        return None
    started_ms = _time_ms(session.get("started_ms"))
    return Session(session_id, last_ms if started_ms is None else started_ms, last_ms)


def _answer(stored: object) -> Answer | None:
    answer = _object(stored)
    expires_ms, max_age_ms = _whole(answer.get("expires_ms")), _whole(answer.get("max_age_ms"))
    if expires_ms is None or max_age_ms is None:
        return None
    return Answer(expires_ms, max_age_ms, answer.get("is_logged_in") is True, answer.get("is_ephemeral") is True)


def _user(stored: Mapping[str, Any]) -> User | None:
    mpid = _text(stored.get("mpid"))
    if mpid is None:
        return None
    identities = _object(stored.get("identities"))
    return User(
        mpid=mpid,
        identities={name: value for name, value in identities.items() if isinstance(value, str)},
        attributes={k: value for k, value in _object(stored.get("attributes")).items() if _is_attribute_value(value)},
        consent_state=_object(stored.get("consent_state")) or None,
        first_seen_ms=_time_ms(stored.get("first_seen_ms")),
        last_seen_ms=_time_ms(stored.get("last_seen_ms")),
        is_logged_in=stored.get("is_logged_in") is True,
        is_ephemeral=stored.get("is_ephemeral") is True,
    )
