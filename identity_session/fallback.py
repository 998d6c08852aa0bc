"""The storage of a session that is not strict about it: where the one below cannot be used, state lives in memory.

It decides once. A session whose first change was saved has a storage to rely on, and later trouble is told as ever.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .clock import monotonic
from .errors import StorageBusyError, StorageError
from .store import MemoryStorage, Storage, acquired
from .threads import after_fork

logger = logging.getLogger("identity_session")

T = TypeVar("T")


class FallbackStorage:
    """Another storage, or, from the first failure before a change was saved, memory over what can be read of it.

    A busy lock is no failure. See `Storage` for the methods.
    """

    def __init__(self, opened: Callable[[], Storage]) -> None:
        """`opened` gives the storage; it may raise StorageError, and then there is nothing to read either."""
        self._make_locks()
        after_fork(self, FallbackStorage._make_locks)
        self._workspaces: dict[str, FallbackStorage] = {}
        self._written = self._relied_on = False
        self._below: Storage | None = None
        self._in_use: Storage
        self._reason: StorageError | None = None
        try:
            self._below = self._in_use = opened()
        except StorageError as error:
            self._fall_back(error)

    def __repr__(self) -> str:
        return f"<FallbackStorage {'in memory' if self._reason else repr(self._in_use)}>"

    @property
    def in_use(self) -> Storage:
        """The storage below, or a memory storage since it could not be used."""
        return self._in_use

    @property
    def recovered_from(self) -> Path | None:
        """See `Storage.recovered_from`."""
        return self._below.recovered_from if self._below else None

    def in_workspace(self, name: str) -> Storage:
        """See `Storage.in_workspace`."""
        with self._deciding:
            if name not in self._workspaces:
                of_all = self._below or self._in_use
                self._workspaces[name] = FallbackStorage(lambda: of_all.in_workspace(name))
            return self._workspaces[name]

    @contextlib.contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        """See `Storage.lock`."""
        deadline = monotonic() + seconds
        if not acquired(self._mutex, seconds):  # held all the same when memory takes over half-way
            raise StorageBusyError("another thread has held the lock for too long")
        try:
            with contextlib.ExitStack() as stack:
                self._try(lambda storage: stack.enter_context(storage.lock(max(deadline - monotonic(), 0))))
                yield
            self._relied_on = self._relied_on or self._written
        finally:
            self._mutex.release()

    def read(self, name: str) -> Mapping[str, Any] | None:
        """See `Storage.read`."""
        return self._try(lambda storage: storage.read(name))

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """See `Storage.write`."""
        self._try(lambda storage: storage.write(name, content))
        self._written = True

    def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        self._try(lambda storage: storage.delete(name))

    def names(self, folder: str) -> list[str]:
        """See `Storage.names`."""
        return self._try(lambda storage: storage.names(folder))

    def clear(self) -> None:
        """See `Storage.clear`. Raises StorageError as well for what is left below because that cannot be used."""
        self._in_use.clear()
        if self._reason and self._below and _holds_something(self._below):
            raise StorageError(f"forgotten in memory, but what is stored could not be removed: {self._reason}")

    def _make_locks(self) -> None:
        self._mutex = threading.RLock()
        self._deciding = threading.Lock()

    def _try(self, action: Callable[[Storage], T]) -> T:
        try:
            return action(self._in_use)
        except StorageBusyError:
            raise
        except StorageError as error:
            with self._deciding:
                if self._reason is None:
                    if self._relied_on:
                        raise
                    self._fall_back(error)
        return action(self._in_use)

    def _fall_back(self, error: StorageError) -> None:
        self._reason = error
        self._in_use = _MemoryOver(self._below)
        logger.warning("%s; the state is kept in memory only, and lost when this program ends", error)


class _MemoryOver(MemoryStorage):
    """What changes is kept in memory, over what can be read of a storage."""

    def __init__(self, below: Storage | None) -> None:
        super().__init__()
        self._below = below
        self._changed: set[str] = set()
        for name in ("state", "device"):  # as they are now; of the users there may be very many
            content = self._read_below(name)
            self.delete(name) if content is None else self.write(name, content)

    def read(self, name: str) -> Mapping[str, Any] | None:
        return super().read(name) if name in self._changed else self._read_below(name)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        super().write(name, content)
        self._changed.add(name)

    def delete(self, name: str) -> None:
        super().delete(name)
        self._changed.add(name)

    def names(self, folder: str) -> list[str]:
        below: list[str] = []
        with contextlib.suppress(StorageError):
            below = self._below.names(folder) if self._below else []
        return [*super().names(folder), *(name for name in below if name not in self._changed)]

    def clear(self) -> None:
        super().clear()
        self._below = None

    def _read_below(self, name: str) -> Mapping[str, Any] | None:
        with contextlib.suppress(StorageError):
            return self._below.read(name) if self._below else None
        return None


def _holds_something(storage: Storage) -> bool:
    try:
        return any(storage.read(name) for name in ("state", "device")) or bool(storage.names("users"))
    except StorageError:
        return True
