"""`logout(offline="forget")`: on a device that many people use, the next person is never taken for the last one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
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
from scripted import KEY, Clock, ids, lost, unreachable, user
from servers import FRONTS, Peer, RawServer, http, opened, user_answer
from storage_helpers import child, make_session, tree, workspace_of

from identity_session import AsyncIdentitySession, MemoryStorage, RetryPolicy, StorageError
from identity_session.exchange import HTTPRequest

NOT_CONFIRMED = [503, 429, 400, 404, (202, user("5")), (200, "<html>"), (200, {}), (301, ""), lost(), unreachable()]


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
