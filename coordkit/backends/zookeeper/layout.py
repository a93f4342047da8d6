"""How an election lies in ZooKeeper: paths, node names, what a node says. Pure.

The rule: the layout is that of Apache Curator's `LeaderLatch`, so that its programs contend in the same election:
`<chroot>/<election>/_c_<guid>-latch-<sequence>`, ephemeral, lowest sequence first. The data are ours and tell whose
node it is. Whatever else lies under the election is nobody's candidacy.

A sequence is the parent's 32-bit counter: it wraps, or stays at its end, and starts anew with its parent. So the
token is the node's czxid, and where a sequence may have wrapped the order is that of the czxids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coordkit.model import CandidateInfo, check_metadata, encode_election

_ENTRY = re.compile(r"_c_([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})-latch-([0-9]{10}|-[0-9]{9,10})")
_SHOWN = 200  # characters of foreign data that are worth showing
_WRAPPED = 2**30  # living nodes whose sequences are so far apart have the wrap between them


@dataclass(frozen=True, slots=True)
class Place:
    """Where one election lies under a URL's chroot ("" is the root)."""

    chroot: str
    election: str
    path: str = field(init=False)  # the parent of all candidates' nodes
    proclaimed: str = field(init=False)  # beside it: what the leader has proclaimed

    def __post_init__(self) -> None:
        special = [char for char in self.election if refused(char)]
        name = encode_election(self.election, special)
        if not self.chroot and name == "zookeeper":  # the servers' own node
            name = "%7Aookeeper"
        object.__setattr__(self, "path", f"{self.chroot}/{name}")
        object.__setattr__(self, "proclaimed", f"{self.chroot}/{name}%proclaimed")  # no encoded name has "%p"

    def node(self, name: str) -> str:
        """The path of one candidate's node."""
        return f"{self.path}/{name}"

    def prefix(self, guid: str) -> str:
        """The path to create a candidate's node by; the servers add the sequence."""
        return f"{self.path}/_c_{guid}-latch-"


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate's node, as far as its name tells."""

    name: str
    guid: str
    sequence: int


def guid_of(number: int) -> str:
    """A name for a candidate's node that no other has, of 128 random bits: a random UUID, as Curator's."""
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def entries_of(children: Iterable[str]) -> list[Entry]:
    """All candidates' nodes among these children, by their sequence; foreign children are none."""
    found = [Entry(name, match[1], int(match[2])) for name in children if (match := _ENTRY.fullmatch(name)) is not None]
    return sorted(found, key=lambda entry: entry.sequence)


def wrapped(entries: Sequence[Entry]) -> bool:
    """Whether the sequences of these may not tell their order."""
    if not entries:
        return False
    sequences = [entry.sequence for entry in entries]
    # Newer servers do not let the counter wrap: all who come at its end have the same.
    return sequences[0] < 0 or sequences[-1] - sequences[0] >= _WRAPPED or len(set(sequences)) < len(sequences)


def data_of(candidate: CandidateInfo) -> bytes:
    """What a candidate writes into its node."""
    fields = {
        "coordkit": 1,
        "id": candidate.id,
        "label": candidate.label,
        "metadata": candidate.metadata,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def candidate_of(entry: Entry, data: bytes | None) -> CandidateInfo:
    """Whose node it is. A program of Curator writes the id of its participant, which is shown as the label."""
    try:
        fields = json.loads(data or b"")
        if isinstance(fields, dict) and fields.get("coordkit") == 1:
            return CandidateInfo(*(check_metadata(fields[name]) for name in ("id", "label", "metadata")))
    except (ValueError, KeyError, RecursionError):
        pass  # not ours
    return CandidateInfo(entry.name, (data or b"").decode(errors="replace")[:_SHOWN])


def proclamation(candidate_id: str, metadata: str) -> bytes:
    """What the leader's proclamation says, and whose it is: one of an earlier leader counts for nothing."""
    return json.dumps({"coordkit": 1, "id": candidate_id, "metadata": metadata}, ensure_ascii=False).encode()


def proclaimed_by(candidate_id: str, data: bytes | None) -> str | None:
    """What this candidate has proclaimed; None if the proclamation is another's, or none."""
    try:
        fields = json.loads(data or b"")
        if isinstance(fields, dict) and fields.get("id") == candidate_id:
            return check_metadata(fields["metadata"])
    except (ValueError, KeyError, RecursionError):
        pass  # somebody else has written there
    return None


def refused(char: str) -> bool:
    """Whether ZooKeeper takes no path with this character. Source: its PathUtils, which judges UTF-16 units."""
    if char <= "\x1f" or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff":
        return True
    return ord(char) > 0xFFFF or "\ue000" <= char <= "\uf8ff" or "\ufff0" <= char <= "\uffff"
