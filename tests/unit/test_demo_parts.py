"""The parts of the demo around its story: the command, the candidate's loop, the processes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from coordkit import FencingToken, LeaderElector, LeadershipLost, LossReason, StaleToken, TermState
from coordkit.cli import demo, demo_candidate, demo_story
from coordkit.cli.commands import run_command_line
from coordkit.cli.demo_ledger import Ledger
from coordkit.cli.demo_stage import Event, Stage, StageError, candidate_command
from coordkit.cli.demo_story import Broken, Outcome, Seat

TOKEN = FencingToken("e", 7)


# -- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--url", "memory://demo"], 2, "memory:// is seen by one process alone"),
        (["--url", "nothing://x"], 2, "is none of"),
        (["--ttl", "0.01"], 2, "leaves no room"),
        (["--patience", "-1"], 2, "--patience must be"),
        (["--url", "sqlite:///absent/x.db"], 78, "does not exist"),
    ],
)
def test_bad_usage(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["demo", *arguments]) == code
    out, errors = capsys.readouterr()
    assert message in errors
    assert not out


def test_a_story_that_broke_is_told_with_its_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def play(story: object) -> Outcome:
        raise Broken("wake-up", "nobody woke")

    monkeypatch.setattr(demo_story.Story, "play", play)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    assert run_command_line(["demo", "--patience", "3"]) == 1
    assert "FAILED at the step 'wake-up': nobody woke" in capsys.readouterr().out
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == handlers


def test_a_story_that_was_seen_is_summed_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(
        seats=[Seat("ada", 1, 0.0), Seat("bob", 2, 0.0)],
        refused=[Event("ada", "refused", 0.0, {"token": 1, "newest": 2})],
        after_kill=1.5,
        after_stop=1.25,
        paused=3.0,
        in_ledger=5,
    )
    monkeypatch.setattr(demo_story.Story, "play", lambda story: outcome)
    assert run_command_line(["demo"]) == 0
    told = capsys.readouterr().out.split("all of it was seen\n")[1]
    assert [line.split(maxsplit=1)[1] for line in told.splitlines()] == [
        "ada 1, then bob 2: tokens rise",
        "-9  1.50 s until the next leader",
        "1.25 s until the next leader; woken after 3.00 s",
        "5 writes accepted, 1 refused (ada with token 1)",
        "2 terms, no two overlap",
    ]


def test_a_signal_unwinds_and_its_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(SystemExit) as caught, demo._signals_unwind():
        signal.raise_signal(signal.SIGHUP)
    assert caught.value.code == 129
    assert signal.getsignal(signal.SIGHUP) is before


# -- the candidate ---------------------------------------------------------------------------------------


class FakeTerm:
    """A term that is over after some pauses."""

    token = TOKEN
    state, reason = TermState.LOST, LossReason.EXPIRED

    def __init__(self, pauses: int) -> None:
        self.pauses = pauses

    def remaining(self) -> float:
        return 0.0

    def wait_ended(self, seconds: float) -> bool:
        self.pauses -= 1
        return self.pauses < 0

    def ensure(self) -> None:
        if self.pauses == 0:
            raise LeadershipLost("over")


class FakeElector:
    def __init__(self, term: FakeTerm | None) -> None:
        self.term = term

    @contextmanager
    def _lead(self) -> Iterator[FakeTerm]:
        if self.term is None:
            raise LeadershipLost("of another elector")
        yield self.term
        raise LeadershipLost("it was lost while the body ran")

    def lead(self) -> AbstractContextManager[FakeTerm]:
        return self._lead()


class FakeLedger:
    def __init__(self, stale_from: int) -> None:
        self.numbers = 0
        self.stale_from = stale_from

    def write(self, token: FencingToken, writer: str) -> int:
        self.numbers += 1
        if self.numbers >= self.stale_from:
            raise StaleToken(token, FencingToken("e", 8))
        return self.numbers


def contend(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *parts: Any) -> list[dict[str, Any]]:
    """What the candidate reports, without the moments."""

    class Stdout:
        def fileno(self) -> int:
            return 1

    monkeypatch.setattr(sys, "stdout", Stdout())
    demo_candidate.contend(*parts, "ada")
    reports = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    moments = [report.pop("at") for report in reports]
    assert moments == sorted(moments)
    return reports


ELECTED = {"event": "elected", "token": 7, "remaining": 0.0}
OVER = {"event": "over", "token": 7, "state": "lost", "reason": "expired", "remaining": 0.0}


@pytest.mark.parametrize(("pauses", "writes"), [(3, 2), (0, 0)], ids=["found by ensure", "found while waiting"])
def test_a_candidate_writes_tells_of_the_end_and_is_refused(
    pauses: int, writes: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert contend(capfd, monkeypatch, FakeElector(FakeTerm(pauses)), FakeLedger(writes + 1)) == [
        ELECTED,
        *({"event": "wrote", "token": 7, "number": number + 1} for number in range(writes)),
        OVER,
        {"event": "refused", "token": 7, "newest": 8},
    ]


def test_a_candidate_refused_within_its_work_reports_its_term_first(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = contend(capfd, monkeypatch, FakeElector(FakeTerm(9)), FakeLedger(2))
    assert [report["event"] for report in reports] == ["elected", "wrote", "over", "refused"]


def test_a_stale_write_that_is_accepted_is_reported_as_such(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = contend(capfd, monkeypatch, FakeElector(FakeTerm(0)), FakeLedger(99))
    assert reports == [ELECTED, OVER, {"event": "accepted", "token": 7, "number": 1}]


def test_a_failure_to_be_elected_is_no_end_of_a_term() -> None:
    with pytest.raises(LeadershipLost):
        demo_candidate.contend(cast(LeaderElector, FakeElector(None)), cast(Ledger, FakeLedger(1)), "ada")


# -- the processes ---------------------------------------------------------------------------------------


def test_what_a_stage_sees_of_a_process(tmp_path: Path) -> None:
    """A process that speaks, and ends in the middle of a line."""
    code = """
import os, sys
os.write(1, b'{"event": "ready", "at": 1.5, "url": "' + os.environ["COORDKIT_URL"].encode() + b'"}\\n')
sys.stdin.buffer.read(1)
os.write(2, b"one\\ntwo\\n")
os.write(1, b'{"event": "cut off", "at"')
sys.exit(5)
"""
    with Stage(tmp_path, [sys.executable, "-c", code], "sqlite:///x") as stage:
        assert stage.log_of("ada") == []
        pid = stage.start("ada")
        assert stage.next_event(30) == Event("ada", "ready", 1.5, {"url": "sqlite:///x"})
        assert stage.next_event(0.0) is None
        stage.let_contend("ada")
        end = stage.next_event(30)
        assert end is not None
        assert (end.name, end.number("code")) == ("exit", 5)
        assert stage.log_of("ada", lines=1) == ["two"]
        with pytest.raises((StageError, ProcessLookupError)):
            stage.stop("ada")
    assert not Path(f"/proc/{pid}").exists()


def test_a_candidate_is_of_the_coordkit_that_starts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", ["/usr/bin", *sys.path])
    assert candidate_command("--ttl", "2")[1:] == ["-P", "-m", "coordkit.cli.demo_candidate", "--ttl", "2"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert candidate_command()[1:] == ["-m", "coordkit.cli.demo_candidate"]
