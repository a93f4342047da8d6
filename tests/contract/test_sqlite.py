"""The contract on SQLite: a file of its own for each test."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coordkit.clock import host_boottime
from coordkit.testing.contract import SharedBackendContract, StoreUnderTest

pytestmark = pytest.mark.backend("sqlite")


class SQLiteUnderTest:
    """One file, and connections that coordkit knows nothing of."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocker: sqlite3.Connection | None = None

    def url(self) -> str:
        return f"sqlite://{self._path}"

    def entries(self, election: str) -> Sequence[str]:
        select = "SELECT holder FROM coordkit_elections WHERE election = ? AND state = 'held' AND deadline > ?"
        connection = sqlite3.connect(self._path, timeout=10.0)
        try:
            return [row[0] for row in connection.execute(select, (election, host_boottime()))]
        except sqlite3.OperationalError:
            if self._path.stat().st_size == 0:  # nobody has been here yet
                return []
            raise
        finally:
            connection.close()

    def cut(self) -> None:
        """Hold the one lock for writing, as a process that is stopped inside a transaction does."""
        self._blocker = sqlite3.connect(self._path, isolation_level=None, timeout=10.0)
        self._blocker.execute("BEGIN IMMEDIATE")

    def heal(self) -> None:
        if self._blocker is not None:
            self._blocker.close()
            self._blocker = None

    def evict(self, election: str) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=10.0)
        connection.execute("DELETE FROM coordkit_elections WHERE election = ?", (election,))
        connection.close()


class TestSQLite(SharedBackendContract):
    shown_by = {
        "a candidate that is killed, paused or dropped": "test_a_paused_leader_is_followed_and_knows_when_it_wakes",
        "a crash or power cut of the machine": (
            "tests.simulation.schedules:sqlite_a_row_of_another_boot_is_waited_for"
        ),
        "a suspend of the machine": "tests.simulation.schedules:sqlite_a_row_of_another_boot_is_waited_for",
        "steps of the wall clock": "tests.simulation.schedules:sqlite_a_wall_clock_that_steps_changes_nothing",
        "candidates in several containers of one kernel, time namespaces included": (
            "tests.simulation.schedules:sqlite_a_deadline_means_the_same_in_a_time_namespace"
        ),
    }

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[StoreUnderTest]:
        store = SQLiteUnderTest(tmp_path / "elections.db")
        yield store
        store.heal()
