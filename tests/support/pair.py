"""Two processes that hand an election over to each other, beside the least that could carry it.

    python -m tests.support.etcd_pair URL      a peer: orders on stdin, stamps on stdout

Three things are done in turn, by the same two processes and through the same two servers, with the same idle time
before each: *raw*, what a handover cannot do without, asked of the store's own client; *store*, a resignation and the
win that follows it, asked of the backend on the engine's loop; *public*, `term.resign()` and the other's `campaign()`,
which adds the way between the application's threads and the loop. Stamps are of CLOCK_BOOTTIME, which the processes
share.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import coordkit
from coordkit.backends.contract import Candidacy, Grant
from coordkit.clock import new_candidate_id
from coordkit.engine import current
from coordkit.registry import connect, parse
from tests.support.children import ROOT

TTL = 30.0
SECONDS = 60.0  # for one order
SETTLING = 0.05  # s: until the other one waits, which nobody tells; the same for all three


def boottime() -> float:
    """A stamp that compares between processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Raw(Protocol):
    """The store's own client."""

    def watch(self, ready: Callable[[], None]) -> list[float]:
        """Wait until the other one has deleted something, and do what comes then; stamps of the event and the end."""
        ...

    def delete(self) -> list[float]:
        """Delete it; a stamp of the beginning."""
        ...

    def close(self) -> None: ...


class Peer:
    """One of the two processes; `module` is run with these arguments."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def order(self, word: str) -> None:
        """Tell it what to do."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def answer(self) -> list[float]:
        """Its next line: stamps."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a peer has ended too early")
        return [float(word) for word in line.split()]

    def end(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def handovers(module: str, urls: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each handover, `store` and `public`; of each raw delete until its `event`, and what comes `then`."""
    peers = [Peer(module, url) for url in urls]
    taken: dict[str, list[float]] = {"event": [], "then": [], "store": [], "public": []}
    try:
        for kind in ("store", "public"):
            peers[0].order(f"{kind} lead")
            peers[0].answer()
        for number in range(rounds):
            old, new = peers[number % 2], peers[1 - number % 2]
            new.order("watch")
            new.answer()
            time.sleep(SETTLING)
            old.order("delete")
            (deleted,) = old.answer()
            seen, done = new.answer()
            taken["event"].append(seen - deleted)
            taken["then"].append(done - seen)
            for kind in ("store", "public"):
                new.order(f"{kind} lead")
                time.sleep(SETTLING)
                old.order(f"{kind} resign")
                (resigned,) = old.answer()
                (led,) = new.answer()
                taken[kind].append(led - resigned)
    finally:
        for peer in peers:
            peer.end()
    return taken


class Store:
    """One candidacy after the other, asked of the backend."""

    def __init__(self, url: str) -> None:
        self.backend = connect(parse(url), current(), TTL)
        self.candidacy: Candidacy | None = None

    async def lead(self) -> list[float]:
        """Contend until first."""
        candidate = coordkit.CandidateInfo(new_candidate_id("pair", current().chance))
        self.candidacy = self.backend.candidacy("store", candidate, TTL)
        while not isinstance(await self.candidacy.attempt(), Grant):
            await self.candidacy.changed()
        return [boottime()]

    async def resign(self) -> list[float]:
        """Give up."""
        assert self.candidacy is not None
        start = boottime()
        await self.candidacy.resign()
        return [start]


def serve(url: str, made: Callable[[str], Raw]) -> None:
    """The life of a peer, whose raw client is made of its URL."""
    engine = current()

    def ask(work: Callable[[], Coroutine[Any, Any, list[float]]]) -> list[float]:
        return engine.ask(work, timeout=SECONDS)

    async def opened() -> Store:
        store = Store(url)
        await store.backend.open()
        return store

    raw, store = made(url), engine.ask(opened)
    elector = coordkit.LeaderElector(url, "public", ttl=TTL)
    term: coordkit.Term | None = None
    for line in sys.stdin:
        match line.strip():
            case "watch":
                stamps = raw.watch(lambda: print(flush=True))
            case "delete":
                stamps = raw.delete()
            case "store lead":
                stamps = ask(store.lead)
            case "store resign":
                stamps = ask(store.resign)
            case "public lead":
                term = elector.campaign()
                stamps = [boottime()]
            case "public resign":
                assert term is not None
                stamps = [boottime()]
                term.resign()
            case other:
                raise ValueError(f"no such order: {other}")
        print(*stamps, flush=True)
    if term is not None:
        term.resign()
    elector.close()

    async def ended() -> list[float]:
        await store.resign()
        await store.backend.close()
        return []

    ask(ended)
    raw.close()
