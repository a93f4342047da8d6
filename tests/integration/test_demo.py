"""The demo when something is wrong: it says at which step and exits 1, and it takes its processes with it.

The rule: each broken demo runs a copy of the shipped source in which one place is patched, in real processes. What
the story's judge does with every other event is tested in tests/unit/test_demo_story.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend("sqlite")

PACKAGE = Path(__file__).parents[2] / "coordkit"
START = "import sys; from coordkit.cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Fault:
    """A patched place of the source, and what the demo must then say."""

    file: str
    old: str
    new: str
    step: str
    message: str
    also: tuple[str, str, str] | None = None  # a second place


NEXT = "        # Another boot"
EPOCH = "1 if row is None else row.epoch + 1"
ADMIT_ALL = ("fencing/sql.py", "offer.excluded.token >= self.table.c.token", "offer.excluded.token > 0")

FAULTS = {
    "a candidate does not start": Fault(
        *(
            "cli/demo_candidate.py",
            '    report("ready")\n',
            '    sys.exit(3) if given.label == "bob" else report("ready")\n',
        ),
        *("start", r"bob ended by itself, with exit code 3"),
    ),
    "nobody is elected": Fault(
        *("campaign.py", "        ask = self.spec.eligible\n", "        return False\n"),
        *("first leader", r"nobody was elected, waited 9 s"),
    ),
    "the fence is not shown the token": Fault(
        *("cli/demo_candidate.py", "fences=[ledger.fence]", "fences=[]"),
        *("first leader", r"the fence has not seen the token of \w+ before its work: it has None"),
    ),
    "two lead at once": Fault(
        *("backends/sqlite/adapter.py", f"if left > 0 else None\n{NEXT}", f"if left > 60 else None\n{NEXT}"),
        *(
            "first leader",
            r"(two leaders: \w+ with token|the fence has not seen the token of \w+.*: it has coordkit-demo)",
        ),
    ),
    "the leader is not killed": Fault(
        *("cli/demo_stage.py", "signal.SIGKILL)", "signal.SIGCONT)"),
        *("kill -9", r"\w+ lives on after kill -9, waited 9 s"),
    ),
    "nobody succeeds the dead": Fault(
        *("backends/sqlite/adapter.py", f"if left > 0 else None\n{NEXT}", f"\n{NEXT}"),
        *("leader after kill -9", r"nobody was elected, waited 9 s"),
    ),
    "the successor has a lower token": Fault(
        *("backends/sqlite/adapter.py", f"epoch = max({EPOCH}", f"epoch = 10**16 - max({EPOCH}"),
        *("leader after kill -9", r"the token of \w+, \d+, is not higher than \d+, which \w+ had before"),
        also=ADMIT_ALL,
    ),
    "the leader is not stopped": Fault(
        *("cli/demo_stage.py", "signal.SIGSTOP)", "signal.SIGCONT)"),
        *("SIGSTOP", r"process \d+ is not stopped 5 s after the signal"),
    ),
    "nobody succeeds the stopped": Fault(
        *(
            "cli/demo_stage.py",
            "os.kill(pid, signal.SIGSTOP)",
            "[each.send_signal(19) for each in self._processes.values()]",
        ),
        *("leader after SIGSTOP", r"nobody was elected, waited 9 s"),
    ),
    "the stopped is not resumed": Fault(
        *("cli/demo_stage.py", "os.kill(pid, signal.SIGCONT)", "os.kill(pid, 0)"),
        *("wake-up", r"process \d+ is not resumed 5 s after the signal"),
    ),
    "its clock does not tell the old leader": Fault(
        *(
            "lease.py",
            "return self.span - held_for(self.sent, now)",
            "return self.span + 60 - held_for(self.sent, now)",
        ),
        *("wake-up", r"\w+ does not know by its clock that its term is over"),
    ),
    "the fence admits everything": Fault(
        *ADMIT_ALL,
        *("stale write", r"the ledger has accepted row \d+ of \w+ under its old token \d+"),
    ),
    "a candidate does not end": Fault(
        *(
            "cli/demo_candidate.py",
            "signal.signal(signal.SIGTERM, end)",
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        ),
        *("end", r"\w+ does not end after SIGTERM"),
    ),
    "accepted writes are not kept": Fault(
        *(
            "cli/demo_ledger.py",
            "self._engine.begin() as connection:\n            self._fence",
            "self._engine.connect() as connection:\n            self._fence",
        ),
        *("ledger", r"writes that were accepted are not in the ledger"),
    ),
    "the journal shows an overlap": Fault(
        *(
            "journal.py",
            '"boot": clock.host_boottime(),',
            '"boot": clock.host_boottime() - (5 if event == "won" else 0),',
        ),
        *("journal", r"the candidates' journal shows a violation: \S+ led while \S+ did"),
    ),
}


def broken_demo(fault: Fault, folder: Path) -> subprocess.CompletedProcess[str]:
    shutil.copytree(PACKAGE, folder / "source" / "coordkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in [(fault.file, fault.old, fault.new), *([fault.also] if fault.also else [])]:
        file = folder / "source" / "coordkit" / name
        source = file.read_text(encoding="utf-8")
        assert source.count(old) == 1, f"{name} has this {source.count(old)} times: {old}"
        file.write_text(source.replace(old, new), encoding="utf-8")
    (folder / "tmp").mkdir()
    return subprocess.run(
        [sys.executable, "-c", START, "demo", "--ttl", "2", "--patience", "9"],
        cwd=folder / "source",
        env={**os.environ, "PYTHONPATH": str(folder / "source"), "TMPDIR": str(folder / "tmp")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """All the broken demos, three at a time: they wait for leases to run out more than they compute."""
    with ThreadPoolExecutor(3) as pool:
        yield {
            name: pool.submit(broken_demo, fault, tmp_path_factory.mktemp(f"demo{number}"))
            for number, (name, fault) in enumerate(FAULTS.items())
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_step_is_named_and_the_exit_code_is_1(
    name: str, demos: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    fault, run = FAULTS[name], demos[name].result()
    assert run.returncode == 1, run.stdout + run.stderr
    assert re.search(f"^FAILED at the step '({fault.step})': {fault.message}", run.stdout, re.MULTILINE), run.stdout
    assert "all of it was seen" not in run.stdout
    assert "Traceback" not in run.stderr
    assert all_gone(run.stdout)


# -- ended from outside ----------------------------------------------------------------------------------


def all_gone(output: str, seconds: float = 20) -> bool:
    """Whether the candidates that were started have ended; zombies have, too."""
    pids = re.findall(r"started, process (\d+)", output)
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_a_demo_that_is_ended_takes_its_candidates_with_it(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """While one of them is stopped. By `kill -9` too: their input ends, and the kernel wakes the stopped one."""
    with subprocess.Popen(
        [sys.executable, "-c", START, "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as demo:
        assert demo.stdout is not None
        output = ""
        for line in demo.stdout:
            output += line
            if "SIGSTOP" in line:
                break
        demo.send_signal(number)
        output += demo.stdout.read()
        assert demo.wait(30) == code
    assert "leads with token" in output
    assert "resumed" not in output
    assert all_gone(output)
    assert number == signal.SIGKILL or not list(tmp_path.iterdir())


# -- bad usage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--url", "memory://demo"], 2, "memory:// is seen by one process alone"),
        (["--url", "nothing://x"], 2, "the scheme 'nothing' is none of"),
        (["--ttl", "0.01"], 2, "leaves no room"),
        (["--ttl", "nan"], 2, "--ttl must be finite"),
        (["--patience", "0"], 2, "--patience must be finite"),
        (["--url", "sqlite:///absent/directory/x.db"], 78, "does not exist"),
    ],
)
def test_bad_usage_starts_nothing(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", START, "demo", *arguments],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (code, "")
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_without_sqlalchemy_the_extra_is_named() -> None:
    code = f"import sys; sys.modules['sqlalchemy'] = None; {START}"
    run = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout) == (69, "")
    assert "the demo's ledger needs SQLAlchemy" in run.stderr
    assert "pip install 'coordkit[sql]'" in run.stderr


def test_an_election_file_of_ones_own_keeps_no_leader(tmp_path: Path) -> None:
    """After the story the seat is free: the candidates have resigned or their leases have run out."""
    url = f"sqlite://{tmp_path}/mine.db"
    run = subprocess.run(
        [sys.executable, "-c", START, "demo", "--url", url, "--ttl", "1.5"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"on {url}" in run.stdout
    with closing(sqlite3.connect(f"{tmp_path}/mine.db")) as connection:
        rows = connection.execute("SELECT election, state FROM coordkit_elections").fetchall()
    assert len(rows) == 1
    assert rows[0][0].startswith("coordkit-demo/")
    assert rows[0][1] == "released"
