"""The store in PostgreSQL: its locks, its connections, and what it refuses to work with."""

from __future__ import annotations

import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from steady import assert_within, steady
from store_helpers import contents, counter, opened

from identity_session.errors import NewerStorageError, StorageError
from identity_session.idsync.sql import identity_hash
from identity_session.idsync.stores import open_store

NAMED = [("email", "a"), ("other", "b")]


@pytest.fixture
def connection(postgres_url: str) -> Iterator[object]:
    """Somebody else's connection to the database of the test."""
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def test_transactions_that_share_nothing_run_side_by_side(postgres_url: str) -> None:
    """One that waits for a slow client holds up nobody else."""
    with opened(postgres_url) as store, store.transaction([("email", "a")]) as profiles:
        profiles.add(profiles.create().mpid, "email", "a")

        def other() -> None:
            with store.transaction([("email", "b")]) as profiles:
                profiles.add(profiles.create().mpid, "email", "b")

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert [profile.values("email") for profile in profiles.all()] == [("a",), ("b",)]


def test_thousands_may_share_a_device(postgres_url: str, connection) -> None:
    """A kiosk gets a new profile with each logout. One lock for each would be more than the server has room for."""
    with opened(postgres_url) as store:
        with store.transaction([("device_application_stamp", "kiosk")]) as profiles:
            profiles.add(profiles.create().mpid, "device_application_stamp", "kiosk")
        connection.execute(
            "INSERT INTO idsync_profile SELECT n, n, NULL, 0, 0 FROM generate_series(2, 20000) AS n;"
            "INSERT INTO idsync_identity (mpid, hash, type, value)"
            " SELECT n, hash, type, value FROM generate_series(2, 20000) AS n, idsync_identity"
        )
        with store.transaction([("device_application_stamp", "kiosk")]) as profiles:
            assert len(profiles.holders("device_application_stamp", "kiosk")) == 20_000


def test_a_transaction_may_name_any_number_of_identities(postgres_url: str) -> None:
    """More than the server has locks for."""
    with opened(postgres_url) as store, store.transaction(("other", f"{n}") for n in range(20_000)) as profiles:
        assert profiles.create().mpid == 1


def test_a_lock_that_is_not_free_in_time_fails_the_call_only(postgres_url: str) -> None:
    """And the next one finds it free."""
    import psycopg

    named = [("email", "a")]
    with opened(postgres_url) as store:
        with store.transaction(named), store.transaction([("email", "b")]):
            pass  # from now on there are two connections, and nobody waits for one
        with store.transaction(named) as holding:
            assert not holding.all()
            with pytest.raises(psycopg.errors.LockNotAvailable), store.transaction(named, seconds=1) as profiles:
                profiles.all()
        with store.transaction(named) as profiles:
            assert not profiles.all()


@steady
def test_the_waits_for_several_locks_are_one_wait(postgres_url: str, postgres_server: dict[str, Any]) -> None:
    """The store, then one identity after the other: each is free before the time is over, but for the last."""
    import psycopg

    from identity_session.idsync.postgres import SHARE_STORE

    email, other = sorted(identity_hash(*identity) for identity in NAMED)
    room, whole = map(int, re.findall(r"lock_shared\((\d+), (-\d+)\)", SHARE_STORE)[0])
    with opened(postgres_url) as store, ExitStack() as stack:
        contents(store)  # from now on there is a connection, and nobody waits for one
        holding = [stack.enter_context(psycopg.connect(**postgres_server)) for _ in range(3)]
        for connection, key in zip(holding, [(room, whole), (email,), (other,)], strict=True):
            connection.execute(f"SELECT pg_advisory_xact_lock({', '.join(map(str, key))})")
        began = time.monotonic()
        for seconds, connection in ((0.4, holding[0]), (0.8, holding[1])):
            stack.enter_context(later(seconds, connection.rollback))
        with pytest.raises(psycopg.errors.LockNotAvailable), store.transaction(NAMED, seconds=1) as profiles:
            profiles.all()
        seconds = time.monotonic() - began
        assert seconds >= 1
        assert_within(seconds, 1.3)


@contextmanager
def later(seconds: float, do: Callable[[], object]) -> Iterator[None]:
    timer = threading.Timer(seconds, do)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_a_lost_connection_is_replaced(postgres_url: str, connection) -> None:
    """The server may be restarted while the service runs."""
    with opened(f"{postgres_url}&application_name=lost") as store:
        before = contents(store)
        lost = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'lost'"
        assert (True,) in connection.execute(lost).fetchall()
        assert contents(store) == before


def test_a_server_that_was_gone_for_long_is_used_once_it_is_back(
    postgres_server: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next call, and not when the pool of connections happens to try again."""
    import psycopg

    from identity_session.idsync import postgres

    monkeypatch.setattr(postgres, "WAIT_SECONDS", 1.0)
    name = f"gone_{uuid.uuid4().hex}"
    with psycopg.connect(**postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            with opened("postgresql:///?" + urlencode({**postgres_server, "dbname": name})) as store:
                before = contents(store)
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                lost = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'"
                assert (True,) in connection.execute(lost).fetchall()
                for _ in range(2):  # the first one finds that its connection is lost, the second one waits for another
                    with pytest.raises(store.errors), store.transaction(seconds=0.2) as profiles:
                        profiles.all()
                time.sleep(3.5)  # the attempts of the pool come 1, 3 and 7 seconds after the first one
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
                with store.transaction(seconds=2) as profiles:
                    assert profiles.all() == before[0]
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_many_processes_may_begin_at_once(postgres_url: str) -> None:
    """One of them creates the tables."""
    errors: list[BaseException] = []

    def begin() -> None:
        try:
            with opened(postgres_url) as store:
                contents(store)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_tables_of_a_newer_version_are_left_alone(postgres_url: str, connection) -> None:
    """Whoever upgraded first may go on."""
    open_store(postgres_url, counter()).close()
    connection.execute("UPDATE idsync_schema SET version = 2")
    with pytest.raises(NewerStorageError, match="schema version 2"):
        open_store(postgres_url, counter())


def test_a_database_without_unicode_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it fails on the first name that it cannot hold."""
    from identity_session.idsync import postgres

    monkeypatch.setattr(postgres, "INSPECT", "SELECT 'LATIN1', false")
    with pytest.raises(StorageError, match="encoding is LATIN1"):
        open_store(postgres_url, counter())


def test_a_server_that_is_not_there_is_an_error_at_once(postgres_url: str) -> None:
    """Not after the first call has waited for a connection."""
    with pytest.raises(StorageError, match="cannot be used"):
        open_store("postgresql://user:s3cret@/db?host=/nonexistent", counter())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3@cret@localhost/db",
        "postgresql://user:s3/cret@localhost/db",
        "postgresql://user:s3 cret@localhost/db",
        "postgres://localhost/db?s3cret=1",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(postgres_server: object, url: str) -> None:
    """It has a password in it."""
    with pytest.raises(ValueError, match="percent-encode") as raised:
        open_store(url, counter())
    assert "s3" not in str(raised.value)
    assert raised.value.__context__ is None


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base installs have no driver."""
    monkeypatch.delitem(sys.modules, "identity_session.idsync.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r'pip install "identity_session\[postgres\]"'):
        open_store("postgresql://localhost/db", counter())
