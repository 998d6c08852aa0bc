"""A network that lies, drips, hangs and breaks off: every call, on both fronts, at a deadline of two seconds."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from broken_answers import BROKEN
from broken_answers import UNREADABLE as UNREADABLE_200
from clients import DEADLINE_SECONDS, client
from secure import CERTIFICATE, secure_url, secured
from servers import FRONTS, opened, user_answer
from steady import SLACK_SECONDS, assert_within, steady
from unreachable import full_backlog, nobody_listening

from identity_session import AsyncIdentitySession, IdentitySession, JsonStorage, RetryPolicy
from identity_session.clock import monotonic
from identity_session.testing.faults import HOLD, Handler, Peer, RawServer, answers, behaviours, http
from identity_session.threads import in_daemon_thread

KEY = "us1-k3y"
CALLS = ("start", "identify", "login", "logout", "modify", "search", "alias")
WHO_IS_IT = ("start", "identify", "login", "logout")
ONCE_ONLY = {"/v1/logout", f"/v1/identity/{KEY}/Alias"}
LATEST_SECONDS = DEADLINE_SECONDS + SLACK_SECONDS
PATIENCE_SECONDS = 300.0
"""Reached only when a call hangs."""
PACE = {"sync": 0.04, "async": 0.06}
"""Seconds from the beginning of one call to that of the next, where hundreds are under way."""
DEFAULT, QUICKLY, ONCE = RetryPolicy(), RetryPolicy(attempts=2, initial_seconds=0.01), RetryPolicy(attempts=1)

OTHER = {"userIdentities": {"customerid": "other", "email": None}}
USER = http(200, user_answer("2"))
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"

NO_ANSWER = dict.fromkeys(CALLS, -1)
UNREADABLE = {**NO_ANSWER, "alias": 200}
"""A success of alias says nothing in its body."""
NOBODY = {**dict.fromkeys(CALLS, 200), **dict.fromkeys(WHO_IS_IT, -1)}
"""Only the calls that ask who the user is need an answer that names one."""


@dataclass(frozen=True)
class Fault:
    """A server's handler, and the code that each call has to end with."""

    handler: Handler
    codes: dict[str, int]
    changing: Collection[str] = ()
    """The calls for which it is a success that is stored."""


@dataclass(frozen=True)
class Case:
    """Calls in a row against one server, known by its name."""

    name: str
    calls: Sequence[str]
    retry: RetryPolicy = DEFAULT

    def settings(self, url: str, folder: Path) -> dict[str, Any]:
        """Options of a session on a stored state, for whom a start has somebody new to identify."""
        return {
            "base_url": url,
            "storage": JsonStorage(folder),
            "timeout": DEADLINE_SECONDS,
            "retry": self.retry,
            "identify_request": OTHER if "start" in self.calls else None,
        }


@dataclass(frozen=True)
class Made:
    """One call that was made, and what came of it."""

    call: str
    code: int
    said: object
    seconds: float
    changed: list[str]
    """What differs on disk from what was there before the call, and what the result says of the user."""


def as_method(call: str) -> tuple[str, list[object]]:
    """The name of the method, and what it gets."""
    if call == "search":
        return "search", [{"email": "higgs@example.com"}]
    if call == "alias":
        return "alias_users", [{"sourceMpid": "1", "destinationMpid": "2", "startTime": 1000, "endTime": 2000}]
    return call, [] if call == "start" else [OTHER]


def said(result: Any) -> object:
    """What a failed call says of itself."""
    return result.message if hasattr(result, "message") else result.body


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file but for the time of last activity and what each save changes.

    The generation before is left out: it is what the state was.
    """
    found = {}
    for file in folder.rglob("*"):
        if file.is_file() and file.name not in ("lock", "state.json.previous"):
            text = re.sub(rb'"(last_activity_ms|generation|checksum)": ("[^"]*"|\d+)', rb'"\1"', file.read_bytes())
            found[str(file.relative_to(folder))] = text
    return found


def changes(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[str]:
    """The names of files that differ."""
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two users, the second one current, with identities, attributes and a context."""
    folder = tmp_path_factory.mktemp("stored")
    first, second = user_answer("1", context="c1"), user_answer("2", context="c2", is_logged_in=True)
    with (
        RawServer(answers(http(200, first), http(200, second))) as server,
        opened("sync", KEY, base_url=server.url, storage=JsonStorage(folder)) as driven,
    ):
        driven.start()
        driven.login({"userIdentities": {"customerid": "1", "email": "higgs@example.com"}})
        driven.current_user.set_attribute("plan", "free")
    assert contents(folder)
    return folder


