"""All voters together: rounds of questions, and what the voters publish.

The rule: all are asked at once, and a round is over when a majority has decided it; what comes later is noted, and
counts for nothing. A voter that has a problem is asked, but not waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from coordkit.backends.contract import Host
from coordkit.backends.redis.ballot import Ask, Exhausted, Rules, Short, View, Wait, plan, servers
from coordkit.backends.redis.layout import Reply, is_echo, record_of, word_of
from coordkit.backends.redis.race import Race
from coordkit.backends.redis.sights import Sights
from coordkit.errors import BackendError
from coordkit.waiting import until

VOTER_SECONDS: Final = 2.0  # for one answer, where no ttl asks for less
CALLS_PER_TTL: Final = 8  # a voter gets at most ttl/8 for one answer
SLOT_SECONDS: Final = 0.002  # at least, for one contender to ask before the next one does
LINGER_SECONDS: Final = 1.0  # for which words are heard after the last who wanted them: he may come again

Heard = Callable[[int, Reply, object], None]  # a voter that can be counted has answered
OnWord = Callable[[int, str, bytes | None], None]  # voter, election, what was published; None: nothing is missed now


class Voting(Protocol):
    """The way to one voter: see `voters.Voter`."""

    name: str

    @property
    def live(self) -> Mapping[str, object]: ...  # by election whose words are heard: the subscription

    def ask(
        self, name: str, entry: tuple[str, ...], seconds: float, head: tuple[str, ...] = ()
    ) -> asyncio.Future[tuple[Reply, object]]: ...
    def listen(self, election: str) -> None: ...
    def unlisten(self, election: str) -> None: ...
    async def close(self) -> None: ...


class Electorate:
    """The voters of one session, and what goes on in its elections."""

    def __init__(self, host: Host, rules: Rules, config: str, voters: Callable[[OnWord], Sequence[Voting]]) -> None:
        self.host = host
        self.rules = rules
        self.voters = tuple(voters(self._on_word))
        self.sights = Sights(host, rules, [voter.name for voter in self.voters], config)
        self.round_seconds = SLOT_SECONDS  # how long a round has taken, lately
        self._races: dict[str, Race] = {}
        self._closed = False

    @property
    def places(self) -> range:
        """The voters by number, in the order of the URL."""
        return range(len(self.voters))

    # --- rounds ----------------------------------------------------------------------------------------------

    async def ask(
        self,
        name: str,
        entries: Mapping[int, tuple[str, ...]],
        seconds: float,
        heard: Heard,
        heads: Mapping[int, str] | None = None,
        over: Callable[[], bool] = lambda: False,
        patience: float | None = None,
    ) -> list[int]:
        """One round: until `over`, or all have answered, or those that can be expected to. Who has, and counts.

        `patience`: for so many seconds after a majority the others are waited for.
        """
        began = self.host.clock.now().mono
        answered: set[int] = set()
        counted: list[int] = []
        moved = asyncio.Event()

        def note(place: int, reply: Reply, answer: object) -> None:
            answered.add(place)
            counted.append(place)
            heard(place, reply, answer)
            moved.set()

        def fail(place: int) -> None:
            answered.add(place)
            moved.set()

        expected = {place for place in entries if self.sights.problems[place] is None}
        self.send(name, entries, seconds, note, fail, heads)
        while not over() and len(answered) < len(entries):
            enough = len(counted) >= self.rules.majority
            if enough and expected <= answered:
                break
            moved.clear()
            if not enough or patience is None:
                await moved.wait()
            elif not await until(moved, patience):
                break
        if len(counted) >= self.rules.majority:
            self.round_seconds += (self.host.clock.now().mono - began - self.round_seconds) / 8
        return counted

    def send(
        self,
        name: str,
        entries: Mapping[int, tuple[str, ...]],
        seconds: float,
        heard: Heard,
        failed: Callable[[int], None],
        heads: Mapping[int, str] | None = None,
    ) -> None:
        """Ask, and wait for nobody: each answer is told to `heard`, or to `failed`, whenever it comes."""
        for place, entry in entries.items():
            election = entry[0] if entry else ""
            heard_by = self.voters[place].live.get(election)  # of what comes after the answer, nothing is missed

            def settle(
                answer: asyncio.Future[tuple[Reply, object]],
                place: int = place,
                election: str = election,
                heard_by: object = heard_by,
            ) -> None:
                try:
                    reply, found = answer.result()
                except BackendError as error:
                    if not self._closed:
                        self.sights.failed(place, error)
                    failed(place)
                except asyncio.CancelledError:  # the session is being closed
                    failed(place)
                else:
                    if self.sights.replied(place, reply) is None:
                        failed(place)
                    else:
                        race = self._races.get(election)
                        still = heard_by is not None and heard_by is self.voters[place].live.get(election)
                        if race is not None and still and found is not None:
                            race.known.add(place)
                        heard(place, reply, found)

            head = () if heads is None else (heads.get(place, ""),)
            self.voters[place].ask(name, entry, seconds, head).add_done_callback(settle)

    async def look(self, election: str, *, call: bool, seconds: float = VOTER_SECONDS) -> list[int]:
        """Read a fresh majority: who has answered; a `BackendError` if there is none.

        `call`: who leads is asked for a sign of life.
        """

        def shown(place: int, _: Reply, answer: object) -> None:
            self.sights.recorded(place, election, record_of(answer))

        entry = (election, "1" if call else "0")
        heard = await self.ask("look", dict.fromkeys(self.places, entry), seconds, shown)
        if len(servers(self.views(election), heard)) < self.rules.majority:
            raise self.sights.short(election, "look")
        return heard

    def voter_seconds(self, ttl: float) -> float:
        """For one answer of one voter."""
        return min(ttl / CALLS_PER_TTL, VOTER_SECONDS)

    def views(self, election: str) -> list[View]:
        """What is known of one election."""
        return self.sights.views(election)

    def plan(self, election: str) -> Ask | Wait | Short | Exhausted:
        """What to do about an election, by what is known now."""
        return plan(self.views(election), self.rules, self.host.clock.now())

    def slots(self, ttl: float, contenders: int) -> float:
        """Seconds among which so many choose at random, so that the first one is done before the next one asks."""
        slot = max(SLOT_SECONDS, min(2 * self.round_seconds, ttl / 50))
        return min(slot * max(1, contenders), ttl / 6)

    async def close(self) -> None:
        """Let go of all connections."""
        self._closed = True
        for race in self._races.values():
            if race.leaving is not None:
                race.leaving.cancel()
        await asyncio.gather(*(voter.close() for voter in self.voters))

    # --- words -----------------------------------------------------------------------------------------------

    def race(self, election: str) -> Race:
        """What goes on in one election in this session."""
        found = self._races.get(election)
        if found is None:
            found = self._races[election] = Race(lambda: self.plan(election))
            self.sights.follow(election)
        return found

    def live(self, election: str) -> bool:
        """Whether a majority of the voters was asked, and no word of it was missed since."""
        race = self._races.get(election)
        return race is not None and sum(self._knows(race, election, place) for place in self.places) >= (
            self.rules.majority
        )

    def _knows(self, race: Race, election: str, place: int) -> bool:
        return place in race.known and election in self.voters[place].live

    def catch_up(self, election: str, *places: int) -> None:
        """Ask voters whose words are heard, these or all, for what was written before: once."""
        known = race.known if (race := self._races.get(election)) is not None else self.places
        for place in places or self.places:
            if election in self.voters[place].live and place not in known:
                self._look_at(place, election)

    def _look_at(self, place: int, election: str) -> None:
        self.send(
            "look",
            {place: (election, "0")},
            VOTER_SECONDS,
            lambda place, _, answer: self._shown(place, election, answer),
            self.sights.not_found_out,
        )

    def listen(self, election: str) -> Race:
        """Its words are wanted by one more."""
        race = self.race(election)
        race.users += 1
        if race.leaving is not None:
            race.leaving.cancel()
            race.leaving = None
        for voter in self.voters:
            voter.listen(election)
        return race

    def unlisten(self, election: str) -> None:
        """They are wanted by one less."""
        race = self.race(election)
        race.users -= 1
        if race.users == 0:
            seconds = 0.0 if self._closed else LINGER_SECONDS
            race.leaving = asyncio.get_running_loop().call_later(seconds, self._leave, election)

    def _leave(self, election: str) -> None:
        for voter in self.voters:
            voter.unlisten(election)
        del self._races[election]
        self.sights.forget_free(election)

    def _on_word(self, place: int, election: str, payload: bytes | None) -> None:
        race = self._races.get(election)
        if race is None:
            return
        if payload is None:
            race.known.discard(place)
            if race.listeners or (race.waiting and race.asking is None):
                self.catch_up(election, place)
            return
        if is_echo(payload, self.sights.record(place, election)):
            return
        word = word_of(payload)
        if word is None:
            return
        if word.record is None:
            race.called()
        elif not self.sights.is_of_voter(place, word.record):
            if not self.sights.is_stranger(place, word.record):
                self._look_at(place, election)
        elif self.sights.heard(place, election, word):
            race.listening = max(word.listening, 1)
            race.moved(place)

    def _shown(self, place: int, election: str, answer: object) -> None:
        self.sights.recorded(place, election, record_of(answer))
        if (race := self._races.get(election)) is not None:
            race.moved(place)
