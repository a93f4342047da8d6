"""Faults of the servers during the control, one after the other, by the schedule of a seed.

The rule: as in the runs of coordkit alone (`schedule`, `members`), in a thread of its own.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from tests.chaos.members import Members
from tests.chaos.schedule import Step, rounds
from tests.servers.cluster import Cluster

MOST_FORGOT = "most servers forgot everything"


class Trouble:
    """As a context manager: from the beginning to the end of the block, and a healed cluster after it.

    `more`: by name, what may happen besides, as often as all the kinds together. `counts`: how often each was made.
    """

    def __init__(
        self,
        cluster: Cluster[Any],
        kinds: Sequence[str],
        *,
        ttl: float,
        seed: int,
        more: dict[str, Callable[[random.Random], None]] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys((*kinds, *(more or {})), 0))
        self._steps = _steps(seed, kinds, ttl)
        self._more = more or {}
        self._chance = random.Random(seed)
        self._enough = threading.Event()
        self._cluster = cluster
        self._members = Members(cluster, self._enough)
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
        while not self._enough.is_set():
            for name, act in self._more.items():
                if self._chance.random() < 0.5:
                    act(self._chance)
                    self.counts[name] += 1
                    self._enough.wait(self._chance.uniform(0.2, 1.2))
            step = next(self._steps)
            self._members.suffer(step)
            self.counts[step.kind] += 1
            self._enough.wait(step.gap)


def _steps(seed: int, kinds: Sequence[str], ttl: float) -> Iterator[Step]:
    for steps in rounds(seed, kinds, ttl):
        yield from steps
