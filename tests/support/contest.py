"""Two candidates that write to one fenced file, in trouble; how it is judged, and what it leaves.

The rule: what a test says of a contest is said by the candidates' journal and by the records of their writes; what the
candidates tell it only says when to go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from coordkit import LeaderElector
from coordkit.audit import Fate, Report, Span, judge, parse
from coordkit.clock import host_boottime
from coordkit.testing.contract import eventually
from tests.support import writes
from tests.support.children import PATIENCE, Child
from tests.support.contest_scenes import lead_and_write

ELECTION = "x"


class Candidate:
    """One of them, and the lines that it has told."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.told: list[str] = []

    def until(self, word: str, timeout: float = PATIENCE) -> list[str]:
        """The rest of the next line of this word; what is told before it is kept in `told`."""
        end = time.monotonic() + timeout
        while True:
            line = self.child.line(max(0.01, end - time.monotonic()))
            self.told.append(line)
            first, *rest = line.split()
            if first == word:
                return rest

    def leads(self, timeout: float = PATIENCE) -> int:
        """The token of its next term."""
        return int(self.until("leads", timeout)[0])

    def lost(self, timeout: float = PATIENCE) -> str:
        """Why its term was lost."""
        return self.until("lost", timeout)[1]

    def leading(self) -> int:
        """The token of the term that it has, by the lines until now; 0: it has none."""
        ends = [line.split() for line in self.drain().told if line.startswith(("leads ", "lost ", "resigned "))]
        return int(ends[-1][1]) if ends and ends[-1][0] == "leads" else 0

    def drain(self) -> Self:
        """Read what it has told."""
        while not self.child.quiet():
            self.told.append(self.child.line())
        return self

    def count(self, word: str) -> int:
        """How many lines of this word it has told."""
        self.drain()
        return sum(line.split()[0] == word for line in self.told)

    def writes_late(self, token: int) -> str:
        """What becomes of a write with this token, now."""
        self.child.tell(f"late {token}")
        return self.until("late")[0]


class Contest:
    """Candidates of one election, in processes of their own. As a context manager: none is left.

    `url`: for the tests' own looks.
    """

    def __init__(self, folder: Path, url: str, *, ttl: float) -> None:
        self.ttl = ttl
        self.folder = folder
        self._url = url
        self._stack = ExitStack()
        self._candidates: list[Candidate] = []

    def candidate(self, url: str = "", *, before: Sequence[str] = (), journal: Path | None = None) -> Candidate:
        """One more, which contends when this returns."""
        child = Child(
            lead_and_write,
            *(url or self._url, ELECTION, self.ttl, self.folder),
            before=before,
            env={"COORDKIT_JOURNAL": str(journal or self.journal)},
        )
        one = Candidate(self._stack.enter_context(child))
        one.until("contends")
        self._candidates.append(one)
        return one

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def one_leads(self, timeout: float = PATIENCE) -> Candidate:
        """Wait until the store names a leader, and that candidate has been told so; it."""
        elector = LeaderElector(self._url, ELECTION, ttl=self.ttl)
        found: list[Candidate] = []

        def told() -> bool:
            leader = elector.leader(timeout=timeout)
            if leader is not None:
                found[:] = [one for one in self._candidates if one.leading() == int(leader.token)]
            return len(found) == 1

        try:
            eventually(told, "one leads", timeout)
        finally:
            elector.close()
        return found[0]

    def all_leave(self) -> None:
        """Whoever waits leaves first; each ends well."""
        leader = self.one_leads()
        for one in sorted(self._candidates, key=lambda each: each is leader):
            one.child.tell("leave")
            code = one.child.exit_code()
            assert code == 0, one.child.errors

    def report(self) -> Report:
        """By the journal every promise was kept, and no stale write was accepted."""
        records, cut = parse(self.journal.read_bytes())
        report = judge(records, cut=cut)
        assert report.ok, "\n".join(each.message for each in report.violations)
        written = writes.read(self.folder)
        assert written.counts["accepted"] > 0
        assert not written.stale, written.stale
        lost = [span for span in report.spans if span.fate is Fate.LOST]
        for span in lost:
            assert sum(record["event"] == "notified" for record in span.records) <= 1
        print(
            f"{report.terms} terms, {len(lost)} lost, {report.renewals} renewals, "
            f"{written.counts['accepted']} writes accepted, {written.counts['refused']} refused"
        )
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def spans_of(report: Report, *tokens: int) -> list[Span]:
    """The terms of these tokens."""
    known = {span.token: span for span in report.spans}
    return [known[token] for token in tokens]


def measured(what: str, since: float, until: float, bound: float, slack: float = 10.0) -> float:
    """Print how long it took and in how long it should; the machine may be busy for `slack` more."""
    seconds = until - since
    print(f"{what}: {seconds:.2f} s (bound {bound:.2f} s)")
    assert seconds <= bound + slack, f"{what} took {seconds:.2f} s, the bound is {bound:.2f} s"
    return seconds


def stays_quiet(seconds: float, *candidates: Candidate, word: str = "leads") -> None:
    """For so long none of them tells this."""
    before = [one.count(word) for one in candidates]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert [one.count(word) for one in candidates] == before, [one.told for one in candidates]
        time.sleep(0.05)  # that nothing comes is told by nobody


def now() -> float:
    """On the journal's axis."""
    return host_boottime()


Left = Callable[[], object]


def nothing_left(left: Left) -> None:
    """Of what candidates store."""
    eventually(lambda: not left(), "nothing is left", 15.0)
