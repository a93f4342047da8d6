"""Processes that write to a fenced ledger: leaders that are paused, and writers that end in the middle.

The rule: a scene does what an application does, with no more than the public API; what happens to it comes from
outside, but for an end in mid-transaction, which it brings about itself to be sure of the moment.
"""

from __future__ import annotations

import json
import os
import random
import signal

from sqlalchemy import create_engine, event, func, select
from sqlalchemy.exc import DBAPIError

from coordkit import BackendError, FencingToken, LeaderElector, LeadershipLost, StaleToken
from tests.support.children import hear, say
from tests.support.sql import FENCE, LEDGER

FORGOTTEN = 10**6  # the token of a transaction that is not to be committed


def leader(election: str, ttl: str, database: str, arguments: str, fence: str, halts: str) -> None:
    """Leads once, halts where it is told to, and writes one row, without looking at its term again.

    `fence`: "fenced", or "bare" for the same program without one. `halts`: "before" its transaction, or "within" it.
    """
    engine = create_engine(database, connect_args=json.loads(arguments))
    fenced = fence == "fenced"
    elector = LeaderElector(election, "e", ttl=float(ttl), fences=[FENCE.bind(engine)] if fenced else [])
    try:
        with elector.lead() as term:
            term.ensure()
            say("leads", term.token.value)
            if halts == "before":
                hear()
            try:
                with engine.begin() as connection:
                    if fenced:
                        FENCE.admit(connection, term.token)
                    if halts == "within":
                        say("admitted")
                        hear()
                    connection.execute(LEDGER.insert().values(token=term.token.value, writer=str(os.getpid())))
                say("wrote", term.token.value)
            except StaleToken as stale:
                say("stale", stale.newest.value)
            except (DBAPIError, BackendError) as error:
                say("failed", type(error).__name__)
            hear()
    except LeadershipLost:
        say("lost")


def writer(database: str, arguments: str, number: str, first: str, last: str, crash: str) -> None:
    """Writes under tokens about the newest it knows of, and says of each what became of it.

    `crash`: the turn in which it ends by SIGKILL, its transaction open; -1: in none.
    """
    engine = create_engine(database, connect_args=json.loads(arguments))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA synchronous=OFF"))
    engine.connect().close()
    seen = 1
    say("ready")
    hear()
    for turn in range(int(first), int(last)):
        chance = random.Random(1000 * int(number) + turn)
        value = max(1, seen + chance.choice([-2, -1, *[0] * 6, 1, 2]))
        name = f"{number}/{turn}"
        dies = turn == int(crash)
        if dies:
            value = FORGOTTEN
        try:
            with engine.begin() as connection:
                if chance.random() < 0.5:
                    connection.execute(select(func.max(LEDGER.c.token))).scalar()
                FENCE.admit(connection, FencingToken("e", value))
                connection.execute(LEDGER.insert().values(token=value, writer=name))
                if dies:
                    say(json.dumps(["crashed", name, value, 0]))
                    os.kill(os.getpid(), signal.SIGKILL)
            seen = max(seen, value)
            say(json.dumps(["written", name, value, 0]))
        except StaleToken as stale:
            seen = stale.newest.value
            say(json.dumps(["stale", name, value, stale.newest.value]))
        except BackendError as error:
            say(json.dumps(["failed", name, value, str(error)]))
    say("done")
