"""One call, bytes in and bytes out: route, authenticate, parse, resolve, answer. No server, no framework.

Sources: documentation page "HTTP API" of IDSync; page "Aliasing" of the IDSync guide.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from identity_session import clock
from identity_session.exchange import Call, HTTPAnswer
from identity_session.wire import AliasBody, IdentityBody, ModifyBody

from . import aliases, answers
from .access import authenticate
from .modification import modify
from .profiles import ProfileStore
from .refusals import AliasRefusedError, InvalidDataError, NotFoundError, RefusedError
from .requests import (
    MALFORMED,
    Route,
    identity_changes,
    json_object,
    known_identities,
    parse_mpid,
    plain_body,
    read,
    route,
)
from .resolver import carry_out, decide
from .strategies import IdentityStrategy

logger = logging.getLogger("identity_session.idsync")


class Service:
    """The Identity API over a store, by one strategy.

    `api_keys` maps key to secret; None takes any key and checks no signature. `now_ms` is the clock in Unix
    milliseconds.
    """

    def __init__(
        self,
        store: ProfileStore,
        strategy: IdentityStrategy,
        api_keys: Mapping[str, str] | None = None,
        *,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        self._store = store
        self._strategy = strategy
        self._api_keys = None if api_keys is None else dict(api_keys)
        self._now_ms = now_ms

    def handle(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> HTTPAnswer:
        """Answer one request. `target` is the path with its query, as sent. Never raises: a fault of the service
        itself is a 500, and its place, but nothing of the request, is logged."""
        if method == "OPTIONS":
            return answers.preflight()
        headers = {name.lower(): value for name, value in headers.items()}
        call: Call | None = None
        content: Mapping[str, Any] = {}
        try:
            where = route(method, target)
            call = where.call
            plain = plain_body(headers, body)
            parsed = json_object(plain)
            content = parsed or {}
            authenticate(
                self._api_keys,
                method=method,
                target=target,
                headers=headers,
                body=plain,
                path_key=where.argument if call is Call.ALIAS else None,
                platform=_text(content.get("client_sdk"), "platform"),
            )
            if parsed is None:
                raise InvalidDataError(MALFORMED)
            return answers.success(call, self._answer(where, parsed), self._strategy.max_age_s)
        except RefusedError as refusal:
            request_id = _text(content, "request_id")
            return answers.refused(refusal, call=call, request_id=request_id, shape=self._strategy.error_shape)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s failed: %s at %s:%s", call, type(error).__name__, place.filename, place.lineno)
            return answers.fault(self._strategy.error_shape)

    def _answer(self, where: Route, content: Mapping[str, Any]) -> dict[str, Any] | None:
        """The body of a call's success; alias has none."""
        if where.call is Call.MODIFY:
            return self._modify(where, content)
        if where.call is not Call.ALIAS:
            return self._resolve(where, content)
        self._alias(content)
        return None

    def _resolve(self, where: Route, content: Mapping[str, Any]) -> dict[str, Any]:
        """identify, login, logout and search."""
        body = read(IdentityBody, content)
        identities = known_identities(body.known_identities, lenient=self._strategy.lenient_identities)
        read_only = where.call is Call.SEARCH or where.flag("read_only", default=False)
        with self._store.transaction(identities.items()) as profiles:
            decision = decide(self._strategy, where.call, identities, parse_mpid(body.previous_mpid), profiles)
            if not read_only:
                profile = carry_out(decision, profiles)
            elif decision.match:
                profile = decision.match
            else:
                raise NotFoundError("No profile matches.")
        matched = decision.matched_identities if where.flag("return_matches", default=True) else None
        return answers.identity(self._strategy, profile, matched)

    def _modify(self, where: Route, content: Mapping[str, Any]) -> dict[str, Any]:
        changes = identity_changes(read(ModifyBody, content).identity_changes)
        values = [
            (change.identity_type, value)
            for change in changes
            for value in (change.old_value, change.new_value)
            if value is not None
        ]
        with self._store.transaction(values) as profiles:
            return answers.modified(
                self._strategy, modify(self._strategy, parse_mpid(where.argument), changes, profiles)
            )

    def _alias(self, content: Mapping[str, Any]) -> None:
        if not self._strategy.preset.aliasing:
            raise AliasRefusedError("This strategy knows no aliasing.")
        body = read(AliasBody, content)
        with self._store.transaction() as profiles:
            profiles.record_alias(aliases.check(body.data, body.request_id, self._now_ms(), profiles))


def _text(holder: object, name: str) -> str | None:
    """A member that is text, of a body that was not checked yet."""
    value = holder.get(name) if isinstance(holder, Mapping) else None
    return value if isinstance(value, str) else None
