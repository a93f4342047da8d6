"""Apache Curator's `LeaderLatch` and coordkit contend in one election, both ways round.

The rule: what one side does is seen by the means of the other: by what the program in Java says, by coordkit's public
names. The pid of each Java is printed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from coordkit import CandidateInfo, LeaderElector, LossReason, Term
from coordkit.backends.zookeeper.layout import Place
from coordkit.testing.contract import Running, eventually
from tests.servers.curator import Latch
from tests.servers.zookeeper import ZooKeeper, ZooKeeperCluster
from tests.support.children import Child, say

pytestmark = [pytest.mark.backend("zookeeper"), pytest.mark.timeout(100)]

CHROOT, ELECTION = "/jobs", "reports/nightly"
PATH = Place(CHROOT, ELECTION).path
TTL = 6.0
SESSION = 2.0  # s: of a program of Curator that is to die
AT_ONCE = 2.5  # s: on a busy machine; a lease runs out much later
TICKS = 1.0  # s: the servers end sessions once in a tick, and a busy machine is late


Start = Callable[..., Latch]
Candidate = Callable[..., LeaderElector]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(zookeeper: ZooKeeper[Any], stack: ExitStack) -> Start:
    """Starts programs of Curator, each when it is in the queue."""

    def start(name: str, **options: float) -> Latch:
        latch = stack.enter_context(Latch(",".join(zookeeper.endpoints), PATH, name, **options))
        latch.wait_for("created")
        print(f"{name}: pid {latch.pid}")
        return latch

    return start


@pytest.fixture
def candidate(zookeeper: ZooKeeper[Any], stack: ExitStack) -> Candidate:
    """Makes electors, which are closed after the test."""
    zookeeper.put(CHROOT)

    def candidate(label: str = "", *, ttl: float = TTL, **options: Any) -> LeaderElector:
        elector = LeaderElector(zookeeper.url(CHROOT), ELECTION, ttl=ttl, label=label, **options)
        stack.callback(elector.close)
        return elector

    return candidate


def queued(elector: LeaderElector, number: int) -> None:
    eventually(lambda: len(elector.candidates()) == number, f"{number} in the queue")


def labels(elector: LeaderElector) -> list[str]:
    return [each.label for each in elector.candidates()]


def leads(elector: LeaderElector, term: Term) -> bool:
    leader = elector.leader()
    return leader is not None and (leader.token, leader.candidate) == (term.token, term.candidate)


def owned(zookeeper: ZooKeeper[Any]) -> list[tuple[str, int]]:
    """Name and czxid of each candidate's node, in the order in which they were made."""
    return [(Path(node.path).name, node.czxid) for node in zookeeper.nodes(PATH) if node.ephemeral_owner]


# -- Curator leads ---------------------------------------------------------------------------------------------------


def test_curator_leads_and_coordkit_follows(zookeeper: ZooKeeper[Any], start: Start, candidate: Candidate) -> None:
    elector = candidate("ours")
    alice = start("alice")
    alice.wait_for("leader")
    ((name, czxid),) = owned(zookeeper)
    assert elector.try_campaign() is None
    leader = elector.leader()
    assert leader is not None
    assert leader.candidate == CandidateInfo(name, "alice")
    assert (int(leader.token), leader.metadata) == (czxid, "")
    queued(elector, 1)
    assert elector.candidates() == (leader.candidate,)

    waiting = Running(elector.campaign)
    queued(elector, 2)
    assert labels(elector) == ["alice", "ours"]
    eventually(lambda: len(alice.participants()) == 2, "alice's server knows of us")
    assert not waiting.done
    alice.close()
    term = waiting.result(AT_ONCE)
    assert term.token > leader.token
    assert leads(elector, term)
    term.confirm()
    term.resign()
    assert owned(zookeeper) == []


def test_curator_is_killed_and_coordkit_leads_after_its_session(start: Start, candidate: Candidate) -> None:
    elector = candidate()
    alice = start("alice", session=SESSION)
    alice.wait_for("leader")
    leader = elector.leader()
    assert leader is not None
    waiting = Running(elector.campaign)
    queued(elector, 2)
    killed = time.monotonic()
    os.kill(alice.pid, signal.SIGKILL)
    term = waiting.result(SESSION + TICKS + AT_ONCE)
    waited = time.monotonic() - killed
    print(f"coordkit leads {waited:.2f} s after kill -9, with a session of {SESSION:g} s")
    assert waited > SESSION / 2, "it came before the servers could know"
    assert term.token > leader.token
    assert leads(elector, term)
    term.resign()


