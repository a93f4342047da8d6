"""What kazoo is made to run on: its connections as we see them, its callbacks without threads of their own.

The rules: kazoo's one thread, which reads and writes the socket, hands over everything in the order of the wire: that a
server has granted a session, each answer, each watch. So who is told of an answer has been told of the session before.
The timeout of a session is what the server says in its first answer [Source: ZooKeeper's ConnectResponse]; kazoo
keeps it to itself, so it is read off the connection.

Every call into the kernel gives another thread the interpreter, so there are few: what is sent and received together
goes through it together.

A connection that we leave is left at once, and its server is passed over once: the next comes first. One that is
abandoned says nothing more, not even farewell: the session's nodes stay until its timeout.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from kazoo.handlers.threading import SequentialThreadingHandler

from coordkit.clock import Clock
from coordkit.errors import BackendError
from coordkit.lease import waited_for

_LENGTH: Final = struct.Struct("!i")
_GREETING: Final = struct.Struct("!iiq4x16s")  # protocol version, timeout in milliseconds, session id, its password
_LONGEST_GREETING: Final = 1024
READ_AHEAD: Final = 1 << 16
WRITE_BEHIND: Final = 1 << 16
FLUSH_SECONDS: Final = 1.0
LONGEST_WAIT: Final = 1.5  # s
SENT_TOGETHER: Final = 64  # requests; then it is time to see what has come


Granted = Callable[[int, int, bytes], None]  # session id, timeout in milliseconds, the session's password


class NotZooKeeper(OSError):
    """What answers at the port does not speak ZooKeeper's protocol."""


