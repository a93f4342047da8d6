"""Directed schedules of the ZooKeeper adapter: for each of its rules the course of events in which breaking it shows.

The rule: as in `schedules.py`, a schedule raises `Broken` where the promise is broken, and nothing else.

    python -m tests.simulation.zookeeper_schedules NAME [NAME ...]        exit status 3: broken
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from kazoo.protocol.states import KeeperState

from coordkit.backends.contract import Behind, Candidacy, Grant, Lost, Renewed
from coordkit.backends.zookeeper.adapter import ZooKeeperBackend
from coordkit.backends.zookeeper.layout import Place
from coordkit.clock import new_candidate_id
from coordkit.errors import BackendError, OutcomeUnknown
from coordkit.lease import Promise
from coordkit.model import CandidateInfo, TermState
from coordkit.term import Tenure
from coordkit.testing.virtual import VirtualElector, World
from tests.simulation.playing import Schedules, must
from tests.simulation.storm import Broken
from tests.simulation.zookeeper_model import Ensemble, Server
from tests.simulation.zookeeper_tree import LAST, Create, Delete
from tests.simulation.zookeeper_wire import Fair, SimulatedKazoo, Wire, join, simulated

PLACE = Place("", "e")
ROUNDING = 1e-6
HAND = 1e-4  # s: a moment
STRANGER = 0x5E  # the session of a foreign program
GUID = "00000000-0000-0000-0000-000000000000"  # nobody's

SCHEDULES = Schedules()
schedule = SCHEDULES.schedule


class Ordered(Fair):
    """Every message takes a millisecond; but the next ones of a kind what was ordered, in the order of ordering."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, float | None]] = []  # kind, seconds; None: lost, and the connection
        self.replies: list[tuple[str, float | None]] = []

    def request(self, kind: str) -> float | None:
        return self._fate(self.requests, kind)

    def reply(self, kind: str) -> float | None:
        return self._fate(self.replies, kind)

    def _fate(self, orders: list[tuple[str, float | None]], kind: str) -> float | None:
        for order in orders:
            if order[0] == kind:
                orders.remove(order)
                return order[1]
        return self.seconds


