"""What tests of many campaigns have in common: a seed that is told, outcomes that are counted, a line that is bad."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.servers.proxy import Proxy


def outcomes(said: str) -> dict[str, int]:
    """How often each was the end of a campaign, as a scene has said it."""
    return {name: int(number) for name, number in (each.split("=") for each in said.split())}


def seeded() -> int:
    """A new seed, which is printed."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    return seed


@contextmanager
def bad_line(proxies: Sequence[Proxy], seed: int, request: bytes) -> Iterator[None]:
    """During the block, from time to time each connection is reset, or the replies to such a request are dropped."""
    chance, over = random.Random(seed), threading.Event()

    def spoil() -> None:
        while not over.wait(chance.uniform(0.05, 0.3)):
            if chance.random() < 0.5:
                for proxy in proxies:
                    proxy.reset()
            else:
                for proxy in proxies:
                    proxy.drop_replies(after=request)
                over.wait(chance.uniform(0.02, 0.1))
                for proxy in proxies:
                    proxy.heal()

    spoiling = threading.Thread(target=spoil)
    spoiling.start()
    try:
        yield
    finally:
        over.set()
        spoiling.join()
        for proxy in proxies:
            proxy.heal()
