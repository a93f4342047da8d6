"""Databases for the tests: what any of them can be asked, be it a process or a container.

The rule: what a test learns of a database beside coordkit it learns by a plain client of its own. A cluster of one
member: it is ready when it answers a query.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from sqlalchemy import URL

from tests.servers.cluster import Cluster, Member, View

D = TypeVar("D", bound=Member)
VIEW_SECONDS = 1
USER = DATABASE = "coordkit"
# Who may enter, and write nothing.
GUEST = "guest"


class Database(Cluster[D]):
    """One server with the database `coordkit`, that a user of this name may do anything with. `close` leaves it."""

    backend: ClassVar[str]
    drivers: ClassVar[Mapping[str, str]]  # the kind of driver, "sync" and "async" among them -> SQLAlchemy's name

    @property
    def member(self) -> D:  # type: ignore[override]
        """The server."""
        return self.members[0]

    def url(self, driver: str = "sync", *, user: str = USER, database: str = DATABASE, **query: str) -> str:
        """For SQLAlchemy. `driver`: of `drivers`."""
        server = self.member
        made = URL.create(self.drivers[driver], user, None, server.host, server.port, database, query)
        return made.render_as_string(hide_password=False)

    @abstractmethod
    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """What the server's own administrator is told, or has done, outside any transaction."""

    @abstractmethod
    def waiting(self) -> int:
        """How many sessions wait for a lock."""

    def view(self, member: D) -> View | None:
        try:
            return View("", 0) if self.ask("SELECT 1") else None
        except self.silence():
            return None

    @abstractmethod
    def silence(self) -> type[Exception]:
        """What a client raises when nobody answers."""
