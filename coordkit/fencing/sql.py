"""A fence in the caller's own database transaction, on SQLAlchemy 2.

The rule: the check is a write. One statement compares the offered token with the highest seen, stores it and holds
the lock until the caller's transaction ends; so what the caller writes in that transaction is written under the
admitted token, or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import BigInteger, CheckConstraint, Column, Connection, Engine, MetaData, String, Table, inspect, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.schema import CreateTable

from coordkit import retry
from coordkit.errors import (
    BackendError,
    ConfigError,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.model import (
    MAX_ELECTION_BYTES,
    Fence,
    FencingToken,
    check_election,
    check_seconds,
    check_token,
)

ADMIT_SECONDS = 5.0  # how long a bound fence tries again while the database is locked


class SQLFence:
    """Admits a token not lower than the highest it has seen of that election, inside the caller's transaction.

        fence = SQLFence()
        fence.create(engine)                        # once: its table, one row per election
        with engine.begin() as connection:
            fence.admit(connection, term.token)     # StaleToken leaves the block: everything is rolled back
            connection.execute(...)

    Admission and writes are committed together or not at all, and writers of one election follow each other.
    Holds no connection and no state; may be shared by threads, and made at import. With an ORM session:
    `fence.admit(session.connection(), token)`; with an async one: `await session.run_sync(...)` around it.

    The danger: only what is written in that same transaction is protected. If `StaleToken` is caught inside the
    block, the transaction must not be committed. What is rolled back to a savepoint takes an admission made after
    the savepoint with it. A database restored from a backup has forgotten the newer tokens.

    So far for SQLite; other databases raise `ConfigError`. `table`: the name of its table; `metadata`: the
    `MetaData` it shall belong to, such as that of your migrations.
    """

    def __init__(self, *, table: str = "coordkit_fence", metadata: MetaData | None = None) -> None:
        if not table:
            raise ConfigError("the fence's table has a name")
        self.table = Table(
            table,
            MetaData() if metadata is None else metadata,
            Column("election", String(MAX_ELECTION_BYTES), primary_key=True),
            Column("token", BigInteger, nullable=False),
            CheckConstraint("token > 0"),
        )

    def create(self, where: Engine | Connection) -> None:
        """Make the fence's table unless it exists. With a connection: in its transaction, which you commit."""
        _check_dialect(where, "create", Engine, Connection)
        with _translated("create", self.table):
            if isinstance(where, Connection):
                where.execute(CreateTable(self.table, if_not_exists=True))
                return
            with where.begin() as connection:
                connection.execute(CreateTable(self.table, if_not_exists=True))

    def admit(self, connection: Connection, token: FencingToken) -> None:
        """Remember `token` in this transaction, or raise `StaleToken`; takes the write lock until its end.

        Admit first, then write. Raises `ConfigError` on a connection in autocommit, where nothing is atomic;
        `Misconfigured` if the table is missing; `Unavailable` if the database is locked for longer than its
        driver waits: roll back and start again.
        """
        _check_dialect(connection, "admit", Connection)
        check_token(token)
        offer = sqlite.insert(self.table).values(election=token.election, token=token.value)
        admission = offer.on_conflict_do_update(
            index_elements=[self.table.c.election],
            set_={"token": offer.excluded.token},
            where=offer.excluded.token >= self.table.c.token,
        ).returning(self.table.c.token)
        with _translated("admit", self.table, connection):
            admitted = connection.execute(admission).first()
            newest = None if admitted is not None else self._newest(connection, token.election)
        if newest is not None:
            raise StaleToken(token, newest)
        if not connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
            raise ConfigError(
                "this connection is in autocommit: what you write next would not be atomic with the admission; "
                "use engine.begin(), without isolation_level='AUTOCOMMIT'"
            )

    def newest(self, connection: Connection, election: str) -> FencingToken | None:
        """The highest token admitted in an election, as this transaction sees it; None if there was none."""
        _check_dialect(connection, "newest", Connection)
        check_election(election)
        with _translated("newest", self.table, connection):
            return self._newest(connection, election)

    def bind(self, engine: Engine, *, timeout: float = ADMIT_SECONDS) -> Fence:
        """A plain `Fence`, for `LeaderElector(fences=[...])`: each `admit` is a transaction of its own.

        While the database is locked it tries again for at most `timeout` seconds, then raises `Unavailable`.
        """
        _check_dialect(engine, "bind", Engine)
        return _Bound(self, engine, check_seconds(timeout, "timeout"))

    def _newest(self, connection: Connection, election: str) -> FencingToken | None:
        value = connection.execute(select(self.table.c.token).where(self.table.c.election == election)).scalar()
        try:
            return None if value is None else FencingToken(election, value)
        except ConfigError as error:
            raise Misconfigured(
                f"the table {self.table.name!r} holds no token for {election!r}: {error}", backend="sqlite"
            ) from error

    def __repr__(self) -> str:
        return f"<SQLFence {self.table.name!r}>"


class _Bound:
    def __init__(self, fence: SQLFence, engine: Engine, timeout: float) -> None:
        self._fence = fence
        self._engine = engine
        self._timeout = timeout

    def admit(self, token: FencingToken) -> None:
        retry.within(self._timeout)(self._once, token)  # admitting twice is admitting once

    def _once(self, token: FencingToken) -> None:
        with _translated("admit", self._fence.table), self._engine.begin() as connection:
            self._fence.admit(connection, token)


def _check_dialect(where: object, operation: str, *kinds: type[Engine | Connection]) -> None:
    if not isinstance(where, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(
            f"{operation} takes a SQLAlchemy {wanted}, not {type(where).__name__}; "
            "a session has .connection(), an async engine or session has .run_sync()"
        )
    if where.dialect.name != "sqlite":
        raise ConfigError(f"SQLFence serves SQLite so far, not {where.dialect.name}")


@contextmanager
def _translated(operation: str, table: Table, connection: Connection | None = None) -> Iterator[None]:
    """The one door: what an error of the database means, by its code, never by its text."""
    try:
        yield
    except NoConnection as error:  # of the engine's pool, in time
        raise Unavailable(f"{operation} in {table.name!r}: {error}", backend="sqlite", operation=operation) from error
    except DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        kind = OutcomeUnknown if code is None else _MEANING.get(code & 0xFF, OutcomeUnknown)
        message = f"{operation} in {table.name!r}: {error.orig}"
        if code == sqlite3.SQLITE_ERROR and connection is not None:  # our statement does not fit what is there
            there = inspect(connection).has_table(table.name, table.schema)
            message = (
                f"the table {table.name!r} is not a fence's: {error.orig}"
                if there
                else f"the fence's table {table.name!r} is missing: call fence.create(engine) once"
            )
        raise kind(message, backend="sqlite", operation=operation) from error


# sqlite.org/rescode.html. Whatever fails with one of these has changed nothing that is committed.
_MEANING: dict[int, type[BackendError]] = {
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
