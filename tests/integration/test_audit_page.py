"""The page of `coordkit audit --html` in a real browser: of a journal with everything in it, and of a real run.

The rule: the browser is asked what it shows, in light and dark, wide and narrow, with and without the script; what it
complains of fails the test. COORDKIT_PICTURES names a folder that keeps what it looked like.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coordkit import clock
from coordkit.audit import Fate, Outcome, Record, Report, judge, parse
from coordkit.cli.audit_command import audit
from coordkit.cli.demo_story import unlocked
from coordkit.testing.contract import eventually
from tests.integration.page_scenes import write_while_leading
from tests.support.browser import Browser
from tests.support.children import PATIENCE, Child, stopped
from tests.support.journals import Candidate, fault, text, wrote

pytestmark = [pytest.mark.backend("sqlite"), pytest.mark.timeout(300)]

HOSTILE = '</script><img src="https://example.invalid/x" onerror="hacked=1">\u202e'
TTL = 3.0

# Of every piece of text that is shown: its contrast with what is behind it (WCAG 2), and where it ends.
MEASURE = r"""
(() => {
  const channels = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const over = (top, below) => {
    const alpha = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map((at) => top[at] * alpha + below[at] * (1 - alpha));
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => (c / 255 <= .03928 ? c / 255 / 12.92 : ((c / 255 + .055) / 1.055) ** 2.4));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ratio = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + .05) / (low + .05);
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      layers.push(channels(colour).length > 3 && channels(colour)[3] === 0 ? null : channels(colour));
    }
    return layers.reverse().reduce((below, layer) => (layer ? over(layer, below) : below), [255, 255, 255]);
  };
  const shownTo = (element) => {
    let right = element.getBoundingClientRect().right;
    for (let at = element; at; at = at.parentElement) {
      if (getComputedStyle(at).overflowX !== "visible") right = Math.min(right, at.getBoundingClientRect().right);
    }
    return right;
  };
  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility() || /SCRIPT|STYLE/.test(element.tagName)) continue;
    const ground = behind(element);
    texts.push({
      text: node.data.trim().slice(0, 40),
      contrast: ratio(over(channels(getComputedStyle(element).color), ground), ground),
      right: shownTo(element),
    });
  }
  const shapes = [...document.querySelectorAll(".lane .t, .lane .r, .v")].map((element) => ({
    text: element.title,
    contrast: element.matches(".void") ? 21 : ratio(behind(element), behind(element.parentElement)),
  }));
  return {
    texts, shapes,
    width: document.documentElement.scrollWidth,
    window: document.documentElement.clientWidth,
    paper: behind(document.body),
  };
})()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


def page_of(records: list[Record], folder: Path, *more: str, code: int) -> str:
    """The URL of the page that the command makes."""
    (folder / "journal").write_bytes(text(*records))
    return made(folder / "journal", folder, *more, code=code)


def made(journal: Path, folder: Path, *more: str, code: int) -> str:
    out = folder / "page.html"
    result = CliRunner().invoke(audit, [str(journal), "--html", str(out), *more])
    assert result.exit_code == code, result.output
    return out.absolute().as_uri()


def picture(browser: Browser, name: str) -> None:
    if folder := os.environ.get("COORDKIT_PICTURES"):
        browser.picture(Path(folder) / f"{name}.png")


