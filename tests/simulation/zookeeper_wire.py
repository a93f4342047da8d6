"""kazoo's client on simulated connections: what the real `Client` uses instead of `kazoo.client.KazooClient`.

The rule: it tells what kazoo tells, in kazoo's order, from a thread of its own. Requests are sent and answered one
after the other. What is not answered when the connection ends fails with ConnectionLoss, whether or not it was carried
out, and every watch is told of NONE; what is asked for after that waits for the next connection. When the servers have
ended the session, kazoo says LOST and begins another one by itself. The real `Handler` decides about connections.

Nothing arrives twice (TCP). What is under way when the client closes a connection may still arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLoss,
    SessionExpiredError,
)
from kazoo.protocol.states import EventType, KazooState, KeeperState, WatchedEvent

from coordkit.backends.zookeeper import client as real
from coordkit.backends.zookeeper.adapter import ZooKeeperBackend
from coordkit.backends.zookeeper.client import Target
from coordkit.backends.zookeeper.lifeline import Lifeline
from coordkit.backends.zookeeper.target import acl_of
from coordkit.lease import waited_for
from coordkit.testing.virtual import Process
from tests.simulation.zookeeper_model import Connection, Ensemble, Request, Server, Way
from tests.simulation.zookeeper_tree import Check, Create, Delete, Op, Put

T = TypeVar("T")

CLOSED = (KeeperState.EXPIRED_SESSION, KeeperState.AUTH_FAILED, KeeperState.CLOSED)
HAND_OVER = 20e-6  # s, at most: from one thread to another


class Weather(Protocol):
    """Decides what becomes of a message: the seconds that it takes; None: the connection is reset, and it is lost."""

    def request(self, kind: str) -> float | None:
        """On its way to a server: of `Request`, or "dial", "connect"."""
        ...

    def reply(self, kind: str) -> float | None:
        """On its way to the client: of `Request`, or "granted", "event"."""
        ...


class Fair:
    """Every message takes the same time."""

    def __init__(self, seconds: float = 0.001) -> None:
        self.seconds = seconds

    def request(self, kind: str) -> float | None:
        return self.seconds

    def reply(self, kind: str) -> float | None:
        return self.seconds


class Wire:
    """The way between one process and one server."""

    def __init__(self, site: Site, server: Server) -> None:
        self.site = site
        self.server = server
        self.world = site.process.world
        self.weather: Weather = Fair()
        self.silent = False  # packets vanish
        self.refusing = False  # connections break, and none can be made
        self.delivers: Callable[[], bool] = lambda: (
            self.world.chance.random() < 0.5
        )  # what a closed connection has on it
        self.lines: dict[Line, None] = {}

    def cut(self, *, refused: bool = False) -> None:
        """Nothing gets through any more; `refused`: and both ends notice."""
        self.silent, self.refusing = not refused, refused
        if refused:
            self.reset()

    def mend(self, *, broken: bool | None = None) -> None:
        """It works again: what waited is sent again and arrives. Or the connections are found broken."""
        self.silent = self.refusing = False
        if self.world.chance.random() < 0.5 if broken is None else broken:
            self.reset()
        for line in list(self.lines):
            line.flow()

    def reset(self) -> None:
        """Break the connections that stand."""
        for line in list(self.lines):
            line.reset()


class Line:
    """One connection, with what is on it in both directions."""

    _numbers = itertools.count(1)

    def __init__(self, wire: Wire, kazoo: SimulatedKazoo) -> None:
        self.wire = wire
        self.number = next(self._numbers)
        self.kazoo = kazoo
        self.far = Connection(wire.server, self)
        self.open = True  # at the client
        self.come: deque[Callable[[], None]] = deque()  # at the client, not looked at
        self._broken = False  # at both ends
        self._ended_here = False  # the client has closed it, or half of it
        self._up, self._down = Way(wire.world), Way(wire.world)
        self._stuck_up: list[Callable[[], None]] = []
        self._stuck_down: list[Callable[[], None]] = []
        wire.lines[self] = None

    # --- from the client -------------------------------------------------------------------------------------

    def send(self, kind: str, call: Callable[[], None]) -> None:
        """Something for the server."""
        delay = self.wire.weather.request(kind)
        if delay is None:
            self.reset()
        elif self.open and not self._ended_here:
            self._up.carry(delay, lambda: self._arrive_up(call))

    def close(self) -> None:
        """The client closes it; the server will know."""
        if self.open:
            self.open = False
            self._end()

    def _end(self) -> None:
        """The client sends nothing more, and looks at nothing that comes from now on."""
        if self._ended_here:
            return
        self._ended_here = True
        wire = self.wire
        if wire.delivers():
            self._up.carry(0.0005, lambda: self._arrive_up(self._closed))
        else:
            self._broken = True
            self._forget()
            wire.world.after(0.0005, lambda: None if wire.silent else self.far.gone())

    def _closed(self) -> None:
        self._forget()
        self.far.gone()

    def _arrive_up(self, call: Callable[[], None]) -> None:
        if self._broken:
            return
        if self.wire.silent or self._stuck_up:
            self._stuck_up.append(call)
        else:
            self.far.inbox.put(call)

    # --- from the server -------------------------------------------------------------------------------------

    def tell(self, kind: str, message: Any) -> None:
        """Something for the client."""
        delay = self.wire.weather.reply(self.kazoo.kind_of(message[0]) if kind == "answer" else kind)
        if delay is None:
            self.reset()
        elif self.open:
            self._down.carry(delay, lambda: self._arrive_down(lambda: self.kazoo.receive(kind, message)))

    def hang_up(self) -> None:
        """The server closes it: after what it has said."""
        self._down.carry(0.0005, lambda: self._arrive_down(self._ended))

    def _arrive_down(self, call: Callable[[], None]) -> None:
        if self._broken or self._ended_here:
            return
        if self.wire.silent or self._stuck_down:
            self._stuck_down.append(call)
        else:
            self._come(call)

    def _come(self, call: Callable[[], None]) -> None:
        self.come.append(call)
        self.kazoo.site.on_thread(0.0, self.look)

    def look(self) -> None:
        """On kazoo's thread: take what has come."""
        while self.come and self.open:
            self.come.popleft()()

    def _ended(self) -> None:
        self.kazoo.dropped(self)

    # --- what befalls it -------------------------------------------------------------------------------------

    def reset(self) -> None:
        """It breaks, with what is on it; both ends learn of it."""
        if self._broken:
            return
        self._broken = True
        self._forget()
        world = self.wire.world
        if not self._ended_here:
            world.after(0.0005, lambda: self._come(self._ended))
        world.after(0.0005, self.far.gone)

    def leave(self) -> None:
        """What the handler does with a connection that it lets go of: what has come is still read."""
        if self.open and not self._ended_here:
            self._end()
            self._come(self._ended)

    def flow(self) -> None:
        """It gets through again."""
        up, self._stuck_up = self._stuck_up, []
        down, self._stuck_down = self._stuck_down, []
        for call in up:
            self._arrive_up(call)
        for call in down:
            self._arrive_down(call)

    def _forget(self) -> None:
        self.wire.lines.pop(self, None)


