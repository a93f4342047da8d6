"""Starting a background thread without ever waiting for it, and waiting for its word without ever being stuck.

The rules: `threading.Thread.start` waits on a condition that the new thread must notify; a Ctrl-C in that wait can
leave its lock held and the new thread stuck. `_thread.start_new_thread` waits for nothing. Such threads are daemons.

`SimpleQueue.get` with a timeout waits for ever if a signal handler runs just when the time is up (CPython 3.11 and
3.12: the time left becomes negative, which means no limit). A lock's `acquire` looks for that.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Generic, TypeVar

T = TypeVar("T")


def start(run: Callable[[], object]) -> None:
    """Run `run` on a new daemon thread; debuggers and coverage see it as they see any thread."""
    _thread.start_new_thread(_traced, (run,))


class Mailbox(Generic[T]):
    """What one thread waits for and others tell it.

    The lock in it is taken by the one who waits alone, and by him for nothing but waiting: whoever tells never waits,
    and a Ctrl-C in the wait leaves nobody behind.
    """

    __slots__ = ("_items", "_told")

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._told = _thread.allocate_lock()
        self._told.acquire()

    def put(self, item: T) -> None:
        """Tell it. Waits for nothing; any thread, any number of times."""
        self._items.append(item)
        try:
            self._told.release()
        except RuntimeError:  # he has been told that there is something
            return

    def get(self, timeout: float | None = None) -> T:
        """The next item; `queue.Empty` if none came for `timeout` seconds, or a little more."""
        while True:
            try:
                return self._items.popleft()
            except IndexError:
                if not self._told.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
                    raise Empty from None


def _traced(run: Callable[[], object]) -> None:
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)
    if (profile := threading.getprofile()) is not None:
        sys.setprofile(profile)
    run()
