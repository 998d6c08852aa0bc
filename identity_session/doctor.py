"""Looks for what is wrong with stored state, and puts right what can be without losing anything.

`examine` changes nothing; `repair` does what a person with this knowledge would do. Neither touches a workspace that a
newer version wrote to, except that a folder has to be open before anybody can see who wrote to it. Nothing is deleted
but the temporary file of a save that was cut short.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from . import files
from .archive import Archive, device_stamp_in, name_of_user_in
from .config import is_workspace_name
from .errors import NewerStorageError, StorageError
from .findings import Examination, Finding, Kind
from .store import JsonStorage, released

LOCK_SECONDS = 1.0
"""How long the lock is tried; a save holds it for milliseconds."""

_LOCK_POLL_SECONDS = 0.01


def examine(
    path: str | PathLike[str], workspace: str | None = None, *, lock_seconds: float = LOCK_SECONDS
) -> Examination:
    """Look at the state below a storage path, and change nothing.

    `workspace` is the name of the folder of one workspace; None looks at all. `lock_seconds` is how long a lock that is
    held is tried. Raises StorageError for a path that cannot be looked into; one that does not exist holds nothing.
    """
    path = Path(path).absolute()
    looks = [_looked(JsonStorage(folder), lock_seconds) for folder in _workspaces(path, workspace)]
    return Examination(
        path,
        tuple(look.folder for look in looks),
        users=sum(len(look.users) for look in looks),
        findings=tuple(finding for look in looks for finding in look.findings),
    )


def repair(
    path: str | PathLike[str], workspace: str | None = None, *, lock_seconds: float = LOCK_SECONDS
) -> Examination:
    """Put right what can be put right without loss, and tell what that was and what is left. See `examine`."""
    before = examine(path, workspace, lock_seconds=lock_seconds)
    repairable = {folder: _repairable(before, folder) for folder in before.workspaces}
    closed = [f for found in repairable.values() for f in found if f.kind is Kind.MODE and files.reopened(f.path)]
    if closed:  # only now can anybody say what is wrong in them
        after = repair(path, workspace, lock_seconds=lock_seconds)
        return replace(after, repaired=(*closed, *after.repaired))
    for folder, findings in repairable.items():
        if findings:
            with contextlib.suppress(StorageError):  # what could not be done is found again
                _repair(JsonStorage(folder), findings, lock_seconds)
    after = examine(path, workspace, lock_seconds=lock_seconds)
    return replace(after, repaired=tuple(f for f in before.findings if f.is_problem and f not in after.findings))


def _workspaces(path: Path, workspace: str | None) -> list[Path]:
    try:
        names = sorted(os.listdir(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{path} cannot be looked into ({error.strerror})") from error
    return [path / name for name in names if (name == workspace if workspace else is_workspace_name(name))]


def _repairable(examined: Examination, folder: Path) -> list[Finding]:
    findings = [finding for finding in examined.findings if finding.path.is_relative_to(folder)]
    if any(finding.kind is Kind.NEWER for finding in findings):
        return []
    return [finding for finding in findings if finding.is_repairable]


def _repair(storage: JsonStorage, findings: list[Finding], lock_seconds: float) -> None:
    with storage.lock(lock_seconds):
        for finding in findings:
            with contextlib.suppress(StorageError, OSError):
                _REPAIRS[finding.kind](storage, finding.path)


def _recover(storage: JsonStorage, path: Path) -> None:
    files.recover(path, storage.temporary)


def _mend_device_stamp(storage: JsonStorage, _: Path) -> None:
    Archive(storage).mend_device_stamp(LOCK_SECONDS)


def _make_private(storage: JsonStorage, folder: Path) -> None:
    files.make_private_folder(folder)
    for file in storage.own_files(folder):
        files.make_private_file(file)


def _remove(_: JsonStorage, path: Path) -> None:
    path.unlink(missing_ok=True)


_REPAIRS: Mapping[Kind, Callable[[JsonStorage, Path], None]] = {
    Kind.DAMAGED: _recover,
    Kind.LOST: _recover,
    Kind.CUT_SHORT: _recover,
    Kind.DAMAGED_PREVIOUS: _recover,
    Kind.DEVICE_STAMP: _mend_device_stamp,
    Kind.MODE: _make_private,
    Kind.LEFTOVER: _remove,
}


def _is_regular(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _why(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or getattr(error.__cause__, "strerror", None)
    return reason or type(error).__name__


def _looked(storage: JsonStorage, lock_seconds: float) -> _Look:
    look = _Look(storage)
    try:
        look.look(lock_seconds)
    except (OSError, StorageError) as error:
        look.find(Kind.UNREADABLE, storage.path, f"not all of it can be looked at ({_why(error)})")
    return look


class _Look:
    """One look at a workspace: what is wrong with it, and who is stored in it."""

    def __init__(self, storage: JsonStorage) -> None:
        self.folder = storage.path
        self.findings: list[Finding] = []
        self.users: set[str] = set()
        self._storage = storage
        self._is_still = False

    def look(self, lock_seconds: float) -> None:
        """Fill `findings` and `users`. May raise OSError or StorageError in the middle of it."""
        users = self.folder / "users"
        if not self._look_into(self.folder):
            return
        has_folder = self._look_into(users)
        with contextlib.ExitStack() as stack:
            self._is_still = self._keep_still(lock_seconds, stack)
            state, device = self._read("state"), self._read("device")
            names = self._storage.names("users") if has_folder else []
            for name in names:
                self._look_at_user(name, self._read(name))
            self._look_at_state(state, device, has_users=bool(names))
            self._look_for_leftover()

    def find(self, kind: Kind, path: Path, found: str) -> None:
        self.findings.append(Finding(kind, path, found))

    def _look_into(self, folder: Path) -> bool:
        if folder.is_symlink():
            self.find(Kind.LINK, folder, "the folder is a symbolic link")
        try:
            os.listdir(folder)
            os.stat(f"{folder}/.")  # it may be closed to those who may list it
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            self.find(Kind.IN_THE_WAY, folder, "it is no folder")
            return False
        except OSError as error:
            if isinstance(error, PermissionError) and files.is_closed(folder):
                self._look_at_mode(folder)
            else:
                self.find(Kind.UNREADABLE, folder, f"it cannot be listed ({_why(error)})")
            return False
        self._look_at_names(folder)
        self._look_at_access(folder)
        return True

    def _look_at_names(self, folder: Path) -> None:
        own = self._storage.own_files(folder)
        aside = [file for file in own if ".corrupt-" in file.name]
        if aside:
            self.find(Kind.SET_ASIDE, folder, f"{_count(len(aside), 'file was', 'files were')} set aside here")
        foreign = set(folder.iterdir()) - {*own, self.folder / "users"}
        if foreign:
            self.find(Kind.FOREIGN, folder, f"{_count(len(foreign), 'name is', 'names are')} not of this package")

    def _look_at_access(self, folder: Path) -> None:
        if os.name != "nt":
            self._look_at_mode(folder)
            own = [stat.S_IMODE(file.stat().st_mode) for file in self._storage.own_files(folder) if _is_regular(file)]
            others = [mode for mode in own if mode != 0o600]
            if others:
                shown = ", ".join(f"{mode:04o}" for mode in sorted(set(others)))
                self.find(Kind.MODE, folder, f"{_count(len(others), 'file has', 'files have')} mode {shown}")
        if not os.access(folder, os.W_OK | os.X_OK):
            self.find(Kind.NOT_WRITABLE, folder, "this user cannot write here")
        elif not shutil.disk_usage(folder).free:
            self.find(Kind.NOT_WRITABLE, folder, "the disk is full")

    def _look_at_mode(self, folder: Path) -> None:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode != 0o700:
            self.find(Kind.MODE, folder, f"the folder has mode {mode:04o}")

    def _keep_still(self, seconds: float, stack: contextlib.ExitStack) -> bool:
        """Take the lock, if there is one already, so that no save is under way meanwhile; False where one may be."""
        import filelock

        path = self._storage.lock_file
        if not files.is_there(path):
            return True
        if not _is_regular(path):
            self.find(Kind.IN_THE_WAY, path, "it is no regular file")
            return False
        lock = filelock.FileLock(path, mode=stat.S_IMODE(path.stat().st_mode))  # with another mode it would set that
        try:
            lock.acquire(seconds, poll_interval=_LOCK_POLL_SECONDS)
            stack.callback(released, lock)
            return True
        except filelock.Timeout:
            self.find(Kind.BUSY, path, f"another process has held the lock while it was tried for {seconds:g} s")
        except OSError as error:
            self.find(Kind.UNREADABLE, path, f"it cannot be locked ({_why(error)})")
        return False

    def _read(self, name: str) -> dict[str, Any] | None:
        """The object of this name as the next session will find it."""
        path = self._storage.file_of(name)
        try:
            document, damage = _load(path)
            previous, previous_damage = _load(files.previous_of(path))
        except NewerStorageError:
            self.find(Kind.NEWER, path, "a newer version of identity_session wrote it")
            return None
        except StorageError as error:
            self.find(Kind.UNREADABLE, path, f"it cannot be read ({_why(error)})")
            return None
        if document is None and (damage or previous_damage):
            found = damage or f"it is gone, and of the generation before: {previous_damage}"
            self.find(Kind.DAMAGED if previous else Kind.LOST, path, found)
        elif previous_damage:
            self.find(Kind.DAMAGED_PREVIOUS, path, f"of the generation before: {previous_damage}")
        elif self._is_still and previous and not document:
            self.find(Kind.CUT_SHORT, path, "it is gone, and the generation before is there")
        elif self._is_still and document and document["generation"] > 1 and not previous:
            self.find(Kind.NO_PREVIOUS, path, "the generation before is missing")
        return document or previous

    def _look_at_user(self, name: str, stored: Mapping[str, Any] | None) -> None:
        if stored is None:
            return
        right_name = name_of_user_in(stored)
        if right_name == name:
            self.users.add(name)
        else:
            found = "the user in it belongs under another name" if right_name else "there is no user in it"
            self.find(Kind.WRONG_NAME, self._storage.file_of(name), found)

    def _look_at_state(
        self, state: Mapping[str, Any] | None, device: Mapping[str, Any] | None, *, has_users: bool
    ) -> None:
        path = self._storage.file_of("state")
        if state is None:
            if has_users and not files.is_there(path):
                self.find(Kind.NO_STATE, path, "it is missing, though there are users")
            return
        user = state.get("user")
        current = name_of_user_in(user) if isinstance(user, Mapping) else None
        if current:
            self.users.add(current)
        stamp, second = device_stamp_in(state), device_stamp_in(device)
        if stamp is None and second is None:
            self.find(Kind.NO_DEVICE_STAMP, path, "there is no device application stamp")
        elif self._is_still and stamp != second:
            differ = "the two copies of the device application stamp differ"
            found = differ if stamp and second else "one of the two copies of the device application stamp is missing"
            self.find(Kind.DEVICE_STAMP, self._storage.file_of("device"), found)

    def _look_for_leftover(self) -> None:
        path = self._storage.temporary
        if path.is_symlink() or path.is_dir():
            self.find(Kind.FOREIGN, path, "it is no regular file; the next change makes way for its own")
        elif self._is_still and path.exists():
            self.find(Kind.LEFTOVER, path, "it is the temporary file of a save")


def _load(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The document there, or what is wrong with it."""
    try:
        return files.load(path), None
    except files.DamagedFileError as damage:
        return None, "it is a symbolic link" if path.is_symlink() else str(damage)
