"""Directed schedules of the etcd adapter: for each of its rules the course of events in which breaking it shows.

The rule: as in `schedules.py`, a schedule raises `Broken` where the promise is broken, and nothing else.

    python -m tests.simulation.etcd_schedules NAME [NAME ...]        exit status 3: broken
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from coordkit.backends.contract import Behind, Candidacy, Grant, Renewed
from coordkit.backends.etcd.adapter import EtcdBackend
from coordkit.backends.etcd.layout import Place, record_value
from coordkit.clock import new_candidate_id
from coordkit.errors import BackendError, OutcomeUnknown
from coordkit.lease import Promise
from coordkit.model import CandidateInfo
from coordkit.testing.virtual import World
from tests.simulation.etcd_model import Cluster, Member
from tests.simulation.etcd_store import Store
from tests.simulation.etcd_wire import Fair, join
from tests.simulation.playing import Schedules, must
from tests.simulation.storm import Broken

PLACE = Place("", "e")
ROUNDING = 1e-6

SCHEDULES = Schedules()
schedule = SCHEDULES.schedule


class Ordered(Fair):
    """Every message takes a millisecond; but the next ones of a kind what was ordered, in the order of ordering."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, float | None]] = []  # end of the path, seconds; None: lost, and the connection
        self.replies: list[tuple[str, float | None]] = []

    def request(self, path: str, message: Any) -> float | None:
        return self._fate(self.requests, path)

    def reply(self, path: str, message: Any) -> float | None:
        return self._fate(self.replies, path)

    def _fate(self, orders: list[tuple[str, float | None]], path: str) -> float | None:
        for order in orders:
            if path.endswith(order[0]):
                orders.remove(order)
                return order[1]
        return self.seconds


class Client:
    """A process with the real adapter."""

    def __init__(self, it: Scene, name: str, members: Sequence[int]) -> None:
        self.it = it
        self.process = it.world.process(name, rate=1.0)
        self.connection = join(
            self.process,
            it.cluster,
            [it.cluster.members[number - 1] for number in members],
            trust_leases=not it.records,
        )
        self.connection._next = 0
        backend = self.process.keeper.backend
        assert isinstance(backend, EtcdBackend)
        self.backend = backend
        self.orders = Ordered()
        for wire in self.connection.wires.values():
            wire.weather = self.orders
        self.run(self.backend.open())

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

    def candidacy(self, election: str = "e") -> Candidacy:
        """A new candidate."""
        name = self.process.name
        return self.backend.candidacy(
            election, CandidateInfo(new_candidate_id(name, self.process.chance), name), self.it.ttl
        )

    def attempt(self, candidacy: Candidacy) -> Any:
        """One attempt, with the time that a campaign gives it."""

        async def bounded() -> Any:
            try:
                async with asyncio.timeout(self.it.ttl / 3):
                    return await candidacy.attempt()
            except TimeoutError:
                return OutcomeUnknown("no answer")

        return self.run(bounded())

    def win(self, candidacy: Candidacy) -> Grant:
        """Attempt until it has won, or the promise is broken that it can."""
        answer: Any = None
        for _ in range(20):
            answer = self.attempt(candidacy)
            if isinstance(answer, Grant):
                return answer
            self.it.world.run(self.it.ttl / 4)
        raise Broken(f"{self.process.name} wins: {answer!r}")

    def cut(self) -> None:
        """Nothing gets through any more."""
        for wire in self.connection.wires.values():
            wire.cut()

    def mend(self) -> None:
        """It does again."""
        for wire in self.connection.wires.values():
            wire.mend()

    def move(self) -> None:
        """Use the next endpoint."""
        assert self.connection._current is not None
        self.connection.leave(self.connection._current)

    def end_of(self, promise: Promise) -> float:
        """When it acts no more, in true time."""
        return self.process.machine.true_time_of_boot(promise.sent.boot + promise.span)


