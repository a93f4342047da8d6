"""What interrupted, failed and ended campaigns leave at the voters and in their process: no seat, no word, no task.

The rule: before a test nothing is there (the fixture sees to it), so whatever is found afterwards was left. Seats,
subscriptions and connections are counted by the voters. A seat is what a majority has recorded: a release that is known
to a majority is not repeated at the others.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from coordkit import CampaignTimeout, LeaderElector
from coordkit.testing.contract import eventually
from tests.integration import etcd_orphan_scenes as any_store
from tests.integration import exit_scenes
from tests.integration import redis_orphan_scenes as scenes
from tests.servers.proxy import Proxy
from tests.servers.redis import HARNESS, Redis
from tests.support.children import Child, took
from tests.support.forks import FORKS
from tests.support.storms import bad_line, outcomes, seeded
from tests.support.together import together
from tests.support.voting import fields_of, held_by, mark_new

pytestmark = [pytest.mark.once, pytest.mark.backend("redis"), pytest.mark.timeout(120)]

TTL = 6.0
LONG = 40.0  # s: a lease that runs out is no way out
AT_ONCE = 4.0  # s: on a busy machine


@pytest.fixture
def url(redis: Redis[Any]) -> str:
    """Five voters that count at once."""
    url = redis.url()
    mark_new(redis, url)
    return url


@contextmanager
def elector_of(url: str, election: str = "e", ttl: float = LONG) -> Iterator[LeaderElector]:
    elector = LeaderElector(url, election, ttl=ttl)
    try:
        yield elector
    finally:
        elector.close()


def words(redis: Redis[Any]) -> set[str]:
    """The channels that anybody listens to."""
    return {str(channel) for member in redis.members for channel in redis.hand(member).pubsub_channels()}


def connections(redis: Redis[Any]) -> list[int]:
    """How many each voter has, beside the harness's own."""
    return [sum(each["user"] != HARNESS for each in redis.hand(member).client_list()) for member in redis.members]


def looked_at(child: Child) -> dict[str, str]:
    """What it says that it has."""
    child.tell("look")
    return {what: child.expect(what) for what in ("threads", "sockets", "tasks", "elections", "requests")}


# -- campaigns that are interrupted --------------------------------------------------------------------------------


@pytest.mark.stress
def test_hundreds_of_interrupted_campaigns_on_one_session(redis: Redis[Any], url: str) -> None:
    """By Ctrl-C and by cancellation, at any instant of voting, waiting, leading and leaving."""
    times = 600
    with Child(any_store.storm, url, seeded(), times) as child:
        seen = outcomes(child.expect("outcomes", 100))
        print(seen)
        assert child.expect("sessions") == "1"
        elections = [f"e{number}" for number in range(4)]
        eventually(lambda: not any(held_by(redis, each) for each in elections), "nobody is left a seat", any_store.TTL)
        eventually(lambda: not words(redis), "nobody listens", any_store.TTL)
        eventually(lambda: all(each <= 2 for each in connections(redis)), "two at each voter")
        child.tell("close")
        assert child.expect("engine") == "alive"
        assert child.expect("tasks") == ""
        assert child.expect("sockets") == "0"
        assert child.expect("requests") == ""
        assert child.expect("sessions") == "0"
        eventually(lambda: connections(redis) == [0] * 5, "no connection is left")
        child.tell("end")
        assert child.exit_code() == 0
        swallowed = re.compile(r"^Exception ignored in: .*?^KeyboardInterrupt:? *\n", re.MULTILINE | re.DOTALL)
        errors = swallowed.sub("", child.errors)
        assert "Traceback" not in errors, errors
        assert " failed: " not in errors, errors
    for side in ("sync", "async"):
        assert seen.get(f"{side}-interrupted", 0) > times / 20, "the interrupts came too late to test anything"
        assert {name for name in seen if name.startswith(f"{side}-")} <= {
            f"{side}-{how}" for how in ("interrupted", "led", "behind")
        }


