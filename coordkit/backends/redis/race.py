"""One election as it goes on in one session: who waits, who leads, who listens. No I/O.

The rule: candidates of one session do not vote against each other. One of them asks at a time, the first that came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from coordkit.backends.redis.ballot import Ask, Exhausted, Short, Wait


class Contender(Protocol):
    """What a race tells its candidates."""

    def leads(self) -> bool:
        """Whether it leads by its own clock."""
        ...

    def overheard(self, place: int) -> None:
        """Something was written in this election, at this voter."""
        ...

    def called(self) -> None:
        """Somebody wants a sign of life of who leads."""
        ...

    def stir(self) -> None:
        """It may be its turn."""
        ...


class Race:
    """Who takes part in one election here."""

    def __init__(self, plan: Callable[[], Ask | Wait | Short | Exhausted]) -> None:
        self.users = 0  # who want its words
        self.leaving: asyncio.TimerHandle | None = None  # nobody does, and soon it is forgotten
        self.known: set[int] = set()  # voters that were asked since their words are heard
        self.waiting: dict[Contender, None] = {}  # in the order of their coming
        self.leading: Contender | None = None
        self.asking: Contender | None = None
        self.listeners: list[asyncio.Event] = []  # set whenever something is said
        self.listening = 1  # connections, of all sessions, that heard the last word
        self._plan = plan

    def leads_here(self) -> bool:
        """Whether one of this session's own candidates leads by its own clock."""
        return self.leading is not None and self.leading.leads()

    def moved(self, place: int) -> None:
        """Something was written at this voter: tell those whom it may concern."""
        for listener in self.listeners:
            listener.set()
        if self.leading is not None:
            self.leading.overheard(place)
        for each in list(self.waiting):
            each.overheard(place)
        self.next()

    def next(self) -> None:
        """Let the first one in line try, if a majority is ready."""
        if self.asking is None and self.waiting and not self.leads_here() and isinstance(self._plan(), Ask):
            next(iter(self.waiting)).stir()

    def called(self) -> None:
        """A sign of life is wanted."""
        if self.leading is not None:
            self.leading.called()

    def left(self, contender: Contender) -> None:
        """One takes part no more."""
        self.waiting.pop(contender, None)
        if self.leading is contender:
            self.leading = None
        if self.asking is contender:
            self.asking = None
        self.next()