class Scene:
    """A world with a cluster whose leader is its first member, and clocks that are right."""

    def __init__(self, world: World, ttl: float, records: bool, members: int) -> None:
        self.world = world
        self.ttl = ttl
        self.records = records  # else leases are trusted, rightly: no leader that goes on revokes a living one
        self.cluster = Cluster(world, members=members, revokes=records)
        self.cluster.scan = 0.0  # a lease that has run out is revoked in the next beat
        world.run(0.1)

    def member(self, number: int) -> Member:
        return self.cluster.members[number - 1]

    def client(self, name: str, *members: int) -> Client:
        return Client(self, name, members or range(1, len(self.cluster.members) + 1))

    def within(self, seconds: float, condition: Callable[[], bool], promise: str) -> None:
        try:
            self.world.run_until(condition, seconds)
        except TimeoutError:
            raise Broken(f"not within {seconds:g} s: {promise}") from None

    def order(self, command: Callable[[Store], Any]) -> None:
        """An operator's write."""
        self.cluster.order(command)
        self.world.run(0.3)

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        rpc = self.cluster.rpc
        op = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))
        self.order(lambda store: store.transact(rpc.TxnRequest(success=[op])))

    def delete(self, key: bytes) -> None:
        rpc = self.cluster.rpc
        op = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        self.order(lambda store: store.transact(rpc.TxnRequest(success=[op])))

    def stranger(self) -> bytes:
        """`etcdctl elect` has queued up."""
        self.order(lambda store: store.grant(0x5E, 3600))
        key = PLACE.entry(0x5E)
        self.put(key, b"etcdctl", 0x5E)
        return key

    def entries(self, election: str = "e") -> list[Any]:
        """The keys of an election, in their order."""
        start = Place("", election).entries
        found = [kv for key, kv in self.cluster.store.keys.items() if key.startswith(start)]
        return sorted(found, key=lambda kv: kv.create_revision)

    def record(self) -> Any:
        kv = self.cluster.store.keys.get(PLACE.record)
        return None if kv is None else json.loads(kv.value)

    def covered(self, client: Client, promise: Promise, lease: int) -> None:
        """What was promised is not longer than what the cluster keeps."""
        end = self.cluster.lease_end(lease)
        assert end is not None, "the scene is wrong: there is no such lease"
        over = client.end_of(promise) - end
        must(over <= ROUNDING, f"nobody acts after the lease in the cluster; {over:.3f} s were promised beyond it")


@contextlib.contextmanager
def scene(*, ttl: float = 5.0, records: bool = False, members: int = 3, drift: float = 0.0) -> Iterator[Scene]:
    """Clocks are right, and are believed to be: what is promised is what the cluster keeps, to the millisecond."""
    with World(1, drift=drift) as world:
        made = Scene(world, ttl, records, members)
        yield made
        failures = [failure for process in world.processes for failure in process.faults_of_the_core()]
        must(not failures, f"nothing in the adapter fails: {failures}")


def lease_of(grant: Grant | Candidacy) -> int:
    """Under which lease a candidate stands."""
    candidacy: Any = grant.candidacy if isinstance(grant, Grant) else grant
    return int(candidacy._lease.id)


# -- what a lease promises ---------------------------------------------------------------------------------


@schedule
def a_lease_counts_from_its_request() -> None:
    with scene() as it:
        a = it.client("a")
        a.orders.replies.append(("LeaseGrant", 0.9))
        grant = a.win(a.candidacy())
        it.covered(a, grant.promise, lease_of(grant))


@schedule
def a_renewal_counts_from_its_request() -> None:
    with scene() as it:
        a = it.client("a")
        grant = a.win(a.candidacy())
        it.world.run(1.0)
        a.orders.replies.append(("LeaseKeepAlive", 0.4))
        (answer,) = a.run(a.backend.renew([grant]))
        must(isinstance(answer, Renewed), f"a slow keepalive counts: {answer!r}")
        it.covered(a, answer.promise, lease_of(grant))


@schedule
def a_shorter_lease_than_asked_counts() -> None:
    with scene() as it:
        it.cluster.longest_ttl = 3
        a = it.client("a")
        grant = a.win(a.candidacy())
        it.covered(a, grant.promise, lease_of(grant))
        (answer,) = a.run(a.backend.renew([grant]))
        it.covered(a, answer.promise, lease_of(grant))


