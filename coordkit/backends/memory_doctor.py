"""What there is to look at in `memory://`. The rule: it is for one process, whatever else is well."""

from __future__ import annotations

from collections.abc import Sequence

from coordkit.backends.contract import Backend
from coordkit.findings import Check, Finding, opening, warning
from coordkit.registry import Address


def checks(backend: Backend, address: Address, ttl: float) -> Sequence[Check]:
    """That it can be opened, and whom it is for."""
    return [opening(backend.open), Check("scope", _scope)]


async def _scope(seconds: float) -> Sequence[Finding]:
    return [
        warning(
            "scope",
            "a memory store is for one process, and this one is the doctor's own: another process has another",
            "two processes that use this URL both lead",
            "use it in tests; among processes use sqlite://, among machines etcd:// or zookeeper://",
        )
    ]
