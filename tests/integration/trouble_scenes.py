"""Scenes of candidates in trouble: paused, starved, with a wall clock that steps, in another time namespace.

The rule: what a scene says about time it says in the clocks by which coordkit decides.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time

from coordkit import AsyncLeaderElector, AsyncTerm, CampaignTimeout, LeaderElector, LeadershipLost, Term
from coordkit.clock import host_boottime, system_clock
from tests.support.children import hear, say
from tests.support.witness import Witness

PAUSE = 1.0  # s: a gap between two checks that only a stopped process has


def first_check_after_a_pause(term: Term | AsyncTerm) -> tuple[bool, float]:
    """Check `valid` again and again until the process was stopped for a while; the first answer after that."""
    last = host_boottime()
    while True:
        before = host_boottime()
        valid = term.valid
        after = host_boottime()
        if before - last > PAUSE:
            return valid, term.remaining()
        if after - before > PAUSE:  # stopped around the check: that answer may be from before
            return term.valid, term.remaining()
        last = after
        time.sleep(0.001)


def paused(url: str, ttl: str) -> None:
    """Leads until it was stopped beyond its ttl; then tells what it finds."""
    told: list[Term] = []
    tellings = threading.Semaphore(0)

    def tell(term: Term) -> None:
        told.append(term)
        tellings.release()

    try:
        with LeaderElector(url, "e", ttl=float(ttl)).lead() as term:
            term.on_lost(tell)
            say("leads", os.getpid(), int(term.token))
            say("first", *first_check_after_a_pause(term))
            try:
                term.ensure()
                say("ensured")
            except LeadershipLost as lost:
                say("refused", lost.reason and lost.reason.value)
    except LeadershipLost as lost:
        say("raised", lost.reason and lost.reason.value, lost.term is term)
    tellings.acquire(timeout=20)
    again = tellings.acquire(timeout=0.5)
    say("told", len(told), again, told[0] is term)


def paused_async(url: str, ttl: str) -> None:
    """The same under asyncio: the body awaits, and is cancelled."""
    told: list[AsyncTerm] = []

    async def main() -> None:
        elector = AsyncLeaderElector(url, "e", ttl=float(ttl))
        cancelled = False
        try:
            async with elector.lead() as term:
                term.on_lost(told.append)
                say("leads", os.getpid(), int(term.token))
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    cancelled = True
                    say("first", term.valid, term.remaining())
                    raise
        except LeadershipLost as lost:
            say("raised", lost.reason and lost.reason.value, lost.term is term)
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0.5)
        say("told", len(told), cancelled, task.cancelling())

    asyncio.run(main())


def leads_and_follows(url: str, ttl: str) -> None:
    """Leads whenever it can, until told to resign; tells its clocks when asked."""
    elector = LeaderElector(url, "e", ttl=float(ttl))
    say("ready", os.getpid())
    while (order := hear()) != "end":
        if order == "clocks":
            say("clocks", time.time(), *system_clock().now())
        elif order == "try":
            tried = elector.try_campaign()
            say("tried", tried and int(tried.token))
        elif order == "leader":
            leader = elector.leader()
            say("leader", leader and int(leader.token))
        elif order == "campaign":
            say("campaigns")
            term = elector.campaign()
            say("leads", int(term.token))
        elif order == "valid":
            say("valid", term.valid, term.state.value)
        elif order == "resign":
            term.resign()
            say("resigned")


def starved(url: str, ttl: str, hogs: str, kind: str, seconds: str, path: str) -> None:
    """Leads, and acts as often as it may, while other threads of its process keep the interpreter busy."""
    witness = Witness(path)
    over = threading.Event()
    burst = calibrated(float(ttl) * 1.5)

    def spin() -> None:
        while not over.is_set():
            pass

    def hold() -> None:
        while not over.is_set():
            sum(range(burst))  # one instruction, which never lets go of the interpreter
            time.sleep(float(ttl) / 4)

    elector = LeaderElector(url, "e", ttl=float(ttl))
    lost, ended = 0, time.monotonic() + float(seconds)
    term = elector.campaign()
    say("leads", int(term.token))
    for _ in range(int(hogs)):
        threading.Thread(target=spin if kind == "spinning" else hold, daemon=True).start()
    while time.monotonic() < ended:
        try:
            with term:
                while time.monotonic() < ended:
                    witness.sees(term)
                    time.sleep(0.001)
        except LeadershipLost:
            lost += 1
            try:
                term = elector.campaign(timeout=max(0.1, ended - time.monotonic()))
            except CampaignTimeout:  # too starved even to win: no attempt is over within ttl/3
                break
    over.set()
    say("over", lost)


def calibrated(seconds: float) -> int:
    """How far `sum(range(n))` counts in that time, as of the fastest of some tries."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        sum(range(1_000_000))
        best = min(best, time.perf_counter() - started)
    return int(1_000_000 * seconds / best)


def rival(url: str, ttl: str, path: str) -> None:
    """Waits behind a starved leader, leads for a moment, and waits again."""
    witness = Witness(path)
    elector = LeaderElector(url, "e", ttl=float(ttl))
    say("contends")
    while True:
        try:
            with elector.lead() as term:
                say("leads", int(term.token))
                for _ in range(20):
                    witness.sees(term)
                    if term.wait_ended(0.02):
                        break
        except LeadershipLost:
            continue


def two_electors(url: str, ttl: str, path: str) -> None:
    """Two electors of one process in one election, each on a thread of its own, many times."""
    witness = Witness(path)
    first, second = (LeaderElector(url, "e", ttl=float(ttl)) for _ in range(2))
    with first.lead() as term:
        started = time.monotonic()
        assert second.try_campaign() is None
        assert time.monotonic() - started < float(ttl) / 2
        leader = second.leader()
        assert leader is not None
        assert leader.token == term.token
        assert first.term is term
        assert second.term is None
    inside: list[int] = []

    def contend(elector: LeaderElector) -> None:
        for _ in range(25):
            with elector.lead() as term:
                inside.append(int(term.token))
                assert inside == [int(term.token)], "both lead"
                witness.sees(term)
                term.wait_ended(0.005)
                witness.sees(term)
                inside.clear()

    threads = [threading.Thread(target=contend, args=(each,)) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("over")
