"""Our own client's whole journey, on both fronts, against `identity-session serve`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from http_serving import ServeProcess
from servers import FRONTS, opened

KEY, SECRET = "us1-key-of-the-shop", "secret-of-the-shop"
CUSTOMER = {"email": "h.jekyll@example.com", "customerid": "h.jekyll"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A service that checks signatures."""
    config: Path = tmp_path_factory.mktemp("service") / "idsync.toml"
    config.write_text(f'strategy = "default"\n[api_keys]\n{KEY} = "{SECRET}"\n')
    with ServeProcess("--config", str(config)) as service:
        yield service


@FRONTS
def test_a_journey(served: ServeProcess, front: str) -> None:
    """Start, login, modify, search, logout, alias, login again: codes and profiles."""
    served.emulator("DELETE", "profiles")
    urls = {"base_url": served.url, "alias_url": f"{served.url}/identity"}
    with opened(front, KEY, SECRET, **urls) as session:
        assert session.start().http_code == 200
        visitor = session.mpid
        assert session.login({"userIdentities": CUSTOMER}).http_code == 200
        assert (session.mpid, session.current_user.is_logged_in) == (visitor, True)
        assert session.modify({"userIdentities": {"email": "henry@example.com"}}).http_code == 200
        assert session.search({"userIdentities": {"customerid": "h.jekyll"}}).body["mpid"] == visitor
        assert session.search({"userIdentities": {"customerid": "nobody"}}).http_code == 404
        assert session.logout().http_code == 200
        nobody = session.mpid
        assert nobody != visitor
        request = session.create_alias_request(session.get_user(nobody), session.get_user(visitor))
        assert session.alias_users(request).http_code == 202
        assert session.login({"userIdentities": {"customerid": "h.jekyll"}}).get_user().mpid == visitor
        stamp = session.device_id
    assert served.store() == {
        visitor: {"customerid": ["h.jekyll"], "email": ["henry@example.com"], "device_application_stamp": [stamp]},
        nobody: {"device_application_stamp": [stamp]},
    }
    calls = [call["endpoint"] for call in served.emulator("GET", "calls").body["calls"]]
    assert calls == ["identify", "login", "modify", "search", "search", "logout", "alias", "login"]


@FRONTS
def test_a_wrong_secret(served: ServeProcess, front: str) -> None:
    with opened(front, KEY, "another", base_url=served.url) as session:
        assert session.start().http_code == 401


@FRONTS
def test_trouble_is_survived(served: ServeProcess, front: str) -> None:
    """A 503 and a lost answer are repeated within the deadline."""
    with opened(front, KEY, SECRET, base_url=served.url) as session:
        session.start()
        faults = [{"endpoint": "login", "times": 1, "status": 503}, {"endpoint": "login", "times": 1, "drop": "after"}]
        assert served.emulator("PUT", "faults", {"faults": faults}).status == 200
        assert session.login({"userIdentities": CUSTOMER}).http_code == 200
        assert served.emulator("GET", "faults").body == {"faults": []}
