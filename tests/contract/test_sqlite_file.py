"""What the thread behind an SQLite file promises to the adapter, tried on real files."""

from __future__ import annotations

import asyncio
import os
import select
import sqlite3
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty

import pytest

from coordkit.backends.inotify import IN_ATTRIB, FileEvents
from coordkit.backends.sqlite import database
from coordkit.backends.sqlite.database import Database, FileThread, Pause, mount_of, translated
from coordkit.errors import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable

pytestmark = pytest.mark.backend("sqlite")

Work = Callable[[sqlite3.Connection], object]


def note(text: str) -> Work:
    """A job that writes one line."""
    return lambda connection: connection.execute("INSERT INTO notes VALUES (?)", (text,)).lastrowid


def notes(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT text FROM notes ORDER BY rowid")]


def make_notes(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text TEXT CHECK (text <> 'bad'))")
    connection.close()


class Gate:
    """A job that holds the thread until told to go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.connection: sqlite3.Connection | None = None

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.entered.set()
        assert self.leave.wait(30)


def is_open(path: Path) -> bool:
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue
    return any(name.startswith(str(path)) for name in names)


async def reached(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.005)


async def gathered(database: Database, jobs: list[Awaitable[object]]) -> list[object]:
    """Run jobs that are all put while the thread is busy, so that they come to wait together."""
    gate = Gate()
    holding = asyncio.create_task(database.run(gate, "gate"))
    await reached(gate.entered)
    tasks = [asyncio.ensure_future(job) for job in jobs]
    await asyncio.sleep(0.05)
    gate.leave.set()
    await holding
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path.resolve() / "a.db"
    make_notes(made)
    return made


def run(path: Path, use: Callable[[Database], Awaitable[object]]) -> None:
    async def main() -> None:
        file = Database(str(path))
        try:
            await use(file)
        finally:
            await file.stop()

    asyncio.run(main())
    assert not is_open(path)


# --- one transaction for many ------------------------------------------------------------------------------


def test_writes_that_wait_share_one_transaction_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    async def use(file: Database) -> None:
        await file.run(lambda connection: connection.set_trace_callback(begun.append), "trace")
        done = await gathered(file, [file.run(note(str(n)), "note", writes=True) for n in range(20)])
        assert done == list(range(1, 21))
        assert await file.run(notes, "read") == [str(n) for n in range(20)]

    run(path, use)
    assert begun.count("BEGIN IMMEDIATE") == 1


def test_a_read_between_two_writes_keeps_its_place(path: Path) -> None:
    async def use(file: Database) -> None:
        done = await gathered(
            file,
            [file.run(note("1"), "n", writes=True), file.run(notes, "read"), file.run(note("2"), "n", writes=True)],
        )
        assert done == [1, ["1"], 2]

    run(path, use)


def raising(error: BaseException, *, after: str = "") -> Work:
    def work(connection: sqlite3.Connection) -> object:
        if after:
            note(after)(connection)
        raise error

    return work


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (note("bad"), Misconfigured),  # a constraint
        (lambda connection: connection.execute("SELECT nothing FROM notes"), Misconfigured),
        (raising(TypeError("a fault of ours"), after="half"), TypeError),
        (raising(Misconfigured("said before it wrote")), Misconfigured),
        (raising(OverflowError("a number"), after="half"), OverflowError),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_one_job_breaks_is_undone_and_the_others_are_done(
    path: Path, bad: Work, kind: type[BaseException], place: int
) -> None:
    async def use(file: Database) -> None:
        works = [note("1"), note("2")]
        works.insert(place, bad)
        done = await gathered(file, [file.run(work, "note", writes=True) for work in works])
        failed = done.pop(place)
        assert type(failed) is kind
        if isinstance(failed, BackendError):
            assert (failed.backend, failed.operation) == ("sqlite", "note")
        assert done == [1, 2]
        assert await file.run(notes, "read") == ["1", "2"]

    run(path, use)


def test_each_waiter_gets_an_exception_of_its_own(path: Path) -> None:
    def lose(connection: sqlite3.Connection) -> None:
        path.unlink()
        path.mkdir()

    async def use(file: Database) -> None:
        jobs = [file.run(note(str(n)), "note", writes=True) for n in range(3)]
        done = await gathered(file, [file.run(lose, "lose"), *jobs])
        assert [type(error) for error in done] == [type(None), Misconfigured, Misconfigured, Misconfigured]
        assert len({id(error) for error in done}) == 4

    run(path, use)


# --- jobs that nobody waits for -----------------------------------------------------------------------------


@pytest.mark.parametrize("given_up", [0, 1, 2])
def test_a_job_given_up_before_it_began_is_never_done(path: Path, given_up: int) -> None:
    async def use(file: Database) -> None:
        gate = Gate()
        holding = asyncio.create_task(file.run(gate, "gate"))
        await reached(gate.entered)
        tasks = [asyncio.create_task(file.run(note(str(n)), "note", writes=True)) for n in range(3)]
        await asyncio.sleep(0.01)
        tasks[given_up].cancel()
        await asyncio.sleep(0.01)
        gate.leave.set()
        await asyncio.gather(holding, *tasks, return_exceptions=True)
        assert await file.run(notes, "read") == [str(n) for n in range(3) if n != given_up]

    run(path, use)


def test_a_job_given_up_while_another_program_held_the_lock_is_never_done(path: Path) -> None:
    async def use(file: Database) -> None:
        await file.run(notes, "read")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        late = asyncio.create_task(file.run(note("late"), "note", writes=True))
        await asyncio.sleep(0.2)  # it waits for the lock now
        late.cancel()
        kept = asyncio.create_task(file.run(note("kept"), "note", writes=True))
        await asyncio.sleep(0.2)
        other.execute("COMMIT")
        other.close()
        await kept
        assert await file.run(notes, "read") == ["kept"]

    run(path, use)


# --- locks ---------------------------------------------------------------------------------------------------


def test_a_short_transaction_of_another_program_is_waited_for(path: Path) -> None:
    async def use(file: Database) -> None:
        await file.run(notes, "read")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(file.run(note("1"), "note", writes=True))
        await asyncio.sleep(database.BUSY_SECONDS / 2)
        other.execute("COMMIT")
        other.close()
        freed = time.monotonic()
        await waiting
        assert time.monotonic() - freed < database.BUSY_SECONDS / 2

    run(path, use)


def test_a_long_one_makes_it_unavailable_and_nothing_is_done(path: Path) -> None:
    async def use(file: Database) -> None:
        await file.run(notes, "read")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(Unavailable, match="SQLITE_BUSY"):
            await file.run(note("1"), "note", writes=True)
        assert database.BUSY_SECONDS <= time.monotonic() - started < 3 * database.BUSY_SECONDS
        assert await file.run(notes, "read") == []
        other.execute("COMMIT")
        other.close()

    run(path, use)


# --- the bell ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "tells", "rung"),
    [
        (note("news"), True, True),
        (note("a renewal"), False, False),
        (lambda connection: connection.execute("DELETE FROM notes"), True, False),  # there was nothing to delete
        (raising(Misconfigured("said before it wrote")), True, False),
    ],
)
def test_those_who_watch_the_file_are_told_of_news_alone(path: Path, work: Work, tells: bool, rung: bool) -> None:
    async def use(file: Database) -> None:
        await file.run(notes, "read")
        events = FileEvents()
        events.watch(str(path), IN_ATTRIB)
        with suppress(Misconfigured):
            await file.run(work, "work", writes=True, tells=tells)
        readable, _, _ = select.select([events.fd], [], [], 0)
        assert bool(readable) is rung
        events.close()

    run(path, use)


def test_the_bell_rings_after_the_commit_can_be_seen(path: Path) -> None:
    """The write itself would be no bell: the log is written, and told to the disk, before a reader sees it."""
    seen: list[list[str]] = []
    events = FileEvents()
    events.watch(str(path), IN_ATTRIB)

    def watch() -> None:
        connection = sqlite3.connect(path)
        for _ in range(50):
            select.select([events.fd], [], [], 10)
            events.drain()
            seen.append(notes(connection))
            go_on.release()
        connection.close()

    go_on = threading.Semaphore(0)
    watching = threading.Thread(target=watch)

    async def use(file: Database) -> None:
        await file.run(notes, "read")
        events.drain()
        watching.start()
        for number in range(50):
            await file.run(note(str(number)), "note", writes=True, durable=True, tells=True)
            await asyncio.to_thread(go_on.acquire, timeout=10)

    run(path, use)
    watching.join(10)
    events.close()
    assert [len(lines) for lines in seen] == list(range(1, 51))


# --- the end, and after it ----------------------------------------------------------------------------------


def test_the_jobs_that_wait_are_done_before_the_end_and_then_the_file_is_closed(path: Path) -> None:
    async def main() -> None:
        file = Database(str(path))
        gate = Gate()
        holding = asyncio.create_task(file.run(gate, "gate"))
        await reached(gate.entered)
        writing = asyncio.create_task(file.run(note("last"), "note", writes=True))
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(file.stop())
        await asyncio.sleep(0.01)
        gate.leave.set()
        await asyncio.gather(holding, writing, stopping)
        assert not is_open(path)
        await file.stop()  # again: nothing to do

    asyncio.run(main())
    connection = sqlite3.connect(path)
    assert notes(connection) == ["last"]
    connection.close()


def test_a_job_after_the_end_is_done_and_leaves_nothing_open(path: Path) -> None:
    async def main() -> None:
        file = Database(str(path))
        await file.run(notes, "read")
        await file.stop()
        assert await file.run(note("late"), "note", writes=True) == 1
        assert await file.run(notes, "read") == ["late"]
        async with asyncio.timeout(10):
            while is_open(path):
                await asyncio.sleep(0.005)

    asyncio.run(main())


def test_two_threads_never_share_a_connection(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "STOP_SECONDS", 0.05)

    async def main() -> None:
        file = Database(str(path))
        gate, second = Gate(), Gate()
        second.leave.set()
        holding = asyncio.create_task(file.run(gate, "gate"))
        await reached(gate.entered)
        await file.stop()  # returns, although the thread is held up
        async with asyncio.timeout(10):
            await file.run(second, "gate")
        assert not gate.leave.is_set()
        assert second.connection is not gate.connection
        gate.leave.set()
        await holding
        async with asyncio.timeout(10):
            while is_open(path):
                await asyncio.sleep(0.005)

    asyncio.run(main())


def test_a_thread_that_broke_is_followed_by_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(file: Database) -> None:
        await file.run(notes, "read")
        thread = file._thread
        assert thread is not None

        def breaks(batch: object) -> None:
            raise SystemExit

        monkeypatch.setattr(thread, "_perform", breaks)
        lost = asyncio.create_task(file.run(notes, "read"))
        async with asyncio.timeout(10):
            while not thread.ended:
                await asyncio.sleep(0.005)
        lost.cancel()
        assert await file.run(notes, "read") == []

    run(path, use)


def test_answers_for_a_loop_that_is_closed_go_nowhere(path: Path) -> None:
    gate = Gate()

    async def main() -> None:
        file = Database(str(path))
        holding = asyncio.create_task(file.run(gate, "gate"))
        await reached(gate.entered)
        holding.cancel()
        kept.append(file)

    kept: list[Database] = []
    asyncio.run(main())
    gate.leave.set()

    async def end() -> None:
        await kept[0].stop()

    asyncio.run(end())
    assert not is_open(path)


# --- the file at the path -----------------------------------------------------------------------------------


def test_a_reopened_file_is_told_and_whether_it_is_another_one(path: Path) -> None:
    told: list[bool] = []

    def become(kind: str) -> None:
        path.rmdir() if path.is_dir() else path.unlink()
        if kind == "file":
            make_notes(path)  # which may well get the inode of the old one
        else:
            path.mkdir()

    async def main() -> None:
        file = Database(str(path), told.append)
        await file.run(notes, "read")
        await file.run(notes, "read")
        assert told == [False]
        become("file")
        assert await file.run(notes, "read") == []
        assert told == [False, True]
        become("directory")
        with pytest.raises(Misconfigured):
            await file.run(notes, "read")
        become("file")
        await file.run(notes, "read")
        assert told == [False, True, True]
        await file.stop()

    asyncio.run(main())
    assert not is_open(path)


def test_a_file_that_is_replaced_again_and_again_is_unavailable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(1000))
    monkeypatch.setattr(database, "identity_of", lambda _: (0, next(numbers)))

    async def use(file: Database) -> None:
        with pytest.raises(Unavailable, match="being replaced"):
            await file.run(notes, "read")

    run(path, use)


# --- forks ---------------------------------------------------------------------------------------------------


def forked(child: Callable[[], int]) -> Callable[[], int]:
    """Fork, run `child` there; returns what waits for its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons: that there are threads is the point
        pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = child()
        finally:
            os._exit(status)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def child_uses(path: Path) -> Callable[[], int]:
    def child() -> int:
        if is_open(path):
            return 1

        async def main() -> int:
            file = Database(str(path))
            try:
                await file.run(note("child"), "note", writes=True)
            except Misconfigured:
                return 3
            await file.stop()
            return 0

        return asyncio.run(main())

    return child


def test_no_connection_crosses_a_fork(path: Path) -> None:
    async def use(file: Database) -> None:
        await file.run(note("before"), "note", writes=True)
        assert is_open(path)
        wait = forked(child_uses(path))
        assert await asyncio.to_thread(wait) == 0
        assert await file.run(notes, "read") == ["before", "child"]

    run(path, use)


def test_a_fork_does_not_wait_for_another_programs_lock(path: Path) -> None:
    async def use(file: Database) -> None:
        await file.run(notes, "read")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = [asyncio.create_task(file.run(note(str(n)), "note", writes=True)) for n in range(3)]
        waiting += [asyncio.create_task(file.run(notes, "read")) for n in range(3)]
        await asyncio.sleep(0.3)
        started = time.monotonic()
        wait = forked(lambda: 0)
        assert time.monotonic() - started < database.BUSY_SECONDS / 2
        other.execute("COMMIT")
        other.close()
        assert wait() == 0
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await file.run(note("after"), "note", writes=True)

    run(path, use)


def test_two_threads_may_fork_at_once(path: Path) -> None:
    async def use(file: Database) -> None:
        await file.run(notes, "read")
        waits: list[Callable[[], int]] = []

        def fork() -> None:
            waits.extend(forked(lambda: int(is_open(path))) for _ in range(10))

        threads = [threading.Thread(target=fork) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, 60)
        assert [wait() for wait in waits] == [0] * 20
        async with asyncio.timeout(10):
            assert await file.run(notes, "read") == []

    run(path, use)


def test_a_child_of_a_fork_that_could_not_wait_refuses_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "FORK_SECONDS", 0.1)

    async def use(file: Database) -> None:
        gate = Gate()
        holding = asyncio.create_task(file.run(gate, "gate"))
        await reached(gate.entered)
        wait = forked(lambda: 0 if _refused(path) else 4)
        gate.leave.set()
        assert await asyncio.to_thread(wait) == 0
        await holding
        assert await file.run(note("parent"), "note", writes=True) == 1

    run(path, use)


