"""A database with a ledger and a fence, on each that fences serve: what their tests write to and read back.

The rule: every row of the ledger tells under which token it was written, in the order in which rows were committed as
far as one election is concerned, for its writers follow each other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    select,
    text,
)
from sqlalchemy.pool import NullPool

from coordkit import FencingToken
from coordkit.fencing import SQLFence
from tests.servers.cluster import POLL_SECONDS
from tests.servers.databases import Database

BACKENDS = ("sqlite", "postgresql", "mariadb")
LEDGER = Table(
    "ledger",
    MetaData(),
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("token", BigInteger),
    Column("writer", String(100)),
    mysql_engine="InnoDB",
)
FENCE = SQLFence()


def token(value: int, election: str = "e") -> FencingToken:
    return FencingToken(election, value)


@dataclass
class Store:
    """One database, by the URLs that its drivers take; engines are disposed of in the end."""

    backend: str
    urls: dict[str, str]
    server: Database[Any] | None = None
    _engines: ExitStack = field(default_factory=ExitStack)

    def connect(self, driver: str = "sync", *, wait: float = 20, **options: Any) -> Engine:
        """An engine with SQLAlchemy's and the driver's defaults, but for how long a statement waits for a lock."""
        engine = create_engine(self.urls[driver], connect_args=self.waiting(wait), **options)
        self._engines.callback(engine.dispose)
        return engine

    def waiting(self, seconds: float) -> dict[str, Any]:
        """Arguments by which a driver makes its statements wait for locks so long; MariaDB counts whole seconds."""
        match self.backend:
            case "postgresql":
                return {"options": f"-c lock_timeout={int(seconds * 1000)}"}
            case "mariadb":
                return {"init_command": f"SET SESSION innodb_lock_wait_timeout = {int(seconds)}"}
            case _:
                return {"timeout": seconds}

    def until_waiting(self, sessions: int) -> None:
        """Return when so many sessions wait for a lock, by the server's own word."""
        assert self.server is not None
        deadline = time.monotonic() + 20
        while self.server.waiting() < sessions:
            assert time.monotonic() < deadline, f"not {sessions} sessions wait for a lock"
            time.sleep(POLL_SECONDS)

    @contextmanager
    def made(self) -> Iterator[Store]:
        with self._engines:
            yield self


@pytest.fixture(params=BACKENDS)
def sql_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """The database of each backend, with an empty ledger and a fence."""
    backend = request.param
    if backend == "sqlite":
        path = tmp_path / "ledger.db"
        urls = {"sync": f"sqlite:///{path}", "async": f"sqlite+aiosqlite:///{path}"}
        chosen = Store(backend, urls)
    else:
        server: Database[Any] = request.getfixturevalue(backend)
        chosen = Store(backend, {driver: server.url(driver) for driver in server.drivers}, server)
    with chosen.made():
        engine = chosen.connect(poolclass=NullPool)
        if backend == "sqlite":
            with engine.connect() as connection:
                connection.execute(text("PRAGMA journal_mode=WAL"))
        LEDGER.create(engine)
        FENCE.create(engine)
        yield chosen


def write(connection: Connection, value: int, writer: str = "w", election: str = "e") -> None:
    """What a careful leader does."""
    FENCE.admit(connection, token(value, election))
    connection.execute(LEDGER.insert().values(token=value, writer=writer))


def written(engine: Engine) -> list[int]:
    """The tokens of all rows, in the order in which they were written."""
    with engine.connect() as connection:
        return list(connection.execute(select(LEDGER.c.token).order_by(LEDGER.c.id)).scalars())


def newest(engine: Engine, election: str = "e") -> FencingToken | None:
    """What the fence has seen."""
    with engine.connect() as connection:
        return FENCE.newest(connection, election)
