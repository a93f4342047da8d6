"""The way to one voter: one connection for requests, one for published words. All failures of redis-py end here.

The rules: a request is answered by the reply of its own nonce or not at all; what fails before the first byte is
`Unavailable`, what fails after it `OutcomeUnknown`. Nothing is sent twice. Requests of one instant go as one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)

from coordkit.backends import pem
from coordkit.backends.contract import Host
from coordkit.backends.redis.layout import Reply, channel_of, info_of, reply_of
from coordkit.backends.redis.scripts import script
from coordkit.backends.redis.target import Target
from coordkit.errors import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable
from coordkit.lease import Instant, held_for
from coordkit.retry import jitter
from coordkit.waiting import Budget, being_cancelled

CONNECT_SECONDS: Final = 2.0
# Of a server that has gone without a word the system finds out in 11 s; else words would be waited for in vain.
KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
SILENT_SECONDS: Final = 3.0  # a connection on which a request stays unanswered for so long is left
INSPECT_SECONDS: Final = 20.0  # how old may be what is known of the eviction policy
BATCH_BYTES: Final = 256 * 1024  # of one request; a script holds up everybody else at its server
BATCH_ENTRIES: Final = 250
_REFUSALS: Final = (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError)
_FINAL: Final = (AuthenticationError, AuthorizationError, BusyLoadingError)  # answers after which redis-py hangs up


@dataclass(slots=True)
class Asked:
    """One request that is out."""

    command: tuple[str | bytes, ...]
    answer: asyncio.Future[object]
    sent: Instant


@dataclass(slots=True)
class Batch:
    """Entries of one instant for one script, and who waits for each."""

    name: str
    head: tuple[str, ...]
    seconds: float
    size: int = 0  # in characters
    entries: list[tuple[str, ...]] = field(default_factory=list)
    waiting: list[asyncio.Future[tuple[Reply, object]]] = field(default_factory=list)

    def answered(self, reply: Reply) -> None:
        """Tell each who waits what concerns it."""
        for place, waiting in enumerate(self.waiting):
            if not waiting.done():
                waiting.set_result((reply, reply.answers[place] if place < len(reply.answers) else None))

    def failed(self, error: BackendError) -> None:
        """Tell all who wait."""
        for waiting in self.waiting:
            if not waiting.done():
                waiting.set_exception(type(error)(str(error), backend="redis", operation=self.name))


class Voter:
    """A client of one server. Lives on the host's loop.

    `on_word(election, payload)`: something was published; None: from now on nothing is missed, look once.
    """

    def __init__(
        self,
        target: Target,
        key: str,
        config: str,
        host: Host,
        on_word: Callable[[str, bytes | None], None],
    ) -> None:
        self.name = target.name
        self.listened: set[str] = set()  # elections whose words are wanted
        self.live: dict[str, object] = {}  # and those of which none is missed, since this subscription
        self._target = target
        self._key = key
        self._config = config
        self._host = host
        self._on_word = on_word
        self._connection: AbstractConnection | None = None
        self._carriers: tuple[asyncio.Task[None], ...] = ()  # who writes to it, and who reads from it
        self._connecting: asyncio.Task[BackendError | None] | None = None
        self._outbox: list[Asked] = []  # not written yet
        self._posted = asyncio.Event()
        self._asked: deque[Asked] = deque()  # written, in the order in which the answers come
        self._failures = 0
        self._failed: tuple[Instant, float, BackendError] | None = None  # when, for how long nobody tries, and why
        self._evicts = ""
        self._inspected: Instant | None = None
        self._known: set[str] = set()  # digests that this server has
        self._batches: dict[tuple[str, tuple[str, ...]], Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: set[asyncio.Task[None]] = set()  # those that wait until a server takes what it is told
        self._turning: dict[str, None] = {}  # elections to subscribe to, or no longer
        self._following: asyncio.Task[None] | None = None
        self._subscribed: AbstractConnection | None = None
        self._transports: dict[AbstractConnection, asyncio.WriteTransport] = {}  # redis-py forgets them when it closes
        self._context: ssl.SSLContext | None = None
        self._closed = False

    # --- requests --------------------------------------------------------------------------------------------

    def ask(
        self, name: str, entry: tuple[str, ...], seconds: float, head: tuple[str, ...] = ()
    ) -> asyncio.Future[tuple[Reply, object]]:
        """The voter's answer to one entry of a script, and how it stands; it fails with a `BackendError`."""
        key = (name, head)
        loop = asyncio.get_running_loop()
        size = sum(map(len, entry))
        batch = self._batches.get(key)
        if batch is None or batch.size + size > BATCH_BYTES or len(batch.entries) >= BATCH_ENTRIES:
            batch = self._batches[key] = Batch(name, head, seconds)
            loop.call_soon(self._flush, key, batch)
        waiting: asyncio.Future[tuple[Reply, object]] = loop.create_future()
        batch.size += size
        batch.seconds = max(batch.seconds, seconds)
        batch.entries.append(entry)
        batch.waiting.append(waiting)
        return waiting

    def _flush(self, key: tuple[str, tuple[str, ...]], batch: Batch) -> None:
        if self._batches.get(key) is batch:
            del self._batches[key]
        if self._connection is None:
            self._spawn(self._connected_first(batch), f"redis-{batch.name}")
        else:
            self._look_after()
            self._call(batch, Budget(self._host.clock, batch.seconds))

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._host.spawn(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def request(
        self, name: str, head: tuple[str, ...], entries: Sequence[tuple[str, ...]], seconds: float
    ) -> Reply:
        """One call of a script; raises a `BackendError` that names this voter."""
        waiting: asyncio.Future[tuple[Reply, object]] = asyncio.get_running_loop().create_future()
        await self._connected_first(Batch(name, head, seconds, entries=list(entries), waiting=[waiting]))
        return (await waiting)[0]

    async def _connected_first(self, batch: Batch) -> None:
        budget = Budget(self._host.clock, batch.seconds)
        try:
            await self._connected(budget, batch.name)
            self._call(batch, budget)
        except BackendError as error:
            batch.failed(error)
        except asyncio.CancelledError:
            for waiting in batch.waiting:
                waiting.cancel()
            raise

    def _call(self, batch: Batch, budget: Budget) -> None:
        """Send it. No task waits for the answer: it is told to whoever waits when it comes."""
        if self._evicts:
            told = f"{self.name}: evicts keys, maxmemory-policy is {self._evicts}"
            batch.failed(Unavailable(told, backend="redis"))
            return
        called = script(batch.name)
        known = called.digest in self._known
        nonce = f"{self._host.chance.getrandbits(64):016x}"
        arguments = ["1", self._key, nonce, self._config, f"{self._host.chance.getrandbits(64):016x}", *batch.head]
        for entry in batch.entries:
            arguments += entry
        how: tuple[str | bytes, ...] = ("EVALSHA", called.digest) if known else ("EVAL", called.text)

        def answered(answer: asyncio.Future[object]) -> None:
            late.cancel()
            try:
                reply = self._reply(batch.name, answer, nonce)
            except NoScriptError as error:  # it was not executed
                self._known.discard(called.digest)
                if known:
                    self._call(batch, budget)
                else:  # the whole text was sent
                    told = f"{self.name}: {_told(error)}"
                    batch.failed(OutcomeUnknown(told, backend="redis", operation=batch.name))
            except BackendError as error:
                batch.failed(error)
            except asyncio.CancelledError:
                for waiting in batch.waiting:
                    waiting.cancel()
            else:
                self._known.add(called.digest)
                batch.answered(reply)

        try:
            answer = self._post(batch.name, (*how, *arguments))
        except Unavailable as error:
            batch.failed(error)
            return
        late = asyncio.get_running_loop().call_later(max(0.001, budget.left), self._late, batch.name, answer)
        answer.add_done_callback(answered)

    def _reply(self, name: str, answer: asyncio.Future[object], nonce: str) -> Reply:
        """What a script has answered; raises a `BackendError` that names this voter, or `NoScriptError`."""
        try:
            return reply_of(answer.result(), nonce)
        except OutcomeUnknown as error:
            if answer.exception() is None:  # it is none to this request, nor would the next one be to the next
                self._leave(error)
                raise OutcomeUnknown(f"{self.name}: {error}", backend="redis", operation=name) from error
            raise
        except NoScriptError:
            raise
        except (ResponseError, *_FINAL) as error:
            self._refused(error, name)

    async def plain(self, *command: str, seconds: float) -> object:
        """One command that changes nothing; raises a `BackendError` that names this voter."""
        budget = Budget(self._host.clock, seconds)
        await self._connected(budget, "look")
        try:
            return await self._exchange("look", command, budget)
        except (ResponseError, *_FINAL) as error:
            self._refused(error, "look")

    async def _exchange(self, name: str, command: tuple[str | bytes, ...], budget: Budget) -> object:
        answer = self._post(name, command)
        late = asyncio.get_running_loop().call_later(max(0.001, budget.left), self._late, name, answer)
        try:
            return await answer
        finally:
            late.cancel()

    def _post(self, name: str, command: tuple[str | bytes, ...]) -> asyncio.Future[object]:
        """Send a command; its answer."""
        if self._connection is None:
            raise Unavailable(f"{self.name}: the connection was lost", backend="redis", operation=name)
        asked = Asked(command, asyncio.get_running_loop().create_future(), self._host.clock.now())
        self._outbox.append(asked)
        self._posted.set()
        return asked.answer

    def _late(self, name: str, answer: asyncio.Future[object]) -> None:
        if not answer.done():
            told = f"{self.name}: no answer to {name} in time"
            answer.set_exception(OutcomeUnknown(told, backend="redis", operation=name))
            self._look_for_silence()

    def _look_for_silence(self) -> None:
        if self._asked and held_for(self._asked[0].sent, self._host.clock.now()) > SILENT_SECONDS:
            self._leave(TimeoutError("it does not answer"))

    def _refused(self, error: RedisError, name: str) -> NoReturn:
        told = f"{self.name}: {_told(error)}"
        if isinstance(error, _REFUSALS) or _code(error) in ("NOAUTH", "NOPERM", "WRONGPASS"):
            raise Rejected(told, backend="redis", operation=name) from error
        if _code(error) == "WRONGTYPE":
            raise Misconfigured(f"{told}: the key is not ours", backend="redis", operation=name) from error
        # A script that fails may have written some of its records.
        raise OutcomeUnknown(told, backend="redis", operation=name) from error

    # --- the connection --------------------------------------------------------------------------------------

    async def _connected(self, budget: Budget, name: str) -> None:
        if self._closed:
            raise Unavailable(f"{self.name}: the session is closed", backend="redis", operation=name)
        if self._connection is None:
            if self._failed is not None:
                since, pause, why = self._failed
                if held_for(since, self._host.clock.now()) < pause:
                    raise type(why)(str(why), backend="redis", operation=name) from why
            if self._connecting is None:
                self._connecting = self._host.spawn(self._connect(), "redis-connect")
            try:
                async with asyncio.timeout(max(0.001, budget.left)):
                    error = await asyncio.shield(self._connecting)
            except TimeoutError as late:
                raise Unavailable(f"{self.name}: not connected in time", backend="redis", operation=name) from late
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
                raise Unavailable(f"{self.name}: the session is closed", backend="redis", operation=name) from None
            if error is not None:
                raise type(error)(str(error), backend="redis", operation=name) from error
        self._look_after()

    def _look_after(self) -> None:
        """Inspect it again if that was long ago."""
        if self._inspected is None or held_for(self._inspected, self._host.clock.now()) > INSPECT_SECONDS:
            self._inspected = self._host.clock.now()
            self._spawn(self._inspect_again(), "redis-inspect")

    async def _connect(self) -> BackendError | None:
        try:
            connection = await self._dial()
            self._known.clear()  # it may be another server by now
            self._connection = connection
            self._carriers = (
                self._host.spawn(self._write(connection), "redis-write"),
                self._host.spawn(self._read(connection), "redis-read"),
            )
            await self._inspect()
            self._follow_words()
        except BackendError as error:
            self._failures += 1
            pause = jitter(self._host.chance, self._failures, first=0.05, most=1.0)
            self._failed = (self._host.clock.now(), pause, error)
            self._leave(error)
            return error
        finally:
            self._connecting = None
        self._failures, self._failed = 0, None
        return None

    async def _dial(self) -> AbstractConnection:
        """A new connection, logged in."""
        target = self._target
        common: dict[str, Any] = {
            "db": target.db,
            "username": target.user,
            "password": target.password,
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
            "protocol": 2,
        }
        connection: AbstractConnection
        if target.port is None:
            connection = UnixDomainSocketConnection(path=target.host, **common)
        elif target.tls:
            connection = _Encrypted(self._tls(), target.server_name or target.host, **self._at(), **common)
        else:
            connection = Connection(**self._at(), **common)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]
        except TimeoutError as error:
            await _dropped(connection)
            raise Unavailable(f"{self.name}: not connected within {CONNECT_SECONDS:g} s", backend="redis") from error
        except _REFUSALS as error:
            raise Rejected(f"{self.name}: {_told(error)}", backend="redis", operation="open") from error
        except InvalidResponse as error:
            await _dropped(connection)
            told = f"{self.name}: what answers there does not speak the protocol of Redis"
            raise Misconfigured(told, backend="redis", operation="open") from error
        except (RedisError, OSError) as error:
            await _dropped(connection)
            raise Unavailable(f"{self.name}: {_told(error)}", backend="redis", operation="open") from error
        if (writer := connection._writer) is not None:
            self._transports[connection] = writer.transport
        return connection

    async def _drop(self, connection: AbstractConnection) -> None:
        """Close it at once, although the other side may not have taken all that it was sent."""
        transport = self._transports.pop(connection, None)
        await _dropped(connection)
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()  # else it would stay open until that is taken

    def _at(self) -> dict[str, Any]:
        alive = {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE}
        return {"host": self._target.host, "port": self._target.port, **alive}

    def _tls(self) -> ssl.SSLContext:
        """Read anew for each connection, for certificates are renewed on disk; the last good ones until they serve."""
        target = self._target
        try:
            self._context = pem.context(target.ca, target.cert, target.key, backend="redis")
        except Misconfigured as error:
            if self._context is None:
                raise
            self._host.log.warning("the certificates that were read before are used: %r", error)
        return self._context

    async def _inspect(self) -> None:
        """Find out whether this server throws keys away when it runs out of memory."""
        budget = Budget(self._host.clock, CONNECT_SECONDS)
        try:
            raw = await self._exchange("open", ("INFO", "memory"), budget)
        except (ResponseError, *_FINAL) as error:
            self._refused(error, "open")
        self._inspected = self._host.clock.now()
        policy = info_of(raw).get("maxmemory_policy", "")
        self._evicts = policy if policy.startswith("allkeys-") else ""

    async def _inspect_again(self) -> None:
        try:
            await self._inspect()
        except BackendError as error:
            self._host.log.info("asking %s for its eviction policy: %r", self.name, error)

    async def _write(self, connection: AbstractConnection) -> None:
        """Send what is asked, all of one instant together."""
        while True:
            await self._posted.wait()
            self._posted.clear()
            if not connection.is_connected:  # redis-py would connect anew, and who reads would not know of it
                self._leave(ConnectionResetError("it was closed"))
                return
            due = [asked for asked in self._outbox if not asked.answer.done()]
            self._outbox.clear()
            self._asked.extend(due)
            packed = [packed_command(*asked.command) for asked in due]
            try:
                await connection.send_packed_command(packed, check_health=False)
            except (RedisError, OSError) as error:
                self._leave(error)
                return

    async def _read(self, connection: AbstractConnection) -> None:
        """Hand out the replies, in the order of the requests."""
        while True:
            outcome: object
            try:
                outcome = await connection.read_response(disable_decoding=True, timeout=None)
            except ResponseError as error:
                outcome = error
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - garbage, or the end: whoever waits is told
                if connection is self._connection:
                    if isinstance(error, _FINAL) and self._asked and not self._asked[0].answer.done():
                        self._asked[0].answer.set_exception(error)
                    self._leave(error)
                return
            if not self._asked:
                self._leave(OutcomeUnknown("an answer that nobody asked for", backend="redis"))
                return
            answer = self._asked.popleft().answer
            if answer.done():
                continue
            if isinstance(outcome, ResponseError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

    def _leave(self, why: BaseException) -> None:
        """Let go of the connection; whoever waits for an answer on it will not get one."""
        connection, self._connection = self._connection, None
        carriers, self._carriers = self._carriers, ()
        unsent, self._outbox = self._outbox, []
        asked, self._asked = self._asked, deque()
        told = f"{self.name}: the connection was lost: {_told(why)}"
        for kind, those in ((Unavailable, unsent), (OutcomeUnknown, asked)):
            for each in those:
                if not each.answer.done():
                    each.answer.set_exception(kind(told, backend="redis"))
                    each.answer.exception()  # it may be that nobody waits any more
        for carrier in carriers:
            if carrier is not asyncio.current_task():
                carrier.cancel()
        if connection is not None:
            self._spawn(self._drop(connection), "redis-drop")

    # --- words -----------------------------------------------------------------------------------------------

    def listen(self, election: str) -> None:
        """From now on its words are wanted."""
        if election in self.listened or self._closed:
            return
        self.listened.add(election)
        self._follow_words()
        self._turn_to(election)

    def _follow_words(self) -> None:
        if self._following is None and not self._closed:
            self._following = self._host.spawn(self._follow(), "redis-words")

    def unlisten(self, election: str) -> None:
        """They are wanted no more."""
        if election in self.listened:
            self.listened.discard(election)
            self.live.pop(election, None)
            self._turn_to(election)

    def _turn_to(self, election: str) -> None:
        """Subscribe, or no longer, as it is wanted at the end of this instant: all that is due goes as one."""
        if not self._turning:
            asyncio.get_running_loop().call_soon(self._turn)
        self._turning[election] = None

    def _turn(self) -> None:
        turning, self._turning = self._turning, {}
        connection = self._subscribed
        if connection is None or self._closed:
            return
        channels: dict[bool, list[bytes]] = {False: [], True: []}
        for election in turning:
            channels[election in self.listened].append(channel_of(self._key, election))
        packed = [
            packed_command(verb, *channels[wanted][start : start + BATCH_ENTRIES])
            for wanted, verb in ((False, "UNSUBSCRIBE"), (True, "SUBSCRIBE"))
            for start in range(0, len(channels[wanted]), BATCH_ENTRIES)
        ]
        telling = self._spawn(self._tell(connection, packed), "redis-subscribe")
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell(self, connection: AbstractConnection, packed: Sequence[bytes]) -> None:
        if not connection.is_connected:  # redis-py would connect anew, and who reads would not know of it
            return
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                await connection.send_packed_command(packed, check_health=False)
        except (RedisError, OSError, TimeoutError) as error:
            self._host.log.info("%s: %s", self.name, _told(error))
            await self._drop(connection)  # the reader finds out, and connects anew

    async def _follow(self) -> None:
        failures = 0
        while not self._closed:
            connection = None
            try:
                connection = await self._dial()
                self._subscribed = connection
                for election in sorted(self.listened):
                    self._turn_to(election)
                while True:
                    self._heard(await connection.read_response(disable_decoding=True, timeout=None))
                    failures = 0
            except BackendError as error:
                self._host.log.info("no words of %r", error)
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
            except Exception as error:  # noqa: BLE001 - the connection has ended, or brought garbage: a new one
                self._host.log.info("no words of %s: %s", self.name, _told(error))
            finally:
                self._subscribed = None
                self.live.clear()
                if connection is not None:
                    self._spawn(self._drop(connection), "redis-drop")
            failures += 1
            await asyncio.sleep(jitter(self._host.chance, failures, first=0.1, most=2.0))

    def _heard(self, raw: object) -> None:
        if not (isinstance(raw, list) and len(raw) == 3 and isinstance(raw[1], bytes)):
            return
        prefix = channel_of(self._key, "")
        if not raw[1].startswith(prefix):
            return
        election = raw[1][len(prefix) :].decode(errors="replace")
        if election not in self.listened:
            return
        if raw[0] == b"subscribe":
            self.live[election] = object()
            self._on_word(election, None)
        elif raw[0] == b"message" and isinstance(raw[2], bytes):
            self._on_word(election, raw[2])

    async def close(self) -> None:
        """Let go of both connections."""
        self._closed = True
        self._leave(Unavailable("the session is closed", backend="redis"))
        ending = [task for task in (self._following, self._connecting, *self._telling) if task is not None]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)  # each lets go of its connection
        while self._tasks:
            await asyncio.wait(self._tasks)


class _Encrypted(SSLConnection):
    """TLS by a context of ours, whose files have been looked at."""

    def __init__(self, context: ssl.SSLContext, server_name: str, **common: Any) -> None:
        super().__init__(**common)
        self._ours = context
        self._server_name = server_name

    def _connection_arguments(self) -> Any:
        arguments = dict(super()._connection_arguments())
        arguments["ssl"] = self._ours
        arguments["server_hostname"] = self._server_name
        return arguments


def packed_command(*words: str | bytes) -> bytes:
    """One command as the protocol has it. redis-py's own way to write it takes as long as the rest of a request."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word.encode() if isinstance(word, str) else word
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


async def _dropped(connection: AbstractConnection) -> None:
    """Close it, without waiting for the other side."""
    await connection.disconnect(nowait=True)


def _code(error: BaseException) -> str:
    """The code with which an error of Redis begins."""
    return str(error).partition(" ")[0]


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
