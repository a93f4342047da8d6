"""`coordkit leader`, `candidates`, `observe`: looking without contending.

The rule: what is printed is news, already old when it is read; nothing may act on it as on a term.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from coordkit.cli.options import VACANT, election_argument, failure, one_line, seconds, url_option
from coordkit.elector import LeaderElector
from coordkit.errors import CoordkitError
from coordkit.model import CandidateInfo, LeaderInfo

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
timeout_option = click.option(
    "--timeout", metavar="S", type=float, callback=seconds, help="Give up after S seconds (default: 5)."
)


@click.command("leader")
@url_option
@timeout_option
@as_json_option
@election_argument
@click.pass_context
def leader(context: click.Context, election: str, url: str, timeout: float | None, as_json: bool) -> None:
    """Print who leads NAME: its token and the candidate.

    The answer is old when it arrives: never act on it as if you led. That is what `coordkit run` is for.

    \b
    Exit codes: 0 somebody leads, 1 nobody does, 2 usage, 69 the backend cannot be reached,
    78 it refuses us or is misconfigured.
    """
    with _reading(url, election) as elector:
        found = elector.leader(timeout=timeout)
    click.echo(_leader_json(election, found) if as_json else _leader_line(election, found))
    context.exit(VACANT if found is None else 0)


@click.command("candidates")
@url_option
@timeout_option
@as_json_option
@election_argument
@click.pass_context
def candidates(context: click.Context, election: str, url: str, timeout: float | None, as_json: bool) -> None:
    """Print the candidates of NAME, one a line: in queue order where the backend has a queue, else the leader alone.

    \b
    Exit codes: 0 there are candidates, 1 there are none, 2 usage, 69 the backend cannot be reached,
    78 it refuses us or is misconfigured.
    """
    with _reading(url, election) as elector:
        found = elector.candidates(timeout=timeout)
    if as_json:
        click.echo(json.dumps({"election": election, "candidates": [_candidate(each) for each in found]}))
    else:
        for each in found:
            click.echo(one_line(each.id))
    context.exit(0 if found else VACANT)


@click.command("observe")
@url_option
@as_json_option
@election_argument
def observe(election: str, url: str, as_json: bool) -> None:
    """Print who leads NAME, now and after every change, until interrupted.

    Some states may be skipped; tokens never fall. A backend that cannot be reached is asked again and again.

    \b
    Exit codes: 130 interrupted, 2 usage, 78 the backend refuses us or is misconfigured.
    """
    with _reading(url, election) as elector:
        for state in elector.observe():
            click.echo(_leader_json(election, state) if as_json else _leader_line(election, state))


@contextmanager
def _reading(url: str, election: str) -> Iterator[LeaderElector]:
    try:
        elector = LeaderElector(url, election)
        try:
            yield elector
        finally:
            elector.close()
    except CoordkitError as error:
        raise failure(error) from error


def _leader_line(election: str, found: LeaderInfo | None) -> str:
    if found is None:
        return f"{one_line(election)} vacant"
    return one_line(f"{found.token} {found.candidate.id} {found.metadata}")


def _leader_json(election: str, found: LeaderInfo | None) -> str:
    seat: dict[str, Any] | None = None
    if found is not None:
        seat = {"token": int(found.token), "candidate": _candidate(found.candidate), "metadata": found.metadata}
    return json.dumps({"election": election, "leader": seat})


def _candidate(candidate: CandidateInfo) -> dict[str, str]:
    return {"id": candidate.id, "label": candidate.label, "metadata": candidate.metadata}
