"""The judge of journals: did two leaders of one election ever overlap? No I/O, no clock, no threads.

The rule: a term is judged on the time in which its body could act by what is on file, from the `won` line's `boot` to
the local end. Why that is the whole time:

- It begins no earlier: the `won` line is written before the term is handed to anybody. `sent` is earlier, but proves
  nothing: a request may be on its way while the leader before resigns, and where the store has a queue the lease
  behind a win was renewed long before its turn came. `in_flight` counts such terms.
- It ends no later than the deadline: `valid` and `ensure` compare clocks, whatever else happens.
- It ends no later than the end on record, whose `at` is read when the term is given up, before the store is told.
- A process that was killed has no end on record. Its body died with it, at an unknown moment; the last deadline on
  record bounds that moment from above, for a promise is on file before it is applied. A renewal that was granted but
  not yet written let nobody act.
- So a term that is cut short counts for longer than it acted, never for less. A false alarm does not follow: until
  that deadline the store lets nobody else win.

Journals of different boots of a host, or of different hosts, share no axis: they are judged apart. A line that
`kill -9` cut short (at the end of a file, or before the line of another process that shares it) was relied on by
nobody; it is counted and left out. Whatever else cannot be read is a violation, for it may hide one.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from coordkit.model import MAX_TOKEN

Record = Mapping[str, object]  # one line of a journal; `coordkit.journal` tells what it may hold

ROUNDING = 1e-6  # s: clock readings are sums of floats; nobody acts within less
START = b'{"event":'  # how each line begins, as `coordkit.journal` writes it
UNREADABLE = "unreadable"  # the one field of the record that stands for a line which is no record


class Kind(enum.Enum):
    """What was violated."""

    OVERLAP = "overlap"  # two terms of one election at one time
    TOKEN = "token"  # a token given twice, or one not above that of the term before
    BELIEF = "belief"  # renewed or resigned although its own clock had passed its deadline
    NOTICE = "notice"  # on_lost told twice, or told of a term that was not lost
    SEQUENCE = "sequence"  # lines of one entry that cannot follow each other
    GARBAGE = "garbage"  # a line that is no record of a journal


class Fate(enum.Enum):
    """How a term ended."""

    RESIGNED = "resigned"
    LOST = "lost"
    KILLED = "killed"  # no end on record: its process was killed, or led when the journal was read
    VOID = "void"  # its deadline had passed before its win was on file: nobody ever had it


@dataclass(frozen=True, slots=True)
class Violation:
    """One breach of a promise, with the lines that show it."""

    kind: Kind
    election: str
    message: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """One term as the journal has it; times in seconds on the `boot` axis of `boot_id`."""

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
    handovers: tuple[float, ...]  # s from a resignation to the next win
    takeovers: tuple[float, ...]  # s from any other end to the next win

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
        }


def summary(seconds: Sequence[float]) -> dict[str, float | int]:
    """Count, median and largest of some durations."""
    if not seconds:
        return {"count": 0}
    return {"count": len(seconds), "median": median(seconds), "largest": max(seconds)}


# -- reading ---------------------------------------------------------------------------------------------------


def parse(text: bytes) -> tuple[list[Record], int]:
    """The records of one journal file, and how many of its lines were cut short by the death of their writer.

    A line that can be neither is returned as a record that `judge` takes for garbage.
    """
    records: list[Record] = []
    cut = 0
    *lines, last = text.split(b"\n")
    for line in lines:
        # Processes that share a file write whole lines, so what follows a cut one begins a line of its own.
        whole = _record(line)
        if whole is None and (start := line.rfind(START)) > 0 and line.startswith(START[:start]):
            whole = _record(line[start:])
            cut += whole is not None
        records.append({UNREADABLE: line.decode(errors="backslashreplace")[:200]} if whole is None else whole)
    if last:  # no line break: its writer was killed, or is writing
        cut += 1
    return records, cut


def _record(line: bytes) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    except RecursionError:  # brackets without end
        return None
    return value if isinstance(value, dict) else None


# -- judging ---------------------------------------------------------------------------------------------------

_TIMES = ("boot", "sent", "deadline", "at", "ttl")
_FIELDS: dict[str, tuple[str, ...]] = {
    "campaign": (),
    "won": ("token", "ttl", "sent", "deadline"),
    "renewed": ("token", "at", "sent", "deadline"),
    "jeopardy": ("token",),
    "lost": ("token", "at", "reason"),
    "resigned": ("token", "at"),
    "notified": ("token",),
}


@dataclass(slots=True)
class _Entry:
    """The lines of one entry as they come, and what follows from them. Local to one judgement."""

    boot_id: str | None
    election: str
    name: str
    lines: list[Record] = field(default_factory=list)
    won: Record | None = None
    end: Record | None = None
    newest: Record | None = None  # the line of the promise that stands
    renewals: int = 0
    notices: list[Record] = field(default_factory=list)

    @property
    def deadline(self) -> float:
        """The last deadline on record."""
        return _number(self.newest, "deadline") if self.newest is not None else -math.inf


def judge(records: Iterable[Record], *, cut: int = 0) -> Report:
    """Judge the records of any number of journals, those of each process in the order in which they were written.

    Never raises for what is in them. `cut` is what `parse` has counted, for the report.
    """
    violations: list[Violation] = []
    entries: dict[tuple[object, object], _Entry] = {}
    counted = candidates = jeopardies = 0
    for record in records:
        counted += 1
        if (fault := _fault(record)) is not None:
            shown = record.get("election")
            violations.append(Violation(Kind.GARBAGE, shown if isinstance(shown, str) else "", fault, (record,)))
            continue
        candidates += record["event"] == "campaign"
        jeopardies += record["event"] == "jeopardy"
        key = (record["boot_id"], record["entry"])
        entry = entries.get(key)
        if entry is None:
            boot_id = record["boot_id"]
            entry = entries[key] = _Entry(
                boot_id if isinstance(boot_id, str) else None, str(record["election"]), str(record["entry"])
            )
        violations += (
            Violation(kind, entry.election, message, (*context, record))
            for kind, message, context in _follow(entry, record)
        )
    spans = []
    for entry in entries.values():
        violations += _wrong_notices(entry)
        if entry.won is not None:
            spans.append(_span(entry, entry.won))
    spans.sort(key=lambda span: (span.boot_id or "", span.election, span.since, span.token))
    violations += _given_twice(spans)
    handovers: list[float] = []
    takeovers: list[float] = []
    in_flight = 0
    for before, after, furthest in _neighbours(spans):
        violations += _compare(before, after, furthest)
        in_flight += after.sent < furthest.until
        gap = max(0.0, after.since - furthest.until)
        (handovers if before.fate is Fate.RESIGNED else takeovers).append(gap)
    return Report(
        tuple(violations),
        tuple(spans),
        counted,
        cut,
        candidates,
        jeopardies,
        sum(len(entry.notices) for entry in entries.values()),
        in_flight,
        tuple(handovers),
        tuple(takeovers),
    )


def _fault(record: Record) -> str | None:
    """Why this is no record of a journal; None if it is one."""
    if UNREADABLE in record:
        return f"a line that cannot be read: {record[UNREADABLE]!r}"
    event = record.get("event")
    if not isinstance(event, str) or event not in _FIELDS:
        return f"no such event: {event!r}"
    for name in ("entry", "election", "boot", "pid", "boot_id", *_FIELDS[event]):
        value = record.get(name)
        if name in _TIMES:
            right = type(value) in (int, float) and math.isfinite(_number(record, name))
        elif name == "token":
            right = type(value) is int and 1 <= value <= MAX_TOKEN
        elif name == "pid":
            right = type(value) is int
        elif name == "boot_id":
            right = name in record and (value is None or isinstance(value, str))
        else:
            right = isinstance(value, str)
        if not right:
            return f"a {event} line whose {name} is {value!r}"
    return None


def _number(record: Record, name: str) -> float:
    value = record[name]
    assert isinstance(value, (int, float))
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _follow(entry: _Entry, record: Record) -> list[tuple[Kind, str, tuple[Record, ...]]]:
    """Take one more line of an entry; what is wrong with it there."""
    event = record["event"]
    first = entry.lines[0] if entry.lines else record
    entry.lines.append(record)
    wrong: list[tuple[Kind, str, tuple[Record, ...]]] = []
    wrong += [
        (Kind.SEQUENCE, f"{entry.name} has two values of {name}", (first,))
        for name in ("election", "pid")
        if record[name] != first[name]
    ]
    if event == "campaign":
        if record is not first:
            wrong.append((Kind.SEQUENCE, f"{entry.name} begins twice", (first,)))
        return wrong
    if event == "won":
        if entry.won is not None:
            wrong.append((Kind.SEQUENCE, f"{entry.name} has won twice", (entry.won,)))
            return wrong
        entry.won = entry.newest = record
        return wrong
    if entry.won is None or entry.newest is None:
        wrong.append((Kind.SEQUENCE, f"{event} by {entry.name}, which has not won", ()))
        return wrong
    if record["token"] != entry.won["token"]:
        wrong.append((Kind.TOKEN, f"the token of {entry.name} has changed within its term", (entry.won,)))
    if event == "notified":
        entry.notices.append(record)
        return wrong
    if entry.end is not None:
        wrong.append((Kind.SEQUENCE, f"{event} by {entry.name}, whose term is over", (entry.end,)))
        return wrong
    late = event in ("renewed", "resigned") and _number(record, "at") > entry.deadline + ROUNDING
    if late:
        by = _number(record, "at") - entry.deadline
        wrong.append((Kind.BELIEF, f"{entry.name} {event} {by:.6f} s after its deadline", (entry.newest,)))
    if event == "renewed":
        entry.renewals += 1
        if _number(record, "sent") >= _number(entry.newest, "sent"):  # the newest answer stands
            entry.newest = record
    elif event in ("lost", "resigned"):
        entry.end = record
    return wrong


def _span(entry: _Entry, won: Record) -> Span:
    since, deadline = _number(won, "boot"), entry.deadline
    until = deadline
    fate, reason = Fate.KILLED, None
    if entry.end is not None:
        until = min(deadline, _number(entry.end, "at"))
        fate = Fate.LOST if entry.end["event"] == "lost" else Fate.RESIGNED
        reason = str(entry.end["reason"]) if fate is Fate.LOST else None
    if since > _number(won, "deadline") and not entry.renewals:
        fate = Fate.VOID
    token = won["token"]
    assert isinstance(token, int)
    return Span(
        entry.boot_id,
        entry.election,
        entry.name,
        token,
        _number(won, "sent"),
        since,
        max(since, until),
        deadline,
        fate,
        reason,
        entry.renewals,
        tuple(entry.lines),
    )


def _wrong_notices(entry: _Entry) -> list[Violation]:
    wrong = []
    if len(entry.notices) > 1:
        wrong.append(
            Violation(
                Kind.NOTICE, entry.election, f"{entry.name} was told {len(entry.notices)} times", (*entry.notices,)
            )
        )
    if entry.notices and (entry.end is None or entry.end["event"] != "lost"):
        how = "was resigned" if entry.end is not None else "has no end"
        shown = (*entry.notices, *(() if entry.end is None else (entry.end,)))
        wrong.append(Violation(Kind.NOTICE, entry.election, f"{entry.name} was told of a loss, but {how}", shown))
    return wrong


def _given_twice(spans: Iterable[Span]) -> list[Violation]:
    """Tokens that two terms of one election have."""
    first: dict[tuple[str | None, str, int], Span] = {}
    wrong = []
    for span in spans:
        other = first.setdefault((span.boot_id, span.election, span.token), span)
        if other is not span:
            message = f"token {span.token} was given to {other.entry} and to {span.entry}"
            wrong.append(Violation(Kind.TOKEN, span.election, message, (_win(other), _win(span))))
    return wrong


def _neighbours(spans: Sequence[Span]) -> Iterable[tuple[Span, Span, Span]]:
    """Pairs of terms that follow each other in one election of one boot, with the one so far that lasted longest."""
    acting = [span for span in spans if span.fate is not Fate.VOID]
    furthest: Span | None = None
    for before, after in pairwise(acting):
        if (before.boot_id, before.election) != (after.boot_id, after.election):
            furthest = None
            continue
        furthest = before if furthest is None or before.until > furthest.until else furthest
        yield before, after, furthest


def _compare(before: Span, after: Span, furthest: Span) -> list[Violation]:
    wrong = []
    if after.since < furthest.until - ROUNDING:
        message = (
            f"{after.entry} led while {furthest.entry} did, for "
            f"{min(after.until, furthest.until) - after.since:.6f} s: [{after.since:.6f}, {after.until:.6f}] "
            f"and [{furthest.since:.6f}, {furthest.until:.6f}]"
        )
        wrong.append(Violation(Kind.OVERLAP, after.election, message, (*furthest.records, *after.records)))
    if after.token < before.token:
        message = f"token {after.token} of {after.entry} came after {before.token} of {before.entry}"
        wrong.append(Violation(Kind.TOKEN, after.election, message, (_win(before), _win(after))))
    return wrong


def _win(span: Span) -> Record:
    return next(record for record in span.records if record["event"] == "won")
