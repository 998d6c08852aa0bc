"""Where state is kept: the `Storage` protocol, and the two storages that come with the package."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, runtime_checkable

from . import files
from .clock import monotonic, pause
from .errors import StorageBusyError, StorageError
from .threads import after_fork

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")

_HASHED_NAME = re.compile(r"[0-9a-f]+")
_LOCK_POLL_SECONDS = 0.002
_RECOVERY_LOCK_SECONDS = 0.05


@runtime_checkable
class Storage(Protocol):
    """A locked place for named JSON objects. Implement it to keep state elsewhere, in a keychain or a database say.

    Names are `state`, `device`, and `users/` with lower-case hexadecimal digits behind it. Every method may raise
    StorageError.
    """

    @property
    def recovered_from(self) -> Path | None:
        """Where damaged state was set aside, if that happened; None otherwise. A plain attribute will do."""
        ...

    def in_workspace(self, name: str) -> Storage:
        """The storage for one workspace within this one; the same name gives the same state."""
        ...

    def lock(self, seconds: float) -> AbstractContextManager[None]:
        """Keep every other process and thread from changing anything. May be nested. Tries at least once, then until
        the seconds are over; raises StorageBusyError."""
        ...

    def read(self, name: str) -> Mapping[str, Any] | None:
        """The object of this name, or None."""
        ...

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace the object of this name, as a whole or not at all; on return it is durable. Needs the lock."""
        ...

    def delete(self, name: str) -> None:
        """Remove the object of this name, if it is there. Needs the lock."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names below `folder/`, in any order."""
        ...

    def clear(self) -> None:
        """Remove everything that was written here and nothing else. Needs the lock."""
        ...


class JsonStorage:
    """State as readable JSON files below a folder, shared safely between processes.

    `path` need not exist; missing folders are created with mode 0700, files with 0600. Each workspace has a folder
    of its own below it. A damaged file is set aside and the generation before is used (see `files`).
    """

    recovered_from: Path | None

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.recovered_from = None
        self._make_locks()
        after_fork(self, JsonStorage._make_locks)

    def __repr__(self) -> str:
        return f"JsonStorage({str(self.path)!r})"

    def in_workspace(self, name: str) -> Self:
        """See `Storage.in_workspace`."""
        there = copy.copy(self)  # a class of one's own may be made of more than a path
        JsonStorage.__init__(there, self.path / name)
        return there

    @contextlib.contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        """See `Storage.lock`."""
        deadline = monotonic() + seconds
        if not acquired(self._mutex, seconds):
            raise self._busy()
        try:
            with self._file_locked(deadline):
                yield
        finally:
            self._mutex.release()

    def read(self, name: str) -> dict[str, Any] | None:
        """See `Storage.read`."""
        path = self.file_of(name)
        try:
            document = _opening(path.parent, lambda: files.load(path))
        except files.DamagedFileError:
            return self._recover(path)
        if document is None and files.has_previous(path):
            return self._recover(path)
        return document

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """See `Storage.write`."""
        path = self.file_of(name)
        files.make_private_folder(path.parent)
        try:
            _, aside = files.load_previous(path)
            self.recovered_from = aside or self.recovered_from
            try:
                files.save(path, content, self.temporary)
            except files.DamagedFileError:
                self._recover(path)
                files.save(path, content, self.temporary)
        except files.DamagedFileError as damage:
            raise StorageError(f"{path} is damaged ({damage}) and cannot be set aside") from damage

    def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        files.delete(self.file_of(name))

    def names(self, folder: str) -> list[str]:
        """See `Storage.names`."""
        try:
            there = _opening(self.path / folder, lambda: files.listed(self.path / folder))
            # A name may be left with its previous generation alone.
            stems = {file.name.partition(".")[0] for file in there if ".json" in file.name}
        except OSError as error:
            raise StorageError(f"{self.path / folder} cannot be read ({error.strerror})") from error
        return [f"{folder}/{stem}" for stem in stems if _HASHED_NAME.fullmatch(stem)]

    def clear(self) -> None:
        """See `Storage.clear`."""
        for name in ("state", "device", *self.names("users")):
            path = self.file_of(name)
            try:
                for companion in files.companions(path):
                    if companion.is_symlink() or not companion.is_dir():
                        companion.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"{path} could not be removed ({error.strerror})") from error
            files.delete(path)
        files.delete(self.temporary)

    def _make_locks(self) -> None:
        self._mutex = threading.RLock()
        self._file_lock: BaseFileLock | None = None

    @property
    def temporary(self) -> Path:
        """The file that a save writes before it takes its name; otherwise one was left by a save that was cut short."""
        return self.path / "save.tmp"

    @property
    def lock_file(self) -> Path:
        """The file that is locked. It is never deleted."""
        return self.path / "lock"

    def file_of(self, name: str) -> Path:
        """The file that holds the object of this name."""
        return self.path / f"{name}.json"

    def own_files(self, folder: Path) -> list[Path]:
        """What has the name of a file of this storage in its folder, or in one below it, whatever it is.

        Raises OSError, and StorageError.
        """
        if folder == self.path:
            known = (self.file_of("state"), self.file_of("device"), self.temporary, self.lock_file)
            return [file for file in files.listed(folder) if any(files.belongs_to(file, path) for path in known)]
        named = {self.file_of(name) for name in self.names(folder.name)}
        return [file for file in files.listed(folder) if folder / f"{file.name.partition('.')[0]}.json" in named]

    @contextlib.contextmanager
    def _file_locked(self, deadline: float) -> Iterator[None]:
        import filelock  # as costly to import as the rest of this package, and not needed for reading

        files.make_private_folder(self.path)
        while True:
            try:
                if self._file_lock is None:
                    files.make_private_lock(self.lock_file)
                    self._make_private()
                    self._file_lock = filelock.FileLock(self.lock_file, mode=0o600, thread_local=False)
                lock = self._file_lock
                lock.acquire(blocking=False)
                break
            except filelock.Timeout:
                if monotonic() >= deadline:
                    raise self._busy() from None
                pause(_LOCK_POLL_SECONDS)
            except (OSError, RuntimeError) as error:  # with the latter filelock refuses by itself
                reason = getattr(error, "strerror", None) or error
                raise StorageError(f"the lock in {self.path} cannot be taken ({reason})") from error
        try:
            yield
        finally:
            if not released(lock):
                self._file_lock = None

    def _make_private(self) -> None:
        """Give what others could look into, or not even its owner, its mode back. Users, who may be very many, are
        looked at only where their folder, or anything beside it, had another one."""
        users, had_another = self.path / "users", []
        with contextlib.suppress(OSError, StorageError):  # what belongs to somebody else stays as it is
            had_another += [file for file in self.own_files(self.path) if files.make_private_file(file)]
        with contextlib.suppress(OSError, StorageError):
            if users.is_dir() and not users.is_symlink():
                if stat.S_IMODE(users.stat().st_mode) != 0o700:
                    had_another.append(users)
                    with contextlib.suppress(StorageError):
                        files.make_private_folder(users)  # first, or its owner may not reach what is in it
                if had_another:
                    for file in self.own_files(users):
                        files.make_private_file(file)

    def _recover(self, path: Path) -> dict[str, Any] | None:
        try:
            with self.lock(_RECOVERY_LOCK_SECONDS):
                document, aside = files.recover(path, self.temporary)
        except StorageError:
            # Its holder may hang, or the disk be read-only: to read is possible all the same.
            return files.last_good(path)
        self.recovered_from = aside or self.recovered_from
        return document

    def _busy(self) -> StorageBusyError:
        return StorageBusyError(f"another process or thread has held the lock in {self.path} for too long")


