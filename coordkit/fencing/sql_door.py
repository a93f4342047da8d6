"""What fences know of databases beside SQL itself: which they serve, when nothing is atomic, what an error means.

The rule: errors come in by one door and are told by their code, never by their text: SQLSTATE of PostgreSQL, the
number of MySQL and MariaDB, the result code of SQLite. A code is `Unavailable` only if whatever fails with it has
committed nothing, so that the transaction may be rolled back and started again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from sqlalchemy import Connection, Dialect, Engine, Table, inspect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session, scoped_session

from coordkit.errors import BackendError, ConfigError, Misconfigured, OutcomeUnknown, Rejected, Unavailable

Family = Literal["sqlite", "postgresql", "mysql"]
Where = Connection | Session | scoped_session[Session]

_FAMILIES: dict[str, Family] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
_IN_TRANSACTION = 1, 2  # SERVER_STATUS_IN_TRANS, SERVER_STATUS_AUTOCOMMIT
_IDLE = 0  # of libpq's transaction states: no transaction
_AGAIN = "; roll back and start again"


def family(dialect: Dialect) -> Family:
    """Which of the databases that are served; `ConfigError` for any other."""
    found = _FAMILIES.get(dialect.name)
    if found is None:
        raise ConfigError(f"SQL fences serve PostgreSQL, MySQL, MariaDB and SQLite, not {dialect.name}")
    return found


def connection_of(where: object, operation: str) -> Connection:
    """The connection of the caller's transaction; `ConfigError` for what has none, or one of a foreign database."""
    if isinstance(where, Session | scoped_session):
        where = where.connection()
    if not isinstance(where, Connection):
        call = operation if operation == "fenced_update" else f"fence.{operation}"
        raise ConfigError(
            f"{operation} takes a SQLAlchemy Connection or Session, not {type(where).__name__}; "
            "an async connection or session has .run_sync(): "
            f"await connection.run_sync({call}, ...)"
        )
    family(where.dialect)
    return where


def require_transaction(connection: Connection) -> None:
    """`ConfigError` if each statement of this connection is committed by itself."""
    told = _told_by_driver(connection.connection.driver_connection)
    if not (_keeps_a_savepoint(connection) if told is None else told):
        raise ConfigError(
            "this connection is in autocommit: what you write next would not be atomic with the admission; "
            "use engine.begin(), without isolation_level='AUTOCOMMIT'"
        )


def _told_by_driver(driver: object) -> bool | None:
    """Whether a transaction is open, after a statement was executed; None: this driver does not tell.

    The server is not asked.
    """
    for name in ("in_transaction", "is_in_transaction"):  # sqlite3, aiosqlite, mysql-connector; asyncpg
        if (told := getattr(driver, name, None)) is not None:
            return bool(told() if callable(told) else told)
    if (info := getattr(driver, "info", None)) is not None:  # psycopg, psycopg2
        return bool(info.transaction_status != _IDLE)
    if (status := getattr(driver, "server_status", None)) is not None:  # PyMySQL, aiomysql, asyncmy
        begun, autocommit = _IN_TRANSACTION
        return bool(status & begun or not status & autocommit)
    return None


def _keeps_a_savepoint(connection: Connection) -> bool:
    """At the price of two round trips: without a transaction there is no savepoint, or none that lasts."""
    try:
        connection.begin_nested().commit()
    except DBAPIError as error:
        if _code(error, family(connection.dialect)) in ("25P01", 1305):  # no transaction; no such savepoint
            return False
        raise
    return True


@contextmanager
def translated(operation: str, table: Table, where: Engine | Connection, *, theirs: bool = False) -> Iterator[None]:
    """The one door: what an error of the database means.

    `theirs`: table and values are the caller's, who is left to deal with what their constraints say.
    """
    name, kind_of_database = where.dialect.name, family(where.dialect)
    try:
        yield
    except NoConnection as error:  # of the engine's pool, in time
        raise Unavailable(f"{operation} in {table.name!r}: {error}", backend=name, operation=operation) from error
    except DBAPIError as error:
        if theirs and isinstance(error, IntegrityError | DataError):
            raise
        code = _code(error, kind_of_database)
        kind = _meaning(code, kind_of_database, operation)
        message = f"{operation} in {table.name!r}: {error.orig}"
        if kind is Unavailable:
            message += _AGAIN
        if _fits_not(code, kind_of_database) and isinstance(where, Connection) and not theirs:
            message = (
                f"the table {table.name!r} is missing: call fence.create(engine) once"
                if _is_missing(code, table, where)
                else f"the table {table.name!r} is not a fence's: {error.orig}"
            )
        raise kind(message, backend=name, operation=operation) from error


@contextmanager
def connecting(table: Table, engine: Engine) -> Iterator[None]:
    """The same while a connection is made: what has no code did not get through."""
    with translated("admit", table, engine):
        try:
            yield
        except OSError as error:  # asyncpg lets it through
            raise Unavailable(
                f"admit in {table.name!r}: {error}", backend=engine.dialect.name, operation="admit"
            ) from error
        except DBAPIError as error:
            if _code(error, family(engine.dialect)) is not None:
                raise
            message = f"admit in {table.name!r}: no connection: {error.orig}"
            raise Unavailable(message, backend=engine.dialect.name, operation="admit") from error


