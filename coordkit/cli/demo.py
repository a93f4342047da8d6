"""`coordkit demo`: a leader dies, its successor is paused, and what that one then writes is refused.

The rule: this command sets the stage and shows; what happens is seen by `demo_story` in real processes.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import click
from rich.console import Console
from rich.text import Text

from coordkit import BackendNotInstalled, LeaderElector, Session, fencing
from coordkit.cli.options import seconds
from coordkit.clock import system_chance
from coordkit.registry import Address, parse

FIRST_PATIENCE = 90.0  # s: Redis servers that have just been set up abstain for a minute


@click.command("demo")
@click.option("--url", metavar="URL", help="The backend to elect on.  [default: an SQLite file of its own]")
@click.option("--ttl", metavar="S", type=float, default=2.0, callback=seconds, help="Length of a lease.  [default: 2]")
@click.option("--patience", metavar="S", type=float, callback=seconds, help="Longest wait for an event.")
def demo(url: str | None, ttl: float, patience: float | None) -> None:
    """Show the whole failure path with three real processes and a ledger that has a fence.

    A leader is elected and gets a token. It is killed (kill -9): another leads, with a higher token. That one is
    stopped (SIGSTOP) past its ttl: the third leads. The stopped one is resumed (SIGCONT), finds by its own clock that
    its term is over, and writes all the same: the ledger refuses it.

    Every line is printed from an event that was seen. Everything is in a temporary directory, but for an election
    named coordkit-demo/… in the backend of --url.

    \b
    Exit codes: 0 all of it was seen, 1 a step failed, 2 bad usage, 69 the backend is unreachable or its client is
    not installed, 78 the backend refuses us or cannot keep the promise, 130 after Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="coordkit-demo-") as name, _signals_unwind():
        folder = Path(name)
        election = f"coordkit-demo/{system_chance().getrandbits(32):08x}"
        url = url or f"sqlite://{quote(name)}/election.db"
        address = _checked(url, election, ttl)
        waits = (patience, patience) if patience else (FIRST_PATIENCE, 15 + 6 * ttl)
        if not _play(folder, address, url, election, ttl, waits):
            raise click.exceptions.Exit(1)


def _play(folder: Path, address: Address, url: str, election: str, ttl: float, patience: tuple[float, float]) -> bool:
    """Whether the whole story was seen."""
    # SQLAlchemy is needed from here on; `_checked` has looked for it.
    from coordkit.cli.demo_ledger import Ledger
    from coordkit.cli.demo_stage import Stage, candidate_command
    from coordkit.cli.demo_story import Broken, Story

    screen = _Screen()
    place = str(folder / "ledger.db")
    files = [place, address.path] if address.scheme == "sqlite" else [place]
    command = candidate_command("--election", election, "--ttl", str(ttl), "--ledger", place)
    ledger = Ledger(place)
    try:
        ledger.create()
        screen.title(f"coordkit demo: three candidates, one seat, ttl {ttl:g} s, on {address.shown}")
        with Stage(folder, command, url) as stage:
            outcome = Story(stage, ledger, screen, election=election, files=files, ttl=ttl, patience=patience).play()
    except Broken as broken:
        screen.failure(broken.step, str(broken))
        return False
    finally:
        ledger.close()
    screen.title("all of it was seen")
    leaders = ", then ".join(f"{seat.holder} {seat.token}" for seat in outcome.seats)
    refused = ", ".join(f"{event.candidate} with token {event.number('token')}" for event in outcome.refused)
    screen.fact("leaders", f"{leaders}: tokens rise")
    screen.fact("kill -9", f"{outcome.after_kill:.2f} s until the next leader")
    screen.fact("SIGSTOP", f"{outcome.after_stop:.2f} s until the next leader; woken after {outcome.paused:.2f} s")
    screen.fact("ledger", f"{outcome.in_ledger} writes accepted, {len(outcome.refused)} refused ({refused})")
    screen.fact("journal", f"{len(outcome.seats)} terms, no two overlap")
    return True


def _checked(url: str, election: str, ttl: float) -> Address:
    """The address of a backend that three processes can contend on, and that answers."""
    address = parse(url)
    if address.scheme == "memory":
        raise click.UsageError("memory:// is seen by one process alone, and the demo's candidates are three processes")
    LeaderElector(url, election, ttl=ttl)  # inert: it only looks at its arguments
    try:
        fencing.SQLFence  # noqa: B018 - imported by being asked for
    except BackendNotInstalled as error:
        raise BackendNotInstalled(f"the demo's ledger needs SQLAlchemy: {error}") from error
    session = Session(url)
    try:
        session.open()
    finally:
        session.close()
    return address


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: by way of every `finally`."""

    def unwind(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Screen:
    """Colours on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def title(self, text: str) -> None:
        self._console.print(Text(f"\n{text}", "bold"))

    def line(self, at: float, who: str, text: str, style: str = "") -> None:
        self._console.print(Text.assemble((f"{at:7.2f} s  ", "dim"), (f"{who:<7}", "bold"), (text, style)))

    def fact(self, name: str, text: str) -> None:
        self._console.print(Text.assemble((f"  {name:<9}", "dim"), text))

    def failure(self, step: str, text: str) -> None:
        self._console.print(Text.assemble((f"\nFAILED at the step {step!r}: ", "bold red"), text))
