"""Strategies: the presets, what differs from them, and configurations that are refused."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
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
        ({"login": "customerid"}, "login is a str; pass a list"),
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
        ({"retention_days": 0}, "retention_days must be days, more than 0"),
        ({"retention_days": float("inf")}, "retention_days must be days, more than 0"),
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


TOML = """
strategy = "profile_conversion"
priority = ["customerid", "email", "ios_idfv"]
login = ["customerid"]
unique = ["customerid", "email"]
immutable = ["customerid"]
max_age_s = 60
max_clock_skew_s = 300
key_rate_per_s = 2.5
trail = false

[api_keys]
us1-key = "secret"
"""


def test_a_toml_file_describes_a_strategy(tmp_path: Path) -> None:
    """By path, by its text, or as the table that was read from one."""
    file = tmp_path / "idsync.toml"
    file.write_text(TOML, encoding="utf-8")
    expected = IdentityStrategy(
        "profile_conversion",
        ["customerid", "email", "ios_idfv"],
        ["customerid"],
        ["customerid", "email"],
        ["customerid"],
        max_age_s=60,
        max_clock_skew_s=300,
        key_rate_per_s=2.5,
        trail=False,
        api_keys={"us1-key": "secret"},
    )
    for source in (file, str(file), tomllib.loads(TOML)):
        assert IdentityStrategy.from_toml(source) == expected
    assert IdentityStrategy.from_toml({}) == IdentityStrategy()
    assert hash(expected) == hash(IdentityStrategy.from_toml(file))


def test_an_empty_file_is_the_default_strategy(tmp_path: Path) -> None:
    """Nothing differs from it."""
    (tmp_path / "empty.toml").touch()
    assert IdentityStrategy.from_toml(tmp_path / "empty.toml") == IdentityStrategy()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"strategy = ", "no TOML: "),
        (b"\xff", "no TOML: "),
        (b'login_types = ["email"]', "unknown setting 'login_types'; known: strategy, priority, login, unique"),
        (b"[strategy]", "unknown strategy"),
        (b"strategy = 5", "unknown strategy 5"),
        (b'priority = "email"', "priority is a str"),
        (b"priority = [5]", "unknown identity type 5 in priority"),
        (b"priority = [['email']]", "unknown identity type"),
        (b"[login]\nemail = true", "login is a dict"),
        (b'immutable = ["email"]', "immutable type 'email' must be a unique and a login type as well"),
        (b"trail = 1", "trail must be true or false"),
        (b'lenient_identities = "no"', "lenient_identities must be true or false"),
        (b"max_age_s = 1.5", "max_age_s must be a whole number of seconds"),
        (b"max_age_s = true", "max_age_s must be a whole number of seconds"),
        (b"max_clock_skew_s = -1", "max_clock_skew_s must be seconds, 0 or more"),
        (b"max_clock_skew_s = nan", "max_clock_skew_s must be seconds, 0 or more"),
        (b"key_rate_per_s = 0", "key_rate_per_s must be calls per second, more than 0"),
        (b"hot_rate_per_s = inf", "hot_rate_per_s must be calls per second"),
        (b"hot_rate_per_s = 1\nhot_burst = 0", "hot_burst must be a whole number of calls"),
        (b"key_burst = 5", "key_burst limits nothing without key_rate_per_s"),
        (b'key_only = "all"', "key_only is 'all'; pass one of web, always, never"),
        (b"key_only = ['all']", "pass one of web, always, never"),
        (b'disabled_keys = "k"', "disabled_keys must be a list of keys"),
        (b'disabled_keys = [""]', "disabled_keys must be a list of keys"),
        (b'api_keys = ["k"]', "api_keys must be a table of keys"),
        (b"[api_keys]\nk = 5", "api_keys must be a table of keys"),
        (b'[api_keys]\nk = ""', "api_keys must be a table of keys"),
        (b"priority = " + b"[" * 100_000, "is no TOML"),
    ],
)
def test_a_file_that_describes_no_strategy_is_refused_with_the_reason(tmp_path: Path, text: bytes, reason: str) -> None:
    """Nothing is guessed or passed over."""
    (tmp_path / "idsync.toml").write_bytes(text)
    with pytest.raises(ValueError, match=reason):
        IdentityStrategy.from_toml(tmp_path / "idsync.toml")


def test_a_file_that_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    """As anywhere."""
    with pytest.raises(FileNotFoundError):
        IdentityStrategy.from_toml(tmp_path / "none.toml")


def test_a_faulty_secret_is_not_repeated() -> None:
    """Neither in the reason nor in what is printed."""
    with pytest.raises(ValueError, match="api_keys") as caught:
        IdentityStrategy.from_toml({"api_keys": {"the-key": ["the-secret"]}})
    assert "the-" not in str(caught.value)
    assert "the-" not in repr(IdentityStrategy(api_keys={"the-key": "the-secret"}, disabled_keys=["the-key"]))


def test_every_setting_is_documented() -> None:
    """In the README's table, or among the keys of the configuration file."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = "".join(line for line in readme.splitlines() if line.startswith("| `"))
    for setting in fields(IdentityStrategy):
        assert f"`{setting.name}`" in rows or f"`[{setting.name}]`" in rows, setting.name
