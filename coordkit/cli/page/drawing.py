"""Where everything lies on the timelines of a report. No I/O, no clock: values in, values out.

The rule: what is drawn is bounded. An election's time is cut into strips, all of one width; in a strip, neighbours in
one lane that are too narrow to be seen alone are one mark that says how many it stands for; and where a strip would
still have too many, more of them are drawn as one. So no term is left out of what the marks say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, log10

from coordkit.audit import Fate, Fault, Outcome, Report, Span, Violation, Write
from coordkit.audit.reading import LONGEST, boot_of

STRIPS = 200  # of a page
TERMS = 30  # of a strip, as long as STRIPS allow it
MARKS = 100  # of each sort in a strip
LANES = 24  # of a strip
NARROW = 0.3  # % of the width
POINT = 0.8  # likewise, of what is drawn as a point
TICKS = 250  # places in a lane where accepted writes are drawn
ELECTIONS = 200  # that are drawn
SHORTEST = 0.001  # s: of the time of an election

Lane = tuple[int, str]  # process, label


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that lasts, or several of them. Places are percent of the strip's width."""

    left: float
    width: float
    count: int
    style: str  # of the worst of them
    bad: bool
    label: str
    told: tuple[str, ...]  # of the first few


@dataclass(slots=True)
class Row:
    """A lane of a strip."""

    title: str
    told: str
    terms: list[Mark] = field(default_factory=list)
    refused: list[Mark] = field(default_factory=list)
    unknown: list[Mark] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    writes: int = 0


@dataclass(slots=True)
class Strip:
    """A piece of an election's time."""

    since: float
    until: float
    fates: Counter[Fate]
    violations: list[Mark]
    faults: list[list[Mark]]  # in as many lines as overlap
    rows: list[Row]
    ticks: list[tuple[float, str]]


@dataclass(slots=True)
class Drawn:
    """An election on one boot."""

    election: str
    fates: Counter[Fate]
    writes: Counter[Outcome]
    violations: int
    strips: list[Strip]


@dataclass(slots=True)
class Boot:
    """All elections of one boot; its axis begins with its first record."""

    boot_id: str | None
    zero: float
    length: float
    elections: list[Drawn]
    left_out: int
    faults: int


@dataclass(slots=True)
class _Election:
    spans: list[Span] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    violations: list[tuple[int, float, Violation]] = field(default_factory=list)  # number, when


