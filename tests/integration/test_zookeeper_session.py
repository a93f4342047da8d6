"""Sessions of ZooKeeper under leaders and waiting candidates, on real ensembles: until when each may be relied on.

The rule: that a node is there, or gone, is asked of the servers, by their own protocol; that a term was over before, of
the candidates' journal or of the term itself. What a busy machine may add is SLACK.
"""

from __future__ import annotations

import json
import re
import signal
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coordkit import LeaderElector, LossReason, Term, TermState
from coordkit.audit import Kind, Report, Span, judge, parse
from coordkit.backends.zookeeper.layout import Place
from coordkit.clock import host_boottime
from coordkit.testing.contract import Running, eventually
from tests.integration import zookeeper_session_scenes as scenes
from tests.servers.local import LocalMember
from tests.servers.proxy import Proxy
from tests.servers.zookeeper import ZooKeeper, ZooKeeperCluster
from tests.servers.zookeeper_wire import NO_NODE, Node, Refused, Wire
from tests.support.children import Child
from tests.support.patched import Patch, patched
from tests.support.zookeeper_hand import hand

pytestmark = [pytest.mark.backend("zookeeper"), pytest.mark.timeout(100)]

ELECTION = "session"
SHORT = 2.0  # ttl of terms that are to be lost
TIGHT = 3.0  # ttl of terms that may be lost or not
MIDDLE = 4.0  # ttl of terms that have to get over a fault
LONG = 8.0  # ttl of terms that are to last
SLACK = 3.0  # s: what a busy machine may add
AT_ONCE = 2.5  # s: with a new connection, and far from any ttl or look of a waiter
# The servers end a session when its timeout is over, once in a tick, and the next one is woken.
TAKEOVER = SHORT + 1.0 + SLACK


class Ways:
    """Proxies before all servers, by which one client comes."""

    def __init__(self, cluster: ZooKeeper[Any], stack: ExitStack) -> None:
        self._members = cluster.members
        self.proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in self._members]

    @property
    def url(self) -> str:
        return f"zookeeper://{','.join(f'{proxy.host}:{proxy.port}' for proxy in self.proxies)}"

    def to(self, member: Any) -> Proxy:
        return self.proxies[self._members.index(member)]

    def only(self, member: Any) -> None:
        """Who comes now is led to this server alone, until `heal`."""
        for proxy in self.proxies:
            if proxy is not self.to(member):
                proxy.refuse()

    def heal(self) -> None:
        for proxy in self.proxies:
            proxy.heal()

    def cut(self) -> None:
        for proxy in self.proxies:
            proxy.cut()

    def refuse(self) -> None:
        for proxy in self.proxies:
            proxy.refuse()

    def used(self) -> Any:
        """The server that the client is connected to, once that is one alone."""
        eventually(lambda: len(self._open()) == 1, "one connection")
        (member,) = self._open()
        return member

    def wait_for_another_than(self, member: Any) -> None:
        """Wait until the client has turned to another server."""
        eventually(lambda: any(each is not member for each in self._open()), "another server is used", LONG)

    def _open(self) -> list[Any]:
        pairs = zip(self._members, self.proxies, strict=True)
        return [member for member, proxy in pairs if proxy.open_now]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def elector(stack: ExitStack) -> Callable[..., LeaderElector]:
    def make(url: str, election: str = ELECTION, *, ttl: float, label: str = "") -> LeaderElector:
        made = LeaderElector(url, election, ttl=ttl, label=label)
        stack.callback(made.close)
        return made

    return make


Make = Callable[..., LeaderElector]


def turned(zookeeper: ZooKeeper[Any], number: int) -> str:
    """One of three URLs of the same servers: electors of one process that have different ones share no session."""
    members = zookeeper.members
    return zookeeper.url(members=[*members[number:], *members[:number]])


def nodes(zookeeper: ZooKeeper[Any], election: str = ELECTION) -> list[Node]:
    """The nodes of an election's candidates, in the order in which they were made."""
    parent = Place("", election).path
    return [node for node in zookeeper.nodes(parent) if node.path != parent]


def labels(elector: LeaderElector) -> list[str]:
    """Of the queue."""
    return [candidate.label for candidate in elector.candidates()]


def waiting(elector: LeaderElector, others: int) -> Running[Term]:
    """A campaign of this elector that waits behind so many."""
    campaign = Running(elector.campaign)
    eventually(lambda: len(elector.candidates()) == others + 1, "it is in the queue", 10.0)
    return campaign


