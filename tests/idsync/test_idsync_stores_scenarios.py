"""The vendor's published flows, and cases derived from the rules: decided alike on every store."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from idsync_driver import Caller

from identity_session.idsync import IdentityStrategy

SCENARIOS = json.loads((Path(__file__).parent / "data" / "scenarios.json").read_text())
CASES = SCENARIOS["cases"]


def decisions(case: dict[str, Any], database: str) -> dict[str, Any]:
    """All that a case leads to: answers, profiles, and the calls with the reasons for their answers."""
    strategy = IdentityStrategy(**SCENARIOS["configs"][case["config"]])
    caller = Caller(strategy, database=database, seed=1, now_ms=itertools.count(1_000).__next__)
    answers: list[Any] = []
    mpids = {given["profile"]: caller.idsync.seed_profile(given["identities"]) for given in case["given"]}
    for step in case["steps"]:
        if "seed" in step:
            mpids[step["seed"]["profile"]] = caller.idsync.seed_profile(step["seed"]["identities"])
            continue
        if step["call"] == "modify":
            changes = [(c["identity_type"], c["old_value"], c["new_value"]) for c in step["identity_changes"]]
            answer = caller.modify(mpids[step["profile"]], *changes)
        else:
            previous = step.get("previous_mpid")
            answer = caller.call(step["call"], step["known_identities"], mpids[previous] if previous else None)
        if step["expect"].get("created"):
            mpids[step["expect"]["profile"]] = answer.mpid
        assert answer.status == step["expect"]["status"]
        body = answer.body if answer.raw else {}
        answers.append({name: value for name, value in body.items() if name != "RequestId"})
    # Calls that were undone may leave gaps in the numbers.
    calls = [{name: value for name, value in call.items() if name != "number"} for call in caller.idsync.calls()]
    profiles = caller.idsync.profiles()
    caller.idsync.close()
    return {"answers": answers, "profiles": profiles, "calls": calls}


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_scenario_is_decided_as_in_memory(case: dict[str, Any], shared_database: str) -> None:
    """The same answers, profiles and reasons; what they are to be is tested with the scenarios themselves."""
    assert decisions(case, shared_database) == decisions(case, ":memory:")
