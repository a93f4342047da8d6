"""A real PostgreSQL for the tests.

The rule: what was committed survives any end of the server's processes, not one of the machine: the operating system
has it, nobody waits for the disk (`fsync=off`). The durable settings are for measurements.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.cluster import POLL_SECONDS
from tests.servers.databases import DATABASE, GUEST, USER, VIEW_SECONDS, D, Database
from tests.servers.fetch import program
from tests.servers.links import Links
from tests.servers.local import LocalMember
from tests.servers.ports import Port
from tests.servers.processes import STOP_SECONDS, Command, spawn
from tests.servers.unprivileged import Place

SETUP_SECONDS = 60.0
ADMINISTRATOR = "postgres"
FLAGS = (
    *("-c", "unix_socket_directories="),
    *("-c", "shared_buffers=16MB"),
    *("-c", "max_connections=60"),
    *("-c", "autovacuum=off"),
    *("-c", "log_checkpoints=off"),
    *("-c", "lc_messages=C"),
)
NOT_DURABLE = ("-c", "fsync=off")
INITDB_FLAGS = (*("-U", ADMINISTRATOR), *("-A", "trust"), *("-E", "UTF8"), "--locale=C", "--no-sync")
FIRST_WORDS = (
    f"CREATE ROLE {USER} LOGIN",
    f"CREATE ROLE {GUEST} LOGIN",
    f"CREATE DATABASE {DATABASE} OWNER {USER}",
)


class PostgreSQL(Database[D]):
    """All that needs no more than the member's address."""

    backend = "postgresql"
    drivers = {"sync": "postgresql+psycopg", "async": "postgresql+psycopg", "asyncpg": "postgresql+asyncpg"}

    def ask(self, query: str, database: str = DATABASE) -> list[tuple[Any, ...]]:
        with psycopg.connect(
            host=self.member.host,
            port=self.member.port,
            user=ADMINISTRATOR,
            dbname=database,
            connect_timeout=VIEW_SECONDS,
            options=f"-c statement_timeout={VIEW_SECONDS}s",
            autocommit=True,
        ) as connection:
            answer = connection.execute(query)  # type: ignore[arg-type]
            return answer.fetchall() if answer.description else []

    def silence(self) -> type[Exception]:
        return psycopg.OperationalError

    def clear(self) -> None:
        sessions = f"FROM pg_stat_activity WHERE usename IN ('{USER}', '{GUEST}')"
        self.ask(f"SELECT pg_terminate_backend(pid) {sessions}")
        self.ask("DROP SCHEMA public CASCADE")
        self.ask(f"CREATE SCHEMA public AUTHORIZATION {USER}")
        self.ask(f"GRANT USAGE ON SCHEMA public TO {GUEST}")

    def waiting(self) -> int:
        """How many sessions wait for a lock."""
        return int(self.ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")[0][0])

    def open_transactions(self) -> int:
        """How many sessions have a transaction open and say nothing."""
        asked = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        return int(self.ask(asked)[0][0])


class LocalPostgreSQL(LocalMember):
    """The server's processes: each has a session of its own, so signals are sent to one by one."""

    def _signal(self, number: signal.Signals) -> None:
        if number is signal.SIGTERM:  # which would wait for all clients to leave
            os.kill(self.pid, signal.SIGINT)
            return
        os.kill(self.pid, signal.SIGSTOP if number is signal.SIGKILL else number)  # it starts no more of them
        others = children(self.pid)
        for child in others:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        if number is signal.SIGKILL:
            os.kill(self.pid, number)
            deadline = time.monotonic() + STOP_SECONDS
            while any(_alive(child) for child in others):  # a new server refuses to start beside them
                if time.monotonic() > deadline:
                    raise TimeoutError(f"processes of {self.name} do not end")
                time.sleep(POLL_SECONDS)


class PostgreSQLServer(PostgreSQL[LocalPostgreSQL]):
    """A local server, whose data are in a folder of their own and whose log is under `folder`.

    `durable`: commits wait for the disk. `flags` are added to the server's.
    """

    def __init__(self, folder: Path, *, durable: bool = False, flags: Sequence[str] = ()) -> None:
        postgres, initdb = program("postgres"), program("initdb")
        self._place = Place("postgresql")
        self._links = Links()
        self._port = Port()
        host = "127.0.0.1"
        data = self._place.folder / "data"
        settings = [*FLAGS, *(() if durable else NOT_DURABLE), *flags]
        own = ["-D", str(data), "-h", host, "-p", str(self._port.number)]
        command = self._place.command(postgres, *own, *settings)
        server = LocalPostgreSQL("postgresql", host, self._port, folder / "postgresql", command, self._links)
        server.data = data
        self._initdb = self._place.command(
            initdb,
            *("-D", str(data)),
            *INITDB_FLAGS,
        )
        super().__init__([server])

    def start(self) -> None:
        if self.member.data.exists():
            super().start()
            return
        _finish(self._initdb, self.member.log)
        super().start()
        if self._answers():
            for word in FIRST_WORDS:
                self.ask(word, ADMINISTRATOR)

    def _answers(self) -> bool:
        """Wait for it; False if it has ended, which is for `ready` to tell."""
        deadline = time.monotonic() + SETUP_SECONDS
        while self.member.running and time.monotonic() < deadline:
            try:
                self.ask("SELECT 1", ADMINISTRATOR)
                return True
            except psycopg.OperationalError:
                time.sleep(POLL_SECONDS)
        return False

    def close(self) -> None:
        """End it at once; its log stays in the folder."""
        self.member.kill()
        self._links.close()
        self._port.close()
        self._place.close()


def _finish(command: Command, log: Path) -> None:
    with open(log, "ab") as output:
        process = spawn(command, stdout=output)
        try:
            status = process.wait(SETUP_SECONDS)
        finally:
            process.kill()
            process.wait()
    if status != 0:
        raise RuntimeError(f"{command.arguments[0]} failed:\n{log.read_text(encoding='utf-8', errors='replace')}")


def children(pid: int) -> list[int]:
    """The processes that it has started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, task.read_text(encoding="ascii").split())
    return found


def _alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return False
