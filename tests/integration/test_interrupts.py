"""Thousands of interrupted entries leave no orphan and a live engine.

The rule: the interrupts are real (a signal that raises KeyboardInterrupt in the main thread, `Task.cancel`, Ctrl-C in
`asyncio.run`), so a process of its own suffers them; the seed is printed, the instants are the machine's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import interrupt_scenes as scenes
from tests.support.children import Child


@pytest.mark.stress
@pytest.mark.backend("sqlite")
@pytest.mark.parametrize(
    ("scene", "times"),
    [
        (scenes.interrupted_by_keyboard, 1500),
        (scenes.interrupted_by_cancellation, 1304),
        (scenes.interrupted_loops, 200),
    ],
    ids=["keyboard", "cancellation", "loops"],
)
def test_interrupted_entries_leave_nothing(scene: Callable[..., None], times: int, tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    journal = tmp_path / "journal"
    with Child(scene, tmp_path / "leader.db", seed, times, env={"COORDKIT_JOURNAL": str(journal)}) as child:
        outcomes = dict(word.split("=") for word in child.expect("outcomes", 100).split())
        print(outcomes)
        assert child.expect("orphans") == ""
        assert float(child.expect("slowest")) < 2.0
        assert child.expect("engine") == "alive"
        assert child.expect("held") == ""
        assert child.expect("requests") == ""
        assert int(child.expect("threads")) <= 3  # the engine, its log, the file's
        assert child.exit_code() == 0, child.errors
        # Python swallows an interrupt that strikes while it frees something, and says so: the next one counts.
        swallowed = re.compile(r"^Exception ignored in: .*?^KeyboardInterrupt:? *\n", re.MULTILINE | re.DOTALL)
        errors = swallowed.sub("", child.errors)
        assert "Traceback" not in errors, errors
        assert " failed: " not in errors, errors  # a task of the engine
    assert sum(map(int, outcomes.values())) == times
    assert outcomes.keys() <= {"interrupted", "led", "behind"}
    assert int(outcomes["interrupted"]) > times / 10, "the interrupts came too late to test anything"
