"""Every file of a store damaged in every way there is, and what may be planted where a store keeps its files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from storage_helpers import (
    API_KEY,
    QuickService,
    login,
    make_session,
    read_document,
    started,
    tree,
    user_file,
    workspace_of,
)
from transitions import ENVELOPE, FRONTS, Service, Traveller, documents

from identity_session import NewerStorageError, StorageError, cli
from identity_session.testing.faults import FaultyDisk

DOCUMENTS = ("state.json", "device.json", "the current user's file", "another user's file")
MEGABYTE = 1024 * 1024


@pytest.fixture(autouse=True)
def _disk_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which every file has a generation before with other content; 2 is current and has been away twice."""
    path = tmp_path_factory.mktemp("journey") / "store"
    started(path, transport=QuickService())
    session = started(path, transport=QuickService(), device_id="device-2")
    for turn, mpid in enumerate(("1", "2", "3", "2", "3", "2")):
        login(session, mpid).get_user().set_attribute("plan", f"plan {turn} of {mpid}")
    assert all(file.with_name(f"{file.name}.previous").exists() for file in (file_of(path, d) for d in DOCUMENTS))
    return path


@pytest.fixture
def store(journey: Path, tmp_path: Path) -> Path:
    return shutil.copytree(journey, tmp_path / "store")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Somebody's file, which must stay as it is."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    return victim


def file_of(path: Path, document: str) -> Path:
    workspace = workspace_of(path)
    users = {"the current user's file": user_file(workspace, "2"), "another user's file": user_file(workspace, "3")}
    return users.get(document) or workspace / document


def previous(file: Path) -> Path:
    return file.with_name(f"{file.name}.previous")


Damage = Callable[[Path, Path], object]
"""Done to a file; the other path is that of a victim, for those that plant a link."""


def in_its_place(plant: Damage) -> Damage:
    def damage(file: Path, victim: Path) -> None:
        file.unlink()
        plant(file, victim)

    return damage


def content(data: bytes) -> Damage:
    return in_its_place(lambda file, _: file.write_bytes(data))


def junk(file: Path, _: Path) -> None:
    with file.open("wb") as big:
        for _ in range(50):
            big.write(os.urandom(1024) * 1024)


def other_bit(file: Path, place: int) -> bytes:
    data = bytearray(file.read_bytes())
    data[place % len(data)] ^= 1 << place % 7
    return bytes(data)


DAMAGES: dict[str, Damage] = {
    "empty": content(b""),
    "a list": content(b"[]"),
    "null": content(b"null"),
    "NUL bytes": content(b"\0" * 5000),
    "50 MB of junk": in_its_place(junk),
    "lists nested 100,000 deep": content(b"[" * 100_000),
    "objects nested 100,000 deep": content(b'{"a":' * 100_000),
    "not UTF-8": content(b'{"schema_version": 1, "name": "\xff"}'),
    "an object of somebody else": content(b'{"schema_version": 1}'),
    "a folder": in_its_place(lambda file, _: (file.mkdir(), (file / "precious").touch())),
    "a pipe": in_its_place(lambda file, _: os.mkfifo(file)),
    "a link to nowhere": in_its_place(lambda file, _: file.symlink_to("nowhere")),
    "a link to itself": in_its_place(lambda file, _: file.symlink_to(file.name)),
    "a link to a file": in_its_place(lambda file, victim: file.symlink_to(victim)),
    "a link to a device": in_its_place(lambda file, _: file.symlink_to("/dev/zero")),
    "a hard link to a file": in_its_place(lambda file, victim: file.hardlink_to(victim)),
}


def assert_told_once(path: Path, damaged: Path, caplog: pytest.LogCaptureFixture, aside: Path | None) -> None:
    assert aside is not None
    assert aside.name.startswith(f"{damaged.name}.corrupt-")
    assert os.path.lexists(aside)
    if not aside.is_symlink() and aside.is_file():
        assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    warnings = [record.getMessage() for record in caplog.records if record.name == "identity_session"]
    assert len(warnings) == 1
    assert aside.name in warnings[0]
    caplog.clear()
    again = make_session(path)
    assert again.recovered_from is None
    assert documents(again.storage)
    assert again.recovered_from is None
    assert caplog.records == []


def assert_good_as_before(path: Path, device_id: str | None) -> None:
    """Calls work, nobody is lost, and what they change is there for the next process."""
    session = make_session(path, transport=QuickService())
    assert session.start().http_code in (200, -3)
    assert session.device_id == device_id
    for mpid in ("3", "4", "2"):
        assert login(session, mpid).http_code == 200
    reopened = make_session(path)
    assert reopened.mpid == "2"
    assert {user.mpid for user in reopened.get_users()} == {"100", "1", "2", "3", "4"}
    assert reopened.recovered_from is None


