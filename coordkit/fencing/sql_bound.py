"""SQL fences with an engine of their own, for electors: a plain `admit(token)`.

The rule: an admission is a transaction of its own, tried again while the row is locked or the database cannot be
reached, for a bounded time: admitting twice is admitting once. An async engine belongs to one event loop, and nothing
of it is touched from anywhere else.
"""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from coordkit import retry
from coordkit.errors import ConfigError, Unavailable
from coordkit.fencing.sql_door import connecting, family, translated
from coordkit.model import FencingToken

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine  # importing it takes greenlet

    from coordkit.fencing.sql import SQLFence


class BoundFence:
    """On a plain engine."""

    def __init__(self, fence: SQLFence, engine: Engine, timeout: float) -> None:
        self._fence = fence
        self._engine = engine
        self._timeout = timeout

    def admit(self, token: FencingToken) -> None:
        retry.within(self._timeout)(self._once, token)

    def newest(self, election: str) -> FencingToken | None:
        """The highest token admitted in an election; None if there was none."""
        with self._connected() as connection, connection.begin():
            _wait_no_longer(connection, self._timeout)
            return self._fence.newest(connection, election)

    def overwrite(self, token: FencingToken) -> None:
        """As `SQLFence.overwrite`, in a transaction of its own."""
        with self._connected() as connection, connection.begin():
            _wait_no_longer(connection, self._timeout)
            self._fence.overwrite(connection, token)

    def _once(self, token: FencingToken) -> None:
        with self._connected() as connection:
            _admit(connection, self._fence, token, self._timeout)

    def _connected(self) -> Connection:
        with connecting(self._fence.table, self._engine):
            return self._engine.connect()


class BoundToLoop:
    """On an async engine and the event loop on which this is made."""

    def __init__(self, fence: SQLFence, engine: AsyncEngine, timeout: float) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigError("bind an async engine on the event loop that uses it, in a coroutine") from None
        self._fence = fence
        self._engine = engine
        self._timeout = timeout

    def admit(self, token: FencingToken) -> None:
        if _running_loop() is self._loop or self._loop.is_closed():
            raise ConfigError(
                "admit waits for the event loop of this async engine: not on that loop itself, where there is "
                "`await connection.run_sync(fence.admit, token)`, and not after its end"
            )
        limit = 2 * self._timeout  # the last try may begin just before the end of the time for them
        work = asyncio.run_coroutine_threadsafe(self._tries(token), self._loop)
        try:
            work.result(limit)
        except (TimeoutError, CancelledError) as error:
            # It is left to its own end, which is bounded: drivers leave much behind where they are cancelled.
            raise Unavailable(
                f"admit in {self._fence.table.name!r}: no end within {limit:g} s, or its event loop has ended",
                backend=self._engine.dialect.name,
                operation="admit",
            ) from error

    async def _tries(self, token: FencingToken) -> None:
        await retry.within_async(self._timeout)(self._once, token)

    async def _once(self, token: FencingToken) -> None:
        with connecting(self._fence.table, self._engine.sync_engine):
            connection = await self._engine.connect()
        try:
            await connection.run_sync(_admit, self._fence, token, self._timeout)
        finally:
            await connection.close()


def _admit(connection: Connection, fence: SQLFence, token: FencingToken, seconds: float) -> None:
    with translated("admit", fence.table, connection.engine), connection.begin():
        _wait_no_longer(connection, seconds)
        fence.admit(connection, token)


def _wait_no_longer(connection: Connection, seconds: float) -> None:
    """By their defaults PostgreSQL waits for a lock for ever, MySQL for 50 s."""
    match family(connection.dialect):
        case "postgresql":
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {math.ceil(seconds * 1000)}")
        case "mysql":  # whose setting would go back to the pool with the connection
            connection.detach()
            connection.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {math.ceil(seconds)}")
            connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {math.ceil(seconds)}")  # of whole tables
        case "sqlite":  # whose driver has a timeout of its own
            pass


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
