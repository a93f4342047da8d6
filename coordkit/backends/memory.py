"""`memory://name`: a store inside this process, for tests. Same contract, no durability.

The rule: it is as strict as a real store. The store orders candidates by arrival, expires leases by its own clock and
knows nothing of its clients; between them lies a link, on which `coordkit.testing` puts delays, cuts and lost replies.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from coordkit.backends.contract import (
    OBSERVE_SECONDS,
    Backend,
    Behind,
    Candidacy,
    Confirmed,
    Grant,
    Host,
    Lost,
    Renewed,
    Unknown,
)
from coordkit.clock import Clock
from coordkit.errors import ConfigError, Unavailable
from coordkit.lease import promise
from coordkit.model import CandidateInfo, FencingToken, Guarantees, LeaderInfo, check_election
from coordkit.registry import Address

T = TypeVar("T")

LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate in the queue of an election."""

    candidate: CandidateInfo
    token: int  # rises with every arrival in the store
    ttl: float
    expires: float  # on the store's clock
    metadata: str


class Link(Protocol):
    """The way from one client to the store and back."""

    async def call(self, operation: Callable[[], T]) -> T:
        """Carry a request to the store and its answer back."""
        ...

    def hint(self, deliver: Callable[[], None]) -> None:
        """Carry a notification from the store."""
        ...


class DirectLink:
    """Nothing between client and store."""

    async def call(self, operation: Callable[[], T]) -> T:
        return operation()

    def hint(self, deliver: Callable[[], None]) -> None:
        deliver()


class NamedLink:
    """The link that bears a name at the moment of the call: faults may be put on one that is in use."""

    def __init__(self, store: str, name: str) -> None:
        self._key = (store, name)

    async def call(self, operation: Callable[[], T]) -> T:
        return await links.get(self._key, _DIRECT).call(operation)

    def hint(self, deliver: Callable[[], None]) -> None:
        links.get(self._key, _DIRECT).hint(deliver)


_DIRECT = DirectLink()


async def looked(link: Link, operation: Callable[[], T]) -> T:
    """A read that no caller bounds, for it is part of a wait: `Unavailable` if no answer comes."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await link.call(operation)
    except TimeoutError as error:
        raise Unavailable(f"no answer within {LOOK_SECONDS:g} s", backend="memory", operation="look") from error


class MemoryStore:
    """The store: for each election a queue of leases. Every method is atomic and expires what is due first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[str, list[Row]] = {}
        self._newest = 0
        # Numbered, so that hints go out in the order of listening: a run on virtual time can be replayed.
        self._listeners: weakref.WeakValueDictionary[int, Listener] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()

    def enter(self, election: str, candidate: CandidateInfo, ttl: float) -> tuple[Row, Row]:
        """Join the queue, or refresh the place already held; returns our row and the first one."""
        queue = self._queue(election)
        expires = self._time() + ttl
        for place, row in enumerate(queue):
            if row.candidate.id == candidate.id:
                queue[place] = replace(row, expires=expires)
                return queue[place], queue[0]
        # After amnesia the counter starts at the clock, so that tokens rise all the same.
        self._newest = max(self._newest + 1, int(self._clock.wall() * 1e6))
        mine = Row(candidate, self._newest, ttl, expires, candidate.metadata)
        queue.append(mine)
        self._hint(election)
        return mine, queue[0]

    def renew(self, election: str, candidate_id: str) -> bool:
        """Extend the first row if it is ours."""
        queue = self._queue(election)
        if not queue or queue[0].candidate.id != candidate_id:
            return False
        queue[0] = replace(queue[0], expires=self._time() + queue[0].ttl)
        return True

    def remove(self, election: str, candidate_id: str) -> None:
        """Leave the queue."""
        queue = self._queue(election)
        kept = [row for row in queue if row.candidate.id != candidate_id]
        if len(kept) != len(queue):
            self._queues[election] = kept
            self._hint(election)

    def proclaim(self, election: str, candidate_id: str, metadata: str) -> bool:
        """Set the leader's metadata if we lead."""
        queue = self._queue(election)
        if not queue or queue[0].candidate.id != candidate_id:
            return False
        queue[0] = replace(queue[0], metadata=metadata)
        self._hint(election)
        return True

    def rows(self, election: str) -> tuple[Row, ...]:
        """The queue, first place first."""
        return tuple(self._queue(election))

    def elections(self) -> tuple[str, ...]:
        """Those that have a candidate."""
        return tuple(name for name in list(self._queues) if self._queue(name))

    def forget(self) -> None:
        """Amnesia: the store loses everything it knew, its counter too."""
        elections = list(self._queues)
        self._queues.clear()
        self._newest = 0
        for election in elections:
            self._hint(election)

    def expire(self, election: str) -> None:
        """The lease of the first row ends now, whatever its holder believes."""
        queue = self._queue(election)
        if queue:
            del queue[0]
            self._hint(election)

    def seconds_left(self, row: Row) -> float:
        """Until the store expires this row."""
        return max(0.0, row.expires - self._time())

    def listen(self, election: str, link: Link) -> Listener:
        """Be told of movements in an election, for as long as the listener is kept."""
        listener = Listener(election, link)
        self._listeners[next(self._numbers)] = listener
        return listener

    def _queue(self, election: str) -> list[Row]:
        now = self._time()
        queue = self._queues.setdefault(election, [])
        kept = [row for row in queue if row.expires > now]
        if len(kept) != len(queue):
            self._queues[election] = queue = kept
            self._hint(election)
        return queue

    def _time(self) -> float:
        return self._clock.now().mono

    def _hint(self, election: str) -> None:
        for listener in list(self._listeners.values()):
            if listener.election == election:
                listener.link.hint(listener.moved.set)


