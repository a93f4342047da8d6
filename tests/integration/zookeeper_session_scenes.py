"""Scenes of processes that lead through one server of ZooKeeper, whose word for everything they have to take.

The rule: a scene tells what it has just learnt, with the moment of it, so that a test can strike just after that.
"""

from __future__ import annotations

import threading

import coordkit
from coordkit import LeaderElector, Session
from coordkit.backends.zookeeper.lifeline import Lifeline
from coordkit.clock import host_boottime
from coordkit.term import Tenure
from tests.support.children import hear, say


def tell_after(kind: type, name: str, word: str) -> None:
    """From now on a line after each call of this method, with the moment."""
    method = getattr(kind, name)

    def tell(self: object, *values: object) -> object:
        answer = method(self, *values)
        say(word, host_boottime())
        return answer

    setattr(kind, name, tell)


def holds(url: str, ttl: str, election: str) -> None:
    """Leads for as long as it may, and tells of each renewal."""
    say("runs", coordkit.__file__)
    elector = LeaderElector(url, election, ttl=float(ttl))
    term = elector.campaign()
    say("leads", host_boottime())
    tell_after(Tenure, "extend", "renewed")
    term.wait_ended()
    hear()


def comes_late(url: str, ttl: str, election: str) -> None:
    """Connects, contends when it is told to, and tells of each write that was committed."""
    say("runs", coordkit.__file__)
    session = Session(url)
    elector = LeaderElector(session, election, ttl=float(ttl))
    session.open()
    tell_after(Lifeline, "committed", "committed")
    say("open")
    hear()
    term = elector.campaign()
    say("leads", host_boottime())
    term.wait_ended()
    hear()


def follows(url: str, ttl: str, *elections: str) -> None:
    """Waits in each of these elections from when its name is told on, and says in which it leads."""

    def lead(election: str) -> None:
        with LeaderElector(url, election, ttl=float(ttl)).lead():
            say("leads", election)
            threading.Event().wait()

    for _ in elections:
        threading.Thread(target=lead, args=(hear(),), daemon=True).start()
    hear()


def serves(url: str, ttl: str, election: str) -> None:
    """Leads again and again, each time for as long as it may."""

    def serve(term: coordkit.Term) -> None:
        say("leads", int(term.token))
        term.wait_ended()
        say("lost", term.reason.value if term.reason else None)

    LeaderElector(url, election, ttl=float(ttl)).run(serve)
    raise AssertionError("a term has ended, and was not lost")
