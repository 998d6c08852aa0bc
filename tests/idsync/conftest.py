"""A service behind a real socket, for the tests of a file together; each cleans up what it needs clean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from http_serving import Client, serving

from identity_session.idsync import LocalIDSync


@pytest.fixture(scope="module")
def idsync() -> LocalIDSync:
    return LocalIDSync()


@pytest.fixture(scope="module")
def client(idsync: LocalIDSync) -> Iterator[Client]:
    with serving(idsync) as served:
        yield served
