"""`logout(offline="forget")`: on a device that many people use, the next person is never taken for the last one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import KEY, Clock, Scripted, ids, lost, session, unreachable, user
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

from identity_session import (
    AsyncIdentitySession,
    IdentitySession,
    JsonStorage,
    MemoryStorage,
    RetryPolicy,
    StorageError,
)
from identity_session.exchange import HTTPAnswer, HTTPRequest

PERSON, EMAIL, CONTEXT = "7000111222333444555", "h.jekyll@example.com", "context of the person"
ANONYMOUS = "100"
KILLS = 20
KEEPING = pytest.mark.parametrize("keep_user", [True, False], ids=["keeping the record", "keeping nothing"])
NOT_CONFIRMED = [503, 429, 400, 404, (202, user("5")), (200, "<html>"), (200, {}), (301, ""), lost(), unreachable()]


class Service(Scripted):
    """A scripted service for both fronts."""

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return self.send(request, seconds)

    async def aclose(self) -> None: ...


def person(**fields: Any) -> dict[str, Any]:
    """The answer that makes the person current."""
    return user(PERSON, context=CONTEXT, is_logged_in=True, **fields)


@contextlib.contextmanager
def with_the_person(front: str, *answers: Any, **settings: Any) -> Iterator[Driven]:
    """A session whose current user is the person, and then these answers."""
    service = Service(user(ANONYMOUS), person(), *answers)
    with opened(front, KEY, transport=service, **{"retry": None, **settings}) as own:
        own.start()
        own.login(ids(email=EMAIL))
        yield own


def leave_the_person_on(path: Path) -> IdentitySession:
    """State on disk in which the person is current, in a live session."""
    own = session(Scripted(user(ANONYMOUS), person()), JsonStorage(path))
    own.start()
    own.login(ids(email=EMAIL))
    return own


def requests(own: Driven) -> list[tuple[str, dict[str, Any]]]:
    return own.session._transport.requests


def users_of(own: Any) -> set[str]:
    return {known.mpid for known in own.get_users()}


def assert_not_on_disk(path: Path) -> None:
    """No file says anything about the person."""
    for name, content in tree(path).items():
        for trace in (PERSON, EMAIL, CONTEXT):
            assert trace.encode() not in content, name


def full(*_: Any) -> None:
    """What a full disk says."""
    raise OSError(errno.ENOSPC, "No space left on device")


# The service answers with 200


@FRONTS
@pytest.mark.parametrize(
    "answer",
    [user("9", context="next"), user("9"), user("9", is_logged_in=True), user(ANONYMOUS)],
    ids=["context", "no context", "logged in", "known"],
)
@pytest.mark.parametrize("request_", [None, ids(other="kiosk")], ids=["nobody", "a kiosk"])
def test_a_logout_that_is_confirmed_is_like_any_other(front: str, answer: Any, request_: Any) -> None:
    """State, request, result, listeners and callback are those of a logout that keeps the user offline."""
    seen = []
    for offline in ("keep", "forget"):
        storage, clock, told = MemoryStorage(), Clock(), []
        settings = {"storage": storage, "now_ms": clock, "new_id": lambda: "id"}
        with with_the_person(front, answer, **settings) as own:
            clock.advance(minutes=1)
            own.on_user_identified(lambda new, old, told=told: told.append((new.mpid, old.mpid)))
            result = own.logout(request_, lambda result, told=told: told.append(result.http_code), offline=offline)
            stored = own.session.storage
            files = {name: stored.read(name) for name in ("state", "device", *stored.names("users"))}
            seen.append((files, requests(own)[-1], result.body, own.session_id, told, users_of(own)))
            assert told == [(answer["mpid"], PERSON), 200]
            assert (result.get_user().mpid, result.get_previous_user().mpid) == (answer["mpid"], PERSON)
    assert seen[0] == seen[1]


@FRONTS
def test_a_record_that_is_not_kept_is_gone_although_the_logout_is_confirmed(front: str, tmp_path: Path) -> None:
    with with_the_person(front, person(), user("9"), storage=tmp_path) as own:
        own.login(ids(email=EMAIL))
        before = own.session_id
        result = own.logout(offline="forget", keep_user=False)
        assert (result.http_code, result.get_user().mpid, result.get_previous_user()) == (200, "9", None)
        assert (own.session_id, users_of(own)) == (before, {"9", ANONYMOUS})


@FRONTS
@KEEPING
def test_a_user_whom_the_service_names_again_is_current_again(front: str, keep_user: bool) -> None:
    with with_the_person(front, person()) as own:
        result = own.logout(offline="forget", keep_user=keep_user)
        assert (result.get_user().mpid, result.get_previous_user(), own.mpid) == (PERSON, None, PERSON)
        assert own.current_user.identities == {}


# It does not


@FRONTS
@KEEPING
@pytest.mark.parametrize("answer", NOT_CONFIRMED, ids=str)
def test_without_a_200_nobody_is_current_and_another_session_begins(
    front: str, answer: Any, keep_user: bool, tmp_path: Path
) -> None:
    told: list[Any] = []
    with with_the_person(front, answer, storage=tmp_path) as own:
        before, device_id = own.session_id, own.device_id
        own.on_user_identified(lambda *_: pytest.fail("nobody was identified"))
        result = own.logout(None, told.append, offline="forget", keep_user=keep_user)
        expected = answer if isinstance(answer, int) else answer[0] if isinstance(answer, tuple) else -1
        assert result.http_code == (-1 if expected == 200 else expected)
        assert told == [result]
        assert result.get_user() is None
        previous = result.get_previous_user()
        assert (previous and (previous.mpid, previous.identities)) == (
            (PERSON, {"email": EMAIL}) if keep_user else None
        )
        assert (own.mpid, own.current_user, own.context) == (None, None, None)
        assert own.session_id not in (None, before)
        assert own.device_id == device_id
        assert users_of(own) == ({ANONYMOUS, PERSON} if keep_user else {ANONYMOUS})
        sent = requests(own)[-1][1]
        assert (sent["previous_mpid"], sent["context"]) == (PERSON, CONTEXT)
    again = make_session(tmp_path)
    assert (again.mpid, again.device_id) == (None, device_id)
    if not keep_user:
        assert_not_on_disk(tmp_path)


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
def test_on_a_real_network_that_works(front: str, tmp_path: Path) -> None:
    leave_the_person_on(tmp_path)
    with (
        RawServer([http(200, user_answer("9"))]) as server,
        opened(front, KEY, storage=tmp_path, base_url=server.url) as own,
    ):
        before = own.session_id
        result = own.logout(offline="forget")
        assert (result.http_code, own.mpid, own.session_id) == (200, "9", before)
        assert server.requests[0].json["previous_mpid"] == PERSON


@FRONTS
def test_a_throttled_logout_is_repeated_and_the_answer_counts(front: str) -> None:
    with with_the_person(front, 429, unreachable(), user("9"), retry=RetryPolicy(initial_seconds=0.001)) as own:
        assert own.logout(offline="forget").http_code == 200
        assert [path for path, _ in requests(own)[2:]] == ["/v1/logout"] * 3
        assert own.mpid == "9"


# Nothing is tried, or nothing can be saved


@FRONTS
@KEEPING
def test_an_invalid_request_changes_nothing(front: str, keep_user: bool, tmp_path: Path) -> None:
    with with_the_person(front, storage=tmp_path) as own:
        before = tree(tmp_path)
        result = own.logout({"userIdentities": 5}, offline="forget", keep_user=keep_user)
        assert (result.http_code, result.get_user().mpid, result.get_previous_user()) == (-4, PERSON, None)
        assert (tree(tmp_path), len(requests(own))) == (before, 2)


@KEEPING
def test_while_another_call_is_in_flight_it_changes_nothing(keep_user: bool, tmp_path: Path) -> None:
    refused: list[Any] = []

    def meanwhile(request: HTTPRequest) -> Any:
        before = tree(tmp_path)
        refused.append(own.logout(offline="forget", keep_user=keep_user))
        assert tree(tmp_path) == before
        return person()

    with with_the_person("sync", meanwhile, storage=tmp_path) as own:
        own.login(ids(email=EMAIL))
        assert [(result.http_code, result.get_user().mpid) for result in refused] == [(-2, PERSON)]
        assert (own.mpid, len(requests(own))) == (PERSON, 3)


def test_while_another_task_makes_a_call_it_changes_nothing() -> None:
    async def work() -> None:
        async with AsyncIdentitySession(KEY, storage=MemoryStorage(), transport=Service(person())) as own:
            slow = own._sender = Slow()
            task = asyncio.create_task(own.login())
            await slow.asked.wait()
            result = await own.logout(offline="forget")
            assert (result.http_code, result.get_user().mpid, own.mpid) == (-2, PERSON, PERSON)
            task.cancel()

    asyncio.run(work())


@FRONTS
@KEEPING
@pytest.mark.parametrize("live", [True, False])
def test_while_opted_out_the_person_leaves_all_the_same(
    front: str, keep_user: bool, live: bool, tmp_path: Path
) -> None:
    """Nothing is sent, the session ends since no other may begin, and nobody opted in."""
    with with_the_person(front, storage=tmp_path) as own:
        own.set_opt_out(True)
        if not live:
            own.end_session()
        result = own.logout(offline="forget", keep_user=keep_user)
        previous = result.get_previous_user()
        assert (result.http_code, result.get_user(), previous and previous.mpid) == (
            -6,
            None,
            PERSON if keep_user else None,
        )
        assert (own.mpid, own.context, own.session_id, own.opted_out) == (None, None, None, True)
        assert len(requests(own)) == 2
    if not keep_user:
        assert_not_on_disk(tmp_path)


@FRONTS
def test_without_an_api_key_the_person_leaves_all_the_same(front: str) -> None:
    storage = MemoryStorage()
    with with_the_person(front, storage=storage, workspace_token="shop"):
        pass
    with opened(front, "", storage=storage, workspace_token="shop") as own:
        assert own.mpid == PERSON
        assert own.logout(offline="forget").http_code == -6
        assert (own.mpid, own.session_id) == (None, None)


@FRONTS
def test_with_nobody_current_it_is_a_logout_like_any_other(front: str) -> None:
    with opened(front, KEY, transport=Service(503, 503, user("9")), retry=None) as own:
        own.start()
        before = own.session_id
        assert own.logout(offline="forget").http_code == 503
        assert (own.mpid, own.session_id) == (None, before)
        assert own.logout(offline="forget", keep_user=False).get_user().mpid == "9"
        own.set_opt_out(True)


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


@FRONTS
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"offline": "Forget"}, ValueError, "offline must be 'keep' or 'forget'"),
        ({"offline": None}, ValueError, "offline must be"),
        ({"offline": ["forget"]}, ValueError, "offline must be"),
        ({"offline": True}, ValueError, "offline must be"),
        ({"offline": "forget", "keep_user": 0}, TypeError, "keep_user must be a bool, not int"),
        ({"offline": "forget", "keep_user": None}, TypeError, "keep_user must be a bool, not NoneType"),
        ({"keep_user": False}, ValueError, "keep_user=False needs offline='forget'"),
        ({"offline": "forget", "callback": 5}, TypeError, "callback must be callable"),
    ],
)
def test_a_mistake_raises_before_anything_happens(
    front: str, options: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with with_the_person(front, storage=tmp_path) as own:
        before = tree(tmp_path)
        with pytest.raises(error, match=words):
            own.logout(**options)
        assert (tree(tmp_path), len(requests(own))) == (before, 2)


# Who left does not come back


@FRONTS
@pytest.mark.parametrize("configured", [None, ids(email=EMAIL)], ids=["stored", "configured"])
@pytest.mark.parametrize("answer", [503, user("9")], ids=["not confirmed", "confirmed"])
def test_the_next_session_does_not_identify_with_the_identities_of_who_left(
    front: str, configured: Any, answer: Any
) -> None:
    """A start that resumed quietly leaves an identify open, which the next session makes."""
    storage = MemoryStorage()
    with with_the_person(front, storage=storage):
        pass
    settings = {"storage": storage, "identify_request": configured, "retry": None}
    with opened(front, KEY, transport=Service(answer, user("10")), **settings) as own:
        assert own.start().http_code == -3
        own.logout(offline="forget")
        assert own.start_new_session().http_code == 200
        path, sent = requests(own)[-1]
        assert path == "/v1/identify"
        assert "email" not in sent["known_identities"]
        assert own.mpid == "10"


@FRONTS
def test_the_identify_that_is_open_keeps_its_identities_when_the_user_could_not_be_forgotten(
    front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends what is configured, which is less than what is stored."""
    leave_the_person_on(tmp_path).login(ids(other="more"))
    configured = ids(email=EMAIL)
    with opened(front, KEY, transport=Service(person()), storage=tmp_path, identify_request=configured) as own:
        assert own.start().http_code == -3
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            assert own.logout(offline="forget").http_code == -1
        own.start_new_session()
        sent = requests(own)[-1][1]["known_identities"]
        assert (sent["email"], "other" in sent) == (EMAIL, False)


