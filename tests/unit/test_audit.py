"""The judge of journals: each rule has a journal that breaks it and nothing else.

The rule: a journal is written here by hand, line by line, as processes would; the judge is asked what it found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from coordkit.audit import Fate, Kind, Outcome, Record, Report, judge, parse, summary
from coordkit.cli.audit_command import audit
from coordkit.journal import FileJournal
from tests.support.journals import SPAN, Candidate, fault, text, wrote
from tests.support.patched import Patch, patched

A = Candidate("a", 1)
B = Candidate("b", 2, pid=8)


def kinds(report: Report) -> list[Kind]:
    return [violation.kind for violation in report.violations]


# -- what is right -------------------------------------------------------------------------------------------------


def test_a_handover_a_takeover_and_a_loss_are_fine() -> None:
    c = Candidate("c", 9)
    report = judge(
        [
            *(A.campaign(0.0), A.won(1.0), A.renewed(4.0), A.jeopardy(7.0), A.renewed(8.0), A.resigned(9.0)),
            *(B.campaign(0.0), B.won(9.5)),  # and is killed: its deadline is 19.298
            *(c.campaign(0.0), c.won(20.0), c.lost(40.0), c.notified(40.0)),
        ]
    )
    assert report.ok
    assert [span.fate for span in report.spans] == [Fate.RESIGNED, Fate.KILLED, Fate.LOST]
    assert [(span.since, span.until) for span in report.spans] == [
        (1.0, 9.0),
        (9.5, 9.5 + SPAN),
        (20.0, 20.0 + SPAN),  # it looked late, but believed no longer than its deadline
    ]
    assert report.spans[2].reason == "expired"
    assert report.handovers == (0.5,)
    assert report.takeovers == (pytest.approx(20.0 - 9.5 - SPAN),)
    assert report.longest_gap == report.takeovers[0]
    assert (report.terms, report.renewals, report.jeopardies, report.notices) == (3, 2, 1, 1)
    assert (report.candidates, report.records, report.cut) == (3, 12, 0)


def test_nothing_is_fine() -> None:
    report = judge([])
    assert report.ok
    assert (report.terms, report.longest_gap, report.elections) == (0, 0.0, ())
    assert summary(()) == {"count": 0}


def test_two_elections_are_two_seats() -> None:
    other = Candidate("b", 1, election="else")
    report = judge([A.won(1.0), other.won(2.0)])
    assert report.ok
    assert report.elections == ("else", "jobs")
    assert report.handovers == report.takeovers == ()


@pytest.mark.parametrize("other", ["b2", None])
def test_two_boots_are_not_compared(other: str | None) -> None:
    elsewhere = Candidate("b", 1, boot_id=other)
    assert judge([A.won(1.0), elsewhere.won(2.0)]).ok


def test_no_boot_and_a_boot_without_a_name_are_two() -> None:
    lines = [A.won(1.0), Candidate("b", 2, boot_id="").won(2.0), Candidate("c", 3, boot_id=None).won(3.0)]
    none = [{**lines[0], "boot_id": None}, *lines[1:]]
    assert kinds(judge(none)) == [Kind.OVERLAP]


def test_hosts_without_a_boot_id_are_told_apart_by_their_entries() -> None:
    def won(host: str, token: int, at: float) -> Record:
        return Candidate(f"x@{host}:7:0{token}", token, boot_id=None).won(at)

    assert judge([won("mac1", 2, 1.0), won("mac2", 1, 2.0)]).ok
    assert kinds(judge([won("mac1", 1, 1.0), won("mac2", 1, 1.5), won("mac1", 2, 2.0)])) == [Kind.OVERLAP]


def test_terms_that_touch_do_not_overlap() -> None:
    assert judge([A.won(1.0), A.resigned(2.0), B.won(2.0)]).ok


def test_a_request_on_its_way_while_the_leader_resigned_is_counted_and_no_overlap() -> None:
    report = judge([A.won(1.0), A.resigned(5.0), B.won(5.5, sent=4.0)])
    assert report.ok
    assert report.in_flight == 1


def test_the_lease_of_one_who_queued_may_be_older_than_its_turn() -> None:
    report = judge([A.won(1.0), B.won(1.0 + SPAN + 1, sent=3.0)])
    assert report.ok
    assert report.in_flight == 1


def test_a_win_that_came_too_late_is_void() -> None:
    """Its process was paused between the answer and the line; meanwhile another led, with a higher token."""
    report = judge([B.won(15.0), A.won(16.0, sent=1.0), A.lost(16.0), B.resigned(17.0)])
    assert report.ok
    assert report.terms == 1
    assert [span.fate for span in report.spans] == [Fate.RESIGNED, Fate.VOID]


def test_the_newest_answer_stands_even_if_it_grants_less() -> None:
    older_last = [A.won(1.0), A.renewed(6.0, sent=5.0), A.renewed(6.5, sent=4.0)]
    assert judge(older_last).spans[0].until == 5.0 + SPAN


# -- what is wrong -------------------------------------------------------------------------------------------------

BREACHES: dict[str, tuple[list[Record], list[Kind]]] = {
    "won while another leads": (
        [A.won(1.0), B.won(5.0), A.resigned(6.0), B.resigned(7.0)],
        [Kind.OVERLAP],
    ),
    "won before the deadline of one who was killed": (
        [A.won(1.0), A.renewed(4.0), B.won(1.0 + SPAN + 1)],
        [Kind.OVERLAP],
    ),
    "won before another who lost it late had passed its deadline": (
        [A.won(1.0), B.won(SPAN), A.lost(50.0)],
        [Kind.OVERLAP],
    ),
    "a term within a term": (
        [A.won(1.0), B.won(2.0), B.resigned(3.0), Candidate("c", 3).won(4.0)],
        [Kind.OVERLAP, Kind.OVERLAP],
    ),
    "a token given twice": (
        [A.won(1.0), A.resigned(2.0), Candidate("b", 1).won(3.0)],
        [Kind.TOKEN],
    ),
    "a token that fell": (
        [B.won(1.0), B.resigned(2.0), A.won(3.0)],
        [Kind.TOKEN],
    ),
    "a token that changed within its term": (
        [A.won(1.0), Candidate("a", 5).renewed(2.0)],
        [Kind.TOKEN],
    ),
    "renewed after the deadline": (
        [A.won(1.0), A.renewed(1.0 + SPAN + 0.001, sent=8.0)],
        [Kind.BELIEF],
    ),
    "renewed after the deadline of a shorter, newer promise": (
        [A.won(5.0), A.renewed(6.0, sent=6.0) | {"deadline": 7.0}, A.renewed(8.0)],
        [Kind.BELIEF],
    ),
    "resigned after the deadline": (
        [A.won(1.0), A.resigned(1.0 + SPAN + 0.001)],
        [Kind.BELIEF],
    ),
    "lost by another's word after the deadline": (
        [A.won(1.0), A.lost(1.0 + SPAN + 0.001, "revoked")],
        [Kind.BELIEF],
    ),
    "renewed on a win that was void": (
        [A.won(20.0, sent=1.0), A.renewed(21.0)],
        [Kind.BELIEF],
    ),
    "told twice": (
        [A.won(1.0), A.lost(2.0, "revoked"), A.notified(2.0), A.notified(2.1)],
        [Kind.NOTICE],
    ),
    "told of a loss although resigned": (
        [A.won(1.0), A.resigned(2.0), A.notified(2.0)],
        [Kind.NOTICE],
    ),
    "told of a loss that did not happen": (
        [A.won(1.0), A.notified(2.0), A.jeopardy(12.5)],
        [Kind.NOTICE],
    ),
    "callbacks that were not told of a loss": (
        [A.won(1.0), A.watched(1.0), A.lost(2.0, "revoked"), Candidate("z", 1, election="else").campaign(12.0)],
        [Kind.NOTICE],
    ),
    "callbacks, and no end, though its process lived on": (
        [A.won(1.0), A.watched(1.0), A.renewed(4.0), Candidate("z", 1, election="else").campaign(4.0 + SPAN + 10.0)],
        [Kind.NOTICE],
    ),
    "callbacks registered late that were not told": (
        [A.won(1.0), A.lost(2.0, "revoked"), A.watched(3.0), Candidate("z", 1, election="else").campaign(13.0)],
        [Kind.NOTICE],
    ),
    "a stale write that was accepted": (
        [*wrote(5, 1.0, 2.0), *wrote(4, 3.0, 4.0)],
        [Kind.STALE],
    ),
    "a stale write after one that was older still": (
        [*wrote(5, 1.0, 2.0), *wrote(4, 1.5, 6.0), *wrote(4, 7.0, 8.0)],
        [Kind.STALE],
    ),
    "a stale write whose answer came late": (
        [*wrote(4, 3.0, 9.0), *wrote(5, 1.0, 2.0)],
        [Kind.STALE],
    ),
    "a stale write after one whose refusal told of a newer token": (
        [*wrote(3, 1.0, 2.0, "refused", newest=5), *wrote(4, 3.0, 4.0)],
        [Kind.STALE],
    ),
    "an answer to a write that was not tried": ([*wrote(1, 1.0, 2.0)[1:]], [Kind.SEQUENCE]),
    "two answers to a write": (
        [*(lines := wrote(1, 1.0, 2.0)), {**lines[1], "event": "refused", "newest": 2}],
        [Kind.SEQUENCE],
    ),
    "a write tried twice": ([*wrote(1, 1.0)] * 2, [Kind.SEQUENCE]),
    "a write whose answer is of another token": (
        [wrote(1, 1.0)[0], {**wrote(1, 1.0, 2.0)[1], "token": 2}],
        [Kind.SEQUENCE],
    ),
    "a write of no resource": ([wrote(1, 1.0)[0] | {"resource": None}], [Kind.GARBAGE]),
    "a write without its name": ([{k: v for k, v in wrote(1, 1.0)[0].items() if k != "write"}], [Kind.GARBAGE]),
    "a fault without an end": ([{k: v for k, v in fault(1.0, 2.0).items() if k != "until"}], [Kind.GARBAGE]),
    "a fault that ends before it begins": ([fault(2.0, 1.0)], [Kind.GARBAGE]),
    "a fault of no boot": ([{k: v for k, v in fault(1.0, 2.0).items() if k != "boot_id"}], [Kind.GARBAGE]),
    "renewed without a win": ([A.campaign(0.0), A.renewed(2.0)], [Kind.SEQUENCE]),
    "lost without a win": ([A.lost(2.0)], [Kind.SEQUENCE]),
    "renewed after its end": ([A.won(1.0), A.resigned(2.0), A.renewed(3.0)], [Kind.SEQUENCE]),
    "in jeopardy after its end": ([A.won(1.0), A.lost(2.0), A.jeopardy(3.0)], [Kind.SEQUENCE]),
    "ended twice": ([A.won(1.0), A.lost(2.0), A.resigned(2.0)], [Kind.SEQUENCE]),
    "won twice": ([A.won(1.0), A.won(2.0)], [Kind.SEQUENCE]),
    "begun twice": ([A.campaign(1.0), A.campaign(1.0)], [Kind.SEQUENCE]),
    "continued by another process": (
        [A.won(1.0), Candidate("a", 1, pid=99).renewed(2.0)],
        [Kind.SEQUENCE],
    ),
    "continued in another election": (
        [A.won(1.0), Candidate("a", 1, election="else").renewed(2.0)],
        [Kind.SEQUENCE],
    ),
    "an unknown event": ([A.line("crowned", 1.0)], [Kind.GARBAGE]),
    "no event": ([{}], [Kind.GARBAGE]),
    "an event that is no text": ([A.line("won", 1.0) | {"event": ["won"]}], [Kind.GARBAGE]),
    "no deadline": ([A.line("won", 1.0, token=1, ttl=1.0, sent=1.0)], [Kind.GARBAGE]),
    "a deadline that is no number": ([A.won(1.0) | {"deadline": "soon"}], [Kind.GARBAGE]),
    "a deadline that is not finite": ([A.won(1.0) | {"deadline": float("nan")}], [Kind.GARBAGE]),
    "a deadline beyond all times": ([A.won(1.0) | {"deadline": 2e11}], [Kind.GARBAGE]),
    "a deadline beyond all numbers": ([A.won(1.0) | {"deadline": 10**400}], [Kind.GARBAGE]),
    "a boolean time": ([A.won(1.0) | {"sent": True}], [Kind.GARBAGE]),
    "a token that is no number": ([A.won(1.0) | {"token": "1"}], [Kind.GARBAGE]),
    "a token out of range": ([A.won(1.0) | {"token": 2**63}], [Kind.GARBAGE]),
    "a process that is no number": ([A.won(1.0) | {"pid": None}], [Kind.GARBAGE]),
    "an entry that is no text": ([A.won(1.0) | {"entry": 3}], [Kind.GARBAGE]),
    "a boot that is no text": ([A.won(1.0) | {"boot_id": []}], [Kind.GARBAGE]),
    "a boot that is not said": ([{k: v for k, v in A.won(1.0).items() if k != "boot_id"}], [Kind.GARBAGE]),
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_found_and_nothing_else(name: str) -> None:
    records, expected = BREACHES[name]
    report = judge(records)
    assert kinds(report) == expected
    assert not report.ok
    for violation in report.violations:
        assert violation.message
        assert all(record in records for record in violation.records)


def test_every_kind_has_its_breach() -> None:
    """That of the recovery needs a bound: see below."""
    assert {kind for _, found in BREACHES.values() for kind in found} == set(Kind) - {Kind.RECOVERY}


# -- callbacks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    {
        "killed right after the loss": [A.watched(1.0), A.lost(2.0, "revoked")],
        "its process lived a little longer": [A.watched(1.0), A.lost(2.0), Candidate("z", 1, election="e").won(11.9)],
        "no callbacks": [A.lost(2.0, "revoked"), Candidate("z", 1, election="else").campaign(99.0)],
        "told before the loss was on file": [A.watched(1.0), A.notified(2.0), A.lost(2.1, "revoked")],
        "told, and killed before the loss was on file": [A.watched(1.0), A.notified(2.0)],
        "another process lived on": [A.watched(1.0), A.lost(2.0, "revoked"), B.won(99.0)],
        "it led on and on": [A.watched(1.0), A.renewed(10.0), A.renewed(19.0), A.renewed(28.0)],
        "it has an end, and lived on": [A.watched(1.0), A.resigned(2.0), Candidate("z", 1, election="e").won(99.0)],
        "killed while it led": [A.watched(1.0), Candidate("z", 1, election="e").won(20.7)],
        "its process is another": [
            {**A.watched(1.0), "process": "p"},
            *({**line, "process": "q"} for line in (A.lost(2.0, "revoked"), *wrote(1, 99.0))),
        ],
        "of another boot": [A.watched(1.0), A.lost(2.0), Candidate("z", 1, election="e", boot_id="b2").won(99.0)],
    }.items(),
    ids=lambda each: each[0],
)
def test_what_a_process_could_not_write_is_not_held_against_it(lines: tuple[str, list[Record]]) -> None:
    assert judge([A.won(1.0), *lines[1]]).ok


def test_a_pid_that_comes_again_is_another_process() -> None:
    """As in the containers of one host. Where no line names its process, the host in the candidate's id tells."""

    def lines(first: str, second: str, **process: str) -> list[Record]:
        old, new = Candidate(first, 1), Candidate(second, 2)
        one, two = ({"process": process[name]} if process else {} for name in ("one", "two"))
        before = [old.won(1.0), old.watched(1.0), old.lost(2.0, "revoked")]
        return [
            *({**line, **one} for line in before),
            *({**line, **two} for line in (new.campaign(3.0), new.won(20.0))),
        ]

    assert judge(lines("x@pod1:7:0a", "x@pod2:7:0b")).ok
    assert judge(lines("x@pod1:7:0a", "x@pod1:7:0b", one="p", two="q")).ok
    assert kinds(judge(lines("x@pod1:7:0a", "x@pod1:7:0b"))) == [Kind.NOTICE]
    assert kinds(judge(lines("x@pod1:7:0a", "x@pod1:7:0b", one="p", two="p"))) == [Kind.NOTICE]


