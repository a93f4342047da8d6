"""`fenced_update`: a token column in the caller's own table, on every database."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, String, Table, create_engine, select
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from coordkit import ConfigError, Misconfigured, Rejected, StaleToken, Unavailable
from coordkit.fencing import fenced_update
from tests.support.sql import FENCE, Store, token

SERVERS = ["postgresql", "mariadb"]
REPORTS = Table(
    "reports",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("state", String(20), nullable=False),
    Column("total", Integer, nullable=False, server_default="0"),
    Column("fence", BigInteger),
    mysql_engine="InnoDB",
)


@pytest.fixture
def store(sql_store: Store) -> Store:
    """SQLite, PostgreSQL or MariaDB."""
    return sql_store


@pytest.fixture
def engine(store: Store) -> Engine:
    """An engine with SQLAlchemy's and the driver's defaults; the report 7 has no token yet, 8 has 3."""
    made = store.connect()
    REPORTS.create(made)
    with made.begin() as connection:
        connection.execute(REPORTS.insert().values(id=7, state="new"))
        connection.execute(REPORTS.insert().values(id=8, state="new", fence=3))
    return made


def send(connection: Any, value: int, number: int = 7, **values: Any) -> None:
    given = values or {"state": f"sent by {value}"}
    fenced_update(connection, REPORTS, token(value), key={"id": number}, values=given, column="fence")


def report(engine: Engine, number: int = 7) -> tuple[str, int, int | None]:
    with engine.connect() as connection:
        row = connection.execute(select(REPORTS).where(REPORTS.c.id == number)).one()
    return row.state, row.total, row.fence


def outcome(engine: Engine, value: int, number: int = 7) -> str:
    try:
        with engine.begin() as connection:
            send(connection, value, number)
        return "sent"
    except StaleToken as stale:
        return f"stale: {stale.newest.value}"
    except NoResultFound:
        return "no such row"
    except Unavailable:
        return "unavailable"


def test_a_higher_and_an_equal_token_change_the_row_a_stale_one_does_not(engine: Engine) -> None:
    assert [outcome(engine, value) for value in (5, 5, 7, 6)] == ["sent", "sent", "sent", "stale: 7"]
    assert report(engine) == ("sent by 7", 0, 7)
    assert outcome(engine, 2, 8) == "stale: 3"
    assert report(engine, 8) == ("new", 0, 3)


def test_a_row_that_is_not_there_is_told_apart_from_a_stale_token(engine: Engine) -> None:
    assert outcome(engine, 5, 9) == "no such row"


def test_what_is_written_anew_and_equal_is_no_refusal(engine: Engine) -> None:
    """Drivers may count the rows that were changed, not those that were found."""
    for _ in range(2):
        with engine.begin() as connection:
            send(connection, 5, state="sent", total=1)
    assert report(engine) == ("sent", 1, 5)


def test_an_expression_is_computed_once(engine: Engine) -> None:
    for value in (5, 5, 6):
        with engine.begin() as connection:
            send(connection, value, total=REPORTS.c.total + 1)
    with pytest.raises(StaleToken), engine.begin() as connection:
        send(connection, 4, total=REPORTS.c.total + 1)
    assert report(engine) == ("new", 3, 6)


def test_a_refusal_is_no_end_of_the_transaction_a_rollback_takes_it_back(engine: Engine) -> None:
    with engine.begin() as connection:
        send(connection, 5)
        with pytest.raises(StaleToken):
            send(connection, 4)
        with pytest.raises(NoResultFound):
            send(connection, 5, 9)
        send(connection, 6, 8)
    with engine.connect() as connection:
        send(connection, 9)
        connection.rollback()
    assert [report(engine)[2], report(engine, 8)[2]] == [5, 6]


def test_it_needs_no_transaction(engine: Engine, store: Store) -> None:
    with store.connect(isolation_level="AUTOCOMMIT").connect() as connection:
        send(connection, 5)
        with pytest.raises(StaleToken):
            send(connection, 4)
        with pytest.raises(NoResultFound):
            send(connection, 5, 9)
    assert report(engine) == ("sent by 5", 0, 5)


def test_sessions_and_async_connections(engine: Engine, store: Store) -> None:
    with Session(engine) as session, session.begin():
        send(session, 5)

    async def work() -> None:
        mine = create_async_engine(store.urls["async"])
        async with mine.begin() as connection:
            await connection.run_sync(send, 6)
        with pytest.raises(StaleToken):
            async with mine.begin() as connection:
                await connection.run_sync(send, 5)
        await mine.dispose()

    asyncio.run(work())
    assert report(engine) == ("sent by 6", 0, 6)


# -- two writers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql_store", SERVERS, indirect=True)
def test_who_waits_is_judged_by_what_was_committed_meanwhile(engine: Engine, store: Store) -> None:
    with ThreadPoolExecutor() as threads:
        for held, waits, committed, expected in (
            (5, 4, True, "stale: 5"),
            (6, 6, True, "sent"),
            (7, 8, True, "sent"),
            (20, 9, False, "sent"),
        ):
            with engine.connect() as connection:
                send(connection, held)
                waiter = threads.submit(outcome, store.connect(), waits)
                store.until_waiting(1)
                (connection.commit if committed else connection.rollback)()
            assert waiter.result(20) == expected, (held, waits)
    assert report(engine) == ("sent by 9", 0, 9)


@pytest.mark.parametrize(
    ("sql_store", "level", "remembers"),
    [
        ("postgresql", "READ COMMITTED", False),
        ("postgresql", "REPEATABLE READ", True),
        ("postgresql", "SERIALIZABLE", True),
        ("mariadb", "READ COMMITTED", False),
        ("mariadb", "REPEATABLE READ", False),
    ],
    indirect=["sql_store"],
)
def test_a_snapshot_does_not_hide_a_newer_token(engine: Engine, store: Store, level: str, remembers: bool) -> None:
    old = store.connect(isolation_level=level)
    with old.connect() as connection:
        assert connection.execute(select(REPORTS.c.fence).where(REPORTS.c.id == 8)).scalar() == 3
        assert outcome(engine, 5, 8) == "sent"
        with pytest.raises(Unavailable if remembers else StaleToken) as caught:
            send(connection, 4, 8)
        connection.rollback()
    if not remembers:
        assert isinstance(caught.value, StaleToken)
        assert caught.value.newest == token(5)
    assert report(engine, 8) == ("sent by 5", 0, 5)


def test_the_danger_that_a_row_knows_only_who_has_written_to_it(engine: Engine) -> None:
    """And how both are used together."""
    assert outcome(engine, 6, 7) == "sent"
    assert outcome(engine, 5, 8) == "sent"  # the new leader has not touched this one
    with engine.begin() as connection:
        FENCE.admit(connection, token(6))
    with pytest.raises(StaleToken), engine.begin() as connection:
        FENCE.admit(connection, token(5))
        send(connection, 5, 8)


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql_store", ["sqlite"], indirect=True)
def test_what_names_no_row_or_no_column_is_refused(engine: Engine) -> None:
    keyless = Table("keyless", MetaData(), Column("id", Integer), Column("token", BigInteger))
    with engine.begin() as connection:
        for table, key, values, column in (
            (REPORTS, {"state": "new"}, {"total": 1}, "fence"),
            (REPORTS, {}, {"total": 1}, "fence"),
            (REPORTS, {"id": 7, "state": "new"}, {"total": 1}, "fence"),
            (keyless, {}, {}, "token"),
            (REPORTS, {"id": 7}, {"total": 1}, "token"),
            (REPORTS, {"id": 7}, {"fence": 1}, "fence"),
            (REPORTS, {"id": 7}, {"total": 1}, "id"),
            ("reports", {"id": 7}, {"total": 1}, "fence"),
        ):
            with pytest.raises(ConfigError):
                fenced_update(connection, table, token(1), key=key, values=values, column=column)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="FencingToken"):
            fenced_update(connection, REPORTS, 1, key={"id": 7}, values={}, column="fence")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Connection or Session"):
        send(engine, 1)
    assert report(engine) == ("new", 0, None)


def test_what_the_callers_values_break_is_the_callers_to_deal_with(engine: Engine) -> None:
    with pytest.raises(IntegrityError), engine.begin() as connection:
        send(connection, 5, state=None)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        send(connection, 5, id=8)
    assert report(engine) == ("new", 0, None)


def test_a_column_that_holds_no_token_and_a_table_that_is_missing(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(REPORTS.update().values(fence=0))
    assert outcome(engine, 5) == "sent"  # it is lower than any token
    REPORTS.drop(engine)
    with pytest.raises(Misconfigured, match="reports"), engine.begin() as connection:
        send(connection, 5)


@pytest.mark.local_cluster  # MariaDB in a container knows no users
@pytest.mark.parametrize("sql_store", SERVERS, indirect=True)
def test_locks_and_rights(engine: Engine, store: Store) -> None:
    assert store.server is not None
    with engine.begin() as holder:
        send(holder, 5)
        assert outcome(store.connect(wait=1), 6) == "unavailable"
    guest = create_engine(store.server.url(user="guest"))
    with pytest.raises(Rejected), guest.begin() as connection:
        send(connection, 7)
    guest.dispose()
    assert report(engine) == ("sent by 5", 0, 5)
