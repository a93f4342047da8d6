"""The story of the demo, and its judge: what is done to the candidates, and what must be seen of them in return.

The rule: a line is shown when its event was seen, and never because it ought to come now. An event that does not come
in time, or one that must not come, ends the story at its step.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coordkit.audit import judge, parse
from coordkit.cli.demo_ledger import Ledger
from coordkit.cli.demo_stage import EXIT, Event, Stage, StageError
from coordkit.clock import host_boottime
from coordkit.model import FencingToken

CANDIDATES = ("ada", "bob", "eve")
START_PATIENCE = 30.0  # s: starting processes is no matter of the backend's
STOPS = 5  # how often a leader that was stopped inside a transaction is let on and stopped again


class Show(Protocol):
    """Where the story is shown."""

    def line(self, at: float, who: str, text: str, style: str = "") -> None:
        """Something happened at a moment, in seconds since the story began."""
        ...


class Broken(Exception):
    """A step of the story did not go as it must."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


@dataclass(slots=True)
class Seat:
    """A term as it was seen."""

    holder: str
    token: int
    since: float


@dataclass(slots=True)
class Outcome:
    """What a whole story has shown; times in seconds."""

    seats: list[Seat] = field(default_factory=list)
    written: list[tuple[str, int, int]] = field(default_factory=list)  # writer, token, number: reported as accepted
    refused: list[Event] = field(default_factory=list)
    after_kill: float = 0.0
    after_stop: float = 0.0
    paused: float = 0.0
    in_ledger: int = 0


