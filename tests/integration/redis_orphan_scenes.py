"""Scenes of processes whose campaigns end without a term, hundreds of them on one session of Redis.

The rule: what is left at the voters is not theirs to judge; the test asks the voters.
"""

from __future__ import annotations

import os
import time

from coordkit.backends.redis.adapter import RedisBackend
from coordkit.backends.redis.voters import Voter
from coordkit.engine import current
from tests.integration import orphan_campaigns
from tests.integration.etcd_orphan_scenes import sockets, tasks
from tests.support.children import say


def busy() -> list[str]:
    """The tasks of the engine that are not of an idle session."""
    return [task for task in tasks() if not task.startswith("coordkit:redis-")]


def state(within: float) -> None:
    """What this process has, once it has cleaned up, or after so many seconds.

    Threads, sockets, tasks that are not of an idle session, and of the voters' clients: elections that go on, that are
    listened to, whose seats are remembered; requests that are not answered.
    """
    end = time.monotonic() + within
    (keeper,) = current().sessions
    assert isinstance(keeper.backend, RedisBackend)
    electorate = keeper.backend.electorate
    voters = [voter for voter in electorate.voters if isinstance(voter, Voter)]
    while (busy() or sockets() > 2 * len(voters) or electorate._races) and time.monotonic() < end:
        time.sleep(0.02)
    say("threads", len(os.listdir("/proc/self/task")))
    say("sockets", sockets())
    say("tasks", *busy())
    say("elections", len(electorate._races), sum(len(each.listened) for each in voters), len(electorate.sights._seats))
    say(
        "requests", sum(len(each._asked) + len(each._outbox) + len(each._batches) + len(each._tasks) for each in voters)
    )


def in_vain(url: str, ttl: str, seed: str, times: str) -> None:
    """Behind a leader that stays."""
    orphan_campaigns.in_vain(url, float(ttl), int(seed), int(times), state)


def on_a_bad_line(url: str, ttl: str, seed: str, times: str) -> None:
    """Over connections that the test resets."""
    orphan_campaigns.on_a_bad_line(url, float(ttl), int(seed), int(times), state)
