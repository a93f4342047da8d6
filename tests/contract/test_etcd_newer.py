"""The contract on an etcd that leaves living leases alone: the same, without any record."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordkit import Session
from coordkit.testing.contract import StoreUnderTest
from tests.contract.test_etcd import TestEtcd as EtcdContract
from tests.servers.etcd import EtcdCluster
from tests.support.records import announced, records

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.local_cluster]


class TestNewerEtcd(EtcdContract):
    @pytest.fixture
    def etcd(self, newer_etcd: EtcdCluster) -> Iterator[EtcdCluster]:
        yield newer_etcd
        assert records(newer_etcd) == [], "nothing of what a test has done needed one"

    @property
    def lease(self) -> float:
        return self.ttl * 1.1 + 1.0  # a crash costs one ttl, and etcd ends leases twice a second

    def test_an_open_session_says_that_no_record_is_needed(self, store: StoreUnderTest) -> None:
        unopened = Session(store.url())
        with Session(store.url()).open() as session:
            assert announced(unopened.guarantees), "as long as nobody was asked"
            assert not announced(session.guarantees)
            assert set(session.guarantees.not_covered) < set(unopened.guarantees.not_covered)
            assert session.guarantees.survives == unopened.guarantees.survives
