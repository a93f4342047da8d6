"""An ensemble of ZooKeeper in a `World`: servers, their leader, its list of sessions, and what a client may ask.

The rule: whatever ZooKeeper 3.8 does to a session, the model may do. It keeps Zab as it is where clients can tell:
proposals, acknowledgements and commits on links that keep their order, epochs, and a new leader who has the longest
log of a majority. Each server has a clock of its own. Where ZooKeeper leaves the outcome open, chance decides.

- The leader alone ends sessions, by its own clock: when the timeout has passed since it heard of one, rounded up to
  a tick (SessionTrackerImpl). It hears of a session from its own clients, from a server that somebody connects to
  anew (REVALIDATE), and from the lists with which followers answer its pings, twice a tick. A forwarded write is no
  news of a session. A new leader gives all sessions a full timeout.
- A write is committed by a majority, one after the other, answered or not. One of a session that has moved to another
  server, or has been closed, is refused; one of an earlier connection to the same server is not.
- Reads and pings are answered by the asked server from what it has, also by one that is cut off and does not know it.
  So is a `sync`, by the leader that the server follows, be it deposed.
- A server refuses a client that has seen more than itself.
- A server that is paused (SIGSTOP) goes on with each of its threads a little later or earlier than the others.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kazoo.exceptions import KazooException, NoNodeError, SessionExpiredError, SessionMovedError
from kazoo.protocol.states import EventType

from coordkit.testing.virtual import World
from tests.simulation.zookeeper_tree import Closed, Effect, Event, Op, Opened, Tree

VOTE_BEAT = 0.05  # s: how often those who look for a leader are counted
SMALLEST, LARGEST = 2, 20  # ticks: which timeouts of a session are granted, by default
EPOCH = 32  # bits of a zxid below its epoch


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for. `watch`: and wants to be told when it changes."""

    number: int  # on its connection
    kind: str  # of READS, or "write", "sync", "close", "ping"
    path: str = ""
    ops: tuple[Op, ...] = ()
    multi: bool = False
    watch: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose request a transaction carries out."""

    server: int
    connection: int
    request: int


@dataclass(frozen=True, slots=True)
class Txn:
    """One entry of the log."""

    zxid: int
    effects: tuple[Effect, ...]
    answer: Any
    origin: Origin | None


class Peer(Protocol):
    """The client's end of a connection, as the server sees it."""

    number: int

    def tell(self, kind: str, message: Any) -> None:
        """Send it a message."""
        ...

    def hang_up(self) -> None:
        """The server closes the connection."""
        ...


