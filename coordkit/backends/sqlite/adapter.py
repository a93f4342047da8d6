"""Elections in an SQLite file: one row each, its deadline on the host's own clock.

The rules: a challenger takes a row only inside a transaction that has looked at it; the deadline in a row is
CLOCK_BOOTTIME without this time namespace's offset, so it means the same to every process of this boot; a row of
another boot has no deadline here, so a challenger waits a full ttl in which the row does not move. A takeover is on
disk before it is told. Every write stamps the row anew.

A handover is pushed: whoever takes, releases or proclaims touches the file's time stamp after the commit, the kernel
tells those who watch the file (inotify), and only rows that moved wake a waiter. A renewal wakes nobody.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from math import isfinite
from types import NoneType
from typing import NamedTuple

from coordkit.backends.contract import (
    OBSERVE_SECONDS,
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
from coordkit.backends.inotify import IN_ATTRIB, IN_DELETE_SELF, IN_MOVE_SELF, FileEvents
from coordkit.backends.sqlite.database import COLUMNS, Database
from coordkit.clock import LINUX, boot_id, host_boottime
from coordkit.errors import BackendError, ConfigError, Misconfigured
from coordkit.lease import Instant, promise, waited_for, waiting_time
from coordkit.model import MAX_TOKEN, MAX_TTL, CandidateInfo, FencingToken, Guarantees, LeaderInfo
from coordkit.registry import Address

POLL_SECONDS = 0.1  # where the kernel does not tell of writes
AXIS_SECONDS = 1.0  # a deadline that lies more than this beyond a whole lease is not on our clock
_COLUMNS = ", ".join(COLUMNS)


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

    def check(self, election: str) -> Row:
        """Itself, or `Misconfigured` if coordkit cannot have written it: others may write to the file, too."""
        kinds: tuple[type | tuple[type, ...], ...] = (int, str, str, float, (str, NoneType), float, str, str, str, str)
        sound = all(isinstance(value, kind) for value, kind in zip(self, kinds, strict=True))
        if (
            not sound
            or not 1 <= self.epoch <= MAX_TOKEN
            or self.state not in ("held", "released")
            or not 0 < self.ttl <= MAX_TTL
            or not isfinite(self.deadline)
        ):
            shown = ", ".join(f"{name}={value!r:.40}" for name, value in zip(COLUMNS, self, strict=True))
            raise Misconfigured(f"the row of {election!r} is not one of coordkit: {shown}", backend="sqlite")
        return self

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
        self.database = Database(path, self._reopened)
        self.boot = boot_id()
        self._path = path
        self._closed = False
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._replaced = asyncio.Event()
        self._events: FileEvents | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._poller: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.database.run(lambda connection: connection.execute("SELECT 1").fetchone(), "open")

    async def close(self) -> None:
        self._closed = True
        for task in (self._poller, self._looking):
            if task is not None:
                task.cancel()
        self._watch_no_more()
        await self.database.stop()

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
        listener = Listener(election)
        self.listen(listener)
        while True:
            listener.moved.clear()
            yield
            row = await self.row(election)
            # The end of a lease writes nothing: look again when it is due.
            due = row.deadline - host_boottime() if row is not None and self.leads(row) else OBSERVE_SECONDS
            try:
                async with asyncio.timeout(min(due, OBSERVE_SECONDS)):
                    await listener.moved.wait()
            except TimeoutError:
                continue

    # --- rows ------------------------------------------------------------------------------------------------

    async def row(self, election: str) -> Row | None:
        """The row as it is now, read without the write lock."""
        return await self.database.run(lambda connection: read(connection, election), "read")

    def leads(self, row: Row) -> bool:
        """Whether its holder may still lead, as far as this boot can tell."""
        return row.state == "held" and (self.time_left(row) or 0.0) > 0

    def time_left(self, row: Row) -> float | None:
        """Seconds until its lease is over; None if its deadline is not on our clock, and so says nothing."""
        left = row.deadline - host_boottime()
        return left if row.boot_id == self.boot and left <= row.ttl + AXIS_SECONDS else None

    def new_stamp(self) -> str:
        """A value that no other write of any row has."""
        return f"{self.host.chance.getrandbits(64):016x}"

    # --- hints -----------------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Tell it of movements in its election, for as long as it is kept and does not unlisten."""
        self._listeners.add(listener)

    def unlisten(self, listener: Listener) -> None:
        """Tell it no more: a row is read for every listener whenever the file is written."""
        self._listeners.discard(listener)

    async def replaced(self) -> None:
        """Return when the file seems to have been moved, deleted or replaced."""
        await self._replaced.wait()
        self._replaced.clear()

    def _reopened(self, another: bool) -> None:
        if self._closed:
            return
        if another:
            self._replaced.set()
        self._watch_file()
        self._look()  # for what was told before it was watched

    def _watch_file(self) -> None:
        if self._poller is not None:
            return
        try:
            if self._events is None:
                self._events = FileEvents()
                asyncio.get_running_loop().add_reader(self._events.fd, self._file_event)
            self._events.watch(self._path, IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF)  # unlinking is an ATTRIB, too
        except FileNotFoundError:
            return  # moved away just now: the next job finds out and opens what is there
        except OSError as error:
            self.host.log.warning("no file events (%s): looking every %g s", error, POLL_SECONDS)
            self._watch_no_more()
            self._poller = self.host.spawn(self._poll(), "sqlite-poll")

    def _watch_no_more(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            asyncio.get_running_loop().remove_reader(events.fd)
            events.close()

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
                await self._wake_moved()
                if not self._look_again:
                    return
        finally:
            self._looking = None

    async def _wake_moved(self) -> None:
        listeners = list(self._listeners)
        elections = {each.election for each in listeners}

        def look(connection: sqlite3.Connection) -> dict[str, tuple[object, ...] | None]:
            return {name: row.face if (row := read(connection, name)) else None for name in elections}

        try:
            faces = await self.database.run(look, "look")  # the thread looks whether the file is still there
        except BackendError as error:
            # Whoever leads or waits finds out by itself what that means: a hint, as any other.
            self.host.log.info("looking for movements: %r", error)
            self._replaced.set()
            for each in listeners:
                each.moved.set()
            return
        for each in listeners:
            if faces[each.election] != each.seen:
                each.seen = faces[each.election]
                each.moved.set()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self._look()


class SQLiteCandidacy:
    """One candidate for one row."""

    def __init__(self, backend: SQLiteBackend, election: str, candidate: CandidateInfo, ttl: float) -> None:
        self.election = election
        self.candidate = candidate
        self.ttl = float(ttl)
        self._backend = backend
        self._listener = Listener(election)
        self._sighting: Sighting | None = None

    async def attempt(self) -> Grant | Behind:
        backend, clock = self._backend, self._backend.host.clock
        self._listener.moved.clear()
        backend.listen(self._listener)
        row = await backend.row(self.election)
        self._listener.seen = None if row is None else row.face
        behind = self._behind(row)
        if behind is not None:
            return behind
        sent = clock.now()
        taken = await backend.database.run(self._take, "attempt", writes=True, durable=True, tells=True)
        if isinstance(taken, Behind):
            return taken
        backend.unlisten(self._listener)
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

        if await backend.database.run(publish, "proclaim", writes=True, tells=True):
            return Confirmed()
        return Lost("the row is gone, over, or another's")

    async def resign(self) -> None:
        backend = self._backend
        backend.unlisten(self._listener)
        values = (backend.new_stamp(), self.election, self.candidate.id)

        def release(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE coordkit_elections SET state = 'released', deadline = 0.0, stamp = ? "
                "WHERE election = ? AND holder = ? AND state = 'held'",
                values,
            )

        # A job that waits in the thread may still win for us; jobs run in order, so this one comes after it.
        await backend.database.run(release, "resign", writes=True, tells=True)

    def _is_mine(self, row: Row) -> bool:
        return row.state == "held" and row.holder == self.candidate.id

    def _behind(self, row: Row | None) -> Behind | None:
        """Why this row may not be taken now; None if it may."""
        backend = self._backend
        if row is None or row.state == "released" or self._is_mine(row):
            return None
        left = backend.time_left(row)
        if left is not None and row.boot_id is not None:
            return Behind(alive=True, wait=left) if left > 0 else None
        # Another boot, an impossible deadline, or a platform that does not tell: only our own eyes count.
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
            epoch = max(1 if row is None else row.epoch + 1, int(backend.host.clock.wall() * 1e6))
        if epoch > MAX_TOKEN:
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
    return None if found is None else Row(*found).check(election)


def check(address: Address) -> None:
    """`sqlite:///absolute/path`: a file, no host."""
    path = address.path
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ConfigError("an SQLite URL reads sqlite:///absolute/path/of/file.db")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigError("the path of an SQLite URL must be encodable as UTF-8") from None


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
