"""Thousands of short random schedules over the real rules of voting and the real scripts.

A seed that fails is named, and fails again: `python -m tests.simulation --redis-ballots --seed N --journal`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from tests.simulation.mutants import ROOT
from tests.simulation.redis_ballots import TROUBLES, course
from tests.simulation.redis_terms import Term, out_of_order, overlaps
from tests.simulation.seeds import asked, digest_elsewhere, groups

GROUPS = 8
PER_GROUP = 250
SECONDS = 100.0  # for a group
# What each group simulates at least: about half of the poorest. Without floors a simulation in which nobody leads would
# pass. Each group for itself: they run on several workers.
FLOORS = {
    "won": 450,
    "ran out": 150,
    "given up": 100,
    "attempt: Behind": 1500,
    "attempt: OutcomeUnknown": 50,
    "renewal: Renewed": 150,
    "renewal: Lost": 8,
    "renewal: Unknown": 60,
    "confirm: Confirmed": 8,
}


def played(seeds: list[int]) -> Counter[str]:
    """In an interpreter of their own: whoever measures coverage makes them several times as slow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.redis_ballots", str(seeds[0]), str(len(seeds))],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return Counter(json.loads(done.stdout))


@pytest.mark.parametrize("seeds", groups(GROUPS, PER_GROUP), ids=lambda seeds: f"seeds-{seeds[0]}-to-{seeds[-1]}")
def test_nobody_leads_beside_another(seeds: list[int], record_property: Callable[[str, object], None]) -> None:
    simulated = played(seeds)
    for what, count in sorted(simulated.items()):
        record_property(what, count)
    print(dict(simulated))
    if asked is None:
        poor = {what: simulated[what] for what, least in FLOORS.items() if simulated[what] < least}
        assert not poor
        assert not [trouble for trouble in TROUBLES if simulated[trouble] < PER_GROUP / 5]


def test_the_same_seed_is_the_same_run() -> None:
    """Also in another interpreter, with other addresses and another hash seed."""
    again = digest_elsewhere(course, 4, 60)
    kept = [object() for _ in range(10_000)]  # other addresses here, too
    assert again == course(4).digest
    assert len(kept) == 10_000


def test_what_is_judged() -> None:
    first, beside = Term("e", 5, "a", 1.0, 2.0), Term("e", 6, "b", 1.9, 3.0)
    after, lower = Term("e", 6, "b", 2.0, 3.0), Term("e", 5, "b", 2.0, 3.0)
    elsewhere = Term("f", 5, "b", 1.5, 3.0)
    assert overlaps([first, beside])
    assert not overlaps([first, after])
    assert not overlaps([first, elsewhere])
    assert out_of_order([first, lower])
    assert not out_of_order([first, after])
    assert not out_of_order([first, elsewhere])
