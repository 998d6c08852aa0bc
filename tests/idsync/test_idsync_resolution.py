"""Who answers identify, login, logout and search, rule by rule. Each rule has its other half beside it."""

from __future__ import annotations

from typing import Any

import pytest
from idsync_driver import Caller

from identity_session.idsync import IdentityStrategy

ALL = ["default", "profile_conversion", "profile_link", "profile_isolation", "best_match"]
KNOWN_USERS = ALL[1:4]


def conversion(**settings: Any) -> Caller:
    return Caller(IdentityStrategy("profile_conversion", **settings))


# ---- Who is found


def test_login_types_decide_before_types_of_higher_priority() -> None:
    """A login ID finds its user although a device stands before it in the priority."""
    caller = conversion(priority=["ios_idfv", "email"], login=["email"], unique=["email"])
    known, _anonymous = caller.seed(email="ed"), caller.seed(ios_idfv="1")
    assert caller.call("identify", {"ios_idfv": "1", "email": "ed"}).mpid == known


def test_the_first_login_type_that_finds_anybody_decides() -> None:
    """A login ID that nobody has is passed over; the next one in the priority counts."""
    caller = conversion()
    mpid = caller.seed(email="ed")
    assert caller.call("login", {"customerid": "new", "email": "ed"}).mpid == mpid
    assert caller.store()[mpid] == {"customerid": ["new"], "email": ["ed"]}


def test_a_later_login_type_narrows_users_who_share_a_login_id() -> None:
    """Two users share a customerid; the email in the request chooses between them."""
    caller = conversion()
    first, _second = caller.seed(customerid="A", email="ed"), caller.seed(customerid="A", email="henry")
    assert caller.call("identify", {"customerid": "A", "email": "ed"}).mpid == first
    assert caller.call("identify", {"customerid": "A", "email": "nobody"}).mpid == _second


def test_other_identities_narrow_users_who_share_a_login_id() -> None:
    """Two users share an email; the device chooses, and a device of neither is no reason to find nobody."""
    caller = conversion()
    first, second = caller.seed(email="ed", ios_idfv="1"), caller.seed(email="ed", ios_idfv="2")
    assert caller.call("identify", {"email": "ed", "ios_idfv": "1"}).mpid == first
    assert caller.call("identify", {"email": "ed", "ios_idfv": "9"}).mpid == second


def test_anonymous_profiles_are_narrowed_in_the_order_of_the_priority() -> None:
    """A device shared by three, an `other` shared by two of them, and a device stamp that only the third has."""
    caller = conversion()
    caller.seed(ios_idfv="1")
    chosen = caller.seed(ios_idfv="1", other="o", device_application_stamp="d")
    caller.seed(ios_idfv="1", other="o")
    caller.seed(device_application_stamp="d")
    keys = {"device_application_stamp": "d", "other": "o", "ios_idfv": "1"}
    assert caller.call("search", keys).mpid == chosen


def test_a_tie_goes_to_the_previous_profile_else_to_the_newest() -> None:
    """Among equals the caller stays who they were; the previous MPID may come as text or as a number."""
    caller = conversion()
    first, second, third = (caller.seed(ios_idfv="1") for _ in range(3))
    assert caller.call("search", {"ios_idfv": "1"}).mpid == third
    assert caller.call("search", {"ios_idfv": "1"}, first).mpid == first
    assert caller.call("identify", {"ios_idfv": "1"}, int(second)).mpid == second


@pytest.mark.parametrize("previous", [None, "", "0", 0, "nonsense", "9" * 30, 2**80])
def test_a_previous_mpid_that_is_none_is_no_error(previous: str | int | None) -> None:
    """Zero, empty, null and what is no MPID count as absent."""
    caller = conversion()
    mpid = caller.seed(ios_idfv="1")
    assert caller.call("identify", {"ios_idfv": "1"}, previous).mpid == mpid


def test_values_are_compared_exactly() -> None:
    """No trimming, no case folding, no Unicode normalisation."""
    caller = conversion()
    mpids = {caller.call("login", {"email": email}).mpid for email in ("zoë", "zoe\u0308", "Zoë", " zoë", "zoë ")}
    assert len(mpids) == 5


