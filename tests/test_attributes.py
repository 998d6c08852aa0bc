"""Attributes of a user: what may be set, what setting does, and what it is worth when the setter returns."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_helpers import API_KEY, login, read_document, service, started, tree, user_file, workspace_of

from identity_session import AsyncIdentitySession, IdentitySession, IdentityUser, MemoryStorage, attributes
from identity_session.users import User

SURROGATE = "\ud800"


@pytest.fixture
def session(tmp_path: Path) -> IdentitySession:
    return started(tmp_path)


@pytest.fixture
def user(session: IdentitySession) -> IdentityUser:
    found = session.current_user
    assert found is not None
    return found


def stored_attributes(folder: Path) -> Any:
    return read_document(workspace_of(folder) / "state.json")["user"]["attributes"]


# What setters do


@pytest.mark.parametrize("value", ["gold", "", "zoë \U0001f600", 0, -1, 2**63 - 1, -(2**63), 1.5, True, False, None])
def test_text_numbers_truth_values_and_none_can_be_set(user: IdentityUser, tmp_path: Path, value: Any) -> None:
    user.set_attribute("key", value)
    assert repr(user.attributes) == repr({"key": value})
    assert repr(stored_attributes(tmp_path)) == repr({"key": value})


def test_several_attributes_can_be_set_at_once_and_leave_the_others(user: IdentityUser) -> None:
    user.set_attribute("plan", "gold")
    user.set_attributes({"city": "Berlin", "age": 30})
    user.set_attributes({})
    user.set_attributes(MappingProxyType({"age": 31}))
    assert user.attributes == {"plan": "gold", "city": "Berlin", "age": 31}


@pytest.mark.parametrize("values", [[], ["a", "b"], ("a", 1, None, True, 1.5)])
def test_a_list_can_be_set_and_may_be_empty(user: IdentityUser, tmp_path: Path, values: Any) -> None:
    user.set_attribute_list("films", values)
    assert user.attributes == {"films": list(values)}
    assert stored_attributes(tmp_path) == {"films": list(values)}


def test_a_tag_is_an_attribute_without_a_value(user: IdentityUser) -> None:
    user.set_tag("beta")
    assert user.attributes == {"beta": None}
    user.remove_tag("BETA")
    assert user.attributes == {}


@pytest.mark.parametrize("set_again", ["set_attribute", "set_attributes", "set_attribute_list", "set_tag"])
def test_a_key_that_differs_only_in_case_is_replaced_by_the_new_spelling(user: IdentityUser, set_again: str) -> None:
    user.set_attributes({"Plan": "gold", "city": "Berlin"})
    arguments: dict[str, tuple[Any, ...]] = {
        "set_attribute": ("PLAN", "new"),
        "set_attributes": ({"PLAN": "new"},),
        "set_attribute_list": ("PLAN", ["new"]),
        "set_tag": ("PLAN",),
    }
    getattr(user, set_again)(*arguments[set_again])
    assert list(user.attributes) == ["city", "PLAN"]


def test_of_two_spellings_set_at_once_the_last_one_counts(user: IdentityUser) -> None:
    """As if each had been set in turn, which is what the SDK does."""
    user.set_attributes({"plan": "silver", "Plan": "gold", "PLAN": "platinum"})
    assert user.attributes == {"PLAN": "platinum"}


def test_removing_regards_no_case_and_an_unknown_key_is_fine(user: IdentityUser) -> None:
    user.set_attributes({"Plan": "gold", "city": "Berlin", "STRASSE": 1})
    for key in ("pLAN", "unknown", "strasse"):
        user.remove_attribute(key)
    assert user.attributes == {"city": "Berlin"}


def test_all_attributes_can_be_removed_at_once(user: IdentityUser) -> None:
    user.set_attributes({"Plan": "gold", "city": "Berlin"})
    user.set_tag("beta")
    user.remove_all_attributes()
    user.remove_all_attributes()
    assert user.attributes == {}


# Wrong arguments


class Colour(Enum):
    RED = "red"


class Plain:
    pass


WRONG_VALUES: list[tuple[Any, type[Exception]]] = [
    ({}, TypeError),
    ({"a": 1}, TypeError),
    ([], TypeError),
    (["a"], TypeError),
    ((), TypeError),
    ({1}, TypeError),
    (b"bytes", TypeError),
    (1j, TypeError),
    (Decimal(1), TypeError),
    (len, TypeError),
    (Plain(), TypeError),
    (Colour.RED, TypeError),
    (timedelta(1), TypeError),
    (math.nan, ValueError),
    (math.inf, ValueError),
    (-math.inf, ValueError),
    (2**63, ValueError),
    (-(2**63) - 1, ValueError),
    (SURROGATE, ValueError),
]
WRONG_KEYS: list[tuple[Any, type[Exception]]] = [
    (None, TypeError),
    (1, TypeError),
    (True, TypeError),
    (b"key", TypeError),
    ([], TypeError),
    ({}, TypeError),
    (("a",), TypeError),
    (Plain(), TypeError),
    ("", ValueError),
    (SURROGATE, ValueError),
]


def refuses(change: Callable[[], object], error: type[Exception], folder: Path) -> None:
    before = tree(folder)
    with pytest.raises(error) as caught:
        change()
    assert type(caught.value) is error
    assert tree(folder) == before


@pytest.mark.parametrize(("value", "error"), WRONG_VALUES, ids=repr)
def test_a_wrong_value_raises_before_anything_changes(
    user: IdentityUser, tmp_path: Path, value: Any, error: type[Exception]
) -> None:
    refuses(lambda: user.set_attribute("key", value), error, tmp_path)
    refuses(lambda: user.set_attributes({"good": 1, "key": value}), error, tmp_path)
    refuses(lambda: user.set_attribute_list("key", ["good", value]), error, tmp_path)


@pytest.mark.parametrize(("key", "error"), WRONG_KEYS, ids=repr)
def test_a_wrong_key_raises_before_anything_changes(
    user: IdentityUser, tmp_path: Path, key: Any, error: type[Exception]
) -> None:
    refuses(lambda: user.set_attribute(key, "value"), error, tmp_path)
    if key.__hash__ is not None:
        refuses(lambda: user.set_attributes({"good": 1, key: "value"}), error, tmp_path)
    for change in (user.remove_attribute, user.set_tag, user.remove_tag):
        refuses(lambda change=change: change(key), error, tmp_path)
    refuses(lambda: user.set_attribute_list(key, []), error, tmp_path)


@pytest.mark.parametrize("given", [None, "text", [("a", 1)], {"a"}, 1])
def test_several_attributes_must_come_as_a_mapping(user: IdentityUser, tmp_path: Path, given: Any) -> None:
    refuses(lambda: user.set_attributes(given), TypeError, tmp_path)


@pytest.mark.parametrize("given", [None, "text", {"a": 1}, {"a"}, iter("ab"), range(2), 1, b"ab"], ids=repr)
def test_a_list_must_be_a_list_or_a_tuple(user: IdentityUser, tmp_path: Path, given: Any) -> None:
    refuses(lambda: user.set_attribute_list("key", given), TypeError, tmp_path)


def test_the_error_for_a_list_says_which_method_takes_one(user: IdentityUser) -> None:
    with pytest.raises(TypeError, match="use set_attribute_list"):
        user.set_attribute("films", ["a"])  # type: ignore[arg-type]


def test_no_error_shows_a_value(user: IdentityUser) -> None:
    for change in (
        lambda: user.set_attribute("key", {"canary": "canary"}),  # type: ignore[arg-type]
        lambda: user.set_attribute("key", "canary" + SURROGATE),
        lambda: user.set_attribute_list("key", "canary"),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            change()
        assert "canary" not in str(caught.value)


def test_wrong_arguments_raise_even_while_opted_out(session: IdentitySession, user: IdentityUser) -> None:
    session.set_opt_out(True)
    with pytest.raises(TypeError):
        user.set_attribute("key", object())  # type: ignore[arg-type]


class Size(IntEnum):
    LARGE = 3


class Plan(StrEnum):
    GOLD = "gold"


def test_enumerations_of_text_and_numbers_are_stored_as_what_they_are(user: IdentityUser, tmp_path: Path) -> None:
    user.set_attributes({"size": Size.LARGE, Plan.GOLD: Plan.GOLD})
    assert stored_attributes(tmp_path) == {"size": 3, "gold": "gold"}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)


@settings(max_examples=100)
@given(changes=st.lists(st.tuples(texts.filter(bool), scalars | texts), max_size=6))
def test_whatever_is_set_the_last_value_of_each_key_is_kept_and_no_two_keys_differ_only_in_case(
    changes: list[tuple[str, Any]],
) -> None:
    user = User("7")
    expected: dict[str, Any] = {}
    for key, value in changes:
        user = attributes.set_attribute(key, value)(user)
        expected = {k: v for k, v in expected.items() if k.lower() != key.lower()} | {key: value}
    assert user.attributes == expected
    assert list(user.attributes) == list(expected)
    at_once = attributes.set_attributes(dict(changes))(User("7")).attributes
    assert {key.lower() for key in at_once} == {key.lower() for key in expected}
    assert json.loads(json.dumps(at_once)) == at_once


# What comes out, and goes in, is a copy


def test_changing_what_was_returned_or_given_changes_nothing(user: IdentityUser) -> None:
    films = ["a"]
    given = {"plan": "gold"}
    user.set_attribute_list("films", films)
    user.set_attributes(given)
    films.append("b")
    given["plan"] = "silver"
    for read in (lambda: user.attributes, user.getAllUserAttributes):
        out = read()
        out["films"].append("c")
        out["city"] = "Berlin"
    user.getUserAttributesLists()["films"].append("d")
    user.identities["email"] = "a@example.com"
    user.getUserIdentities()["userIdentities"]["email"] = "a@example.com"
    assert user.attributes == {"films": ["a"], "plan": "gold"}
    assert user.identities == {}


def test_with_a_storage_in_memory_copies_are_copies_too() -> None:
    user = started(MemoryStorage()).current_user
    assert user is not None
    user.set_attribute_list("films", ["a"])
    user.attributes["films"].append("b")
    assert user.attributes == {"films": ["a"]}


class SharingStorage(MemoryStorage):
    """A storage of one's own that hands out the very objects it keeps."""

    def in_workspace(self, name: str) -> MemoryStorage:
        return self

    def read(self, name: str) -> Any:
        return self._objects.get(name)

    def write(self, name: str, content: Any) -> None:
        self._objects[name] = json.loads(json.dumps(content))


