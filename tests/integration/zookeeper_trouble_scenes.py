"""Scenes of programs whose ZooKeeper is not there, or is something else.

The rule: a scene says of every call what came of it and how long that took; a test judges what it wrote to stderr.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from coordkit import CoordkitError, LeaderElector, Session
from tests.support.children import say

TTL = 2.0
electors: list[LeaderElector] = []  # what a program has in its globals when it ends


def asks(url: str) -> None:
    """Tries everything, then ends with one more elector that contends in the background."""
    session = Session(url)
    said("open", session.open)
    said("close", session.close)
    elector = LeaderElector(url, "x", ttl=TTL)
    said("leader", lambda: elector.leader(timeout=1.0))
    said("candidates", lambda: elector.candidates(timeout=1.0))
    said("campaign", lambda: elector.campaign(timeout=1.0))
    said("try_campaign", elector.try_campaign)
    said("close", elector.close)
    electors.append(LeaderElector(url, "y", ttl=TTL))
    electors[0].start()
    say("over")


def said(name: str, call: Callable[[], object]) -> None:
    """One line: the call, its seconds, the kind of its error and of that one's cause, the message."""
    started = time.monotonic()
    try:
        call()
    except CoordkitError as error:
        seconds = time.monotonic() - started
        say(name, f"{seconds:.3f}", type(error).__name__, type(error.__cause__).__name__, error)
    else:
        say(name, f"{time.monotonic() - started:.3f}", "-", "-")
