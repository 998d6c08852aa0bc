"""Modify: each row of its table."""

from __future__ import annotations

from typing import Any

import pytest
from idsync_driver import Answer, Caller

from identity_session.idsync import IdentityStrategy


def conversion(**settings: Any) -> Caller:
    return Caller(IdentityStrategy("profile_conversion", **settings), now_ms=lambda: 1_700_000_000_000)


def changed(answer: Answer) -> list[tuple[str, str]]:
    return [(result["identity_type"], result["modified_mpid"]) for result in answer.body["change_results"]]


@pytest.mark.parametrize("mpid", ["5", "0", "-0", "", "me", "1.0", "٣", "+5", " 5", "9" * 19, "9" * 400])
def test_an_unknown_mpid_is_a_404_without_a_body(mpid: str) -> None:
    """Whether no profile has it or it is no MPID at all; an empty one is no path of the API."""
    answer = conversion().modify(mpid, ("email", None, "ed"))
    assert (answer.status, answer.raw) == (404, b"")


def test_an_unknown_mpid_is_a_404_even_without_changes() -> None:
    """The profile is looked for before the changes."""
    assert conversion().modify("5").status == 404


def test_an_empty_list_changes_nothing() -> None:
    """The answer still tells who the profile is."""
    caller = conversion()
    mpid = caller.seed(email="ed")
    answer = caller.modify(mpid)
    assert (answer.status, answer.mpid, changed(answer)) == (200, mpid, [])
    assert answer.body["matched_identities"] == {}
    assert answer.body["is_logged_in"] is True
    assert answer.body["is_ephemeral"] is False


@pytest.mark.parametrize("type_", ["customerid", "email", "other"])
@pytest.mark.parametrize(("old", "new"), [(None, None), ("a", "a"), ("stale", None), ("", None)])
def test_changes_that_change_nothing(type_: str, old: str | None, new: str | None) -> None:
    """Both null, old equals new, or the removal of what is not there: immutable types included."""
    caller = conversion(immutable=["customerid"])
    mpid = caller.seed(**{type_: "a"})
    before = caller.idsync.profiles()
    answer = caller.modify(mpid, (type_, old, new))
    assert (answer.status, changed(answer)) == (200, [])
    assert caller.idsync.profiles() == before


def test_old_equals_new_sets_what_the_profile_lacks() -> None:
    """The Web SDK also sends identities that did not change; one the service does not know is set."""
    caller = conversion()
    mpid = caller.seed(email="ed")
    assert changed(caller.modify(mpid, ("customerid", "A", "A"), ("other", "o", "o"))) == [
        ("customerid", mpid),
        ("other", mpid),
    ]
    assert caller.store()[mpid] == {"customerid": ["A"], "email": ["ed"], "other": ["o"]}


def test_old_equals_new_leaves_the_other_values_of_the_type() -> None:
    """Nothing changed, so a second email stays."""
    caller = conversion()
    mpid = caller.seed(email=["a", "b"])
    assert changed(caller.modify(mpid, ("email", "a", "a"))) == []
    assert caller.store()[mpid] == {"email": ["a", "b"]}


def test_removing_a_value() -> None:
    """Only that value goes; with the last login ID the user is anonymous, with the last identity an orphan."""
    caller = conversion()
    mpid = caller.seed(email=["ed", "henry"], other="o")
    first = caller.modify(mpid, ("email", "ed", None))
    assert (first.body["is_logged_in"], changed(first)) == (True, [("email", mpid)])
    second = caller.modify(mpid, ("email", "henry", None))
    assert (second.body["is_logged_in"], second.body["is_ephemeral"]) == (False, False)
    third = caller.modify(mpid, ("other", "o", None))
    assert third.body["is_ephemeral"] is True
    assert caller.store() == {mpid: {}}


@pytest.mark.parametrize("old", [None, "ed", "stale"])
@pytest.mark.parametrize("settings", [{}, {"unique": []}, {"login": ["customerid"]}])
def test_a_guarded_value_becomes_the_only_one_and_leaves_its_owner(old: str | None, settings: dict[str, Any]) -> None:
    """Unique or login type, whatever the old value says: all values of the type make way, others keep theirs."""
    caller = conversion(**settings)
    owner, mpid = caller.seed(email="new", other="o"), caller.seed(customerid="A", email=["ed", "henry"], ios_idfv="1")
    answer = caller.modify(mpid, ("email", old, "new"))
    assert set(changed(answer)) == {("email", mpid), ("email", owner)}
    assert caller.store() == {
        owner: {"other": ["o"]},
        mpid: {"customerid": ["A"], "email": ["new"], "ios_idfv": ["1"]},
    }


def test_a_guarded_value_that_both_have_leaves_the_other_only() -> None:
    """Who already has the value alone is not reported as changed."""
    caller = conversion()
    other, mpid = caller.seed(email="ed"), caller.seed(email="ed")
    assert changed(caller.modify(mpid, ("email", None, "ed"))) == [("email", other)]
    assert caller.store() == {other: {}, mpid: {"email": ["ed"]}}


def test_a_value_of_another_type_replaces_the_old_one() -> None:
    """Exactly that one; another profile that has the new value keeps it."""
    caller = conversion()
    other, mpid = caller.seed(other="new"), caller.seed(other=["a", "b"])
    assert changed(caller.modify(mpid, ("other", "a", "new"))) == [("other", mpid)]
    assert caller.store() == {other: {"other": ["new"]}, mpid: {"other": ["b", "new"]}}


