"""The harness's own databases: what is asked of them is done, by the servers' own word, and nothing is left."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import create_engine, text

from tests.servers import Program, unprivileged
from tests.servers.cluster import Cluster
from tests.servers.databases import Database
from tests.servers.local import LocalMember
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgresql import PostgreSQLServer, children
from tests.servers.unprivileged import NOBODY, Place, runner
from tests.support.local_clusters import ends_with_its_process, leaves_nothing, stays, tells_why_it_cannot_start

SERVERS: dict[str, Callable[..., Cluster[LocalMember]]] = {"postgresql": PostgreSQLServer, "mariadb": MariaDBServer}
BAD_FLAGS = {"postgresql": ["-c", "no_such_setting=1"], "mariadb": ["--no-such-setting"]}
TABLE = "ours"


@pytest.fixture(params=list(SERVERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(name: str, request: pytest.FixtureRequest) -> Database[Any]:
    server: Database[Any] = request.getfixturevalue(name)
    put(server, "CREATE TABLE ours (id INTEGER PRIMARY KEY)")
    return server


def put(server: Database[Any], *statements: str, user: str = "coordkit") -> None:
    engine = create_engine(server.url(user=user))
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()


def count(server: Database[Any]) -> int:
    engine = create_engine(server.url())
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM ours")).scalar_one())
    finally:
        engine.dispose()


def test_what_was_committed_survives_a_kill_a_stop_and_a_pause(database: Database[Any]) -> None:
    member = database.member
    for number, act in enumerate((member.kill, member.stop, member.restart)):
        put(database, f"INSERT INTO ours VALUES ({number})")
        act()
        database.heal()
        assert count(database) == number + 1
    member.pause()
    assert database.view(member) is None
    database.heal()
    assert count(database) == 3


def test_clear_ends_what_clients_have_open(database: Database[Any]) -> None:
    engine = create_engine(database.url())
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO ours VALUES (1)"))
        assert database.waiting() == 0
        database.clear()
        connection.invalidate()
    engine.dispose()
    put(database, "CREATE TABLE ours (id INTEGER PRIMARY KEY)")
    assert count(database) == 0


@pytest.mark.local_cluster  # MariaDB in a container knows no users
def test_the_guest_may_not_write(database: Database[Any]) -> None:
    with pytest.raises(Exception, match=r"denied") as caught:
        put(database, "INSERT INTO ours VALUES (1)", user="guest")
    assert isinstance(caught.value.orig, psycopg.errors.InsufficientPrivilege | pymysql.OperationalError)  # type: ignore[attr-defined]


@pytest.mark.local_cluster
def test_the_servers_processes_are_nobodys(database: Database[Any]) -> None:
    expected = runner() or os.geteuid()
    for pid in (database.member.pid, *children(database.member.pid)):
        assert os.stat(f"/proc/{pid}").st_uid == expected


@pytest.mark.local_cluster
def test_nothing_is_left_after_close(name: str, tmp_path: Path) -> None:
    server = SERVERS[name](tmp_path)
    place: Place = server._place  # type: ignore[attr-defined]
    leaves_nothing(server, proxies=0)
    assert not place.folder.exists()


@pytest.mark.local_cluster
def test_one_that_cannot_start_tells_the_servers_words(name: str, tmp_path: Path) -> None:
    tells_why_it_cannot_start(SERVERS[name](tmp_path, flags=BAD_FLAGS[name]), r"no[-_]such[-_]setting")


def scene_with_postgresql(folder: str) -> None:
    tempfile.tempdir = folder
    with PostgreSQLServer(Path(folder)) as server:
        stays(server)


def scene_with_mariadb(folder: str) -> None:
    tempfile.tempdir = folder
    with MariaDBServer(Path(folder)) as server:
        stays(server)


@pytest.mark.local_cluster
def test_servers_end_with_the_process_that_started_them(name: str) -> None:
    scene = {"postgresql": scene_with_postgresql, "mariadb": scene_with_mariadb}[name]
    with Place("scene") as place:
        ends_with_its_process(scene, place.folder)


@pytest.mark.local_cluster
def test_programs_that_the_runner_cannot_reach_are_copied(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a checkout of root's that nobody else may enter."""
    cache = tmp_path / "cache"
    tree = cache / f"{name}-1"
    for file in ("usr/bin/server", "usr/lib/library.so", "usr/share/doc/much"):
        (tree / file).parent.mkdir(parents=True)
        (tree / file).write_text(file)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(unprivileged, "CACHE", cache)
    monkeypatch.setattr(unprivileged, "runner", lambda: NOBODY)
    monkeypatch.setattr(os, "chown", lambda *_: None)
    found = Program(tree / "usr/bin/server", {"LD_LIBRARY_PATH": f"{tree}/usr/lib:/usr/lib"}, (f"{tree}/usr/lib/ld",))
    with Place(name) as place:
        copy = place.reachable(found)
        root = place.folder / "programs" / tree.name
        assert copy == Program(
            root / "usr/bin/server", {"LD_LIBRARY_PATH": f"{root}/usr/lib:/usr/lib"}, (f"{root}/usr/lib/ld",)
        )
        assert copy.path.read_text() == "usr/bin/server"
        assert not (root / "usr/share/doc").exists()
        assert place.reachable(Program(Path("/usr/bin/env"))) == Program(Path("/usr/bin/env"))
