"""Random schedules of the real Redis adapter and scripts: the storm of `storm.py`, on voters and their troubles.

The rule: never more goes wrong than the adapter's `guarantees` allow; what they promise, the same judges see kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coordkit.backends.redis.layout import Record, channel_of, record_of
from coordkit.testing.virtual import Process, VirtualElector
from tests.simulation.redis_model import KEY, Server, SimulatedVoter, all_know, join
from tests.simulation.storm import Run, Storm, Stormy

SIZES = (1, 3, 3, 5)
HALF_AN_HOUR = 1800.0


class RedisStorm(Storm):
    """One random schedule."""

    ttls = 25
    kinds = ("pause", "stall", "suspend", "kill")

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        chance, world = self.chance, self.world
        self.run.command = "python -m tests.simulation --redis"
        self.max_ttl = self.ttl * chance.choice((1, 1, 2))
        # Where all memory may be lost, clocks have to be right: what was forgotten is below them.
        self.forgetful = chance.random() < 0.5
        self.servers = [Server(world, number) for number in range(1, chance.choice(SIZES) + 1)]
        for server in self.servers:
            server.offset = 0.0 if self.forgetful else chance.uniform(-HALF_AN_HOUR, HALF_AN_HOUR)
        self.ways: list[SimulatedVoter] = []
        self._forgot_at = -1e9  # when a voter has lost its memory
        self._delay = chance.choice((0.0005, 0.003, 0.015)) * self.ttl  # an answer has to come within ttl/8
        self._loss = chance.choice((0.0, 0.005, 0.05))
        if chance.random() < 0.5:
            self._begin()

    def _begin(self) -> None:
        """The operator says that the servers are new."""
        for server in self.servers:
            server.run("init", [KEY.encode()], [b"nonce", b"c", b"birth%d" % server.number])

    # --- candidates ------------------------------------------------------------------------------------------

    def _bear(self) -> None:
        super()._bear()
        process = self.world.processes[-1]
        if self.forgetful:
            process.machine._wall = 0.0
        if self.chance.random() < 0.4:  # another candidate of the same session
            process.start(self._live(process, self.elections[0]))

    def _elector(self, process: Process, election: str) -> VirtualElector:
        if process._keeper is None:
            ways = join(process, self.servers, max_ttl=self.max_ttl, retry=self.ttl / 4, drift=self.world.drift)
            self.ways += ways
            for way in ways:
                if not self.calm:
                    way.faults.weather = Stormy(self)
        return super()._elector(process, election)

    # --- the end ---------------------------------------------------------------------------------------------

    def _recovery(self) -> float:
        quarantine = self.max_ttl * (1 + 2 * self.world.drift) / (1 - self.world.drift)
        return 5 * self.ttl + 2 * quarantine

    def _heal(self) -> None:
        super()._heal()
        for server in self.servers:
            server.start()
            server.resume()
        for way in self.ways:
            way.faults.heal()

    def _left_over(self) -> list[str]:
        wrong = []
        for election in self.elections:
            held = [
                record.attempt
                for server in self.servers
                if isinstance(record := record_of(server._hget(KEY.encode(), b"e:" + election.encode()) or b""), Record)
                and record.held
            ]
            majority = len(self.servers) // 2 + 1
            wrong += [f"{each} is left in {election}" for each in sorted(set(held)) if held.count(each) >= majority]
            for server in self.servers:
                if server.subscribers.get(channel_of(KEY, election)) and not any(
                    not process.dead and process._keeper is not None for process in self.world.processes
                ):
                    wrong.append(f"somebody still listens to {election} at {server.name}")
        return wrong

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
        end = TROUBLES[kind](self)
        if end is not None:
            self.run.troubles[kind] += 1
            self.world.after(chance.choice((0.2, 1.0, 2.0)) * chance.uniform(0, ttl), end)

    def _some(self) -> Sequence[Server]:
        """One, a minority, or all."""
        most = self.chance.choice((1, 1, (len(self.servers) - 1) // 2 or 1, len(self.servers)))
        return self.chance.sample(self.servers, self.chance.randint(1, most))

    def _a_voter_is_paused(self) -> Callable[[], None] | None:
        some = self._some()
        for server in some:
            server.pause()
        return lambda: _each(some, Server.resume)

    def _a_voter_is_killed(self) -> Callable[[], None] | None:
        """And started again, with its data, but without knowing that they are all."""
        some = self._forgetting()
        for server in some:
            server.kill()
        return (lambda: _each(some, Server.start)) if some else None

    def _a_voter_goes_back(self) -> Callable[[], None] | None:
        some = self._forgetting()
        for server in some:
            server.remember()
        return (lambda: _each(some, Server.go_back)) if some else None

    def _a_voter_is_flushed(self) -> Callable[[], None] | None:
        some = self._forgetting()
        _each(some, Server.flush)
        if some and self.chance.random() < 0.5:  # and once more
            return lambda: _each(some, Server.flush)
        return (lambda: None) if some else None

    def _forgetting(self) -> Sequence[Server]:
        """Any, where clocks are right; else one, long after another, if each majority knows the last token then."""
        if self.forgetful:
            return self._some()
        apart = 2 * self._recovery()
        if len(self.servers) == 1 or self.world.now - self._forgot_at < apart:
            return ()
        one = self.chance.choice(self.servers)
        if not all(all_know(self.servers, election, without=one) for election in self.elections):
            return ()
        self._forgot_at = self.world.now
        return [one]

    def _ways_are_cut(self) -> Callable[[], None] | None:
        living = [way for way in self.ways if not way.process.dead]
        if not living:
            return None
        process = self.chance.choice(living).process
        mine = [way for way in living if way.process is process][-len(self.servers) :]
        some = self.chance.sample(mine, self.chance.randint(1, len(mine)))
        refused = self.chance.random() < 0.3
        for way in some:
            way.faults.cut(refused=refused)

        def mend() -> None:
            for way in some:
                way.faults.heal()
                if not self.calm:
                    way.faults.weather = Stormy(self)

        return mend

    def _a_clock_steps(self) -> Callable[[], None] | None:
        if self.forgetful:
            return None
        server = self.chance.choice(self.servers)
        server.offset = self.chance.uniform(-HALF_AN_HOUR, HALF_AN_HOUR)
        return lambda: None


def _each(servers: Sequence[Server], do: Callable[[Server], None]) -> None:
    for server in servers:
        do(server)


TROUBLES: dict[str, Callable[[RedisStorm], Callable[[], None] | None]] = {
    "a voter is paused": RedisStorm._a_voter_is_paused,
    "a voter is killed": RedisStorm._a_voter_is_killed,
    "a voter goes back": RedisStorm._a_voter_goes_back,
    "a voter is flushed": RedisStorm._a_voter_is_flushed,
    "ways are cut": RedisStorm._ways_are_cut,
    "a clock steps": RedisStorm._a_clock_steps,
}


def storm(seed: int) -> Run:
    """The run of a seed."""
    return RedisStorm(seed).play()
