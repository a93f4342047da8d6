"""etcd in trouble: servers that are not there, not etcd, of another cluster, made anew, full; keys of others.

The rule: each trouble has its error, in time, and a held term goes on rightly or ends by its own clock.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from coordkit import (
    CampaignTimeout,
    LeaderElector,
    LossReason,
    Misconfigured,
    Rejected,
    Session,
    TermState,
    Unavailable,
)
from tests.servers.cluster import View
from tests.servers.etcd import CtlFailed, Etcd, EtcdCluster
from tests.servers.local import LocalMember
from tests.servers.processes import Command
from tests.servers.proxy import Proxy
from tests.support.children import ROOT, took
from tests.support.failing import MARK, PASSWORD, fails, later, nothing_revealed, until
from tests.support.impostors import UNKNOWN_NAME, Impostor, black_hole, closes, http, nobody, silent

__all__ = ["nothing_revealed"]

pytestmark = [
    pytest.mark.backend("etcd"),
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("nothing_revealed"),
]
local = pytest.mark.local_cluster

AT_ONCE = 2.5  # s: on a busy machine
TTL = 3.0
LOGIN = f"somebody:{quote(PASSWORD, safe='')}@"  # to be kept quiet, even where nobody asks for it


def opened(url: str, timeout: float = 5.0) -> None:
    session = Session(url)
    try:
        session.open(timeout=timeout)
    finally:
        session.close()


@contextmanager
def elector_of(url: str, election: str = "x", ttl: float = TTL, **more: Any) -> Iterator[LeaderElector]:
    elector = LeaderElector(url, election, ttl=ttl, **more)
    try:
        yield elector
    finally:
        elector.close()


# -- servers that do not serve -------------------------------------------------------------------------------------


def _etcd2(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(b'{"errorCode":100,"message":"Key not found","cause":"/v2/keys/x","index":7}\n')


@contextmanager
def at_nobodys(who: Callable[..., Any]) -> Iterator[str]:
    """The host of one that does not serve."""
    if who in (nobody, black_hole):
        with who() as host:
            yield host
    else:
        with Impostor(who) as impostor:
            yield impostor.host


@pytest.fixture(params=[nobody, black_hole, silent, closes, http, _etcd2, "no such name"])
def not_there(request: pytest.FixtureRequest) -> Iterator[str]:
    """A host that is no etcd server."""
    if request.param == "no such name":
        yield f"{UNKNOWN_NAME}:2379"
        return
    with at_nobodys(request.param) as host:
        yield host


def test_who_does_not_serve_is_unavailable_in_time(not_there: str) -> None:
    url = f"etcd://{LOGIN}{not_there}/p"
    with fails(Unavailable, not_there, within=5.0 + 0.5):
        opened(url)
    with fails(Unavailable, within=1.0 + 0.5):
        opened(url, timeout=1.0)
    with elector_of(url) as elector:
        with fails(Unavailable, within=1.0 + 0.5):
            elector.leader(timeout=1.0)
        with fails(CampaignTimeout, within=1.0 + 0.5) as ended:
            elector.campaign(timeout=1.0)
        if ended.value.__cause__ is not None and not isinstance(ended.value.__cause__, TimeoutError):
            assert type(ended.value.__cause__) is Unavailable
        with fails(CampaignTimeout, within=2 * TTL + 0.5) as ended:
            elector.try_campaign()
        assert type(ended.value.__cause__) is Unavailable
        with took(most=AT_ONCE):
            elector.close()


@pytest.fixture(params=[nobody, black_hole, silent, closes])
def dead_member(request: pytest.FixtureRequest) -> Iterator[str]:
    with at_nobodys(request.param) as host:
        yield host


def test_of_three_of_which_one_does_not_serve_the_others_are_used(dead_member: str, etcd: Etcd[Any]) -> None:
    good = list(etcd.endpoints[1:])
    for place in range(3):
        hosts = [*good[:place], dead_member, *good[place:]]
        with elector_of(f"etcd://{','.join(hosts)}/p", f"place-{place}", ttl=10.0) as elector:
            with took(most=1.5):
                term = elector.campaign(timeout=5.0)
            with took(most=0.5):
                term.confirm()
                term.resign()


def test_of_three_of_which_one_is_stopped_the_others_are_used(etcd: Etcd[Any]) -> None:
    stopped = etcd.followers()[0]
    stopped.pause()
    for number in range(3):
        with elector_of(etcd.url("p"), f"election-{number}", ttl=10.0) as elector:
            with took(most=1.5):
                term = elector.campaign(timeout=5.0)
            term.resign()


def test_a_member_that_connects_and_then_never_answers(etcd: Etcd[Any]) -> None:
    with Proxy(etcd.members[0].host, etcd.members[0].port) as proxy:
        url = f"etcd://{LOGIN}{proxy.host}:{proxy.port}/p"
        proxy.hold_replies(after=b"KV/Range")
        with fails(Unavailable, within=5.0 + 0.5):
            opened(url)
        with elector_of(url) as elector, fails(Unavailable, within=1.5):
            elector.leader(timeout=1.0)
        proxy.heal()
        with elector_of(url) as elector, took(most=AT_ONCE):
            elector.campaign(timeout=5.0).resign()


def test_a_server_of_grpc_that_is_no_etcd_is_misconfigured() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    host = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        for url in (f"etcd://{host}", f"etcd://{LOGIN}{host}"):
            with fails(Misconfigured, host, within=AT_ONCE):
                opened(url)
            with elector_of(url) as elector, fails(Misconfigured, host, within=AT_ONCE):
                elector.campaign()
    finally:
        server.stop(None).wait()


@local
@pytest.mark.parametrize(
    "host",
    ["localhost:{port}", "LOCALHOST:{port}", "127.0.0.1:{port}", "[127.0.0.1]:{port}", "[::ffff:127.0.0.1]:{port}"],
)
def test_ways_to_write_a_host(host: str, etcd: Etcd[Any]) -> None:
    with took(most=AT_ONCE):
        opened(f"etcd://{host.format(port=etcd.members[0].port)}/p")


@pytest.mark.parametrize(
    "host", ["dns:1", "unix:1", "ipv4:1", "xds:1", "a_b.invalid:1", "h%20x:1", "hört.invalid:1", "127.1:1"]
)
def test_odd_hosts_are_hosts_and_nothing_else(host: str) -> None:
    with fails(Unavailable, host, within=5.5):
        opened(f"etcd://{LOGIN}{host}/p")


# -- other clusters ------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[EtcdCluster]:
    """A cluster of one, to be ruined."""
    with EtcdCluster(tmp_path / "alone", 1) as cluster:
        yield cluster


def test_endpoints_of_two_clusters_are_misconfigured(etcd: Etcd[Any], alone: EtcdCluster) -> None:
    hosts = [etcd.endpoints[0], alone.endpoints[0]]
    url = f"etcd://{','.join(hosts)}/p"
    with fails(Misconfigured, *hosts, "several clusters", within=AT_ONCE):
        opened(url)
    with elector_of(url) as elector:
        for ask in (elector.campaign, elector.try_campaign, elector.leader, elector.candidates):
            with fails(Misconfigured, *hosts, within=AT_ONCE):
                ask()
    assert etcd.keys() == alone.keys() == []


def _another(cluster: EtcdCluster) -> None:
    """Another cluster in its place."""
    (member,) = cluster.members
    member.kill()
    member.wipe()
    command = member.command
    member.command = Command([*command.arguments, "--initial-cluster-token=another"], command.environment)
    member.start()
    cluster.ready()


def _made_anew(cluster: EtcdCluster) -> None:
    """The same cluster, by its id, without its memory."""
    (member,) = cluster.members
    member.kill()
    member.wipe()
    member.start()
    cluster.ready()


@local
@pytest.mark.parametrize("change", [_another, _made_anew])
def test_a_cluster_that_is_another_ends_terms_in_time_and_campaigns_at_once(
    change: Callable[[EtcdCluster], None], alone: EtcdCluster
) -> None:
    for number in range(20):
        alone.ctl("put", "other", str(number))  # so that it has a memory
    with elector_of(alone.url("p"), ttl=4.0) as leader, elector_of(alone.url("p"), ttl=4.0) as follower:
        term = leader.campaign(timeout=5.0)
        waiting = later(follower.campaign)
        states = iter(follower.observe())
        until(lambda: len(leader.candidates()) == 2)
        assert next(states) is not None
        sees = later(lambda: next(states))
        change(alone)
        with took(most=4.0 + AT_ONCE):
            assert term.wait_ended(4.0 + AT_ONCE)
        assert term.state is TermState.LOST
        assert term.reason in {LossReason.EXPIRED, LossReason.REVOKED}
        error = waiting.exception(AT_ONCE)
        assert type(error) is Misconfigured, error
        assert type(sees.exception(AT_ONCE)) is Misconfigured
        for ask in (leader.campaign, leader.leader, follower.try_campaign):
            with fails(Misconfigured, within=AT_ONCE):
                ask()
    # What has not known the old one has nothing to object to.
    with elector_of(alone.url("q"), ttl=4.0) as newcomer, took(most=AT_ONCE):
        newcomer.campaign(timeout=5.0).resign()


# -- space ---------------------------------------------------------------------------------------------------------


class Cramped(EtcdCluster):
    """One member with little space. Its page /health says no when it is full, so a leader is what makes it ready."""

    def view(self, member: LocalMember) -> View | None:
        return super().view(member) or (View(member.name, 0) if self.full else None)

    full = False

    def fill(self) -> None:
        self.full = True
        for number in range(1000):
            try:
                self.ctl("put", f"fill-{number}", "x" * 20_000)
            except CtlFailed as refused:
                if "space exceeded" in str(refused):
                    return
                raise
        raise AssertionError("there is always space")


@local
def test_a_full_cluster_rejects_campaigns_and_keeps_its_leader(tmp_path: Path) -> None:
    with Cramped(tmp_path, 1, flags=["--quota-backend-bytes=200000"]) as cluster:
        url = cluster.url("p")
        with elector_of(url) as leader, elector_of(url) as other, elector_of(url, "y") as elsewhere:
            term = leader.campaign(timeout=5.0)
            cluster.fill()
            for ask in (other.campaign, other.try_campaign, elsewhere.campaign):
                with fails(Rejected, "quota", within=AT_ONCE):
                    ask()
            found = other.leader()
            assert found is not None
            assert found.token == term.token
            assert not term.wait_ended(1.5 * TTL)
            term.confirm()
            with fails(Rejected, "quota", within=AT_ONCE):
                term.proclaim("news")
            term.resign()
            until(lambda: not cluster.keys("p/x/"), AT_ONCE)
        until(lambda: cluster.leases() == [], AT_ONCE)


# -- keys of others ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["", "hello", "{}", "[1]", '{"coordkit":1,"lease":"x","id":"a","ttl":1,"state":"leading"}']
)
def test_a_record_that_is_not_ours_is_misconfigured_and_named(value: str, etcd: Etcd[Any]) -> None:
    etcd.ctl("put", "p/x.coordkit", "--", value)
    with elector_of(etcd.url("p")) as elector:
        for ask in (elector.campaign, elector.try_campaign, elector.leader, elector.candidates):
            with fails(Misconfigured, "p/x.coordkit", within=AT_ONCE):
                ask()
        until(lambda: len(etcd.keys()) == 1, AT_ONCE)  # nothing of ours is left beside it
        etcd.ctl("del", "p/x.coordkit")
        with took(most=AT_ONCE):
            elector.campaign(timeout=5.0).resign()


def test_keys_that_are_nobodys_candidacy_stand_in_nobodys_way(etcd: Etcd[Any]) -> None:
    lease = etcd.ctl("lease", "grant", "60").split()[1]
    etcd.ctl("put", "p/x/", "in front")
    etcd.ctl("put", "p/x/not-of-the-layout", "in front", f"--lease={lease}")
    etcd.ctl("put", f"p/x/{lease}", "the right name without its lease")
    with elector_of(etcd.url("p")) as first, elector_of(etcd.url("p")) as second:
        with took(most=AT_ONCE):
            term = first.campaign(timeout=5.0)
        etcd.ctl("put", "p/x/zzz", "between")
        waiting = later(lambda: second.campaign(timeout=20.0))
        until(lambda: len(first.candidates()) == 2)
        etcd.ctl("put", "p/x/behind", "behind")
        assert second.leader() == first.leader()
        assert not term.wait_ended(TTL / 2)
        before = _transactions(etcd)
        time.sleep(1.0)  # nothing happens, so nobody asks
        assert _transactions(etcd) - before < 15
        term.resign()
        with took(most=AT_ONCE):
            waiting.result(AT_ONCE).resign()
        assert first.leader() is None
        assert first.candidates() == ()


def _transactions(cluster: Etcd[Any]) -> float:
    name = (
        'grpc_server_handled_total{grpc_code="OK",grpc_method="Txn",grpc_service="etcdserverpb.KV",grpc_type="unary"}'
    )
    return sum(cluster.metrics(member).get(name, 0.0) for member in cluster.members)


@pytest.mark.parametrize("character", ["m", "\x01", "ä", '"'])
def test_as_much_metadata_as_is_allowed(character: str, etcd: Etcd[Any]) -> None:
    long = character * (65536 // len(character.encode()))
    other = long[:-1]
    with (
        elector_of(etcd.url("p"), metadata=long) as first,
        elector_of(etcd.url("p"), metadata=long) as second,
        took(most=10.0),
    ):
        term = first.campaign(timeout=5.0)
        waiting = later(lambda: second.campaign(timeout=10.0))
        until(lambda: len(first.candidates()) == 2)
        term.proclaim(other)
        found = second.leader()
        assert found is not None
        assert (found.metadata, found.candidate.metadata) == (other, long)
        term.resign()
        waiting.result(10.0).resign()


# -- a ttl that the servers raise ----------------------------------------------------------------------------------


def test_the_granted_ttl_counts_and_a_handover_is_no_slower(etcd: Etcd[Any]) -> None:
    with elector_of(etcd.url("p"), ttl=0.5) as first, elector_of(etcd.url("p"), ttl=0.5) as second:
        term = first.campaign(timeout=5.0)
        granted = int(
            etcd.ctl("lease", "timetolive", f"{etcd.leases()[0]:x}").split("granted with TTL(")[1].split("s)")[0]
        )
        assert granted >= 1
        assert 0.5 < term.remaining() < granted
        before = sum(_keepalives(etcd).values())
        assert not term.wait_ended(2.0)
        beats = sum(_keepalives(etcd).values()) - before
        assert 2 <= beats <= 2.0 / (0.5 / 3) + 3, "renewed every third of the asked ttl, at most"
        waiting = later(lambda: second.campaign(timeout=5.0))
        until(lambda: len(first.candidates()) == 2)
        term.resign()
        with took(most=AT_ONCE):
            waiting.result(AT_ONCE).resign()


def _keepalives(cluster: Etcd[Any]) -> dict[str, float]:
    name = (
        'grpc_server_started_total{grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",'
        'grpc_type="bidi_stream"}'
    )
    return {member.name: cluster.metrics(member).get(name, 0.0) for member in cluster.members}


@local
def test_a_cut_off_leader_acts_no_longer_than_the_granted_ttl(alone: EtcdCluster) -> None:
    with Proxy(alone.members[0].host, alone.members[0].port) as proxy:
        url = f"etcd://{proxy.host}:{proxy.port}/p"
        with elector_of(url, ttl=0.5) as leader, elector_of(alone.url("p"), ttl=0.5) as follower:
            term = leader.campaign(timeout=5.0)
            waiting = later(lambda: follower.campaign(timeout=20.0))
            until(lambda: len(follower.candidates()) == 2)
            proxy.cut()
            with took(least=0.5, most=2.0 + AT_ONCE):
                assert term.wait_ended(2.0 + AT_ONCE)
            newer = waiting.result(10.0)  # its lease, and before 3.4.31 the record's ttl
            assert newer.token > term.token
            newer.resign()


# -- the command line ----------------------------------------------------------------------------------------------


def coordkit(url: str, *arguments: str, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
    """Run the command; what it wrote is free of traces and of passwords."""
    done = subprocess.run(
        [sys.executable, "-m", "coordkit", *arguments],
        env={**os.environ, "COORDKIT_URL": url, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text
        assert MARK not in text
    return done


def test_the_commands_on_a_real_cluster(etcd: Etcd[Any]) -> None:
    url = etcd.url("cli")
    assert coordkit(url, "leader", "a/b").returncode == 1
    assert coordkit(url, "candidates", "a/b").returncode == 1
    script = "echo $COORDKIT_TOKEN $COORDKIT_CANDIDATE; exit 7"
    ran = coordkit(url, "run", "--no-wait", "--label", "me", "a/b", "--", "sh", "-c", script)
    assert (ran.returncode, ran.stderr) == (7, "")
    with elector_of(url, "a/b", metadata="10.0.0.1:80", label="web") as leader, leader.lead(timeout=5.0) as term:
        assert int(term.token) > int(ran.stdout.split()[0])
        assert coordkit(url, "leader", "a/b").stdout == f"{term.token} {term.candidate.id} 10.0.0.1:80\n"
        (found,) = json.loads(coordkit(url, "candidates", "--json", "a/b").stdout)["candidates"]
        assert found["label"] == "web"
        assert coordkit(url, "run", "--no-wait", "a/b", "--", "true").returncode == 75
        assert coordkit(url, "run", "--wait", "0.5", "a/b", "--", "true").returncode == 75
    assert not etcd.keys("cli/a%2Fb/")


def test_observe_on_a_real_cluster(etcd: Etcd[Any]) -> None:
    url = etcd.url("cli")
    process = subprocess.Popen(
        [sys.executable, "-m", "coordkit", "observe", "x"],
        env={**os.environ, "COORDKIT_URL": url, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        with took(most=20.0):
            assert process.stdout.readline() == "x vacant\n"
            with elector_of(url) as leader, leader.lead(timeout=5.0) as term:
                assert process.stdout.readline().split() == [str(term.token), term.candidate.id]
            assert process.stdout.readline() == "x vacant\n"
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


COMMANDS: dict[str, Sequence[str]] = {
    "leader": ("leader", "--timeout", "1", "x"),
    "candidates": ("candidates", "--timeout", "1", "x"),
    "run": ("run", "--wait", "1", "x", "--", "true"),
    "run-no-wait": ("run", "--no-wait", "--ttl", "2", "x", "--", "true"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_that_cannot_be_reached_is_69(command: str) -> None:
    with nobody() as host:
        with took(most=10.0):
            done = coordkit(f"etcd://{LOGIN}{host}/p", *COMMANDS[command])
        assert (done.returncode, done.stdout) == (69, "")
        assert host in done.stderr.splitlines()[-1]


@local
@pytest.mark.parametrize("command", [*COMMANDS, "observe"])
def test_a_cluster_that_refuses_us_or_is_two_is_78(command: str, alone: EtcdCluster, etcd: Etcd[Any]) -> None:
    arguments = COMMANDS.get(command, ("observe", "x"))
    with took(most=10.0):
        done = coordkit(f"etcd://{etcd.endpoints[0]},{alone.endpoints[0]}", *arguments)
    assert (done.returncode, done.stdout) == (78, "")
    assert "several clusters" in done.stderr
    alone.enable_auth()
    for url, says in (
        (alone.url("p"), "names none"),
        (alone.url("p", user="u", password=PASSWORD), "refuses the user"),
    ):
        with took(most=10.0):
            done = coordkit(url, *arguments)
        assert (done.returncode, done.stdout) == (78, "")
        assert says in done.stderr.splitlines()[-1]
