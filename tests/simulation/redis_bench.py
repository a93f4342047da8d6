"""The operator's side on virtual time: the real repairs of `coordkit doctor`, on simulated voters.

The rule: each command is executed when it arrives, and answered later, as those of candidates are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordkit.backends.redis.repairs import Bench, replaced
from coordkit.backends.redis.target import targets_of
from coordkit.backends.redis.voters import Voter
from coordkit.errors import OutcomeUnknown, Unavailable
from coordkit.findings import Finding
from coordkit.registry import parse
from coordkit.testing.virtual import Process
from tests.simulation.redis_lua import LuaError
from tests.simulation.redis_model import Server


class Desk:
    """The operator's way to one voter: as `voters.Voter`, plain commands alone."""

    def __init__(self, process: Process, name: str, server: Server, delay: float) -> None:
        self.name = name
        self.delay = delay  # s, each way
        self._process = process
        self._server = server

    async def plain(self, *words: str, seconds: float) -> Any:
        """One command."""
        answer: asyncio.Future[Any] = self._process.loop.create_future()
        name, *rest = (word.encode() for word in words)

        def execute() -> None:
            try:
                if name == b"EVAL":
                    found = self._server.eval(rest[0], rest[2:3], rest[3:])
                else:
                    found = self._server.call(name, *rest)
            except LuaError as error:
                found = OutcomeUnknown(str(error), backend="redis")
            found = None if found is False else found
            self._process.deliver(self.delay, lambda: answer.done() or answer.set_result(found))

        if not self._server.alive:
            raise Unavailable(f"{self.name}: refused", backend="redis")
        self._process.world.after(self.delay, lambda: self._server.receive(execute))
        try:
            async with asyncio.timeout(seconds):
                found = await answer
        except TimeoutError as error:
            raise OutcomeUnknown(f"{self.name}: no answer in time", backend="redis") from error
        if isinstance(found, OutcomeUnknown):
            raise found
        return found

    async def close(self) -> None:
        """Nothing is kept open."""


@dataclass(frozen=True, slots=True)
class Operator(Bench):
    """A bench of simulated voters."""

    all_voters: Mapping[str, Any]  # by name, those of all lists

    def beside(self, name: str) -> Voter:
        found: Voter = self.all_voters[name]
        return found


def url_of(names: Sequence[str], max_ttl: float) -> str:
    """That candidates of this list have."""
    return f"redis+quorum://{','.join(names)}?max_ttl={max_ttl:g}"


async def replace(
    process: Process, url: str, servers: Mapping[str, Server], delays: Mapping[str, float], old: str, new: str
) -> list[Finding]:
    """`coordkit doctor --replace OLD=NEW URL`, on these servers by name: what it comes to."""
    address = parse(url)
    desks: dict[str, Any] = {name: Desk(process, name, server, delays[name]) for name, server in servers.items()}
    names = [target.name for target in targets_of(address)]
    bench = Operator([desks[name] for name in names], address, process, desks)
    return [step async for step in replaced(bench, old, new) if isinstance(step, Finding)]