@dataclass(slots=True)
class Asked:
    """A request of kazoo's queue, and who is told of the answer."""

    request: Request
    answer: Any  # of wire.Answer; None for the farewell
    watcher: Callable[[Any], None] | None = None
    bare: bool = False  # children without the stat


class SimulatedKazoo:
    """What `Client` uses of a `KazooClient`, with its thread."""

    def __init__(
        self,
        site: Site,
        *,
        hosts: str,
        timeout: float,
        handler: Any,
        connection_retry: Any,
        logger: Any,
        client_id: tuple[int, bytes] = (0, b""),
        **_: Any,
    ) -> None:
        self.site = site
        self.handler = handler
        self.logger = logger
        self.client_state = KeeperState.CLOSED
        self.ended = asyncio.Event()  # its thread is over
        self.line: Line | None = None
        self.idle_pings = True
        self._hosts = hosts.split(",")
        self._timeout = timeout
        self._retry = connection_retry
        self._nap = connection_retry.delay
        self._napping = False
        self._state = KazooState.LOST
        self._listeners: list[Callable[[Any], None]] = []
        self._queue: deque[Asked] = deque()
        self._pending: deque[Asked] = deque()
        self._data_watchers: dict[str, list[Callable[[Any], None]]] = defaultdict(list)
        self._child_watchers: dict[str, list[Callable[[Any], None]]] = defaultdict(list)
        self._stopped = False
        self._session = client_id[0]
        self._seen = 0  # zxid
        self._granted = 0.0  # timeout
        self._numbers = itertools.count(1)
        self._left: deque[str] = deque()  # hosts to try
        self._selecting = 0  # number of the wait that is under way
        self._deadline = 0.0  # of the next ping
        self._pinged = False  # and not answered
        site.kazoos.append(self)

    # --- as kazoo's ------------------------------------------------------------------------------------------

    def add_listener(self, listener: Callable[[Any], None]) -> None:
        self._listeners.append(listener)

    def start_async(self) -> None:
        self.site.on_thread(HAND_OVER, self._connect)

    def stop(self) -> None:
        """Returns at once; `Site.offload` waits for the end of the thread, as kazoo would."""
        if self._stopped:
            return
        self._stopped = True
        self._queue.append(Asked(Request(next(self._numbers), "close"), None))
        self.site.on_thread(HAND_OVER, self._send)
        if self._napping:
            self.site.on_thread(0.1, self._try_next)

    def close(self) -> None:
        pass

    def create_async(
        self, path: str, value: bytes = b"", acl: Any = None, ephemeral: bool = False, sequence: bool = False
    ) -> Any:
        return self._ask("write", ops=(Create(path, value, ephemeral, sequence),))

    def delete_async(self, path: str, version: int = -1) -> Any:
        return self._ask("write", ops=(Delete(path),))

    def exists_async(self, path: str, watch: Any = None) -> Any:
        return self._ask("exists", path, watch)

    def get_async(self, path: str, watch: Any = None) -> Any:
        return self._ask("data", path, watch)

    def get_children_async(self, path: str, watch: Any = None, include_data: bool = False) -> Any:
        return self._ask("children", path, watch, bare=not include_data)

    def sync_async(self, path: str) -> Any:
        return self._ask("sync", path)

    def transaction(self) -> Transaction:
        return Transaction(self)

    def commit(self, ops: Sequence[Op]) -> Any:
        """All of them or none."""
        return self._ask("write", ops=tuple(ops), multi=True)

    def _ask(
        self,
        kind: str,
        path: str = "",
        watch: Callable[[Any], None] | None = None,
        *,
        ops: tuple[Op, ...] = (),
        multi: bool = False,
        bare: bool = False,
    ) -> Any:
        answer = self.handler.async_result()
        refusal = {
            KeeperState.CLOSED: ConnectionClosedError("Connection has been closed"),
            KeeperState.AUTH_FAILED: AuthFailedError(),
            KeeperState.EXPIRED_SESSION: SessionExpiredError(),
        }.get(self.client_state)
        if refusal is not None:
            answer.set_exception(refusal)
            return answer
        request = Request(next(self._numbers), kind, path, ops, multi, watch is not None)
        self._queue.append(Asked(request, answer, watch, bare))
        self.site.on_thread(self.site.process.chance.uniform(0, HAND_OVER), self._send)
        return answer

    # --- its thread: connecting ------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Try the hosts, one after the other."""
        self._napping = False
        if not self._left:
            self._left.extend(self._hosts)
            self.site.process.chance.shuffle(self._left)
        self._try_next()

    def _try_next(self) -> None:
        if self.ended.is_set():
            return
        if self._stopped:
            self._end()
        elif not self._left:
            spread = self._retry.max_jitter
            nap = self._nap * self.site.process.chance.uniform(1 - spread, 1 + spread)
            self._nap, self._napping = min(nap * self._retry.backoff, self._retry.max_delay), True
            self.site.on_thread(nap, self._connect)
        else:
            self._become(KeeperState.CONNECTING)
            self._dial(self.site.wires[self._left.popleft()])

    def _dial(self, wire: Wire) -> None:
        handler, site, name = self.handler, self.site, wire.server.name
        if handler.abandoned or name in handler._left:
            handler._left.discard(name)
            self._failed("refused")
            return
        granted = handler._connecting(handler)
        delay = wire.weather.request("dial")
        if wire.silent:
            site.on_thread(min(self._timeout, handler._longest_wait), lambda: self._failed("timed out"))
        elif wire.refusing or not wire.server.up or delay is None:
            site.on_thread(0.001, lambda: self._failed("refused"))
        else:  # also by the kernel of a server that is paused
            site.on_thread(2 * delay, lambda: self._greet(wire, granted))

    def _failed(self, why: str) -> None:
        self.logger.warning("Connection dropped: %s", why)
        self.site.on_thread(HAND_OVER, self._try_next)

    def _greet(self, wire: Wire, granted: Callable[[int, int, bytes], None]) -> None:
        if not wire.server.up:
            self._failed("reset")
            return
        line = self.line = Line(wire, self)
        self._announce = granted
        self.handler._address, self.handler._socket = wire.server.name, line
        self.handler._leave_if_abandoned()
        session, seen = self._session, self._seen
        line.send("connect", lambda: line.far.connect(session, self._timeout, seen))
        wait = min(self._timeout / len(self._hosts), self.handler._longest_wait)
        self._select(wait, lambda: self.dropped(line))

    def _on_granted(self, session: int, timeout: float) -> None:
        self._announce(session, round(timeout * 1000), session.to_bytes(16, "big"))
        if timeout <= 0:
            self._close_line()
            self._nap = self._retry.delay
            self._become(KeeperState.EXPIRED_SESSION)
            self.site.on_thread(HAND_OVER, self._try_next)
            return
        self._session, self._granted = session, timeout
        self._nap = self._retry.delay
        self._become(KeeperState.CONNECTED)
        self._pinged = False
        self._wait(sent=True)
        self._send()

    # --- its thread: connected -------------------------------------------------------------------------------

    def receive(self, kind: str, message: Any) -> None:
        """Something from the server."""
        if kind == "granted":
            self._on_granted(*message)
            return
        if kind == "event":
            self._on_event(*message)
        else:
            self._on_answer(*message)
        if self.line is not None and self.line.open:
            if self._now() >= self._deadline:
                self._ping()
            self._wait(sent=False)

    def kind_of(self, number: int) -> str:
        """What was asked for by this number."""
        return next((asked.request.kind for asked in self._pending if asked.request.number == number), "ping")

    def _on_event(self, kind: str, path: str) -> None:
        told: list[Callable[[Any], None]] = []
        if kind != EventType.CHILD:
            told += self._data_watchers.pop(path, [])
        if kind in (EventType.CHILD, EventType.DELETED):
            told += self._child_watchers.pop(path, [])
        for watcher in told:
            watcher(WatchedEvent(kind, self.client_state, path))

    def _on_answer(self, number: int, zxid: int, answer: Any) -> None:
        if number == 0:
            self._pinged = False
            return
        asked = self._pending.popleft()
        assert asked.request.number == number, "a server answers in the order of the questions"
        self._seen = zxid or self._seen
        if asked.answer is None:
            self._close_line()
            self._end()
            return
        kind, failed = asked.request.kind, isinstance(answer, Exception)
        if failed:
            asked.answer.set_exception(answer)
        else:
            asked.answer.set(answer[0] if asked.bare else answer)
        if asked.watcher is not None and not self._stopped and not failed:
            watchers = self._child_watchers if kind == "children" else self._data_watchers
            watchers[asked.request.path].append(asked.watcher)

    def _send(self) -> None:
        line = self.line
        if line is None or not line.open or self.client_state != KeeperState.CONNECTED:
            return
        while self._queue and line.open:
            asked = self._queue.popleft()
            self._pending.append(asked)
            line.send(asked.request.kind, lambda asked=asked: line.far.receive(asked.request))  # type: ignore[misc]
            self._wait(sent=True)

    def _ping(self) -> None:
        self._pinged = True
        line = self.line
        assert line is not None
        if self.idle_pings:
            line.send("ping", lambda: line.far.receive(Request(0, "ping")))
        self._wait(sent=True)

    def _wait(self, *, sent: bool) -> None:
        """Wait for something to read or send; `sent`: something was, so the next ping is due later."""
        read_timeout, line = self._granted * 2 / 3, self.line
        jitter = self.site.process.chance.uniform(0.01, 0.4)
        if sent:
            self._deadline = self._now() + read_timeout / 2 - jitter

        def nothing_came() -> None:
            if self._pinged and self.idle_pings:
                self._pinged = False
                assert line is not None
                self.dropped(line)
            elif self._now() >= self._deadline:
                self._ping()
            else:
                self._wait(sent=False)

        self._select(max(self._deadline - self._now(), jitter), nothing_came)

    def _select(self, seconds: float, nothing_came: Callable[[], None]) -> None:
        """Wait so long; whatever happens, another wait takes the place of this one."""
        self._selecting += 1
        number, line, handler = self._selecting, self.line, self.handler
        if waited_for(handler.alive, self.site.process.clock.now()) > handler.timeout:
            handler.abandon()

        def over() -> None:
            if number == self._selecting and line is self.line and line is not None and line.open:
                if line.come:
                    line.look()
                else:
                    nothing_came()

        self.site.on_thread(seconds, over)

    def _now(self) -> float:
        return self.site.process.clock.now().mono

    # --- its thread: the end of a connection -----------------------------------------------------------------

    def dropped(self, line: Line) -> None:
        """The connection is over."""
        if line is not self.line or not line.open:
            return
        self.logger.warning("Connection dropped: %s", "socket connection broken")
        self._close_line()
        self._become(KeeperState.CONNECTING)
        self.site.on_thread(HAND_OVER, self._try_next)

    def _close_line(self) -> None:
        line, self.line = self.line, None
        if line is not None:
            line.close()

    def _end(self) -> None:
        self._become(KeeperState.CLOSED)
        self.handler._failed(self.handler, None)
        self.ended.set()

    def _become(self, state: Any) -> None:
        if state == self.client_state:
            return
        was_closed = self.client_state in CLOSED
        self.client_state = state
        if was_closed and state == KeeperState.CONNECTING:
            return
        if state == KeeperState.CONNECTED:
            self._tell(KazooState.CONNECTED)
        elif state in CLOSED:
            self._tell(KazooState.LOST)
            self._fail_all(SessionExpiredError if state == KeeperState.EXPIRED_SESSION else ConnectionLoss)
            self._session = self._seen = 0
            self._fire_all()
        else:
            self._fail_all(ConnectionLoss)
            self._tell(KazooState.SUSPENDED)
            self._fire_all()

    def _tell(self, state: Any) -> None:
        if self._state != state:
            self._state = state
            for listener in self._listeners:
                listener(state)

    def _fail_all(self, error: type[Exception]) -> None:
        for asked in (*self._pending, *self._queue):
            if asked.answer is not None:
                asked.answer.set_exception(error())
        self._pending.clear()
        self._queue.clear()

    def _fire_all(self) -> None:
        watchers = [*self._child_watchers.values(), *self._data_watchers.values()]
        self._child_watchers.clear()
        self._data_watchers.clear()
        for watcher in itertools.chain.from_iterable(watchers):
            watcher(WatchedEvent(EventType.NONE, self.client_state, None))


