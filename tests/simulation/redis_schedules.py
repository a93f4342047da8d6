"""Directed schedules of epoch voting: for each of its rules the course of events in which breaking it shows.

The rule: as in `schedules.py`, a schedule raises `Broken` where the promise is broken, and nothing else.

    python -m tests.simulation.redis_schedules NAME [NAME ...]        exit status 3: broken
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from coordkit.backends.contract import Behind, Candidacy, Grant, Renewed
from coordkit.backends.redis.layout import channel_of
from coordkit.backends.redis.target import agreement_of
from coordkit.clock import new_candidate_id
from coordkit.errors import BackendError, OutcomeUnknown
from coordkit.findings import Finding, Verdict
from coordkit.lease import Promise
from coordkit.model import CandidateInfo
from coordkit.registry import parse
from coordkit.testing.virtual import World
from tests.simulation.playing import Schedules, must
from tests.simulation.redis_bench import replace, url_of
from tests.simulation.redis_model import KEY, Server, SimulatedVoter, join
from tests.simulation.storm import Broken

TTL = 8.0
SOON = 1.0  # s: without waiting for anybody's lease

SCHEDULES = Schedules()
schedule = SCHEDULES.schedule


class Client:
    """A process with the real adapter; nothing is renewed but by hand."""

    def __init__(self, it: Scene, name: str, servers: Sequence[Server], *, rate: float, config: str) -> None:
        self.it = it
        self.process = it.world.process(name, rate=rate)
        self.process.machine._wall = 0.0
        self.ways: list[SimulatedVoter] = join(
            self.process, servers, max_ttl=TTL, retry=TTL / 4, drift=it.drift, config=config
        )
        self.backend = self.process.keeper.backend
        for way in self.ways:
            way.faults.delay(0.001)

    def way(self, *numbers: int) -> list[SimulatedVoter]:
        """To these voters, counted from one."""
        return [self.ways[number - 1] for number in numbers]

    def only(self, *numbers: int) -> None:
        """These can be reached from now on, and no others."""
        for number, way in enumerate(self.ways, start=1):
            if number in numbers:
                way.faults.heal()
                way.faults.delay(0.001)
            else:
                way.faults.cut(refused=True)

    def candidacy(self, election: str = "e") -> Candidacy:
        """A new candidate."""
        name = self.process.name
        return self.backend.candidacy(election, CandidateInfo(new_candidate_id(name, self.process.chance), name), TTL)

    def run(self, work: Coroutine[Any, Any, Any], seconds: float = 60.0) -> Any:
        """What it returns, or the BackendError that it raises."""
        task = self.start(work)
        self.it.within(seconds, task.done, f"{self.process.name} gets an answer")
        return task.result()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """As `run`, in the background."""

        async def caught() -> Any:
            try:
                async with asyncio.timeout(TTL / 2):
                    return await work
            except TimeoutError:
                return OutcomeUnknown("no answer")
            except BackendError as error:
                return error

        return self.process.start(caught())

    def attempt(self, candidacy: Candidacy) -> Any:
        """One attempt."""
        return self.run(candidacy.attempt())

    def win(self, candidacy: Candidacy, within: float = 4 * TTL) -> Grant:
        """Attempt, and wait as one is told to, until it has won; the promise is broken if it does not in time."""
        since = self.it.world.now
        answer: Any = None
        while self.it.world.now - since <= within:
            answer = self.attempt(candidacy)
            if isinstance(answer, Grant):
                return answer
            wait = answer.wait if isinstance(answer, Behind) and answer.wait is not None else TTL / 16
            hint, end = self.process.start(candidacy.changed()), self.it.world.now + max(wait, 1e-3)
            try:
                self.it.world.run_until(hint.done, end - self.it.world.now)
            except TimeoutError:
                self.it.world.run(end - self.it.world.now)
            hint.cancel()
        raise Broken(f"{self.process.name} wins within {within:g} s: {answer!r}")

    def renew(self, grant: Grant) -> Any:
        """One renewal."""
        answer = self.run(self.backend.renew([grant]))
        return answer if isinstance(answer, BackendError) else answer[0]

    def acts_until(self, promise: Promise) -> float:
        """When it acts no more, in true time."""
        return self.process.machine.true_time_of_boot(promise.sent.boot + promise.span)


class Scene:
    """A world with voters that count at once; clocks are right."""

    def __init__(self, world: World, size: int, drift: float, *, new: bool) -> None:
        self.world = world
        self.drift = drift
        self.servers = [Server(world, number) for number in range(1, size + 1)]
        if not new:
            for server in self.servers:
                server.run("init", [KEY.encode()], [b"nonce", b"c", b"birth%d" % server.number])

    def server(self, *numbers: int) -> list[Server]:
        return [self.servers[number - 1] for number in numbers]

    def client(self, name: str, servers: Sequence[Server] = (), *, rate: float = 1.0, config: str = "c") -> Client:
        return Client(self, name, servers or self.servers, rate=rate, config=config)

    def within(self, seconds: float, condition: Callable[[], bool], promise: str) -> None:
        try:
            self.world.run_until(condition, seconds)
        except TimeoutError:
            raise Broken(f"not within {seconds:g} s: {promise}") from None

    def forget(self, election: str) -> None:
        """As an operator would with `coordkit doctor --forget`, who has seen that nothing moves."""
        for server in self.servers:
            shown = b""
            for word in (b"seen", b"forgotten"):
                reply = server.run("forget", [KEY.encode()], [b"nonce", b"c", b"unused", election.encode(), shown])
                if reply[6][0] != word:
                    raise AssertionError(f"{server.name} says {reply[6]}")
                shown = reply[6][1]

    def alone(self, before: Client, promise: Promise, grant: Grant) -> None:
        """Whoever led before acts no more when another has won."""
        over = before.acts_until(promise)
        must(over <= self.world.now, f"two lead for {over - self.world.now:.3f} s, token {grant.token}")


@contextlib.contextmanager
def scene(size: int = 3, *, drift: float = 0.0, new: bool = False) -> Iterator[Scene]:
    """Clocks are right, and are believed to be, but for a drift that is asked for."""
    with World(1, drift=drift) as world:
        made = Scene(world, size, drift, new=new)
        yield made
        failures = [failure for process in world.processes for failure in process.faults_of_the_core()]
        must(not failures, f"nothing in the adapter fails: {failures}")


def some_term(it: Scene) -> None:
    """Somebody has led before, so that the next epoch is one more, for whoever asks."""
    client = it.client("before")
    candidacy = client.candidacy()
    client.win(candidacy)
    client.run(candidacy.resign())
    it.world.run(0.1)


def token_of(answer: Any) -> int:
    must(isinstance(answer, Grant), f"it has won: {answer!r}")
    return int(answer.token)


# -- no clock of a server decides ----------------------------------------------------------------------------


@schedule
def a_held_seat_is_asked_for_only_after_its_ttl() -> None:
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        grant = a.win(a.candidacy())
        it.alone(a, grant.promise, b.win(b.candidacy()))


@schedule
def who_waits_waits_long_enough_for_any_clock() -> None:
    """The leader's clock is slow, the challenger's fast, as much as the drift allows."""
    with scene(drift=0.05) as it:
        a, b = it.client("a", rate=0.952), it.client("b", rate=1.05)
        grant = a.win(a.candidacy())
        it.alone(a, grant.promise, b.win(b.candidacy()))


@schedule
def a_win_counts_from_before_it_was_asked_for() -> None:
    """The votes are given at once, and their replies take long."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        mine = a.candidacy()
        for way in a.ways:
            way.order_reply("vote", 0.9)
        winning = a.start(mine.attempt())
        it.world.run(0.1)
        other = b.candidacy()
        must(isinstance(b.attempt(other), Behind), "a seat that is held is waited for")
        it.within(2.0, winning.done, "a gets its answer")
        grant = winning.result()
        must(isinstance(grant, Grant), "a wins")
        it.alone(a, grant.promise, b.win(other))


