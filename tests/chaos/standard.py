"""The run that every cluster has to stand: candidates, links and servers suffer, and what is on file is the judge.

The rule: it goes on until enough terms were felled and each kind of fault was made. Then all is calm, two leaders are
killed and followed, and everybody leaves. What was seen goes to a file of results; where something was wrong, all that
is on file is kept.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.chaos.conductor import Conductor, Script
from tests.chaos.members import Members
from tests.chaos.recovery import Attribution, Tally, attribute
from tests.chaos.results import Results, felled
from tests.chaos.run import LONGER, MORE_TERMS, PROCESSES, Run
from tests.chaos.schedule import OF_EVERY_CLUSTER, OF_SERVERS
from tests.chaos.sides import Sides
from tests.servers.cluster import Cluster
from tests.support.children import ROOT
from tests.support.walls import Wall

# Names that are each other's beginnings, or look alike once they are encoded, and plain ones.
ELECTIONS = ("a", "a/b", "ab", "b", "b/a", "c", *(f"shard/{number}" for number in range(18)))
# Four contend for each, never all on one side.
PLACES = {name: [(number + more) % PROCESSES for more in (0, 2, 3, 5)] for number, name in enumerate(ELECTIONS)}
TERMS = 300
FELLED = 100  # terms ended by a kill, a pause or a cut
STAYS = 0.15 if MORE_TERMS else 0.8  # which part leads for longer than a ttl: a long run is to see many terms
PATIENCE = 120.0  # s without a leader of an election, when leaders, waiters and servers fall in a row
SLACK = 5.0  # s that half of all recoveries may take on top of a bound, on a busy machine
CALM_SLACK = 15.0  # s on top of a bound, for all elections, once nothing is wrong any more
MOST_SLACK = 30.0  # and each of them, even if what was to lead next was starved
ENOUGH = 10  # recoveries of a kind, whose median is judged
LOOK_SECONDS = 3.0  # s between two looks at the whole journal
WALLS = (2, 5)  # the places whose candidates have a wall clock of their own
KEPT = ROOT / ".cache" / "chaos"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a backend has to stand.

    `takeover`: seconds without a leader after a fault of candidates or links, at most. `recovers`: what more it may be
    after one of servers. `apart`: seconds between two servers that are restarted in turn. `touched_by_few`: whether a
    leader may depend on less than a majority of its links. `backwards`: wall clocks only go back.
    """

    backend: str
    ttl: float
    kinds: Sequence[str]
    takeover: float
    recovers: float
    apart: float = 0.0
    touched_by_few: bool = True
    backwards: bool = False

    def bound(self, kind: str) -> float:
        return self.takeover + (self.recovers if kind in OF_SERVERS else 0.0)


def stand(
    folder: Path,
    cluster: Cluster[Any],
    url: str,
    terms: Terms,
    *,
    seed: int,
    faketime: Path,
    left: Callable[[], Sequence[str]],
) -> None:
    """`left`: what is left in the store after everybody has gone."""
    try:
        _stand(folder, cluster, url, terms, seed=seed, faketime=faketime, left=left)
    except BaseException:
        _keep(folder, cluster, terms.backend)
        raise


def _stand(
    folder: Path,
    cluster: Cluster[Any],
    url: str,
    terms: Terms,
    *,
    seed: int,
    faketime: Path,
    left: Callable[[], Sequence[str]],
) -> None:
    kinds = (*OF_EVERY_CLUSTER, *terms.kinds)
    script = Script(folder / "schedule.json", seed, kinds, terms.ttl)
    with stage(folder, cluster, url, terms, seed=script.seed, faketime=faketime) as (run, conductor):
        with conductor:
            conductor.play(script, _Enough(run, conductor, kinds, terms, whole=bool(script.given)))
        run.calm()
        run.all_lead(terms.takeover + terms.recovers + CALM_SLACK)
        takeovers = [run.takeover(election) for election in ELECTIONS[:2]]
        seconds = run.seconds
        codes = run.leave()
        left_over = _patiently(left, 2 * terms.ttl + SLACK)
        results = Results.of(
            terms.backend,
            cluster.version,  # type: ignore[attr-defined]
            run,
            seed=script.seed,
            seconds=seconds,
            takeovers=takeovers,
            left=left_over,
        )
    file = results.write(terms.bound, replayed=bool(script.given))
    shutil.copy(script.path, file.with_name(f"{file.stem}-schedule.json"))
    results.check()
    assert codes == [0] * PROCESSES
    assert not run.traceback(), run.traceback()
    assert run.witnessed() > results.report.terms / 2
    assert max(takeovers) < terms.takeover + CALM_SLACK, takeovers
    _check_bounds(results.found, terms)
    if not script.given:
        assert results.report.terms >= max(TERMS, MORE_TERMS)
        assert results.felled >= FELLED
        assert results.writes.refused > 0, "no stale write was tried: the pauses are too short"
        unseen = [kind for kind in kinds if kind not in results.found.kinds]
        assert not unseen, unseen


