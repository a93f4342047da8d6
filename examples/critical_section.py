"""One process of many does the work; when it dies, pauses or is ended, another goes on.

    pip install 'coordkit[sql]'
    python examples/critical_section.py --label one        in one terminal
    python examples/critical_section.py --label two        in another; then kill the one that leads

The work here is a row a second in a database. Every row is written in one transaction with the admission of the
leader's token, so a leader that was paused and does not know it yet cannot write any more.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from sqlalchemy import Engine, create_engine, text

from coordkit import LeaderElector, LeadershipLost, StaleToken, Term
from coordkit.fencing import SQLFence

fence = SQLFence()


def work(term: Term, engine: Engine, label: str, every: float) -> None:
    """The critical section: stops by itself when too little of the lease is left for one more write."""
    while True:
        term.ensure(min_remaining=0.5)  # no I/O; raises LeadershipLost
        with engine.begin() as connection:
            fence.admit(connection, term.token)  # raises StaleToken, and the transaction is rolled back
            connection.execute(
                text("INSERT INTO reports (token, author) VALUES (:token, :author)"),
                {"token": int(term.token), "author": label},
            )
        print(f"{label}: wrote under {term.token}", flush=True)
        term.wait_ended(every)  # a pause that ends early when the term does


def main() -> None:
    folder = Path(tempfile.gettempdir()) / "coordkit-example"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=folder, help="where the database files are")
    parser.add_argument("--url", help="the backend of the election; default: an SQLite file in the folder")
    parser.add_argument("--election", default="examples/reports")
    parser.add_argument("--ttl", type=float, default=5.0)
    parser.add_argument("--label", default="worker")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two writes")
    given = parser.parse_args()

    given.folder.mkdir(exist_ok=True)
    engine = create_engine(f"sqlite:///{given.folder}/reports.db")
    fence.create(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS reports (token INTEGER, author TEXT)"))

    elector = LeaderElector(
        given.url or f"sqlite://{given.folder.absolute()}/election.db",
        given.election,
        ttl=given.ttl,
        label=given.label,
        fences=[fence.bind(engine)],  # a new leader's first act: from then on older tokens are stale
    )

    def end(*_: object) -> None:
        elector.close()
        sys.exit()  # unwinds the block below, which hands over at once

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)

    while True:
        print(f"{given.label}: waiting", flush=True)
        try:
            with elector.lead() as term:
                print(f"{given.label}: leading with {term.token}", flush=True)
                work(term, engine, given.label, given.every)
        except LeadershipLost as lost:
            print(f"{given.label}: {lost}", flush=True)
        except StaleToken as stale:
            print(f"{given.label}: refused: {stale}", flush=True)


if __name__ == "__main__":
    main()
