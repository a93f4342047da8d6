"""Bad input and hostile surroundings of `sqlite:///`: a typed error in time, nothing changed, nothing left behind.

The rule: every test goes through the public API, and when its electors are closed no file of it is open any more.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import coordkit
from coordkit import LeaderElector, LossReason, Misconfigured, Rejected, Session, Unavailable
from coordkit.backends import inotify
from coordkit.backends.sqlite import adapter, database
from coordkit.engine import current
from tests.expected import PLATFORM

pytestmark = pytest.mark.backend("sqlite")

SOON = 1.5  # s: far below a third of the ttl in every test that uses it, and far above what an event takes
ROOT = Path(__file__).parents[2]

Elect = Callable[..., LeaderElector]


def url_of(path: Path | str) -> str:
    return "sqlite://" + quote(str(path))


def open_files(below: Path) -> list[str]:
    """Files below a directory that this process has open, deleted ones too."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # of the listing itself
    return [name for name in found if name.startswith(f"{below}/")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path.resolve()


@pytest.fixture
def elect(place: Path) -> Iterator[Elect]:
    """Makes electors; all are closed at the end, and then nothing is open."""
    made: list[LeaderElector] = []

    def make(path: Path | str, election: str = "e", *, ttl: float = 9.0, **options: object) -> LeaderElector:
        made.append(LeaderElector(url_of(path), election, ttl=ttl, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for elector in made:
        elector.close()
    assert open_files(place) == []


@pytest.fixture
def warnings_told(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    def told() -> str:
        current().log.flush(5.0)
        return "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")

    return told


def refused(elector: LeaderElector, kind: type[BaseException], *words: str) -> None:
    """Every way in raises the same kind of error, long before its timeout."""
    for call in (
        lambda: elector.campaign(timeout=30),
        elector.try_campaign,
        lambda: elector.leader(timeout=30),
        lambda: elector.candidates(timeout=30),
        lambda: next(elector.observe()),
    ):
        started = time.monotonic()
        with pytest.raises(kind) as caught:
            call()
        assert time.monotonic() - started < 5
        for word in words:
            assert word in str(caught.value)


# --- where the file is said to be ----------------------------------------------------------------------------


def _missing(place: Path) -> tuple[Path, str]:
    return place / "no" / "such" / "a.db", "does not exist"


def _directory(place: Path) -> tuple[Path, str]:
    (place / "a.db").mkdir()
    return place / "a.db", "is a directory"


def _below_a_file(place: Path) -> tuple[Path, str]:
    (place / "file").write_text("x")
    return place / "file" / "a.db", "Not a directory"


def _loop(place: Path) -> tuple[Path, str]:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    return place / "a" / "x.db", "symbolic links"


def _dangling(place: Path) -> tuple[Path, str]:
    (place / "a.db").symlink_to(place / "gone" / "b.db")
    return place / "a.db", "does not exist"


def _long_name(place: Path) -> tuple[Path, str]:
    return place / ("n" * 250), "too long"


def _longer_name(place: Path) -> tuple[Path, str]:
    return place / ("n" * 300), "too long"


def _long_path(place: Path) -> tuple[Path, str]:
    while len(str(place)) < 520:
        place /= "d" * 60
    place.mkdir(parents=True)
    return place / "a.db", "too long"


def _second_name(place: Path) -> tuple[Path, str]:
    sqlite3.connect(place / "a.db").execute("CREATE TABLE t (x)").connection.close()
    os.link(place / "a.db", place / "b.db")
    return place / "b.db", "hard link"


@pytest.mark.parametrize(
    "lay",
    [
        _missing,
        _directory,
        _below_a_file,
        _loop,
        _dangling,
        _long_name,
        _longer_name,
        _long_path,
        _second_name,
    ],
)
def test_a_path_that_cannot_be_is_refused_and_nothing_is_made(
    place: Path, elect: Elect, lay: Callable[[Path], tuple[Path, str]]
) -> None:
    path, words = lay(place)
    before = sorted(place.rglob("*"))
    refused(elect(path), Misconfigured, words)
    session = Session(url_of(path))
    with pytest.raises(Misconfigured):
        session.open()
    session.close()
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    "url", ["sqlite://host/a.db", "sqlite:///tmp/", "sqlite:///", "sqlite:///a%00b", "sqlite:a.db"]
)
def test_a_url_that_names_no_file_is_refused_before_any_io(url: str) -> None:
    with pytest.raises(coordkit.ConfigError):
        LeaderElector(url, "e")


@pytest.mark.parametrize(
    "name",
    [
        "with space.db",
        "what?mode=memory",
        "half#fragment",
        "100%25.db",
        "%",
        "größe-счёт-表.db",
        "two\nlines",
        "'quotes\" and \\",
        "file:x?mode=ro&cache=shared",
        ":memory:",
        "-wal",
        "n" * 240,
    ],
)
def test_odd_names_name_exactly_that_file(place: Path, elect: Elect, name: str) -> None:
    with elect(place / name).lead(timeout=10):
        assert elect(place / name).try_campaign() is None
        assert {path.name for path in place.iterdir()} == {name, f"{name}-wal", f"{name}-shm"}


def test_a_very_long_path_that_sqlite_can_open_works(place: Path, elect: Elect) -> None:
    while len(str(place)) < 380:
        place /= "d" * 60
    place.mkdir(parents=True)
    path = place / "a.db"
    path = path.with_name("a" * (database.LONGEST_PATH - len(str(place)) - 1))
    assert len(os.fsencode(path)) == database.LONGEST_PATH
    with elect(path).lead(timeout=10):
        assert path.exists()


# --- permissions ---------------------------------------------------------------------------------------------

CAPABILITIES = range(64)  # linux/capability.h has 41 of them


def without_capabilities() -> None:
    """Before an exec: root's permissions bind nobody, those of a root without capabilities bind him as anybody."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in CAPABILITIES:
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; an unknown one is refused


UNPRIVILEGED = """
    import json, sys, time
    sys.path.insert(0, {root!r})
    import coordkit
    told = []
    elector = coordkit.LeaderElector({url!r}, "e", ttl=9)
    for call in (lambda: elector.campaign(timeout=20), elector.try_campaign, lambda: elector.leader(timeout=20)):
        started = time.monotonic()
        try:
            call()
            told.append("no error")
        except BaseException as error:
            told.append(type(error).__name__ if time.monotonic() - started < 5 else "late")
    elector.close()
    print(json.dumps(told))
"""


def _read_only_directory(place: Path) -> Path:
    (place / "d").mkdir(mode=0o555)
    return place / "d" / "a.db"


def _read_only_directory_with_a_file(place: Path) -> Path:
    (place / "d").mkdir()
    filled(place / "d" / "a.db")
    (place / "d").chmod(0o555)
    return place / "d" / "a.db"


def _read_only_file(place: Path) -> Path:
    filled(place / "a.db")
    (place / "a.db").chmod(0o444)
    return place / "a.db"


def _unreadable_file(place: Path) -> Path:
    filled(place / "a.db")
    (place / "a.db").chmod(0o000)
    return place / "a.db"


def _unsearchable_directory(place: Path) -> Path:
    (place / "d").mkdir(mode=0o000)
    return place / "d" / "a.db"


@pytest.mark.parametrize(
    "lay",
    [
        _read_only_directory,
        _read_only_directory_with_a_file,
        _read_only_file,
        _unreadable_file,
        _unsearchable_directory,
    ],
)
def test_what_may_not_be_written_is_rejected(place: Path, lay: Callable[[Path], Path]) -> None:
    path = lay(place)
    try:
        before = sorted(place.rglob("*"))
        script = textwrap.dedent(UNPRIVILEGED).format(root=str(ROOT), url=url_of(path))
        run = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=without_capabilities,
        )
        assert run.returncode == 0, run.stderr
        assert "Traceback" not in run.stderr
        # Who leads may be read from a file that may only be read; who campaigns would have to write.
        reading = "no error" if lay is _read_only_file else "Rejected"
        assert json.loads(run.stdout) == ["Rejected", "Rejected", reading]
        # SQLite leaves its log behind where the last one to close may not write the file: wal.html, section 5.
        left = {each.name for each in place.rglob("*") if each not in before}
        assert left == ({"a.db-wal", "a.db-shm"} if lay is _read_only_file else set())
    finally:
        path.parent.chmod(0o700)


# --- what is in the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"xy", b"not a database\n" * 1000, bytes(range(256)) * 64, b"SQLite format 3\0" + b"\xff" * 8000]
)
def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(place: Path, elect: Elect, content: bytes) -> None:
    path = place / "a.db"
    path.write_bytes(content)
    refused(elect(path), Misconfigured)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_database(place: Path, elect: Elect) -> None:
    (place / "a.db").touch()
    with elect(place / "a.db").lead(timeout=10) as term:
        assert term.valid


def filled(path: Path, *, rows: int = 200) -> None:
    """A database of coordkit with many pages, open nowhere."""
    elector = LeaderElector(url_of(path), "e")
    with elector.lead(timeout=10):
        pass
    elector.close()
    connection = sqlite3.connect(path)
    with connection:
        connection.executemany(
            "INSERT INTO coordkit_elections VALUES (?, 1, 'released', '', 1.0, '', 0.0, '', '', ?, '')",
            [(f"other-{number}", "x" * 200) for number in range(rows)],
        )
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


@pytest.mark.parametrize("part", ["schema", "middle", "all but the header"])
def test_a_corrupt_database_is_refused(place: Path, elect: Elect, part: str) -> None:
    path = place / "a.db"
    filled(path)
    content = bytearray(path.read_bytes())
    assert len(content) > 10 * 4096
    first, last = {"schema": (100, 4096), "middle": (4096, len(content)), "all but the header": (100, len(content))}[
        part
    ]
    for position in range(first, last):
        content[position] ^= 0xA5
    path.write_bytes(content)
    refused(elect(path), Misconfigured)
    assert path.read_bytes() == bytes(content)


def test_a_database_cut_short_is_refused(place: Path, elect: Elect) -> None:
    path = place / "a.db"
    filled(path)
    os.truncate(path, 4096)
    refused(elect(path), Misconfigured)


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE TABLE coordkit_elections (id INTEGER, name TEXT)",
        "CREATE TABLE coordkit_format (version INTEGER); INSERT INTO coordkit_format VALUES (1)",
        "CREATE TABLE coordkit_elections (id); CREATE TABLE coordkit_format AS SELECT 1 AS version",
        "CREATE TABLE coordkit_elections (id); CREATE TABLE coordkit_format AS SELECT 1 AS other",
        "CREATE VIEW coordkit_elections AS SELECT 1 AS election",
    ],
)
def test_somebody_elses_tables_under_our_names_are_not_touched(place: Path, elect: Elect, statements: str) -> None:
    path = place / "a.db"
    connection = sqlite3.connect(path)
    connection.executescript(statements)
    connection.close()
    before = path.read_bytes()
    refused(elect(path), Misconfigured)
    assert path.read_bytes() == before  # not even its journal mode


@pytest.mark.parametrize("versions", [[2], [], [1, 1], ["one"], [None]])
def test_a_file_of_another_format_is_not_touched(place: Path, elect: Elect, versions: list[object]) -> None:
    path = place / "a.db"
    filled(path)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE looser (version)")
        connection.execute("DROP TABLE coordkit_format")
        connection.execute("ALTER TABLE looser RENAME TO coordkit_format")
        connection.executemany("INSERT INTO coordkit_format VALUES (?)", [(version,) for version in versions])
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = path.read_bytes()
    refused(elect(path), Misconfigured, "format")
    assert path.read_bytes() == before


def test_an_application_may_keep_its_own_tables_in_the_file(place: Path, elect: Elect) -> None:
    path = place / "app.db"
    application = sqlite3.connect(path, isolation_level=None)
    application.executescript("CREATE TABLE ledger (x); INSERT INTO ledger VALUES (7)")
    with elect(path).lead(timeout=10):
        application.execute("INSERT INTO ledger VALUES (8)")
        assert application.execute("SELECT x FROM ledger").fetchall() == [(7,), (8,)]
    application.close()


GOOD = {
    "epoch": 7,
    "state": "held",
    "stamp": "s",
    "ttl": 1.0,
    "boot_id": "another boot",
    "deadline": 5.0,
    "holder": "h",
    "label": "l",
    "metadata": "m",
    "proclaimed": "p",
}
INFINITE = float("inf")


def with_row(path: Path, **values: object) -> None:
    """Put a row for the election `bad` beside those of coordkit, in a table that has lost its checks."""
    filled(path, rows=0)
    connection = sqlite3.connect(path)
    row = GOOD | values
    with connection:
        connection.execute(f"CREATE TABLE looser (election PRIMARY KEY, {', '.join(row)})")
        connection.execute("DROP TABLE coordkit_elections")
        connection.execute("ALTER TABLE looser RENAME TO coordkit_elections")
        marks = ", ".join(
            "CAST(? AS TEXT)" if name == "holder" and isinstance(value, bytes) else "?" for name, value in row.items()
        )
        connection.execute(f"INSERT INTO coordkit_elections VALUES ('bad', {marks})", tuple(row.values()))
    connection.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("epoch", "many"),
        ("epoch", None),
        ("epoch", 0),
        ("epoch", -(2**63)),
        ("epoch", 7.5),
        ("epoch", b"7"),
        ("state", "other"),
        ("state", None),
        ("stamp", None),
        ("stamp", 5),
        ("ttl", -1.0),
        ("ttl", 0.0),
        ("ttl", "long"),
        ("ttl", None),
        ("ttl", INFINITE),
        ("ttl", 1e300),
        ("boot_id", 7),
        ("deadline", "tomorrow"),
        ("deadline", None),  # NaN is stored so
        ("deadline", INFINITE),
        ("deadline", -INFINITE),
        ("holder", b"\xff\xfe"),
        ("label", 5),
        ("metadata", None),
        ("proclaimed", b"x"),
    ],
)
def test_a_row_that_coordkit_cannot_have_written_is_misconfigured_and_hurts_no_other(
    place: Path, elect: Elect, column: str, value: object
) -> None:
    path = place / "a.db"
    with_row(path, **{column: value})
    with elect(path, "good", ttl=3).lead(timeout=10) as term:
        refused(
            elect(path, "bad"), Misconfigured, "UTF-8" if isinstance(value, bytes) and column == "holder" else "'bad'"
        )
        with elect(path, "another").lead(timeout=10):
            term.confirm()


def test_a_bad_row_in_one_transaction_with_good_ones_fails_alone(place: Path, elect: Elect) -> None:
    path = place / "a.db"
    with_row(path, epoch=2**63 - 1, state="released")
    gate = sqlite3.connect(path, isolation_level=None)
    gate.execute("BEGIN IMMEDIATE")  # so that the takeovers come to wait for one transaction
    electors = [elect(path, name) for name in ["bad", *(f"good-{number}" for number in range(5))]]
    found: dict[LeaderElector, object] = {}

    def campaign(elector: LeaderElector) -> None:
        try:
            found[elector] = elector.campaign(timeout=20)
        except coordkit.CoordkitError as error:
            found[elector] = error

    threads = [threading.Thread(target=campaign, args=(elector,)) for elector in electors]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    gate.execute("COMMIT")
    gate.close()
    for thread in threads:
        thread.join()
    assert isinstance(found[electors[0]], Misconfigured)
    for elector in electors[1:]:
        won = found[elector]
        assert isinstance(won, coordkit.Term)
        won.resign()


def test_the_last_token_is_given_and_after_it_none(place: Path, elect: Elect) -> None:
    path = place / "a.db"
    with_row(path, epoch=2**63 - 2, state="released")
    elector = elect(path, "bad")
    with elector.lead(timeout=10) as term:
        assert int(term.token) == 2**63 - 1
        assert elector.leader() is not None
    with pytest.raises(Misconfigured, match="out of range"):
        elector.campaign(timeout=10)


# --- rows that this boot cannot date -------------------------------------------------------------------------


def this_boot() -> str | None:
    return adapter.boot_id()


@pytest.mark.parametrize(
    "values",
    [
        {"boot_id": "another boot"},
        {"boot_id": None},
        {"boot_id": "another boot", "deadline": 1e15},
        {"boot_id": "this", "deadline": 1e15},  # no lease of one second ends then: it is not on our clock
    ],
    ids=["other", "unknown", "other-far", "impossible"],
)
def test_an_undatable_row_is_waited_for_a_full_ttl(place: Path, elect: Elect, values: dict[str, object]) -> None:
    path = place / "a.db"
    with_row(path, **{name: this_boot() if value == "this" else value for name, value in values.items()})
    elector = elect(path, "bad", ttl=9)
    assert elector.leader() is None
    started = time.monotonic()
    with elector.lead(timeout=20):
        assert 1.0 * 1.02 <= time.monotonic() - started < 5
        assert elector.leader() is not None


def test_a_row_of_another_boot_that_moves_is_not_taken(place: Path, elect: Elect) -> None:
    path = place / "a.db"
    with_row(path)
    over = threading.Event()

    def renew() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        number = 0
        while not over.wait(0.2):
            connection.execute("UPDATE coordkit_elections SET stamp = ?", (f"stamp-{(number := number + 1)}",))
        connection.close()

    living = threading.Thread(target=renew)
    living.start()
    try:
        assert elect(path, "bad").try_campaign() is None
        waiting = elect(path, "bad")
        with pytest.raises(coordkit.CampaignTimeout):
            waiting.campaign(timeout=2.5)
    finally:
        over.set()
        living.join()
    stopped = time.monotonic()
    with waiting.lead(timeout=20):
        assert 1.0 <= time.monotonic() - stopped + 0.2 < 5


# --- a disk that is full -------------------------------------------------------------------------------------


def limited(size: int) -> Callable[[], None]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


FULL = """
    import os, resource, sys, time
    sys.path.insert(0, {root!r})
    import coordkit
    path, fill, free = sys.argv[1], *({how})
    url = "sqlite://" + path
    elector = coordkit.LeaderElector(url, "e", ttl=1.5)

    # A leader whose renewals cannot be written is over by its own clock, not later.
    first = elector.campaign(timeout=10)
    fill()
    started = time.monotonic()
    assert first.wait_ended(10), "never over"
    assert time.monotonic() - started < 2.0, "over too late"
    assert first.reason is coordkit.LossReason.EXPIRED, first.reason

    # Nobody is elected while it lasts, and the timeout is kept.
    started = time.monotonic()
    try:
        elector.campaign(timeout=1.5)
        raise SystemExit("elected on a full disk")
    except coordkit.CampaignTimeout as error:
        assert isinstance(error.__cause__, (coordkit.Unavailable, coordkit.OutcomeUnknown)), repr(error.__cause__)
        assert time.monotonic() - started < 4, "late"

    # A new file cannot be made there; what is left of the try is at most an empty file.
    other = coordkit.LeaderElector(url + "2", "e", ttl=1.5)
    try:
        other.campaign(timeout=1.5)
        raise SystemExit("elected on a full disk")
    except coordkit.CampaignTimeout as error:
        assert isinstance(error.__cause__, (coordkit.Unavailable, coordkit.OutcomeUnknown)), repr(error.__cause__)

    # It goes on where it stopped.
    free()
    second = elector.campaign(timeout=10)
    assert second.token > first.token
    assert other.campaign(timeout=10).valid
    elector.close()
    other.close()
    print("good")
"""
BY_LIMIT = """(
    lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY)),
    lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))"""
BY_FILLING = """(
    lambda: [None for file in [open(os.path.dirname(path) + "/filler", "wb", 0)] for _ in iter(
        lambda: not _write(file), True)],
    lambda: os.unlink(os.path.dirname(path) + "/filler"))
