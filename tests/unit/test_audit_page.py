"""The page of `coordkit audit --html`, as text: what it says, that names stay names, and that it stays small.

The rule: what a browser makes of it is in tests/integration/test_audit_page.py.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from coordkit.audit import Record, judge
from coordkit.cli.audit_command import audit
from coordkit.cli.page import page
from coordkit.cli.page.drawing import LANES, MARKS, STRIPS, boots
from tests.support.journals import SPAN, Candidate, fault, text, wrote

VOID_ELEMENTS = {"meta", "input", "path"}


class Read(HTMLParser):
    """What a page has; fails where elements are not closed in their order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID_ELEMENTS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [found for _, found in self.elements if name in found.get("class", "").split()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


A = Candidate("a", 1, label="ada")
B = Candidate("b", 2, pid=8, label="bob")


def read(records: list[Record], *, within: float | None = None) -> Read:
    return Read(page(judge(records, within=within), ["one.jsonl"], within=within))


def test_a_term_says_what_it_was() -> None:
    found = read([A.campaign(99.0), A.won(101.0), A.resigned(102.5), B.won(103.0), B.lost(104.0, "revoked")])
    assert [mark["title"] for mark in found.of_class("t") if mark.get("role")] == [
        "token 1, resigned: 2.000 s to 3.500 s",
        "token 2, lost (revoked): 4.000 s to 5.000 s",
    ]
    assert [mark["aria-label"] for mark in found.of_class("track")] == [
        "ada, process 7, 1 term",
        "bob, process 8, 1 term",
    ]
    assert "no violation" in found.text
    assert "Judged: one.jsonl" in found.text


def test_faults_are_bands_and_writes_are_marks() -> None:
    found = read(
        [
            *(A.won(101.0), A.resigned(102.5), B.won(103.0), B.resigned(109.0)),
            *(*wrote(1, 101.5, 101.6), *wrote(2, 103.5, 103.6), *wrote(1, 106.0, 106.1, "refused"), *wrote(2, 108.0)),
            *(fault(104.0, 105.0), fault(104.5, 106.0, kind="cut off", target="a majority", blocks=True)),
        ]
    )
    assert [mark["title"] for mark in found.of_class("r") if "title" in mark] == [
        "write to ledger with token 1 at 5.000 s: refused"
    ]
    assert [mark["title"] for mark in found.of_class("u") if "title" in mark] == [
        "write to ledger with token 2 at 7.000 s: unknown"
    ]
    assert [mark["title"] for mark in found.of_class("f") if "title" in mark] == [
        "paused redis3: 3.000 s to 4.000 s",
        "cut off a majority: 3.500 s to 5.000 s",
    ]
    assert len(found.of_class("band")) == 2
    assert len([tag for tag, _ in found.elements if tag == "path"]) == 2
    # The refused write of a leader that was replaced is in that leader's lane.
    lanes = [mark["aria-label"] for mark in found.of_class("track") if "lane" in mark["class"]]
    assert lanes == ["ada, process 7, 1 term, 2 writes, 1 of them refused", "bob, process 8, 1 term, 2 writes"]


def test_a_violation_is_told_with_its_lines_and_marked_in_the_timeline() -> None:
    found = read([A.won(1.0), B.won(5.0), B.resigned(7.0)])
    assert "1 violation" in found.text
    assert "overlap in jobs : b led while a did" in found.text
    assert '{"event": "won", "pid": 7,' in found.text
    (mark,) = found.of_class("v")
    assert mark["href"] == "#violation0"
    assert "b led while a did" in mark["title"]
    assert [each for _, each in found.elements if each.get("id") == "violation0"]
    drawn = [each for each in found.of_class("bad") if "title" in each]
    assert len(drawn) == 2


def test_a_gap_that_was_too_long_is_marked() -> None:
    found = read([A.won(1.0), A.resigned(2.0), B.campaign(1.0), B.won(9.0)], within=5.0)
    assert "nobody led for 7.000 s though somebody waited" in found.text
    assert len(found.of_class("v")) == 1
    assert "the wait that was allowed 5 s" in found.text


def test_boots_are_sections_of_their_own() -> None:
    other = Candidate("o", 1, boot_id="b2", label="eve")
    nameless = Candidate("n", 1, boot_id=None, election="elsewhere")
    found = read([A.won(1.0), other.won(50_000.0), nameless.won(3.0), fault(1.0, 2.0, boot_id="b3")])
    assert len(found.of_class("boot")) == 4
    assert [mark["title"] for mark in found.of_class("t") if "title" in mark] == [
        f"token 1, killed, or leading still: 0.000 s to {SPAN} s"
    ] * 3


def test_nothing_is_a_page_too() -> None:
    assert "There is no term, no write and no fault to draw." in read([]).text


@pytest.mark.parametrize(
    "garbage",
    [
        {"event": "crowned"},
        {"unreadable": "<script>alert(1)</script>"},
        A.won(1.0) | {"deadline": "</script><b>"},
        A.won(1.0) | {"election": ["<b>"]},
        A.won(1.0) | {"boot_id": 7, "token": {}},
    ],
)
def test_garbage_is_told(garbage: Record) -> None:
    found = read([garbage, B.won(1.0)])
    assert "garbage in" in found.text
    assert len([1 for tag, _ in found.elements if tag == "script"]) == 1


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "</style></script></title><b>",
    "&lt;b&gt;&amp;",
    "' onmouseover='alert(1)",
    "\u202egnp.exe\u2066",
    "\x00\x1b[31m\r\n\t",
    "\ud800 alone",
    "x" * 5000,
    "",
]


