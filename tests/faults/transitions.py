"""A journey of random transitions, each fixed by its number: a process that is killed and a model in memory take the
same steps and must come to the same documents.

Run as a program, `transitions.py <path>`, it forks a process for every line `<first step> <synced>` that it reads. That
one walks on from this step and says what it does, a line each, until it is killed; then comes `gone <wait status>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import storage_helpers
from storage_helpers import API_KEY, QuickService, login, user_file, write_document

from identity_session import AsyncIdentitySession, IdentitySession, JsonStorage, MemoryStorage, Storage
from identity_session.exchange import HTTPAnswer, HTTPRequest

BEGINNING_MS = 1_767_607_200_000
CUSTOMERS, NEW_USERS = 6, 40
LONGEST_WALK = 100_000
"""Never reached: long before, what nobody listens to has filled the pipe, and a walker waits there to be killed."""
ENVELOPE = ("schema_version", "generation", "checksum")


class Service(QuickService):
    """Answers both fronts at once."""

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return self.send(request, seconds)

    async def aclose(self) -> None: ...


class Traveller:
    """A session whose clock and ids follow from the number of the step it takes."""

    def __init__(self, storage: Storage | Path, step: int = 0, front: Any = IdentitySession, **settings: Any) -> None:
        self.step = self._first = step
        self._ids = 0
        self.session = front(
            API_KEY,
            storage=storage,
            transport=Service(),
            timeout=60,
            now_ms=self.now_ms,
            new_id=self._new_id,
            **settings,
        )

    def now_ms(self) -> int:
        """A minute from step to step, and now and then an hour, after which the session is over."""
        return BEGINNING_MS + self.step * 60_000 + self.step // 7 * 3_600_000

    def _new_id(self) -> str:
        self._ids += 1
        return f"id-{self.step}-{self._ids}"

    def take(self) -> str:
        """Take the next step, the first of which is a start; gives its name."""
        chance = random.Random(self.step)
        name = "start" if self.step == self._first else chance.choice(TRANSITIONS)
        if self.session.opted_out and chance.random() < 0.8:
            name = "opt in"
        self.call(name, chance)
        self.step += 1
        return name

    def call(self, name: str, chance: random.Random) -> Any:
        """Make one call, the same again for the same step and the same chance; gives its result, if it has one."""
        self._ids = 0
        session, customer = self.session, str(1 + chance.randrange(CUSTOMERS))
        match name:
            case "start":
                return self.done(session.start())
            case "login":
                return self.done(login(session, customer))
            case "login of a new user":
                return self.done(login(session, f"new-{self.step % NEW_USERS}"))
            case "logout":
                return self.done(session.logout())
            case "modify":
                return self.done(session.modify({"userIdentities": {"email": f"{self.step}@example.com"}}))
            case "attribute":
                return self._edit(session.current_user, "set_attribute", "plan", f"plan of step {self.step}")
            case "attributes":
                return self._edit(session.current_user, "set_attributes", {"n": self.step, "tag": None, "text": "zoë"})
            case "attribute of another user":
                return self._edit(self.done(session.get_user(customer)), "set_attribute", "seen in", self.step)
            case "removal":
                return self._edit(session.current_user, "remove_attribute", "plan")
            case "consent":
                return self._edit(session.current_user, "set_consent_state", {"gdpr": {"step": self.step}})
            case "opt out" | "opt in":
                return self.done(session.set_opt_out(name == "opt out"))
            case "new session":
                return self.done(session.start_new_session())
            case "end of session":
                return self.done(session.end_session())
        return self.done(session.touch())

    def _edit(self, user: Any, setter: str, *arguments: object) -> None:
        if user is not None:
            self.done(getattr(user, setter)(*arguments))

    @staticmethod
    def done(outcome: Any) -> Any:
        """What came of a call of either front."""
        return asyncio.run(_awaited(outcome)) if inspect.isawaitable(outcome) else outcome


async def _awaited(outcome: Any) -> Any:
    return await outcome


TRANSITIONS = (
    *["login"] * 4,
    *["login of a new user", "logout", "modify", "attribute", "attribute of another user"] * 2,
    *["start", "attributes", "removal", "consent", "opt out", "new session", "end of session", "touch"],
)
FRONTS = {"sync": IdentitySession, "async": AsyncIdentitySession}


class Model(MemoryStorage):
    """What ought to be stored, and in which order the latest call wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[str, dict[str, Any]]] = []

    def in_workspace(self, name: str) -> Self:
        return self

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        super().write(name, content)
        written = self.read(name)
        assert written is not None
        self.written.append((name, written))

    def hold(self, documents: Mapping[str, Mapping[str, Any]]) -> None:
        """Hold these documents and nothing else."""
        self.clear()
        for name, content in documents.items():
            super().write(name, content)


