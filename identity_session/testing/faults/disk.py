"""A disk that fails: the n-th operation below a folder goes wrong, or nothing happens from there on."""

from __future__ import annotations

import builtins
import contextlib
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Self

_BY_PATH_OR_HANDLE = (
    "chmod",
    "fstat",
    "fsync",
    "ftruncate",
    "link",
    "listdir",
    "lstat",
    "mkdir",
    "open",
    "read",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "stat",
    "symlink",
    "truncate",
    "unlink",
    "utime",
)
_TWO_PATHS = ("link", "rename", "replace", "symlink")
_READS = ("read", "read1", "readinto", "readline", "readlines")


class PowerCut(BaseException):
    """The power is gone. Raised by every operation from there on; like an interrupt it is no `Exception`, so that a
    program does not take it for trouble it can deal with."""


class FaultyDisk:
    """Makes chosen operations below a folder fail, in this process and all its threads, while its block lasts.

    Operations are the calls of `os` by path or handle (open, read, write, fsync, close, link, replace, unlink, chmod,
    mkdir, stat, scandir, ...), `open()`, and what is done with an open file. Not seen: what extensions written in C do
    by themselves, such as sqlite3, and paths relative to a handle (`dir_fd`).

        with FaultyDisk(folder) as disk:
            for step in disk.every_failure(errno.ENOSPC):   # the first operation fails, then the second, ...
                with step:
                    save()                                   # until one run meets no failure
                assert load() in (old, new)

    `calls` names the operations of the latest run in order; the one that failed begins with "! ". A write that fails
    has written its first half, and a file whose close fails is closed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.calls: list[str] = []
        self._folder = os.path.abspath(folder)
        self._handles: set[int] = set()
        self._lock = threading.Lock()
        self._fail_at: int | None = None
        self._code: int | None = None
        self._failed = False
        self._restore: list[tuple[ModuleType, str, Any]] = []

    def __enter__(self) -> Self:
        for module, name, watched in self.seam():
            self._restore.append((module, name, getattr(module, name)))
            setattr(module, name, watched)
        return self

    def __exit__(self, *error: object) -> None:
        for module, name, function in self._restore:
            setattr(module, name, function)
        self._restore.clear()

    def watching(self) -> AbstractContextManager[int]:
        """Inside the block nothing fails, and `calls` is filled."""
        return self._armed(0, None)

    def failing(self, n: int, code: int) -> AbstractContextManager[int]:
        """Inside the block the n-th operation, counted from 1, raises the OSError of this errno without an effect; all
        others work. Gives n."""
        return self._armed(n, code)

    @contextlib.contextmanager
    def stopping(self, n: int) -> Iterator[int]:
        """As a power cut: from the n-th operation on nothing happens, and each raises `PowerCut`, which ends the block.
        Gives n.

        What was written before is kept, synced or not; memory is not, so go on with new objects.
        """
        with contextlib.suppress(PowerCut), self._armed(n, None):
            yield n

    def failed(self) -> bool:
        """Whether the operation that was to fail in the latest block has come."""
        return self._failed

    def every_failure(self, code: int) -> Iterator[AbstractContextManager[int]]:
        """A block `failing` at the first operation, one at the second, and so on; the last is the first in which
        nothing failed any more."""
        return self._until_complete(lambda n: self.failing(n, code))

    def every_stop(self) -> Iterator[AbstractContextManager[int]]:
        """The same with `stopping`."""
        return self._until_complete(self.stopping)

    def _until_complete(
        self, block: Callable[[int], AbstractContextManager[int]]
    ) -> Iterator[AbstractContextManager[int]]:
        for n in itertools.count(1):
            self._failed = False
            yield block(n)
            if not self._failed:
                return

    @contextlib.contextmanager
    def _armed(self, n: int, code: int | None) -> Iterator[int]:
        self.calls, self._fail_at, self._code, self._failed = [], n, code, False
        try:
            yield n
        finally:
            self._fail_at = None

    def _count(self, name: str) -> None:
        """An operation is about to be carried out."""
        with self._lock:
            if self._fail_at is None:
                return
            if not self._failed:
                self.calls.append(name)
                if len(self.calls) != self._fail_at:
                    return
                self.calls[-1] = f"! {name}"
                self._failed = True
                if self._code is not None:
                    raise OSError(self._code, os.strerror(self._code))
            if self._code is None:
                raise PowerCut
            self.calls.append(name)

    def seam(self) -> Iterator[tuple[ModuleType, str, Callable[..., Any]]]:
        """What the block replaces: module, name, and what takes the function's place. For those who install it by other
        means, such as pytest's `monkeypatch.setattr`."""
        for name in _BY_PATH_OR_HANDLE:
            yield os, name, self._watched(name, getattr(os, name))
        yield os, "close", self._watched_close(os.close)
        yield os, "write", self._watched_write(os.write)
        for module in (builtins, io):
            yield module, "open", self._watched_open(module.open)

    def _is_ours(self, target: object) -> bool:
        if isinstance(target, str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(target))
            return path == self._folder or path.startswith(self._folder + os.sep)
        return target in self._handles or (isinstance(target, _WatchedFile) and target.fileno() in self._handles)

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        paths = 2 if name in _TWO_PATHS else 1

        def watched(*arguments: Any, **options: Any) -> Any:
            targets = [*arguments[:paths], *(options[key] for key in ("path", "src", "dst") if key in options)]
            ours = any(map(self._is_ours, targets))
            if ours:
                self._count(name)
            result = function(*arguments, **options)
            if ours and name == "open":
                self._handles.add(result)
            return result

        return watched

    def _watched_close(self, close: Callable[[int], None]) -> Callable[[int], None]:
        def watched(handle: int) -> None:
            ours = self._is_ours(handle)
            self._handles.discard(handle)
            close(handle)
            if ours:
                self._count("close")

        return watched

    def _watched_write(self, write: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def watched(handle: int, data: Any) -> int:
            if not self._is_ours(handle):
                return write(handle, data)
            half = len(data) // 2
            written = write(handle, data[:half])
            self._count("write")
            return written if written < half else written + write(handle, data[half:])

        return watched

    def _watched_open(self, open_: Callable[..., Any]) -> Callable[..., Any]:
        def watched(file: Any, *arguments: Any, **options: Any) -> Any:
            if not self._is_ours(file):
                return open_(file, *arguments, **options)
            if not isinstance(file, int):
                self._count("open")
            opened = open_(file, *arguments, **options)
            self._handles.add(opened.fileno())
            return _WatchedFile(opened, self._count, self._handles, closes=options.get("closefd", True))

        return watched


class _WatchedFile:
    """An open file whose reads and writes are counted, and fail, like the calls of `os`."""

    def __init__(self, file: Any, count: Callable[[str], None], handles: set[int], *, closes: bool) -> None:
        self._file = file
        self._count = count
        self._handles = handles
        self._closes = closes

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._file, name)
        if name not in (*_READS, "truncate"):
            return attribute

        def counted(*arguments: Any) -> Any:
            self._count("truncate" if name == "truncate" else "read")
            return attribute(*arguments)

        return counted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def write(self, data: Any) -> int:
        """Nothing stays in a buffer, from which it would reach the disk after a fault."""
        half = len(data) // 2
        written = self._file.write(data[:half])
        self._file.flush()
        self._count("write")
        written += self._file.write(data[half:])
        self._file.flush()
        return int(written)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._count("flush")
        self._file.flush()

    def close(self) -> None:
        if self._file.closed:
            return
        handle = self._file.fileno()
        self._file.close()
        if self._closes:
            self._handles.discard(handle)
            self._count("close")
