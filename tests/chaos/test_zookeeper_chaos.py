"""Many processes on a real ensemble of three, while they and the servers are killed, paused and cut off.

The journal is the judge. What ZooKeeper promises is stated as bounds: how long nobody leads after a crash on a calm
ensemble, how long at most under all this trouble, and that nothing is left behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordkit.backends.zookeeper.layout import Place
from coordkit.testing.contract import eventually
from tests.chaos.members import Trouble
from tests.chaos.run import LONGER, seed
from tests.chaos.standard import ELECTIONS, stand
from tests.servers.zookeeper import ZooKeeper

pytestmark = [pytest.mark.chaos, pytest.mark.backend("zookeeper")]

EACH = 3  # times each kind of trouble that a minority can have
TTL = 2.0
TAKEOVER = TTL * 1.02 + 0.5 + 2.0  # the servers end sessions once in a tick; and a machine that is busy


@pytest.mark.timeout(300 + LONGER)
def test_no_two_leaders_while_candidates_and_servers_fall(zookeeper: ZooKeeper[Any], tmp_path: Path) -> None:
    number = seed()
    zookeeper.put("/chaos")
    url = zookeeper.url("chaos")
    trouble = Trouble(zookeeper, ttl=TTL, seed=number)
    stand(tmp_path, url, trouble, ttl=TTL, seed=number, each=EACH, takeover=TAKEOVER)
    lasting = {Place("/chaos", election).path for election in ELECTIONS} | {"/chaos"}
    eventually(
        lambda: {node.path for node in zookeeper.nodes("/chaos")} <= lasting,
        "no candidate's node is left, once the sessions of the killed are over",
        TTL + 2.0,
    )
