"""Virtual time: processes that run the real core in one thread, one pass of one event loop at a time.

The rule: nothing waits and nothing is random but by the seed, so the same seed is the same run. True time belongs to
the world; a process sees it only through its own clocks, which run fast or slow and start anywhere. A process that is
paused is one whose loop is not run: what became due meanwhile, it does late, as after SIGCONT.

    with World(seed=7) as world:
        a = world.process("a").elector("orders", ttl=2.0)
        campaign = a.process.start(a.campaign())
        world.run_until(campaign.done)
        a.process.pause()
        world.run(5.0)
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import heapq
import itertools
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, Unpack

from coordkit.backends.contract import Backend, Journal, Log
from coordkit.backends.memory import MemoryBackend, MemoryStore
from coordkit.campaign import Desk, Patience, Spec
from coordkit.clock import Clock, seeded_chance
from coordkit.lease import DEFAULT_DRIFT, Instant
from coordkit.model import Fence, TermState
from coordkit.session import Keeper
from coordkit.term import Tenure
from coordkit.testing.links import FaultyLink, LinkFaults

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NEVER = float("inf")
PASS_SECONDS = 10e-6  # true time that one pass of a loop takes
WALL_START = 1.6e9  # what wall clocks show about when a world begins
Rates = tuple[float, float, float]  # seconds of boot, raw and mono in a second of true time


class VirtualClock:
    """The clocks of one machine in a world."""

    covers_suspend = True

    def __init__(self, world: World, rates: Rates, starts: Rates, wall: float) -> None:
        self._world = world
        self._rates = rates
        self._starts = starts
        self._wall = wall
        self._slept = 0.0
        self._asleep_since: float | None = None

    def now(self) -> Instant:
        true, awake = self._world.now, self._world.now - self._time_asleep()
        rates, starts = self._rates, self._starts
        return Instant(starts[0] + rates[0] * true, starts[1] + rates[1] * awake, starts[2] + rates[2] * awake)

    def wall(self) -> float:
        return WALL_START + self._wall + self._world.now

    def true_time_of_boot(self, reading: float) -> float:
        """When, in true time, `boot` shows this."""
        return (reading - self._starts[0]) / self._rates[0]

    def true_time_of_mono(self, reading: float) -> float:
        """When, in true time, `mono` shows this, if the machine does not sleep meanwhile."""
        return (reading - self._starts[2]) / self._rates[2] + self._time_asleep()

    def fall_asleep(self) -> None:
        """The machine suspends: raw and mono stop, boot goes on."""
        if self._asleep_since is None:
            self._asleep_since = self._world.now

    def wake_up(self) -> None:
        """The machine goes on."""
        self._slept, self._asleep_since = self._time_asleep(), None

    def _time_asleep(self) -> float:
        return self._slept + (0.0 if self._asleep_since is None else self._world.now - self._asleep_since)


class _NoWaiting(selectors.SelectSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that is run pass by pass from outside, on the mono clock of its process."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_NoWaiting())
        self._virtual = clock
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._busy = False  # something is to be called in the next pass

    def time(self) -> float:
        return self._virtual.now().mono

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        self._busy = True
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        self._busy = True
        return super().call_soon_threadsafe(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def due(self) -> float:
        """The true time of its next pass."""
        if self._busy:
            return self._virtual._world.now
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._virtual.true_time_of_mono(self._timers[0][0]) if self._timers else NEVER

    def run_a_pass(self) -> None:
        """Call what is ready and what is due, once."""
        self._busy = False
        super().call_soon(self.stop)
        self.run_forever()
        now = self._virtual.now().mono
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)


class Process:
    """A simulated process: the `Host` of the core that runs in it, and what may befall it."""

    def __init__(self, world: World, number: int, name: str, clock: VirtualClock) -> None:
        self.world = world
        self.number = number
        self.name = name
        self.machine = clock
        self.clock: Clock = clock
        self.chance = seeded_chance(f"{world.seed}/{name}/{number}")
        self.log: Log = _Log(self)
        self.journal: Journal = _Journal(self)
        self.logged: list[tuple[float, str, str]] = []  # true time, level, message
        self.silent = False
        self.loop = VirtualLoop(clock)
        self.loop.set_exception_handler(lambda loop, context: self.failures.append(context))
        self.faults = LinkFaults()  # of its link to the store
        self.link = FaultyLink(self.faults, world.after, self.deliver)
        self.failures: list[object] = []  # of tasks that nobody awaits: a fault of the core
        self.dead = False
        self.passes = 0  # of its loop
        self._paused = False  # SIGSTOP, or the machine sleeps: nothing of it runs
        self._stalled = False  # only its event loop is not run; the application's threads go on
        self._frozen: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeper: Keeper | None = None

    # --- the host of the core --------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = self.start(work, name)
        task.add_done_callback(self._note_failure)
        return task

    async def offload(self, call: Callable[[], T]) -> T:
        answer: asyncio.Future[T] = self.loop.create_future()

        def settle(outcome: Callable[[], None]) -> None:
            if not answer.done():
                outcome()

        def run() -> None:
            try:
                outcome = functools.partial(answer.set_result, call())
            except Exception as error:  # noqa: BLE001 - the application's code may raise anything; whoever waits is told
                outcome = functools.partial(answer.set_exception, error)
            self._answer(lambda: settle(outcome))

        self.later(self.chance.uniform(0, 0.001), run)
        return await answer

    # --- what runs in it -------------------------------------------------------------------------------------

    @property
    def keeper(self) -> Keeper:
        """Its session with the world's store; `use` gives it another backend before."""
        if self._keeper is None:
            self.use(MemoryBackend(self.world.store, self.link, self, self.world.drift))
        assert self._keeper is not None
        return self._keeper

    def faults_of_the_core(self) -> list[object]:
        """Failures of tasks that nobody awaits, and what was logged as an error. None is expected."""
        return [*self.failures, *(line for line in self.logged if line[1] == "error")]

    def use(self, backend: Backend) -> None:
        """Make its session one with this backend."""
        self._keeper = Keeper(self, backend, on_unused=self._let_go)

    def elector(
        self,
        election: str,
        *,
        ttl: float,
        eligible: Callable[[], bool] | None = None,
        fences: Sequence[Fence] = (),
    ) -> VirtualElector:
        """A candidate in this process."""
        spec = Spec(election, ttl, self.name, "", eligible, 0.0, tuple(fences))
        return VirtualElector(self, Desk(self, self.keeper, spec))

    def start(self, work: Coroutine[Any, Any, T], name: str = "application") -> asyncio.Task[T]:
        """Start a task on its loop."""
        task = self.loop.create_task(work, name=name, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Run `call` on an application's thread after so long: while the loop is stalled too, not while paused."""
        self.world.after(seconds, lambda: self._run_thread(call))

    def deliver(self, seconds: float, call: Callable[[], None]) -> None:
        """Let a message arrive at its loop after so long."""
        self.world.after(seconds, lambda: self._answer(call))

    def _run_thread(self, call: Callable[[], None]) -> None:
        if self._paused:
            self._frozen.append(call)
        elif not self.dead:
            call()

    def _answer(self, call: Callable[[], object]) -> None:
        if not self.dead:
            self.loop.call_soon(call)

    def _let_go(self, keeper: Keeper) -> None:
        if self._keeper is keeper:
            self._keeper = None

    def _note_failure(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    # --- what befalls it -------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether its loop is run."""
        return not (self.dead or self._paused or self._stalled)

    def pause(self) -> None:
        """SIGSTOP: neither its loop nor its threads run until `resume`; messages wait."""
        self._paused = True

    def suspend(self) -> None:
        """The machine sleeps until `resume`: as `pause`, and two of its clocks stop."""
        self._paused = True
        self.machine.fall_asleep()

    def stall(self) -> None:
        """Only its loop does not run until `resume`, as when another thread hogs the interpreter."""
        self._stalled = True

    def resume(self) -> None:
        """SIGCONT, the end of a sleep or a stall: all that is due is done now."""
        self._paused = self._stalled = False
        self.machine.wake_up()
        frozen, self._frozen = self._frozen, []
        for call in frozen:
            self.later(self.chance.uniform(0, 0.001), call)

    def kill(self) -> None:
        """kill -9: nothing of it ever runs again; messages that it sent are under way."""
        self.dead = True

    def run_a_pass(self) -> None:
        """One pass of its loop."""
        self.passes += 1
        self.loop.run_a_pass()

    def bury(self) -> None:
        """Take its tasks apart, at the end of the world; nothing that they still try gets out."""
        self.faults.cut(refused=False)
        self.silent = True
        for _ in range(1000):
            tasks = asyncio.all_tasks(self.loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.loop.run_a_pass()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class VirtualElector:
    """One candidate on virtual time: the engine's side of an elector, without the faces."""

    def __init__(self, process: Process, desk: Desk) -> None:
        self.process = process
        self.desk = desk
        self.ticket = 0

    async def campaign(
        self, patience: Patience = Patience.WAIT, timeout: float | None = None, *, block: bool = True
    ) -> Tenure | None:
        """As `LeaderElector.campaign`, with the engine's side of a term."""
        self.ticket = next(self.process.world.numbers)
        return await self.desk.campaign(self.ticket, patience, timeout, block=block)

    def leave(self, tenure: Tenure) -> None:
        """The body is over: end the term locally, then release it."""
        tenure.end(TermState.RESIGNED, None)
        self.desk.leave(self.ticket, tenure, release=True)


@dataclass(order=True, slots=True)
class _Event:
    at: float
    number: int
    call: Callable[[], None] = field(compare=False)


class World:
    """True time, a store, and the processes that use it. A context manager; it collects no garbage while open.

    `seed`: the same seed and the same calls make the same run. `drift`: clocks are wrong by at most this fraction.
    `records` is the journal of all processes, in true time: see `coordkit.journal`.

    Not within a running event loop: the world runs loops of its own.
    """

    def __init__(self, seed: int = 0, *, drift: float = DEFAULT_DRIFT, store_rate: float | None = None) -> None:
        self.seed = seed
        self.drift = drift
        self.now = 0.0
        self.chance = seeded_chance(f"world/{seed}")
        self.numbers = itertools.count(1)
        self.records: list[dict[str, object]] = []
        self.processes: list[Process] = []
        self._events: list[_Event] = []
        self.store = MemoryStore(self.clock(store_rate))

    def __enter__(self) -> Self:
        # When an object dies must not depend on what this interpreter did before.
        self._collected = gc.isenabled()
        gc.disable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            if self._collected:
                gc.enable()

    def close(self) -> None:
        """Take all processes apart."""
        for process in self.processes:
            process.bury()
        self.processes.clear()
        self._events.clear()

    def clock(self, rate: float | None = None) -> VirtualClock:
        """A machine's clocks: all at this rate, or each at one of its own within the drift."""
        chance = self.chance
        rates = (rate,) * 3 if rate is not None else [1 + chance.uniform(-self.drift, self.drift) for _ in range(3)]
        starts = [chance.uniform(0, 1e5) for _ in range(3)]
        return VirtualClock(
            self, (rates[0], rates[1], rates[2]), (starts[0], starts[1], starts[2]), chance.uniform(-60, 60)
        )

    def process(self, name: str, *, rate: float | None = None) -> Process:
        """A new process on a machine of its own."""
        process = Process(self, len(self.processes) + 1, name, self.clock(rate))
        self.processes.append(process)
        return process

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something in so many seconds of true time."""
        heapq.heappush(self._events, _Event(self.now + seconds, next(self.numbers), call))

    def run(self, seconds: float) -> None:
        """Let so much true time pass."""
        end = self.now + seconds
        while self._step(end):
            pass
        self.now = max(self.now, end)

    def run_until(self, condition: Callable[[], bool], limit: float = 3600.0) -> None:
        """Let time pass until the condition holds; `TimeoutError` if it does not within `limit` seconds."""
        end = self.now + limit
        while not condition():
            if not self._step(end):
                raise TimeoutError(f"not within {limit:g} s of virtual time")

    def _step(self, end: float) -> bool:
        """The next thing that happens, if it happens by `end`: an event of the world, or one pass of a loop."""
        at = self._events[0].at if self._events else NEVER
        ready: list[Process] = []
        for process in self.processes:
            if process.running and (due := process.loop.due()) <= at:
                due = max(due, self.now)
                if due < at:
                    at, ready = due, [process]
                else:
                    ready.append(process)
        if at > end:
            return False
        self.now = max(self.now, at)
        if not ready or (self._events and self._events[0].at <= at):
            heapq.heappop(self._events).call()
            return True
        process = ready[0] if len(ready) == 1 else self.chance.choice(ready)
        process.run_a_pass()
        self.now += PASS_SECONDS
        return True


class _Journal:
    """Writes to the world's records, on the axis of true time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def write(self, event: str, /, **fields: object) -> None:
        if self._process.silent:
            return
        now = self._process.world.now
        record: dict[str, object] = {
            "event": event,
            "pid": self._process.number,
            "boot": now,
            "mono": now,
            "boot_id": "virtual",
        }
        for name, value in fields.items():
            if name in ("sent", "deadline", "at") and isinstance(value, float):
                value = self._process.machine.true_time_of_boot(value)
            record[name] = value
        self._process.world.records.append(record)


class _Log:
    """Keeps what the core logs, with its time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def info(self, message: str, *values: object) -> None:
        self._put("info", message, values)

    def warning(self, message: str, *values: object) -> None:
        self._put("warning", message, values)

    def error(self, message: str, *values: object) -> None:
        self._put("error", message, values)

    def flush(self, timeout: float) -> None:
        """Nothing waits to be handled."""

    def _put(self, level: str, message: str, values: tuple[object, ...]) -> None:
        if not self._process.silent:
            self._process.logged.append((self._process.world.now, level, message % values))
