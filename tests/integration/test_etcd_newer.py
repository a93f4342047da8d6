"""From one release of etcd to a newer one under a term, and candidates who trust its leases beside those who do not.

The rule: all but those who trust keep records, whatever the version; and whoever finds one respects it. So both kinds
may follow each other in one election.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coordkit import LeaderElector, Session, TermState
from coordkit.testing.contract import eventually
from tests.expected import PLATFORM
from tests.integration import etcd_newer_scenes as scenes
from tests.servers.catalogue import NEWER
from tests.servers.etcd import EtcdCluster
from tests.support.children import Child
from tests.support.records import TRUST, Seen, records, trusts

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.local_cluster, pytest.mark.timeout(100)]

PATIENCE = 30.0  # s, for what takes a moment
AT_ONCE = 5.0  # s, on a busy machine
LONG = 60.0  # a ttl that nobody waits for: who follows before it was told
SHORT = 3.0  # a ttl that is waited for
REST = 1.5  # s: etcd ends leases twice a second, and looks at a follower's clock

kinds = pytest.mark.parametrize("options", ["", TRUST], ids=["keeps-records", "trusts"])


@pytest.fixture
def older(tmp_path: Path) -> Iterator[EtcdCluster]:
    """Three members of the machine's release."""
    with EtcdCluster(tmp_path / "etcd", 3) as cluster:
        if not cluster.version.startswith("3.4."):
            pytest.skip(f"{PLATFORM}its own etcd, {cluster.version}, is the newer one")
        yield cluster


def test_members_are_upgraded_one_by_one_under_a_term(older: EtcdCluster) -> None:
    with Session(older.url()).open() as before:
        elector = LeaderElector(before, scenes.ELECTION, ttl=10.0)
        term = elector.campaign(timeout=PATIENCE)
        recorded = records(older)
        assert [(each.candidate, each.state) for each in recorded] == [(term.candidate.id, "leading")]
        for member in older.members:
            older.upgrade(member, NEWER)
            older.ready()
            term.confirm()
            # Another drift makes it another session, of its own connections.
            with Session(older.url(), drift=0.02).open() as fresh:
                assert not trusts(fresh.guarantees)
                seen = LeaderElector(fresh, scenes.ELECTION, ttl=10.0).leader()
                assert seen is not None
                assert (seen.candidate.id, seen.token) == (term.candidate.id, term.token)
            assert records(older) == recorded
        assert not older.version.startswith("3.4.")
        left, asked = term.remaining(), time.monotonic()
        eventually(lambda: term.remaining() > left - (time.monotonic() - asked) + 1.0, "it is renewed", 10.0)
        assert (term.valid, term.state) == (True, TermState.LEADING)
        term.resign()
        assert [(each.candidate, each.state) for each in records(older)] == [(term.candidate.id, "resigned")]
        with elector.lead(timeout=AT_ONCE) as again:
            assert again.token > term.token
            assert [(each.candidate, each.state) for each in records(older)] == [(again.candidate.id, "leading")]


class Candidate:
    """One process that contends."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def leads(self, timeout: float = AT_ONCE) -> int:
        """Its token, once it leads."""
        return int(self.child.expect("leads", timeout))

    def resigns(self) -> None:
        """Done when this returns."""
        self.child.tell("resign")
        self.child.expect("resigned")

    def ends(self) -> None:
        """Its session is closed, and nothing has gone wrong."""
        self.child.tell("end")
        assert self.child.exit_code() == 0, self.child.errors


class Seat:
    """The election of the scenes, and who contends for it."""

    def __init__(self, etcd: EtcdCluster, ttl: float) -> None:
        self._etcd = etcd
        self._ttl = ttl

    @contextmanager
    def candidate(self, options: str) -> Iterator[Candidate]:
        """One more process, with these options in its URL."""
        with Child(scenes.obey, self._etcd.url() + options, self._ttl) as child:
            child.expect("trusts" if options else "keeps-records")
            yield Candidate(child)

    def waits(self, candidate: Candidate) -> None:
        """Let it campaign behind the leader."""
        candidate.child.tell("campaign")
        eventually(lambda: len(self.entries()) == 2, "it waits", PATIENCE)

    def entries(self) -> list[int]:
        """The tokens of all candidates, in their order."""
        return [key.create_revision for key in self._etcd.keys(f"{scenes.ELECTION}/")]

    @property
    def record(self) -> Seen | None:
        """If there is one."""
        found = records(self._etcd)
        assert len(found) <= 1
        return found[0] if found else None

    @property
    def state(self) -> str:
        """Of the record."""
        return "" if self.record is None else self.record.state


def test_who_trusts_and_who_does_not_hand_over_at_once(newer_etcd: EtcdCluster) -> None:
    seat = Seat(newer_etcd, LONG)
    with seat.candidate("") as keeping, seat.candidate(TRUST) as trusting:
        trusting.child.tell("campaign")
        tokens = [trusting.leads()]
        assert seat.record is None
        for _ in range(2):
            before = seat.record
            seat.waits(keeping)
            assert seat.record == before, "neither who trusts nor who waits has touched it"
            trusting.resigns()
            tokens.append(keeping.leads())
            assert seat.state == "leading"
            seat.waits(trusting)
            keeping.child.tell("resign")
            tokens.append(trusting.leads())
            keeping.child.expect("resigned")
            assert seat.state == "resigned"
        trusting.resigns()
        assert tokens == sorted(set(tokens))
        assert seat.entries() == []
        keeping.ends()
        trusting.ends()


@kinds
def test_a_crash_costs_one_ttl_where_leases_are_trusted(newer_etcd: EtcdCluster, options: str) -> None:
    seat = Seat(newer_etcd, SHORT)
    with seat.candidate(TRUST) as first, seat.candidate(options) as second:
        first.child.tell("campaign")
        token = first.leads()
        seat.waits(second)
        assert seat.record is None
        killed_at = time.monotonic()
        first.child.process.kill()
        assert second.leads(SHORT + REST + AT_ONCE) > token
        took = time.monotonic() - killed_at
        print(f"without a record: followed after {took:.2f} s, ttl {SHORT:g} s")
        assert took < SHORT + REST, "no more than the lease"
        second.resigns()
        assert seat.state == ("" if options else "resigned")
        second.ends()


@kinds
def test_a_record_that_a_crash_has_left_is_waited_for_once(newer_etcd: EtcdCluster, options: str) -> None:
    seat = Seat(newer_etcd, SHORT)
    with seat.candidate("") as first, seat.candidate(options) as second, seat.candidate(TRUST) as third:
        first.child.tell("campaign")
        tokens = [first.leads()]
        seat.waits(second)
        left = seat.record
        first.child.process.kill()
        eventually(lambda: len(seat.entries()) == 1, "its lease has run out", SHORT + REST + AT_ONCE)
        gone_at = time.monotonic()
        assert seat.record == left
        tokens.append(second.leads(SHORT + REST + AT_ONCE))
        took = time.monotonic() - gone_at
        print(f"with a record: followed {took:.2f} s after the lease was gone, ttl {SHORT:g} s")
        assert took > SHORT - 0.5, "it waits a ttl more, and began to wait when it saw the key go"
        second.resigns()
        closed = seat.record
        assert seat.state == "resigned"
        for candidate in (third, second):
            candidate.child.tell("campaign")
            tokens.append(candidate.leads(SHORT / 2))
            candidate.resigns()
        if options:
            assert seat.record == closed, "nobody waits for it again, and nobody writes it"
        assert tokens == sorted(set(tokens))
        second.ends()
        third.ends()
