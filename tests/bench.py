"""What an election costs on this machine: `make bench`, or `python -m tests.bench [--json] [--quick]`.

The rule: only medians and ratios are told, with the machine's facts beside them; a handover is timed together with the
least that could carry it, in the same two processes and the same minute. Nothing here judges: no number is a limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import select
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import coordkit
from coordkit import engine
from coordkit.backends.inotify import IN_ATTRIB, FileEvents
from tests.support.pair import Peer

ROOT = Path(__file__).parents[1]
TTL = 10.0
POOL = 32  # threads that campaign at once

# --- pure ----------------------------------------------------------------------------------------------------


def quantile(samples: Sequence[float], part: float) -> float:
    """The smallest sample that at least `part` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Median and p99 of seconds, in microseconds."""
    return {
        "median_us": round(statistics.median(samples) * 1e6, 1),
        "p99_us": round(quantile(samples, 0.99) * 1e6, 1),
        "samples": len(samples),
    }


def switches(tasks: Path = Path("/proc/self/task")) -> dict[int, int]:
    """Voluntary context switches of each thread so far: each is a wait that has ended, or will."""
    counts = {}
    for task in tasks.iterdir():
        try:
            counts[int(task.name)] = field(task / "status", "voluntary_ctxt_switches")
        except FileNotFoundError:
            continue  # the thread has just ended
    return counts


def field(status: Path, name: str) -> int:
    """A number in a status file of /proc."""
    for line in status.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise KeyError(name)


def rates(before: Mapping[int, int], after: Mapping[int, int], seconds: float) -> dict[int, float]:
    """Switches per second of each thread that is in both."""
    return {thread: (after[thread] - count) / seconds for thread, count in before.items() if thread in after}


def machine() -> dict[str, object]:
    """What the numbers depend on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "coordkit": coordkit.__version__,
    }


def render(found: Mapping[str, Any]) -> str:
    """All of it as lines of text."""
    facts = found["machine"]
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    lines.append(f"{'':<44}{'median':>12}{'p99':>12}")
    for what, value in found["times"].items():
        lines.append(f"{what:<44}{value['median_us']:>9.1f} us{value['p99_us']:>9.1f} us")
    lines.append("")
    lines += [f"{what:<44}{value:>9.2f} x" for what, value in found["ratios"].items()]
    lines += [f"{what:<44}{value:>9.0f} ns" for what, value in found["calls_ns"].items()]
    lines.append("")
    columns = list(found["many"])
    names: dict[str, None] = {}
    for column in columns:
        names |= dict.fromkeys(found["many"][column])
    lines.append(f"{'':<44}" + "".join(f"{column:>16}" for column in columns))
    for name in names:
        cells = [found["many"][column].get(name) for column in columns]
        lines.append(f"{name:<44}" + "".join(f"{'-' if cell is None else cell:>16}" for cell in cells))
    return "\n".join(lines)


# --- one election --------------------------------------------------------------------------------------------


def boottime() -> float:
    """A stamp that compares between processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def acquire_and_release(url: str, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each `campaign()` and of each `resign()`, alone in the election."""
    elector = coordkit.LeaderElector(url, "bench", ttl=TTL)
    acquired, released = [], []
    elector.campaign().resign()  # opens the session
    for _ in range(rounds):
        start = time.perf_counter()
        term = elector.campaign()
        won = time.perf_counter()
        term.resign()
        released.append(time.perf_counter() - won)
        acquired.append(won - start)
    elector.close()
    return acquired, released


def per_call_ns(call: Callable[[], object], calls: int, rounds: int = 7) -> float:
    """The median over rounds of nanoseconds per call, the loop around it taken off."""

    def timed(work: Callable[[], object]) -> float:
        start = time.perf_counter_ns()
        for _ in range(calls):
            work()
        return (time.perf_counter_ns() - start) / calls

    def nothing() -> None:
        return None

    loop = statistics.median(timed(nothing) for _ in range(rounds))
    return max(0.0, statistics.median(timed(call) for _ in range(rounds)) - loop)


def checks(url: str, calls: int) -> dict[str, float]:
    """Nanoseconds of what a body asks before it acts."""
    elector = coordkit.LeaderElector(url, "checks", ttl=TTL)
    with elector.lead() as term:
        found = {
            "term.ensure()": per_call_ns(term.ensure, calls),
            "term.ensure(min_remaining)": per_call_ns(lambda: term.ensure(1.0), calls),
            "term.valid": per_call_ns(lambda: term.valid, calls),
            "term.remaining()": per_call_ns(term.remaining, calls),
        }
    elector.close()
    return found


# --- two processes -------------------------------------------------------------------------------------------


