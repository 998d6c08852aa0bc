"""`/emulator`: what people and tests see and do, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from http_serving import Client, serving

from identity_session.idsync import IdentityStrategy, LocalIDSync
from identity_session.idsync.emulator import ROUTES


@pytest.fixture
def idsync() -> LocalIDSync:
    return LocalIDSync(seed=1)


@pytest.fixture
def client(idsync: LocalIDSync) -> Iterator[Client]:
    with serving(idsync) as served:
        yield served


def test_health(client: Client) -> None:
    assert client.emulator("GET", "health").body == {"status": "ok"}


def test_the_settings_in_force_are_told_without_keys() -> None:
    """Whoever shares a service can see by which rules it decides."""
    strategy = IdentityStrategy("profile_link", max_age_s=5, api_keys={"k": "s3cret"}, disabled_keys=["gone"])
    with serving(LocalIDSync(strategy=strategy)) as client:
        told = client.emulator("GET", "config")
    assert {"strategy": "profile_link", "max_age_s": 5, "login": ["customerid", "email"]}.items() <= told.body.items()
    assert b"s3cret" not in told.raw
    assert b"gone" not in told.raw


def test_profiles_are_listed_seeded_and_forgotten(client: Client) -> None:
    """In order of creation, orphans included; other types stand apart."""
    first = client.seed(email=["a@example.com", "b@example.com"])
    orphan = client.seed()
    third = client.seed(customerid="1", other="o")
    assert client.store() == {
        first: {"email": ["a@example.com", "b@example.com"]},
        orphan: {},
        third: {"customerid": ["1"]},
    }
    assert list(client.store()) == [first, orphan, third]
    assert client.profiles()[2]["other_identities"] == {"other": ["o"]}
    client.call("identify", {"customerid": "1"})
    client.emulator("PUT", "faults", {"faults": [{"endpoint": "login", "status": 503}]})
    forgotten = client.emulator("DELETE", "profiles")
    assert (forgotten.status, forgotten.raw) == (204, b"")
    assert (client.profiles(), client.emulator("GET", "calls").body) == ([], {"calls": []})
    assert client.emulator("GET", "faults").body == {"faults": [{"endpoint": "login", "status": 503}]}


@pytest.mark.parametrize("mpid", ["42", 42, "-7", -(2**63)])
def test_a_profile_may_have_a_chosen_mpid(client: Client, mpid: object) -> None:
    """Once; as text or number."""
    body = {"identities": {"customerid": "1"}, "mpid": mpid}
    seeded = client.emulator("POST", "profiles", body)
    assert (seeded.status, seeded.mpid) == (201, str(mpid))
    assert client.emulator("GET", f"profiles/{mpid}").body["identities"] == {"customerid": ["1"]}
    assert client.call("identify", {"customerid": "1"}).mpid == str(mpid)
    assert client.emulator("POST", "profiles", body).status == 400


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"identities": 1},
        {"identities": {"customerid": 1}},
        {"identities": {"customerid": None}},
        {"identities": {"nonsense": "1"}},
        {"identities": {"customerid": ""}},
        {"identities": {"customerid": "a\0b"}},
        {"identities": {}, "mpid": 0},
        {"identities": {}, "mpid": "x"},
        {"identities": {}, "mpid": 2**63},
        {"identities": {}, "more": 1},
        [],
    ],
)
def test_what_cannot_be_seeded_is_refused(client: Client, body: object) -> None:
    """With a text that says why, and nothing written."""
    answer = client.emulator("POST", "profiles", body)
    assert answer.status == 400
    assert answer.body["error"]
    assert client.profiles() == []


def test_a_profile_is_found_by_mpid_and_by_identity(client: Client) -> None:
    """The value travels in a body, since URLs end up in logs."""
    one, two = client.seed(email="a@example.com", other="o"), client.seed(email="a@example.com")
    assert client.emulator("GET", f"profiles/{one}").body["mpid"] == one
    for unknown in ("1", "0", "x", "99999999999999999999"):
        assert client.emulator("GET", f"profiles/{unknown}").status == 404

    def lookup(type_: str, value: str) -> list[str]:
        found = client.emulator("POST", "lookup", {"identity_type": type_, "value": value})
        return [profile["mpid"] for profile in found.body["profiles"]]

    assert (lookup("email", "a@example.com"), lookup("other", "o"), lookup("email", "o")) == ([one, two], [one], [])


def test_a_profile_is_forgotten(client: Client) -> None:
    """Once, with its values; others stay."""
    one, two = client.seed(customerid="1"), client.seed(customerid="2")
    assert [client.emulator("DELETE", f"profiles/{mpid}").status for mpid in (one, one, "x")] == [204, 404, 404]
    assert list(client.store()) == [two]
    assert client.call("search", {"customerid": "1"}).status == 404


def test_calls_are_recorded_with_their_reasons(client: Client) -> None:
    """Newest last; nothing under /emulator counts as one."""
    mpid = client.call("login", {"customerid": "1"}).mpid
    client.call("search", {"customerid": "2"})
    calls = client.emulator("GET", "calls").body["calls"]
    told = [(call["endpoint"], call["status"], call["mpid"], call["created"]) for call in calls]
    assert told == [("login", 200, mpid, True), ("search", 404, None, False)]
    assert all(call["reasons"] for call in calls)


def test_explaining_writes_nothing(client: Client) -> None:
    body = {"environment": "development", "known_identities": {"customerid": "1"}}
    told = client.emulator("POST", "explain", {"call": "login", "body": body})
    assert told.status == 200
    assert told.body["reasons"]
    assert (client.profiles(), client.emulator("GET", "calls").body["calls"]) == ([], [])
    assert client.emulator("POST", "explain", {"call": "dance", "body": {}}).status == 400


def test_faults_are_set_counted_and_cleared(client: Client) -> None:
    faults = [{"endpoint": "login", "times": 2, "status": 503, "retry_after": 1}, {"endpoint": "*", "latency_ms": 1}]
    assert client.emulator("PUT", "faults", {"faults": faults}).body == {"faults": faults}
    assert client.call("login", {"customerid": "1"}).status == 503
    assert client.emulator("GET", "faults").body["faults"][0]["times"] == 1
    assert client.emulator("PUT", "faults", {"faults": []}).body == {"faults": []}
    assert client.call("login", {"customerid": "1"}).status == 200


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"endpoint": "login"},
        {"endpoint": "dance", "status": 500},
        {"endpoint": "login", "status": 99},
        {"endpoint": "login", "status": 500, "garbage": True},
        {"endpoint": "login", "garbage": False},
        {"endpoint": "login", "drop": "during"},
        {"endpoint": "login", "status": 500, "times": 0},
        {"endpoint": "login", "latency_ms": -1},
        {"endpoint": "login", "status": 500, "more": 1},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(client: Client, fault: object) -> None:
    """The faults in force stay."""
    client.emulator("PUT", "faults", {"faults": [{"endpoint": "search", "status": 500}]})
    assert client.emulator("PUT", "faults", {"faults": [fault]}).status == 400
    assert client.emulator("GET", "faults").body == {"faults": [{"endpoint": "search", "status": 500}]}


def test_the_clock_is_stopped_shifted_and_real_again(client: Client) -> None:
    assert client.emulator("PUT", "clock", {"fixed_ms": 1000}).body["now_ms"] == 1000
    assert client.emulator("GET", "clock").body["now_ms"] == 1000
    shifted = client.emulator("PUT", "clock", {"shift_ms": 86_400_000}).body["now_ms"]
    assert shifted > client.emulator("PUT", "clock", {}).body["now_ms"] + 86_000_000
    assert client.emulator("PUT", "clock", {"fixed_ms": 1, "shift_ms": 1}).status == 400


def test_aliases_wait_until_they_are_processed(client: Client) -> None:
    source, known = client.seed(device_application_stamp="d"), client.seed(customerid="1")
    data = {"source_mpid": source, "destination_mpid": known}
    body = {"request_type": "alias", "environment": "development", "api_key": "k", "data": data}
    assert client.post("/v1/identity/k/Alias", body).status == 202
    assert [alias["state"] for alias in client.emulator("GET", "aliases").body["aliases"]] == ["pending"]
    assert [alias["state"] for alias in client.emulator("POST", "aliases/process").body["aliases"]] == ["done"]


@pytest.mark.parametrize("number", [0, 1, 10_000])
def test_an_export_is_imported_without_loss(idsync: LocalIDSync, client: Client, number: int) -> None:
    """Import of an export gives an equal export; more than the limit of a call passes."""
    for each in range(number):
        idsync.seed_profile({"customerid": str(each), "email": [f"{each}@example.com", f"{each}@example.org"]})
    exported = client.emulator("GET", "export")
    with serving(LocalIDSync()) as other:
        imported = other.emulator("POST", "import", exported.raw)
        assert (imported.status, imported.raw) == (204, b"")
        assert other.emulator("GET", "export").body == exported.body
        assert len(other.profiles()) == number


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"profiles": 1}'])
def test_what_is_no_export_changes_nothing(client: Client, body: bytes) -> None:
    mpid = client.seed(customerid="1")
    assert client.emulator("POST", "import", body).status == 400
    assert list(client.store()) == [mpid]


def test_what_fails_inside_is_not_the_callers_fault(
    idsync: LocalIDSync, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the error; only what was given can be wrong about a request."""

    def fail(*_: object) -> None:
        raise ValueError("inside")

    for name in ("profiles", "holders", "calls", "aliases", "export_state", "reset"):
        monkeypatch.setattr(idsync, name, fail)
    lookup = {"identity_type": "email", "value": "a@example.com"}
    answers = [client.emulator("GET", path) for path in ("profiles", "calls", "aliases", "export")]
    answers += [client.emulator("DELETE", "profiles"), client.emulator("POST", "lookup", lookup)]
    assert [answer.status for answer in answers] == [500] * 6
    assert not [answer for answer in answers if b"inside" in answer.raw]


def test_what_is_not_there_says_where_to_look(client: Client) -> None:
    """Other paths, other methods."""
    assert "/openapi.json" in client.emulator("GET", "nothing").body["error"]
    answer = client.emulator("PATCH", "profiles", {})
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST, DELETE")
    assert client.request("GET", "/emulator").status == 404


def test_several_processes_cannot_set_what_lives_in_one() -> None:
    """Faults and the clock; the answer says what to do."""
    with serving(LocalIDSync(), shared=True) as client:
        for path, body in (("faults", {"faults": []}), ("clock", {})):
            answer = client.emulator("PUT", path, body)
            assert answer.status == 409
            assert "--workers 1" in answer.body["error"]


def test_every_route_is_used_here() -> None:
    """A route that is added gets its test."""
    source = Path(__file__).read_text(encoding="utf-8")
    for route in ROUTES:
        assert f'"{route.path.split("/")[2]}' in source or f'f"{route.path.split("/")[2]}' in source, route.path
