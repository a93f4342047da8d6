"""The ledger of the demo: a table in an SQLite file, which refuses what a stale leader writes.

The rule: every write is one transaction with the admission of its author's token.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, create_engine, select

from coordkit.fencing.recorded import recorded
from coordkit.fencing.sql import SQLFence
from coordkit.model import Fence, FencingToken


@dataclass(frozen=True, slots=True)
class Row:
    """One accepted write."""

    number: int
    token: int
    writer: str


class Ledger:
    """The ledger in a file. One for each process that writes or reads it."""

    def __init__(self, path: str) -> None:
        self._engine = create_engine(f"sqlite:///{path}")
        self._fence = SQLFence()
        self._rows = Table(
            "ledger",
            MetaData(),
            Column("number", Integer, primary_key=True),
            Column("token", BigInteger, nullable=False),
            Column("writer", String, nullable=False),
        )

    @property
    def fence(self) -> Fence:
        """The ledger's fence, to be shown the token of a leader before it begins."""
        return self._fence.bind(self._engine)

    def create(self) -> None:
        """Make the tables."""
        self._fence.create(self._engine)
        self._rows.create(self._engine)

    def write(self, token: FencingToken, writer: str) -> int:
        """Add a row under a token and return its number; `StaleToken` if a newer leader has been here."""
        with recorded(token, "ledger"), self._engine.begin() as connection:
            self._fence.admit(connection, token)
            row = self._rows.insert().values(token=int(token), writer=writer).returning(self._rows.c.number)
            return int(connection.execute(row).scalar_one())

    def rows(self) -> list[Row]:
        """All accepted writes in their order."""
        with self._engine.connect() as connection:
            found = connection.execute(select(self._rows).order_by(self._rows.c.number))
            return [Row(number, token, writer) for number, token, writer in found]

    def newest(self, election: str) -> FencingToken | None:
        """The highest token that the fence has admitted."""
        with self._engine.connect() as connection:
            return self._fence.newest(connection, election)

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()
