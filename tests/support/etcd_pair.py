"""Two processes that hand an election of etcd over to each other, beside the least that could carry it.

    python -m tests.support.etcd_pair URL      a peer: orders on stdin, stamps on stdout

Three things are done in turn, by the same two processes and through the same two members: *raw*, a delete, its event at
the other process and one commit there, with bare gRPC on an event loop; *store*, a resignation and the win that follows
it, asked of the backend on that same loop; *public*, `term.resign()` and the other's `campaign()`, which adds the way
between the application's threads and the loop. Stamps are of CLOCK_BOOTTIME, which the processes share.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import grpc.aio

import coordkit
from coordkit.backends.contract import Candidacy, Grant
from coordkit.backends.etcd import stubs
from coordkit.clock import new_candidate_id
from coordkit.engine import current
from coordkit.registry import connect, parse
from tests.support.children import ROOT

KEY = b"raw/handover"
TTL = 30.0
SETTLING = 0.05  # s: until the other one waits, which nobody tells; the same for all three


def boottime() -> float:
    """A stamp that compares between processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Peer:
    """One of the two processes."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "tests.support.etcd_pair", url]
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


def handovers(urls: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each handover, `store` and `public`; of each raw delete until its `event`, and of each `commit`."""
    peers = [Peer(url) for url in urls]
    taken: dict[str, list[float]] = {"event": [], "commit": [], "store": [], "public": []}
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
            seen, committed = new.answer()
            taken["event"].append(seen - deleted)
            taken["commit"].append(committed - seen)
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


class Raw:
    """Bare gRPC on the engine's loop."""

    def __init__(self, endpoint: str) -> None:
        self.rpc = stubs.load()
        self.channel = grpc.aio.insecure_channel(endpoint)
        self.kv = self.rpc.KVStub(self.channel)

    async def watch(self, ready: Callable[[], None]) -> list[float]:
        """Put a key, see its deletion, commit something."""
        rpc = self.rpc
        put = await self.kv.Put(rpc.PutRequest(key=KEY, value=b"x" * 100))
        create = rpc.WatchCreateRequest(key=KEY, start_revision=put.header.revision + 1)
        call = rpc.WatchStub(self.channel).Watch(_once(rpc.WatchRequest(create_request=create)))
        answers = aiter(call)
        await anext(answers)
        ready()
        await anext(answers)
        seen = boottime()
        await self.kv.Put(rpc.PutRequest(key=KEY + b"/commit", value=b"x" * 100))
        committed = boottime()
        call.cancel()
        return [seen, committed]

    async def delete(self) -> list[float]:
        """Delete the key."""
        start = boottime()
        await self.kv.DeleteRange(self.rpc.DeleteRangeRequest(key=KEY))
        return [start]


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request
    await asyncio.Event().wait()


class Store:
    """One candidacy after the other, asked of the backend."""

    def __init__(self, url: str) -> None:
        self.backend = connect(parse(url), current())
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


def serve(url: str) -> None:
    """The life of a peer."""
    engine = current()

    def ask(work: Callable[[], Coroutine[Any, Any, list[float]]]) -> list[float]:
        return engine.ask(work, timeout=60.0)

    async def made() -> tuple[Raw, Store]:
        store = Store(url)
        await store.backend.open()
        return Raw(url.partition("://")[2].partition("/")[0]), store

    raw, store = engine.ask(made)
    elector = coordkit.LeaderElector(url, "public", ttl=TTL)
    term: coordkit.Term | None = None
    for line in sys.stdin:
        match line.strip():
            case "watch":
                stamps = ask(lambda: raw.watch(lambda: print(flush=True)))
            case "delete":
                stamps = ask(raw.delete)
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
        await raw.channel.close()
        return []

    ask(ended)


if __name__ == "__main__":
    serve(sys.argv[1])
