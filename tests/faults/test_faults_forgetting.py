"""`logout(offline="forget")` amid trouble: cut short anywhere, the person is current as before or nobody is."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import async_leavers
import pytest
import storage_helpers
from leaving import (
    ANONYMOUS,
    CONTEXT,
    EMAIL,
    KEEPING,
    PERSON,
    Service,
    Slow,
    assert_not_on_disk,
    full,
    leave_the_person_on,
    person,
    requests,
    users_of,
    with_the_person,
)
from required import SLOW
from scripted import KEY, Clock, Scripted, ids, session, unreachable, user
from servers import FRONTS, HOLD, Driven, Peer, RawServer, http, opened, user_answer
from storage_helpers import (
    FaultyDisk,
    child,
    login,
    make_session,
    next_line,
    started,
    temporary_files,
    tree,
    workspace_of,
)

from identity_session import AsyncIdentitySession, JsonStorage, MemoryStorage
from identity_session.cli.printing import ENV
from identity_session.clock import monotonic, pause
from identity_session.testing.faults import killed_again_and_again

KILLS = 100 if SLOW else 20
STRIDE = 1 if SLOW else 7
"""From one operation of the disk at which a logout is stopped to the next."""
TURNS = 14
MOST_TURNS = 200
LIST, CONSENT = ["tea", "coffee"], {"gdpr": {"ads": {"consented": True}}}


# The network, the disk or the lock is in trouble


@FRONTS
@pytest.mark.parametrize("trouble", ["refused", "black hole", "503", "reset"])
def test_on_a_real_network_that_fails(front: str, trouble: str, tmp_path: Path) -> None:
    """A connection that is refused, or never answered, or reset, and a service in trouble."""
    leave_the_person_on(tmp_path)
    seen: list[Any] = []

    def look(peer: Peer) -> None:
        seen.append(make_session(tmp_path).mpid)

    steps = {"black hole": [look, HOLD], "503": [look, http(503)], "reset": [look, Peer.reset]}
    with RawServer(steps.get(trouble, [])) as server:
        url = server.url
        if trouble == "refused":
            with socket.create_server(("127.0.0.1", 0)) as closed:
                url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with opened(front, KEY, storage=tmp_path, base_url=url, timeout=1.5, retry=None) as own:
            before = own.session_id
            result = own.logout(offline="forget")
            assert result.http_code == (503 if trouble == "503" else -1)
            assert (own.mpid, result.get_user(), result.get_previous_user().mpid) == (None, None, PERSON)
            assert own.session_id not in (None, before)
    assert seen == ([] if trouble == "refused" else [None])  # gone before the service was asked
    assert make_session(tmp_path).mpid is None


@FRONTS
def test_what_cannot_be_saved_is_told_and_changes_and_sends_nothing(
    front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with with_the_person(front, 503, storage=tmp_path) as own:
        before, session_id = tree(tmp_path), own.session_id
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            result = own.logout(offline="forget", keep_user=False)
        assert result.http_code == -1
        assert result.body.startswith("the user could not be forgotten: ")
        assert (result.get_user().mpid, result.get_previous_user()) == (PERSON, None)
        assert (tree(tmp_path), own.session_id, len(requests(own))) == (before, session_id, 2)
        assert own.logout(offline="forget").http_code == 503
        assert own.mpid is None


@FRONTS
def test_a_lock_that_is_held_to_the_end_is_told_likewise(front: str, tmp_path: Path) -> None:
    leave_the_person_on(tmp_path)
    with child("hold", workspace_of(tmp_path)) as process:
        assert next_line(process) == "held"
        with opened(front, KEY, transport=Service(503), storage=tmp_path, timeout=0.3) as own:
            result = own.logout(offline="forget")
            assert (result.http_code, result.get_user().mpid, requests(own)) == (-1, PERSON, [])
            assert "lock" in result.body


# Cut short


# Stopped at each step in turn


class Stopping:
    """A storage that stops at the n-th write or deletion, as a killed process would."""

    recovered_from = None

    def __init__(self, storage: Any, stop_at: int) -> None:
        self._storage = storage
        self._left = stop_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def in_workspace(self, name: str) -> Stopping:
        return Stopping(self._storage.in_workspace(name), self._left)

    def lock(self, seconds: float) -> Any:
        return self._storage.lock(seconds)

    def read(self, name: str) -> Any:
        return self._storage.read(name)

    def names(self, folder: str) -> Any:
        return self._storage.names(folder)

    def clear(self) -> None: ...

    def write(self, name: str, content: Any) -> None:
        self._step()
        self._storage.write(name, content)

    def delete(self, name: str) -> None:
        self._step()
        self._storage.delete(name)

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


@KEEPING
@pytest.mark.parametrize("answer", [503, user("9")], ids=["not confirmed", "confirmed"])
def test_stopped_at_any_write_the_person_is_current_or_nobody(answer: Any, keep_user: bool) -> None:
    outcomes = []
    for stop_at in range(1, 20):
        memory, clock = MemoryStorage(), Clock()
        own = session(Scripted(user(ANONYMOUS), person()), memory, now_ms=clock)
        own.start()
        own.login(ids(email=EMAIL))
        clock.advance(seconds=1)
        stopped = session(Scripted(answer), Stopping(memory, stop_at), now_ms=clock)
        try:
            stopped.logout(offline="forget", keep_user=keep_user)
            outcomes.append("done")
            break
        except KeyboardInterrupt:
            outcomes.append(own.mpid)
        assert own.mpid in (PERSON, None)
        assert PERSON in users_of(own) or (own.mpid is None and not keep_user)
        assert own.login(ids(email=EMAIL)).http_code == 200
    assert outcomes[0] == PERSON
    assert outcomes.index(None) < outcomes.index("done")
    assert PERSON not in outcomes[outcomes.index(None) :]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the person is current, with all that can be remembered of them, and saved more than once."""
    path = tmp_path_factory.mktemp("stored") / "store"
    view = leave_the_person_on(path).current_user
    view.set_tag("vip")
    view.set_attribute_list("drinks", LIST)
    view.set_consent_state(CONSENT)
    return path