def test_a_known_user_is_never_found_by_a_device() -> None:
    """Without the login ID the device leads to a new anonymous profile, and both hold the device."""
    caller = conversion()
    known = caller.seed(email="ed", ios_idfv="1")
    other = caller.call("identify", {"ios_idfv": "1"})
    assert other.mpid != known
    assert caller.store() == {known: {"email": ["ed"], "ios_idfv": ["1"]}, other.mpid: {"ios_idfv": ["1"]}}


def test_types_outside_the_priority_find_nobody_and_stand_apart() -> None:
    """They are kept beside the identity record for inspection; a request of nothing else makes an orphan each time."""
    caller = Caller("default")
    first = caller.call("identify", {"facebook": "f", "email": "ed"})
    second = caller.call("identify", {"facebook": "f"})
    assert first.mpid != second.mpid
    assert [(p["identities"], p["other_identities"]) for p in caller.idsync.profiles()] == [
        ({"email": ["ed"]}, {"facebook": ["f"]}),
        ({}, {"facebook": ["f"]}),
    ]
    caller.call("identify", {"facebook": "g", "email": "ed"})
    assert caller.idsync.profiles()[0]["other_identities"] == {"facebook": ["f", "g"]}


def test_a_profile_with_an_immutable_id_is_out_of_reach_without_it() -> None:
    """Its email alone does not find it, a profile without one it does."""
    caller = conversion(immutable=["customerid"])
    barred, free = caller.seed(customerid="A", email="ed"), caller.seed(email="henry")
    assert caller.call("identify", {"email": "henry"}).mpid == free
    created = caller.call("identify", {"email": "ed"}).mpid
    assert created not in (barred, free)
    assert caller.store()[created] == {}
    assert caller.call("identify", {"email": "ed", "customerid": "A"}).mpid == barred


# ---- New known users


@pytest.mark.parametrize("call", ["identify", "login"])
@pytest.mark.parametrize("strategy", ALL)
def test_the_first_request_with_a_login_id(strategy: str, call: str) -> None:
    """Conversion makes the anonymous profile known; link and isolation leave it and create one; best match has no
    known users. Identify and login do the same."""
    caller = Caller(strategy)
    anonymous = caller.seed(device_application_stamp="d")
    answer = caller.call(call, {"customerid": "A", "device_application_stamp": "d"}, anonymous)
    created = strategy in ("profile_link", "profile_isolation")
    assert (answer.mpid != anonymous) is created
    assert answer.body["is_logged_in"] is (strategy != "best_match")
    if created:
        assert caller.store()[anonymous] == {"device_application_stamp": ["d"]}
        assert caller.store()[answer.mpid] == {"customerid": ["A"], "device_application_stamp": ["d"]}


@pytest.mark.parametrize("strategy", ["profile_link", "profile_isolation"])
def test_a_login_id_that_is_taken_makes_no_new_known_user(strategy: str) -> None:
    """Its owner is barred by an immutable ID, so the anonymous profile answers, and does not get the value."""
    caller = Caller(IdentityStrategy(strategy, immutable=["customerid"]))
    caller.seed(customerid="A", email="ed")
    anonymous = caller.seed(ios_idfv="1")
    assert caller.call("identify", {"email": "ed", "ios_idfv": "1"}).mpid == anonymous
    assert caller.store()[anonymous] == {"ios_idfv": ["1"]}


def sources(caller: Caller) -> dict[str, str | None]:
    return {profile["mpid"]: profile["source_mpid"] for profile in caller.idsync.profiles()}


def test_link_notes_where_a_known_user_comes_from() -> None:
    """The previous profile if it is anonymous, else the one the device finds, else none."""
    caller = Caller("profile_link")
    known, visitor, device = caller.seed(email="ed"), caller.seed(ios_idfv="1"), caller.seed(ios_idfv="2")
    from_previous = caller.call("login", {"email": "b", "ios_idfv": "2"}, visitor).mpid
    from_device = caller.call("login", {"email": "c", "ios_idfv": "2"}, known).mpid
    from_nowhere = caller.call("login", {"email": "d", "ios_idfv": "3"}, known).mpid
    without_previous = caller.call("login", {"email": "e", "ios_idfv": "2"}).mpid
    assert sources(caller)[from_previous] == visitor
    assert sources(caller)[from_device] == device
    assert sources(caller)[from_nowhere] is None
    assert sources(caller)[without_previous] == device


