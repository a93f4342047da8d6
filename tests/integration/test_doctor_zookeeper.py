"""The doctor at real ensembles of ZooKeeper: healthy ones, servers that are down, rights, limits, nodes of others."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.security import make_acl

from coordkit import LeaderElector
from coordkit.backends.zookeeper import doctor, probe
from coordkit.backends.zookeeper.probe import Server
from coordkit.doctor import examine
from coordkit.findings import Verdict
from tests.servers.certificates import Certificates
from tests.servers.zookeeper import ZooKeeper, ZooKeeperCluster
from tests.support.commands import coordkit
from tests.support.examined import of, troubles
from tests.support.failing import MARK, PASSWORD, nothing_revealed
from tests.support.impostors import Impostor, black_hole, closes, garbage, http, nobody, silent
from tests.support.zookeeper_hand import digest_of, hand

__all__ = ["nothing_revealed"]

pytestmark = [
    pytest.mark.backend("zookeeper"),
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("nothing_revealed"),
]
local = pytest.mark.local_cluster

SHORT = 3.0  # s, for a check that cannot be made
LOOKS = ["servers", "versions", "timeout", "connection", "ensemble", "chroot", "nodes", "rights"]


def test_an_ensemble_is_well_and_nothing_is_left_in_it(zookeeper: ZooKeeper[Any]) -> None:
    zookeeper.put("/apps")
    before = zookeeper.nodes()
    found = examine(zookeeper.url("apps"))
    assert [each.check for each in found.findings] == LOOKS
    assert troubles(found) == {}
    assert of(found, "servers").detail == "3 of 3 servers of the URL serve (2 follower, 1 leader)"
    assert of(found, "versions").detail == f"{zookeeper.version} (3)"
    assert of(found, "ensemble").detail == "3 servers that vote"
    assert of(found, "nodes").detail == "0 elections, 0 candidates"
    assert zookeeper.nodes() == before
    assert zookeeper.sessions() == []


def test_elections_are_counted_and_disturbed_by_nothing(zookeeper: ZooKeeper[Any]) -> None:
    elector = LeaderElector(zookeeper.url(), "reports/nightly", ttl=10.0)
    with elector.lead(timeout=20.0) as term:
        term.proclaim("here")
        before = zookeeper.nodes()
        found = examine(zookeeper.url())
        assert troubles(found) == {}
        assert of(found, "nodes").detail == "1 election, 1 candidate"
        assert of(found, "rights").detail == "nodes may be made under the chroot, and in all elections there"
        term.confirm()
        assert zookeeper.nodes() == before
    elector.close()


def test_a_chroot_that_is_missing_is_a_failure(zookeeper: ZooKeeper[Any]) -> None:
    found = examine(zookeeper.url("apps"))
    assert troubles(found) == {"chroot": Verdict.FAILED, "nodes": Verdict.UNCHECKED, "rights": Verdict.UNCHECKED}
    assert of(found, "chroot").detail == "/apps does not exist"


def test_a_chroot_that_is_ephemeral_is_a_failure(zookeeper: ZooKeeper[Any]) -> None:
    with hand(zookeeper) as other:
        other.create("/apps", ephemeral=True)
        assert troubles(examine(zookeeper.url("apps")))["chroot"] is Verdict.FAILED


def test_nodes_that_are_not_of_the_layout_are_told_of(zookeeper: ZooKeeper[Any]) -> None:
    guid = "_c_01234567-89ab-4def-a123-456789abcdef-latch-0000000001"
    for path in ("/apps/theirs/child", "/apps/a%zz", "/apps/x/stranger", f"/apps/x/{guid}", "/apps/empty"):
        zookeeper.put(path)
    found = examine(zookeeper.url("apps"))
    assert found.ok
    assert troubles(found) == {"nodes": Verdict.WARNING}
    told, counted = (each.detail for each in found.findings if each.check == "nodes")
    assert told.startswith("4 nodes not of the layout: /apps/a%zz, ")
    assert counted == "2 elections, 0 candidates"


def test_an_election_whose_counter_is_near_its_end_is_warned_of(
    zookeeper: ZooKeeper[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter of a real server, against an end that is nearer: 3 nodes were made, and 1 is there."""
    with hand(zookeeper) as other:
        other.ensure_path("/x")
        for _ in range(2):
            other.delete(other.create("/x/_c_01234567-89ab-4def-a123-456789abcdef-latch-", sequence=True))
        other.create("/x/_c_01234567-89ab-4def-a123-456789abcdef-latch-", sequence=True, ephemeral=True)
        monkeypatch.setattr(doctor, "NEARLY", 4)
        assert troubles(examine(zookeeper.url())) == {}
        monkeypatch.setattr(doctor, "NEARLY", 3)
        assert troubles(examine(zookeeper.url())) == {"nodes": Verdict.WARNING}


