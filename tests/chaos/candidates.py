"""A candidate of the chaos run: leads for a moment, writes down when it was told that it leads, and again."""

from __future__ import annotations

import os
import random
import signal
import sys
from types import FrameType

from coordkit import LeaderElector, LeadershipLost
from tests.support.children import say
from tests.support.witness import Witness


def lead_again_and_again(url: str, election: str, ttl: str, seed: str, witness: str) -> None:
    """Until SIGTERM. `witness`: where it writes down when it was told that it leads."""
    chance = random.Random(int(seed))
    elector = LeaderElector(url, election, ttl=float(ttl))
    seen = Witness(witness)

    def leave(_number: int, _frame: FrameType | None) -> None:
        elector.close()
        sys.exit()

    signal.signal(signal.SIGTERM, leave)
    say("contends", os.getpid())
    while True:
        try:
            with elector.lead() as term:
                say("leads", os.getpid(), int(term.token))
                rest = chance.uniform(0.05, 0.3)
                while term.valid and rest > 0:
                    seen.sees(term)
                    nap = min(rest, 0.02)
                    rest -= nap
                    term.wait_ended(nap)
        except LeadershipLost:
            continue
