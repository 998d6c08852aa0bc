"""`/openapi.json`: it is complete, and the service keeps to it whatever is sent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
from http_serving import Client, ServeProcess
from required import absent

from identity_session.exchange import Call
from identity_session.idsync.emulator import ROUTES
from identity_session.idsync.openapi import description

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
EXAMPLES = 10


def test_it_describes_everything_served(client: Client) -> None:
    """Every call with every prefix, every route of /emulator."""
    told = client.request("GET", "/openapi.json")
    assert (told.status, told.headers["content-type"]) == (200, "application/json")
    paths = told.body["paths"]
    assert told.body == description()
    assert {(route.path, route.method.lower()) for route in ROUTES} <= {(p, m) for p, ms in paths.items() for m in ms}
    for call in Call:
        assert sum(path.lower().endswith(f"/{call}") for path in paths) >= 2, call
    assert client.request("POST", "/openapi.json").status == 405


def test_a_path_may_name_every_mpid() -> None:
    """The outermost ones have 19 digits."""
    operation = description()["paths"]["/v1/{mpid}/modify"]["post"]
    pattern = next(each["schema"]["pattern"] for each in operation["parameters"] if each["name"] == "mpid")
    for mpid, fits in ((-(2**63), True), (2**63 - 1, True), (1, True), (0, False), (10**19, False)):
        assert bool(re.search(pattern, str(mpid))) is fits


def test_every_reference_leads_somewhere() -> None:
    """And every operation has a name of its own, or none."""
    told = description()

    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for name, member in value.items():
                if name == "$ref":
                    yield member
                else:
                    yield from references(member)
        elif isinstance(value, list):
            for member in value:
                yield from references(member)

    assert {each.rpartition("/")[2] for each in references(told)} <= set(told["components"]["schemas"])
    names = [op["operationId"] for path in told["paths"].values() for op in path.values() if "operationId" in op]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("strategy", ["default", "profile_isolation"])
def test_whatever_is_sent_gets_a_declared_answer(strategy: str) -> None:
    """Schemathesis against `serve`: no answer of 5xx, and none that is not described."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import schemathesis  # noqa: F401
        except ImportError as error:
            absent("schemathesis", f"it cannot be imported ({error})")
    with ServeProcess("--strategy", strategy, "--seed", "1") as served:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.root}/openapi.json"]
        options = ["--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"]
        limits = ["--request-timeout", "10", "--phases", "examples,coverage,fuzzing", "--generation-database", "none"]
        env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        ran = subprocess.run(
            [*command, *options, *limits], capture_output=True, text=True, timeout=600, env=env, cwd="/"
        )
        assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
        assert served.emulator("GET", "health").status == 200
        code, _, err = served.end()
    assert (code, err) == (0, "")
