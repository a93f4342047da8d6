"""What `SQLFence` says before any I/O, and that nobody needs SQLAlchemy who does not ask for it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import BigInteger, Column, Connection, Engine, Integer, MetaData, Table, create_engine, event, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.schema import CreateTable

import coordkit.fencing
from coordkit import (
    BackendError,
    ConfigError,
    FencingToken,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.fencing import SQLFence, fenced_update
from coordkit.fencing.sql_door import _told_by_driver, translated

WITHOUT_SQLALCHEMY = """
import sys
sys.modules["sqlalchemy"] = None
import coordkit, coordkit.fencing
from coordkit.fencing import *
coordkit.fencing.MemoryFence()
try:
    coordkit.fencing.SQLFence
except coordkit.BackendNotInstalled as error:
    print(error)
"""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_coordkit_imports_no_sqlalchemy() -> None:
    assert python("import sys, coordkit, coordkit.fencing; print('sqlalchemy' in sys.modules)") == "False"


def test_without_sqlalchemy_the_extra_is_named() -> None:
    assert python(WITHOUT_SQLALCHEMY) == "SQLAlchemy is not installed: pip install 'coordkit[sql]'"


def test_a_fence_of_plain_engines_needs_no_greenlet() -> None:
    code = "import sys; sys.modules['greenlet'] = None; from coordkit.fencing import SQLFence; print(SQLFence())"
    assert python(code) == "<SQLFence 'coordkit_fence'>"


def test_a_broken_import_elsewhere_is_not_taken_for_a_missing_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coordkit.fencing.sql", None)
    with pytest.raises(ModuleNotFoundError, match=r"coordkit\.fencing\.sql"):
        coordkit.fencing.SQLFence  # noqa: B018


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SqlFence'"):
        coordkit.fencing.SqlFence  # type: ignore[attr-defined]  # noqa: B018


class Foreign:
    """An engine of another dialect, without its driver."""

    name = "oracle"


def test_other_databases_are_refused_with_a_word_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine("sqlite://")
    monkeypatch.setattr(engine, "dialect", Foreign())
    fence = SQLFence()
    for operation in (fence.create, fence.bind):
        with pytest.raises(ConfigError, match="PostgreSQL, MySQL, MariaDB and SQLite, not oracle"):
            operation(engine)


def test_what_is_no_connection_is_refused() -> None:
    engine, fence, token = create_engine("sqlite://"), SQLFence(), FencingToken("e", 1)
    with pytest.raises(
        ConfigError, match=r"admit takes a SQLAlchemy Connection or Session, not Engine.*run_sync\(fence\.admit"
    ):
        fence.admit(engine, token)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="create takes a SQLAlchemy Engine or Connection, not str"):
        fence.create("sqlite://")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="bind takes a SQLAlchemy Engine or AsyncEngine, not Foreign"):
        fence.bind(Foreign())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout"):
        fence.bind(engine, timeout=0)
    with pytest.raises(ConfigError, match="has a name"):
        SQLFence(table="")


def test_the_table_may_belong_to_the_metadata_of_migrations() -> None:
    metadata = MetaData()
    fence = SQLFence(table="fences", metadata=metadata)
    assert metadata.tables["fences"] is fence.table
    assert repr(fence) == "<SQLFence 'fences'>"


# -- what it says of errors, on a database in memory; real files are in tests/integration/test_sqlfence_sqlite.py


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = create_engine("sqlite://")
    yield made
    made.dispose()


def test_admission_in_the_transaction_that_made_the_table(engine: Engine) -> None:
    fence = SQLFence()
    with engine.begin() as connection:
        fence.create(connection)
        assert fence.newest(connection, "e") is None
        fence.admit(connection, FencingToken("e", 2))
        with pytest.raises(StaleToken):
            fence.admit(connection, FencingToken("e", 1))
        assert fence.newest(connection, "e") == FencingToken("e", 2)


def test_a_missing_a_foreign_and_a_spoilt_table_are_told_apart(engine: Engine) -> None:
    fence, token = SQLFence(), FencingToken("e", 1)
    with engine.connect() as connection:
        with pytest.raises(Misconfigured, match=r"is missing: call fence\.create"):
            fence.admit(connection, token)
        connection.execute(text("CREATE TABLE coordkit_fence (id INTEGER PRIMARY KEY)"))
        with pytest.raises(Misconfigured, match="is not a fence's"):
            fence.admit(connection, token)
        connection.execute(text("DROP TABLE coordkit_fence"))
        fence.create(connection)
        connection.execute(text("INSERT INTO coordkit_fence VALUES ('e', 'rubbish')"))
        with pytest.raises(Misconfigured, match="holds no token for 'e'"):
            fence.newest(connection, "e")


def test_autocommit_is_noticed(engine: Engine) -> None:
    fence = SQLFence()
    fence.create(engine)
    refused = pytest.raises(ConfigError, match="autocommit")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection, refused:
        fence.admit(connection, FencingToken("e", 1))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY, Unavailable),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Unavailable),
        (sqlite3.SQLITE_READONLY_DBMOVED, Rejected),
        (sqlite3.SQLITE_CORRUPT, Misconfigured),
        (sqlite3.SQLITE_IOERR, OutcomeUnknown),
        (None, OutcomeUnknown),
    ],
)
def test_an_error_is_judged_by_its_code(engine: Engine, code: int | None, kind: type[Exception]) -> None:
    fence = SQLFence()
    fence.create(engine)

    @event.listens_for(engine, "do_execute")
    def fail(*_: object) -> None:
        error = sqlite3.OperationalError("its text says nothing")
        if code is not None:
            error.sqlite_errorcode = code
        raise error

    bound = fence.bind(engine, timeout=0.001)
    with pytest.raises(kind) as caught:
        bound.admit(FencingToken("e", 1))
    assert (caught.value.backend, caught.value.operation) == ("sqlite", "admit")  # type: ignore[attr-defined]


def test_no_connection_in_time_is_unavailable(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> None:
        raise NoConnection("the pool is empty")

    bound = SQLFence().bind(engine, timeout=0.001)
    monkeypatch.setattr(engine, "connect", busy)
    with pytest.raises(Unavailable, match="the pool is empty"):
        bound.admit(FencingToken("e", 1))


# -- fenced_update ---------------------------------------------------------------------------------------

ROWS = Table("rows", MetaData(), Column("id", Integer, primary_key=True), Column("token", BigInteger))


@pytest.fixture
def row(engine: Engine) -> Iterator[Connection]:
    """A transaction in which the row 1 is there."""
    with engine.begin() as connection:
        ROWS.create(connection)
        connection.execute(ROWS.insert().values(id=1))
        yield connection


def test_a_column_that_holds_no_token_refuses_all(row: Connection) -> None:
    row.execute(text("UPDATE rows SET token = 'rubbish'"))
    with pytest.raises(Misconfigured, match="'token' of 'rows' holds no token"):
        fenced_update(row, ROWS, FencingToken("e", 1), key={"id": 1}, values={})


def test_a_row_that_comes_and_goes_ends_the_tries(row: Connection, engine: Engine) -> None:
    """As it may where each statement is committed by itself: it is stale for the one, and not for the other."""
    tries = []

    @event.listens_for(engine, "before_cursor_execute")
    def meddle(connection: object, cursor: sqlite3.Cursor, statement: str, *_: object) -> None:
        updates = statement.startswith("UPDATE")
        cursor.connection.execute(f"UPDATE rows SET token = {9 if updates else 1}")
        tries.append(updates)

    with pytest.raises(Unavailable, match="comes and goes"):
        fenced_update(row, ROWS, FencingToken("e", 5), key={"id": 1}, values={})
    assert tries == [True, False] * 3


# -- what the codes of servers mean, without a server ---------------------------------------------------


class FromPostgreSQL(Exception):
    """As psycopg's and asyncpg's."""

    def __init__(self, state: str) -> None:
        super().__init__("its text says nothing")
        self.sqlstate = state


class FromPsycopg2(Exception):
    def __init__(self, state: str) -> None:
        super().__init__("its text says nothing")
        self.pgcode = state


class FromMySQL(Exception):
    """As PyMySQL's: the number comes first."""


