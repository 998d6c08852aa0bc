"""The vendor's published flows, and cases derived from the rules, played against the service over its wire."""

from __future__ import annotations

from typing import Any

import pytest
from idsync_driver import Caller
from idsync_scenarios import CASES, CONFIGS, play_case

from identity_session.idsync import IdentityStrategy


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_scenario(case: dict[str, Any]) -> None:
    """Every step answers as listed and leaves the profiles as listed."""
    play_case(Caller(IdentityStrategy(**CONFIGS[case["config"]])), case)
