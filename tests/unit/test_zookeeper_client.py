"""What becomes of a client whose kazoo has given up: who asks next is told why, and the one after begins anew."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from kazoo.exceptions import (
    AuthFailedError,
    ConnectionLoss,
    NoAuthError,
    NoChildrenForEphemeralsError,
    NoNodeError,
    UnimplementedError,
)

from coordkit import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable
from coordkit.backends.zookeeper.client import Client, Target
from coordkit.clock import system_clock


class Host:
    """As much of a host as a client needs that never connects."""

    clock = system_clock()

    def __init__(self) -> None:
        self.log = self

    def info(self, message: str, *values: object) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        work.close()


async def told(*ends: BaseException | None) -> BackendError:
    """What the next one to ask is told when kazoo's thread has ended so, one after the other."""
    host: Any = Host()
    client = Client(Target(("127.0.0.1:1",), 4.0), host, 0.01, lambda: None)
    for end in ends:
        handler: Any = object()
        client._handler = handler
        client._on_failure(object(), end)  # type: ignore[arg-type]  # of a client that is gone: nothing
        client._on_failure(handler, end)
    with pytest.raises(BackendError) as failed:
        await client.ready(1.0, "attempt")
    return failed.value


@pytest.mark.parametrize(
    ("ends", "kind", "words"),
    [
        ((AuthFailedError(), AuthFailedError()), Rejected, "refuse to log us in"),
        ((Misconfigured("no time to act"),), Misconfigured, "no time to act"),
        ((RuntimeError("secret"),), Unavailable, "RuntimeError"),
        ((None,), Unavailable, "by itself"),
    ],
)
def test_whoever_asks_next_is_told_why(ends: Any, kind: type[BackendError], words: str) -> None:
    failure = asyncio.run(told(*ends))
    assert type(failure) is kind
    assert words in str(failure)
    assert "secret" not in str(failure)


@pytest.mark.parametrize(
    ("error", "writes", "kind"),
    [
        (ConnectionLoss(), True, OutcomeUnknown),
        (ConnectionLoss(), False, Unavailable),
        (NoAuthError(), True, Rejected),
        (NoChildrenForEphemeralsError(), True, Misconfigured),
        (UnimplementedError(), False, Misconfigured),
        (NoNodeError(), False, NoNodeError),
    ],
)
def test_failures_are_told_by_what_is_known(error: Exception, writes: bool, kind: type[Exception]) -> None:
    host: Any = Host()
    client = Client(Target(("127.0.0.1:1",), 4.0), host, 0.01, lambda: None)
    with pytest.raises(kind):
        client._translate(error, "attempt", writes=writes)


def test_who_is_closed_connects_no_more() -> None:
    async def main() -> None:
        host: Any = Host()
        client = Client(Target(("127.0.0.1:1",), 4.0), host, 0.01, lambda: None)
        await client.close(farewell=True)
        client.go_on()
        client.leave("nothing to leave")
        with pytest.raises(Unavailable, match="closed"):
            await client.ready(0.1, "attempt")

    asyncio.run(main())
