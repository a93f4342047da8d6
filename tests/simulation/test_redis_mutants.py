"""Each rule of epoch voting, patched out of the shipped source, must be missed. See `mutants.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.mutants import Copy, Mutant
from tests.simulation.redis_mutants import MUTANTS
from tests.simulation.redis_schedules import SCHEDULES


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The package and the schedules as they are shipped, compiled; every schedule holds there."""
    beside = ("storm", "redis_model", "redis_lua", "redis_bench")
    return Copy(tmp_path_factory.mktemp("original") / "copy", "redis_schedules", beside)


def test_every_schedule_shows_a_rule() -> None:
    assert {mutant.schedule for mutant in MUTANTS} == set(SCHEDULES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_without_the_rule_the_schedule_breaks(mutant: Mutant, copy: Copy, tmp_path: Path) -> None:
    copy.check(mutant, tmp_path / "mutant")
