"""People who log in and, while the service is in trouble, out again, on the asynchronous front in a process of its own.

Run as a program, `async_leavers.py <path> <prefix> <count>` does and prints what `storage_helpers.py logouts` does.
"""

from __future__ import annotations

import asyncio
import sys

from storage_helpers import API_KEY, UnwellService

from identity_session import AsyncIdentitySession
from identity_session.exchange import HTTPAnswer, HTTPRequest


class AsyncUnwellService(UnwellService):
    """The same for the asynchronous front."""

    async def asend(self, request: HTTPRequest, seconds: float) -> HTTPAnswer:
        return self.send(request, seconds)

    async def aclose(self) -> None: ...


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
