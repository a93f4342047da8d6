"""Writes of leaders to a resource that no fault touches, and whether one came too late.

The rule: what was tried is on file before the resource is asked, what became of it right after its answer. The
resource keeps the order in which it took writes: a token that falls there is a stale write that got in. Beside it lies
a shadow without a fence, which takes all that comes.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from coordkit import StaleToken, Term
from coordkit.clock import boot_id, host_boottime
from coordkit.errors import OutcomeUnknown, Unavailable
from coordkit.fencing import FileFence
from coordkit.model import encode_election

LOCK_SECONDS = 1.0  # s: who is stopped in the middle of a write keeps the others out


class Recorder:
    """The lines of all resources of a run; processes share the file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._boot_id = boot_id()

    def note(self, event: str, election: str, token: int, resource: str, write: str, **more: int) -> None:
        line = {
            "event": event,
            "pid": os.getpid(),
            "boot": host_boottime(),
            "mono": time.monotonic(),
            "boot_id": self._boot_id,
            "election": election,
            "token": token,
            "resource": resource,
            "write": write,
            **more,
        }
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")


class Resource:
    """What the leaders of one election write to: a file behind a fence, and its shadow.

    `between`: called when a write was tried, before the resource is asked.
    """

    _numbers = count()
    _counting = threading.Lock()

    def __init__(self, folder: Path, election: str, between: Callable[[str], object] = lambda _: None) -> None:
        self._election = election
        self.path = folder / encode_election(election)
        self._shadow = os.open(shadow(self.path), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._fence = FileFence(self.path, election, timeout=LOCK_SECONDS)
        self._recorder = Recorder(folder / "writes")
        self._between = between

    def write(self, term: Term) -> bool:
        """One write under this term; whether its token was not refused."""
        with self._counting:
            name = f"{os.getpid()}-{next(self._numbers)}"
        token = int(term.token)
        line = f"{token} {name}\n".encode()
        self._note("tried", token, name)
        self._between(self._election)
        os.write(self._shadow, line)
        try:
            self._fence.update(term.token, lambda before: before + line)
        except StaleToken as stale:
            self._note("refused", token, name, newest=int(stale.newest))
            return False
        except (Unavailable, OutcomeUnknown):  # another was stopped with the lock: what becomes of it stays open
            return True
        self._note("accepted", token, name)
        return True

    def _note(self, event: str, token: int, name: str, **more: int) -> None:
        self._recorder.note(event, self._election, token, self.path.name, name, **more)


def shadow(path: Path) -> Path:
    """Where the same writes go without a fence."""
    return path.with_name(f"{path.name}.unfenced")


# -- judging ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Writes:
    """What became of them. `stale_unfenced`: how many too late ones the shadow has taken. `wrong`: in words."""

    tried: int
    accepted: int
    refused: int
    unknown: int
    stale_accepted: int
    stale_unfenced: int
    wrong: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """But for the words."""
        return {name: value for name, value in asdict(self).items() if name != "wrong"}


def judge_writes(
    records: Iterable[Mapping[str, Any]], kept: Mapping[str, bytes], unfenced: Mapping[str, bytes]
) -> Writes:
    """`kept`, `unfenced`: by resource, what is in it and what is in its shadow."""
    events: dict[str, Counter[str]] = {"tried": Counter(), "accepted": Counter(), "refused": Counter()}
    where: dict[str, str] = {}
    for record in records:
        events[record["event"]][record["write"]] += 1
        where[record["write"]] = record["resource"]
    tried, accepted, refused = events["tried"], events["accepted"], events["refused"]
    wrong = [
        f"{name} was {event} {times} times" for event in events for name, times in events[event].items() if times > 1
    ]
    wrong += [f"{name} has an outcome and was never tried" for name in where if name not in tried]
    wrong += [f"{name} was accepted and refused" for name in accepted & refused]
    held = {name for content in kept.values() for _, name in _lines(content)}
    wrong += [f"{name} was accepted, and {where[name]} does not have it" for name in accepted if name not in held]
    wrong += [f"{name} was refused, and {where[name]} has it" for name in refused if name in held]
    stale = 0
    for resource, content in kept.items():
        fell = _falls(content)
        stale += len(fell)
        wrong += [f"{resource} took {late} after {newer}" for newer, late in fell]
    return Writes(
        tried.total(),
        accepted.total(),
        refused.total(),
        len(tried.keys() - accepted.keys() - refused.keys()),
        stale,
        sum(len(_falls(content)) for content in unfenced.values()),
        tuple(wrong),
    )


def _lines(content: bytes) -> list[tuple[int, str]]:
    return [(int(token), name) for token, name in (line.split() for line in content.decode("ascii").splitlines())]


def _falls(content: bytes) -> list[tuple[str, str]]:
    """Writes under a lower token than one before them, each with the one just before."""
    newest, fell = 0, []
    for before, (token, name) in pairwise([(0, ""), *_lines(content)]):
        if token < newest:
            fell.append((before[1], name))
        newest = max(newest, token)
    return fell