def test_only_link_notes_a_source_and_only_for_known_users() -> None:
    """Isolation notes none, and an anonymous profile has none."""
    isolation = Caller("profile_isolation")
    anonymous = isolation.seed(ios_idfv="1")
    isolation.call("login", {"email": "a", "ios_idfv": "1"}, anonymous)
    link = Caller("profile_link")
    visitor = link.seed(ios_idfv="1")
    link.call("identify", {"ios_idfv": "2"}, visitor)
    assert set(sources(isolation).values()) == set(sources(link).values()) == {None}


@pytest.mark.parametrize("strategy", ALL)
def test_a_login_without_a_login_id(strategy: str) -> None:
    """Isolation refuses it by the name it has for itself; elsewhere it is an identify."""
    caller = Caller(strategy)
    mpid = caller.seed(device_application_stamp="d")
    answer = caller.call("login", {"device_application_stamp": "d"})
    if strategy == "profile_isolation":
        message = "CleanCutStrategy login action is missing the login identity type."
        assert (answer.status, answer.error) == (400, ("LOOKUP_ERROR", message))
        assert caller.call("identify", {"device_application_stamp": "d"}).mpid == mpid
        assert caller.call("login", {"device_application_stamp": "d", "email": "ed"}).status == 200
    else:
        assert answer.mpid == mpid


# ---- What is written


def test_what_a_matched_profile_lacks_is_added() -> None:
    """Also a second value of a type, and a value of a non-unique type that another profile has."""
    caller = conversion()
    other, mpid = caller.seed(ios_idfv="2"), caller.seed(email="ed", ios_idfv="1")
    caller.call("login", {"email": "ed", "ios_idfv": "2", "customerid": "A"})
    assert caller.store() == {
        other: {"ios_idfv": ["2"]},
        mpid: {"customerid": ["A"], "email": ["ed"], "ios_idfv": ["1", "2"]},
    }


@pytest.mark.parametrize(
    "guarded", [{"unique": ["email"], "login": ["customerid"]}, {"unique": [], "login": ["email"]}]
)
def test_identify_never_takes_a_guarded_value_from_its_owner(guarded: dict[str, list[str]]) -> None:
    """A unique value stays where it is, and so does a login ID that is not unique."""
    caller = conversion(priority=["customerid", "email", "ios_idfv"], immutable=[], **guarded)
    owner, mpid = caller.seed(email="ed", customerid="B"), caller.seed(customerid="A", ios_idfv="1")
    caller.call("identify", {"customerid": "A", "email": "ed"})
    assert caller.store()[owner]["email"] == ["ed"]
    assert "email" not in caller.store()[mpid]


def test_a_created_profile_gets_no_value_that_is_taken() -> None:
    """It may even come out empty: an orphan from birth, that nobody ever meets again."""
    caller = conversion(login=["customerid"], unique=["customerid", "email"])
    caller.seed(customerid="A", email="ed")
    orphan = caller.call("identify", {"email": "ed"})
    assert caller.store()[orphan.mpid] == {}
    assert orphan.body["is_logged_in"] is False
    assert orphan.body["is_ephemeral"] is True
    assert caller.call("identify", {"email": "ed"}).mpid != orphan.mpid


def test_a_second_value_of_an_immutable_type_is_not_added() -> None:
    """One of two immutable IDs finds the profile; the other one stays as it is."""
    caller = conversion(immutable=["customerid", "email"])
    mpid = caller.seed(customerid="A", email="ed")
    assert caller.call("login", {"customerid": "A", "email": "new"}).mpid == mpid
    assert caller.store()[mpid] == {"customerid": ["A"], "email": ["ed"]}


def test_single_value_unique_types_keep_their_value() -> None:
    """The setting holds unique types to one value, whenever it comes; other types may have several as ever."""
    caller = conversion(single_value_unique_types=True)
    mpid = caller.seed(customerid="A", ios_idfv="1")
    caller.call("login", {"customerid": "A", "email": "ed"})
    caller.call("login", {"customerid": "A", "email": "new", "ios_idfv": "2"})
    assert caller.store()[mpid] == {"customerid": ["A"], "email": ["ed"], "ios_idfv": ["1", "2"]}


