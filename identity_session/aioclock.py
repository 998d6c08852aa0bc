"""Waits and deadlines in an event loop, woken by a thread: they end even where the loop's own clock is frozen. And work
that goes on to its end, however often the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


async def pause_async(seconds: float) -> None:
    """Wait this long in the event loop."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    with _alarm(seconds, loop, over.set):
        await over.wait()


@contextlib.asynccontextmanager
async def async_deadline(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError inside the block once this many seconds are over."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        with _alarm(seconds, loop, lambda: limit.reschedule(loop.time())):
            yield


async def to_its_end(work: asyncio.Future[T]) -> T:
    """Wait for this work; who is cancelled meanwhile, once or more, is so when it is done."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return work.result()
    if not work.cancelled():
        work.exception()  # nobody asks for it any more
    raise cancelled


@contextlib.contextmanager
def _alarm(seconds: float, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]) -> Iterator[None]:
    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed at this very moment
            loop.call_soon_threadsafe(lambda: None if done else ring())

    done = False
    timer = threading.Timer(max(seconds, 0), wake)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        done = True
        timer.cancel()
