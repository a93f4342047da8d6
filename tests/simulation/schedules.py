"""Directed schedules: for each rule the one course of events in which breaking it shows.

The rule: a schedule raises `Broken` where the promise is broken, and nothing else. All run on the sources as they are
in test_directed.py; test_mutants.py runs them in a copy in which one rule is patched out, and sees them break.

    python -m tests.simulation.schedules NAME [NAME ...]        exit status 3: broken
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any

import coordkit
from coordkit import clock as coordkit_clock
from coordkit import testing
from coordkit.audit import Fate, judge
from coordkit.backends import memory
from coordkit.backends.contract import Behind, Candidacy, Grant, Host, Renewed
from coordkit.backends.sqlite.adapter import SQLiteBackend
from coordkit.clock import SystemClock, new_candidate_id, seeded_chance
from coordkit.errors import BackendError
from coordkit.lease import Instant
from coordkit.model import CandidateInfo, FencingToken, LossReason, TermState
from coordkit.registry import connect, parse
from coordkit.term import Tenure
from coordkit.testing.virtual import Process, VirtualElector, World
from tests.simulation.playing import Schedules, must
from tests.simulation.storm import Broken

SCHEDULES = Schedules()
schedule = SCHEDULES.schedule


class Scene:
    """A world with a few electors of one election, and the steps that the courses are made of."""

    def __init__(self, world: World, ttl: float, names: str = "ab", rate: float | None = 1.0) -> None:
        self.world = world
        self.ttl = ttl
        self.electors = [world.process(name, rate=rate).elector("e", ttl=ttl) for name in names]

    def campaign(self, elector: VirtualElector) -> asyncio.Task[Tenure | None]:
        return elector.process.start(elector.campaign())

    def lead(self, elector: VirtualElector) -> Tenure:
        """The elector leads, or the promise is broken that it can."""
        campaign = self.campaign(elector)
        self.within(10 * self.ttl, campaign.done, f"{elector.process.name} can lead")
        tenure = campaign.result()
        assert tenure is not None
        self.world.run(0.01)  # it looks once more, for the hint of its own arrival
        return tenure

    def within(self, seconds: float, condition: Callable[[], bool], promise: str) -> None:
        try:
            self.world.run_until(condition, seconds)
        except TimeoutError:
            raise Broken(f"not within {seconds:g} s: {promise}") from None

    def entries(self) -> list[str]:
        return [row.candidate.id for row in self.world.store.rows("e")]


@contextlib.contextmanager
def scene(*, ttl: float, names: str = "ab", rate: float | None = 1.0, **world: Any) -> Iterator[Scene]:
    """A world whose clocks are right, unless it is said how wrong they are."""
    with World(1, **{"store_rate": 1.0, **world}) as made:
        yield Scene(made, ttl, names, rate)
        failures = [failure for process in made.processes for failure in process.faults_of_the_core()]
        must(not failures, f"nothing in the core fails: {failures}")


def followed_safely(it: Scene, first: Tenure, second: VirtualElector) -> None:
    """The second elector comes to lead, and at that moment the first one's term is over by its own clock."""
    campaign = it.campaign(second)
    it.within(10 * it.ttl, campaign.done, "there is a successor")
    must(first.ended() is not None, "when the successor leads, the term before is over by its holder's own clock")


# -- rule 1: a promise counts from before it was asked for ------------------------------------------------


@schedule
def a_promise_counts_from_the_request() -> None:
    with scene(ttl=3.0) as it:
        a, b = it.electors
        a.process.faults.spare_replies()  # to open
        a.process.faults.delay_replies(0.9)
        first = it.lead(a)
        a.process.faults.cut()
        followed_safely(it, first, b)


@schedule
def a_renewed_promise_counts_from_its_request() -> None:
    with scene(ttl=3.0) as it:
        a, b = it.electors
        first = it.lead(a)
        a.process.faults.delay_replies(0.9)
        it.world.run(1.94)  # renewed at 1.0, the answer came at 1.9
        must(first.promise.remaining(a.process.clock.now()) > 1.1, "a renewal that is answered extends")
        a.process.faults.cut()
        followed_safely(it, first, b)


