"""What a hostile reading found in the etcd adapter and only gRPC itself, or a real member, can show.

The rule: a channel that somebody else has closed is a passing trouble to whoever uses it; nothing that gRPC raises then
gets out of the adapter. The rest of that reading is on virtual time, in tests/simulation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import grpc
import pytest

from coordkit import LeaderElector
from coordkit.backends.contract import Grant, Renewed
from coordkit.backends.etcd import stubs
from coordkit.backends.etcd.adapter import EtcdBackend
from coordkit.backends.etcd.connection import Connection, Endpoint
from coordkit.engine import current
from coordkit.errors import BackendError, OutcomeUnknown, Unavailable
from coordkit.registry import connect, parse
from coordkit.testing.contract import candidate
from tests.integration.fork_scenes import in_child, wait
from tests.servers.etcd import Etcd
from tests.support.children import Child, say

pytestmark = pytest.mark.backend("etcd")

T = TypeVar("T")

TTL = 6.0
AT_ONCE = 2.0  # s, on a busy machine


def on_backend(url: str, main: Callable[[EtcdBackend], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on the engine, with a backend of its own."""
    engine = current()

    async def run() -> T:
        backend = connect(parse(url), engine)
        assert isinstance(backend, EtcdBackend)
        try:
            return await main(backend)
        finally:
            await backend.close()

    return engine.ask(run, timeout=30.0)


# -- channels that were left -------------------------------------------------------------------------------------------