@schedule
def a_renewal_counts_from_before_it_was_asked_for() -> None:
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        grant = a.win(a.candidacy())
        other = b.candidacy()
        it.world.run(1.0)
        for way in a.ways:
            way.order_reply("renew", 0.9)
        renewing = a.start(a.backend.renew([grant]))
        it.world.run(0.1)
        must(isinstance(b.attempt(other), Behind), "a seat that is held is waited for")
        it.within(2.0, renewing.done, "a gets its answer")
        (answer,) = renewing.result()
        must(isinstance(answer, Renewed), "it is renewed")
        it.alone(a, answer.promise, b.win(other))


@schedule
def a_stamp_does_not_come_back() -> None:
    """A renewal is executed twice, the second time after two later ones; a challenger has seen nothing in between."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        grant = a.win(a.candidacy())
        it.world.run(1.0)
        for way in a.ways:
            way.order("renew", 0.001, 5.2)
        must(isinstance(a.renew(grant), Renewed), "renewed once")
        other = b.candidacy()
        must(isinstance(b.attempt(other), Behind), "b watches that stamp")
        b.only()
        for _ in range(2):
            it.world.run(2.4)
            answer = a.renew(grant)
            must(isinstance(answer, Renewed), "renewed again")
        it.world.run(4.0)
        b.only(1, 2, 3)
        it.alone(a, answer.promise, b.win(other))


# -- majorities ----------------------------------------------------------------------------------------------


@schedule
def half_of_the_voters_are_not_enough() -> None:
    with scene(4) as it:
        a, b = it.client("a"), it.client("b")
        a.only(1, 2)
        b.only(3, 4)
        answers = [a.attempt(a.candidacy()), b.attempt(b.candidacy())]
        must(not all(isinstance(each, Grant) for each in answers), "two lead, each by half of the voters")


@schedule
def one_server_under_two_names_has_one_vote() -> None:
    """Names do not lead everybody to the same servers: for A the third voter is the second one once more."""
    with scene() as it:
        first, second, _ = it.servers
        again = copy.copy(second)
        again.name = "redis3"
        a, b = it.client("a", [first, second, again]), it.client("b")
        a.only(2, 3)
        b.only(1, 3)
        answer = a.attempt(a.candidacy())
        other = b.win(b.candidacy())
        if isinstance(answer, Grant):
            it.alone(a, answer.promise, other)


@schedule
def a_round_is_decided_by_its_own_answers() -> None:
    with scene() as it:
        a = it.client("a")
        grant = a.win(a.candidacy())
        must(isinstance(a.renew(grant), Renewed), "renewed")
        a.only()
        must(not isinstance(a.renew(grant), Renewed), "nobody answers, and it is renewed")


# -- epochs --------------------------------------------------------------------------------------------------


@schedule
def an_epoch_is_granted_once() -> None:
    """Two ask for the same epoch, one after the other has led and left."""
    with scene() as it:
        some_term(it)
        a, b = it.client("a"), it.client("b")
        a.only(1, 2)
        b.only(2, 3)
        other = b.candidacy()
        for way in b.way(2, 3):
            way.order("vote", 0.8)
        late = b.start(other.attempt())
        it.world.run(0.1)
        mine = a.candidacy()
        first = token_of(a.attempt(mine))
        a.run(mine.resign())
        it.within(20.0, late.done, "b gets an answer")
        answer = late.result()
        must(not (isinstance(answer, Grant) and int(answer.token) <= first), f"the token {first} is given twice")


@schedule
def an_attempt_has_a_name_of_its_own() -> None:
    """The release of a candidate's first attempt is executed twice, once more when a second attempt has won."""
    with scene() as it:
        some_term(it)
        a, b, d = it.client("a"), it.client("b"), it.client("d")
        a.only(1, 2)
        b.only(2, 3)
        d.only(1, 3)
        for way in a.way(1, 2):
            way.order("vote", 0.3)
        a.ways[1].order("release", 0.001, 3.0)
        mine, other = a.candidacy(), d.candidacy()
        trying = a.start(mine.attempt())
        it.world.run(0.1)
        d.win(other)
        it.within(10.0, trying.done, "the first attempt ends")
        must(not isinstance(trying.result(), Grant), "one vote is not enough")
        d.run(other.resign())
        grant = a.win(mine, within=SOON)
        it.world.run(3.0)  # the release has come again
        it.alone(a, grant.promise, b.win(b.candidacy()))


