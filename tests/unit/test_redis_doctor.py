"""What the doctor makes of the answers of Redis servers that nobody has here: old, odd, and out of order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from coordkit.backends.redis.adapter import RedisBackend
from coordkit.backends.redis.doctor import Voters
from coordkit.backends.redis.survey import Marker, Seen
from coordkit.backends.redis.target import agreement_of
from coordkit.engine import current
from coordkit.findings import Finding, Verdict
from coordkit.registry import connect, parse

ADDRESS = parse("redis+quorum://a,b,c")
CONFIG = agreement_of(ADDRESS)
OK, WARNING, FAILED, UNCHECKED = Verdict.OK, Verdict.WARNING, Verdict.FAILED, Verdict.UNCHECKED
Change = Callable[[Seen], Seen]


@pytest.fixture
def voters() -> Voters:
    """Of three; nothing is asked of them."""
    engine = current()

    async def made() -> Voters:
        backend = connect(ADDRESS, engine)
        assert isinstance(backend, RedisBackend)
        return Voters(backend, ADDRESS)

    return engine.ask(made)


def seen(name: str) -> Seen:
    """One that is as it should be."""
    info = {
        "run_id": name,
        "master_replid": f"r{name}",
        "role": "master",
        "redis_version": "7.0.15",
        "maxmemory": "0",
        "used_memory": "1000000",
        "maxmemory_policy": "noeviction",
        "aof_enabled": "1",
        "aof_last_write_status": "ok",
        "rdb_last_bgsave_status": "ok",
    }
    marker = Marker("healthy", f"{name}:r{name}", CONFIG)
    return Seen(name, info, 0.0, marker, 1, False, 0, (), 0, ())


def with_info(**info: str) -> Change:
    return lambda each: replace(each, info={**each.info, **info})


def with_marker(**marker: str) -> Change:
    return lambda each: replace(each, marker=replace(each.marker, **marker))


def having(**fields: Any) -> Change:
    return lambda each: replace(each, **fields)


def three(change: Change = lambda each: each, number: int = 3) -> Mapping[str, Seen]:
    """So many of them are changed so."""
    return {name: change(seen(name)) if place < number else seen(name) for place, name in enumerate("abc")}


def test_all_is_well(voters: Voters) -> None:
    for look in ("servers", "version", "role", "eviction", "persistence", "clock", "rights", "markers", "records"):
        assert [each.verdict for each in getattr(voters, look)(three())] == [OK], look
    assert [each.detail for each in voters.majority(three())] == ["3 of 3 voters count now"]


Case = tuple[str, Change, Verdict, Verdict, str]  # at one, at a majority, and what is said
CASES: dict[str, Case] = {
    "old": ("version", with_info(redis_version="5.0.14"), WARNING, WARNING, "Redis 5.0.14"),
    "no version": ("version", with_info(redis_version=""), WARNING, WARNING, "Redis "),
    "replica": ("role", with_info(role="slave"), WARNING, FAILED, "a replica"),
    "cluster": ("role", with_info(cluster_enabled="1"), WARNING, WARNING, "part of a Redis Cluster"),
    "shy": ("role", with_info(min_slaves_good_slaves="0"), WARNING, FAILED, "enough replicas"),
    "evicts": ("eviction", with_info(maxmemory_policy="allkeys-lfu"), WARNING, FAILED, "allkeys-lfu"),
    "full": ("eviction", with_info(maxmemory="1000000"), WARNING, FAILED, "OOM"),
    "disk": ("persistence", with_info(aof_last_write_status="err"), WARNING, FAILED, "last write to its disk"),
    "snapshot": ("persistence", with_info(rdb_last_bgsave_status="err"), WARNING, FAILED, "last write to its disk"),
    "volatile": ("persistence", with_info(aof_enabled="0"), WARNING, WARNING, "no append-only file at a"),
    "clock": ("clock", having(ahead=1.5), WARNING, WARNING, "2 s ahead of this machine"),
    "far": ("clock", having(ahead=-3700.0), WARNING, FAILED, "3700 s behind this machine"),
    "rights": ("rights", having(denied=("publish", "hset")), WARNING, FAILED, "denies hset"),
    "deaf": ("rights", having(denied=("publish",)), WARNING, WARNING, "denies publish"),
    "before 7": ("rights", having(denied=None), UNCHECKED, UNCHECKED, "cannot tell"),
    "others": ("markers", with_marker(agreed="1/3/x"), WARNING, FAILED, "agreed on 1/3/x"),
    "foreign": ("markers", with_marker(state="foreign"), WARNING, FAILED, "not ours"),
    "unasked": ("markers", with_marker(state="none"), WARNING, WARNING, "was never asked"),
    "started": ("markers", with_info(run_id="z"), WARNING, WARNING, "has lost its memory"),
    "unknown": ("markers", with_marker(state="unknown"), WARNING, WARNING, "is new or has lost its memory"),
    "strange": ("records", having(foreign=("x",)), WARNING, FAILED, "'x'"),
    "secret": ("records", having(foreign=None), UNCHECKED, UNCHECKED, "may not list"),
    "many": ("records", having(unlooked=7), OK, OK, "7 were not looked at"),
    "twice": ("servers", with_info(run_id="c"), FAILED, FAILED, "one server is behind a and c"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_wrong_at_one_and_at_a_majority(voters: Voters, case: Case) -> None:
    check, change, at_one, at_two, says = case
    found: list[Finding] = getattr(voters, check)(three(change, 1))
    assert [each.verdict for each in found] == [at_one]
    assert says in found[0].detail
    found = getattr(voters, check)(three(change, 2))
    assert [each.verdict for each in found] == [at_two]


@pytest.mark.parametrize(
    ("change", "number", "verdict", "says"),
    [
        (with_marker(state="unknown"), 1, WARNING, "2 of 3 voters count now, 1 more after"),
        (with_marker(state="none"), 3, WARNING, "0 of 3 voters count now, 3 more after"),
        (with_info(role="slave"), 1, WARNING, "2 of 3 voters count now"),
        (with_info(role="slave"), 2, FAILED, "1 of 3 voters count now"),
        (with_marker(state="foreign"), 3, FAILED, "0 of 3 voters count now"),
        (with_info(maxmemory_policy="allkeys-lru"), 2, FAILED, "1 of 3 voters count now"),
        (with_info(run_id="c"), 2, FAILED, "1 of 3 voters count now"),
    ],
)
def test_whether_a_majority_counts(voters: Voters, change: Change, number: int, verdict: Verdict, says: str) -> None:
    (found,) = voters.majority(three(change, number))
    assert (found.verdict, found.detail[: len(says)]) == (verdict, says)


def test_valkey_is_named(voters: Voters) -> None:
    (found,) = voters.version(three(with_info(valkey_version="8.1.1", redis_version="7.2.4"), 2))
    assert (found.verdict, found.detail) == (OK, "Redis 7.0.15 (1), Valkey 8.1.1 (2)")
