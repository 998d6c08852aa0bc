"""Words that must not be found where they do not belong, in whatever way they are spelled there."""

from __future__ import annotations

import base64
import json
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any, Self
from urllib.parse import quote, quote_plus

SECRETS: Mapping[str, str] = {
    "API key": "us1-canarykey0f4a9e7c2b",
    "API secret": "canarysecret-d41/8c+d98f00",
    "token": "canarytoken-7b52a1e9",
    "password": "canarypassword-51c4",
}
PERSONAL: Mapping[str, str] = {
    "email": 'canary.email+"tag"\u00e9@example.com',
    "customer id": "canary customer 4711/\u03bb",
    "other email": "canary.other@example.com",
    "attribute": "canary attribute <b>&'\u20ac'</b>",
    "attribute in a list": "canary list item",
    "consent document": "canary consent document",
    "consent location": "canary consent location",
    "consent hardware": "canary-consent-hardware",
    "device": "canary-device-8f14e45f",
    "context": "canary-context-c4ca4238",
    "workspace token": "canary-workspace-token",
    "MPID": "8675309424242424242",
    "anonymous MPID": "-8675309171717171717",
}
CANARIES = {**SECRETS, **PERSONAL}


def spellings(word: str) -> set[str]:
    """A word as it may appear: plain, escaped for JSON, URLs and Python, in hex, and in base64 wherever it begins."""
    data = word.encode()
    found = {
        word,
        json.dumps(word)[1:-1],
        json.dumps(word, ensure_ascii=False)[1:-1],
        repr(word)[1:-1],
        repr(data)[2:-1],
    }
    found |= {quote(word), quote(word, safe=""), quote_plus(word), data.hex(), ascii(word)[1:-1]}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data).decode()
        within = encoded[(offset * 8 + 5) // 6 :].rstrip("=")[:-1]  # without letters that hold bits of what is around
        found |= {within, within.replace("+", "-").replace("/", "_")}
    return found


_SPELLINGS = {name: spellings(word) for name, word in CANARIES.items()}


def leaks(text: str, words: Mapping[str, str] = CANARIES) -> list[str]:
    """The names of the words that this text shows."""
    lower = text.lower()
    return [name for name in words if any(each in text or each.lower() in lower for each in _SPELLINGS[name])]


class Records(logging.Handler):
    """Every log record of every logger, down to DEBUG, as it would be printed and as the objects it holds."""

    def __init__(self) -> None:
        super().__init__(0)
        self.names: set[str] = set()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.names.add(record.name)
        formatted = logging.Formatter("%(name)s %(message)s").format(record)
        self.text += f"{formatted}\n{record.args!r}\n"

    def __enter__(self) -> Self:
        self._root, self._level = logging.getLogger(), logging.getLogger().level
        self._levels = {
            name: logger.level
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger)
        }
        self.open()
        self._root.addHandler(self)
        return self

    def open(self) -> None:
        """Let every logger say everything; once more for one that was silenced since."""
        names = {*self._levels, "httpx", "httpcore", "asyncio", "identity_session", "uvicorn.access", "uvicorn.error"}
        for name in names:
            logging.getLogger(name).setLevel(1)
        self._root.setLevel(1)

    def __exit__(self, *error: object) -> None:
        self._root.removeHandler(self)
        self._root.setLevel(self._level)
        for name, logger in logging.root.manager.loggerDict.items():
            if isinstance(logger, logging.Logger):
                logger.setLevel(self._levels.get(name, logging.NOTSET))


def printed(error: BaseException) -> str:
    """A traceback with all that led to it, as Python prints it."""
    return "".join(traceback.format_exception(error))


def captured(error: BaseException) -> str:
    """The same with the local variables of each frame, as error reporters record them; those of tests are left out."""
    text, seen, chain = "", set(), [error]
    while chain:
        each = chain.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        chain += [each.__cause__ or (None if each.__suppress_context__ else each.__context__)]  # type: ignore[list-item]
        text += f"{each!r} {each} {each.args!r} {vars(each)!r}\n"
        for frame, line in traceback.walk_tb(each.__traceback__):
            if not _is_test(frame):
                text += f"{frame.f_code.co_qualname}:{line} {' '.join(map(_text_of, frame.f_locals.values()))}\n"
    return text


def _is_test(frame: FrameType) -> bool:
    return "/tests/" in frame.f_code.co_filename or "/_pytest/" in frame.f_code.co_filename


class Objects:
    """Prints every object of the package that any of its functions has as a local variable, while it is entered."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, str], str] = {}
        self._guard = threading.local()

    def __enter__(self) -> Self:
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    def _look(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "return" or getattr(self._guard, "busy", False):
            return
        if not frame.f_globals.get("__name__", "").startswith("identity_session"):
            return
        self._guard.busy = True
        try:
            for value in (*frame.f_locals.values(), argument):
                self._note(value)
        finally:
            self._guard.busy = False

    def _note(self, value: Any) -> None:
        kind = type(value)
        if kind.__module__.startswith("identity_session") and not isinstance(value, str | int):
            text = _text_of(value)
            for name in leaks(text):
                self.shown.setdefault((f"{kind.__module__}.{kind.__qualname__}", name), text[:200])


def _text_of(value: Any) -> str:
    try:
        return f"{value!r} {value}"
    except Exception:  # half-made objects, inside their own constructor
        return ""
