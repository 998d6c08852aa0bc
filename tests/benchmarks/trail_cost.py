"""What the trail costs: the same calls by this package and by a copy of it that notes no step, in turns, as a ratio.

Run it with `python tests/benchmarks/trail_cost.py`. Absolute times say more about the machine than about the trail, so
only their ratio is of interest: that of the time of a clock, and that of the processor, which other programs on the
machine disturb less. The copy is this package with every `trail.append(...)` taken out, so that the ratio
holds all of the cost: noting the steps, keeping them with the call, and writing them to the database.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

PAIRS, ROUNDS, CALLS = 6, 40, 50
IDENTITIES = {"customerid": "A", "email": "ed", "other": "o", "ios_idfv": "1", "device_application_stamp": "d"}
ROOT = Path(__file__).parents[2]


class WithoutTrail(ast.NodeTransformer):
    """Takes out each statement that notes a step."""

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        match node.value:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="trail") | ast.Attribute(attr="trail"))):
                return ast.copy_location(ast.Pass(), node)
        return node


def copy_without_trail(folder: Path) -> None:
    shutil.copytree(
        ROOT / "identity_session", folder / "identity_session", ignore=shutil.ignore_patterns("__pycache__")
    )
    for path in (folder / "identity_session" / "idsync").glob("*.py"):
        path.write_text(
            ast.unparse(WithoutTrail().visit(ast.parse(path.read_text(encoding="utf-8")))), encoding="utf-8"
        )


def play(database: str) -> None:
    """Make so many calls, bytes in and bytes out, as each line of the input says. Prints the seconds that they took
    by the clock, and those of the processor."""
    from identity_session.idsync import LocalIDSync

    idsync = LocalIDSync(database, "profile_conversion", seed=1)
    body = json.dumps({"environment": "production", "known_identities": IDENTITIES}).encode()
    for line in sys.stdin:
        started = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            idsync.handle("POST", "/v1/identify", {"x-mp-key": "k"}, body)
        print(time.perf_counter() - started[0], time.process_time() - started[1], flush=True)


class Player:
    """A process that plays by the package in a folder."""

    def __init__(self, stack: ExitStack, folder: Path, database: str) -> None:
        command = [sys.executable, __file__, database]
        env = {**os.environ, "PYTHONPATH": str(folder)}
        pipe = subprocess.PIPE
        self._process = stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env))
        for _ in range(25):  # until as many calls are recorded as are kept, and caches are warm
            self.seconds(CALLS)

    def seconds(self, calls: int) -> list[float]:
        assert self._process.stdin
        assert self._process.stdout
        print(calls, file=self._process.stdin, flush=True)
        return list(map(float, self._process.stdout.readline().split()))


def ratios(folder: Path, database: str) -> list[float]:
    """Of the clock and of the processor. Both ways take turns; the rounds that were disturbed least are compared, of
    several processes, as where the memory of one comes to lie makes a difference of its own."""
    rounds: list[list[list[float]]] = [[], []]
    for pair in range(PAIRS):
        with ExitStack() as stack:
            files = [database if database == ":memory:" else f"{database}-{pair}-{way}" for way in range(2)]
            players = [Player(stack, path, file) for path, file in zip((ROOT, folder), files, strict=True)]
            for number in range(ROUNDS):
                for way in (0, 1) if number % 2 else (1, 0):
                    rounds[way].append(players[way].seconds(CALLS))
    ours, theirs = ([statistics.quantiles(each, n=20)[0] for each in zip(*way, strict=True)] for way in rounds)
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_without_trail(folder)
        print("with the trail to without it:  clock  processor")
        for where, database in (("in memory", ":memory:"), ("on SQLite", f"{name}/profiles.db")):
            clock, processor = ratios(folder, database)
            print(f"  a call {where}             {clock:.3f}      {processor:.3f}")


if __name__ == "__main__":
    play(sys.argv[1]) if len(sys.argv) > 1 else main()