def named_otherwise(result: Any, session: Any) -> list[str]:
    """What a result and the session say of the user, if it is not what they said before."""
    if hasattr(result, "get_user") and (result.get_user().mpid, result.get_previous_user()) != ("2", None):
        return ["the result"]
    return [] if session.mpid == "2" else ["the session"]


def sync_calls(session: IdentitySession, calls: Sequence[str], folder: Path) -> list[Made]:
    """Make these calls in turn."""
    made = []
    for call in calls:
        method, arguments = as_method(call)
        before = contents(folder)
        began = monotonic()
        result = getattr(session, method)(*arguments)
        seconds = monotonic() - began
        changed = [*changes(before, contents(folder)), *named_otherwise(result, session)]
        made.append(Made(call, result.http_code, said(result), seconds, changed))
    session.close()
    return made


async def async_calls(session: AsyncIdentitySession, calls: Sequence[str], folder: Path) -> list[Made]:
    """The same on the other front."""
    made = []
    for call in calls:
        method, arguments = as_method(call)
        before = await asyncio.to_thread(contents, folder)
        began = monotonic()
        result = await getattr(session, method)(*arguments)
        seconds = monotonic() - began
        changed = [*changes(before, await asyncio.to_thread(contents, folder)), *named_otherwise(result, session)]
        made.append(Made(call, result.http_code, said(result), seconds, changed))
    await session.close()
    return made


@dataclass
class Stand:
    """Where calls are made: on a copy of a store, each conversation on its own."""

    stored: Path
    place: Path

    def all_at_once(self, front: str, cases: Sequence[Case], urls: Mapping[str, str], **pace: Any) -> list[list[Made]]:
        """What came of the calls of each case, at the URL for its name. The cases begin one after the other, `every` so
        many seconds, and not more than `together` at a time: hundreds of calls that end in the same instant are late by
        their own number."""
        if front == "sync":
            return self._in_threads(cases, urls, **pace)
        return asyncio.run(self._in_tasks(cases, urls, **pace))

    def _in_threads(
        self, cases: Sequence[Case], urls: Mapping[str, str], every: float, together: int
    ) -> list[list[Made]]:
        free = threading.Semaphore(together)

        def make(case: Case) -> list[Made]:
            with free:
                folder = self._copy()
                session = IdentitySession(KEY, **case.settings(urls[case.name], folder))
                return sync_calls(session, case.calls, folder)

        futures = []
        for case in cases:
            futures.append(in_daemon_thread(make, case))
            time.sleep(every)
        return [future.result(PATIENCE_SECONDS) for future in futures]

    async def _in_tasks(
        self, cases: Sequence[Case], urls: Mapping[str, str], every: float, together: int
    ) -> list[list[Made]]:
        free = asyncio.Semaphore(together)

        async def make(number: int, case: Case) -> list[Made]:
            await asyncio.sleep(number * every)
            async with free:
                folder = await asyncio.to_thread(self._copy)
                session = AsyncIdentitySession(KEY, **case.settings(urls[case.name], folder))
                return await async_calls(session, case.calls, folder)

        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.gather(*(make(number, case) for number, case in enumerate(cases)))

    def _copy(self) -> Path:
        return Path(shutil.copytree(self.stored, tempfile.mkdtemp(dir=self.place), dirs_exist_ok=True))


@pytest.fixture
def stand(stored: Path, tmp_path: Path) -> Stand:
    return Stand(stored, tmp_path)


