"""What a fence costs on Redis, etcd and ZooKeeper: `python -m tests.bench_stores [--json] [--quick]`.

The rule: as in `bench_sql`: a fenced and an unfenced write alternate, by the same connection, and only medians and
ratios are told. The servers wait for the disk.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient
from redis import Redis

from coordkit import FencingToken
from coordkit.engine import current
from coordkit.fencing import EtcdFence, RedisFence, ZooKeeperFence
from coordkit.waiting import Budget
from tests.servers.etcd import EtcdCluster
from tests.servers.redis import RedisVoters
from tests.servers.zookeeper import ZooKeeperCluster
from tests.support.pricing import Prices, Write, alternated, told

TOKEN = FencingToken("bench", 7)


def put_around(fence: EtcdFence) -> Write:
    """The same put on the same connection, without the fence."""
    fences = fence._fences

    async def put() -> None:
        engine = current()
        connection = await fences._connected(engine, Budget(engine.clock, 5.0))
        request = connection.rpc.PutRequest(key=b"bench/bare", value=b"v")
        await connection.call("put", lambda endpoint: endpoint.kv.Put, request, seconds=5.0)

    return lambda: current().ask(put)


@contextmanager
def in_redis(folder: Path) -> Iterator[tuple[Write, Write]]:
    with RedisVoters(folder, 1) as servers:
        (member,) = servers.members
        with Redis(host=member.host, port=member.port) as client:
            fence = RedisFence(client)
            yield lambda: client.set("bare", "v"), lambda: fence.set("fenced", "v", TOKEN)


@contextmanager
def in_etcd(folder: Path) -> Iterator[tuple[Write, Write]]:
    with EtcdCluster(folder) as servers, EtcdFence(servers.url()) as fence:
        yield put_around(fence), lambda: fence.put("bench/fenced", "v", TOKEN)


@contextmanager
def in_zookeeper(folder: Path) -> Iterator[tuple[Write, Write]]:
    with ZooKeeperCluster(folder) as servers:
        client: Any = KazooClient(hosts=",".join(servers.endpoints))
        client.start(30)
        try:
            fence = ZooKeeperFence(client)
            for name in ("/bare", "/fenced"):
                client.create(name)
            yield lambda: client.set("/bare", b"v"), lambda: fence.set("/fenced", b"v", TOKEN)
        finally:
            client.stop()
            client.close()


STORES = {"redis": in_redis, "etcd": in_etcd, "zookeeper": in_zookeeper}


def measured(samples: int) -> Prices:
    """Of each store."""
    found: Prices = {}
    for name, store in STORES.items():
        with tempfile.TemporaryDirectory() as place, store(Path(place)) as (bare, fenced):
            found[name] = {"one write": alternated(bare, fenced, samples)}
    return found


if __name__ == "__main__":
    sys.exit(told("python -m tests.bench_stores", measured, sys.argv[1:]))
