"""Candidates that suffer while they lead, and what their journal says of it.

The rule: the schedule comes from a seed, which is printed and may be given by COORDKIT_CHAOS_SEED; the machine decides
the rest. Each fault is on record. A run goes on until it has seen enough, and fails if nobody leads for too long.
COORDKIT_CHAOS_SECONDS and COORDKIT_CHAOS_TERMS make it longer.
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

from coordkit.audit import Fate, Report, judge, parse
from coordkit.clock import host_boottime
from coordkit.model import encode_election
from tests.chaos import schedule
from tests.chaos.candidates import HOLD, QUICK, SPIN, STOP_IN_WRITE, told
from tests.chaos.faultlog import FaultLog
from tests.chaos.writes import Writes, judge_writes, shadow
from tests.support import witness
from tests.support.children import ROOT

PROCESSES = 8
LONGER = float(os.environ.get("COORDKIT_CHAOS_SECONDS") or 0)  # s that a run goes on for, even if it has seen enough
MORE_TERMS = int(os.environ.get("COORDKIT_CHAOS_TERMS") or 0)  # so many terms it has to see
# How long a run may take, for the timeout of its test: a term takes less than 0.5 s of a run.
ALLOWED = 600 + LONGER + MORE_TERMS
START = "import sys; from tests.chaos.candidates import lead_again_and_again; lead_again_and_again(*sys.argv[1:])"
LONGEST = 12.0  # ttls of a term, a pause of its candidate included
LOOK_SECONDS = 1.0  # s between two looks at the whole journal


def seed() -> int:
    """Of this run; printed, so that it can be run again."""
    given = int(os.environ.get("COORDKIT_CHAOS_SEED") or random.SystemRandom().getrandbits(32))
    print(f"COORDKIT_CHAOS_SEED={given}")
    return given


def felled(report: Report) -> int:
    """Terms ended by a kill or by a pause beyond their deadline."""
    return report.count(Fate.KILLED) + sum(span.reason == "expired" for span in report.spans)


@dataclass(slots=True)
class Candidate:
    """A process in its place, and what is wrong with it."""

    slot: int
    process: subprocess.Popen[bytes]
    ready: bool = False
    paused: str = ""  # why, if it is
    since: float = 0.0
    starving: Callable[[], None] | None = None
    asked: list[float] = field(default_factory=list)  # how long it is to be stopped in its next write

    @property
    def free(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.ready and not (self.paused or self.starving or self.asked)

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, word: str, seconds: float) -> None:
        """One line to its stdin; it may be about to die."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{word} {seconds:.3f}\n".encode())
            self.process.stdin.flush()


