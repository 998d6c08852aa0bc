"""Consent: built with `ConsentState`, kept per user, given back as a copy."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from storage_helpers import login, started, tree

from identity_session import ConsentState, IdentitySession, MemoryStorage
from identity_session.consent import consent

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
NOON_MS = 1_714_996_800_000


@pytest.fixture
def session() -> IdentitySession:
    return started(MemoryStorage())


def user_of(session: IdentitySession) -> Any:
    assert session.current_user is not None
    return session.current_user


# Building a state


def test_a_consent_says_whether_when_and_what_to() -> None:
    made = consent(consented=True, timestamp=NOON, document="v2", location="Berlin", hardware_id="h-1")
    assert made == {
        "consented": True,
        "timestamp_ms": NOON_MS,
        "document": "v2",
        "location": "Berlin",
        "hardware_id": "h-1",
    }


def test_what_is_not_given_is_left_out_and_the_time_is_now() -> None:
    with freeze_time(NOON):
        assert consent(consented=False) == {"consented": False, "timestamp_ms": NOON_MS}


def test_a_time_in_another_zone_is_the_same_moment() -> None:
    moment = NOON.astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert consent(consented=True, timestamp=moment)["timestamp_ms"] == NOON_MS


@pytest.mark.parametrize("consented", [None, 1, 0, "true", "", []])
def test_consented_must_be_a_bool(consented: Any) -> None:
    with pytest.raises(TypeError, match="consented must be a bool"):
        consent(consented=consented)


@pytest.mark.parametrize("timestamp", [NOON_MS, "2024-05-06", 1.5, date(2024, 5, 6)])
def test_a_timestamp_that_is_no_datetime_is_a_type_error(timestamp: Any) -> None:
    with pytest.raises(TypeError, match="timestamp must be a datetime"):
        consent(consented=True, timestamp=timestamp)


def test_a_timestamp_without_a_time_zone_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        consent(consented=True, timestamp=datetime(2024, 5, 6))


@pytest.mark.parametrize("name", ["document", "location", "hardware_id"])
@pytest.mark.parametrize("value", [1, b"text", ["text"], True])
def test_details_must_be_texts(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a str"):
        consent(consented=True, **{name: value})


def test_purposes_are_trimmed_and_lower_cased() -> None:
    state = ConsentState().add_gdpr_consent("  Marketing ", consented=True, timestamp=NOON)
    assert state == {"gdpr": {"marketing": {"consented": True, "timestamp_ms": NOON_MS}}}
    state.add_gdpr_consent("MARKETING", consented=False, timestamp=NOON)
    assert state["gdpr"]["marketing"]["consented"] is False
    assert state.remove_gdpr_consent(" marketing").remove_gdpr_consent("unknown") == {"gdpr": {}}


@pytest.mark.parametrize(
    ("purpose", "error"), [("", ValueError), ("  ", ValueError), (None, TypeError), (1, TypeError)]
)
def test_a_purpose_must_be_a_text_with_something_in_it(purpose: Any, error: type[Exception]) -> None:
    state = ConsentState()
    with pytest.raises(error, match="purpose must"):
        state.add_gdpr_consent(purpose, consented=True)
    with pytest.raises(error, match="purpose must"):
        state.remove_gdpr_consent(purpose)
    assert state.get("gdpr", {}) == {}


def test_there_is_one_ccpa_consent() -> None:
    state = ConsentState().set_ccpa_consent(consented=True, timestamp=NOON, document="v1")
    state.set_ccpa_consent(consented=False, timestamp=NOON)
    assert state == {"ccpa": {"data_sale_opt_out": {"consented": False, "timestamp_ms": NOON_MS}}}
    assert state.remove_ccpa_consent().remove_ccpa_consent() == {}


def test_nothing_to_remove_is_fine() -> None:
    assert ConsentState().remove_gdpr_consent("marketing").remove_ccpa_consent() == {}


# Keeping it


def test_a_user_has_no_consent_state_at_first(session: IdentitySession) -> None:
    assert user_of(session).consent_state is None
    assert user_of(session).getConsentState() is None


def test_what_was_set_comes_back_and_can_be_built_upon(session: IdentitySession) -> None:
    user = user_of(session)
    state = ConsentState().add_gdpr_consent("marketing", consented=True, timestamp=NOON)
    user.set_consent_state(state)
    assert user.consent_state == state
    assert isinstance(user.consent_state, ConsentState)
    user.set_consent_state(user.consent_state.set_ccpa_consent(consented=True, timestamp=NOON))
    assert sorted(user.consent_state) == ["ccpa", "gdpr"]
    user.set_consent_state(None)
    assert user.consent_state is None


def test_any_mapping_that_json_can_hold_will_do(session: IdentitySession) -> None:
    state = {"own": {"list": (1, 2.5, None, True, "text", {"deep": []})}}
    user_of(session).set_consent_state(state)
    assert user_of(session).consent_state == {"own": {"list": [1, 2.5, None, True, "text", {"deep": []}]}}


def test_changing_what_was_given_or_returned_changes_nothing(session: IdentitySession) -> None:
    user = user_of(session)
    state = ConsentState().add_gdpr_consent("marketing", consented=True, timestamp=NOON)
    user.set_consent_state(state)
    state["gdpr"]["marketing"]["consented"] = False
    user.consent_state["gdpr"].clear()
    assert user.consent_state["gdpr"]["marketing"]["consented"] is True


def nested(depth: int) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for _ in range(depth):
        state = {"a": state}
    return state


def circular() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["self"] = state
    return state


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ([], TypeError),
        ("text", TypeError),
        (1, TypeError),
        (True, TypeError),
        ({1: "a"}, TypeError),
        ({None: "a"}, TypeError),
        ({"": "a"}, ValueError),
        ({"a": object()}, TypeError),
        ({"a": {1, 2}}, TypeError),
        ({"a": [b"bytes"]}, TypeError),
        ({"a": float("nan")}, ValueError),
        ({"a": "\ud800"}, ValueError),
        ({"\ud800": "a"}, ValueError),
        ({"a": 2**63}, ValueError),
        (nested(21), ValueError),
        (nested(5000), ValueError),
        (circular(), ValueError),
    ],
    ids=range(17),
)
def test_a_wrong_state_raises_before_anything_changes(tmp_path: Path, state: Any, error: type[Exception]) -> None:
    user = user_of(started(tmp_path))
    user.set_consent_state({"kept": True})
    before = tree(tmp_path)
    with pytest.raises(error) as caught:
        user.set_consent_state(state)
    assert type(caught.value) is error
    assert tree(tmp_path) == before


def test_nineteen_levels_are_fine(session: IdentitySession) -> None:
    user_of(session).set_consent_state(nested(19))
    assert user_of(session).consent_state == nested(19)


def test_consent_belongs_to_a_user_and_does_not_follow_to_the_next(session: IdentitySession) -> None:
    first = user_of(session)
    first.set_consent_state({"gdpr": {}})
    login(session, "7")
    assert user_of(session).consent_state is None
    assert first.consent_state == {"gdpr": {}}
    login(session, "100")
    assert user_of(session).consent_state == {"gdpr": {}}
