"""Scenes of processes that contend on Redis, and say when they lead."""

from __future__ import annotations

import os
import threading
import time

from coordkit import ElectorClosed, LeaderElector
from tests.support.children import hear, say


def contends(url: str, number: str, ttl: str) -> None:
    """So many candidates of one election, each leading for a moment again and again, from one word to the next."""
    electors = [LeaderElector(url, "duel", ttl=float(ttl)) for _ in range(int(number))]
    electors[0].leader()  # connected

    def lead(elector: LeaderElector) -> None:
        try:
            while True:
                term = elector.campaign()
                say("leads", time.monotonic(), int(term.token))
                term.wait_ended(0.05)
                say("leaves", time.monotonic(), int(term.token))
                term.resign()
        except ElectorClosed:
            return

    say("ready")
    hear()
    for elector in electors:
        threading.Thread(target=lead, args=(elector,), daemon=True).start()
    hear()
    say("over")
    os._exit(0)


def leads(url: str, ttl: str) -> None:
    """Leads until it is killed."""
    term = LeaderElector(url, "crash", ttl=float(ttl)).campaign()
    say("leads", int(term.token))
    hear()
