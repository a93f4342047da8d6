"""On the way to a server: what it answers may be changed, and the way may lead to another one.

The rule: requests pass as they are. `Proxy` breaks networks; this one tells lies. Each answer of a script is taken for
one piece: small ones come so over the loopback interface.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.support.impostors import Impostor

CHUNK = 1 << 16
Change = Callable[[bytes], bytes]
_SCRIPTS = re.compile(rb"(\*7\r\n\$16\r\n)([0-9a-f]{16})")  # how each answer of our scripts begins: its nonce


class Relay(Impostor):
    """Passes on to one server after the other. `change`: what becomes of each piece that a server says."""

    def __init__(self, host: str, port: int) -> None:
        self.change: Change = truth
        self.made = 0  # connections so far
        self._target = (host, port)
        self._now: set[socket.socket] = set()
        self._lock = threading.Lock()  # guards both
        super().__init__(self._relay)

    def lead_to(self, host: str, port: int) -> None:
        """From now on it is the way to that server: who is connected is hung up on."""
        with self._lock:
            self._target = (host, port)
            for connection in self._now:
                _hang_up(connection)

    def close(self) -> None:
        with self._lock:
            for connection in self._now:
                _hang_up(connection)
        super().close()

    def _relay(self, client: socket.socket) -> None:
        with self._lock:
            server = socket.create_connection(self._target)
            self.made += 1
            self._now |= {client, server}
        try:
            back = threading.Thread(target=self._pass, args=(server, client, self._said), daemon=True)
            back.start()
            self._pass(client, server, truth)
            back.join()
        finally:
            with self._lock:
                self._now -= {client, server}
            server.close()

    def _said(self, data: bytes) -> bytes:
        return self.change(data)

    def _pass(self, one: socket.socket, other: socket.socket, change: Change) -> None:
        with suppress(OSError):  # either has hung up
            while data := one.recv(CHUNK):
                other.sendall(change(data))
        _hang_up(one)
        _hang_up(other)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # it has, already
        connection.shutdown(socket.SHUT_RDWR)


def truth(data: bytes) -> bytes:
    """As it was said."""
    return data


def to_somebody_else(data: bytes) -> bytes:
    """The answer to a request that nobody here has made."""
    return _SCRIPTS.sub(rb"\g<1>ffffffffffffffff", data)


def twice(data: bytes) -> bytes:
    """Each answer of a script comes once more."""
    return data * 2 if _SCRIPTS.match(data) else data


class Swapped:
    """Of each two answers of scripts, the one that was first comes last. One for each relay."""

    def __init__(self) -> None:
        self._kept = b""

    def __call__(self, data: bytes) -> bytes:
        if not _SCRIPTS.match(data):
            return data
        if not self._kept:
            self._kept = data
            return b""
        kept, self._kept = self._kept, b""
        return data + kept


def other_shape(data: bytes) -> bytes:
    """An answer that no script of ours gives."""
    return _SCRIPTS.sub(rb"*7\r\n:7\r\n$-1\r\n*0\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n*7\r\n$16\r\n\g<2>", data)