@schedule
def a_slow_clock_stops_before_a_fast_one_expires() -> None:
    with scene(ttl=10.0, rate=0.95, drift=0.05, store_rate=1.05) as it:
        a, b = it.electors
        first = it.lead(a)
        a.process.faults.cut()
        followed_safely(it, first, b)


@schedule
def a_leader_that_slept_knows_when_it_wakes() -> None:
    with scene(ttl=2.0) as it:
        a, b = it.electors
        first = it.lead(a)
        a.process.suspend()
        second = it.lead(b)
        a.process.resume()
        must(first.ended() is not None, "a machine that slept past the deadline wakes to a term that is over")
        must(second.ended() is None, "and its successor leads")


# -- rule 2: loss is a local timer -----------------------------------------------------------------------


@schedule
def a_term_ends_by_the_clock_though_the_engine_hangs() -> None:
    with scene(ttl=2.0) as it:
        a, b = it.electors
        first = it.lead(a)
        a.process.stall()
        followed_safely(it, first, b)


@schedule
def a_loss_is_told_in_time_after_a_sleep() -> None:
    """A renewal is under way, bounded by a timer that does not see the sleep."""
    with scene(ttl=6.0) as it:
        a, _ = it.electors
        first = it.lead(a)
        told: list[float] = []
        a.process.keeper.watch_end(first, lambda: told.append(it.world.now))
        a.process.faults.cut()
        it.world.run(2.1)  # a renewal was sent at 2.0
        a.process.suspend()
        it.world.run(5.0)
        a.process.resume()
        it.world.run(0.5)
        must(bool(told), "the loss is told within 250 ms of running time, whatever the loop waits for")


@schedule
def a_loss_is_told_when_nothing_answers() -> None:
    with scene(ttl=3.0) as it:
        a, _ = it.electors
        first = it.lead(a)
        told: list[float] = []
        a.process.keeper.watch_end(first, lambda: told.append(it.world.now))
        a.process.faults.cut()
        it.world.run(3.0)
        must(bool(told) and told[0] < 2.95, "the loss is told at the deadline, without any answer")
        must(first.state() == (TermState.LOST, LossReason.EXPIRED), "an unanswered term expires")


@schedule
def an_engine_that_runs_late_says_so() -> None:
    with scene(ttl=3.0, names="a") as it:
        a = it.electors[0]
        first = it.lead(a)
        it.world.run(1.1)
        a.process.stall()
        it.world.run(0.9)
        a.process.faults.lose_replies()
        a.process.resume()
        it.world.run(0.3)
        must(first.state()[0] is TermState.JEOPARDY, "an engine that runs late by more than ttl/10 is jeopardy")
        reasons = [str(record["detail"]) for record in it.world.records if record["event"] == "jeopardy"]
        must(len(reasons) == 1 and "late" in reasons[0], f"and that is the reason told: {reasons}")
        it.world.run(2.0)
        must(first.state()[0] is TermState.LEADING, "until a renewal has come through")


# -- rule 4: unknown is an answer ------------------------------------------------------------------------


@schedule
def an_unknown_renewal_extends_nothing() -> None:
    with scene(ttl=3.0) as it:
        a, b = it.electors
        first = it.lead(a)
        a.process.faults.cut()
        followed_safely(it, first, b)


@schedule
def a_lost_answer_ends_nothing() -> None:
    with scene(ttl=3.0) as it:
        a, _ = it.electors
        first = it.lead(a)
        a.process.faults.lose_replies()
        it.world.run(8.0)
        in_danger = [record for record in it.world.records if record["event"] == "jeopardy"]
        must(len(in_danger) == 1, "a renewal without an answer is jeopardy")
        must(first.state()[0] is TermState.LEADING, "one renewal without an answer costs nothing")


# -- rule 5: believe only what shows our own entry, live, in first place ---------------------------------


@schedule
def only_the_first_place_leads() -> None:
    with scene(ttl=3.0) as it:
        a, b = it.electors
        first = it.lead(a)
        campaign = it.campaign(b)
        it.world.run(9.0)
        must(not campaign.done(), "nobody leads beside a leader")
        must(first.ended() is None, "and that one leads on")