@schedule
def a_member_that_hangs_prolongs_nothing() -> None:
    """Its lessor answers keepalives; its raft has stopped, and others have elected another leader."""
    with scene() as it:
        a = it.client("a", 1, 2)
        grant = a.win(a.candidacy())
        it.cluster.hang(it.member(1))
        it.world.run(1.2)
        it.cluster.elect(it.member(2))
        it.world.run(1.5)
        (answer,) = a.run(_one_round(a, grant))
        must(not isinstance(answer, Renewed), f"a keepalive counts by an answer of the cluster: {answer!r}")


async def _one_round(client: Client, grant: Grant) -> Any:
    """The first of the two rounds of a renewal: after it nothing gets through."""
    try:
        async with asyncio.timeout(client.it.ttl / 3):
            return await client.backend.renew([grant])
    except (BackendError, TimeoutError) as error:
        return [error]


@schedule
def a_read_of_before_proves_nothing() -> None:
    """The member reads, and hangs; the answer takes long. What is sent after it is answered by nobody who leads."""
    with scene(ttl=30.0) as it:
        a = it.client("a", 1, 2)
        grant = a.win(a.candidacy())
        it.world.run(1.0)
        a.orders.replies.append(("Txn", 2.9))
        renewal = a.start(_one_round(a, grant))
        it.world.run(0.05)
        it.cluster.hang(it.member(1))
        it.world.run(1.1)
        it.cluster.elect(it.member(2))
        it.within(11.0, renewal.done, "a renewal ends")
        for answer in renewal.result():
            if isinstance(answer, Renewed):
                it.covered(a, answer.promise, lease_of(grant))


@schedule
def a_leader_of_before_prolongs_nothing() -> None:
    """The endpoint is a deposed leader who does not know it, answers the keepalive, learns it, answers the read."""
    with scene() as it:
        a, old = it.client("a", 1, 2), it.member(1)
        grant = a.win(a.candidacy())
        it.cluster.hang(old)
        it.world.run(1.2)
        it.cluster.elect(it.member(2))
        a.move()
        (answer,) = a.run(a.backend.renew([grant]))
        must(isinstance(answer, Renewed), f"another member prolongs the lease: {answer!r}")
        it.world.run(1.5)
        a.move()
        a.orders.requests += [("LeaseKeepAlive", 0.001), ("LeaseKeepAlive", None)]
        renewal = a.start(_one_round(a, grant))
        it.world.run(0.05)
        it.cluster.resume(old)
        it.within(5.0, renewal.done, "a renewal ends")
        for answer in renewal.result():
            if isinstance(answer, Renewed):
                it.covered(a, answer.promise, lease_of(grant))


@schedule
def a_member_that_lagged_behind_prolongs_nothing() -> None:
    """Five members. The endpoint follows a deposed leader, and has caught up when it fills in its answer's header.

    etcd fills it in before it asks the leader, and then the term in the header is enough.
    """
    with scene(members=5) as it:
        a, old, lagging = it.client("a", 3, 2), it.member(1), it.member(2)
        it.cluster.header_first = False
        grant = a.win(a.candidacy())
        it.cluster.hang(old)
        it.cluster.hang(lagging)
        it.world.run(1.2)
        it.cluster.elect(it.member(3))
        (answer,) = a.run(a.backend.renew([grant]))
        must(isinstance(answer, Renewed), f"a member of the majority prolongs the lease: {answer!r}")
        it.world.run(1.0)
        a.move()
        a.orders.requests += [("LeaseKeepAlive", 0.001), ("LeaseKeepAlive", None)]
        renewal = a.start(_one_round(a, grant))
        it.world.run(0.004)  # connected, and sent
        it.within(1.0, lambda: old.expiry[lease_of(grant)] > old.clock.now().mono + 4.9, "the old leader prolongs it")
        lagging.paused = True  # its answer waits
        it.world.run(0.01)
        lagging.hung = False
        lagging.paused = False
        it.cluster._follow(lagging, it.member(3))
        it.cluster._catch_up(lagging)
        inbox, lagging.inbox = lagging.inbox, []
        for call in inbox:
            call()
        it.within(5.0, renewal.done, "a renewal ends")
        for answer in renewal.result():
            if isinstance(answer, Renewed):
                it.covered(a, answer.promise, lease_of(grant))