def test_curator_is_paused_and_comes_back_behind_coordkit(start: Start, candidate: Candidate) -> None:
    elector = candidate("ours")
    alice = start("alice", session=SESSION)
    alice.wait_for("leader")
    waiting = Running(elector.campaign)
    queued(elector, 2)
    alice.pause()
    term = waiting.result(SESSION + TICKS + AT_ONCE)
    assert labels(elector) == ["ours"]
    alice.resume()
    alice.wait_for("not-leader")
    alice.wait_for("created")
    assert labels(elector) == ["ours", "alice"]
    assert not alice.said("leader")
    term.confirm()
    term.resign()
    alice.wait_for("leader", AT_ONCE)


# -- coordkit leads --------------------------------------------------------------------------------------------------


def test_coordkit_leads_and_curator_follows(zookeeper: ZooKeeper[Any], start: Start, candidate: Candidate) -> None:
    elector = candidate("ours")
    term = elector.campaign(timeout=AT_ONCE)
    alice = start("alice")
    (own, czxid), (name, others) = owned(zookeeper)
    assert czxid == int(term.token)
    assert elector.candidates() == (term.candidate, CandidateInfo(name, "alice"))
    assert leads(elector, term)
    first, second = alice.participants()
    assert term.candidate.id in first
    assert first.endswith("*")
    assert second == "alice"
    assert not alice.said("leader")

    term.resign()
    resigned = time.monotonic()
    alice.wait_for("leader", AT_ONCE)
    print(f"Curator leads {time.monotonic() - resigned:.3f} s after resign")
    leader = elector.leader()
    assert leader is not None
    assert (int(leader.token), leader.candidate.label) == (others, "alice")
    assert alice.participants() == ["alice*"]
    alice.close()
    assert elector.leader() is None
    elector.campaign(timeout=AT_ONCE).resign()
    assert own not in dict(owned(zookeeper))


def test_coordkit_is_killed_and_curator_leads_after_its_ttl(
    zookeeper: ZooKeeper[Any], start: Start, stack: ExitStack
) -> None:
    zookeeper.put(CHROOT)
    leader = stack.enter_context(Child(leads_until_it_is_killed, zookeeper.url(CHROOT), SESSION))
    leader.expect("leads")
    alice = start("alice")
    assert not alice.said("leader")
    killed = time.monotonic()
    leader.send(signal.SIGKILL)
    alice.wait_for("leader", SESSION + TICKS + AT_ONCE)
    waited = time.monotonic() - killed
    print(f"Curator leads {waited:.2f} s after kill -9, with a ttl of {SESSION:g} s")
    assert waited > SESSION / 2


def leads_until_it_is_killed(url: str, ttl: str) -> None:
    """As any program, in the election of these tests."""
    with LeaderElector(url, ELECTION, ttl=float(ttl)) as term:
        say("leads", int(term.token))
        term.wait_ended()


def test_curator_is_woken_after_many_renewals_and_a_proclamation(
    zookeeper: ZooKeeper[Any], start: Start, candidate: Candidate
) -> None:
    """It watches the node before its own once: whoever writes there uses that up, and it waits for ever."""
    elector = candidate(ttl=SESSION)
    term = elector.campaign(timeout=AT_ONCE)
    alice = start("alice")
    before = zookeeper.nodes(PATH)
    renewed(term, 5)
    term.proclaim("here")
    term.confirm()
    renewed(term, 6)
    term.proclaim("there")
    assert zookeeper.nodes(PATH) == before, "an election's nodes are never written to"
    leader = elector.leader()
    assert leader is not None
    assert leader.metadata == "there"
    assert not alice.said("leader")
    term.resign()
    alice.wait_for("leader", AT_ONCE)
    leader = elector.leader()
    assert leader is not None
    assert (leader.candidate.label, leader.metadata) == ("alice", ""), "what another has proclaimed is not Curator's"


def renewed(term: Term, times: int) -> None:
    """Wait until the term has been prolonged so often."""

    def deadline() -> float:
        return time.monotonic() + term.remaining()

    for number in range(times):
        last = deadline()
        eventually(lambda last=last: deadline() > last + SESSION / 12, f"renewal {number + 1}", SESSION)  # type: ignore[misc]


