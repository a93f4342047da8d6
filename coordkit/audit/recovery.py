"""How long nobody led although somebody waited.

The rule: a gap lasts from the end of the old term to the next win. Of it counts against a bound what somebody is known
to have waited for: an entry that won at the end of the gap, or later, was waiting from its campaign to its win, and
whoever has won nothing may have given up long before. Time in which a fault on file `blocks` every election does not
count; of what is left on both sides of it, the longer stretch does.

A term that was killed ended at its last deadline, for until then nobody else may win.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coordkit.audit.found import Fate, Fault, Gap, Kind, Record, Span, Violation
from coordkit.audit.reading import ROUNDING, number


def gaps(pairs: Iterable[tuple[Span, Span, Span]], spans: Sequence[Span], faults: Sequence[Fault]) -> list[Gap]:
    """The gaps between terms that follow each other; each pair with the term so far that lasted longest."""
    waiting = _waiting_since(spans)
    blocked: dict[str | None, list[Fault]] = {}
    for fault in sorted((fault for fault in faults if fault.blocks), key=lambda fault: fault.since):
        blocked.setdefault(fault.boot_id, []).append(fault)
    found = []
    for before, after, furthest in pairs:
        since, until = min(furthest.until, after.since), after.since
        counted = _longest_stretch(max(since, waiting[id(after)]), until, blocked.get(after.boot_id, ()))
        found.append(Gap(after.boot_id, after.election, before.fate, since, until, counted))
    return found


def too_long(found: Iterable[Gap], spans: Sequence[Span], within: float) -> Iterable[Violation]:
    """The gaps that count for more than `within` seconds."""
    wins = {(span.boot_id, span.election, span.since): span for span in spans if span.fate is not Fate.VOID}
    for gap in found:
        if gap.waited > within + ROUNDING:
            message = (
                f"nobody led for {gap.waited:.3f} s though somebody waited, {within:g} s were allowed: "
                f"[{gap.until - gap.waited:.6f}, {gap.until:.6f}]"
            )
            shown: tuple[Record, ...] = wins[gap.boot_id, gap.election, gap.until].records[:2]
            yield Violation(Kind.RECOVERY, gap.election, message, shown)


def _waiting_since(spans: Sequence[Span]) -> dict[int, float]:
    """For each term: since when somebody waited at its win, who has won then or later."""
    earliest: dict[tuple[str | None, str], float] = {}
    found = {}
    for span in sorted(spans, key=lambda span: span.since, reverse=True):
        key = (span.boot_id, span.election)
        earliest[key] = min(earliest.get(key, span.since), _campaigned(span))
        found[id(span)] = earliest[key]
    return found


def _campaigned(span: Span) -> float:
    first = span.records[0]
    return number(first, "boot") if first["event"] == "campaign" else min(span.sent, span.since)


def _longest_stretch(since: float, until: float, blocked: Iterable[Fault]) -> float:
    longest = 0.0
    for fault in blocked:  # by their beginning
        if fault.until > since and fault.since < until:
            longest = max(longest, fault.since - since)
            since = fault.until
    return max(longest, until - since, 0.0)
