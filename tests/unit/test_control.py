"""What the control counts as a fault, on histories made by hand."""

from __future__ import annotations

from coordkit.audit import Record, judge
from tests.chaos.control import ends, overlaps, stale


def write(token: int, event: str = "accepted") -> Record:
    return {"event": event, "token": token}


def test_a_write_is_stale_once_a_later_term_has_written() -> None:
    assert stale([]) == []
    assert stale([write(1), write(1), write(2), write(3)]) == []
    late = write(1)
    assert stale([write(1), write(2), late, write(2), write(1, "refused")]) == [late]


def term(entry: str, token: int, since: float, until: float) -> list[Record]:
    common: Record = {"entry": entry, "election": "e", "pid": 1, "boot_id": "b", "token": token, "boot": since}
    won = {**common, "event": "won", "ttl": 1.0, "sent": since, "deadline": since + 100.0}
    return [won, {**common, "event": "resigned", "boot": until, "at": until}]


def test_terms_that_follow_each_other_do_not_overlap() -> None:
    assert overlaps(judge([*term("one", 1, 0.0, 1.0), *term("two", 2, 1.0, 2.0)])) == []


def test_a_long_term_overlaps_all_that_begin_within_it() -> None:
    report = judge([*term("one", 1, 0.0, 10.0), *term("two", 2, 1.0, 2.0), *term("three", 3, 4.0, 12.0)])
    assert [(first.entry, later.entry, seconds) for first, later, seconds in overlaps(report)] == [
        ("one", "two", 1.0),
        ("one", "three", 6.0),
    ]
    assert len(report.violations) == 2


def test_a_belief_ends_with_the_process_that_had_it() -> None:
    won, resigned = term("one", 1, 0.0, 1.0)
    assert ends([won, resigned], lambda _: 7.0) == []
    (end,) = ends([won], lambda pid: 7.0 + pid)
    later = term("two", 2, 7.0, 9.0)
    (first, _) = judge([won, *later, end]).spans
    assert (first.until, first.reason) == (8.0, "killed")
    assert [seconds for _, _, seconds in overlaps(judge([won, *later, end]))] == [1.0]