@schedule
def a_release_leaves_the_seats_of_others_alone() -> None:
    """Somebody asks late, is refused, and gives back what it has not got."""
    with scene() as it:
        some_term(it)
        a, b, c = it.client("a"), it.client("b"), it.client("c")
        other = b.candidacy()
        for way in b.ways:
            way.order("vote", 0.5)
        late = b.start(other.attempt())
        it.world.run(0.1)
        grant = a.win(a.candidacy())
        it.within(10.0, late.done, "b is refused")
        must(not isinstance(late.result(), Grant), "b is refused")
        it.alone(a, grant.promise, c.win(c.candidacy()))


@schedule
def what_a_leader_takes_keeps_its_epoch_as_the_floor() -> None:
    """A renewal that was sent in time comes after the next leader has led and left."""
    with scene() as it:
        a, b, c = it.client("a"), it.client("b"), it.client("c")
        grant = a.win(a.candidacy())
        it.world.run(1.0)
        for way in a.ways:
            way.order("renew", 12.0)
        a.renew(grant)
        other = b.candidacy()
        second = b.win(other)
        it.alone(a, grant.promise, second)
        b.run(other.resign())
        it.world.run(12.0)
        third = c.win(c.candidacy())
        must(third.token > second.token, f"the token {third.token} comes after {second.token}")


