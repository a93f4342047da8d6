"""The examples, as they are shipped: two instances of each, one leads, and the other takes over."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from coordkit import FencingToken
from coordkit.audit import Outcome, judge, parse
from coordkit.cli.demo_story import unlocked
from coordkit.testing.contract import eventually
from tests.support.children import Child, stopped

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


# -- the resource's side -----------------------------------------------------------------------------------


def fenced_writer(*arguments: str) -> None:
    """In a process of its own."""
    sys.argv = ["fenced_writer.py", *arguments]
    runpy.run_path(str(EXAMPLES / "fenced_writer.py"), run_name="__main__")


class Writers:
    """fenced_writer.py: the service and whoever writes to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.started: list[Child] = []

    def begin(self, role: str, *more: str) -> Child:
        arguments = [role, "--folder", str(self.folder), "--port", str(self.port), "--ttl", "3", "--every", "0.2"]
        env = {"COORDKIT_JOURNAL": str(self.folder / "journal.jsonl")}
        self.started.append(Child(fenced_writer, *arguments, *more, env=env))
        return self.started[-1]

    def put(self, headers: dict[str, str]) -> tuple[int, str, dict[str, object]]:
        """Status, kind and content of the answer to a write by hand."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request("PUT", "/report", b"by hand", headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("content-type") or "", json.load(answer)

    def report(self) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/report", timeout=30) as answer:
            return dict(json.load(answer))


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    made = Writers(tmp_path)
    yield made
    for child in made.started:
        child.__exit__(None, None, None)


def see(child: Child, pattern: str, seconds: float = 60.0) -> str:
    """The first group of the next line that matches."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := re.fullmatch(pattern, child.line(seconds)):
            return found[1] if found.groups() else found[0]
    raise AssertionError(f"it does not say {pattern!r}")


def test_the_service_refuses_whoever_leads_no_more_also_after_it_was_started_again(writers: Writers) -> None:
    service = writers.begin("serve")
    see(service, "serving .*")
    one = writers.begin("write", "--label", "one")
    first = see(one, "one: wrote report .* under (.*)")
    two = writers.begin("write", "--label", "two")
    see(two, "two: contending")
    one.send(signal.SIGTERM)
    assert one.exit_code() == 0
    second = see(two, "two: wrote report .* under (.*)")
    assert FencingToken.parse(second) > FencingToken.parse(first)

    status, kind, told = writers.put(FencingToken.parse(first).headers())
    assert (status, kind, told["newest"]) == (412, "application/problem+json", second)
    assert writers.put({})[0] == 428
    assert writers.put({"Fencing-Token": "nonsense"})[0] == 400
    assert writers.put(FencingToken("another", 2**62).headers())[0] == 400
    two.send(signal.SIGTERM)
    assert two.exit_code() == 0

    service.send(signal.SIGKILL)
    service.process.wait()
    see(writers.begin("serve"), "serving .*")
    eventually(lambda: answers(writers), "it serves again")
    assert writers.put(FencingToken.parse(first).headers())[0] == 412
    assert str(writers.report()["body"]).startswith("two: ")
    records, cut = parse((writers.folder / "journal.jsonl").read_bytes())
    judged = judge(records, cut=cut)
    assert judged.ok, judged.violations
    accepted = {write.token for write in judged.writes if write.outcome is Outcome.ACCEPTED}
    assert accepted == {FencingToken.parse(token).value for token in (first, second)}


def answers(writers: Writers) -> bool:
    """Whether the service takes connections."""
    try:
        writers.report()
    except OSError:
        return False
    return True