# -- servers ----------------------------------------------------------------------------------------------------


def test_a_server_that_is_down_is_warned_of(zookeeper: ZooKeeper[Any]) -> None:
    down = zookeeper.followers()[0]
    down.kill()
    found = examine(zookeeper.url())
    assert found.ok
    assert troubles(found) == {"servers": Verdict.WARNING}
    assert f":{down.port} (" in of(found, "servers").detail
    assert of(found, "servers").meaning == "if one more fails, nobody leads"


def test_a_server_that_is_paused_is_warned_of(zookeeper: ZooKeeper[Any]) -> None:
    zookeeper.followers()[0].pause()
    found = examine(zookeeper.url(), timeout=2 * SHORT)
    assert found.ok
    assert troubles(found) == {"servers": Verdict.WARNING}
    assert "no answer within" in of(found, "servers").detail


def test_without_a_majority_it_is_a_failure(zookeeper: ZooKeeper[Any]) -> None:
    for member in zookeeper.followers():
        member.kill()
    found = examine(zookeeper.url(), timeout=SHORT)
    wrong = troubles(found)
    assert (wrong["servers"], wrong["connection"]) == (Verdict.FAILED, Verdict.FAILED)
    assert {wrong[name] for name in ("ensemble", "chroot", "nodes", "rights")} == {Verdict.UNCHECKED}


@pytest.mark.parametrize("serve", [http, garbage, silent, closes], ids=lambda serve: serve.__name__)
def test_what_is_no_zookeeper_is_a_failure(serve: Any) -> None:
    with Impostor(serve) as impostor:
        found = examine(f"zookeeper://{impostor.host}", timeout=SHORT)
    wrong = troubles(found)
    assert (wrong["servers"], wrong["connection"]) == (Verdict.FAILED, Verdict.FAILED)
    assert wrong["chroot"] is Verdict.UNCHECKED


def test_a_server_that_hangs_up_once_is_asked_again() -> None:
    asked: list[bytes] = []

    def serve(connection: Any) -> None:
        asked.append(connection.recv(1000))
        if len(asked) == 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            return
        if len(asked[-1]) > 4:  # no word
            connection.sendall(struct.pack("!iiiq16x", 32, 0, 4000, 1))
            connection.recv(1000)
        connection.shutdown(socket.SHUT_RDWR)

    with Impostor(serve) as impostor:
        host, port = impostor.host.split(":")
        probed = asyncio.run(doctor._probe(Server(host, int(port)), SHORT))
    assert (probed.trouble, probed.least, probed.most) == ("", 4.0, 4.0)
    assert len([each for each in asked if len(each) > 4]) == 4  # twice the limits, for the first time failed


def test_a_word_without_an_end_is_not_waited_for() -> None:
    def pour(connection: Any) -> None:
        while True:
            connection.sendall(b"x" * 65536)

    with Impostor(pour) as impostor:
        host, port = impostor.host.split(":")
        with pytest.raises(probe.Garbled):
            asyncio.run(probe.word(Server(host, int(port)), "srvr"))


def test_a_port_where_nobody_listens_is_a_failure() -> None:
    with nobody() as host:
        done = coordkit(f"zookeeper://user:{MARK}@{host}", "doctor", "--timeout", "3")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(f"zookeeper://{host}\n")
    assert "Connection refused" in done.stdout


def test_a_black_hole_is_a_failure_in_time() -> None:
    with black_hole() as host:
        assert troubles(examine(f"zookeeper://{host}", timeout=SHORT))["connection"] is Verdict.FAILED


def test_a_url_that_does_not_name_all_servers_is_warned_of(zookeeper: ZooKeeper[Any]) -> None:
    found = examine(zookeeper.url(members=zookeeper.members[:1]))
    assert found.ok
    assert troubles(found) == {"ensemble": Verdict.WARNING}
    assert of(found, "ensemble").detail == "3 servers that vote; the URL names 1"


@pytest.mark.parametrize(("ttl", "says"), [(0.2, "0.4 s are granted"), (100.0, "60 s are granted")])
@local
def test_a_ttl_beyond_the_limits_is_warned_of(zookeeper: ZooKeeper[Any], ttl: float, says: str) -> None:
    found = examine(zookeeper.url(), ttl=ttl)
    assert of(found, "timeout").verdict is Verdict.WARNING
    assert says in of(found, "timeout").detail
    assert "a tick is 0.2 s" in of(found, "timeout").detail