@schedule
def what_is_over_is_not_renewed() -> None:
    """The next leader has led and left; the one before asks for the free seats, long after its deadline."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        grant = a.win(a.candidacy())
        other = b.candidacy()
        second = b.win(other)
        b.run(other.resign())
        answer = a.renew(grant)
        must(not isinstance(answer, Renewed), f"{grant.token} is renewed after {second.token} has led")


# -- leaving -------------------------------------------------------------------------------------------------


@schedule
def a_late_renewal_does_not_take_the_seat_again() -> None:
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        mine = a.candidacy()
        grant = a.win(mine)
        for way in a.ways:
            way.order("renew", 0.3)
        a.start(a.backend.renew([grant]))
        it.world.run(0.1)
        a.run(mine.resign())
        it.world.run(0.5)
        b.win(b.candidacy(), within=SOON)


@schedule
def a_late_vote_does_not_take_the_seat_of_who_has_left() -> None:
    """Where there is no record yet."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        mine = a.candidacy()
        for way in a.ways:
            way.order("vote", 0.5)
        trying = a.start(mine.attempt())
        it.world.run(0.1)
        trying.cancel()
        a.run(mine.resign())
        it.world.run(0.6)
        b.win(b.candidacy(), within=SOON)


# -- memory --------------------------------------------------------------------------------------------------


def one_forgets(it: Scene) -> tuple[Client, Grant, Client]:
    """A leads by the first two voters; the second is set back; B reaches the last two."""
    a, b = it.client("a"), it.client("b")
    (second,) = it.server(2)
    second.remember()
    a.only(1, 2)
    grant = a.win(a.candidacy())
    second.go_back()
    b.only(2, 3)
    return a, grant, b


@schedule
def a_voter_that_was_started_again_may_have_forgotten() -> None:
    with scene() as it:
        a, grant, b = one_forgets(it)
        it.alone(a, grant.promise, b.win(b.candidacy()))


