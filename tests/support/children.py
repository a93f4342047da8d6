"""Processes of a test: what they say is awaited with a deadline, and none outlives its test.

The rule: a scene is a function that a fresh interpreter runs; it prints a line for each thing that happened, and the
test waits for lines, never for time. Each has a process group of its own, so that its own children end with it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

ROOT = Path(__file__).parents[2]
BUSY = (
    r" is short: | is in jeopardy with |a voter is not counted: \S+ no answer to \w+ in time"
    r"|campaigning in .*: OutcomeUnknown\('no answer to attempt within "
)
PATIENCE = 30.0  # s: for a line that is due at once, on a machine that is busy with other things


def say(*words: object) -> None:
    """In a scene: one line to the test, written whole at once."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def hear() -> str:
    """In a scene: the next line that the test has told."""
    line = b""
    while not line.endswith(b"\n"):
        if not (char := os.read(0, 1)):
            raise EOFError("the test has gone")
        line += char
    return line.decode().strip()


class Child:
    """One process, stopped for good when the block is left, with all that it has started in its group."""

    def __init__(
        self,
        scene: Callable[..., object],
        *arguments: object,
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        start = f"import sys; from {scene.__module__} import {scene.__qualname__} as scene; scene(*sys.argv[1:])"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", start, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            process_group=0,
        )
        self.pid = self.process.pid
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.decode().rstrip("\n"))
        self._lines.put(None)

    def line(self, timeout: float = PATIENCE) -> str:
        """The next line that it printed."""
        try:
            line = self._lines.get(timeout=timeout)
        except Empty:
            raise AssertionError(f"no line within {timeout:g} s; errors:\n{self.errors}") from None
        if line is None:
            self._lines.put(None)
            raise AssertionError(f"it ended ({self.process.wait(PATIENCE)}) without a line; errors:\n{self.errors}")
        return line

    def rest(self, timeout: float = PATIENCE) -> str | None:
        """The next line of one that has ended; None: there is no more."""
        line = self._lines.get(timeout=timeout)
        if line is None:
            self._lines.put(None)
        return line

    def expect(self, word: str, timeout: float = PATIENCE) -> str:
        """The rest of the next line, which begins with `word`."""
        line = self.line(timeout)
        first, _, rest = line.partition(" ")
        assert first == word, f"expected a line {word!r}, got {line!r}; errors:\n{self.errors}"
        return rest

    def quiet(self) -> bool:
        """Whether all lines so far have been read."""
        return self._lines.empty()

    def tell(self, line: str = "") -> None:
        """Let it go on: one line to its `hear`."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def exit_code(self, timeout: float = PATIENCE) -> int:
        """How it ended; negative: by that signal."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"alive after {timeout:g} s; errors:\n{self.errors}") from None

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode(errors="replace")

    @property
    def complaints(self) -> str:
        """What it wrote to stderr, but for what a test's short ttl and a busy machine make coordkit say."""
        lines = self.errors.splitlines(keepends=True)
        return "".join(line for line in lines if not re.search(BUSY, line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Who holds its output has not ended. The number is still the group's: it is not free while one of them lives.
        if self.process.poll() is None or self._reader.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(PATIENCE)
        if self._reader.is_alive():  # and its pipe cannot be closed
            if kind is None:
                raise AssertionError("a process that has left its group still holds its output")
            return
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        self._errors.close()


def stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal."""
    state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    return state == "T"


@contextmanager
def took(least: float = 0.0, most: float = float("inf")) -> Iterator[None]:
    """The block takes at least and at most so many seconds."""
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    assert least <= seconds <= most, f"took {seconds:.3f} s, expected {least:g} to {most:g}"
