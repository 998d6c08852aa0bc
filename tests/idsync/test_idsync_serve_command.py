"""`identity-session serve` and `explain` as commands: what they print, how they end, and what they refuse."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_serving import PATIENCE_SECONDS, Client, ServeProcess, first_line, serving, start_serve

from identity_session import cli
from identity_session.cli.printing import ENV
from identity_session.idsync import LocalIDSync
from identity_session.idsync.guard import Guard


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(ENV) and "_TEST_" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refused(*options: str) -> str:
    """The one line on standard error with which `serve` refuses these options."""
    process = start_serve("--port", "0", *options)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1), err
    return err


class TestServing:
    def test_the_line_says_where(self) -> None:
        """Once it is printed, it serves; nothing else is printed, and SIGTERM ends it with 0."""
        with ServeProcess() as served:
            assert served.first_line == f"listening on http://127.0.0.1:{served.port}"
            assert served.emulator("GET", "health").status == 200
            assert served.end() == (0, "", "")

    def test_an_interrupt_ends_it_too(self) -> None:
        with ServeProcess() as served:
            assert served.end(signal.SIGINT) == (0, "", "")

    def test_a_chosen_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with ServeProcess("--port", str(port)) as served:
            assert served.port == port

    def test_other_names_of_this_machine(self) -> None:
        """Given with --host, they are served and printed; all of 127.0.0.0/8 needs no token."""
        with ServeProcess("--host", "127.0.0.2") as served:
            assert served.first_line.startswith("listening on http://127.0.0.2:")
            with socket.create_connection(("127.0.0.2", served.port), PATIENCE_SECONDS) as connection:
                connection.sendall(b"GET /emulator/health HTTP/1.1\r\nHost: 127.0.0.2\r\nConnection: close\r\n\r\n")
                assert connection.recv(12) == b"HTTP/1.1 200"

    def test_ipv6(self) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
        with ServeProcess("--host", "::1") as served:
            assert served.first_line.startswith("listening on http://[::1]:")
            with socket.create_connection(("::1", served.port), PATIENCE_SECONDS) as connection:
                connection.sendall(b"GET /emulator/health HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n")
                assert connection.recv(12) == b"HTTP/1.1 200"

    def test_on_all_interfaces_the_emulator_needs_the_token(self, tmp_path: Path) -> None:
        """From a file or the environment; without one it is closed, and a line says so."""
        with ServeProcess("--host", "0.0.0.0") as served:
            assert served.emulator("GET", "profiles").status == 403
            assert served.call("identify", {"customerid": "1"}).status == 200
            code, _, err = served.end()
            assert (code, err.count("\n")) == (0, 1)
            assert f"{ENV}TOKEN" in err
        (tmp_path / "token").write_text("t0ken\n")
        for options, env in (
            (["--token-file", str(tmp_path / "token")], {}),
            ([], {f"{ENV}TOKEN": "t0ken"}),
            ([], {f"{ENV}TOKEN_FILE": str(tmp_path / "token")}),
        ):
            with ServeProcess("--host", "0.0.0.0", *options, env=env) as served:
                assert served.emulator("GET", "profiles").status == 401
                assert served.emulator("GET", "profiles", headers={"authorization": "Bearer t0ken"}).status == 200
                assert served.end() == (0, "", "")

    def test_the_config_file_wins(self, tmp_path: Path) -> None:
        """Over --strategy; its keys are checked."""
        config = tmp_path / "idsync.toml"
        config.write_text(
            'strategy = "profile_link"\npriority = ["other", "email"]\nlogin = ["email"]\nunique = ["email"]\n'
            '[api_keys]\n"the-key" = "the-secret"\n'
        )
        with ServeProcess("--strategy", "best_match", "--config", str(config)) as served:
            assert served.call("identify", {"email": "a@example.com"}).status == 401
            body = {"environment": "development", "client_sdk": {"platform": "web"}}
            body |= {"known_identities": {"email": "a@example.com", "customerid": "1"}}
            assert served.post("/v1/identify", body, {"x-mp-key": "the-key"}).body["is_logged_in"] is True
            assert served.profiles()[0]["identities"] == {"email": ["a@example.com"]}
            assert served.profiles()[0]["other_identities"] == {"customerid": ["1"]}

    def test_a_config_without_a_strategy_leaves_it_to_the_option(self, tmp_path: Path) -> None:
        """Keys alone are no reason to take another one."""
        config = tmp_path / "idsync.toml"
        config.write_text('[api_keys]\n"the-key" = "the-secret"\n')
        with ServeProcess("--strategy", "profile_link", "--config", str(config)) as served:
            assert served.emulator("GET", "config").body["strategy"] == "profile_link"
            assert served.call("identify", {"email": "a@example.com"}).status == 401

    def test_a_seed_makes_the_mpids_the_same(self) -> None:
        seen = []
        for _ in range(2):
            with ServeProcess("--seed", "7") as served:
                seen.append(served.call("identify", {"customerid": "1"}).mpid)
        assert seen[0] == seen[1]

    def test_the_database_may_come_from_the_environment(self, tmp_path: Path) -> None:
        """A URL may hold a password, which a command line would show to everybody."""
        env = {f"{ENV}DATABASE": str(tmp_path / "profiles.db")}
        with ServeProcess(env=env) as served:
            served.seed(customerid="1")
            assert served.end()[0] == 0
        with ServeProcess(env=env) as served:
            assert len(served.profiles()) == 1

    def test_json(self) -> None:
        process = start_serve("--port", "0", "--json")
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)
        assert json.loads("".join(lines))["url"].startswith("http://127.0.0.1:")


class TestRefusing:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (["--strategy", "nonsense"], "unknown strategy"),
            (["--port", "x"], "--port"),
            (["--port", "70000"], "from 1 to 65535"),
            (["--port", "-1"], "from 1 to 65535"),
            (["--host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
            (["--host", ""], "--host"),
            (["--workers", "0"], "at least 1"),
            (["--workers", "2"], "cannot share :memory:"),
            (["--workers", "2", "--database", "x.db", "--seed", "1"], "--seed"),
            (["--config", "missing.toml"], "missing.toml"),
            (["--token-file", "missing"], "missing"),
            (["--database", "/proc/none/x.db"], "/proc/none"),
            (["--database", "."], "SQLite"),
            (["--database", "mysql://localhost/x"], "postgresql://"),
            (["--token", "t0ken"], "unknown: --token"),
            (["--nonsense"], "--nonsense"),
        ],
    )
    def test_what_cannot_be(self, options: list[str], text: str) -> None:
        """Exit code 2 and one line that names the trouble."""
        assert text in refused(*options)

    @pytest.mark.parametrize(
        "content",
        [
            "strategy = ",
            'strategy = "x"',
            "priority = 1",
            'nonsense = "x"',
            "[api_keys]\nkey = 1",
            "\xff",
            'login = ["other"]',
        ],
    )
    def test_a_config_that_makes_no_sense(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "idsync.toml").write_bytes(content.encode("latin-1"))
        refused("--config", "idsync.toml")

    def test_a_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert f"cannot listen on 127.0.0.1:{port}" in refused("--port", str(port))

    def test_a_database_that_does_not_answer(self) -> None:
        """In time, and without repeating the password."""
        url = "postgresql://user:s3cret@127.0.0.1:9/none?connect_timeout=2"
        for options in ([], ["--workers", "2"]):
            assert "s3cret" not in refused("--database", url, *options)

    @pytest.mark.parametrize(
        ("missing", "options", "extra"),
        [
            ("uvicorn", [], "server"),
            ("starlette", ["--host", "203.0.113.7"], "server"),
            ("psycopg", ["--port", "0", "--database", "postgresql://localhost/db"], "postgres"),
        ],
    )
    def test_a_missing_extra_is_named(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        missing: str,
        options: list[str],
        extra: str,
    ) -> None:
        """Whichever it is, in one line."""
        monkeypatch.delitem(sys.modules, "identity_session.idsync.postgres", raising=False)
        monkeypatch.setitem(sys.modules, missing, None)
        assert cli.main(["serve", *options]) == 2
        err = capsys.readouterr().err
        assert (f"identity_session[{extra}]" in err, err.count("\n")) == (True, 1)


class TestWorkers:
    TWO = ("--port", "0", "--workers", "2", "--database", "profiles.db")

    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_they_share_port_and_profiles_and_end_together(self, shared_database: str) -> None:
        """One line, several processes, one end."""
        with ServeProcess("--database", shared_database, "--workers", "3") as served:
            workers = children(served.process.pid)
            assert len(workers) >= 3
            mpids = {served.call("identify", {"customerid": "1"}).mpid for _ in range(30)}
            assert len(mpids) == 1
            assert len(served.emulator("GET", "calls").body["calls"]) == 30
            assert served.emulator("PUT", "faults", {"faults": []}).status == 409
            assert served.end() == (0, "", "")
            wait_until(lambda: not any(map(is_running, workers)))

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_a_lost_worker_ends_all(self, tmp_path: Path, number: int) -> None:
        """With a code that says so."""
        with ServeProcess("--database", str(tmp_path / "p.db"), "--workers", "2") as served:
            workers = [pid for pid in children(served.process.pid) if b"spawn_main" in command_line(pid)]
            os.kill(workers[0], number)
            served.process.communicate(timeout=PATIENCE_SECONDS)
            assert served.process.returncode == 1
            wait_until(lambda: not any(map(is_running, workers)))

    def test_a_killed_parent_takes_them_along(self, tmp_path: Path) -> None:
        with ServeProcess("--database", str(tmp_path / "p.db"), "--workers", "2") as served:
            workers = children(served.process.pid)
            served.process.kill()
            wait_until(lambda: not any(map(is_running, workers)))

    def test_a_signal_while_they_are_started_ends_all(self) -> None:
        """Even one that comes before the first is there to be told."""
        signalling = "if started == 1: os.kill(os.getpid(), signal.SIGTERM)"
        process = start_serve(*self.TWO, program=("-c", WHILE_STARTING % signalling))
        out, err = ended(process)
        assert (process.returncode, out, err) == (0, "", "")

    def test_one_that_cannot_be_started_ends_all(self) -> None:
        """It is said in one line, and those that were started do not stay."""
        failing = "if started == 2: raise BlockingIOError(11, 'no process can be started')"
        process = start_serve(*self.TWO, program=("-c", WHILE_STARTING % failing))
        out, err = ended(process)
        assert (process.returncode, out, err.count("\n")) == (2, "", 1)
        assert "no process can be started" in err

    def test_each_is_told_once(self) -> None:
        """A second signal would cut short what it does at its end."""
        process = start_serve(*self.TWO, program=("-c", TELLING))
        first_line(process)
        process.terminate()
        assert ended(process) == ("told 2 times\n", "")
        assert process.returncode == 0


TELLING = """
import sys, threading
from multiprocessing.context import SpawnProcess
from identity_session.cli import main

