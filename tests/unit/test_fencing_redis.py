"""What `RedisFence` says before any I/O, and that nobody needs redis-py who does not ask for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from redis.cluster import RedisCluster
from redis.crc import key_slot

from coordkit import ConfigError, FencingToken
from coordkit.errors import OutcomeUnknown
from coordkit.fencing import AsyncRedisFence, RedisFence

TOKEN = FencingToken("e", 1)

WITHOUT_REDIS = """
import sys
sys.modules["redis"] = None
import coordkit, coordkit.fencing
try:
    coordkit.fencing.RedisFence
except coordkit.BackendNotInstalled as error:
    print(error)
"""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_coordkit_imports_no_redis() -> None:
    assert python("import sys, coordkit, coordkit.fencing; print('redis' in sys.modules)") == "False"


def test_without_redis_the_extra_is_named() -> None:
    assert python(WITHOUT_REDIS) == "redis is not installed: pip install 'coordkit[redis]'"


@pytest.fixture
def fence(monkeypatch: pytest.MonkeyPatch) -> RedisFence:
    """On a client that must not be used."""
    client = redis.Redis()
    monkeypatch.setattr(client, "execute_command", lambda *_: pytest.fail("there was I/O"))
    return RedisFence(client)


@pytest.fixture
def clustered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RedisFence]:
    """Makes fences on a cluster's client that has found no cluster, and must not look for one."""
    client = RedisCluster.__new__(RedisCluster)
    monkeypatch.setattr(RedisCluster, "__del__", lambda _: None)
    monkeypatch.setattr(RedisCluster, "execute_command", lambda *_: pytest.fail("there was I/O"))
    return lambda **options: RedisFence(client, **options)


ODD_TOKENS = [1, "e=1", None, ("e", 1), b"1", True, object()]


@pytest.mark.parametrize("odd", ODD_TOKENS, ids=lambda odd: type(odd).__name__)
def test_what_is_no_token_is_refused(fence: RedisFence, odd: Any) -> None:
    for call in (
        lambda: fence.admit(odd),
        lambda: fence.set("k", "v", odd),
        lambda: fence.delete("k", odd),
        lambda: fence.hset("h", {"f": 1}, odd),
        lambda: fence.incrby("n", 1, odd, operation="a"),
        lambda: fence.run("return 1", [], [], odd),
        lambda: fence.overwrite(odd),
    ):
        with pytest.raises(ConfigError, match="FencingToken"):
            call()


@pytest.mark.parametrize("odd", ["", b"", None, 5, "\ud800", ("k",)], ids=lambda odd: type(odd).__name__)
def test_what_is_no_key_is_refused(fence: RedisFence, odd: Any) -> None:
    for call in (
        lambda: fence.set(odd, "v", TOKEN),
        lambda: fence.delete(odd, TOKEN),
        lambda: fence.hset("h", {odd: "v"}, TOKEN),
        lambda: fence.run("return 1", [odd], [], TOKEN),
        lambda: RedisFence(redis.Redis(), key=odd),
    ):
        with pytest.raises(ConfigError):
            call()


@pytest.mark.parametrize("odd", [None, True, [1], {"a": 1}, "\ud800", object()], ids=lambda odd: type(odd).__name__)
def test_what_is_no_value_is_refused(fence: RedisFence, odd: Any) -> None:
    for call in (
        lambda: fence.set("k", odd, TOKEN),
        lambda: fence.hset("h", {"f": odd}, TOKEN),
        lambda: fence.run("return 1", ["k"], [odd], TOKEN),
    ):
        with pytest.raises(ConfigError):
            call()


def test_other_arguments_that_make_no_sense(fence: RedisFence) -> None:
    for call in (
        lambda: fence.hset("h", {}, TOKEN),
        lambda: fence.hset("h", dict.fromkeys(map(str, range(2001)), 1), TOKEN),
        lambda: fence.set("k", "v", TOKEN, ttl=0),
        lambda: fence.set("k", "v", TOKEN, ttl=float("nan")),
        lambda: fence.incrby("n", 1.5, TOKEN, operation="a"),  # type: ignore[arg-type]
        lambda: fence.incrby("n", True, TOKEN, operation="a"),
        lambda: fence.incrby("n", 2**63, TOKEN, operation="a"),
        lambda: fence.incrby("n", 1, TOKEN, operation=""),
        lambda: fence.incrby("n", 1, TOKEN, operation="a" * 256),
        lambda: fence.incrby("n", 1, TOKEN, operation=7),  # type: ignore[arg-type]
        lambda: fence.run("", [], [], TOKEN),
        lambda: fence.run("#!lua\nreturn 1", [], [], TOKEN),
        lambda: fence.run("-" * (2**20 + 1), [], [], TOKEN),
        lambda: fence.run("return 1", "k", [], TOKEN),
        lambda: fence.run("return 1", [], "a", TOKEN),
        lambda: fence.newest(""),
        lambda: fence.newest(5),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError):
            call()