def test_campaigns_in_vain_behind_a_leader_that_stays(redis: Redis[Any], url: str) -> None:
    times = 100
    with elector_of(url) as leader, leader.lead(timeout=TTL) as term:
        before_it = connections(redis)
        with Child(scenes.in_vain, url, TTL, seeded(), times) as child:
            before = looked_at(child)
            seen = outcomes(child.expect("outcomes", 100))
            print(seen)
            after = looked_at(child)
            print(after)
            assert held_by(redis, "e") == [term.candidate.id]
            assert after["threads"] == before["threads"]
            assert (after["tasks"], after["requests"]) == ("", "0")
            assert after["elections"] == "0 0 1", "whose lease may have to run out is remembered"
            assert int(after["sockets"]) <= 10, "two for each voter"
            eventually(lambda: listening(redis) == {1}, "the leader alone listens")
            child.tell("close")
            child.expect("closed")
            eventually(lambda: connections(redis) == before_it, "its connections are closed")
            assert "Traceback" not in child.errors, child.errors
        term.confirm()
    assert seen["tried"] >= times
    assert seen["timed-out"] >= times / 2
    assert seen["cancelled"] >= times / 2 - 4
    assert "led" not in seen


def listening(redis: Redis[Any]) -> set[int]:
    """How many listen to the election, at each voter."""
    channel = "coordkit:e"
    return {int(redis.hand(member).pubsub_numsub(channel)[0][1]) for member in redis.members}


def test_campaigns_over_a_bad_line_leave_nothing_to_an_open_session(redis: Redis[Any]) -> None:
    """Where a release was lost on its way to a minority it is not repeated: records may stay, as long as a lease."""
    times, seed = 200, seeded()
    elections = [f"e{number}" for number in range(4)]
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in redis.members]
        url = f"redis+quorum://{','.join(f'{proxy.host}:{proxy.port}' for proxy in proxies)}"
        mark_new(redis, url)
        child = stack.enter_context(Child(scenes.on_a_bad_line, url, TTL, seed, times))
        with bad_line(proxies, seed, b'"label"'):
            seen = outcomes(child.expect("outcomes", 100))
            print(seen)
        eventually(lambda: not any(held_by(redis, each) for each in elections), "nobody is left a seat", TTL + AT_ONCE)
        after = looked_at(child)
        print(after)
        assert (after["tasks"], after["requests"]) == ("", "0")
        assert after["elections"].startswith("0 0 "), "nobody takes part, and nobody listens"
        assert int(after["sockets"]) <= 10
        eventually(lambda: not words(redis), "nobody listens")

        def win(election: str) -> None:
            with elector_of(url, election) as elector, took(most=TTL * 1.05 + AT_ONCE):
                elector.campaign(timeout=2 * TTL + AT_ONCE).resign()

        together({each: partial(win, each) for each in elections})
        child.tell("close")
        child.expect("closed")
        assert "Traceback" not in child.errors, child.errors
    assert seen.get("timed-out", 0) > times / 10
    assert seen.get("led", 0) > times / 100  # few, where a busy machine makes most of them wait


def test_a_campaign_that_ends_between_two_attempts_gives_back_what_it_was_granted(redis_three: Redis[Any]) -> None:
    """Its votes were granted, and their replies lost; when its time is over it waits for its next attempt."""
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in redis_three.members]
        url = f"redis+quorum://{','.join(f'{proxy.host}:{proxy.port}' for proxy in proxies)}"
        mark_new(redis_three, url)
        with elector_of(url) as elector, elector_of(f"{url}?drift=0.011") as other:
            elector.leader()  # connected
            for proxy in proxies:
                proxy.drop_replies(after=b'"label"')  # only a vote, or a renewal, says who it is for
            with pytest.raises(CampaignTimeout):
                elector.campaign(timeout=1.5)
            assert held_by(redis_three, "e") != [], "it was granted"
            for proxy in proxies:
                proxy.heal()
            eventually(lambda: held_by(redis_three, "e") == [], "it is given back", LONG / 2)
            eventually(lambda: not words(redis_three), "nobody listens", LONG / 2)
            with took(most=AT_ONCE):
                other.campaign(timeout=LONG / 2).resign()


# -- processes that end, and that fork -----------------------------------------------------------------------------


