"""Random schedules of the real etcd adapter: the storm of `storm.py`, on a simulated cluster with troubles of its own.

The rule: never more goes wrong than the adapter's `guarantees` allow; what they promise, the same judges see kept.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

from coordkit.errors import CoordkitError
from coordkit.model import encode_election
from coordkit.term import Tenure
from coordkit.testing.virtual import Process, VirtualElector
from tests.simulation.etcd_model import ELECTION, SCAN, SHORTEST, Cluster, Member
from tests.simulation.etcd_wire import SimulatedConnection, Wire, join
from tests.simulation.storm import Run, Storm

TTLS = (1.0, 2.0, 2.5, 5.0)  # the first is raised to what etcd grants, the third rounded up
STRANGER = 0x5E  # the lease of a foreign contender


class EtcdStorm(Storm):
    """One random schedule."""

    ttls = 16
    kinds = ("pause", "stall", "suspend", "kill")

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        chance, world = self.chance, self.world
        self.run.command = "python -m tests.simulation --etcd"
        self.ttl = self.run.ttl = chance.choice(TTLS)
        self.granted = max(SHORTEST, -(-self.ttl // 1))
        self._loss = chance.choice((0.0, 0.003, 0.03))  # of single messages: each breaks a connection
        self._delay = chance.choice((0.001, 0.005, 0.015)) * self.ttl
        self.stay = chance.choice((1.0, 4.0))
        self._over = False
        self.electors: list[VirtualElector] = []
        self.cluster = Cluster(
            world, members=chance.choice((3, 3, 5)), revokes=chance.random() < 0.6, rates=self._extreme
        )
        self._hops = chance.choice((0.0005, 0.002, 0.006)) * self.ttl
        self.cluster.hop = lambda: chance.expovariate(1 / self._hops)
        self.cluster.wrongful = lambda: chance.uniform(0, self.ttl / 2) if chance.random() < 0.7 else None
        self._connections: dict[Process, SimulatedConnection] = {}

    # --- candidates ------------------------------------------------------------------------------------------

    def _bear(self) -> None:
        if self._over:
            return
        super()._bear()
        process = self.world.processes[-1]
        self._promised(process)
        if self.chance.random() < 0.4:  # another candidate of the same session
            process.start(self._live(process, self.elections[0]))

    def _promised(self, process: Process) -> None:
        """Whatever a leader is promised, its lease in the cluster lasts longer."""
        write, world, cluster = process.journal.write, self.world, self.cluster

        def checked(event: str, /, **fields: Any) -> None:
            write(event, **fields)
            if event in ("won", "renewed") and not process.silent:
                record = world.records[-1]
                for kv in cluster.store.keys.values():
                    if kv.create_revision == record["token"] and (end := cluster.lease_end(kv.lease)) is not None:
                        over = float(str(record["deadline"])) - end
                        if over > 1e-6:
                            self.run.wrong.append(f"{record['entry']} was promised {over:.6f} s more than its lease")

        process.journal.write = checked  # type: ignore[method-assign]

    def _elector(self, process: Process, election: str) -> VirtualElector:
        if process._keeper is None:
            chosen = self.cluster.members
            if self.chance.random() < 0.2:  # whose URL names but some of the members
                chosen = self.chance.sample(chosen, 2)
            trust = not self.cluster.revokes and self.chance.random() < 0.7  # else some write records, some do not
            made = self._connections[process] = join(process, self.cluster, chosen, trust_leases=trust)
            for wire in made.wires.values():
                wire.weather = Gusty(self)
        made_elector = super()._elector(process, election)
        self.electors.append(made_elector)
        return made_elector

    async def _lead(self, process: Process, elector: VirtualElector, tenure: Tenure) -> None:
        if process.chance.random() < 0.3:
            process.start(self._talk(process, elector, tenure))
        await super()._lead(process, elector, tenure)

    async def _talk(self, process: Process, elector: VirtualElector, tenure: Tenure) -> None:
        """Proclaim, ask whether it still leads, and who does."""
        with contextlib.suppress(CoordkitError):
            if await elector.desk.proclaim(tenure, "metadata", self.ttl):
                self.run.troubles["proclaimed"] += 1
            await elector.desk.confirm(tenure, self.ttl)
            await elector.desk.candidates(self.ttl)

    def _end_all(self) -> None:
        self._over = True
        super()._end_all()
        for elector in self.electors:
            if not elector.process.dead:
                elector.process.later(self.granted, functools.partial(_close, elector))

    # --- the end ---------------------------------------------------------------------------------------------

    def _recovery(self) -> float:
        """Late requests, a leader of etcd to be elected, who prolongs a dead leader's lease, and then its record."""
        late = 2 * self.ttl
        lease = (3 * ELECTION + self.granted + SCAN) / (1 - self.world.drift) + 1.0
        record = self.granted * (1 + 2 * self.world.drift) / (1 - self.world.drift)
        return late + lease + record + self.ttl

    def _recover(self) -> None:
        """As soon as somebody acts after the last late request, it has recovered."""
        since, acts = self.world.now + 2 * self.ttl, self.run.acts
        looked, led = len(acts), set[str]()

        def recovered() -> bool:
            nonlocal looked
            led.update(act.election for act in acts[looked:] if act.at > since)
            looked = len(acts)
            return len(led) == len(self.elections)

        with contextlib.suppress(TimeoutError):
            self.world.run_until(recovered, self._recovery())
        self._see_led(since)

    def _heal(self) -> None:
        super()._heal()
        self.cluster.heal()
        if STRANGER in self.cluster.store.leases:
            self.cluster.order(lambda store: store.revoke(STRANGER))
        for made in self._connections.values():
            for wire in made.wires.values():
                wire.mend()
                wire.weather = Late(self)

    def _left_over(self) -> list[str]:
        store = self.cluster.store
        records = {encode_election(election).encode() + b".coordkit" for election in self.elections}
        wrong = [f"the key {key!r} is left" for key in store.keys if key not in records]
        wrong += [f"the lease {lease:x} is left" for lease in store.leases]
        return wrong

    # --- troubles --------------------------------------------------------------------------------------------

    def _trouble(self) -> None:
        if self.calm:
            return
        if self.chance.random() < 0.5:
            super()._trouble()
            return
        chance, ttl, cluster = self.chance, self.ttl, self.cluster
        self.world.after(chance.expovariate(1 / (self._patience * ttl)), self._trouble)
        kind = chance.choice(tuple(TROUBLES))
        until = chance.choice((0.2, 1.0, 2.0)) * chance.uniform(0, self.granted + 2 * ELECTION)
        end = TROUBLES[kind](self)
        if end is not None:
            self.run.troubles[kind] += 1
            self.world.after(until, end)
        self.run.troubles["revoked alive"] = cluster.revoked_alive

    def _leading(self) -> list[Process]:
        processes = [process for process in self._connections if not process.dead]
        return [process for process in processes if process._keeper is not None and process._keeper._held]

    def _victim(self, living: Sequence[Process]) -> Process:
        """Often one that leads."""
        leading = self._leading()
        return self.chance.choice(leading if leading and self.chance.random() < 0.5 else living)

    def _whole(self) -> bool:
        """Whether nothing is wrong with the members: what goes wrong with them goes wrong one by one, mostly."""
        members = self.cluster.members
        whole = all(member.active and member.side == 0 for member in members)
        return self.cluster.leader is not None and (whole or self.chance.random() < 0.2)

    def _a_leader_hangs(self) -> Callable[[], None] | None:
        return self._stand_still(self.cluster.leader, self.cluster.hang)

    def _a_leader_is_paused(self) -> Callable[[], None] | None:
        return self._stand_still(self.cluster.leader, self.cluster.pause)

    def _a_member_is_paused(self) -> Callable[[], None] | None:
        return self._stand_still(self.chance.choice(self.cluster.members), self.cluster.pause)

    def _stand_still(self, member: Member | None, how: Callable[[Member], None]) -> Callable[[], None] | None:
        if member is None or not self._whole():
            return None
        how(member)

        def resume() -> None:
            if self.chance.random() < 0.5 and not self.calm:  # and who leads does not hear of it
                for process in self._leading():
                    for wire in self._connections[process].wires.values():
                        wire.cut()
                        self.world.after(self.granted, wire.mend)
            self.cluster.resume(member)

        return resume

    def _a_member_is_killed(self) -> Callable[[], None] | None:
        if not self._whole():
            return None
        member = self.chance.choice(self.cluster.members)
        self.cluster.kill(member)
        return lambda: self.cluster.start(member)

    def _a_minority_is_cut_off(self) -> Callable[[], None] | None:
        cluster = self.cluster
        if not self._whole():
            return None
        some = self.chance.sample(cluster.members, self.chance.randint(1, len(cluster.members) - cluster.quorum))
        if cluster.leader is not None and self.chance.random() < 0.5 and cluster.leader not in some:
            some[0] = cluster.leader
        cluster.split(some)

        def rejoin() -> None:
            for member in some:
                member.side = 0

        return rejoin

    def _a_connection_breaks(self) -> Callable[[], None] | None:
        wire = self._a_wire()
        if wire is None:
            return None
        wire.hang_up()
        return lambda: None

    def _a_wire_is_cut(self) -> Callable[[], None] | None:
        wires = [wire] if (wire := self._a_wire()) is not None else []
        if not wires:
            return None
        if self.chance.random() < 0.5:  # or all of a process
            wires = list(self._connections[wires[0].process].wires.values())
        refused = self.chance.random() < 0.3
        for wire in wires:
            wire.cut(refused=refused)

        def mend() -> None:
            for wire in wires:
                wire.mend()

        return mend

    def _a_wire(self) -> Wire | None:
        living = [made for process, made in self._connections.items() if not process.dead]
        return self.chance.choice(list(self.chance.choice(living).wires.values())) if living else None

    def _a_key_is_deleted(self) -> Callable[[], None] | None:
        """An operator deletes the leader's key: its term is revoked, and its record is waited for."""
        first = min(
            (kv for key, kv in self.cluster.store.keys.items() if kv.lease and key != self._strangers_key()),
            key=lambda kv: kv.create_revision,
            default=None,
        )
        if first is None or self.chance.random() < 0.7 or not self.cluster.revokes:
            return None
        rpc = self.cluster.rpc
        self._order(rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=first.key)))
        return lambda: None

    def _a_stranger_contends(self) -> Callable[[], None] | None:
        """`etcdctl elect` queues up, leads, and goes. Or somebody puts a key there that is of no candidate."""
        rpc, key = self.cluster.rpc, self._strangers_key()
        if key in self.cluster.store.keys or STRANGER in self.cluster.store.leases:
            return None
        odd = self.chance.random() < 0.3
        if odd:
            put = rpc.PutRequest(key=key, value=b"odd")
        else:
            self.cluster.order(lambda store: store.grant(STRANGER, 3600))
            put = rpc.PutRequest(key=key, value=b"etcdctl", lease=STRANGER)
        self._order(rpc.RequestOp(request_put=put))

        def go() -> None:
            if odd:
                self._order(rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key)))
            else:
                self.cluster.order(lambda store: store.revoke(STRANGER))

        return go

    def _strangers_key(self) -> bytes:
        return b"%s/%x" % (encode_election(self.elections[0]).encode(), STRANGER)

    def _order(self, op: Any) -> None:
        self.cluster.order(lambda store: store.transact(self.cluster.rpc.TxnRequest(success=[op])))


