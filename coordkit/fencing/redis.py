"""A fence in Redis, on the caller's own redis-py client.

The rule: one script compares the offered token with the newest seen, remembers it and does the caller's write. Redis
runs nothing between, so the write happens under the admitted token or not at all, in one round trip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.asyncio.cluster import ClusterPipeline as AsyncClusterPipeline
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.cluster import ClusterPipeline, RedisCluster
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.retry import Retry

from coordkit.errors import (
    BackendError,
    ConfigError,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.model import FencingToken, check_election, check_seconds, check_token

KEY: Final = "coordkit:fence"
REMEMBERED: Final = 1000  # operations of one election
MAX_OPERATION_BYTES: Final = 255
MAX_SCRIPT_BYTES: Final = 1024 * 1024

Name = str | bytes  # of a key or a field
Value = str | bytes | int | float

_REFUSED: Final = (AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError, NoPermissionError)
_NO_CLUSTER_CLIENT: Final = (AskError, ClusterCrossSlotError, MovedError)
_NOTHING_WRITTEN: Final = (
    *(BusyLoadingError, ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError),
    *(SlotNotCoveredError, TryAgainError),
)
# What a server answers instead of the first write of a script; once that is done, the others are let through.
_MEANING: Final[Mapping[str, type[BackendError]]] = {
    "NOAUTH": Rejected,
    "NOPERM": Rejected,
    "WRONGPASS": Rejected,
    "WRONGTYPE": Misconfigured,
    **dict.fromkeys(("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF"), Unavailable),
    **dict.fromkeys(("NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"), Unavailable),
}


@dataclass(frozen=True, slots=True)
class _Script:
    text: bytes
    digest: str

    @classmethod
    def of(cls, *parts: bytes) -> _Script:
        text = b"\n".join(parts)
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class _Call:
    """One script with its keys and arguments, and how its result is read."""

    operation: str
    script: _Script
    keys: tuple[Name, ...]
    arguments: tuple[Value, ...]
    token: FencingToken
    read: Callable[[Any], Any]

    @property
    def sent(self) -> tuple[Value, ...]:
        """What follows the number of keys."""
        return (*self.keys, self.token.election.encode(), str(self.token.value), *self.arguments)


@cache
def _part(name: str) -> bytes:
    return (files("coordkit.fencing") / "lua" / f"{name}.lua").read_bytes()


@cache
def _shipped(name: str) -> _Script:
    return _Script.of(_part("fence"), _part(name))


class _Plans:
    """What is sent for each call, and what the answers mean: the same for both clients. No I/O."""

    def __init__(self, key: Name, election: str | None, *, cluster: bool) -> None:
        self.key = _checked_name(key, "the fence's key")
        self.election = None if election is None else check_election(election)
        self._cluster = cluster
        mine = _bytes(self.key)
        base = mine if _tagged(mine) else b"{" + mine + b"}"
        if key_slot(base) != key_slot(mine):
            raise ConfigError(f"the fence's key has a '}}' but no hash tag: write {{tag}}:name, not {key!r}")
        self._own = (base + b":operations:", base + b":order:")  # and the election: in the same slot as the fence's key

    # --- the calls -------------------------------------------------------------------------------------------

    def admit(self, token: FencingToken) -> _Call:
        return self._call("admit", token, (), (), _nothing)

    def set(self, key: Name, value: Value, token: FencingToken, ttl: float | None) -> _Call:
        millis = "" if ttl is None else str(max(1, round(check_seconds(ttl, "ttl") * 1000)))
        return self._call("set", token, (key,), (_checked_value(value), millis), _nothing)

    def delete(self, key: Name, token: FencingToken) -> _Call:
        return self._call("delete", token, (key,), (), bool)

    def hset(self, key: Name, mapping: Mapping[Name, Value], token: FencingToken) -> _Call:
        if not mapping:
            raise ConfigError("hset takes a mapping of fields to values that is not empty")
        pairs = tuple(
            part for name, value in mapping.items() for part in (_checked_name(name, "a field"), _checked_value(value))
        )
        if len(pairs) > 4000:  # Lua's `unpack` puts them on a stack of 8000
            raise ConfigError(f"hset takes at most 2000 fields at once, not {len(mapping)}")
        return self._call("hset", token, (key,), pairs, int)

    def incrby(self, key: Name, amount: int, token: FencingToken, operation: str) -> _Call:
        if type(amount) is not int or not -(2**63) <= amount < 2**63:
            raise ConfigError("incrby takes a whole number of 64 bits")
        if not 1 <= len(_encoded(operation)) <= MAX_OPERATION_BYTES:
            raise ConfigError(f"an operation is named by a str of 1 to {MAX_OPERATION_BYTES} bytes of UTF-8")
        name = check_token(token).election.encode()
        more = tuple(own + name for own in self._own)
        arguments = (str(amount), _encoded(operation), str(REMEMBERED))
        return self._call("incrby", token, (key,), arguments, int, more=more)

    def run(self, script: str | bytes, keys: Sequence[Name], args: Sequence[Value], token: FencingToken) -> _Call:
        body = _bytes(_checked_name(script, "a script"))
        if body.lstrip().startswith(b"#!") or len(body) > MAX_SCRIPT_BYTES:
            raise ConfigError("a script has at most 1 MiB, and no '#!' in its first line")
        if isinstance(keys, (str, bytes)) or isinstance(args, (str, bytes)):
            raise ConfigError("keys and args are sequences")
        # Its KEYS and ARGV are its own. It stands after the check, so whatever it says it runs only once admitted.
        opening = (
            b"local body = function(KEYS, ARGV)",
            body,
            b"end",
            b"local own = {}",
            b"for place = 2, #KEYS do own[place - 1] = KEYS[place] end",
            b"return {'done', body(own, {unpack(ARGV, 3)})}",
        )
        if len(args) > 4000 or len(keys) > 4000:
            raise ConfigError("a script takes at most 4000 keys and 4000 args")
        values = tuple(_checked_value(value) for value in args)
        return self._call("run", token, tuple(keys), values, _as_is, script=_Script.of(_part("fence"), *opening))

    def _call(
        self,
        operation: str,
        token: FencingToken,
        keys: tuple[Name, ...],
        arguments: tuple[Value, ...],
        read: Callable[[Any], Any],
        *,
        more: tuple[bytes, ...] = (),
        script: _Script | None = None,
    ) -> _Call:
        check_token(token)
        self._check_election(token.election)
        for key in keys:
            self._check_key(_bytes(_checked_name(key, "a key")))
        return _Call(operation, script or _shipped(operation), (self.key, *keys, *more), arguments, token, read)

    def _check_election(self, election: str) -> None:
        if self.election not in (None, election):
            raise ConfigError(f"this fence is of the election {self.election!r}, not of {election!r}")

    def _check_key(self, key: bytes) -> None:
        if key == _bytes(self.key) or key.startswith(self._own):
            raise ConfigError(f"the key {_told(key)} is the fence's own")
        if self._cluster and key_slot(key) != key_slot(_bytes(self.key)):
            raise ConfigError(
                f"the key {_told(key)} is in another slot of the cluster than the fence's key {_told(self.key)}, so no "
                "script can have both: give them one hash tag, such as {reports}:fence and {reports}:state"
            )

    # --- the answers -----------------------------------------------------------------------------------------

    def result(self, call: _Call, raw: Any) -> Any:
        """What a script's answer means to the caller."""
        if not isinstance(raw, list) or not raw:
            raise self._unreadable(call.operation)
        verdict, detail = _text(raw[0]), raw[1] if len(raw) > 1 else None
        match verdict:
            case "done":
                if isinstance(detail, RedisError):  # what the caller's script returns: it may have written before
                    told = f"{call.operation}: {detail}"
                    raise OutcomeUnknown(told, backend="redis", operation=call.operation) from detail
                return call.read(detail)
            case "stale":
                raise StaleToken(call.token, self.token(call.token.election, detail, call.operation))
            case "foreign":
                raise self._foreign(call.token.election, call.operation)
            case "another":
                raise ConfigError("this operation's id was used before, for another key or another amount")
            case "fence" | "failed":
                told = _text(detail)
                if verdict == "fence" and _code(told) == "WRONGTYPE":
                    told = f"{told}: a key that the fence needs ({_told(self.key)} or beside it) is another's"
                raise self._failed(call.operation, told)
            case _:
                raise self._unreadable(call.operation)

    def token(self, election: str, text: object, operation: str) -> FencingToken:
        """The token that the fence holds as this text; else `Misconfigured`."""
        try:
            return FencingToken.parse(f"{election}={_text(text)}")
        except ConfigError as error:
            raise self._foreign(election, operation) from error

    def _foreign(self, election: str, operation: str) -> Misconfigured:
        told = f"the fence's key {_told(self.key)} holds no token for {election!r}: somebody else has written there"
        return Misconfigured(told, backend="redis", operation=operation)

    @staticmethod
    def _failed(operation: str, told: str) -> BackendError:
        kind = _MEANING.get(_code(told), Rejected)  # one command: nothing of it was done
        return kind(f"{operation}: {told}", backend="redis", operation=operation)

    @staticmethod
    def _unreadable(operation: str) -> OutcomeUnknown:
        return OutcomeUnknown(f"{operation}: an answer that is not this script's", backend="redis", operation=operation)


