"""The pure parts of the chaos run: its schedule, who is to blame for an end, and whether a write came too late."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import pytest

from coordkit.audit import Fate, Span
from tests.chaos import schedule
from tests.chaos.faultlog import Fault, FaultLog
from tests.chaos.recovery import CALM, attribute, percentile
from tests.chaos.schedule import MEMBER_KINDS, OF_EVERY_CLUSTER, SHAPES, VOTER_KINDS, plan, read, rounds, written
from tests.chaos.writes import judge_writes

TTL = 2.0

# -- the schedule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [(*OF_EVERY_CLUSTER, *MEMBER_KINDS), (*OF_EVERY_CLUSTER, *VOTER_KINDS)])
def test_a_round_has_each_kind_as_often_as_its_weight_says(kinds: tuple[str, ...]) -> None:
    for steps in islice(rounds(7, kinds, TTL), 3):
        assert Counter(step.kind for step in steps) == {kind: SHAPES[kind].weight for kind in kinds}
        for step in steps:
            shape = SHAPES[step.kind]
            assert shape.least * TTL - 0.001 <= step.lasts <= shape.most * TTL + 0.001
            assert 0 <= step.pick < 1


def test_a_seed_gives_the_same_rounds_and_another_gives_others() -> None:
    kinds = (*OF_EVERY_CLUSTER, *VOTER_KINDS)
    one, two = islice(rounds(7, kinds, TTL), 2)
    assert [one, two] == [plan(7, 0, kinds, TTL), plan(7, 1, kinds, TTL)]
    assert one != two
    assert one != plan(8, 0, kinds, TTL)


def test_a_schedule_is_read_as_it_was_written() -> None:
    steps = plan(7, 0, (*OF_EVERY_CLUSTER, *MEMBER_KINDS), TTL)
    assert read(written(7, steps)) == (7, steps)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seed": 1, "steps": [{"kind": "killed"}]}'])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read(text)


def test_a_kind_that_nobody_knows_is_refused() -> None:
    (step, *_) = plan(7, 0, [schedule.KILLED], TTL)
    with pytest.raises(ValueError, match="no such kind"):
        read(written(7, [step]).replace("killed", "tickled"))


# -- the record of faults ----------------------------------------------------------------------------------------


def test_faults_are_read_as_they_were_made(tmp_path: Path) -> None:
    log = FaultLog(tmp_path / "faults")
    log.add("late", "redis1", 20.0, majority=True, lasts=1.5)
    log.add("early", "candidate 7", 10.0, pids=[7, 8], lasts=0.0)
    log.close()
    assert log.read() == [
        Fault("early", "candidate 7", 10.0, 10.0, frozenset({7, 8})),
        Fault("late", "redis1", 20.0, 21.5, majority=True),
    ]
    for line in (tmp_path / "faults").read_text(encoding="ascii").splitlines():
        assert json.loads(line)["event"] == "fault"


# -- who is to blame ---------------------------------------------------------------------------------------------


def span(pid: int, since: float, until: float, fate: Fate, reason: str | None = None, election: str = "a") -> Span:
    token = int(since * 1000)
    records = ({"event": "won", "pid": pid},)
    return Span("boot", election, f"entry {since}", token, since, since, until, until, fate, reason, 0, records, ())


def killed(pid: int, at: float) -> Fault:
    return Fault(schedule.KILLED, f"candidate {pid}", at, at, frozenset({pid}))


def test_a_kill_is_recovered_from_when_the_next_one_wins() -> None:
    spans = [span(1, 10.0, 14.0, Fate.KILLED), span(2, 14.5, 20.0, Fate.RESIGNED)]
    found = attribute(spans, [killed(1, 12.5)], TTL)
    tally = found.kinds[schedule.KILLED]
    assert (tally.count, tally.ended, tally.false_step_downs) == (1, 1, 0)
    assert [(each.seconds, each.alone) for each in tally.recoveries] == [(2.0, True)]
    assert found.ended_by == {schedule.KILLED: 1, "resigned": 1}
    assert found.felled == 1


def test_a_term_that_had_run_out_in_a_pause_was_not_ended_by_a_later_kill() -> None:
    pause = Fault(schedule.PAUSED, "candidate 1", 12.0, 18.0, frozenset({1}))
    spans = [span(1, 10.0, 14.0, Fate.KILLED), span(2, 14.5, 20.0, Fate.RESIGNED)]
    found = attribute(spans, [pause, killed(1, 18.0)], TTL)
    assert found.ended_by == {schedule.PAUSED: 1, "resigned": 1}
    (recovery,) = found.kinds[schedule.PAUSED].recoveries
    assert (recovery.seconds, recovery.alone) == (2.5, True)


def test_a_loss_by_bad_links_is_recovered_from_since_the_loss() -> None:
    cut = Fault(schedule.CUT, "left to all servers", 11.0, 16.0, frozenset({1, 3}))
    spans = [span(1, 10.0, 13.0, Fate.LOST, "expired"), span(2, 13.25, 20.0, Fate.RESIGNED)]
    (recovery,) = attribute(spans, [cut], TTL).kinds[schedule.CUT].recoveries
    assert recovery.seconds == 0.25


def test_nobody_is_expected_to_lead_while_a_majority_is_down() -> None:
    down = Fault(schedule.MAJORITY, "redis1 redis2 redis3", 11.0, 16.0, majority=True)
    spans = [span(1, 10.0, 13.0, Fate.LOST, "expired"), span(2, 17.0, 20.0, Fate.RESIGNED)]
    (recovery,) = attribute(spans, [down], TTL).kinds[schedule.MAJORITY].recoveries
    assert (recovery.start, recovery.seconds) == (16.0, 1.0)


def test_who_was_touched_is_looked_for_before_the_majority() -> None:
    down = Fault(schedule.MAJORITY, "redis1 redis2 redis3", 12.0, 16.0, majority=True)
    pause = Fault(schedule.PAUSED, "candidate 1", 11.0, 16.0, frozenset({1}))
    spans = [span(1, 10.0, 13.0, Fate.LOST, "expired")]
    assert attribute(spans, [pause, down], TTL).ended_by == {schedule.PAUSED: 1}


def test_a_fault_of_others_makes_a_false_step_down() -> None:
    cut = Fault(schedule.CUT, "left to all servers", 11.0, 16.0, frozenset({3}))
    spans = [
        span(1, 10.0, 13.0, Fate.LOST, "expired"),
        span(1, 30.0, 33.0, Fate.LOST, "revoked"),
        span(1, 40.0, 43.0, Fate.LOST, "closed"),
    ]
    found = attribute(spans, [cut], TTL)
    assert {kind: tally.false_step_downs for kind, tally in found.kinds.items()} == {schedule.CUT: 1, CALM: 1}
    assert found.ended_by == {"false step-down": 2, "closed": 1}
    assert found.felled == 0


def test_a_loss_soon_after_a_fault_is_put_down_to_it_and_a_later_one_is_not() -> None:
    stalls = Fault(schedule.STALLS, "left to all servers", 11.0, 12.0, frozenset({1}))
    for until, blamed in ((13.9, schedule.STALLS), (14.1, "false step-down")):
        assert attribute([span(1, 10.0, until, Fate.LOST, "expired")], [stalls], TTL).ended_by == {blamed: 1}


def test_a_second_fault_excuses_what_it_delays() -> None:
    other = Fault(schedule.PAUSED, "candidate 2", 13.0, 15.0, frozenset({2}))
    spans = [span(1, 10.0, 14.0, Fate.KILLED), span(2, 16.0, 20.0, Fate.RESIGNED)]
    (recovery,) = attribute(spans, [killed(1, 12.0), other], TTL).kinds[schedule.KILLED].recoveries
    assert (recovery.seconds, recovery.undisturbed, recovery.alone) == (4.0, 1.0, False)


def test_elections_recover_each_by_itself() -> None:
    spans = [
        span(1, 10.0, 14.0, Fate.KILLED, election="a"),
        span(2, 15.0, 20.0, Fate.RESIGNED, election="a"),
        span(1, 10.0, 14.0, Fate.KILLED, election="b"),
    ]
    tally = attribute(spans, [killed(1, 12.0)], TTL).kinds[schedule.KILLED]
    assert tally.ended == 2
    assert [each.election for each in tally.recoveries] == ["a"]
    told = tally.as_json(bound=2.2)
    assert (told["median"], told["p99"], told["max"], told["bound"]) == (3.0, 3.0, 3.0, 2.2)


def test_terms_that_nobody_had_count_for_nothing() -> None:
    spans = [span(1, 10.0, 14.0, Fate.KILLED), span(2, 14.1, 14.1, Fate.VOID), span(3, 15.0, 20.0, Fate.RESIGNED)]
    (recovery,) = attribute(spans, [killed(1, 12.0)], TTL).kinds[schedule.KILLED].recoveries
    assert recovery.seconds == 3.0


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 201)]
    assert percentile(values, 0.99) == 198.0
    assert percentile([3.0], 0.99) == 3.0


# -- writes ------------------------------------------------------------------------------------------------------


def event(kind: str, write: str) -> Mapping[str, str]:
    return {"event": kind, "write": write, "resource": "r"}


def test_writes_are_counted_by_what_became_of_them() -> None:
    records = [event("tried", name) for name in "wxyz"]
    records += [event("accepted", "w"), event("refused", "x"), event("accepted", "y")]
    found = judge_writes(records, {"r": b"1 w\n2 y\n2 z\n"}, {"r": b"1 w\n2 y\n1 x\n2 z\n"})
    assert (found.tried, found.accepted, found.refused, found.unknown) == (4, 2, 1, 1)
    assert (found.stale_accepted, found.stale_unfenced, found.wrong) == (0, 1, ())


def test_a_stale_write_that_got_in_is_seen_in_the_resource() -> None:
    records = [event(kind, name) for name in "wxyz" for kind in ("tried", "accepted")]
    found = judge_writes(records, {"r": b"1 w\n3 x\n2 y\n2 z\n"}, {})
    assert found.stale_accepted == 2
    assert found.wrong == ("r took y after x", "r took z after y")


@pytest.mark.parametrize(
    ("events", "kept", "wrong"),
    [
        (["tried w", "accepted w"], b"", "w was accepted, and r does not have it"),
        (["tried w", "refused w"], b"1 w\n", "w was refused, and r has it"),
        (["accepted w"], b"1 w\n", "w has an outcome and was never tried"),
        (["tried w", "tried w"], b"", "w was tried 2 times"),
        (["tried w", "accepted w", "refused w"], b"1 w\n", "w was accepted and refused"),
    ],
)
def test_what_cannot_be_is_told(events: list[str], kept: bytes, wrong: str) -> None:
    records = [event(*each.split()) for each in events]
    assert wrong in judge_writes(records, {"r": kept}, {}).wrong
