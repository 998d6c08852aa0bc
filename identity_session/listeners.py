"""Who hears what: callbacks and listeners, each once and each on its own.

Source: Web SDK src/identity.js (order: deprecated alias hook, then those who follow the user, then the callback).
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from inspect import isawaitable
from typing import Any

logger = logging.getLogger("identity_session")

Message = tuple[Callable[..., object], tuple[Any, ...]]


class Listeners:
    """The functions that are told of every user whom the service named."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[..., object]] = {}

    def add(self, listener: Callable[..., object]) -> Callable[[], None]:
        """Add a listener; returns a function that removes it. Raises TypeError for what cannot be called."""
        check_callable("listener", listener)
        token = object()
        self._listeners[token] = listener

        def remove() -> None:
            self._listeners.pop(token, None)

        return remove

    def __iter__(self) -> Iterator[Callable[..., object]]:
        return iter(list(self._listeners.values()))


def check_callable(name: str, value: object) -> None:
    """Raise TypeError unless this is None or can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")


def tell(messages: list[Message]) -> None:
    """Call each function with its arguments, in order; one that raises is logged and stops no other."""
    for function, arguments in messages:
        try:
            function(*arguments)
        except Exception as error:
            _log(error, len(arguments))


async def tell_async(messages: list[Message]) -> None:
    """The same; a function may return an awaitable, which is awaited before the next one is called."""
    import asyncio  # which a synchronous program does without

    for function, arguments in messages:
        try:
            answer = function(*arguments)
            if isawaitable(answer):
                await answer
        except Exception as error:
            _log(error, len(arguments))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            _log(error, len(arguments))  # what it waited for was cancelled, not this call


def _log(error: BaseException, count: int) -> None:
    # Neither the message nor the traceback: both may show identity values.
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = (
        f"at {last.filename}:{last.lineno}" if last.filename != __file__ else f"when called with {count} argument(s)"
    )
    logger.error("a callback raised %s %s", type(error).__name__, where)
