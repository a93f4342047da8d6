"""What the soak takes for growth, on series made by hand."""

from __future__ import annotations

import random

import pytest

from tests.chaos.growth import FEWEST, Allowance, judge, theil_sen
from tests.chaos.soak import ALLOWANCES, allowance

Series = list[tuple[float, float]]


def series(values: list[float]) -> Series:
    return [(5.0 * number, value) for number, value in enumerate(values)]


def noisy(level: float, noise: float, per_reading: float = 0.0) -> Series:
    chance = random.Random(7)
    return series([level + per_reading * number + chance.uniform(-noise, noise) for number in range(200)])


def test_what_varies_does_not_grow() -> None:
    assert not judge(noisy(100.0, 10.0), Allowance(5.0)).grown


@pytest.mark.parametrize("name", sorted(ALLOWANCES))
def test_a_slow_leak_is_found_in_each_series(name: str) -> None:
    allowed = ALLOWANCES[name]
    level = 50.0
    per_reading = 1.2 * max(allowed.over(level), 1.0) / 100  # over the half between the medians, a fifth too much
    assert judge(noisy(level, allowed.least / 4, per_reading), allowed).grown
    assert not judge(noisy(level, allowed.least / 4), allowed).grown


def test_a_moment_of_trouble_is_no_growth() -> None:
    values = [10.0] * 40
    values[33:37] = [500.0] * 4
    assert not judge(series(values), Allowance(0.0)).grown


def test_filling_a_cache_is_no_growth() -> None:
    assert not judge(series([10.0 * min(number, 10) for number in range(40)]), Allowance(0.0)).grown


def test_one_more_that_stays_is_growth_where_nothing_is_allowed() -> None:
    assert judge(series([5.0] * 28 + [6.0] * 12), Allowance(0.0)).grown


def test_an_allowance_may_be_a_part() -> None:
    grows = series([100.0] * 20 + [108.0] * 20)
    assert not judge(grows, Allowance(0.0, 0.1)).grown
    assert judge(grows, Allowance(0.0, 0.05)).grown


def test_too_few_readings_are_refused() -> None:
    with pytest.raises(ValueError, match="7 readings tell nothing; it takes 8"):
        judge(series([1.0] * (FEWEST - 1)), Allowance(0.0))


def test_the_slope_does_not_follow_outliers() -> None:
    line = [2.0 * number for number in range(41)]
    line[3], line[20], line[39] = 900.0, -900.0, 5000.0
    assert theil_sen(series(line)) == pytest.approx(2.0 / 5.0, rel=0.02)
    assert theil_sen(series([3.0 * number for number in range(1000)])) == pytest.approx(3.0 / 5.0)


def test_each_series_has_the_allowance_of_the_longest_end_of_its_name() -> None:
    assert allowance("process 1 descriptors") is ALLOWANCES["descriptors"]
    assert allowance("etcd descriptors") is ALLOWANCES["etcd descriptors"]
    with pytest.raises(ValueError, match="empty"):
        allowance("flowers")