def _refused(path: Path) -> bool:
    async def main() -> bool:
        with pytest.raises(Misconfigured, match="in use by the parent"):
            await Database(str(path)).run(notes, "read")
        return True

    return asyncio.run(main())


def test_a_pause_that_nobody_waits_for_is_skipped(path: Path) -> None:
    thread = FileThread(str(path), lambda _: None)
    pause = Pause(cancelled=True)
    thread._pause(pause)
    with pytest.raises(Empty):
        pause.closed.get(timeout=0)


# --- what an error means -------------------------------------------------------------------------------------


class Coded(sqlite3.OperationalError):
    def __init__(self, code: int, name: str) -> None:
        super().__init__(name)
        self.sqlite_errorcode = code
        self.sqlite_errorname = name


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Coded(sqlite3.SQLITE_BUSY, "SQLITE_BUSY"), Unavailable),
        (Coded(sqlite3.SQLITE_BUSY_SNAPSHOT, "SQLITE_BUSY_SNAPSHOT"), Unavailable),
        (Coded(sqlite3.SQLITE_FULL, "SQLITE_FULL"), Unavailable),
        (Coded(sqlite3.SQLITE_READONLY, "SQLITE_READONLY"), Rejected),
        (Coded(sqlite3.SQLITE_READONLY_DIRECTORY, "SQLITE_READONLY_DIRECTORY"), Rejected),
        (Coded(sqlite3.SQLITE_READONLY_DBMOVED, "SQLITE_READONLY_DBMOVED"), Unavailable),
        (Coded(sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"), Misconfigured),
        (Coded(sqlite3.SQLITE_NOTADB, "SQLITE_NOTADB"), Misconfigured),
        (Coded(sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"), OutcomeUnknown),
        (Coded(sqlite3.SQLITE_MISUSE, "SQLITE_MISUSE"), OutcomeUnknown),
        (sqlite3.ProgrammingError("no code at all"), OutcomeUnknown),
        (PermissionError(13, "Permission denied"), Rejected),
        (OSError(36, "File name too long"), Misconfigured),
        (OSError(5, "Input/output error"), Unavailable),
    ],
)
def test_an_error_is_told_by_its_code(error: Exception, kind: type[BackendError]) -> None:
    told = translated(error, "attempt", "/nowhere/a.db")
    assert type(told) is kind
    assert (told.backend, told.operation, told.__cause__) == ("sqlite", "attempt", error)


def test_a_file_that_may_be_opened_but_cannot_is_short_of_something(path: Path) -> None:
    error = Coded(sqlite3.SQLITE_CANTOPEN, "SQLITE_CANTOPEN")
    assert type(translated(error, "open", str(path))) is Unavailable
    assert type(translated(error, "open", str(path.with_name("missing.db")))) is Rejected


def test_without_a_list_of_mounts_nothing_is_known(path: Path) -> None:
    assert mount_of(str(path), "/nowhere/mountinfo") is None
    assert mount_of(str(path)) is not None
