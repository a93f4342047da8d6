"""What a hostile reading of the core found, each fault once made on purpose.

The rule: nothing is left to chance. A fault is ordered for one call, one callback or one line, and the test waits for
what must come of it; a hang is a failure of the wait, never of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import CodeType, FrameType
from typing import Any

import pytest

from coordkit import (
    AsyncLeaderElector,
    CampaignTimeout,
    ConfigError,
    ElectorBusy,
    ElectorClosed,
    FencingToken,
    LeaderElector,
    LeadershipLost,
    LossReason,
    Misconfigured,
    OutcomeUnknown,
    Session,
    TermState,
    Unavailable,
    engine,
    face,
    registry,
    threads,
)
from coordkit.backends import memory
from coordkit.backends.contract import Renewed
from coordkit.journal import FileJournal
from coordkit.session import Keeper
from coordkit.testing.faults import faults
from tests.contract import reviewed_scenes as scenes
from tests.contract.bench import (
    BENCHES,
    LONG,
    SHORT,
    STORES,
    Bench,
    SQLiteStore,
    Store,
    in_child,
    in_thread,
    logged,
    on_engine,
    scenario,
)
from tests.contract.odd import Conduct, conducts
from tests.support.children import Child

_numbers = itertools.count()


class OddStore:
    """`odd://`: the memory store, behind an adapter that misbehaves."""

    backend = "memory"

    def __init__(self, folder: Path) -> None:
        self.name = f"reviewed-{next(_numbers)}"
        self.url = f"odd://{self.name}"
        self.conduct: Conduct = conducts[self.name]

    def entries(self, election: str) -> list[str]:
        store = memory.stores.get(self.name)
        return [] if store is None else on_engine(lambda: [row.candidate.id for row in store.rows(election)])

    def revoke(self, election: str) -> None:
        on_engine(lambda: memory.stores[self.name].expire(election))

    def outage(self) -> contextlib.AbstractContextManager[None]:
        raise AssertionError("order what is to go wrong")

    def keepers(self) -> list[Keeper]:
        """None, or the one that is not closed."""
        return [
            keeper
            for keeper in list(engine.current().sessions)
            if getattr(keeper.backend, "_conduct", None) is self.conduct
        ]


@pytest.fixture(params=[*STORES, "memory-odd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param != "memory-odd":
        yield STORES[request.param](tmp_path)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_schemes", dict(registry._schemes))
        registry.register("odd", registry.Scheme("tests.contract.odd"))
        made = OddStore(tmp_path)
        yield made
        made.conduct.behave()


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, store: Store) -> Iterator[Bench]:
    made = BENCHES[request.param](store)
    yield made
    made.kept.clear()


only_sync = pytest.mark.parametrize("bench", ["sync"], indirect=True)
only_async = pytest.mark.parametrize("bench", ["async"], indirect=True)
only_real = pytest.mark.parametrize("store", list(STORES), indirect=True)
only_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)
only_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
only_odd = pytest.mark.parametrize("store", ["memory-odd"], indirect=True)


async def hops(count: int = 20) -> None:
    """Let the engine do what is due at once: each hop is several turns of its loop."""
    for _ in range(count):
        await in_thread(on_engine, lambda: None)


async def never(call: Callable[[], Awaitable[Any]]) -> Any:
    """Instead of a call: no answer."""
    await asyncio.Event().wait()


def promise_of(term: Any) -> float:
    """When the request for the present lease was sent."""
    return float(term._tenure.promise.sent.boot)


# -- the journal, and the ends of terms ------------------------------------------------------------------


class Failing:
    """A journal that fails at one event of one term."""

    def __init__(self, event: str, entry: str) -> None:
        self.at = (event, entry)
        self.failed = threading.Event()

    def write(self, event: str, /, **fields: object) -> None:
        if (event, fields.get("entry")) == self.at:
            self.failed.set()
            raise OSError(errno.ENOSPC, "no space")


@only_memory
@only_sync
@pytest.mark.parametrize("who", ["watcher", "journal", "look_after"])
@scenario
async def test_one_failure_at_the_end_of_a_term_keeps_it_from_nobody_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    """`on_lost`: once for each lost term, whatever fails in another's watcher, record, or owner."""
    logged(caplog)
    told: SimpleQueue[str] = SimpleQueue()
    terms = {name: await bench.call(bench.elector(name, ttl=LONG).campaign) for name in ("first", "second", "later")}
    for term in terms.values():
        term.on_lost(lambda term: told.put(term.election))
    await hops(1)  # they are registered
    first = terms["first"]
    start = threads.start

    def start_unless_first(run: Callable[[], object]) -> None:
        if getattr(run, "__self__", None) is first:
            raise RuntimeError("can't start new thread")
        start(run)

    def fail() -> None:
        raise RuntimeError("whoever looks after it")

    if who == "watcher":
        monkeypatch.setattr(threads, "start", start_unless_first)
    elif who == "journal":
        monkeypatch.setattr(engine.current(), "journal", Failing("lost", first.candidate.id))
    else:
        keeper = first._ticket.slot.desk.keeper
        on_engine(lambda: setattr(keeper._held[first._tenure], "look_after", fail))
    # Ended as by a thread that saw it first: nobody but the loop of deadlines will carry it out.
    for name in ("first", "second"):
        terms[name]._tenure.end(TermState.LOST, LossReason.CLOSED)
    expected = {"second"} if who == "watcher" else {"first", "second"}
    assert {await in_thread(told.get, timeout=LONG) for _ in expected} == expected
    terms["later"]._tenure.end(TermState.LOST, LossReason.CLOSED)
    assert await in_thread(told.get, timeout=LONG) == "later"
    assert [text for level, text in logged(caplog) if level == "ERROR" and "at the end of a term" in text]


