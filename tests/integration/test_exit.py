"""How a process ends decides when the next one leads: at once where the body is over, else when the lease runs out.

The rule: the ttl is far longer than a handover, so that one cannot be taken for the other; the journal tells which.
"""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from coordkit.audit import Fate, Report, judge, parse
from coordkit.clock import host_boottime
from tests.integration import exit_scenes as scenes
from tests.support.children import Child, took

pytestmark = [pytest.mark.backend("sqlite"), pytest.mark.timeout(100)]

LONG = 30.0  # s: no test waits for such a lease
SHORT = 3.0  # s: the tests that wait for a lease to run out
AT_ONCE = 3.0  # s: a handover on a busy machine


class Place:
    """One file, one journal, one election."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "leader.db"
        self.journal = folder / "journal"

    def play(self, scene: Callable[..., None], ttl: float, *more: object) -> Child:
        return Child(scene, f"sqlite://{self.file}", ttl, *more, env={"COORDKIT_JOURNAL": str(self.journal)})

    def seat(self) -> tuple[str, float]:
        """The state of the row, and how much of its lease is left."""
        with closing(sqlite3.connect(self.file)) as connection:
            state, deadline = connection.execute("SELECT state, deadline FROM coordkit_elections").fetchone()
        return str(state), deadline - host_boottime()

    def report(self) -> Report:
        records, cut = parse(self.journal.read_bytes())
        report = judge(records, cut=cut)
        assert report.ok, report.violations
        return report

    def hands_over(self, leader: Child, act: Callable[[], None]) -> Report:
        """`act` ends the leader; a successor that waits is elected at once."""
        with self.play(scenes.successor, LONG) as successor:
            assert successor.expect("follows") != "nobody"
            act()
            successor.expect("leads", AT_ONCE)
            assert successor.exit_code() == 0
        leader.exit_code()
        report = self.report()
        assert report.terms == 2
        assert len(report.handovers) + len(report.takeovers) == 1
        assert report.longest_gap < AT_ONCE
        return report


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# -- the interpreter exits under an open term ----------------------------------------------------------------------


def test_a_daemon_body_is_left_to_its_lease(place: Place) -> None:
    with place.play(scenes.daemon_body, SHORT, "deaf") as leader:
        leader.expect("leads")
        with took(most=AT_ONCE):
            assert leader.expect("at-exit") == "False closed"  # over before anything else of the exit
            assert leader.exit_code() == 0
        assert leader.complaints == ""
    state, left = place.seat()
    assert state == "held", "released under a body that still ran"
    assert left > 0
    with place.play(scenes.successor, SHORT) as successor:
        successor.expect("follows")
        successor.expect("leads", SHORT + AT_ONCE)
        assert successor.exit_code() == 0
    report = place.report()
    assert [span.fate for span in report.spans] == [Fate.LOST, Fate.RESIGNED]
    assert report.spans[0].reason == "closed"
    assert report.takeovers[0] > left - 0.5


def tokens(place: Place) -> list[str]:
    return [f"e={span.token}" for span in place.report().spans]


def test_a_daemon_body_that_asks_leaves_and_hands_over_at_once(place: Place) -> None:
    with place.play(scenes.daemon_body, LONG, "attentive") as leader:
        leader.expect("leads")
        assert leader.expect("at-exit") == "False closed"
        assert leader.exit_code() == 0
        assert "Traceback" not in leader.errors
    # It was over at once here; whether its thread came to leave the block before the interpreter stopped it is open.
    assert place.report().spans[0].reason == "closed"


def test_an_open_term_of_a_program_that_ends_is_left_to_its_lease(place: Place) -> None:
    with place.play(scenes.open_term, LONG) as leader:
        leader.expect("leads")
        with took(most=AT_ONCE):
            assert leader.expect("at-exit") == "False closed"
            assert leader.exit_code() == 0
        assert "Traceback" not in leader.errors
        assert "Warning" not in leader.errors
    assert place.seat()[0] == "held"
    (span,) = place.report().spans
    assert (span.fate, span.reason) == (Fate.LOST, "closed")


def test_exit_while_contending_in_the_background(place: Place) -> None:
    with place.play(scenes.ends_in_its_body, LONG, "the end") as leader:
        leader.expect("leads")
        with place.play(scenes.in_background, LONG) as waiting:
            waiting.expect("started")
            waiting.tell("end")
            with took(most=AT_ONCE):
                assert waiting.exit_code() == 0
            assert waiting.complaints == ""
        leader.tell("end")
        assert leader.exit_code() == 0
    assert place.seat()[0] == "released"
    assert place.report().terms == 1


def test_exit_with_a_term_won_in_the_background(place: Place) -> None:
    with place.play(scenes.in_background, LONG) as leader:
        leader.expect("started")
        ended = time.monotonic() + 20
        while not place.journal.exists() or b'"won"' not in place.journal.read_bytes():
            assert time.monotonic() < ended
            time.sleep(0.01)
        leader.tell("end")
        with took(most=AT_ONCE):
            assert leader.exit_code() == 0
        assert "Traceback" not in leader.errors
    assert place.seat()[0] == "held"
    assert place.report().spans[0].reason == "closed"


# -- the body ends, and the process with it -------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "code"), [("SystemExit", 7), ("exception", 1), ("the end", 0)])
def test_a_body_that_ends_hands_over_at_once(how: str, code: int, place: Place) -> None:
    with place.play(scenes.ends_in_its_body, LONG, how) as leader:
        leader.expect("leads")
        report = place.hands_over(leader, lambda: leader.tell("end"))
        assert leader.exit_code() == code
        assert ("Traceback" in leader.errors) == (how == "exception")
    assert [span.fate for span in report.spans] == [Fate.RESIGNED, Fate.RESIGNED]


def test_exit_under_hold_keeps_the_seat_without_waiting(place: Place) -> None:
    with place.play(scenes.ends_in_its_body, LONG, "hold") as leader:
        leader.expect("leads")
        leader.tell("end")
        with took(most=AT_ONCE):
            assert leader.exit_code() == 7
    assert place.seat()[0] == "held"


@pytest.mark.parametrize("scene", [scenes.on_sigterm, scenes.on_sigterm_async])
def test_sigterm_by_the_recipe_hands_over_at_once(scene: Callable[..., None], place: Place) -> None:
    with place.play(scene, LONG) as leader:
        leader.expect("contends")
        leader.expect("leads")
        place.hands_over(leader, lambda: leader.send(signal.SIGTERM))
        assert leader.exit_code() == 0
        assert "Traceback" not in leader.errors, leader.errors
    assert place.seat()[0] == "released"


@pytest.mark.parametrize("scene", [scenes.on_sigterm, scenes.on_sigterm_async])
def test_sigterm_by_the_recipe_while_waiting(scene: Callable[..., None], place: Place) -> None:
    with place.play(scenes.ends_in_its_body, LONG, "the end") as leader:
        leader.expect("leads")
        with place.play(scene, LONG) as waiting:
            waiting.expect("contends")
            until_campaigns(place, 2)
            waiting.send(signal.SIGTERM)
            with took(most=AT_ONCE):
                assert waiting.exit_code() == 0
            assert "Traceback" not in waiting.errors, waiting.errors
        leader.tell("end")
        assert leader.exit_code() == 0
    assert place.report().terms == 1


def until_campaigns(place: Place, number: int) -> None:
    """Until so many candidates contend."""
    ended = time.monotonic() + 20
    while place.journal.read_bytes().count(b'"campaign"') < number:
        assert time.monotonic() < ended
        time.sleep(0.01)


# -- Ctrl-C --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["campaign", "observe"])
def test_ctrl_c_in_a_wait_behind_a_leader_returns_at_once(where: str, place: Place) -> None:
    with place.play(scenes.ends_in_its_body, LONG, "the end") as leader:
        leader.expect("leads")
        with place.play(scenes.interrupted, LONG, where) as waiting:
            waiting.expect("waits")
            if where == "campaign":
                until_campaigns(place, 2)
            waiting.send(signal.SIGINT)
            waiting.expect("interrupted", AT_ONCE)
            waiting.tell("again")  # the same elector is free, and its old entry in nobody's way
            leader.tell("end")
            waiting.expect("leads", AT_ONCE)
            assert waiting.exit_code() == 0
            assert waiting.complaints == ""
    report = place.report()
    assert [span.fate for span in report.spans] == [Fate.RESIGNED, Fate.RESIGNED]


@pytest.mark.parametrize("where", ["wait_ended", "body"])
def test_ctrl_c_in_a_body_hands_over_at_once(where: str, place: Place) -> None:
    with place.play(scenes.interrupted, LONG, where) as leader:
        leader.expect("waits")
        with place.play(scenes.successor, LONG) as successor:
            successor.expect("follows")
            leader.send(signal.SIGINT)
            leader.expect("interrupted", AT_ONCE)
            successor.expect("leads", AT_ONCE)
            assert successor.exit_code() == 0
        leader.tell("again")
        leader.expect("leads", AT_ONCE)
        assert leader.exit_code() == 0
    assert place.report().terms == 3


def test_ctrl_c_while_leaving_under_hold_leaves_the_lease(place: Place) -> None:
    with place.play(scenes.interrupted, SHORT, "hold") as leader:
        leader.expect("waits")
        leader.send(signal.SIGINT)
        leader.expect("interrupted", AT_ONCE)
        assert place.seat()[0] == "held"
        leader.tell("again")
        leader.expect("leads", SHORT + AT_ONCE)
        assert leader.exit_code() == 0


def test_ctrl_c_that_nobody_catches_ends_the_process_at_once(place: Place) -> None:
    with place.play(scenes.ends_in_its_body, LONG, "the end") as leader:
        leader.expect("leads")
        with place.play(scenes.uncaught_interrupt, LONG) as waiting:
            waiting.expect("waits")
            until_campaigns(place, 2)
            waiting.send(signal.SIGINT)
            with took(most=AT_ONCE):
                assert waiting.exit_code() == -signal.SIGINT
        leader.tell("end")
        assert leader.exit_code() == 0
    assert place.seat()[0] == "released"


def test_close_by_another_thread_ends_a_wait_at_once(place: Place) -> None:
    with place.play(scenes.ends_in_its_body, LONG, "the end") as leader:
        leader.expect("leads")
        with place.play(scenes.closed_while_waiting, LONG) as waiting:
            waiting.expect("waits")
            until_campaigns(place, 2)
            waiting.tell("close")
            waiting.expect("closed", AT_ONCE)
            assert waiting.exit_code() == 0
            assert waiting.complaints == ""
