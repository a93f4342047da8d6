"""The judge of journals: each rule has a journal that breaks it and nothing else.

The rule: a journal is written here by hand, line by line, as processes would; the judge is asked what it found.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from coordkit.audit import Fate, Kind, Record, Report, judge, parse, summary
from coordkit.cli.audit_command import audit
from coordkit.journal import FileJournal

TTL = 10.0
SPAN = 9.798  # what a lease of 10 s lets its holder act


class Candidate:
    """Writes the lines of one entry. Times are those of the record's own clock."""

    def __init__(self, entry: str, token: int, *, election: str = "jobs", boot_id: str | None = "b1", pid: int = 7):
        self.entry, self.token, self.election, self.boot_id, self.pid = entry, token, election, boot_id, pid

    def line(self, event: str, boot: float, **fields: object) -> Record:
        same = {"event": event, "pid": self.pid, "boot": boot, "mono": boot, "boot_id": self.boot_id}
        return {**same, "entry": self.entry, "election": self.election, **fields}

    def campaign(self, boot: float) -> Record:
        return self.line("campaign", boot, candidate="")

    def won(self, boot: float, sent: float | None = None) -> Record:
        sent = boot if sent is None else sent
        return self.line("won", boot, candidate="", token=self.token, ttl=TTL, sent=sent, deadline=sent + SPAN)

    def renewed(self, at: float, sent: float | None = None) -> Record:
        sent = at if sent is None else sent
        return self.line("renewed", at, token=self.token, at=at, sent=sent, deadline=sent + SPAN)

    def jeopardy(self, boot: float) -> Record:
        return self.line("jeopardy", boot, token=self.token, detail="a renewal failed")

    def lost(self, at: float, reason: str = "expired") -> Record:
        return self.line("lost", at, token=self.token, at=at, reason=reason)

    def resigned(self, at: float) -> Record:
        return self.line("resigned", at, token=self.token, at=at)

    def notified(self, boot: float) -> Record:
        return self.line("notified", boot, token=self.token)


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
        [A.won(1.0), A.notified(2.0)],
        [Kind.NOTICE],
    ),
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
    assert {kind for _, found in BREACHES.values() for kind in found} == set(Kind)


def test_a_violation_shows_both_terms() -> None:
    records = [A.won(1.0), B.won(5.0)]
    (overlap,) = judge(records).violations
    assert overlap.records == (*records,)
    assert overlap.election == "jobs"
    assert "b led while a did, for 5.798000 s" in overlap.message


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
EVENTS = ("campaign", "won", "renewed", "jeopardy", "lost", "resigned", "notified")


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
                **dict.fromkeys(("boot", "sent", "deadline", "at", "ttl"), st.floats(0, 9) | json_values),
                "reason": st.just("expired") | json_values,
            },
        ),
        max_size=12,
    )
)
def test_whatever_is_in_the_records_the_judge_answers(records: list[Record]) -> None:
    report = judge(records)
    assert report.records == len(records)
    json.dumps(report.as_json())


# -- files ---------------------------------------------------------------------------------------------------------


def text(*records: Record) -> bytes:
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)


def test_what_the_journal_writes_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    FileJournal(str(path)).write("campaign", entry="a", candidate="näme", election="jobs")
    records, cut = parse(path.read_bytes())
    assert cut == 0
    assert judge(records).ok
    assert records[0]["candidate"] == "näme"


@given(st.integers(1, len(text(A.won(1.0))) - 1))
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
    assert (records, cut) == ([B.won(30.0), A.won(1.0)], 1)


@pytest.mark.parametrize(
    "line",
    [b"hello", b"", b"[]", b'"won"', b"{", b'{"event":"won"', b"\xff\xfe", b"[" * 9999, b'hello{"event":"won"}'],
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
    (tmp_path / "j").write_bytes(b"garbage\n" * 99)
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


def test_neighbours_of_a_void_win_are_compared() -> None:
    """A void win between two terms hides neither their order nor their overlap."""
    void = Candidate("v", 2)
    lines = [A.won(1.0), void.won(20.0, sent=2.0), Candidate("c", 3).won(5.0)]
    assert kinds(judge(lines)) == [Kind.OVERLAP]
    assert all(earlier.since <= later.since for earlier, later in pairwise(judge(lines).spans))
