"""Voters in trouble: nobody there, somebody else there, another agreement, foreign records, answers to somebody else.

The rule: each trouble has its error, in time. A minority with any trouble is a warning; a majority is an error.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from coordkit import (
    CampaignTimeout,
    CoordkitError,
    LeaderElector,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    Session,
    TermState,
    Unavailable,
)
from coordkit.backends.redis.layout import EPOCH_LIMIT
from coordkit.backends.redis.target import targets_of
from coordkit.backends.redis.voters import Voter
from coordkit.clock import system_clock
from coordkit.registry import parse
from coordkit.testing.contract import Running, eventually
from tests.servers.proxy import Proxy
from tests.servers.redis import Redis, RedisVoters
from tests.support import impostors
from tests.support.commands import COMMANDS, coordkit
from tests.support.failing import PASSWORD, fails, nothing_revealed
from tests.support.impostors import Impostor
from tests.support.judged import judged
from tests.support.together import together
from tests.support.voting import fields_of, held_by, mark_new

__all__ = ["judged", "nothing_revealed"]

pytestmark = [
    pytest.mark.backend("redis"),
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("nothing_revealed", "judged"),
]

TTL = 3.0
BUSY = 5.0  # s: on a busy machine
LOGIN = f"somebody:{quote(PASSWORD, safe='')}@"


@contextmanager
def elector_of(url: str, election: str = "x", ttl: float = TTL, **more: Any) -> Iterator[LeaderElector]:
    elector = LeaderElector(url, election, ttl=ttl, **more)
    try:
        yield elector
    finally:
        elector.close()


def opened(url: str, timeout: float = BUSY) -> None:
    session = Session(url)
    try:
        session.open(timeout=timeout)
    finally:
        session.close()


@pytest.fixture
def url(redis: Redis[Any]) -> str:
    """Five voters that count at once."""
    url = redis.url()
    mark_new(redis, url)
    return url


# -- who is there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serve", [impostors.closes, impostors.silent, impostors.http, impostors.garbage])
def test_somebody_else_is_there(serve: Callable[[Any], object]) -> None:
    with Impostor(serve) as other:
        session = Session(f"redis://{LOGIN}{other.host}")
        try:
            with pytest.raises((Unavailable, Misconfigured)) as failed:
                session.open(timeout=BUSY)
        finally:
            session.close()
        if serve is impostors.http:
            assert type(failed.value) is Misconfigured
            assert "does not speak the protocol of Redis" in str(failed.value)


def test_nobody_is_there() -> None:
    with impostors.nobody() as host, fails(Unavailable, host, within=BUSY + 1):
        opened(f"redis://{LOGIN}{host}")
    with impostors.black_hole() as host, fails(Unavailable, within=BUSY + 1):
        opened(f"redis://{LOGIN}{host}")
    with fails(Unavailable, impostors.UNKNOWN_NAME, within=BUSY + 1):
        opened(f"redis://{LOGIN}{impostors.UNKNOWN_NAME}")


def test_a_minority_of_impostors_is_a_warning(redis: Redis[Any], caplog: pytest.LogCaptureFixture) -> None:
    with Impostor(impostors.garbage) as one, Impostor(impostors.silent) as two:
        hosts = [one.host, two.host, *(f"{each.host}:{each.port}" for each in redis.members[:3])]
        url = f"redis+quorum://{','.join(hosts)}?max_ttl=4"
        with redis.first(3) as three:
            mark_new(three, url)
        with elector_of(url) as elector:
            term = elector.campaign(timeout=2 * BUSY)
            term.confirm()
            assert not term.wait_ended(1.2 * TTL), "it is renewed by three of five"
            term.resign()
    assert sum("is not counted" in record.getMessage() for record in caplog.records) >= 2


ANSWERS: dict[str, type[CoordkitError]] = {
    "-LOADING Redis is loading the dataset in memory": Unavailable,
    "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": Unavailable,
    "-READONLY You can't write against a read only replica.": Unavailable,
    "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist": Unavailable,
    "-NOREPLICAS Not enough good replicas to write.": Unavailable,
    "-OOM command not allowed when used memory > 'maxmemory'.": Unavailable,
    "-BUSY Redis is busy running a script.": Unavailable,
    "-CLUSTERDOWN The cluster is down": Unavailable,
    "-MOVED 3999 127.0.0.1:6381": Unavailable,
    "-ASK 3999 127.0.0.1:6381": Unavailable,
    "-TRYAGAIN Multiple keys request during rehashing of slot": Unavailable,
    "-ERR max number of clients reached": Unavailable,
    "-SOMETHING that nobody has heard of": Unavailable,
    "-": Unavailable,
    "-NOAUTH Authentication required.": Rejected,
    "-NOPERM this user has no permissions to run the 'evalsha' command": Rejected,
    "-WRONGPASS invalid username-password pair or user is disabled.": Rejected,
    "-WRONGTYPE Operation against a key holding the wrong kind of value": Misconfigured,
    "+OK": Unavailable,
    ":7": Unavailable,
    "$-1": Unavailable,
    "*0": Unavailable,
}


@pytest.mark.parametrize("line", ANSWERS, ids=lambda line: line.partition(" ")[0])
def test_whatever_a_voter_answers_a_minority_of_such_is_no_obstacle(
    redis: Redis[Any], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Impostor(impostors.says(line)) as one, Impostor(impostors.says(line)) as other:
        with elector_of(f"redis://{one.host}") as elector, fails(ANSWERS[line], one.host, within=BUSY):
            elector.leader(timeout=1.0)
        hosts = [one.host, other.host, *redis.endpoints[:3]]
        url = f"redis+quorum://{','.join(hosts)}"
        with redis.first(3) as three:
            mark_new(three, url)
        with elector_of(url) as elector:
            term = elector.campaign(timeout=BUSY)
            term.confirm()
            term.resign()
        told = [record.getMessage() for record in caplog.records if "is not counted" in record.getMessage()]
        assert all(any(host in each for each in told) for host in hosts[:2])


def test_a_server_that_asks_for_a_password(redis_one: Redis[Any]) -> None:
    redis_one.require_password(PASSWORD)
    with fails(Rejected, within=BUSY):
        opened(redis_one.url())
    with fails(Rejected, within=BUSY):
        opened(redis_one.url(password="wrong"))
    with fails(Rejected, within=BUSY), elector_of(redis_one.url(user="nobody", password=PASSWORD)) as elector:
        elector.campaign(timeout=BUSY)
    url = redis_one.url(password=PASSWORD)
    mark_new(redis_one, url)
    with elector_of(url) as elector:
        elector.campaign(timeout=BUSY).resign()


def test_an_even_number_adds_nothing_and_a_warning_says_so(redis: Redis[Any], caplog: pytest.LogCaptureFixture) -> None:
    url = redis.url(members=redis.members[:4])
    with redis.first(4) as four:
        mark_new(four, url)
    with elector_of(url) as elector:
        elector.campaign(timeout=BUSY).resign()
    assert any("4 voters survive as many failures as 3" in record.getMessage() for record in caplog.records)


def test_a_majority_of_replicas_is_told_and_counts_again_after_the_quarantine(redis: Redis[Any]) -> None:
    url = redis.url(max_ttl="3")
    mark_new(redis, url)
    replicas, (primary, *_) = redis.members[:3], redis.members[3:]
    with elector_of(url) as elector:
        first = elector.campaign(timeout=BUSY)
        first.resign()
        for member in replicas:
            redis.replicaof(member, primary)
        with fails(Unavailable, "it is a replica", *(str(each.port) for each in replicas), within=BUSY):
            elector.leader(timeout=1.0)
        with fails(CampaignTimeout, within=BUSY):
            elector.campaign(timeout=0.5)
        for member in replicas:
            redis.promote(member)
        began = time.monotonic()
        second = elector.campaign(timeout=3.1 + 2 * BUSY)
        assert time.monotonic() - began >= 3.0
        assert second.token > first.token
        second.resign()


def test_a_majority_that_evicts_is_told(redis: Redis[Any], url: str) -> None:
    for member in redis.members[:3]:
        redis.evicting(member)
    with elector_of(url) as elector:
        with fails(Unavailable, "evicts keys, maxmemory-policy is allkeys-lru", within=BUSY):
            elector.leader(timeout=1.0)
        assert held_by(redis, "x") == []


@pytest.mark.local_cluster
def test_a_server_of_a_cluster_votes_only_while_it_serves(tmp_path: Path) -> None:
    with RedisVoters(tmp_path, 1, flags=["--cluster-enabled", "yes"]) as voter:
        (member,) = voter.members
        url = voter.url(max_ttl="3")
        with elector_of(url) as elector:
            with fails(Unavailable, "ClusterDownError", within=BUSY), elector_of(f"{url}&drift=0.011") as other:
                other.leader(timeout=1.0)
            waiting = Running(lambda: elector.campaign(timeout=4 * BUSY))
            voter.hand(member).execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            waiting.result(4 * BUSY).resign()


# -- what was agreed on ------------------------------------------------------------------------------------


def test_another_agreement_is_refused_and_disturbs_nobody(redis: Redis[Any], url: str) -> None:
    others = [
        redis.url(max_ttl="30"),
        redis.url(cluster="others"),
        redis.url(members=redis.members[:3]),
    ]
    with elector_of(url) as elector:
        term = elector.campaign(timeout=BUSY)
        before = fields_of(redis)[0]["marker"]
        for other in others:
            with fails(Misconfigured, "it has agreed on 60000/5/", "and we on", within=BUSY):
                opened(other)
            with elector_of(other) as stranger, fails(Misconfigured, within=BUSY):
                stranger.campaign(timeout=BUSY)
        assert fields_of(redis)[0]["marker"] == before
        term.confirm()
        term.resign()


def test_a_minority_of_another_agreement_is_not_counted(redis: Redis[Any]) -> None:
    url = redis.url(max_ttl="4")
    with redis.first(2) as two:
        mark_new(two, redis.url(members=redis.members[:2]))
    before = [fields["marker"] for fields in fields_of(redis)[:2]]
    with elector_of(url) as elector:
        elector.campaign(timeout=4.1 + 2 * BUSY).resign()
    assert [fields["marker"] for fields in fields_of(redis)[:2]] == before
    assert not any("e:x" in fields for fields in fields_of(redis)[:2])


def test_one_name_for_a_list_that_is_written_in_two_ways(redis_one: Redis[Any]) -> None:
    (member,) = redis_one.members
    with Proxy(member.host, member.port) as proxy:
        url = redis_one.url(cluster="orders")
        mark_new(redis_one, url)
        with elector_of(url) as one, elector_of(f"redis://{proxy.host}:{proxy.port}?cluster=orders") as two:
            first = one.campaign(timeout=BUSY)
            assert two.try_campaign() is None
            first.resign()
            second = two.campaign(timeout=BUSY)
            assert second.token > first.token
            second.resign()


# -- foreign data ------------------------------------------------------------------------------------------


def a_string(hand: Any) -> None:
    hand.delete("coordkit")
    hand.set("coordkit", "somebody else's")


def a_foreign_marker(hand: Any) -> None:
    hand.hset("coordkit", "marker", "once upon a time")


def a_foreign_record(hand: Any) -> None:
    hand.hset("coordkit", "e:x", b"\x00\xff 7 held")


def the_last_epoch(hand: Any) -> None:
    birth = hand.hget("coordkit", "marker").split(" ")[1]
    hand.hset("coordkit", "e:x", f"{EPOCH_LIMIT - 1} 0 a 0 released 1000 {birth} {{}}")


def beyond_the_last_epoch(hand: Any) -> None:
    birth = hand.hget("coordkit", "marker").split(" ")[1]
    hand.hset("coordkit", "e:x", f"{'9' * 40} 0 a 0 released 1000 {birth} {{}}")


def a_huge_record(hand: Any) -> None:
    hand.hset("coordkit", "e:x", b"7 " * (1 << 20))


FOREIGN = [a_string, a_foreign_marker, a_foreign_record, beyond_the_last_epoch, a_huge_record]


@pytest.mark.parametrize("spoil", FOREIGN, ids=lambda spoil: spoil.__name__)
def test_foreign_data_are_no_vote_and_stay_as_they_are(
    redis: Redis[Any], url: str, spoil: Callable[[Any], None]
) -> None:
    for member in redis.members[:2]:
        spoil(redis.hand(member))
    before = [redis.hand(member).dump("coordkit") for member in redis.members[:2]]
    with elector_of(url) as elector:
        term = elector.campaign(timeout=BUSY)
        assert not term.wait_ended(TTL / 2)
        term.resign()
        assert [redis.hand(member).dump("coordkit") for member in redis.members[:2]] == before
        spoil(redis.hand(redis.members[2]))
        with fails(Misconfigured, str(redis.members[2].port), within=BUSY):
            elector.campaign(timeout=BUSY)
        with elector_of(url, "y") as other:
            if spoil not in (a_string, a_foreign_marker):
                other.campaign(timeout=BUSY).resign()  # other elections are not concerned


def test_epochs_that_are_used_up_are_an_error_not_a_fall(redis: Redis[Any], url: str) -> None:
    for member in redis.members:
        the_last_epoch(redis.hand(member))
    with elector_of(url) as elector, fails(Misconfigured, within=BUSY):
        elector.campaign(timeout=BUSY)
    assert held_by(redis, "x") == []


# -- answers -----------------------------------------------------------------------------------------------


def test_scripts_that_a_server_has_forgotten_are_sent_again(redis: Redis[Any], url: str) -> None:
    with elector_of(url) as elector:
        term = elector.campaign(timeout=BUSY)
        for member in redis.members:
            redis.hand(member).script_flush()
        term.confirm()
        term.resign()
        for member in redis.members:
            redis.hand(member).script_flush()
        elector.campaign(timeout=BUSY).resign()


def test_no_majority_and_recovery(redis: Redis[Any]) -> None:
    proxies = [Proxy(member.host, member.port) for member in redis.members]
    try:
        url = f"redis+quorum://{','.join(f'{each.host}:{each.port}' for each in proxies)}?max_ttl=20"
        mark_new(redis, url)
        with elector_of(url) as old, elector_of(f"{url}&drift=0.011") as new:
            term = old.campaign(timeout=BUSY)
            follower = Running(new.campaign)
            for proxy in proxies[:3]:
                proxy.cut()
            assert term.wait_ended(TTL + BUSY)
            with fails(Unavailable, within=BUSY):
                new.leader(timeout=1.0)
            with fails(CampaignTimeout, within=2 * TTL + BUSY):
                old.campaign(timeout=TTL)
            assert not follower.done
            for proxy in proxies[:3]:
                proxy.heal()
            after = follower.result(2 * TTL + 2 * BUSY)
            assert after.token > term.token
            after.resign()
            eventually(lambda: held_by(redis, "x") == [], "nothing is left")
    finally:
        for proxy in proxies:
            proxy.close()


def test_replies_that_are_lost_in_the_middle_of_anything_leave_nothing_that_blocks(redis_three: Redis[Any]) -> None:
    """The way back is cut at each reply in turn: of the look, the vote, the renewal, the release."""
    proxies = [Proxy(member.host, member.port) for member in redis_three.members]
    try:
        url = f"redis+quorum://{','.join(f'{each.host}:{each.port}' for each in proxies)}?max_ttl=20"
        mark_new(redis_three, url)
        with elector_of(url) as elector, elector_of(f"{url}&drift=0.011") as other:
            tokens = []
            for number in range(6):
                running = Running(lambda: elector.campaign(timeout=2 * TTL + BUSY))
                for proxy in proxies[: 1 + number % 3]:
                    proxy.cut()
                for proxy in proxies:
                    proxy.heal()
                term = running.result(2 * TTL + 2 * BUSY)
                tokens.append(term.token)
                for proxy in itertools.islice(itertools.cycle(proxies), number % 3, number % 3 + 2):
                    proxy.cut()
                term.resign()
                for proxy in proxies:
                    proxy.heal()
                began = time.monotonic()
                after = other.campaign(timeout=2 * TTL + 2 * BUSY)
                assert time.monotonic() - began < TTL + BUSY
                tokens.append(after.token)
                after.resign()
            assert tokens == sorted(set(tokens))
            eventually(lambda: held_by(redis_three, "x") == [], "nothing is left")
    finally:
        for proxy in proxies:
            proxy.close()


class Here:
    """As much of a host as the way to one voter needs, on the running loop."""

    clock = system_clock()

    def __init__(self) -> None:
        self.chance = random.Random(1)
        self.log = self

    def info(self, message: str, *values: object) -> None: ...

    def warning(self, message: str, *values: object) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work, name=name)


def commands(connection: socket.socket) -> Iterator[bytes]:
    """The names of the commands that come."""
    with connection.makefile("rb") as file:
        while line := file.readline():
            words = [file.read(int(file.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]
            yield words[0]


def takes_little(connection: socket.socket) -> None:
    """Answers as a Redis would, but reads no more than one list of channels."""
    for command in commands(connection):
        if command == b"SUBSCRIBE":
            threading.Event().wait(60.0)
        connection.sendall(b"$0\r\n\r\n" if command == b"INFO" else b"+OK\r\n")


def test_a_server_that_takes_nothing_more_keeps_nobody_from_leaving() -> None:
    async def leaving(impostor: Impostor) -> None:
        host: Any = Here()
        (target,) = targets_of(parse(f"redis://{impostor.host}"))
        voter = Voter(target, "coordkit", "c", host, lambda *_: None)
        for number in range(60_000):
            voter.listen(f"{number:0200}")
        async with asyncio.timeout(BUSY):
            while not voter._telling:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert voter._telling, "what it is told does not fit into any buffer"
        async with asyncio.timeout(1.0):
            await voter.close()

    with Impostor(takes_little) as impostor:
        asyncio.run(leaving(impostor))


def test_who_says_that_it_has_no_script_to_a_whole_script_is_not_asked_again() -> None:
    asked = []

    def forgets(connection: socket.socket) -> None:
        for command in commands(connection):
            if command.startswith(b"EVAL"):
                asked.append(command)
                connection.sendall(b"-NOSCRIPT No matching script\r\n")
            else:
                connection.sendall(b"$0\r\n\r\n" if command == b"INFO" else b"+OK\r\n")

    async def asking(impostor: Impostor) -> None:
        host: Any = Here()
        (target,) = targets_of(parse(f"redis://{impostor.host}"))
        voter = Voter(target, "coordkit", "c", host, lambda *_: None)
        with pytest.raises(OutcomeUnknown, match="NoScriptError"):
            await voter.ask("look", (), BUSY)
        await voter.close()

    with Impostor(forgets) as impostor:
        asyncio.run(asking(impostor))
    assert asked == [b"EVAL"]


@contextmanager
def through_proxies(voters: Redis[Any]) -> Iterator[tuple[list[Proxy], str]]:
    """A proxy on the way to each, and the URL that goes by them; the voters count at once."""
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in voters.members]
        url = f"redis+quorum://{','.join(f'{each.host}:{each.port}' for each in proxies)}?max_ttl=20"
        mark_new(voters, url)
        yield proxies, url


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_the_replies_to_a_vote_are_lost(redis_three: Redis[Any], lost: int) -> None:
    """It was granted, and nobody knows: the candidate gives it back and is elected anew, long before a ttl is over."""
    ttl = 15.0
    with (
        through_proxies(redis_three) as (proxies, url),
        elector_of(url, ttl=ttl) as elector,
        elector_of(f"{url}&drift=0.011", ttl=ttl) as other,
    ):
        first = elector.campaign(timeout=BUSY)
        first.resign()
        for proxy in proxies[:lost]:
            proxy.drop_replies(after=b'"label"')  # only a vote, or a renewal, says who it is for
        running = Running(lambda: elector.campaign(timeout=ttl))
        for proxy in proxies[:lost]:
            proxy.wait_for_request()
        for proxy in proxies:
            proxy.heal()
        second = running.result(BUSY)
        assert second.token > first.token
        assert other.try_campaign() is None
        second.confirm()
        second.resign()
        third = other.campaign(timeout=BUSY)
        assert third.token > second.token
        third.resign()
        eventually(lambda: held_by(redis_three, "x") == [], "nothing is left")


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_the_replies_to_a_release_are_lost(redis_three: Redis[Any], lost: int) -> None:
    """Whoever comes next is not held up for the rest of the lease."""
    ttl = 15.0
    with (
        through_proxies(redis_three) as (proxies, url),
        elector_of(url, ttl=ttl) as elector,
        elector_of(f"{url}&drift=0.011", ttl=ttl) as other,
    ):
        first = elector.campaign(timeout=BUSY)
        waiting = Running(other.campaign)
        for proxy in proxies[:lost]:
            proxy.drop_replies(after=b"9" * 15)  # only a release is above every beat
        leaving = Running(first.resign)
        for proxy in proxies[:lost]:
            proxy.wait_for_request()
        for proxy in proxies:
            proxy.heal()
        leaving.result(BUSY)
        second = waiting.result(BUSY)
        assert second.token > first.token
        again = Running(elector.campaign)
        assert not second.wait_ended(0.5), "a release that is sent once more frees nobody else's seat"
        second.confirm()
        second.resign()
        again.result(BUSY).resign()
        eventually(lambda: held_by(redis_three, "x") == [], "nothing is left")


def test_a_release_that_does_not_arrive_holds_nobody_up_for_longer_than_its_lease(redis_three: Redis[Any]) -> None:
    with (
        through_proxies(redis_three) as (proxies, url),
        elector_of(url) as elector,
        elector_of(f"{url}&drift=0.011") as other,
    ):
        first = elector.campaign(timeout=BUSY)
        other.leader()  # connected
        for proxy in proxies:
            proxy.refuse()
        first.resign()
        elector.close(timeout=0.5)
        for proxy in proxies:
            proxy.heal()
        began = time.monotonic()
        second = other.campaign(timeout=TTL + 2 * BUSY)
        assert time.monotonic() - began < TTL * 1.05 + BUSY
        assert second.token > first.token
        second.resign()


def test_a_term_survives_the_loss_of_all_connections(redis: Redis[Any], url: str) -> None:
    with elector_of(url, ttl=8.0) as elector:
        term = elector.campaign(timeout=BUSY)
        for _ in range(3):
            for member in redis.members:
                redis.hand(member).client_kill_filter(_type="normal", skipme=True)
                redis.hand(member).client_kill_filter(_type="pubsub", skipme=True)
            term.confirm(timeout=BUSY)
        assert term.state is TermState.LEADING
        term.resign()


def test_a_closed_session_leaves_no_connection(redis: Redis[Any], url: str) -> None:
    before = [redis.hand(member).info("clients")["connected_clients"] for member in redis.members]
    with elector_of(url) as elector, elector_of(f"{url}?drift=0.011") as other:
        term = elector.campaign(timeout=BUSY)
        with pytest.raises(CampaignTimeout):
            other.campaign(timeout=0.5)
        now = [redis.hand(member).info("clients")["connected_clients"] for member in redis.members]
        assert all(after - then <= 4 for then, after in zip(before, now, strict=True)), "two for each session"
        term.resign()
    eventually(
        lambda: [redis.hand(member).info("clients")["connected_clients"] for member in redis.members] == before,
        "they are closed",
    )


def test_errors_are_ours(url: str) -> None:
    with elector_of(url, "x" * 255) as elector:
        term = elector.campaign(timeout=BUSY)
        term.proclaim("y" * 64 * 1024)
        assert isinstance(Misconfigured("x"), CoordkitError)
        leader = elector.leader()
        assert leader is not None
        assert len(leader.metadata) == 64 * 1024
        term.resign()


# -- the command line --------------------------------------------------------------------------------------


def test_the_commands_on_real_voters(redis: Redis[Any], url: str) -> None:
    assert coordkit(url, "leader", "a/b").returncode == 1
    script = "echo $COORDKIT_TOKEN; exit 7"
    ran = coordkit(url, "run", "--no-wait", "a/b", "--", "sh", "-c", script)
    assert (ran.returncode, ran.stderr) == (7, "")
    with elector_of(url, "a/b", metadata="10.0.0.1:80", label="web") as leader, leader.lead(timeout=BUSY) as term:
        assert int(term.token) > int(ran.stdout)
        done = together(
            {
                "leader": partial(coordkit, url, "leader", "a/b"),
                "candidates": partial(coordkit, url, "candidates", "--json", "a/b"),
                "no wait": partial(coordkit, url, "run", "--no-wait", "a/b", "--", "true"),
                "wait": partial(coordkit, url, "run", "--wait", "0.5", "a/b", "--", "true"),
            }
        )
        assert done["leader"].stdout == f"{term.token} {term.candidate.id} 10.0.0.1:80\n"
        assert json.loads(done["candidates"].stdout)["candidates"][0]["label"] == "web"
        assert done["no wait"].returncode == done["wait"].returncode == 75
    assert held_by(redis, "a/b") == []


def test_the_commands_say_what_is_wrong_by_their_exit_codes(redis_three: Redis[Any]) -> None:
    mark_new(redis_three, redis_three.url())
    agreed_otherwise = redis_three.url(max_ttl="30")

    def run(url: str, code: int, told: str, command: Sequence[str]) -> None:
        done = coordkit(url, *command)
        assert (done.returncode, done.stdout) == (code, "")
        assert told in done.stderr.splitlines()[-1]

    with impostors.nobody() as nobody, Impostor(impostors.http) as other:
        parts = {
            "nobody, leader": partial(run, f"redis://{LOGIN}{nobody}", 69, nobody, COMMANDS["leader"]),
            "nobody, run": partial(run, f"redis://{LOGIN}{nobody}", 69, nobody, COMMANDS["run"]),
            "somebody else": partial(run, f"redis://{LOGIN}{other.host}", 78, other.host, COMMANDS["leader"]),
            "another agreement": partial(
                run, agreed_otherwise, 78, "it has agreed on 60000/3/", COMMANDS["run-no-wait"]
            ),
            "a bad URL": partial(run, f"redis://{LOGIN}a,b", 2, "names one server", COMMANDS["leader"]),
        }
        together(parts)