def _close(elector: VirtualElector) -> None:
    elector.desk.close()


TROUBLES: dict[str, Callable[[EtcdStorm], Callable[[], None] | None]] = {
    "a leader hangs": EtcdStorm._a_leader_hangs,
    "a leader is paused": EtcdStorm._a_leader_is_paused,
    "a member is paused": EtcdStorm._a_member_is_paused,
    "a member is killed": EtcdStorm._a_member_is_killed,
    "a minority is cut off": EtcdStorm._a_minority_is_cut_off,
    "a connection breaks": EtcdStorm._a_connection_breaks,
    "a wire is cut": EtcdStorm._a_wire_is_cut,
    "a key is deleted": EtcdStorm._a_key_is_deleted,
    "a stranger contends": EtcdStorm._a_stranger_contends,
}


class Late:
    """Messages overtake each other; none is lost."""

    def __init__(self, storm: EtcdStorm) -> None:
        self._storm = storm

    def request(self, path: str, message: Any) -> float | None:
        return self._storm.chance.expovariate(1 / self._storm._delay)

    def reply(self, path: str, message: Any) -> float | None:
        return self._storm.chance.expovariate(1 / self._storm._delay)


class Gusty(Late):
    """Connections break with what is on them, and now and then a message takes very long."""

    def request(self, path: str, message: Any) -> float | None:
        return self._gust(super().request(path, message))

    def reply(self, path: str, message: Any) -> float | None:
        return self._gust(super().reply(path, message))

    def _gust(self, delay: float | None) -> float | None:
        chance, storm = self._storm.chance, self._storm
        luck = chance.random()
        if luck < storm._loss:
            return None
        return chance.uniform(0, 2 * storm.ttl) if luck > 0.985 else delay


def storm(seed: int) -> Run:
    """The run of a seed."""
    return EtcdStorm(seed).play()
