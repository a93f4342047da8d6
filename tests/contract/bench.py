"""What the tests of the semantics stand on: a store with faults, and one way to call both faces.

The rule: a test is written once, as a coroutine. The synchronous face is called on threads of its own, so that it may
wait as it does in an application; the asynchronous one is awaited in the test's own task. Both see the same store.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import pytest

from coordkit import AsyncLeaderElector, BackendError, LeaderElector, Session, Unavailable, engine
from coordkit.backends.memory import links, stores
from coordkit.backends.sqlite.adapter import SQLiteBackend
from coordkit.clock import host_boottime

T = TypeVar("T")

LONG = 30.0  # s: longer than any wait of these tests; to reach it is to fail
SHORT = 0.6  # s: the ttl where a lease is to run out

_numbers = itertools.count()


# -- stores with faults ----------------------------------------------------------------------------------


class Store(Protocol):
    """One store, seen from the side."""

    backend: str
    url: str

    def entries(self, election: str) -> list[str]:
        """The ids of the candidates that have an unexpired entry."""
        ...

    def revoke(self, election: str) -> None:
        """Take the leader's entry away."""
        ...

    def outage(self) -> AbstractContextManager[None]:
        """No write comes through. On a store that nobody has opened yet, no read either."""
        ...


class Gate:
    """The way to a memory store; shut, it fails every call before it gets there, or lets it hang."""

    def __init__(self) -> None:
        self.error: Callable[[], BackendError] | None = None

    async def call(self, operation: Callable[[], T]) -> T:
        if self.error is not None:
            raise self.error()
        return operation()

    def hint(self, deliver: Callable[[], None]) -> None:
        if self.error is None:
            deliver()


class MemoryStore:
    """`memory://`, behind a gate."""

    backend = "memory"

    def __init__(self, folder: Path) -> None:
        self.name = f"semantics-{next(_numbers)}"
        self.url = f"memory://{self.name}"
        self.gate = links[self.name, ""] = Gate()

    def entries(self, election: str) -> list[str]:
        store = stores.get(self.name)
        return [] if store is None else on_engine(lambda: [row.candidate.id for row in store.rows(election)])

    def revoke(self, election: str) -> None:
        on_engine(lambda: stores[self.name].expire(election))

    @contextmanager
    def outage(self) -> Iterator[None]:
        with self.failing(lambda: Unavailable("the gate is shut", backend="memory")):
            yield

    @contextmanager
    def failing(self, error: Callable[[], BackendError]) -> Iterator[None]:
        self.gate.error = error
        try:
            yield
        finally:
            self.gate.error = None


class SQLiteStore:
    """`sqlite://`, with a second connection that holds the lock."""

    backend = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "elections.db"
        self.url = f"sqlite://{self.path}"

    def entries(self, election: str) -> list[str]:
        if not self.path.exists():
            return []
        held = "SELECT holder FROM coordkit_elections WHERE election = ? AND state = 'held' AND deadline > ?"
        try:
            return [row[0] for row in self.execute(held, election, host_boottime())]
        except sqlite3.OperationalError:  # the tables are not there yet
            return []

    def revoke(self, election: str) -> None:
        over = "UPDATE coordkit_elections SET state = 'released', deadline = 0.0, stamp = 'revoked' WHERE election = ?"
        self.execute(over, election)
        on_engine(self._hint)

    def _hint(self) -> None:
        """As the kernel would: something happened to the file. So a renewal looks at once, not after ttl/3."""
        for keeper in engine.current().keepers.values():
            if isinstance(keeper.backend, SQLiteBackend):
                keeper.backend._replaced.set()

    @contextmanager
    def outage(self) -> Iterator[None]:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=LONG)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")
        finally:
            connection.close()

    def execute(self, statement: str, *values: object) -> list[Any]:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=LONG)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


STORES: dict[str, Callable[[Path], Store]] = {"memory": MemoryStore, "sqlite": SQLiteStore}


def on_engine(call: Callable[[], T]) -> T:
    """Run `call` on the engine, where a memory store lives."""

    async def run() -> T:
        return call()

    return engine.current().ask(run, LONG)


# -- two faces, one way to call them ---------------------------------------------------------------------


