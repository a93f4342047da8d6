"""Elections in an SQLite file: one row each, its deadline on the host's own clock.

The rules: a challenger takes a row only inside a transaction that has looked at it; the deadline in a row is
CLOCK_BOOTTIME without this time namespace's offset, so it means the same to every process of this boot; a row of
another boot has no deadline here, so a challenger waits a full ttl in which the row does not move. A takeover is on
disk before it is told. Every write stamps the row anew.

A handover is pushed: the kernel tells of a write to the file (inotify), and only rows that moved wake a waiter.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordkit.backends.contract import (
    Backend,
    Behind,
    Candidacy,
    Confirmed,
    Grant,
    Host,
    Lost,
    Renewed,
    Unknown,
)
from coordkit.backends.inotify import IN_ATTRIB, IN_DELETE_SELF, IN_MODIFY, IN_MOVE_SELF, FileEvents
from coordkit.backends.sqlite.database import Database, check_place, identity_of
from coordkit.clock import LINUX, boot_id, host_boottime
from coordkit.errors import ConfigError, Misconfigured
from coordkit.lease import Instant, promise, waited_for, waiting_time
from coordkit.model import MAX_TOKEN, CandidateInfo, FencingToken, Guarantees, LeaderInfo
from coordkit.registry import Address

POLL_SECONDS = 0.1  # where the kernel does not tell of writes
_COLUMNS = "epoch, state, stamp, ttl, boot_id, deadline, holder, label, metadata, proclaimed"


class Row(NamedTuple):
    """The one row of an election."""

    epoch: int
    state: str
    stamp: str
    ttl: float
    boot_id: str | None
    deadline: float
    holder: str
    label: str
    metadata: str
    proclaimed: str

    @property
    def face(self) -> tuple[object, ...]:
        """What a waiter or observer would notice: not the stamp or deadline, which every renewal moves."""
        return self.epoch, self.state, self.holder, self.proclaimed


@dataclass(frozen=True, slots=True)
class Sighting:
    """A row of another boot: since when this candidacy has seen it unmoved."""

    stamp: str
    since: Instant
    moved: bool  # it has moved before our eyes, so its holder lives


class Listener:
    """Set when the face of an election's row may differ from `seen`."""

    def __init__(self, election: str) -> None:
        self.election = election
        self.seen: tuple[object, ...] | None = None
        self.moved = asyncio.Event()


