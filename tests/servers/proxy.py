"""A TCP proxy on the loopback interface, by which a test breaks the network between a client and a server.

The rule: a call returns when it has taken effect, from then on not one byte passes that should not. What is stalled is
kept, as a network keeps and sends again: it passes after `heal`, unless the connection was reset in between. All
connections are served by one loop in one thread; only that thread touches them.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, NoReturn, Self, TypeAlias, TypeVar

from tests.servers.sockets import owner

CALL_SECONDS = 10.0
RETRY_SECONDS = 0.01  # nobody tells when a server begins to listen
CHUNK = 1 << 16
CHUNKS_AHEAD = 16  # read and not yet passed on; then the sender has to wait
R = TypeVar("R")
Opening: TypeAlias = Callable[[bytes], "bytes | None"]
# What was read, and when it is due: data, b"" at the end, the error if the connection was reset.
Chunks: TypeAlias = asyncio.Queue[tuple[float, "bytes | OSError"]]


class Replies(Enum):
    """What becomes of what the server says."""

    PASS = auto()
    HELD = auto()
    DROPPED = auto()


@dataclass(frozen=True, slots=True)
class Faults:
    """All that is wrong with the network at a time."""

    cut: bool = False
    refused: bool = False
    delay: float = 0.0
    jitter: float = 0.0  # s at most, beside the delay
    stall: tuple[float, float] = (0.0, 0.0)  # how probable for a piece, and for how many seconds
    rate: float = 0.0  # bytes per second; 0: as many as come
    requests_held: bool = False
    doubled: bool = False
    replies: Replies = Replies.PASS
    blocked: frozenset[str] = frozenset()

    def stalled(self, source: str | None, *, is_reply: bool) -> bool:
        """Whether this direction of a connection stands still. Who could not be identified counts as blocked."""
        if self.cut or (self.blocked and (source is None or source in self.blocked)):
            return True
        return self.replies is Replies.HELD if is_reply else self.requests_held


@dataclass(frozen=True, slots=True)
class Trigger:
    """From the request on that has these bytes in it, replies are treated so; None: it resets its connection."""

    request: bytes
    replies: Replies | None


class Proxy:
    """Listens on a free port of `host`, and passes on to the target. Usable by any thread; a context manager.

    `sources`: where given, each new connection is asked whose it is. It returns the name of each process by its pid;
    `block` then stalls the connections of these names alone.
    `opening`: where given, what it makes of the first bytes of each client goes to the server in their place; as long
    as it returns None, it is asked again when more have arrived.
    `patience`: for so many seconds a server that is not there yet is tried again. Who comes again when it is refused
    would take a reset, after it was let in, for something worse.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        sources: Callable[[], Mapping[int, str]] | None = None,
        opening: Opening | None = None,
        patience: float = 0.0,
    ) -> None:
        self.opening = opening
        self._patience = patience
        self._target = (target_host, target_port)
        self._sources = sources
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.setblocking(False)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        # Of the loop's thread alone:
        self._faults = Faults()
        self._trigger: Trigger | None = None
        self._changed = asyncio.Event()
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._ever = 0
        self._chance = random.Random(self.port)
        self._triggered = threading.Event()
        self._loop = asyncio.new_event_loop()
        # Not a task in sock_accept(): cancelled, it may lose what it has just accepted.
        self._loop.add_reader(self._listener, self._accept)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    # -- faults ------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Nothing passes, either way. New connections are accepted and get no answer."""
        self._change(cut=True)

    def refuse(self) -> None:
        """All connections are reset, new ones at once."""
        self._change(refused=True)
        self.reset()

    def delay(self, seconds: float) -> None:
        """Whatever arrives from now on passes so much later: a round trip takes twice as long."""
        self._change(delay=seconds)

    def jitter(self, seconds: float) -> None:
        """Whatever arrives passes later, each piece by another time up to this; in order, as TCP has it."""
        self._change(jitter=seconds)

    def stall(self, chance: float, seconds: float) -> None:
        """So probably is a piece so late, and what comes after it waits: what a lost packet does to TCP."""
        self._change(stall=(chance, seconds))

    def narrow(self, rate: float) -> None:
        """No more than so many bytes pass per second, each way of each connection."""
        self._change(rate=rate)

    def half_open(self) -> None:
        """The server loses all connections of now, their clients are not told; new ones are as always.

        `heal` resets them.
        """
        self._call(self._half_open())

    def hold_requests(self) -> None:
        """Replies pass, requests do not; nor is a connection made."""
        self._change(requests_held=True)

    def double_replies(self) -> None:
        """Each piece of what the server says passes twice."""
        self._change(doubled=True)

    def hold_replies(self, *, after: bytes | None = None) -> None:
        """Requests pass, replies do not; `after`: from the request on that has these bytes in it, itself included."""
        self._set_replies(Replies.HELD, after)

    def release_replies(self) -> None:
        """Replies pass again, those held first."""
        self._set_replies(Replies.PASS, None)

    def drop_replies(self, *, after: bytes | None = None) -> None:
        """Requests pass, and the first reply resets its connection instead of passing; `after` as in `hold_replies`.

        The server is not told until `heal`, so what it was asked to do is done. It may speak first, without being
        asked (HTTP/2 does): `after` makes sure that a request has passed.
        """
        self._set_replies(Replies.DROPPED, after)

    def lose_request(self, request: bytes) -> None:
        """The next request that has these bytes in it resets its connection instead of passing; what follows passes."""
        self._set_trigger(Trigger(request, None))

    def wait_for_request(self, timeout: float = CALL_SECONDS) -> None:
        """Wait until the bytes that were named have come by; `TimeoutError` if they do not."""
        if not self._triggered.wait(timeout):
            raise TimeoutError(f"no such request within {timeout:g} s")

    def block(self, names: Collection[str]) -> None:
        """Stall the connections of these sources, and of no others; needs `sources`."""
        self._change(blocked=frozenset(names))

    def reset(self) -> None:
        """Reset all connections. What was stalled is lost."""
        self._call(self._reset())

    def heal(self) -> None:
        """Nothing is wrong any more; what was stalled passes."""
        self._call(self._heal())

    # -- counts ------------------------------------------------------------------------------------------

    @property
    def open_now(self) -> int:
        """How many connections clients have open."""
        return self._call(self._count())[0]

    @property
    def ever(self) -> int:
        """How many connections were made so far."""
        return self._call(self._count())[1]

    def close(self) -> None:
        """Reset everything and stop listening; harmless twice."""
        if self._loop.is_closed():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- in the loop's thread ----------------------------------------------------------------------------

    def _call(self, what: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(CALL_SECONDS)

    def _change(self, **faults: Any) -> None:
        async def change() -> None:
            self._now(replace(self._faults, **faults))

        self._call(change())

    def _set_replies(self, replies: Replies, after: bytes | None) -> None:
        self._set_trigger(Trigger(after, replies) if after else None)
        if not after:
            self._change(replies=replies)

    def _set_trigger(self, trigger: Trigger | None) -> None:
        async def change() -> None:
            self._triggered.clear()
            self._trigger = trigger

        self._call(change())

    def _now(self, faults: Faults) -> None:
        self._faults = faults
        self._changed.set()
        self._changed = asyncio.Event()

    async def _heal(self) -> None:
        self._trigger = None
        self._now(Faults())
        await self._end_those({task: each for task, each in self._connections.items() if each.silent})

    async def _half_open(self) -> None:
        for connection in self._connections.values():
            connection.fall_silent()

    async def _count(self) -> tuple[int, int]:
        return sum(not connection.dropped for connection in self._connections.values()), self._ever

    async def _reset(self) -> None:
        await self._end_those(dict(self._connections))

    async def _end_those(self, connections: Mapping[asyncio.Task[None], _Connection]) -> None:
        for task, connection in connections.items():
            connection.reset()
            task.cancel()
        if connections:
            await asyncio.wait(connections)

    async def _end(self) -> None:
        self._loop.remove_reader(self._listener)
        await self._reset()

    def _accept(self) -> None:
        try:
            accepted, address = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it is gone again
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a network, not a brake
        self._ever += 1
        if self._faults.refused:
            _reset(accepted)
            accepted.close()
            return
        connection = _Connection(self, accepted, self._source(address[1]))
        task = self._loop.create_task(connection.serve())
        self._connections[task] = connection
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()

    def _source(self, port: int) -> str | None:
        if self._sources is None:
            return None
        names = self._sources()
        pid = owner(port, self.port, names)
        return None if pid is None else names[pid]

    async def clear_way(self, source: str | None, *, is_reply: bool) -> None:
        """Return when this direction of a connection may pass."""
        while self._faults.stalled(source, is_reply=is_reply):
            await self._changed.wait()

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server."""
        deadline = self._loop.time() + self._patience
        while True:
            try:
                return await asyncio.open_connection(*self._target)
            except ConnectionRefusedError:
                if self._loop.time() >= deadline:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    async def end_of_drops(self) -> None:
        """Return when replies are no longer dropped."""
        while self.drops_replies:
            await self._changed.wait()

    def due(self, size: int, before: float) -> float:
        """When this many bytes, which have arrived now, may pass, on the loop's clock; `before`: when those before."""
        faults = self._faults
        probable, seconds = faults.stall
        late = faults.delay + faults.jitter * self._chance.random()
        late += seconds if self._chance.random() < probable else 0.0
        due = self._loop.time() + late
        return max(due, before) + size / faults.rate if faults.rate else due

    def lets_pass(self, data: bytes) -> bool:
        """A request, or part of one, is about to pass: whether it may."""
        if self._trigger and self._trigger.request in data:
            trigger, self._trigger = self._trigger, None
            self._triggered.set()
            if trigger.replies is None:
                return False
            self._now(replace(self._faults, replies=trigger.replies))
        return True

    @property
    def doubles_replies(self) -> bool:
        return self._faults.doubled

    @property
    def drops_replies(self) -> bool:
        return self._faults.replies is Replies.DROPPED


class _Connection:
    """One client's connection, and ours to the server in its place."""

    def __init__(self, proxy: Proxy, accepted: socket.socket, source: str | None) -> None:
        self._proxy = proxy
        self._client = accepted
        self._source = source
        self._writers: list[asyncio.StreamWriter] = []
        self.dropped = False  # the client's side is reset, the server does not know it yet
        self.silent = False  # the server's side is reset, the client does not know it yet

    async def serve(self) -> None:
        try:
            from_client, to_client = await asyncio.open_connection(sock=self._client)
            self._writers.append(to_client)
            await self._proxy.clear_way(self._source, is_reply=False)
            from_server, to_server = await self._proxy.connected()
            self._writers.append(to_server)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass_on(from_client, to_server, self._give_requests))
                ways.create_task(self._pass_on(from_server, to_client, self._give_replies))
            for writer in self._writers:
                writer.close()
                await writer.wait_closed()
        except* OSError:  # either end is gone, or the server is not there
            self.reset()

    def close(self) -> None:
        """`serve` is over, or was cancelled before it began."""
        self._client.close()

    def fall_silent(self) -> None:
        """The server sees a reset, the client nothing any more."""
        self.silent = True
        for writer in self._writers[1:]:
            _abort(writer)

    def reset(self) -> None:
        """Both ends see a reset; what has not been passed on is lost."""
        _reset(self._client)
        for writer in self._writers:
            _abort(writer)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        give: Callable[[Chunks, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    ) -> None:
        """One direction, until its sender ends it."""
        chunks: Chunks = asyncio.Queue(CHUNKS_AHEAD)
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self._take(reader, chunks))
            ends.create_task(give(chunks, writer))

    async def _take(self, reader: asyncio.StreamReader, chunks: Chunks) -> None:
        """Also an end, and a reset, waits its turn: no news passes a cut."""
        data: bytes | OSError = b"-"
        due = 0.0
        while data and not isinstance(data, OSError):
            try:
                data = await reader.read(CHUNK)
            except OSError as error:
                data = error
            due = self._proxy.due(0 if isinstance(data, OSError) else len(data), due)
            await chunks.put((due, data))

    async def _next(self, chunks: Chunks, *, is_reply: bool) -> bytes:
        """What is to pass next, when it may; empty at the end."""
        due, data = await chunks.get()
        loop = asyncio.get_running_loop()
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        await self._proxy.clear_way(self._source, is_reply=is_reply)
        await self._unless_silent()
        if isinstance(data, OSError):
            raise data
        return data

    async def _unless_silent(self) -> None:
        """Return if the client may be told of things; else it ends by a reset."""
        while self.silent:
            await asyncio.get_running_loop().create_future()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        try:
            await writer.drain()
        except OSError:
            await self._unless_silent()
            raise

    async def _give_requests(self, chunks: Chunks, writer: asyncio.StreamWriter) -> None:
        before = b""  # what a trigger looks for may begin in the chunk before
        async for data in self._requests(chunks):
            if not self._proxy.lets_pass(before + data):
                raise ConnectionResetError("a request was lost with its connection")
            before = data
            await self._write(writer, data)
        if self.dropped:
            await self._drop()
        writer.write_eof()

    async def _requests(self, chunks: Chunks) -> AsyncIterator[bytes]:
        """What a client says, in pieces; its first words as they are to go to the server."""
        opening, kept = self._proxy.opening, b""
        while data := await self._next(chunks, is_reply=False):
            if opening:
                kept += data
                instead = opening(kept)
                if instead is None:
                    continue
                data, kept, opening = instead, b"", None
            yield data
        if kept:  # it ended in the midst of them
            yield kept

    async def _give_replies(self, chunks: Chunks, writer: asyncio.StreamWriter) -> None:
        while data := await self._next(chunks, is_reply=True):
            if self._proxy.drops_replies:
                self.dropped = True
                _abort(writer)
                await self._drop()
            await self._write(writer, data * 2 if self._proxy.doubles_replies else data)
        writer.write_eof()

    async def _drop(self) -> NoReturn:
        """The client has seen its reset; the server sees it when the fault is over."""
        await self._proxy.end_of_drops()
        raise ConnectionResetError("a reply was dropped with its connection")


def _abort(writer: asyncio.StreamWriter) -> None:
    _reset(writer.get_extra_info("socket"))
    writer.transport.abort()


def _reset(ended: socket.socket) -> None:
    """Let the next close of this socket be a reset."""
    if ended.fileno() >= 0:
        ended.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
