"""`RedisFence` on a real server: check and write are one script, whoever else writes meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis as redis_py
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster

import coordkit.fencing.redis
from coordkit import ConfigError, FencingToken, LeaderElector, Misconfigured, OutcomeUnknown, Rejected, StaleToken
from coordkit.errors import Unavailable
from coordkit.fencing import AsyncRedisFence, RedisFence
from tests.servers.redis import HARNESS, HARNESS_PASSWORD, Redis, RedisVoters
from tests.support.together import together

pytestmark = pytest.mark.backend("redis")

LARGEST = 2**63 - 1
PUSH = "return redis.call('RPUSH', KEYS[1], ARGV[1])"


def token(value: int, election: str = "e") -> FencingToken:
    return FencingToken(election, value)


def client_of(redis_one: Redis[Any], **options: Any) -> redis_py.Redis:
    (member,) = redis_one.members
    login = {"username": HARNESS, "password": HARNESS_PASSWORD} | options
    return redis_py.Redis(host=member.host, port=member.port, **login)


@pytest.fixture
def client(redis_one: Redis[Any]) -> Iterator[redis_py.Redis]:
    """The caller's client, with redis-py's defaults."""
    with client_of(redis_one) as made:
        yield made


@pytest.fixture
def fence(client: redis_py.Redis) -> RedisFence:
    return RedisFence(client)


@pytest.fixture
def hand(redis_one: Redis[Any]) -> redis_py.Redis:
    """What is there, read around the fence."""
    return redis_one.hand(redis_one.members[0])


# -- one writer ------------------------------------------------------------------------------------------


def test_a_higher_and_an_equal_token_write_a_stale_one_writes_nothing(fence: RedisFence, hand: redis_py.Redis) -> None:
    for value in (5, 5, 7):
        fence.set("k", str(value), token(value))
    for stale in (
        lambda: fence.set("k", "6", token(6)),
        lambda: fence.delete("k", token(6)),
        lambda: fence.hset("h", {"f": 6}, token(6)),
        lambda: fence.incrby("n", 6, token(6), operation="six"),
        lambda: fence.run(PUSH, ["l"], ["6"], token(6)),
        lambda: fence.admit(token(6)),
    ):
        with pytest.raises(StaleToken) as caught:
            stale()
        assert (caught.value.offered, caught.value.newest) == (token(6), token(7))
    assert hand.get("k") == "7"
    assert set(hand.keys()) == {"k", "coordkit:fence"}
    assert fence.newest("e") == token(7)


def test_each_call_writes_what_it_says(fence: RedisFence, hand: redis_py.Redis) -> None:
    fence.set("k", b"\x00\xff", token(1), ttl=100)
    assert hand.strlen("k") == 2
    assert 99_000 < hand.pttl("k") <= 100_000
    fence.set("k", 1.5, token(1))
    assert (hand.get("k"), hand.pttl("k")) == ("1.5", -1)
    assert fence.delete("k", token(1)) is True
    assert fence.delete("k", token(1)) is False
    assert fence.hset("h", {"a": 1, "b": "two"}, token(1)) == 2
    assert fence.hset("h", {"b": "three", b"c": b"4"}, token(1)) == 1
    assert hand.hgetall("h") == {"a": "1", "b": "three", "c": "4"}


def test_the_callers_script_has_its_own_keys_and_arguments(fence: RedisFence, hand: redis_py.Redis) -> None:
    assert fence.run("return {#KEYS, #ARGV, KEYS[2], ARGV[1]}", ["a", "b"], ["x"], token(1))[:2] == [2, 1]
    assert fence.run("return redis.call('GET', KEYS[1]) -- nothing is there", ["a"], [], token(1)) is None
    assert fence.run("redis.call('SET', KEYS[1], ARGV[1])", ["a"], ["1"], token(1)) is None
    assert fence.run(PUSH.encode(), ["l"], [1], token(2)) == 1
    assert hand.get("a") == "1"


def test_whatever_a_script_says_it_does_not_run_before_the_check(fence: RedisFence, hand: redis_py.Redis) -> None:
    """A text that closes the function around it is still behind the admission."""
    fence.admit(token(9))
    broken_out = "end redis.call('SET', KEYS[2], 'written') local body = function() "
    with pytest.raises(StaleToken):
        fence.run(broken_out, ["k"], [], token(8))
    assert hand.get("k") is None


def test_the_largest_tokens_are_compared_exactly(fence: RedisFence) -> None:
    """They differ in digits that Lua's numbers do not have; and a longer one is higher than any shorter."""
    for lower, higher in ((LARGEST - 1, LARGEST), (2**53, 2**53 + 1), (9, 10), (99, 100), (2**62, 2**62 + 1)):
        election = f"e{higher}"
        fence.admit(token(higher, election))
        with pytest.raises(StaleToken) as caught:
            fence.admit(token(lower, election))
        assert caught.value.newest == token(higher, election)
        fence.admit(token(higher, election))


