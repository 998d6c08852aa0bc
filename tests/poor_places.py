"""A journey on a place that is no good for storage, as a program: `poor_places.py <path> <strict> <user> <step>...`.

`<path>` empty is the user's data folder, `<strict>` 1 or 0, `<user>` the id to become first, 0 to stay. It prints as
JSON what the steps brought, in one object, and what was logged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from storage_helpers import QuickService, login, make_session

from identity_session import IdentitySession, StorageError


class Journey:
    """The steps, each a method."""

    def __init__(self, path: str, strict: bool) -> None:
        self._path = path
        self.told: dict[str, Any] = {}
        self._session: IdentitySession = make_session(path or None, strict_storage=strict, transport=QuickService())

    def prepare(self) -> None:
        """Somebody logs in, so that there is a state."""
        self._session.start()
        self.told["device before"] = self._session.device_id
        login(self._session, "before").get_user().set_attribute("plan", "gold")
        self._session.close()

    def look(self) -> None:
        self.told["seen"] = self._session.mpid

    def start(self) -> None:
        self.told["start"] = self._session.start().http_code
        self.told["device"] = self._session.device_id

    def live(self) -> None:
        """Somebody logs in, the person before comes back, and leaves."""
        session = self._session
        self.told["login"] = login(session, "after").http_code
        session.current_user.set_attribute("plan", "silver")  # type: ignore[union-attr]
        back = login(session, "before").get_user()
        self.told["plans"] = [back.attributes.get("plan"), session.get_user("after").attributes.get("plan")]  # type: ignore[union-attr]
        self.told["users"] = sorted(user.mpid for user in session.get_users())
        self.told["forgotten"] = session.logout(offline="forget").http_code
        session.end_session()
        session.touch()
        session.set_opt_out(False)
        self.told["storage"] = repr(session.storage)

    def fill(self) -> None:
        """Nothing more fits on the disk."""
        with contextlib.suppress(OSError), open(Path(self._path) / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 1024)

    def late(self) -> None:
        """What a disk that was good so far says to a login and to an attribute."""
        result = login(self._session, "late")
        self.told["late login"] = [result.http_code, self._session.mpid, "No space left" in str(result.body)]
        try:
            self._session.current_user.set_attribute("plan", "x" * 9000)  # type: ignore[union-attr]
        except StorageError as error:
            self.told["late attribute"] = str(error)

    def reset(self) -> None:
        try:
            self._session.reset()
            self.told["reset"] = "done"
        except StorageError as error:
            self.told["reset"] = str(error)
        self.told["after reset"] = [self._session.mpid, len(self._session.get_users())]


def main(path: str, strict: str, user: str, *steps: str) -> None:
    logged: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: logged.append(f"{record.levelname} {record.getMessage()}")  # type: ignore[method-assign]
    logging.getLogger("identity_session").addHandler(handler)
    if int(user):
        with tempfile.TemporaryDirectory() as folder:  # imports what another user may not be allowed to read
            with contextlib.suppress(StorageError):
                make_session(None)
            for step in ("prepare", "live"):
                getattr(Journey(folder, strict=False), step)()
        os.setgid(int(user))
        os.setuid(int(user))
        if not path:
            del os.environ["HOME"]
    told: dict[str, Any] = {}
    try:
        journey = Journey(path, strict == "1")
        told = journey.told
        for step in steps:
            getattr(journey, step)()
    except StorageError as error:
        told["error"] = str(error)
    print(json.dumps({**told, "logged": logged}))


if __name__ == "__main__":
    main(*sys.argv[1:])
