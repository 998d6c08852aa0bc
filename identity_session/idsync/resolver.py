"""Which profile answers identify, login, logout or search, and what the call adds to it.

`decide` only reads; `carry_out` writes what was decided. Both work within a transaction that the caller holds, and
know no HTTP, no SQL, no clock and no randomness.

Sources: the pages "Store and Organize User Data", "Components" and those of the strategies in the IDSync guide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from identity_session.exchange import Call

from .identity_types import USER_TYPES
from .profiles import Identity, Profile, Transaction
from .refusals import LookupRefusedError
from .strategies import IdentityStrategy

# The public report that shows this message (Android SDK issue 65) came from an isolation workspace by all we know.
BARE_LOGIN_REFUSED = "CleanCutStrategy login action is missing the login identity type."


@dataclass(frozen=True, slots=True, repr=False)
class Decision:
    """The profile that a call resolves to, and what the call adds to it."""

    match: Profile | None
    """None: nobody is found, a profile is to be created."""
    additions: tuple[Identity, ...]
    matched_identities: Mapping[str, str]
    """Identities of the request that found the profile: they were on it before the call."""
    source_mpid: int | None = None
    """Profile link: where a created known profile comes from."""


def decide(
    strategy: IdentityStrategy,
    call: Call,
    identities: Mapping[str, str],
    previous_mpid: int | None,
    profiles: Transaction,
) -> Decision:
    """Resolve identify, login, logout or search. Raises LookupRefusedError if the strategy does not allow the call."""
    _check_allowed(strategy, call, identities)
    if call is Call.LOGOUT:
        identities = _without_login_ids(strategy, identities)
    keys = _lookup_keys(strategy, call, identities)

    # 1. Conversion and link answer every logout with a new anonymous profile.
    if call is Call.LOGOUT and strategy.preset.on_logout == "new MPID":
        return _create(strategy, identities, None, profiles)

    # 2. A known profile is found by a login ID only.
    known = _known_match(strategy, keys, previous_mpid, profiles)
    if known:
        return _merge(strategy, known, identities, strategy.login, profiles)

    # 3. Without one, the other identities may find an anonymous profile.
    anonymous = _anonymous_match(strategy, keys, previous_mpid, profiles)

    # 4. A new login ID makes a known user: of the anonymous profile (see 5), or beside it.
    if _has_new_login_id(strategy, keys, profiles) and strategy.preset.on_new_known_user != "converts":
        return _create(strategy, identities, _source(strategy, previous_mpid, anonymous, profiles), profiles)

    # 5. The anonymous profile answers, or a new one.
    if anonymous:
        return _merge(strategy, anonymous, identities, strategy.other_types, profiles)
    return _create(strategy, identities, None, profiles)


def carry_out(decision: Decision, profiles: Transaction) -> Profile:
    """Write what was decided. Returns the profile as it is afterwards."""
    profile = decision.match or profiles.create(decision.source_mpid)
    for type_, value in decision.additions:
        profile = profiles.add(profile.mpid, type_, value)
    return profile


def is_known(strategy: IdentityStrategy, profile: Profile) -> bool:
    """Whether the profile has a login ID. Never under best match, which has no login types."""
    return any(profile.values(type_) for type_ in strategy.login)


def is_ephemeral(strategy: IdentityStrategy, profile: Profile) -> bool:
    """Whether the identity record names devices only, or nothing. Public recordings fit this rule; none states it."""
    return not any(profile.values(type_) for type_ in strategy.priority if type_ in USER_TYPES)


def _check_allowed(strategy: IdentityStrategy, call: Call, identities: Mapping[str, str]) -> None:
    if call not in (Call.LOGIN, Call.LOGOUT):
        return
    if strategy.strategy == "best_match" and strategy.best_match_login == "reject":
        raise LookupRefusedError(f"The best match strategy has no {call}.")
    has_login_id = any(type_ in identities for type_ in strategy.login)
    if call is Call.LOGIN and not has_login_id and strategy.preset.bare_login == "refuse":
        raise LookupRefusedError(BARE_LOGIN_REFUSED)


def _without_login_ids(strategy: IdentityStrategy, identities: Mapping[str, str]) -> dict[str, str]:
    """A logout names the state to move to, and always ends on an anonymous profile."""
    return {type_: value for type_, value in identities.items() if type_ not in strategy.login}


def _lookup_keys(strategy: IdentityStrategy, call: Call, identities: Mapping[str, str]) -> dict[str, str]:
    """The identities that take part in the lookup; those of types outside the priority never do."""
    types = strategy.search_types if call is Call.SEARCH else strategy.priority
    return {type_: identities[type_] for type_ in types if type_ in identities}


def _known_match(
    strategy: IdentityStrategy, keys: Mapping[str, str], previous_mpid: int | None, profiles: Transaction
) -> Profile | None:
    """The profile found by a login ID: login types first, wherever they stand in the priority, then the others
    narrow what was found. A profile with an immutable ID is out of reach without a matching one."""

    def is_reachable(profile: Profile) -> bool:
        held = [type_ for type_ in strategy.immutable if profile.values(type_)]
        return not held or any(type_ in keys and profile.holds(type_, keys[type_]) for type_ in held)

    found = _narrow([], strategy.login_types, keys, is_reachable, profiles)
    if not found:
        return None
    return _winner(_narrow(found, strategy.other_types, keys, is_reachable, profiles), previous_mpid)


def _anonymous_match(
    strategy: IdentityStrategy, keys: Mapping[str, str], previous_mpid: int | None, profiles: Transaction
) -> Profile | None:
    """The anonymous profile found by other identities. Under best match every profile is anonymous, and no type is a
    login type, so that this is the whole lookup."""

    def is_reachable(profile: Profile) -> bool:
        return not is_known(strategy, profile)

    found = _narrow([], strategy.other_types, keys, is_reachable, profiles)
    return _winner(found, previous_mpid) if found else None


def _narrow(
    candidates: Sequence[Profile],
    types: Sequence[str],
    keys: Mapping[str, str],
    is_reachable: Callable[[Profile], bool],
    profiles: Transaction,
) -> Sequence[Profile]:
    """Walk the types in order: the first one that finds anybody gives the candidates, each later one narrows them
    unless nobody would be left. Ends when one is left."""
    for type_ in types:
        if type_ not in keys:
            continue
        if len(candidates) == 1:
            break
        pool = candidates or [profile for profile in profiles.holders(type_, keys[type_]) if is_reachable(profile)]
        candidates = [profile for profile in pool if profile.holds(type_, keys[type_])] or candidates
    return candidates


def _winner(candidates: Sequence[Profile], previous_mpid: int | None) -> Profile:
    """Break a tie: the caller's previous profile, else the newest. Public material does not say how the real service
    does it."""
    return max(candidates, key=lambda profile: (profile.mpid == previous_mpid, profile.sequence))


def _has_new_login_id(strategy: IdentityStrategy, keys: Mapping[str, str], profiles: Transaction) -> bool:
    return any(type_ in keys and not profiles.holders(type_, keys[type_]) for type_ in strategy.login)


def _source(
    strategy: IdentityStrategy, previous_mpid: int | None, anonymous: Profile | None, profiles: Transaction
) -> int | None:
    """Profile link notes where a new known user comes from; the strategy's page shows it as "Source"."""
    if strategy.preset.on_new_known_user != "linked record":
        return None
    previous = profiles.get(previous_mpid) if previous_mpid is not None else None
    source = previous if previous and not is_known(strategy, previous) else anonymous
    return source.mpid if source else None


