"""`coordkit doctor`: can the backend at a URL keep its promise?

The rule: this command asks and shows; what is well and what is not is `coordkit.doctor`'s and the backends'.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json

import click
from rich.console import Console
from rich.text import Text

from coordkit.cli.options import failure, one_line, say, seconds, timeout_option, url_argument
from coordkit.doctor import CHECK_SECONDS, Diagnosis, examine, mend
from coordkit.errors import CoordkitError
from coordkit.findings import Finding, Progress, Verdict, count
from coordkit.lease import DEFAULT_TTL

WIDTH = 80  # what a report fits into, wherever it is pasted
BROKEN = 1
STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "bold red", Verdict.UNCHECKED: "cyan"}


@click.command("doctor")
@url_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@timeout_option(CHECK_SECONDS, "check")
@click.option(
    "--ttl",
    metavar="S",
    type=float,
    default=DEFAULT_TTL,
    callback=seconds,
    help="The ttl that the candidates are to have.",
    show_default=True,
)
@click.option("--init", "init", is_flag=True, help="Redis: mark servers that are new, and skip the first wait.")
@click.option("--replace", "replace", metavar="OLD=NEW", help="Redis: put one server in the place of another.")
@click.option("--forget", "forget", metavar="NAME", help="Redis: remove the record of an election.")
@click.option("--yes", is_flag=True, help="With --init: I know that no candidate has run there for max_ttl.")
@click.pass_context
def doctor(
    context: click.Context,
    url: str,
    as_json: bool,
    timeout: float,
    ttl: float,
    init: bool,
    replace: str | None,
    forget: str | None,
    yes: bool,
) -> None:
    """Look at all that is known to matter in the backend at URL, and say what it means and what mends it.

    It contends in no election and changes nothing, but for what it is told to mend first. Each check has its own time.
    Without URL: the environment's COORDKIT_URL, which is also the place for a password, for others can read command
    lines.

    --replace and --forget wait for max_ttl, in which nothing may move, whatever --timeout says. The URL is that of the
    new list. They may be interrupted, and repeated.

    \b
    Exit codes: 0 all is well (there may be warnings), 1 something breaks a promise, 2 usage,
    69 the backend's package is not installed.
    """
    asked = {"--init": "" if init else None, "--replace": replace, "--forget": forget}
    repairs = [(option, value) for option, value in asked.items() if value is not None]
    if len(repairs) > 1:
        raise click.UsageError(f"{' and '.join(option for option, _ in repairs)} are done one after the other", context)
    try:
        mended = [finding for option, value in repairs for finding in _mended(url, option, value, yes=yes)]
        found = examine(url, ttl=ttl, timeout=timeout)
        found = dataclasses.replace(found, findings=(*mended, *found.findings))
    except CoordkitError as error:
        raise failure(error) from error
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        show(found)
    context.exit(0 if found.ok else BROKEN)


def _mended(url: str, option: str, value: str, *, yes: bool) -> list[Finding]:
    """Mend it, and tell on stderr how it goes."""
    findings = []
    with contextlib.closing(mend(url, option, value)) as steps:
        for step in steps:
            if isinstance(step, Finding):
                findings.append(step)
            elif isinstance(step, Progress):
                say(step.told)
            elif not yes:
                click.confirm(one_line(step.asked), abort=True, err=True)
    return findings


def show(found: Diagnosis) -> None:
    """The report for people: what was found, in a column of its own, beside the verdict and the name of the check."""
    console = Console(highlight=False, emoji=False, width=WIDTH)
    verdicts = 2 + max(len(finding.verdict.value) for finding in found.findings)
    names = 2 + max(len(finding.check) for finding in found.findings)
    console.print(Text(one_line(found.url), "bold"), soft_wrap=True)
    for finding in found.findings:
        begin = Text(finding.verdict.value.ljust(verdicts), STYLES[finding.verdict])
        begin.append(finding.check.ljust(names), "not bold default")
        for line in _told(finding).wrap(console, WIDTH - verdicts - names, overflow="fold"):
            line.rstrip()
            console.print(begin + line, soft_wrap=True)
            begin = Text(" " * (verdicts + names))
    console.print(Text(_summary(found), "bold"))


def _told(finding: Finding) -> Text:
    told = Text(one_line(finding.detail))
    if finding.meaning:
        told.append(f"\nso: {one_line(finding.meaning)}", "" if finding.verdict is not Verdict.OK else "dim")
    if finding.remedy:
        told.append(f"\ndo: {one_line(finding.remedy)}", "bold")
    return told


def _summary(found: Diagnosis) -> str:
    broken, warnings = found.number(Verdict.FAILED), found.number(Verdict.WARNING)
    told = f"{count(broken, 'promise is broken', 'promises are broken')}" if broken else "no promise is broken"
    told += f", {count(warnings, 'warning')}"
    missed = found.number(Verdict.UNCHECKED)
    return told + (f", {count(missed, 'thing')} could not be looked at" if missed else "")
