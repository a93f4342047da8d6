"""The doctor at SQLite files: healthy ones, and each thing that can be wrong with one. It changes none of them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordkit import LeaderElector
from coordkit.backends.sqlite import doctor
from coordkit.doctor import examine
from coordkit.findings import Verdict
from tests.expected import PLATFORM
from tests.support.commands import coordkit
from tests.support.examined import of, troubles

pytestmark = [pytest.mark.backend("sqlite"), pytest.mark.timeout(60)]

SECONDS = 20.0  # that nobody waits for
LOOKS = ["place", "file", "tables", "journal", "synchronous", "write lock", "integrity", "rows", "file events"]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a file that is not there yet, wherever this machine keeps its temporary files."""
    monkeypatch.setattr(doctor, "LAYERED", ())
    return tmp_path / "a.db"


@pytest.fixture
def used(path: Path) -> Path:
    """Of a file in which two elections have been held."""
    for election in ("reports/nightly", "x"):
        elector = LeaderElector(url(path), election)
        with elector.lead(timeout=SECONDS):
            pass
        elector.close()
    return path


@pytest.fixture
def connection(used: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else's, to the used file."""
    with closing(sqlite3.connect(used, isolation_level=None)) as made:
        yield made


def url(path: Path) -> str:
    return f"sqlite://{path}"


def test_a_file_in_use_is_well_and_is_left_as_it_was(used: Path) -> None:
    with LeaderElector(url(used), "led").lead(timeout=SECONDS) as term:
        before = used.read_bytes()
        found = examine(url(used))
        assert [each.check for each in found.findings] == LOOKS
        assert troubles(found) == {}
        assert of(found, "rows").detail == "3 elections"
        term.confirm()
        assert used.read_bytes() == before
    assert (found.url, found.guarantees.backend) == (url(used), "sqlite")


def test_a_file_that_is_not_there_is_not_made(path: Path) -> None:
    found = examine(url(path))
    assert troubles(found) == {}
    assert [each.check for each in found.findings] == ["place", "file", "file events"]
    assert list(path.parent.iterdir()) == []


def test_an_empty_file_is_well_and_stays_empty(path: Path) -> None:
    path.touch()
    found = examine(url(path))
    assert troubles(found) == {}
    assert of(found, "tables").detail == "none of coordkit yet"
    assert path.stat().st_size == 0


def test_tables_of_an_application_do_no_harm(connection: sqlite3.Connection, used: Path) -> None:
    connection.execute("CREATE TABLE theirs (x)")
    found = examine(url(used))
    assert troubles(found) == {}
    assert "1 table of other programs, which do no harm: theirs" in of(found, "tables").detail


def test_a_file_of_another_journal_mode_is_warned_of_and_left_in_it(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    assert troubles(examine(url(path))) == {"journal": Verdict.WARNING}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_layer_of_a_container_is_warned_of(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "mount_of", lambda _: ("/", "overlay"))
    monkeypatch.setattr(doctor, "LAYERED", ("overlay",))
    found = examine(url(used))
    assert found.ok
    assert troubles(found) == {"place": Verdict.WARNING}
    assert "overlay" in of(found, "place").detail


@pytest.mark.parametrize("place", ["nowhere/a.db", "."])
def test_a_place_that_cannot_be_is_a_failure(path: Path, place: str) -> None:
    found = examine(url(path.parent / place))
    assert not found.ok
    assert troubles(found)["place"] is Verdict.FAILED
    assert troubles(found)["file"] is Verdict.UNCHECKED
    assert troubles(found)["write lock"] is Verdict.UNCHECKED


def test_a_second_name_is_a_failure(used: Path) -> None:
    os.link(used, used.with_name("b.db"))
    assert "hard link" in of(examine(url(used)), "place").detail


def test_what_may_not_be_written_is_a_failure(used: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip(f"{PLATFORM}root may write anything")
    used.chmod(0o400)
    assert troubles(examine(url(used)))["file"] is Verdict.FAILED
    used.chmod(0o600)
    used.parent.chmod(0o500)
    assert troubles(examine(url(used)))["file"] is Verdict.FAILED
    used.parent.chmod(0o700)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE coordkit_format SET version = 99", "format [99]"),
        ("DROP TABLE coordkit_format", "a table coordkit_elections that coordkit has not made"),
        ("ALTER TABLE coordkit_elections ADD COLUMN more", "coordkit has not made"),
    ],
)
def test_tables_that_are_not_ours_are_a_failure(
    connection: sqlite3.Connection, used: Path, change: str, says: str
) -> None:
    connection.execute(change)
    found = examine(url(used))
    assert says in of(found, "tables").detail
    assert troubles(found)["tables"] is Verdict.FAILED
    assert troubles(found)["rows"] is Verdict.UNCHECKED


def test_no_database_is_a_failure(path: Path) -> None:
    path.write_bytes(b"this is no database at all, but it is long enough " * 50)
    found = examine(url(path))
    assert "SQLITE_NOTADB" in of(found, "tables").detail
    assert not found.ok


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE coordkit_elections SET ttl = 1e300 WHERE election = 'x'",
        "UPDATE coordkit_elections SET label = CAST(X'FF' AS TEXT) WHERE election = 'x'",
        "UPDATE coordkit_elections SET holder = X'00' WHERE election = 'x'",
    ],
)
def test_a_row_that_coordkit_cannot_have_written_is_a_failure(
    connection: sqlite3.Connection, used: Path, change: str
) -> None:
    connection.execute(change)
    found = examine(url(used))
    assert troubles(found) == {"rows": Verdict.FAILED}
    assert of(found, "rows").detail == "1 of 2 rows cannot have been written by coordkit: 'x'"


