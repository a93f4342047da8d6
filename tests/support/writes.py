"""Writes to a fenced file, on record, and what the records say of stale ones.

The rule: `tried` is on file before the resource is asked, the outcome right after its answer. So a write is stale for
certain if it was tried after the answer to one with a newer token; such a one must never have been accepted.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordkit import FencingToken, StaleToken
from coordkit.clock import boot_id, host_boottime
from coordkit.fencing.file import FileFence


class Writer:
    """Writes to `folder`/state by a fence of its own; records in `folder`/writes, which processes share."""

    def __init__(self, folder: str | Path) -> None:
        self._resource = str(Path(folder, "state"))
        self._fence = FileFence(self._resource)
        self._records = os.open(Path(folder, "writes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._numbers = itertools.count(1)

    def write(self, token: FencingToken) -> bool:
        """Whether the fence has let it in."""
        name = f"{os.getpid()}-{next(self._numbers)}"
        self._record("tried", token, name)
        try:
            self._fence.write(token, json.dumps({"token": int(token), "write": name}))
        except StaleToken as stale:
            self._record("refused", token, name, newest=int(stale.newest))
            return False
        self._record("accepted", token, name)
        return True

    def _record(self, event: str, token: FencingToken, name: str, **more: int) -> None:
        record = {
            "event": event,
            "pid": os.getpid(),
            "boot": host_boottime(),
            "mono": time.monotonic(),
            "boot_id": boot_id(),
            "election": token.election,
            "token": int(token),
            "resource": self._resource,
            "write": name,
            **more,
        }
        os.write(self._records, json.dumps(record, separators=(",", ":")).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Writes:
    """What the records of a folder say."""

    counts: Mapping[str, int]
    tokens: tuple[int, ...]  # those that were accepted, rising
    stale: tuple[Mapping[str, Any], ...]  # accepted although a newer one had been


def read(folder: Path) -> Writes:
    """All that was written to this folder."""
    lines = (folder / "writes").read_text(encoding="ascii").splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    tried = {record["write"]: record["boot"] for record in records if record["event"] == "tried"}
    accepted = [record for record in records if record["event"] == "accepted"]
    first: dict[int, float] = {}  # by token: when its first write had been accepted
    for record in accepted:
        first[record["token"]] = min(record["boot"], first.get(record["token"], record["boot"]))
    stale = [
        record
        for record in accepted
        if any(token > record["token"] and at < tried[record["write"]] for token, at in first.items())
    ]
    return Writes(Counter(record["event"] for record in records), tuple(sorted(first)), tuple(stale))
