"""`coordkit run` with real processes on SQLite: a command never outlives the lease that it runs under.

The rule: a command writes down when it lived, on the clock of deadlines; the journal has the deadlines. They are
compared afterwards, so a slow machine cannot make a test pass.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.backend("sqlite")

PATIENCE = 20.0  # s: for what happens at once on a quiet machine
ELECTION = "reports/nightly"

# Writes a line "pid token clock" every few milliseconds, so that its end is known to a few milliseconds. Signals that
# it gets are lines as well. Words: what to do with them.
BEAT = """
import os, signal, sys, time
path, *words = sys.argv[1:]
out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
token = os.environ["COORDKIT_TOKEN"]
def write(what):
    os.write(out, f"{what} {os.getpid()} {token} {time.clock_gettime(time.CLOCK_BOOTTIME)}\\n".encode())
def heard(number, frame):
    write(signal.Signals(number).name)
    if number == signal.SIGTERM and "deaf" not in words:
        sys.exit(5)
for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
    signal.signal(each, heard)
if "family" in words and os.fork() == 0:
    if os.fork() == 0:
        words.append("grandchild")
if "orphan" in words and os.fork() != 0:
    sys.exit(7)
end = time.monotonic() + 60
while time.monotonic() < end:
    write("beat")
    time.sleep(0.005)
