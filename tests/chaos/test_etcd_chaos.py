"""Many processes on a real etcd of three members, while they and the members are killed, paused and cut off.

The journal is the judge. What etcd promises is stated as bounds: how long nobody leads after a crash on a calm cluster,
how long at most under all this trouble, and that nothing is left behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordkit.model import encode_election
from coordkit.testing.contract import eventually
from tests.chaos.members import Trouble
from tests.chaos.run import LONGER, seed
from tests.chaos.standard import ELECTIONS, stand
from tests.servers.etcd import Etcd

pytestmark = [pytest.mark.chaos, pytest.mark.backend("etcd")]

EACH = 6  # times each kind of trouble that a minority can have
TTL = 2.0
# A crash costs the lease, which etcd ends within a second after its time, and on servers before 3.4.31 once more the
# time of the lease, for the record.
TAKEOVER = 2 * TTL * 1.02 + 1.0 + 2.0


@pytest.mark.timeout(300 + LONGER)
def test_no_two_leaders_while_candidates_and_members_fall(etcd: Etcd[Any], tmp_path: Path) -> None:
    number = seed()
    url = etcd.url("chaos")
    trouble = Trouble(etcd, ttl=TTL, seed=number)
    stand(tmp_path, url, trouble, ttl=TTL, seed=number, each=EACH, takeover=TAKEOVER)
    eventually(lambda: not etcd.leases(), "no lease is left, once those of the killed are over", TTL + 2.0)
    left = etcd.keys()
    records = {f"chaos/{encode_election(election)}.coordkit".encode() for election in ELECTIONS}
    assert {key.key for key in left} <= records
