"""Random schedules on virtual time: candidates that campaign, lead, overrun and resign while everything goes wrong.

The rule: a seed is a run. Judged are the journal, by `coordkit.audit`; every act of every body, which no clock of a
process can excuse; the bodies, which nobody may succeed within their lease; and what is left when it is over.

    python -m tests.simulation --seed 7 --journal  one run again, with its journal
    python -m tests.simulation --seconds 600       as many as fit
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from coordkit.audit import Fate, Report, judge
from coordkit.campaign import Patience
from coordkit.errors import CampaignTimeout, ElectorClosed
from coordkit.fencing.memory import MemoryFence
from coordkit.term import Tenure
from coordkit.testing.links import LOST, Calm
from coordkit.testing.virtual import Process, VirtualElector, World

STORM_TTLS = 40  # how long a storm lasts
TTLS = (1.0, 2.0, 5.0)
DRIFTS = (0.01, 0.05, 0.2)
ELECTIONS = ("reports", "reports/nightly")


class Broken(AssertionError):
    """A promise was broken in a run."""


@dataclass(frozen=True, slots=True)
class Act:
    """A body wrote to its resource, in true time."""

    at: float
    election: str
    token: int


@dataclass(slots=True)
class Run:
    """What happened in one storm."""

    seed: int
    ttl: float
    records: list[dict[str, object]] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    bodies: dict[str, float] = field(default_factory=dict)  # by entry: when its body was over, in true time
    wrong: list[str] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)
    command: str = "python -m tests.simulation"  # that runs it again

    def report(self) -> Report:
        """The journal, judged."""
        return judge(self.records)

    def check(self) -> Report:
        """Judge everything; raises `Broken` with the seed and what is wrong."""
        report = self.report()
        wrong = [
            *self.wrong,
            *(each.message for each in report.violations),
            *acts_out_of_order(self.acts),
            *succeeded_within_lease(report, self.bodies),
        ]
        if wrong:
            shown = "\n  ".join(wrong[:10])
            raise Broken(f"seed {self.seed}: {len(wrong)} wrong, `{self.command} --seed {self.seed}`:\n  {shown}")
        return report

    def fates(self) -> Counter[str]:
        """How terms have ended."""
        return Counter(span.fate.value for span in self.report().spans)

    def told(self) -> Iterator[str]:
        """The journal, line by line."""
        return (json.dumps(record) for record in self.records)

    @property
    def digest(self) -> str:
        """Equal for equal runs. Entries are told apart by order: their ids hold the pid of this interpreter."""
        names: dict[object, int] = {}
        told = [{**record, "entry": names.setdefault(record["entry"], len(names))} for record in self.records]
        text = json.dumps([told, [(act.at, act.token) for act in self.acts]])
        return hashlib.sha256(text.encode()).hexdigest()


def acts_out_of_order(acts: Sequence[Act]) -> list[str]:
    """A body that acts after a later term's body has acted believed too long."""
    wrong = []
    newest: dict[str, Act] = {}
    for act in acts:
        other = newest.setdefault(act.election, act)
        if act.token < other.token:
            wrong.append(f"{act.token} of {act.election} acted at {act.at:.6f}, {other.token} had at {other.at:.6f}")
        elif act.token > other.token:
            newest[act.election] = act
    return wrong


def succeeded_within_lease(report: Report, bodies: dict[str, float]) -> list[str]:
    """A body still runs, its lease has not run out, and another term begins: it was released too early."""
    wrong = []
    for before in report.spans:
        until = min(bodies.get(before.entry, 0.0), before.deadline)
        wrong += [
            f"{after.token} began at {after.since:.6f}; that of {before.token} ran in its lease until {until:.6f}"
            for after in report.spans
            if after.election == before.election
            and after.fate is not Fate.VOID
            and before.since < after.since < until - 1e-6
        ]
    return wrong