@FRONTS
def test_remembered_answers_go_too(front: str) -> None:
    answered = (200, person(), {"x-mp-max-age": "3600"})
    with with_the_person(front, answered, 503, answered, cache_identity=True) as own:
        own.login(ids(email=EMAIL))
        own.logout(offline="forget")
        assert own.session.storage.read("state")["answers"] == {}
        own.login(ids(email=EMAIL))
        assert [path for path, _ in requests(own)[2:]] == ["/v1/login", "/v1/logout", "/v1/login"]


@FRONTS
@KEEPING
def test_damage_to_the_state_does_not_bring_the_person_back(front: str, keep_user: bool, tmp_path: Path) -> None:
    """The generation before, which is used then, is one without the person as well."""
    with with_the_person(front, storage=tmp_path) as own:
        own.set_opt_out(True)
        own.logout(offline="forget", keep_user=keep_user)
        (workspace_of(tmp_path) / "state.json").write_bytes(b"junk")
        assert own.mpid is None
    assert make_session(tmp_path).mpid is None


class Unreadable(MemoryStorage):
    """A storage that can be broken for good, by hand or by the save that leaves nobody current."""

    broken = False
    breaks_itself = False

    def in_workspace(self, name: str) -> Unreadable:
        return self

    def read(self, name: str) -> Any:
        if self.broken:
            raise StorageError("no longer there")
        return super().read(name)

    def write(self, name: str, content: Any) -> None:
        super().write(name, content)
        self.broken = self.breaks_itself and name == "state" and content["user"] is None


