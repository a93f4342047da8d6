"""Scenes of test_field_bugs_*.py: candidates in interpreters of their own, so that a rule can be patched out of them.

The rule: a scene plays what somebody's program did when the bug bit, and prints what it then saw.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

from coordkit import AsyncLeaderElector, AsyncTerm, CampaignTimeout, ElectorClosed, LeaderElector, Session, StaleToken
from coordkit.fencing import MemoryFence
from coordkit.testing.contract import Running
from tests.support.children import hear, say

ELECTION = "field"
LONG = 30.0  # ttl of what must not be freed by its running out
BRIEF = 2.0  # ttl of what is to run out
SOON = 15.0  # s: for what waits for nobody, on a busy machine; far below LONG
PATIENCE = 0.5  # s: of who gives up behind a living leader


# -- one candidate -----------------------------------------------------------------------------------------------------


def contends(url: str, ttl: str) -> None:
    """Contends once; leads until it is told to give up."""
    term = LeaderElector(url, ELECTION, ttl=float(ttl)).campaign()
    say("leads", int(term.token))
    hear()
    term.resign()
    say("resigned")


def serves(url: str, ttl: str) -> None:
    """Leads, says what became of it, and contends again."""
    elector = LeaderElector(url, ELECTION, ttl=float(ttl))
    while True:
        term = elector.campaign()
        say("leads", int(term.token))
        term.wait_ended()
        say("lost", "" if term.reason is None else term.reason.value)


def tries(url: str, ttl: str) -> None:
    """Connected before, tries once when it is told to, and lives on."""
    session = Session(url)
    elector = LeaderElector(session, ELECTION, ttl=float(ttl))
    session.open()
    say("open")
    hear()
    say("tried", elector.try_campaign() is not None)
    hear()


# -- behind a leader ---------------------------------------------------------------------------------------------------


@contextmanager
def giving_up() -> Iterator[None]:
    """The block ends because its patience did."""
    with suppress(CampaignTimeout):
        yield
        say("not-refused")


def enters(url: str) -> None:
    """Every way into a body behind a leader who stays, with a patience that runs out; then one that waits."""
    entered: list[str] = []
    elector = LeaderElector(url, ELECTION, ttl=LONG)
    with giving_up(), elector.lead(timeout=PATIENCE):
        entered.append("lead")
    with giving_up():
        elector.campaign(timeout=PATIENCE)
        entered.append("campaign")
    if elector.try_campaign() is not None:
        entered.append("try")

    async def awaited() -> None:
        mirror = AsyncLeaderElector(url, ELECTION, ttl=LONG)
        with giving_up():
            async with mirror.lead(timeout=PATIENCE):
                entered.append("async lead")
        with giving_up():
            await mirror.campaign(timeout=PATIENCE)
            entered.append("async campaign")
        if await mirror.try_campaign() is not None:
            entered.append("async try")

    asyncio.run(awaited())
    say("entered", *entered)
    with elector as term:
        say("inside", int(term.token))
    say("left")


def never_leads(url: str) -> None:
    """Campaigns that end without a term, closed or out of patience; then, when the leader has gone, two with one."""
    told: SimpleQueue[str] = SimpleQueue()

    def block(elector: LeaderElector, timeout: float | None = None) -> None:
        with elector.lead(timeout=timeout) as term:
            term.on_lost(lambda _: told.put("stopped"))
            told.put("body")

    closed: dict[str, Callable[[LeaderElector], object]] = {
        "start": lambda elector: elector.start(),
        "run": lambda elector: elector.run(lambda _: told.put("work")),
        "block": block,
        "campaign": lambda elector: elector.campaign(),
    }
    for way in closed.values():
        begun = threading.Event()
        elector = LeaderElector(url, ELECTION, ttl=LONG, eligible=lambda begun=begun: begun.set() or True)  # type: ignore[misc]
        running = Running(lambda way=way, elector=elector: way(elector))  # type: ignore[misc]
        begun.wait()
        elector.close()
        with suppress(ElectorClosed):
            running.result(SOON)
    elector = LeaderElector(url, ELECTION, ttl=LONG)
    with suppress(CampaignTimeout):
        block(elector, PATIENCE)
    say("ran", *(told.get() for _ in range(told.qsize())))
    hear()
    resigned = elector.campaign(timeout=SOON)
    resigned.on_lost(lambda _: told.put("stopped after it was resigned"))
    resigned.resign()
    lost = elector.campaign(timeout=SOON)
    lost.on_lost(lambda _: told.put("stopped"))
    elector.close()
    say("told", told.get(timeout=SOON))


# -- giving up ---------------------------------------------------------------------------------------------------------


def gives_up(url: str, soon: str) -> None:
    """Resigns in a task that is cancelled: at its first turns, and then while the store does not answer."""
    asyncio.run(_gives_up(url, float(soon)))


async def _gives_up(url: str, soon: float) -> None:
    mine, other = (AsyncLeaderElector(url, ELECTION, ttl=LONG) for _ in range(2))
    for turns in range(6):
        term = await mine.campaign(timeout=SOON)
        resigning = asyncio.create_task(term.resign())
        for _ in range(turns):
            await asyncio.sleep(0)
        await _cancelled(resigning)
        if not await _free(term, other, soon):
            say("stuck", turns)
            return
    term = await mine.campaign(timeout=SOON)
    say("leads")
    await asyncio.to_thread(hear)
    resigning = asyncio.create_task(term.resign())
    done, _ = await asyncio.wait({resigning}, timeout=PATIENCE)
    await _cancelled(resigning)
    say("cancelled", len(done))
    await asyncio.to_thread(hear)
    say("free" if await _free(term, other, soon) else "stuck")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _free(term: AsyncTerm, other: AsyncLeaderElector, soon: float) -> bool:
    """Whether the seat is free, as far as its last holder is concerned: another can have it at once."""
    if term.valid:  # cancelled before it began: then it is held, here and in the store, and can be given up again
        await term.confirm()
        await term.resign()
    try:
        after = await other.campaign(timeout=soon)
    except CampaignTimeout:
        return False
    await after.resign()
    return True


def reads_again(url: str) -> None:
    """Its lease has run out, another leads, and its work reads the token once more."""
    first, second = (LeaderElector(url, ELECTION, ttl=BRIEF) for _ in range(2))
    term = first.campaign(timeout=SOON)
    taken = int(term.token)
    first.close()  # not resigned: what it has begun may still run
    after = second.campaign(timeout=SOON)
    say("tokens", taken, int(term.token), int(after.token))
    fence = MemoryFence()
    fence.admit(after.token)
    try:
        fence.admit(term.token)
    except StaleToken:
        say("refused")
    else:
        say("admitted")
