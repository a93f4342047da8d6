"""Apache Curator's latch, the foreign contender of the tests, does what its users know it to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordkit.testing.contract import eventually
from tests.servers.curator import Latch
from tests.servers.zookeeper import ZooKeeper
from tests.servers.zookeeper_words import Mode

pytestmark = pytest.mark.backend("zookeeper")

ELECTION = "/shards/7"


def latch(zookeeper: ZooKeeper[Any], name: str) -> Latch:
    return Latch(",".join(zookeeper.endpoints), ELECTION, name)


def test_one_leads_and_hands_over_to_the_next(zookeeper: ZooKeeper[Any]) -> None:
    with latch(zookeeper, "alice") as alice:
        created = alice.wait_for("created")
        assert alice.wait_for("leader") == created
        with latch(zookeeper, "bob") as bob:
            bobs = bob.wait_for("created")
            assert not bob.said("leader")
            both = ["alice*", "bob"]
            eventually(lambda: alice.participants() == bob.participants() == both, "alice's server knows of bob")
            alice.close()
            assert bob.wait_for("leader") == bobs
            assert bob.participants() == ["bob*"]
            bob.close()


def test_a_participant_is_a_node_of_its_session(zookeeper: ZooKeeper[Any]) -> None:
    with latch(zookeeper, "alice") as alice:
        path = Path(alice.wait_for("leader"))
        (node,) = zookeeper.nodes(str(path))
        assert (str(path.parent), node.data) == (ELECTION, b"alice")
        assert path.name.startswith("_c_")
        assert path.name.endswith("-latch-0000000000")
        assert zookeeper.sessions() == [node.ephemeral_owner]


def test_a_paused_leader_loses_to_the_next_and_learns_of_it(zookeeper: ZooKeeper[Any]) -> None:
    servers = ",".join(zookeeper.endpoints)
    with Latch(servers, ELECTION, "alice", session=1.0) as alice:
        alice.wait_for("leader")
        with latch(zookeeper, "bob") as bob:
            bob.wait_for("created")
            alice.pause()
            bob.wait_for("leader")  # the servers ended the session of a client that they had not heard of
            assert not alice.said("not-leader")
            alice.resume()
            alice.wait_for("not-leader")
            alice.wait_for("created")
            assert alice.participants() == ["bob*", "alice"]


def test_an_expired_leader_comes_back_as_another(zookeeper: ZooKeeper[Any]) -> None:
    with latch(zookeeper, "alice") as alice:
        (node,) = zookeeper.nodes(alice.wait_for("leader"))
        with latch(zookeeper, "bob") as bob:
            bob.wait_for("created")
            assert zookeeper.expire(node.ephemeral_owner)
            bob.wait_for("leader")
            alice.wait_for("not-leader")
            assert alice.wait_for("created") != node.path


def test_a_killed_participant_says_nothing_more(zookeeper: ZooKeeper[Any]) -> None:
    with latch(zookeeper, "alice") as alice:
        alice.wait_for("leader")
        alice.kill()
        with pytest.raises(AssertionError, match="did not say 'closed'"):
            alice.wait_for("closed")


def test_a_participant_follows_the_ensemble_to_another_leader(zookeeper: ZooKeeper[Any]) -> None:
    with latch(zookeeper, "alice") as alice:
        path = alice.wait_for("leader")
        zookeeper.leader().kill()
        zookeeper.heal()
        assert {said.mode for member in zookeeper.members if (said := zookeeper.standing(member))} >= {Mode.LEADER}
        assert path in [node.path for node in zookeeper.nodes(ELECTION)]
