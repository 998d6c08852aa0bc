"""What can be wrong with stored state, in words: what was found, what it means, what to do.

No finding names a user: the name of a file holds a hash at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What a finding is about. `_MEANINGS` says of each what follows and what to do."""

    NEWER = "newer"
    UNREADABLE = "unreadable"
    DAMAGED = "damaged"
    LOST = "lost"
    CUT_SHORT = "cut_short"
    DAMAGED_PREVIOUS = "damaged_previous"
    NO_PREVIOUS = "no_previous"
    NO_STATE = "no_state"
    DEVICE_STAMP = "device_stamp"
    NO_DEVICE_STAMP = "no_device_stamp"
    WRONG_NAME = "wrong_name"
    MODE = "mode"
    IN_THE_WAY = "in_the_way"
    LEFTOVER = "leftover"
    BUSY = "busy"
    NOT_WRITABLE = "not_writable"
    LINK = "link"
    SET_ASIDE = "set_aside"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class _Meaning:
    means: str
    advice: str
    is_problem: bool = True
    is_repairable: bool = False


_RECOVERED = "--fix sets it aside, for you to look at, and brings the generation before back"
_MEANINGS: Mapping[Kind, _Meaning] = {
    Kind.NEWER: _Meaning(
        "this version cannot use the workspace, and leaves all of it alone",
        "upgrade identity_session, or use another storage path",
    ),
    Kind.UNREADABLE: _Meaning(
        "nobody can say what is in it, and programs of this user fail here",
        "find out who owns it, and run all programs that share the state as the same user",
    ),
    Kind.DAMAGED: _Meaning("the change made last is lost; the one before is safe", _RECOVERED, is_repairable=True),
    Kind.LOST: _Meaning(
        "what it held is lost, but for what a person can read in it",
        "--fix sets it aside, for you to look at; the next session goes on without it",
        is_repairable=True,
    ),
    Kind.CUT_SHORT: _Meaning(
        "the file is gone, and the generation before was not brought back yet; nothing more is lost",
        "--fix brings it back, as the next session would",
        is_repairable=True,
    ),
    Kind.DAMAGED_PREVIOUS: _Meaning(
        "the file itself is good, but nothing could take its place",
        "--fix sets it aside; the next change makes another",
        is_repairable=True,
    ),
    Kind.NO_PREVIOUS: _Meaning(
        "the file itself is good, but nothing could take its place",
        "nothing to do; the next change makes one",
        is_problem=False,
    ),
    Kind.NO_STATE: _Meaning(
        "who is current is not known any more; the other users are safe",
        "start a session: it makes a fresh state and keeps the users",
    ),
    Kind.DEVICE_STAMP: _Meaning(
        "the copy in the state is used, or the only one; damage to it would make this another device",
        "--fix makes both copies the one in use",
        is_repairable=True,
    ),
    Kind.NO_DEVICE_STAMP: _Meaning(
        "the service will take this device for a new one",
        "start a session: it makes a stamp; pass device_id if you know the old one",
    ),
    Kind.WRONG_NAME: _Meaning(
        "nobody finds this user, who is missing unless stored under the right name as well",
        "move it away; only copies made by hand get such names",
    ),
    Kind.MODE: _Meaning(
        "others on this machine may read it, or programs of this user may not",
        "--fix makes it private: 0600 for files, 0700 for folders",
        is_repairable=True,
    ),
    Kind.IN_THE_WAY: _Meaning(
        "this package did not make it, and programs fail here",
        "find out who put it there, and move it away",
    ),
    Kind.LEFTOVER: _Meaning(
        "a save was cut short, by a kill or a power cut; the state is as it was before",
        "--fix removes it, as the next change would",
        is_repairable=True,
    ),
    Kind.BUSY: _Meaning(
        "a program is changing the state, or hangs; nobody can see which one",
        "run this again; if it stays so, look for a program that hangs",
    ),
    Kind.NOT_WRITABLE: _Meaning(
        "who is current can be read, but no change can be saved: calls end with -1",
        "make room, or make it writable",
    ),
    Kind.LINK: _Meaning(
        "the state lies where the link leads; whoever can change the link decides where",
        "nothing to do if you made it; else find out who did",
        is_problem=False,
    ),
    Kind.SET_ASIDE: _Meaning(
        "damaged files from before, kept for a person to look at",
        "delete them when you have seen them",
        is_problem=False,
    ),
    Kind.FOREIGN: _Meaning(
        "this package did not make it, and leaves it alone",
        "nothing to do if you know whose it is",
        is_problem=False,
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, or worth knowing."""

    kind: Kind
    path: Path
    """The file or folder it is about."""
    found: str
    """What was seen, in words."""

    @property
    def means(self) -> str:
        """What follows from it, in words."""
        return _MEANINGS[self.kind].means

    @property
    def advice(self) -> str:
        """What to do, in words."""
        return _MEANINGS[self.kind].advice

    @property
    def is_problem(self) -> bool:
        """False for what is worth knowing and no more."""
        return _MEANINGS[self.kind].is_problem

    @property
    def is_repairable(self) -> bool:
        """Whether `repair` can put it right, unless something else keeps it from that."""
        return _MEANINGS[self.kind].is_repairable


@dataclass(frozen=True)
class Examination:
    """What was looked at, and found."""

    path: Path
    workspaces: tuple[Path, ...]
    """The folders that were looked at; none when nothing is stored."""
    users: int
    """How many users could be read, in all of them."""
    findings: tuple[Finding, ...]
    """What is so now."""
    repaired: tuple[Finding, ...] = ()
    """What was so before `repair`."""

    @property
    def is_healthy(self) -> bool:
        """Whether no problem is left."""
        return not any(finding.is_problem for finding in self.findings)
