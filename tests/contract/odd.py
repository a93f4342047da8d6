"""`odd://name`: the memory store behind an adapter that misbehaves as no adapter should, and as some clients do.

The rule: what is ordered for an operation of one store happens once, in the order of ordering, and on the engine;
every other call goes through. So each test says exactly which call goes wrong, and how.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from coordkit.backends import memory
from coordkit.backends.contract import Backend, Behind, Candidacy, Confirmed, Grant, Host, Lost, Renewed, Unknown
from coordkit.model import CandidateInfo, Guarantees, LeaderInfo
from coordkit.registry import Address

T = TypeVar("T")
Instead = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]  # given the call as it should be


class Conduct:
    """What the adapter of one store has been asked, and what it is to do instead."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._orders: defaultdict[str, deque[Instead]] = defaultdict(deque)
        self._always: dict[str, Instead] = {}

    def once(self, operation: str, *wrong: BaseException | Instead) -> None:
        """The next calls of `operation` go wrong: by raising, or by what a function does with the call."""
        self._orders[operation].extend(map(_instead, wrong))

    def always(self, operation: str, wrong: BaseException | Instead) -> None:
        """All calls of `operation` for which nothing else is ordered go wrong."""
        self._always[operation] = _instead(wrong)

    def behave(self) -> None:
        """From now on nothing goes wrong."""
        self._orders.clear()
        self._always.clear()

    async def of(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls[operation] += 1
        orders = self._orders[operation]
        instead = orders.popleft() if orders else self._always.get(operation)
        return await call() if instead is None else await instead(call)


def _instead(wrong: BaseException | Instead) -> Instead:
    if not isinstance(wrong, BaseException):
        return wrong
    error = wrong

    async def fail(call: Callable[[], Awaitable[Any]]) -> Any:
        raise error

    return fail


conducts: defaultdict[str, Conduct] = defaultdict(Conduct)


class OddCandidacy:
    """A candidate whose calls pass through the conduct of its store."""

    def __init__(self, kept: Candidacy, conduct: Conduct) -> None:
        self.kept = kept
        self._conduct = conduct

    async def attempt(self) -> Grant | Behind:
        answer = await self._conduct.of("attempt", self.kept.attempt)
        return replace(answer, candidacy=self) if isinstance(answer, Grant) else answer

    async def changed(self) -> None:
        await self._conduct.of("changed", self.kept.changed)

    async def revoked(self) -> None:
        await self._conduct.of("revoked", self.kept.revoked)

    async def confirm(self, grant: Grant) -> Confirmed | Lost:
        return await self._conduct.of("confirm", lambda: self.kept.confirm(grant))

    async def proclaim(self, grant: Grant, metadata: str) -> Confirmed | Lost:
        return await self._conduct.of("proclaim", lambda: self.kept.proclaim(grant, metadata))

    async def resign(self) -> None:
        await self._conduct.of("resign", self.kept.resign)


class OddBackend:
    """A client whose calls pass through the conduct of its store."""

    def __init__(self, kept: Backend, conduct: Conduct) -> None:
        self.guarantees = kept.guarantees
        self.drift = kept.drift
        self._kept = kept
        self._conduct = conduct

    async def open(self) -> None:
        await self._conduct.of("open", self._kept.open)

    async def close(self) -> None:
        await self._conduct.of("close", self._kept.close)

    def candidacy(self, election: str, candidate: CandidateInfo, ttl: float) -> Candidacy:
        return OddCandidacy(self._kept.candidacy(election, candidate, ttl), self._conduct)

    async def renew(self, held: Sequence[Grant]) -> Sequence[Renewed | Lost | Unknown]:
        inner = [
            replace(grant, candidacy=candidacy.kept)
            for grant in held
            if isinstance(candidacy := grant.candidacy, OddCandidacy)
        ]
        return await self._conduct.of("renew", lambda: self._kept.renew(inner))

    async def leader(self, election: str) -> LeaderInfo | None:
        return await self._conduct.of("leader", lambda: self._kept.leader(election))

    async def candidates(self, election: str) -> Sequence[CandidateInfo]:
        return await self._conduct.of("candidates", lambda: self._kept.candidates(election))

    async def changes(self, election: str) -> AsyncIterator[None]:
        changes = self._kept.changes(election)
        while True:
            await self._conduct.of("changes", lambda: anext(changes))
            yield


def check(address: Address) -> None:
    """As for `memory://`."""
    memory.check(address)


def guarantees(address: Address) -> Guarantees:
    """As for `memory://`."""
    return memory.guarantees(address)


def connect(address: Address, host: Host) -> Backend:
    """A client of the store `memory://name`, under the conduct of that name."""
    return OddBackend(memory.connect(address, host), conducts[address.hosts[0][0]])
