"""The contract of every profile store, on memory, SQLite and PostgreSQL."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from store_helpers import ALIAS, CALL, contents, counter, opened

from identity_session.idsync.profiles import CALLS_KEPT, Identity, Profile, ProfileStore, Transaction
from identity_session.idsync.stores import open_store
from identity_session.idsync.trail import Step


def test_an_identity_is_found_while_it_is_held(database: str) -> None:
    """Holders follow adding and removing, within the transaction and after it."""
    with opened(database) as store:
        with store.transaction() as profiles:
            first, second = profiles.create().mpid, profiles.create().mpid
            for mpid in (second, first, second):
                profiles.add(mpid, "email", "ed@example.com")
            assert [p.mpid for p in profiles.holders("email", "ed@example.com")] == [first, second]
            assert [p.values("email") for p in profiles.all()] == [("ed@example.com",), ("ed@example.com",)]
        with store.transaction() as profiles:
            profiles.remove(first, "email", "ed@example.com")
            profiles.remove(first, "email", "ed@example.com")
            profiles.remove(99, "email", "ed@example.com")
            assert [p.mpid for p in profiles.holders("email", "ed@example.com")] == [second]
            assert list(profiles.holders("other", "ed@example.com")) == []
            profile = profiles.get(first)
            assert profile is not None
            assert profile.identities == {}
            assert profiles.get(99) is None


def test_values_are_compared_exactly(database: str) -> None:
    """No trimming, no case folding, no Unicode normalisation; long values and those that look like SQL included."""
    values = [
        "a",
        "A",
        "a ",
        " a",
        "é",
        "e\u0301",
        "%",
        "_",
        "\\",
        "'; DROP TABLE idsync_profile; --",
        ":value",
        "%(mpid)s",
    ]
    values += ["\U0001f600", "x" * 4096, "x" * 4095 + "y", "".join(chr(0x4E00 + n) for n in range(4096))]
    with opened(database) as store:
        with store.transaction() as profiles:
            for value in values:
                profiles.add(profiles.create().mpid, "other", value)
        with store.transaction() as profiles:
            for mpid, value in enumerate(values, 1):
                assert [(p.mpid, p.values("other")) for p in profiles.holders("other", value)] == [(mpid, (value,))]


def test_mpids_are_signed_numbers_of_64_bits(database: str) -> None:
    """Both ends of the range come back as they went in, as profiles, sources and in records."""
    ends = [-(2**63), 2**63 - 1]
    with opened(database, iter(ends).__next__) as store, store.transaction() as profiles:
        assert [profiles.create(source_mpid=mpid).mpid for mpid in ends] == ends
        assert [(p.mpid, p.source_mpid) for p in profiles.all()] == [(mpid, mpid) for mpid in ends]
        assert profiles.record_call(replace(CALL, mpid=ends[0])) == profiles.calls()[0]
        assert profiles.record_alias(replace(ALIAS, source_mpid=ends[0], end_ms=ends[1])) == profiles.aliases()[0]


def test_an_mpid_in_use_is_drawn_again(database: str) -> None:
    """Two profiles never share an MPID, even if chance would have it."""
    with opened(database, iter([7, 7, 7, 8]).__next__) as store, store.transaction() as profiles:
        assert [profiles.create().mpid, profiles.create().mpid] == [7, 8]


def test_an_mpid_may_be_chosen_while_it_is_free(database: str) -> None:
    """A taken one is refused, and the transaction may go on."""
    with opened(database) as store, store.transaction([("email", "a")], 5) as profiles:
        created = profiles.create(3, now_ms=40, mpid=5)
        assert (created.mpid, created.source_mpid, created.created_ms, created.last_seen_ms) == (5, 3, 40, 40)
        with pytest.raises(ValueError, match="has this MPID already"):
            profiles.create(mpid=5)
        assert profiles.add(5, "email", "a").identities == {"email": ("a",)}
        assert [p.mpid for p in profiles.all()] == [5]


def test_a_profile_gives_types_by_name_and_values_as_they_came(database: str) -> None:
    """Whatever happened in between; a value that is there is not moved."""
    with opened(database) as store:
        with store.transaction() as profiles:
            mpid = profiles.create().mpid
            for type_, value in (("other", "b"), ("email", "z"), ("other", "a"), ("email", "y"), ("other", "b")):
                profile = profiles.add(mpid, type_, value)
            assert list(profile.identities.items()) == [("email", ("z", "y")), ("other", ("b", "a"))]
            profiles.remove(mpid, "email", "z")
        with store.transaction() as profiles:
            assert list(profiles.add(mpid, "email", "z").identities["email"]) == ["y", "z"]


def test_nothing_is_added_to_a_profile_that_is_not_there(database: str) -> None:
    """It is the caller's mistake, unlike the removal of what is gone."""
    with opened(database) as store, store.transaction() as profiles:
        with pytest.raises(KeyError):
            profiles.add(99, "email", "a")
        profiles.seen(99, 5)
        assert list(profiles.all()) == []