class RedisFence:
    """Admits a token not lower than the newest it has seen of that election, together with one write in Redis.

        fence = RedisFence(redis.Redis(...))
        fence.set("report", text, term.token)             # StaleToken: nothing was written
        fence.run("return redis.call('RPUSH', KEYS[1], ARGV[1])", ["log"], [line], term.token)

    Each call is one script and one round trip. The client stays the caller's, who closes it. Thread-safe. A plain
    `Fence`, too: `LeaderElector(fences=[fence])`.

    `key`: where the newest tokens are kept, a hash without expiry; all writers of a resource name the same. In a Redis
    Cluster the data's keys must share its slot: `key="{reports}:fence"` guards `{reports}:…`. `election`: tokens of
    others are refused with `ConfigError`.

    The danger: the fence is as durable as its server. Asynchronous replication with a failover, `FLUSHALL`, eviction
    (`allkeys-*`), a restart without `appendfsync always`, or a restored backup forget the newest token, and a stale
    leader may write again: raise it by `coordkit fence raise` before writers go on. What is written around the fence
    is not protected, and a client that retries by itself may send a call twice: only `incrby` counts once.
    """

    def __init__(self, client: Redis | RedisCluster, election: str | None = None, *, key: Name = KEY) -> None:
        _check_client(client, (Redis, RedisCluster), (Pipeline, ClusterPipeline), "RedisFence")
        self._client: Any = client
        self._plans = _Plans(key, election, cluster=isinstance(client, RedisCluster))

    def admit(self, token: FencingToken) -> None:
        """Remember `token`, or raise `StaleToken`. A write that follows in another call is not atomic with it."""
        self._do(self._plans.admit(token))

    def set(self, key: Name, value: Value, token: FencingToken, *, ttl: float | None = None) -> None:
        """Set a key, if the token is admitted; it expires after `ttl` seconds."""
        self._do(self._plans.set(key, value, token, ttl))

    def delete(self, key: Name, token: FencingToken) -> bool:
        """Delete a key, if the token is admitted; whether it was there."""
        return bool(self._do(self._plans.delete(key, token)))

    def hset(self, key: Name, mapping: Mapping[Name, Value], token: FencingToken) -> int:
        """Set fields of a hash, if the token is admitted; how many are new."""
        return int(self._do(self._plans.hset(key, mapping, token)))

    def incrby(self, key: Name, amount: int, token: FencingToken, *, operation: str) -> int:
        """Add to a number, if the token is admitted; the number after it.

        `operation` names what this is for: a second call of that name in the election adds nothing and has the first
        one's answer, so that it may be sent again after `OutcomeUnknown`, by a successor too. The newest thousand are
        remembered. With another key or amount it is a `ConfigError`.
        """
        return int(self._do(self._plans.incrby(key, amount, token, operation)))

    def run(self, script: str | bytes, keys: Sequence[Name], args: Sequence[Value], token: FencingToken) -> Any:
        """Run the caller's Lua, if the token is admitted; what it returns, as the client reads it.

        KEYS and ARGV are those given here. A script that fails halfway keeps what it has written: `OutcomeUnknown`.
        """
        return self._do(self._plans.run(script, keys, args, token))

    def newest(self, election: str) -> FencingToken | None:
        """The highest token seen of an election, or None."""
        with _translated("newest"):
            found = self._client.hget(self._plans.key, check_election(election).encode())
        return None if found is None else self._plans.token(election, found, "newest")

    def overwrite(self, token: FencingToken) -> None:
        """Remember `token` whatever was seen of its election. For an operator: a lower one lets stale leaders in."""
        self._plans._check_election(check_token(token).election)
        with _translated("overwrite"):
            self._client.hset(self._plans.key, token.election.encode(), str(token.value))

    def _do(self, call: _Call) -> Any:
        with _translated(call.operation):
            try:
                raw = self._client.evalsha(call.script.digest, len(call.keys), *call.sent)
            except NoScriptError:  # nothing of it has run
                raw = self._client.eval(call.script.text, len(call.keys), *call.sent)
        return self._plans.result(call, raw)

    def __repr__(self) -> str:
        return f"<RedisFence {_told(self._plans.key)}>"


