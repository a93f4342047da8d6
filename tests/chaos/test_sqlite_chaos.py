"""Many processes on one SQLite file under `kill -9` and pauses beyond the ttl; the journal is the judge.

Not covered by the backend, and so bounded here: a process stopped inside a transaction keeps everybody out until it
goes on.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from coordkit.audit import Report
from tests.chaos.results import Results
from tests.chaos.run import ALLOWED, PROCESSES, Run, felled, seed

TERMS = 200
FELLED = 60  # terms ended by a kill or a pause
TTL = 0.8
TAKEOVER = TTL * 1.02 + 0.5  # s
PATIENCE = 20.0  # s without a new leader: then it hangs


@pytest.mark.chaos
@pytest.mark.backend("sqlite")
@pytest.mark.timeout(ALLOWED)
def test_no_two_leaders_under_kills_and_pauses(tmp_path: Path) -> None:
    def enough(report: Report) -> bool:
        return report.terms >= TERMS and felled(report) >= FELLED

    url = f"sqlite://{tmp_path}/leader.db"
    number = seed()
    with Run(tmp_path, url, ["chaos"], ttl=TTL, seed=number, fells=0.5, patience=PATIENCE) as run:
        run.until(enough)
        codes = run.leave()
        results = Results.of("sqlite", sqlite3.sqlite_version, run, seed=number, seconds=run.seconds)
    results.write(lambda _: TAKEOVER)
    results.check()
    report = results.report
    # Here even [sent, local end] never overlap: a promise is asked for only after its row was seen released or over.
    assert report.in_flight == 0
    assert report.terms >= TERMS
    assert felled(report) >= FELLED
    assert codes == [0] * PROCESSES
    assert not run.traceback(), run.traceback()
    assert run.witnessed() > TERMS / 2