@schedule
def a_voter_that_has_forgotten_counts_after_the_quarantine() -> None:
    with scene() as it:
        a, grant, b = one_forgets(it)
        b.win(b.candidacy("other"))  # whoever looks marks it as unknown
        it.alone(a, grant.promise, b.win(b.candidacy()))


@schedule
def a_quarantine_is_of_one_birth() -> None:
    """Flushed; somebody waits for it and wins with one partner; flushed again; another wins with another partner."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        (first,) = it.server(1)
        first.flush()
        a.only(1, 2)
        b.only(1, 3)
        other = b.candidacy()
        must(isinstance(b.attempt(other), Behind), "a voter without memory is waited for")
        b.only()
        grant = a.win(a.candidacy())
        first.flush()
        b.only(1, 3)
        it.alone(a, grant.promise, b.win(other))


@schedule
def a_quarantine_that_was_watched_says_nothing_of_a_seat() -> None:
    """Somebody else ends it and wins; who has watched it, too, hears of the seat, but not that the voter counts."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        for server in it.servers:
            server.flush()
        mine = a.candidacy()
        for client, candidacy in ((a, mine), (b, b.candidacy("another"))):
            must(isinstance(client.attempt(candidacy), Behind), "voters without memory are waited for")
        it.world.run(TTL + 0.1)
        other = b.candidacy()
        other._defeats = 5  # type: ignore[attr-defined]  # so that it waits a while between its look and its votes
        other._electorate.round_seconds = 1.0  # type: ignore[attr-defined]
        late = b.start(other.attempt())
        it.world.run(0.01)
        grant = a.win(mine)
        it.within(10.0, late.done, "b gets an answer")
        if isinstance(late.result(), Grant):
            it.alone(a, grant.promise, late.result())


@schedule
def tokens_rise_although_everything_was_forgotten() -> None:
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        mine = a.candidacy()
        first = a.win(mine)
        a.run(mine.resign())
        for server in it.servers:
            server.flush()
        second = b.win(b.candidacy())
        must(second.token > first.token, f"the token {second.token} comes after {first.token}")


@schedule
def a_clock_that_was_read_before_a_voter_forgot_is_no_floor_afterwards() -> None:
    """Whoever has read it is paused, while others lead, and everything is forgotten once more."""
    with scene(new=True) as it:
        a, b, c = it.client("a"), it.client("b"), it.client("c")
        late, mine = c.candidacy(), a.candidacy()
        must(isinstance(c.attempt(late), Behind), "voters without memory are waited for")
        it.world.run(0.5)
        c.process.pause()
        for way in c.ways:
            way.faults.cut()  # no word reaches it
        first = a.win(mine)
        a.run(mine.resign())
        for server in it.servers:
            server.flush()
        b.win(b.candidacy("other"))  # that quarantine is over, too
        c.process.resume()
        c.only(1, 2, 3)
        answer = c.attempt(late)
        must(not (isinstance(answer, Grant) and answer.token <= first.token), f"{answer} comes after {first.token}")


@schedule
def a_late_renewal_brings_no_clock_of_before() -> None:
    """One voter forgets, and once more when a quarantine has passed; a renewal from in between comes after that."""
    with scene() as it:
        a, b, c, d = (it.client(name) for name in "abcd")
        (first,) = it.server(1)
        grant = a.win(a.candidacy())
        first.flush()
        b.only(1, 3)
        c.only(1, 2)
        d.only(1, 3)
        other = b.candidacy()
        b.attempt(other)
        since = it.world.now
        while it.world.now - since < TTL - 3.0:
            must(isinstance(a.renew(grant), Renewed), "a goes on by the others")
            it.world.run(2.0)
        it.world.run(since + TTL + 0.2 - it.world.now)
        a.only(1)
        a.ways[0].order("renew", 5 * TTL)
        a.renew(grant)  # the quarantine is over: it takes the first voter, much later
        sent = it.world.now
        a.only()
        second = b.win(other)
        b.run(other.resign())
        first.flush()
        d.win(d.candidacy("other"))
        must(it.world.now < sent + 5 * TTL, "all that is over before the renewal comes")
        it.world.run(sent + 5 * TTL + 0.1 - it.world.now)
        third = c.win(c.candidacy())
        must(third.token > second.token, f"the token {third.token} comes after {second.token}")


