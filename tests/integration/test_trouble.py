"""Leaders in trouble on SQLite: a term is held, or it ends in time by its own clock; never are there two.

The rule: the journal and what the candidates were told are judged; no test trusts a duration of the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from coordkit.audit import Fate, Report, judge, parse
from tests.expected import PLATFORM
from tests.integration import trouble_scenes as scenes
from tests.support import witness
from tests.support.children import Child, stopped, took
from tests.support.walls import Wall

pytestmark = [pytest.mark.backend("sqlite"), pytest.mark.timeout(100)]

HOUR = 3600.0
SLACK = 5.0  # s: what a busy machine may add


class Stage:
    """One file, one journal, one election, and the processes that play there."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.url = f"sqlite://{folder}/leader.db"
        self.journal = folder / "journal"
        self.witness = folder / "witness"
        self._stack = stack

    def play(
        self,
        scene: Callable[..., None],
        *arguments: object,
        env: dict[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> Child:
        env = {"COORDKIT_JOURNAL": str(self.journal), **(env or {})}
        return self._stack.enter_context(Child(scene, self.url, *arguments, env=env, before=before))

    def report(self) -> Report:
        records, cut = parse(self.journal.read_bytes())
        report = judge(records, cut=cut)
        assert report.ok, report.violations
        return report


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


# -- pauses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", [scenes.paused, scenes.paused_async])
def test_a_leader_paused_beyond_its_ttl_knows_it_at_the_first_check(scene: Callable[..., None], stage: Stage) -> None:
    leader = stage.play(scene, 1.5)
    pid, token = map(int, leader.expect("leads").split())
    follower = stage.play(scenes.leads_and_follows, 1.5)
    follower.expect("ready")
    follower.tell("campaign")
    follower.expect("campaigns")
    leader.send(signal.SIGSTOP)
    newer = int(follower.expect("leads", 1.5 + SLACK))
    assert stopped(pid)
    leader.send(signal.SIGCONT)
    assert leader.expect("first") == "False 0.0"
    if scene is scenes.paused:
        assert leader.expect("refused") == "expired"
    assert leader.expect("raised") == "expired True"
    assert leader.expect("told") == ("1 False True" if scene is scenes.paused else "1 True 0")
    assert leader.exit_code() == 0
    follower.tell("valid")
    assert follower.expect("valid") == "True leading"
    assert newer > token
    report = stage.report()
    assert [span.reason for span in report.spans] == ["expired", None]
    assert report.notices == 1


# -- the wall clock ------------------------------------------------------------------------------------------------


def clocks(process: Child) -> tuple[float, list[float]]:
    process.tell("clocks")
    wall, *others = map(float, process.expect("clocks").split())
    return wall, others


def stepped(process: Child, wall: Wall, seconds: float) -> None:
    """Step the wall clock of a process, and see that it took effect there and on nothing else."""
    wall.step(seconds)
    seen, others = clocks(process)
    assert abs(seen - time.time() - seconds) < 60
    now = [time.clock_gettime(clock) for clock in (time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC_RAW, time.CLOCK_MONOTONIC)]
    assert all(abs(theirs - ours) < 60 for theirs, ours in zip(others, now, strict=True))


def test_steps_of_the_wall_clock_end_no_term_and_tokens_rise(stage: Stage, faketime: Path, tmp_path: Path) -> None:
    ttl = 1.5
    walls = [Wall(faketime, tmp_path, name) for name in "ab"]
    leader, follower = (stage.play(scenes.leads_and_follows, ttl, env=wall.env) for wall in walls)
    tokens = []
    for process in (leader, follower):
        process.expect("ready")
    stepped(leader, walls[0], HOUR)  # it wins an hour ahead of time, and so is its token
    leader.tell("campaign")
    leader.expect("campaigns")
    tokens.append(int(leader.expect("leads")))
    assert tokens[0] > (time.time() + HOUR - 60) * 1e6
    for offset in (-HOUR, HOUR, 0.0):
        stepped(leader, walls[0], offset)
        stepped(follower, walls[1], -offset)
        follower.tell("try")  # neither clock lets it believe that the lease is over
        assert follower.expect("tried") == "None"
        time.sleep(ttl / 2)  # renewals on both sides of the step
        leader.tell("valid")
        assert leader.expect("valid") == "True leading"
    # The follower waits, an hour behind; its clock steps while the leader dies.
    stepped(follower, walls[1], -HOUR)
    follower.tell("campaign")
    follower.expect("campaigns")
    leader.process.kill()
    walls[1].step(HOUR)
    walls[1].step(-HOUR)
    tokens.append(int(follower.expect("leads", ttl + SLACK)))
    follower.tell("resign")
    follower.expect("resigned")
    stepped(follower, walls[1], -HOUR)
    follower.tell("campaign")
    follower.expect("campaigns")
    tokens.append(int(follower.expect("leads")))
    assert tokens == sorted(set(tokens)), "a token fell, or was given twice"
    report = stage.report()
    assert report.terms == 3
    assert all(span.reason is None for span in report.spans), "a step of the wall clock ended a term"
    assert report.takeovers[0] < SLACK


# -- time namespaces -----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> tuple[str, ...]:
    """The command that starts a process in a time namespace of its own, whose clocks are far from ours."""
    offsets = ("--time", "--boottime", "100000", "--monotonic", "50000", "--kill-child")
    tool = shutil.which("unshare")
    if tool is None:
        pytest.skip(PLATFORM + "no unshare(1)")
    seen = "none tried"
    for command in ((tool, *offsets), (tool, "--user", "--map-root-user", *offsets)):
        probe = subprocess.run(
            [*command, "cat", "/proc/self/timens_offsets"], capture_output=True, text=True, timeout=20, check=False
        )
        if probe.returncode == 0 and "100000" in probe.stdout:
            return command
        seen = probe.stderr.strip() or probe.stdout
    pytest.skip(PLATFORM + f"no time namespace may be made here: {seen}")


def test_candidates_of_two_time_namespaces_exclude_each_other(stage: Stage, elsewhere: tuple[str, ...]) -> None:
    ttl = 2.0
    inside = stage.play(scenes.leads_and_follows, ttl, before=elsewhere)
    outside = stage.play(scenes.leads_and_follows, ttl)
    pid = int(inside.expect("ready"))
    outside.expect("ready")
    boot = clocks(inside)[1][0] - clocks(outside)[1][0]
    assert abs(boot - 100000) < 60, "the process is in no other time namespace"
    tokens = []

    # Inside leads; outside believes it, however far off its clock.
    inside.tell("campaign")
    inside.expect("campaigns")
    tokens.append(int(inside.expect("leads")))
    for process in (outside, inside):
        process.tell("leader")
        assert int(process.expect("leader")) == tokens[0]
    outside.tell("try")
    assert outside.expect("tried") == "None"

    # It dies, and outside takes over after its lease: no sooner, and not 100,000 s later.
    outside.tell("campaign")
    outside.expect("campaigns")
    os.kill(pid, signal.SIGKILL)
    with took(most=ttl + SLACK):
        tokens.append(int(outside.expect("leads", ttl + SLACK)))

    # And the other way round.
    inside = stage.play(scenes.leads_and_follows, ttl, before=elsewhere)
    inside.expect("ready")
    inside.tell("try")
    assert inside.expect("tried") == "None"
    inside.tell("campaign")
    inside.expect("campaigns")
    outside.process.kill()
    with took(most=ttl + SLACK):
        tokens.append(int(inside.expect("leads", ttl + SLACK)))

    assert tokens == sorted(set(tokens))
    report = stage.report()
    assert report.terms == 3
    assert len({span.boot_id for span in report.spans}) == 1
    assert len(report.takeovers) == 2
    assert report.longest_gap < SLACK


# -- starvation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hogs", "kind"), [(1, "spinning"), (4, "spinning"), (1, "holding")])
def test_a_starved_leader_holds_its_term_or_ends_it_in_time(hogs: int, kind: str, stage: Stage) -> None:
    ttl = 1.0
    leader = stage.play(scenes.starved, ttl, hogs, kind, 4.0, stage.witness)
    leader.expect("leads")
    rival = stage.play(scenes.rival, ttl, stage.witness)
    rival.expect("contends")
    lost = int(leader.expect("over", 60))
    assert leader.exit_code() == 0
    report = stage.report()
    assert witness.check(stage.witness, report)
    assert sum(span.fate is Fate.LOST for span in report.spans) >= lost
    if kind == "holding":  # 1.5 ttl without a single instruction of ours: nobody could have renewed
        assert report.spans[0].reason == "expired"
        rival.expect("leads")


def test_two_electors_of_one_process_contend_like_any_two(stage: Stage) -> None:
    process = stage.play(scenes.two_electors, 5.0, stage.witness)
    process.expect("over")
    assert process.exit_code() == 0
    assert process.complaints == ""
    report = stage.report()
    assert report.terms == 51
    assert len(witness.check(stage.witness, report)) == 50