class FromConnector(Exception):
    """As MySQL's own connector's and MariaDB's."""

    def __init__(self, number: int) -> None:
        super().__init__("its text says nothing")
        self.errno = number


@pytest.mark.parametrize(
    ("name", "original", "kind"),
    [
        ("postgresql", FromPostgreSQL("40001"), Unavailable),
        ("postgresql", FromPostgreSQL("40P01"), Unavailable),
        ("postgresql", FromPsycopg2("55P03"), Unavailable),
        ("postgresql", FromPostgreSQL("57014"), Unavailable),
        ("postgresql", FromPostgreSQL("53300"), Unavailable),
        ("postgresql", FromPostgreSQL("57P03"), Unavailable),
        ("postgresql", FromPostgreSQL("57P01"), OutcomeUnknown),
        ("postgresql", FromPostgreSQL("08006"), OutcomeUnknown),
        ("postgresql", FromPostgreSQL("40003"), OutcomeUnknown),
        ("postgresql", FromPostgreSQL("42501"), Rejected),
        ("postgresql", FromPostgreSQL("28P01"), Rejected),
        ("postgresql", FromPostgreSQL("25006"), Rejected),
        ("postgresql", FromPostgreSQL("42P01"), Misconfigured),
        ("postgresql", FromPostgreSQL("42P10"), Misconfigured),
        ("postgresql", FromPostgreSQL("23514"), Misconfigured),
        ("postgresql", FromPostgreSQL("22P05"), Misconfigured),
        ("postgresql", FromMySQL("no code"), OutcomeUnknown),
        ("mysql", FromMySQL(1213, "Deadlock"), Unavailable),
        ("mysql", FromMySQL(1205, "Lock wait timeout"), Unavailable),
        ("mariadb", FromMySQL(1020, "Record has changed"), Unavailable),
        ("mariadb", FromConnector(1213), Unavailable),
        ("mysql", FromMySQL(1142, "denied"), Rejected),
        ("mysql", FromMySQL(1792, "read only"), Rejected),
        ("mysql", FromMySQL(1146, "no table"), Misconfigured),
        ("mysql", FromMySQL(1054, "no column"), Misconfigured),
        ("mariadb", FromMySQL(4025, "constraint"), Misconfigured),
        ("mysql", FromMySQL(2013, "lost"), OutcomeUnknown),
        ("mysql", FromMySQL(2006, "gone"), OutcomeUnknown),
        ("mysql", FromMySQL(0, ""), OutcomeUnknown),
        ("mysql", FromMySQL("no number"), OutcomeUnknown),
        ("mysql", FromMySQL(), OutcomeUnknown),
    ],
    ids=str,
)
def test_a_servers_error_is_judged_by_its_code(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str, original: Exception, kind: type[BackendError]
) -> None:
    monkeypatch.setattr(engine.dialect, "name", name)
    fence = SQLFence()
    with pytest.raises(kind) as caught, translated("admit", fence.table, engine):
        raise DBAPIError("INSERT", None, original)
    assert type(caught.value) is kind
    assert (caught.value.backend, caught.value.operation) == (name, "admit")
    assert ("roll back and start again" in str(caught.value)) == (kind is Unavailable)


