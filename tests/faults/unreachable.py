"""A place on this machine to which no connection is ever made."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from required import absent


@contextlib.contextmanager
def nobody_listening() -> Iterator[str]:
    """The URL of a port that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield _url(unused)


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of a listener who accepts nobody, and at whom as many are waiting as may: who connects now waits too."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(20):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.3)
            try:
                waiting.connect(listener.getsockname())
            except TimeoutError:
                yield _url(listener)
                return
            except OSError:
                break
        absent("backlog", "a listener whose backlog is full does not make a client wait")


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
