"""One candidate in one election: from the first look to the votes, the renewals and the release.

The rules: every attempt has a name of its own, and its deadline counts from before the votes were asked for. An answer
counts for the round that asked for it and for no other. Whatever an attempt may have left at a voter is given back by
its name before anything else is tried; that hurts nobody else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from coordkit.backends.contract import Behind, Confirmed, Grant, Lost, Renewed, Unknown
from coordkit.backends.redis.ballot import Ask, Count, Exhausted, Question, Short, Wait, question, unseen
from coordkit.backends.redis.electorate import CALLS_PER_TTL, Electorate
from coordkit.backends.redis.layout import Record, Reply, Unreadable, value_of, verdict_of
from coordkit.backends.redis.race import Race
from coordkit.errors import Misconfigured, OutcomeUnknown, Rejected, Unavailable
from coordkit.lease import Instant, Promise, promise
from coordkit.model import CandidateInfo

MOST_DOUBLINGS = 5


@dataclass(slots=True)
class Won:
    """A seat: under which name, and where it is known to be written."""

    epoch: int
    attempt: str
    promise: Promise
    proclaimed: str
    beat: int = 0
    births: dict[int, str] = field(default_factory=dict)  # by voter: the memory in which it was last written
    lost: bool = False  # a majority of the voters says so


class RedisCandidacy:
    """One candidate. Lives on the host's loop."""

    def __init__(self, electorate: Electorate, election: str, candidate: CandidateInfo, ttl: float) -> None:
        self.election = election
        self.candidate = candidate
        self.ttl = ttl
        self._electorate = electorate
        self._host = electorate.host
        self._won: Won | None = None
        self._left: dict[str, int] = {}  # attempts that may have left something at a voter, with their epochs
        self._race: Race | None = None  # while it takes part
        self._defeats = 0  # rounds of votes that it has lost
        self._called = False
        self._alive = False  # somebody else was seen alive during this campaign
        self._seen: dict[int, str] = {}  # the stamps that it saw first
        self._stirred = asyncio.Event()
        self._suspect = asyncio.Event()

    # --- being elected ---------------------------------------------------------------------------------------

    async def attempt(self) -> Grant | Behind:
        try:
            return await self._attempted()
        except Unavailable as error:
            if not self._left:
                self._withdraw()  # nothing was asked for: whoever drops this candidacy now owes nobody anything
                raise
            # It may be that no look was answered, and that votes were granted all the same, now or in an earlier try.
            raise OutcomeUnknown(str(error), backend="redis", operation="attempt") from error

    async def _attempted(self) -> Grant | Behind:
        self._stirred.clear()
        if (won := self._won) is not None:
            answer = await self._renewed_alone() if self.leads() else None
            if isinstance(answer, Renewed) and self.leads():
                return Grant(self, won.epoch, answer.promise)
            self._won = None  # its name is among those that are given back; what is over does not come back
        await self._give_back()
        race = self._take_part()
        if race.leads_here():
            self._alive = True
            decision = self._electorate.plan(self.election)
            return Behind(alive=True, wait=decision.seconds if isinstance(decision, Wait) else self.ttl / CALLS_PER_TTL)
        if race.asking is not None and race.asking is not self:
            return Behind(alive=self._alive, wait=self.ttl / CALLS_PER_TTL)
        race.asking = self
        try:
            return await self._asked(race)
        finally:
            if race.asking is self:
                race.asking = None
            if self._won is not None:
                race.waiting.pop(self, None)
                race.leading = self
            else:
                self._electorate.catch_up(self.election)
                if next(iter(race.waiting), self) is not self:
                    race.next()

    async def _asked(self, race: Race) -> Grant | Behind:
        electorate = self._electorate
        looked = not electorate.live(self.election) or isinstance(electorate.plan(self.election), Short)
        if looked:
            await self._look()
        decision = electorate.plan(self.election)
        if isinstance(decision, Wait) and not (self._called or self._alive):
            await self._look()  # and so call whoever leads
            decision = electorate.plan(self.election)
        if isinstance(decision, Ask) and (self._defeats or (not looked and race.listening > 2)):
            # Others than who has left have heard the same word, or have lost with us: one after the other, at random.
            await asyncio.sleep(self._host.chance.uniform(0, self._slots(race)))
            decision = electorate.plan(self.election)
        if isinstance(decision, Ask) and not decision.vacant and not looked:
            await self._look()  # nobody is taken for dead by what was heard alone
            decision = electorate.plan(self.election)
        if isinstance(decision, Wait):
            return self._behind(decision.seconds)
        if isinstance(decision, Short):
            raise electorate.sights.short(self.election, "attempt")
        if isinstance(decision, Exhausted):
            raise Misconfigured(f"the epochs of {self.election!r} are used up", backend="redis", operation="attempt")
        return await self._ballot(decision, race)

    async def _ballot(self, decision: Ask, race: Race) -> Grant | Behind:
        """One round of votes."""
        electorate = self._electorate
        attempt = f"{self._host.chance.getrandbits(96):024x}"
        count = Count(electorate.rules, decision.questions)
        births: dict[int, str] = {}

        def heard(place: int, reply: Reply, answer: object) -> None:
            granted = self.note(place, answer)[0] == "granted"
            if granted:
                births[place] = reply.birth
            count.heard(place, reply.server, granted=granted)

        value = value_of(self.candidate, self.candidate.metadata)
        entries = {
            place: (
                *(self.election, str(decision.epoch), attempt, self._milliseconds, value),
                *(asked.stamp, asked.clock, asked.clock_of),
            )
            for place, asked in decision.questions.items()
        }
        heads = {place: asked.birth for place, asked in decision.questions.items()}
        self._left[attempt] = decision.epoch
        sent = self._host.clock.now()
        seconds = electorate.voter_seconds(self.ttl)
        await electorate.ask("vote", entries, seconds, heard, heads, over=lambda: count.over)
        if count.won:
            span = promise(sent, self.ttl, electorate.rules.drift)
            self._won = Won(decision.epoch, attempt, span, self.candidate.metadata, births=births)
            self._defeats = 0
            self._host.log.info("%r: elected in epoch %d", self.election, decision.epoch)
            return Grant(self, decision.epoch, span)
        self._defeats += 1
        await self._give_back()
        again = electorate.plan(self.election)
        if isinstance(again, Wait):
            return self._behind(again.seconds)
        return Behind(alive=self._alive, wait=self._host.chance.uniform(0, self._slots(race)))

    def _slots(self, race: Race) -> float:
        contenders = max(race.listening - 1, 1) * 2 ** min(self._defeats, MOST_DOUBLINGS)
        return self._electorate.slots(self.ttl, contenders)

    def _behind(self, seconds: float) -> Behind:
        if not self._electorate.live(self.election):
            seconds = min(seconds, self.ttl / 3)  # words may be missed
        return Behind(alive=self._alive, wait=seconds + self._host.chance.uniform(0, self.ttl / 20))

    async def _look(self) -> None:
        self._called = True
        electorate = self._electorate
        await electorate.look(self.election, call=not self._alive, seconds=electorate.voter_seconds(self.ttl))
        self._sees_life()

    def _take_part(self) -> Race:
        if self._race is None:
            self._race = self._electorate.listen(self.election)
        self._race.waiting.setdefault(self)
        return self._race

    # --- what is heard ---------------------------------------------------------------------------------------

    def overheard(self, place: int) -> None:
        """Something was written in this election, at this voter."""
        if self._won is not None:
            if self._is_gone_at(place):
                self._suspect.set()
        elif not self._alive and self._sees_life():
            self._stirred.set()

    def _is_gone_at(self, place: int) -> bool:
        record, won = self._electorate.sights.record(place, self.election), self._won
        assert won is not None
        if not isinstance(record, Record):
            return False
        if record.attempt == won.attempt:
            return not record.held
        return record.held and record.epoch > won.epoch

    def _sees_life(self) -> bool:
        """Whether somebody who leads has written since this campaign looked first."""
        for place in self._electorate.places:
            record = self._electorate.sights.record(place, self.election)
            if isinstance(record, Record) and record.held and record.attempt not in self._left:
                first = self._seen.setdefault(place, record.stamp)
                if first != record.stamp and record.beat > 0:  # beat 0 may be a vote for somebody who gets too few
                    self._alive = True
        return self._alive

    def stir(self) -> None:
        """It may be its turn."""
        self._stirred.set()

    def called(self) -> None:
        """Somebody wants a sign of life."""
        self._suspect.set()

    async def changed(self) -> None:
        await self._stirred.wait()

    async def revoked(self) -> None:
        await self._suspect.wait()
        self._suspect.clear()

    # --- leading ---------------------------------------------------------------------------------------------

    def leads(self) -> bool:
        """Whether it leads by its own clock."""
        won = self._won
        return won is not None and not won.lost and won.promise.remaining(self._host.clock.now()) > 0

    def renewal(self, sent: Instant, word: str, moved: asyncio.Event) -> Renewal:
        """One round of renewals, to be sent after `sent` was read."""
        return Renewal(self, self._electorate, self._won, sent, word, moved)

    async def _renewed_alone(self, word: str = "renewed") -> Renewed | Lost | Unknown:
        return (await renew_all(self._electorate, [self], word))[0]

    async def confirm(self, grant: Grant) -> Confirmed | Lost:
        return self._confirmed(await self._renewed_alone(), "confirm")

    async def proclaim(self, grant: Grant, metadata: str) -> Confirmed | Lost:
        if self._won is not None:
            self._won.proclaimed = metadata
        return self._confirmed(await self._renewed_alone("proclaimed"), "proclaim")

    def _confirmed(self, answer: Renewed | Lost | Unknown, operation: str) -> Confirmed | Lost:
        if isinstance(answer, Lost):
            return answer
        if isinstance(answer, Renewed):
            return Confirmed()
        raise OutcomeUnknown(f"no majority has answered: {answer.cause}", backend="redis", operation=operation)

    # --- leaving ---------------------------------------------------------------------------------------------

    async def resign(self) -> None:
        self._won = None
        try:
            await self._give_back()
        except (Rejected, Misconfigured):  # nobody tries that again: what is left runs out by itself
            self._withdraw()
            raise
        finally:
            if not self._left:
                self._withdraw()

    def _withdraw(self) -> None:
        """Take part no more."""
        if self._race is not None:
            race, self._race = self._race, None
            self._electorate.unlisten(self.election)
            race.left(self)

    async def _give_back(self) -> None:
        """Release all that earlier attempts may have left; done when a majority of the voters knows."""
        for attempt, epoch in list(self._left.items()):
            if self._won is not None and attempt == self._won.attempt:
                continue
            await self._released(attempt, epoch)
            self._left.pop(attempt, None)

    async def _released(self, attempt: str, epoch: int) -> None:
        electorate = self._electorate
        count = Count(electorate.rules, electorate.places)

        def heard(place: int, reply: Reply, answer: object) -> None:
            count.heard(place, reply.server, granted=self.note(place, answer)[0] in ("released", "passed"))

        entry = (self.election, str(epoch), attempt, "9" * 15)  # above every beat of it
        entries, seconds = dict.fromkeys(electorate.places, entry), electorate.voter_seconds(self.ttl)
        await electorate.ask("release", entries, seconds, heard, over=lambda: count.over)
        if not count.won:
            raise electorate.sights.short(self.election, "release")

    def note(self, place: int, answer: object) -> tuple[str, Record | Unreadable | None]:
        """What a voter has decided, and the record as it then was, which is noted."""
        verdict, record = verdict_of(answer)
        if answer is not None:
            self._electorate.sights.recorded(place, self.election, record)
        return verdict, record

    @property
    def _milliseconds(self) -> str:
        return str(max(1, -int(-self.ttl * 1000 // 1)))


class Renewal:
    """One round of renewals of one seat: what each voter is asked, and what its answers mean."""

    def __init__(
        self,
        candidacy: RedisCandidacy,
        electorate: Electorate,
        won: Won | None,
        sent: Instant,
        word: str,
        moved: asyncio.Event,
    ) -> None:
        self.entries: dict[int, tuple[str, ...]] = {}
        self.heads: dict[int, str] = {}
        self._candidacy = candidacy
        self._electorate = electorate
        self._won = won
        self._sent = sent
        self._moved = moved  # set by every answer
        self._count = Count(electorate.rules, electorate.places if won is not None else ())
        if won is None:
            return
        won.beat += 1
        enrols = "1" if won.promise.remaining(sent) > 0 else "0"
        common = (
            *(candidacy.election, str(won.epoch), won.attempt, str(won.beat), candidacy._milliseconds),
            *(value_of(candidacy.candidate, won.proclaimed), word, enrols),
        )
        for place, view in enumerate(electorate.views(candidacy.election)):
            known = unseen(view, sent)
            asked = Question() if known.marker is None else question(known, electorate.rules, sent)
            self.entries[place] = (*common, asked.stamp, asked.clock, asked.clock_of, won.births.get(place, ""))
            self.heads[place] = asked.birth

    @property
    def over(self) -> bool:
        """Whether no answer that is still out can change the outcome."""
        return self._count.over or self._count.lost

    def heard(self, place: int, reply: Reply, answer: object) -> None:
        """A voter that can be counted has answered."""
        assert self._won is not None
        verdict, record = self._candidacy.note(place, answer)
        if verdict == "renewed":
            self._won.births[place] = reply.birth
        mine = isinstance(record, Record) and record.attempt == self._won.attempt
        gone = verdict == "gone" or (
            verdict == "refused"
            and isinstance(record, Record)
            and record.birth == reply.birth
            and (not record.held if mine else record.held and record.epoch > self._won.epoch)
        )
        self._count.heard(place, reply.server, granted=verdict == "renewed", gone=gone)
        self._moved.set()

    def failed(self, place: int) -> None:
        """A voter has not answered, or cannot be counted."""
        self._count.silent(place)
        self._moved.set()

    def outcome(self) -> Renewed | Lost | Unknown:
        """What the round has come to."""
        won = self._won
        if won is None or won is not self._candidacy._won:
            return Lost("it was resigned")
        if self._count.won:
            promised = promise(self._sent, self._candidacy.ttl, self._electorate.rules.drift)
            if self._candidacy.leads() and promised.sent.boot >= won.promise.sent.boot:
                won.promise = promised
            return Renewed(promised)
        if self._count.lost:
            won.lost = True
            return Lost("a majority of the voters has released the seat, or given it to another")
        return Unknown(self._electorate.sights.short(self._candidacy.election, "renew"))


async def renew_all(
    electorate: Electorate, held: list[RedisCandidacy], word: str = "renewed"
) -> list[Renewed | Lost | Unknown]:
    """Renew all these seats in one go; one answer each, in their order."""
    sent, moved = electorate.host.clock.now(), asyncio.Event()
    rounds = [each.renewal(sent, word, moved) for each in held]
    for candidacy, each in zip(held, rounds, strict=True):
        seconds = electorate.voter_seconds(candidacy.ttl)
        electorate.send("renew", each.entries, seconds, each.heard, each.failed, each.heads)
    open_rounds = [each for each in rounds if not each.over]
    while open_rounds:
        moved.clear()
        await moved.wait()
        open_rounds = [each for each in open_rounds if not each.over]
    return [each.outcome() for each in rounds]
