"""ZooKeeper in trouble: no majority, no chroot, nobody there, somebody else there, nodes of others, too much to store.

The rule: each trouble has its error, in time, and a held term goes on rightly or ends by its own clock.
"""

from __future__ import annotations

import itertools
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from coordkit import (
    BackendError,
    CampaignTimeout,
    ConfigError,
    CoordkitError,
    LeaderElector,
    LossReason,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    Session,
    TermState,
    Unavailable,
)
from coordkit.backends.zookeeper.layout import Place
from coordkit.testing.contract import Running, eventually
from tests.integration import exit_scenes
from tests.integration import zookeeper_trouble_scenes as scenes
from tests.servers.proxy import Proxy
from tests.servers.zookeeper import ZooKeeper, ZooKeeperCluster
from tests.support import impostors
from tests.support.children import Child, took
from tests.support.commands import COMMANDS, OBSERVE, coordkit, environment
from tests.support.failing import MARK, PASSWORD, fails, nothing_revealed
from tests.support.forks import FORKS
from tests.support.impostors import Impostor
from tests.support.together import together
from tests.support.zookeeper_hand import hand

__all__ = ["nothing_revealed"]

pytestmark = [
    pytest.mark.backend("zookeeper"),
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("nothing_revealed"),
]
local = pytest.mark.local_cluster

AT_ONCE = 2.5  # s: on a busy machine
TTL = 3.0
LONG = 30.0  # s: no test waits for such a lease
# A session that is left alone: the servers end it by its timeout, once in a tick.
TAKEOVER = 1.1 * TTL + AT_ONCE
GUID = "_c_00000000-0000-4000-a000-00000000000{}-latch-"
LOGIN = f"somebody:{quote(PASSWORD, safe='')}@"  # to be kept quiet, even where nobody asks for it


def opened(url: str, timeout: float = 5.0) -> None:
    session = Session(url)
    try:
        session.open(timeout=timeout)
    finally:
        session.close()


@contextmanager
def elector_of(url: str, election: str = "x", ttl: float = TTL, **more: Any) -> Iterator[LeaderElector]:
    elector = LeaderElector(url, election, ttl=ttl, **more)
    try:
        yield elector
    finally:
        elector.close()


def apart(zookeeper: ZooKeeper[Any], chroot: str, number: int) -> str:
    """One of three URLs of the same place, so that electors of this process have sessions of their own."""
    members = zookeeper.members
    return zookeeper.url(chroot, members=[*members[number:], *members[:number]])


def nodes_of(zookeeper: ZooKeeper[Any], chroot: str, election: str = "x") -> list[str]:
    """The names under an election, in the order in which they were made."""
    parent = Place(chroot, election).path
    return [node.path.rpartition("/")[2] for node in zookeeper.nodes(parent) if node.path != parent]


def queued(elector: LeaderElector, number: int) -> None:
    eventually(lambda: len(elector.candidates()) == number, f"{number} in the queue")


@pytest.fixture
def chroot(zookeeper: ZooKeeper[Any]) -> str:
    zookeeper.put("/p")
    return "/p"


ASKING: dict[str, Callable[[LeaderElector], Any]] = {
    "leader": lambda elector: elector.leader(),
    "candidates": lambda elector: elector.candidates(),
    "campaign": lambda elector: elector.campaign(),
    "try_campaign": lambda elector: elector.try_campaign(),
    "observe": lambda elector: next(iter(elector.observe())),
}


# -- no majority ---------------------------------------------------------------------------------------------------


