"""A supervision on virtual time, with a lease, a group and guards that do what the test says.

The rule: whatever the lease and the command do, and however late we wake up within the slack, nobody of the group
lives at the deadline, and the command never runs without an armed guard.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.cli.processes import GuardFailed
from coordkit.cli.supervise import GUARDS, Ended, Supervision, Why, plan
from coordkit.lease import Instant, Promise

TTL = 10.0
TIMES = plan(TTL, 0.01)


class World:
    """Virtual time, and what happens in it."""

    covers_suspend = True

    def __init__(self) -> None:
        self.at = 0.0
        self.history: list[tuple[float, str]] = []
        self.planned: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> Instant:
        return Instant(self.at, self.at, self.at)

    def wall(self) -> float:
        raise AssertionError("wall-clock time decides nothing here")

    def note(self, what: str) -> None:
        self.history.append((round(self.at, 6), what))

    def when(self, at: float, happens: Callable[[], object]) -> None:
        self.planned.append((at, happens))
        self.planned.sort(key=lambda each: each[0])

    def pass_until(self, end: float) -> None:
        while self.planned and self.planned[0][0] <= end:
            at, happens = self.planned.pop(0)
            self.at = max(self.at, at)
            happens()
        self.at = max(self.at, end)

    def times(self, what: str) -> list[float]:
        return [at for at, each in self.history if each == what]


@dataclass
class FakeLease:
    world: World
    deadline: float = 9.8
    revoked: bool = False

    def remaining(self) -> float:
        return 0.0 if self.revoked else max(0.0, self.deadline - self.world.at)

    def renewals(self, *when: float) -> None:
        for at in when:
            self.world.when(at, lambda at=at: self.renewed(at))

    def renewed(self, sent: float) -> None:
        if self.remaining() > 0:
            self.deadline = sent + 9.8


@dataclass
class FakeGroup:
    """The command heeds a signal after `heeds` seconds, or never; `others` outlive it until they are killed."""

    world: World
    heeds: float | None = 0.2
    others: bool = False
    ended: int | None = None
    opened: bool = False
    wants: bool = False

    def open(self) -> None:
        self.world.note("open")
        self.opened = True

    def signal(self, signum: int) -> None:
        self.world.note(signal.Signals(signum).name)
        if signum == signal.SIGKILL:
            if self.others:
                self.world.note("others ended")
            self.others = False
            self.end(137)
        elif signum in (signal.SIGTERM, signal.SIGINT) and self.heeds is not None:
            self.world.when(self.world.at + self.heeds, lambda: self.end(128 + signum))

    def end(self, code: int) -> None:
        if self.ended is None:
            self.ended = code
            self.world.note("ended")

    def exit_code(self) -> int | None:
        return self.ended

    def wants_terminal(self) -> bool:
        return self.wants

    def alive(self) -> bool:
        return self.ended is None or self.others


@dataclass
class FakeGuard:
    world: World
    fails: bool = False
    dies: bool = False
    until: float = 0.0
    group: FakeGroup | None = None

    def arm(self, promise: Promise, margin: float, seconds: float) -> None:
        assert 0 < seconds <= 5
        self.move(promise, margin)
        self.world.at += 0.03
        if self.fails:
            raise GuardFailed("no guard")
        self.world.note("armed")

    def move(self, promise: Promise, margin: float) -> None:
        self.until = promise.sent.boot + promise.span - margin

    def obeys(self) -> bool:
        return not self.dies

    def dismiss(self) -> None:
        self.world.note("dismissed")

    def discard(self) -> None:
        self.world.note("discarded")


class FakeMail:
    """Passes the time, and wakes up `late`."""

    def __init__(self, world: World, late: Callable[[], float]) -> None:
        self.world = world
        self.late = late
        self.letters: list[signal.Signals] = []

    def send(self, signum: signal.Signals) -> Callable[[], None]:
        return lambda: self.letters.append(signum)

    def wait(self, seconds: float | None) -> list[signal.Signals]:
        assert seconds is not None
        assert 0 < seconds <= 0.25
        self.world.pass_until(self.world.at + seconds + self.late())
        letters, self.letters = self.letters, []
        return letters


@dataclass
class Scene:
    """Everything of one run."""

    late: Callable[[], float] = lambda: 0.0
    said: list[str] = field(default_factory=list)
    guards: list[FakeGuard] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World()
        self.lease = FakeLease(self.world)
        self.group = FakeGroup(self.world)
        self.mail = FakeMail(self.world, self.late)
        self.new_guard: Callable[[], FakeGuard] = lambda: FakeGuard(self.world)

    def run(self) -> Ended:
        def guard() -> FakeGuard:
            self.guards.append(self.new_guard())
            return self.guards[-1]

        supervision = Supervision(
            self.lease,
            TIMES,
            self.group,
            guard,
            self.mail,
            self.world,
            signal.SIGTERM,
            self.said.append,
            lambda: self.world.note("paused"),
        )
        ended = supervision.run()
        supervision.release_guard()
        return ended


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_guard_is_armed_before_the_command_runs_and_goes_after_it(scene: Scene) -> None:
    scene.world.when(1.0, lambda: scene.group.end(3))
    assert scene.run() == Ended(3, Why.DONE, None)
    assert [what for _, what in scene.world.history] == ["armed", "open", "ended", "dismissed"]


def test_the_guard_follows_the_lease(scene: Scene) -> None:
    scene.lease.renewals(3.0, 6.0)
    scene.world.when(7.0, lambda: scene.group.end(0))
    scene.run()
    assert scene.guards[0].until == pytest.approx(15.8 - TIMES.guard)


def test_without_renewals_the_command_is_told_and_then_killed(scene: Scene) -> None:
    scene.group.heeds = None
    assert scene.run() == Ended(137, Why.LOST, None)
    assert scene.world.times("SIGTERM") == [pytest.approx(9.8 - TIMES.stop, abs=0.01)]
    assert scene.world.times("SIGCONT") == scene.world.times("SIGTERM")
    assert scene.world.times("ended") == [pytest.approx(9.8 - TIMES.kill, abs=0.01)]
    assert scene.said == ["the lease is lost or in danger: the command is told to end"]


def test_a_lease_renewed_in_time_is_not_noticed(scene: Scene) -> None:
    scene.lease.renewals(9.8 - TIMES.stop - 0.01)
    scene.world.when(12.0, lambda: scene.group.end(0))
    assert scene.run() == Ended(0, Why.DONE, None)
    assert scene.said == []


def test_a_command_that_was_told_is_not_reprieved(scene: Scene) -> None:
    scene.group.heeds = None
    scene.lease.renewals(9.8 - TIMES.stop + 0.1)
    assert scene.run().why is Why.LOST
    assert scene.world.times("ended") == [pytest.approx(9.8 - TIMES.kill, abs=0.01)]


def test_a_revoked_term_is_a_loss_with_grace_but_no_more(scene: Scene) -> None:
    scene.group.heeds = None
    scene.world.when(1.0, lambda: setattr(scene.lease, "revoked", True))
    assert scene.run().why is Why.LOST
    (told,), (ended,) = scene.world.times("SIGTERM"), scene.world.times("ended")
    assert 1.0 <= told <= 1.3
    assert ended - told == pytest.approx(TIMES.stop - TIMES.kill, abs=0.01)


def test_a_term_that_is_long_over_is_killed_at_once(scene: Scene) -> None:
    scene.group.heeds = None
    scene.world.when(1.0, lambda: setattr(scene.world, "at", 30.0))  # we were stopped
    assert scene.run().why is Why.LOST
    assert scene.world.times("ended") == [pytest.approx(30.0, abs=0.3)]


def test_a_command_that_returns_after_the_loss_counts_as_lost(scene: Scene) -> None:
    def both() -> None:
        scene.lease.revoked = True
        scene.group.end(0)

    scene.world.when(1.0, both)
    assert scene.run() == Ended(0, Why.LOST, None)


def test_what_outlives_the_command_is_told_and_then_killed(scene: Scene) -> None:
    scene.group.others = True
    scene.lease.renewals(3.0, 6.0, 9.0)
    scene.world.when(1.0, lambda: scene.group.end(4))
    assert scene.run() == Ended(4, Why.DONE, None)
    (told,), (killed,) = scene.world.times("SIGTERM"), scene.world.times("SIGKILL")
    assert killed - told == pytest.approx(TIMES.stop - TIMES.kill, abs=0.05)
    assert scene.said == []


def test_a_start_waits_until_there_is_room(scene: Scene) -> None:
    """The win took nearly the whole lease; the next renewal brings a fresh one."""
    scene.lease.deadline = TIMES.stop - 0.1
    scene.lease.renewals(0.5)
    scene.world.when(3.0, lambda: scene.group.end(0))
    scene.run()
    (opened,) = scene.world.times("open")
    assert 0.5 <= opened < 0.6


def test_leases_that_are_always_too_short_are_said_once(scene: Scene) -> None:
    scene.lease.deadline = TIMES.stop - 0.1
    for at in range(300):
        scene.world.when(at / 10, lambda at=at: setattr(scene.lease, "deadline", at / 10 + TIMES.stop - 0.1))
    assert scene.run().why is Why.LOST
    assert scene.world.times("open") == []
    assert [text for text in scene.said if "too short" in text] == scene.said[:1]


def test_a_loss_before_the_start_starts_nothing(scene: Scene) -> None:
    scene.lease.deadline = TIMES.stop - 0.1
    assert scene.run().why is Why.LOST
    assert scene.world.times("open") == []
    assert scene.world.times("SIGTERM") == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_a_signal_before_the_start_starts_nothing(scene: Scene, signum: signal.Signals) -> None:
    scene.lease.deadline = TIMES.stop - 0.1
    scene.world.when(0.1, scene.mail.send(signum))
    assert scene.run() == Ended(128 + signum, Why.DONE, signum)
    assert scene.world.times("open") == []


def test_a_harmless_signal_before_the_start_is_dropped(scene: Scene) -> None:
    scene.mail.letters.append(signal.SIGUSR1)
    scene.world.when(1.0, lambda: scene.group.end(0))
    scene.lease.deadline = TIMES.stop - 0.1
    scene.lease.renewals(0.5)
    assert scene.run().exit_code == 0
    assert scene.world.times("SIGUSR1") == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_is_forwarded_and_remembered(scene: Scene, signum: signal.Signals) -> None:
    scene.world.when(1.0, scene.mail.send(signum))
    assert scene.run() == Ended(128 + signum, Why.DONE, signum)
    assert scene.world.times("SIGKILL") == []


def test_other_signals_are_forwarded_and_mean_nothing_to_us(scene: Scene) -> None:
    for each in (signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, signal.SIGCONT):
        scene.world.when(1.0, scene.mail.send(each))
    scene.world.when(2.0, lambda: scene.group.end(0))
    assert scene.run() == Ended(0, Why.DONE, None)
    assert [what for _, what in scene.world.history][2:6] == ["SIGHUP", "SIGUSR1", "SIGWINCH", "SIGCONT"]


def test_ctrl_z_stops_the_command_first(scene: Scene) -> None:
    scene.world.when(1.0, scene.mail.send(signal.SIGTSTP))
    scene.world.when(2.0, lambda: scene.group.end(0))
    scene.run()
    assert [what for _, what in scene.world.history][2:4] == ["SIGTSTP", "paused"]


def test_a_command_stopped_by_its_terminal_is_said(scene: Scene) -> None:
    scene.group.wants = True
    scene.world.when(1.0, scene.mail.send(signal.SIGCHLD))
    scene.world.when(2.0, lambda: scene.group.end(0))
    scene.run()
    assert scene.said == ["the command was stopped, for it is in the background and wants the terminal"]


# -- guards --------------------------------------------------------------------------------------------------


def test_a_guard_that_fails_to_arm_starts_nothing(scene: Scene) -> None:
    scene.new_guard = lambda: FakeGuard(scene.world, fails=True)
    assert scene.run() == Ended(137, Why.UNGUARDED, None)
    assert scene.world.times("open") == []
    assert scene.said[0] == "no guard"
    assert [what for _, what in scene.world.history] == ["discarded", "SIGKILL", "ended"]


def test_a_guard_that_cannot_be_started_starts_nothing(scene: Scene) -> None:
    def none() -> FakeGuard:
        raise GuardFailed("the guard cannot be started")

    scene.new_guard = none
    assert scene.run().why is Why.UNGUARDED
    assert scene.world.times("open") == []


def test_a_guard_that_dies_is_replaced(scene: Scene) -> None:
    def die() -> None:
        scene.guards[0].dies = True

    scene.world.when(1.0, die)
    scene.world.when(2.0, lambda: scene.group.end(0))
    assert scene.run() == Ended(0, Why.DONE, None)
    assert len(scene.guards) == 2
    assert scene.world.times("SIGTERM") == []
    assert scene.guards[1].until == pytest.approx(9.8 - TIMES.guard, abs=0.001)


def test_a_guard_that_cannot_be_replaced_ends_the_command(scene: Scene) -> None:
    def die() -> None:
        scene.guards[0].dies = True
        scene.new_guard = lambda: FakeGuard(scene.world, fails=True)

    scene.world.when(1.0, die)
    assert scene.run() == Ended(143, Why.UNGUARDED, None)
    assert scene.said[-1] == "there is no guard: the command is told to end"


def test_guards_that_die_again_and_again_end_the_command(scene: Scene) -> None:
    scene.new_guard = lambda: FakeGuard(scene.world, dies=True)
    assert scene.run().why is Why.UNGUARDED
    assert len(scene.guards) == GUARDS


# -- whatever happens ----------------------------------------------------------------------------------------


@given(st.integers(0, 2**32))
def test_nobody_lives_at_the_deadline(seed: int) -> None:
    chance = random.Random(seed)
    # Wakes up late by less than the slack; the guard would be there for worse.
    scene = Scene(late=lambda: chance.choice([0.0, 0.0, chance.uniform(0, TIMES.guard)]))
    scene.group.heeds = chance.choice([None, chance.uniform(0, 3)])
    scene.group.others = chance.random() < 0.3
    at = 0.0
    for _ in range(chance.randrange(8)):
        at += chance.choice([3.0, chance.uniform(3, 9)])
        scene.lease.renewals(at)
    if chance.random() < 0.3:
        scene.world.when(chance.uniform(0, 40), lambda: scene.group.end(0))
    if chance.random() < 0.3:
        scene.world.when(chance.uniform(0, 40), scene.mail.send(signal.SIGTERM))
    if chance.random() < 0.3:
        scene.world.when(chance.uniform(0, 40), lambda: setattr(scene.guards[-1], "dies", True))
    ended = scene.run()
    assert not scene.group.alive()
    assert max(scene.world.times("ended") + scene.world.times("others ended")) < scene.lease.deadline
    assert scene.guards[-1].until <= scene.lease.deadline - TIMES.guard + 1e-6
    assert scene.world.times("armed")[0] <= scene.world.times("open")[0]
    if ended.why is Why.LOST and not scene.lease.revoked:
        (told,) = scene.world.times("SIGCONT") or [0.0]  # of us alone; none where a signal came before the start
        assert told <= scene.lease.deadline - TIMES.kill + 0.05
