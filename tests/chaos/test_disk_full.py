"""Servers, and candidates, whose disk is full.

The rule: a minority that is full ends no term. With all full nobody leads beyond a deadline, nothing is told that is
not so, and with room again one leads. A candidate whose own disk is full misses lines of its journal, never a deadline.
"""

from __future__ import annotations

import itertools
import json
import mmap
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import redis

from coordkit.audit import Kind, judge, parse
from coordkit.testing.contract import eventually
from tests.servers.cluster import Cluster
from tests.servers.disks import Disk
from tests.servers.etcd import CtlFailed, EtcdCluster
from tests.servers.local import LocalMember
from tests.servers.redis import RedisVoters
from tests.servers.rights import NotAllowed
from tests.servers.zookeeper import ZooKeeperCluster
from tests.servers.zookeeper_wire import NoSession, Wire
from tests.support.children import stopped
from tests.support.contest import ELECTION, Candidate, Contest, nothing_left, now, stays_quiet
from tests.support.rights import lacking
from tests.support.voting import held_by, mark_new

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120), pytest.mark.local_cluster]

TTL = 3.0
HALF_A_LINE = 100  # bytes


@contextmanager
def disks(members: Sequence[LocalMember], megabytes: int) -> Iterator[dict[str, Disk]]:
    """One for the data of each member, which must not have been started."""
    with ExitStack() as stack:
        try:
            yield {member.name: stack.enter_context(Disk(member.data, megabytes)) for member in members}
        except NotAllowed as reason:
            lacking(f"small disks: {reason}")


def in_trouble(member: LocalMember, writes_to: Callable[[LocalMember], bool]) -> None:
    """Write to it until it has noticed that its disk is full: it ends, or refuses."""
    eventually(lambda: not member.running or not writes_to(member), f"{member.name} has noticed", 20.0)
    print(f"{member.name}: {'refuses' if member.running else 'has ended'}")