def test_profiles_come_in_order_of_creation(database: str) -> None:
    """A later change does not move a profile."""
    with opened(database, iter([30, 10, 20]).__next__) as store:
        with store.transaction() as profiles:
            for now_ms in (1, 2, 3):
                profiles.create(now_ms=now_ms)
        with store.transaction() as profiles:
            profiles.add(30, "email", "a")
            profiles.add(10, "email", "a")
            profiles.seen(10, 9)
            assert [p.mpid for p in profiles.all()] == [30, 10, 20]
            assert [p.mpid for p in profiles.holders("email", "a")] == [30, 10]
            assert [(p.created_ms, p.last_seen_ms) for p in profiles.all()] == [(1, 1), (2, 9), (3, 3)]


def test_a_profile_is_put_as_it_is(database: str) -> None:
    """In place of the one of its MPID; profiles created later follow it."""
    put = Profile(7, 1_000, {"email": ("b", "a"), "other": ("o",)}, -4, 10, 20)
    with opened(database) as store:
        with store.transaction() as profiles:
            profiles.put(Profile(7, 3, {"email": ("old",)}))
            profiles.put(put)
        with store.transaction() as profiles:
            assert profiles.get(7) == put
            assert list(profiles.holders("email", "old")) == []
            assert list(profiles.holders("other", "o")) == [put]
            assert profiles.create().sequence > 1_000
            profiles.put(Profile(9, 500))
            assert profiles.create().sequence > 1_000
            assert [p.mpid for p in profiles.all()] == [9, 7, 1, 2]


def test_alias_requests_are_numbered_and_may_be_replaced(database: str) -> None:
    """In order of arrival; a number of its own is kept, and later ones are above it."""
    with opened(database) as store:
        with store.transaction() as profiles:
            first = profiles.record_alias(ALIAS)
            assert first == replace(ALIAS, number=first.number)
            assert profiles.record_alias(replace(ALIAS, request_id=None, number=40)).number == 40
            assert profiles.record_alias(ALIAS).number > 40
            done = replace(first, state="failed", reason="late", processed_ms=99, request_id="other", scope="mpid")
            profiles.update_alias(done)
            profiles.update_alias(replace(done, number=1_000))
        with store.transaction() as profiles:
            assert profiles.aliases()[0] == done
            assert [alias.state for alias in profiles.aliases()] == ["failed", "pending", "pending"]


def test_calls_are_numbered_and_read_from_the_end(database: str) -> None:
    """Oldest first; a number of its own is kept, and later ones are above it."""
    with opened(database) as store:
        with store.transaction([("email", "a")]) as profiles:
            assert list(profiles.calls()) == []
            first = profiles.record_call(CALL)
            assert first == replace(CALL, number=first.number)
            refused = profiles.record_call(replace(CALL, status=400, mpid=None, created=False, trail=()))
            assert refused.number > first.number
        with store.transaction() as profiles:
            profiles.record_call(replace(CALL, number=40))
            last = profiles.record_call(CALL)
            assert last.number > 40
            assert [call.number for call in profiles.calls()] == [first.number, refused.number, 40, last.number]
            assert list(profiles.calls())[2:] == [replace(CALL, number=40), last]
            assert profiles.calls()[1] == refused


