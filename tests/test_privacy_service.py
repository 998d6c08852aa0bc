"""The service shows no secret and no value of a user, whatever goes wrong in it or in how it is started."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from canaries import CANARIES, PERSONAL, SECRETS, leaks, printed
from canary_sessions import IDENTITIES, KEY, MPID, ONCE, SECRET, nothing_said
from http_serving import ServeProcess, serving

from identity_session import IdentitySession, MemoryStorage, StorageError, cli
from identity_session.idsync import IdentityStrategy, LocalIDSync


def test_a_service_process_shows_no_secret_and_no_value(tmp_path: Path) -> None:
    """Not in what it prints, nor in the command lines and environments of the processes that it starts."""
    config, token = tmp_path / "idsync.toml", tmp_path / "token"
    config.write_text(
        f'context = "echo"\ndisabled_keys = ["{SECRETS["password"]}"]\n[api_keys]\n"{KEY}" = "{SECRET}"\n'
    )
    token.write_text(SECRETS["token"])
    options = (
        "--config",
        str(config),
        "--token-file",
        str(token),
        "--database",
        str(tmp_path / "db"),
        "--workers",
        "2",
    )
    with ServeProcess(*options) as service:
        with IdentitySession(KEY, SECRET, base_url=service.url, storage=MemoryStorage(), **ONCE) as session:
            assert session.login({"userIdentities": IDENTITIES}).http_code == 200
        headers = {"x-mp-key": KEY, "authorization": f"Bearer {SECRETS['token']}"}
        broken = json.dumps({"environment": PERSONAL["attribute"], "known_identities": IDENTITIES})
        assert service.post("/v1/login", broken.encode()[:-2], headers).status >= 400
        assert service.post(f"/v1/{MPID}/modify", broken.encode(), headers).status >= 400
        assert service.post(f"/v1/identity/{KEY}/Alias", {"data": IDENTITIES}, headers).status >= 400
        assert service.emulator("POST", "import", {"profiles": [IDENTITIES]}, headers).status == 400
        calls = service.emulator("GET", "calls", headers=headers)
        workers = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
        children = workers.read_text().split() if workers.exists() else []
        seen = [
            "".join(map(str, Path(f"/proc/{pid}/{what}").read_bytes().split(b"\0")))
            for pid in children
            for what in ("cmdline", "environ")
        ]
        code, out, err = service.end()
    assert (code, leaks(out + err)) == (0, [])
    assert leaks(json.dumps(calls.body), {**SECRETS, **{k: v for k, v in PERSONAL.items() if "MPID" not in k}}) == []
    assert leaks("".join(seen)) == []
    assert len(children) >= 2 or not workers.exists()


def test_what_fails_inside_the_service_is_logged_without_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idsync = LocalIDSync(api_keys={KEY: SECRET})

    def failing(*arguments: Any) -> None:
        raise RuntimeError(f"{arguments} {CANARIES}")

    monkeypatch.setattr("identity_session.idsync.service.prepare", failing)
    monkeypatch.setattr(idsync, "import_state", failing)
    with nothing_said() as records, serving(idsync) as client:
        records.open()
        with IdentitySession(KEY, SECRET, base_url=client.url, storage=MemoryStorage(), **ONCE) as session:
            result = session.login({"userIdentities": IDENTITIES})
        for target in (f"/v1/{MPID}/modify", f"/v1/identity/{KEY}/Alias", f"/emulator/profiles/{MPID}"):
            client.post(target, {"data": IDENTITIES}, {"x-mp-key": KEY})
        imported = client.emulator("POST", "import", {"profiles": [IDENTITIES]})
    assert (result.http_code, imported.status) == (500, 500)
    assert leaks(f"{result.body} {imported.body}") == []
    assert "RuntimeError at" in records.text


def told(error: BaseException | None) -> str:
    """What an error and all that it comes from say, whether a traceback shows them or not."""
    return f"{error!r} {error}\n{told(error.__cause__)}{told(error.__context__)}" if error else ""


def test_a_text_that_is_damaged_in_the_database_is_not_repeated(tmp_path: Path) -> None:
    """Not by who reads the file, either."""
    path = tmp_path / "profiles.db"
    with closing(LocalIDSync(path)) as idsync:
        mpid = idsync.seed_profile(IDENTITIES)
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("UPDATE idsync_identity SET value = CAST(CAST(value AS BLOB) || x'ff' AS TEXT)")
        asked: list[Callable[[], object]] = [idsync.profiles, idsync.export_state, lambda: idsync.profile(mpid)]
        for ask in asked:
            with pytest.raises(sqlite3.DataError, match="damaged") as caught:
                ask()
            assert leaks(told(caught.value)) == []


EMAIL = PERSONAL["email"]
PROFILE = {"mpid": "5", "sequence": 1, "source_mpid": None, "created_ms": 1, "last_seen_ms": 1}
STATE = {"format": "identity_session.idsync", "version": 1, "profiles": [], "aliases": [], "calls": []}
SWAPPED: list[tuple[str, dict[Any, Any]]] = [
    ("/emulator/profiles", {"identities": {EMAIL: "email"}}),
    ("/emulator/profiles", {"identities": {}, EMAIL: "email"}),
    ("/emulator/lookup", {"identity_type": EMAIL, "value": "email"}),
    ("/emulator/explain", {"call": EMAIL, "body": {}}),
    ("/emulator/faults", {"faults": [{"endpoint": "*", EMAIL: 1}]}),
    ("/emulator/import", {**STATE, "profiles": [{**PROFILE, "identities": {EMAIL: ["email"]}}]}),
    ("/emulator/import", {**STATE, "profiles": [{**PROFILE, "identities": {}, EMAIL: "email"}]}),
    ("/emulator/import", {**STATE, EMAIL: "email"}),
    ("/v1/login", {"environment": "production", "known_identities": {EMAIL: ["email"]}}),
    ("/v1/login", {"environment": "production", "known_identities": {"email": {EMAIL: 1}}}),
]


def test_a_value_in_the_place_of_a_name_is_not_repeated() -> None:
    """The answer names the place as far as the API does."""
    with serving(LocalIDSync()) as client:
        for path, body in SWAPPED:
            method = "PUT" if path.endswith("faults") else "POST"
            refused = client.request(method, path, body, {"x-mp-key": KEY})
            assert refused.status == 400
            assert leaks(refused.raw.decode()) == []


@pytest.mark.parametrize("number", [5551234567, "5551234567"])
def test_a_state_that_cannot_be_read_is_not_repeated(number: int | str) -> None:
    """Nor what is no text, which JSON has not."""
    states: list[dict[Any, Any]] = [
        {**STATE, number: "x"},
        *(body for path, body in SWAPPED if path.endswith("import")),
    ]
    for identities in ({number: ["mobile_number"]}, {"email": [number, {number: EMAIL}]}):
        states.append({**STATE, "profiles": [{**PROFILE, "identities": identities}]})
    for state in states:
        with pytest.raises(ValueError, match="the state cannot be read") as caught:
            LocalIDSync().import_state(state)
        assert leaks(told(caught.value)) == []
        assert str(number) not in told(caught.value)


CONFIGURATIONS = {
    "keys without their heading": f'"{KEY}" = "{SECRET}"',
    "a key twice": f'[api_keys]\n"{KEY}" = "{SECRET}"\n"{KEY}" = "{SECRET}"',
    "a key as a table, twice": f'[api_keys."{KEY}"]\n[api_keys."{KEY}"]',
    "a key and a table": f'[api_keys]\n"{KEY}" = "{SECRET}"\n[api_keys."{KEY}"."a"]\nb = 1',
    "a secret without quotes": f"[api_keys]\n{KEY} = {SECRET}",
    "a secret that does not end": f'[api_keys]\n"{KEY}" = "{SECRET}',
    "a secret with an odd escape": f'[api_keys]\n"{KEY}" = "{SECRET}\\q"',
    "a secret as a list": f'[api_keys]\n"{KEY}" = ["{SECRET}"]',
    "a disabled key that is none": f'disabled_keys = "{KEY}"',
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_wrong_configuration_is_refused_without_its_keys(
    tmp_path: Path, configuration: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "idsync.toml").write_text(CONFIGURATIONS[configuration])
    with pytest.raises(ValueError, match=r"configuration|setting|api_keys|disabled_keys") as caught:
        IdentityStrategy.from_toml(tmp_path / "idsync.toml")
    assert leaks(printed(caught.value)) == []
    assert cli.main(["serve", "--config", str(tmp_path / "idsync.toml")]) == 2
    assert leaks("".join(capfd.readouterr())) == []


@pytest.mark.parametrize(
    "database",
    [
        f"postgresql://user:{SECRETS['password']}@127.0.0.1:1/db",
        f"postgresql://user:{SECRETS['password']}@127.0.0.1:port/db",
        f"postgresql://user:{SECRETS['password']}@127.0.0.1/db?no_such_option={SECRETS['password']}",
        f"postgresql:///db?password={SECRETS['password']}&host=/no/such/folder",
        f"mysql://user:{SECRETS['password']}@127.0.0.1/db",
    ],
)
def test_a_database_that_cannot_be_used_is_refused_without_its_password(
    database: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg")
    with nothing_said(), pytest.raises((ValueError, StorageError)) as caught:
        LocalIDSync(database)
    assert leaks(printed(caught.value)) == []
    assert cli.main(["serve", "--database", database]) == 2
    assert leaks("".join(capfd.readouterr())) == []
