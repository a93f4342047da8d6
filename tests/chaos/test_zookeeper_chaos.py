"""Many processes on a real ensemble of three, while they, their links and the servers suffer all kinds of faults.

The journal, the record of faults and the resource are the judges. What ZooKeeper promises is stated as bounds: how long
nobody leads after a fault, and that nothing is left behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordkit.backends.zookeeper.layout import Place
from tests.chaos.run import ALLOWED, seed
from tests.chaos.schedule import MEMBER_KINDS
from tests.chaos.standard import ELECTIONS, Terms, stand
from tests.servers.zookeeper import ZooKeeper

pytestmark = [pytest.mark.chaos, pytest.mark.backend("zookeeper")]

TTL = 2.0
TERMS = Terms(
    "zookeeper",
    TTL,
    MEMBER_KINDS,
    takeover=TTL * 1.02 + 0.5,  # the servers end sessions once in a tick
    recovers=TTL + 2.0,  # a new leader of the servers is elected, and gives each session its whole time anew
)


@pytest.mark.timeout(ALLOWED)
def test_no_two_leaders_while_candidates_and_servers_fall(
    zookeeper: ZooKeeper[Any], faketime: Path, tmp_path: Path
) -> None:
    zookeeper.put("/chaos")
    lasting = {Place("/chaos", election).path for election in ELECTIONS} | {"/chaos"}
    stand(
        tmp_path,
        zookeeper,
        zookeeper.url("chaos"),
        TERMS,
        seed=seed(),
        faketime=faketime,
        left=lambda: sorted({node.path for node in zookeeper.nodes("/chaos")} - lasting),
    )
