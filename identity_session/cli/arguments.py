"""The arguments of the command line, and how they are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..identities import InvalidRequestError, clean_identities
from ..version import __version__
from .commands import COMMANDS
from .doctor import DOCTOR_SETTINGS, add_doctor_arguments
from .printing import ENV, PROG, shown
from .service import add_explain_arguments, add_serve_arguments
from .settings import SETTINGS, Setting, UsageError

EXIT_CODES = """\
exit codes:
  0    done
  1    the call ended with another code, reset was answered with no, doctor found
       something that is still so, explain was asked for a call that is not
       recorded, or serve lost a worker
  2    wrong usage or settings; serve cannot listen or open its database; or no
       service answers explain
  3    the local state cannot be used, or the output not written
  130  interrupted (serve ends with 0)
  141  nobody reads the output any more
"""
SOURCES = f"""
The API key and its secret come from {ENV}API_KEY and {ENV}API_SECRET, or from
files: --api-key-file, --api-secret-file, {ENV}API_KEY_FILE, {ENV}API_SECRET_FILE.
Every other setting may be given as an option or as a variable, such as --base-url
and {ENV}BASE_URL. An option wins over a variable.
"""
WITHOUT_SETTINGS = ("demo", "serve", "explain")
"""Commands that make no session with settings of the caller's."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see: {self.prog} --help")


class _NeverHere(argparse.Action):
    """A key or secret as an option: refused, and not repeated."""

    def __call__(self, *_: object) -> NoReturn:
        instead = f"set {ENV}{self.dest.upper()}, or give {self.option_strings[0]}-file"
        raise UsageError(f"everyone on this machine can read the command line; {instead}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        args, unknown = _parser().parse_known_args(words)
    except UsageError as error:  # a key in place of a command, say, is not repeated
        text = str(error)
        for word in words:
            if not word.isalpha():
                text = text.replace(repr(word), "what was given")
        raise UsageError(text) from None
    if unknown:  # the name alone: a key may follow
        name = unknown[0].partition("=")[0] if unknown[0].startswith("--") else unknown[0][:2]
        name = name if name.startswith("-") else "an argument without an option"
        raise UsageError(f"unknown: {shown(name)}; see: {PROG} {args.command} --help")
    return args


def _parser() -> argparse.ArgumentParser:
    shape: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    about = "Who is the current user: identity calls and their local state."
    parser = _Parser(PROG, description=about, epilog=EXIT_CODES + SOURCES, **shape)
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    _refuse_secrets(parser)
    parsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (run, text) in COMMANDS.items():
        usage, epilog = f"{PROG} {name} [options]", EXIT_CODES + ("" if name in WITHOUT_SETTINGS else SOURCES)
        command = parsers.add_parser(name, help=text, usage=usage, description=text, epilog=epilog, **shape)
        command.set_defaults(run=run)
        command.add_argument("--json", action="store_true", help="print JSON")
        _add_arguments(name, command)
        if name not in WITHOUT_SETTINGS:
            _add_settings(command.add_argument_group("settings"), DOCTOR_SETTINGS if name == "doctor" else SETTINGS)
    return parser


def _add_arguments(name: str, command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    repeatable: dict[str, Any] = {"dest": "identities", "action": "append", "default": []}
    if name in ("start", "login", "logout", "modify", "search"):
        text = "an identity of the user; repeatable"
        add("--identity", metavar="NAME=VALUE", type=_identity, required=name == "search", help=text, **repeatable)
    if name == "logout":
        text = "what becomes of the user when the service does not confirm: keep (default) or forget"
        add("--offline", choices=("keep", "forget"), default="keep", help=text)
        add("--forget-user", action="store_true", help="with --offline forget: keep no record of the user here")
    if name == "modify":
        add("--remove", metavar="NAME", type=_checked, help="an identity type to remove; repeatable", **repeatable)
    if name == "alias":
        add("--source", metavar="MPID", required=True, help="whose history is copied")
        add("--destination", metavar="MPID", required=True, help="who gets it")
        add("--scope", choices=("device", "mpid"), default="device", help="device (default) or mpid")
    if name == "reset":
        add("--yes", action="store_true", help="do not ask")
    if name == "doctor":
        add_doctor_arguments(add)
    if name == "serve":
        add_serve_arguments(add)
    if name == "explain":
        add_explain_arguments(add)


def _add_settings(group: argparse._ArgumentGroup, settings: Iterable[Setting]) -> None:
    group.add_argument("--api-key-file", metavar="FILE", help="a file that holds the API key")
    group.add_argument("--api-secret-file", metavar="FILE", help="a file that holds its secret")
    _refuse_secrets(group)
    for setting in settings:
        group.add_argument(setting.option, metavar=setting.metavar, help=setting.help)


def _refuse_secrets(arguments: argparse._ActionsContainer) -> None:
    for secret in ("--api-key", "--api-secret"):
        arguments.add_argument(secret, nargs="?", action=_NeverHere, help=argparse.SUPPRESS)


def _identity(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("write NAME=VALUE, such as email=a@example.com")
    if not value:
        raise argparse.ArgumentTypeError(f"{name} has no value; to remove it: {PROG} modify --remove {name}")
    return _checked(name, value)


def _checked(name: str, value: str | None = None) -> tuple[str, str | None]:
    try:
        clean_identities({name: value})
    except InvalidRequestError as invalid:
        raise argparse.ArgumentTypeError(str(invalid)) from None
    return name, value