@only_memory
@only_sync
@scenario
async def test_a_renewal_that_cannot_be_applied_keeps_no_other_term_from_its_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One term's trouble is not another's: what the journal refuses of one is renewed for all others."""
    first, second = [await bench.call(bench.elector(name, ttl=SHORT).campaign) for name in ("first", "second")]
    won = promise_of(second)
    failing = Failing("renewed", first.candidate.id)
    monkeypatch.setattr(engine.current(), "journal", failing)
    assert await in_thread(first.wait_ended, LONG)
    assert failing.failed.is_set()
    assert second.valid
    assert promise_of(second) - won > SHORT / 4


@only_memory
@scenario
async def test_a_full_disk_ends_the_record_and_no_term(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be written is complained of; terms are won, renewed and resigned as ever."""
    complaints: list[str] = []
    full = FileJournal("/dev/full", complaints.append)
    monkeypatch.setattr(engine.current(), "journal", full)
    async with bench.block(bench.elector(ttl=SHORT).lead()) as term:
        won = promise_of(term)
        await bench.until(lambda: promise_of(term) > won)
        assert term.state is TermState.LEADING
    assert term.state is TermState.RESIGNED
    assert bench.store.entries("e") == []
    assert len(complaints) >= 4  # campaign, won, renewed, resigned
    assert all("the journal misses a line" in said for said in complaints)
    os.close(full._file)


