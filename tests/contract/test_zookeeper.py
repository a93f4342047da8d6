"""The contract on ZooKeeper: a real ensemble of three, and a chroot of its own for each test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from coordkit.backends.zookeeper.layout import Place
from coordkit.testing.contract import SharedBackendContract, StoreUnderTest
from tests.servers.proxy import Proxy
from tests.servers.zookeeper import ZooKeeper

pytestmark = pytest.mark.backend("zookeeper")

_numbers = itertools.count(1)


class ZooKeeperUnderTest:
    """One chroot of an ensemble, and proxies on the way of the candidates to it."""

    def __init__(self, cluster: ZooKeeper[Any], proxies: Sequence[Proxy]) -> None:
        self._cluster = cluster
        self._proxies = proxies
        self._chroot = f"/contract-{next(_numbers)}"
        cluster.put(self._chroot)

    def url(self) -> str:
        return f"zookeeper://{','.join(f'{each.host}:{each.port}' for each in self._proxies)}{self._chroot}"

    def entries(self, election: str) -> Sequence[str]:
        return [json.loads(node.data)["id"] for node in self._nodes(election)]

    def cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def heal(self) -> None:
        for proxy in self._proxies:
            proxy.heal()

    def evict(self, election: str) -> None:
        self._cluster.delete(self._nodes(election)[0].path)

    def _nodes(self, election: str) -> list[Any]:
        parent = Place(self._chroot, election).path
        return [node for node in self._cluster.nodes(parent) if node.path != parent]


class TestZooKeeper(SharedBackendContract):
    shown_by = {
        "a candidate that is killed, paused, cut off or dropped": (
            "test_a_paused_leader_is_followed_and_knows_when_it_wakes"
        ),
        "any minority of the servers killed, paused, cut off or restarted": (
            "tests.chaos.test_zookeeper_chaos:test_no_two_leaders_while_candidates_and_servers_fall"
        ),
        "the server that a candidate talks to paused or cut off from the others": (
            "tests.integration.test_zookeeper_session:test_a_follower_that_is_cut_off_after_a_write"
        ),
        "a majority of the servers down: nobody leads until it is back": (
            "tests.integration.test_zookeeper_trouble:test_without_a_majority_nobody_leads_until_it_is_back"
        ),
        "lost and late replies": "test_a_campaign_without_answers_leaves_nothing",
    }

    @pytest.fixture
    def store(self, zookeeper: ZooKeeper[Any]) -> Iterator[StoreUnderTest]:
        with ExitStack() as stack:
            proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in zookeeper.members]
            yield ZooKeeperUnderTest(zookeeper, proxies)

    @property
    def lease(self) -> float:
        return self.ttl * 1.1 + 0.5  # the servers end sessions once in a tick