def test_all_journals_of_a_process_name_it_alike_and_a_child_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals = [FileJournal(str(tmp_path / name)) for name in "ab"]
    for journal in journals:
        journal.write("campaign", entry="a", candidate="", election="jobs")
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    journals[1].write("campaign", entry="c", candidate="", election="jobs")
    monkeypatch.undo()
    for journal in journals:
        journal.close()
    (one,), (two, three) = (parse((tmp_path / name).read_bytes())[0] for name in "ab")
    assert one["process"] == two["process"] != three["process"]


# -- writes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    {
        "the stale one was refused": [*wrote(5, 1.0, 2.0), *wrote(4, 3.0, 4.0, "refused")],
        "nobody knows what became of the stale one": [*wrote(5, 1.0, 2.0), *wrote(4, 3.0)],
        "nobody knows what became of the newer one": [*wrote(5, 1.0), *wrote(4, 3.0, 4.0)],
        "the newer one was refused": [*wrote(5, 1.0, 2.0, "refused"), *wrote(4, 3.0, 4.0)],
        "both were on their way": [*wrote(5, 1.0, 3.0), *wrote(4, 2.0, 4.0)],
        "a refusal told of the same token": [*wrote(3, 1.0, 2.0, "refused", newest=4), *wrote(4, 3.0, 4.0)],
        "a refusal came while it was tried": [*wrote(3, 1.0, 3.5, "refused", newest=5), *wrote(4, 3.0, 4.0)],
        "a refusal told of nothing": [*wrote(3, 1.0, 2.0, "refused", newest="5"), *wrote(4, 3.0, 4.0)],
        "a refusal told of no token": [*wrote(3, 1.0, 2.0, "refused", newest=2**63), *wrote(4, 3.0, 4.0)],
        "at the same moment": [*wrote(5, 1.0, 3.0), *wrote(4, 3.0, 4.0)],
        "of the same term": [*wrote(5, 1.0, 2.0), *wrote(5, 3.0, 4.0)],
        "in their order": [*wrote(4, 1.0, 2.0), *wrote(5, 3.0, 4.0)],
        "to another resource": [*wrote(5, 1.0, 2.0), *wrote(4, 3.0, 4.0, resource="mail")],
        "of another election": [*wrote(5, 1.0, 2.0), *wrote(4, 3.0, 4.0, election="else")],
        "of another boot": [*wrote(5, 1.0, 2.0), *wrote(4, 3.0, 4.0, boot_id="b2")],
    }.items(),
    ids=lambda each: each[0],
)
def test_a_write_that_nothing_proves_stale_is_fine(lines: tuple[str, list[Record]]) -> None:
    assert judge(lines[1]).ok


