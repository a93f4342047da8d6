"""The page: the verdict, the numbers, what was violated, then the timelines.

The rule: nothing is fetched and nothing but the page's own script runs; a policy in the page says so to the browser.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources

from coordkit import __version__
from coordkit.audit import Fate, Kind, Outcome, Report, Violation, summary
from coordkit.cli.page.drawing import boots
from coordkit.cli.page.markup import escaped, name, plural
from coordkit.cli.page.timeline import OPEN, section

SHOWN = 100  # violations in full
LINES = 20  # records of a violation
LONGEST_RECORD = 2000


def page(report: Report, files: Sequence[str] = (), *, within: float | None = None) -> str:
    """One HTML document. `files`, `within`: what was judged, and with which bound."""
    return "\n".join(_page(report, files, within))


def _page(report: Report, files: Sequence[str], within: float | None) -> Iterator[str]:
    style, script = _shipped("style.css"), _shipped("script.js")
    verdict = "no violation" if report.ok else plural(len(report.violations), "violation")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_digest(script)}'"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>coordkit audit: {verdict}</title>\n<style>{style}</style>\n</head>\n<body>"
    yield f'<header><h1>coordkit audit</h1><p class="verdict {"fine" if report.ok else "wrong"}">{verdict}</p></header>'
    yield "<main>"
    if files:
        more = f" and {len(files) - 20} more" if len(files) > 20 else ""
        yield f'<p class="files">Judged: {", ".join(map(name, files[:20]))}{more}</p>'
    yield from _numbers(report, within)
    if report.violations:
        yield from _violations(report)
    yield from _legend(report)
    drawn = boots(report)
    if not drawn:
        yield '<p class="note">There is no term, no write and no fault to draw.</p>'
    elections = sum(len(boot.elections) for boot in drawn)
    opened = max(1, OPEN // max(1, elections))
    for number, boot in enumerate(drawn, 1):
        yield from section(boot, number, opened)
    yield '</main>\n<output id="told" aria-live="polite" hidden></output>'
    yield f"<footer>coordkit {escaped(__version__)}; times are seconds since the first record of a boot</footer>"
    yield f"<script>{script}</script>\n</body>\n</html>\n"


def _numbers(report: Report, within: float | None) -> Iterator[str]:
    rows = [
        ("elections", f"{len(report.elections)}"),
        ("terms", f"{report.terms}"),
        *((_FATES[fate], f"{report.count(fate)}") for fate in Fate if report.count(fate)),
        ("longest term", f"{max((span.until - span.since for span in report.spans), default=0.0):.3f} s"),
        ("campaigns", f"{report.candidates}"),
        ("renewals", f"{report.renewals}"),
        ("times in jeopardy", f"{report.jeopardies}"),
        ("losses told to callbacks", f"{report.notices}"),
        ("handovers after a resignation", _durations(report.handovers)),
        ("takeovers after a loss or crash", _durations(report.takeovers)),
        ("waited for a leader", _durations(report.recoveries)),
        ("the wait that was allowed", "none" if within is None else f"{within:g} s"),
        ("writes tried", f"{len(report.writes)}"),
        *((f"writes {outcome.value}", f"{report.count_writes(outcome)}") for outcome in Outcome),
        ("stale writes accepted", f"{report.count_kind(Kind.STALE)}"),
        ("faults", f"{len(report.faults)}"),
        ("records", f"{report.records}"),
        ("cut short by the death of their writer", f"{report.cut}"),
    ]
    rows += [(f"violations: {kind.value}", f"{report.count_kind(kind)}") for kind in Kind if report.count_kind(kind)]
    yield '<section aria-labelledby="numbers"><h2 id="numbers">Numbers</h2><table class="numbers"><tbody>'
    for title, value in rows:
        wrong = ' class="wrong"' if title.startswith("violations: ") else ""
        yield f'<tr{wrong}><th scope="row">{title}</th><td>{value}</td></tr>'
    yield "</tbody></table></section>"


_FATES = {
    Fate.RESIGNED: "terms resigned",
    Fate.LOST: "terms lost",
    Fate.KILLED: "terms of the killed, or not over yet",
    Fate.VOID: "won too late to be used",
}


def _durations(found: Sequence[float]) -> str:
    if not found:
        return "none"
    told = summary(found)
    return f"{told['count']}, median {told['median']:.3f} s, longest {told['largest']:.3f} s"


def _violations(report: Report) -> Iterator[str]:
    yield '<section aria-labelledby="violations"><h2 id="violations">Violations</h2><ol class="violations">'
    for number, violation in enumerate(report.violations[:SHOWN]):
        yield from _violation(number, violation)
    yield "</ol>"
    if len(report.violations) > SHOWN:
        yield f'<p class="note">… and {len(report.violations) - SHOWN} more; <code>--json</code> has them all.</p>'
    yield "</section>"


def _violation(number: int, violation: Violation) -> Iterator[str]:
    yield f'<li id="violation{number}"><strong class="wrong">{violation.kind.value}</strong> in '
    yield f"{name(violation.election)}: {escaped(violation.message, 600)}"
    lines = [escaped(json.dumps(dict(record)), LONGEST_RECORD) for record in violation.records[:LINES]]
    if len(violation.records) > LINES:
        lines.append("…")
    if lines:
        records = "\n".join(lines)
        yield f"<details><summary>{plural(len(violation.records), 'record')}</summary><pre>{records}</pre></details>"
    yield "</li>"


def _legend(report: Report) -> Iterator[str]:
    """What the marks mean; with the script, each of them can be hidden."""
    marks = [
        *((f"t {fate.value}", "7", _LEGEND[fate], fate.value) for fate in Fate if report.count(fate)),
        ("t resigned bad", "7", "shown by a violation", ""),
        ("tick", "", "accepted write", "accepted"),
        ("r", "", "refused write", "refused"),
        ("u", "", "write of unknown outcome", "unknown"),
        ("f fault", "", "fault", "faults"),
        ("f blocks", "", "fault that lets nobody be elected", "faults"),
    ]
    if report.ok:
        marks = [mark for mark in marks if " bad" not in mark[0]]
    if not report.faults:
        marks = [mark for mark in marks if mark[3] != "faults"]
    marks = [mark for mark in marks if mark[3] not in _OUTCOMES or report.count_writes(_OUTCOMES[mark[3]])]
    yield '<section class="legend" aria-labelledby="legend"><h2 id="legend">Timelines</h2><ul>'
    for style, sample, told, hides in marks:
        box = f'<input type="checkbox" checked data-hides="{hides}" hidden>' if hides else ""
        yield f'<li><label>{box}<span class="sample"><b class="{style}">{sample}</b></span> {told}</label></li>'
    yield "</ul>"
    yield (
        '<p class="tools" hidden><label>Election <input type="search" id="filter" autocomplete="off"></label> '
        '<button type="button" id="open">Open all</button> <button type="button" id="close">Close all</button> '
        "<span>Arrow keys go from mark to mark.</span></p></section>"
    )


_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_LEGEND = {
    Fate.RESIGNED: "term with its token, resigned",
    Fate.LOST: "lost",
    Fate.KILLED: "killed, or leading still",
    Fate.VOID: "won too late to be used",
}


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _shipped(file: str) -> str:
    return resources.files("coordkit.cli.page").joinpath(file).read_text(encoding="utf-8")
