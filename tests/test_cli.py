"""The command line: what each command prints, sends and leaves behind, and how it ends when something is wrong."""

from __future__ import annotations

import inspect
import io
import json
import logging
import os
import pty
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import RawServer, ServiceServer, http, user_answer
from steady import assert_within, steady

from identity_session import IdentitySession, cli
from identity_session.cli import commands, settings
from identity_session.cli.settings import SETTINGS
from identity_session.clock import monotonic, pause
from identity_session.idsync import LocalIDSync

KEY, SECRET = "us1-key-of-the-shop", "secret-of-the-shop"
EMAIL, OTHER_EMAIL = "h.jekyll@example.com", "henry@example.com"
NOWHERE = "http://127.0.0.1:9/v1"
CALLS = ("start", "login", "logout", "modify", "search", "alias")
READERS = ("status", "users")
pytestmark = pytest.mark.usefixtures("home")
COMMANDS = ("demo", *CALLS, *READERS, "reset", "doctor", "serve", "explain")


@dataclass
class Ran:
    """One command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def service() -> Iterator[ServiceServer]:
    """The embedded service behind a socket; it checks keys and signatures."""
    with ServiceServer(LocalIDSync(seed=7, api_keys={KEY: SECRET})) as server:
        yield server


@pytest.fixture
def shop(service: ServiceServer, monkeypatch: pytest.MonkeyPatch) -> ServiceServer:
    """The service, with the environment set up for it."""
    monkeypatch.setenv("IDENTITY_SESSION_API_KEY", KEY)
    monkeypatch.setenv("IDENTITY_SESSION_API_SECRET", SECRET)
    monkeypatch.setenv("IDENTITY_SESSION_BASE_URL", service.url)
    return service


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in this process."""

    def run(*argv: str) -> Ran:
        code = cli.main(argv)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