class Story:
    """Plays the story once."""

    def __init__(
        self,
        stage: Stage,
        ledger: Ledger,
        show: Show,
        *,
        election: str,
        files: Sequence[str],
        ttl: float,
        patience: tuple[float, float],
    ) -> None:
        self._stage = stage
        self._ledger = ledger
        self._show = show
        self._election = election
        self._files = files  # SQLite files that a stopped process might have locked for all
        self._ttl = ttl
        self._first_patience, self._patience = patience
        self._began = host_boottime()
        self._step = "start"
        self._leading: str | None = None
        self._gone: set[str] = set()  # whose end is ours
        self._deposed: dict[str, float] = {}  # stopped leaders, and since when
        self.outcome = Outcome()

    def play(self) -> Outcome:
        """The whole failure path. Raises `Broken` at the step that failed."""
        try:
            self._start()
            first = self._election_won("first leader", self._first_patience)
            second = self._kill(first)
            third = self._pause(second)
            self._wake(second, third)
            self._stale_write(second, third)
            self._dismiss(third)
            self._check_ledger()
            self._check_journal()
        except StageError as error:
            raise self._broken(str(error)) from error
        return self.outcome

    # --- the steps -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        waiting = {label: self._stage.start(label) for label in CANDIDATES}
        while waiting:
            ready = self._expect("ready", None, f"not ready: {', '.join(waiting)}", START_PATIENCE)
            self._tell(ready.at, ready.candidate, f"started, process {waiting.pop(ready.candidate)}")
        for label in CANDIDATES:
            self._stage.let_contend(label)

    def _election_won(self, step: str, patience: float) -> Seat:
        """A candidate is elected, the ledger's fence has seen its token, and its first write is accepted."""
        self._step = step
        if self._leading is None:  # else it was seen while something else was waited for
            self._expect("elected", None, "nobody was elected", patience)
        seat = self.outcome.seats[-1]
        newest = self._ledger.newest(self._election)
        if newest != FencingToken(self._election, seat.token):
            raise self._broken(f"the fence has not seen the token of {seat.holder} before its work: it has {newest}")
        self._tell(
            seat.since, seat.holder, f"leads with token {seat.token}, which the ledger's fence has seen", "green"
        )
        wrote = self._expect("wrote", seat.holder, f"{seat.holder} leads and does not write", patience)
        self._tell(wrote.at, seat.holder, f"writes row {wrote.number('number')}: accepted")
        return seat

    def _kill(self, leader: Seat) -> Seat:
        self._step = "kill -9"
        self._gone.add(leader.holder)
        at = self._stage.kill(leader.holder)
        self._leading = None  # a dying process may wait for the disk longer than its lease lasts
        end = self._expect(EXIT, leader.holder, f"{leader.holder} lives on after kill -9", self._patience)
        if end.number("code") != -9:
            raise self._broken(f"{leader.holder} ended with {end.number('code')}, not by signal 9")
        self._tell(at, leader.holder, "killed (kill -9): its lease has to run out", "red")
        successor = self._election_won("leader after kill -9", self._patience)
        self.outcome.after_kill = successor.since - at
        return successor

    def _pause(self, leader: Seat) -> Seat:
        self._step = "SIGSTOP"
        at = self._stop(leader.holder)
        self._leading, self._deposed[leader.holder] = None, at
        self._tell(at, leader.holder, "stopped (SIGSTOP): it can neither act nor give up", "red")
        successor = self._election_won("leader after SIGSTOP", self._patience)
        self.outcome.after_stop = successor.since - at
        self._step = "pause past the ttl"
        now = successor.since
        while now - at <= self._ttl:
            now = self._expect("wrote", successor.holder, f"{successor.holder} does not write", self._patience).at
        return successor

    def _stop(self, leader: str) -> float:
        """Stop a leader, but not inside a transaction of SQLite: that would lock the file for everybody."""
        for _ in range(STOPS):
            self._expect("wrote", leader, f"{leader} does not write", self._patience)
            at = self._stage.stop(leader)
            if all(unlocked(file, self._ttl / 8) for file in self._files):
                return at
            self._tell(at, leader, "stopped inside a transaction, which locks SQLite for all: let on, and again")
            self._stage.resume(leader)
        raise self._broken(f"{leader} was inside a transaction each of {STOPS} times that it was stopped")

    def _wake(self, old: Seat, leader: Seat) -> None:
        self._step = "wake-up"
        at = self._stage.resume(old.holder)
        self.outcome.paused = at - self._deposed[old.holder]
        self._tell(at, old.holder, f"resumed (SIGCONT) after {self.outcome.paused:.2f} s", "yellow")
        over = self._expect("over", old.holder, f"{old.holder} does not notice that its term is over", self._patience)
        word = (over.number("token"), over.fields["state"], over.fields["reason"], over.fields["remaining"])
        if word != (old.token, "lost", "expired", 0.0):
            raise self._broken(f"{old.holder} does not know by its clock that its term is over; it says {word}")
        if self._leading != leader.holder:
            raise self._broken(f"{leader.holder} leads no more")
        self._tell(over.at, old.holder, "knows by its own clock that its term is over: lost, expired", "yellow")

    def _stale_write(self, old: Seat, leader: Seat) -> None:
        self._step = "stale write"
        message = f"{old.holder} did not try to write with its old token"
        refused = self._expect("refused", old.holder, message, self._patience)
        offered, newest = refused.number("token"), refused.number("newest")
        if (offered, newest) != (old.token, leader.token):
            raise self._broken(f"refused was token {offered} for {newest}, not {old.token} for {leader.token}")
        self._tell(refused.at, old.holder, f"writes all the same, with token {offered}", "yellow")
        self._tell(refused.at, "ledger", f"refuses it: StaleToken, {newest} was seen already", "green")
        self._expect("wrote", leader.holder, f"{leader.holder} cannot write any more", self._patience)

    def _dismiss(self, leader: Seat) -> None:
        """SIGTERM to all that live, the leader last: nobody is to succeed it."""
        self._step = "end"
        living = [label for label in CANDIDATES if label not in self._gone and label != leader.holder]
        for label in (*living, leader.holder):
            self._gone.add(label)
            self._stage.dismiss(label)
            end = self._expect(EXIT, label, f"{label} does not end after SIGTERM", self._patience)
            if end.number("code") != 0:
                raise self._broken(f"{label} ended with {end.number('code')} after SIGTERM")

    def _check_ledger(self) -> None:
        self._step = "ledger"
        rows = self._ledger.rows()
        self.outcome.in_ledger = len(rows)
        tokens = [row.token for row in rows]
        if tokens != sorted(tokens):
            raise self._broken(f"the tokens of the accepted writes fall: {tokens}")
        kept = {(row.writer, row.token, row.number) for row in rows}
        if missing := set(self.outcome.written) - kept:
            raise self._broken(f"writes that were accepted are not in the ledger: {sorted(missing)}")
        seats = {(seat.holder, seat.token) for seat in self.outcome.seats}
        if foreign := {(row.writer, row.token) for row in rows} - seats:
            raise self._broken(f"the ledger has writes of nobody's term: {sorted(foreign)}")

    def _check_journal(self) -> None:
        self._step = "journal"
        records, cut = parse(self._stage.journal.read_bytes() if self._stage.journal.exists() else b"")
        report = judge(records, cut=cut)
        for violation in report.violations:
            raise self._broken(f"the candidates' journal shows a violation: {violation.message}")
        on_file = {span.token for span in report.spans}
        if missing := [seat.token for seat in self.outcome.seats if seat.token not in on_file]:
            raise self._broken(f"the candidates' journal does not have the terms {missing}")

    # --- what is seen ----------------------------------------------------------------------------------------

    def _expect(self, name: str, candidate: str | None, otherwise: str, seconds: float) -> Event:
        """The next such event, of this candidate or of any. Every event on the way is judged."""
        start = host_boottime()
        while (left := seconds - (host_boottime() - start)) > 0:
            event = self._stage.next_event(left)
            if event is None:
                break
            self._judge(event, expected=name)
            if event.name == name and candidate in (None, event.candidate):
                return event
        raise self._broken(f"{otherwise}, waited {seconds:g} s")

    def _judge(self, event: Event, expected: str) -> None:
        """Keep the record of what is so, and end the story at what must not be."""
        who = event.candidate
        judges: dict[str, Callable[[Event], None]] = {
            "elected": self._judge_election,
            "wrote": self._judge_write,
            "accepted": self._judge_stale_write,
            "refused": self.outcome.refused.append,
        }
        if event.name in judges:
            judges[event.name](event)
        elif event.name == "over" and who == self._leading and who not in self._gone:
            reason = event.fields["reason"]
            raise self._broken(
                f"{who} has lost its term ({reason}) though nobody disturbed it: is the ttl too short for this machine?"
            )
        elif event.name == EXIT and who not in self._gone:
            raise self._broken(f"{who} ended by itself, with exit code {event.number('code')}", who)
        elif event.name == "over" and expected not in ("over", EXIT):
            raise self._broken(f"{who} says that its term is over, and it has none")

    def _judge_election(self, event: Event) -> None:
        seat = Seat(event.candidate, event.number("token"), event.at)
        if self._leading is not None:
            holder = self.outcome.seats[-1]
            raise self._broken(
                f"two leaders: {seat.holder} with token {seat.token} while {holder.holder} leads with {holder.token}"
            )
        for earlier in self.outcome.seats:
            if seat.token <= earlier.token:
                raise self._broken(
                    f"the token of {seat.holder}, {seat.token}, is not higher than "
                    f"{earlier.token}, which {earlier.holder} had before"
                )
        self._leading = seat.holder
        self.outcome.seats.append(seat)

    def _judge_write(self, event: Event) -> None:
        if event.at > self._deposed.get(event.candidate, event.at):
            self._judge_stale_write(event)
        self.outcome.written.append((event.candidate, event.number("token"), event.number("number")))

    def _judge_stale_write(self, event: Event) -> None:
        raise self._broken(
            f"the ledger has accepted row {event.number('number')} of {event.candidate} "
            f"under its old token {event.number('token')}"
        )

    def _tell(self, at: float, who: str, text: str, style: str = "") -> None:
        self._show.line(at - self._began, who, text, style)

    def _broken(self, message: str, candidate: str = "") -> Broken:
        lines = self._stage.log_of(candidate) if candidate else []
        return Broken(self._step, "\n".join([message, *(f"    {line}" for line in lines)]))


def unlocked(file: str, seconds: float) -> bool:
    """Whether the write lock of an SQLite file can be had within some seconds."""
    connection = sqlite3.connect(file, timeout=seconds, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    finally:
        connection.close()
    return True
