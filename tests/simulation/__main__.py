"""Storms by hand: one seed again, or as many new ones as fit into some time.

python -m tests.simulation --seed 7 [--journal]
python -m tests.simulation --etcd --seed 7 [--journal]
python -m tests.simulation --seconds 600 [--first 1000]          half of the time for etcd
python -m tests.simulation --etcd --seconds 600 [--first 1000]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable

from tests.simulation import etcd_storm, storm
from tests.simulation.storm import Broken, Run

STORMS: dict[str, Callable[[int], Run]] = {"core": storm.storm, "etcd": etcd_storm.storm}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--etcd", action="store_true", help="only the etcd adapter, on its simulated cluster")
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--journal", action="store_true", help="print its journal, in true time")
    parser.add_argument("--seconds", type=float, default=300.0, help="else run seeds for this long")
    parser.add_argument("--first", type=int, default=None, help="the first of them; default: from the clock")
    asked = parser.parse_args(arguments)

    if asked.seed is not None:
        return _replay(STORMS["etcd" if asked.etcd else "core"], asked.seed, journal=asked.journal)

    seed = int(time.time()) if asked.first is None else asked.first
    print(f"seeds from {seed}", flush=True)
    chosen = ["etcd"] if asked.etcd else list(STORMS)
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
        fates.update(span.fate.value for span in run.report().spans)
        try:
            run.check()
        except Broken as error:
            broken += 1
            print(error, flush=True)
        seed += 1
    shown = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))
    print(f"{name}: {runs} runs, {sum(fates.values())} leaderships ({shown}), {broken} broken", flush=True)
    return not broken and bool(fates)


def _replay(storm: Callable[[int], Run], seed: int, *, journal: bool) -> int:
    run = storm(seed)
    if journal:
        for record in run.records:
            print(json.dumps(record))
    try:
        report = run.check()
    except Broken as error:
        print(error, file=sys.stderr)
        return 1
    print(f"seed {seed}: {report.terms} leaderships, nothing wrong", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
