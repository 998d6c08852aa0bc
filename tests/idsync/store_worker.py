"""Calls at random, or all alike, from many threads: in this process, or in one of its own that reads a job.

Run as a program it reads a job as a line of JSON, opens the database, says "ready", waits for a line, plays, and prints
every answer as a line of JSON as soon as it has it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from idsync_driver import Caller

from identity_session.idsync import IdentityStrategy

PRIORITY = ["customerid", "email", "ios_idfv"]
GUARDED = ["customerid", "email"]
STRATEGY = IdentityStrategy("profile_conversion", PRIORITY, login=GUARDED, unique=GUARDED, immutable=["customerid"])
TAG = "other3"
"""A type outside the priority: every call that changes a profile leaves a value of its own there."""

SECONDS = 120.0

Report = Callable[[dict[str, Any]], None]


def play_random_calls(caller: Caller, name: str, seed: int, count: int, report: Report) -> None:
    """Calls over few values, so that they collide; `name` makes their tags unlike those of other threads."""
    chance = random.Random(seed)
    mpids: list[str] = []
    for number in range(count):
        tag = f"{name}-{number}"
        values = {type_: f"{type_} {chance.randrange(6)}" for type_ in PRIORITY}
        types = chance.sample(PRIORITY, chance.randrange(1, 4))
        call = chance.choice(["identify", "identify", "login", "logout", "search", "modify", "modify"])
        if call == "modify" and mpids:
            changes = [(type_, chance.choice([None, f"{type_} 0"]), values[type_]) for type_ in types]
            answer = caller.modify(chance.choice(mpids), *changes, (TAG, None, tag))
        else:
            call = "identify" if call == "modify" else call
            previous = chance.choice(mpids) if mpids else None
            answer = caller.call(call, {**{type_: values[type_] for type_ in types}, TAG: tag}, previous)
        mpid = answer.mpid if answer.status == 200 else None
        mpids += [mpid] if mpid else []
        report({"call": call, "tag": tag, "status": answer.status, "mpid": mpid})


def play_equal_calls(caller: Caller, count: int, report: Report) -> None:
    """The same identify over and over."""
    for _ in range(count):
        answer = caller.call("identify", {"email": "ed@example.com", "ios_idfv": "phone"})
        report({"call": "identify", "status": answer.status, "mpid": answer.mpid})


def play(caller: Caller, job: dict[str, Any], report: Report) -> None:
    """Play a job's `count` calls in each of its `threads`: at random from its `seed`, all alike without one."""

    def run(thread: int) -> None:
        if job["seed"] is None:
            play_equal_calls(caller, job["count"], report)
        else:
            play_random_calls(caller, f"{job['seed']}-{thread}", 1_000 * job["seed"] + thread, job["count"], report)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(job["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), "calls wait for each other for ever"


@contextmanager
def worker(database: str, *, seed: int | None, count: int, threads: int) -> Iterator[subprocess.Popen[str]]:
    """A process with a job; it begins when a line is written to it."""
    job = {"database": database, "seed": seed, "count": count, "threads": threads}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def check_answers(caller: Caller, answers: list[dict[str, Any]], *, all_of_them: bool = True) -> None:
    """Every answered call is in the profiles, and the profiles keep the rules of the strategy.

    `all_of_them`: there were no other calls, so that the recorded calls are these.
    """
    assert {answer["status"] for answer in answers} <= {200, 400, 404}
    profiles = caller.idsync.profiles()
    for type_ in GUARDED:
        held = Counter(value for profile in profiles for value in profile["identities"].get(type_, []))
        assert not [value for value, holders in held.items() if holders > 1], f"a {type_} is on two profiles"
    assert all(len(profile["identities"].get("customerid", [])) <= 1 for profile in profiles)

    tagged = [(tag, profile["mpid"]) for profile in profiles for tag in profile["other_identities"].get(TAG, [])]
    owners = dict(tagged)
    assert len(owners) == len(tagged)
    for answer in answers:
        writes = answer["status"] == 200 and answer["call"] != "search"
        assert owners.get(answer["tag"]) == (answer["mpid"] if writes else None)
    if all_of_them:
        recorded = Counter((call["endpoint"], call["status"], call["mpid"]) for call in caller.idsync.calls())
        assert recorded == Counter((answer["call"], answer["status"], answer["mpid"]) for answer in answers)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    caller = Caller(STRATEGY, database=job["database"])
    print("ready", flush=True)
    sys.stdin.readline()
    lock = threading.Lock()

    def report(answer: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(answer), flush=True)

    play(caller, job, report)
    caller.idsync.close()


if __name__ == "__main__":
    main()
