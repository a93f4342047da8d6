"""A fence in etcd, on coordkit's own connection.

The rule: one transaction compares the fence's key with what it was when it was last seen, and writes only if it is
still that. Where it is not, the answer shows what it is now; then the token is judged anew, and nothing was written.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar, cast

from coordkit import retry
from coordkit.backends.etcd import stubs
from coordkit.backends.etcd.adapter import EtcdBackend
from coordkit.backends.etcd.connection import Connection
from coordkit.backends.etcd.layout import Place
from coordkit.engine import Engine, EngineDied, current, existing
from coordkit.errors import ConfigError, LeadershipLost, Misconfigured, StaleToken, Unavailable
from coordkit.lease import DEFAULT_TTL
from coordkit.model import (
    FencingToken,
    LossReason,
    check_election,
    check_seconds,
    check_token,
    encode_election,
)
from coordkit.registry import Address, parse
from coordkit.session import Keeper
from coordkit.waiting import Budget

T = TypeVar("T")

CALL_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0
MOST_OPERATIONS: Final = 120  # etcd refuses a transaction of more than 128 by default
EQUAL, CREATE, MOD, VALUE = 0, 1, 2, 3  # of Compare.CompareResult, and of Compare.CompareTarget

Name = str | bytes  # of a key

stubs.load()  # so that a missing package is told before anything else is done


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the fence's key was; without a token it was not there, at revision 0."""

    token: FencingToken | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class _Write:
    """What is to be written under a token, checked."""

    operation: str
    token: FencingToken
    puts: Mapping[bytes, bytes]
    deletes: tuple[bytes, ...]
    leading: bool  # and only while the key with which it leads is there


