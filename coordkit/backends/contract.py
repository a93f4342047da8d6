"""What a backend must do, and what it may assume. Implement this to add a store.

The rule: an answer is believed only if the store itself ordered it (linearizable) and it shows our own entry,
live, in first place. Everything else is a hint, and a hint may come late, twice or never: correctness rests on
`attempt` and on clocks, so a lost wake-up delays and never deadlocks.

All methods run on one asyncio loop, the host's. They may be cancelled at every await; whatever a cancelled or
failed call left in the store is removed by a later `resign`, which compares the candidate's id and so never hits
another's entry. Exceptions are `BackendError`s, translated at one door per adapter, `raise ... from`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from coordkit.clock import Clock
from coordkit.lease import Promise
from coordkit.model import CandidateInfo, Guarantees, LeaderInfo

T = TypeVar("T")

OBSERVE_SECONDS = 5.0  # at the latest after so long an observer looks again, whatever hint was lost


@dataclass(frozen=True, slots=True)
class Grant:
    """An attempt has won: our own entry is live and first. `promise` counts from before it was asked for.

    `ttl`: seconds that the store has granted, where they are not those that were asked for. `pace`: seconds from one
    renewal to the next, where the store needs to hear of us more often than thrice in a ttl.
    """

    candidacy: Candidacy
    token: int
    promise: Promise
    ttl: float | None = None
    pace: float | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """An attempt has not won.

    `alive`: another leader was seen alive DURING this attempt (where the store itself expires entries, a
    first-placed entry is one). `wait`: seconds, by this waiter's clock, after which an attempt may succeed
    although no hint came; None where only the store knows.
    """

    alive: bool
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class Renewed:
    """The lease was extended: the new promise replaces the old one, if that has not run out meanwhile."""

    promise: Promise


@dataclass(frozen=True, slots=True)
class Lost:
    """The store says that the entry is gone or another's. Final."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer that can be believed. Never extends, never ends a term: the deadline stands."""

    cause: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A linearizable read, made after the call, found our entry live and first."""


class Log(Protocol):
    """A logger that never blocks its caller; records are handled elsewhere."""

    def info(self, message: str, *values: object) -> None: ...
    def warning(self, message: str, *values: object) -> None: ...
    def error(self, message: str, *values: object) -> None: ...
    def flush(self, timeout: float) -> None: ...


class Journal(Protocol):
    """Writes what happened to terms, before their bodies can act on it. See `coordkit.journal`."""

    def write(self, event: str, /, **fields: object) -> None: ...


class Host(Protocol):
    """Where the core runs: the engine of this process, or a simulated one."""

    clock: Clock
    chance: random.Random
    log: Log
    journal: Journal

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a long-lived task in an empty context; its failure is logged, never swallowed."""
        ...

    async def offload(self, call: Callable[[], T]) -> T:
        """Run the application's code on a thread of its own. Cancelling stops the wait, not the code."""
        ...


class Candidacy(Protocol):
    """One candidate in one election of one store: made by `Backend.candidacy`, without I/O."""

    async def attempt(self) -> Grant | Behind:
        """One bounded try to be first; never waits for others. May be repeated after any failure."""
        ...

    async def changed(self) -> None:
        """Return when an attempt may now succeed, counting what happened since the last attempt began."""
        ...

    async def revoked(self) -> None:
        """Return when the entry of a won grant seems to be gone; the caller then renews to be sure."""
        ...

    async def confirm(self, grant: Grant) -> Confirmed | Lost:
        """Ask the store itself whether the grant stands, with a read that is linearizable."""
        ...

    async def proclaim(self, grant: Grant, metadata: str) -> Confirmed | Lost:
        """Publish the leader's metadata while the grant stands."""
        ...

    async def resign(self) -> None:
        """Remove whatever this candidate has in the store: a won entry, a place in the queue, or nothing."""
        ...


class Backend(Protocol):
    """One connection to one store, shared by all elections of the process that use it."""

    guarantees: Guarantees
    drift: float  # by which fraction clocks may differ; enters every promise and every wait

    async def open(self) -> None:
        """Connect and check that the store can keep the promise. May be called again after a failure."""
        ...

    async def close(self) -> None:
        """Let go of the connection. Releases no entry: that is `resign`'s."""
        ...

    def candidacy(self, election: str, candidate: CandidateInfo, ttl: float) -> Candidacy:
        """A candidate of `election`, who has nothing in the store yet."""
        ...

    async def renew(self, held: Sequence[Grant]) -> Sequence[Renewed | Lost | Unknown]:
        """Extend ALL these grants in one go; one answer each, in their order. All have the same ttl."""
        ...

    async def leader(self, election: str) -> LeaderInfo | None:
        """Who leads by the store's own order; None is a vacancy, never a failure."""
        ...

    async def candidates(self, election: str) -> Sequence[CandidateInfo]:
        """All candidates in queue order where the store has a queue, else the leader alone."""
        ...

    def changes(self, election: str) -> AsyncIterator[None]:
        """Yields when something may have moved in `election`; the first one at once."""
        ...
