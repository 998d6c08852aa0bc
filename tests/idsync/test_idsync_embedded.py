"""LocalIDSync as people meet it: its transports, seeding, looking inside, threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from idsync_driver import KEY, Caller

from identity_session.exchange import AsyncSender, HTTPRequest, Sender
from identity_session.idsync import IdentityStrategy, LocalIDSync
from identity_session.idsync.embedded import mpid_drawer
from identity_session.signing import Credentials

URL = "https://identity.mparticle.com/v1/identify"
BODY = b'{"environment":"production","known_identities":{"email":"zo\xc3\xab"}}'


def test_importing_the_service_does_not_import_httpx() -> None:
    """A program that only asks who the user is does not pay for it."""
    program = "import sys, identity_session.idsync as i; i.LocalIDSync(); assert 'httpx' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_transports_are_senders() -> None:
    """A session takes them as they are."""
    idsync = LocalIDSync()
    assert isinstance(idsync.transport, Sender)
    assert isinstance(idsync.async_transport, AsyncSender)
    assert idsync.transport is idsync.transport


def test_a_request_is_signed_as_it_is_sent() -> None:
    """Credentials are asked for the headers of each attempt; without them the request goes as it is."""
    idsync = LocalIDSync(api_keys={"key": "secret"})
    credentials = Credentials("key", "secret", "hmac", lambda: 0)
    signed = HTTPRequest(URL, "/v1/identify", {}, BODY, credentials)
    bare = HTTPRequest(URL, "/v1/identify", KEY, BODY, None)
    assert idsync.transport.send(signed, 1.0).status == 200
    assert idsync.transport.send(bare, 1.0).status == 401
    assert asyncio.run(idsync.async_transport.asend(signed, 1.0)).status == 200
    idsync.transport.close()
    asyncio.run(idsync.async_transport.aclose())
    assert idsync.transport.send(signed, 1.0).status == 200


def test_an_httpx_client_may_use_the_transport() -> None:
    """Methods, queries and headers reach the service; closing the client does not end it."""
    idsync = LocalIDSync()
    with httpx.Client(transport=idsync.transport) as client:
        answer = client.post(URL + "?return_matches=false", content=BODY, headers=KEY)
        assert answer.status_code == 200
        assert "matched_identities" not in answer.json()
        assert answer.headers["X-MP-Max-Age"] == "86400"
        assert client.options(URL).status_code == 204
        assert client.get(URL).status_code == 405
    assert len(idsync.profiles()) == 1


def test_an_async_httpx_client_may_use_the_async_transport() -> None:
    """The same profiles as through the other transport."""
    idsync = LocalIDSync()

    async def identify() -> Any:
        async with httpx.AsyncClient(transport=idsync.async_transport) as client:
            return (await client.post(URL, content=BODY, headers=KEY)).json()["mpid"]

    assert (
        asyncio.run(identify())
        == httpx.Client(transport=idsync.transport).post(URL, content=BODY, headers=KEY).json()["mpid"]
    )


def test_the_async_transport_waits_for_a_database_in_a_thread(tmp_path: Path) -> None:
    """The event loop goes on while another call holds the database."""
    idsync = LocalIDSync(str(tmp_path / "profiles.db"))
    request = HTTPRequest(URL, "/v1/identify", KEY, BODY, None)

    async def identify() -> tuple[int, int]:
        with idsync._store.transaction():
            session = asyncio.create_task(idsync.async_transport.asend(request, 10))
            async with httpx.AsyncClient(transport=idsync.async_transport) as client:
                post = asyncio.create_task(client.post(URL, content=BODY, headers=KEY))
                await asyncio.sleep(0.05)
                assert not session.done()
        return (await session).status, (await post).status_code

    assert asyncio.run(identify()) == (200, 200)
    assert len(idsync.profiles()) == 1
    idsync.close()


def test_a_database_may_be_a_path_object(tmp_path: Path) -> None:
    """It is the file that the same text names, and ":memory:" is none."""
    path = tmp_path / "profiles.db"
    idsync = LocalIDSync(path)
    mpid = idsync.seed_profile({"customerid": "1"})
    idsync.close()
    again = LocalIDSync(str(path))
    assert [profile["mpid"] for profile in again.profiles()] == [mpid]
    again.close()
    LocalIDSync(Path(":memory:")).close()
    assert not Path(":memory:").exists()


def test_a_service_tells_its_strategy() -> None:
    """With every setting that is in force."""
    strategy = IdentityStrategy("best_match", max_age_s=5)
    assert LocalIDSync(strategy=strategy).strategy is strategy


def test_a_seeded_profile_is_stored_as_given() -> None:
    """One value or several, without merging, unique values twice, types outside the priority apart."""
    idsync = LocalIDSync(strategy=IdentityStrategy("profile_link"), now_ms=lambda: 5)
    common = {"source_mpid": None, "first_seen_ms": 5, "last_seen_ms": 5, "notes": []}
    first = idsync.seed_profile({"email": "ed", "facebook": "f", "customerid": ["A", "B", "A"]})
    second = idsync.seed_profile({"email": ["ed"]})
    third = idsync.seed_profile({"email": []})
    assert idsync.profiles() == [
        {
            "mpid": first,
            "identities": {"customerid": ["A", "B"], "email": ["ed"]},
            "other_identities": {"facebook": ["f"]},
            **common,
        },
        {"mpid": second, "identities": {"email": ["ed"]}, "other_identities": {}, **common},
        {"mpid": third, "identities": {}, "other_identities": {}, **common},
    ]


@pytest.mark.parametrize(
    "identities", [{"e-mail": "ed"}, {"email": ""}, {"email": ["\0"]}, {"email": "\ud800"}, {"email": [5]}]
)
def test_a_profile_that_cannot_be_is_not_seeded(identities: Any) -> None:
    """Nothing of it is stored."""
    idsync = LocalIDSync()
    with pytest.raises(ValueError, match=r"e-?mail"):
        idsync.seed_profile(identities)
    assert idsync.profiles() == []


def test_what_profiles_returns_is_a_copy() -> None:
    """Changing it changes nothing."""
    idsync = LocalIDSync()
    idsync.seed_profile({"email": "ed"})
    idsync.profiles()[0]["identities"]["email"].append("henry")
    assert idsync.profiles()[0]["identities"] == {"email": ["ed"]}


def test_a_reset_forgets_everything() -> None:
    """The values are free again; the old MPID is unknown."""
    caller = Caller()
    mpid = caller.seed(customerid="A")
    caller.idsync.reset()
    assert caller.store() == {}
    assert caller.modify(mpid).status == 404
    assert caller.call("identify", {"customerid": "A"}).mpid != mpid


def test_a_value_in_the_place_of_its_type_is_not_repeated() -> None:
    """It would be found in logs; the types that there are stand there instead."""
    with pytest.raises(ValueError, match=r"unknown identity type; known: .*customerid.*email") as caught:
        LocalIDSync().seed_profile({"ed@example.com": "email"})
    assert "ed@" not in str(caught.value)


def test_a_seed_makes_the_mpids_the_same_in_every_run() -> None:
    """Without one they differ."""
    runs = [[LocalIDSync(seed=seed).seed_profile({}) for _ in range(2)] for seed in (7, 7, 8, None, None)]
    assert runs[0] == runs[1]
    assert len({run[0] for run in runs}) == 4


def test_mpids_are_signed_64_bit_numbers_but_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero means "no user yet" in the SDKs; the last number of the range takes its place."""
    draw = mpid_drawer(1)
    drawn = [draw() for _ in range(1000)]
    assert all(-(2**63) <= mpid < 2**63 and mpid for mpid in drawn)
    assert min(drawn) < -(2**62)
    assert max(drawn) > 2**62
    monkeypatch.setattr("random.Random.randrange", lambda *_: 0)
    assert mpid_drawer(1)() == 2**63 - 1


