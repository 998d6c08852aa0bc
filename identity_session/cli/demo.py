"""The journey that `identity-session demo` plays: a visitor of the Higgs Shop, from first visit to coming back.

Follows mParticle's web quick start, page "Track user data", on the embedded service and with state on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..session import IdentitySession
from ..views import IdentityResult, IdentityUser

_SEED = 1964  # any number does; with a fixed one the MPIDs are the same in every run
_SIGNED_UP = {"email": "h.jekyll@example.com", "customerid": "h.jekyll"}
_NEW_EMAIL = {"email": "henry@example.com"}

Step = tuple[str, IdentityResult[IdentityUser]]


def play(folder: Path) -> Iterator[Step]:
    """Play the journey with its state in this folder. Yields the name of each call and its result, as it ends."""
    from ..idsync import LocalIDSync  # pydantic; the client itself never needs the service

    idsync = LocalIDSync(seed=_SEED)

    def shop() -> IdentitySession:
        return IdentitySession(
            "demo", transport=idsync.transport, storage=folder, identity_callback=_count_visit, retry=None
        )

    with closing(shop()) as session:
        yield "start", session.start()
        yield "login", session.login({"userIdentities": _SIGNED_UP})
        yield "modify", session.modify({"userIdentities": _NEW_EMAIL})
        yield "logout", session.logout()
    with closing(shop()) as session:  # the program was started again; the disk remembers
        yield "start", session.start()
        yield "login", session.login({"userIdentities": _SIGNED_UP | _NEW_EMAIL})


def _count_visit(result: IdentityResult[IdentityUser]) -> None:
    user = result.get_user()
    if user and result.http_code == 200:
        user.set_attribute("visits", 1)
