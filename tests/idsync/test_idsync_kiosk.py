"""A device that a thousand customers share: what a login on it costs, and what its trail says."""

from __future__ import annotations

import pytest
from idsync_driver import Caller

from identity_session.idsync import IdentityStrategy
from identity_session.idsync.profiles import Profile

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


@pytest.mark.parametrize("retention_days", [None, 30])
def test_a_login_looks_into_as_many_profiles_however_many_customers_there_are(
    database: str, retention_days: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known customers are out of reach of the device stamp, and none of them is read."""
    looks: list[int] = []
    values = Profile.values

    def counted(profile: Profile, type_: str) -> tuple[str, ...]:
        looks.append(profile.mpid)
        return values(profile, type_)

    numbers = []
    for customers in (10, 1_000):
        caller = kiosk(database, customers, retention_days)
        with monkeypatch.context() as patched:
            patched.setattr(Profile, "values", counted)
            assert caller.call("login", {"customerid": "new", **DEVICE}).status == 200
        caller.idsync.close()
        numbers.append(len(looks))
        looks.clear()
    few, many = numbers
    assert few == many > 0


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
