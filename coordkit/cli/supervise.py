"""One command under one term: told to stop in time, killed in time, seen dead before the seat is given up.

The rule: every instant counts back from the lease's deadline on our own clock, and needs nothing from the network.
A lease with less than `stop` seconds left is in danger: the command is told to end. At `kill` the group is killed by
us, at `guard` by the guard, should we not be able to. Once told, the command is not reprieved by a renewal that comes
after all: it ends, and the election is entered anew.

  |------- the lease, as far as we may act -------------------------------------|
  |-- ttl/3 --|-- ttl/3: a renewal fails --| another ... |-- grace --|- slack -|- slack -|
  sent        renewal due                                stop        kill      guard     deadline
"""

from __future__ import annotations

import enum
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from coordkit.cli.processes import GuardFailed
from coordkit.clock import Clock
from coordkit.errors import ConfigError
from coordkit.lease import RENEWALS_PER_TTL, STOP_EARLY, Instant, Promise, acting_time, waited_for

LONGEST_NAP = 0.25  # s: poll's own clock does not see a suspend of the machine
SHORTEST_NAP = 0.002
WATCH_NAP = 0.02  # s between two looks at members that are not our children
ARMING_SECONDS = 5.0
GUARDS = 5  # so many in one run, then something is killing them

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)  # whoever sends one wants no further run of the command


# --- the arithmetic ------------------------------------------------------------------------------------------


class Step(enum.Enum):
    """What the time that is left asks for."""

    GO_ON = "go on"
    STOP = "tell the command to end"
    KILL = "kill the group"


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds before the lease's deadline at which a command is told to stop, killed by us, killed by the guard."""

    ttl: float
    stop: float
    kill: float
    guard: float

    def step(self, left: float) -> Step:
        """What is to be done with `left` seconds of the lease left."""
        if left <= self.kill:
            return Step.KILL
        return Step.STOP if left <= self.stop else Step.GO_ON

    def until_next(self, left: float) -> float:
        """Seconds until the next step; 0.0 if there is none."""
        return max(0.0, left - (self.stop if left > self.stop else self.kill))


def plan(ttl: float, drift: float) -> Plan:
    """When a command under leases of `ttl` is stopped; ConfigError, with the arithmetic, if that leaves no room.

    Slack: what a loaded machine may need to wake a process and to let a killed group die. Grace: what the command has
    to end by itself. Room: what a renewal, due after ttl/3, may take before the command is told to stop.
    """
    slack = min(1.0, max(0.15, ttl / 40))
    grace = min(30.0, max(0.1, ttl / 8))
    made = Plan(ttl, stop=grace + 2 * slack, kill=2 * slack, guard=slack)
    acting, due, needed = acting_time(ttl, drift), ttl / RENEWALS_PER_TTL, max(0.1, ttl / 12)
    room = acting - due - made.stop
    if room < needed:
        raise ConfigError(
            f"ttl={ttl:g} leaves no room to stop a command in time: of the ttl*(1 - 2*drift) - {STOP_EARLY:g} = "
            f"{acting:.4g} s of a lease, ttl/3 = {due:.4g} s pass until its renewal is due, and {grace:.4g} s for the "
            f"command to end, {slack:.4g} s to kill it and {slack:.4g} s for the guard to do so are kept at its end: "
            f"{acting:.4g} - {due:.4g} - {made.stop:.4g} = {room:.4g} s are left for the renewal, "
            f"and at least {needed:.4g} s are needed"
        )
    return made


# --- what a supervision works with ---------------------------------------------------------------------------


class Lease(Protocol):
    """A term, as far as this module sees it."""

    def remaining(self) -> float: ...


class Members(Protocol):
    """`processes.Group`."""

    def open(self) -> None: ...
    def signal(self, signum: int) -> None: ...
    def exit_code(self) -> int | None: ...
    def wants_terminal(self) -> bool: ...
    def alive(self) -> bool: ...


class Watcher(Protocol):
    """`processes.Guard`."""

    def arm(self, promise: Promise, margin: float, seconds: float) -> None: ...
    def move(self, promise: Promise, margin: float) -> None: ...
    def obeys(self) -> bool: ...
    def dismiss(self) -> None: ...
    def discard(self) -> None: ...


class Mail(Protocol):
    """`inbox.Inbox`."""

    def wait(self, seconds: float | None) -> Sequence[signal.Signals]: ...


class Why(enum.Enum):
    """Why a command ended."""

    DONE = "it ended by itself, or by a signal that was sent to us"
    LOST = "the lease is lost or in danger"
    UNGUARDED = "there is no guard"


@dataclass(frozen=True, slots=True)
class Ended:
    """How one run of the command ended. `asked`: we were told to end by this signal meanwhile."""

    exit_code: int
    why: Why
    asked: signal.Signals | None


# --- the supervision -----------------------------------------------------------------------------------------


