"""The control: peers of coordkit under the same faults, by the same journal, before the same judge.

The rule: a harness that finds no fault in those who are known to have one is too weak. So a peer and coordkit lead in
the same program (`control_candidates`), at the same time, on the same servers, whose members fall by one schedule; both
have half of their processes behind links that are reset and cut; and the leaders of both are killed and paused by the
schedule of one seed. What differs is who leads, and that coordkit's writes go through a fence.

A peer's journal is as fair to it as can be: a belief ends with the function that leads, and if its process is killed
then, or when that process was stopped before it was killed. Only overlaps are judged, and the order of writes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from coordkit.audit import Fate, Kind, Record, Report, Span, judge, parse
from coordkit.audit.reading import ROUNDING
from coordkit.clock import host_boottime
from tests.chaos.control_candidates import CAREFUL
from tests.chaos.control_processes import Processes
from tests.chaos.control_trouble import Trouble
from tests.chaos.run import LONGER
from tests.servers.cluster import Cluster
from tests.servers.proxy import Proxy
from tests.servers.redis import Redis
from tests.support.children import ROOT

PLAIN = "plain"
ELECTIONS = ("plain/a", "plain/b", "careful/a", "careful/b")
PROCESSES = 4  # of the peer, and as many of coordkit
LEAST, MOST = 15.0, 50.0  # s of a short run: it ends once a fault was seen
TERMS = 10  # and coordkit has led so often
KILLED, PAUSED, WAITERS = 0.15, 0.5, 0.1  # which part of the leaders, and of those who wait, suffers that
STAYS = 0.15
OURS = "coordkit"
START = "import sys; from tests.chaos.control_candidates import contend; contend(*sys.argv[1:])"
REPORTS = ROOT / ".cache" / "reports" / "chaos"


class Cuts:
    """Links that are reset, and cut for longer than a ttl, in an order that comes from a seed; a context manager."""

    def __init__(self, cluster: Cluster[Any], *, ttl: float, seed: int) -> None:
        self.resets = self.cuts = 0
        self._ttl = ttl
        self._chance = random.Random(seed)
        self._stack = ExitStack()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._make)
        proxies = [self._stack.enter_context(Proxy(member.host, member.port)) for member in cluster.members]
        self._ways = {f"{each.host}:{each.port}": proxy for each, proxy in zip(cluster.members, proxies, strict=True)}

    def behind(self, url: str) -> str:
        """The same servers, by these links."""
        for address, proxy in self._ways.items():
            url = url.replace(address, f"{proxy.host}:{proxy.port}")
        return url

    def __enter__(self) -> Cuts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._stack.close()

    def _make(self) -> None:
        chance = self._chance
        while not self._over.wait(chance.uniform(0.5, 2.5)):
            if chance.random() < 0.4:
                self.resets += 1
                for proxy in self._ways.values():
                    proxy.reset()
                continue
            self.cuts += 1
            for proxy in self._ways.values():
                proxy.cut()
            self._over.wait(chance.uniform(1.2, 2.0) * self._ttl)
            for proxy in self._ways.values():
                proxy.heal()


def most_forget(cluster: Redis[Any]) -> Callable[[random.Random], None]:
    """Most voters lose their data at once, as when they are restarted without a disk."""

    def forget(chance: random.Random) -> None:
        for member in chance.sample(cluster.members, len(cluster.members) // 2 + 1):
            cluster.flushall(member)

    return forget


class Contenders(Processes):
    """The processes of one of the two."""

    def __init__(
        self, folder: Path, who: str, urls: Sequence[str], *, ttl: float, seed: int, env: Mapping[str, str]
    ) -> None:
        super().__init__(folder, ELECTIONS, ttl=ttl, seed=seed)
        self.who = who
        self.gone: dict[int, float] = {}  # by pid: from when on a process that has been killed did nothing
        self.by_themselves: list[int] = []  # exit codes
        self._urls = urls
        self._env = env
        self._started = 0
        self._stopped_at: dict[int, float] = {}

    def play(self, over: Callable[[], bool]) -> None:
        """Until it is over; whoever ends by itself is counted, and replaced."""
        while not over():
            self._go_on()
            for pid, process in list(self._processes.items()):
                if (code := process.poll()) is not None:
                    self.by_themselves.append(code)
                    self._kill(pid)

    def settle(self, seconds: float) -> None:
        """Nobody is stopped any more, and what was stopped acts; then all are killed."""
        self._calm = True
        self._due.clear()
        for pid in sorted(self._paused):
            self._resume(pid)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._go_on()
        for pid, process in self._processes.items():
            process.kill()
            process.wait()
            self.gone[pid] = self._could_act_until(pid)

    def history(self) -> list[Record]:
        """The journal. A peer's has an end to each belief whose process was killed; of those that live: here and now.

        Ours is judged as always: such a term counts until its deadline.
        """
        records, _ = parse(self._journal.read_bytes())
        if self.who == OURS:
            return records
        return [*records, *ends(records, lambda pid: self.gone.get(pid) or self._could_act_until(pid))]

    def writes(self) -> dict[str, list[Record]]:
        """By resource: each write, in the order in which the resource took it."""
        return {
            path.name.removeprefix("writes-"): parse(path.read_bytes())[0] for path in self._folder.glob("writes-*")
        }

    def __enter__(self) -> Contenders:
        for _ in range(PROCESSES):
            self._start_one()
        return self

    def _start_one(self) -> None:
        url = self._urls[self._started % len(self._urls)]
        self._started += 1
        number = self.chance.getrandbits(32)
        arguments = [self.who, self._folder, url, self._ttl, number, STAYS, *self.elections]
        process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=self._write_end,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, **self._env, "COORDKIT_JOURNAL": str(self._journal)},
        )
        self._processes[process.pid] = process

    def _plan(self, leader: int) -> None:
        """More pauses than kills: the dead do not go on."""
        fate, delay = self.chance.random(), self.chance.uniform(0.0, 0.1)
        if fate < KILLED:
            self._later(delay, lambda: self._kill(leader))
        elif fate < KILLED + PAUSED:
            self._later(delay, lambda: self._pause(leader))
        waiting = sorted(self._processes.keys() - {leader})
        if self.chance.random() < WAITERS and waiting:
            victim, fault = self.chance.choice(waiting), self.chance.choice([self._kill, self._pause])
            self._later(self.chance.uniform(0.0, 0.5), lambda: fault(victim))

    def _pause(self, pid: int) -> None:
        if pid in self._processes and pid not in self._paused:
            super()._pause(pid)
            self._stopped_at[pid] = host_boottime()

    def _kill(self, pid: int) -> None:
        if process := self._processes.pop(pid, None):
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.gone[pid] = self._could_act_until(pid)
            self._paused.discard(pid)
            self.kills += 1
            self._start_one()

    def _could_act_until(self, pid: int) -> float:
        return self._stopped_at[pid] if pid in self._paused else host_boottime()


def ends(records: Sequence[Record], until: Callable[[int], float]) -> list[Record]:
    """A line for each term that has none of its end: it was lost when its process could do nothing more."""
    endless: dict[object, Record] = {}
    for record in records:
        if record["event"] == "won":
            endless[record["entry"]] = record
        elif record["event"] in ("lost", "resigned"):
            endless.pop(record["entry"], None)
    found: list[Record] = []
    for won in endless.values():
        pid = won["pid"]
        assert isinstance(pid, int)
        found.append({**won, "event": "lost", "at": until(pid), "reason": "killed"})
    return found


def overlaps(report: Report) -> list[tuple[Span, Span, float]]:
    """Each term that began while another of its election lasted: that one, the later one, for how many seconds."""
    found = []
    furthest: Span | None = None
    spans = [span for span in report.spans if span.fate is not Fate.VOID]
    for before, after in pairwise(spans):
        if (before.boot_id, before.election) != (after.boot_id, after.election):
            furthest = None
            continue
        furthest = before if furthest is None or before.until > furthest.until else furthest
        if after.since < furthest.until - ROUNDING:
            found.append((furthest, after, min(furthest.until, after.until) - after.since))
    return found


def stale(writes: Sequence[Record]) -> list[Record]:
    """The writes that a resource has taken after it had taken one of a later term."""
    newest = 0
    found = []
    for write in writes:
        token = write["token"]
        assert isinstance(token, int)
        if write["event"] == "accepted":
            if token < newest:
                found.append(write)
            newest = max(newest, token)
    return found


def findings(contenders: Contenders, use: str = "") -> dict[str, Any]:
    """What the judge and the resources say; `use`: of elections whose names begin so."""
    history = [record for record in contenders.history() if str(record["election"]).startswith(use)]
    report = judge(history)
    overlapping = overlaps(report)
    assert len(overlapping) == sum(each.kind is Kind.OVERLAP for each in report.violations)
    kinds = {kind.value: sum(each.kind is kind for each in report.violations) for kind in Kind}
    by_resource = {name: writes for name, writes in contenders.writes().items() if name.startswith(use)}
    all_writes = [write for writes in by_resource.values() for write in writes]
    late = [write for writes in by_resource.values() for write in stale(writes)]
    return {
        "terms": report.terms,
        "overlaps": len(overlapping),
        "longest_overlap": round(max((seconds for _, _, seconds in overlapping), default=0.0), 3),
        "bodies_that_went_on": len({before.entry for before, _, _ in overlapping}),
        "writes": len(all_writes),
        "refused_writes": sum(write["event"] == "refused" for write in all_writes),
        "stale_writes": len(late),
        "terms_with_stale_writes": len({(write["election"], write["token"]) for write in late}),
        "longest_gap": round(report.longest_gap, 3),
        "violations": kinds,
    }


def compare(
    folder: Path,
    peer: str,
    cluster: Cluster[Any],
    trouble: Trouble,
    urls: Mapping[str, str],
    *,
    ttl: float,
    seed: int,
    stated: Mapping[str, object],
    env: Mapping[str, str],
) -> dict[str, Any]:
    """Let both lead under the same faults; what is found is written to the report of this peer, and returned.

    `urls`: of the peer, and of coordkit. `stated`: what is to be known of the peer, its version and defaults.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        cuts = stack.enter_context(Cuts(cluster, ttl=ttl, seed=seed))
        both = [
            stack.enter_context(
                Contenders(folder / who, who, [urls[who], cuts.behind(urls[who])], ttl=ttl, seed=seed, env=extra)
            )
            for who, extra in ((peer, env), (OURS, {}))
        ]
        peers, ours = both
        looked = began

        def over() -> bool:
            nonlocal looked
            now = time.monotonic()
            if now - began >= max(MOST, LONGER):
                return True
            if now - began < max(LEAST, LONGER) or now - looked < 1.0 or sum(ours.wins.values()) < TERMS:
                return False
            looked = now
            return any(stale(writes) for writes in peers.writes().values()) and bool(overlaps(judge(peers.history())))

        with trouble:
            with ThreadPoolExecutor(max_workers=2) as pool:
                ended = threading.Event()
                mine = pool.submit(ours.play, ended.is_set)
                try:
                    peers.play(over)
                finally:
                    ended.set()
                mine.result()
            trouble.check()
        for each in both:
            each.settle(1.0)
        seconds = time.monotonic() - began
    found = {
        "peer": peer,
        **stated,
        "ttl": ttl,
        "seed": seed,
        "seconds": round(seconds, 1),
        "faults": {
            "members": dict(trouble.counts),
            "links_reset": cuts.resets,
            "links_cut": cuts.cuts,
            **{each.who: {"kills": each.kills, "pauses": each.pauses} for each in both},
        },
        "as_its_example": findings(peers, PLAIN),
        "careful": findings(peers, CAREFUL),
        "coordkit": findings(ours),
        "ended_by_themselves": {each.who: each.by_themselves for each in both},
    }
    REPORTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2)
    (REPORTS / f"control-{peer}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return found


def check(found: Mapping[str, Any]) -> None:
    """The peer has a fault, so that faults are found here; coordkit has none."""
    peers, ours = found["as_its_example"], found["coordkit"]
    assert peers["overlaps"] + peers["stale_writes"] > 0, "no fault was found in the peer: the harness is too weak"
    assert ours["terms"] > 0
    assert ours["writes"] > 0
    assert sum(ours["violations"].values()) == 0, ours
    assert ours["stale_writes"] == 0, ours
    assert found["ended_by_themselves"]["coordkit"] == []
