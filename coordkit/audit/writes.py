"""Writes to fenced resources: was one accepted that is stale?

The rule: a write is stale if one to the same resource with a higher token of the same election was `accepted` on file
before this one was `tried`. The first line is written after the resource's answer, and the second before it is asked;
so the resource had taken the newer leader's word, and then took the older one's. Writes that were on their way at the
same time prove nothing, in whatever order their answers came.

A write without an answer on file may have happened: its outcome is unknown, which is a number and no violation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from coordkit.audit.found import Kind, Outcome, Record, Violation, Write
from coordkit.audit.reading import ROUNDING, boot_of, number

_SAME = ("election", "resource", "token", "pid")  # in both lines of a write


@dataclass(slots=True)
class Writes:
    """The lines of writes as they come. Local to one judgement."""

    violations: list[Violation] = field(default_factory=list)
    _tried: dict[tuple[object, object], Record] = field(default_factory=dict)
    _answered: dict[tuple[object, object], Record] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        """One more line."""
        key = (record["boot_id"], record["write"])
        tried, answered = self._tried.get(key), self._answered.get(key)
        if record["event"] == "tried":
            if tried is None:
                self._tried[key] = record
            else:
                self._wrong(Kind.SEQUENCE, f"the write {record['write']} is tried twice", tried, record)
        elif tried is None:
            self._wrong(Kind.SEQUENCE, f"the write {record['write']} has an answer, but was not tried", record)
        elif answered is not None:
            self._wrong(Kind.SEQUENCE, f"the write {record['write']} has two answers", answered, record)
        elif different := [name for name in _SAME if record[name] != tried[name]]:
            self._wrong(
                Kind.SEQUENCE, f"the write {record['write']} has two values of {', '.join(different)}", tried, record
            )
        else:
            self._answered[key] = record

    def finish(self) -> tuple[Write, ...]:
        """All writes, in the order in which they were tried; what is stale among them is in `violations` then."""
        found = [_write(tried, self._answered.get(key)) for key, tried in self._tried.items()]
        found.sort(key=lambda write: (write.boot_id or "", write.tried))
        resources: dict[tuple[str | None, str, str], list[Write]] = {}
        for write in found:
            if write.outcome is Outcome.ACCEPTED:
                resources.setdefault((write.boot_id, write.election, write.resource), []).append(write)
        for accepted in resources.values():
            self.violations += _stale(accepted)
        return tuple(found)

    def _wrong(self, kind: Kind, message: str, *records: Record) -> None:
        self.violations.append(Violation(kind, str(records[-1]["election"]), message, records))


def _write(tried: Record, answered: Record | None) -> Write:
    token = tried["token"]
    assert isinstance(token, int)
    return Write(
        boot_of(tried),
        str(tried["election"]),
        str(tried["resource"]),
        str(tried["write"]),
        token,
        number(tried, "boot"),
        None if answered is None else number(answered, "boot"),
        Outcome.UNKNOWN if answered is None else Outcome(answered["event"]),
        (tried,) if answered is None else (tried, answered),
    )


def _stale(accepted: Iterable[Write]) -> Iterable[Violation]:
    """Those of the accepted writes to one resource that came after a newer leader's."""
    answers = sorted(((write.answered or 0.0, write) for write in accepted), key=lambda each: each[0])
    moments = [moment for moment, _ in answers]
    highest: list[Write] = []  # of all up to there
    for _, write in answers:
        highest.append(write if not highest or write.token > highest[-1].token else highest[-1])
    for _, write in answers:
        before = bisect_left(moments, write.tried - ROUNDING)
        if before and write.token < (newer := highest[before - 1]).token:
            message = (
                f"{write.resource!r} took a write with token {write.token}, tried at {write.tried:.6f}, although it "
                f"had taken one with token {newer.token} by {newer.answered:.6f}"
            )
            yield Violation(Kind.STALE, write.election, message, (*newer.records, *write.records))
