"""The commands: each makes one session, does one thing with it and prints what came of it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import HTTPCodes
from ..identities import IdentityRequest
from ..session import IdentitySession
from ..store import JsonStorage
from ..views import AliasResult
from . import service
from .doctor import doctor
from .printing import PROG, complain, end, line, print_report, report_of, shown, user_report, who
from .settings import UsageError, open_session


def _demo(args: argparse.Namespace) -> int:
    from tempfile import TemporaryDirectory

    from .demo import play

    with TemporaryDirectory(prefix=f"{PROG}-") as folder:
        reports = [report_of(call, result) for call, result in play(Path(folder))]
    print_report(args, reports, map(line, reports))
    return 0


def _start(args: argparse.Namespace) -> int:
    with contextlib.closing(open_session(args, calls=True, identify_request=_request(args))) as session:
        return end(args, "start", session.start())


def _identity_call(args: argparse.Namespace) -> int:
    request = _request(args)
    if args.command == "modify" and request is None:
        raise UsageError("modify needs --identity NAME=VALUE or --remove NAME")
    return _call(args, lambda session: getattr(session, args.command)(request))


def _logout(args: argparse.Namespace) -> int:
    if args.offline == "keep":
        if args.forget_user:
            raise UsageError("--forget-user goes with --offline forget")
        return _identity_call(args)
    request = _request(args)
    with contextlib.closing(open_session(args, calls=True)) as session:  # no start, which may ask the service first
        result = session.logout(request, offline="forget", keep_user=not args.forget_user)
        return end(args, "logout", result, None if session.mpid else "nobody is current here any more")


def _search(args: argparse.Namespace) -> int:
    request = _request(args)
    return _call(args, lambda session: session.search(request))


def _alias(args: argparse.Namespace) -> int:
    def alias(session: IdentitySession) -> AliasResult:
        source, destination = session.get_user(args.source), session.get_user(args.destination)
        if source is None or destination is None:
            unknown = args.source if source is None else args.destination
            raise UsageError(f"no user {shown(unknown)} is remembered here; see: {PROG} users")
        return session.alias_users(session.create_alias_request(source, destination, args.scope))

    return _call(args, alias)


def _call(args: argparse.Namespace, call: Callable[[IdentitySession], Any]) -> int:
    """Start as a page load does, which costs no request while a session is live, then make the call."""
    with contextlib.closing(open_session(args, calls=True)) as session:
        started = session.start()
        if started.http_code == HTTPCodes.NO_HTTP_COVERAGE:
            return end(args, "start", started)
        return end(args, args.command, call(session))


def _status(args: argparse.Namespace) -> int:
    session = open_session(args, calls=False)
    status = {
        **user_report(session.current_user),
        "context": session.context,
        "device_id": session.device_id,
        "session_id": session.session_id,
        "opted_out": session.opted_out,
        "storage": _place(session),
    }
    # Last, for all that is read before may find damage.
    status["recovered_from"] = session.recovered_from and str(session.recovered_from)
    print_report(args, status, (f"{name:<14}  {shown(value)}" for name, value in status.items()))
    return 0


def _users(args: argparse.Namespace) -> int:
    session = open_session(args, calls=False)
    current = session.mpid
    users = [{**user_report(user), "is_current": user.mpid == current} for user in session.get_users()]
    lines = (f"{'*' if u['is_current'] else ' '} {who(u)}  last seen: {shown(u['last_seen'])}" for u in users)
    print_report(args, users, lines)
    return 0


def _reset(args: argparse.Namespace) -> int:
    session = open_session(args, calls=False)
    folder = _place(session)
    if not args.yes:
        if not sys.stdin.isatty():
            raise UsageError("reset forgets every user and the device; without a terminal, confirm it with --yes")
        print(f"Forget every user and the device in {folder}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return complain("nothing was removed", 1)
    session.reset()
    print_report(args, {"storage": folder}, [f"forgotten: everything in {folder}"])
    return 0


COMMANDS: Mapping[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "demo": (_demo, "Play a journey on the embedded service; needs no account."),
    "start": (_start, "Start as a page load does: resume the session, or identify the user."),
    "login": (_identity_call, "The user signed in."),
    "logout": (_logout, "The user signed out."),
    "modify": (_identity_call, "Change identities of the current user."),
    "search": (_search, "Ask whether a user with these identities exists."),
    "alias": (_alias, "Copy the history of one remembered user to another."),
    "status": (_status, "Show who the current user is. Sends nothing."),
    "users": (_users, "Show every remembered user; * is the current one. Sends nothing."),
    "reset": (_reset, "Forget everything stored for this workspace. Sends nothing."),
    "doctor": (doctor, "Look for what is wrong with the stored state, and put it right with --fix. Sends nothing."),
    "serve": (service.serve, "Run an IDSync service of your own, until it is interrupted."),
    "explain": (service.explain, "Show why a running service answered a call as it did."),
}


def _request(args: argparse.Namespace) -> IdentityRequest | None:
    """What --identity and --remove ask for; None when they are absent."""
    identities = dict(args.identities)
    if len(identities) < len(args.identities):
        raise UsageError("an identity type is given twice; name each once")
    return IdentityRequest(identities) if identities else None


def _place(session: IdentitySession) -> str:
    """The folder of the state; "memory" where that cannot be used and `strict_storage` is off."""
    storage = getattr(session.storage, "in_use", session.storage)
    return str(storage.path) if isinstance(storage, JsonStorage) else "memory"
