"""The client against the embedded service over a real loopback socket: both sides of the wire at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from servers import FRONTS, Driven, ServiceServer, opened

from identity_session import IdentitySession, JsonStorage, MemoryStorage
from identity_session.idsync import LocalIDSync

KEY, SECRET = "us1-key", "secret"
EMAIL = "higgs@example.com"
IDENTITIES = {"email": EMAIL, "customerid": "1"}


def play_journey(driven: Driven) -> None:
    """A visitor arrives, signs in, changes the address, signs out, and signs in again."""
    assert driven.start().http_code == 200
    assert not driven.current_user.is_logged_in

    result = driven.login({"userIdentities": IDENTITIES})
    assert result.http_code == 200
    assert result.get_user().identities == IDENTITIES
    assert result.get_user().is_logged_in
    known = driven.mpid

    changed = driven.modify({"userIdentities": {"email": "new@example.com", "customerid": "1"}})
    assert changed.http_code == 200
    assert driven.mpid == known
    assert driven.current_user.identities == {"email": "new@example.com", "customerid": "1"}
    assert driven.search({"customerid": "1"}).body["mpid"] == known
    assert driven.search({"customerid": "nobody"}).http_code == 404

    result = driven.logout()
    assert result.http_code == 200
    assert not result.get_user().is_logged_in
    assert driven.mpid != known
    assert result.get_previous_user().mpid == known

    result = driven.login({"userIdentities": {"customerid": "1"}})
    assert (result.http_code, driven.mpid) == (200, known)


SCHEMES = {
    "signed": ((KEY, SECRET), {}, {KEY: SECRET}),
    "basic": ((KEY, SECRET), {"auth": "basic"}, {KEY: SECRET}),
    "key only, as a web page does": ((KEY,), {"platform": "web"}, {KEY: SECRET}),
    "any key": (("anything",), {}, None),
    "signed, with any key": ((KEY, SECRET), {}, None),
    "a key and secret of odd characters": (("us1-/?#%&+:x", "sécrèt ü"), {}, {"us1-/?#%&+:x": "sécrèt ü"}),
}


@FRONTS
@pytest.mark.parametrize(("keys", "options", "api_keys"), SCHEMES.values(), ids=SCHEMES.keys())
def test_a_whole_journey_over_a_socket(
    front: str, keys: tuple[str, ...], options: dict[str, Any], api_keys: dict[str, str] | None
) -> None:
    with (
        ServiceServer(LocalIDSync(strategy="profile_conversion", api_keys=api_keys)) as server,
        opened(front, *keys, base_url=server.url, **options) as driven,
    ):
        play_journey(driven)
        assert server.connections == 1
        assert server.targets[:2] == ["/v1/identify", "/v1/login"]


@FRONTS
@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ((KEY, "wrong"), {}),
        ((KEY, "wrong"), {"auth": "basic"}),
        (("unknown", SECRET), {}),
        ((KEY,), {}),
        ((KEY, SECRET), {"auth": "key"}),
    ],
)
def test_wrong_credentials_are_answered_with_401_and_change_nothing(
    front: str, keys: tuple[str, ...], options: dict[str, Any]
) -> None:
    idsync = LocalIDSync(api_keys={KEY: SECRET})
    with ServiceServer(idsync) as server, opened(front, *keys, base_url=server.url, **options) as driven:
        result = driven.login({"userIdentities": IDENTITIES})
        assert (result.http_code, result.body, driven.mpid) == (401, None, None)
        assert idsync.profiles() == []
        assert len(server.targets) == 1


@FRONTS
def test_behind_an_own_domain_the_signature_still_verifies(front: str) -> None:
    with (
        ServiceServer(LocalIDSync(api_keys={KEY: SECRET})) as server,
        opened(
            front,
            KEY,
            SECRET,
            base_url=f"{server.root}/identity/v1",
            alias_url=f"{server.root}/webevents/v1/identity",
        ) as driven,
    ):
        play_journey(driven)
        assert set(server.targets) >= {"/identity/v1/identify", "/identity/v1/login", "/identity/v1/search"}


@FRONTS
def test_an_alias_request_is_accepted_by_the_service(front: str) -> None:
    with (
        ServiceServer(LocalIDSync(strategy="profile_conversion", api_keys={KEY: SECRET})) as server,
        opened(front, KEY, SECRET, base_url=server.url) as driven,
    ):
        driven.login({"userIdentities": IDENTITIES})
        driven.logout()
        source = driven.current_user
        driven.login({"userIdentities": IDENTITIES})
        request = driven.create_alias_request(source, driven.current_user)
        assert request.source_mpid != request.destination_mpid
        assert driven.alias_users(request).http_code == 202
        assert server.targets[-1] == f"/v1/identity/{KEY}/Alias"


@FRONTS
def test_a_restarted_program_finds_its_user_without_asking_the_service(front: str, tmp_path: Path) -> None:
    idsync = LocalIDSync()
    with ServiceServer(idsync) as server:
        with opened(front, base_url=server.url, storage=JsonStorage(tmp_path)) as driven:
            driven.start()
            driven.login({"userIdentities": IDENTITIES})
            mpid = driven.mpid
        asked = len(server.targets)
        with opened(front, base_url=server.url, storage=JsonStorage(tmp_path)) as driven:
            assert driven.start().http_code == -3
            assert (driven.mpid, driven.current_user.identities) == (mpid, IDENTITIES)
        assert len(server.targets) == asked


@FRONTS
def test_values_of_every_language_arrive_as_they_were_given(front: str) -> None:
    idsync = LocalIDSync(api_keys={KEY: SECRET})
    values = {
        "email": "zoë@例え.jp",
        "other": "\U0001f600 \u202e\ufeff",
        "customerid": "a\"b\\c/d'e\n",
        "facebook": " ",
    }
    with ServiceServer(idsync) as server, opened(front, KEY, SECRET, base_url=server.url) as driven:
        assert driven.login({"userIdentities": values}).http_code == 200
        [profile] = idsync.profiles()
        stored = {**profile["identities"], **profile["other_identities"]}
        assert {name: stored[name] for name in values} == {name: [value] for name, value in values.items()}
        assert driven.current_user.identities == values


@FRONTS
def test_a_socket_and_no_socket_give_the_same_journey(front: str) -> None:
    calls: list[tuple[str, Any]] = [
        ("start", []),
        ("login", [{"userIdentities": IDENTITIES}]),
        ("modify", [{"userIdentities": {"email": None}}]),
        ("logout", []),
        ("search", [{"customerid": "1"}]),
        ("login", [{"userIdentities": {"customerid": "1"}}]),
    ]

    def played(driven: Driven) -> list[tuple[int, Any]]:
        results = [getattr(driven, name)(*arguments) for name, arguments in calls]
        return [(result.http_code, result.body) for result in results]

    settings: dict[str, Any] = {"device_id": "stamp", "now_ms": lambda: 1_700_000_000_000}
    remote = LocalIDSync(seed=7, now_ms=lambda: 0)
    with ServiceServer(remote) as server, opened(front, base_url=server.url, **settings) as driven:
        over_socket = played(driven)
    local = LocalIDSync(seed=7, now_ms=lambda: 0)
    transport = local.transport if front == "sync" else local.async_transport
    with opened(front, transport=transport, **settings) as driven:
        assert played(driven) == over_socket
    assert local.profiles() == remote.profiles()


@FRONTS
def test_two_devices_of_one_person_meet_in_one_user(front: str) -> None:
    with ServiceServer(LocalIDSync()) as server:
        mpids = set()
        for _ in range(2):
            with opened(front, base_url=server.url) as driven:
                driven.start()
                driven.login({"userIdentities": {"customerid": "1"}})
                mpids.add(driven.mpid)
        assert len(mpids) == 1


@FRONTS
def test_a_journey_works_while_time_stands_still(front: str) -> None:
    with freeze_time("2024-02-29 12:00:00"), ServiceServer(LocalIDSync(api_keys={KEY: SECRET})) as server:
        with opened(front, KEY, SECRET, base_url=server.url) as driven:
            play_journey(driven)
            assert f"{driven.current_user.first_seen:%Y-%m-%d}" == "2024-02-29"
        assert {request.headers["date"] for request in server.requests} == {"20240229T120000Z"}


def test_the_cache_of_answers_honours_what_the_service_allows() -> None:
    with ServiceServer(LocalIDSync()) as server:
        session = IdentitySession("key", storage=MemoryStorage(), base_url=server.url, cache_identity=True)
        codes = [session.login({"userIdentities": IDENTITIES}).http_code for _ in range(4)]
        session.close()
        assert codes == [200] * 4
        assert server.targets == ["/v1/login"]
