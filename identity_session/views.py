"""What a caller holds: users as live views, and results.

Sources: Web SDK src/identity.js (mParticleUser), src/identity-user-interfaces.ts. Members with the SDK's own
spelling do the same as those in Python's, so that code carried over from JavaScript reads the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import attributes as edits
from .archive import Archive
from .clock import from_ms, to_ms
from .consent import ConsentState
from .errors import HTTPCodes, IdentityCallError
from .users import Scalar, User

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultingTypeVar

    UserT = DefaultingTypeVar("UserT", default="IdentityUser")
else:
    UserT = TypeVar("UserT")

Done = TypeVar("Done")


class UserView(Generic[Done]):
    """A live view of one user: it stays bound to its MPID, and every read shows what is remembered now.

    Setters check their arguments first: a wrong key or value raises TypeError or ValueError and changes nothing.
    They return after the change is on disk, and raise StorageError if it could not be put there. For a user who is not
    remembered any more they change nothing; nor, but for the consent state, while the user is opted out or the session
    has no API key.
    """

    def __init__(
        self, mpid: str, archive: Archive, now_ms: Callable[[], int], apply: Callable[[str, edits.Edit, bool], Done]
    ) -> None:
        self._mpid = mpid
        self._archive = archive
        self._now_ms = now_ms
        self._apply = apply

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._mpid}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UserView) and other._mpid == self._mpid

    def __hash__(self) -> int:
        return hash(self._mpid)

    @property
    def mpid(self) -> str:
        """The MPID, always text."""
        return self._mpid

    @property
    def identities(self) -> dict[str, str]:
        """Identity type name to value, as last sent for this user."""
        return dict(self._remembered().identities)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute key to value; a list is a copy, a tag's value is None."""
        return edits.copied(self._remembered().attributes)

    @property
    def is_logged_in(self) -> bool:
        """The flag of the last answer that made or kept this user current."""
        return self._remembered().is_logged_in

    @property
    def first_seen(self) -> datetime | None:
        """When the user was first current here, as an aware UTC datetime; None if that is not known."""
        first_seen_ms = self._remembered().first_seen_ms
        return None if first_seen_ms is None else from_ms(first_seen_ms)

    @property
    def last_seen(self) -> datetime | None:
        """When the user was last current, as an aware UTC datetime: now for the current user, None if never."""
        is_current = self._archive.seen().mpid == self._mpid
        last_seen_ms = self._now_ms() if is_current else self._remembered().last_seen_ms
        return None if last_seen_ms is None else from_ms(last_seen_ms)

    @property
    def consent_state(self) -> ConsentState | None:
        """A copy of the consent state, or None when there is none."""
        state = self._remembered().consent_state
        return None if state is None else ConsentState(state)

    def set_attribute(self, key: str, value: Scalar) -> Done:
        """Set one attribute: a str, int, float, bool or None. A key that differs only in case is replaced."""
        return self._apply(self._mpid, edits.set_attribute(key, value), True)

    def set_attributes(self, attributes: Mapping[str, Scalar]) -> Done:
        """Set several attributes, all of them or, when one is wrong, none."""
        return self._apply(self._mpid, edits.set_attributes(attributes), True)

    def set_attribute_list(self, key: str, values: Sequence[Scalar]) -> Done:
        """Set an attribute to a list of scalars; it may be empty."""
        return self._apply(self._mpid, edits.set_attribute_list(key, values), True)

    def remove_attribute(self, key: str) -> Done:
        """Remove an attribute, whatever the case of its key."""
        return self._apply(self._mpid, edits.remove_attribute(key), True)

    def remove_all_attributes(self) -> Done:
        """Remove every attribute, tags included."""
        return self._apply(self._mpid, edits.remove_all_attributes(), True)

    def set_tag(self, name: str) -> Done:
        """Set a tag: an attribute whose value is None."""
        return self.set_attribute(name, None)

    def remove_tag(self, name: str) -> Done:
        """Remove a tag."""
        return self.remove_attribute(name)

    def set_consent_state(self, state: Mapping[str, Any] | None) -> Done:
        """Replace the consent state, by a `ConsentState` or a JSON-like mapping; None erases it. Works while opted
        out, and is no activity of the session."""
        return self._apply(self._mpid, edits.set_consent_state(state), False)

    def getMPID(self) -> str:
        """`mpid`."""
        return self.mpid

    def getUserIdentities(self) -> dict[str, dict[str, str]]:
        """`identities`, under the member `userIdentities`."""
        return {"userIdentities": self.identities}

    def isLoggedIn(self) -> bool:
        """`is_logged_in`."""
        return self.is_logged_in

    def getFirstSeenTime(self) -> int | None:
        """`first_seen` in Unix milliseconds."""
        first_seen = self.first_seen
        return None if first_seen is None else to_ms(first_seen)

    def getLastSeenTime(self) -> int | None:
        """`last_seen` in Unix milliseconds."""
        last_seen = self.last_seen
        return None if last_seen is None else to_ms(last_seen)

    def getAllUserAttributes(self) -> dict[str, Any]:
        """`attributes`."""
        return self.attributes

    def getUserAttributesLists(self) -> dict[str, list[Any]]:
        """Those attributes that hold a list."""
        return {key: value for key, value in self.attributes.items() if isinstance(value, list)}

    def getConsentState(self) -> ConsentState | None:
        """`consent_state`."""
        return self.consent_state

    setUserAttribute = set_attribute
    setUserAttributes = set_attributes
    setUserAttributeList = set_attribute_list
    removeUserAttribute = remove_attribute
    removeAllUserAttributes = remove_all_attributes
    setUserTag = set_tag
    removeUserTag = remove_tag
    setConsentState = set_consent_state

    def _remembered(self) -> User:
        return self._archive.user(self._mpid) or User(self._mpid)