async def in_thread(call: Callable[..., T], *values: Any, **options: Any) -> T:
    """Run `call` on a daemon thread of its own and await it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    outcome: list[tuple[Any, BaseException | None]] = []  # taken out, so that no thread keeps a term alive

    def settle() -> None:
        value, error = outcome.pop()
        if not answer.done():
            answer.set_result(value) if error is None else answer.set_exception(error)

    def run() -> None:
        try:
            outcome.append((call(*values, **options), None))
        except BaseException as error:
            outcome.append((None, error))
        with suppress(RuntimeError):  # the test has failed and its loop is closed
            loop.call_soon_threadsafe(settle)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return await answer
    finally:
        if answer.done() and not answer.cancelled():
            thread.join()  # it has nothing left to do, but holds the answer


class Bench:
    """Electors of one face on one store."""

    kind: str
    elector_type: type[Any]

    def __init__(self, store: Store) -> None:
        self.store = store
        self.electors: list[Any] = []
        self.kept: list[Any] = []

    def elector(self, election: str = "e", *, target: str | Session | None = None, **options: Any) -> Any:
        """A fresh elector, closed at the end of the test; its default ttl loses a revoked term soon."""
        made = self.elector_type(target or self.store.url, election, **{"ttl": 2.0, **options})
        self.electors.append(made)
        return made

    async def call(self, function: Callable[..., Any], *values: Any, **options: Any) -> Any:
        """Call a method that blocks in one face and is awaited in the other; a term it returns is kept."""
        self.kept.append(await self.dropping(function, *values, **options))
        return self.kept[-1]

    async def dropping(self, function: Callable[..., Any], *values: Any, **options: Any) -> Any:
        """As `call`, for those who want to drop what it returns."""
        raise NotImplementedError

    def block(self, manager: Any) -> Any:
        """A `with` block, to be entered by `async with`."""
        raise NotImplementedError

    async def next(self, iterator: Any) -> Any:
        """The next of the states that `observe` tells."""
        raise NotImplementedError

    def work(self, body: Callable[[Any], Awaitable[T]]) -> Callable[[Any], Any]:
        """What `run` calls: `body`, awaited in either face."""
        raise NotImplementedError

    async def until_lost(self, term: Any) -> None:
        """In a block: until the loss has reached the body, which goes on."""
        raise NotImplementedError

    async def lose(self, term: Any) -> None:
        """In a block: take the entry away and wait until that has reached the body."""
        self.store.revoke(term.election)
        await self.until_lost(term)

    async def until(self, holds: Callable[[], Any]) -> None:
        """Wait for what nothing tells of: a state of the store, or what another thread has noted."""
        deadline = time.monotonic() + LONG
        while not holds():
            assert time.monotonic() < deadline, "waited in vain"
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        for elector in self.electors:
            await self.call(elector.close, timeout=1.0)
        self.kept.clear()


class SyncBench(Bench):
    kind = "sync"
    elector_type = LeaderElector

    async def dropping(self, function: Callable[..., Any], *values: Any, **options: Any) -> Any:
        result = await in_thread(function, *values, **options)
        await asyncio.sleep(0)  # until here the loop keeps the future, and so the result
        return result

    def block(self, manager: Any) -> Any:
        return _ThreadedBlock(manager)

    async def next(self, iterator: Any) -> Any:
        return await in_thread(next, iterator)

    def work(self, body: Callable[[Any], Awaitable[T]]) -> Callable[[Any], Any]:
        loop = asyncio.get_running_loop()

        async def awaited(term: Any) -> T:
            return await body(term)

        return lambda term: asyncio.run_coroutine_threadsafe(awaited(term), loop).result(LONG)

    async def until_lost(self, term: Any) -> None:
        assert await in_thread(term.wait_ended, LONG)


class AsyncBench(Bench):
    kind = "async"
    elector_type = AsyncLeaderElector

    async def dropping(self, function: Callable[..., Any], *values: Any, **options: Any) -> Any:
        return await function(*values, **options)

    def block(self, manager: Any) -> Any:
        return manager

    async def next(self, iterator: Any) -> Any:
        return await anext(iterator)

    def work(self, body: Callable[[Any], Awaitable[T]]) -> Callable[[Any], Any]:
        return body

    async def until_lost(self, term: Any) -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            assert not term.valid
            return
        raise AssertionError("the loss did not reach the body")


class _ThreadedBlock:
    def __init__(self, manager: Any) -> None:
        self.manager = manager

    async def __aenter__(self) -> Any:
        return await in_thread(self.manager.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        return await in_thread(self.manager.__exit__, kind, error, trace)


BENCHES: dict[str, Callable[[Store], Bench]] = {"sync": SyncBench, "async": AsyncBench}


def scenario(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a coroutine function whose first argument is the bench."""

    @functools.wraps(test)
    def run(bench: Bench, *values: Any, **options: Any) -> None:
        async def main() -> None:
            try:
                async with asyncio.timeout(LONG * 2):
                    await test(bench, *values, **options)
            finally:
                await bench.close()

        asyncio.run(main())

    return run


# -- looking -----------------------------------------------------------------------------------------------


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and text of all that coordkit has logged so far."""
    engine.current().log.flush(LONG)
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "coordkit"]


def in_child(body: Callable[[], object]) -> str:
    """What `body` says in a forked child: its result as text, or its exception's."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons warn of a fork beside threads
        pid = os.fork()
    if pid == 0:
        said = "the child failed"
        try:
            try:
                said = str(body())
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as said_by_child:
        text = said_by_child.read()
    os.waitpid(pid, 0)
    return text