class Client:
    """A process with the real adapter, connected to one server. `beats`: its session is kept; else by hand alone."""

    def __init__(self, it: Scene, name: str, at: int, *, rate: float, beats: bool) -> None:
        self.it = it
        self.process = it.world.process(name, rate=rate)
        self.site = join(self.process, it.ensemble, ttl=it.ttl)
        backend = self.process.keeper.backend
        assert isinstance(backend, ZooKeeperBackend)
        self.backend = backend
        self.client = backend.client
        self.orders = Ordered()
        for wire in self.site.wires.values():
            wire.weather = self.orders
            wire.delivers = lambda: True
        self.move(at)
        self._beats = beats

    def open(self) -> Client:
        """Connect."""
        self.run(self.backend.open())
        if not self._beats:
            self.backend.pulse.stop()
            self.kazoo.idle_pings = False
        return self

    def greet(self) -> None:
        """Connect, and say nothing more once a server has greeted."""
        self.start(self.backend.open())
        self.it.within(60.0, lambda: self.client.session is not None, f"{self.process.name} gets a session")
        self.cut()

    @property
    def kazoo(self) -> SimulatedKazoo:
        """The newest."""
        return self.site.kazoos[-1]

    @property
    def session(self) -> int:
        """The newest."""
        assert self.client.session is not None
        return self.client.session.number

    def wire(self, number: int) -> Wire:
        """To a server."""
        return self.site.wires[self.it.server(number).name]

    # --- what it does ----------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, Any], seconds: float = 60.0) -> Any:
        """What it returns, or the BackendError that it raises."""
        task = self.start(work)
        self.it.within(seconds, task.done, f"{self.process.name} gets an answer")
        return task.result()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """As `run`, in the background."""

        async def caught() -> Any:
            try:
                return await work
            except BackendError as error:
                return error

        return self.process.start(caught())

    def read(self) -> None:
        """A question that any server answers alone."""
        self.run(self._read())

    async def _read(self) -> None:
        await self.client.read("touch", lambda kazoo: kazoo.exists_async("/"), self.it.ttl)

    def write(self) -> None:
        """A transaction that changes nothing."""
        self.run(self.writing())

    async def writing(self) -> None:
        """As `write`."""
        await self.client.commit("touch", lambda transaction: transaction.check("/", -1), self.it.ttl)

    def candidacy(self, election: str = "e") -> Candidacy:
        """A new candidate."""
        name = self.process.name
        return self.backend.candidacy(
            election, CandidateInfo(new_candidate_id(name, self.process.chance), name), self.it.ttl
        )

    def attempt(self, candidacy: Candidacy) -> Any:
        """One attempt, with the time that a campaign gives it."""
        return self.run(self.attempting(candidacy))

    async def attempting(self, candidacy: Candidacy) -> Any:
        """As `attempt`."""
        try:
            async with asyncio.timeout(self.it.ttl / 3):
                return await candidacy.attempt()
        except TimeoutError:
            return OutcomeUnknown("no answer")

    def win(self, candidacy: Candidacy) -> Grant:
        """Attempt until it has won, or the promise is broken that it can."""
        answer: Any = None
        for _ in range(20):
            answer = self.attempt(candidacy)
            if isinstance(answer, Grant):
                return answer
            self.it.world.run(self.it.ttl / 8)
        raise Broken(f"{self.process.name} wins: {answer!r}")

    def renew(self, grant: Grant) -> Any:
        """One renewal."""
        answer = self.run(self.backend.renew([grant]))
        return answer if isinstance(answer, BackendError) else answer[0]

    def lead(self) -> tuple[VirtualElector, Tenure]:
        """An elector of this process leads, or the promise is broken that it can."""
        elector = self.process.elector("e", ttl=self.it.ttl)
        campaign = self.process.start(elector.campaign())
        self.it.within(4 * self.it.ttl, campaign.done, f"{self.process.name} can lead")
        tenure = campaign.result()
        assert tenure is not None
        return elector, tenure

    # --- what befalls it -------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Nothing gets through any more."""
        for wire in self.site.wires.values():
            wire.cut()

    def move(self, number: int) -> None:
        """Only this server can be reached from now on."""
        for server in self.it.ensemble.servers:
            wire = self.site.wires[server.name]
            if server is self.it.server(number):
                wire.silent = wire.refusing = False
            else:
                wire.cut(refused=True)

    def end_of(self, promise: Promise) -> float:
        """When it acts no more, in true time."""
        return self.process.machine.true_time_of_boot(promise.sent.boot + promise.span)