class AsyncRedisFence:
    """`RedisFence` on redis-py's asyncio client: the same promises and the same dangers, each method awaited.

    Not for `fences=[...]`, which asks on a thread: give the elector a `RedisFence` of the same key.
    """

    def __init__(self, client: AsyncRedis | AsyncRedisCluster, election: str | None = None, *, key: Name = KEY) -> None:
        kinds, pipelines = (AsyncRedis, AsyncRedisCluster), (AsyncPipeline, AsyncClusterPipeline)
        _check_client(client, kinds, pipelines, "AsyncRedisFence")
        self._client: Any = client
        self._plans = _Plans(key, election, cluster=isinstance(client, AsyncRedisCluster))

    async def admit(self, token: FencingToken) -> None:
        """As `RedisFence.admit`."""
        await self._do(self._plans.admit(token))

    async def set(self, key: Name, value: Value, token: FencingToken, *, ttl: float | None = None) -> None:
        """As `RedisFence.set`."""
        await self._do(self._plans.set(key, value, token, ttl))

    async def delete(self, key: Name, token: FencingToken) -> bool:
        """As `RedisFence.delete`."""
        return bool(await self._do(self._plans.delete(key, token)))

    async def hset(self, key: Name, mapping: Mapping[Name, Value], token: FencingToken) -> int:
        """As `RedisFence.hset`."""
        return int(await self._do(self._plans.hset(key, mapping, token)))

    async def incrby(self, key: Name, amount: int, token: FencingToken, *, operation: str) -> int:
        """As `RedisFence.incrby`."""
        return int(await self._do(self._plans.incrby(key, amount, token, operation)))

    async def run(self, script: str | bytes, keys: Sequence[Name], args: Sequence[Value], token: FencingToken) -> Any:
        """As `RedisFence.run`."""
        return await self._do(self._plans.run(script, keys, args, token))

    async def newest(self, election: str) -> FencingToken | None:
        """As `RedisFence.newest`."""
        with _translated("newest"):
            found = await self._client.hget(self._plans.key, check_election(election).encode())
        return None if found is None else self._plans.token(election, found, "newest")

    async def _do(self, call: _Call) -> Any:
        with _translated(call.operation):
            try:
                raw = await self._client.evalsha(call.script.digest, len(call.keys), *call.sent)
            except NoScriptError:  # nothing of it has run
                raw = await self._client.eval(call.script.text, len(call.keys), *call.sent)
        return self._plans.result(call, raw)

    def __repr__(self) -> str:
        return f"<AsyncRedisFence {_told(self._plans.key)}>"


