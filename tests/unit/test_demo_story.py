"""The judge of the demo: a good story passes, and whatever is wrong in it ends it at its step, with the right words.

The candidates are played here, on a clock of their own; each test lets one thing go wrong.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from coordkit import FencingToken
from coordkit.cli import demo_story
from coordkit.cli.demo_ledger import Ledger, Row
from coordkit.cli.demo_stage import EXIT, Event, Stage, StageError
from coordkit.cli.demo_story import Broken, Outcome, Story

TOKENS = {"ada": 100, "bob": 200, "eve": 300}
TTL = 2.0
ELECTION = "e"

Alter = Callable[[Event], Iterable[Event]]


def unaltered(event: Event) -> Iterable[Event]:
    return [event]


class Play:
    """Stage, ledger and screen at once: candidates that do what candidates do, but for what `alter` makes of it."""

    def __init__(self, journal: Path, alter: Alter = unaltered) -> None:
        self.now = 1000.0
        self.journal = journal
        self.accepted: list[Row] = []
        self.seen: FencingToken | None = None
        self.shown: list[str] = []
        self.leader: str | None = None
        self.resumed: list[str] = []
        self.killed: list[str] = []
        self._alter = alter
        self._queue: deque[Event] = deque()

    # --- the stage ---

    def start(self, label: str) -> int:
        self._happens(label, "ready")
        return 4711

    def let_contend(self, label: str) -> None:
        if label == "eve":
            self._elect("ada")

    def next_event(self, seconds: float) -> Event | None:
        if not self._queue and self.leader is not None:
            self.now += 0.25
            self._write(self.leader)
        if not self._queue:
            self.now += seconds
            return None
        return self._queue.popleft()

    def kill(self, label: str) -> float:
        self.killed.append(label)
        self._happens(label, EXIT, code=-9)
        if self._queue:  # else it lives on
            self._elect("bob")
        return self.now

    def stop(self, label: str) -> float:
        self._elect("eve")
        return self.now - 1.9

    def resume(self, label: str) -> float:
        self.resumed.append(label)
        self._happens(label, "over", token=TOKENS[label], state="lost", reason="expired", remaining=0.0)
        self._happens(label, "refused", token=TOKENS[label], newest=TOKENS["eve"])
        return self.now

    def dismiss(self, label: str) -> None:
        if label == self.leader:
            self.leader = None
        self._happens(label, EXIT, code=0)

    def log_of(self, label: str) -> list[str]:
        return [f"the log of {label}"]

    # --- the ledger ---

    def rows(self) -> list[Row]:
        return self.accepted

    def newest(self, election: str) -> FencingToken | None:
        return self.seen

    # --- the screen ---

    def line(self, at: float, who: str, text: str, style: str = "") -> None:
        self.shown.append(f"{who} {text}")

    # --- what happens ---

    def _elect(self, label: str) -> None:
        self.now += 2.0
        self.leader = label
        self.seen = FencingToken(ELECTION, TOKENS[label])
        self._happens(label, "elected", token=TOKENS[label], remaining=1.9)

    def _write(self, label: str) -> None:
        row = Row(len(self.accepted) + 1, TOKENS[label], label)
        self.accepted.append(row)
        self._happens(label, "wrote", token=row.token, number=row.number)

    def _happens(self, label: str, name: str, **fields: object) -> None:
        self._queue.extend(self._alter(Event(label, name, self.now, fields)))


def a_journal(path: Path) -> Path:
    """What three candidates leave behind: the first killed, the second stopped, the third dismissed."""
    common = {"pid": 1, "mono": 0.0, "boot_id": "b", "election": ELECTION}
    lines = []
    for number, (label, token) in enumerate(TOKENS.items()):
        times = {"boot": 10.0 * number + 1, "sent": 10.0 * number, "deadline": 10.0 * number + 2}
        lines.append({"event": "won", **common, "entry": label, "token": token, "ttl": TTL, **times})
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return path


@dataclass(slots=True)
class Played:
    play: Play
    outcome: Outcome | None = None
    broken: Broken | None = None


@pytest.fixture
def perform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Played]:
    def run(
        alter: Alter = unaltered, *, play: Play | None = None, files: tuple[str, ...] = (), ttl: float = TTL
    ) -> Played:
        stage = play or Play(a_journal(tmp_path / "journal.jsonl"), alter)
        monkeypatch.setattr(demo_story, "host_boottime", lambda: stage.now)
        story = Story(
            cast(Stage, stage), cast(Ledger, stage), stage, election=ELECTION, files=files, ttl=ttl, patience=(9.0, 9.0)
        )
        played = Played(stage)
        try:
            played.outcome = story.play()
        except Broken as broken:
            played.broken = broken
        return played

    return run


def test_a_good_story_is_told_whole(perform: Callable[..., Played]) -> None:
    played = perform()
    assert played.broken is None, played.broken
    outcome = played.outcome
    assert outcome is not None
    assert [(seat.holder, seat.token) for seat in outcome.seats] == list(TOKENS.items())
    assert (outcome.after_kill, outcome.after_stop) == pytest.approx((0.0, 1.9))
    assert outcome.paused > 0
    assert [(event.candidate, event.number("newest")) for event in outcome.refused] == [("bob", 300)]
    assert outcome.in_ledger == len(played.play.accepted) == len(outcome.written) > 3
    assert played.play.killed == ["ada"]
    assert played.play.resumed == ["bob"]
    assert played.play.shown == [
        *(f"{label} started, process 4711" for label in TOKENS),
        "ada leads with token 100, which the ledger's fence has seen",
        "ada writes row 1: accepted",
        "ada killed (kill -9): its lease has to run out",
        "bob leads with token 200, which the ledger's fence has seen",
        "bob writes row 2: accepted",
        "bob stopped (SIGSTOP): it can neither act nor give up",
        "eve leads with token 300, which the ledger's fence has seen",
        "eve writes row 4: accepted",
        f"bob resumed (SIGCONT) after {outcome.paused:.2f} s",
        "bob knows by its own clock that its term is over: lost, expired",
        "bob writes all the same, with token 200",
        "ledger refuses it: StaleToken, 300 was seen already",
    ]


# -- what the candidates may do wrong --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wrong:
    """One event replaced by others, or by none."""

    name: str
    candidate: str
    instead: tuple[tuple[str, dict[str, object]], ...]  # names and fields; an empty name keeps the event's own
    step: str
    message: str
    again: bool = field(default=False)  # every such event, not the first alone

    def __call__(self) -> Alter:
        done: list[Event] = []

        def alter(event: Event) -> Iterable[Event]:
            if (event.name, event.candidate) != (self.name, self.candidate) or (done and not self.again):
                return [event]
            done.append(event)
            return [
                replace(event, name=name or event.name, fields={**event.fields, **fields})
                for name, fields in self.instead
            ]

        return alter


NEVER: tuple[tuple[str, dict[str, object]], ...] = ()
EXITED: tuple[tuple[str, dict[str, object]], ...] = ((EXIT, {"code": 3}),)

WRONG = {
    "never ready": Wrong("ready", "bob", NEVER, "start", "not ready: bob, waited 30 s"),
    "ends at once": Wrong("ready", "eve", EXITED, "start", "eve ended by itself, with exit code 3\n    the log of eve"),
    "never elected": Wrong("elected", "ada", NEVER, "first leader", "nobody was elected, waited 9 s"),
    "never writes": Wrong("wrote", "ada", NEVER, "first leader", "ada leads and does not write", again=True),
    "lives on": Wrong(EXIT, "ada", NEVER, "kill -9", "ada lives on after kill -9"),
    "another death": Wrong(EXIT, "ada", (("", {"code": 0}),), "kill -9", "ada ended with 0, not by signal 9"),
    "no successor": Wrong("elected", "bob", NEVER, "leader after kill -9", "nobody was elected"),
    "same token": Wrong(
        *("elected", "bob", (("", {"token": 100}),), "leader after kill -9"),
        "the token of bob, 100, is not higher than 100, which ada had before",
    ),
    "lower token than the first": Wrong(
        *("elected", "eve", (("", {"token": 99}),), "leader after SIGSTOP"),
        "the token of eve, 99, is not higher than 100, which ada had before",
    ),
    "elected twice": Wrong(
        *("elected", "bob", (("", {}), ("", {"token": 201})), "leader after kill -9"),
        "two leaders: bob with token 201 while bob leads with 200",
    ),
    "lost for no reason": Wrong(
        *("wrote", "bob", (("over", {"reason": "revoked"}),), "leader after kill -9"),
        "bob has lost its term (revoked) though nobody disturbed it",
    ),
    "no third leader": Wrong("elected", "eve", NEVER, "leader after SIGSTOP", "nobody was elected"),
    "the old one says nothing": Wrong("over", "bob", NEVER, "wake-up", "bob does not notice that its term is over"),
    "the old one is told": Wrong(
        *("over", "bob", (("", {"reason": "revoked"}),), "wake-up"),
        "bob does not know by its clock that its term is over; it says (200, 'lost', 'revoked', 0.0)",
    ),
    "the old one believes": Wrong(
        *("over", "bob", (("", {"state": "leading", "reason": None, "remaining": 1.0}),), "wake-up"),
        "bob does not know by its clock that its term is over; it says (200, 'leading', None, 1.0)",
    ),
    "no stale write": Wrong("refused", "bob", NEVER, "stale write", "bob did not try to write with its old token"),
    "stale write accepted": Wrong(
        *("refused", "bob", (("accepted", {"number": 9}),), "stale write"),
        "the ledger has accepted row 9 of bob under its old token 200",
    ),
    "the old one goes on writing": Wrong(
        *("over", "bob", (("wrote", {"number": 9}),), "wake-up"),
        "the ledger has accepted row 9 of bob under its old token 200",
    ),
    "refused for another reason": Wrong(
        *("refused", "bob", (("", {"newest": 250}),), "stale write"),
        "refused was token 200 for 250, not 200 for 300",
    ),
    "stays": Wrong(EXIT, "eve", NEVER, "end", "eve does not end after SIGTERM"),
    "ends badly": Wrong(EXIT, "bob", (("", {"code": 1}),), "end", "bob ended with 1 after SIGTERM"),
    "says over without a term": Wrong(
        *("elected", "bob", (("over", {"reason": "expired"}), ("", {})), "leader after kill -9"),
        "bob says that its term is over, and it has none",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_candidate_does_wrong_ends_the_story_at_its_step(name: str, perform: Callable[..., Played]) -> None:
    wrong = WRONG[name]
    broken = perform(wrong()).broken
    assert broken is not None
    assert broken.step == wrong.step
    assert str(broken).startswith(wrong.message), broken


def test_the_first_leader_losing_its_seat_to_the_others_is_two_leaders(perform: Callable[..., Played]) -> None:
    def alter(event: Event) -> Iterable[Event]:
        usurper = Event("eve", "elected", event.at, {"token": 150})
        return [event, usurper] if (event.name, event.candidate) == ("elected", "ada") else [event]

    broken = perform(alter).broken
    assert broken is not None
    assert str(broken) == "two leaders: eve with token 150 while ada leads with 100"


class Buried(Play):
    """A killed process that waits for the disk ends later than its lease."""

    def kill(self, label: str) -> float:
        at = self.now
        self._elect("bob")
        self._write("bob")
        self._happens(label, EXIT, code=-9)
        return at


def test_a_successor_of_one_who_has_not_ended_yet_is_no_second_leader(
    perform: Callable[..., Played], tmp_path: Path
) -> None:
    played = perform(play=Buried(a_journal(tmp_path / "journal.jsonl")))
    assert played.outcome is not None, played.broken
    assert played.outcome.after_kill == pytest.approx(2.0)
    killed = played.play.shown.index("ada killed (kill -9): its lease has to run out")
    assert played.play.shown[killed + 1].startswith("bob leads with token 200")


def test_the_third_leader_must_lead_when_the_second_wakes(perform: Callable[..., Played]) -> None:
    def alter(event: Event) -> Iterable[Event]:
        over = Event("eve", "over", event.at, {"reason": "expired"})
        return [over, event] if (event.name, event.candidate) == ("over", "bob") else [event]

    broken = perform(alter).broken
    assert broken is not None
    assert (broken.step, str(broken)[:40]) == ("wake-up", "eve has lost its term (expired) though n")


# -- what the stage, the ledger and the journal may show -------------------------------------------------


class NotStopped(Play):
    def stop(self, label: str) -> float:
        raise StageError("process 4711 is not stopped 5 s after the signal")


class NotResumed(Play):
    def resume(self, label: str) -> float:
        raise StageError("process 4711 is not resumed 5 s after the signal")


class Unfenced(Play):
    def newest(self, election: str) -> FencingToken | None:
        return None


class Falling(Play):
    def rows(self) -> list[Row]:
        return self.accepted[::-1]


class Forgetful(Play):
    def rows(self) -> list[Row]:
        return self.accepted[:-1]


class Intruded(Play):
    def rows(self) -> list[Row]:
        return [*self.accepted, Row(99, 999, "mallory")]


@pytest.mark.parametrize(
    ("kind", "step", "message"),
    [
        (NotStopped, "SIGSTOP", "process 4711 is not stopped 5 s after the signal"),
        (NotResumed, "wake-up", "process 4711 is not resumed 5 s after the signal"),
        (Unfenced, "first leader", "the fence has not seen the token of ada before its work: it has None"),
        (Falling, "ledger", "the tokens of the accepted writes fall: [300,"),
        (Forgetful, "ledger", "writes that were accepted are not in the ledger: [('eve', 300,"),
        (Intruded, "ledger", "the ledger has writes of nobody's term: [('mallory', 999)]"),
    ],
)
def test_what_is_read_wrong_ends_the_story_at_its_step(
    kind: type[Play], step: str, message: str, perform: Callable[..., Played], tmp_path: Path
) -> None:
    broken = perform(play=kind(a_journal(tmp_path / "journal.jsonl"))).broken
    assert broken is not None
    assert broken.step == step
    assert str(broken).startswith(message), broken


def test_a_journal_that_shows_an_overlap_ends_the_story(perform: Callable[..., Played], tmp_path: Path) -> None:
    journal = a_journal(tmp_path / "overlap.jsonl")
    journal.write_text(journal.read_text().replace('"boot":11.0', '"boot":1.5'))
    broken = perform(play=Play(journal)).broken
    assert broken is not None
    assert (broken.step, "bob led while ada did" in str(broken)) == ("journal", True)


@pytest.mark.parametrize("kept", [0, 2])
def test_a_journal_that_lacks_terms_ends_the_story(kept: int, perform: Callable[..., Played], tmp_path: Path) -> None:
    journal = a_journal(tmp_path / "short.jsonl")
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:kept]))
    if not kept:
        journal.unlink()
    broken = perform(play=Play(journal)).broken
    assert broken is not None
    assert str(broken) == f"the candidates' journal does not have the terms {[100, 200, 300][kept:]}"


# -- a leader stopped inside a transaction ---------------------------------------------------------------


class Locking(Play):
    """A stopped leader holds the write lock of a file, the first few times."""

    def __init__(self, journal: Path, file: str, times: int) -> None:
        super().__init__(journal)
        self.holder = sqlite3.connect(file, isolation_level=None)
        self.holder.execute("CREATE TABLE t (x)")
        self.times = times

    def stop(self, label: str) -> float:
        if self.times:
            self.times -= 1
            self.holder.execute("BEGIN IMMEDIATE")
            return self.now
        return super().stop(label)

    def resume(self, label: str) -> float:
        if self.holder.in_transaction:
            self.holder.execute("ROLLBACK")
            return self.now
        return super().resume(label)


def test_a_leader_stopped_inside_a_transaction_is_let_on_and_stopped_again(
    perform: Callable[..., Played], tmp_path: Path
) -> None:
    file = str(tmp_path / "ledger.db")
    play = Locking(a_journal(tmp_path / "journal.jsonl"), file, times=2)
    try:
        played = perform(play=play, files=(file,), ttl=0.08)
    finally:
        play.holder.close()
    assert played.broken is None
    assert sum("inside a transaction" in line for line in play.shown) == 2


def test_a_leader_that_is_always_inside_a_transaction_ends_the_story(
    perform: Callable[..., Played], tmp_path: Path
) -> None:
    file = str(tmp_path / "ledger.db")
    play = Locking(a_journal(tmp_path / "journal.jsonl"), file, times=99)
    try:
        broken = perform(play=play, files=(file,), ttl=0.08).broken
    finally:
        play.holder.close()
    assert broken is not None
    assert (broken.step, str(broken)) == (
        "SIGSTOP",
        "bob was inside a transaction each of 5 times that it was stopped",
    )


def test_a_file_that_cannot_be_asked_for_its_lock_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        demo_story.unlocked(str(tmp_path / "absent" / "ledger.db"), 0.1)
