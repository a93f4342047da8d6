"""Random schedules of the real ZooKeeper adapter: the storm of `storm.py`, on a simulated ensemble and its troubles.

The rule: never more goes wrong than the adapter's `guarantees` allow; what they promise, the same judges see kept. And
nobody is promised a session for longer than the servers keep it, whether or not somebody else would lead by then.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

from coordkit.backends.zookeeper.layout import Place
from coordkit.errors import CoordkitError
from coordkit.term import Tenure
from coordkit.testing.virtual import Process, VirtualElector
from tests.simulation.storm import Run, Storm
from tests.simulation.zookeeper_model import Ensemble, Server
from tests.simulation.zookeeper_tree import LAST, Closed, Create, Delete, Op
from tests.simulation.zookeeper_wire import Site, Wire, join, simulated

TTLS = (1.0, 4.0, 10.0)
TICKS = (2, 2, 3, 6, 15)  # in a ttl
DRIFTS = (0.002, 0.01, 0.05)  # with more than a tenth, and answers that take their time, nobody is sure enough to win
STRANGER = 0x5E  # the session of a foreign contender
ROUNDING = 1e-6
BY_HAND = "_c_00000000-0000-0000-0000-000000000000-latch-"  # named as a candidate's node, and nobody's
FOREIGN = "_c_11111111-1111-1111-1111-111111111111-latch-"


class ZooKeeperStorm(Storm):
    """One random schedule."""

    ttls = 16
    kinds = ("pause", "stall", "suspend", "kill")

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        chance, world = self.chance, self.world
        self.run.command = "python -m tests.simulation --zookeeper"
        world.drift = chance.choice(DRIFTS)
        self.ttl = self.run.ttl = chance.choice(TTLS)
        self.tick = self.ttl / chance.choice(TICKS)
        if chance.random() < 0.2:  # less than the servers grant
            self.tick *= 1.5
        self.granted = max(self.ttl, 2 * self.tick)
        self._loss = chance.choice((0.0, 0.003, 0.02))  # of single messages: each breaks a connection
        self._delay = chance.choice((0.001, 0.005, 0.015)) * self.ttl
        self.stay = chance.choice((1.0, 4.0))
        self._over = False
        self.electors: list[VirtualElector] = []
        self.sites: dict[Process, Site] = {}  # of its newest session
        self._all_sites: list[Site] = []
        self.ensemble = ensemble = Ensemble(
            world,
            servers=chance.choice((3, 3, 5)),
            tick=self.tick,
            sync_ticks=chance.choice((2, 5, 5)),
            sticks=chance.random() < 0.5,
            rates=self._extreme,
        )
        ensemble.rounds_up = chance.random() < 0.5
        hops, disk = chance.choice((0.0005, 0.002, 0.006)) * self.ttl, chance.choice((0.0002, 0.004)) * self.ttl
        ensemble.hop = lambda: chance.expovariate(1 / hops)
        ensemble.disk = lambda: chance.expovariate(1 / disk)
        ensemble.race = lambda thread: chance.uniform(0, 0.001 * self.ttl)
        ensemble.on_expired = self._expired
        self._deadlines: dict[int, tuple[float, str]] = {}  # by token: until when it was promised, and to whom
        if chance.random() < 0.3:
            world.after(2 * self.tick, lambda: self._operate(self._near_the_wrap))

    def play(self) -> Run:
        with simulated():
            return super().play()

    def _near_the_wrap(self) -> None:
        """The elections have had almost as many candidates as a sequence can count."""
        for election in self.elections:
            path = Place("", election).path
            if path not in self.ensemble.reign.ahead.nodes:
                self._order(Create(path))
            self.ensemble.set_count(path, LAST - self.chance.randrange(20))

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
        """Remember what a leader is promised."""
        write, world, ensemble = process.journal.write, self.world, self.ensemble

        def noted(event: str, /, **fields: Any) -> None:
            write(event, **fields)
            if event in ("won", "renewed") and not process.silent:
                record = world.records[-1]
                token, deadline = int(str(record["token"])), float(str(record["deadline"]))
                if deadline >= self._deadlines.get(token, (0.0, ""))[0]:
                    self._deadlines[token] = deadline, str(record["entry"])
                if (gone := ensemble.deleted.get(token)) is not None:
                    self._compare(token, gone)

        process.journal.write = noted  # type: ignore[method-assign]

    def _expired(self, session: int, nodes: Sequence[int]) -> None:
        for token in nodes:
            self._compare(token, self.world.now)

    def _compare(self, token: int, gone: float) -> None:
        deadline, entry = self._deadlines.get(token, (0.0, ""))
        if deadline > gone + ROUNDING:
            self.run.wrong.append(f"{entry} was promised {deadline - gone:.6f} s more than its node had, at {gone:.6f}")

    def _elector(self, process: Process, election: str) -> VirtualElector:
        if process._keeper is None:
            servers = self.ensemble.servers
            if self.chance.random() < 0.2:  # whose URL names but some of them
                servers = self.chance.sample(servers, 2)
            known = self.sites.get(process)
            site = self.sites[process] = join(process, self.ensemble, servers, ttl=self.ttl)
            if known is not None:
                site.kazoos = known.kazoos
            self._all_sites.append(site)
            for wire in site.wires.values():
                wire.weather = Late(self) if self.calm else Gusty(self)
        made = super()._elector(process, election)
        self.electors.append(made)
        return made

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

    def _kill(self, process: Process) -> None:
        super()._kill(process)
        if (site := self.sites.get(process)) is not None:
            site.die()

    # --- the end ---------------------------------------------------------------------------------------------

    def _end_all(self) -> None:
        self._over = True
        super()._end_all()
        self.world.after(self._recovery(), self._see_no_orphans)
        for elector in self.electors:
            if not elector.process.dead:
                elector.process.later(self._recovery() + self.tick, functools.partial(_close, elector))

    def _recovery(self) -> float:
        """Late requests, a leader to be elected, dead sessions that get a full timeout by it."""
        late = 2 * self.ttl + self.ensemble.sync_limit + 2 * self.tick
        session = (self.granted + 2 * self.tick) / (1 - self.world.drift)
        return late + session + self.granted

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
            self.world.run_until(recovered, 2 * self._recovery())
        self._see_led(since)

    def _heal(self) -> None:
        super()._heal()
        self.ensemble.heal()
        for site in self._all_sites:
            for wire in site.wires.values():
                wire.mend()
                wire.weather = Late(self)
        for election in self.elections:
            self._operate(functools.partial(self._sweep, Place("", election)))

    def _nodes(self, *elections: str) -> dict[str, int]:
        """All nodes of candidates, with their owners."""
        places = [f"{Place('', election).path}/" for election in elections or self.elections]
        nodes = self.ensemble.newest.nodes
        return {path: node.owner for path, node in nodes.items() if path.startswith(tuple(places))}

    def _see_no_orphans(self) -> None:
        self.run.wrong += [f"{path} is left, of session {owner:x}" for path, owner in self._nodes().items()]

    def _left_over(self) -> list[str]:
        self.world.run(self._recovery() + self.granted)
        wrong = [f"{path} is left" for path in self._nodes()]
        wrong += [f"the session {session:x} is left" for session in self.ensemble.newest.sessions]
        return wrong + [each for site in self._all_sites for each in site.overdrawn()]

    # --- troubles --------------------------------------------------------------------------------------------

    def _trouble(self) -> None:
        if self.calm:
            return
        if self.chance.random() < 0.5:
            super()._trouble()
            return
        chance, ttl = self.chance, self.ttl
        self.world.after(chance.expovariate(1 / (self._patience * ttl)), self._trouble)
        kind = chance.choice(tuple(TROUBLES))
        until = chance.choice((0.2, 1.0, 2.0)) * chance.uniform(0, self.granted + self.tick)
        end = TROUBLES[kind](self)
        if end is not None:
            self.run.troubles[kind] += 1
            self.world.after(until, end)

    def _leading(self) -> list[Process]:
        processes = [process for process in self.sites if not process.dead]
        return [process for process in processes if process._keeper is not None and process._keeper._held]

    def _victim(self, living: Sequence[Process]) -> Process:
        """Often one that leads."""
        leading = self._leading()
        return self.chance.choice(leading if leading and self.chance.random() < 0.5 else living)

    def _whole(self) -> bool:
        """Whether nothing is wrong with the servers: what goes wrong with them goes wrong one by one, mostly."""
        ensemble = self.ensemble
        whole = all(server.running for server in ensemble.servers) and not ensemble.cuts
        return ensemble.leader is not None and (whole or self.chance.random() < 0.3)

    def _the_leader_is_paused(self) -> Callable[[], None] | None:
        return self._paused(self.ensemble.leader)

    def _a_server_is_paused(self) -> Callable[[], None] | None:
        return self._paused(self.chance.choice(self.ensemble.servers))

    def _paused(self, server: Server | None) -> Callable[[], None] | None:
        if server is None or not self._whole():
            return None
        ensemble = self.ensemble
        ensemble.pause(server)

        def resume() -> None:
            if self.chance.random() < 0.3 and not self.calm:  # and who leads does not hear of it
                for process in self._leading():
                    for wire in self.sites[process].wires.values():
                        wire.cut()
                        self.world.after(self.granted, wire.mend)
            ensemble.resume(server)

        return resume

    def _a_server_is_killed(self) -> Callable[[], None] | None:
        if not self._whole():
            return None
        server = self.chance.choice(self.ensemble.servers)
        self.ensemble.kill(server)
        return lambda: self.ensemble.start(server)

    def _a_minority_is_cut_off(self) -> Callable[[], None] | None:
        ensemble = self.ensemble
        if not self._whole():
            return None
        servers = ensemble.servers
        some = self.chance.sample(servers, self.chance.randint(1, len(servers) - ensemble.majority))
        if ensemble.leader is not None and self.chance.random() < 0.5 and ensemble.leader not in some:
            some[0] = ensemble.leader
        ensemble.split(some)
        if self.chance.random() < 0.5 and not self.calm:  # and some processes are on their side
            for site in self.sites.values():
                if self.chance.random() < 0.5:
                    self._confine(site, some)
        return ensemble.mend

    def _a_place_is_lost(self) -> Callable[[], None] | None:
        """A server dies or is cut off, and those that are connected to it reach no other one."""
        ensemble = self.ensemble
        if not self._whole():
            return None
        leading = [self.sites[process].connected for process in self._leading()]
        server = self.chance.choice([each for each in leading if each is not None] or ensemble.servers)
        wires = [wire for site in self.sites.values() if site.connected is server for wire in site.wires.values()]
        for wire in wires:
            wire.cut()
        if self.chance.random() < 0.5:
            ensemble.kill(server)
        else:
            ensemble.split([server])

        def mend() -> None:
            ensemble.mend()
            ensemble.start(server)
            for wire in wires:
                wire.mend()

        return mend

    def _confine(self, site: Site, servers: Sequence[Server]) -> None:
        for wire in site.wires.values():
            if wire.server not in servers:
                wire.cut(refused=self.chance.random() < 0.5)
                self.world.after(self.granted, wire.mend)

    def _a_link_is_bad(self) -> Callable[[], None] | None:
        """From one server to another little gets through, or nothing."""
        ensemble = self.ensemble
        if not self._whole():
            return None
        one, other = self.chance.sample(ensemble.servers, 2)
        if self.chance.random() < 0.5:
            ensemble.cut(one, other)
        else:
            ensemble.slow[one, other] = self.chance.uniform(0, 0.3 * self.ttl)
        return ensemble.mend

    def _a_connection_breaks(self) -> Callable[[], None] | None:
        wire = self._a_wire()
        if wire is None:
            return None
        wire.reset()
        return lambda: None

    def _a_wire_is_cut(self) -> Callable[[], None] | None:
        wires = [wire] if (wire := self._a_wire()) is not None else []
        if not wires:
            return None
        if self.chance.random() < 0.5:  # or all of a process
            wires = list(wires[0].site.wires.values())
        refused = self.chance.random() < 0.3
        for wire in wires:
            wire.cut(refused=refused)

        def mend() -> None:
            for wire in wires:
                wire.mend()

        return mend

    def _a_wire(self) -> Wire | None:
        living = [site for process, site in self.sites.items() if not process.dead]
        return self.chance.choice(list(self.chance.choice(living).wires.values())) if living else None

    def _a_node_is_deleted(self) -> Callable[[], None] | None:
        """An operator deletes the node of a candidate that waits."""
        election, chance = self.chance.choice(self.elections), self.chance

        def delete() -> None:
            # The last one, not one that leads or comes next: until the watch tells, two may lead. That is not covered.
            nodes = self.ensemble.newest.nodes
            paths = sorted(self._nodes(election), key=lambda path: nodes[path].czxid)
            if len(paths) > 2 and nodes[paths[-1]].owner:
                self._order(Delete(paths[-1]))

        if chance.random() < 0.5:
            return None
        self._operate(delete)
        return lambda: None

    def _a_stranger_contends(self) -> Callable[[], None] | None:
        """A program of Curator queues up, leads, and goes. Or somebody puts something there that is no candidate."""
        place = Place("", self.elections[0])
        if STRANGER in self.ensemble.newest.sessions or place.path not in self.ensemble.newest.nodes:
            return None
        match self.chance.randrange(3):
            case 0:
                self._operate(lambda: self._order(Create(place.node(BY_HAND), sequence=True)))
            case 1:
                path = place.node("foreign-")
                self._operate(lambda: self._order(Create(path, ephemeral=True, sequence=True), session=STRANGER))
            case _:
                path = place.node(FOREIGN)
                self._operate(lambda: self._order(Create(path, ephemeral=True, sequence=True), session=STRANGER))
        return lambda: self._operate(lambda: self._sweep(place))

    def _sweep(self, place: Place) -> None:
        """Remove what the strangers have left."""
        reign = self.ensemble.reign
        for path, owner in self._nodes().items():
            if owner == 0 and path.startswith(f"{place.path}/"):
                self._order(Delete(path))
        if STRANGER in reign.sessions:
            reign._propose((Closed(STRANGER, expired=False),), True, None)
            del reign.sessions[STRANGER]

    def _order(self, *ops: Op, session: int = 0) -> None:
        self.ensemble.order(*ops, session=session)

    def _operate(self, call: Callable[[], None]) -> None:
        """Do it as soon as there is a leader."""
        leader = self.ensemble.leader
        if leader is not None and leader.running:
            call()
        elif self.world.processes:
            self.world.after(self.tick, lambda: self._operate(call))


def _close(elector: VirtualElector) -> None:
    elector.desk.close()


TROUBLES: dict[str, Callable[[ZooKeeperStorm], Callable[[], None] | None]] = {
    "the leader is paused": ZooKeeperStorm._the_leader_is_paused,
    "a server is paused": ZooKeeperStorm._a_server_is_paused,
    "a server is killed": ZooKeeperStorm._a_server_is_killed,
    "a minority is cut off": ZooKeeperStorm._a_minority_is_cut_off,
    "a place is lost": ZooKeeperStorm._a_place_is_lost,
    "a link is bad": ZooKeeperStorm._a_link_is_bad,
    "a connection breaks": ZooKeeperStorm._a_connection_breaks,
    "a wire is cut": ZooKeeperStorm._a_wire_is_cut,
    "a node is deleted": ZooKeeperStorm._a_node_is_deleted,
    "a stranger contends": ZooKeeperStorm._a_stranger_contends,
}


class Late:
    """Messages take their time; none is lost."""

    def __init__(self, storm: ZooKeeperStorm) -> None:
        self._storm = storm

    def request(self, kind: str) -> float | None:
        return self._storm.chance.expovariate(1 / self._storm._delay)

    def reply(self, kind: str) -> float | None:
        return self._storm.chance.expovariate(1 / self._storm._delay)


class Gusty(Late):
    """Connections break with what is on them, and now and then a message takes very long."""

    def request(self, kind: str) -> float | None:
        return self._gust(super().request(kind))

    def reply(self, kind: str) -> float | None:
        return self._gust(super().reply(kind))

    def _gust(self, delay: float | None) -> float | None:
        chance, storm = self._storm.chance, self._storm
        luck = chance.random()
        if luck < storm._loss:
            return None
        return chance.uniform(0, 0.5 * storm.ttl) if luck > 0.995 else delay


def storm(seed: int) -> Run:
    """The run of a seed."""
    return ZooKeeperStorm(seed).play()
