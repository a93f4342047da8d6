"""A fence within one process. The rule: what is checked and what is written are under one lock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from coordkit.errors import ConfigError, StaleToken
from coordkit.model import FencingToken, check_election, check_token


class MemoryFence:
    """Admits a token not lower than the highest it has seen of that election; refuses others with `StaleToken`.

    For a resource that lives in this process. Thread-safe. The danger: it forgets with the process, and another
    process does not see it; what several processes write to needs a fence where the data is, such as `SQLFence`.
    """

    def __init__(self) -> None:
        self._newest: dict[str, FencingToken] = {}  # guarded by the lock
        self._inside: list[tuple[FencingToken, object]] = []  # of open blocks, all of one thread; guarded by the lock
        self._lock = threading.RLock()  # reentrant: the body of `admitted` may admit again

    def admit(self, token: FencingToken) -> None:
        """Remember `token`, or raise `StaleToken`. A write that follows is not atomic with it: use `admitted`."""
        check_token(token)
        with self._lock:
            task = _task()
            if any(open_.election == token.election and whose is not task for open_, whose in self._inside):
                raise ConfigError("another task is in a block of this election: do not await in such a block")
            newest = self._newest.get(token.election)
            if newest is not None and token < newest:
                raise StaleToken(token, newest)
            self._newest[token.election] = token

    @contextmanager
    def admitted(self, token: FencingToken) -> Iterator[None]:
        """Admit `token`, then run the block while nobody else is admitted: `with fence.admitted(token): write()`.

        An exception of the block does not take the admission back. The danger: a block that awaits lets other tasks of
        its loop in. Those that come with a token of the election get a `ConfigError`: nothing makes them wait.
        """
        with self._lock:
            self.admit(token)
            entered = (token, _task())
            self._inside.append(entered)
            try:
                yield
            finally:
                self._inside.remove(entered)

    def newest(self, election: str) -> FencingToken | None:
        """The highest token seen of an election, or None."""
        check_election(election)
        with self._lock:
            return self._newest.get(election)


def _task() -> object:
    """Who asks, where several take turns in one thread."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
