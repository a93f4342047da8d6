"""The values of an election: frozen, comparable, picklable. No I/O, no clock, no threads.

The rule: a value that exists is valid; whatever is wrong with it is said when it is made, as a `ConfigError`.
"""

from __future__ import annotations

import enum
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import total_ordering
from typing import Protocol, Self
from urllib.parse import quote, unquote

from coordkit.errors import ConfigError

MAX_ELECTION_BYTES = 255
MAX_METADATA_BYTES = 64 * 1024
MAX_TOKEN = 2**63 - 1
MAX_TTL = 365 * 86400.0

_ENCODED = re.compile(r"(?:[A-Za-z0-9_.~/-]|%[0-9A-Fa-f]{2})+")  # what `quote(text, safe="/")` writes


class TermState(enum.Enum):
    """Where a term stands. LEADING and JEOPARDY are valid until the deadline; LOST and RESIGNED are final."""

    LEADING = "leading"
    JEOPARDY = "jeopardy"
    LOST = "lost"
    RESIGNED = "resigned"


class LossReason(enum.Enum):
    """Why a term was lost."""

    EXPIRED = "expired"  # its deadline passed on the local clock
    REVOKED = "revoked"  # the backend says that the entry is gone or is another's
    CLOSED = "closed"  # the elector or session was closed, or the process exits, under the open term
    FORKED = "forked"  # this is a child process; the term belongs to its parent
    ENGINE_DIED = "engine-died"  # the background thread ended: nothing renews the lease any more
    INELIGIBLE = "ineligible"  # won, but `eligible` said no before the body


@dataclass(frozen=True, slots=True)
class CandidateInfo:
    """One contender. `id` is unique to one campaign; `label` is the application's name for it."""

    id: str
    label: str = ""
    metadata: str = ""


@total_ordering
@dataclass(frozen=True, slots=True)
class FencingToken:
    """A number that rises with every term of one election; hand it to the resource with every write.

    Ordered within its election only: comparing the tokens of two elections by `<` raises `ConfigError`, for
    it says nothing. `int(token)` is for SQL columns, `str(token)` reads `reports/nightly=42`.
    `value` is from 1 to 2**63 - 1.
    """

    election: str
    value: int

    def __post_init__(self) -> None:
        check_election(self.election)
        if type(self.value) is not int or not 1 <= self.value <= MAX_TOKEN:
            raise ConfigError(f"a token's value is a whole number from 1 to 2**63 - 1, not {_shown(self.value)}")

    def __int__(self) -> int:
        return self.value

    def __str__(self) -> str:
        return f"{self.election}={self.value}"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, FencingToken):
            return NotImplemented
        if other.election != self.election:
            raise ConfigError(f"tokens of two elections have no order: {self.election!r} and {other.election!r}")
        return self.value < other.value

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token that `str(token)` wrote, exactly; anything else raises `ConfigError`."""
        if not isinstance(text, str):
            raise ConfigError(f"a token is parsed from a str, not {type(text).__name__}")
        if len(text) > MAX_ELECTION_BYTES + 24:
            raise ConfigError("a token reads 'election=number'")
        election, equals, digits = text.rpartition("=")
        canonical = digits.isascii() and digits.isdigit() and (digits == "0" or not digits.startswith("0"))
        if not equals or not canonical or len(digits) > 19:
            raise ConfigError(f"a token reads 'election=number', not {_shown(text)}")
        return cls(election, int(digits))

    def headers(self) -> dict[str, str]:
        """The HTTP header that carries this token; the election is percent-encoded to ASCII."""
        return {"Fencing-Token": f"{quote(self.election, safe='/')}={self.value}"}

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Self:
        """The token of a request's `Fencing-Token` header (any case); missing or malformed: `ConfigError`."""
        found = [value for name, value in headers.items() if name.lower() == "fencing-token"]
        if len(found) != 1:
            raise ConfigError(f"one Fencing-Token header is expected, {len(found)} found")
        election, equals, digits = found[0].rpartition("=")
        if not _ENCODED.fullmatch(election):  # two headers joined by a proxy are not one odd name
            raise ConfigError(f"a Fencing-Token header reads 'percent-encoded=number', not {_shown(found[0])}")
        try:
            decoded = unquote(election, errors="strict")
        except UnicodeDecodeError:
            raise ConfigError("the Fencing-Token header is not percent-encoded UTF-8") from None
        return cls.parse(f"{decoded}{equals}{digits}")