@FRONTS
def test_state_that_cannot_be_read_any_more_does_not_bring_the_person_back(front: str) -> None:
    """What was seen last is shown then, and that is nobody."""
    storage = Unreadable()
    with with_the_person(front, storage=storage) as own:
        own.set_opt_out(True)
        storage.breaks_itself = True
        result = own.logout(offline="forget")
        assert storage.broken
        assert (result.http_code, result.get_user(), own.mpid) == (-6, None, None)


@FRONTS
def test_state_that_cannot_be_read_before_is_told_and_the_person_is_shown_still(front: str) -> None:
    storage = Unreadable()
    with with_the_person(front, storage=storage) as own:
        storage.broken = True
        result = own.logout(offline="forget")
        assert (result.http_code, result.body) == (-1, "the user could not be forgotten: no longer there")
        assert own.mpid == PERSON


@FRONTS
def test_a_view_of_the_person_shows_what_is_kept_and_cannot_bring_them_back(front: str) -> None:
    with with_the_person(front, 503) as own:
        view = own.current_user
        own.logout(offline="forget", keep_user=False)
        if front == "sync":
            view.set_attribute("a", 1)
        else:
            own._run(view.set_attribute("a", 1))
        assert (view.identities, view.attributes, own.get_user(PERSON)) == ({}, {}, None)


