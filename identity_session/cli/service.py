"""The commands about a service of one's own: `serve` runs it, `explain` asks a running one why it answered so."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..errors import StorageError
from .printing import ENV, PROG, complain, print_report, shown
from .settings import UsageError, secret

DEFAULT_PORT = 8787
ASK_SECONDS = 10.0


def add_serve_arguments(add: Any) -> None:
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (127.0.0.1, this machine alone)")
    add("--port", type=int, default=DEFAULT_PORT, metavar="PORT", help=f"0 picks a free one ({DEFAULT_PORT})")
    add("--database", metavar="PLACE", help=f":memory: (default), a file, or a postgresql:// URL; or {ENV}DATABASE")
    add("--strategy", default="default", metavar="NAME", help="the identity strategy (default)")
    add("--config", metavar="FILE", help="a TOML file with strategy, priority, login ..., and [api_keys]; wins")
    add("--workers", type=int, default=1, metavar="N", help="processes that share the port and the database (1)")
    add("--seed", type=int, metavar="N", help="makes the MPIDs the same in every run")
    add("--token-file", metavar="FILE", help=f"a file with the token for /emulator; or set {ENV}TOKEN")


def add_explain_arguments(add: Any) -> None:
    add("--call", type=int, metavar="N", help="the number of the call, from 1; without it, the last one")
    add("--base-url", metavar="URL", help=f"the running service (http://127.0.0.1:{DEFAULT_PORT}/v1)")
    add("--token-file", metavar="FILE", help=f"a file with the token for /emulator; or set {ENV}TOKEN")


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from ..idsync import IdentityStrategy  # pydantic
    from ..idsync.serve import ServeSettings
    from ..idsync.serve import serve as run
    from ..idsync.strategies import read_table

    serves = False

    def announce(url: str, closed: bool) -> None:
        nonlocal serves
        serves = True
        if closed:
            complain(f"others can reach this address, so /emulator is closed; set {ENV}TOKEN to open it", 0)
        print_report(args, {"url": url}, [f"listening on {url}"])
        sys.stdout.flush()

    try:
        table = read_table(args.config) if args.config else {}
        strategy = IdentityStrategy.from_toml({"strategy": args.strategy, **table})
        token = secret("TOKEN", args.token_file)
        database = args.database or os.environ.get(f"{ENV}DATABASE") or ":memory:"
        settings = ServeSettings(
            args.host, args.port, database, strategy, token=token, seed=args.seed, workers=args.workers
        )
        return run(settings, announce)
    except (ValueError, ImportError, OSError, StorageError) as error:
        if serves:
            raise  # whatever it is, the settings are right: nobody reads what is printed, say
        raise UsageError(shown(" ".join(str(error).split()))) from None


def explain(args: argparse.Namespace) -> int:
    """Print the trail of a call that a running service recorded."""
    calls = _recorded(args)
    call = _chosen(calls, args.call)
    if call is None:
        wanted = "no call was made yet" if args.call is None else f"call {args.call} is not recorded"
        return complain(f"{wanted}; the service has {len(calls)}", 1)
    who = f"mpid {shown(call['mpid'])}" + (", created" if call["created"] else "")
    head = f"call {call['number']}  {call['endpoint']}  {call['status']}  {who}"
    print_report(args, call, [head, *(f"  {number:>2}. {shown(why)}" for number, why in enumerate(call["reasons"], 1))])
    return 0


def _recorded(args: argparse.Namespace) -> list[Mapping[str, Any]]:
    """The calls that the service at --base-url has recorded."""
    import httpx

    base_url = args.base_url or os.environ.get(f"{ENV}BASE_URL") or f"http://127.0.0.1:{DEFAULT_PORT}/v1"
    token = secret("TOKEN", args.token_file)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    place = shown(re.sub("//.*@", "//", base_url))  # without a password
    try:
        url = urlsplit(base_url)._replace(path="/emulator/calls", query="", fragment="").geturl()
        answer = httpx.get(url, headers=headers, timeout=ASK_SECONDS, trust_env=False)
        calls = answer.json().get("calls") if answer.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError) as error:
        raise UsageError(f"no service answers at {place} ({type(error).__name__}); run: {PROG} serve") from None
    if calls is None:
        raise UsageError(f"{place} answers {answer.status_code} to /emulator/calls; check {ENV}TOKEN")
    return list(calls)


def _chosen(calls: list[Mapping[str, Any]], number: int | None) -> Mapping[str, Any] | None:
    if number is None:
        return calls[-1] if calls else None
    return next((call for call in calls if call["number"] == number), None)
