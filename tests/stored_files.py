"""One stored file, saved and recovered without a storage around it, and what lies beside it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from identity_session import files


def file_in(folder: Path) -> Path:
    """The path of a document in a folder of its own, which is made."""
    folder.mkdir(0o700)
    return folder / "state.json"


def save(file: Path, **content: Any) -> None:
    files.save(file, content, file.with_name("save.tmp"))


def recover(file: Path) -> tuple[dict[str, Any] | None, Path | None]:
    return files.recover(file, file.with_name("save.tmp"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def generation_before(file: Path) -> Path:
    return file.with_name(f"{file.name}.previous")


def set_aside(file: Path) -> list[str]:
    return sorted(f.name for f in file.parent.iterdir() if f.name.startswith(f"{file.name}.corrupt-"))