@pytest.mark.parametrize("name", HOSTILE, ids=[f"name {number}" for number in range(len(HOSTILE))])
def test_names_are_text_wherever_they_stand(name: str) -> None:
    who = Candidate(name, 1, election=name, label=name, boot_id=name)
    other = Candidate(name + "2", 2, election=name, label=name, boot_id=name)
    records = [
        *(who.campaign(0.0), who.won(1.0), other.won(2.0), other.lost(3.0, name)),
        *wrote(1, 4.0, 5.0, "refused", election=name, resource=name, boot_id=name),
        *wrote(1, 6.0, election=name, resource=name, boot_id=name),
        fault(1.0, 2.0, kind=name, target=name, boot_id=name),
        {"event": name, "election": name},
    ]
    source = page(judge(records), [name])
    found, plain = Read(source), Read(page(judge(_renamed(records, name)), ["n"]))
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(each) for _, each in found.elements] == [sorted(each) for _, each in plain.elements]
    source.encode("utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", source)
    assert len(source) < 60_000


def _renamed(records: list[Record], name: str) -> list[Record]:
    """The same records with a harmless name, and no more of it to show than there was."""
    return [
        {key: "n" if value == name else "n2" if value == name + "2" else value for key, value in record.items()}
        for record in records
    ]


@given(st.lists(st.text(max_size=9), min_size=4, max_size=4))
def test_whatever_the_names_are_the_page_has_the_same_elements(names: list[str]) -> None:
    label, election, resource, kind = names
    who = Candidate("a", 1, election=election, label=label)
    records = [who.won(1.0), *wrote(1, 4.0, 5.0, "refused", election=election, resource=resource)]
    found = Read(page(judge([*records, fault(0.0, 1.0, kind=kind, target=kind)])))
    assert len(found.of_class("election")) == 1
    assert len(found.of_class("lane")) == 1


TIMES = st.floats(0, 9) | st.floats() | st.sampled_from([0.0, -0.0, 1e11, -1e11, 1e12, 5e-324, 10**400])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), TIMES, TIMES), max_size=8))
def test_whatever_the_times_are_there_is_a_page(drawn: list[tuple[int, int, float, float]]) -> None:
    records: list[Record] = []
    for sort, token, one, other in drawn:
        who = Candidate(f"{token}", token, label="ada")
        records += [
            [who.won(1.0) | {"boot": one, "deadline": other}],
            [who.lost(1.0) | {"boot": one, "at": other}],
            [who.renewed(1.0) | {"boot": one, "deadline": other}],
            wrote(token, one, other),
            [fault(min(one, other), max(one, other))],
            [A.campaign(1.0) | {"boot": other}],
        ][sort]
    report = judge(records, within=1.0)
    found = Read(page(report))
    assert len(found.of_class("lane")) >= bool(report.spans or report.writes)
    places = [
        place for _, each in found.elements for place in re.findall(r"(?:left|width):([^%]*)%", each.get("style", ""))
    ]
    assert all(-0.001 <= float(place) <= 100.001 for place in places)


