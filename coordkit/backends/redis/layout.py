"""How a voter's answers are written and read: markers, records, channels, configurations. No I/O, no clock, no threads.

The rule: what is not exactly of this layout is foreign. It is never taken for a vote, and never written over.
The other half of it is in `lua/common.lua`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordkit.errors import OutcomeUnknown
from coordkit.model import CandidateInfo, FencingToken, LeaderInfo

EPOCH_LIMIT: Final = 2**53  # from there on the numbers of Lua are not exact

_RECORD: Final = re.compile(
    rb"(\d{1,16}) (\d{1,16}) (\S+) (\d{1,16}) (held|released) (\d{1,16}) (\S+)(?: (.*))?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Record:
    """What a voter has written down of one election. A seat is free unless it is `held`."""

    epoch: int  # the highest that it has granted
    floor: int  # and one up to which it will never grant
    attempt: str  # whose seat it is
    beat: int  # how often that attempt has written here
    held: bool
    ttl: float
    birth: str  # the memory that wrote it
    value: bytes = b""  # who leads: see `value_of`

    @property
    def stamp(self) -> str:
        """Unlike that of every other write."""
        return f"{self.attempt}.{self.beat}"

    @property
    def highest(self) -> int:
        """A new epoch has to be above it."""
        return max(self.epoch, self.floor)


class Unreadable:
    """A record that somebody else has written: that voter abstains in this election."""


UNREADABLE: Final = Unreadable()


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a voter. `standing`: healthy, unknown, replica, config or foreign; only the first can grant."""

    standing: str
    birth: str
    memory: str
    time: int  # us since 1970, as this server believes
    detail: str
    answers: tuple[object, ...]

    @property
    def server(self) -> str:
        """The same for one server under two names."""
        return self.memory.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Word:
    """What a voter has published of one election: the verb, how many listened, and the record without its value."""

    verb: str  # held, renewed, proclaimed, released or call
    listening: int = 0
    record: Record | None = None


def reply_of(raw: object, nonce: str) -> Reply:
    """A script's answer; `OutcomeUnknown` if it is not the one to the request of that nonce."""
    if not (
        isinstance(raw, list)
        and len(raw) == 7
        and all(isinstance(each, bytes) for each in raw[:6])
        and isinstance(raw[6], list)
    ):
        raise OutcomeUnknown("an answer that is none of our scripts'", backend="redis")
    named, standing, birth, memory, micros, detail = (each.decode(errors="replace") for each in raw[:6])
    if named != nonce:
        raise OutcomeUnknown("an answer to another request", backend="redis")
    if not (micros.isascii() and micros.isdigit() and len(micros) <= 18):
        raise OutcomeUnknown("an answer without a time", backend="redis")
    return Reply(standing, birth, memory, int(micros), detail, tuple(raw[6]))


def record_of(text: object) -> Record | Unreadable | None:
    """A record as it is written; None: there is none."""
    if text == b"":
        return None
    match = _RECORD.fullmatch(text) if isinstance(text, bytes) else None
    if match is None:
        return UNREADABLE
    epoch, floor, beat, ttl = (int(match[place]) for place in (1, 2, 4, 6))
    if max(epoch, floor) >= EPOCH_LIMIT or (match[5] == b"held" and not epoch):
        return UNREADABLE
    attempt, birth = match[3].decode(errors="replace"), match[7].decode(errors="replace")
    return Record(epoch, floor, attempt, beat, match[5] == b"held", ttl / 1000, birth, match[8] or b"")


def verdict_of(answer: object) -> tuple[str, Record | Unreadable | None]:
    """A pair of a script: what it has decided, and the record as it then was."""
    if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[0], bytes):
        verdict = answer[0].decode(errors="replace")
        return verdict, UNREADABLE if verdict == "unreadable" else record_of(answer[1])
    return "unreadable", UNREADABLE


def word_of(payload: bytes) -> Word | None:
    """A published word; None if it is none of ours."""
    if payload == b"call":
        return Word("call")
    verb, _, rest = payload.partition(b" ")
    listening, _, text = rest.partition(b" ")
    record = record_of(text)
    if verb not in (b"held", b"renewed", b"proclaimed", b"released") or not isinstance(record, Record):
        return None
    return Word(verb.decode(), int(listening) if listening.isdigit() and len(listening) < 9 else 0, record)


def is_echo(payload: bytes, seen: Record | Unreadable | None) -> bool:
    """Whether a word tells of the write that was seen last, as most do to who has asked for it: told in a moment."""
    words = payload.split(b" ", 6)
    return (
        isinstance(seen, Record)
        and len(words) == 7
        and words[4] == seen.attempt.encode()
        and words[5] == b"%d" % seen.beat
        and payload.endswith(b" " + seen.birth.encode())
    )


def value_of(candidate: CandidateInfo, proclaimed: str) -> str:
    """Who leads, as it is written into a record."""
    fields = {"id": candidate.id, "label": candidate.label, "metadata": candidate.metadata}
    if proclaimed != candidate.metadata:
        fields["proclaimed"] = proclaimed
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def leader_of(election: str, record: Record) -> LeaderInfo:
    """Who leads by this record; whose value nobody can read is called by his attempt."""
    try:
        fields = json.loads(record.value)
        texts = {name: fields[name] for name in ("id", "label", "metadata")}
        proclaimed = fields.get("proclaimed", fields["metadata"])
        if not all(isinstance(each, str) for each in (*texts.values(), proclaimed)):
            raise TypeError("not texts")
        candidate = CandidateInfo(**texts)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        candidate, proclaimed = CandidateInfo(record.attempt), ""
    return LeaderInfo(candidate, FencingToken(election, record.epoch), proclaimed)


def info_of(answer: object) -> dict[str, str]:
    """What INFO tells, by name; nothing, if that is no answer to it."""
    lines = answer.decode(errors="replace").splitlines() if isinstance(answer, bytes) else []
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if value}


def channel_of(key: str, election: str) -> bytes:
    """On which a voter publishes what happens in an election."""
    return f"{key}:{election}".encode()


def config_of(max_ttl: float, addresses: Sequence[str], cluster: str) -> str:
    """What all candidates have to agree on: how long a lease may be, how many voters, and which."""
    if cluster:
        named = "".join(char if char.isalnum() and char.isascii() else f"%{ord(char):X}." for char in cluster)
    else:
        named = hashlib.sha256("\n".join(sorted(addresses)).encode()).hexdigest()[:16]
    return f"{round(max_ttl * 1000)}/{len(addresses)}/{named}"
