"""The directed schedules on the sources as they are. What each rule is worth is shown by test_mutants.py."""

from __future__ import annotations

import pytest

from tests.simulation.schedules import SCHEDULES


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_promise_holds(name: str) -> None:
    SCHEDULES[name]()
