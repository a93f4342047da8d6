"""`coordkit fence` on every store: it shows what the library's fences have admitted, and what it raises they obey.

The rule: it never lowers a fence unless it is told to by force.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis import Redis as Client

from coordkit import FencingToken, StaleToken
from coordkit.fencing import EtcdFence, FileFence, RedisFence, SQLFence, ZooKeeperFence
from coordkit.fencing.stored import Stored, stored
from tests.servers.etcd import Etcd
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper
from tests.support.commands import coordkit
from tests.support.failing import MARK, PASSWORD, nothing_revealed
from tests.support.sql import Store
from tests.support.zookeeper_hand import hand

__all__ = ["nothing_revealed"]

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("nothing_revealed")]

QUOTED = quote(PASSWORD, safe="")
Admit = Callable[[FencingToken], None]


def token(value: int, election: str = "reports/nightly") -> FencingToken:
    return FencingToken(election, value)


def fence(*arguments: str) -> tuple[int, str, str]:
    """The command's exit code, and what it has said."""
    done = coordkit("memory://unused", "fence", *arguments)
    return done.returncode, done.stdout, done.stderr


def shown_raised_and_lowered(url: str, admit: Admit, *place: str) -> None:
    """The whole of what an operator does, beside a writer who uses the library."""
    code, out, err = fence("show", url, "reports/nightly", *place)
    assert (code, out) == (1, "")
    assert "no token" in err
    admit(token(2**62))
    assert fence("show", url, "reports/nightly", *place) == (0, f"reports/nightly={2**62}\n", "")
    code, out, _ = fence("show", url, "reports/nightly", "--json", *place)
    assert json.loads(out) == {"election": "reports/nightly", "token": 2**62}

    code, out, err = fence("raise", url, "reports/nightly", "--to", str(2**62 + 7), *place)
    assert (code, err) == (0, "")
    assert out == f"reports/nightly={2**62 + 7} (before: {2**62})\n"
    with pytest.raises(StaleToken):
        admit(token(2**62 + 6))
    admit(token(2**62 + 7))

    code, out, err = fence("raise", url, "reports/nightly", "--to", "5", *place)
    assert (code, out) == (1, "")
    assert "--force" in err
    with pytest.raises(StaleToken):
        admit(token(5))

    code, out, err = fence("raise", url, "reports/nightly", "--to", "5", "--force", *place)
    assert (code, out) == (0, f"reports/nightly=5 (before: {2**62 + 7})\n")
    assert "lowered" in err
    admit(token(5))
    with pytest.raises(StaleToken):
        admit(token(4))


@pytest.mark.backend("redis")
@pytest.mark.parametrize("place", [(), ("--at", "{reports}:fence")])
def test_in_redis(redis_one: Redis[Any], place: tuple[str, ...]) -> None:
    member = redis_one.members[0]
    with Client(host=member.host, port=member.port) as client:
        made = RedisFence(client, key=place[1]) if place else RedisFence(client)
        shown_raised_and_lowered(f"redis://{member.host}:{member.port}/0", made.admit, *place)


@pytest.mark.backend("etcd")
def test_in_etcd(etcd: Etcd[Any]) -> None:
    with EtcdFence(etcd.url()) as made:
        shown_raised_and_lowered(etcd.url(), made.admit)


@pytest.mark.backend("zookeeper")
@pytest.mark.parametrize("place", [(), ("--at", "/fences/reports")])
def test_in_zookeeper(zookeeper: ZooKeeper[Any], place: tuple[str, ...]) -> None:
    with hand(zookeeper) as client:
        made = ZooKeeperFence(client, path=place[1]) if place else ZooKeeperFence(client)
        shown_raised_and_lowered(zookeeper.url(), made.admit, *place)


@pytest.mark.backend("file")
def test_beside_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state of today.json"
    shown_raised_and_lowered(f"file://{quote(str(path))}", FileFence(path).admit)


def test_in_a_database(sql_store: Store) -> None:
    engine = sql_store.connect()
    url = engine.url.render_as_string(hide_password=False)
    shown_raised_and_lowered(url, SQLFence().bind(engine).admit)
    code, _, err = fence("show", url, "reports/nightly", "--at", "no_such_table")
    assert code == 78
    assert "is missing" in err


