"""The candidates of the demo as processes: started, killed, stopped, resumed, and what they report.

The rule: nothing is believed that was not seen. A process counts as killed when it was waited for, as stopped when
the kernel says so; an event is a line that a candidate has written. Whatever happens, no candidate outlives the stage.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from coordkit import threads
from coordkit.clock import host_boottime

EXIT = "exit"  # the event of a candidate's end, with `code`


class StageError(Exception):
    """A process did not do what a process does when it is signalled."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a candidate; `at` is seconds since the host booted."""

    candidate: str
    name: str
    at: float
    fields: Mapping[str, object] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """A field that is a whole number."""
        value = self.fields[name]
        assert isinstance(value, int), f"{name} of {self}"
        return value


class Stage:
    """Runs the candidates. A context manager: leaving it kills whatever is left."""

    def __init__(self, folder: Path, command: Sequence[str], url: str) -> None:
        self._folder = folder
        self._command = command
        self._url = url
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._events: SimpleQueue[Event] = SimpleQueue()
        self.journal = folder / "journal.jsonl"

    def start(self, label: str) -> int:
        """Start a candidate; its pid."""
        with open(self._log(label), "wb") as log:
            process = self._processes[label] = subprocess.Popen(
                [*self._command, "--label", label],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "COORDKIT_URL": self._url, "COORDKIT_JOURNAL": str(self.journal)},
                process_group=0,  # a Ctrl-C is for the demo; it ends them in its own way
            )
        threads.start(lambda: self._read(label, process))
        return process.pid

    def let_contend(self, label: str) -> None:
        """Tell a candidate that is ready to contend."""
        stdin = self._processes[label].stdin
        assert stdin is not None
        stdin.write(b".")
        stdin.flush()

    def next_event(self, seconds: float) -> Event | None:
        """The next event in the order of arrival; None if none comes in time."""
        try:
            return self._events.get(timeout=max(0.0, seconds))
        except Empty:
            return None

    def kill(self, label: str) -> float:
        """`kill -9`. Returns when that was; the end itself is an event."""
        at = host_boottime()
        os.kill(self._processes[label].pid, signal.SIGKILL)
        return at

    def stop(self, label: str) -> float:
        """SIGSTOP, and wait until the kernel has stopped it. Returns when that was seen."""
        pid = self._processes[label].pid
        os.kill(pid, signal.SIGSTOP)
        return _await_state(pid, os.WSTOPPED, "stopped")

    def resume(self, label: str) -> float:
        """SIGCONT, and wait until the kernel has resumed it. Returns when it was sent."""
        at = host_boottime()
        pid = self._processes[label].pid
        os.kill(pid, signal.SIGCONT)
        _await_state(pid, os.WCONTINUED, "resumed")
        return at

    def dismiss(self, label: str) -> None:
        """SIGTERM: the candidate resigns and ends, which is an event."""
        self._processes[label].terminate()

    def log_of(self, label: str, lines: int = 12) -> list[str]:
        """The last lines that a candidate wrote to its standard error."""
        try:
            return self._log(label).read_text(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            return []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()  # reaches a stopped one, too
        for process in self._processes.values():
            process.wait()

    def _log(self, label: str) -> Path:
        return self._folder / f"{label}.log"

    def _read(self, label: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        with process.stdin, process.stdout as lines:
            for line in lines:
                fields = json.loads(line) if line.endswith(b"\n") else {}  # killed while it wrote
                if fields:
                    self._events.put(Event(label, fields.pop("event"), fields.pop("at"), fields))
        code = process.wait()
        self._events.put(Event(label, EXIT, host_boottime(), {"code": code}))


def candidate_command(*arguments: str) -> list[str]:
    """The command of a candidate that imports the coordkit that we are."""
    from_here = sys.path[0] in ("", os.getcwd())  # as `python -m` has it; else a folder of that name is not meant
    return [sys.executable, *([] if from_here else ["-P"]), "-m", "coordkit.cli.demo_candidate", *arguments]


def _await_state(pid: int, state: int, name: str, seconds: float = 5.0) -> float:
    """Wait until the kernel says that a child is stopped or resumed."""
    start = host_boottime()
    while (now := host_boottime()) - start < seconds:
        try:
            if os.waitid(os.P_PID, pid, state | os.WNOHANG) is not None:
                return now
        except ChildProcessError as error:
            raise StageError(f"process {pid} is gone, not {name}") from error
        time.sleep(0.002)
    raise StageError(f"process {pid} is not {name} {seconds:g} s after the signal")