class Listener:
    """Set when something may have moved in an election."""

    def __init__(self, election: str, link: Link) -> None:
        self.election = election
        self.link = link
        self.moved = asyncio.Event()


class MemoryBackend:
    """One client of a store in this process."""

    def __init__(self, store: MemoryStore, link: Link, host: Host, drift: float) -> None:
        self.guarantees = _GUARANTEES
        self.drift = drift
        self._store = store
        self._link = link
        self._host = host

    async def open(self) -> None:
        await self._link.call(lambda: None)

    async def close(self) -> None:
        """There is no connection."""

    def candidacy(self, election: str, candidate: CandidateInfo, ttl: float) -> Candidacy:
        return MemoryCandidacy(self._store, self._link, self._host.clock, election, candidate, ttl, self.drift)

    async def renew(self, held: Sequence[Grant]) -> Sequence[Renewed | Lost | Unknown]:
        sent = self._host.clock.now()
        mine = [candidacy for grant in held if isinstance(candidacy := grant.candidacy, MemoryCandidacy)]
        kept = await self._link.call(lambda: [self._store.renew(each.election, each.candidate.id) for each in mine])
        return [
            Renewed(promise(sent, each.ttl, self.drift))
            if alive
            else Lost("the store has no such entry in first place")
            for each, alive in zip(mine, kept, strict=True)
        ]

    async def leader(self, election: str) -> LeaderInfo | None:
        rows = await self._link.call(lambda: self._store.rows(election))
        if not rows:
            return None
        return LeaderInfo(rows[0].candidate, FencingToken(election, rows[0].token), rows[0].metadata)

    async def candidates(self, election: str) -> Sequence[CandidateInfo]:
        rows = await self._link.call(lambda: self._store.rows(election))
        return [row.candidate for row in rows]

    async def changes(self, election: str) -> AsyncIterator[None]:
        listener = self._store.listen(election, self._link)
        while True:
            listener.moved.clear()
            yield
            rows = await looked(self._link, lambda: self._store.rows(election))
            try:
                due = self._store.seconds_left(rows[0]) if rows else OBSERVE_SECONDS
                async with asyncio.timeout(min(due, OBSERVE_SECONDS)):
                    await listener.moved.wait()
            except TimeoutError:
                continue


class MemoryCandidacy:
    """One candidate in the queue."""

    def __init__(
        self,
        store: MemoryStore,
        link: Link,
        clock: Clock,
        election: str,
        candidate: CandidateInfo,
        ttl: float,
        drift: float,
    ) -> None:
        self.election = election
        self.candidate = candidate
        self.ttl = ttl
        self._store = store
        self._link = link
        self._clock = clock
        self._drift = drift
        self._listener = store.listen(election, link)

    async def attempt(self) -> Grant | Behind:
        self._listener.moved.clear()
        sent = self._clock.now()
        mine, first = await self._link.call(lambda: self._store.enter(self.election, self.candidate, self.ttl))
        if mine.token == first.token:
            return Grant(self, mine.token, promise(sent, self.ttl, self._drift))
        # A waiting place has a lease as well, so look again before it runs out.
        return Behind(alive=True, wait=min(self._store.seconds_left(first), self.ttl / 3))

    async def changed(self) -> None:
        await self._listener.moved.wait()

    async def revoked(self) -> None:
        while True:
            await self._listener.moved.wait()
            self._listener.moved.clear()
            rows = await looked(self._link, lambda: self._store.rows(self.election))
            if not rows or rows[0].candidate.id != self.candidate.id:
                return

    async def confirm(self, grant: Grant) -> Confirmed | Lost:
        rows = await self._link.call(lambda: self._store.rows(self.election))
        if rows and rows[0].token == grant.token:
            return Confirmed()
        return Lost("the store has no such entry in first place")

    async def proclaim(self, grant: Grant, metadata: str) -> Confirmed | Lost:
        election, mine = self.election, self.candidate.id
        if await self._link.call(lambda: self._store.proclaim(election, mine, metadata)):
            return Confirmed()
        return Lost("the store has no such entry in first place")

    async def resign(self) -> None:
        await self._link.call(lambda: self._store.remove(self.election, self.candidate.id))


_GUARANTEES = Guarantees(
    backend="memory",
    token="a counter of the store; strictly rising for the life of the process",
    fifo=True,
    survives=("a candidate that is paused, cut off or dropped", "lost and late replies", "lost hints"),
    not_covered=(
        "the end of the process: the store goes with it",
        "other processes: each has a store of its own",
        "a store that forgets under a leader (coordkit.testing's amnesia): two terms until the next renewal",
    ),
)

# By name. Stores and links of the process's electors; coordkit.testing reaches for them to inject faults.
stores: dict[str, MemoryStore] = {}
links: dict[tuple[str, str], Link] = {}


def check(address: Address) -> None:
    """`memory://name`: one name, no path, no port."""
    if len(address.hosts) != 1 or address.hosts[0][1] is not None or address.path not in ("", "/"):
        raise ConfigError("a memory URL reads memory://name")
    check_election(address.hosts[0][0])
    if address.user is not None:
        raise ConfigError("memory:// takes no credentials")


def guarantees(address: Address) -> Guarantees:
    """The same for every memory store."""
    return _GUARANTEES


def connect(address: Address, host: Host) -> Backend:
    """A client of the store of that name in this process; `link` names the way to it."""
    name, link = address.hosts[0][0], str(address.option("link", ""))
    store = stores.setdefault(name, MemoryStore(host.clock))
    return MemoryBackend(store, NamedLink(name, link), host, address.drift)
