"""What a caller holds: users as live views, results, and the Web SDK's own spellings of both."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from freezegun import freeze_time
from storage_helpers import ANONYMOUS, API_KEY, login, make_session, service, started

from identity_session import (
    AliasResult,
    AsyncIdentitySession,
    AsyncIdentityUser,
    IdentityCallError,
    IdentityResult,
    IdentitySession,
    IdentityUser,
    MemoryStorage,
    SearchResult,
)

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)


@pytest.fixture
def session() -> IdentitySession:
    return started(MemoryStorage())


def mpids(session: IdentitySession) -> list[str]:
    return [user.mpid for user in session.get_users()]


# A live view


def test_a_view_stays_bound_to_its_user_and_shows_what_is_remembered_now(session: IdentitySession) -> None:
    first = session.current_user
    assert first is not None
    assert (first.mpid, first.is_logged_in, first.identities) == (ANONYMOUS, False, {})
    second = login(session, "7").get_user()
    assert (first.mpid, second.mpid) == (ANONYMOUS, "7")
    assert (second.is_logged_in, second.identities) == (True, {"customerid": "7"})
    session.modify({"userIdentities": {"email": "a@example.com"}})
    assert second.identities == {"customerid": "7", "email": "a@example.com"}
    first.set_attribute("plan", "gold")
    login(session, ANONYMOUS)
    assert session.current_user == first
    assert session.current_user.attributes == {"plan": "gold"}


def test_the_logged_in_flag_is_kept_for_each_user(session: IdentitySession) -> None:
    known = login(session, "7").get_user()
    session.logout()
    assert known.is_logged_in is True
    assert session.current_user.is_logged_in is False  # type: ignore[union-attr]


def test_views_of_the_same_user_are_equal_and_can_be_keys(session: IdentitySession) -> None:
    one, two = session.current_user, session.get_user(ANONYMOUS)
    other = login(session, "7").get_user()
    assert one == two
    assert one != other
    assert one != ANONYMOUS
    assert {one, two, other} == {one, other}


def test_no_repr_shows_identities_or_attributes(session: IdentitySession) -> None:
    session.login({"userIdentities": {"customerid": "7", "email": "canary@example.com"}})
    user = session.current_user
    assert user is not None
    user.set_attribute("plan", "canary")
    assert repr(user) == "<IdentityUser 7>"
    result = session.login({"userIdentities": {"email": "canary@example.com"}})
    assert repr(result) == "<IdentityResult 200>"
    assert "canary" not in repr(session)


def test_a_user_who_was_forgotten_has_nothing(session: IdentitySession) -> None:
    user = login(session, "7").get_user()
    user.set_attribute("plan", "gold")
    session.reset()
    assert (user.mpid, user.identities, user.attributes, user.consent_state) == ("7", {}, {}, None)
    assert (user.first_seen, user.last_seen, user.is_logged_in) == (None, None, False)
    assert (user.getFirstSeenTime(), user.getLastSeenTime()) == (None, None)


# First and last seen


def test_first_and_last_seen_are_aware_utc_datetimes(session: IdentitySession) -> None:
    with freeze_time(NOON) as frozen:
        session = started(MemoryStorage())
        first = session.current_user
        assert first is not None
        assert (first.first_seen, first.last_seen) == (NOON, NOON)
        frozen.tick(90.5)
        assert first.last_seen == datetime(2024, 5, 6, 12, 1, 30, 500_000, tzinfo=UTC)  # current until now
        login(session, "7")
        frozen.tick(60)
        assert first.last_seen == datetime(2024, 5, 6, 12, 1, 30, 500_000, tzinfo=UTC)
        assert first.first_seen == NOON
        assert first.first_seen.tzinfo is UTC
        assert (first.getFirstSeenTime(), first.getLastSeenTime()) == (1_714_996_800_000, 1_714_996_890_500)


def test_first_seen_is_set_once_and_last_seen_each_time_the_user_leaves() -> None:
    with freeze_time(NOON) as frozen:
        session = started(MemoryStorage())
        user = login(session, "7").get_user()
        for other in ("8", "7", "9"):
            frozen.tick(3600)
            login(session, other)
        assert (user.first_seen, user.last_seen) == (NOON, NOON.replace(hour=15))


# Looking users up


def test_only_remembered_users_are_found(session: IdentitySession) -> None:
    assert session.get_user(ANONYMOUS) == session.current_user
    for unknown in ("7", "", "state", "users", "gs", "cu", "0", "\ud800", "../state", None, 100, b"100", ["100"]):
        assert session.get_user(unknown) is None  # type: ignore[arg-type]


def test_users_come_with_the_current_one_first_and_then_by_when_they_were_last_seen() -> None:
    with freeze_time(NOON) as frozen:
        session = started(MemoryStorage())
        for mpid in ("1", "2", "3", "1"):
            frozen.tick(1)
            login(session, mpid)
        assert mpids(session) == ["1", "3", "2", ANONYMOUS]


def test_among_users_last_seen_at_the_same_moment_the_one_known_longest_comes_first_then_the_mpid_decides() -> None:
    with freeze_time(NOON) as frozen:
        session = started(MemoryStorage())
        for mpid in ("9", "5", "7"):
            login(session, mpid)
        assert mpids(session) == ["7", ANONYMOUS, "5", "9"]
        frozen.tick(1)
        login(session, "1")
        login(session, "2")
        login(session, "8")
    assert mpids(session) == ["8", "7", "1", "2", ANONYMOUS, "5", "9"]


def test_of_two_users_last_seen_at_the_same_moment_the_one_first_seen_earlier_comes_first() -> None:
    with freeze_time(NOON) as frozen:
        session = started(MemoryStorage())
        login(session, "9")
        frozen.tick(1)
        login(session, "5")
        login(session, "7")
    assert mpids(session) == ["7", "9", "5", ANONYMOUS]


def test_without_a_current_user_there_is_nobody_and_nothing_raises() -> None:
    session = make_session(MemoryStorage())
    assert (session.current_user, session.mpid, session.get_users()) == (None, None, [])


# The SDK's spellings

SPELLINGS = {
    "setUserAttribute": "set_attribute",
    "setUserAttributes": "set_attributes",
    "setUserAttributeList": "set_attribute_list",
    "removeUserAttribute": "remove_attribute",
    "removeAllUserAttributes": "remove_all_attributes",
    "setUserTag": "set_tag",
    "removeUserTag": "remove_tag",
    "setConsentState": "set_consent_state",
}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "setUserAttribute": ("PLAN", "new"),
    "setUserAttributes": ({"PLAN": "new", "city": "Berlin"},),
    "setUserAttributeList": ("PLAN", ["new"]),
    "removeUserAttribute": ("PLAN",),
    "removeAllUserAttributes": (),
    "setUserTag": ("PLAN",),
    "removeUserTag": ("PLAN",),
    "setConsentState": ({"gdpr": {"marketing": True}},),
}


def everything(user: Any) -> dict[str, Any]:
    return {"attributes": user.attributes, "consent": user.consent_state}


@pytest.mark.parametrize("sdk_name", SPELLINGS)
def test_a_setter_does_the_same_in_either_spelling(sdk_name: str) -> None:
    outcomes = []
    for name in (sdk_name, SPELLINGS[sdk_name]):
        user = started(MemoryStorage()).current_user
        assert user is not None
        user.set_attributes({"plan": "gold", "age": 3})
        before = everything(user)
        assert getattr(user, name)(*ARGUMENTS[sdk_name]) is None
        assert everything(user) != before
        outcomes.append(everything(user))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("sdk_name", SPELLINGS)
def test_an_asynchronous_setter_does_the_same_in_either_spelling(sdk_name: str, tmp_path: Path) -> None:
    async def outcome(name: str) -> dict[str, Any]:
        storage = MemoryStorage()
        async with AsyncIdentitySession(API_KEY, storage=storage, transport=httpx.MockTransport(service)) as session:
            user = session.current_user
            assert isinstance(user, AsyncIdentityUser)
            await user.set_attributes({"plan": "gold", "age": 3})
            before = everything(user)
            pending = getattr(user, name)(*ARGUMENTS[sdk_name])
            assert inspect.isawaitable(pending)
            assert await pending is None
            assert everything(user) != before
            return everything(user)

    assert asyncio.run(outcome(sdk_name)) == asyncio.run(outcome(SPELLINGS[sdk_name]))


def read_in_both_spellings(user: IdentityUser | AsyncIdentityUser) -> None:
    assert user.getMPID() == user.mpid == "7"
    assert user.getUserIdentities() == {"userIdentities": user.identities} == {"userIdentities": {"customerid": "7"}}
    assert user.isLoggedIn() is user.is_logged_in is True
    assert user.getAllUserAttributes() == user.attributes == {"plan": "gold", "films": ["a"], "beta": None}
    assert user.getUserAttributesLists() == {"films": ["a"]}
    assert user.getConsentState() == user.consent_state == {"gdpr": {}}
    assert user.first_seen is not None
    assert user.last_seen is not None
    assert user.getFirstSeenTime() == round(user.first_seen.timestamp() * 1000)
    assert user.getLastSeenTime() == round(user.last_seen.timestamp() * 1000)


def test_everything_reads_the_same_in_either_spelling_on_both_fronts() -> None:
    with freeze_time(NOON):
        storage = MemoryStorage()
        user = login(started(storage), "7").get_user()
        user.setUserAttributes({"plan": "gold", "beta": None})
        user.setUserAttributeList("films", ["a"])
        user.setConsentState({"gdpr": {}})
        read_in_both_spellings(user)

        async def journey() -> None:
            session = AsyncIdentitySession(API_KEY, storage=storage, transport=httpx.MockTransport(service))
            current = session.current_user
            assert current is not None
            assert repr(current) == "<AsyncIdentityUser 7>"
            read_in_both_spellings(current)
            found = await session.get_user("7")
            assert found == current
            assert [each.mpid for each in await session.get_users()] == ["7", ANONYMOUS]
            assert await session.get_user("8") is None

        asyncio.run(journey())


def test_both_user_classes_have_the_same_members() -> None:
    def members(of: type) -> set[str]:
        return {name for name in dir(of) if not name.startswith("_")}

    assert members(IdentityUser) == members(AsyncIdentityUser)
    assert set(SPELLINGS) | set(SPELLINGS.values()) <= members(IdentityUser)


# Results


def test_a_result_reads_the_same_in_either_spelling(session: IdentitySession) -> None:
    result = login(session, "7")
    assert (result.http_code, result.httpCode, result.ok) == (200, 200, True)
    assert result.get_user() == result.getUser() == session.current_user
    assert result.get_previous_user() == result.getPreviousUser() == session.get_user(ANONYMOUS)
    result.raise_for_error()


@pytest.mark.parametrize("code", [-1, -2, -4, -5, -6, 202, 400, 401, 404, 429, 500, 503])
def test_what_is_not_a_success_raises_only_when_asked_to(code: int) -> None:
    result: IdentityResult[IdentityUser] = IdentityResult(code, {"canary": "canary"}, None, None)
    assert (result.ok, result.get_user(), result.get_previous_user()) == (False, None, None)
    with pytest.raises(IdentityCallError) as caught:
        result.raise_for_error()
    assert caught.value.http_code == code
    assert str(code) in str(caught.value)
    assert "canary" not in str(caught.value) + repr(result)


def test_a_resumed_session_is_a_success() -> None:
    result: IdentityResult[IdentityUser] = IdentityResult(-3, None, None, None)
    assert result.ok
    result.raise_for_error()


def test_a_search_is_a_success_when_it_found_somebody() -> None:
    assert (SearchResult(200, {"mpid": "7"}).ok, SearchResult(404, None).ok) == (True, False)
    assert SearchResult(200, {"mpid": "7"}).body == {"mpid": "7"}
    assert repr(SearchResult(200, {"mpid": "canary"})) == "<SearchResult 200>"


@pytest.mark.parametrize(("code", "ok"), [(200, True), (202, True), (-4, False), (400, False), (-1, False)])
def test_an_alias_request_is_a_success_when_it_was_accepted(code: int, ok: bool) -> None:
    result = AliasResult(code, "message")
    assert (result.ok, result.message, result.httpCode) == (ok, "message", code)
