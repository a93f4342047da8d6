"""Every clause of the semantics that the design promises, each a test with the clause as its docstring.

The rule: one text for both faces and every store; a store that behaves otherwise is wrong, not excused. What only one
face has (threads and signals; tasks and cancellation) stands in a section of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from coordkit import (
    AsyncLeaderElector,
    CampaignTimeout,
    CandidateInfo,
    ConfigError,
    ElectorBusy,
    ElectorClosed,
    FencingToken,
    Guarantees,
    LeaderElector,
    LeaderInfo,
    LeadershipLost,
    LossReason,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    Session,
    StaleToken,
    TermState,
    Unavailable,
    aio,
    engine,
)
from coordkit import elector as sync_face
from tests.contract.bench import (
    BENCHES,
    LONG,
    SHORT,
    STORES,
    Bench,
    MemoryStore,
    SQLiteStore,
    Store,
    SyncBench,
    in_child,
    in_thread,
    logged,
    on_engine,
    scenario,
)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, store: Store) -> Bench:
    return BENCHES[request.param](store)


only_sync = pytest.mark.parametrize("bench", ["sync"], indirect=True)
only_async = pytest.mark.parametrize("bench", ["async"], indirect=True)
only_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)
only_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


class Stop(Exception):
    """An exception of the application's own."""


def raised_by(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


# -- leaving a block -------------------------------------------------------------------------------------


@scenario
async def test_leaving_a_block_resigns_and_removes_our_entry(bench: Bench) -> None:
    """`__exit__` resigns and removes our entry."""
    async with bench.block(bench.elector().lead()) as term:
        assert term.valid
        assert bench.store.entries("e") == [term.candidate.id]
    assert (term.state, term.reason, term.valid) == (TermState.RESIGNED, None, False)
    assert bench.store.entries("e") == []
    assert await bench.call(bench.elector().try_campaign)


@scenario
async def test_leaving_a_block_does_not_close_the_elector(bench: Bench) -> None:
    """`__exit__` does not close the elector, which may be entered again."""
    elector = bench.elector()
    lead, tokens = elector.lead(), []
    for block in (elector, lead, lead, elector):
        async with bench.block(block) as term:
            tokens.append(term.token)
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("how", ["with", "by hand", "stack"])
def test_an_elector_is_entered_and_left_in_every_way_that_python_has(store: Store, how: str) -> None:
    """`__enter__` and `__exit__` are those of any context manager: called by a statement, by hand or by a stack."""
    elector = LeaderElector(store.url, "e")
    for _ in range(2):
        if how == "with":
            with elector as term:
                assert term.valid
        elif how == "by hand":
            term = elector.__enter__()
            assert term.valid
            elector.__exit__(None, None, None)
        else:
            with contextlib.ExitStack() as stack:
                term = stack.enter_context(elector)
                assert term.valid
        assert term.state is TermState.RESIGNED
        assert store.entries("e") == []
    elector.close()


@pytest.mark.parametrize("how", ["with", "by hand", "stack"])
def test_an_async_elector_is_entered_and_left_in_every_way_that_python_has(store: Store, how: str) -> None:
    """`__aenter__` and `__aexit__` are those of any async context manager."""

    async def main() -> None:
        elector = AsyncLeaderElector(store.url, "e")
        for _ in range(2):
            if how == "with":
                async with elector as term:
                    assert term.valid
            elif how == "by hand":
                term = await elector.__aenter__()
                assert term.valid
                await elector.__aexit__(None, None, None)
            else:
                async with contextlib.AsyncExitStack() as stack:
                    term = await stack.enter_async_context(elector)
                    assert term.valid
            assert term.state is TermState.RESIGNED
            assert store.entries("e") == []
        await elector.close()

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Stop, KeyboardInterrupt, SystemExit])
@scenario
async def test_the_bodys_exception_wins_over_a_loss(bench: Bench, kind: type[BaseException]) -> None:
    """The body's exception always wins (KeyboardInterrupt too; a note tells of a loss)."""
    error = kind("the body's own")
    with pytest.raises(kind) as caught:
        async with bench.block(bench.elector().lead()) as term:
            await bench.lose(term)
            raise error
    assert caught.value is error
    assert error.__notes__ == [f"coordkit: the term {term.token} is over: reason: revoked"]


@only_sync
@scenario
async def test_a_cancellation_wins_over_a_loss(bench: Bench) -> None:
    """The body's exception always wins, CancelledError too; for tasks see "an outer cancel wins"."""
    with pytest.raises(asyncio.CancelledError) as caught:
        async with bench.block(bench.elector().lead()) as term:
            await bench.lose(term)
            raise asyncio.CancelledError
    assert caught.value.__notes__ == [f"coordkit: the term {term.token} is over: reason: revoked"]