@pytest.mark.parametrize("old", [None, "stale"])
def test_a_value_of_another_type_is_added_when_there_is_none_to_replace(old: str | None) -> None:
    """An old value the profile lacks is no error, and a value it has is no change."""
    caller = conversion()
    mpid = caller.seed(other="a")
    assert changed(caller.modify(mpid, ("other", old, "b"))) == [("other", mpid)]
    assert changed(caller.modify(mpid, ("other", old, "b"))) == []
    assert caller.store()[mpid] == {"other": ["a", "b"]}


def test_an_immutable_id_is_set_once() -> None:
    """A free value on a profile without one: it becomes known in place."""
    caller = conversion(immutable=["customerid"])
    mpid = caller.seed(ios_idfv="1")
    answer = caller.modify(mpid, ("customerid", None, "A"))
    assert (answer.mpid, answer.body["is_logged_in"], changed(answer)) == (mpid, True, [("customerid", mpid)])
    assert changed(caller.modify(mpid, ("customerid", None, "A"))) == []


@pytest.mark.parametrize(
    "change",
    [("customerid", "A", "B"), ("customerid", None, "B"), ("customerid", "A", None), ("customerid", None, "taken")],
)
def test_an_immutable_id_never_changes_moves_or_goes(change: tuple[str, str | None, str | None]) -> None:
    """The refusal names the type, not the value, and undoes the changes before it."""
    caller = conversion(immutable=["customerid"])
    caller.seed(customerid="taken", email="henry")
    mpid = caller.seed(customerid="A", email="ed")
    before = caller.idsync.profiles()
    answer = caller.modify(mpid, ("email", "ed", "henry"), change)
    assert (answer.status, answer.error) == (400, ("LOOKUP_ERROR", "The identity type customerid is immutable."))
    assert caller.idsync.profiles() == before


def test_an_immutable_id_of_another_is_not_taken_by_a_profile_without_one() -> None:
    """An owned value is refused even where nothing would be overwritten."""
    caller = conversion(immutable=["customerid"])
    caller.seed(customerid="taken")
    assert caller.modify(caller.seed(ios_idfv="1"), ("customerid", None, "taken")).status == 400


@pytest.mark.parametrize("strategy", ["default", "profile_conversion", "profile_link", "profile_isolation"])
def test_modify_makes_a_user_known_in_place(strategy: str) -> None:
    """Under every strategy: modify never leads to another MPID."""
    caller = Caller(strategy)
    mpid = caller.seed(ios_idfv="1")
    answer = caller.modify(mpid, ("customerid", None, "A"))
    assert (answer.mpid, answer.body["is_logged_in"]) == (mpid, True)
    assert caller.call("identify", {"customerid": "A"}).mpid == mpid


def test_an_orphan_comes_back_by_its_mpid() -> None:
    """Given a value again, it is found again."""
    caller = conversion()
    mpid = caller.seed()
    assert caller.modify(mpid, ("email", None, "ed")).status == 200
    assert caller.call("identify", {"email": "ed"}).mpid == mpid


def test_changes_apply_in_their_order() -> None:
    """A later change sees what an earlier one did; each type and profile is named once."""
    caller = conversion()
    mpid = caller.seed(other="a")
    answer = caller.modify(mpid, ("other", "a", "b"), ("other", "b", "c"), ("device_application_stamp", None, "d"))
    assert changed(answer) == [("other", mpid), ("device_application_stamp", mpid)]
    assert caller.store()[mpid] == {"other": ["c"], "device_application_stamp": ["d"]}


def test_types_outside_the_priority_change_beside_the_record() -> None:
    """They are kept for inspection and reported by nobody: the identity record stayed as it was."""
    caller = conversion()
    mpid = caller.seed(email="ed", facebook="f")
    assert changed(caller.modify(mpid, ("facebook", "f", "g"), ("twitter", None, "t"))) == []
    assert caller.idsync.profiles()[0]["other_identities"] == {"facebook": ["g"], "twitter": ["t"]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"identity_changes": {}},
        {"identity_changes": None},
        {"identity_changes": [{"old_value": None, "new_value": "x"}]},
        {"identity_changes": [{"old_value": None, "identity_type": "email"}]},
        {"identity_changes": [{"new_value": "x", "identity_type": "email"}]},
        {"identity_changes": [{"old_value": None, "new_value": "x", "identity_type": "e-mail"}]},
        {"identity_changes": [{"old_value": None, "new_value": 5, "identity_type": "email"}]},
        {"identity_changes": [{"old_value": None, "new_value": "", "identity_type": "email"}]},
        {"identity_changes": [{"old_value": None, "new_value": "\0", "identity_type": "email"}]},
        {"identity_changes": [{"old_value": "x" * 4097, "new_value": None, "identity_type": "email"}]},
        {"identity_changes": [{"old_value": None, "new_value": None, "identity_type": "email"}] * 101},
    ],
)
def test_a_modify_that_cannot_be_read_is_invalid(body: dict[str, Any]) -> None:
    """Missing keys, wrong types, unknown identity types and values out of bounds; nothing is written."""
    caller = conversion()
    mpid = caller.seed(email="ed")
    answer = caller.post(f"/v1/{mpid}/modify", {"environment": "production", **body})
    assert (answer.status, answer.error[0]) == (400, "INVALID_DATA")
    assert caller.store() == {mpid: {"email": ["ed"]}}
