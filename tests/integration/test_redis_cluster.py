"""The harness itself: what it says that it does to voters is done, seen by the servers' own words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as Client
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as NoConnection
from redis.retry import Retry

from tests.servers.certificates import Certificates
from tests.servers.cluster import NotReady
from tests.servers.redis import Redis, RedisVoters
from tests.support.clusters import redis_of_newer_release, valkey_voters
from tests.support.local_clusters import ends_with_its_process, leaves_nothing, stays, tells_why_it_cannot_start

pytestmark = pytest.mark.backend("redis")
SET = "return redis.call('SET', KEYS[1], 'v')"


def reads(redis: Redis[Any], member: Any, key: str = "k") -> str | None:
    value = redis.hand(member).get(key)
    assert value is None or isinstance(value, str)
    return value


def by_script(redis: Redis[Any], member: Any) -> str:
    """How a script fares that writes: OK, or the code of its error."""
    try:
        return str(redis.hand(member).eval(SET, 1, "k"))
    except OutOfMemoryError:
        return "OOM"
    except ReadOnlyError:
        return "READONLY"
    except ResponseError as refused:
        return str(refused).split()[0]


def test_voters_are_independent_and_cleared(redis: Redis[Any], redis_one: Redis[Any]) -> None:
    single = redis_one.members[0]
    runs = {redis.hand(member).info("server")["run_id"] for member in (*redis.members, single)}
    assert len(runs) == 6
    for number, member in enumerate(redis.members):
        assert by_script(redis, member) == "OK"
        kind, _, replicas = redis.hand(member).role()
        assert (kind, replicas) == ("master", [])
        redis.hand(member).set("k", number)
    assert [reads(redis, member) for member in redis.members] == list("01234")
    assert reads(redis_one, single) is None
    redis.hand(redis.members[1], database=1).set("k", "v")
    script = str(redis.hand(redis.members[0]).script_load(SET))
    redis.clear()
    assert {redis.hand(member, database=database).dbsize() for member in redis.members for database in (0, 1)} == {0}
    with pytest.raises(NoScriptError):
        redis.hand(redis.members[0]).evalsha(script, 1, "k")


def test_three_are_the_first_of_five(redis_three: Redis[Any], redis_voters: Redis[Any]) -> None:
    assert redis_three.members == redis_voters.members[:3]
    assert redis_three.url() == f"redis+quorum://{','.join(redis_three.endpoints)}"
    one = redis_three.first(1)
    assert one.url("1", user="alice", password="p@ss/") == f"redis://alice:p%40ss%2F@{one.endpoints[0]}/1"
    assert one.url(cluster="c") == f"redis://{one.endpoints[0]}?cluster=c"
    one.close()


def test_a_voter_keeps_what_it_has_answered(redis: Redis[Any]) -> None:
    for end in ("kill", "restart"):
        member = redis.members[0]
        before = redis.hand(member).info("server")["run_id"]
        redis.hand(member).set("k", end)
        getattr(member, end)()
        member.start()
        redis.ready()
        assert reads(redis, member) == end
        assert redis.hand(member).info("server")["run_id"] != before


def test_a_voter_that_is_down_or_paused_is_not_waited_for_in_vain(redis: Redis[Any]) -> None:
    one, other, *rest = redis.members
    one.kill()
    with pytest.raises(LookupError):
        _ = one.pid
    with pytest.raises(NotReady, match=f"{one.name} is down"):
        redis.ready()
    other.pause()
    assert (other.paused, other.running) == (True, True)
    assert redis.view(other) is None
    redis.ready(among=rest)
    redis.heal()
    assert not other.paused


def test_a_wiped_voter_has_nothing(redis: Redis[Any]) -> None:
    member = redis.members[0]
    redis.hand(member).set("k", "v")
    with pytest.raises(RuntimeError, match="running"):
        member.wipe()
    member.kill()
    member.wipe()
    member.start()
    redis.ready()
    assert reads(redis, member) is None


def test_data_of_an_earlier_moment(redis: Redis[Any]) -> None:
    member = redis.members[0]
    redis.hand(member).set("k", "then")
    then = redis.snapshot(member)
    redis.hand(member).set("k", "later")
    later = redis.snapshot(member)
    redis.hand(member).set("k", "now")
    for copy, value in ((then, "then"), (later, "later"), (then, "then")):
        redis.restore(member, copy)
        assert reads(redis, member) == value


def test_a_flushed_voter_and_swapped_databases(redis: Redis[Any]) -> None:
    one, other, *rest = redis.members
    for member in redis.members:
        redis.hand(member).set("k", "v")
    redis.flushall(one)
    redis.swapdb(other)
    assert [reads(redis, member) for member in redis.members] == [None, None, *["v"] * len(rest)]
    redis.swapdb(other)
    assert reads(redis, other) == "v"


def test_a_replica_has_the_others_data_and_follows_until_it_is_cut_off(redis: Redis[Any]) -> None:
    primary, replica = redis.members[:2]
    redis.hand(primary).set("k", "before")
    redis.hand(replica).set("other", "gone")
    redis.replicaof(replica, primary)
    assert (reads(redis, replica), reads(redis, replica, "other")) == ("before", None)
    assert by_script(redis, replica) == "READONLY"
    assert redis.hand(primary).set("k", "seen")
    assert redis.hand(primary).wait(1, 10_000) == 1
    replica.cut_off()
    redis.hand(primary).set("k", "unseen")
    assert redis.hand(primary).wait(1, 200) == 0
    assert reads(redis, replica) == "seen"
    redis.promote(replica)
    assert by_script(redis, replica) == "OK"


DENIALS: list[tuple[str, str, str]] = [
    ("out_of_memory", "OOM", "enough_memory"),
    ("read_only", "NOREPLICAS", "writable"),
    ("busy", "BUSY", "not_busy"),
]


@pytest.mark.parametrize(("deny", "code", "end"), DENIALS, ids=[code for _, code, _ in DENIALS])
def test_a_voter_that_denies_writes_until_it_is_mended(redis: Redis[Any], deny: str, code: str, end: str) -> None:
    member = redis.members[0]
    for mend in (lambda: getattr(redis, end)(member), redis.heal):
        getattr(redis, deny)(member)
        assert [by_script(redis, other) for other in redis.members] == [code, *["OK"] * 4]
        mend()
        assert by_script(redis, member) == "OK"


def test_a_policy_of_eviction(redis: Redis[Any]) -> None:
    def policy(member: Any) -> str:
        return str(redis.hand(member).info("memory")["maxmemory_policy"])

    one, other, *_ = redis.members
    redis.evicting(one)
    redis.evicting(other)
    redis.no_eviction(other)
    assert [policy(one), policy(other)] == ["allkeys-lru", "noeviction"]
    redis.heal()
    assert policy(one) == "noeviction"


def test_users_and_passwords_last_until_all_is_mended(redis: Redis[Any]) -> None:
    redis.add_user("alice", "p@ss word", "~a &a +get +set")
    redis.require_password("sesame")
    for member in redis.members:
        alice = redis.hand(member, user="alice", password="p@ss word")
        assert alice.set("a", "v")
        with pytest.raises(NoPermissionError):
            alice.set("b", "v")
        assert redis.hand(member, user="", password="sesame").get("a") == "v"
        with pytest.raises(AuthenticationError):
            redis.hand(member, user="", password="").get("a")
    redis.heal()
    for member in redis.members:
        assert redis.hand(member, user="", password="").get("a") == "v"
        assert "alice" not in redis.hand(member).acl_users()


def test_commands_are_counted_by_the_servers(redis: Redis[Any]) -> None:
    member = redis.members[0]
    redis.hand(member).ping()
    redis.reset_stats(member)
    before, total = redis.calls(member), redis.metrics(member)["total_commands_processed"]
    by_script(redis, member)
    assert redis.calls(member) - before == {"eval": 1, "set": 1, "info": 2}
    assert redis.metrics(member)["total_commands_processed"] == total + 4
    redis.reset_stats(member)
    assert redis.metrics(member)["total_commands_processed"] < total


def test_heal_mends_everything_at_once(redis: Redis[Any]) -> None:
    one, two, three, four, five = redis.members
    redis.replicaof(four, five)
    redis.replicaof(three, one)
    one.kill()
    two.pause()
    five.cut_off()
    redis.heal()
    assert [by_script(redis, member) for member in redis.members] == ["OK"] * 5


# -- voters of their own ---------------------------------------------------------------------------------------


@pytest.mark.local_cluster
def test_tls_asks_for_a_client_certificate(tmp_path: Path, certificates: Certificates) -> None:
    with RedisVoters(tmp_path, 2, tls=certificates) as redis:
        one, other = redis.members
        redis.hand(one).set("k", "v")
        redis.replicaof(other, one)
        assert reads(redis, other) == "v"
        hosts = ",".join(redis.endpoints)
        assert redis.url().startswith(f"rediss+quorum://{hosts}?ca=%2F")
        authority = str(certificates.authority)
        nameless = Client(one.host, one.port, ssl=True, ssl_ca_certs=authority, retry=Retry(NoBackoff(), 0))
        with nameless, pytest.raises(NoConnection):
            nameless.ping()


@pytest.mark.local_cluster
def test_ipv6(tmp_path: Path) -> None:
    with RedisVoters(tmp_path, 2, ipv6=True) as redis:
        assert all(endpoint.startswith("[::1]:") for endpoint in redis.endpoints)
        assert by_script(redis, redis.members[0]) == "OK"


@pytest.mark.local_cluster
def test_a_unix_socket_is_the_only_way(tmp_path: Path) -> None:
    with RedisVoters(tmp_path, 1, unix=True) as redis:
        (member,) = redis.members
        assert by_script(redis, member) == "OK"
        assert redis.url(cluster="c") == f"redis+unix://{member.unix_socket}?cluster=c"
        member.restart()
        redis.ready()
        assert reads(redis, member) == "v"


@pytest.mark.local_cluster
@pytest.mark.parametrize(
    ("made", "oldest"),
    [(redis_of_newer_release, "8."), (valkey_voters, "8.1")],
    ids=["newer", "valkey"],
)
def test_servers_of_the_newer_release(tmp_path: Path, made: Callable[[Path, int], RedisVoters], oldest: str) -> None:
    with made(tmp_path, 2) as redis:
        one, other = redis.members
        assert redis.version.startswith(oldest)
        assert by_script(redis, one) == "OK"
        redis.replicaof(other, one)
        redis.busy(one)
        redis.heal()
        one.restart()
        redis.ready()
        assert [reads(redis, member) for member in redis.members] == ["v", "v"]


@pytest.mark.local_cluster
def test_nothing_is_left_after_close(tmp_path: Path) -> None:
    leaves_nothing(RedisVoters(tmp_path, 3), proxies=0)


@pytest.mark.local_cluster
def test_a_voter_that_cannot_start_tells_the_servers_words(tmp_path: Path) -> None:
    tells_why_it_cannot_start(RedisVoters(tmp_path, 1, flags=["--no-such-flag", "1"]), "no-such-flag")


def scene_with_a_voter(folder: str) -> None:
    with RedisVoters(Path(folder), 1) as redis:
        stays(redis)


@pytest.mark.local_cluster
def test_servers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    ends_with_its_process(scene_with_a_voter, tmp_path)
