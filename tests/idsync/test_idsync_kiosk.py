"""A device that a thousand customers share: what a login on it costs, and what its trail says."""

from __future__ import annotations

import time

import pytest
from idsync_driver import Caller
from steady import steady

from identity_session.idsync import IdentityStrategy

DEVICE = {"device_application_stamp": "kiosk"}
DAY_MS = 24 * 60 * 60 * 1000


def kiosk(database: str, customers: int, retention_days: int | None = None) -> Caller:
    """A service with a device that so many known customers have used."""
    caller = Caller(IdentityStrategy(retention_days=retention_days), database=database)
    caller.idsync.reset()
    with caller.idsync._store.transaction() as profiles:
        for number in range(customers):
            mpid = profiles.create(now_ms=caller.idsync.now_ms()).mpid
            profiles.add(mpid, "customerid", f"known-{number}")
            profiles.add(mpid, "device_application_stamp", "kiosk")
    return caller


def fastest_login(caller: Caller) -> float:
    """Seconds for the login of a customer who was never here, at best."""
    spans = []
    for number in range(25):
        began = time.perf_counter()
        answer = caller.call("login", {"customerid": f"new-{number}", **DEVICE})
        spans.append(time.perf_counter() - began)
        assert answer.status == 200
    caller.idsync.close()
    return min(spans)


@pytest.mark.parametrize("retention_days", [None, 30])
@steady
def test_a_hundred_times_as_many_customers_cost_a_few_times_as_much(database: str, retention_days: int | None) -> None:
    """Known customers are out of reach of the device stamp, and none of them is read."""
    few = fastest_login(kiosk(database, 10, retention_days))
    many = fastest_login(kiosk(database, 1_000, retention_days))
    assert many / few < 8


def test_the_trail_names_the_first_customers_and_counts_the_others() -> None:
    """In order of creation; the anonymous profile among them is found."""
    caller = kiosk(":memory:", 3)
    anonymous = caller.seed(**DEVICE)
    known = [caller.seed(customerid=f"later-{number}", **DEVICE) for number in range(4)]
    assert caller.call("identify", DEVICE).mpid == anonymous
    first = [profile["mpid"] for profile in caller.profiles() if profile["mpid"] != anonymous][:5]
    assert first[3:] == known[:2]
    reasons = caller.idsync.calls()[-1]["reasons"]
    assert reasons[:2] == [
        f"Looked up device_application_stamp: found {anonymous}.",
        "Looked up device_application_stamp: out of reach, as only a login ID finds a known profile: "
        f"{', '.join(first)}, 2 more.",
    ]


def test_customers_whose_time_is_over_are_forgotten_with_the_next_login() -> None:
    """By the device that they share with whom is there; the others stay."""
    caller = kiosk(":memory:", 3, retention_days=1)
    caller.call("login", {"customerid": "first", **DEVICE})
    caller.idsync.set_clock(shift_ms=2 * DAY_MS)
    caller.idsync._service._swept_ms = caller.idsync.now_ms()  # it was just looked for all of them
    caller.seed(customerid="there", **DEVICE)
    caller.seed(customerid="elsewhere")
    caller.call("login", {"customerid": "second", **DEVICE})
    with caller.idsync._store.transaction() as profiles:
        left = [profile.values("customerid") for profile in profiles.all()]
    assert left == [("there",), ("elsewhere",), ("second",)]
