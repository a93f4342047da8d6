"""What the commands share: exit codes, the backend's URL, and how a failure is said.

The rule: whoever calls us from a script learns from the exit code what to do next, and from one line why.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import click

from coordkit.errors import (
    BackendError,
    BackendNotInstalled,
    CampaignTimeout,
    ConfigError,
    CoordkitError,
    Misconfigured,
    Rejected,
)
from coordkit.model import check_election, check_seconds
from coordkit.registry import parse

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

# sysexits.h, where it has a word for it.
VACANT = 1
USAGE = 2
UNAVAILABLE = 69
INTERNAL = 70
UNGUARDED = 71  # EX_OSERR
NOT_ELECTED = 75  # EX_TEMPFAIL
LOST = 76
REFUSED = 78  # EX_CONFIG


class Failure(click.ClickException):
    """Ends the command with one line on stderr and this exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def failure(error: CoordkitError) -> Failure:
    """What an error of the library means for whoever called us. Its own text never has credentials."""
    cause = error.__cause__
    if isinstance(error, CampaignTimeout) and isinstance(cause, BackendError):
        return Failure(_backend_code(cause), f"{error}: {cause}")
    if isinstance(error, CampaignTimeout):
        return Failure(NOT_ELECTED, str(error))
    if isinstance(error, BackendNotInstalled):
        return Failure(UNAVAILABLE, str(error))
    if isinstance(error, ConfigError):
        return Failure(USAGE, str(error))
    if isinstance(error, BackendError):
        return Failure(_backend_code(error), str(error))
    return Failure(INTERNAL, str(error))


def _backend_code(error: BackendError) -> int:
    return REFUSED if isinstance(error, (Rejected, Misconfigured)) else UNAVAILABLE


def say(text: str) -> None:
    """One line on stderr. A reader who has gone is no reason to fail."""
    try:
        click.echo(f"coordkit: {one_line(text)}", err=True)
    except OSError:
        sys.stderr = None  # nobody will read what follows either


def one_line(text: str) -> str:
    """`text` without line breaks and other control characters: it may come from a store that others write to."""
    return "".join(
        char if char.isprintable() else " " if char.isspace() else ascii(char)[1:-1] for char in text
    ).strip()


def seconds(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """The callback of an option that is a finite number of seconds > 0."""
    return None if value is None else _valid(parameter, lambda: check_seconds(value, _name(parameter)))


def timeout_option(default: float, each: str) -> Callable[[F], F]:
    """--timeout: seconds for each check, or each call."""
    return click.option(
        "--timeout",
        metavar="S",
        type=float,
        default=default,
        callback=seconds,
        help=f"Give each {each} S seconds.",
        show_default=True,
    )


def seconds_or_zero(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """The callback of an option that is a finite number of seconds >= 0."""
    return _valid(parameter, lambda: check_seconds(value, _name(parameter), zero=True))


def _name(parameter: click.Parameter) -> str:
    return parameter.opts[0]


def _election(context: click.Context, parameter: click.Parameter, value: str) -> str:
    return _valid(parameter, lambda: check_election(value))


def _valid(parameter: click.Parameter, check: Callable[[], T]) -> T:
    try:
        return check()
    except ConfigError as error:
        raise Failure(USAGE, str(error)) from error


def election_argument(command: F) -> F:
    """NAME: an election."""
    return click.argument("election", metavar="NAME", callback=_election)(command)


def url_option(command: F) -> F:
    """--url, whose default says on stderr which scope it has."""
    return click.option(
        "--url",
        metavar="URL",
        callback=_url,
        help=(
            "The backend: sqlite:///var/lib/app/leader.db, etcd://host:2379,host:2379/prefix. "
            "Default: the environment's COORDKIT_URL, else a "
            "file of this user on this machine. Give passwords by COORDKIT_URL: others can read command lines."
        ),
    )(command)


def url_argument(command: F) -> F:
    """URL, which may be left out as `--url` may."""
    return click.argument("url", metavar="[URL]", required=False, callback=_url)(command)


def _url(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    url = value or os.environ.get("COORDKIT_URL")
    if not url:
        url = default_url(os.environ)
        given = "URL" if isinstance(parameter, click.Argument) else "--url"
        say(f"no {given} and no COORDKIT_URL: {url}, whose scope is this machine and this user only")
    try:
        parse(url)
    except ConfigError as error:
        raise failure(error) from error
    return url


def default_url(environment: Mapping[str, str]) -> str:
    """An SQLite file in the user's state directory (XDG), which is made for this user alone."""
    state = environment.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the specification: a relative one is to be ignored
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    folder = os.path.join(state, "coordkit")
    try:
        os.makedirs(state, exist_ok=True)
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise Failure(UNAVAILABLE, f"no --url, and the directory of the default cannot be made: {error}") from error
    return "sqlite://" + quote(os.path.join(folder, "elections.db"))
