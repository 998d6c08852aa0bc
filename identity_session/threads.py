"""Threads that no process waits for, and locks that a forked child does not inherit from threads it does not have."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import ref

if TYPE_CHECKING:
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")


def in_daemon_thread(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> Future[T]:
    """Run the function in a thread of its own, which is left behind where the process ends first.

    The threads of an executor are not: Python waits for them, however long they hang.
    """
    from concurrent.futures import Future  # as costly to import as the rest of this package

    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # it cannot be cancelled any more
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(function, *arguments, **options))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


_renewals: dict[int, tuple[ref[Any], Callable[[Any], object]]] = {}
"""By the identity of owners, which need not be hashable."""


def after_fork(owner: T, renew: Callable[[T], object]) -> None:
    """Have `renew(owner)` called in every forked child, for as long as the owner lives; an owner has one such function.

    A lock that another thread of the parent held would stay locked in the child for ever, for that thread is not there.
    """
    key = id(owner)
    _renewals[key] = ref(owner, lambda _: _renewals.pop(key, None)), renew


def _renew_all() -> None:
    for reference, renew in list(_renewals.values()):
        owner = reference()
        if owner is not None:
            renew(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