@local
def test_sessions_that_may_be_too_short_and_a_single_server_are_told_of(tmp_path: Path) -> None:
    with ZooKeeperCluster(tmp_path, 1, tick=2.0, min_session=1.0) as single:
        found = examine(single.url(), ttl=2.0)
        assert troubles(found) == {"timeout": Verdict.FAILED, "ensemble": Verdict.WARNING}
        assert of(found, "ensemble").detail == "1 server, by itself"
        found = examine(single.url(), ttl=10.0)
        assert troubles(found) == {"timeout": Verdict.WARNING, "ensemble": Verdict.WARNING}


@local
def test_a_server_that_answers_no_word_but_srvr_as_by_default_leaves_its_tick_open(tmp_path: Path) -> None:
    with ZooKeeperCluster(tmp_path, 1, lines=["4lw.commands.whitelist=srvr"]) as single:
        found = examine(single.url())
    assert troubles(found) == {"timeout": Verdict.UNCHECKED, "ensemble": Verdict.WARNING}
    given, tick = (each for each in found.findings if each.check == "timeout")
    assert given.verdict is Verdict.OK
    assert tick.detail.startswith("no server tells its tick")


# -- users ------------------------------------------------------------------------------------------------------


def test_rights_that_are_missing_are_told_of(zookeeper: ZooKeeper[Any]) -> None:
    reader = make_acl("world", "anyone", read=True)
    alice = make_acl("digest", digest_of("alice", PASSWORD), all=True)
    with hand(zookeeper, super_user=True) as other:
        other.create("/apps", acl=[reader, alice])
        as_alice = zookeeper.url("apps", user="alice", password=PASSWORD, acl="creator")
        assert troubles(examine(as_alice)) == {}
        found = examine(zookeeper.url("apps"))
        assert troubles(found) == {"rights": Verdict.FAILED}
        assert of(found, "rights").detail == "no right to create nodes under /apps"
        other.create("/apps/open")
        assert troubles(examine(zookeeper.url("apps"))) == {"rights": Verdict.WARNING}
        other.create("/apps/shut", acl=[alice])
        found = examine(zookeeper.url("apps"))
        assert troubles(found) == {"rights": Verdict.WARNING}
        assert of(found, "rights").detail == "no right to read, or to create and delete nodes, in shut"
        assert troubles(examine(as_alice)) == {}
        assert other.get_children("/apps/open") == other.get_children("/apps/shut") == []
        other.create("/hidden", acl=[alice])
        assert troubles(examine(zookeeper.url("hidden")))["nodes"] is Verdict.UNCHECKED


def test_rights_that_nodes_cannot_be_given_are_a_failure(zookeeper: ZooKeeper[Any]) -> None:
    found = examine(zookeeper.url(acl="digest:nobody-in-particular:cdrwa"))
    assert of(found, "rights").detail == "the servers refuse the option acl"
    assert not found.ok


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperCluster]:
    """One server that asks for a login by SASL."""
    folder = tmp_path_factory.mktemp("guarded")
    with ZooKeeperCluster(folder, 1, users={"alice": PASSWORD}, sasl_required=True) as cluster:
        yield cluster


@local
def test_a_login_by_sasl_is_well(guarded: ZooKeeperCluster) -> None:
    done = coordkit(guarded.url(user="alice", password=PASSWORD, auth="sasl"), "doctor", "--json")
    assert done.returncode == 0
    assert '"unchecked"' not in done.stdout


@local
def test_a_wrong_password_is_a_failure_and_is_shown_to_nobody(guarded: ZooKeeperCluster) -> None:
    for more in ((), ("--json",)):
        url = guarded.url(user="alice", password=f"{MARK}-wrong", auth="sasl")
        done = coordkit(url, "doctor", "--timeout", "5", *more)
        assert done.returncode == 1
        assert "the servers refuse to log us in" in " ".join(done.stdout.split())


@local
def test_no_login_where_one_is_asked_for_is_a_failure(guarded: ZooKeeperCluster) -> None:
    found = examine(guarded.url(), timeout=5.0)
    assert "the servers ask for a login by SASL" in of(found, "connection").detail


@local
def test_over_tls_it_is_well_and_without_it_a_failure(tmp_path: Path) -> None:
    with ZooKeeperCluster(tmp_path / "servers", 1, tls=Certificates.make(tmp_path / "files")) as cluster:
        found = examine(cluster.url())
        assert troubles(found) == {"ensemble": Verdict.WARNING}
        plain = cluster.url().partition("?")[0].replace("zookeepers://", "zookeeper://")
        assert not examine(plain, timeout=SHORT).ok
        missing = cluster.url().replace("client.pem", "nowhere.pem")
        assert "nowhere.pem" in of(examine(missing, timeout=SHORT), "servers").detail
