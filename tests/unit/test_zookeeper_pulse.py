"""The pulse of a ZooKeeper session that is closed while a beat is on its way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from coordkit import OutcomeUnknown
from coordkit.backends.zookeeper.pulse import Pulse
from coordkit.clock import system_clock


class Host:
    """A loop, and its tasks by name."""

    clock = system_clock()
    chance = random.Random(1)

    def __init__(self) -> None:
        self.log = self
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    def info(self, message: str, *values: object) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        self.tasks[name] = asyncio.create_task(work, name=name)
        return self.tasks[name]


class Silent:
    """A client that is connected, and whose server never answers."""

    connected = True
    parted = None

    def __init__(self) -> None:
        self.session = self
        self.over = False
        self.timeout = 4.0
        self.asked = asyncio.Event()

    def lives(self) -> None: ...

    async def read(self, *_: object) -> None:
        self.asked.set()
        await asyncio.Event().wait()


def start() -> tuple[Pulse, Host, Silent]:
    host, client = Host(), Silent()
    any_host: Any = host
    any_client: Any = client
    pulse = Pulse(any_client, any_host, "", 0.01, lambda: None)
    pulse.start()
    return pulse, host, client


@pytest.mark.parametrize("asked", [False, True], ids=["not-yet-asked", "asked"])
def test_it_stops_though_a_beat_is_on_its_way(asked: bool) -> None:
    """Neither is the end of the beat taken for a failure of it, after which the next one would come."""

    async def main() -> None:
        pulse, host, client = start()
        await asyncio.sleep(0)  # the beat is a task from here on, and has not begun
        if asked:
            await client.asked.wait()
        pulse.stop()
        done, pending = await asyncio.wait(host.tasks.values(), timeout=1.0)
        for task in pending:
            task.cancel()  # so that the test ends, as a failure
        assert {task.get_name() for task in done} == {"zookeeper-pulse", "zookeeper-beat"}
        assert all(task.cancelled() for task in done)

    asyncio.run(main())


def test_who_asks_for_that_beat_is_told_that_the_session_is_closed() -> None:
    async def main() -> None:
        pulse, _, client = start()
        await client.asked.wait()
        asks = asyncio.create_task(pulse.beat(joins=True))
        await asyncio.sleep(0)
        pulse.stop()
        with pytest.raises(OutcomeUnknown, match="the session is closed"):
            await asks

    asyncio.run(main())