def serve_peer(url: str, raw: str) -> None:
    """The life of a peer: orders on stdin, stamps on stdout."""
    elector = coordkit.LeaderElector(url, "handover", ttl=30.0)
    connection = sqlite3.connect(raw, isolation_level=None)
    events = FileEvents()
    events.watch(raw, IN_ATTRIB)
    connection.execute("PRAGMA synchronous=NORMAL")
    term = None
    for line in sys.stdin:
        stamps: list[float] = []
        match line.strip():
            case "lead":
                term = elector.campaign()
                stamps = [boottime()]
            case "resign":
                assert term is not None
                stamps = [boottime()]
                term.resign()
            case "raw wait":
                events.drain()
                turn = seen = connection.execute("SELECT turn FROM raw").fetchone()[0]
                print(flush=True)
                while seen == turn:
                    select.select([events.fd], [], [], 5.0)
                    events.drain()
                    seen = connection.execute("SELECT turn FROM raw").fetchone()[0]
                woken = boottime()
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("UPDATE raw SET turn = turn + 1")
                stamps = [woken, boottime()]
                connection.execute("PRAGMA synchronous=NORMAL")
            case "raw hand over":
                stamps = [boottime()]
                connection.execute("UPDATE raw SET turn = turn + 1")
                os.utime(raw)  # after the commit, for the write of the log comes before it can be seen
        print(*stamps, flush=True)
    if term is not None:
        term.resign()
    elector.close()
    events.close()
    connection.close()


