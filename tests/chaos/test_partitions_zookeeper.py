"""ZooKeeper, and its candidates, in networks that are cut. See `tests.chaos.partitions`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import partitions
from tests.chaos.partitions import TTL, Cut, Field
from tests.servers.zookeeper import ZooKeeperCluster
from tests.support.contest import ELECTION

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.backend("zookeeper"),
    pytest.mark.local_cluster,
    pytest.mark.timeout(90),
]

# s: until a follower leaves a leader that says nothing, and an election, for which a server that does not answer is
# called for five seconds first.
ELECTED = 1.6 + 5.0


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Three members with hosts of their own."""
    folder = tmp_path_factory.mktemp("zookeeper")
    with partitions.network(3, "zookeeper") as (network, places), ZooKeeperCluster(folder, places=places) as cluster:
        # A new leader gives each session its whole timeout again, and ends them by the tick.
        takeover = ELECTED + TTL + 0.4
        yield Field(
            network,
            cluster,
            cluster.url,
            takeover,
            lambda: [node for node in cluster.nodes(f"/{ELECTION}") if node.path != f"/{ELECTION}"],
        )


@pytest.mark.parametrize("which", ["the leader", "a follower"])
def test_a_leader_with_a_minority_ends_by_its_own_clock(field: Field, tmp_path: Path, which: str) -> None:
    field.mend()
    head = field.cluster.leader() if which == "the leader" else field.cluster.followers()[0]
    partitions.a_minority_with_the_leader(field, tmp_path, [head.name])


@pytest.mark.parametrize("lost", ["replies", "requests"])
def test_nobody_leads_twice_where_one_direction_is_lost(field: Field, tmp_path: Path, lost: str) -> None:
    partitions.one_way_to_the_leader(field, tmp_path, lost)


def test_a_leader_of_zookeeper_without_followers_renews_nothing(field: Field, tmp_path: Path) -> None:
    partitions.the_stores_leader_alone(field, tmp_path, Cut.ALL, only_it=True)


@pytest.mark.parametrize("cut", Cut)
def test_a_term_goes_on_by_others_or_ends_where_zookeeper_loses_its_leader(
    field: Field, tmp_path: Path, cut: Cut
) -> None:
    partitions.the_stores_leader_alone(field, tmp_path, cut, only_it=False)


def test_without_a_majority_nobody_leads_until_the_network_is_healed(field: Field, tmp_path: Path) -> None:
    one, two, three = field.names
    partitions.no_majority(field, tmp_path, [["a", one], ["b", two], [three]])