@pytest.mark.parametrize("kind", [Stop, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
@scenario
async def test_the_bodys_exception_resigns_and_tells_of_nothing_else(bench: Bench, kind: type[BaseException]) -> None:
    """The body's exception always wins: without a loss there is no note, and the term is resigned."""
    with pytest.raises(kind) as caught:
        async with bench.block(bench.elector().lead()) as term:
            raise kind
    assert not hasattr(caught.value, "__notes__")
    assert term.state is TermState.RESIGNED
    assert bench.store.entries("e") == []


@scenario
async def test_a_body_that_returns_after_its_term_was_lost_raises(bench: Bench) -> None:
    """A body that returns after its term *was lost* raises `LeadershipLost`."""
    with pytest.raises(LeadershipLost) as caught:
        async with bench.block(bench.elector().lead()) as term:
            await bench.lose(term)
    assert caught.value.term is term
    assert caught.value.reason is LossReason.REVOKED
    assert (term.state, term.reason) == (TermState.LOST, LossReason.REVOKED)


@scenario
async def test_a_body_that_returns_after_its_own_resign_does_not_raise(bench: Bench) -> None:
    """... (not after its own `resign()`)."""
    async with bench.block(bench.elector().lead()) as term:
        await bench.call(term.resign)
        assert term.state is TermState.RESIGNED
        assert bench.store.entries("e") == []
        await bench.call(term.resign)
    assert term.state is TermState.RESIGNED


@scenario
async def test_an_error_while_resigning_is_logged_and_not_raised(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """An error while resigning is logged, never raised over the body's; the entry is removed as soon as it can be."""
    elector = bench.elector(ttl=3.0)
    error = Stop()
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        with pytest.raises(Stop) as caught:
            async with bench.block(elector.lead()) as term:
                stack.enter_context(bench.store.outage())
                raise error
        assert caught.value is error
        assert time.monotonic() - began < 3.0  # ttl/3 for the store, and no more
        assert term.state is TermState.RESIGNED
        await bench.until(lambda: [text for _, text in logged(caplog) if "could not be removed" in text])
        assert bench.store.entries("e") == [term.candidate.id]
    await bench.until(lambda: bench.store.entries("e") == [])


@only_memory
@scenario
async def test_a_refusal_while_resigning_is_logged_and_not_raised(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """An error while resigning is logged, never raised: one that will not go away, too."""
    assert isinstance(bench.store, MemoryStore)
    with contextlib.ExitStack() as stack:
        async with bench.block(bench.elector().lead()):
            stack.enter_context(bench.store.failing(lambda: Rejected("not yours")))
        assert ("ERROR", "an entry is left to its lease: Rejected('not yours')") in logged(caplog)


@scenario
async def test_in_a_forked_child_leaving_does_nothing(bench: Bench) -> None:
    """In a forked child `__exit__` does nothing."""
    manager = bench.elector().lead()
    async with bench.block(manager) as term:

        def leave() -> object:
            if bench.kind == "sync":
                return manager.__exit__(None, None, None)
            try:
                manager.__aexit__(None, None, None).send(None)
            except StopIteration as done:
                return done.value
            return "it waited"

        assert in_child(leave) == "None"
        assert term.valid
        assert bench.store.entries("e") == [term.candidate.id]
        await bench.call(term.confirm)


# -- hold ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, Stop])
@scenario
async def test_leaving_waits_until_the_seat_was_held(bench: Bench, error: type[Exception] | None) -> None:
    """The seat is kept for at least `hold` after the win; leaving the block waits (after an exception too)."""
    elector, other = bench.elector(hold=0.4), bench.elector()
    with pytest.raises(Stop) if error else contextlib.nullcontext():
        async with bench.block(elector.lead()) as term:
            won, seen = time.monotonic(), asyncio.create_task(bench.call(other.campaign))
            if error:
                raise error
    assert time.monotonic() - won >= 0.35
    assert term.state is TermState.RESIGNED
    assert (await seen).token > term.token


@scenario
async def test_resigning_waits_until_the_seat_was_held_and_renews_meanwhile(bench: Bench) -> None:
    """`hold`: the seat is kept, renewed, for at least that long after the win, however short the ttl."""
    term = await bench.call(bench.elector(ttl=SHORT, hold=SHORT * 2).campaign)
    won, other = time.monotonic(), bench.elector()
    resigning = asyncio.create_task(bench.call(term.resign))
    while not resigning.done() and time.monotonic() - won < SHORT * 1.8:
        assert await bench.call(other.try_campaign) is None
        await asyncio.sleep(SHORT / 5)
    await resigning
    assert time.monotonic() - won >= SHORT * 1.9
    assert term.state is TermState.RESIGNED


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@scenario
async def test_an_interrupt_does_not_wait_and_leaves_the_lease(bench: Bench, kind: type[BaseException]) -> None:
    """... (on KeyboardInterrupt, SystemExit or cancellation the lease is left to run out instead)."""
    other = bench.elector(ttl=SHORT)
    with pytest.raises(kind):
        async with bench.block(bench.elector(ttl=SHORT, hold=LONG).lead()) as term:
            raise kind
    assert term.state is TermState.RESIGNED
    assert bench.store.entries("e") == [term.candidate.id]
    assert (await bench.call(other.campaign, timeout=LONG)).token > term.token


@scenario
async def test_a_lost_seat_is_not_waited_for(bench: Bench) -> None:
    """`hold` ends with the term: nothing is kept that is lost."""
    with pytest.raises(LeadershipLost):
        async with bench.block(bench.elector(hold=LONG * 4).lead()) as term:
            await bench.lose(term)


@scenario
async def test_with_hold_a_cron_job_runs_once_per_tick(bench: Bench) -> None:
    """With `try_campaign` a cron job then runs once per tick on N hosts instead of N times in a row."""
    ran = []

    async def invoked(number: int) -> None:
        term = await bench.call(bench.elector(hold=0.7).try_campaign)
        if term is not None:
            ran.append(number)
            await bench.call(term.resign)

    await asyncio.gather(*(invoked(number) for number in range(5)))
    assert len(ran) == 1


# -- eligible --------------------------------------------------------------------------------------------


class Eligible:
    """Answers as told; notes how often and where it was asked."""

    def __init__(self, *answers: bool, finally_: bool = True) -> None:
        self.answers = list(answers)
        self.finally_ = finally_
        self.asked = 0
        self.threads: set[int] = set()

    def __call__(self) -> bool:
        self.asked += 1
        self.threads.add(threading.get_ident())
        return self.answers.pop(0) if self.answers else self.finally_


@scenario
async def test_eligible_is_asked_before_each_attempt_off_the_engine(bench: Bench) -> None:
    """`eligible`: asked off the engine before each attempt; one who says no never has an entry."""
    eligible = Eligible(finally_=False)
    with pytest.raises(CampaignTimeout):
        await bench.call(bench.elector(ttl=SHORT, eligible=eligible).campaign, timeout=SHORT)
    assert eligible.asked >= 2
    assert bench.store.entries("e") == []
    assert eligible.threads.isdisjoint({threading.get_ident(), on_engine(threading.get_ident)})


@scenario
async def test_eligible_is_asked_again_after_the_win(bench: Bench) -> None:
    """`eligible`: again after the win and before the body; a no gives the seat up."""
    fence = Admitted()
    eligible = Eligible(True, False, False, True)
    term = await bench.call(bench.elector(ttl=SHORT, eligible=eligible, fences=[fence]).campaign, timeout=LONG)
    assert eligible.asked == 6  # before and after a win that was not taken, twice in the wait, before and after the win
    assert fence.tokens == [term.token]  # the term that was given up never reached anybody
    assert bench.store.entries("e") == [term.candidate.id]


@scenario
async def test_eligible_is_asked_every_third_of_a_ttl_while_waiting(bench: Bench) -> None:
    """`eligible`: every ttl/3 while waiting."""
    await bench.call(bench.elector().campaign)
    eligible = Eligible()
    waiting = asyncio.create_task(bench.call(bench.elector(ttl=SHORT, eligible=eligible).campaign, timeout=SHORT * 2))
    with pytest.raises(CampaignTimeout):
        await waiting
    assert 4 <= eligible.asked <= 16


@pytest.mark.parametrize("answer", ["no", "exception", "exit"])
@scenario
async def test_who_is_not_eligible_leaves_the_queue(
    bench: Bench, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`eligible`: False or an exception (logged) leaves the queue; a yes joins it again."""
    leader, eligible = await bench.call(bench.elector().campaign), [True]
    refused = threading.Event()

    def ask() -> bool:
        if eligible[0]:
            return True
        refused.set()
        if answer == "exception":
            raise Stop("no idea")
        if answer == "exit":
            raise SystemExit("no idea")
        return False

    candidate = bench.elector(ttl=SHORT, eligible=ask)
    waiting = asyncio.create_task(bench.call(candidate.campaign))
    if bench.store.backend == "memory":
        await bench.until(lambda: len(bench.store.entries("e")) == 2)
    eligible[0] = False
    assert await in_thread(refused.wait, LONG)
    await bench.until(lambda: bench.store.entries("e") == [leader.candidate.id])
    await bench.call(leader.resign)
    third = await bench.call(bench.elector().try_campaign)
    assert third is not None
    eligible[0] = True
    await bench.call(third.resign)
    assert (await waiting).token > third.token
    said = [text for level, text in logged(caplog) if level == "WARNING" and "taken as no" in text]
    assert bool(said) == (answer != "no")
    assert all("no idea" in text for text in said)


@scenario
async def test_no_answer_is_a_no_and_does_not_pile_up_threads(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """`eligible`: no answer within ttl/3 (logged) leaves the queue; one that hangs is not asked again meanwhile."""
    gate, asked = threading.Event(), []

    def ask() -> bool:
        asked.append(1)
        return gate.wait(LONG)

    candidate = bench.elector(ttl=SHORT, eligible=ask)
    waiting = asyncio.create_task(bench.call(candidate.campaign))
    await bench.until(lambda: [text for _, text in logged(caplog) if "no answer within 0.2 s; taken as no" in text])
    await asyncio.sleep(SHORT)  # three more times to ask
    assert asked == [1]
    assert bench.store.entries("e") == []
    gate.set()
    assert (await waiting).valid
    assert len(asked) == 4  # in the wait, before the attempt, after the win


@scenario
async def test_a_try_of_one_who_is_not_eligible_is_no_sign_of_life_of_another(bench: Bench) -> None:
    """`try_campaign` returns None only on a sign of life of another leader: not for want of eligibility."""
    with pytest.raises(CampaignTimeout, match="not eligible"):
        await bench.call(bench.elector(eligible=lambda: False).try_campaign)


# -- fences ----------------------------------------------------------------------------------------------


class Admitted:
    """A fence that notes what it admits, or refuses."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.tokens: list[FencingToken] = []
        self.threads: set[int] = set()

    def admit(self, token: FencingToken) -> None:
        self.threads.add(threading.get_ident())
        if self.refusal is not None:
            raise self.refusal
        self.tokens.append(token)


WAYS = ["block", "lead", "campaign", "try_campaign", "run", "start"]


async def won(bench: Bench, elector: Any, way: str, body: Callable[[Any], None]) -> None:
    """Win in one of the ways there are, and call `body` with the term as soon as it is in hand."""
    if way in ("block", "lead"):
        async with bench.block(elector if way == "block" else elector.lead()) as term:
            body(term)
    elif way in ("campaign", "try_campaign"):
        body(await bench.call(getattr(elector, way)))
    elif way == "run":

        async def work(term: Any) -> None:
            body(term)

        await bench.call(elector.run, bench.work(work))
    else:
        await bench.call(elector.start)
        await bench.until(lambda: elector.term is not None)
        body(elector.term)


@pytest.mark.parametrize("way", WAYS)
@scenario
async def test_fences_admit_before_the_term_is_handed_over(bench: Bench, way: str) -> None:
    """`fences`: each one's `admit(token)` runs before the term is handed over, in every way of winning."""
    one, two, seen = Admitted(), Admitted(), []

    def body(term: Any) -> None:
        seen.append((term.token, list(one.tokens), list(two.tokens)))

    await won(bench, bench.elector(fences=[one, two]), way, body)
    [(token, by_one, by_two)] = seen
    assert by_one == by_two == [token]
    assert one.threads.isdisjoint({threading.get_ident(), on_engine(threading.get_ident)})


@pytest.mark.parametrize("way", [way for way in WAYS if way != "start"])
@scenario
async def test_a_fence_that_raises_gives_the_seat_up(bench: Bench, way: str) -> None:
    """`fences`: if one raises, the term is resigned and the error propagates."""
    refusal = StaleToken(FencingToken("e", 1), FencingToken("e", 2))
    before, after = Admitted(), Admitted()
    elector = bench.elector(fences=[before, Admitted(refusal), after])
    reached: list[Any] = []
    with pytest.raises(StaleToken) as caught:
        await won(bench, elector, way, reached.append)
    assert caught.value is refusal
    assert (len(before.tokens), after.tokens, reached) == (1, [], [])
    await bench.until(lambda: bench.store.entries("e") == [])  # by itself, long before the lease
    assert await bench.call(elector.leader) is None


@scenario
async def test_start_tries_again_after_a_fence_that_raised(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """`start`: what `campaign` would raise is logged, and tried again after a ttl."""
    fence = Admitted(Stop("the resource is away"))
    elector = bench.elector(ttl=SHORT, fences=[fence])
    await bench.call(elector.start)
    await bench.until(lambda: [text for level, text in logged(caplog) if level == "ERROR" and "is away" in text])
    assert elector.term is None
    fence.refusal = None
    await bench.until(lambda: elector.term is not None)
    assert fence.tokens == [elector.term.token]


# -- campaign --------------------------------------------------------------------------------------------


@scenario
async def test_a_campaign_goes_on_while_the_backend_is_down(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """`campaign(timeout=None)` waits for ever: a backend that is down is retried (a warning each ttl)."""
    candidate = bench.elector(ttl=SHORT)
    with bench.store.outage():
        began = time.monotonic()
        waiting = asyncio.create_task(bench.call(candidate.campaign))

        def warnings() -> int:
            return len([1 for level, text in logged(caplog) if level == "WARNING" and "campaigning in 'e'" in text])

        await bench.until(lambda: warnings() >= 2)
        passed = time.monotonic() - began
        assert passed >= SHORT * 0.9
        assert warnings() <= passed / SHORT + 2
        assert not waiting.done()
    assert (await waiting).valid


@scenario
async def test_a_timeout_names_what_the_backend_said(bench: Bench) -> None:
    """`CampaignTimeout`: not elected within the time given; if the backend was failing, its last error is the cause."""
    seconds = 0.3 if bench.store.backend == "memory" else 1.4  # SQLite waits for a lock before it says so
    with bench.store.outage(), pytest.raises(CampaignTimeout, match=f"'e' within {seconds} s") as caught:
        await bench.call(bench.elector(ttl=SHORT).campaign, timeout=seconds)
    assert isinstance(caught.value.__cause__, (Unavailable, OutcomeUnknown))


@scenario
async def test_a_timeout_leaves_nothing_behind(bench: Bench) -> None:
    """`campaign(timeout=…)`: who gave up is in no queue, and may campaign again."""
    leader, elector = await bench.call(bench.elector().campaign), bench.elector()
    with pytest.raises(CampaignTimeout):
        await bench.call(elector.campaign, timeout=0.1)
    await bench.until(lambda: bench.store.entries("e") == [leader.candidate.id])
    await bench.call(leader.resign)
    assert await bench.call(elector.campaign)


@only_memory
@pytest.mark.parametrize("kind", [Rejected, Misconfigured])
@scenario
async def test_what_will_not_go_away_raises_at_once(bench: Bench, kind: type[Rejected | Misconfigured]) -> None:
    """`Rejected` and `Misconfigured` raise at once."""
    assert isinstance(bench.store, MemoryStore)
    with bench.store.failing(lambda: kind("no", backend="memory", operation="attempt")):
        for way in ("campaign", "try_campaign", "leader", "candidates"):
            with pytest.raises(kind) as caught:
                await bench.call(getattr(bench.elector(), way))
            assert (caught.value.backend, caught.value.operation) == ("memory", "attempt")


@only_sqlite
@scenario
async def test_a_place_that_cannot_hold_an_election_raises_at_once(bench: Bench, tmp_path: Path) -> None:
    """`Misconfigured` raises at once: a missing folder, a folder in the file's place, a file that is no database."""
    (tmp_path / "text").write_text("this is no database " * 100)
    for path in ("missing/e.db", "", "text"):
        elector = bench.elector(target=f"sqlite://{tmp_path / path}")
        for way in ("campaign", "try_campaign", "leader"):
            with pytest.raises(Misconfigured) as caught:
                await bench.call(getattr(elector, way))
            assert caught.value.backend == "sqlite"


@only_sqlite
@scenario
async def test_each_waiter_gets_an_exception_of_its_own(bench: Bench, tmp_path: Path) -> None:
    """Each waiter gets a fresh exception instance, also where one failure is told to many."""
    electors = [bench.elector(name, target=f"sqlite://{tmp_path}/missing/e.db") for name in ("a", "b", "c")]
    found = await asyncio.gather(*(bench.call(each.leader) for each in electors), return_exceptions=True)
    assert {type(error) for error in found} == {Misconfigured}
    assert len({id(error) for error in found}) == 3


@scenario
async def test_a_read_that_fails_is_unavailable(bench: Bench) -> None:
    """A read that fails is `Unavailable`, within its timeout."""
    elector = bench.elector()
    with bench.store.outage():
        for way in ("leader", "candidates"):
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await bench.call(getattr(elector, way), timeout=0.2)
            assert time.monotonic() - began < 2.0
    assert await bench.call(elector.leader) is None


# -- try_campaign ----------------------------------------------------------------------------------------


@scenario
async def test_a_try_gives_up_when_another_leader_is_seen_alive(bench: Bench) -> None:
    """`try_campaign` returns None on a sign of life of another leader during the call, and leaves nothing behind."""
    leader, elector = await bench.call(bench.elector().campaign), bench.elector()
    assert await bench.call(elector.try_campaign) is None
    await bench.until(lambda: bench.store.entries("e") == [leader.candidate.id])
    await bench.call(leader.resign)
    term = await bench.call(elector.try_campaign)
    assert term.valid


@scenario
async def test_a_try_takes_over_after_a_crash(bench: Bench) -> None:
    """A cron process that never lives for a ttl must still be able to take over after a crash."""
    dead = await bench.call(bench.elector(ttl=SHORT).campaign)
    on_engine(lambda: stop_renewing(bench.electors[0]))
    began = time.monotonic()
    while (term := await bench.call(bench.elector(ttl=SHORT).try_campaign)) is None:
        assert time.monotonic() - began < LONG
        await asyncio.sleep(0.05)
    assert term.token > dead.token


def stop_renewing(elector: Any) -> None:
    """As if its process had died: nothing renews, nothing resigns."""
    [slot] = elector._slots.values()
    for loop in list(slot.desk.keeper._loops):
        loop.cancel()


@scenario
async def test_a_try_without_a_backend_times_out(bench: Bench) -> None:
    """... or every wait has run out: then `CampaignTimeout`."""
    elector = bench.elector(ttl=SHORT)
    began = time.monotonic()
    with bench.store.outage(), pytest.raises(CampaignTimeout, match="nobody else was seen alive") as caught:
        await bench.call(elector.try_campaign)
    assert isinstance(caught.value.__cause__, (Unavailable, OutcomeUnknown))
    assert SHORT * 0.9 <= time.monotonic() - began < LONG / 2
    assert (await bench.call(elector.try_campaign)).valid


@only_sqlite
@scenario
async def test_a_try_waits_out_what_the_store_imposes(bench: Bench) -> None:
    """`try_campaign` goes on until every wait that the store imposes has run out: here a row of another boot."""
    assert isinstance(bench.store, SQLiteStore)
    dead = await bench.call(bench.elector(ttl=SHORT).campaign)
    await bench.call(bench.electors[0].close)
    bench.store.execute("UPDATE coordkit_elections SET boot_id = 'another', deadline = 1e9, stamp = 'x'")
    began = time.monotonic()
    term = await bench.call(bench.elector(ttl=SHORT).try_campaign)
    assert term.token > dead.token
    assert time.monotonic() - began >= SHORT


@only_sqlite
@scenario
async def test_a_try_takes_a_row_that_moves_for_a_sign_of_life(bench: Bench) -> None:
    """`try_campaign` returns None on a sign of life during the call: a row of another boot that moves."""
    assert isinstance(bench.store, SQLiteStore)
    sqlite = bench.store
    await bench.call(bench.elector(ttl=1.0).campaign)
    await bench.call(bench.electors[0].close)
    sqlite.execute("UPDATE coordkit_elections SET boot_id = 'another', deadline = 1e9, stamp = 'x'")
    trying = asyncio.create_task(bench.call(bench.elector(ttl=1.0).try_campaign))
    for beat in range(1000):
        if trying.done():
            break
        sqlite.execute("UPDATE coordkit_elections SET stamp = ?", f"beat {beat}")
        await asyncio.sleep(0.05)
    assert await trying is None


# -- terms that are dropped ------------------------------------------------------------------------------


@scenario
async def test_a_term_dropped_before_it_was_delivered_leaves_no_entry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `Term` won without a block: dropped before it was delivered, its entry is removed."""
    module = sync_face if bench.kind == "sync" else aio
    with monkeypatch.context() as patch:
        patch.setattr(module, "Term" if bench.kind == "sync" else "AsyncTerm", raised_by_call(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            await bench.call(bench.elector().campaign)
    await bench.until(lambda: bench.store.entries("e") == [])
    assert await bench.call(bench.electors[0].campaign)


def raised_by_call(error: BaseException) -> Callable[..., Any]:
    def fail(*values: Any) -> None:
        raise error

    return fail


@scenario
async def test_a_term_dropped_afterwards_is_ended_and_its_lease_runs_out(bench: Bench) -> None:
    """Dropped afterwards, it is ended locally and its lease runs out (ResourceWarning), for its work may still run."""
    elector = bench.elector(ttl=SHORT)
    term = await bench.dropping(elector.campaign)
    tenure, candidate = term._tenure, term.candidate.id
    with pytest.warns(ResourceWarning, match="was dropped without resign"):
        del term
    assert tenure.state() == (TermState.LOST, LossReason.CLOSED)
    assert bench.store.entries("e") == [candidate]
    assert (await bench.call(elector.campaign, timeout=LONG)).token > tenure.token


@scenario
async def test_a_dropped_term_is_ended_although_warnings_are_errors(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped afterwards, it is ended locally, whatever becomes of the warning."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_type))
    term = await bench.dropping(bench.elector(ttl=SHORT).campaign)
    tenure = term._tenure
    del term
    gc.collect()
    assert raised == [ResourceWarning]
    assert tenure.state() == (TermState.LOST, LossReason.CLOSED)


@scenario
async def test_a_term_without_a_block_is_left_to_its_lease_by_close(bench: Bench) -> None:
    """A `Term` won without a block: closed, it is ended locally and its lease runs out."""
    elector, other = bench.elector(ttl=SHORT), bench.elector(ttl=SHORT)
    term = await bench.call(elector.campaign)
    await bench.call(elector.close)
    assert (term.state, term.reason) == (TermState.LOST, LossReason.CLOSED)
    assert bench.store.entries("e") == [term.candidate.id]
    assert (await bench.call(other.campaign, timeout=LONG)).token > term.token


@scenario
async def test_a_term_won_without_a_block_may_open_one(bench: Bench) -> None:
    """`Term` is a context manager too: leaving resigns, and the elector may be entered again."""
    elector = bench.elector()
    term = await bench.call(elector.campaign)
    async with bench.block(term) as same:
        assert same is term
        with pytest.raises(RuntimeError, match="open already"):
            await bench.block(term).__aenter__()
        with pytest.raises(ElectorBusy):
            await bench.call(elector.campaign)
    assert term.state is TermState.RESIGNED
    assert bench.store.entries("e") == []
    assert await bench.call(elector.campaign)


@pytest.mark.parametrize("how", ["resigned", "lost"])
@scenario
async def test_no_block_is_entered_under_a_term_that_is_over(bench: Bench, how: str) -> None:
    """`Term` is a context manager too: of a term that is over it is `LeadershipLost`, and no body begins."""
    term = await bench.call(bench.elector().campaign)
    if how == "resigned":
        await bench.call(term.resign)
    else:
        bench.store.revoke("e")
        assert await bench.call(term.wait_ended, LONG)
    with pytest.raises(LeadershipLost) as caught:
        async with bench.block(term):
            pytest.fail("a body was entered")
    assert caught.value.term is term
    assert await bench.call(bench.electors[0].campaign)


# -- close -----------------------------------------------------------------------------------------------


@scenario
async def test_close_never_releases_under_an_open_block(bench: Bench) -> None:
    """`close` ends the term locally (`on_lost` fires), `__exit__` releases if its body is over before the lease."""
    elector, told = bench.elector(), asyncio.Event()
    loop = asyncio.get_running_loop()
    with pytest.raises(LeadershipLost) as caught:
        async with bench.block(elector.lead()) as term:
            term.on_lost(lambda lost: loop.call_soon_threadsafe(told.set))
            closing = asyncio.create_task(bench.call(elector.close))
            await bench.until_lost(term)
            await closing
            await told.wait()
            assert (term.state, term.reason) == (TermState.LOST, LossReason.CLOSED)
            assert bench.store.entries("e") == [term.candidate.id]
    assert caught.value.reason is LossReason.CLOSED
    assert bench.store.entries("e") == []


@scenario
async def test_waiters_are_told_of_the_close(bench: Bench) -> None:
    """`close`: waiters get `ElectorClosed`."""
    leader = await bench.call(bench.elector().campaign)
    elector = bench.elector(eligible=(eligible := Eligible()))
    states = elector.observe()
    assert (await bench.next(states)).token == leader.token
    observing = asyncio.create_task(bench.next(states))
    waiting = asyncio.create_task(bench.call(elector.campaign))
    await bench.until(lambda: eligible.asked)
    await bench.call(elector.close)
    for task in (waiting, observing):
        with pytest.raises(ElectorClosed):
            await task
    await bench.until(lambda: bench.store.entries("e") == [leader.candidate.id])


@scenario
async def test_a_closed_elector_says_so(bench: Bench) -> None:
    """`close` is idempotent, and nothing can be asked of a closed elector."""
    for used in (True, False):
        elector = bench.elector()
        if used:
            assert await bench.call(elector.leader) is None
        for _ in range(3):
            await bench.call(elector.close)
        assert elector.term is None
        for way in ("campaign", "try_campaign", "leader", "candidates", "start"):
            with pytest.raises(ElectorClosed):
                await bench.call(getattr(elector, way))
        with pytest.raises(ElectorClosed):
            await bench.call(elector.run, bench.work(Admitted().admit))  # type: ignore[arg-type]
        with pytest.raises(ElectorClosed):
            elector.observe()
        with pytest.raises(ElectorClosed):
            await bench.block(elector.lead()).__aenter__()


@scenario
async def test_close_does_not_wait_for_a_store_that_is_away(bench: Bench) -> None:
    """`close(timeout=…)` waits at most that long; the term is over all the same."""
    elector = bench.elector(ttl=3.0)
    term = await bench.call(elector.campaign)
    with bench.store.outage():
        began = time.monotonic()
        await bench.call(elector.close, timeout=0.2)
        assert time.monotonic() - began < 2.0
    assert term.reason is LossReason.CLOSED


@only_sync
@scenario
async def test_many_threads_may_close_at_once(bench: Bench) -> None:
    """`close`: idempotent, any thread."""
    elector = bench.elector()
    with pytest.raises(LeadershipLost):
        async with bench.block(elector.lead()) as term:
            await asyncio.gather(*(in_thread(elector.close) for _ in range(8)))
            assert term.reason is LossReason.CLOSED
    assert bench.store.entries("e") == []


@scenario
async def test_an_elector_that_nobody_has_any_more_closes_itself(bench: Bench) -> None:
    """An elector dropped while it contends leaves the queue."""
    leader = await bench.call(bench.elector().campaign)
    elector = bench.elector_type(bench.store.url, "e")
    await bench.call(elector.start)
    if bench.store.backend == "memory":
        await bench.until(lambda: len(bench.store.entries("e")) == 2)
    del elector
    gc.collect()
    await bench.until(lambda: bench.store.entries("e") == [leader.candidate.id])
    await bench.call(leader.resign)
    assert await bench.call(bench.elector().try_campaign)


# -- run -------------------------------------------------------------------------------------------------


@scenario
async def test_run_works_under_a_term_and_resigns(bench: Bench) -> None:
    """`run`: campaign, work, resign; it returns what the work returned."""
    seen: list[Any] = []

    async def work(term: Any) -> str:
        seen.append((term, term.valid, bench.store.entries("e")))
        return "done"

    assert await bench.call(bench.elector().run, bench.work(work)) == "done"
    [(term, valid, entries)] = seen
    assert valid
    assert entries == [term.candidate.id]
    assert (term.state, bench.store.entries("e")) == (TermState.RESIGNED, [])


@pytest.mark.parametrize("how", ["returns", "raises LeadershipLost"])
@scenario
async def test_run_works_again_after_a_loss(bench: Bench, how: str) -> None:
    """`run`: `LeadershipLost`, or a return after the loss, campaigns again; never a second before the first is over."""
    terms: list[Any] = []
    at_work: list[Any] = []

    async def work(term: Any) -> str:
        assert at_work == []
        at_work.append(term)
        terms.append(term)
        try:
            if len(terms) < 3:
                await bench.lose(term)
                await asyncio.sleep(0.02)  # slow to stop: the next must not begin
                if how != "returns":
                    term.ensure()
                return "too late"
            return "done"
        finally:
            at_work.remove(term)

    assert await bench.call(bench.elector().run, bench.work(work)) == "done"
    tokens = [term.token for term in terms]
    assert len(tokens) == 3
    assert tokens == sorted(set(tokens))


@scenario
async def test_run_does_not_repeat_work_that_failed_by_itself(bench: Bench) -> None:
    """`run`: its own exceptions resign and propagate."""
    terms: list[Any] = []

    async def work(term: Any) -> None:
        terms.append(term)
        raise Stop

    with pytest.raises(Stop):
        await bench.call(bench.elector().run, bench.work(work))
    assert [term.state for term in terms] == [TermState.RESIGNED]
    assert bench.store.entries("e") == []


@scenario
async def test_run_does_not_repeat_work_that_failed_after_a_loss(bench: Bench) -> None:
    """`run`: its own exceptions propagate, after a loss too; and so does the loss of another term than its own."""
    other = LeadershipLost("of another election", term=object(), reason=LossReason.EXPIRED)
    for error in (Stop(), other):

        async def work(term: Any, error: Exception = error) -> None:
            await bench.lose(term)
            raise error

        with pytest.raises(type(error)) as caught:
            await bench.call(bench.elector().run, bench.work(work))
        assert caught.value is error


@scenario
async def test_run_ends_when_the_elector_is_closed(bench: Bench) -> None:
    """`close` during `run`: the work sees its term lost, and `run` raises `ElectorClosed`."""
    elector = bench.elector()

    async def work(term: Any) -> None:
        closing = asyncio.create_task(bench.call(elector.close))
        await bench.until_lost(term)
        await closing

    with pytest.raises(ElectorClosed):
        await bench.call(elector.run, bench.work(work))


# -- on_lost ---------------------------------------------------------------------------------------------


@scenario
async def test_on_lost_is_called_once_in_order_for_a_lost_term(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """`on_lost`: once for each *lost* term, in order; its errors are logged."""
    term = await bench.call(bench.elector().campaign)
    calls: SimpleQueue[tuple[str, Any, TermState]] = SimpleQueue()

    def note(name: str) -> Callable[[Any], None]:
        return lambda lost: calls.put((name, lost, lost.state))

    term.on_lost(note("first"))
    term.on_lost(raised_by_call(Stop("of the callback")))
    term.on_lost(note("second"))
    bench.store.revoke("e")
    found = [await in_thread(calls.get, timeout=LONG) for _ in range(2)]
    assert found == [("first", term, TermState.LOST), ("second", term, TermState.LOST)]
    await bench.call(term.resign)
    await bench.call(bench.electors[0].close)
    assert calls.empty()
    failed = [record for record in caplog.records if "on_lost callback" in record.getMessage()]
    assert [record.levelname for record in failed] == ["ERROR"]
    assert failed[0].exc_info is not None
    assert isinstance(failed[0].exc_info[1], Stop)


@scenario
async def test_on_lost_is_not_called_for_a_resigned_term(bench: Bench) -> None:
    """`on_lost`: never for a resigned one; nor when it is registered after that."""
    elector = bench.elector()
    calls: list[Any] = []
    async with bench.block(elector.lead()) as term:
        term.on_lost(calls.append)
    term.on_lost(calls.append)
    await bench.call(elector.close)
    again = await bench.call(bench.elector().campaign)  # the engine has gone through all that came before
    await bench.call(again.confirm)
    assert calls == []


@scenario
async def test_registered_late_it_runs_at_once(bench: Bench) -> None:
    """`on_lost`: registered late it runs at once."""
    term = await bench.call(bench.elector().campaign)
    calls: SimpleQueue[Any] = SimpleQueue()
    bench.store.revoke("e")
    assert await bench.call(term.wait_ended, LONG)
    for _ in range(2):
        term.on_lost(calls.put)
        assert await in_thread(calls.get, timeout=LONG) is term
    assert calls.empty()


@only_sync
@scenario
async def test_callbacks_of_the_sync_face_run_on_a_fresh_daemon_thread(bench: Bench) -> None:
    """`on_lost`, sync: a fresh daemon thread per lost term."""
    threads: SimpleQueue[tuple[int, bool]] = SimpleQueue()

    def note(term: Any) -> None:
        threads.put((threading.get_ident(), threading.current_thread().daemon))

    term = await bench.call(bench.elector().campaign)
    term.on_lost(note)
    term.on_lost(note)
    bench.store.revoke("e")
    one, two = [await in_thread(threads.get, timeout=LONG) for _ in range(2)]
    assert one == two
    assert one[1]
    assert one[0] not in (threading.get_ident(), on_engine(threading.get_ident))


@only_sync
@scenario
async def test_a_callback_that_exits_its_thread_does_not_silence_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """`on_lost`: its errors are logged, SystemExit too; the next callback runs."""
    term = await bench.call(bench.elector().campaign)
    calls: SimpleQueue[Any] = SimpleQueue()
    term.on_lost(raised_by_call(SystemExit(3)))
    term.on_lost(calls.put)
    bench.store.revoke("e")
    assert await in_thread(calls.get, timeout=LONG) is term
    assert [record.levelname for record in caplog.records if "on_lost callback" in record.getMessage()] == ["ERROR"]


@only_async
@scenario
async def test_callbacks_of_the_async_face_run_on_the_loop_that_won(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """`on_lost`, async: the loop that won; a coroutine function is run as a task, its errors are logged."""
    term = await bench.call(bench.elector().campaign)
    called: asyncio.Queue[tuple[str, object]] = asyncio.Queue()

    def plain(lost: Any) -> None:
        called.put_nowait(("plain", asyncio.get_running_loop()))

    async def coroutine(lost: Any) -> None:
        await asyncio.sleep(0)
        called.put_nowait(("coroutine", asyncio.get_running_loop()))
        raise Stop

    term.on_lost(plain)
    term.on_lost(coroutine)
    bench.store.revoke("e")
    loop = asyncio.get_running_loop()
    assert [await called.get(), await called.get()] == [("plain", loop), ("coroutine", loop)]
    await bench.until(lambda: [1 for record in caplog.records if "on_lost callback" in record.getMessage()])


# -- losing a term ---------------------------------------------------------------------------------------


@scenario
async def test_a_term_in_jeopardy_is_valid_and_may_recover(bench: Bench) -> None:
    """Jeopardy: a renewal has failed; the term ends unless one succeeds soon."""
    term = await bench.call(bench.elector(ttl=3.0).campaign)
    assert term.state is TermState.LEADING
    with bench.store.outage():
        await bench.until(lambda: term.state is TermState.JEOPARDY)
        assert term.valid
        term.ensure()
    await bench.until(lambda: term.state is TermState.LEADING)
    await bench.call(term.confirm)


@scenario
async def test_a_term_that_cannot_be_renewed_ends_by_the_local_clock(bench: Bench) -> None:
    """A deadline on a local clock, after which it must not act: no reply is needed for it to fire."""
    term = await bench.call(bench.elector(ttl=SHORT).campaign)
    with bench.store.outage():
        began = time.monotonic()
        assert term.remaining() <= SHORT
        assert await bench.call(term.wait_ended)
        assert time.monotonic() - began <= SHORT * 3
        assert (term.state, term.reason) == (TermState.LOST, LossReason.EXPIRED)
        assert term.remaining() == 0.0
        with pytest.raises(LeadershipLost):
            term.ensure()


@scenario
async def test_ensure_asks_for_time(bench: Bench) -> None:
    """`ensure(min_remaining)`: LeadershipLost unless that many seconds of the lease are left."""
    term = await bench.call(bench.elector(ttl=5.0).campaign)
    term.ensure(min_remaining=2.0)
    with pytest.raises(LeadershipLost) as caught:
        term.ensure(min_remaining=6.0)
    assert caught.value.term is term
    assert term.valid


@scenario
async def test_confirm_asks_the_store(bench: Bench) -> None:
    """`confirm` asks the cluster: LeadershipLost if the entry is gone, and the term is over."""
    term = await bench.call(bench.elector().campaign)
    await bench.call(term.confirm)
    await bench.call(term.confirm, timeout=5.0)
    bench.store.revoke("e")
    with pytest.raises(LeadershipLost) as caught:
        await bench.call(term.confirm)
    assert caught.value.reason is LossReason.REVOKED
    assert not term.valid


@only_memory
@scenario
async def test_a_confirmation_that_fails_leaves_the_term_as_it_was(bench: Bench) -> None:
    """A read that fails is `Unavailable`; the term stands until its deadline."""
    term = await bench.call(bench.elector().campaign)
    with bench.store.outage(), pytest.raises(Unavailable):
        await bench.call(term.confirm, timeout=0.1)
    assert term.valid
    await bench.call(term.confirm)


@scenario
async def test_waiting_for_the_end_of_a_term(bench: Bench) -> None:
    """`wait_ended`: True when it is over, lost or resigned; False if the timeout passed first."""
    term = await bench.call(bench.elector().campaign)
    assert await bench.call(term.wait_ended, 0.05) is False
    assert await bench.call(term.wait_ended, timeout=0) is False
    waiting = [asyncio.create_task(bench.call(term.wait_ended)) for _ in range(3)]
    await bench.call(term.resign)
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert await bench.call(term.wait_ended, 0) is True


@scenario
async def test_what_the_leader_proclaims_is_seen(bench: Bench) -> None:
    """proclaim: publish the leader's metadata; LeadershipLost when the term is over."""
    elector = bench.elector(label="web-1", metadata="http://one")
    term = await bench.call(elector.campaign)
    assert term.candidate == CandidateInfo(term.candidate.id, "web-1", "http://one")
    assert await bench.call(elector.leader) == LeaderInfo(term.candidate, term.token, "http://one")
    await bench.call(term.proclaim, "http://zwei/ü")
    seen = await bench.call(bench.elector().leader)
    assert seen == LeaderInfo(term.candidate, term.token, "http://zwei/ü")
    await bench.call(term.resign)
    with pytest.raises(LeadershipLost):
        await bench.call(term.proclaim, "too late")
    assert await bench.call(elector.leader) is None


@scenario
async def test_the_term_of_an_elector_is_the_valid_one(bench: Bench) -> None:
    """`term`: the valid term by the local clock, or None."""
    elector = bench.elector()
    assert elector.term is None
    term = await bench.call(elector.campaign)
    assert elector.term is term
    bench.store.revoke("e")
    assert await bench.call(term.wait_ended, LONG)
    assert elector.term is None
    async with bench.block(elector.lead()) as term:
        assert elector.term is term
    assert elector.term is None


@scenario
async def test_contending_in_the_background(bench: Bench) -> None:
    """`start`: contend in the background until close(); then read .term, which comes back after a loss."""
    elector = bench.elector(ttl=SHORT)
    await bench.call(elector.start)
    with pytest.raises(ElectorBusy):
        await bench.call(elector.start)
    await bench.until(lambda: elector.term is not None)
    first = elector.term
    with pytest.raises(ElectorBusy):
        await bench.call(elector.campaign)
    bench.store.revoke("e")
    await bench.until(lambda: elector.term not in (None, first))
    second = elector.term
    assert second.token > first.token
    assert first.reason is LossReason.REVOKED
    await bench.call(elector.close)
    assert elector.term is None
    assert second.reason is LossReason.CLOSED


# -- losing a term in a task -----------------------------------------------------------------------------


def here() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@only_async
@scenario
async def test_a_loss_cancels_the_entering_task_once_and_becomes_leadership_lost(bench: Bench) -> None:
    """Async loss behaves as `asyncio.timeout` does: the entering task is cancelled once through its own loop."""
    cancelled = 0
    with pytest.raises(LeadershipLost) as caught:
        async with bench.elector().lead() as term:
            bench.store.revoke("e")
            for _ in range(2):
                try:
                    await asyncio.sleep(0.3 if cancelled else LONG)
                except asyncio.CancelledError:
                    cancelled += 1
                    assert here().cancelling() == 1
    assert cancelled == 1
    assert here().cancelling() == 0
    assert caught.value.term is term
    await asyncio.sleep(0)  # nothing is left to be delivered


@only_async
@scenario
async def test_the_cancellation_itself_becomes_leadership_lost(bench: Bench) -> None:
    """Async loss: LeadershipLost raised, with the cancellation as its cause, and no cancellation left behind."""
    with pytest.raises(LeadershipLost) as caught:
        async with bench.elector().lead():
            bench.store.revoke("e")
            await asyncio.sleep(LONG)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert here().cancelling() == 0
    assert bench.store.entries("e") == []


@only_async
@pytest.mark.parametrize("first", ["loss", "cancel"])
@scenario
async def test_an_outer_cancel_wins(bench: Bench, first: str) -> None:
    """Async loss: an outer cancel wins, whichever came first."""
    inside, go = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        async with bench.elector().lead() as term:
            inside.set()
            try:
                await asyncio.sleep(LONG)
            finally:
                if first == "loss":
                    assert not term.valid
                    here().cancel()
                else:
                    bench.store.revoke("e")
                    assert await term.wait_ended(LONG)
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.05)

    task = asyncio.create_task(body())
    await inside.wait()
    if first == "loss":
        bench.store.revoke("e")
    else:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    go.set()


@only_async
@scenario
async def test_an_outer_cancel_resigns(bench: Bench) -> None:
    """The body's exception always wins, CancelledError too; without a `hold` the seat is free at once."""
    inside = asyncio.Event()

    async def body() -> None:
        async with bench.elector().lead():
            inside.set()
            await asyncio.sleep(LONG)

    task = asyncio.create_task(body())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.store.entries("e") == []


@only_async
@scenario
async def test_a_cancelled_body_does_not_wait_for_hold(bench: Bench) -> None:
    """`hold`: on cancellation the lease is left to run out instead."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), bench.elector(hold=LONG, ttl=SHORT).lead() as term:
            await asyncio.sleep(LONG)
    assert bench.store.entries("e") == [term.candidate.id]
    assert await bench.call(bench.elector(ttl=SHORT).campaign, timeout=LONG)


@only_async
@scenario
async def test_timeouts_nest_with_a_term(bench: Bench) -> None:
    """Async loss: timeouts inside and outside are told apart from it."""
    async with bench.elector().lead() as term:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.sleep(LONG)
        assert term.valid
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), bench.elector().lead():
            await asyncio.sleep(LONG)
    assert bench.store.entries("e") == []
    with pytest.raises(LeadershipLost):
        async with asyncio.timeout(LONG), bench.elector().lead():
            bench.store.revoke("e")
            async with asyncio.timeout(LONG):
                await asyncio.sleep(LONG)
    assert here().cancelling() == 0


@only_async
@scenario
async def test_terms_nest(bench: Bench) -> None:
    """Async loss: of two nested terms the one that is lost is the one that raises."""
    async with bench.elector("outer").lead() as outer:
        with pytest.raises(LeadershipLost) as caught:
            async with bench.elector("inner").lead() as inner:
                bench.store.revoke("inner")
                await asyncio.sleep(LONG)
        assert caught.value.term is inner
        assert outer.valid
    with pytest.raises(LeadershipLost) as caught:
        async with bench.elector("outer").lead() as outer, bench.elector("inner").lead() as inner:
            bench.store.revoke("outer")
            await asyncio.sleep(LONG)
    assert caught.value.term is outer
    assert inner.state is TermState.RESIGNED
    assert here().cancelling() == 0


@only_async
@scenario
async def test_a_block_left_in_another_task_is_an_error(bench: Bench) -> None:
    """Async loss: a block left in another task is a RuntimeError; the seat is given up all the same."""
    manager = bench.elector().lead()
    term = await manager.__aenter__()

    async def leave() -> None:
        await manager.__aexit__(None, None, None)

    with pytest.raises(RuntimeError, match="left by the task that entered it"):
        await asyncio.create_task(leave())
    assert not term.valid
    await bench.until(lambda: bench.store.entries("e") == [])


@only_async
@scenario
async def test_tasks_that_the_body_made_are_not_reached(bench: Bench) -> None:
    """Not reached, and documented: `create_task` children. They ask the term."""
    async with asyncio.timeout(LONG):
        with pytest.raises(LeadershipLost):
            async with bench.elector().lead() as term:
                child = asyncio.create_task(term.wait_ended())
                bench.store.revoke("e")
                await asyncio.sleep(LONG)
        assert await child is True


@only_async
@scenario
async def test_a_term_won_without_a_block_cancels_nobody(bench: Bench) -> None:
    """Async loss: the *entering* task is cancelled; who entered no block is not."""
    term = await bench.elector().campaign()
    bench.store.revoke("e")
    assert await term.wait_ended(LONG)
    await asyncio.sleep(0.05)
    assert here().cancelling() == 0


@only_async
@scenario
async def test_a_body_that_blocks_its_loop_delays_no_renewal(bench: Bench) -> None:
    """Not reached, and documented: a body that blocks its loop. Its lease is renewed all the same."""
    async with bench.elector(ttl=1.0).lead() as term:
        threading.Event().wait(1.2)  # the whole loop stands still
        assert term.valid


# -- observe, candidates ---------------------------------------------------------------------------------


@scenario
async def test_observe_tells_the_present_state_and_then_what_it_sees(bench: Bench) -> None:
    """`observe`: the present state first, then states seen; tokens never fall; vacancy is None."""
    elector = bench.elector(ttl=3.0)
    states = bench.elector().observe()
    assert await bench.next(states) is None
    seen, newest = [], 0
    for _ in range(3):
        term = await bench.call(elector.campaign)
        while (state := await bench.next(states)) is None or state.token != term.token:
            seen.append(state)
        assert state == LeaderInfo(term.candidate, term.token, "")
        assert int(state.token) > newest
        newest = int(state.token)
        await bench.call(term.proclaim, "moved")
        while (state := await bench.next(states)) != LeaderInfo(term.candidate, term.token, "moved"):
            seen.append(state)
        await bench.call(term.resign)
        while (state := await bench.next(states)) is not None:
            seen.append(state)
    assert seen == []  # nothing was told twice, and nobody else was seen
    late = bench.elector().observe()
    assert await bench.next(late) is None


@scenario
async def test_observe_sees_a_lease_run_out(bench: Bench) -> None:
    """`observe`: vacancy is None, also where a lease ran out and nobody wrote it down."""
    elector = bench.elector(ttl=SHORT)
    term = await bench.call(elector.campaign)
    states = bench.elector(ttl=SHORT).observe()
    assert (await bench.next(states)).token == term.token
    await bench.call(elector.close)
    assert await bench.next(states) is None


@scenario
async def test_observe_goes_on_while_the_backend_is_down(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """`observe`: backend failures are retried with a warning."""
    states = bench.elector(ttl=SHORT).observe()
    with bench.store.outage():
        waiting = asyncio.create_task(bench.next(states))
        await bench.until(lambda: [text for _, text in logged(caplog) if "observing 'e'" in text])
        assert not waiting.done()
    assert await waiting is None


@scenario
async def test_candidates_are_in_queue_order_where_there_is_a_queue(bench: Bench) -> None:
    """`candidates()` is in queue order where the store has a queue; on SQLite it is the leader alone (`fifo=False`)."""
    observer = bench.elector()
    assert await bench.call(observer.candidates) == ()
    labels = ["first", "second", "third"]
    leader = await bench.call(bench.elector(label=labels[0]).campaign)
    waiting = []
    for place, label in enumerate(labels[1:], 2):
        eligible = Eligible()
        elector = bench.elector(label=label, eligible=eligible)
        waiting.append(asyncio.create_task(bench.call(elector.campaign)))
        if bench.store.backend == "memory":
            await bench.until(lambda place=place: len(bench.store.entries("e")) == place)
        else:
            await bench.until(lambda eligible=eligible: eligible.asked)
    fifo = Session(bench.store.url).guarantees.fifo
    found = [candidate.label for candidate in await bench.call(observer.candidates, timeout=5.0)]
    assert found == (labels if fifo else labels[:1])
    await bench.call(leader.resign)
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    if fifo:
        assert done == {waiting[0]}
    for elector in bench.electors:
        await bench.call(elector.close)
    for task in waiting:
        with contextlib.suppress(ElectorClosed):
            await task


# -- interrupted waits -----------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupting(ready: Callable[[], Any], number: int = signal.SIGINT) -> Iterator[None]:
    """Send a signal to this process, whose main thread waits, as soon as `ready`."""

    def send() -> None:
        deadline = time.monotonic() + LONG
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.02)  # from the question into the wait
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield
    thread.join()


def test_ctrl_c_in_a_campaign_returns_at_once_and_leaves_nothing(store: Store) -> None:
    """An interrupted wait (Ctrl-C) returns at once; clean-up goes on and leaves no entry."""
    leader = LeaderElector(store.url, "e")
    waiter = LeaderElector(store.url, "e", eligible=(eligible := Eligible()))
    with leader.lead() as term:
        with interrupting(lambda: eligible.asked), pytest.raises(KeyboardInterrupt):
            waiter.campaign()
        asyncio.run(SyncBench(store).until(lambda: store.entries("e") == [term.candidate.id]))
    won = waiter.try_campaign()
    assert won is not None
    waiter.close()
    leader.close()


@pytest.mark.parametrize("wait", ["wait_ended", "observe", "hold"])
def test_ctrl_c_in_other_waits_returns_at_once_too(store: Store, wait: str) -> None:
    """An interrupted wait (Ctrl-C) returns at once: for the end of a term, a change of leaders, the end of `hold`."""
    elector = LeaderElector(store.url, "e", hold=LONG if wait == "hold" else 0.0)
    term = elector.campaign()
    states = elector.observe()
    assert next(states) is not None
    waits: dict[str, Callable[[], object]] = {
        "wait_ended": term.wait_ended,
        "observe": lambda: next(states),
        "hold": term.resign,
    }
    with interrupting(lambda: True), pytest.raises(KeyboardInterrupt):
        waits[wait]()
    assert term.valid == (wait != "hold")
    assert store.entries("e") == [term.candidate.id]  # what was held is left to its lease
    elector.close()


@only_async
@scenario
async def test_a_cancelled_wait_returns_at_once_though_the_store_is_away(bench: Bench) -> None:
    """An interrupted wait (cancel) returns at once; clean-up goes on in the engine and leaves no entry."""
    elector = bench.elector()
    with bench.store.outage():
        for wait in (elector.campaign, elector.try_campaign, elector.leader, elector.observe().__anext__):
            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0.05)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 0.5
    assert await bench.call(elector.campaign, timeout=LONG)


@only_async
@scenario
async def test_a_campaign_cancelled_anywhere_leaves_no_entry(bench: Bench) -> None:
    """An interrupted wait leaves no entry that blocks longer than its lease: here it is gone at once."""
    elector = bench.elector()
    for turns in range(60):
        task = asyncio.create_task(elector.campaign())
        for _ in range(turns % 20):
            await asyncio.sleep(0.0005)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).resign()
    term = await bench.call(bench.elector().campaign, timeout=LONG)
    assert bench.store.entries("e") == [term.candidate.id]


# -- signals ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_signal(handler: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_close_in_a_signal_handler_while_the_main_thread_waits(store: Store) -> None:
    """`close`: safe in a signal handler, while the main thread waits in `campaign()`."""
    leader = LeaderElector(store.url, "e")
    waiter = LeaderElector(store.url, "e", eligible=(eligible := Eligible()))
    with leader.lead() as term:
        with on_signal(waiter.close), interrupting(lambda: eligible.asked, signal.SIGUSR1):
            began = time.monotonic()
            with pytest.raises(ElectorClosed):
                waiter.campaign()
            assert time.monotonic() - began < 10.0
        asyncio.run(SyncBench(store).until(lambda: store.entries("e") == [term.candidate.id]))
    leader.close()


def test_the_sigterm_recipe_hands_over_at_once(store: Store) -> None:
    """The SIGTERM recipe is `close()` and `sys.exit()`, which unwinds the block and so hands over at once."""
    elector, successor = LeaderElector(store.url, "e"), LeaderElector(store.url, "e")

    def recipe() -> None:
        elector.close()
        sys.exit(0)

    with on_signal(recipe), pytest.raises(SystemExit) as caught, elector.lead() as term:
        signal.raise_signal(signal.SIGUSR1)
        pytest.fail("the handler did not unwind the block")
    assert caught.value.__notes__ == [f"coordkit: the term {term.token} is over: reason: closed"]
    next_term = successor.try_campaign()
    assert next_term is not None
    assert next_term.token > term.token
    successor.close()


# -- busy ------------------------------------------------------------------------------------------------


@scenario
async def test_an_elector_is_one_candidate(bench: Bench) -> None:
    """At most one campaign or term at a time; entered again while busy: ElectorBusy."""
    leader, elector = await bench.call(bench.elector().campaign), bench.elector(eligible=(eligible := Eligible()))
    waiting = asyncio.create_task(bench.call(elector.campaign))
    await bench.until(lambda: eligible.asked)
    for busy in range(2):
        for way in ("campaign", "try_campaign", "start"):
            with pytest.raises(ElectorBusy):
                await bench.call(getattr(elector, way))
        for block in (elector, elector.lead()):
            with pytest.raises(ElectorBusy):
                await bench.block(block).__aenter__()
        with pytest.raises(ElectorBusy):
            await bench.call(elector.run, bench.work(Admitted().admit))  # type: ignore[arg-type]
        if not busy:
            await bench.call(leader.resign)
            await waiting
    assert (await waiting).valid
    await bench.call((await waiting).resign)
    async with bench.block(elector) as term:
        with pytest.raises(ElectorBusy):
            await bench.block(elector).__aenter__()
        assert term.valid
    assert term.state is TermState.RESIGNED


@scenario
async def test_of_two_that_race_for_one_elector_one_is_refused(bench: Bench) -> None:
    """ElectorBusy: two threads (or tasks) racing; one campaigns, the other is told."""
    for number in range(10):
        elector = bench.elector(f"e{number}")
        found = await asyncio.gather(*(bench.call(elector.campaign) for _ in range(2)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in found) in (["ElectorBusy", "Term"], ["AsyncTerm", "ElectorBusy"])


@scenario
async def test_two_electors_of_one_process_contend_like_any_two(bench: Bench) -> None:
    """Two electors in one process contend like any two: one leads."""
    electors = [bench.elector() for _ in range(4)]
    leading: list[Any] = []
    tokens: list[FencingToken] = []

    async def contend(elector: Any) -> None:
        async with bench.block(elector.lead()) as term:
            assert leading == []
            leading.append(term)
            tokens.append(term.token)
            await asyncio.sleep(0.01)
            leading.remove(term)

    await asyncio.gather(*(contend(elector) for elector in electors))
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 4


@scenario
async def test_elections_do_not_meet(bench: Bench) -> None:
    """An election is *one* path segment: `a` and `a/b` never meet."""
    terms = [await bench.call(bench.elector(name).try_campaign) for name in ("a", "a/b", "a%2Fb", "A", "ä")]
    assert all(term is not None and term.valid for term in terms)


# -- fork ------------------------------------------------------------------------------------------------


@only_sqlite
@scenario
async def test_a_child_that_inherits_an_unused_elector_starts_afresh(bench: Bench) -> None:
    """Fork: a child that inherits an unused elector starts afresh."""
    elector = bench.elector()
    await bench.call(bench.elector("other").campaign)  # the parent's engine runs

    def lead() -> object:
        return asyncio.run(lead_async()) if bench.kind == "async" else lead_sync()

    def lead_sync() -> object:
        with elector.lead() as term:
            return f"{term.valid} {f':{os.getpid()}:' in term.candidate.id}"

    async def lead_async() -> object:
        async with elector.lead() as term:
            return f"{term.valid} {f':{os.getpid()}:' in term.candidate.id}"

    assert in_child(lead) == "True True"
    assert (await bench.call(elector.try_campaign)).valid


@scenario
async def test_an_open_term_used_in_the_child_raises_at_once(bench: Bench) -> None:
    """Fork: an open term or session used in the child raises `ForkedProcessError` at once, never hangs."""
    session = Session(bench.store.url).open()
    elector = bench.elector(target=session)
    term = await bench.call(elector.campaign)
    states = elector.observe()
    await bench.next(states)

    def drive(wait: Callable[[], Any]) -> Callable[[], Any]:
        return wait if bench.kind == "sync" else lambda: asyncio.run(awaited(wait))

    async def awaited(wait: Callable[[], Any]) -> Any:
        return await wait()

    uses = [term.ensure, lambda: term.on_lost(print), session.check, session.open, session.close]
    uses += [drive(use) for use in (term.confirm, term.resign, term.wait_ended, elector.campaign, elector.leader)]
    uses += [drive(lambda: term.proclaim("x")), drive(states.__next__ if bench.kind == "sync" else states.__anext__)]
    for use in uses:
        assert in_child(use).startswith("ForkedProcessError: ")
    assert in_child(lambda: (term.valid, term.remaining(), term.state, term.reason)) == str(
        (False, 0.0, TermState.LOST, LossReason.FORKED)
    )
    assert term.valid
    await bench.call(term.confirm)
    session.close()


# -- exit ------------------------------------------------------------------------------------------------


@only_sqlite
def test_at_exit_terms_whose_body_may_run_are_left_to_their_lease(store: Store) -> None:
    """Exit: every term ends locally first; the others are left to their lease; nobody is waited for."""
    program = """
        import sys, threading
        from coordkit import LeaderElector
        inside = threading.Event()

        def body(name):
            with LeaderElector(sys.argv[1], name).lead() as term:
                inside.set()
                threading.Event().wait()

        with LeaderElector(sys.argv[1], "over").lead():
            pass
        threading.Thread(target=body, args=("open",), daemon=True).start()
        inside.wait()
        kept = LeaderElector(sys.argv[1], "kept").campaign()
        threading.Thread(target=LeaderElector(sys.argv[1], "kept").campaign, daemon=True).start()
    """
    began = time.monotonic()
    run = [sys.executable, "-c", textwrap.dedent(program), store.url]
    done = subprocess.run(run, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert all(line.startswith("the term ") for line in done.stderr.splitlines())
    assert time.monotonic() - began < 8.0
    assert [len(store.entries(name)) for name in ("over", "open", "kept")] == [0, 1, 1]


# -- sessions --------------------------------------------------------------------------------------------


def keepers() -> int:
    return len(engine.current().keepers)


@scenario
async def test_electors_given_equal_urls_and_options_share_a_session(bench: Bench) -> None:
    """Electors given equal URLs and options share one session by themselves, in whatever order the options are."""
    await bench.until(lambda: keepers() == 0)
    mark = "link=x" if bench.store.backend == "memory" else "drift=0.02"
    urls = [f"{bench.store.url}?{mark}"] * 2
    if bench.store.backend == "memory":
        urls = [f"{bench.store.url}?link=x&drift=0.02", f"{bench.store.url}?drift=0.02&link=x"]
    for number, url in enumerate(urls):
        assert await bench.call(bench.elector(f"e{number}", target=url).campaign)
        assert keepers() == 1
    assert await bench.call(bench.elector("e3", target=f"{bench.store.url}?drift=0.03").campaign)
    assert keepers() == 2
    for elector in bench.electors[:1]:
        await bench.call(elector.close)
    assert keepers() == 2
    for elector in bench.electors[1:]:
        await bench.call(elector.close)
    assert keepers() == 0


@scenario
async def test_closing_a_session_closes_its_electors(bench: Bench) -> None:
    """`Session.close` closes every elector that was made with it; idempotent."""
    session = Session(bench.store.url)
    one, two = (bench.elector(name, target=session) for name in ("one", "two"))
    term = await bench.call(one.campaign)
    foreign = await bench.call(bench.elector("foreign").campaign)
    for _ in range(2):
        await in_thread(session.close)
    assert (term.state, term.reason) == (TermState.LOST, LossReason.CLOSED)
    assert foreign.valid
    for elector in (one, two, bench.elector("three", target=session)):
        with pytest.raises(ElectorClosed):
            await bench.call(elector.campaign)
    with pytest.raises(ElectorClosed):
        session.open()


@only_sync
@scenario
async def test_opening_a_session_fails_fast(bench: Bench) -> None:
    """`Session.open`: optional: fail fast; it may be tried again."""
    session = Session(bench.store.url)
    with bench.store.outage():
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await in_thread(session.open, timeout=1.0)
        assert time.monotonic() - began < 5.0
    assert await in_thread(session.open) is session
    await in_thread(session.close)


@only_sync
@only_sqlite
@scenario
async def test_opening_a_session_says_what_is_wrong(bench: Bench, tmp_path: Path) -> None:
    """`Session.open` raises the `BackendError` that says why not."""
    session = Session(f"sqlite://{tmp_path}/missing/e.db")
    with pytest.raises(Misconfigured, match="missing does not exist"):
        await in_thread(session.open)
    await in_thread(session.close)


@only_sync
@scenario
async def test_a_session_is_a_block(bench: Bench) -> None:
    """`Session`: opened on entering, closed on leaving; its electors with it."""
    with Session(bench.store.url, drift=0.02) as session:
        elector = bench.elector(target=session)
        assert await bench.call(elector.campaign)
    with pytest.raises(ElectorClosed):
        await bench.call(elector.leader)


@only_sync
@scenario
async def test_guarantees_are_told_before_and_after_opening(bench: Bench) -> None:
    """`Guarantees`: what this backend promises and on what condition, each field read by a test."""
    session = Session(bench.store.url)
    before = session.guarantees
    assert isinstance(before, Guarantees)
    session.open()
    promised = session.guarantees
    session.close()
    assert promised == before
    assert promised.backend == bench.store.backend
    assert promised.fifo is (bench.store.backend == "memory")  # what that means: see the test of `candidates`
    assert "rising" in promised.token or "above its last one" in promised.token
    assert any("paused" in fault for fault in promised.survives)
    assert any("process" in fault or "machine" in fault for fault in promised.not_covered)
    assert not set(promised.survives) & set(promised.not_covered)


# -- values, and what is none ----------------------------------------------------------------------------


@scenario
async def test_values_pickle_and_what_belongs_to_a_process_does_not(bench: Bench) -> None:
    """Values pickle; electors, terms, sessions raise TypeError."""
    session = Session(bench.store.url)
    elector = bench.elector(target=session)
    term = await bench.call(elector.campaign)
    info = await bench.call(elector.leader)
    for value in (term.token, term.candidate, term.state, info, session.guarantees):
        assert pickle.loads(pickle.dumps(value)) == value
    for thing in (elector, term, session):
        for carry in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="belongs to its process"):
                carry(thing)
    session.close()


class AwaitedFence:
    """Nobody would await it, and so it would admit everything."""

    async def admit(self, token: object) -> None:
        """As `Fence.admit`."""


# -- bad input -------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"ttl": 0}, "ttl must be finite and > 0"),
    ({"ttl": -1.0}, "ttl must be finite and > 0"),
    ({"ttl": float("nan")}, "ttl must be finite"),
    ({"ttl": float("inf")}, "ttl must be finite"),
    ({"ttl": "10"}, "ttl is a number of seconds, not str"),
    ({"ttl": True}, "ttl is a number of seconds, not bool"),
    ({"ttl": None}, "ttl is a number of seconds, not NoneType"),
    ({"ttl": 0.05}, r"leaves no room: .*0\.05\*\(1 - 2\*0\.01\)"),
    ({"ttl": 1e12}, "ttl is at most"),
    ({"hold": -1}, "hold must be finite and >= 0"),
    ({"hold": "1"}, "hold is a number"),
    ({"label": 5}, "a label is a str, not int"),
    ({"label": "a\nb"}, "a label has"),
    ({"label": "x" * 256}, "a label has at most 255 bytes"),
    ({"metadata": None}, "metadata is a str, not NoneType"),
    ({"metadata": "x" * 65537}, "65536 bytes of UTF-8"),
    ({"eligible": True}, "eligible is a function"),
    ({"fences": [object()]}, r"has a method admit\(token\); object has not"),
    ({"fences": [AwaitedFence()]}, r"a plain function, run on a thread; AwaitedFence's is async"),
    ({"election": ""}, "1 to 255 bytes"),
    ({"election": "a//b"}, "none empty"),
    ({"election": "e\u0301"}, "NFC"),
    ({"election": None}, "is a str, not NoneType"),
    ({"target": None}, "a URL or a Session, not NoneType"),
    ({"target": 5}, "a URL or a Session, not int"),
    ({"target": "nowhere://x"}, "'nowhere' is none of"),
]


@only_memory
@pytest.mark.parametrize(("options", "said"), BAD, ids=lambda value: str(value)[:32] if isinstance(value, dict) else "")
def test_a_mistake_is_told_by_the_constructor(bench: Bench, options: dict[str, Any], said: str) -> None:
    """`ConfigError`: fix your code; raised before any I/O."""
    given = {"target": bench.store.url, "election": "e", **options}
    with pytest.raises(ConfigError, match=said):
        bench.elector_type(given.pop("target"), given.pop("election"), **given)


@scenario
async def test_mistakes_are_told_by_the_methods(bench: Bench) -> None:
    """`ConfigError` for timeouts and metadata that are none, before anything happens."""
    elector = bench.elector()
    for bad in (0, -1, float("nan"), "1", True):
        for way in ("campaign", "leader", "candidates"):
            with pytest.raises(ConfigError, match="timeout"):
                await bench.call(getattr(elector, way), timeout=bad)
        with pytest.raises(ConfigError, match="timeout"):
            elector.lead(timeout=bad)
        with pytest.raises(ConfigError, match="timeout"):
            Session(bench.store.url).open(timeout=bad)
    assert bench.store.entries("e") == []
    term = await bench.call(elector.campaign)
    for bad in (-1, float("nan"), "1"):
        for call in (elector.close, term.wait_ended, Session(bench.store.url).close):
            with pytest.raises(ConfigError, match="timeout"):
                await (
                    bench.call(call, timeout=bad)
                    if call in (elector.close, term.wait_ended)
                    else in_thread(call, timeout=bad)
                )
        with pytest.raises(ConfigError, match="timeout"):
            await bench.call(term.confirm, timeout=bad)
    with pytest.raises(ConfigError, match="timeout"):
        await bench.call(term.confirm, timeout=0)
    for metadata, said in ((None, "a str"), ("x" * 65537, "65536 bytes"), ("\ud800", "surrogate")):
        with pytest.raises(ConfigError, match=said):
            await bench.call(term.proclaim, metadata)
    assert term.valid


@only_sqlite
@scenario
async def test_an_elector_is_inert_until_it_is_used(bench: Bench, tmp_path: Path) -> None:
    """Inert until first used: no file, no thread, no session."""
    await bench.until(lambda: keepers() == 0)
    elector = bench.elector()
    session = Session(bench.store.url)
    assert elector.term is None
    assert session.guarantees.backend == "sqlite"
    elector.lead()
    repr(elector), repr(session)
    assert (keepers(), os.listdir(tmp_path)) == (0, [])
    await bench.call(elector.close)
    session.close()
    assert (keepers(), os.listdir(tmp_path)) == (0, [])


@scenario
async def test_a_short_ttl_warns_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A starved interpreter stays starved: ttl < 2 s warns."""
    short, long = bench.elector("short", ttl=1.9), bench.elector("long", ttl=2.0)
    assert logged(caplog) == []
    for elector in (short, long, short):
        await bench.call(elector.leader)
    said = [text for level, text in logged(caplog) if level == "WARNING"]
    assert len(said) == 1
    assert said[0].startswith("ttl=1.9 s of 'short' is short")
