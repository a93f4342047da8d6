"""Logging from the engine, without ever blocking it.

The rule: a logging handler takes locks that application threads hold too, and a Ctrl-C inside one may leave it
held. So the engine only puts records on a queue; a thread of their own hands them to `logging`.
"""

from __future__ import annotations

import logging
from queue import Empty, SimpleQueue

from coordkit import threads

logger = logging.getLogger("coordkit")

_Record = tuple[int, str, tuple[object, ...]]


class QueuedLog:
    """Puts records on a queue; the first one starts the thread that handles them."""

    def __init__(self) -> None:
        self._records: SimpleQueue[_Record | SimpleQueue[None]] = SimpleQueue()
        self._unstarted = [None]  # popped once, by whoever logs first: list.pop is atomic

    def info(self, message: str, *values: object) -> None:
        self._put(logging.INFO, message, values)

    def warning(self, message: str, *values: object) -> None:
        self._put(logging.WARNING, message, values)

    def error(self, message: str, *values: object) -> None:
        self._put(logging.ERROR, message, values)

    def flush(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until all records put so far are handled."""
        if self._unstarted:
            return
        handled: SimpleQueue[None] = SimpleQueue()
        self._records.put(handled)
        try:
            handled.get(timeout=timeout)
        except Empty:
            return

    def _put(self, level: int, message: str, values: tuple[object, ...]) -> None:
        self._records.put((level, message, values))
        try:
            self._unstarted.pop()
        except IndexError:
            return
        threads.start(self._handle)

    def _handle(self) -> None:
        while True:
            match self._records.get():
                case (level, message, values):
                    logger.log(level, message, *values)
                case handled:
                    handled.put(None)
