"""One file: what is done about whatever may lie in its place, and about a file that is damaged, newer or gone."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from storage_helpers import FaultyDisk, read_document, write_document
from stored_files import file_in, generation_before, mode, recover, save, set_aside

from identity_session import NewerStorageError, StorageError, files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return file_in(tmp_path / "store")


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
    assert not generation_before(file).is_symlink()
    assert (victim.read_bytes() if victim.exists() else None) == before
    assert not exists or mode(victim) == 0o644


def test_a_link_in_the_place_of_the_previous_generation_is_not_read_through(file: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    write_document(victim, {"n": 666})
    generation_before(file).symlink_to(victim)
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
    assert read_document(generation_before(file))["n"] == 1
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
    generation_before(file).write_text("damaged as well")
    document, aside = recover(file)
    assert document is None
    assert aside is not None
    assert len(caplog.records) == 2
    assert not file.exists()
    assert not generation_before(file).exists()


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
    assert files.load(file) == files.load(generation_before(file)) == document


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
    generation_before(file).write_text("damaged")
    assert files.last_good(file) is None
    assert sorted(os.listdir(file.parent)) == ["state.json", "state.json.previous"]


@pytest.mark.parametrize(
    "end",
    [b"", b'\xff"}', b'", "a": "\\ud800"}', b"[" * 100_000],
    ids=["cut", "no UTF-8", "a lone surrogate", "deep"],
)
def test_neither_warning_nor_error_shows_what_was_in_the_file(
    file: Path, caplog: pytest.LogCaptureFixture, end: bytes
) -> None:
    """Nor does what led to the error, in which a parser keeps all that it was given."""
    save(file, email="canary@example.com")
    file.write_bytes(file.read_bytes()[:-5] + end)
    with pytest.raises(files.DamagedFileError) as caught:
        files.load(file)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
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
    write_document(generation_before(file), {"n": 1}, schema_version=2)
    with pytest.raises(NewerStorageError):
        recover(file)
    assert generation_before(file).exists()


@pytest.mark.parametrize("step", ["open", "read"])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOSPC, errno.EIO])
def test_trouble_that_passes_does_not_make_a_good_file_count_as_damaged(
    file: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    """It is read once more; a file that may not be read is not."""
    save(file, n=1)
    good, disk = files.load(file), FaultyDisk(monkeypatch, file.parent)
    with disk.failing(10_000, code):
        files.load(file)
    at = disk.calls.index(step) + 1
    with disk.failing(at, code):
        assert recover(file) == (good, None)
    with disk.failing(at, errno.EACCES), pytest.raises(StorageError, match="cannot be read"):
        recover(file)
    assert os.listdir(file.parent) == ["state.json"]
    assert files.load(file) == good


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
