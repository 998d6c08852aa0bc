"""What the command line prints: results on standard output, trouble on standard error in one line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import HTTPCodes
from ..views import AliasResult, IdentityResult, IdentityUser, SearchResult

PROG = "identity-session"
ENV = "IDENTITY_SESSION_"

ADVICE: Mapping[int, str] = {
    HTTPCodes.NO_HTTP_COVERAGE: "the user is as before; check the network and --base-url, then try again",
    HTTPCodes.LOGGING_DISABLED_OR_MISSING_API_KEY: "opt in from Python with set_opt_out(False), or use reset",
    400: "the service refuses this request; check the identities",
    401: f"the service does not accept the key or the signature; check {ENV}API_KEY and {ENV}API_SECRET",
    403: "the service does not allow this to this key, or under this identity strategy",
    404: "nobody has these identities or this MPID",
    429: "the service throttles; wait before trying again",
}


def end(args: argparse.Namespace, call: str, result: Any, advice: str | None = None) -> int:
    """Print what came of a call, and on trouble what to do: `advice`, or what fits the code. Returns the exit code."""
    report = report_of(call, result)
    print_report(args, report, [line(report)] if result.ok else [])
    return 0 if result.ok else complain(f"{call} ended with code {result.http_code}{_explanation(report, advice)}", 1)


def report_of(call: str, result: IdentityResult[IdentityUser] | SearchResult | AliasResult) -> dict[str, Any]:
    """What came of a call, as JSON."""
    report: dict[str, Any] = {"call": call, "http_code": result.http_code}
    if isinstance(result, AliasResult):
        return {**report, "message": result.message}
    if isinstance(result, SearchResult):
        found = result.body if isinstance(result.body, dict) else {}
        named = {"mpid": "mpid", "is_logged_in": "is_logged_in", "identities": "matched_identities"}
        report |= {name: found.get(member) for name, member in named.items()}
    else:
        previous = result.get_previous_user()
        report |= {**user_report(result.get_user()), "previous_mpid": previous and previous.mpid}
    return {**report, "body": result.body}


def user_report(user: IdentityUser | None) -> dict[str, Any]:
    return {
        "mpid": user and user.mpid,
        "is_logged_in": user and user.is_logged_in,
        "identities": user.identities if user else {},
        "attributes": user.attributes if user else {},
        "first_seen": user and user.first_seen and user.first_seen.isoformat(),
        "last_seen": user and user.last_seen and user.last_seen.isoformat(),
    }


def line(report: Mapping[str, Any]) -> str:
    """A report in one line: the call, its code, and who the user is."""
    start = f"{report['call']:<6}  {report['http_code']:>3}"
    return f"{start}  {who(report)}" if "mpid" in report else start


def who(user: Mapping[str, Any]) -> str:
    known = "known" if user["is_logged_in"] is True else "anonymous"
    stored = "; ".join(f"{name}: {shown(user[name])}" for name in ("identities", "attributes") if name in user)
    return f"mpid {shown(user['mpid']):<20}  {known:<9}  {stored}"


def _explanation(report: Mapping[str, Any], advice: str | None) -> str:
    """What the service or the library says of a code that is no success, and what to do."""
    code, body = report["http_code"], report.get("body") or report.get("message")
    if isinstance(body, dict):
        errors = body.get("errors") or body.get("Errors")
        first = errors[0] if isinstance(errors, list) and errors else body
        body = first.get("message") if isinstance(first, dict) else None
    return "".join(f"; {shown(text)}" for text in (body, advice or _advice(code)) if text)


def _advice(code: int) -> str | None:
    if code >= 500:
        return "the service is in trouble; try again later"
    if 300 <= code < 400:
        return "the service is elsewhere; check --base-url"
    return ADVICE.get(code)


def shown(value: object) -> str:
    """A value on one line of a terminal: nothing in it can move the cursor."""
    if isinstance(value, dict):
        return ", ".join(f"{shown(k)}={shown(v)}" for k, v in value.items()) or "none"
    if isinstance(value, str) and value.isprintable():
        return value
    if value is None:
        return "none"
    return json.dumps(value)


def count(number: int, noun: str) -> str:
    """Such as "1 user" and "2 users"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_report(args: argparse.Namespace, report: object, lines: Iterable[str] = ()) -> None:
    for line in [json.dumps(report, indent=2)] if args.json else lines:
        print(line)


def complain(text: str, code: int) -> int:
    """One line on standard error. Returns the exit code it is given."""
    print(f"{PROG}: {text}", file=sys.stderr)
    return code