def test_an_open_term_of_a_program_that_ends_is_left_to_its_lease(redis: Redis[Any], url: str) -> None:
    ttl = 3.0
    with Child(exit_scenes.open_term, url, ttl) as leader:
        leader.expect("leads")
        (whose,) = held_by(redis, "e")
        with took(most=AT_ONCE):
            assert leader.expect("at-exit") == "False closed"
            assert leader.exit_code() == 0
        assert leader.complaints == ""
    assert held_by(redis, "e") == [whose], "released under work that may go on"
    eventually(lambda: connections(redis) == [0] * 5, "no connection is left")
    with elector_of(url) as successor, took(most=ttl * 1.05 + AT_ONCE):
        successor.campaign(timeout=ttl + 2 * AT_ONCE).resign()


def test_a_program_that_ends_while_it_waits_leaves_nothing(redis: Redis[Any], url: str) -> None:
    with elector_of(url) as leader, leader.lead(timeout=AT_ONCE) as term:
        mine = connections(redis)
        with Child(exit_scenes.in_background, url, LONG) as waiting:
            waiting.expect("started")
            eventually(lambda: listening(redis) == {2}, "it waits")
            waiting.tell("end")
            with took(most=AT_ONCE):
                assert waiting.exit_code() == 0
            assert waiting.complaints == ""
        assert held_by(redis, "e") == [term.candidate.id]
        eventually(lambda: (listening(redis), connections(redis)) == ({1}, mine), "it is gone")
        term.confirm()


def test_ctrl_c_in_a_wait_frees_the_elector(redis: Redis[Any], url: str) -> None:
    with elector_of(url) as leader:
        term = leader.campaign(timeout=AT_ONCE)
        with Child(exit_scenes.interrupted, url, LONG, "campaign") as waiting:
            waiting.expect("waits")
            eventually(lambda: listening(redis) == {2}, "it waits")
            waiting.send(signal.SIGINT)
            waiting.expect("interrupted", AT_ONCE)
            eventually(lambda: listening(redis) == {1}, "it waits no more")
            waiting.tell("again")
            eventually(lambda: listening(redis) == {2}, "it waits again")
            term.resign()
            waiting.expect("leads", AT_ONCE)
            assert waiting.exit_code() == 0
            assert waiting.complaints == ""
    assert held_by(redis, "e") == []


@pytest.mark.parametrize("scene", [exit_scenes.on_sigterm, exit_scenes.on_sigterm_async])
def test_sigterm_by_the_recipe_hands_over_at_once(scene: Callable[..., None], redis: Redis[Any], url: str) -> None:
    with Child(scene, url, LONG) as first, Child(scene, url, LONG) as second:
        for each in (first, second):
            each.expect("contends")
        eventually(lambda: not (first.quiet() and second.quiet()), "one of them leads")
        leader, waiting = (first, second) if not first.quiet() else (second, first)
        leader.expect("leads")
        eventually(lambda: listening(redis) == {2}, "the other one waits")
        leader.send(signal.SIGTERM)
        waiting.expect("leads", AT_ONCE)
        waiting.send(signal.SIGTERM)
        for each in (first, second):
            assert each.exit_code(AT_ONCE) == 0
            assert each.complaints == ""
    assert held_by(redis, "e") == []
    eventually(lambda: connections(redis) == [0] * 5, "no connection is left")


def votes_count(url: str) -> None:
    """Before, nobody can say who leads, and an observer says so."""
    elector = LeaderElector(url, "first", ttl=1.5)
    elector.campaign(timeout=30).resign()
    elector.close()


def test_a_forked_child_disturbs_nothing_and_may_begin_afresh(redis: Redis[Any]) -> None:
    urls = {name: redis.url(keyspace=name, max_ttl="2") for name in FORKS}
    together({name: partial(votes_count, url) for name, url in urls.items()})
    together({name: partial(part, urls[name]) for name, part in FORKS.items()})
    left = {name for key in FORKS for name, record in fields_of(redis, key)[0].items() if " held " in record}
    assert left <= {"e:mirror"}, "but for the one term that its owner did not resign"
