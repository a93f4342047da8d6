"""A cluster of etcd in a `World`: members, their leader, the log, the lessor, and what a client may ask of a member.

The rule: whatever etcd 3.4 and 3.5 do to a lease, the model may do, and a little more. What it keeps of raft is what
clients can tell: one log, a leader with a quorum who adds to it, terms that rise, members that lag behind. Where etcd
leaves the outcome open, chance decides.

- A linearizable read, and a write, see the whole log; a member without a leader, or without a quorum, does not answer.
- `raft_term` and `revision` of a header are those of the last entry that the asked member has applied. A keepalive's
  header is filled before the lease is prolonged (v3rpc/lease.go).
- Only the leader's lessor counts. It prolongs every lease by an election timeout and its ttl when it takes office
  (lessor.Promote), and a leader that was deposed, but does not know it, goes on answering keepalives.
- Such a leader revokes, when it goes on, the leases that have run out by its own count (`revokes`).
- What a leader had not committed when it fell may be committed by the next one, or by nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coordkit.backends.etcd import stubs
from coordkit.testing.virtual import World
from tests.simulation.etcd_store import PUT, Refusal, Store

ELECTION = 1.0  # s: etcd's default election timeout
BEAT = 0.1  # s: its default heartbeat
SCAN = 0.5  # s: how often the lessor looks for leases that have run out
REVOKE_AGAIN = 3.0  # s: when a revocation was not committed
SHORTEST = 2  # s: the least ttl that is granted, 1.5 election timeouts in whole seconds
SERVED = 7.0  # s: how long a member tries to serve a request
STREAMS = 3 * ELECTION  # s: how long a stream that asks for a leader lives without one

NO_LEADER = Refusal("UNAVAILABLE", "etcdserver: no leader")
LEADER_CHANGED = Refusal("UNAVAILABLE", "etcdserver: leader changed")
TIMED_OUT = Refusal("UNAVAILABLE", "etcdserver: request timed out")

Reply = Callable[[Any], None]  # takes a message or a Refusal


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log, applied."""

    term: int
    revision: int  # of the store, after it


@dataclass(frozen=True, slots=True)
class Proposal:
    """What somebody wants to have in the log. `answer` is told the outcome and the entry's index."""

    command: Callable[[Store], Any]
    answer: Callable[[Any, int], None]


