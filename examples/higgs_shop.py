"""The Higgs Shop, in Python: the step "Track user data" of mParticle's web quick start.

Runs anywhere, against an IDSync service in this process:

    python examples/higgs_shop.py

With IDENTITY_SESSION_API_KEY (and IDENTITY_SESSION_API_SECRET, if calls are to be signed) in the environment it talks
to mParticle instead, in the development environment.
"""

import os

from identity_session import IdentityRequest, IdentityResult, IdentitySession, MemoryStorage
from identity_session.idsync import LocalIDSync


def on_identified(result: IdentityResult) -> None:
    """The callback of the identify made on start: from here on there is a user to say something about."""
    user = result.get_user()
    if user:
        user.set_attribute("favourite_department", "physics")


def show(call: str, result: IdentityResult) -> None:
    """One line for each call. A call never raises because of the network: its code tells, so look at it."""
    user = result.get_user()
    if not result.ok or user is None:
        print(f"{call}: code {result.http_code}, {result.body}")
        return
    who = "known" if user.is_logged_in else "anonymous"
    print(f"{call}: code {result.http_code}, {who}, {user.identities}, {user.attributes}")


def main() -> None:
    api_key = os.environ.get("IDENTITY_SESSION_API_KEY")
    session = IdentitySession(
        api_key or "any-key",
        os.environ.get("IDENTITY_SESSION_API_SECRET"),
        environment="development",
        identity_callback=on_identified,
        storage=MemoryStorage(),  # leave this out and the user is still there when the program starts again
        transport=None if api_key else LocalIDSync().transport,
    )

    # 1. Identify on start. Nothing is known of the visitor yet, so the service names somebody anonymous.
    show("start", session.start())

    # 2. Log in. The shop knows who this is; under the default strategy the anonymous user becomes the known one,
    #    and what was said about it stays.
    visitor = IdentityRequest({"email": "h.jekyll@example.com", "customerid": "h.jekyll"})
    show("login", session.login(visitor))

    # 3. Modify. The same user with another email address; None would remove it.
    show("modify", session.modify(IdentityRequest({"email": "henry@example.com"})))

    # 4. Log out. Whoever comes next is somebody else.
    show("logout", session.logout())

    session.close()


if __name__ == "__main__":
    main()
