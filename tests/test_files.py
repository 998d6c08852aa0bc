"""One file: what a save does step by step, and what a removal leaves."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from storage_helpers import FaultyDisk, read_document, umask
from stored_files import file_in, generation_before, mode, recover, save

from identity_session import StorageError, files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return file_in(tmp_path / "store")


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
    assert read_document(generation_before(file))["number"] == 3
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
    assert (mode(file), mode(generation_before(file)), mode(file.parent)) == (0o600, 0o600, 0o700)


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


def test_a_closed_folder_becomes_private_and_no_other_and_it_says_so(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(file.parent)
    (tmp_path / "file").touch(0o000)
    for closed in (0o000, 0o077, 0o300, 0o600):
        file.parent.chmod(closed)
        assert not any(files.reopened(tmp_path / name) for name in ("link", "file", "nothing"))
        assert mode(file.parent) == closed
        assert files.reopened(file.parent)
        assert mode(file.parent) == 0o700
    for other in (0o500, 0o700, 0o755):
        file.parent.chmod(other)
        assert not files.reopened(file.parent)
        assert mode(file.parent) == other
    file.parent.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", lambda *_: None)  # as where there are no modes
        assert not files.reopened(file.parent)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert not files.reopened(file.parent)  # it is somebody else's
    assert mode(file.parent) == 0o600


@pytest.mark.parametrize(
    "code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EACCES]
)
def test_a_file_system_without_hard_links_keeps_the_previous_generation_all_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_links)
    save(file, n=1)
    save(file, n=2)
    assert (read_document(file)["n"], read_document(generation_before(file))["n"]) == (2, 1)
    assert mode(generation_before(file)) == 0o600
    file.write_text("damaged")
    document, _ = recover(file)
    assert document is not None
    assert document["n"] == 1
    assert read_document(file)["n"] == 1


def test_where_the_previous_generation_cannot_be_copied_either_no_half_of_it_is_left(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later look would take it for damage."""

    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(file, n=1)
    monkeypatch.setattr(os, "link", no_links)
    fsync, synced = os.fsync, []

    def full_at_the_copy(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full_at_the_copy)
    with pytest.raises(StorageError, match="could not be written"):
        save(file, n=2)
    assert os.listdir(file.parent) == ["state.json"]
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


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EPERM])
def test_a_removal_that_fails_at_any_step_says_so(file: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A file of which nobody can say whether it is there is not taken for gone."""
    disk, told = FaultyDisk(monkeypatch, file.parent), 0
    for step in disk.every_failure(code):
        save(file, n=1)
        save(file, n=2)
        with step:
            try:
                files.delete(file)
            except StorageError:
                told += 1
                continue
        assert os.listdir(file.parent) == [], disk.calls
    assert told > 4


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_where_nobody_can_say_whether_a_generation_is_there_nobody_says_no(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    save(file, n=1)
    save(file, n=2)
    disk = FaultyDisk(monkeypatch, file.parent)
    with disk.failing(1, code), pytest.raises(StorageError, match=f"cannot be looked at .{os.strerror(code)}"):
        files.has_previous(file)
    assert files.has_previous(file)


def test_what_is_not_there_is_not_there_wherever_it_might_be(file: Path) -> None:
    file.symlink_to("nowhere")
    assert files.is_there(file)
    assert not files.is_there(generation_before(file))
    file.unlink()
    file.touch()
    assert not files.is_there(file / "below a file")


def test_the_companions_of_a_document_are_its_own_files_alone(file: Path) -> None:
    own = ["state.json.previous", "state.json.corrupt-20240101T000000Z-1", "state.json.previous.corrupt-x-1"]
    for name in [*own, "state.json", "state.json.bak", "state.json.previous.bak", "state.jsonx", "notes.txt"]:
        file.with_name(name).touch()
    assert sorted(f.name for f in files.companions(file)) == sorted(own)


def test_a_load_costs_the_same_however_many_files_lie_beside_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(file, n=1)
    for n in range(200):
        (file.parent / f"other-{n}").touch()
    disk = FaultyDisk(monkeypatch, file.parent)
    with disk.failing(10_000, 0):
        files.load(file)
    assert disk.calls == ["open", "fstat", "read", "close"]