@FRONTS
@pytest.mark.parametrize("keep", [True, False], ids=["keeping ephemeral users", "forgetting ephemeral users"])
def test_an_ephemeral_user_is_forgotten_if_so_configured(front: str, keep: bool) -> None:
    service = Service(person(is_ephemeral=True), 503)
    with opened(front, KEY, transport=service, retry=None, keep_ephemeral_users=keep) as own:
        own.start()
        previous = own.logout(offline="forget").get_previous_user()
        assert (own.mpid, users_of(own), previous is not None) == (None, {PERSON} if keep else set(), keep)


@FRONTS
@pytest.mark.parametrize("max_users", [1, 2, 3])
@pytest.mark.parametrize("answer", [503, user("9")], ids=["not confirmed", "confirmed"])
def test_no_more_than_max_users_are_kept(front: str, max_users: int, answer: Any) -> None:
    clock = Clock()
    with with_the_person(front, answer, max_users=max_users, now_ms=clock) as own:
        clock.advance(seconds=1)
        own.logout(offline="forget")
        left = {1: set(), 2: {PERSON}, 3: {PERSON, ANONYMOUS}}[max_users]
        assert users_of(own) == left | ({"9"} if isinstance(answer, dict) else set())


# Others on the same state


@FRONTS
def test_whom_another_process_makes_current_meanwhile_stays(front: str, tmp_path: Path) -> None:
    """Another process logs somebody in while the logout waits for its answer."""
    leave_the_person_on(tmp_path)

    def log_in(peer: Peer) -> None:
        with child("logins", tmp_path, "other-", 1) as process:
            assert process.wait() == 0

    with (
        RawServer([log_in, http(503)]) as server,
        opened(front, KEY, storage=tmp_path, base_url=server.url, retry=None, timeout=20) as own,
    ):
        before = own.session_id
        result = own.logout(offline="forget")
        assert (result.http_code, result.get_user().mpid, result.get_previous_user().mpid) == (503, "other-0", PERSON)
        assert (own.mpid, own.session_id) == ("other-0", before)
        assert users_of(own) == {"other-0", ANONYMOUS, PERSON}


