"""The ways between simulated clients and members: what the real `Connection` uses instead of gRPC's channels.

The rule: a call fails as gRPC fails it. A connection that breaks fails all its calls, `UNAVAILABLE`, whether or not
they were carried out; one that falls silent fails none, so they run into their deadlines, and what was under way may
arrive long after. Nothing arrives twice. The messages of one stream keep their order, calls overtake each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc

from coordkit.backends.etcd.adapter import EtcdBackend
from coordkit.backends.etcd.connection import Connection, Target
from coordkit.testing.virtual import Process
from tests.simulation.etcd_model import Cluster, Member, WatchStream
from tests.simulation.etcd_store import Refusal

CONNECT_AGAIN = 1.0  # s until a connection that is not answered is tried again

BROKEN = Refusal("UNAVAILABLE", "connection reset by peer")
REFUSED = Refusal("UNAVAILABLE", "connection refused")
TOO_LATE = Refusal("DEADLINE_EXCEEDED", "Deadline Exceeded")
ENDED = Refusal("OK", "")


class Weather(Protocol):
    """Decides what becomes of a message: the seconds that it takes; None: the connection breaks, and it is lost."""

    def request(self, path: str, message: Any) -> float | None:
        """On its way to a member."""
        ...

    def reply(self, path: str, message: Any) -> float | None:
        """On its way to the client."""
        ...


class Fair:
    """Every message takes the same time."""

    def __init__(self, seconds: float = 0.001) -> None:
        self.seconds = seconds

    def request(self, path: str, message: Any) -> float | None:
        return self.seconds

    def reply(self, path: str, message: Any) -> float | None:
        return self.seconds


class Wire:
    """The way between one process and one member."""

    def __init__(self, process: Process, member: Member) -> None:
        self.process = process
        self.member = member
        self.world = process.world
        self.weather: Weather = Fair()
        self.silent = False  # packets vanish
        self.refusing = False  # connections break, and none can be made
        self.channels: list[Channel] = []
        self._busy_until = 0.0  # with what waited: nothing overtakes it
        self._stuck: list[Callable[[], None]] = []  # sent while it was silent: sent again when it is mended
        member.hangs_up.append(self.hang_up)

    def cut(self, *, refused: bool = False) -> None:
        """Nothing gets through any more; `refused`: and the client notices."""
        self.silent, self.refusing = not refused, refused
        if refused:
            self.hang_up()

    def mend(self) -> None:
        """It works again: what waited is sent again and arrives, in its order. Or the connections are found broken."""
        self.silent = self.refusing = False
        stuck, self._stuck = self._stuck, []
        chance = self.world.chance
        broken = chance.random() < 0.5
        if broken:
            self.hang_up()
        seconds = 0.0
        for call in stuck:
            seconds += chance.uniform(0, 0.001)
            if not broken or chance.random() < 0.5:  # what was on its way before that may arrive all the same
                self.world.after(seconds, call)
        self._busy_until = self.world.now + seconds

    def hang_up(self) -> None:
        """Break the connections that stand."""
        for channel in list(self.channels):
            channel.break_off()

    def carry(self, seconds: float, call: Callable[[], None]) -> None:
        """Let something arrive after so long, or when the wire is mended."""

        def arrive() -> None:
            if self.silent:
                self._stuck.append(call)
            else:
                call()

        self.world.after(max(seconds, self._busy_until - self.world.now), arrive)


class Channel:
    """What `grpc.aio.insecure_channel` would return, as far as `Connection` and the stubs use it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._state = grpc.ChannelConnectivity.IDLE
        self._changed = asyncio.Event()
        self._calls: dict[Call, None] = {}
        wire.channels.append(self)

    # --- as gRPC's -------------------------------------------------------------------------------------------

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        if try_to_connect and self._state is grpc.ChannelConnectivity.IDLE:
            self._connect()
        return self._state

    async def wait_for_state_change(self, last: grpc.ChannelConnectivity) -> None:
        while self._state is last:
            self._changed.clear()
            await self._changed.wait()

    def unary_unary(self, path: str, **_: Any) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, *, timeout: float | None = None, metadata: Any = ()) -> Any:
            made = Call(self, path, metadata, timeout)
            self.when_ready(lambda: made.send(request))
            try:
                return await made.next()
            finally:
                made.over()

        return call

    def stream_stream(self, path: str, **_: Any) -> Callable[..., Any]:
        def call(requests: Any, *, timeout: float | None = None, metadata: Any = ()) -> Call:
            made = Call(self, path, metadata, timeout)
            self.when_ready(lambda: made.stream(requests))
            return made

        return call

    def unary_stream(self, path: str, **_: Any) -> Callable[..., Any]:
        def call(request: Any, **_: Any) -> Any:
            raise NotImplementedError(path)

        return call

    async def close(self) -> None:
        """Every call under way is cancelled, as gRPC does it."""
        self._become(grpc.ChannelConnectivity.SHUTDOWN)
        if self in self.wire.channels:
            self.wire.channels.remove(self)
        for call in list(self._calls):
            call.cancel()

    # --- what befalls it -------------------------------------------------------------------------------------

    def when_ready(self, send: Callable[[], None]) -> None:
        """Send now; connect first if need be. A connection that has failed refuses at once."""
        if self._state is grpc.ChannelConnectivity.READY:
            send()
            return
        if self._state is grpc.ChannelConnectivity.IDLE:
            self._connect()
        self.wire.process.start(self._once_ready(send), "grpc-connect")

    async def _once_ready(self, send: Callable[[], None]) -> None:
        while self._state is grpc.ChannelConnectivity.CONNECTING:
            await self.wait_for_state_change(self._state)
        if self._state is grpc.ChannelConnectivity.READY:
            send()
        else:
            self._fail(REFUSED)

    def break_off(self) -> None:
        """The connection is reset: every call fails, after a moment."""
        if self._state is grpc.ChannelConnectivity.READY:
            self.wire.process.deliver(0.0005, self._broken)

    def _broken(self) -> None:
        if self._state is grpc.ChannelConnectivity.READY:
            self._become(grpc.ChannelConnectivity.TRANSIENT_FAILURE)
            self._fail(BROKEN)

    def _fail(self, why: Refusal) -> None:
        for call in list(self._calls):
            call.take(why)

    def add(self, call: Call) -> None:
        """A call is under way on it."""
        self._calls[call] = None

    def forget(self, call: Call) -> None:
        """A call is over."""
        self._calls.pop(call, None)

    def _connect(self) -> None:
        self._become(grpc.ChannelConnectivity.CONNECTING)
        self._knock()

    def _knock(self) -> None:
        wire, member = self.wire, self.wire.member
        delay = wire.weather.request("connect", None)
        lost, seconds = delay is None, delay or 0.0005

        def answered(state: grpc.ChannelConnectivity) -> None:
            if self._state is grpc.ChannelConnectivity.CONNECTING:
                self._become(state)

        def arrive() -> None:
            if wire.silent:
                wire.process.deliver(CONNECT_AGAIN, self._knock_again)
            elif wire.refusing or not member.up or lost:
                wire.process.deliver(0.0005, lambda: answered(grpc.ChannelConnectivity.TRANSIENT_FAILURE))
            else:
                member.when_running(
                    lambda: wire.process.deliver(seconds, lambda: answered(grpc.ChannelConnectivity.READY))
                )

        wire.world.after(seconds, arrive)

    def _knock_again(self) -> None:
        if self._state is grpc.ChannelConnectivity.CONNECTING:
            self._knock()

    def _become(self, state: grpc.ChannelConnectivity) -> None:
        if self._state is not grpc.ChannelConnectivity.SHUTDOWN:
            self._state = state
            self._changed.set()


