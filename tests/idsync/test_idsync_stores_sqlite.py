"""The store in a SQLite file: the file, and what it takes over from whoever wrote it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from store_helpers import contents, counter, opened

from identity_session.errors import NewerStorageError, StorageError
from identity_session.idsync import sqlite
from identity_session.idsync.profiles import Profile
from identity_session.idsync.sqlite import SQLiteStore

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def database_with(path: Path, *statements: str) -> bytes:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path.read_bytes()


def test_the_file_and_its_folders_are_created_for_their_owner_only(tmp_path: Path) -> None:
    """They name people. What SQLite lays beside the file is private as well; folders that exist are left alone."""
    tmp_path.chmod(0o755)
    path = tmp_path / "new" / "er" / "profiles.db"
    with opened(str(path)) as store:
        contents(store)
        assert [mode(file) for file in sorted(path.parent.iterdir())] == [0o600] * 3
    assert [mode(path.parent), mode(path.parent.parent), mode(tmp_path)] == [0o700, 0o700, 0o755]


def test_a_commit_is_on_disk_before_the_call_is_answered(tmp_path: Path) -> None:
    """In write-ahead mode SQLite syncs its log with each commit only if it is told to."""
    store = SQLiteStore(tmp_path / "profiles.db", counter())
    settings = [store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]
    store.close()


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    """As `mktemp` makes it."""
    path = tmp_path / "profiles.db"
    path.touch()
    with opened(str(path)) as store:
        assert contents(store) == ([], [], [])


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["CREATE TABLE theirs (x)"], "another program"),
        (["PRAGMA user_version = 1"], "another program"),
        ([f"PRAGMA application_id = {sqlite._APPLICATION_ID}", "PRAGMA user_version = 2"], "schema version 2"),
    ],
)
def test_a_file_that_is_not_of_this_version_is_left_alone(tmp_path: Path, statements: list[str], reason: str) -> None:
    """Another program's database, or one of a newer version of this package."""
    path = tmp_path / "profiles.db"
    before = database_with(path, *statements)
    with pytest.raises(NewerStorageError if "version 2" in reason else StorageError, match=reason):
        SQLiteStore(path, counter())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_a_database_is_refused(tmp_path: Path) -> None:
    """A text, a folder, a path below a file."""
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    for path in (text, tmp_path, text / "profiles.db"):
        with pytest.raises(StorageError, match=r"cannot be (opened|created)"):
            SQLiteStore(path, counter())
    assert text.read_text() == "not a database " * 100


def test_a_file_that_may_not_be_written_is_refused() -> None:
    """At once, and not by the first call."""
    with tempfile.TemporaryDirectory(prefix="identity-session-") as folder:  # pytest keeps others out of its own
        path = Path(folder, "profiles.db")
        SQLiteStore(path, counter()).close()
        path.chmod(0o444)
        Path(folder).chmod(0o755)
        user = os.geteuid()
        os.seteuid(user or NOBODY)  # no mode keeps root out
        try:
            with pytest.raises(StorageError, match="Permission denied"):
                SQLiteStore(path, counter())
        finally:
            os.seteuid(user)


def test_a_link_leads_to_the_file(tmp_path: Path) -> None:
    """Even to one that is missing, which is created for its owner only."""
    path, link = tmp_path / "profiles.db", tmp_path / "link.db"
    link.symlink_to(path)
    for mpid in (1, 2):
        with opened(str(link), counter(mpid)) as store, store.transaction() as profiles:
            assert profiles.create().mpid == mpid
    assert (mode(path), link.is_symlink()) == (0o600, True)
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(StorageError, match="cannot be opened"):
        SQLiteStore(link, counter())


def test_a_second_store_leaves_the_locks_of_the_first_one_alone(tmp_path: Path) -> None:
    """Else a process that closes the file takes itself for the last one, and deletes the log that is written to."""
    path = tmp_path / "profiles.db"
    count = "SELECT count(*) FROM idsync_profile"
    program = f"import sqlite3; file = sqlite3.connect({str(path)!r}); print(*file.execute({count!r}).fetchone())"
    counted = []
    with opened(str(path)) as store, opened(str(path)):
        for _ in range(3):
            with store.transaction() as profiles:
                profiles.create()
            other = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
            counted.append(int(other.stdout))
    assert counted == [1, 2, 3]


def test_a_full_disk_fails_the_call_and_nothing_else(tmp_path: Path) -> None:
    """SQLite may have undone the transaction by itself; the store is as it was, and goes on when there is room."""
    store = SQLiteStore(tmp_path / "profiles.db", counter())
    with store.transaction() as profiles:
        mpid = profiles.create().mpid
    before = contents(store)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"), store.transaction() as profiles:
        profiles.put(Profile(mpid, 1, {"other": tuple(f"{number}" * 1_000 for number in range(100))}))
    assert contents(store) == before
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1_000}")
    with store.transaction() as profiles:
        profiles.add(mpid, "other", "x" * 4_000)
    store.close()


def test_a_process_that_holds_the_file_too_long_fails_the_call_only(tmp_path: Path) -> None:
    """The next call finds it free."""
    path = tmp_path / "profiles.db"
    with opened(str(path)) as store, opened(str(path)) as other:
        with (
            other.transaction(),
            pytest.raises(sqlite3.OperationalError, match="locked"),
            store.transaction(seconds=0.05),
        ):
            pass
        assert contents(store) == ([], [], [])


def test_opening_waits_while_another_process_sets_the_file_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite itself does not wait when the journal's mode is changed; after a while it is an error."""
    path = tmp_path / "profiles.db"
    path.touch()
    monkeypatch.setattr(sqlite, "WAIT_SECONDS", 0.01)
    with sqlite3.connect(path, isolation_level=None, check_same_thread=False) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "_LOG_ATTEMPTS", 2)
            with pytest.raises(StorageError, match="locked"):
                SQLiteStore(path, counter())
        free = threading.Timer(0.2, connection.execute, ["COMMIT"])
        began = time.monotonic()
        free.start()
        SQLiteStore(path, counter()).close()
        assert time.monotonic() - began > 0.1
        free.join()
    connection.close()