def test_writes_are_counted_by_their_outcome() -> None:
    lines = [
        *(*wrote(1, 1.0, 2.0), *wrote(1, 3.0, 4.0), *wrote(2, 5.0, 6.0), *wrote(1, 7.0, 8.0, "refused")),
        *(*wrote(2, 9.0), *wrote(1, 10.0, 11.0)),
    ]
    report = judge(lines)
    told = report.as_json()["writes"]
    assert told == {"tried": 6, "accepted": 4, "refused": 1, "unknown": 1, "stale": 1}
    assert [write.outcome for write in report.writes][-2:] == [Outcome.UNKNOWN, Outcome.ACCEPTED]
    assert report.records == 11


def test_a_stale_write_is_shown_with_the_newer_one() -> None:
    lines = [*wrote(5, 1.0, 2.0), *wrote(4, 3.0, 4.0)]
    (violation,) = judge(lines).violations
    assert violation.records == tuple(lines)
    assert violation.message == (
        "'ledger' took a write with token 4, tried at 3.000000, although it had taken one with token 5 by 2.000000"
    )


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20), st.integers(0, 6), st.booleans()), max_size=8))
def test_stale_writes_are_those_that_a_comparison_of_all_pairs_finds(
    drawn: list[tuple[int, int, int, bool]],
) -> None:
    drawn = list({(token, since): (token, since, took, ok) for token, since, took, ok in drawn}.values())
    lines = [
        line
        for token, since, took, ok in drawn
        for line in wrote(token, float(since), float(since + took), "accepted" if ok else "refused")
    ]
    expected = sum(
        ok and any(also and newer > token and at + took < since for newer, at, took, also in drawn)
        for token, since, _, ok in drawn
    )
    assert kinds(judge(lines)) == [Kind.STALE] * expected