class SQLiteBackend:
    """One open file."""

    def __init__(self, path: str, host: Host, drift: float, promised: Guarantees) -> None:
        self.guarantees = promised
        self.drift = drift
        self.host = host
        self.database = Database(path)
        self.boot = boot_id()
        self._path = path
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._replaced = asyncio.Event()
        self._events: FileEvents | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._poller: asyncio.Task[None] | None = None

    async def open(self) -> None:
        check_place(self._path)
        await self.database.run(lambda connection: connection.execute("SELECT 1").fetchone(), "open")
        self._watch_file()

    async def close(self) -> None:
        for task in (self._poller, self._looking):
            if task is not None:
                task.cancel()
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events.fd)
            self._events.close()
            self._events = None
        self.database.stop()

    def candidacy(self, election: str, candidate: CandidateInfo, ttl: float) -> Candidacy:
        return SQLiteCandidacy(self, election, candidate, ttl)

    async def renew(self, held: Sequence[Grant]) -> Sequence[Renewed | Lost | Unknown]:
        sent = self.host.clock.now()
        mine = [(each, grant.token) for grant in held if isinstance(each := grant.candidacy, SQLiteCandidacy)]
        stamp = self.new_stamp()

        def extend(connection: sqlite3.Connection) -> list[bool]:
            now = host_boottime()
            return [
                connection.execute(
                    "UPDATE coordkit_elections SET deadline = ?, stamp = ? WHERE election = ? AND holder = ? "
                    "AND epoch = ? AND state = 'held' AND boot_id IS ? AND deadline > ?",
                    (now + each.ttl, stamp, each.election, each.candidate.id, token, self.boot, now),
                ).rowcount
                == 1
                for each, token in mine
            ]

        kept = await self.database.run(extend, "renew", writes=True)
        return [
            Renewed(promise(sent, each.ttl, self.drift)) if alive else Lost("the row is gone, over, or another's")
            for (each, _), alive in zip(mine, kept, strict=True)
        ]

    async def leader(self, election: str) -> LeaderInfo | None:
        row = await self.row(election)
        if row is None or not self.leads(row):
            return None
        candidate = CandidateInfo(row.holder, row.label, row.metadata)
        return LeaderInfo(candidate, FencingToken(election, row.epoch), row.proclaimed)

    async def candidates(self, election: str) -> Sequence[CandidateInfo]:
        leader = await self.leader(election)
        return () if leader is None else (leader.candidate,)

    async def changes(self, election: str) -> AsyncIterator[None]:
        listener = self.listen(election)
        while True:
            listener.moved.clear()
            yield
            row = await self.row(election)
            # The end of a lease writes nothing: look again when it is due.
            due = row.deadline - host_boottime() if row is not None and self.leads(row) else None
            try:
                async with asyncio.timeout(due):
                    await listener.moved.wait()
            except TimeoutError:
                continue

    # --- rows ------------------------------------------------------------------------------------------------

    async def row(self, election: str) -> Row | None:
        """The row as it is now, read without the write lock."""
        return await self.database.run(lambda connection: read(connection, election), "read")

    def leads(self, row: Row) -> bool:
        """Whether its holder may still lead, as far as this boot can tell."""
        return row.state == "held" and row.boot_id == self.boot and row.deadline > host_boottime()

    def new_stamp(self) -> str:
        """A value that no other write of any row has."""
        return f"{self.host.chance.getrandbits(64):016x}"

    # --- hints -----------------------------------------------------------------------------------------------

    def listen(self, election: str) -> Listener:
        """Be told of movements in an election, for as long as the listener is kept."""
        listener = Listener(election)
        self._listeners.add(listener)
        return listener

    async def replaced(self) -> None:
        """Return when the file seems to have been moved or deleted."""
        await self._replaced.wait()
        self._replaced.clear()

    def _watch_file(self) -> None:
        if self._events is None and self._poller is None:
            try:
                self._events = FileEvents()
            except OSError as error:
                self.host.log.warning("no file events (%s): looking every %g s", error, POLL_SECONDS)
                self._poller = self.host.spawn(self._poll(), "sqlite-poll")
                return
            asyncio.get_running_loop().add_reader(self._events.fd, self._file_event)
        self._rewatch()

    def _rewatch(self) -> None:
        if self._events is None:
            return
        for path, mask in (
            (self._path, IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB),
            (f"{self._path}-wal", IN_MODIFY | IN_DELETE_SELF | IN_MOVE_SELF),
        ):
            try:
                self._events.watch(path, mask)
            except FileNotFoundError:
                continue  # between two lives of the file; the next look watches it again

    def _file_event(self) -> None:
        if self._events is not None:
            self._events.drain()
            self._look()

    def _look(self) -> None:
        if self._looking is None:
            self._looking = self.host.spawn(self._find_moved(), "sqlite-look")
        else:
            self._look_again = True

    async def _find_moved(self) -> None:
        try:
            while True:
                self._look_again = False
                self._rewatch()
                if identity_of(self._path) is None:
                    self._replaced.set()
                await self._wake_moved()
                if not self._look_again:
                    return
        finally:
            self._looking = None

    async def _wake_moved(self) -> None:
        listeners = list(self._listeners)
        if not listeners:
            return
        elections = {each.election for each in listeners}

        def look(connection: sqlite3.Connection) -> dict[str, tuple[object, ...] | None]:
            return {name: row.face if (row := read(connection, name)) else None for name in elections}

        faces = await self.database.run(look, "look")
        for each in listeners:
            if faces[each.election] != each.seen:
                each.seen = faces[each.election]
                each.moved.set()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._find_moved()


