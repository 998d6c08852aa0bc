"""A store in daily use, everything that can be wrong with it, and what the doctor says to each."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from storage_helpers import login, read_document, started, user_file, write_document

from identity_session import cli, doctor
from identity_session.findings import Examination, Finding, Kind

NOTES = {Kind.NO_PREVIOUS, Kind.LINK, Kind.SET_ASIDE, Kind.FOREIGN}
SECRETS = ("jekyll", "hyde", "@example.com", "visits-of")


DoctorCommand = Callable[..., tuple[int, str, str]]
"""Runs `identity-session doctor` in this process: exit code, output, errors."""


def make_store(store: Path) -> Path:
    """A store with the users 100 (anonymous), jekyll and hyde, who is current, each file with a generation before."""
    session = started(store)
    for _ in range(2):
        for mpid in ("jekyll", "hyde"):
            login(session, mpid)
            session.current_user.set_attribute("visits-of", mpid)  # type: ignore[union-attr]
        session.get_user("100").set_attribute("seen", True)  # type: ignore[union-attr]
    started(store, device_id="a-stamp").close()
    session = started(store)
    login(session, "jekyll")
    login(session, "hyde")
    return store


def doctor_command(capsys: pytest.CaptureFixture[str]) -> DoctorCommand:
    def run(*options: object) -> tuple[int, str, str]:
        code = cli.main(["doctor", *map(str, options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def kinds(examined: Examination) -> list[Kind]:
    return [finding.kind for finding in examined.findings]


def found(path: Path, kind: Kind) -> Finding:
    """The one finding of this kind, in a look that found nothing else but notes."""
    findings = doctor.examine(path).findings
    assert {finding.kind for finding in findings} - NOTES <= {kind}, findings
    (finding,) = [finding for finding in findings if finding.kind is kind]
    return finding


def image(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a path: mode, inode, content."""
    image = {}
    for each in [path, *path.rglob("*")]:
        status = each.lstat()
        content = each.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        image[str(each.relative_to(path))] = (status.st_mode, status.st_ino, content)
    return image


