"""Which mutants of epoch voting random schedules find: each is played until a seed is broken, or so many are not.

The rule: found is what is `Broken`, as where a directed schedule finds it; a patched source that falls over is not.

    python -m tests.simulation.redis_chance [--runs 3000] [--first 0] [--only WORDS]     a table in Markdown
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.simulation.mutants import Copy, Mutant
from tests.simulation.redis_mutants import MUTANTS

BESIDE = ("storm", "redis_terms", "redis_model", "redis_lua")


def found(copy: Copy, mutant: Mutant, place: Path, first: int, runs: int) -> tuple[str, float]:
    """The seed that is broken and how it is told, or that none is; seconds that it took."""
    copy.patch(mutant, place)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.redis_ballots", str(first), str(runs)],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.monotonic() - began
    if done.returncode == 0:
        return "-", took
    if done.returncode == 3:
        head, _, rest = done.stdout.partition(":")
        wrong = rest.splitlines()[1].strip()
        return f"{'fell over, ' * wrong.startswith('in ')}{head}: {wrong}", took
    return f"fell over: {done.stderr.strip().splitlines()[-1]}", took


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.redis_chance")
    parser.add_argument("--runs", type=int, default=3000, help="for each mutant, at most")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default="", help="mutants with these words in their names")
    parser.add_argument("--workers", type=int, default=2, help="so many at once")
    asked = parser.parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if asked.only in str(mutant)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.workers) as pool:
        copy = Copy(Path(folder) / "copy", "redis_ballots", BESIDE)
        played = [
            pool.submit(found, copy, mutant, Path(folder) / f"{number}", asked.first, asked.runs)
            for number, mutant in enumerate(chosen)
        ]
        print(f"| rule | without it | found within {asked.runs} runs |\n|---|---|---|", flush=True)
        caught = 0
        for mutant, play in zip(chosen, played, strict=True):
            told, took = play.result()
            caught += told.startswith("seed")
            print(f"| {mutant.rule} | {mutant.what} | {told[:150]} ({took:.0f} s) |", flush=True)
    print(f"\n{caught} of {len(chosen)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
