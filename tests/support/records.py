"""What can be seen from outside of the records that coordkit keeps, because etcd may revoke living leases."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from coordkit import Guarantees
from tests.servers.etcd import Etcd

RECORD = b".coordkit"  # how their keys end
TRUST = "?trust_leases=true"  # added to a URL: without records


@dataclass(frozen=True, slots=True)
class Seen:
    """One record as it is stored: whose, in which state, last written when."""

    candidate: str
    state: str
    revision: int


def trusts(guarantees: Guarantees) -> bool:
    """Whether a session says that it keeps no records, and so does not cover a leader of etcd that was stopped."""
    named = {
        faults: any("paused beyond the ttl and resumed" in each for each in faults)
        for faults in (guarantees.survives, guarantees.not_covered)
    }
    assert sorted(named.values()) == [False, True], "it is covered, or it is not"
    return named[guarantees.not_covered]


def records(cluster: Etcd[Any]) -> list[Seen]:
    """All records. None is ever deleted, so there is one where one was written since the cluster was empty."""
    found = [(json.loads(key.value), key.mod_revision) for key in cluster.keys("") if key.key.endswith(RECORD)]
    return [Seen(fields["id"], fields["state"], revision) for fields, revision in found]
