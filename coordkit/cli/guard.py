"""Kills a process group when its time is over or its supervisor is gone. Run as `python -I -S guard.py`.

The rule: whatever ends this process, except the order `over`, kills the group first. It imports nothing of coordkit,
holds no lease and decides nothing: it has an instant and a group.

Orders come as lines on stdin, each is answered by one byte on stdout:

  group PGID          the group to kill: answered `.` when it is pinned, `!` if it is not there
  until S [S]         kill it when the first of CLOCKS reads this, or the second one that
  over                the group is dead: leave it alone and exit

A group's number is free for others as soon as its last member is gone, and a kill must never hit those. So the guard
puts a member of its own into the group, dead from the start and never reaped: a zombie, which keeps the number taken
for as long as the guard lives. That needs the group's session, so the guard is in that session too; it is out of the
terminal's reach by being in another group, and by starting with all signals blocked.
"""

import os
import select
import signal
import sys
import time

# The first counts while the machine sleeps, the second is never steered: whichever is ahead counts.
CLOCKS = [getattr(time, name) for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW") if hasattr(time, name)]
LONGEST_NAP = 0.25  # s: poll's own clock does not see a suspend of the machine
AGAIN = 0.02  # s between two kills, for a group that somebody joins while it is being killed


class Guard:
    """One group and the instant at which it has to be dead."""

    def __init__(self, orders: int, answers: int) -> None:
        self.orders = orders
        self.answers = answers
        self.group = 0
        self.until: list[float] = []
        self.over = False
        self._unread = b""

    def watch(self) -> None:
        """Obey until told that it is over; however this returns or fails, the group has been killed if it was not."""
        waiting = select.poll()
        waiting.register(self.orders, select.POLLIN)
        try:
            while not self.over:
                # Orders first: a guard that was stopped itself finds newer instants waiting, and must not kill.
                if waiting.poll(max(1.0, 1000 * self.nap())) and not self._obey():
                    return
                if self.left() <= 0:
                    self.kill()
        finally:
            if not self.over:
                self.kill()

    def left(self) -> float:
        """Seconds until the group is to be killed."""
        return min((at - time.clock_gettime(clock) for at, clock in zip(self.until, CLOCKS)), default=LONGEST_NAP)  # noqa: B905

    def nap(self) -> float:
        """Seconds to wait for orders."""
        left = self.left()
        return AGAIN if left <= 0 else min(left, LONGEST_NAP)

    def kill(self) -> None:
        """Kill the group; the kernel lets no fork of a member escape."""
        if self.group:
            try:
                os.killpg(self.group, signal.SIGKILL)
            except OSError:  # nobody left, or nobody whom we may signal
                return

    def _obey(self) -> bool:
        """Read what there is; False if the supervisor is gone."""
        try:
            read = os.read(self.orders, 4096)
            *lines, self._unread = (self._unread + read).split(b"\n")
            for line in lines:
                os.write(self.answers, self._one(*line.decode("ascii").split()))
        except OSError:
            return False
        return bool(read)

    def _one(self, order: str, *values: str) -> bytes:
        if order == "group":
            if not pinned(int(values[0])):
                return b"!"
            self.group = int(values[0])
        elif order == "until":
            self.until = [float(value) for value in values]
        elif order == "over":
            self.over = True
        else:
            raise ValueError(order)
        return b"."


def pinned(group: int) -> bool:
    """Put a zombie of ours into the group; False if there is no such group in this session."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, group)
        except OSError:
            os._exit(1)
        os._exit(0)
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return found is not None and found.si_status == 0


if __name__ == "__main__":
    guard = Guard(0, 1)
    guard.watch()
    sys.exit(0)