class Scene:
    """A world with an ensemble whose leader is its first server, and ticks as long as they may be.

    A session is ended as soon as it may be, and nothing that was under way arrives when a server is killed.
    """

    def __init__(self, world: World, ttl: float, servers: int, rate: float, *, sticks: bool) -> None:
        self.world = world
        self.ttl = ttl
        self.ensemble = Ensemble(world, servers=servers, tick=ttl / 2, sticks=sticks, rates=lambda: rate)
        self.ensemble.rounds_up = False
        self.ensemble.loses = lambda: True
        self.ensemble.race = lambda thread: {"reads": HAND, "forwards": 2 * HAND, "sleeps": 100 * HAND}[thread]
        world.run(0.1)

    def server(self, number: int) -> Server:
        return self.ensemble.servers[number - 1]

    def client(self, name: str, at: int = 2, *, rate: float = 1.0, beats: bool = True) -> Client:
        return Client(self, name, at, rate=rate, beats=beats).open()

    def within(self, seconds: float, condition: Callable[[], bool], promise: str) -> None:
        try:
            self.world.run_until(condition, seconds)
        except TimeoutError:
            raise Broken(f"not within {seconds:g} s: {promise}") from None

    def after_a_ping(self) -> None:
        """All followers have answered one of the leader's pings just now."""
        reign = self.ensemble.reign
        last = reign.pinged
        self.world.run_until(lambda: reign.pinged > last, self.ttl)
        self.world.run(30 * HAND)

    def make(self) -> None:
        """The election's own node is there."""
        self.ensemble.order(Create(PLACE.path))
        self.world.run(0.1)

    def delete(self, path: str) -> None:
        """By an operator."""
        self.ensemble.order(Delete(path))
        self.world.run(0.1)

    def nodes(self, election: str = "e") -> dict[str, Any]:
        """The nodes under an election, oldest first."""
        nodes = self.ensemble.newest.nodes
        found = {path: node for path, node in nodes.items() if path.startswith(f"{Place('', election).path}/")}
        return dict(sorted(found.items(), key=lambda each: each[1].czxid))

    def lasts(self, client: Client) -> None:
        """Nothing more is heard of the client: its session lasts as long as it was promised at least."""
        client.cut()
        with contextlib.suppress(TimeoutError):
            self.world.run_until(lambda: client.session in self.ensemble.expired, 6 * self.ttl)
        assert client.session in self.ensemble.expired, "the scene is wrong: the session does not end"
        wrong = client.site.overdrawn()
        must(not wrong, "; ".join(wrong))

    def stands(self, answer: Any) -> None:
        """If it is a win, its node is there, in first place, with its token and of its session."""
        if isinstance(answer, Grant):
            candidacy: Any = answer.candidacy
            found = {path: node for path, node in self.nodes().items() if node.owner not in (0, STRANGER)}
            must(bool(found), "who has won has a node")
            path, node = next(iter(found.items()))
            must(node.czxid == answer.token, "whose czxid is the token, and the lowest")
            must(path == candidacy._path(), "and which it knows")


@contextlib.contextmanager
def scene(
    *,
    ttl: float = 8.0,
    servers: int = 3,
    drift: float = 0.0,
    rate: float = 1.0,
    sticks: bool = False,
    errors: bool = False,
) -> Iterator[Scene]:
    """Clocks are right, and are believed to be: what is promised is what the servers keep, to the millisecond."""
    with simulated(), World(1, drift=drift) as world:
        made = Scene(world, ttl, servers, rate, sticks=sticks)
        yield made
        failures = [failure for process in world.processes for failure in process.faults_of_the_core()]
        must(errors or not failures, f"nothing in the adapter fails: {failures}")


# -- until when a session lasts ------------------------------------------------------------------------------


@schedule
def a_new_session_counts_from_its_request() -> None:
    """The server's greeting takes long."""
    with scene() as it:
        a = Client(it, "a", 2, rate=1.0, beats=False)
        a.orders.replies.append(("granted", 1.2))
        a.greet()
        it.lasts(a)


@schedule
def an_answer_counts_from_its_request() -> None:
    """A read is heard of just before a ping, and its answer takes long; nothing more is heard until the server dies."""
    with scene() as it:
        a = it.client("a", beats=False)
        it.after_a_ping()
        it.world.run(1.9)
        a.orders.replies.append(("exists", 1.0))
        a.read()
        it.world.run(2.2)
        a.write()
        a.write()
        it.ensemble.kill(it.server(2))
        it.lasts(a)


@schedule
def a_committed_write_alone_proves_nothing() -> None:
    """The server that has passed it on dies before the leader's next ping."""
    with scene() as it:
        a = it.client("a", beats=False)
        a.read()
        it.after_a_ping()
        it.world.run(1.9)
        a.write()
        it.ensemble.kill(it.server(2))
        it.lasts(a)


