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
from .trail import SILENT, Reporter

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
    reporter: Reporter = SILENT,
) -> Decision:
    """Resolve identify, login, logout or search. Raises LookupRefusedError if the strategy does not allow the call."""
    _check_allowed(strategy, call, identities, reporter)
    if call is Call.LOGOUT:
        identities = _without_login_ids(strategy, identities, reporter)
    lookup = Lookup(strategy, _lookup_keys(strategy, call, identities, reporter), previous_mpid, profiles, reporter)

    # 1. Conversion and link answer every logout with a new anonymous profile.
    if call is Call.LOGOUT and strategy.preset.on_logout == "new MPID":
        reporter.note("Every logout moves to a new anonymous profile; nobody is looked up.")
        return _create(lookup, identities)

    # 2. A known profile is found by a login ID only.
    known = lookup.known_match()
    if known:
        reporter.returned(known, "a login ID found it")
        return _merge(lookup, known, identities, strategy.login)

    # 3. Without one, the other identities may find an anonymous profile.
    anonymous = lookup.anonymous_match()

    # 4. A new login ID makes a known user: of the anonymous profile (see 5), or beside it.
    if lookup.has_new_login_id() and strategy.preset.on_new_known_user != "converts":
        if anonymous:
            reporter.left_alone(anonymous, "a new known user gets a profile of their own")
        return _create(lookup, identities, _source(lookup, anonymous))

    # 5. The anonymous profile answers, or a new one.
    if anonymous:
        reporter.returned(anonymous, "no login ID found anybody, and this one was found by the other identities")
        return _merge(lookup, anonymous, identities, strategy.other_types)
    reporter.note("No profile that may be returned was found.")
    return _create(lookup, identities)


def carry_out(decision: Decision, profiles: Transaction, now_ms: int, reporter: Reporter = SILENT) -> Profile:
    """Write what was decided. Returns the profile as it is afterwards."""
    profile = decision.match or profiles.create(decision.source_mpid, now_ms=now_ms)
    if decision.match:
        profiles.seen(profile.mpid, now_ms)
    else:
        reporter.created(profile)
    for type_, value in decision.additions:
        profile = profiles.add(profile.mpid, type_, value)
    reporter.added(profile, [type_ for type_, _ in decision.additions])
    return profile


def _check_allowed(strategy: IdentityStrategy, call: Call, identities: Mapping[str, str], reporter: Reporter) -> None:
    if call not in (Call.LOGIN, Call.LOGOUT):
        return
    if strategy.strategy == "best_match":
        if strategy.best_match_login == "reject":
            raise LookupRefusedError(f"The best match strategy has no {call}.", Choice.BEST_MATCH_LOGIN)
        reporter.rests_on(Choice.BEST_MATCH_LOGIN)
    elif call is Call.LOGIN and not any(type_ in identities for type_ in strategy.login):
        if strategy.preset.bare_login == "refuse":
            raise LookupRefusedError(BARE_LOGIN_REFUSED, Choice.BARE_LOGIN)
        reporter.rests_on(Choice.BARE_LOGIN)


def _without_login_ids(strategy: IdentityStrategy, identities: Mapping[str, str], reporter: Reporter) -> dict[str, str]:
    """A logout names the state to move to, and always ends on an anonymous profile."""
    left_out = [type_ for type_ in identities if type_ in strategy.login]
    if left_out:
        reporter.left_out("A logout ignores login IDs", left_out)
        reporter.rests_on(Choice.LOGOUT_WITHOUT_LOGIN_IDS)
    return {type_: value for type_, value in identities.items() if type_ not in strategy.login}


def _lookup_keys(
    strategy: IdentityStrategy, call: Call, identities: Mapping[str, str], reporter: Reporter
) -> dict[str, str]:
    """The identities that take part in the lookup; those of types outside the priority never do."""
    outside = [type_ for type_ in identities if type_ not in strategy.priority]
    if outside:
        reporter.left_out("Not looked up, as it is not in the priority", outside)
        reporter.rests_on(Choice.OUTSIDE_PRIORITY)
    types = strategy.search_types if call is Call.SEARCH else strategy.priority
    keys = {type_: identities[type_] for type_ in types if type_ in identities}
    if call is Call.SEARCH and len(keys) + len(outside) < len(identities):
        unsearched = [type_ for type_ in identities if type_ not in types and type_ not in outside]
        reporter.left_out("Not searched for, as it is not immutable", unsearched)
        reporter.rests_on(Choice.SEARCH_LOOKUP)
    return keys


def _source(lookup: Lookup, anonymous: Profile | None) -> int | None:
    """Profile link notes where a new known user comes from; the strategy's page shows it as "Source"."""
    if lookup.strategy.preset.on_new_known_user != "linked record":
        return None
    previous = lookup.profiles.get(lookup.previous_mpid) if lookup.previous_mpid is not None else None
    source = previous if previous and not is_known(lookup.strategy, previous) else anonymous
    if source is None:
        return None
    lookup.reporter.linked(source)
    lookup.reporter.rests_on(Choice.SOURCE)
    return source.mpid


def _merge(lookup: Lookup, profile: Profile, identities: Mapping[str, str], deciding_types: Sequence[str]) -> Decision:
    strategy = lookup.strategy
    named = strategy.priority if strategy.matched_identities == "all" else deciding_types
    matched = {type_: value for type_, value in identities.items() if type_ in named and profile.holds(type_, value)}
    lookup.reporter.rests_on(Choice.MATCHED_IDENTITIES)
    return Decision(profile, _additions(lookup, profile, identities), matched)


def _create(lookup: Lookup, identities: Mapping[str, str], source_mpid: int | None = None) -> Decision:
    return Decision(None, _additions(lookup, None, identities), {}, source_mpid)


def _additions(lookup: Lookup, profile: Profile | None, identities: Mapping[str, str]) -> tuple[Identity, ...]:
    return tuple((type_, value) for type_, value in identities.items() if _may_add(lookup, profile, type_, value))


def _may_add(lookup: Lookup, profile: Profile | None, type_: str, value: str) -> bool:
    """Whether a call may add an identity that its profile (None: a new one) lacks.

    A guarded value stays with its owner: since September 2022 "Store and Organize User Data" lets only modify move it.
    """
    strategy, reporter = lookup.strategy, lookup.reporter
    held = profile.values(type_) if profile else ()
    if value in held:
        return False
    if held and type_ in strategy.immutable:
        reporter.withheld(type_, "it is immutable, and the profile has another value")
        return False
    if held and type_ in strategy.unique and strategy.single_value_unique_types:
        reporter.withheld(type_, "it is unique, and the profile has another value")
        reporter.rests_on(Choice.SEVERAL_VALUES)
        return False
    owners = lookup.profiles.holders(type_, value) if strategy.is_guarded(type_) else ()
    if owners:
        reporter.withheld(type_, "the value stays with its owner", owners)
        reporter.rests_on(Choice.NO_STEALING, *([] if type_ in strategy.unique else [Choice.LOGIN_GUARDED]))
        return False
    if held:
        reporter.rests_on(Choice.SEVERAL_VALUES)
    return True