def boots(report: Report) -> list[Boot]:
    """Everything of a report that has a place on an axis."""
    bad = {id(record) for violation in report.violations for record in violation.records}
    found: dict[str | None, dict[str, _Election]] = {}
    faults: dict[str | None, list[Fault]] = {}
    for span in report.spans:
        found.setdefault(span.boot_id, {}).setdefault(span.election, _Election()).spans.append(span)
    for write in report.writes:
        found.setdefault(write.boot_id, {}).setdefault(write.election, _Election()).writes.append(write)
    for fault in report.faults:
        faults.setdefault(fault.boot_id, []).append(fault)
        found.setdefault(fault.boot_id, {})
    for number, violation in enumerate(report.violations):
        for record in reversed(violation.records):
            at, elections = record.get("boot"), found.get(boot_of(record), {})
            if isinstance(at, (int, float)) and abs(at) <= LONGEST and violation.election in elections:
                elections[violation.election].violations.append((number, float(at), violation))
                break
    drawn = sum(min(len(elections), ELECTIONS) for elections in found.values())
    return [
        _boot(boot_id, elections, faults.get(boot_id, []), bad, max(1, STRIPS // max(1, drawn)))
        for boot_id, elections in sorted(found.items(), key=lambda each: each[0] or "")
    ]


def _boot(
    boot_id: str | None, elections: dict[str, _Election], faults: list[Fault], bad: set[int], strips: int
) -> Boot:
    starts = [fault.since for fault in faults]
    ends = [fault.until for fault in faults]
    for election in elections.values():
        starts += [_first(span) for span in election.spans]
        starts += [write.tried for write in election.writes]
        ends += [span.until for span in election.spans]
        ends += [write.tried if write.answered is None else write.answered for write in election.writes]
    zero = min(starts)
    order = sorted(elections.items(), key=lambda each: (not each[1].violations, each[0]))
    return Boot(
        boot_id,
        zero,
        max(ends) - zero,
        [_election(name, each, faults, bad, zero, strips) for name, each in order[:ELECTIONS]],
        max(0, len(order) - ELECTIONS),
        len(faults),
    )


def _first(span: Span) -> float:
    """When its first line was written: that of its campaign."""
    at = span.records[0]["boot"]
    assert isinstance(at, (int, float))
    return min(span.since, float(at))


def _election(name: str, found: _Election, faults: list[Fault], bad: set[int], zero: float, strips: int) -> Drawn:
    spans, writes = found.spans, found.writes
    starts = [*(span.since for span in spans), *(write.tried for write in writes)]
    ends = [*(span.until for span in spans), *(write.tried for write in writes)]
    since, until = min(starts), max(ends)
    until = max(until, since + SHORTEST)
    pieces = max(1, min(strips, ceil(len(spans) / TERMS)))
    margin = (until - since) / pieces * 0.005
    since, until = since - margin, until + margin
    length = (until - since) / pieces
    lanes = _lanes(spans, writes)
    cut: list[tuple[list[Span], list[Write], list[Fault], list[tuple[int, float, Violation]]]]
    cut = [([], [], [], []) for _ in range(pieces)]

    def where(at: float) -> int:
        return max(0, min(pieces - 1, floor((at - since) / length)))

    for span in spans:
        for piece in range(where(span.since), where(span.until) + 1):
            cut[piece][0].append(span)
    for write in writes:
        cut[where(write.tried)][1].append(write)
    for fault in faults:
        if fault.until >= since and fault.since <= until:
            for piece in range(where(fault.since), where(fault.until) + 1):
                cut[piece][2].append(fault)
    for violation in found.violations:
        cut[where(violation[1])][3].append(violation)
    return Drawn(
        name,
        Counter(span.fate for span in spans),
        Counter(write.outcome for write in writes),
        len(found.violations),
        [
            _strip(_Axis(since + number * length, length, zero), *piece, lanes, bad)
            for number, piece in enumerate(cut)
            if any(piece) or pieces == 1
        ],
    )


def _lanes(spans: Iterable[Span], writes: Iterable[Write]) -> dict[int, Lane]:
    """By the id of a term or a write: whose it is. A write is of the term with its token, else of its process."""
    found: dict[int, Lane] = {}
    by_token: dict[int, Lane] = {}
    for span in spans:
        won = next(record for record in span.records if record["event"] == "won")
        label = won.get("candidate")
        pid = won["pid"]
        assert isinstance(pid, int)
        found[id(span)] = by_token[span.token] = (pid, label if isinstance(label, str) else "")
    for write in writes:
        pid = write.records[0]["pid"]
        assert isinstance(pid, int)
        found[id(write)] = by_token.get(write.token, (pid, "writer"))
    return found


@dataclass(frozen=True, slots=True)
class _Axis:
    since: float
    length: float
    zero: float

    def place(self, at: float) -> float:
        return max(0.0, min(100.0, (at - self.since) / self.length * 100))

    def clock(self, at: float) -> str:
        return f"{at - self.zero:.3f} s"


_Thing = tuple[float, float, str, bool, str, str]  # since, until, style, bad, label, told
_WORST = ("resigned", "killed", "lost", "void")  # the later, the worse; others are equal


def _strip(
    axis: _Axis,
    spans: list[Span],
    writes: list[Write],
    faults: list[Fault],
    violations: list[tuple[int, float, Violation]],
    lanes: dict[int, Lane],
    bad: set[int],
) -> Strip:
    counted = Counter(lanes[id(span)] for span in spans)
    counted.update({lanes[id(write)]: 0 for write in writes})
    order = list(dict.fromkeys([*(lanes[id(span)] for span in spans), *(lanes[id(write)] for write in writes)]))
    if len(order) > LANES:
        kept = {lane for lane, _ in counted.most_common(LANES - 1)}
        order = [lane for lane in order if lane in kept]
    rows = {lane: Row(lane[1] or "candidate", f"process {lane[0]}") for lane in order}
    others = Row(f"{len(counted) - len(order)} others", "candidates with fewer terms")

    def row_of(thing: object) -> int:
        return id(rows.get(lanes[id(thing)], others))

    for write in writes:
        rows.get(lanes[id(write)], others).writes += 1
    terms = _marks(axis, ((row_of(span), _of_span(axis, span, bad)) for span in spans))
    refused = _marks(
        axis, ((row_of(each), _of_write(axis, each)) for each in writes if each.outcome is Outcome.REFUSED)
    )
    unknown = _marks(
        axis, ((row_of(each), _of_write(axis, each)) for each in writes if each.outcome is Outcome.UNKNOWN)
    )
    for row in (*rows.values(), others):
        row.terms, row.refused, row.unknown = (each.get(id(row), []) for each in (terms, refused, unknown))
    places: dict[int, set[int]] = {}
    for write in writes:
        if write.outcome is Outcome.ACCEPTED:
            places.setdefault(row_of(write), set()).add(round(axis.place(write.tried) * TICKS / 100))
    for row in (*rows.values(), others):
        row.accepted = [place * 100 / TICKS for place in sorted(places.get(id(row), ()))]
    used = [*rows.values(), *([others] if others.terms or others.writes else [])]
    told = [(0, (at, at, "violation", True, str(number), each.message)) for number, at, each in violations]
    return Strip(
        axis.since,
        axis.since + axis.length,
        Counter(span.fate for span in spans),
        _marks(axis, told, POINT).get(0, []),
        _fault_lines(axis, faults),
        used,
        _ticks(axis),
    )


def _of_span(axis: _Axis, span: Span, bad: set[int]) -> _Thing:
    how = f"lost ({span.reason})" if span.fate is Fate.LOST else _FATES[span.fate]
    told = f"token {span.token}, {how}: {axis.clock(span.since)} to {axis.clock(span.until)}"
    wrong = any(id(record) in bad for record in span.records)
    return (span.since, span.until, span.fate.value, wrong, str(span.token), told)


_FATES = {
    Fate.RESIGNED: "resigned",
    Fate.KILLED: "killed, or leading still",
    Fate.VOID: "won too late to be used",
}


def _of_write(axis: _Axis, write: Write) -> _Thing:
    told = f"write to {write.resource} with token {write.token} at {axis.clock(write.tried)}: {write.outcome.value}"
    return (write.tried, write.tried, write.outcome.value, False, "", told)


def _fault_lines(axis: _Axis, faults: Iterable[Fault]) -> list[list[Mark]]:
    """Faults that overlap are in lines below each other; in the last line they may be drawn as one."""
    lines: list[list[Fault]] = []
    for fault in sorted(faults, key=lambda fault: fault.since):
        line = next((line for line in lines if line[-1].until <= fault.since), None)
        if line is not None:
            line.append(fault)
        elif len(lines) < 4:
            lines.append([fault])
        else:
            lines[-1].append(fault)
    marks = _marks(
        axis,
        (
            (
                number,
                (
                    fault.since,
                    fault.until,
                    "blocks" if fault.blocks else "fault",
                    False,
                    f"{fault.kind} {fault.target}",
                    f"{fault.kind} {fault.target}: {axis.clock(fault.since)} to {axis.clock(fault.until)}",
                ),
            )
            for number, line in enumerate(lines)
            for fault in line
        ),
    )
    return [marks[number] for number in range(len(lines))]


def _marks(axis: _Axis, things: Iterable[tuple[int, _Thing]], narrow: float = NARROW) -> dict[int, list[Mark]]:
    """By lane, at most MARKS of them in all (or one for each lane)."""
    lanes: dict[int, list[_Thing]] = {}
    for lane, thing in things:
        lanes.setdefault(lane, []).append(thing)
    for each in lanes.values():
        each.sort(key=lambda thing: thing[:2])
    while True:
        found = {lane: _joined(axis, each, narrow) for lane, each in lanes.items()}
        if sum(map(len, found.values())) <= max(MARKS, len(found)) or narrow > 100:
            return found
        narrow *= 2


def _joined(axis: _Axis, things: Sequence[_Thing], narrow: float) -> list[Mark]:
    """Those that fit into `narrow` together are one mark; what is wider alone stays alone."""
    groups: list[list[_Thing]] = []
    right = 0.0
    for thing in things:
        right = max(right, axis.place(thing[1])) if groups else axis.place(thing[1])
        if groups and right - axis.place(groups[-1][0][0]) < narrow:
            groups[-1].append(thing)
        else:
            groups.append([thing])
            right = axis.place(thing[1])
    return [_mark(axis, group) for group in groups]


def _mark(axis: _Axis, group: list[_Thing]) -> Mark:
    left = axis.place(group[0][0])
    worst = max(group, key=lambda thing: _WORST.index(thing[2]) if thing[2] in _WORST else 0)
    return Mark(
        left,
        max(axis.place(thing[1]) for thing in group) - left,
        len(group),
        worst[2],
        any(thing[3] for thing in group),
        group[0][4] if len(group) == 1 else f"{len(group)}\N{MULTIPLICATION SIGN}",
        tuple(thing[5] for thing in group[:3]),
    )


def _ticks(axis: _Axis, most: int = 8) -> list[tuple[float, str]]:
    """Round seconds since the first record."""
    raw = axis.length / most
    power = 10.0 ** floor(log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = ceil((axis.since - axis.zero) / step)
    digits = max(0, -floor(log10(step)))
    found = []
    for number in range(first, first + most + 2):
        place = (axis.zero + number * step - axis.since) / axis.length * 100
        if 0 <= place <= 97 and number >= 0:
            found.append((place, f"{number * step:.{digits}f}"))
    return found
