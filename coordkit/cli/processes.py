"""The processes of one run: the command's group, held at its gate, and the guard outside it.

The rule: the command begins when its guard is armed, and not before; the number of its group stays taken until every
member is dead, for the leader is reaped last, and the guard has a dead member of its own in it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import sleep

from coordkit.cli import gate
from coordkit.clock import Clock
from coordkit.lease import Instant, Promise, waited_for

ANSWER_SECONDS = 1.0  # a guard that takes longer to obey is no guard
PARTING_SECONDS = 1.0  # how long a guard may take to exit when told to
NEWS = 0.005  # s: the same deadline, reckoned anew, differs by less
DEATH_NAP = 0.01  # s between two looks at a group that is dying

_HERE = Path(__file__).parent
_BARE_PYTHON = (sys.executable, "-I", "-S")  # starts in some 10 ms
# The guard starts with these blocked and never unblocks them. Terminals, service managers and users send them.
_NOT_FOR_THE_GUARD = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


class GuardFailed(Exception):
    """There is no guard: it could not be started, or it does not obey."""


class Group:
    """A command in a process group of its own. Made, it waits at its gate; `open` lets it run."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        entrance, self._gate = os.pipe()
        try:
            self._leader = subprocess.Popen(
                [*_BARE_PYTHON, str(_HERE / "gate.py"), str(entrance), *command],
                # A terminal stops background groups that read from it; an end of file is plainer than a silent stop.
                stdin=subprocess.DEVNULL if os.isatty(0) else None,
                env=dict(environment),
                pass_fds=(entrance,),
                process_group=0,
            )
        except BaseException:
            os.close(self._gate)
            raise
        finally:
            os.close(entrance)
        self.number = self._leader.pid
        self._exit_code: int | None = None

    def open(self) -> None:
        """Let the command run."""
        try:
            os.write(self._gate, gate.OPEN)
        except BrokenPipeError:  # killed at the gate: its end will be noticed
            return

    def signal(self, signum: int) -> None:
        """Send a signal to every member that we may signal. Safe until `reap`: the number is not another's."""
        try:
            os.killpg(self.number, signum)
        except (ProcessLookupError, PermissionError):  # nobody left, or somebody with other rights than ours
            return

    def exit_code(self) -> int | None:
        """How the command itself ended: its code, or 128 + the signal; None while it lives. Does not reap it."""
        if self._exit_code is None:
            found = os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                self._exit_code = found.si_status + (0 if found.si_code == os.CLD_EXITED else 128)
        return self._exit_code

    def wants_terminal(self) -> bool:
        """Whether the command was stopped, since last asked, because a background group may not use the terminal."""
        try:
            found = os.waitid(os.P_PID, self.number, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:  # it is dead, and will not stop any more
            return False
        return found is not None and found.si_status in (signal.SIGTTIN, signal.SIGTTOU)

    def alive(self) -> bool:
        """Whether any member lives; zombies do not."""
        return self.exit_code() is None or bool(living_members(self.number))

    def reap(self) -> None:
        """Give the number free. All members are dead."""
        os.close(self._gate)
        self._leader.wait()


def living_members(group: int, processes: str = "/proc") -> list[int]:
    """The processes of a group that are not dead, by proc_pid_stat(5)."""
    found = []
    for name in os.listdir(processes):
        if not name.isdecimal():
            continue
        try:
            with open(f"{processes}/{name}/stat", "rb") as file:
                state, _, number = file.read().rpartition(b") ")[2].split(maxsplit=3)[:3]
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
        if int(number) == group and state not in (b"Z", b"X"):
            found.append(int(name))
    return found


class Guard:
    """The process that kills a group when its time is over or we are gone. Not armed before `arm` has returned."""

    def __init__(self, group: int, clock: Clock) -> None:
        self._group = group
        self._clock = clock
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_THE_GUARD)
        try:
            self._process = subprocess.Popen(
                [*_BARE_PYTHON, str(_HERE / "guard.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",  # it keeps no file system busy
                process_group=0,
                bufsize=0,
            )
        except OSError as error:
            raise GuardFailed(f"the guard cannot be started: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders = self._process.stdin.fileno()
        self._answers = self._process.stdout.fileno()
        os.set_blocking(self._orders, False)
        os.set_blocking(self._answers, False)
        self._unanswered: list[Instant] = []  # when each order was given
        self._told: Instant | None = None  # the instant that it was last told

    @property
    def pid(self) -> int:
        return self._process.pid

    def arm(self, promise: Promise, margin: float, seconds: float) -> None:
        """Return when the guard has the group and will kill it `margin` before the promise is over; GuardFailed."""
        self.move(promise, margin)
        self._order(f"group {self._group}")
        started = self._clock.now()
        while self._unanswered:
            left = seconds - waited_for(started, self._clock.now())
            if left <= 0:
                raise GuardFailed(f"the guard was not armed within {seconds:.3g} s")
            select.select([self._answers], [], [], left)
            if not self._hear():
                raise GuardFailed("the guard ended before it was armed")

    def move(self, promise: Promise, margin: float) -> None:
        """Kill `margin` before this promise is over. Told only if that is news by more than a few milliseconds."""
        span = promise.span - margin
        at = Instant(promise.sent.boot + span, promise.sent.raw + span, 0.0)
        told = self._told
        if told is None or max(abs(at.boot - told.boot), abs(at.raw - told.raw)) > NEWS:
            self._told = at
            self._order(f"until {at.boot:.6f} {at.raw:.6f}")

    def obeys(self) -> bool:
        """Whether it lives and answers in time."""
        if not self._hear() or self._process.poll() is not None:
            return False
        return not self._unanswered or waited_for(self._unanswered[0], self._clock.now()) < ANSWER_SECONDS

    def dismiss(self) -> None:
        """The group is dead: let the guard go."""
        self._order("over")
        try:
            self._process.wait(PARTING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._close()

    def discard(self) -> None:
        """It is of no use: end it without its killing the group."""
        self._process.kill()
        self._close()

    def _close(self) -> None:
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def _order(self, text: str) -> None:
        self._unanswered.append(self._clock.now())
        try:
            os.write(self._orders, text.encode("ascii") + b"\n")
        except (BrokenPipeError, BlockingIOError):  # gone, or stuck: it will be found not to answer
            return

    def _hear(self) -> bool:
        """Take note of the answers; False if there will be none any more, or one is a refusal."""
        try:
            answers = os.read(self._answers, 4096)
        except BlockingIOError:
            return True
        del self._unanswered[: len(answers)]
        return bool(answers) and b"!" not in answers


def kill_and_wait(group: Group) -> None:
    """Kill a group and return when it is dead, however long the kernel takes: nothing may be released before."""
    group.signal(signal.SIGKILL)
    while group.alive():
        group.signal(signal.SIGKILL)
        sleep(DEATH_NAP)
