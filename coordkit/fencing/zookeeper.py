"""A fence in ZooKeeper, on the caller's own kazoo client.

The rule: one multi checks that the fence's node is the one that was last seen, and writes only then. Where it is not,
the node is read again and the token judged anew, and nothing was written.

A version alone is not enough: a node that was deleted and made again counts from 0 once more. So the token also is the
name of a child, which every multi asks for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    InvalidACLError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    QuotaExceededError,
    RolledBackError,
    RuntimeInconsistency,
    SessionClosedRequireSaslError,
    ThrottledOpError,
)
from kazoo.retry import KazooRetry

from coordkit.backends.zookeeper.layout import Place
from coordkit.errors import ConfigError, Misconfigured, OutcomeUnknown, Rejected, StaleToken, Unavailable
from coordkit.model import FencingToken, check_election, check_seconds, check_token
from coordkit.registry import parse

PATH: Final = "/coordkit-fences"
CALL_SECONDS: Final = 5.0
MAX_BYTES: Final = 1_000_000  # a server leaves whoever sends more than 1 MiB, by default
TRIES: Final = 100  # each that fails was overtaken by a newer token

_REFUSED: Final = (
    *(AuthFailedError, InvalidACLError, NoAuthError, QuotaExceededError),
    SessionClosedRequireSaslError,
)
_QUIET: Final = logging.getLogger("coordkit.fencing.kazoo")  # what goes wrong is raised
_QUIET.propagate = False
_QUIET.addHandler(logging.NullHandler())
_MOVED: Final = (BadVersionError, NodeExistsError, NoNodeError, NotEmptyError)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the fence's node was; without a token it was not there."""

    token: FencingToken | None = None
    version: int = -1


