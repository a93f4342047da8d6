"""The engine answers every request, whatever becomes of it, and shares no lock with those who ask.

The rule: each test has an engine of its own, so that it can be killed; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from coordkit import AsyncLeaderElector, LeaderElector, LeadershipLost, LossReason, TermState, engine, threads
from coordkit.audit import judge, parse
from coordkit.engine import Engine, EngineDied, current, existing

LONG = 30.0
KEPT: list[object] = []  # the dead, with the tasks that they did not finish: to drop those would complain
_numbers = itertools.count()


def over(killed: Engine) -> bool:
    return killed.dead and not killed.loop.is_running()


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def kill(victim: Engine) -> None:
    """End its loop, as nothing in coordkit does."""
    KEPT.append(victim)
    victim.loop.call_soon_threadsafe(victim.loop.stop)
    wait_for(lambda: over(victim))


@pytest.fixture
def alive() -> Iterator[Engine]:
    """A running engine of this test alone."""
    made = Engine()
    made.ensure_running()
    yield made
    if not over(made):
        kill(made)


@pytest.fixture
def of_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Engine]]:
    """As if the process had no engine yet: `current()` makes one for this test."""
    engines: dict[int, Engine] = {}
    monkeypatch.setattr(engine, "_engines", engines)
    graves: list[Engine] = []
    monkeypatch.setattr(engine, "_graves", graves)
    yield engines
    for made in [*engines.values(), *graves]:
        if not over(made):
            kill(made)


@pytest.fixture
def records() -> Iterator[SimpleQueue[logging.LogRecord]]:
    """What is logged, by coordkit and by asyncio, with the thread that handled it."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.handled_by = threading.get_ident()
            queue.put(record)

    handler = Handler()
    loggers = [logging.getLogger(name) for name in ("coordkit", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield queue
    for logger in loggers:
        logger.removeHandler(handler)


async def forever() -> None:
    await asyncio.Event().wait()


async def ident() -> int:
    return threading.get_ident()


# -- asking ----------------------------------------------------------------------------------------------


def test_it_runs_on_one_thread_of_its_own(alive: Engine) -> None:
    idents = {alive.ask(ident, LONG) for _ in range(10)}
    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_what_the_work_raises_is_raised_to_whoever_asked(alive: Engine) -> None:
    error = ValueError("of the work")

    async def fail() -> None:
        raise error

    with pytest.raises(ValueError) as caught:
        alive.ask(fail, LONG)
    assert caught.value is error


def test_what_is_raised_before_there_is_a_task_is_raised_too(alive: Engine) -> None:
    def fail() -> Any:
        raise ValueError("before any await")

    with pytest.raises(ValueError, match="before any await"):
        alive.ask(fail, LONG)
    assert alive.requests == {}


def test_a_timeout_ends_the_wait_and_the_work(alive: Engine) -> None:
    began, ended = [], []

    async def work() -> None:
        began.append(True)
        try:
            await forever()
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError, match=r"no answer within 0\.02 s"):
        alive.ask(work, 0.02)
    alive.ask(ident, LONG)  # the cancellation was posted before
    alive.ask(ident, LONG)
    assert began == ended  # one that had not begun yet never does
    assert alive.requests == {}


def test_an_interrupted_wait_ends_the_work(alive: Engine) -> None:
    began, ended = threading.Event(), threading.Event()

    async def work() -> None:
        began.set()
        try:
            await forever()
        finally:
            ended.set()

    async def interrupted() -> None:
        waiting = asyncio.create_task(alive.ask_async(work))
        await asyncio.get_running_loop().run_in_executor(None, began.wait, LONG)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(interrupted())
    assert ended.wait(LONG)
    wait_for(lambda: not alive.requests)


def test_asking_from_another_loop(alive: Engine) -> None:
    async def fail() -> None:
        raise ValueError

    async def ask() -> int:
        with pytest.raises(ValueError):
            await alive.ask_async(fail)
        return await alive.ask_async(ident)

    assert asyncio.run(ask()) == alive.ask(ident, LONG)


def test_an_answer_for_a_loop_that_is_closed_goes_nowhere(alive: Engine) -> None:
    """Whoever asked is gone, with its loop; the engine goes on."""
    gates: list[asyncio.Event] = []

    async def work() -> None:
        gates.append(asyncio.Event())
        await gates[0].wait()

    loop = asyncio.new_event_loop()
    KEPT.append(loop.create_task(alive.ask_async(work)))
    loop.run_until_complete(asyncio.sleep(0))
    wait_for(lambda: bool(gates))
    loop.close()
    alive.post(gates[0].set)
    assert alive.ask(ident, LONG)
    wait_for(lambda: not alive.requests)


def test_it_does_not_wait_for_itself(alive: Engine) -> None:
    """A finalizer that runs there, by a collection, is told instead of hanging all."""

    async def ask() -> None:
        with pytest.raises(EngineDied, match="cannot wait for itself"):
            alive.ask(ident)

    alive.ask(ask, LONG)


def test_two_threads_may_be_started_for_it_and_one_runs_it(alive: Engine) -> None:
    for _ in range(5):
        threads.start(alive._main)
    assert alive.ask(ident, LONG) == alive.ask(ident, LONG)


# -- what ends a task and not the engine -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_task_fails_that_task(
    alive: Engine, kind: type[BaseException], records: SimpleQueue[logging.LogRecord]
) -> None:
    async def leave() -> None:
        raise kind("of a task")

    before = alive.ask(ident, LONG)
    with pytest.raises(kind):
        alive.ask(leave, LONG)
    assert alive.ask(ident, LONG) == before
    assert not alive.dead
    assert f"{kind.__name__}('of a task') in a task of the engine" in records.get(timeout=LONG).getMessage()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_callback_fails_that_callback(alive: Engine, kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind

    alive.post(leave)
    assert alive.ask(ident, LONG)
    assert not alive.dead


def test_a_callback_that_fails_is_logged_elsewhere(alive: Engine, records: SimpleQueue[logging.LogRecord]) -> None:
    """Logging handlers never run on the engine, asyncio's own complaints included."""

    def fail() -> None:
        raise ValueError("of a callback")

    alive.post(fail)
    while "of a callback" not in (record := records.get(timeout=LONG)).getMessage():
        pass  # what an earlier test had logged late
    assert record.levelname == "ERROR"
    assert vars(record)["handled_by"] != alive.ask(ident, LONG)


def test_a_task_that_fails_is_logged_elsewhere(alive: Engine, records: SimpleQueue[logging.LogRecord]) -> None:
    async def fail() -> None:
        raise ValueError("of a task")

    alive.post(lambda: alive.spawn(fail(), "hopeless"))
    record = records.get(timeout=LONG)
    assert record.getMessage() == "task coordkit:hopeless failed: ValueError('of a task')"
    assert vars(record)["handled_by"] != alive.ask(ident, LONG)


def test_tasks_and_callbacks_begin_in_an_empty_context(alive: Engine) -> None:
    variable = contextvars.ContextVar("variable", default="empty")
    variable.set("the application's")
    seen: SimpleQueue[str] = SimpleQueue()

    async def look() -> str:
        return variable.get()

    alive.post(lambda: seen.put(variable.get()))
    assert seen.get(timeout=LONG) == "empty"
    assert alive.ask(look, LONG) == "empty"


# -- the application's code ------------------------------------------------------------------------------


def test_the_applications_code_runs_elsewhere(alive: Engine) -> None:
    async def work() -> tuple[int, bool]:
        return await alive.offload(lambda: (threading.get_ident(), threading.current_thread().daemon))

    found, daemon = alive.ask(work, LONG)
    assert found not in (threading.get_ident(), alive.ask(ident, LONG))
    assert daemon


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("x"), ValueError),
        (SystemExit(3), RuntimeError),  # an exit would be taken for one of the engine's own
        (KeyboardInterrupt(), RuntimeError),
        (asyncio.CancelledError(), RuntimeError),
        (StopIteration(), RuntimeError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_the_applications_code_raises_is_told(
    alive: Engine, error: BaseException, told: type[BaseException]
) -> None:
    async def work() -> str:
        def fail() -> None:
            raise error

        try:
            await alive.offload(fail)
        except BaseException as caught:
            return type(caught).__name__
        return "nothing"

    assert alive.ask(work, LONG) == told.__name__


def test_cancelling_stops_the_wait_and_not_the_code(alive: Engine) -> None:
    gate, done = threading.Event(), threading.Event()

    def code() -> None:
        gate.wait(LONG)
        done.set()

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await alive.offload(code)

    alive.ask(work, LONG)
    gate.set()
    assert done.wait(LONG)
    assert alive.ask(ident, LONG)


# -- death -----------------------------------------------------------------------------------------------


def test_every_request_is_answered_when_the_engine_dies(alive: Engine) -> None:
    told: SimpleQueue[BaseException] = SimpleQueue()

    def ask() -> None:
        try:
            alive.ask(forever)
        except EngineDied as error:
            told.put(error)

    async def ask_async() -> None:
        with pytest.raises(EngineDied):
            await alive.ask_async(forever)

    waiting = [threading.Thread(target=ask) for _ in range(3)]
    waiting.append(threading.Thread(target=lambda: asyncio.run(ask_async())))
    for thread in waiting:
        thread.start()
    wait_for(lambda: len(alive.requests) == 4)
    kill(alive)
    for thread in waiting:
        thread.join(LONG)
        assert not thread.is_alive()
    errors = [told.get_nowait() for _ in range(3)]
    assert len({id(error) for error in errors}) == 3  # each waiter's own


def test_asking_the_dead(alive: Engine) -> None:
    kill(alive)
    with pytest.raises(EngineDied):
        alive.ask(ident)

    async def ask() -> None:
        with pytest.raises(EngineDied):
            await alive.ask_async(ident)

    asyncio.run(ask())
    assert alive.requests == {}


def test_a_request_that_races_with_death_is_answered() -> None:
    """For each instant at which the loop may end, seen from the thread that asks."""
    for turn in range(15):
        mortal = Engine()
        mortal.ensure_running()
        answers: list[object] = []

        def ask(mortal: Engine = mortal, answers: list[object] = answers) -> None:
            while True:
                try:
                    answers.append(mortal.ask(ident, LONG))
                except EngineDied as error:
                    answers.append(error)
                    return

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda answers=answers, turn=turn: len(answers) > turn)
        kill(mortal)
        asking.join(LONG)
        assert isinstance(answers[-1], EngineDied)


