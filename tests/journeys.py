"""Plays recorded journeys of the real Web SDK (2.68.0) on either front and notes what is seen from outside.

A journey is a JSON object: `start` (wall clock), `api_key`, `default_response`, and `steps`. Each step has an `op` with
its fields, and `observed`: the requests made, the callbacks called, the alias request built, and the state afterwards.
Times are milliseconds after the start. Generated ids are numbered as they first appear: <device:1>, <session:1>.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timedelta
from inspect import isawaitable
from typing import Any
from uuid import UUID

from identity_session import AsyncIdentitySession, IdentitySession, MemoryStorage
from identity_session.clock import to_ms
from identity_session.exchange import HTTPAnswer, HTTPRequest, SendError

Json = dict[str, Any]

FRONTS = {"sync": IdentitySession, "async": AsyncIdentitySession}
STATE = ("current_mpid", "is_logged_in", "device_id", "session_id", "context", "users", "users_order")
ATTRIBUTE_OPS = {
    "set_user_attribute": ("set_attribute", "key", "value"),
    "set_user_attribute_list": ("set_attribute_list", "key", "value"),
    "set_user_tag": ("set_tag", "tag"),
    "remove_user_tag": ("remove_tag", "tag"),
    "remove_user_attribute": ("remove_attribute", "key"),
    "remove_all_user_attributes": ("remove_all_attributes",),
}


class Player:
    """One journey on one front, in a storage of its own. It is the transport of its sessions too."""

    def __init__(self, journey: Json, front: str) -> None:
        self.journey, self.front = journey, FRONTS[front]
        self.start_ms = to_ms(datetime.fromisoformat(journey["start"]))
        self.now_ms = self.start_ms
        self.storage = MemoryStorage()
        self.session: Any = None
        self.labels: dict[str, str] = {}
        self.request_ids: set[str] = set()

    async def play(self, step: Json) -> Json:
        """Perform a step and tell what was observed, in the form of the recording."""
        self.requests: list[Json] = []
        self.callbacks: list[Json] = []
        self.alias_request: dict[str, Json | None] = {}
        self.second: Json | None = None
        if step["op"] == "pair":
            self.second = step["second"]
            step = step["first"]
        self.responses = list(step.get("responses", []))
        await self.launch(step)
        if self.second:
            await self.launch_second()
        return {
            "requests": self.requests,
            "callbacks": self.callbacks,
            **self.alias_request,
            "state": await self.state(),
        }

    # What the application does

    async def launch(self, op: Json) -> None:
        name = op["op"]
        if name in ("init", "restart"):
            await self.open(op)
        elif name == "advance":
            self.now_ms += op["ms"]
        elif name in ("identify", "login", "logout", "modify"):
            await self.identity_call(name, op)
        elif name in ATTRIBUTE_OPS:
            await self.edit(op)
        elif name == "opt_out":
            await done(self.session.set_opt_out(op["value"]))
        elif name == "alias":
            await self.alias(op)
        elif name == "search":
            await done(self.session.search(op["request"], self.callback("search", op)))
        else:
            await done(getattr(self.session, name)())

    async def open(self, op: Json) -> None:
        if self.session:
            await done(self.session.close())
        self.now_ms += op.get("advance_ms", 0)
        self.session = self.front(
            self.journey["api_key"],
            storage=self.storage,
            identify_request=op.get("identifyRequest"),
            identity_callback=self.callback("init", op),
            device_id=op.get("deviceId"),
            environment="development" if op.get("isDevelopmentMode") else "production",
            session_timeout=timedelta(minutes=op.get("sessionTimeout", 30)),
            alias_max_window=timedelta(days=op.get("aliasMaxWindow", 90)),
            retry=None,
            transport=self,
            now_ms=lambda: self.now_ms,
        )
        await done(self.session.start())

    async def identity_call(self, name: str, op: Json) -> None:
        given = (op["request"],) if "request" in op else ()
        try:
            await done(getattr(self.session, name)(*given, callback=self.callback(name, op)))
        except TypeError:
            if not isinstance(op.get("callback"), dict):
                raise

    async def edit(self, op: Json) -> None:
        user = self.session.current_user
        method, *fields = ATTRIBUTE_OPS[op["op"]]
        if user:
            with suppress(TypeError, ValueError):  # D19: the SDK logs a wrong argument and ignores it
                await done(getattr(user, method)(*(op.get(field) for field in fields)))

    async def alias(self, op: Json) -> None:
        if "raw" in op:
            request: Any = dict(op["raw"])
            for name in request.keys() & {"startTime", "endTime"}:
                if isinstance(request[name], int):
                    request[name] += self.start_ms
        else:
            source, destination = await self.find(op["from"]), await self.find(op["to"])
            scope = {"scope": op["scope"]} if "scope" in op else {}
            request = await done(self.session.create_alias_request(source, destination, **scope))
            self.alias_request = {"alias_request": request and self.alias_fields(request)}
        if request is not None:
            await done(self.session.alias_users(request, self.callback("alias", op)))

    async def find(self, reference: str) -> Any:
        current = self.session.current_user
        if reference == "current":
            return current
        if reference == "previous":
            return next((user for user in await done(self.session.get_users()) if user != current), None)
        return await done(self.session.get_user(reference))

    # What is seen

    def callback(self, origin: str, op: Json) -> Any:
        if op.get("callback") is False:
            return None
        if isinstance(op.get("callback"), dict):
            return op["callback"]["invalid"]

        def heard(result: Any) -> None:
            call = {"from": origin, "httpCode": result.httpCode}
            if origin == "alias":
                call["message"] = result.message
            elif origin == "search":
                call["body"] = result.body
            else:
                user, previous = result.getUser(), result.getPreviousUser()
                call |= {
                    "body": result.body,
                    "user_mpid": user and user.getMPID(),
                    "user_identities": user and user.getUserIdentities()["userIdentities"],
                    "user_attributes": user and user.getAllUserAttributes(),
                    "is_logged_in": user and user.isLoggedIn(),
                    "previous_user_mpid": previous and previous.mpid,
                }
            self.callbacks.append(call)

        return heard

    async def state(self) -> Json:
        current, users = self.session.current_user, await done(self.session.get_users())
        return {
            "current_mpid": current and current.mpid,
            "is_logged_in": current and current.is_logged_in,
            "device_id": self.label("device", self.session.device_id),
            "session_id": self.label("session", self.session.session_id),
            "context": self.session.context,
            "users": {
                user.mpid: {
                    "identities": user.identities,
                    "attributes": user.attributes,
                    "first_seen_ms": self.offset(user.first_seen),
                    "last_seen_ms": self.offset(user.last_seen),
                }
                for user in users
            },
            "users_order": [user.mpid for user in users],
        }

    def label(self, kind: str, value: str | None) -> str | None:
        try:
            assert UUID(value).version == 4
        except (ValueError, TypeError):
            return value
        number = sum(label.startswith(f"<{kind}") for label in self.labels.values()) + 1
        return self.labels.setdefault(value or "", f"<{kind}:{number}>")

    def offset(self, moment: datetime | None) -> int | None:
        return moment and to_ms(moment) - self.start_ms

    def alias_fields(self, request: Any) -> Json:
        return {
            "destinationMpid": request.destination_mpid,
            "sourceMpid": request.source_mpid,
            "startTime": self.offset(request.start_time),
            "endTime": self.offset(request.end_time),
            "scope": request.scope,
        }

    # The network

    def send(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        answer = self.next_answer(request)
        if self.second:
            run = self.launch_second()
            try:
                run.send(None)  # on this front nothing is ever waited for
            except StopIteration:
                return answer()
            raise AssertionError("the second call waited for the first")
        return answer()

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        answer = self.next_answer(request)
        if self.second:
            await self.launch_second()
        return answer()

    async def launch_second(self) -> None:
        op, self.second = self.second, None
        assert op
        self.responses = list(op.get("responses", [])) + self.responses
        await self.launch(op)

    def next_answer(self, request: HTTPRequest) -> Any:
        self.requests.append(self.noted(request))
        response = self.responses.pop(0) if self.responses else self.journey["default_response"]

        def answer() -> HTTPAnswer:
            if response.get("network_error"):
                raise SendError("scripted", sent=False)
            text = response.get("raw_text", json.dumps(response["body"]) if "body" in response else "")
            return HTTPAnswer(response["status"], response.get("headers") or {}, text.encode())

        return answer

    def noted(self, request: HTTPRequest) -> Json:
        body = json.loads(request.body)
        assert body["request_id"] not in self.request_ids
        assert UUID(body["request_id"]).version == 4
        self.request_ids.add(body["request_id"])
        body["request_id"] = "<uuid>"
        if "client_sdk" in body:
            body["client_sdk"] = "<client_sdk>"
        for holder in (body, body.get("data", {}), body.get("known_identities", {})):
            for name in holder:
                if name.endswith("_ms"):
                    holder[name] -= self.start_ms
                elif name == "device_application_stamp":
                    holder[name] = self.label("device", holder[name])
        headers = request.credentials.headers("POST", request.target, request.body) if request.credentials else {}
        return {"method": "POST", "path": request.target, "x_mp_key": headers.get("x-mp-key"), "body": body}

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


async def done(value: Any) -> Any:
    """What a method of either front gives."""
    return await value if isawaitable(value) else value


def comparable(observed: Json) -> Json:
    """An observation without what nobody sees from outside, without texts that are for people, and without an order
    among users who were last seen in the same millisecond."""
    state = {name: observed["state"][name] for name in STATE}
    users = state["users"]
    state["users_order"] = sorted(
        state["users_order"], key=lambda mpid: (-(users[mpid]["last_seen_ms"] or -(10**15)), mpid)
    )
    return {
        "requests": [_without_key(request) for request in observed["requests"]],
        "callbacks": [_without_text(call) for call in observed["callbacks"]],
        "alias_request": observed.get("alias_request", "<none was asked for>"),
        "state": state,
    }


def _without_key(request: Json) -> Json:
    if not request["path"].startswith("/v1/search"):
        return request
    return {"known_identities": request["body"]["known_identities"]}  # D22: our own key, and no query


def _without_text(call: Json) -> Json:
    if call.get("httpCode", 0) >= 0 or call["httpCode"] == -3:
        return call
    return {name: "<text>" if name in ("body", "message") else value for name, value in call.items()}