@pytest.mark.parametrize(
    ("name", "original"),
    [("postgresql", FromPostgreSQL("23505")), ("postgresql", FromPostgreSQL("42P07")), ("mysql", FromMySQL(1050))],
    ids=str,
)
def test_a_table_that_somebody_else_makes_meanwhile_is_no_fault(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str, original: Exception
) -> None:
    monkeypatch.setattr(engine.dialect, "name", name)
    with pytest.raises(Unavailable), translated("create", SQLFence().table, engine):
        raise DBAPIError("CREATE TABLE", None, original)


class Driver:
    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("driver", "open_"),
    [
        (Driver(in_transaction=True), True),
        (Driver(in_transaction=False), False),
        (Driver(is_in_transaction=lambda: True), True),
        (Driver(is_in_transaction=lambda: False), False),
        (Driver(info=Driver(transaction_status=0)), False),
        (Driver(info=Driver(transaction_status=2)), True),
        (Driver(server_status=0), True),  # no autocommit
        (Driver(server_status=2), False),
        (Driver(server_status=3), True),  # autocommit, and a BEGIN
        (Driver(), None),
    ],
)
def test_drivers_tell_of_an_open_transaction(driver: Driver, open_: bool | None) -> None:
    assert _told_by_driver(driver) is open_


def test_the_tables_of_each_database() -> None:
    fence = SQLFence()
    made = {
        dialect.name: str(CreateTable(fence.table).compile(dialect=dialect))
        for dialect in (sqlite.dialect(), postgresql.dialect(), mysql.dialect())
    }
    assert "VARCHAR(255)" in made["sqlite"]
    assert 'VARCHAR(255) COLLATE "C"' in made["postgresql"]
    assert "VARBINARY(255)" in made["mysql"]
    assert "ENGINE=InnoDB" in made["mysql"]
