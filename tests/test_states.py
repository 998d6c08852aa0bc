"""The table of what is legal when, read aloud, and the call slot."""

from __future__ import annotations

import threading

import pytest

from identity_session.errors import HTTPCodes
from identity_session.exchange import Call
from identity_session.states import REFUSAL_TEXTS, REFUSALS, CallSlot, Condition, Holder, refusal

NOBODY, SHUT, BUSY = Condition.NOBODY, Condition.SHUT, Condition.BUSY
IDENTITY_CALLS = [Call.IDENTIFY, Call.LOGIN, Call.LOGOUT]


def test_every_call_has_a_row() -> None:
    assert set(REFUSALS) == set(Call)


def test_every_refusal_has_a_text() -> None:
    assert {code for row in REFUSALS.values() for code in row.values()} == set(REFUSAL_TEXTS)


@pytest.mark.parametrize("call", Call)
def test_nothing_stands_in_the_way_of_a_call_without_conditions(call: Call) -> None:
    assert refusal(call, frozenset()) is None


@pytest.mark.parametrize("call", Call)
def test_opting_out_stops_every_call(call: Call) -> None:
    assert refusal(call, frozenset({SHUT})) == HTTPCodes.LOGGING_DISABLED_OR_MISSING_API_KEY


@pytest.mark.parametrize("call", Call)
def test_only_modify_needs_a_user(call: Call) -> None:
    expected = HTTPCodes.VALIDATION_ISSUE if call is Call.MODIFY else None
    assert refusal(call, frozenset({NOBODY})) == expected


@pytest.mark.parametrize("call", Call)
def test_search_and_alias_run_beside_an_identity_call(call: Call) -> None:
    expected = None if call in (Call.SEARCH, Call.ALIAS) else HTTPCodes.ACTIVE_IDENTITY_REQUEST
    assert refusal(call, frozenset({BUSY})) == expected


def test_a_missing_user_outranks_opting_out_and_that_outranks_a_call_in_flight() -> None:
    assert refusal(Call.MODIFY, frozenset(Condition)) == HTTPCodes.VALIDATION_ISSUE
    for call in IDENTITY_CALLS:
        assert refusal(call, frozenset({SHUT, BUSY})) == HTTPCodes.LOGGING_DISABLED_OR_MISSING_API_KEY


def test_the_slot_is_taken_once() -> None:
    slot, first, second = CallSlot(), Holder(), Holder()
    assert slot.take(first)
    assert not slot.take(second)
    slot.free(second)
    assert not slot.take(second)
    slot.free(first)
    assert slot.take(second)


def test_a_slot_whose_holder_is_gone_is_free() -> None:
    """An interrupt may have come in the moment between taking it and being about to give it back."""
    slot, holder = CallSlot(), Holder()
    assert slot.take(holder)
    del holder
    assert slot.take(Holder())


def test_of_many_threads_one_takes_the_slot() -> None:
    slot, barrier, taken = CallSlot(), threading.Barrier(16, timeout=30), []
    holders = [Holder() for _ in range(16)]

    def race(holder: Holder) -> None:
        barrier.wait()
        if slot.take(holder):
            taken.append(1)

    threads = [threading.Thread(target=race, args=(holder,)) for holder in holders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_another_thread_may_free_it() -> None:
    slot, holder = CallSlot(), Holder()
    slot.take(holder)
    thread = threading.Thread(target=slot.free, args=(holder,))
    thread.start()
    thread.join()
    assert slot.take(Holder())
