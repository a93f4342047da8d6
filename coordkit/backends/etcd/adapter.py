"""Elections in etcd: a key for each candidate, bound to a lease; the lowest create_revision leads.

The rules: a candidate has won when one linearizable answer shows its own key, live, in first place. Its token is that
key's create_revision, its deadline its lease's. A key is ours only if its value carries our entry's id.

A leader of etcd that was stopped and goes on may revoke a living lease [tried: 3.4.23, and 3.5.16, which has the fix
of 3.5.13]. So the first place is not enough: the winner also writes a record without lease, and a candidate who finds
another's record `leading` waits until that leader's lease must be over by its own clock. A resignation marks the
record, so it is not waited for. The option `trust_leases` does without, on the operator's word.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from coordkit.backends.contract import (
    OBSERVE_SECONDS,
    Backend,
    Behind,
    Candidacy,
    Confirmed,
    Grant,
    Host,
    Lost,
    Renewed,
    Unknown,
)
from coordkit.backends.etcd import stubs
from coordkit.backends.etcd.connection import Connection, LeaseGone, Target
from coordkit.backends.etcd.layout import Entry, Place, Record, entry_of, record_value, value_of
from coordkit.backends.etcd.leases import Lease, Leases
from coordkit.backends.etcd.requests import Requests, Standing
from coordkit.backends.etcd.watches import Watch, Watches
from coordkit.errors import BackendError, ConfigError, Misconfigured, OutcomeUnknown, Rejected, Unavailable
from coordkit.lease import Instant, waited_for, waiting_time
from coordkit.model import CandidateInfo, FencingToken, Guarantees, LeaderInfo
from coordkit.registry import Address
from coordkit.waiting import Budget, until

PORT: Final = 2379
READ_SECONDS: Final = 2.0  # one read that no lease bounds
STATUS_SECONDS: Final = 0.5  # for an endpoint to tell whose it is; a silent one is asked when it is used
ROUNDS: Final = 6  # of one attempt: each is a request, and two or three decide it
TWICE_BYTES: Final = 500_000  # `seize` has the value twice, and etcd takes requests of 1.5 MiB
LOOK_SECONDS: Final = 60.0  # a waiter looks again at the latest then, whatever hint was lost

stubs.load()  # so that a missing package is told before anything else is done


@dataclass(frozen=True, slots=True)
class Sighting:
    """A record that says `leading` although its leader's key is gone, and since when this session knows that."""

    revision: int
    since: Instant


_RESIGNED: Final = Lost("it was resigned")


