"""What fences are for, with real processes: a leader that wakes too late, and writers killed in mid-transaction.

The rule: what was written is judged by the rows, in their order, against what the processes have said of them.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from tests.integration.sqlfence_scenes import FORGOTTEN, leader, writer
from tests.servers.cluster import POLL_SECONDS
from tests.support.children import Child, stopped
from tests.support.sql import LEDGER, Store, newest, token, write, written

WRITERS, WRITES = 8, 2000
IDLE_SECONDS = 1


@pytest.fixture
def store(sql_store: Store) -> Store:
    """SQLite, PostgreSQL or MariaDB."""
    return sql_store


@pytest.fixture
def engine(store: Store) -> Engine:
    """An engine with SQLAlchemy's and the driver's defaults; the tables exist."""
    return store.connect()


def fell(tokens: list[int]) -> int:
    """How many rows were written under a token lower than that of one before."""
    return sum(value < max(tokens[:place]) for place, value in enumerate(tokens) if place)


def pause(child: Child) -> None:
    child.send(signal.SIGSTOP)
    while not stopped(child.pid):
        time.sleep(POLL_SECONDS)


# -- the zombie ------------------------------------------------------------------------------------------


def zombie_wakes(
    store: Store, election: str, fence: str, *, halts: str = "before", ttl: float = 2.0, **waiting: Any
) -> str:
    """What a leader says that was paused after its last check and wakes when its successor has written."""
    common = election, ttl, store.urls["sync"]
    with Child(leader, *common, json.dumps(store.waiting(20) | waiting), fence, halts) as zombie:
        old = int(zombie.expect("leads"))
        if halts == "within":
            zombie.expect("admitted")
        pause(zombie)
        with Child(leader, *common, json.dumps(store.waiting(20)), fence, "before") as successor:
            new = int(successor.expect("leads"))
            assert new > old
            successor.tell()
            assert int(successor.expect("wrote")) == new
            zombie.send(signal.SIGCONT)
            zombie.tell()
            told = zombie.line()
    return told.replace(f" {old}", " old").replace(f" {new}", " new")


def test_a_leader_that_wakes_after_its_successor_has_written(engine: Engine, store: Store, tmp_path: Path) -> None:
    """It is refused; the same program without the fence writes, so this test would see a fence that lets through."""
    assert zombie_wakes(store, f"sqlite://{tmp_path}/fenced.db", "fenced") == "stale new"
    assert (len(written(engine)), fell(written(engine))) == (1, 0)

    with engine.begin() as connection:
        connection.execute(LEDGER.delete())
    assert zombie_wakes(store, f"sqlite://{tmp_path}/bare.db", "bare") == "wrote old"
    assert fell(written(engine)) == 1, "without a fence nothing was stale: this test proves nothing"


@pytest.mark.parametrize("sql_store", ["postgresql", "mariadb"], indirect=True)
def test_a_leader_paused_within_its_transaction_is_ended_by_the_database(
    engine: Engine, store: Store, tmp_path: Path
) -> None:
    """It holds the election's row, for which its successor waits: until the server ends a transaction that idles.

    A fence has a ttl to answer an elector, so that limit is the shorter one.
    """
    limit = {
        "postgresql": {"options": f"-c idle_in_transaction_session_timeout={IDLE_SECONDS}s"},
        "mariadb": {"init_command": f"SET SESSION idle_transaction_timeout = {IDLE_SECONDS}"},
    }[store.backend]
    election = f"sqlite://{tmp_path}/election.db"
    told = zombie_wakes(store, election, "fenced", halts="within", ttl=3 * IDLE_SECONDS, **limit)
    assert told.split()[0] == "failed"
    assert len(written(engine)) == 1
    assert newest(engine) == token(written(engine)[0])


# -- many writers ----------------------------------------------------------------------------------------


@dataclass
class Told:
    """What the processes of one writer have said."""

    lines: list[tuple[str, str, int, int | str]] = field(default_factory=list)
    in_flight: set[str] = field(default_factory=set)  # at a SIGKILL from outside: written or not
    deaths: int = 0

    def of(self, what: str) -> list[tuple[str, int, int | str]]:
        return [(name, value, more) for said, name, value, more in self.lines if said == what]


def runs(store: Store, number: int, go: threading.Barrier) -> Told:
    """One writer, started again after each of its deaths, until all its turns are over."""
    turns = WRITES // WRITERS
    dies_itself = number % 4 == 0
    killed_after = turns // 3 if number % 4 == 1 else -1
    told, turn = Told(), 0
    while turn < turns:
        crash = turns // 2 if dies_itself and turn <= turns // 2 else -1
        arguments = json.dumps(store.waiting(60))
        with Child(writer, store.urls["sync"], arguments, number, turn, turns, crash) as child:
            child.expect("ready")
            if turn == 0:
                go.wait(60)
            child.tell()
            while (line := child.line()) != "done":
                told.lines.append(tuple(json.loads(line)))
                turn += 1
                if told.lines[-1][0] == "crashed":
                    assert child.exit_code() == -signal.SIGKILL
                    told.deaths += 1
                    break
                if turn == killed_after:
                    child.send(signal.SIGKILL)
                    child.exit_code()
                    while (rest := child.rest()) is not None:
                        told.lines.append(tuple(json.loads(rest)))
                        turn += 1
                    told.in_flight.add(f"{number}/{turn}")
                    told.deaths += 1
                    turn += 1
                    break
    return told


@pytest.mark.stress
def test_writers_in_many_processes_with_interleaved_tokens(engine: Engine, store: Store) -> None:
    go = threading.Barrier(WRITERS)
    with ThreadPoolExecutor(WRITERS) as threads:
        all_told = list(threads.map(lambda number: runs(store, number, go), range(WRITERS)))

    accepted = {name for told in all_told for name, _, _ in told.of("written")}
    stale = [(value, seen) for told in all_told for _, value, seen in told.of("stale")]
    in_flight = {name for told in all_told for name in told.in_flight}
    assert [more for told in all_told for *_, more in told.of("failed")] == [], "a deadlock, or a lock that was kept"
    assert sum(told.deaths for told in all_told) == WRITERS // 2
    assert [len(told.lines) + len(told.in_flight) for told in all_told] == [WRITES // WRITERS] * WRITERS

    with engine.connect() as connection:
        rows = connection.execute(select(LEDGER.c.writer, LEDGER.c.token).order_by(LEDGER.c.id)).all()
    names = [name for name, _ in rows]
    assert fell([value for _, value in rows]) == 0, "accepted tokens fell"
    assert len(set(names)) == len(names)
    assert accepted <= set(names), "an accepted write is lost"
    assert set(names) <= accepted | in_flight, "a refused or a rolled back write is there"
    assert FORGOTTEN not in [value for _, value in rows]
    assert all(value < seen for value, seen in stale)
    assert min(len(stale), len(accepted)) > WRITES // 10, (len(stale), len(accepted))
    assert newest(engine) == token(max(value for _, value in rows))
    with store.connect(wait=1).begin() as connection:  # nobody left a lock behind
        write(connection, 10 * FORGOTTEN)
