"""Settings: every mistake raises where it was made, says what to do, and shows no key and no secret."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from scripted import DEFAULT_SETTINGS

from identity_session import AsyncIdentitySession, IdentityRequest, IdentitySession, MemoryStorage
from identity_session.config import DEFAULT_ALIAS_URL, DEFAULT_BASE_URL, Settings, is_loopback, settings

KEY, SECRET = "us1-k3y", "s3cret"


def made(api_key: Any = KEY, api_secret: Any = None, **options: Any) -> Settings:
    return settings(api_key, api_secret, **{**DEFAULT_SETTINGS, **options})


def urls(api_key: Any = KEY, **options: Any) -> tuple[str, str]:
    found = made(api_key, **options)
    return found.base_url, found.alias_url


# Mistakes

MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"api_key": 5}, TypeError, "api_key must be a str, not int"),
    ({"api_key": b"key"}, TypeError, "api_key must be a str, not bytes"),
    ({"api_key": "k3y with spaces"}, ValueError, "api_key must be printable ASCII"),
    ({"api_key": "k3y\n"}, ValueError, "check how it was copied"),
    ({"api_key": "k3y\r\nx-injected: 1"}, ValueError, "api_key must be printable ASCII"),
    ({"api_key": "k3yé"}, ValueError, "api_key must be printable ASCII"),
    ({"api_secret": b"s3cret"}, TypeError, "api_secret must be a str or None, not bytes"),
    ({"api_secret": "s3cret\udcff"}, ValueError, "api_secret must be a text that UTF-8 can hold"),
    ({"auth": "hmac"}, ValueError, "auth='hmac' needs an api_secret"),
    ({"auth": "basic", "api_secret": ""}, ValueError, "auth='basic' needs an api_secret"),
    ({"auth": "digest"}, ValueError, "auth must be 'hmac', 'basic', 'key' or None"),
    ({"auth": 1}, ValueError, "auth must be"),
    ({"auth": "s3cret"}, ValueError, "auth must be"),
    ({"base_url": None}, TypeError, "base_url must be a str, not NoneType"),
    ({"base_url": "identity.mparticle.com/v1"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": ""}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "https://"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "https:///v1"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "https://h.example:port/v1"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "https://h.example:99999/v1"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "https://[::1/v1"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "https://user:s3cret@h.example/v1"}, ValueError, "without user, query or fragment"),
    ({"base_url": "https://h.example/v1?key=s3cret"}, ValueError, "without user, query or fragment"),
    ({"base_url": "https://h.example/v1?"}, ValueError, "without user, query or fragment"),
    ({"base_url": "https://h.example/v1#"}, ValueError, "without user, query or fragment"),
    ({"base_url": "https://h.example/v1#s3cret"}, ValueError, "without user, query or fragment"),
    ({"base_url": "https://h.example /v1"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "https://h.example\\v1"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "https://h.example/v1\r\nx: y"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "https://hé.example/v1"}, ValueError, "base_url must be an absolute URL"),
    ({"base_url": "http://h.example/v1"}, ValueError, "base_url must begin with https://; plain http is for loopback"),
    ({"base_url": "http://127.0.0.1.h.example/v1"}, ValueError, "must begin with https://"),
    ({"base_url": "http://localhost.h.example/v1"}, ValueError, "must begin with https://"),
    ({"base_url": "http://10.0.0.1/v1"}, ValueError, "must begin with https://"),
    ({"base_url": "http://0.0.0.0/v1"}, ValueError, "must begin with https://"),
    ({"base_url": "ftp://127.0.0.1/v1"}, ValueError, "must begin with https://"),
    ({"base_url": "file:///etc/passwd"}, ValueError, "base_url must be an absolute URL"),
    ({"alias_url": 5}, TypeError, "alias_url must be a str, not int"),
    ({"alias_url": "http://h.example/v1"}, ValueError, "alias_url must begin with https://"),
    ({"domain": 5}, TypeError, "domain must be a str, not int"),
    ({"domain": "https://mp.example.com"}, ValueError, "domain must be a host name without scheme and path"),
    ({"domain": "mp.example.com/path"}, ValueError, "such as 'mp.example.com'"),
    ({"domain": "user@mp.example.com"}, ValueError, "domain must be a host name"),
    ({"domain": ""}, ValueError, "domain must be a host name"),
    ({"domain": "mp.example.com\n"}, ValueError, "domain must be a host name"),
    ({"api_key": "-k3y", "direct_url_routing": True}, ValueError, "direct_url_routing needs an api_key that begins"),
    ({"api_key": "h.example/-k3y", "direct_url_routing": True}, ValueError, "direct_url_routing needs an api_key"),
    ({"environment": "staging"}, ValueError, "environment must be one of production, development"),
    ({"environment": None}, ValueError, "environment must be one of production, development"),
    ({"environment": []}, ValueError, "environment must be one of production, development"),
    ({"platform": "python"}, ValueError, "platform must be one of ios, android, web"),
    ({"workspace_token": 5}, TypeError, "workspace_token must be a str, not int"),
    ({"workspace_token": ""}, ValueError, "workspace_token must be a non-empty text"),
    ({"workspace_token": "\ud800"}, ValueError, "workspace_token must be a non-empty text that UTF-8 can hold"),
    ({"device_id": 5}, TypeError, "device_id must be a str, not int"),
    ({"device_id": ""}, ValueError, "device_id must be a non-empty text"),
    ({"session_timeout": 30}, TypeError, "session_timeout must be a timedelta, not int"),
    ({"session_timeout": timedelta(seconds=-1)}, ValueError, "session_timeout must not be negative"),
    ({"alias_max_window": 90}, TypeError, "alias_max_window must be a timedelta, not int"),
    ({"alias_max_window": timedelta(days=-1)}, ValueError, "alias_max_window must not be negative"),
    ({"timeout": None}, TypeError, "timeout must be a number of seconds, not NoneType"),
    ({"timeout": "10"}, TypeError, "timeout must be a number of seconds, not str"),
    ({"timeout": True}, TypeError, "timeout must be a number of seconds, not bool"),
    ({"timeout": timedelta(seconds=1)}, TypeError, "timeout must be a number of seconds, not timedelta"),
    ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds"),
    ({"timeout": -1.0}, ValueError, "timeout must be a positive number of seconds"),
    ({"timeout": math.inf}, ValueError, "timeout must be a positive number of seconds, at most 86400"),
    ({"timeout": math.nan}, ValueError, "timeout must be a positive number of seconds"),
    ({"timeout": 10**400}, ValueError, "timeout must be a positive number of seconds"),
    ({"timeout": 1e10}, ValueError, "timeout must be a positive number of seconds"),
    ({"retry": 3}, TypeError, "retry must be a RetryPolicy or None, not int"),
    ({"retry": False}, TypeError, "retry must be a RetryPolicy or None, not bool"),
    ({"max_users": 0}, ValueError, "max_users must be None or a whole number of at least 1"),
    ({"max_users": 1.5}, ValueError, "max_users must be None or a whole number of at least 1"),
    ({"keep_ephemeral_users": "no"}, TypeError, "keep_ephemeral_users must be a bool, not str"),
    ({"cache_identity": 1}, TypeError, "cache_identity must be a bool, not int"),
    ({"direct_url_routing": None}, TypeError, "direct_url_routing must be a bool, not NoneType"),
    ({"max_users": True}, ValueError, "max_users must be None or a whole number of at least 1"),
    ({"now_ms": 5}, TypeError, "now_ms must be callable, not int"),
    ({"now_ms": None}, TypeError, "now_ms must be callable, not NoneType"),
    ({"new_id": "x"}, TypeError, "new_id must be callable, not str"),
    ({"storage": 5}, TypeError, "storage must be a Storage or a path, not int"),
    ({"storage": b"x"}, TypeError, "storage must be a path of text, not of bytes"),
    ({"transport": 5}, TypeError, "transport must be an httpx"),
    ({"identity_callback": 5}, TypeError, "identity_callback must be callable, not int"),
]


@pytest.mark.parametrize("front", [IdentitySession, AsyncIdentitySession])
@pytest.mark.parametrize(("options", "kind", "words"), MISTAKES, ids=[str(n) for n in range(len(MISTAKES))])
def test_a_mistake_raises_at_construction_and_says_what_to_do(
    front: Callable[..., Any], options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    given = {"api_key": KEY, "api_secret": None, "storage": MemoryStorage(), **options}
    with pytest.raises(kind, match=re.escape(words)) as raised:
        front(given.pop("api_key"), given.pop("api_secret"), **given)
    assert type(raised.value) is kind
    for private in ("k3y", "s3cret"):
        assert private not in str(raised.value)


def test_a_session_without_a_key_is_no_mistake_and_sends_nothing() -> None:
    for nothing in (None, ""):
        assert not made(nothing).has_api_key
        session = IdentitySession(nothing, storage=MemoryStorage())
        assert session.start().http_code == -6
        session.close()


def test_settings_show_nothing_when_printed() -> None:
    shown = repr(made(KEY, SECRET, workspace_token="t0ken", device_id="d3vice"))
    assert not [private for private in (KEY, SECRET, "t0ken", "d3vice") if private in shown]


# Authentication


@pytest.mark.parametrize(
    ("auth", "secret", "scheme"),
    [
        (None, SECRET, "hmac"),
        (None, None, "key"),
        (None, "", "key"),
        ("hmac", SECRET, "hmac"),
        ("basic", SECRET, "basic"),
        ("key", SECRET, "key"),
        ("key", None, "key"),
    ],
)
def test_a_secret_means_signed_requests_unless_said_otherwise(auth: Any, secret: Any, scheme: str) -> None:
    assert made(KEY, secret, auth=auth).credentials.scheme == scheme


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example/v1",
        "https://h.example",
        "https://h.example:8443/a/b",
        "HTTPS://H.example/v1",
        "https://192.0.2.1/v1",
        "https://[2001:db8::1]/v1",
        "http://localhost:8000/v1",
        "http://LOCALHOST/v1",
        "http://127.0.0.1:1/v1",
        "http://127.8.9.10/v1",
        "http://[::1]:8000/v1",
    ],
)
def test_a_base_url_is_https_or_on_this_machine(url: str) -> None:
    assert urls(base_url=url) == (url, f"{url}/identity")
    assert urls(base_url=url + "//") == (url, f"{url}/identity")
    assert urls(alias_url=url) == (DEFAULT_BASE_URL, url)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.0.1", "::1"])
def test_hosts_on_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.", "a.localhost", "127.1", "10.0.0.1", "::2", "0.0.0.0", "127.0.0.1."])
def test_hosts_elsewhere(host: str) -> None:
    assert not is_loopback(host)


def test_the_default_urls_are_the_vendors() -> None:
    assert urls() == (DEFAULT_BASE_URL, DEFAULT_ALIAS_URL)
    assert DEFAULT_BASE_URL == "https://identity.mparticle.com/v1"
    assert DEFAULT_ALIAS_URL == "https://jssdks.mparticle.com/v1/identity"


def test_an_own_domain_takes_both_urls_and_beats_everything() -> None:
    expected = ("https://mp.example.com/identity/v1", "https://mp.example.com/webevents/v1/identity")
    assert urls(domain="mp.example.com") == expected
    given = {"base_url": "https://other.example/v1", "alias_url": "https://alias.example", "direct_url_routing": True}
    assert urls("eu1-key", domain="mp.example.com", **given) == expected
    assert urls(domain="mp.example.com:8443")[0] == "https://mp.example.com:8443/identity/v1"


@pytest.mark.parametrize(
    ("key", "centre"), [("eu1-key", "eu1"), ("us2-a-b", "us2"), ("key", "us1"), ("anything-key", "anything")]
)
def test_routing_takes_the_data_centre_from_the_keys_beginning(key: str, centre: str) -> None:
    assert urls(key, direct_url_routing=True) == (
        f"https://identity.{centre}.mparticle.com/v1",
        f"https://jssdks.{centre}.mparticle.com/v1/identity",
    )


def test_without_routing_the_keys_beginning_says_nothing() -> None:
    assert urls("eu1-key") == (DEFAULT_BASE_URL, DEFAULT_ALIAS_URL)


def test_a_given_url_beats_routing_each_on_its_own() -> None:
    routed = "https://identity.eu1.mparticle.com/v1"
    own = "https://own.example/v1"
    assert urls("eu1-key", direct_url_routing=True, base_url=own) == (own, f"{own}/identity")
    assert urls("eu1-key", direct_url_routing=True, alias_url=own) == (routed, own)
    assert urls("eu1-key", base_url=own, alias_url="https://alias.example") == (own, "https://alias.example")


def test_routing_without_a_key_goes_nowhere_else() -> None:
    assert urls(None, direct_url_routing=True) == (DEFAULT_BASE_URL, DEFAULT_ALIAS_URL)


# The rest


def test_each_key_has_a_workspace_of_its_own_unless_a_token_names_one() -> None:
    assert made("key-1").workspace == made("key-1").workspace != made("key-2").workspace
    assert made("key-1", workspace_token="t").workspace == made("key-2", workspace_token="t").workspace
    assert made("key-1", workspace_token="t").workspace != made("key-1", workspace_token="u").workspace
    assert made("t").workspace != made("key-1", workspace_token="t").workspace, "a key is no token"


def test_a_workspace_names_neither_key_nor_token() -> None:
    for found in (made(KEY), made(KEY, workspace_token="t0ken")):
        assert re.fullmatch(r"workspace-[0-9a-f]{16}", found.workspace)


def test_no_retry_means_one_attempt() -> None:
    assert made(retry=None).retry.attempts == 1


def test_times_are_kept_in_the_units_their_names_say() -> None:
    found = made(timeout=3, session_timeout=timedelta(minutes=1, microseconds=999))
    assert (found.timeout_seconds, found.session_timeout_ms) == (3.0, 60_000)
    assert isinstance(found.timeout_seconds, float)


def test_the_longest_time_there_is_does_no_harm() -> None:
    session = IdentitySession(
        KEY, storage=MemoryStorage(), session_timeout=timedelta.max, alias_max_window=timedelta.max, timeout=86_400
    )
    session.touch()
    assert session.session_id
    session.close()


def test_a_configured_request_is_copied_when_it_is_given() -> None:
    identities = {"email": "a@example.com"}
    request = {"userIdentities": identities}
    found = made(identify_request=request)
    identities["email"] = "b@example.com"
    request["userIdentities"] = {}
    assert found.identify_request == {"userIdentities": {"email": "a@example.com"}}
    assert made(identify_request=IdentityRequest({"other": "x"})).identify_request == IdentityRequest({"other": "x"})
    assert made(identify_request="odd").identify_request == "odd", "answered with -4 on start"
