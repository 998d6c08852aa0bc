"""Many calls at once, from threads and from processes: nothing doubled, nothing lost, nobody stuck."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from subprocess import Popen
from typing import Any

from idsync_driver import Caller
from store_worker import SECONDS, STRATEGY, check_answers, play, worker


@contextmanager
def calling(database: str) -> Iterator[Caller]:
    caller = Caller(STRATEGY, database=database)
    try:
        yield caller
    finally:
        caller.idsync.close()


def begin(processes: list[Popen[str]]) -> None:
    """Let processes play at the same moment, when all have opened the database."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def played_by_two(database: str, *, seeds: tuple[int | None, int | None], **job: int) -> list[dict[str, Any]]:
    """What two processes were answered that play at the same time, the empty database theirs to set up."""
    with ExitStack() as stack:
        processes = [stack.enter_context(worker(database, seed=seed, **job)) for seed in seeds]
        begin(processes)
        answers = []
        for process in processes:
            output, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0
            answers += [json.loads(line) for line in output.splitlines()]
        return answers


def test_equal_first_identifies_from_threads_end_on_one_profile(database: str) -> None:
    """200 at once."""
    answers: list[dict[str, Any]] = []
    with calling(database) as caller:
        play(caller, {"seed": None, "count": 10, "threads": 20}, answers.append)
        assert [profile["mpid"] for profile in caller.idsync.profiles()] == [answers[0]["mpid"]]
    assert len(answers) == 200
    assert {(answer["status"], answer["mpid"]) for answer in answers} == {(200, answers[0]["mpid"])}


def test_equal_first_identifies_from_two_processes_end_on_one_profile(shared_database: str) -> None:
    """200 at once."""
    answers = played_by_two(shared_database, seeds=(None, None), count=10, threads=10)
    assert len(answers) == 200
    assert {(answer["status"], answer["mpid"]) for answer in answers} == {(200, answers[0]["mpid"])}
    with calling(shared_database) as caller:
        assert [profile["mpid"] for profile in caller.idsync.profiles()] == [answers[0]["mpid"]]


def test_random_calls_from_threads_keep_the_rules_and_are_all_there(database: str) -> None:
    """1,000 calls in four threads."""
    answers: list[dict[str, Any]] = []
    began = time.monotonic()
    with calling(database) as caller:
        play(caller, {"seed": 1, "count": 250, "threads": 4}, answers.append)
        assert time.monotonic() - began < SECONDS
        assert len(answers) == 1_000
        check_answers(caller, answers)


def test_random_calls_from_two_processes_keep_the_rules_and_are_all_there(shared_database: str) -> None:
    """1,000 calls in two threads of each."""
    answers = played_by_two(shared_database, seeds=(2, 3), count=250, threads=2)
    assert len(answers) == 1_000
    with calling(shared_database) as caller:
        check_answers(caller, answers)


def test_an_answered_call_outlives_a_kill(shared_database: str) -> None:
    """A process killed in the middle of its work leaves all that it answered, and the next one goes on."""
    answers: list[dict[str, Any]] = []
    for seed in (11, 12, 13):
        with worker(shared_database, seed=seed, count=100_000, threads=3) as process:
            begin([process])
            assert process.stdout is not None
            for _ in range(40):
                answers.append(json.loads(process.stdout.readline()))
            process.kill()
            # The last line may be cut off: that answer did not arrive.
            answers += [json.loads(line) for line in process.stdout if line.endswith("\n")]
    with calling(shared_database) as caller:
        check_answers(caller, answers, all_of_them=False)
