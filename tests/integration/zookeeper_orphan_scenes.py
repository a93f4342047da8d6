"""Scenes of processes whose campaigns end without a term, hundreds of them on one session, and what is left in them.

The rule: what is left at the servers is not theirs to judge; the test asks the servers.
"""

from __future__ import annotations

import os
import time

from coordkit.backends.zookeeper.adapter import ZooKeeperBackend
from coordkit.engine import current
from tests.integration import orphan_campaigns
from tests.integration.etcd_orphan_scenes import sockets, tasks
from tests.support.children import say


def backend() -> ZooKeeperBackend:
    """Of the one session of this process."""
    (keeper,) = current().sessions
    assert isinstance(keeper.backend, ZooKeeperBackend)
    return keeper.backend


def busy() -> list[str]:
    """The tasks of the engine that are not of an idle session."""
    return [task for task in tasks() if not task.startswith("coordkit:zookeeper-")]


def state(within: float) -> None:
    """What this process has, once it has cleaned up, or after so many seconds.

    Threads, sockets, tasks that are not of an idle session, watches of the adapter's and of kazoo's, candidacies.
    """
    end = time.monotonic() + within
    while busy() and time.monotonic() < end:
        time.sleep(0.02)
    mine = backend()
    kazoo = mine.client._kazoo
    kept = sum(len(each) for each in (*kazoo._data_watchers.values(), *kazoo._child_watchers.values()))
    say("threads", len(os.listdir("/proc/self/task")))
    say("sockets", sockets())
    say("tasks", *busy())
    say("watches", len(mine.watches._all), kept)
    say("held", len(mine.held), len(mine.pulse.nodes))


def in_vain(url: str, ttl: str, seed: str, times: str) -> None:
    """Behind a leader that stays."""
    orphan_campaigns.in_vain(url, float(ttl), int(seed), int(times), state)


def on_a_bad_line(url: str, ttl: str, seed: str, times: str) -> None:
    """Over connections that the test resets."""
    orphan_campaigns.on_a_bad_line(url, float(ttl), int(seed), int(times), state)
