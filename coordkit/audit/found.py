"""What the judge finds in journals, as values. The rule: times are seconds on the `boot` axis of a `boot_id`.

Where the platform has no boot id, a span's is "(host NAME)" if its entry names the host, else None.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Record = Mapping[str, object]  # one line of a journal; `coordkit.journal` tells what it may hold


class Kind(enum.Enum):
    """What was violated."""

    OVERLAP = "overlap"  # two terms of one election at one time
    TOKEN = "token"  # a token given twice, or one not above that of the term before
    BELIEF = "belief"  # renewed or resigned although its own clock had passed its deadline
    NOTICE = "notice"  # on_lost told twice, told of a term that was not lost, or not told of one that was
    STALE = "stale"  # a write accepted after one with a higher token
    RECOVERY = "recovery"  # nobody led for longer than was asked, though somebody waited
    SEQUENCE = "sequence"  # lines of one entry, or of one write, that cannot follow each other
    GARBAGE = "garbage"  # a line that is no record of a journal


class Fate(enum.Enum):
    """How a term ended."""

    RESIGNED = "resigned"
    LOST = "lost"
    KILLED = "killed"  # no end on record: its process was killed, or led when the journal was read
    VOID = "void"  # its deadline had passed before its win was on file: nobody ever had it


class Outcome(enum.Enum):
    """What became of a write."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"  # no answer on file: its writer was killed, or another error came


@dataclass(frozen=True, slots=True)
class Violation:
    """One breach of a promise, with the lines that show it."""

    kind: Kind
    election: str
    message: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """One term as the journal has it."""

    boot_id: str | None
    election: str
    entry: str
    token: int
    sent: float  # when the first promise was asked for
    since: float  # when it could act
    until: float  # when it could act no more
    deadline: float  # the last one on record
    fate: Fate
    reason: str | None  # why it was lost
    renewals: int
    records: tuple[Record, ...]
    telling: tuple[Record, ...]  # of these the win, the newest promise and the end


@dataclass(frozen=True, slots=True)
class Write:
    """One attempt to write to a resource under a token."""

    boot_id: str | None
    election: str
    resource: str
    name: str
    token: int
    tried: float  # before the resource was asked
    answered: float | None  # after its answer
    outcome: Outcome
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """What a test did to the world, and when. `blocks`: nobody can be elected meanwhile."""

    boot_id: str | None
    kind: str
    target: str
    since: float
    until: float
    blocks: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """The time without a leader between two terms of one election."""

    boot_id: str | None
    election: str
    after: Fate  # how the term before it ended
    since: float
    until: float
    waited: float  # the longest stretch of it in which somebody is known to have waited and nothing blocked; s


@dataclass(frozen=True, slots=True)
class Report:
    """What the journals say. `violations` is empty if every promise was kept."""

    violations: tuple[Violation, ...]
    spans: tuple[Span, ...]  # by boot, election and start
    records: int
    cut: int  # lines cut short by the death of their writer
    candidates: int  # campaigns that are on file, won or not
    jeopardies: int
    notices: int
    in_flight: int  # terms whose promise was asked for before the term before had ended
    gaps: tuple[Gap, ...]
    writes: tuple[Write, ...]
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was violated."""
        return not self.violations

    @property
    def terms(self) -> int:
        """How many terms could act."""
        return len(self.spans) - self.count(Fate.VOID)

    @property
    def renewals(self) -> int:
        """How many renewals are on file."""
        return sum(span.renewals for span in self.spans)

    @property
    def handovers(self) -> tuple[float, ...]:
        """Seconds from each resignation to the next win."""
        return tuple(gap.until - gap.since for gap in self.gaps if gap.after is Fate.RESIGNED)

    @property
    def takeovers(self) -> tuple[float, ...]:
        """Seconds from each other end to the next win."""
        return tuple(gap.until - gap.since for gap in self.gaps if gap.after is not Fate.RESIGNED)

    @property
    def recoveries(self) -> tuple[float, ...]:
        """Of each gap the seconds that count against a bound."""
        return tuple(gap.waited for gap in self.gaps)

    @property
    def longest_gap(self) -> float:
        """The longest time without a leader between two terms of one election, s."""
        return max((*self.handovers, *self.takeovers), default=0.0)

    @property
    def elections(self) -> tuple[str, ...]:
        """The elections that had a term."""
        return tuple(sorted({span.election for span in self.spans}))

    def count(self, fate: Fate) -> int:
        """How many terms ended so."""
        return sum(span.fate is fate for span in self.spans)

    def count_writes(self, outcome: Outcome) -> int:
        """How many writes ended so."""
        return sum(write.outcome is outcome for write in self.writes)

    def count_kind(self, kind: Kind) -> int:
        """How many violations are of this kind."""
        return sum(violation.kind is kind for violation in self.violations)

    def as_json(self) -> dict[str, object]:
        """The report as JSON values; durations in seconds."""
        return {
            "ok": self.ok,
            "violations": [
                {
                    "kind": each.kind.value,
                    "election": each.election,
                    "message": each.message,
                    "records": [dict(record) for record in each.records],
                }
                for each in self.violations
            ],
            "records": self.records,
            "cut": self.cut,
            "elections": len(self.elections),
            "candidates": self.candidates,
            "terms": self.terms,
            **{fate.value: self.count(fate) for fate in Fate},
            "renewals": self.renewals,
            "jeopardies": self.jeopardies,
            "notices": self.notices,
            "in_flight": self.in_flight,
            "longest_gap": self.longest_gap,
            "longest_term": max((span.until - span.since for span in self.spans), default=0.0),
            "handovers": summary(self.handovers),
            "takeovers": summary(self.takeovers),
            "recoveries": summary(self.recoveries),
            "writes": {
                "tried": len(self.writes),
                **{outcome.value: self.count_writes(outcome) for outcome in Outcome},
                "stale": self.count_kind(Kind.STALE),
            },
            "faults": len(self.faults),
        }


def summary(seconds: Sequence[float]) -> dict[str, float | int]:
    """Count, median and largest of some durations."""
    if not seconds:
        return {"count": 0}
    return {"count": len(seconds), "median": median(seconds), "largest": max(seconds)}
