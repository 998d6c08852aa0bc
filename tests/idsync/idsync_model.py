"""A second, slow implementation of the rules, to hold the service against: sets of profiles, no index, no store.

Written from the rules in words: the pages "Store and Organize User Data", "Components" and those of the strategies in
the IDSync guide, and the choices that the service makes where these are silent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from identity_session.idsync import IdentityStrategy

DEVICES = {"ios_idfv", "android_uuid", "device_application_stamp"}

Record = dict[str, set[str]]
Change = tuple[str, str | None, str | None]


@dataclass
class Expected:
    """What the service is to answer; profiles are numbered in order of creation."""

    status: int
    profile: int | None = None
    body: dict[str, Any] = field(default_factory=dict)


class _RefusedError(Exception):
    pass


class Model:
    """The profiles of one service, and what its calls do to them."""

    def __init__(self, rules: IdentityStrategy) -> None:
        self.rules = rules
        self.records: dict[int, Record] = {}
        self.sources: dict[int, int] = {}

    # What is asked of the profiles

    def holders(self, type_: str, value: str) -> set[int]:
        return {number for number, record in self.records.items() if value in record.get(type_, set())}

    def is_known(self, number: int) -> bool:
        return any(self.records[number].get(type_) for type_ in self.rules.login)

    def is_barred(self, number: int, request: Mapping[str, str]) -> bool:
        """A profile with an immutable ID is eligible only for a request with a matching one."""
        record = self.records[number]
        held = {(type_, value) for type_ in self.rules.immutable for value in record.get(type_, set())}
        return bool(held) and not held & set(request.items())

    # Whom a request finds

    def narrow(
        self, start: set[int], types: Iterable[str], request: Mapping[str, str], eligible: Callable[[int], bool]
    ) -> set[int]:
        """The first type with holders gives the candidates; each later one narrows them unless none would be left."""
        candidates = start
        for type_ in types:
            if len(candidates) == 1:
                break
            if type_ in request:
                found = {number for number in self.holders(type_, request[type_]) if eligible(number)}
                candidates = (candidates & found or candidates) if candidates else found
        return candidates

    def find(self, request: Mapping[str, str], previous: int | None) -> tuple[int | None, bool]:
        """The match, and whether a login ID found it."""
        login = [type_ for type_ in self.rules.priority if type_ in self.rules.login]
        others = [type_ for type_ in self.rules.priority if type_ not in self.rules.login]
        candidates = self.narrow(set(), login, request, lambda number: not self.is_barred(number, request))
        by_login = bool(candidates)
        if by_login:
            candidates = self.narrow(candidates, others, request, lambda number: True)
        else:
            candidates = self.narrow(set(), others, request, lambda number: not self.is_known(number))
        if not candidates:
            return None, False
        return (previous if previous in candidates else max(candidates)), by_login

    # What a call does

    def identity_call(
        self, call: str, identities: Mapping[str, str | None], previous: int | None, *, read_only: bool = False
    ) -> Expected:
        """identify, login, logout and search."""
        given = {type_: value for type_, value in identities.items() if value}
        if not given:
            return Expected(400)
        best_match = self.rules.strategy == "best_match"
        if best_match and call in ("login", "logout"):
            if self.rules.best_match_login == "reject":
                return Expected(400)
            call = "identify"
        if call == "login" and self.rules.strategy == "profile_isolation" and not set(given) & set(self.rules.login):
            return Expected(400)
        if call == "logout":
            given = {type_: value for type_, value in given.items() if type_ not in self.rules.login}
        keys = {type_: value for type_, value in given.items() if type_ in self.rules.priority}
        if call == "search" and self.searches_immutable_only():
            keys = {type_: value for type_, value in keys.items() if type_ in self.rules.immutable}

        match, by_login = self.find(keys, previous)
        source = None
        if call == "logout" and self.rules.strategy != "profile_isolation":
            match = None
        elif not by_login and self.gets_own_profile(keys):
            source, match = match, None
            if previous in self.records and not self.is_known(previous):
                source = previous
        read_only = read_only or call == "search"
        if match is None and read_only:
            return Expected(404)

        matched = self.matched(match, given, by_login=by_login)
        if not read_only:
            match = self.write(match, given)
            if source is not None and self.rules.strategy == "profile_link":
                self.sources[match] = source
        assert match is not None
        return self.answer(match, matched)

    def gets_own_profile(self, keys: Mapping[str, str]) -> bool:
        """Link and isolation leave the anonymous profile alone when a login ID is new."""
        return self.rules.strategy in ("profile_link", "profile_isolation") and any(
            type_ in keys and not self.holders(type_, keys[type_]) for type_ in self.rules.login
        )

    def searches_immutable_only(self) -> bool:
        return self.rules.search_lookup == "immutable" or (
            self.rules.search_lookup == "auto" and len(self.rules.immutable) > 0
        )

    def matched(self, match: int | None, given: Mapping[str, str], *, by_login: bool) -> dict[str, str]:
        """Those of the deciding group that were on the profile before."""
        if match is None:
            return {}
        group = set(self.rules.priority)
        if self.rules.matched_identities == "deciding":
            group = group & set(self.rules.login) if by_login else group - set(self.rules.login)
        return {t: v for t, v in given.items() if t in group and v in self.records[match].get(t, set())}

    def write(self, match: int | None, given: Mapping[str, str]) -> int:
        """Merge into the match, or create; guarded values stay with their owners."""
        if match is None:
            match = len(self.records) + 1
            self.records[match] = {}
        record = self.records[match]
        for type_, value in given.items():
            held = record.get(type_, set())
            guarded = type_ in self.rules.unique or type_ in self.rules.login
            if (
                (type_ in self.rules.immutable and held)
                or (guarded and self.holders(type_, value) - {match})
                or (type_ in self.rules.unique and held and self.rules.single_value_unique_types)
            ):
                continue
            record.setdefault(type_, set()).add(value)
        return match

    def answer(self, number: int, matched: Mapping[str, str]) -> Expected:
        record = {type_ for type_ in self.rules.priority if self.records[number].get(type_)}
        flags = {"is_logged_in": self.is_known(number), "is_ephemeral": record <= DEVICES}
        return Expected(200, number, {**flags, "matched_identities": dict(matched)})

    def modify(self, number: int, changes: Iterable[Change]) -> Expected:
        """All changes in their order, or none of them."""
        if number not in self.records:
            return Expected(404)
        before = copy.deepcopy(self.records)
        changed: set[tuple[str, int]] = set()
        try:
            for change in changes:
                earlier = copy.deepcopy(self.records)
                self.apply(number, *change)
                changed |= {
                    (change[0], each)
                    for each in self.records
                    if self.records[each].get(change[0], set()) != earlier[each].get(change[0], set())
                }
        except _RefusedError:
            self.records = before
            return Expected(400)
        told = self.answer(number, {})
        told.body["change_results"] = {(type_, each) for type_, each in changed if type_ in self.rules.priority}
        return told

    def apply(self, number: int, type_: str, old: str | None, new: str | None) -> None:
        values = self.records[number].setdefault(type_, set())
        if new is None:
            if old in values and type_ in self.rules.immutable:
                raise _RefusedError
            values.discard(old or "")
        elif old == new and new in values:
            pass
        elif type_ in self.rules.immutable and (values - {new} or self.holders(type_, new) - {number}):
            raise _RefusedError
        elif type_ in self.rules.unique or type_ in self.rules.login:
            for loser in self.holders(type_, new):
                self.records[loser][type_].discard(new)
            self.records[number][type_] = {new}
        else:
            values.discard(old or "")
            values.add(new)
