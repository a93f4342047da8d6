"""Campaigns that end without a term, hundreds of them on one session of any store.

The rule: these are the campaigns; what is left of them in the process is told by `state`, which knows the store.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence

from coordkit import AsyncLeaderElector, CampaignTimeout, CoordkitError, LeaderElector
from tests.support.children import hear, say

State = Callable[[float], None]  # says what this process has, once it has cleaned up, or after so many seconds


def in_vain(url: str, ttl: float, seed: int, times: int, state: State) -> None:
    """Behind a leader that stays: so many tries, half as many timeouts, and half as many cancelled tasks."""
    chance, outcomes = random.Random(seed), Counter[str]()
    electors = [LeaderElector(url, "e", ttl=ttl) for _ in range(4)]
    others = [AsyncLeaderElector(url, "e", ttl=ttl) for _ in range(4)]

    async def cancelled(elector: AsyncLeaderElector) -> None:
        for _ in range(times // 2 // len(others)):
            task = asyncio.create_task(elector.campaign())
            await asyncio.sleep(chance.choice([0.0, chance.uniform(0, 0.006), chance.uniform(0, 0.03)]))
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1

    async def many() -> None:
        await asyncio.gather(*(cancelled(elector) for elector in others))

    for turn in ("first", "then"):
        for number in range(times if turn == "then" else len(electors)):
            elector = electors[number % len(electors)]
            outcomes["tried" if elector.try_campaign() is None else "led"] += 1
            if number % 2:
                continue
            try:
                elector.campaign(timeout=chance.uniform(0.0005, 0.02))
                outcomes["led"] += 1
            except CampaignTimeout:
                outcomes["timed-out"] += 1
        if turn == "then":
            asyncio.run(many())
            say("outcomes", *(f"{name}={number}" for name, number in sorted(outcomes.items())))
        assert hear() == "look"
        state(ttl)
    assert hear() == "close"
    for elector in electors:
        elector.close()
    asyncio.run(_closed(others))
    say("closed")
    hear()


async def _closed(electors: Sequence[AsyncLeaderElector]) -> None:
    for elector in electors:
        await elector.close()


def on_a_bad_line(url: str, ttl: float, seed: int, times: int, state: State) -> None:
    """Campaigns that end after a moment, whatever came of them, over connections that the test resets."""
    chance, outcomes = random.Random(seed), Counter[str]()
    patience = 0.2  # s: longer on a machine that is so busy that hardly anybody leads

    async def one(elector: AsyncLeaderElector) -> str:
        nonlocal patience
        if outcomes["led"] < outcomes.total() / 20:
            patience = min(1.0, 1.1 * patience)
        async with asyncio.timeout(chance.uniform(0.005, patience)):
            async with elector.lead():
                return "led"

    async def many(elector: AsyncLeaderElector) -> None:
        for _ in range(times // 8):
            try:
                outcomes[await one(elector)] += 1
            except TimeoutError:
                outcomes["timed-out"] += 1
            except CoordkitError as error:
                outcomes[type(error).__name__] += 1

    async def main() -> None:
        electors = [AsyncLeaderElector(url, f"e{number % 4}", ttl=ttl) for number in range(8)]
        await asyncio.gather(*(many(elector) for elector in electors))
        say("outcomes", *(f"{name}={number}" for name, number in sorted(outcomes.items())))
        assert await asyncio.to_thread(hear) == "look"
        await asyncio.to_thread(state, ttl)
        assert await asyncio.to_thread(hear) == "close"
        await _closed(electors)
        say("closed")

    asyncio.run(main())
    hear()