@schedule
def a_write_that_a_paused_leader_commits_proves_nothing() -> None:
    """So that three quarters of the timeout from a committed write are too long."""
    with scene() as it:
        a = it.client("a", beats=False)
        a.read()
        it.after_a_ping()
        it.ensemble.pause(it.server(1))
        it.world.run(3.9)
        write = a.start(a.writing())
        it.world.run(0.1)
        it.ensemble.resume(it.server(1))
        it.within(1.0, write.done, "a write is answered")
        it.ensemble.kill(it.server(2))
        it.lasts(a)


@schedule
def a_write_soon_after_an_answer_proves_nothing() -> None:
    """There was no ping between the two."""
    with scene() as it:
        a = it.client("a", beats=False)
        it.after_a_ping()
        it.world.run(0.2)
        a.read()
        it.world.run(1.7)
        a.write()
        a.write()
        it.ensemble.kill(it.server(2))
        it.lasts(a)


@schedule
def a_write_that_took_long_proves_nothing() -> None:
    """The leader stood still for longer than from one ping to the next; a follower has answered meanwhile."""
    with scene() as it:
        a = it.client("a", beats=False)
        it.after_a_ping()
        it.ensemble.pause(it.server(1))
        it.world.run(1.0)
        a.read()
        it.world.run(2.2)
        write = a.start(a.writing())
        it.world.run(3.5)
        it.ensemble.resume(it.server(1))
        it.within(1.0, write.done, "a write is answered")
        a.write()
        it.ensemble.kill(it.server(2))
        it.lasts(a)


@schedule
def a_write_that_overtakes_the_answer_to_a_ping_proves_nothing() -> None:
    """What the leader and the follower send to each other takes long; the follower dies with the answer on its way."""
    with scene() as it:
        a, leader, follower = it.client("a", beats=False), it.server(1), it.server(2)
        it.after_a_ping()
        it.world.run(0.1)
        a.read()
        it.ensemble.slow[leader, follower] = 1.3
        it.world.run(2.0)
        it.ensemble.slow[leader, follower] = 0.0
        it.world.run(0.2)
        write = a.start(a.writing())
        it.world.run(0.5)
        it.ensemble.slow[follower, leader] = 0.5
        it.within(2.0, write.done, "a write is answered")
        it.ensemble.kill(follower)
        it.lasts(a)


@schedule
def a_server_that_is_cut_off_proves_nothing() -> None:
    """It answers reads as before."""
    with scene() as it:
        a = it.client("a", beats=False)
        it.ensemble.split([it.server(2)])
        for _ in range(8):
            a.read()
            it.world.run(1.0)
        it.lasts(a)


@schedule
def a_leader_of_before_that_greets_proves_nothing() -> None:
    """It was deposed and does not know it; a new leader has given all sessions a full timeout, for the last time."""
    with scene() as it:
        a = it.client("a", 1, beats=False)
        it.ensemble.split([it.server(1)])
        for number in (2, 3):
            it.server(number).look_for_a_leader()
        it.ensemble.elect(it.server(2))
        it.world.run(3.0)
        a.wire(1).reset()
        it.world.run(0.5)
        must(a.client.connected, "who reaches a server gets a connection")
        it.lasts(a)


@schedule
def a_slow_clock_stops_before_a_fast_one_ends_the_session() -> None:
    with scene(drift=0.05, rate=1.05) as it:
        a = Client(it, "a", 2, rate=0.95, beats=False)
        a.greet()
        it.lasts(a)


@schedule
def a_shorter_timeout_than_asked_counts() -> None:
    with scene() as it:
        for server in it.ensemble.servers:
            server.timeouts = (1.0, 6.0)
        a = it.client("a", beats=False)
        it.lasts(a)


@schedule
def a_session_whose_timeout_is_shortened_is_over() -> None:
    """By a server that grants less than the others: its node goes earlier than was promised."""
    with scene(errors=True) as it:
        a, b = it.client("a"), it.client("b")
        it.server(3).timeouts = (1.0, 4.0)
        _, first = a.lead()
        a.move(3)
        it.world.run(0.5)
        a.cut()
        b.lead()
        must(first.ended() is not None, "when the successor leads, the term before is over by its holder's own clock")


