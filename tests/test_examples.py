"""The examples run as programs, anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an example in a process of its own, where every warning is an error, and with these settings alone."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("IDENTITY_SESSION_")} | variables
    command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)


def test_higgs_shop_takes_the_steps_of_the_quick_start(tmp_path: Path) -> None:
    """Identify on start with an attribute set in the callback, login, modify, logout; nothing is left behind."""
    ran = run("higgs_shop.py", HOME=str(tmp_path))
    assert (ran.returncode, ran.stderr) == (0, "")
    attribute = "{'favourite_department': 'physics'}"
    assert ran.stdout.splitlines() == [
        "start: code 200, anonymous, {}, " + attribute,
        "login: code 200, known, {'email': 'h.jekyll@example.com', 'customerid': 'h.jekyll'}, " + attribute,
        "modify: code 200, known, {'email': 'henry@example.com', 'customerid': 'h.jekyll'}, " + attribute,
        "logout: code 200, anonymous, {}, {}",
    ]
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_tested() -> None:
    """A new example needs a test here."""
    assert [path.name for path in sorted(EXAMPLES.glob("*.py"))] == ["higgs_shop.py"]
