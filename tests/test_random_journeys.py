"""Whatever is called in whatever order, answered in whatever way, saved or not: both fronts do what the rules say.

A machine makes random journeys on a session and on a small model of the rules (`model.py`), and compares the two after
each step. IDENTITY_SESSION_TEST_SLOW=1 makes longer and many more of them, IDENTITY_SESSION_TEST_NEW_EXAMPLES=1 makes
other ones every time; the steps of one that fails are printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import BUSY, INVALID, NO_ANSWER, SHUT, Answer, Model, cleaned
from required import SLOW
from scripted import Clock
from servers import FRONTS, Driven

from identity_session import (
    AliasRequest,
    AsyncIdentitySession,
    IdentityRequest,
    IdentitySession,
    JsonStorage,
    MemoryStorage,
    RetryPolicy,
    Storage,
    StorageError,
)
from identity_session.clock import from_ms, to_ms
from identity_session.exchange import HTTPAnswer, HTTPRequest, SendError

MINUTE = 60_000
TIMEOUT_MS = 30 * MINUTE
EXAMPLES = {"memory sync": 300, "memory async": 80, "json sync": 11, "json async": 11}  # threads and disks take time

VALUES = st.sampled_from(["a", "b", None, ""])
IDENTITIES = st.none() | st.dictionaries(st.sampled_from(["email", "customerid", "other", "email_sha256"]), VALUES)
MPIDS = st.sampled_from(["1", "2", "3", -4, 2**63 + 1])
ABSENT = object()
BODIES = st.fixed_dictionaries(
    {
        "mpid": MPIDS,
        "context": st.sampled_from(["first", "second", "third", "", None, 5, ABSENT]),
        "is_logged_in": st.sampled_from([True, False, True, False, "true", ABSENT]),
        "is_ephemeral": st.sampled_from([True, False, True, 1, ABSENT]),
        "matched_identities": st.just({"email": "never stored"}),
    }
).map(lambda body: {name: value for name, value in body.items() if value is not ABSENT})
SUCCESSES = BODIES.map(lambda body: Answer(200, body))
FAILURES = st.builds(
    Answer, st.sampled_from([202, 204, 301, 400, 401, 403, 404, 429, 500, 503]), BODIES | st.just("")
) | st.builds(Answer, st.just(200), st.sampled_from(["", "null", "[]", "5", "<html>", {}, {"mpid": 0}]))
LOST = st.builds(Answer, st.none(), st.none(), st.booleans())
NAMELESS = BODIES.map(lambda body: Answer(200, {name: body[name] for name in body if name != "mpid"}))


def often(usual: st.SearchStrategy[Any], *others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The usual thing seven times in ten, else one of the others."""
    return st.integers(0, 9).flatmap(lambda n: usual if n < 7 else others[(n - 7) % len(others)])


ANSWERS = often(SUCCESSES, NAMELESS, FAILURES, LOST)
INVALID_REQUESTS: tuple[Any, ...] = (
    5,
    {"userIdentities": {"shoe_size": "42"}},
    {"userIdentities": {"email": 5}},
    {"email": "a"},
    {"userIdentities": []},
    IdentityRequest({"email": "\ud800"}),
)
FAR = (TIMEOUT_MS - 1, TIMEOUT_MS, TIMEOUT_MS + 1, 24 * 60 * MINUTE)
MOVES = often(st.sampled_from([0, 1, 1000, 10 * MINUTE, -1, -MINUTE]), st.sampled_from([*FAR, *(-far for far in FAR)]))
TROUBLES = often(st.just((0, False)), st.sampled_from([(1, False), (2, False), (3, False), (1, True)]))
"""Which save of a step fails, counted from 1, and whether it is for the lock."""
LATE_TROUBLES = often(TROUBLES, st.sampled_from([(4, False), (5, False), (2, True), (3, True)]))
ATTRIBUTES = st.sampled_from(["plan", "PLAN", "visits"])
SCALARS = st.sampled_from([1, True, None, "", "a"])


class Fuse:
    """Makes one step of what a storage is asked to do fail."""

    def __init__(self) -> None:
        self.set(0, False)

    def set(self, step: int, for_lock: bool) -> None:
        """The lock cannot be taken this time, or else the disk is full at this write or removal; 0 is never."""
        self.at, self.for_lock, self._steps, self.blown = step, for_lock, 0, False

    def step(self, *, is_lock: bool) -> None:
        if is_lock == self.for_lock:
            self._steps += 1
            if self._steps == self.at:
                self.blown = True
                raise StorageError("the fuse")


