"""The way to the ensemble: one kazoo client, and all its failures translated here.

The rules: a request is sent only while there is a connection, so what fails before that is `Unavailable`; a write that
fails after it is `OutcomeUnknown`. Every call has a deadline. Each answer is put to the account of the session and the
connection that brought it, in the order of the wire, before anybody acts on it.

A session that the servers have ended is over for good: kazoo makes a new one by itself, and that is another session.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from kazoo.client import KazooClient, KazooState, KeeperState
from kazoo.exceptions import (
    AuthFailedError,
    InvalidACLError,
    KazooException,
    NoAuthError,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    QuotaExceededError,
    SASLException,
    SessionClosedRequireSaslError,
    UnimplementedError,
)
from kazoo.retry import KazooRetry

from coordkit.backends.contract import Host
from coordkit.backends.zookeeper.lifeline import Lifeline
from coordkit.backends.zookeeper.wire import Granted, Handler
from coordkit.errors import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable
from coordkit.lease import SHORTEST_ACTING_TIME, Instant, acting_time
from coordkit.waiting import Budget, being_cancelled, until

LONGEST_TIMEOUT: Final = 2_000_000.0  # s: the protocol has 31 bits of milliseconds
CLOSE_SECONDS: Final = 1.5  # for the farewell; then the session is left to its timeout
REFUSALS: Final = (
    AuthFailedError,
    InvalidACLError,
    NoAuthError,
    QuotaExceededError,
    SASLException,
    SessionClosedRequireSaslError,
)
ANSWERS: Final = (NoNodeError, NodeExistsError, NotEmptyError)  # answers, not failures: whoever asks knows them


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to, and as whom."""

    hosts: tuple[str, ...]  # host:port
    timeout: float  # seconds, as it is asked for
    context: Callable[[], ssl.SSLContext] | None = field(default=None, repr=False)
    server_name: str = ""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sasl: bool = False


class ServerSession:
    """One session, as the servers know it: what lives and ends with it."""

    def __init__(self, number: int, password: bytes, lifeline: Lifeline) -> None:
        self.number = number  # its id, as nodes show it in `ephemeralOwner`
        self.password = password  # by which it is taken up again
        self.lifeline = lifeline
        self.over = False  # the servers have ended it, or we have given it up

    @property
    def timeout(self) -> float:
        """Seconds, as the servers have granted it."""
        return self.lifeline.timeout