class IdentityUser(UserView[None]):
    """A live view of one user, from `IdentitySession`."""


class AsyncIdentityUser(UserView[Awaitable[None]]):
    """A live view of one user, from `AsyncIdentitySession`: setters are awaited, everything else reads the same."""


class _Result:
    """What came of a call. `http_code` is an HTTP status or one of `HTTPCodes`."""

    def __init__(self, http_code: int) -> None:
        self.http_code = http_code

    @property
    def httpCode(self) -> int:
        """`http_code`."""
        return self.http_code

    @property
    def ok(self) -> bool:
        """Whether the call did what it was for."""
        return self.http_code == 200

    def raise_for_error(self) -> None:
        """Raise IdentityCallError unless `ok`."""
        if not self.ok:
            raise IdentityCallError(self.http_code)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.http_code}>"


class IdentityResult(_Result, Generic[UserT]):
    """What came of identify, login, logout, modify or start.

    `body` is the answer's JSON object; for a code below zero a text that says why, except with -3, where it describes
    the resumed user; None for an error without a readable body.
    """

    def __init__(self, http_code: int, body: Any, user: UserT | None, previous_user: UserT | None) -> None:
        super().__init__(http_code)
        self.body = body
        self._user = user
        self._previous_user = previous_user

    @property
    def ok(self) -> bool:
        """Whether there is a user now whom the service named: 200, or -3 for a resumed session."""
        return self.http_code in (200, HTTPCodes.ACTIVE_SESSION)

    def get_user(self) -> UserT | None:
        """The current user when the call ended, or None."""
        return self._user

    def get_previous_user(self) -> UserT | None:
        """The user who was current before this call, if it changed the user and did not forget them; otherwise None.

        Forgotten are ephemeral users and those beyond `max_users`, as configured, and by `keep_user=False`.
        """
        return self._previous_user

    getUser = get_user
    getPreviousUser = get_previous_user


class SearchResult(_Result):
    """What came of a search: 200 found, 404 not found. `body` is the answer's JSON object, a text for a code below
    zero, or None."""

    def __init__(self, http_code: int, body: Any) -> None:
        super().__init__(http_code)
        self.body = body


class AliasResult(_Result):
    """What came of an alias request: 202 (or 200) accepted. `message` says why not; None where nothing was said."""

    def __init__(self, http_code: int, message: str | None) -> None:
        super().__init__(http_code)
        self.message = message

    @property
    def ok(self) -> bool:
        """Whether the request was accepted."""
        return self.http_code in (200, 202)
