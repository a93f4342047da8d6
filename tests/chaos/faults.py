"""docs/faults.md, made from the results of the chaos runs: `python -m tests.chaos.faults [--take]`.

The rule: every number comes from the files that the runs have written, and the page says which run. What is not of a
run (what is not survived, which directed test shows what) is text, and names tests that exist.

`make chaos` and `make soak` run the long form of everything. `--take` brings what they have found to
tests/chaos/results, which is committed with the page; a test compares the two.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.chaos.directed import DIRECTED, NOT_SURVIVED

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "faults.md"
REPORTS: Final = ROOT / ".cache" / "reports" / "chaos"
RESULTS: Final = Path(__file__).with_name("results")
BACKENDS: Final = ("etcd", "zookeeper", "redis", "sqlite")
PEERS: Final = ("kazoo", "pottery")
NAMES: Final = (*BACKENDS, *(f"control-{peer}" for peer in PEERS), "soak")
Found = Mapping[str, Any]

HEAD = """# Faults

What was done to coordkit on real servers, and what came of it. This page is made from the results of the runs by
`python -m tests.chaos.faults`; nothing in its tables is written by hand. `make chaos` does all of it again; a run with
the same seed plays the same faults (`COORDKIT_CHAOS_SEED`), and who leads when, the machine decides.

How it is judged: every process keeps a journal ([what is in it, and what is checked](audit.md)), each fault is on
record, and each term writes to a resource behind a fence. Two terms of one election that overlap, a token that does
not rise, a write under an older token that the resource takes, a belief beyond the deadline, a missing or doubled
notice, a leftover in the store: each of them fails the run.
"""


def page(results: Mapping[str, Found]) -> str:
    """`results`: by the name of their file."""
    runs = [results[backend] for backend in BACKENDS if backend in results]
    parts = [HEAD, *_summary(runs)]
    for run in runs:
        parts += _matrix(run)
    parts += _control([results[f"control-{peer}"] for peer in PEERS if f"control-{peer}" in results])
    if "soak" in results:
        parts += _soak(results["soak"])
    parts += ["\n## Faults with tests of their own\n\n", _table(("fault", "what is shown", "test"), DIRECTED)]
    parts += ["\n## What is not survived\n", NOT_SURVIVED]
    return "".join(parts)


def _summary(runs: Sequence[Found]) -> list[str]:
    rows = []
    for run in runs:
        writes = run["writes"]
        rows.append(
            (
                f"{run['backend']} {run['server']}",
                f"{run['terms']:,}",
                f"{run['felled']:,}",
                run["false_step_downs"],
                run["overlaps"],
                run["falling_tokens"],
                f"{writes['accepted']:,}",
                writes["refused"],
                writes["stale_accepted"],
                len(run["leftovers"]),
            )
        )
    heads = (
        *("servers", "terms", "ended by faults of candidates and links", "false step-downs", "overlaps"),
        *("falling tokens", "writes accepted", "refused", "stale ones accepted", "left behind"),
    )
    lines = [
        "- {backend}: seed {seed}, ttl {ttl:g} s, {minutes:.0f} minutes, {processes} processes, elections at "
        "once: {elections}; Python {python}, {machine}\n".format(**run, minutes=run["seconds"] / 60)
        for run in runs
    ]
    return ["\n## The runs\n\n", *lines, "\n", _table(heads, rows)]


def _matrix(run: Found) -> list[str]:
    rows = [
        (
            *(kind, each["count"], each["ended"]),
            *(_seconds(each[what]) for what in ("median", "p99", "max", "bound")),
            each["false_step_downs"],
        )
        for kind, each in run["faults"].items()
        if kind != "calm"
    ]
    calm = run["faults"].get("calm", {"false_step_downs": 0})["false_step_downs"]
    heads = ("fault", "times", "terms it ended", "median", "p99", "most", "bound", "false step-downs")
    told = (
        "Seconds without a leader after a term that was lost in the fault's time, where no other fault came in\n"
        "between: from the fault's begin where the leader was killed or could not act, else from the end of its term.\n"
        "The bound is what the backend promises; a busy machine may add to it. A false step-down is a term that was\n"
        f"lost while the fault touched others; {calm} more came while nothing was wrong.\n\n"
    )
    return [f"\n## {run['backend']}\n\n", told, _table(heads, rows)]


def _control(peers: Sequence[Found]) -> list[str]:
    if not peers:
        return []
    heads = ("who", "use", "terms", "overlaps", "longest overlap", "stale writes", "terms with stale writes")
    rows = []
    lines = []
    for found in peers:
        name = f"{found['peer']} {found['version']}"
        for use, key in ((found["use"], "as_its_example"), ("as careful as it allows", "careful"), ("", "coordkit")):
            each = found[key]
            who = name if key != "coordkit" else f"coordkit, beside {found['peer']}"
            cells = (each["terms"], each["overlaps"], f"{each['longest_overlap']:.2f} s", each["stale_writes"])
            rows.append((who, use, *cells, each["terms_with_stale_writes"]))
        defaults = ", ".join(f"{key}: {'none' if value is None else value}" for key, value in found["defaults"].items())
        lines.append(f"- {name}: seed {found['seed']}, {found['seconds']:.0f} s, ttl {found['ttl']:g} s; {defaults}\n")
    told = (
        "\n## A control\n\n"
        "A harness that finds nothing wrong with anybody is too weak. So peers lead in the same program, on the same\n"
        "servers, under the same kinds of faults, judged by the same journal. Their writes are as their documentation\n"
        "shows; coordkit's go through a fence.\n\n"
    )
    return [told, *lines, "\n", _table(heads, rows)]


def _soak(found: Found) -> list[str]:
    heads = ("series", "first", "second quarter", "last quarter", "most", "may grow by", "per hour")
    rows = [
        (name, *(f"{each[key]:,.0f}" for key in ("first", "before", "after", "most", "allowed", "per_hour")))
        for name, each in found["series"].items()
    ]
    counts = ", ".join(f"{name} {count:,}" for name, count in found["counts"].items())
    faults = ", ".join(f"{name} {count}" for name, count in found["faults"].items())
    grown = ", ".join(found["grown"]) or "nothing"
    told = (
        f"{found['seconds'] / 60:.0f} minutes on all backends at once (seed {found['seed']}): {counts}. Meanwhile: "
        f"{faults}. Grown beyond its allowance: {grown}. Memory rises by what gRPC keeps of each session\n"
        "that is closed ([etcd.md](etcd.md)). Medians of quarters of the time:\n\n"
    )
    return ["\n## A soak\n\n", told, _table(heads, rows)]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def read(folder: Path = RESULTS) -> dict[str, Found]:
    """What lies there, by name."""
    files = {name: folder / f"{name}.json" for name in NAMES}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.faults")
    parser.add_argument("--take", action="store_true", help="take the results of the last runs first")
    asked = parser.parse_args(arguments)
    if asked.take:
        RESULTS.mkdir(exist_ok=True)
        for name in NAMES:
            if (found := REPORTS / f"{name}.json").exists():
                shutil.copy(found, RESULTS)
    PAGE.write_text(page(read()), encoding="utf-8")
    print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
