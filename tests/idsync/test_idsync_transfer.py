"""Export and import: everything comes back as it was, on every store, and nothing malformed gets in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from idsync_driver import Caller

from identity_session.idsync import LocalIDSync
from identity_session.idsync.identity_types import KNOWN_TYPES

NOW_MS = 1_700_000_000_000


def populated(database: str = ":memory:") -> Caller:
    """A store with something of everything."""
    caller = Caller("profile_link", now_ms=lambda: NOW_MS, database=database)
    anonymous = caller.call("identify", {"ios_idfv": "1", "facebook": "zoë"}).mpid
    known = caller.call("login", {"ios_idfv": "1", "email": "ed"}, anonymous).mpid
    caller.seed(email=["a", "b"], customerid="c")
    caller.seed()
    caller.call("search", {"email": "nobody"})
    for source, destination in ((anonymous, known), (known, anonymous)):
        data = {"source_mpid": source, "destination_mpid": destination}
        body = {"request_type": "alias", "environment": "production", "api_key": "k", "data": data, "request_id": "r"}
        assert caller.post("/v1/identity/k/Alias", body).status == 202
    caller.idsync.process_aliases()
    caller.post("/v1/identity/k/Alias", {**body, "request_id": None})
    return caller


def test_an_import_of_an_export_gives_an_equal_export(database: str) -> None:
    """Through JSON text, whatever stood in the store before, and as often as one likes."""
    state = populated().idsync.export_state()
    assert (len(state["profiles"]), len(state["aliases"]), len(state["calls"])) == (4, 3, 6)
    assert [alias["state"] for alias in state["aliases"]] == ["done", "failed", "pending"]
    target = Caller("profile_link", database=database)
    target.call("identify", {"email": "replaced"})
    for _ in range(2):
        target.idsync.import_state(json.loads(json.dumps(state)))
        assert target.idsync.export_state() == state
    target.idsync.close()


def test_an_export_from_every_store_is_the_same(database: str) -> None:
    """But for the MPIDs, which are drawn."""
    idsync = populated(database).idsync
    exported, expected = (copy.deepcopy(each.export_state()) for each in (idsync, populated().idsync))
    for state in (exported, expected):
        names = {profile["mpid"]: f"P{number}" for number, profile in enumerate(state["profiles"])}
        text = json.dumps(state)
        for mpid, name in names.items():
            text = text.replace(mpid, name)
        state.clear()
        state.update(json.loads(text))
    assert exported == expected
    idsync.close()


@pytest.mark.parametrize("count", [0, 1, 10_000])
def test_any_number_of_profiles_is_carried_over(database: str, count: int) -> None:
    """More than any page would hold."""
    state = LocalIDSync().export_state()
    state["profiles"] = [
        {
            "mpid": str((-1) ** number * (number * 900_000_000_000_000 + 1)),
            "sequence": number * 2 + 1,
            "identities": {"customerid": [str(number)], "email": ["shared", f"{number}@example.com"]},
            "source_mpid": "5" if number % 3 else None,
            "created_ms": NOW_MS + number,
            "last_seen_ms": NOW_MS,
        }
        for number in range(count)
    ]
    idsync = LocalIDSync(database)
    idsync.import_state(state)
    assert idsync.export_state() == state
    idsync.close()


def test_the_service_goes_on_where_the_exported_one_was(database: str) -> None:
    """Calls find the profiles; new ones, calls and alias requests are numbered after those that came in."""
    state = populated().idsync.export_state()
    target = Caller("profile_link", database=database)
    target.idsync.import_state(state)
    known = state["profiles"][1]["mpid"]
    assert target.call("identify", {"email": "ed"}).mpid == known
    created = target.call("identify", {"email": "new"}).mpid
    assert [profile["mpid"] for profile in target.idsync.profiles()][-1] == created
    assert [call["number"] for call in target.idsync.calls()] == list(range(1, 9))
    target.idsync.process_aliases()
    assert target.idsync.aliases()[2]["state"] == "failed"
    target.idsync.close()


def test_faults_settings_and_the_clock_are_left_alone() -> None:
    """They belong to the test, not to the state."""
    idsync = populated().idsync
    state = idsync.export_state()
    assert sorted(state) == ["aliases", "calls", "format", "profiles", "version"]
    idsync.set_faults([{"endpoint": "*", "status": 500}])
    idsync.set_clock(fixed_ms=5)
    idsync.import_state(state)
    assert idsync.faults() == [{"endpoint": "*", "status": 500}]
    assert idsync.now_ms() == 5


def test_an_alias_of_a_deleted_profile_is_carried_over() -> None:
    """It fails when it is processed, here as there."""
    source, target = populated().idsync, LocalIDSync()
    assert source.aliases()
    for alias in source.aliases():
        source.delete_profile(alias["source_mpid"])
    target.import_state(source.export_state())
    assert target.export_state() == source.export_state()


Spoil = Callable[[dict[str, Any]], object]

SPOILED: dict[str, Spoil] = {
    "no format": lambda state: state.pop("format"),
    "another format": lambda state: state.update(format="other"),
    "a newer version": lambda state: state.update(version=2),
    "a version that is no number": lambda state: state.update(version=True),
    "no profiles": lambda state: state.pop("profiles"),
    "profiles that are no list": lambda state: state.update(profiles={}),
    "an unknown member": lambda state: state.update(faults=[]),
    "an unknown member of a profile": lambda state: state["profiles"][0].update(name="ed"),
    "a member missing": lambda state: state["profiles"][0].pop("created_ms"),
    "an MPID that is a number": lambda state: state["profiles"][0].update(mpid=5),
    "the MPID zero": lambda state: state["profiles"][3].update(mpid="0"),
    "an MPID of 65 bits": lambda state: state["profiles"][3].update(mpid=str(2**63)),
    "an MPID with a leading zero": lambda state: state["profiles"][3].update(mpid="05"),
    "an MPID twice": lambda state: state["profiles"][3].update(mpid=state["profiles"][0]["mpid"]),
    "an unknown type": lambda state: state["profiles"][3].update(identities={"e-mail": ["ed"]}),
    "a value that is no list": lambda state: state["profiles"][3].update(identities={"email": "ed"}),
    "a value that is no text": lambda state: state["profiles"][3].update(identities={"email": [5]}),
    "an empty value": lambda state: state["profiles"][3].update(identities={"email": [""]}),
    "a type without values": lambda state: state["profiles"][3].update(identities={"email": []}),
    "a value twice": lambda state: state["profiles"][3].update(identities={"email": ["ed", "ed"]}),
    "a NUL": lambda state: state["profiles"][3].update(identities={"email": ["\0"]}),
    "a lone surrogate": lambda state: state["calls"][0].update(reasons=["\ud800"]),
    "a sequence of zero": lambda state: state["profiles"][0].update(sequence=0),
    "profiles out of order": lambda state: state["profiles"].reverse(),
    "calls out of order": lambda state: state["calls"].reverse(),
    "a number twice": lambda state: state["aliases"][1].update(number=1),
    "a moment beyond 64 bits": lambda state: state["profiles"][0].update(created_ms=2**63),
    "a moment that is no number": lambda state: state["calls"][0].update(received_ms="now"),
    "a moment with a fraction": lambda state: state["calls"][0].update(received_ms=1.5),
    "an unknown state": lambda state: state["aliases"][0].update(state="lost"),
    "an unknown endpoint": lambda state: state["calls"][0].update(endpoint="signup"),
    "an unknown status": lambda state: state["calls"][0].update(status=600),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_malformed_is_refused_and_changes_nothing(name: str) -> None:
    """With a text that names the place; the old state stays."""
    idsync = populated().idsync
    state = idsync.export_state()
    spoiled = copy.deepcopy(state)
    SPOILED[name](spoiled)
    with pytest.raises(ValueError, match="the state cannot be read: "):
        idsync.import_state(spoiled)
    assert idsync.export_state() == state


@pytest.mark.parametrize("given_state", [None, [], "state", 5, {}])
def test_what_is_no_state_is_refused(given_state: Any) -> None:
    """Rather than read as an empty one."""
    with pytest.raises(ValueError, match="cannot be read"):
        LocalIDSync().import_state(given_state)


def test_a_refusal_tells_the_place_and_not_the_value() -> None:
    """Identity values stay out of messages."""
    idsync = populated().idsync
    state = idsync.export_state()
    state["profiles"][3]["identities"] = {"email": ["ed@example.com\0"]}
    with pytest.raises(ValueError, match=r"profiles\.3\.identities\.email\.0: .*cannot be stored") as caught:
        idsync.import_state(state)
    assert "ed@example.com" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_import_that_fails_halfway_is_undone(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one transaction."""
    idsync = populated(database).idsync
    state = idsync.export_state()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("identity_session.idsync.transfer.CallRecord", fail)
    with pytest.raises(RuntimeError):
        idsync.import_state(state)
    assert idsync.export_state() == state
    idsync.close()


VALUES = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5),
    min_size=1,
    max_size=3,
    unique=True,
)
MPIDS = st.integers(-(2**63), 2**63 - 1).filter(bool)
PROFILES = st.dictionaries(MPIDS, st.dictionaries(st.sampled_from(sorted(KNOWN_TYPES)), VALUES, max_size=4), max_size=6)


@given(PROFILES)
def test_whatever_may_be_seeded_is_carried_over(profiles: dict[int, dict[str, list[str]]]) -> None:
    """Any text, any type, any MPID, in the order of creation."""
    source, target = LocalIDSync(), LocalIDSync()
    for mpid, identities in profiles.items():
        source.seed_profile(identities, mpid=mpid)
    target.import_state(json.loads(json.dumps(source.export_state())))
    assert target.profiles() == source.profiles()
    assert [profile["mpid"] for profile in target.profiles()] == [str(mpid) for mpid in profiles]
