"""The journal of terms: JSON lines by which `coordkit audit` judges whether two leaders ever overlapped.

The rule: what lets a body act is on file before the body can act; what ends a term is stamped with the moment of
its local end. One `os.write` per line to a file opened O_APPEND: processes share a file, and `kill -9` loses at
most lines not yet written, which the checker counts against us. A line that a full disk cut short gets its line break
when there is room again: its writer lives, so the checker is told.

Set COORDKIT_JOURNAL to a path to record; without it a write costs nothing but the look at the variable. Each line has
`event`, `pid`, `process` (new for each process, for pids come again), `boot` (seconds since the host booted), `mono`
(CLOCK_MONOTONIC), `boot_id`, and what the event names:

  campaign  entry candidate election                  a candidate begins
  won       entry candidate election token ttl sent deadline   before the term is handed over
  renewed   entry election token at sent deadline     before it is applied; `at`: when the promise before still stood
  jeopardy  entry election token detail
  lost      entry election token reason at            `at`: the local end
  resigned  entry election token at                   written before the store is told
  watched   entry election token                      the first on_lost callback is registered
  notified  entry election token                      on_lost callbacks are started

Of writes to a resource, by `coordkit.fencing.recorded`; `write` is new for each attempt:

  tried     election token resource write             before the resource is asked
  accepted  election token resource write             right after it has answered
  refused   election token resource write newest      likewise; `newest`: the token that it had seen

Of faults, by whoever causes them, such as a test; without `pid`, `process`, `boot` and `mono`:

  fault     kind target since until boot_id [blocks]  on the axis of `boot`; `blocks`: nobody can be elected meanwhile

`sent`, `deadline`, `at` are given as readings of CLOCK_BOOTTIME and written on the axis of `boot`, so that the
journals of all processes of a host compare, whatever their time namespaces.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

from coordkit import clock
from coordkit.backends.contract import Journal
from coordkit.errors import ConfigError

_log = logging.getLogger("coordkit")


class NoJournal:
    """Nothing is recorded."""

    def write(self, event: str, /, **fields: object) -> None:
        """Forget it."""


_NONE = NoJournal()


class FileJournal:
    """Appends to one file; writes never block on a lock of this process."""

    def __init__(self, path: str, complain: Callable[[str], object] = lambda _: None) -> None:
        self._complain = complain
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._half = False  # what this process wrote last has no line break yet
        self._boot_id = clock.boot_id()
        self._offset = clock.boottime_offset(os.getpid())

    def write(self, event: str, /, **fields: object) -> None:
        """Append one line. A line that cannot be written is complained of, and missed by the checker."""
        record = {
            "event": event,
            "pid": os.getpid(),
            "process": _process(),
            "boot": clock.host_boottime(),
            "mono": clock.system_clock().now().mono,
            "boot_id": self._boot_id,
            **{name: self._on_host_axis(name, value) for name, value in fields.items()},
        }
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        if self._half:
            line = b"\n" + line
        try:
            written = os.write(self._file, line)
        except OSError as error:  # a full disk ends the record, never a term
            self._complain(f"the journal misses a line: {error}")
            return
        if written:
            self._half = not line[:written].endswith(b"\n")
        if written != len(line):
            self._complain("the journal has half a line: no space is left")

    def close(self) -> None:
        """Give the file up; what is written later is complained of."""
        file, self._file = self._file, -1
        os.close(file)

    def _on_host_axis(self, name: str, value: object) -> object:
        if name in ("sent", "deadline", "at") and isinstance(value, float):
            return value - self._offset
        return value


def journal_from_environment(complain: Callable[[str], object] = lambda _: None) -> Journal:
    """The journal that COORDKIT_JOURNAL asks for; `ConfigError` if it cannot be opened."""
    path = os.environ.get("COORDKIT_JOURNAL")
    if not path:
        return NoJournal()
    return _open(path, complain)


def _open(path: str, complain: Callable[[str], object]) -> FileJournal:
    try:
        return FileJournal(path, complain)
    except (OSError, ValueError) as error:
        raise ConfigError(f"COORDKIT_JOURNAL: {error}") from error


_names: dict[int, str] = {}  # of processes, by pid: a forked child inherits its parent's


def _process() -> str:
    """What no other process is called, and all journals of this one say."""
    pid = os.getpid()
    return _names.get(pid) or _names.setdefault(pid, f"{clock.system_chance().getrandbits(64):016x}")


_opened: dict[tuple[int, str], FileJournal] = {}  # by process and path, for those who have no engine


def journal_of_this_process() -> Journal:
    """The journal that COORDKIT_JOURNAL asks for at this moment, opened once; `ConfigError` if it cannot be."""
    path = os.environ.get("COORDKIT_JOURNAL")
    if not path:
        return _NONE
    key = (os.getpid(), path)
    found = _opened.get(key)
    if found is None:
        _close_inherited(key[0])
        opened = _open(path, _log.error)
        found = _opened.setdefault(key, opened)
        if found is not opened:  # another thread was faster
            opened.close()
    return found


def _close_inherited(pid: int) -> None:
    """What a forked child has of its parents' journals."""
    for key in list(_opened):
        if key[0] != pid and (inherited := _opened.pop(key, None)) is not None:
            inherited.close()
