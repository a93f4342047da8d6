"""The contract on a newer etcd than the machine's; and once more without records, where its leases are trusted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordkit import LeaderElector, Session
from coordkit.testing.contract import StoreUnderTest
from tests.contract.test_etcd import TestEtcd as EtcdContract
from tests.servers.etcd import EtcdCluster
from tests.support.records import TRUST, records, trusts

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.local_cluster]

STOPPED = "the leader of etcd paused beyond the ttl and resumed"


class TestNewerEtcd(EtcdContract):
    @pytest.fixture
    def etcd(self, newer_etcd: EtcdCluster) -> EtcdCluster:
        return newer_etcd

    def test_it_keeps_records_of_whatever_version_etcd_is(self, store: StoreUnderTest, etcd: EtcdCluster) -> None:
        assert not etcd.version.startswith("3.4."), "the contract runs on that, too"
        with Session(store.url()).open() as session:
            assert not trusts(session.guarantees)
            with LeaderElector(session, "contract", ttl=self.ttl).lead(timeout=self.ttl) as term:
                assert [(each.candidate, each.state) for each in records(etcd)] == [(term.candidate.id, "leading")]
        assert [each.state for each in records(etcd)] == ["resigned"]


class TestTrustedLeases(EtcdContract):
    options = TRUST
    shown_by = {fault: test for fault, test in EtcdContract.shown_by.items() if fault != STOPPED}

    @pytest.fixture
    def etcd(self, newer_etcd: EtcdCluster) -> Iterator[EtcdCluster]:
        yield newer_etcd
        assert records(newer_etcd) == [], "nothing of what a test has done wrote one"

    @property
    def lease(self) -> float:
        return self.ttl * 1.1 + 1.0  # a crash costs one ttl, and etcd ends leases twice a second

    def test_its_guarantees_say_what_is_not_covered(self, store: StoreUnderTest) -> None:
        unopened = Session(store.url()).guarantees
        with Session(store.url()).open() as session:
            assert session.guarantees == unopened
        assert trusts(unopened)
        plain = Session(store.url().removesuffix(TRUST)).guarantees
        assert not trusts(plain)
        assert set(plain.survives) - set(unopened.survives) == {STOPPED}
        assert set(plain.not_covered) < set(unopened.not_covered)
