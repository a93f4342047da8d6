"""Watching nodes: one watch of kazoo for a path, however many wait for it.

The rule: a watch is a hint. It fires once, and a lost connection fires all of them, for servers forget watches then;
whoever is woken asks. One that nobody waits for any more stays until it fires, so a path has one at most.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from kazoo.exceptions import NoNodeError

from coordkit.backends.zookeeper.client import Client

Kind = Literal["node", "presence", "children"]  # of an existing node; of one that may not exist; of its children


class Watch:
    """Whom to tell when one path changes."""

    def __init__(self) -> None:
        self.events: set[asyncio.Event] = set()
        self.set = False  # at the servers
        self.stat: Any = None  # of the node, as it was then; None: there was none


class Watches:
    """All watches of one client. Lives on the host's loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._all: dict[tuple[Kind, str], Watch] = {}

    async def add(self, kind: Kind, path: str, moved: asyncio.Event, seconds: float) -> Any:
        """Set `moved` when this changes. The stat of the node; None if there is none, which ends all but `presence`."""
        watch = self._all.setdefault((kind, path), Watch())
        watch.events.add(moved)  # before it is asked for: what fires meanwhile is not missed
        if watch.set:
            return watch.stat

        def fired(_: Any) -> None:
            self._client.post(self._fire, kind, path, watch)

        def send(kazoo: Any) -> Any:
            match kind:
                case "node":
                    return kazoo.get_async(path, watch=fired)
                case "presence":
                    return kazoo.exists_async(path, watch=fired)
                case "children":
                    return kazoo.get_children_async(path, watch=fired, include_data=True)

        try:
            answer = await self._client.read("watch", send, seconds)
        except NoNodeError:  # it is for who asked to see what that means
            self._forget(kind, path, watch)
            return None
        except BaseException:
            self._fire(kind, path, watch)
            raise
        watch.set = True
        watch.stat = answer if kind == "presence" else answer[1]
        return watch.stat

    def drop(self, kind: Kind, path: str, moved: asyncio.Event) -> None:
        """Do not set it any more."""
        watch = self._all.get((kind, path))
        if watch is not None:
            watch.events.discard(moved)
            if not watch.set and not watch.events:
                del self._all[kind, path]

    def fire_all(self) -> None:
        """The connection is lost, or the session: nothing is watched any more."""
        watches, self._all = self._all, {}
        for watch in watches.values():
            _tell(watch)

    def _fire(self, kind: Kind, path: str, watch: Watch) -> None:
        self._forget(kind, path, watch)
        _tell(watch)

    def _forget(self, kind: Kind, path: str, watch: Watch) -> None:
        if self._all.get((kind, path)) is watch:
            del self._all[kind, path]


def _tell(watch: Watch) -> None:
    for event in watch.events:
        event.set()
