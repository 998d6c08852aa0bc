"""How much is read and for how long: sizes, slow clients, deep JSON, and connections that end without an answer."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from http_serving import PATIENCE_SECONDS, Client, read_to_end
from idsync_driver import KEY
from servers import opened
from steady import LateError, assert_within, steady

from identity_session.idsync import LocalIDSync, app, connections
from identity_session.idsync.requests import BODY_LIMIT_BYTES
from identity_session.idsync.serve import listener

GZIP = {**KEY, "content-encoding": "gzip"}


def padded(size: int) -> bytes:
    """A valid identify of exactly this many bytes."""
    body = b'{"environment":"development","known_identities":{"customerid":"1"},"pad":"%s"}'
    return body % (b"x" * (size - len(body) + 2))


def test_the_limit_is_exact(client: Client) -> None:
    """256 KB pass, one byte more does not, as sent and as unpacked."""
    assert client.post("/v1/identify", padded(BODY_LIMIT_BYTES)).status == 200
    assert client.post("/v1/identify", padded(BODY_LIMIT_BYTES + 1)).status == 413
    assert client.post("/v1/identify", gzip.compress(padded(BODY_LIMIT_BYTES)), GZIP).status == 200
    assert client.post("/v1/identify", gzip.compress(padded(BODY_LIMIT_BYTES + 1)), GZIP).status == 413


@pytest.mark.parametrize("target", ["/v1/identify", "/v1/1/modify", "/v1/identity/k/Alias", "/emulator/profiles"])
@pytest.mark.parametrize("size", [BODY_LIMIT_BYTES + 1, 1_000_000, 20_000_000])
@steady
def test_a_large_body_is_answered_and_not_kept(client: Client, target: str, size: int) -> None:
    """The answer arrives although the client is still sending."""
    try:
        answer = client.post(target, b"x" * size)
    except ConnectionError as lost:
        raise LateError("what is left of a body is read for two seconds") from lost
    assert answer.status == 413
    assert b"256 KB" in answer.raw


@steady
def test_a_bomb_is_not_unpacked(client: Client) -> None:
    """A few KB that would be hundreds of MB."""
    started = time.monotonic()
    assert client.post("/v1/identify", gzip.compress(b" " * 200_000_000, 1), GZIP).status == 413
    assert_within(time.monotonic() - started, 5)


@pytest.mark.parametrize("body", [b"x", b"\x1f\x8b", gzip.compress(b"{}")[:-3], b""])
def test_broken_gzip_is_invalid_data(client: Client, body: bytes) -> None:
    answer = client.post("/v1/identify", body, GZIP)
    assert (answer.status, answer.error[0]) == (400, "INVALID_DATA")


@pytest.mark.parametrize("deep", [b"[" * 40_000 + b"]" * 40_000, b'{"a":' * 40_000 + b"1" + b"}" * 40_000])
@pytest.mark.parametrize("target", ["/v1/identify", "/v1/1/modify", "/emulator/import", "/emulator/profiles"])
def test_deep_json_is_refused(client: Client, target: str, deep: bytes) -> None:
    """It costs no stack, whether it is the body or stands somewhere in it."""
    for body in (deep, b'{"environment":"development","known_identities":{"email":"a"},"x":' + deep + b"}"):
        assert len(body) < BODY_LIMIT_BYTES
        assert client.post(target, body).status == 400


@steady
def test_a_head_that_drips_is_cut_off(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a byte now and then nor silence keeps a connection; nor does it on a connection used before."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    head = b"GET /emulator/health HTTP/1.1\r\nHost: localhost\r\n"
    for before in (b"", head + b"\r\n"):
        with socket.create_connection(("127.0.0.1", client.port), PATIENCE_SECONDS) as connection:
            started = time.monotonic()
            connection.sendall(before)
            if before:
                connection.recv(65536)
            assert drip(connection, head + b"x-pad: " + b"x" * 1000) < 500
            assert_within(time.monotonic() - started, 3)
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE_SECONDS) as connection:
        assert read_to_end(connection) == b""


@steady
def test_a_body_that_drips_is_cut_off(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an answer that says so."""
    monkeypatch.setattr(app, "BODY_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE_SECONDS) as connection:
        started = time.monotonic()
        connection.sendall(b"POST /v1/identify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        drip(connection, b"x" * 999)
        assert_within(time.monotonic() - started, 4)


def test_a_page_reads_that_its_body_took_too_long(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it reads other errors of a call; of the emulator it reads nothing."""
    monkeypatch.setattr(app, "BODY_SECONDS", 0.1)
    for target, readable in (("/v1/identify", True), ("/emulator/profiles", False)):
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        answer = client.raw(head.encode())
        assert answer.startswith(b"HTTP/1.1 408")
        assert (b"access-control-allow-origin: *" in answer.lower()) is readable


def test_an_import_may_take_longer(client: Client, idsync: LocalIDSync, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a thousand times as large as other bodies."""
    monkeypatch.setattr(app, "BODY_SECONDS", 0.1)
    body = json.dumps(idsync.export_state()).encode()
    head = f"POST /emulator/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE_SECONDS) as connection:
        connection.sendall(head.encode() + body[:1])
        time.sleep(0.5)
        connection.sendall(body[1:])
        assert connection.recv(12) == b"HTTP/1.1 204"


@steady
def test_a_large_body_is_read_in_time_that_grows_with_its_size() -> None:
    """However small the pieces it comes in."""

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"x" * 4096, "more_body": True}

    started = time.monotonic()
    assert len(asyncio.run(app._Body(receive).read(10_000_000, 60.0))) == 10_000_000
    assert_within(time.monotonic() - started, 3)


def test_an_export_is_written_beside_the_loop(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one takes seconds, in which others want their answers."""
    loops = []

    def dumps(value: object) -> str:
        loops.append(asyncio._get_running_loop())
        return json.dumps(value)

    monkeypatch.setattr(app, "json", SimpleNamespace(dumps=dumps))
    assert client.emulator("GET", "export").status == 200
    assert loops == [None]


def drip(connection: socket.socket, data: bytes) -> int:
    """Send a byte at a time until the other side is gone. Returns how many it took."""
    for number, byte in enumerate(data):
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return number
        time.sleep(0.005)
    return len(data)


def test_a_large_head_is_refused(client: Client) -> None:
    answer = client.raw(b"GET /emulator/health HTTP/1.1\r\nHost: localhost\r\nx-pad: " + b"x" * 200_000)
    assert answer.startswith(b"HTTP/1.1 400") or answer == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\xa5\x01",
        b"GET\r\n\r\n",
        b"\0" * 100,
        b"POST /v1/identify HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(client: Client, data: bytes) -> None:
    """TLS on a plain port among it."""
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE_SECONDS) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection).split(b" ", 2)[1:2] in ([b"400"], [])


@pytest.mark.parametrize(("when", "written"), [("before", 0), ("after", 1)])
def test_a_drop_closes_the_connection_without_an_answer(
    client: Client, idsync: LocalIDSync, when: str, written: int
) -> None:
    """Before or after the write; the next connection is served."""
    idsync.reset()
    client.emulator("PUT", "faults", {"faults": [{"endpoint": "identify", "times": 1, "drop": when}]})
    body = json.dumps({"environment": "development", "known_identities": {"customerid": "1"}}).encode()
    head = f"POST /v1/identify HTTP/1.1\r\nHost: localhost\r\nx-mp-key: k\r\nContent-Length: {len(body)}\r\n\r\n"
    assert client.raw(head.encode() + body) == b""
    assert len(idsync.profiles()) == written
    assert client.call("identify", {"customerid": "1"}).status == 200


@pytest.mark.parametrize(("when", "written"), [("before", 0), ("after", 1)])
def test_a_drop_is_no_answer_under_another_server(
    idsync: LocalIDSync, caplog: pytest.LogCaptureFixture, when: str, written: int
) -> None:
    """One that cannot close connections for the application closes one whose answer is left unfinished; its log has a
    line at most, and the next call is served."""
    idsync.reset()
    with (
        plain_uvicorn(idsync) as port,
        opened("sync", "k", base_url=f"http://127.0.0.1:{port}/v1", retry=None) as session,
    ):
        idsync.set_faults([{"endpoint": "identify", "times": 1, "drop": when}])
        assert session.start().http_code == -1
        assert len(idsync.profiles()) == written
        assert session.login({"userIdentities": {"customerid": "1"}}).http_code == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_a_drop_is_no_answer_within_the_process(idsync: LocalIDSync) -> None:
    """To a session that has the application without a server."""
    transport = httpx.ASGITransport(idsync.app)
    with opened("async", "k", base_url="http://localhost/v1", transport=transport, retry=None) as session:
        idsync.set_faults([{"endpoint": "identify", "times": 1, "drop": "before"}])
        assert session.start().http_code == -1
        assert session.start().http_code == 200


@contextlib.contextmanager
def plain_uvicorn(idsync: LocalIDSync) -> Iterator[int]:
    """The application under uvicorn as it comes, in a thread."""
    server = uvicorn.Server(uvicorn.Config(idsync.app, log_config=None, ws="none"))
    with listener("127.0.0.1", 0) as sock:
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()


@steady
def test_latency_holds_one_call_back_and_no_other(client: Client) -> None:
    client.emulator("PUT", "faults", {"faults": [{"endpoint": "search", "times": 1, "latency_ms": 400}]})
    started = time.monotonic()
    client.call("search", {"customerid": "1"})
    assert time.monotonic() - started >= 0.4
    started = time.monotonic()
    client.call("search", {"customerid": "1"})
    assert_within(time.monotonic() - started, 0.3)


def test_logs_hold_nothing_of_a_request(
    idsync: LocalIDSync, client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when the service itself fails, at any level."""
    with caplog.at_level(logging.DEBUG):
        client.post("/v1/identity/k-secret-key/Alias", {"data": "private-value"})
        client.call("/v1/identify?who=private-value", {"email": "private-value"})
        client.raw(b"private-value\r\n\r\n")

        def fail() -> None:
            raise RuntimeError("private-value")

        monkeypatch.setattr(idsync, "profiles", fail)
        answer = client.emulator("GET", "profiles")
        assert (answer.status, "private" in answer.body["error"]) == (500, False)
    assert "private-value" not in caplog.text
    assert "secret-key" not in caplog.text
    assert "a request failed: RuntimeError at" in caplog.text
