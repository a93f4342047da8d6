"""A candidate of the chaos run: leads for a moment, writes down when it was told that it leads, and again.

The rule: while it leads it writes to a resource of that election, each write after a check that it still may. What it
is told on stdin makes it suffer from within: the interpreter's lock held, a stop in the middle of a write.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from coordkit import ElectorClosed, LeaderElector, LeadershipLost, Term
from coordkit.model import encode_election
from tests.chaos.writes import Resource
from tests.support.children import hear, say
from tests.support.witness import Witness

HOLD, SPIN, STOP_IN_WRITE = "hold", "spin", "stop-in-write"
PR_SET_PDEATHSIG = 1
WRITE_SECONDS = 0.5  # from one write to the next
QUICK = "0.05-0.3"  # s


def told(witness: Path, election: str) -> Path:
    """Where candidates write down when they were told that they lead this election."""
    return witness.with_name(f"{witness.name}-{encode_election(election)}")


def lead_again_and_again(url: str, ttl: str, seed: str, stays: str, quick: str, folder: str, *elections: str) -> None:
    """Until SIGTERM. In all elections at once.

    `stays`: how probable it is that a term lasts longer than a ttl; the others are of as many seconds as `quick` says,
    FROM-TO. `folder`: where it writes down when it was told that it leads, and what leaders write to.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a test that is killed leaves nobody behind
    electors = [LeaderElector(url, election, ttl=float(ttl)) for election in elections]
    stop = _StopInWrite()
    terms = [
        _Terms(
            elector,
            election,
            _durations(random.Random(f"{seed} {election}"), float(stays), quick, float(ttl)),
            Witness(told(Path(folder, "witness"), election)),
            Resource(Path(folder, "resources"), election, stop.between),
        )
        for elector, election in zip(electors, elections, strict=True)
    ]

    def leave(_number: int, _frame: FrameType | None) -> None:
        for elector in electors:
            elector.close()
        sys.exit()  # the blocks of the other threads are waited for, and so released

    signal.signal(signal.SIGTERM, leave)
    say("contends", os.getpid())
    threading.Thread(target=_suffer, args=(stop,), daemon=True).start()
    first, *others = terms
    for other in others:
        threading.Thread(target=other.lead).start()
    first.lead()


def _durations(chance: random.Random, stays: float, quick: str, ttl: float) -> Iterator[float]:
    least, most = map(float, quick.split("-"))
    while True:
        yield chance.uniform(1.0, 6.0) * ttl if chance.random() < stays else chance.uniform(least, most)


class _Terms:
    """Those of one election, one after the other."""

    def __init__(
        self, elector: LeaderElector, election: str, durations: Iterator[float], seen: Witness, resource: Resource
    ) -> None:
        self._elector = elector
        self._election = election
        self._durations = durations
        self._seen = seen
        self._resource = resource

    def lead(self) -> None:
        while True:
            try:
                self._once()
            except LeadershipLost:
                continue
            except ElectorClosed:
                return
            finally:
                say("left", os.getpid(), self._election)

    def _once(self) -> None:
        with self._elector.lead() as term:
            term.on_lost(_told_of_loss)  # so the journal has a line for each loss that is told
            say("leads", os.getpid(), self._election)
            over = time.monotonic() + next(self._durations)
            while term.valid and (rest := over - time.monotonic()) > 0:
                self._seen.sees(term)
                if not self._resource.write(term):
                    break
                end = min(rest, WRITE_SECONDS)
                while end > 0 and term.valid:
                    self._seen.sees(term)
                    nap = min(end, 0.1)
                    end -= nap
                    term.wait_ended(nap)


def _told_of_loss(_term: Term) -> None:
    """The journal knows."""


class _StopInWrite:
    """Stops the process once, between the check and the write, if it was asked to."""

    def __init__(self) -> None:
        self._asked = threading.Lock()
        self._asked.acquire()

    def ask(self) -> None:
        self._asked.release()

    def between(self, election: str) -> None:
        if self._asked.acquire(blocking=False):
            say("stops", os.getpid(), election)
            # To this thread: another that takes it would let this one run on for a moment, into the resource's lock.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _suffer(stop: _StopInWrite) -> None:
    """Do what stdin says."""
    while True:
        try:
            word, seconds = hear().split()
        except EOFError:
            return
        match word:
            case "hold":  # no thread of Python's runs while this call does
                ctypes.PyDLL(None).usleep(int(float(seconds) * 1e6))
            case "spin":
                _spin(float(seconds))
            case "stop-in-write":
                stop.ask()
            case _:
                raise ValueError(word)


def _spin(seconds: float) -> None:
    """Busy, and asked to let others run only after that time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    sys.setswitchinterval(usual)
