"""A token column in the caller's own table: an UPDATE of one row that an older leader's does not undo.

The rule: the comparison is part of the UPDATE. What comes after it only tells why nothing was changed, of the row as it
is, locked, never as a snapshot remembers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Table, and_, or_, select, update
from sqlalchemy.exc import NoResultFound

from coordkit.errors import ConfigError, Misconfigured, StaleToken, Unavailable
from coordkit.fencing.sql_door import Where, connection_of, translated
from coordkit.model import FencingToken, check_token

TRIES = 3  # between the two statements somebody may make the row, where each is committed by itself


def fenced_update(
    connection: Where,
    table: Table,
    token: FencingToken,
    *,
    key: Mapping[str, Any],
    values: Mapping[str, Any],
    column: str = "token",
) -> None:
    """Set `values` in the row with this primary key, and `token` in its column, unless a newer token is there.

        fenced_update(connection, reports, term.token, key={"id": 7}, values={"state": "sent"})

    One statement where it is admitted. It needs no table of a fence and no transaction, though it takes part in yours.
    Raises `StaleToken` if the row has a newer token, SQLAlchemy's `NoResultFound` if there is no such row,
    `Unavailable` as `SQLFence.admit` does, and what SQLAlchemy raises where the values break a constraint; then nothing
    was changed. A row whose token is NULL takes any. Values may be expressions: `{"total": reports.c.total + 1}` has no
    gap between reading and writing. Of a mapped class: `Model.__table__`; objects that a session has loaded already do
    not see the change until they are refreshed. With an async connection or session:
    `await connection.run_sync(fenced_update, reports, token, key=..., values=...)`.

    The danger: a row knows only of those who have written to it. What the new leader has not touched yet, the old one
    still may; where it must write nothing at all any more, use `SQLFence`. Tokens of one election alone may stand in
    the column: it does not tell whose they are. Rows that are inserted or deleted are not covered.
    """
    check_token(token)
    at, guard = _row(table, key), _guard(table, column, values)
    chosen = connection_of(connection, "fenced_update")
    admitted = or_(guard.is_(None), guard <= token.value)
    statement = update(table).where(at, admitted).values({**values, column: token.value})
    with translated("fenced_update", table, chosen, theirs=True):
        for _ in range(TRIES):
            if chosen.execute(statement).rowcount > 0:  # SQLAlchemy has all drivers count the rows that were found
                return
            found = chosen.execute(select(guard).where(at).with_for_update()).first()
            if found is None:
                raise NoResultFound(f"no row of {table.name!r} has the key {dict(key)!r}")
            newest = _token_of(token.election, found[0], table, column, chosen)
            if newest is not None and newest > token:
                raise StaleToken(token, newest)
    raise Unavailable(
        f"fenced_update in {table.name!r}: the row comes and goes; roll back and start again",
        backend=chosen.dialect.name,
        operation="fenced_update",
    )


def _row(table: Table, key: Mapping[str, Any]) -> ColumnElement[bool]:
    if not isinstance(cast(object, table), Table):
        raise ConfigError(f"fenced_update takes a SQLAlchemy Table, not {type(table).__name__}")
    wanted = {column.name for column in table.primary_key}
    if not wanted or set(key) != wanted:
        raise ConfigError(f"key names the primary key of {table.name!r}: {', '.join(sorted(wanted)) or 'it has none'}")
    return and_(*(table.c[name] == value for name, value in key.items()))


def _guard(table: Table, column: str, values: Mapping[str, Any]) -> ColumnElement[Any]:
    if column not in table.c or column in table.primary_key or column in values:
        raise ConfigError(
            f"column names the one of {table.name!r} for tokens alone, neither of its key nor of the values: {column!r}"
        )
    return table.c[column]


def _token_of(election: str, value: object, table: Table, column: str, connection: Connection) -> FencingToken | None:
    try:
        return None if value is None else FencingToken(election, value)  # type: ignore[arg-type]
    except ConfigError as error:
        raise Misconfigured(
            f"the column {column!r} of {table.name!r} holds no token: {error}",
            backend=connection.dialect.name,
            operation="fenced_update",
        ) from error
