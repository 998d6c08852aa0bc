"""Profiles in a PostgreSQL database, for several processes and machines. Needs the extra `postgres`.

Sources: the pages "Explicit Locking" (advisory locks) and "Transaction Isolation" of PostgreSQL's manual.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from identity_session import clock
from identity_session.errors import NewerStorageError, StorageError

from .profiles import WAIT_SECONDS, Identity, Transaction
from .sql import SQLTransaction, Table, identity_hash

SCHEMA_VERSION = 1

_CONNECTIONS = 10
_CONNECT_SECONDS = 10
_IDLE_SECONDS = 60
"""How long a process that stopped in the middle of a transaction may hold its locks."""

# Locks of one number are identities. Those of two numbers: the name of the room, and one of these.
_ROOM = 0x49445359
_PROFILE_SLOTS = 64  # one lock per profile would fill the server's table of locks when thousands share a device
_WHOLE_STORE = -1
_SCHEMA_CHANGE = -2

# More identities than any request has: to lock the store is cheaper, and the server's table of locks is limited.
_IDENTITIES_LOCKED = 200

# What is left of the time that a transaction may wait becomes the limit of the lock that is taken next: the server
# limits each lock for itself, and counts from its own beginning. 0 would be no limit.
_IN_TIME = """
set_config('lock_timeout', CAST(CAST(greatest(ceil(
    :wait_ms - 1000 * extract(epoch FROM clock_timestamp() - transaction_timestamp())), 1) AS bigint) AS text), true)
"""

# Nobody else may use the store.
LOCK_STORE = f"SELECT {_IN_TIME}, pg_advisory_xact_lock({_ROOM}, {_WHOLE_STORE})"

# Others may use the store as well.
SHARE_STORE = f"SELECT {_IN_TIME}, pg_advisory_xact_lock_shared({_ROOM}, {_WHOLE_STORE})"

# Nobody else may name these identities. The hashes come sorted.
LOCK_IDENTITIES = f"""
SELECT {_IN_TIME}, pg_advisory_xact_lock(hash) FROM unnest(CAST(:hashes AS bigint[])) AS hash
"""  # noqa: S608

# Nobody else may change the profiles that hold these identities, or the one that is named. Taken after the identities,
# so that no other profile can come to hold them.
LOCK_PROFILES = f"""
SELECT {_IN_TIME}, pg_advisory_xact_lock({_ROOM}, slot) FROM (
    SELECT DISTINCT CAST(mpid & {_PROFILE_SLOTS - 1} AS integer) AS slot FROM (
        SELECT mpid FROM idsync_identity WHERE hash = ANY(CAST(:hashes AS bigint[]))
        UNION SELECT nullif(CAST(:mpid AS bigint), 0)) AS named
    ORDER BY slot) AS slots
"""  # noqa: S608

# Nobody else may create or read the schema.
LOCK_SCHEMA = f"SELECT pg_advisory_xact_lock({_ROOM}, {_SCHEMA_CHANGE})"

# The encoding of the database, and whether the table of the version is there.
INSPECT = "SELECT current_setting('server_encoding'), to_regclass('idsync_schema') IS NOT NULL"

# The version of the schema.
VERSION = "SELECT version FROM idsync_schema"

# The tables of version 1. Text is compared and ordered by its bytes, as everywhere else.
SCHEMA = f"""
CREATE TABLE idsync_schema (version integer NOT NULL);
INSERT INTO idsync_schema VALUES ({SCHEMA_VERSION});

CREATE TABLE idsync_profile (
    mpid bigint PRIMARY KEY, number bigint NOT NULL, source_mpid bigint,
    created_ms bigint NOT NULL, last_seen_ms bigint NOT NULL);
CREATE SEQUENCE idsync_profile_number OWNED BY idsync_profile.number;
CREATE INDEX idsync_profile_by_number ON idsync_profile (number);