@schedule
def a_grant_that_comes_too_late_is_not_counted() -> None:
    """The request was carried out; its answer waits for a machine that sleeps until the promise is over."""
    with scene(ttl=6.0, names="a") as it:
        a = it.electors[0]
        a.process.faults.spare_replies()  # to open
        a.process.faults.delay_replies(1.0)
        campaign = it.campaign(a)
        it.world.run(0.5)
        a.process.suspend()
        it.world.run(6.2)
        a.process.resume()
        it.within(60.0, campaign.done, "it leads by a later promise")
        void = judge(it.world.records).count(Fate.VOID)
        must(void == 0, "a promise that was over when it came is no win")


# -- rule 6: stop, then release --------------------------------------------------------------------------


@schedule
def a_body_that_runs_keeps_its_lease() -> None:
    with scene(ttl=6.0) as it:
        a, b = it.electors
        first = it.lead(a)
        campaign = it.campaign(b)
        it.world.run(1.0)
        a.desk.close()  # the block under the term is still open
        must(first.ended() is not None, "a closed elector's term is over locally")
        it.world.run(4.5)
        must(not campaign.done(), "nobody is let in while the body may run and the lease has not run out")
        it.within(6.0, campaign.done, "the lease runs out")


@schedule
def a_body_that_is_over_hands_over_at_once() -> None:
    with scene(ttl=6.0) as it:
        a, b = it.electors
        first = it.lead(a)
        campaign = it.campaign(b)
        it.world.run(1.0)
        a.desk.close()
        a.leave(first)
        it.within(0.1, campaign.done, "a body that is over holds nobody up")


class SlowFence:
    """A fence of which nobody comes back."""

    def __init__(self, process: Process) -> None:
        self.asked = 0
        self._process = process

    def admit(self, token: FencingToken) -> None:
        self.asked += 1
        raise RuntimeError("the resource is down")


@schedule
def a_win_that_nobody_gets_is_released() -> None:
    with scene(ttl=30.0) as it:
        _, b = it.electors
        process = it.world.process("c", rate=1.0)
        fence = SlowFence(process)
        c = process.elector("e", ttl=30.0, fences=(fence,))
        campaign = it.campaign(c)
        it.within(1.0, campaign.done, "the fence is asked")
        must(isinstance(campaign.exception(), RuntimeError), "what the fence raises is told")
        must(fence.asked == 1, "the fence is asked once")
        won = it.campaign(b)
        it.within(1.0, won.done, "a win that is not delivered is over and released")


@schedule
def a_term_is_over_before_it_is_released() -> None:
    """With the real elector, in real time: the store is told while the term is not valid any more."""
    name = "over-before-released"
    valid_then: list[bool] = []
    faults = testing.faults(name)
    elector = coordkit.LeaderElector(f"memory://{name}", "e", ttl=5.0)
    term = elector.campaign(timeout=10.0)
    store = memory.stores[name]
    remove = store.remove

    def watched(election: str, candidate_id: str) -> None:
        valid_then.append(term.valid)
        remove(election, candidate_id)

    store.remove = watched  # type: ignore[method-assign]
    term.resign()
    must(not term.valid, "a resigned term is over")
    must(valid_then == [False], f"it was over when the store was told: {valid_then}")
    must(faults.entries("e") == (), "and the entry is gone")
    elector.close()


# -- rule 7: idempotent by name --------------------------------------------------------------------------


@schedule
def a_late_clean_up_hits_only_its_own() -> None:
    with scene(ttl=6.0, names="a") as it:
        a = it.electors[0]
        first = it.lead(a)
        a.process.faults.delay_requests(3.0)
        a.leave(first)
        it.world.run(0.5)
        it.world.store.remove("e", first.candidate.id)  # an earlier copy of that request
        second = it.lead(a)
        it.world.run(3.0)
        must(it.entries() == [second.candidate.id], "a late clean-up leaves the later entry alone")
        it.world.run(6.0)
        must(second.ended() is None, "and its term goes on")


