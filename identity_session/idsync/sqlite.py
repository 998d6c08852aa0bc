"""Profiles in a SQLite file: they outlive the process, and several processes may share them.

Sources: "Write-Ahead Logging" and "PRAGMA synchronous" of sqlite.org on what survives a crash or a power cut; "How To
Corrupt An SQLite Database File" on what does not.
"""

from __future__ import annotations

import errno
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from identity_session import clock
from identity_session.errors import NewerStorageError, StorageError
from identity_session.files import make_private_folder, sync_folder

from .profiles import WAIT_SECONDS, Identity, Transaction
from .sql import SQLTransaction, Table

SCHEMA_VERSION = 1

_APPLICATION_ID = 0x49445359
"""Marks the file as ours ("IDSY"), so that a database of another program is never written to."""

_LOG_ATTEMPTS = 1_000
_LOG_PAUSE_SECONDS = 0.01

_creating = threading.Lock()

# The tables of version 1. `number` and `added` count by themselves.
_SCHEMA = (
    """
    CREATE TABLE idsync_profile (
        mpid INTEGER PRIMARY KEY, number INTEGER NOT NULL, source_mpid INTEGER,
        created_ms INTEGER NOT NULL, last_seen_ms INTEGER NOT NULL)
    """,
    "CREATE INDEX idsync_profile_by_number ON idsync_profile (number)",
    """
    CREATE TABLE idsync_identity (
        added INTEGER PRIMARY KEY, mpid INTEGER NOT NULL REFERENCES idsync_profile,
        hash INTEGER NOT NULL, type TEXT NOT NULL, value TEXT NOT NULL)
    """,
    "CREATE INDEX idsync_identity_by_hash ON idsync_identity (hash)",
    "CREATE INDEX idsync_identity_by_mpid ON idsync_identity (mpid)",
    """
    CREATE TABLE idsync_alias (
        number INTEGER PRIMARY KEY, request_id TEXT, source_mpid INTEGER NOT NULL, destination_mpid INTEGER NOT NULL,
        start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL, scope TEXT NOT NULL, received_ms INTEGER NOT NULL,
        state TEXT NOT NULL, reason TEXT, processed_ms INTEGER)
    """,
    """
    CREATE TABLE idsync_call (
        number INTEGER PRIMARY KEY, received_ms INTEGER NOT NULL, endpoint TEXT NOT NULL, status INTEGER NOT NULL,
        mpid INTEGER, created INTEGER NOT NULL, trail TEXT NOT NULL)
    """,
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class SQLiteStore:
    """Profiles in the file at `path`, which is created with its folders, for its owner only, if it is missing.

    One transaction at a time, those of other processes included; what was committed survives a kill and a power cut.
    `draw_mpid` proposes MPIDs. Raises NewerStorageError for a file of a newer version, and StorageError for one that
    is no database of this service or cannot be opened.
    """

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: str | os.PathLike[str], draw_mpid: Callable[[], int]) -> None:
        self._draw_mpid = draw_mpid
        self._lock = threading.Lock()
        try:
            self._connection = _connect(Path(path))
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{path} cannot be opened as a SQLite database ({error})") from error

    @contextmanager
    def transaction(
        self, identities: Iterable[Identity] = (), mpid: int | None = None, seconds: float = WAIT_SECONDS
    ) -> Iterator[Transaction]:
        until = clock.monotonic() + seconds
        # First for the threads of this process, then for other processes.
        if not self._lock.acquire(timeout=max(seconds, 0)):
            raise sqlite3.OperationalError("database is locked")
        try:
            left_ms = math.ceil(max(until - clock.monotonic(), 0) * 1000)
            self._connection.execute(f"PRAGMA busy_timeout = {left_ms}")
            # Begun as a writer: a reader that turns writer fails when another process has written meanwhile.
            self._connection.execute("BEGIN IMMEDIATE")
            yield _SQLiteTransaction(self._connection, self._draw_mpid)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class _SQLiteTransaction(SQLTransaction):
    def __init__(self, connection: sqlite3.Connection, draw_mpid: Callable[[], int]) -> None:
        super().__init__(draw_mpid)
        self._connection = connection

    def execute(self, statement: str, values: Mapping[str, Any]) -> None:
        self._connection.execute(statement, values)

    def rows(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    def changes(self, statement: str, values: Mapping[str, Any]) -> int:
        return self._connection.execute(statement, values).rowcount

    def next_number(self, table: Table) -> int:
        return int(self.rows(f"SELECT coalesce(max(number), 0) + 1 FROM {table}", {})[0][0])  # noqa: S608

    def reached(self, table: Table, number: int) -> None:
        """Nothing to note: the next number follows the highest one that is there."""


def _connect(path: Path) -> sqlite3.Connection:
    if not path.parent.exists():
        make_private_folder(path.parent)
    _create(path)
    # The store's lock admits one thread at a time. Without isolation level the module begins no transactions.
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    connection.text_factory = _text
    try:
        _version(connection, path)
        _use_write_ahead_log(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN IMMEDIATE")
        if _version(connection, path) == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: Path) -> None:
    """Create the file if it is missing. SQLite would create it by the umask, and gives its mode to those beside it.

    Raises OSError, also for a file that may not be written: SQLite would open it, and fail with the first call.
    """
    file = Path(os.path.realpath(path))  # a link may lead to a file that is missing
    # A file that is there is left closed. Whoever closes a handle of it drops all locks that this process has on it,
    # and with them what keeps other processes from deleting the log in which it writes. The same goes for a store that
    # another thread opens while the new file is not closed yet.
    with _creating, suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if not os.access(file, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    sync_folder(file.parent)


def _text(stored: bytes) -> str:
    """A text of the file. One that is damaged is an error without it: that of the module would repeat it."""
    with suppress(UnicodeDecodeError):
        return stored.decode()
    raise sqlite3.DataError("a text in the database is damaged")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the schema, 0 in an empty file. Raises StorageError for what this package does not know."""
    version, application_id, tables = connection.execute(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master)"
        " FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if application_id != _APPLICATION_ID and (version or tables):
        raise StorageError(f"{path} is a database of another program; choose another file")
    if version > SCHEMA_VERSION:
        raise NewerStorageError(
            f"{path} has schema version {version}, this version of identity_session knows {SCHEMA_VERSION}; upgrade it"
        )
    return int(version)


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """A setting of the file. Changing it needs the file for oneself, and SQLite does not wait for that by itself."""
    for _ in range(_LOG_ATTEMPTS - 1):
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
            return
        time.sleep(_LOG_PAUSE_SECONDS)
    connection.execute("PRAGMA journal_mode = WAL")