class Fused:
    """A storage behind a fuse."""

    def __init__(self, storage: Storage, fuse: Fuse) -> None:
        self._storage = storage
        self._fuse = fuse
        self.recovered_from = None
        self.read, self.names, self.clear = storage.read, storage.names, storage.clear

    def in_workspace(self, name: str) -> Fused:
        return Fused(self._storage.in_workspace(name), self._fuse)

    @contextlib.contextmanager
    def lock(self, seconds: float) -> Iterator[None]:
        self._fuse.step(is_lock=True)
        with self._storage.lock(seconds):
            yield

    def write(self, name: str, content: Any) -> None:
        self._fuse.step(is_lock=False)
        self._storage.write(name, content)

    def delete(self, name: str) -> None:
        self._fuse.step(is_lock=False)
        self._storage.delete(name)


class Service:
    """Gives one answer until it is given another one, notes what was asked, and does something else meanwhile."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.meanwhile: Callable[[], Any] | None = None

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        if self.meanwhile:
            self.meanwhile()
        return self._answered(request)

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        done = self.meanwhile() if self.meanwhile else None
        if hasattr(done, "__await__"):
            await done
        return self._answered(request)

    def _answered(self, request: HTTPRequest) -> HTTPAnswer:
        self.asked.append((request.target, json.loads(request.body)))
        if self.answer.status is None:
            raise SendError("the service's", sent=self.answer.sent)
        body = self.answer.body
        return HTTPAnswer(self.answer.status, {}, (body if isinstance(body, str) else json.dumps(body)).encode())

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def step(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule of the machine. The clock may move before it, forward or back, and a save in it may fail."""
    arguments.setdefault("trouble", TROUBLES)

    def decorate(function: Callable[..., None]) -> Any:
        def run(self: Journeys, move_ms: int, trouble: tuple[int, bool], **values: Any) -> None:
            self.clock.now_ms += move_ms
            self.fuse.set(*trouble)
            function(self, **values)

        run.__name__ = function.__name__
        return rule(move_ms=MOVES, **arguments)(run)

    return decorate