def documents(storage: Storage) -> dict[str, dict[str, Any]]:
    """Everything that is stored, without what the storage adds for itself."""
    found = {name: storage.read(name) for name in ("state", "device", *sorted(storage.names("users")))}
    return {name: {k: v for k, v in content.items() if k not in ENVELOPE} for name, content in found.items() if content}


def cut_short(before: Mapping[str, Any], written: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """What may be stored when a call is cut short: what was there before it, or after any of its writes."""
    images = [dict(before)]
    for name, content in written:
        images.append({**images[-1], name: content})
    return images


def people(documents: Mapping[str, Any]) -> set[str]:
    """The MPIDs of everybody who is remembered in these documents."""
    known = {content["mpid"] for name, content in documents.items() if name.startswith("users/")}
    current = documents.get("state", {}).get("user")
    return known | {current["mpid"]} if current else known


def add_users(workspace: Path, count: int) -> None:
    """Store this many users besides those who are there."""
    for n in range(count):
        content = {
            "mpid": f"user-{n}",
            "identities": {"customerid": f"user-{n}"},
            "attributes": {"n": n},
            "consent_state": None,
            "first_seen_ms": BEGINNING_MS,
            "last_seen_ms": BEGINNING_MS + n,
            "is_logged_in": True,
            "is_ephemeral": False,
        }
        write_document(user_file(workspace, f"user-{n}"), content)


class Victims:
    """Processes that walk on one store, one after the other, each until it is killed with -9."""

    def __init__(self, path: Path) -> None:
        helpers = str(Path(storage_helpers.__file__).parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])}
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pid:
            self.kill()
        self._server.stdin.close()  # type: ignore[union-attr]
        self._server.wait(30)
        self._server.stdout.close()  # type: ignore[union-attr]

    def walk(self, first_step: int, *, synced: bool) -> None:
        """Let the next one walk; not synced, its saves wait for no disk and a kill falls anywhere in them."""
        self._server.stdin.write(f"{first_step} {int(synced)}\n")  # type: ignore[union-attr]
        self._server.stdin.flush()  # type: ignore[union-attr]
        self._pid = int(self._line().removeprefix("pid "))

    def said(self) -> str:
        """What it said next; waits for it."""
        line = self._line()
        assert not line.startswith("gone"), f"it ended by itself with wait status {line}"
        return line

    def kill(self) -> list[str]:
        """Kill it, and give what it had said but nobody had listened to."""
        os.kill(self._pid, signal.SIGKILL)
        lines = [self._line()]
        while not lines[-1].startswith("gone"):
            lines.append(self._line())
        assert os.WTERMSIG(int(lines.pop().removeprefix("gone "))) == signal.SIGKILL
        return lines

    def _line(self) -> str:
        line = self._server.stdout.readline().strip()  # type: ignore[union-attr]
        assert line, "the process that forks the others has ended"
        if line.startswith("gone"):
            self._pid = 0  # this number may soon be that of any process
        return line


class Talking(JsonStorage):
    """Says when a save begins and when it has ended."""

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        _say("saving")
        super().write(name, content)
        _say("saved")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _walk(path: str, first_step: int, *, synced: bool) -> None:
    if not synced:
        os.fsync = lambda handle: None
    traveller = Traveller(Talking(path), first_step)
    for _ in range(LONGEST_WALK):
        name = traveller.take()
        _say(f"done {name}")


def _fork_for_every_line(path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # imports once what every one of them needs
        Traveller(JsonStorage(folder)).take()
    for line in sys.stdin:
        step, synced = map(int, line.split())
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                try:
                    _say(f"pid {os.getpid()}")
                    _walk(path, step, synced=bool(synced))
                except BaseException:
                    traceback.print_exc()
            os._exit(1)
        _say(f"gone {os.waitpid(pid, 0)[1]}")


if __name__ == "__main__":
    _fork_for_every_line(sys.argv[1])
