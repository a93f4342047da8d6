"""A leader that writes in its critical section, on each store: by the fence, and around it.

The rule: it is one program. What it does without the fence is the control: a harness in which that goes well, too,
would show nothing.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordkit import FencingToken, LeaderElector, StaleToken
from coordkit.fencing import EtcdFence, FileFence, RedisFence, ZooKeeperFence
from coordkit.model import Fence
from tests.support.children import hear, say

PLAIN, GUARDED = "plain", "guarded"


@dataclass(frozen=True)
class Resource:
    """Where a leader writes. `fences`: what its elector shows the token to."""

    plain: Callable[[str], object]
    guarded: Callable[[str, FencingToken], object]
    fences: tuple[Fence, ...] = ()


def in_redis(place: str) -> Resource:
    import redis

    client = redis.Redis.from_url(place)
    fence = RedisFence(client)
    return Resource(lambda text: client.set(PLAIN, text), lambda text, token: fence.set(GUARDED, text, token), (fence,))


def in_etcd(place: str) -> Resource:
    fence = EtcdFence(f"etcd://{place}")

    def plain(text: str) -> None:
        connection = http.client.HTTPConnection(place.partition(",")[0], timeout=20)
        pair = {"key": PLAIN, "value": text}
        coded = {name: base64.b64encode(each.encode()).decode() for name, each in pair.items()}
        connection.request("POST", "/v3/kv/put", json.dumps(coded))
        assert connection.getresponse().status == 200
        connection.close()

    return Resource(plain, lambda text, token: fence.put(GUARDED, text, token), (fence,))


def in_zookeeper(place: str) -> Resource:
    from kazoo.client import KazooClient

    client: Any = KazooClient(place, timeout=60)  # whose session outlives the pause: it is no fence
    client.start(20)
    fence = ZooKeeperFence(client, timeout=20)
    return Resource(
        lambda text: client.set(f"/{PLAIN}", text.encode()),
        lambda text, token: fence.set(f"/{GUARDED}", text, token),
        (fence,),
    )


def in_a_file(place: str) -> Resource:
    folder = Path(place)
    fence = FileFence(folder / GUARDED)
    return Resource((folder / PLAIN).write_text, lambda text, token: fence.write(token, text), (fence,))


def by_http(place: str) -> Resource:
    """The service has the fence: whoever leads shows its token with each request, and a 412 is a refusal."""

    def put(path: str, text: str, headers: dict[str, str]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(place, timeout=20)
        connection.request("PUT", path, text, headers)
        answer = connection.getresponse()
        problem: dict[str, Any] = json.loads(answer.read() or b"{}")
        connection.close()
        return problem

    def guarded(text: str, token: FencingToken) -> None:
        problem = put(f"/{GUARDED}", text, token.headers())
        if problem.get("status") == 412:
            raise StaleToken(token, FencingToken.parse(problem["newest"]))
        assert not problem, problem

    return Resource(lambda text: put(f"/{PLAIN}", text, {}), guarded)


RESOURCES = {"redis": in_redis, "etcd": in_etcd, "zookeeper": in_zookeeper, "file": in_a_file, "http": by_http}


def leads(kind: str, place: str, url: str, ttl: str, name: str) -> None:
    """Leads, makes sure of it, and is told to write: first around the fence, then by it."""
    resource = RESOURCES[kind](place)
    elector = LeaderElector(url, "zombie", ttl=float(ttl), label=name, fences=resource.fences)
    term = elector.campaign(timeout=60)
    term.ensure()
    say("inside", int(term.token))
    hear()
    resource.plain(name)
    say("plain")
    try:
        resource.guarded(name, term.token)
    except StaleToken as stale:
        say("stale", int(stale.offered), int(stale.newest))
    else:
        say("written")
    hear()
    os._exit(0)