# Cut short


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


@pytest.mark.parametrize(
    ("front", "code", "keep_user"),
    [("sync", errno.ENOSPC, True), ("async", errno.EIO, False), ("sync", errno.EMFILE, False)],
)
def test_whatever_fails_on_the_disk_the_result_tells_who_is_current(
    front: str, code: int, keep_user: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation on the disk fails in turn: the person is current and nothing was sent, or nobody is."""
    disk = FaultyDisk(monkeypatch, tmp_path)
    with with_the_person(front, storage=tmp_path) as own:
        service = own.session._transport
        for step in range(1, 1000):
            service.answers = [person(), 503]
            own.login(ids(email=EMAIL))
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
            assert make_session(tmp_path).mpid == own.mpid, where
            assert len(temporary_files(tmp_path)) <= 1, where
            if not disk.failed():
                break
        assert step > 60
        assert own.mpid is None


def test_killed_at_any_moment_the_person_is_current_or_nobody(tmp_path: Path) -> None:
    """kill -9 of a process in which people log in and, while the service is in trouble, out again."""
    chance = random.Random(11)
    device_id = started(tmp_path).device_id
    known = {ANONYMOUS}
    found = []
    for kill in range(KILLS):
        prefix = f"k{kill}-"
        with child("logouts", tmp_path, prefix, 1000) as process:
            lines = [next_line(process) for _ in range(chance.randrange(1, 12))]
            time.sleep(chance.random() * 0.03)
            process.kill()
            assert process.stdout is not None
            lines += [line for line in process.stdout.read().split("\n") if line.count(" ") >= 1]
        step, number = lines[-1].split()[0], int(lines[-1].split()[1])
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
    assert None in found
    assert login(started(tmp_path), "after").http_code == 200
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize("turns", range(14))
def test_cancelled_anywhere_the_person_is_current_or_nobody(turns: int, tmp_path: Path) -> None:
    """And the next call finds lock and call slot free."""

    async def work() -> None:
        own = AsyncIdentitySession(KEY, storage=tmp_path, transport=Service(user("1"), person(), user("3")), retry=None)
        await own.start()
        await own.login(ids(email=EMAIL))
        own._sender = Slow()
        task = asyncio.create_task(own.logout(offline="forget"))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert own.mpid in (PERSON, None)
        assert {known.mpid for known in await own.get_users()} == {"1", PERSON}
        own._sender = own._transport
        assert (await own.login()).http_code == 200

    asyncio.run(work())


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


class Slow:
    """Answers with 503 after a moment; says when it was asked."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        self.asked.set()
        await asyncio.sleep(0.005)
        return HTTPAnswer(503, {}, b"")

    async def aclose(self) -> None: ...
