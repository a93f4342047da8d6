"""The harness itself: what it says that it does to an ensemble is done, seen by the servers' own words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.certificates import Certificates
from tests.servers.cluster import POLL_SECONDS, NotReady
from tests.servers.zookeeper import STORE_SECONDS, ZooKeeper, ZooKeeperCluster
from tests.servers.zookeeper_wire import NoSession, Refused, Wire
from tests.servers.zookeeper_words import Mode
from tests.support.children import PATIENCE
from tests.support.clusters import zookeeper_of_newer_release
from tests.support.local_clusters import ends_with_its_process, leaves_nothing, stays, tells_why_it_cannot_start

pytestmark = pytest.mark.backend("zookeeper")


def serves(zookeeper: ZooKeeper[Any], member: Any) -> bool:
    """Whether a member says that it serves, right or wrong."""
    return zookeeper.standing(member) is not None


def until(condition: Any, *arguments: Any) -> None:
    polls = threading.Event()
    for _ in range(round(PATIENCE / POLL_SECONDS)):
        if condition(*arguments):
            return
        polls.wait(POLL_SECONDS)
    pytest.fail("it did not come about")


def commits(zookeeper: ZooKeeper[Any], member: Any, timeout: float = STORE_SECONDS) -> bool:
    """Whether a member can make a session, which takes a transaction."""
    try:
        with Wire(member.host, member.port, timeout=timeout):
            return True
    except (OSError, NoSession):
        return False


def reads(member: Any, path: str) -> bytes:
    with Wire(member.host, member.port, timeout=STORE_SECONDS) as wire:
        wire.sync()
        return wire.node(path).data


@contextmanager
def ended(wire: Wire) -> Iterator[Wire]:
    """A session that the block ends otherwise than by closing it."""
    try:
        yield wire
        with pytest.raises((ConnectionError, Refused)):
            wire.sync()
    finally:
        wire.hang_up()


def returns(member: Any, session: int) -> bool:
    """Whether a client could return to its session; True also where the servers are just about to end it."""
    try:
        with Wire(member.host, member.port, session=session):
            return True
    except NoSession:
        return False
    except ConnectionError:
        return True


def test_every_member_answers_and_follows_one_leader(zookeeper: ZooKeeper[Any]) -> None:
    zookeeper.put("/k", b"v")
    assert [reads(member, "/k") for member in zookeeper.members] == [b"v"] * 3
    assert {view and view.leader for view in map(zookeeper.view, zookeeper.members)} == {zookeeper.leader().name}
    modes = {member.name: said.mode for member in zookeeper.members if (said := zookeeper.standing(member))}
    assert modes.pop(zookeeper.leader().name) is Mode.LEADER
    assert list(modes.values()) == [Mode.FOLLOWER] * 2


def test_nodes_are_told_as_they_are(zookeeper: ZooKeeper[Any]) -> None:
    zookeeper.put("/b/1", b"one")
    zookeeper.put("/a")
    zookeeper.put("/b/1", b"other")
    b, one, a = zookeeper.nodes()
    assert [b.path, one.path, a.path] == ["/b", "/b/1", "/a"]
    assert (one.data, one.version, one.ephemeral_owner, a.data) == (b"other", 2, 0, b"")
    assert b.czxid < one.czxid < a.czxid < one.mzxid
    assert zookeeper.nodes("/b") == [b, one]
    zookeeper.delete("/b")
    assert zookeeper.nodes() == [a]
    assert zookeeper.nodes("/b") == []
    zookeeper.clear()
    assert zookeeper.nodes() == []


def test_sessions_are_those_of_clients(zookeeper: ZooKeeper[Any]) -> None:
    member = zookeeper.followers()[0]
    with Wire(member.host, member.port, timeout=4.0) as wire:
        assert zookeeper.sessions() == [wire.session]
        (connection,) = zookeeper.connections(member)
        assert (connection.session, connection.timeout) == (wire.session, 4.0)
        assert zookeeper.connections(zookeeper.leader()) == []
    assert zookeeper.sessions() == []


def test_an_expired_session_is_known_nowhere(zookeeper: ZooKeeper[Any]) -> None:
    member = zookeeper.followers()[0]
    with ended(Wire(member.host, member.port)) as wire:
        assert zookeeper.expire(wire.session)
        assert zookeeper.sessions() == []
    for other in zookeeper.members:
        until(lambda other=other: not returns(other, wire.session))
    assert not zookeeper.expire(wire.session)


def test_clear_leaves_no_session(zookeeper: ZooKeeper[Any]) -> None:
    member = zookeeper.leader()
    with ended(Wire(member.host, member.port)):
        zookeeper.put("/a/b")
        zookeeper.clear()
        assert zookeeper.sessions() == []
        assert zookeeper.nodes() == []


def test_packets_are_counted_by_the_servers(zookeeper: ZooKeeper[Any]) -> None:
    member = zookeeper.leader()
    with Wire(member.host, member.port) as wire:
        before = zookeeper.metrics(member)["packets_received"]
        wire.sync()
        assert zookeeper.metrics(member)["packets_received"] == before + 2  # the question itself is one
        zookeeper.reset_stats(member)
        assert zookeeper.metrics(member)["packets_received"] < before


def test_a_killed_member_comes_back(zookeeper: ZooKeeper[Any]) -> None:
    member = zookeeper.leader()
    member.kill()
    assert not member.running
    with pytest.raises(LookupError):
        _ = member.pid
    assert zookeeper.leader(other_than=member) != member
    zookeeper.put("/k", b"v")
    member.start()
    zookeeper.ready()
    assert reads(member, "/k") == b"v"


def test_a_stopped_member_is_not_waited_for_in_vain(zookeeper: ZooKeeper[Any]) -> None:
    member = zookeeper.followers()[0]
    member.stop()
    with pytest.raises(NotReady, match=f"{member.name} is down"):
        zookeeper.ready()
    zookeeper.ready(among=[other for other in zookeeper.members if other != member])


def test_a_paused_leader_is_followed_by_another(zookeeper: ZooKeeper[Any]) -> None:
    old = zookeeper.leader()
    before = zookeeper.view(old)
    old.pause()
    assert old.paused
    assert old.running
    new = zookeeper.leader(other_than=old)
    after = zookeeper.view(new)
    assert before
    assert after
    assert after.term > before.term
    old.resume()
    assert not old.paused
    assert zookeeper.ready() == new


def test_a_leader_that_is_cut_off_serves_nobody_and_others_elect(zookeeper: ZooKeeper[Any]) -> None:
    old = zookeeper.leader()
    zookeeper.put("/k", b"before")
    old.cut_off()
    new = zookeeper.leader(other_than=old)
    zookeeper.put("/k", b"after")
    assert not commits(zookeeper, old, timeout=1.0)
    until(lambda: not serves(zookeeper, old))  # its clients reach it, and are told
    assert [zookeeper.view(member) for member in zookeeper.members if member != old] == [zookeeper.view(new)] * 2
    old.rejoin()
    zookeeper.ready()
    assert reads(old, "/k") == b"after"


def test_a_follower_that_is_cut_off_leaves_the_others_alone(zookeeper: ZooKeeper[Any]) -> None:
    leader, member = zookeeper.leader(), zookeeper.followers()[0]
    member.cut_off()
    assert not commits(zookeeper, member, timeout=1.0)
    zookeeper.put("/k", b"v")
    until(lambda: not serves(zookeeper, member))
    assert zookeeper.leader() == leader
    assert commits(zookeeper, leader)
    member.rejoin()
    zookeeper.ready()
    assert reads(member, "/k") == b"v"
    assert zookeeper.leader() == leader


def test_two_members_that_are_cut_off_do_not_reach_each_other(zookeeper: ZooKeeper[Any]) -> None:
    one, other = zookeeper.followers()
    one.cut_off()
    other.cut_off()
    for member in zookeeper.members:
        until(lambda member=member: not serves(zookeeper, member))
    one.rejoin()
    zookeeper.leader(other_than=other)
    zookeeper.put("/k", b"v")
    assert not serves(zookeeper, other)


def test_a_member_restarted_while_it_is_cut_off_stays_cut_off(zookeeper: ZooKeeper[Any]) -> None:
    member = zookeeper.followers()[0]
    member.cut_off()
    member.restart()
    zookeeper.put("/k", b"v")
    with pytest.raises(NotReady, match=f"'{member.name}': None"):
        zookeeper.ready(2.0)
    member.rejoin()
    zookeeper.ready()
    assert reads(member, "/k") == b"v"


def test_a_wiped_member_is_replaced(zookeeper: ZooKeeper[Any]) -> None:
    member = zookeeper.followers()[0]
    zookeeper.put("/k", b"v")
    with pytest.raises(RuntimeError, match="running"):
        member.wipe()
    member.kill()
    zookeeper.replace(member)
    zookeeper.ready()
    assert reads(member, "/k") == b"v"
    member.restart()
    zookeeper.ready()


def test_heal_mends_everything_at_once(zookeeper: ZooKeeper[Any]) -> None:
    one, two, three = zookeeper.members
    one.kill()
    two.pause()
    three.cut_off()
    zookeeper.heal()
    zookeeper.put("/k", b"v")
    assert [reads(member, "/k") for member in zookeeper.members] == [b"v"] * 3


# -- ensembles of their own ------------------------------------------------------------------------------------


@pytest.mark.local_cluster
def test_tls_asks_for_a_client_certificate(tmp_path: Path, certificates: Certificates) -> None:
    with ZooKeeperCluster(tmp_path, size=1, tls=certificates) as zookeeper:
        (member,) = zookeeper.members
        zookeeper.put("/k", b"v")
        assert zookeeper.nodes()[0].data == b"v"
        assert zookeeper.metrics(member)
        assert zookeeper.url("p") == f"zookeepers://127.0.0.1:{member.port}/p?{zookeeper.url().partition('?')[2]}"
        assert not commits(zookeeper, member, timeout=1.0)  # in plain text
        zookeeper.clear()


@pytest.mark.local_cluster
def test_ipv6_and_a_login_that_is_required(tmp_path: Path) -> None:
    users = {"alice": 'p@ss/"\\word'}
    with ZooKeeperCluster(tmp_path, size=1, ipv6=True, users=users, sasl_required=True) as zookeeper:
        (member,) = zookeeper.members
        assert all(endpoint.startswith("[::1]:") for endpoint in zookeeper.endpoints)
        assert "alice:p%40ss%2F@[::1]:" in zookeeper.url(user="alice", password="p@ss/", auth="sasl")
        assert zookeeper.url(auth="sasl").endswith("?auth=sasl")
        zookeeper.put("/k", b"v")
        assert zookeeper.nodes()[0].data == b"v"
        with pytest.raises(Refused), Wire(member.host, member.port) as wire:
            wire.node("/k")
        with pytest.raises(Refused), Wire(member.host, member.port) as wire:
            wire.log_in_by_sasl("alice", "wrong")


@pytest.mark.local_cluster
def test_what_a_client_asks_for_is_kept_within_bounds(tmp_path: Path) -> None:
    with ZooKeeperCluster(tmp_path, size=1, min_session=2.0, max_session=3.0) as zookeeper:
        (member,) = zookeeper.members
        for asked, granted in ((0.5, 2.0), (2.5, 2.5), (9.0, 3.0)):
            with Wire(member.host, member.port, timeout=asked):
                (connection,) = zookeeper.connections(member)
                assert connection.timeout == granted


@pytest.mark.local_cluster
def test_an_ensemble_of_the_newer_release(tmp_path: Path) -> None:
    with zookeeper_of_newer_release(tmp_path, 3) as zookeeper:
        assert zookeeper.version > "3.9"
        old = zookeeper.leader()
        old.cut_off()
        zookeeper.leader(other_than=old)
        zookeeper.put("/k", b"v")
        old.rejoin()
        zookeeper.ready()
        assert reads(old, "/k") == b"v"


@pytest.mark.local_cluster
def test_nothing_is_left_after_close(tmp_path: Path) -> None:
    leaves_nothing(ZooKeeperCluster(tmp_path, size=3), proxies=6)


@pytest.mark.local_cluster
def test_an_ensemble_that_cannot_start_tells_the_servers_words(tmp_path: Path) -> None:
    lines = ["clientPortAddress=192.0.2.1"]
    tells_why_it_cannot_start(ZooKeeperCluster(tmp_path, size=1, lines=lines), "BindException")


def scene_with_an_ensemble(folder: str) -> None:
    with ZooKeeperCluster(Path(folder), size=1) as zookeeper:
        stays(zookeeper)


@pytest.mark.local_cluster
def test_servers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    ends_with_its_process(scene_with_an_ensemble, tmp_path)