class Transaction:
    """As kazoo's `TransactionRequest`."""

    def __init__(self, kazoo: SimulatedKazoo) -> None:
        self._kazoo = kazoo
        self._ops: list[Op] = []

    def create(
        self, path: str, value: bytes = b"", acl: Any = None, ephemeral: bool = False, sequence: bool = False
    ) -> None:
        self._ops.append(Create(path, value, ephemeral, sequence))

    def delete(self, path: str, version: int = -1) -> None:
        self._ops.append(Delete(path))

    def set_data(self, path: str, value: bytes, version: int = -1) -> None:
        self._ops.append(Put(path, value))

    def check(self, path: str, version: int) -> None:
        self._ops.append(Check(path))

    def commit_async(self) -> Any:
        return self._kazoo.commit(self._ops)


@dataclass(eq=False)
class Site:
    """A process with its ways to the servers: the host of the real adapter, whose threads it runs."""

    process: Process
    ensemble: Ensemble
    wires: dict[str, Wire] = field(default_factory=dict)
    kazoos: list[SimulatedKazoo] = field(default_factory=list)
    lifelines: dict[int, Lifeline] = field(default_factory=dict)  # by session: all that this process has had

    @property
    def clock(self) -> Any:
        return self.process.clock

    @property
    def chance(self) -> Any:
        return self.process.chance

    @property
    def log(self) -> Any:
        return self.process.log

    @property
    def journal(self) -> Any:
        return self.process.journal

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        return self.process.spawn(work, name)

    async def offload(self, call: Callable[[], T]) -> T:
        """As the process does it; a thread that stops kazoo waits until it has stopped."""
        outcome = await self.process.offload(call)
        for kazoo in self.kazoos:
            if kazoo._stopped:
                await kazoo.ended.wait()
        return outcome

    def on_thread(self, seconds: float, call: Callable[[], None]) -> None:
        """Call on kazoo's thread in so many seconds of this machine's clock; not while the process is paused."""
        machine = self.process.machine
        self.process.later(machine.true_time_of_mono(machine.now().mono + seconds) - self.process.world.now, call)

    @property
    def connected(self) -> Server | None:
        """Which server it is connected to."""
        lines = [kazoo.line for kazoo in self.kazoos if kazoo.line is not None]
        return lines[-1].wire.server if lines else None

    def die(self) -> None:
        """The process was killed: its connections are closed by the kernel."""
        for kazoo in self.kazoos:
            if kazoo.line is not None:
                kazoo.line.close()

    def overdrawn(self) -> list[str]:
        """Which sessions it was promised for longer than they lasted."""
        found = []
        for session, lifeline in self.lifelines.items():
            promise, end = lifeline.promise(), self.ensemble.expired.get(session)
            if promise is not None and end is not None:
                over = self.process.machine.true_time_of_boot(promise.sent.boot + promise.span) - end
                if over > 1e-6:
                    found.append(
                        f"{self.process.name} was promised {over:.6f} s more of session {session:x} than it had"
                    )
        return found


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Within, a client whose host is a site gets a simulated kazoo."""

    def made(*, handler: Any, **options: Any) -> Any:
        site = handler._connecting.__self__._host
        if isinstance(site, Site):
            return SimulatedKazoo(site, handler=handler, **options)
        return KazooClient(handler=handler, **options)

    kept, real.KazooClient = real.KazooClient, made  # type: ignore[attr-defined]
    try:
        yield
    finally:
        real.KazooClient = kept  # type: ignore[attr-defined]


def join(process: Process, ensemble: Ensemble, servers: Sequence[Server] | None = None, *, ttl: float) -> Site:
    """Give a process the real ZooKeeper adapter, as its session with this ensemble; within `simulated`."""
    site = Site(process, ensemble)
    for server in ensemble.servers if servers is None else servers:
        site.wires[server.name] = Wire(site, server)
    backend = ZooKeeperBackend(Target(tuple(site.wires), ttl), "", site, process.world.drift, acl_of("open"))
    client, changed = backend.client, backend.client._changed

    def noted() -> None:
        if client.session is not None:
            site.lifelines[client.session.number] = client.session.lifeline
        changed()

    client._changed = noted
    process.use(backend)
    return site
