"""Real components that a machine may lack: their tests are skipped then, or fail where the component is required."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def absent(component: str, reason: str) -> NoReturn:
    """Skip this test, or fail it if `IDENTITY_SESSION_TEST_REQUIRE` names the component (`postgres,browser`, ...)."""
    if component in os.environ.get("IDENTITY_SESSION_TEST_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"{component} is required here: {reason}")
    pytest.skip(f"no {component}: {reason}")
