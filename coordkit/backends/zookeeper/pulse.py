"""Keeping one ZooKeeper session, and knowing it.

The rules: a beat is one transaction that checks all own nodes which lead or come next, and changes nothing, so it uses
up nobody's watch: that it commits shows that they are there, and lets the session's account go on (`lifeline`). It is
asked for every `PACE` of the timeout. Where nothing leads or comes next, a read takes its place: it costs one server
little, and is what a later write needs to count. A server that does not answer in time is left for another.

What is missing is final: a node's name is never used again. A session that has had no connection for longer than its
timeout is not taken up again: it is over, and servers that were made anew would never take its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kazoo.exceptions import NoNodeError

from coordkit.backends.contract import Host
from coordkit.backends.zookeeper.client import REFUSALS, Client, ServerSession
from coordkit.errors import BackendError, OutcomeUnknown, Rejected, Unavailable
from coordkit.lease import waited_for, waiting_time
from coordkit.retry import jitter
from coordkit.waiting import being_cancelled, until

PACE: Final = 0.1  # of the timeout, from one beat to the next: three of them are more than lifeline.PING_GAP
PATIENCE: Final = 0.25  # of the timeout, for one answer; then the server is left
MOST_BYTES: Final = 250_000  # of paths in one transaction; servers take requests of about 1 MB
IDLE_SECONDS: Final = 10.0  # a timeout, where none was granted yet
ROUNDS: Final = 4  # of one beat, where nodes are missing


@dataclass(frozen=True, slots=True)
class Beat:
    """What one beat has shown. All nodes of `asked` are there, but for those that are `missing`, and for those that we
    have no right to ask about any more: nothing is known of them.
    """

    session: ServerSession
    asked: frozenset[str]
    missing: frozenset[str]
    refused: frozenset[str]


class Pulse:
    """The beats of one client. Lives on the host's loop."""

    def __init__(self, client: Client, host: Host, chroot: str, drift: float, told_refused: Callable[[], None]) -> None:
        self.nodes: set[str] = set()  # own nodes that lead or come next
        self.refused: frozenset[str] = frozenset()  # of them, those that we may not ask about any more
        self._told_refused = told_refused  # called when there are more of them
        self._client = client
        self._host = host
        self._chroot = chroot or "/"
        self._drift = drift
        self._begun = 0  # beats
        self._running: asyncio.Task[Beat | BackendError] | None = None
        self._latest = host.clock.now()  # when something was asked for
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Beat from now on."""
        if self._loop is None:
            self._loop = self._host.spawn(self._go_on(), "zookeeper-pulse")

    def stop(self) -> None:
        """Beat no more."""
        for task in (self._loop, self._running):
            if task is not None:
                task.cancel()

    def wake(self) -> None:
        """There is a connection, or there is none any more: the next beat is due."""
        self._wake.set()

    async def beat(self, *, joins: bool = False) -> Beat:
        """One beat that begins after this call; all who ask meanwhile share it. Raises what kept it from committing.

        `joins`: one that is under way will do.
        """
        before = self._begun - (joins and self._running is not None and not self._running.done())
        while True:
            running = self._running
            if running is None or running.done():  # done: who waits for it would not wait, and nobody else could go on
                self._begun += 1
                running = self._running = self._host.spawn(self._beat_once(), "zookeeper-beat")
                running.add_done_callback(self._over)
            number = self._begun
            try:
                outcome = await asyncio.shield(running)
            except asyncio.CancelledError:
                if running.cancelled() and not being_cancelled():
                    raise OutcomeUnknown("the session is closed", backend="zookeeper", operation="renew") from None
                raise
            if number > before:
                if isinstance(outcome, BackendError):
                    raise type(outcome)(str(outcome), backend="zookeeper", operation="renew") from outcome
                return outcome

    def _over(self, task: asyncio.Task[Beat | BackendError]) -> None:
        if self._running is task:
            self._running = None

    async def _beat_once(self) -> Beat | BackendError:
        try:
            return await self._patiently(self._check_all())
        except BackendError as error:
            return error

    async def _check_all(self) -> Beat:
        session = self._session()
        asked, missing, refused = frozenset(self.nodes), set[str](), set[str]()
        seconds = PATIENCE * session.timeout
        self._latest = self._host.clock.now()
        if not asked:
            await self._touch(seconds)
        await asyncio.gather(*(self._check(batch, missing, refused, seconds) for batch in _batches(sorted(asked))))
        if self._client.session is not session:
            raise OutcomeUnknown("the session has ended", backend="zookeeper", operation="renew")
        more, self.refused = refused - self.refused, frozenset(refused)
        if more:
            self._told_refused()
        return Beat(session, asked, frozenset(missing), frozenset(refused))

    async def _check(self, paths: Sequence[str], missing: set[str], refused: set[str], seconds: float) -> None:
        left = list(paths)
        for _ in range(ROUNDS):

            def check(transaction: Any, asked: Sequence[str] = tuple(left)) -> None:
                for path in asked:
                    transaction.check(path, -1)

            results = await self._client.commit("renew", check, seconds, refusals=True)
            if not any(isinstance(result, Exception) for result in results):
                return
            if not any(isinstance(result, (NoNodeError, *REFUSALS)) for result in results):
                raise OutcomeUnknown(f"a check failed: {results[-1]!r}", backend="zookeeper", operation="renew")
            # A transaction tells of the first node that fails; where there is one, there may be more.
            found = await asyncio.gather(*(self._readable(path, seconds) for path in left))
            missing |= {path for path, readable in zip(left, found, strict=True) if readable is None}
            refused |= {path for path, readable in zip(left, found, strict=True) if readable is False}
            left = [path for path, readable in zip(left, found, strict=True) if readable]
            if not left:
                return
        raise OutcomeUnknown(f"undecided after {ROUNDS} rounds", backend="zookeeper", operation="renew")

    async def _readable(self, path: str, seconds: float) -> bool | None:
        """None: there is no such node. False: we may not read it, and a check takes the same right."""
        try:
            await self._client.read("renew", lambda kazoo: kazoo.get_async(path), seconds)
        except NoNodeError:
            return None
        except Rejected:
            return False
        return True

    async def _touch(self, seconds: float) -> None:
        await self._client.read("touch", lambda kazoo: kazoo.exists_async(self._chroot), seconds)

    async def _patiently(self, call: Awaitable[Beat]) -> Beat:
        try:
            return await call
        except (OutcomeUnknown, Unavailable) as error:
            if isinstance(error.__cause__, TimeoutError):
                self._client.leave(str(error))
            raise

    def _session(self) -> ServerSession:
        session = self._client.session
        if not self._client.connected or session is None or session.over:
            raise Unavailable("not connected", backend="zookeeper", operation="renew")
        return session

    async def _go_on(self) -> None:
        failures, at_once = 0, True
        while True:
            self._wake.clear()
            self._client.lives()
            session = self._client.session
            if not self._client.connected or session is None or session.over:
                await self._reconnect()
                at_once = True  # a connection is proved by the first beat over it
                continue
            left = PACE * session.timeout - waited_for(self._latest, self._host.clock.now())
            if left > 0 and not at_once:
                await until(self._wake, left)
                continue
            try:
                await self.beat()
                failures, at_once = 0, False
            except BackendError as error:
                failures += 1
                self._host.log.info("a beat failed: %r", error)
                nap = jitter(self._host.chance, failures, first=session.timeout / 48, most=session.timeout / 12)
                await until(self._wake, nap)

    async def _reconnect(self) -> None:
        """See that a server is looked for, for a while."""
        session, parted = self._client.session, self._client.parted
        timeout = session.timeout if session is not None else IDLE_SECONDS
        lasted = 0.0 if parted is None else waited_for(parted, self._host.clock.now())
        try:
            if session is not None and not session.over and lasted > waiting_time(timeout, self._drift):
                self._client.start_over("it has had no connection for its timeout", farewell=False)
            self._client.go_on()
        except BackendError as error:
            self._host.log.info("no server of ZooKeeper is looked for: %r", error)
        await until(self._wake, timeout / 12)


def _batches(paths: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path in paths:
        if batch and size + len(path) > MOST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += len(path) + 16
    if batch:
        yield batch
