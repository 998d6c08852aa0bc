"""The seam between the package and a network: what fits it, and what it never shows."""

from __future__ import annotations

import httpx
import pytest

from identity_session.exchange import (
    AsyncSender,
    Call,
    HTTPAnswer,
    HTTPRequest,
    IdentityChange,
    NoReply,
    Question,
    Reply,
    Sender,
    SendError,
)
from identity_session.idsync import LocalIDSync
from identity_session.signing import Credentials
from identity_session.transport import AsyncHttpxSender, AsyncNetwork, HttpxSender, Network


def test_the_senders_of_this_package_fit_the_seam_of_their_own_front_alone() -> None:
    synchronous = [LocalIDSync().transport, HttpxSender(Network(), owned=True)]
    asynchronous = [LocalIDSync().async_transport, AsyncHttpxSender(AsyncNetwork(), owned=True)]
    assert all(isinstance(sender, Sender) and not isinstance(sender, AsyncSender) for sender in synchronous)
    assert all(isinstance(sender, AsyncSender) and not isinstance(sender, Sender) for sender in asynchronous)


@pytest.mark.parametrize("thing", [None, "https://h.example", object(), httpx.Response(200)])
def test_other_things_are_no_senders(thing: object) -> None:
    assert not isinstance(thing, Sender)
    assert not isinstance(thing, AsyncSender)


def test_what_passes_the_seam_shows_nothing_of_its_content_when_printed() -> None:
    secret = "s3cret"
    held = Credentials(secret, secret, "hmac", lambda: 0)
    for thing in (
        HTTPRequest(f"https://h.example/{secret}", f"/{secret}", {"x-mp-key": secret}, secret.encode(), held),
        HTTPAnswer(200, {"x": secret}, secret.encode()),
        Question(Call.LOGIN, secret, 0, secret, secret, secret, {"email": secret}),
        Reply(200, {"mpid": secret}, secret, secret),
        IdentityChange(secret, secret, "email"),
    ):
        assert secret not in repr(thing)
        assert secret not in f"{thing}"


def test_a_send_error_says_whether_the_request_may_have_arrived() -> None:
    assert SendError("no answer", sent=True).sent
    assert not SendError("no connection", sent=False).sent
    assert str(SendError("no answer", sent=True)) == "no answer"
    assert NoReply("no answer", sent=True) == NoReply("no answer", sent=True)


def test_a_reply_has_a_message_only_where_its_body_has_one() -> None:
    assert Reply(400).message is None
    assert Reply(400, {"message": "why"}).message == "why"


def test_calls_are_spelled_as_in_the_paths_of_the_api() -> None:
    assert [str(call) for call in Call] == ["identify", "login", "logout", "modify", "search", "alias"]
