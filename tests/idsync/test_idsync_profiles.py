"""The profile store: what a transaction sees, keeps and undoes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_session.idsync.profiles import AliasRecord, MemoryStore, Profile, Transaction


def counter() -> Callable[[], int]:
    return iter(range(1, 10_000)).__next__


def contents(store: MemoryStore) -> object:
    with store.transaction() as profiles:
        return [(p.mpid, {t: set(v) for t, v in p.identities.items()}) for p in profiles.all()], profiles.aliases()


ALIAS = AliasRecord("request", 1, 2, 0, 10, "device", 20)


def test_an_identity_is_found_while_it_is_held() -> None:
    """Holders follow adding and removing, within the transaction and after it."""
    store = MemoryStore(counter())
    with store.transaction() as profiles:
        first, second = profiles.create().mpid, profiles.create().mpid
        for mpid in (first, second, first):
            profiles.add(mpid, "email", "ed@example.com")
        assert [p.mpid for p in profiles.holders("email", "ed@example.com")] == [first, second]
        assert [p.values("email") for p in profiles.all()] == [("ed@example.com",), ("ed@example.com",)]
    with store.transaction() as profiles:
        profiles.remove(first, "email", "ed@example.com")
        profiles.remove(first, "email", "ed@example.com")
        assert [p.mpid for p in profiles.holders("email", "ed@example.com")] == [second]
        assert profiles.holders("other", "ed@example.com") == []
        profile = profiles.get(first)
        assert profile is not None
        assert profile.identities == {}
        assert profiles.get(99) is None


def test_an_mpid_in_use_is_drawn_again() -> None:
    """Two profiles never share an MPID, even if chance would have it."""
    draws = iter([7, 7, 7, 8])
    store = MemoryStore(lambda: next(draws))
    with store.transaction() as profiles:
        assert [profiles.create().mpid, profiles.create().mpid] == [7, 8]


def test_a_failed_transaction_leaves_nothing() -> None:
    """Created profiles, identities in both directions, aliases and a reset are all undone."""
    store = MemoryStore(counter())
    with store.transaction() as profiles:
        mpid = profiles.create().mpid
        profiles.add(mpid, "email", "a")
        profiles.record_alias(ALIAS)
    before = contents(store)

    def interrupted() -> None:
        with store.transaction() as profiles:
            profiles.add(mpid, "email", "b")
            profiles.remove(mpid, "email", "a")
            profiles.add(profiles.create().mpid, "email", "a")
            profiles.clear()
            profiles.record_alias(ALIAS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(store) == before
    with store.transaction() as profiles:
        assert [p.mpid for p in profiles.holders("email", "a")] == [mpid]
        assert profiles.holders("email", "b") == []


def write(profiles: Transaction, operation: str, type_: str, value: str) -> None:
    known = profiles.all()
    if operation == "create" or not known:
        profiles.create()
    elif operation == "clear":
        profiles.clear()
    elif operation == "alias":
        profiles.record_alias(ALIAS)
    elif operation == "add":
        profiles.add(known[len(value) % len(known)].mpid, type_, value)
    else:
        profiles.remove(known[len(value) % len(known)].mpid, type_, value)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["create", "add", "add", "remove", "alias", "clear"]),
        st.sampled_from(["email", "other"]),
        st.sampled_from(["", "a", "bb"]),
    )
)


@given(kept=OPERATIONS, undone=OPERATIONS)
def test_whatever_a_failed_transaction_wrote_is_undone(
    kept: list[tuple[str, str, str]], undone: list[tuple[str, str, str]]
) -> None:
    """Any series of writes, then any series that fails: the first remains, and lookups agree with the profiles."""
    store = MemoryStore(counter())
    with store.transaction() as profiles:
        for operation in kept:
            write(profiles, *operation)
    before = contents(store)

    def failing() -> None:
        with store.transaction() as profiles:
            for operation in undone:
                write(profiles, *operation)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert contents(store) == before
    with store.transaction() as profiles:
        for type_ in ("email", "other"):
            for value in ("", "a", "bb"):
                held = {p.mpid for p in profiles.all() if p.holds(type_, value)}
                assert {p.mpid for p in profiles.holders(type_, value)} == held


def test_profiles_come_in_order_of_creation() -> None:
    """A later change does not move a profile."""
    draws = iter([30, 10, 20])
    store = MemoryStore(lambda: next(draws))
    with store.transaction() as profiles:
        for _ in range(3):
            profiles.create()
        profiles.add(30, "email", "a")
        assert [p.mpid for p in profiles.all()] == [30, 10, 20]


def test_a_printed_profile_names_types_only() -> None:
    """Neither MPID nor identity values reach a log by way of a repr."""
    assert repr(Profile(5, 1, {"email": ("ed@example.com",)})) == "<Profile with email>"
    assert repr(Profile(5, 1)) == "<Profile with no identities>"