def handovers(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds from before the one process resigns until the body of the other is entered, and of the bare minimum."""
    raw = str(folder / "raw.db")
    connection = sqlite3.connect(raw, isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; CREATE TABLE raw (turn INTEGER); INSERT INTO raw VALUES (0)")
    peers = [Peer("tests.bench", "--peer", f"sqlite://{folder}/handover.db", raw) for _ in range(2)]
    taken: dict[str, list[float]] = {"handover": [], "wake-up": [], "durable": []}
    try:
        peers[0].order("lead")
        peers[0].answer()
        for number in range(rounds):
            old, new = peers[number % 2], peers[1 - number % 2]
            new.order("lead")
            time.sleep(0.02)  # until it waits
            old.order("resign")
            (resigned,) = old.answer()
            (entered,) = new.answer()
            taken["handover"].append(entered - resigned)
            new.order("raw wait")
            new.answer()
            time.sleep(0.005)
            old.order("raw hand over")
            (given,) = old.answer()
            woken, written = new.answer()
            taken["wake-up"].append(woken - given)
            taken["durable"].append(written - given)
    finally:
        for peer in peers:
            peer.end()
        connection.close()
    return taken


# --- many elections ------------------------------------------------------------------------------------------


@contextmanager
def counted_renewals() -> Iterator[Callable[[], tuple[int, int]]]:
    """Counts calls of `renew`, and the terms in them, on the one session that is open."""
    running = engine.existing()
    assert running is not None
    (keeper,) = running.keepers.values()
    renew, counts = keeper.backend.renew, [0, 0]

    async def counting(held: Sequence[Any]) -> Any:
        counts[0] += 1
        counts[1] += len(held)
        return await renew(held)

    keeper.backend.renew = counting  # type: ignore[method-assign]
    try:
        yield lambda: (counts[0], counts[1])
    finally:
        keeper.backend.renew = renew  # type: ignore[method-assign]


def idle(seconds: float) -> dict[str, object]:
    """What this process does while its terms are only held."""
    with counted_renewals() as counted:
        calls, terms = counted()
        before, cpu, start = switches(), time.process_time(), time.perf_counter()
        time.sleep(seconds)
        passed = time.perf_counter() - start
        rate = rates(before, switches(), passed)
        later_calls, later_terms = counted()
    return {
        "threads": len(rate),
        "wake-ups/s, busiest thread": round(max(rate.values()), 1),
        "wake-ups/s, all threads": round(sum(rate.values()), 1),
        "renewed terms/s": round((later_terms - terms) / passed, 1),
        "renewals (transactions)/s": round((later_calls - calls) / passed, 2),
        "CPU, %": round(100 * (time.process_time() - cpu) / passed, 2),
    }


def many(url: str, count: int, seconds: float, *, use_async: bool) -> dict[str, object]:
    """Acquire many elections at once, hold them for a while, release them."""
    warm = coordkit.LeaderElector(url, "warm", ttl=TTL)
    warm.campaign().resign()
    resident = field(Path("/proc/self/status"), "VmRSS")
    found: dict[str, object] = {"elections": count}
    if use_async:
        asyncio.run(_many_async(url, count, seconds, found, resident))
    else:
        _many_sync(url, count, seconds, found, resident)
    warm.close()
    return found


def _many_sync(url: str, count: int, seconds: float, found: dict[str, object], resident: int) -> None:
    electors = [coordkit.LeaderElector(url, f"many/{number}", ttl=TTL) for number in range(count)]
    with ThreadPoolExecutor(POOL) as pool:
        start = time.perf_counter()
        terms = list(pool.map(lambda elector: elector.campaign(), electors))
        found["acquire all, s"] = round(time.perf_counter() - start, 3)
    found["RSS growth, KiB each"] = round((field(Path("/proc/self/status"), "VmRSS") - resident) / count, 1)
    found |= idle(seconds)
    with ThreadPoolExecutor(POOL) as pool:
        start = time.perf_counter()
        list(pool.map(lambda term: term.resign(), terms))
        found["release all, s"] = round(time.perf_counter() - start, 3)
    for elector in electors:
        elector.close()


async def _many_async(url: str, count: int, seconds: float, found: dict[str, object], resident: int) -> None:
    electors = [coordkit.AsyncLeaderElector(url, f"many/{number}", ttl=TTL) for number in range(count)]
    start = time.perf_counter()
    terms = await asyncio.gather(*(elector.campaign() for elector in electors))
    found["acquire all, s"] = round(time.perf_counter() - start, 3)
    found["RSS growth, KiB each"] = round((field(Path("/proc/self/status"), "VmRSS") - resident) / count, 1)
    found |= idle(seconds)  # blocks this loop, which has nothing to do
    start = time.perf_counter()
    await asyncio.gather(*(term.resign() for term in terms))
    found["release all, s"] = round(time.perf_counter() - start, 3)
    for elector in electors:
        await elector.close()


def many_in_a_process_of_its_own(url: str, count: int, seconds: float, *, use_async: bool) -> dict[str, object]:
    """As `many`, where nothing else has left memory or threads behind."""
    command = [sys.executable, "-m", "tests.bench", "--many", url, str(count), str(seconds), str(int(use_async))]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    found: dict[str, object] = json.loads(run.stdout)
    return found


# --- all of it -----------------------------------------------------------------------------------------------


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Everything; about 40 seconds, `quick` about 5."""
    rounds, elections, seconds, calls = (20, 50, 0.5, 2_000) if quick else (300, 1000, 6.7, 100_000)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coordkit-bench-"))).resolve()
        times: dict[str, dict[str, float]] = {}
        for name, url in (("sqlite", f"sqlite://{folder}/one.db"), ("memory", "memory://bench")):
            acquired, released = acquire_and_release(url, rounds)
            times[f"{name}: acquire"], times[f"{name}: release"] = summary(acquired), summary(released)
        taken = handovers(folder, max(10, rounds // 3))
        times["sqlite: handover between two processes"] = summary(taken["handover"])
        times["  bare: commit, touch, inotify, read"] = summary(taken["wake-up"])
        times["  bare: the same and a durable commit"] = summary(taken["durable"])
        medians = {name: statistics.median(samples) for name, samples in taken.items()}
        runs = {
            "sqlite, sync": ("sqlite", elections, False),
            "sqlite, async": ("sqlite", elections, True),
            "memory, sync": ("memory", elections, False),
            "sqlite, one": ("sqlite", 1, False),
        }
        return {
            "machine": machine(),
            "times": times,
            "ratios": {
                "handover / (commit, touch, inotify, read)": round(medians["handover"] / medians["wake-up"], 2),
                "handover / (the same and a durable commit)": round(medians["handover"] / medians["durable"], 2),
            },
            "calls_ns": {name: round(value) for name, value in checks(f"sqlite://{folder}/checks.db", calls).items()},
            "many": {
                name: many_in_a_process_of_its_own(
                    f"sqlite://{folder}/many-{number}.db" if scheme == "sqlite" else "memory://many",
                    count,
                    seconds,
                    use_async=use_async,
                )
                for number, (name, (scheme, count, use_async)) in enumerate(runs.items())
            },
        }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="a few rounds only: to see that it runs")
    parser.add_argument("--peer", nargs=2, metavar=("URL", "RAW"), help=argparse.SUPPRESS)
    parser.add_argument("--many", nargs=4, metavar=("URL", "COUNT", "SECONDS", "ASYNC"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.peer:
        serve_peer(*chosen.peer)
        return 0
    if chosen.many:
        url, count, seconds, use_async = chosen.many
        print(json.dumps(many(url, int(count), float(seconds), use_async=use_async == "1")))
        return 0
    found = measure(quick=chosen.quick)
    print(json.dumps(found, indent=2) if chosen.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
