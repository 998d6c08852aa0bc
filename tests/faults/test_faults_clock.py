"""A wall clock that jumps an hour back, ten years forward and home again, between calls and during them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from steady import SLACK_SECONDS, LateError, assert_within, steady
from storage_helpers import API_KEY, answer_to, child, login, next_line, workspace_of
from transitions import BEGINNING_MS, FRONTS, Service, Traveller

from identity_session import RetryPolicy, clock
from identity_session.exchange import HTTPAnswer, HTTPRequest
from identity_session.testing.faults import HOLD, RawServer, http

HOUR_BACK, DECADE = timedelta(hours=-1), timedelta(days=3653)
JUMPS = {
    "an hour back": (HOUR_BACK,),
    "ten years forward": (DECADE,),
    "an hour back and home": (HOUR_BACK, -HOUR_BACK),
    "ten years forward and home": (DECADE, -DECADE),
    "to and fro": (DECADE, HOUR_BACK, -DECADE, -HOUR_BACK, HOUR_BACK, DECADE, DECADE, -DECADE),
}
TIMEOUT = timedelta(minutes=30)
done = Traveller.done


class InjectedClock:
    """The clock that a session is given."""

    def __init__(self) -> None:
        self._now_ms = BEGINNING_MS
        self.settings: dict[str, Any] = {"now_ms": lambda: self._now_ms}

    def jump(self, by: timedelta) -> None:
        self._now_ms += by // timedelta(milliseconds=1)


class FrozenClock:
    """The clock of the whole process, which stands still, the monotonic one of Python included."""

    def __init__(self, frozen: Any) -> None:
        self._frozen = frozen
        self.settings: dict[str, Any] = {}

    def jump(self, by: timedelta) -> None:
        self._frozen.move_to(self._frozen.time_to_freeze + by)


CLOCKS = pytest.mark.parametrize("kind", ["injected", "freezegun"])


@contextlib.contextmanager
def clock_to_move(kind: str) -> Iterator[InjectedClock | FrozenClock]:
    """A clock that jumps when it is told to."""
    if kind == "injected":
        yield InjectedClock()
        return
    with freeze_time(clock.from_ms(BEGINNING_MS).replace(tzinfo=None)) as frozen:
        yield FrozenClock(frozen)


@pytest.fixture(autouse=True)
def _disk_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> Any:
    return FRONTS[request.param]


def fresh(tmp_path: Path) -> Path:
    """A folder of its own for each try."""
    return Path(tempfile.mkdtemp(dir=tmp_path))


class JumpingService(Service):
    """Moves the clock before it answers, or as often as it has something to move."""

    def __init__(self, jump: Callable[[timedelta], None], status: int = 200) -> None:
        self._jump = jump
        self._status = status
        self.ahead: list[timedelta] = []
        self.attempts = 0

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        self.attempts += 1
        if self.ahead:
            self._jump(self.ahead.pop(0))
        return HTTPAnswer(self._status, {}, json.dumps(answer_to(request.body)).encode())


def assert_nobody_lost_and_all_in_order(session: Any, current: str, expected: set[str]) -> None:
    users = done(session.get_users())
    assert [user.mpid for user in users][:1] == [current]
    assert {user.mpid for user in users} == expected
    assert len(users) == len(expected)
    seen = [user.last_seen for user in users[1:]]
    assert seen == sorted(seen, reverse=True)
    assert all(user.first_seen is not None for user in users)


@pytest.mark.parametrize("jumps", JUMPS.values(), ids=JUMPS.keys())
@CLOCKS
def test_a_clock_that_jumps_between_calls_costs_nobody(
    tmp_path: Path, front: Any, kind: str, jumps: tuple[timedelta, ...]
) -> None:
    """Every call works, also by another process, and every user keeps what belongs to it."""
    with clock_to_move(kind) as watch:

        def opened() -> Any:
            return front(API_KEY, storage=tmp_path, transport=Service(), **watch.settings)

        session, expected = opened(), {"100"}
        device_ids = set()
        for turn, jump in enumerate((timedelta(0), *jumps)):
            watch.jump(jump)
            for name in (f"new-{turn}", "always"):
                assert done(session.start()).http_code in (200, -3)
                result = done(login(session, name))
                assert result.http_code == 200
                done(result.get_user().set_attribute("turn", turn))
                expected.add(name)
                assert session.session_id is not None
                assert_nobody_lost_and_all_in_order(session, name, expected)
                source = done(session.get_user("100"))
                request = session.create_alias_request(source, session.current_user)
                assert done(session.alias_users(done(request))).http_code in (-4, 200, 202)
            device_ids.add(session.device_id)
            assert done(session.logout()).http_code == 200
            done(session.close())
            session = opened()
        assert len(device_ids) == 1
        for turn in range(len(jumps) + 1):
            assert done(session.get_user(f"new-{turn}")).attributes == {"turn": turn}
        assert session.recovered_from is None


@pytest.mark.parametrize("jumps", JUMPS.values(), ids=JUMPS.keys())
@CLOCKS
def test_a_clock_that_jumps_during_a_call_costs_nobody(
    tmp_path: Path, front: Any, kind: str, jumps: tuple[timedelta, ...]
) -> None:
    """The answer arrives after the jump, and counts."""
    with clock_to_move(kind) as watch:
        service = JumpingService(watch.jump)
        session = front(API_KEY, storage=tmp_path, transport=service, **watch.settings)
        assert done(session.start()).http_code == 200
        device_id, expected = session.device_id, {"100"}
        for turn, jump in enumerate(jumps):
            for call in ("login", "modify", "logout", "identify"):
                service.ahead = [jump]
                request = {"userIdentities": {"customerid": f"{call}-{turn}"}} if call != "logout" else None
                result = done(getattr(session, call)(request))
                assert service.ahead == []
                assert result.http_code == 200
                if call in ("login", "identify"):
                    expected.add(f"{call}-{turn}")
                    assert session.mpid == f"{call}-{turn}"
                assert_nobody_lost_and_all_in_order(session, session.mpid, expected)
                watch.jump(-jump)
        assert session.device_id == device_id
        assert front(API_KEY, storage=tmp_path).mpid == session.mpid


@pytest.mark.parametrize("by", [HOUR_BACK, timedelta(minutes=-29), timedelta(minutes=29), timedelta(hours=1), DECADE])
@pytest.mark.parametrize("moment", ["between calls", "during a call"])
@pytest.mark.parametrize("and_home", [True, False])
@pytest.mark.parametrize("kind", ["injected"])
def test_no_session_lives_on_for_ever_after_a_jump(
    tmp_path: Path, front: Any, kind: str, by: timedelta, moment: str, and_home: bool
) -> None:
    """It is over at once when the clock comes home from afar, else when nothing happens; one in use goes on."""
    with clock_to_move(kind) as watch:
        service = JumpingService(watch.jump)
        session = front(API_KEY, storage=tmp_path, transport=service, session_timeout=TIMEOUT, **watch.settings)
        done(session.start())
        first = session.session_id
        if moment == "during a call":
            service.ahead = [by]
        else:
            watch.jump(by)
        assert done(login(session, "7")).http_code == 200
        done(session.touch())
        assert session.session_id is not None
        if and_home:
            watch.jump(-by)
            assert (session.session_id is None) == (abs(by) >= TIMEOUT)
        watch.jump(max(by, timedelta(0)) + TIMEOUT if and_home else TIMEOUT)
        assert session.session_id is None
        done(session.touch())
        assert session.session_id not in (None, first)
        for _ in range(10):  # and one that is used does not end
            live = session.session_id
            watch.jump(TIMEOUT / 2)
            done(session.touch())
            assert session.session_id == live


def hurried(front: Any, folder: Path, **settings: Any) -> Any:
    """A session whose calls end after 0.4 seconds, where another one, which had time, has started."""
    assert done(front(API_KEY, storage=folder, timeout=10, **settings).start()).http_code == 200
    return front(API_KEY, storage=folder, timeout=0.4, **settings)


def timed_login(session: Any) -> tuple[Any, float]:
    """The result of a login, and how many seconds it took."""
    began = clock.monotonic()
    result = done(login(session, "7"))
    return result, clock.monotonic() - began


@steady
@pytest.mark.parametrize("jump", [HOUR_BACK, DECADE], ids=["an hour back", "ten years forward"])
@CLOCKS
def test_retries_end_at_the_deadline_whatever_the_clock_does_meanwhile(
    tmp_path: Path, front: Any, kind: str, jump: timedelta
) -> None:
    """Not before, for there is time left, and not after."""
    with clock_to_move(kind) as watch:
        service = JumpingService(watch.jump)
        policy = RetryPolicy(attempts=1000)
        session = hurried(front, fresh(tmp_path), transport=service, retry=policy, **watch.settings)
        service._status, service.attempts, service.ahead = 503, 0, [jump] * 1000
        result, seconds = timed_login(session)
        if service.attempts < 2:
            raise LateError(f"{service.attempts} attempts in {seconds:.3f} s")
        assert result.http_code == 503
        assert_within(seconds, 0.4 + SLACK_SECONDS)
        assert session.mpid == "100"


@steady
@pytest.mark.parametrize("jump", [HOUR_BACK, DECADE], ids=["an hour back", "ten years forward"])
@CLOCKS
def test_a_service_that_never_answers_is_given_up_at_the_deadline_whatever_the_clock_does_meanwhile(
    tmp_path: Path, front: Any, kind: str, jump: timedelta
) -> None:
    # Each call has an event loop of its own, in which no connection may be left open.
    first = http(200, {"mpid": "100"}, connection="close")
    with clock_to_move(kind) as watch, RawServer([first], [HOLD]) as server:
        session = hurried(front, fresh(tmp_path), base_url=server.url, retry=None, **watch.settings)
        with jumping(watch, jump):
            result, seconds = timed_login(session)
        assert result.http_code == -1
        assert seconds >= 0.39
        assert_within(seconds, 0.4 + SLACK_SECONDS)
        assert session.mpid == "100"


@steady
@pytest.mark.parametrize("jump", [HOUR_BACK, DECADE], ids=["an hour back", "ten years forward"])
@CLOCKS
def test_the_wait_for_a_lock_ends_at_the_deadline_whatever_the_clock_does_meanwhile(
    tmp_path: Path, front: Any, kind: str, jump: timedelta
) -> None:
    with clock_to_move(kind) as watch:
        folder = fresh(tmp_path)
        session = hurried(front, folder, transport=Service(), **watch.settings)
        with child("hold", workspace_of(folder)) as holder:
            assert next_line(holder) == "held"
            with jumping(watch, jump):
                result, seconds = timed_login(session)
        assert result.http_code == -1
        assert "has held the lock" in result.body
        assert seconds >= 0.39
        assert_within(seconds, 0.4 + SLACK_SECONDS)
        again, seconds = timed_login(session)
        assert_within(seconds, 0.4, "which is all the time that it had")
        assert again.http_code == 200


@contextlib.contextmanager
def jumping(watch: Any, by: timedelta) -> Iterator[None]:
    """While the block runs the clock jumps there and back, again and again."""
    over = threading.Event()

    def jump() -> None:
        for sign in itertools.cycle((1, -1)):
            if over.wait(0.03):
                return
            watch.jump(sign * by)

    thread = threading.Thread(target=jump)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("max_users", [1, 3])
@CLOCKS
def test_whatever_the_clock_did_the_current_user_is_kept_and_no_more_users_than_wanted(
    tmp_path: Path, front: Any, kind: str, max_users: int
) -> None:
    with clock_to_move(kind) as watch:
        session = front(API_KEY, storage=tmp_path, transport=Service(), max_users=max_users, **watch.settings)
        done(session.start())
        for turn, jump in enumerate(JUMPS["to and fro"] * 2):
            watch.jump(jump)
            assert done(login(session, f"user-{turn}")).http_code == 200
            users = [user.mpid for user in done(session.get_users())]
            assert users[0] == f"user-{turn}"
            assert len(users) == min(turn + 2, max_users)


def test_damage_is_set_aside_whatever_the_clock_says(tmp_path: Path, front: Any) -> None:
    """Under a name that was not there before, and the newest is among those that are kept."""
    asides = set()
    for turn, day in enumerate(("1970-01-01", "2038-01-20", "1901-12-13", "2106-02-08", "2026-01-05", "2026-01-05")):
        with freeze_time(day):
            session = front(API_KEY, storage=tmp_path, transport=Service())
            assert done(session.start()).http_code in (200, -3)
            (workspace_of(tmp_path) / "state.json").write_text(f"damage {turn}")
            assert done(login(session, str(turn + 1))).http_code == 200
            aside = session.recovered_from
            assert aside.read_text() == f"damage {turn}"
            asides.add(aside.name)
            kept = list(workspace_of(tmp_path).glob("state.json.corrupt-*"))
            assert len(kept) == min(turn + 1, 3)
            assert aside in kept
    assert len(asides) == 6
