"""What this run is to do: which real components must be there, whether it may take minutes more, and look for news.

Tests of a component that a machine lacks are skipped, or fail where `IDENTITY_SESSION_TEST_REQUIRE` names it.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

SLOW = os.environ.get("IDENTITY_SESSION_TEST_SLOW") == "1"
"""Whether tests with the mark `slow` try many more cases than they do by default."""

NEW_EXAMPLES = os.environ.get("IDENTITY_SESSION_TEST_NEW_EXAMPLES") == "1"
"""Whether hypothesis draws other examples every time, to find what nobody has met yet; otherwise what passed passes."""

only_slow = [pytest.mark.slow, pytest.mark.skipif(not SLOW, reason="IDENTITY_SESSION_TEST_SLOW is not 1")]
"""The marks of a case that is for such a run alone."""


def absent(component: str, reason: str) -> NoReturn:
    """Skip this test, or fail it if `IDENTITY_SESSION_TEST_REQUIRE` names the component (`postgres,browser`, ...)."""
    if component in os.environ.get("IDENTITY_SESSION_TEST_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"{component} is required here: {reason}")
    pytest.skip(f"no {component}: {reason}")