def everything() -> list[Record]:
    """Each sort of mark, two boots, names that are markup."""
    a, b, c = (
        Candidate(name, token, pid=token, label=label)
        for name, token, label in (("a", 1, "ada"), ("b", 2, "bob"), ("c", 3, HOSTILE))
    )
    late, other = Candidate("d", 4, pid=2, label="bob"), Candidate("e", 1, election=HOSTILE, boot_id="b2", label="eve")
    return [
        *(a.campaign(99.0), a.won(100.0), a.resigned(105.0)),
        *(b.campaign(99.0), b.won(105.5), b.watched(105.5)),
        *(b.lost(112.0, "revoked"), b.notified(112.0)),
        *(c.campaign(100.0), c.won(112.5)),  # and is killed: its deadline is 122.298
        *(late.won(140.0, sent=120.0),),  # too late
        *(
            *wrote(1, 101.0, 101.1),
            *wrote(1, 102.0, 102.1),
            *wrote(2, 106.0, 106.1),
            *wrote(1, 107.0, 107.1, "refused"),
        ),
        *(*wrote(2, 111.9), *wrote(3, 113.0, 113.1), *wrote(3, 114.0, 114.1, election="jobs", resource=HOSTILE)),
        *(fault(111.0, 114.0, kind="killed", target="etcd1"), fault(113.0, 116.0, kind="paused", target=HOSTILE)),
        fault(122.0, 130.0, kind="partition", target="majority", blocks=True),
        *(other.campaign(7.0), other.won(8.0), other.resigned(9.0)),
    ]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everything_is_shown_readable_and_within_the_window(
    browser: Browser, tmp_path: Path, dark: bool, width: int
) -> None:
    browser.open(page_of(everything(), tmp_path, code=0), width=width, dark=dark)
    picture(browser, f"everything-{width}-{'dark' if dark else 'light'}")
    check_readable(browser, dark=dark)
    assert of(browser, ".lane", "getAttribute('aria-label')")[:2] == [
        "ada, process 1, 1 term, 3 writes, 1 of them refused",
        "bob, process 2, 2 terms, 2 writes",
    ]
    assert of(browser, ".lane .t", "title") == [
        "token 1, resigned: 1.000 s to 6.000 s",
        "token 2, lost (revoked): 6.500 s to 13.000 s",
        "token 4, won too late to be used: 41.000 s to 41.000 s",
        "token 3, killed, or leading still: 13.500 s to 23.298 s",
        "token 1, resigned: 1.000 s to 2.000 s",
    ]
    if width == 1280:
        assert of(browser, ".lane .t", "textContent") == ["1", "2", "", "3", "1"]
    assert len(of(browser, ".faults .f", "title")) == len(of(browser, ".band", "style.left")) == 3
    assert of(browser, ".lane .r", "title") == ["write to ledger with token 1 at 8.000 s: refused"]
    assert len(of(browser, ".lane .u", "title")) == 1
    assert len(of(browser, ".ticks", "tagName")) == 3
    assert len(of(browser, ".boot", "tagName")) == 2
    assert not of(browser, "img", "src")
    assert browser.value("typeof hacked") == "undefined"
    # Where a mark is on the screen is when it was: of the lane, token 2 takes 6.5 s of a little more than 41.
    share = browser.value(
        "(() => { const [, mark] = document.querySelectorAll('.lane .t');"
        " return mark.getBoundingClientRect().width / mark.closest('.track').getBoundingClientRect().width; })()"
    )
    assert share == pytest.approx(6.5 / (40 * 1.01), abs=0.002)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_violations_stand_out_and_lead_to_their_words(browser: Browser, tmp_path: Path, dark: bool) -> None:
    a, b = Candidate("a", 1, label="ada"), Candidate("b", 2, pid=8, label="bob")
    records = [a.won(100.0), b.won(105.0), *wrote(2, 106.0, 106.1), *wrote(1, 107.0, 107.1)]
    browser.open(page_of(records, tmp_path, code=1), dark=dark)
    picture(browser, f"violations-{'dark' if dark else 'light'}")
    check_readable(browser, dark=dark)
    assert of(browser, ".verdict", "textContent") == ["2 violations"]
    assert len(of(browser, ".lane .bad", "title")) == 2
    assert of(browser, ".v", "hash") == ["#violation0", "#violation1"]
    assert browser.value("[...document.querySelectorAll('.v')].every((each) => document.querySelector(each.hash))")


