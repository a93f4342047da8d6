"""Peers of coordkit under the faults of the chaos run: the harness finds what is wrong with them, and nothing with us.

The defaults of the peers, and how each is used, are stated in `control_candidates`; the faults in `control`.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.chaos.control import check, compare, most_forget
from tests.chaos.control_trouble import MOST_FORGOT, Trouble
from tests.chaos.run import LONGER, seed
from tests.chaos.schedule import MEMBER_KINDS, VOTER_KINDS
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper
from tests.support.provided import provided
from tests.support.voting import mark_new

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180 + LONGER)]

TTL = 2.0


@pytest.fixture(scope="session")
def pottery() -> Path:
    """A folder with pottery, for the path of Python."""
    return provided(lambda: servers.python_packages("pottery"))


@pytest.mark.backend("zookeeper")
def test_kazoos_election_beside_ours(zookeeper: ZooKeeper[Any], tmp_path: Path) -> None:
    number = seed()
    for node in ("/kazoo", "/coordkit"):
        zookeeper.put(node)
    found = compare(
        tmp_path,
        "kazoo",
        zookeeper,
        Trouble(zookeeper, MEMBER_KINDS, ttl=TTL, seed=number),
        {who: zookeeper.url(who) for who in ("kazoo", "coordkit")},
        ttl=TTL,
        seed=number,
        stated={
            "version": importlib.metadata.version("kazoo"),
            "server": zookeeper.version,
            "use": "Election.run",
            "defaults": {"session timeout": "10 s, here the ttl", "listener": None, "end of the function": "none"},
        },
        env={},
    )
    check(found)


@pytest.mark.backend("redis")
def test_potterys_redlock_beside_ours(redis: Redis[Any], pottery: Path, tmp_path: Path) -> None:
    number = seed()
    ours = redis.url(max_ttl=str(TTL), cluster="control")
    mark_new(redis, ours)
    found = compare(
        tmp_path,
        "pottery",
        redis,
        Trouble(redis, VOTER_KINDS, ttl=TTL, seed=number, more={MOST_FORGOT: most_forget(redis)}),
        {"pottery": redis.url(), "coordkit": ours},
        ttl=TTL,
        seed=number,
        stated={
            "version": importlib.metadata.Distribution.at(next(pottery.glob("pottery-*.dist-info"))).version,
            "server": redis.version,
            "use": "with Redlock(…)",
            "defaults": {
                "auto_release_time": "10 s, here the ttl",
                "num_extensions": 3,
                "clock drift factor": 0.01,
                "voters": len(redis.members),
            },
        },
        env={"PYTHONPATH": str(pottery)},
    )
    check(found)
