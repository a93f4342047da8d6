"""Random schedules over the real core, on virtual time. A seed that fails is named, and fails again.

COORDKIT_SEED=n runs that one alone. `make simulate` runs new ones for as long as it is told to.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from coordkit.audit import judge
from tests.simulation.seeds import asked, digest_elsewhere, groups
from tests.simulation.storm import Act, Run, acts_out_of_order, storm, succeeded_within_lease

GROUPS = 8
PER_GROUP = 5
# What the seeds below simulate, less a quarter. Without a floor a simulation in which nobody leads would pass.
LEADERSHIPS = 1500
FLOORS = {"resigned": 1000, "expired": 150, "closed": 10, "ineligible": 20, "killed": 30}

SEEDS = groups(GROUPS, PER_GROUP)

simulated: Counter[str] = Counter()
done: set[int] = set()


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: f"seeds-{seeds[0]}-to-{seeds[-1]}")
def test_nobody_leads_beside_another(seeds: list[int]) -> None:
    for seed in seeds:
        run = storm(seed)
        report = run.check()
        assert len(run.acts) > report.terms, f"seed {seed}: bodies act"
        done.add(seed)
        simulated["leaderships"] += report.terms
        simulated.update(span.reason or span.fate.value for span in report.spans)
        simulated.update(f"trouble: {kind}" for kind in run.troubles)


@pytest.mark.skipif(asked is not None, reason="one seed was asked for")
def test_the_simulation_has_simulated_something(record_property: Callable[[str, object], None]) -> None:
    for seeds in SEEDS:  # those that ran on another worker, or were not selected
        test_nobody_leads_beside_another([seed for seed in seeds if seed not in done])
    for what, count in sorted(simulated.items()):
        record_property(what, count)
    print(f"\n{simulated['leaderships']} leaderships simulated: {dict(simulated)}")
    assert simulated["leaderships"] >= LEADERSHIPS
    assert not {what: simulated[what] for what, floor in FLOORS.items() if simulated[what] < floor}
    kinds = {what for what in simulated if what.startswith("trouble: ")}
    assert len(kinds) == 7, "every trouble has happened"


def test_the_same_seed_is_the_same_run() -> None:
    """Also in another interpreter, with other addresses and another hash seed; another seed is another run."""
    again = digest_elsewhere(storm, 11, 60)
    kept = [object() for _ in range(10_000)]  # other addresses here, too
    run = storm(11)
    assert len(kept) == 10_000
    assert again == run.digest
    assert storm(9).digest != run.digest


# -- the judges can find what they look for ------------------------------------------------------------------


def record(event: str, moment: float, /, **fields: object) -> dict[str, object]:
    given = {
        "event": event,
        "pid": 1,
        "boot": moment,
        "mono": moment,
        "boot_id": "virtual",
        "election": "e",
        "candidate": "c",
    }
    return {**given, **fields}


def term(entry: str, token: int, since: float, deadline: float) -> dict[str, object]:
    return record("won", since, entry=entry, token=token, ttl=5.0, sent=since, deadline=deadline)


def test_acts_out_of_order_are_found() -> None:
    in_order = [Act(1.0, "e", 1), Act(2.0, "f", 1), Act(3.0, "e", 2), Act(4.0, "e", 2)]
    assert acts_out_of_order(in_order) == []
    assert len(acts_out_of_order([*in_order, Act(5.0, "e", 1)])) == 1


def test_a_successor_within_a_running_bodys_lease_is_found() -> None:
    over_at_2 = record("lost", 2.0, entry="a", token=1, reason="closed", at=2.0)
    report = judge([term("a", 1, 1.0, 6.0), over_at_2, term("b", 2, 3.0, 8.0)])
    assert report.ok
    assert succeeded_within_lease(report, {"a": 2.5, "b": 9.0}) == []
    assert len(succeeded_within_lease(report, {"a": 3.5, "b": 9.0})) == 1
    late = judge([term("a", 1, 1.0, 6.0), over_at_2, term("b", 2, 6.5, 11.0)])
    assert succeeded_within_lease(late, {"a": 20.0, "b": 20.0}) == []


def test_a_run_with_a_violation_is_broken() -> None:
    run = Run(7, 5.0, records=[term("a", 1, 1.0, 6.0), term("b", 2, 3.0, 8.0)])
    with pytest.raises(AssertionError, match=r"seed 7: 1 wrong, .*--seed 7"):
        run.check()


def test_a_seed_can_be_replayed_by_hand() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", "9", "--journal"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == len(storm(9).records)
    assert "nothing wrong" in done.stderr
