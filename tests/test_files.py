"""One file: what a save does step by step, and what is done about everything that may lie in its place."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from storage_helpers import FaultyDisk, read_document, umask, write_document

from identity_session import NewerStorageError, StorageError, files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir(0o700)
    return folder / "state.json"


def save(file: Path, **content: Any) -> None:
    files.save(file, content, file.with_name("save.tmp"))


def recover(file: Path) -> tuple[dict[str, Any] | None, Path | None]:
    return files.recover(file, file.with_name("save.tmp"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def previous(file: Path) -> Path:
    return file.with_name(f"{file.name}.previous")


def set_aside(file: Path) -> list[str]:
    return sorted(f.name for f in file.parent.iterdir() if f.name.startswith(f"{file.name}.corrupt-"))


# A save


def test_what_was_saved_is_loaded_again_with_its_envelope(file: Path) -> None:
    save(file, name="zoë", nested={"list": [1, None, "\U0001f600"]})
    document = files.load(file)
    assert document is not None
    assert (document["name"], document["nested"]) == ("zoë", {"list": [1, None, "\U0001f600"]})
    assert (document["schema_version"], document["generation"]) == (1, 1)


def test_a_person_can_read_the_file(file: Path) -> None:
    save(file, name="zoë")
    text = file.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert '\n  "name": "zoë"' in text
    assert json.loads(text)["name"] == "zoë"


def test_a_file_that_is_not_there_is_no_document(file: Path) -> None:
    assert files.load(file) is None
    assert recover(file) == (None, None)


def test_every_save_is_one_generation_more_and_keeps_the_one_before(file: Path) -> None:
    for generation in range(1, 5):
        save(file, number=generation)
        assert read_document(file)["generation"] == generation
    assert files.has_previous(file)
    assert read_document(previous(file))["number"] == 3
    assert sorted(os.listdir(file.parent)) == ["state.json", "state.json.previous"]


def test_content_cannot_pretend_to_be_the_envelope(file: Path) -> None:
    save(file, schema_version=99, generation=99, checksum="none", name="kept")
    document = files.load(file)
    assert document is not None
    assert (document["schema_version"], document["generation"], document["name"]) == (1, 1, "kept")


def test_a_document_that_is_too_large_is_refused_before_anything_is_written(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(file, name="old")
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    with pytest.raises(StorageError, match="larger than"):
        save(file, name="x" * 1000)
    assert read_document(file)["name"] == "old"
    assert sorted(os.listdir(file.parent)) == ["state.json"]


def test_a_save_syncs_the_file_before_it_takes_the_name_and_the_folder_after(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(file, name="old")
    disk = FaultyDisk(monkeypatch, file.parent)
    with disk.failing(10_000, 0):
        save(file, name="new")
    steps = [call for call in disk.calls if call in ("write", "fsync", "link", "replace")]
    assert steps == ["write", "fsync", "link", "replace", "fsync"]


@pytest.mark.parametrize("mask", [0, 0o777])
def test_files_and_folders_are_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        files.make_private_folder(tmp_path / "a" / "b" / "c")
        save(tmp_path / "a" / "b" / "c" / "state.json", n=1)
        save(tmp_path / "a" / "b" / "c" / "state.json", n=2)
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert {mode(f) for f in (tmp_path / "a/b/c").iterdir()} == {0o600}


def test_no_folder_is_open_to_others_even_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    mkdir = os.mkdir

    def watched(path: Any, *arguments: Any) -> None:
        mkdir(path, *arguments)
        made.append(mode(Path(path)))

    monkeypatch.setattr(os, "mkdir", watched)
    with umask(0):
        files.make_private_folder(tmp_path / "a" / "b")
    assert made == [0o700, 0o700]


def test_files_and_folders_become_private_whatever_was_there_before(file: Path) -> None:
    save(file, n=1)
    file.chmod(0o666)
    file.parent.chmod(0o777)
    files.make_private_folder(file.parent)
    save(file, n=2)
    assert (mode(file), mode(previous(file)), mode(file.parent)) == (0o600, 0o600, 0o700)


def test_only_the_folder_itself_is_made_private_not_the_parents_that_were_there(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir(0o755)
    files.make_private_folder(parent / "store")
    assert (mode(parent), mode(parent / "store")) == (0o755, 0o700)


def test_a_folder_that_another_process_makes_at_the_same_moment_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def raced(path: Any, *arguments: Any) -> None:
        mkdir(path, *arguments)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "mkdir", raced)
    files.make_private_folder(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be created"):
        files.make_private_folder(tmp_path / "file" / "store")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_hard_links_keeps_the_previous_generation_all_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_links)
    save(file, n=1)
    save(file, n=2)
    assert (read_document(file)["n"], read_document(previous(file))["n"]) == (2, 1)
    assert mode(previous(file)) == 0o600
    file.write_text("damaged")
    document, _ = recover(file)
    assert document is not None
    assert document["n"] == 1
    assert read_document(file)["n"] == 1


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES])
def test_a_file_system_that_cannot_sync_folders_can_be_used(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fsync = os.fsync

    def files_only(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    save(file, n=1)
    assert read_document(file)["n"] == 1


def test_where_folders_cannot_be_opened_they_are_not_synced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    files.sync_folder(file.parent / "not there")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_save_that_fails_at_any_step_leaves_the_document_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int, links: bool
) -> None:
    if not links:

        def no_links(*_: Any, **__: Any) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", no_links)
    disk = FaultyDisk(monkeypatch, file.parent)
    save(file, n=0)
    step = old = 0
    while True:
        step += 1
        with disk.failing(step, code):
            try:
                save(file, n=old + 1)
                outcome = "saved"
            except (StorageError, files.DamagedFileError) as error:
                outcome = str(error)
        document = files.load(file)
        assert document is not None, f"step {disk.calls}: {outcome}"
        assert document["n"] == (old + 1 if outcome == "saved" else old), f"step {disk.calls}: {outcome}"
        assert len([f for f in file.parent.iterdir() if f.name.endswith(".tmp")]) <= 1
        save(file, n=step * 10)
        assert read_document(file)["n"] == step * 10
        # A generation before that could not be read is kept aside; nothing else is left.
        left = {f.name for f in file.parent.iterdir() if not f.name.startswith("state.json.previous.corrupt-")}
        assert left <= {"state.json", "state.json.previous"}
        old = step * 10
        if not disk.failed():
            break
    assert step > 12
    assert outcome == "saved"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_first_save_that_fails_at_any_step_leaves_no_document(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    disk = FaultyDisk(monkeypatch, file.parent)
    for step in range(1, 100):
        with disk.failing(step, code):
            try:
                save(file, n=1)
                saved = True
            except (StorageError, files.DamagedFileError):
                saved = False
        assert (files.load(file) is not None) == saved, disk.calls
        if not disk.failed():
            break
        file.unlink(missing_ok=True)
    assert step > 8
    assert saved


def test_a_leftover_of_a_save_that_was_cut_short_is_replaced_by_the_next(file: Path) -> None:
    save(file, n=1)
    file.with_name("save.tmp").write_text('{"half": ')
    save(file, n=2)
    assert sorted(os.listdir(file.parent)) == ["state.json", "state.json.previous"]


# Hostile names


@pytest.mark.parametrize("name", ["save.tmp", "state.json.previous", "state.json"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_planted_in_the_store_is_never_followed(
    file: Path, tmp_path: Path, name: str, exists: bool
) -> None:
    victim = tmp_path / "victim"
    if exists:
        write_document(victim, {"n": 666})
        victim.chmod(0o644)
    before = victim.read_bytes() if exists else None
    save(file, n=1)
    planted = file.with_name(name)
    planted.unlink(missing_ok=True)
    planted.symlink_to(victim)
    if name == "state.json":
        document, aside = recover(file)
        assert document is None
        assert aside is not None
        assert aside.is_symlink()
    for n in (2, 3):
        save(file, n=n)
    assert read_document(file)["n"] == 3
    assert not file.is_symlink()
    assert not previous(file).is_symlink()
    assert (victim.read_bytes() if victim.exists() else None) == before
    assert not exists or mode(victim) == 0o644


def test_a_link_in_the_place_of_the_previous_generation_is_not_read_through(file: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    write_document(victim, {"n": 666})
    previous(file).symlink_to(victim)
    file.write_text("damaged")
    assert recover(file)[0] is None


@pytest.mark.parametrize("name", ["save.tmp", "state.json.previous"])
@pytest.mark.parametrize("plant", ["folder", "pipe"])
def test_a_folder_or_a_pipe_at_a_name_of_our_own_stops_no_save(file: Path, name: str, plant: str) -> None:
    save(file, n=1)
    planted = file.with_name(name)
    if plant == "folder":
        planted.mkdir()
        (planted / "precious").write_text("somebody's")
    else:
        os.mkfifo(planted)
    save(file, n=2)
    assert read_document(file)["n"] == 2
    assert read_document(previous(file))["n"] == 1
    if plant == "folder":
        (kept,) = file.parent.glob(f"{name}.corrupt-*/precious")
        assert kept.read_text() == "somebody's"


# Damage


DAMAGES: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "NUL bytes": b"\0" * 500,
    "not UTF-8": b'{"schema_version": 1, "name": "\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "nested 100,000 deep": b"[" * 100_000,
    "objects nested 100,000 deep": b'{"a":' * 100_000,
    "a huge number": b'{"schema_version": ' + b"9" * 5000 + b"}",
    "no schema": b'{"generation": 1, "checksum": "x"}',
    "a schema that is text": b'{"schema_version": "1"}',
    "a schema that is true": b'{"schema_version": true, "generation": 1}',
    "a schema of 0": b'{"schema_version": 0}',
    "a fractional schema": b'{"schema_version": 2.5}',
    "no generation": b'{"schema_version": 1, "checksum": "x"}',
    "a lone surrogate": b'{"schema_version": 1, "generation": 1, "checksum": "x", "a": "\\ud800"}',
    "a wrong checksum": b'{"schema_version": 1, "generation": 1, "checksum": "sha256:0"}',
    "a checksum that is a list": b'{"schema_version": 1, "generation": 1, "checksum": []}',
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_set_aside_with_one_warning_and_the_generation_before_is_used(
    file: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    save(file, n=1)
    save(file, n=2)
    file.unlink()
    file.write_bytes(content)
    file.chmod(0o644)
    with pytest.raises(files.DamagedFileError):
        files.load(file)
    with caplog.at_level(logging.DEBUG), freeze_time("2024-05-06 07:08:09"):
        document, aside = recover(file)
    assert document is not None
    assert document["n"] == 1
    assert read_document(file)["n"] == 1
    assert aside == file.with_name("state.json.corrupt-20240506T070809Z-1")
    assert aside.read_bytes() == content
    assert mode(aside) == 0o600
    assert [(r.name, r.levelname) for r in caplog.records] == [("identity_session", "WARNING")]
    assert aside.name in caplog.text
    assert recover(file)[1] is None


@pytest.mark.parametrize(
    "envelope",
    [
        {"schema_version": True},
        {"schema_version": 1.0},
        {"schema_version": -1},
        {"schema_version": None},
        {"generation": "1"},
        {"generation": None},
        {"generation": 1.5},
        {"generation": []},
    ],
    ids=repr,
)
def test_an_envelope_of_a_wrong_type_is_damage_even_with_a_right_checksum(
    file: Path, envelope: dict[str, object]
) -> None:
    write_document(file, {"n": 1}, **envelope)
    with pytest.raises(files.DamagedFileError):
        files.load(file)
    save_again, _ = recover(file)
    assert save_again is None
    save(file, n=2)
    assert read_document(file)["generation"] == 1


def test_a_file_cut_at_any_length_is_damage_and_never_an_exception_of_another_kind(file: Path) -> None:
    save(file, name="zoë", attributes={"a": [1, 2, {"b": None}]})
    whole = file.read_bytes()
    for length in [*range(0, len(whole) - 1, 10), len(whole) - 2]:
        file.write_bytes(whole[:length])
        with pytest.raises(files.DamagedFileError):
            files.load(file)


def test_a_flipped_bit_anywhere_is_damage_or_a_newer_schema(file: Path) -> None:
    save(file, name="zoe", number=12345)
    whole = file.read_bytes()
    good = files.load(file)
    for place in range(len(whole)):
        for bit in (0, 3, 6):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            file.write_bytes(flipped)
            try:
                document = files.load(file)
            except (files.DamagedFileError, NewerStorageError):
                continue
            assert document == good, f"byte {place}"  # white space became other white space


def test_no_depth_of_nesting_slips_between_the_reader_and_the_checksum(file: Path) -> None:
    for depth in range(900, 1000):
        nested = "[" * depth + "]" * depth
        file.write_text(f'{{"schema_version": 1, "generation": 1, "checksum": "x", "a": {nested}}}')
        with pytest.raises(files.DamagedFileError):
            files.load(file)


def test_fifty_megabytes_of_junk_are_damage_and_are_not_read_to_the_end(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with file.open("wb") as junk:
        junk.truncate(50 * 1024 * 1024)
    with pytest.raises(files.DamagedFileError, match="too large"):
        files.load(file)


@pytest.mark.parametrize("has_previous", [True, False])
def test_a_folder_in_the_place_of_the_file_is_moved_with_all_it_holds(file: Path, has_previous: bool) -> None:
    if has_previous:
        save(file, n=1)
        save(file, n=2)
        file.unlink()
    file.mkdir()
    (file / "precious").write_text("somebody's")
    document, aside = recover(file)
    assert (document["n"] if document else None) == (1 if has_previous else None)
    assert aside is not None
    assert (aside / "precious").read_text() == "somebody's"
    save(file, n=3)


def test_a_pipe_or_a_socket_in_the_place_of_the_file_does_not_hang(file: Path) -> None:
    save(file, n=1)
    save(file, n=2)
    file.unlink()
    os.mkfifo(file)
    document, aside = recover(file)
    assert document is not None
    assert document["n"] == 1
    assert aside is not None
    assert stat.S_ISFIFO(aside.lstat().st_mode)
    file.unlink()
    os.mknod(file, stat.S_IFSOCK | 0o600)
    with pytest.raises(files.DamagedFileError):
        files.load(file)


def test_of_the_files_set_aside_the_three_newest_are_kept(file: Path) -> None:
    with freeze_time("2024-05-06 07:08:09") as frozen:
        for n in range(12):
            file.write_text(f"damage {n}")
            recover(file)
            if n == 10:
                frozen.tick(1)
    assert [(file.parent / name).read_text() for name in set_aside(file)] == ["damage 9", "damage 10", "damage 11"]


def test_a_clock_that_was_set_back_does_not_cost_the_file_that_was_set_aside_now(file: Path) -> None:
    for year in (2031, 2032, 2033, 2024):
        with freeze_time(f"{year}-01-01"):
            file.write_text(f"damage of {year}")
            _, aside = recover(file)
        assert aside is not None
        assert aside.read_text() == f"damage of {year}"
    assert len(set_aside(file)) == 3


def test_folders_set_aside_are_never_deleted(file: Path) -> None:
    for n in range(5):
        file.mkdir()
        (file / f"precious {n}").touch()
        recover(file)
    assert len(list(file.parent.glob("*/precious *"))) == 5


def test_a_damaged_previous_generation_is_set_aside_too(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("damaged")
    previous(file).write_text("damaged as well")
    document, aside = recover(file)
    assert document is None
    assert aside is not None
    assert len(caplog.records) == 2
    assert not file.exists()
    assert not previous(file).exists()


def test_a_missing_file_is_brought_back_from_the_previous_generation_without_a_warning(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(file, n=1)
    save(file, n=2)
    file.unlink()
    document, aside = recover(file)
    assert document is not None
    assert (document["n"], aside) == (1, None)
    assert read_document(file)["n"] == 1
    assert not caplog.records


def test_damage_on_the_spot_after_a_recovery_does_not_reach_the_generation_before(file: Path) -> None:
    save(file, number=1)
    save(file, number=2)
    for _ in range(3):
        with file.open("r+b") as spot:  # as a bad sector does: the same file, with other content
            spot.write(b"\0" * 64)
        document, aside = recover(file)
        assert document is not None
        assert document["number"] == 1
        assert aside is not None
    assert files.load(file) == files.load(previous(file)) == document


def test_a_damaged_file_that_cannot_be_moved_is_reported_and_the_generation_before_used(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(file, n=1)
    save(file, n=2)
    file.write_text("damaged")  # the hard link keeps the generation before

    def stuck(*_: Any) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", stuck)
    document, aside = recover(file)
    assert document is not None
    assert (document["n"], aside) == (1, None)
    assert "cannot be moved (Device or resource busy)" in caplog.text
    assert file.read_text() == "damaged"


def test_the_last_good_generation_can_be_read_without_moving_anything(file: Path) -> None:
    assert files.last_good(file) is None
    save(file, n=1)
    save(file, n=2)
    for damage, expected in (("", 2), ("damaged", 1)):
        if damage:
            file.write_text(damage)
        document = files.last_good(file)
        assert document is not None
        assert document["n"] == expected
    previous(file).write_text("damaged")
    assert files.last_good(file) is None
    assert sorted(os.listdir(file.parent)) == ["state.json", "state.json.previous"]


def test_neither_warning_nor_error_shows_what_was_in_the_file(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(file, email="canary@example.com")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(files.DamagedFileError) as caught:
        files.load(file)
    recover(file)
    assert "canary" not in str(caught.value) + caplog.text


# State that is newer, or cannot be reached


@pytest.mark.parametrize("checksum", ["right", "wrong"])
def test_a_newer_schema_is_left_alone_and_the_error_says_what_to_do(file: Path, checksum: str) -> None:
    write_document(file, {"n": 1}, schema_version=2, **({"checksum": "wrong"} if checksum == "wrong" else {}))
    before = file.read_bytes()
    for attempt in (files.load, recover, save):
        with pytest.raises(NewerStorageError, match="upgrade identity_session, or use another storage path"):
            attempt(file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["state.json"]


def test_a_newer_previous_generation_is_left_alone(file: Path) -> None:
    write_document(previous(file), {"n": 1}, schema_version=2)
    with pytest.raises(NewerStorageError):
        recover(file)
    assert previous(file).exists()


@pytest.mark.parametrize("step", ["open", "read"])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.EACCES])
def test_trouble_that_passes_does_not_make_a_good_file_count_as_damaged(
    file: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    save(file, n=1)
    disk = FaultyDisk(monkeypatch, file.parent)
    with disk.failing(10_000, code):
        files.load(file)
    with disk.failing(disk.calls.index(step) + 1, code), pytest.raises(StorageError, match="cannot be read"):
        recover(file)
    assert os.listdir(file.parent) == ["state.json"]
    assert files.load(file) is not None


def test_a_sector_that_cannot_be_read_counts_as_damage_unless_it_can_at_the_second_try(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(file, n=1)
    good = files.load(file)
    opened, faults = os.open, [errno.EIO]

    def broken(path: Any, *arguments: Any) -> int:
        if faults:
            raise OSError(faults.pop(), "Input/output error")
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", broken)
    assert files.load(file) == good
    faults += [errno.EIO, errno.EIO]
    with pytest.raises(files.DamagedFileError, match="Input/output error"):
        files.load(file)


def test_a_file_where_a_folder_should_be_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a file is in its way"):
        files.load(tmp_path / "file" / "state.json")


# Removal


def test_delete_removes_the_document_and_the_generation_before(file: Path) -> None:
    save(file, n=1)
    save(file, n=2)
    files.delete(file)
    assert os.listdir(file.parent) == []
    files.delete(file)


def test_delete_removes_the_generation_before_first_so_that_nothing_comes_back(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(file, n=1)
    save(file, n=2)
    removed: list[str] = []
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path, *a, **k: (removed.append(Path(path).name), unlink(path, *a, **k)))
    files.delete(file)
    assert removed == ["state.json.previous", "state.json"]


def test_a_document_that_cannot_be_removed_is_a_storage_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(file, n=1)

    def stuck(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "unlink", stuck)
    with pytest.raises(StorageError, match=r"could not be removed \(Read-only file system\)"):
        files.delete(file)


def test_the_companions_of_a_document_are_its_own_files_alone(file: Path) -> None:
    own = ["state.json.previous", "state.json.corrupt-20240101T000000Z-1", "state.json.previous.corrupt-x-1"]
    for name in [*own, "state.json", "state.json.bak", "state.json.previous.bak", "state.jsonx", "notes.txt"]:
        file.with_name(name).touch()
    assert sorted(f.name for f in files.companions(file)) == sorted(own)


def test_a_lock_file_becomes_private_but_a_link_in_its_place_is_left_alone(tmp_path: Path) -> None:
    lock, victim = tmp_path / "lock", tmp_path / "victim"
    files.make_private_file(lock)
    assert not lock.exists()
    lock.touch(0o666)
    lock.chmod(0o666)
    files.make_private_file(lock)
    assert mode(lock) == 0o600
    victim.touch()
    victim.chmod(0o644)
    lock.unlink()
    lock.symlink_to(victim)
    files.make_private_file(lock)
    assert mode(victim) == 0o644


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_recovery_that_fails_at_any_step_loses_nothing_and_the_next_succeeds(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    disk = FaultyDisk(monkeypatch, file.parent)
    for step in range(1, 100):
        for f in file.parent.iterdir():
            f.unlink()
        save(file, n=1)
        save(file, n=2)
        for number in range(4):  # enough for the oldest to be dropped
            file.with_name(f"{file.name}.corrupt-20240101T000000Z-{number}").touch()
        file.unlink()
        file.write_text("damaged")
        with disk.failing(step, code):
            document, aside = recover(file)
        assert document is None or document["n"] == 1
        assert aside is None or aside.read_text() == "damaged"
        remembered = recover(file)[0]
        if remembered is None:  # the generation before could not be read either; it is kept for a person to look at
            (kept,) = file.parent.glob(f"{file.name}.previous.corrupt-*")
            remembered = read_document(kept)
        assert remembered["n"] == 1
        if not disk.failed():
            break
    assert step > 10


def test_a_load_costs_the_same_however_many_files_lie_beside_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(file, n=1)
    for n in range(200):
        (file.parent / f"other-{n}").touch()
    disk = FaultyDisk(monkeypatch, file.parent)
    with disk.failing(10_000, 0):
        files.load(file)
    assert disk.calls == ["open", "fstat", "read", "close"]
