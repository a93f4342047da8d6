"""Members that are restarted one after the other, and members that leave and join, while a candidate leads.

The rule: a term goes on or ends by its own clock; how often it goes on is counted. Whatever happens tokens rise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from kazoo.exceptions import (
    ConnectionLoss,
    NewConfigNoQuorumError,
    ReconfigInProcessError,
    SessionExpiredError,
)

from coordkit.audit import Fate
from coordkit.testing.contract import eventually
from tests.chaos import partitions
from tests.servers.cluster import Cluster
from tests.servers.etcd import Etcd
from tests.servers.ports import address
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper, ZooKeeperCluster
from tests.support.contest import ELECTION, Contest, nothing_left
from tests.support.voting import held_by, mark_new
from tests.support.zookeeper_hand import hand

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

TTL = 6.0  # s: time for an election among the servers, and for a renewal after it
QUARANTINE = 3.0
REJOINED = 60.0  # s: for one member, on a busy machine


@contextmanager
def led_throughout(
    cluster: Cluster[Any], folder: Path, url: str, left: Callable[[], object], ttl: float = TTL
) -> Iterator[list[str]]:
    """One leads and one waits, while the block does what it says in the list: a line for each change."""
    changes: list[str] = []
    with Contest(folder, url, ttl=ttl) as contest:
        leader, other = contest.candidate(), contest.candidate()
        first = contest.one_leads().leading()
        try:
            yield changes
        except BaseException:
            print(leader.drain().told, other.drain().told, leader.child.errors, other.child.errors)
            raise
        cluster.ready()
        contest.all_leave()
        nothing_left(left)
        report = contest.report()
    losses = [span for span in report.spans if span.fate is Fate.LOST]
    held = len(changes) - len(losses)
    print(f"{len(changes)} changes: the term held in {held}", *changes, sep="\n  ")
    assert report.spans[0].token == first
    assert {span.reason for span in losses} <= {"expired"}
    assert held > 0


def restarted(cluster: Cluster[Any], changes: list[str]) -> None:
    """Each member once, the followers first; the next when all are well."""
    leader = cluster.leader()
    for member in (*(each for each in cluster.members if each != leader), leader):
        member.restart()
        cluster.ready(REJOINED)
        changes.append(f"{member.name} was restarted{', the leader' if member == leader else ''}")


# -- etcd --------------------------------------------------------------------------------------------------------


@pytest.mark.backend("etcd")
def test_etcd_whose_members_are_restarted_one_by_one(etcd: Etcd[Any], tmp_path: Path) -> None:
    with led_throughout(etcd, tmp_path, etcd.url(), etcd.leases) as changes:
        for _ in range(2):
            restarted(etcd, changes)


@pytest.mark.backend("etcd")
def test_etcd_whose_members_leave_and_join_under_new_ids(etcd: Etcd[Any], tmp_path: Path) -> None:
    with led_throughout(etcd, tmp_path, etcd.url(), etcd.leases) as changes:
        for member in (etcd.followers()[0], etcd.leader()):
            member.kill()
            etcd.leader(other_than=member)
            etcd.replace(member)
            etcd.ready()
            changes.append(f"{member.name} was removed, and added with no data")


# -- ZooKeeper ---------------------------------------------------------------------------------------------------


@pytest.mark.backend("zookeeper")
def test_zookeeper_whose_members_are_restarted_one_by_one(zookeeper: ZooKeeper[Any], tmp_path: Path) -> None:
    with led_throughout(zookeeper, tmp_path, zookeeper.url(), lambda: contenders(zookeeper)) as changes:
        restarted(zookeeper, changes)


def contenders(zookeeper: ZooKeeper[Any]) -> list[object]:
    return [node for node in zookeeper.nodes(f"/{ELECTION}") if node.ephemeral_owner]


@pytest.mark.local_cluster
@pytest.mark.backend("zookeeper")
def test_zookeeper_whose_members_leave_and_join(tmp_path: Path) -> None:
    """By `reconfig`, which has one list for all; so each member has a host of its own."""
    lines = ["reconfigEnabled=true", "standaloneEnabled=false"]
    with (
        partitions.network(3, "zookeeper") as (_, places),
        ZooKeeperCluster(tmp_path / "zookeeper", places=places, lines=lines) as zookeeper,
        led_throughout(zookeeper, tmp_path, zookeeper.url(), lambda: contenders(zookeeper)) as changes,
    ):
        for member in (*zookeeper.followers(), zookeeper.leader()):
            number = member.name.removeprefix("zookeeper")
            line = listed(zookeeper, number)
            reconfigure(zookeeper, number, leaving=number)
            changes.append(f"{member.name} has left")
            zookeeper.ready(among=[each for each in zookeeper.members if each != member])
            joining = f"{line};{address(member.host, member.port)}"
            reconfigure(zookeeper, number, joining=joining)
            zookeeper.ready()
            changes.append(f"{member.name} has joined: {joining}")


def listed(zookeeper: ZooKeeper[Any], number: str) -> str:
    """What the servers have agreed on for this one; nothing: it is none of them."""
    with hand(zookeeper, super_user=True) as operator:
        agreed, _ = operator.get("/zookeeper/config")
    found = [line for line in agreed.decode().splitlines() if line.startswith(f"server.{number}=")]
    return found[0] if found else ""


def reconfigure(
    zookeeper: ZooKeeper[Any], number: str, *, leaving: str | None = None, joining: str | None = None
) -> None:
    """Who leaves hangs up, perhaps on this very question; so what has come of it is asked."""

    def done() -> bool:
        with suppress(ConnectionLoss, SessionExpiredError, ReconfigInProcessError, NewConfigNoQuorumError):
            if bool(listed(zookeeper, number)) is (joining is not None):
                return True
            with hand(zookeeper, super_user=True) as operator:
                operator.reconfig(joining=joining, leaving=leaving, new_members=None)
        return False

    eventually(done, "the servers have another list", 20.0)


# -- Redis -------------------------------------------------------------------------------------------------------


@pytest.mark.backend("redis")
def test_redis_whose_voters_are_restarted_one_by_one(redis: Redis[Any], tmp_path: Path) -> None:
    """The next when the leader has taken the last one in again, after the quarantine. The list of voters stays."""
    url = redis.url(max_ttl=f"{QUARANTINE:g}")
    mark_new(redis, url)
    with led_throughout(redis, tmp_path, url, lambda: held_by(redis, ELECTION), QUARANTINE) as changes:
        for member in redis.members[:3]:  # a majority by then

            def record(voter: Any = member) -> object:
                return redis.hand(voter).hget("coordkit", f"e:{ELECTION}")

            member.restart()
            redis.ready()
            before = record()
            eventually(lambda old=before, now=record: now() != old, "it is taken in again", 15.0)  # type: ignore[misc]
            changes.append(f"{member.name} was restarted, and has been taken in again")


@pytest.mark.backend("redis")
def test_redis_whose_voters_are_restarted_too_fast(redis: Redis[Any], tmp_path: Path) -> None:
    """A majority that may have forgotten ends the term, by its own clock; after the quarantine one leads again."""
    url = redis.url(max_ttl=f"{QUARANTINE:g}")
    mark_new(redis, url)
    with Contest(tmp_path, url, ttl=QUARANTINE) as contest:
        leader = contest.candidate()
        token = leader.leads()
        other = contest.candidate()
        for member in redis.members:
            member.restart()
            redis.ready()
        assert leader.lost() == "expired"
        contest.one_leads()
        assert max(leader.leading(), other.leading()) > token
        contest.all_leave()
        nothing_left(lambda: held_by(redis, ELECTION))
        contest.report()
