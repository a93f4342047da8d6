"""The guard and the gate: what they do in process, and what they are as processes of their own.

The rule of both: they import nothing of coordkit and start in milliseconds.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordkit.cli import gate, guard
from coordkit.cli.processes import Group, GuardFailed, kill_and_wait, living_members
from coordkit.cli.processes import Guard as GuardProcess
from coordkit.clock import system_clock
from coordkit.lease import Promise

CLOCK = system_clock()


class Ended(Exception):
    """The end of a guard's life in these tests."""


class Harness:
    """A guard in this process: its kills are written down, its clock is ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.orders, ours = os.pipe()
        self.write = ours
        self.answers, theirs = os.pipe()
        self.theirs = theirs
        self.guard = guard.Guard(self.orders, theirs)
        self.kills: list[int] = []
        self.limit = 10
        monkeypatch.setattr(guard.os, "killpg", self.kill)
        monkeypatch.setattr(guard, "pinned", lambda group: group != 666)

    def kill(self, group: int, signum: int) -> None:
        assert signum == signal.SIGKILL
        self.kills.append(group)
        if len(self.kills) == self.limit:
            os.close(self.write)
            raise ProcessLookupError

    def order(self, text: str) -> None:
        os.write(self.write, text.encode())

    def answered(self) -> bytes:
        return os.read(self.answers, 100)

    def close(self) -> None:
        for each in (self.orders, self.write, self.answers, self.theirs):
            try:
                os.close(each)
            except OSError:
                continue


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    made = Harness(monkeypatch)
    yield made
    made.close()


def ahead(seconds: float) -> str:
    return " ".join(str(time.clock_gettime(each) + seconds) for each in guard.CLOCKS)


def test_told_that_it_is_over_it_kills_nobody(harness: Harness) -> None:
    harness.order(f"until {ahead(100)}\ngroup 4242\nover\n")
    harness.guard.watch()
    assert harness.answered() == b"..."
    assert harness.kills == []


def test_when_its_supervisor_is_gone_it_kills(harness: Harness) -> None:
    harness.order(f"until {ahead(100)}\ngroup 4242\n")
    os.close(harness.write)
    harness.guard.watch()
    assert harness.kills == [4242]


def test_without_a_group_there_is_nobody_to_kill(harness: Harness) -> None:
    harness.order(f"until {ahead(-1)}\n")
    os.close(harness.write)
    harness.guard.watch()
    assert harness.kills == []


def test_when_its_time_is_over_it_kills_until_it_is_told_otherwise(harness: Harness) -> None:
    harness.order(f"until {ahead(-1)}\ngroup 4242\n")
    harness.guard.watch()
    assert set(harness.kills) == {4242}
    assert len(harness.kills) > harness.limit  # the last one because the pipe was closed


@pytest.mark.parametrize("behind", [0, 1])
def test_the_clock_that_is_ahead_counts(harness: Harness, behind: int) -> None:
    now = [time.clock_gettime(each) for each in guard.CLOCKS]
    ends = [at + (-1 if number == behind else 100) for number, at in enumerate(now)]
    harness.guard.until = ends
    assert harness.guard.left() <= -1


def test_a_newer_instant_that_waits_in_the_pipe_is_read_before_anybody_is_killed(harness: Harness) -> None:
    """The guard was stopped: the old instant is over, and the lease was renewed meanwhile."""
    harness.guard.group = 4242
    harness.guard.until = [0.0, 0.0]
    harness.order(f"until {ahead(100)}\nover\n")
    harness.guard.watch()
    assert harness.kills == []


def test_orders_may_come_in_pieces(harness: Harness) -> None:
    harness.order(f"until {ahead(100)}\ngro")
    harness.guard._obey()
    harness.order("up 4242\n")
    harness.guard._obey()
    assert harness.guard.group == 4242
    assert harness.answered() == b".."


def test_a_group_that_is_not_there_is_refused_and_never_killed(harness: Harness) -> None:
    harness.order("group 666\n")
    os.close(harness.write)
    harness.guard.watch()
    assert harness.answered() == b"!"
    assert harness.kills == []


def test_an_order_that_it_does_not_know_ends_it_and_the_group(harness: Harness) -> None:
    harness.order(f"until {ahead(100)}\ngroup 4242\nnonsense\n")
    with pytest.raises(ValueError, match="nonsense"):
        harness.guard.watch()
    assert harness.kills == [4242]


def test_a_supervisor_that_does_not_read_any_more_is_gone(harness: Harness) -> None:
    harness.guard.group = 4242
    os.close(harness.answers)
    harness.order(f"until {ahead(100)}\n")
    harness.guard.watch()
    assert harness.kills == [4242]


@pytest.mark.parametrize("module", [guard, gate])
def test_they_import_the_standard_library_alone(module: object) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert names <= {"os", "select", "signal", "sys", "time"}


# -- as processes --------------------------------------------------------------------------------------------


@pytest.fixture
def group() -> Iterator[Group]:
    made = Group(["sleep", "60"], os.environ)
    yield made
    kill_and_wait(made)
    made.reap()


def promise(seconds: float) -> Promise:
    return Promise(CLOCK.now(), seconds)


def test_a_command_does_not_run_before_its_gate_is_open(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    made = Group(["touch", str(ran)], os.environ)
    os.close(made._gate)  # as if we had died
    made._gate = os.open(os.devnull, os.O_RDONLY)
    made._leader.wait()
    made.reap()
    assert made._leader.returncode == gate.NOT_LET_THROUGH
    assert not ran.exists()


def test_a_command_behind_its_gate_is_its_own_group_s_leader() -> None:
    made = Group(["sh", "-c", "exit $(( $(ps -o pgid= -p $$) == $$ ? 9 : 1 ))"], os.environ)
    made.open()
    while made.alive():
        time.sleep(0.005)
    assert made.exit_code() == 9
    assert made.wants_terminal() is False
    made.reap()


def test_an_opened_gate_whose_command_is_dead_already_is_no_error(group: Group) -> None:
    kill_and_wait(group)
    group.open()
    assert group.exit_code() == 137


def test_a_guard_kills_in_time_and_pins_the_number(group: Group) -> None:
    group.open()
    made = GuardProcess(group.number, CLOCK)
    try:
        made.arm(promise(0.5), 0.2, 5.0)
        (pin,) = [pid for pid in children(made.pid) if pid != group.number]
        assert os.getpgid(pin) == group.number
        while group.alive():
            time.sleep(0.005)
        assert group.exit_code() == 137
        assert made.obeys()
    finally:
        made.dismiss()
    assert not Path(f"/proc/{made.pid}").exists()


def children(parent: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_a_guard_is_told_news_only(group: Group) -> None:
    made = GuardProcess(group.number, CLOCK)
    try:
        given = promise(30)
        made.arm(given, 0.2, 5.0)
        made.move(Promise(given.sent, 30.004), 0.2)
        assert made._unanswered == []
        made.move(Promise(given.sent, 29.9), 0.2)
        assert len(made._unanswered) == 1
    finally:
        made.discard()
    assert group.alive()  # discarded, it kills nobody


def test_a_guard_that_is_gone_or_stuck_is_found(group: Group) -> None:
    made = GuardProcess(group.number, CLOCK)
    made.arm(promise(30), 0.2, 5.0)
    assert made.obeys()
    os.kill(made.pid, signal.SIGKILL)
    while made.obeys():
        time.sleep(0.005)
    made.move(promise(40), 0.2)  # nobody reads it: no error
    made.dismiss()


def test_a_guard_that_does_not_answer_is_not_armed(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordkit.cli.processes.PARTING_SECONDS", 0.05)
    made = GuardProcess(group.number, CLOCK)
    os.kill(made.pid, signal.SIGSTOP)
    with pytest.raises(GuardFailed, match=r"not armed within 0\.05 s"):
        made.arm(promise(30), 0.2, 0.05)
    made.dismiss()
    assert not Path(f"/proc/{made.pid}").exists()


def test_a_guard_of_a_group_that_is_not_there_is_refused() -> None:
    made = GuardProcess(2**22 + 1, CLOCK)
    with pytest.raises(GuardFailed, match="ended before it was armed"):
        made.arm(promise(30), 0.2, 5.0)
    made.discard()


def test_a_guard_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordkit.cli.processes._BARE_PYTHON", ("/no/such/python",))
    with pytest.raises(GuardFailed, match="cannot be started"):
        GuardProcess(1, CLOCK)
    with pytest.raises(FileNotFoundError):
        Group(["true"], os.environ)


def test_the_guard_starts_fast() -> None:
    """In milliseconds of CPU: nothing but the interpreter and five modules of its own."""
    show = f"import sys; sys.argv = ['x']; exec(open({guard.__file__!r}).read().split('if __name__')[0]); "
    show += (
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('coordkit', 'site', 're', 'asyncio')))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_living_members_are_those_that_are_not_dead(tmp_path: Path) -> None:
    for pid, stat in {
        "1": "1 (init) S 0 1 1 0",
        "20": "20 (a b) R) S 1 7 1 0",  # a name may contain anything
        "21": "21 (x) Z 1 7 1 0",
        "22": "22 (x) R 1 8 1 0",
        "23": "23 (x) T 20 7 1 0",
    }.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "stat").write_text(stat)
    (tmp_path / "24").mkdir()  # ended while we looked
    (tmp_path / "self").mkdir()
    assert sorted(living_members(7, str(tmp_path))) == [20, 23]


# -- the gate, in process ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(2, "No such file or directory"), 127),
        (NotADirectoryError(20, "Not a directory"), 127),
        (PermissionError(13, "Permission denied"), 126),
        (OSError(8, "Exec format error"), 126),
    ],
)
def test_what_cannot_be_executed_is_said_with_its_code(
    error: OSError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def execvp(name: str, command: list[str]) -> None:
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        raise error

    entrance, ours = os.pipe()
    os.write(ours, gate.OPEN)
    os.close(ours)
    monkeypatch.setattr(gate.os, "execvp", execvp)
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        assert gate.main(entrance, ["thing", "x"]) == code
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert capsys.readouterr().err == f"coordkit: thing: {error.strerror}\n"


def test_a_gate_whose_supervisor_is_gone_lets_nothing_through(monkeypatch: pytest.MonkeyPatch) -> None:
    entrance, ours = os.pipe()
    os.close(ours)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert gate.main(entrance, ["true"]) == gate.NOT_LET_THROUGH
    finally:
        signal.signal(signal.SIGINT, before)