class Busy:
    """A method that is refused as by a member that is too busy, or full: the adapter then asks which of the two."""

    def __init__(self, before: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._before = before

    async def __call__(self, request: Any, **options: Any) -> Any:
        await self._before()
        details = "etcdserver: too many requests"
        code = stubs.codes().RESOURCE_EXHAUSTED
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


async def leave(connection: Connection, endpoint: Endpoint, when: str) -> None:
    """As a sister does whose call has failed."""
    if when == "before":
        connection.leave(endpoint)
        await asyncio.wait(connection._left)  # its channel is closed
    else:
        asyncio.get_running_loop().call_soon(connection.leave, endpoint)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_channel_that_is_left_while_alarms_are_asked_for(when: str, etcd: Etcd[Any]) -> None:
    async def main(backend: EtcdBackend) -> None:
        connection, request = backend.connection, backend.connection.rpc.RangeRequest(key=b"x")
        endpoint = await connection.endpoint(AT_ONCE)
        busy = Busy(lambda: leave(connection, endpoint, when))
        with pytest.raises(Unavailable):
            await connection.call("attempt", lambda endpoint: busy, request, seconds=AT_ONCE)
        await connection.call("attempt", lambda endpoint: endpoint.kv.Range, request, seconds=AT_ONCE)

    on_backend(etcd.url("reviewed"), main)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_channel_that_is_left_while_somebody_logs_in(
    when: str, etcd: Etcd[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(backend: EtcdBackend) -> None:
        connection, request = backend.connection, backend.connection.rpc.RangeRequest(key=b"x")
        log_in = connection._log_in

        async def left(endpoint: Endpoint) -> str | BackendError:
            monkeypatch.setattr(connection, "_log_in", log_in)
            await leave(connection, endpoint, when)
            return await log_in(endpoint)

        monkeypatch.setattr(connection, "_log_in", left)
        with pytest.raises(Unavailable):
            await connection.call("attempt", lambda endpoint: endpoint.kv.Range, request, seconds=AT_ONCE)
        await connection.call("attempt", lambda endpoint: endpoint.kv.Range, request, seconds=AT_ONCE)

    on_backend(etcd.url("reviewed", user="somebody", password="something"), main)


@pytest.mark.parametrize("closed", [False, True])
def test_a_channel_that_is_left_under_a_call_of_any_kind(closed: bool, etcd: Etcd[Any]) -> None:
    """Its error is of coordkit: a loop that lives by it goes on."""

    async def main(backend: EtcdBackend) -> None:
        connection, rpc = backend.connection, backend.connection.rpc

        async def unary() -> None:
            request = rpc.RangeRequest(key=b"x")
            await connection.call("attempt", lambda endpoint: endpoint.kv.Range, request, seconds=AT_ONCE)

        async def beats() -> None:
            await connection.keep_alive([1], seconds=AT_ONCE)

        async def watch() -> None:
            async def nothing() -> AsyncIterator[Any]:
                await asyncio.Event().wait()
                yield None

            async for _ in connection.watch(nothing()):
                pass

        for call in (unary, beats, watch):
            endpoint = await connection.endpoint(AT_ONCE)
            if closed:  # and nobody has noticed yet
                await endpoint.channel.close()
            else:
                asyncio.get_running_loop().call_later(0.0002, connection.leave, endpoint)
            try:
                await call()
            except (Unavailable, OutcomeUnknown):
                pass
            else:
                assert not closed, call
            connection.leave(endpoint)
        await unary()

    on_backend(etcd.url("reviewed"), main)


def test_waiters_and_leases_survive_channels_that_are_left(etcd: Etcd[Any]) -> None:
    async def main(backend: EtcdBackend) -> None:
        leading = backend.candidacy("x", candidate("leading"), TTL)
        waiting = backend.candidacy("x", candidate("waiting"), TTL)
        first = await leading.attempt()
        assert isinstance(first, Grant)
        await waiting.attempt()
        for _ in range(5):
            backend.connection.leave(await backend.connection.endpoint(AT_ONCE))
            await asyncio.sleep(0)
        (answer,) = await backend.renew([first])
        assert isinstance(answer, Renewed)
        told = asyncio.create_task(waiting.changed())
        await leading.resign()
        async with asyncio.timeout(AT_ONCE):
            await told
        assert isinstance(await waiting.attempt(), Grant)
        await waiting.resign()

    on_backend(etcd.url("reviewed"), main)


# -- a key that is not ours --------------------------------------------------------------------------------------------


def test_a_strange_value_under_our_key_costs_one_lease_and_no_more(etcd: Etcd[Any]) -> None:
    async def main(backend: EtcdBackend) -> None:
        before = backend.candidacy("x", candidate("before"), TTL)
        assert isinstance(await before.attempt(), Grant)
        (key,) = await current().offload(lambda: etcd.keys("reviewed/x/"))
        await before.resign()  # its lease is kept for the next one
        put = ("put", f"--lease={key.lease:x}", key.key.decode(), "strange")
        await current().offload(lambda: etcd.ctl(*put))
        mine = backend.candidacy("x", candidate("mine"), TTL)
        grant = await mine.attempt()
        assert isinstance(grant, Grant)
        found = await current().offload(lambda: etcd.keys("reviewed/x/"))
        assert [each.create_revision for each in found] == [grant.token]
        await mine.resign()

    on_backend(etcd.url("reviewed"), main)


# -- forks -------------------------------------------------------------------------------------------------------------


def forked_beside_a_channel(url: str, endpoint: str) -> None:
    """All of coordkit is closed; the program's own channel is closed, too, but kept, and with it gRPC's thread."""
    kept: list[grpc.aio.Channel] = []

    async def use() -> None:
        channel = grpc.aio.insecure_channel(endpoint)
        await channel.channel_ready()
        await channel.close()
        kept.append(channel)

    def lead() -> None:
        elector = LeaderElector(url, "x", ttl=TTL)
        with elector.lead(timeout=4.0):
            pass
        elector.close()
        say("led")

    lead()
    asyncio.run(use())
    started = time.monotonic()
    wait(in_child(lead))
    say("within", time.monotonic() - started)
    lead()


def test_a_child_is_told_at_once_that_grpc_does_not_work_in_it(etcd: Etcd[Any]) -> None:
    with Child(forked_beside_a_channel, etcd.url("reviewed"), etcd.endpoints[0]) as parent:
        assert parent.line() == "led"
        assert parent.line().startswith("child-failed Misconfigured gRPC had been used when this process was forked")
        assert float(parent.expect("within")) < AT_ONCE
        assert parent.line() == "led"
        assert parent.exit_code() == 0
