"""What every module of directed schedules is made of: schedules by name, a promise that is checked, and a way to play.

The rule: a schedule raises `Broken` where the promise is broken, and nothing else. A module that is run plays the
schedules that are named; exit status 3: broken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import coordkit
from tests.simulation.storm import Broken


class Schedules(dict[str, Callable[[], None]]):
    """The schedules of one module, by name, in the order in which they stand there."""

    def schedule(self, course: Callable[[], None]) -> Callable[[], None]:
        """A course of events, known by its name."""
        self[course.__name__] = course
        return course

    def play(self, names: Sequence[str]) -> int:
        """Play these, or all, on the sources beside them; the exit status."""
        package = Path(coordkit.__file__).parents[1]
        if Path(__file__).parents[2] != package:
            print(f"coordkit comes from {package}", file=sys.stderr)
            return 2
        for name in names or list(self):
            try:
                self[name]()
            except Broken as broken:
                print(f"{name}: {broken}")
                return 3
        return 0


def must(held: bool, promise: str) -> None:
    """The promise that is broken if this does not hold."""
    if not held:
        raise Broken(promise)
