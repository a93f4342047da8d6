"""What a SQL fence costs: one statement in each transaction, and little time."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, event

from coordkit import StaleToken
from tests.bench_sql import a_read_and_two_writes, price
from tests.support.sql import FENCE, Store, token

MOST = 2.0  # where much else runs; for a quiet machine see docs/fencing-sql.md


def test_an_admission_is_one_statement(sql_store: Store) -> None:
    engine = sql_store.connect()
    statements: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    for value in (5, 5, 6):
        with engine.begin() as connection:
            FENCE.admit(connection, token(value))
    assert statements == ["INSERT"] * 3
    statements.clear()
    with pytest.raises(StaleToken), engine.begin() as connection:
        FENCE.admit(connection, token(4))
    assert statements == (["INSERT"] if sql_store.backend == "mariadb" else ["INSERT", "SELECT"])


def test_a_fenced_transaction_takes_little_longer(sql_store: Store) -> None:
    told = price(sql_store.connect(), a_read_and_two_writes, samples=150)
    assert told["ratio"] < MOST, told