def process(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, where every warning is an error."""
    command = [sys.executable, "-W", "error", "-m", "identity_session", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, **options)


def one_line(err: str) -> str:
    """The text of the only line on standard error."""
    assert err.startswith("identity-session: ")
    assert err.count("\n") == 1
    return err.strip()


class TestJourney:
    def test_a_user_comes_logs_in_changes_the_email_and_leaves(self, shop: ServiceServer, run: Any) -> None:
        """The whole journey over a socket, each command finding what the one before left."""
        start = run("start")
        assert start.out.startswith("start   200  mpid ")
        assert "anonymous  identities: none" in start.out
        login = run("login", "--identity", f"email={EMAIL}", "--identity", "customerid=h.jekyll", "--json").json
        assert (login["call"], login["http_code"], login["is_logged_in"]) == ("login", 200, True)
        modify = run("modify", "--identity", f"email={OTHER_EMAIL}")
        assert modify.out.startswith("modify  200")
        assert f"known      identities: email={OTHER_EMAIL}, customerid=h.jekyll" in modify.out
        found = run("search", "--identity", "customerid=h.jekyll")
        assert found.out.startswith(f"search  200  mpid {login['mpid']}")
        removed = run("modify", "--remove", "email", "--json").json
        assert removed["identities"] == {"customerid": "h.jekyll"}
        logout = run("logout", "--json").json
        assert logout["previous_mpid"] == login["mpid"] != logout["mpid"]
        alias = run("alias", "--source", login["mpid"], "--destination", logout["mpid"], "--scope", "mpid")
        assert alias.out == "alias   202\n"
        assert [ran.err for ran in (start, modify, found, alias)] == [""] * 4
        calls = [target.partition("?")[0].rpartition("/")[2].lower() for target in shop.targets]
        assert calls == ["identify", "login", "modify", "search", "modify", "logout", "alias"]

    def test_a_live_session_costs_no_request(self, shop: ServiceServer, run: Any) -> None:
        """`start` resumes with -3, which counts as done; a later call sends itself alone."""
        run("start")
        resumed = run("start")
        assert (resumed.code, resumed.out[:11]) == (0, "start    -3")
        run("login", "--identity", "customerid=1")
        assert [target.rpartition("/")[2] for target in shop.targets] == ["identify", "login"]

    def test_start_identifies_with_what_is_known(self, shop: ServiceServer, run: Any) -> None:
        """--identity on start is the configured identify request."""
        assert run("start", "--identity", "customerid=1", "--json").json["is_logged_in"] is True
        assert json.loads(shop.requests[0].body)["known_identities"]["customerid"] == "1"

    def test_processes_share_the_state(self, shop: ServiceServer) -> None:
        """What one process stored, the next one reads."""
        login = process("login", "--identity", "customerid=1", "--json")
        assert (login.returncode, login.stderr) == (0, "")
        status = json.loads(process("status", "--json").stdout)
        assert status["mpid"] == json.loads(login.stdout)["mpid"]
        assert status["identities"] == {"customerid": "1"}

    def test_an_mpid_may_be_negative(self, shop: ServiceServer, run: Any) -> None:
        """A minus sign does not make an option of an MPID."""
        ran = run("alias", "--source", "-1", "--destination", "-2")
        assert ran.code == 2
        assert "no user -1 is remembered here" in one_line(ran.err)


class TestDemo:
    @steady
    def test_it_shows_every_call(self, home: Path) -> None:
        """It needs nothing, is quick, says for each call what came of it, and leaves nothing behind."""
        begun = time.monotonic()
        ran = process("demo", env={"PATH": "", "TMPDIR": str(home), "HOME": str(home)})
        assert_within(time.monotonic() - begun, 5)  # far more than it takes
        assert (ran.returncode, ran.stderr) == (0, "")
        calls = [line.split()[:2] for line in ran.stdout.splitlines()]
        assert calls == [
            ["start", "200"],
            ["login", "200"],
            ["modify", "200"],
            ["logout", "200"],
            ["start", "-3"],
            ["login", "200"],
        ]
        assert list(home.iterdir()) == []

    def test_the_user_who_comes_back_is_the_same(self, run: Any) -> None:
        """The JSON tells the story: the visitor becomes known, leaves, and is found again."""
        first, login, modify, logout, restart, again = run("demo", "--json").json
        assert first["mpid"] == login["mpid"] == modify["mpid"] == again["mpid"] == logout["previous_mpid"]
        assert logout["mpid"] == restart["mpid"] != login["mpid"]
        known = [step["is_logged_in"] for step in (first, login, modify, logout, restart, again)]
        assert known == [False, True, True, False, False, True]
        assert first["attributes"] == again["attributes"] == {"visits": 1}
        assert (logout["attributes"], logout["identities"]) == ({}, {})
        assert modify["identities"] == again["identities"] == {"email": OTHER_EMAIL, "customerid": "h.jekyll"}

    def test_it_is_the_same_every_time(self, run: Any) -> None:
        """So it can be shown in a page."""
        assert run("demo").out == run("demo").out


class TestForgetting:
    """`logout --offline forget`, for a kiosk that is run from scripts."""

    LOGOUT = ("logout", "--offline", "forget")

    @pytest.fixture
    def person(self, shop: ServiceServer, run: Any) -> str:
        """Who is logged in."""
        run("start")
        return run("login", "--identity", f"email={EMAIL}", "--identity", "customerid=h.jekyll", "--json").json["mpid"]

    def test_a_logout_that_is_confirmed(self, person: str, shop: ServiceServer, run: Any) -> None:
        ran = run(*self.LOGOUT, "--json")
        assert (ran.code, ran.err) == (0, "")
        assert ran.json["previous_mpid"] == person != ran.json["mpid"]
        assert run("status", "--json").json["mpid"] == ran.json["mpid"]

    @pytest.mark.parametrize("session", ["live", "expired"])
    def test_nobody_is_current_although_there_is_no_connection(self, person: str, run: Any, session: str) -> None:
        """It does not start first: that might ask who the person is, and wait for the answer."""
        before = run("status", "--json").json["session_id"]
        expired = ["--session-timeout", "0.0001"] if session == "expired" else []
        ran = run(*self.LOGOUT, "--base-url", NOWHERE, "--retry", "1", *expired)
        assert (ran.code, ran.out) == (1, "")
        assert "logout ended with code -1" in one_line(ran.err)
        assert ran.err.endswith("; nobody is current here any more\n")
        status = run("status", "--json").json
        assert (status["mpid"], status["session_id"] != before) == (None, True)
        assert [user["mpid"] for user in run("users", "--json").json].count(person) == 1

    def test_no_record_of_the_person(self, person: str, run: Any, home: Path) -> None:
        ran = run(*self.LOGOUT, "--forget-user", "--base-url", NOWHERE, "--retry", "1", "--json")
        assert (ran.code, ran.json["http_code"], ran.json["mpid"], ran.json["previous_mpid"]) == (1, -1, None, None)
        assert person not in [user["mpid"] for user in run("users", "--json").json]
        left = [*(home / "data").rglob("*.json*")]
        assert left
        for file in left:
            assert EMAIL not in file.read_text()

    def test_while_opted_out(self, person: str, shop: ServiceServer, run: Any) -> None:
        session = IdentitySession(KEY, SECRET)
        session.set_opt_out(True)
        ran = run(*self.LOGOUT)
        assert ran.code == 1
        assert "code -6" in one_line(ran.err)
        assert ran.err.endswith("; nobody is current here any more\n")
        assert session.mpid is None

    def test_a_state_that_cannot_be_changed_says_so(self, person: str, shop: ServiceServer, run: Any) -> None:
        """The person is still current; nothing was sent."""
        sent = len(shop.targets)
        with IdentitySession(KEY, SECRET).storage.lock(1):
            ran = process(*self.LOGOUT, "--timeout", "0.3")
        assert ran.returncode == 1
        assert "the user could not be forgotten" in one_line(ran.stderr)
        assert "nobody is current here any more" not in ran.stderr
        assert (run("status", "--json").json["mpid"], len(shop.targets)) == (person, sent)

    def test_without_it_the_person_stays(self, person: str, run: Any) -> None:
        ran = run("logout", "--base-url", NOWHERE, "--retry", "1")
        assert ran.code == 1
        assert "the user is as before" in one_line(ran.err)
        assert run("status", "--json").json["mpid"] == person


class TestReading:
    def test_status_says_who_the_user_is(self, shop: ServiceServer, run: Any, home: Path) -> None:
        """Everything that is remembered of the current user and the session."""
        run("login", "--identity", f"email={EMAIL}", "--identity", "customerid=1")
        status = run("status", "--json").json
        with IdentitySession(KEY, SECRET, base_url=shop.url) as session:
            user = session.current_user
            assert user is not None
            assert status["mpid"] == user.mpid
            assert (status["context"], status["device_id"]) == (session.context, session.device_id)
            assert (status["session_id"], status["opted_out"]) == (session.session_id, False)
            assert user.first_seen is not None
            assert status["first_seen"] == user.first_seen.isoformat()
        assert status["last_seen"] > status["first_seen"]
        assert (status["is_logged_in"], status["recovered_from"]) == (True, None)
        assert Path(status["storage"]).is_relative_to(home / "data")
        assert f"identities      email={EMAIL}, customerid=1\n" in run("status").out

    def test_users_lists_everybody(self, shop: ServiceServer, run: Any) -> None:
        """The current user first, marked."""
        login = run("login", "--identity", "customerid=1", "--json").json
        logout = run("logout", "--json").json
        users = run("users", "--json").json
        assert [(user["mpid"], user["is_current"]) for user in users] == [
            (logout["mpid"], True),
            (login["mpid"], False),
        ]
        lines = run("users").out.splitlines()
        assert lines[0].startswith(f"* mpid {logout['mpid']}")
        assert lines[1].startswith(f"  mpid {login['mpid']}")
        assert "identities: customerid=1" in lines[1]

    @pytest.mark.parametrize("command", READERS)
    def test_reading_is_cheap_and_leaves_no_trace(self, command: str, home: Path) -> None:
        """Neither httpx nor pydantic is loaded, and nothing appears on disk."""
        program = (
            "import sys; from identity_session.cli import main; code = main(sys.argv[1:]); "
            "assert not {'httpx', 'pydantic', 'asyncio', 'identity_session.idsync'} & set(sys.modules); sys.exit(code)"
        )
        argv = [sys.executable, "-c", program, command, "--json", "--workspace-token", "shop"]
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert command == "status" or json.loads(ran.stdout) == []
        assert list(home.iterdir()) == []

    def test_nobody_and_no_device_before_the_first_start(self, run: Any) -> None:
        """A device that was not stored is not shown, for it would be another one each time."""
        status = run("status", "--json", "--workspace-token", "shop").json
        assert (status["mpid"], status["device_id"], status["session_id"]) == (None, None, None)

    def test_a_damaged_file_is_reported_once(self, shop: ServiceServer, run: Any) -> None:
        """One warning with the place of the damaged file; the state before it is used."""
        run("login", "--identity", "customerid=1")
        state = Path(run("status", "--json").json["storage"]) / "state.json"
        state.write_text("{")
        ran = run("status", "--json")
        assert ran.code == 0
        assert ran.json["mpid"]
        assert Path(ran.json["recovered_from"]).read_text() == "{"
        assert Path(ran.json["recovered_from"]).name in one_line(ran.err)
        assert run("status").err == ""

    def test_control_characters_do_not_reach_the_terminal(self, shop: ServiceServer, run: Any) -> None:
        """A value with an escape sequence is shown as a JSON text."""
        ran = run("login", "--identity", "customerid=\x1b[2J\nforged")
        assert "\x1b" not in ran.out
        assert ran.out.count("\n") == 1
        assert '"\\u001b[2J\\nforged"' in ran.out


class TestReset:
    def test_with_yes(self, shop: ServiceServer, run: Any) -> None:
        """Everything of this workspace is forgotten."""
        run("login", "--identity", "customerid=1")
        ran = run("reset", "--yes")
        assert ran.out.startswith("forgotten: everything in ")
        assert run("status", "--json").json["mpid"] is None
        assert run("users", "--json").json == []

    def test_without_a_terminal_it_refuses(self, shop: ServiceServer, run: Any) -> None:
        """Nobody can be asked, so nothing happens."""
        run("login", "--identity", "customerid=1")
        ran = run("reset")
        assert ran.code == 2
        assert "--yes" in one_line(ran.err)
        assert run("status", "--json").json["mpid"]

    @pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
    def test_it_asks(
        self, shop: ServiceServer, run: Any, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
    ) -> None:
        """Only a yes is a yes."""
        run("login", "--identity", "customerid=1")
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", terminal)
        ran = run("reset", "--json")
        assert ran.code == code
        assert "Forget every user" in ran.err
        assert (run("status", "--json").json["mpid"] is None) is (code == 0)

    def test_a_real_terminal_is_asked(self, shop: ServiceServer) -> None:
        """The question is put on a pseudo-terminal too."""
        ours, theirs = pty.openpty()
        os.write(ours, b"n\n")
        command = [sys.executable, "-m", "identity_session", "reset"]
        ran = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=30)
        os.close(ours)
        os.close(theirs)
        assert ran.returncode == 1
        assert ran.stderr.endswith("nothing was removed\n")


class TestCallsThatFail:
    def test_no_connection_ends_the_command_at_its_start(self, shop: ServiceServer, run: Any) -> None:
        """Without an answer to the identify on start, the call itself is not tried."""
        ran = run("login", "--json", "--base-url", NOWHERE, "--retry", "1")
        assert (ran.code, ran.json["call"], ran.json["http_code"]) == (1, "start", -1)
        assert "start ended with code -1; no connection to the service" in one_line(ran.err)

    def test_a_wrong_secret(self, shop: ServiceServer, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """401 says what to check."""
        monkeypatch.setenv("IDENTITY_SESSION_API_SECRET", "wrong")
        ran = run("start")
        assert (ran.code, ran.out) == (1, "")
        assert "code 401" in one_line(ran.err)
        assert "IDENTITY_SESSION_API_SECRET" in ran.err

    def test_nobody_found(self, shop: ServiceServer, run: Any) -> None:
        """A search for an unknown user is no success, and has the service's words."""
        ran = run("search", "--identity", "email=nobody@example.com")
        assert ran.code == 1
        assert "search ended with code 404; No profile matches.; nobody has" in one_line(ran.err)

    def test_opted_out(self, shop: ServiceServer, run: Any) -> None:
        """-6 says how to opt in."""
        with IdentitySession(KEY, SECRET, base_url=shop.url) as session:
            session.set_opt_out(True)
        ran = run("login")
        assert ran.code == 1
        assert "code -6" in one_line(ran.err)
        assert "set_opt_out(False)" in ran.err

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (
                http(400, {"Errors": [{"code": "LOOKUP_ERROR", "message": "two\nlines"}]}),
                'code 400; "two\\nlines"; the',
            ),
            (http(400, {"errors": "text"}), "code 400; the service refuses"),
            (http(400, {"errors": ["text"]}), "code 400; the service refuses"),
            (http(302, location="/elsewhere"), "code 302; the service is elsewhere; check --base-url"),
            (http(418), "code 418"),
            (http(429), "code 429; the service throttles"),
            (http(500, b"<html>"), "code 500; the service is in trouble"),
        ],
    )
    def test_every_code_says_what_to_do(self, run: Any, tmp_path: Path, answer: bytes, words: str) -> None:
        """One line, whatever the service answers."""
        (tmp_path / "key").write_text(KEY)
        with RawServer([answer]) as server:
            ran = run("start", "--api-key-file", "key", "--base-url", server.url, "--retry", "1")
        assert (ran.code, ran.out) == (1, "")
        assert words in one_line(ran.err)

    def test_an_alias_that_is_refused(self, shop: ServiceServer, run: Any) -> None:
        """The message of the service is shown."""
        mpid = run("start", "--json").json["mpid"]
        ran = run("alias", "--source", mpid, "--destination", mpid, "--json")
        assert (ran.code, ran.json["http_code"]) == (1, -4)
        assert "source and destination are the same user" in one_line(ran.err)