@schedule
def an_unknown_create_is_cleaned_up() -> None:
    with scene(ttl=30.0) as it:
        a, b = it.electors
        a.process.faults.spare_replies()  # to open
        a.process.faults.lose_replies()
        campaign = it.campaign(a)
        it.world.run(1.0)
        must(len(it.entries()) == 1, "the entry was made, and nobody was told")
        campaign.cancel()
        won = it.campaign(b)
        it.within(2.0, won.done, "an entry that may have been made is removed when its campaign is given up")


@schedule
def a_create_that_arrives_after_its_clean_up_blocks_no_longer_than_its_lease() -> None:
    with scene(ttl=6.0) as it:
        a, b = it.electors
        a.process.faults.spare_requests()  # to open
        a.process.faults.delay_requests(3.0)
        campaign = it.campaign(a)
        it.world.run(0.5)
        campaign.cancel()
        it.world.run(2.6)
        must(len(it.entries()) == 1, "it came when everything was cleaned up")
        won = it.campaign(b)
        it.within(6.1, won.done, "an entry that nobody keeps is over with its lease")


@schedule
def a_clean_up_goes_on_until_it_is_done() -> None:
    with scene(ttl=30.0) as it:
        a, b = it.electors
        first = it.lead(a)
        a.process.faults.lose_requests()
        a.leave(first)
        it.world.run(1.0)
        must(len(it.entries()) == 1, "the request was lost")
        won = it.campaign(b)
        it.within(14.0, won.done, "a lost clean-up is repeated")


@schedule
def a_campaign_given_up_at_any_moment_leaves_nothing() -> None:
    """Cancelled after the first pass of its loop, after the second, and so on until it is elected."""
    for passes in range(1, 1000):
        with scene(ttl=30.0, names="ab") as it:
            a, b = it.electors
            a.process.faults.delay(0.01)
            campaign = it.campaign(a)
            it.world.run_until(lambda passes=passes, a=a: a.process.passes >= passes)  # type: ignore[misc]
            if campaign.done():
                must(passes > 5, f"{passes} passes: the campaign has moments at which it can be given up")
                return
            campaign.cancel()
            it.world.run(1.0)
            must(campaign.cancelled(), f"given up after {passes} passes, it ends")
            must(it.entries() == [], f"given up after {passes} passes, it leaves nothing")
            won = it.campaign(b)
            it.within(0.1, won.done, f"given up after {passes} passes, it holds nobody up")
    raise Broken("a campaign without rivals is elected")


# -- rule 8: every wait ends -----------------------------------------------------------------------------


@schedule
def an_open_without_an_answer_is_repeated() -> None:
    with scene(ttl=3.0, names="a") as it:
        a = it.electors[0]
        a.process.faults.lose_requests()
        it.lead(a)


@schedule
def an_attempt_without_an_answer_is_repeated() -> None:
    with scene(ttl=3.0, names="a") as it:
        a = it.electors[0]
        a.process.faults.spare_requests()  # to open
        a.process.faults.lose_requests()
        it.lead(a)


@schedule
def a_renewal_without_an_answer_is_repeated() -> None:
    with scene(ttl=3.0, names="a") as it:
        a = it.electors[0]
        first = it.lead(a)
        a.process.faults.lose_requests()
        it.world.run(9.0)
        must(first.ended() is None, "a renewal that was lost is sent again in time")


@schedule
def a_release_without_an_answer_is_repeated() -> None:
    a_clean_up_goes_on_until_it_is_done()


@schedule
def an_observer_survives_a_lost_answer() -> None:
    with scene(ttl=3.0) as it:
        a, b = it.electors
        seen: list[str | None] = []

        async def follow() -> None:
            observation = b.desk.observe()
            number = 0
            while True:
                number, state = await observation.after(number)
                seen.append(None if state is None else state.candidate.label)

        following = b.process.start(follow())
        it.world.run(1.0)
        for moment in range(4):  # whatever it is asking just then
            b.process.faults.spare_replies(moment)
            b.process.faults.lose_replies()
            first = it.lead(a)
            it.within(12.0, lambda: seen[-1:] == ["a"], "an observer that missed an answer sees the leader")
            b.process.faults.spare_requests(moment)
            b.process.faults.lose_requests()
            a.leave(first)
            it.within(12.0, lambda: seen[-1:] == [None], "and sees it go")
        must(not following.done(), "and follows on")


