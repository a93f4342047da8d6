"""Bugs of the field that are tied to ZooKeeper, on a real ensemble; and what kazoo's own lock does there.

The rule: as in `test_field_bugs_everywhere.py`. That a node is there, or gone, is asked of the servers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.protocol.states import KeeperState

from coordkit import LeaderElector, Term
from coordkit.backends.zookeeper.layout import Place
from coordkit.testing.contract import Running, eventually
from tests.integration import field_scenes as scenes
from tests.integration.field_scenes import ELECTION, SOON
from tests.servers.proxy import Proxy
from tests.servers.zookeeper import ZooKeeper
from tests.servers.zookeeper_wire import Node
from tests.support.children import Child
from tests.support.patched import Patch, patched

pytestmark = [pytest.mark.backend("zookeeper"), pytest.mark.timeout(60)]

TTL = 4.0  # of sessions that are to expire
STANDING = 6.0  # of one whose node is to be seen after it
LONG = 8.0  # of others
ADAPTER = "backends/zookeeper/adapter.py"
DELETE = 2  # the opcode


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Stranger:
    """On the way of one client: `estranged`, the servers do not know the session that it comes back with.

    So they tell it that it has expired, as they do after a long outage; but its nodes stand until it really has.
    """

    def __init__(self) -> None:
        self.estranged = False

    def __call__(self, said: bytes) -> bytes | None:
        """The greeting of a client: length, version, zxid, timeout, session, length of the password, password."""
        if len(said) < 4 or len(said) < 4 + int.from_bytes(said[:4], "big"):
            return None
        session, password = slice(20, 28), slice(32, 48)
        if not self.estranged or not any(said[session]):
            return said
        return said[: password.start] + bytes(each ^ 0xFF for each in said[password]) + said[password.stop :]


class Ways:
    """Proxies before all servers, by which one client comes."""

    def __init__(self, zookeeper: ZooKeeper[Any], stack: ExitStack) -> None:
        self.stranger = Stranger()
        self.proxies = [
            stack.enter_context(Proxy(member.host, member.port, opening=self.stranger)) for member in zookeeper.members
        ]
        self.url = f"zookeeper://{','.join(f'{proxy.host}:{proxy.port}' for proxy in self.proxies)}"

    def each(self, act: Callable[[Proxy], None]) -> None:
        for proxy in self.proxies:
            act(proxy)


def nodes(zookeeper: ZooKeeper[Any], parent: str = Place("", ELECTION).path) -> list[Node]:
    """The nodes of the candidates, in the order of election."""
    return sorted((node for node in zookeeper.nodes(parent) if node.path != parent), key=lambda node: node.czxid)


def stands(zookeeper: ZooKeeper[Any], node: Node) -> bool:
    return node.path in [each.path for each in nodes(zookeeper)]


def waits(zookeeper: ZooKeeper[Any], stack: ExitStack, place: int) -> Running[Term]:
    """A candidate of this process with a session of its own, in that place of the queue."""
    members = zookeeper.members
    url = zookeeper.url(members=[*members[place % 3 :], *members[: place % 3]])
    campaign = Running(stack.enter_context(closing(LeaderElector(url, ELECTION, ttl=LONG))).campaign)
    eventually(lambda: len(nodes(zookeeper)) == place, f"it is in place {place}", SOON)
    return campaign


# -- curator #1137 -----------------------------------------------------------------------------------------------------


def led_by_an_old_node(zookeeper: ZooKeeper[Any], stack: ExitStack, env: Mapping[str, str]) -> bool:
    """Whether a candidate that has come back in a new session led by the node of its old one."""
    first = waits(zookeeper, stack, 1).result(SOON)
    ways = Ways(zookeeper, stack)
    child = stack.enter_context(Child(scenes.contends, ways.url, TTL, env=env))
    eventually(lambda: len(nodes(zookeeper)) == 2, "it waits", SOON)
    old = nodes(zookeeper)[1]
    campaign = waits(zookeeper, stack, 3)
    ways.each(Proxy.cut)
    first.resign()
    ways.stranger.estranged = True
    ways.each(Proxy.reset)
    ways.each(Proxy.heal)
    eventually(lambda: not child.quiet() or len(nodes(zookeeper)) >= 3, "it is back, with another node", SOON)
    leads = not child.quiet()
    after = campaign.result(SOON)  # as soon as the servers have ended the old session
    assert not stands(zookeeper, old)
    leads = leads or not child.quiet()
    after.confirm()
    after.resign()
    if leads:
        return True
    assert int(child.expect("leads")) > int(after.token)
    child.tell()
    child.expect("resigned")
    return False


def test_curator_1137_no_leader_by_a_node_of_the_session_before(zookeeper: ZooKeeper[Any], stack: ExitStack) -> None:
    """There a latch that was reconnected judged by the path of the node that it had had before: that node, of a session
    which the servers were about to end, stood in first place, and with its end another led as well. Here a node counts
    only if it belongs to the living session, and a new session is a new candidacy. (curator #1137, CURATOR-620)
    """
    assert not led_by_an_old_node(zookeeper, stack, {})


def test_curator_1137_comes_back_where_any_node_of_ours_counts(
    zookeeper: ZooKeeper[Any], stack: ExitStack, tmp_path: Path
) -> None:
    """A mutant that keeps its node in another session."""
    mutants: tuple[Patch, ...] = (
        (ADAPTER, "if self._session is not session:", "if self._session is None:"),
        (ADAPTER, "if stat.ephemeralOwner != session.number:", "if stat.ephemeralOwner == 0:"),
    )
    assert led_by_an_old_node(zookeeper, stack, patched(tmp_path / "mutant", *mutants))


# -- curator #1211 -----------------------------------------------------------------------------------------------------


def told_in_time(zookeeper: ZooKeeper[Any], stack: ExitStack, env: Mapping[str, str]) -> bool:
    """Whether a leader that has come back in a new session gave up although its old node still stood."""
    ways = Ways(zookeeper, stack)
    child = stack.enter_context(Child(scenes.serves, ways.url, STANDING, env=env))
    token = int(child.expect("leads"))
    (old,) = nodes(zookeeper)
    assert token == old.czxid
    campaign = waits(zookeeper, stack, 2)
    ways.stranger.estranged = True
    ways.each(Proxy.reset)
    reason = child.expect("lost", SOON)
    stood = stands(zookeeper, old)
    after = campaign.result(SOON)
    assert child.quiet(), "nobody leads beside it"
    after.confirm()
    after.resign()
    assert int(child.expect("leads")) > int(after.token) > token
    return reason == "revoked" and stood


def test_curator_1211_a_leader_that_is_reconnected_does_not_trust_its_old_node(
    zookeeper: ZooKeeper[Any], stack: ExitStack
) -> None:
    """There a leader that was reconnected after its session had expired found its node, and led on; then the servers
    removed that node, which nobody watched, and another led too. Here a term ends with its session, at once and for
    good, and the node that is left is waited for like anybody's. (curator #1211, CURATOR-696)
    """
    assert told_in_time(zookeeper, stack, {})


def test_curator_1211_comes_back_where_a_term_outlives_its_session(
    zookeeper: ZooKeeper[Any], stack: ExitStack, tmp_path: Path
) -> None:
    """A mutant that renews a term by whatever session there is, as long as the node stands."""
    mutants: tuple[Patch, ...] = (
        (ADAPTER, "return _ENDED if self._session.over else None", "return None"),
        (
            ADAPTER,
            """
        path, session = self._path(), self._session
        assert session is not None
        if beat is not None and beat.session is not session:
            return _ENDED
""",
            """
        path, session = self._path(), self._session if beat is None else beat.session
        assert session is not None
""",
        ),
    )
    assert not told_in_time(zookeeper, stack, patched(tmp_path / "mutant", *mutants))


# -- kazoo #732 --------------------------------------------------------------------------------------------------------


def deletion_of(node: Node) -> bytes:
    """Bytes of a request to delete this node, or one beside it whose name is as long."""
    parent, _, _ = node.path.rpartition("/")
    return struct.pack(">ii", DELETE, len(node.path)) + f"{parent}/".encode()


def lost(ways: Ways) -> None:
    """Wait until the request that was to be lost is; no further one shall be."""
    eventually(lambda: any(was_asked(proxy) for proxy in ways.proxies), "the deletion was asked for", SOON)
    ways.each(Proxy.heal)


def was_asked(proxy: Proxy) -> bool:
    try:
        proxy.wait_for_request(0.0)
    except TimeoutError:
        return False
    return True


def orphaned(zookeeper: ZooKeeper[Any], stack: ExitStack, env: Mapping[str, str], patience: float) -> bool:
    """Whether a try that was in vain left a node to which others yield, where the request to delete it was lost."""
    term = waits(zookeeper, stack, 1).result(SOON)
    (own,) = nodes(zookeeper)
    ways = Ways(zookeeper, stack)
    child = stack.enter_context(Child(scenes.tries, ways.url, LONG, env=env))
    child.expect("open")
    ways.each(lambda proxy: proxy.lose_request(deletion_of(own)))
    child.tell()
    assert child.expect("tried") == "False"
    lost(ways)
    with suppress(pytest.fail.Exception):  # what is left is asked for below
        eventually(lambda: len(nodes(zookeeper)) == 1, "its node is removed", patience)
    term.resign()
    third = stack.enter_context(closing(LeaderElector(zookeeper.url(), ELECTION, ttl=LONG))).try_campaign()
    if third is not None:
        third.resign()
    return third is None


def test_kazoo_732_no_contender_is_left_by_a_vain_try(zookeeper: ZooKeeper[Any], stack: ExitStack) -> None:
    """There a try that did not wait deleted its node again, once: where the connection was lost just then, the failure
    was swallowed and the node stayed with the session, so that in time it held a lock that nobody had. Here whatever a
    candidate has, or may have, in the store is removed until it is gone. (kazoo #732)
    """
    assert not orphaned(zookeeper, stack, {}, SOON)


def test_kazoo_732_comes_back_where_a_removal_is_tried_once(
    zookeeper: ZooKeeper[Any], stack: ExitStack, tmp_path: Path
) -> None:
    """A mutant that removes what it has left with one try."""
    once = (
        "session.py",
        "retry=tenacity.retry_if_exception_type((Unavailable, OutcomeUnknown)),",
        "retry=tenacity.retry_never,",
    )
    assert orphaned(zookeeper, stack, patched(tmp_path / "mutant", once), TTL / 2)


def test_kazoo_732_is_what_the_lock_of_kazoo_does(zookeeper: ZooKeeper[Any], stack: ExitStack) -> None:
    """The control, on the same schedule: in the end nobody has the lock, and nobody gets it."""

    def client(hosts: str) -> Any:
        made = KazooClient(hosts=hosts, timeout=LONG)
        stack.callback(made.close)
        stack.callback(made.stop)
        made.start(SOON)
        return made

    path = "/peer"
    ways = Ways(zookeeper, stack)
    holder, vain = client(",".join(zookeeper.endpoints)), client(ways.url.partition("://")[2])
    held = holder.Lock(path)
    assert held.acquire()
    (own,) = nodes(zookeeper, path)
    session = vain.client_id
    ways.each(lambda proxy: proxy.lose_request(deletion_of(own)))
    assert not vain.Lock(path).acquire(blocking=False)
    lost(ways)
    eventually(lambda: vain.client_state == KeeperState.CONNECTED, "it is connected again", SOON)
    assert vain.client_id == session, "and its session lives on"
    held.release()
    assert len(nodes(zookeeper, path)) == 1
    assert not holder.Lock(path).acquire(blocking=False)