def test_copies_are_copies_even_from_a_storage_that_hands_out_its_own_objects() -> None:
    user = started(SharingStorage()).current_user
    assert user is not None
    user.set_attribute_list("films", ["a"])
    user.attributes["films"].append("b")
    user.attributes["plan"] = "gold"
    user.identities["email"] = "a@example.com"
    assert (user.attributes, user.identities) == ({"films": ["a"]}, {})


# When the setter returns


def test_a_change_is_on_disk_when_the_setter_returns(user: IdentityUser, tmp_path: Path) -> None:
    user.set_attribute("a", 1)
    assert stored_attributes(tmp_path) == {"a": 1}
    user.set_attributes({"b": 2})
    assert stored_attributes(tmp_path) == {"a": 1, "b": 2}
    user.set_attribute_list("c", [3])
    user.set_tag("d")
    assert stored_attributes(tmp_path) == {"a": 1, "b": 2, "c": [3], "d": None}
    user.remove_attribute("a")
    user.remove_tag("d")
    assert stored_attributes(tmp_path) == {"b": 2, "c": [3]}
    user.remove_all_attributes()
    assert stored_attributes(tmp_path) == {}
    user.set_consent_state({"gdpr": {}})
    assert read_document(workspace_of(tmp_path) / "state.json")["user"]["consent_state"] == {"gdpr": {}}


