"""`SQLFence` on SQLite: what is its own, beside `test_sqlfence_contract.py` and its neighbours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String, Table, create_engine, event, select, text

from coordkit import (
    FencingToken,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.fencing import SQLFence

pytestmark = pytest.mark.backend("sqlite")

ledger = Table(
    "ledger",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("token", Integer),
    Column("writer", String),
)
fence = SQLFence()

Connect = Callable[..., Engine]


def token(value: int, election: str = "e") -> FencingToken:
    return FencingToken(election, value)


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Makes engines on one file in write-ahead mode, disposed of at the end."""
    with ExitStack() as engines:

        def make(*, timeout: float = 20, **options: object) -> Engine:
            engine = create_engine(f"sqlite:///{tmp_path}/ledger.db", connect_args={"timeout": timeout}, **options)
            engines.callback(engine.dispose)
            return engine

        yield make


@pytest.fixture
def engine(connect: Connect) -> Engine:
    """An engine with SQLAlchemy's and the driver's defaults; the tables exist."""
    made = connect()
    with made.begin() as connection:
        connection.execute(text("PRAGMA journal_mode=WAL"))
        ledger.create(connection)
    fence.create(made)
    return made


def write(connection: Connection, value: int, writer: str = "w") -> None:
    fence.admit(connection, token(value))
    connection.execute(ledger.insert().values(token=value, writer=writer))


def written(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(select(ledger.c.token).order_by(ledger.c.id)).scalars())


def newest(engine: Engine, election: str = "e") -> FencingToken | None:
    with engine.connect() as connection:
        return fence.newest(connection, election)


# -- two writers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_two_first_writers_at_once(engine: Engine, connect: Connect, mode: str) -> None:
    """Whoever comes second is judged by the first, though no row was there when both began."""
    with engine.connect() as connection:
        connection.execute(text(f"PRAGMA journal_mode={mode}"))
    engines = [connect(), connect()]
    refused = 0
    for round_number in range(40):
        election = f"round/{round_number}"
        together = threading.Barrier(2)
        outcome: dict[int, str] = {}

        def first_write(
            engine: Engine, value: int, election: str = election, start: threading.Barrier = together, out=outcome
        ) -> None:
            start.wait()
            try:
                with engine.begin() as connection:
                    fence.admit(connection, token(value, election))
                    connection.execute(ledger.insert().values(token=value, writer=election))
                out[value] = "written"
            except StaleToken:
                out[value] = "stale"

        threads = [
            threading.Thread(target=first_write, args=(engines[number], value))
            for number, value in enumerate((1, 2) if round_number % 2 else (2, 1))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with engine.connect() as connection:
            rows = connection.execute(
                select(ledger.c.token).where(ledger.c.writer == election).order_by(ledger.c.id)
            ).scalars()
            assert list(rows) == ([1, 2] if outcome[1] == "written" else [2])
        assert outcome[2] == "written"
        refused += outcome[1] == "stale"
        assert newest(engine, election) == token(2, election)
    assert refused > 0, "the two never met in the order that matters"


# -- what cannot be fenced -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["'rubbish'", "1.5", "x'00'"])
def test_a_row_that_holds_no_token_is_no_floor(engine: Engine, value: str) -> None:
    """Written around the fence. Text compares above every number in SQLite: no token is admitted, nor made up."""
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO coordkit_fence VALUES ('e', {value})"))
    with pytest.raises(Misconfigured, match="holds no token for 'e'"), engine.begin() as connection:
        write(connection, 1)
    assert written(engine) == []


def test_files_that_cannot_be_written_or_are_no_database(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    urls = {
        f"sqlite:///file:{tmp_path}/ledger.db?mode=ro&uri=true": Rejected,
        f"sqlite:///{tmp_path}/text.db": Misconfigured,
        f"sqlite:///{tmp_path}/absent/ledger.db": Rejected,
    }
    for url, kind in urls.items():
        other = create_engine(url)
        with pytest.raises(kind) as caught:
            fence.bind(other).admit(token(1))
        assert caught.value.operation == "admit"
        other.dispose()
    with pytest.raises(Misconfigured):
        fence.create(create_engine(f"sqlite:///{tmp_path}/text.db"))


def test_an_error_without_a_code_leaves_the_outcome_open(engine: Engine) -> None:
    class Broken(Exception):
        pass

    @event.listens_for(engine, "before_cursor_execute")
    def fail(connection, cursor, statement, parameters, context, many) -> None:
        cursor.close()  # the driver then raises ProgrammingError, which has no code of SQLite

    with pytest.raises(OutcomeUnknown), engine.begin() as connection:
        fence.admit(connection, token(1))


# -- bound -----------------------------------------------------------------------------------------------


def test_a_bound_fence_waits_for_a_lock_and_gives_up_in_time(engine: Engine, connect: Connect) -> None:
    bound = fence.bind(connect(timeout=0.01), timeout=20)
    tries = 0

    @event.listens_for(bound._engine, "handle_error")
    def count(context) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            holder.rollback()

    with engine.connect() as holder:
        write(holder, 9)
        bound.admit(token(5))
    assert tries == 3
    assert newest(engine) == token(5)

    with engine.begin() as holder, pytest.raises(Unavailable, match="locked"):
        write(holder, 9)
        fence.bind(connect(timeout=0.01), timeout=0.1).admit(token(6))