def test_coordkits_node_is_deleted_by_hand_and_curator_leads_at_once(
    zookeeper: ZooKeeper[Any], start: Start, candidate: Candidate
) -> None:
    elector = candidate("ours")
    term = elector.campaign(timeout=AT_ONCE)
    alice = start("alice")
    zookeeper.delete(f"{PATH}/{owned(zookeeper)[0][0]}")
    assert term.wait_ended(AT_ONCE)
    assert term.reason is LossReason.REVOKED
    alice.wait_for("leader", AT_ONCE)
    again = Running(elector.campaign)
    queued(elector, 2)
    assert labels(elector) == ["alice", "ours"]
    alice.close()
    again.result(AT_ONCE).resign()


# -- both --------------------------------------------------------------------------------------------------------------


def test_a_mixed_queue_is_served_in_the_order_of_arrival(
    zookeeper: ZooKeeper[Any], start: Start, candidate: Candidate
) -> None:
    watching = candidate("watching")
    ours = [candidate(f"c{number}", ttl=TTL + number) for number in range(3)]  # each with a session of its own
    contenders: list[Latch | Running[Term]] = [Running(ours[0].campaign)]
    queued(watching, 1)
    contenders.append(start("j0"))
    contenders.append(Running(ours[1].campaign))
    queued(watching, 3)
    contenders.append(start("j1"))
    contenders.append(Running(ours[2].campaign))
    queued(watching, 5)
    expected = ["c0", "j0", "c1", "j1", "c2"]
    assert labels(watching) == expected
    queue = [czxid for _, czxid in owned(zookeeper)]
    tokens = []
    for number, contender in enumerate(contenders):
        leave = contender.close if isinstance(contender, Latch) else contender.result(AT_ONCE).resign
        if isinstance(contender, Latch):
            contender.wait_for("leader", AT_ONCE)
        for later in contenders[number + 1 :]:
            assert not (later.said("leader") if isinstance(later, Latch) else later.done)
        leader = watching.leader()
        assert leader is not None
        assert labels(watching) == expected[number:]
        tokens.append(int(leader.token))
        leave()
    assert tokens == queue
    assert watching.leader() is None


def test_an_observer_sees_both_and_vacancies(start: Start, candidate: Candidate) -> None:
    elector = candidate("ours")
    states = iter(elector.observe())

    def following() -> str | None:
        seen = Running(lambda: next(states)).result(AT_ONCE)
        return None if seen is None else seen.candidate.label

    assert following() is None
    alice = start("alice")
    assert following() == "alice"
    waiting = Running(elector.campaign)
    queued(elector, 2)
    bob = start("bob")
    alice.close()
    assert following() == "ours"
    waiting.result(AT_ONCE).resign()
    assert following() == "bob"
    bob.close()
    assert following() is None


@pytest.mark.local_cluster
def test_an_election_that_curator_has_made_goes_when_it_is_empty_and_comes_again(
    stack: ExitStack, tmp_path: Path
) -> None:
    """Curator makes the election's node as a container, which the servers delete some time after its last child."""
    with ZooKeeperCluster(tmp_path, 1, flags=["-Dznode.container.checkIntervalMs=100"]) as cluster:
        cluster.put(CHROOT)
        elector = LeaderElector(cluster.url(CHROOT), ELECTION, ttl=TTL)
        stack.callback(elector.close)
        states = iter(elector.observe())
        assert next(states) is None
        tokens = []
        for _ in range(2):
            with Latch(cluster.endpoints[0], PATH, "alice") as alice:
                print(f"alice: pid {alice.pid}")
                alice.wait_for("leader")
                seen = Running(lambda: next(states)).result(AT_ONCE)
                assert seen is not None
                waiting = Running(elector.campaign)
                queued(elector, 2)
                alice.close()
            term = waiting.result(AT_ONCE)
            tokens += [int(seen.token), int(term.token)]
            assert Running(lambda: next(states)).result(AT_ONCE) is not None
            term.resign()
            assert Running(lambda: next(states)).result(AT_ONCE) is None
            eventually(lambda: cluster.nodes(PATH) == [], "the servers delete the empty election")
            assert elector.leader() is None
            assert elector.candidates() == ()
        with elector.lead(timeout=AT_ONCE) as term:
            tokens.append(int(term.token))
        assert tokens == sorted(set(tokens))
