"""Scenes of processes that use etcd and are interrupted, fork, or end, and what they find in themselves before that.

The rule: what is left in etcd is not theirs to judge; the test asks etcd itself.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from coordkit import AsyncLeaderElector, CoordkitError, LeaderElector, LossReason, Session, TermState
from coordkit.backends.etcd import stubs
from coordkit.engine import current, existing
from coordkit.errors import Misconfigured
from coordkit.registry import parse
from tests.integration.fork_scenes import AT_ONCE, in_child, refused, wait
from tests.integration.interrupt_scenes import Trap, entry, entry_async
from tests.support.children import hear, say

TTL = 4.0
SOON = 2.0  # s: on a busy machine; a try to connect takes longer


def sockets() -> int:
    """How many sockets of the internet this process has, asked of the kernel."""
    mine = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            mine.add(each.readlink().name)
        except FileNotFoundError:  # the one by which the directory is read
            continue
    tables = [Path(f"/proc/self/net/{name}").read_text(encoding="ascii").splitlines()[1:] for name in ("tcp", "tcp6")]
    return sum(f"socket:[{line.split()[9]}]" in mine for table in tables for line in table)


def tasks() -> list[str]:
    """What still runs on the engine, without the question itself."""
    engine = current()

    async def asked() -> list[str]:
        this = asyncio.current_task()
        return sorted(task.get_name() for task in asyncio.all_tasks() if task is not this)

    return engine.ask(asked)


def settled(within: float) -> list[str]:
    """The tasks that are left on the engine at the latest after so long."""
    end = time.monotonic() + within
    while (left := tasks()) and time.monotonic() < end:
        time.sleep(0.02)
    return left


# -- interrupts --------------------------------------------------------------------------------------------------------


def storm(url: str, seed: str, times: str) -> None:
    """One session: the main thread's entries are hit by Ctrl-C, a loop's tasks are cancelled, at random instants."""
    chance = random.Random(int(seed))
    outcomes = Counter[str]()
    electors = [LeaderElector(url, f"e{number % 4}", ttl=TTL) for number in range(6)]
    others = [AsyncLeaderElector(url, f"e{number % 4}", ttl=TTL) for number in range(6)]
    dice = random.Random(chance.getrandbits(32))

    async def one(elector: AsyncLeaderElector) -> None:
        task = asyncio.create_task(entry_async(elector, dice.randrange(5), dice))
        await asyncio.sleep(dice.choice([0.0, dice.uniform(0, 0.006), dice.uniform(0, 0.06)]))
        task.cancel()
        try:
            outcomes[f"async-{await task}"] += 1
        except asyncio.CancelledError:
            outcomes["async-interrupted"] += 1
        except CoordkitError as error:
            outcomes[f"async-{type(error).__name__}"] += 1

    async def many(elector: AsyncLeaderElector) -> None:
        for _ in range(int(times) // 2 // len(others)):
            await one(elector)

    async def main() -> None:
        await asyncio.gather(*(many(elector) for elector in others))

    async def closed() -> None:
        for elector in others:
            await elector.close(timeout=10.0)

    beside = threading.Thread(target=lambda: asyncio.run(main()))
    beside.start()
    trap = Trap(chance)
    for number in range(int(times) // 2):
        elector, how = electors[number % len(electors)], chance.randrange(4)
        outcome = trap.catch(0.04, lambda: entry(elector, how, chance))  # noqa: B023 - called at once
        outcomes[f"sync-{outcome}"] += 1
    beside.join()
    say("outcomes", *(f"{name}={number}" for name, number in sorted(outcomes.items())))
    engine = existing()
    assert engine is not None
    say("sessions", len(engine.sessions))
    assert hear() == "close"
    for each in electors:
        each.close(timeout=10.0)
    asyncio.run(closed())
    gc.collect()  # cancelled calls are in their own tracebacks, and keep the connection until they are collected
    end = time.monotonic() + 5.0
    say("engine", "alive" if existing() is engine else "another")
    say("tasks", *settled(5.0))
    while sockets() and time.monotonic() < end:  # gRPC closes them in a thread of its own
        time.sleep(0.02)
    say("sockets", sockets())
    say("requests", *engine.requests)
    say("sessions", len(engine.sessions))
    assert hear() == "end"


# -- ends of processes -------------------------------------------------------------------------------------------------


def ends_without_close(url: str, ttl: str) -> None:
    """A block was left, the elector is open, and so is the connection."""
    elector = LeaderElector(url, "e", ttl=float(ttl))
    with elector.lead() as term:
        say("leads", int(term.token))
    assert hear() == "end"


def ends_waiting(url: str, ttl: str) -> None:
    """A daemon thread campaigns behind a leader when the main thread returns."""
    elector = LeaderElector(url, "e", ttl=float(ttl))
    threading.Thread(target=elector.campaign, daemon=True).start()
    assert hear() == "end"


def ends_at_once(url: str, ttl: str) -> None:
    """`os._exit` in a block: no handler runs."""
    with LeaderElector(url, "e", ttl=float(ttl)).lead() as term:
        say("leads", int(term.token))
        assert hear() == "end"
        os._exit(9)


# -- forks -------------------------------------------------------------------------------------------------------------


def open_term(url: str) -> None:
    """The parent leads and forks; the child tries what it has inherited, and an elector of its own."""
    told: list[str] = []
    session = Session(url)
    elector = LeaderElector(session, "open", ttl=TTL)
    term = elector.campaign()
    term.on_lost(lambda _: told.append("lost"))
    mirror = AsyncLeaderElector(session, "mirror", ttl=TTL)
    mirrored = asyncio.run(mirror.campaign())

    def child() -> None:
        assert not term.valid
        assert (term.state, term.reason) == (TermState.LOST, LossReason.FORKED)
        for call in (
            term.ensure,
            term.confirm,
            term.resign,
            elector.campaign,
            elector.try_campaign,
            elector.leader,
            session.open,
            session.close,
            lambda: LeaderElector(session, "open").campaign(),
        ):
            refused(call)
        for asked in (mirrored.confirm, mirrored.resign, mirror.campaign, mirror.leader):
            refused(lambda asked=asked: asyncio.run(asked()))  # type: ignore[misc]
        started = time.monotonic()
        term.__exit__(None, None, None)
        elector.close()
        assert time.monotonic() - started < AT_ONCE
        lame(url)
        assert told == []

    say("child", wait(in_child(child)))
    say("child", wait(in_child(child)))
    say("ended", term.wait_ended(1.5 * TTL), told)
    term.confirm()
    asyncio.run(mirrored.confirm())
    asyncio.run(mirrored.resign())
    term.resign()
    elector.campaign(timeout=10.0).resign()
    say("parent", "goes on")


def fork_after_use(url: str, times: str) -> None:
    """gRPC has been used; whether its threads have ended when the children are forked is up to chance."""

    def lead() -> None:
        elector = LeaderElector(url, "used", ttl=TTL)
        with elector.lead(timeout=10.0) as term:
            term.confirm()
        elector.close(timeout=10.0)

    codes = []
    for number in range(int(times)):
        lead()
        session = Session(url).open()
        session.close()
        if number % 2:
            left = settled(10.0)
            assert not left, left
        codes.append(wait(in_child(lambda: lame(url))))
    lead()
    say("codes", *sorted({str(code) for code in codes}), len(codes))


def fork_beside_grpc(url: str) -> None:
    """The application uses gRPC itself, in a process where coordkit has imported it and not used it yet."""
    import grpc  # type: ignore[import-untyped,unused-ignore]

    elector = LeaderElector(url, "beside", ttl=TTL)
    rpc = stubs.load()
    with grpc.insecure_channel(":".join(map(str, parse(url).hosts[0]))) as channel:
        rpc.MaintenanceStub(channel).Status(rpc.StatusRequest(), timeout=10.0)
        say("child", wait(in_child(lambda: lame(url))))
    with elector.lead(timeout=10.0):
        say("parent", "leads")


def lame(url: str) -> None:
    """In a child in which gRPC does not work: whatever needs it says so, and at once."""
    fresh = LeaderElector(url, "lame", ttl=TTL)
    for call in (fresh.try_campaign, fresh.campaign, fresh.leader, Session(url).open):
        started = time.monotonic()
        with pytest.raises(Misconfigured, match=r"gRPC .* forked"):
            call()
        assert time.monotonic() - started < SOON
    fresh.close()


def other_processes(url: str) -> None:
    """A term is held while programs are run in every way, and children forked that end without using coordkit."""
    with LeaderElector(url, "held", ttl=TTL).lead() as term:
        done = subprocess.run([sys.executable, "-c", "print('plain')"], capture_output=True, text=True, check=True)
        say("subprocess", done.stdout.strip(), repr(done.stderr))
        say("system", os.system("true"))
        spawned = multiprocessing.get_context("spawn").Process(target=led_by, args=(url, "spawned"))
        spawned.start()
        spawned.join()
        say("spawn", spawned.exitcode)
        done = subprocess.run(
            [sys.executable, "-c", "print('forked')"],
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=os.getpid,  # so that it is forked in earnest
        )
        say("subprocess", done.stdout.strip(), repr(done.stderr))
        codes = [wait(in_child(gc.collect)) for _ in range(100)]
        say("forks", *sorted({str(code) for code in codes}), len(codes))
        term.confirm()
        term.ensure()
        say("parent", term.valid)


def led_by(url: str, name: str) -> None:
    """In a process that was spawned."""
    with LeaderElector(url, name, ttl=TTL).lead(timeout=10.0) as term:
        say(name, term.valid)
