"""`coordkit audit FILE…`: judge journals.

The rule: this command reads and prints; what is right and wrong is `coordkit.audit`'s. Whatever is in a journal, what
is printed of it has no control characters, and no encoding of the terminal keeps the verdict from being told.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence

import click

from coordkit.audit import Fate, Kind, Outcome, Record, Report, holds_journal, judge, parse, summary
from coordkit.cli.options import one_line, say
from coordkit.cli.page import page

SHOWN = 20  # violations, in full; --json has them all
PAGE = b"<!doctype html>"  # how each page begins
OK, VIOLATED, UNREADABLE = 0, 1, 2
FATES = {
    Fate.RESIGNED: "resigned",
    Fate.LOST: "lost",
    Fate.KILLED: "killed (or leading still)",
    Fate.VOID: "won too late to be used",
}


@click.command("audit")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as one JSON object.")
@click.option(
    "--within",
    type=float,
    metavar="SECONDS",
    help="A longer time without a leader, while somebody waited, is a violation.",
)
@click.option("--html", type=click.Path(), metavar="OUT", help="Write the report and its timelines as one HTML page.")
@click.pass_context
def audit(
    context: click.Context, files: tuple[str, ...], as_json: bool, within: float | None, html: str | None
) -> None:
    """Judge journals: did two leaders of one election ever overlap, did tokens rise, was a stale write accepted?

    FILE is what processes wrote with COORDKIT_JOURNAL set; several are judged together. Only journals of one boot of
    one host share an axis of time: others are judged apart.

    \b
    Exit codes: 0 every promise was kept, 1 one was violated,
    2 a file cannot be read or holds no journal, or OUT cannot be written
    or is neither empty nor such a page.
    """
    if within is not None and not 0 <= within < math.inf:
        raise _Refused("--within takes seconds, not less than 0")
    if html is not None:
        _check_place(html, files)
    _check_once(files)
    records: list[Record] = []
    cut = 0
    for name in files:
        try:
            with open(name, "rb") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            raise _Refused(f"{name}: {_why(error)}") from error
        if not text:
            say(f"warning: {name} is empty")
            continue
        more, broken = parse(text)
        if not holds_journal(more, broken):
            raise _Refused(f"{name}: no line of a journal")
        records += more
        cut += broken
    if not records:
        raise _Refused("no record of a journal in " + ", ".join(files))
    report = judge(records, cut=cut, within=within)
    if html is not None:
        _write(html, page(report, files, within=within))
    _print(json.dumps(report.as_json(), indent=2) if as_json else as_text(report))
    context.exit(OK if report.ok else VIOLATED)


def _check_place(html: str, files: Sequence[str]) -> None:
    """A slip of the fingers must not cost a journal."""
    for name in files:
        try:
            same = os.path.samefile(name, html)
        except (OSError, ValueError):
            continue
        if same:
            raise _Refused(f"{html}: the page would take the place of a journal")
    try:
        if not os.path.isfile(html):
            return
        with open(html, "rb") as file:
            begins = file.read(len(PAGE))
    except (OSError, ValueError) as error:
        raise _Refused(f"{html}: {_why(error)}") from error
    if begins and begins.lower() != PAGE:
        raise _Refused(f"{html}: the page would take the place of a file that is none")


def _check_once(files: Sequence[str]) -> None:
    """Lines that are read twice look like two processes of one name."""
    seen: dict[tuple[int, int], str] = {}
    for name in files:
        try:
            found = os.stat(name)
        except (OSError, ValueError):  # told when it is read
            continue
        key = (found.st_dev, found.st_ino)
        if key in seen:
            raise _Refused(f"{name}: the same file as {seen[key]}")
        seen[key] = name


def _write(html: str, text: str) -> None:
    try:
        with open(html, "w", encoding="utf-8") as file:
            file.write(text)
    except (OSError, ValueError) as error:
        raise _Refused(f"{html}: {_why(error)}") from error


def _why(error: OSError | ValueError) -> str:
    return str((isinstance(error, OSError) and error.strerror) or error)


def _print(text: str) -> None:
    """In the encoding of whoever reads it, whatever that lacks."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


class _Refused(click.ClickException):
    exit_code = UNREADABLE


def as_text(report: Report) -> str:
    """The report for people: the numbers, then what was violated."""
    fates = ", ".join(f"{report.count(fate)} {name}" for fate, name in FATES.items() if report.count(fate))
    elections = len(report.elections)
    lines = [
        f"{report.terms} terms in {elections} election{'s' * (elections != 1)}: {fates or 'none'}",
        f"{report.candidates} candidates, {report.renewals} renewals",
        f"{report.jeopardies} times in jeopardy, {report.notices} losses told to callbacks",
        _durations("handover after a resignation", report.handovers),
        _durations("takeover after a loss or crash", report.takeovers),
    ]
    if report.writes:
        outcomes = ", ".join(f"{report.count_writes(outcome)} {outcome.value}" for outcome in Outcome)
        stale = report.count_kind(Kind.STALE)
        lines.append(f"{len(report.writes)} writes tried: {outcomes}; {stale} stale ones accepted")
    if report.faults:
        lines.append(f"{len(report.faults)} fault{'s' * (len(report.faults) != 1)}")
    lines.append(f"{report.records} records, {report.cut} cut short by the death of their writer")
    for violation in report.violations[:SHOWN]:
        lines.append(one_line(f"VIOLATION ({violation.kind.value}) in {violation.election!r}: {violation.message}"))
        lines += (f"    {one_line(json.dumps(dict(record)))}" for record in violation.records)
    if len(report.violations) > SHOWN:
        lines.append(f"... and {len(report.violations) - SHOWN} more (--json has them all)")
    lines.append("no violation" if report.ok else f"{len(report.violations)} violations")
    return "\n".join(lines)


def _durations(name: str, seconds: tuple[float, ...]) -> str:
    found = summary(seconds)
    if not seconds:
        return f"{name}: none"
    return f"{name}: {found['count']}, median {found['median']:.3f} s, longest {found['largest']:.3f} s"
