"""The soak: electors on all backends at once, for a long time, and whether anything grows.

    python -m tests.chaos.soak --seconds 1800

Two processes (`soak_candidates`) lead, resign, lose and observe, sync and async, against each other and against
themselves, on real clusters of etcd, ZooKeeper and Redis and on an SQLite file. Now and then a member is restarted, or
a process is stopped for longer than a ttl, so that it loses all it has.

The rule: what the kernel and the servers count is read from them, every few seconds; only the tasks and objects of a
process are told by itself. What must not grow, and what it may vary by, is the table `ALLOWANCES`; `growth` judges. In
the end all electors and sessions are closed, and before the processes end nothing of them may be left at the servers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordkit.testing.contract import eventually
from tests.chaos import soak_candidates as scenes
from tests.chaos.growth import Allowance, Verdict, judge
from tests.servers.cluster import Cluster
from tests.servers.etcd import Etcd, EtcdCluster
from tests.servers.redis import Redis, RedisVoters
from tests.servers.zookeeper import ZooKeeper, ZooKeeperCluster
from tests.support.children import ROOT, Child
from tests.support.voting import mark_new

TTL = 3.0
PROCESSES = 2
READINGS = 240  # about so many in a long soak
FEWEST = 16  # on a machine that is busy with other things a short soak lasts until it has these
REPORT = ROOT / ".cache" / "reports" / "chaos" / "soak.json"
CURVE = 60  # readings of each series in the report
LONG_STOP = 1.3  # ttls for which a process is stopped
READY_SECONDS = 120.0  # for a member of ZooKeeper that has come back to a busy machine: it asks after growing waits
MEGABYTE = float(1 << 20)

# By the end of a series' name. What is counted varies with what is led just then: the sessions that come and go take
# two connections to each of five voters, in each of two processes.
ALLOWANCES = {
    # What Python keeps is in `objects`; this is the coarse one, for what clients keep in C.
    "resident bytes": Allowance(6 * MEGABYTE, 0.05),
    "threads": Allowance(6),
    "descriptors": Allowance(20),
    "tasks": Allowance(40),
    "objects": Allowance(3000, 0.01),
    "etcd descriptors": Allowance(12),
    "etcd streams": Allowance(16),
    "etcd watchers": Allowance(12),
    "etcd leases": Allowance(10),
    "etcd keys": Allowance(8),
    "zookeeper connections": Allowance(8),
    "zookeeper sessions": Allowance(8),
    "zookeeper nodes": Allowance(12),
    "zookeeper watches": Allowance(16),
    "redis clients": Allowance(28),
    "redis keys": Allowance(0),
    "redis fields": Allowance(5),
    "sqlite rows": Allowance(0),
    "sqlite bytes": Allowance(8 * MEGABYTE),
}


@dataclass(frozen=True, slots=True)
class Clusters:
    """Where the soak runs; healthy and empty."""

    etcd: Etcd[Any]
    zookeeper: ZooKeeper[Any]
    redis: Redis[Any]
    sqlite: Path

    @property
    def all(self) -> tuple[Cluster[Any], ...]:
        return self.etcd, self.zookeeper, self.redis

    def urls(self) -> list[str]:
        self.zookeeper.put("/soak")
        voters = self.redis.url(max_ttl=str(TTL))
        mark_new(self.redis, voters)
        return [self.etcd.url("soak"), self.zookeeper.url("soak"), voters, f"sqlite://{self.sqlite}"]

    def versions(self) -> dict[str, str]:
        servers = {"etcd": self.etcd.version, "zookeeper": self.zookeeper.version, "redis": self.redis.version}
        return {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, **servers}


class Soak:
    """One soak. `calm`: without trouble. `leaks`: what the processes are to do wrong."""

    def __init__(
        self, clusters: Clusters, *, seconds: float, seed: int, calm: bool = False, leaks: Sequence[str] = ()
    ) -> None:
        self.series: dict[str, list[tuple[float, float]]] = {}
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._clusters = clusters
        self._seconds = seconds
        self._seed = seed
        self._calm = calm
        self._leaks = ",".join(leaks)
        self._chance = random.Random(seed)
        self._pace = max(0.5, seconds / READINGS)
        self._began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """What was seen, as it is written to the report."""
        clusters = self._clusters
        with ExitStack() as stack:
            urls = clusters.urls()
            clients = _clients(clusters.redis)  # of the harness
            children = [
                stack.enter_context(Child(scenes.live, TTL, f"{self._seed} {number}", self._leaks, *urls))
                for number in range(PROCESSES)
            ]
            for child in children:
                child.expect("lives")
            end = time.monotonic() + self._seconds
            next_fault = time.monotonic() + self._until_next()
            read = 0
            while time.monotonic() < end or read < FEWEST:
                read += 1
                self._read(children)
                if not self._calm and time.monotonic() >= next_fault:
                    self._trouble(children)
                    next_fault = time.monotonic() + self._until_next()
                time.sleep(self._pace)  # a pace: nothing is awaited
            for child in children:
                child.tell("leave")
            for child in children:
                self._told(json.loads(child.expect("left")))
            if not self._leaks:
                self._nothing_is_left(clients)
            for child in children:
                child.tell("go")
                assert child.exit_code() == 0, child.errors
        verdicts = {name: judge(readings, allowance(name)) for name, readings in sorted(self.series.items())}
        return {
            "seconds": round(time.monotonic() - self._began, 1),
            "seed": self._seed,
            "ttl": TTL,
            "versions": clusters.versions(),
            "readings": max(map(len, self.series.values())),
            "faults": dict(self.faults),
            "counts": dict(sorted(self.counts.items())),
            "series": {
                name: {**_shown(verdict), "curve": _thinned(self.series[name])} for name, verdict in verdicts.items()
            },
            "grown": [name for name, verdict in verdicts.items() if verdict.grown],
        }

    # -- trouble -----------------------------------------------------------------------------------------

    def _until_next(self) -> float:
        return self._chance.uniform(0.5, 1.5) * max(4.0, min(15.0, self._seconds / 8))

    def _trouble(self, children: Sequence[Child]) -> None:
        """A restarted member, or a stopped process; mended when this returns."""
        if self._chance.random() < 0.3:
            self.faults["process stopped"] += 1
            victim = self._chance.choice(children)
            victim.send(signal.SIGSTOP)
            time.sleep(LONG_STOP * TTL)  # nobody tells when a ttl is over
            victim.send(signal.SIGCONT)
            return
        cluster = self._chance.choice(self._clusters.all)
        member = self._chance.choice(cluster.members)
        self.faults[f"{member.name.rstrip('0123456789')} restarted"] += 1
        member.restart()
        cluster.ready(READY_SECONDS)

    # -- what is read ------------------------------------------------------------------------------------

    def _read(self, children: Sequence[Child]) -> None:
        for number, child in enumerate(children, start=1):
            child.tell("sample")
            told = json.loads(child.expect("sample"))
            self._add(f"process {number} tasks", told["tasks"])
            self._add(f"process {number} objects", told["objects"])
            for name, value in of_process(child.pid).items():
                self._add(f"process {number} {name}", value)
        for name, value in of_servers(self._clusters).items():
            self._add(name, value)

    def _add(self, name: str, value: float) -> None:
        self.series.setdefault(name, []).append((time.monotonic() - self._began, value))

    def _told(self, sample: dict[str, Any]) -> None:
        self.counts.update(sample["counts"])

    def _nothing_is_left(self, clients: float) -> None:
        """All electors and sessions are closed, in processes that live: no lease, session or connection stays."""
        clusters = self._clusters
        within = 2 * TTL + 5.0
        eventually(lambda: not clusters.etcd.leases(), "no lease is left", within)
        eventually(lambda: not clusters.zookeeper.sessions(), "no session is left", within)
        eventually(lambda: _clients(clusters.redis) <= clients, "no connection to a voter is left", within)


def allowance(name: str) -> Allowance:
    """Of a series: that of the longest end of its name in the table."""
    return ALLOWANCES[max((end for end in ALLOWANCES if name.endswith(end)), key=len)]


def of_process(pid: int) -> dict[str, float]:
    """What the kernel says of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "resident bytes": 1024.0 * float(fields["VmRSS"].split()[0]),
        "threads": float(fields["Threads"]),
        "descriptors": float(len(os.listdir(f"/proc/{pid}/fd"))),
    }


