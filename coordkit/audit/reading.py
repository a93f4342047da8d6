"""Lines to records, and which records are none.

The rule: a line that `kill -9` cut short (at the end of a file, or before the line of another process that shares it)
was relied on by nobody; it is counted and left out. Whatever else cannot be read is a violation, for it may hide one.
"""

from __future__ import annotations

import json
import math

from coordkit.audit.found import Record
from coordkit.model import MAX_TOKEN

ROUNDING = 1e-6  # s: clock readings are sums of floats; nobody acts within less
LONGEST = 1e11  # s: 3,000 years; no clock has been running for longer
START = b'{"event":'  # how each line begins, as `coordkit.journal` writes it
UNREADABLE = "unreadable"  # the one field of the record that stands for a line which is no record

_PROCESS = ("boot", "pid", "boot_id")
_ENTRY = ("entry", "election", *_PROCESS)
_WRITE = ("election", *_PROCESS, "token", "resource", "write")
_FIELDS: dict[str, tuple[str, ...]] = {
    "campaign": _ENTRY,
    "won": (*_ENTRY, "token", "ttl", "sent", "deadline"),
    "renewed": (*_ENTRY, "token", "at", "sent", "deadline"),
    "jeopardy": (*_ENTRY, "token"),
    "lost": (*_ENTRY, "token", "at", "reason"),
    "resigned": (*_ENTRY, "token", "at"),
    "watched": (*_ENTRY, "token"),
    "notified": (*_ENTRY, "token"),
    "tried": _WRITE,
    "accepted": _WRITE,
    "refused": _WRITE,
    "fault": ("boot_id", "kind", "target", "since", "until"),
}
_TIMES = ("boot", "sent", "deadline", "at", "ttl", "since", "until")
WRITES = ("tried", "accepted", "refused")
FAULT = "fault"


def parse(text: bytes) -> tuple[list[Record], int]:
    """The records of one journal file, and how many of its lines were cut short by the death of their writer.

    A line that can be neither is returned as a record that `judge` takes for garbage.
    """
    records: list[Record] = []
    cut = 0
    *lines, last = text.split(b"\n")
    for line in lines:
        # Processes that share a file write whole lines, so what follows a cut one begins a line of its own.
        whole = _record(line)
        if whole is None and (start := line.rfind(START)) > 0 and line.startswith(START[:start]):
            whole = _record(line[start:])
            cut += whole is not None
        records.append({UNREADABLE: line.decode(errors="backslashreplace")[:200]} if whole is None else whole)
    if last:  # no line break: its writer was killed, or is writing
        cut += 1
    return records, cut


def _record(line: bytes) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    except RecursionError:  # brackets without end
        return None
    return value if isinstance(value, dict) else None


def wrong_with(record: Record) -> str | None:
    """Why this is no record of a journal; None if it is one."""
    if UNREADABLE in record:
        return f"a line that cannot be read: {record[UNREADABLE]!r}"
    event = record.get("event")
    if not isinstance(event, str) or event not in _FIELDS:
        return f"no such event: {event!r}"
    for name in _FIELDS[event]:
        value = record.get(name)
        if name in _TIMES:
            right = type(value) in (int, float) and abs(number(record, name)) <= LONGEST  # nor NaN
        elif name == "token":
            right = type(value) is int and 1 <= value <= MAX_TOKEN
        elif name == "pid":
            right = type(value) is int
        elif name == "boot_id":
            right = name in record and (value is None or isinstance(value, str))
        else:
            right = isinstance(value, str)
        if not right:
            return f"a {event} line whose {name} is {value!r}"
    if event == FAULT and number(record, "until") < number(record, "since"):
        return "a fault that ends before it begins"
    return None


def number(record: Record, name: str) -> float:
    """A time of a record."""
    value = record[name]
    assert isinstance(value, (int, float))
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def boot_of(record: Record) -> str | None:
    """On which boot it was written."""
    boot_id = record["boot_id"]
    return boot_id if isinstance(boot_id, str) else None
