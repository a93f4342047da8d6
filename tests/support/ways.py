"""A store of each kind, with a way of its own for each of two candidates, so that one can be cut off and the other not.

The rule: only what lies between a candidate and the store is broken; the store is asked behind the candidates' backs.
On SQLite there is no way: to cut one off is to cut both off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordkit.testing.contract import StoreUnderTest
from tests.contract.test_etcd import EtcdUnderTest
from tests.contract.test_redis import RedisUnderTest
from tests.contract.test_sqlite import SQLiteUnderTest
from tests.contract.test_zookeeper import ZooKeeperUnderTest
from tests.servers.proxy import Proxy

STORES = ("sqlite", "etcd", "zookeeper", "redis")


class RedisUnderTwoNames(RedisUnderTest):
    """The voters are the same ones, whatever the candidates call them."""

    def url(self) -> str:
        return f"{super().url()}?cluster=ways"


class Ways:
    """The store and the two ways to it."""

    def __init__(self, store: StoreUnderTest, proxies: Sequence[Sequence[Proxy]] = ()) -> None:
        self._store = store  # by way 0
        self._proxies = proxies

    @property
    def apart(self) -> bool:
        """Whether one candidate can be cut off while the other is not."""
        return bool(self._proxies)

    def url(self, way: int) -> str:
        """The URL for the candidate that comes this way."""
        url = self._store.url()
        return url.replace(_hosts(self._proxies[0]), _hosts(self._proxies[way])) if self._proxies else url

    def entries(self, election: str) -> Sequence[str]:
        """The ids of the candidates that have an entry in the store."""
        return self._store.entries(election)

    def cut(self, way: int) -> None:
        """Nothing passes this way."""
        for proxy in self._proxies[way] if self._proxies else ():
            proxy.cut()
        if not self._proxies:
            self._store.cut()

    def heal(self, way: int) -> None:
        """It passes again."""
        for proxy in self._proxies[way] if self._proxies else ():
            proxy.heal()
        if not self._proxies:
            self._store.heal()


def _hosts(proxies: Sequence[Proxy]) -> str:
    return ",".join(f"{each.host}:{each.port}" for each in proxies)


@contextmanager
def ways_to(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Ways]:
    """The ways to a fresh place in the store of this kind."""
    if kind == "sqlite":
        file = SQLiteUnderTest(folder / "elections.db")
        yield Ways(file)
        file.heal()
        return
    cluster = request.getfixturevalue(kind)
    made: dict[str, Callable[[Any, Sequence[Proxy]], StoreUnderTest]] = {
        "etcd": lambda members, proxies: EtcdUnderTest(members, proxies, ""),
        "zookeeper": ZooKeeperUnderTest,
        "redis": RedisUnderTwoNames,
    }
    with ExitStack() as stack:
        proxies = [
            [stack.enter_context(Proxy(member.host, member.port)) for member in cluster.members] for _ in range(2)
        ]
        yield Ways(made[kind](cluster, proxies[0]), proxies)