def prolonged(*terms: Term, ttl: float) -> None:
    """Wait until these terms have been renewed once more, from now on."""

    def deadlines() -> list[float]:
        return [term.remaining() + time.monotonic() for term in terms]

    before = deadlines()
    eventually(
        lambda: all(now > old + ttl / 12 for old, now in zip(before, deadlines(), strict=True)), "they are renewed", ttl
    )


def judged(journal: Path) -> Report:
    records, cut = parse(journal.read_bytes())
    return judge(records, cut=cut)


# -- sessions that expire ----------------------------------------------------------------------------------------------


def test_a_waiting_candidate_whose_session_expires_goes_to_the_end_of_the_queue(
    zookeeper: ZooKeeper[Any], elector: Make
) -> None:
    first, second, third = (
        elector(turned(zookeeper, number), ttl=LONG, label=label)
        for number, label in enumerate(["first", "second", "third"])
    )
    term = first.campaign()
    campaigns = {"second": waiting(second, 1), "third": waiting(third, 2)}
    assert zookeeper.expire(nodes(zookeeper)[1].ephemeral_owner)
    eventually(lambda: labels(first) == ["first", "third", "second"], "it is back", SLACK)
    assert not any(campaign.done for campaign in campaigns.values())
    term.confirm()
    tokens = [term.token]
    for label in ("third", "second"):  # the order of the queue, not that of the candidates that they were
        term.resign()
        term = campaigns.pop(label).result(AT_ONCE)
        tokens.append(term.token)
        assert not any(campaign.done for campaign in campaigns.values())
    assert [int(token) for token in tokens[-1:]] == [node.czxid for node in nodes(zookeeper)]
    assert tokens == sorted(set(tokens))
    term.resign()


def test_a_session_that_expires_while_its_connection_is_lost_wins_nothing(
    zookeeper: ZooKeeper[Any], elector: Make, stack: ExitStack
) -> None:
    """It was the next to lead, all that it has seen says so, and its watch is on the leader's node."""
    ways = Ways(zookeeper, stack)
    leading, next_one = elector(zookeeper.url(), ttl=LONG), elector(ways.url, ttl=LONG)
    term = leading.campaign()
    campaign = waiting(next_one, 1)
    ways.cut()
    assert zookeeper.expire(nodes(zookeeper)[1].ephemeral_owner)
    other = elector(turned(zookeeper, 1), ttl=LONG)
    others = waiting(other, 1)
    term.resign()
    after = others.result(AT_ONCE)
    ways.heal()
    eventually(lambda: len(other.candidates()) == 2, "it is back, and waits", LONG)
    assert not campaign.done
    after.confirm()
    after.resign()
    last = campaign.result(AT_ONCE)
    assert last.token > after.token > term.token
    last.resign()


def test_who_contends_in_the_background_does_so_again_when_its_session_has_expired(
    zookeeper: ZooKeeper[Any], elector: Make
) -> None:
    one, other = elector(turned(zookeeper, 0), ttl=LONG), elector(turned(zookeeper, 1), ttl=LONG)
    one.start()
    eventually(lambda: one.term is not None, "it leads", SLACK)
    other.start()
    eventually(lambda: len(one.candidates()) == 2, "the other waits", SLACK)
    tokens = []
    for leading, waits in ((one, other), (other, one)):
        term = leading.term
        assert term is not None
        tokens.append(term.token)
        assert waits.term is None
        assert zookeeper.expire(nodes(zookeeper)[0].ephemeral_owner)
        assert term.wait_ended(AT_ONCE)
        assert term.reason is LossReason.REVOKED
        eventually(lambda waits=waits: waits.term is not None, "the next one leads", AT_ONCE)  # type: ignore[misc]
        eventually(lambda: len(nodes(zookeeper)) == 2, "it contends again", SLACK)
        assert leading.term is None
    last = one.term
    assert last is not None
    last.confirm()
    tokens.append(last.token)
    assert tokens == sorted(set(tokens))


def test_a_session_that_the_servers_have_ended_is_told_at_once(zookeeper: ZooKeeper[Any], elector: Make) -> None:
    """Its nodes have gone, so another may lead already: what waits for its next turn meanwhile must not wait long."""
    term = elector(turned(zookeeper, 0), ttl=60.0).campaign()
    campaign = waiting(elector(turned(zookeeper, 1), ttl=60.0), 1)
    assert zookeeper.expire(nodes(zookeeper)[0].ephemeral_owner)
    after = campaign.result(AT_ONCE)
    followed = time.monotonic()
    assert term.wait_ended(AT_ONCE)
    print(f"told {(time.monotonic() - followed) * 1e3:.0f} ms after the next one led")
    assert term.reason is LossReason.REVOKED
    assert time.monotonic() - followed < 0.5
    after.resign()