class Client:
    """A client of one ensemble. Lives on the host's loop; kazoo's thread only hands over what comes.

    `changed` is called whenever a connection is made or lost, and when a session ends.
    """

    def __init__(self, target: Target, host: Host, drift: float, changed: Callable[[], None]) -> None:
        self.session: ServerSession | None = None  # the newest; it may be over
        self.connected = False
        self.parted: Instant | None = None  # when the connection was lost, while there is none
        self._moved = asyncio.Event()  # set, and replaced by another, whenever one of these may have changed
        self._target = target
        self._host = host
        self._drift = drift
        self._changed = changed
        self._kazoo: Any = None
        self._handler: Handler | None = None
        self._failure: BackendError | None = None  # why kazoo has given up; whoever asks next is told
        self._refused = 0  # log-ins in a row
        self._reason = ""  # of the newest trouble, for messages
        self._troubles = 0  # since there was a connection
        self._garbled = ""  # who is no ZooKeeper and has answered, where nobody has who is
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()  # from kazoo's thread
        self._told = False  # the loop knows that there is something in it
        self._closed = False

    # --- calls -----------------------------------------------------------------------------------------------

    async def ready(self, seconds: float, operation: str) -> ServerSession:
        """The session, connected. Raises Unavailable, Rejected, Misconfigured."""
        budget = Budget(self._host.clock, seconds)
        self._troubles = 0
        while not self._is_ready():
            if (failure := self._failure) is not None:
                self._failure = None  # the next one to ask starts anew
                raise type(failure)(str(failure), backend="zookeeper", operation=operation) from failure
            self._start()
            refused = self._troubles > 2 * len(self._target.hosts)  # all of them, and once more
            if self._closed or refused or budget.left <= 0 or not await until(self._moved, budget.left):
                self._raise_unready(operation)
        assert self.session is not None
        return self.session

    def _is_ready(self) -> bool:
        return self.connected and self.session is not None and not self.session.over

    async def read(self, operation: str, send: Callable[[Any], Any], seconds: float) -> Any:
        """The answer to a read. Raises Unavailable, Rejected, Misconfigured, or one of ANSWERS."""
        return await self._call(operation, send, seconds, writes=False)

    async def write(self, operation: str, send: Callable[[Any], Any], seconds: float) -> Any:
        """As `read`, of a write: `OutcomeUnknown` where it may have happened."""
        return await self._call(operation, send, seconds, writes=True)

    async def commit(
        self, operation: str, add: Callable[[Any], None], seconds: float, *, refusals: bool = False
    ) -> list[Any]:
        """The results of a transaction, the exceptions of those that failed among them.

        `refusals`: a want of rights is one of them; else it is raised, as `Rejected`.
        """

        def send(kazoo: Any) -> Any:
            transaction = kazoo.transaction()
            add(transaction)
            return transaction.commit_async()

        results: list[Any] = await self._call(operation, send, seconds, writes=True, transaction=True)
        for result in results:
            if isinstance(result, REFUSALS) and not refusals:
                self._translate(result, operation, writes=True)
        return results

    def leave(self, why: str) -> None:
        """Let go of this connection: its server does not answer in time. Another one is tried."""
        if self._handler is not None and self.connected:
            self._host.log.info("leaving a server of ZooKeeper: %s", why)
            self._handler.leave()

    def start_over(self, why: str, *, farewell: bool) -> None:
        """End this session, with a farewell or by saying nothing more; the next who asks has a new one."""
        self._host.log.info("a session of ZooKeeper is ended: %s", why)
        if self._handler is not None and not farewell:
            self._handler.abandon()
        self._discard()

    async def close(self, *, farewell: bool) -> None:
        """With a farewell the servers end the session now; without, they do so when its timeout has passed."""
        self._closed = True
        self._end_session()
        kazoo, handler = self._kazoo, self._handler
        self._kazoo = self._handler = None
        if kazoo is None or handler is None:
            return
        if not farewell:
            handler.abandon()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._host.offload(lambda: _stop(kazoo))
        handler.abandon()

    async def _call(
        self, operation: str, send: Callable[[Any], Any], seconds: float, *, writes: bool, transaction: bool = False
    ) -> Any:
        left = seconds
        if not self._is_ready():
            budget = Budget(self._host.clock, seconds)
            await self.ready(seconds, operation)
            left = max(0.0, budget.left)
        sent = self._host.clock.now()
        assert self._loop is not None
        answer: asyncio.Future[Any] = self._loop.create_future()

        def settle(result: Any) -> None:
            # First to the account of what brought it: a session that was connected anew meanwhile is not this one.
            error = result.exception
            if self.session is not None and self.connected and (error is None or isinstance(error, ANSWERS)):
                now = self._host.clock.now()
                failed = error is not None or (
                    transaction and any(isinstance(each, Exception) for each in result.value)
                )
                account = self.session.lifeline.committed if writes and not failed else self.session.lifeline.touched
                account(sent, now)
                self._refused = 0
            if isinstance(error, SessionClosedRequireSaslError):  # of all that was asked for, one is told so
                told = "the servers ask for a login by SASL"
                self._give_up(Rejected(told, backend="zookeeper", operation="open"), error)
            if not answer.done():
                answer.set_result(result)

        try:
            send(self._kazoo).rawlink(lambda result: self.post(settle, result))
        except KazooException as error:
            self._translate(error, operation, writes=writes)
        scope = asyncio.timeout(left)
        try:
            async with scope:
                result = await answer
        except TimeoutError as error:
            if not scope.expired():
                raise
            kind = OutcomeUnknown if writes else Unavailable
            told = f"no answer to {operation} within {seconds:.3g} s"
            raise kind(told, backend="zookeeper", operation=operation) from error
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            raise OutcomeUnknown("the client was closed", backend="zookeeper", operation=operation) from None
        if result.exception is not None:
            self._translate(result.exception, operation, writes=writes)
        return result.value

    def _translate(self, error: BaseException, operation: str, *, writes: bool) -> NoReturn:
        told = f"{operation}: {type(error).__name__.removesuffix('Error')}"
        kind: type[BackendError] = OutcomeUnknown if writes else Unavailable
        if isinstance(error, ANSWERS):
            raise error
        if isinstance(error, REFUSALS):
            kind = Rejected
        elif isinstance(error, NoChildrenForEphemeralsError):
            kind, told = Misconfigured, "the election's node is an ephemeral one of somebody else"
        elif isinstance(error, UnimplementedError):
            kind, told = Misconfigured, "the servers are older than ZooKeeper 3.5"
        raise kind(told, backend="zookeeper", operation=operation) from error

    def _raise_unready(self, operation: str) -> NoReturn:
        if self._closed:
            raise Unavailable("the session is closed", backend="zookeeper", operation=operation)
        if self._garbled:
            told = f"what answers at {self._garbled} does not speak ZooKeeper's protocol"
            raise Misconfigured(told, backend="zookeeper", operation=operation)
        reason = f" ({self._reason})" if self._reason else ""
        told = f"no server answers at {','.join(self._target.hosts)}{reason}"
        raise Unavailable(told, backend="zookeeper", operation=operation)

    # --- kazoo's life ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._kazoo is not None or self._closed:
            return
        self._loop = asyncio.get_running_loop()
        target = self._target
        if target.context is not None:
            target.context()  # files that cannot serve are told of before anything is done
        handler = Handler(
            self._connecting,
            lambda name: self.post(self._on_garbled, name),
            lambda failed, error: self.post(self._on_failure, failed, error),
            clock=self._host.clock,
            context=target.context,
            server_name=target.server_name,
            timeout=target.timeout,
        )
        retry = KazooRetry(
            max_tries=-1, delay=0.02, max_delay=min(1.0, target.timeout / 8), sleep_func=handler.sleep_func
        )
        login: dict[str, Any] = {}
        if target.user is not None and target.sasl:
            login["sasl_options"] = {
                "mechanism": "DIGEST-MD5",
                "username": target.user,
                "password": _latin(target.password or ""),
            }
        elif target.user is not None:
            login["auth_data"] = [("digest", f"{target.user}:{target.password}")]
        known = self.session
        if known is not None and not known.over:  # it goes on: only kazoo has given up
            login["client_id"] = (known.number, known.password)
        kazoo = KazooClient(
            hosts=",".join(target.hosts),
            timeout=min(target.timeout, LONGEST_TIMEOUT),
            handler=handler,
            connection_retry=retry,
            command_retry=KazooRetry(max_tries=0, sleep_func=handler.sleep_func),
            logger=_quiet_logger(lambda told: self.post(self._on_trouble, told)),
            **login,
        )
        kazoo.add_listener(lambda state: self.post(self._on_state, handler, kazoo.client_state, state))
        self._handler, self._kazoo = handler, kazoo
        try:
            kazoo.start_async()
        except RuntimeError as error:  # no more threads
            self._kazoo = self._handler = None
            raise Unavailable(f"no connection: {error}", backend="zookeeper", operation="open") from error

    def _discard(self, *, keep_session: bool = False) -> None:
        """kazoo has given up; and the session with it, or another kazoo takes it up again."""
        kazoo, self._kazoo, self._handler = self._kazoo, None, None
        if not keep_session:
            self._end_session()
        elif self.session is not None:
            self.session.lifeline.disconnected()
            self._tell(connected=False)
        if kazoo is not None:
            self._host.spawn(self._host.offload(lambda: _stop(kazoo)), "zookeeper-discard")

    def _end_session(self) -> None:
        if self.session is not None and not self.session.over:
            self.session.over = True
            self.session.lifeline.disconnected()
        self._tell(connected=False)

    def _tell(self, *, connected: bool) -> None:
        if connected:
            self.parted = None
        elif self.connected:
            self.parted = self._host.clock.now()
        self.connected = connected
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        self._changed()

    # --- what kazoo's thread hands over ----------------------------------------------------------------------

    def post(self, call: Callable[..., object], *values: object) -> None:
        """Call it on the loop, after all that was posted before. Any thread."""
        self._inbox.append((call, values))
        if not self._told:
            self._told = True
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop is closed: nobody is there to be told
                self._loop.call_soon_threadsafe(self._take_in)

    def _take_in(self) -> None:
        self._told = False  # first: what comes from now on is told of again
        self.lives()
        while self._inbox:
            call, values = self._inbox.popleft()
            try:
                call(*values)
            except Exception as error:  # noqa: BLE001 - one fault must not keep the others from being heard
                self._host.log.error("an answer of ZooKeeper was not taken in: %r", error)

    def go_on(self) -> None:
        """Look for a server, if nobody does; not where whoever asks next is to be told why there is none."""
        if self._failure is None and not self._closed:
            self._start()

    def lives(self) -> None:
        """The loop goes on: kazoo's thread, which would keep the session by itself, is to know."""
        if self._handler is not None:
            self._handler.alive = self._host.clock.now()
            if self._handler.abandoned:  # the loop stood still for so long that it was given up
                self._discard()

    def _connecting(self, handler: Handler) -> Granted:
        asked = self._host.clock.now()

        def granted(session: int, milliseconds: int, password: bytes) -> None:
            self.post(self._on_granted, handler, asked, session, milliseconds, password)

        return granted

    def _on_granted(self, handler: Handler, asked: Instant, number: int, milliseconds: int, password: bytes) -> None:
        if handler is not self._handler or milliseconds <= 0:  # of a session that is over; kazoo tells
            return
        self._garbled = ""
        timeout = handler.timeout = milliseconds / 1000.0
        known = self.session
        if known is not None and not known.over and known.number == number:
            if timeout < known.timeout:  # the nodes may go before what was promised is over
                # Without a farewell, for its terms may have bodies that run.
                why = f"a server has shortened its timeout from {known.timeout:g} to {timeout:g} s"
                self.start_over(why, farewell=False)
                return
            known.lifeline.connected(asked, new=False)
            return
        if known is not None and not known.over:
            self._end_session()
        if acting_time(timeout, self._drift) < SHORTEST_ACTING_TIME:
            told = f"the servers grant a session timeout of {timeout:g} s, which leaves no time to act"
            self._on_failure(handler, Misconfigured(told, backend="zookeeper", operation="open"))
            return
        if abs(timeout - self._target.timeout) > 0.001:
            self._host.log.info(
                "ttl=%g s was asked for, and the servers grant %g s: deadlines follow that",
                self._target.timeout,
                timeout,
            )
        self.session = ServerSession(number, password, Lifeline(timeout, self._drift))
        self.session.lifeline.connected(asked, new=True)

    def _on_state(self, handler: Handler, exactly: Any, state: Any) -> None:
        if handler is not self._handler:
            return
        if state == KazooState.CONNECTED:
            self._reason, self._troubles = "", 0
            if self.session is not None and not self.session.over:
                self._tell(connected=True)
        elif state == KazooState.SUSPENDED:
            if self.session is not None:
                self.session.lifeline.disconnected()
            self._tell(connected=False)
        elif exactly == KeeperState.AUTH_FAILED:
            self._on_failure(handler, AuthFailedError())
        else:
            self._end_session()

    def _on_garbled(self, name: str) -> None:
        self._garbled = name
        self._on_trouble(f"{name} is no ZooKeeper")

    def _on_trouble(self, told: str) -> None:
        self._reason = told
        self._troubles += 1
        self._host.log.info("ZooKeeper: %s", told)
        self._tell(connected=self.connected)

    def _on_failure(self, handler: Handler, error: BaseException | None) -> None:
        """kazoo's thread has ended, and nobody has asked it to."""
        if handler is not self._handler:
            return
        if isinstance(error, REFUSALS):
            self._refused += 1
            if self._refused == 1:
                # kazoo says so, too, of a connection that broke while it logged in: once more, with the same session.
                self._discard(keep_session=True)
                return
            told = f"the servers refuse to log us in as this user ({type(error).__name__})"
            self._give_up(Rejected(told, backend="zookeeper", operation="open"), error)
        elif isinstance(error, BackendError):
            self._give_up(error, None)
        else:
            told = f"the client has ended: {type(error).__name__ if error else 'by itself'}"
            self._give_up(Unavailable(told, backend="zookeeper", operation="open"), error)

    def _give_up(self, failure: BackendError, cause: BaseException | None) -> None:
        """There is no client any more, and whoever asks next is told why."""
        failure.__cause__ = cause
        self._failure = failure
        self._discard()


def _latin(password: str) -> str | bytes:
    """As Java has it: what can be Latin-1 is hashed as that, else as UTF-8. Source: RFC 2831, section 2.1.2.1."""
    try:
        return password.encode("latin-1")
    except UnicodeEncodeError:
        return password


def _stop(kazoo: Any) -> None:
    with suppress(KazooException, OSError, AttributeError):  # it may have ended by itself meanwhile
        kazoo.stop()
        kazoo.close()


def _quiet_logger(tell: Callable[[str], None]) -> logging.Logger:
    """A logger of kazoo's own, of which only warnings reach us, and no request: some hold a password."""

    class Telling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            arguments = record.args if isinstance(record.args, tuple) else ()
            if any(hasattr(each, "serialize") for each in arguments):
                tell(str(record.msg))
            else:
                tell(record.getMessage())

    logger = logging.Logger("coordkit.zookeeper", logging.WARNING)  # noqa: LOG001 - nobody is to get at its requests
    logger.addHandler(Telling())
    return logger