class TestUsage:
    @pytest.mark.parametrize(
        ("argv", "words"),
        [
            ([], "required: command"),
            (["fly"], "invalid choice: 'fly'"),
            (["login", "--identity", "email"], "write NAME=VALUE"),
            (["login", "--identity", "=x"], "write NAME=VALUE"),
            (["modify", "--identity", "email="], "modify --remove email"),
            (["login", "--identity", "e-mail=x"], "unknown identity type 'e-mail'; known types: customerid, email"),
            (["login", "--identity", "email=\udcff"], "UTF-8"),
            (["login", "--identity", "email=a", "--identity", "email=b"], "given twice"),
            (["modify", "--identity", "email=a", "--remove", "email"], "given twice"),
            (["modify", "--remove", "e-mail"], "unknown identity type"),
            (["modify"], "--identity NAME=VALUE or --remove NAME"),
            (["search"], "required: --identity"),
            (["logout", "--forget-user"], "--forget-user goes with --offline forget"),
            (["logout", "--offline", "never"], "invalid choice: 'never'"),
            (["login", "--strict-storage", "maybe"], "--strict-storage maybe is not YES|NO"),
            (["alias", "--source", "1"], "required: --destination"),
            (["alias", "--source", "1", "--destination", "2", "--scope", "all"], "invalid choice: 'all'"),
            (["login", "--timeout", "soon"], "--timeout soon is not SECONDS"),
            (["login", "--timeout", "0"], "timeout must be"),
            (["login", "--session-timeout", "1e99"], "--session-timeout 1e99 is not MINUTES"),
            (["login", "--alias-max-window", "-1"], "alias_max_window must not be negative"),
            (["login", "--retry", "0"], "--retry 0 is not ATTEMPTS"),
            (["login", "--cache-identity", "maybe"], "--cache-identity maybe is not YES|NO"),
            (["login", "--storage", ""], "--storage"),
            (["login", "--environment", "test"], "environment must be one of production, development"),
            (["login", "--base-url", "http://example.com/v1"], "https://"),
            (["login", "--auth", "basic"], "needs an api_secret"),
            (["login", "--json", "extra"], "unknown: an argument without an option"),
            (["demo", "--storage", "x"], "unknown: --storage"),
        ],
    )
    def test_a_mistake_is_named_in_one_line(
        self, run: Any, monkeypatch: pytest.MonkeyPatch, home: Path, argv: list[str], words: str
    ) -> None:
        """Exit code 2, nothing is sent, and nothing appears on disk."""
        monkeypatch.setenv("IDENTITY_SESSION_API_KEY", KEY)
        ran = run(*argv)
        assert (ran.code, ran.out) == (2, "")
        assert words in one_line(ran.err)
        assert list(home.iterdir()) == []

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_help(self, run: Any, capsys: pytest.CaptureFixture[str], command: str) -> None:
        """Help says what the command does and how it ends."""
        with pytest.raises(SystemExit) as exit_:
            run(command, "--help")
        help_ = capsys.readouterr().out
        assert exit_.value.code == 0
        assert help_.startswith(f"usage: identity-session {command} [options]\n\n")
        assert commands.COMMANDS[command][1] in help_
        assert "exit codes:" in help_
        assert ("--base-url URL" in help_) is (command not in ("demo", "doctor", "serve"))

    def test_the_commands_are_these(self) -> None:
        """A command that is added is tested as the others are."""
        assert tuple(commands.COMMANDS) == COMMANDS

    def test_the_settings_are_those_of_the_session(self) -> None:
        """Every argument of the constructor that can be said in words is an option."""
        names = set(inspect.signature(IdentitySession).parameters)
        unsaid = {"api_key", "api_secret", "identify_request", "identity_callback", "transport", "now_ms", "new_id"}
        assert {setting.name for setting in SETTINGS} == names - unsaid

    def test_every_setting_reaches_the_session(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Words become values of the right type, from options and from the environment alike."""
        chosen: dict[str, Any] = {}

        def session(api_key: str, api_secret: str, **arguments: Any) -> None:
            chosen.update(arguments)
            raise ValueError

        monkeypatch.setattr(settings, "IdentitySession", session)
        monkeypatch.setenv("IDENTITY_SESSION_API_KEY", KEY)
        monkeypatch.setenv("IDENTITY_SESSION_TIMEOUT", "2.5")
        monkeypatch.setenv("IDENTITY_SESSION_SESSION_TIMEOUT", "5")
        monkeypatch.setenv("IDENTITY_SESSION_KEEP_EPHEMERAL_USERS", "no")
        monkeypatch.setenv("IDENTITY_SESSION_PLATFORM", "")
        argv = [
            "--session-timeout",
            "7",
            "--alias-max-window",
            "3",
            "--max-users",
            "4",
            "--retry",
            "2",
            "--device-id",
            "d",
        ]
        run("start", *argv)
        values = {name: str(value) for name, value in chosen.items() if name != "identify_request"}
        assert values == {
            "session_timeout": "0:07:00",
            "alias_max_window": "3 days, 0:00:00",
            "timeout": "2.5",
            "retry": "RetryPolicy(attempts=2, initial_seconds=0.25, max_seconds=4.0)",
            "keep_ephemeral_users": "False",
            "max_users": "4",
            "device_id": "d",
        }

    def test_the_version(self, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
        """--version prints it."""
        with pytest.raises(SystemExit):
            run("--version")
        assert capsys.readouterr().out == "identity-session 0.1.0\n"


class TestKeys:
    @pytest.mark.parametrize("command", CALLS)
    def test_a_call_needs_a_key(self, run: Any, command: str) -> None:
        """Exit code 2 and how to give one; a workspace token is not enough."""
        more = {"search": ["--identity", "email=a"], "modify": ["--remove", "email"]}.get(command, [])
        more += ["--source", "1", "--destination", "2"] if command == "alias" else []
        ran = run(command, "--workspace-token", "shop", *more)
        assert ran.code == 2
        assert "IDENTITY_SESSION_API_KEY" in one_line(ran.err)

    @pytest.mark.parametrize("command", [*READERS, "reset"])
    def test_reading_needs_a_key_or_a_workspace(self, run: Any, command: str) -> None:
        """The key decides whose state it is, unless a token does."""
        ran = run(command)
        assert ran.code == 2
        assert "--workspace-token" in one_line(ran.err)

    def test_from_files(self, service: ServiceServer, run: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files named by options or by the environment, with or without a line end; an option wins."""
        (home / "key").write_text(f"{KEY}\n")
        (home / "secret").write_text(SECRET)
        monkeypatch.setenv("IDENTITY_SESSION_API_SECRET_FILE", str(home / "secret"))
        monkeypatch.setenv("IDENTITY_SESSION_API_KEY", "another-key")
        assert run("start", "--api-key-file", "key", "--base-url", service.url).code == 0

    @pytest.mark.parametrize(
        ("content", "reason"), [(None, "No such file"), (b"\n", "is empty"), (b"\xff\xfe", "it is not text")]
    )
    def test_a_file_that_holds_none(self, run: Any, home: Path, content: bytes | None, reason: str) -> None:
        """Exit code 2 with the reason."""
        if content is not None:
            (home / "key").write_bytes(content)
        ran = run("status", "--api-key-file", "key")
        assert ran.code == 2
        assert reason in one_line(ran.err)

    @pytest.mark.parametrize("option", ["--api-key", "--api-secret"])
    def test_never_on_the_command_line(self, run: Any, option: str) -> None:
        """Refused without repeating it, in whatever way it is written."""
        for argv in ([option, SECRET], [f"{option}={SECRET}"], [option]):
            ran = run("start", *argv)
            assert ran.code == 2
            assert f"{option}-file" in one_line(ran.err)
            assert SECRET not in ran.err

    @pytest.mark.parametrize("argv", [["--apikey", KEY], [f"--key={KEY}"], [KEY]])
    def test_a_misspelt_option_is_not_repeated_with_its_value(self, run: Any, argv: list[str]) -> None:
        """What follows an unknown option may be a key."""
        ran = run("status", *argv)
        assert ran.code == 2
        assert KEY not in one_line(ran.err)

    def test_nothing_prints_them(self, shop: ServiceServer, run: Any, caplog: pytest.LogCaptureFixture) -> None:
        """No command shows the key or the secret, whatever happens."""
        caplog.set_level(logging.DEBUG, "identity_session")
        printed = []
        for argv in (["start"], ["login", "--identity", "customerid=1"], ["search", "--identity", "email=x"]):
            printed += [run(*argv), run(*argv, "--json"), run(*argv, "--base-url", NOWHERE, "--retry", "1")]
        printed += [run("status"), run("status", "--json"), run("users"), run("reset", "--yes")]
        text = "".join(ran.out + ran.err for ran in printed) + caplog.text
        assert KEY not in text
        assert SECRET not in text


class TestStorage:
    def test_a_state_of_a_newer_version(self, shop: ServiceServer, run: Any) -> None:
        """Exit code 3, and the state is left alone."""
        run("start")
        state = Path(run("status", "--json").json["storage"]) / "state.json"
        content = state.read_text().replace('"schema_version": 1', '"schema_version": 99')
        state.write_text(content)
        for command in ("start", "status", "users"):
            ran = run(command)
            assert ran.code == 3
            assert "newer version" in one_line(ran.err)
        assert state.read_text() == content

    def test_a_place_that_cannot_be_written(self, shop: ServiceServer, run: Any, home: Path) -> None:
        """Exit code 3 before anything is sent."""
        (home / "file").write_text("")
        ran = run("start", "--storage", "file/below")
        assert (ran.code, ran.out, shop.targets) == (3, "", [])
        assert "file/below" in one_line(ran.err)

    def test_a_place_that_cannot_be_written_and_a_session_that_is_not_strict(
        self, shop: ServiceServer, run: Any, home: Path
    ) -> None:
        """The command does what it can, and says on standard error that nothing of it lasts."""
        (home / "file").write_text("")
        options = ["--storage", "file/below", "--strict-storage", "no"]
        ran = run("login", "--identity", "customerid=h.jekyll", *options)
        assert (ran.code, ran.out.split()[:2]) == (0, ["login", "200"])
        assert "file/below" in one_line(ran.err)
        assert ran.err.endswith("; the state is kept in memory only, and lost when this program ends\n")
        status = run("status", "--json", *options)
        assert (status.code, status.json["mpid"], status.json["storage"]) == (0, None, "memory")
        assert run("users", *options).out == ""
        reset = run("reset", "--yes", *options)
        assert (reset.code, reset.out) == (3, "")
        assert "could not be removed" in reset.err

    @pytest.mark.usefixtures("root")
    def test_a_user_without_a_home(self) -> None:
        """Exit code 3 and what to pass."""
        code = (
            "import os; from identity_session import cli; cli.main(['users'])\n"  # imports what may be root's alone
            "del os.environ['HOME']; os.setuid(54321); raise SystemExit(cli.main(['users']))"
        )
        env = {name: value for name, value in os.environ.items() if name != "XDG_DATA_HOME"}
        env["IDENTITY_SESSION_API_KEY"] = KEY
        ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30)
        assert (ran.returncode, ran.stdout) == (3, "")
        assert "pass a path as storage, or set HOME" in one_line(ran.stderr)


