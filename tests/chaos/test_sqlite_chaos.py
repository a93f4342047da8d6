"""Many processes on one SQLite file under `kill -9` and pauses beyond the ttl; the journal is the judge.

The rule: the schedule comes from a seed, which is printed and may be given by COORDKIT_CHAOS_SEED; the machine decides
the rest. The run goes on until it has seen enough, and fails if nobody leads for too long.

Not covered by the backend, and so bounded here: a process stopped inside a transaction keeps everybody out until it
goes on.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from coordkit.audit import Fate, Report, judge, parse
from tests.support import witness
from tests.support.children import ROOT

PROCESSES = 8
TERMS = 200
FELLED = 60  # terms ended by a kill or a pause
TTL = 0.8
PATIENCE = 20.0  # s without a new leader: then it hangs
START = "import sys; from tests.chaos.candidates import lead_again_and_again; lead_again_and_again(*sys.argv[1:])"


class Run:
    """Eight candidates, restarted when they die, and the faults that they suffer."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.journal = folder / "journal"
        self.witness = folder / "witness"
        self.errors = open(folder / "errors", "ab")  # noqa: SIM115 - closed by `end`
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.ready: set[int] = set()  # those that have said that they contend
        self.paused: set[int] = set()
        self.wins = self.kills = self.pauses = 0
        self.leaving = False
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._read_end, self._write_end = os.pipe()
        self._rest = b""

    def start_one(self) -> None:
        arguments = [f"sqlite://{self.folder}/leader.db", "chaos", TTL, self.chance.getrandbits(32), self.witness]
        process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=self._write_end,
            stderr=self.errors,
            cwd=ROOT,
            env={**os.environ, "COORDKIT_JOURNAL": str(self.journal)},
        )
        self.processes[process.pid] = process

    def go_on(self) -> None:
        """Until the next line of a candidate or the next fault that is due."""
        timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else PATIENCE
        ready, _, _ = select.select([self._read_end], [], [], min(timeout, PATIENCE))
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        if ready:
            *lines, self._rest = (self._rest + os.read(self._read_end, 65536)).split(b"\n")
            for line in lines:
                word, pid, *_ = line.decode().split()
                self.ready.add(int(pid))
                if word == "leads" and not self.leaving:
                    self.wins += 1
                    self.plan(int(pid))

    def plan(self, leader: int) -> None:
        """What is to become of this leader, and perhaps of one who waits."""
        fate, delay = self.chance.random(), self.chance.uniform(0.0, 0.1)
        if fate < 0.25:
            self.later(delay, lambda: self.kill(leader))
        elif fate < 0.5:
            self.later(delay, lambda: self.pause(leader))
        waiting = sorted(self.processes.keys() - {leader})
        if self.chance.random() < 0.1 and waiting:
            victim, fault = self.chance.choice(waiting), self.chance.choice([self.kill, self.pause])
            self.later(self.chance.uniform(0.0, 0.5), lambda: fault(victim))

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), act))

    def kill(self, pid: int) -> None:
        if process := self.processes.pop(pid, None):
            process.kill()
            process.wait()
            self.paused.discard(pid)
            self.kills += 1
            self.start_one()

    def pause(self, pid: int) -> None:
        if pid in self.processes and pid not in self.paused:
            self.processes[pid].send_signal(signal.SIGSTOP)
            self.paused.add(pid)
            self.pauses += 1
            self.later(TTL * self.chance.uniform(1.1, 2.0), lambda: self.resume(pid))

    def resume(self, pid: int) -> None:
        if pid in self.paused:
            self.paused.discard(pid)
            self.processes[pid].send_signal(signal.SIGCONT)

    def complaints(self) -> str:
        """The last of what the candidates wrote to stderr."""
        return (self.folder / "errors").read_text(encoding="utf-8")[-8000:]

    def report(self) -> Report:
        records, cut = parse(self.journal.read_bytes())
        return judge(records, cut=cut)

    def leave(self) -> list[int]:
        """No more faults, then SIGTERM to all; their exit codes."""
        self.leaving = True
        self._due.clear()
        for pid in sorted(self.paused):
            self.resume(pid)
        while not self.processes.keys() <= self.ready:
            self.go_on()
        for process in self.processes.values():
            process.terminate()
        return [process.wait(PATIENCE) for process in self.processes.values()]

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        os.close(self._read_end)
        os.close(self._write_end)
        self.errors.close()


def felled(report: Report) -> int:
    """Terms ended by a kill or by a pause beyond their deadline."""
    return report.count(Fate.KILLED) + sum(span.reason == "expired" for span in report.spans)


@pytest.mark.chaos
@pytest.mark.backend("sqlite")
@pytest.mark.timeout(300)
def test_no_two_leaders_under_kills_and_pauses(tmp_path: Path) -> None:
    seed = int(os.environ.get("COORDKIT_CHAOS_SEED") or random.SystemRandom().getrandbits(32))
    print(f"COORDKIT_CHAOS_SEED={seed}")
    run = Run(tmp_path, seed)
    try:
        for _ in range(PROCESSES):
            run.start_one()
        enough = False
        won_at, wins = time.monotonic(), 0
        while not enough:
            run.go_on()
            if run.wins > wins:
                won_at, wins = time.monotonic(), run.wins
                enough = wins >= TERMS and felled(run.report()) >= FELLED
            assert time.monotonic() - won_at < PATIENCE, f"nobody leads after {wins} terms\n{run.complaints()}"
        codes = run.leave()
    finally:
        run.end()
    report = run.report()
    print(json.dumps(report.as_json() | {"kills": run.kills, "pauses": run.pauses}, indent=2))
    assert report.ok, "\n".join(each.message for each in report.violations)
    # Here even [sent, local end] never overlap: a promise is asked for only after its row was seen released or over.
    assert report.in_flight == 0
    assert report.terms >= TERMS
    assert felled(report) >= FELLED
    assert codes == [0] * PROCESSES
    assert "Traceback" not in run.complaints(), run.complaints()
    assert len(witness.check(run.witness, report)) > TERMS / 2