STALE_RULE = ("audit/writes.py", "if write.token < seen:", "if seen is None:")
UNTOLD_RULE = ("audit/notices.py", "if lost and watched and not notices:", "if not lines:")
EARLIER_RULE = ("audit/writes.py", "bisect_left(moments, write.tried - ROUNDING)", "len(moments)")


@pytest.mark.parametrize(
    ("patch", "lines", "right"),
    [
        (STALE_RULE, [*wrote(5, 1.0, 2.0), *wrote(4, 3.0, 4.0)], 1),
        (EARLIER_RULE, [*wrote(5, 1.0, 3.0), *wrote(4, 2.0, 4.0)], 0),
        (UNTOLD_RULE, [A.won(1.0), A.watched(1.0), A.lost(2.0, "revoked"), *wrote(1, 12.0)], 1),
    ],
    ids=["no comparison of tokens", "whatever came first", "nobody has to be told"],
)
def test_a_judge_without_one_of_its_rules_is_found_out(
    tmp_path: Path, patch: Patch, lines: list[Record], right: int
) -> None:
    """The tests above fail on it, and on nothing else: the copy without a patch is right."""
    (tmp_path / "journal").write_bytes(text(*lines))
    ask = "import sys; from coordkit.audit import judge, parse; found = parse(open(sys.argv[1], 'rb').read())[0]; "
    ask += "print(len(judge(found).violations))"
    said = []
    for name, patches in {"whole": [], "mutant": [patch]}.items():
        done = subprocess.run(
            [sys.executable, "-c", ask, str(tmp_path / "journal")],
            env={**os.environ, **patched(tmp_path / name, *patches)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        said.append(int(done.stdout))
    assert said == [right, 1 - right]


# -- recovery ------------------------------------------------------------------------------------------------------


def killed_at_ten() -> list[Record]:
    """A term that ends at 10.798, by the death of its process."""
    return [A.won(1.0)]


END = 1.0 + SPAN
LATE = Candidate("c", 3, pid=9)


@pytest.mark.parametrize(
    ("lines", "counted"),
    [
        pytest.param([B.campaign(2.0), B.won(20.0)], 20.0 - END, id="it waited all the time"),
        pytest.param([B.campaign(15.0), B.won(20.0)], 5.0, id="nobody waited at first"),
        pytest.param([B.won(20.0, sent=18.0)], 2.0, id="nobody knows since when it waited"),
        pytest.param(
            [B.campaign(19.0), B.won(20.0), B.resigned(21.0), LATE.campaign(12.0), LATE.won(21.0)],
            8.0,
            id="one waited who won later",
        ),
        pytest.param([LATE.campaign(2.0), B.campaign(19.0), B.won(20.0)], 1.0, id="one who never won may have gone"),
        pytest.param(
            [B.campaign(2.0), B.won(20.0), Candidate("z", 9, election="else").campaign(2.0)], 20.0 - END, id="elsewhere"
        ),
        pytest.param([B.campaign(2.0), B.won(20.0), fault(12.0, 15.0)], 20.0 - END, id="a fault that blocks nothing"),
        pytest.param([B.campaign(2.0), B.won(20.0), fault(0.0, 17.0, blocks=True)], 3.0, id="blocked at first"),
        pytest.param([B.campaign(2.0), B.won(20.0), fault(16.0, 19.0, blocks=True)], 16.0 - END, id="blocked later"),
        pytest.param([B.campaign(2.0), B.won(20.0), fault(0.0, 99.0, blocks=True)], 0.0, id="blocked all the time"),
        pytest.param([B.campaign(2.0), B.won(20.0), fault(30.0, 40.0, blocks=True)], 20.0 - END, id="blocked after it"),
        pytest.param(
            [B.campaign(2.0), B.won(20.0), fault(0.0, 99.0, blocks=True, boot_id="b2")], 20.0 - END, id="another boot"
        ),
    ],
)
def test_a_gap_counts_while_somebody_waited_and_nothing_blocked(lines: list[Record], counted: float) -> None:
    lines = [*killed_at_ten(), *lines]
    assert judge(lines).ok
    gap = judge(lines).gaps[0]
    assert (gap.since, gap.until) == (END, 20.0)
    assert gap.waited == pytest.approx(counted)
    assert judge(lines, within=counted).ok
    if counted:
        report = judge(lines, within=counted - 0.01)
        assert kinds(report) == [Kind.RECOVERY]
        assert f"nobody led for {counted:.3f} s though somebody waited" in report.violations[0].message
        assert all(record in lines for record in report.violations[0].records)


def test_a_gap_after_a_resignation_counts_too() -> None:
    report = judge([A.won(1.0), A.resigned(2.0), B.campaign(1.0), B.won(9.0)], within=5.0)
    assert kinds(report) == [Kind.RECOVERY]
    assert report.handovers == report.recoveries == (7.0,)


def test_an_overlap_is_no_gap() -> None:
    report = judge([A.won(1.0), B.won(5.0)], within=0.0)
    assert kinds(report) == [Kind.OVERLAP]
    assert report.gaps[0].since == report.gaps[0].until


def test_faults_are_on_the_report_and_of_no_process() -> None:
    report = judge([fault(1.0, 2.0), A.won(1.0), fault(3.0, 3.0, kind="killed", target="b")])
    assert report.ok
    assert [(each.kind, each.target, each.since, each.until) for each in report.faults] == [
        ("paused", "redis3", 1.0, 2.0),
        ("killed", "b", 3.0, 3.0),
    ]
    assert report.as_json()["faults"] == 2


def test_a_violation_shows_both_terms() -> None:
    records = [A.won(1.0), B.won(5.0)]
    (overlap,) = judge(records).violations
    assert overlap.records == (*records,)
    assert overlap.election == "jobs"
    assert "b led while a did, for 5.798000 s" in overlap.message


def test_an_overlap_is_shown_by_the_lines_that_tell_it() -> None:
    """Not with every renewal: that of a long term with many others would not fit into the memory."""
    late = A.renewed(9.5)
    records = [A.campaign(0.0), A.won(1.0), A.renewed(4.0), A.renewed(9.0), late, A.renewed(9.6, sent=8.0), B.won(11.0)]
    (overlap,) = judge([*records, A.jeopardy(12.0), A.lost(18.0, "revoked")]).violations
    assert overlap.records == (A.won(1.0), late, A.lost(18.0, "revoked"), B.won(11.0))


def test_a_leader_of_long_ago_is_not_forgotten() -> None:
    """B and C came after A one by one; it is A that they overlapped."""
    c = Candidate("c", 3)
    long = [A.won(0.0), *(A.renewed(float(at)) for at in range(1, 30))]
    report = judge([*long, B.won(10.0), B.resigned(11.0), c.won(12.0), c.resigned(13.0)])
    assert [violation.message.split(",")[0] for violation in report.violations] == [
        "b led while a did",
        "c led while a did",
    ]


# -- histories at random -------------------------------------------------------------------------------------------


@st.composite
def lawful(draw: st.DrawFn) -> list[list[Record]]:
    """Terms of one election, one after the other, each as a list of lines."""
    now, token, terms = 100.0, 0, []
    for number in range(draw(st.integers(1, 6))):
        token += draw(st.integers(1, 3))
        now += draw(st.floats(0, 5))
        who = Candidate(f"c{number}", token, pid=number)
        lines = [who.campaign(now), who.won(now, sent=now - draw(st.floats(0, 3)))]
        deadline = lines[1]["deadline"]
        for _ in range(draw(st.integers(0, 3))):
            sent = now + draw(st.floats(0.0, 3.0))
            at = sent + draw(st.floats(0.0, 3.0))
            if at >= deadline:
                break
            lines.append(who.renewed(at, sent=sent))
            now, deadline = at, lines[-1]["deadline"]
        how = draw(st.sampled_from(["killed", "lost", "told", "resigned"]))
        if how == "resigned":
            now += draw(st.floats(0, 1)) * (deadline - now)
            lines.append(who.resigned(now))
        else:
            now = deadline
            if how != "killed":
                lines.append(who.lost(now + draw(st.floats(0, 9))))
            if how == "told":
                lines.append(who.notified(now + 9))
        terms.append(lines)
    return terms


@given(lawful(), st.randoms())
def test_a_lawful_history_is_fine_in_whatever_order_its_files_are_read(terms: list[list[Record]], chance) -> None:
    chance.shuffle(terms)
    report = judge([line for lines in terms for line in lines])
    assert not report.violations
    assert report.terms == len(terms)
    assert len(report.handovers) + len(report.takeovers) == len(terms) - 1


@given(lawful(), st.floats(0.01, 5))
def test_a_history_pushed_into_the_one_before_it_is_found(terms: list[list[Record]], by: float) -> None:
    fine = judge([line for lines in terms for line in lines])
    if len(fine.spans) < 2:
        return
    before, last = fine.spans[-2:]
    shift = last.since - before.until + by
    moved = [
        {name: value - shift if name in ("boot", "sent", "deadline", "at") else value for name, value in line.items()}
        for line in terms[-1]
    ]
    report = judge([line for lines in [*terms[:-1], moved] for line in lines])
    assert Kind.OVERLAP in kinds(report) or before.until - before.since < by


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=9))
def test_overlaps_are_those_that_a_comparison_of_all_pairs_finds(intervals: list[tuple[int, int]]) -> None:
    intervals = sorted(set(intervals))
    lines: list[Record] = []
    for number, (since, length) in enumerate(intervals):
        who = Candidate(f"c{number}", number + 1)
        lines += [who.won(float(since)), who.resigned(float(since + length))]
    overlapping = any(
        a_since + a_length > b_since
        for number, (b_since, _) in enumerate(intervals)
        for a_since, a_length in intervals[:number]
    )
    assert (Kind.OVERLAP in kinds(judge(lines))) == overlapping


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
EVENTS = ("campaign", "won", "renewed", "jeopardy", "lost", "resigned", "watched", "notified")
EVENTS += ("tried", "accepted", "refused", "fault")


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "event": st.sampled_from(EVENTS) | json_values,
                "pid": st.integers(1, 3) | json_values,
                "boot_id": st.sampled_from(["b", None]) | json_values,
                "election": st.sampled_from(["x", "y"]) | json_values,
                "entry": st.sampled_from(["a", "b"]) | json_values,
                "token": st.integers(0, 4) | json_values,
                **dict.fromkeys(("resource", "write", "kind", "target"), st.sampled_from(["p", "q"]) | json_values),
                "blocks": st.booleans() | json_values,
                **dict.fromkeys(
                    ("boot", "sent", "deadline", "at", "ttl", "since", "until"), st.floats(0, 9) | json_values
                ),
                "reason": st.just("expired") | json_values,
            },
        ),
        max_size=12,
    )
)
def test_whatever_is_in_the_records_the_judge_answers(records: list[Record]) -> None:
    report = judge(records, within=1.0)
    assert report.records == len(records)
    json.dumps(report.as_json())


