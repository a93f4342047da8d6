"""Questions to a SQL fence, each about one of its rules, for processes that may run it without that rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, create_engine

from coordkit import CoordkitError, FencingToken, StaleToken
from coordkit.fencing import SQLFence, fenced_update
from tests.support.children import say
from tests.support.sql import LEDGER

FENCE = SQLFence()


def ask(question: str, database: str) -> None:
    """Says whether the rule was kept."""
    engine = create_engine(database)
    if question == "snapshot of mysql":
        engine.connect().close()  # it asks what the server can do
        engine.dialect.insert_returning = False
    FENCE.create(engine)
    say("kept" if QUESTIONS[question](engine) else "broken")


def admit(connection: Any, value: int, election: str = "e") -> None:
    FENCE.admit(connection, FencingToken(election, value))


def refused(act: Callable[[], object], kind: type[CoordkitError] = StaleToken) -> bool:
    try:
        act()
    except CoordkitError as error:  # another one is no refusal either
        return isinstance(error, kind)
    return False


def stale(engine: Engine) -> bool:
    """A lower token is refused."""
    with engine.begin() as connection:
        admit(connection, 5)
        return refused(lambda: admit(connection, 4))


def letters(engine: Engine) -> bool:
    """Elections are told apart by each byte."""
    with engine.begin() as connection:
        admit(connection, 5, "e")
        return not any(refused(lambda name=name: admit(connection, 1, name)) for name in ("E", "é", "e "))


def autocommit(engine: Engine) -> bool:
    """Where nothing is atomic nothing is admitted without a word."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return refused(lambda: admit(connection, 5), CoordkitError)


def snapshot(engine: Engine) -> bool:
    """What a transaction has read before does not hide a newer token."""
    with engine.begin() as connection:
        admit(connection, 5)
    with engine.connect() as old:
        FENCE.newest(old, "e")
        with engine.begin() as connection:
            admit(connection, 9)
        return refused(lambda: admit(old, 8))


def row(engine: Engine) -> bool:
    """A row of the caller's keeps its newer token."""
    with engine.begin() as connection:
        connection.execute(LEDGER.insert().values(id=1, token=5))

        def update(value: int) -> None:
            token = FencingToken("e", value)
            fenced_update(connection, LEDGER, token, key={"id": 1}, values={"writer": "w"})

        update(5)
        return refused(lambda: update(4))


QUESTIONS: dict[str, Callable[[Engine], bool]] = {
    "stale": stale,
    "letters": letters,
    "autocommit": autocommit,
    "snapshot of mysql": snapshot,
    "row": row,
}