# ---- What is answered


def test_matched_identities_are_those_that_decided() -> None:
    """The login IDs that were on a known user, and none of its devices; never what this call added."""
    caller = conversion()
    caller.seed(customerid="A", email="ed", ios_idfv="1")
    answer = caller.call("login", {"customerid": "A", "email": "new", "ios_idfv": "1"})
    assert answer.body["matched_identities"] == {"customerid": "A"}
    again = caller.call("login", {"customerid": "A", "email": "new", "ios_idfv": "1"})
    assert again.body["matched_identities"] == {"customerid": "A", "email": "new"}


def test_matched_identities_of_an_anonymous_profile() -> None:
    """The identities that were on it before it became known; a created profile has none."""
    caller = conversion()
    caller.seed(ios_idfv="1")
    answer = caller.call("login", {"email": "ed", "ios_idfv": "1", "other": "o"})
    assert answer.body["matched_identities"] == {"ios_idfv": "1"}
    assert caller.call("login", {"email": "new"}).body["matched_identities"] == {}


def test_all_matched_identities_on_request() -> None:
    """The setting names every identity of the request that was on the profile."""
    caller = conversion(matched_identities="all")
    caller.seed(customerid="A", ios_idfv="1", facebook="f")
    answer = caller.call("login", {"customerid": "A", "email": "new", "ios_idfv": "1", "facebook": "f"})
    assert answer.body["matched_identities"] == {"customerid": "A", "ios_idfv": "1"}


@pytest.mark.parametrize(
    ("identities", "ephemeral", "logged_in"),
    [
        ({"ios_idfv": "1", "device_application_stamp": "d"}, True, False),
        ({"ios_idfv": "1", "other": "o"}, False, False),
        ({"ios_idfv": "1", "facebook": "f"}, True, False),
        ({"ios_idfv": "1", "email": "ed"}, False, True),
    ],
)
def test_a_profile_of_devices_only_is_ephemeral(identities: dict[str, str], ephemeral: bool, logged_in: bool) -> None:
    """Any user identity of the record makes it lasting, a login ID makes it known; other types do not count."""
    answer = conversion().call("identify", identities)
    assert (answer.body["is_ephemeral"], answer.body["is_logged_in"]) == (ephemeral, logged_in)


def test_being_logged_in_follows_the_profile_not_the_call() -> None:
    """An identify that meets a known user says so."""
    caller = conversion()
    caller.seed(email="ed")
    assert caller.call("identify", {"email": "ed"}).body["is_logged_in"] is True
    assert caller.call("login", {"ios_idfv": "1"}).body["is_logged_in"] is False


# ---- Logout


@pytest.mark.parametrize("strategy", ["default", "profile_conversion", "profile_link"])
def test_every_logout_creates_an_anonymous_profile(strategy: str) -> None:
    """Even when an anonymous profile with the same identities exists; the known user keeps its device."""
    caller = Caller(strategy)
    known = caller.seed(customerid="A", device_application_stamp="d")
    first = caller.call("logout", {"device_application_stamp": "d"}, known)
    second = caller.call("logout", {"device_application_stamp": "d"}, first.mpid)
    assert len({known, first.mpid, second.mpid}) == 3
    assert second.body["is_logged_in"] is False
    assert second.body["matched_identities"] == {}
    assert caller.store()[known] == {"customerid": ["A"], "device_application_stamp": ["d"]}


@pytest.mark.parametrize("strategy", ["default", "profile_conversion", "profile_link", "profile_isolation"])
def test_login_ids_in_a_logout_are_ignored(strategy: str) -> None:
    """A logout never ends on a known profile, nor creates one."""
    caller = Caller(strategy)
    known = caller.seed(customerid="A")
    answer = caller.call("logout", {"customerid": "A", "device_application_stamp": "d"}, known)
    assert answer.mpid != known
    assert caller.store()[answer.mpid] == {"device_application_stamp": ["d"]}
    fresh = caller.call("logout", {"customerid": "new"})
    assert caller.store()[fresh.mpid] == {}