def test_leaders_whose_sessions_expire_in_time_never_overlap(
    zookeeper: ZooKeeper[Any], stack: ExitStack, tmp_path: Path
) -> None:
    """Each is cut off until the servers have ended its session, and contends again when it is back."""
    env = {"COORDKIT_JOURNAL": str(tmp_path / "journal")}
    ways = [Ways(zookeeper, stack) for _ in range(2)]
    players = [stack.enter_context(Child(scenes.serves, each.url, SHORT, ELECTION, env=env)) for each in ways]
    rounds = 2
    eventually(lambda: len(nodes(zookeeper)) == 2, "both contend", 10.0)
    leading = next(number for number in (0, 1) if heard(players[number], SLACK))
    tokens = [int(players[leading].expect("leads"))]
    for _ in range(rounds):
        follows = 1 - leading
        ways[leading].cut()
        tokens.append(int(players[follows].expect("leads", TAKEOVER)))
        assert players[leading].expect("lost", SLACK) == "expired"
        ways[leading].heal()
        eventually(lambda: len(nodes(zookeeper)) == 2, "it contends again", SLACK)
        assert players[leading].quiet()
        leading = follows
    for player in players:
        player.process.kill()
        player.process.wait()
    report = judged(tmp_path / "journal")
    assert report.ok, "\n".join(each.message for each in report.violations)
    assert report.terms == rounds + 1
    assert tokens == sorted(set(tokens)) == sorted(span.token for span in report.spans)
    print(f"{min(report.takeovers):.2f} to {max(report.takeovers):.2f} s between the end of a term and the next one")


def heard(child: Child, seconds: float) -> bool:
    """Whether it says something within these seconds."""
    end = time.monotonic() + seconds
    while child.quiet() and time.monotonic() < end:
        time.sleep(0.005)
    return not child.quiet()


# -- a follower that falls just after it has passed a write on ---------------------------------------------------------

TICK = 1.0  # s: the leader pings every half of it, and ends sessions once in a whole one
GAP = 0.85  # of the timeout, without a word of a session before its first write
PAUSE = 0.44  # likewise before a renewal, at most: a term can take so much, with what is left just after another
MORE = 0.1  # what a term without the rule can take beyond that
TRIES = 3  # where the fall comes too late after the write, a ping has told the leader of the session
# What looks as if it were enough: a quarter of the timeout is left for a write that the leader does not take for a word
# of the session.
FROM_THE_NEWEST_WRITE: tuple[Patch, ...] = (
    (
        "backends/zookeeper/lifeline.py",
        "            self._prove(asked, sent)\n",
        "            self._prove(sent, sent)\n",
    ),
    (
        "backends/zookeeper/lifeline.py",
        "acting_time(self.timeout, self._drift) - held_for(self._since, self._proved)",
        "0.75 * self.timeout",
    ),
)


@pytest.fixture(scope="module")
def slow_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperCluster]:
    """Pings are rare enough to fall between two, and a follower that is cut off goes on serving for long."""
    with ZooKeeperCluster(tmp_path_factory.mktemp("slow"), tick=TICK, sync=2 * LONG) as cluster:
        yield cluster


@pytest.fixture
def slow(slow_cluster: ZooKeeperCluster) -> Iterator[ZooKeeperCluster]:
    """The same, healthy and empty before the test and after it."""
    slow_cluster.heal()
    slow_cluster.clear()
    yield slow_cluster
    slow_cluster.heal()
    slow_cluster.clear()


@dataclass(frozen=True, slots=True)
class Fall:
    """What one fall of a follower has shown. Moments are of CLOCK_BOOTTIME."""

    cut: float
    seen: dict[str, float]  # by election: when its first node was last seen at the leader
    gone: dict[str, float]  # and when it had gone
    report: dict[str, Report]  # by election

    def term(self, election: str) -> Span | None:
        """The term of this node, if there was one."""
        spans = [span for span in self.report[election].spans if span.since < self.seen[election]]
        return spans[0] if spans else None

    def overlaps(self, election: str) -> bool:
        return any(each.kind is Kind.OVERLAP for each in self.report[election].violations)


HELD, WON = "held", "won"  # renewed just before the fall; asked for just before it
HELD_WITHOUT, WON_WITHOUT = "held-without-the-rule", "won-without-the-rule"
ALL = (HELD, WON, HELD_WITHOUT, WON_WITHOUT)


