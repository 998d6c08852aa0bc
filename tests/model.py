"""The rules of a session in small, for tests to compare with: no storage, no network, one step at a time.

Written from the Web SDK's published behaviour and the README's table of departures, not from the code. Each method is
what one event does to what is remembered; whether the event happened (a save may fail) is for the caller to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NO_ANSWER, BUSY, RESUMED, INVALID, SHUT = -1, -2, -3, -4, -6
SLOTS = {"email_sha256": "other", "mobile_sha256": "other2"}
REPEATABLE = {"identify", "login", "modify", "search"}


@dataclass(frozen=True)
class Answer:
    """What the service will say. Without a status there is no answer; `sent` says whether the request may be there."""

    status: int | None = 200
    body: Any = None
    """An object, or text that is none."""
    sent: bool = True

    @property
    def members(self) -> dict[str, Any]:
        return self.body if isinstance(self.body, dict) else {}

    @property
    def mpid(self) -> str | None:
        """The user it names, as text; 0 is nobody."""
        named = self.members.get("mpid")
        return None if named in (None, 0, "0", "") else str(named)

    def code(self, call: str) -> int:
        """What it comes to: its status, unless it is a success that says nothing."""
        if self.status is None:
            return NO_ANSWER
        silent = self.status in (200, 202) and not isinstance(self.body, dict)
        names_nobody = self.status == 200 and call in ("identify", "login", "logout") and self.mpid is None
        return NO_ANSWER if call != "alias" and (silent or names_nobody) else self.status

    def attempts(self, call: str, allowed: int) -> int:
        """How often a call is made while this is all that comes back."""
        if self.status is None:
            return allowed if not self.sent or call in REPEATABLE else 1
        again = self.status in (429, 503) or (self.status >= 500 and call in REPEATABLE)
        return allowed if again else 1


def cleaned(given: dict[str, str | None] | None) -> dict[str, str | None]:
    """What of a valid request is sent: empty texts are left out, hashed types go to their slot and win there."""
    kept = {name: value for name, value in (given or {}).items() if value != ""}
    hashed = {SLOTS[name]: value for name, value in kept.items() if name in SLOTS}
    return {**{name: value for name, value in kept.items() if name not in SLOTS}, **hashed}


@dataclass
class Person:
    """What is remembered of one user."""

    identities: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    consent: dict[str, Any] | None = None
    first_seen_ms: int | None = None
    last_seen_ms: int | None = None
    is_logged_in: bool = False
    is_ephemeral: bool = False

    def overlay(self, sent: dict[str, str | None]) -> None:
        merged = {**self.identities, **sent}
        self.identities = {name: value for name, value in merged.items() if value is not None}


@dataclass
class Model:
    """What a device remembers, and what one process of it knows besides."""

    timeout_ms: int
    keep_ephemeral: bool
    people: dict[str, Person] = field(default_factory=dict)
    current: str | None = None
    context: str | None = None
    opted_out: bool = False
    session: int | None = None
    """The number of the session, counted from 1; an expired one stays until something is done."""
    active_ms: int = 0
    sessions: int = 0
    # Of this process:
    started: bool = False
    identified: bool = False
    """Whether a start has identified by itself, or must not any more."""
    configured: dict[str, str | None] | None = field(default_factory=dict)
    """What its automatic identify says, if anything; None is what cannot be said."""
    on_start: dict[str, str | None] | None = None
    """The same with what was stored where nothing is configured, once that has been looked at."""

    # Sessions

    def live(self, now_ms: int) -> int | None:
        """The session, unless it has timed out: by as much idle time, or by a clock set back as far."""
        if self.session is None or (self.timeout_ms and abs(now_ms - self.active_ms) >= self.timeout_ms):
            return None
        return self.session

    def be_active(self, now_ms: int) -> None:
        """A live session lasts longer; a dead one is gone."""
        self.session = self.live(now_ms)
        if self.session:
            self.active_ms = now_ms

    def begin(self, now_ms: int) -> None:
        if not self.opted_out:
            self.sessions += 1
            self.session, self.active_ms = self.sessions, now_ms

    def touch(self, now_ms: int) -> None:
        """The app's own activity: opens a session where there is none, unless the user opted out."""
        if self.live(now_ms) or self.opted_out:
            self.be_active(now_ms)
        else:
            self.begin(now_ms)

    # Start

    def begin_process(self, configured: dict[str, str | None] | None) -> None:
        """Another process, or one that was reset. `configured` is clean; None is an invalid one."""
        self.started = self.identified = False
        self.configured, self.on_start = configured, None

    def on_opening(self, configured: dict[str, str | None] | None, now_ms: int) -> int | None:
        """A start up to its request: a code when none is due. `configured` is clean; None is an invalid one."""
        self.started = True
        self.configured, self.on_start = configured, None
        if configured is None:
            self.open(now_ms)
            self.identified = True
            return INVALID
        stored = self.stored()
        covered = all(stored.get(name) == value for name, value in configured.items())
        resumed = self.current is not None and covered and self.live(now_ms) is not None
        self.look()
        if resumed:
            self.be_active(now_ms)
            return RESUMED
        self.open(now_ms)
        if self.opted_out:
            return SHUT
        self.identified = True
        return None

    def stored(self) -> dict[str, str]:
        return self.people[self.current].identities if self.current else {}

    def look(self) -> dict[str, str | None]:
        """What the automatic identify says, which is settled when it is first looked at."""
        if self.on_start is None:
            self.on_start = self.configured or dict(self.stored())
        return self.on_start

    def open(self, now_ms: int) -> None:
        if self.opted_out:  # such a start is no activity
            self.session = self.live(now_ms)
        else:
            self.touch(now_ms)

    # Calls

    def refusal(self, call: str, valid: bool, sent: dict[str, str | None]) -> int | None:
        """Why a call is not made, checked in this order."""
        if not valid or (call == "modify" and not sent) or (call == "search" and not any(sent.values())):
            return INVALID
        if call == "modify" and self.current is None:
            return INVALID
        return SHUT if self.opted_out else None

    def on_answer(self, call: str, sent: dict[str, str | None], answer: Answer, now_ms: int) -> str | None:
        """An identity call was sent and this came back. Returns who was current before, if that changed."""
        self.be_active(now_ms)
        if answer.code(call) != 200:
            return None
        if call == "modify":
            assert self.current is not None
            person = self.people[self.current]
            person.overlay(sent)
            flag = answer.members.get("is_logged_in")
            if isinstance(flag, bool) and answer.mpid in (None, self.current):
                person.is_logged_in = flag
            return None
        assert answer.mpid is not None
        return self.meet(answer.mpid, sent, answer.members, now_ms)

    def meet(self, mpid: str, sent: dict[str, str | None], members: dict[str, Any], now_ms: int) -> str | None:
        """The service named this user as the current one."""
        before, self.current = self.current, mpid
        person = self.people.setdefault(mpid, Person())
        if sent:
            person.overlay(sent)
        else:
            person.identities = {}
        if person.first_seen_ms is None:
            person.first_seen_ms = now_ms
        person.is_logged_in = members.get("is_logged_in") is True
        person.is_ephemeral = members.get("is_ephemeral") is True
        context = members.get("context")
        self.context = context if isinstance(context, str) and context else self.context
        if before in (None, mpid):
            return None
        if self.people[before].is_ephemeral and not self.keep_ephemeral:
            del self.people[before]
            return None
        self.people[before].last_seen_ms = now_ms
        return before

    def forget(self, keep_user: bool, now_ms: int) -> str | None:
        """Nobody is current, and the identify of a start that is still open knows nobody. Returns who left, if kept."""
        assert self.current is not None
        left, self.current, self.context = self.current, None, None
        self.configured, self.on_start = {}, None
        if self.opted_out:
            self.session = None
        if keep_user and (self.keep_ephemeral or not self.people[left].is_ephemeral):
            self.people[left].last_seen_ms = now_ms
            return left
        del self.people[left]
        return None

    def reset(self, configured: dict[str, str | None] | None) -> None:
        """Nothing is remembered, and the process is as newly made."""
        self.people, self.current, self.context, self.opted_out, self.session = {}, None, None, False, None
        self.begin_process(configured)

    def edit_attributes(self, mpid: str, new: dict[str, Any], gone: Callable[[str], bool], now_ms: int) -> None:
        """Attributes of a user are set, and those whose names are `gone` removed; names differ in more than case."""
        if self.opted_out:
            return
        self.touch(now_ms)
        attributes = {name: value for name, value in self.people[mpid].attributes.items() if not gone(name)}
        for key, value in new.items():
            attributes = {name: v for name, v in attributes.items() if name.lower() != key.lower()} | {key: value}
        self.people[mpid].attributes = attributes

    def opt(self, out: bool, now_ms: int) -> None:
        self.be_active(now_ms)
        self.opted_out = out
