"""What storage costs here: imports, syncs, logins with many users, journeys a second. Figures as times and as ratios.

Run `python tests/benchmarks/storage_benchmark.py`; it takes half a minute and leaves nothing behind. Times differ
between machines, so compare the ratios.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from storage_helpers import API_KEY, login, read_document, started, user_file, workspace_of, write_document

from identity_session import IdentitySession, MemoryStorage
from identity_session.idsync import LocalIDSync

PROGRAMS = {
    "nothing": "pass",
    "identity_session": "import identity_session",
    "who is the user": "import identity_session as i; i.IdentitySession('us1-test-key', storage={path!r}).mpid",
    "pydantic": "import pydantic",
    "httpx": "import httpx",
}


def milliseconds(action: Callable[[], object], times: int) -> float:
    """The median of several runs."""
    spans = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        spans.append(time.perf_counter() - began)
    return statistics.median(spans) * 1000


def imports(folder: Path) -> None:
    """What a program pays before it does anything, above an empty one."""
    path = str(folder / "imports")
    login(started(path), "7")
    print("start-up of a program, above an empty one")
    spans = {}
    for name, program in PROGRAMS.items():
        command = [sys.executable, "-c", program.format(path=path)]
        spans[name] = milliseconds(lambda command=command: subprocess.run(command, check=True), 9)
    unit = spans["httpx"] - spans["nothing"]
    for name, span in spans.items():
        above = span - spans["nothing"]
        print(f"  {name:<20} {above:7.1f} ms   {above / unit:5.2f} of httpx")


@contextmanager
def counted_syncs() -> Iterator[list[int]]:
    """A list that grows by one for each fsync inside the block."""
    handles: list[int] = []
    fsync = os.fsync
    os.fsync = lambda handle: (handles.append(handle), fsync(handle))[1]
    try:
        yield handles
    finally:
        os.fsync = fsync


def syncs(folder: Path) -> None:
    """How often a call waits for the disk."""
    session = started(folder / "syncs")
    user = session.current_user
    calls: dict[str, Callable[[], object]] = {
        "who is the user": lambda: session.mpid,
        "start of another process": lambda: started(folder / "syncs"),
        "login that changes the user": lambda: login(session, "7"),
        "login of the same user": lambda: login(session, "7"),
        "modify": lambda: session.modify({"userIdentities": {"email": "a@example.com"}}),
        "set_attribute": lambda: session.current_user.set_attribute("plan", "gold"),
        "set_attribute, other user": lambda: user.set_attribute("plan", "gold"),
        "logout": lambda: session.logout(),
        "first start": lambda: started(folder / "first start"),
    }
    print("fsync calls")
    for name, call in calls.items():
        with counted_syncs() as handles:
            call()
        print(f"  {name:<28} {len(handles)}")


def logins(folder: Path) -> None:
    """A change of user with few and with many others remembered."""
    print("login that changes the user")
    first = None
    for count in (10, 1_000, 10_000):
        path = folder / str(count)
        session = started(path)
        login(session, "7")
        content = read_document(user_file(workspace_of(path), "100"))
        for n in range(count):
            write_document(user_file(workspace_of(path), f"user-{n}"), {**content, "mpid": f"user-{n}"})
        turn = iter(range(1000))
        span = milliseconds(lambda session=session, turn=turn: login(session, str(next(turn) % 2)), 101)
        first = first or span
        print(f"  {count:>6} users {span:7.2f} ms   {span / first:5.2f} of the first")


def journeys() -> None:
    """Start, login, attribute, modify, logout, without disk and network."""
    idsync = LocalIDSync(seed=1)

    def journey() -> None:
        with IdentitySession(API_KEY, storage=MemoryStorage(), transport=idsync.transport) as session:
            session.login({"userIdentities": {"customerid": "c-1", "email": "a@example.com"}})
            session.current_user.set_attribute("plan", "gold")
            session.modify({"userIdentities": {"email": "b@example.com"}})
            session.logout()

    journey()
    span = milliseconds(journey, 301)
    print(f"journeys of five steps in memory: {1000 / span:.0f} a second, {span / 5:.3f} ms a step")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        imports(Path(temporary))
        syncs(Path(temporary))
        logins(Path(temporary))
    journeys()
