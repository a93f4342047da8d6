"""A candidate of the chaos run: leads for a moment, writes down when it was told that it leads, and again."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from coordkit import ElectorClosed, LeaderElector, LeadershipLost
from coordkit.model import encode_election
from tests.support.children import say
from tests.support.witness import Witness


def told(witness: Path, election: str) -> Path:
    """Where candidates write down when they were told that they lead this election."""
    return witness.with_name(f"{witness.name}-{encode_election(election)}")


def lead_again_and_again(url: str, ttl: str, seed: str, stays: str, witness: str, *elections: str) -> None:
    """Until SIGTERM. In all elections at once.

    `stays`: how probable it is that a term lasts longer than a ttl. `witness`: where it writes down when it was told
    that it leads.
    """
    electors = [LeaderElector(url, election, ttl=float(ttl)) for election in elections]
    durations = [_durations(random.Random(f"{seed} {election}"), float(stays), float(ttl)) for election in elections]
    witnesses = [Witness(told(Path(witness), election)) for election in elections]

    def leave(_number: int, _frame: FrameType | None) -> None:
        for elector in electors:
            elector.close()
        sys.exit()  # the blocks of the other threads are waited for, and so released

    signal.signal(signal.SIGTERM, leave)
    say("contends", os.getpid())
    first, *others = zip(electors, elections, durations, witnesses, strict=True)
    for other in others:
        threading.Thread(target=_lead, args=other).start()
    _lead(*first)


def _durations(chance: random.Random, stays: float, ttl: float) -> Iterator[float]:
    while True:
        yield chance.uniform(1.0, 2.0) * ttl if chance.random() < stays else chance.uniform(0.05, 0.3)


def _lead(elector: LeaderElector, election: str, durations: Iterator[float], seen: Witness) -> None:
    while True:
        try:
            with elector.lead() as term:
                say("leads", os.getpid(), election)
                rest = next(durations)
                while term.valid and rest > 0:
                    seen.sees(term)
                    nap = min(rest, 0.02)
                    rest -= nap
                    term.wait_ended(nap)
        except LeadershipLost:
            continue
        except ElectorClosed:
            return
