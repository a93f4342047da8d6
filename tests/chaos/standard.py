"""The run that every cluster has to stand: candidates and servers fall, and the journal is the judge.

The rule: it goes on until enough terms were felled and each kind of trouble was seen often enough. Then all is calm,
two leaders are killed and followed, and everybody leaves.
"""

from __future__ import annotations

import json
from pathlib import Path

from coordkit.audit import Report
from tests.chaos.members import MAJORITY, Trouble
from tests.chaos.run import PROCESSES, Run, felled

ELECTIONS = ("a", "a/b", "ab", "b", "b/a", "c")
TERMS = 100
FELLED = 30  # terms ended by a kill or a pause
PATIENCE = 30.0  # s without a leader of an election, when leaders, waiters and servers fall in a row


def stand(folder: Path, url: str, trouble: Trouble, *, ttl: float, seed: int, each: int, takeover: float) -> None:
    """`each`: times each kind of trouble is seen. `takeover`: seconds without a leader, at most, once all is calm."""
    with Run(folder, url, ELECTIONS, ttl=ttl, seed=seed, fells=0.25, stays=0.15, patience=PATIENCE) as run:
        with trouble:

            def enough(report: Report) -> bool:
                trouble.check()
                seen = all(trouble.counts[kind] >= each for kind in trouble.kinds) and trouble.counts[MAJORITY] > 1
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
    assert report.ok, "\n".join(violation.message for violation in report.violations)
    assert report.terms >= TERMS
    assert felled(report) >= FELLED
    assert max(takeovers) < takeover, takeovers
    assert codes == [0] * PROCESSES
    assert "Traceback" not in run.complaints(), run.complaints()
    assert run.witnessed() > TERMS / 2
    assert report.renewals > each
