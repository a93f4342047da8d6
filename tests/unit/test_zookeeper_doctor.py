"""What the servers of ZooKeeper tell, and what it means for an election."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from coordkit.backends.zookeeper.doctor import Probed, granted_to, judged, made_so_far, size_of
from coordkit.backends.zookeeper.probe import Server, fields, version_of
from coordkit.findings import Verdict

SRVR = """Zookeeper version: 3.8.0-${mvngit.commit.id}, built on 2022-09-12 17:11 UTC
Latency min/avg/max: 0/0.0/0
Zxid: 0x100000000
Mode: leader
Node count: 5
"""


def probed(least: float = 4.0, most: float = 40.0, tick: float | None = 2.0, version: str = "3.8.0") -> Probed:
    return Probed("h:2181", "", least, most, version, "follower", tick)


DOWN = Probed("h:2182", "Connection refused")


@pytest.mark.parametrize(
    ("ttl", "servers", "verdicts"),
    [
        (10.0, [probed(), probed(), probed()], [Verdict.OK]),
        (10.0, [probed(), DOWN], [Verdict.OK]),
        (10.0, [probed(tick=None)], [Verdict.OK, Verdict.UNCHECKED]),
        (10.0, [probed(tick=None), probed()], [Verdict.OK]),
        (2.0, [probed()], [Verdict.WARNING]),  # it becomes 4 s
        (60.0, [probed()], [Verdict.WARNING]),  # it becomes 40 s
        (60.0, [probed(tick=None)], [Verdict.WARNING, Verdict.UNCHECKED]),
        (10.0, [probed(), probed(most=20.0)], [Verdict.FAILED]),
        (10.0, [probed(), probed(least=2.0)], [Verdict.FAILED]),
        (10.0, [probed(least=1.0)], [Verdict.WARNING]),  # who has a shorter ttl is not safe
        (3.0, [probed(least=1.0)], [Verdict.FAILED]),
        (10.0, [DOWN], [Verdict.UNCHECKED]),
    ],
)
def test_what_the_limits_of_a_session_mean(ttl: float, servers: Sequence[Probed], verdicts: list[Verdict]) -> None:
    assert [each.verdict for each in granted_to(ttl, servers)] == verdicts


@pytest.mark.parametrize(
    ("versions", "verdict"),
    [
        (["3.8.0", "3.9.2"], Verdict.OK),
        (["3.8.0", ""], Verdict.OK),
        (["3.10.0"], Verdict.OK),
        (["3.7.1", "3.8.0"], Verdict.WARNING),
        (["3.5.9"], Verdict.WARNING),
        (["3.4.14", "3.8.0"], Verdict.FAILED),
        (["", ""], Verdict.UNCHECKED),
    ],
)
def test_what_versions_mean(versions: list[str], verdict: Verdict) -> None:
    assert judged([*(probed(version=version) for version in versions), DOWN]).verdict is verdict


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ("", (1, 0)),
        ("version=0", (1, 0)),
        ("server.1=a:2888:3888:participant;0.0.0.0:2181\nserver.2=b:2888:3888:participant\nversion=0", (2, 0)),
        ("server.1=a:2888:3888\nserver.2=b:2888:3888\nserver.3=c:2888:3888:observer;2181\nversion=0", (2, 1)),
    ],
)
def test_the_size_of_an_ensemble_by_its_own_list(config: str, size: tuple[int, int]) -> None:
    assert size_of(config) == size


@pytest.mark.parametrize("children", [0, 1, 1000])
@pytest.mark.parametrize("made", [1000, 2**30, 2**31 - 1])
def test_how_many_nodes_were_made_is_read_off_the_stat(made: int, children: int) -> None:
    shown = (2 * made - children + 2**31) % 2**32 - 2**31  # as Java shows it in 32 bits
    assert made_so_far(shown, children) == made


def test_what_a_server_says_is_read() -> None:
    assert version_of(SRVR) == "3.8.0"
    assert fields(SRVR, ": ")["Mode"] == "leader"
    refused = "srvr is not executed because it is not in the whitelist."
    assert version_of(refused) == ""
    assert fields(refused, ": ") == {}
    assert version_of("Zookeeper version: unknown") == ""
    assert fields("clientPort=2181\ntickTime=2000\nmembership: \nserver.1=a:2888", "=")["tickTime"] == "2000"


def test_a_server_is_named_as_in_a_url() -> None:
    assert Server("::1", 2181).shown == "[::1]:2181"
    assert Server("h", 2181).shown == "h:2181"
