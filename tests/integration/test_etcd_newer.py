"""An etcd that leaves living leases alone, and the way there from one that does not.

The rule: whoever opened a session while an old member was there keeps records until it ends; who opened it later keeps
none, but respects what is recorded. So both kinds contend in one election, and the tests let each follow the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from coordkit import LeaderElector, Session, TermState
from coordkit.backends.etcd.adapter import keeps_leases
from coordkit.testing.contract import eventually
from tests.expected import PLATFORM
from tests.integration import etcd_newer_scenes as scenes
from tests.integration import test_etcd_costs as costs
from tests.servers.catalogue import NEWER
from tests.servers.etcd import EtcdCluster
from tests.support.children import Child
from tests.support.records import Seen, announced, records

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.local_cluster, pytest.mark.timeout(100)]

PATIENCE = 30.0  # s, for what takes a moment
AT_ONCE = 5.0  # s, on a busy machine
LONG = 60.0  # a ttl that nobody waits for: who follows before it was told
SHORT = 3.0  # a ttl that is waited for
REST = 1.5  # s: etcd ends leases twice a second, and looks at a follower's clock


def one_by_one(cluster: EtcdCluster) -> Iterator[int]:
    """Upgrade a member, wait until all are ready, and tell how many have been; then the next."""
    for number, member in enumerate(cluster.members, start=1):
        cluster.upgrade(member, NEWER)
        cluster.ready()
        yield number


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Callable[[int], EtcdCluster]]:
    """Makes clusters of the machine's release, whose etcd needs records."""
    with ExitStack() as stack:

        def make(size: int) -> EtcdCluster:
            cluster = stack.enter_context(EtcdCluster(tmp_path / "etcd", size))
            if keeps_leases(cluster.version):
                pytest.skip(f"{PLATFORM}its own etcd, {cluster.version}, needs no records")
            return cluster

        yield make


def test_acquiring_and_releasing_costs_two_writes(newer_etcd: EtcdCluster) -> None:
    assert not costs.needs_records(newer_etcd)
    costs.test_acquiring_and_releasing_costs_two_writes(newer_etcd)
    assert records(newer_etcd) == []


def test_members_are_upgraded_one_by_one_under_a_term(older: Callable[[int], EtcdCluster]) -> None:
    cluster = older(3)
    with Session(cluster.url()).open() as before:
        elector = LeaderElector(before, scenes.ELECTION, ttl=10.0)
        term = elector.campaign(timeout=PATIENCE)
        assert announced(before.guarantees)
        for upgraded in one_by_one(cluster):
            term.confirm()
            # Another drift makes it another session, of its own connections.
            with Session(cluster.url(), drift=0.02).open() as fresh:
                assert announced(fresh.guarantees) == (upgraded < 3), "until the last one is of the newer release"
        assert keeps_leases(cluster.version)
        left, asked = term.remaining(), time.monotonic()
        eventually(lambda: term.remaining() > left - (time.monotonic() - asked) + 1.0, "it is renewed", 10.0)
        assert (term.valid, term.state) == (True, TermState.LEADING)
        (record,) = records(cluster)
        assert (record.candidate, record.state) == (term.candidate.id, "leading")
        term.resign()
        with elector.lead(timeout=PATIENCE) as again:
            assert announced(before.guarantees), "it is the same session"
            (record,) = records(cluster)
            assert (record.candidate, record.state) == (again.candidate.id, "leading")
        (resigned,) = records(cluster)
        assert resigned.state == "resigned"
        with Session(cluster.url(), drift=0.02).open() as after:
            for _ in range(2):
                with LeaderElector(after, scenes.ELECTION, ttl=LONG).lead(timeout=AT_ONCE) as last:
                    assert last.token > again.token
            assert records(cluster) == [resigned], "it writes none, and leaves alone what it finds"