@schedule
def a_session_that_is_given_up_says_no_farewell() -> None:
    """The body of its term may still run: the node stays until the servers' timeout."""
    with scene(errors=True) as it:
        a, b = it.client("a"), it.client("b")
        it.server(3).timeouts = (1.0, 4.0)
        a.lead()
        a.move(3)
        since = it.world.now
        b.lead()
        must(
            it.world.now - since > 3.5, f"a successor waits for the timeout; it led after {it.world.now - since:.2f} s"
        )


@schedule
def a_win_on_a_session_that_is_over_is_none() -> None:
    """It ended after the last answer of the attempt had come, before the attempt was told."""
    with scene(errors=True) as it:
        a = it.client("a")
        it.server(3).timeouts = (1.0, 4.0)
        it.make()
        a.orders.replies.append(("children", 0.2))
        attempt = a.start(a.attempting(a.candidacy()))
        it.world.run(0.1)
        a.process.stall()
        it.world.run(0.2)
        a.move(3)
        it.world.run(0.2)
        a.process.resume()
        it.within(4.0, attempt.done, "an attempt ends")
        answer = attempt.result()
        if isinstance(answer, Grant):
            must(not isinstance(a.renew(answer), Lost), "who wins has a session that lives")


@schedule
def another_session_follows_one_that_was_given_up() -> None:
    """kazoo's old thread ends when there is a new one already."""
    with scene(errors=True) as it:
        a = it.client("a")
        it.server(3).timeouts = (1.0, 4.0)
        elector, tenure = a.lead()
        a.move(3)
        it.within(4.0, lambda: not tenure.open, "a term ends with its session")
        elector.leave(tenure)
        a.lead()


@schedule
def a_process_that_stood_still_comes_back() -> None:
    """For so long that its session was let go of."""
    with scene() as it:
        a = it.client("a")
        elector, tenure = a.lead()
        a.process.stall()
        it.world.run(20.0)
        a.process.resume()
        it.within(1.0, lambda: not tenure.open, "a term ends with its session")
        elector.leave(tenure)
        campaign = a.process.start(elector.campaign())
        it.within(2.0, campaign.done, "a process that goes on can lead at once")


# -- leaving -----------------------------------------------------------------------------------------------


@schedule
def a_session_that_is_closed_under_a_term_says_no_farewell() -> None:
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        grant = a.win(a.candidacy())
        second = b.candidacy()
        must(isinstance(b.attempt(second), Behind), "the second one waits")
        a.run(a.backend.close())
        b.win(second)
        over = a.end_of(grant.promise) - it.world.now
        must(over <= 0, f"the successor waits until the one before it must be over; {over:.3f} s are left")


@schedule
def a_session_without_a_term_says_farewell() -> None:
    with scene() as it:
        a = it.client("a")
        first = a.candidacy()
        a.win(first)
        a.run(first.resign())
        a.run(a.backend.close())
        it.world.run(0.5)
        must(not it.ensemble.newest.sessions, "a session that is needed no more is ended")


# -- whose node it is --------------------------------------------------------------------------------------


@schedule
def a_node_of_another_session_is_not_ours() -> None:
    """The create is asked for just when the session has ended, and is carried out in the next one."""
    with scene() as it:
        a = it.client("a")
        it.make()
        ended, candidacy = a.kazoo, a.candidacy()
        ended._retry.max_delay = 0.05
        it.after_a_ping()
        it.world.run(1.9)
        a.process.stall()
        attempt = a.start(a.attempting(candidacy))
        it.ensemble.kill(it.server(2))
        it.within(20.0, lambda: a.session in it.ensemble.expired, "a session ends")
        a.move(3)
        it.within(
            1.0,
            lambda: ended.client_state == KeeperState.CONNECTING and ended._session == 0,
            "kazoo begins a new session",
        )
        a.process.resume()
        it.within(4.0, attempt.done, "an attempt ends")
        it.stands(attempt.result())
        it.stands(a.win(candidacy))
        must(len(it.nodes()) == 1, f"a candidate has one node: {list(it.nodes())}")