def fall_after_a_write(zookeeper: ZooKeeperCluster, folder: Path, fault: str) -> Fall:
    """Four processes are paused, and commit a write through one follower when they go on; then it falls.

    Of two the term was held before, the two others contend only then; one of each kind runs without the rule.
    """
    folder.mkdir()
    journal = folder / "journal"
    mine = {"COORDKIT_JOURNAL": str(journal)}
    without = mine | patched(folder / "copy", *FROM_THE_NEWEST_WRITE)
    leader, fallible = zookeeper.leader(), zookeeper.followers()[0]
    through = zookeeper.url(members=[fallible])
    others = zookeeper.url(members=[member for member in zookeeper.members if member is not fallible])
    with ExitStack() as stack:

        def play(scene: Any, url: str, *arguments: str, env: dict[str, str] = mine) -> Child:
            return stack.enter_context(Child(scene, url, LONG, *arguments, env=env))

        late = [play(scenes.comes_late, through, WON), play(scenes.comes_late, through, WON_WITHOUT, env=without)]
        holding = [play(scenes.holds, through, HELD), play(scenes.holds, through, HELD_WITHOUT, env=without)]
        follows = play(scenes.follows, others, *ALL)
        for child, env in zip([*late, *holding], [mine, without, mine, without], strict=True):
            assert child.expect("runs").startswith(str(folder)) == (env is without)
        for child in holding:
            child.expect("leads")
        for child in late:
            child.expect("open")
        for election in (HELD, HELD_WITHOUT):
            follows.tell(election)
            eventually(lambda election=election: len(nodes(zookeeper, election)) == 2, "it follows")  # type: ignore[misc]
        wire = stack.enter_context(Wire(leader.host, leader.port, timeout=2 * LONG))
        for child in late:
            child.send(signal.SIGSTOP)
        time.sleep((GAP - PAUSE - MORE) * LONG)
        holding[1].send(signal.SIGSTOP)
        time.sleep(MORE * LONG)
        hear(holding[0], "renewed", since=host_boottime())
        holding[0].send(signal.SIGSTOP)
        time.sleep(PAUSE * LONG - TICK / 2)
        for child in late:
            child.tell("contend")
        wait_for_a_ping(leader)
        time.sleep(0.05)  # by now the follower has answered it
        resumed = host_boottime()
        for child in (*late, *holding):
            child.send(signal.SIGCONT)
        for child, word in zip((*late, *holding), ("committed", "leads", "renewed", "renewed"), strict=True):
            hear(child, word, since=resumed)
        getattr(fallible, fault)()
        cut = host_boottime()
        print(f"fell {cut - resumed:.3f} s after the processes went on")
        for election in (WON, WON_WITHOUT):
            follows.tell(election)
        paths = {election: first_node(wire, election) for election in ALL}
        seen, gone = dict.fromkeys(ALL, cut), dict[str, float]()
        while len(gone) < len(paths):
            assert host_boottime() < cut + 2 * LONG, "nobody keeps these sessions alive"
            for election in paths.keys() - gone.keys():
                asked = host_boottime()
                if exists(wire, paths[election]):
                    seen[election] = asked
                else:
                    gone[election] = host_boottime()
        for _ in ALL:
            follows.expect("leads")
        time.sleep(0.5)
    records, torn = parse(journal.read_bytes())
    report = {
        election: judge([record for record in records if record.get("election") == election], cut=torn)
        for election in ALL
    }
    return Fall(cut, seen, gone, report)


def wait_for_a_ping(leader: LocalMember) -> None:
    """Return when the leader of the ensemble has just pinged its followers: its main thread does nothing else."""
    (main,) = (
        task
        for task in Path(f"/proc/{leader.pid}/task").iterdir()
        if (task / "comm").read_text(encoding="utf-8") == "QuorumPeer[myid\n"
    )

    def waits() -> int:
        status = (main / "status").read_text(encoding="utf-8")
        return int(re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)[0])

    before, end = waits(), time.monotonic() + 2 * TICK
    while waits() == before:
        assert time.monotonic() < end, "the leader pings nobody"
        time.sleep(0.001)


def hear(child: Child, word: str, *, since: float) -> float:
    """Wait until it says that this has happened, not before that moment; when."""
    while True:
        said, *at = child.line().split()
        if said == word and float(at[0]) >= since:
            return float(at[0])


def first_node(wire: Wire, election: str) -> str:
    parent = Place("", election).path
    return f"{parent}/{min(wire.children(parent), key=lambda name: name[-10:])}"


def exists(wire: Wire, path: str) -> bool:
    try:
        wire.node(path)
    except Refused as refused:
        if refused.code != NO_NODE:
            raise
        return False
    return True