def _write(file):
    try:
        return file.write(b"x" * 512)
    except OSError as error:
        assert error.errno == 28, error
        return 0
"""


def test_a_write_that_the_system_refuses_ends_a_term_by_the_clock_and_no_later(place: Path) -> None:
    script = textwrap.dedent(FULL).format(root=str(ROOT), how=BY_LIMIT)
    command = [sys.executable, "-c", script, str(place / "a.db")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limited(10**9))
    assert (run.stdout, run.returncode) == ("good\n", 0), run.stderr


def in_a_namespace(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount, seen by nobody else; skips where the kernel allows no such namespace."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, text=True, timeout=20, check=False)
    if probe.returncode:
        pytest.skip(f"{PLATFORM}no user and mount namespace: {probe.stderr.strip()}")
    command = ["unshare", "-rm", "sh", "-ec", textwrap.dedent(script), "sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_full_disk_ends_a_term_by_the_clock_and_no_later(place: Path) -> None:
    how, _, helper = BY_FILLING.partition("\ndef ")
    script = textwrap.dedent(FULL).format(root=str(ROOT), how="(fill, free)")
    fill = f"def {helper}\npath = sys.argv[1]\nfill, free = {how}\n"
    script = script.replace("path, fill, free = sys.argv[1], *((fill, free))", fill)
    run = in_a_namespace(
        'mount -t tmpfs -o size=192k none "$1"; exec "$2" -c "$3" "$1/a.db"', str(place), sys.executable, script
    )
    assert (run.stdout, run.returncode) == ("good\n", 0), run.stderr


# --- file systems --------------------------------------------------------------------------------------------

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:25 / {point} rw shared:2 - {kind} server:/x rw
31 22 0:26 / /nowhere/near rw shared:2 - nfs4 server:/x rw
"""


