"""The service as the fronts see it: a question goes in, a reply or the lack of one comes out, never an exception."""

from __future__ import annotations

from urllib.parse import urlsplit

from . import wire
from .config import Settings
from .exchange import AsyncSender, Call, HTTPAnswer, HTTPRequest, NoReply, Question, Reply, Sender, SendError
from .version import __version__

_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": f"identity_session/{__version__}",
}


def ask(settings: Settings, sender: Sender, question: Question, seconds: float) -> Reply | NoReply:
    """Put a question to the service once and wait at most this long."""
    request = _request(settings, question)
    try:
        return _reply(settings, sender.send(request, _positive(seconds)))
    except Exception as error:
        return _no_reply(error)


async def ask_async(settings: Settings, sender: AsyncSender, question: Question, seconds: float) -> Reply | NoReply:
    """The same in an event loop."""
    request = _request(settings, question)
    try:
        return _reply(settings, await sender.asend(request, _positive(seconds)))
    except Exception as error:
        return _no_reply(error)


def _request(settings: Settings, question: Question) -> HTTPRequest:
    credentials = settings.credentials
    path, body = wire.encode(
        question, environment=settings.environment, platform=settings.platform, api_key=credentials.api_key
    )
    url = (settings.alias_url if question.call is Call.ALIAS else settings.base_url) + path
    # With the key alone there is nothing to sign, and an alias request has the key in its path and body.
    unsigned = question.call is Call.ALIAS and credentials.scheme == "key"
    return HTTPRequest(url, urlsplit(url).path, _HEADERS, body, None if unsigned else credentials)


def _reply(settings: Settings, answer: HTTPAnswer) -> Reply:
    return wire.decode(answer, now_ms=settings.now_ms())


def _no_reply(error: Exception) -> NoReply:
    if isinstance(error, SendError):
        return NoReply(str(error), error.sent)
    # Another sender than ours: whatever it raises, or answers that is none, the call had no answer.
    return NoReply(f"no answer from the service ({type(error).__name__})", sent=True)


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise SendError("no time was left to ask the service", sent=False)
    return seconds
