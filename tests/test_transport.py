"""Carrying requests: what `transport=` takes, and the network below a session: names, proxies, TLS, deadlines."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from secure import CERTIFICATE, secured
from servers import FRONTS, HOLD, MPID, PATIENCE_SECONDS, Peer, RawServer, answers, http, opened, user_answer
from steady import SLACK_SECONDS, assert_within, steady

from identity_session import AsyncIdentitySession, IdentitySession, MemoryStorage, RetryPolicy
from identity_session.clock import monotonic
from identity_session.exchange import HTTPAnswer, HTTPRequest, SendError
from identity_session.idsync import LocalIDSync
from identity_session.signing import Credentials, signature
from identity_session.testing.faults import Handler, behaviours
from identity_session.transport import (
    MAX_ANSWER_BYTES,
    MAX_ANSWER_CHUNKS,
    AsyncHttpxSender,
    AsyncNetwork,
    HttpxSender,
    Network,
)

LOGIN = {"userIdentities": {"email": "higgs@example.com"}}
USER = http(200, user_answer())
SESSIONS: dict[str, Callable[..., Any]] = {"sync": IdentitySession, "async": AsyncIdentitySession}


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# What a session takes as transport


class Both(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport of a user's own, for both fronts, which answers or raises as told and counts what happens to it."""

    def __init__(self, outcome: Callable[[httpx.Request], httpx.Response]) -> None:
        self.outcome = outcome
        self.requests: list[httpx.Request] = []
        self.closed = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.outcome(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.close()


def ok(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=user_answer())


@FRONTS
def test_an_httpx_mock_transport_is_taken(front: str) -> None:
    seen: list[httpx.Request] = []

    def app(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return ok(request)

    with opened(front, "key", "secret", transport=httpx.MockTransport(app)) as driven:
        assert driven.login(LOGIN).http_code == 200
        assert driven.mpid == MPID
    [request] = seen
    assert str(request.url) == "https://identity.mparticle.com/v1/login"
    assert request.headers["x-mp-signature"] == signature(
        "secret", "POST", request.headers["date"], "/v1/login", request.content
    )


@FRONTS
def test_a_transport_of_ones_own_is_taken_and_left_open(front: str) -> None:
    transport = Both(ok)
    for _ in range(2):
        with opened(front, transport=transport) as driven:
            assert driven.start().http_code == 200
    assert len(transport.requests) == 2
    assert transport.closed == 0


@FRONTS
def test_a_transport_that_counts_as_empty_is_used_all_the_same(front: str) -> None:
    class Recording(Both):
        def __len__(self) -> int:
            return len(self.requests)

    transport = Recording(ok)
    with opened(front, transport=transport) as driven:
        assert driven.start().http_code == 200
    assert len(transport) == 1


def test_the_embedded_services_transports_are_taken_each_by_its_front() -> None:
    idsync = LocalIDSync()
    with opened("sync", transport=idsync.transport) as one, opened("async", transport=idsync.async_transport) as other:
        assert one.login({"userIdentities": {"customerid": "1"}}).http_code == 200
        assert other.login({"userIdentities": {"customerid": "1"}}).http_code == 200
        assert one.mpid == other.mpid


class OnlySync(httpx.BaseTransport):
    pass


class OnlyAsync(httpx.AsyncBaseTransport):
    pass


@pytest.mark.parametrize(
    ("front", "thing"),
    [
        ("sync", OnlyAsync()),
        ("sync", LocalIDSync().async_transport),
        ("sync", AsyncNetwork()),
        ("async", OnlySync()),
        ("async", LocalIDSync().transport),
        ("async", Network()),
        *[(front, thing) for front in SESSIONS for thing in (5, "https://h.example", object(), [], LocalIDSync())],
    ],
)
def test_anything_else_and_the_other_fronts_kind_is_refused_at_once(front: str, thing: object) -> None:
    with pytest.raises(
        TypeError, match=r"transport must be an httpx\.(Async)?BaseTransport or an? (Async)?Sender, not"
    ):
        SESSIONS[front]("key", storage=MemoryStorage(), transport=thing)


RAISED = [
    httpx.ConnectError("x"),
    httpx.ReadTimeout("x"),
    httpx.InvalidURL("x"),
    httpx.DecodingError("x"),
    OSError(5, "x"),
    TimeoutError(),
    ValueError("x"),
    RuntimeError(),
    AssertionError("x"),
    StopIteration(),
    LookupError("x"),
    MemoryError(),
    RecursionError(),
    SendError("x", sent=True),
    ExceptionGroup("x", [ValueError("y")]),
]


@FRONTS
@pytest.mark.parametrize("error", RAISED, ids=[type(error).__name__ for error in RAISED])
def test_whatever_a_transport_raises_is_no_coverage(front: str, error: Exception) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    with opened(front, "s3cret-key", transport=Both(fail), retry=None) as driven:
        for result in (driven.start(), driven.login(LOGIN), driven.logout(), driven.search({"email": "a@b.c"})):
            assert result.http_code == -1
            assert isinstance(result.body, str)


@FRONTS
@pytest.mark.parametrize("answer", [None, 5, "200", HTTPAnswer(200, {}, b"{}")])
def test_a_transport_that_answers_nonsense_is_no_coverage(front: str, answer: Any) -> None:
    with opened(front, transport=Both(lambda request: answer), retry=None) as driven:
        assert driven.login(LOGIN).http_code == -1


class RaisingSender:
    """A sender of a user's own that does not keep to SendError."""

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        raise OSError("s3cret-key")

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        raise OSError("s3cret-key")

    def close(self) -> None:
        raise AssertionError("not the session's to close")

    async def aclose(self) -> None:
        raise AssertionError("not the session's to close")


@FRONTS
def test_whatever_a_sender_raises_is_no_coverage_and_it_is_left_open(front: str) -> None:
    with opened(front, transport=RaisingSender(), retry=None) as driven:
        result = driven.login(LOGIN)
        assert (result.http_code, result.body) == (-1, "no answer from the service (OSError)")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_mid_call_comes_through_and_the_next_call_works(interrupt: type[BaseException]) -> None:
    def interrupted(request: httpx.Request) -> httpx.Response:
        raise interrupt

    transport = Both(interrupted)
    with opened("sync", transport=transport) as driven:
        with pytest.raises(interrupt):
            driven.login(LOGIN)
        transport.outcome = ok
        assert driven.login(LOGIN).http_code == 200


@FRONTS
def test_a_connection_that_could_not_be_made_is_tried_again_even_for_a_logout(front: str) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    transport = Both(refuse)
    with opened(front, transport=transport, retry=RetryPolicy(initial_seconds=0)) as driven:
        assert driven.logout().http_code == -1
        assert len(transport.requests) == RetryPolicy().attempts


# The senders


def request(url: str = "https://h.example/v1/login", credentials: Credentials | None = None) -> HTTPRequest:
    return HTTPRequest(url, httpx.URL(url).raw_path.decode(), {"content-type": "application/json"}, b"{}", credentials)


def sent(front: str, transport: Any, asked: HTTPRequest | None = None, seconds: float = 5.0) -> HTTPAnswer:
    if front == "sync":
        return HttpxSender(transport, owned=False).send(asked or request(), seconds)
    return asyncio.run(AsyncHttpxSender(transport, owned=False).asend(asked or request(), seconds))


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces, with a note of how many were taken and whether it was closed."""

    def __init__(self, piece: bytes, number: int, pause: Callable[[], object] = lambda: None) -> None:
        self.piece, self.number, self.pause = piece, number, pause
        self.taken = self.closed = 0
        self.was_closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.number):
            self.taken += 1
            self.pause()
            yield self.piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            await asyncio.sleep(0)
            yield piece

    def close(self) -> None:
        self.closed += 1
        self.was_closed.set()

    async def aclose(self) -> None:
        self.close()


@FRONTS
def test_an_answer_has_its_status_its_headers_in_lower_case_and_its_body(front: str) -> None:
    headers = [("Retry-After", "1"), ("X-A", "1"), ("x-a", "2")]
    answer = sent(front, Both(lambda _: httpx.Response(418, headers=headers, stream=Pieces(b"ab", 3))))
    assert (answer.status, answer.body) == (418, b"ababab")
    assert answer.headers == {"retry-after": "1", "x-a": "1, 2"}


@FRONTS
@pytest.mark.parametrize("extra", [0, 1])
def test_a_body_may_have_a_mebibyte_and_no_byte_more(front: str, extra: int) -> None:
    piece = b"x" * 1024
    stream = Pieces(piece, MAX_ANSWER_BYTES // 1024 + extra)
    answer = sent(front, Both(lambda _: httpx.Response(200, stream=stream)))
    assert len(answer.body) == (0 if extra else MAX_ANSWER_BYTES)
    assert stream.closed


@FRONTS
def test_a_body_that_is_too_large_is_not_read_to_its_end(front: str) -> None:
    stream = Pieces(b"x" * 65536, 1_000_000)
    assert sent(front, Both(lambda _: httpx.Response(500, stream=stream))).status == 500
    assert stream.taken < 20
    assert stream.closed


@FRONTS
def test_a_body_that_was_read_already_has_the_same_bound(front: str) -> None:
    for size, kept in ((MAX_ANSWER_BYTES, MAX_ANSWER_BYTES), (MAX_ANSWER_BYTES + 1, 0)):
        content = b"x" * size
        answer = sent(front, Both(lambda _, content=content: httpx.Response(200, content=content)))
        assert len(answer.body) == kept


@FRONTS
def test_a_compressed_body_is_unpacked_once_whoever_does_it(front: str) -> None:
    packed, headers = gzip.compress(b"{}"), {"content-encoding": "gzip"}
    stream = Pieces(packed, 1)
    for response in (
        httpx.Response(200, headers=headers, stream=stream),
        httpx.Response(200, headers=headers, content=packed),
    ):
        assert sent(front, Both(lambda _, response=response: response)).body == b"{}"


@FRONTS
def test_a_compressed_body_in_single_bytes_is_unpacked(front: str) -> None:
    packed = gzip.compress(b'{"mpid": "1"}')

    class Bytes(Pieces):
        def __iter__(self) -> Iterator[bytes]:
            yield from (packed[n : n + 1] for n in range(len(packed)))

    response = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Bytes(b"", 0))
    assert sent(front, Both(lambda _: response)).body == b'{"mpid": "1"}'


@steady
def test_a_stream_of_a_users_transport_that_dawdles_is_given_up_at_the_deadline() -> None:
    event = threading.Event()
    stream = Pieces(b"x", 1_000_000, pause=lambda: event.wait(0.01))
    began = monotonic()
    with pytest.raises(SendError, match="within the time allowed") as raised:
        sent("sync", Both(lambda _: httpx.Response(200, stream=stream)), seconds=0.2)
    assert_within(monotonic() - began, 0.2 + SLACK_SECONDS)
    assert raised.value.sent
    assert stream.was_closed.wait(PATIENCE_SECONDS)


@steady
def test_a_users_transport_that_sleeps_is_given_up_at_the_deadline() -> None:
    over = threading.Event()
    began = monotonic()
    with pytest.raises(SendError, match="within the time allowed") as raised:
        sent("sync", httpx.MockTransport(lambda _: httpx.Response(200, text=str(over.wait(30)))), seconds=0.2)
    assert_within(monotonic() - began, 0.2 + SLACK_SECONDS)
    assert raised.value.sent
    over.set()


def test_an_event_loop_is_not_kept_by_a_stream_that_never_waits() -> None:
    class Ready(Pieces):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in self:
                yield piece

    stream = Ready(b"x", 1000, pause=lambda: threading.Event().wait(0.01))
    with pytest.raises(SendError, match="within the time allowed"):
        sent("async", Both(lambda _: httpx.Response(200, stream=stream)), seconds=0.2)
    assert stream.taken < 100


@FRONTS
@pytest.mark.parametrize("extra", [0, 1])
def test_a_body_may_come_in_so_many_chunks_and_no_more(front: str, extra: int) -> None:
    stream = Pieces(b"x", MAX_ANSWER_CHUNKS + extra)
    answer = sent(front, Both(lambda _: httpx.Response(200, stream=stream)))
    assert len(answer.body) == (0 if extra else MAX_ANSWER_CHUNKS)


@pytest.mark.parametrize("handler", [[HOLD], behaviours.endless_headers(), behaviours.endless_body()])
@steady
def test_a_transport_of_httpx_is_held_to_the_deadline_too(handler: Handler) -> None:
    with RawServer(handler) as server, httpx.HTTPTransport() as transport:
        began = monotonic()
        with pytest.raises(SendError, match="within the time allowed"):
            sent("sync", transport, request(server.url + "/login"), seconds=0.3)
        assert_within(monotonic() - began, 0.3 + SLACK_SECONDS)


@steady
def test_an_asynchronous_transport_that_never_answers_is_given_up_at_the_deadline() -> None:
    class Never(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError

    began = monotonic()
    with pytest.raises(SendError, match="within the time allowed"):
        sent("async", Never(), seconds=0.2)
    assert_within(monotonic() - began, 0.2 + SLACK_SECONDS)


@FRONTS
@pytest.mark.parametrize(
    ("error", "was_sent"),
    [
        (httpx.ConnectError("x"), False),
        (httpx.ConnectTimeout("x"), False),
        (httpx.PoolTimeout("x"), False),
        (httpx.ProxyError("x"), False),
        (httpx.UnsupportedProtocol("x"), False),
        (httpx.WriteError("x"), True),
        (httpx.ReadError("x"), True),
        (httpx.ReadTimeout("x"), True),
        (httpx.RemoteProtocolError("x"), True),
        (RuntimeError("x"), True),
    ],
)
def test_only_what_failed_before_a_connection_counts_as_not_sent(front: str, error: Exception, was_sent: bool) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(SendError) as raised:
        sent(front, Both(fail))
    assert raised.value.sent is was_sent
    assert raised.value.__cause__ is error


def test_a_sender_closes_the_transport_that_is_its_own_and_no_other() -> None:
    for owned in (True, False):
        transport = Both(ok)
        HttpxSender(transport, owned=owned).close()
        asyncio.run(AsyncHttpxSender(transport, owned=owned).aclose())
        assert transport.closed == (2 if owned else 0)


@FRONTS
def test_a_user_given_httpx_transport_logs_nothing_that_the_service_said(
    front: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "httpcore")
    kind = {"sync": httpx.HTTPTransport, "async": httpx.AsyncHTTPTransport}[front]
    with RawServer([http(302, location="http://h.example/v1/s3cret/modify", connection="close")]) as server:
        assert sent(front, kind(), request(server.url + "/login")).status == 302
    assert any("receive_response_headers" in record.getMessage() for record in caplog.records)
    assert not any("s3cret" in record.getMessage() for record in caplog.records)


# Names and addresses


@FRONTS
def test_a_name_with_several_addresses_is_tried_until_one_answers(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def two(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        # Nobody listens at the first: the server below is bound to 127.0.0.1 alone.
        if host not in ("localhost", b"localhost"):
            return real(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with RawServer(answers(USER)) as server:
        url = f"http://localhost:{server.port}/v1"
        with opened(front, base_url=url, retry=None) as driven:
            assert driven.login(LOGIN).http_code == 200


@FRONTS
@steady
def test_a_resolver_that_hangs_does_not_hold_up_a_call(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        release.wait(5)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with opened(front, base_url="https://h.example/v1", timeout=0.3) as driven:
            began = monotonic()
            result = driven.login(LOGIN)
            assert_within(monotonic() - began, 0.3 + SLACK_SECONDS)
            assert result.http_code == -1
        assert_within(monotonic() - began, 0.3 + 2 * SLACK_SECONDS, "neither does it hold up the end of an event loop")
    finally:
        release.set()


def test_a_name_without_an_address_is_no_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [])
    with opened("sync", base_url="https://h.example/v1", retry=None) as driven:
        result = driven.login(LOGIN)
        assert result.http_code == -1
        assert "no address" in result.body


# TLS


@FRONTS
def test_a_server_that_cannot_do_tls_is_no_coverage(front: str) -> None:
    with RawServer(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        url = f"https://127.0.0.1:{server.port}/v1"
        with opened(front, base_url=url, retry=None) as driven:
            result = driven.login(LOGIN)
    assert result.http_code == -1
    assert result.body.startswith("no connection to the service")


@FRONTS
@steady
def test_the_deadline_holds_while_tls_is_agreed_upon(front: str) -> None:
    with RawServer(Peer.hold) as server:
        url = f"https://127.0.0.1:{server.port}/v1"
        with opened(front, base_url=url, timeout=0.5) as driven:
            began = monotonic()
            assert driven.login(LOGIN).http_code == -1
            assert_within(monotonic() - began, 0.5 + SLACK_SECONDS)
    gc.collect()  # which would say so if it found an open socket


# Proxies


@FRONTS
def test_the_proxy_that_the_environment_names_is_asked_for_the_service(
    front: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
    with RawServer([refusal]) as proxy:
        monkeypatch.setenv("https_proxy", f"http://us%20er:pa55@127.0.0.1:{proxy.port}")
        with opened(front, "s3cret-key", base_url="https://h.example/v1", retry=None) as driven:
            result = driven.login(LOGIN)
    assert result.http_code == -1
    assert result.body.startswith("no connection to the service")
    assert "pa55" not in result.body
    [connect] = proxy.requests
    assert (connect.method, connect.target) == ("CONNECT", "h.example:443")
    assert connect.headers["proxy-authorization"] == "Basic dXMgZXI6cGE1NQ=="  # "us er:pa55"
    assert b"s3cret-key" not in connect.raw


@FRONTS
def test_a_proxy_may_be_named_without_a_scheme_and_without_a_user(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer([b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n"]) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.port}")
        with opened(front, base_url="https://h.example/v1", retry=None) as driven:
            assert driven.login(LOGIN).http_code == -1
    [connect] = proxy.requests
    assert "proxy-authorization" not in connect.headers


@FRONTS
@pytest.mark.parametrize("handler", [[HOLD], [lambda peer: peer.drip(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000)]])
@steady
def test_the_deadline_holds_whatever_a_proxy_does(front: str, handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(handler) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with opened(front, base_url="https://h.example/v1", timeout=0.4) as driven:
            began = monotonic()
            assert driven.login(LOGIN).http_code == -1
            assert_within(monotonic() - began, 0.4 + SLACK_SECONDS)


@FRONTS
@steady
def test_the_deadline_holds_when_tls_within_the_tls_of_a_proxy_drips(
    front: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))

    def drip(peer: Peer) -> None:
        assert peer._socket.recv(65536)  # the greeting
        peer.drip(b"\x16\x03\x03\x40\x00" + bytes(1000))  # a long record

    with RawServer(secured([b"HTTP/1.1 200 OK\r\n\r\n", drip])) as proxy:
        monkeypatch.setenv("https_proxy", f"HTTPS://localhost:{proxy.port}")
        with opened(front, base_url="https://h.example/v1", timeout=0.4) as driven:
            began = monotonic()
            assert driven.login(LOGIN).http_code == -1
            assert_within(monotonic() - began, 0.4 + SLACK_SECONDS)
    assert proxy.requests[0].method == "CONNECT"


@FRONTS
@pytest.mark.parametrize("proxy", ["http://", "://", "nonsense://127.0.0.1:1", "http://127.0.0.1:1", "http://[", "a b"])
def test_a_proxy_that_is_none_is_no_coverage(front: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was sent, and the text says why."""
    monkeypatch.setenv("https_proxy", proxy)
    with opened(front, base_url="https://h.invalid/v1", retry=None, timeout=3) as driven:
        result = driven.login(LOGIN)
        assert result.http_code == -1
        assert result.body.startswith("no connection to the service (")


@FRONTS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_comes_between_a_session_and_this_machine(
    front: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer([]) as proxy, RawServer(answers(USER)) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with opened(front, base_url=f"http://{host}:{server.port}/v1") as driven:
            assert driven.login(LOGIN).http_code == 200
        assert proxy.connections == 0


@FRONTS
def test_a_host_that_needs_no_proxy_is_asked_directly(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer([]) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "h.invalid")
        with opened(front, base_url="https://h.invalid/v1", retry=None) as driven:
            assert driven.login(LOGIN).http_code == -1
        assert proxy.connections == 0