class Two:
    """Two processes on a cluster of one member: one began before its upgrade and keeps records, one after it."""

    def __init__(self, cluster: EtcdCluster, stack: ExitStack, ttl: float) -> None:
        self.cluster = cluster
        self._stack = stack
        self._ttl = ttl
        self.keeping = self._begun("keeps-records")
        (_,) = one_by_one(cluster)
        self.sparing = self.another()

    def another(self) -> Child:
        """One more that begins now."""
        return self._begun("keeps-none")

    def waits(self, candidate: Child) -> None:
        """Let it campaign behind the leader."""
        candidate.tell("campaign")
        eventually(lambda: len(self.entries()) == 2, "it waits", PATIENCE)

    def entries(self) -> list[int]:
        """The tokens of all candidates, in their order."""
        return [key.create_revision for key in self.cluster.keys(f"{scenes.ELECTION}/")]

    @property
    def record(self) -> Seen:
        """The one there is."""
        (record,) = records(self.cluster)
        return record

    def _begun(self, says: str) -> Child:
        child = self._stack.enter_context(Child(scenes.obey, self.cluster.url(), self._ttl))
        child.expect(says)
        return child


def leads(candidate: Child, timeout: float = AT_ONCE) -> int:
    """Its token, once it leads."""
    return int(candidate.expect("leads", timeout))


def test_who_keeps_records_and_who_does_not_hand_over_at_once(older: Callable[[int], EtcdCluster]) -> None:
    with ExitStack() as stack:
        two = Two(older(1), stack, LONG)
        two.keeping.tell("campaign")
        tokens = [leads(two.keeping)]
        for _ in range(2):
            assert two.record.state == "leading"
            two.waits(two.sparing)
            two.keeping.tell("resign")
            tokens.append(leads(two.sparing))
            two.keeping.expect("resigned")
            resigned = two.record
            assert resigned.state == "resigned"
            two.waits(two.keeping)
            assert two.record == resigned, "who keeps none has not touched it"
            two.sparing.tell("resign")
            tokens.append(leads(two.keeping))
            two.sparing.expect("resigned")
        assert tokens == sorted(set(tokens))
        assert two.record.state == "leading"
        for child, last_order in ((two.sparing, ""), (two.keeping, "resign")):
            for order in filter(None, (last_order, "end")):
                child.tell(order)
            assert child.exit_code() == 0, child.errors
        assert two.record.state == "resigned"
        assert two.entries() == []


def test_who_follows_a_crash_waits_for_a_record_once(older: Callable[[int], EtcdCluster]) -> None:
    with ExitStack() as stack:
        two = Two(older(1), stack, SHORT)
        two.sparing.tell("campaign")
        tokens = [leads(two.sparing)]
        two.waits(two.keeping)
        assert records(two.cluster) == []

        killed_at = time.monotonic()
        two.sparing.process.kill()
        tokens.append(leads(two.keeping, SHORT + REST + AT_ONCE))
        took = time.monotonic() - killed_at
        print(f"without a record: followed after {took:.2f} s, ttl {SHORT:g} s")
        assert took < SHORT + REST, "no more than the lease"
        assert two.record.state == "leading"

        last = two.another()
        two.waits(last)
        two.keeping.process.kill()
        eventually(lambda: len(two.entries()) == 1, "its lease has run out", SHORT + REST + AT_ONCE)
        gone_at = time.monotonic()
        tokens.append(leads(last, SHORT + REST + AT_ONCE))
        took = time.monotonic() - gone_at
        print(f"with a record: followed {took:.2f} s after the lease was gone, ttl {SHORT:g} s")
        assert took > SHORT - 0.5, "it waits a ttl more, and began to wait when it saw the key go"
        last.tell("resign")
        last.expect("resigned")
        assert two.record.state == "resigned"
        closed = two.record

        for _ in range(2):
            last.tell("campaign")
            tokens.append(leads(last, SHORT / 2))
            last.tell("resign")
            last.expect("resigned")
        assert two.record == closed, "nobody waits for it again, and nobody writes it"
        assert tokens == sorted(set(tokens))
        last.tell("end")
        assert last.exit_code() == 0, last.errors
