"""Trouble among the members of a cluster: one kind after the other, in an order that comes from a seed.

The rule: never more than a minority is in trouble at a time, but for the one kind that takes a majority for a moment;
all is mended, and the cluster ready, before the next. The trouble is made by a thread of its own, and nobody else
touches the members meanwhile.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from tests.servers.cluster import Cluster

LEADER_PAUSED = "leader paused beyond the ttl"
MAJORITY = "majority gone for a moment"
FORGOT = "forgot everything"
WENT_BACK = "went back to older data"
MINORITY_KINDS = ("killed", "paused", "restarted", "cut off", LEADER_PAUSED)
VOTER_KINDS = ("killed", "paused", "restarted", FORGOT, WENT_BACK)  # of servers that know nothing of each other


class Trouble:
    """As a context manager: trouble from the beginning to the end of the block, and a healed cluster after it.

    `kinds`: what a minority can have. `counts`: how often each kind was made and mended. `pause`: seconds at least from
    one to the next.
    """

    def __init__(
        self,
        cluster: Cluster[Any],
        *,
        ttl: float,
        seed: int,
        kinds: Sequence[str] = MINORITY_KINDS,
        pause: float = 0.2,
    ) -> None:
        self.kinds = tuple(kinds)
        self.counts: Counter[str] = Counter(dict.fromkeys((*kinds, MAJORITY), 0))
        self._pause = pause
        self._cluster = cluster
        self._ttl = ttl
        self._chance = random.Random(seed)
        self._enough = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trouble")
        self._making: Future[None] | None = None

    def __enter__(self) -> Self:
        self._making = self._thread.submit(self._make)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._making is not None
        self._enough.set()
        try:
            self._making.result()
        finally:
            self._thread.shutdown()

    def check(self) -> None:
        """Raise what has ended the trouble, if something has."""
        if self._making is not None and self._making.done():
            self._making.result()

    def _make(self) -> None:
        bag: list[str] = []
        while not self._enough.is_set():
            if not bag:  # each kind once, and a majority every other time, in a new order
                bag = [*self.kinds, *self.kinds, MAJORITY]
                self._chance.shuffle(bag)
            kind = bag.pop()
            self._trouble(kind)
            self._cluster.heal()
            self.counts[kind] += 1
            self._enough.wait(self._chance.uniform(self._pause, self._pause + 1.0))

    def _trouble(self, kind: str) -> None:
        chance = self._chance
        victim = chance.choice(self._cluster.members)
        match kind:
            case "killed":
                victim.kill()
                self._last(0.2, 1.5)
            case "paused":
                victim.pause()
                self._last(0.2, 2.0)
            case "restarted":
                victim.restart()
            case "cut off":
                victim.cut_off()
                self._last(0.2, 3.0)
            case "forgot everything":
                self._cluster.flushall(victim)  # type: ignore[attr-defined]
            case "went back to older data":
                older = self._cluster.snapshot(victim)  # type: ignore[attr-defined]
                self._last(0.5, 2.0)
                self._cluster.restore(victim, older)  # type: ignore[attr-defined]
            case "leader paused beyond the ttl":
                self._cluster.leader().pause()
                self._last(1.05 * self._ttl, 1.5 * self._ttl)
            case _:
                how: Callable[[Any], None] = chance.choice([lambda each: each.kill(), lambda each: each.pause()])
                for each in chance.sample(self._cluster.members, len(self._cluster.members) // 2 + 1):
                    how(each)
                self._last(0.2, 1.5)

    def _last(self, least: float, most: float) -> None:
        """Let the trouble last, but not beyond the end."""
        self._enough.wait(self._chance.uniform(least, most))
