"""Whether what should stay the same has grown. No I/O, no clock.

The rule: the median of the last quarter is held against the median of the second. The first quarter is left out, for
a program fills its caches then; medians, because a moment of trouble, in which connections are doubled or gone, says
nothing of the rest. What it may be above is stated for each thing; the slope (Theil and Sen: the median of the slopes
of all pairs) is told beside it, for those who want to know how fast, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

FEWEST = 8  # readings: two in each quarter
FOR_SLOPES = 200  # readings at most: their pairs are many


@dataclass(frozen=True, slots=True)
class Allowance:
    """By how much the last quarter may be above the second: so much, and this part of the second."""

    least: float
    part: float = 0.0

    def over(self, before: float) -> float:
        return self.least + self.part * abs(before)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one series."""

    first: float
    last: float
    most: float
    before: float  # the median of the second quarter
    after: float  # of the last
    allowed: float  # above `before`
    per_hour: float

    @property
    def grown(self) -> bool:
        return self.after > self.before + self.allowed


def judge(readings: Sequence[tuple[float, float]], allowance: Allowance) -> Verdict:
    """`readings`: each with its time in seconds, in order. `ValueError` if they are too few to tell."""
    if len(readings) < FEWEST:
        raise ValueError(f"{len(readings)} readings tell nothing; it takes {FEWEST}")
    values = [value for _, value in readings]
    quarter = len(values) // 4
    before, after = median(values[quarter : 2 * quarter]), median(values[-quarter:])
    slope = 3600 * theil_sen(readings)
    return Verdict(values[0], values[-1], max(values), before, after, allowance.over(before), slope)


def theil_sen(readings: Sequence[tuple[float, float]]) -> float:
    """The slope, per second, of a line that half of the readings may be far from."""
    some = readings[:: max(1, -(-len(readings) // FOR_SLOPES))]
    return median((later[1] - one[1]) / (later[0] - one[0]) for one, later in combinations(some, 2))
