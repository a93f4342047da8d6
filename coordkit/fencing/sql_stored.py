"""The SQL fence in the database at a URL, for an operator.

The rule: nothing is made there. A database that does not exist is a mistake, a missing table is told.
"""

from __future__ import annotations

import os
import warnings
from contextlib import ExitStack

from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SAWarning

from coordkit.errors import ConfigError
from coordkit.fencing.sql import SQLFence
from coordkit.fencing.sql_bound import BoundFence
from coordkit.fencing.sql_door import connecting, family


def fence_at(url: str, place: str | None, timeout: float, stack: ExitStack) -> BoundFence:
    """The fence that an operator means by a URL: see `stored`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SAWarning)  # of an option that would be ignored
            engine = create_engine(url)
    except SAWarning:
        raise ConfigError("the driver does not take all options of this URL") from None
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
    parts = [engine.url.host, *engine.url.query, *engine.url.query.values()]
    if family(engine.dialect) != "sqlite":
        parts.append(engine.url.database)
    if any("@" in str(part) for part in parts):  # what looks like a host may be the end of a password
        raise ConfigError("a '@' in a user name or a password is written %40, and a '/' is written %2F")
    fence = SQLFence() if place is None else SQLFence(table=place)
    with connecting(fence.table, engine):
        try:
            engine.connect().close()
        except TypeError:
            if not engine.url.query:
                raise
            told = ", ".join(sorted(engine.url.query))
            raise ConfigError(f"{engine.dialect.driver} does not take these options of the URL: {told}") from None
    return BoundFence(fence, engine, timeout)