class Journeys(RuleBasedStateMachine):
    """Random journeys on one front and one kind of storage."""

    def __init__(self, front: str, kind: str) -> None:
        super().__init__()
        self.front, self.kind = front, kind
        self.stack = contextlib.ExitStack()
        self.runner = self.stack.enter_context(asyncio.Runner()) if front == "async" else None
        if kind == "json":
            self.path = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.memory = MemoryStorage()
        self.fuse = Fuse()
        self.clock = Clock()
        self.service = Service()
        self.device: str | None = None
        self.former_devices: set[str | None] = set()
        self.session_ids: dict[int, str] = {}
        self.heard: list[Any] = []

    def teardown(self) -> None:
        if self.model.started:
            self.session.close()
        self.stack.close()

    # Processes

    @initialize(timeout=st.sampled_from([0, TIMEOUT_MS]), keep_ephemeral=st.booleans(), answer=ANSWERS)
    def first_process(self, timeout: int, keep_ephemeral: bool, answer: Answer) -> None:
        self.model = Model(timeout, keep_ephemeral)
        self.open({}, retries=True)
        self.check_start(answer)

    @step(
        configured=often(IDENTITIES, st.sampled_from(INVALID_REQUESTS)),
        retries=often(st.just(True), st.just(False)),
        orderly=st.booleans(),
        answer=st.none() | ANSWERS,
    )
    def another_process(self, configured: Any, retries: bool, orderly: bool, answer: Answer | None) -> None:
        """After an orderly end, or as after a kill: what was not saved is gone, what was is there. It may start."""
        if orderly:
            now_ms, saved = self.clock.now_ms, not self.failing(self.session.close)
            if self.model.started and saved and not self.fuse.blown:
                self.model.session = self.model.live(now_ms)
            with pytest.raises(RuntimeError):
                self.session.login()
        self.open(configured, retries)
        if answer is not None:
            self.fuse.set(0, False)
            self.check_start(answer)

    def open(self, configured: Any, retries: bool) -> None:
        self.configured = configured
        valid = not is_invalid(configured)
        self.clean_configured = cleaned(configured) if valid else None
        self.model.begin_process(self.clean_configured)
        self.retries = retries
        self.session = self.made(
            identify_request={"userIdentities": configured} if valid and configured is not None else configured,
            identity_callback=self.heard_by("configured callback"),
            retry=RetryPolicy(attempts=3, initial_seconds=0) if retries else None,
        )
        self.session.on_user_identified(self.listener)

    def made(self, **arguments: Any) -> Driven:
        storage: Storage = JsonStorage(self.path) if self.kind == "json" else self.memory
        arguments |= {
            "storage": Fused(storage, self.fuse),
            "transport": self.service,
            "now_ms": self.clock,
            "session_timeout": timedelta(milliseconds=self.model.timeout_ms),
            "keep_ephemeral_users": self.model.keep_ephemeral,
        }
        if self.runner is None:
            return Driven(IdentitySession("key", **arguments), lambda answer: answer)
        return Driven(AsyncIdentitySession("key", **arguments), self.waited_for)

    def waited_for(self, answer: Any) -> Any:
        async def wait() -> Any:
            return await answer

        assert self.runner is not None
        return self.runner.run(wait())

    def done(self, answer: Any) -> Any:
        return answer if self.runner is None else self.waited_for(answer)

    # Trouble

    def failing(self, function: Callable[..., Any], *arguments: Any) -> StorageError | None:
        """The StorageError that this call raises, if it raises one; the fuse counts for one call."""
        try:
            self.done_or_plain(function(*arguments))
        except StorageError as error:
            assert self.fuse.blown
            return error
        return None

    def done_or_plain(self, answer: Any) -> Any:
        return self.done(answer) if hasattr(answer, "__await__") else answer

    # Who hears what

    def heard_by(self, name: str, *, fails: bool = False) -> Callable[[Any], None]:
        def callback(result: Any) -> None:
            self.heard.append((name, result))
            if fails:
                raise ValueError("the callback's own trouble")

        return callback

    def listener(self, user: Any, previous: Any) -> None:
        self.heard.append(("listener", user.mpid, previous and previous.mpid))

    def check_heard(self, name: str, result: Any, previous: str | None) -> None:
        """Listeners first and only of a 200, then the callback; each once."""
        told = [("listener", self.model.current, previous)] if result.http_code == 200 else []
        assert self.heard == [*told, (name, result)]
        self.heard.clear()

    # Start

    @step(answer=ANSWERS)
    def start(self, answer: Answer) -> None:
        self.check_start(answer)

    def check_start(self, answer: Answer) -> None:
        self.service.answer = answer
        now_ms, before = self.clock.now_ms, copy.deepcopy(self.model)
        code = self.model.on_opening(self.clean_configured, now_ms)
        try:
            result = self.session.start()
        except StorageError:
            assert (self.fuse.blown, self.service.asked, self.heard) == (True, [], [])
            before.started = True
            before.identified = before.identified or self.clean_configured is None
            before.configured, before.on_start = self.clean_configured, None
            self.model = before
            return
        self.check_automatic(result, code, answer)

    @step(answer=ANSWERS)
    def start_new_session(self, answer: Answer) -> None:
        self.check_new_session(answer)

    def check_new_session(self, answer: Answer) -> None:
        """It identifies, if no start has done so, and there need not have been one."""
        self.service.answer = answer
        before = copy.deepcopy(self.model)
        self.model.begin(self.clock.now_ms)
        due = not self.model.identified and not self.model.opted_out
        result = self.session.start_new_session()
        if self.fuse.blown and not self.service.asked:
            self.model = before
            assert (result.http_code, self.heard) == (NO_ANSWER, [("configured callback", result)])
            self.heard.clear()
        elif due:
            self.model.identified = True
            self.check_automatic(result, INVALID if self.model.configured is None else None, answer)
        else:
            assert result is None

    def check_automatic(self, result: Any, code: int | None, answer: Answer) -> None:
        previous = None
        if code is None:
            code, previous = self.expected("identify", self.model.look(), answer)
        self.check_result(result, code, previous)
        self.check_heard("configured callback", result, previous)

    # Calls

    @step(
        call=st.sampled_from(["identify", "login", "logout", "modify"]),
        identities=often(IDENTITIES, IDENTITIES, st.sampled_from(INVALID_REQUESTS)),
        answer=ANSWERS,
        sdk_form=st.booleans(),
        fails=st.booleans(),
        meanwhile=st.booleans(),
    )
    def identity_call(
        self, call: str, identities: Any, answer: Answer, sdk_form: bool, fails: bool, meanwhile: bool
    ) -> None:
        request, valid = requested(identities, sdk_form), not is_invalid(identities)
        self.service.answer = answer
        busy: list[Any] = []
        if meanwhile:
            second = self.session.session.logout
            self.service.meanwhile = lambda: second(None, lambda result: busy.append(result.http_code))
        sent = cleaned(identities) if valid else {}
        code, previous = self.model.refusal(call, valid, sent), None
        result = getattr(self.session, call)(request, self.heard_by("callback", fails=fails))
        self.service.meanwhile = None
        assert busy == [BUSY] * (len(self.service.asked) if meanwhile else 0)
        if code is None:
            code, previous = self.expected(call, sent, answer)
        self.check_result(result, code, previous)
        self.check_heard("callback", result, previous)

    @step(
        identities=often(IDENTITIES, IDENTITIES, st.sampled_from(INVALID_REQUESTS)),
        answer=often(FAILURES | LOST, SUCCESSES, NAMELESS),
        keep_user=st.booleans(),
        sdk_form=st.booleans(),
        next_answer=st.none() | ANSWERS,
        trouble=LATE_TROUBLES,
    )
    def logout_that_forgets(
        self, identities: Any, answer: Answer, keep_user: bool, sdk_form: bool, next_answer: Answer | None
    ) -> None:
        """The person is gone before the service is asked, and whatever it says: or else nothing has happened. Another
        session may begin at once, which knows nothing of the person either."""
        valid = not is_invalid(identities)
        sent = cleaned(identities) if valid else {}
        seen: list[tuple[str | None, bool]] = []
        self.service.answer = answer
        self.service.meanwhile = lambda: seen.append((self.session.mpid, self.fuse.blown))
        result = self.session.logout(
            requested(identities, sdk_form), self.heard_by("callback"), offline="forget", keep_user=keep_user
        )
        self.service.meanwhile = None
        previous: str | None = None
        code = self.model.refusal("logout", valid, sent)
        if not valid or self.model.current is None:
            if code is None:
                code, previous = self.expected("logout", sent, answer)
        elif self.fuse.blown and self.fuse.at <= (1 if self.fuse.for_lock else 2):  # the record, and then the state
            code = NO_ANSWER
            assert result.body.startswith("the user could not be forgotten: ")
        else:
            assert {mpid for mpid, _ in seen} <= {None}
            late = self.fuse.blown and (not seen or not seen[-1][1])
            code, previous = self.expected_of_one_who_leaves(sent, answer, keep_user, late=late)
        self.check_result(result, code, previous)
        self.check_heard("callback", result, previous)
        if next_answer is not None:
            self.fuse.set(0, False)
            self.check_new_session(next_answer)

    def expected_of_one_who_leaves(
        self, sent: dict[str, str | None], answer: Answer, keep_user: bool, *, late: bool
    ) -> tuple[int, str | None]:
        """As `expected`, once the person is forgotten; `late` is a save that failed after the answer."""
        model, now_ms = self.model, self.clock.now_ms
        asked_in = copy.deepcopy(model)
        left = model.forget(keep_user, now_ms)
        if model.opted_out:
            return SHUT, left
        self.check_request("logout", sent, answer, asked_in)
        code = answer.code("logout")
        if code == 200 and not late:
            model.context = asked_in.context  # an answer without one leaves that of the question
            model.on_answer("logout", sent, answer, now_ms)
            return code, left if left != model.current else None
        session_id = self.session.session_id
        if late and code != 200 and session_id in (None, *self.session_ids.values()):
            model.be_active(now_ms)  # what could not be saved is that another session begins
        else:
            model.begin(now_ms)
        return NO_ANSWER if code == 200 else code, left

    def expected(self, call: str, sent: dict[str, str | None], answer: Answer) -> tuple[int, str | None]:
        """The code of a call that was sent, and who is the previous user; the model goes on as the call did."""
        self.check_request(call, sent, answer)
        code = answer.code(call)
        if self.fuse.blown:
            return (NO_ANSWER if code == 200 else code), None
        return code, self.model.on_answer(call, sent, answer, self.clock.now_ms)

    def check_request(
        self, call: str, sent: dict[str, str | None], answer: Answer, asked_in: Model | None = None
    ) -> None:
        """What was sent is what these identities come to, in the state in which the call began."""
        model = asked_in or self.model
        asked, self.service.asked = self.service.asked, []
        assert len(asked) == answer.attempts(call, 3 if self.retries else 1)
        path, body = asked[-1]
        assert body["context"] == model.context
        if call == "modify":
            assert model.current is not None
            stored = model.people[model.current].identities
            changes = [{"old_value": stored.get(n), "new_value": v, "identity_type": n} for n, v in sent.items()]
            assert (path, body["identity_changes"]) == (f"/v1/{model.current}/modify", changes)
            return
        known = body["known_identities"]
        device = known.pop("device_application_stamp")
        assert device == (self.device or device)
        assert (path, body["previous_mpid"], known) == (f"/v1/{call}", model.current, sent)

    def check_result(self, result: Any, code: int, previous: str | None) -> None:
        assert (result.http_code, self.service.asked) == (code, [])
        assert (result.get_user() and result.get_user().mpid) == self.model.current
        assert (result.get_previous_user() and result.get_previous_user().mpid) == previous

    @step(identities=IDENTITIES, answer=ANSWERS)
    def search(self, identities: Any, answer: Answer) -> None:
        self.service.answer = answer
        sent = cleaned(identities)
        result = self.session.search(identities, self.heard_by("callback"))
        code = self.model.refusal("search", True, sent) or answer.code("search")
        assert (result.http_code, self.heard) == (code, [("callback", result)])
        assert all(body["known_identities"] == sent for _, body in self.service.asked)
        self.heard.clear()
        self.service.asked.clear()

    @step(answer=ANSWERS)
    def alias(self, answer: Answer) -> None:
        self.service.answer = answer
        moment = from_ms(self.clock.now_ms)
        request = AliasRequest(source_mpid="1", destination_mpid="2", start_time=moment, end_time=moment)
        result = self.session.alias_users(request, self.heard_by("callback"))
        assert result.http_code == (SHUT if self.model.opted_out else answer.code("alias"))
        assert self.heard == [("callback", result)]
        self.heard.clear()
        self.service.asked.clear()

    # Changes without a request

    @step()
    def touch(self) -> None:
        if not self.failing(self.session.touch):
            self.model.touch(self.clock.now_ms)

    @step()
    def end_session(self) -> None:
        if not self.failing(self.session.end_session):
            self.model.session = None

    @step(out=st.booleans())
    def opt(self, out: bool) -> None:
        if not self.failing(self.session.set_opt_out, out):
            self.model.opt(out, self.clock.now_ms)

    @precondition(lambda self: len(self.model.people) > 1)
    @step()
    def reset(self) -> None:
        if not self.failing(self.session.reset):
            self.model.reset(self.clean_configured)
            self.former_devices.add(self.device)
            self.device = None

    @precondition(lambda self: self.model.people)
    @step(who=st.integers(0), key=ATTRIBUTES, value=SCALARS)
    def set_attribute(self, who: int, key: str, value: Any) -> None:
        self.edit(who, "set_attribute", (key, value), {key: value})

    @precondition(lambda self: self.model.people)
    @step(who=st.integers(0), attributes=st.lists(st.tuples(ATTRIBUTES, SCALARS)).map(dict))
    def set_attributes(self, who: int, attributes: dict[str, Any]) -> None:
        self.edit(who, "set_attributes", (attributes,), attributes)

    @precondition(lambda self: self.model.people)
    @step(who=st.integers(0), key=ATTRIBUTES, values=st.lists(SCALARS, max_size=3), as_tuple=st.booleans())
    def set_attribute_list(self, who: int, key: str, values: list[Any], as_tuple: bool) -> None:
        self.edit(who, "set_attribute_list", (key, tuple(values) if as_tuple else values), {key: values})

    @precondition(lambda self: self.model.people)
    @step(who=st.integers(0), tag=ATTRIBUTES)
    def set_tag(self, who: int, tag: str) -> None:
        self.edit(who, "set_tag", (tag,), {tag: None})

    @precondition(lambda self: self.model.people)
    @step(who=st.integers(0), key=ATTRIBUTES, method=st.sampled_from(["remove_attribute", "remove_tag"]))
    def remove_attribute(self, who: int, key: str, method: str) -> None:
        self.edit(who, method, (key,), {}, gone=lambda name: name.lower() == key.lower())

    @precondition(lambda self: self.model.people)
    @step(who=st.integers(0))
    def remove_all_attributes(self, who: int) -> None:
        self.edit(who, "remove_all_attributes", (), {}, gone=lambda name: True)

    def edit(
        self,
        who: int,
        method: str,
        arguments: tuple[Any, ...],
        new: dict[str, Any],
        gone: Callable[[str], bool] = lambda name: False,
    ) -> None:
        mpid = sorted(self.model.people)[who % len(self.model.people)]
        if self.failing(getattr(self.session.get_user(mpid), method), *arguments):
            self.note_activity(mpid)
        else:
            self.model.edit_attributes(mpid, new, gone, self.clock.now_ms)

    def note_activity(self, mpid: str) -> None:
        """Of a change to another user that failed at its second write the first is there: the time of activity."""
        if mpid != self.model.current and self.fuse.at == 2:
            self.model.touch(self.clock.now_ms)

    @precondition(lambda self: self.model.people)
    @step(who=st.integers(0), state=st.sampled_from([None, {"gdpr": {"ads": {"consented": True}}}]))
    def set_consent(self, who: int, state: Any) -> None:
        mpid = sorted(self.model.people)[who % len(self.model.people)]
        if not self.failing(self.session.get_user(mpid).set_consent_state, state):
            self.model.people[mpid].consent = state

    # After each step

    @invariant()
    def the_session_is_as_the_model(self) -> None:
        model, own = self.model, self.session
        assert (self.heard, self.service.asked) == ([], [])
        assert (own.mpid, own.context, own.opted_out) == (model.current, model.context, model.opted_out)
        self.check_session_id()
        self.device = self.device or own.device_id
        assert own.device_id in (self.device, None)
        assert self.device is None or self.device not in self.former_devices
        users = own.get_users()
        assert {user.mpid: described(user) for user in users} == {
            mpid: self.described(mpid) for mpid in self.model.people
        }
        self.check_order([user.mpid for user in users])
        stored = self.made()  # another process, which knows only what is stored
        assert (stored.mpid, stored.context, stored.opted_out) == (model.current, model.context, model.opted_out)

    def check_session_id(self) -> None:
        number, session_id = self.model.live(self.clock.now_ms), self.session.session_id
        assert (number is None) == (session_id is None)
        if number is not None:
            assert self.session_ids.setdefault(number, session_id) == session_id
            assert len(set(self.session_ids.values())) == len(self.session_ids)

    def described(self, mpid: str) -> dict[str, Any]:
        person = self.model.people[mpid]
        return {
            "identities": person.identities,
            "attributes": person.attributes,
            "consent": person.consent,
            "is_logged_in": person.is_logged_in,
            "first_seen_ms": person.first_seen_ms,
            "last_seen_ms": self.clock.now_ms if mpid == self.model.current else person.last_seen_ms,
        }

    def check_order(self, mpids: list[str]) -> None:
        """The current user, then who was last seen last; who never left has no time and comes last."""
        if self.model.current:
            assert mpids.pop(0) == self.model.current
        times = [self.model.people[mpid].last_seen_ms or 0 for mpid in mpids]
        assert times == sorted(times, reverse=True)


def requested(identities: Any, sdk_form: bool) -> Any:
    """These identities as a request, in either form; what is invalid stays as it is."""
    if identities is None or is_invalid(identities):
        return identities
    return {"userIdentities": identities} if sdk_form else IdentityRequest(identities)


def is_invalid(request: Any) -> bool:
    return any(request is invalid for invalid in INVALID_REQUESTS)


def described(user: Any) -> dict[str, Any]:
    return {
        "identities": user.identities,
        "attributes": user.attributes,
        "consent": user.consent_state,
        "is_logged_in": user.is_logged_in,
        "first_seen_ms": user.first_seen and to_ms(user.first_seen),
        "last_seen_ms": user.last_seen and to_ms(user.last_seen),
    }


@pytest.mark.slow
@FRONTS
@pytest.mark.parametrize("kind", ["json", "memory"])
def test_every_journey_goes_as_the_rules_say(front: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "identity_session")  # callbacks that raise are logged, thousands of them
    run_state_machine_as_test(
        lambda: Journeys(front, kind),
        settings=settings(
            max_examples=EXAMPLES[f"{kind} {front}"] * (3 if SLOW else 1),
            stateful_step_count=50 if SLOW else 30,
        ),
    )