def test_elections_are_kept_apart_letter_by_letter(fence: RedisFence) -> None:
    names = ["e", "E", "é", "e/f", "e ", "e%", "_", "{e}"]
    for number, name in enumerate(names, 1):
        fence.admit(token(number, name))
    assert [fence.newest(name) for name in names] == [token(number, name) for number, name in enumerate(names, 1)]
    assert fence.newest("other") is None


def test_a_client_that_decodes_is_answered_alike(redis_one: Redis[Any]) -> None:
    with client_of(redis_one, decode_responses=True) as client:
        fence = RedisFence(client)
        fence.set("k", "5", token(5))
        assert fence.incrby("n", 2, token(5), operation="a") == fence.incrby("n", 2, token(5), operation="a") == 2
        assert fence.hset("h", {"f": 1}, token(5)) == 1
        assert fence.run("return redis.call('GET', KEYS[1])", ["k"], [], token(5)) == "5"
        with pytest.raises(StaleToken) as caught:
            fence.delete("k", token(4))
        assert caught.value.newest == token(5) == fence.newest("e")
        with pytest.raises(OutcomeUnknown):  # it has run; what it answers cannot be read
            fence.run("return '\\255'", ["k"], [], token(5))


def test_a_client_of_another_encoding_means_the_same_election(redis_one: Redis[Any]) -> None:
    with client_of(redis_one, encoding="latin-1") as odd, client_of(redis_one) as usual:
        RedisFence(odd).admit(token(5, "é"))
        assert RedisFence(usual).newest("é") == token(5, "é")


def test_a_script_that_the_server_has_forgotten_is_sent_again(fence: RedisFence, hand: redis_py.Redis) -> None:
    fence.set("k", "1", token(1))
    hand.script_flush()
    fence.set("k", "2", token(1))
    assert hand.get("k") == "2"


def test_a_write_is_one_round_trip(fence: RedisFence, redis_one: Redis[Any]) -> None:
    (member,) = redis_one.members
    fence.set("k", "1", token(1))
    redis_one.reset_stats(member)
    before = redis_one.metrics(member)["total_reads_processed"]
    asked = redis_one.metrics(member)["total_reads_processed"] - before  # by the question itself
    before += asked
    for _ in range(10):
        fence.set("k", "1", token(1))
    assert redis_one.metrics(member)["total_reads_processed"] - before <= 10 + asked
    calls = redis_one.calls(member)
    assert (calls["evalsha"], calls["eval"], calls["set"]) == (10, 0, 10)


# -- an operation counts once ----------------------------------------------------------------------------


def test_an_operation_that_is_sent_again_counts_once(fence: RedisFence, hand: redis_py.Redis) -> None:
    assert fence.incrby("n", 5, token(1), operation="batch-1") == 5
    assert fence.incrby("n", 5, token(1), operation="batch-2") == 10
    assert fence.incrby("n", 5, token(1), operation="batch-1") == 5
    assert fence.incrby("n", 5, token(2), operation="batch-2") == 10  # a successor does the work again
    assert hand.get("n") == "10"
    with pytest.raises(StaleToken):
        fence.incrby("n", 5, token(1), operation="batch-1")
    for key, amount in (("n", 6), ("m", 5)):
        with pytest.raises(ConfigError, match="used before"):
            fence.incrby(key, amount, token(2), operation="batch-1")


