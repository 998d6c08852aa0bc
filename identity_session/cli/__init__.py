"""The command line: `identity-session` and `python -m identity_session`.

httpx, pydantic and the embedded service are loaded only by commands that need them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from ..errors import StorageError
from .arguments import parse
from .printing import PROG, complain
from .settings import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` is without the program's name; None takes the real one."""
    if sys.stdout is None:
        return complain("standard output is closed; nothing was done", 3)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter is no error
    with _warnings_on_stderr():
        try:
            code = _run(argv)
            sys.stdout.flush()
            return code
        except UsageError as error:
            return complain(str(error), 2)
        except StorageError as error:
            return complain(str(error), 3)
        except KeyboardInterrupt:
            return 130
        except OSError as error:  # nobody reads what is printed, or the disk that it goes to is full
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
            return 141 if isinstance(error, BrokenPipeError) else complain(str(error), 3)


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = parse(argv)
    except SystemExit:  # of --help and --version
        sys.stdout.flush()
        raise
    code: int = args.run(args)
    return code


@contextlib.contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Print what the library warns of, such as damaged state that was set aside. It never names a user."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter(f"{PROG}: warning: %(message)s"))
    logger = logging.getLogger("identity_session")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