@pytest.mark.local_cluster
@pytest.mark.parametrize("fault", ["cut_off", "pause"])
def test_a_follower_that_is_cut_off_after_a_write(slow: ZooKeeperCluster, tmp_path: Path, fault: str) -> None:
    caught: set[str] = set()
    for number in range(TRIES):
        fall = fall_after_a_write(slow, tmp_path / f"try-{number}", fault)
        for election in ALL:
            term = fall.term(election)
            told = f"over {fall.gone[election] - term.until:+.2f} s before" if term else "never led"
            print(f"{election}: node gone {fall.gone[election] - fall.cut:.2f} s after the fall, {told}")
        for election in (HELD, WON):
            report = fall.report[election]
            assert report.ok, "\n".join(each.message for each in report.violations)
        held = fall.term(HELD)
        assert held is not None
        assert held.until > fall.cut + 0.1 * LONG, "it led on with what was left to it"
        assert held.until <= fall.seen[HELD]
        assert held.reason == "expired"
        assert fall.term(WON) is None, "what was left of its session was no lease"
        slow.heal()
        slow.clear()
        for election in (HELD_WITHOUT, WON_WITHOUT):
            term = fall.term(election)
            if term and fall.overlaps(election) and term.until > fall.gone[election]:
                caught.add(election)
        if caught == {HELD_WITHOUT, WON_WITHOUT}:
            return
    pytest.fail(f"only {caught} led beside another in {TRIES} tries: the rule is not tested")


# -- servers that fall -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["pause", "cut_off", "kill"])
def test_a_client_moves_to_a_healthy_server_without_losing_its_term(
    zookeeper: ZooKeeper[Any], elector: Make, stack: ExitStack, fault: str
) -> None:
    ways, used = Ways(zookeeper, stack), zookeeper.followers()[0]
    ways.only(used)
    term = elector(ways.url, ttl=MIDDLE).campaign()
    assert ways.used() is used
    ways.heal()
    prolonged(term, ttl=MIDDLE)
    before = nodes(zookeeper)
    began = time.monotonic()
    getattr(used, fault)()
    ways.wait_for_another_than(used)
    prolonged(term, ttl=MIDDLE)
    print(f"{fault}: renewed {time.monotonic() - began:.2f} s later, {term.remaining():.2f} s are left")
    term.confirm()
    assert (term.valid, term.state) == (True, TermState.LEADING)
    assert nodes(zookeeper) == before
    term.resign()


def test_two_never_lead_when_the_leader_of_the_servers_falls_and_comes_back(
    zookeeper: ZooKeeper[Any], stack: ExitStack, tmp_path: Path
) -> None:
    """For longer than its followers wait for it. The candidates come by it, and by others."""
    env = {"COORDKIT_JOURNAL": str(tmp_path / "journal")}
    elections = [f"{ELECTION}-{number}" for number in range(3)]
    old = zookeeper.leader()
    players: dict[str, list[Child]] = {}
    for election, through in zip(elections, zookeeper.members, strict=True):
        url = zookeeper.url(members=[through])
        first = stack.enter_context(Child(scenes.serves, url, TIGHT, election, env=env))
        players[election] = [first]
    for election in elections:
        players[election][0].expect("leads")
        second = Child(scenes.serves, zookeeper.url(), TIGHT, election, env=env)
        players[election].append(stack.enter_context(second))
    for election in elections:
        eventually(lambda election=election: len(nodes(zookeeper, election)) == 2, "both contend", 10.0)  # type: ignore[misc]
    old.pause()
    zookeeper.leader(other_than=old)
    time.sleep(TIGHT)  # it has to be away for longer than a session lives, by its own count too
    old.resume()
    zookeeper.ready()
    after = host_boottime()

    def leads_since(election: str) -> bool:
        spans = [span for span in judged(tmp_path / "journal").spans if span.election == election]
        return bool(spans) and spans[-1].deadline > after + TIGHT / 2

    for election in elections:
        eventually(lambda election=election: leads_since(election), "somebody leads", TAKEOVER)  # type: ignore[misc]
    report = judged(tmp_path / "journal")
    print(f"{report.terms} terms of {len(elections)} elections")
    assert report.ok, "\n".join(each.message for each in report.violations)


# -- servers that grant another timeout than was asked for -------------------------------------------------------------


GRANTED = 1.5  # s


@pytest.fixture(scope="module")
def stubborn_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperCluster]:
    """One server that grants the same timeout to all."""
    place = tmp_path_factory.mktemp("stubborn")
    with ZooKeeperCluster(place, size=1, min_session=GRANTED, max_session=GRANTED) as cluster:
        yield cluster