def of_servers(clusters: Clusters) -> dict[str, float]:
    """What the servers count, summed over the members where each has some of its own."""
    etcd, zookeeper, redis = clusters.etcd, clusters.zookeeper, clusters.redis
    members = [etcd.metrics(member) for member in etcd.members]
    ensemble = [zookeeper.metrics(member) for member in zookeeper.members]
    hands = [redis.hand(member) for member in redis.members]
    return {
        "etcd descriptors": sum(each["process_open_fds"] for each in members),
        "etcd streams": sum(_streams(each) for each in members),
        "etcd watchers": sum(each["etcd_debugging_mvcc_watcher_total"] for each in members),
        "etcd leases": float(len(etcd.leases())),
        "etcd keys": max(each["etcd_debugging_mvcc_keys_total"] for each in members),
        "zookeeper connections": sum(each["num_alive_connections"] for each in ensemble),
        "zookeeper sessions": float(len(zookeeper.sessions())),
        "zookeeper nodes": float(len(zookeeper.nodes("/soak"))),
        "zookeeper watches": sum(each["watch_count"] for each in ensemble),
        "redis clients": _clients(redis),
        "redis keys": float(sum(int(hand.dbsize()) for hand in hands)),
        "redis fields": float(sum(int(hand.hlen("coordkit")) for hand in hands)),
        **_of_file(clusters.sqlite),
    }


