"""etcdctl as a process that runs for long: `elect`, `lock`, `watch`. What it prints is awaited with a deadline."""

from __future__ import annotations

import subprocess
import threading
from queue import Empty, SimpleQueue
from signal import SIGINT
from typing import Any, Self

import pytest

from tests.servers.etcd import Etcd

AT_ONCE = 1.5  # s, on a busy machine; a lease runs out much later


class Etcdctl:
    """One run of it, and the lines that it prints. Ctrl-C ends it, as it would a user's."""

    def __init__(self, cluster: Etcd[Any], *arguments: str) -> None:
        command = cluster.command(*arguments)
        self._process = subprocess.Popen(
            command.arguments,
            env=dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._process.pid
        print(f"etcdctl {' '.join(arguments)}: pid {self.pid}")
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def line(self, within: float = AT_ONCE) -> str:
        """The next line; fail if there is none in time."""
        try:
            return self._lines.get(timeout=within)
        except Empty:
            pytest.fail(f"etcdctl (pid {self.pid}) printed nothing within {within:g} s")

    def maybe(self, within: float = AT_ONCE) -> str | None:
        """The next line; None if there is none in time."""
        try:
            return self._lines.get(timeout=within)
        except Empty:
            return None

    @property
    def silent(self) -> bool:
        """Whether it runs and has printed no line that was not read."""
        return self._lines.empty() and self._process.poll() is None

    def end(self) -> None:
        """Ctrl-C, which resigns, and wait for its end."""
        self._process.send_signal(SIGINT)
        assert self._process.wait(10) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