def some_full_then_all(
    cluster: Cluster[LocalMember],
    full: dict[str, Disk],
    contest: Contest,
    writes_to: Callable[[LocalMember], bool],
    left: Callable[[], object],
) -> None:
    """The story of every cluster. `writes_to`: put something on this member's disk; False: it does not take it."""
    leader = contest.candidate()
    token = leader.leads()
    other = contest.candidate()
    minority = cluster.members[: (len(cluster.members) - 1) // 2]
    for member in minority:
        full[member.name].fill()
    for member in minority:
        in_trouble(member, writes_to)
    stays_quiet(1.5 * TTL, leader, word="lost")
    assert leader.leading() == token
    for member in cluster.members:
        full[member.name].fill()
    for member in cluster.members:
        in_trouble(member, writes_to)
    reason = leader.lost()
    lost = now()
    assert reason == "expired"
    stays_quiet(1.5 * TTL, leader, other)
    for member in cluster.members:
        full[member.name].make_room()
        member.stop()
    cluster.heal()
    ready = now()
    contest.one_leads()
    print(f"one led {now() - ready:.2f} s after there was room, and all were up; nobody for {now() - lost:.2f} s")
    contest.all_leave()
    nothing_left(left)
    report = contest.report()
    old = min(report.spans, key=lambda span: span.token)
    assert (old.token, old.until <= old.deadline) == (token, True)
    assert old.renewals > 2


# -- servers -------------------------------------------------------------------------------------------------------


@pytest.mark.backend("etcd")
def test_etcd(tmp_path: Path) -> None:
    """etcd ends when it cannot write what it has promised."""
    cluster = EtcdCluster(tmp_path / "etcd")
    counted = itertools.count()

    def put(member: LocalMember) -> bool:
        try:
            cluster.ctl("put", f"much/{next(counted)}", input="x" * 500_000, member=member, timeout=1.0)
        except CtlFailed:
            return not member.running
        return True

    # Two files of the log, of 64 MB each, are made before they are used.
    with disks(cluster.members, 160) as full, cluster, Contest(tmp_path, cluster.url(), ttl=TTL) as contest:
        some_full_then_all(cluster, full, contest, put, cluster.leases)


@pytest.mark.backend("etcd")
def test_etcd_that_has_used_up_its_quota(tmp_path: Path) -> None:
    """The alarm NOSPACE: who leads goes on, for a renewal stores nothing; nobody else can be elected."""
    cluster = EtcdCluster(tmp_path / "etcd", flags=["--quota-backend-bytes=2000000"])
    with cluster, Contest(tmp_path, cluster.url(), ttl=TTL) as contest:
        leader = contest.candidate()
        token = leader.leads()
        with pytest.raises(CtlFailed, match="database space exceeded"):
            for number in range(10):
                cluster.ctl("put", f"much/{number}", input="x" * 500_000)
        other = contest.candidate()
        stays_quiet(1.5 * TTL, leader, word="lost")
        assert leader.leading() == token
        assert {*other.drain().told} == {"contends", "fails Rejected"}
        cluster.ctl("del", "much/", "--prefix")
        revision = cluster.ctl("get", "none", "--write-out=fields").split('"Revision" : ')[1].split()[0]
        cluster.ctl("compaction", revision)
        for member in cluster.members:
            cluster.ctl("defrag", member=member)
        cluster.ctl("alarm", "disarm")
        leader.child.tell("leave")
        after = other.leads()
        assert after > token
        assert leader.child.exit_code() == 0, leader.child.errors
        other.child.tell("leave")
        assert other.child.exit_code() == 0, other.child.errors
        nothing_left(cluster.leases)
        contest.report()


@pytest.mark.backend("zookeeper")
def test_zookeeper(tmp_path: Path) -> None:
    cluster = ZooKeeperCluster(tmp_path / "zookeeper")

    def put(member: LocalMember) -> bool:
        try:
            with Wire(member.host, member.port, None, timeout=1.0) as wire:
                wire.create(f"/much{now()}", b"x" * 200_000)
        except (OSError, NoSession):
            return False
        return True

    with disks(cluster.members, 8) as full, cluster, Contest(tmp_path, cluster.url(), ttl=TTL) as contest:
        some_full_then_all(
            cluster, full, contest, put, lambda: [node for node in cluster.nodes() if node.ephemeral_owner]
        )


@pytest.mark.backend("redis")
@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_redis(tmp_path: Path, fsync: str) -> None:
    """It ends (`always`), or refuses writes (`everysec`)."""
    voters = RedisVoters(tmp_path / "redis", 5, flags=["--appendfsync", fsync])
    url = voters.url(max_ttl=f"{TTL:g}")  # those that are started again count after so long

    def put(member: LocalMember) -> bool:
        try:
            voters.hand(member, timeout=1.0).set("much", "x" * 1000)
        except (redis.RedisError, OSError) as refused:
            print(f"{member.name}: {type(refused).__name__}: {refused}")
            return False
        return True

    with disks(voters.members, 4) as full, voters:
        mark_new(voters, url)
        with Contest(tmp_path, url, ttl=TTL) as contest:
            some_full_then_all(voters, full, contest, put, lambda: held_by(voters, ELECTION))


# -- the candidate's own disk --------------------------------------------------------------------------------------


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Of one megabyte."""
    try:
        made = Disk(folder, 1)
    except NotAllowed as reason:
        lacking(f"small disks: {reason}")
    with made:
        yield made


@pytest.mark.backend("sqlite")
def test_sqlite(tmp_path: Path) -> None:
    """A renewal that cannot be written is none: the term ends by its own clock, and the file is whole afterwards."""
    path = tmp_path / "disk" / "elections.db"
    with disk(path.parent) as full, Contest(tmp_path, f"sqlite:///{path}", ttl=TTL) as contest:
        leader = contest.candidate()
        token = leader.leads()
        other = contest.candidate()
        full.fill()
        filled = now()
        assert leader.lost() == "expired"
        print(f"lost {now() - filled:.2f} s after the disk was full")
        stays_quiet(1.5 * TTL, leader, other)
        print(leader.told, other.told, leader.child.errors)
        full.make_room()
        room = now()
        after = contest.one_leads().leading()
        print(f"one led {now() - room:.2f} s after there was room")
        assert after > token
        contest.all_leave()
        report = contest.report()
        old = min(report.spans, key=lambda span: span.token)
        assert (old.token, old.reason) == (token, "expired")
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("SELECT state FROM coordkit_elections").fetchall() == [("released",)]
        connection.close()


@contextmanager
def standing_still(*candidates: Candidate) -> Iterator[None]:
    """None of them runs during the block."""
    for one in candidates:
        one.child.send(signal.SIGSTOP)
        eventually(partial(stopped, one.child.pid), "it stands still")
    try:
        yield
    finally:
        for one in candidates:
            one.child.send(signal.SIGCONT)


def up_to_the_end_of_a_page(journal: Path) -> None:
    """The last page of a file has room on a full disk: leave some for half a line."""
    line = json.loads(journal.read_text(encoding="ascii").splitlines()[0]) | {"entry": "nobody"}
    filling = json.dumps(line, separators=(",", ":"))
    room = -journal.stat().st_size % mmap.PAGESIZE - HALF_A_LINE
    assert room > len(filling), "the page is full already"
    with open(journal, "a", encoding="ascii") as file:
        file.write(f"{filling:{room - 1}}\n")


@pytest.mark.backend("sqlite")
def test_a_journal_on_a_full_disk_ends_no_term(tmp_path: Path) -> None:
    """Lines are missed, and complained of; what is on file can be read, and shows no two leaders."""
    journal = tmp_path / "disk" / "journal"
    with (
        disk(journal.parent) as full,
        Contest(tmp_path, f"sqlite:///{tmp_path / 'elections.db'}", ttl=TTL) as contest,
    ):
        leader = contest.candidate(journal=journal)
        token = leader.leads()
        other = contest.candidate(journal=journal)
        with standing_still(leader, other):
            full.fill()
            up_to_the_end_of_a_page(journal)
        stays_quiet(2 * TTL, leader, word="lost")
        assert leader.leading() == token
        assert "the journal misses a line" in leader.child.errors
        # Whoever comes first: the other may have begun so late that this is its first line.
        assert "the journal has half a line" in leader.child.errors + other.child.errors
        full.make_room()
        leader.child.tell("leave")
        after = other.leads()
        assert after > token
        assert leader.child.exit_code() == 0, leader.child.errors
        other.child.tell("leave")
        assert other.child.exit_code() == 0, other.child.errors
        records, cut = parse(journal.read_bytes())
        report = judge(records, cut=cut)
        # Renewals that are not on file make a term seem to outlive its deadline, and half a line is told, for its
        # writer lives; nothing else is wrong.
        assert {each.kind for each in report.violations} <= {Kind.BELIEF, Kind.GARBAGE}, report.violations
        assert [span.token for span in report.spans] == [token, after]
        print(f"{cut} lines cut, {report.records} read, {len(report.violations)} violations")
