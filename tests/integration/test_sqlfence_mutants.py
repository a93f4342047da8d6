"""Each safety rule of SQL fences, patched out of the shipped source: a question sees that it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.sqlfence_mutant_scenes import ask
from tests.support.children import Child
from tests.support.patched import Patch, patched
from tests.support.sql import FENCE, Store

NO_COMPARISON = (
    "fencing/sql.py",
    "where=offer.excluded.token >= self.table.c.token,",
    "where=offer.excluded.token > 0,",
)
THE_LAST_WINS = (
    "fencing/sql.py",
    "token=func.greatest(token, offer.inserted.token)",
    "token=offer.inserted.token",
)
LETTERS_OF_THE_DATABASE = (
    "fencing/sql.py",
    "return dialect.type_descriptor(mysql.VARBINARY(MAX_ELECTION_BYTES))",
    "return dialect.type_descriptor(String(MAX_ELECTION_BYTES))",
)
BELIEVES_A_SNAPSHOT = (
    "fencing/sql.py",
    "self._row.with_for_update()",
    "self._row",
)
TAKES_AUTOCOMMIT = ("fencing/sql.py", "        require_transaction(transaction)\n", "")
ANY_ROW = (
    "fencing/sql_update.py",
    "or_(guard.is_(None), guard <= token.value)",
    "or_(guard.is_(None), guard > 0)",
)


@pytest.mark.parametrize(
    ("sql_store", "question", "mutant"),
    [
        ("sqlite", "stale", NO_COMPARISON),
        ("postgresql", "stale", NO_COMPARISON),
        ("mariadb", "stale", THE_LAST_WINS),
        ("mariadb", "letters", LETTERS_OF_THE_DATABASE),
        ("mariadb", "snapshot of mysql", BELIEVES_A_SNAPSHOT),
        ("sqlite", "autocommit", TAKES_AUTOCOMMIT),
        ("postgresql", "autocommit", TAKES_AUTOCOMMIT),
        ("mariadb", "autocommit", TAKES_AUTOCOMMIT),
        ("sqlite", "row", ANY_ROW),
        ("postgresql", "row", ANY_ROW),
        ("mariadb", "row", ANY_ROW),
    ],
    indirect=["sql_store"],
    ids=lambda value: None if isinstance(value, str) else "mutant",
)
def test_a_rule_that_is_gone_is_missed(sql_store: Store, question: str, mutant: Patch, tmp_path: Path) -> None:
    for wanted, environment in (("kept", {}), ("broken", patched(tmp_path / "mutant", mutant))):
        FENCE.table.drop(sql_store.connect())
        with Child(ask, question, sql_store.urls["sync"], env=environment) as child:
            assert child.line() == wanted
            assert child.exit_code() == 0
        with sql_store.connect().begin() as connection:
            connection.exec_driver_sql("DELETE FROM ledger")