def assert_as_before(own: Driven, stored: Path) -> None:
    """The person is current, and all that is remembered of them is what was."""
    before = JsonStorage(workspace_of(stored)).read("state")
    after = JsonStorage(workspace_of(own.session.storage.path.parent)).read("state")
    assert after == before
    assert own.mpid == PERSON


def assert_left(own: Driven, path: Path, *, keep_user: bool, by: str | None) -> None:
    """Nothing of the person is left to be sent, and of the record all or nothing; then nothing of it is sent."""
    assert (own.mpid, own.context) == (by, "next" if by else None)
    assert users_of(own) == {ANONYMOUS} | ({PERSON} if keep_user else set()) | ({by} if by else set())
    if keep_user:
        kept = own.get_user(PERSON)
        assert (kept.identities, kept.attributes) == ({"email": EMAIL}, {"vip": None, "drinks": LIST})
        assert kept.consent_state == CONSENT
    assert own.start().http_code == (-3 if by else 200)
    assert (own.start_new_session() is None) == (by is None)
    own.login(ids(other="somebody"))
    own.modify(ids(customerid="1"))
    own.logout()
    assert len(requests(own)) >= 3
    sent = json.dumps(requests(own))
    assert [trace for trace in (PERSON, EMAIL, CONTEXT) if trace in sent] == []
    assert temporary_files(path) == []
    if not keep_user:
        assert_not_on_disk(path)