@schedule
def a_backend_that_is_down_is_asked_for_ever() -> None:
    with scene(ttl=1.0, names="a") as it:
        a = it.electors[0]
        a.process.faults.cut(refused=True)
        campaign = it.campaign(a)
        it.world.run(1200.0)  # some 7,000 failures
        must(not campaign.done(), "a campaign without a timeout never gives up")
        warnings = [line for line in a.process.logged if line[1] == "warning"]
        must(600 <= len(warnings) <= 1300, f"it warns about once each ttl, not {len(warnings)} times in 1,200 ttls")
        a.process.faults.heal()
        it.within(2.0, campaign.done, "and it is elected when the backend is back")


# -- rule 9: two electors in one process contend like any two --------------------------------------------


@schedule
def two_electors_of_a_process_contend() -> None:
    with scene(ttl=3.0, names="a") as it:
        a = it.electors[0]
        twin = a.process.elector("e", ttl=3.0)
        first = it.lead(a)
        campaign = it.campaign(twin)
        it.world.run(9.0)
        must(not campaign.done(), "one of two electors leads")
        a.leave(first)
        it.within(0.1, campaign.done, "then the other")


# -- rule 10: a late reply never revives a term ----------------------------------------------------------


@schedule
def a_late_reply_revives_nothing() -> None:
    """It was under way while the machine slept past the deadline; no timer of the loop has seen the sleep."""
    with scene(ttl=6.0, names="a") as it:
        a = it.electors[0]
        first = it.lead(a)
        it.world.run(1.9)
        a.process.faults.delay_replies(1.0)  # the renewal of 2.0 is granted: until 7.9, if its answer counted
        it.world.run(0.6)
        a.process.suspend()
        it.world.run(4.0)
        a.process.resume()
        it.world.run(0.1)
        must(first.state() == (TermState.LOST, LossReason.EXPIRED), "a term that was over is over")
        must(not judge(it.world.records).violations, "and the journal says nothing else")


# -- SQLite ----------------------------------------------------------------------------------------------


class SettableClock:
    """This machine's clocks, each of which a schedule can set forward."""

    covers_suspend = True

    def __init__(self) -> None:
        self.ahead = Instant(0.0, 0.0, 0.0)
        self.wall_ahead = 0.0
        self._real = SystemClock()

    def now(self) -> Instant:
        now, ahead = self._real.now(), self.ahead
        return Instant(now.boot + ahead.boot, now.raw + ahead.raw, now.mono + ahead.mono)

    def wall(self) -> float:
        return self._real.wall() + self.wall_ahead


class Silent:
    """A log and a journal for which nobody asks."""

    def info(self, message: str, *values: object) -> None: ...
    def warning(self, message: str, *values: object) -> None: ...
    def error(self, message: str, *values: object) -> None: ...
    def flush(self, timeout: float) -> None: ...
    def write(self, event: str, /, **fields: object) -> None: ...


class BareHost:
    """A host on the running loop."""

    def __init__(self) -> None:
        self.clock = SettableClock()
        self.chance = seeded_chance("schedule")
        self.log = self.journal = Silent()

    def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work, name=name)

    async def offload(self, call: Callable[[], Any]) -> Any:
        return call()


class NamespacedTime:
    """Stands for the module `time` in `coordkit.clock`: as in a time namespace, CLOCK_BOOTTIME is ahead."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    def clock_gettime(self, clock: int) -> float:
        return time.clock_gettime(clock) + (self.ahead if clock == time.CLOCK_BOOTTIME else 0.0)


@contextlib.contextmanager
def namespace(ahead: float, offset: float) -> Iterator[None]:
    """CLOCK_BOOTTIME is `ahead` of the host's, and the kernel tells an offset."""
    real = coordkit_clock.time, coordkit_clock.boottime_offset
    coordkit_clock.time = NamespacedTime(ahead)  # type: ignore[assignment]
    coordkit_clock.boottime_offset = lambda pid, path="": offset  # type: ignore[assignment]
    try:
        yield
    finally:
        coordkit_clock.time, coordkit_clock.boottime_offset = real  # type: ignore[misc]


