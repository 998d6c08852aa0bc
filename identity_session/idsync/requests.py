"""What comes in: which call a path names, the JSON behind the bytes, and the checked content of a body.

Sources: documentation page "HTTP API" of IDSync; Web SDK src/identityApiClient.ts, Android SDK
MParticleIdentityClientImpl and Apple SDK MPURLRequestBuilder.m for paths, compression and the forms of an MPID.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from identity_session.exchange import Call, IdentityChange
from identity_session.identities import is_text
from identity_session.wire import ChangeBody

from .choices import Choice
from .identity_types import KNOWN_TYPES
from .refusals import BodyTooLargeError, InvalidDataError, LookupRefusedError, UnknownMethodError, UnknownPathError

# No limit is published for identity calls. 256 KB is that of the Events API ("Default Service Limits"); the others
# leave ample room for every identity type there is.
BODY_LIMIT_BYTES = 256 * 1024
VALUE_LIMIT_CHARACTERS = 4096
IDENTITY_LIMIT = 100

MALFORMED = "The payload was malformed JSON or had missing fields."

_ROUTES = (
    re.compile(r"(?:/identity)?/v1/(?P<call>identify|login|logout|search)"),
    re.compile(r"(?:/identity)?/v1/(?P<argument>[^/]+)/(?P<call>modify)"),
    re.compile(r"(?:/webevents|/nativeevents)?/v1/identity/(?P<argument>[^/]+)/(?P<call>(?i:alias))"),
)

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, repr=False)
class NamedCall:
    """A call, as path and query name it."""

    call: Call
    argument: str | None
    """The MPID of modify, the API key of alias."""
    query: Mapping[str, str]

    def flag(self, name: str, *, default: bool) -> bool:
        """A query parameter that is true or false; the default when it is neither."""
        return {"true": True, "false": False}.get(self.query.get(name, "").lower(), default)


def route(method: str, target: str) -> NamedCall:
    """The call that a method and a path with query name. Raises UnknownPathError or UnknownMethodError."""
    path, _, query = target.partition("?")
    for pattern in _ROUTES:
        found = pattern.fullmatch(path)
        if found:
            break
    else:
        raise UnknownPathError("There is no call at this path.")
    if method != "POST":
        raise UnknownMethodError("This call is made with POST.")
    parts = found.groupdict()
    argument = parts.get("argument")
    return NamedCall(Call(parts["call"].lower()), argument and unquote(argument), dict(parse_qsl(query)))


def plain_body(headers: Mapping[str, str], body: bytes) -> bytes:
    """The body as it was before compression, as a signature covers it. Raises BodyTooLargeError or InvalidDataError."""
    _check_size(body)
    if headers.get("content-encoding", "").strip().lower() != "gzip":
        return body
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as packed:
            plain = packed.read(BODY_LIMIT_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        raise InvalidDataError("The body is not valid gzip.") from None
    _check_size(plain)
    return plain


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in these bytes; None if there is none. Nesting is limited; lone surrogates, NaN and infinity are
    refused."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read(model: type[Model], value: object) -> Model:
    """Read an object as a body of the wire. Raises InvalidDataError; its text names the member at fault."""
    try:
        return checked(model, value)
    except ValueError as error:
        raise InvalidDataError(f"{MALFORMED} {error}.") from None


def checked(model: type[Model], value: object) -> Model:
    """An object as a model. Raises ValueError that says what is wrong first, and holds nothing of the object."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = _first_fault(model, value, error)
    # Not where the other error is handled: it would be the context of this one, and holds the object.
    raise ValueError(fault)


def _first_fault(model: type[BaseModel], value: object, error: ValidationError) -> str:
    """What is wrong first, and where: as far as names of the API lead, since whoever takes one member for another has
    made up a name that is an identity value."""
    fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = []
    for part in fault["loc"]:
        if isinstance(value, Mapping) and part in _names(model):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        else:
            break
        where.append(str(part))
    return f"{'.'.join(where)}: {fault['msg']}" if where else fault["msg"]


def known_identities(given: Mapping[str, str | None], *, lenient: bool) -> dict[str, str]:
    """The identities of a request, without null and empty values.

    The published swagger forbids unknown types; `lenient` ignores them instead. Raises InvalidDataError, or
    LookupRefusedError when nothing is left.
    """
    _check_count(given)
    if lenient:
        given = {type_: value for type_, value in given.items() if type_ in KNOWN_TYPES}
    for type_, value in given.items():
        _check_type(type_)
        _check_value(value)
    identities = {type_: value for type_, value in given.items() if value}
    if not identities:
        raise LookupRefusedError("knownIdentities is empty.")
    return identities


def identity_changes(given: list[ChangeBody]) -> list[IdentityChange]:
    """The changes of a modify. Raises InvalidDataError."""
    _check_count(given)
    for change in given:
        _check_type(change.identity_type)
        _check_value(change.old_value)
        _check_value(change.new_value)
        if change.new_value == "":
            raise InvalidDataError("A new value is empty; null removes an identity.")
    return [IdentityChange(change.old_value, change.new_value, change.identity_type) for change in given]


def parse_mpid(value: str | int | None) -> int | None:
    """An MPID in any form the SDKs send: text, number (Android) or null. None for 0, and for what is no MPID."""
    if isinstance(value, str):
        value = int(value) if re.fullmatch(r"-?[0-9]{1,19}", value) else None
    return value if value and is_64_bit(value) else None


def is_64_bit(value: int) -> bool:
    """Whether a signed 64-bit integer, such as an MPID or a column of a database, can be this number."""
    return -(2**63) <= value < 2**63


def is_storable(value: str) -> bool:
    """Whether every store can hold this text: databases refuse NUL, and UTF-8 has no lone surrogates."""
    return "\0" not in value and is_text(value)


@cache
def _names(model: type[BaseModel]) -> frozenset[str]:
    """The members of a model and of those within it, and the identity types."""
    schema = model.model_json_schema()
    models = [schema, *schema.get("$defs", {}).values()]
    return KNOWN_TYPES.union(*(each.get("properties", ()) for each in models))


def _check_size(body: bytes) -> None:
    if len(body) > BODY_LIMIT_BYTES:
        raise BodyTooLargeError(f"The body is larger than {BODY_LIMIT_BYTES // 1024} KB.", Choice.LIMITS)


def _check_count(given: Mapping[str, str | None] | list[ChangeBody]) -> None:
    if len(given) > IDENTITY_LIMIT:
        raise InvalidDataError(f"There are more than {IDENTITY_LIMIT} identities.", Choice.LIMITS)


def _check_type(type_: str) -> None:
    if type_ not in KNOWN_TYPES:
        raise InvalidDataError("There is an unknown identity type.", Choice.VALIDATION)


def _check_value(value: str | None) -> None:
    if value is None:
        return
    if len(value) > VALUE_LIMIT_CHARACTERS:
        raise InvalidDataError(f"An identity value is longer than {VALUE_LIMIT_CHARACTERS} characters.", Choice.LIMITS)
    if not is_storable(value):
        raise InvalidDataError("An identity value holds a character that cannot be stored.")
