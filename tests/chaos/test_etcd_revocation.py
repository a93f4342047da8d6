"""A leader of etcd that was stopped and goes on revokes leases that the new one has kept alive.

3.4.23 does, and 3.5.16 still does: the old leader finds in its memory that they have run out, and before it can use
the answer to its own proposals it has become a follower, who passes them on. So a coordkit leader's key goes while its
lease is good for seconds. The rule that is shown: its successor waits until the old one must be over, by the record;
and without the record, where its leases are trusted, two lead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from coordkit.audit import Kind, Report, Span, judge, parse
from coordkit.testing.contract import eventually
from tests.chaos import revocation_scenes as scenes
from tests.servers.catalogue import NEWER
from tests.servers.etcd import Etcd
from tests.servers.proxy import Proxy
from tests.support.children import Child
from tests.support.clusters import of_newer_release
from tests.support.records import TRUST

pytestmark = [pytest.mark.chaos, pytest.mark.backend("etcd"), pytest.mark.timeout(300)]

ELECTIONS = tuple(f"e{number}" for number in range(6))  # one lease alone is rarely revoked, most of several are
ROUNDS = 6  # at most, until the revocation was met: mostly it is in the first
TTL = 6.0
DELAY = 0.05  # s from the leaders to etcd, and back: so they are told of their loss later than their successors are
SOON = 3.0  # s: for what happens at once, with that delay, on a busy machine
# A leader of etcd revokes 16 leases at a time. What it proposes before it notices that it leads no more is lost, and
# given up after 7 s; what comes after these 16 is passed on to the new leader. So some more leases go before ours.
IN_VAIN = 24
GIVEN_UP = 7.0


@dataclass(frozen=True, slots=True)
class Met:
    """A round: what the journal says, and each term whose living lease was revoked, with the one that came after it."""

    report: Report
    revoked: tuple[tuple[Span, Span], ...]


def stop_and_resume_the_leader(etcd: Etcd[Any], folder: Path, options: str) -> Met:
    """One round, with candidates whose URLs have these options."""
    folder.mkdir()
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in etcd.members]
        for proxy in proxies:
            proxy.delay(DELAY)
        slow = f"etcd://{','.join(f'{proxy.host}:{proxy.port}' for proxy in proxies)}/{folder.name}"
        env = {"COORDKIT_JOURNAL": str(folder / "journal")}

        def play(url: str) -> Child:
            return stack.enter_context(Child(scenes.lead_all, url, options, TTL, *ELECTIONS, env=env))

        leader = play(slow)
        for _ in ELECTIONS:
            leader.expect("leads")
        waiter = play(etcd.url(folder.name))
        eventually(lambda: entries(etcd, folder.name) == 2 * len(ELECTIONS), "all wait", within=30.0)
        for _ in range(IN_VAIN):
            etcd.ctl("lease", "grant", f"{TTL / 2:.0f}")
        old = etcd.leader()
        old.pause()
        old.cut_off()  # else the news of the new leader lies in its sockets, and comes first
        etcd.leader(other_than=old)
        time.sleep(TTL + 1.0)  # by the old leader's memory all leases have run out then; nobody tells
        old.resume()
        time.sleep(0.5)  # it looks for such leases twice a second
        old.rejoin()
        lost = set(losses(leader))
        led: set[str] = set()
        while not led >= lost:  # the old leader tells nobody that it has been told
            led |= wins(waiter)
        leader.tell()  # it resigns those that were left alone
        while not led >= set(ELECTIONS):
            led |= wins(waiter)
        assert leader.exit_code() == 0, leader.errors
        waiter.tell()
        assert waiter.exit_code() == 0, waiter.errors
    records, cut = parse((folder / "journal").read_bytes())
    report = judge(records, cut=cut)
    terms = [[span for span in report.spans if span.election == election] for election in ELECTIONS]
    revoked = tuple(
        (span, after)
        for each in terms
        for span, after in pairwise(sorted(each, key=lambda span: span.token))
        if span.reason == "revoked" and span.until < span.deadline
    )
    print(f"{folder.name}: {len(revoked)} living leases revoked, of {len(ELECTIONS)}")
    return Met(report, revoked)


def losses(leader: Child) -> Iterator[str]:
    """The elections that it has lost by now: all, or those that it tells within a moment."""
    end = time.monotonic() + GIVEN_UP + SOON
    left = set(ELECTIONS)
    while left and time.monotonic() < end:  # some may be left alone
        if leader.quiet():
            time.sleep(0.01)
        else:
            election, _ = leader.expect("lost").split()
            left.remove(election)
            yield election


def wins(waiter: Child) -> set[str]:
    """One more election that it leads; none if the next line is of a loss: it may be revoked as well."""
    word, election, _ = waiter.line(2.1 * TTL + SOON).split()
    return {election} if word == "leads" else set()


def entries(etcd: Etcd[Any], prefix: str) -> int:
    return sum(key.lease != 0 for key in etcd.keys(f"{prefix}/"))


@pytest.fixture(
    scope="module",
    params=["", pytest.param(NEWER, marks=pytest.mark.local_cluster)],
    ids=["the-machines-release", NEWER],
)
def etcd_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd[Any]]:
    """Three members of the machine's release, and of a newer one. `etcd` is made of it."""
    if not request.param:
        yield request.getfixturevalue("etcd_cluster")  # that of all tests
        return
    with of_newer_release(tmp_path_factory.mktemp("etcd"), 3) as cluster:
        yield cluster


def test_who_follows_a_leader_whose_living_lease_was_revoked_waits_for_it(etcd: Etcd[Any], tmp_path: Path) -> None:
    for number in range(1, ROUNDS + 1):
        met = stop_and_resume_the_leader(etcd, tmp_path / f"round-{number}", "")
        report = met.report
        assert report.ok, "\n".join(each.message for each in report.violations)
        for span, after in met.revoked:  # not by luck, nor because the old leader was told in time
            early, late = span.deadline - span.until, after.since - span.deadline
            print(f"{span.election}: told {early:.2f} s before its deadline, followed {late:.2f} s after it")
            assert after.since >= span.deadline, span
            assert any(record["event"] == "notified" for record in span.records), span
        if met.revoked:
            return
    pytest.fail(f"no living lease was revoked in {ROUNDS} rounds")


def test_who_trusts_its_leases_leads_beside_another(etcd: Etcd[Any], tmp_path: Path) -> None:
    for number in range(1, ROUNDS + 1):
        met = stop_and_resume_the_leader(etcd, tmp_path / f"trusting-{number}", TRUST)
        overlaps = [each for each in met.report.violations if each.kind is Kind.OVERLAP]
        print(f"{len(overlaps)} overlaps:", *(each.message for each in overlaps), sep="\n")
        assert {each.election for each in overlaps} <= {span.election for span, _ in met.revoked}
        if overlaps:
            return
    pytest.fail(f"nobody overlapped in {ROUNDS} rounds: the other test proves nothing")