def test_without_a_majority_nobody_leads_until_it_is_back(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    ttl = TTL
    with (
        elector_of(apart(zookeeper, chroot, 0), ttl=ttl) as old,
        elector_of(apart(zookeeper, chroot, 1), ttl=ttl) as new,
        elector_of(apart(zookeeper, chroot, 2), ttl=ttl) as newcomer,
    ):
        term = old.campaign()
        follower = Running(new.campaign)
        queued(old, 2)
        for member in (zookeeper.leader(), zookeeper.followers()[0]):
            member.kill()
        killed = time.monotonic()
        assert term.remaining() <= ttl
        assert term.wait_ended(ttl + AT_ONCE)
        assert (term.state, term.reason) == (TermState.LOST, LossReason.EXPIRED)
        late = Running(newcomer.campaign)
        for read in (new.leader, new.candidates, newcomer.leader):
            with fails(Unavailable, within=0.5 + AT_ONCE):
                read(timeout=0.5)
        with fails(CampaignTimeout, within=2 * ttl + AT_ONCE) as ended:
            old.try_campaign()
        assert isinstance(ended.value.__cause__, (Unavailable, OutcomeUnknown))
        assert time.monotonic() - killed > 2 * ttl  # by now the next one would lead on healthy members
        assert not follower.done
        assert not late.done
        zookeeper.heal()
        healed = time.monotonic()
        eventually(lambda: follower.done or late.done, "somebody leads", 2 * TAKEOVER)
        # The follower keeps its place if it is back within the ttl. Else the servers end its session; it queues anew.
        first, second = (follower, late) if follower.done else (late, follower)
        after = first.result(AT_ONCE)
        who = "the follower" if first is follower else "the newcomer"
        print(f"{who} led {time.monotonic() - healed:.2f} s after the members were ready")
        assert after.token > term.token
        after.confirm()
        assert not second.done
        after.resign()
        last = second.result(TAKEOVER)
        assert last.token > after.token
        last.resign()


# -- the chroot, and the election's own node -----------------------------------------------------------------------


def delete_at_once(zookeeper: ZooKeeper[Any], path: str) -> None:
    """This node and all under it, in one transaction: nobody sees a part of them gone."""
    with hand(zookeeper, super_user=True) as operator:
        transaction = operator.transaction()
        for node in reversed(zookeeper.nodes(path)):
            transaction.delete(node.path)
        results = transaction.commit()
        assert all(result is True for result in results), results


def test_a_chroot_that_is_not_there_is_misconfigured_and_named(zookeeper: ZooKeeper[Any]) -> None:
    zookeeper.put("/a")
    url = zookeeper.url("a/b c")
    with fails(Misconfigured, "'/a/b c'", within=AT_ONCE):
        opened(url)
    with elector_of(url) as elector:
        for ask in ASKING.values():
            with fails(Misconfigured, "'/a/b c'", within=AT_ONCE):
                ask(elector)
        assert [node.path for node in zookeeper.nodes()] == ["/a"]
        zookeeper.put("/a/b c")
        with took(most=AT_ONCE), elector.lead(timeout=5.0) as term:
            term.confirm()


def test_a_chroot_that_is_deleted_under_a_leader_and_a_waiting_candidate(
    zookeeper: ZooKeeper[Any], chroot: str
) -> None:
    with (
        elector_of(apart(zookeeper, chroot, 0), ttl=LONG) as leader,
        elector_of(apart(zookeeper, chroot, 1), ttl=LONG) as follower,
    ):
        term = leader.campaign()
        waiting = Running(follower.campaign)
        queued(leader, 2)
        states = iter(leader.observe())
        assert next(states) is not None
        delete_at_once(zookeeper, chroot)
        with took(most=AT_ONCE):
            assert term.wait_ended(AT_ONCE)
            with fails(Misconfigured, f"'{chroot}'", within=AT_ONCE):
                waiting.result(AT_ONCE)
        assert term.reason is LossReason.REVOKED
        assert Running(lambda: next(states)).result(AT_ONCE) is None
        for ask in (leader.campaign, follower.campaign, follower.try_campaign):
            with fails(Misconfigured, f"'{chroot}'", within=AT_ONCE):
                ask()
        zookeeper.put(chroot)
        for elector in (leader, follower):
            with took(most=AT_ONCE), elector.lead(timeout=5.0) as after:
                assert after.token > term.token


def test_an_election_that_is_deleted_begins_anew(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    with (
        elector_of(apart(zookeeper, chroot, 0), ttl=LONG) as first,
        elector_of(apart(zookeeper, chroot, 1), ttl=LONG) as second,
        elector_of(apart(zookeeper, chroot, 2), ttl=LONG) as third,
    ):
        term = first.campaign()
        waiting = [Running(second.campaign)]
        queued(first, 2)
        waiting.append(Running(third.campaign))
        queued(first, 3)
        delete_at_once(zookeeper, Place(chroot, "x").path)
        assert term.wait_ended(AT_ONCE)
        assert term.reason is LossReason.REVOKED
        eventually(lambda: any(each.done for each in waiting), "one of them leads", AT_ONCE)
        queued(first, 2)
        assert not all(each.done for each in waiting)
        winner, other = sorted(waiting, key=lambda each: not each.done)
        after = winner.result(0.1)
        after.confirm()
        assert after.token > term.token
        after.resign()
        last = other.result(AT_ONCE)
        assert last.token > after.token
        last.resign()


def test_an_empty_election_that_is_deleted_begins_anew_under_an_observer(
    zookeeper: ZooKeeper[Any], chroot: str
) -> None:
    with elector_of(zookeeper.url(chroot), ttl=LONG) as elector:
        states = iter(elector.observe())
        assert next(states) is None
        for _ in range(2):
            with elector.lead(timeout=5.0) as term:
                seen = Running(lambda: next(states)).result(AT_ONCE)
                assert seen is not None
                assert seen.token == term.token
            assert Running(lambda: next(states)).result(AT_ONCE) is None
            zookeeper.delete(Place(chroot, "x").path)
        assert elector.leader() is None
        assert elector.candidates() == ()


def test_an_election_under_an_ephemeral_node_is_misconfigured(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    with hand(zookeeper) as foreign:
        foreign.create(Place(chroot, "x").path, ephemeral=True)
        with elector_of(zookeeper.url(chroot)) as elector:
            for ask in (elector.campaign, elector.try_campaign):
                with fails(Misconfigured, "ephemeral", within=AT_ONCE):
                    ask()
            assert elector.leader() is None


# -- servers that do not serve -------------------------------------------------------------------------------------


def greets(connection: socket.socket) -> None:
    """Says something of the length and shape of ZooKeeper's greeting, and no more."""
    connection.recv(1000)
    connection.sendall(struct.pack("!i", 37) + b"\x01" * 37)


def line_of_text(connection: socket.socket) -> None:
    """A line of text that does not end."""
    connection.recv(1000)
    connection.sendall(b'{"errorCode":100')


# What is there, and what a program that asks it is to be told.
NOT_THERE: dict[str, tuple[Callable[[], AbstractContextManager[Any]], tuple[type[CoordkitError], ...]]] = {
    "nobody": (impostors.nobody, (Unavailable,)),
    "black hole": (impostors.black_hole, (Unavailable,)),
    "no such name": (lambda: nullcontext(f"{impostors.UNKNOWN_NAME}:2181"), (Unavailable,)),
    "silent": (lambda: Impostor(impostors.silent), (Unavailable,)),
    "closes": (lambda: Impostor(impostors.closes), (Unavailable,)),
    "http": (lambda: Impostor(impostors.http), (Misconfigured,)),
    "garbage": (lambda: Impostor(impostors.garbage), (Misconfigured,)),
    "text": (lambda: Impostor(line_of_text), (Misconfigured,)),
    "greets": (lambda: Impostor(greets), (Misconfigured, Unavailable)),
}


UNSEEN = ("black hole", "silent", "greets")  # in a second nothing has happened there that could be told


@dataclass(frozen=True)
class Told:
    """What a scene said of one call."""

    seconds: float
    kind: str
    cause: str
    message: str


def told(child: Child, name: str) -> Told:
    seconds, kind, cause, message = (*child.expect(name).split(" ", 3), "")[:4]
    return Told(float(seconds), kind, cause, message)


def asked_in_vain(name: str) -> None:
    """A program asks for everything at an address where there is no ZooKeeper, and ends while it still tries."""
    where, expected = NOT_THERE[name]
    kinds = {kind.__name__ for kind in expected}
    with where() as entered:
        host = entered.host if isinstance(entered, Impostor) else str(entered)
        with Child(scenes.asks, f"zookeeper://{LOGIN}{host}/p") as child:
            opening = told(child, "open")
            assert opening.kind in kinds
            assert opening.seconds < 5.0 + 1.0
            if name != "greets":  # which is found out later, when it does not answer
                assert host in opening.message
            assert told(child, "close").seconds < AT_ONCE
            for reading in ("leader", "candidates"):  # in a second it may not be seen yet what it is
                read = told(child, reading)
                assert read.kind in kinds | {"Unavailable"}
                assert read.seconds < 1.0 + 1.0
            campaign = told(child, "campaign")
            assert campaign.kind in kinds - {"Unavailable"} | {"CampaignTimeout"}
            assert campaign.cause in kinds | {"Unavailable"} | ({"TimeoutError"} if name in UNSEEN else set())
            assert campaign.seconds < 1.0 + 1.0
            trying = told(child, "try_campaign")
            assert trying.kind in kinds - {"Unavailable"} | {"CampaignTimeout"}
            assert trying.cause in kinds | {"Unavailable"}
            assert trying.seconds < 2 * scenes.TTL + 1.5
            assert told(child, "close").seconds < AT_ONCE
            child.expect("over")
            with took(most=AT_ONCE):
                assert child.exit_code() == 0
            assert MARK not in child.errors
            assert [line for line in child.errors.splitlines() if not line.startswith("campaigning in ")] == []


def test_what_is_no_server_of_zookeeper_is_told_in_time() -> None:
    together({name: partial(asked_in_vain, name) for name in NOT_THERE})


@pytest.fixture(params=[impostors.nobody, impostors.black_hole, impostors.silent, impostors.closes])
def dead_member(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param in (impostors.nobody, impostors.black_hole):
        with request.param() as host:
            yield host
    else:
        with Impostor(request.param) as impostor:
            yield impostor.host


def used(urls: Sequence[str], ttl: float) -> None:
    """Each of these URLs serves a program that comes to it anew."""

    def use(number: int) -> float:
        began = time.monotonic()
        with elector_of(urls[number], f"election-{number}", ttl) as elector:
            assert elector.leader() is None
            elector.campaign(timeout=5.0).resign()
        return time.monotonic() - began

    print(together({url: partial(use, number) for number, url in enumerate(urls)}))


def test_of_three_of_which_one_does_not_serve_the_others_are_used(
    dead_member: str, zookeeper: ZooKeeper[Any], chroot: str
) -> None:
    good = zookeeper.endpoints[1:]
    orders = itertools.permutations([dead_member, *good])
    used([f"zookeeper://{','.join(hosts)}{chroot}" for hosts in orders], ttl=10.0)


def test_of_three_of_which_one_is_stopped_the_others_are_used(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    zookeeper.followers()[0].pause()
    orders = itertools.permutations(zookeeper.endpoints)
    used([f"zookeeper://{','.join(hosts)}{chroot}" for hosts in orders], ttl=LONG)


def test_a_server_that_greets_and_then_never_answers(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    with Proxy(zookeeper.members[0].host, zookeeper.members[0].port) as proxy:
        url = f"zookeeper://{proxy.host}:{proxy.port}{chroot}"
        proxy.hold_replies(after=chroot.encode())
        with fails(Unavailable, within=1.0 + AT_ONCE):
            opened(url, timeout=1.0)
        with elector_of(url) as elector, fails(CampaignTimeout, within=1.5):
            elector.campaign(timeout=1.0)
        proxy.heal()
        with elector_of(url) as elector, took(most=AT_ONCE):
            elector.campaign(timeout=5.0).resign()


@local
def test_ways_to_write_a_host(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "[127.0.0.1]", "[::ffff:127.0.0.1]"):
        with took(most=AT_ONCE):
            opened(f"zookeeper://{host}:{zookeeper.members[0].port}{chroot}")


def test_odd_hosts_are_hosts_and_nothing_else() -> None:
    def ask(host: str, *said: str) -> None:
        with fails(Unavailable, *said, within=6.0):
            opened(f"zookeeper://{LOGIN}{host}:1/p")

    hosts = ("unix", "a_b.invalid", "h%20x", "hört.invalid", "127.1", "h;x", "[fe80::1%lo]")
    parts = {host: partial(ask, host, host) for host in hosts}
    never = {host: partial(ask, host) for host in ("x" * 64, "a..b")}  # no resolver takes these
    together(parts | never)


# -- nodes of others -----------------------------------------------------------------------------------------------


LASTING = (GUID.format("1") + "0000000000", GUID.format("2") + "-000000001")  # of the layout
ODD_NAMES = (
    *LASTING,
    *("0", "x", "latch-0000000000", "lock-0000000000", "_c_-latch-0000000000", "büro", "x" * 200),
    GUID.format("3").upper() + "0000000000",
    GUID.format("4") + "00000000000",
    GUID.format("5") + "000000000",
    GUID.format("6").replace("latch", "lock") + "0000000000",
    "x" + GUID.format("7") + "0000000000",
    GUID.format("8") + "0000000000x",
)
FORGED = json.dumps({"coordkit": 1, "id": "forged", "label": "forged", "metadata": "forged"}).encode()
ODD_DATA = (b"", b"\xff\xfe\x00", b"x" * 900_000, FORGED, b"[" * 5000)


def test_lasting_nodes_under_an_election_are_nobodys_candidacy(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    path = Place(chroot, "x").path
    for number, name in enumerate(ODD_NAMES):
        zookeeper.put(f"{path}/{name}", ODD_DATA[number % len(ODD_DATA)])
    with (
        elector_of(apart(zookeeper, chroot, 0), ttl=LONG) as first,
        elector_of(apart(zookeeper, chroot, 1), ttl=LONG) as second,
    ):
        states = iter(first.observe())
        assert next(states) is None
        assert first.leader() is None
        assert first.candidates() == ()
        with took(most=AT_ONCE):
            term = first.try_campaign()
        assert term is not None
        zookeeper.put(f"{path}/between", b"\xff")
        zookeeper.put(f"{path}/{GUID.format('9')}0000000020", FORGED)
        with took(most=AT_ONCE):
            assert second.try_campaign() is None
        waiting = Running(second.campaign)
        queued(first, 2)
        zookeeper.put(f"{path}/behind", b"x" * 900_000)
        assert first.candidates()[0].id == term.candidate.id
        leader = second.leader()
        assert leader is not None
        assert (leader.candidate, leader.token) == (term.candidate, term.token)
        for name in (GUID.format("9") + "0000000020", "between", LASTING[0]):
            zookeeper.delete(f"{path}/{name}")
        term.confirm()
        assert not waiting.done
        term.resign()
        with took(most=AT_ONCE):
            waiting.result(AT_ONCE).resign()
        assert first.leader() is None
        assert first.candidates() == ()
        with elector_of(zookeeper.url(chroot)) as newcomer:
            assert next(iter(newcomer.observe())) is None
    assert sorted(nodes_of(zookeeper, chroot)) == sorted({*ODD_NAMES, "behind"} - {LASTING[0]})


def test_ephemeral_nodes_of_other_recipes_are_nobodys_candidacy(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    path = Place(chroot, "x").path
    with hand(zookeeper) as foreign, elector_of(zookeeper.url(chroot)) as elector:
        foreign.ensure_path(path)
        for name in ODD_NAMES:
            if name not in LASTING:
                foreign.create(f"{path}/{name}", b"in front", ephemeral=True)
        for name in (f"{'0' * 32}__lock__", f"_c_{'0' * 32}-lock-", "n_"):  # of kazoo, Curator, the documentation
            foreign.create(f"{path}/{name}", b"", ephemeral=True, sequence=True)
        assert elector.leader() is None
        assert elector.candidates() == ()
        with took(most=AT_ONCE), elector.lead(timeout=5.0) as term:
            assert elector.candidates() == (term.candidate,)


def test_a_foreign_candidate_may_say_of_itself_what_it_likes(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    path = Place(chroot, "x").path
    with elector_of(zookeeper.url(chroot)) as elector:
        for data in (b"", b"\xff\xfe\x00", b"x" * 900_000, b'{"coordkit":1}', b"[" * 5000, b"two\nlines \x1b[31m"):
            with hand(zookeeper) as foreign:
                made = foreign.create(f"{path}/{GUID.format('1')}", data, ephemeral=True, sequence=True, makepath=True)
                assert elector.try_campaign() is None
                leader = elector.leader()
                assert leader is not None
                assert leader.candidate.id == made.rpartition("/")[2]
                assert leader.candidate.label == data.decode(errors="replace")[:200]
                assert leader.metadata == ""
                queued(elector, 1)
                assert elector.candidates() == (leader.candidate,)
                waiting = Running(elector.campaign)
                queued(elector, 2)
            with took(most=AT_ONCE):
                waiting.result(AT_ONCE).resign()


def test_a_proclamation_that_is_nobodys_is_overwritten(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    with elector_of(zookeeper.url(chroot), metadata="mine") as elector:
        for data in (b"", b"\xff\xfe", b"[]", b'{"id":1}', b"[" * 5000, b"x" * 900_000):
            zookeeper.put(Place(chroot, "x").proclaimed, data)
            with elector.lead(timeout=5.0) as term:
                leader = elector.leader()
                assert leader is not None
                assert leader.metadata == "mine"
                term.proclaim("news")
                leader = elector.leader()
                assert leader is not None
                assert leader.metadata == "news"


# -- names ---------------------------------------------------------------------------------------------------------


def test_an_election_may_have_the_name_of_the_servers_own_node(zookeeper: ZooKeeper[Any]) -> None:
    names = ("zookeeper", "%7Aookeeper", "zookeeper/quota", "zookeeper.x")
    with ExitStack() as stack:
        electors = [stack.enter_context(elector_of(zookeeper.url(), name)) for name in names]
        terms = [elector.campaign(timeout=5.0) for elector in electors]  # at the same time: none is another's
        operator = stack.enter_context(hand(zookeeper, super_user=True))
        assert sorted(operator.get_children("/zookeeper")) == ["config", "quota"], "the servers' own"
        for elector, term in zip(electors, terms, strict=True):
            term.proclaim(term.election)
            leader = elector.leader()
            assert leader is not None
            assert (leader.token, leader.metadata) == (term.token, term.election)
            assert elector.candidates() == (term.candidate,)
            term.resign()


def test_a_chroot_among_the_servers_own_nodes_is_refused_before_anything_is_sent() -> None:
    for path in ("zookeeper", "zookeeper/", "zookeeper/quota", "%7Aookeeper"):
        with fails(ConfigError, "/zookeeper", within=AT_ONCE):
            LeaderElector(f"zookeeper://{LOGIN}127.0.0.1:1/{path}", "x")


def test_an_election_below_a_chroot_may_be_called_zookeeper(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    with elector_of(zookeeper.url(chroot), "zookeeper") as elector, elector.lead(timeout=5.0):
        assert len(nodes_of(zookeeper, chroot, "zookeeper")) == 1


ODD_ELECTIONS = (
    *("\U0001f5f3", "\ue000", "\uf8ff", "\ufff0", "\ufffd", "\u2028", "büro/\U0001f3db", "a b", "%", "a%proclaimed"),
    *("a.proclaimed", "a", "a%25proclaimed", "'\"\\", "x" * 255, "\U0001f5f3" * 63, "...", "a/...", "~", "_c_"),
)


def test_whatever_a_name_is_made_of_it_is_an_election_of_its_own(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    with ExitStack() as stack:
        session = stack.enter_context(Session(zookeeper.url(chroot)))
        electors = {name: LeaderElector(session, name, ttl=LONG) for name in ODD_ELECTIONS}
        terms = {name: elector.campaign(timeout=5.0) for name, elector in electors.items()}
        for name, term in terms.items():
            term.proclaim(f"of {name}")
        for name, elector in electors.items():
            leader = elector.leader()
            assert leader is not None
            assert (leader.token, leader.metadata) == (terms[name].token, f"of {name}")
            assert elector.candidates() == (terms[name].candidate,)
        for term in terms.values():
            term.confirm()
            term.resign()


# -- sizes and limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["m", "\x01", "ä", '"'])
def test_as_much_metadata_as_is_allowed(character: str, zookeeper: ZooKeeper[Any], chroot: str) -> None:
    long = character * (65536 // len(character.encode()))
    other = long[:-1]
    with (
        elector_of(apart(zookeeper, chroot, 0), metadata=long) as first,
        elector_of(apart(zookeeper, chroot, 1), metadata=long) as second,
        took(most=10.0),
    ):
        term = first.campaign(timeout=5.0)
        waiting = Running(lambda: second.campaign(timeout=10.0))
        queued(first, 2)
        term.proclaim(other)
        found = second.leader()
        assert found is not None
        assert (found.metadata, found.candidate.metadata) == (other, long)
        term.resign()
        waiting.result(10.0).resign()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperCluster]:
    """One server that takes no more than 20,000 bytes at once, and enforces quotas."""
    flags = ["-Djute.maxbuffer=20000", "-Dzookeeper.enforceQuota=true"]
    with ZooKeeperCluster(tmp_path_factory.mktemp("strict"), 1, flags=flags) as cluster:
        yield cluster


QUOTAS = {  # as ZooKeeper's own tool writes them
    "/few": b"count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=3",
    "/small": b"count=-1,bytes=-1=;byteHardLimit=400;countHardLimit=-1",
}


@local
def test_a_quota_that_is_used_up_rejects_candidates_and_keeps_the_leader(strict: ZooKeeperCluster) -> None:
    for path, limit in QUOTAS.items():
        strict.put(path)
        strict.put(f"/zookeeper/quota{path}/zookeeper_limits", limit)
        strict.put(f"/zookeeper/quota{path}/zookeeper_stats", b"count=1,bytes=0")
    strict.members[0].restart()  # it looks for quotas that were not set by its own tool when it starts
    strict.ready()

    def use_up(path: str) -> None:
        long = "m" * 400
        with elector_of(strict.url(path)) as leader, elector_of(strict.url(path), metadata=long) as other:
            term = leader.campaign(timeout=5.0)
            for ask in (other.campaign, other.try_campaign):
                with fails(Rejected, "Quota", within=AT_ONCE):
                    ask()
            with fails(Rejected, "Quota", within=AT_ONCE):
                term.proclaim(long)
            term.confirm()
            assert other.candidates() == (term.candidate,)
            term.resign()
            assert nodes_of(strict, path) == []

    together({path: partial(use_up, path) for path in QUOTAS})


@local
def test_more_than_a_server_takes_at_once_costs_nobody_else_a_term(strict: ZooKeeperCluster) -> None:
    """The server hangs up on such a request, and does not say why."""
    strict.put("/p")
    url = strict.url("/p")
    with (
        elector_of(url, "x") as leader,
        elector_of(url, "y", metadata="m" * 30_000) as large,
        elector_of(url, "z") as third,
    ):
        term = leader.campaign(timeout=5.0)
        with fails(CampaignTimeout, within=2.0 + 0.5) as ended:
            large.campaign(timeout=2.0)
        assert isinstance(ended.value.__cause__, BackendError)
        with pytest.raises(BackendError):
            term.proclaim("m" * 30_000)
        term.confirm()
        with took(most=AT_ONCE), third.lead(timeout=5.0) as other:
            other.confirm()
        assert term.valid
        term.resign()
        assert [node.path for node in strict.nodes("/p") if node.ephemeral_owner] == []


# -- sessions, which have one timeout each -----------------------------------------------------------------------


def timeouts(zookeeper: ZooKeeper[Any]) -> list[float]:
    """Of all sessions that are connected."""
    return sorted(each.timeout for member in zookeeper.members for each in zookeeper.connections(member))


def test_a_session_that_is_opened_first_takes_the_ttl_of_its_first_elector(
    zookeeper: ZooKeeper[Any], chroot: str
) -> None:
    with Session(zookeeper.url(chroot)) as session:
        assert timeouts(zookeeper) == [10.0]
        first, second = (LeaderElector(session, name, ttl=4.0) for name in "xy")
        with pytest.raises(ConfigError, match="make a second Session"):
            LeaderElector(session, "z", ttl=10.0)
        with first.lead(timeout=5.0) as term, second.lead(timeout=5.0):
            assert 3.0 < term.remaining() < 4.0
            eventually(lambda: timeouts(zookeeper) == [4.0], "the first session was let go")
            session.open()
            assert timeouts(zookeeper) == [4.0]
            with elector_of(zookeeper.url(chroot), "z", 5.0) as third, third.lead(timeout=5.0):
                assert timeouts(zookeeper) == [4.0, 5.0]
    eventually(lambda: zookeeper.sessions() == [], "all have said farewell", AT_ONCE)


# -- the command line ----------------------------------------------------------------------------------------------


def test_the_commands_on_a_real_ensemble(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    url = zookeeper.url(chroot)
    assert coordkit(url, "leader", "a/b").returncode == 1
    assert coordkit(url, "candidates", "a/b").returncode == 1
    script = "echo $COORDKIT_TOKEN $COORDKIT_CANDIDATE; exit 7"
    ran = coordkit(url, "run", "--no-wait", "--label", "me", "a/b", "--", "sh", "-c", script)
    assert (ran.returncode, ran.stderr) == (7, "")
    with hand(zookeeper) as foreign:
        path = f"{Place(chroot, 'a/b').path}/{GUID.format('1')}"
        foreign.create(path, b"two\nlines \x1b[31m", ephemeral=True, sequence=True)
        for command in ("leader", "candidates"):
            (shown,) = coordkit(url, command, "a/b").stdout.splitlines()
            assert shown.isprintable()
            assert GUID.format("1") in shown
    with elector_of(url, "a/b", metadata="10.0.0.1:80", label="web") as leader, leader.lead(timeout=5.0) as term:
        assert int(term.token) > int(ran.stdout.split()[0])
        done = together(
            {
                "leader": partial(coordkit, url, "leader", "a/b"),
                "candidates": partial(coordkit, url, "candidates", "--json", "a/b"),
                "no wait": partial(coordkit, url, "run", "--no-wait", "a/b", "--", "true"),
                "wait": partial(coordkit, url, "run", "--wait", "0.5", "a/b", "--", "true"),
            }
        )
        assert done["leader"].stdout == f"{term.token} {term.candidate.id} 10.0.0.1:80\n"
        assert json.loads(done["candidates"].stdout)["candidates"][0]["label"] == "web"
        assert done["no wait"].returncode == done["wait"].returncode == 75
    assert nodes_of(zookeeper, chroot, "a/b") == []
    assert zookeeper.sessions() == []  # each has said farewell


def test_observe_on_a_real_ensemble(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    url = zookeeper.url(chroot)
    process = subprocess.Popen(
        [sys.executable, "-m", "coordkit", *OBSERVE], env=environment(url), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        with took(most=20.0):
            assert process.stdout.readline() == "x vacant\n"
            with elector_of(url) as leader, leader.lead(timeout=5.0) as term:
                assert process.stdout.readline().split() == [str(term.token), term.candidate.id]
            assert process.stdout.readline() == "x vacant\n"
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def test_servers_that_are_down_are_69() -> None:
    def run(command: Sequence[str]) -> None:
        with impostors.nobody() as host, took(most=10.0):
            done = coordkit(f"zookeeper://{LOGIN}{host}/p", *command)
            assert (done.returncode, done.stdout) == (69, "")
            assert host in done.stderr.splitlines()[-1]

    together({name: partial(run, command) for name, command in COMMANDS.items()})


def test_a_chroot_that_is_not_there_is_78(zookeeper: ZooKeeper[Any]) -> None:
    def run(command: Sequence[str]) -> None:
        with took(most=10.0):
            done = coordkit(zookeeper.url("no-such"), *command)
        assert (done.returncode, done.stdout) == (78, "")
        assert "'/no-such'" in done.stderr.splitlines()[-1]

    together({name: partial(run, command) for name, command in {**COMMANDS, "observe": OBSERVE}.items()})


def test_a_server_of_something_else_is_78() -> None:
    def run(command: Sequence[str]) -> None:
        with Impostor(impostors.http) as impostor, took(most=10.0):
            done = coordkit(f"zookeeper://{LOGIN}{impostor.host}/p", *command)
            assert (done.returncode, done.stdout) == (78, "")
            assert impostor.host in done.stderr.splitlines()[-1]

    together({"leader": partial(run, ("leader", "x")), "observe": partial(run, OBSERVE)})


def test_a_url_that_cannot_be_right_is_2() -> None:
    def run(rest: str) -> None:
        with took(most=10.0):
            done = coordkit(f"zookeeper://{LOGIN}{rest}", "leader", "x")
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1

    rests = ("", *(f"127.0.0.1:1/{path}" for path in ("zookeeper", "a//b", "p?acl=everybody", "p?retries=3")))
    together({rest: partial(run, rest) for rest in rests})


# -- processes that end, and that fork -----------------------------------------------------------------------------


def test_an_open_term_of_a_program_that_ends_is_left_to_its_lease(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    with Child(exit_scenes.open_term, zookeeper.url(chroot), TTL) as leader:
        leader.expect("leads")
        with took(most=AT_ONCE):
            assert leader.expect("at-exit") == "False closed"
            assert leader.exit_code() == 0
        assert leader.complaints == ""
    assert len(nodes_of(zookeeper, chroot, "e")) == 1, "released under work that may go on"
    with elector_of(zookeeper.url(chroot), "e") as successor, took(most=TAKEOVER):
        successor.campaign(timeout=TAKEOVER).resign()


def test_a_program_that_ends_while_it_waits_leaves_the_queue(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    with elector_of(zookeeper.url(chroot), "e", LONG) as leader, leader.lead(timeout=5.0) as term:
        with Child(exit_scenes.in_background, zookeeper.url(chroot), LONG) as waiting:
            waiting.expect("started")
            queued(leader, 2)
            waiting.tell("end")
            with took(most=AT_ONCE):
                assert waiting.exit_code() == 0
            assert waiting.complaints == ""
        assert leader.candidates() == (term.candidate,)
        assert len(zookeeper.sessions()) == 1


def test_ctrl_c_in_a_wait_leaves_the_queue_and_the_elector_is_free(zookeeper: ZooKeeper[Any], chroot: str) -> None:
    with elector_of(zookeeper.url(chroot), "e", LONG) as leader:
        term = leader.campaign(timeout=5.0)
        with Child(exit_scenes.interrupted, zookeeper.url(chroot), LONG, "campaign") as waiting:
            waiting.expect("waits")
            queued(leader, 2)
            waiting.send(signal.SIGINT)
            waiting.expect("interrupted", AT_ONCE)
            queued(leader, 1)
            waiting.tell("again")
            queued(leader, 2)
            term.resign()
            waiting.expect("leads", AT_ONCE)
            assert waiting.exit_code() == 0
            assert waiting.complaints == ""


@pytest.mark.parametrize("scene", [exit_scenes.on_sigterm, exit_scenes.on_sigterm_async])
def test_sigterm_by_the_recipe_hands_over_at_once(
    scene: Callable[..., None], zookeeper: ZooKeeper[Any], chroot: str
) -> None:
    with Child(scene, zookeeper.url(chroot), LONG) as first, Child(scene, zookeeper.url(chroot), LONG) as second:
        for each in (first, second):
            each.expect("contends")
        leader, waiting = leading_first(first, second)
        with elector_of(zookeeper.url(chroot), "e", LONG) as watching:
            queued(watching, 2)
        leader.send(signal.SIGTERM)
        waiting.expect("leads", AT_ONCE)
        waiting.send(signal.SIGTERM)
        for each in (first, second):
            assert each.exit_code(AT_ONCE) == 0
            assert each.complaints == ""
    assert nodes_of(zookeeper, chroot, "e") == []
    assert zookeeper.sessions() == []


def leading_first(one: Child, other: Child) -> tuple[Child, Child]:
    """Whichever of two has won, and the other."""
    eventually(lambda: not (one.quiet() and other.quiet()), "one of them leads")
    leader, waiting = (one, other) if not one.quiet() else (other, one)
    leader.expect("leads")
    return leader, waiting


def test_a_forked_child_disturbs_nothing_and_may_begin_afresh(zookeeper: ZooKeeper[Any]) -> None:
    for name in FORKS:
        zookeeper.put(f"/{name}")
    together({name: partial(part, zookeeper.url(name)) for name, part in FORKS.items()})
    left = {node.path.rpartition("/")[0] for node in zookeeper.nodes() if node.ephemeral_owner}
    assert left <= {"/open/mirror"}, "but for the one term that its owner did not resign"
