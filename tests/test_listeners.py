"""Callbacks and listeners: what is said of one that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from identity_session.listeners import Message, tell, tell_async


def tell_in_loop(messages: list[Message]) -> None:
    asyncio.run(tell_async(messages))


both_fronts = pytest.mark.parametrize("tell_all", [tell, tell_in_loop])


@both_fronts
def test_a_callback_that_raises_is_named_by_its_place(
    tell_all: Callable[[list[Message]], None], caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: str) -> None:
        raise KeyError("jekyll@example.com")

    tell_all([(fails, ("jekyll@example.com",))])
    line = fails.__code__.co_firstlineno + 1
    assert caplog.messages == [f"a callback raised KeyError at {__file__}:{line}"]


@both_fronts
def test_a_callback_that_takes_other_arguments_is_told_how_many_it_gets(
    tell_all: Callable[[list[Message]], None], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    tell_all([(lambda user: None, ("user", "previous user")), (heard.append, ("user",))])
    assert caplog.messages == ["a callback raised TypeError when called with 2 argument(s)"]
    assert heard == ["user"]


def cancelled_work() -> asyncio.Future[None]:
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    work.cancel()
    return work


def test_a_callback_whose_own_work_was_cancelled_silences_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody has cancelled the call."""

    async def waits(_: str) -> None:
        await cancelled_work()

    heard: list[str] = []
    tell_in_loop([(waits, ("user",)), (heard.append, ("user",))])
    assert heard == ["user"]
    assert [message.split(" at ")[0] for message in caplog.messages] == ["a callback raised CancelledError"]


def test_a_call_that_is_cancelled_while_a_callback_waits_is_so(caplog: pytest.LogCaptureFixture) -> None:
    async def told() -> list[str]:
        heard: list[str] = []
        begun = asyncio.Event()

        async def waits(_: str) -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(tell_async([(waits, ("user",)), (heard.append, ("user",))]))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return heard

    assert asyncio.run(told()) == []
    assert caplog.messages == []
