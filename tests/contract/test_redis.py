"""The contract on Redis: one, three and five real voters, empty for each test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from coordkit.testing.contract import SharedBackendContract, StoreUnderTest
from tests.servers.proxy import Proxy
from tests.servers.redis import Redis
from tests.support.voting import held_by, mark_new, take_away

pytestmark = pytest.mark.backend("redis")


class RedisUnderTest:
    """Voters that are marked as new, and proxies on the way of the candidates to them."""

    def __init__(self, voters: Redis[Any], proxies: Sequence[Proxy]) -> None:
        self._voters = voters
        self._proxies = proxies
        mark_new(voters, self.url())

    def url(self) -> str:
        kind = "+quorum" if len(self._proxies) > 1 else ""
        return f"redis{kind}://{','.join(f'{each.host}:{each.port}' for each in self._proxies)}"

    def entries(self, election: str) -> Sequence[str]:
        return held_by(self._voters, election)

    def cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def heal(self) -> None:
        for proxy in self._proxies:
            proxy.heal()

    def evict(self, election: str) -> None:
        take_away(self._voters, election)


class VotersContract(SharedBackendContract):
    """What is the same for any number of voters."""

    shown_by = {
        "a candidate that is killed, paused, cut off or dropped": (
            "test_a_paused_leader_is_followed_and_knows_when_it_wakes"
        ),
        "any minority of the voters killed, paused, cut off, restarted or wiped, one after another": (
            "tests.integration.test_redis_voters:test_voters_fall_one_after_another_under_one_term"
        ),
        "a majority of the voters down, or without memory: nobody leads until it is back, and tokens still rise": (
            "tests.integration.test_redis_voters:test_all_voters_wiped_under_a_leader"
        ),
        "steps of the clocks of servers": (
            "tests.integration.test_redis_voters:test_the_clock_of_a_server_decides_nothing"
        ),
        "lost, late and repeated messages": "test_a_campaign_without_answers_leaves_nothing",
    }

    @pytest.fixture
    def voters(self) -> Redis[Any]:
        raise AssertionError("each size has its own")

    @pytest.fixture
    def store(self, voters: Redis[Any]) -> Iterator[StoreUnderTest]:
        with ExitStack() as stack:
            proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in voters.members]
            yield RedisUnderTest(voters, proxies)


class TestFiveVoters(VotersContract):
    @pytest.fixture
    def voters(self, redis: Redis[Any]) -> Redis[Any]:
        return redis


class TestThreeVoters(VotersContract):
    @pytest.fixture
    def voters(self, redis_three: Redis[Any]) -> Redis[Any]:
        return redis_three


class TestOneVoter(VotersContract):
    shown_by = {
        fault: test for fault, test in VotersContract.shown_by.items() if not fault.startswith("any minority")
    }  # one voter has none

    @pytest.fixture
    def voters(self, redis_one: Redis[Any]) -> Redis[Any]:
        return redis_one
