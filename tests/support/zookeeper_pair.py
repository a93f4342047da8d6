"""The pair on ZooKeeper. *Raw*: a delete, its event at the other process and a list of children there, with kazoo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from queue import SimpleQueue

from kazoo.client import KazooClient

from tests.support import pair
from tests.support.pair import SECONDS, TTL, boottime

PARENT = "/raw"
NODE = f"{PARENT}/leader"


def handovers(urls: list[str], rounds: int) -> dict[str, list[float]]:
    """See `pair.handovers`."""
    return pair.handovers(__name__, urls, rounds)


class Raw:
    """kazoo as it comes; what comes after the event is asked in the callback, without a change of threads."""

    def __init__(self, url: str) -> None:
        self.client = KazooClient(url.partition("://")[2].partition("/")[0], timeout=TTL)
        self.client.start(SECONDS)
        self.client.ensure_path(PARENT)

    def watch(self, ready: Callable[[], None]) -> list[float]:
        """Create a node, see its deletion, list its parent's children."""
        stamps: SimpleQueue[list[float]] = SimpleQueue()

        def deleted(_: object) -> None:
            seen = boottime()
            self.client.get_children(PARENT)
            stamps.put([seen, boottime()])

        self.client.create(NODE, b"x" * 100)
        self.client.get(NODE, watch=deleted)
        ready()
        return stamps.get(timeout=SECONDS)

    def delete(self) -> list[float]:
        """Delete the node."""
        start = boottime()
        self.client.delete(NODE)
        return [start]

    def close(self) -> None:
        self.client.stop()
        self.client.close()


if __name__ == "__main__":
    pair.serve(sys.argv[1], Raw)
