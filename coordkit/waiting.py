"""Waiting for a backend, so that every wait ends and nobody's cancellation is mistaken for another's.

The rule: a timeout of a call means that it may have happened. A client that cancels a call of its own accord has given
no order to the task that waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from coordkit.clock import Clock
from coordkit.errors import OutcomeUnknown
from coordkit.lease import held_for

T = TypeVar("T")


class Budget:
    """Seconds for several calls together, by a clock that is an argument."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._start = clock.now()

    @property
    def left(self) -> float:
        """What is left of them; zero or less when they are used up."""
        return self._seconds - held_for(self._start, self._clock.now())


async def bounded(call: Awaitable[T], seconds: float, operation: str) -> T:
    """Await one call of a backend for at most `seconds`; a timeout is `OutcomeUnknown`: it may have happened."""
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await uncancelled(call, operation)
    except TimeoutError as error:
        if scope.expired():
            raise OutcomeUnknown(f"no answer to {operation} within {seconds:.3g} s", operation=operation) from error
        raise


async def uncancelled(call: Awaitable[T], operation: str) -> T:
    """Await one call of a backend. That its own client cancels it is no news and nobody's order: `OutcomeUnknown`.

    A call that fails just when the task that waits for it is cancelled does not keep it from being cancelled: whoever
    ordered that goes by it.
    """
    try:
        return await call
    except asyncio.CancelledError as error:  # some clients do that when their connection is closed
        if being_cancelled():
            raise
        raise OutcomeUnknown(f"the client gave up {operation}", operation=operation) from error
    except Exception as error:
        if being_cancelled():
            raise asyncio.CancelledError from error
        raise


def being_cancelled() -> bool:
    """Whether somebody has cancelled the task that asks."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def until(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most `seconds`; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
