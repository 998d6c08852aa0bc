"""Settings of the command line: the arguments of `IdentitySession`, as options and in the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..retry import RetryPolicy
from ..session import IdentitySession
from .printing import ENV, shown


class UsageError(Exception):
    """The command or a setting is wrong; the text says what to do, and shows no key and no secret."""


@dataclass(frozen=True)
class Setting:
    """An argument of `IdentitySession`, as an option and as a variable of the environment."""

    name: str
    metavar: str
    help: str
    convert: Callable[[str], object] = str

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENV + self.name.upper()


def _yes_no(text: str) -> bool:
    return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text.lower()]


SETTINGS = (
    Setting("base_url", "URL", "the Identity API: https, or http on this machine"),
    Setting("alias_url", "URL", "where alias requests go"),
    Setting("domain", "HOST", "your own domain in front of the service; replaces both URLs"),
    Setting("direct_url_routing", "YES|NO", "use the data centre that the API key begins with (no)", _yes_no),
    Setting("auth", "SCHEME", "hmac, basic or key; hmac if there is a secret, otherwise key"),
    Setting("environment", "NAME", "production or development (production)"),
    Setting("platform", "NAME", "the platform to name in calls, such as ios or web (other)"),
    Setting("storage", "PATH", "the folder of the local state; by default in your data folder"),
    Setting("strict_storage", "YES|NO", "no: go on in memory when the state cannot be used (yes)", _yes_no),
    Setting("workspace_token", "TOKEN", "names the workspace whose state this is; by default the API key does"),
    Setting("device_id", "ID", "replaces the stored device application stamp"),
    Setting(
        "session_timeout",
        "MINUTES",
        "inactivity that ends a session, 0 for never (30)",
        lambda n: timedelta(minutes=float(n)),
    ),
    Setting(
        "alias_max_window", "DAYS", "how far back an alias request may reach (90)", lambda n: timedelta(days=float(n))
    ),
    Setting("timeout", "SECONDS", "time for one call in all, retries included (10)", float),
    Setting(
        "retry", "ATTEMPTS", "how often a call is made at most, at least 1 (4)", lambda n: RetryPolicy(attempts=int(n))
    ),
    Setting("keep_ephemeral_users", "YES|NO", "remember users whom the service calls ephemeral (yes)", _yes_no),
    Setting("max_users", "NUMBER", "how many users to remember at most (no limit)", int),
    Setting("cache_identity", "YES|NO", "answer repeated calls from what is stored while allowed (no)", _yes_no),
)


def open_session(args: argparse.Namespace, *, calls: bool, **more: Any) -> IdentitySession:
    """A session by options and environment. Raises UsageError, or StorageError for state that cannot be read."""
    chosen = {**more, **given_settings(args, SETTINGS)}
    api_key, api_secret = secret("API_KEY", args.api_key_file), secret("API_SECRET", args.api_secret_file)
    if calls and not api_key:
        raise UsageError(f"there is no API key; set {ENV}API_KEY or give --api-key-file")
    if not api_key and "workspace_token" not in chosen:
        raise UsageError(
            f"the API key decides whose state this is, and there is none; set {ENV}API_KEY or give --workspace-token"
        )
    try:
        return IdentitySession(api_key, api_secret, **chosen)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def given_settings(args: argparse.Namespace, settings: Iterable[Setting]) -> dict[str, Any]:
    """Those of these settings that are given, as options or in the environment. Raises UsageError."""
    chosen: dict[str, Any] = {}
    for setting in settings:
        source, given = setting.option, getattr(args, setting.name)
        if given is None:
            source, given = setting.variable, os.environ.get(setting.variable) or None
        if given is not None:
            chosen[setting.name] = _converted(setting, source, given)
    return chosen


def _converted(setting: Setting, source: str, given: str) -> object:
    try:
        if not given:
            raise ValueError
        return setting.convert(given)
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"{source} {shown(given)} is not {setting.metavar}: {setting.help}") from None


def secret(name: str, file: str | None) -> str | None:
    """A key, secret or token: from the file of the option, the variable, or the file that the other variable names."""
    variable, option = ENV + name, f"--{name.lower().replace('_', '-')}-file"
    if file is None and os.environ.get(variable):
        return os.environ[variable]
    source = option if file else f"{variable}_FILE"
    file = file or os.environ.get(source)
    if not file:
        return None
    try:
        content = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"{source}: the file {shown(file)} cannot be read ({reason})") from None
    if not content:
        raise UsageError(f"{source}: the file {shown(file)} is empty")
    return content
