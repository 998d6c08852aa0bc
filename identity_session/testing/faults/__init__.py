"""Faults as tools: what goes wrong on real machines, done for real, on demand and by count.

FaultyDisk                the n-th operation on files fails, or the power goes
FaultyTransport           a network in trouble, for `IdentitySession`; AsyncFaultyTransport for the other front
RawServer                 a server on a raw socket that does what it should not; `behaviours` has ways by name
killed_again_and_again    a program, killed at any moment
"""

from . import behaviours
from .disk import FaultyDisk, PowerCut
from .kills import Run, killed_again_and_again
from .network import AsyncFaultyTransport, FaultyTransport
from .servers import HOLD, RESET, Handler, Peer, RawRequest, RawServer, Step, answers, http

__all__ = [
    "HOLD",
    "RESET",
    "AsyncFaultyTransport",
    "FaultyDisk",
    "FaultyTransport",
    "Handler",
    "Peer",
    "PowerCut",
    "RawRequest",
    "RawServer",
    "Run",
    "Step",
    "answers",
    "behaviours",
    "http",
    "killed_again_and_again",
]