class File:
    """An SQLite file, and the candidates on it, each on a backend of its own."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "elections.db")
        self.backends: list[SQLiteBackend] = []

    async def candidate(self, label: str, ttl: float = 30.0, drift: float = 0.01) -> Candidacy:
        host: Host = BareHost()
        backend = connect(parse(f"sqlite://{self.path}", {"drift": drift}), host)
        assert isinstance(backend, SQLiteBackend)
        self.backends.append(backend)
        await backend.open()
        info = CandidateInfo(new_candidate_id(label, host.chance) + str(len(self.backends)), label)
        return backend.candidacy("e", info, ttl)

    def execute(self, statement: str, *values: object) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute(statement, values)
        connection.close()

    async def close(self) -> None:
        for backend in self.backends:
            await backend.close()


def on_a_file(course: Callable[[File], Awaitable[None]]) -> Callable[[], None]:
    """A schedule on a fresh file."""

    async def play(folder: str) -> None:
        file = File(folder)
        try:
            await course(file)
        finally:
            await file.close()

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(play(folder))

    run.__name__ = course.__name__
    return schedule(run)


async def granted(candidacy: Candidacy) -> Grant:
    answer = await candidacy.attempt()
    must(isinstance(answer, Grant), f"a free row is granted, not {answer}")
    assert isinstance(answer, Grant)
    return answer


@on_a_file
async def sqlite_a_promise_counts_from_the_request(file: File) -> None:
    candidate = await file.candidate("a")
    blocker = sqlite3.connect(file.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    attempt = asyncio.create_task(candidate.attempt())
    await asyncio.sleep(0.1)  # it waits for the lock; how long does not matter
    before = SystemClock().now()
    blocker.execute("ROLLBACK")
    blocker.close()
    answer = await attempt
    must(isinstance(answer, Grant) and answer.promise.sent < before, "a promise counts from before it was asked for")


@on_a_file
async def sqlite_a_renewed_promise_counts_from_its_request(file: File) -> None:
    candidate = await file.candidate("a")
    grant = await granted(candidate)
    blocker = sqlite3.connect(file.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    renewal = asyncio.create_task(file.backends[0].renew([grant]))
    await asyncio.sleep(0.1)
    before = SystemClock().now()
    blocker.execute("ROLLBACK")
    blocker.close()
    (answer,) = await renewal
    must(isinstance(answer, Renewed) and answer.promise.sent < before, "a renewed promise counts from its request")


@on_a_file
async def sqlite_a_row_is_looked_at_again_before_it_is_taken(file: File) -> None:
    """Both have seen that the row is free before either takes it."""
    a, b = await file.candidate("a"), await file.candidate("b")
    looked = asyncio.Event()
    go_on = asyncio.Event()
    read = file.backends[0].row

    async def slow_read(election: str) -> Any:
        row = await read(election)
        looked.set()
        await go_on.wait()
        return row

    file.backends[0].row = slow_read  # type: ignore[method-assign]
    attempt = asyncio.create_task(a.attempt())
    await looked.wait()
    await granted(b)
    go_on.set()
    must(isinstance(await attempt, Behind), "a row that was taken meanwhile is not taken again")


@on_a_file
async def sqlite_a_lapsed_row_is_not_renewed(file: File) -> None:
    grant = await granted(await file.candidate("a"))
    with namespace(ahead=31.0, offset=0.0):  # 31 s later
        (answer,) = await file.backends[0].renew([grant])
    must(not isinstance(answer, Renewed), "a lease that has run out is not renewed: another may have looked already")


@on_a_file
async def sqlite_a_deadline_means_the_same_in_a_time_namespace(file: File) -> None:
    await granted(await file.candidate("a"))
    with namespace(ahead=1000.0, offset=1000.0):
        answer = await (await file.candidate("b")).attempt()
    must(isinstance(answer, Behind), "a leader is not over because CLOCK_BOOTTIME is ahead in this namespace")
    assert isinstance(answer, Behind)
    must(answer.wait is not None and 20 < answer.wait <= 30, f"its lease runs out in less than 30 s, not {answer.wait}")


@on_a_file
async def sqlite_a_row_of_another_boot_is_waited_for(file: File) -> None:
    await granted(await file.candidate("a"))
    file.execute("UPDATE coordkit_elections SET boot_id = 'another', deadline = 1.0")
    b = await file.candidate("b", drift=0.05)
    clock = file.backends[-1].host.clock
    assert isinstance(clock, SettableClock)
    answer = await b.attempt()
    must(isinstance(answer, Behind), "the deadline of another boot says nothing here")
    assert isinstance(answer, Behind)
    must(answer.wait is not None and answer.wait >= 30 * 1.1 - 1, f"it is waited out on slow clocks, not {answer.wait}")
    must(not answer.alive, "a row that has not moved is no sign of life")
    clock.ahead = Instant(40.0, 0.0, 0.0)  # the machine has slept, and perhaps its holder's, too
    must(isinstance(await b.attempt(), Behind), "a sleep is no waiting")
    clock.ahead = Instant(40.0, 40.0, 31.0)
    must(isinstance(await b.attempt(), Behind), "the slower of the waiter's clocks counts")
    file.execute("UPDATE coordkit_elections SET stamp = 'moved'")
    answer = await b.attempt()
    must(isinstance(answer, Behind) and answer.alive, "a row that moves is a sign of life")
    clock.ahead = Instant(80.0, 80.0, 64.5)
    await granted(b)


@on_a_file
async def sqlite_a_replaced_file_is_another_election(file: File) -> None:
    grant = await granted(await file.candidate("a"))
    other = File(os.path.dirname(file.path))
    other.path += ".other"
    await granted(await other.candidate("b"))
    await other.close()
    os.rename(other.path, file.path)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.path + suffix)
    try:
        (answer,) = await file.backends[0].renew([grant])
    except BackendError:
        return
    must(not isinstance(answer, Renewed), "the row of a file that is there no more is not renewed")


@on_a_file
async def sqlite_a_release_frees_only_its_own_row(file: File) -> None:
    a, b = await file.candidate("a"), await file.candidate("b")
    await granted(a)
    await a.resign()
    grant = await granted(b)
    await a.resign()  # late
    (answer,) = await file.backends[1].renew([grant])
    must(isinstance(answer, Renewed), "a late clean-up leaves a later holder alone")


@on_a_file
async def sqlite_a_wall_clock_that_steps_changes_nothing(file: File) -> None:
    tokens = []
    for hours in (0, -1, 1, -1, 0):
        candidate = await file.candidate("a")
        clock = file.backends[-1].host.clock
        assert isinstance(clock, SettableClock)
        clock.wall_ahead = hours * 3600.0
        grant = await granted(candidate)
        tokens.append(grant.token)
        (answer,) = await file.backends[-1].renew([grant])
        must(isinstance(answer, Renewed), "a lease is renewed whatever the wall clock says")
        clock.wall_ahead = -hours * 3600.0
        must(isinstance(await (await file.candidate("b")).attempt(), Behind), "and nobody else is let in")
        await candidate.resign()
    must(all(low < high for low, high in pairwise(tokens)), f"tokens rise: {tokens}")


@on_a_file
async def sqlite_tokens_rise(file: File) -> None:
    tokens = []
    for label in "abcde":
        candidate = await file.candidate(label)
        tokens.append((await granted(candidate)).token)
        await candidate.resign()
    file.execute("UPDATE coordkit_elections SET epoch = epoch + 3600000000")  # by a clock that was an hour ahead
    tokens.append(tokens[-1] + 3_600_000_000)
    tokens.append((await granted(await file.candidate("f"))).token)
    must(all(low < high for low, high in pairwise(tokens)), f"tokens rise: {tokens}")


if __name__ == "__main__":
    sys.exit(SCHEDULES.play(sys.argv[1:]))
