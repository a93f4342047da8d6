"""The kernel tells of a file that was touched, moved or deleted; where it cannot, that is said at once.

The rule: readiness is asked of `select` with no timeout to wait for: an event of this process's own act is there
when the act returns.
"""

from __future__ import annotations

import errno
import os
import resource
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordkit.backends import inotify
from coordkit.backends.inotify import IN_ATTRIB, IN_DELETE_SELF, IN_MOVE_SELF, FileEvents
from coordkit.clock import LINUX

ALL = IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF
linux = pytest.mark.skipif(not LINUX, reason="platform: inotify is Linux's")


def told(events: FileEvents) -> bool:
    readable, _, _ = select.select([events.fd], [], [], 0)
    return bool(readable)


@pytest.fixture
def events() -> Iterator[FileEvents]:
    made = FileEvents()
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ä watched file"
    path.write_text("before")
    return path


@linux
@pytest.mark.parametrize(
    "act",
    [
        os.utime,
        lambda path: os.rename(path, f"{path}.moved"),
        os.unlink,
        lambda path: os.replace(_beside(path), path),
    ],
    ids=["touch", "move", "delete", "replace"],
)
def test_what_happens_to_a_watched_file_is_told(events: FileEvents, file: Path, act: Callable[[str], object]) -> None:
    events.watch(str(file), ALL)
    assert not told(events)
    act(str(file))
    assert told(events)


def _beside(path: str) -> str:
    other = Path(f"{path}.new")
    other.write_text("another")
    return str(other)


@linux
def test_what_was_not_asked_for_is_not_told(events: FileEvents, file: Path) -> None:
    events.watch(str(file), ALL)
    file.read_text()
    file.with_name("other").write_text("x")
    assert not told(events)


@linux
def test_draining_forgets_all_and_never_blocks(events: FileEvents, file: Path) -> None:
    events.watch(str(file), ALL)
    for time in range(3):
        os.utime(file, (time, time))
    events.drain()
    assert not told(events)
    events.drain()
    os.utime(file)
    assert told(events)


@linux
def test_watching_again_is_harmless_and_follows_the_path(events: FileEvents, file: Path) -> None:
    for _ in range(3):
        events.watch(str(file), ALL)
    os.rename(file, f"{file}.old")
    file.write_text("another")
    events.watch(str(file), ALL)
    events.drain()
    os.utime(file)
    assert told(events)


@linux
def test_a_file_that_is_not_there_cannot_be_watched(events: FileEvents, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        events.watch(str(tmp_path / "absent"), ALL)


@linux
def test_the_descriptor_is_not_inherited_and_gone_after_close(file: Path) -> None:
    events = FileEvents()
    assert not os.get_inheritable(events.fd)
    assert not os.get_blocking(events.fd)
    events.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        events.watch(str(file), ALL)


@linux
def test_where_no_descriptor_is_left_it_says_so() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(OSError) as caught:
            FileEvents()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def test_elsewhere_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inotify, "LINUX", False)
    with pytest.raises(OSError, match="no inotify on this platform"):
        FileEvents()
