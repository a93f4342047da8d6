"""What a hostile reading found in the etcd adapter, each as a schedule on a simulated cluster: real code, virtual time.

The rule: each of these failed before its fix, and tells by what users rely on where it can: whose key stands, what an
answer says, when a hint comes. No task of a session may die on the way.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import pytest

from coordkit.backends.contract import OBSERVE_SECONDS, Behind, Candidacy, Grant, Lost, Renewed, Unknown
from coordkit.backends.etcd.adapter import EtcdBackend
from coordkit.backends.etcd.connection import Beat
from coordkit.backends.etcd.layout import Place, record_value
from coordkit.backends.etcd.leases import Lease, counts
from coordkit.backends.etcd.requests import Requests
from coordkit.clock import new_candidate_id
from coordkit.errors import OutcomeUnknown, Rejected, Unavailable
from coordkit.lease import Instant
from coordkit.model import CandidateInfo
from coordkit.testing.virtual import World
from tests.simulation.etcd_model import Cluster, Proposal
from tests.simulation.etcd_store import Store
from tests.simulation.etcd_wire import SimulatedConnection

T = TypeVar("T")
Carried = Callable[[Any], float | None]

TTL = 20.0
HOP = 0.001  # s: a message on a fair day
NEVER = 1000.0
STRANGER = 0x5E  # the lease of a contender that is not of coordkit


class Doctored:
    """A weather that is fair but for what a test orders, by the name of the method."""

    def __init__(self) -> None:
        self.requests: dict[str, Carried] = {}
        self.replies: dict[str, Carried] = {}
        self.sent = Counter[str]()
        self.answered = Counter[str]()

    def calm(self) -> None:
        """From now on it is fair; what is under way keeps its time."""
        self.requests.clear()
        self.replies.clear()

    def request(self, path: str, message: Any) -> float | None:
        return self._carried(self.requests, self.sent, path, message)

    def reply(self, path: str, message: Any) -> float | None:
        return self._carried(self.replies, self.answered, path, message)

    def _carried(self, rules: Mapping[str, Carried], count: Counter[str], path: str, message: Any) -> float | None:
        name = path.rpartition("/")[2]
        count[name] += 1
        rule = rules.get(name)
        return HOP if rule is None else rule(message)


class Client:
    """One process with a session of its own."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.world = scene.world
        self.process = scene.world.process(name, rate=1.0)
        self.connection = SimulatedConnection(self.process, scene.cluster)
        self.weather = Doctored()
        for wire in self.connection.wires.values():
            wire.weather = self.weather
        self.backend = EtcdBackend(
            self.connection, "", self.process, scene.world.drift, trust_leases=scene.trust_leases
        )
        self.does(self.backend.open())

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin it; it goes on whenever time passes."""
        return self.process.start(work)

    def ended(self, task: asyncio.Task[T], within: float = 30.0) -> T:
        """Let time pass until it is done; its outcome."""
        self.world.run_until(task.done, within)
        return task.result()

    def does(self, work: Coroutine[Any, Any, T], within: float = 30.0) -> T:
        """Do this, from its beginning to its end."""
        return self.ended(self.start(work), within)

    def candidacy(self, election: str, ttl: float = TTL) -> Candidacy:
        """A candidate with nothing in the store."""
        identity = new_candidate_id("reviewed", self.process.chance)
        return self.backend.candidacy(election, CandidateInfo(identity), ttl)

    def leads(self, election: str, ttl: float = TTL) -> tuple[Candidacy, Grant]:
        """A candidate that has won at once."""
        made = self.candidacy(election, ttl)
        return made, self.wins(made)

    def wins(self, candidacy: Candidacy) -> Grant:
        """An attempt that must win."""
        grant = self.does(candidacy.attempt())
        assert isinstance(grant, Grant)
        return grant

    def waits(self, election: str, ttl: float = TTL) -> Candidacy:
        """A candidate that has queued up behind somebody living."""
        made = self.candidacy(election, ttl)
        behind = self.does(made.attempt())
        assert isinstance(behind, Behind)
        assert behind.alive
        return made

    def renews(self, *grants: Grant) -> list[Renewed | Lost | Unknown]:
        """One round of renewals."""
        return list(self.does(self.backend.renew(grants)))


class Scene:
    """A cluster, its clients, and its operator."""

    def __init__(self, world: World, *, trust_leases: bool) -> None:
        self.world = world
        self.trust_leases = trust_leases
        self.cluster = Cluster(world, revokes=not trust_leases)
        self.requests = Requests(self.cluster.rpc)
        self._clients: list[Client] = []
        world.run(0.5)

    def client(self) -> Client:
        """One more process."""
        self._clients.append(Client(self, f"client-{len(self._clients)}"))
        return self._clients[-1]

    def entries(self, election: str) -> list[Any]:
        """The keys of an election's candidates, first place first."""
        place = Place("", election)
        keys = [kv for key, kv in self.cluster.store.keys.items() if key.startswith(place.entries)]
        return sorted(keys, key=lambda kv: kv.create_revision)

    def entry(self, election: str, candidacy: Candidacy) -> Any:
        """The key of one of coordkit's candidates."""
        wanted = candidacy.candidate.id  # type: ignore[attr-defined]
        (found,) = [kv for kv in self.entries(election) if json.loads(kv.value)["id"] == wanted]
        return found

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        """As `etcdctl put`."""
        rpc = self.cluster.rpc
        self._order(rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease)))

    def delete(self, key: bytes) -> None:
        """As `etcdctl del`."""
        rpc = self.cluster.rpc
        self._order(rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key)))

    def revoke(self, lease: int) -> None:
        """As `etcdctl lease revoke`."""
        self.commands(lambda store: store.revoke(lease))

    def stands(self, election: str, grant: Grant) -> bool:
        """Whether the won key is there, in first place."""
        return [kv.create_revision for kv in self.entries(election)][:1] == [grant.token]

    def nothing_died(self) -> None:
        """Fail if a task of a session has ended with an error."""
        for client in self._clients:
            assert client.process.faults_of_the_core() == []

    def commands(self, command: Callable[[Store], Any]) -> None:
        """Done at once."""
        self.cluster.commit(Proposal(command, lambda answer, index: None))

    def _order(self, op: Any) -> None:
        self.commands(lambda store: store.transact(self.cluster.rpc.TxnRequest(success=[op])))


