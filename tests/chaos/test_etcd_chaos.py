"""Many processes on a real etcd of three members, while they and the members are killed, paused and cut off.

The journal is the judge. What etcd promises is stated as bounds: how long nobody leads after a crash on a calm cluster,
how long at most under all this trouble, and that nothing is left behind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordkit.audit import Report
from coordkit.model import encode_election
from coordkit.testing.contract import eventually
from tests.chaos.members import MAJORITY, MINORITY_KINDS, Trouble
from tests.chaos.run import LONGER, PROCESSES, Run, felled, seed
from tests.servers.etcd import Etcd

pytestmark = [pytest.mark.chaos, pytest.mark.backend("etcd")]

ELECTIONS = ("a", "a/b", "ab", "b", "b/a", "c")
TERMS = 100
FELLED = 30  # terms ended by a kill or a pause
EACH = 6  # times each kind of trouble that a minority can have
TTL = 2.0
# A crash costs the lease, which etcd ends within a second after its time, and on servers before 3.4.31 once more the
# time of the lease, for the record.
TAKEOVER = 2 * TTL * 1.02 + 1.0 + 2.0
PATIENCE = 30.0  # s without a leader of an election, when leaders, waiters and members fall in a row


@pytest.mark.timeout(300 + LONGER)
def test_no_two_leaders_while_candidates_and_members_fall(etcd: Etcd[Any], tmp_path: Path) -> None:
    number = seed()
    url = etcd.url("chaos")
    with Run(tmp_path, url, ELECTIONS, ttl=TTL, seed=number, fells=0.25, stays=0.15, patience=PATIENCE) as run:
        with Trouble(etcd, ttl=TTL, seed=number) as trouble:

            def enough(report: Report) -> bool:
                trouble.check()
                seen = all(trouble.counts[kind] >= EACH for kind in MINORITY_KINDS) and trouble.counts[MAJORITY] > 1
                return seen and report.terms >= TERMS and felled(report) >= FELLED

            run.until(enough)
        run.calm()
        takeovers = [run.takeover(election) for election in ELECTIONS[:2]]
        codes = run.leave()
    report = run.report()
    seen = {
        "felled": felled(report),
        "kills": run.kills,
        "pauses": run.pauses,
        "trouble": trouble.counts,
        "takeovers": takeovers,
    }
    print(json.dumps(report.as_json() | seen, indent=2))
    assert report.ok, "\n".join(each.message for each in report.violations)
    assert report.terms >= TERMS
    assert felled(report) >= FELLED
    assert max(takeovers) < TAKEOVER, takeovers
    assert codes == [0] * PROCESSES
    assert "Traceback" not in run.complaints(), run.complaints()
    assert run.witnessed() > TERMS / 2
    assert report.renewals > EACH
    eventually(lambda: not etcd.leases(), "no lease is left, once those of the killed are over", TTL + 2.0)
    left = etcd.keys()
    records = {f"chaos/{encode_election(election)}.coordkit".encode() for election in ELECTIONS}
    assert {key.key for key in left} <= records