@only_memory
@scenario
async def test_a_journal_that_cannot_be_opened_is_a_mistake_of_the_configuration(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`ConfigError` before any I/O, and no loop that nobody closes is left behind."""
    monkeypatch.setattr(engine, "_engines", {})
    monkeypatch.setenv("COORDKIT_JOURNAL", str(tmp_path / "missing" / "journal"))
    with pytest.raises(ConfigError, match=r"COORDKIT_JOURNAL.*missing"):
        await bench.call(bench.elector().campaign)
    gc.collect()


# -- closing while something is under way ----------------------------------------------------------------


@only_real
@pytest.mark.parametrize("use", ["campaign", "try_campaign", "start", "leader"])
@scenario
async def test_an_elector_closed_while_it_is_first_used_is_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """`close` from any thread or signal handler, at any instant: nobody holds the seat, and the user is told."""
    elector = bench.elector()

    def closed_meanwhile() -> engine.Engine:
        elector._end_locally()  # what `close` does before it asks the engine: it finds no slot
        return engine.current()

    monkeypatch.setattr(face, "current", closed_meanwhile)
    with pytest.raises(ElectorClosed):
        await bench.call(getattr(elector, use))
    monkeypatch.undo()
    await hops()
    assert elector.term is None
    assert bench.store.entries("e") == []
    assert await bench.call(bench.elector().try_campaign)


@only_odd
@scenario
async def test_a_call_that_fails_when_it_is_given_up_does_not_go_on(bench: Bench) -> None:
    """Its client tells of a failure instead of the cancellation, as one does whose connection breaks just then."""
    odd: Any = bench.store

    async def fails_when_given_up(call: Callable[[], Awaitable[Any]]) -> Any:
        await call()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OutcomeUnknown("the connection is lost", operation="attempt") from None

    odd.conduct.once("attempt", fails_when_given_up)
    with pytest.raises(CampaignTimeout):
        await bench.call(bench.elector(ttl=LONG).campaign, timeout=0.05)
    await bench.until(lambda: bench.store.entries("e") == [])
    await hops()
    assert odd.conduct.calls["attempt"] == 1, "nobody campaigns any more"


@only_odd
@scenario
async def test_a_session_closed_without_a_wait_is_closed_all_the_same(bench: Bench) -> None:
    """`Session.close(timeout=0)` closes electors that contend, and the connection, behind the caller."""
    odd: Any = bench.store
    session = Session(odd.url)
    await in_thread(session.open)
    elector = bench.elector(target=session, ttl=SHORT)
    await bench.call(elector.start)
    await bench.until(lambda: elector.term)
    term = elector.term
    session.close(timeout=0)
    assert not term.valid
    await bench.until(lambda: odd.keepers() == [])
    assert odd.conduct.calls["close"] == 1
    other = await bench.call(bench.elector(ttl=SHORT).campaign, timeout=LONG)
    assert bench.store.entries("e") == [other.candidate.id]  # nobody contends any more
    assert elector.term is None


@only_odd
@only_sync
@scenario
async def test_a_session_that_nobody_has_any_more_lets_go(bench: Bench) -> None:
    """Dropped open, it parts with its connection; electors that use the same one keep it."""
    odd: Any = bench.store
    elector = bench.elector()
    await bench.call(elector.leader)
    for _ in range(2):
        await in_thread(lambda: Session(odd.url).open() and None)
    gc.collect()
    await hops()
    assert odd.conduct.calls["close"] == 0
    await bench.call(elector.close)
    await bench.until(lambda: odd.keepers() == [])
    assert odd.conduct.calls == {"open": 1, "leader": 1, "close": 1}


@only_memory
@only_sync
@scenario
async def test_in_a_forked_child_leaving_a_session_does_nothing(bench: Bench) -> None:
    """A block that the parent opened is the parent's to leave."""

    def leave() -> Any:
        session.__exit__(SystemExit, SystemExit(3), None)

    with Session(bench.store.url) as session:
        assert in_child(leave) == "None"
        assert await bench.call(bench.elector(target=session).try_campaign)


@only_odd
@pytest.mark.parametrize(
    ("question", "pending"), [("leader", "open"), ("leader", "leader"), ("candidates", "candidates")]
)
@scenario
async def test_a_question_ended_by_close_says_so(bench: Bench, question: str, pending: str) -> None:
    """Waiters get `ElectorClosed`: whether the connection or the answer was waited for."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]
    conduct.always(pending, never)
    elector = bench.elector()
    asked = asyncio.create_task(bench.call(getattr(elector, question), timeout=LONG))
    await bench.until(lambda: conduct.calls[pending])
    began = time.monotonic()
    await bench.call(elector.close)
    with pytest.raises(ElectorClosed):
        await asked
    assert time.monotonic() - began < LONG / 2
    assert conduct.calls[pending] == 1  # what was closed is not opened again


@only_real
@scenario
async def test_close_during_the_wait_for_hold_does_not_release_early(bench: Bench) -> None:
    """`hold`: the seat is kept at least that long after the win, though the elector is closed meanwhile."""
    elector = bench.elector(ttl=LONG, hold=LONG)
    leads, leave = asyncio.Event(), asyncio.Event()
    ids: list[str] = []

    async def body() -> None:
        async with bench.block(elector.lead()) as term:
            ids.append(term.candidate.id)
            leads.set()
            await leave.wait()

    leader = asyncio.create_task(body())
    await leads.wait()
    watching = elector._term()._tenure.watchers
    before = on_engine(lambda: len(watching))
    leave.set()
    await bench.until(lambda: on_engine(lambda: len(watching)) > before)  # it waits for the end of hold
    await bench.call(elector.close)
    await leader
    await bench.call(elector.close)  # which waits for whatever may be released
    assert bench.store.entries("e") == ids


@pytest.mark.backend("sqlite")
def test_the_exit_waits_for_what_a_closed_elector_still_releases(tmp_path: Path) -> None:
    """Exit: those whose body has ended are resigned, though their elector was closed a moment ago."""
    database = SQLiteStore(tmp_path)
    with Child(scenes.closes_and_exits, database.path, 2.0) as leader:
        leader.expect("leads")
        leader.expect("exits")
        assert leader.exit_code() == 0
    assert database.execute("SELECT state FROM coordkit_elections") == [("released",)]


# -- eligible and fences ---------------------------------------------------------------------------------


@only_real
@scenario
async def test_a_try_of_one_who_is_not_eligible_after_the_win_gives_the_seat_up(bench: Bench) -> None:
    """`try_campaign` does not wait until `eligible` says yes again: `CampaignTimeout`, and the seat is free."""
    answers = iter([True])
    elector = bench.elector(eligible=lambda: next(answers, False))
    with pytest.raises(CampaignTimeout, match=r"won .* not eligible"):
        await bench.call(elector.try_campaign)
    await bench.until(lambda: bench.store.entries("e") == [])
    assert await bench.call(bench.elector().try_campaign)


class Stuck:
    """A fence that does not answer until it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()

    def admit(self, token: FencingToken) -> None:
        self.asked.set()
        self.go.wait(LONG * 4)


@only_real
@pytest.mark.parametrize("way", ["campaign", "try_campaign", "lead"])
@scenario
async def test_a_fence_that_hangs_does_not_keep_the_seat(bench: Bench, way: str) -> None:
    """A seat whose leader cannot act is given up after a ttl, and others win."""
    fence = Stuck()
    elector = bench.elector(ttl=SHORT / 2, fences=[fence])
    try:
        with pytest.raises(CampaignTimeout, match="a fence did not answer"):
            if way == "lead":
                async with bench.block(elector.lead()):
                    raise AssertionError("a body ran that its fence had not admitted")
            else:
                await bench.call(getattr(elector, way))
        assert fence.asked.is_set()
        await bench.until(lambda: bench.store.entries("e") == [])
        assert await bench.call(bench.elector().try_campaign)
    finally:
        fence.go.set()


ODD_ERRORS = [asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, SystemExit, StopIteration]


@only_memory
@pytest.mark.parametrize("kind", ODD_ERRORS)
@scenario
async def test_what_a_fence_raises_is_never_taken_for_an_order(bench: Bench, kind: type[BaseException]) -> None:
    """If a fence raises, the term is resigned and the error propagates: as a RuntimeError, where it is no error."""

    class Odd:
        def admit(self, token: FencingToken) -> None:
            raise kind

    with pytest.raises(RuntimeError, match=kind.__name__) as told:
        await bench.call(bench.elector(fences=[Odd()]).campaign)
    assert not isinstance(told.value, ElectorClosed | ElectorBusy)
    assert isinstance(told.value.__cause__, kind)
    await bench.until(lambda: bench.store.entries("e") == [])
    assert await bench.call(bench.elector().try_campaign)


@only_memory
@pytest.mark.parametrize("kind", ODD_ERRORS)
@scenario
async def test_what_eligible_raises_is_a_no(
    bench: Bench, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    """An exception leaves the queue, and is logged."""

    def ask() -> bool:
        raise kind

    with pytest.raises(CampaignTimeout, match="not eligible"):
        await bench.call(bench.elector(eligible=ask).try_campaign)
    said = [text for level, text in logged(caplog) if level == "WARNING" and "eligible() of 'e'" in text]
    assert len(said) == 1
    assert kind.__name__ in said[0]
    assert said[0].endswith("taken as no")


# -- an adapter that misbehaves --------------------------------------------------------------------------


@only_odd
@pytest.mark.parametrize("times", [1, 2])
@scenario
async def test_a_client_that_cancels_a_renewal_by_itself_ends_no_term(bench: Bench, times: int) -> None:
    """A call that its own client gives up has an unknown outcome: jeopardy, and renewals go on."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]
    term = await bench.call(bench.elector(ttl=1.5).campaign)
    won = promise_of(term)
    conduct.once("renew", *[asyncio.CancelledError()] * times)
    await bench.until(lambda: promise_of(term) > won or not term.valid)
    assert conduct.calls["renew"] > times
    assert term.state is TermState.LEADING


@only_odd
@pytest.mark.parametrize("operation", ["open", "attempt", "changed"])
@scenario
async def test_a_client_that_cancels_its_own_call_ends_no_campaign(bench: Bench, operation: str) -> None:
    """`campaign` waits for ever: no adapter's cancellation is taken for the application's."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]
    behind = operation == "changed"
    leader = await bench.call(bench.elector().campaign) if behind else None
    conduct.once(operation, asyncio.CancelledError(), asyncio.CancelledError())
    campaign = asyncio.create_task(bench.call(bench.elector().campaign))
    await bench.until(lambda: conduct.calls[operation] >= 2 or campaign.done())
    if leader is not None:
        await bench.call(leader.resign)
    assert (await campaign).valid


@only_odd
@scenario
async def test_a_client_that_cancels_a_release_is_asked_again(bench: Bench) -> None:
    """Clean-up goes on until the entry is gone."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]
    conduct.once("resign", asyncio.CancelledError(), asyncio.CancelledError())
    term = await bench.call(bench.elector().campaign)
    await bench.call(term.resign)
    await bench.until(lambda: bench.store.entries("e") == [])
    assert conduct.calls["resign"] == 3


@only_odd
@scenario
async def test_a_client_that_cancels_its_watch_is_asked_again(bench: Bench) -> None:
    """Hints of a revocation go on after one watch broke off."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]
    conduct.once("revoked", asyncio.CancelledError())
    term = await bench.call(bench.elector(ttl=SHORT).campaign)
    await bench.until(lambda: conduct.calls["revoked"] == 2 or not term.valid)
    assert term.valid


@only_odd
@only_async
@scenario
async def test_a_real_cancellation_still_cancels(bench: Bench) -> None:
    """An interrupted wait returns at once, though the adapter hangs, and leaves nothing."""
    odd: Any = bench.store
    conduct: Conduct = odd.conduct
    conduct.once("attempt", never)
    campaign = asyncio.create_task(bench.elector().campaign())
    await bench.until(lambda: conduct.calls["attempt"])
    campaign.cancel()
    with pytest.raises(asyncio.CancelledError):
        await campaign
    await bench.until(lambda: conduct.calls["resign"])  # looked for by its own id
    await bench.until(lambda: all(not keeper._cleaning for keeper in odd.keepers()))
    assert conduct.calls["attempt"] == 1


@only_odd
@scenario
async def test_an_adapter_that_answers_for_fewer_terms_than_it_was_asked_is_not_believed(bench: Bench) -> None:
    """The answer is unknown for all: none is extended, none is ended, and renewals go on."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]

    async def too_few(call: Callable[[], Awaitable[Any]]) -> Any:
        return (await call())[1:]

    term = await bench.call(bench.elector(ttl=1.5).campaign)
    won = promise_of(term)
    conduct.once("renew", too_few)
    await bench.until(lambda: promise_of(term) > won or not term.valid)
    assert term.state is TermState.LEADING
    assert conduct.calls["renew"] == 2


@only_odd
@only_sync
@scenario
async def test_a_promise_that_does_not_advance_is_not_asked_for_without_a_pause(bench: Bench) -> None:
    """A renewal may move nothing, where a server was slow: at least ttl/48 lies between two."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]
    term = await bench.call(bench.elector(ttl=SHORT).campaign)

    async def stale(call: Callable[[], Awaitable[Any]]) -> Any:
        return [Renewed(term._tenure.promise)]

    conduct.always("renew", stale)
    assert await in_thread(term.wait_ended, LONG)
    assert 2 <= conduct.calls["renew"] <= 48


@only_odd
@scenario
async def test_an_unexpected_error_of_open_is_told_to_each_who_waits(bench: Bench) -> None:
    """Each waiter gets a fresh `Misconfigured`, and the next one tries anew."""
    odd: Any = bench.store
    conduct: Conduct = odd.conduct
    fail: list[asyncio.Event] = []

    async def fails(call: Callable[[], Awaitable[Any]]) -> Any:
        fail.append(asyncio.Event())
        await fail[0].wait()
        raise ZeroDivisionError("adapter bug")

    conduct.once("open", fails)
    electors = [bench.elector(name) for name in ("first", "second", "third")]
    campaigns = [asyncio.create_task(bench.call(elector.campaign)) for elector in electors]
    await bench.until(lambda: sum(len(keeper._users) for keeper in odd.keepers()) == 3)
    await hops()
    on_engine(fail[0].set)
    told = await asyncio.gather(*campaigns, return_exceptions=True)
    assert [type(error) for error in told] == [Misconfigured] * 3
    assert all("ZeroDivisionError('adapter bug')" in str(error) for error in told)
    assert len(set(map(id, told))) == 3
    assert conduct.calls["open"] == 1
    assert await bench.call(electors[0].campaign)


# -- what a failed attempt leaves ------------------------------------------------------------------------


@only_memory
@scenario
async def test_attempts_that_sent_nothing_leave_no_clean_up_behind(bench: Bench) -> None:
    """`Unavailable`: nothing was written to a socket, so nothing is looked for, however often it was tried."""
    elector = bench.elector()
    await bench.call(elector.leader)
    keeper = next(iter(elector._slots.values())).desk.keeper
    with faults(bench.store.name) as link:  # type: ignore[attr-defined]
        link.cut(refused=True)
        for _ in range(3):
            with pytest.raises(CampaignTimeout) as told:
                await bench.call(elector.campaign, timeout=0.05)
            assert isinstance(told.value.__cause__, Unavailable)
        assert on_engine(lambda: len(keeper._cleaning)) == 0


@only_odd
@scenario
async def test_what_an_earlier_attempt_left_is_removed_though_a_later_one_sent_nothing(bench: Bench) -> None:
    """Whatever a failed call may have left in the store is looked for until it is gone."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]

    async def answer_lost(call: Callable[[], Awaitable[Any]]) -> Any:
        await call()
        raise OutcomeUnknown("no answer")

    conduct.once("attempt", answer_lost)
    conduct.always("attempt", Unavailable("nothing was sent"))
    campaign = asyncio.create_task(bench.call(bench.elector(ttl=2.0).campaign, timeout=0.6))
    await bench.until(lambda: conduct.calls["attempt"])
    assert len(bench.store.entries("e")) == 1
    with pytest.raises(CampaignTimeout):
        await campaign
    assert conduct.calls["attempt"] >= 2
    await bench.until(lambda: conduct.calls["resign"])
    assert bench.store.entries("e") == []


# -- observing -------------------------------------------------------------------------------------------


@only_odd
@pytest.mark.parametrize("operation", ["changes", "leader"])
@scenario
async def test_an_unexpected_error_of_an_adapter_reaches_who_observes(bench: Bench, operation: str) -> None:
    """It ends by `Misconfigured`, never by a wait for ever."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]
    observed = bench.elector().observe()
    assert await bench.next(observed) is None
    conduct.always(operation, ZeroDivisionError("adapter bug"))
    waiting = asyncio.create_task(bench.next(observed))
    assert await bench.call(bench.elector().campaign)  # something moves
    with pytest.raises(Misconfigured, match="adapter bug"):
        async with asyncio.timeout(LONG):
            await waiting


@only_odd
@pytest.mark.parametrize("operation", ["changes", "leader"])
@scenario
async def test_a_client_that_cancels_what_is_observed_is_asked_again(bench: Bench, operation: str) -> None:
    """Backend failures are retried, a client's own cancellation as any other."""
    conduct: Conduct = bench.store.conduct  # type: ignore[attr-defined]
    observed = bench.elector(ttl=SHORT).observe()
    assert await bench.next(observed) is None
    conduct.once(operation, asyncio.CancelledError())
    for _ in range(2):  # it breaks off before the first or the second is seen
        term = await bench.call(bench.elector().campaign)
        async with asyncio.timeout(LONG):
            assert (await bench.next(observed)).token == term.token
        await bench.call(term.resign)
        async with asyncio.timeout(LONG):
            assert await bench.next(observed) is None


@only_real
@scenario
async def test_an_iterator_keeps_its_elector(bench: Bench) -> None:
    """`for leader in LeaderElector(...).observe()` follows although nobody else has the elector."""
    observed = bench.elector_type(bench.store.url, "e").observe()
    assert await bench.next(observed) is None
    gc.collect()
    await hops()
    term = await bench.call(bench.elector().campaign)
    assert (await bench.next(observed)).token == term.token
    await bench.call(observed._elector.close)


# -- finalizers on the engine's thread -------------------------------------------------------------------


class Finalized:
    """An object of the application's, in a cycle, that cleans up when it is collected."""

    def __init__(self, clean: Callable[[], object], outcomes: SimpleQueue[object]) -> None:
        self._clean = clean
        self._outcomes = outcomes
        self._me = self

    def __del__(self) -> None:
        try:
            self._outcomes.put(self._clean())
        except Exception as error:
            self._outcomes.put(type(error))


@only_memory
@only_sync
@pytest.mark.parametrize(
    ("act", "outcome", "left"),
    [
        ("resign", None, 0),
        ("resign under hold", None, 1),
        ("close", None, 1),
        ("leader", engine.EngineDied, 1),
        ("wait", RuntimeError, 1),
    ],
)
@scenario
async def test_a_finalizer_collected_on_the_engine_does_not_block_it(
    bench: Bench, act: str, outcome: object, left: int
) -> None:
    """Collections happen on any thread, the engine's too, and run the application's finalizers there."""
    elector = bench.elector(ttl=LONG, hold=LONG if act == "resign under hold" else 0.0)
    term = await bench.call(elector.campaign)
    outcomes: SimpleQueue[object] = SimpleQueue()
    acts: dict[str, Callable[[], object]] = {
        "resign": term.resign,
        "resign under hold": term.resign,
        "close": elector.close,
        "leader": elector.leader,
        "wait": lambda: term.wait_ended(LONG),
    }
    gc.collect()
    gc.disable()
    try:
        Finalized(acts[act], outcomes)
        engine.current().post(gc.collect)
        assert await in_thread(outcomes.get, timeout=LONG) is outcome
    finally:
        gc.enable()
    await hops()
    assert term.valid is (act in ("leader", "wait"))
    assert len(bench.store.entries("e")) == left


@only_memory
@only_sync
@pytest.mark.parametrize("hold", [0.0, LONG])
@scenario
async def test_a_block_in_a_generator_collected_on_the_engine_does_not_block_it(bench: Bench, hold: float) -> None:
    """A generator that nobody resumes is closed by the collector, and its block is left there."""
    elector = bench.elector(ttl=LONG, hold=hold)

    def work() -> Iterator[Any]:
        with elector.lead() as term:
            yield term

    def begin() -> Any:
        holder: list[Any] = [work()]
        holder.append(holder)
        return next(holder[0])

    gc.collect()
    gc.disable()
    try:
        term = await in_thread(begin)
        engine.current().post(gc.collect)
        await bench.until(lambda: not term.valid)
    finally:
        gc.enable()
    await hops()
    assert term.state is TermState.RESIGNED
    assert len(bench.store.entries("e")) == (1 if hold else 0)


# -- interrupted before the first line of __exit__ -------------------------------------------------------


def interrupt_next_call_of(code: CodeType) -> None:
    """Raise KeyboardInterrupt in whatever `code` calls next, before its first line."""

    def trace(frame: FrameType, event: str, value: Any) -> Any:
        if event == "call" and frame.f_back is not None and frame.f_back.f_code is code:
            raise KeyboardInterrupt
        return None

    sys.settrace(trace)


@pytest.mark.parametrize("store", list(STORES), indirect=True)
@pytest.mark.parametrize("form", ["elector", "lead"])
def test_a_block_whose_leaving_is_interrupted_at_once_is_left_all_the_same(store: Store, form: str) -> None:
    """No interrupt leaves an entry that blocks longer than its lease, or an elector that is busy for ever."""
    elector = LeaderElector(store.url, "e", ttl=SHORT)
    other = LeaderElector(store.url, "e", ttl=SHORT)

    def interrupted() -> Any:
        block = elector if form == "elector" else elector.lead()
        try:
            with block as term:
                del block  # now the statement alone has it
                interrupt_next_call_of(interrupted.__code__)  # that of `__exit__`
        except KeyboardInterrupt:
            return term
        raise AssertionError("not interrupted")

    before = sys.gettrace()
    try:
        term = interrupted()
    finally:
        sys.settrace(before)
    began = time.monotonic()
    with other.lead(timeout=LONG) as later:
        assert time.monotonic() - began < SHORT + 5.0
        assert later.token > term.token
        assert (term.state, term.reason) == (TermState.LOST, LossReason.CLOSED)
    with elector.lead(timeout=LONG) as again:
        assert again.token > later.token
    elector.close()
    other.close()


@pytest.mark.parametrize("store", list(STORES), indirect=True)
def test_blocks_of_an_elector_in_a_block_of_it_are_refused_and_harm_nothing(store: Store) -> None:
    """Entered again while busy: `ElectorBusy`, by the same thread and by another; the first block goes on."""
    elector = LeaderElector(store.url, "e")
    refused: list[object] = []

    def enter() -> None:
        try:
            with elector:
                refused.append("entered")
        except ElectorBusy as error:
            refused.append(type(error))

    with elector as term:
        enter()
        other = threading.Thread(target=enter)
        other.start()
        other.join(LONG)
        stack = contextlib.ExitStack()
        with pytest.raises(ElectorBusy):
            stack.enter_context(elector)
        stack.close()
        assert refused == [ElectorBusy] * 2
        assert term.valid
        assert store.entries("e") == [term.candidate.id]
    assert term.state is TermState.RESIGNED
    assert store.entries("e") == []
    elector.close()


@pytest.mark.parametrize("store", list(STORES), indirect=True)
def test_two_threads_that_begin_a_block_at_once_do_not_mix(store: Store) -> None:
    """A `with` statement looks `__exit__` up and then calls `__enter__`: another thread may do the same in between."""
    elector = LeaderElector(store.url, "e")
    looked_up, go = threading.Event(), threading.Event()
    outcomes: list[object] = []

    def other() -> None:
        leave = elector.__exit__
        looked_up.set()
        go.wait(LONG)
        try:
            elector.__enter__()
        except ElectorBusy as error:
            outcomes.append(type(error))
        outcomes.append(leave)

    thread = threading.Thread(target=other)
    leave = elector.__exit__
    thread.start()
    assert looked_up.wait(LONG)
    term = elector.__enter__()
    go.set()
    thread.join(LONG)
    assert outcomes[0] is ElectorBusy
    outcomes.clear()
    assert term.valid
    leave(None, None, None)
    assert term.state is TermState.RESIGNED
    assert store.entries("e") == []
    elector.close()


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_blocks_of_one_elector_in_two_threads_take_turns(store: Store) -> None:
    """Whoever finds it busy comes again; each leaves the block that it entered, and no other."""
    elector = LeaderElector(store.url, "e")
    inside: list[int] = []
    tokens: list[FencingToken] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(25):
                while True:
                    try:
                        with elector as term:
                            inside.append(1)
                            assert len(inside) == 1
                            tokens.append(term.token)
                            inside.pop()
                            term.ensure()
                        break
                    except ElectorBusy:
                        time.sleep(0)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONG)
    assert failures == []
    assert len(tokens) == 50
    assert tokens == sorted(tokens)
    assert store.entries("e") == []
    elector.close()


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_tasks_of_one_async_elector_take_turns(store: Store) -> None:
    """Two tasks of one thread enter at once: one leads, the other is refused, and each leaves its own block."""

    async def main() -> None:
        elector = AsyncLeaderElector(store.url, "e")
        outcomes: list[str] = []
        entered = asyncio.Event()

        async def enter() -> None:
            try:
                async with elector as term:
                    outcomes.append("leads")
                    entered.set()
                    await asyncio.sleep(0.02)
                    term.ensure()
            except ElectorBusy:
                outcomes.append("busy")
                await entered.wait()

        await asyncio.gather(enter(), enter())
        assert sorted(outcomes) == ["busy", "leads"]
        assert store.entries("e") == []
        await elector.close()

    asyncio.run(main())


# -- on_lost ---------------------------------------------------------------------------------------------


@only_real
@pytest.mark.filterwarnings("ignore:.*dropped without resign:ResourceWarning")
@scenario
async def test_a_term_that_is_dropped_tells_those_who_registered(bench: Bench) -> None:
    """`on_lost`: once for each lost term, dropped ones too: their work may still run, and must stop."""
    told: SimpleQueue[tuple[TermState, LossReason | None]] = SimpleQueue()
    term = await bench.dropping(bench.elector().campaign)
    term.on_lost(lambda lost: told.put((lost.state, lost.reason)))
    del term
    gc.collect()
    await bench.until(lambda: not told.empty())
    await hops()
    assert told.get_nowait() == (TermState.LOST, LossReason.CLOSED)
    assert told.empty()


@only_memory
@only_sync
@scenario
async def test_callbacks_registered_late_wait_for_their_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order of registration, one at a time, though each late registration starts a thread."""
    ended: SimpleQueue[None] = SimpleQueue()
    start = threads.start

    def start_and_tell(run: Callable[[], object]) -> None:
        def told() -> None:
            run()
            ended.put(None)

        start(told)

    monkeypatch.setattr(threads, "start", start_and_tell)
    term = await bench.call(bench.elector().campaign)
    began, go = threading.Event(), threading.Event()
    order: list[int] = []

    def first(_: object) -> None:
        began.set()
        assert go.wait(LONG)
        order.append(1)

    term.on_lost(first)
    await bench.call(bench.electors[0].close)
    assert await in_thread(began.wait, LONG)
    for number in (2, 3):
        term.on_lost(lambda _, number=number: order.append(number))
        await in_thread(ended.get, timeout=LONG)  # the thread that was started for it had no turn
    assert order == []
    go.set()
    await bench.until(lambda: len(order) == 3)
    assert order == [1, 2, 3]


# -- contending in the background ------------------------------------------------------------------------


@only_real
@scenario
async def test_a_block_under_a_background_term_that_was_lost_keeps_the_elector_waiting(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """After a loss it contends again when the block is left, and says nothing of being busy."""
    elector = bench.elector()
    await bench.call(elector.start)
    await bench.until(lambda: elector.term)
    with pytest.raises(LeadershipLost):
        async with bench.block(elector.term) as term:
            await bench.lose(term)
            await hops()
            assert elector.term is None
            assert bench.store.entries("e") == []
    await bench.until(lambda: elector.term)
    assert elector.term.token > term.token
    assert [text for _, text in logged(caplog) if "contending" in text] == []