def _code(error: DBAPIError, kind_of_database: Family) -> str | int | None:
    """What the driver tells: a SQLSTATE as text, the others' numbers; None if it has none."""
    told = error.orig
    if kind_of_database == "sqlite":
        number = getattr(told, "sqlite_errorcode", None)
        return None if number is None else int(number) & 0xFF  # without what is added to it
    if kind_of_database == "postgresql":
        state = getattr(told, "sqlstate", None) or getattr(told, "pgcode", None)
        return str(state) if state else None
    number = getattr(told, "errno", None)
    if number is None:
        number = next(iter(getattr(told, "args", ())), None)
    return number if isinstance(number, int) and number > 0 else None


def _meaning(code: str | int | None, kind_of_database: Family, operation: str) -> type[BackendError]:
    if operation == "create" and code in _MADE_MEANWHILE:
        return Unavailable
    if kind_of_database == "sqlite":
        return _SQLITE.get(code, OutcomeUnknown)
    if kind_of_database == "mysql":
        return _MYSQL.get(code, OutcomeUnknown)
    exact = _POSTGRESQL.get(str(code))
    return exact or _POSTGRESQL.get(str(code)[:2], OutcomeUnknown)


def _fits_not(code: str | int | None, kind_of_database: Family) -> bool:
    """Whether our statement does not fit what is there."""
    return (
        code
        in {
            "sqlite": (sqlite3.SQLITE_ERROR,),
            "postgresql": ("42P01", "42703", "42P10", "42804", "42883"),
            "mysql": (1146, 1054),
        }[kind_of_database]
    )


def _is_missing(code: str | int | None, table: Table, where: Connection) -> bool:
    if code == sqlite3.SQLITE_ERROR:  # which says nothing more
        return not inspect(where).has_table(table.name, table.schema)
    return code in ("42P01", 1146)


# postgresql.org/docs/current/errcodes-appendix.html; of two characters: the class.
_POSTGRESQL: dict[str, type[BackendError]] = {
    "22": Misconfigured,  # data that the column does not take
    "23": Misconfigured,  # a constraint that is not ours
    "25006": Rejected,  # read only: a standby
    "25P02": Unavailable,  # an earlier statement has failed
    "28": Rejected,
    "3D": Misconfigured,
    "3F": Misconfigured,
    "40001": Unavailable,  # serialization failure
    "40P01": Unavailable,  # deadlock
    "42": Misconfigured,
    "42501": Rejected,
    "53": Unavailable,  # no memory, disk or connections
    "55P03": Unavailable,  # no lock in time
    "57014": Unavailable,  # cancelled, by a timeout of statements too
    "57P03": Unavailable,  # starting up
    "XX001": Misconfigured,
    "XX002": Misconfigured,
}
_MADE_MEANWHILE = ("23505", "42P07", "42710", 1050)  # by somebody else who creates the table at the same time

# mariadb.com/kb/en/mariadb-error-code-reference, dev.mysql.com/doc/mysql-errors; 2000 and more are the client's.
_MYSQL: dict[str | int | None, type[BackendError]] = {
    **dict.fromkeys(
        (
            *(1205, 1213, 3572),  # no lock in time; deadlock; no lock at once
            1020,  # MariaDB's snapshot isolation: changed since it was read
            *(1040, 1041, 1203, 1226),  # too many connections, or no memory for one
            *(1021, 1037, 1114),  # disk, memory, table full
            *(1317, 1969, 3024),  # cancelled, by a timeout of statements too
            *(2002, 2003, 2005),  # no connection was made
        ),
        Unavailable,
    ),
    **dict.fromkeys((1044, 1045, 1142, 1143, 1227, 1290, 1370, 1698, 1792, 1836), Rejected),
    **dict.fromkeys((1030, 1048, 1049, 1054, 1064, 1146, 1264, 1265, 1364, 1366, 1406, 3819, 4025), Misconfigured),
}

# sqlite.org/rescode.html
_SQLITE: dict[str | int | None, type[BackendError]] = {
    sqlite3.SQLITE_ERROR: Misconfigured,
    sqlite3.SQLITE_PERM: Rejected,
    sqlite3.SQLITE_BUSY: Unavailable,
    sqlite3.SQLITE_LOCKED: Unavailable,
    sqlite3.SQLITE_NOMEM: Unavailable,
    sqlite3.SQLITE_READONLY: Rejected,
    sqlite3.SQLITE_CORRUPT: Misconfigured,
    sqlite3.SQLITE_FULL: Unavailable,
    sqlite3.SQLITE_CANTOPEN: Rejected,
    sqlite3.SQLITE_PROTOCOL: Unavailable,
    sqlite3.SQLITE_CONSTRAINT: Misconfigured,
    sqlite3.SQLITE_MISMATCH: Misconfigured,
    sqlite3.SQLITE_AUTH: Rejected,
    sqlite3.SQLITE_NOTADB: Misconfigured,
}
