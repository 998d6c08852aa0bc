"""The trail: each step that leads to an answer is said, and no identity value ever is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from idsync_driver import KEY, Caller

from identity_session.idsync import IdentityStrategy
from identity_session.idsync.choices import Choice
from identity_session.idsync.trail import Step, from_named, listed, named

PRIORITY = ["other", "customerid", "email", "other2", "ios_idfv"]
NOW_MS = 1_700_000_000_000
CHOICES = {name: text for name, text in vars(Choice).items() if name.isupper()}


def reasons(caller: Caller) -> list[str]:
    """Of the last call, without the choices."""
    return [text for text in caller.idsync.calls()[-1]["reasons"] if not text.startswith("Choice")]


def choices(caller: Caller) -> set[str]:
    """Those that the last call rested on."""
    texts = caller.idsync.calls()[-1]["reasons"]
    return {choice for choice in CHOICES.values() if f"Choice of this service: {choice}." in texts}


class TestLookup:
    def test_says_the_types_in_their_order_and_what_each_found(self) -> None:
        caller = Caller("profile_conversion")
        mpid = caller.seed(ios_idfv="1")
        caller.call("identify", {"ios_idfv": "1", "email": "new"})
        assert reasons(caller) == [
            "Looked up email: nobody has this value.",
            f"Looked up ios_idfv: found {mpid}.",
            "A new known user, as nobody has this login ID: email.",
            f"Profile {mpid} answers: no login ID found anybody, and this one was found by the other identities.",
            f"Added to profile {mpid}: email.",
        ]

    def test_says_what_narrowed_the_candidates_and_what_did_not(self) -> None:
        caller = Caller(IdentityStrategy("best_match", ["email", "other", "other2", "ios_idfv", "roku_aid"]))
        first, second, third = (caller.seed(email="ed", other=other) for other in ("a", "a", "b"))
        caller.call("identify", {"email": "ed", "ios_idfv": "9", "other": "a", "roku_aid": "1"}, first)
        assert reasons(caller) == [
            f"Looked up email: found {first}, {second}, {third}.",
            f"Looked up other: of 3 candidates it leaves {first}, {second}.",
            "Looked up ios_idfv: none of the 2 candidates has this value; they all stay.",
            "Looked up roku_aid: none of the 2 candidates has this value; they all stay.",
            f"2 candidates are left, {first}, {second}: {first} wins, as it is the request's previous MPID.",
            f"Profile {first} answers: no login ID found anybody, and this one was found by the other identities.",
            f"Added to profile {first}: ios_idfv, roku_aid.",
        ]
        assert Choice.TIE in choices(caller)

    def test_says_that_the_newest_wins_a_tie(self) -> None:
        caller = Caller("best_match")
        first, second = caller.seed(email="ed"), caller.seed(email="ed")
        caller.call("identify", {"email": "ed"})
        assert reasons(caller)[1] == f"2 candidates are left, {first}, {second}: {second} wins, as it was created last."

    def test_says_which_types_were_not_needed(self) -> None:
        caller = Caller("profile_link")
        mpid = caller.seed(email="ed")
        caller.call("identify", {"email": "ed", "ios_idfv": "1", "other": "o"})
        assert reasons(caller)[:3] == [
            f"Looked up email: found {mpid}.",
            "Not looked up, as one candidate is left: ios_idfv, other.",
            f"Profile {mpid} answers: a login ID found it.",
        ]

    def test_says_who_is_out_of_reach_and_why(self) -> None:
        caller = Caller("profile_link")
        known, anonymous = caller.seed(email="ed", ios_idfv="1"), caller.seed(ios_idfv="1")
        caller.call("identify", {"ios_idfv": "1"})
        assert reasons(caller)[:2] == [
            f"Looked up ios_idfv: found {anonymous}.",
            f"Looked up ios_idfv: out of reach, as only a login ID finds a known profile: {known}.",
        ]

        strategy = IdentityStrategy(
            "profile_conversion", ["customerid", "email"], ["customerid", "email"], ["customerid"], ["customerid"]
        )
        caller = Caller(strategy)
        owner = caller.seed(customerid="A", email="ed")
        caller.call("identify", {"email": "ed"})
        assert reasons(caller) == [
            f"Looked up email: out of reach, as the request does not match its immutable ID: {owner}.",
            "No profile that may be returned was found.",
            f"Withheld email: the value stays with its owner {owner}.",
            f"Created profile {caller.idsync.profiles()[1]['mpid']}.",
            f"Added to profile {caller.idsync.profiles()[1]['mpid']}: nothing.",
        ]

    def test_lists_five_of_many_profiles(self) -> None:
        caller = Caller("best_match")
        crowd = [caller.seed(email="ed") for _ in range(6)]
        caller.call("identify", {"email": "ed"})
        assert reasons(caller)[0] == f"Looked up email: found {', '.join(crowd[:5])}, 1 more."

    def test_says_what_is_left_out(self) -> None:
        caller = Caller("default")
        caller.call("search", {"email": "ed", "facebook": "f", "customerid": "A"})
        assert reasons(caller) == [
            "Not looked up, as it is not in the priority: facebook.",
            "Not searched for, as it is not immutable: email.",
            "Looked up customerid: nobody has this value.",
            "A new known user, as nobody has this login ID: customerid.",
            "No profile that may be returned was found.",
            "Nothing is written.",
            "Refused with 404: No profile matches.",
        ]


class TestOutcome:
    def test_says_that_a_logout_creates_and_ignores_login_ids(self) -> None:
        caller = Caller("profile_conversion")
        mpid = caller.call("logout", {"email": "ed", "ios_idfv": "1"}).mpid
        assert reasons(caller) == [
            "A logout ignores login IDs: email.",
            "Every logout moves to a new anonymous profile; nobody is looked up.",
            f"Created profile {mpid}.",
            f"Added to profile {mpid}: ios_idfv.",
        ]

    def test_says_why_the_anonymous_profile_is_left_and_what_the_source_is(self) -> None:
        caller = Caller("profile_link")
        anonymous = caller.seed(ios_idfv="1")
        mpid = caller.call("login", {"email": "new", "ios_idfv": "1"}).mpid
        assert reasons(caller)[3:] == [
            f"Profile {anonymous} is left alone: a new known user gets a profile of their own.",
            f"Profile {anonymous} is noted as the source of the new one.",
            f"Created profile {mpid}.",
            f"Added to profile {mpid}: email, ios_idfv.",
        ]

    def test_says_what_is_withheld_and_why(self) -> None:
        strategy = IdentityStrategy(
            "profile_conversion",
            PRIORITY[1:],
            ["customerid"],
            ["customerid", "email", "other2"],
            ["customerid"],
            single_value_unique_types=True,
        )
        caller = Caller(strategy)
        owner, known = caller.seed(email="ed"), caller.seed(customerid="A")
        caller.seed(ios_idfv="1", other2="first")
        caller.call("identify", {"ios_idfv": "1", "other2": "second"})
        assert "Withheld other2: it is unique, and the profile has another value." in reasons(caller)
        assert Choice.SEVERAL_VALUES in choices(caller)
        caller.call("identify", {"customerid": "A", "email": "ed"})
        assert f"Withheld email: the value stays with its owner {owner}." in reasons(caller)
        assert choices(caller) >= {Choice.NO_STEALING}
        assert Choice.LOGIN_GUARDED not in choices(caller)
        assert known == caller.idsync.calls()[-1]["mpid"]

    def test_says_that_an_immutable_id_is_withheld(self) -> None:
        strategy = IdentityStrategy(
            "profile_conversion",
            ["customerid", "email"],
            ["customerid", "email"],
            ["customerid", "email"],
            ["customerid", "email"],
        )
        caller = Caller(strategy)
        mpid = caller.seed(customerid="A", email="ed")
        assert caller.call("identify", {"customerid": "B", "email": "ed"}).mpid == mpid
        assert "Withheld customerid: it is immutable, and the profile has another value." in reasons(caller)

    def test_says_what_each_change_came_to_and_who_lost(self) -> None:
        caller = Caller("profile_link")
        loser, mpid = caller.seed(email="ed"), caller.seed(other="o", ios_idfv="1")
        caller.modify(
            mpid,
            ("email", None, "ed"),
            ("email", "ed", "ed"),
            ("other", "wrong", "p"),
            ("other", "o", "q"),
            ("other", None, "q"),
            ("ios_idfv", "1", None),
            ("ios_idfv", "1", None),
            ("other", None, None),
        )
        assert reasons(caller) == [
            f"Profile {mpid} answers: modify names it.",
            f"email: set, as the only value of this type; taken from {loser}.",
            "email: the profile has this value already.",
            "other: the profile does not have the old value.",
            "other: added.",
            "other: replaced.",
            "other: the profile has this value already.",
            "ios_idfv: removed.",
            "ios_idfv: the profile does not have the old value.",
            "ios_idfv: nothing to remove.",
            "other: nothing to remove.",
        ]

    def test_says_why_a_call_is_refused(self) -> None:
        caller = Caller("profile_isolation", api_keys={"k": "s"})
        for headers, body, reason in (
            ({}, b"{}", "Refused with 401: The key is missing."),
            ({"x-mp-key": "other"}, b"{}", "Refused with 401: The key is unknown."),
            ({"x-mp-key": "k"}, b"{}", "Refused with 401: The key alone is not enough."),
        ):
            caller.post("/v1/login", body, headers)
            assert reasons(caller) == [reason]

    def test_says_that_the_service_failed_and_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("with ed@example.com")

        caller = Caller()
        monkeypatch.setattr("identity_session.idsync.calls.carry_out", fail)
        assert caller.call("identify", {"email": "ed@example.com"}).status == 500
        assert reasons(caller)[-1] == "The service itself failed (RuntimeError); nothing was done."


def named_choices() -> dict[str, Any]:
    """For each choice the calls that rest on it, given a service by configuration."""
    guarded = {"login": ["email", "customerid"], "unique": ["customerid"], "immutable": []}
    mixed = IdentityStrategy("profile_conversion", PRIORITY, **guarded)
    alias = {"request_type": "alias", "environment": "production", "api_key": "k"}

    def taken(caller: Caller) -> None:
        caller.seed(email="ed")
        caller.call("identify", {"email": "ed", "customerid": caller.idsync._strategy.strategy})
        caller.seed(customerid="C")
        caller.call("identify", {"customerid": "C", "email": "ed"})

    def identify(**identities: str) -> Any:
        return lambda caller: caller.call("identify", identities)

    def again(caller: Caller) -> None:
        caller.call("identify", {"ios_idfv": "1", "other2": "a"})
        caller.call("identify", {"ios_idfv": "1", "other2": "b"})

    def tie(caller: Caller) -> None:
        caller.seed(ios_idfv="1")
        caller.seed(ios_idfv="1")
        caller.call("identify", {"ios_idfv": "1"})

    def modify(*change: str | None, **seed: str) -> Any:
        return lambda caller: caller.modify(caller.seed(**seed), *([change] if change else []))

    def signed(caller: Caller) -> None:
        from identity_session.signing import signature

        headers = {"x-mp-key": "k", "date": "d", "x-mp-signature": signature("s", "POST", "d", "/v1/login", b"{}")}
        caller.post("/v1/login", b"{}", headers)

    def twice(caller: Caller) -> None:
        caller.call("identify", {"email": "ed"})
        caller.call("identify", {"email": "ed"})

    return {
        Choice.SEVERAL_VALUES: (mixed, again),
        Choice.NO_STEALING: (mixed, taken),
        Choice.LOGIN_GUARDED: (mixed, taken),
        Choice.LOGIN_TYPES_FIRST: (mixed, lambda c: (c.seed(email="ed"), c.call("identify", {"email": "ed"}))),
        Choice.TIE: (mixed, tie),
        Choice.MATCHED_IDENTITIES: (mixed, again),
        Choice.EPHEMERAL: (mixed, again),
        Choice.LOGOUT_WITHOUT_LOGIN_IDS: (mixed, lambda c: c.call("logout", {"email": "ed"})),
        Choice.BARE_LOGIN: ("profile_isolation", lambda c: c.call("login", {"other": "ed"})),
        Choice.BEST_MATCH_LOGIN: ("best_match", lambda c: c.call("login", {"other": "ed"})),
        Choice.SEARCH_LOOKUP: ("default", lambda c: c.call("search", {"email": "ed"})),
        Choice.SEARCH_NOT_FOUND: ("default", lambda c: c.call("search", {"email": "ed"})),
        Choice.OUTSIDE_PRIORITY: ("default", identify(facebook="f")),
        Choice.SOURCE: (
            "profile_link",
            lambda c: (c.seed(other="o"), c.call("login", {"other": "o", "email": "ed"})),
        ),
        Choice.READ_ONLY: (mixed, lambda c: c.call("/v1/identify?read_only=true", {"email": "ed"})),
        Choice.ONLY_VALUE: (mixed, modify("email", None, "ed")),
        Choice.STALE_OLD_VALUE: (mixed, modify("other", "ed", "x")),
        Choice.IMMUTABLE_CHANGE: ("default", modify("customerid", "A", "B", customerid="A")),
        Choice.UNKNOWN_MPID: ("default", lambda c: c.modify("5")),
        Choice.CHANGE_RESULTS: ("default", modify("email", None, "ed")),
        Choice.NO_CHANGES: ("default", modify()),
        Choice.VALIDATION: ("default", identify(e_mail="ed")),
        Choice.LIMITS: ("default", identify(email="e" * 5000)),
        Choice.ERROR_SHAPE: ("default", identify()),
        Choice.INVALID_DATA: ("default", lambda c: c.post("/v1/login", b"{")),
        Choice.KEY_STATUS: (
            IdentityStrategy(disabled_keys=["k"]),
            lambda c: c.post("/v1/login", b"{", {"x-mp-key": "k"}),
        ),
        Choice.CLOCK_SKEW: (IdentityStrategy(api_keys={"k": "s"}, max_clock_skew_s=5), signed),
        Choice.KEY_PRECEDENCE: (
            IdentityStrategy(api_keys={"k": "s"}),
            lambda c: c.post("/v1/login", b"{", {"x-mp-key": "k"}),
        ),
        Choice.THROTTLING: (IdentityStrategy(key_rate_per_s=1), twice),
        Choice.ALIAS_CHECKS: (
            "default",
            lambda c: c.post(
                "/v1/identity/k/Alias", {**alias, "data": {"source_mpid": 5, "destination_mpid": c.seed(email="ed")}}
            ),
        ),
        Choice.ALIAS_STRATEGIES: ("best_match", lambda c: c.post("/v1/identity/k/Alias", alias)),
    }


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_an_answer_that_rests_on_a_choice_names_it(choice: str) -> None:
    """Each choice is named by the call that it decides."""
    strategy, play = named_choices()[choice]
    caller = Caller(strategy, now_ms=lambda: NOW_MS)
    play(caller)
    assert choice in choices(caller)


def test_a_call_that_rests_on_few_choices_names_few() -> None:
    """Those that made no difference are left out."""
    caller = Caller("profile_conversion")
    caller.call("identify", {"email": "ed"})
    assert choices(caller) == {Choice.EPHEMERAL}


def test_identities_that_are_ignored_are_counted_not_named() -> None:
    """Their names are whatever the caller made up."""
    caller = Caller(IdentityStrategy(lenient_identities=True))
    caller.call("identify", {"email": "ed", "ed@example.com": "x"})
    assert reasons(caller)[0] == "Identities of unknown type are ignored: 1."


def test_without_the_trail_calls_are_recorded_all_the_same() -> None:
    """Only their reasons are missing."""
    caller = Caller(IdentityStrategy(trail=False))
    mpid = caller.call("identify", {"email": "ed"}).mpid
    caller.call("search", {"customerid": "A"})
    first, second = caller.idsync.calls()
    assert (first["mpid"], first["created"], first["reasons"]) == (mpid, True, [])
    assert (second["status"], second["reasons"]) == (404, [])


def test_every_step_and_choice_has_a_name_and_a_sentence_of_its_own() -> None:
    """What is stored is the name; it comes back as the sentence."""
    steps = [text for name, text in vars(Step).items() if name.isupper()]
    trail = [(text, "email", 5, ("other", 7)) for text in [*steps, *CHOICES.values()]]
    stored = json.loads(json.dumps(named(trail)))
    assert len({name for name, *_ in stored}) == len(steps) + len(CHOICES)
    assert from_named(stored) == tuple(trail)
    assert len(json.dumps(stored)) < len(json.dumps(trail)) / 2


def test_a_stored_step_of_another_version_is_told_as_it_stands() -> None:
    """Rather than lost, or in the way of the others."""
    told = from_named([["GUESSED", "email", [1, 2]], ["CREATED", 3]])
    assert told == ((Step.TOLD, "GUESSED, email, 1, 2"), (Step.CREATED, 3))


DAMAGED = ["", "nonsense", "5", "[5]", "[[]]", "[[[]]]", '[["FOUND", "email"]]', '[["CREATED", null]]', "[" * 100_000]


def test_reasons_that_are_damaged_are_in_nobodys_way(shared_database: str) -> None:
    """Whatever is wrong with them: the other calls are told, and all is exported."""
    caller = Caller(database=shared_database)
    for _ in range(len(DAMAGED) + 1):
        caller.call("identify", {"email": "ed"})
    before = caller.idsync.calls()
    with caller.idsync._store.transaction() as profiles:
        for number, text in enumerate(DAMAGED, 2):
            profiles.execute(
                "UPDATE idsync_call SET trail = :text WHERE number = :number", {"text": text, "number": number}
            )
    calls = caller.idsync.calls()
    assert calls[0] == before[0]
    assert [call["reasons"] for call in calls[1:]] == [["The reasons are damaged."]] * len(DAMAGED)
    copy = Caller()
    copy.idsync.import_state(caller.idsync.export_state())
    assert copy.idsync.calls() == calls
    caller.idsync.close()


@given(st.lists(st.integers(), max_size=9))
def test_a_crowd_is_counted(mpids: list[int]) -> None:
    """The first five are listed."""
    told = listed(mpids)
    assert told[:5] == tuple(mpids[:5])
    assert told[5:] == ((f"{len(mpids) - 5} more",) if len(mpids) > 5 else ())


SECRETS = st.sampled_from(["§one", "§two", "§three"])
TYPES = st.sampled_from(["customerid", "email", "other", "ios_idfv", "facebook", "§type"])
IDENTITIES = st.dictionaries(TYPES, SECRETS | st.just(5), max_size=4)
CHANGES = st.lists(st.tuples(TYPES, st.none() | SECRETS, st.none() | SECRETS), max_size=3)
CALLS = st.lists(
    st.tuples(st.sampled_from(["identify", "login", "logout", "search"]), IDENTITIES, st.integers(0, 3))
    | st.tuples(st.just("modify"), CHANGES, st.integers(0, 3)),
    max_size=8,
)
STRATEGIES = st.sampled_from(["default", "profile_conversion", "profile_link", "profile_isolation", "best_match"])


@given(strategy=STRATEGIES, calls=CALLS)
def test_no_identity_value_or_key_reaches_a_record(strategy: str, calls: list[tuple[str, Any, int]]) -> None:
    """Nor a name that a caller made up."""
    caller = Caller(strategy)
    for name, content, number in calls:
        known = [*caller.store(), None]
        mpid = known[number % len(known)]
        body = {"environment": "development", "request_id": "§id", "known_identities": content, "previous_mpid": mpid}
        if name == "modify":
            changes = [{"identity_type": t, "old_value": old, "new_value": new} for t, old, new in content]
            caller.post(f"/v1/{mpid}/modify", {"environment": "development", "identity_changes": changes})
        else:
            caller.post(f"/v1/{name}", body, {"x-mp-key": "§key"})
    assert len(caller.idsync.calls()) == len(calls)
    assert "§" not in json.dumps(caller.idsync.calls(), ensure_ascii=False)


@given(strategy=STRATEGIES, calls=CALLS, last=CALLS.filter(bool))
def test_explain_foretells_a_call_and_writes_nothing(
    strategy: str, calls: list[tuple[str, Any, int]], last: list[tuple[str, Any, int]]
) -> None:
    """Status, MPID, what is created, and the reasons up to the creation; nothing is recorded or drawn either."""
    caller = Caller(strategy, seed=1, now_ms=lambda: NOW_MS)
    for name, content, number in [*calls, last[0]]:
        known = [*caller.store(), None]
        mpid = known[number % len(known)]
        body: dict[str, Any] = {"environment": "development", "previous_mpid": mpid, "known_identities": content}
        if name == "modify":
            changes = [{"identity_type": t, "old_value": old, "new_value": new} for t, old, new in content]
            body = {"environment": "development", "mpid": mpid, "identity_changes": changes}
        before = caller.idsync.export_state()
        foretold = caller.idsync.explain(name, body)
        assert caller.idsync.export_state() == before
        caller.post(f"/v1/{mpid}/modify" if name == "modify" else f"/v1/{name}", body, KEY)
        call = caller.idsync.calls()[-1]
        told = {name: call[name] for name in ("endpoint", "status", "created")}
        assert told == {name: foretold[name] for name in told}
        if call["created"]:
            assert foretold["mpid"] is None
            steps = foretold["reasons"].index(next(r for r in foretold["reasons"] if r.startswith("A profile would")))
            assert call["reasons"][:steps] == foretold["reasons"][:steps]
        else:
            assert (call["mpid"], call["reasons"]) == (foretold["mpid"], foretold["reasons"])


def test_explain_writes_nothing_to_any_store(database: str) -> None:
    """Not even where the call would change a profile that is there."""
    caller = Caller("profile_link", database=database, now_ms=lambda: NOW_MS)
    loser, mpid = caller.seed(email="ed"), caller.seed(ios_idfv="1")
    before = caller.idsync.export_state()
    changes = [{"identity_type": "email", "old_value": None, "new_value": "ed"}]
    bodies: dict[str, dict[str, Any]] = {
        "identify": {"known_identities": {"ios_idfv": "1", "other": "o"}},
        "login": {"known_identities": {"email": "new"}},
        "modify": {"mpid": mpid, "identity_changes": changes},
    }
    told = {name: caller.idsync.explain(name, {"environment": "production", **body}) for name, body in bodies.items()}
    assert {name: (each["mpid"], each["created"]) for name, each in told.items()} == {
        "identify": (mpid, False),
        "login": (None, True),
        "modify": (mpid, False),
    }
    assert f"taken from {loser}" in told["modify"]["reasons"][1]
    assert caller.idsync.export_state() == before
    caller.call("identify", {"other": "first"})
    assert [call["number"] for call in caller.idsync.calls()] == [1]
    caller.idsync.close()


def test_explain_takes_every_call_and_refuses_others() -> None:
    """An alias request is explained, not recorded."""
    caller = Caller()
    source, destination = caller.seed(email="ed"), caller.seed(customerid="A")
    body = {
        "request_type": "alias",
        "environment": "production",
        "api_key": "k",
        "data": {"source_mpid": source, "destination_mpid": destination},
    }
    explained = caller.idsync.explain("alias", body)
    assert (explained["status"], explained["mpid"], explained["created"]) == (202, None, False)
    assert explained["reasons"][0] == "Accepted; the request is processed 24 hours later."
    assert caller.idsync.aliases() == []
    with pytest.raises(ValueError, match="known: identify, login, logout, modify, search, alias"):
        caller.idsync.explain("signup", {})
    with pytest.raises(ValueError, match="an object"):
        caller.idsync.explain("login", [])  # type: ignore[arg-type]