class Way:
    """What is under way in one direction: nothing overtakes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls: deque[Callable[[], None]] = deque()
        self.until = 0.0  # when all of it has arrived

    def carry(self, seconds: float, call: Callable[[], None]) -> None:
        """Call after so long, and after all before it."""
        now = self._world.now
        self.until = max(self.until, now + seconds)
        self._calls.append(call)
        self._world.after(self.until - now, self._arrive)

    def _arrive(self) -> None:
        self._calls.popleft()()


class Inbox:
    """What one thread of a server has to do, in its order."""

    def __init__(self, server: Server, thread: str = "reads") -> None:
        self._server = server
        self._thread = thread
        self._life = server.life
        self._calls: deque[Callable[[], None]] = deque()
        self._late = False  # it has gone on after a pause, but this thread has not had its turn
        self.closed = False
        server.inboxes[self] = None

    def put(self, call: Callable[[], None]) -> None:
        """Done now, or in its turn."""
        self._calls.append(call)
        if not self._late:
            self._run()

    def go_on(self) -> None:
        """The server goes on after a pause."""
        self._late = True
        self._server.world.after(self._server.ensemble.race(self._thread), self._caught_up)

    def close(self) -> None:
        """Nothing of it is done any more."""
        self.closed = True
        self._server.inboxes.pop(self, None)

    def _caught_up(self) -> None:
        self._late = False
        self._run()

    def _run(self) -> None:
        server = self._server
        while self._calls and server.running and server.life == self._life and not self.closed:
            self._calls.popleft()()


class Link:
    """One direction of a connection between two servers: what is sent arrives in its order, late, or never."""

    def __init__(self, ensemble: Ensemble, ends: tuple[Server, Server], inbox: Inbox) -> None:
        self._ensemble = ensemble
        self.ends = ends
        self._inbox = inbox
        self._way = Way(ensemble.world)
        self._stuck: list[Callable[[], None]] = []  # while nothing gets through
        self.ended = False  # nothing more is sent
        self.broken = False  # and what was sent is lost
        ensemble.links[self] = None

    def send(self, call: Callable[[], None]) -> None:
        """Let it be done at the other end."""
        if not self.ended:
            self._way.carry(self._ensemble.delay(*self.ends), lambda: self._arrive(call))

    def end(self, *, lost: bool) -> None:
        """It is closed; `lost`: with what is on it."""
        self.ended = True
        self.broken = self.broken or lost
        if lost:
            self._ensemble.links.pop(self, None)

    def flow(self) -> None:
        """It gets through again: what waited is sent again."""
        stuck, self._stuck = self._stuck, []
        for call in stuck:
            self._deliver(call)

    def _arrive(self, call: Callable[[], None]) -> None:
        if self._stuck or not self._ensemble.reaches(*self.ends):
            self._stuck.append(call)
        else:
            self._deliver(call)

    def _deliver(self, call: Callable[[], None]) -> None:
        if not self.broken:
            self._inbox.put(call)


class Connection:
    """The server's end of a connection of a client."""

    def __init__(self, server: Server, peer: Peer) -> None:
        self.server = server
        self.peer = peer
        self.number = peer.number
        self.inbox = Inbox(server)
        self.session: int | None = None  # once it has greeted
        self.timeout = 0.0
        self.open = True
        self.watched: dict[tuple[str, str], None] = {}  # "data" or "children", path
        self._pending: deque[Request] = deque()  # not answered, in the order in which they came
        self._committed: dict[int, Any] = {}  # answers to writes, by number
        self._asked: int | None = None  # the session that it has asked for
        server.connections[self] = None

    # --- what the client sends -------------------------------------------------------------------------------

    def connect(self, session: int, asked: float, seen: int) -> None:
        """The client says who it is, which timeout it wants, and how much it has seen."""
        server = self.server
        if not self.open:
            return
        if not server.serves or seen > server.tree.zxid:
            self.close()
            return
        for other in list(server.connections):
            if session and other is not self and other.session == session:
                other.close()
        shortest, longest = server.timeouts
        self.timeout = min(max(asked, shortest), longest)
        self._asked = session or server.ensemble.new_session(server)
        if session:
            server.revalidate(self, session)
        else:
            server.forward(self, Opened(self._asked, self.timeout), 0)

    def greet(self, *, valid: bool) -> None:
        """The server has learnt what becomes of the session."""
        if not self.open or self._asked is None:
            return
        if valid:
            self.session = self._asked
            self._tell("granted", (self.session, self.timeout))
        else:
            self._tell("granted", (0, 0.0))
            self.close()

    def receive(self, request: Request) -> None:
        """The client asks for something."""
        server = self.server
        if not self.open or self.session is None or not server.serves:
            return
        server.touch(self.session, self.timeout)
        self._pending.append(request)
        if request.kind in ("write", "sync", "close"):
            server.forward(self, request, request.number)
        self._answer_pending()

    # --- what it is told -------------------------------------------------------------------------------------

    def committed(self, number: int, answer: Any) -> None:
        """What it has asked for is committed, and carried out here."""
        if self.session is None:
            self.greet(valid=not isinstance(answer, Exception))
            return
        if isinstance(answer, SessionMovedError):
            self.close()
            return
        self._committed[number] = answer
        self._answer_pending()

    def fire(self, events: Iterable[Event]) -> None:
        """Tell of what has changed here, once."""
        for kind, path in events:
            slots = [("children", path)] if kind == EventType.CHILD else [("data", path)]
            if kind == EventType.DELETED:
                slots.append(("children", path))
            watched = [slot for slot in slots if slot in self.watched]
            for slot in watched:
                del self.watched[slot]
            if watched:
                self._tell("event", (kind, path))

    def close(self) -> None:
        """The server closes it."""
        if self.open:
            self.gone()
            self.peer.hang_up()

    def gone(self) -> None:
        """The client has closed it, or is gone."""
        self.open = False
        self.inbox.close()
        self.server.connections.pop(self, None)

    def _answer_pending(self) -> None:
        """Answer what can be answered: a read waits for the writes before it."""
        while self._pending and self.open:
            request = self._pending[0]
            if request.kind in ("write", "sync", "close"):
                if request.number not in self._committed:
                    return
                answer = self._committed.pop(request.number)
            else:
                answer = self._read(request)
            self._pending.popleft()
            self._tell("answer", (request.number, self.server.tree.zxid, answer))
            if request.kind == "close":
                self.close()

    def _read(self, request: Request) -> Any:
        tree, path = self.server.tree, request.path
        answer: Any = None
        try:
            match request.kind:
                case "exists":
                    answer = tree.stat(path)
                case "data":
                    answer = (tree.data(path), tree.stat(path))
                case "children":
                    names = tree.children(path)
                    self.server.ensemble.chance.shuffle(names)
                    answer = (names, tree.stat(path))
        except NoNodeError as error:
            return error
        if request.watch:
            self.watched["children" if request.kind == "children" else "data", path] = None
        return answer

    def _tell(self, kind: str, message: Any) -> None:
        self.peer.tell(kind, message)


