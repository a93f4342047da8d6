"""The contract on etcd: a real cluster of three, and a prefix of its own for each test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest

from coordkit.model import encode_election
from coordkit.testing.contract import SharedBackendContract, StoreUnderTest
from tests.servers.etcd import Etcd
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.backend("etcd")

_numbers = itertools.count(1)


class EtcdUnderTest:
    """One prefix of a cluster, and proxies on the way of the candidates to it."""

    def __init__(self, cluster: Etcd[Any], proxies: Sequence[Proxy], options: str) -> None:
        self._cluster = cluster
        self._options = options
        self._proxies = proxies
        self._prefix = f"contract-{next(_numbers)}"

    def url(self) -> str:
        return f"etcd://{','.join(f'{each.host}:{each.port}' for each in self._proxies)}/{self._prefix}{self._options}"

    def entries(self, election: str) -> Sequence[str]:
        return [json.loads(key.value)["id"] for key in self._keys(election)]

    def cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def heal(self) -> None:
        for proxy in self._proxies:
            proxy.heal()

    def evict(self, election: str) -> None:
        self._cluster.ctl("del", self._keys(election)[0].key.decode())

    def _keys(self, election: str) -> list[Any]:
        keys = self._cluster.keys(f"{self._prefix}/{encode_election(election)}/")
        return sorted(keys, key=lambda key: key.create_revision)


class TestEtcd(SharedBackendContract):
    options: ClassVar[str] = ""  # of the URL
    shown_by = {
        "a candidate that is killed, paused, cut off or dropped": (
            "test_a_paused_leader_is_followed_and_knows_when_it_wakes"
        ),
        "any minority of the members killed, paused, cut off or restarted": (
            "tests.chaos.test_etcd_chaos:test_no_two_leaders_while_candidates_and_members_fall"
        ),
        "the leader of etcd paused beyond the ttl and resumed": (
            "tests.chaos.test_etcd_revocation:test_who_follows_a_leader_whose_living_lease_was_revoked_waits_for_it"
        ),
        "a majority of the members down: nobody leads until it is back": (
            "tests.integration.test_etcd_members:test_with_a_majority_down_nobody_leads_after_the_ttl_until_it_is_back"
        ),
        "lost and late replies": "test_a_campaign_without_answers_leaves_nothing",
    }

    @pytest.fixture
    def store(self, etcd: Etcd[Any]) -> Iterator[StoreUnderTest]:
        with ExitStack() as stack:
            proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in etcd.members]
            yield EtcdUnderTest(etcd, proxies, self.options)

    @property
    def lease(self) -> float:
        # etcd ends leases twice a second, and the record of a crashed leader costs a second ttl.
        return 2 * self.ttl * 1.1 + 1.0
