"""`coordkit doctor` on real voters: each thing broken in turn. What it mends: `test_doctor_redis_repairs.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordkit import LeaderElector
from coordkit.doctor import examine
from coordkit.engine import current
from coordkit.findings import Verdict
from coordkit.testing.contract import eventually
from tests.servers.proxy import Proxy
from tests.servers.redis import Redis, RedisVoters
from tests.support.clusters import valkey_voters
from tests.support.commands import coordkit
from tests.support.examined import of, troubles
from tests.support.failing import MARK, PASSWORD, nothing_revealed
from tests.support.impostors import Impostor, garbage, http, nobody, silent
from tests.support.voting import fields_of, mark_new

__all__ = ["nothing_revealed"]

pytestmark = [
    pytest.mark.backend("redis"),
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("nothing_revealed"),
]
local = pytest.mark.local_cluster

SHORT = 3.0  # s, for a check that cannot be made
BUSY = 10.0  # s, on a busy machine
LOOKS = ["voters", "number", "servers", "version", "role", "eviction", "persistence", "clock", "rights", "markers"]
LOOKS += ["records", "majority"]
WARNING, FAILED, UNCHECKED = Verdict.WARNING, Verdict.FAILED, Verdict.UNCHECKED


@pytest.fixture
def url(redis: Redis[Any]) -> str:
    """Five voters that count at once."""
    url = redis.url()
    mark_new(redis, url)
    return url


def test_healthy_voters_and_their_elections_are_disturbed_by_nothing(redis: Redis[Any], url: str) -> None:
    elector = LeaderElector(url, "x", ttl=30.0)
    with elector.lead(timeout=BUSY) as term:
        before = fields_of(redis)
        found = examine(url)
        assert [each.check for each in found.findings] == LOOKS
        assert {name: each for name, each in troubles(found).items() if name != "rights"} == {}
        assert of(found, "records").detail == "1 election"
        assert of(found, "majority").detail == "5 of 5 voters count now"
        assert redis.version in of(found, "version").detail
        assert fields_of(redis) == before
        term.confirm()
    elector.close()


def test_a_look_marks_nothing(redis: Redis[Any]) -> None:
    found = examine(redis.url())
    assert found.ok
    assert troubles(found) == {"markers": WARNING, "majority": WARNING}
    assert "was never asked" in of(found, "markers").detail
    assert fields_of(redis) == [{}] * 5


def evicting(voters: Redis[Any], member: Any) -> None:
    voters.evicting(member)


def out_of_memory(voters: Redis[Any], member: Any) -> None:
    voters.out_of_memory(member)


def read_only(voters: Redis[Any], member: Any) -> None:
    voters.read_only(member)


def replica(voters: Redis[Any], member: Any) -> None:
    voters.replicaof(member, voters.members[-1])


def of_others(voters: Redis[Any], member: Any) -> None:
    voters.hand(member).hset("coordkit", "marker", "healthy b m 60000/3/others")


def foreign(voters: Redis[Any], member: Any) -> None:
    voters.hand(member).hset("coordkit", "marker", "mine")


def strange(voters: Redis[Any], member: Any) -> None:
    voters.hand(member).hset("coordkit", mapping={"e:reports": "somebody else's", "other": "x"})


def down(_: Redis[Any], member: Any) -> None:
    member.kill()


def paused(_: Redis[Any], member: Any) -> None:
    member.pause()


def no_hash(voters: Redis[Any], member: Any) -> None:
    voters.hand(member).set("coordkit", "x")


FAULTS: dict[Callable[[Redis[Any], Any], None], tuple[str, str]] = {
    down: ("voters", "answer; not "),
    paused: ("voters", "answer; not "),
    no_hash: ("voters", "the key is not ours"),
    evicting: ("eviction", "throws keys away when memory is short (maxmemory-policy allkeys-lru)"),
    out_of_memory: ("eviction", "maxmemory is used up"),
    read_only: ("role", "takes writes only while it has enough replicas"),
    replica: ("role", "a replica"),
    of_others: ("markers", "agreed on 60000/3/others; this URL says 60000/5/"),
    foreign: ("markers", "has a marker that is not ours"),
    strange: ("records", "'e:reports', 'other'"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_is_wrong_at_one_is_a_warning_and_at_a_majority_a_failure(
    redis: Redis[Any], url: str, fault: Callable[[Redis[Any], Any], None]
) -> None:
    check, says = FAULTS[fault]
    fault(redis, redis.members[0])
    found = examine(url)
    assert found.ok, found.findings
    assert troubles(found)[check] is WARNING
    assert says in of(found, check).detail
    assert f":{redis.members[0].port}" in of(found, check).detail
    for member in redis.members[1:3]:
        fault(redis, member)
    found = examine(url)
    assert not found.ok
    assert troubles(found)[check] is FAILED
    assert says in of(found, check).detail


def test_different_faults_come_together(redis: Redis[Any], url: str) -> None:
    for fault, member in zip((down, evicting, of_others), redis.members, strict=False):
        fault(redis, member)
    found = examine(url)
    wrong = troubles(found)
    assert [wrong[check] for check in ("voters", "eviction", "markers")] == [WARNING] * 3
    assert wrong["majority"] is FAILED
    assert of(found, "majority").detail == "2 of 5 voters count now"


def test_a_voter_that_has_forgotten_or_keeps_nothing(redis: Redis[Any], url: str) -> None:
    redis.members[0].restart()
    redis.ready(among=[redis.members[0]])
    redis.hand(redis.members[1]).config_set("appendonly", "no")
    try:
        found = examine(url)
    finally:
        redis.hand(redis.members[1]).config_set("appendonly", "yes")
    assert found.ok
    assert "has lost its memory" in of(found, "markers").detail
    assert of(found, "persistence").detail.startswith(f"no append-only file at {redis.endpoints[1]}")
    assert of(found, "majority").detail == "4 of 5 voters count now, 1 more after 61.2 s"


def test_lists_that_are_odd(redis: Redis[Any], url: str, redis_one: Redis[Any]) -> None:
    assert "no more may be down than of 3" in of(examine(redis.url(members=redis.members[:4])), "number").meaning
    assert troubles(examine(redis_one.url()))["number"] is WARNING
    assert troubles(examine(redis.url(max_ttl="30")))["markers"] is FAILED
    one, two = redis.members[:2]
    with Proxy(one.host, one.port) as again:
        hosts = f"{one.host}:{one.port},{again.host}:{again.port},{two.host}:{two.port}"
        assert troubles(examine(f"redis+quorum://{hosts}?cluster=c"))["servers"] is FAILED


def test_other_keys_are_counted_and_harmless(redis_one: Redis[Any]) -> None:
    url = redis_one.url()
    mark_new(redis_one, url)
    redis_one.hand(redis_one.members[0]).set("somebody", "else")
    found = examine(url)
    assert of(found, "records").detail == f"0 elections; beside other keys at {redis_one.endpoints[0]}"


@pytest.mark.parametrize(("seconds", "verdict"), [(-1800, WARNING), (1800, WARNING), (-4000, FAILED), (4000, FAILED)])
def test_clocks(redis_one: Redis[Any], seconds: float, verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is put wrong, for the servers' are the machine's."""
    url = redis_one.url()
    mark_new(redis_one, url)
    clock = current().clock
    wall = clock.wall
    monkeypatch.setattr(clock, "wall", lambda: wall() - seconds)
    found = examine(url)
    assert troubles(found)["clock"] is verdict
    assert f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine" in of(found, "clock").detail
    assert found.ok == (verdict is WARNING)


