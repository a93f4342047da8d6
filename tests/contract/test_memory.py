"""The contract on `memory://`, behind a link that takes its time, so that calls have awaits to be interrupted at."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from coordkit import testing
from coordkit.testing.contract import BackendContract, StoreUnderTest

pytestmark = pytest.mark.backend("memory")

LINK_SECONDS = 0.001
_numbers = itertools.count(1)


class MemoryUnderTest:
    """One store of this process."""

    def __init__(self) -> None:
        self._name = f"contract-{next(_numbers)}"
        self._faults = testing.faults(self._name)
        self._faults.delay(LINK_SECONDS)

    def url(self) -> str:
        return f"memory://{self._name}"

    def entries(self, election: str) -> Sequence[str]:
        return self._faults.entries(election)

    def cut(self) -> None:
        self._faults.cut()

    def heal(self) -> None:
        self._faults.heal()
        self._faults.delay(LINK_SECONDS)

    def evict(self, election: str) -> None:
        self._faults.expire(election)


class TestMemory(BackendContract):
    shown_by = {
        "a candidate that is paused, cut off or dropped": (
            "tests.simulation.test_random:test_nobody_leads_beside_another"
        ),
        "lost and late replies": "tests.simulation.test_directed:test_the_promise_holds",
        "lost hints": "tests.simulation.test_random:test_nobody_leads_beside_another",
    }

    @pytest.fixture
    def store(self) -> StoreUnderTest:
        return MemoryUnderTest()
