"""`MemoryFence`: tokens rise, elections are kept apart, and what is admitted is written under one lock."""

from __future__ import annotations

import asyncio
import pickle
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordkit import ConfigError, FencingToken, StaleToken
from coordkit.fencing import Fence, MemoryFence


def token(value: int, election: str = "e") -> FencingToken:
    return FencingToken(election, value)


def test_a_higher_and_an_equal_token_are_admitted_a_lower_one_is_stale() -> None:
    fence: Fence = MemoryFence()
    for value in (5, 5, 7):
        fence.admit(token(value))
    with pytest.raises(StaleToken, match="token e=6 is stale: e=7 was seen") as caught:
        fence.admit(token(6))
    assert (caught.value.offered, caught.value.newest) == (token(6), token(7))
    fence.admit(token(7))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 9))))
def test_it_is_the_highest_seen_of_each_election(offers: list[tuple[str, int]]) -> None:
    fence = MemoryFence()
    highest: dict[str, int] = {}
    for election, value in offers:
        if value < highest.get(election, 0):
            with pytest.raises(StaleToken) as caught:
                fence.admit(token(value, election))
            assert caught.value.newest == token(highest[election], election)
        else:
            fence.admit(token(value, election))
            highest[election] = value
    for election in ("a", "b"):
        assert fence.newest(election) == (token(highest[election], election) if election in highest else None)


def test_a_stale_error_travels_between_processes() -> None:
    again = pickle.loads(pickle.dumps(StaleToken(token(1), token(2))))
    assert (again.offered, again.newest, str(again)) == (token(1), token(2), "token e=1 is stale: e=2 was seen already")


@pytest.mark.parametrize("offered", [7, "e=7", None, ("e", 7)])
def test_only_tokens_are_admitted(offered: object) -> None:
    fence = MemoryFence()
    with pytest.raises(ConfigError, match="admits a FencingToken"):
        fence.admit(offered)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        fence.newest("")


def test_a_block_is_not_entered_with_a_stale_token_and_may_admit_again() -> None:
    fence = MemoryFence()
    with fence.admitted(token(3)), fence.admitted(token(4)):
        fence.admit(token(4))
    with pytest.raises(StaleToken), fence.admitted(token(3)):
        pytest.fail("the block ran")
    with pytest.raises(RuntimeError, match="of the body"), fence.admitted(token(9)):
        raise RuntimeError("of the body")
    assert fence.newest("e") == token(9)
    admit_elsewhere = threading.Thread(target=fence.admit, args=(token(10),))  # the lock was let go
    admit_elsewhere.start()
    admit_elsewhere.join()
    assert fence.newest("e") == token(10)


def test_a_block_that_awaits_lets_nobody_else_in() -> None:
    """Tasks of one loop share its thread, and so the lock."""

    async def crossed() -> None:
        fence, inside, go = MemoryFence(), asyncio.Event(), asyncio.Event()

        async def older() -> None:
            with fence.admitted(token(3)):
                inside.set()
                await go.wait()

        running = asyncio.create_task(older())
        await inside.wait()
        with pytest.raises(ConfigError, match="await"):
            fence.admit(token(4))
        fence.admit(FencingToken("another", 4))
        go.set()
        await running
        fence.admit(token(4))

    asyncio.run(crossed())


def test_while_a_block_runs_nobody_else_is_admitted() -> None:
    fence = MemoryFence()
    inside, order = threading.Event(), []

    def successor() -> None:
        inside.wait()
        fence.admit(token(2))
        order.append("successor")

    thread = threading.Thread(target=successor)
    thread.start()
    with fence.admitted(token(1)):
        inside.set()
        thread.join(0.05)  # time for it to come in, if it could
        order.append("write")
    thread.join()
    assert order == ["write", "successor"]


def test_writes_of_eight_threads_never_fall() -> None:
    fence = MemoryFence()
    written: list[int] = []
    refused: list[StaleToken] = []
    values = [random.Random(seed).sample(range(1, 2001), 500) for seed in range(8)]
    together = threading.Barrier(8)

    def writer(mine: list[int]) -> None:
        together.wait()
        for value in sorted(mine[:250]) + mine[250:]:
            try:
                with fence.admitted(token(value)):
                    written.append(value)
            except StaleToken as error:
                refused.append(error)

    threads = [threading.Thread(target=writer, args=(mine,)) for mine in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == sorted(written)
    assert len(written) + len(refused) == 4000
    assert all(error.offered < error.newest for error in refused)
    assert fence.newest("e") == token(max(written)) == token(max(max(mine) for mine in values))
