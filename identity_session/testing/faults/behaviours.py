"""How servers misbehave, by name: handlers for `RawServer`.

Each plays its part on every request of a connection, or until the client leaves.
"""

from __future__ import annotations

import itertools
import zlib

from .servers import HOLD, RESET, Handler, Peer, answers, http

_CHUNK = b" " * 65536
_CHUNKS_PER_MEBIBYTE = (1 << 20) // len(_CHUNK)


def black_hole() -> Handler:
    """Takes everything in and never answers."""
    return Peer.hold


def early_close() -> Handler:
    """Reads the request and closes the connection without an answer."""
    return []


def reset(answer: bytes = b"") -> Handler:
    """Sends so much of an answer and breaks the connection off."""
    return [answer, RESET]


def truncated(answer: bytes) -> Handler:
    """Sends all but the last byte of an answer and closes the connection."""
    return [answer[:-1]]


def stalled(answer: bytes) -> Handler:
    """Sends all but the last byte of an answer, keeps the connection and says nothing more."""
    return [answer[:-1], HOLD]


def drip(answer: bytes, every: float = 0.02) -> Handler:
    """Sends an answer a byte at a time, one every so many seconds."""
    return [lambda peer: peer.drip(answer, every)]


def endless_headers(every: float = 0.02) -> Handler:
    """Sends headers without end, a byte every so many seconds."""
    return [b"HTTP/1.1 200 OK\r\n", lambda peer: peer.drip(itertools.cycle(b"x-a: b\r\n"), every)]


def endless_body(every: float = 0.02) -> Handler:
    """Sends a body without end, a byte every so many seconds."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    return [head, lambda peer: peer.drip(itertools.cycle(b" "), every)]


def huge_body(mebibytes: int = 200) -> Handler:
    """Sends a body of this size, as fast as it is taken."""
    chunks = mebibytes * _CHUNKS_PER_MEBIBYTE

    def send(peer: Peer) -> None:
        for _ in range(chunks):
            peer.send(_CHUNK)

    return [http(200, b"", content_length=chunks * len(_CHUNK)), send]


def gzip_bomb(mebibytes: int = 200) -> Handler:
    """Answers with few bytes that unpack to this size."""
    packer = zlib.compressobj(wbits=31)
    packed = [packer.compress(_CHUNK) for _ in range(mebibytes * _CHUNKS_PER_MEBIBYTE)]
    return answers(http(200, b"".join([*packed, packer.flush()]), content_encoding="gzip"))


def html_page(status: int = 200) -> Handler:
    """Answers with a web page, as a proxy or a login page of a network does."""
    page = b"<!doctype html><title>Error</title><p>Please sign in.</p>"
    return answers(http(status, page, content_type="text/html; charset=utf-8"))


def empty_body(status: int = 200) -> Handler:
    """Answers without a body."""
    return answers(http(status))


def redirect(location: str, status: int = 302) -> Handler:
    """Answers that the service is elsewhere."""
    return answers(http(status, location=location))


def throttled(retry_after: object, status: int = 429) -> Handler:
    """Answers that the service has enough, with this `Retry-After`: seconds, a date, or nonsense."""
    return answers(http(status, retry_after=retry_after))