def fence_at(url: str, place: str | None, timeout: float, stack: ExitStack) -> RedisFence:
    """The fence that an operator means by a URL: see `stored`."""
    _, _, rest = url.partition("://")
    if "@" in rest.partition("/")[2]:  # what looks like a host may be the end of a password
        raise ConfigError("a '@' in a user name or a password is written %40, and a '/' is written %2F")
    try:
        client = Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
        client.connection_pool.make_connection()  # not connected: an unknown option shows here
    except (ValueError, TypeError) as error:
        raise ConfigError(f"this is no URL of redis-py: {type(error).__name__}") from None
    stack.callback(client.close)
    return RedisFence(client, key=KEY if place is None else place)


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    """The one door: what an error of redis-py means, by its class and code, never by its text.

    A lost connection is `OutcomeUnknown` even where it could not be made: the client may have sent the call before,
    for it may retry by itself.
    """
    try:
        yield
    except _REFUSED as error:
        raise Rejected(f"{operation}: {_said(error)}", backend="redis", operation=operation) from error
    except _NO_CLUSTER_CLIENT as error:
        told = f"{operation}: {_said(error)}: a Redis Cluster needs the client RedisCluster"
        raise Misconfigured(told, backend="redis", operation=operation) from error
    except _NOTHING_WRITTEN as error:
        raise Unavailable(f"{operation}: {_said(error)}", backend="redis", operation=operation) from error
    except ResponseError as error:
        code = _code(str(error))
        halfway = operation == "run" and code == "WRONGTYPE"  # of a command that others may have gone before
        kind = OutcomeUnknown if halfway else _MEANING.get(code, OutcomeUnknown)
        raise kind(f"{operation}: {_said(error)}", backend="redis", operation=operation) from error
    except (RedisError, RedisClusterException, OSError, UnicodeDecodeError) as error:
        raise OutcomeUnknown(f"{operation}: {_said(error)}", backend="redis", operation=operation) from error