class Call:
    """One call: what was sent, what has come back, and its deadline on the client's clock."""

    def __init__(self, channel: Channel, path: str, metadata: Any, timeout: float | None) -> None:
        self._channel = channel
        self._wire = channel.wire
        self._path = path
        self._metadata = metadata
        self._come: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._cancelled = False
        self._over = False
        self._pump: asyncio.Task[None] | None = None
        self._sent_until = self._answered_until = 0.0  # a stream keeps its order
        self._watching: WatchStream | None = None
        loop = asyncio.get_running_loop()
        self._deadline = None if timeout is None else loop.call_later(timeout, lambda: self.take(TOO_LATE))
        channel.add(self)

    # --- the client's side -----------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        found = await self.next()
        if found is ENDED:
            raise StopAsyncIteration
        return found

    async def next(self) -> Any:
        """The next answer; raises as gRPC does."""
        while not self._come:
            if self._cancelled:
                raise asyncio.CancelledError
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        found = self._come.popleft()
        if isinstance(found, Refusal) and found is not ENDED:
            self._come.append(found)
            raise grpc.aio.AioRpcError(
                grpc.StatusCode[found.code], grpc.aio.Metadata(), grpc.aio.Metadata(), details=found.told
            )
        return found

    def take(self, answer: Any) -> None:
        """An answer, or the end, has come to the client."""
        if self._over or self._cancelled:
            return
        self._come.append(answer)
        if isinstance(answer, Refusal):
            self.over()
        self._wake()

    def cancel(self) -> None:
        """The client wants it no more: whoever waits for it is told so by a CancelledError."""
        if not self._over:
            self._cancelled = True
            self.over()
            self._wake()

    def over(self) -> None:
        """Nothing of it is waited for any more; at the member it may go on."""
        self._over = True
        self._channel.forget(self)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._pump is not None:
            self._pump.cancel()
        if self._watching is not None:
            self._watching.close()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- to the member ---------------------------------------------------------------------------------------

    def send(self, request: Any) -> None:
        """The one request of a unary call."""
        member = self._wire.member
        self._out(request, lambda: member.serve(self._path, request, self._metadata, self.answer))

    def stream(self, requests: Any) -> None:
        """The requests of a stream."""
        if self._over:
            return
        if self._path.endswith("LeaseKeepAlive"):
            self._keep_alive(list(requests))
        else:
            self._pump = self._wire.process.start(self._watch(requests), "grpc-requests")

    def _keep_alive(self, requests: list[Any]) -> None:
        """The member reads the next request after it has answered the one before."""
        member = self._wire.member

        def serve(number: int) -> None:
            if self._over:
                return
            if number == len(requests):
                self.answer(ENDED)
                return

            def answered(answer: Any) -> None:
                self.answer(answer)
                if not isinstance(answer, Refusal):
                    serve(number + 1)

            member.keep_alive(requests[number].ID, answered)

        self._out(requests, lambda: serve(0))

    async def _watch(self, requests: AsyncIterator[Any]) -> None:
        member = self._wire.member

        def arrive(request: Any) -> None:
            if self._watching is None:
                self._watching = WatchStream(member, self.answer, self._metadata)
            self._watching.receive(request)

        async for request in requests:
            self._out(request, lambda request=request: arrive(request))  # type: ignore[misc]

    def _out(self, message: Any, arrive: Callable[[], None]) -> None:
        wire, member = self._wire, self._wire.member
        delay = wire.weather.request(self._path, message)
        if delay is None:
            self._channel.break_off()
            return
        life = member.life
        self._sent_until = max(self._sent_until, wire.world.now + delay)
        wire.carry(
            self._sent_until - wire.world.now,
            lambda: member.when_running(arrive) if member.up and member.life == life else None,
        )

    def answer(self, message: Any) -> None:
        """The member answers."""
        wire = self._wire
        delay = wire.weather.reply(self._path, message)
        if delay is None:
            self._channel.break_off()
            return
        self._answered_until = max(self._answered_until, wire.world.now + delay)
        seconds = self._answered_until - wire.world.now
        wire.carry(seconds, lambda: wire.process.deliver(0.0, lambda: self.take(message)))


class SimulatedConnection(Connection):
    """The real connection, on simulated channels."""

    def __init__(self, process: Process, cluster: Cluster, members: list[Member] | None = None) -> None:
        chosen = cluster.members if members is None else members
        self.wires = {member.name: Wire(process, member) for member in chosen}
        super().__init__(Target(tuple(self.wires)), process)

    def _channel(self, name: str) -> Any:
        return Channel(self.wires[name])


def join(
    process: Process, cluster: Cluster, members: list[Member] | None = None, *, trust_leases: bool = False
) -> SimulatedConnection:
    """Give a process the real etcd adapter, as its session with this cluster."""
    made = SimulatedConnection(process, cluster, members)
    process.use(EtcdBackend(made, "", process, process.world.drift, trust_leases=trust_leases))
    return made
