"""One SQLite file, one connection, one thread.

The rules: the thread runs jobs in order, and all writes that wait go into one transaction. An open connection never
crosses a fork: SQLite's own bookkeeping of POSIX locks would be wrong in the child, so the connection is closed before
and opened again after. The file at the path must stay the file that is open: another one there is another election.
Nothing here ever opens and closes the database file by itself, for closing any descriptor of it drops SQLite's locks.

Sources: sqlite.org/howtocorrupt.html (2.2 locks cancelled by close, 2.6 fork, 2.4 unlinked files), wal.html.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

from coordkit import threads
from coordkit.errors import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable

T = TypeVar("T")

LARGEST_BATCH = 512
FORK_SECONDS = 1.0  # how long a fork waits for the connection to be closed
BUSY_SECONDS = 1.0  # how long one try waits for another process's transaction

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

        try:
            self.loop.call_soon_threadsafe(settle)
        except RuntimeError:
            return  # the engine has ended: nobody waits


@dataclass(slots=True)
class Pause:
    """Close the connection, say so, and wait until a fork is over."""

    closed: SimpleQueue[None] = field(default_factory=SimpleQueue)
    over: SimpleQueue[None] = field(default_factory=SimpleQueue)
    cancelled: bool = False


class Database:
    """The thread and its connection, which is opened when first needed, and anew after a fork or a replaced file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._jobs: SimpleQueue[Job[Any] | Pause | None] = SimpleQueue()
        self._started = False
        # The thread's own:
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None  # device and inode of the open file
        self._synchronous = ""

    # --- on the engine ---------------------------------------------------------------------------------------

    async def run(
        self, work: Callable[[sqlite3.Connection], T], operation: str, *, writes: bool = False, durable: bool = False
    ) -> T:
        """Run `work` in the thread, in a transaction if it writes. A cancelled job that has not begun is skipped."""
        loop = asyncio.get_running_loop()
        job: Job[T] = Job(work, operation, writes, durable, loop, loop.create_future())
        if not self._started:
            self._started = True
            _open_databases.add(self)
            threads.start(self._serve)
        self._jobs.put(job)
        try:
            return await job.future
        finally:
            job.abandoned = True

    def stop(self) -> None:
        """Close the connection after the jobs that wait; the thread ends. May be used again after."""
        if self._started:
            self._started = False
            _open_databases.discard(self)
            self._jobs.put(None)

    # --- around a fork, on the forking thread ----------------------------------------------------------------

    def pause(self) -> Pause:
        """Ask the thread to close the connection and wait."""
        pause = Pause()
        self._jobs.put(pause)
        return pause

    # --- the thread ------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            waiting = deque([self._jobs.get()])
            try:
                while len(waiting) < LARGEST_BATCH:
                    waiting.append(self._jobs.get_nowait())
            except Empty:
                pass
            while waiting:
                item = waiting.popleft()
                if item is None:
                    self._disconnect()
                    for unserved in waiting:  # put after the stop: they belong to the next thread
                        self._jobs.put(unserved)
                    return
                if isinstance(item, Pause):
                    self._pause(item)
                    continue
                batch = [item]
                while item.writes and waiting and isinstance(waiting[0], Job) and waiting[0].writes:
                    batch.append(cast(Job[Any], waiting.popleft()))
                self._perform([job for job in batch if not job.abandoned])

    def _perform(self, batch: list[Job[Any]]) -> None:
        if not batch:
            return
        first = batch[0]
        begun = False
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            connection = self._connected()
            if first.writes:
                self._synchronise(connection, "FULL" if any(job.durable for job in batch) else "NORMAL")
                connection.execute("BEGIN IMMEDIATE")
                begun = True
            for job in batch:
                try:
                    outcomes.append((job.work(connection), None))
                except BackendError as error:  # said before it wrote: the others go on
                    outcomes.append((None, error))
            if begun:
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError, BackendError) as error:
            self._roll_back()
            for job in batch:
                job.answer(None, translated(error, job.operation, self.path))
            return
        except BaseException as error:  # noqa: BLE001 - a fault of ours: whoever waits learns of it, and the thread lives
            self._roll_back()
            for job in batch:
                job.answer(None, error)
            return
        for job, (value, failure) in zip(batch, outcomes, strict=True):
            job.answer(value, failure)

    def _roll_back(self) -> None:
        connection = self._connection
        try:
            if connection is not None and connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()  # a connection in an unknown state is not used again

    def _connected(self) -> sqlite3.Connection:
        identity = identity_of(self.path)
        if self._connection is not None and identity == self._identity:
            return self._connection
        self._disconnect()
        if identity is not None and identity in _left_open_by_parent:
            raise Misconfigured(
                f"{self.path} was in use by the parent process when it forked; SQLite cannot open it here safely",
                backend="sqlite",
                operation="open",
            )
        connection = sqlite3.connect(
            self.path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False, cached_statements=64
        )
        try:
            prepare(connection, self.path)
        except BaseException:
            connection.close()
            raise
        self._connection, self._identity, self._synchronous = connection, identity_of(self.path), "NORMAL"
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
        connection, self._connection, self._identity = self._connection, None, None
        if connection is not None:
            connection.close()


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Put a fresh connection into the mode that the rules need, and make the tables."""
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise Misconfigured(f"{path} does not take write-ahead logging, its mode is {mode}", backend="sqlite")
    connection.execute("PRAGMA synchronous=NORMAL")
    if not _has_tables(connection):
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO coordkit_format SELECT ? WHERE NOT EXISTS (SELECT * FROM coordkit_format)", (FORMAT,)
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA synchronous=NORMAL")
    versions = [row[0] for row in connection.execute("SELECT version FROM coordkit_format")]
    if versions != [FORMAT]:
        raise Misconfigured(
            f"{path} has tables of format {versions}, this version of coordkit has {FORMAT}", backend="sqlite"
        )


def _has_tables(connection: sqlite3.Connection) -> bool:
    names = "SELECT count(*) FROM sqlite_master WHERE name IN ('coordkit_format', 'coordkit_elections')"
    return bool(connection.execute(names).fetchone()[0] == 2)


def identity_of(path: str) -> tuple[int, int] | None:
    """Device and inode of the file at a path, without opening it; None if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def file_system_of(path: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The type of the file system that holds `path`, by the longest mount point above it; None if unknown."""
    real = os.path.realpath(path)
    best, found = "", None
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                before, _, after = line.partition(" - ")
                point = before.split(" ")[4].encode().decode("unicode_escape")
                inside = real == point or real.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):  # of two at one point the later one covers the earlier
                    best, found = point, after.split(" ")[0]
    except OSError:
        return None
    return found


def check_place(path: str) -> None:
    """Refuse a place where SQLite's locks or shared memory cannot be relied on, or that is not there."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise Misconfigured(f"the directory {folder} does not exist", backend="sqlite", operation="open")
    if os.path.isdir(path):
        raise Misconfigured(f"{path} is a directory", backend="sqlite", operation="open")
    kind = file_system_of(path)
    if kind is not None and (kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse")):
        raise Misconfigured(
            f"{path} is on a {kind} file system: its locks are not those of one machine. "
            "Use a local file, or a backend for several machines",
            backend="sqlite",
            operation="open",
        )


def translated(error: BaseException, operation: str, path: str) -> BackendError:
    """The one door: what an SQLite or file error means for the caller. By its code, never by its text."""
    if isinstance(error, BackendError):
        again: BackendError = type(error)(str(error), backend="sqlite", operation=operation)
        again.__cause__ = error
        return again
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    kind: type[BackendError]
    if isinstance(error, PermissionError):
        kind = Rejected
    elif isinstance(error, OSError):
        kind = Unavailable  # stat failed: nothing was written
    else:
        kind = _MEANING.get(primary, OutcomeUnknown)
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    made = kind(f"{operation} on {path}: {name}: {error}", backend="sqlite", operation=operation)
    made.__cause__ = error
    return made


# sqlite.org/rescode.html. A statement that fails with these has changed nothing.
_MEANING: dict[int | None, type[BackendError]] = {
    sqlite3.SQLITE_ERROR: Misconfigured,  # no such column: foreign tables under our names
    sqlite3.SQLITE_PERM: Rejected,
    sqlite3.SQLITE_BUSY: Unavailable,
    sqlite3.SQLITE_LOCKED: Unavailable,
    sqlite3.SQLITE_NOMEM: Unavailable,
    sqlite3.SQLITE_READONLY: Rejected,
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

_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_pauses: list[tuple[Database, Pause]] = []
_left_open_by_parent: set[tuple[int, int]] = set()


def _before_fork() -> None:
    _pauses[:] = [(database, database.pause()) for database in list(_open_databases)]
    for _, pause in _pauses:
        try:
            pause.closed.get(timeout=FORK_SECONDS)
        except Empty:
            pause.cancelled = True


def _after_fork_in_parent() -> None:
    for _, pause in _pauses:
        pause.over.put(None)
    _pauses.clear()


def _after_fork_in_child() -> None:
    for database, pause in _pauses:
        identity = database._identity
        if pause.cancelled and identity is not None:
            _left_open_by_parent.add(identity)
    _pauses.clear()
    _open_databases.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
