"""A process that gets nearly no CPU: last in the queue of one core, which others keep busy.

The rule: one core only, so the machine's other work goes on. What was changed is set back.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

HOG = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:
    pass
"""


def starved(pid: int) -> Callable[[], None]:
    """All threads of this process go to one core, where whatever else wants to run comes first; what ends it."""
    usual = os.sched_getaffinity(pid)
    core = max(usual)
    _each_thread(pid, {core}, os.SCHED_IDLE)
    hog = subprocess.Popen([sys.executable, "-I", "-S", "-c", HOG, str(core)], stdin=subprocess.DEVNULL)

    def end() -> None:
        hog.kill()
        hog.wait()
        _each_thread(pid, usual, os.SCHED_OTHER)

    return end


def _each_thread(pid: int, cores: set[int], policy: int) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):  # it was killed
        for thread in sorted(int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()):
            with suppress(ProcessLookupError):  # that thread has ended
                os.sched_setscheduler(thread, policy, os.sched_param(0))
                os.sched_setaffinity(thread, cores)