class _Fences:
    """What both faces do. Its coroutines run on the engine, the rest in the application's threads, without I/O."""

    def __init__(self, url: str, election: str | None, while_leading: bool, timeout: float) -> None:
        self.address: Address = parse(url)
        if self.address.scheme not in ("etcd", "etcds"):
            raise ConfigError(f"an EtcdFence has a URL etcd://… or etcds://…, not {self.address.scheme}://")
        self.election = None if election is None else check_election(election)
        self.timeout = check_seconds(timeout, "timeout")
        self._while_leading = while_leading
        path = self.address.path[1:]
        self._prefix = f"{path}/" if path and not path.endswith("/") else path
        self._seen: dict[str, _Seen] = {}  # by election; of the engine, as the next is
        self._leader: dict[str, tuple[int, bytes]] = {}  # its token, and the key with which it leads
        self._keepers: dict[Engine, Keeper] = {}  # of each engine that it was used with: of the parent, of this process
        self._user = object()
        weakref.finalize(self, _part_later, self._keepers, self._user, os.getpid()).atexit = False

    # --- in the application's threads ------------------------------------------------------------------------

    def key(self, election: str) -> bytes:
        """Where the newest token of an election is kept: beside its candidates' keys, never among them."""
        return f"{self._prefix}{encode_election(election)}.fence".encode()

    def write(
        self, operation: str, token: FencingToken, puts: Mapping[Name, Name], deletes: Iterable[Name]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        """What is to run on the engine for one write; `ConfigError` if it makes no sense."""
        self.check(token)
        if isinstance(deletes, (str, bytes)):
            raise ConfigError("what is deleted is a sequence of keys")
        pairs = {_bytes(key, "a key"): _bytes(value, "a value", empty=True) for key, value in puts.items()}
        gone = tuple(_bytes(key, "a key") for key in deletes)
        keys = {*pairs, *gone}
        if len(pairs) != len(puts) or len(keys) != len(puts) + len(gone):
            raise ConfigError("a transaction of etcd has each key once")
        if len(keys) > MOST_OPERATIONS:
            raise ConfigError(f"a transaction has at most {MOST_OPERATIONS} writes, not {len(keys)}")
        if self.key(token.election) in keys:
            raise ConfigError(f"the key {self.key(token.election).decode()!r} is the fence's own")
        wanted = _Write(operation, token, pairs, gone, self._while_leading)
        return lambda: self._written(current(), wanted)

    def admit(self, token: FencingToken) -> Callable[[], Coroutine[Any, Any, None]]:
        self.check(token)
        wanted = _Write("admit", token, {}, (), self._while_leading)
        return lambda: retry.within_async(self.timeout)(self._written, current(), wanted)

    def newest(self, election: str) -> Callable[[], Coroutine[Any, Any, FencingToken | None]]:
        check_election(election)
        return lambda: self._newest(current(), election)

    def overwrite(self, token: FencingToken) -> Callable[[], Coroutine[Any, Any, None]]:
        self.check(token)
        return lambda: self._overwritten(current(), token)

    def check(self, token: FencingToken) -> None:
        check_token(token)
        if self.election not in (None, token.election):
            raise ConfigError(f"this fence is of the election {self.election!r}, not of {token.election!r}")

    def closing(self, engine: Engine) -> Callable[[], Coroutine[Any, Any, None]]:
        async def closed() -> None:
            keeper = self._keepers.pop(engine, None)
            task = None if keeper is None else keeper.part(self._user)
            if task is not None:
                await asyncio.wait([task])

        return closed

    # --- on the engine ---------------------------------------------------------------------------------------

    async def _connected(self, engine: Engine, budget: Budget) -> Connection:
        keeper = self._keepers.get(engine)
        if keeper is None:
            keeper = self._keepers[engine] = engine.keeper(self.address, DEFAULT_TTL)
            keeper.join(self._user, _nothing)
        await keeper.open_once(max(0.001, budget.left))
        return cast(EtcdBackend, keeper.backend).connection

    async def _written(self, engine: Engine, wanted: _Write) -> None:
        budget = Budget(engine.clock, self.timeout)
        connection = await self._connected(engine, budget)
        election, leader = wanted.token.election, b""
        if wanted.leading:
            leader = await self._key_of_leader(connection, wanted, budget)
        while True:
            seen = self._seen.get(election, _Seen())
            if seen.token is not None and wanted.token < seen.token:
                # Whoever has restored the cluster, or lowered the fence, is believed: look before it is refused.
                seen = await self._look(connection, election, wanted.operation, budget)
                if seen.token is not None and wanted.token < seen.token:
                    raise StaleToken(wanted.token, seen.token)
            answer = await self._ask(connection, self._request(connection.rpc, wanted, seen, leader), wanted, budget)
            if answer.succeeded:
                if wanted.token != seen.token:
                    self._seen[election] = _Seen(wanted.token, answer.header.revision)
                return
            seen = self._read(election, answer.responses[0].response_range.kvs, wanted.operation)
            self._seen[election] = seen
            if seen.token is not None and wanted.token < seen.token:
                raise StaleToken(wanted.token, seen.token)
            if leader and not _created_at(answer.responses[1].response_range.kvs, wanted.token):
                raise _led(wanted.token)
            if budget.left <= 0:
                told = f"{wanted.operation}: the fence was moved by others all the time"
                raise Unavailable(told, backend="etcd", operation=wanted.operation)

    def _request(self, rpc: Any, wanted: _Write, seen: _Seen, leader: bytes) -> Any:
        key = self.key(wanted.token.election)
        compare = [rpc.Compare(key=key, target=MOD, result=EQUAL, mod_revision=seen.revision)]
        if seen.token is not None:  # in a cluster that was made anew the revision may be the same by chance
            compare.append(rpc.Compare(key=key, target=VALUE, result=EQUAL, value=_digits(seen.token)))
        shown = [rpc.RequestOp(request_range=rpc.RangeRequest(key=key))]
        if leader:
            compare.append(rpc.Compare(key=leader, target=CREATE, result=EQUAL, create_revision=wanted.token.value))
            shown.append(rpc.RequestOp(request_range=rpc.RangeRequest(key=leader)))
        puts = dict(wanted.puts)
        if wanted.token != seen.token:
            puts[key] = _digits(wanted.token)
        success = [rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value)) for key, value in puts.items()]
        success += [rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key)) for key in wanted.deletes]
        return rpc.TxnRequest(compare=compare, success=success, failure=shown)

    async def _key_of_leader(self, connection: Connection, wanted: _Write, budget: Budget) -> bytes:
        """The candidate's key that was created at the token's revision."""
        token = wanted.token
        value, key = self._leader.get(token.election, (0, b""))
        if value == token.value:
            return key
        place, rpc = Place(self._prefix, token.election), connection.rpc
        request = rpc.RangeRequest(
            key=place.entries,
            range_end=place.entries_end,
            min_create_revision=token.value,
            max_create_revision=token.value,
            keys_only=True,
        )
        answer, _ = await connection.call(
            wanted.operation, lambda endpoint: endpoint.kv.Range, request, seconds=max(0.001, budget.left)
        )
        if not answer.kvs:
            raise _led(token)
        found = bytes(answer.kvs[0].key)
        self._leader[token.election] = (token.value, found)
        return found

    async def _look(self, connection: Connection, election: str, operation: str, budget: Budget) -> _Seen:
        request = connection.rpc.RangeRequest(key=self.key(election))
        answer, _ = await connection.call(
            operation, lambda endpoint: endpoint.kv.Range, request, seconds=max(0.001, budget.left)
        )
        seen = self._seen[election] = self._read(election, answer.kvs, operation)
        return seen

    async def _newest(self, engine: Engine, election: str) -> FencingToken | None:
        budget = Budget(engine.clock, self.timeout)
        connection = await self._connected(engine, budget)
        return (await self._look(connection, election, "newest", budget)).token

    async def _overwritten(self, engine: Engine, token: FencingToken) -> None:
        budget = Budget(engine.clock, self.timeout)
        connection = await self._connected(engine, budget)
        request = connection.rpc.PutRequest(key=self.key(token.election), value=_digits(token))
        await connection.call("overwrite", lambda endpoint: endpoint.kv.Put, request, seconds=max(0.001, budget.left))
        self._seen.pop(token.election, None)

    @staticmethod
    async def _ask(connection: Connection, request: Any, wanted: _Write, budget: Budget) -> Any:
        answer, _ = await connection.call(
            wanted.operation, lambda endpoint: endpoint.kv.Txn, request, seconds=max(0.001, budget.left)
        )
        return answer

    def _read(self, election: str, kvs: Any, operation: str) -> _Seen:
        if not kvs:
            return _Seen()
        kv = kvs[0]
        try:
            if kv.lease:
                raise ConfigError("it is bound to a lease, and will be gone")
            return _Seen(FencingToken.parse(f"{election}={kv.value.decode()}"), int(kv.mod_revision))
        except (ConfigError, UnicodeDecodeError) as error:
            told = f"the key {kv.key.decode(errors='replace')!r} holds no token: somebody else has written there"
            raise Misconfigured(told, backend="etcd", operation=operation) from error


