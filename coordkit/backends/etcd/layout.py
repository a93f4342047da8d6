"""How an election lies in etcd: keys, values, and the record of who leads. Pure.

The rule: the layout is that of Go's `concurrency.Election`, so that `etcdctl elect` and Go programs contend in the same
election: `[prefix]<election>/<lease id in hex>`, bound to that lease, lowest create_revision first. The value is ours
and tells whose key it is. Whatever else lies under the prefix is nobody's candidacy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from coordkit.errors import Misconfigured
from coordkit.model import CandidateInfo, check_metadata, check_seconds, encode_election

LEADING, RESIGNED = "leading", "resigned"
_LEASE = re.compile(rb"[0-9a-f]{1,16}")
_SHOWN = 200  # characters of a foreign value that are worth showing


@dataclass(frozen=True, slots=True)
class Place:
    """Where one election lies under a URL's prefix."""

    prefix: str
    election: str
    entries: bytes = field(init=False)  # all entries' keys begin with it
    entries_end: bytes = field(init=False)
    record: bytes = field(init=False)  # beside the entries, never among them

    def __post_init__(self) -> None:
        name = (self.prefix + encode_election(self.election)).encode()
        object.__setattr__(self, "entries", name + b"/")
        object.__setattr__(self, "entries_end", name + b"0")  # "0" follows "/"
        object.__setattr__(self, "record", name + b".coordkit")  # "." comes before "/"

    def entry(self, lease: int) -> bytes:
        """The key of the candidate that has this lease."""
        return self.entries + b"%x" % lease


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate's key. `records`: its program writes the record before it leads. `foreign`: not of coordkit."""

    key: bytes
    lease: int
    token: int  # its create_revision
    candidate: CandidateInfo
    proclaimed: str
    records: bool = False
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Who led last, kept without a lease: its lease may have been revoked while it was living.

    `id` is the candidate's, `revision` that of the record's last change.
    """

    lease: int
    id: str
    ttl: float
    leading: bool
    revision: int = 0


def value_of(candidate: CandidateInfo, proclaimed: str, *, records: bool) -> bytes:
    """What a candidate writes into its key."""
    fields = {
        "coordkit": 1,
        "id": candidate.id,
        "label": candidate.label,
        "metadata": candidate.metadata,
        "proclaimed": proclaimed,
        "records": records,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def entry_of(place: Place, kv: Any) -> Entry | None:
    """The entry that a key is; None if it is not of the layout, and so nobody's."""
    suffix = kv.key.removeprefix(place.entries)
    if not _LEASE.fullmatch(suffix) or kv.lease == 0 or int(suffix, 16) != kv.lease % 2**64:
        return None
    token = int(kv.create_revision)
    known = _ours(kv.value)
    if known is None:
        text = kv.value.decode(errors="replace")[:_SHOWN]
        return Entry(kv.key, kv.lease, token, CandidateInfo(suffix.decode()), text, foreign=True)
    candidate, proclaimed, records = known
    return Entry(kv.key, kv.lease, token, candidate, proclaimed, records)


def entries_of(place: Place, kvs: Iterable[Any]) -> list[Entry]:
    """All entries among these keys, in the order of election."""
    found = [entry for kv in kvs if (entry := entry_of(place, kv)) is not None]
    return sorted(found, key=lambda entry: entry.token)


def record_value(lease: int, candidate_id: str, ttl: float, *, leading: bool) -> bytes:
    """What the record says of a leader. The same arguments give the same bytes: transactions compare them."""
    state = LEADING if leading else RESIGNED
    fields = {"coordkit": 1, "lease": f"{lease:x}", "id": candidate_id, "ttl": ttl, "state": state}
    return json.dumps(fields, separators=(",", ":")).encode()


def record_of(place: Place, kv: Any) -> Record:
    """The record in this key; `Misconfigured` if somebody else has written there."""
    try:
        fields = json.loads(kv.value)
        record = Record(
            int(fields["lease"], 16),
            str(fields["id"]),
            check_seconds(fields["ttl"], "ttl"),
            {LEADING: True, RESIGNED: False}[fields["state"]],
            int(kv.mod_revision),
        )
        if fields["coordkit"] != 1:
            raise ValueError("of another layout")
    except (ValueError, TypeError, KeyError, RecursionError):
        shown = place.record.decode(errors="replace")
        raise Misconfigured(f"the key {shown!r} holds no record of coordkit; delete it", backend="etcd") from None
    if not 0 < record.ttl < 2**40:  # NaN too
        shown = place.record.decode(errors="replace")
        raise Misconfigured(f"the record {shown!r} names a ttl of {record.ttl!r} s; delete it", backend="etcd")
    return record


def _ours(value: bytes) -> tuple[CandidateInfo, str, bool] | None:
    try:
        fields = json.loads(value)
        if not isinstance(fields, dict) or fields.get("coordkit") != 1:
            return None
        # What can be metadata can be shown and encoded; the others must be such, too.
        texts = [check_metadata(fields[name]) for name in ("id", "label", "metadata", "proclaimed")]
        identity, label, metadata, proclaimed = texts
        return CandidateInfo(identity, label, metadata), proclaimed, fields["records"] is True
    except (ValueError, KeyError, RecursionError):
        return None
