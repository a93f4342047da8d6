"""Somebody else's hand in ZooKeeper: kazoo as it comes, for what an operator or a foreign program would do.

The rule: it is the tests' means to make a state, never to judge one; what is there is told by the servers themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kazoo.client import KazooClient
from kazoo.security import make_digest_acl_credential

from tests.servers.zookeeper import SUPER_PASSWORD, SUPER_USER, ZooKeeper

SECONDS = 10.0


@contextmanager
def hand(zookeeper: ZooKeeper[Any], *, super_user: bool = False) -> Iterator[Any]:
    """A client with a session of its own, closed with the block; as the super user, whom no access list keeps out."""
    login = {"auth_data": [("digest", f"{SUPER_USER}:{SUPER_PASSWORD}")]} if super_user else {}
    client = KazooClient(",".join(zookeeper.endpoints), timeout=SECONDS, **login)
    client.start(SECONDS)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def digest_of(user: str, password: str) -> str:
    """How an access list names a user of the scheme `digest`: user:hash."""
    return str(make_digest_acl_credential(user, password))