class Run:
    """Eight candidates of these elections, restarted when they die, and the faults that they suffer.

    `url`: of all, or one for each place. `fells`: which part of the leaders is killed or paused; 0: whoever has the run
    decides. `stays`: which part leads for longer than a ttl, if it can, and so has to renew; `quick`: for how long the
    others do. `patience`: seconds without a leader, or without an end, after which something hangs. `environments`: of
    single places. `places`: by election, where it has candidates; else everywhere.
    """

    def __init__(
        self,
        folder: Path,
        url: str | Sequence[str],
        elections: Sequence[str],
        *,
        ttl: float,
        seed: int,
        fells: float = 0.0,
        stays: float = 0.0,
        quick: str = QUICK,
        patience: float,
        environments: Mapping[int, Mapping[str, str]] | None = None,
        places: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.chance = random.Random(seed)
        self.elections = elections
        self.wins = dict.fromkeys(elections, 0)
        self.won_at = dict.fromkeys(elections, time.monotonic())
        self.vacant: dict[str, float] = dict.fromkeys(elections, time.monotonic())  # since when nobody leads
        self.leaders = dict.fromkeys(elections, 0)  # by election: the pid that leads as far as is known, or 0
        self.candidates: dict[int, Candidate] = {}
        self.kills = self.pauses = 0
        self.faults = FaultLog(folder / "faults")
        self.ttl = ttl
        self._folder = folder
        self._urls = [url] * PROCESSES if isinstance(url, str) else list(url)
        self._fells = fells
        self._stays = stays
        self._quick = quick
        self._patience = patience
        self._environments = environments or {}
        self._places = places or {}
        self._journal = folder / "journal"
        self._resources = folder / "resources"
        self._resources.mkdir()
        self._errors = open(folder / "errors", "ab")  # noqa: SIM115 - closed by `__exit__`
        self._calm = False
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._read_end, self._write_end = os.pipe()
        self._rest = b""
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has gone on."""
        return time.monotonic() - self._began

    # -- playing -----------------------------------------------------------------------------------------

    def until(self, enough: Callable[[Report], bool]) -> None:
        """Go on until this has been seen; it is asked after some wins."""
        seen, looked = 0, 0.0
        while True:
            self.go_on()
            wins = sum(self.wins.values())
            if wins > seen and self.seconds >= LONGER and time.monotonic() - looked > LOOK_SECONDS:
                seen, looked = wins, time.monotonic()
                report = self.report()
                if report.terms >= MORE_TERMS and enough(report):
                    return

    def go_on(self, most: float = 1.0) -> None:
        """Until the next line of a candidate or the next fault that is due; at most so many seconds."""
        self._listen(most)
        ended = {pid: code for pid, each in self.candidates.items() if (code := each.process.poll()) is not None}
        assert not ended, f"candidates have ended by themselves: {ended}\n{self.complaints()}"
        now = time.monotonic()
        for election, since in self.vacant.items():
            assert now - since < self._patience, f"nobody leads {election} for {now - since:.1f} s\n{self.complaints()}"
        for election in self.wins.keys() - self.vacant.keys():
            led = now - self.won_at[election]
            assert led < LONGEST * self.ttl + self._patience, (
                f"{election} has no end for {led:.1f} s\n{self.complaints()}"
            )

    def calm(self) -> None:
        """No more faults: let all go on, and wait until all candidates contend."""
        self._calm = True
        self._due.clear()
        for candidate in list(self.candidates.values()):
            self._mend(candidate)
        while not all(candidate.ready for candidate in self.candidates.values()):
            self.go_on()

    def all_lead(self, within: float) -> None:
        """Each election has a leader by now, or has had one meanwhile, or this fails."""
        before, since = dict(self.wins), time.monotonic()
        while waiting := [each for each in self.vacant if self.wins[each] == before[each]]:
            assert time.monotonic() - since < within, f"nobody leads {waiting} {within:.1f} s after the last fault"
            self.go_on()

    @property
    def settled(self) -> bool:
        """Whether each election has a leader, as far as is known, and nobody suffers."""
        return not self.vacant and all(candidate.free for candidate in self.candidates.values())

    def takeover(self, election: str) -> float:
        """Kill a leader of this election while it leads; how many seconds later the next one leads."""
        while True:
            self._await_win(election)
            pid, killed_at = self.leaders[election], time.monotonic()
            if not pid:
                continue
            self.kill(self.candidates[pid])
            self._await_win(election)
            if self._fell(election, pid):  # else it had resigned before it was killed
                return self.won_at[election] - killed_at

    def _await_win(self, election: str) -> None:
        before = self.wins[election]
        while self.wins[election] == before:
            self.go_on()

    def _fell(self, election: str, pid: int) -> bool:
        spans = [span for span in self.report().spans if span.election == election and span.records[0]["pid"] == pid]
        return spans[-1].fate is Fate.KILLED

    def leave(self) -> list[int]:
        """SIGTERM to all; their exit codes."""
        self.calm()
        for candidate in self.candidates.values():
            candidate.process.terminate()
        return [candidate.process.wait(self._patience) for candidate in self.candidates.values()]

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
            seen += len(witness.check(told(self._folder / "witness", election), report))
        return seen

    def writes(self) -> Writes:
        """What became of the leaders' writes, once all have left."""
        lines = (self._resources / "writes").read_text(encoding="ascii").splitlines()
        files = [self._resources / encode_election(election) for election in self.elections]
        return judge_writes(
            [json.loads(line) for line in lines],
            {file.name: file.read_bytes() for file in files if file.exists()},
            {file.name: shadow(file).read_bytes() for file in files},
        )

    def refused(self) -> bool:
        """Whether a late write was refused so far."""
        return b'"refused"' in (self._resources / "writes").read_bytes()

    def complaints(self) -> str:
        """The last of what the candidates wrote to stderr."""
        return (self._folder / "errors").read_text(encoding="utf-8")[-8000:]

    def traceback(self) -> str:
        """The first traceback among all that they wrote, if there is one."""
        _, found, rest = (self._folder / "errors").read_text(encoding="utf-8").partition("Traceback")
        return found + rest[:8000]

    # -- processes ---------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        for slot in range(PROCESSES):
            self._start(slot)
        return self

    def __exit__(self, *_: object) -> None:
        for candidate in self.candidates.values():
            if candidate.starving:
                candidate.starving()
            candidate.process.kill()
            _buried(candidate.process)
        os.close(self._read_end)
        os.close(self._write_end)
        self._errors.close()
        self.faults.close()

    def _start(self, slot: int) -> None:
        number = self.chance.getrandbits(32)
        elections = [each for each in self.elections if slot in self._places.get(each, range(PROCESSES))]
        arguments = [self._urls[slot], self.ttl, number, self._stays, self._quick, self._folder, *elections]
        process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=self._write_end,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "COORDKIT_JOURNAL": str(self._journal), **self._environments.get(slot, {})},
        )
        self.candidates[process.pid] = Candidate(slot, process)

    def _listen(self, most: float) -> None:
        timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else most
        ready, _, _ = select.select([self._read_end], [], [], min(timeout, most))
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        if ready:
            *lines, self._rest = (self._rest + os.read(self._read_end, 65536)).split(b"\n")
            for line in lines:
                self._heard(*line.decode().split())

    def _heard(self, word: str, number: str, election: str = "") -> None:
        pid = int(number)
        candidate = self.candidates.get(pid)
        if candidate is None:  # the last words of one that was killed
            return
        candidate.ready = True
        match word:
            case "leads":
                self.wins[election] += 1
                self.won_at[election] = time.monotonic()
                self.leaders[election] = pid
                self.vacant.pop(election, None)
                if not self._calm:
                    self._plan(candidate)
            case "left" if self.leaders[election] == pid:
                self._nobody_leads(election)
            case "stops":
                self._stopped(candidate)

    def _nobody_leads(self, election: str) -> None:
        self.leaders[election] = 0
        self.vacant[election] = time.monotonic()

    def _plan(self, leader: Candidate) -> None:
        """What is to become of this leader, and perhaps of one who waits."""
        fate, delay = self.chance.random(), self.chance.uniform(0.0, 0.1)
        if fate < self._fells / 2:
            self.later(delay, lambda: self.kill(leader))
        elif fate < self._fells:
            self.later(delay, lambda: self._pause_long(leader))
        waiting = [each for pid, each in sorted(self.candidates.items()) if pid != leader.pid]
        if self.chance.random() < self._fells / 5 and waiting:
            victim, fault = self.chance.choice(waiting), self.chance.choice([self.kill, self._pause_long])
            self.later(self.chance.uniform(0.0, 0.5), lambda: fault(victim))

    def _pause_long(self, candidate: Candidate) -> None:
        self.pause(candidate, self.ttl * self.chance.uniform(1.1, 2.0))

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Have this done in so many seconds, unless all is calm by then."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), act))

    # -- faults of one candidate -------------------------------------------------------------------------

    def kill(self, candidate: Candidate) -> None:
        """`kill -9`, and another in its place."""
        if self.candidates.pop(candidate.pid, None) is None:
            return
        since = host_boottime()
        if candidate.starving:
            candidate.starving()
        candidate.process.kill()
        _buried(candidate.process)
        self.faults.add(schedule.KILLED, f"candidate {candidate.pid}", since, pids=[candidate.pid])
        self.kills += 1
        for election, pid in self.leaders.items():
            if pid == candidate.pid:
                self._nobody_leads(election)
        self._start(candidate.slot)

    def pause(self, candidate: Candidate, seconds: float) -> None:
        """SIGSTOP for so long."""
        if candidate.pid in self.candidates and not candidate.paused:
            candidate.paused = schedule.PAUSED if seconds > self.ttl else schedule.PAUSED_BRIEFLY
            candidate.since = host_boottime()
            candidate.process.send_signal(signal.SIGSTOP)
            self.pauses += 1
            self.later(seconds, lambda: self.resume(candidate))

    def resume(self, candidate: Candidate) -> None:
        """SIGCONT to one that is stopped."""
        if candidate.paused and candidate.pid in self.candidates:
            candidate.process.send_signal(signal.SIGCONT)
            self.faults.add(candidate.paused, f"candidate {candidate.pid}", candidate.since, pids=[candidate.pid])
            candidate.paused = ""

    def stop_in_write(self, candidate: Candidate, seconds: float) -> None:
        """Have it stop for so long in its next write, once its check is done."""
        candidate.asked.append(seconds)
        candidate.tell(STOP_IN_WRITE, 0.0)

    def _stopped(self, candidate: Candidate) -> None:
        """It has stopped in a write, or is about to, with all its threads."""
        seconds = candidate.asked.pop()
        self.later(seconds, lambda: self.resume(candidate))
        candidate.paused, candidate.since = schedule.PAUSED_IN_WRITE, host_boottime()
        self.pauses += 1

    def hold_lock(self, candidate: Candidate, kind: str, seconds: float) -> None:
        """Its interpreter's lock is held for so long, by C or by Python."""
        since = host_boottime()
        candidate.tell(HOLD if kind == schedule.GIL_HELD else SPIN, seconds)
        self.faults.add(kind, f"candidate {candidate.pid}", since, pids=[candidate.pid], lasts=seconds)

    def starve(self, candidate: Candidate, starving: Callable[[], None], seconds: float) -> None:
        """It gets nearly no CPU until `starving` is called."""
        since = host_boottime()
        pid = candidate.pid

        def end() -> None:
            if candidate.starving:
                candidate.starving = None
                starving()
                self.faults.add(schedule.STARVED, f"candidate {pid}", since, pids=[pid])

        candidate.starving = end
        self.later(seconds, end)

    def _mend(self, candidate: Candidate) -> None:
        self.resume(candidate)
        if candidate.starving:
            candidate.starving()
        if candidate.asked:  # nobody would let it go on
            self.kill(candidate)


def _buried(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
