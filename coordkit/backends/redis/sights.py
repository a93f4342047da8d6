"""What one session has seen of its voters and elections, and since when. No I/O.

The rule: what was seen counts from after it came. A sighting belongs to the session, so that campaigns that are shorter
than a ttl take over from the dead all the same; it never says that somebody is alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from coordkit.backends.contract import Host
from coordkit.backends.redis.ballot import CLOCKS_APART, Marker, Rules, Seat, View, forgotten, marked, older, seated
from coordkit.backends.redis.layout import Record, Reply, Unreadable, Word
from coordkit.errors import BackendError, Misconfigured, Rejected, Unavailable
from coordkit.lease import waited_for, waiting_time

MOST_ELECTIONS: Final = 10_000  # without a candidate here, of which sightings are kept
MOST_STRANGERS: Final = 100  # births of one voter that are known to be none of its


class Sights:
    """One entry for each voter, in the order of the URL."""

    def __init__(self, host: Host, rules: Rules, names: Sequence[str], config: str) -> None:
        self.markers: list[Marker | None] = [None] * len(names)
        self.problems: list[BackendError | None] = [None] * len(names)
        self._latest: list[Reply | None] = [None] * len(names)
        self._host = host
        self._rules = rules
        self._names = names
        self._config = config
        self._seats: dict[str, list[Seat | None]] = {}
        self._left: dict[str, None] = {}  # elections in which nobody here takes part, the one left last at the end
        self._strangers: list[dict[str, None]] = [{} for _ in names]

    def replied(self, place: int, reply: Reply) -> Marker | None:
        """A voter has answered; None: it abstains. Many elections may have one reply: it is looked at once."""
        old = self.markers[place]
        if reply is self._latest[place] and self.problems[place] is None:
            return old
        self._latest[place] = reply
        marker = marked(old, reply, self._host.clock.wall(), self._host.clock.now())
        self.markers[place] = marker
        if old is not None and marker is not None and old.birth != marker.birth:
            told = "has lost its memory" if marker.birth and not marker.healthy else "has a new memory"
            self._host.log.warning("the voter %s %s", self._names[place], told)
        twin = self._twin(place)
        self._trouble(place, self._objection(place, reply) or twin)
        return None if twin else marker

    def failed(self, place: int, error: BackendError) -> None:
        """A voter could not be asked, or has not answered. What was seen of it before stands."""
        self._trouble(place, error)

    def recorded(self, place: int, election: str, record: Record | Unreadable | None) -> bool:
        """What a voter has recorded of an election was shown just now; False: too late for anybody to want it."""
        if (seats := self._seats.get(election)) is None or older(record, self.record(place, election)):
            return False
        seats[place] = seated(seats[place], record, self._host.clock.now())
        return True

    def is_of_voter(self, place: int, record: Record) -> bool:
        """Whether a published record is of the memory that this voter was seen with.

        Databases and keys of one server share its channels: who leads in another one is nobody here.
        """
        marker = self.markers[place]
        return marker is not None and marker.birth == record.birth

    def is_stranger(self, place: int, record: Record) -> bool:
        """Whether such a memory was heard of before; if not, it may be a new one of this voter: look there."""
        strangers = self._strangers[place]
        if record.birth in strangers:
            return True
        if len(strangers) >= MOST_STRANGERS:
            strangers.pop(next(iter(strangers)))
        strangers[record.birth] = None
        return False

    def not_found_out(self, place: int) -> None:
        """Which memory a voter has now could not be asked: the next word of any other one is news again."""
        self._strangers[place].clear()

    def heard(self, place: int, election: str, word: Word) -> bool:
        """As `recorded`, for a published word; False: it tells of something older than what was seen."""
        record = word.record
        if record is None or not self.recorded(place, election, record):
            return False
        if word.verb == "proclaimed":
            self._seats[election][place] = Seat(record, self._host.clock.now())  # what was said before is over
        return True

    def follow(self, election: str) -> None:
        """From now on what is seen of it is kept."""
        self._left.pop(election, None)
        self._seats.setdefault(election, [None] * len(self._names))

    def forget_free(self, election: str) -> None:
        """Nobody here takes part any more: what was seen is kept only where somebody's seat may have to run out."""
        seats = self._seats.get(election, [])
        if not any(seat and isinstance(seat.record, Record) and seat.record.held for seat in seats):
            self._seats.pop(election, None)
            return
        self._left[election] = None
        if len(self._left) > MOST_ELECTIONS:
            oldest = next(iter(self._left))
            del self._left[oldest]
            del self._seats[oldest]

    def record(self, place: int, election: str) -> Record | Unreadable | None:
        """The newest that was seen there."""
        seats = self._seats.get(election)
        seat = seats[place] if seats else None
        return seat.record if seat else None

    def views(self, election: str) -> list[View]:
        """What is known of one election. A voter with a problem is not counted."""
        seats = self._seats.get(election) or [None] * len(self._names)
        return [
            View(None if problem else marker, seat)
            for marker, problem, seat in zip(self.markers, self.problems, seats, strict=True)
        ]

    def short(self, election: str | None, operation: str) -> BackendError:
        """Why fewer than a majority of the voters can be counted."""
        problems: list[BackendError | None] = list(self.problems)
        if election is not None:
            for place, view in enumerate(self.views(election)):
                problems[place] = problems[place] or self._refusal(place, view)
        twice = self.twice()
        if twice is not None:
            return twice
        told = "; ".join(str(each) for each in problems if each) or "too few of them have answered"
        needed = f"{self._rules.majority} of {self._rules.voters} voters are needed: {told}"
        for kind in (Misconfigured, Rejected):
            if sum(not isinstance(each, kind) for each in problems) < self._rules.majority:
                return kind(needed, backend="redis", operation=operation)
        return Unavailable(needed, backend="redis", operation=operation)

    def twice(self) -> Misconfigured | None:
        """An error if one server is behind two names."""
        names: dict[str, str] = {}
        for name, marker in zip(self._names, self.markers, strict=True):
            if marker is not None and (other := names.setdefault(marker.server, name)) != name:
                return _one_server(other, name)
        return None

    def _twin(self, place: int) -> Misconfigured | None:
        """An error if this name leads to a server that is counted under an earlier one, as it may from some day on."""
        marker = self.markers[place]
        for name, other, problem in zip(self._names[:place], self.markers, self.problems, strict=False):
            if marker is not None and other is not None and problem is None and other.server == marker.server:
                return _one_server(name, self._names[place])
        return None

    def _refusal(self, place: int, view: View) -> BackendError | None:
        name = self._names[place]
        if view.seat is not None and isinstance(view.seat.record, Unreadable):
            return Misconfigured(f"{name}: its record of this election is not ours", backend="redis")
        if view.marker and view.seat and forgotten(view) and view.marker.apart > CLOCKS_APART:
            told = f"{name}: its clock is {view.marker.apart:.0f} s from ours, and it has to be the floor of an epoch"
            return Misconfigured(told, backend="redis")
        if view.marker is not None and not view.marker.healthy:
            watched = waited_for(view.marker.since, self._host.clock.now())
            left = max(0.0, waiting_time(self._rules.max_ttl, self._rules.drift) - watched)
            told = f"{name}: it is new, or has lost its memory, and counts in {left:.3g} s"
            return Unavailable(told, backend="redis")
        return None

    def _objection(self, place: int, reply: Reply) -> BackendError | None:
        name = self._names[place]
        if reply.standing in ("healthy", "unknown"):
            return None
        if reply.standing == "replica":
            return Unavailable(f"{name}: it is a replica", backend="redis")
        if reply.standing == "config":
            told = f"{name}: it has agreed on {reply.detail}, and we on {self._config} (max_ttl in ms/voters/list)"
            return Misconfigured(told, backend="redis")
        return Misconfigured(f"{name}: the key has a marker that is not ours", backend="redis")

    def _trouble(self, place: int, error: BackendError | None) -> None:
        old, self.problems[place] = self.problems[place], error
        if error is not None and (old is None or type(old) is not type(error)):
            self._host.log.warning("a voter is not counted: %s", error)
        elif error is None and old is not None:
            self._host.log.info("the voter %s is back", self._names[place])


def _one_server(one: str, other: str) -> Misconfigured:
    return Misconfigured(f"{one} and {other} are one server: it has one vote", backend="redis")
