"""What candidates were told, written down by themselves: evidence beside the journal that `coordkit.audit` judges.

The rule: the reading is taken before the check, so it is never later than the moment for which the check spoke.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from pathlib import Path

from coordkit import Term
from coordkit.audit import Fate, Report
from coordkit.clock import host_boottime


class Witness:
    """A file that processes share, one line for every `ensure` that returned."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def sees(self, term: Term) -> None:
        """The term says that it may act; raises what `ensure` raises if it says that it may not."""
        now = host_boottime()
        term.ensure()
        os.write(self._file, f"{int(term.token)} {now!r}\n".encode())


def check(path: Path, report: Report) -> set[int]:
    """Each time a candidate was told that it leads, its term stood by the journal, and no newer one had begun.

    Of one election. Returns the tokens seen.
    """
    lines = re.findall(r"^(\d+) (\d+\.\d+)$", path.read_text(encoding="ascii"), re.MULTILINE)
    told = [(float(reading), int(token)) for token, reading in lines]
    acting = [span for span in report.spans if span.fate is not Fate.VOID]
    spans = {span.token: span for span in acting}
    starts = [span.since for span in acting]
    for reading, token in told:
        assert spans[token].since <= reading <= spans[token].until
        assert acting[bisect_right(starts, reading) - 1].token == token
    return {token for _, token in told}
