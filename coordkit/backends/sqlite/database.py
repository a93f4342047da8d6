"""One SQLite file, one connection, one thread.

The rules: the thread runs jobs in order, and all writes that wait go into one transaction; what one of them breaks is
done again one by one, so that a fault in one election is not a fault of all. An open connection never crosses a fork:
SQLite's own bookkeeping of POSIX locks would be wrong in the child, so the connection is closed before and opened
again after. The file at the path must stay the file that is open: another one there is another election. Nothing here
ever opens and closes the database file by itself, for closing any descriptor of it drops SQLite's locks.

Sources: sqlite.org/howtocorrupt.html (2.2 locks cancelled by close, 2.4 unlinked files, 2.5 files of several names,
2.6 fork), wal.html, limits of path names in os_unix.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

from coordkit import threads
from coordkit.errors import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable

T = TypeVar("T")

LARGEST_BATCH = 512
FORK_SECONDS = 3.0  # how long a fork waits for the connections to be closed: a write to the disk may be under way
STOP_SECONDS = 1.0  # how long the end of a session waits for the file to be closed
BUSY_SECONDS = 1.0  # how long one job waits for another process's transaction
BUSY_STEP = 0.1  # s: after each it is asked again whether anybody waits for that job, or a fork is due
LONGEST_NAME = 255 - len("-journal")  # bytes: SQLite appends that to the name of the file
LONGEST_PATH = 512 - len("-journal")  # bytes: SQLite's own limit

SCHEMA = """
CREATE TABLE IF NOT EXISTS coordkit_format (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS coordkit_elections (
  election TEXT PRIMARY KEY,
  epoch INTEGER NOT NULL CHECK (typeof(epoch) = 'integer' AND epoch > 0),
  state TEXT NOT NULL CHECK (state IN ('held', 'released')),
  stamp TEXT NOT NULL,                       -- unique for every write of the row
  ttl REAL NOT NULL CHECK (typeof(ttl) = 'real' AND ttl > 0),
  boot_id TEXT,                              -- of the boot on whose clock the deadline is
  deadline REAL NOT NULL CHECK (typeof(deadline) = 'real'),   -- CLOCK_BOOTTIME of the host, s
  holder TEXT NOT NULL,                      -- the candidate's id
  label TEXT NOT NULL,
  metadata TEXT NOT NULL,                    -- the candidate's
  proclaimed TEXT NOT NULL                   -- the leader's
) WITHOUT ROWID;
"""
FORMAT = 1
COLUMNS = ["epoch", "state", "stamp", "ttl", "boot_id", "deadline", "holder", "label", "metadata", "proclaimed"]

# File systems on which locks or shared memory are not those of one kernel. FUSE may be anything, so it is refused.
NETWORK_FILE_SYSTEMS = frozenset(
    [
        "9p",
        "acfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "gfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "prl_fs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
    ]
)


@dataclass(slots=True)
class Job(Generic[T]):
    """Work for the thread; its answer goes to a future of the engine's loop."""

    work: Callable[[sqlite3.Connection], T]
    operation: str
    writes: bool
    durable: bool  # wait for the disk: what must survive a power cut
    tells: bool  # what it changes is news to those who watch the file
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[T]
    abandoned: bool = field(default=False)

    def answer(self, value: T | None, error: BaseException | None) -> None:
        def settle() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(cast(T, value))
            else:
                self.future.set_exception(error)

        _post(self.loop, settle)


@dataclass(slots=True)
class Pause:
    """Close the connection, say so, and wait until a fork is over."""

    closed: threads.Mailbox[None] = field(default_factory=threads.Mailbox)
    over: SimpleQueue[None] = field(default_factory=SimpleQueue)
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Close the connection, call `ended`, and end."""

    ended: Callable[[], object]


class Database:
    """One file, as the engine sees it: jobs go to its thread, answers come back to the loop.

    `reopened` is called on the loop whenever the thread has opened the file, the first time too; with True if that is
    another file than before.
    """

    def __init__(self, path: str, reopened: Callable[[bool], object] = lambda _: None) -> None:
        self.path = path
        self._reopened = reopened
        self._thread: FileThread | None = None
        self._stopped = False

    async def run(
        self,
        work: Callable[[sqlite3.Connection], T],
        operation: str,
        *,
        writes: bool = False,
        durable: bool = False,
        tells: bool = False,
    ) -> T:
        """Run `work` in the thread, in a transaction if it writes. A cancelled job that has not begun is skipped.

        `work` may be called again after a rollback; where it raises a `BackendError`, it has written nothing. After
        `stop` each job gets a thread that ends with it.
        """
        loop = asyncio.get_running_loop()
        job: Job[T] = Job(work, operation, writes, durable, tells, loop, loop.create_future())
        thread = self._thread
        if thread is None or thread.ended:
            thread = self._thread = FileThread(self.path, self._reopened)
            thread.start()
        thread.put(job)
        if self._stopped:
            self._thread = None
            thread.put(Stop(lambda: None))
        try:
            return await job.future
        finally:
            job.abandoned = True

    async def stop(self) -> None:
        """Return when the jobs that wait are done and the file is closed, after `STOP_SECONDS` at the latest."""
        self._stopped = True
        thread, self._thread = self._thread, None
        if thread is None or thread.ended:
            return
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        thread.put(Stop(lambda: _post(loop, over.set)))
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await over.wait()
        except TimeoutError:
            return  # the disk hangs, or another process's transaction: the thread ends after it


class FileThread:
    """One thread and its connection, opened when first needed, and anew after a fork or when the file was replaced.

    A database that is used again after its thread was told to end gets another one of these, with a connection of its
    own: two threads never share a connection.
    """

    def __init__(self, path: str, reopened: Callable[[bool], object]) -> None:
        self.path = path
        self.ended = False
        self.identity: tuple[int, int] | None = None  # device and inode of the open file; written by the thread
        self._reopened = reopened
        self._items: SimpleQueue[Job[Any] | Pause | Stop] = SimpleQueue()
        self._pauses: deque[Pause] = deque()  # each is among the items too, where it only wakes the thread
        # The thread's own:
        self._connection: sqlite3.Connection | None = None
        self._newest: tuple[int, int] | None = None  # of the file opened last; another one may get its inode
        self._moved = False  # that one was seen gone from the path while it was open
        self._synchronous = ""

    def start(self) -> None:
        """Begin to serve."""
        _serving[self] = None
        threads.start(self._serve)

    def put(self, item: Job[Any] | Stop) -> None:
        """Hand over a job, or the order to end after the jobs put so far. Nothing may be put after that order."""
        self._items.put(item)

    def pause(self) -> Pause:
        """On a forking thread: ask to close the connection and wait, before any job that has not begun."""
        pause = Pause()
        self._pauses.append(pause)
        self._items.put(pause)
        return pause

    # --- the thread ------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        waiting: deque[Job[Any] | Pause | Stop] = deque()
        ended: Callable[[], object] | None = None
        try:
            while ended is None:
                self._gather(waiting)
                while self._pauses:
                    self._pause(self._pauses.popleft())
                match waiting.popleft():
                    case Stop() as stop:
                        ended = stop.ended
                    case Job() as job:
                        self._perform(_batch(job, waiting))
        finally:
            self.ended = True
            self._disconnect()
            del _serving[self]
            if ended is not None:
                ended()

    def _gather(self, waiting: deque[Job[Any] | Pause | Stop]) -> None:
        """Move what was put to `waiting`; wait for something if that is empty."""
        try:
            waiting.append(self._items.get(block=not waiting))
            while True:
                waiting.append(self._items.get_nowait())
        except Empty:
            return

    def _perform(self, batch: Sequence[Job[Any]]) -> None:
        """Run jobs in one transaction and answer them; wait a while for another process's transaction to end."""
        patience = time.monotonic() + BUSY_SECONDS
        while batch := [job for job in batch if not job.abandoned]:
            working = False
            try:
                connection = self._connected(batch[0].loop)
                if batch[0].writes:
                    self._synchronise(connection, "FULL" if any(job.durable for job in batch) else "NORMAL")
                    connection.execute("BEGIN IMMEDIATE")
                working, changes = True, connection.total_changes
                outcomes = [_outcome(job, connection) for job in batch]
                working = False
                if connection.in_transaction:
                    connection.execute("COMMIT")
                    if connection.total_changes != changes and any(job.tells for job in batch):
                        _ring(self.path)
            except BaseException as error:  # noqa: BLE001 - whoever waits is told, and the thread lives
                self._roll_back()
                if is_busy(error) and time.monotonic() < patience and not self._pauses:
                    time.sleep(BUSY_STEP / 20)  # SQLite itself waits for most of them, but not for all
                elif working and len(batch) > 1 and not is_busy(error):
                    for job in batch:
                        self._perform([job])
                    return
                else:
                    for job in batch:
                        job.answer(None, _failure(error, job.operation, self.path))
                    return
            else:
                for job, (value, failure) in zip(batch, outcomes, strict=True):
                    job.answer(value, failure)
                return

    def _roll_back(self) -> None:
        connection = self._connection
        try:
            if connection is not None and connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()  # a connection in an unknown state is not used again

    def _connected(self, loop: asyncio.AbstractEventLoop) -> sqlite3.Connection:
        """The connection to the file that is at the path now."""
        identity = identity_of(self.path)
        if self._connection is not None and identity is not None and identity == self.identity:
            return self._connection
        self._moved = self._moved or self._connection is not None
        self._disconnect()
        check_place(self.path)
        if identity is not None and identity in _left_open_by_parent:
            raise Misconfigured(
                f"{self.path} was in use by the parent process when it forked; SQLite cannot open it here safely",
                backend="sqlite",
                operation="open",
            )
        connection = self._open()
        # What is open is the file at the path only if that was the same one before and after. A new file never is.
        if identity_of(self.path) != identity:
            connection.close()
            identity = identity_of(self.path)
            connection = self._open()
            if identity_of(self.path) != identity:
                connection.close()
                raise Unavailable(f"{self.path} is being replaced", backend="sqlite", operation="open")
        another = self._moved or self._newest not in (None, identity)
        self._connection, self.identity, self._newest, self._moved = connection, identity, identity, False
        self._synchronous = "NORMAL"
        _post(loop, lambda: self._reopened(another))
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, timeout=BUSY_STEP, check_same_thread=False, cached_statements=64
        )
        try:
            connection.text_factory = _text
            prepare(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _synchronise(self, connection: sqlite3.Connection, mode: str) -> None:
        if mode != self._synchronous:
            connection.execute(f"PRAGMA synchronous={mode}")
            self._synchronous = mode

    def _pause(self, pause: Pause) -> None:
        if not pause.cancelled:
            self._disconnect()
            pause.closed.put(None)
            pause.over.get()

    def _disconnect(self) -> None:
        connection, self._connection, self.identity = self._connection, None, None
        if connection is not None:
            connection.close()


def _batch(first: Job[Any], waiting: deque[Job[Any] | Pause | Stop]) -> list[Job[Any]]:
    """`first` and, if it writes, the writing jobs right behind it, which are taken out of `waiting`."""
    batch = [first]
    while first.writes and waiting and len(batch) < LARGEST_BATCH:
        match waiting[0]:
            case Job(writes=True) as job:
                batch.append(job)
            case Pause():
                pass  # it has only woken the thread
            case _:
                break
        waiting.popleft()
    return batch


def _outcome(job: Job[Any], connection: sqlite3.Connection) -> tuple[Any, BackendError | None]:
    if job.abandoned:  # while the transaction waited to begin
        return None, Unavailable("nobody waits for it any more", backend="sqlite", operation=job.operation)
    try:
        return job.work(connection), None
    except BackendError as error:  # said before it wrote: the others go on
        return None, translated(error, job.operation, "")


def _ring(path: str) -> None:
    """Wake those who watch the file. The write itself is no bell: it comes before the commit can be seen."""
    with suppress(OSError):  # moved away just now, which wakes them as well
        os.utime(path)


def is_busy(error: BaseException | None) -> bool:
    """Whether another process's transaction was in the way."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _failure(error: BaseException, operation: str, path: str) -> BaseException:
    """An exception of its own for each job."""
    if isinstance(error, (sqlite3.Error, OSError, BackendError)):
        return translated(error, operation, path)
    return error  # a fault of ours


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Misconfigured("a row has text that is not UTF-8", backend="sqlite") from error


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return  # the engine has ended: nobody waits


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Put a fresh connection into the mode that the rules need, and make the tables.

    A file that turns out not to be ours, or not of this format, is refused before anything in it is changed.
    """
    made = has_tables(connection)
    if made:
        check_tables(connection, path)
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise Misconfigured(f"{path} does not take write-ahead logging, its mode is {mode}", backend="sqlite")
    if not made:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO coordkit_format SELECT ? WHERE NOT EXISTS (SELECT * FROM coordkit_format)", (FORMAT,)
        )
        check_tables(connection, path)
        connection.execute("COMMIT")
    connection.execute("PRAGMA synchronous=NORMAL")


