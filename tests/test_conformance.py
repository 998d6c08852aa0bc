"""The recorded journeys of the real Web SDK, replayed on both fronts, each up to its first deviation.

`data/journeys.jsonl` holds one journey a line (see `journeys`). Its steps end before the first one in which a row of
the README's table of deviations strikes, but for those rows that concern a single value and are spelled out here.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from journeys import FRONTS, Json, Player, comparable

JOURNEYS = [json.loads(line) for line in (Path(__file__).parent / "data/journeys.jsonl").read_text().splitlines()]


def test_all_recordings_are_there() -> None:
    assert len(JOURNEYS) == 192
    assert sum(len(journey["steps"]) for journey in JOURNEYS) == 958


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey["name"])
def test_journey_goes_as_recorded(journey: Json, front: str) -> None:
    """Requests, callbacks and state after every step are those of the Web SDK."""
    asyncio.run(replay(journey, front))


async def replay(journey: Json, front: str) -> None:
    player = Player(journey, front)
    mpid_before = None
    for number, step in enumerate(journey["steps"]):
        ours = comparable(await player.play(step))
        theirs = comparable(as_decided(step, mpid_before))
        for call, recorded in zip(ours["callbacks"], theirs["callbacks"], strict=False):
            if recorded.get("is_logged_in", ...) is None:
                call["is_logged_in"] = None  # D15: the SDK does not say, we do
        assert ours == theirs, f"step {number}: {step['op']}"
        mpid_before = theirs["state"]["current_mpid"]


def as_decided(step: Json, mpid_before: str | None) -> Json:
    """The recorded observation with the rows D2 and D14 applied."""
    observed = json.loads(json.dumps(step["observed"]))
    scripted = [response.get("status") for response in step.get("responses", [])]
    for call in observed["callbacks"]:
        if "previous_user_mpid" in call and call["user_mpid"] == mpid_before:
            call["previous_user_mpid"] = None  # D14: nobody was left behind
        if call["httpCode"] == -1 and scripted and (scripted[0] or 0) > 400:
            body = step["responses"][0].get("body")
            call["httpCode"] = scripted[0]  # D2: the status itself
            call |= {name: body for name in ("body",) if name in call}
    return observed