class MemoryStorage:
    """State that lives as long as this object; sessions that share it share one state."""

    recovered_from: Path | None = None

    def __init__(self) -> None:
        self._objects: dict[str, str] = {}
        self._workspaces: dict[str, MemoryStorage] = {}
        self._make_lock()
        after_fork(self, MemoryStorage._make_lock)

    def in_workspace(self, name: str) -> MemoryStorage:
        """See `Storage.in_workspace`."""
        with self._mutex:
            return self._workspaces.setdefault(name, MemoryStorage())

    @contextlib.contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        """See `Storage.lock`."""
        if not acquired(self._mutex, seconds):
            raise StorageBusyError("another thread has held the lock for too long")
        try:
            yield
        finally:
            self._mutex.release()

    def read(self, name: str) -> Mapping[str, Any] | None:
        """See `Storage.read`."""
        text = self._objects.get(name)
        return None if text is None else json.loads(text)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """See `Storage.write`."""
        self._objects[name] = json.dumps(content)

    def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        self._objects.pop(name, None)

    def names(self, folder: str) -> list[str]:
        """See `Storage.names`."""
        return [name for name in list(self._objects) if name.startswith(f"{folder}/")]

    def clear(self) -> None:
        """See `Storage.clear`."""
        self._objects.clear()

    def _make_lock(self) -> None:
        self._mutex = threading.RLock()


def _opening(folder: Path, look: Callable[[], T]) -> T:
    """What a look into this folder brings; one that its owner closed is made private for it, as for a change."""
    try:
        return look()
    except (OSError, StorageError):
        if not files.reopened(folder):
            raise
    return look()


def released(lock: BaseFileLock) -> bool:
    """Release a lock, and say whether it can be taken again. Where the system refuses to unlock a file, as network file
    systems may, it is closed, which frees it as well; what was done under the lock is done."""
    try:
        lock.release()
        return True
    except OSError:
        state = lock._context  # filelock itself would keep the file open, and so locked, until the process ends
        handle, state.lock_file_fd = state.lock_file_fd, None
        if handle is not None:
            with contextlib.suppress(OSError):
                os.close(handle)
        return False


def acquired(mutex: Any, seconds: float) -> bool:
    """Whether a lock of `threading` could be taken within this time; it is tried at least once."""
    return bool(mutex.acquire(timeout=min(max(seconds, 0), threading.TIMEOUT_MAX)))
