"""All scenarios over HTTP, on every store: the same decisions, and nothing lost by a restart."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from http_serving import Client, ServeProcess, serving
from idsync_scenarios import CASES, CONFIGS, play_case

from identity_session.idsync import IdentityStrategy, LocalIDSync


@pytest.mark.parametrize("config", CONFIGS)
def test_all_scenarios_over_http(database: str, config: str) -> None:
    """Every step answers as listed and leaves the profiles as listed; the trails are those of the store in memory."""
    with _served(database, config) as client, _served(":memory:", config) as in_memory:
        for case in CASES:
            if case["config"] == config:
                for each in (client, in_memory):
                    assert each.emulator("DELETE", "profiles").status == 204
                    play_case(each, case)
                assert _decisions(client) == _decisions(in_memory), case["id"]


@contextlib.contextmanager
def _served(database: str, config: str) -> Iterator[Client]:
    idsync = LocalIDSync(database, IdentityStrategy(**CONFIGS[config]), seed=1)
    with contextlib.closing(idsync), serving(idsync) as client:
        yield client


def _decisions(client: Client) -> list[tuple[Any, ...]]:
    """What was decided and why, with MPIDs numbered in order of creation."""
    numbers = {profile["mpid"]: f"P{number}" for number, profile in enumerate(client.profiles(), 1)}

    def named(text: str) -> str:
        return re.sub(r"-?\d{5,}", lambda found: numbers.get(found[0], found[0]), text)

    calls = client.emulator("GET", "calls").body["calls"]
    return [
        (
            call["endpoint"],
            call["status"],
            numbers.get(call["mpid"]),
            call["created"],
            list(map(named, call["reasons"])),
        )
        for call in calls
    ]


@pytest.fixture
def visited(shared_database: str) -> tuple[str, dict[str, Any]]:
    """A database that a service has written to, and its export."""
    with ServeProcess("--database", shared_database) as served:
        visitor = served.call("identify", {"device_application_stamp": "d"}).mpid
        known = served.call("login", {"customerid": "1", "email": "a@example.com", "other": "o"}).mpid
        served.modify(known, ("email", "a@example.com", "b@example.com"))
        data = {"source_mpid": visitor, "destination_mpid": known}
        body = {"request_type": "alias", "environment": "development", "api_key": "k", "data": data}
        assert served.post("/v1/identity/k/Alias", body).status == 202
        served.seed()
        exported = served.emulator("GET", "export").body
        assert served.end() == (0, "", "")
    return shared_database, exported


def test_a_restart_loses_nothing(visited: tuple[str, dict[str, Any]]) -> None:
    """Profiles, orphans, alias requests and recorded calls are as they were, and the service goes on with them."""
    database, exported = visited
    with ServeProcess("--database", database) as served:
        assert served.emulator("GET", "export").body == exported
        assert served.call("login", {"customerid": "1"}).body["matched_identities"] == {"customerid": "1"}
        assert len(served.profiles()) == 3
