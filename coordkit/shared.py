"""`Session`: one connection, for several electors.

The rule: a session is shared by its key, and closed when the last who uses it has parted; whoever made one only holds
it open, and may close all the electors that were made with it.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import NoReturn, Self

from coordkit.engine import Engine, EngineDied, current, existing
from coordkit.errors import ConfigError, ElectorClosed, ForkedProcessError
from coordkit.face import Face, address_of
from coordkit.lease import DEFAULT_TTL
from coordkit.model import Guarantees, check_seconds
from coordkit.registry import Address, guarantees, one_ttl
from coordkit.session import Keeper


class Session:
    """One connection to one cluster, for several electors. Electors given equal URLs share one by themselves.

    Make one to fail fast (`open`), to pass options that a URL is clumsy for, or to close many electors at once.
    Thread-safe, inert until first used, not picklable; used in a forked child it raises `ForkedProcessError`.
    """

    def __init__(self, url: str, **options: object) -> None:
        self.address: Address = address_of(url, options)
        self._electors: weakref.WeakSet[Face] = weakref.WeakSet()
        self._ttl: float | None = None  # of all its electors, where the store has one timeout per connection
        self._used_in: int | None = None
        self._closed = False
        self._keeper: list[Keeper] = []  # the engine's own: ours while open
        self._user = object()  # in whose name the keeper is used
        weakref.finalize(self, _part_later, self._keeper, self._user, os.getpid()).atexit = False

    @property
    def guarantees(self) -> Guarantees:
        """What this backend promises, and on what condition; more exact once the session is open."""
        for keeper in self._keeper:
            return keeper.backend.guarantees
        return guarantees(self.address)

    def open(self, *, timeout: float = 5.0) -> Self:
        """Connect now, or raise the `BackendError` that says why not. Optional."""
        seconds = check_seconds(timeout, "timeout")
        self.check()
        engine = current()

        async def opened() -> None:
            if self._closed:
                raise ElectorClosed("this session is closed")
            if not self._keeper:
                keeper = engine.keeper(self.address, DEFAULT_TTL if self._ttl is None else self._ttl)
                keeper.join(self._user, _nothing)
                self._keeper.append(keeper)
            await self._keeper[0].open_once(seconds)

        engine.ask(opened)
        return self

    def close(self, *, timeout: float = 2.0) -> None:
        """Close every elector that was made with this session, then let go of the connection. Idempotent."""
        seconds = check_seconds(timeout, "timeout", zero=True)
        if self._used_in not in (None, os.getpid()):
            raise ForkedProcessError("this session belongs to the parent process")
        self._closed = True
        slots = [slot for elector in list(self._electors) if (slot := elector._end_locally()) is not None]
        if self._used_in is None:
            return
        engine = current()
        closing: list[asyncio.Task[None]] = []
        for slot in slots:
            engine.post(slot.close)  # whether or not there is time to wait for it
        engine.post(_part, self._keeper, self._user, closing)

        async def closed() -> None:
            await asyncio.gather(*(slot.closed() for slot in slots))
            if closing:
                await asyncio.wait(closing)

        try:
            engine.ask(closed, seconds)
        except (TimeoutError, EngineDied):
            return  # closed locally, as in LeaderElector.close

    def check(self) -> None:
        """Raise if this session is closed or another process's; remember that this process uses it."""
        if self._closed:
            raise ElectorClosed("this session is closed")
        if self._used_in is None:
            self._used_in = os.getpid()
        if self._used_in != os.getpid():
            raise ForkedProcessError(f"this session belongs to process {self._used_in}; make another one in the child")

    def adopt(self, elector: Face, ttl: float) -> None:
        """`close` closes this elector, too. `ConfigError` for a second ttl where the store has one per connection."""
        if self._ttl is None:
            self._ttl = ttl
            if self._keeper and one_ttl(self.address) and (engine := existing()) is not None:
                engine.post(self._change_keeper, engine, ttl)  # it was opened before its ttl was known
        if self._ttl != ttl and one_ttl(self.address):
            raise ConfigError(
                f"ttl={ttl:g}: {self.address.scheme}:// has one timeout per session, and the first elector of this "
                f"one has ttl={self._ttl:g}; make a second Session"
            )
        self._electors.add(elector)

    def _change_keeper(self, engine: Engine, ttl: float) -> None:
        keeper = engine.keeper(self.address, ttl)
        if self._keeper and keeper is not self._keeper[0]:
            keeper.join(self._user, _nothing)
            _part(self._keeper, self._user, [])
            self._keeper.append(keeper)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        if self._used_in in (None, os.getpid()):
            self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("Session belongs to its process and cannot be pickled; make one there")

    def __repr__(self) -> str:
        return f"<Session {self.address.shown}>"


def _part(keepers: list[Keeper], user: object, closing: list[asyncio.Task[None]]) -> None:
    while keepers:
        if (task := keepers.pop().part(user)) is not None:
            closing.append(task)


def _part_later(keepers: list[Keeper], user: object, pid: int) -> None:
    """The finalizer of a session that was dropped open."""
    if keepers and pid == os.getpid() and (engine := existing()) is not None:
        engine.post(_part, keepers, user, [])


def _nothing() -> None:
    """A session has nothing of its own to end when the process exits."""
