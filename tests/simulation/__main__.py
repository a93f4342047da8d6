"""Storms by hand: one seed again, or as many new ones as fit into some time.

python -m tests.simulation --seed 7 [--journal]
python -m tests.simulation --etcd --seed 7 [--journal]
python -m tests.simulation --zookeeper --seed 7 [--journal]
python -m tests.simulation --redis --seed 7 [--journal]
python -m tests.simulation --redis-ballots --seed 7 [--journal]
python -m tests.simulation --seconds 600 [--first 1000]          all of these share the time
python -m tests.simulation --etcd --seconds 600 [--first 1000]
python -m tests.simulation --zookeeper --seconds 600 [--first 1000]
python -m tests.simulation --redis --seconds 600 [--first 1000]
python -m tests.simulation --redis-ballots --seconds 600 [--first 1000]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from tests.simulation import etcd_storm, redis_ballots, redis_storm, storm, zookeeper_storm
from tests.simulation.storm import Broken


class Played(Protocol):
    """What happened in the run of a seed."""

    def check(self) -> object: ...  # raises Broken
    def fates(self) -> Counter[str]: ...  # of its terms
    def told(self) -> Iterator[str]: ...  # its journal, line by line


STORMS: dict[str, Callable[[int], Played]] = {
    "core": storm.storm,
    "etcd": etcd_storm.storm,
    "zookeeper": zookeeper_storm.storm,
    "redis": redis_storm.storm,
    "redis-ballots": redis_ballots.course,
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=(__doc__ or "").partition("\n")[0])
    for name, where in (("etcd", "cluster"), ("zookeeper", "ensemble"), ("redis", "voters")):
        only = f"only the {name} adapter, on its simulated {where}"
        parser.add_argument(f"--{name}", dest="chosen", action="append_const", const=name, help=only)
    short = "only the votes of Redis, in short schedules"
    parser.add_argument("--redis-ballots", dest="chosen", action="append_const", const="redis-ballots", help=short)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--journal", action="store_true", help="print its journal, in true time")
    parser.add_argument("--seconds", type=float, default=300.0, help="else run seeds for this long")
    parser.add_argument("--first", type=int, default=None, help="the first of them; default: from the clock")
    asked = parser.parse_args(arguments)

    if asked.seed is not None:
        return _replay(STORMS[(asked.chosen or ["core"])[0]], asked.seed, journal=asked.journal)

    seed = int(time.time()) if asked.first is None else asked.first
    print(f"seeds from {seed}", flush=True)
    chosen = asked.chosen or list(STORMS)
    failed = [name for name in chosen if not _rage(name, seed, asked.seconds / len(chosen))]
    return 1 if failed else 0


def _rage(name: str, seed: int, seconds: float) -> bool:
    """As many seeds as fit; whether all is well."""
    end = time.monotonic() + seconds
    fates: Counter[str] = Counter()
    broken = runs = 0
    while time.monotonic() < end:
        run = STORMS[name](seed)
        runs += 1
        fates.update(run.fates())
        try:
            run.check()
        except Broken as error:
            broken += 1
            print(error, flush=True)
        seed += 1
    shown = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))
    print(f"{name}: {runs} runs, {sum(fates.values())} leaderships ({shown}), {broken} broken", flush=True)
    return not broken and bool(fates)


def _replay(storm: Callable[[int], Played], seed: int, *, journal: bool) -> int:
    run = storm(seed)
    if journal:
        for line in run.told():
            print(line)
    try:
        run.check()
    except Broken as error:
        print(error, file=sys.stderr)
        return 1
    print(f"seed {seed}: {run.fates().total()} leaderships, nothing wrong", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