def takes(seconds: float | None) -> Carried:
    """Every such message takes so long; None: the connection breaks instead."""
    return lambda message: seconds


def breaks_at(number: int) -> Carried:
    """The connection breaks instead of carrying the message of this number."""
    count = iter(range(1, 1000))
    return lambda message: None if next(count) == number else HOP


@pytest.fixture
def world() -> Iterator[World]:
    with World(seed=3) as world:
        yield world


@pytest.fixture
def recorded(world: World) -> Iterator[Scene]:
    """With records."""
    scene = Scene(world, trust_leases=False)
    yield scene
    scene.nothing_died()


@pytest.fixture
def trusting(world: World) -> Iterator[Scene]:
    """Without."""
    scene = Scene(world, trust_leases=True)
    yield scene
    scene.nothing_died()


# -- renewals ----------------------------------------------------------------------------------------------------------


def test_each_grant_gets_its_own_answer_while_one_is_resigned(recorded: Scene) -> None:
    client = recorded.client()
    (resigned, first), (deleted, second), (_, third) = (client.leads(name) for name in ("a", "b", "c"))
    recorded.delete(recorded.entry("b", deleted).key)
    client.weather.replies["Txn"] = takes(1.0)
    renewing = client.start(client.backend.renew([first, second, third]))
    recorded.world.run(0.1)
    client.weather.calm()
    client.does(resigned.resign())
    assert not renewing.done(), "its answer is still on its way"
    answers = client.ended(renewing)
    assert isinstance(answers[1], Lost)
    assert isinstance(answers[2], Renewed)


