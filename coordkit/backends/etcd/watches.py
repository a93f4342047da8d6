"""Watching keys: one stream for all of a session.

The rule: a watch begins at the revision after the answer that made it needed, and goes on from there when the stream
breaks, so nothing between is missed; what cannot be made up for (a compacted history, a cluster that has gone back or
is another) is told as if it had happened. A watch is a hint all the same: whoever is woken asks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from coordkit.backends.contract import Host
from coordkit.backends.etcd.connection import Connection
from coordkit.errors import Misconfigured, Rejected
from coordkit.retry import jitter
from coordkit.waiting import Budget

FIRST_NAP: Final = 0.05  # s, before a broken stream is opened again
LONGEST_NAP: Final = 1.0
LOGIN_SECONDS: Final = 10.0  # a watch that is refused so soon after a fresh login is refused for good
NO_PUTS: Final = 0  # WatchCreateRequest.FilterType
DELETED: Final = 1  # mvccpb.Event.EventType


class Watch:
    """Set when a key was deleted (with `puts`: or written) from revision `since` on. Close it when it is done with."""

    def __init__(
        self, watches: Watches, key: bytes, end: bytes, since: int, moved: asyncio.Event, *, puts: bool
    ) -> None:
        self.key = key
        self.end = end  # of the range; empty: the key alone
        self.since = since
        self.puts = puts
        self.moved = moved
        self.deleted = 0  # at which revision the key was deleted, if that was told
        self._watches = watches

    @property
    def over(self) -> bool:
        """Whether the member has ended it: it tells nothing any more."""
        return not self._watches.has(self)

    def close(self) -> None:
        """Be told no more."""
        self._watches.drop(self)


class Watches:
    """All watches of one session, on one stream. Lives on the host's loop."""

    def __init__(self, host: Host, connection: Connection) -> None:
        self._host = host
        self._connection = connection
        self._all: dict[Watch, int | None] = {}  # its number on this stream, once the member has given it one
        self._asked: deque[Watch] = deque()  # in the order in which the member will number them
        self._numbers: dict[int, Watch] = {}
        self._outbox: asyncio.Queue[Any] = asyncio.Queue()
        self._following: asyncio.Task[None] | None = None

    def add(self, key: bytes, since: int, moved: asyncio.Event, *, end: bytes = b"", puts: bool = False) -> Watch:
        """Watch a key, or the range up to `end`, from a revision on; 0: from now on."""
        watch = Watch(self, key, end, since, moved, puts=puts)
        self._all[watch] = None
        if self._following is None:
            self._following = self._host.spawn(self._follow(), "etcd-watch")
        else:
            self._ask(watch)
        return watch

    def has(self, watch: Watch) -> bool:
        """Whether it is still watched for."""
        return watch in self._all

    def drop(self, watch: Watch) -> None:
        """Forget a watch, here and at the member."""
        number = self._all.pop(watch, None)
        if number is not None:
            self._numbers.pop(number, None)
            self._cancel(number)

    async def close(self) -> None:
        """End the stream."""
        self._all.clear()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
            self._following = None  # its traceback would keep the channel, and that gRPC's threads

    async def _follow(self) -> None:
        failures = 0
        logged_in: Budget | None = None
        while True:
            refused: Watch | None = None
            outbox = self._outbox = asyncio.Queue()
            self._asked.clear()
            self._numbers.clear()
            for watch in self._all:
                self._all[watch] = None
                self._ask(watch)
            try:
                async with aclosing(self._connection.watch(_drained(outbox))) as answers:
                    async for answer in answers:
                        failures = 0
                        refused = self._take(answer)
                        if refused is not None:
                            break
            except Exception as error:  # noqa: BLE001 - all who wait live by this loop: it goes on
                failures += 1
                if isinstance(error, (Rejected, Misconfigured)):  # no passing trouble: whoever waits is to know
                    for watch in self._all:
                        watch.moved.set()
                self._host.log.info("the stream of watches broke: %r", error)
                await asyncio.sleep(jitter(self._host.chance, failures, first=FIRST_NAP, most=LONGEST_NAP))
            finally:
                outbox.put_nowait(None)

            if refused is not None:
                # The login under which the stream was opened serves no more; or we may not watch this.
                self._connection.forget_login()
                if logged_in is not None and logged_in.left > 0:
                    self._all.pop(refused, None)
                    await asyncio.sleep(LONGEST_NAP)
                    refused.moved.set()
                logged_in = Budget(self._host.clock, LOGIN_SECONDS)

    def _take(self, answer: Any) -> Watch | None:
        """Tell whom it concerns; the watch that the member refuses to make, if it does."""
        if answer.created:
            watch = self._asked.popleft()
            if answer.canceled:  # the number that it bears may be another's
                return watch
            if watch.since == 0 or answer.header.revision < watch.since - 1:  # what came before was not told
                watch.moved.set()
                watch.since = max(watch.since, answer.header.revision + 1)
            if watch not in self._all:
                self._cancel(answer.watch_id)
            else:
                self._all[watch] = answer.watch_id
                self._numbers[answer.watch_id] = watch
        found = self._numbers.get(answer.watch_id)
        if found is None:
            return None
        if answer.canceled:  # its history is compacted: whoever waits asks, and finds out
            self._numbers.pop(answer.watch_id)
            self._all.pop(found, None)
            found.moved.set()
        for event in answer.events:
            found.since = max(found.since, event.kv.mod_revision + 1)
            if event.type == DELETED:
                found.deleted = event.kv.mod_revision
            found.moved.set()
        return None

    def _ask(self, watch: Watch) -> None:
        rpc = self._connection.rpc
        filters = [] if watch.puts else [NO_PUTS]
        create = rpc.WatchCreateRequest(key=watch.key, range_end=watch.end, start_revision=watch.since, filters=filters)
        self._asked.append(watch)
        self._outbox.put_nowait(rpc.WatchRequest(create_request=create))

    def _cancel(self, number: int) -> None:
        rpc = self._connection.rpc
        self._outbox.put_nowait(rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=number)))


async def _drained(outbox: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """Until None: gRPC does not end who waits for the next request of a stream that has failed."""
    while (request := await outbox.get()) is not None:
        yield request
