"""A listening socket that takes no more newcomers."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest
from http_serving import PATIENCE_SECONDS

from identity_session.idsync.connections import ignore_newcomers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has filters of sockets")

REFUSED_SECONDS = 0.3
"""Long after a loopback would have made the connection."""


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        sock = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {request.param}")
    with sock:
        yield sock


def connected(listening: socket.socket, seconds: float = PATIENCE_SECONDS) -> socket.socket:
    return socket.create_connection(listening.getsockname()[:2], seconds)


def test_newcomers_hear_nothing_and_those_in_the_queue_are_served(listening: socket.socket) -> None:
    """Under IPv4 and IPv6: a connection in the queue, and one that was accepted, go on in both directions."""
    with connected(listening) as first, listening.accept()[0] as accepted, connected(listening) as waiting:
        ignore_newcomers(listening)
        with pytest.raises(TimeoutError):
            connected(listening, REFUSED_SECONDS)
        with listening.accept()[0] as taken:
            for ours, theirs in ((accepted, first), (taken, waiting)):
                theirs.sendall(b"question")
                assert ours.recv(100) == b"question"
                ours.sendall(b"answer")
                ours.close()
                assert [theirs.recv(100), theirs.recv(100)] == [b"answer", b""]


def test_it_holds_for_every_process_that_shares_the_socket(listening: socket.socket) -> None:
    """The filter sits on the socket, whichever of its owners asked for it, and may be asked for twice."""
    with listening.dup() as other:
        ignore_newcomers(other)
        ignore_newcomers(listening)
    with pytest.raises(TimeoutError):
        connected(listening, REFUSED_SECONDS)


def test_a_socket_without_filters_is_left_alone() -> None:
    """One that is closed, here: the end must come all the same."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.close()
    ignore_newcomers(sock)
