"""A whole journey of a session, and the answers of a scripted server to it."""

from __future__ import annotations

from servers import Driven, answers, http, user_answer

KEY, SECRET = "us1-k3y", "s3cret"
EMAIL = "higgs@example.com"
USER = http(200, user_answer())
LOGIN = {"userIdentities": {"email": EMAIL}}


def play_journey(driven: Driven) -> list[int]:
    """Start, login, modify, logout, search and alias; the code of each."""
    alias = {"sourceMpid": "1", "destinationMpid": "2", "startTime": 1000, "endTime": 2000, "scope": "mpid"}
    return [
        driven.start().http_code,
        driven.login({"userIdentities": {"email": EMAIL, "customerid": "1"}}).http_code,
        driven.modify({"userIdentities": {"email": "new@example.com", "customerid": None}}).http_code,
        driven.logout().http_code,
        driven.search({"email": EMAIL}).http_code,
        driven.alias_users(alias).http_code,
    ]


JOURNEY = answers(
    http(200, user_answer("1", context="c1")),
    http(200, user_answer("22", context="c2", is_logged_in=True)),
    http(200, {}),
    http(200, user_answer("333", context="c3")),
    http(404, {"errors": [{"code": "NOT_FOUND_ERROR", "message": ""}]}),
    http(202),
)
