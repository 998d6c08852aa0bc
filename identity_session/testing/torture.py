"""Proof on the spot: a program that lives on a store is killed at random moments, and after each kill the store is
looked at.

`torture` is the proof. Run as a program this file is the one that is killed: it makes transitions with a real session
on the embedded service, and says on standard output what is in force, and what will be if the step it is at ends well.
"""

from __future__ import annotations

import itertools
import json
import sys
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from identity_session import IdentitySession, StorageError, doctor
from identity_session.clock import monotonic
from identity_session.exchange import HTTPAnswer, HTTPRequest, Sender
from identity_session.findings import Kind

from .faults import Run, killed_again_and_again

_KEY = "torture"
_LINES = 24
_SECONDS = 0.02


@dataclass(frozen=True)
class Outcome:
    """What a store has been through, and what it has lost."""

    kills: int
    transitions: int
    """Calls and attribute changes that had returned before a kill."""
    users: int
    """Users known at the end."""
    worst_recovery_seconds: float
    """The longest it took after a kill to open the store, say who is current and take the lock."""
    seconds: float
    losses: tuple[str, ...]
    """What was lost, in words that name nobody; empty is what was to be proved."""


def torture(folder: str | PathLike[str], kills: int, *, seed: int | None = None) -> Outcome:
    """Kill a program so many times that lives on a store in this folder, which is to be empty or not there yet.

    After each kill the store must open and hold the state before or after the step in progress; the device application
    stamp must be as ever, no user be missing, no file be damaged, and one temporary file at most be left. `seed` draws
    the same moments again, as far as the machine allows. Needs POSIX signals.
    """
    began = monotonic()
    witness = _Witness(Path(folder))
    command = [sys.executable, "-m", __name__, str(folder)]
    for run in killed_again_and_again(command, kills, lines=_LINES, seconds=_SECONDS, seed=seed):
        witness.look(run)
    return Outcome(
        kills,
        witness.transitions,
        len(witness.users),
        witness.worst_seconds,
        monotonic() - began,
        tuple(witness.losses),
    )


class _Witness:
    """Compares what is stored after each kill with what the program had said."""

    def __init__(self, folder: Path) -> None:
        self.transitions = 0
        self.users: set[str] = set()
        self.worst_seconds = 0.0
        self.losses: list[str] = []
        self._folder = folder
        self._device_id: str | None = None
        self._in_force = "nobody"

    def look(self, run: Run) -> None:
        if not run.was_killed:
            reason = (run.errors.splitlines() or ["it said nothing"])[-1]
            self._lost(run, f"the program ended by itself with {run.returncode}: {reason}")
        possible = self._heard(run)
        try:
            for finding in doctor.examine(self._folder).findings:  # first, for a session repairs what it finds
                if finding.is_problem and finding.kind is not Kind.LEFTOVER:
                    self._lost(run, f"{finding.path.name}: {finding.found}")
            began = monotonic()
            session = IdentitySession(_KEY, storage=self._folder)
            stored = _state(session)
            with session.storage.lock(0):
                self.worst_seconds = max(self.worst_seconds, monotonic() - began)
        except StorageError as error:
            self._lost(run, f"the store cannot be used ({error})")
            return
        if stored not in possible:
            self._lost(run, "the state is neither the one before nor the one after the step in progress")
        self._in_force = stored
        if self._device_id not in (None, session.device_id):
            self._lost(run, "the device application stamp has changed")
        self._device_id = session.device_id
        known = {user.mpid for user in session.get_users()}
        if self.users - known:
            self._lost(run, f"users missing: {len(self.users - known)}")
        self.users |= known
        temporary = [*self._folder.rglob("*.tmp")]
        if len(temporary) > 1:
            self._lost(run, f"temporary files left: {len(temporary)}")

    def _heard(self, run: Run) -> set[str]:
        """The states of which one must be stored now: what was in force last, and what was to come."""
        coming = self._in_force
        for line in run.lines:
            word, _, state = line.partition(" ")
            if word == "found" and state != self._in_force:
                self._lost(run, "the program has found another state than was stored")
            if word == "done":
                self._in_force = state
                self.transitions += 1
                self.users.add(state.partition(" ")[0])
            coming = state
        return {self._in_force, coming}

    def _lost(self, run: Run, what: str) -> None:
        self.losses.append(f"kill {run.number + 1}: {what}")


def _state(session: IdentitySession) -> str:
    """What distinguishes the states that the program goes through."""
    user = session.current_user
    return f"{user.mpid} {len(user.identities)} {user.attributes.get('step')}" if user else "nobody"


class _Announcing:
    """Says what an answer will make of the state, before the session has heard it."""

    def __init__(self, sender: Sender) -> None:
        self.expected = "0 None"
        self._sender = sender

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        answer = self._sender.send(request, seconds)
        _say("next", f"{json.loads(answer.body)['mpid']} {self.expected}")
        return answer

    def close(self) -> None: ...


def _say(word: str, state: str) -> None:
    print(word, state, flush=True)


def _live(folder: str) -> None:
    """Log in, set an attribute, modify and log out, until killed."""
    from identity_session.idsync import LocalIDSync  # pydantic, which the witness does without

    transport = _Announcing(LocalIDSync().transport)
    with closing(IdentitySession(_KEY, storage=folder, transport=transport, retry=None)) as session:

        def call(name: str, identities: dict[str, str], expected: str) -> None:
            transport.expected = expected
            getattr(session, name)({"userIdentities": identities}).raise_for_error()
            _say("done", _state(session))

        _say("found", _state(session))
        session.start()
        _say("done", _state(session))
        for step in itertools.count():
            call("login", {"customerid": str(step)}, "1 None")
            user = session.current_user
            assert user is not None
            _say("next", f"{user.mpid} 1 {step}")
            user.set_attribute("step", step)
            _say("done", _state(session))
            call("modify", {"email": f"{step}@example.com"}, f"2 {step}")
            call("logout", {}, "0 None")


if __name__ == "__main__":
    _live(sys.argv[1])
