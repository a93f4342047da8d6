"""Scenes of test_field_bugs_*.py in which other libraries do what was reported of them. See `field_scenes`.

The rule: the peer's own code runs as it is shipped; what is put around it is said here.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import tenacity

from coordkit.backends.etcd import stubs
from tests.integration.field_scenes import PATIENCE
from tests.support.children import say


def _retry(*, wait: Callable[[int, float], float], **options: Any) -> Any:
    """`tenacity.retry` as it was before version 5: a wait is asked for by numbers."""

    def asked(state: tenacity.RetryCallState) -> float:
        return wait(state.attempt_number, state.seconds_since_start or 0.0)

    return tenacity.retry(wait=asked, **options)


def enters_with_etcd3(host: str, port: str) -> None:
    """Has a lock of etcd3, and enters a block under another one of the same name."""
    stubs.load()  # beside a protobuf of today etcd3 cannot be imported without
    locks = importlib.import_module("etcd3.locks")
    locks.tenacity = SimpleNamespace(**{**vars(tenacity), "retry": _retry})  # type: ignore[attr-defined]
    client = importlib.import_module("etcd3").client(host=host, port=int(port))
    held, vain = client.lock("field", ttl=60), client.lock("field", ttl=60)
    say("acquired", held.acquire())
    # Its block waits for 10 s, whatever was asked for; a test has not so much time.
    vain.acquire = functools.partial(vain.acquire, timeout=PATIENCE)
    with vain:
        say("inside", held.is_acquired(), vain.is_acquired())
    say("left", held.is_acquired())
