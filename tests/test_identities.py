"""What a caller may say about a user."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_session import IdentityRequest, IdentityType
from identity_session.identities import (
    InvalidRequestError,
    clean_identities,
    clean_request,
    covers,
    is_text,
    overlay,
)

NAMES = st.sampled_from(sorted(IdentityType))
VALUES = st.one_of(st.none(), st.text().filter(is_text))


def test_the_types_are_those_of_the_web_sdk() -> None:
    expected = ["other", "customerid", "facebook", "twitter", "google", "microsoft", "yahoo", "email"]
    expected += ["facebookcustomaudienceid"]
    expected += [f"other{n}" for n in range(2, 11)] + ["mobile_number", "phone_number_2", "phone_number_3"]
    assert sorted(IdentityType) == sorted(expected)


@pytest.mark.parametrize("name", IdentityType)
def test_every_type_is_taken_by_name_and_by_member(name: IdentityType) -> None:
    assert clean_identities({name: "v"}) == clean_identities({str(name): "v"}) == {name: "v"}


@pytest.mark.parametrize(
    ("given_", "sent"),
    [
        ({"email_sha256": "h"}, {"other": "h"}),
        ({"mobile_sha256": "h"}, {"other2": "h"}),
        ({"other": "o", "email_sha256": "h"}, {"other": "h"}),
        ({"email_sha256": "h", "other": "o"}, {"other": "h"}),
        ({"email_sha256": None, "other": "o"}, {"other": None}),
        ({"email_sha256": "", "other": "o"}, {"other": "o"}),
    ],
)
def test_hashes_go_out_under_their_slot_and_win_over_it(given_: Any, sent: Any) -> None:
    assert clean_identities(given_) == sent


@pytest.mark.parametrize("value", [" ", " a ", "A@B.C", "0", "false", "null", "x" * 10_000, "zoë", "日本", "a\nb"])
def test_values_are_sent_exactly_as_given(value: str) -> None:
    assert clean_identities({"email": value}) == {"email": value}


def test_the_order_of_the_caller_is_kept() -> None:
    names = ["yahoo", "email", "customerid", "other3"]
    assert list(clean_identities(dict.fromkeys(names, "v"))) == names


def test_any_mapping_will_do() -> None:
    request = MappingProxyType({"userIdentities": MappingProxyType({"email": "a"})})
    assert clean_request(request).identities == {"email": "a"}


def test_the_deprecated_members_are_taken() -> None:
    clean = clean_request({"userIdentities": {}, "onUserAlias": print, "copyUserAttributes": True})
    assert clean.on_user_alias is print


@pytest.mark.parametrize(
    ("request_", "hint"),
    [
        ({"userIdentities": {"bogus": "x"}}, "known types: customerid, email"),
        ({"email": "a"}, "identities belong under 'userIdentities'"),
        ({"copyUserAttributes": True}, "'userIdentities' is missing"),
        ({"userIdentities": {"email": 5}}, "pass a str or None"),
        ("text", "pass an IdentityRequest"),
        ({"userIdentities": []}, "pass a mapping"),
        ({"onUserAlias": 1, "userIdentities": {}}, "pass a callable"),
        ({"userIdentities": {"email": "\udc80"}}, "UTF-8"),
    ],
)
def test_a_refusal_says_what_to_do(request_: Any, hint: str) -> None:
    with pytest.raises(InvalidRequestError, match=hint):
        clean_request(request_)


def test_a_request_shows_names_but_no_values() -> None:
    assert repr(IdentityRequest({"email": "a@example.com"})) == "<IdentityRequest email>"
    assert repr(IdentityRequest(5)) == "<IdentityRequest ?>"


def test_a_request_with_name_and_value_the_wrong_way_round_shows_neither() -> None:
    swapped: Any = {"a@example.com": "email", 5: "customerid", "mobile_sha256": "x"}
    assert repr(IdentityRequest(swapped)) == "<IdentityRequest ?, ?, mobile_sha256>"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_anything_is_either_cleaned_or_refused(request_: Any) -> None:
    try:
        identities = clean_request(request_).identities
    except InvalidRequestError:
        return
    assert all(name in set(IdentityType) and value != "" for name, value in identities.items())


@given(st.dictionaries(NAMES, VALUES))
def test_cleaning_twice_changes_nothing(identities: dict[str, str | None]) -> None:
    once = clean_identities(identities)
    assert clean_identities(once) == once


@given(st.dictionaries(NAMES, st.text()), st.dictionaries(NAMES, st.none() | st.text()))
def test_what_was_sent_is_covered_by_what_is_stored_then(stored: dict[str, str], sent: dict[str, str | None]) -> None:
    after = overlay(stored, sent)
    assert covers(after, sent)
    assert {name: value for name, value in after.items() if name not in sent} == {
        name: value for name, value in stored.items() if name not in sent
    }