def test_all_digits_of_a_sum_are_told(fence: RedisFence) -> None:
    assert fence.incrby("n", 2**53, token(1), operation="a") == 2**53
    assert fence.incrby("n", 1, token(1), operation="b") == 2**53 + 1
    assert fence.incrby("n", -(2**62), token(1), operation="c") == 2**53 + 1 - 2**62
    assert fence.incrby("n", 1, token(1), operation="b") == 2**53 + 1
    fence.set("n", LARGEST, token(1))
    with pytest.raises(Rejected, match="overflow"):
        fence.incrby("n", 1, token(1), operation="d")


def test_old_operations_are_forgotten_in_their_order(
    fence: RedisFence, hand: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = 5
    monkeypatch.setattr(coordkit.fencing.redis, "REMEMBERED", remembered)
    for number in range(remembered + 1):
        fence.incrby("n", 1, token(1), operation=str(number))
    assert hand.hlen("{coordkit:fence}:operations:e") == hand.llen("{coordkit:fence}:order:e") == remembered
    assert fence.incrby("n", 1, token(1), operation="1") == 2
    assert fence.incrby("n", 1, token(1), operation="0") == remembered + 2


def test_a_lost_answer_leaves_the_outcome_open_and_the_retry_counts_once(redis_one: Redis[Any]) -> None:
    (member,) = redis_one.members
    with client_of(redis_one, retry=None, socket_timeout=0.2) as impatient, client_of(redis_one) as patient:
        RedisFence(impatient).incrby("n", 1, token(1), operation="first")
        member.pause()
        with pytest.raises(OutcomeUnknown):
            RedisFence(impatient).incrby("n", 1, token(1), operation="second")
        member.resume()
        assert RedisFence(patient).incrby("n", 1, token(1), operation="second") == 2
        assert RedisFence(patient).incrby("n", 1, token(1), operation="third") == 3


# -- what is refused -------------------------------------------------------------------------------------


def test_foreign_data_under_the_fences_key(fence: RedisFence, hand: redis_py.Redis) -> None:
    for value in ("", "rubbish", "-1", "0", "01", "1.5", "9223372036854775808", "1" * 40, "7 "):
        hand.hset("coordkit:fence", "e", value)
        for call in (lambda: fence.set("k", "1", token(5)), lambda: fence.newest("e")):
            with pytest.raises(Misconfigured, match="holds no token for 'e'"):
                call()
        assert hand.hget("coordkit:fence", "e") == value
    hand.delete("coordkit:fence")
    hand.set("coordkit:fence", "not a hash")
    for call in (lambda: fence.admit(token(5)), lambda: fence.newest("e"), lambda: fence.overwrite(token(5))):
        with pytest.raises(Misconfigured, match="WRONGTYPE"):
            call()
    hand.delete("coordkit:fence")
    hand.set("{coordkit:fence}:order:e", "not a list")
    with pytest.raises(Misconfigured):
        fence.incrby("n", 1, token(5), operation="a")
    hand.delete("{coordkit:fence}:order:e")
    hand.hset("{coordkit:fence}:operations:e", "a", "odd")
    with pytest.raises(Misconfigured):
        fence.incrby("n", 1, token(5), operation="a")
    assert hand.get("k") is None
    assert hand.get("n") is None


def test_data_of_another_type_under_the_callers_key(fence: RedisFence, hand: redis_py.Redis) -> None:
    hand.rpush("l", "x")
    for call in (
        lambda: fence.hset("l", {"f": 1}, token(1)),
        lambda: fence.incrby("l", 1, token(1), operation="a"),
    ):
        with pytest.raises(Misconfigured, match="WRONGTYPE"):
            call()
    with pytest.raises(OutcomeUnknown):  # a script may have written before it failed
        fence.run("redis.call('SET', KEYS[2], 'half') return redis.call('GET', KEYS[1])", ["l", "k"], [], token(1))
    assert hand.get("k") == "half"


def test_users_without_rights_a_full_and_a_replicating_server(redis_one: Redis[Any], hand: redis_py.Redis) -> None:
    (member,) = redis_one.members
    redis_one.add_user("reader", "secret", "~* +@read +hget +evalsha +eval")
    with client_of(redis_one, username="reader", password="secret") as reader:
        with pytest.raises(Rejected) as caught:
            RedisFence(reader).set("k", "1", token(1))
        assert (caught.value.backend, caught.value.operation) == ("redis", "set")
    with client_of(redis_one, username="reader", password="wrong") as nobody, pytest.raises(Rejected):
        RedisFence(nobody).admit(token(1))
    with client_of(redis_one) as client:
        fence = RedisFence(client)
        fence.set("k", "1", token(1))
        hand.config_set("maxmemory", "1")
        with pytest.raises(Unavailable, match="maxmemory"):
            fence.set("k", "2", token(1))
        hand.config_set("maxmemory", "0")
        hand.config_set("min-replicas-to-write", "1")
        with pytest.raises(Unavailable, match="NOREPLICAS"):
            fence.set("k", "2", token(1))
        hand.config_set("min-replicas-to-write", "0")
        assert hand.get("k") == "1"
        redis_one.busy(member)
        with pytest.raises(Unavailable, match="BUSY"):
            fence.set("k", "2", token(1))
        redis_one.not_busy(member)
        fence.set("k", "2", token(1))


def test_a_server_that_was_emptied_has_forgotten_and_is_told_again(fence: RedisFence, hand: redis_py.Redis) -> None:
    """The danger that the docs name: what an operator does before writers go on."""
    fence.set("k", "7", token(7))
    hand.flushall()
    fence.set("k", "6", token(6))
    assert hand.get("k") == "6"
    fence.overwrite(token(7))
    with pytest.raises(StaleToken):
        fence.set("k", "6", token(6))
    fence.overwrite(token(3))
    fence.set("k", "3", token(3))


# -- several ---------------------------------------------------------------------------------------------


def test_eight_writers_with_interleaved_tokens(redis_one: Redis[Any], hand: redis_py.Redis) -> None:
    """Accepted tokens never fall, and no accepted write is lost."""
    writers, accepted, refused = 8, [], []

    def write(number: int) -> None:
        with client_of(redis_one) as client:
            fence = RedisFence(client)
            for step in range(250):
                value = 1 + step * writers + number
                try:
                    fence.run(PUSH, ["log"], [value], token(value))
                    accepted.append(value)
                except StaleToken:
                    refused.append(value)

    together({f"writer {number}": partial(write, number) for number in range(writers)})
    log = [int(each) for each in hand.lrange("log", 0, -1)]
    assert log == sorted(log)
    assert sorted(log) == sorted(accepted)
    assert len(accepted) + len(refused) == 2000


async def the_same_by_asyncio(redis_one: Redis[Any], hand: redis_py.Redis) -> None:
    (member,) = redis_one.members
    login = {"username": HARNESS, "password": HARNESS_PASSWORD}
    async with AsyncRedis(host=member.host, port=member.port, **login) as client:
        fence = AsyncRedisFence(client)
        await fence.set("k", "5", token(5))
        assert await fence.hset("h", {"a": 1}, token(5)) == 1
        assert await fence.incrby("n", 3, token(5), operation="a") == 3
        assert await fence.incrby("n", 3, token(5), operation="a") == 3
        assert await fence.run(PUSH, ["l"], ["x"], token(5)) == 1
        assert await fence.delete("h", token(5)) is True
        await fence.admit(token(6))
        with pytest.raises(StaleToken) as caught:
            await fence.set("k", "4", token(5))
        assert caught.value.newest == token(6) == await fence.newest("e")
        hand.hset("coordkit:fence", "e", "rubbish")
        with pytest.raises(Misconfigured):
            await fence.set("k", "7", token(7))
    assert hand.get("k") == "5"
    with pytest.raises(ConfigError, match="not Redis"):
        AsyncRedisFence(redis_one.hand(member))  # type: ignore[arg-type]


def test_the_same_promises_by_asyncio(redis_one: Redis[Any], hand: redis_py.Redis) -> None:
    asyncio.run(the_same_by_asyncio(redis_one, hand))


def test_a_leader_shows_its_token_before_its_body_begins(redis_one: Redis[Any], client: redis_py.Redis) -> None:
    fence = RedisFence(client, "e")
    elector = LeaderElector(redis_one.url(max_ttl="2"), "e", ttl=2, fences=[fence])
    with elector.lead() as term:
        assert fence.newest("e") == term.token
        fence.set("k", "led", term.token)
    ahead = int(term.token) + 10**9
    fence.admit(token(ahead))
    with pytest.raises(StaleToken) as caught, elector.lead(timeout=30):
        pytest.fail("the body ran under a token that the resource refuses")
    assert int(caught.value.newest) == ahead
    elector.close()


# -- in a cluster ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Two servers that are a cluster, each with half of the slots: where one of them is."""
    with RedisVoters(tmp_path_factory.mktemp("cluster"), 2, flags=("--cluster-enabled", "yes")) as servers:
        one, other = servers.members
        for member, slots in ((one, (0, 8191)), (other, (8192, 16383))):
            hand = servers.hand(member)
            for start in range(slots[0], slots[1] + 1, 1024):
                hand.execute_command("CLUSTER", "ADDSLOTS", *range(start, start + 1024))
        servers.hand(one).execute_command("CLUSTER", "MEET", other.host, other.port)
        deadline = time.monotonic() + 60
        while any("cluster_state:ok" not in told(servers.hand(member)) for member in (one, other)):
            assert time.monotonic() < deadline
            time.sleep(0.05)  # they tell of it only when they are asked
        yield one.host, one.port


def told(hand: redis_py.Redis) -> str:
    return str(hand.execute_command("CLUSTER", "INFO"))


@pytest.mark.local_cluster
def test_in_a_cluster_fence_and_data_are_written_together(cluster: tuple[str, int]) -> None:
    """Fences of several hash tags, which lie on both servers; a client that does not know of slots is told."""
    host, port = cluster
    login = {"username": HARNESS, "password": HARNESS_PASSWORD}
    with redis_py.RedisCluster(host=host, port=port, **login) as client:
        for tag in ("a", "b", "c", "d"):
            fence = RedisFence(client, key=f"{{{tag}}}:fence")
            fence.set(f"{{{tag}}}:k", "7", token(7))
            assert fence.incrby(f"{{{tag}}}:n", 1, token(7), operation="x") == 1
            assert fence.run(PUSH, [f"{{{tag}}}:l"], ["x"], token(7)) == 1
            with pytest.raises(StaleToken):
                fence.set(f"{{{tag}}}:k", "6", token(6))
            assert client.get(f"{{{tag}}}:k") == b"7"
            with pytest.raises(ConfigError, match="another slot"):
                fence.set("elsewhere", "7", token(7))
        fence = RedisFence(client)  # of a key without a tag
        assert fence.incrby("{coordkit:fence}n", 1, token(1), operation="x") == 1
    with redis_py.Redis(host=host, port=port, **login) as plain, pytest.raises(Misconfigured, match="RedisCluster"):
        for number in range(4):
            RedisFence(plain, key=f"{number}:fence").set(f"{number}:k", "1", token(1))

    async def by_asyncio() -> None:
        async with AsyncRedisCluster(host=host, port=port, **login) as other:
            fence = AsyncRedisFence(other, key="{a}:fence")
            await fence.set("{a}:k", "8", token(8))
            with pytest.raises(StaleToken):
                await fence.set("{a}:k", "7", token(7))
            with pytest.raises(ConfigError, match="another slot"):
                await fence.set("elsewhere", "7", token(7))

    asyncio.run(by_asyncio())
