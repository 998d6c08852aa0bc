"""One JSON file that survives anything: a kill, a power cut or a full disk leaves the old document or the new one.

Every file is a JSON object with three members of its own: `schema_version`, judged before anything else;
`generation`, which counts the saves; and `checksum`, over all the rest. Beside `state.json` may lie
`state.json.previous` (the generation before), `state.json.tmp` (a save that was cut short) and up to three
`state.json.corrupt-<time>-<n>` (set aside, for a person to look at).

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

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)
_COMPANION = r"\.tmp|(\.previous)?(\.corrupt-.*)?"
_ENVELOPE = ("schema_version", "generation", "checksum")


class DamagedFileError(Exception):
    """What lies there is not a document that was saved here; the text says why, without its content."""


def load(path: Path) -> dict[str, Any] | None:
    """The document in this file, with its envelope; None when there is no file.

    Raises DamagedFileError, NewerStorageError, or StorageError when access is denied.
    """
    content = _read(path)
    if content is None:
        return None
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError("it is not JSON") from error
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


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file by this content, durably: on return it is on the disk. Raises StorageError; then the file is
    as it was, or already the new one when only its folder could not be synced."""
    current = load(path)
    document = {
        "schema_version": SCHEMA_VERSION,
        "generation": (current["generation"] if current else 0) + 1,
        **{name: value for name, value in content.items() if name not in _ENVELOPE},
    }
    document["checksum"] = _checksum(document)
    data = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    if len(data) > MAX_FILE_BYTES:
        raise StorageError(f"{path.name} would be larger than {MAX_FILE_BYTES >> 20} MiB; store less in attributes")
    temporary = _beside(path, "tmp")
    try:
        _write_durably(temporary, data)
        if current:
            _keep_previous(path)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"{path} could not be written ({_reason(error)})") from error


def recover(path: Path) -> tuple[dict[str, Any] | None, Path | None]:
    """Make a damaged or missing file good again: set it aside and bring back the generation before.

    Returns the document now in force (None: start afresh) and where the damaged file lies now (None: there was no
    damage any more, or it could not be moved). Logs one warning per damaged file.
    """
    aside = None
    try:
        document = load(path)
    except DamagedFileError as damage:
        aside = _set_aside(path, damage)
        document = None
    previous = _beside(path, "previous")
    if document is None and previous.exists():
        try:
            document = load(previous)
        except DamagedFileError as damage:
            _set_aside(previous, damage)
        else:
            with contextlib.suppress(OSError):
                _link_or_copy(previous, path)
    return document, aside


def delete(path: Path) -> None:
    """Remove a document and the generation before; one that is not there is fine. Raises StorageError."""
    try:
        for file in (_beside(path, "previous"), path):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} could not be removed ({_reason(error)})") from error


def companions(path: Path) -> list[Path]:
    """The temporary, previous and set-aside files beside this document."""
    return [f for f in path.parent.glob(f"{path.name}.*") if re.fullmatch(_COMPANION, f.name.removeprefix(path.name))]


def has_previous(path: Path) -> bool:
    """Whether the generation before is there: with the file itself missing, a recovery was cut short."""
    return _beside(path, "previous").exists()


def make_private_folder(folder: Path) -> None:
    """Create this folder and its missing parents, each 0700 whatever the umask. Raises StorageError."""
    try:
        for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
            with contextlib.suppress(FileExistsError):
                missing.mkdir()
            missing.chmod(0o700)
            sync_folder(missing.parent)
        if stat.S_IMODE(folder.stat().st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise StorageError(f"the storage folder {folder} cannot be created ({_reason(error)})") from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names in this folder durable, where the platform can."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read(path: Path) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_BLOCK)
    except FileNotFoundError:
        return None
    except (PermissionError, NotADirectoryError) as error:
        raise StorageError(f"{path} cannot be read ({_reason(error)})") from error
    except OSError as error:
        raise DamagedFileError(f"it cannot be opened ({_reason(error)})") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise DamagedFileError("it is not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DamagedFileError(f"it cannot be read ({_reason(error)})") from error
    finally:
        os.close(handle)
    if len(content) > MAX_FILE_BYTES:
        raise DamagedFileError("it is too large")
    return content


def _write_durably(path: Path, data: bytes) -> None:
    # The name is fixed, so at most one leftover stays behind. It is removed rather than opened: whatever lies there,
    # a link planted by someone else included, is never written through.
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.chmod(path, 0o600)
        file.write(data)
        file.flush()
        os.fsync(handle)


def _keep_previous(path: Path) -> None:
    previous = _beside(path, "previous")
    previous.unlink(missing_ok=True)
    _link_or_copy(path, previous)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        _write_durably(target, source.read_bytes())  # some file systems have no hard links


def _set_aside(path: Path, damage: DamagedFileError) -> Path | None:
    stamp = f"{from_ms(now_ms()):%Y%m%dT%H%M%SZ}"
    number = 1
    while os.path.lexists(aside := _beside(path, f"corrupt-{stamp}-{number}")):
        number += 1
    try:
        os.replace(path, aside)
        if aside.is_file() and not aside.is_symlink():
            aside.chmod(0o600)
    except OSError as error:
        logger.warning("%s is damaged (%s) and cannot be moved (%s)", path, damage, _reason(error))
        return None
    logger.warning("%s is damaged (%s); it was set aside as %s", path, damage, aside.name)
    _drop_oldest(path)
    return aside


def _drop_oldest(path: Path) -> None:
    aside = [f for f in path.parent.glob(f"{path.name}.corrupt-*") if f.is_symlink() or not f.is_dir()]
    for file in sorted(aside, key=_age)[:-KEPT_CORRUPT_FILES]:
        with contextlib.suppress(OSError):
            file.unlink()


def _age(aside: Path) -> tuple[str, int]:
    stamp, _, number = aside.name.rpartition("-")
    return stamp, int(number) if number.isdigit() else 0


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _checksum(document: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != "checksum"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