def test_a_lock_that_somebody_sits_on_is_a_failure(connection: sqlite3.Connection, used: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    found = examine(url(used), timeout=0.5)
    assert troubles(found) == {"write lock": Verdict.FAILED}
    assert "0.4 s" in of(found, "write lock").detail
    connection.execute("ROLLBACK")
    assert troubles(examine(url(used))) == {}


def test_pages_that_were_spoilt_are_a_failure(connection: sqlite3.Connection, used: Path) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("CREATE TABLE theirs (x)")
    connection.executemany("INSERT INTO theirs VALUES (?)", [("y" * 500,)] * 200)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    stored = bytearray(used.read_bytes())
    stored[-3 * 4096 : -2 * 4096] = b"\xa5" * 4096
    used.write_bytes(stored)
    found = examine(url(used))
    assert troubles(found) == {"integrity": Verdict.FAILED}


def test_a_check_for_which_there_is_no_time_says_so(
    connection: sqlite3.Connection, used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "STEP_INSTRUCTIONS", 1)
    connection.execute("CREATE TABLE theirs (x)")
    connection.executemany("INSERT INTO theirs VALUES (?)", [("y" * 500,)] * 20000)
    found = examine(url(used), timeout=0.02)
    assert of(found, "integrity").verdict in (Verdict.UNCHECKED, Verdict.FAILED)
    assert of(found, "integrity").detail in (
        "quick_check takes longer than there is time for",
        "no answer to integrity within 0.02 s",
        *(f"not looked at, for want of the {earlier}" for earlier in ("place", "file", "tables")),  # a busy machine
    )


def test_where_the_kernel_does_not_tell_of_writes_it_is_warned_of(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoEvents:
        def __init__(self) -> None:
            raise OSError("too many open files")

    monkeypatch.setattr(doctor, "FileEvents", NoEvents)
    assert troubles(examine(url(used))) == {"file events": Verdict.WARNING}


def test_the_command_is_well_or_not(used: Path) -> None:
    done = coordkit(url(used), "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(url(used))
    used.write_bytes(b"no database " * 500)
    done = coordkit(url(used), "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert "SQLITE_NOTADB" in done.stdout
