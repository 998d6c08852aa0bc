"""Who may speak to a served service: the name it is called by, pages of other sites, the token of `/emulator`.

A page on the web can make a browser call any port of this machine, and a name of its own that resolves to 127.0.0.1
(DNS rebinding) makes the answer readable to it. So the `Host` header is checked before anything is read or written.
Sources: "HTTP Semantics" (RFC 9110), section 7.2, for the header; "Fetch Metadata Request Headers" of the W3C.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^:\[\]/@]+)(:[0-9]*)?", re.ASCII)

_OWN_SITES = frozenset({"same-origin", "none"})
"""What a browser says of requests of a service's own pages, and of people who type an address."""

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, as ASGI has them."""


@dataclass(frozen=True)
class Refusal:
    """Why a request goes no further."""

    status: int
    text: str


class Guard:
    """Judges requests by their headers, and by the addresses they come from and arrive at.

    `host` is the name the service was told to serve under, beside the loopback names. A `token` is demanded for
    `/emulator` when there is one. While there is none, `/emulator` is closed to other machines, and with `token_needed`
    to everybody.
    """

    def __init__(self, host: str = "127.0.0.1", token: str | None = None, *, token_needed: bool = False) -> None:
        self._names = LOOPBACK_NAMES | {in_url(host).lower()}
        self._token = token
        self._token_needed = token_needed

    def host_refusal(self, headers: Headers) -> Refusal | None:
        """Whether the service is called by a name that is its own. None lets the request pass."""
        hosts = _values(headers, b"host")
        found = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if found and found[1] in self._names:
            return None
        return Refusal(403, "This Host is not served here; call localhost or 127.0.0.1, or name it with serve --host.")

    def emulator_refusal(self, headers: Headers, addresses: Iterable[str] = ()) -> Refusal | None:
        """Whether this caller may use `/emulator`, once the host was found right. None lets the request pass.

        `addresses` are those of both ends, as far as they are known.
        """
        own = {"http://" + host.lower() for host in _values(headers, b"host")}
        is_foreign = any(origin.lower() not in own for origin in _values(headers, b"origin"))
        # A page that only loads something, such as a script or an image, names no origin.
        if is_foreign or not _OWN_SITES.issuperset(_values(headers, b"sec-fetch-site")):
            return Refusal(403, "Pages of other origins may not use /emulator; call it from a program or a shell.")
        if self._token is None:
            closed = "/emulator is closed on this address; serve with IDENTITY_SESSION_TOKEN or --token-file."
            return Refusal(403, closed) if self._token_needed or any(map(_is_foreign, addresses)) else None
        given = _values(headers, b"authorization")
        expected = f"Bearer {self._token}".encode()
        if len(given) == 1 and hmac.compare_digest(given[0].encode("latin-1"), expected):
            return None
        return Refusal(401, "/emulator needs the token of this service; send it as Authorization: Bearer TOKEN.")


def in_url(host: str) -> str:
    """A host as URLs have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_foreign(address: str) -> bool:
    """Whether this is an IP address that is not loopback. Clients within the process have names, or nothing."""
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]
