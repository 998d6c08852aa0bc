"""People who log in and, while the service is in trouble, out again, on the asynchronous front in a process of its own.

Run as a program, `async_leavers.py <path> <prefix> <count>` does and prints what `storage_helpers.py logouts` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import storage_helpers
from storage_helpers import API_KEY, UnwellService

from identity_session import AsyncIdentitySession
from identity_session.exchange import HTTPAnswer, HTTPRequest


class AsyncUnwellService(UnwellService):
    """The same for the asynchronous front."""

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return self.send(request, seconds)

    async def aclose(self) -> None: ...


@contextlib.contextmanager
def async_leavers(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """This file as a program in a process of its own; it is killed by its id when the block ends."""
    helpers = str(Path(storage_helpers.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


async def _leave(path: str, prefix: str, count: str) -> None:
    service = AsyncUnwellService()
    async with AsyncIdentitySession(API_KEY, storage=path, timeout=60, transport=service, retry=None) as session:
        for number in range(int(count)):
            await session.login({"userIdentities": {"customerid": f"{prefix}{number}"}})
            print("in", number, flush=True)
            result = await session.logout(offline="forget")
            print("out", number, result.http_code, flush=True)


if __name__ == "__main__":
    asyncio.run(_leave(*sys.argv[1:]))