@dataclass(slots=True)
class Tracked:
    """A session, as a leader keeps it."""

    expiry: float  # on the leader's clock
    owner: object | None = None  # the server, or rather its connection to the leader, over which its requests come
    closing: bool = False


@dataclass(slots=True)
class Proposal:
    """What a leader has proposed and not committed."""

    txn: Txn
    acks: dict[Server, None] = field(default_factory=dict)


class Following:
    """A follower's connection to its leader, at both ends."""

    def __init__(self, server: Server, reign: Reign) -> None:
        self.server = server
        self.reign = reign
        self.main = Inbox(server)  # the follower's thread that reads
        self.forwarding = Inbox(server, "forwards")  # its thread that sends on what clients ask for
        self.handler = Inbox(reign.server)  # the leader's thread that reads
        self.down = Link(server.ensemble, (reign.server, server), self.main)
        self.up = Link(server.ensemble, (server, reign.server), self.handler)
        self.serves = False
        self.heard = server.clock.now().mono  # by the follower, of its leader
        self.patience = 0  # at the leader: the tick until which it waits for a word
        self.synced = False  # at the leader
        self.touched: dict[int, float] = {}  # session, timeout: since the last ping
        self._proposed: deque[Txn] = deque()  # not committed, as far as it knows
        self._commit_up_to = 0
        self._revalidating: dict[int, Connection] = {}
        server.set_timer(server.ensemble.sync_limit, self._look_for_silence)
        self.up.send(reign.joined_by(self))

    @property
    def current(self) -> bool:
        """Whether the server still follows here."""
        return self.server.role is self

    # --- the follower's main thread --------------------------------------------------------------------------

    def receive(self, call: Callable[[], None]) -> Callable[[], None]:
        """Something from the leader."""

        def received() -> None:
            if self.current:
                self.heard = self.server.clock.now().mono
                call()

        return received

    def sync(self, log: Sequence[Txn], epoch: int) -> None:
        """Take the leader's log for one's own."""
        self.server.log, self.server.epoch = list(log), epoch
        self.answer(lambda: self.reign.synced_with(self))

    def up_to_date(self, tree: Tree) -> None:
        """From now on it serves."""
        self.server.tree = tree
        self.serves = True
        while self._proposed and self._proposed[0].zxid <= tree.zxid:
            self._proposed.popleft()
        self._commit()

    def propose(self, txn: Txn) -> None:
        """Write it down, and say so."""
        self._proposed.append(txn)

        def logged() -> None:
            if self.current:
                self.server.log.append(txn)
                self.answer(lambda: self.reign.acknowledged(txn.zxid, self.server))
                self._commit()

        self.server.write_down(logged)

    def commit(self, zxid: int) -> None:
        """Carry it out."""
        self._commit_up_to = zxid
        self._commit()

    def _commit(self) -> None:
        limit = min(self._commit_up_to, self.server.logged)
        while self.serves and self._proposed and self._proposed[0].zxid <= limit:
            self.server.apply(self._proposed.popleft())

    def ping(self) -> None:
        """Answer with the sessions that it has heard of since the last one."""
        touched, self.touched = self.touched, {}
        self.answer(lambda: self.reign.hear_of(touched))

    def revalidated(self, number: int, *, valid: bool) -> None:
        """The leader has said whether a session lives."""
        if (connection := self._revalidating.pop(number, None)) is not None:
            connection.greet(valid=valid)

    def answer(self, call: Callable[[], None]) -> None:
        """Something for the leader, from the main thread."""
        self.up.send(self._at_leader(call))

    # --- its other threads -----------------------------------------------------------------------------------

    def revalidate(self, connection: Connection, session: int, timeout: float) -> None:
        """Ask the leader whether a session lives."""
        self._revalidating[connection.number] = connection

        def asked() -> None:
            valid = self.reign.revalidate(session, timeout, self)
            self.down.send(self.receive(lambda: self.revalidated(connection.number, valid=valid)))

        self.answer(asked)

    def forward(self, session: int, what: Request | Opened, origin: Origin) -> None:
        """Send on what a client asks for."""

        def forwarded() -> None:
            if self.current:
                self.answer(lambda: self.reign.take(session, what, origin, self))

        self.forwarding.put(forwarded)

    def _at_leader(self, call: Callable[[], None]) -> Callable[[], None]:
        def received() -> None:
            if self.reign.current and self in self.reign.followers:
                self.patience = self.reign.ticks + self.reign.ensemble.sync_ticks
                call()

        return received

    def _look_for_silence(self) -> None:
        if self.current:
            left = self.heard + self.server.ensemble.sync_limit - self.server.clock.now().mono
            if left <= 0:
                self.server.look_for_a_leader()
            else:
                self.server.set_timer(left, self._look_for_silence)

    def end(self) -> None:
        """The follower closes it; the leader comes to know of it, if anything gets through."""
        self.main.close()
        self.forwarding.close()
        self.down.end(lost=True)
        ensemble, reign = self.server.ensemble, self.reign
        if ensemble.loses():
            self.up.end(lost=True)
            ensemble.noticed(self.server, reign.server, lambda: reign.lose(self))
        else:
            self.up.send(lambda: reign.lose(self))
            self.up.end(lost=False)


