"""Which profile answers identify, login, logout or search, and what the call adds to it.

`decide` only reads; `carry_out` writes what was decided. Both work within a transaction that the caller holds, and
know no HTTP, no SQL, no clock and no randomness.

Sources: the pages "Store and Organize User Data", "Components" and those of the strategies in the IDSync guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from identity_session.exchange import Call

from .choices import Choice
from .lookup import Lookup, is_known
from .profiles import Identity, Profile, Transaction
from .refusals import LookupRefusedError
from .strategies import IdentityStrategy
from .trail import Step, Trail, listed

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
    trail: Trail,
) -> Decision:
    """Resolve identify, login, logout or search. Raises LookupRefusedError if the strategy does not allow the call."""
    _check_allowed(strategy, call, identities, trail)
    if call is Call.LOGOUT:
        identities = _without_login_ids(strategy, identities, trail)
    lookup = Lookup(strategy, _lookup_keys(strategy, call, identities, trail), previous_mpid, profiles, trail)

    # 1. Conversion and link answer every logout with a new anonymous profile.
    if call is Call.LOGOUT and strategy.preset.on_logout == "new MPID":
        trail.append((Step.LOGOUT_CREATES,))
        return _create(lookup, identities)

    # 2. A known profile is found by a login ID only.
    known = lookup.known_match()
    if known:
        trail.append((Step.FOUND_BY_LOGIN_ID, known.mpid))
        return _merge(lookup, known, identities, strategy.login)

    # 3. Without one, the other identities may find an anonymous profile.
    anonymous = lookup.anonymous_match()

    # 4. A new login ID makes a known user: of the anonymous profile (see 5), or beside it.
    if lookup.has_new_login_id() and strategy.preset.on_new_known_user != "converts":
        if anonymous:
            trail.append((Step.LEFT_ALONE, anonymous.mpid))
        return _create(lookup, identities, _source(lookup, anonymous))

    # 5. The anonymous profile answers, or a new one.
    if anonymous:
        trail.append((Step.FOUND_BY_OTHERS, anonymous.mpid))
        return _merge(lookup, anonymous, identities, strategy.other_types)
    trail.append((Step.NOBODY_FOUND,))
    return _create(lookup, identities)


def carry_out(decision: Decision, profiles: Transaction, now_ms: int, trail: Trail) -> Profile:
    """Write what was decided. Returns the profile as it is afterwards."""
    profile = decision.match or profiles.create(decision.source_mpid, now_ms=now_ms)
    if decision.match:
        profiles.seen(profile.mpid, now_ms)
    else:
        trail.append((Step.CREATED, profile.mpid))
    for type_, value in decision.additions:
        profile = profiles.add(profile.mpid, type_, value)
    trail.append((Step.ADDED, profile.mpid, tuple([type_ for type_, _ in decision.additions])))
    return profile


def _check_allowed(strategy: IdentityStrategy, call: Call, identities: Mapping[str, str], trail: Trail) -> None:
    if call not in (Call.LOGIN, Call.LOGOUT):
        return
    if strategy.strategy == "best_match":
        if strategy.best_match_login == "reject":
            raise LookupRefusedError(f"The best match strategy has no {call}.", Choice.BEST_MATCH_LOGIN)
        trail.append((Choice.BEST_MATCH_LOGIN,))
    elif call is Call.LOGIN and not any(type_ in identities for type_ in strategy.login):
        if strategy.preset.bare_login == "refuse":
            raise LookupRefusedError(BARE_LOGIN_REFUSED, Choice.BARE_LOGIN)
        trail.append((Choice.BARE_LOGIN,))


def _without_login_ids(strategy: IdentityStrategy, identities: Mapping[str, str], trail: Trail) -> dict[str, str]:
    """A logout names the state to move to, and always ends on an anonymous profile."""
    left_out = [type_ for type_ in identities if type_ in strategy.login]
    if left_out:
        trail.append((Step.LOGIN_IDS_IGNORED, tuple(left_out)))
        trail.append((Choice.LOGOUT_WITHOUT_LOGIN_IDS,))
    return {type_: value for type_, value in identities.items() if type_ not in strategy.login}


def _lookup_keys(strategy: IdentityStrategy, call: Call, identities: Mapping[str, str], trail: Trail) -> dict[str, str]:
    """The identities that take part in the lookup; those of types outside the priority never do."""
    outside = [type_ for type_ in identities if type_ not in strategy.priority]
    if outside:
        trail.append((Step.NOT_IN_PRIORITY, tuple(outside)))
        trail.append((Choice.OUTSIDE_PRIORITY,))
    types = strategy.search_types if call is Call.SEARCH else strategy.priority
    keys = {type_: identities[type_] for type_ in types if type_ in identities}
    if call is Call.SEARCH and len(keys) + len(outside) < len(identities):
        unsearched = [type_ for type_ in identities if type_ not in types and type_ not in outside]
        trail.append((Step.NOT_SEARCHED, tuple(unsearched)))
        trail.append((Choice.SEARCH_LOOKUP,))
    return keys


def _source(lookup: Lookup, anonymous: Profile | None) -> int | None:
    """Profile link notes where a new known user comes from; the strategy's page shows it as "Source"."""
    if lookup.strategy.preset.on_new_known_user != "linked record":
        return None
    previous = lookup.profiles.get(lookup.previous_mpid) if lookup.previous_mpid is not None else None
    source = previous if previous and not is_known(lookup.strategy, previous) else anonymous
    if source is None:
        return None
    lookup.trail.append((Step.LINKED, source.mpid))
    lookup.trail.append((Choice.SOURCE,))
    return source.mpid