def _merge(
    strategy: IdentityStrategy,
    profile: Profile,
    identities: Mapping[str, str],
    deciding_types: Sequence[str],
    profiles: Transaction,
) -> Decision:
    named = strategy.priority if strategy.matched_identities == "all" else deciding_types
    matched = {type_: value for type_, value in identities.items() if type_ in named and profile.holds(type_, value)}
    return Decision(profile, _additions(strategy, profile, identities, profiles), matched)


def _create(
    strategy: IdentityStrategy, identities: Mapping[str, str], source_mpid: int | None, profiles: Transaction
) -> Decision:
    return Decision(None, _additions(strategy, None, identities, profiles), {}, source_mpid)


def _additions(
    strategy: IdentityStrategy, profile: Profile | None, identities: Mapping[str, str], profiles: Transaction
) -> tuple[Identity, ...]:
    return tuple(
        (type_, value) for type_, value in identities.items() if _may_add(strategy, profile, type_, value, profiles)
    )


def _may_add(
    strategy: IdentityStrategy, profile: Profile | None, type_: str, value: str, profiles: Transaction
) -> bool:
    """Whether a call may add an identity that its profile (None: a new one) lacks.

    A guarded value stays with its owner: since September 2022 "Store and Organize User Data" lets only modify move it.
    """
    held = profile.values(type_) if profile else ()
    if value in held:
        return False
    if held and type_ in strategy.immutable:
        return False
    if held and type_ in strategy.unique and strategy.single_value_unique_types:
        return False
    return not (strategy.is_guarded(type_) and profiles.holders(type_, value))