@schedule
def an_answer_of_before_confirms_nothing() -> None:
    """A candidate who waits: its attempt is answered, then the member hangs and answers a keepalive, both arrive."""
    with scene(ttl=10.0) as it:
        leader, a = it.client("leader", 2), it.client("a", 1)
        leader.win(leader.candidacy())
        waiting = a.candidacy()
        must(isinstance(a.attempt(waiting), Behind), "the second one waits")
        (lease,) = a.backend.leases._all
        a.run(a.backend.leases.beat([lease], seconds=1.0))
        a.attempt(waiting)  # so that the endpoint's term is known
        a.orders.replies.append(("Txn", 2.7))
        attempt = a.start(waiting.attempt())
        it.world.run(0.05)
        it.cluster.hang(it.member(1))
        it.world.run(1.1)
        it.cluster.elect(it.member(2))
        it.world.run(1.4)
        a.run(a.backend.leases.beat([lease], seconds=1.0))
        it.within(2.0, attempt.done, "an attempt ends")
        it.covered(a, lease.promise, lease.id)


@schedule
def a_win_whose_key_is_gone_is_none() -> None:
    """The lease was idle, so it is prolonged before the win; meanwhile somebody deletes the key."""
    with scene() as it:
        leader, a = it.client("leader"), it.client("a")
        first = leader.candidacy()
        leader.win(first)
        waiting = a.candidacy()
        must(isinstance(a.attempt(waiting), Behind), "the second one waits")
        a.orders.requests += [("LeaseKeepAlive", 100.0)] * 2
        it.world.run(2.9)
        leader.run(first.resign())
        a.orders.replies.append(("Txn", 0.5))
        attempt = a.start(waiting.attempt())
        it.world.run(0.1)
        it.delete(PLACE.entry(lease_of(waiting)))
        it.within(5.0, attempt.done, "an attempt ends")
        stands(it, attempt.result())


def stands(it: Scene, answer: Any) -> None:
    """If it is a win, its key is there, in first place, with its token and its id."""
    if isinstance(answer, Grant):
        candidacy: Any = answer.candidacy
        found = it.entries()
        must(bool(found), "who has won has a key")
        must(found[0].create_revision == answer.token, "whose create_revision is the token, and the lowest")
        must(candidacy.candidate.id.encode() in found[0].value, "and which carries its id")


# -- the record -----------------------------------------------------------------------------


def _revoked_alive(it: Scene, a: Client, b: Client) -> None:
    """A leader of etcd that goes on revokes the living lease of a leader who is cut off; the next one waits."""
    first = a.candidacy()
    grant = a.win(first)
    second = b.candidacy()
    must(isinstance(b.attempt(second), Behind), "the second one waits")
    old = it.cluster.leader
    assert old is not None
    it.cluster.pause(old)
    it.world.run(1.2)
    it.cluster.elect(next(member for member in it.cluster.members if member is not old))
    answer: Any = None
    for _ in range(20):  # beyond the lease by the old leader's count
        it.world.run(it.ttl / 6)
        (answer,) = a.run(a.backend.renew([grant]))
        b.attempt(second)
    must(isinstance(answer, Renewed), f"the lease lives on with the new leader: {answer!r}")
    a.cut()
    it.cluster.resume(old)
    it.within(1.0, lambda: it.cluster.revoked_alive > 0, "the old leader revokes a living lease")
    b.win(second)
    over = a.end_of(answer.promise) - it.world.now
    must(over <= 0, f"the successor waits until the one before it must be over; {over:.3f} s are left")


@schedule
def a_revoked_living_lease_is_waited_for() -> None:
    with scene(records=True, ttl=6.0) as it:
        _revoked_alive(it, it.client("a", 2, 3), it.client("b", 3, 2))


@schedule
def a_lease_that_was_rounded_up_is_waited_for() -> None:
    with scene(records=True, ttl=1.0) as it:
        _revoked_alive(it, it.client("a", 2, 3), it.client("b", 3, 2))


@schedule
def a_waiter_leaves_the_leaders_record_alone() -> None:
    """A candidate whose claim was never answered goes; the record is the leader's all the same."""
    with scene(records=True) as it:
        leader, a = it.client("leader"), it.client("a")
        leader.win(leader.candidacy())
        before = it.record()
        waiting = a.candidacy()
        must(isinstance(a.attempt(waiting), Behind), "the second one waits")
        a.orders.replies.append(("Txn", None))
        must(isinstance(a.attempt(waiting), BackendError), "an attempt fails whose answer is lost")
        a.run(waiting.resign())
        must(it.record() == before, f"a resignation marks its own record: {it.record()}")
        must(len(it.entries()) == 1, "and its own entry goes")


