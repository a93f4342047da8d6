"""The zombie: a leader that is stopped in its critical section, after it has made sure and before it writes.

The rule: the same program writes once around the fence and once by it. Around it the stale write must succeed in the
same run, or the test has shown nothing.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordkit.fencing import FenceMiddleware, MemoryFence
from tests.integration.fence_zombie_scenes import GUARDED, PLAIN, leads
from tests.servers.etcd import Etcd
from tests.servers.redis import HARNESS, HARNESS_PASSWORD, Redis
from tests.servers.zookeeper import ZooKeeper
from tests.support.children import Child, stopped
from tests.support.http_service import served
from tests.support.zookeeper_hand import hand

pytestmark = [pytest.mark.once, pytest.mark.timeout(110)]

TTL = 2.0
Read = Callable[[str], str]


def the_zombie_is_refused(kind: str, place: object, url: str, read: Read, ttl: float = TTL) -> None:
    """One run; `read`: what the resource holds, asked around the fence."""
    with Child(leads, kind, place, url, ttl, "zombie") as zombie, Child(leads, kind, place, url, ttl, "other") as other:
        first, second = (zombie, other), (other, zombie)
        token = _inside(zombie, other)
        leader, successor = first if token[0] == "zombie" else second
        leader.send(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while not stopped(leader.pid):
            assert time.monotonic() < deadline
        newer = int(successor.expect("inside", 60))
        assert newer > token[1]
        name = {zombie: "zombie", other: "other"}
        successor.tell()
        successor.expect("plain")
        successor.expect("written")
        assert (read(PLAIN), read(GUARDED)) == (name[successor], name[successor])

        leader.send(signal.SIGCONT)
        leader.tell()
        leader.expect("plain")
        assert leader.expect("stale").split() == [str(token[1]), str(newer)]
        assert read(PLAIN) == name[leader], "without the fence the stale write was not there either: nothing is shown"
        assert read(GUARDED) == name[successor]


def _inside(zombie: Child, other: Child) -> tuple[str, int]:
    """Who leads first, and under which token."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for name, child in (("zombie", zombie), ("other", other)):
            if not child.quiet():
                return name, int(child.expect("inside"))
        time.sleep(0.01)  # two pipes, and nothing that waits for both
    raise AssertionError(f"nobody leads: {zombie.errors}{other.errors}")


@pytest.mark.backend("redis")
def test_in_redis(redis_one: Redis[Any]) -> None:
    (member,) = redis_one.members
    place = f"redis://{HARNESS}:{HARNESS_PASSWORD}@{member.host}:{member.port}/0"
    client = redis_one.hand(member)
    url = redis_one.url(max_ttl=str(TTL))
    the_zombie_is_refused("redis", place, url, lambda key: str(client.get(key)))


@pytest.mark.backend("etcd")
def test_in_etcd(etcd: Etcd[Any]) -> None:
    def read(key: str) -> str:
        return etcd.ctl("get", key, "--print-value-only").strip()

    the_zombie_is_refused("etcd", ",".join(etcd.endpoints), etcd.url(), read)


@pytest.mark.backend("zookeeper")
def test_in_zookeeper(zookeeper: ZooKeeper[Any]) -> None:
    with hand(zookeeper) as client:
        client.create(f"/{PLAIN}")
        client.create(f"/{GUARDED}")

        def read(name: str) -> str:
            client.sync("/")
            return str(client.get(f"/{name}")[0].decode())

        the_zombie_is_refused("zookeeper", ",".join(zookeeper.endpoints), zookeeper.url(), read, 4.0)


@pytest.mark.backend("file")
def test_in_a_file(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/election.db"
    the_zombie_is_refused("file", tmp_path, url, lambda name: (tmp_path / name).read_text())


@pytest.mark.backend("http")
def test_by_http(tmp_path: Path) -> None:
    written: dict[str, str] = {}

    async def service(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        written[scope["path"]] = body.decode()
        content = json.dumps({}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": content})

    guarded = FenceMiddleware(service, MemoryFence(), election="zombie")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (guarded if scope["path"] == f"/{GUARDED}" else service)(scope, receive, send)

    with served(app) as (host, port):
        url = f"sqlite://{tmp_path}/election.db"
        the_zombie_is_refused("http", f"{host}:{port}", url, lambda name: written[f"/{name}"])
