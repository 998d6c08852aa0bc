"""Whom the identities of a request find: the walk along the identity priority.

Sources: the pages "Store and Organize User Data" and "Components" of the IDSync guide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .choices import Choice
from .profiles import Profile, Transaction
from .strategies import IdentityStrategy
from .trail import Reporter


def is_known(strategy: IdentityStrategy, profile: Profile) -> bool:
    """Whether the profile has a login ID. Never under best match, which has no login types."""
    return any(profile.values(type_) for type_ in strategy.login)


@dataclass(frozen=True, slots=True, repr=False)
class Lookup:
    """The identities that take part in a lookup, by type, and where they are looked up."""

    strategy: IdentityStrategy
    keys: Mapping[str, str]
    previous_mpid: int | None
    profiles: Transaction
    reporter: Reporter

    def known_match(self) -> Profile | None:
        """The profile found by a login ID: login types first, wherever they stand in the priority, then the others
        narrow what was found. A profile with an immutable ID is out of reach without a matching one."""
        barrier = "the request does not match its immutable ID"
        login_types = self.strategy.login_types
        found = self._narrow([], login_types, self._matches_immutable, barrier)
        if not found:
            return None
        if login_types != tuple(self.strategy.priority[: len(login_types)]):
            self.reporter.rests_on(Choice.LOGIN_TYPES_FIRST)
        return self._winner(self._narrow(found, self.strategy.other_types, self._matches_immutable, barrier))

    def anonymous_match(self) -> Profile | None:
        """The anonymous profile found by other identities. Under best match every profile is anonymous, and no type
        is a login type, so that this is the whole lookup."""
        barrier = "only a login ID finds a known profile"
        found = self._narrow([], self.strategy.other_types, self._is_anonymous, barrier)
        return self._winner(found) if found else None

    def has_new_login_id(self) -> bool:
        """Whether there is a login ID that nobody has: that of a user who was not known so far."""
        keys, profiles = self.keys, self.profiles
        new = [
            type_ for type_ in self.strategy.login_types if type_ in keys and not profiles.holders(type_, keys[type_])
        ]
        if new:
            self.reporter.left_out("A new known user, as nobody has this login ID", new)
        return bool(new)

    def _matches_immutable(self, profile: Profile) -> bool:
        held = [type_ for type_ in self.strategy.immutable if profile.values(type_)]
        return not held or any(type_ in self.keys and profile.holds(type_, self.keys[type_]) for type_ in held)

    def _is_anonymous(self, profile: Profile) -> bool:
        return not is_known(self.strategy, profile)

    def _narrow(
        self,
        candidates: Sequence[Profile],
        types: Sequence[str],
        is_reachable: Callable[[Profile], bool],
        barrier: str,
    ) -> Sequence[Profile]:
        """Walk the types in order: the first one that finds anybody gives the candidates, each later one narrows them
        unless nobody would be left. Ends when one is left."""
        asked = [type_ for type_ in types if type_ in self.keys]
        for number, type_ in enumerate(asked):
            value = self.keys[type_]
            if len(candidates) == 1:
                self.reporter.settled(candidates, asked[number:])
                break
            if candidates:
                left = [profile for profile in candidates if profile.holds(type_, value)]
                self.reporter.narrowed(type_, candidates, left)
                candidates = left or candidates
            else:
                holders = self.profiles.holders(type_, value)
                candidates = [profile for profile in holders if is_reachable(profile)]
                self.reporter.looked_up(type_, holders, candidates, barrier)
        return candidates

    def _winner(self, candidates: Sequence[Profile]) -> Profile:
        """Break a tie: the caller's previous profile, else the newest. Public material does not say how the real
        service does it."""
        previous_mpid = self.previous_mpid
        winner = max(candidates, key=lambda profile: (profile.mpid == previous_mpid, profile.sequence))
        if len(candidates) > 1:
            self.reporter.tied(candidates, winner, is_previous=winner.mpid == previous_mpid)
            self.reporter.rests_on(Choice.TIE)
        return winner