@pytest.mark.local_cluster
@pytest.mark.parametrize("asked", [4 * GRANTED, GRANTED / 3], ids=["shortened", "lengthened"])
def test_deadlines_and_takeovers_follow_what_the_servers_grant(
    stubborn_cluster: ZooKeeperCluster, elector: Make, stack: ExitStack, asked: float
) -> None:
    (member,) = stubborn_cluster.members
    stubborn_cluster.clear()
    first = stack.enter_context(Child(scenes.serves, stubborn_cluster.url(), asked, ELECTION))
    first.expect("leads")
    assert [each.timeout for each in stubborn_cluster.connections(member)] == [GRANTED]
    second = elector(stubborn_cluster.url(), ttl=asked)
    campaign = waiting(second, 1)
    first.process.kill()
    killed = time.monotonic()
    after = campaign.result(GRANTED + 1.0 + SLACK)
    waited = time.monotonic() - killed
    left: list[float] = []
    end = time.monotonic() + GRANTED
    while time.monotonic() < end:
        left.append(after.remaining())
        time.sleep(0.01)
    print(f"{asked:g} s asked: led {waited:.2f} s after the kill, then {min(left):.2f} to {max(left):.2f} s were left")
    assert 0.5 * GRANTED < waited < GRANTED + 1.0 + SLACK
    assert 0.5 * GRANTED < max(left) < 0.98 * GRANTED
    assert min(left) > 0.1 * GRANTED
    after.resign()
    second.close()


# -- replies that are lost ---------------------------------------------------------------------------------------------

FIRST_CREATE = struct.pack(">ii", 14, 1)  # the election's node and the first candidate's, in one transaction
CHECKS = struct.pack(">ii", 14, 13)  # a transaction of checks


def of_delete(path: str) -> bytes:
    """What a request to delete this node has in it, and no other request."""
    return struct.pack(">ii", 2, len(path)) + path.encode()


@pytest.mark.parametrize("fault", ["drop_replies", "hold_replies"])
@pytest.mark.parametrize("which", ["the first candidate of the election", "a later one"])
def test_a_lost_reply_to_a_create_leaves_one_node_that_wins(
    zookeeper: ZooKeeper[Any], elector: Make, stack: ExitStack, which: str, fault: str
) -> None:
    ways = Ways(zookeeper, stack)
    if which == "a later one":
        elector(zookeeper.url(), ttl=MIDDLE).campaign().resign()
    ours = elector(ways.url, ttl=MIDDLE)
    ours.leader()  # so that there is a session
    asked = ways.to(ways.used())
    getattr(asked, fault)(after=b"-latch-" if which == "a later one" else FIRST_CREATE)
    began = time.monotonic()
    campaign = Running(ours.campaign)
    asked.wait_for_request()
    eventually(lambda: len(nodes(zookeeper)) == 1, "the servers have the create")
    (created,) = nodes(zookeeper)
    term = campaign.result(2 * MIDDLE)
    print(f"{fault}, {which}: led {time.monotonic() - began:.2f} s after the campaign began")
    assert nodes(zookeeper) == [created]
    assert int(term.token) == created.czxid
    assert created.ephemeral_owner in zookeeper.sessions()
    term.confirm()
    asked.heal()
    term.resign()
    assert nodes(zookeeper) == []


@pytest.mark.parametrize("fault", ["drop_replies", "hold_replies"])
def test_a_lost_reply_to_a_create_behind_a_leader_leaves_one_place_in_the_queue(
    zookeeper: ZooKeeper[Any], elector: Make, stack: ExitStack, fault: str
) -> None:
    ways = Ways(zookeeper, stack)
    term = elector(zookeeper.url(), ttl=MIDDLE, label="leads").campaign()
    ours, last = elector(ways.url, ttl=MIDDLE, label="ours"), elector(turned(zookeeper, 1), ttl=MIDDLE, label="last")
    ours.leader()
    used = ways.used()
    asked = ways.to(used)
    getattr(asked, fault)(after=b"-latch-")
    campaign = Running(ours.campaign)
    asked.wait_for_request()
    eventually(lambda: len(nodes(zookeeper)) == 2, "the servers have the create")
    before = nodes(zookeeper)
    others = waiting(last, 2)
    ways.wait_for_another_than(used)
    asked.heal()
    assert [node.path for node in nodes(zookeeper)][:2] == [node.path for node in before]
    assert labels(last) == ["leads", "ours", "last"]
    term.resign()
    after = campaign.result(AT_ONCE)
    assert int(after.token) == before[1].czxid
    assert not others.done
    after.resign()
    others.result(AT_ONCE).resign()
    assert nodes(zookeeper) == []