"""


@dataclass(frozen=True)
class Line:
    """One line of a command."""

    what: str
    pid: int
    token: int
    at: float


class Place:
    """A directory with an election, its journal and what the commands wrote."""

    def __init__(self, path: Path) -> None:
        self.database = path / "leader.db"
        self.url = f"sqlite://{self.database}"
        self.journal = path / "journal"
        self.output = path / "output"
        self.mark = f"COORDKIT_TEST_MARK={uuid.uuid4()}"
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str, command: tuple[str, ...] | None = None, **more: Any) -> subprocess.Popen[str]:
        """Start `coordkit run … NAME -- COMMAND`; the default command beats."""
        line = [sys.executable, "-m", "coordkit", "run", *arguments, ELECTION, "--", *(command or self.beat())]
        process = subprocess.Popen(
            line,
            stdin=more.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**more),
        )
        self.started.append(process)
        return process

    def environment(self, **more: str) -> dict[str, str]:
        name, _, value = self.mark.partition("=")
        ours = {"COORDKIT_URL": self.url, "COORDKIT_JOURNAL": str(self.journal), name: value}
        return {**os.environ, **ours, **more}

    def beat(self, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-I", "-S", "-c", BEAT, str(self.output), *words)

    def lines(self, what: str | None = None) -> list[Line]:
        """What the commands wrote so far."""
        text = self.output.read_text() if self.output.exists() else ""
        found = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        every = [Line(word, int(pid), int(token), float(at)) for word, pid, token, at in found]
        return [line for line in every if what in (None, line.what)]

    def records(self, event: str) -> list[dict[str, Any]]:
        text = self.journal.read_text() if self.journal.exists() else ""
        every = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [record for record in every if record["event"] == event]

    def deadline(self, token: int) -> float:
        """The end of the newest lease of a term, as its holder may count on it."""
        promised = [each for event in ("won", "renewed") for each in self.records(event) if each["token"] == token]
        return max(float(each["deadline"]) for each in promised)

    def first_beat(self, process: subprocess.Popen[str], count: int = 1) -> Line:
        """Wait until the command of the `count`th term beats."""

        def tokens() -> list[int]:
            return sorted({line.token for line in self.lines("beat")})

        wait_for(lambda: len(tokens()) >= count or process.poll() is not None)
        found = tokens()
        assert len(found) >= count, process.communicate()
        return next(line for line in self.lines("beat") if line.token == found[count - 1])

    def assert_dead_in_time(self, token: int) -> float:
        """No process of a term's command lived past the deadline; the margin, in seconds."""
        margin = self.deadline(token) - max(line.at for line in self.lines() if line.token == token)
        assert margin > 0
        return margin

    def assert_one_after_another(self) -> None:
        """No command lived when a later term had begun."""
        lines = self.lines()
        for won in self.records("won"):
            assert [line for line in lines if line.token < won["token"] and line.at > won["boot"]] == []

    def living(self) -> list[int]:
        """All processes that were started from here, directly or not, guards included."""
        return [pid for pid in pids() if self.mark.encode() in read(f"/proc/{pid}/environ").split(b"\0")]

    @contextmanager
    def renewals_fail(self) -> Iterator[None]:
        """Nobody can write to the database."""
        with closing(sqlite3.connect(self.database, isolation_level=None, timeout=10)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place. After the test all supervisors are killed outright, and nothing that they started may live on."""
    made = Place(tmp_path)
    try:
        yield made
        for process in made.started:
            process.kill()
        wait_for(lambda: not made.living(), complain=False)
        assert [read(f"/proc/{pid}/cmdline") for pid in made.living()] == []
    finally:
        for pid in made.living():
            os.kill(pid, signal.SIGKILL)
        for process in made.started:
            process.wait(PATIENCE)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE, *, complain: bool = True) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            assert not complain, "it did not happen"
            return
        time.sleep(0.01)


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours
        return b""


def status(pid: int) -> tuple[str, int]:
    """State and parent of a process; ("", 0) if there is none."""
    found = read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    return (found[0].decode(), int(found[1])) if found else ("", 0)


def guard_of(supervisor: subprocess.Popen[str]) -> int:
    """The armed guard of a running command, known by its dead member of the group; 0 if there is none."""
    states = {pid: status(pid) for pid in pids()}
    for pid, (_, parent) in states.items():
        if parent == supervisor.pid and b"guard.py" in read(f"/proc/{pid}/cmdline") and ("Z", pid) in states.values():
            return pid
    return 0


def finish(process: subprocess.Popen[str], seconds: float = PATIENCE) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err, err
    return process.returncode, out, err


# -- a command and its end -----------------------------------------------------------------------------------


def test_the_command_finds_its_term_in_its_environment(place: Place) -> None:
    show = "print(*(os.environ['COORDKIT_' + name] for name in ('ELECTION', 'TOKEN', 'CANDIDATE', 'URL')))"
    process = place.run("--label", "web", command=(sys.executable, "-c", f"import os; {show}"))
    code, out, err = finish(process)
    (won,) = place.records("won")
    assert (code, err) == (0, "")
    assert out.split() == [ELECTION, str(won["token"]), won["entry"], place.url]
    assert won["entry"].startswith("web@")


def test_the_url_of_the_environment_reaches_the_command_but_no_message(place: Place) -> None:
    code, out, err = finish(place.run(command=("true",), COORDKIT_URL="etcdx://user:secret@host/"))
    assert (code, out) == (2, "")
    assert "etcdx" in err
    assert "secret" not in err


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("sleep 100 & exit 4", 4),
    ],
)
def test_the_command_s_end_is_ours(place: Place, script: str, code: int) -> None:
    assert finish(place.run(command=("sh", "-c", script)))[0] == code
    assert len(place.records("resigned")) == 1


def test_a_command_that_cannot_run_is_said_before_it_costs_an_election(place: Place, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("#!/bin/sh\n")
    code, _, err = finish(place.run(command=("no-such-command",)))
    assert (code, err) == (127, "coordkit: no-such-command: command not found\n")
    code, _, err = finish(place.run(command=(str(tmp_path / "data"),)))
    assert code == 126
    assert re.fullmatch(r"coordkit: \S+/data: is not executable\n", err)
    assert not place.journal.exists()


def test_a_command_that_vanished_meanwhile_is_127_and_gives_the_seat_up(place: Place, tmp_path: Path) -> None:
    leader = place.run()
    place.first_beat(leader)
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    waiting = place.run(command=(str(script),))
    wait_for(lambda: len(place.records("campaign")) == 2)
    leader.terminate()
    code, _, err = finish(waiting)
    assert code == 127
    assert str(script) in err
    assert len(place.records("resigned")) == 2


def test_what_is_left_of_the_group_is_dead_before_the_seat_is_given_up(place: Place) -> None:
    first = place.run("--ttl", "4", command=place.beat("orphan", "deaf"))  # its parent ends at once
    place.first_beat(first)
    second = place.run()
    place.first_beat(second, 2)
    assert finish(first)[0] == 7
    assert "SIGTERM" in {line.what for line in place.lines()}
    place.assert_one_after_another()


def test_stdin_is_no_terminal(place: Place) -> None:
    ours, theirs = os.openpty()
    try:
        assert finish(place.run(command=("readlink", "/proc/self/fd/0"), stdin=theirs))[1] == "/dev/null\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_command_inherits_no_descriptor_of_ours(place: Place) -> None:
    show = "import os; print([each for each in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + each)])"
    assert finish(place.run(command=(sys.executable, "-I", "-S", "-c", show)))[1] == "['0', '1', '2']\n"


# -- signals -------------------------------------------------------------------------------------------------


def test_a_term_is_forwarded_and_the_next_takes_over_at_once(place: Place) -> None:
    first = place.run("--ttl", "30")
    place.first_beat(first)
    second = place.run("--ttl", "30")
    wait_for(lambda: len(place.records("campaign")) == 2)
    started = time.monotonic()
    first.terminate()
    place.first_beat(second, 2)
    assert time.monotonic() - started < 10  # the lease would have run for 29 s more
    assert finish(first)[0] == 5
    assert len(place.lines("SIGTERM")) == 1
    place.assert_one_after_another()


def test_the_next_takes_over_at_once_when_the_command_has_ended(place: Place) -> None:
    first = place.run("--ttl", "30", command=("head", "-c1"), stdin=subprocess.PIPE)
    wait_for(lambda: place.records("won"))
    second = place.run("--ttl", "30", command=("true",))
    wait_for(lambda: len(place.records("campaign")) == 2)
    first.communicate("x")
    assert finish(second, 10)[0] == 0
    resigned, won = place.records("resigned")[0], place.records("won")[1]
    assert 0 < won["boot"] - resigned["boot"] < 5


def test_other_signals_are_forwarded_and_end_nothing(place: Place) -> None:
    process = place.run()
    place.first_beat(process)
    for each in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        process.send_signal(each)
        wait_for(lambda name=each.name: place.lines(name))
    assert process.poll() is None


@pytest.mark.parametrize("ignored", ["CHLD", "HUP"])
def test_what_our_parent_ignores_does_not_deceive_us(place: Place, ignored: str) -> None:
    """A parent may ignore SIGCHLD, so that the kernel reaps its children; nohup ignores SIGHUP, and means it."""
    command = "kill -HUP $PPID; sleep 0.3; exit 3" if ignored == "HUP" else "exit 3"  # forwarded, HUP would end it
    ignore = f"import os, signal, sys; signal.signal(signal.SIG{ignored}, signal.SIG_IGN); os.execv(sys.executable, %r)"
    line = [sys.executable, "-m", "coordkit", "run", ELECTION, "--", "sh", "-c", command]
    process = subprocess.Popen(
        [sys.executable, "-c", ignore % line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=place.environment(),
    )
    place.started.append(process)
    assert finish(process) == (3, "", "")


def test_ctrl_z_stops_both_and_fg_continues_both(place: Place) -> None:
    process = place.run("--ttl", "30")
    command = place.first_beat(process).pid
    process.send_signal(signal.SIGTSTP)
    wait_for(lambda: (status(process.pid)[0], status(command)[0]) == ("T", "T"))
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: place.lines("SIGCONT"))
    beats = len(place.lines("beat"))
    wait_for(lambda: len(place.lines("beat")) > beats)
    assert len(place.records("won")) == 1


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_wait_without_a_trace(place: Place, signum: signal.Signals, code: int) -> None:
    place.first_beat(place.run())
    waiting = place.run(command=("false",))
    wait_for(lambda: len(place.records("campaign")) == 2)
    waiting.send_signal(signum)
    assert finish(waiting) == (code, "", "")


# -- time runs out -------------------------------------------------------------------------------------------


def test_a_command_that_ignores_everything_is_dead_before_the_deadline(place: Place) -> None:
    process = place.run("--ttl", "2", command=place.beat("deaf", "family"))
    token = place.first_beat(process).token
    wait_for(lambda: len({line.pid for line in place.lines("beat")}) == 3)
    with place.renewals_fail():
        wait_for(lambda: place.lines("SIGTERM"))  # told first
        wait_for(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > place.deadline(token))
    told = min(line.at for line in place.lines("SIGTERM"))
    assert place.deadline(token) - told > 0.3
    assert len({line.pid for line in place.lines() if line.token == token}) == 3
    place.assert_dead_in_time(token)
    place.first_beat(process, 2)  # elected anew
    place.assert_one_after_another()


def test_once_ends_with_76_after_a_loss(place: Place) -> None:
    process = place.run("--ttl", "2", "--once", "--signal", "usr1", command=place.beat("deaf"))
    token = place.first_beat(process).token
    with place.renewals_fail():
        code, _, err = finish(process)
    assert code == 76
    assert "the lease of 'reports/nightly' was lost" in err
    assert len(place.lines("SIGUSR1")) == 1
    assert place.lines("SIGTERM") == []
    place.assert_dead_in_time(token)


def test_whoever_asked_for_the_end_gets_no_second_run_after_a_loss(place: Place) -> None:
    process = place.run("--ttl", "2", command=place.beat("deaf"))
    token = place.first_beat(process).token
    process.terminate()
    wait_for(lambda: place.lines("SIGTERM"))
    with place.renewals_fail():
        assert finish(process)[0] == 137  # as the command ended: killed
    place.assert_dead_in_time(token)
    assert len(place.records("won")) == 1


def test_a_lease_that_recovers_in_time_is_not_noticed(place: Place) -> None:
    process = place.run("--ttl", "6")
    token = place.first_beat(process).token
    with place.renewals_fail():
        wait_for(lambda: place.records("jeopardy"))
    renewed = len(place.records("renewed"))
    wait_for(lambda: len(place.records("renewed")) > renewed)
    beats = len(place.lines("beat"))
    wait_for(lambda: len(place.lines("beat")) > beats)
    assert {(line.what, line.token) for line in place.lines()} == {("beat", token)}


def test_kill_9_of_the_supervisor_kills_the_command(place: Place) -> None:
    process = place.run("--ttl", "4", command=place.beat("deaf", "family"))
    token = place.first_beat(process).token
    wait_for(lambda: len({line.pid for line in place.lines("beat")}) == 3)
    second = place.run("--ttl", "4")
    process.kill()
    wait_for(lambda: not [pid for pid in {line.pid for line in place.lines()} if status(pid)[0] not in ("", "Z")])
    assert place.assert_dead_in_time(token) > 0.5  # at once, not just in time
    place.first_beat(second, 2)
    place.assert_one_after_another()


def test_a_stopped_supervisor_does_not_keep_the_command_alive(place: Place) -> None:
    process = place.run("--ttl", "2", command=place.beat("deaf", "family"))
    token = place.first_beat(process).token
    wait_for(lambda: len({line.pid for line in place.lines("beat")}) == 3)
    process.send_signal(signal.SIGSTOP)
    second = place.run("--ttl", "2")
    place.first_beat(second, 2)
    place.assert_dead_in_time(token)
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: len(place.records("campaign")) == 3)  # it wakes, knows that it has lost, and contends again
    second.terminate()
    place.first_beat(process, 3)
    place.assert_one_after_another()


def test_a_dead_guard_is_replaced(place: Place) -> None:
    process = place.run("--ttl", "4", command=place.beat("deaf"))
    token = place.first_beat(process).token
    old = guard_of(process)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: guard_of(process) not in (0, old))
    process.kill()
    wait_for(lambda: not place.living())
    assert place.assert_dead_in_time(token) > 0.5
    assert {line.what for line in place.lines()} == {"beat"}


def test_a_stopped_guard_is_replaced(place: Place) -> None:
    process = place.run("--ttl", "2", command=place.beat("deaf"))
    place.first_beat(process)
    old = guard_of(process)
    os.kill(old, signal.SIGSTOP)
    wait_for(lambda: guard_of(process) not in (0, old))
    assert status(old)[0] in ("", "Z")
    assert len({line.token for line in place.lines()}) == 1
    assert {line.what for line in place.lines()} == {"beat"}


def test_the_guard_hears_no_signal_of_a_terminal_or_service_manager(place: Place) -> None:
    process = place.run("--ttl", "4")
    place.first_beat(process)
    guard = guard_of(process)
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGTSTP):
        os.kill(guard, each)
    beats = len(place.lines("beat"))
    wait_for(lambda: len(place.lines("beat")) > beats + 100)
    assert guard_of(process) == guard
    assert status(guard)[0] == "S"


# -- cron ----------------------------------------------------------------------------------------------------


def test_no_wait_is_75_while_somebody_leads(place: Place) -> None:
    place.first_beat(place.run())
    assert finish(place.run("--no-wait", command=("true",))) == (75, "", "")
    code, _, err = finish(place.run("--wait", "0.2", command=("true",)))
    assert (code, err) == (75, "coordkit: not elected in 'reports/nightly' within 0.2 s\n")


def test_a_process_that_does_not_wait_takes_over_after_a_crash(place: Place) -> None:
    crashed = place.run("--ttl", "2")
    token = place.first_beat(crashed).token
    crashed.kill()
    codes = []
    while not codes or codes[-1] == 75:
        codes.append(finish(place.run("--ttl", "2", "--no-wait", command=("true",)))[0])
    assert codes[-1] == 0
    assert place.records("won")[1]["boot"] > place.deadline(token)
    place.assert_one_after_another()


def test_hold_makes_ten_invocations_run_the_command_once(place: Place, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    tick = ("sh", "-c", f"echo ran >> {ran}")
    ten = [place.run("--ttl", "4", "--no-wait", "--hold", "60", command=tick) for _ in range(10)]
    wait_for(lambda: sum(each.poll() is not None for each in ten) == 9)
    assert sorted(each.returncode for each in ten if each.returncode is not None) == [75] * 9
    assert ran.read_text() == "ran\n"
    (holder,) = [each for each in ten if each.poll() is None]
    renewed = len(place.records("renewed"))
    wait_for(lambda: len(place.records("renewed")) > renewed + 1)  # the seat is kept, not only left to its lease
    holder.terminate()
    assert finish(holder)[0] == 0  # the command's
    assert place.records("resigned") == []  # the lease keeps the seat for the rest of its time
    assert finish(place.run("--no-wait", command=tick))[0] == 75


def test_hold_ends_by_itself(place: Place) -> None:
    assert finish(place.run("--hold", "1", command=("true",)))[0] == 0
    (won,), (resigned,) = place.records("won"), place.records("resigned")
    assert resigned["boot"] - won["boot"] >= 1.0


# -- a backend that fails ------------------------------------------------------------------------------------


def test_a_backend_that_cannot_be_reached_is_69(place: Place) -> None:
    finish(place.run(command=("true",)))
    with place.renewals_fail():
        code, _, err = finish(place.run("--wait", "1.5", command=("true",)))
        assert code == 69
        assert "not elected" in err
        assert finish(place.run("--ttl", "2", "--no-wait", command=("true",)))[0] == 69


def test_a_backend_that_is_misconfigured_is_78(place: Place) -> None:
    code, _, err = finish(place.run(command=("true",), COORDKIT_URL="sqlite:///no/such/place/x.db"))
    assert code == 78
    assert "/no/such/place" in err
    assert err.count("\n") == 1