# -- users ---------------------------------------------------------------------------------------------------------

RIGHTS = "~coordkit &coordkit:* +eval +evalsha +hget +hset +info +time"


def test_rights(redis_one: Redis[Any]) -> None:
    url = redis_one.url(user="app", password=PASSWORD)
    mark_new(redis_one, url)
    redis_one.add_user("app", PASSWORD, f"{RIGHTS} +publish +pubsub +subscribe +unsubscribe +hscan +hlen +dbsize")
    assert troubles(examine(url)) == {"number": WARNING}
    redis_one.add_user("app", PASSWORD, RIGHTS)
    found = examine(url)
    assert found.ok
    assert troubles(found) == {"number": WARNING, "rights": WARNING, "records": UNCHECKED}
    assert "denies publish, pubsub, subscribe, unsubscribe" in of(found, "rights").detail
    for missing in ("+eval ", "+evalsha", "+hset"):
        redis_one.add_user("app", PASSWORD, RIGHTS.replace(missing, ""))
        found = examine(url)
        assert troubles(found)["rights"] is FAILED
        assert f"denies {missing.strip(' +')}" in of(found, "rights").detail


@pytest.mark.parametrize("user", ["app", "nobody"])
def test_a_wrong_login_is_a_failure_and_shown_to_nobody(redis_one: Redis[Any], user: str) -> None:
    redis_one.add_user("app", PASSWORD, RIGHTS)
    for more in ((), ("--json",)):
        done = coordkit(redis_one.url(user=user, password=f"{MARK}-wrong"), "doctor", *more)
        assert done.returncode == 1
        assert "invalid username-password" in " ".join(done.stdout.split())


# -- what is no voter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serve", [http, garbage, silent], ids=lambda serve: serve.__name__)
def test_what_is_no_voter_is_a_failure(serve: Any) -> None:
    with Impostor(serve) as impostor:
        found = examine(f"redis://{impostor.host}", timeout=SHORT)
    assert troubles(found)["voters"] is FAILED
    assert troubles(found)["majority"] is UNCHECKED


def test_a_port_where_nobody_listens_is_a_failure_at_once() -> None:
    with nobody() as host:
        done = coordkit(f"redis://user:{MARK}@{host}", "doctor", "--json", timeout=30.0)
    assert (done.returncode, done.stderr) == (1, "")
    shown = json.loads(done.stdout)
    assert (shown["url"], shown["backend"], shown["ok"]) == (f"redis://{host}", "redis", False)


@local
def test_a_server_of_a_cluster_is_warned_of(tmp_path: Path) -> None:
    with RedisVoters(tmp_path, 1, flags=["--cluster-enabled", "yes"]) as voters:
        hand = voters.hand(voters.members[0])
        hand.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        eventually(lambda: "cluster_state:ok" in str(hand.execute_command("CLUSTER", "INFO")), "it serves", BUSY)
        assert "part of a Redis Cluster" in of(examine(voters.url()), "role").detail


@local
def test_valkey(tmp_path: Path) -> None:
    with valkey_voters(tmp_path, 1) as voters:
        found = examine(voters.url())
        assert found.ok
        assert of(found, "version").detail == f"Valkey {voters.version} (1)"
