"""Elections by votes: N independent Redis servers, of which a strict majority grants an epoch.

The rules: a candidate leads epoch e when a strict majority of the configured voters has granted it e. No server's clock
decides; nobody polls. Voters publish what they write: a waiter counts a leader's ttl from the last word of him, and
looks before it asks. Who wants to know whether a leader lives calls him, and he renews.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from coordkit.backends.contract import OBSERVE_SECONDS, Backend, Candidacy, Grant, Host, Lost, Renewed, Unknown
from coordkit.backends.redis.ballot import Rules, View, holder, ready_in
from coordkit.backends.redis.candidacy import RedisCandidacy, renew_all
from coordkit.backends.redis.electorate import VOTER_SECONDS, Electorate, OnWord
from coordkit.backends.redis.layout import Record, leader_of
from coordkit.backends.redis.race import Race
from coordkit.backends.redis.target import agreement_of, guarantees, key_of, rules_of, targets_of
from coordkit.backends.redis.voters import Voter
from coordkit.lease import Instant
from coordkit.model import CandidateInfo, Guarantees, LeaderInfo
from coordkit.registry import Address
from coordkit.waiting import until

PATIENCE_SECONDS: Final = 0.2  # for which a session that opens waits for the others when a majority has answered


class RedisBackend:
    """One client of N voters."""

    def __init__(self, electorate: Electorate, promised: Guarantees) -> None:
        self.guarantees = promised
        self.drift = electorate.rules.drift
        self.electorate = electorate

    async def open(self) -> None:
        electorate, rules = self.electorate, self.electorate.rules
        looks = dict.fromkeys(electorate.places, ())
        await electorate.ask("look", looks, VOTER_SECONDS, lambda *_: None, patience=PATIENCE_SECONDS)
        if (twice := electorate.sights.twice()) is not None:
            raise twice
        if sum(problem is None for problem in electorate.sights.problems) < rules.majority:
            raise electorate.sights.short(None, "open")
        if rules.voters % 2 == 0:
            told = "%d voters survive as many failures as %d: take one less, or one more"
            electorate.host.log.warning(told, rules.voters, rules.voters - 1)

    async def close(self) -> None:
        await self.electorate.close()

    def candidacy(self, election: str, candidate: CandidateInfo, ttl: float) -> Candidacy:
        return RedisCandidacy(self.electorate, election, candidate, ttl)

    async def renew(self, held: Sequence[Grant]) -> Sequence[Renewed | Lost | Unknown]:
        mine = [each for grant in held if isinstance(each := grant.candidacy, RedisCandidacy)]
        return await renew_all(self.electorate, mine)

    async def leader(self, election: str) -> LeaderInfo | None:
        """Who leads. As nobody else expires a record, it takes a sign of life, or up to a ttl without one."""
        electorate = self.electorate
        with self._listening(election) as (race, listener):
            heard = await electorate.look(election, call=True)
            first = [electorate.sights.record(place, election) for place in electorate.places]
            while True:
                listener.clear()
                now = [electorate.sights.record(place, election) for place in electorate.places]
                # What was seen of a voter before this call is no news.
                views = [
                    view if place in heard or now[place] is not first[place] else View(None, None)
                    for place, view in enumerate(electorate.views(election))
                ]
                record = holder(views, electorate.rules)
                if record is not None and (
                    race.leads_here() or any(_moved(record, *pair) for pair in zip(first, now, strict=True))
                ):
                    if not record.value:  # something was proclaimed just now, and words do not carry it
                        await electorate.look(election, call=False)
                        record = holder(electorate.views(election), electorate.rules) or record
                    return leader_of(election, record)
                left = majority_in(views, electorate.rules, electorate.host.clock.now())
                if left is None:
                    raise electorate.sights.short(election, "leader")
                if left == 0:  # a majority could elect another now; that none is seen to lead is not enough
                    race.next()  # who waits here may hear of it only by words that tell nothing new
                    return None
                await until(listener, left)

    async def candidates(self, election: str) -> Sequence[CandidateInfo]:
        leader = await self.leader(election)
        return () if leader is None else (leader.candidate,)

    async def changes(self, election: str) -> AsyncIterator[None]:
        electorate = self.electorate
        with self._listening(election) as (_, listener):
            while True:
                listener.clear()
                yield
                # The end of a lease is written by nobody: look again when it is due.
                left = majority_in(electorate.views(election), electorate.rules, electorate.host.clock.now())
                await until(listener, min(left or OBSERVE_SECONDS, OBSERVE_SECONDS))

    @contextmanager
    def _listening(self, election: str) -> Iterator[tuple[Race, asyncio.Event]]:
        """What goes on in an election, and an event that is set whenever something is said of it."""
        race, listener = self.electorate.listen(election), asyncio.Event()
        race.listeners.append(listener)
        try:
            yield race, listener
        finally:
            race.listeners.remove(listener)
            self.electorate.unlisten(election)


def majority_in(views: Sequence[View], rules: Rules, now: Instant) -> float | None:
    """Seconds until nobody leads, if nothing moves until then; None: too few voters can tell.

    A voter that may have forgotten votes tells nothing, neither that somebody leads nor that nobody does, until its
    quarantine is over: then no lease of before can run any more.
    """
    lefts = sorted(
        left
        for view in views
        if (left := ready_in(view, rules, now)) is not None
        and (left == 0 or (view.marker is not None and view.marker.healthy))
    )
    return lefts[rules.majority - 1] if len(lefts) >= rules.majority else None


def _moved(leader: Record, first: object, now: object) -> bool:
    """Whether this leader has written there since the first look."""
    return (
        isinstance(now, Record)
        and (now.epoch, now.attempt) == (leader.epoch, leader.attempt)
        and not (isinstance(first, Record) and first.stamp == now.stamp)
    )


def connect(address: Address, host: Host) -> Backend:
    """A backend of the voters of that URL, not yet connected."""
    rules, config, key = rules_of(address), agreement_of(address), key_of(address)

    def voters(on_word: OnWord) -> list[Voter]:
        return [
            Voter(target, key, config, host, functools.partial(on_word, place))
            for place, target in enumerate(targets_of(address))
        ]

    return RedisBackend(Electorate(host, rules, config, voters), guarantees(address))
