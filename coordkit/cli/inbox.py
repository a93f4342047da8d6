"""What wakes the supervisor: signals, and threads that have news.

The rule: a signal's handler does nothing. The interpreter writes the signal's number to a socket, and the main thread
reads it where it can act on it; so no exception comes out of the middle of anything.
"""

from __future__ import annotations

import math
import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Any, Self

# What the command gets when we get it. INT and QUIT come from the terminal, which does not reach the command's group.
FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)
WAKE = b"\0"


class Inbox:
    """Collects signals while it is entered; only in the main thread. Ignored signals stay ignored, as nohup wants."""

    def __enter__(self) -> Self:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._previous: dict[signal.Signals, Any] = {}
        for each in FORWARDED:
            if signal.getsignal(each) is not signal.SIG_IGN:
                self._previous[each] = signal.signal(each, _only_wake)
        # Whoever ignores SIGCHLD has the kernel reap its children, and would never learn how they ended.
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _only_wake)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._previous_fd)
        self._write.close()
        self._read.close()

    def wake(self) -> None:
        """End the wait of the main thread. From any thread; after the end of this inbox nothing happens."""
        try:
            self._write.send(WAKE)
        except OSError:  # closed, or full: then it wakes anyway
            return

    def wait(self, seconds: float | None) -> list[signal.Signals]:
        """Wait for signals or `wake`, at most so long; the signals in the order of their arrival."""
        if not self._poll.poll(None if seconds is None else math.ceil(1000 * max(0.0, seconds))):
            return []
        return [signal.Signals(number) for number in self._read.recv(4096) if number]


def _only_wake(signum: int, frame: FrameType | None) -> None:
    """The number is in the socket already."""