class EtcdFence:
    """Admits a token not lower than the newest it has seen of that election, together with writes to etcd.

        fence = EtcdFence("etcd://127.0.0.1:2379")
        fence.put("reports/state", text, term.token)      # StaleToken: nothing was written

    Each call is one transaction, and one round trip but for the first of a token. The newest token is the value of
    `[prefix]<election>.fence`, without a lease; the data's keys are named in full. It shares the connection of the
    electors with the same URL, lives until `close`, and may be used again after it. Thread-safe. A plain `Fence`, too:
    `LeaderElector(fences=[fence])`.

    `while_leading`: a write is also refused, as `LeadershipLost`, once the key with which that token's term leads is
    gone, although nobody else leads yet; the URL is then the elector's. `election`: tokens of others are refused with
    `ConfigError`. `timeout`: seconds for a call.

    The danger: what is written around the fence is not protected. A cluster restored from a backup has forgotten the
    newer tokens, and its revisions, which the tokens are, may fall: raise the fence by `coordkit fence raise`.
    After `OutcomeUnknown` a write may have happened, now or later: look before it is made again.
    """

    def __init__(
        self, url: str, election: str | None = None, *, while_leading: bool = False, timeout: float = CALL_SECONDS
    ) -> None:
        self._fences = _Fences(url, election, while_leading, timeout)

    def admit(self, token: FencingToken) -> None:
        """Remember `token`, or raise `StaleToken`. A write that follows in another call is not atomic with it."""
        current().ask(self._fences.admit(token))

    def put(self, key: Name, value: Name, token: FencingToken) -> None:
        """Write one key, if the token is admitted."""
        current().ask(self._fences.write("put", token, {key: value}, ()))

    def delete(self, key: Name, token: FencingToken) -> None:
        """Delete one key, if the token is admitted."""
        current().ask(self._fences.write("delete", token, {}, (key,)))

    def transact(
        self, token: FencingToken, puts: Mapping[Name, Name] | None = None, deletes: Iterable[Name] = ()
    ) -> None:
        """Write and delete several keys at once, if the token is admitted; all of them or none."""
        current().ask(self._fences.write("transact", token, puts or {}, deletes))

    def newest(self, election: str) -> FencingToken | None:
        """The highest token seen of an election, or None."""
        return current().ask(self._fences.newest(election))

    def overwrite(self, token: FencingToken) -> None:
        """Remember `token` whatever was seen of its election. For an operator: a lower one lets stale leaders in."""
        current().ask(self._fences.overwrite(token))

    def close(self) -> None:
        """Let go of the connection, if nobody else uses it."""
        engine = existing()
        if engine is not None:
            try:
                engine.ask(self._fences.closing(engine), CLOSE_SECONDS)
            except (TimeoutError, EngineDied):
                return  # it goes on without us, or has ended with the engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EtcdFence {self._fences.address.shown}>"


