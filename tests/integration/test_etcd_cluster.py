"""The harness itself: what it says that it does to a cluster is done, seen by etcd's own programs."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.servers.certificates import Certificates
from tests.servers.cluster import NotReady
from tests.servers.etcd import CtlFailed, Etcd, EtcdCluster
from tests.support.local_clusters import ends_with_its_process, leaves_nothing, stays, tells_why_it_cannot_start

pytestmark = pytest.mark.backend("etcd")


def reads(etcd: Etcd[Any], key: str, member: Any, consistency: str = "l") -> str:
    return etcd.ctl("get", key, "--print-value-only", f"--consistency={consistency}", member=member, timeout=1.0)


def heard(etcd: Etcd[Any], member: Any) -> dict[tuple[str, str], float]:
    """How many bytes this member got from each other, and each other from it, as the listener counts them."""
    listed = (line.split(", ") for line in etcd.ctl("member", "list", member=etcd.leader()).splitlines())
    names = {number: name for number, _, name, *_ in listed}
    counted = {}
    for listener in etcd.members:
        for number, name in names.items():
            if listener.name != name and member.name in (listener.name, name):
                metric = f'etcd_network_peer_received_bytes_total{{From="{number}"}}'
                counted[listener.name, name] = etcd.metrics(listener).get(metric, 0.0)  # nothing yet
    assert len(counted) == 2 * (len(etcd.members) - 1)
    assert any(counted.values())
    return counted


def test_every_member_answers_and_follows_one_leader(etcd: Etcd[Any]) -> None:
    etcd.ctl("put", "k", "v")
    assert [reads(etcd, "k", member) for member in etcd.members] == ["v\n"] * 3
    assert {view and view.leader for view in map(etcd.view, etcd.members)} == {etcd.leader().name}
    assert etcd.leader() not in etcd.followers()
    assert len(etcd.followers()) == 2


def test_keys_and_leases_are_told_as_they_are(etcd: Etcd[Any]) -> None:
    lease = int(etcd.ctl("lease", "grant", "60").split()[1], 16)
    etcd.ctl("put", "a/1", "one", f"--lease={lease:x}")
    etcd.ctl("put", "a/2", "")
    etcd.ctl("put", "b", "")
    first, second = etcd.keys("a/")
    assert (first.key, first.value, first.lease) == (b"a/1", b"one", lease)
    assert (second.key, second.value, second.lease) == (b"a/2", b"", 0)
    assert first.create_revision < second.create_revision
    assert etcd.leases() == [lease]
    etcd.clear()
    assert etcd.keys() == []
    assert etcd.leases() == []


def test_requests_are_counted_by_the_servers(etcd: Etcd[Any]) -> None:
    name = (
        'grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}'
    )
    member = etcd.leader()
    before = etcd.metrics(member)[name]
    etcd.ctl("put", "k", "v", member=member)
    assert etcd.metrics(member)[name] == before + 1


def test_a_failing_etcdctl_tells_why(etcd: Etcd[Any]) -> None:
    with pytest.raises(CtlFailed, match="lease not found"):
        etcd.ctl("lease", "revoke", "1234")


def test_a_killed_member_comes_back(etcd: Etcd[Any]) -> None:
    member = etcd.leader()
    member.kill()
    assert not member.running
    with pytest.raises(LookupError):
        _ = member.pid
    assert etcd.leader(other_than=member) != member
    etcd.ctl("put", "k", "v", member=etcd.leader())
    member.start()
    etcd.ready()
    assert reads(etcd, "k", member, consistency="s") == "v\n"


def test_a_stopped_member_is_not_waited_for_in_vain(etcd: Etcd[Any]) -> None:
    member = etcd.followers()[0]
    member.stop()
    with pytest.raises(NotReady, match=f"{member.name} is down"):
        etcd.ready()
    etcd.ready(among=[other for other in etcd.members if other != member])


def test_a_paused_leader_is_followed_by_another(etcd: Etcd[Any]) -> None:
    old = etcd.leader()
    old.pause()
    assert old.paused
    assert old.running
    new = etcd.leader(other_than=old)
    old.resume()
    assert not old.paused
    assert etcd.ready() == new


def test_a_leader_that_is_cut_off_serves_nobody_and_others_elect(etcd: Etcd[Any]) -> None:
    old = etcd.leader()
    etcd.ctl("put", "k", "before")
    old.cut_off()
    new = etcd.leader(other_than=old)
    before = heard(etcd, old)
    etcd.ctl("put", "k", "after", member=new)
    with pytest.raises(CtlFailed, match="deadline exceeded"):
        reads(etcd, "k", old)
    # Its clients reach it.
    assert reads(etcd, "k", old, consistency="s") == "before\n"
    with pytest.raises(CtlFailed, match="deadline exceeded"):
        etcd.ctl("put", "k", "never", member=old, timeout=1.0)
    assert heard(etcd, old) == before
    old.rejoin()
    etcd.ready()
    assert reads(etcd, "k", old) == "after\n"


def test_a_follower_that_is_cut_off_leaves_the_others_alone(etcd: Etcd[Any]) -> None:
    leader, member = etcd.leader(), etcd.followers()[0]
    member.cut_off()
    etcd.ctl("put", "k", "v", member=leader)
    before = heard(etcd, member)
    with pytest.raises(CtlFailed, match="deadline exceeded"):
        reads(etcd, "k", member)
    assert heard(etcd, member) == before
    assert etcd.leader() == leader
    member.rejoin()
    etcd.ready()
    assert reads(etcd, "k", member) == "v\n"


def test_two_members_that_are_cut_off_do_not_reach_each_other(etcd: Etcd[Any]) -> None:
    one, other = etcd.followers()
    etcd.ctl("put", "k", "before")
    one.cut_off()
    other.cut_off()
    for member in etcd.members:
        with pytest.raises(CtlFailed, match="deadline exceeded"):
            reads(etcd, "k", member)
    one.rejoin()
    etcd.leader(other_than=other)
    with pytest.raises(CtlFailed, match="deadline exceeded"):
        reads(etcd, "k", other)


def test_a_member_restarted_while_it_is_cut_off_stays_cut_off(etcd: Etcd[Any]) -> None:
    member = etcd.followers()[0]
    member.cut_off()
    member.restart()
    etcd.ctl("put", "k", "v", member=etcd.leader())
    with pytest.raises(NotReady, match=f"'{member.name}': None"):
        etcd.ready(2.0)
    member.rejoin()
    etcd.ready()
    assert reads(etcd, "k", member) == "v\n"


def test_a_wiped_member_is_replaced(etcd: Etcd[Any]) -> None:
    member = etcd.followers()[0]
    etcd.ctl("put", "k", "v")
    with pytest.raises(RuntimeError, match="running"):
        member.wipe()
    member.kill()
    etcd.replace(member)
    etcd.ready()
    assert reads(etcd, "k", member, consistency="s") == "v\n"
    member.restart()
    etcd.ready()


def test_heal_mends_everything_at_once(etcd: Etcd[Any]) -> None:
    one, two, three = etcd.members
    one.kill()
    two.pause()
    three.cut_off()
    etcd.heal()
    etcd.ctl("put", "k", "v")
    assert [reads(etcd, "k", member) for member in etcd.members] == ["v\n"] * 3


# -- clusters of their own -------------------------------------------------------------------------------------


@pytest.mark.local_cluster
def test_tls_asks_for_a_client_certificate(tmp_path: Path, certificates: Certificates) -> None:
    with EtcdCluster(tmp_path, size=1, tls=certificates) as etcd:
        (member,) = etcd.members
        etcd.ctl("put", "k", "v")
        assert etcd.keys()[0].value == b"v"
        assert etcd.metrics(member)
        assert etcd.url("p") == f"etcds://127.0.0.1:{member.port}/p?{etcd.url().partition('?')[2]}"
        bare = etcd.command("get", "k", "--command-timeout=1s").arguments
        without = [argument for argument in bare if not argument.startswith(("--cert=", "--key="))]
        refused = subprocess.run(without, env=etcd.command().environment, capture_output=True, timeout=20, check=False)
        assert refused.returncode != 0


@pytest.mark.local_cluster
def test_ipv6_and_authentication(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, size=1, ipv6=True, flags=["--auth-token-ttl=2"]) as etcd:
        assert all(endpoint.startswith("[::1]:") for endpoint in etcd.endpoints)
        etcd.enable_auth()
        etcd.add_user("alice", "p@ss/word", "/alice/")
        etcd.ready()
        assert "alice:p%40ss%2Fword@[::1]:" in etcd.url(user="alice", password="p@ss/word")
        alice = etcd.command("put", "/alice/k", "v")
        bob = etcd.command("put", "/bob/k", "v")
        as_alice = {**alice.environment, "ETCDCTL_USER": "alice:p@ss/word"}
        subprocess.run(alice.arguments, env=as_alice, check=True, stdout=subprocess.DEVNULL, timeout=20)
        refused = subprocess.run(bob.arguments, env=as_alice, capture_output=True, text=True, timeout=20, check=False)
        assert "permission denied" in refused.stderr
        (stored,) = etcd.keys("")
        assert stored.key == b"/alice/k"
        etcd.disable_auth()
        etcd.clear()


@pytest.mark.local_cluster
def test_nothing_is_left_after_close(tmp_path: Path) -> None:
    leaves_nothing(EtcdCluster(tmp_path, size=3), proxies=3)


@pytest.mark.local_cluster
def test_a_cluster_that_cannot_start_tells_the_servers_words(tmp_path: Path) -> None:
    flags = ["--listen-client-urls=http://192.0.2.1:2379"]
    tells_why_it_cannot_start(EtcdCluster(tmp_path, size=1, flags=flags), r"192\.0\.2\.1")


def scene_with_a_cluster(folder: str) -> None:
    with EtcdCluster(Path(folder), size=1) as etcd:
        (member,) = etcd.members
        member.kill()

        def start() -> None:
            member.start()
            etcd.ready()

        # The kernel looks at the thread that forked: this one ends when the server has long been up.
        starter = threading.Thread(target=start)
        starter.start()
        starter.join()
        etcd.ready()
        stays(etcd)


@pytest.mark.local_cluster
def test_servers_outlive_the_thread_but_not_the_process_that_started_them(tmp_path: Path) -> None:
    ends_with_its_process(scene_with_a_cluster, tmp_path)
