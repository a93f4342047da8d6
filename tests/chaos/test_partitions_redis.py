"""Redis voters, and their candidates, in networks that are cut. See `tests.chaos.partitions`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.chaos import partitions
from tests.chaos.partitions import TTL, Field
from tests.servers.redis import RedisVoters
from tests.support.contest import ELECTION, stays_quiet
from tests.support.voting import held_by, mark_new

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.backend("redis"),
    pytest.mark.local_cluster,
    pytest.mark.timeout(90),
]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Five voters with hosts of their own."""
    folder = tmp_path_factory.mktemp("redis")
    with partitions.network(5, "redis") as (network, places), RedisVoters(folder, 5, places=places) as voters:
        # Whoever waits has to see the record unchanged for a ttl, and asks the voters; some rounds, if both ask.
        takeover = TTL + 1.5
        yield Field(network, voters, voters.url, takeover, lambda: held_by(voters, ELECTION), partial(mark_new, voters))


def test_a_leader_with_a_minority_ends_by_its_own_clock(field: Field, tmp_path: Path) -> None:
    partitions.a_minority_with_the_leader(field, tmp_path, field.names[:2])


@pytest.mark.parametrize("lost", ["replies", "requests"])
def test_nobody_leads_twice_where_one_direction_is_lost(field: Field, tmp_path: Path, lost: str) -> None:
    partitions.one_way_to_the_leader(field, tmp_path, lost)


def test_without_a_majority_nobody_leads_until_the_network_is_healed(field: Field, tmp_path: Path) -> None:
    one, two, three, four, five = field.names
    partitions.no_majority(field, tmp_path, [["a", one, two], ["b", three, four], [five]])


def test_voters_that_do_not_reach_each_other_are_as_good_as_any(field: Field, tmp_path: Path) -> None:
    """They never talk: a cut between servers alone is none for Redis."""
    with field.contest(tmp_path) as contest:
        leader = field.candidate(contest, "a")
        token = leader.leads()
        other = field.candidate(contest, "b")
        for one, another in itertools.combinations(field.names, 2):
            field.network.part([one], [another])
        stays_quiet(1.5 * TTL, other)
        assert leader.count("lost") == 0
        field.ends_well(contest)
        span = contest.report().spans[0]
        assert (span.token, span.renewals > 2) == (token, True)


def test_voters_that_only_one_direction_reaches_are_a_minority_like_any(field: Field, tmp_path: Path) -> None:
    """Two are heard by nobody, and hear all: their votes are given in vain; the term goes on."""
    with field.contest(tmp_path) as contest:
        leader = field.candidate(contest, "a")
        token = leader.leads()
        other = field.candidate(contest, "b")
        field.network.drop(field.names[:2], ["a", "b"])
        stays_quiet(1.5 * TTL, other)
        assert leader.count("lost") == 0
        field.ends_well(contest)
        assert contest.report().spans[0].token == token
