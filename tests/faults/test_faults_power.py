"""A power cut, after which a disk may hold anything that was not synced, or nothing of it."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pytest
from storage_helpers import login
from transitions import Model, Traveller, cut_short, documents, people

from identity_session import JsonStorage

STEP = 20
ROOT = "."


@dataclass(frozen=True)
class Moment:
    """What a folder holds between two operations."""

    names: dict[str, int]
    """What lies where: a number for each file and folder by its path."""
    written: dict[int, bytes]
    """The content of files as programs see it."""
    synced: dict[int, bytes]
    """The content of files as far as it is certain to be on the disk."""
    named: dict[str, int]
    """The moment in which the names in a folder were synced last."""


class Disk:
    """Notes every moment of a folder while something is written there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._numbers: dict[int, int] = {}
        self._next = 0
        self._paths: dict[int, str] = {}
        self._synced: dict[int, bytes] = {}
        self._written: dict[int, bytes] = {}
        self._named: dict[str, int] = {}
        self.moments: list[Moment] = []
        self._note()
        self._synced.update(self._written)
        self._named = {name: 0 for name, number in self.moments[0].names.items() if number not in self._written}
        self.moments.clear()
        self._note()
        for name in ("open", "link", "replace", "unlink", "mkdir", "close"):
            monkeypatch.setattr(os, name, self._noted(name, getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _noted(self, name: str, function: Any) -> Any:
        def noted(first: Any, *arguments: Any, **options: Any) -> Any:
            result = function(first, *arguments, **options)
            if name == "open" and str(first).startswith(str(self._folder)):
                self._paths[result] = self._relative(first)
                if arguments[0] & os.O_EXCL:  # a new file, even where it takes the place of one that is gone
                    self._numbers.pop(os.fstat(result).st_ino, None)
            if name == "close" and not self._paths.pop(first, None):
                return result
            self._note()
            return result

        return noted

    def _fsync(self, handle: int) -> None:
        path = self._paths[handle]
        self._note()
        number = self.moments[-1].names[path]
        if number in self._written:
            self._synced[number] = self._written[number]
        else:
            self._named[path] = len(self.moments) - 1
        self._note()

    def _note(self) -> None:
        names = {ROOT: self._number(self._folder)}
        for file in self._folder.rglob("*"):
            number = names[self._relative(file)] = self._number(file)
            if stat.S_ISREG(file.lstat().st_mode):
                self._written[number] = file.read_bytes()
        self.moments.append(Moment(names, dict(self._written), dict(self._synced), dict(self._named)))

    def _number(self, file: Path) -> int:
        inode = file.lstat().st_ino
        if inode not in self._numbers:
            self._next += 1
            self._numbers[inode] = self._next
        return self._numbers[inode]

    def _relative(self, path: object) -> str:
        return str(Path(str(path)).relative_to(self._folder))

    def after_a_cut(self, at: int) -> Iterator[dict[str, bytes | None]]:
        """What may lie there after a power cut in this moment: names as they were at any time since they were synced,
        files as they are or as they were synced. The content of a folder is None."""
        moment = self.moments[at]
        for since in range(at + 1):
            names: dict[str, int] = {}
            for folder, number in sorted({**moment.names, ROOT: 0}.items()):
                if folder != ROOT and (folder not in names or number in moment.written):
                    continue
                then = self.moments[max(since, moment.named.get(folder, 0))].names
                names |= {p: n for p, n in then.items() if p != ROOT and str(PurePath(p).parent) == folder}
            for contents in (moment.written, moment.synced):
                yield {p: contents.get(n, b"") if n in moment.written else None for p, n in names.items()}


def restore(image: dict[str, bytes | None], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, content in sorted(image.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


@pytest.mark.parametrize("call", ["start", "login", "attribute of another user"])
def test_after_a_power_cut_a_call_has_happened_or_not_and_has_once_it_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whatever of the unsynced reached the disk; a start is the first one on this device."""
    store, copy = tmp_path / "store", tmp_path / "copy"
    store.mkdir(0o700)
    if call != "start":
        traveller = Traveller(store)
        while traveller.step < STEP:
            traveller.take()
        for mpid in map(str, range(1, 9)):
            assert login(traveller.session, mpid).http_code == 200
    workspace = Traveller(store).session.storage.path.name
    model = Model()
    before = documents(JsonStorage(store / workspace))
    model.hold(before)
    Traveller(model, STEP).call(call, random.Random(STEP))
    possible = cut_short(before, model.written)
    assert len(possible) > 1

    traveller = Traveller(store, STEP)
    with monkeypatch.context() as patch:
        disk = Disk(store, patch)
        traveller.call(call, random.Random(STEP))
    assert documents(JsonStorage(store / workspace)) == possible[-1]

    tried: set[tuple[Any, ...]] = set()
    last = len(disk.moments) - 1
    for at in range(last + 1):
        for image in disk.after_a_cut(at):
            key = (at == last, *sorted(image.items()))
            if key in tried:
                continue
            tried.add(key)
            restore(image, copy)
            opened = JsonStorage(copy / workspace)
            found = documents(opened)
            where = f"moment {at} of {last}: {sorted(image)}"
            assert found in (possible[-1:] if at == last else possible), where
            assert people(before) <= people(found), where
            assert "device" in found or "state" not in found, where
            assert opened.recovered_from is None, where
    assert len(tried) > 2 * len(possible)
