"""Each safety rule of the fences on stores, patched out of the shipped source: a question sees that it is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.fence_mutant_scenes import ask
from tests.servers.etcd import Etcd
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper
from tests.support.children import Child
from tests.support.patched import Patch, patched

LUA, ETCD, ZOOKEEPER, FILE = ("fencing/lua/fence.lua", "fencing/etcd.py", "fencing/zookeeper.py", "fencing/file.py")


def is_missed(question: str, place: object, other: object, tmp_path: Path, *mutant: Patch) -> None:
    """The rule is kept in one place, and broken in another, both of them new."""
    for wanted, where, environment in (("kept", place, {}), ("broken", other, patched(tmp_path / "mutant", *mutant))):
        with Child(ask, question, where, env=environment) as child:
            assert child.line() == wanted
            assert child.exit_code() == 0


@pytest.mark.backend("redis")
@pytest.mark.parametrize(
    ("question", "mutant"),
    [
        ("stale in redis", (LUA, "if newest and above(newest, ARGV[2]) then", "if false then")),
        ("stale in redis", (LUA, "if newest ~= ARGV[2] then", "if false then")),
        (
            "stale in redis",
            (
                LUA,
                "if #one ~= #other then\n    return #one > #other\n  end\n  return one > other",
                "return tonumber(one) > tonumber(other)",
            ),
        ),
        ("once in redis", ("fencing/lua/incrby.lua", "if known then", "if false then")),
    ],
    ids=["stale tokens", "nothing remembered", "numbers of Lua", "operations"],
)
def test_in_redis(redis_one: Redis[Any], question: str, mutant: Patch, tmp_path: Path) -> None:
    (member,) = redis_one.members
    one, other = (f"redis://{member.host}:{member.port}/{database}" for database in (0, 1))
    is_missed(question, one, other, tmp_path, mutant)


@pytest.mark.backend("etcd")
def test_in_etcd(etcd: Etcd[Any], tmp_path: Path) -> None:
    comparisons = (
        (
            ETCD,
            "compare = [rpc.Compare(key=key, target=MOD, result=EQUAL, mod_revision=seen.revision)]",
            "compare = []",
        ),
        (ETCD, "compare.append(rpc.Compare(key=key, target=VALUE, result=EQUAL, value=_digits(seen.token)))", "pass"),
    )
    is_missed("overtaken in etcd", etcd.url("one"), etcd.url("other"), tmp_path, *comparisons)


@pytest.mark.backend("zookeeper")
@pytest.mark.parametrize(
    ("question", "mutants"),
    [
        (
            "overtaken in zookeeper",
            (
                (ZOOKEEPER, "multi.check(node, seen.version)\n", "pass\n"),
                (ZOOKEEPER, 'multi.check(f"{node}/{token.value}", -1)\n', "pass\n"),
            ),
        ),
        ("made again in zookeeper", ((ZOOKEEPER, 'multi.check(f"{node}/{token.value}", -1)\n', "pass\n"),)),
    ],
    ids=["no check", "the version alone"],
)
def test_in_zookeeper(zookeeper: ZooKeeper[Any], question: str, mutants: tuple[Patch, ...], tmp_path: Path) -> None:
    hosts = ",".join(zookeeper.endpoints)
    zookeeper.clear()
    with Child(ask, question, hosts) as child:
        assert child.line() == "kept"
    zookeeper.clear()
    with Child(ask, question, hosts, env=patched(tmp_path / "mutant", *mutants)) as child:
        assert child.line() == "broken"


@pytest.mark.backend("file")
@pytest.mark.parametrize(
    ("question", "mutant"),
    [
        ("stale in a file", (FILE, "if newest is not None and token < newest:", "if False:")),
        ("alone in a file", (FILE, "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass")),
    ],
    ids=["stale tokens", "the lock"],
)
def test_beside_a_file(question: str, mutant: Patch, tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    is_missed(question, tmp_path / "one", tmp_path / "other", tmp_path, mutant)


@pytest.mark.backend("http")
@pytest.mark.parametrize(
    ("question", "mutant"),
    [
        ("stale in memory", ("fencing/memory.py", "if newest is not None and token < newest:", "if False:")),
        (
            "in turn by http",
            ("fencing/asgi.py", "if gate.inside and gate.newest is not None and token > gate.newest:", "if False:"),
        ),
    ],
    ids=["stale tokens", "one after the other"],
)
def test_by_http(question: str, mutant: Patch, tmp_path: Path) -> None:
    is_missed(question, "", "", tmp_path, mutant)
