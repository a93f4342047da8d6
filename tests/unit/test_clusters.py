"""The parts of the clusters that need no server: proxies, ports, and when a cluster counts as ready."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.servers.cluster import Cluster, NotReady, View
from tests.servers.etcd import samples
from tests.servers.ports import Port, address
from tests.servers.proxy import Faults, Proxy, Replies
from tests.servers.sockets import owner

PATIENCE = 10.0
NOT_COMING = 0.05  # s: how long to listen for what must not come


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._heard = threading.Condition()
        self.heard = b""
        self.ends: list[str] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(accepted)
            thread = threading.Thread(target=self._serve, args=(accepted,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, accepted: socket.socket) -> None:
        end = "end"
        try:
            while data := accepted.recv(1 << 16):
                self._note(data)
                accepted.sendall(data)
        except OSError:
            end = "reset"
        accepted.close()
        with self._heard:
            self.ends.append(end)
            self._heard.notify_all()

    def _note(self, data: bytes) -> None:
        with self._heard:
            self.heard += data
            self._heard.notify_all()

    def hears(self, data: bytes) -> bool:
        with self._heard:
            return self._heard.wait_for(lambda: data in self.heard, PATIENCE)

    def ended(self, *ends: str) -> bool:
        with self._heard:
            return self._heard.wait_for(lambda: self.ends == list(ends), PATIENCE)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for accepted in self._open:
            try:
                accepted.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has ended before
        for thread in self._threads:
            thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Connect]:
    with ExitStack() as clients:
        yield Connect(proxy, clients)


@dataclass
class Connect:
    proxy: Proxy
    clients: ExitStack

    def __call__(self) -> socket.socket:
        made = socket.create_connection((self.proxy.host, self.proxy.port), timeout=PATIENCE)
        return self.clients.enter_context(made)


def silent(client: socket.socket) -> bool:
    client.settimeout(NOT_COMING)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(PATIENCE)
    return False


def asks(client: socket.socket, question: bytes) -> bytes:
    client.sendall(question)
    return receives(client, len(question))


def receives(client: socket.socket, size: int) -> bytes:
    answer = b""
    while len(answer) < size and (data := client.recv(1 << 16)):
        answer += data
    return answer


def test_a_proxy_passes_on_and_counts(proxy: Proxy, connect: Connect) -> None:
    one, other = connect(), connect()
    assert asks(one, b"one") == b"one"
    assert asks(other, b"other") == b"other"
    assert (proxy.open_now, proxy.ever) == (2, 2)
    one.shutdown(socket.SHUT_WR)
    assert one.recv(1) == b""
    assert asks(other, b"more") == b"more"
    assert proxy.ever == 2


def test_much_passes_unchanged(connect: Connect) -> None:
    client = connect()
    much = os.urandom(1 << 22)
    sender = threading.Thread(target=client.sendall, args=(much,))
    sender.start()
    got = bytearray()
    while len(got) < len(much):
        got += client.recv(1 << 20)
    sender.join()
    assert bytes(got) == much


def test_what_is_cut_stalls_and_passes_later(proxy: Proxy, echo: Echo, connect: Connect) -> None:
    old = connect()
    assert asks(old, b"before") == b"before"
    proxy.cut()
    old.sendall(b"during")
    new = connect()
    new.sendall(b"new")
    assert silent(old)
    assert silent(new)
    assert echo.heard == b"before"
    proxy.heal()
    assert old.recv(100) == b"during"
    assert new.recv(100) == b"new"


@pytest.mark.parametrize("linger", [False, True], ids=["end", "reset"])
def test_no_news_of_an_end_passes_a_cut(proxy: Proxy, echo: Echo, connect: Connect, linger: bool) -> None:
    client = connect()
    assert asks(client, b"before") == b"before"
    proxy.cut()
    if linger:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    proxy.delay(0.0)  # the proxy's loop has come round
    assert echo.ends == []
    proxy.heal()
    assert echo.ended("reset" if linger else "end")


def test_refused_connections_are_reset(proxy: Proxy, connect: Connect) -> None:
    old = connect()
    assert asks(old, b"before") == b"before"
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        old.recv(1)
    with pytest.raises(ConnectionResetError):
        connect().recv(1)
    assert proxy.open_now == 0
    proxy.heal()
    assert asks(connect(), b"after") == b"after"


def test_a_reset_ends_what_is_open_and_nothing_else(proxy: Proxy, echo: Echo, connect: Connect) -> None:
    old = connect()
    assert asks(old, b"before") == b"before"
    proxy.cut()
    old.sendall(b"lost")
    assert silent(old)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        old.recv(1)
    assert echo.ended("reset")
    proxy.heal()
    assert asks(connect(), b"after") == b"after"
    assert echo.heard == b"beforeafter"


def test_delay_delays_each_way(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    assert asks(client, b"before") == b"before"
    proxy.delay(0.05)
    started = time.monotonic()
    assert asks(client, b"during") == b"during"
    assert time.monotonic() - started >= 0.1


def test_held_replies_wait_while_requests_pass(proxy: Proxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    proxy.hold_replies()
    client.sendall(b"question")
    assert echo.hears(b"question")
    assert silent(client)
    proxy.release_replies()
    assert client.recv(100) == b"question"


def test_replies_are_held_from_a_request_on(proxy: Proxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    proxy.hold_replies(after=b"winning")
    assert asks(client, b"first win") == b"first win"
    with pytest.raises(TimeoutError):
        proxy.wait_for_request(0.0)
    client.sendall(b"ning")  # it may come in pieces
    proxy.wait_for_request()
    assert echo.hears(b"winning")
    assert silent(client)
    proxy.reset()
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_dropped_reply_resets_the_client_and_the_request_is_done(proxy: Proxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    proxy.drop_replies(after=b"winning")
    assert asks(client, b"first") == b"first"
    client.sendall(b"winning")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.hears(b"winning")
    assert proxy.open_now == 0
    assert echo.ends == []
    proxy.heal()
    assert echo.ended("reset")


def test_a_lost_request_resets_both_ends_and_is_not_done(proxy: Proxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    proxy.lose_request(b"losing")
    assert asks(client, b"first") == b"first"
    client.sendall(b"losing")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    proxy.wait_for_request()
    assert echo.ended("reset")
    assert asks(connect(), b"losing again") == b"losing again"  # once
    assert echo.hears(b"firstlosing again")


def test_held_requests_wait_while_replies_pass(proxy: Proxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    proxy.hold_replies()
    client.sendall(b"before")
    assert echo.hears(b"before")
    proxy.hold_requests()
    proxy.release_replies()
    assert client.recv(100) == b"before"
    client.sendall(b"during")
    assert silent(client)
    assert echo.heard == b"before"
    proxy.heal()
    assert client.recv(100) == b"during"


def test_who_is_left_by_the_server_alone_is_not_told(proxy: Proxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    assert asks(client, b"before") == b"before"
    proxy.half_open()
    assert echo.ended("reset")
    client.sendall(b"lost")
    assert silent(client)
    assert asks(connect(), b"new") == b"new"
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.heard == b"beforenew"


def test_replies_come_twice(proxy: Proxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    proxy.double_replies()
    client.sendall(b"one")
    assert receives(client, 6) == b"oneone"
    assert echo.heard == b"one"


def test_what_comes_late_comes_in_order(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    proxy.jitter(0.05)
    for number in range(20):
        client.sendall(b"%02d" % number)
        time.sleep(0.001)  # a piece each
    assert receives(client, 40) == b"".join(b"%02d" % number for number in range(20))


def test_a_stall_holds_up_what_comes_after_it(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    assert asks(client, b"before") == b"before"
    proxy.stall(1.0, 0.05)
    started = time.monotonic()
    assert asks(client, b"during") == b"during"
    assert time.monotonic() - started >= 0.1


def test_a_narrow_link_takes_its_time(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    assert asks(client, b"before") == b"before"
    proxy.narrow(100_000)
    started = time.monotonic()
    assert asks(client, b"x" * 10_000) == b"x" * 10_000
    assert time.monotonic() - started >= 0.1


def test_a_server_that_is_down_resets_its_clients() -> None:
    port = Port()
    with Proxy("127.0.0.1", port.number) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(PATIENCE)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    port.close()


def test_a_server_that_is_coming_is_waited_for() -> None:
    port = Port()
    with (
        Proxy("127.0.0.1", port.number, patience=PATIENCE) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as client,
    ):
        client.sendall(b"early")
        assert silent(client)
        with socket.create_server(("127.0.0.1", port.number)) as server:
            server.settimeout(PATIENCE)
            accepted, _ = server.accept()
            with accepted:
                accepted.settimeout(PATIENCE)
                assert accepted.recv(100) == b"early"
    port.close()


def upper_case(said: bytes) -> bytes | None:
    """Of the first line; None until it is whole."""
    line, end, rest = said.partition(b"\n")
    return line.upper() + end + rest if end else None


def test_first_words_are_passed_on_in_another_form(echo: Echo) -> None:
    with (
        Proxy("127.0.0.1", echo.port, opening=upper_case) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as client,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as other,
    ):
        client.sendall(b"fir")
        assert silent(client)
        assert echo.heard == b""
        assert asks(client, b"st\nsecond\n")
        assert echo.hears(b"FIRST\nsecond\n")
        assert asks(client, b"third\n") == b"third\n"
        other.sendall(b"cut sho")  # what ends in the midst is passed on as it is
        other.shutdown(socket.SHUT_WR)
        assert echo.hears(b"cut sho")


def test_a_closed_proxy_is_gone(echo: Echo) -> None:
    proxy = Proxy("127.0.0.1", echo.port)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as client:
        assert asks(client, b"before") == b"before"
        proxy.cut()
        proxy.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    proxy.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))


def test_who_connects_is_known_by_its_process(echo: Echo) -> None:
    names = {os.getpid(): "me", os.getppid(): "parent"}
    with (
        Proxy("127.0.0.1", echo.port, sources=lambda: names) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as client,
    ):
        proxy.block(["parent"])
        assert asks(client, b"passes") == b"passes"
        proxy.block(["me", "parent"])
        client.sendall(b"stalls")
        assert silent(client)
        proxy.block([])
        assert client.recv(100) == b"stalls"


def test_the_owner_of_a_connection(echo: Echo) -> None:
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        port = client.getsockname()[1]
        assert owner(port, echo.port, [os.getppid(), os.getpid()]) == os.getpid()
        assert owner(port, echo.port, [os.getppid()]) is None
        assert owner(port, port, [os.getpid()]) is None


def test_who_cannot_be_identified_is_blocked_with_the_others() -> None:
    assert Faults(blocked=frozenset({"a"})).stalled(None, is_reply=False)
    assert not Faults(blocked=frozenset({"a"})).stalled("b", is_reply=True)
    assert not Faults().stalled(None, is_reply=True)
    assert Faults(replies=Replies.HELD).stalled(None, is_reply=True)
    assert not Faults(replies=Replies.HELD).stalled(None, is_reply=False)


def test_a_port_is_kept_for_its_server() -> None:
    port = Port()
    with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port.number))
    with socket.create_server(("127.0.0.1", port.number)):  # sets SO_REUSEADDR, as servers do
        pass
    with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port.number))
    port.close()
    port.close()


def test_addresses() -> None:
    assert address("127.0.0.1", 2379) == "127.0.0.1:2379"
    assert address("::1", 2379) == "[::1]:2379"


def test_metrics_are_read_with_their_labels() -> None:
    text = ["# HELP a x", "a 1", 'b{c="d e",f="}"} 2.5e+06', "", "e NaN", "g 3 1395066363000"]
    assert samples(text) == [("a", "1"), ('b{c="d e",f="}"}', "2.5e+06"), ("e", "NaN"), ("g", "3")]


# -- when a cluster is ready -----------------------------------------------------------------------------------


@dataclass
class Actor:
    """A member that only says what it is told to."""

    name: str
    says: list[View | None]
    running: bool = True
    paused: bool = False
    host: str = "127.0.0.1"
    port: int = 1
    pid: int = 1
    done: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.done.append("start")
        self.running = True

    def stop(self) -> None:
        self.running = False

    kill = wipe = restart = stop

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.done.append("resume")
        self.paused = False

    def cut_off(self) -> None:
        self.done.append("cut_off")

    def rejoin(self) -> None:
        self.done.append("rejoin")

    def last_words(self, lines: int = 40) -> str:
        return f"words of {self.name}"


class Stage(Cluster[Actor]):
    closed = 0

    def view(self, member: Actor) -> View | None:
        return member.says.pop(0) if len(member.says) > 1 else member.says[0]

    def clear(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1


A1, A2, B2 = View("a", 1), View("a", 2), View("b", 2)


def test_ready_waits_until_all_agree() -> None:
    a, b, c = Actor("a", [A1, A1, B2]), Actor("b", [None, B2]), Actor("c", [A1, A2, B2])
    assert Stage([a, b, c]).ready() is b


def test_ready_tells_who_disagreed_and_their_last_words() -> None:
    stage = Stage([Actor("a", [A1]), Actor("b", [A2])])
    with pytest.raises(NotReady, match=r"(?s)'a': View.*words of a.*words of b"):
        stage.ready(0.0)


@pytest.mark.parametrize("state", ["down", "paused"])
def test_ready_does_not_wait_for_one_that_cannot_come(state: str) -> None:
    down = Actor("b", [A1], running=state != "down", paused=state == "paused")
    stage = Stage([Actor("a", [A1]), down])
    with pytest.raises(NotReady, match=f"b is {state}"):
        stage.ready()
    assert stage.ready(among=[stage.members[0]]).name == "a"


def test_where_nobody_leads_all_are_ready_when_they_say_so() -> None:
    first, second = Actor("a", [None, View("", 0)]), Actor("b", [View("", 0)])
    assert Stage([first, second]).ready() is first


def test_a_leader_needs_a_strict_majority_of_all_members() -> None:
    a, b, c = Actor("a", [A1]), Actor("b", [B2]), Actor("c", [B2], running=False)
    with pytest.raises(NotReady, match="no leader"):
        Stage([a, b, c]).leader(0.0)
    c.running = True
    assert Stage([a, b, c]).leader(0.0) is b
    assert Stage([a, b, c]).followers() == (a, c)


def test_a_successor_is_another() -> None:
    a, b, c = Actor("a", [A1], paused=True), Actor("b", [A1, None, B2]), Actor("c", [A1, A1, B2])
    assert Stage([a, b, c]).leader(other_than=a) is b


def test_heal_leaves_nobody_broken() -> None:
    a, b = Actor("a", [A1], running=False), Actor("b", [A1], paused=True)
    Stage([a, b]).heal()
    assert a.done == b.done == ["resume", "rejoin", "start"]


def test_a_cluster_that_is_not_ready_is_closed() -> None:
    class NeverReady(Stage):
        def ready(self, timeout: float = 30.0, *, among: object = None) -> Actor:
            raise NotReady("never")

    stage = NeverReady([Actor("a", [None])])
    with pytest.raises(NotReady), stage:
        pytest.fail("it was entered")
    assert stage.closed == 1
