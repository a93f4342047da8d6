"""What a run has shown, as one JSON file for each backend: `docs/faults.md` is made of them.

The rule: what was seen is written before it is judged, so that a run that fails tells as much. Durations in seconds.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordkit.audit import Kind, Report
from tests.chaos.recovery import Attribution, attribute
from tests.chaos.run import PROCESSES, Run
from tests.chaos.schedule import OF_CANDIDATES, OF_LINKS
from tests.chaos.writes import Writes
from tests.support.children import ROOT

FOLDER = ROOT / ".cache" / "reports" / "chaos"


@dataclass(frozen=True, slots=True)
class Results:
    """Of a run from which everybody has gone. `left`: what is left in the store. `takeovers`: kills in a calm."""

    backend: str
    server: str
    seed: int
    ttl: float
    seconds: float
    elections: int
    report: Report
    found: Attribution
    writes: Writes
    takeovers: Sequence[float]
    left: Sequence[str]

    @classmethod
    def of(
        cls,
        backend: str,
        server: str,
        run: Run,
        *,
        seed: int,
        seconds: float,
        takeovers: Sequence[float] = (),
        left: Sequence[str] = (),
    ) -> Results:
        """All that is on file of this run, judged."""
        report = run.report()
        found = attribute(report.spans, run.faults.read(), run.ttl)
        elections = len(run.elections)
        return cls(
            backend,
            server,
            seed,
            run.ttl,
            seconds,
            elections,
            report,
            found,
            run.writes(),
            tuple(takeovers),
            tuple(left),
        )

    @property
    def felled(self) -> int:
        """Terms ended by kills, pauses and the like, and by bad links."""
        return felled(self.found)

    def as_json(self, bound: Callable[[str], float]) -> dict[str, object]:
        """`bound`: of each kind of fault."""
        kinds = self.found.kinds
        return {
            "backend": self.backend,
            "server": self.server,
            "python": platform.python_version(),
            "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
            "load": [round(load, 1) for load in os.getloadavg()],  # of all that ran on the machine, 1, 5 and 15 minutes
            "seed": self.seed,
            "ttl": self.ttl,
            "seconds": round(self.seconds, 1),
            "processes": PROCESSES,
            "elections": self.elections,
            "terms": self.report.terms,
            "renewals": self.report.renewals,
            "ended_by": dict(self.found.ended_by),
            "felled": self.felled,
            "false_step_downs": sum(each.false_step_downs for each in kinds.values()),
            "faults": {kind: each.as_json(bound(kind)) for kind, each in sorted(kinds.items())},
            "takeovers_in_calm": [round(each, 3) for each in self.takeovers],
            "overlaps": _count(self.report, Kind.OVERLAP),
            "falling_tokens": _count(self.report, Kind.TOKEN),
            "writes": self.writes.as_json(),
            "violations": [each.message for each in self.report.violations] + list(self.writes.wrong),
            "leftovers": list(self.left),
        }

    def write(self, bound: Callable[[str], float], *, replayed: bool = False) -> Path:
        """Print them, and put them into their file; of a schedule that was given, beside it."""
        text = json.dumps(self.as_json(bound), indent=2)
        print(text)
        FOLDER.mkdir(parents=True, exist_ok=True)
        file = FOLDER / f"{self.backend}{'-replayed' if replayed else ''}.json"
        file.write_text(text + "\n", encoding="utf-8")
        return file

    def check(self) -> None:
        """No promise was broken, and nothing is left."""
        assert self.report.ok, "\n".join(violation.message for violation in self.report.violations)
        assert not self.writes.wrong, "\n".join(self.writes.wrong)
        assert self.writes.stale_accepted == 0
        assert self.writes.accepted > self.report.terms / 2
        assert not self.left, self.left


def felled(found: Attribution) -> int:
    """Terms ended by kills, pauses and the like, and by bad links."""
    return sum(tally.ended for kind, tally in found.kinds.items() if kind in OF_CANDIDATES or kind in OF_LINKS)


def _count(report: Report, kind: Kind) -> int:
    return sum(each.kind is kind for each in report.violations)
