"""The trail of rules that led to an answer.

The resolver and its neighbours tell a `Reporter` of each step; its methods do nothing, so that nobody pays for what
nobody reads. `Trail` writes the steps down for people: identity types and MPIDs, never an identity value, a key or a
secret.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .choices import Choice
from .profiles import Profile

_NAMED_PROFILES = 5
"""How many MPIDs a sentence lists; a device used by a thousand people makes no readable sentence."""

_CHOICE_TEXTS = {choice: f"Choice of this service: {choice}." for choice in Choice}


class Reporter:
    """Hears of every step that leads to an answer. Override what is of interest."""

    def reasons(self) -> tuple[str, ...]:
        """The steps as texts, where they are written down."""
        return ()

    def note(self, text: str) -> None:
        """Something that needs no more than a sentence, which is a constant or cheap to build."""

    def rests_on(self, *choices: Choice) -> None:
        """The answer would be another one if this choice had been made differently."""

    def left_out(self, why: str, types: Collection[str]) -> None:
        """Identities of the request do not take part."""

    def looked_up(self, type_: str, holders: Sequence[Profile], reachable: Sequence[Profile], barrier: str) -> None:
        """A type gave the candidates; those not reachable are behind the barrier."""

    def narrowed(self, type_: str, candidates: Sequence[Profile], left: Sequence[Profile]) -> None:
        """A further type was held against the candidates; nobody left means that it does not count."""

    def settled(self, candidates: Sequence[Profile], types: Collection[str]) -> None:
        """One candidate is left, so these types are not looked up any more."""

    def tied(self, candidates: Sequence[Profile], winner: Profile, *, is_previous: bool) -> None:
        """Several candidates are left, and one was chosen."""

    def returned(self, profile: Profile, rule: str) -> None:
        """This profile answers, by this rule."""

    def left_alone(self, profile: Profile, why: str) -> None:
        """This profile was found but does not answer."""

    def linked(self, source: Profile) -> None:
        """A known profile is created beside this one, from which the user comes."""

    def created(self, profile: Profile) -> None:
        """A profile was created."""

    def added(self, profile: Profile, types: Collection[str]) -> None:
        """Identities of these types, or none, were added to the profile."""

    def withheld(self, type_: str, why: str, owners: Sequence[Profile] = ()) -> None:
        """An identity of the request was not added."""

    def changed(self, type_: str, what: str, losers: Sequence[int] = ()) -> None:
        """What a change of modify came to, and who lost the value by it."""


SILENT = Reporter()
"""For whom the trail is not worth its time."""


class Trail(Reporter):
    """The steps as sentences, in order; the choices that the answer rests on stand at the end."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._choices: dict[Choice, str] = {}

    def reasons(self) -> tuple[str, ...]:
        return (*self._texts, *self._choices.values())

    def note(self, text: str) -> None:
        self._texts.append(text)

    def rests_on(self, *choices: Choice) -> None:
        for choice in choices:
            self._choices[choice] = _CHOICE_TEXTS[choice]

    def left_out(self, why: str, types: Collection[str]) -> None:
        self.note(f"{why}: {_listed(types)}.")

    def looked_up(self, type_: str, holders: Sequence[Profile], reachable: Sequence[Profile], barrier: str) -> None:
        if not holders:
            self.note(f"Looked up {type_}: nobody has this value.")
            return
        barred = [profile for profile in holders if profile not in reachable] if len(reachable) < len(holders) else []
        text = f"Looked up {type_}: {_counted(reachable, 'candidate')}"
        self.note(f"{text}; out of reach, as {barrier}: {_named(barred)}." if barred else f"{text}.")

    def narrowed(self, type_: str, candidates: Sequence[Profile], left: Sequence[Profile]) -> None:
        if not left:
            self.note(f"Looked up {type_}: none of the {len(candidates)} candidates has this value; they all stay.")
        else:
            self.note(f"Looked up {type_}: it narrows {len(candidates)} candidates to {len(left)}, {_named(left)}.")

    def settled(self, candidates: Sequence[Profile], types: Collection[str]) -> None:
        self.note(f"One candidate is left, {_named(candidates)}: {_listed(types)} not looked up.")

    def tied(self, candidates: Sequence[Profile], winner: Profile, *, is_previous: bool) -> None:
        why = "it is the request's previous MPID" if is_previous else "it was created last"
        self.note(f"{len(candidates)} candidates are left, {_named(candidates)}: {winner.mpid} wins, as {why}.")

    def returned(self, profile: Profile, rule: str) -> None:
        self.note(f"Profile {profile.mpid} answers: {rule}.")

    def left_alone(self, profile: Profile, why: str) -> None:
        self.note(f"Profile {profile.mpid} is left alone: {why}.")

    def linked(self, source: Profile) -> None:
        self.note(f"Profile {source.mpid} is noted as the source of the new one.")

    def created(self, profile: Profile) -> None:
        self.note(f"Created profile {profile.mpid}.")

    def added(self, profile: Profile, types: Collection[str]) -> None:
        self.note(f"Added to profile {profile.mpid}: {_listed(types) or 'nothing'}.")

    def withheld(self, type_: str, why: str, owners: Sequence[Profile] = ()) -> None:
        self.note(f"Withheld {type_}: {why}{f' {_named(owners)}' if owners else ''}.")

    def changed(self, type_: str, what: str, losers: Sequence[int] = ()) -> None:
        self.note(f"{type_}: {what}{f'; taken from {_listed([str(mpid) for mpid in losers])}' if losers else ''}.")


def _listed(names: Collection[str]) -> str:
    return ", ".join(names)


def _counted(profiles: Sequence[Profile], noun: str) -> str:
    if not profiles:
        return f"no {noun}"
    return f"{len(profiles)} {noun}{'s' if len(profiles) > 1 else ''}, {_named(profiles)}"


def _named(profiles: Sequence[Profile]) -> str:
    names = ", ".join(str(profile.mpid) for profile in profiles[:_NAMED_PROFILES])
    more = len(profiles) - _NAMED_PROFILES
    return f"{names} and {more} more" if more > 0 else names