class EtcdBackend:
    """One client of one cluster."""

    def __init__(
        self, connection: Connection, prefix: str, host: Host, drift: float, *, trust_leases: bool = False
    ) -> None:
        self.guarantees = _guarantees(trust_leases=trust_leases)
        self.drift = drift
        self.host = host
        self.connection = connection
        self.requests = Requests(connection.rpc)
        self.leases = Leases(host, connection, self.requests, drift)
        self.watches = Watches(host, connection)
        self.records = not trust_leases
        self._prefix = prefix
        self._sightings: dict[bytes, Sighting] = {}  # by the record's key; whoever campaigns next goes on waiting

    async def open(self) -> None:
        await self._knock()
        found = await self.connection.each(STATUS_SECONDS)
        clusters = {
            name: f"{each.header.cluster_id:x}" for name, each in found.items() if not isinstance(each, BackendError)
        }
        if len(set(clusters.values())) > 1:
            told = ", ".join(f"{name}: {cluster}" for name, cluster in clusters.items())
            raise Misconfigured(f"the endpoints are of several clusters: {told}", backend="etcd", operation="open")

    async def _knock(self) -> None:
        """Any linearizable read: it tells whether there is a majority, and whether a user is asked for."""
        request = self.connection.rpc.RangeRequest(key=b"\0", keys_only=True)
        try:
            await self.connection.call("open", lambda endpoint: endpoint.kv.Range, request, seconds=READ_SECONDS)
        except Rejected as error:
            if getattr(error.__cause__, "code", lambda: None)() is stubs.codes().PERMISSION_DENIED:
                return  # we are somebody, who may read other keys
            if self.connection.anonymous:
                told = f"etcd asks for a user and a password, and the URL names none ({error})"
                raise Rejected(told, backend="etcd", operation="open") from error
            raise

    async def close(self) -> None:
        await self.watches.close()
        await self.leases.close()
        await self.connection.close()

    def candidacy(self, election: str, candidate: CandidateInfo, ttl: float) -> Candidacy:
        return EtcdCandidacy(self, election, candidate, ttl)

    async def renew(self, held: Sequence[Grant]) -> Sequence[Renewed | Lost | Unknown]:
        mine = [(each, grant.token) for grant in held if isinstance(each := grant.candidacy, EtcdCandidacy)]
        found = [each.holding(token) for each, token in mine]  # once: one may be resigned while the others are asked
        held_now = [each for each in found if each is not None]
        answers = iter(await self.leases.renew(held_now, mine[0][0].ttl) if held_now else ())
        return [_RESIGNED if each is None else next(answers) for each in found]

    async def leader(self, election: str) -> LeaderInfo | None:
        place = self.place(election)
        entries, record = await self._shown(place, self.requests.first(place))
        if not entries:
            return None
        first = entries[0]
        recorded = record is not None and (record.lease, record.id) == (first.lease, first.candidate.id)
        waits = record is not None and record.leading and not recorded
        if not first.foreign and (waits or (first.records and not recorded)):
            return None  # it is first, and waits until the one before it must be over
        return LeaderInfo(first.candidate, FencingToken(election, first.token), first.proclaimed)

    async def candidates(self, election: str) -> Sequence[CandidateInfo]:
        place = self.place(election)
        entries, _ = await self._shown(place, self.requests.everything(place))
        return [entry.candidate for entry in entries]

    async def changes(self, election: str) -> AsyncIterator[None]:
        place, moved = self.place(election), asyncio.Event()
        # One range could hold both, and what lies between: more than a user who may read the election need be granted.
        ranges = {place.entries: place.entries_end, place.record: b""}
        watches: list[Watch] = []
        try:
            while True:
                watches = [watch for watch in watches if not watch.over]
                there = {watch.key for watch in watches}
                watches += [
                    self.watches.add(key, 0, moved, end=end, puts=True)
                    for key, end in ranges.items()
                    if key not in there
                ]
                moved.clear()
                yield
                await until(moved, OBSERVE_SECONDS)
        finally:
            for watch in watches:
                watch.close()

    def place(self, election: str) -> Place:
        """Where an election lies."""
        return Place(self._prefix, election)

    def record_left(self, place: Place, record: Record | None, first: Entry) -> float:
        """Seconds for which the leader of the record may still lead although its key is gone; 0: it stands in no way.

        Its lease began before the answer that shows this, so from the first such answer on it counts.
        """
        if record is None or not record.leading or (record.lease, record.id) == (first.lease, first.candidate.id):
            self._sightings.pop(place.record, None)
            return 0.0
        now = self.host.clock.now()
        seen = self._sightings.get(place.record)
        if seen is None or seen.revision != record.revision:
            seen = self._sightings[place.record] = Sighting(record.revision, now)
        return max(0.0, waiting_time(record.ttl, self.drift) - waited_for(seen.since, now))

    async def read(self, request: Any, operation: str) -> Any:
        """The answer to a transaction that only reads."""
        answer, _ = await self.connection.call(
            operation, lambda endpoint: endpoint.kv.Txn, request, seconds=READ_SECONDS
        )
        return answer

    async def _shown(self, place: Place, request: Any) -> tuple[list[Entry], Record | None]:
        answer = await self.read(request, "leader")
        entries, record = self.requests.everyone(place, answer)
        if not entries and answer.responses[0].response_range.kvs:  # what is first is not of the layout
            answer = await self.read(self.requests.everything(place), "leader")
            entries, record = self.requests.everyone(place, answer)
        return entries, record


