"""`FileFence` on a real file system: old or new content, and a token that is not lower, whenever the writer dies."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import stat
import threading
from pathlib import Path

import pytest

from coordkit import (
    ConfigError,
    FencingToken,
    LeaderElector,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.fencing import FileFence, file
from tests.expected import PLATFORM
from tests.integration import filefence_scenes as scenes
from tests.integration.filefence_scenes import content_of, written_under
from tests.support.children import Child

pytestmark = pytest.mark.backend("file")


def token(value: int, election: str = "e") -> FencingToken:
    return FencingToken(election, value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def fence(path: Path) -> FileFence:
    return FileFence(path)


# -- one writer ------------------------------------------------------------------------------------------


def test_a_higher_and_an_equal_token_write_a_stale_one_writes_nothing(fence: FileFence, path: Path) -> None:
    for value in (5, 5, 7):
        fence.write(token(value), str(value))
    for stale in (
        lambda: fence.write(token(6), "6"),
        lambda: fence.update(token(6), lambda _: pytest.fail("a stale writer was let in")),
        lambda: fence.admit(token(6)),
    ):
        with pytest.raises(StaleToken) as caught:
            stale()
        assert (caught.value.offered, caught.value.newest) == (token(6), token(7))
    assert path.read_text() == "7"
    assert fence.newest("e") == token(7)
    assert FileFence(path).newest("e") == token(7)
    assert sorted(each.name for each in path.parent.iterdir()) == ["state", "state.fence", "state.fence-lock"]


def test_an_update_sees_what_is_there(fence: FileFence, path: Path) -> None:
    fence.update(token(1), lambda old: old + b"one")
    fence.update(token(2), lambda old: old + b"\xff")
    assert path.read_bytes() == b"one\xff"

    def fails(_: bytes) -> bytes:
        raise FileNotFoundError("of the caller")

    with pytest.raises(FileNotFoundError, match="of the caller"):
        fence.update(token(3), fails)
    assert path.read_bytes() == b"one\xff"
    assert fence.newest("e") == token(3)


def test_the_largest_tokens_and_odd_names(fence: FileFence, tmp_path: Path) -> None:
    fence.admit(token(2**63 - 1))
    with pytest.raises(StaleToken):
        fence.admit(token(2**63 - 2))
    for number, election in enumerate(["é/=%", "x" * 255, "a=1"], 1):
        other = FileFence(tmp_path / str(number))
        other.write(token(2**63 - 1, election), b"")
        assert other.newest(election) == token(2**63 - 1, election)


def test_a_token_of_another_election_is_refused(fence: FileFence, path: Path) -> None:
    """Its number says nothing here, be it as high as it may."""
    fence.write(token(5), "five")
    with pytest.raises(ConfigError, match="of the election 'e', not of 'f'"):
        fence.write(token(9, "f"), "nine")
    with pytest.raises(ConfigError, match="of the election 'e', not of 'f'"):
        fence.newest("f")
    with pytest.raises(ConfigError, match="of the election 'g', not of 'e'"):
        FileFence(path, "g").write(token(9), "nine")
    assert path.read_text() == "five"
    fence.overwrite(token(1, "f"))
    FileFence(path, "f").write(token(1, "f"), "moved")
    assert path.read_text() == "moved"


def test_the_mode_is_kept_and_all_names_of_a_file_have_one_fence(fence: FileFence, path: Path, tmp_path: Path) -> None:
    path.write_text("old")
    path.chmod(0o640)
    (tmp_path / "link").symlink_to("state")
    FileFence(tmp_path / "link").write(token(5), "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert (tmp_path / "link").is_symlink()
    assert path.read_text() == "new"
    with pytest.raises(StaleToken):
        fence.write(token(4), "stale")


def test_an_operator_may_lower_it(fence: FileFence) -> None:
    fence.admit(token(9))
    fence.overwrite(token(3))
    fence.write(token(3), "three")


# -- those who die ---------------------------------------------------------------------------------------


def test_killed_before_each_step_of_a_write(path: Path) -> None:
    """A step is a call that the file's fate depends on; there is none between which the state is not one of these."""
    before = 1
    FileFence(path).write(token(before), content_of(before))
    for step in range(200):
        value = step + 2
        with Child(scenes.dies_at, path, value, step) as child:
            code = child.exit_code()
        found = written_under(path.read_text())
        newest = FileFence(path).newest("e")
        assert newest is not None
        assert before <= found <= int(newest) <= value
        before = found
        if code == 0:
            assert found == value
            break
        assert code == -signal.SIGKILL
    else:
        pytest.fail("a write has no so many steps")
    assert step >= 12, "the steps are not counted"