def test_another_session_on_the_same_storage_sees_it_at_once(user: IdentityUser, tmp_path: Path) -> None:
    other = started(tmp_path).current_user
    assert other is not None
    user.set_attribute("plan", "gold")
    assert other.attributes == {"plan": "gold"}
    other.remove_attribute("plan")
    assert user.attributes == {}


def test_a_setter_sends_nothing(tmp_path: Path) -> None:
    sent: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request.url.path)
        return service(request)

    user = started(tmp_path, transport=httpx.MockTransport(handler)).current_user
    assert user is not None
    with freeze_time("2031-01-01"):  # the session has long expired
        user.set_attribute("plan", "gold")
    assert sent == ["/v1/identify"]


# Users who are not current


def test_attributes_can_be_set_on_a_user_who_is_not_current(session: IdentitySession, tmp_path: Path) -> None:
    first = session.current_user
    login(session, "7")
    assert first is not None
    before = first.last_seen
    first.set_attribute("plan", "gold")
    first.set_consent_state({"gdpr": {}})
    assert first.attributes == {"plan": "gold"}
    assert read_document(user_file(workspace_of(tmp_path), "100"))["attributes"] == {"plan": "gold"}
    assert (session.mpid, session.current_user.attributes) == ("7", {})  # type: ignore[union-attr]
    assert first.last_seen == before
    assert login(session, "100").get_user().attributes == {"plan": "gold"}


