"""All rules on one set of records. The rule: it never raises for what is in them."""

from __future__ import annotations

from collections.abc import Iterable

from coordkit.audit.found import Fault, Kind, Record, Report, Violation
from coordkit.audit.notices import wrong_notices
from coordkit.audit.reading import FAULT, WRITES, boot_of, number, process_of, wrong_with
from coordkit.audit.recovery import gaps, too_long
from coordkit.audit.terms import Entry, compare, given_twice, neighbours
from coordkit.audit.writes import Writes


def judge(records: Iterable[Record], *, cut: int = 0, within: float | None = None) -> Report:
    """Judge the records of any number of journals, those of each process in the order in which they were written.

    `cut` is what `parse` has counted, for the report. `within`: for how many seconds nobody may lead while somebody
    waits; None: however long.
    """
    violations: list[Violation] = []
    entries: dict[tuple[object, object], Entry] = {}
    last_seen: dict[tuple[object, object, object], float] = {}  # by process
    writes, faults = Writes(), []
    counted = candidates = jeopardies = 0
    for record in records:
        counted += 1
        if (wrong := wrong_with(record)) is not None:
            shown = record.get("election")
            violations.append(Violation(Kind.GARBAGE, shown if isinstance(shown, str) else "", wrong, (record,)))
            continue
        event = record["event"]
        if event == FAULT:
            faults.append(_fault(record))
            continue
        process = process_of(record)
        last_seen[process] = max(last_seen.get(process, 0.0), number(record, "boot"))
        if event in WRITES:
            writes.take(record)
            continue
        candidates += event == "campaign"
        jeopardies += event == "jeopardy"
        key = (record["boot_id"], record["entry"])
        entry = entries.get(key)
        if entry is None:
            entry = entries[key] = Entry(boot_of(record), str(record["election"]), str(record["entry"]))
        violations += entry.follow(record)
    for entry in entries.values():
        seen = last_seen[process_of(entry.lines[0])]
        violations += wrong_notices(entry.name, entry.election, entry.told(), seen)
    spans = [span for entry in entries.values() if (span := entry.span()) is not None]
    spans.sort(key=lambda span: (span.boot_id is not None, span.boot_id or "", span.election, span.since, span.token))
    violations += given_twice(spans)
    pairs = list(neighbours(spans))
    for before, after, furthest in pairs:
        violations += compare(before, after, furthest)
    found = gaps(pairs, spans, faults)
    if within is not None:
        violations += too_long(found, spans, within)
    written = writes.finish()
    violations += writes.violations
    return Report(
        tuple(violations),
        tuple(spans),
        counted,
        cut,
        candidates,
        jeopardies,
        sum(line["event"] == "notified" for entry in entries.values() for line in entry.told()),
        sum(after.sent < furthest.until for _, after, furthest in pairs),
        tuple(found),
        written,
        tuple(faults),
    )


def _fault(record: Record) -> Fault:
    return Fault(
        boot_of(record),
        str(record["kind"]),
        str(record["target"]),
        number(record, "since"),
        number(record, "until"),
        record.get("blocks") is True,
    )