def test_pointer_and_keys_tell_of_marks_and_boxes_hide_them(browser: Browser, tmp_path: Path) -> None:
    browser.open(page_of(everything(), tmp_path, code=0), height=2000)
    told = "document.getElementById('told').hidden ? null : document.getElementById('told').textContent"
    assert browser.value(told) is None
    x, y = browser.value(
        "(() => { const at = document.querySelector('.lane .t').getBoundingClientRect();"
        " return [at.x + at.width / 2, at.y + at.height / 2]; })()"
    )
    browser.point(x, y)
    assert browser.value(told) == "token 1, resigned: 1.000 s to 6.000 s"
    browser.value("document.querySelectorAll('.lane')[1].querySelector('[tabindex]').focus()")
    seen = [browser.value(told)]
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home"):
        browser.press(key)
        seen.append(browser.value(told))
    assert [each[:7] for each in seen] == ["token 2", "write t", "token 4", "write t", "token 4", "token 2"]
    browser.press("Escape")
    assert browser.value(told) is None

    for hides, selector in {
        **{fate.value: f".lane .{fate.value}" for fate in Fate},
        "accepted": ".ticks",
        "refused": ".lane .r",
        "unknown": ".lane .u",
        "faults": ".band",
    }.items():
        shown = f"[...document.querySelectorAll('{selector}')].filter((each) => each.checkVisibility()).length"
        assert browser.value(shown) >= 1, hides
        browser.value(f"document.querySelector('[data-hides={hides}]').click()")
        assert browser.value(shown) == 0, hides
    browser.value(
        "{ const f = document.getElementById('filter'); f.value = 'job'; f.dispatchEvent(new Event('input')); }"
    )
    assert of(browser, ".election", "hidden") == [False, True]
    browser.value("document.getElementById('close').click()")
    assert set(of(browser, ".strip", "open")) == {False}
    browser.value("document.getElementById('open').click()")
    assert set(of(browser, ".strip", "open")) == {True}
    assert not browser.complaints


def test_without_the_script_it_can_be_read_and_offers_nothing_that_needs_it(browser: Browser, tmp_path: Path) -> None:
    url = page_of(everything(), tmp_path, code=0)
    browser.open(url, script=False)
    assert not browser.value("document.querySelector('.tools').checkVisibility()")
    assert not browser.value("[...document.querySelectorAll('input')].some((each) => each.checkVisibility())")
    assert browser.value(
        "[...document.querySelectorAll('.lane .t')].every((each) => each.checkVisibility() && each.title)"
    )
    check_readable(browser, dark=False)


