"""From a question to a request, and from an answer, or whatever else happens, to a reply: never an exception."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from servers import FRONTS
from test_config import made

from identity_session.aliasing import AliasSpan
from identity_session.config import Settings
from identity_session.endpoint import ask, ask_async
from identity_session.exchange import Call, HTTPAnswer, HTTPRequest, NoReply, Question, Reply, SendError
from identity_session.identities import IdentityType
from identity_session.version import __version__

LOGIN = Question(Call.LOGIN, "id", 1_000, "stamp", known_identities={IdentityType.EMAIL: "a@example.com"})
ALIAS = Question(Call.ALIAS, "id", 1_000, "stamp", alias=AliasSpan("1", "2", 1, 2, "device"))


class Fake:
    """A sender of both kinds that keeps what it gets, and answers or raises as told."""

    def __init__(self, outcome: HTTPAnswer | BaseException | None = None) -> None:
        self.sent: list[tuple[HTTPRequest, float]] = []
        self.outcome = outcome or HTTPAnswer(200, {"retry-after": "3"}, b'{"mpid": "7"}')

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        self.sent.append((request, seconds))
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return self.send(request, seconds)

    def close(self) -> None:
        raise AssertionError("an endpoint closes nothing")

    async def aclose(self) -> None:
        self.close()


def asked(front: str, fake: Fake, question: Question = LOGIN, seconds: float = 5.0, **options: Any) -> Reply | NoReply:
    settings: Settings = made(options.pop("api_key", "us1-key"), options.pop("api_secret", None), **options)
    if front == "sync":
        return ask(settings, fake, question, seconds)
    return asyncio.run(ask_async(settings, fake, question, seconds))


@FRONTS
def test_a_question_becomes_a_request_and_its_answer_a_reply(front: str) -> None:
    fake = Fake()
    reply = asked(front, fake, base_url="https://h.example/base/v1")
    assert isinstance(reply, Reply)
    assert (reply.status, reply.mpid, reply.retry_after_seconds) == (200, "7", 3.0)
    [(request, seconds)] = fake.sent
    assert (request.url, request.target, seconds) == ("https://h.example/base/v1/login", "/base/v1/login", 5.0)
    assert request.headers == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": f"identity_session/{__version__}",
    }
    assert json.loads(request.body)["known_identities"]["email"] == "a@example.com"
    assert request.credentials is not None
    assert request.credentials.headers("POST", request.target, request.body) == {"x-mp-key": "us1-key"}


@FRONTS
def test_the_path_that_is_signed_is_the_path_that_is_sent(front: str) -> None:
    fake = Fake()
    asked(front, fake, Question(Call.MODIFY, "id", 1, "stamp", mpid="a/b ü"), domain="mp.example.com")
    [(request, _)] = fake.sent
    assert request.url == "https://mp.example.com" + request.target
    assert request.target == "/identity/v1/a%2Fb%20%C3%BC/modify"


@FRONTS
@pytest.mark.parametrize("scheme", ["hmac", "basic"])
def test_an_alias_request_goes_to_the_alias_url_and_is_authenticated_where_there_is_a_secret(
    front: str, scheme: str
) -> None:
    fake = Fake(HTTPAnswer(202, {}, b""))
    reply = asked(front, fake, ALIAS, api_secret="secret", auth=scheme)
    assert isinstance(reply, Reply)
    assert reply.status == 202
    [(request, _)] = fake.sent
    assert request.url == "https://jssdks.mparticle.com/v1/identity/us1-key/Alias"
    assert request.credentials is not None


@FRONTS
def test_an_alias_request_with_the_key_alone_has_no_key_header_since_its_path_has_the_key(front: str) -> None:
    fake = Fake(HTTPAnswer(202, {}, b""))
    asked(front, fake, ALIAS)
    [(request, _)] = fake.sent
    assert request.credentials is None
    assert "x-mp-key" not in request.headers


@FRONTS
@pytest.mark.parametrize("seconds", [0, -1.0])
def test_without_time_left_nothing_is_sent(front: str, seconds: float) -> None:
    fake = Fake()
    assert asked(front, fake, seconds=seconds) == NoReply("no time was left to ask the service", sent=False)
    assert fake.sent == []


@FRONTS
@pytest.mark.parametrize("sent", [True, False])
def test_a_send_error_is_no_reply(front: str, sent: bool) -> None:
    assert asked(front, Fake(SendError("gone", sent=sent))) == NoReply("gone", sent)


@FRONTS
@pytest.mark.parametrize("error", [OSError("us1-key"), TypeError("a@example.com"), RuntimeError(), TimeoutError()])
def test_whatever_else_a_sender_raises_is_no_reply_either_and_is_not_quoted(front: str, error: Exception) -> None:
    reply = asked(front, Fake(error))
    assert reply == NoReply(f"no answer from the service ({type(error).__name__})", sent=True)


@FRONTS
@pytest.mark.parametrize("nonsense", [5, (200, {}, b"{}"), HTTPAnswer(200, {}, None)])
def test_nor_is_what_a_sender_answers_that_is_no_answer(front: str, nonsense: Any) -> None:
    reply = asked(front, Fake(nonsense))
    assert isinstance(reply, NoReply)
    assert reply.sent


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_trouble_of_the_network(interrupt: type[BaseException]) -> None:
    with pytest.raises(interrupt):
        asked("sync", Fake(interrupt()))


@FRONTS
def test_an_answer_that_cannot_be_read_is_a_reply_without_a_body(front: str) -> None:
    reply = asked(front, Fake(HTTPAnswer(502, {}, b"<html>")))
    assert reply == Reply(502)
