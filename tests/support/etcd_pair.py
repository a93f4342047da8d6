"""The pair on etcd. *Raw*: a delete, its event at the other process and one commit there, with bare gRPC."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio

from coordkit.backends.etcd import stubs
from coordkit.engine import current
from tests.support import pair
from tests.support.pair import SECONDS, boottime

KEY = b"raw/handover"


def handovers(urls: list[str], rounds: int) -> dict[str, list[float]]:
    """See `pair.handovers`."""
    return pair.handovers(__name__, urls, rounds)


class Raw:
    """Bare gRPC on the engine's loop."""

    def __init__(self, url: str) -> None:
        self.rpc = stubs.load()

        async def opened() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(url.partition("://")[2].partition("/")[0])

        self.channel = current().ask(opened)
        self.kv = self.rpc.KVStub(self.channel)

    def watch(self, ready: Callable[[], None]) -> list[float]:
        """Put a key, see its deletion, commit something."""
        return current().ask(lambda: self._watch(ready), timeout=SECONDS)

    async def _watch(self, ready: Callable[[], None]) -> list[float]:
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

    def delete(self) -> list[float]:
        """Delete the key."""
        return current().ask(self._delete, timeout=SECONDS)

    async def _delete(self) -> list[float]:
        start = boottime()
        await self.kv.DeleteRange(self.rpc.DeleteRangeRequest(key=KEY))
        return [start]

    def close(self) -> None:
        current().ask(self.channel.close, timeout=SECONDS)


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request
    await asyncio.Event().wait()


if __name__ == "__main__":
    pair.serve(sys.argv[1], Raw)