def mounted(monkeypatch: pytest.MonkeyPatch, place: Path, point: str, kind: str) -> None:
    escaped = "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in point)
    (place / "mountinfo").write_text(MOUNTS.format(point=escaped, kind=kind))
    read = database.mount_of
    monkeypatch.setattr(database, "mount_of", lambda path: read(path, str(place / "mountinfo")))


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "fuseblk", "fuse", "9p", "virtiofs", "ceph", "vboxsf"])
@pytest.mark.parametrize("name", ["plain", "with space", "größe", "back\\slash", "two\nlines"])
def test_a_network_file_system_is_refused_by_name(
    place: Path, elect: Elect, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    if name != "plain" and kind != "nfs4":
        kind = "fuse.other"
    (place / name).mkdir()
    mounted(monkeypatch, place, str(place / name), kind)
    with pytest.raises(Misconfigured, match=f"on a {kind} file system"):
        elect(place / name / "a.db").campaign(timeout=20)
    assert list((place / name).iterdir()) == []


def test_a_link_into_a_network_file_system_is_refused(
    place: Path, elect: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "far").mkdir()
    (place / "near.db").symlink_to(place / "far" / "a.db")
    mounted(monkeypatch, place, str(place / "far"), "nfs4")
    refused(elect(place / "near.db"), Misconfigured, "nfs4")


def test_local_file_systems_beside_a_network_one_are_taken(
    place: Path, elect: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch, place, f"{place}/a.dbx", "nfs4")  # a name that begins like ours
    with elect(place / "a.db").lead(timeout=10) as term:
        assert term.valid


def test_a_file_mounted_by_itself_is_refused(place: Path) -> None:
    """As `docker run -v /host/a.db:/a.db` mounts it: the log beside it would be another one in every container."""
    (place / "outside.db").touch()
    (place / "inside.db").touch()
    script = "import sys; sys.path.insert(0, sys.argv[2]); import coordkit\n" + textwrap.dedent("""
        try:
            coordkit.LeaderElector("sqlite://" + sys.argv[1], "e").campaign(timeout=20)
        except coordkit.Misconfigured as error:
            print(error)
    """)
    run = in_a_namespace(
        'mount --bind "$1/outside.db" "$1/inside.db"; exec "$2" -c "$3" "$1/inside.db" "$4"',
        str(place),
        sys.executable,
        script,
        str(ROOT),
    )
    assert "mounted by itself" in run.stdout, run.stderr
    assert (place / "outside.db").stat().st_size == 0


# --- one file, several paths ---------------------------------------------------------------------------------


def _by_link(place: Path) -> str:
    (place / "link.db").symlink_to("a.db")
    return f"{place}/link.db"


def _by_linked_directory(place: Path) -> str:
    (place / "elsewhere").symlink_to(place)
    return f"{place}/elsewhere/a.db"


def _by_detour(place: Path) -> str:
    (place / "sub").mkdir()
    return f"{place}/sub/../a.db"


@pytest.mark.parametrize("lay", [_by_link, _by_linked_directory, _by_detour])
def test_two_sessions_on_one_file_by_two_paths_have_one_leader_and_a_pushed_handover(
    place: Path, elect: Elect, lay: Callable[[Path], str]
) -> None:
    direct, other = elect(place / "a.db", ttl=30), elect(lay(place), ttl=30)
    # The one that waits is the one behind the link, then the other way round.
    for leading, waiting in ((direct, other), (other, direct)):
        won: list[float] = []

        def wait(waiting: LeaderElector = waiting, won: list[float] = won) -> None:
            with waiting.lead(timeout=60):
                won.append(time.monotonic())

        with leading.lead(timeout=10) as term:
            assert waiting.try_campaign() is None
            seen = waiting.leader()
            assert seen is not None
            assert seen.token == term.token
            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(0.3)
            assert not won
        resigned = time.monotonic()
        thread.join(20)
        assert won[0] - resigned < SOON


# --- the file under the feet ---------------------------------------------------------------------------------


def _delete(path: Path) -> None:
    path.unlink()


def _delete_all(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def _move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def _replace_by_nothing(path: Path) -> None:
    (path.parent / "new").touch()
    (path.parent / "new").rename(path)


@pytest.mark.parametrize("damage", [_delete, _delete_all, _move, _replace_by_nothing])
@pytest.mark.parametrize("waiting", [False, True], ids=["alone", "waited for"])
def test_a_file_taken_from_under_a_leader_ends_its_term_at_once(
    place: Path, elect: Elect, damage: Callable[[Path], None], waiting: bool
) -> None:
    path = place / "a.db"
    term = elect(path, ttl=30).campaign(timeout=10)
    terms: list[coordkit.Term] = []
    (place / "link.db").symlink_to("a.db")
    # Of another session, so that it may make the new file before the leader looks.
    behind = elect(place / "link.db", ttl=30)
    thread = threading.Thread(target=lambda: terms.append(behind.campaign(timeout=30)))
    if waiting:
        thread.start()
        time.sleep(0.3)
    started = time.monotonic()
    damage(path)
    assert term.wait_ended(20)
    assert time.monotonic() - started < SOON
    assert term.reason is LossReason.REVOKED
    with pytest.raises(coordkit.LeadershipLost):
        term.ensure()
    if waiting:
        thread.join(20)
        assert time.monotonic() - started < 2 * SOON
    else:
        terms.append(elect(path, ttl=30).campaign(timeout=20))
    assert terms[0].token > term.token
    terms[0].resign()


def test_a_file_replaced_by_rubbish_ends_the_term_by_the_clock(place: Path, elect: Elect) -> None:
    path = place / "a.db"
    term = elect(path, ttl=1.5).campaign(timeout=10)
    (place / "new").write_bytes(b"rubbish" * 1000)
    (place / "new").rename(path)
    assert term.wait_ended(10)
    assert term.reason in (LossReason.EXPIRED, LossReason.REVOKED)
    refused(elect(path), Misconfigured)


def test_tokens_rise_over_a_file_restored_from_a_backup(place: Path, elect: Elect) -> None:
    path = place / "a.db"
    elector = elect(path)
    with elector.lead(timeout=10) as first:
        pass
    elector.close()
    backup = path.read_bytes()
    later = elect(path)
    for _ in range(3):
        with later.lead(timeout=10) as newest:
            pass
    later.close()
    path.write_bytes(backup)
    with elect(path).lead(timeout=10) as restored:
        assert first.token < newest.token < restored.token


@pytest.mark.parametrize("lost", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids="".join)
def test_tokens_rise_although_the_log_of_a_dead_process_was_deleted(place: Path, elect: Elect, lost: list[str]) -> None:
    path = place / "a.db"
    elector = elect(path)
    with elector.lead(timeout=10):
        pass
    elector.close()
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); import coordkit\n"
        "print(int(coordkit.LeaderElector(sys.argv[1], 'e', ttl=2.0).campaign(timeout=10).token), flush=True)\n"
        "os._exit(0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, url_of(path), str(ROOT)], capture_output=True, text=True, timeout=60, check=True
    )
    assert (place / "a.db-wal").stat().st_size > 0
    for suffix in lost:
        (place / f"a.db{suffix}").unlink()
    with elect(path, ttl=2.0).lead(timeout=20) as term:
        assert int(term.token) > int(run.stdout)


