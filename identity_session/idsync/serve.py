"""The service on a port: one process, or one parent with several workers that end together."""

from __future__ import annotations

import ipaddress
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from .embedded import LocalIDSync
from .guard import Guard, in_url
from .strategies import IdentityStrategy

END_SECONDS = 9.5
"""Whatever happens, a process is gone this long after it was asked to end."""

START_SECONDS = 60.0

_BACKLOG = 2048


@dataclass(frozen=True, repr=False)
class ServeSettings:
    """What to serve, and where. Raises ValueError for what cannot be."""

    host: str = "127.0.0.1"
    """The name or address of this machine to listen on; the service answers to it, and to the names of the loopback."""
    port: int = 0
    """0 picks a free one."""
    database: str = ":memory:"
    """As `LocalIDSync` takes it."""
    strategy: IdentityStrategy = field(default_factory=IdentityStrategy)
    """With its settings and API keys."""
    token: str | None = None
    """Opens `/emulator`. None: no token is needed on a loopback address, and `/emulator` is closed on any other."""
    seed: int | None = None
    """Makes the MPIDs the same in every run; None draws them at random. Not with several workers."""
    workers: int = 1
    """Processes that share port and database. Several cannot share ":memory:"."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("--host is empty; name an address of this machine")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port {self.port} is none; name one from 1 to 65535, or 0 for a free one")
        if self.workers < 1:
            raise ValueError("there must be at least 1 worker")
        if self.workers > 1 and self.database == ":memory:":
            raise ValueError("several workers cannot share :memory:; give --database a file or a postgresql:// URL")
        if self.workers > 1 and self.seed is not None:
            raise ValueError("several workers draw MPIDs in no fixed order; leave out --seed or --workers")

    @property
    def shared(self) -> bool:
        return self.workers > 1


def serve(settings: ServeSettings, announce: Callable[[str, bool], None]) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code.

    `announce` is called once with the URL, and whether `/emulator` is closed for want of a token; what it raises ends
    the service. Raises ValueError or OSError for what cannot be served, and ImportError if the extra `postgres` is
    missing.
    """
    _import_server()
    with listener(settings.host, settings.port) as sock:
        url = f"http://{in_url(settings.host)}:{sock.getsockname()[1]}"
        closed = settings.token is None and not is_loopback(sock)

        def ready() -> None:
            announce(url, closed)

        if settings.workers == 1:
            _work(settings, sock, ready)
            return 0
        _open(settings).close()  # what cannot be opened is said once, by the parent
        return _Parent(settings, sock).run(ready)


def listener(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ValueError when the port is taken or the host is none of this machine."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ValueError(f"cannot listen on {in_url(host)}:{port} ({error.strerror or error})") from None


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach a socket: all of 127.0.0.0/8, and ::1."""
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def _import_server() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ValueError("serve needs uvicorn and starlette: pip install 'identity_session[server]'") from None


def _open(settings: ServeSettings) -> LocalIDSync:
    return LocalIDSync(settings.database, settings.strategy, seed=settings.seed)


def _work(settings: ServeSettings, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve in this process until it is asked to end."""
    from .app import create_app
    from .connections import Server

    guard = Guard(settings.host, settings.token, token_needed=not is_loopback(sock))
    idsync = _open(settings)
    try:
        server = Server(create_app(idsync, guard, shared=settings.shared), ready, _limit_the_end)
        server.run([sock])
    finally:
        idsync.close()


def _limit_the_end() -> None:
    """Threads that wait for a database cannot be stopped, and would keep the process."""
    timer = threading.Timer(END_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _worker(settings: ServeSettings, sock: socket.socket, up: Connection) -> None:
    """The life of one worker. It ends with its parent, even with one that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    _work(settings, sock, lambda: up.send_bytes(b"up"))


class _Parent:
    """Starts the workers, waits, and ends them together."""

    def __init__(self, settings: ServeSettings, sock: socket.socket) -> None:
        self._sock = sock
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe(duplex=False) for _ in range(settings.workers)]
        self._up = [reader for reader, _ in pipes]
        self._workers: list[SpawnProcess] = [
            context.Process(target=_worker, args=(settings, sock, writer)) for _, writer in pipes
        ]
        self._writers = [writer for _, writer in pipes]
        self._ending = False
        self._told: set[SpawnProcess] = set()

    def run(self, ready: Callable[[], None]) -> int:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._end)
        try:
            self._start()
            if self._all_up():
                ready()
                wait([worker.sentinel for worker in self._workers])
            lost = not self._ending
        finally:
            self._end()
            self._join()
        # One that was still starting had nothing to end in order.
        orderly = all(worker.exitcode in (0, -signal.SIGTERM) for worker in self._workers)
        return 0 if orderly and not lost else 1

    def _start(self) -> None:
        for worker in self._workers:
            worker.start()
        if self._ending:
            self._end()  # one that was being started when the signal came was not there to be told
        # What the parent kept open would not end when the workers end.
        for writer in self._writers:
            writer.close()
        self._sock.close()

    def _join(self) -> None:
        for worker in self._workers:
            if worker.pid is not None:
                worker.join(END_SECONDS)
                if worker.is_alive():
                    worker.kill()

    def _all_up(self) -> bool:
        """Whether every worker serves; False as soon as one never will."""
        return all(reader.poll(START_SECONDS) and _received(reader) for reader in self._up)

    def _end(self, number: int | None = None, frame: FrameType | None = None) -> None:
        self._ending = True
        for worker in self._workers:
            if worker.is_alive() and worker not in self._told:
                self._told.add(worker)  # a second signal would cut short what it does at its end
                worker.terminate()


def _received(reader: Connection) -> bool:
    try:
        return bool(reader.recv_bytes())
    except EOFError:
        return False
