"""Writes to fenced resources: was one accepted that is stale?

The rule: a write is stale if one to the same resource with a higher token of the same election was `accepted` on file
before this one was `tried`, or another `refused` with the word of the resource that it had seen such a token. The first
line is written after the resource's answer, and the second before it is asked; so the resource knew of the newer
leader, and then took the older one's word. Writes that were on their way at the same time prove nothing, in whatever
order their answers came.

A write without an answer on file may have happened: its outcome is unknown, which is a number and no violation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from coordkit.audit.found import Kind, Outcome, Record, Violation, Write
from coordkit.audit.reading import ROUNDING, boot_of, number
from coordkit.model import MAX_TOKEN

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
        found.sort(key=lambda write: (write.boot_id is not None, write.boot_id or "", write.tried))
        resources: dict[tuple[str | None, str, str], list[Write]] = {}
        for write in found:
            if write.outcome is not Outcome.UNKNOWN:
                resources.setdefault((write.boot_id, write.election, write.resource), []).append(write)
        for answered in resources.values():
            self.violations += _stale(answered)
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


def _seen(write: Write) -> int:
    """The highest token that the resource had seen for certain when it answered."""
    if write.outcome is Outcome.ACCEPTED:
        return write.token
    newest = write.records[-1].get("newest")
    return newest if type(newest) is int and 1 <= newest <= MAX_TOKEN else 0


def _stale(answered: Iterable[Write]) -> Iterable[Violation]:
    """Those of the writes to one resource that were accepted after it had seen a newer leader's token."""
    answers = sorted(((write.answered or 0.0, write) for write in answered), key=lambda each: each[0])
    moments = [moment for moment, _ in answers]
    highest: list[tuple[int, Write]] = []  # token seen, and the write that shows it, of all up to there
    for _, write in answers:
        seen = _seen(write)
        highest.append((seen, write) if not highest or seen > highest[-1][0] else highest[-1])
    for _, write in answers:
        before = bisect_left(moments, write.tried - ROUNDING)
        if write.outcome is not Outcome.ACCEPTED or not before:
            continue
        seen, newer = highest[before - 1]
        if write.token < seen:
            had = "taken one with" if newer.outcome is Outcome.ACCEPTED else "refused one because it had seen"
            message = (
                f"{write.resource!r} took a write with token {write.token}, tried at {write.tried:.6f}, although it "
                f"had {had} token {seen} by {newer.answered:.6f}"
            )
            yield Violation(Kind.STALE, write.election, message, (*newer.records, *write.records))