@dataclass(frozen=True, slots=True)
class LeaderInfo:
    """Who leads as a backend tells it: news, already old. Never act on it as if it were a term."""

    candidate: CandidateInfo
    token: FencingToken
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What a backend promises and on what condition.

    `token` says where fencing tokens come from and when they rise; `fifo` whether candidates are elected in
    the order of their arrival; `survives` the faults under which at most one valid term exists and a new one
    follows; `not_covered` those under which only a fence helps, or nobody can lead.
    """

    backend: str
    token: str
    fifo: bool
    survives: tuple[str, ...]
    not_covered: tuple[str, ...]

    def but_not(self, *faults: str) -> Guarantees:
        """The same guarantees with further faults named as not covered."""
        return Guarantees(self.backend, self.token, self.fifo, self.survives, (*self.not_covered, *faults))


class Fence(Protocol):
    """The check at a resource: admits a token not lower than the newest it has seen, refuses others."""

    def admit(self, token: FencingToken) -> None:
        """Remember `token` as seen, or raise `StaleToken` if a newer one of its election was seen."""
        ...


def check_election(name: object) -> str:
    """`name` if it is a valid election name, else `ConfigError` saying what is wrong with it."""
    if not isinstance(name, str):
        raise ConfigError(f"an election's name is a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ConfigError("an election's name must be encodable as UTF-8; this one has a lone surrogate") from None
    if not 1 <= size <= MAX_ELECTION_BYTES:
        raise ConfigError(f"an election's name has 1 to {MAX_ELECTION_BYTES} bytes of UTF-8, this one has {size}")
    if any(unicodedata.category(char) == "Cc" for char in name):
        raise ConfigError(f"an election's name has no control characters: {name!r}")
    if not unicodedata.is_normalized("NFC", name):
        raise ConfigError(f"an election's name must be in Unicode NFC, else equal-looking names differ: {name!r}")
    for segment in name.split("/"):
        if segment in ("", ".", ".."):
            raise ConfigError(f"an election's name is segments joined by '/', none empty, '.' or '..': {name!r}")
    return name


def check_token(token: object) -> FencingToken:
    """`token` if it is a `FencingToken`, else `ConfigError`: a bare number names no election."""
    if not isinstance(token, FencingToken):
        raise ConfigError(f"a fence admits a FencingToken, not {type(token).__name__}")
    return token


def encode_election(name: str, reserved: Iterable[str] = ()) -> str:
    """The election as ONE path segment: '/', '%' and what the store reserves are percent-encoded.

    Without this `a` and `a/b` would share a prefix in the store, and so contend.
    """
    special = {"/", "%", *reserved}
    return "".join(_percent(char) if char in special else char for char in name)


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode())


def check_metadata(metadata: object) -> str:
    """`metadata` if it is text of at most 64 KiB of UTF-8, else `ConfigError`."""
    if not isinstance(metadata, str):
        raise ConfigError(f"metadata is a str, not {type(metadata).__name__}")
    try:
        size = len(metadata.encode())
    except UnicodeEncodeError:
        raise ConfigError("metadata must be encodable as UTF-8; it has a lone surrogate") from None
    if size > MAX_METADATA_BYTES:
        raise ConfigError(f"metadata has at most {MAX_METADATA_BYTES} bytes of UTF-8, this has {size}")
    return metadata


def check_label(label: object) -> str:
    """`label` if it is printable text of at most 255 bytes, else `ConfigError`."""
    if not isinstance(label, str):
        raise ConfigError(f"a label is a str, not {type(label).__name__}")
    try:
        size = len(label.encode())
    except UnicodeEncodeError:
        raise ConfigError("a label must be encodable as UTF-8; it has a lone surrogate") from None
    if size > MAX_ELECTION_BYTES or any(unicodedata.category(char) == "Cc" for char in label):
        raise ConfigError("a label has at most 255 bytes of UTF-8 and no control characters")
    return label


def check_seconds(value: object, what: str, *, zero: bool = False, most: float = MAX_TTL) -> float:
    """`value` as a float if it is a finite number of seconds > 0 (or >= 0 with `zero`), else `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{what} is a number of seconds, not {type(value).__name__}")
    try:
        seconds = float(value)
    except OverflowError:
        raise ConfigError(f"{what} is too large") from None
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        raise ConfigError(f"{what} must be finite and {'>= 0' if zero else '> 0'} seconds, not {value!r}")
    if seconds > most:
        raise ConfigError(f"{what} is at most {most:g} seconds, not {value!r}")
    return seconds


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 2**128 else "a huge number"
    return text if len(text) <= 80 else text[:77] + "..."
