"""`/openapi.json`: everything that is served, described as OpenAPI 3.1 from the models that read and write it.

Sources: documentation page "HTTP API" of IDSync for the Identity API; its older Swagger file for the names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from identity_session.exchange import Call
from identity_session.version import __version__
from identity_session.wire import AliasBody, IdentityBody, ModifyBody, SearchBody

from . import bodies, emulator
from .identity_types import KNOWN_TYPES
from .requests import IDENTITY_LIMIT, VALUE_LIMIT_CHARACTERS

JSON = "application/json"


class Found(BaseModel):
    """The profile that answers a call. The MPID is text: 64 bits do not survive every reader of JSON."""

    context: str | None
    mpid: bodies.MPID
    is_ephemeral: bool
    is_logged_in: bool


class Identified(Found):
    """`matched_identities` is left out when `return_matches` is false."""

    matched_identities: dict[str, str] = {}


class Change(BaseModel):
    identity_type: str
    modified_mpid: bodies.MPID


class Modified(Identified):
    """One entry for each type and profile whose record changed, losers of a moved value included."""

    change_results: list[Change]


class Errors(BaseModel):
    """Both published shapes of an error in one: `errors` as the HTTP API page shows it, the rest as the Web SDK
    reads it. A setting of the strategy leaves one of them out."""

    model_config = {"extra": "allow"}


class AliasTrouble(BaseModel):
    code: str
    message: str


_REQUESTS: Mapping[Call, type[BaseModel]] = {Call.SEARCH: SearchBody, Call.MODIFY: ModifyBody, Call.ALIAS: AliasBody}

_STATUS_TEXTS = {
    200: "Done.",
    201: "Created.",
    202: "Accepted; it is processed later.",
    204: "Done.",
    400: "The body is malformed or asks for what is not allowed; nothing was done.",
    401: "The key or the token is missing or wrong.",
    403: "This Host, origin or key may not do this.",
    404: "Nobody is found.",
    405: "Another method is wanted.",
    408: "The body took too long.",
    409: "This needs a service of one process.",
    413: "The body is too large.",
    429: "Throttled; Retry-After says for how long.",
    500: "The service failed.",
    503: "The service is not available.",
}


def description() -> dict[str, Any]:
    """The whole description."""
    models: list[type[BaseModel]] = [
        Identified,
        Modified,
        Errors,
        AliasTrouble,
        IdentityBody,
        *_REQUESTS.values(),
        bodies.Trouble,
    ]
    models += [model for route in emulator.ROUTES for model in (route.given, route.told) if model]
    _, schemas = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)], ref_template="#/components/schemas/{model}"
    )
    _limit_identities(schemas["$defs"])
    paths: dict[str, dict[str, Any]] = {}
    for path, call in _identity_paths():
        paths[path] = {"post": _identity_operation(path, call)}
    for route in emulator.ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _emulator_operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "IDSync service of identity_session", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _identity_paths() -> Iterable[tuple[str, Call]]:
    """Every path, those behind a customer's domain included."""
    for prefix in ("", "/identity"):
        for call in (Call.IDENTIFY, Call.LOGIN, Call.LOGOUT, Call.SEARCH):
            yield f"{prefix}/v1/{call}", call
        yield f"{prefix}/v1/{{mpid}}/modify", Call.MODIFY
    for prefix in ("", "/webevents", "/nativeevents"):
        yield f"{prefix}/v1/identity/{{api_key}}/Alias", Call.ALIAS


def _identity_operation(path: str, call: Call) -> dict[str, Any]:
    errors: type[BaseModel] = AliasTrouble if call is Call.ALIAS else Errors
    # A key without permission gets no body with its 403, a foreign Host does.
    answers: dict[int, type[BaseModel] | None] = {400: errors, 401: None, 403: None, 413: errors, 429: errors}
    answers |= {408: bodies.Trouble, 500: Errors, 503: errors}
    if call is Call.ALIAS:
        answers |= {202: None}
    else:
        answers |= {200: Modified if call is Call.MODIFY else Identified, 404: None if call is Call.MODIFY else Errors}
    parameters = [_in_path(name) for name in ("mpid", "api_key") if f"{{{name}}}" in path]
    if call is not Call.ALIAS:
        text = "The key of the platform; one in Authorization: Basic takes its place."
        parameters.append(
            {"name": "x-mp-key", "in": "header", "required": True, "description": text, "schema": _KEY_SCHEMA}
        )
    if call in (Call.IDENTIFY, Call.LOGIN, Call.LOGOUT):
        for name, text in (("read_only", "Nothing is written."), ("return_matches", "false leaves them out.")):
            # What is neither true nor false counts as absent.
            schema = {"type": "string", "examples": ["true", "false"]}
            parameters.append({"name": name, "in": "query", "description": text, "schema": schema})
    return {
        "summary": f"{call} of the Identity API",
        "operationId": path.strip("/").translate(str.maketrans("/{}", "___")),
        "parameters": parameters,
        "requestBody": _content(_REQUESTS.get(call, IdentityBody), required=True),
        "responses": _responses(answers),
    }


def _emulator_operation(route: emulator.Route) -> dict[str, Any]:
    answers: dict[int, type[BaseModel] | None] = {route.status: None if route.status == 204 else route.told or _Any}
    statuses = [401, 403, 408, 413, 500]
    if route.given or route.status == 204:
        statuses.append(400)
    statuses += [404] * ("{mpid}" in route.path) + [409] * route.one_process
    operation: dict[str, Any] = {
        "summary": route.text,
        "parameters": [_in_path("mpid")] if "{mpid}" in route.path else [],
        "responses": _responses({**answers, **dict.fromkeys(statuses, bodies.Trouble)}),
    }
    if route.given or route.limit_bytes == emulator.IMPORT_LIMIT_BYTES:
        operation["requestBody"] = _content(route.given or _Any, required=True)
    return operation


class _Any(BaseModel):
    """Stands for any object."""


_KEY_SCHEMA = {"type": "string", "pattern": "^[!-9;-~]+$"}


def _in_path(name: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": "^-?[1-9][0-9]{0,18}$" if name == "mpid" else "^[A-Za-z0-9_-]+$"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _responses(answers: Mapping[int, type[BaseModel] | None]) -> dict[str, Any]:
    return {
        str(status): {"description": _STATUS_TEXTS[status], **(_content(model) if model else {})}
        for status, model in sorted(answers.items())
    }


def _content(model: type[BaseModel], **more: Any) -> dict[str, Any]:
    schema = {"type": "object"} if model is _Any else {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"content": {JSON: {"schema": schema}}, **more}


def _limit_identities(schemas: Mapping[str, Any]) -> None:
    """What the service demands of identities beyond what the wire's models say."""
    types = sorted(KNOWN_TYPES)
    value = {"type": ["string", "null"], "maxLength": VALUE_LIMIT_CHARACTERS, "pattern": "^[^\\u0000]*$"}
    for name in ("IdentityBody", "SearchBody"):
        schemas[name]["properties"]["known_identities"] = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": IDENTITY_LIMIT,
            "propertyNames": {"enum": types},
            "additionalProperties": value,
        }
    change = schemas["ChangeBody"]["properties"]
    change["identity_type"] = {"type": "string", "enum": types}
    change["old_value"] = value
    change["new_value"] = {**value, "minLength": 1}
