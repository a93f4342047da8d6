"""Storms by their seeds, as tests play them.

The rule: COORDKIT_SEED names one to be played alone. A seed is the same run in any interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from coordkit.audit import Fate
from tests.simulation.storm import Run

asked = os.environ.get("COORDKIT_SEED")


def groups(number: int, per_group: int) -> list[list[int]]:
    """So many seeds for each group, which run on several workers; or the one that is asked for."""
    if asked:
        return [[int(asked)]]
    return [list(range(n * per_group, (n + 1) * per_group)) for n in range(number)]


def raged(
    storm: Callable[[int], Run], seeds: Sequence[int], record_property: Callable[[str, object], None]
) -> Counter[str]:
    """What these storms have simulated; `Broken` if one of them is. It is told to the report."""
    simulated = Counter[str]()
    for seed in seeds:
        run = storm(seed)
        report = run.check()
        simulated["leaderships"] += report.terms
        simulated["losses"] += report.terms - report.count(Fate.RESIGNED)
        simulated.update(run.troubles)
    for what, count in sorted(simulated.items()):
        record_property(what, count)
    return simulated


class Digested(Protocol):
    """What a seed has led to."""

    @property
    def digest(self) -> str: ...


def digest_elsewhere(storm: Callable[[int], Digested], seed: int, timeout: float) -> str:
    """The digest of the run of a seed in another interpreter, with other addresses and another hash seed."""
    code = f"from {storm.__module__} import {storm.__name__} as storm\nprint(storm({seed}).digest)"
    again = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
    )
    return again.stdout.strip()