@schedule
def a_leader_whose_key_was_deleted_marks_its_record() -> None:
    """So that the next one need not wait for it; the first try is lost."""
    with scene(records=True) as it:
        a = it.client("a")
        first = a.candidacy()
        grant = a.win(first)
        it.delete(PLACE.entry(lease_of(grant)))
        a.orders.requests += [("Txn", 0.001), ("Txn", None)]
        a.run(first.resign())
        a.run(first.resign())
        must(it.record()["state"] == "resigned", "the record of a leader whose body is over is not waited for")


@schedule
def a_stranger_who_leads_is_waited_for() -> None:
    """`etcdctl elect` leaves no record: the order of the keys decides, at the first attempt and at the second."""
    with scene(records=True) as it:
        it.stranger()
        a = it.client("a")
        waiting = a.candidacy()
        for _ in range(3):
            must(isinstance(a.attempt(waiting), Behind), "a stranger's key of before comes first")


@schedule
def a_record_is_claimed_with_a_key() -> None:
    """The candidate's key, and that of the stranger before it, are deleted; somebody else waits behind them."""
    with scene(records=True) as it:
        key = it.stranger()
        a, b = it.client("a"), it.client("b")
        waiting = a.candidacy()
        must(isinstance(a.attempt(waiting), Behind), "a stranger's key of before comes first")
        must(isinstance(b.attempt(b.candidacy()), Behind), "so does the next one")
        a.orders.replies += [("Watch", 100.0)] * 4
        it.delete(PLACE.entry(lease_of(waiting)))
        it.delete(key)
        stands(it, a.attempt(waiting))


@schedule
def another_key_has_another_place() -> None:
    """Our key was first, and is deleted; a stranger comes, and then a create of ours that was long under way."""
    with scene(records=True) as it:
        a = it.client("a")
        waiting = a.candidacy()
        it.put(PLACE.record, record_value(0xAA, "somebody", 1.0, leading=False))
        a.orders.requests.append(("Txn", 6.0))
        must(isinstance(a.attempt(waiting), BackendError), "an attempt fails that is not answered")
        a.orders.requests += [("Txn", 0.001), ("Txn", None)]
        must(isinstance(a.attempt(waiting), BackendError), "and one whose claim is lost")
        it.delete(PLACE.entry(lease_of(waiting)))
        it.stranger()
        late = it.world.now
        it.within(6.0, lambda: len(it.entries()) == 2, "the late create arrives")
        must(it.world.now > late, "after the stranger's")
        for _ in range(3):
            stands(it, a.attempt(waiting))


# -- whose key it is ---------------------------------------------------------------------------------------


@schedule
def a_key_with_anothers_value_is_not_ours() -> None:
    with scene() as it:
        leader, a = it.client("leader"), it.client("a")
        first = leader.candidacy()
        leader.win(first)
        waiting = a.candidacy()
        must(isinstance(a.attempt(waiting), Behind), "the second one waits")
        it.put(PLACE.entry(lease_of(waiting)), b"somebody else's", lease_of(waiting))
        leader.run(first.resign())
        stands(it, a.win(waiting))


@schedule
def two_candidates_of_a_session_contend() -> None:
    with scene() as it:
        a = it.client("a")
        grant = a.win(a.candidacy())
        must(isinstance(a.attempt(a.candidacy()), Behind), "the second candidate of a process waits")
        it.world.run(0.5)
        stands(it, grant)


@schedule
def a_late_create_leaves_nothing() -> None:
    with scene() as it:
        a = it.client("a")
        lost = a.candidacy()
        a.orders.requests.append(("Txn", 3.0))
        must(isinstance(a.attempt(lost), BackendError), "an attempt fails that is not answered")
        a.run(lost.resign())
        it.world.run(5.0)
        must(not it.entries(), "a create that comes after the resignation makes no entry")