class EtcdCandidacy:
    """One candidate in the queue. Lives on the host's loop; one call at a time, but for hints."""

    def __init__(self, backend: EtcdBackend, election: str, candidate: CandidateInfo, ttl: float) -> None:
        self.election = election
        self.candidate = candidate
        self.ttl = ttl
        self._backend = backend
        self._place = backend.place(election)
        self._lease: Lease | None = None  # claimed: nobody else of this process uses our key's name
        self._token = 0  # our key's create_revision, once it was seen
        self._joined = False  # a create was sent under this lease
        self._unknown = False  # one whose outcome was never told
        self._claimed = False  # a record may have been written
        self._first = False  # our key was seen in first place, and no older one can come
        self._acceptable = 0  # the revision of a record that stands in nobody's way; 0: there is none
        self._moved = asyncio.Event()
        self._own: Watch | None = None
        self._before: Watch | None = None

    # --- the contract ----------------------------------------------------------------------------------------

    async def attempt(self) -> Grant | Behind:
        try:
            return await self._contend()
        except Unavailable as error:
            # To who asks it means that nothing was sent: so nothing of ours may be there, or be claimed here.
            if self._joined:
                raise OutcomeUnknown(str(error), backend="etcd", operation="attempt") from error
            lease, self._lease = self._lease, None
            if lease is not None:
                self._backend.leases.give_back(lease, self._place.entry(lease.id), tainted=False)
            raise

    async def _contend(self) -> Grant | Behind:
        self._moved.clear()
        budget = Budget(self._backend.host.clock, 0.3 * self.ttl)  # the campaign gives a third
        for _ in range(ROUNDS):
            lease = self._lease or await self._claim_lease()
            beat = lease.beat  # before anything is asked: only what is answered after it can make it count
            try:
                won, standing, term = await self._ask(lease, budget.left)
            except LeaseGone:
                lease.gone = True
                await self._forget_lease()
                continue
            lease.confirm(beat, term, self._backend.drift)
            if won:
                self._watch_own(lease, standing.revision + 1)
                if (grant := await self._grant(lease)) is not None:
                    return grant
                continue
            if standing.mine is None:  # gone while we waited: begin anew
                await self._forget_lease()
                continue
            if standing.mine.candidate.id != self.candidate.id:  # what is this? Nobody of this process claims it
                self._unknown = True
                await self._forget_lease()
                continue
            if standing.mine.token != self._token:  # another key than before, whose place is its own
                self._token, self._first, self._acceptable = standing.mine.token, False, 0
            self._watch_own(lease, standing.revision + 1)
            behind = self._behind(standing)
            if behind is not None:
                return behind
            self._first = True
            self._acceptable = 0 if standing.record is None else standing.record.revision
            unrecorded = not self._backend.records and (standing.record is None or not standing.record.leading)
            if unrecorded and (grant := await self._grant(lease)) is not None:
                return grant
        raise OutcomeUnknown(f"undecided after {ROUNDS} rounds", backend="etcd", operation="attempt")

    async def changed(self) -> None:
        await self._moved.wait()

    async def revoked(self) -> None:
        await self._moved.wait()
        self._moved.clear()
        if self._lease is not None:
            self._watch_own(self._lease, 0)

    async def confirm(self, grant: Grant) -> Confirmed | Lost:
        held = self.holding(grant.token)
        if held is None:
            return _RESIGNED
        lease, key, token = held
        answer = await self._backend.read(next(self._backend.requests.entries([key])), "confirm")
        for kv in self._backend.requests.shown(answer):
            if kv.create_revision == token and kv.lease == lease.id:
                return Confirmed()
        return Lost("its key is gone")

    async def proclaim(self, grant: Grant, metadata: str) -> Confirmed | Lost:
        held = self.holding(grant.token)
        if held is None:
            return _RESIGNED
        lease, _, token = held
        value = value_of(self.candidate, metadata, records=self._backend.records)
        request = self._backend.requests.publish(self._place, lease.id, token, value)
        try:
            answer = await self._write(request, "proclaim", self.ttl / 3)
        except LeaseGone:
            return Lost("its lease is gone")
        return Confirmed() if answer.succeeded else Lost("its key is gone")

    async def resign(self) -> None:
        lease = self._lease
        if lease is None:
            return  # nothing was sent, or all of it was removed
        if self._joined:
            try:
                if not self._token and not lease.gone:
                    await self._find()
                await self._remove(lease)
            except (Rejected, Misconfigured):
                self._watch_no_more()
                self._backend.leases.give_back(lease, self._place.entry(lease.id), tainted=True)
                self._lease, self._token = None, 0
                raise
        await self._forget_lease()

    def holding(self, token: int) -> tuple[Lease, bytes, int] | None:
        """The lease, key and create_revision of a won grant; None if it was resigned."""
        if self._lease is None:
            return None
        return self._lease, self._place.entry(self._lease.id), token

    # --- attempting ------------------------------------------------------------------------------------------

    async def _claim_lease(self) -> Lease:
        self._lease = await self._backend.leases.claim(self.ttl, self._place.entry)
        self._joined = self._unknown = self._claimed = False
        self._token = 0
        return self._lease

    async def _forget_lease(self) -> None:
        """Nothing of ours is under this lease, as far as we know; if we do not know it all, it is tainted."""
        self._watch_no_more()
        # Ours no more before anything is awaited: who is cancelled here must not go on under a lease that is revoked.
        lease, self._lease, self._token, self._first = self._lease, None, 0, False
        if lease is not None:
            await self._backend.leases.unclaim(lease, self._place.entry(lease.id), tainted=self._unknown)

    async def _ask(self, lease: Lease, seconds: float) -> tuple[bool, Standing, int]:
        """One transaction, the best for what is known: whether it has won outright, what it showed, its raft term."""
        backend, requests, place = self._backend, self._backend.requests, self._place
        won = False
        if not self._token:
            value = value_of(self.candidate, self.candidate.metadata, records=backend.records)
            if backend.records and len(value) < TWICE_BYTES:
                answer = await self._sent(requests.seize(place, lease.id, value, self._record(lease)), seconds)
                won = answer.succeeded
                if won:
                    self._token = answer.header.revision
            else:
                answer = await self._sent(requests.join(place, lease.id, value), seconds)
        elif backend.records or self._acceptable:
            if self._before is not None and self._before.deleted:
                # A record of the very revision at which the one before us left was written by its resignation. Tried
                # once: one that left no record was another's, or crashed.
                self._acceptable, self._before.deleted = self._before.deleted, 0
            answer = await self._claim(lease, seconds)
            won = answer.succeeded
        else:
            answer = await self._write(requests.look(place, lease.id, self._token), "attempt", seconds)
        if won:
            return True, Standing(answer.header.revision, None, None, None, None), answer.header.raft_term
        standing = requests.standing(place, lease.id, answer)
        if not standing.whole:
            answer = await self._write(requests.everything(place), "attempt", seconds)
            standing = requests.standing_of_all(place, lease.id, answer)
        return False, standing, answer.header.raft_term

    async def _sent(self, create: Any, seconds: float) -> Any:
        before = self._joined, self._unknown, self._claimed
        # Until an answer says what became of it:
        self._joined, self._unknown, self._claimed = True, True, self._backend.records
        try:
            answer = await self._write(create, "attempt", seconds)
        except (Rejected, Unavailable, LeaseGone):
            self._joined, self._unknown, self._claimed = before
            raise
        self._unknown, self._claimed = before[1], before[2] or (self._backend.records and answer.succeeded)
        return answer

    async def _claim(self, lease: Lease, seconds: float) -> Any:
        claimed, self._claimed = self._claimed, True
        requests = self._backend.requests
        claim = requests.claim(
            self._place, lease.id, self._token, self._record(lease), self._acceptable, first=self._first
        )
        answer = await self._write(claim, "attempt", seconds)
        self._claimed = claimed or answer.succeeded
        return answer

    def _record(self, lease: Lease, *, leading: bool = True) -> bytes:
        return record_value(lease.id, self.candidate.id, lease.ttl, leading=leading)

    async def _write(self, request: Any, operation: str, seconds: float) -> Any:
        answer, _ = await self._backend.connection.call(
            operation, lambda endpoint: endpoint.kv.Txn, request, seconds=seconds
        )
        return answer

    def _behind(self, standing: Standing) -> Behind | None:
        """Why we have not won; None if we are first and no record stands in our way."""
        assert standing.mine is not None
        assert standing.first is not None
        left = self._backend.record_left(self._place, standing.record, standing.first)
        if standing.first.key != standing.mine.key:
            before = standing.before or standing.first
            self._watch_before(before.key, standing.revision + 1)
            return Behind(alive=True, wait=LOOK_SECONDS)
        if left > 0:
            self._watch_before(self._place.record, standing.revision + 1, puts=True)
            return Behind(alive=False, wait=left)
        return None

    async def _grant(self, lease: Lease) -> Grant | None:
        """The win, with what its lease still promises; None if our key is gone again."""
        if self._before is not None:
            self._before.close()
            self._before = None
        span = lease.promise.span
        if lease.promise.remaining(self._backend.host.clock.now()) < span / 2:  # it was idle, or etcd has elected
            held = [(lease, self._place.entry(lease.id), self._token)]
            (answer,) = await self._backend.leases.renew(held, self.ttl)
            if isinstance(answer, Lost):
                await self._forget_lease()
                return None
            if lease.promise.remaining(self._backend.host.clock.now()) <= 0:
                raise OutcomeUnknown("won, and no keepalive counts yet", backend="etcd", operation="attempt")
        return Grant(self, self._token, lease.promise)

    # --- leaving ---------------------------------------------------------------------------------------------

    async def _find(self) -> None:
        """Learn our key's create_revision, if our create has come through."""
        assert self._lease is not None
        rpc = self._backend.connection.rpc
        key = self._place.entry(self._lease.id)
        answer, _ = await self._backend.connection.call(
            "resign", lambda endpoint: endpoint.kv.Range, rpc.RangeRequest(key=key), seconds=READ_SECONDS
        )
        self._take_own(answer.kvs)

    async def _remove(self, lease: Lease) -> None:
        """Remove our key, and mark our record resigned: in one transaction where both stand."""
        requests, place = self._backend.requests, self._place
        if self._claimed:
            leading, resigned = self._record(lease), self._record(lease, leading=False)
            try:
                if self._token:
                    leave = requests.leave(place, lease.id, self._token, leading, resigned)
                    left = await self._write(leave, "resign", READ_SECONDS)
                    if left.succeeded:
                        self._token, self._claimed = 0, False
                        return
                    self._token = 0
                    self._take_own(left.responses[0].response_range.kvs)
                await self._write(requests.close_record(place, leading, resigned), "resign", READ_SECONDS)
                self._claimed = False
            except Rejected as error:  # no space for the record, say: at least the key goes
                self._backend.host.log.warning("a record stays, and will be waited for: %r", error)
        if self._token:
            await self._write(requests.drop(place.entry(lease.id), self._token), "resign", READ_SECONDS)

    def _take_own(self, kvs: Sequence[Any]) -> None:
        for kv in kvs:
            entry = entry_of(self._place, kv)
            if entry is not None and entry.candidate.id == self.candidate.id:
                self._token = entry.token

    # --- hints -----------------------------------------------------------------------------------------------

    def _watch_own(self, lease: Lease, since: int) -> None:
        if self._own is None or self._own.over:
            self._own = self._backend.watches.add(self._place.entry(lease.id), since, self._moved)

    def _watch_before(self, key: bytes, since: int, *, puts: bool = False) -> None:
        if self._before is not None:
            if self._before.key == key and not self._before.over:
                return
            self._before.close()
        self._before = self._backend.watches.add(key, since, self._moved, puts=puts)

    def _watch_no_more(self) -> None:
        for watch in (self._own, self._before):
            if watch is not None:
                watch.close()
        self._own = self._before = None


