"""Following who leads: the engine's side of `observe`.

The rules: the present state comes first; states may be skipped, but tokens never fall and nothing is told twice in a
row. The consumer pulls, so a slow one costs no memory. A backend that fails is asked again, with a warning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordkit.backends.contract import Host
from coordkit.errors import BackendError, CoordkitError, ElectorClosed, Misconfigured, OutcomeUnknown, Unavailable
from coordkit.lease import waited_for
from coordkit.model import LeaderInfo
from coordkit.session import Keeper
from coordkit.waiting import being_cancelled, bounded


class Observation:
    """The newest known state of one election, numbered; lives on the host's loop."""

    def __init__(
        self, host: Host, keeper: Keeper, election: str, ttl: float, on_stop: Callable[[Observation], None]
    ) -> None:
        self._host = host
        self._keeper = keeper
        self._election = election
        self._ttl = ttl
        self._on_stop = on_stop
        self._number = 0  # of the newest state; 0: none yet
        self._state: LeaderInfo | None = None
        self._newest_token = 0
        self._failure: CoordkitError | None = None
        self._moved = asyncio.Event()
        self._task = host.spawn(self._follow(), "observe")

    async def after(self, number: int) -> tuple[int, LeaderInfo | None]:
        """The newest state if it is newer than `number`, else the next one."""
        while self._failure is None and self._number <= number:
            self._moved.clear()
            await self._moved.wait()
        if self._failure is not None:
            raise _fresh(self._failure)
        return self._number, self._state

    def stop(self) -> None:
        """Stop following; whoever waits gets `ElectorClosed`."""
        self._fail(ElectorClosed("the elector was closed"))
        self._task.cancel()

    def _fail(self, failure: CoordkitError) -> None:
        self._failure = self._failure or failure
        self._moved.set()
        self._on_stop(self)

    async def _follow(self) -> None:
        warned = None
        while True:
            try:
                await self._keeper.opened()
                async for _ in self._keeper.backend.changes(self._election):
                    seen = await bounded(self._keeper.backend.leader(self._election), self._ttl, "leader")
                    self._publish(seen)
                    warned = None
            except (Unavailable, OutcomeUnknown, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and being_cancelled():
                    raise  # else the client cancelled its own call
                now = self._host.clock.now()
                if warned is None or waited_for(warned, now) > self._ttl:
                    warned = now
                    self._host.log.warning("observing %r: %r", self._election, error)
            except BackendError as error:
                self._fail(error)
                return
            except Exception as error:  # noqa: BLE001 - a fault of the adapter: whoever waits is told
                self._fail(Misconfigured(f"observing failed: {error!r}", operation="observe"))
                return
            await asyncio.sleep(self._host.chance.uniform(0, self._ttl / 3))

    def _publish(self, seen: LeaderInfo | None) -> None:
        if seen is not None:
            if seen.token.value < self._newest_token:
                return  # a stale read
            self._newest_token = seen.token.value
        if self._number and seen == self._state:
            return
        self._number += 1
        self._state = seen
        self._moved.set()


def _fresh(error: CoordkitError) -> CoordkitError:
    if isinstance(error, BackendError):
        return type(error)(str(error), backend=error.backend, operation=error.operation)
    return type(error)(str(error))