CREATE TABLE idsync_identity (
    added bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mpid bigint NOT NULL REFERENCES idsync_profile,
    hash bigint NOT NULL, type text COLLATE "C" NOT NULL, value text COLLATE "C" NOT NULL);
CREATE INDEX idsync_identity_by_hash ON idsync_identity (hash);
CREATE INDEX idsync_identity_by_mpid ON idsync_identity (mpid);

CREATE TABLE idsync_alias (
    number bigint PRIMARY KEY, request_id text, source_mpid bigint NOT NULL, destination_mpid bigint NOT NULL,
    start_ms bigint NOT NULL, end_ms bigint NOT NULL, scope text NOT NULL, received_ms bigint NOT NULL,
    state text NOT NULL, reason text, processed_ms bigint);
CREATE SEQUENCE idsync_alias_number OWNED BY idsync_alias.number;

CREATE TABLE idsync_call (
    number bigint PRIMARY KEY, received_ms bigint NOT NULL, endpoint text NOT NULL, status integer NOT NULL,
    mpid bigint, created boolean NOT NULL, trail text NOT NULL);
CREATE SEQUENCE idsync_call_number OWNED BY idsync_call.number;
"""  # noqa: S608

# The next number of a table. A transaction that is undone leaves a gap: nobody waits for another to get a number.
NEXT_NUMBER = "SELECT nextval(CAST(:sequence AS regclass))"

# Later numbers are above this one.
REACH_NUMBER = """
SELECT setval(CAST(:sequence AS regclass), greatest(:number, nextval(CAST(:sequence AS regclass)) - 1, 1))
"""

# Forget calls up to a number, but for those that another transaction is about to forget: no two wait for each other.
DELETE_CALLS = """
DELETE FROM idsync_call WHERE number IN
    (SELECT number FROM idsync_call WHERE number <= :number FOR UPDATE SKIP LOCKED)
