"""What a SQL fence costs: `python -m tests.bench_sql [--json] [--quick]`.

The rule: a fenced and an unfenced transaction alternate, on one connection, so that whatever else the machine does
meets both; only medians and ratios are told. The servers wait for the disk, as they do in production; each transaction
reads a row and writes two, or writes one alone, which is the least that can be fenced.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, func, select

from coordkit import FencingToken
from coordkit.fencing import SQLFence
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgresql import PostgreSQLServer
from tests.support.pricing import Price, Prices, alternated, told
from tests.support.sql import LEDGER

FENCE, TOKEN = SQLFence(), FencingToken("bench", 7)


def one_write(connection: Connection) -> None:
    """The least."""
    connection.execute(LEDGER.insert().values(token=7, writer="bench"))


def a_read_and_two_writes(connection: Connection) -> None:
    """What a small application does."""
    last = connection.execute(select(func.max(LEDGER.c.id))).scalar()
    connection.execute(LEDGER.insert().values(token=7, writer="bench"))
    connection.execute(LEDGER.update().where(LEDGER.c.id == last).values(writer="again"))


WORK: dict[str, Callable[[Connection], None]] = {
    "one write": one_write,
    "a read and two writes": a_read_and_two_writes,
}


def price(engine: Engine, work: Callable[[Connection], None], samples: int) -> Price:
    """What the fence adds to a transaction."""
    with engine.connect() as connection:

        def bare() -> None:
            with connection.begin():
                work(connection)

        def fenced() -> None:
            with connection.begin():
                FENCE.admit(connection, TOKEN)
                work(connection)

        return alternated(bare, fenced, samples)


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, str]]:
    """URLs of one of each, whose commits wait for the disk."""
    with (
        PostgreSQLServer(folder / "postgresql", durable=True) as postgresql,
        MariaDBServer(folder / "mariadb", durable=True) as mariadb,
    ):
        yield {
            "postgresql": postgresql.url(),
            "mariadb": mariadb.url(),
            "sqlite": f"sqlite:///{folder}/ledger.db",
        }


def measured(samples: int) -> Prices:
    """Of each database, of each work."""
    found: Prices = {}
    with tempfile.TemporaryDirectory() as place, databases(Path(place)) as urls:
        for name, url in urls.items():
            engine = create_engine(url)
            if name == "sqlite":
                event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))
            LEDGER.create(engine)
            FENCE.create(engine)
            found[name] = {kind: price(engine, work, samples) for kind, work in WORK.items()}
            engine.dispose()
    return found


if __name__ == "__main__":
    sys.exit(told("python -m tests.bench_sql", measured, sys.argv[1:]))