# -- files ---------------------------------------------------------------------------------------------------------


def test_what_the_journal_writes_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    FileJournal(str(path)).write("campaign", entry="a", candidate="näme", election="jobs")
    records, cut = parse(path.read_bytes())
    assert cut == 0
    assert judge(records).ok
    assert records[0]["candidate"] == "näme"


@given(st.integers(1, len(text(A.won(1.0))) - 2))
def test_a_last_line_cut_anywhere_is_counted(length: int) -> None:
    records, cut = parse(text(A.campaign(0.0)) + text(A.won(1.0))[:length])
    assert (records, cut) == ([A.campaign(0.0)], 1)
    assert judge(records, cut=cut).cut == 1


@given(st.integers(1, len(text(A.won(1.0))) - 2))
def test_a_cut_line_before_that_of_another_process_is_counted(length: int) -> None:
    records, cut = parse(text(A.won(1.0))[:length] + text(B.won(30.0)))
    assert (records, cut) == ([B.won(30.0)], 1)


def test_two_processes_killed_in_one_line_hide_no_third() -> None:
    whole = text(A.won(1.0))
    records, cut = parse(whole[:30] + whole[:50] + text(B.won(30.0)) + whole)
    assert (records, cut) == ([B.won(30.0), A.won(1.0)], 2)