def test_only_the_latest_calls_are_kept(database: str) -> None:
    """1,000 of them."""
    with opened(database) as store:
        with store.transaction() as profiles:
            numbers = [profiles.record_call(CALL).number for _ in range(2 * CALLS_KEPT + 110)]
            assert [call.number for call in profiles.calls()] == numbers[-CALLS_KEPT:]
        with store.transaction() as profiles:
            assert [call.number for call in profiles.calls()] == numbers[-CALLS_KEPT:]


def test_after_a_reset_all_begins_anew(database: str) -> None:
    """Profiles, alias requests and calls are gone, and numbers count from 1."""
    with opened(database) as store:
        with store.transaction() as profiles:
            profiles.add(profiles.create().mpid, "email", "a")
            profiles.put(Profile(40, 40, {"email": ("a",)}))
            profiles.record_alias(replace(ALIAS, number=40))
            profiles.record_call(replace(CALL, number=40))
        with store.transaction() as profiles:
            profiles.clear()
        assert contents(store) == ([], [], [])
        with store.transaction() as profiles:
            assert list(profiles.holders("email", "a")) == []
            assert (profiles.create().sequence, profiles.create().sequence) == (1, 2)
            assert (profiles.record_alias(ALIAS).number, profiles.record_call(CALL).number) == (1, 1)


def test_a_deleted_profile_is_nowhere_and_its_values_are_free(database: str) -> None:
    """Others that hold the same values keep them, and the MPID may be given again."""
    with opened(database) as store:
        with store.transaction() as profiles:
            first, second = profiles.create().mpid, profiles.create().mpid
            for mpid in (first, second):
                profiles.add(mpid, "email", "a")
                profiles.add(mpid, "other", str(mpid))
        with store.transaction(mpid=first) as profiles:
            assert profiles.delete(first) is True
            assert profiles.delete(first) is False
            assert profiles.delete(99) is False
        with store.transaction() as profiles:
            assert [p.mpid for p in profiles.all()] == [p.mpid for p in profiles.holders("email", "a")] == [second]
            assert (profiles.get(first), list(profiles.holders("other", str(first)))) == (None, [])
            assert profiles.create(mpid=first).identities == {}


def test_profiles_last_seen_before_a_moment_are_deleted(database: str) -> None:
    """Those seen at it stay."""
    with opened(database) as store:
        with store.transaction() as profiles:
            for now_ms in (1, 2, 3, 4):
                profiles.add(profiles.create(now_ms=now_ms).mpid, "email", "a")
            profiles.seen(1, 9)
            profiles.delete_unseen(3)
        with store.transaction() as profiles:
            assert [p.mpid for p in profiles.all()] == [p.mpid for p in profiles.holders("email", "a")] == [1, 3, 4]


def test_a_failed_transaction_leaves_nothing(database: str) -> None:
    """Whatever it wrote is undone, whatever the reason, and the next one begins as if it had not been."""
    with opened(database) as store:
        with store.transaction() as profiles:
            mpid = profiles.create().mpid
            profiles.add(mpid, "email", "a")
            profiles.record_alias(ALIAS)
            profiles.record_call(CALL)
        before = contents(store)

        def interrupted() -> None:
            with store.transaction() as profiles:
                profiles.add(mpid, "email", "b")
                profiles.remove(mpid, "email", "a")
                profiles.seen(mpid, 99)
                profiles.delete(mpid)
                profiles.clear()
                profiles.put(Profile(8, 80, {"email": ("a",)}))
                profiles.add(profiles.create().mpid, "email", "a")
                profiles.record_alias(ALIAS)
                profiles.record_call(CALL)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert contents(store) == before
        with store.transaction() as profiles:
            assert [p.mpid for p in profiles.holders("email", "a")] == [mpid]
            assert list(profiles.holders("email", "b")) == []


