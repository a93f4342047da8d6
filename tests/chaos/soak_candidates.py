"""A process of the soak: electors of both faces on all backends, each busy with all that an elector can do.

The rule: it does what programs do, again and again, and keeps nothing itself. An error that coordkit may raise under
trouble is counted by its name; any other ends the process, and so the soak.

`leaks` names what it does wrong on purpose, so that the soak can be seen to find it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from coordkit import AsyncLeaderElector, CoordkitError, ElectorClosed, LeaderElector, LeadershipLost, Session
from coordkit.engine import existing
from tests.support.children import hear, say

SHARED = "soak/shared"  # all contend for it
LEAKS = ("memory", "descriptors", "threads", "tasks", "sessions", "names")


def live(ttl: str, seed: str, leaks: str, *urls: str) -> None:
    """Until it is told to leave; each `sample` is answered with what can be seen from within."""
    process = Process(float(ttl), seed, tuple(filter(None, leaks.split(","))))
    for url in urls:
        process.start(process.contend, url)
        process.start(process.come_and_go, url)
    process.start_async(urls)
    say("lives", os.getpid())
    while hear() == "sample":
        say("sample", json.dumps(process.sample()))
    process.leave()
    say("left", json.dumps(process.sample()))
    hear()  # what it has left at the servers is looked for while it lives


class Process:
    """What its threads share; a Counter loses no more than a count where two of them meet."""

    def __init__(self, ttl: float, seed: str, leaks: tuple[str, ...]) -> None:
        self.ttl = ttl
        self.chance = random.Random(f"{seed} {os.getpid()}")
        self.leaks = leaks
        self.counts: Counter[str] = Counter()
        self.over = threading.Event()
        self._kept: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._electors: list[LeaderElector] = []
        self._loop = asyncio.new_event_loop()

    # -- from outside ------------------------------------------------------------------------------------

    def start(self, work: Callable[..., None], *arguments: object) -> None:
        """On a thread; if it fails, so does the process."""

        def run() -> None:
            try:
                work(*arguments)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def sample(self) -> dict[str, Any]:
        gc.collect()
        give_back()
        engine = existing()
        tasks = asyncio.all_tasks(self._loop) | (asyncio.all_tasks(engine.loop) if engine else set())
        return {"tasks": len(tasks), "objects": len(gc.get_objects()), "counts": dict(self.counts)}

    def leave(self) -> None:
        self.over.set()
        for elector in self._electors:
            elector.close()
        self._loop.call_soon_threadsafe(self._leave_async.set)
        for thread in self._threads:
            thread.join()

    # -- what it does ------------------------------------------------------------------------------------

    def contend(self, url: str) -> None:
        """Lead, mostly for a moment, sometimes beyond a ttl; resign, or lose it."""
        scheme = url.partition(":")[0]
        elector = LeaderElector(url, SHARED, ttl=self.ttl)
        self._electors.append(elector)
        while not self.over.is_set():
            try:
                with elector.lead() as term:
                    self.counts[f"{scheme} won"] += 1
                    term.on_lost(lambda _: self.counts.update([f"{scheme} told"]))
                    term.proclaim("soaking")
                    term.wait_ended(self._stay())
                    term.ensure()
            except LeadershipLost:
                self.counts[f"{scheme} lost"] += 1
            except ElectorClosed:
                return
            except CoordkitError as error:
                self._met(scheme, error)
            else:
                self.counts[f"{scheme} resigned"] += 1
            self.over.wait(self.chance.uniform(0.0, 0.2))

    def come_and_go(self, url: str) -> None:
        """A session and an elector for each term, all closed again."""
        scheme = url.partition(":")[0]
        number = 0
        while not self.over.wait(self.chance.uniform(0.2, 0.6)):
            number += 1
            self._leak(number)
            # Another option makes it a session of its own, beside that of the others.
            session = Session(url, drift=0.011 + number * 1e-6 if "sessions" in self.leaks else 0.011)
            name = f"soak/{os.getpid()}" + (f"/{number}" if "names" in self.leaks else "")
            try:
                session.open(timeout=self.ttl)
                with LeaderElector(session, name, ttl=self.ttl).lead(timeout=2 * self.ttl) as term:
                    self.counts[f"{scheme} came"] += 1
                    term.confirm(timeout=self.ttl)
            except CoordkitError as error:
                self._met(scheme, error)
            if "sessions" in self.leaks:
                self._kept.append(session)
            else:
                session.close()

    def start_async(self, urls: tuple[str, ...]) -> None:
        self._leave_async = asyncio.Event()

        async def all_of_them() -> None:
            tasks = [asyncio.create_task(self._contend_async(url)) for url in urls]
            leaving = asyncio.create_task(self._leave_async.wait())
            done, _ = await asyncio.wait([*tasks, leaving], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in done - {leaving}:
                task.result()

        self.start(lambda: self._loop.run_until_complete(all_of_them()))

    async def _contend_async(self, url: str) -> None:
        scheme = url.partition(":")[0]
        elector = AsyncLeaderElector(url, SHARED, ttl=self.ttl)
        try:
            while True:
                try:
                    await self._once_async(elector, scheme)
                except LeadershipLost:
                    self.counts[f"{scheme} async lost"] += 1
                except CoordkitError as error:
                    self._met(scheme, error)
                await asyncio.sleep(self.chance.uniform(0.0, 0.2))
        finally:
            await elector.close()

    async def _once_async(self, elector: AsyncLeaderElector, scheme: str) -> None:
        """A campaign that is cancelled, an observation, a question, or a term."""
        match self.chance.choices(["give up", "observe", "ask", "lead"], [2, 1, 1, 4])[0]:
            case "give up":
                try:
                    async with asyncio.timeout(self.chance.uniform(0.001, 0.1)), elector.lead():
                        await asyncio.sleep(0.2)
                except TimeoutError:
                    self.counts[f"{scheme} given up"] += 1
            case "observe":
                async for _ in elector.observe():
                    self.counts[f"{scheme} observed"] += 1
                    break
            case "ask":
                await elector.leader(timeout=2 * self.ttl)
                self.counts[f"{scheme} asked"] += 1
            case _:
                async with elector.lead() as term:
                    self.counts[f"{scheme} async won"] += 1
                    await asyncio.sleep(self._stay())
                    term.ensure()

    def _stay(self) -> float:
        longer = self.chance.random() < 0.05
        return self.chance.uniform(1.0, 1.5) * self.ttl if longer else self.chance.uniform(0.01, 0.2)

    def _met(self, scheme: str, error: Exception) -> None:
        self.counts[f"{scheme} {type(error).__name__}"] += 1

    def _leak(self, number: int) -> None:
        if "memory" in self.leaks:
            self._kept.append([bytearray(1 << 18), *([number] for _ in range(200))])
        if "descriptors" in self.leaks:
            self._kept.append(open(os.devnull, "rb"))  # noqa: SIM115 - that is the leak
        if "threads" in self.leaks:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        if "tasks" in self.leaks:
            never = asyncio.Event()
            self._kept.append((never, asyncio.run_coroutine_threadsafe(never.wait(), self._loop)))


def give_back() -> None:
    """What is free goes back to the system, where the C library can do that: what stays resident is in use."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