def test_killed_at_any_instant(path: Path) -> None:
    chance, first = random.Random(6), 1
    for _ in range(15):
        with Child(scenes.writes_for_ever, path, first) as child:
            child.expect("writing")
            threading.Event().wait(chance.uniform(0, 0.05))  # any instant: nothing tells when it comes
            child.send(signal.SIGKILL)
            child.exit_code()
        found, newest = written_under(path.read_text()), FileFence(path).newest("e")
        assert newest is not None
        assert first <= found <= int(newest) <= found + 1
        first = int(newest) + 1
    FileFence(path).write(token(first), content_of(first))


def test_nothing_is_written_under_a_token_that_was_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is on the disk before the content: the other way round a death between would let a stale writer in."""
    fence = FileFence(path)
    fence.write(token(1), "1")
    replace = os.replace

    def dies_at_the_token(old: str, new: str) -> None:
        if new.endswith(file.TOKEN):
            raise OSError("killed")
        replace(old, new)

    monkeypatch.setattr(os, "replace", dies_at_the_token)
    with pytest.raises(OutcomeUnknown):
        fence.write(token(5), "5")
    monkeypatch.undo()
    assert path.read_text() == "1"


def test_eight_writers_with_interleaved_tokens(path: Path) -> None:
    """Of several processes: accepted tokens never fall, and no accepted write is lost."""
    writers, steps = 8, 25
    children = [Child(scenes.writes_interleaved, path, writers, number, steps) for number in range(writers)]
    try:
        for child in children:
            child.tell()
        accepted = []
        for child in children:
            while (line := child.line(60)) != "done":
                accepted.append(int(line.split()[1]))
    finally:
        for child in children:
            child.__exit__(None)
    log = [int(line) for line in path.read_text().split()]
    assert log == sorted(log)
    assert log == sorted(accepted)
    assert int(FileFence(path).newest("e") or 0) == log[-1]


def test_who_is_stopped_inside_keeps_the_others_out_until_it_is_killed(path: Path) -> None:
    with Child(scenes.holds, path) as child:
        child.expect("inside")
        child.send(signal.SIGSTOP)
        with pytest.raises(Unavailable, match="another writer holds the lock"):
            FileFence(path, timeout=0.2).write(token(2), "mine")
        child.send(signal.SIGKILL)
        child.exit_code()
    FileFence(path).write(token(2), "mine")
    assert path.read_text() == "mine"


def test_a_forked_child_that_leaves_the_update_does_not_unlock_it(path: Path) -> None:
    """It leaves by an exception, as by `sys.exit`, while its parent goes on writing."""

    def forks(before: bytes) -> bytes:
        if not (pid := os.fork()):
            raise SystemExit
        assert os.waitpid(pid, 0)[1] == 0
        with pytest.raises(Unavailable):
            FileFence(path, timeout=0.05).admit(token(2))
        return before + b"x"

    try:
        FileFence(path).update(token(1), forks)
    except SystemExit:
        os._exit(0)
    FileFence(path).admit(token(2))


def test_a_forked_child_does_not_keep_the_lock(path: Path) -> None:
    read, write = os.pipe()
    pid = 0

    def forks(_: bytes) -> bytes:
        nonlocal pid
        pid = os.fork()
        if pid == 0:
            os.read(read, 1)  # lives on, with the descriptor
            os._exit(0)
        return b"1"

    try:
        FileFence(path).update(token(1), forks)
        FileFence(path, timeout=0.5).write(token(2), "2")
    finally:
        os.write(write, b"x")
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [b"", b"rubbish", b"e=5", b"e=05\n", b"e=0\n", b"e=-1\n", b"e=9223372036854775808\n", b"\xff=5\n", b"e=5\n\n"],
)
def test_foreign_data_beside_the_file(fence: FileFence, path: Path, odd: bytes) -> None:
    path.with_name("state.fence").write_bytes(odd)
    for call in (lambda: fence.write(token(9), "nine"), lambda: fence.newest("e")):
        with pytest.raises(Misconfigured, match="holds no token"):
            call()
    assert not path.exists()
    assert path.with_name("state.fence").read_bytes() == odd


def test_a_huge_file_in_the_place_of_the_token_is_not_read(fence: FileFence, path: Path) -> None:
    with path.with_name("state.fence").open("wb") as huge:
        huge.truncate(2**40)
    with pytest.raises(Misconfigured, match="holds no token"):
        fence.admit(token(1))


def test_places_where_there_can_be_no_fence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "one").write_text("1")
    os.link(tmp_path / "one", tmp_path / "two")
    (tmp_path / "round").symlink_to("round")
    for name in ("absent/state", "folder", "pipe", "one", "round", "one/state"):
        with pytest.raises(Misconfigured):
            FileFence(tmp_path / name).write(token(1), "1")
    (tmp_path / "state.fence").mkdir()
    with pytest.raises(Misconfigured):
        FileFence(tmp_path / "state").write(token(1), "1")
    (tmp_path / "own.fence-lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Misconfigured):
        FileFence(tmp_path / "own").write(token(1), "1")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_network_file_systems_are_refused(fence: FileFence, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "mount_of", lambda path: ("/", kind))
    with pytest.raises(Misconfigured, match=f"on a {kind} file system"):
        fence.write(token(1), "1")
    assert not list(Path(fence.path).parent.iterdir())


def test_a_lock_that_was_taken_away_is_noticed(fence: FileFence, path: Path) -> None:
    """Whoever removes it lets another writer in beside the one that holds it."""

    def removes(_: bytes) -> bytes:
        path.with_name("state.fence-lock").unlink()
        return b"1"

    fence.admit(token(1))
    with pytest.raises(Misconfigured, match="was removed while it was held"):
        fence.update(token(1), removes)
    assert not path.exists()
    fence.write(token(1), "1")


def test_a_lock_that_was_removed_before_it_was_locked_is_not_taken_for_one(
    fence: FileFence, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, times = fcntl.flock, []

    def removed_first(descriptor: int, how: int) -> None:
        if how & fcntl.LOCK_EX:
            times.append(how)
            if len(times) == 1:
                path.with_name("state.fence-lock").unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    fence.write(token(1), "1")
    assert len(times) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason=PLATFORM + "no /dev/full")
def test_a_disk_without_space_leaves_what_was_there(
    fence: FileFence, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence.write(token(1), "old")
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(os, "write", lambda descriptor, data, write=os.write: write(full, data))
    with pytest.raises(Unavailable, match="No space left"):
        fence.write(token(1), "new")
    monkeypatch.undo()
    os.close(full)
    assert path.read_text() == "old"
    fence.write(token(1), "new")


def test_errors_by_their_number(fence: FileFence, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "not yours")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(Rejected) as caught:
        fence.write(token(1), "1")
    assert (caught.value.backend, caught.value.operation) == ("file", "write")


def test_a_failure_after_the_rename_leaves_the_outcome_open(
    fence: FileFence, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence.write(token(1), "old")
    fsync = os.fsync

    def fails_on_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "the disk")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_on_folders)
    with pytest.raises(OutcomeUnknown):
        fence.write(token(1), "new")
    assert path.read_text() == "new"


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    for odd in ("", None, 5, b"bytes", "a\0b", "folder/", "x" * 250):
        with pytest.raises(ConfigError):
            FileFence(odd)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        FileFence(tmp_path / "state", timeout=0)
    fence = FileFence(tmp_path / "state", "e")
    for call in (
        lambda: fence.write(7, "7"),  # type: ignore[arg-type]
        lambda: fence.write("e=7", "7"),  # type: ignore[arg-type]
        lambda: fence.admit(None),  # type: ignore[arg-type]
        lambda: fence.write(token(7), None),  # type: ignore[arg-type]
        lambda: fence.write(token(7), "\ud800"),
        lambda: fence.update(token(7), lambda _: 7),  # type: ignore[arg-type, return-value]
        lambda: fence.newest(""),
    ):
        with pytest.raises(ConfigError):
            call()
    assert not (tmp_path / "state").exists()
    assert repr(fence) == f"<FileFence {str(tmp_path / 'state')!r}>"


def test_a_leader_shows_its_token_before_its_body_begins(fence: FileFence, path: Path, tmp_path: Path) -> None:
    elector = LeaderElector(f"sqlite://{tmp_path}/election.db", "e", ttl=20, fences=[fence])
    with elector.lead() as term:
        assert fence.newest("e") == term.token
        fence.write(term.token, "led")
    fence.admit(token(int(term.token) + 10**9))
    with pytest.raises(StaleToken), elector.lead():
        pytest.fail("the body ran under a token that the resource refuses")
    elector.close()
    assert path.read_text() == "led"