def test_closing_twice_is_closing(database: str) -> None:
    """Whoever is unsure whether a store is closed may close it."""
    store = open_store(database, counter())
    store.close()
    store.close()


TYPES, VALUES, MPIDS = ("email", "other", "ios_idfv"), ("a", "b", "c"), range(1, 9)


def write_anything(profiles: Transaction, chance: random.Random) -> None:
    type_, value, mpid = chance.choice(TYPES), chance.choice(VALUES), chance.choice(MPIDS)
    match chance.choice(
        ["create", "put", "seen", "add", "add", "remove", "delete", "unseen", "alias", "update", "call", "clear"]
    ):
        case "create":
            profiles.create(chance.choice([None, mpid]), now_ms=chance.randrange(100))
        case "put":
            profiles.put(Profile(mpid, 0, {type_: (value, "z"), "facebook": ()}, None, 1, 2))
        case "seen":
            profiles.seen(mpid, chance.randrange(100))
        case "add" if profiles.get(mpid):
            profiles.add(mpid, type_, value)
        case "remove":
            profiles.remove(mpid, type_, value)
        case "delete":
            profiles.delete(mpid)
        case "unseen":
            profiles.delete_unseen(chance.randrange(10))
        case "alias":
            profiles.record_alias(replace(ALIAS, request_id=chance.choice([None, value])))
        case "update" if profiles.aliases():
            profiles.update_alias(replace(profiles.aliases()[-1], state="done"))
        case "call":
            profiles.record_call(replace(CALL, trail=((Step.TOLD, value),)))
        case "clear" if chance.random() < 0.2:
            profiles.clear()


def write_transaction(store: ProfileStore, chance: random.Random) -> None:
    try:
        with store.transaction() as profiles:
            for _ in range(chance.randrange(8)):
                write_anything(profiles, chance)
            if chance.random() < 0.3:
                raise InterruptedError
    except InterruptedError:
        pass


@pytest.mark.parametrize("seed", range(3))
def test_every_store_does_what_the_one_in_memory_does(database: str, seed: int) -> None:
    """Any series of transactions, failed ones among them, leaves the same in all of them, and lookups agree."""
    with opened(database, counter(9)) as store, opened(":memory:", counter(9)) as model:
        chances = random.Random(seed), random.Random(seed)
        for _ in range(60):
            write_transaction(store, chances[0])
            write_transaction(model, chances[1])
            assert contents(store) == contents(model)
        with store.transaction() as profiles:
            for type_ in TYPES:
                for value in VALUES:
                    holders = [p for p in profiles.all() if p.holds(type_, value)]
                    assert list(profiles.holders(type_, value)) == holders
                    assert list(profiles.holder_mpids(type_, value)) == [p.mpid for p in holders]
                    for without in ([], TYPES[:1], TYPES[1:], ["customerid"]):
                        left = [p for p in holders if not any(p.values(each) for each in without)]
                        assert list(profiles.holders(type_, value, without)) == left
                    for before_ms in (0, 3, 50, 100):
                        unseen = [p.mpid for p in holders if p.last_seen_ms < before_ms]
                        assert list(profiles.holder_mpids(type_, value, before_ms=before_ms)) == unseen


class Second:
    """A transaction in a thread of its own, begun while another one is under way; notes the profiles that it sees."""

    def __init__(self, store: ProfileStore, identities: Sequence[Identity] = ()) -> None:
        self.seen: list[Profile] = []
        self._store, self._identities = store, identities
        self._thread = threading.Thread(target=self._run)

    def begin(self) -> None:
        """Begin, and come to an end unless the other one is in the way."""
        self._thread.start()
        self._thread.join(0.3)

    def end(self) -> list[Profile]:
        self._thread.join(10)
        return self.seen

    def _run(self) -> None:
        with self._store.transaction(self._identities) as profiles:
            self.seen.extend(profiles.all())


