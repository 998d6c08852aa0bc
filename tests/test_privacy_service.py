"""The service shows no secret and no value of a user, whatever goes wrong in it or in how it is started."""

from __future__ import annotations

import json
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