def test_a_whole_record_counts_without_its_line_break() -> None:
    """Half a line was missing: its end. Whoever wrote it may have gone on, and led."""
    whole = text(A.won(1.0))[:-1]
    assert parse(text(B.won(0.5)) + whole) == ([B.won(0.5), A.won(1.0)], 0)
    assert parse(whole + text(B.won(5.0))) == ([A.won(1.0), B.won(5.0)], 0)
    assert kinds(judge(parse(whole + text(B.won(5.0)))[0])) == [Kind.OVERLAP]


@given(st.integers(1, len(text(A.won(1.0))) - 2))
def test_whole_records_count_on_both_sides_of_a_cut_one(length: int) -> None:
    whole, half = text(A.won(1.0))[:-1], text(A.won(1.0))[:length]
    named = B.campaign(2.0) | {"candidate": "n\u00e4me"}
    records, cut = parse(whole + half + whole + half + json.dumps(named, ensure_ascii=False).encode() + half)
    assert (records, cut) == ([A.won(1.0), A.won(1.0), named], 3)


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("rest", [b"hello", b"\xff", b"{}", b"}", b'{"event" : 1', b"[" * 9999])
def test_garbage_beside_a_whole_record_hides_neither(rest: bytes, end: bytes) -> None:
    whole = text(A.won(1.0))[:-1]
    for line, expected in {whole + rest: [A.won(1.0)], rest + whole: [A.won(1.0)], rest: []}.items():
        records, cut = parse(line + end)
        assert [record for record in records if record.get("event")] == expected
        assert kinds(judge(records)) == [Kind.GARBAGE]
        assert cut == 0


