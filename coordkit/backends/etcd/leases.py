"""The leases of one session: one for each ttl, shared by its elections, kept alive together.

The rules: what a lease promises counts from before its newest keepalive was sent, and only once a linearizable answer
of the same raft term has come after it, from a member that had reached that term before: a stalled leader of an earlier
term answers keepalives, too. Two open candidacies of one election never share a lease, for the lease names the key.
A lease under which a create may still be under way is tainted: nobody new gets it, keys that no living candidacy claims
are removed from it, and it is revoked as soon as it is free. After that no late create can appear.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from coordkit.backends.contract import Host, Lost, Renewed, Unknown
from coordkit.backends.etcd.connection import Beat, Connection, LeaseGone
from coordkit.backends.etcd.requests import Requests
from coordkit.errors import BackendError, OutcomeUnknown, Unavailable
from coordkit.lease import Promise, promise, waited_for, waiting_time
from coordkit.retry import jitter
from coordkit.waiting import until

CLOSE_SECONDS: Final = 1.0  # how long a closing session tries to revoke leases; then they run out
CALL_SECONDS: Final = 2.0  # one call in the background
IDLE_SECONDS: Final = 3600.0


class Lease:
    """One lease in the cluster. `promise` is what it allows; the loop of its session keeps it alive."""

    def __init__(self, number: int, asked: float, ttl: int, granted: Promise) -> None:
        self.id = number
        self.asked = asked  # the electors' ttl
        self.ttl = ttl  # the granted one, in whole seconds
        self.granted = granted
        self.promise = granted
        self.beat: Beat | None = None  # the newest keepalive that was answered, counted or not yet
        self.tried = granted.sent  # when a keepalive was last sent
        self.claims: set[bytes] = set()  # the keys that living candidacies may have under it
        self.tainted = False
        self.gone = False  # the cluster has said so

    def confirm(self, beat: Beat | None, term: int, drift: float) -> None:
        """A linearizable answer of this raft term has come, to a request that was sent after this keepalive's answer.

        The caller holds the beat since before it asked: a later one is not counted by an earlier answer.
        """
        if beat is not None and counts(beat, term) and beat.sent.boot > self.promise.sent.boot:
            self.promise = promise(beat.sent, beat.ttl, drift)


def counts(beat: Beat, term: int) -> bool:
    """Whether a keepalive counts, by the raft term of a linearizable answer that came after it."""
    return beat.ttl > 0 and beat.before == beat.term == term > 0


class Leases:
    """All leases of one session. Lives on the host's loop."""

    def __init__(self, host: Host, connection: Connection, requests: Requests, drift: float) -> None:
        self._host = host
        self._connection = connection
        self._requests = requests
        self._drift = drift
        self._all: list[Lease] = []
        self._granting: dict[float, asyncio.Task[Lease | BackendError]] = {}
        self._beating: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._revoking: dict[int, asyncio.Task[None]] = {}
        self._sweeping: dict[int, asyncio.Task[None]] = {}

    # --- claiming --------------------------------------------------------------------------------------------

    async def claim(self, ttl: float, key_of: Callable[[int], bytes]) -> Lease:
        """A living lease under which nobody else of this process has this election's key; it is the caller's now."""
        while True:
            for lease in self._all:
                if lease.asked == ttl and not lease.gone and not lease.tainted and key_of(lease.id) not in lease.claims:
                    lease.claims.add(key_of(lease.id))
                    return lease
            granting = self._granting.get(ttl)
            if granting is None:
                granting = self._granting[ttl] = self._host.spawn(self._grant(ttl), "etcd-grant")
            found = await asyncio.shield(granting)
            if not isinstance(found, Lease):
                raise type(found)(str(found), backend="etcd", operation=found.operation) from found

    async def unclaim(self, lease: Lease, key: bytes, *, tainted: bool) -> None:
        """As `give_back`; a lease that nobody needs is revoked before this returns, if it can be."""
        revoking = self.give_back(lease, key, tainted=tainted)
        if revoking is not None:
            await asyncio.shield(revoking)

    def give_back(self, lease: Lease, key: bytes, *, tainted: bool) -> asyncio.Task[None] | None:
        """The key is the owner's no more. A lease that nobody needs is revoked, by the task that is returned.

        `tainted`: something may be under that key all the same, now or later.
        """
        lease.claims.discard(key)
        lease.tainted = lease.tainted or tainted
        spare = next((each for each in self._all if each.asked == lease.asked and not each.tainted), None)
        if lease in self._all and not lease.claims and (lease.tainted or lease.gone or lease is not spare):
            self._drop(lease)
            return None if lease.gone else self._revoking_of(lease)
        if tainted:
            self._sweep_from_now_on(lease)
        return None

    async def close(self) -> None:
        """Revoke the leases under which nothing may be needed any more; leave the others to run out."""
        if self._granting:  # what is granted now was asked for, and is revoked below
            await asyncio.wait(list(self._granting.values()), timeout=CLOSE_SECONDS)
        for task in (self._beating, *self._sweeping.values(), *self._granting.values()):
            if task is not None:
                task.cancel()
        free = [lease for lease in self._all if not lease.claims and not lease.gone]
        revoking = [*self._revoking.values(), *(self._revoking_of(lease) for lease in free)]
        if revoking:
            _, unfinished = await asyncio.wait(revoking, timeout=CLOSE_SECONDS)
            for task in unfinished:
                task.cancel()

    async def _grant(self, ttl: float) -> Lease | BackendError:
        rpc = self._connection.rpc
        number = self._host.chance.getrandbits(62) + 1
        request = rpc.LeaseGrantRequest(TTL=max(1, math.ceil(ttl)), ID=number)
        sent = self._host.clock.now()
        try:
            answer, _ = await self._connection.call(
                "attempt", lambda endpoint: endpoint.lease.LeaseGrant, request, seconds=ttl / 4
            )
        except OutcomeUnknown as error:  # it may be there, or come: nothing is bound to it, but it is not ours to leave
            orphan = Lease(number, ttl, request.TTL, promise(sent, request.TTL, self._drift))
            self._revoking_of(orphan)
            return error
        except BackendError as error:
            return error
        else:
            lease = Lease(number, ttl, answer.TTL, promise(sent, answer.TTL, self._drift))
            self._all.append(lease)
            if self._beating is None:
                self._beating = self._host.spawn(self._keep_alive(), "etcd-leases")
            self._wake.set()
            return lease
        finally:
            self._granting.pop(ttl, None)

    # --- keeping alive ---------------------------------------------------------------------------------------

    async def renew(self, held: Sequence[tuple[Lease, bytes, int]], ttl: float) -> list[Renewed | Lost | Unknown]:
        """Keep the leases of these keys alive and see that each key stands: one answer each, in their order.

        `held`: the lease, the key, and the create_revision by which it is ours.
        """
        leases = {lease.id: lease for lease, _, _ in held}
        answers: list[Renewed | Lost | Unknown] = []
        for _ in range(2):  # after a change of leader, or of endpoint, the first round only learns the new term
            beats = await self.beat(leases.values(), seconds=ttl / 9)
            standing, term = await self._standing(held, seconds=ttl / 9)
            renewed = {number: self._counted(leases[number], beats.get(number), term) for number in leases}
            answers = [
                renewed[lease.id] if standing.get(key) == (token, lease.id) else Lost("its key is gone")
                for lease, key, token in held
            ]
            if not any(isinstance(answer, Unknown) for answer in answers):
                break
        return answers

    async def beat(self, leases: Iterable[Lease], *, seconds: float) -> Mapping[int, Beat]:
        """Send a keepalive for each of these leases; what was answered, which does not count yet."""
        living = {lease.id: lease for lease in leases if not lease.gone}
        if not living:
            return {}
        now = self._host.clock.now()
        for lease in living.values():
            lease.tried = now
        beats = await self._connection.keep_alive(list(living), seconds=seconds)
        for number, beat in beats.items():
            living[number].beat = beat
        return beats

    def _counted(self, lease: Lease, beat: Beat | None, term: int) -> Renewed | Unknown:
        if beat is not None and counts(beat, term):
            lease.confirm(beat, term, self._drift)
            return Renewed(promise(beat.sent, beat.ttl, self._drift))
        told = "no answer" if beat is None else f"ttl {beat.ttl}, raft terms {beat.before}, {beat.term}, {term}"
        return Unknown(OutcomeUnknown(f"no keepalive that counts: {told}", backend="etcd", operation="renew"))

    async def _standing(
        self, held: Sequence[tuple[Lease, bytes, int]], *, seconds: float
    ) -> tuple[dict[bytes, tuple[int, int]], int]:
        """By linearizable reads: create_revision and lease of the keys that stand; the raft term, 0 if it changed."""
        reads = [
            self._connection.call("renew", lambda endpoint: endpoint.kv.Txn, request, seconds=seconds)
            for request in self._requests.entries([key for _, key, _ in held])
        ]
        answers = [answer for answer, _ in await asyncio.gather(*reads)]
        terms = {answer.header.raft_term for answer in answers}
        found = {kv.key: (kv.create_revision, kv.lease) for answer in answers for kv in self._requests.shown(answer)}
        return found, terms.pop() if len(terms) == 1 else 0

    async def _keep_alive(self) -> None:
        """Keep every lease alive that the keeper does not."""
        while True:
            self._wake.clear()
            now = self._host.clock.now()
            # The keeper renews every ttl/3 what it holds; a little later here, so that only one of the two does it.
            naps = {
                lease: lease.ttl * 3 / 8 - waited_for(lease.beat.sent if lease.beat else lease.granted.sent, now)
                for lease in self._all
                if not lease.gone
            }
            due = {lease.id: lease for lease, nap in naps.items() if nap <= 0}
            if not due:
                await until(self._wake, min(naps.values(), default=IDLE_SECONDS))
                continue
            shortest = min(lease.ttl for lease in due.values())
            beats: Mapping[int, Beat] = {}
            try:
                beats = await self.beat(due.values(), seconds=shortest / 9)
            except Exception as error:  # noqa: BLE001 - waiting candidates live by this loop: it goes on
                self._host.log.info("a lease could not be kept alive yet: %r", error)
            for number, beat in beats.items():
                if beat.ttl <= 0 and not due[number].claims:
                    due[number].gone = True
                    self._drop(due[number])
            if len(beats) < len(due):
                await asyncio.sleep(self._host.chance.uniform(shortest / 48, shortest / 12))

    def _sweep_from_now_on(self, lease: Lease) -> None:
        if lease in self._all and lease.id not in self._sweeping:
            self._sweeping[lease.id] = self._host.spawn(self._sweep_until_free(lease), "etcd-sweep")

    async def _sweep_until_free(self, lease: Lease) -> None:
        """Again and again, for as long as terms of others keep it from being revoked."""
        try:
            while lease in self._all:
                try:
                    await self._sweep(lease)
                except Exception as error:  # noqa: BLE001 - an orphan would block its election: it goes on
                    self._host.log.info("a lease could not be swept yet: %r", error)
                await asyncio.sleep(lease.ttl / 3)
        finally:
            self._sweeping.pop(lease.id, None)

    async def _sweep(self, lease: Lease) -> None:
        """Remove the keys of this lease that no living candidacy claims: creates that came after their resign."""
        rpc = self._connection.rpc
        request = rpc.LeaseTimeToLiveRequest(ID=lease.id, keys=True)
        answer, _ = await self._connection.call(
            "sweep", lambda endpoint: endpoint.lease.LeaseTimeToLive, request, seconds=CALL_SECONDS, linear=False
        )
        for key in answer.keys:
            if key in lease.claims:
                continue
            found, _ = await self._connection.call(
                "sweep", lambda endpoint: endpoint.kv.Range, rpc.RangeRequest(key=key), seconds=CALL_SECONDS
            )
            for kv in found.kvs:
                if kv.lease == lease.id:
                    request = self._requests.drop(key, kv.create_revision)
                    await self._connection.call(
                        "sweep", lambda endpoint: endpoint.kv.Txn, request, seconds=CALL_SECONDS
                    )

    # --- revoking --------------------------------------------------------------------------------------------

    def _drop(self, lease: Lease) -> None:
        """Keep it alive no more. Others may have dropped it while something was awaited."""
        if lease in self._all:
            self._all.remove(lease)

    def _revoking_of(self, lease: Lease) -> asyncio.Task[None]:
        task = self._revoking.get(lease.id)
        if task is None:
            task = self._revoking[lease.id] = self._host.spawn(self._revoke_until_gone(lease), "etcd-revoke")
            task.add_done_callback(lambda _: self._revoking.pop(lease.id, None))
        return task

    async def _revoke_until_gone(self, lease: Lease) -> None:
        """Until the cluster says so, or the lease must have run out: nothing keeps it alive any more."""
        request = self._connection.rpc.LeaseRevokeRequest(ID=lease.id)
        failures = 0
        while waited_for(lease.tried, self._host.clock.now()) < waiting_time(lease.ttl, self._drift):
            try:
                await self._connection.call(
                    "resign", lambda endpoint: endpoint.lease.LeaseRevoke, request, seconds=CALL_SECONDS
                )
                break
            except LeaseGone:
                break
            except (Unavailable, OutcomeUnknown):
                failures += 1
                await asyncio.sleep(jitter(self._host.chance, failures, first=lease.ttl / 48, most=lease.ttl / 3))
            except BackendError as error:
                self._host.log.info("a lease is left to run out: %r", error)
                await asyncio.sleep(lease.ttl / 3)
        lease.gone = True
