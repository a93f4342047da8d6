"""The rules of voting: whom to ask for which epoch, and what the answers mean. No I/O, no clock, no threads.

The rule: no server's clock decides. A seat that is held may be asked for only by who has watched its stamp, on its own
clock, for the record's full ttl; a voter that has lost its memory counts for nobody until its birth has been watched
for the quarantine. A win takes a strict majority of the voters that are configured, never of those that answer.

Why two never lead: let L's newest renewal have been sent at s, and C ask for votes. Their majorities share a voter.
If C's vote came first there, L's renewal was refused. Else C has named the stamp that L wrote, or a later one, and has
watched it from o >= s for a ttl of its own clock: when it asks, L has stopped by L's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from coordkit.backends.redis.layout import EPOCH_LIMIT, Record, Reply, Unreadable
from coordkit.lease import Instant, waited_for, waiting_time

CLOCKS_APART = 3600.0  # s: where a floor of the clock is needed, a voter whose clock is further from ours abstains


@dataclass(frozen=True, slots=True)
class Rules:
    """What all candidates of one cluster agree on."""

    voters: int  # as configured
    max_ttl: float  # the quarantine
    drift: float

    @property
    def majority(self) -> int:
        """How many voters it takes."""
        return self.voters // 2 + 1


@dataclass(frozen=True, slots=True)
class Marker:
    """How a voter stands, and since when this session has seen it stand so."""

    healthy: bool
    birth: str
    memory: str
    since: Instant  # after the reply that showed it first
    clock: int  # us: the later one of the voter's clock and ours, of answers in which they were not too far apart
    apart: float  # s between the two

    @property
    def server(self) -> str:
        """The same for one server under two names."""
        return self.memory.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Seat:
    """What a voter has recorded of one election, and since when this session has seen that stamp."""

    record: Record | Unreadable | None
    since: Instant


@dataclass(frozen=True, slots=True)
class View:
    """One voter in one election, as this session knows it. A voter that abstains has no marker."""

    marker: Marker | None
    seat: Seat | None


@dataclass(frozen=True, slots=True)
class Question:
    """What one voter is asked with: the watched stamp, the clock as floor, the birth whose quarantine is over."""

    stamp: str = ""
    clock: str = ""
    clock_of: str = ""  # the birth in which that clock was read: in a later one more may be forgotten than it covers
    birth: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """A majority is ready: ask these voters for their votes in this epoch."""

    epoch: int
    questions: Mapping[int, Question]
    vacant: bool  # nobody has to be believed dead for it: the seats were free


@dataclass(frozen=True, slots=True)
class Wait:
    """A majority may be ready after so many seconds, if nothing moves until then."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The next epoch would be one that Lua cannot count to."""


@dataclass(frozen=True, slots=True)
class Short:
    """Fewer than a majority of the voters can be counted at all."""

    counted: int


def marked(old: Marker | None, reply: Reply, wall: float, now: Instant) -> Marker | None:
    """What is known of a voter after this reply, which came at `now`; None: it abstains."""
    if reply.standing not in ("healthy", "unknown"):
        return None
    healthy = reply.standing == "healthy"
    apart = abs(reply.time / 1e6 - wall)
    clock = max(reply.time, round(wall * 1e6)) if apart <= CLOCKS_APART else 0
    if old is not None and (old.healthy, old.birth, old.memory) == (healthy, reply.birth, reply.memory):
        return replace(old, clock=max(old.clock, clock), apart=apart)
    return Marker(healthy, reply.birth, reply.memory, now, clock, apart)


def unseen(view: View, now: Instant) -> View:
    """A voter that answers, and shows no record: while it grants nothing it tells a leader nothing."""
    return replace(view, seat=Seat(None, now)) if view.marker is not None and view.seat is None else view


def seated(old: Seat | None, record: Record | Unreadable | None, now: Instant) -> Seat:
    """What is known of a seat after an answer, or a word, that showed this record at `now`."""
    before = old.record if old is not None else None
    if old is None or not isinstance(before, Record) or not isinstance(record, Record):
        return Seat(record, now)
    if not record.value and record.attempt == before.attempt:  # words come without it
        record = replace(record, value=before.value)
    same = (before.stamp, before.held) == (record.stamp, record.held)
    return Seat(record, old.since if same else now)


def older(record: Record | Unreadable | None, seen: Record | Unreadable | None) -> bool:
    """Whether a record was written before one that was seen: answers and words overtake each other."""
    if not (isinstance(record, Record) and isinstance(seen, Record) and record.birth == seen.birth):
        return False
    return record.highest < seen.highest or (record.attempt == seen.attempt and record.beat < seen.beat)


def forgotten(view: View) -> bool:
    """Whether earlier epochs of this election may be forgotten by this voter, so that the clock has to be the floor."""
    assert view.marker is not None
    assert view.seat is not None
    record = view.seat.record
    return not (isinstance(record, Record) and view.marker.healthy and record.birth == view.marker.birth)


