"""The record of what was done to candidates, links and servers, on the axis of the journal.

The rule: a line has the time from just before a fault began until just after it was mended, and names whom it touched.
It is written when the fault is over, or as soon as it is known when it will be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordkit.clock import boot_id, host_boottime


@dataclass(frozen=True, slots=True)
class Fault:
    """`pids`: the candidates that it touched. `majority`: it touched most of the servers, and so everybody."""

    kind: str
    target: str
    since: float
    until: float
    pids: frozenset[int] = frozenset()
    majority: bool = False

    def touches(self, pid: int) -> bool:
        """Whether a leader of this process is not to blame for the loss of its term."""
        return self.majority or pid in self.pids


class FaultLog:
    """A file, one line for each fault. Usable by any thread: a line is written whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._boot_id = boot_id()

    def add(
        self,
        kind: str,
        target: str,
        since: float,
        *,
        pids: Collection[int] = (),
        majority: bool = False,
        lasts: float | None = None,
    ) -> None:
        """A fault that is over now, or that will end by itself so long after it began."""
        line = {
            "event": "fault",
            "kind": kind,
            "target": target,
            "since": since,
            "until": host_boottime() if lasts is None else since + lasts,
            "boot_id": self._boot_id,
            "pids": sorted(pids),
            "majority": majority,
        }
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)

    def read(self) -> list[Fault]:
        """All so far, by their begin."""
        lines = self.path.read_text(encoding="ascii").splitlines()
        return sorted((fault(json.loads(line)) for line in lines), key=lambda each: each.since)


def fault(line: Mapping[str, Any]) -> Fault:
    """What a line says."""
    return Fault(
        line["kind"],
        line["target"],
        line["since"],
        line["until"],
        frozenset(line.get("pids", ())),
        line.get("majority", False),
    )