class TestEnding:
    @pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ("serve", "explain")])
    def test_every_command_prints_json(self, shop: ServiceServer, run: Any, command: str) -> None:
        """--json prints one JSON document and nothing else. `serve` and `explain` have tests of their own."""
        source = run("login", "--identity", "customerid=1", "--json").json["mpid"]
        destination = run("logout", "--json").json["mpid"]
        more = {
            "modify": ["--identity", "email=a@example.com"],
            "search": ["--identity", "customerid=1"],
            "alias": ["--source", source, "--destination", destination],
            "reset": ["--yes"],
        }
        ran = run(command, "--json", *more.get(command, []))
        assert (ran.code, ran.err) == (0, "")
        assert ran.json

    @steady
    def test_interrupted(self) -> None:
        """Ctrl-C ends a call that waits, at once, quietly and with 130."""
        with RawServer(lambda peer: peer.request() and peer.hold()) as server:
            env = {**os.environ, "IDENTITY_SESSION_API_KEY": KEY, "IDENTITY_SESSION_BASE_URL": server.url}
            command = [sys.executable, "-m", "identity_session", "start"]
            with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
                server.wait_for_requests(1)
                pause(0.05)  # until it waits: a signal in the instant before is heard only when the wait is over
                began = monotonic()
                waiting.send_signal(signal.SIGINT)
                out, err = waiting.communicate(timeout=10)
                seconds = monotonic() - began
        assert (waiting.returncode, out, err) == (130, b"", b"")
        assert_within(seconds, 1)

    def test_interrupted_elsewhere(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is printed, wherever the interrupt comes."""

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(settings, "IdentitySession", interrupted)
        assert run("status", "--workspace-token", "shop") == Ran(130, "", "")

    def test_as_a_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`python -m identity_session` is the same command."""
        monkeypatch.setattr(sys, "argv", ["anything", "users", "--workspace-token", "shop"])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_module("identity_session", run_name="__main__")
        assert exit_.value.code == 0

    def test_nobody_reads(self) -> None:
        """A closed pipe ends the command quietly."""
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "identity_session", "demo", "--json"]
        ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=30)
        os.close(write)
        assert (ran.returncode, ran.stderr) == (141, b"")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
    def test_a_full_disk_for_the_output(self) -> None:
        """It is said in one line."""
        with open("/dev/full", "wb") as full:
            command = [sys.executable, "-m", "identity_session", "status", "--workspace-token", "shop"]
            ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
        assert ran.returncode == 3
        assert "No space left" in one_line(ran.stderr)

    def test_the_logger_is_as_before(self, run: Any) -> None:
        """A program that calls main() keeps its own handlers alone."""
        handlers = list(logging.getLogger("identity_session").handlers)
        run("status", "--workspace-token", "shop")
        assert logging.getLogger("identity_session").handlers == handlers

    def test_an_answer_for_a_terminal_in_ascii(self, tmp_path: Path) -> None:
        """Where the terminal cannot show a letter, it is escaped."""
        with RawServer([http(200, user_answer())]) as server:
            env = {**os.environ, "IDENTITY_SESSION_API_KEY": KEY, "PYTHONIOENCODING": "ascii"}
            ran = process("start", "--base-url", server.url, "--identity", "customerid=ü", env=env)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "customerid=\\xfc" in ran.stdout