@schedule
def a_late_vote_finds_what_was_taken_away() -> None:
    """An operator removes the record of an election, and then votes come that are older than it."""
    with scene() as it:
        a, b, c = it.client("a"), it.client("b"), it.client("c")
        late, mine = c.candidacy(), a.candidacy()
        for way in c.ways:
            way.order("vote", 5 * TTL)
        must(not isinstance(c.attempt(late), Grant), "nobody has answered it")
        sent = it.world.now
        c.process.pause()
        first = a.win(mine)
        a.run(mine.resign())
        it.world.run(TTL)
        it.forget("e")
        must(it.world.now < sent + 4 * TTL, "all that is over before the votes come")
        it.world.run(sent + 5 * TTL + 0.1 - it.world.now)
        second = b.win(b.candidacy())
        must(second.token > first.token, f"the token {second.token} comes after {first.token}")


@schedule
def the_end_of_a_quarantine_vouches_for_no_older_record() -> None:
    """Voters are set back; the quarantine is ended in one election, then somebody is elected in another."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        tokens = []
        for number in range(3):
            mine = a.candidacy()
            tokens.append(int(a.win(mine).token))
            a.run(mine.resign())
            if number == 0:
                for server in it.servers:
                    server.remember()
        for server in it.servers:
            server.go_back()
        b.win(b.candidacy("other"))
        tokens.append(int(b.win(b.candidacy()).token))
        must(tokens == sorted(set(tokens)), f"tokens rise: {tokens}")


@schedule
def a_voter_that_was_down_at_the_election_is_enrolled() -> None:
    """It is back, its quarantine is over; then another falls, and the term goes on."""
    with scene() as it:
        a = it.client("a")
        (third,) = it.server(3)
        third.kill()
        grant = a.win(a.candidacy())
        third.start()
        since = it.world.now
        while it.world.now - since < 2 * TTL:
            must(isinstance(a.renew(grant), Renewed), "a goes on by the other two")
            it.world.run(2.0)
        a.only(1, 3)
        must(isinstance(a.renew(grant), Renewed), "a goes on by the third one, too")


@schedule
def words_of_another_memory_are_nobodys() -> None:
    """Another database of these servers shares their channels: who leads there keeps nobody here waiting."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        a.win(a.candidacy())
        other = b.candidacy()
        must(isinstance(b.attempt(other), Behind), "a seat that is held is waited for")
        a.only()
        for number in range(16):
            for server in it.servers:
                word = f"renewed 2 7 0 stranger {number} held {TTL * 1000:.0f} elsewhere"
                for told in list(server.subscribers.get(channel_of(KEY, "e"), [])):
                    told(word.encode())
            it.world.run(1.0)
        b.win(other, within=SOON)


@schedule
def nobody_is_said_to_lead_only_if_a_majority_says_so() -> None:
    """Who leads has two seats of three, and who asks sees one of them, and the voter that has none."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        a.only(1, 2)
        grant = a.win(a.candidacy())
        b.only(2, 3)
        answer = b.run(b.backend.leader("e"))
        must(answer is not None, "a leads, and nobody is said to lead")
        must(isinstance(a.renew(grant), Renewed), "a has led all the time")


@schedule
def what_was_seen_before_is_no_news_of_who_leads() -> None:
    """A voter was seen free, then could not be reached; now it can, but what it says of this election comes late."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        mine = b.candidacy()
        b.win(mine)
        b.run(mine.resign())
        b.ways[2].unlisten("e")
        b.ways[2].listen = lambda _: None  # type: ignore[method-assign]  # its words are lost
        a.only(1, 3)
        grant = a.win(a.candidacy())
        b.only(1, 2)
        b.attempt(b.candidacy("another"))
        b.only(1, 2, 3)
        b.ways[2].order_reply("look", 1.0)
        asking = b.start(b.backend.leader("e"))
        it.world.run(0.01)
        b.attempt(b.candidacy("yet another"))  # of which the third voter speaks
        must(isinstance(a.renew(grant), Renewed), "a leads")
        it.within(TTL, asking.done, "b gets an answer")
        must(asking.result() is not None, "a leads, and nobody is said to lead")


