"""Terms: did two of one election overlap, did tokens rise, did a leader believe for longer than it was promised?

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
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from coordkit.audit.found import Fate, Kind, Record, Span, Violation
from coordkit.audit.reading import ROUNDING, number

EXPIRED = "expired"  # the reason of a loss that was noticed when the deadline had passed, however late
_Wrong = tuple[Kind, str, tuple[Record, ...]]


@dataclass(slots=True)
class Entry:
    """The lines of one entry as they come, and what follows from them. Local to one judgement."""

    boot_id: str | None
    election: str
    name: str
    lines: list[Record] = field(default_factory=list)
    _won: Record | None = None
    _end: Record | None = None
    _newest: Record | None = None  # the line of the promise that stands
    _renewals: int = 0

    def follow(self, record: Record) -> list[Violation]:
        """Take one more line; what is wrong with it there."""
        return [
            Violation(kind, self.election, message, (*context, record))
            for kind, message, context in self._wrong(record)
        ]

    def told(self) -> Sequence[Record]:
        """The lines by which it is judged whether callbacks were told; none, if it has not won."""
        return [] if self._won is None else self.lines

    @property
    def _deadline(self) -> float:
        """The last deadline on record."""
        return number(self._newest, "deadline") if self._newest is not None else -math.inf

    def _wrong(self, record: Record) -> list[_Wrong]:
        event = record["event"]
        first = self.lines[0] if self.lines else record
        self.lines.append(record)
        wrong: list[_Wrong] = []
        wrong += [
            (Kind.SEQUENCE, f"{self.name} has two values of {name}", (first,))
            for name in ("election", "pid")
            if record[name] != first[name]
        ]
        if event == "campaign":
            if record is not first:
                wrong.append((Kind.SEQUENCE, f"{self.name} begins twice", (first,)))
            return wrong
        if event == "won":
            if self._won is not None:
                wrong.append((Kind.SEQUENCE, f"{self.name} has won twice", (self._won,)))
                return wrong
            self._won = self._newest = record
            return wrong
        if self._won is None or self._newest is None:
            wrong.append((Kind.SEQUENCE, f"{event} by {self.name}, which has not won", ()))
            return wrong
        if record["token"] != self._won["token"]:
            wrong.append((Kind.TOKEN, f"the token of {self.name} has changed within its term", (self._won,)))
        if event in ("watched", "notified"):
            return wrong
        if self._end is not None:
            wrong.append((Kind.SEQUENCE, f"{event} by {self.name}, whose term is over", (self._end,)))
            return wrong
        by = number(record, "at") - self._deadline if event in ("renewed", "resigned", "lost") else 0.0
        # Whatever else ended it found it valid still.
        if by > ROUNDING and not (event == "lost" and record["reason"] == EXPIRED):
            how = f"lost ({record['reason']})" if event == "lost" else str(event)
            wrong.append((Kind.BELIEF, f"{self.name} {how} {by:.6f} s after its deadline", (self._newest,)))
        if event == "renewed":
            self._renewals += 1
            if number(record, "sent") >= number(self._newest, "sent"):  # the newest answer stands
                self._newest = record
        elif event in ("lost", "resigned"):
            self._end = record
        return wrong

    def span(self) -> Span | None:
        """Its term, if it has won."""
        won = self._won
        if won is None:
            return None
        since, deadline = number(won, "boot"), self._deadline
        until = deadline
        fate, reason = Fate.KILLED, None
        if self._end is not None:
            until = min(deadline, number(self._end, "at"))
            fate = Fate.LOST if self._end["event"] == "lost" else Fate.RESIGNED
            reason = str(self._end["reason"]) if fate is Fate.LOST else None
        if since > number(won, "deadline") and not self._renewals:
            fate = Fate.VOID
        token = won["token"]
        assert isinstance(token, int)
        newest = self._newest if self._newest is not won else None
        return Span(
            self.boot_id,
            self.election,
            self.name,
            token,
            number(won, "sent"),
            since,
            max(since, until),
            deadline,
            fate,
            reason,
            self._renewals,
            tuple(self.lines),
            tuple(record for record in (won, newest, self._end) if record is not None),
        )


def given_twice(spans: Iterable[Span]) -> list[Violation]:
    """Tokens that two terms of one election have."""
    first: dict[tuple[str | None, str, int], Span] = {}
    wrong = []
    for span in spans:
        other = first.setdefault((span.boot_id, span.election, span.token), span)
        if other is not span:
            message = f"token {span.token} was given to {other.entry} and to {span.entry}"
            wrong.append(Violation(Kind.TOKEN, span.election, message, (_win(other), _win(span))))
    return wrong


def neighbours(spans: Sequence[Span]) -> Iterable[tuple[Span, Span, Span]]:
    """Pairs of terms that follow each other in one election of one boot, with the one so far that lasted longest."""
    acting = [span for span in spans if span.fate is not Fate.VOID]
    furthest: Span | None = None
    for before, after in pairwise(acting):
        if (before.boot_id, before.election) != (after.boot_id, after.election):
            furthest = None
            continue
        furthest = before if furthest is None or before.until > furthest.until else furthest
        yield before, after, furthest


def compare(before: Span, after: Span, furthest: Span) -> list[Violation]:
    """What is wrong between two terms that follow each other."""
    wrong = []
    if after.since < furthest.until - ROUNDING:
        message = (
            f"{after.entry} led while {furthest.entry} did, for "
            f"{min(after.until, furthest.until) - after.since:.6f} s: [{after.since:.6f}, {after.until:.6f}] "
            f"and [{furthest.since:.6f}, {furthest.until:.6f}]"
        )
        wrong.append(Violation(Kind.OVERLAP, after.election, message, (*furthest.telling, *after.telling)))
    if after.token < before.token:
        message = f"token {after.token} of {after.entry} came after {before.token} of {before.entry}"
        wrong.append(Violation(Kind.TOKEN, after.election, message, (_win(before), _win(after))))
    return wrong


def _win(span: Span) -> Record:
    return span.telling[0]
