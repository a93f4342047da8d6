"""Scenes for test_reviewed.py that need an interpreter of their own. See `tests.support.children`."""

from __future__ import annotations

import atexit
import sqlite3
import threading
import time

from coordkit import LeaderElector
from tests.support.children import say


def closes_and_exits(path: str, ttl: str) -> None:
    """Its release cannot be written until the exit has been under way for a while."""
    elector = LeaderElector(f"sqlite://{path}", "e", ttl=float(ttl))
    term = elector.campaign()
    rival = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    rival.execute("BEGIN IMMEDIATE")
    exiting = threading.Event()

    def unlock() -> None:
        exiting.wait()
        time.sleep(0.4)  # an exit that does not wait is over by then
        rival.execute("ROLLBACK")

    threading.Thread(target=unlock, daemon=True).start()
    with term:
        say("leads")
    elector.close(timeout=0)
    atexit.register(exiting.set)  # registered last, called first
    say("exits")