def test_an_attempt_counts_no_keepalive_that_was_sent_after_its_answer(recorded: Scene) -> None:
    client = recorded.client()
    _, grant = client.leads("x")
    client.weather.replies["Txn"] = takes(1.0)
    attempting = client.start(client.candidacy("y").attempt())
    recorded.world.run(0.2)
    answered = client.process.clock.now()
    beaten(client, grant)
    won = client.ended(attempting)
    assert isinstance(won, Grant)
    assert won.promise.sent.boot <= answered.boot, "an old leader of etcd may have answered the keepalive"


def test_a_renewal_counts_no_keepalive_of_another_round(recorded: Scene) -> None:
    client = recorded.client()
    (_, first), (_, second) = client.leads("x"), client.leads("y")
    client.weather.replies["Txn"] = takes(1.0)
    renewing = client.start(client.backend.renew([first]))
    recorded.world.run(0.05)
    attempting = client.start(client.candidacy("z").attempt())
    recorded.world.run(0.2)
    answered = client.process.clock.now()
    beaten(client, second)
    (renewed,) = client.ended(renewing)
    assert isinstance(renewed, Renewed)
    assert renewed.promise.sent.boot <= answered.boot
    assert not attempting.done(), "its answer comes after that of the renewal"
    won = client.ended(attempting)
    assert isinstance(won, Grant)
    assert won.promise.sent.boot <= answered.boot


def beaten(client: Client, grant: Grant) -> None:
    """A keepalive for the lease of this grant is answered, and the read after it is not."""
    client.world.run(0.01)
    client.weather.replies["Txn"] = takes(NEVER)
    before = client.weather.answered["LeaseKeepAlive"]
    client.start(client.backend.renew([grant]))
    client.world.run(0.2)
    assert client.weather.answered["LeaseKeepAlive"] > before
    client.weather.calm()


def test_a_raft_term_that_a_member_does_not_know_counts_nothing() -> None:
    """A member that has just come from a snapshot answers with 0, before and after."""
    instant = Instant(1.0, 1.0, 1.0)
    assert counts(Beat(instant, 5, 7, 7), 7)
    assert not counts(Beat(instant, 5, 0, 0), 0)


def test_a_call_that_had_no_time_takes_nobodys_endpoint(recorded: Scene) -> None:
    client = recorded.client()
    leading, grant = client.leads("x")
    client.weather.replies["Txn"] = takes(1.0)
    attempting = client.start(client.candidacy("y").attempt())
    recorded.world.run(0.1)
    client.weather.requests["LeaseKeepAlive"] = takes(0.5)
    lease = recorded.entry("x", leading).lease
    with pytest.raises(OutcomeUnknown):
        client.does(client.connection.keep_alive([lease], seconds=0.02))
    client.weather.calm()
    assert isinstance(client.ended(attempting), Grant), "what a sister had under way goes on"
    assert isinstance(client.renews(grant)[0], Renewed)


# -- what keeps leases alive -------------------------------------------------------------------------------------------


def test_a_lease_that_is_revoked_under_a_keepalive_stops_no_other(recorded: Scene) -> None:
    ttl = 6.0
    client = recorded.client()
    client.leads("x", ttl)
    going = client.waits("x", ttl)
    lease = recorded.entry("x", going).lease
    beaten = asyncio.Event()

    def slow(requests: Any) -> float:
        if lease in [request.ID for request in requests]:
            beaten.set()
        return 0.2

    client.weather.requests["LeaseKeepAlive"] = slow
    recorded.world.run_until(beaten.is_set)
    client.does(going.resign(), within=0.15)
    recorded.world.run(4 * ttl)
    assert len(recorded.entries("x")) == 1, "the other candidate's lease is kept alive"


