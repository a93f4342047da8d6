"""What kazoo runs on: it reads ahead, writes behind, and never mistakes who is at the other end."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coordkit import Misconfigured
from coordkit.backends.zookeeper.client import _latin, _quiet_logger
from coordkit.backends.zookeeper.wire import Answer, Bell, Handler, NotZooKeeper, TappedSocket
from coordkit.clock import system_clock

GREETING = struct.pack("!iiiqi16s", 36, 0, 4000, 77, 16, b"p" * 16)


class Heard:
    """What a connection has told."""

    def __init__(self) -> None:
        self.granted: list[tuple[int, int, bytes]] = []
        self.garbled: list[str] = []
        self.ended: list[BaseException | None] = []

    def handler(self, context: Callable[[], Any] | None = None, timeout: float = 4.0) -> Handler:
        return Handler(
            lambda _: lambda *grant: self.granted.append(grant),
            self.garbled.append,
            lambda _, error: self.ended.append(error),
            clock=system_clock(),
            context=context,
            server_name="",
            timeout=timeout,
        )


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def tapped(heard: Heard) -> tuple[TappedSocket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return TappedSocket(ours, lambda *grant: heard.granted.append(grant), lambda: heard.garbled.append("")), theirs


def test_a_greeting_in_pieces_is_read_when_it_is_whole(heard: Heard) -> None:
    ours, theirs = tapped(heard)
    got = b""
    for piece in (GREETING[:3], GREETING[3:20], GREETING[20:], b"more"):
        assert len(heard.granted) == (1 if piece == b"more" else 0)
        theirs.sendall(piece)
        while len(got) < len(GREETING + b"more"):
            try:
                got += ours.recv(2)
            except BlockingIOError:
                break
    assert got == GREETING + b"more"
    assert heard.granted == [(77, 4000, b"p" * 16)]
    assert ours.greeted
    assert ours.pending() == 0
    ours.close()
    theirs.close()


def test_who_does_not_speak_as_zookeeper_is_told_at_once(heard: Heard) -> None:
    ours, theirs = tapped(heard)
    theirs.sendall(b"HTTP/1.1 400 Bad Request")
    with pytest.raises(NotZooKeeper):
        ours.recv(4)
    assert heard.garbled == [""]
    ours.close()
    theirs.close()


def test_what_is_sent_goes_together_and_a_full_line_is_waited_for(heard: Heard) -> None:
    ours, theirs = tapped(heard)
    theirs.settimeout(5.0)
    assert ours.send(b"one") == 3
    ours.send(b"two")
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(6)
    ours.flush()
    assert theirs.recv(10) == b"onetwo"
    with pytest.raises(TimeoutError):
        ours.send(b"x" * 10_000_000)  # nobody reads
    ours.leave()
    ours.close()
    ours.leave()  # harmless: it is over
    theirs.close()


def test_a_bell_counts_what_is_put_and_wakes_who_waits() -> None:
    bell = Bell()
    bell.send(b"\0")
    assert not bell.waits()
    bell.recv(1)
    assert bell.waits()
    bell.send(b"\0")
    assert bell.woken()
    bell.recv(1)
    bell.recv(1)  # more than were put: nothing
    assert bell.waits()
    assert not bell.woken()
    bell.close()


def test_an_answer_calls_back_once_whichever_comes_first() -> None:
    seen: list[object] = []
    early, late = Answer(), Answer()
    early.rawlink(lambda answer: seen.append(answer.get()))
    assert not early.ready()
    early.set(1)
    late.set_exception(KeyError("two"))
    late.rawlink(lambda answer: seen.append(answer.exception))
    assert seen[0] == 1
    assert isinstance(seen[1], KeyError)
    with pytest.raises(KeyError):
        late.get()
    assert early.ready()


def test_a_server_that_was_left_comes_last_once_and_nobody_is_reached_after_the_end(
    heard: Heard, listener: socket.socket
) -> None:
    handler, address = heard.handler(), listener.getsockname()
    handler.leave()  # there is no connection yet
    connection = handler.create_connection(address, "localhost", 5.0)
    handler.leave()
    assert connection.recv(1) == b""
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        handler.create_connection(address, "localhost", 5.0)
    handler.create_connection(address, "localhost", 5.0).close()
    handler.abandon()
    assert handler.abandoned
    with pytest.raises(ConnectionAbortedError):
        handler.create_connection(address, "localhost", 5.0)


def test_certificates_that_do_not_serve_for_a_moment_are_no_end(heard: Heard, listener: socket.socket) -> None:
    def unreadable() -> Any:
        raise Misconfigured("the file is being renewed")

    with pytest.raises(OSError, match="being renewed"):
        heard.handler(unreadable).create_connection(listener.getsockname(), "localhost", 5.0)


def test_who_does_not_stamp_it_any_more_loses_the_connection(heard: Heard, listener: socket.socket) -> None:
    handler = heard.handler(timeout=0.05)
    connection = handler.create_connection(listener.getsockname(), "localhost", 5.0)
    connection.setblocking(False)
    while not handler.abandoned:
        handler.select([connection], [], [], 0.02)
    assert connection.recv(1) == b""
    connection.close()


def test_the_end_of_kazoos_thread_is_told(heard: Heard) -> None:
    handler = heard.handler()
    handler.spawn(lambda: None).join()
    handler.spawn(lambda: 1 // 0).join()
    assert heard.ended[0] is None
    assert isinstance(heard.ended[1], ZeroDivisionError)


def test_no_request_gets_into_a_log() -> None:
    told: list[str] = []
    logger = _quiet_logger(told.append)
    request = type("Auth", (), {"serialize": None, "__str__": lambda self: "secret"})()
    logger.info("nobody is told of %s", "this")
    logger.warning("Connection dropped: %s", "refused")
    logger.error("of request: %s", request)
    assert told == ["Connection dropped: refused", "of request: %s"]
    assert logger.level == logging.WARNING


def test_a_password_is_hashed_as_java_has_it() -> None:
    assert _latin("pässword") == "pässword".encode("latin-1")
    assert _latin("пароль") == "пароль"