def test_5000_terms_open_and_answer(browser: Browser, tmp_path: Path) -> None:
    records: list[Record] = []
    for token in range(1, 5001):
        who = Candidate(f"e{token}", token, pid=token % 8, label=f"c{token % 8}")
        records += [who.won(token * 3.0), who.resigned(token * 3.0 + 2.9)]
    browser.open(page_of(records, tmp_path, code=0))
    started = time.monotonic()
    browser.value("document.getElementById('open').click()")
    shown = browser.value("[...document.querySelectorAll('.lane .t')].filter((each) => each.checkVisibility()).length")
    seconds = time.monotonic() - started
    print(f"5,000 terms: {shown} marks laid out in {seconds:.2f} s")
    assert shown >= 5000
    assert not browser.complaints
    assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_real_run_of_candidates_that_are_killed_paused_and_told_to_go(browser: Browser, tmp_path: Path) -> None:
    journal = tmp_path / "journal"

    def report(within: float | None = None) -> Report:
        records, cut = parse(journal.read_bytes() if journal.exists() else b"")
        return judge(records, cut=cut, within=within)

    def leader(after: int) -> int:
        """The process of the newest term above this token that has written."""
        eventually(lambda: newest(after) is not None, "somebody leads and writes", PATIENCE)
        return newest(after) or 0

    def newest(after: int) -> int | None:
        found = report()
        written = {write.token for write in found.writes if write.outcome is Outcome.ACCEPTED}
        seen = [span for span in found.spans if span.token > after and span.token in written and not over(span.fate)]
        return int(str(seen[-1].records[0]["pid"])) if seen else None

    def over(fate: Fate) -> bool:
        return fate is not Fate.KILLED  # it has an end on file

    def top() -> int:
        return max(span.token for span in report().spans)

    def note(kind: str, pid: int, since: float) -> None:
        line = {"event": "fault", "kind": kind, "target": by_pid[pid][0], "since": since}
        line |= {"until": clock.host_boottime(), "boot_id": clock.boot_id()}
        with journal.open("ab") as file:
            file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    with ExitStack() as stack:
        by_pid: dict[int, tuple[str, Child]] = {}
        for label in ("ada", "bob", "eve"):
            child = Child(write_while_leading, tmp_path, label, TTL, env={"COORDKIT_JOURNAL": str(journal)})
            by_pid[stack.enter_context(child).pid] = (label, child)
            child.expect("ready")
        killed = leader(0)
        since, before = clock.host_boottime(), top()
        by_pid[killed][1].send(signal.SIGKILL)
        by_pid[killed][1].exit_code()
        paused = leader(before)
        note("killed", killed, since)
        while True:  # not inside a transaction, which would lock SQLite for everybody
            by_pid[paused][1].send(signal.SIGSTOP)
            eventually(lambda: stopped(paused), "it is stopped", PATIENCE)
            since, before = clock.host_boottime(), top()
            if all(unlocked(str(tmp_path / name), 0.2) for name in ("election.db", "ledger.db")):
                break
            by_pid[paused][1].send(signal.SIGCONT)
        third = leader(before)
        assert third != paused
        note("paused", paused, since)
        by_pid[paused][1].send(signal.SIGCONT)
        eventually(
            lambda: report().count_writes(Outcome.REFUSED) > 0, "the write of the paused one is refused", PATIENCE
        )
        for pid in (third, paused):
            by_pid[pid][1].send(signal.SIGTERM)
            assert by_pid[pid][1].exit_code() == 0

    found = report(within=60.0)
    assert found.ok, found.violations
    assert found.count(Fate.KILLED) >= 1
    assert found.count(Fate.LOST) >= 1
    assert found.count(Fate.RESIGNED) >= 1
    assert found.notices >= 1
    for dark in (False, True):
        browser.open(made(journal, tmp_path, "--within", "60", code=0), dark=dark)
        picture(browser, f"run-{'dark' if dark else 'light'}")
        check_readable(browser, dark=dark)
    labels = {by_pid[pid][0] for pid in by_pid if any(span.records[0]["pid"] == pid for span in found.spans)}
    assert {each.partition(",")[0] for each in of(browser, ".lane", "getAttribute('aria-label')")} == labels
    tokens = [str(span.token) for span in found.spans]
    drawn = " ".join(of(browser, ".lane .t", "title"))
    assert all(token in drawn for token in tokens)
    assert of(browser, ".verdict", "textContent") == ["no violation"]
    assert of(browser, ".lane .r", "title")
    assert [each.split(":")[0] for each in of(browser, ".faults .f", "title")] == [
        f"killed {by_pid[killed][0]}",
        f"paused {by_pid[paused][0]}",
    ]


def of(browser: Browser, selector: str, what: str) -> list[Any]:
    """Something of each element, in the order of the page."""
    found: list[Any] = browser.value(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.{what})"
    )
    return found


def check_readable(browser: Browser, *, dark: bool) -> None:
    assert not browser.complaints
    assert len(browser.requests) == 1  # the page
    found = browser.value(MEASURE)
    assert (sum(found["paper"]) < 200) == dark
    assert found["width"] <= found["window"]
    assert len(found["texts"]) > 30
    assert not [each for each in found["texts"] if each["contrast"] < 4.5]
    assert not [each for each in found["texts"] if each["right"] > found["window"] + 0.5]
    assert found["shapes"]
    assert not [each for each in found["shapes"] if each["contrast"] < 3]
