"""Logging from the engine, without ever blocking it.

The rule: a logging handler takes locks that application threads hold too, and a Ctrl-C inside one may leave it
held. So the engine only puts records on a queue; a thread of their own hands them to `logging`.
"""

from __future__ import annotations

import logging
import traceback
from queue import Empty, SimpleQueue

from coordkit import threads

logger = logging.getLogger("coordkit")

_Record = tuple[int, str, tuple[object, ...]]


class QueuedLog:
    """Puts records on a queue; the first one starts the thread that handles them."""

    def __init__(self) -> None:
        self._records: SimpleQueue[_Record | threads.Mailbox[None]] = SimpleQueue()
        self._unstarted = [None]  # popped once, by whoever logs first: list.pop is atomic

    def info(self, message: str, *values: object) -> None:
        self._put(logging.INFO, message, values)

    def warning(self, message: str, *values: object) -> None:
        self._put(logging.WARNING, message, values)

    def error(self, message: str, *values: object) -> None:
        self._put(logging.ERROR, message, values)

    def flush(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until all records put so far are handled."""
        if self._unstarted:  # no thread: at the exit of the interpreter none can be started
            self._handle_waiting()
            return
        handled: threads.Mailbox[None] = threads.Mailbox()
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
        try:
            threads.start(self._handle)
        except RuntimeError:  # Python refuses new threads while it exits: `flush` handles what waits
            self._unstarted.append(None)

    def _handle(self) -> None:
        while True:
            self._one(self._records.get())

    def _handle_waiting(self) -> None:
        try:
            while True:
                self._one(self._records.get_nowait())
        except Empty:
            return

    def _one(self, record: _Record | threads.Mailbox[None]) -> None:
        match record:
            case (level, message, values):
                try:
                    logger.log(level, message, *values)
                except Exception:  # noqa: BLE001 - a filter or handler of the application's: the next record counts
                    traceback.print_exc()
            case handled:
                handled.put(None)
