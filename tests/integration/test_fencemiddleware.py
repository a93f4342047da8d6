"""`FenceMiddleware` before a real HTTP server: what a stale leader asks for is refused before the service sees it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from coordkit import ConfigError, FencingToken, Misconfigured, StaleToken, Unavailable
from coordkit.fencing import FenceMiddleware, MemoryFence
from tests.support.http_service import served

pytestmark = pytest.mark.backend("http")


def token(value: int, election: str = "e") -> FencingToken:
    return FencingToken(election, value)


@dataclass
class Service:
    """Keeps what it is told, by whom. `gate`: it answers only when that is set; `asked`: it has a request."""

    written: list[tuple[str, str]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.asked.set()
        if self.gate is not None and body.startswith(b"slow"):
            await asyncio.to_thread(self.gate.wait, 30)
        if scope["method"] != "GET":
            self.written.append((str(scope.get("coordkit.token")), body.decode()))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@dataclass(frozen=True)
class Answer:
    status: int
    kind: str
    body: Any


Ask = Callable[..., Answer]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def serve() -> Iterator[Callable[..., Ask]]:
    """Starts a server for an application, and asks it."""
    with ExitStack() as servers:

        def start(app: Any) -> Ask:
            host, port = servers.enter_context(served(app))

            def ask(method: str, body: str = "", headers: Mapping[str, str] | None = None) -> Answer:
                connection = http.client.HTTPConnection(host, port, timeout=30)
                try:
                    connection.request(method, "/state", body=body or None, headers=dict(headers or {}))
                    got = connection.getresponse()
                    kind, text = got.headers.get("content-type", ""), got.read()
                    return Answer(got.status, kind, json.loads(text) if "json" in kind else text.decode())
                finally:
                    connection.close()

            ask.at = (host, port)  # type: ignore[attr-defined]
            return ask

        yield start


def test_a_stale_token_is_412_and_the_service_sees_nothing(service: Service, serve: Callable[..., Ask]) -> None:
    ask = serve(FenceMiddleware(service, MemoryFence()))
    for value in (5, 5, 7):
        assert ask("PUT", str(value), token(value).headers()).status == 200
    for method in ("PUT", "POST", "PATCH", "DELETE", "GET"):
        answer = ask(method, "6", token(6).headers())
        assert (answer.status, answer.kind) == (412, "application/problem+json")
        assert answer.body["status"] == 412
        assert (answer.body["offered"], answer.body["newest"]) == ("e=6", "e=7")
        assert set(answer.body) >= {"type", "title", "detail"}
    assert service.written == [("e=5", "5"), ("e=5", "5"), ("e=7", "7")]


def test_a_missing_token_is_428_where_it_is_required(service: Service, serve: Callable[..., Ask]) -> None:
    ask = serve(FenceMiddleware(service, MemoryFence()))
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        answer = ask(method, "x")
        assert (answer.status, answer.kind) == (428, "application/problem+json")
    assert ask("GET").status == 200
    only_put = serve(FenceMiddleware(service, MemoryFence(), methods=("put",)))
    assert [only_put(method, "x").status for method in ("PUT", "POST")] == [428, 200]
    all_of_them = serve(FenceMiddleware(service, MemoryFence(), methods=("GET",)))
    assert all_of_them("GET").status == 428


NUMBERS = ["", "0", "-1", "05", "5, e=6", "9223372036854775808", "9" * 60, "1e3", "\xb2", "5=5", " 5", "5e"]
NAMES = ["", "a//b", "%ff", "%00", "e%", "x" * 300, "..", "é"]


@pytest.mark.parametrize("odd", ["", "5", "e", *(f"e={text}" for text in NUMBERS), *(f"{name}=5" for name in NAMES)])
def test_a_malformed_token_is_400(service: Service, serve: Callable[..., Ask], odd: str) -> None:
    ask = serve(FenceMiddleware(service, MemoryFence()))
    answer = ask("PUT", "x", {"Fencing-Token": odd})
    assert (answer.status, answer.kind) == (400, "application/problem+json")
    assert service.written == []


def test_two_tokens_are_none(service: Service, serve: Callable[..., Ask]) -> None:
    ask = serve(FenceMiddleware(service, MemoryFence()))
    lines = ["PUT /state HTTP/1.1", "Host: x", "Fencing-Token: e=1", "fencing-token: e=9", "Content-Length: 0", "", ""]
    with socket.create_connection(ask.at) as raw:  # type: ignore[attr-defined]
        raw.sendall("\r\n".join(lines).encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
    assert service.written == []


def test_a_token_of_another_election_is_400(service: Service, serve: Callable[..., Ask]) -> None:
    ask = serve(FenceMiddleware(service, MemoryFence(), election="reports/é"))
    assert ask("PUT", "x", token(9, "reports/e").headers()).status == 400
    assert ask("PUT", "x", token(5, "reports/é").headers()).status == 200

    class OfOne:
        def admit(self, token: FencingToken) -> None:
            raise ConfigError("this fence is of the election 'a'")

    assert serve(FenceMiddleware(service, OfOne()))("PUT", "x", token(9).headers()).status == 400
    assert len(service.written) == 1


def test_a_client_that_stops_in_the_middle_of_its_request_does_not_write_late(
    service: Service, serve: Callable[..., Ask]
) -> None:
    """The zombie of HTTP: its header was sent while it led, its body comes when another one does."""
    ask = serve(FenceMiddleware(service, MemoryFence()))
    head = ["PUT /state HTTP/1.1", "Host: x", "Fencing-Token: e=1", "Content-Length: 4", "", ""]
    with socket.create_connection(ask.at, timeout=30) as zombie:  # type: ignore[attr-defined]
        zombie.sendall("\r\n".join(head).encode() + b"la")
        assert ask("PUT", "new", token(2).headers()).status == 200
        zombie.sendall(b"te")
        assert zombie.recv(100).startswith(b"HTTP/1.1 412 ")
    assert service.written == [("e=2", "new")]


def test_a_newer_token_is_admitted_only_after_what_was_admitted_before_is_answered(
    service: Service, serve: Callable[..., Ask]
) -> None:
    """Without that the slow one would write after its successor."""
    service.gate = threading.Event()
    ask = serve(FenceMiddleware(service, MemoryFence()))
    answers: dict[str, Answer] = {}

    def tell(name: str, value: int) -> threading.Thread:
        def told() -> None:
            answers[name] = ask("PUT", name, token(value).headers())

        thread = threading.Thread(target=told)
        thread.start()
        return thread

    slow = tell("slow", 1)
    assert service.asked.wait(30)
    assert ask("PUT", "beside it", token(1).headers()).status == 200  # the same leader is not kept waiting
    quick = tell("quick", 2)
    quick.join(0.3)
    assert quick.is_alive()
    service.gate.set()
    for thread in (slow, quick):
        thread.join(30)
    assert [answers[name].status for name in ("slow", "quick")] == [200, 200]
    assert [body for _, body in service.written] == ["beside it", "slow", "quick"]


def test_who_waits_too_long_is_told(service: Service, serve: Callable[..., Ask]) -> None:
    service.gate = threading.Event()
    ask = serve(FenceMiddleware(service, MemoryFence(), patience=0.2))
    slow = threading.Thread(target=ask, args=("PUT", "slow", token(1).headers()))
    slow.start()
    assert service.asked.wait(30)
    assert ask("PUT", "quick", token(2).headers()).status == 503
    service.gate.set()
    slow.join(30)
    assert ask("PUT", "quick", token(2).headers()).status == 200


def test_bodies_are_passed_on_whole_up_to_a_limit(service: Service, serve: Callable[..., Ask]) -> None:
    ask = serve(FenceMiddleware(service, MemoryFence(), max_body=200_000))
    assert ask("PUT", "x" * 200_000, token(1).headers()).status == 200
    assert ask("PUT", "x" * 200_001, token(1).headers()).status == 413
    assert [len(body) for _, body in service.written] == [200_000]


def test_a_fence_that_fails(service: Service, serve: Callable[..., Ask]) -> None:
    class Failing:
        error: Exception = Unavailable("secret place")

        def admit(self, token: FencingToken) -> None:
            raise self.error

    fence = Failing()
    ask = serve(FenceMiddleware(service, fence))
    answer = ask("PUT", "x", token(1).headers())
    assert (answer.status, answer.kind) == (503, "application/problem+json")
    assert "secret" not in json.dumps(answer.body)
    fence.error = Misconfigured("secret place")
    answer = ask("PUT", "x", token(1).headers())
    assert answer.status == 500
    assert "secret" not in str(answer.body)
    assert service.written == []


def test_after_a_refusal_who_waits_still_goes_first() -> None:
    """The service has just begun, the fence has not: a stale request, one that waits, and one that comes."""

    async def asked() -> list[int]:
        inside, go, order = asyncio.Event(), asyncio.Event(), []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            value = scope["coordkit.token"].value
            if value == 10:
                inside.set()
                await go.wait()
            order.append(value)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        fence = MemoryFence()
        fence.admit(token(10))
        middleware = FenceMiddleware(app, fence)

        async def request(value: int) -> None:
            async def receive() -> Any:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(_: Any) -> None: ...

            headers = [(name.lower().encode(), text.encode()) for name, text in token(value).headers().items()]
            await middleware({"type": "http", "method": "PUT", "headers": headers}, receive, send)

        older = [asyncio.create_task(request(value)) for value in (5, 10)]
        await inside.wait()
        newer = asyncio.create_task(request(11))
        done, _ = await asyncio.wait({newer}, timeout=0.3)
        assert not done
        go.set()
        await asyncio.gather(*older, newer)
        return order

    assert asyncio.run(asked()) == [10, 11]


def test_a_coroutine_function_in_disguise_is_awaited() -> None:
    class Disguised:
        def admit(self, token: FencingToken) -> Any:
            async def late() -> None:
                raise StaleToken(token, FencingToken("e", 7))

            return late()

    async def status() -> int:
        told: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            told.append(message)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            pytest.fail("the service has seen it")

        fence: Any = Disguised()
        headers = [(name.lower().encode(), text.encode()) for name, text in token(5).headers().items()]
        scope = {"type": "http", "method": "PUT", "headers": headers}
        await FenceMiddleware(app, fence)(scope, receive, send)
        return int(told[0]["status"])

    assert asyncio.run(status()) == 412


def test_a_plain_fence_is_asked_off_the_loop_and_an_async_one_on_it(
    service: Service, serve: Callable[..., Ask]
) -> None:
    threads: list[str] = []

    class Plain:
        def admit(self, token: FencingToken) -> None:
            threads.append("loop" if asyncio._get_running_loop() else "thread")

    class Awaited:
        async def admit(self, token: FencingToken) -> None:
            threads.append("loop" if asyncio._get_running_loop() else "thread")
            if token.value < 5:
                raise StaleToken(token, FencingToken(token.election, 5))

    assert serve(FenceMiddleware(service, Plain()))("PUT", "x", token(1).headers()).status == 200
    asked = serve(FenceMiddleware(service, Awaited()))
    assert [asked("PUT", "x", token(value).headers()).status for value in (5, 4)] == [200, 412]
    assert threads == ["thread", "loop", "loop"]


# -- what a server of HTTP has no part in ----------------------------------------------------------------


def play(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


async def accepting(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})


def handshake(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "websocket", "headers": list(headers), **more}


def test_a_websocket_is_judged_at_its_handshake() -> None:
    app = FenceMiddleware(accepting, MemoryFence())
    connect = {"type": "websocket.connect"}
    assert play(app, handshake((b"fencing-token", b"e=5")), connect) == [{"type": "websocket.accept"}]
    for headers in ([], [(b"fencing-token", b"e=4")], [(b"fencing-token", b"rubbish")]):
        (closed,) = play(app, handshake(*headers), connect)
        assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    denied = play(app, handshake(extensions={"websocket.http.response": {}}), connect)
    assert [message["type"] for message in denied] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert denied[0]["status"] == 428
    open_to_all = FenceMiddleware(accepting, MemoryFence(), websockets=False)
    assert play(open_to_all, handshake(), connect) == [{"type": "websocket.accept"}]


def test_the_life_of_the_server_is_none_of_its_business() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    play(FenceMiddleware(app, MemoryFence()), {"type": "lifespan"})
    assert seen == ["lifespan"]


def test_a_client_that_has_gone_is_not_judged() -> None:
    fence = MemoryFence()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("it was called")

    scope = {"type": "http", "method": "PUT", "headers": [(b"fencing-token", b"e=5")]}
    part = {"type": "http.request", "body": b"half", "more_body": True}
    assert play(FenceMiddleware(app, fence), scope, part, {"type": "http.disconnect"}) == []
    assert fence.newest("e") is None


def test_names_that_were_never_admitted_fill_no_memory() -> None:
    class Refusing:
        def admit(self, token: FencingToken) -> None:
            raise StaleToken(token, token)

    app = FenceMiddleware(accepting, Refusing())
    for number in range(20):
        header = (b"fencing-token", f"{number}=5".encode())
        play(app, {"type": "http", "method": "PUT", "headers": [header]}, {"type": "http.request", "body": b""})
    assert not app._gates


def test_arguments_that_make_no_sense() -> None:
    for arguments in (
        {"app": None},
        {"fence": object()},
        {"election": ""},
        {"methods": "PUT"},
        {"methods": ["P T"]},
        {"methods": [5]},
        {"max_body": -1},
        {"max_body": 1.5},
        {"patience": 0},
    ):
        with pytest.raises(ConfigError):
            FenceMiddleware(**{"app": accepting, "fence": MemoryFence()} | arguments)  # type: ignore[arg-type]