@schedule
def a_new_session_is_a_new_candidacy() -> None:
    with scene() as it:
        a = it.client("a")
        candidacy = a.candidacy()
        a.win(candidacy)
        a.cut()
        it.within(20.0, lambda: a.session in it.ensemble.expired, "a session ends")
        for wire in a.site.wires.values():
            wire.mend(broken=True)
        it.world.run(1.0)
        answer = a.renew(a.win(candidacy))
        must(isinstance(answer, Renewed), f"who wins in a new session is renewed: {answer!r}")


@schedule
def an_unknown_create_is_looked_for() -> None:
    with scene() as it:
        a = it.client("a")
        it.make()
        candidacy = a.candidacy()
        a.orders.replies.append(("write", None))
        must(isinstance(a.attempt(candidacy), BackendError), "an attempt fails whose answer is lost")
        answer = a.win(candidacy)
        must(len(it.nodes()) == 1, f"a candidate has one node: {list(it.nodes())}")
        it.stands(answer)


@schedule
def an_unknown_create_is_waited_for() -> None:
    """The server stood still. When it goes on, it sends the create on a little later than it answers reads."""
    with scene() as it:
        a = it.client("a", beats=False)
        it.make()
        it.ensemble.race = lambda thread: 0.1 if thread == "forwards" else HAND
        it.ensemble.pause(it.server(2))
        candidacy = a.candidacy()
        attempt = a.start(a.attempting(candidacy))
        it.world.run(0.5)
        a.client.leave("it does not answer")
        it.world.run(5.5)  # so long it is avoided
        must(attempt.done() and not isinstance(attempt.result(), Grant), "an attempt fails that is not answered")
        attempt = a.start(a.attempting(candidacy))
        it.world.run(0.1)
        it.ensemble.resume(it.server(2))
        it.within(4.0, attempt.done, "an attempt ends")
        it.world.run(1.0)
        must(len(it.nodes()) == 1, f"a candidate has one node: {list(it.nodes())}")
        it.stands(a.win(candidacy))


@schedule
def an_unknown_create_leaves_nothing() -> None:
    with scene() as it:
        a = it.client("a")
        it.make()
        candidacy = a.candidacy()
        a.orders.replies.append(("write", None))
        must(isinstance(a.attempt(candidacy), BackendError), "an attempt fails whose answer is lost")
        must(not isinstance(a.run(candidacy.resign()), BackendError), "a candidate can resign")
        must(not it.nodes(), f"and leaves nothing: {list(it.nodes())}")


@schedule
def an_unknown_create_is_looked_for_where_writes_commit() -> None:
    """A leader that was deposed and does not know it answers a sync at once, and has no such node."""
    with scene() as it:
        a, b = it.client("a", beats=False), it.client("b", 3)
        it.make()
        it.ensemble.split([it.server(1)])
        for number in (2, 3):
            it.server(number).look_for_a_leader()
        it.ensemble.elect(it.server(2))
        candidacy = a.candidacy()
        it.world.run(1.0)
        it.within(4.0, lambda: a.client.connected, "who reaches a server gets a connection")
        a.orders.replies.append(("write", None))
        must(isinstance(a.attempt(candidacy), BackendError), "an attempt fails whose answer is lost")
        a.move(1)
        resignation = a.start(candidacy.resign())
        it.world.run(2.0)
        a.move(3)
        it.within(4.0, resignation.done, "a resignation ends")
        if isinstance(resignation.result(), BackendError):
            a.run(candidacy.resign())
        must(not it.nodes(), f"a candidate that has resigned leaves nothing: {list(it.nodes())}")
        it.stands(b.win(b.candidacy()))


