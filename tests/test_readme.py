"""The README: everything in it that can be run is run, and what it lists is complete."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from http_serving import ServeProcess
from servers import ServiceServer

from identity_session import IdentitySession, IdentityUser, cli
from identity_session.cli.commands import COMMANDS
from identity_session.idsync import LocalIDSync
from identity_session.idsync.emulator import ROUTES, Route
from identity_session.idsync.presets import PRESETS

pytestmark = pytest.mark.usefixtures("home")
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [block for language, block in BLOCKS if language == "python"]
SHELL = [block for language, block in BLOCKS if language == "sh"]
SERVICES, FAULT = [block.splitlines() for language, block in BLOCKS if language == "console"]
CONFIG = next(block for language, block in BLOCKS if language == "toml")
TEXT = [block for language, block in BLOCKS if language == "text"]
INSTALLING = ["pip install . && identity-session demo\n", "pip install -e '.[test]' && pytest\n"]
"""They need a fresh environment, and are run where there is one."""


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_runs_as_printed(block: str) -> None:
    """Each block runs on its own, time and again, prints what its comments say, and its tests pass."""
    for _ in range(2):
        _run(block)


def _run(block: str) -> None:
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block, "README.md", "exec"), names)
    assert out.getvalue().splitlines() == re.findall(r"print\(.*\)  # (.*)", block)
    for name, value in names.items():
        if name.startswith("test_") and callable(value):
            value()


@pytest.mark.parametrize("block", [block for block in SHELL if block not in INSTALLING])
def test_commands_run_as_printed(block: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command ends well, against the embedded service behind a socket."""
    command = home / "bin" / "identity-session"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error -m identity_session "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    with ServiceServer(LocalIDSync()) as service:
        monkeypatch.setenv("IDENTITY_SESSION_BASE_URL", service.url)
        ran = subprocess.run(["sh", "-eu", "-c", block], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_two_commands_are_there() -> None:
    """One installs and shows it, the other runs the tests."""
    assert [block for block in SHELL if block in INSTALLING] == INSTALLING


def test_the_demo_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The printed journey is the played one, but for the MPIDs."""
    assert cli.main(["demo"]) == 0
    assert _without_mpids(capsys.readouterr().out) in [_without_mpids(text) for text in TEXT]


@pytest.mark.parametrize("number", range(3))
def test_the_three_services_start(number: int, request: pytest.FixtureRequest) -> None:
    """In memory, in a file, and on PostgreSQL, here on a port and a database of the test's own."""
    options = shlex.split(SERVICES[number])[2:]
    if "--workers" in options:
        options[options.index("--database") + 1] = request.getfixturevalue("postgres_url")
    with ServeProcess(*options) as served:
        assert served.call("identify", {"customerid": "1"}).status == 200
        assert served.end() == (0, "", "")


def test_the_config_file_is_taken_as_printed(home: Path) -> None:
    """Its strategy is in force, and keys are checked."""
    (home / "idsync.toml").write_text(CONFIG)
    with ServeProcess("--config", "idsync.toml") as served:
        config = served.emulator("GET", "config").body
        assert (config["strategy"], config["key_rate_per_s"]) == ("profile_link", 50)
        assert config["priority"] == ["customerid", "email", "device_application_stamp"]
        assert served.call("identify", {"customerid": "1"}).status == 401
        assert served.end() == (0, "", "")


def test_the_fault_is_set_as_printed() -> None:
    """One login is answered with 503, the next one is not."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    [command] = FAULT
    with ServeProcess() as served:
        ran = subprocess.run(shlex.split(command.replace("8787", str(served.port))), capture_output=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        assert [served.call("login", {"customerid": "1"}).status for _ in range(2)] == [503, 200]
        assert served.end() == (0, "", "")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_of_the_emulator_is_documented(route: Route) -> None:
    """In the table of calls, in a row of its own or of another method."""
    path = route.path.replace("{mpid}", "MPID")
    rows = [line for line in README.splitlines() if line.startswith("| `") and path in line]
    assert any(f"`{route.method} {path}`" in row or f"`{route.method}` shows" in row for row in rows)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    """In the table of commands."""
    assert any(f"`{command}`" in line.split("|")[1] for line in README.splitlines() if line.startswith("| `"))


@pytest.mark.parametrize("setting", list(inspect.signature(IdentitySession).parameters))
def test_every_setting_is_documented(setting: str) -> None:
    """In the table of settings."""
    assert any(f"`{setting}`" in line.split("|")[1] for line in README.splitlines() if line.startswith("| `"))


def test_every_strategy_is_documented() -> None:
    """In the table of options of `serve`."""
    [row] = [line for line in README.splitlines() if line.startswith("| `--strategy` |")]
    assert set(re.findall(r"`([a-z_0-9]+)`", row)) - {"customerid"} == set(PRESETS)


@pytest.mark.parametrize(
    ("kind", "of_a", "shown_before"),
    [
        ("session", IdentitySession, {"start", "identify", "login", "logout", "modify", "on_user_identified"}),
        ("user", IdentityUser, set()),
    ],
)
def test_the_table_of_the_api_shows_every_member(kind: str, of_a: type, shown_before: set[str]) -> None:
    """Those that exist, and all of them but for the SDK's spelling."""
    cells = [line.split("|")[2] for line in README.splitlines() if line.startswith(f"| {kind} | `")]
    public = {name for name in dir(of_a) if re.fullmatch(r"[a-z][a-z_]*", name)}
    assert set(re.findall(r"`(\w+)", " ".join(cells))) == public - shown_before
    assert shown_before <= public


def test_every_departure_is_in_the_table() -> None:
    """D1 to D32, in order, each with three cells."""
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if re.match(r"\| D\d+ ", line)]
    assert [row[0] for row in rows] == [f"D{number}" for number in range(1, 33)]
    assert {len(row) for row in rows} == {4}


@pytest.mark.parametrize(
    ("number", "pattern"),
    [(1, "*"), (2, "cli/*"), (3, "idsync/*"), (4, "testing/**/*")],
)
def test_the_map_shows_every_file(number: int, pattern: str) -> None:
    """Those of the client, the command line, the service and the tools: a file that is added gets its line."""
    heads = r"^\| (?:client|command line, `cli/`|service, `idsync/`|tools for tests, `testing/`) \|.*$"
    table = re.split(heads, README, flags=re.MULTILINE)[number]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    files = {path.name for path in ROOT.glob(f"identity_session/{pattern}.py")}
    files -= {"__init__.py", "__main__.py", "version.py"}
    assert set(re.findall(r"`(\w+\.py)`", " ".join(cells))) == files


def test_links_lead_somewhere() -> None:
    """Links within the page name a heading."""
    headings = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", README, re.M)}
    assert set(re.findall(r"\]\(#(.*?)\)", README)) <= headings


def _without_mpids(text: str) -> list[list[str]]:
    return [re.sub(r"-?\d{9,}", "MPID", line).split() for line in text.splitlines()]
