"""What there is to look at in an SQLite file: its place, its modes, its health, what lies in it.

The rule: nothing is made and nothing changed. The file is not opened as an elector opens it, which would make it and
put it into WAL mode; the transaction that shows whether it can be written is rolled back before anything is written.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final
from urllib.parse import quote

from coordkit.backends.contract import Backend
from coordkit.backends.inotify import FileEvents
from coordkit.backends.sqlite.adapter import POLL_SECONDS, Row, SQLiteBackend
from coordkit.backends.sqlite.database import (
    COLUMNS,
    check_place,
    check_tables,
    has_tables,
    is_busy,
    mount_of,
    translated,
)
from coordkit.errors import BackendError, Misconfigured
from coordkit.findings import Check, Finding, count, failed, of_error, ok, some, unchecked, warning
from coordkit.registry import Address

Look = Callable[[sqlite3.Connection, float], Finding]

STEP_INSTRUCTIONS: Final = 20_000  # of SQLite's machine, between two looks at the time
LAYERED: Final = ("overlay", "aufs")
OURS: Final = ("coordkit_format", "coordkit_elections")


def checks(backend: Backend, address: Address, ttl: float) -> Sequence[Check]:
    """Each thing that an elector relies on, the place first."""
    assert isinstance(backend, SQLiteBackend)
    host, path = backend.host, address.path

    def outside(name: str, look: Callable[[str], Finding], needs: str = "") -> Check:
        """A look at the file from outside."""

        async def looked(_: float) -> Sequence[Finding]:
            return [await host.offload(lambda: look(path))]

        return Check(name, looked, needs)

    def inside(name: str, look: Look, needs: str) -> Check:
        """A look into the file, over a connection of its own; none at one that is not there yet."""

        async def looked(seconds: float) -> Sequence[Finding]:
            return await host.offload(lambda: _looked(name, path, look, seconds))

        return Check(name, looked, needs)

    return [
        outside("place", _place),
        outside("file", _file, "place"),
        inside("tables", _tables, "file"),
        inside("journal", _journal, "tables"),
        inside("synchronous", _synchronous, "tables"),
        inside("write lock", _write_lock, "tables"),
        inside("integrity", _integrity, "tables"),
        inside("rows", _rows, "tables"),
        outside("file events", _events, "place"),
    ]


# --- from outside --------------------------------------------------------------------------------------------


def _place(path: str) -> Finding:
    try:
        check_place(path)
    except BackendError as error:
        meaning = "two processes could both lead, or nobody can; so coordkit refuses"
        return failed("place", str(error), meaning, "name a file in a local directory that all candidates share")
    point, kind = mount_of(path) or ("an unknown mount", "unknown")
    told = f"a file system of type {kind}, mounted at {point}"
    if kind in LAYERED:
        meaning = "the layer is one container's own: candidates in two containers have two files, and both lead"
        return warning("place", told, meaning, "mount a directory that all candidates share")
    return ok("place", told, "its locks are those of one kernel, so of two candidates one waits")


def _file(path: str) -> Finding:
    folder = os.path.dirname(os.path.realpath(path))
    if not os.access(folder, os.W_OK | os.X_OK):
        meaning = "SQLite keeps its log beside the file: a candidate of this user can never lead"
        return failed("file", f"the directory {folder} may not be written", meaning, "give this user the right")
    if not os.path.exists(path):
        return ok("file", "not there yet; the first candidate makes it", "nothing else is to be looked at so far")
    if not os.access(path, os.R_OK | os.W_OK):
        meaning = "a candidate of this user can never lead"
        return failed("file", f"{path} may not be read and written", meaning, "give this user the right")
    size = count(os.stat(path).st_size, "byte")
    return ok("file", f"there, {size}, and may be written", "a candidate of this user can lead")


def _events(path: str) -> Finding:
    try:
        FileEvents().close()
    except OSError as error:
        meaning = f"a handover is seen after up to {POLL_SECONDS:g} s instead of at once; it is as safe"
        return warning("file events", f"no inotify: {error}", meaning, "raise fs.inotify.max_user_instances")
    return ok("file events", "inotify", "who waits is woken at once")


# --- from inside ---------------------------------------------------------------------------------------------


def _looked(name: str, path: str, look: Look, seconds: float) -> Sequence[Finding]:
    if not os.path.exists(path):
        return []
    uri = f"file:{quote(os.path.realpath(path))}?mode=rw"  # which makes no file
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=min(1.0, seconds / 2))) as connection:
            connection.text_factory = _any_text
            return [look(connection, seconds)]
    except (sqlite3.Error, OSError, BackendError) as error:
        return [of_error(name, translated(error, name, path))]


def _tables(connection: sqlite3.Connection, seconds: float) -> Finding:
    made = has_tables(connection)
    if made:
        check_tables(connection, "the file")
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    others = sorted({str(name) for (name,) in connection.execute(names)}.difference(OURS))
    told = "coordkit's, of this version's format" if made else "none of coordkit yet"
    if others:
        told += f"; {count(len(others), 'table')} of other programs, which do no harm: {some(others)}"
    return ok("tables", told, "every candidate reads and writes the same")


def _journal(connection: sqlite3.Connection, seconds: float) -> Finding:
    unused = _pragma(connection, "page_count") == "0"  # somebody has made an empty file for us
    mode = _pragma(connection, "journal_mode")
    if mode != "wal" and not unused:
        meaning = "the first candidate changes it to wal, and every program that uses the file has to live with that"
        remedy = "give the elections a file of their own, or run PRAGMA journal_mode=wal when you choose"
        return warning("journal", f"mode {mode}", meaning, remedy)
    told = "the first candidate chooses the write-ahead log" if unused else "the write-ahead log"
    return ok("journal", told, "readers hold up no renewal, and a handover is seen after its commit")


def _synchronous(connection: sqlite3.Connection, seconds: float) -> Finding:
    connection.execute("PRAGMA synchronous=FULL")
    mode = _pragma(connection, "synchronous")
    if mode != "2":
        meaning = "a takeover that was told may be forgotten in a power cut"
        return failed("synchronous", f"FULL was asked for, it is {mode}", meaning, "use another build of SQLite")
    return ok("synchronous", f"FULL for takeovers (SQLite {sqlite3.sqlite_version})", "on disk before they are told")


def _write_lock(connection: sqlite3.Connection, seconds: float) -> Finding:
    wait = 0.8 * seconds
    connection.execute(f"PRAGMA busy_timeout={max(1, round(wait * 1000))}")
    began = time.monotonic()
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        meaning = "while another process holds it nobody can win or renew, and terms end by their clocks"
        remedy = "find the process that is stopped inside a transaction, with fuser or lsof, and end it"
        return failed("write lock", f"not to be had in {wait:.3g} s", meaning, remedy)
    took = time.monotonic() - began
    connection.execute("ROLLBACK")
    return ok("write lock", f"had after {took:.3f} s", "a candidate can win and renew")


def _integrity(connection: sqlite3.Connection, seconds: float) -> Finding:
    until = time.monotonic() + 0.8 * seconds
    connection.set_progress_handler(lambda: time.monotonic() > until, STEP_INSTRUCTIONS)
    try:
        told = _pragma(connection, "quick_check(1)")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return unchecked("integrity", "quick_check takes longer than there is time for")
    if told != "ok":
        meaning = "rows may be lost, and epochs with them: two may lead"
        return failed("integrity", told, meaning, "stop all candidates, and restore the file or remove it")
    return ok("integrity", "quick_check finds nothing", "rows are what was written")


def _rows(connection: sqlite3.Connection, seconds: float) -> Finding:
    if not has_tables(connection):
        return ok("rows", "none yet", "the first epoch is above the clock")
    number, wrong = 0, []
    for election, *values in connection.execute(f"SELECT election, {', '.join(COLUMNS)} FROM coordkit_elections"):
        number += 1
        if not _sound(str(election), values):
            wrong.append(repr(election))
    if wrong:
        told = f"{len(wrong)} of {count(number, 'row')} cannot have been written by coordkit: {some(sorted(wrong))}"
        meaning = "in those elections nobody is elected; the others are not touched"
        return failed("rows", told, meaning, "delete those rows while nobody leads there, and raise fences by hand")
    return ok("rows", count(number, "election"), "epochs are remembered, so tokens rise")


def _sound(election: str, values: Sequence[object]) -> bool:
    try:
        Row(*values).check(election)  # type: ignore[arg-type]  # what they are is what is asked
    except Misconfigured:
        return False
    return not any("\udc80" <= char <= "\udcff" for text in values if isinstance(text, str) for char in text)


def _pragma(connection: sqlite3.Connection, name: str) -> str:
    return str(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _any_text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")  # what is not UTF-8 is told of, not raised