@pytest.mark.parametrize("fault", ["drop_replies", "hold_replies"])
def test_a_lost_reply_to_a_delete_hands_over_at_once(
    zookeeper: ZooKeeper[Any], elector: Make, stack: ExitStack, fault: str
) -> None:
    ways = Ways(zookeeper, stack)
    ours, follows = elector(ways.url, ttl=MIDDLE), elector(zookeeper.url(), ttl=MIDDLE)
    term = ours.campaign()
    campaign = waiting(follows, 1)
    asked = ways.to(ways.used())
    getattr(asked, fault)(after=of_delete(nodes(zookeeper)[0].path))
    resigning = Running(term.resign)
    asked.wait_for_request()
    after = campaign.result(AT_ONCE)
    resigning.result(MIDDLE / 3 + SLACK)
    asked.heal()
    assert term.state is TermState.RESIGNED
    assert [node.czxid for node in nodes(zookeeper)] == [int(after.token)]
    again = waiting(ours, 1)  # the same elector, in a queue of two: nothing that it cleans up hits its new node
    time.sleep(MIDDLE / 4)
    assert len(nodes(zookeeper)) == 2
    after.resign()
    again.result(AT_ONCE).resign()
    assert nodes(zookeeper) == []


@pytest.mark.parametrize("fault", ["drop_replies", "hold_replies"])
def test_a_lost_reply_to_the_checks_of_a_renewal_costs_no_term(
    zookeeper: ZooKeeper[Any], elector: Make, stack: ExitStack, fault: str
) -> None:
    ways = Ways(zookeeper, stack)
    term = elector(ways.url, ttl=MIDDLE).campaign()
    before = nodes(zookeeper)
    used = ways.used()
    asked = ways.to(used)
    getattr(asked, fault)(after=CHECKS)
    asked.wait_for_request()
    ways.wait_for_another_than(used)
    prolonged(term, ttl=MIDDLE)
    asked.heal()
    term.confirm()
    assert (term.valid, term.state) == (True, TermState.LEADING)
    assert nodes(zookeeper) == before
    assert int(term.token) == before[0].czxid
    term.resign()
    assert nodes(zookeeper) == []


# -- a lost connection -------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_jeopardy_at_once_and_no_more(
    zookeeper: ZooKeeper[Any], elector: Make, stack: ExitStack
) -> None:
    ways = Ways(zookeeper, stack)
    term = elector(ways.url, ttl=MIDDLE).campaign()
    before = nodes(zookeeper)
    began = time.monotonic()
    ways.refuse()
    eventually(lambda: term.state is TermState.JEOPARDY, "it is in jeopardy", 0.5)
    print(f"in jeopardy {(time.monotonic() - began) * 1e3:.0f} ms after the reset")
    assert term.valid
    assert term.reason is None
    time.sleep(MIDDLE / 8)
    assert term.state is TermState.JEOPARDY
    ways.heal()
    eventually(lambda: term.state is TermState.LEADING, "it is out of danger", AT_ONCE)
    prolonged(term, ttl=MIDDLE)
    term.confirm()
    assert nodes(zookeeper) == before
    term.resign()


# -- sequences that end ------------------------------------------------------------------------------------------------

LAST_SEQUENCE = 2**31 - 1
SEAL = struct.pack(">i", 1) + b"/"  # after each checksum in a snapshot


def set_counter(member: LocalMember, path: str, value: int) -> None:
    """Let the children of this node that come next be numbered from here on, as after so many. The member is down.

    Of the newest snapshot: the length of the path, the path, the length of the data, the data, of the stat four times
    8 bytes, the version, and the counter. A checksum is that of all before it (Source: ZooKeeper's FileSnap).
    """
    snapshots = (member.data / "version-2").glob("snapshot.*")
    newest = max(snapshots, key=lambda snapshot: int(snapshot.suffix[1:], 16))
    stored = bytearray(newest.read_bytes())
    sums = [at - 8 for at in range(8, len(stored)) if stored.startswith(SEAL, at)]
    sums = [at for at in sums if struct.unpack_from(">q", stored, at)[0] == zlib.adler32(stored[:at])]
    assert sums
    name = struct.pack(">i", len(path)) + path.encode()
    assert stored.count(name) == 1
    at = stored.index(name) + len(name)
    at += 4 + max(0, struct.unpack_from(">i", stored, at)[0])
    struct.pack_into(">i", stored, at + 8 + 4 * 8 + 4, value)
    for checksum in sums:
        struct.pack_into(">q", stored, checksum, zlib.adler32(stored[:checksum]))
    newest.write_bytes(stored)


