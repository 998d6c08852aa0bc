"""One JSON file that survives anything: a kill, a power cut or a full disk leaves the old document or the new one.

Every file is a JSON object with three members of its own: `schema_version`, judged before anything else;
`generation`, which counts the saves; and `checksum`, over all the rest. Beside `state.json` may lie
`state.json.previous` (the generation before) and up to three `state.json.corrupt-<time>-<n>` (set aside, for a person
to look at). A save that was cut short may leave its temporary file.

Saving and setting aside are for the holder of the store's lock; reading needs none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .clock import from_ms, now_ms
from .errors import NewerStorageError, StorageError

logger = logging.getLogger("identity_session")

SCHEMA_VERSION = 1
MAX_FILE_BYTES = 32 * 1024 * 1024
KEPT_CORRUPT_FILES = 3

_IN_ITS_PLACE = (errno.EISDIR, errno.ELOOP, errno.ENXIO)
"""What is said of a folder, a link or a socket. All else but a bad sector is trouble around a file."""
_CANNOT_SYNC = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)
_COMPANION = r"(\.previous)?(\.corrupt-.*)?"
_ENVELOPE = ("schema_version", "generation", "checksum")


class DamagedFileError(Exception):
    """What lies there is not a document that was saved here; the text says why, without its content."""


class UnreadableFileError(DamagedFileError):
    """It is on a sector that cannot be read, or the disk is failing."""


_Tried = tuple[dict[str, Any] | None, DamagedFileError | None]


def load(path: Path) -> dict[str, Any] | None:
    """The document in this file, with its envelope; None when there is no file.

    Raises DamagedFileError, NewerStorageError, or StorageError when access is denied.
    """
    content = _read(path)
    if content is None:
        return None
    with contextlib.suppress(ValueError, RecursionError):  # an error of theirs holds the content, and is left behind
        return _checked(json.loads(content.decode()), path)
    raise DamagedFileError("it is not JSON")


def _checked(document: Any, path: Path) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise DamagedFileError("it is not a JSON object")
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DamagedFileError("it has no schema_version")
    if version > SCHEMA_VERSION:
        raise NewerStorageError(
            f"{path} was written by a newer version of identity_session (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); upgrade identity_session, or use another storage path"
        )
    if not isinstance(document.get("generation"), int) or document.get("checksum") != _checksum(document):
        raise DamagedFileError("its checksum does not match")
    return document


def save(path: Path, content: Mapping[str, Any], temporary: Path) -> None:
    """Replace the file by this content, durably: on return it is on the disk. Raises DamagedFileError for what lies
    there, and StorageError; then the file is as it was. All files of one store share a temporary name, so that one
    leftover at most stays behind."""
    current = load(path)
    document = {
        "schema_version": SCHEMA_VERSION,
        "generation": (current["generation"] if current else 0) + 1,
        **{name: value for name, value in content.items() if name not in _ENVELOPE},
    }
    document["checksum"] = _checksum(document)
    data = _text_of(document)
    if len(data) > MAX_FILE_BYTES:
        raise StorageError(f"{path.name} would be larger than {MAX_FILE_BYTES >> 20} MiB; store less in attributes")
    try:
        _write_durably(temporary, data)
        if current:
            _keep_previous(path)
        os.replace(temporary, path)
        try:
            sync_folder(path.parent)
        except OSError:
            _take_back(path, current)
            raise
    except OSError as error:
        _discard(temporary)
        raise StorageError(f"{path} could not be written ({_reason(error)})") from error


def last_good(path: Path) -> dict[str, Any] | None:
    """What `recover` would bring back, with nothing moved: for a reader who cannot have the lock. Raises as it does."""
    (document, _), (previous, _) = _generations(path)
    return document or previous


def recover(path: Path, temporary: Path) -> tuple[dict[str, Any] | None, Path | None]:
    """Make a damaged or missing file good again: set it aside and bring back the generation before, which stays.

    Returns the document now in force (None: start afresh) and where the damaged file lies now (None: there was no
    damage any more, or it could not be moved). Logs one warning per damaged file. Raises NewerStorageError, and
    StorageError if no sector of either file can be read: that is the disk, and may pass. Then nothing is moved.
    """
    (document, damage), (previous, previous_damage) = _generations(path)
    aside = _set_aside(previous_of(path), previous_damage) if previous_damage else None
    if damage:
        aside = _set_aside(path, damage) or aside
    if document is None and previous is not None:
        document = previous
        try:  # a copy, since damage to a link would be damage to both
            _write_durably(temporary, _text_of(previous))
            os.replace(temporary, path)
        except OSError:
            _discard(temporary)
    return document, aside


def load_previous(path: Path) -> tuple[dict[str, Any] | None, Path | None]:
    """The generation before, and where it lies now if it was damaged and set aside. Raises NewerStorageError."""
    previous = previous_of(path)
    document, damage = _tried(previous)
    return document, _set_aside(previous, damage) if damage else None


def _generations(path: Path) -> tuple[_Tried, _Tried]:
    this, before = _tried(path), _tried(previous_of(path))
    if isinstance(this[1], UnreadableFileError) and isinstance(before[1], UnreadableFileError):
        raise StorageError(f"neither {path} nor the generation before can be used: {this[1]}")
    return this, before


def _tried(path: Path) -> _Tried:
    """The document in this file, or what is wrong with it."""
    try:
        return load(path), None
    except DamagedFileError as damage:
        return None, damage


def delete(path: Path) -> None:
    """Remove a document and the generation before, durably; one that is not there is fine. Raises StorageError."""
    try:
        there = [file for file in (previous_of(path), path) if is_there(file)]
        for file in there:
            _make_way(file)
        if there:
            sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} could not be removed ({_reason(error)})") from error


def companions(path: Path) -> list[Path]:
    """The previous and set-aside files beside this document."""
    return [f for f in listed(path.parent) if f != path and belongs_to(f, path)]


def listed(folder: Path) -> list[Path]:
    """What lies in a folder; nothing in one that is not there. Raises OSError, which a glob would keep to itself."""
    try:
        return [folder / name for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def belongs_to(file: Path, path: Path) -> bool:
    """Whether a file is by its name this document, the generation before, or one of them set aside."""
    return file.name.startswith(path.name) and bool(re.fullmatch(_COMPANION, file.name.removeprefix(path.name)))


def previous_of(path: Path) -> Path:
    """Where the generation before lies."""
    return _beside(path, "previous")


def has_previous(path: Path) -> bool:
    """Whether the generation before is there: with the file itself missing, a recovery was cut short. Raises
    StorageError."""
    try:
        return is_there(previous_of(path))
    except OSError as error:
        raise StorageError(f"{previous_of(path)} cannot be looked at ({_reason(error)})") from error


def is_there(path: Path) -> bool:
    """Whether anything has this name, a link that leads nowhere included. Raises OSError where nobody can say, which
    `os.path.lexists` takes for no, and so do the methods of paths from Python 3.14 on."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def make_private_folder(folder: Path) -> None:
    """Create this folder and its missing parents, each 0700 whatever the umask. Raises StorageError."""
    try:
        for missing in reversed([f for f in (folder, *folder.parents) if not is_there(f)]):
            with contextlib.suppress(FileExistsError):
                missing.mkdir(0o700)
            missing.chmod(0o700)
            sync_folder(missing.parent)
        if stat.S_IMODE(folder.stat().st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise StorageError(f"the storage folder {folder} cannot be created ({_reason(error)})") from error


def is_closed(folder: Path) -> bool:
    """Whether this is a folder of our own whose mode keeps us from looking into it; links are not followed. Raises
    OSError."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_mode & 0o500 != 0o500 and found.st_uid == os.geteuid()


def reopened(folder: Path) -> bool:
    """Make a closed folder private, and say whether that was what kept us out."""
    with contextlib.suppress(OSError):
        if is_closed(folder):
            folder.chmod(0o700)
            return not is_closed(folder)  # not every file system has modes
    return False


def make_private_file(file: Path) -> bool:
    """Give a file that may be there mode 0600, and say whether it had another one; links are not followed."""
    with contextlib.suppress(FileNotFoundError):
        found = file.lstat().st_mode
        if stat.S_ISREG(found) and stat.S_IMODE(found) != 0o600:
            file.chmod(0o600)
            return True
    return False


def make_private_lock(file: Path) -> None:
    """The same for a lock file. Raises OSError for a link of either kind: some versions of filelock follow the one and
    empty what the other leads to."""
    with contextlib.suppress(FileNotFoundError):
        found = file.lstat()
        if stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
            raise OSError(errno.ELOOP, "a link is in its place")
        make_private_file(file)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in this folder durable, where the platform can."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:  # a folder that is not ours to read, a file system that has no such thing
            raise


def _read(path: Path) -> bytes | None:
    try:
        try:
            return _content(path)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
                raise
            return _content(path)  # a fault that is gone at the second try is none
    except FileNotFoundError:
        return None
    except OSError as error:
        if isinstance(error, NotADirectoryError):
            reason = f"{path.parent} cannot be a folder: a file is in its way; choose another storage path"
            raise StorageError(reason) from error
        if error.errno == errno.EIO:
            raise UnreadableFileError(f"it cannot be read ({_reason(error)})") from error
        if error.errno in _IN_ITS_PLACE:
            raise DamagedFileError(f"it cannot be read ({_reason(error)})") from error
        raise StorageError(f"{path} cannot be read ({_reason(error)})") from error


def _content(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_BLOCK)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise DamagedFileError("it is not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(handle)
    if len(content) > MAX_FILE_BYTES:
        raise DamagedFileError("it is too large")
    return content


def _write_durably(path: Path, data: bytes) -> None:
    # Whatever lies there, a link planted by someone else included, is removed rather than written through.
    _make_way(path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.chmod(path, 0o600)
        file.write(data)
        file.flush()
        os.fsync(handle)


def _discard(half_written: Path) -> None:
    with contextlib.suppress(OSError):
        half_written.unlink()


def _make_way(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # it may hold what is not ours
        _set_aside(path, DamagedFileError("it is a folder"))
    else:
        path.unlink(missing_ok=True)


def _keep_previous(path: Path) -> None:
    previous = previous_of(path)
    _make_way(previous)
    try:
        os.link(path, previous)
    except OSError:  # not every file system has hard links, and each says so in its own way
        try:
            _write_durably(previous, path.read_bytes())
        except OSError:
            _discard(previous)
            raise
    os.chmod(previous, 0o600)


def _take_back(path: Path, current: Mapping[str, Any] | None) -> None:
    # Nobody can say whether the new document would survive a power cut, so the caller must not find it.
    with contextlib.suppress(OSError):
        if current:
            os.replace(previous_of(path), path)
        else:
            path.unlink()


def _set_aside(path: Path, damage: DamagedFileError) -> Path | None:
    stamp = f"{from_ms(now_ms()):%Y%m%dT%H%M%SZ}"
    try:
        of_this_second = (file for file in _set_aside_before(path) if _age(file)[0].endswith(stamp))
        number = max((_age(file)[1] for file in of_this_second), default=0) + 1
        aside = _beside(path, f"corrupt-{stamp}-{number}")
        os.replace(path, aside)
    except OSError as error:
        logger.warning("%s is damaged (%s) and cannot be moved (%s)", path, damage, _reason(error))
        return None
    logger.warning("%s is damaged (%s); it was set aside as %s", path, damage, aside.name)
    with contextlib.suppress(OSError):
        make_private_file(aside)
        _drop_oldest(path, aside)
    return aside


def _drop_oldest(path: Path, newest: Path) -> None:
    # The newest is known, not judged by its time: the clock may have been set back.
    files = [f for f in _set_aside_before(path) if f.is_symlink() or not f.is_dir()]
    older = sorted((f for f in files if f != newest), key=_age)
    for file in older[: 1 - KEPT_CORRUPT_FILES]:
        file.unlink()


def _set_aside_before(path: Path) -> list[Path]:
    return [file for file in listed(path.parent) if file.name.startswith(f"{path.name}.corrupt-")]


def _age(aside: Path) -> tuple[str, int]:
    stamp, _, number = aside.name.rpartition("-")
    return stamp, int(number) if number.isdecimal() else 0


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _text_of(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _checksum(document: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != "checksum"}
    canonical = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