@schedule
def what_was_missed_between_two_subscriptions_is_looked_for() -> None:
    """An answer of the first one comes after the second has begun: it says nothing of what was missed in between."""
    with scene(1) as it:
        a, b = it.client("a"), it.client("b")
        mine, other = a.candidacy(), b.candidacy()
        grant = a.win(mine)
        must(isinstance(b.attempt(other), Behind), "a seat that is held is waited for")
        late = b.candidacy()
        b.run(other.resign())
        it.world.run(0.1)
        b.ways[0].order_reply("look", 0.5)
        looking = b.start(late.attempt())
        it.world.run(0.01)
        b.ways[0].live.clear()
        a.run(mine.resign())  # of which b hears nothing
        b.ways[0]._subscribe("e")
        it.within(SOON, looking.done, "it has an answer")
        it.world.run(0.1)
        second = b.win(late, within=SOON)
        must(second.token > grant.token, "tokens rise")


@schedule
def an_answer_that_is_overtaken_by_a_word_is_old() -> None:
    """The seat was given back when the answer was under way that shows it held."""
    with scene(1) as it:
        a, b = it.client("a"), it.client("b")
        mine, other = a.candidacy(), b.candidacy()
        a.win(mine)
        must(isinstance(b.attempt(other), Behind), "a seat that is held is waited for")
        b.ways[0].order_reply("look", 0.5)
        b.start(b.backend.leader("e"))
        it.world.run(0.01)
        a.run(mine.resign())
        it.world.run(1.0)
        b.win(other, within=SOON)


@schedule
def what_is_over_does_not_come_back_by_an_attempt() -> None:
    """A win was told to nobody; when its lease is over, the next attempt asks for a new epoch."""
    with scene() as it:
        a = it.client("a")
        mine = a.candidacy()
        first = a.win(mine)
        it.world.run(TTL + 0.1)
        second = a.win(mine)
        must(second.token > first.token, f"the token {second.token} is given twice")


@schedule
def a_voter_that_has_forgotten_keeps_its_agreement() -> None:
    """Two lists that share voters: the one may not count those that the other has lost for a moment."""
    with scene(5) as it:
        a = it.client("a")
        b = it.client("b", it.server(3, 4, 5), config="d")
        a.only(1, 2, 3)
        grant = a.win(a.candidacy())
        for server in it.server(4, 5):
            server.kill()
            server.start()
        end = it.world.now + 3 * TTL
        other = b.candidacy()
        answer: Any = None
        while it.world.now < end and not isinstance(answer, Grant):
            answer = b.attempt(other)
            renewed = a.renew(grant)
            must(isinstance(renewed, Renewed), "a goes on")
            it.world.run(TTL / 4)
        must(not isinstance(answer, Grant), "two lead, by two lists of voters")


# -- another list --------------------------------------------------------------------------------------------