# -- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.backend("sqlite")
@pytest.mark.parametrize(
    ("url", "code", "word"),
    [
        ("reports", 2, "a fence is at a URL"),
        ("gopher://h/x", 2, "a fence is at a URL"),
        ("sqlite:///no/such/file.db", 2, "four slashes"),
        ("sqlite+aiosqlite:///no/such/file.db", 2, "four slashes"),
        ("file://elsewhere/x", 2, "file:///path"),
        ("file:///", 2, "path"),
        ("file://[x", 2, "file:///path"),
        ("redis://h/0?no_such_option=1", 2, "no URL of redis-py"),
        ("file:///no/such/folder/x", 78, "does not exist"),
        (f"redis://u:{QUOTED}@127.0.0.1:1/0", 69, "ConnectionError"),
        (f"redis+quorum://u:{QUOTED}@a,b,c", 2, "a fence is at a URL"),
        (f"zookeeper://u:{QUOTED}@127.0.0.1:1/", 69, "no connection"),
        (f"etcd://u:{QUOTED}@127.0.0.1:1/", 69, "127.0.0.1:1"),
        (f"postgresql+psycopg://u:{QUOTED}@127.0.0.1:1/x", 69, "no connection"),
        (f"postgresql+asyncpg://u:{QUOTED}@127.0.0.1:1/x", 2, "asyncio"),
        (f"mysql+pymysql://u:{QUOTED}@127.0.0.1:1/x", 69, "connect"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(url: str, code: int, word: str) -> None:
    for command in (("show",), ("raise", "--to", "7")):
        got, out, err = fence(command[0], url, "e", *command[1:], "--timeout", "2")
        assert (got, out) == (code, ""), err
        assert word in err
        assert err.count("\n") == 1, err
        assert PASSWORD not in err
        assert QUOTED not in err


@pytest.mark.backend("sqlite")
def test_options_that_a_driver_does_not_know_are_a_mistake(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "x.db").close()
    for url in (f"sqlite:///{tmp_path}/x.db?no_such=1", "mysql+pymysql://127.0.0.1:1/x?no_such=1"):
        code, out, err = fence("show", url, "e")
        assert (code, out) == (2, ""), err
        assert "does not take" in err
        assert err.count("\n") == 1, err


@pytest.mark.backend("sqlite")
@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "mysql+pymysql", "redis", "zookeeper", "etcd"])
@pytest.mark.parametrize("password", [f"half@{MARK}", f"p@{MARK}/rest", f"p@1/{MARK}"])
def test_the_end_of_a_password_is_not_taken_for_a_host(scheme: str, password: str) -> None:
    code, out, err = fence("show", f"{scheme}://u:{password}@127.0.0.1:1/x", "e")
    if scheme in ("redis", "zookeeper", "etcd") and "/" not in password:  # they go by the last '@'
        assert code == 69, err
        assert MARK not in err
        return
    assert (code, out) == (2, ""), err
    assert "%40" in err or "percent-encode" in err
    assert MARK not in err


@pytest.mark.backend("file")
def test_showing_what_is_not_there_leaves_nothing_there(tmp_path: Path) -> None:
    assert fence("show", f"file://{tmp_path}/typo", "e")[0] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.backend("sqlite")
@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "file:///tmp/x", "a//b"),
        ("show", "file:///tmp/x", "e", "--at", "elsewhere"),
        ("show", "file:///tmp/x", "e", "--timeout", "0"),
        ("raise", "file:///tmp/x", "e"),
        ("raise", "file:///tmp/x", "e", "--to", "0"),
        ("raise", "file:///tmp/x", "e", "--to", str(2**63)),
        ("raise", "file:///tmp/x", "e", "--to", "seven"),
        ("lower", "file:///tmp/x", "e"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    code, out, err = fence(*arguments)
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1


@pytest.mark.backend("redis")
def test_what_is_no_fence_in_redis_is_told(redis_one: Redis[Any]) -> None:
    redis_one.hand(redis_one.members[0]).set("coordkit:fence", "mine")
    member = redis_one.members[0]
    for command in (("show",), ("raise", "--to", "7")):
        code, out, err = fence(command[0], f"redis://{member.host}:{member.port}", "e", *command[1:])
        assert (code, out) == (78, ""), err
    assert redis_one.hand(member).get("coordkit:fence") == "mine"


@pytest.mark.backend("file")
def test_what_nobody_can_read_is_written_over_by_force_alone(tmp_path: Path) -> None:
    (tmp_path / "x.fence").write_text("nonsense")
    url = f"file://{tmp_path}/x"
    assert fence("raise", url, "e", "--to", "7")[0] == 78
    code, out, _ = fence("raise", url, "e", "--to", "7", "--force")
    assert (code, out) == (0, "e=7 (before: unreadable)\n")
    assert fence("show", url, "e")[1] == "e=7\n"


@contextmanager
def other_election(tmp_path: Path) -> Iterator[Stored]:
    FileFence(tmp_path / "x").admit(token(7, "other"))
    with stored(f"file://{tmp_path}/x") as found:
        yield found


@pytest.mark.backend("sqlite")
def test_a_file_of_another_election_is_a_mistake(tmp_path: Path) -> None:
    with other_election(tmp_path):
        code, _, err = fence("show", f"file://{tmp_path}/x", "e")
    assert code == 2
    assert "other" in err
