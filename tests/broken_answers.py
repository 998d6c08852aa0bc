"""Answers that are none: what breaks HTTP, and what HTTP brings but nobody can use."""

from __future__ import annotations

import gzip
import json

from raw_journeys import USER
from servers import RESET, Handler, http, user_answer

BROKEN: dict[str, Handler] = {
    "reset before the answer": [RESET],
    "reset in the status line": [b"HTTP/1.1 2", RESET],
    "reset in mid-body": [USER[:-10], RESET],
    "closed before the answer": [],
    "closed in the status line": [b"HTTP/1.1 2"],
    "closed in the headers": [b"HTTP/1.1 200 OK\r\nx-a: b\r\n"],
    "closed in mid-body": [USER[:-10]],
    "closed in mid-chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n50\r\n{"],
    "closed at once": lambda peer: None,
    "not HTTP": [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
    "nonsense": [bytes(range(256)) * 10],
    "TLS alert": [b"\x15\x03\x01\x00\x02\x02\x46"],
    "a status that is no number": [b"HTTP/1.1 abc OK\r\n\r\n"],
    "a length that is no number": [b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}"],
    "a negative length": [b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{}"],
    "two lengths": [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"],
    "a length that is too long": [http(200, {}, content_length=500)],
    "a length beyond all bounds": [b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n{}"],
    "an encoding nobody knows": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n{}"],
    "a chunk that is none": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
    "a negative chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n"],
    "a chunk beyond all bounds": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 25 + b"\r\n{}"],
    "NUL in a header": [b"HTTP/1.1 200 OK\r\nx-a: \0\r\ncontent-length: 2\r\n\r\n{}"],
    "a header without a name": [b"HTTP/1.1 200 OK\r\n: b\r\ncontent-length: 2\r\n\r\n{}"],
    "HTTP/0.9": [b'{"mpid": "1"}'],
    "HTTP/2": [b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64\0\4\0\0\xff\xff\0\5\0\0\x40\0"],
    "the preface of HTTP/2": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    "an upgrade nobody asked for": [http(101, b"", content_length=None, connection="upgrade", upgrade="h2c")],
    "headers of a megabyte": [b"HTTP/1.1 200 OK\r\nx-a: " + b"b" * (1 << 20)],
}
"""Handlers after which there is no answer at all."""

UNREADABLE: dict[str, bytes] = {
    "declared gzip that is none": http(200, b'{"mpid": "1"}', content_encoding="gzip"),
    "gzip cut short": http(200, gzip.compress(json.dumps(user_answer()).encode())[:40], content_encoding="gzip"),
    "another compression": http(200, b"\x8b\x02\x80{}", content_encoding="br"),
    "HTML": http(200, b"<html>Sign in to this network</html>", content_type="text/html"),
    "empty": http(200),
    "null": http(200, None),
    "a list": http(200, [user_answer()]),
    "a text": http(200, "mpid"),
    "a number": http(200, 2),
    "cut short": http(200, b'{"mpid": "2"'),
    "two objects": http(200, b'{"mpid": "2"}{"mpid": "3"}'),
    "NaN": http(200, b'{"mpid": "2", "a": NaN}'),
    "Infinity": http(200, b'{"mpid": "2", "a": -Infinity}'),
    "a number of 5,000 digits": http(200, b'{"mpid": "2", "a": ' + b"9" * 5000 + b"}"),
    "nested too deep": http(200, b'{"a":' * 100_000),
    "nested too deep, and complete": http(200, b'{"mpid": "2", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "not UTF-8": http(200, b'{"mpid": "\xff"}'),
}
"""Whole answers with status 200 that are no JSON object."""
