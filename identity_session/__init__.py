"""Who is the current user: identity sessions with the semantics of mParticle's Web SDK, for programs without a browser.

`IdentitySession` (or `AsyncIdentitySession`) is where to begin. Importing this package loads neither httpx, pydantic
nor asyncio: a program that only asks who the user is pays for none of them.
"""

from typing import TYPE_CHECKING, Any

from .aliasing import AliasRequest
from .consent import ConsentState
from .errors import (
    HTTPCodes,
    IdentityCallError,
    IdentitySessionError,
    NewerStorageError,
    StorageBusyError,
    StorageError,
)
from .identities import IdentityRequest, IdentityType
from .retry import RetryPolicy
from .session import IdentitySession
from .store import JsonStorage, MemoryStorage, Storage
from .version import __version__
from .views import AliasResult, AsyncIdentityUser, IdentityResult, IdentityUser, SearchResult

if TYPE_CHECKING:
    from .aio import AsyncIdentitySession

__all__ = [
    "AliasRequest",
    "AliasResult",
    "AsyncIdentitySession",
    "AsyncIdentityUser",
    "ConsentState",
    "HTTPCodes",
    "IdentityCallError",
    "IdentityRequest",
    "IdentityResult",
    "IdentitySession",
    "IdentitySessionError",
    "IdentityType",
    "IdentityUser",
    "JsonStorage",
    "MemoryStorage",
    "NewerStorageError",
    "RetryPolicy",
    "SearchResult",
    "Storage",
    "StorageBusyError",
    "StorageError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncIdentitySession":
        from .aio import AsyncIdentitySession

        return AsyncIdentitySession
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
