"""A fence before an ASGI service: a stale leader's request is refused before the service sees it.

The rule: a token is judged when the whole request is there, and a newer one is admitted only after what was admitted
before has been answered. So a client that is stopped in the middle of its request cannot write late.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from coordkit.errors import ConfigError, LeadershipLost, OutcomeUnknown, StaleToken, Unavailable
from coordkit.model import Fence, FencingToken, check_election, check_seconds

HEADER: Final = b"fencing-token"
TOKEN: Final = "coordkit.token"
WRITING: Final = ("DELETE", "PATCH", "POST", "PUT")
MAX_BODY: Final = 1024 * 1024
PATIENCE: Final = 10.0

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsyncFence(Protocol):
    """A fence whose `admit` is awaited."""

    async def admit(self, token: FencingToken) -> None:
        """As `Fence.admit`."""
        ...


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    title: str
    detail: str
    more: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Gate:
    """Of one election: who is being answered. Used by the tasks of one loop."""

    door: asyncio.Lock = field(default_factory=asyncio.Lock)  # one at a time is judged, in the order of arrival
    newest: FencingToken | None = None
    inside: int = 0  # admitted, and not answered yet; all with the newest token
    users: int = 0  # who judge, or wait to be judged, or are inside: while there are any it stays
    empty: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self, token: FencingToken) -> None:
        self.newest = token
        self.inside += 1
        self.empty.clear()

    def leave(self) -> None:
        self.inside -= 1
        if not self.inside:
            self.empty.set()


class FenceMiddleware:
    """Passes on the requests whose `Fencing-Token` the fence admits; the service finds it as scope["coordkit.token"].

        app = FenceMiddleware(app, MemoryFence(), election="reports/nightly")
        # the leader: client.put(url, ..., headers=term.token.headers())

    Answers with application/problem+json: 412 to a stale token, 428 where one is required and missing, 400 to what is
    no token, to two of them and to another election's, 413 to a body above `max_body` bytes, 503 while the fence
    cannot be asked or older requests are not answered within `patience` seconds. `methods` require a token; with
    others, one that is there is judged all the same. A WebSocket's handshake requires one if `websockets`; what is
    sent in it later is not judged.

    `fence`: a plain one is asked on a thread, one whose `admit` is a coroutine function on the loop. `election`: of
    which the tokens have to be; without it each election has its own order.

    The danger: it guards one process. Of a service with several, or one that goes on writing after its answer has
    begun, the store itself must have the fence: hand it the token of the scope.
    """

    def __init__(
        self,
        app: App,
        fence: Fence | AsyncFence,
        *,
        election: str | None = None,
        methods: Iterable[str] = WRITING,
        websockets: bool = True,
        max_body: int = MAX_BODY,
        patience: float = PATIENCE,
    ) -> None:
        if not callable(app):
            raise ConfigError("the middleware takes an ASGI application, which is called with scope, receive and send")
        if not callable(getattr(fence, "admit", None)):
            raise ConfigError(f"a fence has a method admit(token); {type(fence).__name__} has not")
        if isinstance(methods, str):
            raise ConfigError("methods is several names, such as ('PUT', 'POST')")
        named: tuple[object, ...] = tuple(methods)
        words = [each for each in named if isinstance(each, str) and each.isascii() and each.isalpha()]
        if len(words) != len(named):
            raise ConfigError("a method of HTTP is a word, such as 'PUT'")
        if type(max_body) is not int or max_body < 0:
            raise ConfigError("max_body is a number of bytes")
        self._app = app
        self._fence: Any = fence
        self._awaited = inspect.iscoroutinefunction(fence.admit)
        self._election = None if election is None else check_election(election)
        self._methods = frozenset(each.upper() for each in words)
        self._websockets = websockets
        self._max_body = max_body
        self._patience = check_seconds(patience, "patience")
        self._gates: dict[str, _Gate] = {}  # by election

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        found = [value for name, value in scope["headers"] if name.lower() == HEADER]
        required = self._websockets if kind == "websocket" else scope["method"].upper() in self._methods
        if not found and not required:
            await self._app(scope, receive, send)
            return
        token = self._token(found)
        if isinstance(token, _Refusal):
            await _refuse(scope, receive, send, token)
            return
        if kind == "http":
            body = await self._whole(receive)
            if isinstance(body, _Refusal):
                await _refuse(scope, receive, send, body)
                return
            if body is None:
                return  # the client has gone
            receive = _replayed(body, receive)
        await self._pass(scope, receive, send, token)

    def _token(self, found: list[bytes]) -> FencingToken | _Refusal:
        if not found:
            return _Refusal(428, "A fencing token is required", "send the header Fencing-Token")
        if len(found) > 1:
            return _Refusal(400, "Malformed fencing token", f"one Fencing-Token header is expected, {len(found)} found")
        try:
            token = FencingToken.from_headers({"fencing-token": found[0].decode("latin-1")})
        except ConfigError as error:
            return _Refusal(400, "Malformed fencing token", str(error))
        if self._election not in (None, token.election):
            return _another(f"this resource is guarded by another election than {token.election!r}")
        return token

    async def _whole(self, receive: Receive) -> bytes | _Refusal | None:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body:
                return _Refusal(413, "The content is too large", f"at most {self._max_body} bytes")
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, token: FencingToken) -> None:
        gate = self._gates.setdefault(token.election, _Gate())
        gate.users += 1
        try:
            await self._pass_by(gate, scope, receive, send, token)
        finally:
            gate.users -= 1
            if not gate.users and gate.newest is None:
                self._gates.pop(token.election, None)  # nobody was ever admitted: names are no way to fill the memory

    async def _pass_by(self, gate: _Gate, scope: Scope, receive: Receive, send: Send, token: FencingToken) -> None:
        refusal = await self._admit(gate, token)
        if refusal is not None:
            await _refuse(scope, receive, send, refusal)
            return
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                gate.leave()

        async def answering(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.close"):
                leave()
            await send(message)

        try:
            await self._app({**scope, TOKEN: token}, receive, answering)
        finally:
            leave()

    async def _admit(self, gate: _Gate, token: FencingToken) -> _Refusal | None:
        try:
            async with asyncio.timeout(self._patience):
                async with gate.door:
                    if gate.inside and gate.newest is not None and token > gate.newest:
                        await gate.empty.wait()
                    if self._awaited:
                        await self._fence.admit(token)
                    else:
                        answer = await asyncio.to_thread(self._fence.admit, token)
                        if inspect.isawaitable(answer):  # a coroutine function in disguise: nothing was asked yet
                            await answer
                    gate.enter(token)
        except TimeoutError:
            return _Refusal(503, "Not admitted in time", "older requests, or the fence, have not answered")
        except StaleToken as error:
            told = {"offered": str(error.offered), "newest": str(error.newest)}
            return _Refusal(412, "Stale fencing token", str(error), told)
        except LeadershipLost as error:
            return _Refusal(412, "Stale fencing token", str(error))
        except (Unavailable, OutcomeUnknown):
            return _Refusal(503, "The fence cannot be asked", "try again later")
        except ConfigError as error:  # a fence of one election
            return _another(str(error))
        return None


def _another(detail: str) -> _Refusal:
    return _Refusal(400, "A fencing token of another election", detail)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The request's body once, then what comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: _Refusal) -> None:
    problem = {
        "type": "about:blank",
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        **refusal.more,
    }
    body = json.dumps(problem).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    prefix = "http"
    if scope["type"] == "websocket":
        await receive()  # its websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.title})
            return
        prefix = "websocket.http"
    await send({"type": f"{prefix}.response.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})
