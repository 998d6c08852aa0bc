"""A lock whose holder is killed, and one whose holder hangs."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from steady import SLACK_SECONDS, LateError, assert_within, steady
from storage_helpers import API_KEY, QuickService, child, login, make_session, next_line, started, tree, workspace_of
from transitions import FRONTS, Service, Traveller

from identity_session import AsyncIdentitySession, StorageBusyError, cli
from identity_session.clock import monotonic, pause

ROUNDS = 12
LONGEST_WAIT_SECONDS = 0.2
"""Longer than any turn in which a call waits for the lock."""
LONGEST_DELAY_SECONDS = 0.05
PATIENCE_SECONDS = 30.0
TIMEOUT_SECONDS = 0.3


@pytest.fixture
def store(tmp_path: Path) -> Path:
    login(started(tmp_path / "store", transport=QuickService()), "7")
    return tmp_path / "store"


@pytest.fixture
def hung(store: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock of the store and is stopped."""
    with child("hold", workspace_of(store)) as holder:
        assert next_line(holder) == "held"
        holder.send_signal(signal.SIGSTOP)
        yield holder


def delay_after_kill(store: Path, call: Callable[[], object], *, waits: float | None) -> float:
    """How long a call takes from the moment in which the holder of the lock is killed: it has waited for so many
    seconds by then, or comes afterwards."""
    ended: list[float] = []
    caller = threading.Thread(target=lambda: (call(), ended.append(monotonic())), daemon=True)
    with child("hold", workspace_of(store)) as holder:
        assert next_line(holder) == "held"
        if waits is not None:
            caller.start()
            pause(waits)
            assert not ended
        holder.kill()
        began = monotonic()
        if waits is None:
            holder.wait()
            began = monotonic()
            caller.start()
        caller.join(PATIENCE_SECONDS)
    return ended[0] - began


@pytest.mark.parametrize("waiting", [True, False], ids=["already waiting", "coming afterwards"])
@pytest.mark.parametrize("front", FRONTS)
@steady
def test_a_lock_holder_that_is_killed_delays_nobody(
    store: Path, monkeypatch: pytest.MonkeyPatch, front: str, waiting: bool
) -> None:
    """In whichever moment between two looks at the lock it dies."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the disk's own time is not the lock's
    chance = random.Random(ROUNDS)
    session = FRONTS[front](API_KEY, storage=store, transport=Service())
    Traveller.done(session.start())
    codes, delays = [], []
    for n in range(ROUNDS):
        call = lambda n=n: codes.append(Traveller.done(login(session, f"{n + 1}")).http_code)  # noqa: E731
        waits = 0.02 + chance.random() * LONGEST_WAIT_SECONDS if waiting else None
        delays.append(delay_after_kill(store, call, waits=waits))
    assert codes == [200] * ROUNDS
    assert_within(max(delays), LONGEST_DELAY_SECONDS, delays)


CALLS: dict[str, Callable[[Any], Any]] = {
    "start": lambda session: session.start(),
    "login": lambda session: login(session, "5"),
    "logout": lambda session: session.logout(),
    "modify": lambda session: session.modify({"userIdentities": {"email": "a@example.com"}}),
    "new session": lambda session: session.start_new_session(),
}


def assert_told_in_time(store: Path, result: Any, seconds: float) -> None:
    assert result.http_code == -1
    assert f"another process or thread has held the lock in {workspace_of(store)}" in result.body
    assert_neither_early_nor_late(seconds)


def assert_neither_early_nor_late(seconds: float) -> None:
    assert seconds >= TIMEOUT_SECONDS - 0.01
    assert_within(seconds, TIMEOUT_SECONDS + SLACK_SECONDS)


@steady
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_while_a_hung_process_has_the_lock_a_call_ends_at_its_deadline_and_changes_nothing(
    store: Path, hung: subprocess.Popen[str], call: Callable[[Any], Any]
) -> None:
    before = tree(store)
    session = make_session(store, timeout=TIMEOUT_SECONDS, transport=QuickService())
    began = monotonic()
    result = call(session)
    assert_told_in_time(store, result, monotonic() - began)
    assert (session.mpid, session.context) == ("7", "context of 7")
    assert tree(store) == before


@steady
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_while_a_hung_process_has_the_lock_an_awaited_call_ends_at_its_deadline_and_stops_nobody_else(
    store: Path, hung: subprocess.Popen[str], call: Callable[[Any], Any]
) -> None:
    before = tree(store)

    async def main() -> None:
        session = AsyncIdentitySession(API_KEY, storage=store, timeout=TIMEOUT_SECONDS, transport=Service())
        assert await session.get_user("7") is not None  # and the thread for the disk is there
        began = monotonic()
        waiting = asyncio.ensure_future(call(session))
        turns = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert_told_in_time(store, await waiting, monotonic() - began)
        if turns <= 5:
            raise LateError(f"the event loop came round {turns} times")
        assert session.mpid == "7"

    asyncio.run(main())
    assert tree(store) == before


@steady
def test_while_a_hung_process_has_the_lock_setters_raise_at_their_deadline(
    store: Path, hung: subprocess.Popen[str]
) -> None:
    session = make_session(store, timeout=TIMEOUT_SECONDS, transport=QuickService())
    assert session.current_user is not None
    for setter in (
        lambda: session.current_user.set_attribute("plan", "gold"),  # type: ignore[union-attr]
        lambda: session.set_opt_out(True),
        session.touch,
        session.end_session,
        session.reset,
    ):
        began = monotonic()
        with pytest.raises(StorageBusyError, match="has held the lock"):
            setter()
        assert_neither_early_nor_late(monotonic() - began)
    assert session.current_user.attributes == {}
    session.close()


@pytest.mark.parametrize("command", ["start", "login", "logout"])
def test_while_a_hung_process_has_the_lock_the_command_line_says_so(
    store: Path,
    hung: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    monkeypatch.setenv("IDENTITY_SESSION_API_KEY", API_KEY)
    options = ["--storage", str(store), "--timeout", str(TIMEOUT_SECONDS), "--base-url", "http://127.0.0.1:9/v1"]
    assert cli.main([command, *options]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("identity-session: start ended with code -1; another process or thread has held the lock")
    assert cli.main(["status", "--json", *options[:2]]) == 0
    assert '"mpid": "7"' in capsys.readouterr().out


def test_once_the_hung_process_goes_on_or_is_killed_calls_work_again(store: Path, hung: subprocess.Popen[str]) -> None:
    session = make_session(store, timeout=PATIENCE_SECONDS, transport=QuickService())
    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.append(login(session, "8")), daemon=True)
    waiting.start()
    pause(0.1)
    assert results == []
    hung.kill()
    waiting.join(PATIENCE_SECONDS)
    assert results[0].http_code == 200
    assert make_session(store).mpid == "8"