@schedule
def of_two_nodes_the_older_is_kept() -> None:
    """A create that was long under way comes after another candidate's."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        it.make()
        candidacy: Any = a.candidacy()
        a.orders.replies.append(("write", None))
        must(isinstance(a.attempt(candidacy), BackendError), "an attempt fails whose answer is lost")
        second = b.candidacy()
        must(isinstance(b.attempt(second), Behind), "the second one waits")
        it.ensemble.order(Create(PLACE.prefix(candidacy._guid), ephemeral=True, sequence=True), session=a.session)
        it.world.run(0.1)
        answer = a.attempt(candidacy)
        must(isinstance(answer, Grant), f"who came first is first: {answer!r}")
        it.stands(answer)
        must(len(it.nodes()) == 2, f"a candidate has one node: {list(it.nodes())}")
        must(isinstance(b.attempt(second), Behind), "the second one waits")


# -- who is first ------------------------------------------------------------------------------------------


@schedule
def who_is_not_first_waits() -> None:
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        it.stands(a.win(a.candidacy()))
        must(isinstance(b.attempt(b.candidacy()), Behind), "the second one waits")


@schedule
def who_is_not_in_the_list_has_not_won() -> None:
    """An operator deletes the node after it was seen and before the nodes were listed."""
    with scene() as it:
        a = it.client("a")
        it.make()
        a.orders.requests.append(("children", 0.5))
        attempt = a.start(a.attempting(a.candidacy()))
        it.world.run(0.1)
        (path,) = it.nodes()
        it.delete(path)
        it.within(4.0, attempt.done, "an attempt ends")
        it.stands(attempt.result())


@schedule
def the_order_survives_the_wrap_of_the_counter() -> None:
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        it.make()
        it.ensemble.set_count(PLACE.path, LAST)
        it.stands(a.win(a.candidacy()))
        second = b.candidacy()
        must(isinstance(b.attempt(second), Behind), "the second one waits")


@schedule
def the_order_survives_the_end_of_the_counter() -> None:
    """Newer servers do not let it wrap: all who come have the same sequence [tried: ZooKeeper 3.8.0]."""
    with scene(sticks=True) as it:
        a = it.client("a")
        it.make()
        it.ensemble.set_count(PLACE.path, LAST)
        it.stands(a.win(a.candidacy()))
        for name in "bcdefgh":
            b = it.client(name)
            must(isinstance(b.attempt(b.candidacy()), Behind), "who comes later waits")


@schedule
def a_node_made_by_hand_is_no_candidate() -> None:
    with scene() as it:
        a = it.client("a")
        it.make()
        it.ensemble.order(Create(PLACE.prefix(GUID), sequence=True))
        it.world.run(0.1)
        must(a.run(a.backend.leader("e")) is None, "nobody leads")
        it.stands(a.win(a.candidacy()))


@schedule
def a_node_of_another_layout_is_no_candidate() -> None:
    with scene() as it:
        a = it.client("a")
        it.make()
        it.ensemble.order(Create(PLACE.node("c2f0__lock__"), ephemeral=True, sequence=True), session=STRANGER)
        it.world.run(0.1)
        it.stands(a.win(a.candidacy()))


@schedule
def a_node_that_is_gone_is_not_renewed() -> None:
    with scene() as it:
        a = it.client("a")
        grant = a.win(a.candidacy())
        (path,) = it.nodes()
        it.delete(path)
        answer = a.renew(grant)
        must(not isinstance(answer, Renewed), f"a node that is gone is not renewed: {answer!r}")


@schedule
def a_node_that_may_be_gone_is_not_renewed_unseen() -> None:
    """The watch has told, and the answer to the next question takes long; the session is known to live."""
    with scene() as it:
        a = it.client("a", beats=False)
        first = a.candidacy()
        grant = a.win(first)
        hint = a.start(first.revoked())
        it.world.run(1.0)
        (path,) = it.nodes()
        it.delete(path)
        it.within(0.5, hint.done, "who leads is told")
        a.orders.replies.append(("write", 0.5))
        a.start(a.writing())
        it.world.run(0.1)
        a.orders.requests.append(("write", 2.5))
        answer = a.renew(grant)
        must(not isinstance(answer, Renewed), f"a node that may be gone is not renewed: {answer!r}")


@schedule
def what_was_proved_before_an_answer_that_is_late_counts() -> None:
    with scene() as it:
        a = it.client("a", beats=False)
        grant = a.win(a.candidacy())
        it.world.run(2.5)
        a.write()
        it.world.run(0.5)
        a.write()
        now = it.world.now
        a.orders.requests.append(("write", 1.8))
        answer = a.renew(grant)
        must(isinstance(answer, Renewed), f"a session that is known to live on is renewed: {answer!r}")
        must(a.end_of(answer.promise) > now + 4.0, "for as long as is known")


@schedule
def a_late_proclamation_is_none() -> None:
    """It comes when somebody else leads, and has proclaimed."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        first, second = a.candidacy(), b.candidacy()
        grant = a.win(first)
        must(isinstance(b.attempt(second), Behind), "the second one waits")
        a.run(first.proclaim(grant, "once"))
        a.orders.requests.append(("write", 1.0))
        late = a.start(first.proclaim(grant, "late"))
        it.world.run(0.1)
        it.delete(next(iter(it.nodes())))
        b.run(second.proclaim(b.win(second), "b"))
        it.within(4.0, late.done, "a proclamation ends")
        found = b.run(b.backend.leader("e"))
        must(found.metadata == "b", f"what the leader has proclaimed stands: {found.metadata!r}")