"""

# Count from 1 again.
RESTART_NUMBERS = (
    "ALTER SEQUENCE idsync_profile_number RESTART",
    "ALTER SEQUENCE idsync_alias_number RESTART",
    "ALTER SEQUENCE idsync_call_number RESTART",
)


class PostgresStore:
    """Profiles in the database of a libpq URL; its tables are created if they are missing.

    Transactions run side by side unless they share an identity or a profile. `draw_mpid` proposes MPIDs. Raises
    ValueError for a URL that cannot be read, NewerStorageError for tables of a newer version, and StorageError for a
    database that cannot be reached or does not hold Unicode text.
    """

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, url: str, draw_mpid: Callable[[], int]) -> None:
        self._draw_mpid = draw_mpid
        _check_url(url)
        try:
            _prepare(url)
        except psycopg.Error as error:
            raise StorageError(f"the PostgreSQL database cannot be used: {error}") from error
        self._pool = ConnectionPool(
            url,
            kwargs={"client_encoding": "utf8", "connect_timeout": _CONNECT_SECONDS},
            min_size=1,
            max_size=_CONNECTIONS,
            # The pool waits longer after each attempt to connect. Once it gave up, the next transaction tries at once.
            reconnect_timeout=WAIT_SECONDS,
            configure=_configure,
            check=ConnectionPool.check_connection,
            name="idsync",
            open=True,
        )

    @contextmanager
    def transaction(
        self, identities: Iterable[Identity] = (), mpid: int | None = None, seconds: float = WAIT_SECONDS
    ) -> Iterator[Transaction]:
        until = clock.monotonic() + seconds
        hashes = sorted({identity_hash(type_, value) for type_, value in identities})
        # In a pipeline only statements whose rows are read wait for the server; an error of one surfaces with the next.
        with self._pool.connection(timeout=seconds) as connection, connection.pipeline() as pipeline:
            transaction = _PostgresTransaction(connection, pipeline, self._draw_mpid)
            transaction.lock(hashes, mpid, until - clock.monotonic())
            yield transaction

    def close(self) -> None:
        self._pool.close()


class _PostgresTransaction(SQLTransaction):
    """Committed or rolled back by the pool, at whose isolation level (READ COMMITTED) each statement sees what was
    committed before it: a read after a lock sees all that the lock's last owner wrote."""

    def __init__(
        self, connection: psycopg.Connection[Any], pipeline: psycopg.Pipeline, draw_mpid: Callable[[], int]
    ) -> None:
        super().__init__(draw_mpid)
        self._connection = connection
        self._pipeline = pipeline

    def lock(self, hashes: list[int], mpid: int | None, seconds: float) -> None:
        """Lock what is named, else the store; waits no longer than this in all. Every transaction takes its locks in
        the same order (the store, identities by their hash, profiles by their slot) and none later, so that no two
        wait for each other."""
        wait_ms = math.ceil(seconds * 1000)
        if len(hashes) > _IDENTITIES_LOCKED or (not hashes and mpid is None):
            self.execute(LOCK_STORE, {"wait_ms": wait_ms})
            return
        self.execute(SHARE_STORE, {"wait_ms": wait_ms})
        self.execute(LOCK_IDENTITIES, {"wait_ms": wait_ms, "hashes": hashes})
        self.execute(LOCK_PROFILES, {"wait_ms": wait_ms, "hashes": hashes, "mpid": mpid})

    def execute(self, statement: str, values: Mapping[str, Any]) -> None:
        self._connection.execute(_for_psycopg(statement), values)

    def rows(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._connection.execute(_for_psycopg(statement), values).fetchall()

    def changes(self, statement: str, values: Mapping[str, Any]) -> int:
        cursor = self._connection.execute(_for_psycopg(statement), values)
        self._pipeline.sync()
        return cursor.rowcount

    def next_number(self, table: Table) -> int:
        return int(self.rows(NEXT_NUMBER, {"sequence": f"{table}_number"})[0][0])

    def reached(self, table: Table, number: int) -> None:
        self.execute(REACH_NUMBER, {"sequence": f"{table}_number", "number": number})

    def forget_calls(self, number: int) -> None:
        self.execute(DELETE_CALLS, {"number": number})

    def clear(self) -> None:
        super().clear()
        for statement in RESTART_NUMBERS:
            self.execute(statement, {})


@cache
def _for_psycopg(statement: str) -> bytes:
    """A statement with its parameters as psycopg writes them."""
    return re.sub(r":(\w+)", r"%(\1)s", statement).encode()


def _check_url(url: str) -> None:
    """Refuse a URL whose password would end up in an error's text: unescaped, it is taken for host or port."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        parts = {"port": "?"}
    host, port = str(parts.get("host", "")), str(parts.get("port", ""))
    if "@" in host[1:] or not re.fullmatch(r"[0-9,]*", port):
        raise ValueError("the PostgreSQL URL cannot be read; percent-encode special characters in user and password")


def _prepare(url: str) -> None:
    """Create the tables if they are missing; several processes may do this at once. Raises StorageError."""
    with psycopg.connect(url, client_encoding="utf8", connect_timeout=_CONNECT_SECONDS) as connection:
        _configure(connection)
        connection.execute(_for_psycopg(LOCK_SCHEMA))
        encoding, exists = connection.execute(_for_psycopg(INSPECT)).fetchall()[0]
        if encoding not in ("UTF8", "SQL_ASCII"):
            raise StorageError(f"the database's encoding is {encoding}; create one with encoding UTF8")
        if not exists:
            connection.execute(SCHEMA.encode())
        version = connection.execute(_for_psycopg(VERSION)).fetchall()[0][0]
        if version > SCHEMA_VERSION:
            raise NewerStorageError(
                f"the database has schema version {version}, this version of identity_session knows {SCHEMA_VERSION};"
                " upgrade it"
            )


def _configure(connection: psycopg.Connection[Any]) -> None:
    """A lock that is not free in time fails, and a transaction that nobody goes on with ends."""
    connection.execute(
        f"SET lock_timeout = '{WAIT_SECONDS:.0f}s'; SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'"
    )
    connection.commit()