def _streams(metrics: dict[str, float]) -> float:
    """Requests that have begun and not ended: of etcd, watches and keepalives."""
    began = sum(value for name, value in metrics.items() if name.startswith("grpc_server_started_total"))
    return began - sum(value for name, value in metrics.items() if name.startswith("grpc_server_handled_total"))


def _of_file(path: Path) -> dict[str, float]:
    with closing(sqlite3.connect(path, timeout=10.0)) as database:
        (rows,) = database.execute("SELECT count(*) FROM coordkit_elections").fetchone()
    size = sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
    return {"sqlite rows": float(rows), "sqlite bytes": float(size)}


def _clients(redis: Redis[Any]) -> float:
    return sum(redis.metrics(member)["connected_clients"] for member in redis.members)


def _shown(verdict: Verdict) -> dict[str, float | bool]:
    return {name: round(value, 2) for name, value in asdict(verdict).items()} | {"grown": verdict.grown}


def _thinned(readings: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Seconds and value, as many as a page has room for."""
    return [[round(at), value] for at, value in readings[:: max(1, len(readings) // CURVE)]]


def write(found: dict[str, Any], path: Path = REPORT) -> None:
    """The report, for who makes a page of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def table(found: dict[str, Any]) -> str:
    """What is told to people."""
    lines = [f"{'':<26}{'first':>13}{'before':>13}{'after':>13}{'most':>13}{'allowed':>13}{'per hour':>13}"]
    for name, each in found["series"].items():
        columns = "".join(f"{each[key]:>13.0f}" for key in ("first", "before", "after", "most", "allowed", "per_hour"))
        lines.append(f"{name:<26}{columns}{'  GROWN' if each['grown'] else ''}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak")
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    asked = parser.parse_args(arguments)
    print(f"soaking for {asked.seconds:g} s, --seed {asked.seed}", flush=True)
    makers: list[Callable[[Path], Cluster[Any]]] = [
        lambda folder: EtcdCluster(folder / "etcd"),
        lambda folder: ZooKeeperCluster(folder / "zookeeper"),
        lambda folder: RedisVoters(folder / "redis", 5),
    ]
    with tempfile.TemporaryDirectory(prefix="soak-") as place, ExitStack() as stack:
        folder = Path(place)
        etcd, zookeeper, redis = (stack.enter_context(make(folder)) for make in makers)
        assert isinstance(etcd, EtcdCluster)
        assert isinstance(zookeeper, ZooKeeperCluster)
        assert isinstance(redis, RedisVoters)
        (folder / "sqlite").mkdir()
        clusters = Clusters(etcd, zookeeper, redis, folder / "sqlite" / "soak.db")
        found = Soak(clusters, seconds=asked.seconds, seed=asked.seed).run()
    write(found)
    print(table(found))
    print(json.dumps({"faults": found["faults"], "counts": found["counts"]}, indent=2))
    print(f"grown: {', '.join(found['grown']) or 'nothing'}; more in {REPORT}")
    return 1 if found["grown"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
