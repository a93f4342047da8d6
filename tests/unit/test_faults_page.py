"""The page of faults: what a run has found is on it, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.chaos import faults
from tests.chaos.directed import DIRECTED

ROOT = Path(__file__).parents[2]


def of_a_kind(**found: object) -> dict[str, object]:
    return {"count": 3, "ended": 2, "median": 1.5, "p99": 2.25, "max": 2.5, "bound": 2.2, "false_step_downs": 1} | found


RUN = {
    "backend": "redis",
    "server": "7.0.15",
    "python": "3.11.7",
    "machine": "2 cores",
    "seed": 42,
    "ttl": 2.0,
    "seconds": 600.0,
    "processes": 8,
    "elections": 24,
    "terms": 5001,
    "felled": 1700,
    "false_step_downs": 7,
    "faults": {
        "killed": of_a_kind(),
        "server cut off": of_a_kind(median=None, p99=None, max=None),
        "calm": of_a_kind(false_step_downs=6),
    },
    "overlaps": 0,
    "falling_tokens": 0,
    "leftovers": [],
    "writes": {"tried": 10, "accepted": 9000, "refused": 4, "unknown": 0, "stale_accepted": 0},
}


def test_a_run_is_on_the_page() -> None:
    page = faults.page({"redis": RUN})
    assert "| redis 7.0.15 | 5,001 | 1,700 | 7 | 0 | 0 | 9,000 | 4 | 0 | 0 |" in page
    assert "| killed | 3 | 2 | 1.50 | 2.25 | 2.50 | 2.20 | 1 |" in page
    assert "| server cut off | 3 | 2 | - | - | - | 2.20 | 1 |" in page
    assert "seed 42, ttl 2 s, 10 minutes, 8 processes, elections at once: 24" in page
    assert "6 more came while nothing was wrong" in page


@pytest.mark.parametrize("row", DIRECTED, ids=lambda row: row[2])
def test_the_tests_that_it_names_exist(row: tuple[str, str, str]) -> None:
    first, *others = re.split(r", ", row[2])
    folder = Path(first).parent
    for name in (Path(first), *(folder / other for other in others)):
        assert (ROOT / name).is_file(), name


def test_the_page_is_what_the_results_make() -> None:
    assert faults.read().keys() == set(faults.NAMES), "a run is missing: make chaos, make soak"
    assert faults.PAGE.read_text(encoding="utf-8") == faults.page(faults.read()), "python -m tests.chaos.faults"