class Storm:
    """One random schedule."""

    ttls = STORM_TTLS
    stay = 1.0  # ttls that a body lasts, on average
    kinds = ("pause", "stall", "suspend", "cut", "refuse", "kill", "hints")

    def __init__(self, seed: int) -> None:
        self.world = World(seed, drift=0.0)
        self.chance = self.world.chance
        self.world.drift = self.chance.choice(DRIFTS)
        self.world.store = type(self.world.store)(self.world.clock(self._extreme()))
        self.ttl = self.chance.choice(TTLS)
        self.elections = ELECTIONS[: self.chance.choice((1, 1, 2))]
        self.run = Run(seed, self.ttl, self.world.records)
        self.calm = False
        self._fence = MemoryFence()
        self._names = itertools.count()
        self._loss = self.chance.choice((0.0, 0.02, 0.2))
        self._delay = self.chance.choice((0.001, 0.02, 0.1)) * self.ttl
        self._patience = self.chance.choice((0.5, 2.0))  # ttls between troubles

    def play(self) -> Run:
        """Let it rage, calm down, and see that somebody leads; then end everything, and see that nothing is left."""
        with self.world:
            world, ttl = self.world, self.ttl
            for _ in range(self.chance.randint(3, 5)):
                self._bear()
            world.after(0.0, self._trouble)
            world.run(self.ttls * ttl)
            self.calm = True
            self._heal()
            self._recover()
            self._end_all()
            world.run(self._recovery())
            self.run.wrong += self._left_over()
            for process in world.processes:
                self.run.wrong += [f"in {process.name}: {failure!r}" for failure in process.faults_of_the_core()]
        return self.run

    def _recovery(self) -> float:
        """Seconds until somebody leads when all is calm, and until nothing is left when all is over."""
        # Requests may be as late as two ttls, and an entry that one of them made blocks for one more.
        return 4 * self.ttl

    def _recover(self) -> None:
        since, recovery = self.world.now, self._recovery()
        self.world.run(recovery + 4 * self.ttl)
        self._see_led(since + recovery)

    def _see_led(self, since: float) -> None:
        for election in self.elections:
            if not any(act.at > since and act.election == election for act in self.run.acts):
                self.run.wrong.append(f"nobody has led {election} since all is calm")

    def _heal(self) -> None:
        for process in self.world.processes:
            process.faults.heal()
            process.resume()

    def _left_over(self) -> list[str]:
        rows = [(election, row) for election in self.elections for row in self.world.store.rows(election)]
        return [f"{row.candidate.id} is left in {election}" for election, row in rows]

    def _extreme(self) -> float | None:
        """The rate of some clocks: as wrong as the drift allows, or anything within."""
        return self.chance.choice((1 - self.world.drift, 1 + self.world.drift, None))

    # --- candidates ------------------------------------------------------------------------------------------

    def _bear(self) -> None:
        name = f"p{next(self._names)}"
        process = self.world.process(name, rate=self._extreme())
        process.faults.weather = Stormy(self)
        for election in self.elections:
            process.start(self._live(process, election))
        if self.chance.random() < 0.3:
            process.start(self._observe(process))

    def _elector(self, process: Process, election: str) -> VirtualElector:
        """Some have a condition, some a fence; a `StaleToken` on the way into office would end the task."""
        chance = process.chance
        eligible = None if chance.random() < 0.7 else lambda: self.calm or chance.random() < 0.9
        fences = (self._fence,) if chance.random() < 0.5 else ()
        return process.elector(election, ttl=self.ttl, eligible=eligible, fences=fences)

    async def _observe(self, process: Process) -> None:
        observation = self._elector(process, self.elections[0]).desk.observe()
        number, newest = 0, 0
        while True:
            number, state = await observation.after(number)
            token = newest if state is None else int(state.token)
            if token < newest:
                self.run.wrong.append(f"observed {token} after {newest}")
            newest = token

    async def _live(self, process: Process, election: str) -> None:
        chance, ttl = process.chance, self.ttl
        elector = self._elector(process, election)
        while True:
            if elector.desk.closed:
                elector = self._elector(process, election)
            if not self.calm and chance.random() < 0.05:
                process.later(chance.uniform(0, 3 * ttl), elector.desk.close)
            patience = chance.choice((Patience.WAIT, Patience.WAIT, Patience.TRY))
            timeout = None if chance.random() < 0.7 else chance.uniform(0.01, 2) * ttl
            tenure: Tenure | None = None
            try:
                if chance.random() < 0.1:  # somebody cancels from outside
                    try:
                        async with asyncio.timeout(chance.uniform(0, ttl)):
                            tenure = await elector.campaign(patience)
                    except TimeoutError:
                        tenure = None
                else:
                    tenure = await elector.campaign(patience, timeout)
            except CampaignTimeout:
                pass
            except ElectorClosed:
                # The engine gives each campaign a task of its own. Here it goes on: that order to stop is carried out.
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
            if tenure is not None:
                await self._lead(process, elector, tenure)
            await asyncio.sleep(chance.uniform(0, ttl / 10 if tenure is None else ttl))

    async def _lead(self, process: Process, elector: VirtualElector, tenure: Tenure) -> None:
        chance, entry = process.chance, tenure.candidate.id
        self.run.bodies[entry] = float("inf")
        self._act_on(process, tenure)
        over = asyncio.Event()
        process.keeper.watch_end(tenure, over.set)
        try:
            async with asyncio.timeout(chance.expovariate(1 / (self.stay * self.ttl))):
                await over.wait()
            await asyncio.sleep(chance.uniform(0, self.ttl / 2))  # it heeds the loss late
        except TimeoutError:
            pass
        finally:
            self.run.bodies[entry] = min(self.run.bodies[entry], self.world.now)
            elector.leave(tenure)

    def _act_on(self, process: Process, tenure: Tenure) -> None:
        """An application's thread: looks at the term, and acts if it may, whatever the loop does."""

        def act() -> None:
            if self.run.bodies[tenure.candidate.id] < self.world.now:
                return
            if tenure.ended() is None:
                self.run.acts.append(Act(self.world.now, tenure.election, int(tenure.token)))
            process.later(process.chance.expovariate(20 / self.ttl), act)

        process.later(0.0, act)

    def _end_all(self) -> None:
        for process in self.world.processes:
            if not process.dead:
                process.start(self._resign(process))

    async def _resign(self, process: Process) -> None:
        for task in asyncio.all_tasks():
            if task.get_name() == "application" and task is not asyncio.current_task():
                task.cancel()

    # --- troubles --------------------------------------------------------------------------------------------

    def _trouble(self) -> None:
        if self.calm:
            return
        chance, world, ttl = self.chance, self.world, self.ttl
        world.after(chance.expovariate(1 / (self._patience * ttl)), self._trouble)
        living = [process for process in world.processes if not process.dead]
        if not living:
            return
        process = self._victim(living)
        kind = chance.choice(self.kinds)
        self.run.troubles[kind] += 1
        until = chance.choice((0.1, 0.5, 1.0, 2.0)) * chance.uniform(0, ttl) * 1.5
        if kind in ("pause", "stall", "suspend"):
            {"pause": process.pause, "stall": process.stall, "suspend": process.suspend}[kind]()
            world.after(until, process.resume)
        elif kind in ("cut", "refuse"):
            process.faults.cut(refused=kind == "refuse")
            world.after(until, lambda: self._mend(process))
        elif kind == "hints":
            for election in self.elections:
                world.store._hint(election)
        else:
            self._kill(process)
            world.after(until, self._bear)

    def _victim(self, living: Sequence[Process]) -> Process:
        return self.chance.choice(living)

    def _mend(self, process: Process) -> None:
        process.faults.heal()
        if not self.calm:
            process.faults.weather = Stormy(self)

    def _kill(self, process: Process) -> None:
        process.kill()
        for record in self.run.records:
            entry = str(record["entry"])
            if record["pid"] == process.number and entry in self.run.bodies:
                self.run.bodies[entry] = min(self.run.bodies[entry], self.world.now)


class Stormy(Calm):
    """Messages are lost, late, doubled and overtake each other."""

    def __init__(self, storm: Storm) -> None:
        super().__init__()
        self._storm = storm

    def request(self) -> Sequence[float]:
        return self._fate(self._storm._loss)

    def reply(self) -> Sequence[float]:
        return self._fate(self._storm._loss)

    def hint(self) -> Sequence[float]:
        return self._fate(0.3)

    def _fate(self, loss: float) -> Sequence[float]:
        chance, storm = self._storm.chance, self._storm
        luck = chance.random()
        if luck < loss:
            return LOST
        delay = chance.expovariate(1 / storm._delay)
        if luck > 0.98:
            return (chance.uniform(0, 2 * storm.ttl),)
        if luck > 0.95:
            return (delay, delay + chance.uniform(0, storm.ttl))
        return (delay,)


def storm(seed: int) -> Run:
    """The run of a seed."""
    return Storm(seed).play()
