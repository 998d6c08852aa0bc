"""The trail of rules that led to an answer.

Whoever takes a step appends it to the trail as a fact: the step, or the choice of this service that it rests on, with
its details. A call pays for no more than that; facts become sentences when somebody reads them. They hold identity
types and MPIDs, never an identity value, a key or a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .choices import Choice


class Step:
    """The steps, as the sentences that tell of them; the details take the places in them."""

    # Lookup
    LOGIN_IDS_IGNORED = "A logout ignores login IDs: {}."
    LOGOUT_CREATES = "Every logout moves to a new anonymous profile; nobody is looked up."
    NOT_IN_PRIORITY = "Not looked up, as it is not in the priority: {}."
    NOT_SEARCHED = "Not searched for, as it is not immutable: {}."
    UNKNOWN_IGNORED = "Identities of unknown type are ignored: {}."
    NOBODY_HOLDS = "Looked up {}: nobody has this value."
    FOUND = "Looked up {}: found {}."
    IMMUTABLE_BARS = "Looked up {}: out of reach, as the request does not match its immutable ID: {}."
    KNOWN_BARRED = "Looked up {}: out of reach, as only a login ID finds a known profile: {}."
    NARROWED = "Looked up {}: of {} candidates it leaves {}."
    NOT_NARROWED = "Looked up {}: none of the {} candidates has this value; they all stay."
    SETTLED = "Not looked up, as one candidate is left: {}."
    TIE_TO_PREVIOUS = "{} candidates are left, {}: {} wins, as it is the request's previous MPID."
    TIE_TO_NEWEST = "{} candidates are left, {}: {} wins, as it was created last."
    NEW_KNOWN_USER = "A new known user, as nobody has this login ID: {}."

    # Outcome
    FOUND_BY_LOGIN_ID = "Profile {} answers: a login ID found it."
    FOUND_BY_OTHERS = "Profile {} answers: no login ID found anybody, and this one was found by the other identities."
    NAMED = "Profile {} answers: modify names it."
    LEFT_ALONE = "Profile {} is left alone: a new known user gets a profile of their own."
    LINKED = "Profile {} is noted as the source of the new one."
    NOBODY_FOUND = "No profile that may be returned was found."
    WOULD_CREATE = "A profile would be created with: {}."
    CREATED = "Created profile {}."
    ADDED = "Added to profile {}: {}."
    WITHHELD_IMMUTABLE = "Withheld {}: it is immutable, and the profile has another value."
    WITHHELD_UNIQUE = "Withheld {}: it is unique, and the profile has another value."
    WITHHELD_OWNED = "Withheld {}: the value stays with its owner {}."
    NOTHING_WRITTEN = "Nothing is written."

    # Changes of a modify
    SET = "{}: set, as the only value of this type."
    MOVED = "{}: set, as the only value of this type; taken from {}."
    ADDED_VALUE = "{}: added."
    REPLACED = "{}: replaced."
    REMOVED = "{}: removed."
    HAS_VALUE = "{}: the profile has this value already."
    LACKS_OLD_VALUE = "{}: the profile does not have the old value."
    NOTHING_TO_REMOVE = "{}: nothing to remove."

    # Everything else
    ALIAS_ACCEPTED = "Accepted; the request is processed 24 hours later."
    REFUSED = "Refused with {}: {}"
    FAILED = "The service itself failed ({}); nothing was done."
    HELD_BACK = "A fault holds the answer back for {} ms."
    DROPPED = "A fault closes the connection without an answer, {} the call is done."
    FAULTY_STATUS = "A fault answers with status {}; nothing was done."
    FAULTY_BODY = "A fault answers with a body of {}; nothing was done."
    DAMAGED = "The reasons are damaged."
    TOLD = "{}"
    """A sentence of another version, or of an import."""


def _names(sentences: type) -> dict[str, str]:
    return {text: name for name, text in vars(sentences).items() if name.isupper()}


Detail = int | str | tuple[int | str, ...]

Fact = tuple[str, *tuple[Detail, ...]]
"""A step or a choice, and its details: nothing but numbers and texts, which cost a garbage collector nothing."""

Trail = list[Fact]

_LISTED = 5
"""How many MPIDs a fact lists; a device used by a thousand people makes no readable sentence."""

_CHOICE_NAMES = _names(Choice)
_NAMES = _names(Step) | _CHOICE_NAMES
_BY_NAME = {name: text for text, name in _NAMES.items()}


def listed(mpids: Sequence[int]) -> tuple[int | str, ...]:
    """The first of these MPIDs, and how many more there are, as a detail."""
    if len(mpids) <= _LISTED:
        return tuple(mpids)
    return *mpids[:_LISTED], f"{len(mpids) - _LISTED} more"


def reasons(trail: Iterable[Fact]) -> list[str]:
    """The facts as sentences, in order; the choices that the answer rests on stand at the end, each once."""
    steps, choices = [], {}
    for text, *details in trail:
        if text in _CHOICE_NAMES:
            choices[text] = f"Choice of this service: {text}."
        else:
            steps.append(text.format(*map(_shown, details)))
    return [*steps, *choices.values()]


def named(trail: Iterable[Fact]) -> list[Fact]:
    """The facts with names in the place of the sentences, to be stored: a sentence is several times as long."""
    return [(_NAMES[fact[0]], *fact[1:]) for fact in trail]


def from_named(stored: Iterable[Sequence[Any]]) -> tuple[Fact, ...]:
    """The facts that were stored by name; one that this version does not know is told as it stands there."""
    return tuple(
        (_BY_NAME[name], *map(_detail, details))
        if name in _BY_NAME
        else (Step.TOLD, ", ".join([name, *map(_shown, details)]))
        for name, *details in stored
    )


def _detail(stored: Any) -> Detail:
    return tuple(stored) if isinstance(stored, list) else stored


def _shown(detail: Detail) -> str:
    if isinstance(detail, (int, str)):
        return str(detail)
    return ", ".join(map(str, detail)) or "nothing"
