"""The SQL fence in the database at a URL, for an operator.

The rule: nothing is made there. A database that does not exist is a mistake, a missing table is told.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from coordkit.errors import ConfigError
from coordkit.fencing.sql import SQLFence
from coordkit.fencing.sql_bound import BoundFence
from coordkit.fencing.sql_door import family


def fence_at(url: str, place: str | None, timeout: float, stack: ExitStack) -> BoundFence:
    """The fence that an operator means by a URL: see `stored`."""
    try:
        engine = create_engine(url)
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ConfigError("a fence is at a URL of its store; this is none of SQLAlchemy's either") from None
    stack.callback(engine.dispose)
    file = engine.url.database
    if family(engine.dialect) == "sqlite" and not (file and os.path.isfile(file)):  # a mistake would make an empty one
        raise ConfigError(
            f"there is no database {file!r}; an absolute path has four slashes: sqlite:////var/lib/app.db"
        )
    if engine.dialect.is_async:
        raise ConfigError(
            f"{engine.dialect.driver} is a driver for asyncio: name another, such as postgresql+psycopg://"
        )
    return BoundFence(SQLFence() if place is None else SQLFence(table=place), engine, timeout)
