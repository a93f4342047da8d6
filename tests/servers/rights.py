"""What only root may do for a test: commands that change the machine, and how a machine says that it lets us not.

The rule: what was made has the pid of its maker in its name, so the next one can remove what a killed one has left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PREFIX = "coordkit"
COMMAND_SECONDS = 10.0


class NotAllowed(Exception):
    """This machine does not let us; the message says why."""


def root_with(what: str, *programs: str, packages: str) -> None:
    """`NotAllowed` unless we are root and have these programs, which are in these packages."""
    if os.geteuid() != 0:
        raise NotAllowed(f"{what} need root")
    if missing := [name for name in programs if _found(name) is None]:
        raise NotAllowed(f"missing: {', '.join(missing)}; this mends it: apt-get install -y {packages}")


def located(name: str) -> str:
    """The whole path of a program."""
    found = _found(name)
    if found is None:
        raise NotAllowed(f"missing: {name}")
    return found


def run(command: Sequence[str], given: str = "") -> str:
    """What it wrote; `NotAllowed` if it failed."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, cwd="/"
    )
    if done.returncode != 0:
        raise NotAllowed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}\n{given}")
    return done.stdout


def left_behind(name: str) -> bool:
    """Whether it is `coordkit-PID-…` of a process that is no more."""
    prefix, _, rest = name.partition("-")
    pid = rest.partition("-")[0]
    return prefix == PREFIX and pid.isdecimal() and not Path("/proc", pid).exists()


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