def test_the_page_fetches_nothing_and_runs_its_own_script_alone() -> None:
    source = page(judge([A.won(1.0)]))
    found = Read(source)
    assert not [each for _, each in found.elements if {"src", "srcset", "data", "action"} & each.keys()]
    assert not [tag for tag, _ in found.elements if tag in ("link", "img", "iframe", "object", "base", "form")]
    assert "url(" not in source
    assert "@import" not in source
    (policy,) = [each["content"] for _, each in found.elements if each.get("http-equiv")]
    script = re.search(r"<script>(.*)</script>", source, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


# -- many ------------------------------------------------------------------------------------------------------------


def history(terms: int, *, elections: int = 1, processes: int = 8, writes: int = 2) -> list[Record]:
    """A long lawful history with faults."""
    chance, records = random.Random(5), []
    for number in range(elections):
        now = 100.0
        for token in range(1, terms + 1):
            pid = chance.randrange(processes)
            who = Candidate(f"{number}-{token}", token, pid=pid, election=f"jobs-{number}", label=f"c{pid}")
            records += [who.campaign(now - 1.0), who.won(now)]
            for _ in range(writes):
                records += wrote(token, now + chance.random() * 0.1, now + 0.2, election=f"jobs-{number}")
            if token % 7 == 0:
                records += wrote(token - 1, now + 0.3, now + 0.4, "refused", election=f"jobs-{number}")
            now += chance.choice([0.01, 0.5, 3.0])
            records.append(who.lost(now, "revoked") if chance.random() < 0.5 else who.resigned(now))
            if token % 10 == 0 and not number:
                records.append(fault(now, now + 0.5, kind="killed", target=f"process {pid}"))
            now += 0.05
    return records


def test_5000_terms_are_a_page_that_can_be_used() -> None:
    report = judge(history(5000))
    assert report.ok
    source = page(report)
    found = Read(source)
    assert len(source) < 3_000_000
    assert len(found.elements) < 30_000
    strips = [each for tag, each in found.elements if tag == "details"]
    assert 100 < len(strips) <= STRIPS
    assert 1 <= len([each for each in strips if "open" in each]) <= 10  # it does not begin with all of them
    every = "".join(each.get("title", "") for each in found.of_class("t"))
    assert len(re.findall(r"token \d+", every)) > 2500  # most are marks of their own
    drawn = boots(report)[0].elections[0].strips
    assert sum(strip.fates.total() for strip in drawn) >= 5000


@pytest.mark.parametrize(
    ("terms", "elections", "processes", "writes"), [(100, 50, 8, 1), (3, 400, 3, 1), (8000, 1, 900, 0)]
)
def test_however_much_there_is_what_is_drawn_is_bounded(
    terms: int, elections: int, processes: int, writes: int
) -> None:
    report = judge(history(terms, elections=elections, processes=processes, writes=writes))
    drawn = boots(report)
    strips = [strip for boot in drawn for election in boot.elections for strip in election.strips]
    assert len(strips) <= STRIPS
    for strip in strips:
        assert len(strip.rows) <= LANES
        assert sum(len(row.terms) for row in strip.rows) <= MARKS
        assert sum(len(line) for line in strip.faults) <= MARKS
        assert sum(mark.count for row in strip.rows for mark in row.terms) == strip.fates.total()
        for row in strip.rows:
            assert all(0 <= mark.left <= mark.left + mark.width <= 100.001 for mark in row.terms)
    shown = sum(election.fates.total() for boot in drawn for election in boot.elections)
    left_out = sum(boot.left_out for boot in drawn)
    assert left_out == max(0, elections - 200)
    assert shown == report.terms - left_out * terms
    assert len(page(report)) < 10_000_000


def test_a_violation_of_a_host_without_a_boot_id_is_marked_there() -> None:
    lines = [Candidate(f"x@{host}:7:0{n}", n, boot_id=None).won(float(n)) for host in ("m1", "m2") for n in (1, 2)]
    report = judge(lines)
    assert len(report.violations) == 2
    assert [(boot.boot_id, [each.violations for each in boot.elections]) for boot in boots(report)] == [
        ("(host m1)", [1]),
        ("(host m2)", [1]),
    ]


def test_elections_with_violations_come_first_and_are_never_left_out() -> None:
    z = Candidate("z1", 1, election="zz"), Candidate("z2", 2, election="zz")
    report = judge([*history(2, elections=300), z[0].won(1.0), z[1].won(2.0)])
    assert boots(report)[0].elections[0].election == "zz"
    assert "100 elections more" not in page(report)
    assert "101 elections more, without violations, are not drawn." in page(report)


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> str:
    (tmp_path / "journal").write_bytes(text(A.won(1.0), A.resigned(2.0), B.campaign(1.0), B.won(9.0)))
    return str(tmp_path / "journal")


def test_the_command_writes_the_page_beside_its_report(journal: str, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    result = CliRunner().invoke(audit, [journal, "--html", str(out)])
    assert result.exit_code == 0
    assert "no violation" in result.output
    assert f"Judged: {journal}" in Read(out.read_text(encoding="utf-8")).text


def test_a_bound_on_the_recovery_is_judged(journal: str, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    assert CliRunner().invoke(audit, [journal, "--within", "7"]).exit_code == 0
    result = CliRunner().invoke(audit, [journal, "--within", "6.5", "--html", str(out)])
    assert result.exit_code == 1
    assert "VIOLATION (recovery) in 'jobs': nobody led for 7.000 s though somebody waited, 6.5 s were" in result.output
    assert "nobody led for 7.000 s" in out.read_text(encoding="utf-8")


def test_writes_and_faults_are_in_the_words_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(text(*wrote(2, 1.0, 2.0), *wrote(1, 3.0, 4.0, "refused"), fault(1.0, 2.0)))
    said = CliRunner().invoke(audit, [str(tmp_path / "journal")]).output.splitlines()
    assert "2 writes tried: 1 accepted, 1 refused, 0 unknown; 0 stale ones accepted" in said
    assert "1 fault" in said


@pytest.mark.parametrize("more", [["--within", "-1"], ["--within", "nan"], ["--within", "inf"], ["--within", "soon"]])
def test_a_bound_is_a_number_of_seconds(journal: str, more: list[str]) -> None:
    result = CliRunner().invoke(audit, [journal, *more])
    assert result.exit_code == 2
    assert "rror: " in result.output


@pytest.mark.parametrize("place", ["missing/out.html", ".", "/dev/full"])
def test_a_page_that_cannot_be_written_is_exit_2_without_a_traceback(journal: str, tmp_path: Path, place: str) -> None:
    result = CliRunner().invoke(audit, [journal, "--html", str(tmp_path / place)])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert re.search(r"Error: \S+: \S", result.output)


def test_the_page_takes_the_place_of_a_page_and_of_no_other_file(journal: str, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    for before in ("", None):
        if before is not None:
            out.write_text(before)
        assert CliRunner().invoke(audit, [journal, "--html", str(out)]).exit_code == 0
        assert out.read_text().startswith("<!doctype html>")
    for before in ("notes", '{"event":"won"}\n', "<html>"):
        out.write_text(before)
        result = CliRunner().invoke(audit, [journal, "--html", str(out)])
        assert result.exit_code == 2
        assert "would take the place of a file that is none" in result.output
        assert out.read_text() == before


def test_the_page_does_not_take_the_place_of_a_journal(journal: str, tmp_path: Path) -> None:
    before = Path(journal).read_bytes()
    (tmp_path / "link").symlink_to(journal)
    for out in (journal, tmp_path / "link"):
        result = CliRunner().invoke(audit, [journal, "--html", str(out)])
        assert result.exit_code == 2
        assert "would take the place of a journal" in result.output
    assert Path(journal).read_bytes() == before
