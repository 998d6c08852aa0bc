"""Whom the identities of a request find: the walk along the identity priority.

Sources: the pages "Store and Organize User Data" and "Components" of the IDSync guide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .choices import Choice
from .profiles import Profile, Transaction
from .strategies import IdentityStrategy
from .trail import Step, Trail, listed


def is_known(strategy: IdentityStrategy, profile: Profile) -> bool:
    """Whether the profile has a login ID. Never under best match, which has no login types."""
    return any(profile.values(type_) for type_ in strategy.login)


_Found = tuple[Sequence[Profile], Sequence[int]]
"""Holders of an identity who may answer, and the MPIDs of those who are out of reach."""


@dataclass(frozen=True, slots=True, repr=False)
class Lookup:
    """The identities that take part in a lookup, by type, and where they are looked up."""

    strategy: IdentityStrategy
    keys: Mapping[str, str]
    previous_mpid: int | None
    profiles: Transaction
    trail: Trail

    def known_match(self) -> Profile | None:
        """The profile found by a login ID: login types first, wherever they stand in the priority, then the others
        narrow what was found. A profile with an immutable ID is out of reach without a matching one."""
        login_types = self.strategy.login_types
        found = self._narrow([], login_types, self._find_matching, Step.IMMUTABLE_BARS)
        if not found:
            return None
        if login_types != tuple(self.strategy.priority[: len(login_types)]):
            self.trail.append((Choice.LOGIN_TYPES_FIRST,))
        narrowed = self._narrow(found, self.strategy.other_types, self._find_matching, Step.IMMUTABLE_BARS)
        return self._winner(narrowed)

    def anonymous_match(self) -> Profile | None:
        """The anonymous profile found by other identities. Under best match every profile is anonymous, and no type
        is a login type, so that this is the whole lookup."""
        found = self._narrow([], self.strategy.other_types, self._find_anonymous, Step.KNOWN_BARRED)
        return self._winner(found) if found else None

    def has_new_login_id(self) -> bool:
        """Whether there is a login ID that nobody has: that of a user who was not known so far."""
        keys, profiles = self.keys, self.profiles
        new = [
            type_ for type_ in self.strategy.login_types if type_ in keys and not profiles.holders(type_, keys[type_])
        ]
        if new:
            self.trail.append((Step.NEW_KNOWN_USER, tuple(new)))
        return bool(new)

    def _find_matching(self, type_: str, value: str) -> _Found:
        """Those whose immutable ID the request matches, or who have none."""
        holders = self.profiles.holders(type_, value)
        matching = [profile for profile in holders if self._matches_immutable(profile)]
        return matching, [profile.mpid for profile in holders if not self._matches_immutable(profile)]

    def _find_anonymous(self, type_: str, value: str) -> _Found:
        """Those without a login ID. Of the others there may be thousands, as many as ever used a device."""
        mpids = self.profiles.holder_mpids(type_, value)
        anonymous = self.profiles.holders(type_, value, without=self.strategy.login) if mpids else []
        found = {profile.mpid for profile in anonymous}
        return anonymous, [mpid for mpid in mpids if mpid not in found]

    def _matches_immutable(self, profile: Profile) -> bool:
        held = [type_ for type_ in self.strategy.immutable if profile.values(type_)]
        return not held or any(type_ in self.keys and profile.holds(type_, self.keys[type_]) for type_ in held)

    def _narrow(
        self,
        candidates: Sequence[Profile],
        types: Sequence[str],
        find: Callable[[str, str], _Found],
        barrier: str,
    ) -> Sequence[Profile]:
        """Walk the types in order: the first one that finds anybody gives the candidates, each later one narrows them
        unless nobody would be left. Ends when one is left. `barrier` tells of those who are out of reach."""
        trail = self.trail
        asked = [type_ for type_ in types if type_ in self.keys]
        for number, type_ in enumerate(asked):
            value = self.keys[type_]
            if len(candidates) == 1:
                trail.append((Step.SETTLED, tuple(asked[number:])))
                break
            if candidates:
                left = [profile for profile in candidates if profile.holds(type_, value)]
                if left:
                    trail.append((Step.NARROWED, type_, len(candidates), _listed(left)))
                    candidates = left
                else:
                    trail.append((Step.NOT_NARROWED, type_, len(candidates)))
            else:
                candidates, barred = find(type_, value)
                if candidates:
                    trail.append((Step.FOUND, type_, _listed(candidates)))
                elif not barred:
                    trail.append((Step.NOBODY_HOLDS, type_))
                if barred:
                    trail.append((barrier, type_, listed(barred)))
        return candidates

    def _winner(self, candidates: Sequence[Profile]) -> Profile:
        """Break a tie: the caller's previous profile, else the newest. Public material does not say how the real
        service does it."""
        previous_mpid = self.previous_mpid
        winner = max(candidates, key=lambda profile: (profile.mpid == previous_mpid, profile.sequence))
        if len(candidates) > 1:
            why = Step.TIE_TO_PREVIOUS if winner.mpid == previous_mpid else Step.TIE_TO_NEWEST
            self.trail.append((why, len(candidates), _listed(candidates), winner.mpid))
            self.trail.append((Choice.TIE,))
        return winner


def _listed(profiles: Sequence[Profile]) -> tuple[int | str, ...]:
    return listed([profile.mpid for profile in profiles])