class Member:
    """One server."""

    def __init__(self, cluster: Cluster, number: int, version: str, rate: float | None) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.name = f"etcd{number}:2379"
        self.id = 0xE00 + number
        self.version = version
        self.clock = cluster.world.clock(rate)
        self.up = True
        self.paused = False  # SIGSTOP: nothing of it runs
        self.hung = False  # its disk hangs: raft stands still, clients are answered as far as that goes
        self.side = 0  # of the network between the members
        self.life = 0  # how often it was started
        self.term = 1  # the newest that it knows of
        self.lead: Member | None = None
        self.heard = 0.0  # when it last heard from a leader
        self.catching_up = False
        self.applied = 0  # the last entry of the log that it has applied
        self.primary = False  # its lessor believes to be the leader's
        self.expiry: dict[int, float] = {}  # by lease, on its own clock: the primary's
        self.revoking: dict[int, float] = {}  # when a revocation was last asked for
        self.scanned = 0.0
        self.inbox: list[Callable[[], None]] = []  # what came while it was paused
        self.waiting: list[tuple[float, Callable[[], bool]]] = []  # served when they return True
        self.held: list[Proposal] = []  # that a leader which stands still has not looked at
        self.streams: list[WatchStream] = []
        self.hangs_up: list[Callable[[], None]] = []  # how to break each connection of a client

    # --- what it is ------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether its process does anything."""
        return self.up and not self.paused

    @property
    def active(self) -> bool:
        """Whether it takes part in raft."""
        return self.running and not self.hung

    @property
    def entry(self) -> Entry:
        """The last entry that it has applied."""
        return self.cluster.log[self.applied]

    def reaches(self, other: Member) -> bool:
        """Whether a message gets from here to there."""
        return other.up and (self is other or self.side == other.side)

    def header(self, message: Any) -> Any:
        """Fill a message's header with what this member knows now."""
        header = message.header
        header.cluster_id, header.member_id = self.cluster.id, self.id
        header.raft_term = self.entry.term
        if not header.revision:  # a transaction's is its own
            header.revision = self.entry.revision
        return message

    def apply_to(self, index: int) -> None:
        """Apply the log up to this entry, and tell the watchers."""
        if index > self.applied:
            if self is not self.cluster.leader and self.cluster.log[index].term > self.entry.term:
                self.demote()  # raft tells of the new leader before it hands out the entries
            self.applied = index
            for stream in list(self.streams):
                stream.feed()

    # --- what is asked of it ---------------------------------------------------------------------------------

    def when_running(self, call: Callable[[], None]) -> None:
        """Now, or after a pause, unless it dies before."""
        if self.running:
            call()
        elif self.up:
            life = self.life
            self.inbox.append(lambda: call() if life == self.life else None)

    def serve(self, path: str, request: Any, metadata: Any, reply: Reply) -> None:
        """Answer one unary call, now or later or never."""
        service, _, method = path.rpartition("/")
        if ("hasleader", "true") in metadata and self.lead is None:
            reply(NO_LEADER)
            return
        match method:
            case "Txn" if _only_reads(request):
                self._read(lambda store: store.transact(request), reply)
            case "Range":
                self._read(lambda store: store.range(request), reply)
            case "Txn":
                self._write(lambda store: store.transact(request), reply)
            case "LeaseGrant":
                self._grant(request, reply)
            case "LeaseRevoke":
                self._write(lambda store: store.revoke(request.ID) or self.rpc.LeaseRevokeResponse(), reply)
            case "LeaseTimeToLive":
                self._with_primary(lambda at: at.time_to_live(self, request.ID, reply), reply)
            case "Status":
                leader = 0 if self.lead is None else self.lead.id
                reply(self.header(self.rpc.StatusResponse(version=self.version, leader=leader)))
            case _:
                raise AssertionError(f"{service} has no {method} here")

    def keep_alive(self, lease: int, reply: Reply) -> None:
        """Answer one request of a stream of keepalives."""
        early = self.cluster.header_first
        answer = self.rpc.LeaseKeepAliveResponse(ID=lease)
        if early:
            self.header(answer)

        def prolonged(ttl: int) -> None:
            answer.TTL = ttl
            reply(answer if early else self.header(answer))

        self._with_primary(lambda at: at.prolong(self, lease, prolonged, reply), reply)

    @property
    def rpc(self) -> Any:
        return self.cluster.rpc

    def _read(self, read: Callable[[Store], Any], reply: Reply) -> None:
        cluster = self.cluster

        def confirmed() -> bool:
            if not cluster.follows(self):
                return False
            answer = read(cluster.store)
            self.apply_to(cluster.tip)
            reply(self.header(answer))
            return True

        self._later(lambda: self._until_served(confirmed, reply))

    def _write(self, command: Callable[[Store], Any], reply: Reply) -> None:
        """Propose, wait until it is in the log, and until this member has applied it."""

        def outcome(answer: Any, index: int) -> None:
            def applied() -> bool:
                if not self.active:
                    return False
                self.apply_to(index)
                reply(answer if isinstance(answer, Refusal) else self.header(answer))
                return True

            self._later(lambda: self._until_served(applied, reply))

        self._later(lambda: self.propose(Proposal(command, outcome)))

    def _grant(self, request: Any, reply: Reply) -> None:
        ttl = max(SHORTEST, request.TTL)
        ttl = min(ttl, self.cluster.longest_ttl or ttl)

        def grant(store: Store) -> Any:
            refusal = store.grant(request.ID, ttl)
            return refusal or self.rpc.LeaseGrantResponse(ID=request.ID, TTL=ttl)

        self._write(grant, reply)

    def _later(self, call: Callable[[], None]) -> None:
        """After a hop between members, unless this one dies before."""
        life = self.life

        def arrived() -> None:
            if life == self.life:
                self.when_running(call)

        self.world.after(self.cluster.hop(), arrived)

    def _until_served(self, call: Callable[[], bool], reply: Reply) -> None:
        if not call():
            lead, began = self.lead, self.world.now

            def again() -> bool:
                if call():
                    return True
                if self.world.now - began > SERVED:
                    reply(TIMED_OUT)
                    return True
                if self.active and self.lead is not lead and self.cluster.chance.random() < 0.5:
                    reply(LEADER_CHANGED)
                    return True
                return False

            self.waiting.append((began, again))

    def serve_waiting(self) -> None:
        """Try again what could not be served."""
        waiting, self.waiting = self.waiting, []
        self.waiting += [each for each in waiting if not each[1]()]

    # --- proposals -------------------------------------------------------------------------------------------

    def propose(self, proposal: Proposal) -> None:
        """Send it to whom this member follows; what becomes of it, nobody may ever tell."""
        lead = self.lead
        if lead is None or not self.reaches(lead) or (self.hung and lead is not self):
            return  # it is lost; the client runs into its deadline
        cluster, life = self.cluster, lead.life

        def arrived() -> None:
            if lead.life != life:
                return
            if not lead.active:
                lead.held.append(proposal)
            elif cluster.leader is lead:
                cluster.take(proposal)
            elif cluster.chance.random() < 0.5:  # it was deposed, and hands it on, or not
                lead.propose(proposal)

        self.world.after(cluster.hop(), arrived)

    # --- leases ----------------------------------------------------------------------------------------------

    def _with_primary(self, call: Callable[[Member], bool], reply: Reply) -> None:
        """Let the lessor that counts, as far as this member knows, answer: it returns False to be asked again."""

        def asked() -> bool:
            if self.primary:
                return call(self)
            lead = self.lead
            return lead is not None and lead.running and self.reaches(lead) and lead.primary and call(lead)

        def start() -> None:
            if self.primary:
                self._until_served(asked, reply)
            else:
                self._later(lambda: self._until_served(asked, reply))

        start()

    def knows(self, lease: int) -> bool:
        """Whether it has applied the grant, and not the revocation."""
        granted, revoked = self.cluster.spans.get(lease, (None, None))
        return granted is not None and granted <= self.applied and not (revoked is not None and revoked <= self.applied)

    def prolong(self, asked: Member, lease: int, prolonged: Callable[[int], None], reply: Reply) -> bool:
        """As the primary: False while the lease has run out and is not revoked yet."""
        if not self.knows(lease):
            self._answered(asked, lambda: prolonged(0))
            return True
        now = self.clock.now().mono
        if self.expiry.get(lease, now + 1) <= now:
            return False
        self.expiry[lease] = now + self.cluster.ttls[lease]
        self._answered(asked, lambda: prolonged(self.cluster.ttls[lease]))
        return True

    def time_to_live(self, asked: Member, lease: int, reply: Reply) -> bool:
        """As the primary: how long the lease has, and its keys."""
        answer = self.rpc.LeaseTimeToLiveResponse(ID=lease)
        if not self.knows(lease):
            answer.TTL = -1
        else:
            answer.grantedTTL = self.cluster.ttls[lease]
            answer.TTL = int(self.expiry.get(lease, answer.grantedTTL) - self.clock.now().mono)
            held = self.cluster.store.leases.get(lease)
            answer.keys.extend(sorted(held.keys) if held is not None else [])
        self._answered(asked, lambda: reply(asked.header(answer)))
        return True

    def _answered(self, asked: Member, call: Callable[[], None]) -> None:
        call() if asked is self else asked._later(call)

    def scan(self) -> None:
        """As the primary: ask for the revocation of leases that have run out."""
        now = self.clock.now().mono
        if now < self.scanned + self.cluster.scan:
            return
        self.scanned = now
        for lease in self.run_out():
            if self.revoking.get(lease, -REVOKE_AGAIN) + REVOKE_AGAIN <= now:
                self.revoking[lease] = now
                self.cluster.take(_revocation(lease))

    def run_out(self) -> list[int]:
        """The leases that have run out by its own count."""
        now = self.clock.now().mono
        return [lease for lease, end in self.expiry.items() if end <= now and self.knows(lease)]

    def promote(self) -> None:
        """It leads, and has applied all of the terms before."""
        now = self.clock.now().mono
        self.primary = True
        self.scanned = now + self.cluster.chance.uniform(-self.cluster.scan, 0)
        self.expiry = {lease: now + ELECTION + ttl for lease, ttl in self.cluster.ttls.items() if self.knows(lease)}
        self.revoking.clear()

    def demote(self) -> None:
        """It has learnt that it leads no more, or has lost its quorum."""
        self.primary = False
        self.expiry.clear()