class SQLiteCandidacy:
    """One candidate for one row."""

    def __init__(self, backend: SQLiteBackend, election: str, candidate: CandidateInfo, ttl: float) -> None:
        self.election = election
        self.candidate = candidate
        self.ttl = float(ttl)
        self._backend = backend
        self._listener = backend.listen(election)
        self._sighting: Sighting | None = None

    async def attempt(self) -> Grant | Behind:
        backend, clock = self._backend, self._backend.host.clock
        self._listener.moved.clear()
        row = await backend.row(self.election)
        self._listener.seen = None if row is None else row.face
        behind = self._behind(row)
        if behind is not None:
            return behind
        sent = clock.now()
        taken = await backend.database.run(self._take, "attempt", writes=True, durable=True)
        if isinstance(taken, Behind):
            return taken
        return Grant(self, taken, promise(sent, self.ttl, backend.drift))

    async def changed(self) -> None:
        await self._listener.moved.wait()

    async def revoked(self) -> None:
        # A living row cannot be taken, so only the file itself can be: see Guarantees.
        await self._backend.replaced()

    async def confirm(self, grant: Grant) -> Confirmed | Lost:
        row = await self._backend.row(self.election)
        if row is not None and row.epoch == grant.token and self._is_mine(row) and self._backend.leads(row):
            return Confirmed()
        return Lost("the row is gone, over, or another's")

    async def proclaim(self, grant: Grant, metadata: str) -> Confirmed | Lost:
        backend = self._backend
        values = (metadata, backend.new_stamp(), self.election, self.candidate.id, grant.token, backend.boot)

        def publish(connection: sqlite3.Connection) -> bool:
            update = (
                "UPDATE coordkit_elections SET proclaimed = ?, stamp = ? WHERE election = ? AND holder = ? "
                "AND epoch = ? AND state = 'held' AND boot_id IS ? AND deadline > ?"
            )
            return connection.execute(update, (*values, host_boottime())).rowcount == 1

        if await backend.database.run(publish, "proclaim", writes=True):
            return Confirmed()
        return Lost("the row is gone, over, or another's")

    async def resign(self) -> None:
        backend = self._backend
        values = (backend.new_stamp(), self.election, self.candidate.id)

        def release(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE coordkit_elections SET state = 'released', deadline = 0.0, stamp = ? "
                "WHERE election = ? AND holder = ? AND state = 'held'",
                values,
            )

        # A job that waits in the thread may still win for us; jobs run in order, so this one comes after it.
        await backend.database.run(release, "resign", writes=True)

    def _is_mine(self, row: Row) -> bool:
        return row.state == "held" and row.holder == self.candidate.id

    def _behind(self, row: Row | None) -> Behind | None:
        """Why this row may not be taken now; None if it may."""
        backend = self._backend
        if row is None or row.state == "released" or self._is_mine(row):
            return None
        if row.boot_id is not None and row.boot_id == backend.boot:
            left = row.deadline - host_boottime()
            return Behind(alive=True, wait=left) if left > 0 else None
        # Another boot, or a platform that does not tell: only our own eyes count.
        now = backend.host.clock.now()
        seen = self._sighting
        if seen is None or seen.stamp != row.stamp:
            seen = self._sighting = Sighting(row.stamp, now, moved=seen is not None)
        left = waiting_time(row.ttl, backend.drift) - waited_for(seen.since, now)
        return Behind(alive=seen.moved, wait=left) if left > 0 else None

    def _take(self, connection: sqlite3.Connection) -> int | Behind:
        """In the thread, in a transaction: take the row unless it may not be taken. Returns the epoch."""
        backend = self._backend
        row = read(connection, self.election)
        behind = self._behind(row)
        if behind is not None:
            return behind
        if row is not None and self._is_mine(row):
            epoch = row.epoch  # an earlier try of ours came through, though its answer did not
        else:
            # Above all earlier epochs, and above the clock: a file restored from a backup gives no token twice.
            epoch = max(0 if row is None else row.epoch + 1, int(backend.host.clock.wall() * 1e6))
        if not 1 <= epoch <= MAX_TOKEN:
            raise Misconfigured(f"the next token of {self.election!r} would be {epoch}, out of range", backend="sqlite")
        deadline = host_boottime() + self.ttl
        mine = self.candidate
        connection.execute(
            f"INSERT OR REPLACE INTO coordkit_elections (election, {_COLUMNS}) "
            "VALUES (?, ?, 'held', ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.election,
                epoch,
                backend.new_stamp(),
                self.ttl,
                backend.boot,
                deadline,
                mine.id,
                mine.label,
                mine.metadata,
                mine.metadata,
            ),
        )
        return epoch


def read(connection: sqlite3.Connection, election: str) -> Row | None:
    """The row of an election."""
    select = f"SELECT {_COLUMNS} FROM coordkit_elections WHERE election = ?"
    found = connection.execute(select, (election,)).fetchone()
    return None if found is None else Row(*found)


def check(address: Address) -> None:
    """`sqlite:///absolute/path`: a file, no host."""
    path = address.path
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ConfigError("an SQLite URL reads sqlite:///absolute/path/of/file.db")


def guarantees(address: Address) -> Guarantees:
    """What the file and this platform allow."""
    promised = Guarantees(
        backend="sqlite",
        token="the row's epoch: above its last one and above the clock in microseconds when it was taken",
        fifo=False,
        survives=(
            "a candidate that is killed, paused or dropped",
            "a crash or power cut of the machine",
            "a suspend of the machine",
            "steps of the wall clock",
            "candidates in several containers of one kernel, time namespaces included",
        ),
        not_covered=(
            "candidates on several machines: one file, one kernel",
            "the file deleted or replaced under a leader: two terms until it notices, at most ttl/3",
            "a process stopped inside a transaction: nobody can win or renew until it goes on or dies",
            "a virtual machine that is paused, copied or restored",
        ),
    )
    if LINUX:
        return promised
    return Guarantees(
        promised.backend,
        promised.token,
        promised.fifo,
        tuple(fault for fault in promised.survives if "suspend" not in fault),
        (*promised.not_covered, "a suspend of the machine: this platform's clock does not count it"),
    )


def connect(address: Address, host: Host) -> Backend:
    """A backend on the file of that path, not yet open."""
    return SQLiteBackend(os.path.normpath(address.path), host, address.drift, guarantees(address))
