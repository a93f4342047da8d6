"""Questions to the fences of stores, each about one rule, for processes that may run them without that rule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordkit import FencingToken, Unavailable
from coordkit.fencing import EtcdFence, FenceMiddleware, FileFence, MemoryFence, RedisFence, ZooKeeperFence
from coordkit.model import Fence
from tests.integration.sqlfence_mutant_scenes import refused
from tests.support.children import say

LARGE = 2**62  # where the numbers of Lua are far from exact


def ask(question: str, place: str) -> None:
    """Says whether the rule was kept."""
    say("kept" if QUESTIONS[question](place) else "broken")


def token(value: int) -> FencingToken:
    return FencingToken("e", value)


def stale(fence: Fence) -> bool:
    """A lower token is refused, however large both are."""
    fence.admit(token(5))
    if not refused(lambda: fence.admit(token(4))):
        return False
    fence.admit(token(LARGE + 1))
    return refused(lambda: fence.admit(token(LARGE)))


# -- Redis -------------------------------------------------------------------------------------------------


def redis_client(place: str) -> Any:
    import redis

    return redis.Redis.from_url(place)


def in_redis(place: str) -> bool:
    return stale(RedisFence(redis_client(place)))


def once_in_redis(place: str) -> bool:
    """An operation that is sent again counts once."""
    fence = RedisFence(redis_client(place))
    fence.incrby("sum", 3, token(5), operation="o")
    return fence.incrby("sum", 3, token(5), operation="o") == 3


# -- etcd and ZooKeeper: what one has seen, another has moved ------------------------------------------------


def overtaken_in_etcd(place: str) -> bool:
    with EtcdFence(place) as one, EtcdFence(place) as other:
        one.put("k", "one", token(5))
        other.put("k", "other", token(7))
        return refused(lambda: one.put("k", "late", token(5)))


def zookeeper_client(place: str) -> Any:
    from kazoo.client import KazooClient

    client: Any = KazooClient(place)
    client.start(20)
    return client


def overtaken_in_zookeeper(place: str) -> bool:
    client = zookeeper_client(place)
    client.create("/k", b"")
    one, other = ZooKeeperFence(client), ZooKeeperFence(client)
    one.set("/k", "one", token(5))
    other.set("/k", "other", token(7))
    return refused(lambda: one.set("/k", "late", token(5)))


def made_again_in_zookeeper(place: str) -> bool:
    """A fence that was deleted and made again has the same version, and is another."""
    client = zookeeper_client(place)
    client.create("/k", b"")
    one, other = ZooKeeperFence(client), ZooKeeperFence(client)
    one.set("/k", "one", token(5))
    client.delete("/coordkit-fences/e", recursive=True)
    other.set("/k", "other", token(7))
    return refused(lambda: one.set("/k", "late", token(5)))


# -- a file ------------------------------------------------------------------------------------------------


def in_a_file(place: str) -> bool:
    return stale(FileFence(Path(place) / "x"))


def alone_in_a_file(place: str) -> bool:
    """Who reads and writes is alone."""
    one, other = FileFence(Path(place) / "x"), FileFence(Path(place) / "x", timeout=0.2)
    kept = []

    def change(_: bytes) -> bytes:
        kept.append(refused(lambda: other.write(token(5), "between"), Unavailable))
        return b"mine"

    one.update(token(5), change)
    return kept == [True]


# -- a service ---------------------------------------------------------------------------------------------


def in_memory(_: str) -> bool:
    return stale(MemoryFence())


def in_turn_by_http(_: str) -> bool:
    """A newer token is admitted only when older requests have been answered."""

    async def asked() -> bool:
        inside, go = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["coordkit.token"] == token(5):
                inside.set()
                await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        middleware = FenceMiddleware(app, MemoryFence())

        async def request(value: int) -> None:
            async def receive() -> Any:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(_: Any) -> None: ...

            headers = [(name.lower().encode(), text.encode()) for name, text in token(value).headers().items()]
            await middleware({"type": "http", "method": "PUT", "headers": headers}, receive, send)

        older = asyncio.create_task(request(5))
        await inside.wait()
        newer = asyncio.create_task(request(7))
        done, _ = await asyncio.wait({newer}, timeout=0.3)
        go.set()
        await asyncio.gather(older, newer)
        return not done

    return asyncio.run(asked())


QUESTIONS: dict[str, Callable[[str], bool]] = {
    "stale in redis": in_redis,
    "once in redis": once_in_redis,
    "overtaken in etcd": overtaken_in_etcd,
    "overtaken in zookeeper": overtaken_in_zookeeper,
    "made again in zookeeper": made_again_in_zookeeper,
    "stale in a file": in_a_file,
    "alone in a file": alone_in_a_file,
    "stale in memory": in_memory,
    "in turn by http": in_turn_by_http,
}