def ready_in(view: View, rules: Rules, now: Instant) -> float | None:
    """Seconds until this voter may be asked for its vote; None: it cannot be counted."""
    marker, seat = view.marker, view.seat
    if marker is None or seat is None or isinstance(seat.record, Unreadable):
        return None
    if forgotten(view) and marker.apart > CLOCKS_APART:
        return None
    if not marker.healthy:
        return max(0.0, waiting_time(rules.max_ttl, rules.drift) - waited_for(marker.since, now))
    if forgotten(view) or seat.record is None or not seat.record.held:
        return 0.0
    return max(0.0, runs_for(seat, seat.record, rules, now))


def runs_for(seat: Seat, record: Record, rules: Rules, now: Instant) -> float:
    """Seconds for which the lease behind a held seat may still run; zero or less: its stamp was watched for its ttl."""
    return waiting_time(record.ttl, rules.drift) - waited_for(seat.since, now)


def question(view: View, rules: Rules, now: Instant) -> Question:
    """What a voter that is ready is asked with; a leader that enrols one asks with the same.

    A stamp is named only if it was itself watched long enough, whatever is believed of the marker: somebody else may
    have ended the quarantine that was watched, and this is his seat.
    """
    assert view.marker is not None
    assert view.seat is not None
    record = view.seat.record
    by_clock = forgotten(view) and view.marker.apart <= CLOCKS_APART
    over = isinstance(record, Record) and record.held and runs_for(view.seat, record, rules, now) <= 0
    return Question(
        record.stamp if isinstance(record, Record) and over else "",
        str(view.marker.clock) if by_clock else "",
        view.marker.birth if by_clock else "",
        view.marker.birth if not view.marker.healthy and ready_in(view, rules, now) == 0.0 else "",
    )


def plan(views: Sequence[View], rules: Rules, now: Instant) -> Ask | Wait | Short | Exhausted:
    """What to do about an election in which this is known."""
    waits = {place: left for place, view in enumerate(views) if (left := ready_in(view, rules, now)) is not None}
    if len(servers(views, waits)) < rules.majority:
        return Short(len(servers(views, waits)))
    ready = [place for place, left in waits.items() if left == 0.0]
    if len(servers(views, ready)) < rules.majority:
        later = sorted(waits, key=waits.__getitem__)
        enough = next(end for end in range(1, len(later) + 1) if len(servers(views, later[:end])) >= rules.majority)
        return Wait(waits[later[enough - 1]])
    # The others are asked, too: one may have been left meanwhile, and who is not ready refuses by itself.
    questions = {place: question(views[place], rules, now) for place in waits}
    known = [view.seat.record.highest for view in views if view.seat and isinstance(view.seat.record, Record)]
    clocks = [int(each.clock) for each in questions.values() if each.clock]
    epoch = max([0, *known, *clocks]) + 1
    if epoch >= EPOCH_LIMIT:
        return Exhausted()
    vacant = not any(
        isinstance(record := seat.record, Record) and record.held
        for place in ready
        if (seat := views[place].seat) is not None
    )
    return Ask(epoch, questions, vacant)


def servers(views: Sequence[View], places: Collection[int]) -> set[str]:
    """The servers behind these voters: one that has two names has one vote."""
    return {marker.server for place in places if (marker := views[place].marker) is not None}


def holder(views: Sequence[View], rules: Rules) -> Record | None:
    """Whose seats a majority of the voters records: who leads, unless that is over. None: nobody."""
    seats: dict[tuple[int, str], list[int]] = {}
    records: dict[tuple[int, str], Record] = {}
    for place, view in enumerate(views):
        record = view.seat.record if view.seat else None
        if isinstance(record, Record) and record.held and view.marker and not forgotten(view):
            seats.setdefault((record.epoch, record.attempt), []).append(place)
            records[record.epoch, record.attempt] = record
    for whose, places in seats.items():
        if len(servers(views, places)) >= rules.majority:
            return records[whose]
    return None


class Count:
    """The votes, renewals or releases of one round, as the answers come in. One server counts once."""

    def __init__(self, rules: Rules, asked: Collection[int]) -> None:
        self._rules = rules
        self._pending = set(asked)
        self._servers: set[str] = set()
        self._gone: set[str] = set()

    def heard(self, place: int, server: str, *, granted: bool, gone: bool = False) -> None:
        """A voter has answered."""
        self._pending.discard(place)
        if granted:
            self._servers.add(server)
        if gone:
            self._gone.add(server)

    def silent(self, place: int) -> None:
        """A voter will not answer, or cannot be counted."""
        self._pending.discard(place)

    @property
    def won(self) -> bool:
        """Whether a strict majority of the configured voters has granted it."""
        return len(self._servers) >= self._rules.majority

    @property
    def over(self) -> bool:
        """Whether no answer that is still out can change the outcome."""
        return self.won or len(self._servers) + len(self._pending) < self._rules.majority

    @property
    def lost(self) -> bool:
        """Whether so many say that it is another's, or gone, that a majority can be had no more."""
        return self._rules.voters - len(self._gone) < self._rules.majority
