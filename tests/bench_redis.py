"""Elections by votes beside redlock-ng and pottery, of `make bench`: python -m tests.bench_redis [--json] [--quick]

The rule: all are given the same five voters in the same run, one after the other and again, each in processes of its
own with its defaults. Nothing here judges. It is measured on the bare loopback interface, where a request costs little
but the work of the two processors, and with a delay before each voter, as of a network.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol

ROOT: Final = Path(__file__).parents[1]
TTL: Final = 10.0  # s; pottery's default
KINDS: Final = ("coordkit", "redlock-ng", "pottery")
DELAYS: Final = (0.0, 0.0005)  # s, each way
THREADS: Final = 32
SETTLES: Final = 0.15  # s until the other waits; more than the peers' longest nap is not needed, they poll


class Held(Protocol):
    """What is led or locked."""

    def release(self) -> None: ...


Acquire = Callable[[str], Held]  # of this name; waits

# -- one process ----------------------------------------------------------------------------------------------


def kind_of(kind: str, hosts: Sequence[str]) -> tuple[str, Acquire]:
    """Its version, and how it is acquired. Imported here: the peers bring a client of Redis of their own."""
    if kind == "coordkit":
        import coordkit

        url = f"redis+quorum://{','.join(hosts)}?max_ttl={TTL:g}"
        electors: dict[str, coordkit.LeaderElector] = {}

        class Led:
            def __init__(self, term: coordkit.Term) -> None:
                self.release = term.resign

        def campaign(name: str) -> Held:
            if name not in electors:
                electors[name] = coordkit.LeaderElector(url, name, ttl=TTL)
            return Led(electors[name].campaign())

        return coordkit.__version__, campaign
    import importlib
    from importlib.metadata import version

    if kind == "redlock-ng":
        redlock: Any = importlib.import_module("redlock")
        locks = redlock.Redlock([f"redis://{host}/0" for host in hosts])

        class Locked:
            def __init__(self, lock: Any) -> None:
                self.release = lambda: locks.release(lock)

        return version("redlock-ng"), lambda name: Locked(locks.acquire(name, int(TTL * 1000), blocking=True))
    pottery: Any = importlib.import_module("pottery")
    redis: Any = importlib.import_module("redis")
    masters = {redis.Redis.from_url(f"redis://{host}/0") for host in hosts}

    def acquire(name: str) -> Held:
        lock = pottery.Redlock(key=name, masters=masters, auto_release_time=TTL)
        lock.acquire()
        return lock  # type: ignore[no-any-return]

    return version("pottery"), acquire


def serve(kind: str, hosts: Sequence[str]) -> None:
    """Orders on stdin, answers in JSON on stdout, a line for each."""
    version, acquire = kind_of(kind, hosts)
    held: Held | None = None
    print(json.dumps(version), flush=True)
    for line in sys.stdin:
        answer: object = None
        match line.split():
            case ["acquire", name]:
                held = acquire(name)
                answer = time.monotonic()  # one clock for all processes
            case ["release"]:
                assert held is not None
                answer = time.monotonic()
                held.release()
            case ["alone", count]:
                answer = [_cycle(acquire) for _ in range(int(count))]
            case ["many", count]:
                with ThreadPoolExecutor(THREADS) as pool:
                    began = time.perf_counter()
                    all_held = list(pool.map(acquire, [f"many{number}" for number in range(int(count))]))
                    answer = time.perf_counter() - began
                    list(pool.map(lambda each: each.release(), all_held))
        print(json.dumps(answer), flush=True)


def _cycle(acquire: Acquire) -> float:
    began = time.perf_counter()
    acquire("alone").release()
    return time.perf_counter() - began


class Process:
    """One such process, as a context manager."""

    def __init__(self, kind: str, hosts: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench_redis", "--serve", kind, *hosts],
            cwd=ROOT,
            env=_environment(kind),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version: str = self.answer()

    def tell(self, *order: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, order)) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("a process of the benchmark has ended too early")
        return json.loads(line)

    def ask(self, *order: object) -> Any:
        self.tell(*order)
        return self.answer()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def _environment(kind: str) -> dict[str, str]:
    if kind == "coordkit":
        return dict(os.environ)
    from tests import servers

    return os.environ | {"PYTHONPATH": str(servers.python_packages(kind))}


# -- all of them ----------------------------------------------------------------------------------------------


def measure(*, quick: bool = False) -> dict[str, Any]:
    """About three minutes; `quick`: less than one."""
    from tests.servers.proxy import Proxy
    from tests.servers.redis import RedisVoters
    from tests.support.voting import mark_new

    rounds, cycles, handovers, elections = (1, 30, 3, 50) if quick else (3, 150, 12, 1000)
    found: dict[str, Any] = {"versions": {}, "runs": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coordkit-bench-")))
        voters = stack.enter_context(RedisVoters(folder, 5))
        voters.ready()
        found["versions"]["redis"] = voters.version
        for delay in DELAYS:
            hosts = [f"127.0.0.1:{member.port}" for member in voters.members]
            if delay:
                proxies = [stack.enter_context(Proxy("127.0.0.1", member.port)) for member in voters.members]
                for proxy in proxies:
                    proxy.delay(delay)
                hosts = [f"127.0.0.1:{proxy.port}" for proxy in proxies]
            mark_new(voters, f"redis+quorum://{','.join(hosts)}?max_ttl={TTL:g}")
            samples: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
            for _ in range(rounds):
                for kind in KINDS:
                    with Process(kind, hosts) as one, Process(kind, hosts) as other:
                        found["versions"][kind] = one.version
                        taken = samples[kind]
                        one.ask("alone", 10)  # connections are open, and scripts are known
                        other.ask("alone", 10)
                        taken.setdefault("acquire and release", []).extend(one.ask("alone", cycles))
                        taken.setdefault("hand over", []).extend(_handovers(one, other, handovers))
                        taken.setdefault(f"acquire {elections}", []).append(one.ask("many", elections))
            found["runs"].append({"delay": delay, "seconds": samples})
            voters.clear()
    return found


def _handovers(one: Process, other: Process, count: int) -> list[float]:
    """Seconds from before the one releases until the other has acquired."""
    taken = []
    one.ask("acquire", "handed")
    for _ in range(count):
        other.tell("acquire", "handed")
        time.sleep(SETTLES)
        released = one.ask("release")
        taken.append(other.answer() - released)
        one, other = other, one
    one.ask("release")
    return taken


def render(found: dict[str, Any]) -> str:
    """Medians, and how many times as long coordkit takes."""
    lines = [", ".join(f"{name} {version}" for name, version in found["versions"].items())]
    for run in found["runs"]:
        lines += ["", f"a round trip takes {2000 * run['delay']:g} ms more than the loopback interface"]
        lines.append(f"{'median, ms':<24}" + "".join(f"{kind:>12}" for kind in KINDS) + f"{'ours / theirs':>18}")
        for what in run["seconds"][KINDS[0]]:
            medians = [statistics.median(run["seconds"][kind][what]) * 1000 for kind in KINDS]
            ratios = " ".join(f"{medians[0] / each:.2f}" for each in medians[1:])
            lines.append(f"{what:<24}" + "".join(f"{each:>12.2f}" for each in medians) + f"{ratios:>18}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_redis")
    parser.add_argument("--json", action="store_true", help="print all samples")
    parser.add_argument("--quick", action="store_true", help="few samples: to see that it works")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.serve:
        serve(asked.serve[0], asked.serve[1:])
        return 0
    found = measure(quick=asked.quick)
    print(json.dumps(found) if asked.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
