"""The service against a second implementation of its rules: any calls, under any configuration, on every store."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from idsync_driver import Answer, Caller
from idsync_model import Expected, Model

from identity_session.idsync import IdentityStrategy

PRESETS = ["default", "profile_conversion", "profile_link", "profile_isolation", "best_match"]
TYPES = ["customerid", "email", "other", "ios_idfv"]
OUTSIDE = "facebook"

# Few values, so that requests meet profiles.
VALUES = st.sampled_from(["a", "b"])
NAMED = st.sampled_from([*TYPES, OUTSIDE])
IDENTITIES = st.dictionaries(NAMED, VALUES | st.sampled_from([None, ""]), max_size=5)
# Most types at once, so that candidates have to be narrowed.
FULL = st.fixed_dictionaries(dict.fromkeys([*TYPES, OUTSIDE], VALUES))
PROFILE = st.integers(0, 9)
CHANGES = st.lists(st.tuples(NAMED, st.none() | VALUES, st.none() | VALUES), max_size=4)
SEEDED = st.dictionaries(NAMED, st.lists(VALUES, unique=True, min_size=1), max_size=4)
STEPS = st.lists(
    st.tuples(st.sampled_from(["identify", "login", "logout", "search", "read only"]), IDENTITIES | FULL, PROFILE)
    | st.tuples(st.just("modify"), CHANGES, PROFILE)
    | st.tuples(st.just("seed"), SEEDED, PROFILE),
    min_size=8,
    max_size=30,
)


@st.composite
def configurations(draw: st.DrawFn) -> IdentityStrategy:
    """Any that is allowed: a preset as it is, or types of one's own in any order with any properties."""
    strategy = draw(st.sampled_from(PRESETS))
    if draw(st.integers(0, 3)) == 0:
        return IdentityStrategy(strategy)
    order = draw(st.permutations(TYPES))
    priority = order[: draw(st.integers(1, len(order)))]
    some = st.sets(st.sampled_from(priority))
    unique = draw(some)
    login, immutable = set(), []
    if strategy != "best_match":
        immutable = priority[: draw(st.sampled_from([0, 1, 1, 2]))]
        login = draw(some) | set(immutable)
    return IdentityStrategy(
        strategy,
        priority,
        login=sorted(login),
        unique=sorted(unique | set(immutable)),
        immutable=immutable,
        single_value_unique_types=draw(st.booleans()),
        best_match_login=draw(st.sampled_from(["identify", "identify", "reject"])),
        matched_identities=draw(st.sampled_from(["deciding", "all"])),
        search_lookup=draw(st.sampled_from(["auto", "any", *(["immutable"] if immutable else [])])),
    )


class Pair:
    """A service and the model, which are told the same."""

    def __init__(self, rules: IdentityStrategy, database: str = ":memory:") -> None:
        self.caller = Caller(rules, database=database, now_ms=lambda: 1_700_000_000_000)
        self.model = Model(rules)
        self.mpids: dict[int, str] = {}
        """The MPID of each profile of the model."""

    def play(self, name: str, content: Any, number: int) -> None:
        """One step; both then agree on the answer and on every profile."""
        number %= len(self.mpids) + 1  # 0: nobody
        mpid = self.mpids.get(number)
        if name == "seed":
            self.mpids[len(self.mpids) + 1] = self.caller.seed(**content)
            self.model.records[len(self.mpids)] = {type_: set(values) for type_, values in content.items()}
        elif name == "modify":
            self._agree(self.caller.modify(mpid or "5", *content), self.model.modify(number, content))
        else:
            read_only = name == "read only"
            target = "/v1/identify?read_only=true" if read_only else name
            told = self.caller.call(target, content, mpid)
            call = "identify" if read_only else name
            self._agree(told, self.model.identity_call(call, content, number or None, read_only=read_only))
        self._agree_on_profiles()

    def _agree(self, answer: Answer, expected: Expected) -> None:
        assert answer.status == expected.status
        if expected.profile is None:
            return
        if expected.profile not in self.mpids:
            assert answer.mpid not in self.mpids.values()
            self.mpids[expected.profile] = answer.mpid
        assert answer.mpid == self.mpids[expected.profile]
        told = {name: answer.body[name] for name in expected.body}
        if "change_results" in told:
            numbers = {mpid: number for number, mpid in self.mpids.items()}
            told["change_results"] = {
                (each["identity_type"], numbers[each["modified_mpid"]]) for each in told["change_results"]
            }
        assert told == expected.body

    def _agree_on_profiles(self) -> None:
        numbers = {mpid: number for number, mpid in self.mpids.items()}
        profiles = {numbers[profile["mpid"]]: profile for profile in self.caller.profiles()}
        assert list(profiles) == list(self.model.records)
        for number, profile in profiles.items():
            held = profile["identities"] | profile["other_identities"]
            record = {type_: values for type_, values in self.model.records[number].items() if values}
            assert {type_: set(values) for type_, values in held.items()} == record
            assert set(profile["identities"]) <= set(self.model.rules.priority)
            source = self.model.sources.get(number)
            assert profile["source_mpid"] == (source and self.mpids[source])


@settings(max_examples=300)
@given(rules=configurations(), steps=STEPS)
def test_the_service_does_what_the_rules_say(rules: IdentityStrategy, steps: list[tuple[str, Any, int]]) -> None:
    """Every answer and every profile, whatever came before."""
    pair = Pair(rules)
    for step in steps:
        pair.play(*step)


@settings(max_examples=40)
@given(rules=configurations(), steps=STEPS)
def test_every_store_does_what_the_rules_say(
    shared_database: str, rules: IdentityStrategy, steps: list[tuple[str, Any, int]]
) -> None:
    """The same where profiles last."""
    pair = Pair(rules, shared_database)
    pair.caller.idsync.reset()
    for step in steps:
        pair.play(*step)
    pair.caller.idsync.close()
