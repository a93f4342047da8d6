"""Processes of the control, and the faults that they suffer: killed, stopped for longer than a ttl, replaced.

The rule: what happens to whom comes from a seed; whoever has these processes says how they are started.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path


class Processes:
    """`elections`: of which wins are counted. A context manager by `_started`, which the heir has."""

    def __init__(self, folder: Path, elections: Sequence[str], *, ttl: float, seed: int) -> None:
        folder.mkdir()
        self.chance = random.Random(seed)
        self.elections = elections
        self.wins = dict.fromkeys(elections, 0)
        self.kills = self.pauses = 0
        self._folder = folder
        self._ttl = ttl
        self._journal = folder / "journal"
        self._errors = open(folder / "errors", "ab")  # noqa: SIM115 - closed by `__exit__`
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._paused: set[int] = set()
        self._calm = False
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._read_end, self._write_end = os.pipe()
        self._rest = b""

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        os.close(self._read_end)
        os.close(self._write_end)
        self._errors.close()

    def _plan(self, leader: int) -> None:
        """What is to become of who has just won."""
        raise NotImplementedError

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
        if word == "leads":
            self.wins[election] += 1
            if not self._calm:
                self._plan(int(number))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), act))

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
