"""Lines of journals as processes would write them. The rule: written by hand; times are those of the record's clock."""

from __future__ import annotations

import json

from coordkit.audit import Record

TTL = 10.0
SPAN = 9.798  # what a lease of 10 s lets its holder act


class Candidate:
    """Writes the lines of one entry. Times are those of the record's own clock."""

    def __init__(
        self,
        entry: str,
        token: int,
        *,
        election: str = "jobs",
        boot_id: str | None = "b1",
        pid: int = 7,
        label: str = "",
    ):
        self.label = label
        self.entry, self.token, self.election, self.boot_id, self.pid = entry, token, election, boot_id, pid

    def line(self, event: str, boot: float, **fields: object) -> Record:
        same = {"event": event, "pid": self.pid, "boot": boot, "mono": boot, "boot_id": self.boot_id}
        return {**same, "entry": self.entry, "election": self.election, **fields}

    def campaign(self, boot: float) -> Record:
        return self.line("campaign", boot, candidate=self.label)

    def won(self, boot: float, sent: float | None = None) -> Record:
        sent = boot if sent is None else sent
        return self.line("won", boot, candidate=self.label, token=self.token, ttl=TTL, sent=sent, deadline=sent + SPAN)

    def renewed(self, at: float, sent: float | None = None) -> Record:
        sent = at if sent is None else sent
        return self.line("renewed", at, token=self.token, at=at, sent=sent, deadline=sent + SPAN)

    def jeopardy(self, boot: float) -> Record:
        return self.line("jeopardy", boot, token=self.token, detail="a renewal failed")

    def lost(self, at: float, reason: str = "expired") -> Record:
        return self.line("lost", at, token=self.token, at=at, reason=reason)

    def resigned(self, at: float) -> Record:
        return self.line("resigned", at, token=self.token, at=at)

    def watched(self, boot: float) -> Record:
        return self.line("watched", boot, token=self.token)

    def notified(self, boot: float) -> Record:
        return self.line("notified", boot, token=self.token)


def wrote(
    token: int,
    tried: float,
    answered: float | None = None,
    outcome: str = "accepted",
    *,
    election: str = "jobs",
    resource: str = "ledger",
    boot_id: str | None = "b1",
    newest: object = None,
) -> list[Record]:
    """The lines of one write."""
    same = {"pid": 7, "boot_id": boot_id, "election": election, "token": token, "resource": resource}
    same |= {"write": f"{boot_id}-{election}-{resource}-{token}-{tried}"}
    lines = [{"event": "tried", "boot": tried, "mono": tried, **same}]
    if answered is not None:
        lines.append({"event": outcome, "boot": answered, "mono": answered, **same})
    if newest is not None:
        lines[-1]["newest"] = newest
    return lines


def fault(since: float, until: float, **fields: object) -> Record:
    return {"event": "fault", "kind": "paused", "target": "redis3", "since": since, "until": until} | {
        "boot_id": "b1",
        **fields,
    }


def text(*records: Record) -> bytes:
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)