class WatchStream:
    """One stream of watches that a client has opened at a member."""

    def __init__(self, member: Member, send: Reply, metadata: Any) -> None:
        self.member = member
        self.send = send
        self.next: dict[int, tuple[Any, int]] = {}  # by number: what is watched, and the next revision
        self.numbers = 0
        self.lonely: float | None = None  # since when its member has no leader
        self.wants_leader = ("hasleader", "true") in metadata
        member.streams.append(self)
        if self.wants_leader and member.lead is None:
            self.end(NO_LEADER)

    def receive(self, request: Any) -> None:
        """Take a request of the client."""
        member = self.member
        if self not in member.streams:
            return
        if request.WhichOneof("request_union") == "create_request":
            asked, number = request.create_request, self.numbers
            self.numbers += 1
            self.next[number] = asked, asked.start_revision or member.entry.revision + 1
            self._answer(number, created=True)
            self.feed()
        elif self.next.pop(request.cancel_request.watch_id, None) is not None:
            self._answer(request.cancel_request.watch_id, canceled=True)

    def feed(self) -> None:
        """Tell what the member has applied, and was not told yet."""
        history, newest = self.member.cluster.store.history, self.member.entry.revision
        for number, (asked, start) in list(self.next.items()):
            for revision in range(max(start, 2), newest + 1):
                found = [event for event in history[revision - 2] if _watched(asked, event)]
                if found:
                    answer = self.member.header(self.member.rpc.WatchResponse(watch_id=number))
                    for event in found:
                        answer.events.add(type=event.kind, kv=event.kv)
                    self.send(answer)
            self.next[number] = asked, max(start, newest + 1)

    def end(self, why: Any) -> None:
        """End it from the member's side."""
        self.close()
        self.send(why)

    def close(self) -> None:
        """The client is gone."""
        if self in self.member.streams:
            self.member.streams.remove(self)

    def _answer(self, number: int, **fields: bool) -> None:
        self.send(self.member.header(self.member.rpc.WatchResponse(watch_id=number, **fields)))


