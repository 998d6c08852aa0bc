"""Processes that are killed with -9 at random moments of whatever they do."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from required import only_slow
from storage_helpers import make_session, temporary_files, workspace_of
from transitions import Model, Traveller, Victims, add_users, cut_short, documents, people

from identity_session import JsonStorage
from identity_session.clock import pause


@pytest.mark.parametrize(
    ("kills", "users"),
    [(100, 0), (20, 1000), pytest.param(1000, 0, marks=only_slow), pytest.param(200, 1000, marks=only_slow)],
)
def test_a_kill_at_any_moment_leaves_what_was_stored_before_or_after_the_call_in_progress(
    tmp_path: Path, kills: int, users: int
) -> None:
    """Document by document, and as far as the call had come: users first, the state last.

    There are more kills than that if by chance too few of them have fallen in the middle of a save.
    """
    chance = random.Random(kills)
    traveller = Traveller(JsonStorage(tmp_path))
    for _ in range(20):
        traveller.take()
    add_users(workspace_of(tmp_path), users)
    device_id, step = traveller.session.device_id, traveller.step
    model = Model()
    model.hold(documents(traveller.session.storage))
    fell: Counter[str] = Counter()
    with Victims(tmp_path) as victims:
        for kill in range(2 * kills):
            victims.walk(step, synced=bool(kill % 2))
            said = [victims.said() for _ in range(chance.randrange(16))]
            pause(chance.random() * 0.003)
            said += victims.kill()

            walked = Traveller(model, step)
            for line in said:
                if line.startswith("done "):
                    assert walked.take() == line.removeprefix("done ")
            before = documents(model)
            model.written.clear()
            call = walked.take()
            possible = cut_short(before, model.written)

            opened = make_session(tmp_path, now_ms=walked.now_ms)
            found = documents(opened.storage)
            assert found in possible, f"kill {kill} in {call}, after {said[-2:]}"
            assert opened.recovered_from is None
            assert opened.device_id == device_id
            assert people(before) <= people(found)
            assert len(temporary_files(tmp_path)) <= 1
            # Who opens a session and identifies makes two changes; every other call makes one.
            assert call in ("start", "new session") or [name for name, _ in model.written].count("state") <= 1
            model.hold(found)
            step = walked.step
            fell[call] += 1
            fell["(in a save)"] += next((line for line in reversed(said) if line.startswith("sav")), "") == "saving"
            fell["(between two writes of a call)"] += found not in (possible[0], possible[-1])
            if kill + 1 >= kills and fell["(in a save)"] > kills / 4 and len(fell) > 8:
                break
        else:
            pytest.fail(f"{2 * kills} kills fell {dict(fell)}: too few in the middle of a save, or always the same")
    assert {user.mpid for user in opened.get_users()} >= {f"user-{n}" for n in range(users)}
    assert Traveller(tmp_path, step).take() in ("start", "opt in")
    assert temporary_files(tmp_path) == []
    print(f"{kill + 1} kills fell", dict(fell))