def test_the_files_are_not_damaged_to_begin_with(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_good_as_before(store, "device-2")
    assert caplog.records == []


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_for_any_one_damaged_file_the_generation_before_is_used_and_the_damage_kept_and_told_once(
    store: Path,
    victim: Path,
    caplog: pytest.LogCaptureFixture,
    document: str,
    damage: Damage,
    front: str,
) -> None:
    """And the device stamp stays."""
    before = documents(make_session(store).storage)
    file = file_of(store, document)
    name = str(file.relative_to(workspace_of(store)).with_suffix(""))
    generation_before = {k: v for k, v in read_document(previous(file)).items() if k not in ENVELOPE}
    assert generation_before != before[name]
    damage(file, victim)

    session = FRONTS[front](API_KEY, storage=store, transport=Service())
    assert session.device_id == "device-2"
    assert documents(session.storage) == {**before, name: generation_before}
    assert_told_once(store, file, caplog, session.recovered_from)
    assert Traveller.done(session.start()).http_code in (200, -3)
    assert_good_as_before(store, "device-2")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_generation_before_costs_nothing_and_is_told_with_the_next_save(
    store: Path, victim: Path, caplog: pytest.LogCaptureFixture, document: str, damage: Damage
) -> None:
    before = documents(make_session(store).storage)
    file = file_of(store, document)
    damage(previous(file), victim)
    session = make_session(store)
    assert documents(session.storage) == before
    assert caplog.records == []
    name = str(file.relative_to(workspace_of(store)).with_suffix(""))
    with session.storage.lock(1):
        session.storage.write(name, before[name])
    assert_told_once(store, previous(file), caplog, session.recovered_from)
    assert_good_as_before(store, "device-2")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_file_cut_at_every_tenth_byte_is_damaged_at_each(store: Path, document: str) -> None:
    """The last byte is the end of the line, without which the document is whole."""
    before = documents(make_session(store).storage)
    file = file_of(store, document)
    name = str(file.relative_to(workspace_of(store)).with_suffix(""))
    whole = file.read_bytes()
    generation_before = {k: v for k, v in read_document(previous(file)).items() if k not in ENVELOPE}
    for length in range(0, len(whole) - 1, 10):
        file.unlink()
        file.write_bytes(whole[:length])
        session = make_session(store)
        assert documents(session.storage) == {**before, name: generation_before}, length
        assert session.recovered_from is not None
        assert session.recovered_from.read_bytes() == whole[:length]
        assert session.device_id == "device-2"
        assert len(list(file.parent.glob("*.corrupt-*"))) <= 3
    assert length > 100
    assert_good_as_before(store, "device-2")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_flipped_bit_is_damage_a_newer_schema_or_changes_nothing(store: Path, document: str) -> None:
    before = documents(make_session(store).storage)
    file = file_of(store, document)
    name = str(file.relative_to(workspace_of(store)).with_suffix(""))
    whole = file.read_bytes()
    generation_before = {k: v for k, v in read_document(previous(file)).items() if k not in ENVELOPE}
    outcomes = set()
    for place in range(0, len(whole), 3):
        file.unlink()
        file.write_bytes(whole)
        file.write_bytes(other_bit(file, place))
        try:
            session = make_session(store)
            found = documents(session.storage)
        except NewerStorageError:
            outcomes.add("newer")
            continue
        if session.recovered_from is None:
            assert found == before, place  # white space became other white space
            outcomes.add("nothing")
        else:
            assert found == {**before, name: generation_before}, place
            outcomes.add("damage")
        assert session.device_id == "device-2"
    assert "damage" in outcomes
    file.unlink()
    file.write_bytes(whole)
    assert_good_as_before(store, "device-2")


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("generation", ["", ".previous"])
def test_what_a_newer_version_wrote_is_left_alone_with_the_documented_exception_or_none(
    store: Path, document: str, generation: str, front: str
) -> None:
    """State and device decide for everybody; a user whom a newer version wrote concerns that user alone."""
    file = file_of(store, document)
    planted = file.with_name(file.name + generation)
    planted.unlink()
    planted.write_text(json.dumps({"schema_version": 2, "everything": "different"}))
    before = planted.read_bytes()
    if generation or document in DOCUMENTS[2:]:
        session = FRONTS[front](API_KEY, storage=store)
        assert (session.mpid, session.device_id) == ("2", "device-2")
    else:
        with pytest.raises(NewerStorageError, match="upgrade identity_session, or use another storage path"):
            FRONTS[front](API_KEY, storage=store)
    assert planted.read_bytes() == before
    assert list(store.rglob("*.corrupt-*")) == []


def test_of_many_damaged_files_three_are_kept_and_only_their_owner_can_read_them(store: Path) -> None:
    """The latest three, whoever could read what was damaged."""
    state = workspace_of(store) / "state.json"
    for number in range(6):
        state.unlink()
        state.write_text(f"damage {number}")
        state.chmod(0o666)
        started(store, transport=QuickService())
        kept = list(state.parent.glob("state.json.corrupt-*"))
        assert {f.read_text() for f in kept} == {f"damage {n}" for n in range(max(number - 2, 0), number + 1)}
        assert {stat.S_IMODE(f.stat().st_mode) for f in kept} == {0o600}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_the_command_line_warns_of_damage_once_in_one_line(
    store: Path,
    victim: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
) -> None:
    monkeypatch.setenv("IDENTITY_SESSION_API_KEY", API_KEY)
    damage(workspace_of(store) / "state.json", victim)
    assert cli.main(["status", "--json", "--storage", str(store)]) == 0
    printed = capsys.readouterr()
    status = json.loads(printed.out)
    assert (status["mpid"], status["device_id"]) == ("2", "device-2")
    (line,) = printed.err.splitlines()
    assert line.startswith("identity-session: warning: ")
    assert line.endswith(f"it was set aside as {Path(status['recovered_from']).name}")
    for command in ("status", "users"):
        assert cli.main([command, "--storage", str(store)]) == 0
        assert capsys.readouterr().err == ""


# What is planted at the names of a store


@pytest.mark.parametrize("name", ["save.tmp", "state.json", "state.json.previous", "device.json", "users/user"])
@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "link to nowhere"])
def test_nothing_is_ever_written_through_a_link_that_was_planted(
    store: Path, victim: Path, tmp_path: Path, name: str, kind: str
) -> None:
    planted = user_file(workspace_of(store), "3") if name == "users/user" else workspace_of(store) / name
    planted.unlink(missing_ok=True)
    if kind == "hard link":
        planted.hardlink_to(victim)
    else:
        planted.symlink_to(victim if kind == "symbolic link" else tmp_path / "nowhere")
    assert_good_as_before(store, "device-2")
    assert victim.read_text() == "precious"
    assert kind == "hard link" or stat.S_IMODE(victim.stat().st_mode) == 0o644
    assert not (tmp_path / "nowhere").exists()
    assert planted.name == "save.tmp" or (planted.is_file() and not planted.is_symlink())
    assert planted.name == "save.tmp" or planted.stat().st_ino != victim.stat().st_ino