@pytest.mark.local_cluster
def test_candidates_beyond_the_end_of_the_sequence_lead_one_by_one_in_the_order_in_which_they_came(
    elector: Make, stack: ExitStack, tmp_path: Path
) -> None:
    """The servers do not count beyond it: whoever comes then has the same number as the one before."""
    zookeeper = stack.enter_context(ZooKeeperCluster(tmp_path, size=1))
    (member,) = zookeeper.members
    elector(zookeeper.url(), ttl=LONG).campaign().resign()
    member.restart()  # which writes a snapshot
    zookeeper.ready()
    member.stop()
    set_counter(member, Place("", ELECTION).path, LAST_SEQUENCE - 1)
    member.start()
    zookeeper.ready()
    names = [f"c{number}" for number in range(8)]
    electors = {name: elector(zookeeper.url(), ttl=LONG, label=name) for name in names}
    campaigns: dict[str, Running[Term]] = {}
    sequences: dict[str, int] = {}

    def join(name: str) -> None:
        campaigns[name] = Running(electors[name].campaign)
        eventually(lambda: any(json.loads(node.data)["label"] == name for node in nodes(zookeeper)), "it is there")
        sequences[name] = int(re.sub(r".*-latch-", "", nodes(zookeeper)[-1].path))

    join("c0")
    term = campaigns.pop("c0").result(AT_ONCE)
    join("c1")
    term.resign()
    term = campaigns.pop("c1").result(AT_ONCE)
    for name in names[2:]:
        join(name)
    print(sequences)
    assert [sequences["c0"], sequences["c1"]] == [LAST_SEQUENCE - 1, LAST_SEQUENCE]
    time.sleep(0.5)
    assert [name for name in campaigns if campaigns[name].done] == [], "nobody leads beside it"
    term.confirm()
    queue = nodes(zookeeper)
    assert labels(electors["c7"]) == names[1:]
    tokens = [int(term.token)]
    for name in names[2:]:
        term.resign()
        term = campaigns.pop(name).result(AT_ONCE)
        tokens.append(int(term.token))
        leader = electors["c0"].leader()
        assert leader is not None
        assert leader.token == term.token
        assert not any(campaign.done for campaign in campaigns.values())
    assert tokens == [node.czxid for node in queue]
    term.resign()


@pytest.mark.parametrize("after", [-(2**31), -(2**31) + 5, -5], ids=["at the wrap", "after it", "long after it"])
def test_where_a_sequence_has_wrapped_the_older_node_comes_first(
    zookeeper: ZooKeeper[Any], elector: Make, after: int
) -> None:
    """Nodes of others, named by hand as a server that counts beyond the end would name them, among two of ours."""
    electors = [elector(turned(zookeeper, number), ttl=LONG, label=f"ours {number}") for number in range(2)]
    parent = Place("", ELECTION).path
    names = {sequence: f"_c_{uuid.uuid4()}-latch-{sequence:010d}" for sequence in (LAST_SEQUENCE, after)}
    with hand(zookeeper) as other:
        other.ensure_path(parent)

        def add(sequence: int) -> None:
            other.create(f"{parent}/{names[sequence]}", str(sequence).encode(), ephemeral=True)

        def remove(sequence: int) -> None:
            other.delete(f"{parent}/{names[sequence]}")

        add(LAST_SEQUENCE)
        campaigns = [waiting(electors[0], 1)]
        add(after)
        campaigns.append(waiting(electors[1], 3))
        queue = [str(LAST_SEQUENCE), "ours 0", str(after), "ours 1"]
        assert labels(electors[1]) == queue
        leader = electors[0].leader()
        assert leader is not None
        assert leader.candidate.label == queue[0]
        remove(LAST_SEQUENCE)
        first = campaigns[0].result(AT_ONCE)
        assert labels(electors[1]) == queue[1:]
        first.confirm()
        assert not campaigns[1].done
        first.resign()
        eventually(lambda: labels(electors[1]) == queue[2:], "it has left", AT_ONCE)
        leader = electors[0].leader()
        assert leader is not None
        assert leader.candidate.label == queue[2]
        assert leader.token > first.token
        assert not campaigns[1].done
        remove(after)
        last = campaigns[1].result(AT_ONCE)
        assert last.token > leader.token
        assert int(last.token) == nodes(zookeeper)[0].czxid
        last.resign()
