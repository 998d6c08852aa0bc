"""Where the command line prints to: nobody reads it, it is closed, or its disk is full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENV = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
COMMAND = [sys.executable, "-m", "identity_session"]
SERVE = ["serve", "--port", "0"]
PRINTING = pytest.mark.parametrize(
    "command",
    [["--help"], SERVE, [*SERVE, "--workers", "2", "--database", "profiles.db"]],
    ids=["help", "serve", "serve with workers"],
)


@PRINTING
def test_nobody_reads_what_is_printed(command: list[str], tmp_path: Path) -> None:
    """A closed pipe ends every command quietly; no service stays that nobody knows the address of."""
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run([*COMMAND, *command], stdout=write, stderr=subprocess.PIPE, env=ENV, cwd=tmp_path, timeout=30)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@PRINTING
def test_a_full_disk_for_what_is_printed(command: list[str], tmp_path: Path) -> None:
    """It is said in one line."""
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            [*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, env=ENV, cwd=tmp_path, timeout=30
        )
    assert ran.returncode == 3
    assert ran.stderr.count(b"\n") == 1
    assert b"No space left" in ran.stderr


@pytest.mark.parametrize("command", [["status", "--workspace-token", "shop"], ["demo"], ["--help"]])
def test_standard_output_is_closed(command: list[str], home: Path) -> None:
    """It is said in one line, and nothing is done."""
    ran = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *COMMAND, *command], stderr=subprocess.PIPE, timeout=30)
    assert (ran.returncode, ran.stderr) == (3, b"identity-session: standard output is closed; nothing was done\n")
    assert not [*home.rglob("*.json")]
