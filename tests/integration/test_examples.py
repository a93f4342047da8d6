"""The examples, as they are shipped: two instances of each, one leads, and the other takes over."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from coordkit.cli.demo_story import unlocked
from tests.support.children import stopped

pytestmark = pytest.mark.backend("sqlite")

EXAMPLES = Path(__file__).parents[2] / "examples"
TTL = 3.0


class Instance:
    """An example as a process; its lines are awaited."""

    def __init__(self, example: str, label: str, folder: Path) -> None:
        self.label = label
        self.folder = folder
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(EXAMPLES / example), "--folder", str(folder), "--label", label),
                *("--ttl", str(TTL), "--every", "0.4"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COORDKIT_JOURNAL": str(folder / "journal.jsonl")},
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip())

    def see(self, pattern: str, seconds: float = 30) -> str:
        """The first group of the next line that matches."""
        try:
            while True:
                line = self._lines.get(timeout=seconds)
                if found := re.fullmatch(f"{self.label}: {pattern}", line):
                    return found[1] if found.groups() else line
        except Empty:
            raise AssertionError(f"{self.label} does not say {pattern!r}") from None

    def stop(self) -> None:
        """SIGSTOP, but not inside a transaction, which would lock SQLite for everybody."""
        for _ in range(10):
            self.see("wrote under .*")
            self.process.send_signal(signal.SIGSTOP)
            while not stopped(self.process.pid):
                time.sleep(0.001)
            if all(unlocked(str(self.folder / name), 0.2) for name in ("election.db", "reports.db")):
                return
            self.process.send_signal(signal.SIGCONT)
        raise AssertionError(f"{self.label} was inside a transaction each time")

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code and what it wrote to stderr."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join()
        assert self.process.stderr is not None
        return code, self.process.stderr.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


Start = Callable[[str], Instance]


@pytest.fixture(params=["critical_section.py", "async_worker.py"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    instances: list[Instance] = []

    def begin(label: str) -> Instance:
        instances.append(Instance(request.param, label, tmp_path))
        return instances[-1]

    yield begin
    for instance in instances:
        instance.close()


def tokens_written(folder: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(folder / "reports.db")) as connection:
        return connection.execute("SELECT token, author FROM reports ORDER BY rowid").fetchall()


def test_one_leads_and_hands_over_at_once_when_it_is_terminated(start: Start, tmp_path: Path) -> None:
    one = start("one")
    first = int(one.see(r"leading with examples/reports=(\d+)"))
    one.see(rf"wrote under examples/reports={first}")
    two = start("two")
    two.see("waiting")
    one.see("wrote under .*")
    code, errors = one.end()
    assert code == 0
    assert "Traceback" not in errors
    second = int(two.see(r"leading with examples/reports=(\d+)"))
    two.see(rf"wrote under examples/reports={second}")
    code, errors = two.end(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in errors
    assert first < second
    written = tokens_written(tmp_path)
    assert written == sorted(written, key=lambda row: row[0])
    assert set(written) == {(first, "one"), (second, "two")}
    journal = (tmp_path / "journal.jsonl").read_text()
    moments = [float(moment) for moment in re.findall(r'"event":"(?:lost|resigned|won)".*?"boot":([\d.]+)', journal)]
    assert moments[2] - moments[1] < TTL / 2, "the second waited for the lease, though the first had resigned"


def test_a_paused_leader_wakes_up_writes_nothing_and_contends_again(start: Start, tmp_path: Path) -> None:
    one = start("one")
    first = int(one.see(r"leading with examples/reports=(\d+)"))
    two = start("two")
    two.see("waiting")
    one.stop()
    second = int(two.see(r"leading with examples/reports=(\d+)"))
    two.see("wrote under .*")
    before = [row for row in tokens_written(tmp_path) if row[0] == first]
    one.process.send_signal(signal.SIGCONT)
    one.see(r"(the term .* is over: reason: expired|refused: token .* is stale: .*)")
    one.see("waiting")
    assert [row for row in tokens_written(tmp_path) if row[0] == first] == before
    two.process.kill()
    third = int(one.see(r"leading with examples/reports=(\d+)"))
    one.see("wrote under .*")
    assert first < second < third
    assert [token for token, _ in tokens_written(tmp_path)] == sorted(token for token, _ in tokens_written(tmp_path))
    assert one.end()[0] == 0
