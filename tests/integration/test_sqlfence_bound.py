"""`SQLFence` bound to an engine, and in async transactions: on the databases and by the drivers of each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from coordkit import AsyncLeaderElector, ConfigError, LeaderElector, Misconfigured, StaleToken, Unavailable
from coordkit.fencing import SQLFence
from tests.support.sql import FENCE, LEDGER, Store, newest, token, write, written

ASYNC_DRIVERS = [("sqlite", "async"), ("postgresql", "async"), ("postgresql", "asyncpg"), ("mariadb", "async")]


@pytest.fixture
def store(sql_store: Store) -> Store:
    """SQLite, PostgreSQL or MariaDB."""
    return sql_store


@pytest.fixture
def engine(store: Store) -> Engine:
    """An engine with SQLAlchemy's and the driver's defaults; the tables exist."""
    return store.connect()


@asynccontextmanager
async def async_engine(url: str, **options: object) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(url, **options)
    try:
        yield made
    finally:
        await made.dispose()


# -- a plain engine --------------------------------------------------------------------------------------


def test_a_bound_fence_admits_in_a_transaction_of_its_own(engine: Engine) -> None:
    bound = FENCE.bind(engine)
    bound.admit(token(5))
    bound.admit(token(5))
    assert newest(engine) == token(5)
    with pytest.raises(StaleToken):
        bound.admit(token(4))


def test_a_bound_fence_waits_for_a_lock_and_gives_up_in_time(engine: Engine, store: Store) -> None:
    mine = store.connect(wait=20 if store.server else 0.01)
    let_go = threading.Event()

    @event.listens_for(mine, "handle_error")
    def count(context: object) -> None:
        let_go.set()

    with engine.connect() as holder:
        write(holder, 9)
        admitted = threading.Thread(target=FENCE.bind(mine, timeout=20).admit, args=[token(5)])
        admitted.start()
        store.until_waiting(1) if store.server else let_go.wait(20)
        holder.rollback()
        admitted.join(20)
    assert newest(engine) == token(5)

    with engine.begin() as holder, pytest.raises(Unavailable, match="roll back and start again"):
        write(holder, 9)
        FENCE.bind(mine, timeout=0.5).admit(token(6))
    assert newest(engine) == token(9)


def test_how_long_it_waits_stays_with_its_own_connection(store: Store) -> None:
    mine = store.connect(pool_size=1, max_overflow=0)
    asked = {
        "postgresql": "SHOW lock_timeout",
        "mariadb": "SELECT @@innodb_lock_wait_timeout",
        "sqlite": "PRAGMA busy_timeout",
    }[store.backend]
    with mine.connect() as connection:
        before = connection.exec_driver_sql(asked).scalar()
    FENCE.bind(mine, timeout=7).admit(token(1))
    with mine.connect() as connection:
        assert connection.exec_driver_sql(asked).scalar() == before


def test_a_pool_without_a_connection_is_unavailable(store: Store) -> None:
    small = store.connect(pool_size=1, max_overflow=0, pool_timeout=0.01)
    with small.connect(), pytest.raises(Unavailable):
        FENCE.bind(small, timeout=0.05).admit(token(1))


def test_a_leader_shows_its_token_before_its_body_begins(engine: Engine, tmp_path: Path) -> None:
    elector = LeaderElector(f"sqlite://{tmp_path}/election.db", "e", ttl=20, fences=[FENCE.bind(engine)])
    with elector.lead() as term:
        assert newest(engine) == term.token
        with engine.begin() as connection:
            FENCE.admit(connection, term.token)
    ahead = int(term.token) + 10**9
    with engine.begin() as connection:
        FENCE.admit(connection, token(ahead))
    with pytest.raises(StaleToken) as caught, elector.lead():
        pytest.fail("the body ran under a token that the resource refuses")
    assert int(caught.value.newest) == ahead
    assert elector.leader() is None  # the seat was given back
    elector.close()


@pytest.mark.parametrize("sql_store", ["postgresql", "mariadb"], indirect=True)
def test_a_server_that_is_down_and_comes_back(store: Store) -> None:
    assert store.server is not None
    server = store.server.member
    bound = FENCE.bind(store.connect(), timeout=20)
    bound.admit(token(5))
    server.kill()
    with pytest.raises(Unavailable, match="connect"):
        FENCE.bind(create_engine(store.urls["sync"]), timeout=0.3).admit(token(6))
    admitted = threading.Thread(target=bound.admit, args=[token(7)])
    admitted.start()
    store.server.heal()
    admitted.join(30)
    assert newest(store.connect()) == token(7)  # and what was committed before is there
    with pytest.raises(StaleToken):
        bound.admit(token(6))


# -- async -----------------------------------------------------------------------------------------------


def on_loop(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))  # type: ignore[arg-type]


@pytest.mark.parametrize(("sql_store", "driver"), ASYNC_DRIVERS, indirect=["sql_store"])
def test_async_connections_and_sessions_admit(engine: Engine, store: Store, driver: str) -> None:
    async def work() -> None:
        async with async_engine(store.urls[driver]) as mine:
            async with mine.begin() as connection:
                await connection.run_sync(FENCE.create)
                await connection.run_sync(FENCE.admit, token(5))
                await connection.execute(LEDGER.insert().values(token=5))
            async with AsyncSession(mine) as session, session.begin():
                await session.run_sync(FENCE.admit, token(6))
                await session.execute(LEDGER.insert().values(token=6))
                assert await session.run_sync(FENCE.newest, "e") == token(6)
            with pytest.raises(StaleToken):
                async with AsyncSession(mine) as session, session.begin():
                    await session.execute(LEDGER.insert().values(token=4))
                    await session.run_sync(FENCE.admit, token(4))
            with pytest.raises(Misconfigured, match=r"is missing: call fence\.create"):
                async with mine.begin() as connection:
                    await connection.run_sync(SQLFence(table="elsewhere").admit, token(1))
            async with mine.connect() as connection:
                with pytest.raises(ConfigError, match=r"run_sync\(fence\.admit"):
                    FENCE.admit(connection, token(7))  # type: ignore[arg-type]
        options = {"isolation_level": "AUTOCOMMIT"}
        async with async_engine(store.urls[driver], **options) as mine, mine.connect() as connection:
            with pytest.raises(ConfigError, match="autocommit"):
                await connection.run_sync(FENCE.admit, token(7))

    on_loop(work)
    assert written(engine) == [5, 6]


@pytest.mark.parametrize(("sql_store", "driver"), ASYNC_DRIVERS, indirect=["sql_store"])
def test_an_async_engine_is_bound_to_its_loop(engine: Engine, store: Store, driver: str, tmp_path: Path) -> None:
    async def work() -> None:
        options = {"connect_args": {"timeout": 0.05}} if store.backend == "sqlite" else {}
        async with async_engine(store.urls[driver], **options) as mine:
            bound = FENCE.bind(mine)
            url = f"sqlite://{tmp_path}/election.db"
            async with AsyncLeaderElector(url, "e", ttl=20, fences=[bound]).lead() as term:
                assert newest(engine) == term.token
                async with mine.begin() as connection:
                    await connection.run_sync(FENCE.admit, term.token)
                    await connection.execute(LEDGER.insert().values(token=term.token.value))
                with pytest.raises(StaleToken):
                    await asyncio.to_thread(bound.admit, token(term.token.value - 1))
            with pytest.raises(ConfigError, match="not on that loop itself"):
                bound.admit(term.token)
            with pytest.raises(Unavailable), engine.begin() as holder:
                write(holder, term.token.value)
                await asyncio.to_thread(FENCE.bind(mine, timeout=0.3).admit, term.token)
            kept.append(bound)

    kept: list[object] = []
    on_loop(work)
    assert len(written(engine)) == 1
    with pytest.raises(ConfigError, match="after its end"):
        kept[0].admit(token(1))  # type: ignore[attr-defined]


@pytest.mark.parametrize("sql_store", ["sqlite"], indirect=True)
def test_an_async_engine_is_bound_in_a_coroutine(store: Store) -> None:
    mine = create_async_engine(store.urls["async"])
    with pytest.raises(ConfigError, match="in a coroutine"):
        FENCE.bind(mine)


@pytest.mark.parametrize(("sql_store", "driver"), ASYNC_DRIVERS[1:], indirect=["sql_store"])
def test_an_async_engine_that_reaches_nobody_is_unavailable(store: Store, driver: str) -> None:
    assert store.server is not None
    store.server.member.kill()

    async def work() -> None:
        async with async_engine(store.urls[driver]) as mine:
            with pytest.raises(Unavailable):
                await asyncio.to_thread(FENCE.bind(mine, timeout=0.3).admit, token(1))

    on_loop(work)