def test_the_fences_own_keys_are_not_written_to(fence: RedisFence) -> None:
    for key in ("coordkit:fence", b"coordkit:fence", "{coordkit:fence}:operations:e", "{coordkit:fence}:order:x"):
        with pytest.raises(ConfigError, match="fence's own"):
            fence.delete(key, TOKEN)
        with pytest.raises(ConfigError, match="fence's own"):
            fence.run("return redis.call('DEL', KEYS[1])", [key], [], TOKEN)


def test_a_fence_of_one_election_refuses_the_tokens_of_others() -> None:
    fence = RedisFence(redis.Redis(), "e")
    for call in (fence.admit, fence.overwrite):
        with pytest.raises(ConfigError, match="of the election 'e', not of 'f'"):
            call(FencingToken("f", 1))
    with pytest.raises(ConfigError):
        RedisFence(redis.Redis(), "")


def test_in_a_cluster_the_data_share_the_fences_slot(clustered: Callable[..., RedisFence]) -> None:
    for fence in (clustered(), clustered(key="{reports}:fence")):
        with pytest.raises(ConfigError, match="another slot"):
            fence.set("elsewhere", "v", TOKEN)
        with pytest.raises(ConfigError, match="another slot"):
            fence.run("return 1", ["elsewhere"], [], TOKEN)
    fence = clustered(key="{reports}:fence")
    call = fence._plans.incrby("{reports}:sum", 1, TOKEN, "a")
    assert len({key_slot(key if isinstance(key, bytes) else key.encode()) for key in call.keys}) == 1


@pytest.mark.parametrize("key", ["plain", "{tag}:fence", "a{tag}b", "{open", "é"])
def test_all_keys_of_a_fence_share_a_slot(clustered: Callable[..., RedisFence], key: str) -> None:
    fence = clustered(key=key)
    assert {key_slot(own + b"{x}e") for own in fence._plans._own} == {key_slot(key.encode())}


def test_a_key_whose_slot_its_companions_cannot_share_is_refused(clustered: Callable[..., RedisFence]) -> None:
    for key in ("a}b", "{}x"):
        with pytest.raises(ConfigError, match="hash tag"):
            clustered(key=key)


def test_outside_a_cluster_any_key_will_do() -> None:
    assert RedisFence(redis.Redis())._plans.set("elsewhere", "v", TOKEN, None).keys == ("coordkit:fence", "elsewhere")


def test_only_clients_are_taken_that_answer_at_once() -> None:
    client = redis.Redis()
    with pytest.raises(ConfigError, match="not a pipeline"):
        RedisFence(client.pipeline())
    for odd in (AsyncRedis(), "redis://h", None):
        with pytest.raises(ConfigError, match="RedisFence takes"):
            RedisFence(odd)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="AsyncRedisFence takes"):
        AsyncRedisFence(client)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not a pipeline"):
        AsyncRedisFence(AsyncRedis().pipeline())
    assert repr(RedisFence(client)) == "<RedisFence 'coordkit:fence'>"
    assert repr(AsyncRedisFence(AsyncRedis())) == "<AsyncRedisFence 'coordkit:fence'>"


@pytest.mark.parametrize("answer", [None, [], b"OK", [b"what"], {"a": 1}, 5], ids=lambda odd: type(odd).__name__)
def test_an_answer_that_is_not_the_scripts_leaves_the_outcome_open(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis.Redis()
    monkeypatch.setattr(client, "evalsha", lambda *_: answer)
    with pytest.raises(OutcomeUnknown, match="not this script's"):
        RedisFence(client).admit(TOKEN)

    async def evalsha(*_: object) -> Any:
        return answer

    other = AsyncRedis()
    monkeypatch.setattr(other, "evalsha", evalsha)
    with pytest.raises(OutcomeUnknown, match="not this script's"):
        asyncio.run(AsyncRedisFence(other).admit(TOKEN))