class Lists:
    """Two lists of voters: the old one has the first three servers, the new one the fourth instead of the third."""

    def __init__(self, it: Scene) -> None:
        self.it = it
        names = [f"v{server.number}:6379" for server in it.servers]
        self.servers = dict(zip(names, it.servers, strict=True))
        self._old, self._new = names[2], names[3]
        self.urls = [url_of(names[:3], TTL), url_of([*names[:2], names[3]], TTL)]
        self.configs = [agreement_of(parse(url)) for url in self.urls]
        for server in it.server(1, 2, 3):
            server.run("init", [KEY.encode()], [b"nonce", self.configs[0].encode(), b"birth%d" % server.number])

    def before(self, name: str) -> Client:
        """With the old URL."""
        return self.it.client(name, self.it.server(1, 2, 3), config=self.configs[0])

    def after(self, name: str) -> Client:
        """With the new one."""
        return self.it.client(name, self.it.server(1, 2, 4), config=self.configs[1])

    def agreed(self, server: Server) -> str:
        """To which list it belongs."""
        return server.data[KEY.encode()][b"marker"].decode().split(" ")[3]

    def replace(self, *, slow: int = 0) -> asyncio.Task[list[Finding]]:
        """What an operator does, to whom the way to one voter may be long."""
        operator = self.it.world.process("operator", rate=1.0)
        delays = {name: 0.3 if server.number == slow else 0.001 for name, server in self.servers.items()}
        return operator.start(replace(operator, self.urls[1], self.servers, delays, self._old, self._new))


@schedule
def a_voter_is_replaced_when_nobody_leads() -> None:
    """Then candidates of the new list are elected, with tokens above those of the old one."""
    with scene(4, new=True) as it:
        lists = Lists(it)
        a, b = lists.before("a"), lists.after("b")
        mine, other = a.candidacy(), b.candidacy()
        first = a.win(mine)
        a.run(mine.resign())
        must(not isinstance(b.attempt(other), Grant), "the new voter is waited for")
        it.world.run(TTL)
        replacing = lists.replace()
        it.within(3 * TTL, replacing.done, "the list is changed")
        found = replacing.result()
        must(all(each.verdict is Verdict.OK for each in found), f"the list is changed: {found}")
        b.only(2, 3)
        second = b.win(other, within=SOON)
        must(second.token > first.token, f"the token {second.token} comes after {first.token}")
        must(not isinstance(a.attempt(a.candidacy()), Grant), "nobody is elected by the old list any more")


@schedule
def no_list_is_changed_under_a_leader() -> None:
    """Who leads by the old list has two voters of it; the other one and the new one would be a majority."""
    with scene(4, new=True) as it:
        lists = Lists(it)
        a, b = lists.before("a"), lists.after("b")
        a.only(2, 3)
        mine, other = a.candidacy(), b.candidacy()
        grant = a.win(mine)
        b.only(1, 3)
        promise = grant.promise
        for _ in range(5):  # meanwhile the quarantine of the new voter is over
            b.attempt(other)
            it.world.run(2.0)
            promise = a.renew(grant).promise
        replacing = lists.replace()
        end = it.world.now + 2 * TTL
        while it.world.now < end:
            answer = a.renew(grant)
            promise = answer.promise if isinstance(answer, Renewed) else promise
            answer = b.attempt(other)
            if isinstance(answer, Grant):
                it.alone(a, promise, answer)
            it.world.run(1.0)
        must(replacing.done(), "the operator is told")
        must(isinstance(a.renew(grant), Renewed), "a leads all the time")


@schedule
def a_voter_that_has_left_a_list_is_in_none_until_a_majority_has() -> None:
    """At the last moment somebody is elected by the old list, with a voter that was to be handed over."""
    with scene(4, new=True) as it:
        lists = Lists(it)
        a, b = lists.before("a"), lists.after("b")
        a.only(2, 3)
        b.only(1, 3)
        mine, other = a.candidacy(), b.candidacy()
        a.win(mine)
        a.run(mine.resign())
        must(not isinstance(b.attempt(other), Grant), "the new voter is waited for")
        it.world.run(TTL)
        lists.replace(slow=2)
        (one,) = it.server(1)
        it.within(3 * TTL, lambda: lists.agreed(one) != lists.configs[0], "the first voter leaves the old list")
        second = a.win(a.candidacy(), within=SOON)
        answer = b.attempt(other)
        if isinstance(answer, Grant):
            it.alone(a, second.promise, answer)


if __name__ == "__main__":
    sys.exit(SCHEDULES.play(sys.argv[1:]))
