"""Modify: the changes to the identities of one profile, and what they take from others.

Sources: documentation page "HTTP API" of IDSync; pages "Store and Organize User Data", "Profile Link Strategy" and
"Profile Isolation Strategy" of the IDSync guide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from identity_session.exchange import IdentityChange

from .choices import Choice
from .profiles import Profile, Transaction
from .refusals import LookupRefusedError, UnknownMPIDError
from .strategies import IdentityStrategy
from .trail import Step, Trail, listed


@dataclass(frozen=True, slots=True, repr=False)
class Modification:
    """The profile after a modify, and each identity type and MPID whose identity record it changed."""

    profile: Profile
    changed: tuple[tuple[str, int], ...]


def modify(
    strategy: IdentityStrategy,
    mpid: int | None,
    changes: Sequence[IdentityChange],
    profiles: Transaction,
    trail: Trail,
) -> Modification:
    """Apply the changes in their order to the profile of this MPID.

    Raises UnknownMPIDError, or LookupRefusedError for a change to an immutable identity; the caller's transaction
    then undoes what the earlier changes wrote.
    """
    profile = _get(mpid, profiles)
    trail.append((Step.NAMED, profile.mpid))
    if not changes:
        trail.append((Choice.NO_CHANGES,))
    changed: dict[tuple[str, int], None] = {}
    for change in changes:
        for changed_mpid in _apply(strategy, _get(mpid, profiles), change, profiles, trail):
            changed[change.identity_type, changed_mpid] = None
    in_record = tuple(pair for pair in changed if pair[0] in strategy.priority)
    trail.append((Choice.CHANGE_RESULTS,))
    return Modification(_get(mpid, profiles), in_record)


def _get(mpid: int | None, profiles: Transaction) -> Profile:
    profile = profiles.get(mpid) if mpid is not None else None
    if profile is None:
        raise UnknownMPIDError("No profile has this MPID.", Choice.UNKNOWN_MPID)
    return profile


def _apply(
    strategy: IdentityStrategy,
    profile: Profile,
    change: IdentityChange,
    profiles: Transaction,
    trail: Trail,
) -> Sequence[int]:
    """Apply one change; returns the MPIDs whose values of the type changed.

    A wrong old value is never an error: SDKs take it from the device's memory, which may be out of date.
    """
    type_, old, new = change.identity_type, change.old_value, change.new_value
    if type_ not in strategy.priority:
        trail.append((Choice.OUTSIDE_PRIORITY,))
    has_old = old is not None and profile.holds(type_, old)
    if has_old and old == new:
        trail.append((Step.HAS_VALUE, type_))
        return []
    if old is not None and not has_old:
        trail.append((Step.LACKS_OLD_VALUE, type_))
        trail.append((Choice.STALE_OLD_VALUE,))
    if type_ in strategy.immutable:
        _check_immutable(profile, change, has_old, profiles)
    if new is not None and strategy.is_guarded(type_):
        trail.append((Choice.ONLY_VALUE,))
        if type_ not in strategy.unique:
            trail.append((Choice.LOGIN_GUARDED,))
        return _set_only(profile, type_, new, profiles, trail)
    if old is not None:
        profiles.remove(profile.mpid, type_, old)
    if new is not None:
        profiles.add(profile.mpid, type_, new)
    trail.append((_outcome(profile, change, has_old), type_))
    return [] if _get(profile.mpid, profiles).identities == profile.identities else [profile.mpid]


def _outcome(profile: Profile, change: IdentityChange, has_old: bool) -> str:
    if change.new_value is None:
        return Step.REMOVED if has_old else Step.NOTHING_TO_REMOVE
    if has_old:
        return Step.REPLACED
    return Step.HAS_VALUE if profile.holds(change.identity_type, change.new_value) else Step.ADDED_VALUE


def _check_immutable(profile: Profile, change: IdentityChange, has_old: bool, profiles: Transaction) -> None:
    """An immutable ID may be set once, to a value that is free, and never removed."""
    type_, new = change.identity_type, change.new_value
    if new is None:
        refused = has_old
    else:
        is_taken = any(holder.mpid != profile.mpid for holder in profiles.holders(type_, new))
        refused = is_taken or any(value != new for value in profile.values(type_))
    if refused:
        raise LookupRefusedError(f"The identity type {type_} is immutable.", Choice.IMMUTABLE_CHANGE)


def _set_only(profile: Profile, type_: str, value: str, profiles: Transaction, trail: Trail) -> Sequence[int]:
    """A guarded value moves here from whoever has it, and becomes the only one of its type: the flows of link and
    isolation end with one email after a modify that names only the new one."""
    losers = [holder.mpid for holder in profiles.holders(type_, value) if holder.mpid != profile.mpid]
    for loser in losers:
        profiles.remove(loser, type_, value)
    for held in profile.values(type_):
        if held != value:
            profiles.remove(profile.mpid, type_, held)
    profiles.add(profile.mpid, type_, value)
    trail.append((Step.MOVED, type_, listed(losers)) if losers else (Step.SET, type_))
    return losers if profile.values(type_) == (value,) else [profile.mpid, *losers]
