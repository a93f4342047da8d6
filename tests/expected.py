"""How many tests each suite runs on each backend: the committed table, and what a run made of it.

The rule: a test that silently stopped running is a failure. So the table is compared in both directions,
and a test skipped for want of its backend fails where CI=true. Only what the platform itself cannot do (a
kernel without time namespaces) may be skipped everywhere: its reason begins with `PLATFORM`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BACKENDS = ("memory", "sqlite", "etcd", "zookeeper", "redis", "postgresql", "mariadb", "file", "http")
SUITES_PER_BACKEND = ("contract", "integration")
PLATFORM = "platform: "
SECOND_TRIES = 4  # of a run; conftest.py tells which tests may have one
TABLE = Path(__file__).with_name("expected-tests.json")

Outcome = Literal["passed", "failed", "skipped", "excused", "xfailed"]
Cell = tuple[str, str]  # suite, backend


@dataclass(frozen=True, slots=True)
class Result:
    """One test of a run. `backend` is empty where the test has none. `again`: it was tried once more."""

    test: str
    suite: str
    backend: str
    outcome: Outcome
    reason: str = ""
    again: bool = False

    @property
    def executed(self) -> bool:
        return self.outcome not in ("skipped", "excused")


def load(path: Path = TABLE) -> dict[Cell, int]:
    """Read the committed table."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return {(suite, backend): count for suite, row in table.items() for backend, count in row.items()}


def save(counts: Mapping[Cell, int], path: Path = TABLE) -> None:
    """Write the table in an order that makes small differences small."""
    table: dict[str, dict[str, int]] = {}
    for suite, backend in _in_order(counts):
        table.setdefault(suite, {})[backend] = counts[suite, backend]
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def render(results: Iterable[Result], expected: Mapping[Cell, int]) -> str:
    """The table of expected and executed tests, a line for each suite and backend."""
    seen: dict[Cell, Counter[str]] = {}
    for result in results:
        if result.backend:
            counts = seen.setdefault((result.suite, result.backend), Counter())
            counts["executed" if result.executed else "skipped"] += 1
            counts[result.outcome] += result.executed
    columns = ("executed", "passed", "failed", "skipped")
    lines = [_line("suite", "backend", "expected", *columns)]
    for cell in _in_order(expected.keys() | seen.keys()):
        counts = seen.get(cell, Counter())
        lines.append(_line(*cell, expected.get(cell, 0), *(counts[column] for column in columns)))
    return "\n".join(lines)


def complaints(results: Iterable[Result], expected: Mapping[Cell, int], *, full_table: bool, ci: bool) -> list[str]:
    """What is wrong with a run beside failed tests: empty if nothing is.

    `full_table`: everything was selected, so the counts must be those of the table. `ci`: nothing that
    carries a backend may be skipped, but for what the platform cannot do.
    """
    found: Counter[Cell] = Counter()
    wrong = []
    results = list(results)
    if (tried := sum(result.again for result in results)) > SECOND_TRIES:
        wrong.append(f"{tried} tests had to be tried once more, and {SECOND_TRIES} may")
    for result in results:
        if result.backend:
            found[result.suite, result.backend] += 1
            if ci and result.outcome == "skipped":
                wrong.append(f"{result.test} was skipped: {result.reason}")
    if full_table:
        for cell in _in_order(expected.keys() | found.keys()):
            if found[cell] != expected.get(cell, 0):
                counts = f"{expected.get(cell, 0)} tests expected, {found[cell]} found"
                wrong.append(f"{cell[0]} on {cell[1]}: {counts} (`make expected` writes the table anew)")
    return wrong


def _line(suite: str, backend: str, *columns: object) -> str:
    return f"{suite:<14}{backend:<12}" + "".join(f"{column:>9}" for column in columns)


def _in_order(cells: Iterable[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: (cell[0], BACKENDS.index(cell[1])))
