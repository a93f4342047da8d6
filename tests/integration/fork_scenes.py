"""Scenes of forks: a parent that has used coordkit or not, and what its children find.

The rule: a child reports through its exit code or the shared standard output; the parent waits for each by its pid.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable

from coordkit import AsyncLeaderElector, ForkedProcessError, LeaderElector, Session, TermState
from coordkit.model import LossReason
from tests.support.children import hear, say

TTL = 1.5
AT_ONCE = 1.0  # s: on a busy machine; all that could be waited for takes longer


def in_child(play: Callable[[], object]) -> int:
    """Fork; `play` runs in the child, which ends without exit handlers. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            play()
            code = 0
        except BaseException as error:
            say("child-failed", type(error).__name__, error)
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    """The exit code of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def preload(url: str) -> None:
    """Like gunicorn's: the elector is made before the workers are forked, and never used in the parent."""
    elector = LeaderElector(url, "preload", ttl=TTL)

    def work() -> None:
        with elector.lead(timeout=20.0) as term:
            say("led", os.getpid(), int(term.token), term.candidate.id)

    children = [in_child(work) for _ in range(4)]
    say("exits", *(wait(pid) for pid in children))
    work()  # and the parent itself may use it, after all


def refused(call: Callable[[], object]) -> None:
    """`call` raises ForkedProcessError, and at once."""
    started = time.monotonic()
    try:
        call()
    except ForkedProcessError:
        assert time.monotonic() - started < AT_ONCE
        return
    raise AssertionError("not refused")


def open_term(url: str) -> None:
    """The parent leads and forks; the child tries everything with what it has inherited."""
    told: list[str] = []
    session = Session(url)
    elector = LeaderElector(session, "open", ttl=TTL)
    other = LeaderElector(url, "open", ttl=TTL)
    watching = other.observe()
    first = next(watching)
    assert first is None
    term = elector.campaign()
    term.on_lost(lambda _: told.append("lost"))
    mirror = AsyncLeaderElector(session, "mirror", ttl=TTL)
    mirrored = asyncio.run(mirror.campaign())

    def child() -> None:
        assert not term.valid
        assert term.remaining() == 0.0
        assert (term.state, term.reason) == (TermState.LOST, LossReason.FORKED)
        assert elector.term is None
        for call in (
            term.ensure,
            term.confirm,
            term.resign,
            term.wait_ended,
            lambda: term.proclaim("mine"),
            lambda: term.on_lost(print),
            term.__enter__,
            elector.campaign,
            elector.try_campaign,
            elector.leader,
            elector.candidates,
            elector.start,
            elector.observe,
            lambda: elector.run(print),
            session.open,
            session.close,
            lambda: LeaderElector(session, "open", ttl=TTL).campaign(),
            lambda: next(watching),
        ):
            refused(call)
        for asked in (mirrored.confirm, mirrored.resign, mirror.campaign, mirror.leader):
            refused(lambda asked=asked: asyncio.run(asked()))  # type: ignore[misc]
        started = time.monotonic()
        term.__exit__(None, None, None)
        elector.close()
        assert time.monotonic() - started < AT_ONCE
        fresh = LeaderElector(url, "open", ttl=TTL)
        assert fresh.try_campaign() is None  # the parent is alive, and leads
        leader = fresh.leader()
        assert leader is not None
        assert leader.token == term.token
        assert told == []

    say("child", wait(in_child(child)))
    say("ended", term.wait_ended(3 * TTL), told)
    term.confirm()
    term.ensure()
    say("parent", int(term.token))
    term.resign()


def block_across_forks(url: str, how: str) -> None:
    """Children leave the parent's `with` block, each in its own way; the parent goes on to lead."""
    with LeaderElector(url, "block", ttl=TTL).lead() as term:
        say("leads", int(term.token))
        pid = os.fork()
        if pid == 0:
            if how == "sys.exit":
                sys.exit(3)  # unwinds the block and runs the exit handlers
            if how == "os._exit":
                os._exit(3)
            if how == "exception":
                raise RuntimeError("in the child")
            return  # the end of the block
        say("exit", wait(pid))
        say("ended", term.wait_ended(3 * TTL))
        term.confirm()
    say("left")


def _with_an_elector_of_its_own(url: str, number: int, token: int) -> None:
    mine = LeaderElector(url, f"child-{number % 5}", ttl=TTL)
    with mine.lead(timeout=10.0):
        leader = LeaderElector(url, "parent", ttl=TTL).leader()
        if leader is None or int(leader.token) != token:
            sys.exit(4)


def many_forks(url: str, times: str) -> None:
    """multiprocessing forks while the parent renews; each child uses the same file with an elector of its own."""
    told: list[str] = []
    term = LeaderElector(url, "parent", ttl=4.0).campaign()
    term.on_lost(lambda _: told.append("lost"))
    fork = multiprocessing.get_context("fork")
    codes = []
    slowest = 0.0
    for number in range(0, int(times), 2):
        children = []
        for each in (number, number + 1):
            child = fork.Process(target=_with_an_elector_of_its_own, args=(url, each, int(term.token)))
            started = time.monotonic()
            child.start()
            slowest = max(slowest, time.monotonic() - started)
            children.append(child)
        for child in children:
            child.join()
            codes.append(child.exitcode)
    say("codes", *sorted({str(code) for code in codes}), len(codes))
    say("slowest", slowest)
    term.confirm()
    say("parent", told, term.valid)
    term.resign()


def fork_while_busy(url: str, path: str) -> None:
    """The file's thread waits for another process's transaction when the fork comes."""
    told: list[str] = []
    term = LeaderElector(url, "busy", ttl=6.0).campaign()
    term.on_lost(lambda _: told.append("lost"))
    say("leads")
    assert hear() == "locked"  # by the test, in a transaction of its own
    asking = threading.Thread(target=lambda: LeaderElector(url, "another", ttl=6.0).campaign().resign())
    asking.start()  # its attempt is a write, which waits
    time.sleep(0.3)  # the thread is in SQLite now, where nothing could tell us
    started = time.monotonic()

    def child() -> None:
        refused(term.ensure)
        say("child", time.monotonic() - started)
        hear_unlocked()
        # By now the file is free. Ours or refused, but never a hang.
        mine = LeaderElector(url, "child", ttl=6.0)
        with mine.lead(timeout=10.0):
            say("child-led")

    def hear_unlocked() -> None:
        while open_transaction(path):
            time.sleep(0.02)

    pid = in_child(child)
    say("forked", time.monotonic() - started)
    say("exit", wait(pid))
    asking.join()
    say("parent", told, term.valid)
    term.confirm()
    term.resign()


def open_transaction(path: str) -> bool:
    """Whether some process is in a writing transaction."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()
    return False


def prefork_server(url: str) -> None:
    """A master that leads nothing, workers that contend, a worker killed and replaced: as gunicorn would."""
    elector = LeaderElector(url, "server", ttl=TTL)

    def work() -> None:
        with elector.lead() as term:
            say("leads", os.getpid(), int(term.token))
            term.wait_ended()

    workers = {in_child(work) for _ in range(3)}
    while (line := hear()) != "over":
        leader = int(line)
        os.kill(leader, signal.SIGKILL)
        wait(leader)
        workers.remove(leader)
        workers.add(in_child(work))
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        wait(pid)
    say("over")
