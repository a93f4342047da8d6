"""A real MariaDB for the tests.

The rule: what was committed survives any end of the server's process, not one of the machine: each commit is given to
the operating system, the disk has it a second later. The durable settings are for measurements.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql

from tests.servers.databases import DATABASE, GUEST, USER, VIEW_SECONDS, D, Database
from tests.servers.fetch import Program, program
from tests.servers.links import Links
from tests.servers.local import LocalMember
from tests.servers.ports import Port
from tests.servers.processes import spawn
from tests.servers.unprivileged import Place

SETUP_SECONDS = 60.0
ADMINISTRATOR = "harness"
TABLES = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
# The users' database has a collation that confuses letters, as MariaDB's own does; a fence must not mind.
DATABASE_WORDS = f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
FIRST_WORDS = (
    DATABASE_WORDS,
    *(f"CREATE USER IF NOT EXISTS '{user}'@'%'" for user in (ADMINISTRATOR, USER, GUEST)),
    f"GRANT ALL ON *.* TO '{ADMINISTRATOR}'@'%'",
    f"GRANT ALL ON {DATABASE}.* TO '{USER}'@'%'",
    f"GRANT SELECT ON {DATABASE}.* TO '{GUEST}'@'%'",
)
NO_SUCH_THREAD = 1094
FLAGS = (
    "--skip-name-resolve",
    "--performance-schema=off",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--innodb-log-buffer-size=2M",
    "--innodb-fast-shutdown=2",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--max-connections=60",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_general_ci",
    "--loose-innodb-snapshot-isolation=OFF",  # the same in all versions; tests that want it ask for it
)
NOT_DURABLE = ("--innodb-flush-log-at-trx-commit=2",)


class MariaDB(Database[D]):
    """All that needs no more than the member's address."""

    backend = "mariadb"
    drivers = {"sync": "mysql+pymysql", "mariadb": "mariadb+pymysql", "async": "mysql+asyncmy"}

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return self._asked(query)[0]

    def clear(self) -> None:
        others = "id <> CONNECTION_ID() AND command NOT IN ('Daemon', 'Killed')"
        connected = self.ask(f"SELECT id FROM information_schema.processlist WHERE {others}")
        self._asked(
            *(f"KILL CONNECTION {number}" for (number,) in connected),
            f"DROP DATABASE IF EXISTS {DATABASE}",
            DATABASE_WORDS,
        )

    def silence(self) -> type[Exception]:
        return pymysql.OperationalError

    def waiting(self) -> int:
        # Unlike the table of transactions, which is not renewed while it is read again and again.
        return int(self.ask("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")[0][1])

    def _asked(self, *queries: str) -> list[list[tuple[Any, ...]]]:
        connection = pymysql.connect(
            host=self.member.host,
            port=self.member.port,
            user=ADMINISTRATOR,
            connect_timeout=VIEW_SECONDS,
            read_timeout=VIEW_SECONDS,
            autocommit=True,
        )
        answers = []
        with connection, connection.cursor() as cursor:
            for query in queries:
                try:
                    cursor.execute(query)
                except pymysql.OperationalError as error:
                    if error.args[0] != NO_SUCH_THREAD:
                        raise
                answers.append(list(cursor.fetchall()))
        return answers


class MariaDBServer(MariaDB[LocalMember]):
    """A local server, whose data are in a folder of their own and whose log is under `folder`.

    `durable`: commits wait for the disk. `flags` are added to the server's.
    """

    def __init__(self, folder: Path, *, durable: bool = False, flags: Sequence[str] = ()) -> None:
        self._place = Place("mariadb")
        self._links = Links()
        self._port = Port()
        found = program("mariadbd")
        host = "127.0.0.1"
        data, words = self._place.folder / "data", self._place.folder / "first-words.sql"
        words.write_text("".join(f"{word};\n" for word in FIRST_WORDS), encoding="utf-8")
        self._share = _share(self._place.reachable(found))
        self._common = (
            *("--no-defaults", f"--datadir={data}", f"--lc-messages-dir={self._share}"),
            *(f"--character-sets-dir={self._share / 'charsets'}", f"--plugin-dir={self._place.folder}"),
            *("--tmpdir", str(self._place.folder)),
        )
        own = (f"--bind-address={host}", f"--port={self._port.number}", f"--socket={self._place.folder / 'socket'}")
        settings = (*FLAGS, *(() if durable else NOT_DURABLE), f"--init-file={words}", *flags)
        command = self._place.command(found, *self._common, *own, *settings)
        server = LocalMember("mariadb", host, self._port, folder / "mariadb", command, self._links)
        server.data = data
        self._bootstrap = self._place.command(found, *self._common, "--bootstrap", "--innodb-log-file-size=8M")
        super().__init__([server])

    def start(self) -> None:
        if not self.member.data.exists():
            self._make_system_tables()
        super().start()

    def _make_system_tables(self) -> None:
        self.member.data.mkdir()
        self._place.give(self.member.data)
        with tempfile.TemporaryFile() as script, open(self.member.log, "ab") as output:
            script.write(b"CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n")
            for name in TABLES:
                script.write((self._share / name).read_bytes())
            script.seek(0)
            process = spawn(self._bootstrap, stdin=script, stdout=output)
            try:
                status = process.wait(SETUP_SECONDS)
            finally:
                process.kill()
                process.wait()
        if status != 0:
            raise RuntimeError(f"mariadbd --bootstrap failed:\n{self.member.last_words()}")

    def close(self) -> None:
        """End it at once; its log stays in the folder."""
        self.member.kill()
        self._links.close()
        self._port.close()
        self._place.close()


def _share(found: Program) -> Path:
    """Where its messages and scripts are: beside the program, in the machine's tree or in one of our own."""
    root = found.path.absolute().parents[1]
    share = next((share for share in (root / "share/mysql", root / "share/mariadb") if share.is_dir()), None)
    if share is None:
        raise FileNotFoundError(f"no share/mysql in {root}")
    return share