class Reign:
    """One leadership, from the election until this leader knows that it is over."""

    def __init__(self, server: Server, epoch: int) -> None:
        self.server = server
        self.ensemble = server.ensemble
        self.epoch = epoch
        self.active = False
        self.followers: dict[Following, None] = {}
        self.sessions: dict[int, Tracked] = {}
        self.ahead = server.tree  # with all that is proposed
        self.outstanding: dict[int, Proposal] = {}
        self._count = itertools.count(1)
        self._syncs: dict[int, list[Callable[[], None]]] = {}  # by the zxid that they wait for
        self.ticks = 0
        self.pinged = self.ensemble.world.now  # when it last did
        self._half = False  # every second ping ends a tick
        server.epoch = epoch
        server.set_timer(self.ensemble.tick / 2, self._ping)

    @property
    def current(self) -> bool:
        """Whether its server takes itself for the leader."""
        return self.server.role is self

    # --- followers -------------------------------------------------------------------------------------------

    def joined_by(self, following: Following) -> Callable[[], None]:
        """A server wants to follow."""

        def joined() -> None:
            if not self.current:
                return
            self.followers[following] = None
            following.patience = self.ticks + self.ensemble.sync_ticks
            log = [txn for txn in self.server.log if txn.zxid not in self.outstanding]
            self.tell(following, lambda: following.sync(log, self.epoch))
            for proposal in self.outstanding.values():
                self.tell(following, functools.partial(following.propose, proposal.txn))

        return joined

    def synced_with(self, following: Following) -> None:
        """A follower has all that the leader has, as far as it is committed."""
        following.synced = True
        if self.active:
            self._serve(following)
        elif len([each for each in self.followers if each.synced]) + 1 >= self.ensemble.majority:
            self._activate()

    def _activate(self) -> None:
        """A majority has its log: all of it is committed, and every session gets a full timeout."""
        server = self.server
        self.active = True
        for txn in server.log:
            if txn.zxid > server.tree.zxid:
                server.apply(txn)
        server.tree.zxid = self.epoch << EPOCH
        self.ahead = server.tree.copy()
        for session, timeout in server.tree.sessions.items():
            self._track(session, timeout)
        for following in self.followers:
            if following.synced:
                self._serve(following)

    def _serve(self, following: Following) -> None:
        tree = self.server.tree.copy()
        self.tell(following, lambda: following.up_to_date(tree))

    def tell(self, following: Following, call: Callable[[], None]) -> None:
        """Something for a follower, from any thread."""
        following.down.send(following.receive(call))

    def lose(self, following: Following) -> None:
        """The connection is over, as far as the leader knows."""
        if following in self.followers:
            del self.followers[following]
            following.handler.close()
            following.up.end(lost=True)
            if self.ensemble.loses():
                following.down.end(lost=True)
                self.ensemble.noticed(self.server, following.server, lambda: following.server.has_lost(following))
            else:
                following.down.send(lambda: following.server.has_lost(following))
                following.down.end(lost=False)

    def _ping(self) -> None:
        """Twice a tick: ping all, and see whether there is a majority."""
        if not self.current:
            return
        ensemble = self.ensemble
        self.ticks += self._half
        with_us = [each for each in self.followers if self.ticks <= each.patience]
        if self._half and len(with_us) + 1 < ensemble.majority:
            self.server.look_for_a_leader()
            return
        self._half = not self._half
        self.pinged = ensemble.world.now
        for following in list(self.followers):
            if following not in with_us:
                self.lose(following)
            elif following.synced:
                self.tell(following, following.ping)
        self.server.set_timer(ensemble.tick / 2, self._ping)

    # --- sessions --------------------------------------------------------------------------------------------

    def hear_of(self, touched: dict[int, float]) -> None:
        """A follower has told which sessions it has heard of."""
        for session, timeout in touched.items():
            self.touch(session, timeout)

    def touch(self, session: int, timeout: float) -> bool:
        """The leader has heard of a session; whether it lives."""
        tracked = self.sessions.get(session)
        if tracked is None or tracked.closing:
            return False
        before, tracked.expiry = tracked.expiry, self._expiry(timeout)
        if tracked.expiry < before:  # by a server that grants less
            self._watch_over(session)
        return True

    def revalidate(self, session: int, timeout: float, owner: object) -> bool:
        """Somebody has connected with this session, over this server."""
        if not self.touch(session, timeout):
            return False
        self.sessions[session].owner = owner
        return True

    def _track(self, session: int, timeout: float) -> None:
        if session not in self.sessions:
            self.sessions[session] = Tracked(self._expiry(timeout))
            self._watch_over(session)

    def _expiry(self, timeout: float) -> float:
        end, tick = self.server.clock.now().mono + timeout, self.ensemble.tick
        return (end // tick + 1) * tick if self.ensemble.rounds_up else end

    def _watch_over(self, session: int) -> None:
        tracked = self.sessions.get(session)
        if not self.current or tracked is None or tracked.closing:
            return
        left = tracked.expiry - self.server.clock.now().mono
        if left > 0:
            self.server.set_timer(left, lambda: self._watch_over(session))
        else:
            tracked.closing = True
            self._propose((Closed(session, expired=True),), True, None)

    # --- transactions ----------------------------------------------------------------------------------------

    def take(self, session: int, what: Request | Opened, origin: Origin, owner: object) -> None:
        """A request has come; over whom, is the owner."""
        if not self.active:
            return
        if isinstance(what, Request) and what.kind == "sync":
            self._sync(lambda: self.answer_sync(origin, owner))
            return
        effects, answer = self._decided(session, what, owner)
        self._propose(tuple(effects), answer, origin)

    def _decided(self, session: int, what: Request | Opened, owner: object) -> tuple[Sequence[Effect], Any]:
        if isinstance(what, Opened):
            self._track(what.session, what.timeout)
            self.sessions[what.session].owner = owner
            return (what,), True
        tracked = self.sessions.get(session)
        if tracked is None or tracked.closing:
            return (), SessionExpiredError()
        if tracked.owner is None:
            tracked.owner = owner
        elif tracked.owner is not owner:
            return (), SessionMovedError()
        if what.kind == "close":
            tracked.closing = True
            return (Closed(session, expired=False),), True
        if what.multi:
            return self.ahead.decide_all(session, what.ops)
        try:
            return self.ahead.decide(session, what.ops[0])
        except KazooException as error:
            return (), error

    def _propose(self, effects: tuple[Effect, ...], answer: Any, origin: Origin | None) -> None:
        txn = Txn(self.epoch << EPOCH | next(self._count), effects, answer, origin)
        self.ahead.apply(txn.zxid, effects, speculative=True)
        self.outstanding[txn.zxid] = Proposal(txn)
        for following in self.followers:
            self.tell(following, functools.partial(following.propose, txn))

        def logged() -> None:
            if self.current:
                self.server.log.append(txn)
                self.acknowledged(txn.zxid, self.server)

        self.server.write_down(logged)

    def acknowledged(self, zxid: int, server: Server) -> None:
        """A server has written it down."""
        if (proposal := self.outstanding.get(zxid)) is not None:
            proposal.acks[server] = None
        while self.active and self.outstanding:
            first, proposal = next(iter(self.outstanding.items()))
            if self.server not in proposal.acks or len(proposal.acks) < self.ensemble.majority:
                return
            self._commit(first, proposal.txn)

    def _commit(self, zxid: int, txn: Txn) -> None:
        del self.outstanding[zxid]
        for effect in txn.effects:
            if isinstance(effect, Closed):
                self.sessions.pop(effect.session, None)
                self.ensemble.closed(effect, self.server.tree)
        for following in self.followers:
            self.tell(following, functools.partial(following.commit, zxid))
        self.server.apply(txn)
        for answer in self._syncs.pop(zxid, ()):
            answer()
        if not self.outstanding and self.ahead.sticks:
            for path, node in self.server.tree.nodes.items():
                self.ahead.nodes[path].count = node.count

    def _sync(self, answer: Callable[[], None]) -> None:
        if self.outstanding:
            self._syncs.setdefault(next(reversed(self.outstanding)), []).append(answer)
        else:
            answer()

    def answer_sync(self, origin: Origin, owner: object) -> None:
        """All that was asked for before is committed, and on its way to whom has asked."""
        if isinstance(owner, Following):
            self.tell(owner, lambda: owner.server.answered(origin, None))
        else:
            self.server.answered(origin, None)

    def end(self) -> None:
        """The leader knows that it leads no more."""
        for following in list(self.followers):
            self.lose(following)


class Server:
    """One server."""

    def __init__(self, ensemble: Ensemble, number: int, rate: float | None) -> None:
        self.ensemble = ensemble
        self.world = ensemble.world
        self.number = number
        self.name = f"zk{number}:2181"
        self.clock = ensemble.world.clock(rate)
        self.timeouts = (SMALLEST * ensemble.tick, LARGEST * ensemble.tick)
        self.up = True
        self.paused = False  # SIGSTOP: nothing of it runs
        self.life = 0  # how often it was started
        self.role: Following | Reign | None = None  # None: it looks for a leader
        self.epoch = 0  # the newest that it has agreed to
        self.log: list[Txn] = []
        self.tree = Tree(sticks=ensemble.sticks)  # with what is committed, as far as it knows
        self.inboxes: dict[Inbox, None] = {}
        self.connections: dict[Connection, None] = {}
        self._frozen: list[Callable[[], None]] = []
        self._disk, self._written = Way(self.world), Inbox(self)

    @property
    def running(self) -> bool:
        """Whether its process does anything."""
        return self.up and not self.paused

    @property
    def serves(self) -> bool:
        """Whether it answers clients."""
        role = self.role
        return role.serves if isinstance(role, Following) else role is not None and role.active

    @property
    def leads(self) -> bool:
        """Whether it takes itself for the leader."""
        return isinstance(self.role, Reign)

    @property
    def logged(self) -> int:
        """The newest that is on its disk."""
        return self.log[-1].zxid if self.log else 0

    def vote(self) -> tuple[int, int, int]:
        """Who has more of this is elected."""
        return self.epoch, self.logged, self.number

    # --- time ------------------------------------------------------------------------------------------------

    def set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        """Call in so many seconds of its own clock; late, if it is paused then."""
        life, clock = self.life, self.clock

        def due() -> None:
            if life != self.life:
                return
            if self.paused:
                self._frozen.append(due)
            else:
                call()

        self.world.after(clock.true_time_of_mono(clock.now().mono + seconds) - self.world.now, due)

    def write_down(self, call: Callable[[], None]) -> None:
        """Call when something is on disk, after all before it."""
        written = self._written
        self._disk.carry(self.ensemble.disk(), lambda: written.put(call))

    def go_on(self) -> None:
        """After a pause: each thread in its turn."""
        self.paused = False
        for inbox in list(self.inboxes):
            inbox.go_on()
        frozen, self._frozen = self._frozen, []
        for call in frozen:
            self.world.after(self.ensemble.race("sleeps"), call)

    # --- for clients -----------------------------------------------------------------------------------------

    def touch(self, session: int, timeout: float) -> None:
        """It has heard of a session."""
        if isinstance(self.role, Following):
            self.role.touched[session] = timeout
        elif self.role is not None:
            self.role.touch(session, timeout)

    def revalidate(self, connection: Connection, session: int) -> None:
        """Somebody comes with a session that it says it has."""
        if isinstance(self.role, Following):
            self.role.revalidate(connection, session, connection.timeout)
        elif self.role is not None:
            connection.greet(valid=self.role.revalidate(session, connection.timeout, self))

    def forward(self, connection: Connection, what: Request | Opened, number: int) -> None:
        """Let the leader decide."""
        origin, session = Origin(self.number, connection.number, number), connection.session or 0
        if isinstance(self.role, Following):
            self.role.forward(session, what, origin)
        elif self.role is not None:
            self.role.take(session, what, origin, self)

    def apply(self, txn: Txn) -> None:
        """Carry out what is committed, tell those who watch, and answer who has asked."""
        events = self.tree.apply(txn.zxid, txn.effects)
        for connection in list(self.connections):
            connection.fire(events)
        if txn.origin is not None and txn.origin.server == self.number:
            self.answered(txn.origin, txn.answer)
        for effect in txn.effects:
            if isinstance(effect, Closed):
                for connection in list(self.connections):
                    if connection.session == effect.session:
                        connection.close()

    def answered(self, origin: Origin, answer: Any) -> None:
        """What a client of its own has asked for is done."""
        for connection in list(self.connections):
            if connection.number == origin.connection:
                connection.committed(origin.request, answer)

    # --- who leads -------------------------------------------------------------------------------------------

    def look_for_a_leader(self) -> None:
        """It has none, or is none, any more: clients are sent away."""
        role, self.role = self.role, None
        for connection in list(self.connections):
            connection.close()
        if role is not None:
            role.end()

    def has_lost(self, following: Following) -> None:
        """Its leader has closed the connection."""
        if self.role is following:
            self.look_for_a_leader()


class Ensemble:
    """The servers, the network between them, and what is known of it all."""

    def __init__(
        self,
        world: World,
        *,
        servers: int = 3,
        tick: float = 1.0,
        sync_ticks: int = 5,
        sticks: bool = True,
        rates: Callable[[], float | None] = lambda: 1.0,
    ) -> None:
        self.world = world
        self.chance = world.chance
        self.tick = tick
        self.sync_ticks = sync_ticks
        self.sync_limit = sync_ticks * tick
        self.sticks = sticks
        self.rounds_up = True  # False: the least that a server may do
        self.hop: Callable[[], float] = lambda: 0.0005  # s between servers
        self.disk: Callable[[], float] = lambda: 0.0005  # s for a write
        # s until a thread of a server that goes on has its turn: one that "reads", "forwards", or "sleeps" until a time
        self.race: Callable[[str], float] = lambda thread: self.chance.uniform(0, 0.002)
        self.loses: Callable[[], bool] = lambda: self.chance.random() < 0.5  # what is under way when a link ends
        self.slow: dict[tuple[Server, Server], float] = {}  # s more, from one server to another
        self.links: dict[Link, None] = {}
        self.cuts: set[tuple[Server, Server]] = set()  # from one server to another nothing gets through
        self.expired: dict[int, float] = {}  # by session: when its end was committed, in true time
        self.deleted: dict[int, float] = {}  # by czxid: when the end of its session took a node along
        self.on_expired: Callable[[int, list[int]], None] = lambda session, nodes: None
        self._sessions = itertools.count(1)
        self._electing = False
        self.servers = [Server(self, number, rates()) for number in range(1, servers + 1)]
        self.election: Callable[[], float] = lambda: self.chance.uniform(0.2, 0.4) * tick  # s that one takes
        self._elect(self.servers[0], self.servers)
        world.after(VOTE_BEAT, self._beat)

    @property
    def majority(self) -> int:
        """How many servers are one."""
        return len(self.servers) // 2 + 1

    @property
    def leader(self) -> Server | None:
        """Who leads with a majority behind it, as far as that can be said: the one of the newest epoch."""
        found = [server for server in self.servers if isinstance(server.role, Reign) and server.role.active]
        return max(found, key=lambda server: server.epoch, default=None)

    @property
    def reign(self) -> Reign:
        """The leadership of the newest epoch."""
        leader = self.leader
        assert leader is not None
        assert isinstance(leader.role, Reign)
        return leader.role

    @property
    def newest(self) -> Tree:
        """The tree of the server that has the most."""
        return max((server.tree for server in self.servers), key=lambda tree: tree.zxid)

    def new_session(self, server: Server) -> int:
        """An id that no session had."""
        return server.number << 56 | next(self._sessions)

    def closed(self, closed: Closed, tree: Tree) -> None:
        """The end of a session was committed."""
        if closed.expired:
            nodes = [tree.nodes[path].czxid for path in tree.owned.get(closed.session, ())]
            self.expired[closed.session] = self.world.now
            self.deleted.update(dict.fromkeys(nodes, self.world.now))
            self.on_expired(closed.session, nodes)

    def expiry(self, session: int) -> float | None:
        """When the leader will end it, as far as it has heard, in true time; None: it has no such session."""
        leader = self.leader
        if session in self.expired:
            return self.expired[session]
        if leader is None or (tracked := self.reign.sessions.get(session)) is None:
            return None
        return leader.clock.true_time_of_mono(tracked.expiry)

    # --- the network -----------------------------------------------------------------------------------------

    def reaches(self, one: Server, other: Server) -> bool:
        """Whether a message gets from here to there."""
        return (one, other) not in self.cuts

    def delay(self, one: Server, other: Server) -> float:
        """How long a message takes."""
        return self.hop() + self.slow.get((one, other), 0.0)

    def noticed(self, one: Server, other: Server, call: Callable[[], None]) -> None:
        """A server has ended a connection: another one learns of it, if it can."""
        life = other.life

        def learnt() -> None:
            if other.life != life or not self.reaches(one, other):
                return
            if other.paused:
                other._frozen.append(learnt)
            else:
                call()

        self.world.after(self.delay(one, other), learnt)

    def order(self, *ops: Op, session: int = 0, timeout: float = 3600.0) -> None:
        """Let an operator write, or a stranger with a session of its own."""
        reign = self.reign
        if session and session not in reign.sessions:
            reign._track(session, timeout)
            reign._propose((Opened(session, timeout),), True, None)
        effects, _ = reign.ahead.decide_all(session, ops)
        reign._propose(tuple(effects), True, None)

    def set_count(self, path: str, count: int) -> None:
        """So many children a node is to have had."""
        for tree in [self.reign.ahead, *(server.tree for server in self.servers)]:
            if path in tree.nodes:  # else it comes to know of it with the next child
                tree.nodes[path].count = count

    def cut(self, one: Server, other: Server) -> None:
        """Let nothing get through from here to there."""
        self.cuts.add((one, other))

    def split(self, some: Sequence[Server]) -> None:
        """Cut these off from the others."""
        for one in some:
            for other in self.servers:
                if other not in some:
                    self.cut(one, other)
                    self.cut(other, one)

    def mend(self) -> None:
        """The network between the servers works again."""
        self.cuts.clear()
        self.slow.clear()
        for link in list(self.links):
            link.flow()

    # --- faults of servers -----------------------------------------------------------------------------------

    def pause(self, server: Server) -> None:
        """SIGSTOP."""
        server.paused = server.up

    def resume(self, server: Server) -> None:
        """SIGCONT."""
        if server.paused:
            server.go_on()

    def kill(self, server: Server) -> None:
        """kill -9."""
        if not server.up:
            return
        server.up = server.paused = False
        server.life += 1
        server._frozen.clear()
        for inbox in list(server.inboxes):
            inbox.close()
        server.look_for_a_leader()

    def start(self, server: Server) -> None:
        """Start it again, with what it had on disk."""
        if not server.up:
            server.up = True
            server._written = Inbox(server)

    def heal(self) -> None:
        """End of every fault of the servers and of the network between them."""
        self.mend()
        for server in self.servers:
            self.resume(server)
            self.start(server)

    # --- elections -------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self.world.after(VOTE_BEAT * self.tick, self._beat)
        looking = [server for server in self.servers if server.running and server.role is None]
        for server in looking:
            found = [each for each in self.servers if each.running and each.leads and self._together(server, each)]
            if found and self.chance.random() < 0.5:
                leader = max(found, key=lambda each: each.epoch)
                assert isinstance(leader.role, Reign)
                if leader.epoch >= server.epoch:
                    server.role = Following(server, leader.role)
        if not self._electing and self._electorate():
            self._electing = True
            self.world.after(self.election(), self._vote)

    def _electorate(self) -> list[Server]:
        """A majority who all look for a leader and hear each other."""
        looking = [server for server in self.servers if server.running and server.role is None]
        for server in looking:
            with_it = [each for each in looking if self._together(server, each)]
            if len(with_it) >= self.majority:
                return with_it
        return []

    def _vote(self) -> None:
        self._electing = False
        voters = self._electorate()
        if voters:
            self._elect(max(voters, key=Server.vote), voters)

    def _elect(self, leader: Server, voters: Sequence[Server]) -> None:
        reign = leader.role = Reign(leader, max(server.epoch for server in voters) + 1)
        for server in voters:
            if server is not leader:
                server.role = Following(server, reign)

    def elect(self, leader: Server) -> None:
        """Let those of its side who can hear it elect it at once, if it may be elected."""
        voters = [server for server in self.servers if server.running and self._together(server, leader)]
        assert len(voters) >= self.majority, "the scene is wrong: nobody elects without a majority"
        assert max(voters, key=lambda server: server.vote()[:2]).vote()[:2] == leader.vote()[:2]
        for server in voters:
            if server.role is not None:
                server.look_for_a_leader()
        self._elect(leader, voters)

    def _together(self, one: Server, other: Server) -> bool:
        return self.reaches(one, other) and self.reaches(other, one)
