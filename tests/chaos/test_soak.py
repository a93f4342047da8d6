"""The soak in short: nothing grows, and what is made to leak is seen to grow."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.soak import REPORT, Clusters, Soak, table, write
from tests.chaos.soak_candidates import LEAKS
from tests.servers.etcd import Etcd
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper

pytestmark = [pytest.mark.chaos, pytest.mark.backend("sqlite"), pytest.mark.timeout(240)]  # all backends: one of them


@pytest.fixture
def clusters(etcd: Etcd[Any], zookeeper: ZooKeeper[Any], redis: Redis[Any], tmp_path: Path) -> Clusters:
    """The clusters of all tests, and a file."""
    return Clusters(etcd, zookeeper, redis, tmp_path / "soak.db")


def new_seed() -> int:
    return random.SystemRandom().getrandbits(32)


def test_nothing_grows(clusters: Clusters) -> None:
    found = Soak(clusters, seconds=30.0, seed=new_seed()).run()
    write(found, REPORT.with_name("soak-short.json"))
    print(found["seed"], found["faults"], found["counts"], table(found), sep="\n")
    assert found["grown"] == [], table(found)
    for scheme in ("etcd", "zookeeper", "redis+quorum", "sqlite"):
        for what in ("won", "resigned", "came", "async won", "given up"):
            assert found["counts"].get(f"{scheme} {what}"), (scheme, what)
    assert sum(found["faults"].values()) > 0


def test_what_leaks_is_seen_to_grow(clusters: Clusters) -> None:
    found = Soak(clusters, seconds=16.0, seed=new_seed(), calm=True, leaks=LEAKS).run()
    print(found["counts"], table(found), sep="\n")
    for number in (1, 2):
        for name in ("resident bytes", "threads", "descriptors", "tasks", "objects"):
            assert f"process {number} {name}" in found["grown"], table(found)
    for name in (
        *("etcd descriptors", "etcd keys", "zookeeper connections", "zookeeper sessions", "zookeeper nodes"),
        *("redis clients", "redis fields", "sqlite rows"),
    ):
        assert name in found["grown"], table(found)
