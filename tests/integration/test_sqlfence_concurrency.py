"""Writers that meet at a `SQLFence`: each is judged by what the one before it has committed.

The rule: who meets whom is arranged, not hoped for: the database itself tells when a writer waits for a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.pool import NullPool

from coordkit import StaleToken, Unavailable
from coordkit.fencing import SQLFence
from tests.support.sql import FENCE, LEDGER, Store, newest, token, write, written

pytestmark = pytest.mark.once

SERVERS = ["postgresql", "mariadb"]
SNAPSHOT = "REPEATABLE READ SNAPSHOT"  # as MariaDB has it by default from 11.6 on


@pytest.fixture
def store(sql_store: Store) -> Store:
    """SQLite, PostgreSQL or MariaDB."""
    return sql_store


@pytest.fixture
def engine(store: Store) -> Engine:
    """An engine with SQLAlchemy's and the driver's defaults; the tables exist."""
    return store.connect()


def outcome(engine: Engine, value: int, election: str = "e") -> str:
    try:
        with engine.begin() as connection:
            write(connection, value, election, election)
        return "written"
    except StaleToken as stale:
        return f"stale: {stale.newest.value}"
    except Unavailable:
        return "unavailable"


# -- two writers -----------------------------------------------------------------------------------------


def test_nobody_is_admitted_while_another_has_not_committed(engine: Engine, store: Store) -> None:
    hasty = store.connect(wait=1)
    with engine.begin() as connection:
        write(connection, 5)
        assert outcome(hasty, 6) == "unavailable"
        assert outcome(hasty, 4) == "unavailable"  # not judged by what is not committed yet
        assert newest(hasty) is None
    assert outcome(hasty, 4) == "stale: 5"
    assert written(engine) == [5]


@pytest.mark.parametrize("sql_store", SERVERS, indirect=True)
def test_who_waits_is_judged_by_what_was_committed_meanwhile(engine: Engine, store: Store) -> None:
    with ThreadPoolExecutor() as threads:
        for held, waits, committed, expected in (
            (5, 4, True, "stale: 5"),  # the first of all
            (7, 6, True, "stale: 7"),
            (8, 8, True, "written"),
            (9, 10, True, "written"),
            (20, 11, False, "written"),
        ):
            with engine.connect() as connection:
                write(connection, held)
                waiter = threads.submit(outcome, store.connect(), waits)
                store.until_waiting(1)
                (connection.commit if committed else connection.rollback)()
            assert waiter.result(20) == expected, (held, waits)
    assert written(engine) == [5, 7, 8, 8, 9, 10, 11]


@pytest.mark.parametrize("sql_store", SERVERS, indirect=True)
def test_the_fence_of_another_election_does_not_wait(engine: Engine, store: Store) -> None:
    other = store.connect(wait=1)
    assert outcome(other, 1, "f") == "written"
    with engine.begin() as connection:
        write(connection, 5)
        assert outcome(other, 2, "f") == "written"


def test_a_refused_writer_holds_no_lock_afterwards(engine: Engine, store: Store) -> None:
    with engine.begin() as connection:
        write(connection, 5)
    with pytest.raises(StaleToken), engine.begin() as connection:
        write(connection, 4)
    with store.connect(wait=1).begin() as connection:
        write(connection, 6)
    assert written(engine) == [5, 6]


@pytest.mark.parametrize("sql_store", SERVERS, indirect=True)
def test_three_first_writers_the_first_of_whom_rolls_back(engine: Engine, store: Store) -> None:
    """Both others waited for a row that never was; InnoDB then sees a deadlock between them, which is told."""
    for number in range(5):
        election = f"first/{number}"
        with ThreadPoolExecutor() as threads:
            with engine.connect() as connection:
                write(connection, 9, election, election)
                waiters = [
                    threads.submit(outcome, store.connect(poolclass=NullPool), value, election) for value in (1, 2)
                ]
                store.until_waiting(2)
                connection.rollback()
            told = [waiter.result(20) for waiter in waiters]
        if store.backend == "postgresql":
            assert told in (["written", "written"], ["stale: 2", "written"])
        assert "written" in told
        assert set(told) <= {"written", "stale: 2", "unavailable"}
        assert outcome(engine, 3, election) == "written"


def test_two_first_writers_at_once(engine: Engine, store: Store) -> None:
    """Whoever comes second is judged by the first, though no row was there when both began."""
    engines = store.connect(), store.connect()
    refused = 0
    with ThreadPoolExecutor() as threads:
        for number in range(40):
            election = f"round/{number}"
            together = threading.Barrier(2)

            def first_write(chosen: Engine, value: int, election: str = election, start: Any = together) -> str:
                start.wait(20)
                return outcome(chosen, value, election)

            values = (1, 2) if number % 2 else (2, 1)
            started: dict[int, Future[str]] = {
                value: threads.submit(first_write, engines[place], value) for place, value in enumerate(values)
            }
            told = {value: future.result(20) for value, future in started.items()}
            with engine.connect() as connection:
                rows = select(LEDGER.c.token).where(LEDGER.c.writer == election).order_by(LEDGER.c.id)
                found = list(connection.execute(rows).scalars())
            assert (told[2], found) == ("written", [1, 2] if told[1] == "written" else [2])
            assert told[1] in ("written", "stale: 2")
            refused += told[1] != "written"
            assert newest(engine, election) == token(2, election)
    assert refused > 0, "the two never met in the order that matters"


def test_four_who_create_the_table_at_once(store: Store) -> None:
    for number in range(5):
        fence = SQLFence(table=f"fence_{number}")
        together = threading.Barrier(4)

        def create(fence: SQLFence = fence, start: Any = together) -> None:
            mine = store.connect(poolclass=NullPool)
            start.wait(20)
            fence.create(mine)
            fence.create(mine)
            with mine.begin() as connection:
                fence.create(connection)
                fence.admit(connection, token(1))

        with ThreadPoolExecutor(4) as threads:
            for future in [threads.submit(create) for _ in range(4)]:
                future.result(30)


# -- what a transaction has seen before ------------------------------------------------------------------


def ask_for_snapshots(connection: Any, record: object) -> None:
    connection.query("SET SESSION innodb_snapshot_isolation = ON")


@pytest.mark.parametrize(
    ("sql_store", "level", "remembers"),
    [
        ("postgresql", "READ COMMITTED", False),
        ("postgresql", "REPEATABLE READ", True),
        ("postgresql", "SERIALIZABLE", True),
        ("mariadb", "READ COMMITTED", False),
        ("mariadb", "REPEATABLE READ", False),
        ("mariadb", SNAPSHOT, True),
    ],
    indirect=["sql_store"],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_snapshot_does_not_hide_a_newer_token(
    engine: Engine, store: Store, level: str, remembers: bool, first: bool
) -> None:
    """A transaction that has read before another committed is judged by that other, or told to start again."""
    if not first:
        assert outcome(engine, 1) == "written"
    before = written(engine)
    old = store.connect(isolation_level=level.removesuffix(" SNAPSHOT"))
    if level == SNAPSHOT:
        event.listen(old, "connect", ask_for_snapshots)
    for others, value, expected in ((5, 4, "stale: 5"), (7, 8, "written")):
        with old.connect() as connection:
            assert connection.execute(select(LEDGER.c.token).order_by(LEDGER.c.id)).scalars().all() == before
            with engine.begin() as other:
                write(other, others)
            before.append(others)
            try:
                write(connection, value)
                connection.commit()
                told = "written"
                before.append(value)
            except StaleToken as stale:
                told = f"stale: {stale.newest.value}"
            except Unavailable:
                told = "unavailable"
            connection.rollback()
        assert told == ("unavailable" if remembers else expected)
    assert written(engine) == before


@pytest.mark.parametrize("sql_store", ["sqlite"], indirect=True)
def test_a_snapshot_of_sqlite_is_refused_not_believed(engine: Engine, store: Store) -> None:
    """Read-modify-write with an explicit BEGIN: the old snapshot must not be written from."""
    careful = store.connect()

    @event.listens_for(careful, "connect")
    def no_implicit_begin(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(careful, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    with pytest.raises(Unavailable), careful.begin() as connection:
        assert connection.execute(select(LEDGER.c.token)).all() == []
        with engine.begin() as other:
            write(other, 5)
        write(connection, 6)
    with careful.begin() as connection:  # and this way of beginning is not taken for autocommit
        write(connection, 7)
    assert written(engine) == [5, 7]


@pytest.mark.parametrize("sql_store", SERVERS, indirect=True)
def test_two_elections_in_opposite_order_are_a_deadlock_for_one(engine: Engine, store: Store) -> None:
    for election in ("e", "f"):
        assert outcome(engine, 1, election) == "written"
    other = store.connect()

    def both(chosen: Engine, value: int, elections: tuple[str, str], halfway: Callable[[], object]) -> str:
        try:
            with chosen.begin() as connection:
                FENCE.admit(connection, token(value, elections[0]))
                halfway()
                FENCE.admit(connection, token(value, elections[1]))
            return "written"
        except Unavailable:
            return "unavailable"

    together = threading.Barrier(2)
    with ThreadPoolExecutor() as threads:
        futures = [
            threads.submit(both, engine, 2, ("e", "f"), lambda: together.wait(20)),
            threads.submit(both, other, 3, ("f", "e"), lambda: together.wait(20)),
        ]
        told = [future.result(20) for future in futures]
    assert sorted(told) == ["unavailable", "written"]
    value = 2 if told[0] == "written" else 3
    assert [newest(engine, election) for election in ("e", "f")] == [token(value, "e"), token(value, "f")]
    for election in ("e", "f"):  # nothing is left locked
        assert outcome(store.connect(wait=1), 4, election) == "written"
