"""Addresses at which no server is that serves: closed, silent, unreachable, somebody else's.

The rule: each is on the loopback interface, and takes a connection in one way only, for as long as its block is open.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

UNKNOWN_NAME = "nowhere.invalid"
Serve = Callable[[socket.socket], object]


class Impostor:
    """Listens, and does one thing with each connection. A context manager."""

    def __init__(self, serve: Serve) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._serve = serve
        self._accepted: list[socket.socket] = []
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._accepted.append(connection)
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        try:
            self._serve(connection)
        except OSError:
            return  # the client was faster

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._accepted:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def silent(connection: socket.socket) -> None:
    """Accepts and never answers."""


def closes(connection: socket.socket) -> None:
    """Hangs up at once."""
    connection.shutdown(socket.SHUT_RDWR)


def http(connection: socket.socket) -> None:
    """A web server, asked in another language."""
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request")
    connection.shutdown(socket.SHUT_RDWR)


def garbage(connection: socket.socket) -> None:
    """Bytes that mean nothing to anybody, all at once and for ever."""
    connection.recv(1000)
    connection.sendall(bytes(range(255, -1, -1)) * 16)


def says(line: str) -> Serve:
    """A server of Redis that answers every command with this line, such as `-LOADING not yet`."""

    def serve(connection: socket.socket) -> None:
        heard = connection.makefile("rb")
        while count := heard.readline():
            for _ in range(int(count[1:])):
                heard.read(int(heard.readline()[1:]) + 2)
            connection.sendall(f"{line}\r\n".encode())

    return serve


@contextmanager
def nobody() -> Iterator[str]:
    """A port where nobody listens, and that nobody else is given meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """A port that answers to no connection, as behind a firewall that drops: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"
