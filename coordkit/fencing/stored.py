"""A fence as an operator sees it, at a URL: what it has seen, and how it is raised after a restore from a backup.

The rule: it is raised by being shown a token, as any leader shows his, so it never falls beside a living one. It is
lowered by `overwrite` alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol

from coordkit.errors import BackendNotInstalled, ConfigError
from coordkit.model import FencingToken, check_seconds

SECONDS: Final = 5.0
_OWN: Final = ("redis", "etcd", "zookeeper", "file")  # any other scheme is one of SQLAlchemy's
PLACES: Final = "redis://, rediss://, etcd://, etcds://, zookeeper://, file:///path, or an SQLAlchemy URL of a database"


class Stored(Protocol):
    """A fence whose newest token is kept in a store."""

    def admit(self, token: FencingToken) -> None:
        """Remember `token`, or raise `StaleToken`."""
        ...

    def newest(self, election: str) -> FencingToken | None:
        """The highest token seen of an election, or None."""
        ...

    def overwrite(self, token: FencingToken) -> None:
        """Remember `token` whatever was seen of its election. The danger: a lower one lets stale leaders in."""
        ...


FenceAt = Callable[[str, str | None, float, ExitStack], Stored]


@contextmanager
def stored(url: str, place: str | None = None, *, timeout: float = SECONDS) -> Iterator[Stored]:
    """The fence that is kept in the store at `url`, connected for as long as the block is open.

    `place`: where in it, if not at the usual one: the key of a RedisFence, the path of a ZooKeeperFence, the table of
    an SQLFence. `timeout`: seconds for each call. Raises `ConfigError`, `BackendNotInstalled` or a `BackendError`.
    """
    check_seconds(timeout, "timeout")
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigError(f"a fence is at a URL: {PLACES}")
    kind = {"rediss": "redis", "etcds": "etcd"}.get(scheme, scheme)
    if place is not None and kind in ("etcd", "file"):
        raise ConfigError(f"the fence of {scheme}:// is where the URL says: it has no other place")
    module = f"coordkit.fencing.{kind if kind in _OWN else 'sql_stored'}"
    with ExitStack() as stack:
        try:
            fence_at: FenceAt = importlib.import_module(module).fence_at
            found = fence_at(url, place, timeout, stack)
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            if missing.startswith("coordkit"):
                raise
            if missing == "sqlalchemy":
                kind = "sql"
            told = (
                f"pip install 'coordkit[{kind}]'"
                if kind in ("redis", "etcd", "zookeeper", "sql")
                else "install its driver"
            )
            raise BackendNotInstalled(f"{missing} is not installed: {told}") from error
        yield found