@contextmanager
def stage(
    folder: Path,
    cluster: Cluster[Any],
    url: str,
    terms: Terms,
    *,
    seed: int,
    faketime: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[Run, Conductor]]:
    """Candidates that contend through proxies, and who makes them suffer. `environment`: more of it, for all."""
    walls = {place: Wall(faketime, folder, str(place)) for place in WALLS}
    enough = threading.Event()
    given = {place: dict(environment or {}) for place in range(PROCESSES)}
    for place, wall in walls.items():
        given[place] |= wall.env
    with (
        Sides(cluster, enough) as sides,
        Run(
            folder,
            sides.urls(url),
            ELECTIONS,
            ttl=terms.ttl,
            seed=seed,
            stays=STAYS,
            quick="0.2-1.5",
            patience=PATIENCE,
            environments=given,
            places=PLACES,
        ) as run,
    ):
        members = Members(cluster, enough, apart=terms.apart)
        yield (
            run,
            Conductor(
                run,
                sides,
                members,
                enough,
                walls,
                backwards=terms.backwards,
                touched_by_few=terms.touched_by_few,
            ),
        )


def _check_bounds(found: Attribution, terms: Terms) -> None:
    """Half of the recoveries are within the bound, and none hangs."""
    late = [
        f"{kind}: {each.undisturbed:.2f} s until another led {each.election}, from {each.calm_since:.3f} on"
        for kind, tally in found.kinds.items()
        for each in tally.recoveries
        if each.undisturbed > terms.bound(kind) + MOST_SLACK
    ]
    assert not late, "\n".join(late)
    slow = {kind: usual for kind, tally in found.kinds.items() if (usual := _usual(tally)) > terms.bound(kind) + SLACK}
    assert not slow, slow


class _Enough:
    """Whether a run has seen all that it should; a look at everything only now and then."""

    def __init__(self, run: Run, conductor: Conductor, kinds: Sequence[str], terms: Terms, *, whole: bool) -> None:
        self._run = run
        self._conductor = conductor
        self._kinds = kinds
        self._terms = terms
        self._whole = whole  # all of a schedule that was given
        self._next_look = 0.0

    def __call__(self) -> bool:
        made: Mapping[str, int] = self._conductor.made
        if self._whole or self._run.seconds < LONGER or not all(made[kind] for kind in self._kinds):
            return False
        began = time.monotonic()
        if sum(self._run.wins.values()) < max(TERMS, MORE_TERMS) or began < self._next_look:
            return False
        report = self._run.report()
        found = attribute(report.spans, self._run.faults.read(), self._terms.ttl)
        ended = time.monotonic()
        self._next_look = ended + max(LOOK_SECONDS, 10 * (ended - began))
        seen = all(kind in found.kinds for kind in self._kinds)  # and over: a pause in a write waits for a write
        whole = report.terms >= max(TERMS, MORE_TERMS) and felled(found) >= FELLED
        return seen and whole and self._run.refused()


def _usual(tally: Tally) -> float:
    """The median of its recoveries, if there are enough in which nothing else went wrong."""
    alone = [each.seconds for each in tally.recoveries if each.alone]
    return median(alone) if len(alone) >= ENOUGH else 0.0


def _patiently(left: Callable[[], Sequence[str]], seconds: float) -> Sequence[str]:
    """What is left in the store, once there is nothing or the time is over: entries of the killed have their leases."""
    end = time.monotonic() + seconds
    while (found := left()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _keep(folder: Path, cluster: Cluster[Any], backend: str) -> None:
    """All that is on file, and what the servers have said."""
    place = KEPT / backend
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    for member in cluster.members:
        (place / f"{member.name}.log").write_text(member.last_words(100_000), encoding="utf-8")
    print(f"journal, faults, schedule and the servers' logs: {place}")
