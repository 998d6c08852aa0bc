"""Which store a `database` names."""

from __future__ import annotations

import os
from collections.abc import Callable

from .memory import MemoryStore
from .profiles import ProfileStore


def open_store(database: str | os.PathLike[str], draw_mpid: Callable[[], int]) -> ProfileStore:
    """The store that `database` names: ":memory:", the path of a file (SQLite), or a libpq URL ("postgresql://...").

    Close it after use. `draw_mpid` proposes MPIDs for new profiles. Raises ValueError for another URL, ImportError if
    the extra `postgres` is missing, and StorageError for a database that cannot be used.
    """
    database = os.fspath(database)
    if database == ":memory:":
        return MemoryStore(draw_mpid)
    if database.startswith(("postgresql://", "postgres://")):
        return _postgres(database, draw_mpid)
    if not database or "://" in database:
        raise ValueError('the database is not supported; pass ":memory:", the path of a file or "postgresql://..."')
    from .sqlite import SQLiteStore

    return SQLiteStore(database, draw_mpid)


def _postgres(url: str, draw_mpid: Callable[[], int]) -> ProfileStore:
    try:
        from .postgres import PostgresStore
    except ImportError as error:
        raise ImportError(
            f'PostgreSQL needs the extra "postgres": pip install "identity_session[postgres]" ({error})'
        ) from error
    return PostgresStore(url, draw_mpid)
