"""Which fault ended which term, and how long nobody led after it. Pure: spans of the audit and fault records go in.

The rule: a term that was lost, or whose process was killed, is put down to a fault that touched its leader, else to one
that touched a majority of the servers. If there is none, it was a false step-down, and is held against the fault that
was going on elsewhere, or against the calm; how long nobody led after it counts there, too.

Recovery is counted to the next win of that election: after a kill, a pause and the like from the begin of the fault,
after another from the loss; after one that leaves nobody a majority, not from before that is over. It is told for those
in which nothing else went wrong meanwhile. A bound is kept if a win comes so soon after the begin, or after the last of
all faults that came in between.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from coordkit.audit import Fate, Span
from tests.chaos import schedule
from tests.chaos.faultlog import Fault

CALM = "calm"
FROM_BEGIN = frozenset(schedule.OF_CANDIDATES) - {schedule.STEPPED, schedule.STROBED}
OWN_WILL = ("closed",)  # reasons of a loss that are no fault


@dataclass(frozen=True, slots=True)
class Recovery:
    """From `start` on nobody led; `calm_since`: from when on nothing stood in the way; `alone`: no other fault came."""

    election: str
    start: float
    calm_since: float
    won: float
    alone: bool

    @property
    def seconds(self) -> float:
        return max(0.0, self.won - self.start)

    @property
    def undisturbed(self) -> float:
        """Of that, what is nobody else's fault."""
        return max(0.0, self.won - self.calm_since)


@dataclass(slots=True)
class Tally:
    """One kind of fault."""

    count: int = 0
    ended: int = 0
    false_step_downs: int = 0
    recoveries: list[Recovery] = field(default_factory=list)

    def as_json(self, bound: float) -> dict[str, object]:
        """Durations in seconds, None where nothing was measured."""
        alone = sorted(each.seconds for each in self.recoveries if each.alone)
        return {
            "count": self.count,
            "ended": self.ended,
            "measured": len(alone),
            "median": _rounded(median(alone)) if alone else None,
            "p99": _rounded(percentile(alone, 0.99)) if alone else None,
            "max": _rounded(alone[-1]) if alone else None,
            "max_with_others": _rounded(max((each.seconds for each in self.recoveries), default=None)),
            "slowest_undisturbed": _rounded(max((each.undisturbed for each in self.recoveries), default=None)),
            "bound": _rounded(bound),
            "false_step_downs": self.false_step_downs,
        }


@dataclass(frozen=True, slots=True)
class Attribution:
    """`kinds`: by kind of fault; `calm` is the kind of false step-downs in no fault's time."""

    kinds: Mapping[str, Tally]
    ended_by: Mapping[str, int]

    @property
    def felled(self) -> int:
        """How many terms were ended by a fault."""
        return sum(tally.ended for tally in self.kinds.values())


def attribute(spans: Sequence[Span], faults: Sequence[Fault], ttl: float) -> Attribution:
    """`spans` by election and start, as `judge` gives them. A fault may end a term until a ttl after it."""
    kinds: dict[str, Tally] = {}
    for each in faults:
        kinds.setdefault(each.kind, Tally()).count += 1
    ended_by: Counter[str] = Counter()
    acting = [span for span in spans if span.fate is not Fate.VOID]
    for number, span in enumerate(acting):
        if span.fate is Fate.RESIGNED:
            ended_by["resigned"] += 1
            continue
        if span.fate is Fate.LOST and span.reason in OWN_WILL:
            ended_by[span.reason or ""] += 1
            continue
        if span.fate is Fate.KILLED and not _was_killed(span, faults):
            ended_by["leads still"] += 1  # it has no end on file, for it has none
            continue
        fault, blamed = _blamed(span, faults, ttl)
        if fault is None:
            tally = kinds.setdefault(blamed, Tally())
            tally.false_step_downs += 1
            ended_by["false step-down"] += 1
        else:
            tally = kinds[fault.kind]
            tally.ended += 1
            ended_by[fault.kind] += 1
        won = next((after.since for after in acting[number + 1 :] if _follows(after, span)), None)
        if won is not None:
            tally.recoveries.append(_recovery(span, fault, faults, won, ttl))
    return Attribution(kinds, dict(ended_by))


def _follows(after: Span, span: Span) -> bool:
    return (after.boot_id, after.election) == (span.boot_id, span.election)


def _was_killed(span: Span, faults: Iterable[Fault]) -> bool:
    pid = span.records[0]["pid"]
    return any(each.kind == schedule.KILLED and pid in each.pids for each in faults)


def _blamed(span: Span, faults: Iterable[Fault], ttl: float) -> tuple[Fault | None, str]:
    """What has ended this term; else None and the kind of what went on meanwhile."""
    pid = span.records[0]["pid"]
    assert isinstance(pid, int)
    end = span.until
    if span.fate is Fate.KILLED:
        for each in faults:
            if each.kind == schedule.KILLED and pid in each.pids and each.since <= end:
                return each, each.kind
    # A term that began after a fault was over has nothing to do with it.
    near = [each for each in faults if span.since <= each.until and each.since <= end <= each.until + ttl]
    for by in (lambda each: pid in each.pids, lambda each: each.majority):
        if found := [each for each in near if by(each)]:
            return max(found, key=lambda each: (each.until >= end, each.since)), ""
    elsewhere = max(near, key=lambda each: each.since, default=None)
    return None, CALM if elsewhere is None else elsewhere.kind


def _recovery(span: Span, fault: Fault | None, faults: Iterable[Fault], won: float, ttl: float) -> Recovery:
    start = max(fault.since, span.since) if fault is not None and fault.kind in FROM_BEGIN else span.until
    if fault is not None and fault.majority:
        start = max(start, min(fault.until, won))
    others = [each for each in faults if each is not fault and each.since < won and each.until > start - ttl]
    calm_since = max([start, *(min(each.until, won) for each in others)])
    return Recovery(span.election, start, calm_since, won, not any(each.until > start for each in others))


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of them does not exceed."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
