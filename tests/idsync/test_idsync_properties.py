"""What holds for every series of calls under every strategy."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from idsync_driver import Answer, Caller

from identity_session.idsync import IdentityStrategy

PRIORITY = ["customerid", "email", "other", "ios_idfv"]
STRATEGIES = {
    "immutable": IdentityStrategy(
        "profile_conversion",
        PRIORITY,
        login=["customerid", "email"],
        unique=["customerid", "email"],
        immutable=["customerid"],
    ),
    "conversion": IdentityStrategy("profile_conversion", PRIORITY, ["customerid"], ["customerid", "email"], []),
    "link": IdentityStrategy("profile_link", PRIORITY),
    "isolation": IdentityStrategy("profile_isolation", PRIORITY),
    "isolation, not unique": IdentityStrategy("profile_isolation", PRIORITY, ["email"], [], []),
    "best match": IdentityStrategy("best_match", PRIORITY),
}

VALUES = st.sampled_from(["a", "b", "c"])
IDENTITIES = st.dictionaries(st.sampled_from([*PRIORITY, "facebook"]), VALUES, min_size=1)
CHANGES = st.lists(
    st.tuples(st.sampled_from([*PRIORITY, "facebook"]), st.none() | VALUES, st.none() | VALUES), max_size=3
)
PROFILE = st.none() | st.integers(0, 5)
CALLS = st.lists(
    st.tuples(st.sampled_from(["identify", "login", "logout", "search"]), IDENTITIES, PROFILE)
    | st.tuples(st.just("modify"), CHANGES, PROFILE),
    max_size=12,
)


def play(caller: Caller, name: str, content: Any, profile: int | None) -> Answer:
    known = list(caller.store())
    mpid = known[profile % len(known)] if known and profile is not None else None
    if name == "modify":
        return caller.modify(mpid or "5", *content)
    return caller.call(name, content, mpid)


def check_store(strategy: IdentityStrategy, store: dict[str, dict[str, list[str]]]) -> None:
    for type_ in PRIORITY:
        held = [value for record in store.values() for value in record.get(type_, [])]
        if strategy.is_guarded(type_):
            assert len(held) == len(set(held)), f"a {type_} is on two profiles"
    for record in store.values():
        assert all(len(record.get(type_, [])) <= 1 for type_ in strategy.immutable)


@given(name=st.sampled_from(sorted(STRATEGIES)), calls=CALLS)
def test_invariants(name: str, calls: list[tuple[str, Any, int | None]]) -> None:
    """Unique values and login IDs have one owner, immutable IDs stay, profiles are never lost, refused calls and
    searches leave no trace, modify keeps the MPID, a logout never ends on a known user, an answer fits the store."""
    strategy = STRATEGIES[name]
    caller, twin = (Caller(strategy, seed=1, now_ms=lambda: 1_700_000_000_000) for _ in range(2))
    for call, content, profile in calls:
        before = caller.idsync.profiles()
        known = list(caller.store())
        answer = play(caller, call, content, profile)
        after = caller.store()

        assert answer.status in (200, 400, 404)
        check_store(strategy, after)
        assert list(after)[: len(known)] == known
        for old in before:
            for type_ in strategy.immutable:
                if type_ in old["identities"]:
                    assert after[old["mpid"]][type_] == old["identities"][type_]
        if answer.status != 200 or call == "search":
            assert caller.idsync.profiles() == before
        if answer.status == 200:
            record = after[answer.mpid]
            assert answer.body["is_logged_in"] is any(type_ in record for type_ in strategy.login)
            assert answer.body["is_ephemeral"] is not any(type_ in record for type_ in PRIORITY[:3])
            assert not (call == "logout" and answer.body["is_logged_in"])
            assert not (call == "modify" and known[profile % len(known)] != answer.mpid)  # type: ignore[operator]

        play(twin, call, content, profile)
        assert twin.idsync.profiles() == caller.idsync.profiles(), "equal calls lead to equal profiles"


@given(name=st.sampled_from(sorted(STRATEGIES)), calls=CALLS, identities=IDENTITIES)
def test_a_search_foretells_the_identify(
    name: str, calls: list[tuple[str, Any, int | None]], identities: dict[str, str]
) -> None:
    """Where every type may be searched for, search finds whom identify returns, and nobody where it creates."""
    caller = Caller(STRATEGIES[name])
    for call in calls:
        play(caller, *call)
    known = caller.store()
    search, identify = caller.call("search", identities), caller.call("identify", identities)
    if not STRATEGIES[name].immutable:
        assert (search.status == 200) is (identify.mpid in known)
    if search.status == 200:
        assert search.mpid == identify.mpid


@given(name=st.sampled_from(sorted(STRATEGIES)), calls=CALLS, identities=IDENTITIES)
def test_a_repeated_identify_finds_the_same_profile(
    name: str, calls: list[tuple[str, Any, int | None]], identities: dict[str, str]
) -> None:
    """Unless it came out an orphan, or a profile that only holds some of what was asked for."""
    caller = Caller(STRATEGIES[name])
    for call in calls:
        play(caller, *call)
    first = caller.call("identify", identities)
    asked = {type_: [value] for type_, value in identities.items() if type_ in PRIORITY}
    if asked and caller.store()[first.mpid].items() >= asked.items():
        assert caller.call("identify", identities, first.mpid).mpid == first.mpid
