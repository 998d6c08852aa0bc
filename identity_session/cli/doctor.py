"""The command `doctor`: is the stored state well, what can be put right, and does it survive what it should?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..config import check_text, checked_key, workspace_name
from ..findings import Examination, Finding
from ..front import data_folder
from .printing import PROG, count, print_report, shown
from .settings import SETTINGS, UsageError, given_settings, secret

if TYPE_CHECKING:
    from ..testing.torture import Outcome

DOCTOR_SETTINGS = tuple(setting for setting in SETTINGS if setting.name in ("storage", "workspace_token"))
"""The settings that say which state is meant."""


def add_doctor_arguments(add: Any) -> None:
    add("--fix", action="store_true", help="put right what can be without losing anything")
    add("--torture", type=int, metavar="N", help="also kill a program on a store in a temporary folder N times")


def doctor(args: argparse.Namespace) -> int:
    """Examine what is stored, and say what was found."""
    from .. import doctor  # no other command needs it

    if args.torture is not None and args.torture < 1:
        raise UsageError("--torture takes a whole number of kills, 1 or more")
    settings = given_settings(args, DOCTOR_SETTINGS)
    workspace = _workspace(secret("API_KEY", args.api_key_file), settings.get("workspace_token"))
    look = doctor.repair if args.fix else doctor.examine
    examined = look(settings.get("storage") or data_folder(), workspace)
    tortured = _tortured(args.torture) if args.torture else None
    lines = [*_lines(examined), *(_torture_lines(tortured) if tortured else ())]
    print_report(args, {**_report(examined), "torture": tortured and asdict(tortured)}, lines)
    return 0 if examined.is_healthy and not (tortured and tortured.losses) else 1


def _workspace(api_key: str | None, token: str | None) -> str | None:
    """The name of the workspace that is meant, None for all. Raises UsageError for what a session would refuse."""
    try:
        key = checked_key(api_key)
        if token is not None:
            check_text("workspace_token", token)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return workspace_name(key, token) if key or token else None


def _tortured(kills: int) -> Outcome:
    from tempfile import TemporaryDirectory

    from ..testing.torture import torture

    with TemporaryDirectory(prefix=f"{PROG}-") as folder:
        return torture(folder, kills)


def _report(examined: Examination) -> dict[str, Any]:
    return {
        "storage": str(examined.path),
        "workspaces": [folder.name for folder in examined.workspaces],
        "users": examined.users,
        "healthy": examined.is_healthy,
        "findings": [_finding(finding) for finding in examined.findings],
        "repaired": [_finding(finding) for finding in examined.repaired],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "path": str(finding.path),
        "found": finding.found,
        "means": finding.means,
        "advice": finding.advice,
        "problem": finding.is_problem,
        "repairable": finding.is_repairable,
    }


def _lines(examined: Examination) -> Iterator[str]:
    for finding in examined.repaired:
        yield f"repaired: {_where(examined, finding)}: {finding.found}"
    for finding in examined.findings:
        yield f"{'problem' if finding.is_problem else 'note'}: {_where(examined, finding)}: {finding.found}"
        yield f"    it means: {finding.means}"
        yield f"    to do:    {finding.advice}"
    if not examined.workspaces:
        yield f"nothing is stored in {shown(str(examined.path))}"
        return
    problems = sum(finding.is_problem for finding in examined.findings)
    workspaces, users = count(len(examined.workspaces), "workspace"), count(examined.users, "user")
    state = "healthy" if not problems else count(problems, "problem")
    yield f"{shown(str(examined.path))}: {workspaces}, {users}: {state}"


def _where(examined: Examination, finding: Finding) -> str:
    return shown(str(finding.path.relative_to(examined.path)))


def _torture_lines(outcome: Outcome) -> Iterator[str]:
    for loss in outcome.losses:
        yield f"lost: {shown(loss)}"
    figures = [
        count(outcome.kills, "kill"),
        f"{count(outcome.transitions, 'transition')} answered",
        count(outcome.users, "user"),
        f"worst recovery {outcome.worst_recovery_seconds * 1000:.1f} ms",
        f"{outcome.seconds:.1f} s",
    ]
    yield f"torture: {', '.join(figures)}: {'something was lost' if outcome.losses else 'nothing was lost'}"