def test_posting_to_the_dead_does_nothing(alive: Engine) -> None:
    kill(alive)
    called: list[int] = []
    alive.post(called.append, 1)
    alive.loop.close()
    alive.post(called.append, 2)
    assert called == []


def test_posting_to_a_loop_that_was_closed_by_somebody_else_is_told() -> None:
    never_run = Engine()
    never_run.loop.close()
    with pytest.raises(RuntimeError):
        never_run.post(print)


# -- the engine of the process ---------------------------------------------------------------------------


def test_threads_that_race_for_the_first_engine_get_one(of_process: dict[int, Engine]) -> None:
    gate, found = threading.Barrier(8), []

    def race() -> None:
        gate.wait(LONG)
        made = current()
        found.append((made, made.ask(ident, LONG)))

    racers = [threading.Thread(target=race) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(LONG)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert of_process == {os.getpid(): found[0][0]}
    gc.collect()  # a loop that was made in vain and left open would warn


def test_after_a_death_the_next_to_ask_starts_another(of_process: dict[int, Engine]) -> None:
    assert existing() is None
    first = current()
    assert existing() is first
    kill(first)
    assert existing() is None
    second = current()
    assert second is not first
    assert second.ask(ident, LONG)
    assert current() is second


def test_a_child_finds_no_engine(of_process: dict[int, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    mine = current()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: mine.pid + 1)
        assert existing() is None
    assert existing() is mine


# -- what becomes of the terms ---------------------------------------------------------------------------


@pytest.fixture
def url() -> str:
    return f"memory://engine-{next(_numbers)}"


def test_when_the_engine_dies_all_terms_are_lost_at_once_and_waiters_told(
    of_process: dict[int, Engine], url: str
) -> None:
    electors = [LeaderElector(url, name, ttl=2.0) for name in ("a", "b")]
    terms = [elector.campaign() for elector in electors]
    told: SimpleQueue[Any] = SimpleQueue()
    for term in terms:
        term.on_lost(told.put)

    def told_by(call: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                told.put(call())
            except EngineDied:
                told.put("died")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    waiter = LeaderElector(url, "a", ttl=2.0)
    states = electors[0].observe()
    next(states)
    waiting = [told_by(call) for call in (terms[0].wait_ended, waiter.campaign, lambda: next(states))]
    wait_for(lambda: len(of_process[os.getpid()].requests) == 2)  # `wait_ended` waits for itself
    kill(of_process[os.getpid()])
    assert [(term.state, term.reason) for term in terms] == [(TermState.LOST, LossReason.ENGINE_DIED)] * 2
    for thread in waiting:
        thread.join(LONG)
        assert not thread.is_alive()
    found = [told.get(timeout=LONG) for _ in range(5)]
    assert found.count("died") == 2
    assert found.count(True) == 1
    assert all(found.count(term) == 1 for term in terms)
    with pytest.raises(LeadershipLost):
        terms[0].ensure()
    terms[0].on_lost(told.put)
    assert told.get(timeout=LONG) is terms[0]  # late, and at once
    assert terms[0].wait_ended(0)


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_term_dropped_after_it_was_lost_and_before_the_engine_looked_tells_its_callbacks(
    of_process: dict[int, Engine], url: str, face: str
) -> None:
    """Its deadline passes while the engine is held up; its block is left without a release, and nobody keeps it."""
    told: SimpleQueue[object] = SimpleQueue()
    held, go = threading.Event(), threading.Event()

    def hold_up(engine: Engine) -> None:
        engine.post(lambda: (held.set(), go.wait(LONG)))
        assert held.wait(LONG)

    async def main() -> None:
        async_elector = AsyncLeaderElector(url, "a", ttl=0.5, hold=60.0)
        with suppress(LeadershipLost):
            async with async_elector.lead() as term:
                term.on_lost(lambda lost: told.put(lost.reason))
                hold_up(of_process[os.getpid()])
                while term.valid:
                    await asyncio.sleep(0.01)
        del term
        gc.collect()
        go.set()
        while told.empty():
            await asyncio.sleep(0.01)

    if face == "async":
        asyncio.run(asyncio.wait_for(main(), LONG))
    else:
        elector = LeaderElector(url, "a", ttl=0.5, hold=60.0)
        with suppress(LeadershipLost), elector.lead() as term:
            term.on_lost(lambda lost: told.put(lost.reason))
            hold_up(of_process[os.getpid()])
            assert term.wait_ended(LONG)
        del term
        gc.collect()
        go.set()
    assert told.get(timeout=LONG) is LossReason.EXPIRED
    assert told.empty()


@pytest.mark.parametrize("hold", [0.0, 60.0])
def test_callbacks_are_told_although_their_loop_is_closed_before_the_engine_looks(
    of_process: dict[int, Engine], url: str, hold: float
) -> None:
    """As after a pause of the whole process: the body finds out by itself, and its program ends."""
    told: list[LossReason | None] = []
    held, go = threading.Event(), threading.Event()

    async def main() -> None:
        elector = AsyncLeaderElector(url, "a", ttl=0.5, hold=hold)
        async with elector.lead() as term:
            term.on_lost(lambda lost: told.append(lost.reason))
            of_process[os.getpid()].post(lambda: (held.set(), go.wait(LONG)))
            assert held.wait(LONG)
            while term.valid:
                await asyncio.sleep(0.01)
            if not hold:  # then leaving waits for the engine
                asyncio.get_running_loop().call_later(0.05, go.set)
            term.ensure()

    try:
        with pytest.raises(LeadershipLost):
            asyncio.run(asyncio.wait_for(main(), LONG))
    finally:
        go.set()
    assert told == [LossReason.EXPIRED]


def test_the_journal_has_once_that_there_are_callbacks_and_that_they_are_told(
    of_process: dict[int, Engine], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    monkeypatch.setenv("COORDKIT_JOURNAL", str(path))
    told: SimpleQueue[object] = SimpleQueue()
    with LeaderElector(url, "resigned", ttl=2.0).lead() as kept:
        kept.on_lost(told.put)
    elector = LeaderElector(url, "lost", ttl=2.0)
    term = elector.campaign()
    for _ in range(2):
        term.on_lost(told.put)
    elector.close()  # ends it, which is a loss
    for _ in range(2):
        told.get(timeout=LONG)
    lines, cut = parse(path.read_bytes())
    assert judge(lines, cut=cut).ok
    events = {name: [line["event"] for line in lines if line["election"] == name] for name in ("resigned", "lost")}
    assert events["resigned"] == ["campaign", "won", "watched", "resigned"]
    assert sorted(map(str, events["lost"])) == ["campaign", "lost", "notified", "watched", "won"]


def test_the_next_campaign_starts_a_new_engine(of_process: dict[int, Engine], url: str) -> None:
    elector = LeaderElector(url, "a", ttl=0.5)
    with pytest.raises(LeadershipLost) as caught, elector.lead() as first:
        kill(of_process[os.getpid()])
    assert caught.value.reason is LossReason.ENGINE_DIED
    with elector.lead(timeout=LONG) as second:  # the old entry has run out, for nobody could remove it
        assert second.token > first.token
    elector.close()


def test_a_task_whose_term_dies_with_the_engine_is_told(of_process: dict[int, Engine], url: str) -> None:
    async def main() -> None:
        elector = AsyncLeaderElector(url, "a", ttl=0.5)
        with pytest.raises(LeadershipLost) as caught:
            async with elector.lead() as first:
                await asyncio.to_thread(kill, of_process[os.getpid()])
                await asyncio.sleep(LONG)
        assert caught.value.reason is LossReason.ENGINE_DIED
        async with elector.lead(timeout=LONG) as second:
            assert second.token > first.token
        await elector.close()

    asyncio.run(main())