# -- waiting, and being told ---------------------------------------------------------------------------------


@schedule
def a_resignation_is_told_to_who_is_next() -> None:
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        first, second = a.candidacy(), b.candidacy()
        a.win(first)
        must(isinstance(b.attempt(second), Behind), "the second one waits")
        hint = b.start(second.changed())
        it.world.run(0.5)
        must(not hint.done(), "nothing has changed")
        a.run(first.resign())
        it.within(0.5, hint.done, "who is next is told at once")


@schedule
def a_resignation_after_a_reconnection_is_told() -> None:
    """Servers forget who watches when a connection ends."""
    with scene() as it:
        a, b = it.client("a"), it.client("b")
        first, second = a.candidacy(), b.candidacy()
        a.win(first)
        must(isinstance(b.attempt(second), Behind), "the second one waits")
        b.wire(2).reset()
        it.world.run(0.5)
        hint = b.start(second.changed())
        it.within(1.0, hint.done, "who waits looks again when its connection was lost")
        must(isinstance(b.attempt(second), Behind), "the second one waits")
        hint = b.start(second.changed())
        it.world.run(0.5)
        a.run(first.resign())
        it.within(0.5, hint.done, "who is next is told at once")


@schedule
def a_leader_whose_node_is_deleted_is_told() -> None:
    with scene() as it:
        a = it.client("a")
        _, tenure = a.lead()
        it.world.run(0.5)
        (path,) = it.nodes()
        it.delete(path)
        must(not tenure.open, "a leader whose node is deleted is told at once")


@schedule
def a_lost_connection_is_jeopardy() -> None:
    with scene() as it:
        a = it.client("a")
        _, tenure = a.lead()
        it.world.run(0.5)
        for wire in a.site.wires.values():
            wire.cut(refused=True)
        it.world.run(0.2)
        must(tenure.state()[0] is TermState.JEOPARDY, f"it is in jeopardy: {tenure.state()}")


@schedule
def a_server_that_stands_still_is_left() -> None:
    with scene() as it:
        a = it.client("a")
        _, tenure = a.lead()
        for wire in a.site.wires.values():
            wire.silent = wire.refusing = False
        it.ensemble.pause(it.server(2))
        it.world.run(9.0)
        must(tenure.ended() is None, "a term outlives a server that stands still, for there are others")


if __name__ == "__main__":
    sys.exit(SCHEDULES.play(sys.argv[1:]))
