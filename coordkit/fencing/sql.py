"""A fence in the caller's own database transaction, on SQLAlchemy 2.

The rule: the check is a write. One statement compares the offered token with the highest seen, stores it and holds
the row's lock until the caller's transaction ends; so what the caller writes in that transaction is written under the
admitted token, or not at all. The statement reads the row as it is, never as a snapshot remembers it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    Engine,
    Insert,
    MetaData,
    String,
    Table,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeDecorator, TypeEngine

from coordkit import retry
from coordkit.errors import ConfigError, Misconfigured, StaleToken
from coordkit.fencing.sql_bound import BoundFence, BoundToLoop
from coordkit.fencing.sql_door import Family, Where, connecting, connection_of, family, require_transaction, translated
from coordkit.model import (
    MAX_ELECTION_BYTES,
    Fence,
    FencingToken,
    check_election,
    check_seconds,
    check_token,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine  # importing it takes greenlet

ADMIT_SECONDS = 5.0  # how long a bound fence tries again while the database is locked


class ElectionName(TypeDecorator[str]):
    """Compared byte by byte, whatever the database's collation: two elections are never taken for one."""

    impl = String(MAX_ELECTION_BYTES)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.VARBINARY(MAX_ELECTION_BYTES))
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.VARCHAR(MAX_ELECTION_BYTES, collation="C"))
        return dialect.type_descriptor(String(MAX_ELECTION_BYTES))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | bytes | None:
        return value.encode() if value is not None and dialect.name in ("mysql", "mariadb") else value

    def process_result_value(self, value: str | bytes | None, dialect: Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


class SQLFence:
    """Admits a token not lower than the highest it has seen of that election, inside the caller's transaction.

        fence = SQLFence()
        fence.create(engine)                        # once: its table, one row per election
        with engine.begin() as connection:
            fence.admit(connection, term.token)     # StaleToken leaves the block: everything is rolled back
            connection.execute(...)

    For PostgreSQL, MySQL, MariaDB and SQLite, at every isolation level that has transactions. Admission and writes are
    committed together or not at all, and writers of one election follow each other. Holds no connection and no state;
    may be shared by threads, and made at import. Where a connection is asked for, an ORM session may be given; with an
    async one: `await connection.run_sync(fence.admit, term.token)`, likewise `session.run_sync`.

    The danger: only what is written in that same transaction is protected. If `StaleToken` is caught inside the
    block, the transaction must not be committed. What is rolled back to a savepoint takes an admission made after
    the savepoint with it. A leader that is paused inside its transaction keeps the row, and its successor waits: let
    the database end idle transactions. A database restored from a backup has forgotten the newer tokens.

    `table`: the name of its table; `metadata`: the `MetaData` it shall belong to, such as that of your migrations.
    """

    def __init__(self, *, table: str = "coordkit_fence", metadata: MetaData | None = None) -> None:
        if not table:
            raise ConfigError("the fence's table has a name")
        self.table = Table(
            table,
            MetaData() if metadata is None else metadata,
            Column("election", ElectionName, primary_key=True),
            Column("token", BigInteger, nullable=False),
            CheckConstraint("token > 0"),
            mysql_engine="InnoDB",  # others know no transaction
            mariadb_engine="InnoDB",
        )

        # Made once: that takes longer than a round trip.
        election, token = self.table.c.election, self.table.c.token
        self._row = select(token).where(election == bindparam("election"))
        offer = mysql.insert(self.table)
        by_mysql = offer.on_duplicate_key_update(token=func.greatest(token, offer.inserted.token))
        self._offer_of_mariadb = by_mysql.returning(token)
        self._offers: dict[Family, Insert] = {
            "mysql": by_mysql,
            "postgresql": self._upsert(postgresql.insert(self.table)),
            "sqlite": self._upsert(sqlite.insert(self.table)),
        }

    def _upsert(self, offer: postgresql.Insert | sqlite.Insert) -> Insert:
        return offer.on_conflict_do_update(
            index_elements=[self.table.c.election],
            set_={"token": offer.excluded.token},
            where=offer.excluded.token >= self.table.c.token,  # the row is locked even if not
        ).returning(self.table.c.token)

    def create(self, where: Engine | Connection) -> None:
        """Make the fence's table unless it exists.

        With a connection: in its transaction, which you commit; MySQL and MariaDB commit what it has written so far,
        as before any new table.
        """
        if isinstance(where, Connection):
            self._create(where)
        elif isinstance(where, Engine):
            family(where.dialect)
            retry.within(ADMIT_SECONDS)(self._create_by, where)  # another may make it at the same moment
        else:
            raise ConfigError(
                f"create takes a SQLAlchemy Engine or Connection, not {type(where).__name__}; "
                "an async connection has .run_sync(): await connection.run_sync(fence.create)"
            )

    def admit(self, connection: Where, token: FencingToken) -> None:
        """Remember `token` in this transaction, or raise `StaleToken`; keeps the election's row locked until its end.

        Admit first, then write. Raises `ConfigError` on a connection in autocommit, where nothing is atomic;
        `Misconfigured` if the table is missing. `Unavailable` if the row is locked for longer than the database waits,
        on a deadlock, or where the isolation level does not let this transaction see what others have written
        meanwhile: roll back and start again. SQLite locks the whole database, not the row.
        """
        check_token(token)
        transaction = connection_of(connection, "admit")
        with translated("admit", self.table, transaction):
            newest = self._admitted(transaction, token)
        if newest is not None:
            raise StaleToken(token, newest)
        require_transaction(transaction)

    def overwrite(self, connection: Where, token: FencingToken) -> None:
        """Remember `token` whatever was seen of its election. For an operator: a lower one lets stale leaders in."""
        check_token(token)
        transaction = connection_of(connection, "overwrite")
        row = self.table.update().where(self.table.c.election == token.election)
        with translated("overwrite", self.table, transaction):
            changed = transaction.execute(row.values(token=token.value)).rowcount
        if not changed:
            self.admit(connection, token)

    def newest(self, connection: Where, election: str) -> FencingToken | None:
        """The highest token admitted in an election, as this transaction sees it; None if there was none."""
        check_election(election)
        transaction = connection_of(connection, "newest")
        with translated("newest", self.table, transaction):
            return self._newest(transaction, election)

    def bind(self, engine: Engine | AsyncEngine, *, timeout: float = ADMIT_SECONDS) -> Fence:
        """A plain `Fence`, for `LeaderElector(fences=[...])`: each `admit` is a transaction of its own.

        While the row is locked or the database cannot be reached it tries again for about `timeout` seconds, then
        raises `Unavailable`. An async engine is used on the event loop on which `bind` is called; `admit` waits for it
        on another thread, as electors do.
        """
        check_seconds(timeout, "timeout")
        if isinstance(engine, Engine):
            family(engine.dialect)
            return BoundFence(self, engine, timeout)
        if isinstance(getattr(engine, "sync_engine", None), Engine):
            family(engine.dialect)
            return BoundToLoop(self, engine, timeout)
        raise ConfigError(f"bind takes a SQLAlchemy Engine or AsyncEngine, not {type(engine).__name__}")

    def _create_by(self, engine: Engine) -> None:
        with connecting(self.table, engine):
            connection = engine.connect()
        with connection, translated("create", self.table, engine), connection.begin():
            self._create(connection)

    def _create(self, connection: Connection) -> None:
        family(connection.dialect)
        with translated("create", self.table, connection):
            connection.execute(CreateTable(self.table, if_not_exists=True))

    def _admitted(self, connection: Connection, token: FencingToken) -> FencingToken | None:
        """Store the token if it is not stale; else the newest, as it is now."""
        kind = family(connection.dialect)
        offered = {"election": token.election, "token": token.value}
        if kind != "mysql":
            if connection.execute(self._offers[kind], offered).first() is not None:
                return None
            newest = self._newest(connection, token.election)
            taken = newest is not None and newest > token
        else:
            newest = self._told(connection, token.election, self._offered_to_mysql(connection, offered))
            taken = newest is not None and newest >= token
        if not taken:
            raise Misconfigured(
                f"the table {self.table.name!r} has not taken {token} and has no newer one: "
                "look for a trigger, a rule or a policy of rows",
                backend=connection.dialect.name,
                operation="admit",
            )
        return None if newest == token else newest

    def _offered_to_mysql(self, connection: Connection, offered: dict[str, object]) -> object:
        """What is in the row after an upsert that leaves the higher token in it, past any snapshot."""
        if connection.dialect.insert_returning:  # MariaDB
            return connection.execute(self._offer_of_mariadb, offered).scalar()
        connection.execute(self._offers["mysql"], offered)
        # A read without a lock would be told by a snapshot.
        return connection.execute(self._row.with_for_update(), {"election": offered["election"]}).scalar()

    def _newest(self, connection: Connection, election: str) -> FencingToken | None:
        return self._told(connection, election, connection.execute(self._row, {"election": election}).scalar())

    def _told(self, connection: Connection, election: str, value: object) -> FencingToken | None:
        try:
            return None if value is None else FencingToken(election, value)  # type: ignore[arg-type]
        except ConfigError as error:
            raise Misconfigured(
                f"the table {self.table.name!r} holds no token for {election!r}: {error}",
                backend=connection.dialect.name,
            ) from error

    def __repr__(self) -> str:
        return f"<SQLFence {self.table.name!r}>"
