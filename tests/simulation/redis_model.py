"""Voters on virtual time, and the way to each: the real scripts, and everything that can happen to a message.

The rule: a server executes what arrives, in the order in which it arrives, however late. A server that is paused does
it when it goes on; one that is killed loses what is under way to it, and its subscribers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from coordkit.backends.redis.adapter import RedisBackend
from coordkit.backends.redis.ballot import Rules
from coordkit.backends.redis.electorate import Electorate
from coordkit.backends.redis.layout import Record, Reply, channel_of, record_of, reply_of
from coordkit.errors import OutcomeUnknown, Unavailable
from coordkit.model import Guarantees
from coordkit.testing.links import LinkFaults
from coordkit.testing.virtual import WALL_START, Process, World
from tests.simulation.redis_lua import LuaError, MemoryServer

KEY = "coordkit"


class Server(MemoryServer):
    """One voter in a world."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(number, lambda: WALL_START + self.offset + world.now)
        self.world = world
        self.name = f"redis{number}"
        self.offset = 0.0  # of its clock, from the true time
        self.alive = True
        self.paused = False
        self.snapshot: dict[bytes, dict[bytes, bytes]] = {}
        self.on_broken: list[Callable[[], None]] = []  # connections that end with it
        self._waiting: list[Callable[[], None]] = []

    def receive(self, work: Callable[[], None]) -> None:
        """Something arrives."""
        if not self.alive:
            return
        if self.paused:
            self._waiting.append(work)
        else:
            work()

    def pause(self) -> None:
        """It does nothing until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """It does what has arrived meanwhile."""
        self.paused = False
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            self.receive(work)

    def kill(self) -> None:
        """It ends; its data are on the disk."""
        self.alive = False
        self.paused = False
        self._waiting.clear()
        self.subscribers.clear()
        for broken in list(self.on_broken):
            broken()

    def start(self) -> None:
        """It is there again, with the data that it has, as another run."""
        if not self.alive:
            self.alive = True
            self.starts += 1

    def remember(self) -> None:
        """A copy of the data, for `go_back`."""
        self.snapshot = {key: dict(fields) for key, fields in self.data.items()}

    def go_back(self) -> None:
        """It is started again with older data."""
        self.kill()
        self.data = {key: dict(fields) for key, fields in self.snapshot.items()}
        self.start()

    def flush(self) -> None:
        """FLUSHALL: the run goes on, and nothing is left."""
        self.data.clear()


class SimulatedVoter:
    """The way of one process to one voter."""

    def __init__(
        self,
        process: Process,
        server: Server,
        config: str,
        on_word: Callable[[str, bytes | None], None],
        retry: float,
    ) -> None:
        self.name = server.name
        self.live: dict[str, object] = {}
        self.faults = LinkFaults()
        self.process = process
        self.server = server
        self._config = config
        self._on_word = on_word
        self._retry = retry
        self._requests: dict[str, deque[Sequence[float]]] = {}
        self._replies: dict[str, deque[Sequence[float]]] = {}
        self._heard: dict[str, Callable[[bytes], None]] = {}
        self._closed = False
        server.on_broken.append(self._broken)

    # --- requests --------------------------------------------------------------------------------------------

    def order(self, name: str, *delays: float) -> None:
        """Copies of the next call of that script arrive after these delays, if anything gets through at all."""
        self._requests.setdefault(name, deque()).append(delays)

    def order_reply(self, name: str, *delays: float) -> None:
        """As `order`, for its answer."""
        self._replies.setdefault(name, deque()).append(delays)

    def ask(
        self, name: str, entry: tuple[str, ...], seconds: float, head: tuple[str, ...] = ()
    ) -> asyncio.Future[tuple[Reply, object]]:
        """As `voters.Voter.ask`."""
        answer: asyncio.Future[tuple[Reply, object]] = self.process.loop.create_future()
        self.process.start(self._asked(answer, name, entry, seconds, head), f"redis-{name}")
        return answer

    async def _asked(
        self,
        answer: asyncio.Future[tuple[Reply, object]],
        name: str,
        entry: tuple[str, ...],
        seconds: float,
        head: tuple[str, ...],
    ) -> None:
        chance, server = self.process.chance, self.server
        nonce, unused = (f"{chance.getrandbits(64):016x}" for _ in range(2))
        arguments = [each.encode() for each in (nonce, self._config, unused, *head, *entry)]
        raw: asyncio.Future[object] = self.process.loop.create_future()

        def execute() -> None:
            try:
                found: object = server.run(name, [KEY.encode()], arguments)
            except LuaError as error:
                found = error
            for delay in _ordered(self._replies, name, self.faults.reply()):
                self.process.deliver(delay, lambda: raw.done() or raw.set_result(found))

        try:
            if self._closed or not server.alive:
                raise Unavailable(f"{self.name}: refused", backend="redis")
            self.faults.check_refused()
            for delay in _ordered(self._requests, name, self.faults.request()):
                self.process.world.after(delay, lambda: server.receive(execute))
            async with asyncio.timeout(seconds):
                found = await raw
            if isinstance(found, LuaError):
                raise OutcomeUnknown(f"{self.name}: {found}", backend="redis")
            reply = reply_of(found, nonce)
        except TimeoutError:
            _settle(answer, OutcomeUnknown(f"{self.name}: no answer to {name} in time", backend="redis"))
        except (Unavailable, OutcomeUnknown) as error:
            _settle(answer, error)
        except asyncio.CancelledError:
            answer.cancel()
            raise
        else:
            if not answer.done():
                answer.set_result((reply, reply.answers[0] if entry and reply.answers else None))

    # --- words -----------------------------------------------------------------------------------------------

    def listen(self, election: str) -> None:
        """As `voters.Voter.listen`."""
        if election not in self._heard and not self._closed:
            self._heard[election] = lambda message: self._told(election, message)
            self._subscribe(election)

    def unlisten(self, election: str) -> None:
        """As `voters.Voter.unlisten`."""
        heard = self._heard.pop(election, None)
        self.live.pop(election, None)
        if heard is not None:
            self._unsubscribe(election, heard)

    async def close(self) -> None:
        """As `voters.Voter.close`."""
        self._closed = True
        for election in list(self._heard):
            self.unlisten(election)

    def _subscribe(self, election: str) -> None:
        heard = self._heard.get(election)
        if heard is None or self._closed or self.process.dead:
            return

        def subscribed() -> None:
            listeners = self.server.subscribers.setdefault(channel_of(KEY, election), [])
            if heard not in listeners:
                listeners.append(heard)
            for delay in self.faults.reply():
                self.process.deliver(delay, confirmed)

        def confirmed() -> None:
            if (
                self._heard.get(election) is heard
                and self._is_subscribed(election, heard)
                and election not in self.live
            ):
                self.live[election] = object()
                self._on_word(election, None)

        for delay in self.faults.request():
            self.process.world.after(delay, lambda: self.server.receive(subscribed))
        self.process.deliver(self._retry, lambda: None if election in self.live else self._subscribe(election))

    def _unsubscribe(self, election: str, heard: Callable[[bytes], None]) -> None:
        if self._is_subscribed(election, heard):
            self.server.subscribers[channel_of(KEY, election)].remove(heard)

    def _is_subscribed(self, election: str, heard: Callable[[bytes], None]) -> bool:
        return heard in self.server.subscribers.get(channel_of(KEY, election), [])

    def _told(self, election: str, message: bytes) -> None:
        for delay in self.faults.hint():
            self.process.deliver(delay, lambda: self._tell(election, message))

    def _tell(self, election: str, message: bytes) -> None:
        if election in self.live:
            self._on_word(election, message)

    def _broken(self) -> None:
        def lost() -> None:
            self.live.clear()
            for election in list(self._heard):
                self._subscribe(election)

        self.process.deliver(0.0, lost)


def _ordered(orders: dict[str, deque[Sequence[float]]], name: str, fate: Sequence[float]) -> Sequence[float]:
    return orders[name].popleft() if fate and orders.get(name) else fate


def _settle(answer: asyncio.Future[tuple[Reply, object]], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def all_know(servers: Sequence[Server], election: str, *, without: Server) -> bool:
    """Whether each majority knows the highest epoch of an election if this voter forgets it.

    Tokens rise then, whatever the clocks of servers show.
    """
    field = b"e:" + election.encode()
    records = {server: record_of(server.data.get(KEY.encode(), {}).get(field, b"")) for server in servers}
    highest = {server: record.highest for server, record in records.items() if isinstance(record, Record)}
    newest = max(highest.values(), default=0)
    know = sum(epoch == newest for server, epoch in highest.items() if server is not without)
    return newest == 0 or know > len(servers) - (len(servers) // 2 + 1)


GUARANTEES = Guarantees("redis", "an epoch", False, (), ())


def join(
    process: Process, servers: Sequence[Server], *, max_ttl: float, retry: float, drift: float, config: str = "c"
) -> list[SimulatedVoter]:
    """Give a process a session with these voters; the ways to them."""
    made: list[SimulatedVoter] = []
    rules = Rules(len(servers), max_ttl, drift)

    def voters(on_word: Callable[[int, str, bytes | None], None]) -> list[Any]:
        for place, server in enumerate(servers):

            def told(election: str, payload: bytes | None, place: int = place) -> None:
                on_word(place, election, payload)

            made.append(SimulatedVoter(process, server, config, told, retry))
        return list(made)

    process.use(RedisBackend(Electorate(process, rules, config, voters), GUARANTEES))
    return made
