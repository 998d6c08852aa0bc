"""Strategies: the presets, what differs from them, and configurations that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from identity_session.identities import IdentityType
from identity_session.idsync import IdentityStrategy
from identity_session.idsync.identity_types import DEVICE_TYPES, KNOWN_TYPES, USER_TYPES
from identity_session.idsync.strategies import PRESETS, PRIORITIES


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_strategy(name: str) -> None:
    """A preset's name alone is a configuration."""
    strategy = IdentityStrategy(name)
    assert strategy.priority == PRIORITIES[name]
    assert (strategy.unique, strategy.login, strategy.immutable) == (
        PRESETS[name].unique,
        PRESETS[name].login,
        PRESETS[name].immutable,
    )


def test_presets_have_the_documented_columns() -> None:
    """Unique and login IDs, new known user, logout and aliasing are as the strategies' pages print them."""
    customer, both = ("customerid",), ("customerid", "email")
    columns = {
        name: (row.unique, row.login, row.on_new_known_user, row.on_logout, row.aliasing)
        for name, row in PRESETS.items()
    }
    assert columns == {
        "default": (customer, customer, "converts", "new MPID", True),
        "default_2022": (customer, customer, "converts", "new MPID", True),
        "profile_conversion": (both, both, "converts", "new MPID", True),
        "profile_link": (both, both, "linked record", "new MPID", True),
        "profile_isolation": (both, both, "new record", "return", False),
        "best_match": ((), (), None, None, False),
    }


def test_default_is_the_later_page_and_default_2022_the_older_one() -> None:
    """Only the later generation of the Default Strategy makes customerid immutable."""
    assert IdentityStrategy().immutable == ("customerid",)
    assert "amp_id" in IdentityStrategy().priority
    assert IdentityStrategy("default_2022").immutable == ()
    assert IdentityStrategy("default_2022").priority[:3] == ("customerid", "mobile_number", "email")


def test_fields_left_none_are_the_presets() -> None:
    """None and leaving out are the same; lists become tuples."""
    strategy = IdentityStrategy("profile_link", priority=["email", "ios_idfv"], login=["email"], unique=[])
    assert strategy.priority == ("email", "ios_idfv")
    assert strategy.immutable == ()
    none: Any = None
    assert IdentityStrategy("profile_link", priority=none, login=none) == IdentityStrategy("profile_link")


def test_login_types_come_in_the_order_of_the_priority() -> None:
    """However the login types are listed, the priority orders them."""
    strategy = IdentityStrategy("profile_conversion", login=["email", "customerid"])
    assert strategy.login_types == ("customerid", "email")
    assert strategy.other_types == ("ios_idfv", "roku_aid", "other", "device_application_stamp")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"strategy": "cleancut"}, "unknown strategy 'cleancut'"),
        ({"priority": ["customerid", "e-mail"]}, "unknown identity type 'e-mail' in priority"),
        ({"priority": []}, "the priority is empty"),
        ({"priority": ["customerid", "email", "customerid"]}, "priority names a type twice"),
        ({"login": "customerid"}, "login is a single str"),
        ({"priority": ["email"]}, "login type 'customerid' is not in the priority"),
        ({"unique": ["customerid", "other"]}, "unique type 'other' is not in the priority"),
        ({"immutable": ["other"]}, "immutable type 'other' is not in the priority"),
        ({"immutable": ["email"], "login": ["email"]}, "immutable type 'email' must be a unique and a login type"),
        ({"immutable": ["email"], "unique": ["email"]}, "immutable type 'email' must be a unique and a login type"),
        ({"priority": ["email", "customerid"]}, "immutable types must come first in the priority"),
        ({"strategy": "best_match", "login": ["email"]}, "best match has no login types"),
        ({"best_match_login": "refuse"}, "best_match_login is 'refuse'; pass one of identify, reject"),
        ({"search_lookup": "all"}, "search_lookup is 'all'"),
        ({"matched_identities": "none"}, "matched_identities is 'none'"),
        ({"context": "none"}, "context is 'none'"),
        ({"error_shape": "web"}, "error_shape is 'web'"),
        ({"strategy": "best_match", "search_lookup": "immutable"}, "needs an immutable type"),
        ({"max_age_s": -1}, "max_age_s must be a whole number"),
        ({"max_age_s": "a day"}, "max_age_s must be a whole number"),
    ],
)
def test_a_senseless_configuration_is_refused_with_the_reason(settings: dict[str, Any], reason: str) -> None:
    """A mistake in the configuration shows when it is made, not in the first answer."""
    with pytest.raises(ValueError, match=reason):
        IdentityStrategy(**settings)


def test_the_service_takes_every_type_that_a_client_may_send() -> None:
    """The union of the vendor's lists: 22 user types, 10 device types, none in both."""
    assert set(IdentityType) <= USER_TYPES
    assert "alias" in USER_TYPES
    assert {"fire_aid", "push_token", "roku_publisher_id", "device_application_stamp"} <= DEVICE_TYPES
    assert not USER_TYPES & DEVICE_TYPES
    assert (len(USER_TYPES), len(DEVICE_TYPES), len(KNOWN_TYPES)) == (22, 10, 32)