def check(address: Address) -> None:
    """`etcd://host:port,host:port/prefix`; with TLS `etcds://`, whose certificate and key go together."""
    if address.user is not None and not address.user:
        raise ConfigError(f"{address.scheme}:// has a password and no user")
    if address.user is not None and address.password is None:
        raise ConfigError(f"{address.scheme}:// has a user and no password")
    if bool(address.option("cert", "")) != bool(address.option("key", "")):
        raise ConfigError("the options 'cert' and 'key' go together")


def guarantees(address: Address) -> Guarantees:
    """What etcd promises, and what it does not where its leases are trusted."""
    return _guarantees(trust_leases=address.option("trust_leases", False))


def connect(address: Address, host: Host) -> Backend:
    """A client of the cluster, not yet connected."""
    hosts = tuple(
        f"[{name}]:{port or PORT}" if ":" in name else f"{name}:{port or PORT}" for name, port in address.hosts
    )
    target = Target(
        hosts,
        address.scheme == "etcds",
        address.option("ca", ""),
        address.option("cert", ""),
        address.option("key", ""),
        address.option("server_name", ""),
        address.user,
        address.password,
    )
    prefix = address.path[1:]
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    trust_leases = address.option("trust_leases", False)
    return EtcdBackend(Connection(target, host), prefix, host, address.drift, trust_leases=trust_leases)


def _guarantees(*, trust_leases: bool) -> Guarantees:
    stopped = "the leader of etcd paused beyond the ttl and resumed"
    return Guarantees(
        backend="etcd",
        token="the create_revision of the leader's key: it rises with every write of the cluster",
        fifo=True,
        survives=(
            "a candidate that is killed, paused, cut off or dropped",
            "any minority of the members killed, paused, cut off or restarted",
            *(() if trust_leases else (stopped,)),
            "a majority of the members down: nobody leads until it is back",
            "lost and late replies",
        ),
        not_covered=(
            *((f"{stopped}: it may revoke a living lease (trust_leases)",) if trust_leases else ()),
            "candidates that are not of coordkit, or trust leases: they do not wait for one whose lease was revoked",
            "a cluster restored from a backup or made anew: its revisions, and so the tokens, may fall",
            "a virtual machine that is paused, copied or restored",
        ),
    )
