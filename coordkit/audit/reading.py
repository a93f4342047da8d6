"""Lines to records, and which records are none.

The rule: every whole record counts, whatever stands before or after it. Half of one, at the end of a file or before the
line of another process that shares it, is what `kill -9` leaves: nobody relied on it, so it is counted and left out.
Whatever else cannot be read is a violation, for it may hide one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

from coordkit.audit.found import Record
from coordkit.model import MAX_TOKEN

ROUNDING = 1e-6  # s: clock readings are sums of floats; nobody acts within less
LONGEST = 1e11  # s: 3,000 years; no clock has been running for longer
UNREADABLE = "unreadable"  # the one field of the record that stands for a line which is no record

_START = '{"event":'  # how each line begins, as `coordkit.journal` writes it
_DECODER = json.JSONDecoder()
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
_ID = re.compile(r"@([^@:]+):[0-9]+:[0-9a-f]+\Z")
_EVENTS = tuple(_FIELDS)
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
        cut += _take(line, records, ended=True)
    if last:  # no line break: its writer was killed, or is writing
        cut += _take(last, records, ended=False)
    return records, cut


def holds_journal(records: Iterable[Record], cut: int) -> bool:
    """Whether this, from `parse`, is of a journal at all, be it with garbage in it."""
    return bool(cut) or any(record.get("event") in _EVENTS for record in records)


def _take(line: bytes, records: list[Record], *, ended: bool) -> int:
    """Add what one line holds to `records`: how much of it was cut short.

    Processes that share a file write whole lines, so what follows half a line begins a line of its own.
    """
    if (whole := _whole(line)) is not None:
        records.append(whole)
        return 0
    text = line.decode(errors="surrogateescape")  # what is no UTF-8 is in no record
    at = cut = 0
    while at < len(text) or not at:
        found, end = _first(text, at)
        if found is not None:
            records.append(found)
            at = end
            while text[at : at + 1].isspace():
                at += 1
            continue
        after = text.find(_START, at + 1)
        rest = text[at:] if after < 0 else text[at:after]
        if rest and (after >= 0 or not ended) and rest.startswith(_START[: len(rest)]):
            cut += 1
        else:
            shown = rest.encode(errors="surrogateescape").decode(errors="backslashreplace")
            records.append({UNREADABLE: shown[:200]})
        if after < 0:
            break
        at = after
    return cut


def _whole(line: bytes) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    except RecursionError:  # brackets without end
        return None
    return value if isinstance(value, dict) else None


def _first(text: str, at: int) -> tuple[Record | None, int]:
    """The record that begins there, and where it ends."""
    if not text.startswith(_START, at):
        return None, at
    try:
        value, end = _DECODER.raw_decode(text, at)
        text[at:end].encode()
    except ValueError:
        return None, at
    except RecursionError:
        return None, at
    return (value, end) if isinstance(value, dict) else (None, at)


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
    """On which boot it was written: what shares its axis. Without a boot id, the host that the entry names."""
    boot_id = record.get("boot_id")
    if isinstance(boot_id, str):
        return boot_id
    host = _host_of(record)
    return None if host is None else f"(host {host})"


def process_of(record: Record) -> tuple[object, object, object]:
    """Which process has written it. A pid alone does not tell: the containers of one boot have the same ones."""
    process = record.get("process")
    return record["boot_id"], record["pid"], process if isinstance(process, str) else _host_of(record)


def _host_of(record: Record) -> str | None:
    """The host in a candidate's id, as `coordkit.clock.new_candidate_id` makes it."""
    found = _ID.search(str(record.get("entry")))
    return found[1] if found else None
