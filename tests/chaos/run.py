"""Candidates that are killed and paused while they lead, and what their journal says of it.

The rule: the schedule comes from a seed, which is printed and may be given by COORDKIT_CHAOS_SEED; the machine decides
the rest. A run goes on until it has seen enough, and fails if nobody leads for too long. COORDKIT_CHAOS_SECONDS makes
it longer.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Self

from coordkit.audit import Fate, Report, judge, parse
from tests.chaos.candidates import told
from tests.support import witness
from tests.support.children import ROOT

PROCESSES = 8
LONGER = float(os.environ.get("COORDKIT_CHAOS_SECONDS") or 0)  # s that a run goes on for, even if it has seen enough
START = "import sys; from tests.chaos.candidates import lead_again_and_again; lead_again_and_again(*sys.argv[1:])"


def seed() -> int:
    """Of this run; printed, so that it can be run again."""
    given = int(os.environ.get("COORDKIT_CHAOS_SEED") or random.SystemRandom().getrandbits(32))
    print(f"COORDKIT_CHAOS_SEED={given}")
    return given


def felled(report: Report) -> int:
    """Terms ended by a kill or by a pause beyond their deadline."""
    return report.count(Fate.KILLED) + sum(span.reason == "expired" for span in report.spans)


class Run:
    """Eight candidates of these elections, restarted when they die, and the faults that they suffer.

    `fells`: which part of the leaders is killed or paused. `stays`: which part leads for longer than a ttl, if it can,
    and so has to renew. `patience`: seconds without a leader, or without an end, after which something hangs.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        elections: Sequence[str],
        *,
        ttl: float,
        seed: int,
        fells: float,
        stays: float = 0.0,
        patience: float,
    ) -> None:
        self.chance = random.Random(seed)
        self.elections = elections
        self.wins = dict.fromkeys(elections, 0)
        self.won_at = dict.fromkeys(elections, time.monotonic())
        self.leaders = dict.fromkeys(elections, 0)  # by election: the pid that won last
        self.kills = self.pauses = 0
        self._folder = folder
        self._url = url
        self._ttl = ttl
        self._fells = fells
        self._stays = stays
        self._patience = patience
        self._journal = folder / "journal"
        self._errors = open(folder / "errors", "ab")  # noqa: SIM115 - closed by `__exit__`
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ready: set[int] = set()  # those that have said that they contend
        self._paused: set[int] = set()
        self._calm = False
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._read_end, self._write_end = os.pipe()
        self._rest = b""
        self._began = time.monotonic()

    # -- playing -----------------------------------------------------------------------------------------

    def until(self, enough: Callable[[Report], bool]) -> None:
        """Go on until this has been seen; it is asked after each win."""
        seen = 0
        while True:
            self._go_on()
            ended = {pid: code for pid, each in self._processes.items() if (code := each.poll()) is not None}
            assert not ended, f"candidates have ended by themselves: {ended}\n{self.complaints()}"
            for election, at in self.won_at.items():
                waited = time.monotonic() - at
                assert waited < self._patience, f"nobody leads {election} for {waited:.1f} s\n{self.complaints()}"
            if sum(self.wins.values()) > seen and time.monotonic() - self._began >= LONGER:
                seen = sum(self.wins.values())
                if enough(self.report()):
                    return

    def calm(self) -> None:
        """No more faults: let all go on, and wait until all candidates contend."""
        self._calm = True
        self._due.clear()
        for pid in sorted(self._paused):
            self._resume(pid)
        while not self._processes.keys() <= self._ready:
            self._go_on()

    def takeover(self, election: str) -> float:
        """Kill a leader of this election while it leads; how many seconds later the next one leads."""
        while True:
            self._await_win(election)
            pid, killed_at = self.leaders[election], time.monotonic()
            self._kill(pid)
            self._await_win(election)
            if self._fell(election, pid):  # else it had resigned before it was killed
                return self.won_at[election] - killed_at

    def _await_win(self, election: str) -> None:
        before, since = self.wins[election], time.monotonic()
        while self.wins[election] == before:
            self._go_on()
            waited = time.monotonic() - since
            assert waited < self._patience, f"nobody leads {election} for {waited:.1f} s\n{self.complaints()}"

    def _fell(self, election: str, pid: int) -> bool:
        spans = [span for span in self.report().spans if span.election == election and span.records[0]["pid"] == pid]
        return spans[-1].fate is Fate.KILLED

    def leave(self) -> list[int]:
        """SIGTERM to all; their exit codes."""
        self.calm()
        for process in self._processes.values():
            process.terminate()
        return [process.wait(self._patience) for process in self._processes.values()]

    # -- judging -----------------------------------------------------------------------------------------

    def report(self) -> Report:
        """What the journal says so far."""
        records, cut = parse(self._journal.read_bytes())
        return judge(records, cut=cut)

    def witnessed(self) -> int:
        """How many terms were told that they lead; each of them was right, by the journal."""
        records, cut = parse(self._journal.read_bytes())
        seen = 0
        for election in self.elections:
            report = judge([record for record in records if record.get("election") == election], cut=cut)
            seen += len(witness.check(told(self._witness, election), report))
        return seen

    def complaints(self) -> str:
        """The last of what the candidates wrote to stderr."""
        return (self._folder / "errors").read_text(encoding="utf-8")[-8000:]

    # -- processes and their faults ----------------------------------------------------------------------

    def __enter__(self) -> Self:
        for _ in range(PROCESSES):
            self._start_one()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        os.close(self._read_end)
        os.close(self._write_end)
        self._errors.close()

    @property
    def _witness(self) -> Path:
        return self._folder / "witness"

    def _start_one(self) -> None:
        number = self.chance.getrandbits(32)
        arguments = [self._url, self._ttl, number, self._stays, self._witness, *self.elections]
        process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=self._write_end,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "COORDKIT_JOURNAL": str(self._journal)},
        )
        self._processes[process.pid] = process

    def _go_on(self) -> None:
        """Until the next line of a candidate or the next fault that is due; at most a second."""
        timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 1.0
        ready, _, _ = select.select([self._read_end], [], [], min(timeout, 1.0))
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        if ready:
            *lines, self._rest = (self._rest + os.read(self._read_end, 65536)).split(b"\n")
            for line in lines:
                self._heard(*line.decode().split())

    def _heard(self, word: str, number: str, election: str = "") -> None:
        pid = int(number)
        self._ready.add(pid)
        if word == "leads":
            self.wins[election] += 1
            self.won_at[election] = time.monotonic()
            self.leaders[election] = pid
            if not self._calm:
                self._plan(pid)

    def _plan(self, leader: int) -> None:
        """What is to become of this leader, and perhaps of one who waits."""
        fate, delay = self.chance.random(), self.chance.uniform(0.0, 0.1)
        if fate < self._fells / 2:
            self._later(delay, lambda: self._kill(leader))
        elif fate < self._fells:
            self._later(delay, lambda: self._pause(leader))
        waiting = sorted(self._processes.keys() - {leader})
        if self.chance.random() < self._fells / 5 and waiting:
            victim, fault = self.chance.choice(waiting), self.chance.choice([self._kill, self._pause])
            self._later(self.chance.uniform(0.0, 0.5), lambda: fault(victim))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), act))

    def _kill(self, pid: int) -> None:
        if process := self._processes.pop(pid, None):
            process.kill()
            process.wait()
            self._paused.discard(pid)
            self.kills += 1
            self._start_one()

    def _pause(self, pid: int) -> None:
        if pid in self._processes and pid not in self._paused:
            self._processes[pid].send_signal(signal.SIGSTOP)
            self._paused.add(pid)
            self.pauses += 1
            self._later(self._ttl * self.chance.uniform(1.1, 2.0), lambda: self._resume(pid))

    def _resume(self, pid: int) -> None:
        if pid in self._paused:
            self._paused.discard(pid)
            self._processes[pid].send_signal(signal.SIGCONT)
