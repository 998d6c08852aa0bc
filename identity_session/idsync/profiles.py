"""Profiles, and the interface of every profile store.

Sources: the pages "Store and Organize User Data" and "Aliasing" of the IDSync guide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from .trail import Fact

Identity = tuple[str, str]
"""Identity type and value. Values are compared exactly: no trimming, no case folding."""

CALLS_KEPT = 1_000
"""How many calls a store remembers: enough for a test run to look back on, and no burden to a service that runs on."""


WAIT_SECONDS = 8.0
"""How long a transaction waits for others at most. Each takes milliseconds. Who calls waits for ten seconds, and is to
hear of it before."""


@dataclass(frozen=True, slots=True, repr=False)
class Profile:
    """All that is known about one user, as it was when it was read.

    `identities` holds every value by type, those of types outside the priority included: which types make up the
    identity record is the strategy's business. A store gives the types in the order of their names, and the values
    of each in the order in which they came.
    """

    mpid: int
    sequence: int
    """Counts up with every profile created."""
    identities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source_mpid: int | None = None
    """Profile link: the anonymous profile that this user was before. For inspection only."""
    created_ms: int = 0
    last_seen_ms: int = 0
    """Unix milliseconds of the creation, and of the last call that was answered with this profile, search left out."""

    def values(self, type_: str) -> tuple[str, ...]:
        return self.identities.get(type_, ())

    def holds(self, type_: str, value: str) -> bool:
        return value in self.values(type_)

    def __repr__(self) -> str:
        return f"<Profile with {', '.join(self.identities) or 'no identities'}>"


@dataclass(frozen=True, slots=True, repr=False)
class AliasRecord:
    """An accepted alias request; times are Unix milliseconds.

    `number` counts up from 1 in order of arrival (0: not recorded yet), `state` is "pending", "done" or "failed",
    `reason` says why it failed.
    """

    request_id: str | None
    source_mpid: int
    destination_mpid: int
    start_ms: int
    end_ms: int
    scope: str
    received_ms: int
    number: int = 0
    state: str = "pending"
    reason: str | None = None
    processed_ms: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class CallRecord:
    """A call, for people who ask what was answered and why. Holds no identity values.

    `number` counts up from 1 (0: not recorded yet), `received_ms` is in Unix milliseconds, `created` says whether the
    call created the profile `mpid`, and `trail` is what led to the answer.
    """

    number: int
    received_ms: int
    endpoint: str
    status: int
    mpid: int | None
    created: bool
    trail: tuple[Fact, ...]


class Transaction(Protocol):
    """What may be read and written within one transaction. Later reads see earlier writes."""

    def holders(self, type_: str, value: str, without: Collection[str] = ()) -> Sequence[Profile]:
        """The profiles that hold this identity, and nothing of the types `without`, in order of creation."""
        ...

    def holder_mpids(self, type_: str, value: str, *, before_ms: int | None = None) -> Sequence[int]:
        """The MPIDs of all that hold this identity, in order of creation; with `before_ms` of those that were last seen
        before that moment. Costs a fraction of the profiles themselves."""
        ...

    def get(self, mpid: int) -> Profile | None:
        """The profile of this MPID."""
        ...

    def create(self, source_mpid: int | None = None, *, now_ms: int = 0, mpid: int | None = None) -> Profile:
        """A new profile without identities, created and last seen at `now_ms`, under an MPID that no other has.

        `mpid` chooses the MPID; raises ValueError if it is taken.
        """
        ...

    def put(self, profile: Profile) -> None:
        """Write a profile as it is, in place of the one of its MPID if there is one. Profiles created later follow it
        in the order of creation."""
        ...

    def seen(self, mpid: int, now_ms: int) -> None:
        """Note when a profile was last seen; nothing happens if there is none of this MPID."""
        ...

    def delete(self, mpid: int) -> bool:
        """Forget a profile: its MPID is unknown then, its values are free. Says whether there was one."""
        ...

    def delete_unseen(self, before_ms: int) -> None:
        """Forget all profiles that were last seen before a moment. Only in a transaction that names nothing."""
        ...

    def add(self, mpid: int, type_: str, value: str) -> Profile:
        """Put an identity on a profile, unless it is there. Returns the profile as it is then.

        Raises KeyError if there is no profile of this MPID.
        """
        ...

    def remove(self, mpid: int, type_: str, value: str) -> None:
        """Take an identity off a profile; nothing happens if it is not there."""
        ...

    def record_alias(self, alias: AliasRecord) -> AliasRecord:
        """Note an accepted alias request under the next number, and return it with that.

        A number of its own, above those noted before, is kept; a transaction that writes one names nothing.
        """
        ...

    def update_alias(self, alias: AliasRecord) -> None:
        """Replace the alias request of this number."""
        ...

    def record_call(self, call: CallRecord) -> CallRecord:
        """Note a call as `record_alias` notes an alias request. Only the latest 1,000 are kept."""
        ...

    def all(self) -> Sequence[Profile]:
        """Every profile in order of creation."""
        ...

    def aliases(self) -> Sequence[AliasRecord]:
        """Every accepted alias request in order of arrival."""
        ...

    def calls(self) -> Sequence[CallRecord]:
        """The calls that are kept, oldest first."""
        ...

    def clear(self) -> None:
        """Forget all profiles, alias requests and calls, and count from the beginning again. Only in a transaction
        that names nothing."""
        ...


class ProfileStore(Protocol):
    """Where profiles live. Transactions that share an identity or a profile run one after the other."""

    errors: tuple[type[Exception], ...]
    """What a transaction raises when the database is out of order, or not free in time."""

    def transaction(
        self, identities: Iterable[Identity] = (), mpid: int | None = None, seconds: float = WAIT_SECONDS
    ) -> AbstractContextManager[Transaction]:
        """Begin a transaction; an exception that leaves it undoes all it wrote.

        `seconds` is how long it may wait for others, whatever it waits for; then one of `errors` is raised, at the
        first read or write at the latest.

        `identities` are all that the request names and `mpid` the profile that it names, known before anything is
        read, so that a store which locks them one by one can do so in one order. A transaction may change the
        profiles it names or creates and those that hold an identity it names; one that names nothing has the whole
        store to itself, and may change all.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections. What was written stays; the store can not be used any more."""
        ...
