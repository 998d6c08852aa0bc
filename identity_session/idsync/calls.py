"""What each call asks of the profiles, once its bytes are known to be in order.

A call is prepared first: its body is read, and whom it names is known. Then it is carried out within a transaction.

Sources: documentation page "HTTP API" of IDSync and its swagger file (`read_only`, `return_matches`); page "Aliasing"
of the IDSync guide.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from identity_session.exchange import Call
from identity_session.wire import AliasBody, IdentityBody, ModifyBody

from . import aliases, answers
from .choices import Choice
from .identity_types import KNOWN_TYPES
from .modification import modify
from .profiles import Identity, Transaction
from .refusals import AliasRefusedError, NotFoundError
from .requests import NamedCall, identity_changes, known_identities, parse_mpid, read
from .resolver import carry_out, decide
from .strategies import IdentityStrategy
from .trail import Step, Trail


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What a call came to."""

    body: Mapping[str, Any] | None = None
    """The body of the answer; alias has none."""
    mpid: int | None = None
    created: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Prepared:
    """A call that can be carried out, and whom it names: known before the transaction, which may lock them."""

    identities: tuple[Identity, ...]
    mpid: int | None
    """The profile that modify names, and the destination of an alias request."""
    carry_out: Callable[[Transaction, Trail], Outcome]
    """May raise a refusal; the transaction then undoes what was written."""

    @property
    def names(self) -> tuple[Hashable, ...]:
        """All it names: identities, or the MPID."""
        return self.identities if self.mpid is None else (self.mpid,)


def prepare(
    strategy: IdentityStrategy, where: NamedCall, content: Mapping[str, Any], now_ms: int, *, draws: bool = True
) -> Prepared:
    """Read the body of a call. Raises a refusal.

    With `draws` False no profile is created where one would be: an MPID once drawn is gone, even if nothing is kept.
    """
    if where.call is Call.MODIFY:
        return _modification(strategy, where, content, now_ms)
    if where.call is Call.ALIAS:
        return _alias(strategy, content, now_ms)
    return _resolution(strategy, where, content, now_ms, draws=draws)


def _resolution(
    strategy: IdentityStrategy, where: NamedCall, content: Mapping[str, Any], now_ms: int, *, draws: bool
) -> Prepared:
    """identify, login, logout and search."""
    body = read(IdentityBody, content)
    identities = known_identities(body.known_identities, lenient=strategy.lenient_identities)
    previous_mpid = parse_mpid(body.previous_mpid)
    read_only = where.call is Call.SEARCH or where.flag("read_only", default=False)
    unknown = sum(type_ not in KNOWN_TYPES for type_ in body.known_identities)

    def resolve(profiles: Transaction, trail: Trail) -> Outcome:
        if unknown:
            trail.append((Step.UNKNOWN_IGNORED, unknown))
            trail.append((Choice.VALIDATION,))
        decision = decide(strategy, where.call, identities, previous_mpid, profiles, trail)
        trail.append((Choice.EPHEMERAL,))
        if read_only:
            trail.append((Step.NOTHING_WRITTEN,))
            if decision.match is None:
                choice = Choice.SEARCH_NOT_FOUND if where.call is Call.SEARCH else Choice.READ_ONLY
                raise NotFoundError("No profile matches.", choice)
            profile = decision.match
        elif draws or decision.match:
            profile = carry_out(decision, profiles, now_ms, trail)
        else:
            trail.append((Step.WOULD_CREATE, tuple([type_ for type_, _ in decision.additions])))
            return Outcome(created=True)
        matched = decision.matched_identities if where.flag("return_matches", default=True) else None
        return Outcome(answers.identity(strategy, profile, matched), profile.mpid, decision.match is None)

    return Prepared(tuple(identities.items()), None, resolve)


def _modification(strategy: IdentityStrategy, where: NamedCall, content: Mapping[str, Any], now_ms: int) -> Prepared:
    changes = identity_changes(read(ModifyBody, content).identity_changes)
    mpid = parse_mpid(where.argument)
    values = tuple(
        (change.identity_type, value)
        for change in changes
        for value in (change.old_value, change.new_value)
        if value is not None
    )

    def change(profiles: Transaction, trail: Trail) -> Outcome:
        modification = modify(strategy, mpid, changes, profiles, trail)
        profiles.seen(modification.profile.mpid, now_ms)
        trail.append((Choice.EPHEMERAL,))
        return Outcome(answers.modified(strategy, modification), modification.profile.mpid)

    return Prepared(values, mpid, change)


def _alias(strategy: IdentityStrategy, content: Mapping[str, Any], now_ms: int) -> Prepared:
    if not strategy.preset.aliasing:
        raise AliasRefusedError("This strategy knows no aliasing.", Choice.ALIAS_STRATEGIES)
    if not strategy.alias_enabled:
        raise AliasRefusedError("Aliasing is switched off.", Choice.ALIAS_STRATEGIES)
    body = read(AliasBody, content)

    def accept(profiles: Transaction, trail: Trail) -> Outcome:
        profiles.record_alias(aliases.check(body.data, body.request_id, now_ms, profiles))
        trail.append((Step.ALIAS_ACCEPTED,))
        trail.append((Choice.ALIAS_CHECKS,))
        return Outcome()

    return Prepared((), parse_mpid(body.data.destination_mpid), accept)
