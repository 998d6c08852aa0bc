"""What the tests of storage share: a service that answers at once, sessions on it, documents, and child processes.

Run as a program it is one of those child processes: `storage_helpers.py logins <path> <prefix> <count>` logs in as
`<prefix>0`, `<prefix>1`, ...; `logouts <path> <prefix> <count>` does so too, and each of them logs out again, offline;
`hold <path>` takes the lock of the store and keeps it. All print a line per step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from identity_session import IdentitySession, JsonStorage, Storage
from identity_session import files as storage_files
from identity_session.exchange import HTTPAnswer, HTTPRequest
from identity_session.testing import faults

if TYPE_CHECKING:
    import httpx

API_KEY = "us1-test-key"
ANONYMOUS = "100"
HOSTILE_TEXTS = (
    "../../escape",
    "/etc/passwd",
    "a/b\\c",
    "nul\0byte",
    "x" * 5000,
    "\u202eþ\U0001f600",
    "..",
    ".",
    "CON",
    "~",
)


def answer_to(content: bytes) -> dict[str, Any]:
    """A customerid is the MPID of a known user, without one the user is anonymous."""
    customer = json.loads(content).get("known_identities", {}).get("customerid")
    return {
        "mpid": customer or ANONYMOUS,
        "context": f"context of {customer or ANONYMOUS}",
        "is_logged_in": bool(customer),
        "is_ephemeral": False,
        "matched_identities": {},
    }


def service(request: httpx.Request) -> httpx.Response:
    """Answers every call at once."""
    import httpx

    return httpx.Response(200, json=answer_to(request.content))


class QuickService:
    """The same without httpx, for child processes that start often."""

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return HTTPAnswer(200, {}, json.dumps(answer_to(request.body)).encode())

    def close(self) -> None: ...


def make_session(storage: Any, **settings: Any) -> IdentitySession:
    """A session on this storage and the service above, not started yet."""
    if "transport" not in settings:
        import httpx

        settings["transport"] = httpx.MockTransport(service)
    return IdentitySession(API_KEY, storage=storage, **settings)


def started(storage: Any, **settings: Any) -> IdentitySession:
    """The same, started."""
    session = make_session(storage, **settings)
    session.start()
    return session


def login(session: IdentitySession, mpid: str) -> Any:
    """Log in as the known user with this MPID."""
    return session.login({"userIdentities": {"customerid": mpid}})


def workspace_of(path: Path) -> Path:
    """The one folder below the storage's path in which a session has put its state."""
    (workspace,) = path.glob("workspace-*")
    return workspace


def read_document(file: Path) -> dict[str, Any]:
    """A stored file as plain JSON, without asking the code that wrote it."""
    document = json.loads(file.read_text())
    assert isinstance(document, dict)
    return document


def content_of(storage: Storage, name: str) -> dict[str, Any] | None:
    """What was written, without what the storage adds for itself."""
    stored = storage.read(name)
    own = ("schema_version", "generation", "checksum")
    return None if stored is None else {key: value for key, value in stored.items() if key not in own}


def write_document(file: Path, content: Mapping[str, Any], **envelope: Any) -> None:
    """A document as the package would write it, with the checksum that belongs to it unless one is given."""
    document = {"schema_version": 1, "generation": 1, **content, **envelope}
    if "checksum" not in envelope:
        document["checksum"] = storage_files._checksum(document)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))


def user_file(workspace: Path, mpid: str) -> Path:
    """Where a user who is not current is stored."""
    return workspace / "users" / f"{hashlib.sha256(mpid.encode()).hexdigest()[:40]}.json"


def tree(folder: Path) -> dict[str, bytes]:
    """Every regular file below a folder with its content, the lock file left out."""
    found = (f for f in folder.rglob("*") if f.is_file() and f.name != "lock")
    return {str(f.relative_to(folder)): f.read_bytes() for f in found}


def temporary_files(folder: Path) -> list[Path]:
    """What saves that were cut short have left behind."""
    return [f for f in folder.rglob("*") if f.name.endswith(".tmp")]


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Files are created under this umask inside the block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class FaultyDisk(faults.FaultyDisk):
    """The same, in place until the test ends."""

    def __init__(self, monkeypatch: Any, folder: Path) -> None:
        super().__init__(folder)
        for module, name, watched in self.seam():
            monkeypatch.setattr(module, name, watched)


@contextlib.contextmanager
def child(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """This file as a program in a process of its own; it is killed by its id when the block ends."""
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    """Wait for the child's next step."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _logins(path: str, prefix: str, count: str) -> None:
    session = started(path, timeout=60, transport=QuickService())
    print("started", session.device_id, flush=True)
    for number in range(int(count)):
        result = login(session, f"{prefix}{number}")
        print(prefix, number, result.http_code, flush=True)


class UnwellService(QuickService):
    """Answers a logout after a moment with 503, or, for a customer whose number ends with 0, with a user."""

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        if not request.target.endswith("/logout"):
            return super().send(request, seconds)
        time.sleep(0.002)
        if json.loads(request.body)["previous_mpid"].endswith("0"):
            return super().send(request, seconds)
        return HTTPAnswer(503, {}, b"")


def _logouts(path: str, prefix: str, count: str) -> None:
    session = started(path, timeout=60, transport=UnwellService(), retry=None)
    for number in range(int(count)):
        login(session, f"{prefix}{number}")
        print("in", number, flush=True)
        result = session.logout(offline="forget")
        print("out", number, result.http_code, flush=True)


def _start(path: str) -> None:
    session = make_session(path, timeout=60, transport=QuickService())
    print("ready", flush=True)
    sys.stdin.readline()
    print(session.start().http_code, session.device_id, flush=True)


def _hold(path: str) -> None:
    with JsonStorage(path).lock(10):
        print("held", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    {"logins": _logins, "logouts": _logouts, "start": _start, "hold": _hold}[sys.argv[1]](*sys.argv[2:])