class ZooKeeperFence:
    """Admits a token not lower than the newest it has seen of that election, together with writes to ZooKeeper.

        fence = ZooKeeperFence(client)                    # a KazooClient that is started
        fence.set("/reports/state", data, term.token)     # StaleToken: nothing was written
        fence.transact(term.token, lambda multi: multi.create("/reports/42", data))

    Each call is one multi, and one round trip but for the first of a token. The client stays the caller's, who starts
    and stops it, and whose default ACL the fence's nodes have. Thread-safe. A plain `Fence`, too:
    `LeaderElector(fences=[fence])`.

    `path`: under which the newest tokens are kept, a node for each election, within the client's chroot; it is made
    where it is missing. `election`: tokens of others are refused with `ConfigError`. `timeout`: seconds for a call,
    then `OutcomeUnknown`: kazoo keeps a request until it is connected again, and sends it then; it is checked then.

    What ZooKeeper says of the caller's own operations is raised as kazoo has it, such as `BadVersionError`.

    The danger: what is written around the fence is not protected. Who deletes the fence's node, or restores the
    servers' data, lets stale leaders in: raise the fence by `coordkit fence raise`.
    """

    def __init__(
        self, client: KazooClient, election: str | None = None, *, path: str = PATH, timeout: float = CALL_SECONDS
    ) -> None:
        if not isinstance(client, KazooClient):
            raise ConfigError(f"a ZooKeeperFence takes a KazooClient, not {type(client).__name__}")
        self.path = _checked_path(path).rstrip("/")
        self.election = None if election is None else check_election(election)
        self._client: Any = client
        self._timeout = check_seconds(timeout, "timeout")
        self._seen: dict[str, _Seen] = {}  # by election; replaced whole

    def admit(self, token: FencingToken) -> None:
        """Remember `token`, or raise `StaleToken`. A write that follows in another call is not atomic with it."""
        self._write("admit", token, _nothing)

    def set(self, path: str, value: bytes | str, token: FencingToken, *, version: int = -1) -> None:
        """Write to a node that is there, if the token is admitted; -1: whatever its version is."""
        self._check_path(path)
        data = _data(value)
        self._write("set", token, lambda multi: multi.set_data(path, data, _checked_version(version)))

    def create(self, path: str, value: bytes | str, token: FencingToken) -> None:
        """Make a node, if the token is admitted."""
        self._check_path(path)
        data = _data(value)
        self._write("create", token, lambda multi: multi.create(path, data))

    def delete(self, path: str, token: FencingToken, *, version: int = -1) -> None:
        """Delete a node, if the token is admitted."""
        self._check_path(path)
        self._write("delete", token, lambda multi: multi.delete(path, _checked_version(version)))

    def transact(self, token: FencingToken, build: Callable[[Any], object]) -> list[Any]:
        """All operations that `build` puts into kazoo's transaction, if the token is admitted; all of them or none.

        `build` only names them, and may be called again; the results are those of kazoo.
        """
        if not callable(build):
            raise ConfigError("transact takes a function that puts operations into the transaction that it is given")
        return self._write("transact", token, build)

    def newest(self, election: str) -> FencingToken | None:
        """The highest token seen of an election, or None."""
        node = self._node(check_election(election))
        with self._translated("newest"):
            self._client.sync_async(self.path or "/").get(timeout=self._timeout)
        return self._look(election, node, "newest").token

    def overwrite(self, token: FencingToken) -> None:
        """Remember `token` whatever was seen of its election. For an operator: a lower one lets stale leaders in."""
        self._write("overwrite", token, _nothing, lower=True)

    # --- within ----------------------------------------------------------------------------------------------

    def _node(self, election: str) -> str:
        return Place(self.path, election).path

    def _write(
        self, operation: str, token: FencingToken, build: Callable[[Any], object], *, lower: bool = False
    ) -> list[Any]:
        check_token(token)
        if self.election not in (None, token.election):
            raise ConfigError(f"this fence is of the election {self.election!r}, not of {token.election!r}")
        node = self._node(token.election)
        seen = self._seen.get(token.election) or self._look(token.election, node, operation)
        fresh = token.election not in self._seen
        for _ in range(TRIES):
            if not lower and seen.token is not None and token < seen.token:
                if fresh:
                    raise StaleToken(token, seen.token)
                # Whoever has emptied the store, or lowered the fence, is believed: look before it is refused.
                seen, fresh = self._look(token.election, node, operation), True
                continue
            multi = self._client.transaction()
            first = self._checks(multi, node, seen, token)
            build(multi)
            for each in multi.operations[first:]:
                self._check_own(str(getattr(each, "path", "")))
            results = self._commit(multi, operation)
            failed = _failure(results)
            if failed is None:
                if token != seen.token:
                    self._seen[token.election] = _Seen(token, 0 if seen.token is None else seen.version + 1)
                else:
                    self._seen[token.election] = seen
                return results[first:]
            place, error = failed
            with self._translated(operation):
                if place >= first or not isinstance(error, _MOVED):
                    raise error
            if seen.token is None and isinstance(error, NoNodeError):
                with self._translated(operation):
                    self._client.ensure_path_async(self.path).get(timeout=self._timeout)
            again, fresh = self._look(token.election, node, operation), True
            if again == seen and seen.token is not None:
                told = f"the node {node!r} lacks its child {seen.token.value}: somebody has changed it by hand"
                raise Misconfigured(told, backend="zookeeper", operation=operation) from error
            seen = again
        told = f"{operation}: the fence was moved by others all the time"
        raise Unavailable(told, backend="zookeeper", operation=operation)

    @staticmethod
    def _checks(multi: Any, node: str, seen: _Seen, token: FencingToken) -> int:
        """The fence's own operations; how many they are."""
        if seen.token is None:
            multi.create(node, _digits(token))
            multi.create(f"{node}/{token.value}", b"")
        elif token == seen.token:
            multi.check(node, seen.version)
            multi.check(f"{node}/{token.value}", -1)
        else:
            multi.set_data(node, _digits(token), seen.version)
            multi.delete(f"{node}/{seen.token.value}", -1)
            multi.create(f"{node}/{token.value}", b"")
        return len(multi.operations)

    def _commit(self, multi: Any, operation: str) -> list[Any]:
        with self._translated(operation):
            return list(multi.commit_async().get(timeout=self._timeout))

    def _look(self, election: str, node: str, operation: str) -> _Seen:
        with self._translated(operation):
            try:
                data, stat = self._client.get_async(node).get(timeout=self._timeout)
            except NoNodeError:
                return _Seen()
        try:
            if stat.ephemeralOwner:
                raise ConfigError("it is ephemeral, and will be gone")
            return _Seen(FencingToken.parse(f"{election}={data.decode()}"), int(stat.version))
        except (ConfigError, UnicodeDecodeError) as error:
            told = f"the node {node!r} holds no token: somebody else has written there"
            raise Misconfigured(told, backend="zookeeper", operation=operation) from error

    def _check_path(self, path: object) -> None:
        self._check_own(_checked_path(path))

    def _check_own(self, path: str) -> None:
        root = (self._client.chroot or "") + self.path
        if path == self.path or path.startswith((f"{self.path}/", f"{root}/")) or path == root:
            raise ConfigError(f"the node {path!r} is the fence's own")

    @contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        """The one door: what an error of kazoo means, by its class."""
        told = f"{operation}: "
        try:
            yield
        except _REFUSED as error:
            raise Rejected(f"{told}{error!r}", backend="zookeeper", operation=operation) from error
        except ThrottledOpError as error:
            raise Unavailable(f"{told}{error!r}", backend="zookeeper", operation=operation) from error
        except _MOVED:
            raise  # of the caller's own operations
        except (KazooException, self._client.handler.timeout_exception, OSError) as error:
            # Kazoo keeps what it could not send: it may happen later.
            raise OutcomeUnknown(f"{told}{error!r}", backend="zookeeper", operation=operation) from error

    def __repr__(self) -> str:
        return f"<ZooKeeperFence {self.path!r}>"


