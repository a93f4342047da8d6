"""What `SQLFence` says before any I/O, and that nobody needs SQLAlchemy who does not ask for it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, MetaData, create_engine, event, text
from sqlalchemy.exc import TimeoutError as NoConnection

import coordkit.fencing
from coordkit import ConfigError, FencingToken, Misconfigured, OutcomeUnknown, Rejected, StaleToken, Unavailable
from coordkit.fencing import SQLFence

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


def test_a_broken_import_elsewhere_is_not_taken_for_a_missing_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coordkit.fencing.sql", None)
    with pytest.raises(ModuleNotFoundError, match=r"coordkit\.fencing\.sql"):
        coordkit.fencing.SQLFence  # noqa: B018


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SqlFence'"):
        coordkit.fencing.SqlFence  # type: ignore[attr-defined]  # noqa: B018


class Foreign:
    """An engine of another dialect, without its driver."""

    name = "postgresql"


class AsyncEngine:
    """As SQLAlchemy's, which needs greenlet: no `Engine`."""


def test_other_databases_are_refused_with_a_word_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine("sqlite://")
    monkeypatch.setattr(engine, "dialect", Foreign())
    fence = SQLFence()
    for operation in (fence.create, fence.bind):
        with pytest.raises(ConfigError, match="SQLite so far, not postgresql"):
            operation(engine)


def test_what_is_no_connection_is_refused() -> None:
    engine, fence, token = create_engine("sqlite://"), SQLFence(), FencingToken("e", 1)
    with pytest.raises(ConfigError, match=r"admit takes a SQLAlchemy Connection, not Engine.*\.connection\(\)"):
        fence.admit(engine, token)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="create takes a SQLAlchemy Engine or Connection, not str"):
        fence.create("sqlite://")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"bind takes a SQLAlchemy Engine, not AsyncEngine.*run_sync"):
        fence.bind(AsyncEngine())  # type: ignore[arg-type]
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
    monkeypatch.setattr(engine, "begin", busy)
    with pytest.raises(Unavailable, match="the pool is empty"):
        bound.admit(FencingToken("e", 1))
