"""Programs with a session, for tests of what a whole process does: how it ends, how it forks, how much memory it takes.

`clients.py hang FRONT HANGS_AT END URL FOLDER` makes a call that comes to no end; `fork FRONT WAY URL FOLDER` goes on
in two processes; `grow FRONT URL...` makes a login at each URL; `first FRONT URL` makes none but that. What happens is
told in lines on standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from identity_session import (
    AsyncIdentitySession,
    IdentitySession,
    JsonStorage,
    MemoryStorage,
    RetryPolicy,
    StorageError,
)
from identity_session.clock import monotonic, pause

KEY = "us1-test-key"
DEADLINE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
"""Far beyond what any test waits for."""


@contextlib.contextmanager
def client(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """This file as a program in a process of its own; it is killed by its id when the block ends."""
    command = [sys.executable, "-W", "always::ResourceWarning", __file__, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def say(*words: object) -> None:
    os.write(1, f"{' '.join(map(str, words))}\n".encode())  # whole lines, whoever else writes


def ids(customer: str) -> dict[str, Any]:
    return {"userIdentities": {"customerid": customer}}


# A call that comes to no end


def hang(front: str, hangs_at: str, end: str, url: str, folder: str) -> None:
    session_type = IdentitySession if front == "sync" else AsyncIdentitySession
    session: Any = session_type(
        KEY,
        base_url=url,
        storage=JsonStorage(folder),
        timeout=PATIENCE_SECONDS,
        retry=RetryPolicy(initial_seconds=PATIENCE_SECONDS / 2, max_seconds=PATIENCE_SECONDS),
    )
    session._core._chance = lambda: 1.0
    if hangs_at == "connect":
        sys.addaudithook(lambda event, arguments: say("in flight") if event == "socket.connect" else None)
    if hangs_at == "name":
        socket.getaddrinfo = never_return
    call = partial(session.login, ids("1"))
    if hangs_at == "disk":
        os.fsync = never_return
        call = session.start
    if hangs_at == "lock":
        holder = session.storage.lock(0)  # of another object than the one that waits
        holder.__enter__()
        session._storage = session._archive._storage = AnnouncedStorage(session.storage.path)
        call = session.start
    if end == "task":
        asyncio.run(fail_beside(session, call))
    else:
        work = partial(asyncio.run, closed_after(session, call)) if front == "async" else call
        if end == "interrupt":
            with contextlib.closing(session) if front == "sync" else contextlib.nullcontext():
                work()
        else:
            end_beside(work, end)


async def closed_after(session: AsyncIdentitySession, call: Callable[[], Any]) -> None:
    try:
        await call()
    finally:
        await session.close()


async def fail_beside(session: AsyncIdentitySession, call: Callable[[], Any]) -> None:
    task = asyncio.create_task(closed_after(session, call))
    await asyncio.to_thread(sys.stdin.readline)
    raise ValueError(f"the main task fails, while {task.done()=}")


def end_beside(work: Callable[[], object], end: str) -> None:
    threading.Thread(target=work, daemon=True).start()
    sys.stdin.readline()
    if end == "exception":
        raise ValueError("the main thread fails")
    if end == "sys.exit":
        sys.exit(3)


def never_return(*arguments: object, **options: object) -> Any:
    say("in flight")
    threading.Event().wait()


class AnnouncedStorage(JsonStorage):
    def lock(self, seconds: float) -> Any:
        say("in flight")
        return super().lock(seconds)


# Two processes


def fork(front: str, way: str, url: str, folder: str) -> None:
    session_type = IdentitySession if front == "sync" else AsyncIdentitySession
    session: Any = session_type(KEY, base_url=url, storage=JsonStorage(folder), timeout=PATIENCE_SECONDS)

    def made(call: Any) -> Any:
        return loop.run_until_complete(call) if front == "async" else call

    def login(customer: str) -> None:
        result = made(session.login(ids(customer)))
        say(customer, result.http_code, session.mpid)

    def in_the_child() -> None:
        nonlocal loop
        loop = asyncio.new_event_loop()
        login("child")
        made(session.close())
        loop.close()

    loop = asyncio.new_event_loop()
    made(session.start())
    child = started_child(way, in_the_child)
    say("exit code of the child", child())
    login("parent")
    made(session.close())
    loop.close()


def started_child(way: str, work: Callable[[], None]) -> Callable[[], int]:
    """Begin a child process that does this; gives a function that waits for its exit code."""
    if way == "multiprocessing":
        import multiprocessing

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()

        def wait() -> int:
            process.join()
            assert process.exitcode is not None
            return process.exitcode

        return wait
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_amid(front: str, url: str, folder: str) -> None:
    """Fork while other threads are in the middle of everything: a call in flight, and every lock held."""
    session = IdentitySession(KEY, base_url=url, storage=JsonStorage(folder), timeout=PATIENCE_SECONDS)
    session.start()
    memory = MemoryStorage()
    threading.Thread(target=session.login, args=(ids("hang"),), daemon=True).start()
    sys.stdin.readline()  # the call is in flight
    held, release = threading.Barrier(2), threading.Event()

    def hold() -> None:
        network = session._sender._transport._connections  # type: ignore[union-attr]
        [pool] = network._pools.all()
        inner = network._pools._lock, pool._optional_thread_lock
        with session.storage.lock(1), memory.lock(1), session._sender_lock, inner[0], inner[1]:
            held.wait()
            release.wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait(PATIENCE_SECONDS)

    def in_the_child() -> None:
        try:
            with memory.lock(1):
                say("in the child")
        except StorageError as stuck:
            say(stuck)
        say("child", session.login(ids("child")).http_code, session.mpid)
        session.close()

    child = started_child("fork", in_the_child)
    sys.stdin.readline()
    release.set()  # the file is locked for all processes
    say("exit code of the child", child())
    say("parent", session.login(ids("parent")).http_code)


# Time and memory


class SlowDisk(MetaPathFinder):
    """One from which httpx is loaded so slowly that it matters."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "httpx":
            pause(DEADLINE_SECONDS / 4)


def first(front: str, url: str) -> None:
    """Log in, and say how many seconds the call took."""
    assert "httpx" not in sys.modules
    sys.meta_path.insert(0, SlowDisk())
    code, seconds = one_login(front, url)
    say(code, seconds)


def grow(front: str, *urls: str) -> None:
    """Log in at the first URL, to have everything imported and warm; then at the others, each with how many MiB and
    seconds it took."""
    took_at_first = None
    for url in urls:
        code, seconds = one_login(front, url)
        now = peak_mebibytes()
        took_at_first = took_at_first or now
        say(code, f"{now - took_at_first:.1f}", seconds)


def one_login(front: str, url: str) -> tuple[int, float]:
    settings: Any = {"base_url": url, "storage": MemoryStorage(), "retry": None, "timeout": DEADLINE_SECONDS}
    if front == "async":
        return asyncio.run(one_awaited_login(settings))
    with contextlib.closing(IdentitySession(KEY, **settings)) as session:
        began = monotonic()
        code = session.login(ids("1")).http_code
        return code, monotonic() - began


async def one_awaited_login(settings: Any) -> tuple[int, float]:
    session = AsyncIdentitySession(KEY, **settings)
    began = monotonic()
    code = (await session.login(ids("1"))).http_code
    seconds = monotonic() - began
    await session.close()
    return code, seconds


def peak_mebibytes() -> float:
    """The most memory this process has had so far. What `getrusage` says includes the process it was forked from."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    {"hang": hang, "fork": fork, "fork_amid": fork_amid, "first": first, "grow": grow}[sys.argv[1]](*sys.argv[2:])
