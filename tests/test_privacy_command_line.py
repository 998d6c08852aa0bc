"""The command line prints no secret, and what is personal only where that was asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from canaries import PERSONAL, SECRETS, leaks
from canary_sessions import IDENTITIES, KEY, MPID, SECRET, nothing_said
from servers import RawServer, ServiceServer

from identity_session import cli
from identity_session.idsync import LocalIDSync
from identity_session.testing.faults import Peer

COMMANDS: dict[str, list[str]] = {
    "start": [],
    "login": ["--identity", f"email={PERSONAL['email']}", "--identity", f"customerid={PERSONAL['customer id']}"],
    "modify": ["--identity", f"email={PERSONAL['other email']}"],
    "search": ["--identity", f"email={PERSONAL['email']}"],
    "status": [],
    "users": [],
    "logout": [],
    "alias": ["--source", MPID, "--destination", MPID],
    "reset": ["--yes"],
}


def as_user(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "IDENTITY_SESSION_API_KEY": KEY,
        "IDENTITY_SESSION_API_SECRET": SECRET,
        "IDENTITY_SESSION_STORAGE": str(tmp_path / "store"),
        "IDENTITY_SESSION_DEVICE_ID": PERSONAL["device"],
        "IDENTITY_SESSION_RETRY": "1",
        "HOME": str(tmp_path),
        **more,
    }


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; returns its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, **settings: str) -> tuple[int, str, str]:
        for name, value in as_user(tmp_path, **settings).items():
            monkeypatch.setenv(name, value)
        with nothing_said():
            code = cli.main(argv)
        return code, *capfd.readouterr()

    return run


def test_commands_print_no_secret_and_personal_words_only_where_asked(run: Any) -> None:
    """In words and as JSON, going well and going wrong; standard error says nothing personal."""
    idsync = LocalIDSync(api_keys={KEY: SECRET})
    idsync.seed_profile(IDENTITIES, mpid=MPID)
    with ServiceServer(idsync) as server:
        for command, options in COMMANDS.items():
            for json_option in ([], ["--json"]):
                _, out, err = run(command, *options, *json_option, IDENTITY_SESSION_BASE_URL=server.url)
                assert leaks(out + err, SECRETS) == [], command
                given = ["MPID"] if command == "alias" else []  # as it was given on the command line
                assert [name for name in leaks(err) if name not in given] == [], command
    for command in ("login", "logout", "modify", "search"):
        code, out, err = run(command, *COMMANDS[command], IDENTITY_SESSION_BASE_URL="http://127.0.0.1:1/v1")
        assert (code, leaks(out + err)) == (1, []), command


def test_a_process_that_crashes_dumps_no_value(tmp_path: Path) -> None:
    """By faulthandler, in the middle of a call, in Python's development mode."""
    with RawServer([Peer.hold]) as server:
        program = [sys.executable, "-X", "dev", "-m", "identity_session", "start", "--timeout", "60"]
        environment = {**os.environ, **as_user(tmp_path, IDENTITY_SESSION_BASE_URL=server.url)}
        with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            while not server.requests and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGABRT)
            dump = process.stdout.read().decode()  # type: ignore[union-attr]
    assert "core.py" in dump or "session.py" in dump
    assert leaks(dump) == []


WRONG_USAGE = {
    "a secret in place of the command": [SECRET],
    "a secret as an option": ["login", "--api-secret", SECRET],
    "a secret glued to an unknown option": ["login", f"-k{SECRET}"],
    "a secret glued to a misspelt option": ["login", f"--api-secrt={SECRET}"],
    "a secret without an option": ["login", SECRET],
    "an identity without a type": ["login", "--identity", PERSONAL["email"]],
    "an identity that cannot be sent": ["login", "--identity", f"email={PERSONAL['email']}\udcff"],
    "a password in a URL": ["explain", "--base-url", f"http://user:{SECRET}@127.0.0.1:1/v1"],
    "a password in the URL of the service": ["login", "--base-url", f"https://user:{SECRET}@127.0.0.1:1/v1"],
}


@pytest.mark.parametrize("usage", WRONG_USAGE)
def test_wrong_usage_is_not_repeated_when_it_may_be_a_secret(run: Any, usage: str) -> None:
    code, out, err = run(*WRONG_USAGE[usage])
    assert (code, out, leaks(err)) == (2, "", [])
    assert err.startswith("identity-session: ")