def fence_at(url: str, place: str | None, timeout: float, stack: ExitStack) -> EtcdFence:
    """The fence that an operator means by a URL: see `stored`."""
    return stack.enter_context(EtcdFence(url, timeout=timeout))


class AsyncEtcdFence:
    """`EtcdFence` for asyncio: the same promises and the same dangers, each method awaited.

    Not for `fences=[...]`, which asks on a thread: give the elector an `EtcdFence`.
    """

    def __init__(
        self, url: str, election: str | None = None, *, while_leading: bool = False, timeout: float = CALL_SECONDS
    ) -> None:
        self._fences = _Fences(url, election, while_leading, timeout)

    async def admit(self, token: FencingToken) -> None:
        """As `EtcdFence.admit`."""
        await current().ask_async(self._fences.admit(token))

    async def put(self, key: Name, value: Name, token: FencingToken) -> None:
        """As `EtcdFence.put`."""
        await current().ask_async(self._fences.write("put", token, {key: value}, ()))

    async def delete(self, key: Name, token: FencingToken) -> None:
        """As `EtcdFence.delete`."""
        await current().ask_async(self._fences.write("delete", token, {}, (key,)))

    async def transact(
        self, token: FencingToken, puts: Mapping[Name, Name] | None = None, deletes: Iterable[Name] = ()
    ) -> None:
        """As `EtcdFence.transact`."""
        await current().ask_async(self._fences.write("transact", token, puts or {}, deletes))

    async def newest(self, election: str) -> FencingToken | None:
        """As `EtcdFence.newest`."""
        return await current().ask_async(self._fences.newest(election))

    async def close(self) -> None:
        """As `EtcdFence.close`."""
        engine = existing()
        if engine is not None:
            try:
                await engine.ask_async(self._fences.closing(engine))
            except EngineDied:
                return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncEtcdFence {self._fences.address.shown}>"


def _bytes(text: object, what: str, *, empty: bool = False) -> bytes:
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{what} must be encodable as UTF-8; this one has a lone surrogate") from None
    if not isinstance(text, bytes) or not (text or empty):
        raise ConfigError(f"{what} is a str or bytes{'' if empty else ', not empty'}")
    return text


def _digits(token: FencingToken) -> bytes:
    return str(token.value).encode()


def _created_at(kvs: Any, token: FencingToken) -> bool:
    return bool(kvs) and kvs[0].create_revision == token.value


def _led(token: FencingToken) -> LeadershipLost:
    told = f"nobody leads {token.election!r} with the token {token.value} any more: nothing was written"
    return LeadershipLost(told, reason=LossReason.REVOKED)


def _part_later(keepers: dict[Engine, Keeper], user: object, pid: int) -> None:
    """The finalizer of a fence that was dropped open."""
    engine = existing()
    if pid == os.getpid() and engine is not None and (keeper := keepers.pop(engine, None)) is not None:
        engine.post(keeper.part, user)


def _nothing() -> None:
    """A fence has nothing of its own to end when the process exits."""