def test_a_failure_of_any_kind_ends_no_keeping_alive(recorded: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ttl = 6.0
    client = recorded.client()
    client.leads("x", ttl)
    monkeypatch.setattr(client.connection, "keep_alive", once(RuntimeError("odd"), client.connection.keep_alive))
    recorded.world.run(4 * ttl)
    assert len(recorded.entries("x")) == 1


def test_a_lease_that_is_gone_and_still_claimed_does_not_stop_the_loop(
    recorded: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = recorded.client()
    (leading, _), _ = client.leads("x"), client.leads("y")
    recorded.revoke(recorded.entry("x", leading).lease)
    beat, count = client.backend.leases.beat, Counter[float]()

    async def counted(*arguments: Any, **options: Any) -> Any:
        count[recorded.world.now] += 1
        if count[recorded.world.now] > 100:
            pytest.fail("it spins, and no other task runs")  # ends it, too: of no Exception
        return await beat(*arguments, **options)

    monkeypatch.setattr(client.backend.leases, "beat", counted)
    assert isinstance(client.does(client.candidacy("z").attempt()), Grant), "by a new lease"
    passes = client.process.passes
    recorded.world.run(2 * TTL)
    assert client.process.passes - passes < 1000


def once(error: Exception, call: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The call, whose first one fails."""
    left = [error]

    async def failing(*arguments: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return await call(*arguments, **options)

    return failing


# -- what is swept -----------------------------------------------------------------------------------------------------


def test_a_late_create_is_swept_although_a_sister_keeps_the_lease(recorded: Scene) -> None:
    client = recorded.client()
    _, grant = client.leads("y")
    late_create(recorded, client)
    keep(client, grant, TTL)
    assert not recorded.entries("x")
    assert recorded.stands("y", grant)


def test_a_failure_of_any_kind_ends_no_sweeping(recorded: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    client = recorded.client()
    _, grant = client.leads("y")
    # The first sweep comes before the create: it is the second one that fails, and the third must still come.
    sweep, count = client.backend.leases._sweep, iter(range(3))

    async def failing(lease: Lease) -> None:
        if next(count, 3) < 2:
            raise RuntimeError("odd")
        await sweep(lease)

    monkeypatch.setattr(client.backend.leases, "_sweep", failing)
    late_create(recorded, client)
    keep(client, grant, 1.5 * TTL)
    assert not recorded.entries("x")


def late_create(scene: Scene, client: Client) -> None:
    """A create comes through after its candidate has resigned."""
    client.weather.requests["Txn"] = takes(1.0)
    leaving = client.candidacy("x")
    attempting = client.start(leaving.attempt())
    scene.world.run(0.1)
    attempting.cancel()
    client.weather.calm()
    client.does(leaving.resign(), within=0.5)
    assert not scene.entries("x")
    scene.world.run(1.0)
    assert scene.entries("x"), "it has come"


def keep(client: Client, grant: Grant, seconds: float) -> None:
    """What the keeper does for a term, for so long."""
    end = client.world.now + seconds
    while client.world.now < end:
        assert isinstance(client.renews(grant)[0], Renewed)
        client.world.run(TTL / 6)


def test_an_entry_whose_resignation_was_refused_is_swept(recorded: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    client = recorded.client()
    (refused, _), (_, grant) = client.leads("x"), client.leads("y")
    call = client.connection.call

    async def refusing(operation: str, *arguments: Any, **options: Any) -> Any:
        if operation == "resign":
            raise Rejected("not now", backend="etcd", operation=operation)
        return await call(operation, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(client.connection, "call", refusing)
        with pytest.raises(Rejected):
            client.does(refused.resign())
    keep(client, grant, TTL)
    assert not recorded.entries("x"), "it stands in nobody's way"
    assert recorded.stands("y", grant)


# -- attempts ----------------------------------------------------------------------------------------------------------


def test_an_attempt_whose_clean_up_was_cancelled_does_not_win_on_what_is_being_revoked(trusting: Scene) -> None:
    ttl = 3.0
    client = trusting.client()
    first, _ = client.leads("x", ttl)
    mine = client.waits("x", ttl)  # by a second lease, which is revoked when it is not needed
    client.does(first.resign())
    other = client.waits("x", ttl)
    client.wins(mine)
    trusting.delete(trusting.entry("x", mine).key)
    client.weather.requests["LeaseRevoke"] = takes(1.2)
    cleaning_up = client.start(mine.attempt())
    trusting.world.run(ttl / 3)
    assert client.weather.sent["LeaseRevoke"] == 1
    assert not cleaning_up.done()
    cleaning_up.cancel()
    client.does(other.resign())
    grant = client.wins(mine)
    trusting.world.run(0.5)  # the revocation has come
    assert trusting.stands("x", grant)
    assert isinstance(client.renews(grant)[0], Renewed)


@pytest.mark.parametrize("with_record", [True, False])
def test_what_was_said_of_a_key_is_not_said_of_the_next_one(with_record: bool, recorded: Scene) -> None:
    client = recorded.client()
    place = Place("", "x")
    recorded.put(place.record, record_value(0x77, "another", TTL, leading=False))
    client.weather.requests["Txn"] = breaks_at(2)  # it is first; its claim is lost on the way
    mine = client.candidacy("x")
    with pytest.raises(OutcomeUnknown):
        client.does(mine.attempt())
    client.weather.calm()
    kv = recorded.entry("x", mine)
    recorded.delete(kv.key)
    recorded.commands(lambda store: store.grant(STRANGER, 3600))
    recorded.put(place.entry(STRANGER), b"etcdctl", STRANGER)
    recorded.put(kv.key, kv.value, kv.lease)  # and its create comes once more, late
    if not with_record:
        recorded.delete(place.record)
    for _ in range(2):
        behind = client.does(mine.attempt())
        assert isinstance(behind, Behind), "somebody else is first"
        assert behind.alive
    recorded.delete(place.entry(STRANGER))
    client.wins(mine)


def test_a_win_whose_key_goes_before_it_is_handed_out_is_no_win(trusting: Scene) -> None:
    ttl = 6.0
    leading, _ = trusting.client().leads("x", ttl)
    leader = trusting._clients[0]
    client = trusting.client()
    client.weather.requests["LeaseKeepAlive"] = takes(NEVER)
    mine = client.waits("x", ttl)
    trusting.world.run(0.6 * ttl)  # so the lease's promise is renewed before it is handed out
    leader.does(leading.resign())
    key = trusting.entry("x", mine).key
    gone: list[bytes] = []

    def first_seen(message: Any) -> float:
        client.weather.requests["LeaseKeepAlive"] = deleted
        return HOP

    def deleted(message: Any) -> float:
        if not gone:
            gone.append(key)
            trusting.delete(key)
        return HOP

    client.weather.requests.clear()
    client.weather.replies["Txn"] = first_seen
    grant = client.wins(mine)
    assert gone
    assert trusting.stands("x", grant)


def test_a_strange_value_under_our_key_costs_one_lease_and_no_more(trusting: Scene) -> None:
    client = trusting.client()
    before, _ = client.leads("x")
    lease = trusting.entry("x", before).lease
    client.does(before.resign())  # its lease is kept for the next one
    place = Place("", "x")
    trusting.put(place.entry(lease), b"strange", lease)
    sent = client.weather.sent.total()
    _, grant = client.leads("x")
    assert client.weather.sent.total() - sent < 12
    assert trusting.stands("x", grant), "and the strange one is gone"


def test_an_attempt_that_decides_nothing_ends_after_a_few_rounds(trusting: Scene) -> None:
    client = trusting.client()
    place = Place("", "x")

    def strange(grant: Any) -> float:
        trusting.put(place.entry(grant.ID), b"strange", grant.ID)
        return HOP

    client.weather.replies["LeaseGrant"] = strange
    sent = client.weather.sent.total()
    with pytest.raises(OutcomeUnknown):
        client.does(client.candidacy("x").attempt())
    assert client.weather.sent.total() - sent < 40
    client.weather.calm()
    mine, grant = client.leads("x")
    assert [kv.create_revision for kv in trusting.entries("x")] == [grant.token], "of the strange ones none is left"
    client.does(mine.resign())


# -- resignations ------------------------------------------------------------------------------------------------------


def test_a_resignation_repeated_marks_the_record_although_the_key_was_gone(recorded: Scene) -> None:
    client, other = recorded.client(), recorded.client()
    mine, _ = client.leads("x")
    recorded.delete(recorded.entry("x", mine).key)
    client.weather.requests["Txn"] = breaks_at(2)
    with pytest.raises(OutcomeUnknown):
        client.does(mine.resign())
    client.weather.calm()
    client.does(mine.resign())
    other.leads("x")  # at once: nobody is waited for


def test_a_resignation_marks_the_record_although_the_lease_was_gone(recorded: Scene) -> None:
    client, other = recorded.client(), recorded.client()
    (mine, _), (_, sister) = client.leads("x"), client.leads("y")
    recorded.revoke(recorded.entry("x", mine).lease)
    client.leads("z")  # by which the session learns it
    assert isinstance(client.renews(sister)[0], Lost)
    client.does(mine.resign())
    other.leads("x")


# -- opening and watching ----------------------------------------------------------------------------------------------


def test_a_session_can_be_opened_again_after_it_was_used(recorded: Scene) -> None:
    """The list of members comes without a revision: it has not gone back."""
    client = recorded.client()
    _, grant = client.leads("x")
    client.does(client.backend.open())
    assert isinstance(client.renews(grant)[0], Renewed)


def test_a_watch_from_now_on_misses_nothing_while_its_stream_is_opened_again(recorded: Scene) -> None:
    client, leader = recorded.client(), recorded.client()
    hints = 0

    async def observe() -> None:
        nonlocal hints
        async for _ in client.backend.changes("x"):
            hints += 1

    client.start(observe())
    recorded.world.run(1.0)
    before = hints
    for wire in client.connection.wires.values():
        wire.cut(refused=True)
    leader.leads("x")  # while there is no stream
    recorded.world.run(0.1)
    assert hints == before
    for wire in client.connection.wires.values():
        wire.mend()
    recorded.world.run_until(lambda: hints > before, OBSERVE_SECONDS / 2)


def test_an_odd_answer_ends_no_watching(recorded: Scene) -> None:
    client, leader = recorded.client(), recorded.client()
    leading, _ = leader.leads("x")
    waiting = client.waits("x")
    recorded.world.run(0.1)
    for member in recorded.cluster.members:
        for stream in member.streams:
            stream._answer(99, created=True)  # which nobody has asked for
    recorded.world.run(2.0)
    told = client.start(waiting.changed())
    leader.does(leading.resign())
    client.ended(told, within=1.0)
    client.wins(waiting)


# -- what was sent -----------------------------------------------------------------------------------------------------


def unreachable(client: Client, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """No endpoint is to be had after so many transactions."""
    call, endpoint = client.connection.call, client.connection.endpoint
    sent = 0

    async def counting(operation: str, method: Any, request: Any, **more: Any) -> Any:
        nonlocal sent
        answer = await call(operation, method, request, **more)
        sent += type(request).__name__ == "TxnRequest"
        return answer

    async def lost(seconds: float) -> Any:
        if sent >= after:
            raise Unavailable("no endpoint answers", backend="etcd")
        return await endpoint(seconds)

    monkeypatch.setattr(client.connection, "call", counting)
    monkeypatch.setattr(client.connection, "endpoint", lost)


def test_what_fails_after_the_create_may_have_happened(recorded: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told `Unavailable` takes it that there is nothing to remove."""
    client, other = recorded.client(), recorded.client()
    first, _ = client.leads("x")
    client.does(first.resign())  # leaves a record, so that the next win takes two transactions
    mine = client.candidacy("x")
    with monkeypatch.context() as patch:
        unreachable(client, patch, after=1)
        with pytest.raises(OutcomeUnknown):
            client.does(mine.attempt())
    client.does(mine.resign())
    other.leads("x")


def test_what_fails_before_the_create_leaves_no_claim(recorded: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    client = recorded.client()
    _, grant = client.leads("x")
    mine = client.candidacy("y")
    with monkeypatch.context() as patch:
        unreachable(client, patch, after=0)
        with pytest.raises(Unavailable):
            client.does(mine.attempt())
    assert [len(lease.claims) for lease in client.backend.leases._all] == [1], "that of the term alone"
    assert isinstance(client.renews(grant)[0], Renewed)


# -- the record of a leader whose key is gone --------------------------------------------------------------------------


def test_who_campaigns_again_goes_on_waiting_for_a_record(recorded: Scene) -> None:
    """Else campaigns that are shorter than the ttl would never win after a crash."""
    client, other = recorded.client(), recorded.client()
    dead, _ = other.leads("x")
    recorded.delete(recorded.entry("x", dead).key)  # as after a crash, or a wrong revocation
    start = client.process.clock.now()
    waited = 0.0
    for _ in range(8):
        mine = client.candidacy("x")
        answer = client.does(mine.attempt())
        if isinstance(answer, Grant):
            break
        assert not answer.alive
        recorded.world.run(TTL / 4)
        client.does(mine.resign())
        waited = client.process.clock.now().mono - start.mono
    assert isinstance(answer, Grant), "eight campaigns of a quarter of the ttl are enough"
    assert waited > TTL, "and it has been waited for"


def test_the_second_in_the_queue_has_waited_as_well(recorded: Scene) -> None:
    client, other = recorded.client(), recorded.client()
    dead, _ = other.leads("x")
    recorded.delete(recorded.entry("x", dead).key)
    first, second = other.candidacy("x"), client.candidacy("x")
    assert not isinstance(other.does(first.attempt()), Grant)
    assert isinstance(client.does(second.attempt()), Behind)
    recorded.world.run(1.1 * TTL)
    other.does(first.resign())
    assert isinstance(client.does(second.attempt()), Grant)


def test_a_refused_resignation_watches_no_more(recorded: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    client = recorded.client()
    mine, _ = client.leads("x")

    async def refused(*_: Any, **__: Any) -> Any:
        raise Rejected("not now", backend="etcd")

    with monkeypatch.context() as patch:
        patch.setattr(client.connection, "call", refused)
        with pytest.raises(Rejected):
            client.does(mine.resign())
    assert not client.backend.watches._all


def test_a_session_closed_while_a_lease_is_granted_keeps_nothing_alive(recorded: Scene) -> None:
    client = recorded.client()
    mine = client.candidacy("x")
    attempt = client.start(mine.attempt())
    recorded.world.run(HOP / 2)
    attempt.cancel()
    client.does(client.backend.leases.close())
    assert client.backend.leases._beating is None or client.backend.leases._beating.done()


def test_who_trusts_leases_and_waits_for_a_record_is_no_leader_yet(trusting: Scene) -> None:
    client = trusting.client()
    place = Place("", "x")
    trusting.put(place.record, record_value(0x77, "another", TTL, leading=True))
    mine = client.candidacy("x")
    behind = client.does(mine.attempt())
    assert isinstance(behind, Behind)
    assert not behind.alive
    assert client.does(client.backend.leader("x")) is None
    trusting.world.run(1.1 * TTL)
    grant = client.wins(mine)
    seen = client.does(client.backend.leader("x"))
    assert seen is not None
    assert int(seen.token) == grant.token
