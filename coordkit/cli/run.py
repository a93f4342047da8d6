"""`coordkit run`: a command that runs while its candidate leads, and never longer.

The rule: win, then guard, then start; stop, then release. The seat is given up when the whole group is dead.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue

import click

from coordkit import threads
from coordkit.cli.gate import NOT_EXECUTABLE, NOT_FOUND
from coordkit.cli.inbox import Inbox
from coordkit.cli.options import (
    LOST,
    NOT_ELECTED,
    UNAVAILABLE,
    UNGUARDED,
    Failure,
    election_argument,
    failure,
    say,
    seconds,
    seconds_or_zero,
    url_option,
)
from coordkit.cli.processes import Group, Guard, kill_and_wait
from coordkit.cli.supervise import ENDING, Ended, Plan, Supervision, Why, pause, plan
from coordkit.clock import LINUX, system_clock
from coordkit.elector import LeaderElector, Term
from coordkit.errors import CoordkitError
from coordkit.lease import Instant, waited_for
from coordkit.registry import parse

WITHDRAW_SECONDS = 1.0  # how long an interrupted campaign waits for the store to forget it


@dataclass(frozen=True, slots=True)
class Job:
    """What the command line asks for."""

    url: str
    election: str
    ttl: float
    times: Plan
    wait: float | None
    no_wait: bool
    hold: float
    once: bool
    signal: int
    label: str
    command: tuple[str, ...]


def _signal(context: click.Context, parameter: click.Parameter, value: str) -> int:
    name = value.upper()
    known = {each.name: int(each) for each in signal.Signals}
    number = known.get(name, known.get(f"SIG{name}", int(name) if name.isdecimal() else 0))
    if number not in signal.valid_signals() or number in (signal.SIGSTOP, signal.SIGCONT):
        raise click.BadParameter(f"{value!r} is no signal that ends a command")
    return number


@click.command("run")
@url_option
@click.option("--ttl", metavar="S", type=float, default=10.0, callback=seconds, help="The lease, in seconds.  [10]")
@click.option("--wait", metavar="S", type=float, callback=seconds, help="Give up when not elected after S seconds.")
@click.option("--no-wait", is_flag=True, help="Give up when somebody else leads.")
@click.option(
    "--hold",
    metavar="S",
    type=float,
    default=0.0,
    callback=seconds_or_zero,
    help="Keep the seat for at least S seconds after the win, even when CMD has ended.",
)
@click.option("--once", is_flag=True, help="Do not campaign again after a loss.")
@click.option(
    "--signal",
    "signum",
    metavar="SIG",
    default="TERM",
    callback=_signal,
    help="What CMD gets when the lease is lost or in danger.  [TERM]",
)
@click.option("--label", metavar="L", default="", help="A name for this candidate, shown to others.")
@election_argument
@click.argument("command", metavar="-- CMD…", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(
    context: click.Context,
    url: str,
    ttl: float,
    wait: float | None,
    no_wait: bool,
    hold: float,
    once: bool,
    signum: int,
    label: str,
    election: str,
    command: tuple[str, ...],
) -> None:
    """Run CMD while leading the election NAME; wait to be elected first.

    CMD runs in a process group of its own, with COORDKIT_ELECTION, COORDKIT_TOKEN, COORDKIT_CANDIDATE and
    COORDKIT_URL in its environment. When it ends, however it ends, what is left of its group is ended too, and then
    the seat is given up: the next candidate starts at once. Hand COORDKIT_TOKEN to whatever CMD writes to: only that
    refuses the write of a command that was paused for too long.

    When the lease is lost, or too little of it is left because renewals fail, CMD gets --signal at once, and SIGKILL
    in time for its whole group to be dead before the lease is over. Then `run` campaigns again, unless --once. A guard,
    a small process of its own, kills the group in time even if `run` itself is killed or stopped.

    TERM, INT, HUP, QUIT, USR1, USR2, WINCH, CONT and TSTP are forwarded to CMD's group; after TERM, INT or QUIT there
    is no further campaign. TSTP (Ctrl-Z) stops `run` too, so that the guard kills CMD unless both go on in time. CMD
    is in the background of its terminal: its stdin is /dev/null where it would be a terminal, and reading /dev/tty
    stops it. Signals that are ignored at the start (nohup) stay ignored.

    Not covered: a process of CMD's that leaves the group (setsid, a daemon) or that we may not signal (setuid); `run`
    and its guard both stopped or killed; a suspend of the machine or a frozen container, after which CMD may go on for
    a quarter of a second. Only a fence that sees the token covers those.

    \b
    Exit codes:
      CMD's own; 128+n if signal n killed it; 126 not executable, 127 not found
      2    bad usage
      69   the backend cannot be reached (with --wait or --no-wait; else it is tried for ever)
      71   the processes that guard CMD cannot be started or kept alive
      75   not elected: --wait ran out, or somebody else leads (--no-wait)
      76   the lease was lost, with --once
      78   the backend refuses us or is misconfigured
      128+n  ended by signal n before CMD began
    """
    if wait is not None and no_wait:
        raise click.UsageError("--wait and --no-wait exclude each other", context)
    try:
        times = plan(ttl, parse(url).drift)
        LeaderElector(url, election, ttl=ttl, label=label)  # says what is wrong with these, and does nothing
    except CoordkitError as error:
        raise failure(error) from error
    if not LINUX or not os.path.exists("/proc/self/stat"):
        raise Failure(UNAVAILABLE, "`run` needs Linux with /proc: it has to see that a whole process group is dead")
    _check_command(command[0])
    _fill_standard_streams()
    job = Job(url, election, ttl, times, wait, no_wait, hold, once, signum, label, command)
    with Inbox() as inbox:
        code = _campaign_and_run(job, inbox)
    context.exit(code)


def _check_command(name: str) -> None:
    """Say now what would be wrong with the command later: before it has cost an election."""
    if shutil.which(name) is not None:
        return
    if os.sep in name and os.path.exists(name):
        raise Failure(NOT_EXECUTABLE, f"{name}: is not executable")
    raise Failure(NOT_FOUND, f"{name}: command not found")


def _fill_standard_streams() -> None:
    """Whoever closes stdin must not have a pipe of ours take its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _campaign_and_run(job: Job, inbox: Inbox) -> int:
    # The elector has no `hold`: it would wait where no signal could end the wait. We wait, in `_keep_seat`.
    elector = LeaderElector(job.url, job.election, ttl=job.ttl, label=job.label)
    try:
        while True:
            won = _win(elector, job, inbox)
            if not isinstance(won, Term):
                return won
            since = system_clock().now()
            ended = _lead(won, job, inbox)
            if ended.why is Why.DONE:
                if ended.asked is None:
                    keep = _keep_seat(won, job.hold, since, inbox)
                else:
                    keep = waited_for(since, system_clock().now()) < job.hold
                if not keep:  # else the lease keeps the seat, for as long as it runs
                    won.resign()
                return ended.exit_code
            won.resign()  # the group is dead: what is left in the store only keeps others waiting
            if ended.why is Why.UNGUARDED:
                return UNGUARDED
            if ended.asked is not None:
                return ended.exit_code
            if job.once:
                say(f"the lease of {job.election!r} was lost")
                return LOST
    finally:
        elector.close(timeout=WITHDRAW_SECONDS)


