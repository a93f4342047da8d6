"""A member that leaves its network while a candidate leads: `docker network disconnect`, and `connect` again.

The rule: on containers the engine takes the member off the network of the servers (`cut_off`), or off that of their
clients (`unplugged`). As processes, members are cut off by the proxies between them; and one that no client is to reach
is paused, which is the same to its clients. Each is judged on the journal and on a fenced file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.cluster import Cluster
from tests.servers.compose import ComposeMember
from tests.servers.etcd import Etcd
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper
from tests.support.contest import ELECTION, Contest, nothing_left, stays_quiet
from tests.support.voting import held_by, mark_new

pytestmark = pytest.mark.timeout(120)

TTL = 6.0  # s: time for an election among the servers, and for a renewal after it
LASTS = 3.0


@contextmanager
def cut_off(member: Any) -> Iterator[None]:
    """From the other servers."""
    member.cut_off()
    try:
        yield
    finally:
        member.rejoin()


@contextmanager
def unplugged(member: Any) -> Iterator[None]:
    """From its clients."""
    if not isinstance(member, ComposeMember):
        member.pause()
        yield
        member.resume()
        return
    network = member.project.network("clients")
    member.project.engine.docker("network", "disconnect", network, member.container)
    try:
        yield
    finally:
        member.project.engine.docker("network", "connect", network, member.container)


def leads_through(
    cluster: Cluster[Any], folder: Path, url: str, faults: list[Callable[[], Any]], left: Callable[[], object]
) -> None:
    """One leads and one waits, through all these faults, one after the other."""
    with Contest(folder, url, ttl=TTL) as contest:
        leader, other = contest.candidate(), contest.candidate()
        token = contest.one_leads().leading()
        for fault in faults:
            with fault():
                stays_quiet(LASTS, other, word="fails")
            cluster.ready()
        print(leader.drain().told, other.drain().told)
        contest.all_leave()
        nothing_left(left)
        report = contest.report()
        assert report.spans[0].token == token
        assert {span.reason for span in report.spans} <= {None, "expired"}
        assert report.renewals > 2


@pytest.mark.backend("etcd")
def test_etcd(etcd: Etcd[Any], tmp_path: Path) -> None:
    faults = [
        lambda: cut_off(etcd.followers()[0]),
        lambda: cut_off(etcd.leader()),
        lambda: unplugged(etcd.followers()[0]),
        lambda: unplugged(etcd.leader()),
    ]
    leads_through(etcd, tmp_path, etcd.url(), faults, etcd.leases)


@pytest.mark.backend("zookeeper")
def test_zookeeper(zookeeper: ZooKeeper[Any], tmp_path: Path) -> None:
    faults = [
        lambda: cut_off(zookeeper.followers()[0]),
        lambda: cut_off(zookeeper.leader()),
        lambda: unplugged(zookeeper.followers()[0]),
    ]

    def left() -> object:
        return [node for node in zookeeper.nodes(f"/{ELECTION}") if node.ephemeral_owner]

    leads_through(zookeeper, tmp_path, zookeeper.url(), faults, left)


@pytest.mark.backend("redis")
def test_redis(redis: Redis[Any], tmp_path: Path) -> None:
    """Voters never talk to each other: off their own network they are as good as any."""
    url = redis.url()
    mark_new(redis, url)
    faults = [
        lambda: cut_off(redis.members[0]),
        lambda: unplugged(redis.members[0]),
        lambda: unplugged(redis.members[1]),
    ]
    leads_through(redis, tmp_path, url, faults, lambda: held_by(redis, ELECTION))
