"""Profiles, and the store in memory; what it shares with the other stores is tested with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import ALIAS, contents, counter

from identity_session.idsync.memory import MemoryStore
from identity_session.idsync.profiles import Profile, Transaction


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


def test_a_printed_profile_names_types_only() -> None:
    """Neither MPID nor identity values reach a log by way of a repr."""
    assert repr(Profile(5, 1, {"email": ("ed@example.com",)})) == "<Profile with email>"
    assert repr(Profile(5, 1)) == "<Profile with no identities>"
