"""One server as a process of this machine: started, stopped, killed, paused, and never left behind.

The rule: a server has a session of its own, so that a Ctrl-C ends the tests first and a signal reaches its children
too. It dies with the process that started it, however that ends: the kernel sees to it (PR_SET_PDEATHSIG). The kernel
looks at the thread that forked, so one thread forks all servers and lives as long as the process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Self

from tests.servers.fetch import Program

STOP_SECONDS = 15.0
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_FORKER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="servers")  # idle workers of a pool are kept
# Set between fork and exec, it would have to be Python code in a copy of a process with many threads. So a fresh
# interpreter sets it and becomes the server; the pid stays.
_BECOME = """
import ctypes, json, os, sys
parent, user, environment, *command = sys.argv[1:]
if user != "0":
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(parent):
    sys.exit("its starter has gone")
os.execve(command[0], command, json.loads(environment))
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments. `environment` is all that it gets: settings of the user change no test.

    `user`: who runs it, of the group of the same number; 0: whoever starts it.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    user: int = 0

    @classmethod
    def of(cls, found: Program, *arguments: str, **environment: str) -> Self:
        """A program that was found, with more arguments and variables."""
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return cls((*found.before, str(found.path), *arguments), inherited | dict(found.environment) | environment)

    def after(self, before: Sequence[str]) -> Self:
        """The same, started by another program, of which these are the first arguments."""
        return replace(self, arguments=(*before, *self.arguments))


def spawn(
    command: Command,
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.STDOUT,
) -> subprocess.Popen[bytes]:
    """A process of a program that dies with this one, in a session of its own."""
    become = (sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()))
    return _FORKER.submit(
        subprocess.Popen,
        [*become, str(command.user), json.dumps(dict(command.environment)), *command.arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    ).result()


class ServerProcess:
    """A server that is up or down; its output goes to the end of `log`.

    Not for several threads at once.
    """

    def __init__(self, command: Command, log: Path) -> None:
        self.command = command
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process; `LookupError` if there is none."""
        if self._process is None or self._process.poll() is not None:
            raise LookupError("the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def paused(self) -> bool:
        """Whether it is stopped by a signal."""
        return self.running and _state(self.pid) == "T"

    def start(self) -> None:
        """See that there is a process; whether it serves is for others to find out."""
        if not self.running:
            with open(self.log, "ab") as output:
                self._process = spawn(self.command, stdout=output)

    def stop(self) -> None:
        """Ask it to end, and wait until it has; `TimeoutError`, after it was killed, if it does not."""
        if not self.running:
            return
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            self._wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"no end {STOP_SECONDS:.0f} s after SIGTERM:\n{self.last_words()}") from None

    def kill(self) -> None:
        """End it, and what it has started, at once."""
        if self.running:
            self._signal(signal.SIGKILL)
            self._wait(STOP_SECONDS)

    def pause(self) -> None:
        """Stop all its threads; when this returns, none runs any more."""
        if not self.paused:
            self._signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let a paused one go on."""
        if self.running:
            self._signal(signal.SIGCONT)

    def last_words(self, lines: int = 40) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def _wait(self, timeout: float) -> None:
        assert self._process is not None
        self._process.wait(timeout)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[0]