def flip(file: Path) -> None:
    """Damage one byte."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()  # the generation before may be the same file
    file.write_bytes(data)
    file.chmod(0o600)


def damage_state(workspace: Path) -> None:
    flip(workspace / "state.json")


def damage_both(workspace: Path) -> None:
    flip(workspace / "state.json")
    flip(workspace / "state.json.previous")


def damage_previous(workspace: Path) -> None:
    flip(workspace / "state.json.previous")


def lose_state(workspace: Path) -> None:
    (workspace / "state.json").unlink()


def lose_previous(workspace: Path) -> None:
    (workspace / "state.json.previous").unlink()


def lose_all_state(workspace: Path) -> None:
    lose_state(workspace)
    lose_previous(workspace)


def damage_user(workspace: Path) -> None:
    flip(user_file(workspace, "jekyll"))


def link_user(workspace: Path) -> None:
    file = user_file(workspace, "jekyll")
    file.rename(workspace.parent / "elsewhere")
    file.symlink_to(workspace.parent / "elsewhere")


def change_device(workspace: Path) -> None:
    write_document(workspace / "device.json", {"device_application_stamp": "another"})
    (workspace / "device.json").chmod(0o600)


def lose_device(workspace: Path) -> None:
    (workspace / "device.json").unlink()
    (workspace / "device.json.previous").unlink(missing_ok=True)


def lose_stamp_of_state(workspace: Path) -> None:
    document = read_document(workspace / "state.json")
    del document["device_application_stamp"], document["checksum"]
    write_document(workspace / "state.json", document)


def lose_stamps(workspace: Path) -> None:
    lose_device(workspace)
    lose_stamp_of_state(workspace)


def copy_user(workspace: Path) -> None:
    shutil.copy(user_file(workspace, "jekyll"), workspace / "users" / "abc123.json")


def empty_user(workspace: Path) -> None:
    write_document(workspace / "users" / "abc123.json", {"mpid": 7})
    (workspace / "users" / "abc123.json").chmod(0o600)


def expose_file(workspace: Path) -> None:
    (workspace / "state.json").chmod(0o640)


def expose_lock(workspace: Path) -> None:
    (workspace / "lock").chmod(0o666)


def close_file(workspace: Path) -> None:
    (workspace / "device.json").chmod(0o400)


def expose_folder(workspace: Path) -> None:
    workspace.chmod(0o755)


def expose_users(workspace: Path) -> None:
    for file in (workspace / "users").iterdir():
        file.chmod(0o644)


def leave_temporary(workspace: Path) -> None:
    (workspace / "save.tmp").touch(0o600)


def link_temporary(workspace: Path) -> None:
    (workspace / "save.tmp").symlink_to("/etc/passwd")


def leave_set_aside(workspace: Path) -> None:
    (workspace / "state.json.corrupt-20240101T000000Z-1").touch(0o600)
    (workspace / "users" / f"{'ab' * 20}.json.previous.corrupt-x-1").touch(0o600)


def add_notes(workspace: Path) -> None:
    (workspace / "h.jekyll@example.com").touch()
    (workspace / "users" / "henry jekyll.json").touch()


def lock_is_a_link(workspace: Path) -> None:
    (workspace / "lock").unlink()
    (workspace / "lock").symlink_to("elsewhere")


def users_is_a_file(workspace: Path) -> None:
    shutil.rmtree(workspace / "users")
    (workspace / "users").touch()


def users_is_a_link(workspace: Path) -> None:
    (workspace / "users").rename(workspace.parent / "elsewhere")
    (workspace / "users").symlink_to(workspace.parent / "elsewhere")


def become_newer(workspace: Path) -> None:
    write_document(workspace / "state.json", {}, schema_version=2)


Case = tuple[Callable[[Path], None], Kind, str, str]
STATE, DEVICE = "state.json", "device.json"
REPAIRABLE: list[Case] = [
    (damage_state, Kind.DAMAGED, STATE, "its checksum does not match"),
    (damage_both, Kind.LOST, STATE, "its checksum does not match"),
    (damage_previous, Kind.DAMAGED_PREVIOUS, STATE, "of the generation before: its checksum does not match"),
    (lose_state, Kind.CUT_SHORT, STATE, "it is gone, and the generation before is there"),
    (damage_user, Kind.DAMAGED, "users/JEKYLL", "its checksum does not match"),
    (link_user, Kind.DAMAGED, "users/JEKYLL", "it is a symbolic link"),
    (change_device, Kind.DEVICE_STAMP, DEVICE, "the two copies of the device application stamp differ"),
    (lose_device, Kind.DEVICE_STAMP, DEVICE, "one of the two copies of the device application stamp is missing"),
    (
        lose_stamp_of_state,
        Kind.DEVICE_STAMP,
        DEVICE,
        "one of the two copies of the device application stamp is missing",
    ),
    (expose_file, Kind.MODE, ".", "1 file has mode 0640"),
    (expose_lock, Kind.MODE, ".", "1 file has mode 0666"),
    (close_file, Kind.MODE, ".", "1 file has mode 0400"),
    (expose_folder, Kind.MODE, ".", "the folder has mode 0755"),
    (expose_users, Kind.MODE, "users", "6 files have mode 0644"),
    (leave_temporary, Kind.LEFTOVER, "save.tmp", "it is the temporary file of a save"),
]
NOT_REPAIRABLE: list[Case] = [
    (lose_all_state, Kind.NO_STATE, STATE, "it is missing, though there are users"),
    (lose_stamps, Kind.NO_DEVICE_STAMP, STATE, "there is no device application stamp"),
    (copy_user, Kind.WRONG_NAME, "users/abc123.json", "the user in it belongs under another name"),
    (empty_user, Kind.WRONG_NAME, "users/abc123.json", "there is no user in it"),
    (lock_is_a_link, Kind.IN_THE_WAY, "lock", "it is no regular file"),
    (users_is_a_file, Kind.IN_THE_WAY, "users", "it is no folder"),
    (become_newer, Kind.NEWER, STATE, "a newer version of identity_session wrote it"),
]
WORTH_KNOWING: list[Case] = [
    (lose_previous, Kind.NO_PREVIOUS, STATE, "the generation before is missing"),
    (link_temporary, Kind.FOREIGN, "save.tmp", "it is no regular file; the next change makes way for its own"),
    (users_is_a_link, Kind.LINK, "users", "the folder is a symbolic link"),
]
each_case = pytest.mark.parametrize(
    ("happens", "kind", "name", "text"),
    [pytest.param(*case, id=case[0].__name__) for case in (*REPAIRABLE, *NOT_REPAIRABLE, *WORTH_KNOWING)],
)


def path_of(workspace: Path, name: str) -> Path:
    return user_file(workspace, "jekyll") if name == "users/JEKYLL" else workspace / name