class Cluster:
    """The members, the log, and who leads."""

    def __init__(
        self,
        world: World,
        *,
        members: int = 3,
        version: str = "3.4.23",
        revokes: bool = True,
        rates: Callable[[], float | None] = lambda: 1.0,
    ) -> None:
        self.world = world
        self.chance = world.chance
        self.rpc = stubs.load()
        self.id = 0xC1
        self.store = Store(self.rpc)
        self.log = [Entry(1, 1)]
        self.term = 1
        self.ttls: dict[int, int] = {}  # of all leases that ever were
        self.spans: dict[int, tuple[int, int | None]] = {}  # by lease: the entries of its grant and its revocation
        self.members = [Member(self, number, version, rates()) for number in range(1, members + 1)]
        self.leader: Member | None = None
        self.ready = False  # the leader has committed an entry of its term
        self.limbo: list[tuple[Proposal, bool]] = []  # taken by the leader, not committed; whether others have it
        self._orders: list[Proposal] = []  # of an operator, who tries until it is done
        self.patience = 2 * ELECTION  # s until a leader without a quorum steps down
        self.hop: Callable[[], float] = lambda: 0.0005  # s between members
        self.revokes = revokes  # whether a leader that goes on revokes living leases
        self.scan = SCAN
        self.longest_ttl: int | None = None  # etcd grants no less than was asked for; its contract says that it may
        self.header_first = True  # False: a server which fills in the headers of keepalives afterwards
        self.wrongful: Callable[[], float | None] = lambda: 0.01  # s until a resumed leader has revoked; None: it fails
        self.revoked_alive = 0  # leases that were revoked although they had not run out
        self._elect(self.members[0])
        self._settle(self.members[0], self.term)
        world.after(BEAT, self._beat)

    @property
    def tip(self) -> int:
        """The last entry of the log."""
        return len(self.log) - 1

    @property
    def quorum(self) -> int:
        """How many members are a majority."""
        return len(self.members) // 2 + 1

    def follows(self, member: Member) -> bool:
        """Whether a member, asked now, can learn the whole log from a leader that has a quorum."""
        leader = self.leader
        return (
            leader is not None
            and self.ready
            and member.active
            and member.lead is leader
            and member.reaches(leader)
            and self.has_quorum()
        )

    def has_quorum(self) -> bool:
        """Whether the leader can commit."""
        leader = self.leader
        return leader is not None and leader.active and len(self._side(leader.side)) >= self.quorum

    # --- the log ---------------------------------------------------------------------------------------------

    def take(self, proposal: Proposal) -> None:
        """The leader has it now; it is committed after a hop to a quorum and back."""
        leader, term = self.leader, self.term
        if leader is None:
            return
        taken = proposal, len(self._side(leader.side)) > 1
        self.limbo.append(taken)

        def replicated() -> None:
            if taken in self.limbo and self.leader is leader and self.term == term and self.ready and self.has_quorum():
                self.limbo.remove(taken)
                self.commit(proposal)
            # else the next leader decides, or the same one in a later beat

        self.world.after(self.hop() + self.hop(), replicated)

    def commit(self, proposal: Proposal, term: int | None = None) -> None:
        """It is in the log, and applied by the leader."""
        before = set(self.store.leases)
        answer = proposal.command(self.store)
        self.log.append(Entry(self.term if term is None else term, self.store.revision))
        for lease, held in self.store.leases.items():
            if lease not in before:
                self.ttls[lease], self.spans[lease] = held.ttl, (self.tip, None)
        for lease in sorted(before - set(self.store.leases)):
            self.spans[lease] = self.spans[lease][0], self.tip
        leader = self.leader
        if leader is not None and leader.active:
            if leader.primary:
                now = leader.clock.now().mono
                for lease in self.store.leases:
                    if lease not in before:
                        leader.expiry[lease] = now + self.ttls[lease]
                for lease in before - set(self.store.leases):
                    leader.expiry.pop(lease, None)
            leader.apply_to(self.tip)
        self._spread()
        proposal.answer(answer, self.tip)

    def order(self, command: Callable[[Store], Any]) -> None:
        """Let an operator write, as soon as it can be committed."""
        self._orders.append(Proposal(command, lambda answer, index: None))

    def _spread(self) -> None:
        """Let the members learn of it, each after a while."""
        for member in self.members:
            if member.applied < self.tip and not member.catching_up:
                self._let_catch_up(member)

    def _let_catch_up(self, member: Member) -> None:
        member.catching_up = True
        self.world.after(self.hop(), lambda: self._catch_up(member))

    def _catch_up(self, member: Member) -> None:
        member.catching_up = False
        if member.active and self.leader is not None and member.lead is self.leader and member.reaches(self.leader):
            member.apply_to(self.tip)

    # --- who leads -------------------------------------------------------------------------------------------

    def _side(self, side: int) -> list[Member]:
        return [member for member in self.members if member.active and member.side == side]

    def _beat(self) -> None:
        self.world.after(BEAT, self._beat)
        now, leader = self.world.now, self.leader
        if leader is not None and leader.active:
            if self.has_quorum():
                for member in self._side(leader.side):
                    self._follow(member, leader)
                if self.ready:
                    while self._orders:
                        self.commit(self._orders.pop(0))
                    for taken in self.limbo[:1]:  # of a time without quorum
                        if self.chance.random() < 0.3:
                            self.limbo.remove(taken)
                            self.commit(taken[0])
            elif now - leader.heard > self.patience:
                self._step_down(leader)  # check-quorum
            else:
                for member in self._side(leader.side):
                    if member is not leader:
                        self._follow(member, leader)
        for member in self.members:
            if member.active:
                self._alone(member, now)
                if member.primary and member is self.leader and self.ready:
                    member.scan()
            if member.running:
                member.serve_waiting()
        self._vote(now)

    def _follow(self, member: Member, leader: Member) -> None:
        member.heard, member.term = self.world.now, self.term
        if member is not leader and member.primary:
            member.demote()
        if member.lead is not leader:
            member.lead = leader
            held, member.held = member.held, []
            for proposal in held:
                if self.chance.random() < 0.5:
                    member.propose(proposal)
        if self.ready and member.applied < self.tip and not member.catching_up:
            self._let_catch_up(member)

    def _alone(self, member: Member, now: float) -> None:
        if member.lead is not None and member.lead is not self.leader and now - member.heard > 2 * ELECTION:
            member.lead = None  # whom it follows is no leader any more, or cannot be reached
            member.demote()
        elif member.lead is self.leader and member is not self.leader and now - member.heard > 1.5 * ELECTION:
            member.lead = None
        for stream in list(member.streams):
            if member.lead is not None:
                stream.lonely = None
            elif stream.lonely is None:
                stream.lonely = now
            elif stream.wants_leader and now - stream.lonely > STREAMS:
                stream.end(NO_LEADER)

    def _step_down(self, leader: Member) -> None:
        leader.lead = None
        leader.demote()
        if self.leader is leader:
            self.leader, self.ready = None, False

    def _vote(self, now: float) -> None:
        """A quorum that has not heard from a leader for an election timeout makes one of its own."""
        if self.has_quorum():
            return
        for side in sorted({member.side for member in self.members}):
            voters = [member for member in self._side(side) if now - member.heard > ELECTION]
            if len(voters) >= self.quorum and self.chance.random() < 0.2:
                self._elect(self.chance.choice(voters))
                leader, term = self.leader, self.term
                assert leader is not None
                self.world.after(self.hop() + self.hop(), functools.partial(self._settle, leader, term))
                return

    def _elect(self, member: Member) -> None:
        self.term += 1
        self.leader, self.ready = member, False
        self.patience = self.chance.uniform(1, 2) * ELECTION
        for each in self._side(member.side):
            self._follow(each, member)

    def _settle(self, leader: Member, term: int) -> None:
        """The new leader commits what it has found, and an empty entry of its own term, and becomes the primary."""
        if self.leader is not leader or self.term != term:
            return
        if not self.has_quorum():
            if leader.up:
                self.world.after(BEAT, lambda: self._settle(leader, term))
            return
        limbo, self.limbo = self.limbo, []
        for proposal, shared in limbo:
            if shared and self.chance.random() < 0.5:
                self.commit(proposal, self.log[-1].term)
        self.log.append(Entry(term, self.store.revision))
        self.ready = True
        leader.apply_to(self.tip)
        leader.promote()
        self._spread()

    def elect(self, member: Member) -> None:
        """Let this one lead at once, as when a leader is asked to hand over, or its followers have waited for long."""
        self._elect(member)
        self._settle(member, self.term)

    def lease_end(self, lease: int) -> float | None:
        """When a lease runs out at the earliest, in true time. None: it is gone, or the next leader will know."""
        leader = self.leader
        if leader is None or not self.ready or lease not in self.store.leases or lease not in leader.expiry:
            return None
        return leader.clock.true_time_of_mono(leader.expiry[lease])

    # --- faults ----------------------------------------------------------------------------------------------

    def kill(self, member: Member) -> None:
        """kill -9."""
        if not member.up:
            return
        member.up = member.paused = member.hung = False
        member.life += 1
        member.lead = None
        member.demote()
        member.inbox.clear()
        member.waiting.clear()
        member.held.clear()
        member.streams.clear()
        if self.leader is member:
            self.leader, self.ready = None, False
        for hang_up in list(member.hangs_up):
            hang_up()

    def start(self, member: Member) -> None:
        """Start it again, with what it had on disk."""
        member.up = True
        member.heard = self.world.now

    def pause(self, member: Member) -> None:
        """SIGSTOP."""
        member.paused = member.up

    def hang(self, member: Member) -> None:
        """Its disk hangs."""
        member.hung = member.up

    def resume(self, member: Member) -> None:
        """It goes on, whatever stopped it."""
        if not (member.paused or member.hung):
            return
        member.paused = member.hung = False
        if member.primary and member is not self.leader and self.revokes:
            for lease in member.run_out():
                if (delay := self.wrongful()) is not None:
                    self.world.after(delay, lambda lease=lease: self._revoke_wrongly(lease))  # type: ignore[misc]
        inbox, member.inbox = member.inbox, []
        for call in inbox:
            self.world.after(self.chance.uniform(0, 0.01), lambda call=call: member.when_running(call))  # type: ignore[misc]
        if member is self.leader:
            held, member.held = member.held, []
            for proposal in held:
                self.take(proposal)

    def split(self, members: list[Member]) -> None:
        """Cut these off from the others."""
        for member in members:
            member.side = 1

    def heal(self) -> None:
        """End of every fault of the members and of the network between them."""
        for member in self.members:
            member.side = 0
            if member.up:
                self.resume(member)
            else:
                self.start(member)

    def _revoke_wrongly(self, lease: int) -> None:
        if self.leader is not None and self.ready and lease in self.store.leases:
            if self.leader.expiry.get(lease, 0.0) > self.leader.clock.now().mono:
                self.revoked_alive += 1
            self.take(_revocation(lease))


def _revocation(lease: int) -> Proposal:
    return Proposal(lambda store: store.revoke(lease), lambda answer, index: None)


def _only_reads(request: Any) -> bool:
    """A transaction without writes goes by a linearizable read, not through the log."""
    for op in (*request.success, *request.failure):
        kind = op.WhichOneof("request")
        if kind in ("request_put", "request_delete_range"):
            return False
        if kind == "request_txn" and not _only_reads(op.request_txn):
            return False
    return True


def _watched(asked: Any, event: Any) -> bool:
    key = event.kv.key
    if not (asked.key <= key < asked.range_end if asked.range_end else key == asked.key):
        return False
    return not (event.kind == PUT and 0 in asked.filters)