class Supervision:
    """Keeps one command within one lease. `group` waits at its gate; when `run` returns it is dead."""

    def __init__(
        self,
        lease: Lease,
        times: Plan,
        group: Members,
        new_guard: Callable[[], Watcher],
        mail: Mail,
        clock: Clock,
        stop_signal: int,
        say: Callable[[str], None],
        pause: Callable[[], None],
    ) -> None:
        self._lease = lease
        self._plan = times
        self._group = group
        self._new_guard = new_guard
        self._mail = mail
        self._clock = clock
        self._stop_signal = stop_signal
        self._say = say
        self._pause = pause
        self._since = clock.now()
        self._known = Promise(self._since, lease.remaining())
        self._complained = False
        self._guards = 0
        self._guard: Watcher | None = None
        self._running = False  # the gate is open
        self._stopping: Promise | None = None  # set once: until then the group is to be dead
        self._why = Why.DONE
        self._asked: signal.Signals | None = None

    def run(self) -> Ended:
        """Arm the guard, run the command, and return when its whole group is dead."""
        while self._group.alive():
            self._look()
            for each in self._mail.wait(self._nap()):
                self._handle(each)
        code = self._group.exit_code()
        assert code is not None  # nobody is alive
        if self._stopping is None and self._lease.remaining() <= 0:
            self._why = Why.LOST  # it returned after the loss, as a body of the library would
        if not self._running and self._asked is not None:
            code = 128 + self._asked  # it was never let through
        return Ended(code, self._why, self._asked)

    def release_guard(self) -> None:
        """The group is dead: the guard may go."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()

    def _look(self) -> None:
        now = self._clock.now()
        left = self._lease.remaining()  # read after `now`, so that the deadline we know is rather too early
        if self._stopping is None and left > 0:
            self._known = Promise(now, left)
            self._tend_guard(now)
        if self._stopping is None:
            step = self._plan.step(left)
            if left <= 0 or (self._running and step is not Step.GO_ON):
                self._stop(now, Why.LOST)
            elif self._group.exit_code() is not None:
                self._stop(now, Why.DONE)  # the command has ended, others of its group have not
            elif not self._running and step is Step.GO_ON:
                self._running = True
                self._group.open()
            elif not self._running:
                self._complain_of_short_lease(now)
        if self._stopping is not None and self._plan.step(self._stopping.remaining(now)) is Step.KILL:
            self._group.signal(signal.SIGKILL)

    def _complain_of_short_lease(self, now: Instant) -> None:
        """Before the start: a fresh lease has room. A store that grants less than was asked for never gives it."""
        if not self._complained and waited_for(self._since, now) > self._plan.ttl:
            self._complained = True
            self._say(f"the backend's leases are too short: never more than {self._plan.stop:.3g} s were left")

    def _stop(self, now: Instant, why: Why) -> None:
        """From now on the group is ending: told now, killed when the grace is over or the lease wants it."""
        self._why = why
        self._stopping = Promise(now, min(self._known.remaining(now), self._plan.stop))
        if not self._running:
            self._group.signal(signal.SIGKILL)  # it waits at the gate
            return
        if why is not Why.DONE:
            self._say(f"{why.value}: the command is told to end")
        self._group.signal(self._stop_signal)
        self._group.signal(signal.SIGCONT)  # a stopped process hears no other signal

    def _tend_guard(self, now: Instant) -> None:
        """Tell the guard of the deadline; replace it if it is dead or stuck; without one the command ends."""
        if self._guard is not None:
            self._guard.move(self._known, self._plan.guard)
            if self._guard.obeys():
                return
            self._guard.discard()
            self._guard = None
            self._say("the guard is gone or stuck: starting another")
        try:
            if self._guards >= GUARDS:
                raise GuardFailed(f"{GUARDS} guards were lost in one run")
            self._guards += 1
            guard = self._new_guard()
            try:
                seconds = min(ARMING_SECONDS, max(SHORTEST_NAP, self._known.remaining(now) - self._plan.stop))
                guard.arm(self._known, self._plan.guard, seconds)
            except GuardFailed:
                guard.discard()
                raise
            self._guard = guard
        except GuardFailed as error:
            self._say(str(error))
            self._stop(self._clock.now(), Why.UNGUARDED)

    def _handle(self, signum: signal.Signals) -> None:
        if signum is signal.SIGCHLD:
            if self._group.wants_terminal():
                self._say("the command was stopped, for it is in the background and wants the terminal")
        elif signum is signal.SIGTSTP:
            # Both stop. The lease is not renewed meanwhile, so the guard kills the group if that takes too long.
            if self._running:
                self._group.signal(signum)
            self._pause()
        elif self._running:
            if signum in ENDING:
                self._asked = signum
            self._group.signal(signum)
        elif signum in ENDING or signum is signal.SIGHUP:
            self._asked = signum
            self._stop(self._clock.now(), Why.DONE)

    def _nap(self) -> float:
        if self._stopping is None:
            if not self._running:
                return WATCH_NAP  # a renewal is awaited
            left = self._plan.until_next(self._lease.remaining())
            return max(SHORTEST_NAP, min(LONGEST_NAP, self._plan.ttl / 12, left))
        left = self._plan.until_next(self._stopping.remaining(self._clock.now()))
        if left <= 0 or self._group.exit_code() is not None:
            return WATCH_NAP  # members that are not our children die without a signal to us
        return max(SHORTEST_NAP, min(LONGEST_NAP, left))


def pause() -> None:
    """Stop this process, as the terminal's Ctrl-Z would, until SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)