def _merge(lookup: Lookup, profile: Profile, identities: Mapping[str, str], deciding_types: Sequence[str]) -> Decision:
    strategy = lookup.strategy
    named = strategy.priority if strategy.matched_identities == "all" else deciding_types
    matched = {type_: value for type_, value in identities.items() if type_ in named and profile.holds(type_, value)}
    lookup.trail.append((Choice.MATCHED_IDENTITIES,))
    return Decision(profile, _additions(lookup, profile, identities), matched)


def _create(lookup: Lookup, identities: Mapping[str, str], source_mpid: int | None = None) -> Decision:
    return Decision(None, _additions(lookup, None, identities), {}, source_mpid)


def _additions(lookup: Lookup, profile: Profile | None, identities: Mapping[str, str]) -> tuple[Identity, ...]:
    return tuple((type_, value) for type_, value in identities.items() if _may_add(lookup, profile, type_, value))


def _may_add(lookup: Lookup, profile: Profile | None, type_: str, value: str) -> bool:
    """Whether a call may add an identity that its profile (None: a new one) lacks.

    A guarded value stays with its owner: since September 2022 "Store and Organize User Data" lets only modify move it.
    """
    strategy, trail = lookup.strategy, lookup.trail
    held = profile.values(type_) if profile else ()
    if value in held:
        return False
    if held and type_ in strategy.immutable:
        trail.append((Step.WITHHELD_IMMUTABLE, type_))
        return False
    if held and type_ in strategy.unique and strategy.single_value_unique_types:
        trail.append((Step.WITHHELD_UNIQUE, type_))
        trail.append((Choice.SEVERAL_VALUES,))
        return False
    owners = lookup.profiles.holders(type_, value) if strategy.is_guarded(type_) else ()
    if owners:
        trail.append((Step.WITHHELD_OWNED, type_, listed([owner.mpid for owner in owners])))
        trail.append((Choice.NO_STEALING,))
        if type_ not in strategy.unique:
            trail.append((Choice.LOGIN_GUARDED,))
        return False
    if held:
        trail.append((Choice.SEVERAL_VALUES,))
    return True
