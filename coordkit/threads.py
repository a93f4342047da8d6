"""Starting a background thread without ever waiting for it.

The rule: `threading.Thread.start` waits on a condition that the new thread must notify; a Ctrl-C in that wait can
leave its lock held and the new thread stuck. `_thread.start_new_thread` waits for nothing. Such threads are daemons.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable


def start(run: Callable[[], object]) -> None:
    """Run `run` on a new daemon thread; debuggers and coverage see it as they see any thread."""
    _thread.start_new_thread(_traced, (run,))


def _traced(run: Callable[[], object]) -> None:
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)
    if (profile := threading.getprofile()) is not None:
        sys.setprofile(profile)
    run()
