"""What a fence adds to a write: fenced and unfenced writes in turn, and how the benchmarks tell it.

The rule: both kinds alternate, so that whatever else the machine does meets both; only medians and ratios are told.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

SAMPLES, FEW = 400, 60
WARM_UP = 20

Write = Callable[[], object]
Price = dict[str, float]
Prices = dict[str, dict[str, Price]]  # by store, by kind of write


def alternated(bare: Write, fenced: Write, samples: int) -> Price:
    """Median milliseconds of a write without and with the fence, and their ratio."""
    took: dict[Write, list[float]] = {bare: [], fenced: []}
    for number in range(2 * (samples + WARM_UP)):
        write = fenced if number % 4 in (1, 2) else bare  # each goes first as often as second
        started = time.perf_counter()
        write()
        took[write].append(time.perf_counter() - started)
    without, within = (statistics.median(took[write][WARM_UP:]) for write in (bare, fenced))
    ratio = round(within / without, 2)
    return {"bare_ms": round(without * 1e3, 3), "fenced_ms": round(within * 1e3, 3), "ratio": ratio}


def told(prog: str, measured: Callable[[int], Prices], arguments: Sequence[str]) -> int:
    """The command line of such a benchmark."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="few samples, which say little")
    asked = parser.parse_args(arguments)
    found = measured(FEW if asked.quick else SAMPLES)
    if asked.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{'fence on':<14}{'write':<24}{'bare':>10}{'fenced':>10}{'ratio':>8}")
    for store, kinds in found.items():
        for kind, price in kinds.items():
            times = f"{price['bare_ms']:>7.2f} ms{price['fenced_ms']:>7.2f} ms"
            print(f"{store:<14}{kind:<24}{times}{price['ratio']:>8.2f}")
    return 0