# --- locks of other programs ---------------------------------------------------------------------------------


def test_a_lock_of_another_program_is_waited_for_with_a_warning(
    place: Path, elect: Elect, warnings_told: Callable[[], str]
) -> None:
    path = place / "a.db"
    filled(path, rows=0)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    elector = elect(path, ttl=3)
    started = time.monotonic()
    with pytest.raises(coordkit.CampaignTimeout) as caught:
        elector.campaign(timeout=2.0)
    assert time.monotonic() - started < 4
    assert isinstance(caught.value.__cause__, (Unavailable, coordkit.OutcomeUnknown))
    assert "campaigning in 'e'" in warnings_told()
    assert elector.leader(timeout=5) is None  # readers are not locked out
    released = threading.Timer(0.5, other.execute, ["COMMIT"])
    released.start()
    started = time.monotonic()
    with elector.lead(timeout=20):
        assert time.monotonic() - started < 4
    released.join()
    other.close()


def test_a_program_that_locks_even_readers_out_makes_it_unavailable(place: Path, elect: Elect) -> None:
    path = place / "a.db"
    filled(path, rows=0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("UPDATE coordkit_format SET version = version")
    other.execute("COMMIT")
    elector = elect(path, ttl=3)
    started = time.monotonic()
    session = Session(url_of(path))
    with pytest.raises(Unavailable):
        session.open(timeout=3)
    session.close()
    with pytest.raises(Unavailable):
        elector.leader(timeout=1)
    with pytest.raises(coordkit.CampaignTimeout):
        elector.campaign(timeout=1)
    assert time.monotonic() - started < 10
    other.close()
    with elector.lead(timeout=20) as term:
        assert term.valid


def test_a_lock_that_outlasts_the_lease_ends_the_term_by_the_clock(
    place: Path, elect: Elect, warnings_told: Callable[[], str]
) -> None:
    path = place / "a.db"
    elector = elect(path, ttl=1.5)
    term = elector.campaign(timeout=10)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    assert term.wait_ended(10)
    assert time.monotonic() - started < 2.5
    assert term.reason is LossReason.EXPIRED
    assert "in jeopardy" in warnings_told()
    other.execute("COMMIT")
    other.close()
    with elector.lead(timeout=20) as later:
        assert later.token > term.token


def test_a_lock_shorter_than_the_lease_costs_no_term(place: Path, elect: Elect) -> None:
    path = place / "a.db"
    term = elect(path, ttl=3).campaign(timeout=10)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(1.3)  # a renewal is due meanwhile
    other.execute("COMMIT")
    other.close()
    assert not term.wait_ended(3)
    term.confirm()
    term.resign()


# --- hints that fail -----------------------------------------------------------------------------------------


class NoInstance(inotify.FileEvents):
    def __init__(self) -> None:
        raise OSError(errno.EMFILE, "no inotify instance is left")


class NoWatch(inotify.FileEvents):
    def watch(self, path: str, mask: int) -> None:
        raise OSError(errno.ENOSPC, "no inotify watch is left")


@pytest.mark.parametrize("events", [NoInstance, NoWatch])
def test_without_file_events_it_polls(
    place: Path,
    elect: Elect,
    monkeypatch: pytest.MonkeyPatch,
    warnings_told: Callable[[], str],
    events: type[inotify.FileEvents],
) -> None:
    monkeypatch.setattr(adapter, "FileEvents", events)
    path = place / "a.db"
    won: list[float] = []
    waiting = elect(path, ttl=30)

    def wait() -> None:
        with waiting.lead(timeout=60):
            won.append(time.monotonic())

    with elect(path, ttl=30).lead(timeout=10):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
    resigned = time.monotonic()
    thread.join(20)
    assert won[0] - resigned < SOON
    assert f"looking every {adapter.POLL_SECONDS:g} s" in warnings_told()
    term = elect(path, ttl=30).campaign(timeout=10)
    path.unlink()
    assert term.wait_ended(SOON)
    assert term.reason is LossReason.REVOKED


def test_hints_go_on_after_the_file_was_closed_and_opened_again(place: Path, elect: Elect) -> None:
    """A fork closes the connection, which may take the log away; the new one is watched as well."""
    path = place / "a.db"
    waiting, leading = elect(path, ttl=30), elect(path, ttl=30)
    assert waiting.leader() is None
    pid = _fork_and_leave()
    assert os.waitpid(pid, 0)[1] == 0
    won: list[float] = []

    def wait() -> None:
        with waiting.lead(timeout=60):
            won.append(time.monotonic())

    with leading.lead(timeout=10):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
    resigned = time.monotonic()
    thread.join(20)
    assert won[0] - resigned < SOON


def test_an_observer_is_told_of_takeover_release_and_proclamation_at_once(place: Path, elect: Elect) -> None:
    (place / "link.db").symlink_to("a.db")
    leaders = elect(place / "link.db", ttl=60).observe()
    elector = elect(place / "a.db", ttl=60)
    assert next(leaders) is None
    for _ in range(5):
        started = time.monotonic()
        term = elector.campaign(timeout=10)
        seen = next(leaders)
        assert seen is not None
        assert seen.token == term.token
        term.proclaim("here")
        seen = next(leaders)
        assert seen is not None
        assert seen.metadata == "here"
        term.resign()
        assert next(leaders) is None
        assert time.monotonic() - started < SOON


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def _fork_and_leave() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


# --- what users may say --------------------------------------------------------------------------------------


def test_metadata_of_64_kib_travels_whole(place: Path, elect: Elect) -> None:
    metadata = "ü€'\"\\;--\n" * 5461
    metadata = metadata.encode()[:65536].decode(errors="ignore")
    assert 65530 < len(metadata.encode()) <= 65536
    elector = elect(place / "a.db", metadata=metadata)
    with elector.lead(timeout=10) as term:
        seen = elector.leader()
        assert seen is not None
        assert (seen.metadata, seen.candidate.metadata) == (metadata, metadata)
        term.proclaim(metadata[::-1])
        seen = elector.leader()
        assert seen is not None
        assert seen.metadata == metadata[::-1]


def test_names_that_look_like_sql_are_names(place: Path, elect: Elect) -> None:
    path = place / "a.db"
    names = [
        "x'; DROP TABLE coordkit_elections; --",
        "x' OR '1'='1",
        '"; DELETE FROM coordkit_elections',
        "%",
        "_",
        "*",
        "?",
        ":name",
        "NULL",
        "x\\'",
        "coordkit_elections",
    ]
    terms = [elect(path, name, ttl=30, label="'; --").campaign(timeout=10) for name in names]
    assert [elect(path, name).try_campaign() for name in names] == [None] * len(names)
    for term in terms:
        term.confirm()
        term.resign()
    with elect(path, "plain").lead(timeout=10):
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        found = {row[0] for row in connection.execute("SELECT election FROM coordkit_elections")}
        connection.close()
    assert found == {*names, "plain"}


# --- durable, quickly ----------------------------------------------------------------------------------------


def test_a_takeover_is_on_disk_before_it_is_told_and_a_renewal_need_not_be(
    place: Path, elect: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from the committing connection itself: what it is told to do at the COMMIT, and of which statements."""
    committed: list[tuple[int, set[str]]] = []

    class Watched(sqlite3.Connection):
        said: set[str] = set()

        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            if sql.startswith("BEGIN"):
                self.said = set()
            elif sql == "COMMIT":
                committed.append((super().execute("PRAGMA synchronous").fetchone()[0], self.said))
            else:
                self.said.add(" ".join(sql.split()[:2]))
            return super().execute(sql, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(
        database.sqlite3,
        "connect",
        lambda *arguments, **options: connect(*arguments, factory=Watched, **options),
    )
    elector = elect(place / "a.db", ttl=0.6)
    for _ in range(2):
        with elector.lead(timeout=10) as term:
            time.sleep(0.5)
            term.proclaim("here")
    elector.close()
    full = 2
    takeovers = [mode for mode, said in committed if "INSERT OR" in said]
    others = [mode for mode, said in committed if "UPDATE coordkit_elections" in said and "INSERT OR" not in said]
    created = [mode for mode, said in committed if "CREATE TABLE" in said]
    assert takeovers == [full, full]
    assert created == [full]
    assert len(others) >= 4
    assert set(others) == {1}


def test_a_denial_names_the_backend_and_the_operation(place: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        LeaderElector(url_of(place / "no" / "a.db"), "e").leader()
    assert (caught.value.backend, caught.value.operation) == ("sqlite", "open")
    assert not isinstance(caught.value, Rejected)


def test_a_backend_that_cannot_be_made_is_told_to_whoever_asks(
    place: Path, elect: Elect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> str:
        raise LookupError("unknown encoding: ascii")

    monkeypatch.setattr(adapter, "boot_id", unreadable)
    elector = elect(place / "a.db")
    for call in (elector.leader, elector.candidates, lambda: elector.campaign(timeout=30), elector.try_campaign):
        with pytest.raises(LookupError):
            call()


def test_an_elector_whose_term_has_just_ended_by_the_clock_may_campaign_at_once(place: Path, elect: Elect) -> None:
    """Its owner sees the end by his own clock, perhaps before the engine has carried it out."""
    elector = elect(place / "a.db", ttl=0.3)
    gate = sqlite3.connect(place / "a.db", isolation_level=None)
    for _ in range(5):
        term = elector.campaign(timeout=10)
        gate.execute("BEGIN IMMEDIATE")
        while term.valid:
            time.sleep(term.remaining())
        gate.execute("COMMIT")
        elector.campaign(timeout=10).resign()
    gate.close()