@schedule
def a_late_create_beside_a_term_is_removed() -> None:
    """The lease is needed for another election of the session."""
    with scene() as it:
        a = it.client("a")
        grant = a.win(a.candidacy())
        lost = a.candidacy("g")
        a.orders.requests.append(("Txn", 3.0))
        must(isinstance(a.attempt(lost), BackendError), "an attempt fails that is not answered")
        a.run(lost.resign())
        for _ in range(6):
            it.world.run(1.0)
            a.run(a.backend.renew([grant]))
        must(not it.entries("g"), "an entry that nobody claims is removed")
        stands(it, grant)


@schedule
def a_lease_with_a_create_under_way_is_nobodys() -> None:
    """A candidate comes and goes under it; only then does the create of one before it arrive."""
    with scene() as it:
        a = it.client("a")
        grant = a.win(a.candidacy())
        lost = a.candidacy("g")
        a.orders.requests.append(("Txn", 3.0))
        must(isinstance(a.attempt(lost), BackendError), "an attempt fails that is not answered")
        a.run(lost.resign())
        for _ in range(4):
            other = a.candidacy("g")
            stood = a.attempt(other)
            must(isinstance(stood, Grant), f"another candidate of the session wins: {stood!r}")
            must(lease_of(other) != lease_of(grant), "and not under a lease with a create under way")
            it.world.run(1.0)
            a.run(other.resign())
            a.run(a.backend.renew([grant]))


@schedule
def a_lease_that_is_revoked_is_used_no_more() -> None:
    """A campaign gives up an attempt while its lease is being revoked, and attempts again."""
    with scene() as it:
        a = it.client("a")
        holder = a.candidacy()
        a.win(holder)  # so that the first lease is not spare
        it.world.run(0.1)
        waiting = a.candidacy()
        must(isinstance(a.attempt(waiting), Behind), "the second one waits")
        it.delete(PLACE.entry(lease_of(waiting)))
        a.run(holder.resign())
        a.orders.requests.append(("LeaseRevoke", 2.5))
        a.attempt(waiting)
        answer = a.win(waiting)
        it.world.run(3.0)
        stands(it, answer)


@schedule
def a_late_removal_hits_only_its_own() -> None:
    with scene() as it:
        a = it.client("a")
        first = a.candidacy()
        a.win(first)
        a.orders.requests.append(("Txn", 2.5))
        must(isinstance(a.run(first.resign()), BackendError), "a resignation fails that is not answered")
        a.run(first.resign())
        grant = a.win(a.candidacy())
        it.world.run(1.0)
        stands(it, grant)


@schedule
def a_late_proclamation_makes_no_entry() -> None:
    with scene() as it:
        a = it.client("a")
        first = a.candidacy()
        grant = a.win(first)
        a.orders.requests.append(("Txn", 2.5))
        must(isinstance(a.run(first.proclaim(grant, "late")), BackendError), "a proclamation fails that hangs")
        a.run(first.resign())
        it.world.run(2.0)
        must(not it.entries(), "a proclamation makes no entry")


# -- waiting -----------------------------------------------------------------------------------------------


@schedule
def a_resignation_during_a_cut_is_told_after_it() -> None:
    with scene() as it:
        leader, a = it.client("leader"), it.client("a")
        first = leader.candidacy()
        leader.win(first)
        waiting = a.candidacy()
        must(isinstance(a.attempt(waiting), Behind), "the second one waits")
        hint = a.start(waiting.changed())
        it.world.run(0.2)
        for wire in a.connection.wires.values():
            wire.cut(refused=True)
        it.world.run(0.2)
        leader.run(first.resign())
        a.mend()
        it.within(3.0, hint.done, "a resignation is told to who waits, whatever became of its connection")


@schedule
def a_member_without_a_leader_is_left_at_once() -> None:
    """It is cut off from the others; it says so, and is not waited for."""
    with scene(ttl=10.0) as it:
        a = it.client("a", 3, 2)
        it.cluster.split([it.member(3)])
        it.world.run(4.0)
        contender, began = a.candidacy(), it.world.now
        a.win(contender) if isinstance(a.attempt(contender), BackendError) else None
        took = it.world.now - began
        must(took < 1.0, f"a member without a leader costs no time-out; it took {took:.2f} s")


if __name__ == "__main__":
    sys.exit(SCHEDULES.play(sys.argv[1:]))
