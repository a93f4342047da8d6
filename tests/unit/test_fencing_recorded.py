"""`recorded`: what a journal has of writes, and what they cost.

The rule: the lines are read back as `coordkit audit` reads them; a process that is killed is a real one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from coordkit import ConfigError, FencingToken, StaleToken, Unavailable
from coordkit.audit import Outcome, Record, judge, parse
from coordkit.fencing import MemoryFence, SQLFence, recorded
from tests.support.children import Child, hear, say

ONE, TWO = FencingToken("jobs", 1), FencingToken("jobs", 2)


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Record]]:
    path = tmp_path / "journal"
    monkeypatch.setenv("COORDKIT_JOURNAL", str(path))

    def read() -> list[Record]:
        records, cut = parse(path.read_bytes())
        assert not cut
        return records

    return read


Lines = Callable[[], list[Record]]


def test_a_write_is_on_file_before_it_is_made_and_after_it_was_accepted(lines: Lines) -> None:
    with recorded(ONE, "ledger"):
        assert [line["event"] for line in lines()] == ["tried"]
    with recorded(ONE, "ledger"):
        pass
    first, answer, *second = lines()
    assert (first["event"], answer["event"]) == ("tried", "accepted")
    for name, value in {"election": "jobs", "token": 1, "resource": "ledger", "pid": os.getpid()}.items():
        assert first[name] == answer[name] == value
    assert first["write"] == answer["write"] != second[0]["write"]
    assert judge(lines()).ok


def test_a_refusal_is_on_file_with_what_the_fence_had_seen_and_goes_on(lines: Lines) -> None:
    fence = MemoryFence()
    fence.admit(TWO)
    with pytest.raises(StaleToken), recorded(ONE, "ledger"), fence.admitted(ONE):
        pytest.fail("it was admitted")
    _, refused = lines()
    assert (refused["event"], refused["newest"], refused["token"]) == ("refused", 2, 1)
    assert judge(lines()).count_writes(Outcome.REFUSED) == 1


@pytest.mark.parametrize("error", [Unavailable("x", backend="b", operation="o"), StaleToken(TWO, TWO), SystemExit(1)])
def test_whatever_else_ends_the_block_leaves_the_outcome_unknown(lines: Lines, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, recorded(ONE, "ledger"):
        raise error
    assert raised.value is error
    assert [line["event"] for line in lines()] == ["tried"]
    assert judge(lines()).count_writes(Outcome.UNKNOWN) == 1


def test_of_blocks_within_each_other_only_the_innermost_was_refused(lines: Lines) -> None:
    """The outer resource may have taken it: no fence of its own has said otherwise."""
    fence = MemoryFence()
    fence.admit(TWO)
    with pytest.raises(StaleToken), recorded(ONE, "outer"), recorded(ONE, "middle"):
        with recorded(ONE, "inner"):
            pass
        with recorded(ONE, "inner"):
            fence.admit(ONE)
    told = [(write.resource, write.outcome) for write in judge(lines()).writes]
    assert told == [
        ("outer", Outcome.UNKNOWN),
        ("middle", Outcome.UNKNOWN),
        ("inner", Outcome.ACCEPTED),
        ("inner", Outcome.REFUSED),
    ]
    with pytest.raises(StaleToken), recorded(ONE, "outer"):
        with recorded(ONE, "inner"):
            pass
        fence.admit(ONE)
    assert judge(lines()).count_writes(Outcome.REFUSED) == 2


def test_an_admission_that_is_rolled_back_was_not_accepted(lines: Lines, tmp_path: Path) -> None:
    """The fence forgets it, and so takes an older token after it: no stale write, and none on file."""
    engine, fence = create_engine(f"sqlite:///{tmp_path / 'db'}"), SQLFence()
    fence.create(engine)
    with pytest.raises(ZeroDivisionError), recorded(TWO, "ledger"), engine.begin() as connection:
        fence.admit(connection, TWO)
        _ = 1 / 0
    with recorded(ONE, "ledger"), engine.begin() as connection:
        fence.admit(connection, ONE)
    engine.dispose()
    report = judge(lines())
    assert report.ok
    assert [write.outcome for write in report.writes] == [Outcome.UNKNOWN, Outcome.ACCEPTED]


def test_writes_around_the_fence_are_found(lines: Lines) -> None:
    for token in (TWO, ONE):
        with recorded(token, "ledger"):
            pass  # nobody looks at the token
    assert [violation.kind.value for violation in judge(lines()).violations] == ["stale"]


def test_blocks_of_tasks_and_threads_are_writes_of_their_own(lines: Lines) -> None:
    async def write() -> None:
        with recorded(ONE, "ledger"):
            await asyncio.sleep(0)

    async def writes() -> None:
        await asyncio.gather(*(write() for _ in range(9)))

    threads = [threading.Thread(target=asyncio.run, args=(writes(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = judge(lines())
    assert report.ok
    assert report.count_writes(Outcome.ACCEPTED) == len(report.writes) == 36


@pytest.mark.parametrize("resource", ["", None, 7])
def test_a_resource_has_a_name(resource: str) -> None:
    with pytest.raises(ConfigError, match="resource"), recorded(ONE, resource):
        pytest.fail("it went on")


def test_a_journal_that_cannot_be_opened_is_told_before_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COORDKIT_JOURNAL", str(tmp_path / "missing" / "journal"))
    with pytest.raises(ConfigError, match="COORDKIT_JOURNAL"), recorded(ONE, "ledger"):
        pytest.fail("it went on")


def test_a_journal_may_be_named_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORDKIT_JOURNAL", raising=False)
    with recorded(ONE, "ledger"):
        pass
    assert not list(tmp_path.iterdir())
    for name in ("one", "two"):
        monkeypatch.setenv("COORDKIT_JOURNAL", str(tmp_path / name))
        with recorded(ONE, "ledger"):
            pass
        assert len(parse((tmp_path / name).read_bytes())[0]) == 2


def descriptors(path: Path) -> int:
    return sum(
        os.path.islink(f"/proc/self/fd/{each}") and os.readlink(f"/proc/self/fd/{each}") == str(path)
        for each in os.listdir("/proc/self/fd")
    )


def test_threads_that_open_it_at_once_leave_one_open(lines: Lines, tmp_path: Path, monkeypatch) -> None:
    together, opened = threading.Barrier(4), os.open

    def open_together(*args: object) -> int:
        found = opened(*args)
        if args[0] == str(tmp_path / "journal"):
            together.wait(60)
        return found

    def write() -> None:
        with recorded(ONE, "ledger"):
            pass

    monkeypatch.setattr(os, "open", open_together)
    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert descriptors(tmp_path / "journal") == 1
    records, _ = parse((tmp_path / "journal").read_bytes())
    assert judge(records).count_writes(Outcome.ACCEPTED) == 4


def fork_and_fork() -> None:
    """In a process of its own: it, its child and its grandchild record."""
    for generation in range(3):
        with recorded(ONE, "ledger"):
            pass
        path = Path(os.environ["COORDKIT_JOURNAL"])
        if descriptors(path) != 1:
            os._exit(1)
        block = recorded(ONE, "ledger")
        if generation == 1:
            block.__enter__()
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(status))
        if generation == 1:
            with recorded(ONE, "ledger"):
                pass
            with open(path.parent / "other", "wb", buffering=0):  # may have the number that was closed
                block.__exit__(None, None, None)
            if (path.parent / "other").stat().st_size:
                os._exit(2)
    os._exit(0)


def test_a_forked_child_closes_what_it_has_of_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Child(fork_and_fork, env={"COORDKIT_JOURNAL": str(path)}) as child:
        assert child.exit_code() == 0, child.errors
    records, cut = parse(path.read_bytes())
    assert cut == 0
    assert len({record["pid"] for record in records}) == 3


def test_a_line_is_one_call_of_the_system(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that processes may share a file, and that recording costs little beside a write over a network."""
    with recorded(ONE, "ledger"):
        pass
    calls: list[bytes] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: calls.append(line) or write(file, line))
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened again"))
    monkeypatch.setattr(os, "fsync", lambda *_: pytest.fail("waits for the disk"))
    with recorded(ONE, "ledger"):
        pass
    assert len(calls) == 2
    assert all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in calls)


# -- a process that is killed ----------------------------------------------------------------------------------------


def write_on_and_on(killed_in_a_write: str) -> None:
    """In a process of its own."""
    for number in range(100_000_000):
        with recorded(ONE, "ledger"):
            if number == 20:
                say("writing")
                if killed_in_a_write == "True":
                    hear()


@pytest.mark.parametrize("in_a_write", [True, False])
def test_kill_9_loses_no_line_and_spoils_none(tmp_path: Path, in_a_write: bool) -> None:
    path = tmp_path / "journal"
    with Child(write_on_and_on, in_a_write, env={"COORDKIT_JOURNAL": str(path)}) as child:
        child.expect("writing")
        child.send(signal.SIGKILL)
        assert child.exit_code() == -signal.SIGKILL
    records, cut = parse(path.read_bytes())
    report = judge(records, cut=cut)
    assert report.ok
    assert cut <= (not in_a_write)  # a long write may be cut at the end of a page
    if in_a_write:
        assert (report.count_writes(Outcome.ACCEPTED), report.count_writes(Outcome.UNKNOWN)) == (20, 1)
    else:
        assert report.count_writes(Outcome.ACCEPTED) >= 20
        assert report.count_writes(Outcome.UNKNOWN) <= 1