def test_an_unknown_strategy_is_refused() -> None:
    """With the names that there are."""
    with pytest.raises(ValueError, match="unknown strategy 'custom'; known: default, "):
        LocalIDSync(strategy="custom")


def test_a_printed_service_names_its_strategy() -> None:
    """And nothing that is personal or secret."""
    assert repr(LocalIDSync(strategy="best_match")) == "<LocalIDSync, strategy 'best_match'>"


def test_equal_calls_at_the_same_time_end_on_one_profile() -> None:
    """32 threads identify the same new users in another order each."""
    caller = Caller("profile_conversion")
    users = [str(number) for number in range(25)]

    def identify_all(shift: int) -> set[str]:
        turned = users[shift % 25 :] + users[: shift % 25]
        return {caller.call("identify", {"customerid": user, "ios_idfv": f"d{user}"}).mpid for user in turned}

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(identify_all, range(32)))
    assert all(mpids == found[0] for mpids in found)
    assert len(caller.store()) == 25


def test_a_unique_value_moved_back_and_forth_is_never_on_two_profiles() -> None:
    """32 threads pull one email to their profiles by modify, and log in with it in between."""
    caller = Caller("profile_link")
    mpids = [caller.seed(customerid=str(number)) for number in range(32)]

    def pull(number: int) -> None:
        for _ in range(20):
            assert caller.modify(mpids[number], ("email", None, "ed")).status == 200
            assert caller.call("login", {"customerid": str(number), "email": "ed"}).mpid == mpids[number]

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(pull, range(32)))
    assert sum("email" in record for record in caller.store().values()) == 1
    assert len(caller.store()) == 32


def test_one_profile_is_read_and_found_as_in_the_list(database: str) -> None:
    """By MPID and by any identity it holds, those outside the priority included; whatever is asked for."""
    idsync = LocalIDSync(database)
    one = idsync.seed_profile({"email": "ed", "facebook": "f"})
    two = idsync.seed_profile({"email": "ed"}, mpid=-7)
    listed = idsync.profiles()
    assert [idsync.profile(one), idsync.profile(-7)] == listed
    assert (idsync.holders("email", "ed"), idsync.holders("facebook", "f")) == (listed, listed[:1])
    for nobody in ("0", "me", 5, 2**63):
        assert idsync.profile(nobody) is None
        assert idsync.delete_profile(nobody) is False
    for value in ("", "Ed", "\0", "\ud800"):
        assert idsync.holders("email", value) == []
    assert idsync.delete_profile(two) is True
    assert idsync.profiles() == listed[:1]
    idsync.close()