def fence_at(url: str, place: str | None, timeout: float, stack: ExitStack) -> ZooKeeperFence:
    """The fence that an operator means by a URL: see `stored`."""
    address = parse(url)
    hosts = ",".join(f"{f'[{name}]' if ':' in name else name}:{port or 2181}" for name, port in address.hosts)
    login = [("digest", f"{address.user}:{address.password}")] if address.user else None
    client = KazooClient(
        hosts=hosts + address.path.rstrip("/"),
        timeout=timeout,
        auth_data=login,
        connection_retry=KazooRetry(max_tries=0),
        command_retry=KazooRetry(max_tries=0),
        logger=_QUIET,
    )
    stack.callback(client.close)
    stack.callback(client.stop)
    seconds: Any = timeout  # kazoo says int, and takes any number
    try:
        client.start(seconds)
    except (client.handler.timeout_exception, KazooException) as error:
        raise Unavailable(f"{address.shown}: no connection within {timeout:g} s", backend="zookeeper") from error
    return ZooKeeperFence(client, path=PATH if place is None else place, timeout=timeout)


def _failure(results: list[Any]) -> tuple[int, Exception] | None:
    """Which operation of a multi has failed, and how: those before it were rolled back, those after it not tried."""
    errors = [(place, each) for place, each in enumerate(results) if isinstance(each, Exception)]
    for place, error in errors:
        if not isinstance(error, (RolledBackError, RuntimeInconsistency)):
            return place, error
    return errors[0] if errors else None


def _checked_path(path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/") or len(path) < 2:
        raise ConfigError("a node is named by a path: a str that begins with '/', and more")
    segments = path[1:].split("/")
    if any(each in ("", ".", "..") for each in segments) or any(ord(char) < 32 for char in path):
        raise ConfigError(
            f"a node's path has no empty segment, no '.' or '..' and no control characters: {path[:80]!r}"
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError("a node's path must be encodable as UTF-8; this one has a lone surrogate") from None
    return path


def _checked_version(version: object) -> int:
    if type(version) is not int or not -1 <= version < 2**31:
        raise ConfigError("a node's version is a whole number from -1, which is any")
    return version


def _data(value: object) -> bytes:
    if isinstance(value, str):
        try:
            value = value.encode()
        except UnicodeEncodeError:
            raise ConfigError("a text must be encodable as UTF-8; this one has a lone surrogate") from None
    if not isinstance(value, bytes):
        raise ConfigError(f"a node's data are bytes or a str, not {type(value).__name__}")
    if len(value) > MAX_BYTES:
        raise ConfigError(f"a node's data have at most {MAX_BYTES} bytes, not {len(value)}")
    return value


def _digits(token: FencingToken) -> bytes:
    return str(token.value).encode()


def _nothing(_: object) -> None:
    """No operations of the caller's."""
