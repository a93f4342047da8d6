"""Many processes on a real etcd of three members, while they, their links and the members suffer all kinds of faults.

The journal, the record of faults and the resource are the judges. What etcd promises is stated as bounds: how long
nobody leads after a fault, and that nothing is left behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordkit.model import encode_election
from tests.chaos.run import ALLOWED, seed
from tests.chaos.schedule import MEMBER_KINDS
from tests.chaos.standard import ELECTIONS, Terms, stand
from tests.servers.etcd import Etcd

pytestmark = [pytest.mark.chaos, pytest.mark.backend("etcd")]

TTL = 2.0
TERMS = Terms(
    "etcd",
    TTL,
    MEMBER_KINDS,
    # A crash costs the lease, which etcd ends within a second after its time, and once more the time of the lease, for
    # the record.
    takeover=2 * TTL * 1.02 + 1.0,
    recovers=TTL + 2.0,  # a new leader of etcd is elected, and gives each lease its whole time anew
)


@pytest.mark.timeout(ALLOWED)
def test_no_two_leaders_while_candidates_and_members_fall(etcd: Etcd[Any], faketime: Path, tmp_path: Path) -> None:
    records = {f"chaos/{encode_election(election)}.coordkit".encode() for election in ELECTIONS}

    def left() -> list[str]:
        stored = {key.key for key in etcd.keys("")}
        return sorted(key.decode() for key in stored - records) + [f"lease {lease:x}" for lease in etcd.leases()]

    stand(tmp_path, etcd, etcd.url("chaos"), TERMS, seed=seed(), faketime=faketime, left=left)