@pytest.mark.slow
@FRONTS
@KEEPING
@pytest.mark.parametrize("answer", [503, user("9", context="next"), unreachable()], ids=["503", "200", "unreachable"])
def test_stopped_at_any_operation_of_the_disk_the_person_is_as_before_or_gone(
    front: str, answer: Any, keep_user: bool, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a power cut. Whoever comes next finds the one or the other, and never sends what is the person's."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # nobody has to wait for the disk
    path, named = tmp_path / "store", "9" if isinstance(answer, dict) else None
    outcomes: list[str | None] = []
    disk = FaultyDisk(monkeypatch, path)
    for step in itertools.count(1, STRIDE):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(stored, path)
        service = Service(answer)
        with opened(front, KEY, storage=path, transport=service, retry=None) as own, disk.stopping(step):
            own.logout(offline="forget", keep_user=keep_user)
        with opened(front, KEY, storage=path, transport=Service(user("10")), retry=None) as again:
            outcomes.append(again.mpid)
            assert len(temporary_files(path)) <= 1
            if again.mpid == PERSON:
                assert service.requests == []  # whom the service is told of is gone already
                assert_as_before(again, stored)
                assert again.logout(offline="forget", keep_user=keep_user).http_code == 200
            else:
                assert_left(again, path, keep_user=keep_user, by=again.mpid)
            assert again.recovered_from is None
        if not disk.failed():
            break
    print(f"stopped at {len(outcomes) - 1} of {step} operations")
    assert step > 90
    assert [who for who, _ in itertools.groupby(outcomes)] == [PERSON, None, *([named] if named else [])]


@pytest.mark.parametrize(
    ("front", "code", "keep_user"),
    [("sync", errno.ENOSPC, True), ("async", errno.EIO, False), ("sync", errno.EMFILE, False)],
)
def test_whatever_fails_on_the_disk_the_result_tells_who_is_current(
    front: str, code: int, keep_user: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation on the disk fails in turn: the person is current and nothing was sent, or nobody is. And who
    hears that nothing was kept finds nothing on the disk."""
    disk = FaultyDisk(monkeypatch, tmp_path)
    with with_the_person(front, storage=tmp_path) as own:
        service = own.session._transport
        for step in range(1, 1000):
            service.answers = [person(), user(ANONYMOUS), person(), 503]
            for email in (EMAIL, None, EMAIL):  # who has been away once has a file of their own
                own.login(ids(email=email))
            sent = len(service.requests)
            with disk.failing(step, code):
                result = own.logout(offline="forget", keep_user=keep_user)
            where = f"step {step}: {disk.calls[-3:]}"
            not_forgotten = result.http_code == -1 and result.body.startswith("the user could not be forgotten")
            if not_forgotten:
                assert (own.mpid, len(service.requests)) == (PERSON, sent), where
                assert disk.failed(), where
            else:
                assert (own.mpid, result.get_previous_user() is not None) == (None, keep_user), where
                assert result.http_code == 503, where
                if not keep_user:
                    assert users_of(make_session(tmp_path)) == {ANONYMOUS}, where
                    assert_not_on_disk(tmp_path)
            assert make_session(tmp_path).mpid == own.mpid, where
            assert len(temporary_files(tmp_path)) <= 1, where
            if not disk.failed():
                break
        assert step > 60
        assert own.mpid is None


# Killed or cancelled at any moment


@pytest.mark.slow
@FRONTS
def test_killed_at_any_moment_the_person_is_current_or_nobody(
    front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of a process in which people log in and, while the service is in trouble, out again."""
    program = [async_leavers.__file__] if front == "async" else [storage_helpers.__file__, "logouts"]
    monkeypatch.setenv("PYTHONPATH", str(Path(storage_helpers.__file__).parent), prepend=os.pathsep)
    device_id = started(tmp_path).device_id
    known = {ANONYMOUS}
    found = []

    def command(kill: int) -> list[str]:
        return [sys.executable, *program, str(tmp_path), f"k{kill}-", "1000"]

    for run in killed_again_and_again(command, KILLS, lines=11, seconds=0.03, seed=11):
        assert run.was_killed, run.errors
        prefix = f"k{run.number}-"
        step, number = run.lines[-1].split()[0], int(run.lines[-1].split()[1])
        after = ANONYMOUS if number % 10 == 0 else None
        allowed = {f"{prefix}{number}", None, after} if step == "in" else {after, f"{prefix}{number + 1}"}
        again = make_session(tmp_path)
        assert again.mpid in allowed
        found.append(again.mpid)
        known |= {f"{prefix}{n}" for n in range(number + 1)}
        assert known <= users_of(again) <= known | {f"{prefix}{number + 1}"}
        known = users_of(again)
        assert (again.device_id, again.recovered_from) == (device_id, None)
        assert len(temporary_files(tmp_path)) <= 1
    assert {None} < set(found)
    assert login(started(tmp_path), "after").http_code == 200
    assert temporary_files(tmp_path) == []


def test_cancelled_anywhere_the_person_is_current_or_nobody(tmp_path: Path) -> None:
    """And the next call finds lock and call slot free."""

    async def work(turns: int) -> str | None:
        own = AsyncIdentitySession(
            KEY, storage=tmp_path / str(turns), transport=Service(user("1"), person(), user("3")), retry=None
        )
        await own.start()
        await own.login(ids(email=EMAIL))
        own._sender = Slow()
        task = asyncio.create_task(own.logout(offline="forget"))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        left = own.mpid
        assert left in (PERSON, None)
        assert {known.mpid for known in await own.get_users()} == {"1", PERSON}
        own._sender = own._transport
        assert (await own.login()).http_code == 200
        return left

    outcomes: set[str | None] = set()
    for turns in range(MOST_TURNS):
        outcomes.add(asyncio.run(work(turns)))
        if turns + 1 >= TURNS and len(outcomes) == 2:
            break
    assert outcomes == {PERSON, None}


def test_a_logout_that_is_cancelled_while_it_waits_has_forgotten_the_person() -> None:
    async def work() -> None:
        storage = MemoryStorage()
        async with AsyncIdentitySession(KEY, storage=storage, transport=Service(person())) as first:
            await first.login(ids(email=EMAIL))
        own = AsyncIdentitySession(KEY, storage=storage, transport=Service(user("9")))
        assert (await own.start()).http_code == -3
        slow = own._sender = Slow()
        task = asyncio.create_task(own.logout(offline="forget"))
        await slow.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert own.mpid is None
        own._sender = own._transport
        await own.start_new_session()
        assert own._transport.last["known_identities"].get("email") is None

    asyncio.run(work())


@pytest.mark.slow
def test_a_command_killed_at_any_moment_leaves_the_person_or_nobody(stored: Path, tmp_path: Path) -> None:
    """kill -9 of `identity-session logout --offline forget`, every other time as soon as it has begun to save."""
    chance = random.Random(11)
    found: Counter[str | None] = Counter()
    reply = b""

    def answer(peer: Peer) -> None:
        if peer.request():
            pause(0.01)
            peer.send(reply)

    with RawServer(answer) as server:
        settings = {"API_KEY": KEY, "BASE_URL": server.url, "STORAGE": str(tmp_path / "store")}
        environment = {**os.environ, **{f"{ENV}{name}": value for name, value in settings.items()}}
        program = [sys.executable, "-m", "identity_session", "logout", "--offline", "forget"]

        def run(keep_user: bool) -> subprocess.Popen[bytes]:
            shutil.rmtree(tmp_path / "store", ignore_errors=True)
            shutil.copytree(stored, tmp_path / "store")
            options = [] if keep_user else ["--forget-user"]
            return subprocess.Popen(
                [*program, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

        def killed(keep_user: bool, within_a_save: bool) -> None:
            with run(keep_user) as process:
                if within_a_save:
                    folder = workspace_of(tmp_path / "store")
                    before = folder.stat().st_mtime_ns
                    while folder.stat().st_mtime_ns == before and process.poll() is None:
                        pass
                    pause(chance.random() * 0.01)
                else:
                    pause(chance.random() * took * 1.1)
                process.kill()

        reply = http(503)
        began = monotonic()
        with run(keep_user=True) as process:
            assert process.wait() == 1
        took = monotonic() - began
        for kill in range(KILLS):
            reply = http(200, user_answer("9", context="next")) if kill % 4 > 1 else http(503)
            server.wait_for_quiet()
            keep_user, asked = chance.random() < 0.5, len(server.requests)
            killed(keep_user, within_a_save=bool(kill % 2))
            with opened("sync", KEY, storage=tmp_path / "store", transport=Service(user("10"))) as again:
                found[again.mpid] += 1
                assert again.recovered_from is None
                if again.mpid == PERSON:
                    assert len(server.requests) == asked
                    assert_as_before(again, stored)
                else:
                    assert again.mpid in (None, "9") if kill % 4 > 1 else again.mpid is None
                    assert_left(again, tmp_path / "store", keep_user=keep_user, by=again.mpid)
    print(f"{KILLS} kills left", dict(found))
    assert {PERSON, None} <= set(found)