def has_tables(connection: sqlite3.Connection) -> bool:
    """Whether both tables are there; with one alone the file is refused."""
    names = "SELECT name FROM sqlite_master WHERE name IN ('coordkit_format', 'coordkit_elections')"
    found = [row[0] for row in connection.execute(names)]
    if len(found) == 1:
        raise Misconfigured(f"the file has a table {found[0]} that coordkit has not made", backend="sqlite")
    return bool(found)


def check_tables(connection: sqlite3.Connection, path: str) -> None:
    """`Misconfigured` unless the tables are of this format."""
    versions = [row[0] for row in connection.execute("SELECT version FROM coordkit_format LIMIT 2")]
    if versions != [FORMAT]:
        raise Misconfigured(
            f"{path} has tables of format {versions}, this version of coordkit has {FORMAT}", backend="sqlite"
        )
    columns = [row[1] for row in connection.execute("PRAGMA table_info(coordkit_elections)")]
    if columns != ["election", *COLUMNS]:
        raise Misconfigured(f"{path} has a table coordkit_elections that coordkit has not made", backend="sqlite")


def identity_of(path: str) -> tuple[int, int] | None:
    """Device and inode of the file at a path, without opening it; None if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def mount_of(path: str, mounts: str = "/proc/self/mountinfo") -> tuple[str, str] | None:
    """Mount point and file system type of what holds `path`, by the longest mount point above it; None if unknown."""
    real = os.fsencode(os.path.realpath(path))
    best, found = b"", None
    try:
        with open(mounts, "rb") as lines:
            for line in lines:
                before, _, after = line.partition(b" - ")
                point = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), before.split(b" ")[4])
                inside = real == point or real.startswith(point.rstrip(b"/") + b"/")
                if inside and len(point) >= len(best):  # of two at one point the later one covers the earlier
                    best, found = point, after.split(b" ")[0]
    except OSError:
        return None
    return None if found is None else (os.fsdecode(best), found.decode("ascii", "replace"))


def check_place(path: str) -> None:
    """Refuse a place where SQLite's locks or shared memory cannot be relied on, or that is not there."""
    real = os.path.realpath(path)
    if len(os.fsencode(real)) > LONGEST_PATH or len(os.fsencode(os.path.basename(real))) > LONGEST_NAME:
        raise _misplaced(f"{path} is too long for SQLite: at most {LONGEST_NAME} bytes of name, {LONGEST_PATH} of path")
    folder = os.path.dirname(real)
    if not os.path.isdir(folder):
        raise _misplaced(f"the directory {folder} does not exist")
    if os.path.isdir(real):
        raise _misplaced(f"{path} is a directory")
    if os.path.exists(real) and os.stat(real).st_nlink > 1:
        raise _misplaced(f"{path} has a second name (a hard link), under which SQLite would keep a second journal")
    point, kind = mount_of(real) or ("", "")
    if point == real:
        raise _misplaced(f"{path} is mounted by itself, its journal beside it is not: mount the directory")
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse"):
        raise _misplaced(
            f"{path} is on a {kind} file system: its locks are not those of one machine. "
            "Use a local file, or a backend for several machines"
        )


