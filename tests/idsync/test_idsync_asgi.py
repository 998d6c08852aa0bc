"""The application under any ASGI server: what those may leave out, and where they may put it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from idsync_driver import KEY
from starlette.applications import Starlette
from starlette.routing import Mount

from identity_session.idsync import LocalIDSync
from identity_session.signing import signature

API_KEY, SECRET = "example-api-key", "example-api-secret"
DATE = "20170712T224127Z"
BODY = b'{"environment":"development","known_identities":{"email":"ed"}}'
HOST = {"host": "localhost"}


def signed(target: str) -> dict[str, str]:
    digest = signature(SECRET, "POST", DATE, target, BODY)
    return {"x-mp-key": API_KEY, "date": DATE, "x-mp-signature": digest}


def status(app: Any, method: str, path: str, headers: dict[str, str], **scope: Any) -> int:
    """The status of one request, made of what every server tells and of what this one adds."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY if method == "POST" else b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    listed = [(name.encode(), value.encode()) for name, value in (HOST | headers).items()]
    told = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": listed}
    asyncio.run(app({**told, **scope}, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize("told", [{}, {"raw_path": None}], ids=["left out", "none"])
def test_a_server_need_not_tell_the_path_as_it_was_sent(told: dict[str, None]) -> None:
    """It is taken as clients usually send it, and a signature covers that."""
    app = LocalIDSync(api_keys={API_KEY: SECRET}).app
    assert status(app, "POST", "/v1/identify", signed("/v1/identify"), **told) == 200
    assert status(app, "POST", "/v1/-7 !/modify", signed("/v1/-7%20!/modify"), **told) == 400
    assert status(app, "POST", "/v1/-7 !/modify", signed("/v1/-7%20%21/modify"), **told) == 401


@pytest.mark.parametrize("root", ["/x", "/a/b c", "/v1", "/emulator"])
def test_it_may_be_mounted_under_another_path(root: str) -> None:
    """All of it; a signature covers the whole path, exactly as sent."""
    idsync = LocalIDSync(api_keys={API_KEY: SECRET})
    app = Starlette(routes=[Mount(root, app=idsync.app)])
    sent = root.replace(" ", "%20")

    async def answers() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            asked = [await client.get(sent + path) for path in ("/emulator/health", "/openapi.json", "/nothing")]
            for target in (f"{sent}/v1/identify", "/v1/identify"):
                asked.append(await client.post(f"{sent}/v1/identify", content=BODY, headers=signed(target)))
            asked.append(await client.get("/emulator/nothing"))
        return [answer.status_code for answer in asked]

    assert asyncio.run(answers()) == [200, 200, 404, 200, 401, 404]
    assert len(idsync.profiles()) == 1


@pytest.mark.parametrize(
    ("root", "path"), [("/x", "/x/v1/identify"), ("/x/", "/x/v1/identify"), ("/x", "/v1/identify")]
)
def test_a_server_may_leave_out_the_path_that_leads_to_it(root: str, path: str) -> None:
    """Some do, and some do not."""
    app = LocalIDSync().app
    assert status(app, "POST", path, KEY, root_path=root, raw_path=path.encode()) == 200
    assert status(app, "GET", path.replace("v1/identify", "emulator/health"), {}, root_path=root) == 200


def test_a_longer_name_is_no_mount() -> None:
    """Nor is the path itself without anything below it."""
    app = LocalIDSync().app
    for path in ("/xy/v1/identify", "/x"):
        assert status(app, "POST", path, KEY, root_path="/x", raw_path=path.encode()) == 404