def _check_client(client: object, kinds: tuple[type, ...], pipelines: tuple[type, ...], name: str) -> None:
    if isinstance(client, pipelines):
        raise ConfigError(f"{name} takes a client, not a pipeline: a pipeline has no answers until it is executed")
    if not isinstance(client, kinds):
        wanted = f"{kinds[0].__module__.partition('.client')[0]}.Redis or RedisCluster"
        raise ConfigError(f"{name} takes a {wanted}, not {type(client).__name__}")


def _checked_name(name: object, what: str) -> Name:
    if not isinstance(name, (str, bytes)) or not name:
        raise ConfigError(f"{what} is a str or bytes, not empty")
    _bytes(name)
    return name


def _checked_value(value: object) -> Value:
    if isinstance(value, bool) or not isinstance(value, (str, bytes, int, float)):
        raise ConfigError(f"a value is a str, bytes, int or float, not {type(value).__name__}")
    if isinstance(value, str):
        _encoded(value)
    return value


def _encoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise ConfigError(f"a text is a str, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ConfigError("a text must be encodable as UTF-8; this one has a lone surrogate") from None


def _bytes(name: Name) -> bytes:
    return _encoded(name) if isinstance(name, str) else name


def _tagged(key: bytes) -> bool:
    """Whether a part of the key decides its slot: what stands between its first '{' and the next '}'."""
    _, opening, rest = key.partition(b"{")
    tag, closing, _ = rest.partition(b"}")
    return bool(opening and closing and tag)


def _nothing(_: object) -> None:
    return None


def _as_is(result: Any) -> Any:
    return result


def _text(raw: object) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)


def _told(key: Name) -> str:
    return repr(_text(key))


def _code(told: str) -> str:
    """The code with which an error of Redis begins."""
    return told.partition(" ")[0]


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
