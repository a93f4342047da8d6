"""Scenes of processes that end: by returning, by SystemExit, by a signal, in a body or in a wait.

The rule: `leads` is said inside the block, so that the test knows when to act.
"""

from __future__ import annotations

import asyncio
import atexit
import signal
import sys
import threading
import time
from types import FrameType

from coordkit import AsyncLeaderElector, ElectorClosed, LeaderElector, LeadershipLost, Term
from tests.support.children import hear, say

kept: list[Term] = []  # what a program has in its globals when it ends
electors: list[LeaderElector] = []


def successor(url: str, ttl: str) -> None:
    """Waits for its turn, says so, and leaves."""
    elector = LeaderElector(url, "e", ttl=float(ttl))
    leader = elector.leader()
    say("follows", "nobody" if leader is None else int(leader.token))
    with elector.lead() as term:
        say("leads", int(term.token))


def last_words(terms: list[Term]) -> None:
    """What the first of `terms` says at exit, after coordkit's own handler: handlers run in reverse order."""

    def speak() -> None:
        reason = terms[0].reason
        say("at-exit", terms[0].valid, reason.value if reason is not None else None)

    atexit.register(speak)


def daemon_body(url: str, ttl: str, attention: str) -> None:
    """A daemon thread leads when the main thread returns: deaf, or asking `ensure` as it should."""
    terms: list[Term] = []
    last_words(terms)
    elector = LeaderElector(url, "e", ttl=float(ttl))
    led = threading.Event()

    def lead() -> None:
        try:
            with elector.lead() as term:
                terms.append(term)
                led.set()
                while True:
                    time.sleep(0.01)
                    if attention == "attentive":
                        term.ensure()
        except LeadershipLost:
            return

    threading.Thread(target=lead, daemon=True).start()
    led.wait()
    say("leads", int(terms[0].token))


def open_term(url: str, ttl: str) -> None:
    """A term won by `campaign` is open at the end, and its owner still has it."""
    last_words(kept)
    kept.append(LeaderElector(url, "e", ttl=float(ttl)).campaign())
    say("leads", int(kept[0].token))


def in_background(url: str, ttl: str) -> None:
    """`start` contends, or has won, when the main thread returns."""
    elector = LeaderElector(url, "e", ttl=float(ttl))
    electors.append(elector)
    elector.start()
    say("started")
    assert hear() == "end"


def ends_in_its_body(url: str, ttl: str, how: str) -> None:
    """Leads until told to end, then ends in that way."""
    with LeaderElector(url, "e", ttl=float(ttl), hold=60.0 if how == "hold" else 0.0).lead() as term:
        say("leads", int(term.token))
        assert hear() == "end"
        if how in ("SystemExit", "hold"):
            sys.exit(7)
        if how == "exception":
            raise RuntimeError("of the body")


def on_sigterm(url: str, ttl: str) -> None:
    """The recipe of the documentation: `close` and `sys.exit`."""
    elector = LeaderElector(url, "e", ttl=float(ttl))

    def leave(_number: int, _frame: FrameType | None) -> None:
        elector.close()
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    say("contends")
    with elector.lead() as term:
        say("leads", int(term.token))
        while True:
            time.sleep(60)


def on_sigterm_async(url: str, ttl: str) -> None:
    """The same for a loop: the handler cancels the task, which unwinds the block."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        say("contends")
        async with AsyncLeaderElector(url, "e", ttl=float(ttl)).lead() as term:
            say("leads", int(term.token))
            await asyncio.sleep(3600)

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        sys.exit(0)


def interrupted(url: str, ttl: str, where: str) -> None:
    """Ctrl-C in a wait or in a body; then the same elector leads again."""
    elector = LeaderElector(url, "e", ttl=float(ttl))
    observer = LeaderElector(url, "e", ttl=float(ttl))
    try:
        if where == "campaign":
            say("waits")
            with elector:
                say("leads")
        elif where == "observe":
            states = observer.observe()
            next(states)
            say("waits")
            next(states)
        elif where == "wait_ended":
            with elector.lead() as term:
                say("waits")
                term.wait_ended()
        elif where == "body":
            with elector.lead():
                say("waits")
                time.sleep(3600)
        elif where == "hold":
            with LeaderElector(url, "e", ttl=float(ttl), hold=3600.0).lead():
                say("waits")
    except KeyboardInterrupt:
        say("interrupted")
    assert hear() == "again"
    with elector.lead(timeout=20.0) as term:
        say("leads", int(term.token))


def uncaught_interrupt(url: str, ttl: str) -> None:
    """Ctrl-C in a wait that nobody catches."""
    say("waits")
    LeaderElector(url, "e", ttl=float(ttl)).campaign()


def closed_while_waiting(url: str, ttl: str) -> None:
    """Another thread closes the elector while this one campaigns; then the process ends."""
    elector = LeaderElector(url, "e", ttl=float(ttl))

    def close() -> None:
        assert hear() == "close"
        elector.close()

    threading.Thread(target=close, daemon=True).start()
    say("waits")
    try:
        elector.campaign()
    except ElectorClosed:
        say("closed")