def _win(elector: LeaderElector, job: Job, inbox: Inbox) -> Term | int:
    """Campaign on another thread, so that this one hears signals. An exit code, if there is no term."""
    outcomes: SimpleQueue[Term | BaseException | None] = SimpleQueue()

    def campaign() -> None:
        try:
            outcomes.put(elector.try_campaign() if job.no_wait else elector.campaign(timeout=job.wait))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            outcomes.put(error)
        inbox.wake()

    threads.start(campaign)
    while outcomes.empty():
        for each in inbox.wait(None):
            if each is signal.SIGTSTP:
                pause()
            elif each in ENDING or each is signal.SIGHUP:
                if not outcomes.empty() and isinstance(won := outcomes.get(), Term):
                    won.resign()
                return 128 + each
    outcome = outcomes.get()
    if isinstance(outcome, Term):
        return outcome
    if isinstance(outcome, CoordkitError):
        raise failure(outcome) from outcome
    if outcome is not None:
        raise outcome
    return NOT_ELECTED


def _lead(term: Term, job: Job, inbox: Inbox) -> Ended:
    """Run the command under this term. When this returns, its group is dead and its guard gone."""
    clock = system_clock()
    term.on_lost(lambda _: inbox.wake())
    try:
        group = Group(job.command, _environment(os.environ, term, job.url))
    except OSError as error:
        term.resign()
        raise Failure(UNGUARDED, f"a process cannot be started: {error}") from error
    supervision = Supervision(
        term, job.times, group, lambda: Guard(group.number, clock), inbox, clock, job.signal, say, pause
    )
    try:
        return supervision.run()
    except BaseException:
        kill_and_wait(group)
        raise
    finally:
        supervision.release_guard()
        group.reap()


def _environment(inherited: Mapping[str, str], term: Term, url: str) -> dict[str, str]:
    return {
        **inherited,
        "COORDKIT_ELECTION": term.election,
        "COORDKIT_TOKEN": str(int(term.token)),
        "COORDKIT_CANDIDATE": term.candidate.id,
        "COORDKIT_URL": url,
    }


def _keep_seat(term: Term, hold: float, since: Instant, inbox: Inbox) -> bool:
    """Wait until the seat was kept for `hold` seconds, or the term is over. True: a signal ended the wait."""
    clock = system_clock()
    while term.valid and (left := hold - waited_for(since, clock.now())) > 0:
        for each in inbox.wait(min(left, 1.0)):
            if each is signal.SIGTSTP:
                pause()
            elif each in ENDING or each is signal.SIGHUP:
                return True
    return False
