"""The judge of journals: did two leaders of one election ever overlap? No I/O, no clock, no threads.

The rule: what is on file is judged and nothing else, whatever it is; a journal that cannot be read hides something, so
that is a violation too. `docs/audit.md` tells what is judged and what cannot be.

Journals of different boots of a host, or of different hosts, share no axis: they are judged apart.

  reading     lines to records; which records are none
  terms       the entries and their terms: overlaps, tokens, belief, order of lines
  notices     on_lost: once for a term that was lost, never for another
  writes      tried, accepted, refused: a stale write that was accepted
  recovery    how long nobody led while somebody waited
  judging     all of them together
  found       what they find
"""

from __future__ import annotations

from coordkit.audit.found import Fate, Fault, Gap, Kind, Outcome, Record, Report, Span, Violation, Write, summary
from coordkit.audit.judging import judge
from coordkit.audit.reading import holds_journal, parse

__all__ = [
    "Fate",
    "Fault",
    "Gap",
    "Kind",
    "Outcome",
    "Record",
    "Report",
    "Span",
    "Violation",
    "Write",
    "holds_journal",
    "judge",
    "parse",
    "summary",
]
