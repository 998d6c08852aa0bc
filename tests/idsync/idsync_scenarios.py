"""The vendor's published flows, and cases derived from the rules, as data; and how one is played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from idsync_driver import Answer

SCENARIOS = json.loads((Path(__file__).parent / "data" / "scenarios.json").read_text())
CASES = SCENARIOS["cases"]
CONFIGS = SCENARIOS["configs"]


def play_case(caller: Any, case: dict[str, Any]) -> list[Answer]:
    """Play a case by a caller of a service: every step answers as listed and leaves the profiles as listed.

    Returns the answers.
    """
    mpids: dict[str, str] = {}
    answers = []
    for given in case["given"]:
        mpids[given["profile"]] = caller.seed(**given["identities"])
    for step in case["steps"]:
        if "seed" in step:
            mpids[step["seed"]["profile"]] = caller.seed(**step["seed"]["identities"])
            continue
        before = set(caller.store())
        answer = _play(caller, step, mpids)
        expect = step["expect"]
        if expect.get("created"):
            assert answer.mpid not in before
            mpids[expect["profile"]] = answer.mpid
        _check_answer(answer, expect, mpids, before)
        _check_store(caller, step, mpids)
        answers.append(answer)
    for created, source in case.get("link_source", {}).items():
        sources = {profile["mpid"]: profile["source_mpid"] for profile in caller.profiles()}
        assert sources[mpids[created]] == mpids[source]
    return answers


def _play(caller: Any, step: dict[str, Any], mpids: dict[str, str]) -> Answer:
    if step["call"] == "modify":
        changes = [(c["identity_type"], c["old_value"], c["new_value"]) for c in step["identity_changes"]]
        return caller.modify(mpids[step["profile"]], *changes)
    previous = step.get("previous_mpid")
    return caller.call(step["call"], step["known_identities"], mpids[previous] if previous else None)


def _check_answer(answer: Answer, expect: dict[str, Any], mpids: dict[str, str], before: set[str]) -> None:
    assert answer.status == expect["status"]
    if "profile" in expect:
        assert answer.mpid == mpids[expect["profile"]]
        assert (answer.mpid in before) is not expect.get("created", False)
    for name in ("is_logged_in", "is_ephemeral", "matched_identities"):
        if name in expect:
            assert answer.body[name] == expect[name]
    if "change_results" in expect:
        wanted = {(result["identity_type"], mpids[result["modified"]]) for result in expect["change_results"]}
        results = [(result["identity_type"], result["modified_mpid"]) for result in answer.body["change_results"]]
        assert set(results) == wanted
        assert len(results) == len(wanted)
    if "error_code" in expect:
        assert answer.error[0] == expect["error_code"]
    if "message" in expect:
        assert answer.error[1] == expect["message"]


def _check_store(caller: Any, step: dict[str, Any], mpids: dict[str, str]) -> None:
    found = {mpid: _sets(record) for mpid, record in caller.store().items()}
    if "store" in step:
        assert found == {mpids[name]: _sets(record) for name, record in step["store"].items()}
    for name, record in step.get("store_includes", {}).items():
        assert found[mpids[name]].items() >= _sets(record).items()
        assert record or not found[mpids[name]]


def _sets(record: dict[str, list[str]]) -> dict[str, set[str]]:
    return {type_: set(values) for type_, values in record.items()}
