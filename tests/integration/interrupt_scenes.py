"""Scenes of the stress test: thousands of entries interrupted at random instants, then a look at what is left.

The rule: an interrupt is armed around one entry at a time, and may strike at any instruction of it: while it is sent,
while it waits, between the answer and the block, in the block, and while the block is left.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

from coordkit import AsyncLeaderElector, CoordkitError, LeaderElector
from coordkit.clock import host_boottime
from coordkit.engine import existing
from tests.support.children import say

TTL = 2.0


class Trap:
    """Raises KeyboardInterrupt in the main thread at an instant, unless it has been left by then; perhaps twice."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._hits = 0
        signal.signal(signal.SIGALRM, self._spring)

    def _spring(self, _number: int, _frame: FrameType | None) -> None:
        if self._hits:
            self._hits -= 1
            raise KeyboardInterrupt

    def arm(self, longest: float) -> None:
        self._hits = self._chance.choice([1, 1, 1, 2])
        signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(0.00002, longest), 0.0001)

    def disarm(self) -> None:
        self._hits = 0
        signal.setitimer(signal.ITIMER_REAL, 0)

    def catch(self, longest: float, call: Callable[[], str]) -> str:
        """Call it with the trap armed; what it returned, or how it ended."""
        try:
            try:
                try:
                    self.arm(longest)
                    return call()
                finally:
                    self.disarm()
            except KeyboardInterrupt:
                return "interrupted"
        except KeyboardInterrupt:  # the second one
            return "interrupted"
        except CoordkitError as error:
            return type(error).__name__
        finally:
            self.disarm()


def live_rows(path: str) -> list[str]:
    """The elections whose seat is taken by the store's own count."""
    with sqlite3.connect(path, timeout=10) as connection:
        found = connection.execute(
            "SELECT election FROM coordkit_elections WHERE state = 'held' AND deadline > ?", (host_boottime(),)
        ).fetchall()
    connection.close()
    return [row[0] for row in found]


def what_is_left(path: str, electors: list[LeaderElector]) -> None:
    """One lease later: no seat taken, and every elector wins at once."""
    engine = existing()
    assert engine is not None
    ended = time.monotonic() + TTL * 1.1
    while (rows := live_rows(path)) and time.monotonic() < ended:
        time.sleep(0.05)
    say("orphans", *rows)
    slowest = 0.0
    for elector in electors:
        started = time.monotonic()
        with elector.lead(timeout=10.0):
            slowest = max(slowest, time.monotonic() - started)
    say("slowest", slowest)
    say("engine", "alive" if existing() is engine else "another")
    say("held", *(str(tenure.token) for keeper in engine.keepers.values() for tenure in keeper._held))
    say("requests", *engine.requests)
    say("threads", len(sys._current_frames()) - threading.active_count())


def entry(elector: LeaderElector, how: int, chance: random.Random) -> str:
    """One entry of some kind; how it ended.

    `with elector:` is not among them: there the elector itself is the context manager, so a Ctrl-C at the very first
    instruction of its `__exit__` leaves nothing behind by which it could be known that the block is over.
    """
    if how == 0:
        with elector.lead() as term:
            term.wait_ended(chance.uniform(0, 0.002))
        return "led"
    if how == 1:
        term = elector.campaign()
        term.resign()
        return "led"
    if how == 2:
        tried = elector.try_campaign()
        if tried is None:
            return "behind"
        with tried:
            return "led"
    return elector.run(lambda _: "led")


def interrupted_by_keyboard(path: str, seed: str, times: str) -> None:
    """The main thread's entries are hit by KeyboardInterrupt; another thread contends for half of the seats."""
    chance = random.Random(int(seed))
    url = f"sqlite://{path}"
    electors = [LeaderElector(url, f"e{number % 4}", ttl=TTL) for number in range(8)]
    rival = [LeaderElector(url, f"e{number}", ttl=TTL) for number in range(2)]
    over = threading.Event()

    def contend() -> None:
        while not over.is_set():
            for each in rival:
                with each.lead():
                    over.wait(0.001)

    contending = threading.Thread(target=contend)
    contending.start()
    trap, outcomes = Trap(chance), Counter[str]()
    for number in range(int(times)):
        elector, how = electors[number % len(electors)], chance.randrange(4)
        outcomes[trap.catch(0.003, lambda: entry(elector, how, chance))] += 1  # noqa: B023 - called at once
    over.set()
    contending.join()
    say("outcomes", *(f"{name}={number}" for name, number in sorted(outcomes.items())))
    what_is_left(path, electors + rival)


async def entry_async(elector: AsyncLeaderElector, how: int, chance: random.Random) -> str:
    """As `entry`, awaited."""
    if how == 0:
        async with elector.lead() as term:
            await term.wait_ended(chance.uniform(0, 0.002))
        return "led"
    if how == 1:
        async with elector:
            return "led"
    if how == 2:
        term = await elector.campaign()
        await term.resign()
        return "led"
    if how == 3:
        tried = await elector.try_campaign()
        if tried is None:
            return "behind"
        async with tried:
            return "led"

    async def work(_: object) -> str:
        return "led"

    return await elector.run(work)


def interrupted_by_cancellation(path: str, seed: str, times: str) -> None:
    """Tasks are cancelled while they campaign, lead and resign; each contends with another one for its seat."""
    chance = random.Random(int(seed))
    url = f"sqlite://{path}"
    outcomes = Counter[str]()

    async def one(elector: AsyncLeaderElector) -> None:
        task = asyncio.create_task(entry_async(elector, chance.randrange(5), chance))
        await asyncio.sleep(chance.choice([0.0, chance.uniform(0, 0.004), chance.uniform(0, 0.02)]))
        task.cancel()
        try:
            outcomes[await task] += 1
        except asyncio.CancelledError:
            outcomes["interrupted"] += 1
        except CoordkitError as error:
            outcomes[type(error).__name__] += 1

    async def many(elector: AsyncLeaderElector, number: int) -> None:
        for _ in range(number):
            await one(elector)

    async def main() -> None:
        electors = [AsyncLeaderElector(url, f"e{number % 4}", ttl=TTL) for number in range(8)]
        await asyncio.gather(*(many(elector, int(times) // len(electors)) for elector in electors))

    asyncio.run(main())
    say("outcomes", *(f"{name}={number}" for name, number in sorted(outcomes.items())))
    what_is_left(path, [LeaderElector(url, f"e{number % 4}", ttl=TTL) for number in range(8)])


def interrupted_loops(path: str, seed: str, times: str) -> None:
    """Whole event loops are hit by Ctrl-C at random instants, as `asyncio.run` handles it."""
    chance = random.Random(int(seed))
    url = f"sqlite://{path}"
    outcomes = Counter[str]()
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    electors = [AsyncLeaderElector(url, f"e{number}", ttl=TTL) for number in range(3)]

    async def main(elector: AsyncLeaderElector, how: int) -> str:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00002, 0.006))
        try:
            return await entry_async(elector, how, chance)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    for number in range(int(times)):
        try:
            outcome = asyncio.run(main(electors[number % len(electors)], chance.randrange(5)))
        except KeyboardInterrupt:
            outcome = "interrupted"
        except CoordkitError as error:
            outcome = type(error).__name__
        outcomes[outcome] += 1
    say("outcomes", *(f"{name}={number}" for name, number in sorted(outcomes.items())))
    what_is_left(path, [LeaderElector(url, f"e{number}", ttl=TTL) for number in range(3)])