def _misplaced(message: str) -> Misconfigured:
    return Misconfigured(message, backend="sqlite", operation="open")


def translated(error: BaseException, operation: str, path: str) -> BackendError:
    """The one door: what an SQLite or file error means for the caller. By its code, never by its text."""
    if isinstance(error, BackendError):
        again: BackendError = type(error)(str(error), backend="sqlite", operation=operation)
        again.__cause__ = error
        return again
    kind: type[BackendError]
    if isinstance(error, PermissionError):
        kind = Rejected
    elif isinstance(error, OSError):  # stat failed: nothing was written
        kind = Misconfigured if error.errno in _NO_SUCH_PATH else Unavailable
    else:
        code = getattr(error, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        kind = _MEANING.get(code) or _MEANING.get(primary, OutcomeUnknown)
        if primary == sqlite3.SQLITE_CANTOPEN and os.access(path, os.R_OK | os.W_OK):
            kind = Unavailable  # not forbidden, so something has run out, such as file descriptors
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    made = kind(f"{operation} on {path}: {name}: {error}", backend="sqlite", operation=operation)
    made.__cause__ = error
    return made


_NO_SUCH_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)

# sqlite.org/rescode.html, extended codes first. A statement that fails with these has changed nothing.
_MEANING: dict[int | None, type[BackendError]] = {
    sqlite3.SQLITE_ERROR: Misconfigured,  # no such column: foreign tables under our names
    sqlite3.SQLITE_PERM: Rejected,
    sqlite3.SQLITE_BUSY: Unavailable,
    sqlite3.SQLITE_LOCKED: Unavailable,
    sqlite3.SQLITE_NOMEM: Unavailable,
    sqlite3.SQLITE_READONLY: Rejected,
    sqlite3.SQLITE_READONLY_DBMOVED: Unavailable,  # replaced just now: the next try opens what is there
    sqlite3.SQLITE_CORRUPT: Misconfigured,
    sqlite3.SQLITE_FULL: Unavailable,
    sqlite3.SQLITE_CANTOPEN: Rejected,
    sqlite3.SQLITE_PROTOCOL: Unavailable,
    sqlite3.SQLITE_CONSTRAINT: Misconfigured,  # foreign data under our names
    sqlite3.SQLITE_MISMATCH: Misconfigured,
    sqlite3.SQLITE_AUTH: Rejected,
    sqlite3.SQLITE_NOTADB: Misconfigured,
}


# --- fork ----------------------------------------------------------------------------------------------------


_serving: dict[FileThread, None] = {}  # those whose connection may be open; changed and copied by single operations
_pauses: dict[int, list[tuple[FileThread, Pause]]] = {}  # by forking thread: two may fork at once
_left_open_by_parent: dict[tuple[int, int] | None, FileThread] = {}  # whose connection must never be closed here


def _before_fork() -> None:
    pauses = _pauses[threading.get_ident()] = [(thread, thread.pause()) for thread in list(_serving)]
    until = time.monotonic() + FORK_SECONDS
    for _, pause in pauses:
        try:
            pause.closed.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            pause.cancelled = True


def _after_fork_in_parent() -> None:
    for _, pause in _pauses.pop(threading.get_ident(), ()):
        pause.over.put(None)


def _after_fork_in_child() -> None:
    for thread, pause in _pauses.pop(threading.get_ident(), ()):
        if pause.cancelled:
            _left_open_by_parent.update({thread.identity: thread, identity_of(thread.path): thread})
    _pauses.clear()
    _serving.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
