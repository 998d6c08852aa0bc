"""Sessions of which every word is a canary, every call of them, and a service that repeats whatever it was asked."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from canaries import CANARIES, PERSONAL, SECRETS, Records, leaks
from servers import Driven, opened

from identity_session import ConsentState, IdentityRequest

KEY, SECRET = SECRETS["API key"], SECRETS["API secret"]
MPID = PERSONAL["MPID"]
IDENTITIES = {"email": PERSONAL["email"], "customerid": PERSONAL["customer id"]}
CONSENT = ConsentState().add_gdpr_consent(
    "ads",
    consented=True,
    document=PERSONAL["consent document"],
    location=PERSONAL["consent location"],
    hardware_id=PERSONAL["consent hardware"],
)
ONCE = {"retry": None, "timeout": 1.0}


def answer(mpid: str = MPID, **members: Any) -> dict[str, Any]:
    return {
        "mpid": mpid,
        "context": PERSONAL["context"],
        "is_logged_in": True,
        "matched_identities": IDENTITIES,
        **members,
    }


class Service:
    """Answers every call, and repeats in its answer whatever it was asked."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.trouble:
            raise self.trouble
        mpid = PERSONAL["anonymous MPID"] if request.url.path.endswith("logout") else MPID
        return httpx.Response(200, json=answer(mpid, echo=f"{request.url} {request.headers} {request.content!r}"))


def transport(front: str, handler: Callable[[httpx.Request], httpx.Response]) -> Any:
    async def handle(request: httpx.Request) -> httpx.Response:
        return handler(request)

    return httpx.MockTransport(handler if front == "sync" else handle)


@contextlib.contextmanager
def canary_session(front: str, **settings: Any) -> Iterator[Driven]:
    """A session of which every word is a canary."""
    options = {"device_id": PERSONAL["device"], "workspace_token": PERSONAL["workspace token"], **ONCE, **settings}
    with opened(front, KEY, SECRET, identify_request={"userIdentities": IDENTITIES}, **options) as driven:
        yield driven


def every_call(driven: Driven) -> list[Any]:
    """Each method of a session and of its user once, with canaries. Returns the results."""

    def raising(*heard: Any) -> None:
        raise ValueError(f"{heard} {CANARIES}")

    driven.on_user_identified(raising)
    results = [driven.start(), driven.identify(IDENTITIES and {"userIdentities": IDENTITIES}, raising)]
    results.append(driven.login(IdentityRequest(IDENTITIES), raising))
    hooked = {"userIdentities": {"email": PERSONAL["other email"]}, "onUserAlias": raising}
    results.append(driven.modify(hooked, raising))
    user = driven.current_user
    if user is not None:
        awaited(driven, user.set_attributes({"plan": PERSONAL["attribute"]}))
        awaited(driven, user.set_attribute_list("list", [PERSONAL["attribute in a list"]]))
        awaited(driven, user.set_consent_state(CONSENT))
        assert user.consent_state == CONSENT or driven.opted_out
    results += [driven.search(IDENTITIES, raising), driven.logout(None, raising)]
    users = driven.get_users()
    request = driven.create_alias_request(users[0], users[-1]) if users else None
    results.append(driven.alias_users(request or {"sourceMpid": MPID}, raising))
    driven.touch()
    driven.start_new_session()
    results += [driven.get_user(MPID), driven.current_user, driven.context, driven.session_id]
    driven.set_opt_out(True)
    results.append(driven.login({"userIdentities": IDENTITIES}))
    driven.set_opt_out(False)
    driven.end_session()
    return results


def awaited(driven: Driven, answer: Any) -> Any:
    return driven._run(answer) if inspect.isawaitable(answer) else answer


@contextlib.contextmanager
def nothing_said() -> Iterator[Records]:
    """Nothing inside the block may put a canary into a log record of any logger, or a warning."""
    with Records() as records, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield records
    said = {"log": leaks(records.text), "warnings": leaks("".join(str(warning.message) for warning in caught))}
    assert said == {"log": [], "warnings": []}, said
