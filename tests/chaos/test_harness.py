"""The chaos run is able to find what it looks for: candidates that act for too long, at a fence that is open.

The rule: the same processes, faults and judges as elsewhere; only two rules of the package are patched out. They suffer
until both were found, and a number of rounds at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from coordkit.audit import Kind, Report
from tests.chaos import schedule
from tests.chaos.results import Results
from tests.chaos.schedule import ALL, LEADER, Step
from tests.chaos.standard import stage
from tests.chaos.test_redis_chaos import TERMS, TTL
from tests.servers.redis import Redis
from tests.support.patched import patched
from tests.support.voting import mark_new

pytestmark = [pytest.mark.chaos, pytest.mark.backend("redis")]

ROUNDS = 10
ACTS_TOO_LONG = ("lease.py", "    return ttl * (1 - 2 * drift) - STOP_EARLY\n", "    return ttl * 1.6\n")
FENCE_IS_OPEN = (
    "fencing/file.py",
    "        if newest is not None and token < newest:\n            raise StaleToken(token, newest)\n",
    "",
)


def rounds() -> Iterator[Step]:
    """Leaders are cut off, and stopped in the middle of their writes."""
    for number in count():
        side = schedule.SIDES[number % 2]
        yield Step(schedule.CUT, side, ALL, 2.2 * TTL, 0.5, True, 0.0, 0.0)
        yield Step(schedule.PAUSED_IN_WRITE, LEADER, "", 2.5 * TTL, 0.1, True, 0.0, 0.0)


@pytest.mark.timeout(400)
def test_two_leaders_and_stale_writes_are_found(redis: Redis[Any], faketime: Path, tmp_path: Path) -> None:
    url = redis.url(max_ttl=str(TTL), cluster="chaos")
    mark_new(redis, url)
    rules = patched(tmp_path / "patched", ACTS_TOO_LONG, FENCE_IS_OPEN)
    with stage(tmp_path, redis, url, TERMS, seed=1, faketime=faketime, environment=rules) as (run, conductor):

        def enough() -> bool:
            found = overlaps(run.report()) > 0 and run.writes().stale_accepted > 0
            return found or conductor.made.total() >= 2 * ROUNDS

        while not run.settled:
            run.go_on(0.1)
        with conductor:
            conductor.play(rounds(), enough)
        run.leave()
        results = Results.of("redis", redis.version, run, seed=1, seconds=run.seconds)
    print(results.as_json(TERMS.bound))
    assert overlaps(results.report) > 0
    assert results.writes.stale_accepted > 0
    with pytest.raises(AssertionError):
        results.check()


def overlaps(report: Report) -> int:
    return sum(each.kind is Kind.OVERLAP for each in report.violations)
