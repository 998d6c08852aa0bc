"""A person who is logged in, and what a `logout(offline="forget")` must leave of them: for tests on both fronts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import KEY, Scripted, ids, session, user
from servers import Driven, opened
from storage_helpers import tree

from identity_session import IdentitySession, JsonStorage
from identity_session.exchange import HTTPAnswer, HTTPRequest

PERSON, EMAIL, CONTEXT = "7000111222333444555", "h.jekyll@example.com", "context of the person"
ANONYMOUS = "100"
KEEPING = pytest.mark.parametrize("keep_user", [True, False], ids=["keeping the record", "keeping nothing"])


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
    files = tree(path)
    assert files
    for name, content in files.items():
        for trace in (PERSON, EMAIL, CONTEXT):
            assert trace.encode() not in content, name


def full(*_: Any) -> None:
    """What a full disk says."""
    raise OSError(errno.ENOSPC, "No space left on device")


class Slow:
    """Answers with 503 after a moment; says when it was asked."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        self.asked.set()
        await asyncio.sleep(0.005)
        return HTTPAnswer(503, {}, b"")

    async def aclose(self) -> None: ...
