"""Faults for tests of a program whose electors are on `memory://name`.

The rule: a fault is ordered from the test's thread and happens on the engine, where the electors' calls happen, in
the order in which it was ordered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from coordkit.backends import memory
from coordkit.engine import current
from coordkit.testing.links import FaultyLink, LinkFaults

T = TypeVar("T")


class StoreFaults(LinkFaults):
    """What may befall one store `memory://name` and the link to it that is called `link` in the URLs.

    A context manager: leaving it heals the link. The faults of the link are those of `LinkFaults`; these befall the
    store itself, for all its clients.
    """

    def __init__(self, name: str, link: str = "") -> None:
        super().__init__()
        self._store = name
        memory.links[name, link] = FaultyLink(self, _later, _later)

    def expire(self, election: str) -> None:
        """The leader's entry is gone from the store, whatever its holder believes."""
        self._on_engine(lambda store: store.expire(election))

    def forget(self) -> None:
        """Amnesia: the store loses everything that it knew. It then breaks its promise: see its `Guarantees`."""
        self._on_engine(lambda store: store.forget())

    def entries(self, election: str) -> tuple[str, ...]:
        """The ids of the candidates that have an entry in the store, first place first."""
        return tuple(row.candidate.id for row in self._on_engine(lambda store: store.rows(election)))

    def elections(self) -> tuple[str, ...]:
        """The elections that have an entry."""
        return self._on_engine(lambda store: store.elections())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()

    def _on_engine(self, act: Callable[[memory.MemoryStore], T]) -> T:
        engine = current()

        async def acted() -> T:
            return act(memory.stores.setdefault(self._store, memory.MemoryStore(engine.clock)))

        return engine.ask(acted)


def faults(name: str, link: str = "") -> StoreFaults:
    """Take the link `memory://name?link=...` of this process into hand; `link` is empty in a plain `memory://name`.

    Electors that use the link already are affected, too. Whoever asks last has the link.
    """
    return StoreFaults(name, link)


def _later(seconds: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, call)
