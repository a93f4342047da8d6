"""Users, rights, TLS, sockets and other servers than Debian's Redis: the same elections, and no secret anywhere.

The rule: `RIGHTS` is what a candidate needs and no more. Whoever lacks one of them is told so, and never hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from coordkit import CampaignTimeout, ConfigError, LeaderElector, LossReason, Misconfigured, Rejected, Unavailable
from coordkit.testing.contract import Running, eventually
from tests.servers.certificates import Certificates
from tests.servers.redis import Redis, RedisVoters
from tests.support.clusters import redis_of_newer_release, valkey_voters
from tests.support.failing import PASSWORD, fails, nothing_revealed
from tests.support.voting import held_by, mark_new

__all__ = ["nothing_revealed"]

pytestmark = [
    pytest.mark.backend("redis"),
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("nothing_revealed"),
]
local = pytest.mark.local_cluster

TTL = 3.0
BUSY = 5.0  # s: on a busy machine
COMMANDS = ("eval", "evalsha", "hget", "hset", "info", "publish", "pubsub|numsub", "subscribe", "time", "unsubscribe")
RIGHTS = f"~coordkit &coordkit:* {' '.join(f'+{command}' for command in COMMANDS)}"
# Without these words are not heard, or nobody knows how many listen: everything takes longer, and is right.
ONLY_FASTER = {"publish", "pubsub|numsub", "subscribe", "unsubscribe"}


@contextmanager
def elector_of(url: str, election: str = "x", ttl: float = TTL) -> Iterator[LeaderElector]:
    elector = LeaderElector(url, election, ttl=ttl)
    try:
        yield elector
    finally:
        elector.close()


def hands_over(url: str, another: str) -> None:
    """Two candidates with connections of their own: a term, a hand-over, a higher token."""
    with elector_of(url) as one, elector_of(another) as two:
        first = one.campaign(timeout=BUSY)
        assert two.try_campaign() is None
        waiting = Running(two.campaign)
        assert not first.wait_ended(TTL / 2)
        first.proclaim("here")
        leader = two.leader()
        assert leader is not None
        assert (leader.token, leader.metadata) == (first.token, "here")
        first.resign()
        second = waiting.result(TTL + BUSY)
        assert second.token > first.token
        second.confirm()
        second.resign()


# -- users and rights --------------------------------------------------------------------------------------


def test_a_user_needs_these_rights_and_no_others(redis: Redis[Any]) -> None:
    redis.add_user("app", PASSWORD, RIGHTS)
    url = redis.url(user="app", password=PASSWORD)
    mark_new(redis, url)
    hands_over(url, f"{url}?drift=0.011")
    with elector_of(url) as elector:
        assert "app" not in repr(elector)
        assert PASSWORD not in repr(elector)


@pytest.mark.parametrize("missing", COMMANDS)
def test_who_lacks_a_right_is_told_so_or_is_slower(redis_one: Redis[Any], missing: str) -> None:
    url = redis_one.url(user="app", password=PASSWORD)
    mark_new(redis_one, url)
    redis_one.add_user("app", PASSWORD, " ".join(right for right in RIGHTS.split() if right != f"+{missing}"))
    with elector_of(url) as elector:
        if missing in ONLY_FASTER:
            first = elector.campaign(timeout=BUSY)
            first.confirm()
            first.resign()
            second = elector.campaign(timeout=BUSY)
            assert second.token > first.token
            second.resign()
        else:
            # What a script may not do has a code of its own from Redis 7.2 on; before, only words tell it.
            with pytest.raises((Rejected, CampaignTimeout)) as failed:
                elector.campaign(timeout=BUSY)
            told = f"{failed.value} {failed.value.__cause__}"
            assert "NoPermission" in told or "can't run this command" in told
    assert held_by(redis_one, "x") == []


@pytest.mark.parametrize("key", ["~other", "&other:*"])
def test_who_may_not_use_the_key_is_told_so(redis_one: Redis[Any], key: str) -> None:
    url = redis_one.url(user="app", password=PASSWORD)
    mark_new(redis_one, url)
    rights = RIGHTS.split()
    rights[0 if key.startswith("~") else 1] = key
    redis_one.add_user("app", PASSWORD, " ".join(rights))
    with elector_of(url) as elector:
        if key.startswith("~"):
            with fails(Rejected, "NoPermission", within=BUSY):
                elector.campaign(timeout=BUSY)
        else:
            elector.campaign(timeout=BUSY).resign()  # words are not heard


def test_rights_that_are_revoked_while_leading_end_the_term_and_leave_nobody_listening(redis_three: Redis[Any]) -> None:
    """The seat cannot be given back, either: it is left to its lease, and nothing else is left."""
    redis_three.add_user("app", PASSWORD, RIGHTS)
    url = redis_three.url(user="app", password=PASSWORD)
    mark_new(redis_three, url)
    with elector_of(url) as elector:
        term = elector.campaign(timeout=BUSY)
        redis_three.add_user("app", PASSWORD, RIGHTS.replace("+evalsha", "").replace("+eval", ""))
        assert term.wait_ended(TTL + BUSY)
        assert term.reason is LossReason.EXPIRED
        with pytest.raises(Rejected):
            elector.campaign(timeout=BUSY)
        eventually(
            lambda: not any(redis_three.hand(member).pubsub_channels() for member in redis_three.members),
            "nobody listens",
        )
        redis_three.add_user("app", PASSWORD, RIGHTS)
        after = elector.campaign(timeout=2 * TTL + BUSY)
        assert after.token > term.token
        after.resign()


def test_another_key_is_another_set_of_elections(redis_three: Redis[Any]) -> None:
    url, other = redis_three.url(), redis_three.url(keyspace="mine")
    mark_new(redis_three, url)
    with elector_of(url) as one, elector_of(f"{redis_three.url(keyspace='mine', max_ttl='3')}") as two:
        first = one.campaign(timeout=BUSY)
        second = two.campaign(timeout=3.1 + 2 * BUSY)
        assert held_by(redis_three, "x") == [first.candidate.id]
        assert held_by(redis_three, "x", "mine") == [second.candidate.id]
        first.resign()
        second.resign()
    with elector_of(other) as three, pytest.raises(Misconfigured):
        three.campaign(timeout=BUSY)  # its max_ttl is another one


# -- ways to a server --------------------------------------------------------------------------------------


@local
def test_tls(tmp_path: Path, certificates: Certificates) -> None:
    with RedisVoters(tmp_path, 3, tls=certificates) as voters:
        url = voters.url()
        mark_new(voters, url)
        hands_over(url, f"{url}&drift=0.011")
        stranger = Certificates.make(tmp_path / "stranger")
        for spoilt in (
            url.replace(quote(str(certificates.authority), safe=""), quote(str(stranger.authority), safe="")),
            url.replace("rediss", "redis").partition("?")[0],
        ):
            with pytest.raises(Unavailable), elector_of(spoilt) as elector:
                elector.leader(timeout=2.0)
        with (
            fails(Misconfigured, "nowhere.pem", within=BUSY),
            elector_of(f"{url.partition('?')[0]}?ca=/nowhere.pem") as one,
        ):
            one.campaign(timeout=BUSY)
        with elector_of(f"{url}&server_name=elsewhere") as other, pytest.raises(Unavailable):
            other.leader(timeout=2.0)


@local
def test_a_unix_socket(tmp_path: Path) -> None:
    with RedisVoters(tmp_path, 1, unix=True) as voters:
        url = voters.url()
        assert url.startswith("redis+unix:///")
        mark_new(voters, url)
        hands_over(url, f"{url}?drift=0.011")
        voters.require_password(PASSWORD)
        with fails(Rejected, within=BUSY), elector_of(f"{url}?drift=0.012") as stranger:
            stranger.campaign(timeout=BUSY)
        login = voters.url(password=PASSWORD)
        assert login.startswith("redis+unix://:")
        hands_over(login, f"{login}?drift=0.011")


@local
def test_ipv6(tmp_path: Path) -> None:
    with RedisVoters(tmp_path, 3, ipv6=True) as voters:
        url = voters.url()
        assert "[::1]:" in url
        mark_new(voters, url)
        hands_over(url, f"{url}?drift=0.011")


def test_another_database(redis_one: Redis[Any]) -> None:
    url = redis_one.url("3", max_ttl="2")
    with elector_of(url, ttl=2.0) as elector:
        term = elector.campaign(timeout=2.1 + 2 * BUSY)
        (member,) = redis_one.members
        assert redis_one.hand(member, database=3).hexists("coordkit", "e:x")
        assert not redis_one.hand(member).exists("coordkit")
        term.resign()
    with pytest.raises(ConfigError, match="database 0"):
        LeaderElector("redis+quorum://a,b,c/3", "x")


@local
@pytest.mark.parametrize("made", [redis_of_newer_release, valkey_voters])
def test_newer_servers_and_valkey(tmp_path: Path, made: Callable[[Path, int], RedisVoters]) -> None:
    with made(tmp_path, 3) as voters:
        url = voters.url(max_ttl="3")
        mark_new(voters, url)
        hands_over(url, f"{url}&drift=0.011")
        with elector_of(url) as elector:
            term = elector.campaign(timeout=BUSY)
            voters.flushall(voters.members[0])
            term.confirm()
            assert not term.wait_ended(4.0), "one that has forgotten is no loss"
            term.resign()
