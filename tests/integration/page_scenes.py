"""A candidate of `test_audit_page`: leads, writes to a table behind a fence, and once more when it leads no longer."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from sqlalchemy import create_engine, text

from coordkit import FencingToken, LeaderElector, LeadershipLost, StaleToken
from coordkit.fencing import SQLFence, recorded
from tests.support.children import say


def write_while_leading(folder: str, label: str, ttl: str) -> None:
    """Until SIGTERM, which hands over."""
    place, fence = Path(folder), SQLFence()
    engine = create_engine(f"sqlite:///{place / 'ledger.db'}")
    fence.create(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS ledger (token INTEGER)"))

    def write(token: FencingToken) -> None:
        with recorded(token, "ledger"), engine.begin() as connection:
            fence.admit(connection, token)
            connection.execute(text("INSERT INTO ledger VALUES (:token)"), {"token": int(token)})

    elector = LeaderElector(f"sqlite://{place / 'election.db'}", "reports/nightly", ttl=float(ttl), label=label)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # unwinds the block, and so hands over
    say("ready")
    while True:
        try:
            with elector.lead() as term:
                term.on_lost(lambda lost: None)
                while not term.wait_ended(0.1):
                    write(term.token)
        except LeadershipLost:
            try:
                write(term.token)  # what a leader does that does not look
            except StaleToken:
                continue
