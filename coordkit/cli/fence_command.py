"""`coordkit fence`: what a fence has seen, and how it is raised after its store was restored from a backup.

The rule: a fence is lowered only by who says `--force`, and is told what that means.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from coordkit.cli.options import VACANT, Failure, election_argument, failure, say, timeout_option
from coordkit.errors import ConfigError, CoordkitError, Misconfigured, StaleToken
from coordkit.fencing.stored import SECONDS, Stored, stored
from coordkit.model import FencingToken

F = TypeVar("F", bound=Callable[..., Any])

LOWER = 1


def _options(command: F) -> F:
    for option in (
        timeout_option(SECONDS, "call"),
        click.option(
            "--at",
            "place",
            metavar="NAME",
            help="Where in the store, if not the usual one: the key of a RedisFence, the path of a ZooKeeperFence, "
            "the table of an SQLFence.",
        ),
    ):
        command = option(command)
    return command


def _at(url: str, place: str | None, timeout: float, work: Callable[[Stored], None]) -> None:
    try:
        with stored(url, place, timeout=timeout) as found:
            work(found)
    except CoordkitError as error:
        raise failure(error) from error


@click.group("fence")
def fence() -> None:
    """What a fence has seen, and how it is raised.

    URL is that of the store that is written to: redis://host:6379/0, etcd://host:2379/prefix,
    zookeeper://host:2181/chroot, file:///path/of/the/file, or an SQLAlchemy URL of a database, such as
    postgresql+psycopg://host/name. Others can read command lines: give passwords by what the store's client reads,
    such as PGPASSWORD.

    \b
    Exit codes: those of its commands, which they tell; 2 usage.
    """


@fence.command("show")
@click.argument("url", metavar="URL")
@election_argument
@_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def show(context: click.Context, url: str, election: str, timeout: float, place: str | None, as_json: bool) -> None:
    """Print the highest token that the fence has seen of the election NAME.

    \b
    Exit codes: 0 there is one, 1 there is none, 2 usage, 69 the store cannot be reached,
    78 it refuses us, or what is there is no fence.
    """

    def work(found: Stored) -> None:
        newest = found.newest(election)
        if as_json:
            click.echo(json.dumps({"election": election, "token": None if newest is None else newest.value}))
        elif newest is not None:
            click.echo(str(newest))
        if newest is None:
            if not as_json:
                say(f"no token of {election} was admitted there")
            context.exit(VACANT)

    _at(url, place, timeout, work)


@fence.command("raise")
@click.argument("url", metavar="URL")
@election_argument
@click.option("--to", "value", metavar="TOKEN", type=click.IntRange(1, 2**63 - 1), required=True, help="The number.")
@click.option("--force", is_flag=True, help="Lower it, too. Leaders that are over may write again.")
@_options
def raise_(url: str, election: str, value: int, force: bool, timeout: float, place: str | None) -> None:
    """Let the fence refuse all tokens of the election NAME that are below TOKEN.

    Do so after the store was restored from a backup, which has forgotten the newest token, and before writers go on.
    The token of whoever leads now is right: `coordkit leader NAME` tells it.

    \b
    Exit codes: 0 done, 1 that would lower it, 2 usage, 69 the store cannot be reached,
    78 it refuses us, or what is there is no fence.
    """
    token = FencingToken(election, value)

    def work(found: Stored) -> None:
        before: FencingToken | None = None
        try:
            before = found.newest(election)
            found.admit(token)
        except (ConfigError, Misconfigured) as error:
            if not force:
                raise
            found.overwrite(token)
            say(f"written over what was there: {error}")
            click.echo(f"{token} (before: unreadable)")
            return
        except StaleToken as stale:
            if not force:
                told = f"the fence has seen {stale.newest}, {value} is lower: leaders that are over could write again"
                raise Failure(LOWER, f"{told}; --force does it") from stale
            found.overwrite(token)
            say(f"lowered from {stale.newest}: leaders that are over may write again")
        click.echo(f"{token} (before: {'none' if before is None else before.value})")

    _at(url, place, timeout, work)
