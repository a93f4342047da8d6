"""The clocks. Only here and in the drivers of backends is a clock read or a random number drawn.

The rule: deadlines are differences of this machine's own clocks; wall-clock time decides nothing but the
floor of a new epoch.
"""

from __future__ import annotations

import functools
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from typing import Protocol

from coordkit.lease import Instant

LINUX = sys.platform.startswith("linux")


class Clock(Protocol):
    """Reads the time for one process."""

    covers_suspend: bool

    def now(self) -> Instant:
        """The clocks by which deadlines are judged."""
        ...

    def wall(self) -> float:
        """Seconds since 1970, as the machine believes: only ever the floor of a new epoch."""
        ...


class SystemClock:
    """The clocks of a Linux kernel: one counts suspends, one is never steered, one is the usual one."""

    covers_suspend = True

    def now(
        self,
        _read: Callable[[int], float] = time.clock_gettime,
        _boot: int = getattr(time, "CLOCK_BOOTTIME", 0),
        _raw: int = getattr(time, "CLOCK_MONOTONIC_RAW", 0),
        _mono: int = getattr(time, "CLOCK_MONOTONIC", 0),
    ) -> Instant:
        return Instant(_read(_boot), _read(_raw), _read(_mono))

    def wall(self) -> float:
        return time.time()


class PortableClock:
    """Elsewhere than on Linux: `time.monotonic` alone. A suspend of the machine is not seen."""

    covers_suspend = False

    def now(self) -> Instant:
        reading = time.monotonic()
        return Instant(reading, reading, reading)

    def wall(self) -> float:
        return time.time()


def system_clock() -> Clock:
    """The best clock that this platform has."""
    return SystemClock() if LINUX else PortableClock()


def host_boottime() -> float:
    """Seconds since the host booted, equal in all its time namespaces.

    CLOCK_BOOTTIME minus this namespace's offset. Source: time_namespaces(7), /proc/PID/timens_offsets.
    """
    if not LINUX:
        return time.monotonic()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - boottime_offset(os.getpid())


@functools.lru_cache(maxsize=4)
def boottime_offset(pid: int, path: str = "/proc/self/timens_offsets") -> float:
    """By how many seconds CLOCK_BOOTTIME differs from the host's in the time namespace of process `pid`, this one.

    A process cannot leave its time namespace, but a forked child may start in another.
    """
    try:
        with open(path, encoding="ascii") as offsets:
            for line in offsets:
                name, seconds, nanoseconds = line.split()
                if name == "boottime":
                    return int(seconds) + int(nanoseconds) / 1e9
    except FileNotFoundError:  # a kernel without time namespaces has no offsets
        return 0.0
    return 0.0


def boot_id(path: str = "/proc/sys/kernel/random/boot_id") -> str | None:
    """The identity of this boot of the host, or None where the platform does not tell."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() or None
    except OSError:
        return None


def new_candidate_id(label: str, chance: random.Random) -> str:
    """A candidate's id: label, host, pid and randomness, made in the process that uses it."""
    name = label or "candidate"
    return f"{name}@{socket.gethostname()}:{os.getpid()}:{chance.getrandbits(64):016x}"


def system_chance() -> random.Random:
    """Randomness of the operating system, so that a forked child never repeats its parent's."""
    return random.SystemRandom()


def seeded_chance(seed: str) -> random.Random:
    """Chance that repeats itself with its seed: for simulations, never for a candidate that others contend with."""
    return random.Random(seed)
