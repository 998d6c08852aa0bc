"""Damaged, newer, missing and unwritable state, as the user of a session meets it."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, session, user
from storage_helpers import (
    API_KEY,
    child,
    login,
    make_session,
    next_line,
    read_document,
    started,
    tree,
    workspace_of,
    write_document,
)

from identity_session import (
    IdentitySession,
    JsonStorage,
    NewerStorageError,
    StorageError,
)


@pytest.fixture
def journey(tmp_path: Path) -> Path:
    """A store after a journey of several users; 2 is current, and has been away once."""
    session = started(tmp_path / "store")
    for mpid in ("1", "2", "3", "2"):
        login(session, mpid).get_user().set_attribute("plan", f"plan of {mpid}")
    session.close()
    return tmp_path / "store"


@pytest.mark.parametrize("which", ["state.json", "device.json"])
@pytest.mark.parametrize("and_its_previous", [True, False])
def test_the_loss_of_any_one_file_costs_neither_the_device_nor_the_users(
    journey: Path, which: str, and_its_previous: bool
) -> None:
    device_id = make_session(journey).device_id
    for file in workspace_of(journey).glob(f"{which}*" if and_its_previous else which):
        file.unlink()
    session = started(journey)
    assert session.device_id == device_id
    assert {"100", "1", "3"} <= {user.mpid for user in session.get_users()}


def test_with_state_and_its_previous_damaged_users_and_device_are_still_there(journey: Path) -> None:
    device_id = make_session(journey).device_id
    for file in workspace_of(journey).glob("state.json*"):
        file.unlink()
        file.write_text("damaged")
    session = started(journey)
    assert session.device_id == device_id
    assert session.mpid == "100"
    assert {user.mpid for user in session.get_users()} == {"100", "1", "2", "3"}
    assert login(session, "3").get_user().attributes == {"plan": "plan of 3"}


def test_a_store_that_is_damaged_throughout_starts_afresh(journey: Path) -> None:
    for file in list(journey.rglob("*")):
        if file.is_file():
            file.unlink()
            file.write_text("damaged")
    session = started(journey)
    assert session.mpid == "100"
    assert [user.mpid for user in session.get_users()] == ["100"]
    assert session.recovered_from is not None
    assert started(journey).device_id == session.device_id


def test_state_damaged_while_the_session_runs_is_noticed_with_the_next_call(journey: Path) -> None:
    session = started(journey)
    device_id = session.device_id
    (workspace_of(journey) / "state.json").write_text("damaged")
    assert login(session, "5").http_code == 200
    assert session.recovered_from is not None
    assert (session.mpid, session.device_id) == ("5", device_id)


@pytest.mark.parametrize("which", ["state.json", "device.json"])
@pytest.mark.parametrize("checksum", ["right", "wrong"])
def test_state_of_a_newer_version_raises_and_is_left_alone(journey: Path, which: str, checksum: str) -> None:
    file = workspace_of(journey) / which
    content = read_document(file)
    content.pop("checksum")
    write_document(file, {**content, "schema_version": 2, **({"checksum": "x"} if checksum == "wrong" else {})})
    before = tree(journey)
    with pytest.raises(NewerStorageError, match="newer version of identity_session"):
        make_session(journey).start()
    assert tree(journey) == before


def test_state_that_becomes_newer_while_the_session_runs_gives_a_result_and_is_left_alone(journey: Path) -> None:
    session = started(journey)
    file = workspace_of(journey) / "state.json"
    write_document(file, read_document(file), schema_version=2)
    before = tree(journey)
    result = login(session, "5")
    assert result.http_code == -1
    assert "newer version" in result.body
    assert tree(journey) == before


# State that cannot be written


def test_a_store_that_cannot_be_made_raises_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        make_session(tmp_path / "file" / "store").start()
    with pytest.raises(StorageError):
        make_session(tmp_path / "file").start()
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_store_on_a_read_only_file_system_raises_a_storage_error_from_start(
    journey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(journey)
    opened = os.open

    def read_only(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(journey)):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    session = make_session(journey)
    assert session.mpid == "2"  # who the user is can be read all the same
    with pytest.raises(StorageError, match="Read-only file system"):
        session.start()
    assert tree(journey) == before


def test_a_folder_where_the_lock_should_be_raises_a_storage_error(tmp_path: Path) -> None:
    started(tmp_path / "store")
    lock = workspace_of(tmp_path / "store") / "lock"
    lock.unlink()
    lock.mkdir()
    with pytest.raises(StorageError, match="lock"):
        make_session(tmp_path / "store").start()


def test_a_save_that_fails_gives_minus_1_and_changes_nothing(journey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = started(journey)
    told: list[object] = []
    session.on_user_identified(lambda user, previous: told.append(user))
    before = tree(journey)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        results = [
            login(session, "5"),
            session.logout(),
            session.modify({"userIdentities": {"email": "a@example.com"}}),
        ]
        for result in results:
            assert result.http_code == -1
            assert "No space left on device" in result.body
            assert result.get_user().mpid == "2"
            assert result.get_previous_user() is None
        with pytest.raises(StorageError, match="No space left"):
            session.current_user.set_attribute("plan", "new")  # type: ignore[union-attr]
        with pytest.raises(StorageError, match="No space left"):
            session.set_opt_out(True)
    assert told == []
    assert tree(journey) == before
    assert (session.mpid, session.opted_out) == ("2", False)
    assert session.current_user.attributes == {"plan": "plan of 2"}  # type: ignore[union-attr]
    assert login(session, "5").http_code == 200
    assert len(told) == 1


def test_a_file_where_the_users_folder_should_be_gives_minus_1_and_changes_nobody(tmp_path: Path) -> None:
    session = started(tmp_path)
    (workspace_of(tmp_path) / "users").write_text("in the way")
    result = login(session, "5")
    assert result.http_code == -1
    assert "could not be saved" in result.body
    assert session.mpid == "100"
    (workspace_of(tmp_path) / "users").unlink()
    assert login(session, "5").http_code == 200


def test_a_store_that_vanishes_is_made_again(journey: Path) -> None:
    session = started(journey)
    shutil.rmtree(journey)
    assert session.mpid is None
    assert login(session, "5").http_code == 200
    assert make_session(journey).mpid == "5"


def test_too_many_open_files_do_not_cost_the_state(journey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = started(journey)
    before = tree(journey)

    def no_more(*_: Any, **__: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_more)
        assert login(session, "5").http_code == -1
        with pytest.raises(StorageError, match="Too many open files"):
            make_session(journey)
    assert tree(journey) == before
    assert session.mpid == "2"


# The lock


def test_damage_and_a_hung_lock_holder_at_once_do_not_stop_the_constructor(
    journey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("identity_session.store._RECOVERY_LOCK_SECONDS", 0.05)
    device_id = make_session(journey).device_id
    with child("hold", workspace_of(journey)) as holder:
        assert next_line(holder) == "held"
        for name in ("state.json", "device.json"):
            (workspace_of(journey) / name).write_text("damaged")
        session = make_session(journey, timeout=0.2)
        assert session.mpid == "2"
        assert session.device_id == device_id
        assert session.start().http_code == -1
        holder.kill()
        holder.wait()
    assert session.start().http_code in (200, -3)
    assert session.device_id == device_id
    assert session.recovered_from is not None


def test_a_user_may_change_while_another_thread_reads(journey: Path) -> None:
    session, done, seen = started(journey), threading.Event(), set()

    def read() -> None:
        reader = make_session(journey)
        while not done.is_set():
            seen.add(reader.mpid)
            assert reader.device_id == session.device_id
            assert {"1", "2", "3"} <= {user.mpid for user in reader.get_users()}
            reader.get_user("3").attributes  # type: ignore[union-attr]  # noqa: B018

    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            read()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    for turn in range(60):
        login(session, ("1", "2")[turn % 2])
    done.set()
    thread.join()
    assert errors == []
    assert seen <= {"1", "2"}


def test_the_state_of_one_key_is_no_business_of_another(journey: Path) -> None:
    write_document(workspace_of(journey) / "state.json", {}, schema_version=9)
    assert IdentitySession("us1-other", storage=journey).mpid is None
    with pytest.raises(NewerStorageError):
        IdentitySession(API_KEY, storage=JsonStorage(journey))


def two_users(path: Path) -> IdentitySession:
    """User 1 was current, user 2 is."""
    own = session(Scripted(user("1"), user("2")), storage=JsonStorage(path))
    own.start()
    own.login()
    return own


@pytest.mark.parametrize("name", ["state.json", "state.json.previous", "device.json"])
def test_a_start_refuses_what_a_newer_version_wrote_whichever_file_it_is(tmp_path: Path, name: str) -> None:
    two_users(tmp_path)
    (file,) = tmp_path.rglob(name)
    file.write_text('{"schema_version": 999}')
    with pytest.raises(StorageError, match="newer version"):
        session(storage=JsonStorage(tmp_path)).start()
    assert file.read_text() == '{"schema_version": 999}'


def test_damage_to_state_is_not_touched_while_the_generation_before_is_newer(tmp_path: Path) -> None:
    two_users(tmp_path)
    (state,), (previous,) = tmp_path.rglob("state.json"), tmp_path.rglob("state.json.previous")
    state.write_text("{")
    previous.write_text('{"schema_version": 999}')
    with pytest.raises(StorageError, match="newer version"):
        session(storage=JsonStorage(tmp_path))
    assert (state.read_text(), previous.read_text()) == ("{", '{"schema_version": 999}')


def test_a_damaged_generation_before_is_set_aside_and_told(tmp_path: Path) -> None:
    two_users(tmp_path)
    (previous,) = tmp_path.rglob("state.json.previous")
    previous.write_text("{")
    again = session(storage=JsonStorage(tmp_path))
    again.touch()
    again.set_opt_out(True)
    assert again.recovered_from is not None
    assert again.recovered_from.read_text() == "{"


def test_a_user_whom_a_newer_version_wrote_is_left_out_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Readers go on with the others; a call that would need that user is -1 and changes nothing."""
    own = two_users(tmp_path)
    (file,) = tmp_path.rglob("users/*.json")
    file.write_text('{"schema_version": 999}')
    assert [u.mpid for u in own.get_users()] == ["2"]
    assert own.get_user("1") is None
    assert "newer version" in caplog.text
    own._transport.answers = [user("1")]
    assert own.login().http_code == -1
    assert own.mpid == "2"
    assert file.read_text() == '{"schema_version": 999}'


def test_after_a_good_start_looking_never_raises(tmp_path: Path) -> None:
    """When the state cannot be read any more, what was read last is shown."""
    own = two_users(tmp_path)
    seen = (own.mpid, own.device_id, own.session_id, own.context, own.opted_out)
    (state,) = tmp_path.rglob("state.json")
    state.write_text('{"schema_version": 999}')
    assert (own.mpid, own.device_id, own.session_id, own.context, own.opted_out) == seen
    assert own.current_user is not None
    assert own.current_user.attributes == {}
    assert own.login().http_code == -1
    with pytest.raises(StorageError, match="newer version"):
        own.touch()


@pytest.mark.parametrize("name", ["state.json", "device.json", "users/*.json"])
def test_a_reset_leaves_alone_what_a_newer_version_wrote(tmp_path: Path, name: str) -> None:
    own = two_users(tmp_path)
    (file,) = tmp_path.rglob(name)
    file.write_text('{"schema_version": 999}')
    with pytest.raises(StorageError, match="newer version"):
        own.reset()
    assert file.exists()