@contextlib.contextmanager
def serving(faults: Mapping[str, Fault]) -> Iterator[dict[str, RawServer]]:
    """A server for each of these faults, by its name."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(RawServer(fault.handler)) for name, fault in faults.items()}


def urls_of(servers: Mapping[str, RawServer]) -> dict[str, str]:
    return {name: server.url for name, server in servers.items()}


def sent_again(server: RawServer) -> bool:
    """Whether it got a call twice that is sent once only."""
    return max(server.targets.count(target) for target in ONCE_ONLY) > 1


def assert_back_in_time(cases: Sequence[Case], make: Callable[[Sequence[Case]], list[list[Made]]]) -> None:
    """Every call of these cases is. Those late among so many are made again among few: what is late then is not late
    by the number of the others."""

    def slowest(among: Sequence[Case]) -> list[tuple[Case, float]]:
        return [(case, max(one.seconds for one in calls)) for case, calls in zip(among, make(among), strict=True)]

    late = [case for case, seconds in slowest(cases) if seconds >= LATEST_SECONDS]

    @steady
    def among_few() -> None:
        for case, seconds in slowest(late):
            assert_within(seconds, LATEST_SECONDS, case)

    if late:
        among_few()


# A deadline of two seconds


def never_reading(peer: Peer) -> None:
    while not peer.wait(1):
        pass


def endless(data: bytes) -> Callable[[Peer], None]:
    """Sends this again and again."""

    def send(peer: Peer) -> None:
        while not peer.wait(DRIP_SECONDS):
            peer.send(10 * data)

    return send


DRIP_SECONDS = 0.1
SLOW: dict[str, Fault] = {
    "black hole": Fault(behaviours.black_hole(), NO_ANSWER),
    "never reads": Fault(never_reading, NO_ANSWER),
    "half the headers": Fault([HEAD, HOLD], NO_ANSWER),
    "half a status line": Fault([b"HTTP/1.", HOLD], NO_ANSWER),
    "status line drips": Fault([lambda peer: peer.drip(HEAD, DRIP_SECONDS), HOLD], NO_ANSWER),
    "headers drip": Fault(behaviours.endless_headers(DRIP_SECONDS), NO_ANSWER),
    "body drips": Fault(behaviours.endless_body(DRIP_SECONDS), NO_ANSWER),
    "body of an error drips": Fault(
        [
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 999\r\n\r\n",
            lambda peer: peer.drip(b" " * 999, DRIP_SECONDS),
        ],
        NO_ANSWER,
    ),
    "body stops": Fault(behaviours.stalled(USER), NO_ANSWER),
    "a length that is too long, and silence": Fault([http(200, {}, content_length=500), HOLD], NO_ANSWER),
    "chunks drip": Fault([CHUNKED, lambda peer: peer.drip(itertools.cycle(b"1\r\n \r\n"), DRIP_SECONDS)], NO_ANSWER),
    "a chunk's size drips": Fault([CHUNKED, lambda peer: peer.drip(itertools.cycle(b"0"), DRIP_SECONDS)], NO_ANSWER),
    "a chunk's extension drips": Fault(
        [CHUNKED + b"1;a=", lambda peer: peer.drip(itertools.cycle(b"b"), DRIP_SECONDS)], NO_ANSWER
    ),
    "chunk extensions without end": Fault([CHUNKED, endless(b"1;" + b"e" * 4000 + b"\r\n \r\n")], NO_ANSWER),
    "trailers drip": Fault(
        [CHUNKED + b"2\r\n{}\r\n0\r\n", lambda peer: peer.drip(itertools.cycle(b"x-a: b\r\n"), DRIP_SECONDS)],
        NO_ANSWER,
    ),
    "interim answers without end": Fault([endless(b"HTTP/1.1 100 Continue\r\n\r\n")], NO_ANSWER),
    "early hints without end": Fault([endless(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")], NO_ANSWER),
    "throttled for an hour": Fault(behaviours.throttled(3600, 503), dict.fromkeys(CALLS, 503)),
    "throttled for a century": Fault(behaviours.throttled("Fri, 01 Jan 2100 00:00:00 GMT"), dict.fromkeys(CALLS, 429)),
    "gzip that unpacks to nothing": Fault(
        [
            HEAD + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10],
            lambda peer: peer.drip(itertools.cycle(b"\0\0\0\xff\xff"), DRIP_SECONDS),
        ],
        NO_ANSWER,
    ),
}


@FRONTS
def test_with_a_deadline_of_two_seconds_every_call_is_back_in_time_whatever_holds_it_up(
    front: str, stand: Stand
) -> None:
    """Nothing changed on disk but the time of last activity, and a logout or alias request was sent once."""

    def make(cases: Sequence[Case]) -> list[list[Made]]:
        with serving(SLOW) as servers:
            made = stand.all_at_once(front, cases, urls_of(servers), every=PACE[front], together=100)
            for case, [one] in zip(cases, made, strict=True):
                assert (one.code, one.changed) == (SLOW[case.name].codes[one.call], []), (case, one)
                assert one.code != -1 or "time" in str(one.said), (case, one)
            again = [name for name, server in servers.items() if sent_again(server)]
            assert [name for name in again if not name.startswith("throttled")] == []
            return made

    assert_back_in_time([Case(name, [call]) for name in SLOW for call in CALLS], make)


@FRONTS
@steady
def test_the_first_call_of_a_process_is_back_in_time(front: str) -> None:
    """It is the one that loads what a call needs."""
    with RawServer(behaviours.black_hole()) as server, client("first", front, server.url) as process:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, errors, server.connections) == (0, "", 1)
    code, seconds = output.split()
    assert code == "-1"
    assert_within(float(seconds), LATEST_SECONDS)


# Answers that are none, and errors

NAMELESS_BODIES: dict[str, object] = {
    "no mpid": {},
    "mpid null": {"mpid": None},
    "mpid 0": {"mpid": 0},
    "mpid float": {"mpid": 2.0},
    "mpid float beyond all bounds": {"mpid": 1e300},
    "mpid bool": {"mpid": True},
    "mpid object": {"mpid": {"mpid": "2"}},
    "mpid array": {"mpid": ["2"]},
    "mpid empty": {"mpid": ""},
    "mpid of control characters": {"mpid": "2\0"},
    "mpid half a character": {"mpid": "\ud800"},
}
STATUSES = (
    201,
    202,
    203,
    204,
    205,
    206,
    301,
    302,
    303,
    304,
    305,
    307,
    308,
    400,
    401,
    403,
    404,
    408,
    409,
    410,
    413,
    418,
    421,
    422,
    451,
    500,
    501,
    502,
    504,
    505,
    511,
    599,
)
RETRY_AFTER: dict[str, object] = {
    "absent": None,
    "seconds": "1",
    "nought": "0",
    "negative": "-5",
    "fraction": "0.5",
    "huge": "9" * 400,
    "date to come": "Fri, 01 Jan 2100 00:00:00 GMT",
    "date gone by": "Wed, 21 Oct 2015 07:28:00 GMT",
    "date in the old form": "Sunday, 06-Nov-94 08:49:37 GMT",
    "date that is none": "Wed, 99 Oct 2015 99:99:99 GMT",
    "garbage": "soon; \xff",
    "empty": "",
}


def statuses(evil: dict[str, object], elsewhere: str) -> dict[str, Fault]:
    """Every status, each with a user in its body and the way to another host in its headers, and with a Retry-After:
    those that may ask for a pause with every form of it, the others with one form in turn."""
    away = {"location": f"{elsewhere}/login", "content_location": elsewhere, "refresh": f"0; url={elsewhere}"}
    away |= {"alt_svc": f'h2="{elsewhere[7:]}"; ma=86400', "link": f"<{elsewhere}>; rel=canonical"}
    pairs = [*zip(STATUSES, itertools.cycle(RETRY_AFTER), strict=False), *itertools.product((429, 503), RETRY_AFTER)]
    return {
        f"{status}, Retry-After {form}": Fault(
            answers(http(status, b"" if status in (204, 205, 304) else evil, retry_after=RETRY_AFTER[form], **away)),
            dict.fromkeys(CALLS, status),
        )
        for status, form in pairs
    }


def wrong_answers(evil: dict[str, object], elsewhere: str) -> dict[str, Fault]:
    """Everything that comes at once and is no answer, or none about a user."""
    return {
        **{f"broken: {name}": Fault(handler, NO_ANSWER) for name, handler in BROKEN.items()},
        "a length that is too short": Fault([http(200, evil, content_length=20)], UNREADABLE),
        **{f"unreadable: {name}": Fault(answers(data), UNREADABLE) for name, data in UNREADABLE_200.items()},
        **{
            f"nameless: {name}": Fault(answers(http(200, body)), NOBODY, changing=["modify"])
            for name, body in NAMELESS_BODIES.items()
        },
        **statuses(evil, elsewhere),
    }


@FRONTS
def test_whatever_comes_instead_of_an_answer_every_call_is_back_in_time_with_its_code_and_nothing_has_changed(
    front: str, stand: Stand
) -> None:
    """Codes as the table of departures in the README has them; the key goes to no second host."""
    evil = user_answer("666", context="evil", is_logged_in=True)

    def make(cases: Sequence[Case]) -> list[list[Made]]:
        with serving(faults) as servers:
            made = stand.all_at_once(front, cases, urls_of(servers), every=0, together=8)
            for case, calls in zip(cases, made, strict=True):
                fault = faults[case.name]
                for one in calls:
                    assert one.code == fault.codes[one.call], (case, one)
                    assert bool(one.changed) == (one.call in fault.changing), (case, one)
                assert not sent_again(servers[case.name]) or case.name.startswith(("429", "503")), case
            assert elsewhere.connections == 0
            return made

    with RawServer(answers(USER)) as elsewhere:
        faults = wrong_answers(evil, elsewhere.url)
        # How often a call is made again is the same on both fronts, and tested with the policy; here one will do.
        policy = QUICKLY if front == "sync" else ONCE
        assert_back_in_time([Case(name, CALLS, policy) for name in faults], make)


# Two answers at once


@FRONTS
def test_an_answer_that_came_with_the_one_before_is_not_taken_for_the_next_ones(front: str) -> None:
    """It may be about another user: the connection is given up, and the call is made on another one."""

    def hasty(peer: Peer) -> None:
        peer.request()
        peer.send(USER + http(200, user_answer("666")))
        while peer.request():
            peer.send(http(200, user_answer("667")))

    with RawServer(hasty, answers(http(200, user_answer("3")))) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        assert driven.mpid == "2"
        assert driven.login(OTHER).http_code == 200
        assert driven.mpid == "3"
        assert server.connections == 2
    with RawServer(hasty, answers(http(200, user_answer("3")))) as server, opened(front, base_url=server.url) as driven:
        driven.start()
        assert driven.logout().http_code == -1, "it may have arrived, and is not sent again"
        assert driven.mpid == "2"
        server.wait_for_quiet()
        assert server.targets.count("/v1/logout") <= 1


@FRONTS
@pytest.mark.parametrize(
    ("body", "mpid"),
    [
        (b'{"mpid": 9223372036854775807}', "9223372036854775807"),
        (b'{"mpid": 9007199254740993}', "9007199254740993"),
        (b'{"mpid": -5270928349802385746}', "-5270928349802385746"),
        (b'{"mpid": -1}', "-1"),
        (b'{"mpid": 18446744073709551617}', "18446744073709551617"),
        (b'{"mpid": "2", "mpid": "3"}', "3"),
        (b'\xef\xbb\xbf{"mpid": "4"}', "4"),
    ],
    ids=["2**63-1", "2**53+1", "negative", "-1", "2**64+1", "twice: the last one", "byte order mark"],
)
def test_an_mpid_is_kept_to_the_last_digit(front: str, body: bytes, mpid: str, tmp_path: Path) -> None:
    with RawServer(answers(http(200, body))) as server:
        with opened(front, base_url=server.url, storage=JsonStorage(tmp_path)) as driven:
            assert driven.login(OTHER).http_code == 200
        with opened(front, base_url=server.url, storage=JsonStorage(tmp_path)) as driven:
            assert driven.mpid == mpid


@FRONTS
def test_headers_in_the_old_folded_form_are_read(front: str) -> None:
    folded = HEAD + b"x-a: b\r\n c\r\n\td\r\ncontent-length: 13\r\n\r\n" + b'{"mpid": "2"}'
    with RawServer(answers(folded)) as server, opened(front, base_url=server.url) as driven:
        assert driven.login(OTHER).http_code == 200
        assert driven.login(OTHER).http_code == 200
        assert server.connections == 1


# No connection


WITHOUT_CONNECTION: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "full backlog": full_backlog,
    "refused": nobody_listening,
    "no such host": lambda: contextlib.nullcontext("https://nobody.invalid/v1"),
    "resolver hangs": lambda: contextlib.nullcontext("https://h.example/v1"),
}


@FRONTS
@pytest.mark.parametrize("how", WITHOUT_CONNECTION)
def test_without_a_connection_every_call_is_back_in_time(
    front: str, how: str, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if host in ("h.example", b"h.example"):
            release.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return real(host, *arguments, **options)

    def make(cases: Sequence[Case]) -> list[list[Made]]:
        began = monotonic()
        made = stand.all_at_once(front, cases, {how: url}, every=PACE[front], together=100)
        for [one] in made:
            assert (one.code, one.changed) == (-1, []), one
            assert how != "refused" or str(one.said).startswith("no connection"), one
        assert_within(monotonic() - began, 3 * DEADLINE_SECONDS, "the event loop has ended as well")
        return made

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        with WITHOUT_CONNECTION[how]() as url:
            assert_back_in_time([Case(how, [call]) for call in CALLS], make)
    finally:
        release.set()


# The key


@FRONTS
@pytest.mark.parametrize("trouble", ["not trusted", "another host's"])
def test_a_server_with_a_wrong_certificate_gets_nothing(
    front: str, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "another host's":
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with RawServer(secured(answers(USER))) as server:
        url = secure_url(server, "localhost" if trouble == "not trusted" else "127.0.0.1")
        with opened(front, KEY, base_url=url, retry=None) as driven:
            for result in (driven.login(OTHER), driven.search({"email": "higgs@example.com"})):
                assert result.http_code == -1
                assert result.body.startswith("no connection to the service")
        server.wait_for_quiet()
        assert server.connections == 2
        assert server.requests == []


@FRONTS
def test_a_server_with_the_right_certificate_is_spoken_to_on_one_connection(
    front: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with RawServer(secured(answers(USER))) as server, opened(front, KEY, base_url=secure_url(server)) as driven:
        assert driven.start().http_code == 200
        assert driven.login(OTHER).http_code == 200
        assert (server.connections, len(server.requests)) == (1, 2)
        assert server.requests[0].headers["x-mp-key"] == KEY


@FRONTS
@steady
def test_the_deadline_holds_while_an_answer_drips_over_tls(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with (
        RawServer(secured(behaviours.endless_body(0.02))) as server,
        opened(front, base_url=secure_url(server), timeout=0.5, retry=None) as driven,
    ):
        began = monotonic()
        assert driven.login(OTHER).http_code == -1
        assert_within(monotonic() - began, 0.5 + SLACK_SECONDS)


# Memory

MOST_MEBIBYTES = 16.0
PIECE = b" " * 65536


def endless_pieces(head: bytes, piece: bytes, number: int) -> Handler:
    def send(peer: Peer) -> None:
        for _ in range(number):
            peer.send(piece)

    return [head, send]


GROWING: dict[str, Handler] = {
    "200 MB": behaviours.huge_body(200),
    "200 MB of an error": endless_pieces(b"HTTP/1.1 500 Error\r\ncontent-length: 209715200\r\n\r\n", PIECE, 3200),
    "200 MB without a length": endless_pieces(HEAD + b"\r\n", PIECE, 3200),
    "200 MB in chunks": endless_pieces(CHUNKED, b"10000\r\n" + PIECE + b"\r\n", 3200),
    "200 MB in one chunk": endless_pieces(CHUNKED + b"c800000\r\n", PIECE, 3200),
    "a gzip bomb": behaviours.gzip_bomb(200),
    "200 MB behind the end of a gzip": endless_pieces(
        HEAD + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b"{}"), PIECE, 3200
    ),
    "a header without end": endless_pieces(HEAD + b"x-a: ", PIECE, 3200),
    "headers without end": endless_pieces(HEAD, b"x-a: b\r\n" * 8192, 3200),
    "chunks of a byte without end": endless_pieces(CHUNKED, b"1\r\n \r\n" * 8192, 3200),
    "a chunk's extension without end": endless_pieces(CHUNKED + b"1;a=", PIECE, 3200),
    "trailers without end": endless_pieces(CHUNKED + b"2\r\n{}\r\n0\r\n", b"x-a: b\r\n" * 8192, 3200),
    "interim answers without end": endless_pieces(b"", b"HTTP/1.1 103 Hint\r\nx-a: b\r\n\r\n" * 2048, 3200),
}


@FRONTS
@steady
def test_no_answer_makes_a_process_grow_by_sixteen_mebibytes_or_a_call_late(front: str) -> None:
    """Measured as the peak of a fresh process, all of these answers taken together."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RawServer(handler)) for handler in (answers(USER), *GROWING.values())]
        with client("grow", front, *(server.url for server in servers)) as process:
            output, errors = process.communicate(timeout=2 * PATIENCE_SECONDS)
    assert (process.returncode, errors) == (0, "")
    (code, growth, _), *lines = (line.split() for line in output.splitlines())
    assert (code, growth) == ("200", "0.0")
    for name, (code, growth, _) in zip(GROWING, lines, strict=True):
        assert code == ("500" if name.endswith("error") else "-1"), name
        assert float(growth) < MOST_MEBIBYTES, (name, lines)
    assert_within(max(float(seconds) for _, _, seconds in lines), LATEST_SECONDS, lines)
