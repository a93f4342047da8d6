"""Plays a schedule on a run: one step after the other, each on whoever is its victim at that moment.

The rule: faults of candidates overlap with whatever else goes on; of links and servers there is one at a time, made by
a thread of its own. What is to be played is in the schedule's file before it is played.
COORDKIT_CHAOS_SCHEDULE=FILE plays that file, and nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from coordkit.clock import host_boottime
from tests.chaos import schedule
from tests.chaos.members import Members
from tests.chaos.run import Candidate, Run
from tests.chaos.schedule import OF_CANDIDATES, OF_LINKS, Step
from tests.chaos.sides import Sides
from tests.chaos.starving import starved
from tests.support.walls import Wall

SETTLES = 4.0  # ttls that a step waits at most until all is well again
MOST_LEADING = 3  # one of so many that lead the most elections is the victim where a leader is meant


class Script:
    """The steps of a run, and the file that has them."""

    def __init__(self, path: Path, seed: int, kinds: Sequence[str], ttl: float) -> None:
        self.path = path
        self.seed = seed
        self.given = os.environ.get("COORDKIT_CHAOS_SCHEDULE", "")
        self._rounds: Iterable[list[Step]] = schedule.rounds(seed, kinds, ttl)
        if self.given:
            self.seed, steps = schedule.read(Path(self.given).read_text(encoding="utf-8"))
            self._rounds = [steps]

    def __iter__(self) -> Iterator[Step]:
        steps: list[Step] = []
        for each in self._rounds:
            steps += each
            self.path.write_text(schedule.written(self.seed, steps), encoding="utf-8")
            yield from each


class Conductor:
    """A context manager: in the end nothing lasts any longer, and links and servers are mended.

    `walls`: by place, the wall clock of a candidate that has one of its own. `backwards`: they only ever go back.
    `touched_by_few`: whether links to a few of the servers, that are bad, can touch a leader.
    """

    def __init__(
        self,
        run: Run,
        sides: Sides,
        members: Members,
        enough: threading.Event,
        walls: dict[int, Wall],
        *,
        backwards: bool,
        touched_by_few: bool,
    ) -> None:
        self.made: Counter[str] = Counter()
        self._run = run
        self._sides = sides
        self._members = members
        self._enough = enough
        self._walls = walls
        self._backwards = backwards
        self._touched_by_few = touched_by_few
        self._moved: dict[int, tuple[str, int, float]] = {}  # places whose clock is wrong: how, whose, since when
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="faults")
        self._making: Future[None] | None = None
        self._hurries = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for slot in list(self._moved):
            self._set_right(slot)
        try:
            if self._making is not None:
                self._making.result()
        finally:
            self._thread.shutdown()

    def play(self, steps: Iterable[Step], enough: Callable[[], bool]) -> None:
        """Until it is enough, which is asked before each step, or there are no more."""
        last = time.monotonic()
        for step in steps:
            if enough():
                return
            self._hurries = last + SETTLES * self._run.ttl
            while time.monotonic() < last + step.gap or not self._ready_for(step):
                self._go_on(0.1)
            self._begin(step)
            last = time.monotonic()
        self._hurries = last + SETTLES * self._run.ttl
        while not self._idle or self._moved or not (self._run.settled or time.monotonic() > self._hurries):
            self._go_on(0.1)

    def _go_on(self, most: float) -> None:
        self._run.go_on(most)
        if self._making is not None and self._making.done():
            self._making.result()
            self._making = None

    @property
    def _idle(self) -> bool:
        return self._making is None

    def _ready_for(self, step: Step) -> bool:
        if step.settled and not (self._idle and self._run.settled) and time.monotonic() < self._hurries:
            return False
        if step.kind in OF_CANDIDATES:
            return bool(self._victims(step))
        return self._idle

    # -- making ------------------------------------------------------------------------------------------

    def _begin(self, step: Step) -> None:
        self.made[step.kind] += 1
        if step.kind in OF_CANDIDATES:
            victims = self._victims(step)
            self._strike(step, victims[int(step.pick * len(victims))])
        else:
            pids = [each.pid for each in self._run.candidates.values() if each.slot in self._sides.places(step.whom)]
            make = self._spoil if step.kind in OF_LINKS else self._hit
            self._making = self._thread.submit(make, step, pids)

    def _victims(self, step: Step) -> list[Candidate]:
        """Who is free to suffer this: leaders or waiters, where there are such, else anybody."""
        free = [each for each in self._run.candidates.values() if each.free]
        if step.kind in (schedule.STEPPED, schedule.STROBED):
            free = [each for each in free if each.slot in self._walls and each.slot not in self._moved]
        leads = Counter(self._run.leaders.values())
        fitting = [each for each in free if (leads[each.pid] > 0) == (step.whom == schedule.LEADER)]
        return sorted(fitting or free, key=lambda each: (-leads[each.pid], each.slot))[:MOST_LEADING]

    def _strike(self, step: Step, victim: Candidate) -> None:
        run = self._run
        match step.kind:
            case schedule.KILLED:
                run.kill(victim)
            case schedule.PAUSED | schedule.PAUSED_BRIEFLY:
                run.pause(victim, step.lasts)
            case schedule.PAUSED_IN_WRITE:
                run.stop_in_write(victim, step.lasts)
            case schedule.GIL_HELD | schedule.GIL_SPUN:
                run.hold_lock(victim, step.kind, step.lasts)
            case schedule.STARVED:
                run.starve(victim, starved(victim.pid), step.lasts)
            case _:
                self._move_clock(step, victim)

    def _move_clock(self, step: Step, victim: Candidate) -> None:
        """By up to 50 minutes; strobing: there and back ten times a second."""
        wall = self._walls[victim.slot]
        seconds = 60 + 2940 * step.strength
        if self._backwards or step.pick < 0.5:
            seconds = -seconds
        wall.step(seconds)
        self._moved[victim.slot] = (step.kind, victim.pid, host_boottime())
        end = time.monotonic() + step.lasts

        def go_on() -> None:
            if time.monotonic() >= end:
                self._set_right(victim.slot)
                return
            if step.kind == schedule.STROBED:
                wall.step(0.0 if wall.moved else seconds)
            self._run.later(0.1, go_on)

        go_on()

    def _set_right(self, slot: int) -> None:
        kind, pid, since = self._moved.pop(slot)
        self._walls[slot].step(0.0)
        self._run.faults.add(kind, f"candidate {pid}", since)  # no term is to end by it, so it excuses none

    def _spoil(self, step: Step, pids: Sequence[int]) -> None:
        since = host_boottime()
        self._sides.suffer(step)
        touched = pids if step.reach != schedule.FEW or self._touched_by_few else []
        self._run.faults.add(step.kind, f"{step.whom} to {step.reach}", since, pids=touched)

    def _hit(self, step: Step, _pids: Sequence[int]) -> None:
        since = host_boottime()
        target = self._members.suffer(step)
        self._run.faults.add(step.kind, target, since, majority=step.kind == schedule.MAJORITY)