@pytest.mark.parametrize(
    "identities", [[("customerid", "2"), ("other", "tablet")], []], ids=["by another identity", "whole store"]
)
def test_transactions_that_share_a_profile_run_one_after_the_other(
    database: str, identities: Sequence[Identity]
) -> None:
    """Even if they name different identities: else two calls could each give a profile its one immutable ID."""
    with opened(database) as store:
        with store.transaction() as profiles:
            mpid = profiles.create().mpid
            profiles.add(mpid, "ios_idfv", "phone")
            profiles.add(mpid, "other", "tablet")
        second = Second(store, identities)
        with store.transaction([("customerid", "1"), ("ios_idfv", "phone")]) as profiles:
            assert profiles.holders("ios_idfv", "phone")
            second.begin()
            profiles.add(mpid, "customerid", "1")
        assert [profile.values("customerid") for profile in second.end()] == [("1",)]


@pytest.mark.parametrize("names", [{}, {"identities": [("email", "a")]}, {"mpid": 1}], ids=["all", "value", "mpid"])
def test_transactions_that_name_the_same_run_one_after_the_other(database: str, names: dict) -> None:
    """A value, an MPID or the whole store: a counter that many threads raise loses none of their steps."""
    with opened(database) as store:
        with store.transaction() as profiles:
            profiles.create()

        def raise_counter() -> None:
            for _ in range(10):
                with store.transaction(**names) as profiles:
                    profile = profiles.get(1)
                    assert profile is not None
                    profiles.seen(1, profile.last_seen_ms + 1)

        threads = [threading.Thread(target=raise_counter) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert contents(store)[0][0].last_seen_ms == 40


def test_what_was_written_outlives_the_process(shared_database: str) -> None:
    """Everything is there after closing and opening, and numbers go on."""
    with opened(shared_database) as store:
        with store.transaction() as profiles:
            for now_ms in (5, 6):
                profiles.add(profiles.create(9, now_ms=now_ms).mpid, "email", "a")
            sequence = profiles.create().sequence
            profiles.put(Profile(50, 50, {"other": ("x", "y")}))
            alias, call = profiles.record_alias(ALIAS), profiles.record_call(CALL)
        before = contents(store)
    with opened(shared_database) as store:
        assert contents(store) == before
        with store.transaction() as profiles:
            # The MPIDs 1 to 3 are drawn once more, and skipped.
            created = profiles.create()
            assert (created.mpid, created.sequence > max(sequence, 50)) == (4, True)
            assert profiles.record_alias(ALIAS).number > alias.number
            assert profiles.record_call(CALL).number > call.number


def test_two_open_stores_see_one_state(shared_database: str) -> None:
    """What one commits, the other reads next."""
    with opened(shared_database) as one, opened(shared_database) as other:
        with one.transaction([("email", "a")]) as profiles:
            profiles.add(profiles.create().mpid, "email", "a")
        with other.transaction([("email", "a")]) as profiles:
            assert [p.mpid for p in profiles.holders("email", "a")] == [1]
            profiles.remove(1, "email", "a")
        with one.transaction([("email", "a")]) as profiles:
            assert list(profiles.holders("email", "a")) == []


def test_stores_that_draw_the_same_mpids_at_the_same_time_get_different_ones(shared_database: str) -> None:
    """Two processes of a service with one seed draw the same; whoever comes second draws again."""
    with opened(shared_database) as one, opened(shared_database) as other:

        def create(store: ProfileStore) -> None:
            for number in range(20):
                with store.transaction([("other", f"{id(store)} {number}")]) as profiles:
                    profiles.create()

        threads = [threading.Thread(target=create, args=(store,)) for store in (one, other, one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(profile.mpid for profile in contents(one)[0]) == list(range(1, 81))


@pytest.mark.parametrize("database", ["", "mysql://localhost/db", "sqlite:///profiles.db"])
def test_other_databases_are_refused(database: str) -> None:
    """Rather than taken for the path of a file."""
    with pytest.raises(ValueError, match="is not supported"):
        open_store(database, counter())
