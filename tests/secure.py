"""TLS for `RawServer`, with a certificate for localhost that nobody trusts by himself."""

from __future__ import annotations

import ssl
from pathlib import Path

from identity_session.testing.faults import Handler, Peer, RawServer

CERTIFICATE = Path(__file__).parent / "data" / "localhost.pem"


def secured(handler: Handler) -> Handler:
    """The same handler, once TLS is agreed upon."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    def serve(peer: Peer) -> None:
        peer._socket = context.wrap_socket(peer._socket, server_side=True)
        if callable(handler):
            handler(peer)
        elif peer.request():
            for step in handler:
                peer.send(step) if isinstance(step, bytes) else step(peer)  # type: ignore[operator]

    return serve


def secure_url(server: RawServer, host: str = "localhost") -> str:
    """Where this server is, by the name in its certificate or another one."""
    return f"https://{host}:{server.port}/v1"
