"""etcd, and its candidates, in networks that are cut. See `tests.chaos.partitions`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import partitions
from tests.chaos.partitions import TTL, Cut, Field
from tests.servers.etcd import EtcdCluster

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.backend("etcd"),
    pytest.mark.local_cluster,
    pytest.mark.timeout(90),
]

ELECTED = 2.0  # s: one to two of etcd's own election timeouts, of one second


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Three members with hosts of their own."""
    folder = tmp_path_factory.mktemp("etcd")
    with partitions.network(3, "etcd") as (network, places), EtcdCluster(folder, places=places) as cluster:
        # A new leader gives each lease its whole ttl again; it looks for dead ones twice a second. On a release whose
        # leases are not trusted the next one waits the ttl once more.
        takeover = ELECTED + 2 * TTL + 0.5
        yield Field(network, cluster, cluster.url, takeover, cluster.leases)


@pytest.mark.parametrize("which", ["the leader", "a follower"])
def test_a_leader_with_a_minority_ends_by_its_own_clock(field: Field, tmp_path: Path, which: str) -> None:
    field.mend()
    head = field.cluster.leader() if which == "the leader" else field.cluster.followers()[0]
    partitions.a_minority_with_the_leader(field, tmp_path, [head.name])


@pytest.mark.parametrize("lost", ["replies", "requests"])
def test_nobody_leads_twice_where_one_direction_is_lost(field: Field, tmp_path: Path, lost: str) -> None:
    partitions.one_way_to_the_leader(field, tmp_path, lost)


def test_a_leader_of_etcd_without_followers_renews_nothing(field: Field, tmp_path: Path) -> None:
    partitions.the_stores_leader_alone(field, tmp_path, Cut.ALL, only_it=True)


@pytest.mark.parametrize("cut", Cut)
def test_a_term_goes_on_by_others_or_ends_where_etcd_loses_its_leader(field: Field, tmp_path: Path, cut: Cut) -> None:
    partitions.the_stores_leader_alone(field, tmp_path, cut, only_it=False)


def test_without_a_majority_nobody_leads_until_the_network_is_healed(field: Field, tmp_path: Path) -> None:
    one, two, three = field.names
    partitions.no_majority(field, tmp_path, [["a", one], ["b", two], [three]])