@pytest.mark.parametrize("damage", [name for name in DAMAGES if "link" not in name and name != "a folder"])
def test_what_is_in_the_lock_file_changes_nothing(
    store: Path, victim: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    DAMAGES[damage](workspace_of(store) / "lock", victim)
    assert_good_as_before(store, "device-2")
    assert caplog.records == []


@pytest.mark.parametrize("damage", [name for name in DAMAGES if "link" in name or name == "a folder"])
def test_what_is_planted_in_the_place_of_the_lock_is_left_alone(store: Path, victim: Path, damage: str) -> None:
    """Who looks can go on, and who would change something is told."""
    DAMAGES[damage](workspace_of(store) / "lock", victim)
    before = tree(store)
    session = make_session(store, transport=QuickService())
    assert (session.mpid, session.device_id) == ("2", "device-2")
    with pytest.raises(StorageError, match=r"lock in .* cannot be taken"):
        session.start()
    assert login(session, "5").http_code == -1
    assert tree(store) == before
    assert victim.read_text() == "precious"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


def untouched(path: Path) -> tuple[int, ...]:
    """What stays equal as long as nobody changes this entry; to read it, or to follow a link, changes nothing."""
    entry = path.lstat()
    return entry.st_ino, entry.st_mode, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns


@pytest.mark.parametrize("place", ["the path", "the workspace"])
@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "a folder"])
def test_what_is_no_folder_in_the_place_of_the_folder_is_a_storage_error_and_left_alone(
    store: Path, victim: Path, place: str, damage: str
) -> None:
    folder = store if place == "the path" else workspace_of(store)
    shutil.rmtree(folder)
    folder.touch()
    DAMAGES[damage](folder, victim)
    before = untouched(folder)
    with pytest.raises(StorageError):
        make_session(store, transport=QuickService()).start()
    assert untouched(folder) == before
    assert victim.read_text() == "precious"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "a folder"])
def test_what_is_no_folder_in_the_place_of_the_users_gives_minus_1_and_is_left_alone(
    store: Path, victim: Path, damage: str
) -> None:
    users = workspace_of(store) / "users"
    shutil.rmtree(users)
    users.touch()
    DAMAGES[damage](users, victim)
    before = untouched(users)
    session = make_session(store, transport=QuickService())
    assert session.start().http_code in (200, -3)
    assert session.mpid == "2"
    assert [user.mpid for user in session.get_users()] == ["2"]
    result = login(session, "3")
    assert result.http_code == -1
    assert "could not be saved" in result.body
    assert session.mpid == "2"
    assert untouched(users) == before
    users.unlink()
    assert login(session, "3").http_code == 200


def test_a_fault_of_the_disk_that_passes_at_the_second_try_costs_no_file(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even one that looks like a broken sector."""
    before = documents(make_session(store).storage)
    users = {user.mpid for user in make_session(store).get_users()}
    seen = set()
    with FaultyDisk(store) as disk:
        for run in disk.every_failure(errno.EIO):
            with run:
                session = make_session(store)
                seen = {user.mpid for user in session.get_users()}
            assert session.recovered_from is None
            assert documents(session.storage) == before
            assert seen == users or (seen == {"2"} and "cannot be read" in caplog.text)
    assert seen == users
    assert len(disk.calls) > 20
    assert list(store.rglob("*.corrupt-*")) == []
