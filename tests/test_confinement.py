"""Names that come from outside name no file: whatever tokens, MPIDs, identities and devices are, the storage folder is
the only one that is touched.

A process of its own reports, by an audit hook of the interpreter, every path that is opened, listed, created, moved,
linked or removed, so that a file that was there for a moment is seen as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from required import SLOW
from servers import FRONTS, opened
from storage_helpers import API_KEY, HOSTILE_TEXTS

from identity_session.exchange import HTTPAnswer, HTTPRequest
from identity_session.identities import is_text
from identity_session.idsync import LocalIDSync

PIECES = st.sampled_from(
    ["..", "/", "\\", "~", "\0", ".", "C:", "%2e%2e", "\u2025", "\uff0e", "users", "lock", "state.json", "\n"]
)
HOSTILE = st.sampled_from(HOSTILE_TEXTS) | st.lists(PIECES, min_size=1, max_size=6).map("".join) | st.text(min_size=1)
NAMES = HOSTILE.filter(is_text)
PATH_EVENTS = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.rmdir",
    "os.truncate",
    "os.listdir",
    "os.scandir",
)


class Named:
    """Answers with the MPID that it was told."""

    def __init__(self, mpid: str) -> None:
        self.mpid = mpid

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return HTTPAnswer(200, {}, json.dumps({"mpid": self.mpid, "context": self.mpid}).encode())

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return self.send(request, seconds)

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def play(front: str, root: Path, token: str, device: str, mpid: str, value: str, name: str) -> None:
    """A journey in which every name is hostile, and the same on a service with its own database."""
    service = Named(mpid)
    settings = {"storage": root / "store", "workspace_token": token, "device_id": device, "max_users": 2}
    for _ in range(2):
        with opened(front, API_KEY, transport=service, **settings) as own:
            own.start()
            for each in (mpid, "7", f"{mpid}x", mpid):
                service.mpid = each
                own.login({"userIdentities": {"email": value, "customerid": token}})
            user = own.get_user(mpid)
            if user is not None:
                own._run(user.set_attribute(name, value))
                own._run(user.set_consent_state({name: value}))
            own.get_user(f"{mpid}/../{token}")
    with opened(front, API_KEY, **settings) as own:
        own.reset()
    idsync = LocalIDSync(str(root / "service" / "profiles.db"))
    key = token if token.isascii() and token.isprintable() and " " not in token else API_KEY
    carrier = idsync.transport if front == "sync" else idsync.async_transport
    with opened(front, key, storage=root / "store", transport=carrier, device_id=device) as own:
        own.start()
        own.login({"userIdentities": {"email": value, "customerid": name}})
    idsync.close()


def strays(root: Path) -> list[str]:
    """What lies in the folder but is neither the store's nor the service's."""
    own = ("store", "service")
    return [str(f) for f in root.iterdir() if f.name not in own] + [
        str(f) for f in root.rglob("*") if not f.resolve().is_relative_to(root.resolve())
    ]


@pytest.mark.slow
@FRONTS
@settings(max_examples=60 if SLOW else 15)
@given(token=NAMES, device=NAMES, mpid=NAMES, value=NAMES, name=NAMES)
@example(token="../../escape", device="/etc/passwd", mpid="../..", value="..", name="users/../../x")
def test_no_name_leaves_the_folder(front: str, token: str, device: str, mpid: str, value: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        play(front, Path(folder), token, device, mpid, value, name)
        assert strays(Path(folder)) == []
        names = [f.name for f in (Path(folder) / "store").rglob("*")]
        assert all(part.isascii() and ".." not in part and len(part) < 100 for part in names)


@FRONTS
def test_no_path_outside_the_folder_is_ever_touched(front: str, tmp_path: Path) -> None:
    """Not for a moment either, and not for reading: as the interpreter reports it."""
    (tmp_path / "parent").mkdir()
    program = [sys.executable, "-X", "utf8", __file__, front, str(tmp_path / "parent" / "root")]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    report = json.loads(ran.stdout)
    assert report["touched"] > 100 * len(HOSTILE_TEXTS)
    assert report["outside"] == []
    assert [f.name for f in (tmp_path / "parent").iterdir()] == ["root"]


def _watched(front: str, root: Path) -> dict[str, Any]:
    """Play with every hostile text in every place; returns how many paths were touched and which lay outside."""
    touched, outside, watching = 0, set(), False

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touched
        if not watching or event not in PATH_EVENTS:
            return
        for path in arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]:
            if isinstance(path, str | bytes | os.PathLike):
                where = os.path.realpath(os.fsdecode(path))
                touched += 1
                if where != str(root) and not where.startswith(f"{root}{os.sep}") and not _is_code(where):
                    outside.add(f"{event} {where}")

    def journeys() -> None:
        for number, text in enumerate(HOSTILE_TEXTS):
            play(front, root / str(number), text, text, text, text, text)

    sys.addaudithook(look)
    root.mkdir()
    journeys()  # whatever is imported late is imported now
    watching = True
    journeys()
    watching = False
    return {"touched": touched, "outside": sorted(outside)}


def _is_code(path: str) -> bool:
    return path.startswith((sys.prefix, sys.base_prefix)) or path.endswith((".py", ".pyc"))


if __name__ == "__main__":
    front, folder = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(_watched(front, Path(os.path.realpath(folder.parent)) / folder.name)))