def test_attributes_of_a_user_who_was_forgotten_bring_nobody_back(session: IdentitySession, user: IdentityUser) -> None:
    session.reset()
    user.set_attribute("plan", "gold")
    user.set_consent_state({"gdpr": {}})
    assert user.attributes == {}
    assert session.get_users() == []


# Opting out


def test_while_opted_out_every_change_but_consent_is_ignored(session: IdentitySession, tmp_path: Path) -> None:
    current = session.current_user
    assert current is not None
    login(session, "7")
    other = session.current_user
    assert other is not None
    session.set_opt_out(False)
    for user in (current, other):
        user.set_attributes({"plan": "gold", "films": None})
    session.set_opt_out(True)
    before = tree(tmp_path)
    for user in (current, other):
        user.set_attribute("plan", "silver")
        user.set_attributes({"plan": "silver"})
        user.set_attribute_list("films", ["a"])
        user.set_tag("beta")
        user.remove_attribute("plan")
        user.remove_tag("plan")
        user.remove_all_attributes()
    assert tree(tmp_path) == before
    for user in (current, other):
        user.set_consent_state({"gdpr": {}})
        assert user.consent_state == {"gdpr": {}}
        assert user.attributes == {"plan": "gold", "films": None}
    session.set_opt_out(False)
    current.set_attribute("plan", "silver")
    assert current.attributes["plan"] == "silver"


# Activity


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (lambda user: user.set_attribute("a", 1), True),
        (lambda user: user.set_attributes({}), True),
        (lambda user: user.set_attribute_list("a", []), True),
        (lambda user: user.remove_attribute("not there"), True),
        (lambda user: user.remove_all_attributes(), True),
        (lambda user: user.set_tag("a"), True),
        (lambda user: user.remove_tag("not there"), True),
        (lambda user: user.set_consent_state({"gdpr": {}}), False),
        (lambda user: user.attributes, False),
    ],
    ids=["set", "set none", "list", "remove", "remove all", "tag", "untag", "consent", "read"],
)
@pytest.mark.parametrize("is_current", [True, False])
def test_attribute_changes_are_activity_of_the_session_and_consent_is_not(
    change: Callable[[IdentityUser], object], counts: bool, is_current: bool
) -> None:
    with freeze_time("2024-01-01") as frozen:
        session = started(MemoryStorage(), session_timeout=timedelta(minutes=30))
        user = session.current_user
        assert user is not None
        if not is_current:
            login(session, "7")
        first = session.session_id
        frozen.tick(timedelta(minutes=20))
        change(user)
        frozen.tick(timedelta(minutes=20))
        assert session.session_id == (first if counts else None)
        change(user)
        assert (session.session_id is not None) == counts
        frozen.tick(timedelta(minutes=31))
        change(user)
        assert (session.session_id not in (None, first)) == counts


# The asynchronous front


def test_setters_of_the_asynchronous_front_are_awaited_and_on_disk_then(tmp_path: Path) -> None:
    async def journey() -> None:
        session = AsyncIdentitySession(API_KEY, storage=tmp_path, transport=httpx.MockTransport(service))
        async with session:
            user = session.current_user
            assert user is not None
            assert await user.set_attribute("Plan", "gold") is None
            assert stored_attributes(tmp_path) == {"Plan": "gold"}
            await user.set_attributes({"city": "Berlin"})
            await user.set_attribute_list("films", ("a",))
            await user.set_tag("beta")
            assert stored_attributes(tmp_path) == {"Plan": "gold", "city": "Berlin", "films": ["a"], "beta": None}
            await user.remove_attribute("plan")
            await user.remove_tag("beta")
            assert user.attributes == {"city": "Berlin", "films": ["a"]}
            await user.remove_all_attributes()
            await user.set_consent_state({"gdpr": {}})
            assert (user.attributes, user.consent_state) == ({}, {"gdpr": {}})
            for wrong in (lambda: user.set_attribute("", 1), lambda: user.set_consent_state([])):  # type: ignore[arg-type]
                with pytest.raises((TypeError, ValueError)):
                    await wrong()
            await session.set_opt_out(True)
            await user.set_attribute("plan", "gold")
            assert user.attributes == {}

    asyncio.run(journey())