class TappedSocket:
    """A connection that reads ahead, writes behind, and tells what the server grants in its first answer."""

    def __init__(self, plain: socket.socket, granted: Granted, garbled: Callable[[], None]) -> None:
        self._plain = plain
        self._granted = granted
        self._garbled = garbled
        self._greeting: bytes | None = b""  # as far as it has come; None: it has been read
        self._ahead = b""
        self._position = 0
        self._behind = bytearray()

    @property
    def greeted(self) -> bool:
        """Whether the server has said its first word."""
        return self._greeting is None

    def pending(self) -> int:
        """How many bytes need no waiting for. kazoo asks this of a TLS connection, and so of this one."""
        ahead = len(self._ahead) - self._position
        return ahead or (self._plain.pending() if isinstance(self._plain, ssl.SSLSocket) else 0)

    def recv(self, size: int) -> bytes:
        if self._position == len(self._ahead):
            self._ahead, self._position = self._plain.recv(READ_AHEAD), 0
            if self._greeting is not None:
                self._look(self._greeting + self._ahead)
        chunk = self._ahead[self._position : self._position + size]
        self._position += len(chunk)
        return chunk

    def send(self, data: bytes) -> int:
        self._behind += data
        if len(self._behind) > WRITE_BEHIND:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Send what is to be sent; the end of the connection if it takes none of it for long."""
        while self._behind:
            try:
                del self._behind[: self._plain.send(self._behind)]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._plain, event)
        if not poll.poll(FLUSH_SECONDS * 1000):
            raise TimeoutError("the server takes no requests")

    def leave(self) -> None:
        """End it, from any thread: whoever waits for it is woken."""
        try:
            # Not SSLSocket's own, which drops its TLS first: the other thread could then send what is to be secret.
            socket.socket.shutdown(self._plain, socket.SHUT_RDWR)
        except OSError:
            return  # it is over already

    def _look(self, greeting: bytes) -> None:
        self._greeting = greeting
        if len(greeting) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(greeting)
            if not _GREETING.size <= length <= _LONGEST_GREETING:
                self._garbled()
                raise NotZooKeeper("what answers there does not speak as ZooKeeper")
        if len(greeting) >= _LENGTH.size + _GREETING.size:
            _, milliseconds, session, password = _GREETING.unpack_from(greeting, _LENGTH.size)
            self._greeting = None
            self._granted(session, milliseconds, password)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


class Bell:
    """One end of what kazoo is woken by, for each request that is put into its queue. The other end wakes it.

    A request is counted, and the kernel is called only for one that comes while kazoo waits.
    """

    def __init__(self) -> None:
        self._waker, self._sleeper = socket.socketpair()
        self._waker.setblocking(False)
        self._sleeper.setblocking(False)
        self._rung: deque[None] = deque()
        self._awake = True

    def send(self, data: bytes) -> int:
        self._rung.append(None)  # first, for whoever is about to wait looks at it last
        if not self._awake:
            self._awake = True
            self._waker.send(data)
        return len(data)

    def recv(self, _: int) -> bytes:
        if self._rung:
            self._rung.popleft()
        return b"\0"

    def waits(self) -> bool:
        """Kazoo is about to wait: whether there is nothing to be done instead."""
        self._awake = False
        if self._rung:
            self._awake = True
            return False
        return True

    def woken(self) -> bool:
        """Whether something was put into the queue; kazoo waits no more."""
        self._awake = True
        with suppress(BlockingIOError):
            self._sleeper.recv(64)
        return bool(self._rung)

    def fileno(self) -> int:
        return self._sleeper.fileno()

    def close(self) -> None:
        self._waker.close()
        self._sleeper.close()


class Answer:
    """What becomes of one request: kazoo's `IAsyncResult`, as far as callbacks need it. Nobody waits for it.

    Set once, by kazoo's thread. Each callback is called once, by whichever thread comes second.
    """

    __slots__ = ("_callbacks", "_set", "exception", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.exception: BaseException | None = None
        self._set = False
        self._callbacks: deque[Callable[[Answer], object]] = deque()

    def ready(self) -> bool:
        return self._set

    def set(self, value: Any = None) -> None:
        self.value = value
        self._set = True
        self._call_back()

    def set_exception(self, exception: BaseException) -> None:
        self.exception = exception
        self.set()

    def get(self) -> Any:
        """What has come; kazoo asks for it in callbacks alone."""
        if self.exception is not None:
            raise self.exception
        return self.value

    def rawlink(self, callback: Callable[[Answer], object]) -> None:
        self._callbacks.append(callback)
        if self._set:
            self._call_back()

    def _call_back(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # the other thread was faster
                return
            callback(self)


class Handler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """kazoo's ways to wait and to connect. `connecting` is called before each try, in kazoo's thread.

    It returns what to call when a server grants a session. `failed` is called when kazoo's thread has ended.

    `alive` is to be stamped by whoever lives by this connection: if that stands still for `timeout` seconds, nobody is
    there who could act on what the session holds, and it is let go of.
    """

    def __init__(
        self,
        connecting: Callable[[Handler], Granted],
        garbled: Callable[[str], None],
        failed: Callable[[Handler, BaseException | None], None],
        *,
        clock: Clock,
        context: Callable[[], ssl.SSLContext] | None,
        server_name: str,
        timeout: float,
    ) -> None:
        super().__init__()
        self._connecting = connecting
        self._garbled = garbled
        self._failed = failed
        self._clock = clock
        self._context = context
        self._server_name = server_name
        self.timeout = timeout  # of the session, as it was granted, or first as it is asked for
        self.alive = clock.now()
        self._left: set[Any] = set()  # addresses of servers that were let go of: they come last once
        self._address: Any = None
        self._socket: TappedSocket | None = None
        self._unread = 0  # how often requests were sent since it was last looked for answers
        self._abandoned: bool = False  # any thread may set it

    def leave(self) -> None:
        """Let go of the connection in use, if there is one; its server is passed over once. Any thread."""
        current, self._socket = self._socket, None
        if current is not None:
            self._left.add(self._address)
            current.leave()

    @property
    def abandoned(self) -> bool:
        """Whether nothing more is said to anybody."""
        return self._abandoned

    def abandon(self) -> None:
        """Say nothing more to anybody."""
        self._abandoned = True
        self._leave_if_abandoned()

    # --- what kazoo calls ------------------------------------------------------------------------------------

    def start(self) -> None:
        self._running = True

    def stop(self) -> None:
        self._running = False

    def select(self, reads: Any, writes: Any, _: Any = (), timeout: float | None = None) -> Any:
        if writes:
            return [], writes, []  # a connection writes behind
        bells = [each for each in reads if isinstance(each, Bell)]
        taps = [each for each in reads if isinstance(each, TappedSocket)]
        idle = all(bell.waits() for bell in bells)
        if not idle and self._unread < SENT_TOGETHER:
            self._unread += 1
            return bells, [], []
        self._unread = 0
        for tap in taps:
            tap.flush()
        ahead = [tap for tap in taps if tap.pending()]
        poll = select.poll()
        for each in reads:
            poll.register(each, select.POLLIN)
        if timeout is not None and not all(tap.greeted for tap in taps):
            timeout = min(timeout, self._longest_wait)
        began = self._clock.now()
        while True:
            now = self._clock.now()
            if waited_for(self.alive, now) > self.timeout:
                self.abandon()
            left = None if timeout is None else max(0.0, timeout - waited_for(began, now))
            found = poll.poll(0 if ahead or not idle else None if left is None else left * 1000)
            readable = {number for number, _ in found}
            rung = [bell for bell in bells if bell.woken()]
            ready = [tap for tap in taps if tap in ahead or tap.fileno() in readable]
            if ready or rung or not found:  # else it was woken for what had been taken already
                return [*ready, *rung], [], []
            idle = all(bell.waits() for bell in bells)

    def create_socket_pair(self) -> Any:  # whatever kazoo can wait for, send to and receive from
        bell = Bell()
        return bell, bell

    def async_result(self) -> Any:  # as much of kazoo's own as is used
        return Answer()

    def dispatch_callback(self, callback: Any) -> None:
        callback.func(*callback.args)

    def spawn(self, func: Callable[..., object], *args: Any, **kwargs: Any) -> Any:
        def run() -> None:
            ended: BaseException | None = None
            try:
                func(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - else the thread prints it and ends, and nobody is told
                ended = error
            self._failed(self, ended)

        return super().spawn(run)

    def create_connection(self, address: Any, hostname: str = "", timeout: float = 0.0, **_: Any) -> TappedSocket:
        if self._abandoned:
            raise ConnectionAbortedError("the session is closed")
        if address in self._left:
            self._left.discard(address)
            raise ConnectionRefusedError(f"{address[0]}:{address[1]} did not answer in time just now")
        granted = self._connecting(self)
        plain = socket.create_connection(address, min(timeout, self._longest_wait))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                plain = self._secured(plain, self._server_name or hostname)
        except BaseException:
            plain.close()
            raise
        self._address = address
        self._socket = TappedSocket(plain, granted, lambda: self._garbled(f"{address[0]}:{address[1]}"))
        self._leave_if_abandoned()
        return self._socket

    @property
    def _longest_wait(self) -> float:
        """Seconds for a connection, and for the server's first word: others are to be tried while there is time."""
        return max(0.2, min(LONGEST_WAIT, self.timeout / 6))

    def _secured(self, plain: socket.socket, name: str) -> socket.socket:
        assert self._context is not None
        try:
            context = self._context()
        except BackendError as error:  # certificates are renewed on disk: they may not serve for a moment
            raise OSError(str(error)) from error
        return context.wrap_socket(plain, server_hostname=name)

    def _leave_if_abandoned(self) -> None:
        if self._abandoned and self._socket is not None:
            self._socket.leave()
