"""Faults of the servers of a cluster, one at a time.

The rule: all is mended, and the cluster ready, when a fault is over. But for the kind that takes a majority, never more
than a minority is in trouble at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tests.chaos import schedule
from tests.chaos.schedule import Step
from tests.servers.cluster import Cluster, NotReady

TRIES = 3  # of half a minute each, until all servers are ready


class Members:
    """`apart`: seconds between two that are restarted in turn. `enough`: set when nothing has to last any longer."""

    def __init__(self, cluster: Cluster[Any], enough: threading.Event, *, apart: float = 0.0) -> None:
        self._cluster = cluster
        self._enough = enough
        self._apart = apart

    def suffer(self, step: Step) -> str:
        """Make it and mend it; whom it has hit."""
        members = self._cluster.members
        number = int(step.pick * len(members))
        victim = members[number]
        hit: Sequence[Any] = [victim]
        match step.kind:
            case schedule.SERVER_KILLED:
                victim.kill()
                self._last(step)
            case schedule.SERVER_PAUSED:
                victim.pause()
                self._last(step)
            case schedule.SERVER_RESTARTED:
                victim.restart()
            case schedule.SERVER_CUT_OFF:
                victim.cut_off()
                self._last(step)
            case schedule.FORGOT:
                self._cluster.flushall(victim)  # type: ignore[attr-defined]
            case schedule.WENT_BACK:
                older = self._cluster.snapshot(victim)  # type: ignore[attr-defined]
                self._last(step)
                self._cluster.restore(victim, older)  # type: ignore[attr-defined]
            case schedule.LEADER_PAUSED:
                hit = [self._cluster.leader()]
                hit[0].pause()
                self._last(step)
            case schedule.ROLLED:
                hit = members
                for member in members:
                    member.restart()
                    self._heal()
                    self._enough.wait(self._apart)
            case schedule.MAJORITY:
                hit = [members[(number + more) % len(members)] for more in range(len(members) // 2 + 1)]
                for member in hit:
                    if step.strength < 0.5:
                        member.kill()
                    else:
                        member.pause()
                self._last(step)
            case other:
                raise ValueError(other)
        self._heal()
        return " ".join(member.name for member in hit)

    def _heal(self) -> None:
        """Again if it was not enough: on a busy machine servers may vote for each other for a minute."""
        for _ in range(TRIES - 1):
            with suppress(NotReady):
                self._cluster.heal()
                return
        self._cluster.heal()

    def _last(self, step: Step) -> None:
        """Let the trouble last, but not beyond the end."""
        self._enough.wait(step.lasts)