def test_a_logout_adds_no_unique_value_that_is_taken() -> None:
    """The guard of unique values holds for logout too."""
    caller = conversion(login=["customerid"], unique=["customerid", "email"])
    caller.seed(customerid="A", email="ed")
    answer = caller.call("logout", {"email": "ed", "ios_idfv": "1"})
    assert caller.store()[answer.mpid] == {"ios_idfv": ["1"]}


def test_isolation_returns_to_the_anonymous_profile_of_the_device() -> None:
    """Among several to the previous one; what it lacks is added; without any, one is created."""
    caller = Caller("profile_isolation")
    known = caller.seed(email="ed", ios_idfv="1")
    first, second = caller.seed(ios_idfv="1"), caller.seed(ios_idfv="1")
    assert caller.call("logout", {"ios_idfv": "1"}, known).mpid == second
    assert caller.call("logout", {"ios_idfv": "1", "other": "o"}, first).mpid == first
    assert caller.store()[first] == {"ios_idfv": ["1"], "other": ["o"]}
    assert caller.call("logout", {"ios_idfv": "9"}, known).mpid not in (known, first, second)


def test_an_empty_logout_is_refused() -> None:
    """As everywhere; values of null and empty text count as absent."""
    answer = conversion().call("logout", {"email": None, "other": ""})
    assert (answer.status, answer.error) == (400, ("LOOKUP_ERROR", "knownIdentities is empty."))


# ---- Best match


def test_best_match_treats_login_and_logout_as_identify() -> None:
    """The strategy's page knows neither: whoever matches best stays."""
    caller = Caller("best_match")
    mpid = caller.seed(email="ed", ios_idfv="1")
    for call in ("login", "logout", "identify"):
        assert caller.call(call, {"ios_idfv": "1"}).mpid == mpid


def test_best_match_can_refuse_login_and_logout() -> None:
    """With the setting both are a 400, and identify goes on."""
    caller = Caller(IdentityStrategy("best_match", best_match_login="reject"))
    for call in ("login", "logout"):
        answer = caller.call(call, {"ios_idfv": "1"})
        assert (answer.status, answer.error[0]) == (400, "LOOKUP_ERROR")
    assert caller.call("identify", {"ios_idfv": "1"}).status == 200
    assert conversion(best_match_login="reject").call("login", {"email": "ed"}).status == 200


# ---- Search


@pytest.mark.parametrize("strategy", KNOWN_USERS)
def test_search_finds_without_writing(strategy: str) -> None:
    """The answer is that of an identify, but nothing of the request is added."""
    caller = Caller(strategy)
    mpid = caller.seed(email="ed")
    before = caller.idsync.profiles()
    answer = caller.call("search", {"email": "ed", "ios_idfv": "9", "facebook": "f"})
    assert (answer.status, answer.mpid) == (200, mpid)
    assert answer.body["matched_identities"] == {"email": "ed"}
    assert caller.call("search", {"email": "new"}).error[0] == "NOT_FOUND_ERROR"
    assert caller.idsync.profiles() == before


def test_search_with_a_new_login_id_and_the_device_of_an_anonymous_profile() -> None:
    """Found where identify would convert the profile, which is still anonymous; not found where it would create one."""
    for strategy, status in (("profile_conversion", 200), ("profile_link", 404), ("profile_isolation", 404)):
        caller = Caller(strategy)
        mpid = caller.seed(ios_idfv="1")
        answer = caller.call("search", {"email": "new", "ios_idfv": "1"})
        assert answer.status == status
        if status == 200:
            assert (answer.mpid, answer.body["is_logged_in"]) == (mpid, False)


def test_search_by_immutable_ids_only() -> None:
    """With immutable types other identities neither find nor choose; the setting `any` lets them."""
    strict = conversion(immutable=["customerid"])
    strict.seed(customerid="A", email="ed")
    strict.seed(email="henry")
    assert strict.call("search", {"customerid": "A"}).status == 200
    assert strict.call("search", {"email": "henry"}).status == 404
    assert strict.call("search", {"customerid": "new", "email": "henry"}).status == 404
    relaxed = conversion(immutable=["customerid"], search_lookup="any")
    mpid = relaxed.seed(email="henry")
    assert relaxed.call("search", {"email": "henry"}).mpid == mpid
    always = conversion(immutable=["customerid"], search_lookup="immutable")
    always.seed(email="henry")
    assert always.call("search", {"email": "henry"}).status == 404
