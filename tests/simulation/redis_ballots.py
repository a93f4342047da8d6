"""Short random schedules over the real rules of voting and the real scripts: thousands of them, each a few dozen steps.

The rule: a seed is a run, and never more goes wrong than the adapter's `guarantees` allow. Nobody looks after these
candidates: each attempt, renewal and release is a step of its own, in the background, in whatever order chance says.

    python -m tests.simulation --redis-ballots --seed 7 --journal     one again, step by step
    python -m tests.simulation.redis_ballots FIRST COUNT              these seeds; exit status 3: one is broken
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from coordkit.backends.contract import Behind, Candidacy, Confirmed, Grant, Lost, Renewed
from coordkit.errors import BackendError
from coordkit.lease import Promise
from coordkit.model import CandidateInfo
from coordkit.testing.links import LOST, Calm
from coordkit.testing.virtual import World
from tests.simulation.redis_model import KEY, Server, SimulatedVoter, all_know, join
from tests.simulation.redis_terms import Course, Term, over_at
from tests.simulation.storm import Broken

TTL = 8.0
SIZES = (1, 2, 3, 3, 3, 3, 4, 5)
DRIFTS = (0.0, 0.0, 0.01, 0.05, 0.2)
STEPS = (30, 80)
HALF_AN_HOUR = 1800.0
LATEST = 3 * TTL  # a message
CALLS = ("look", "vote", "vote", "renew", "renew", "release", "release")


# -- who takes part ------------------------------------------------------------------------------------------------


class Candidate:
    """One candidacy, and what its client knows of it."""

    def __init__(self, client: Client, name: str, election: str, ttl: float, *, brief: bool) -> None:
        self.client = client
        self.name = name
        self.election = election
        self.ttl = ttl
        self.brief = brief  # it leaves as soon as it has won
        self.candidacy: Candidacy = client.backend.candidacy(election, CandidateInfo(name, name), ttl)
        self.trying: asyncio.Task[None] | None = None
        self.grant: Grant | None = None
        self.promise: Promise | None = None  # the newest, while it leads
        self.term: Term | None = None
        self.over = False  # its client has given it up

    @property
    def leads(self) -> bool:
        """By its own clock."""
        return self.promise is not None and self.promise.remaining(self.client.process.clock.now()) > 0

    @property
    def idle(self) -> bool:
        """It may try: it neither leads, nor tries, nor has it been given up."""
        return not self.over and self.grant is None and (self.trying is None or self.trying.done())


class Client:
    """A process with the real adapter."""

    def __init__(self, ballots: Ballots, name: str, rate: float | None) -> None:
        self.process = ballots.world.process(name, rate=rate)
        if ballots.clocks_are_right:
            self.process.machine._wall = 0.0
        self.ways: list[SimulatedVoter] = join(
            self.process, ballots.servers, max_ttl=ballots.max_ttl, retry=TTL / 4, drift=ballots.world.drift
        )
        self.backend = self.process.keeper.backend
        self.candidates: list[Candidate] = []
        self._weather = ballots.weather()
        for way in self.ways:
            self.mend(way)

    def mend(self, way: SimulatedVoter) -> None:
        """Nothing befalls this way any more but its weather."""
        way.faults.heal()
        way.faults.weather = self._weather


class Rough(Calm):
    """Messages are late, lost or doubled now and then."""

    def __init__(self, chance: random.Random, delay: float, loss: float) -> None:
        super().__init__()
        self._chance = chance
        self._delay = delay
        self._loss = loss

    def request(self) -> Sequence[float]:
        luck = self._chance.random()
        delay = self._chance.random() * self._delay
        if luck < self._loss:
            return LOST
        if luck > 0.97:
            return (delay, self._chance.uniform(0, TTL))
        return (delay,)

    reply = hint = request


# -- a schedule ----------------------------------------------------------------------------------------------------


class Ballots:
    """One random schedule."""

    def __init__(self, seed: int) -> None:
        self.world = world = World(seed)
        self.chance = chance = world.chance
        world.drift = chance.choice(DRIFTS)
        self.course = Course(seed)
        self.max_ttl = TTL * chance.choice((1, 1, 2))
        # Where all memory may be lost, clocks have to be right: what was forgotten is below them.
        self.clocks_are_right = chance.random() < 0.6
        self.servers = [Server(world, number) for number in range(1, chance.choice(SIZES) + 1)]
        for server in self.servers:
            server.offset = 0.0 if self.clocks_are_right else chance.uniform(-HALF_AN_HOUR, HALF_AN_HOUR)
            server.remember()
        self.majority = len(self.servers) // 2 + 1
        self.elections = chance.choice((("e",), ("e",), ("e", "f")))
        self.clients = [Client(self, name, self._rate()) for name in "abcd"[: chance.randint(2, 4)]]
        self._number = 0
        if chance.random() < 0.7:  # the operator says that the servers are new
            for server in self.servers:
                server.run("init", [KEY.encode()], [b"nonce", b"c", b"birth%d" % server.number])
        self._steps = self._deck()

    def weather(self) -> Calm:
        """Of one client. An answer has to come within a ttl/8."""
        chance = self.chance
        luck = chance.random()
        if luck < 0.5:
            return Calm(0.001, 0.001)
        if luck < 0.75:
            slow, fast = TTL / 8 * chance.uniform(0.1, 0.9), 0.001
            return Calm(slow, fast) if chance.random() < 0.4 else Calm(fast, slow)
        return Rough(chance, chance.choice((0.01, 0.1, TTL / 16)), chance.choice((0.0, 0.02, 0.1)))

    def _rate(self) -> float | None:
        drift = self.world.drift
        return self.chance.choice((1.0, 1 - drift, 1 + drift, 1 - drift, 1 + drift, None))

    def _deck(self) -> list[tuple[str, Callable[[], str]]]:
        """The steps that may happen in this schedule, each as often as it is likely, and as which trouble it counts."""
        chance = self.chance
        deck = [("", functools.partial(step, self)) for step, weight in STEPS_BY_WEIGHT for _ in range(weight)]
        # Not everything goes wrong in all of them: what is rare needs that nothing else comes between.
        for kind, (trouble, weight) in TROUBLES.items():
            if chance.random() < 0.6:
                deck += [(kind, functools.partial(trouble, self))] * weight
        return deck

    def play(self) -> Course:
        """Let it happen; then mend everything, and see that somebody wins."""
        with self.world:
            for _ in range(self.chance.randint(*STEPS)):
                kind, step = self.chance.choice(self._steps)
                if said := step():
                    self._tell(said)
                    self.course.troubles.update([kind] * bool(kind))
                    self.world.run(self._pause())
            self._mend()
            for process in self.world.processes:
                self.course.wrong += [f"in {process.name}: {each!r}" for each in process.faults_of_the_core()]
        return self.course

    def _tell(self, what: str) -> None:
        self.course.lines.append((self.world.now, what))

    def _pause(self) -> float:
        """Until the next step."""
        chance = self.chance
        luck = chance.random()
        if luck < 0.45:
            return 0.0
        if luck < 0.65:
            return chance.uniform(0, 0.05)
        if luck < 0.80:
            return chance.uniform(0, TTL / 8)
        if luck < 0.92:
            return chance.uniform(0, TTL / 2)
        if luck < 0.98:
            return TTL * chance.uniform(0.8, 1.5)
        return self.max_ttl * chance.uniform(0.9, 1.5)

    # --- candidates ------------------------------------------------------------------------------------------

    def _running(self) -> list[Client]:
        return [client for client in self.clients if client.process.running]

    def _some_candidate(self, fit: Callable[[Candidate], bool]) -> Candidate | None:
        found = [each for client in self._running() for each in client.candidates if fit(each)]
        return self.chance.choice(found) if found else None

    def _new(self, client: Client, election: str | None = None) -> Candidate:
        self._number += 1
        name = f"{client.process.name}{self._number}"
        ttl = TTL * self.chance.choice((1, 1, 1, 0.5))
        brief = self.chance.random() < 0.2
        made = Candidate(client, name, election or self.chance.choice(self.elections), ttl, brief=brief)
        client.candidates.append(made)
        return made

    def _start(self, client: Client, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return client.process.spawn(work, name)

    async def _answer(self, who: Candidate, name: str, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """What it returns, or None if that is an error, or late."""
        try:
            async with asyncio.timeout(seconds):
                answer = await work
        except TimeoutError:
            found, answer = "no answer", None
        except BackendError as error:
            found, answer = type(error).__name__, None
        else:
            found = type(answer).__name__
        self.course.ends[f"{name}: {found}"] += 1
        self._tell(f"    {who.name} {name}: {found}")
        return answer

    async def _attempted(self, who: Candidate, seconds: float) -> Any:
        answer = await self._answer(who, "attempt", who.candidacy.attempt(), seconds)
        if not isinstance(answer, Grant):
            return answer
        clock, now = who.client.process.machine, self.world.now
        if answer.promise.remaining(clock.now()) <= 0:  # the answer came too late: never counted
            who.over = True
            self._say_so(who, seconds)
            return answer
        who.grant, who.promise = answer, answer.promise
        who.term = Term(who.election, answer.token, who.name, now, over_at(clock, answer.promise))
        self.course.terms.append(who.term)
        self._tell(f"    {who.name} leads {who.election}, token {answer.token}, until {who.term.until:.4f}")
        if who.brief:
            who.over = True
            self._end(who, "given up")
            self._say_so(who, seconds)
        return answer

    async def _campaigned(self, who: Candidate) -> None:
        while not who.over:
            answer = await self._attempted(who, who.ttl / 3)
            if isinstance(answer, Grant):
                return
            if not isinstance(answer, Behind):
                await asyncio.sleep(who.ttl * who.client.process.chance.uniform(0.05, 1 / 3))
                continue
            wait = who.ttl if answer.wait is None else answer.wait
            try:
                async with asyncio.timeout(max(wait, 1e-3)):
                    await who.candidacy.changed()
            except TimeoutError:
                continue

    def _end(self, who: Candidate, fate: str) -> None:
        if who.term is not None and self.world.now < who.term.until:
            who.term.until, who.term.fate = self.world.now, fate
        who.promise = None

    def _give_up(self, who: Candidate, seconds: float) -> None:
        """Its client is done with it, and says so to the voters."""
        self._forget(who)
        self._say_so(who, seconds)

    def _say_so(self, who: Candidate, seconds: float) -> None:
        self._start(who.client, self._resigned(who, seconds), "resign")

    def _forget(self, who: Candidate) -> None:
        who.over = True
        self._end(who, "given up")
        if who.trying is not None:
            who.trying.cancel()

    async def _resigned(self, who: Candidate, seconds: float) -> None:
        await self._answer(who, "resign", who.candidacy.resign(), seconds)

    async def _renewed(self, all_of: Sequence[Candidate], seconds: float) -> None:
        backend = all_of[0].client.backend
        grants = [grant for each in all_of if (grant := each.grant) is not None]
        answers = await self._answer(all_of[0], f"renew {len(grants)}", backend.renew(grants), seconds)
        for who, answer in zip(all_of, answers or (), strict=False):
            self.course.ends[f"renewal: {type(answer).__name__}"] += 1
            if isinstance(answer, Lost):
                self._tell(f"    {who.name} has lost {who.election}: {answer.detail}")
                self._end(who, "lost")
            elif isinstance(answer, Renewed) and who.leads:
                assert who.promise is not None
                assert who.term is not None
                if answer.promise.sent.boot >= who.promise.sent.boot:
                    who.promise = answer.promise
                    who.term.until = over_at(who.client.process.machine, answer.promise)
                self._tell(f"    {who.name} leads {who.election} until {who.term.until:.4f}")

    async def _confirmed(self, who: Candidate, seconds: float) -> None:
        asked = self.world.now
        grant = who.grant
        assert grant is not None
        chance = self.chance.random()
        work = who.candidacy.confirm(grant) if chance < 0.7 else who.candidacy.proclaim(grant, "here")
        answer = await self._answer(who, "confirm", work, seconds)
        if isinstance(answer, Lost):
            self._end(who, "lost")
        elif isinstance(answer, Confirmed):
            self.course.wrong += [
                f"{grant.token} is confirmed at {self.world.now:.6f} to {who.name} after {term.token} was won"
                for term in self.course.terms
                if term.election == who.election and term.since < asked and term.token > grant.token
            ]

    # --- steps -----------------------------------------------------------------------------------------------

    def _somebody_stands(self) -> str:
        clients = [each for each in self._running() if sum(not who.over for who in each.candidates) < 3]
        if not clients:
            return ""
        who = self._new(self.chance.choice(clients))
        return f"{who.name} stands in {who.election}, ttl {who.ttl:g}{', for a moment' * who.brief}; {self._tries(who)}"

    def _somebody_tries(self) -> str:
        who = self._some_candidate(lambda each: each.idle)
        return "" if who is None else f"{who.name} {self._tries(who)}"

    def _tries(self, who: Candidate) -> str:
        if self.chance.random() < 0.6:
            who.trying = self._start(who.client, self._campaigned(who), "campaign")
            return "campaigns"
        seconds = who.ttl * self.chance.choice((1 / 3, 1 / 3, 1.0))
        who.trying = self._start(who.client, self._once(who, seconds), "attempt")
        return "tries once"

    async def _once(self, who: Candidate, seconds: float) -> None:
        await self._attempted(who, seconds)

    def _somebody_stops_trying(self) -> str:
        who = self._some_candidate(lambda each: each.trying is not None and not each.trying.done())
        if who is None:
            return ""
        assert who.trying is not None
        who.trying.cancel()
        return f"{who.name} stops trying"

    def _somebody_renews(self) -> str:
        who = self._some_candidate(lambda each: each.leads)
        if who is None:
            return ""
        held = [each for each in who.client.candidates if each.leads and each.ttl == who.ttl]
        self._start(who.client, self._renewed(held, who.ttl / 3), "renew")
        return f"{' and '.join(each.name for each in held)} renew"

    def _somebody_who_is_over_renews(self) -> str:
        """Its loop was late: whether its lease has run out, it sees only when it has the answer."""
        who = self._some_candidate(lambda each: each.grant is not None and not each.over)
        if who is None:
            return ""
        self._start(who.client, self._renewed([who], who.ttl / 3), "renew")
        return f"{who.name} renews, {'in time' if who.leads else 'too late'}"

    def _somebody_asks_to_be_sure(self) -> str:
        who = self._some_candidate(lambda each: each.leads)
        if who is None:
            return ""
        self._start(who.client, self._confirmed(who, who.ttl / 3), "confirm")
        return f"{who.name} has it confirmed"

    def _somebody_leaves(self) -> str:
        who = self._some_candidate(lambda each: not each.over or each.grant is None)
        if who is None:
            return ""
        again = "once more " * who.over
        self._give_up(who, who.ttl * self.chance.choice((0.1, 1 / 3, 1.0)))
        return f"{who.name} leaves {again}"

    def _somebody_is_forgotten(self) -> str:
        """By its client, who tells nobody."""
        who = self._some_candidate(lambda each: not each.over)
        if who is None:
            return ""
        self._forget(who)
        return f"{who.name} is forgotten"

    # --- troubles --------------------------------------------------------------------------------------------

    def _some_ways(self) -> list[SimulatedVoter]:
        client = self.chance.choice(self.clients)
        return self.chance.sample(client.ways, self.chance.randint(1, len(client.ways)))

    def _ways_are_cut(self) -> str:
        ways, refused = self._some_ways(), self.chance.random() < 0.4
        for way in ways:
            way.faults.cut(refused=refused)
        return f"{_ways(ways)} {'refused' if refused else 'cut'}"

    def _half_a_way_is_cut(self) -> str:
        """Answers, or words, do not come through; what was asked is done."""
        ways, count = self._some_ways(), self.chance.randint(1, 5)
        answers = self.chance.random() < 0.7
        for way in ways:
            way.faults.lose_replies(count) if answers else way.faults.lose_requests(count)
        return f"{_ways(ways)} {'answers' if answers else 'requests'} are lost, {count}"

    def _ways_are_mended(self) -> str:
        cut = {client: ways for client in self.clients if (ways := [way for way in client.ways if way.faults._cut])}
        if not cut:
            return ""
        client, ways = self.chance.choice(list(cut.items()))
        ways = self.chance.sample(ways, self.chance.choice((len(ways), self.chance.randint(1, len(ways)))))
        for way in ways:
            client.mend(way)
        return f"{_ways(ways)} mended"

    def _only_some_are_reached(self) -> str:
        """A client has a majority of its own."""
        client = self.chance.choice(self.clients)
        reached = self.chance.sample(client.ways, self.majority)
        for way in client.ways:
            client.mend(way)
            if way not in reached:
                way.faults.cut(refused=self.chance.random() < 0.5)
        return f"only {_ways([way for way in client.ways if way in reached])} are left"

    def _messages_are_late(self) -> str:
        ways, name, chance = self._some_ways(), self.chance.choice(CALLS), self.chance
        late = chance.choice((0.05, TTL / 10, TTL / 10, TTL / 2, TTL, LATEST))
        answers = chance.random() < 0.4
        for way in ways:
            delay = chance.uniform(late / 2, late) if not answers else chance.uniform(0, min(late, TTL / 8))
            delays = (delay,) if chance.random() < 0.5 else (0.001, delay)
            (way.order_reply if answers else way.order)(name, *delays)
        return f"{_ways(ways)} the next {'answer to ' * answers}{name} is late by up to {late:g}"

    def _a_client_is_paused(self) -> str:
        running = self._running()
        if len(running) < 2:
            return ""
        client = self.chance.choice(running)
        client.process.pause()
        return f"{client.process.name} is paused"

    def _a_client_goes_on(self) -> str:
        paused = [client for client in self.clients if not client.process.running]
        if not paused:
            return ""
        client = self.chance.choice(paused)
        client.process.resume()
        return f"{client.process.name} goes on"

    def _some_servers(self) -> list[Server]:
        """One, a minority, or all."""
        most = self.chance.choice((1, 1, (len(self.servers) - 1) // 2 or 1, len(self.servers)))
        return self.chance.sample(self.servers, self.chance.randint(1, most))

    def _voters_are_paused(self) -> str:
        some = self._some_servers()
        for server in some:
            server.pause()
        return f"{_names(some)} paused"

    def _voters_are_killed(self) -> str:
        """Started again, they have their data, and do not know whether that is all."""
        some = self._some_servers()
        for server in some:
            server.kill()
            if self.chance.random() < 0.6:
                server.start()
        return f"{_names(some)} killed, {_names([each for each in some if each.alive]) or 'none'} started again"

    def _voters_go_on(self) -> str:
        some = [each for each in self.servers if each.paused or not each.alive]
        for server in some:
            server.start()
            server.resume()
        return f"{_names(some)} go on" if some else ""

    def _voters_are_flushed(self) -> str:
        return self._lose("flushed", Server.flush)

    def _voters_are_remembered(self) -> str:
        some = self._some_servers()
        for server in some:
            server.remember()
        return f"{_names(some)} copied"

    def _voters_go_back(self) -> str:
        return self._lose("set back", Server.go_back)

    def _lose(self, how: str, forget: Callable[[Server], None]) -> str:
        some = self._forgetting()
        for server in some:
            forget(server)
        return f"{_names(some)} {how}" if some else ""

    def _forgetting(self) -> Sequence[Server]:
        """Any, where clocks are right; else one, if after that each majority knows the last token."""
        if self.clocks_are_right:
            return self._some_servers()
        one = self.chance.choice(self.servers)
        return [one] if all(all_know(self.servers, each, without=one) for each in self.elections) else ()

    def _a_clock_steps(self) -> str:
        if self.clocks_are_right:
            return ""
        server = self.chance.choice(self.servers)
        server.offset = self.chance.uniform(-HALF_AN_HOUR, HALF_AN_HOUR)
        return f"the clock of {server.number} steps to {server.offset:+.0f}"

    # --- the end ---------------------------------------------------------------------------------------------

    def _quarantine(self) -> float:
        """As the slowest clock waits for it."""
        return self.max_ttl * (1 + 2 * self.world.drift) / (1 - self.world.drift)

    def _mend(self) -> None:
        """Nothing goes wrong any more; new candidates, and those that are left, contend."""
        self._tell("everything is mended")
        for server in self.servers:
            server.start()
            server.resume()
        for client in self.clients:
            client.process.resume()
            for way in client.ways:
                way.faults.heal()
                way.faults.delay(0.001)
                way._requests.clear()
                way._replies.clear()
            for who in client.candidates:
                if not who.over and self.chance.random() < 0.7:
                    self._give_up(who, who.ttl)
        since = self.world.now
        for who in [self._new(client, self.elections[0]) for client in self.chance.sample(self.clients, 2)]:
            who.trying = self._start(who.client, self._campaigned(who), "campaign")
        limit = LATEST + 2 * self._quarantine() + 3 * TTL
        try:
            self.world.run_until(lambda: any(term.since > since for term in self.course.terms), limit)
        except TimeoutError:
            self.course.wrong.append(f"nobody has won within {limit:g} s since everything was mended at {since:.4f}")


def _ways(ways: Sequence[SimulatedVoter]) -> str:
    return f"{ways[0].process.name} -> {_names([way.server for way in ways])}:"


def _names(servers: Sequence[Server]) -> str:
    return ",".join(str(server.number) for server in sorted(servers, key=lambda each: each.number))


STEPS_BY_WEIGHT: tuple[tuple[Callable[[Ballots], str], int], ...] = (
    (Ballots._somebody_stands, 12),
    (Ballots._somebody_tries, 10),
    (Ballots._somebody_stops_trying, 1),
    (Ballots._somebody_renews, 14),
    (Ballots._somebody_who_is_over_renews, 1),
    (Ballots._somebody_asks_to_be_sure, 1),
    (Ballots._somebody_leaves, 6),
    (Ballots._somebody_is_forgotten, 2),
    (Ballots._ways_are_mended, 4),
    (Ballots._a_client_goes_on, 4),
    (Ballots._voters_go_on, 4),
    (Ballots._voters_are_remembered, 1),
)
TROUBLES: dict[str, tuple[Callable[[Ballots], str], int]] = {
    "ways are cut": (Ballots._ways_are_cut, 3),
    "only a majority is reached": (Ballots._only_some_are_reached, 4),
    "half a way is cut": (Ballots._half_a_way_is_cut, 3),
    "messages are late": (Ballots._messages_are_late, 6),
    "a client is paused": (Ballots._a_client_is_paused, 3),
    "voters are paused": (Ballots._voters_are_paused, 2),
    "voters are killed": (Ballots._voters_are_killed, 3),
    "voters are flushed": (Ballots._voters_are_flushed, 3),
    "voters go back": (Ballots._voters_go_back, 3),
    "a clock steps": (Ballots._a_clock_steps, 3),
}


def course(seed: int) -> Course:
    """The run of a seed."""
    return Ballots(seed).play()


def counts(run: Course) -> Counter[str]:
    """What has happened in it, and how often."""
    return Counter(won=len(run.terms)) + run.fates() + run.ends + run.troubles


def main(arguments: Sequence[str]) -> int:
    """Play seeds until one is broken; what has happened in all of them, as JSON."""
    first, number = (int(each) for each in arguments or ("0", "20"))
    simulated = Counter[str]()
    for seed in range(first, first + number):
        run = course(seed)
        try:
            run.check()
        except Broken as broken:
            print(broken)
            return 3
        simulated += counts(run)
    print(json.dumps(simulated))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