terminate, told = SpawnProcess.terminate, []

def telling(worker):
    told.append(worker)
    threading.Timer(0.5 * len(told), terminate, (worker,)).start()  # one goes on when the other has ended

SpawnProcess.terminate = telling
code = main()
print("told", len(told), "times")
sys.exit(code)
"""

WHILE_STARTING = """
import os, signal, sys
from multiprocessing.context import SpawnProcess
from identity_session.cli import main

start, started = SpawnProcess.start, 0

def starting(worker):
    global started
    started += 1
    %s
    start(worker)

SpawnProcess.start = starting
sys.exit(main())
"""


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """All that a process prints until it and its children have ended; it is killed if they do not."""
    try:
        return process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
        raise


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


class TestExplain:
    @pytest.fixture
    def client(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
        with serving(LocalIDSync(), Guard(token="t0ken")) as served:
            monkeypatch.setenv(f"{ENV}BASE_URL", served.url)
            monkeypatch.setenv(f"{ENV}TOKEN", "t0ken")
            yield served

    @pytest.fixture
    def run(self, capsys: pytest.CaptureFixture[str]) -> Any:
        def run(*argv: str) -> tuple[int, str, str]:
            code = cli.main(["explain", *argv])
            captured = capsys.readouterr()
            return code, captured.out, captured.err

        return run

    def test_the_last_call_or_another(self, client: Client, run: Any) -> None:
        """As text with a line for each reason, or as JSON."""
        mpid = client.call("login", {"customerid": "1"}).mpid
        client.call("search", {"customerid": "2"})
        code, out, err = run()
        assert (code, err) == (0, "")
        assert out.startswith("call 2  search  404  mpid none\n   1. ")
        first = run("--call", "1")[1]
        assert first.startswith(f"call 1  login  200  mpid {mpid}, created\n   1. ")
        told = json.loads(run("--call", "1", "--json")[1])
        assert (told["number"], told["endpoint"]) == (1, "login")
        assert [line.partition(". ")[2] for line in first.splitlines()[1:]] == told["reasons"]

    def test_a_call_that_is_not_there(self, client: Client, run: Any) -> None:
        assert run() == (1, "", "identity-session: no call was made yet; the service has 0\n")
        client.call("login", {"customerid": "1"})
        assert run("--call", "7") == (1, "", "identity-session: call 7 is not recorded; the service has 1\n")

    def test_the_token_is_needed(
        self, client: Client, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv(f"{ENV}TOKEN")
        code, _, err = run()
        assert (code, f"{ENV}TOKEN" in err, err.count("\n")) == (2, True, 1)
        (tmp_path / "token").write_text("t0ken")
        assert run("--token-file", str(tmp_path / "token"))[0] == 1

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:9/v1", "nonsense", "http://[", "ftp://127.0.0.1/v1", "http://127.0.0.1:x"]
    )
    def test_nobody_answers(self, run: Any, url: str) -> None:
        code, out, err = run("--base-url", url)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_nothing_of_the_server_is_loaded_by_other_commands() -> None:
    """A program that never serves pays for neither starlette nor uvicorn."""
    code = (
        "import sys; from identity_session import cli; cli.main(['demo'])\n"
        "sys.exit(bool({'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE_SECONDS).returncode == 0


def test_the_application_names_the_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LocalIDSync.app` is the only thing of the service that needs it."""
    monkeypatch.delitem(sys.modules, "identity_session.idsync.app")
    monkeypatch.setitem(sys.modules, "starlette.concurrency", None)
    with pytest.raises(ImportError, match=r"identity_session\[server\]"):
        _ = LocalIDSync().app