def test_a_file_without_line_breaks_is_read_in_a_moment() -> None:
    assert len(parse(text(A.won(1.0))[:-1] * 20_000)[0]) == 20_000


def test_a_line_cut_by_a_full_disk_is_told_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer lives, so it counts as no line that died with its writer."""
    said: list[str] = []
    write = os.write
    journal = FileJournal(str(tmp_path / "journal"), said.append)
    for name in ("b", "c"):
        monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:30]))
        journal.write("campaign", entry="a", candidate="", election="jobs")
        monkeypatch.undo()
        journal.write("campaign", entry=name, candidate="", election="jobs")
    assert said == ["the journal has half a line: no space is left"] * 2
    records, cut = parse((tmp_path / "journal").read_bytes())
    assert [record.get("entry") for record in records] == [None, "b", None, "c"]
    assert kinds(judge(records)) == [Kind.GARBAGE] * 2
    assert cut == 0
    os.close(journal._file)


def test_a_line_that_lacks_nothing_but_its_line_break_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    journal = FileJournal(str(tmp_path / "journal"))
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:-1]))
    journal.write("campaign", entry="a", candidate="", election="jobs")
    monkeypatch.undo()
    journal.write("campaign", entry="b", candidate="", election="jobs")
    records, cut = parse((tmp_path / "journal").read_bytes())
    assert ([record["entry"] for record in records], cut) == (["a", "b"], 0)
    os.close(journal._file)


@pytest.mark.parametrize(
    "line",
    [b"hello", b"", b"[]", b'"won"', b"{", b'{"event":"won"', b"\xff\xfe", b"[" * 9999],
)
def test_garbage_between_lines_is_a_violation(line: bytes) -> None:
    records, cut = parse(text(A.won(1.0)) + line + b"\n" + text(A.resigned(2.0)))
    report = judge(records, cut=cut)
    assert kinds(report) == [Kind.GARBAGE]
    assert report.terms == 1
    assert cut == 0


@given(st.binary(max_size=60))
def test_whatever_is_in_a_file_it_is_read(data: bytes) -> None:
    records, cut = parse(data)
    judge(records, cut=cut)


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def journals(tmp_path: Path) -> list[str]:
    """Two files of two processes, without fault together."""
    for name, records in {"a": [A.campaign(0.0), A.won(1.0), A.resigned(2.0)], "b": [B.won(2.5)]}.items():
        (tmp_path / name).write_bytes(text(*records))
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_the_command_judges_files_together(journals: list[str]) -> None:
    result = CliRunner().invoke(audit, journals)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "2 terms in 1 election: 1 resigned, 1 killed (or leading still)",
        "1 candidates, 0 renewals",
        "0 times in jeopardy, 0 losses told to callbacks",
        "handover after a resignation: 1, median 0.500 s, longest 0.500 s",
        "takeover after a loss or crash: none",
        "4 records, 0 cut short by the death of their writer",
        "no violation",
    ]


def test_the_command_prints_json(journals: list[str]) -> None:
    result = CliRunner().invoke(audit, ["--json", *journals])
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert report["ok"] is True
    assert report["handovers"] == {"count": 1, "median": 0.5, "largest": 0.5}
    assert (report["terms"], report["resigned"], report["killed"], report["longest_gap"]) == (2, 1, 1, 0.5)


def test_a_violation_is_exit_1_and_shown_with_its_lines(journals: list[str], tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(text(Candidate("c", 3).won(3.0)))
    for options in ([], ["--json"]):
        result = CliRunner().invoke(audit, [*options, *journals, str(tmp_path / "c")])
        assert result.exit_code == 1
    assert json.loads(result.output)["violations"][0]["kind"] == "overlap"
    shown = CliRunner().invoke(audit, [*journals, str(tmp_path / "c")]).output
    assert "VIOLATION (overlap) in 'jobs': c led while b did" in shown
    assert json.dumps(dict(B.won(2.5))) in shown


def test_many_violations_are_counted_and_not_all_shown(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"garbage\n" * 99 + text(A.won(1.0)))
    result = CliRunner().invoke(audit, [str(tmp_path / "j")])
    assert result.exit_code == 1
    assert "... and 79 more" in result.output
    assert "99 violations" in result.output


@pytest.mark.parametrize(
    "arguments", [[], ["nowhere"], ["."], ["--frobnicate", "x"], [str(Path(__file__).parent / "__init__.py")]]
)
def test_what_cannot_be_read_is_exit_2_without_a_traceback(arguments: list[str]) -> None:
    result = CliRunner().invoke(audit, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "rror: " in result.output


@pytest.mark.parametrize("content", [b"garbage\n" * 3, b"garbage", b"\0\1 {}", b'{"event":"crowned"}\n', b"[]\n"])
@pytest.mark.parametrize("first", [True, False])
def test_a_file_that_is_no_journal_is_refused_beside_one(
    journals: list[str], tmp_path: Path, content: bytes, first: bool
) -> None:
    (tmp_path / "other").write_bytes(content)
    other = str(tmp_path / "other")
    result = CliRunner().invoke(audit, [other, *journals] if first else [*journals, other])
    assert result.exit_code == 2
    assert f"Error: {other}: no line of a journal" in result.output


def test_an_empty_file_is_told_of_and_changes_nothing(journals: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    empty = str(tmp_path / "empty")
    result = CliRunner().invoke(audit, [empty, *journals])
    assert result.exit_code == 0
    assert result.stderr == f"coordkit: warning: {empty} is empty\n"
    assert result.stdout == CliRunner().invoke(audit, journals).stdout
    assert CliRunner().invoke(audit, [empty]).exit_code == 2


def test_a_file_with_nothing_but_half_a_line_is_a_journal(journals: list[str], tmp_path: Path) -> None:
    (tmp_path / "half").write_bytes(text(A.won(1.0))[:40])
    result = CliRunner().invoke(audit, [*journals, str(tmp_path / "half")])
    assert result.exit_code == 0
    assert "4 records, 1 cut short" in result.output


def test_one_file_is_judged_once(journals: list[str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(journals[0])
    for again in (journals[0], str(tmp_path / "link")):
        result = CliRunner().invoke(audit, [*journals, again])
        assert result.exit_code == 2
        assert f"Error: {again}: the same file as {journals[0]}" in result.output


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
@pytest.mark.parametrize("name", ["\x1b[2Jno violation", "a\nno violation", "\x7f\x9b", "\ud800", "\u202e", "\u5831"])
def test_no_name_writes_to_the_terminal_but_as_text(tmp_path: Path, name: str, encoding: str) -> None:
    lines = [Candidate(name, 1, election=name, label=name).won(1.0)] * 2
    lines += [A.won(1.0), A.lost(99.0, name), *wrote(2, 1.0, 2.0, resource=name), *wrote(1, 3.0, 4.0, resource=name)]
    (tmp_path / "j").write_bytes(text(*lines))
    done = subprocess.run(
        [sys.executable, "-m", "coordkit", "audit", str(tmp_path / "j")],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    told = done.stdout.decode(encoding)
    assert told.splitlines()[-1] == "3 violations"
    assert not [char for char in told if not (char.isprintable() or char == "\n")]
    assert not [line for line in told.splitlines() if line.startswith("no violation")]


def test_neighbours_of_a_void_win_are_compared() -> None:
    """A void win between two terms hides neither their order nor their overlap."""
    void = Candidate("v", 2)
    lines = [A.won(1.0), void.won(20.0, sent=2.0), Candidate("c", 3).won(5.0)]
    assert kinds(judge(lines)) == [Kind.OVERLAP]
    assert all(earlier.since <= later.since for earlier, later in pairwise(judge(lines).spans))
